#![no_main]

replication_fuzz::target!("log_entry");
