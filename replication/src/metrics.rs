//! What the pipeline tells about itself while it runs, for progress lines.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::schema::TableId;

/// Shared with whoever shows it; cheap to read, updated a few times a second.
#[derive(Default)]
pub struct Metrics(Mutex<Numbers>);

#[derive(Clone, Default)]
pub struct Numbers {
    /// Tables whose snapshot runs now.
    pub snapshots: BTreeMap<TableId, SnapshotNumbers>,
    /// Log between what the stream has read and what is durable, in bytes.
    pub lag_bytes: u64,
    pub streaming: bool,
    /// Row changes committed since the start.
    pub changes: u64,
}

#[derive(Clone)]
pub struct SnapshotNumbers {
    pub rows: u64,
    /// Rows read in this run, for the rate.
    pub rows_since_start: u64,
    pub started: Instant,
    pub blocks_done: u64,
    pub blocks: u64,
}

impl Metrics {
    pub fn update(&self, change: impl FnOnce(&mut Numbers)) {
        change(&mut self.lock());
    }

    pub fn read(&self) -> Numbers {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Numbers> {
        // Numbers are whole between updates, whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
