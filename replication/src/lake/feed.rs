//! The change data feed: what a version changed, row by row, for readers that
//! follow the table.
//!
//! It is the difference between the log's newest version and what is staged,
//! so it is exact whatever was staged, in how many parts, and whatever other
//! writers did in between:
//!
//! ```text
//! rows of the log that die ── key index: does the key live on? ── no ──► delete
//!                                          │ yes: note where
//!                                          ▼                    ───────► update_preimage
//! rows of files to come ───── was it noted? ─────────────────── yes ───► update_postimage
//!                                                               no ────► insert
//! ```
//!
//! So a key is told once by its net change. What is in memory at a time is a
//! slice of rows, and a bit for each row that died or was noted.
//!
//! A version in which no row dies has no file of its own, nor has one that
//! empties the table: readers take its adds for inserts, its removes for
//! deletes. Where such a file has a deletion vector, `deltalake` 1.6.6 takes
//! the dead rows instead, so then there is one. Spec: Delta protocol, "Add CDC
//! File" and "Change Data Files".

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use futures::{Stream, StreamExt, TryStreamExt};
use roaring::RoaringBitmap;
use serde_json::{Value, json};

use super::data_file::{self, WrittenFile};
use super::partition::RowWriter;
use super::{DataFile, DeltaTable, FileFormat, store};
use crate::error::{Error, Result};
use crate::schema::TableSchema;

/// The table feature, and the property that turns it on.
pub const FEATURE: &str = "changeDataFeed";
pub const PROPERTY: &str = "delta.enableChangeDataFeed";
/// Where change data files are, below the table's folder.
pub const FOLDER: &str = "_change_data";
const NAMES: (&str, &str) = ("_change_data/", "cdc");

const CHANGE_TYPE: &str = "_change_type";
/// Columns that readers of the feed add to the table's own.
const RESERVED: [&str; 3] = [CHANGE_TYPE, "_commit_version", "_commit_timestamp"];

const INSERT: &str = "insert";
const DELETE: &str = "delete";
const BEFORE: &str = "update_preimage";
const AFTER: &str = "update_postimage";

/// Bytes of rows read at a time.
const SLICE_BYTES: u64 = 4 << 20;
/// Slices read at the same time, where a request takes its time.
const REMOTE_SLICES: usize = 4;

/// Rows of a file by its number.
type Rows = BTreeMap<usize, RoaringBitmap>;

/// Some rows of one file.
struct Slice {
    number: usize,
    rows: Vec<u32>,
    batch: RecordBatch,
}

/// A column that a table with a feed can't have.
pub fn reserved_column(schema: &TableSchema) -> Option<&str> {
    let mut names = schema.columns.iter().map(|column| column.name.as_str());
    // Readers match names whatever their case.
    names.find(|name| RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(name)))
}

impl DataFile {
    /// The rows that are in the log's version, and not in the next one.
    pub(super) fn dead(&self) -> RoaringBitmap {
        if !self.committed {
            return RoaringBitmap::new();
        }
        if !self.removed {
            return self.killed.clone();
        }
        let mut rows = RoaringBitmap::new();
        rows.insert_range(0..self.rows);
        rows - (&self.deleted - &self.killed)
    }

    /// The rows that come with the next version.
    pub(super) fn born(&self) -> RoaringBitmap {
        let mut rows = RoaringBitmap::new();
        if !self.committed && !self.removed {
            rows.insert_range(0..self.rows);
            rows -= &self.deleted;
        }
        rows
    }
}

impl DeltaTable {
    /// Turns the feed on or off, with the next commit.
    pub fn set_feed(&mut self, feed: bool) {
        if self.shape.feed == feed {
            return;
        }
        let before = self.shape.clone();
        self.shape = before.clone().with_feed(feed);
        self.shape_before.get_or_insert(before);
        self.has_staged = true;
    }

    /// Columns that come can't be told from the feed's own: it ends.
    pub(super) fn end_feed_beside(&mut self, schema: &TableSchema) {
        if let Some(column) = reserved_column(schema).filter(|_| self.shape.feed) {
            self.shape.feed = false;
            tracing::error!(table = %self.record.table, column,
                hint = "exclude the column, or set change_data_feed = false for the table",
                "the table's change data feed ends: readers of a feed have a column of that name themselves");
        }
    }

    /// Writes what the staged changes change. Returns the actions that name it.
    pub(super) async fn tell(&self) -> Result<Vec<Value>> {
        // Nobody sees what a copy has before all of it replaces the table.
        if !self.shape.feed || self.replaces.is_some() {
            return Ok(Vec::new());
        }
        let dead = by_file(&self.files, DataFile::dead);
        let born = by_file(&self.files, DataFile::born);
        if self.told_by_files(&dead, &born) {
            return Ok(Vec::new());
        }
        let mut feed = Feed::create(self);
        let mut living = Rows::new();
        let mut slices = std::pin::pin!(self.slices_of(&dead));
        while let Some(slice) = slices.try_next().await? {
            let found = self.find_all_any(&self.encoder.keys(&slice.batch)?)?;
            for location in found.iter().flatten() {
                living
                    .entry(location.file() as usize)
                    .or_default()
                    .insert(location.row());
            }
            let kinds = found.iter().map(|found| if found.is_some() { BEFORE } else { DELETE });
            feed.write(&slice.batch, kinds).await?;
        }
        let mut slices = std::pin::pin!(self.slices_of(&born));
        while let Some(slice) = slices.try_next().await? {
            let living = living.get(&slice.number);
            let is_new = |row: &u32| living.is_none_or(|living| !living.contains(*row));
            let kinds = slice.rows.iter().map(|row| if is_new(row) { INSERT } else { AFTER });
            feed.write(&slice.batch, kinds).await?;
        }
        // Where another writer doubled a key, two rows become the one that stays.
        living.retain(|number, _| self.files[*number].committed);
        let mut slices = std::pin::pin!(self.slices_of(&living));
        while let Some(slice) = slices.try_next().await? {
            for kind in [BEFORE, AFTER] {
                let kinds = std::iter::repeat_n(kind, slice.rows.len());
                feed.write(&slice.batch, kinds).await?;
            }
        }
        feed.finish().await
    }

    /// Whether the files that come and go say it all: either none goes, or
    /// the table is emptied. Not every reader of a feed then honours a vector.
    fn told_by_files(&self, dead: &Rows, born: &Rows) -> bool {
        let emptied = || {
            let mut gone = dead.keys().map(|number| &self.files[*number]);
            gone.all(|file| file.removed && file.vector.is_none())
        };
        // Without vectors, a file with dead rows is written anew before it comes.
        let whole = || {
            let mut come = born.keys().map(|number| &self.files[*number]);
            !self.shape.has_vectors() || come.all(|file| file.deleted.is_empty())
        };
        match (dead.is_empty(), born.is_empty()) {
            (true, _) => whole(),
            (false, true) => emptied(),
            (false, false) => false,
        }
    }

    /// Reads rows of files, with all columns, a slice at a time.
    fn slices_of<'a>(&'a self, rows: &'a Rows) -> impl Stream<Item = Result<Slice>> + 'a {
        let slices = rows.iter().flat_map(|(number, rows)| {
            let file = &self.files[*number];
            // Compressed bytes a row, and a compression of up to four.
            let row_bytes = 4 * file.size as u64 / u64::from(file.rows.max(1)) + 64;
            let count = (SLICE_BYTES / row_bytes).max(1) as usize;
            let mut rows = rows.iter();
            std::iter::from_fn(move || {
                let slice: Vec<u32> = rows.by_ref().take(count).collect();
                (!slice.is_empty()).then_some((*number, slice))
            })
        });
        let at_once = match store::is_local(self.log.url()) {
            true => 1,
            false => REMOTE_SLICES,
        };
        futures::stream::iter(slices)
            .map(move |(number, rows)| self.slice(number, rows))
            .buffered(at_once)
    }

    async fn slice(&self, number: usize, rows: Vec<u32>) -> Result<Slice> {
        let stored = self.files[number].stored();
        let batch = data_file::read_rows(&self.log, &stored, &self.whole_schema, &rows).await?;
        Ok(Slice { number, rows, batch })
    }
}

fn by_file(files: &[DataFile], rows: impl Fn(&DataFile) -> RoaringBitmap) -> Rows {
    let numbered = files.iter().map(rows).enumerate();
    numbered.filter(|(_, rows)| !rows.is_empty()).collect()
}

/// The change data files of a version: one, or one for each partition.
struct Feed {
    writer: RowWriter,
    /// The table's columns and the kind of change, as batches have them.
    schema: Arc<Schema>,
}

impl Feed {
    fn create(table: &DeltaTable) -> Self {
        let kind = Field::new(CHANGE_TYPE, DataType::Utf8, true);
        let with_kind = |schema: &Schema| {
            let fields = schema.fields().iter().cloned();
            Arc::new(Schema::new(fields.chain([Arc::new(kind.clone())]).collect::<Vec<_>>()))
        };
        let format = FileFormat {
            schema: with_kind(&table.file_schema),
            key: Vec::new(),
            names: NAMES,
            ..table.file_format()
        };
        Self {
            writer: format.writer(),
            schema: with_kind(&table.whole_schema),
        }
    }

    async fn write(&mut self, rows: &RecordBatch, kinds: impl Iterator<Item = &'static str>) -> Result<()> {
        let kinds: ArrayRef = Arc::new(StringArray::from_iter_values(kinds));
        let columns = rows.columns().iter().cloned().chain([kinds]).collect();
        let rows = RecordBatch::try_new(self.schema.clone(), columns)
            .map_err(|e| Error::bug("changes do not fit the columns of the feed").with_source(e))?;
        self.writer.write(&rows, &[]).await
    }

    async fn finish(self) -> Result<Vec<Value>> {
        let files = self.writer.finish().await?.into_iter();
        Ok(files.map(|(file, _)| cdc_action(&file)).collect())
    }
}

fn cdc_action(file: &WrittenFile) -> Value {
    json!({"cdc": {
        "path": file.path,
        "partitionValues": *file.partition,
        "size": file.size,
        "dataChange": false,
    }})
}
