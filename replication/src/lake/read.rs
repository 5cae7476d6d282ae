//! The lake's side of `verify`: a table that follows its log, rows found by key
//! and compared with the source's, and the rows that nobody asked for.
//!
//! Nothing here writes. Values are compared by their bytes: NaN equals NaN of
//! the same bits, -0 is not 0, and NULL is not empty.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{interleave, take, take_record_batch};
use arrow::error::ArrowError;
use roaring::RoaringBitmap;
use serde_json::Value;

use super::key_index::Location;
use super::log::LiveFile;
use super::record::TableRecord;
use super::{DataFile, DeltaTable, data_file};
use crate::error::{Error, Result};
use crate::key::Key;

/// Rows whose keys are read at a time.
const KEY_ROWS: usize = 16 << 10;
/// Rows of a file that may be kept as a whole.
const CACHED_ROWS: u32 = 64 << 10;
/// Neighbours that are worth a comparison of their own; shorter runs are
/// gathered first.
const RUN_ROWS: usize = 32;

/// What [`DeltaTable::refresh`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refreshed {
    /// The table is at its newest version.
    Current,
    /// Another content has taken its place, or its columns have changed: open
    /// it again.
    Replaced,
}

/// Rows of the lake that were found at the source, by file number.
#[derive(Default)]
pub struct Seen(Vec<RoaringBitmap>);

impl Seen {
    fn insert(&mut self, file: u32, rows: &[u32]) {
        let file = file as usize;
        if self.0.len() <= file {
            self.0.resize_with(file + 1, RoaringBitmap::new);
        }
        if let Some(seen) = self.0.get_mut(file) {
            seen.extend(rows.iter().copied());
        }
    }
}

/// Whole small files that are asked for again and again: rows that changed at
/// different times lie scattered over them.
pub struct FileCache {
    files: HashMap<u32, Cached>,
    bytes: usize,
    bytes_max: usize,
}

enum Cached {
    /// Read once, and not kept.
    Once,
    Whole(RecordBatch),
}

impl FileCache {
    /// What is in it stays: whoever goes round and round would find nothing
    /// in one that drops what was not used for long.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            files: HashMap::new(),
            bytes: 0,
            bytes_max,
        }
    }

    /// Whether a file is to be read as a whole now.
    fn wants(&mut self, number: u32, rows: u32) -> bool {
        if rows > CACHED_ROWS || self.bytes >= self.bytes_max {
            return false;
        }
        let known = self.files.contains_key(&number);
        self.files.entry(number).or_insert(Cached::Once);
        known
    }

    fn get(&self, number: u32) -> Option<&RecordBatch> {
        match self.files.get(&number)? {
            Cached::Once => None,
            Cached::Whole(rows) => Some(rows),
        }
    }

    fn insert(&mut self, number: u32, rows: RecordBatch) {
        self.bytes += rows.get_array_memory_size();
        self.files.insert(number, Cached::Whole(rows));
    }
}

/// Brings rows to the one form of what they mean, where there are several.
pub type Normal = Arc<dyn Fn(&RecordBatch) -> Result<RecordBatch> + Send + Sync>;

/// A row of some batches: the batch's number and the row's in it.
pub type Place = (usize, usize);

/// Rows of batches that the lake does not have like that.
#[derive(Debug, Default)]
pub struct Mismatch {
    pub missing: Vec<Place>,
    /// Each with the columns that differ.
    pub different: Vec<(Place, Vec<usize>)>,
}

/// Some rows of the lake that were not found at the source.
pub struct Unseen {
    /// The key columns, in key order.
    pub keys: RecordBatch,
    /// The rows that have a key that another row of the table has too.
    pub doubles: Vec<usize>,
}

/// A row of a batch and the lake's row of its key.
#[derive(Clone, Copy)]
struct Pair {
    lake_row: u32,
    batch: u32,
    row: u32,
}

fn arrow_bug(error: ArrowError) -> Error {
    Error::bug("cannot rearrange rows for a comparison").with_source(error)
}

impl DeltaTable {
    /// Takes over what was committed since the table was opened. Reads only
    /// the new log entries, the vectors that changed, and the keys of new files.
    pub async fn refresh(&mut self) -> Result<Refreshed> {
        let mut numbers = None;
        while let Some(actions) = self.log.read(self.version + 1).await? {
            let numbers = numbers.get_or_insert_with(|| self.numbers());
            if self.follow(&actions, numbers).await? == Refreshed::Replaced {
                return Ok(Refreshed::Replaced);
            }
            self.version += 1;
        }
        Ok(Refreshed::Current)
    }

    /// The files by their paths.
    fn numbers(&self) -> HashMap<String, usize> {
        let live = self.files.iter().enumerate().filter(|(_, file)| !file.removed);
        live.map(|(number, file)| (file.path.clone(), number)).collect()
    }

    async fn follow(&mut self, actions: &[Value], numbers: &mut HashMap<String, usize>) -> Result<Refreshed> {
        if actions.iter().any(|action| action["metaData"].is_object()) {
            return Ok(Refreshed::Replaced);
        }
        if let Some(record) = actions
            .iter()
            .find_map(|action| TableRecord::from_action(&action["domainMetadata"]))
        {
            if record.relation != self.record.relation || record.generation != self.record.generation {
                return Ok(Refreshed::Replaced);
            }
            self.record = record;
        }
        let adds: Vec<&Value> = actions.iter().map(|a| &a["add"]).filter(|a| a.is_object()).collect();
        let added: HashSet<&str> = adds.iter().filter_map(|add| add["path"].as_str()).collect();
        for remove in actions.iter().map(|action| &action["remove"]) {
            let path = remove["path"].as_str().unwrap_or_default();
            // A file that is added again only has another vector.
            if !added.contains(path)
                && let Some(number) = numbers.remove(path)
            {
                self.forget(number);
            }
        }
        let table = self.record.table.clone();
        let malformed = || {
            Error::operator(format!("{table} has an add that can't be read")).with_hint(format!(
                "another program wrote it; `tributary snapshot {table}` copies the table anew"
            ))
        };
        let files = adds
            .into_iter()
            .map(LiveFile::of)
            .collect::<Option<Vec<_>>>()
            .ok_or_else(malformed)?;
        let descriptors = files.iter().filter_map(|file| file.deletion_vector.clone());
        let mut vectors = self.log.vectors(descriptors.collect()).await?.into_iter();
        let mut new = Vec::new();
        for mut add in files {
            if add.deletion_vector.is_some() {
                add.deleted = vectors.next().unwrap_or_default();
            }
            if let Some(file) = numbers.get(&add.path).and_then(|number| self.files.get_mut(*number)) {
                if file.deleted.is_subset(&add.deleted) {
                    file.deleted = add.deleted;
                    file.vector = add.deletion_vector;
                    continue;
                }
                // Rows came back: as good as another file.
                if let Some(number) = numbers.remove(&add.path) {
                    self.forget(number);
                }
            }
            let number = self.files.len();
            numbers.insert(add.path.clone(), number);
            self.files.push(DataFile::live(&self.log, add).await?);
            new.push(number);
        }
        self.index_files(&new).await?;
        Ok(Refreshed::Current)
    }

    fn forget(&mut self, number: usize) {
        if let Some(file) = self.files.get_mut(number) {
            file.removed = true;
            file.deleted = RoaringBitmap::new();
        }
    }

    /// Where the row of a key is. Another version of the row is elsewhere.
    pub fn locate(&self, key: Key) -> Result<Option<Location>> {
        self.find(key)
    }

    /// Numbers of the files so far; later ones are higher.
    pub fn file_numbers(&self) -> std::ops::Range<usize> {
        0..self.files.len()
    }

    /// Compares rows of the source with the lake's rows of their keys.
    pub async fn compare(
        &self,
        batches: &[RecordBatch],
        normal: Option<&Normal>,
        mut seen: Option<&mut Seen>,
        cache: &mut FileCache,
    ) -> Result<Mismatch> {
        let mut mismatch = Mismatch::default();
        let mut files: BTreeMap<u32, Vec<Pair>> = BTreeMap::new();
        for (number, batch) in batches.iter().enumerate() {
            let found = self.find_all(&self.encoder.keys(batch)?)?;
            for (row, found) in found.into_iter().enumerate() {
                match found {
                    Some(location) => files.entry(location.file()).or_default().push(Pair {
                        lake_row: location.row(),
                        batch: number as u32,
                        row: row as u32,
                    }),
                    None => mismatch.missing.push((number, row)),
                }
            }
        }
        let batches = match normal {
            Some(normal) => Cow::Owned(batches.iter().map(|batch| normal(batch)).collect::<Result<Vec<_>>>()?),
            None => Cow::Borrowed(batches),
        };
        let different = |lake: RecordBatch, rows: &[u32], pairs: &[Pair]| match normal {
            Some(normal) => different(&normal(&lake)?, rows, &batches, pairs),
            None => different(&lake, rows, &batches, pairs),
        };
        for (number, mut pairs) in files {
            if !pairs.is_sorted_by_key(|pair| pair.lake_row) {
                pairs.sort_unstable_by_key(|pair| pair.lake_row);
            }
            let mut rows: Vec<u32> = pairs.iter().map(|pair| pair.lake_row).collect();
            rows.dedup();
            if let Some(seen) = seen.as_deref_mut() {
                seen.insert(number, &rows);
            }
            let file = self
                .files
                .get(number as usize)
                .ok_or_else(|| Error::bug("the key index names a file that isn't there"))?;
            if cache.get(number).is_none() && cache.wants(number, file.rows) {
                let rows: Vec<u32> = (0..file.rows).collect();
                let whole = data_file::read_rows(&self.log, &file.stored(), &self.read_schema, &rows).await?;
                cache.insert(number, whole);
            }
            if let Some(whole) = cache.get(number) {
                let lake = take_record_batch(whole, &UInt32Array::from(rows.clone())).map_err(arrow_bug)?;
                mismatch.different.extend(different(lake, &rows, &pairs)?);
                continue;
            }
            let (mut done, mut rest) = (0, pairs.as_slice());
            data_file::scan_rows(&self.log, &file.stored(), &self.read_schema, &rows, |lake| {
                let rows_read = rows.get(done..done + lake.num_rows()).unwrap_or_default();
                done += lake.num_rows();
                let last = rows_read.last().copied().unwrap_or_default();
                let (now, later) = rest.split_at(rest.partition_point(|pair| pair.lake_row <= last));
                rest = later;
                mismatch.different.extend(different(lake, rows_read, now)?);
                Ok(())
            })
            .await?;
            if done != rows.len() {
                let table = &self.record.table;
                return Err(
                    Error::operator(format!("{} of {table} has fewer rows than the log says", file.path))
                        .with_hint(format!("`tributary snapshot {table}` copies the table anew")),
                );
            }
        }
        mismatch.different.sort_unstable_by_key(|(at, _)| *at);
        Ok(mismatch)
    }

    /// The live rows of a file that are not among those seen, by their keys,
    /// some at a time. `chosen` picks a sample of them.
    pub async fn unseen(
        &mut self,
        number: usize,
        seen: &Seen,
        chosen: impl Fn(u64) -> bool,
        from: &mut u32,
    ) -> Result<Option<Unseen>> {
        let Some(file) = self.files.get(number).filter(|file| !file.removed) else {
            return Ok(None);
        };
        let nothing = RoaringBitmap::new();
        let seen = seen.0.get(number).unwrap_or(&nothing);
        let mut rows = RoaringBitmap::new();
        rows.insert_range(*from..file.rows);
        rows -= &file.deleted;
        rows -= &file.marked;
        rows -= seen;
        let rows: Vec<u32> = rows
            .iter()
            .filter(|row| chosen((number as u64) << 32 | u64::from(*row)))
            .take(KEY_ROWS)
            .collect();
        let Some(last) = rows.last() else { return Ok(None) };
        *from = last + 1;
        let (columns, order) = self.key_columns()?;
        let read = data_file::read_rows(&self.log, &file.stored(), &columns, &rows).await?;
        let schema = self.arrow.project(self.encoder.columns()).map_err(arrow_bug)?;
        let key_columns: Vec<ArrayRef> = order.iter().map(|place| read.column(*place).clone()).collect();
        let keys = self
            .encoder
            .keys_of(&key_columns.iter().collect::<Vec<_>>(), rows.len())?;
        let mut doubles = Vec::new();
        let found = self.find_all(&keys)?;
        for (i, ((key, row), found)) in keys.into_iter().zip(rows).zip(found).enumerate() {
            let location = Location::new(number as u32, row);
            match found {
                Some(found) if found == location => {}
                Some(_) => doubles.push(i),
                // The index had forgotten it for a newer row of its key.
                None => match self.find(key)? {
                    None => self.index.insert(key, location)?,
                    Some(_) => doubles.push(i),
                },
            }
        }
        let keys = RecordBatch::try_new(schema.into(), key_columns).map_err(arrow_bug)?;
        Ok(Some(Unseen { keys, doubles }))
    }
}

/// Compares lake rows with the rows paired with them. `rows` are the numbers
/// of the lake's rows; `pairs` is sorted by them.
fn different(
    lake: &RecordBatch,
    rows: &[u32],
    batches: &[RecordBatch],
    pairs: &[Pair],
) -> Result<Vec<(Place, Vec<usize>)>> {
    let doubled = pairs.len() != rows.len();
    let runs: Vec<&[Pair]> = pairs
        .chunk_by(|a, b| a.batch == b.batch && a.row + 1 == b.row)
        .collect();
    let mut found: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    if !doubled && runs.len() * RUN_ROWS <= pairs.len() + RUN_ROWS {
        let mut from = 0;
        for run in runs {
            let Some(first) = run.first() else { continue };
            let batch = source_batch(batches, first.batch)?;
            for (column, array) in lake.columns().iter().enumerate() {
                let ours = array.slice(from, run.len());
                let theirs = batch.column(column).slice(first.row as usize, run.len());
                unequal(&ours, &theirs, from, &mut |row| {
                    found.entry(row).or_default().push(column)
                });
            }
            from += run.len();
        }
    } else {
        let picked: Vec<Place> = pairs.iter().map(|p| (p.batch as usize, p.row as usize)).collect();
        // Batches by the numbers that the pairs use, and no others.
        let mut used: Vec<usize> = picked.iter().map(|(batch, _)| *batch).collect();
        used.sort_unstable();
        used.dedup();
        let picked: Vec<Place> = picked
            .into_iter()
            .map(|(batch, row)| (used.binary_search(&batch).unwrap_or_default(), row))
            .collect();
        let expand: Option<UInt32Array> = doubled.then(|| {
            pairs
                .iter()
                .map(|pair| rows.binary_search(&pair.lake_row).unwrap_or_default() as u32)
                .collect()
        });
        for (column, array) in lake.columns().iter().enumerate() {
            let ours = match &expand {
                Some(expand) => take(array, expand, None).map_err(arrow_bug)?,
                None => array.clone(),
            };
            let sources = used
                .iter()
                .map(|batch| source_batch(batches, *batch as u32).map(|b| b.column(column).as_ref()))
                .collect::<Result<Vec<&dyn Array>>>()?;
            let theirs = interleave(&sources, &picked).map_err(arrow_bug)?;
            unequal(&ours, &theirs, 0, &mut |row| found.entry(row).or_default().push(column));
        }
    }
    let at = |row: usize| pairs.get(row).map(|p| (p.batch as usize, p.row as usize));
    Ok(found
        .into_iter()
        .filter_map(|(row, columns)| Some((at(row)?, columns)))
        .collect())
}

fn source_batch(batches: &[RecordBatch], number: u32) -> Result<&RecordBatch> {
    batches
        .get(number as usize)
        .ok_or_else(|| Error::bug("a comparison names a batch that isn't there"))
}

/// Tells the rows at which two arrays of one type and length differ. `from` is
/// the number of their first row.
fn unequal(ours: &ArrayRef, theirs: &ArrayRef, from: usize, tell: &mut impl FnMut(usize)) {
    if ours.to_data() == theirs.to_data() {
        return;
    }
    if ours.len() <= 1 {
        tell(from);
        return;
    }
    let half = ours.len() / 2;
    let rest = ours.len() - half;
    unequal(&ours.slice(0, half), &theirs.slice(0, half), from, tell);
    unequal(&ours.slice(half, rest), &theirs.slice(half, rest), from + half, tell);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{BinaryArray, Float64Array, Int32Array, ListArray, StringArray, StructArray};
    use arrow::datatypes::{DataType, Field, Float32Type, Schema};

    use super::*;

    fn check(ours: ArrayRef, theirs: ArrayRef, expected: &[usize]) {
        let mut found = Vec::new();
        unequal(&ours, &theirs, 0, &mut |row| found.push(row));
        assert_eq!(found, expected, "{ours:?} {theirs:?}");
        // As slices of something longer.
        found.clear();
        let len = ours.len() - 1;
        unequal(&ours.slice(1, len), &theirs.slice(1, len), 1, &mut |row| {
            found.push(row)
        });
        let later: Vec<usize> = expected.iter().copied().filter(|row| *row > 0).collect();
        assert_eq!(found, later, "{ours:?} {theirs:?}");
    }

    #[test]
    fn values_are_equal_by_their_bits() {
        let nan = f64::from_bits(f64::NAN.to_bits() ^ 1);
        check(
            Arc::new(Float64Array::from(vec![
                Some(0.0),
                Some(f64::NAN),
                Some(f64::NAN),
                None,
                Some(1.0),
            ])),
            Arc::new(Float64Array::from(vec![
                Some(-0.0),
                Some(f64::NAN),
                Some(nan),
                Some(0.0),
                Some(1.0),
            ])),
            &[0, 2, 3],
        );
        check(
            Arc::new(StringArray::from(vec![
                None,
                Some(""),
                Some("ab"),
                Some("c"),
                Some("é"),
            ])),
            Arc::new(StringArray::from(vec![
                Some(""),
                None,
                Some("a"),
                Some("bc"),
                Some("é"),
            ])),
            &[0, 1, 2, 3],
        );
        check(
            Arc::new(BinaryArray::from(vec![&b"a\0"[..], b"", b"\xff"])),
            Arc::new(BinaryArray::from(vec![&b"a"[..], b"", b"\xfe"])),
            &[0, 2],
        );
    }

    #[test]
    fn nested_values_are_equal_by_their_bits() {
        let list = |rows: Vec<Option<Vec<Option<f32>>>>| -> ArrayRef {
            Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(rows))
        };
        check(
            list(vec![
                Some(vec![Some(0.0), None]),
                Some(vec![]),
                None,
                Some(vec![Some(f32::NAN)]),
            ]),
            list(vec![
                Some(vec![Some(-0.0), None]),
                None,
                Some(vec![]),
                Some(vec![Some(f32::NAN)]),
            ]),
            &[0, 1, 2],
        );
        let pair = |numbers: Vec<Option<i32>>, texts: Vec<Option<&str>>, valid: Vec<bool>| -> ArrayRef {
            let fields = vec![
                Field::new("n", DataType::Int32, true),
                Field::new("t", DataType::Utf8, true),
            ];
            let columns: Vec<ArrayRef> = vec![Arc::new(Int32Array::from(numbers)), Arc::new(StringArray::from(texts))];
            Arc::new(StructArray::new(fields.into(), columns, Some(valid.into())))
        };
        check(
            pair(
                vec![Some(1), None, Some(3), Some(9)],
                vec![Some("a"), None, None, None],
                vec![true, true, true, false],
            ),
            pair(
                vec![Some(1), None, Some(3), Some(8)],
                vec![Some("a"), None, Some(""), None],
                vec![true, false, true, false],
            ),
            &[1, 2],
        );
    }

    fn batch(ids: &[i32]) -> RecordBatch {
        let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int32, true)]));
        RecordBatch::try_new(schema, vec![Arc::new(Int32Array::from(ids.to_vec()))]).expect("batch")
    }

    #[test]
    fn rows_are_compared_with_their_partners_wherever_these_are() {
        let batches = [batch(&[10, 11, 12, 13]), batch(&[20, 21])];
        let pair = |lake_row, batch, row| Pair { lake_row, batch, row };
        for (lake, rows, pairs, expected) in [
            // Neighbours.
            (
                &[11, 12, 0][..],
                &[4, 5, 9][..],
                vec![pair(4, 0, 1), pair(5, 0, 2), pair(9, 0, 3)],
                vec![(0, 3)],
            ),
            // Across batches.
            (&[13, 20], &[1, 2], vec![pair(1, 0, 3), pair(2, 1, 0)], vec![]),
            // Two rows with one partner.
            (
                &[20, 11],
                &[1, 2],
                vec![pair(1, 0, 0), pair(1, 1, 0), pair(2, 0, 1)],
                vec![(0, 0)],
            ),
        ] {
            let found = different(&batch(lake), rows, &batches, &pairs).expect("comparable");
            let found: Vec<_> = found
                .into_iter()
                .map(|(at, columns)| {
                    assert_eq!(columns, [0]);
                    at
                })
                .collect();
            assert_eq!(found, expected);
        }
        // Far apart, so that they are gathered.
        let many = batch(&(0..200).collect::<Vec<_>>());
        let pairs: Vec<Pair> = (0..100).map(|i| pair(i, 0, 199 - 2 * i)).collect();
        let mut values: Vec<i32> = (0..100).map(|i| 199 - 2 * i).collect();
        values[42] += 1;
        let rows: Vec<u32> = (0..100).collect();
        let found = different(&batch(&values), &rows, &[many], &pairs).expect("comparable");
        assert_eq!(found, [((0, 199 - 84), vec![0])]);
    }
}
