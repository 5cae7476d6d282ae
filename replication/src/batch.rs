//! Changes of one table, in Arrow columns: what a source hands to the lake.

use std::fmt::Debug;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;

use crate::error::Result;

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
