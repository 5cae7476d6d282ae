#![no_main]

replication_fuzz::target!("key_manifest");
