#![no_main]

replication_fuzz::target!("deletion_vector");
