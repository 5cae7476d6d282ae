#![doc = include_str!("../ARCHITECTURE.md")]

pub mod batch;
pub mod config;
pub mod error;
pub mod failpoint;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
pub mod key;
pub mod lake;
pub mod metrics;
pub mod partition;
pub mod pipeline;
pub mod position;
pub mod schema;
pub mod source;
mod trace;
pub mod transform;
