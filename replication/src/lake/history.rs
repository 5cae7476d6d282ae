//! Histories: tables with a row for every change, and none that ever goes.
//!
//! ```text
//! batch ──► each change, its values traced ──► rows with _op, _position, _committed_at, _sequence
//! chunk ──► rows whose key the table has not (`r`)
//! copy  ──► comes after all that is there, with `d` rows for keys that it lacks
//! ```
//!
//! A key's newest row is the one with the highest `_sequence`, in whichever file
//! it is, so files are compacted as those of any table. To the index, a row that
//! is superseded is dead: [`DataFile::deleted`] has it, in memory and in the
//! index's manifest alone. The log has no vectors, and no row is ever removed.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use roaring::RoaringBitmap;
use serde_json::Value;

use super::data_file::{self, WrittenFile};
use super::indexing::blocking;
use super::key_index::{IndexHome, KeyMap, Location};
use super::log::LiveFile;
use super::merge::{Changed, Patch, WRITE_ROWS, later, trace_by};
use super::mode::{SEQUENCE, shown};
use super::net::{NetChange, Origin};
use super::partition::RowWriter;
use super::record::State;
use super::{DataFile, DeltaTable, INDEX_MEMORY, Opened, PointReader};
use crate::batch::{ChangeBatch, Op};
use crate::error::{Error, Result};
use crate::key::Key;
use crate::position::Position;

/// Changes of a key that are traced together at most.
const CHAIN_MAX: usize = if cfg!(test) { 3 } else { 64 };
/// What a row has without a number, which another program wrote: it is none of a key's.
const FOREIGN: i64 = i64::MIN;

fn arrow_bug(error: ArrowError) -> Error {
    Error::bug("cannot rearrange the rows of a history").with_source(error)
}

/// The rows of a file that begin a run of ascending numbers.
#[derive(Default)]
struct Runs(Vec<(u32, i64)>);

impl Runs {
    fn push(&mut self, row: u32, sequence: i64) {
        if self.0.last().is_none_or(|last| follow(*last, row) != sequence) {
            self.0.push((row, sequence));
        }
    }

    fn at(&self, row: u32) -> i64 {
        let run = self.0.partition_point(|(first, _)| *first <= row);
        let run = run.checked_sub(1).and_then(|run| self.0.get(run));
        run.map_or(FOREIGN, |run| follow(*run, row))
    }
}

/// The number of a row in a run.
fn follow((first, sequence): (u32, i64), row: u32) -> i64 {
    match sequence {
        FOREIGN => FOREIGN,
        _ => sequence + i64::from(row - first),
    }
}

/// What is known of the numbers of files' rows.
struct Sequences {
    /// Of each file, the lowest.
    lows: HashMap<u32, i64>,
    /// All, of files that can't be told apart by their ranges.
    runs: HashMap<u32, Runs>,
}

impl Sequences {
    fn at(&self, location: Location) -> i64 {
        match self.runs.get(&location.file()) {
            Some(runs) => runs.at(location.row()),
            None => self.lows.get(&location.file()).copied().unwrap_or(FOREIGN),
        }
    }
}

/// Changes of a batch by where their values are: the row that has the values,
/// and the row that is the change. They differ where a row is deleted.
#[derive(Default)]
struct Changes {
    whole: Vec<(u32, u32)>,
    partial: Vec<Patch>,
    changed: Vec<Changed>,
    lake: Vec<(Location, u32)>,
    /// Deletes of rows that are among the partial and changed ones.
    deletes_of: HashMap<u32, Vec<u32>>,
}

/// Writes the changes of a batch.
struct ChangeWriter<'a> {
    table: &'a DeltaTable,
    batch: &'a ChangeBatch,
    /// The number of the batch's first row.
    first: i64,
    writer: RowWriter,
}

impl ChangeWriter<'_> {
    /// `changes` are the batch's rows that they are.
    async fn write(&mut self, rows: &RecordBatch, changes: &[u32]) -> Result<()> {
        let commits = self.batch.commits.as_ref();
        let told = changes.iter().map(|change| {
            let point = commits.and_then(|commits| commits.of(*change));
            (shown(self.batch.ops[*change as usize]), point)
        });
        let sequence = changes.iter().map(|change| self.first + i64::from(*change));
        let system = self.table.system.history(told, sequence);
        let numbers: Vec<Key> = changes.iter().map(|change| Key::from(*change)).collect();
        self.writer
            .write(&self.table.with_system(rows, system)?, &numbers)
            .await
    }

    /// Rows with resolved values, each followed by the deletes of it.
    async fn write_resolved(
        &mut self,
        rows: &RecordBatch,
        of: &[u32],
        deletes_of: &mut HashMap<u32, Vec<u32>>,
    ) -> Result<()> {
        let (mut places, mut changes) = (Vec::with_capacity(of.len()), Vec::with_capacity(of.len()));
        for (place, row) in (0_u32..).zip(of) {
            let deletes = deletes_of.remove(row).unwrap_or_default();
            places.extend(std::iter::repeat_n(place, 1 + deletes.len()));
            changes.push(*row);
            changes.extend(deletes);
        }
        if places.len() == of.len() {
            return self.write(rows, &changes).await;
        }
        let rows = take_record_batch(rows, &UInt32Array::from(places)).map_err(arrow_bug)?;
        self.write(&rows, &changes).await
    }

    async fn write_whole(&mut self, changes: &[(u32, u32)]) -> Result<()> {
        for some in changes.chunks(WRITE_ROWS) {
            let (values, changes): (Vec<u32>, Vec<u32>) = some.iter().copied().unzip();
            let rows = take_record_batch(&self.batch.rows, &UInt32Array::from(values)).map_err(arrow_bug)?;
            self.write(&rows, &changes).await?;
        }
        Ok(())
    }
}

impl DeltaTable {
    /// A batch in pieces that have no long chains of patches: in a history, each
    /// row of a chain is one to write.
    pub(super) fn pieces(&self, batch: ChangeBatch) -> Result<Vec<ChangeBatch>> {
        if !self.shape.mode.is_history() || batch.patches.is_none() {
            return Ok(vec![batch]);
        }
        let (mut cuts, mut lengths) = (Vec::new(), KeyMap::<usize>::default());
        for (row, key) in (0_u32..).zip(self.encoder.keys(&batch.rows)?) {
            let length = lengths.entry(key).or_default();
            *length += 1;
            if *length > CHAIN_MAX {
                cuts.push(row);
                lengths.clear();
                lengths.insert(key, 1);
            }
        }
        Ok(batch.split(&cuts))
    }

    /// Stages a batch of a history: every change of it.
    pub(super) async fn stage_changes(
        &mut self,
        batch: &ChangeBatch,
        keys: &[Key],
        net: &NetChange<'_>,
        points: &dyn PointReader,
    ) -> Result<Option<Position>> {
        let Changes {
            mut whole,
            partial,
            changed,
            lake,
            mut deletes_of,
        } = self.changes(batch, keys, net)?;
        let first = self.system.take(keys.len()).start;
        let mut out = ChangeWriter {
            table: self,
            batch,
            first,
            writer: self.file_format().writer(),
        };
        out.write_whole(&whole).await?;
        whole.clear();
        let (mut high, mut provisional) = (None, Vec::new());
        let mut slices = self.to_resolve(partial, changed);
        while let Some(patched) = self.resolve(batch, keys, &mut slices, points).await? {
            out.write_resolved(&patched.rows, &patched.of, &mut deletes_of).await?;
            if let Some(position) = patched.high {
                provisional.extend(patched.provisional.into_iter().map(|key| (key, position.clone())));
                high = later(high, Some(position));
            }
        }
        for some in self.slices(lake, |(location, _)| Some(*location)) {
            let (locations, changes): (Vec<Location>, Vec<u32>) = some.into_iter().unzip();
            out.write(&self.lake_rows(&locations).await?, &changes).await?;
        }
        // Of rows that the source alone had, and has no more, the key is all that is known.
        whole.extend(deletes_of.into_values().flatten().map(|delete| (delete, delete)));
        whole.sort_unstable();
        out.write_whole(&whole).await?;
        let files = out.writer.finish().await?;
        self.take_changes(batch, keys, files)?;
        self.provisional.extend(provisional);
        Ok(high)
    }

    fn changes(&self, batch: &ChangeBatch, keys: &[Key], net: &NetChange<'_>) -> Result<Changes> {
        let mut last: KeyMap<u32> = KeyMap::default();
        let origins = blocking(batch.unchanged.len(), || net.origins());
        let origin = |row, column| origins.get(&(row, column)).copied().unwrap_or(Origin::Nowhere);
        let mut changes = Changes::default();
        let mut in_lake = Vec::new();
        for (row, (key, op)) in (0_u32..).zip(keys.iter().zip(&batch.ops)) {
            let before = last.insert(*key, row);
            if *op != Op::Delete {
                match (net.is_patch(row), net.is_partial(row)) {
                    (true, _) => changes.changed.push(Changed::of(net, row)),
                    (_, true) => changes.partial.push(trace_by(net, row, |column| origin(row, column))),
                    _ => changes.whole.push((row, row)),
                }
                continue;
            }
            match before {
                Some(values) if net.is_patch(values) || net.is_partial(values) => {
                    changes.deletes_of.entry(values).or_default().push(row);
                }
                // Deleted already, it has no values either.
                Some(values) => changes.whole.push((values, row)),
                None => in_lake.push(row),
            }
        }
        let wanted: Vec<Key> = in_lake.iter().map(|row| keys[*row as usize]).collect();
        for (row, found) in in_lake.into_iter().zip(self.find_all(&wanted)?) {
            match found {
                Some(location) => changes.lake.push((location, row)),
                // Not copied yet: its key is all that is known.
                None => changes.whole.push((row, row)),
            }
        }
        // Neighbours in a file are fetched together.
        changes
            .partial
            .sort_by_key(|patch| patch.location.map(|l| (l.file(), l.row())));
        changes
            .changed
            .sort_by_key(|changed| changed.location().map(|l| (l.file(), l.row())));
        changes
            .lake
            .sort_unstable_by_key(|(location, _)| (location.file(), location.row()));
        changes.whole.sort_unstable_by_key(|(_, change)| *change);
        Ok(changes)
    }

    /// Takes in files of changes, each with the batch's rows that its rows are.
    fn take_changes(&mut self, batch: &ChangeBatch, keys: &[Key], files: Vec<(WrittenFile, Vec<Key>)>) -> Result<()> {
        // Of those that were written: what is gone at the source was not.
        let mut newest: KeyMap<u32> = KeyMap::default();
        for change in files.iter().flat_map(|(_, changes)| changes) {
            let change = *change as u32;
            let last = newest.entry(keys[change as usize]).or_default();
            *last = change.max(*last);
        }
        let is_copying = self.record.state == State::Snapshotting;
        for (file, changes) in files {
            let number = self.place(DataFile::written(file));
            let (mut superseded, mut marked) = (RoaringBitmap::new(), RoaringBitmap::new());
            let mut own: Vec<(Key, u32)> = Vec::new();
            for (row, change) in (0_u32..).zip(changes) {
                let change = change as u32;
                let (key, op) = (keys[change as usize], batch.ops[change as usize]);
                match op {
                    Op::Delete => self.staged.deletes += 1,
                    _ => self.staged.upserts += 1,
                }
                if newest.get(&key) != Some(&change) {
                    superseded.insert(row);
                    continue;
                }
                own.push((key, row));
                if op == Op::Delete {
                    marked.insert(row);
                    if is_copying {
                        self.deleted_keys.insert(key, batch.transactions[change as usize]);
                    }
                } else {
                    self.deleted_keys.remove(&key);
                }
            }
            // In key order, look-ups and bits touch neighbouring memory.
            own.sort_unstable_by_key(|(key, _)| *key);
            let own_keys: Vec<Key> = own.iter().map(|(key, _)| *key).collect();
            for before in self.find_all_any(&own_keys)?.into_iter().flatten() {
                self.kill(before);
            }
            if let Some(file) = self.files.get_mut(number as usize) {
                (file.deleted, file.marked) = (superseded, marked);
            }
            for (key, row) in own {
                self.index.insert(key, Location::new(number, row))?;
            }
        }
        self.maintain_index()
    }

    /// Adds the rows of files to the index that are the newest of their keys.
    /// Returns how many rows were read.
    pub(super) async fn index_changes(&mut self, numbers: &[usize]) -> Result<u64> {
        self.read_marks(numbers).await?;
        let mut numbers = numbers.to_vec();
        numbers.sort_by_key(|number| self.range_of(*number).0);
        let sequences = self.sequences_beside(&numbers).await?;
        let (key_schema, order) = self.key_columns()?;
        let mut fields: Vec<_> = key_schema.fields().iter().cloned().collect();
        fields.extend(self.sequence_schema().fields().iter().cloned());
        let columns: SchemaRef = Arc::new(Schema::new(fields));
        let log = self.log.clone();
        let mut read = 0;
        for number in numbers {
            if self.range_of(number).1 < self.record.first_sequence {
                self.supersede(number);
                continue;
            }
            let Some(file) = self.files.get(number) else { continue };
            let (path, size, rows) = (file.path.clone(), file.size as u64, file.rows);
            let stored = data_file::Stored { path: &path, size };
            let (mut row, mut own) = (0_u32, Runs::default());
            data_file::scan(&log, &stored, &columns, |batch| {
                let key_columns: Vec<&ArrayRef> = order.iter().map(|c| batch.column(*c)).collect();
                let keys = self.encoder.keys_of(&key_columns, batch.num_rows())?;
                let sequence = batch.column(batch.num_columns() - 1).as_primitive::<Int64Type>();
                self.index_rows_of(number as u32, row, &keys, sequence, &mut own, &sequences)?;
                row += batch.num_rows() as u32;
                self.maintain_index()
            })
            .await?;
            if row != rows {
                return Err(
                    Error::operator(format!("{path} has {row} rows, but the log says {rows}"))
                        .with_hint(format!("`tributary snapshot {}` copies it anew", self.record.table)),
                );
            }
            read += u64::from(rows);
        }
        Ok(read)
    }

    fn index_rows_of(
        &mut self,
        number: u32,
        first: u32,
        keys: &[Key],
        sequence: &Int64Array,
        own: &mut Runs,
        others: &Sequences,
    ) -> Result<()> {
        let found = self.find_all_any(keys)?;
        let mut here: KeyMap<Location> = KeyMap::default();
        for (at, (key, found)) in keys.iter().zip(found).enumerate() {
            let row = first + at as u32;
            let now = if sequence.is_valid(at) {
                sequence.value(at)
            } else {
                FOREIGN
            };
            own.push(row, now);
            let location = Location::new(number, row);
            if now < self.record.first_sequence {
                self.kill(location);
                continue;
            }
            let before = here.get(key).copied().or(found);
            let of = |before: Location| match before.file() == number {
                true => own.at(before.row()),
                false => others.at(before),
            };
            if before.is_some_and(|before| of(before) > now) {
                self.kill(location);
                continue;
            }
            if let Some(before) = before {
                self.kill(before);
            }
            here.insert(*key, location);
            self.index.insert(*key, location)?;
        }
        Ok(())
    }

    fn sequence_schema(&self) -> SchemaRef {
        let name = self.shape.system_column(SEQUENCE).unwrap_or(SEQUENCE);
        Arc::new(Schema::new(vec![Field::new(name, DataType::Int64, true)]))
    }

    /// The lowest and the highest number of a file's rows.
    fn range_of(&self, number: usize) -> (i64, i64) {
        let name = self.shape.system_column(SEQUENCE).unwrap_or(SEQUENCE);
        let stats = self
            .files
            .get(number)
            .map(|file| file.stats.as_str())
            .unwrap_or_default();
        let stats: Value = serde_json::from_str(stats).unwrap_or_default();
        let bound = |which: &str| stats[which][name].as_i64();
        // Rows without one are another program's, and no key's.
        match (bound("minValues"), bound("maxValues")) {
            (Some(low), Some(high)) => (low, high),
            _ => (i64::MIN, i64::MAX),
        }
    }

    /// The numbers of files' rows; row by row where a file's range overlaps with
    /// that of one of `numbers`.
    async fn sequences_beside(&self, numbers: &[usize]) -> Result<Sequences> {
        let first = self.record.first_sequence;
        let live = (0..self.files.len()).filter(|number| !self.files[*number].removed);
        let ranges: HashMap<usize, (i64, i64)> = live
            .map(|number| (number, self.range_of(number)))
            .filter(|(_, (_, high))| *high >= first)
            .collect();
        let mut new: Vec<(i64, i64, usize)> = numbers
            .iter()
            .filter_map(|number| ranges.get(number).map(|(low, high)| (*low, *high, *number)))
            .collect();
        new.sort_unstable();
        let mut sequences = Sequences {
            lows: ranges.iter().map(|(number, (low, _))| (*number as u32, *low)).collect(),
            runs: HashMap::new(),
        };
        for (number, (low, high)) in ranges {
            let begun = new.partition_point(|(other, ..)| *other <= high);
            let mut beside = new[..begun].iter();
            if beside.any(|(_, end, other)| *end >= low && *other != number) {
                sequences.runs.insert(number as u32, self.read_sequence(number).await?);
            }
        }
        Ok(sequences)
    }

    async fn read_sequence(&self, number: usize) -> Result<Runs> {
        let (mut runs, mut row) = (Runs::default(), 0_u32);
        data_file::scan(
            &self.log,
            &self.files[number].stored(),
            &self.sequence_schema(),
            |batch| {
                for sequence in batch.column(0).as_primitive::<Int64Type>() {
                    runs.push(row, sequence.unwrap_or(FOREIGN));
                    row += 1;
                }
                Ok(())
            },
        )
        .await?;
        Ok(runs)
    }

    /// Notes that each row of a file has a newer one.
    fn supersede(&mut self, number: usize) {
        if let Some(file) = self.files.get_mut(number) {
            file.deleted.insert_range(0..file.rows);
            file.deleted.optimize();
        }
    }

    /// Takes in what another writer's commit adds to a history, and takes away.
    pub(super) async fn take_in_changes(&mut self, gone: &[usize], new: Vec<LiveFile>) -> Result<()> {
        for number in gone {
            self.files[*number] = DataFile::gone();
        }
        let mut numbers = Vec::with_capacity(new.len());
        for add in new {
            let file = DataFile::live(&self.log, add).await?;
            numbers.push(self.place(file) as usize);
        }
        if self.indexed {
            self.index_changes(&numbers).await?;
        }
        Ok(())
    }

    /// Takes in the files of the content that this comes after.
    pub(super) fn continue_with(&mut self, files: Vec<DataFile>) {
        for file in files {
            let number = self.place(file) as usize;
            self.supersede(number);
        }
    }

    /// Of a content, by file, the rows that tell nothing of what lives in it.
    pub(super) async fn not_living(old: &Opened) -> Result<HashMap<String, RoaringBitmap>> {
        let again = Opened::read(old.log.clone(), &old.record.pipeline).await?;
        let again = again.ok_or_else(|| Error::transient(format!("{} is gone", old.record.table)))?;
        let mut table = Self::for_maintenance(again)?;
        table.open_index(&IndexHome::private(INDEX_MEMORY)).await?;
        let files = table.files.into_iter().filter(|file| !file.removed);
        Ok(files.map(|file| (file.path, file.deleted | file.marked)).collect())
    }
}
