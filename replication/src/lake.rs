//! The lake: Delta tables that take net changes by key. The only room that
//! names a Delta crate.
//!
//! ```text
//! ChangeBatch ── last change per key ── unchanged cells resolved ──┐
//! Chunk (file already written) ── keys the table has are dropped ──┤
//!                                                                  ▼
//!             staged: new files, grown deletion vectors   (nothing visible)
//!                                                                  │ commit
//!             one log entry: remove/add, txn, domainMetadata ◄─────┘
//! ```
//!
//! Any number of batches can be staged before one commit, so a source
//! transaction larger than memory is still one version of the table.
//!
//! A staged change that could not be committed leaves the table unusable: it
//! has to be opened again from the log, which is always right.

mod compaction;
mod conflict;
mod cuts;
mod data_file;
mod deletion_vector;
mod feed;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod history;
mod indexing;
mod key_index;
mod log;
mod merge;
mod mode;
mod net;
mod partition;
mod read;
mod record;
mod requests;
mod shape;
mod soft_delete;
mod store;
#[cfg(test)]
mod tests;
mod upload;
mod vacuum;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use roaring::RoaringBitmap;
use serde_json::{Value, json};
use url::Url;

pub use self::compaction::{Compacted, Compaction};
pub use self::cuts::{Added, Cut, CutLog, CutTable, Cuts, as_time, shown_time};
pub use self::data_file::{FileWriter, WrittenFile};
pub use self::feed::reserved_column;
pub use self::key_index::{DAMAGED, IndexHome, KeyIndex, Live, Location};
pub use self::log::{Commit, Log, creation, now_ms};
pub use self::mode::system_column_of;
pub use self::partition::RowWriter;
pub use self::read::{FileCache, Mismatch, Normal, Place, Refreshed, Seen, Unseen};
pub use self::record::{PartProgress, PipelineRecord, SnapshotProgress, State, TableRecord};
pub use self::requests::Request;
pub use self::shape::{Origin, Shape, ShapeColumn, delta_field, delta_type};
pub use self::vacuum::{Cleaned, Cleaning};

use self::conflict::{Others, judge};
use self::deletion_vector::Descriptor;
use self::key_index::KeyMap;
use self::log::LiveFile;
use self::mode::System;
use crate::batch::TxId;
use crate::config::StoreOptions;
use crate::error::{Error, Result};
use crate::failpoint;
use crate::key::{Key, KeyEncoder};
use crate::metrics::TableSize;
use crate::partition::{Partitioning, Values, folder};
use crate::position::Position;
use crate::schema::{TableId, TableSchema};
use crate::trace::{span, within};

/// What the log says of a file that gets another deletion vector: a `remove`
/// and an `add` with statistics.
const TOUCH_BYTES: u64 = 1 << 10;
/// What the indexes of a table hold in memory that nobody gave more.
const INDEX_MEMORY: u64 = 32 << 20;

/// The place of all tables of a pipeline.
#[derive(Clone)]
pub struct Lake {
    root: Url,
    store: Arc<dyn ObjectStore>,
    indexes: Arc<IndexHome>,
}

impl Lake {
    /// Names a path, `file:///path` or a prefix of a bucket; nothing is read or
    /// written yet.
    pub fn open(url: &str, options: &StoreOptions) -> Result<Self> {
        let (root, store) = store::open(url, options)?;
        let indexes = IndexHome::private(INDEX_MEMORY);
        Ok(Self { root, store, indexes })
    }

    /// Where the tables' key indexes are from now on.
    pub fn with_indexes(self, indexes: Arc<IndexHome>) -> Self {
        Self { indexes, ..self }
    }

    pub fn indexes(&self) -> &Arc<IndexHome> {
        &self.indexes
    }

    /// A folder's name in the store.
    pub fn key(&self, folder: &str) -> String {
        store::key(&self.root, folder).into_owned()
    }

    /// The lake's place, as a person would type it.
    pub fn shown(&self) -> String {
        shown(&self.root)
    }

    /// Whether it is on local disk, where a request costs nothing.
    pub fn is_local(&self) -> bool {
        store::is_local(&self.root)
    }

    /// Makes the lake's folder if need be, and makes sure that it can be
    /// written, and that no commit can take the place of another.
    pub async fn prepare(&self) -> Result<()> {
        let Ok(path) = self.root.to_file_path() else {
            return store::probe(self.store.as_ref(), &self.root).await;
        };
        let probe = path.join(format!(".tributary-{}", uuid::Uuid::new_v4()));
        let written = std::fs::create_dir_all(&path)
            .and_then(|()| std::fs::write(&probe, b"probe"))
            .and_then(|()| std::fs::remove_file(&probe));
        written.map_err(|e| {
            log::store_error(
                "cannot write to lake.url",
                &self.root,
                object_store::Error::Generic {
                    store: "lake",
                    source: Box::new(e),
                },
            )
        })
    }

    /// The log of a table at `<lake>/<schema>/<table>`.
    pub fn table(&self, id: &TableId) -> Result<Log> {
        self.log(&table_path(id))
    }

    /// The log of content that is to replace a table's: its files are the
    /// table's, its log is hidden from readers.
    pub fn copy(&self, folder: &str, copy: &str) -> Result<Log> {
        let log_url = self.url(&format!("_tributary/copies/{copy}"))?;
        Log::apart(self.store.clone(), self.url(folder)?, log_url)
    }

    /// The content that is gathered to replace that of the table in a folder,
    /// if there is any and it can be read.
    pub async fn copy_of(&self, folder: &str, record: &TableRecord) -> Option<Opened> {
        let log = self.copy(folder, record.copy.as_ref()?).ok()?;
        Opened::read(log, &record.pipeline).await.ok().flatten()
    }

    /// The log that holds the pipeline's own record.
    pub fn pipeline(&self) -> Result<Log> {
        self.log("_tributary/pipeline")
    }

    /// The log of a table by its folder.
    pub fn log(&self, folder: &str) -> Result<Log> {
        Log::new(self.store.clone(), self.url(folder)?)
    }

    fn url(&self, folder: &str) -> Result<Url> {
        let mut url = self.root.clone();
        url.path_segments_mut()
            .map_err(|()| Error::bug("the lake's URL has no path"))?
            .pop_if_empty()
            .extend(store::key(&self.root, folder).split('/'))
            .push("");
        Ok(url)
    }
}

/// A table's place in the lake, which no other table shares.
pub fn table_path(id: &TableId) -> String {
    format!("{}/{}", path_segment(&id.schema), path_segment(&id.name))
}

/// A name as one path segment: every byte but letters, digits, `_` and `-` is
/// `~` and two hex digits, so that no name leaves its folder. A leading `_` is
/// too: readers hide such folders. Not `%`: readers decode it once too often.
fn path_segment(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for (i, byte) in name.bytes().enumerate() {
        match byte {
            b'_' if i == 0 => out.push_str("~5F"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => out.push(char::from(byte)),
            _ => out.push_str(&format!("~{byte:02X}")),
        }
    }
    out
}

/// Rows read at the source because the lake doesn't have them.
pub struct PointRead {
    /// The rows found, with the table's full schema.
    pub rows: RecordBatch,
    /// How many of the keys were looked for, from the first on: those whose rows
    /// fit in memory.
    pub asked: usize,
    /// They may hold changes up to here.
    pub high: Position,
}

/// The code of a [`PointReader`]'s error if the table does not have the columns
/// any more that its rows are to have: no later reading can do better.
pub const UNREADABLE: &str = "unreadable";

/// The last resort for unchanged values: reads rows by key at the source.
pub trait PointReader: Send + Sync {
    /// `keys` has the key columns alone, in key order.
    fn read<'a>(&'a self, keys: RecordBatch) -> Pin<Box<dyn Future<Output = Result<PointRead>> + Send + 'a>>;
}

/// A chunk of a snapshot: files that are written, and who their rows are.
pub struct Chunk {
    pub files: Vec<(WrittenFile, Vec<Key>)>,
    /// Whether the chunk's snapshot saw a transaction.
    pub saw: Box<dyn Fn(TxId) -> bool + Send>,
    /// Whether this and every chunk still to come saw it.
    pub all_saw: Box<dyn Fn(TxId) -> bool + Send>,
}

/// How a table's data files are written, for tasks beside its writer.
#[derive(Clone)]
pub struct FileFormat {
    log: Log,
    schema: SchemaRef,
    key: Vec<usize>,
    partitioning: Partitioning,
    system: System,
    /// The folder of the table's that files go to, with what their names begin with.
    names: (&'static str, &'static str),
}

impl FileFormat {
    /// For rows of any partitions.
    pub fn writer(&self) -> RowWriter {
        RowWriter::new(self.clone())
    }

    /// For rows of one partition.
    fn writer_of(&self, partition: &Values) -> Result<FileWriter> {
        let (place, name) = self.names;
        let folder = folder(self.partitioning.names(), partition);
        let name = format!("{place}{folder}{name}");
        FileWriter::create_in(
            &self.log,
            &name,
            partition,
            &self.schema,
            &self.key,
            self.system.clone(),
        )
    }

    /// The same files for other columns.
    pub fn with_shape(self, shape: &Shape, schema: &TableSchema) -> Self {
        Self {
            schema: shape.file_schema(schema),
            key: schema.key.clone(),
            partitioning: shape.partitioning(schema),
            ..self
        }
    }
}

/// What a commit did.
#[derive(Clone, Debug, Default)]
pub struct Committed {
    pub version: u64,
    pub upserts: u64,
    pub deletes: u64,
    pub snapshot_rows: u64,
    /// What its deletion vectors take, with what the log says of their files.
    pub vector_bytes: u64,
}

struct DataFile {
    path: String,
    size: i64,
    modification_time: i64,
    rows: u32,
    stats: String,
    partition: Values,
    /// As the log has it.
    vector: Option<Descriptor>,
    /// What its vectors took that this program wrote.
    vector_bytes: u64,
    /// In a history, rows that are superseded; the log knows nothing of it.
    deleted: RoaringBitmap,
    /// The rows that readers see marked as deleted at the source, and more that
    /// are dead by now.
    marked: RoaringBitmap,
    /// Whether the log has an `add` of it.
    committed: bool,
    /// Whether `deleted` has grown since the log's vector.
    dirty: bool,
    /// By how much it has, as far as the feed has to tell of it.
    killed: RoaringBitmap,
    /// Whether it is to go, or gone.
    removed: bool,
    /// Whether it goes because its rows are in another file.
    rewritten: bool,
}

impl DataFile {
    async fn live(log: &Log, file: LiveFile) -> Result<Self> {
        let told = file
            .stats
            .as_deref()
            .and_then(|s| serde_json::from_str::<Value>(s).ok())
            .and_then(|s| s["numRecords"].as_u64())
            .and_then(|rows| u32::try_from(rows).ok());
        let rows = match told {
            Some(rows) => rows,
            // Another writer added it.
            None => {
                let stored = data_file::Stored {
                    path: &file.path,
                    size: file.size as u64,
                };
                data_file::row_count(log, &stored).await?
            }
        };
        Ok(Self {
            path: file.path,
            size: file.size,
            modification_time: file.modification_time,
            rows,
            stats: file.stats.unwrap_or_default(),
            partition: file.partition,
            vector: file.deletion_vector,
            vector_bytes: 0,
            deleted: file.deleted,
            marked: RoaringBitmap::new(),
            committed: true,
            dirty: false,
            killed: RoaringBitmap::new(),
            removed: false,
            rewritten: false,
        })
    }

    /// The place of a file that is gone.
    fn gone() -> Self {
        Self {
            path: String::new(),
            size: 0,
            modification_time: 0,
            rows: 0,
            stats: String::new(),
            partition: Values::default(),
            vector: None,
            vector_bytes: 0,
            deleted: RoaringBitmap::new(),
            marked: RoaringBitmap::new(),
            committed: false,
            dirty: false,
            killed: RoaringBitmap::new(),
            removed: true,
            rewritten: false,
        }
    }

    fn written(file: WrittenFile) -> Self {
        Self {
            path: file.path,
            size: file.size,
            modification_time: file.modification_time,
            rows: file.rows,
            stats: file.stats,
            partition: file.partition,
            vector: None,
            vector_bytes: 0,
            deleted: RoaringBitmap::new(),
            marked: RoaringBitmap::new(),
            committed: false,
            dirty: false,
            killed: RoaringBitmap::new(),
            removed: false,
            rewritten: false,
        }
    }

    fn stored(&self) -> data_file::Stored<'_> {
        data_file::Stored {
            path: &self.path,
            size: self.size as u64,
        }
    }

    /// Whether all its rows are to go.
    fn is_emptied(&self) -> bool {
        self.removed && !self.rewritten
    }

    fn live_rows(&self) -> u64 {
        if self.removed {
            0
        } else {
            u64::from(self.rows) - self.deleted.len()
        }
    }

    fn remove_action(&self, data_change: bool) -> Value {
        let mut remove = json!({
            "path": self.path,
            "deletionTimestamp": now_ms(),
            "dataChange": data_change,
            "extendedFileMetadata": true,
            "partitionValues": *self.partition,
            "size": self.size,
        });
        // Without its vector a remove names another logical file, and the old
        // rows would stay live beside the new ones.
        if let Some(vector) = &self.vector {
            remove["deletionVector"] = json!(vector);
        }
        json!({"remove": remove})
    }

    fn add_action(&self, vector: Option<&Descriptor>, data_change: bool) -> Value {
        let mut add = json!({
            "path": self.path,
            "partitionValues": *self.partition,
            "size": self.size,
            "modificationTime": self.modification_time,
            "dataChange": data_change,
        });
        if let Some(vector) = vector {
            add["deletionVector"] = json!(vector);
            add["stats"] = json!(loose(&self.stats));
        } else {
            add["stats"] = json!(self.stats);
        }
        json!({"add": add})
    }
}

/// Statistics of a file with a deletion vector: the bounds are no longer tight.
fn loose(stats: &str) -> String {
    match serde_json::from_str::<Value>(stats) {
        Ok(mut value) if value.is_object() => {
            value["tightBounds"] = json!(false);
            value.to_string()
        }
        _ => stats.to_owned(),
    }
}

/// One table of the lake and its only writer.
pub struct DeltaTable {
    log: Log,
    schema: Arc<TableSchema>,
    shape: Shape,
    /// As batches have the columns.
    arrow: SchemaRef,
    /// As files have them.
    file_schema: SchemaRef,
    /// The files' names with the batches' types.
    read_schema: SchemaRef,
    /// The same with the system columns.
    whole_schema: SchemaRef,
    seed: u64,
    encoder: KeyEncoder,
    record: TableRecord,
    version: u64,
    batch_number: i64,
    /// By number. The number of a file that is gone is given again once no entry
    /// of the index names it.
    files: Vec<DataFile>,
    vacant: indexing::Vacant,
    index: KeyIndex,
    /// Keys that the stream deleted while a snapshot runs, and by whom: a
    /// chunk that didn't see the delete must not bring the row back.
    deleted_keys: KeyMap<TxId>,
    truncated_by: Vec<TxId>,
    /// Keys with values read at the source, and how new those may be.
    provisional: KeyMap<Position>,
    /// After a restart nobody knows which keys these were: all of them, until
    /// the table has passed this.
    all_provisional_until: Option<Position>,
    staged: Committed,
    /// Whether files, vectors or columns differ from the log's.
    has_staged: bool,
    /// What fills the system columns.
    system: System,
    /// Whether the index has all rows.
    indexed: bool,
    many_partitions_told: bool,
    /// The shape as the log has it, if the staged one is another.
    shape_before: Option<Shape>,
    /// Set in a copy: the table that it replaces once it is whole.
    replaces: Option<Box<Opened>>,
}

/// A table as its log has it, before anyone knows the source's columns.
pub struct Opened {
    pub log: Log,
    pub record: TableRecord,
    pub shape: Shape,
    version: u64,
    batch_number: i64,
    files: Vec<DataFile>,
}

impl Opened {
    /// Reads the newest version, or `None` where there is no table.
    ///
    /// Errors: a table that this pipeline did not write.
    pub async fn read(log: Log, pipeline: &str) -> Result<Option<Self>> {
        let Some(state) = log.load(pipeline).await? else {
            return Ok(None);
        };
        let record = TableRecord::from_log(&log, state.domain.as_deref(), pipeline)?;
        let mut shape = Shape::from_log(&log, state.shape.as_deref())?;
        if state.has_feed {
            // Another program may have turned it on, or off.
            shape = shape.with_feed(true).with_feed(state.feed);
        } else {
            shape = shape.without_feed();
        }
        let mut files = Vec::with_capacity(state.files.len());
        for file in state.files {
            files.push(DataFile::live(&log, file).await?);
        }
        Ok(Some(Self {
            files,
            log,
            record,
            shape,
            version: state.version,
            batch_number: state.txn.unwrap_or(0),
        }))
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn rows(&self) -> u64 {
        self.files.iter().map(DataFile::live_rows).sum()
    }

    pub fn file_count(&self) -> usize {
        self.files.iter().filter(|f| f.live_rows() > 0).count()
    }

    /// Commits a change of the record alone.
    pub async fn mark(&mut self, operation: &str, change: impl FnOnce(&mut TableRecord)) -> Result<()> {
        let mut record = self.record.clone();
        change(&mut record);
        while self
            .log
            .commit(self.version + 1, operation, vec![record.domain_action()])
            .await?
            == Commit::Conflict
        {
            self.reload().await?;
        }
        self.version += 1;
        checkpoint_if_due(&self.log, self.version, &record.table);
        self.record = record;
        Ok(())
    }

    /// Reads the table again after another writer's commit.
    async fn reload(&mut self) -> Result<()> {
        let version = self.version + 1;
        let entry = self.log.read(version).await?.unwrap_or_default();
        let ours = judge(&entry, &self.record)? == Others::Ours;
        let newer = Self::read(self.log.clone(), &self.record.pipeline).await?;
        match newer.filter(|newer| !ours && newer.version >= version) {
            Some(newer) => *self = newer,
            None => {
                return Err(Error::transient(format!(
                    "another writer committed version {version} of {}",
                    self.record.table
                )));
            }
        }
        Ok(())
    }

    /// Removes a copy that is not wanted any more.
    pub async fn discard(self) {
        let files: Vec<String> = self.files.into_iter().map(|file| file.path).collect();
        self.log.discard(files).await;
    }
}

impl DeltaTable {
    /// Creates the table at version 0. Errors: something is there already.
    pub async fn create(log: Log, schema: Arc<TableSchema>, shape: Shape, record: TableRecord) -> Result<Self> {
        let actions = vec![
            shape.protocol_action(),
            shape.metadata_action(&record.table, &schema),
            shape.domain_action(),
            record.domain_action(),
        ];
        match log.commit(0, "CREATE TABLE", actions).await? {
            Commit::Committed => {
                let opened = Opened {
                    log,
                    record,
                    shape,
                    version: 0,
                    batch_number: 0,
                    files: Vec::new(),
                };
                let mut table = Self::new(schema, opened);
                table.indexed = true;
                Ok(table)
            }
            Commit::Conflict => Err(Error::transient(format!(
                "another writer created {} at the same time",
                log.url()
            ))),
        }
    }

    /// A table for writing, with `schema` as the table's columns. The key
    /// index is empty until [`DeltaTable::open_index`].
    pub fn new(schema: Arc<TableSchema>, opened: Opened) -> Self {
        let seed = uuid::Uuid::new_v4().as_u64_pair().0;
        let encoder = KeyEncoder::new(&schema, seed);
        let system = System::new(opened.shape.mode, opened.record.next_sequence);
        let mut table = Self {
            log: opened.log,
            arrow: schema.arrow(),
            file_schema: schema.arrow(),
            read_schema: schema.arrow(),
            whole_schema: schema.arrow(),
            index: KeyIndex::new(encoder.is_exact(), IndexHome::private(INDEX_MEMORY)),
            vacant: indexing::Vacant::default(),
            schema,
            shape: opened.shape,
            seed,
            encoder,
            version: opened.version,
            batch_number: opened.batch_number,
            files: opened.files,
            deleted_keys: KeyMap::default(),
            truncated_by: Vec::new(),
            provisional: KeyMap::default(),
            all_provisional_until: opened.record.catch_up_to.clone(),
            staged: Committed::default(),
            has_staged: false,
            system,
            indexed: false,
            many_partitions_told: false,
            shape_before: None,
            replaces: None,
            record: opened.record,
        };
        table.set_schema(table.schema.clone());
        table
    }

    /// A table whose rows stay as they are: it can be compacted and cleaned, and
    /// nothing else.
    pub fn for_maintenance(opened: Opened) -> Result<Self> {
        let schema = opened.shape.schema()?;
        Ok(Self::new(Arc::new(schema), opened))
    }

    /// Makes this table the content that replaces all of another's once it is
    /// whole.
    pub fn replacing(mut self, table: Opened) -> Self {
        self.replaces = Some(Box::new(table));
        self
    }

    fn set_schema(&mut self, schema: Arc<TableSchema>) {
        self.encoder = KeyEncoder::new(&schema, self.seed);
        self.arrow = schema.arrow();
        self.file_schema = self.shape.file_schema(&schema);
        let names = self.file_schema.fields().iter().zip(self.arrow.fields());
        let mut fields: Vec<Field> = names
            .map(|(file, batch)| Field::new(file.name(), batch.data_type().clone(), true))
            .collect();
        self.read_schema = Arc::new(Schema::new(fields.clone()));
        let system = self.file_schema.fields().iter().skip(fields.len());
        fields.extend(system.map(|field| Field::new(field.name(), field.data_type().clone(), true)));
        self.whole_schema = Arc::new(Schema::new(fields));
        self.schema = schema;
    }

    /// Stages a change of columns: what was staged before has the old ones,
    /// what comes after has the new ones.
    pub fn evolve(&mut self, schema: Arc<TableSchema>, origin: &Origin) -> Result<()> {
        let before = self.shape.clone();
        self.shape.evolve(&schema, origin)?;
        self.end_feed_beside(&schema);
        if self.shape != before {
            self.shape_before.get_or_insert(before);
            self.has_staged = true;
        }
        self.set_schema(schema);
        Ok(())
    }

    /// The key columns as files have them, in the table's order, and where among
    /// these each of the key is.
    fn key_columns(&self) -> Result<(SchemaRef, Vec<usize>)> {
        let columns = sorted(self.encoder.columns());
        let place = |column| columns.binary_search(column).unwrap_or_default();
        let order = self.encoder.columns().iter().map(place).collect();
        Ok((self.columns_schema(&columns)?, order))
    }

    /// Some columns as files have them.
    fn columns_schema(&self, columns: &[usize]) -> Result<SchemaRef> {
        let schema = self.read_schema.project(columns);
        schema
            .map(Arc::new)
            .map_err(|e| Error::bug("a column that the table doesn't have").with_source(e))
    }

    pub fn record(&self) -> &TableRecord {
        &self.record
    }

    /// Whether something is staged that no commit has yet.
    pub fn has_staged(&self) -> bool {
        self.has_staged
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// What writes rows of this table.
    pub fn file_format(&self) -> FileFormat {
        FileFormat {
            log: self.log.clone(),
            schema: self.file_schema.clone(),
            key: self.schema.key.clone(),
            partitioning: self.shape.partitioning(&self.schema),
            names: ("", "part"),
            system: self.system.clone(),
        }
    }

    pub fn encoder(&self) -> &KeyEncoder {
        &self.encoder
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    /// The version that readers see; `None` in a copy that replaces nothing yet.
    pub fn visible_version(&self) -> Option<u64> {
        self.replaces.is_none().then_some(self.version)
    }

    pub fn rows(&self) -> u64 {
        let there = self.files.iter().filter(|file| !file.removed);
        there.map(|file| u64::from(file.rows) - self.hidden(file)).sum()
    }

    /// The rows of a file that are not for readers: those of [`DataFile::deleted`],
    /// unless these are superseded and stay.
    fn hidden_rows<'a>(&self, file: &'a DataFile) -> Option<&'a RoaringBitmap> {
        (!self.shape.mode.is_history()).then_some(&file.deleted)
    }

    fn hidden(&self, file: &DataFile) -> u64 {
        self.hidden_rows(file).map_or(0, RoaringBitmap::len)
    }

    /// Whether the log has a file, or is to have it.
    fn stays(&self, file: &DataFile) -> bool {
        !file.removed && u64::from(file.rows) > self.hidden(file)
    }

    pub fn size(&self) -> TableSize {
        let living = || self.files.iter().filter(|file| self.stays(file));
        TableSize {
            rows: self.rows(),
            files: living().count() as u64,
            vectors: living().filter(|file| file.vector.is_some()).count() as u64,
            index_bytes: self.bytes() as u64,
        }
    }

    /// What index and vectors hold in memory, in bytes.
    pub fn bytes(&self) -> usize {
        let vectors: usize = self.files.iter().map(|f| f.deleted.serialized_size()).sum();
        self.index.bytes() + vectors
    }

    /// Where the row of a key is that lives at the source.
    fn find(&self, key: Key) -> Result<Option<Location>> {
        let found = self.find_any(key)?;
        Ok(found.filter(|location| !is_marked(&self.files, *location)))
    }

    /// Where the row of a key is, be it marked as deleted.
    fn find_any(&self, key: Key) -> Result<Option<Location>> {
        let found = self.index.get(key)?;
        Ok(found.filter(|location| is_live(&self.files, *location)))
    }

    /// As [`DeltaTable::find`] for each of some keys.
    fn find_all(&self, keys: &[Key]) -> Result<Vec<Option<Location>>> {
        let mut found = self.find_all_any(keys)?;
        for location in &mut found {
            *location = location.filter(|location| !is_marked(&self.files, *location));
        }
        Ok(found)
    }

    /// As [`DeltaTable::find_any`] for each of some keys.
    fn find_all_any(&self, keys: &[Key]) -> Result<Vec<Option<Location>>> {
        let mut found = indexing::blocking(keys.len(), || self.index.get_all(keys))?;
        for location in &mut found {
            *location = location.filter(|location| is_live(&self.files, *location));
        }
        Ok(found)
    }

    fn kill(&mut self, location: Location) {
        let is_history = self.shape.mode.is_history();
        if let Some(file) = self.files.get_mut(location.file() as usize) {
            let died = file.deleted.insert(location.row());
            if is_history {
                return;
            }
            file.dirty = true;
            if died && file.committed {
                file.killed.insert(location.row());
            }
        }
    }

    /// Notes that staged values may be as new as `high`: the table equals the
    /// source only once its watermark covers it.
    pub fn expect_catch_up(&mut self, high: Position) {
        let later = self.record.catch_up_to.take().filter(|to| to.covers(&high));
        self.record.catch_up_to = Some(later.unwrap_or(high));
    }

    /// Commits all that is staged, and the record as `change` leaves it, as
    /// one version.
    pub async fn commit(&mut self, operation: &str, change: impl FnOnce(&mut TableRecord)) -> Result<Committed> {
        let mut record = self.record.clone();
        change(&mut record);
        record.next_sequence = self.system.next();
        let batch_number = self.batch_number + 1;
        self.tell_many_partitions();
        let vectors = loop {
            // Before rows change their files.
            let told = self.tell().await?;
            let rewritten = self.write_anew().await?;
            failpoint::reach("commit.files");
            let span = span!("vectors", table = self.record.table);
            let vectors = within(span, self.write_vectors()).await?;
            failpoint::reach("commit.vectors");
            let mut actions = self.file_actions(&vectors, true);
            actions.extend(told);
            if let Some(before) = &self.shape_before {
                if before.features != self.shape.features {
                    actions.push(self.shape.protocol_action());
                }
                if !before.reads_like(&self.shape) {
                    actions.push(self.shape.metadata_action(&record.table, &self.schema));
                }
                actions.push(self.shape.domain_action());
            }
            actions.push(record.txn_action(batch_number));
            actions.push(record.domain_action());
            if self.put(operation, actions).await? == Commit::Committed {
                break vectors;
            }
            // What died is not known any more, to be told.
            if rewritten && self.shape.feed {
                return Err(self.beside("files that were written anew"));
            }
            self.absorb().await?;
        };
        failpoint::reach("commit.put");
        self.batch_number = batch_number;
        self.shape_before = None;
        if record.state != State::Snapshotting {
            self.deleted_keys = KeyMap::default();
            self.truncated_by = Vec::new();
        }
        let watermark = record.watermark.clone();
        self.provisional.retain(|_, high| !watermark.covers(high));
        self.all_provisional_until = self
            .all_provisional_until
            .take()
            .filter(|until| !watermark.covers(until));
        self.record = record;
        self.settle(&vectors);
        Ok(Committed {
            version: self.version,
            vector_bytes: vectors.values().map(|v| v.size_in_bytes as u64 + TOUCH_BYTES).sum(),
            ..std::mem::take(&mut self.staged)
        })
    }

    /// What takes the log's files to ours.
    fn file_actions(&self, vectors: &HashMap<usize, Descriptor>, data_change: bool) -> Vec<Value> {
        let mut actions = Vec::new();
        for (number, file) in self.files.iter().enumerate() {
            let vector = vectors.get(&number).or(file.vector.as_ref());
            if file.committed && (file.removed || file.dirty) {
                actions.push(file.remove_action(data_change));
            }
            if self.stays(file) && (!file.committed || file.dirty) {
                actions.push(file.add_action(vector, data_change));
            }
        }
        actions
    }

    /// Puts the next version.
    async fn put(&mut self, operation: &str, actions: Vec<Value>) -> Result<Commit> {
        let version = self.version + 1;
        let span = span!("put", table = self.record.table, version = version as i64, operation);
        let put = within(span, self.log.commit(version, operation, actions)).await?;
        if put == Commit::Committed {
            self.version += 1;
        }
        Ok(put)
    }

    /// Takes note that all that was staged is in the log.
    fn settle(&mut self, vectors: &HashMap<usize, Descriptor>) {
        let is_history = self.shape.mode.is_history();
        for (number, file) in self.files.iter_mut().enumerate() {
            if let Some(vector) = vectors.get(&number) {
                file.vector = Some(vector.clone());
                file.vector_bytes += vector.size_in_bytes as u64;
            }
            file.removed |= !is_history && file.live_rows() == 0;
            if file.removed {
                *file = DataFile::gone();
                continue;
            }
            file.committed = true;
            file.dirty = false;
            file.killed = RoaringBitmap::new();
        }
        self.has_staged = false;
        self.save_index();
        checkpoint_if_due(&self.log, self.version, &self.record.table);
    }

    /// Puts the vectors of files that keep some rows, by file number.
    async fn write_vectors(&self) -> Result<HashMap<usize, Descriptor>> {
        let changed: Vec<usize> = (0..self.files.len())
            .filter(|number| {
                let file = &self.files[*number];
                !file.removed && file.dirty && file.live_rows() > 0
            })
            .collect();
        let bitmaps: Vec<&RoaringBitmap> = changed.iter().map(|number| &self.files[*number].deleted).collect();
        let mut descriptors = Vec::with_capacity(changed.len());
        for pack in deletion_vector::pack(&bitmaps)? {
            let path = self.log.file(&pack.path);
            let put = self.log.store().put(&path, PutPayload::from(pack.bytes)).await;
            put.map_err(|e| log::store_error("cannot write to", self.log.url(), e))?;
            descriptors.extend(pack.descriptors);
        }
        Ok(changed.into_iter().zip(descriptors).collect())
    }

    /// Puts a copy that is whole in the place of the table's content, as one
    /// version of the table. Returns that version, or `None` if this is no copy.
    pub async fn replace(&mut self) -> Result<Option<u64>> {
        let Some(mut old) = self.replaces.take() else {
            return Ok(None);
        };
        loop {
            let carried = self.carry_deleted(&old).await?;
            let batch_number = old.batch_number + 1;
            let is_history = self.shape.mode.is_history();
            let gone = old.files.iter().filter(|_| !is_history);
            let mut actions: Vec<Value> = gone.map(|file| file.remove_action(true)).collect();
            let live = self.files.iter().filter(|file| !file.removed);
            actions.extend(live.map(|file| file.add_action(file.vector.as_ref(), true)));
            let record = TableRecord {
                generation: old.record.generation + 1,
                copy: None,
                reason: None,
                next_sequence: self.system.next(),
                ..self.record.clone()
            };
            if old.shape.features != self.shape.features {
                actions.push(self.shape.protocol_action());
            }
            actions.push(self.shape.metadata_action(&record.table, &self.schema));
            actions.push(self.shape.domain_action());
            actions.push(record.txn_action(batch_number));
            actions.push(record.domain_action());
            failpoint::reach("replace.files");
            if old.log.commit(old.version + 1, "REPLACE", actions).await? == Commit::Conflict {
                old.reload().await?;
                for number in carried {
                    self.files[number] = DataFile::gone();
                }
                continue;
            }
            failpoint::reach("replace.put");
            for number in carried {
                self.files[number].committed = true;
            }
            if is_history {
                self.continue_with(std::mem::take(&mut old.files));
            }
            let copy = std::mem::replace(&mut self.log, old.log.clone());
            self.version = old.version + 1;
            self.batch_number = batch_number;
            self.record = record;
            self.index.rename(self.log.log_url());
            self.end_index();
            checkpoint_if_due(&self.log, self.version, &self.record.table);
            copy.discard([]).await;
            return Ok(Some(self.version));
        }
    }

    /// Ends the writing of this table: its log, and that of a table which it
    /// was to replace, as they are now.
    pub async fn retire(self, pipeline: &str) -> Result<Opened> {
        let log = self.replaces.map_or(self.log, |old| old.log);
        Opened::read(log, pipeline).await?.ok_or_else(|| {
            Error::operator(format!("the lake table of {} is gone", self.record.table))
                .with_hint("run again: a table without a lake table is copied anew")
        })
    }
}

fn checkpoint_if_due(log: &Log, version: u64, table: &str) {
    if !log.checkpoint_is_due(version) {
        return;
    }
    let (log, table) = (log.clone(), table.to_owned());
    tokio::spawn(async move {
        let span = span!("checkpoint", table, version = version as i64);
        match within(span, log.checkpoint(version)).await {
            Ok(()) => tracing::info!(%table, version, "wrote checkpoint"),
            // The log is whole without it; the next one makes up for it.
            Err(error) => tracing::warn!(%table, version, %error, "checkpoint failed"),
        }
    });
}

fn is_live(files: &[DataFile], location: Location) -> bool {
    files
        .get(location.file() as usize)
        .is_some_and(|file| !file.removed && !file.deleted.contains(location.row()))
}

fn is_marked(files: &[DataFile], location: Location) -> bool {
    files
        .get(location.file() as usize)
        .is_some_and(|file| file.marked.contains(location.row()))
}

/// The rows of a file that are not deleted.
fn undeleted(rows: u32, deleted: &RoaringBitmap) -> Vec<u32> {
    (0..rows).filter(|row| !deleted.contains(*row)).collect()
}

fn sorted(columns: &[usize]) -> Vec<usize> {
    let mut columns = columns.to_vec();
    columns.sort_unstable();
    columns.dedup();
    columns
}

/// A URL of the lake as a person would type it.
pub fn shown(url: &Url) -> String {
    if !store::is_local(url) {
        return url.to_string();
    }
    url.to_file_path()
        .map_or_else(|()| url.to_string(), |p| p.display().to_string())
}
