//! Changes of one table, in Arrow columns: what a source hands to the lake.

use arrow::record_batch::RecordBatch;

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
}
