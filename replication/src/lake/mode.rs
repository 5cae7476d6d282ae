//! What a lake table is of its source's table, and the columns that tell so.
//!
//! *System columns* lie below the batches: readers and data files have them
//! after all others, the source's schema and its batches don't. Whoever writes
//! rows says what is in them, and whoever copies rows of files copies them too.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arrow::array::{ArrayRef, BooleanArray, Int64Array, StringArray, TimestampMicrosecondArray};

use super::log::now_ms;
use crate::batch::{CommitPoint, Op};
use crate::config::Mode;
use crate::schema::{LakeType, TableSchema};

/// Whether the row is deleted at the source.
pub const DELETED: &str = "_deleted";
/// When it was, if it is.
pub const DELETED_AT: &str = "_deleted_at";
/// What became of the row: [`COPIED`], [`CREATED`], [`UPDATED`] or [`GONE`].
pub const OP: &str = "_op";
/// How the source's log names the transaction.
pub const POSITION: &str = "_position";
/// When it was committed.
pub const COMMITTED_AT: &str = "_committed_at";
/// The order of a key's rows. No two rows of a table have the same.
pub const SEQUENCE: &str = "_sequence";

pub const COPIED: &str = "r";
pub const CREATED: &str = "c";
pub const UPDATED: &str = "u";
pub const GONE: &str = "d";

impl Mode {
    /// The columns that tables have after the source's.
    pub fn columns(self) -> Vec<(&'static str, LakeType)> {
        match self {
            Mode::Mirror => Vec::new(),
            Mode::SoftDelete => vec![(DELETED, LakeType::Boolean), (DELETED_AT, LakeType::Timestamp)],
            Mode::History => vec![
                (OP, LakeType::String),
                (POSITION, LakeType::String),
                (COMMITTED_AT, LakeType::Timestamp),
                (SEQUENCE, LakeType::Long),
            ],
        }
    }
}

/// What fills the system columns of a table.
#[derive(Clone, Default)]
pub struct System {
    pub mode: Mode,
    /// What the next row of a history gets, whoever writes it.
    next: Arc<AtomicI64>,
}

impl System {
    pub fn new(mode: Mode, next: i64) -> Self {
        let next = Arc::new(AtomicI64::new(next));
        Self { mode, next }
    }

    /// Of rows that live, as far as a copy knows them.
    pub fn copied(&self, rows: usize) -> Vec<ArrayRef> {
        match self.mode {
            Mode::Mirror => Vec::new(),
            Mode::SoftDelete => marks(std::iter::repeat_n(None, rows)),
            Mode::History => self.history((0..rows).map(|_| (COPIED, None)), self.take(rows)),
        }
    }

    /// Of rows that were deleted then.
    pub fn deleted<'a>(&self, points: impl ExactSizeIterator<Item = &'a CommitPoint>) -> Vec<ArrayRef> {
        match self.mode {
            Mode::Mirror => Vec::new(),
            Mode::SoftDelete => marks(points.map(|point| point.at)),
            Mode::History => {
                let sequence = self.take(points.len());
                self.history(points.map(|point| (GONE, Some(point))), sequence)
            }
        }
    }

    /// Of rows of a history.
    pub fn history<'a>(
        &self,
        changes: impl Iterator<Item = (&'static str, Option<&'a CommitPoint>)>,
        sequence: impl Iterator<Item = i64>,
    ) -> Vec<ArrayRef> {
        let (ops, points): (Vec<&str>, Vec<Option<&CommitPoint>>) = changes.unzip();
        let positions: StringArray = points
            .iter()
            .map(|point| point.and_then(|p| p.position.as_deref()))
            .collect();
        let at: TimestampMicrosecondArray = points.iter().map(|point| point.and_then(|p| p.at)).collect();
        vec![
            Arc::new(StringArray::from(ops)),
            Arc::new(positions),
            Arc::new(at.with_timezone("UTC")),
            Arc::new(Int64Array::from_iter_values(sequence)),
        ]
    }

    /// Numbers for so many rows.
    pub fn take(&self, rows: usize) -> std::ops::Range<i64> {
        let rows = rows as i64;
        let first = self.next.fetch_add(rows, Ordering::Relaxed);
        first..first + rows
    }

    /// The number that no row has yet, nor a higher one.
    pub fn next(&self) -> i64 {
        self.next.load(Ordering::Relaxed)
    }
}

/// How a history calls a change.
pub fn shown(op: Op) -> &'static str {
    match op {
        Op::Insert | Op::Move => CREATED,
        Op::Upsert => UPDATED,
        Op::Delete => GONE,
    }
}

/// A column that has the name of one that the lake would add, and what to do.
/// Readers match names whatever their case.
pub fn system_column_of(schema: &TableSchema, mode: Mode) -> Option<(String, String)> {
    let system = mode.columns();
    let is_one = |name: &str| system.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
    let column = schema.columns.iter().find(|column| is_one(&column.name))?;
    let hint = format!(
        "leave the column out (exclude = [{:?}] in a [[table]]), rename it, or set another mode for the table",
        column.name
    );
    Some((column.name.clone(), hint))
}

/// The system columns of rows that live, or were deleted then.
pub fn marks(deleted_at: impl Iterator<Item = Option<i64>>) -> Vec<ArrayRef> {
    let at: TimestampMicrosecondArray = deleted_at.collect();
    let deleted: BooleanArray = at.iter().map(|at| Some(at.is_some())).collect();
    vec![Arc::new(deleted), Arc::new(at.with_timezone("UTC"))]
}

/// Now, in microseconds since 1970.
pub fn now_micros() -> i64 {
    now_ms().saturating_mul(1000)
}
