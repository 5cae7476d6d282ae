//! The net change of a batch: the last change of each key, and where the
//! values are that the source did not send. Pure.

use std::collections::HashMap;

use super::key_index::{KeyMap, Location};
use crate::batch::{ChangeBatch, Op};
use crate::error::Result;
use crate::key::Key;

/// The row that a row with unchanged cells was before its change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    /// Another row of the batch.
    Row(u32),
    /// A row of the lake, or none.
    Lake(Option<LakeRow>),
}

/// A row of the lake as it is before the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LakeRow {
    pub location: Location,
    /// Whether it has values that were read at the source by its key, and so
    /// perhaps from a later row. They are right for the key once the table
    /// has caught up, but must not go to another key.
    pub provisional: bool,
}

/// Where the value of a cell is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Batch(u32),
    Lake(Location),
    /// Neither here nor in the lake: the source has to be asked.
    Nowhere,
}

pub struct NetChange<'a> {
    batch: &'a ChangeBatch,
    /// The last row of each key.
    last: KeyMap<u32>,
    /// For rows with unchanged cells: their range in `batch.unchanged` and their base.
    partial: HashMap<u32, (usize, usize, Base)>,
    /// By row, the number of its patch; empty if there are none.
    patches: Vec<u32>,
    /// By patch, the row that it applies to.
    bases: Vec<Base>,
}

/// A row that is no patch.
const NO_PATCH: u32 = u32::MAX;

/// The row that patches apply to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patched {
    Batch(u32),
    Lake(LakeRow),
    /// Neither here nor in the lake.
    Nowhere,
}

impl<'a> NetChange<'a> {
    /// `find` looks a key up in the lake as it is before this batch.
    /// Errors: those of `find`.
    pub fn of(batch: &'a ChangeBatch, keys: &[Key], find: impl Fn(Key) -> Result<Option<LakeRow>>) -> Result<Self> {
        let base = |before: Option<u32>, key| {
            let row = before.map(Base::Row);
            row.map_or_else(|| Ok(Base::Lake(find(key)?)), Ok)
        };
        let mut last = KeyMap::with_capacity_and_hasher(keys.len(), Default::default());
        let mut partial = HashMap::new();
        let mut patches = match batch.patches {
            Some(_) => vec![NO_PATCH; keys.len()],
            None => Vec::new(),
        };
        let mut bases = Vec::new();
        let mut patched = batch
            .patches
            .iter()
            .flat_map(|p| &p.rows)
            .map(|(row, _)| *row)
            .peekable();
        let mut cell = 0;
        // What the row before deleted, for a move to look at.
        let mut deleted: Option<(Key, Option<u32>)> = None;
        for (row, (key, op)) in keys.iter().zip(&batch.ops).enumerate() {
            let row = row as u32;
            let start = cell;
            while batch.unchanged.get(cell).is_some_and(|c| c.row == row) {
                cell += 1;
            }
            if cell > start {
                let (source, before) = match (op, deleted) {
                    (Op::Move, Some((old_key, before))) => (old_key, before),
                    _ => (*key, last.get(key).copied()),
                };
                partial.insert(row, (start, cell, base(before, source)?));
            }
            if patched.next_if_eq(&row).is_some() {
                let before = last.get(key).copied();
                patches[row as usize] = bases.len() as u32;
                bases.push(base(before, *key)?);
            }
            let before = last.insert(*key, row);
            deleted = (*op == Op::Delete).then_some((*key, before));
        }
        Ok(Self {
            batch,
            last,
            partial,
            patches,
            bases,
        })
    }

    /// Rows that are the last of their key, in the batch's order.
    pub fn survivors<'b>(&'b self, keys: &'b [Key]) -> impl Iterator<Item = u32> + 'b {
        keys.iter()
            .zip(0_u32..)
            .filter(|(key, row)| self.last.get(key) == Some(row))
            .map(|(_, row)| row)
    }

    /// The unchanged columns of a row.
    pub fn unchanged(&self, row: u32) -> impl Iterator<Item = u16> + '_ {
        let (start, end) = self.partial.get(&row).map_or((0, 0), |(start, end, _)| (*start, *end));
        self.batch
            .unchanged
            .get(start..end)
            .unwrap_or_default()
            .iter()
            .map(|c| c.column)
    }

    pub fn is_partial(&self, row: u32) -> bool {
        self.partial.contains_key(&row)
    }

    pub fn is_patch(&self, row: u32) -> bool {
        self.patch(row).is_some()
    }

    /// The number of a row's patch.
    fn patch(&self, row: u32) -> Option<u32> {
        self.patches
            .get(row as usize)
            .copied()
            .filter(|number| *number != NO_PATCH)
    }

    /// Follows a patch back to the row that it applies to; with the numbers of
    /// all patches from there on, the oldest first.
    pub fn patched(&self, row: u32) -> (Patched, Vec<u32>) {
        let mut row = row;
        let mut patches = Vec::new();
        // Bases are earlier rows, so this ends.
        let base = loop {
            let Some(number) = self.patch(row) else {
                break Patched::Batch(row);
            };
            let bytes = self.batch.patches.as_ref().and_then(|patches| patches.get(number));
            if bytes.is_none_or(<[u8]>::is_empty) {
                break Patched::Nowhere;
            }
            patches.push(number);
            match self.bases[number as usize] {
                Base::Row(before) if self.batch.ops.get(before as usize) != Some(&Op::Delete) => row = before,
                Base::Lake(Some(found)) => break Patched::Lake(found),
                _ => break Patched::Nowhere,
            }
        };
        patches.reverse();
        (base, patches)
    }

    /// [`NetChange::origin`] of every unchanged cell: a long chain of changes of
    /// one row is followed once, not once for each of them.
    pub fn origins(&self) -> HashMap<(u32, u16), Origin> {
        let op = |row: u32| self.batch.ops.get(row as usize);
        let mut rows: Vec<u32> = self.partial.keys().copied().collect();
        rows.sort_unstable();
        // With whether the value must not go to another key.
        let mut found: HashMap<(u32, u16), (Origin, bool)> = HashMap::new();
        for row in rows {
            let base = self.partial.get(&row).map(|(_, _, base)| *base);
            let moved = op(row) == Some(&Op::Move);
            for column in self.unchanged(row) {
                let origin = match base {
                    Some(Base::Row(before)) if op(before) != Some(&Op::Delete) => found
                        .get(&(before, column))
                        .copied()
                        .unwrap_or((Origin::Batch(before), false)),
                    Some(Base::Lake(Some(lake))) => (Origin::Lake(lake.location), lake.provisional),
                    _ => (Origin::Nowhere, false),
                };
                let origin = if moved && origin.1 {
                    (Origin::Nowhere, false)
                } else {
                    origin
                };
                found.insert((row, column), origin);
            }
        }
        found.into_iter().map(|(cell, (origin, _))| (cell, origin)).collect()
    }

    /// Follows a cell back through the batch to its value.
    pub fn origin(&self, row: u32, column: u16) -> Origin {
        let mut row = row;
        let mut moved = false;
        // Bases are earlier rows, so this ends.
        loop {
            if !self.unchanged(row).any(|c| c == column) {
                return Origin::Batch(row);
            }
            let op = |row: u32| self.batch.ops.get(row as usize);
            moved |= op(row) == Some(&Op::Move);
            match self.partial.get(&row).map(|(_, _, base)| *base) {
                Some(Base::Row(before)) if op(before) != Some(&Op::Delete) => row = before,
                Some(Base::Lake(Some(found))) if !(moved && found.provisional) => return Origin::Lake(found.location),
                _ => return Origin::Nowhere,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, RecordBatch};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;
    use crate::batch::UnchangedCell;

    const LAKE_ROW: Location = Location::ZERO;

    /// Each change: op, key, whether its cell of column 1 is unchanged.
    fn check(changes: &[(Op, Key, bool)], survivors: &[u32], origins: &[(u32, Origin)]) {
        let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
        let ids = Int64Array::from_iter_values(changes.iter().map(|c| c.1 as i64));
        let batch = ChangeBatch {
            rows: RecordBatch::try_new(schema, vec![Arc::new(ids)]).expect("batch"),
            ops: changes.iter().map(|c| c.0).collect(),
            transactions: vec![0; changes.len()],
            unchanged: (0_u32..)
                .zip(changes)
                .filter(|(_, c)| c.2)
                .map(|(row, _)| UnchangedCell { row, column: 1 })
                .collect(),
            truncated_by: None,
            patches: None,
            commits: None,
        };
        let keys: Vec<Key> = changes.iter().map(|c| c.1).collect();
        // The lake has keys below 10; key 9 is provisional.
        let net = NetChange::of(&batch, &keys, |key| {
            Ok((key < 10).then_some(LakeRow {
                location: LAKE_ROW,
                provisional: key == 9,
            }))
        })
        .expect("net change");
        assert_eq!(net.survivors(&keys).collect::<Vec<_>>(), survivors);
        for (row, origin) in origins {
            assert_eq!(net.origin(*row, 1), *origin, "row {row}");
        }
        let all = net.origins();
        assert_eq!(all.len(), batch.unchanged.len());
        for ((row, column), origin) in all {
            assert_eq!(net.origin(row, column), origin, "row {row}");
        }
    }

    #[test]
    fn last_change_of_a_key_wins() {
        use Op::{Delete, Upsert};
        check(
            &[(Upsert, 1, false), (Upsert, 2, false), (Delete, 1, false)],
            &[1, 2],
            &[],
        );
    }

    #[test]
    fn unchanged_is_found_in_an_earlier_change_or_in_the_lake() {
        use Op::Upsert;
        let unchanged = [
            (Upsert, 1, false),
            (Upsert, 1, true),
            (Upsert, 1, true),
            (Upsert, 2, true),
        ];
        check(
            &unchanged,
            &[2, 3],
            &[(2, Origin::Batch(0)), (3, Origin::Lake(LAKE_ROW))],
        );
        check(&[(Upsert, 10, true)], &[0], &[(0, Origin::Nowhere)]);
    }

    #[test]
    fn a_moved_row_finds_its_values_under_the_old_key() {
        use Op::{Delete, Move, Upsert};
        check(
            &[(Delete, 1, false), (Move, 20, true)],
            &[0, 1],
            &[(1, Origin::Lake(LAKE_ROW))],
        );
        check(
            &[
                (Upsert, 1, false),
                (Delete, 1, false),
                (Move, 20, true),
                (Delete, 20, false),
                (Move, 1, true),
            ],
            &[3, 4],
            &[(4, Origin::Batch(0))],
        );
    }

    #[test]
    fn provisional_values_stay_with_their_key() {
        use Op::{Delete, Move, Upsert};
        check(&[(Upsert, 9, true)], &[0], &[(0, Origin::Lake(LAKE_ROW))]);
        check(
            &[(Delete, 9, false), (Move, 20, true)],
            &[0, 1],
            &[(1, Origin::Nowhere)],
        );
        let chain = [
            (Upsert, 9, true),
            (Delete, 9, false),
            (Move, 20, true),
            (Upsert, 20, true),
        ];
        check(&chain, &[1, 3], &[(3, Origin::Nowhere)]);
    }

    #[test]
    fn a_deleted_row_has_no_values_to_give() {
        use Op::{Delete, Upsert};
        check(&[(Delete, 1, false), (Upsert, 1, true)], &[1], &[(1, Origin::Nowhere)]);
    }
}
