#![no_main]

replication_fuzz::target!("extended_json");
