#![no_main]

replication_fuzz::target!("config");
