#![doc = include_str!("../ARCHITECTURE.md")]

pub mod batch;
pub mod config;
pub mod error;
pub mod failpoint;
pub mod key;
pub mod lake;
pub mod metrics;
pub mod partition;
pub mod pipeline;
pub mod position;
pub mod schema;
pub mod source;
pub mod transform;
