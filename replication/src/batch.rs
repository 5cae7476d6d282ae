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
    /// The row is new at the source. The lake takes it as an upsert: copies may
    /// have it already.
    Insert,
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
    /// For tables of which the lake keeps more than the rows of now.
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

    /// The batch in pieces, each but the first beginning at a row of `cuts`,
    /// which ascend.
    pub fn split(mut self, cuts: &[u32]) -> Vec<Self> {
        let mut pieces = Vec::with_capacity(cuts.len() + 1);
        for cut in cuts.iter().rev() {
            pieces.push(self.split_off(*cut));
        }
        pieces.push(self);
        pieces.reverse();
        pieces
    }

    /// Takes out the rows from one on.
    fn split_off(&mut self, row: u32) -> Self {
        let at = (row as usize).min(self.ops.len());
        let unchanged = self.unchanged.partition_point(|cell| cell.row < row);
        let mut unchanged = self.unchanged.split_off(unchanged);
        unchanged.iter_mut().for_each(|cell| cell.row -= row);
        let rows = self.rows.slice(at, self.ops.len() - at);
        self.rows = self.rows.slice(0, at);
        Self {
            rows,
            ops: self.ops.split_off(at),
            transactions: self.transactions.split_off(at),
            unchanged,
            truncated_by: None,
            patches: self.patches.as_mut().map(|patches| Box::new(patches.split_off(row))),
            commits: self.commits.as_mut().map(|commits| Box::new(commits.split_off(row))),
        }
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
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CommitPoint {
    /// In microseconds since 1970, as far as the log tells times.
    pub at: Option<i64>,
    /// Where it is in the source's log, for tables that keep every change.
    pub position: Option<Arc<str>>,
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

    fn split_off(&mut self, row: u32) -> Self {
        let run = self.runs.partition_point(|(end, _)| *end <= row);
        let mut runs = self.runs[run..].to_vec();
        runs.iter_mut().for_each(|(end, _)| *end -= row);
        self.runs.truncate(run + 1);
        if let Some((end, _)) = self.runs.last_mut() {
            *end = row.min(*end);
        }
        Self {
            runs,
            ..Self::default()
        }
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
    fn split_off(&mut self, row: u32) -> Self {
        let place = self.rows.partition_point(|(patched, _)| *patched < row);
        let start = place.checked_sub(1).map_or(0, |before| self.rows[before].1);
        let mut rows = self.rows.split_off(place);
        for (patched, end) in &mut rows {
            *patched -= row;
            *end -= start;
        }
        Self {
            by: self.by.clone(),
            rows,
            bytes: self.bytes.split_off(start),
        }
    }

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

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};

    use super::*;

    #[derive(Debug)]
    struct NoPatch;

    impl Patch for NoPatch {
        fn apply(&self, base: &RecordBatch, _: &[RowChanges<'_>]) -> Result<Patched> {
            Ok(Patched {
                rows: base.clone(),
                unsure: Vec::new(),
            })
        }
    }

    #[test]
    fn pieces_have_what_the_whole_has() {
        let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
        let point = |at| CommitPoint {
            at: Some(at),
            position: None,
        };
        let patched: Vec<u32> = vec![0, 2, 3, 6];
        for cuts in [&[][..], &[3], &[1, 3, 6], &[2, 4], &[7]] {
            let mut commits = Commits::default();
            for (rows, at) in [(2, 10), (3, 20), (7, 30)] {
                commits.note(rows, true, &point(at));
            }
            let batch = ChangeBatch {
                rows: RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from_iter(0..7))]).expect("rows"),
                ops: vec![Op::Upsert; 7],
                transactions: (0..7).collect(),
                unchanged: [1, 3, 5].map(|row| UnchangedCell { row, column: 0 }).to_vec(),
                truncated_by: Some(9),
                patches: Some(Box::new(Patches {
                    by: Arc::new(NoPatch),
                    rows: patched.iter().zip([2, 3, 3, 7]).map(|(row, end)| (*row, end)).collect(),
                    bytes: b"aabcccc".to_vec(),
                })),
                commits: Some(Box::new(commits)),
            };
            let pieces = batch.split(cuts);
            assert_eq!(pieces.len(), cuts.len() + 1);
            let mut row = 0;
            for (number, piece) in pieces.iter().enumerate() {
                assert_eq!(piece.truncated_by, (number == 0).then_some(9));
                let commits = piece.commits.as_ref().expect("commits");
                assert_eq!(commits.truncated_at.is_some(), number == 0);
                let patches = piece.patches.as_ref().expect("patches");
                for own in 0..piece.ops.len() as u32 {
                    let ids = piece.rows.column(0).as_primitive::<Int64Type>();
                    assert_eq!(ids.value(own as usize), i64::from(row), "{cuts:?}");
                    assert_eq!(piece.transactions[own as usize], TxId::from(row));
                    let at = [10, 10, 20, 30, 30, 30, 30][row as usize];
                    assert_eq!(commits.of(own), Some(&point(at)), "{cuts:?} {row}");
                    let is_unchanged = piece.unchanged.iter().any(|cell| cell.row == own);
                    assert_eq!(is_unchanged, [1, 3, 5].contains(&row), "{cuts:?} {row}");
                    let patch = patches.rows.iter().position(|(patched, _)| *patched == own);
                    let bytes = patch.map(|place| patches.get(place as u32).expect("patch"));
                    let expected = patched.iter().position(|patched| *patched == row);
                    let expected = expected.map(|place| [&b"aa"[..], b"b", b"", b"cccc"][place]);
                    assert_eq!(bytes, expected, "{cuts:?} {row}");
                    row += 1;
                }
            }
            assert_eq!(row, 7);
        }
    }
}
