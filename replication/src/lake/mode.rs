//! What a lake table is of its source's table, and the columns that tell so.
//!
//! *System columns* lie below the batches: readers and data files have them
//! after all others, the source's schema and its batches don't. Whoever writes
//! rows says what is in them, and whoever copies rows of files copies them too.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, TimestampMicrosecondArray};

use super::log::now_ms;
use crate::config::Mode;
use crate::schema::{LakeType, TableSchema};

/// Whether the row is deleted at the source.
pub const DELETED: &str = "_deleted";
/// When it was, if it is.
pub const DELETED_AT: &str = "_deleted_at";

impl Mode {
    /// The columns that tables have after the source's.
    pub fn columns(self) -> Vec<(&'static str, LakeType)> {
        match self {
            Mode::Mirror => Vec::new(),
            Mode::SoftDelete => vec![(DELETED, LakeType::Boolean), (DELETED_AT, LakeType::Timestamp)],
        }
    }

    /// What they hold for rows that live.
    pub fn alive(self, rows: usize) -> Vec<ArrayRef> {
        match self {
            Mode::Mirror => Vec::new(),
            Mode::SoftDelete => marks(std::iter::repeat_n(None, rows)),
        }
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
