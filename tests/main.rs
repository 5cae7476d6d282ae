//! The program against real servers, its lake read by others.
//!
//! `tests/run` runs them all and gets what they need. Each test has a database, a pipeline and a lake of its own,
//! and most share a server per kind and version; servers and folders go away with the test binary. What all sources
//! promise is tested on each kind, by the same functions.

// A test fails by panicking.
#![allow(clippy::unwrap_used, clippy::panic)]

/// The program's own words: help, manual pages, completions, version, check, status.
mod cli;
/// Columns that are left out, hashed or masked: nowhere a value that was there before.
mod columns;
/// How the program reaches a server: passwords, TLS.
mod connection;
/// Versions of several tables that belong together.
mod cuts;
/// Health, metrics, the page and its actions.
mod daemon;
/// Deletion vectors stay whole from commit to commit, and no batch is applied twice.
mod deletion_vectors;
/// A standby takes over from its primary.
mod failover;
/// A crash at each place between a write and the one that makes it count.
mod failpoints;
/// The change data feed of tables, folded and read by others.
mod feed;
/// `health`: what it asks, and what it makes of the answer.
mod health;
/// Rows are found by whatever identifies them; values stored out of line; key changes; truncation.
mod identity;
/// A configuration and the least rights, from nothing but a URL.
mod init;
/// The key index on the local disk: kept, lost, damaged and out of date.
mod key_index;
/// Transactions that PostgreSQL sends while they are open.
mod large_transactions;
/// Copies beside a running stream: several readers, kills, throttle, and new content in one switch.
mod live_snapshots;
/// The set of tables changes while the program runs, and what was missed of one is made up for.
mod live_tables;
/// Files stay few, old ones go, and other programs' commits are taken over.
mod maintenance;
/// What a user can get wrong, and what the environment can: a clear error, and nothing lost.
mod misuse;
/// Tables that keep what is deleted at the source.
mod modes;
/// Fields of documents that are left out, hashed or masked: nowhere a value that was there before.
mod mongo_columns;
/// MongoDB's oplog moves on, other sets come, primaries are elected and crash.
mod mongo_gaps;
/// What a user of MongoDB can get wrong, and how the program reaches a set.
mod mongo_misuse;
/// Collections are copied with every type and kind of `_id`, beside changes and through kills.
mod mongo_snapshot;
/// Changes by every operator, transactions, and collections that come and go.
mod mongo_stream;
/// Forms of the binlog: row images, compression, partial documents, transactions of all sizes.
mod mysql_binlog;
/// Changes of columns and tables of MySQL and MariaDB, each kind on its own.
mod mysql_ddl;
/// Logs that are removed, other histories, and other servers, with and without loss.
mod mysql_gaps;
/// What a user of MySQL or MariaDB can get wrong, and how the program reaches them.
mod mysql_misuse;
/// Every type of MySQL and MariaDB, and every form of key, by copy and by stream.
mod mysql_types;
/// A network that fails: connections cut, and silence.
mod network;
/// A lake in a bucket: what holds on disk holds there, through every fault of the store.
mod object_store;
/// What is in `docker/`: keys, variables and metrics that there are.
mod packaging;
/// Tables in partitions by columns that are made of others.
mod partitions;
/// A pause: nothing is read, nothing is lost, and the connection stays.
mod pause;
/// Roots or leaves, some columns, some rows, generated columns: as the publication has them.
mod publication_forms;
/// Every outside reader sees the same rows at every age of a table.
mod readers;
/// Exactly once through kills of the program, loss of its cache, and crashes of the server.
mod recovery;
/// The list of keys: in README, and as a schema for editors.
mod reference;
/// Changes of columns, in order with the data: each kind on its own, and at random together with kills.
mod schema_changes;
/// The first copy: beside changes, and resumed after a kill.
mod snapshot;
/// A standby as the source: the primary is left alone, and promotions and conflicts lose nothing.
mod standby;
/// What takes time, told to an OpenTelemetry collector.
mod traces;
/// Every type, value by value, by copy and by stream.
mod types;
/// `verify` tells equal from different while both sides change.
mod verify;

/// More log at the source than it may keep: told with what holds it, and given up for a stalled table.
mod wal_budget;

/// Servers, the program as a child, and the outside readers.
mod support;
