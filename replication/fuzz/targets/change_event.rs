#![no_main]

replication_fuzz::target!("change_event");
