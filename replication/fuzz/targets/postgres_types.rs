#![no_main]

replication_fuzz::target!("postgres_types");
