//! Staging: how a batch or a chunk becomes new files and grown vectors.

use std::collections::{HashMap, HashSet, VecDeque};

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{interleave, interleave_record_batch, take, take_record_batch};
use arrow::error::ArrowError;
use roaring::RoaringBitmap;

use super::data_file::{self, WrittenFile};
use super::indexing::blocking;
use super::key_index::{KeyMap, Location};
use super::net::{self, LakeRow, NetChange, Origin};
use super::record::State;
use super::soft_delete::Gone;
use super::{Chunk, DataFile, DeltaTable, PointReader, UNREADABLE, is_marked, sorted};
use crate::batch::{ChangeBatch, Op, Patches, RowChanges, TxId};
use crate::config::Mode;
use crate::error::{Error, Result};
use crate::key::Key;
use crate::position::Position;

/// Rows written to a file at a time.
pub const WRITE_ROWS: usize = 8 << 10;
/// Keys of a chunk looked up at a time.
const CHUNK_KEYS: usize = 32 << 10;
/// Bytes of unchanged values fetched at a time.
const FETCH_BYTES: u64 = 16 << 20;

/// A row whose unchanged cells have been traced.
pub struct Patch {
    row: u32,
    /// The lake row that has the cells whose origin is the lake.
    pub location: Option<Location>,
    cells: Vec<(u16, Origin)>,
}

impl Patch {
    fn needs_source(&self) -> bool {
        self.cells.iter().any(|(_, origin)| *origin == Origin::Nowhere)
    }
}

/// A row that is told by patches.
pub struct Changed {
    row: u32,
    base: net::Patched,
    /// The patches' numbers, the oldest first.
    patches: Vec<u32>,
}

impl Changed {
    pub fn of(net: &NetChange<'_>, row: u32) -> Self {
        let (base, patches) = net.patched(row);
        Self { row, base, patches }
    }

    pub fn location(&self) -> Option<Location> {
        match self.base {
            net::Patched::Lake(LakeRow { location, .. }) => Some(location),
            _ => None,
        }
    }

    fn changes<'a>(&self, patches: &'a Patches) -> Result<RowChanges<'a>> {
        // What was read at the source just now has them all.
        let own = match self.base {
            net::Patched::Nowhere => &[][..],
            _ => &self.patches,
        };
        let patches = own
            .iter()
            .map(|number| patches.get(*number))
            .collect::<Option<Vec<_>>>();
        Ok(RowChanges {
            patches: patches.ok_or_else(|| Error::bug("a patch that its batch does not have"))?,
            later: matches!(self.base, net::Patched::Lake(LakeRow { provisional: true, .. })),
        })
    }
}

/// What is brought together at a time.
pub(super) enum Slice {
    Cells(Vec<Patch>),
    Rows(Vec<Changed>),
}

/// Rows with every cell resolved, and their keys.
pub(super) struct Patched {
    pub rows: RecordBatch,
    pub keys: Vec<Key>,
    /// The batch's rows that they are.
    pub of: Vec<u32>,
    /// Set if values were read at the source: they may be as new as this.
    pub high: Option<Position>,
    /// The keys that have such values.
    pub provisional: Vec<Key>,
}

/// The position of two that covers the other.
pub(super) fn later(a: Option<Position>, b: Option<Position>) -> Option<Position> {
    match (a, b) {
        (Some(a), Some(b)) if a.covers(&b) => Some(a),
        (a, None) => a,
        (_, b) => b,
    }
}

fn arrow_bug(error: ArrowError) -> Error {
    Error::bug("cannot rearrange rows of a batch").with_source(error)
}

impl DeltaTable {
    /// Stages a batch: its net change per key, nothing visible yet.
    ///
    /// Returns the position that the table has to reach before it equals the
    /// source, if values had to be read there.
    pub async fn stage(&mut self, batch: ChangeBatch, points: &dyn PointReader) -> Result<Option<Position>> {
        let mut high = None;
        for batch in batch.with_earlier() {
            for piece in self.pieces(batch)? {
                high = later(high, self.stage_one(piece, points).await?);
            }
        }
        Ok(high)
    }

    async fn stage_one(&mut self, batch: ChangeBatch, points: &dyn PointReader) -> Result<Option<Position>> {
        self.has_staged = true;
        let mode = self.shape.mode;
        if let Some(transaction) = batch.truncated_by {
            let commit = batch.commits.as_ref().and_then(|commits| commits.truncated_at.as_ref());
            match mode {
                Mode::Mirror => self.truncate(transaction),
                Mode::SoftDelete | Mode::History => self.truncate_softly(transaction, commit).await?,
            }
        }
        if batch.ops.is_empty() {
            return Ok(None);
        }
        let keys = self.encoder.keys(&batch.rows)?;
        let find = |key| {
            let found = self.find(key)?;
            Ok(found.map(|location| LakeRow {
                location,
                provisional: self.is_provisional(key),
            }))
        };
        let traced = batch.unchanged.len() + batch.patches.as_ref().map_or(0, |patches| patches.rows.len());
        let net = blocking(traced, || NetChange::of(&batch, &keys, find))?;
        if mode.is_history() {
            return self.stage_changes(&batch, &keys, &net, points).await;
        }
        let (mut plain, mut patches, mut deletes) = (Vec::new(), Vec::new(), Vec::new());
        let mut changed = Vec::new();
        for row in net.survivors(&keys) {
            match batch.ops[row as usize] {
                Op::Delete => deletes.push(row),
                _ if net.is_patch(row) => changed.push(Changed::of(&net, row)),
                _ if net.is_partial(row) => patches.push(trace(&net, row)),
                _ => plain.push(row),
            }
        }
        // Neighbours in a file are fetched together.
        patches.sort_by_key(|patch| patch.location.map(|l| (l.file(), l.row())));
        changed.sort_by_key(|changed| changed.location().map(|l| (l.file(), l.row())));
        let deleted: Vec<Key> = deletes.iter().map(|row| keys[*row as usize]).collect();
        let found = self.find_all(&deleted)?;
        let gone = match mode {
            Mode::Mirror | Mode::History => Gone::default(),
            Mode::SoftDelete => self.gone(&batch, &net, &keys, &deletes, &found),
        };
        for ((row, key), location) in deletes.into_iter().zip(deleted).zip(found) {
            // A row that is marked dies when it is written anew.
            let dies = location.filter(|_| mode.is_mirror());
            self.delete(key, dies, batch.transactions[row as usize]);
        }
        if plain.is_empty() && patches.is_empty() && changed.is_empty() && gone.is_empty() {
            return Ok(None);
        }
        let mut writer = self.file_format().writer();
        for rows in plain.chunks(WRITE_ROWS) {
            let own: Vec<Key> = rows.iter().map(|row| keys[*row as usize]).collect();
            writer.write(&pick(&batch.rows, rows)?, &own).await?;
        }
        let mut high: Option<Position> = None;
        let mut slices = self.to_resolve(patches, changed);
        while let Some(patched) = self.resolve(&batch, &keys, &mut slices, points).await? {
            writer.write(&patched.rows, &patched.keys).await?;
            if let Some(position) = patched.high {
                self.provisional
                    .extend(patched.provisional.iter().map(|key| (*key, position.clone())));
                high = later(high, Some(position));
            }
        }
        let marked = match gone.is_empty() {
            true => HashSet::new(),
            false => self.write_gone(&mut writer, &batch, &keys, gone).await?,
        };
        for (file, written) in writer.finish().await? {
            self.add_new_versions(file, &written, &marked)?;
        }
        Ok(high)
    }

    /// Stages a snapshot's chunk: its rows but those whose key the table has
    /// already, or that the stream has deleted since. Returns the rows added.
    ///
    /// The stream keeps every key that is in the table current, so a chunk's
    /// row is needed only where the key is missing.
    pub async fn stage_chunk(&mut self, chunk: Chunk) -> Result<u64> {
        self.has_staged = true;
        let emptied = self.truncated_by.iter().any(|transaction| !(chunk.saw)(*transaction));
        let mut added = 0;
        for (mut file, mut keys) in chunk.files {
            let mut dropped = RoaringBitmap::new();
            let mut superseded = Vec::new();
            for (part, keys) in keys.chunks(CHUNK_KEYS).enumerate() {
                let there = self.find_all_any(keys)?;
                let first = (part * CHUNK_KEYS) as u32;
                for (row, (key, there)) in (first..).zip(keys.iter().zip(there)) {
                    let found = there.filter(|location| !is_marked(&self.files, *location));
                    let deleted = self
                        .deleted_keys
                        .get(key)
                        .is_some_and(|transaction| !(chunk.saw)(*transaction));
                    if emptied || deleted || found.is_some() {
                        dropped.insert(row);
                    } else {
                        // It is there again.
                        superseded.extend(there);
                    }
                }
            }
            if self.shape.mode.is_history() && !(dropped.is_empty() && superseded.is_empty()) {
                // Nobody is to see what is not so any more, and what is has the highest number.
                let mut row = 0..;
                keys.retain(|_| row.next().is_none_or(|row| !dropped.contains(row)));
                if keys.is_empty() {
                    continue;
                }
                file = self.without(&file, std::mem::take(&mut dropped)).await?;
            }
            let number = self.place(DataFile::written(file));
            let mut bulk = self.index.bulk()?;
            for (row, key) in (0..).zip(&keys) {
                if !dropped.contains(row) {
                    bulk.push(*key, Location::new(number, row))?;
                }
            }
            for marked in superseded {
                self.kill(marked);
            }
            added += keys.len() as u64 - dropped.len();
            if let Some(file) = self.files.get_mut(number as usize) {
                file.dirty = !dropped.is_empty();
                file.deleted = dropped;
            }
            let index = &mut self.index;
            blocking(keys.len(), || index.take(bulk))?;
        }
        self.maintain_index()?;
        self.deleted_keys
            .retain(|_, transaction| !(chunk.all_saw)(*transaction));
        self.truncated_by.retain(|transaction| !(chunk.all_saw)(*transaction));
        self.staged.snapshot_rows += added;
        Ok(added)
    }

    fn delete(&mut self, key: Key, location: Option<Location>, transaction: TxId) {
        if let Some(location) = location {
            self.kill(location);
            self.staged.deletes += 1;
        }
        if self.record.state == State::Snapshotting {
            self.deleted_keys.insert(key, transaction);
        }
    }

    /// Registers a staged file whose row `i` is the new version of `keys[i]`.
    /// `marked` are those that are deleted.
    pub(super) fn add_new_versions(&mut self, file: WrittenFile, keys: &[Key], marked: &HashSet<Key>) -> Result<()> {
        let rows = (0_u32..).zip(keys).filter(|(_, key)| marked.contains(*key));
        let marked: RoaringBitmap = rows.map(|(row, _)| row).collect();
        // In key order, look-ups and bits touch neighbouring memory.
        let mut ordered = keys.to_vec();
        ordered.sort_unstable();
        for old in self.find_all_any(&ordered)?.into_iter().flatten() {
            self.kill(old);
        }
        if !self.deleted_keys.is_empty() {
            for (row, key) in (0_u32..).zip(keys) {
                if !marked.contains(row) {
                    self.deleted_keys.remove(key);
                }
            }
        }
        self.staged.upserts += keys.len() as u64 - marked.len();
        self.staged.deletes += marked.len();
        let number = self.place(DataFile {
            marked,
            ..DataFile::written(file)
        });
        for (row, key) in (0_u32..).zip(keys) {
            self.index.insert(*key, Location::new(number, row))?;
        }
        self.maintain_index()
    }

    fn truncate(&mut self, transaction: TxId) {
        for file in &mut self.files {
            file.removed = true;
        }
        self.index.clear();
        if self.record.state == State::Snapshotting {
            self.deleted_keys = KeyMap::default();
            self.truncated_by.push(transaction);
        }
    }

    /// Cuts patches so that what one slice fetches stays within bounds.
    pub(super) fn slices<T>(&self, patches: Vec<T>, location: impl Fn(&T) -> Option<Location>) -> Vec<Vec<T>> {
        let mut slices = Vec::new();
        let mut slice = Vec::new();
        let mut bytes = 0;
        for patch in patches {
            let file = location(&patch).and_then(|l| self.files.get(l.file() as usize));
            // Compressed bytes a row, and a compression of up to four.
            bytes += file.map_or(1024, |f| 4 * f.size as u64 / u64::from(f.rows.max(1)) + 64);
            slice.push(patch);
            if bytes >= FETCH_BYTES || slice.len() >= WRITE_ROWS {
                slices.push(std::mem::take(&mut slice));
                bytes = 0;
            }
        }
        if !slice.is_empty() {
            slices.push(slice);
        }
        slices
    }

    /// What patches and rows that patches tell of are resolved in.
    pub(super) fn to_resolve(&self, patches: Vec<Patch>, changed: Vec<Changed>) -> VecDeque<Slice> {
        let cells = self.slices(patches, |patch| patch.location);
        let rows = self.slices(changed, Changed::location);
        cells
            .into_iter()
            .map(Slice::Cells)
            .chain(rows.into_iter().map(Slice::Rows))
            .collect()
    }

    /// The rows of the next slice, or as many as fit in memory.
    pub(super) async fn resolve(
        &self,
        batch: &ChangeBatch,
        keys: &[Key],
        slices: &mut VecDeque<Slice>,
        points: &dyn PointReader,
    ) -> Result<Option<Patched>> {
        let Some(slice) = slices.pop_front() else {
            return Ok(None);
        };
        let (patched, left) = match slice {
            Slice::Cells(patches) => {
                let (patched, left) = self.patch(batch, keys, patches, points).await?;
                (patched, (!left.is_empty()).then_some(Slice::Cells(left)))
            }
            Slice::Rows(changed) => {
                let (patched, left) = self.apply(batch, keys, changed, points).await?;
                (patched, (!left.is_empty()).then_some(Slice::Rows(left)))
            }
        };
        if let Some(left) = left {
            slices.push_front(left);
        }
        Ok(Some(patched))
    }

    /// Builds whole rows from a batch's rows and the values they left out.
    /// Returns what is left for another time, as many as fit in memory being
    /// read at the source.
    pub(super) async fn patch(
        &self,
        batch: &ChangeBatch,
        keys: &[Key],
        mut patches: Vec<Patch>,
        points: &dyn PointReader,
    ) -> Result<(Patched, Vec<Patch>)> {
        let lake = self.fetch(&patches).await?;
        let missing = |patch: &Patch| patch.needs_source().then_some(patch.row);
        let source = self
            .read_missing(batch, patches.iter().filter_map(missing), points)
            .await?;
        let left = source.take_out(&mut patches, keys, missing);
        let provisional = patches
            .iter()
            .filter(|p| p.needs_source())
            .map(|p| keys[p.row as usize])
            .collect();
        let rows: Vec<u32> = patches.iter().map(|p| p.row).collect();
        let picked = UInt32Array::from(rows.clone());
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.schema.columns.len());
        for (column, array) in batch.rows.columns().iter().enumerate() {
            let touched = patches
                .iter()
                .any(|p| p.cells.iter().any(|(c, _)| usize::from(*c) == column));
            if !touched {
                columns.push(take(array, &picked, None).map_err(arrow_bug)?);
                continue;
            }
            // Array 0 is the batch, then the lake's files, then the source.
            let mut arrays: Vec<&dyn Array> = vec![array.as_ref()];
            let mut file_arrays = HashMap::new();
            for (file, fetched) in &lake {
                if let Some(at) = fetched.columns.iter().position(|c| *c == column) {
                    file_arrays.insert(*file, arrays.len());
                    arrays.push(fetched.batch.column(at).as_ref());
                }
            }
            let source_array = arrays.len();
            if let Some(rows) = &source.rows {
                arrays.push(rows.column(column).as_ref());
            }
            let mut indices = Vec::with_capacity(patches.len());
            for patch in &patches {
                let origin = patch
                    .cells
                    .iter()
                    .find(|(c, _)| usize::from(*c) == column)
                    .map(|(_, o)| *o);
                let index = match origin.unwrap_or(Origin::Batch(patch.row)) {
                    Origin::Batch(row) => Some((0, row as usize)),
                    Origin::Lake(location) => file_arrays.get(&location.file()).copied().zip(
                        lake.get(&location.file())
                            .and_then(|f| f.rows.binary_search(&location.row()).ok()),
                    ),
                    Origin::Nowhere => source
                        .found
                        .get(&keys[patch.row as usize])
                        .map(|row| (source_array, *row)),
                };
                indices.push(index.ok_or_else(|| Error::bug("an unchanged value has no origin"))?);
            }
            columns.push(interleave(&arrays, &indices).map_err(arrow_bug)?);
        }
        let patched = Patched {
            rows: RecordBatch::try_new(self.arrow.clone(), columns).map_err(arrow_bug)?,
            keys: rows.iter().map(|row| keys[*row as usize]).collect(),
            of: rows,
            high: source.high,
            provisional,
        };
        Ok((patched, left))
    }

    /// Applies patches to the rows that they are of. Returns what is left, as
    /// [`DeltaTable::patch`] does.
    pub(super) async fn apply(
        &self,
        batch: &ChangeBatch,
        keys: &[Key],
        mut changed: Vec<Changed>,
        points: &dyn PointReader,
    ) -> Result<(Patched, Vec<Changed>)> {
        let mut left = Vec::new();
        loop {
            let patched = self.apply_to(batch, keys, &mut changed, &mut left, points).await?;
            match patched {
                Ok(patched) => return Ok((patched, left)),
                Err(unsure) => {
                    for row in unsure {
                        changed[row].base = net::Patched::Nowhere;
                    }
                }
            }
        }
    }

    /// Errors: the rows whose patches may mean several things.
    async fn apply_to(
        &self,
        batch: &ChangeBatch,
        keys: &[Key],
        changed: &mut Vec<Changed>,
        left: &mut Vec<Changed>,
        points: &dyn PointReader,
    ) -> Result<Result<Patched, Vec<usize>>> {
        let patches = batch.patches.as_deref();
        let patches = patches.ok_or_else(|| Error::bug("a patch without its batch's patches"))?;
        let lake = self.fetch_whole(changed).await?;
        let missing = |changed: &Changed| (changed.base == net::Patched::Nowhere).then_some(changed.row);
        let source = self
            .read_missing(batch, changed.iter().filter_map(missing), points)
            .await?;
        left.extend(source.take_out(changed, keys, missing));
        // The batch, then the lake's files, then the source.
        let mut batches = vec![&batch.rows];
        let mut numbers = HashMap::new();
        for (file, fetched) in &lake {
            numbers.insert(*file, batches.len());
            batches.push(&fetched.batch);
        }
        let source_number = batches.len();
        batches.extend(&source.rows);
        let mut places = Vec::with_capacity(changed.len());
        for changed in changed.iter() {
            let place = match changed.base {
                net::Patched::Batch(row) => Some((0, row as usize)),
                net::Patched::Lake(LakeRow { location, .. }) => numbers.get(&location.file()).copied().zip(
                    lake.get(&location.file())
                        .and_then(|fetched| fetched.rows.binary_search(&location.row()).ok()),
                ),
                net::Patched::Nowhere => source
                    .found
                    .get(&keys[changed.row as usize])
                    .map(|row| (source_number, *row)),
            };
            places.push(place.ok_or_else(|| Error::bug("a patch has no row to apply to"))?);
        }
        let base = interleave_record_batch(&batches, &places).map_err(arrow_bug)?;
        let changes = changed.iter().map(|changed| changed.changes(patches));
        let changes = changes.collect::<Result<Vec<_>>>()?;
        let key = |changed: &Changed| keys[changed.row as usize];
        // What can't be patched may be read anew, for this table alone.
        let patched = patches.by.apply(&base, &changes).map_err(|e| e.with_code(UNREADABLE))?;
        if !patched.unsure.is_empty() {
            return Ok(Err(patched.unsure));
        }
        Ok(Ok(Patched {
            rows: patched.rows,
            keys: changed.iter().map(key).collect(),
            of: changed.iter().map(|changed| changed.row).collect(),
            high: source.high,
            provisional: changed.iter().filter(|c| missing(c).is_some()).map(key).collect(),
        }))
    }

    /// Reads rows of a batch by their keys at the source.
    async fn read_missing(
        &self,
        batch: &ChangeBatch,
        rows: impl Iterator<Item = u32>,
        points: &dyn PointReader,
    ) -> Result<Missing> {
        let mut rows: Vec<u32> = rows.collect();
        if rows.is_empty() {
            return Ok(Missing::default());
        }
        rows.sort_unstable();
        let key_columns = batch.rows.project(self.encoder.columns()).map_err(arrow_bug)?;
        let read = points.read(pick(&key_columns, &rows)?).await?;
        Ok(Missing {
            found: self.encoder.keys(&read.rows)?.into_iter().zip(0..).collect(),
            waiting: rows.split_off(read.asked.min(rows.len())),
            rows: Some(read.rows),
            high: Some(read.high),
        })
    }

    /// Reads the rows that patches apply to, by file number.
    async fn fetch_whole(&self, changed: &[Changed]) -> Result<HashMap<u32, Fetched>> {
        let locations: Vec<Location> = changed.iter().filter_map(Changed::location).collect();
        self.fetch_locations(&locations).await
    }

    /// Reads whole rows of the lake, by file number.
    pub(super) async fn fetch_locations(&self, locations: &[Location]) -> Result<HashMap<u32, Fetched>> {
        let mut wanted = Wanted::new();
        for location in locations {
            wanted.entry(location.file()).or_default().1.push(location.row());
        }
        for (columns, _) in wanted.values_mut() {
            columns.extend(0..self.schema.columns.len());
        }
        self.read_wanted(wanted).await
    }

    /// Whether the lake's row of a key may have values from the source's future.
    fn is_provisional(&self, key: Key) -> bool {
        self.all_provisional_until.is_some() || self.provisional.contains_key(&key)
    }

    /// Reads what the patches need from the lake's files, by file number.
    async fn fetch(&self, patches: &[Patch]) -> Result<HashMap<u32, Fetched>> {
        let mut wanted = Wanted::new();
        for patch in patches {
            for (column, origin) in &patch.cells {
                if let Origin::Lake(location) = origin {
                    let (columns, rows) = wanted.entry(location.file()).or_default();
                    columns.push(usize::from(*column));
                    rows.push(location.row());
                }
            }
        }
        self.read_wanted(wanted).await
    }

    async fn read_wanted(&self, wanted: Wanted) -> Result<HashMap<u32, Fetched>> {
        let mut fetched = HashMap::new();
        for (number, (columns, mut rows)) in wanted {
            let columns = sorted(&columns);
            rows.sort_unstable();
            rows.dedup();
            let file = self
                .files
                .get(number as usize)
                .ok_or_else(|| Error::bug("the key index names a file that isn't there"))?;
            let batch = data_file::read_rows(&self.log, &file.stored(), &self.columns_schema(&columns)?, &rows).await?;
            fetched.insert(number, Fetched { columns, rows, batch });
        }
        Ok(fetched)
    }
}

/// Columns and rows to read, by file number.
type Wanted = HashMap<u32, (Vec<usize>, Vec<u32>)>;

/// Rows that were read at the source because the lake doesn't have them.
#[derive(Default)]
struct Missing {
    rows: Option<RecordBatch>,
    /// Where a key's row is.
    found: KeyMap<usize>,
    /// The rows may be as new as this.
    high: Option<Position>,
    /// Rows of the batch whose keys were not looked for, ascending.
    waiting: Vec<u32>,
}

impl Missing {
    /// Takes those out that wait, and returns them; `missing` is the row of one
    /// that the source was asked for. One whose row is gone at the source is
    /// gone: its delete follows in the stream, before the table is taken for
    /// equal.
    fn take_out<T>(&self, all: &mut Vec<T>, keys: &[Key], missing: impl Fn(&T) -> Option<u32>) -> Vec<T> {
        let waits = |one: &mut T| missing(one).is_some_and(|row| self.waiting.binary_search(&row).is_ok());
        let left = all.extract_if(.., waits).collect();
        all.retain(|one| missing(one).is_none_or(|row| self.found.contains_key(&keys[row as usize])));
        left
    }
}

/// Some rows of some columns of one file; both ascending.
pub(super) struct Fetched {
    columns: Vec<usize>,
    pub rows: Vec<u32>,
    pub batch: RecordBatch,
}

pub fn trace(net: &NetChange<'_>, row: u32) -> Patch {
    trace_by(net, row, |column| net.origin(row, column))
}

/// As [`trace`], by what is known of the cells' origins.
pub fn trace_by(net: &NetChange<'_>, row: u32, origin: impl Fn(u16) -> Origin) -> Patch {
    let cells: Vec<(u16, Origin)> = net.unchanged(row).map(|column| (column, origin(column))).collect();
    let location = cells.iter().find_map(|(_, origin)| match origin {
        Origin::Lake(location) => Some(*location),
        _ => None,
    });
    Patch { row, location, cells }
}

/// Some rows of a batch, ascending; a run of neighbours is not copied.
pub fn pick(batch: &RecordBatch, rows: &[u32]) -> Result<RecordBatch> {
    match (rows.first(), rows.last()) {
        (Some(first), Some(last)) if (last - first) as usize + 1 == rows.len() => {
            Ok(batch.slice(*first as usize, rows.len()))
        }
        _ => take_record_batch(batch, &UInt32Array::from(rows.to_vec())).map_err(arrow_bug),
    }
}
