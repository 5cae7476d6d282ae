//! The sources. Each turns its log into [`crate::batch::ChangeBatch`]es and
//! its tables into chunks, and tells where in its log it is.
//!
//! What every source keeps:
//! - a batch has the changes of one table in commit order, all of its schema;
//! - positions only grow, and a position is told only when every change
//!   before it has been told;
//! - nothing is confirmed to the source that the pipeline did not confirm;
//! - a value that was not sent is marked unchanged, never made up;
//! - a table that can't be decoded stalls alone.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::position::Position;

pub mod postgres;

/// How long a throttled chunk takes.
const CHUNK_SECONDS: u64 = 2;
/// What a chunk reads at least.
const CHUNK_BYTES_MIN: u64 = 256 << 10;

/// Bounds what is read from the source's tables, all readers together.
#[derive(Default)]
pub struct Throttle(Mutex<Bucket>);

#[derive(Default)]
struct Bucket {
    /// In bytes a second; none is no bound.
    limit: Option<u64>,
    /// When what was taken so far is paid for.
    paid: Option<Instant>,
}

impl Throttle {
    pub fn new(limit: Option<u64>) -> Self {
        let throttle = Self::default();
        throttle.set(limit);
        throttle
    }

    pub fn set(&self, limit: Option<u64>) {
        self.lock().limit = limit;
    }

    /// What one of several readers reads in a transaction: `most`, or less, so
    /// that a throttled transaction does not hold back vacuum for long.
    pub fn chunk_bytes(&self, most: u64, readers: usize) -> u64 {
        self.lock().limit.map_or(most, |limit| {
            let share = limit.saturating_mul(CHUNK_SECONDS) / readers.max(1) as u64;
            share.clamp(CHUNK_BYTES_MIN.min(most), most)
        })
    }

    /// Waits until these bytes may have been read.
    pub async fn take(&self, bytes: u64) {
        let pause = {
            let mut bucket = self.lock();
            let Some(limit) = bucket.limit else { return };
            let now = Instant::now();
            let start = bucket.paid.filter(|paid| *paid > now).unwrap_or(now);
            let paid = start + Duration::from_secs_f64(bytes as f64 / limit.max(1) as f64);
            bucket.paid = Some(paid);
            paid - now
        };
        tokio::time::sleep(pause).await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Bucket> {
        // A bucket is whole between changes, whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a stream tells beside the changes it gathers.
#[derive(Debug)]
pub enum SourceEvent {
    /// A transaction begins; its changes follow.
    Begin,
    /// A change of a table was added to its open batch.
    Changed { table: usize },
    /// The transaction is complete up to here.
    Commit { position: Position },
    /// Nothing lies between the last event and here.
    Heartbeat { position: Position, reply_wanted: bool },
    /// A table's columns were described: to be judged before its next change.
    Described { table: usize },
    /// A table can't go on; its open batch is gone, the others are untouched.
    Stalled { table: usize, error: Error },
}
