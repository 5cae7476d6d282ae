//! Changes of one table, in Arrow columns: what a source hands to the lake.

use std::fmt::Debug;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;

use crate::error::Result;
use crate::position::Position;

/// Identifies a source transaction well enough to ask a chunk's snapshot
/// whether it saw it. For PostgreSQL, the 32-bit xid.
pub type TxId = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// The row is like this from here on, whether or not its key existed.
    Upsert,
    /// Only the key columns count.
    Delete,
    /// An upsert under a new key. The row before it in the batch deletes the
    /// old key, and unchanged cells are to be found there.
    Move,
}

/// A cell that the source did not send because its value did not change.
/// The column holds NULL there, which is not the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnchangedCell {
    pub row: u32,
    pub column: u16,
}

/// One row per change, in the source's order. All rows have the table's full
/// schema; `ops` and `transactions` are as long as `rows`.
#[derive(Debug)]
pub struct ChangeBatch {
    pub rows: RecordBatch,
    pub ops: Vec<Op>,
    pub transactions: Vec<TxId>,
    /// Ordered by row.
    pub unchanged: Vec<UnchangedCell>,
    /// Set when the table was emptied before the first row of the batch.
    pub truncated_by: Option<TxId>,
    pub patches: Option<Box<Patches>>,
    /// For tables of which the lake keeps what is deleted.
    pub commits: Option<Box<Commits>>,
}

impl ChangeBatch {
    /// The batch after those before it, the oldest first.
    pub fn with_earlier(mut self) -> Vec<Self> {
        let earlier = self
            .commits
            .as_mut()
            .map(|commits| std::mem::take(&mut commits.earlier));
        let mut all = earlier.unwrap_or_default();
        all.push(self);
        all
    }
}

/// What a log tells beside the changes themselves.
#[derive(Debug, Default)]
pub struct Commits {
    /// By run of rows: the row after its last one, and the commit that brought it.
    pub runs: Vec<(u32, CommitPoint)>,
    /// The commit that emptied the table before the first row.
    pub truncated_at: Option<CommitPoint>,
    /// What was gathered before the table was emptied, the oldest first.
    pub earlier: Vec<ChangeBatch>,
}

/// A commit at the source.
#[derive(Clone, Debug, PartialEq)]
pub struct CommitPoint {
    /// In microseconds since 1970, as far as the log tells times.
    pub at: Option<i64>,
    /// For tables that keep every change.
    pub position: Option<Position>,
}

impl Commits {
    /// Notes the commit of all rows so far that have none. Returns the bytes
    /// that it takes to remember that.
    pub fn note(&mut self, rows: usize, truncated: bool, point: &CommitPoint) -> usize {
        if truncated && self.truncated_at.is_none() {
            self.truncated_at = Some(point.clone());
        }
        let rows = rows as u32;
        match self.runs.last_mut() {
            Some((end, last)) if last == point => *end = rows,
            Some((end, _)) if *end >= rows => {}
            None if rows == 0 => {}
            _ => {
                self.runs.push((rows, point.clone()));
                return size_of::<(u32, CommitPoint)>();
            }
        }
        0
    }

    /// The commit of a row.
    pub fn of(&self, row: u32) -> Option<&CommitPoint> {
        let run = self.runs.partition_point(|(end, _)| *end <= row);
        self.runs.get(run).map(|(_, point)| point)
    }
}

/// Rows of a batch that say how a row changes: only their key counts in its
/// columns.
#[derive(Debug)]
pub struct Patches {
    pub by: Arc<dyn Patch>,
    /// Ordered by row: where the row's patch ends in `bytes`. An empty one says
    /// only that the row has changed: it has to be read at the source.
    pub rows: Vec<(u32, usize)>,
    pub bytes: Vec<u8>,
}

impl Patches {
    /// A patch by its place in `rows`.
    pub fn get(&self, place: u32) -> Option<&[u8]> {
        let place = place as usize;
        let start = place.checked_sub(1).map_or(0, |before| self.rows[before].1);
        self.bytes.get(start..self.rows.get(place)?.1)
    }
}

/// Knows what patches of a table mean.
pub trait Patch: Send + Sync + Debug {
    /// `base` has the rows as they were; `changes` has as many.
    fn apply(&self, base: &RecordBatch, changes: &[RowChanges<'_>]) -> Result<Patched>;
}

/// Rows with their changes.
pub struct Patched {
    pub rows: RecordBatch,
    /// Rows whose changes may mean several things: they have to be read at the
    /// source.
    pub unsure: Vec<usize>,
}

/// How a row changes.
pub struct RowChanges<'a> {
    /// The oldest first.
    pub patches: Vec<&'a [u8]>,
    /// Whether the row may be later than the patches already: applying them
    /// must not fail, and what comes later puts it right.
    pub later: bool,
}
