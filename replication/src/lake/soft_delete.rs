//! Rows that stay when they are deleted at the source: marked, with their last
//! values and the time.
//!
//! ```text
//! delete:   last values (of the batch, else the lake's) ──► a marked row; the one before dies
//! truncate: every row that lives, file by file        ──► marked rows
//! REPLACE:  rows of the old content that the new lacks ──► marked rows, in the same commit
//! ```
//!
//! A marked row is the row of its key as every other: the index has it, and a
//! new version of the key takes its place. To the stream and to chunks it is
//! not there.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, new_null_array};
use arrow::compute::{cast, interleave_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use roaring::RoaringBitmap;
use serde_json::Value;

use super::data_file;
use super::key_index::{KeyMap, Location};
use super::merge::{Changed, Patch, WRITE_ROWS, pick, trace};
use super::mode::{DELETED, DELETED_AT, GONE, OP, marks, now_micros};
use super::net::NetChange;
use super::partition::RowWriter;
use super::record::State;
use super::shape::{delta_type, lake_type};
use super::{DataFile, DeltaTable, Opened, PointRead, PointReader, undeleted};
use crate::batch::{ChangeBatch, CommitPoint, Op, TxId};
use crate::config::Mode;
use crate::error::{Error, Result};
use crate::key::Key;
use crate::position::Position;
use crate::schema::SourceType;
use crate::transform::Form;

/// Files of marked rows are ended once they have so many: their keys are in memory.
const FILE_ROWS: usize = if cfg!(test) { 2 } else { 256 << 10 };

fn arrow_bug(error: ArrowError) -> Error {
    Error::bug("cannot rearrange deleted rows").with_source(error)
}

/// Keys that a batch deletes, and where their last values are.
#[derive(Default)]
pub struct Gone {
    /// When each was deleted, in microseconds since 1970.
    at: KeyMap<i64>,
    /// Where the lake has the row that lives.
    lake: KeyMap<Location>,
    /// The rows of the batch that they were last, by how these are told.
    whole: Vec<u32>,
    partial: Vec<Patch>,
    changed: Vec<Changed>,
}

impl Gone {
    pub fn is_empty(&self) -> bool {
        self.lake.is_empty() && self.whole.is_empty() && self.partial.is_empty() && self.changed.is_empty()
    }

    /// The system columns of rows with these keys.
    fn marks(&self, keys: &[Key]) -> Vec<ArrayRef> {
        marks(keys.iter().map(|key| self.at.get(key).copied()))
    }
}

/// A source that has no row any more.
struct Absent {
    rows: RecordBatch,
    high: Position,
}

impl PointReader for Absent {
    fn read<'a>(&'a self, keys: RecordBatch) -> Pin<Box<dyn Future<Output = Result<PointRead>> + Send + 'a>> {
        let read = PointRead {
            rows: self.rows.clone(),
            asked: keys.num_rows(),
            high: self.high.clone(),
        };
        Box::pin(async move { Ok(read) })
    }
}

/// Of each row that deletes, the row of the batch that had its values before.
fn rows_before(ops: &[Op], keys: &[Key]) -> HashMap<u32, u32> {
    let mut last: KeyMap<u32> = KeyMap::default();
    let mut before = HashMap::new();
    for (row, (key, op)) in (0_u32..).zip(keys.iter().zip(ops)) {
        let earlier = last.insert(*key, row);
        if *op == Op::Delete
            && let Some(earlier) = earlier
        {
            // Deleted twice, it is what it was before the first time.
            let values = match ops[earlier as usize] {
                Op::Delete => before.get(&earlier).copied(),
                _ => Some(earlier),
            };
            before.extend(values.map(|values| (row, values)));
        }
    }
    before
}

impl DeltaTable {
    /// Traces the last values of keys that a batch deletes. `deletes` are its
    /// rows that do, `found` is where the lake has each.
    pub(super) fn gone(
        &self,
        batch: &ChangeBatch,
        net: &NetChange<'_>,
        keys: &[Key],
        deletes: &[u32],
        found: &[Option<Location>],
    ) -> Gone {
        let mut gone = Gone::default();
        if deletes.is_empty() {
            return gone;
        }
        let now = now_micros();
        let before = rows_before(&batch.ops, keys);
        for (delete, found) in deletes.iter().zip(found) {
            let key = keys[*delete as usize];
            let commit = batch.commits.as_ref().and_then(|commits| commits.of(*delete));
            gone.at.insert(key, commit.and_then(|commit| commit.at).unwrap_or(now));
            gone.lake.extend(found.map(|location| (key, location)));
            match before.get(delete) {
                Some(row) if net.is_patch(*row) => gone.changed.push(Changed::of(net, *row)),
                Some(row) if net.is_partial(*row) => gone.partial.push(trace(net, *row)),
                Some(row) => gone.whole.push(*row),
                None => {}
            }
        }
        gone.whole.sort_unstable();
        gone
    }

    /// Writes rows that are gone, with their last values, after what was written
    /// before. Returns their keys.
    ///
    /// What cannot be known any more, for the source alone had it, stays as the
    /// lake has it; where the lake has nothing, nothing is left.
    pub(super) async fn write_gone(
        &self,
        writer: &mut RowWriter,
        batch: &ChangeBatch,
        keys: &[Key],
        mut gone: Gone,
    ) -> Result<HashSet<Key>> {
        let mut done = HashSet::new();
        for rows in gone.whole.chunks(WRITE_ROWS) {
            let now: Vec<Key> = rows.iter().map(|row| keys[*row as usize]).collect();
            let rows = self.with_system(&pick(&batch.rows, rows)?, gone.marks(&now))?;
            writer.write(&rows, &now).await?;
            done.extend(now);
        }
        let absent = Absent {
            rows: RecordBatch::new_empty(self.arrow.clone()),
            high: self.record.watermark.clone(),
        };
        let partial = std::mem::take(&mut gone.partial);
        for patches in self.slices(partial, |patch| patch.location) {
            let (patched, _) = self.patch(batch, keys, patches, &absent).await?;
            let rows = self.with_system(&patched.rows, gone.marks(&patched.keys))?;
            writer.write(&rows, &patched.keys).await?;
            done.extend(patched.keys);
        }
        let changed = std::mem::take(&mut gone.changed);
        for changed in self.slices(changed, Changed::location) {
            let (patched, _) = self.apply(batch, keys, changed, &absent).await?;
            let rows = self.with_system(&patched.rows, gone.marks(&patched.keys))?;
            writer.write(&rows, &patched.keys).await?;
            done.extend(patched.keys);
        }
        let lake = std::mem::take(&mut gone.lake);
        let mut lake: Vec<(Key, Location)> = lake.into_iter().filter(|(key, _)| !done.contains(key)).collect();
        // Neighbours in a file are fetched together.
        lake.sort_unstable_by_key(|(_, location)| (location.file(), location.row()));
        for rows in self.slices(lake, |(_, location)| Some(*location)) {
            let now: Vec<Key> = rows.iter().map(|(key, _)| *key).collect();
            let locations: Vec<Location> = rows.iter().map(|(_, location)| *location).collect();
            let rows = self.with_system(&self.lake_rows(&locations).await?, gone.marks(&now))?;
            writer.write(&rows, &now).await?;
            done.extend(now);
        }
        Ok(done)
    }

    /// Rows together with their system columns.
    pub(super) fn with_system(&self, rows: &RecordBatch, system: Vec<ArrayRef>) -> Result<RecordBatch> {
        let columns = rows.columns().iter().cloned().chain(system).collect();
        RecordBatch::try_new(self.whole_schema.clone(), columns).map_err(arrow_bug)
    }

    /// Rows of the lake, with the columns of batches.
    pub(super) async fn lake_rows(&self, locations: &[Location]) -> Result<RecordBatch> {
        let fetched = self.fetch_locations(locations).await?;
        let mut batches = Vec::with_capacity(fetched.len());
        let mut numbers = HashMap::new();
        for (file, rows) in &fetched {
            numbers.insert(*file, batches.len());
            batches.push(&rows.batch);
        }
        let mut places = Vec::with_capacity(locations.len());
        for location in locations {
            let rows = fetched.get(&location.file());
            let row = rows.and_then(|rows| rows.rows.binary_search(&location.row()).ok());
            let place = numbers.get(&location.file()).copied().zip(row);
            places.push(place.ok_or_else(|| Error::bug("a row of the lake was not read"))?);
        }
        interleave_record_batch(&batches, &places).map_err(arrow_bug)
    }

    /// Marks every row that lives, one file's after the other.
    pub(super) async fn truncate_softly(&mut self, transaction: TxId, point: Option<&CommitPoint>) -> Result<()> {
        let mut point = point.cloned().unwrap_or_default();
        point.at.get_or_insert_with(now_micros);
        let (mut writer, mut gathered) = (self.file_format().writer(), 0);
        for number in 0..self.files.len() {
            let file = &self.files[number];
            let rows = match file.removed {
                true => Vec::new(),
                false => undeleted(file.rows, &(&file.deleted | &file.marked)),
            };
            if rows.is_empty() {
                continue;
            }
            let stored = file.stored();
            let mut stream = data_file::stream_rows(&self.log, &stored, &self.read_schema, &rows).await?;
            let mut read = 0;
            while let Some(batch) = stream.next().await? {
                read += batch.num_rows();
                let deleted = self.system.deleted(std::iter::repeat_n(&point, batch.num_rows()));
                writer.write(&self.with_system(&batch, deleted)?, &[]).await?;
            }
            if read != rows.len() {
                return Err(Error::operator(format!(
                    "{} of {} has fewer rows than the log says",
                    file.path, self.record.table
                ))
                .with_hint(format!(
                    "`tributary snapshot {}` copies the table anew",
                    self.record.table
                )));
            }
            for row in &rows {
                self.kill(Location::new(number as u32, *row));
            }
            self.staged.deletes += rows.len() as u64;
            gathered += rows.len();
            if gathered >= FILE_ROWS {
                self.take_marked(std::mem::replace(&mut writer, self.file_format().writer()))
                    .await?;
                gathered = 0;
            }
        }
        self.take_marked(writer).await?;
        if self.record.state == State::Snapshotting {
            self.deleted_keys = KeyMap::default();
            self.truncated_by.push(transaction);
        }
        Ok(())
    }

    /// Ends files of marked rows and takes them in. Returns their numbers.
    async fn take_marked(&mut self, writer: RowWriter) -> Result<Vec<usize>> {
        let files = writer.finish().await?.into_iter();
        let numbers: Vec<usize> = files
            .map(|(file, _)| self.place(DataFile::written(file)) as usize)
            .collect();
        self.index_rows(&numbers).await?;
        Ok(numbers)
    }

    /// Finds out which rows of files are marked.
    pub(super) async fn read_marks(&mut self, numbers: &[usize]) -> Result<()> {
        let column = |name, ty| Some(Field::new(self.shape.system_column(name)?, ty, true));
        let field = column(DELETED, DataType::Boolean).or_else(|| column(OP, DataType::Utf8));
        let Some(field) = field else {
            return Ok(());
        };
        let columns = Schema::new(vec![field]);
        let columns: SchemaRef = Arc::new(columns);
        let name = |name| self.shape.system_column(name).unwrap_or_default().to_owned();
        let (at, op) = (name(DELETED_AT), name(OP));
        for number in numbers {
            let Some(file) = self.files.get(*number).filter(|file| !file.removed) else {
                continue;
            };
            let stats: Value = serde_json::from_str(&file.stats).unwrap_or_default();
            // Rows that live have no time; rows of a history that do not have another operation.
            let ops = (
                stats["minValues"][op.as_str()].as_str(),
                stats["maxValues"][op.as_str()].as_str(),
            );
            let has_none = matches!(ops, (Some(low), Some(high)) if GONE < low || high < GONE)
                || stats["nullCount"][at.as_str()].as_u64() == Some(u64::from(file.rows));
            if has_none || file.live_rows() == 0 {
                continue;
            }
            let (mut marked, mut row) = (RoaringBitmap::new(), 0);
            data_file::scan(&self.log, &file.stored(), &columns, |batch| {
                let told = batch.column(0);
                for at in 0..told.len() {
                    let is_deleted = match told.as_boolean_opt() {
                        Some(deleted) => deleted.is_valid(at) && deleted.value(at),
                        None => told.is_valid(at) && told.as_string::<i32>().value(at) == GONE,
                    };
                    if is_deleted {
                        marked.insert(row);
                    }
                    row += 1;
                }
                Ok(())
            })
            .await?;
            self.files[*number].marked = marked;
        }
        Ok(())
    }

    /// Writes what the content before had and this has not: it is deleted by
    /// now. Returns the numbers of the files, which no commit has yet.
    pub(super) async fn carry_deleted(&mut self, old: &Opened) -> Result<Vec<usize>> {
        let dead = match self.shape.mode {
            Mode::Mirror => return Ok(Vec::new()),
            Mode::SoftDelete => old
                .files
                .iter()
                .map(|file| (file.path.clone(), file.deleted.clone()))
                .collect(),
            Mode::History => Self::not_living(old).await?,
        };
        let carrier = Carrier::new(self, old, dead);
        let mut numbers = Vec::new();
        let Some(carrier) = carrier else {
            tracing::warn!(table = %self.record.table, "the table has another key now, under which rows that were deleted before can't be kept; older versions have them for maintenance.retention");
            return Ok(numbers);
        };
        let (mut writer, mut known) = (self.file_format().writer(), HashSet::new());
        for file in old.files.iter().filter(|file| file.live_rows() > 0) {
            let mut from = Some(0);
            while let Some(first) = from {
                from = carrier.carry(self, old, file, first, &mut writer, &mut known).await?;
                if known.len() >= FILE_ROWS {
                    let full = std::mem::replace(&mut writer, self.file_format().writer());
                    numbers.extend(self.take_marked(full).await?);
                    known.clear();
                }
            }
        }
        numbers.extend(self.take_marked(writer).await?);
        let rows: u64 = numbers.iter().map(|number| self.files[*number].live_rows()).sum();
        if rows > 0 {
            tracing::info!(table = %self.record.table, rows, "keeping rows that the new content has not: they are deleted");
        }
        Ok(numbers)
    }
}

/// Brings rows of a content that is replaced to the columns of the new one.
struct Carrier {
    /// What to read of old files: the table's columns as they were, then the marks.
    columns: SchemaRef,
    /// Which of them are taken as they are; others are NULL.
    same: Vec<bool>,
    /// Whether a key of the new content names the same row as in the old one.
    comparable: bool,
    /// By file, the rows that there is nothing to keep of.
    dead: HashMap<String, RoaringBitmap>,
    /// When rows went of which nobody saw that.
    now: i64,
}

impl Carrier {
    /// `None` if old rows have no key that new ones could have.
    fn new(table: &DeltaTable, old: &Opened, dead: HashMap<String, RoaringBitmap>) -> Option<Self> {
        let mut fields = Vec::new();
        let mut same = Vec::new();
        let mut comparable = true;
        let remade = old.record.relation != table.record.relation;
        let forms = (old.shape.origin.form.as_ref(), table.shape.origin.form.as_ref());
        for (place, column) in table.schema.columns.iter().enumerate() {
            let own = old.shape.column_before(column, remade);
            let before = own.and_then(|own| Some((own, lake_type(&own.ty)?)));
            let is_same = own.is_some_and(|own| {
                own.ty == delta_type(&column.ty, None) && Form::is_alike(forms, (&own.name, &column.name))
            });
            let is_key = table.schema.key.contains(&place);
            same.push(is_same || is_key);
            if is_key {
                let (own, ty) = before.as_ref()?;
                if !is_same && !is_key_cast(&ty.arrow(), &column.ty.arrow()) {
                    return None;
                }
                // The key of a collection may be written in another way.
                let mongo = |ty: &SourceType| matches!(ty, SourceType::Mongo(_));
                comparable &= own.source == column.source || !mongo(&column.source);
            }
            let (name, ty) = match &before {
                Some((own, ty)) if is_same || is_key => (own.physical.as_str(), ty.arrow()),
                // No column of a file has an empty name.
                _ => ("", column.ty.arrow()),
            };
            fields.push(Field::new(name, ty, true));
        }
        let ty = DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("UTC".into()));
        // A history has no such column: its rows that live have no time.
        let at = old.shape.system_column(DELETED_AT).unwrap_or_default();
        fields.push(Field::new(at, ty, true));
        Some(Self {
            columns: Arc::new(Schema::new(fields)),
            same,
            comparable,
            dead,
            now: now_micros(),
        })
    }

    /// Writes rows of a file, from one on, whose key the table has not, and adds
    /// them to those known. Returns the row to go on at, if there are too many.
    async fn carry(
        &self,
        table: &DeltaTable,
        old: &Opened,
        file: &DataFile,
        from: u32,
        writer: &mut RowWriter,
        known: &mut HashSet<Key>,
    ) -> Result<Option<u32>> {
        let (rows, left) = self.missing(table, old, file, from, known).await?;
        let mut stream = data_file::stream_rows(&old.log, &file.stored(), &self.columns, &rows).await?;
        while let Some(batch) = stream.next().await? {
            let at = batch.column(self.same.len()).as_primitive::<TimestampMicrosecondType>();
            let point = |at: Option<i64>| CommitPoint {
                at: Some(at.unwrap_or(self.now)),
                position: None,
            };
            let points: Vec<CommitPoint> = at.iter().map(point).collect();
            let columns = self.table_columns(table, &batch)?;
            let rows = RecordBatch::try_new(table.arrow.clone(), columns).map_err(arrow_bug)?;
            writer
                .write(&table.with_system(&rows, table.system.deleted(points.iter()))?, &[])
                .await?;
        }
        Ok(left)
    }

    /// The rows of a file to carry, from one on, and the row to go on at.
    async fn missing(
        &self,
        table: &DeltaTable,
        old: &Opened,
        file: &DataFile,
        from: u32,
        known: &mut HashSet<Key>,
    ) -> Result<(Vec<u32>, Option<u32>)> {
        let mut places = table.encoder.columns().to_vec();
        let key_columns = places.len();
        places.push(self.same.len());
        let columns = Arc::new(self.columns.project(&places).map_err(arrow_bug)?);
        let (mut missing, mut row, mut left) = (Vec::new(), 0_u32, None);
        let dead = self.dead.get(&file.path);
        data_file::scan(&old.log, &file.stored(), &columns, |batch| {
            let end = row + batch.num_rows() as u32;
            if left.is_some() || end <= from {
                row = end;
                return Ok(());
            }
            let mut keys = Vec::with_capacity(key_columns);
            for (array, column) in batch.columns().iter().zip(table.encoder.columns()) {
                let ty = table.schema.columns.get(*column).map(|column| column.ty.arrow());
                keys.push(cast(array, &ty.unwrap_or(DataType::Null)).map_err(arrow_bug)?);
            }
            let whole = |at: usize| keys.iter().all(|column| column.is_valid(at));
            let found = table
                .encoder
                .keys_of(&keys.iter().collect::<Vec<_>>(), batch.num_rows())?;
            let there = table.find_all_any(&found)?;
            for (at, (key, there)) in found.into_iter().zip(there).enumerate() {
                let carried =
                    self.comparable || table.shape.mode.is_history() || batch.column(key_columns).is_valid(at);
                let looked_at = row >= from && left.is_none() && dead.is_none_or(|dead| !dead.contains(row));
                row += 1;
                if looked_at && carried && there.is_none() && whole(at) && known.insert(key) {
                    missing.push(row - 1);
                    left = (known.len() >= FILE_ROWS).then_some(row);
                }
            }
            Ok(())
        })
        .await?;
        Ok((missing, left))
    }

    /// Old rows with the table's columns.
    fn table_columns(&self, table: &DeltaTable, batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let columns = batch.columns().iter().zip(&self.same).zip(table.arrow.fields());
        columns
            .map(|((array, same), field)| match same {
                true => cast(array, field.data_type()).map_err(arrow_bug),
                false => Ok(new_null_array(field.data_type(), array.len())),
            })
            .collect()
    }
}

/// Whether the same key can be of both types.
fn is_key_cast(from: &DataType, to: &DataType) -> bool {
    let width = |ty: &DataType| match ty {
        DataType::Int16 => Some(16),
        DataType::Int32 => Some(32),
        DataType::Int64 => Some(64),
        _ => None,
    };
    width(from).is_some_and(|_| width(to).is_some() || *to == DataType::Utf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deleted_row_is_what_it_was_before_its_deletes() {
        use Op::{Delete, Upsert};
        for (changes, expected) in [
            (&[(Upsert, 1), (Delete, 1)][..], &[(1, 0)][..]),
            (&[(Delete, 1)], &[]),
            (&[(Upsert, 1), (Delete, 1), (Delete, 1)], &[(1, 0), (2, 0)]),
            (&[(Upsert, 1), (Upsert, 2), (Upsert, 1), (Delete, 1)], &[(3, 2)]),
            (&[(Delete, 1), (Delete, 1)], &[]),
        ] {
            let (ops, keys): (Vec<Op>, Vec<Key>) = changes.iter().copied().unzip();
            let expected: HashMap<u32, u32> = expected.iter().copied().collect();
            assert_eq!(rows_before(&ops, &keys), expected, "{changes:?}");
        }
    }
}
