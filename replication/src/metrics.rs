//! What the pipeline tells about itself while it runs, for progress lines, for
//! monitoring and for the page.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Class, Error};
use crate::schema::TableId;

/// Shared with whoever shows it; cheap to read, updated a few times a second.
#[derive(Default)]
pub struct Metrics(Mutex<Numbers>);

#[derive(Clone, Default)]
pub struct Numbers {
    /// Tables whose snapshot runs now.
    pub snapshots: BTreeMap<TableId, SnapshotNumbers>,
    /// Log between what the stream has read and what is durable, in bytes, where
    /// positions tell.
    pub lag_bytes: Option<u64>,
    pub streaming: bool,
    /// Row changes committed since the start.
    pub changes: u64,
    pub tables: BTreeMap<TableId, TableNumbers>,
    pub source: Option<SourceNumbers>,
    /// If `source.wal_budget` is set.
    pub budget: Option<BudgetNumbers>,
    /// Since when replication is paused, in microseconds since 1970, if it is.
    pub paused: Option<i64>,
    /// Of a pause: nothing is read, and all that was is in the lake.
    pub at_rest: bool,
    /// Chunks that are being read.
    pub reading: usize,
    /// When the last transaction that was read was committed at the source, in
    /// microseconds since 1970.
    pub committed_at: Option<i64>,
    pub memory: MemoryNumbers,
    /// What large transactions that are open take on the local disk.
    pub spilled_bytes: u64,
    pub errors: ErrorNumbers,
    /// What last kept replication from going on.
    pub last_error: Option<Trouble>,
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

impl SnapshotNumbers {
    /// Rows a second in this run.
    pub fn rate(&self) -> f64 {
        self.rows_since_start as f64 / self.started.elapsed().as_secs_f64().max(0.001)
    }

    /// The share that is copied, by blocks: how many rows are still to come is
    /// not known.
    pub fn share(&self) -> f64 {
        self.blocks_done as f64 / self.blocks.max(1) as f64
    }
}

/// A table that is followed.
#[derive(Clone, Default)]
pub struct TableNumbers {
    /// As in the lake, or "stalled".
    pub state: &'static str,
    /// The version that readers see.
    pub version: Option<u64>,
    pub watermark: String,
    /// Log between what is durable of it and what the stream has read, in bytes,
    /// where positions tell.
    pub lag_bytes: Option<u64>,
    /// When its oldest change was read that is not durable.
    pub pending_since: Option<Instant>,
    pub size: TableSize,
    /// Rows committed since the start.
    pub upserts: u64,
    pub deletes: u64,
    pub snapshot_rows: u64,
    pub commits: Histogram,
    pub trouble: Option<Trouble>,
}

/// How large a table is.
#[derive(Clone, Copy, Debug, Default)]
pub struct TableSize {
    /// Rows that live.
    pub rows: u64,
    /// Data files that have some.
    pub files: u64,
    /// Those of them that have a deletion vector.
    pub vectors: u64,
    /// What its key index and vectors hold in memory.
    pub index_bytes: u64,
}

impl TableNumbers {
    /// How long its oldest change has waited.
    pub fn lag(&self) -> Duration {
        self.pending_since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// The server, as of the last look.
#[derive(Clone, Default)]
pub struct SourceNumbers {
    /// Log that the server keeps for us, in bytes, where it can be told.
    pub retained_bytes: Option<u64>,
    /// Where its log ends.
    pub log_end: String,
}

/// How much log the source may keep for us.
#[derive(Clone)]
pub struct BudgetNumbers {
    /// In bytes.
    pub budget: u64,
    /// What it keeps, as of the last look; `None` if that can't be told.
    pub retained: Option<u64>,
    /// Set while that is more.
    pub over: Option<Overrun>,
}

#[derive(Clone)]
pub struct Overrun {
    pub since: Instant,
    pub held_by: Vec<Holder>,
}

/// What keeps the source's log from going.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

/// Bytes by what holds them.
#[derive(Clone, Copy, Default)]
pub struct MemoryNumbers {
    /// Batches that are being filled.
    pub open: u64,
    /// Batches on their way to the lake.
    pub in_flight: u64,
}

/// Interruptions since the start, by class.
#[derive(Clone, Copy, Default)]
pub struct ErrorNumbers {
    pub transient: u64,
    pub operator: u64,
    pub bug: u64,
}

/// An error as it is shown.
#[derive(Clone)]
pub struct Trouble {
    pub error: String,
    pub hint: Option<String>,
    pub since: Instant,
}

impl Trouble {
    /// As a table's record has it.
    pub fn told(reason: &str) -> Self {
        Self {
            error: reason.to_owned(),
            hint: None,
            since: Instant::now(),
        }
    }

    pub fn of(error: &Error) -> Self {
        let cause = error.cause().map(|cause| format!(": {cause}"));
        Self {
            error: format!("{error}{}", cause.unwrap_or_default()),
            hint: error.hint().map(str::to_owned),
            since: Instant::now(),
        }
    }
}

/// How often something took how long.
#[derive(Clone, Default)]
pub struct Histogram {
    /// By [`Histogram::BOUNDS`], and what took longer.
    counts: [u64; Self::BOUNDS.len() + 1],
    sum: f64,
}

impl Histogram {
    /// Upper bounds in seconds.
    pub const BOUNDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

    pub fn add(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let place = Self::BOUNDS.partition_point(|bound| *bound < seconds);
        self.counts[place] += 1;
        self.sum += seconds;
    }

    /// Each bound with how many took no longer.
    pub fn cumulated(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let bounds = Self::BOUNDS.into_iter().chain([f64::INFINITY]);
        let counts = self.counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        bounds.zip(counts)
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// In seconds.
    pub fn sum(&self) -> f64 {
        self.sum
    }
}

impl Numbers {
    /// Log that the source keeps for us, in bytes, where it can be told.
    pub fn retained_bytes(&self) -> Option<u64> {
        let looked = self.budget.as_ref().and_then(|budget| budget.retained);
        looked.or(self.source.as_ref().and_then(|source| source.retained_bytes))
    }
}

impl Metrics {
    pub fn update(&self, change: impl FnOnce(&mut Numbers)) {
        change(&mut self.lock());
    }

    pub fn read(&self) -> Numbers {
        self.lock().clone()
    }

    /// Notes what keeps replication from going on.
    pub fn note(&self, error: &Error) {
        self.update(|numbers| {
            let errors = &mut numbers.errors;
            match error.class() {
                Class::Transient => errors.transient += 1,
                Class::NeedsOperator => errors.operator += 1,
                Class::Bug => errors.bug += 1,
            }
            numbers.last_error = Some(Trouble::of(error));
        });
    }

    fn lock(&self) -> MutexGuard<'_, Numbers> {
        // Numbers are whole between updates, whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_as_long_as_a_bound_is_within_it() {
        let mut histogram = Histogram::default();
        for ms in [1, 5, 6, 30_000, 40_000] {
            histogram.add(Duration::from_millis(ms));
        }
        let cumulated: Vec<_> = histogram.cumulated().map(|(_, count)| count).collect();
        assert_eq!(cumulated, [2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4, 5]);
        assert_eq!(histogram.count(), 5);
        assert!((histogram.sum() - 70.012).abs() < 1e-9);
    }
}
