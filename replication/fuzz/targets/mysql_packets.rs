#![no_main]

replication_fuzz::target!("mysql_packets");
