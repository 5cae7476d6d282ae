//! The Delta log of one table: load, commit by put-if-absent, checkpoint.
//!
//! Reading and checkpoints are `delta_kernel`'s; commits are our own JSON,
//! since one commit carries data, `txn` and `domainMetadata` under our own
//! conflict rules. Spec: Delta protocol, "Delta Log Entries" and "Actions".

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::{filter_record_batch, is_null};
use arrow::datatypes::{Int32Type, Int64Type};
use delta_kernel::actions::deletion_vector::DeletionVectorDescriptor;
use delta_kernel::engine::arrow_data::ArrowEngineData;
use delta_kernel::{Engine, EngineData, KernelError, Snapshot, Version};
use delta_kernel_default_engine::executor::tokio::TokioMultiThreadExecutor;
use delta_kernel_default_engine::{DefaultEngine, DefaultEngineBuilder};
use object_store::path::{Path, PathPart};
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use roaring::RoaringBitmap;
use serde_json::{Value, json};
use url::Url;
use uuid::Uuid;

use super::deletion_vector::{self, Descriptor};
use super::{feed, shown, store};
use crate::config::Mode;
use crate::error::{Error, Result};
use crate::failpoint;
use crate::partition::{self, Values};

type KernelEngine = DefaultEngine<TokioMultiThreadExecutor>;

/// The domain of our `domainMetadata` actions.
pub const DOMAIN: &str = "tributary";
/// The domain that has a table's shape; it changes rarely.
pub const SHAPE_DOMAIN: &str = "tributary.shape";

/// How often a commit is put that nobody else's is in the way of.
const COMMIT_TRIES: usize = 3;

/// A data file that the log has live.
#[derive(Clone, Debug)]
pub struct LiveFile {
    pub path: String,
    pub size: i64,
    pub modification_time: i64,
    /// The `stats` JSON as the log has it; it goes unchanged into the next `add`.
    pub stats: Option<String>,
    pub partition: Values,
    pub deletion_vector: Option<Descriptor>,
    pub deleted: RoaringBitmap,
}

impl LiveFile {
    /// The file that an `add` names, with what its vector says still to be read;
    /// `None` if the action can't be understood.
    pub fn of(add: &Value) -> Option<Self> {
        Some(Self {
            path: add["path"].as_str()?.to_owned(),
            size: add["size"].as_i64()?,
            modification_time: add["modificationTime"].as_i64().unwrap_or_default(),
            stats: add["stats"].as_str().map(str::to_owned),
            partition: {
                let of = add["partitionValues"].as_object().into_iter().flatten();
                partition::values(of.map(|(name, value)| (name.clone(), value.as_str().map(str::to_owned))))
            },
            deletion_vector: match &add["deletionVector"] {
                Value::Null => None,
                vector => Some(serde_json::from_value(vector.clone()).ok()?),
            },
            deleted: RoaringBitmap::new(),
        })
    }
}

/// Versions between two checkpoints at most, and at least.
pub const CHECKPOINT_VERSIONS_MAX: u64 = 100;
const CHECKPOINT_VERSIONS_MIN: u64 = 8;

/// The entries since the newest checkpoint, which readers read one by one, as
/// far as this program knows.
#[derive(Debug, Default)]
struct Tail {
    entries: AtomicU64,
    bytes: AtomicU64,
    checkpoint_bytes: AtomicU64,
    /// Whether a checkpoint is being written.
    busy: AtomicBool,
}

/// How long a checkpoint is waited for.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(10);

/// Table features that this program keeps when it writes.
pub const FEATURES: [&str; 6] = [
    "appendOnly",
    feed::FEATURE,
    "columnMapping",
    "deletionVectors",
    "domainMetadata",
    "timestampNtz",
];

/// A table at one version.
pub struct LogState {
    pub version: Version,
    /// The `configuration` of our domain; absent in a table that isn't ours.
    pub domain: Option<String>,
    /// The `configuration` of our shape's domain.
    pub shape: Option<String>,
    /// The last `txn` version of an application id.
    pub txn: Option<i64>,
    /// Whether the protocol has the change data feed, and whether it is on.
    pub has_feed: bool,
    pub feed: bool,
    pub files: Vec<LiveFile>,
}

/// What became of a commit.
#[derive(Debug, PartialEq, Eq)]
pub enum Commit {
    Committed,
    /// The version was there already, by another writer.
    Conflict,
}

#[derive(Clone)]
pub struct Log {
    store: Arc<dyn ObjectStore>,
    engine: Arc<KernelEngine>,
    /// Where the files are. Ends with a slash.
    url: Url,
    root: Path,
    /// Where `_delta_log` is: beside the files, but for a copy that is hidden
    /// from readers.
    log_url: Url,
    log_root: Path,
    tail: Arc<Tail>,
}

impl Log {
    pub fn new(store: Arc<dyn ObjectStore>, url: Url) -> Result<Self> {
        Self::apart(store, url.clone(), url)
    }

    /// A log at `log_url` for files at `url`.
    pub fn apart(store: Arc<dyn ObjectStore>, url: Url, log_url: Url) -> Result<Self> {
        let executor = TokioMultiThreadExecutor::new(tokio::runtime::Handle::current());
        let engine = DefaultEngineBuilder::new(store.clone())
            .with_task_executor(Arc::new(executor))
            .build();
        Ok(Self {
            store,
            engine: Arc::new(engine),
            root: store::root_path(&url)?,
            log_root: store::root_path(&log_url)?,
            url,
            log_url,
            tail: Arc::default(),
        })
    }

    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Where the log itself is, which tells tables apart.
    pub fn log_url(&self) -> &Url {
        &self.log_url
    }

    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The full path of a file of the table, as the log spells it: percent-encoded.
    /// What other programs wrote may have a `%` of its own.
    pub fn file(&self, relative: &str) -> Path {
        let decoded = percent_encoding::percent_decode_str(relative).decode_utf8_lossy();
        let parts = decoded.split('/').filter(|part| !part.is_empty());
        parts.fold(self.root.clone(), |path, part| {
            // What is no name as it is, such as `..`, is one once it is encoded.
            path.join(PathPart::parse(part).unwrap_or_else(|_| PathPart::from(part)))
        })
    }

    /// Where the files are.
    pub fn folder(&self) -> &Path {
        &self.root
    }

    pub fn log_folder(&self) -> Path {
        self.log_root.clone().join("_delta_log")
    }

    /// What tells readers of a checkpoint.
    pub fn hint(&self) -> Path {
        self.log_folder().join("_last_checkpoint")
    }

    fn entry(&self, version: Version) -> Path {
        self.log_folder().join(format!("{version:020}.json"))
    }

    /// Removes the log itself, and files that nothing names any more. What
    /// can't be removed is only litter.
    pub async fn discard(&self, files: impl IntoIterator<Item = String>) {
        use futures::TryStreamExt;
        // A checkpoint that is being written would be left.
        let deadline = Instant::now() + CHECKPOINT_TIMEOUT;
        while self.tail.busy.load(Ordering::Relaxed) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let entries = self.store.list(Some(&self.log_folder())).map_ok(|meta| meta.location);
        let mut paths: Vec<Path> = entries.try_collect().await.unwrap_or_default();
        paths.extend(files.into_iter().map(|path| self.file(&path)));
        for path in paths {
            if let Err(error) = self.store.delete(&path).await {
                tracing::debug!(%path, %error, "cannot remove a file that is not used any more");
            }
        }
    }

    /// Reads the newest version, or `None` where there is no table.
    pub async fn load(&self, app_id: &str) -> Result<Option<LogState>> {
        self.load_version(app_id, None).await
    }

    /// Reads one version.
    pub async fn load_at(&self, app_id: &str, version: Version) -> Result<Option<LogState>> {
        self.load_version(app_id, Some(version)).await
    }

    async fn load_version(&self, app_id: &str, version: Option<Version>) -> Result<Option<LogState>> {
        use futures::TryStreamExt;
        let first = self.store.list(Some(&self.log_folder())).try_next().await;
        match first {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(None),
            Err(e) if store::is_absent(&e) => return Ok(None),
            Err(e) => return Err(store_error("cannot list", &self.url, e)),
        }
        let (engine, app_id) = (self.engine.clone(), app_id.to_owned());
        let (log_url, url) = (self.log_url.clone(), self.url.clone());
        let state = tokio::task::spawn_blocking(move || load(&engine, &log_url, &url, &app_id, version)).await;
        state
            .map_err(|e| Error::bug("reading a Delta log panicked").with_source(e))?
            .map(Some)
    }

    /// Puts one commit, if no other has taken its version.
    ///
    /// A put whose answer got lost, or that was refused, is settled by reading
    /// the entry back: it may have been refused for it was there already, by
    /// itself. If nothing is there, it is put again.
    pub async fn commit(&self, version: Version, operation: &str, mut actions: Vec<Value>) -> Result<Commit> {
        let id = Uuid::new_v4().to_string();
        let info = json!({"commitInfo": {
            "timestamp": now_ms(),
            "operation": operation,
            "operationParameters": {},
            "engineInfo": concat!("tributary/", env!("CARGO_PKG_VERSION")),
            "txnId": id,
        }});
        actions.insert(0, info);
        let mut text = String::new();
        for action in &actions {
            text.push_str(&action.to_string());
            text.push('\n');
        }
        let path = self.entry(version);
        let bytes = text.len() as u64;
        let payload = PutPayload::from(text);
        let mut tries = 0;
        loop {
            tries += 1;
            let put = self.store.put_opts(&path, payload.clone(), PutMode::Create.into());
            let Err(error) = put.await else {
                self.note(bytes);
                return Ok(Commit::Committed);
            };
            match self.read(version).await {
                Ok(Some(entry)) if entry.iter().any(|a| a["commitInfo"]["txnId"] == id) => {
                    self.note(bytes);
                    return Ok(Commit::Committed);
                }
                Ok(Some(_)) => return Ok(Commit::Conflict),
                Ok(None) if tries < COMMIT_TRIES && !store::is_local(&self.log_url) => {}
                _ => return Err(store_error("cannot commit to", &self.url, error)),
            }
        }
    }

    fn note(&self, bytes: u64) {
        self.tail.entries.fetch_add(1, Ordering::Relaxed);
        self.tail.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether a version is to get a checkpoint now, from who asks: so that all
    /// checkpoints are no larger than all entries, and readers never meet many entries.
    pub fn checkpoint_is_due(&self, version: Version) -> bool {
        let tail = &self.tail;
        let enough = tail.entries.load(Ordering::Relaxed) >= CHECKPOINT_VERSIONS_MIN
            && tail.bytes.load(Ordering::Relaxed) >= tail.checkpoint_bytes.load(Ordering::Relaxed);
        let due = enough || version.is_multiple_of(CHECKPOINT_VERSIONS_MAX);
        due && !tail.busy.swap(true, Ordering::Relaxed)
    }

    /// The actions of one version, or `None` if it isn't there.
    pub async fn read(&self, version: Version) -> Result<Option<Vec<Value>>> {
        let result = match self.store.get(&self.entry(version)).await {
            Ok(result) => result,
            Err(e) if store::is_absent(&e) => return Ok(None),
            Err(e) => return Err(store_error("cannot read the log of", &self.url, e)),
        };
        let bytes = result
            .bytes()
            .await
            .map_err(|e| store_error("cannot read the log of", &self.url, e))?;
        entry_actions(&bytes)
            .map(Some)
            .map_err(|e| Error::operator(format!("version {version} of {} is not JSON", self.url)).with_source(e))
    }

    /// The rows that deletion vectors name.
    pub async fn vectors(&self, descriptors: Vec<Descriptor>) -> Result<Vec<RoaringBitmap>> {
        let (engine, url) = (self.engine.clone(), self.url.clone());
        let read = tokio::task::spawn_blocking(move || {
            let read = |descriptor: &Descriptor| read_vector(descriptor, &engine, &url);
            descriptors.iter().map(read).collect::<Result<Vec<_>>>()
        });
        read.await
            .map_err(|e| Error::bug("reading a deletion vector panicked").with_source(e))?
    }

    /// Writes a checkpoint of a version. Blocking work on its own thread.
    ///
    /// It tells nothing of what was removed: with a new vector for each file in
    /// each commit, that would outgrow the table, and readers have no use for it.
    pub async fn checkpoint(&self, version: Version) -> Result<()> {
        self.tail.busy.store(true, Ordering::Relaxed);
        let written = self.write_checkpoint(version).await;
        self.tail.busy.store(false, Ordering::Relaxed);
        written
    }

    async fn write_checkpoint(&self, version: Version) -> Result<()> {
        let failed = || Error::transient(format!("cannot write a checkpoint of {}", self.url));
        let (engine, url, tail) = (self.engine.clone(), self.log_url.clone(), &self.tail);
        // One that fails is tried again as late as the next.
        tail.entries.store(0, Ordering::Relaxed);
        tail.bytes.store(0, Ordering::Relaxed);
        let written = tokio::task::spawn_blocking(move || checkpoint(&engine, &url, version)).await;
        let hint = written
            .map_err(|e| Error::bug("writing a checkpoint panicked").with_source(e))?
            .map_err(|e| failed().with_source(e))?;
        failpoint::reach("checkpoint.file");
        if let Some(hint) = hint {
            let bytes = hint["sizeInBytes"].as_u64().unwrap_or_default();
            tail.checkpoint_bytes.store(bytes, Ordering::Relaxed);
            let path = self.hint();
            let put = self.store.put(&path, PutPayload::from(hint.to_string())).await;
            put.map_err(|e| failed().with_source(e))?;
        }
        Ok(())
    }
}

/// Returns what is to be the log's hint, unless the checkpoint is there.
fn checkpoint(engine: &KernelEngine, url: &Url, version: Version) -> Result<Option<Value>, KernelError> {
    let snapshot = Snapshot::builder_for(url.as_str()).at_version(version).build(engine)?;
    if snapshot.log_segment().checkpoint_version == Some(version) {
        return Ok(None);
    }
    let writer = snapshot.create_checkpoint_writer(engine)?;
    let (actions, adds) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let counts = (actions.clone(), adds.clone());
    let data = writer.checkpoint_data(engine)?.map(move |batch| {
        let data = ArrowEngineData::try_from_engine_data(batch?.apply_selection_vector()?)?;
        let kept = without_removes(data.record_batch())?;
        counts.0.fetch_add(kept.num_rows() as u64, Ordering::Relaxed);
        let added = kept.column_by_name("add").map_or(0, |add| add.len() - add.null_count());
        counts.1.fetch_add(added as u64, Ordering::Relaxed);
        Ok(Box::new(ArrowEngineData::new(kept)) as Box<dyn EngineData>)
    });
    let size = engine
        .parquet_handler()
        .write_parquet_file(writer.checkpoint_path()?, Box::new(data))?;
    Ok(Some(json!({
        "version": version,
        "size": actions.load(Ordering::Relaxed),
        "sizeInBytes": size,
        "numOfAddFiles": adds.load(Ordering::Relaxed),
    })))
}

/// Rows of a checkpoint but those that are removes.
fn without_removes(rows: &RecordBatch) -> Result<RecordBatch, KernelError> {
    let Some(removes) = rows.column_by_name("remove") else {
        return Ok(rows.clone());
    };
    Ok(filter_record_batch(rows, &is_null(removes)?)?)
}

/// The actions of an entry, one a line.
pub fn entry_actions(bytes: &[u8]) -> serde_json::Result<Vec<Value>> {
    serde_json::Deserializer::from_slice(bytes).into_iter().collect()
}

/// What a table without deletion vectors begins with, but for its domains. The
/// feature keeps others from vacuuming what they don't know.
pub fn creation(name: &str, fields: Vec<Value>) -> Vec<Value> {
    vec![
        json!({"protocol": {
            "minReaderVersion": 1, "minWriterVersion": 7, "writerFeatures": ["domainMetadata"],
        }}),
        json!({"metaData": {
            "id": Uuid::new_v4().to_string(),
            "name": name,
            "format": {"provider": "parquet", "options": {}},
            "schemaString": json!({"type": "struct", "fields": fields}).to_string(),
            "partitionColumns": [],
            "configuration": {},
            "createdTime": now_ms(),
        }}),
    ]
}

pub fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as i64)
}

/// Gives a store's error its class: what a full or read-only disk says waits
/// for a person, the rest passes.
pub fn store_error(what: &str, url: &Url, error: StoreError) -> Error {
    use std::io::ErrorKind;
    if !store::is_local(url) {
        return store::error(what, url, &error);
    }
    let mut kind = None;
    let mut cause: Option<&dyn std::error::Error> = Some(&error);
    while let Some(e) = cause {
        if let Some(io) = e.downcast_ref::<std::io::Error>() {
            kind = Some(io.kind());
        }
        cause = e.source();
    }
    let message = format!("{what} {}", shown(url));
    match kind {
        Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
            Error::transient(format!("{message}: no space left"))
                .with_hint("free space where lake.url points; nothing is lost, the source keeps its log until then")
                .with_source(error)
        }
        Some(
            ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::NotADirectory
            | ErrorKind::NotFound,
        ) => Error::operator(message)
            .with_hint("make the folder of lake.url writable for this user, or set another lake.url")
            .with_source(error),
        _ => Error::transient(message).with_source(error),
    }
}

/// Gives an error of the kernel its class: a log that can't be understood
/// waits for a person, a store's failure is the store's.
fn kernel_error(what: &str, url: &Url, error: KernelError) -> Error {
    match store::of_kernel(&error) {
        Some(found) if !store::is_local(url) => store::error(what, url, found),
        _ => Error::operator(format!("{what} {url}"))
            .with_hint(
                "restore the table's _delta_log, or move the table's folder away and run again: it is copied anew",
            )
            .with_source(error),
    }
}

fn load(engine: &KernelEngine, log_url: &Url, url: &Url, app_id: &str, version: Option<Version>) -> Result<LogState> {
    let kernel = |e: KernelError| kernel_error("cannot read the Delta table", log_url, e);
    let mut builder = Snapshot::builder_for(log_url.as_str());
    if let Some(version) = version {
        builder = builder.at_version(version);
    }
    let snapshot = builder.build(engine).map_err(kernel)?;
    let domain = snapshot.get_domain_metadata(DOMAIN, engine).map_err(kernel)?;
    let features = snapshot.table_configuration().protocol().writer_features();
    let unknown = features
        .iter()
        .flat_map(|features| features.iter())
        .find(|f| !FEATURES.contains(&f.as_ref()));
    if let (Some(feature), Some(_)) = (unknown, &domain) {
        return Err(Error::operator(format!(
            "{} has the table feature {}, which another program turned on",
            shown(url),
            feature.as_ref()
        ))
        .with_hint("drop the feature, or move the table's folder away and run again: the table is copied anew"));
    }
    let has_feed = features.is_some_and(|features| features.iter().any(|f| f.as_ref() == feed::FEATURE));
    let feed = has_feed && snapshot.table_properties().enable_change_data_feed == Some(true);
    let txn = snapshot.get_app_id_version(app_id, engine).map_err(kernel)?;
    let shape = snapshot.get_domain_metadata(SHAPE_DOMAIN, engine).map_err(kernel)?;
    let told: Option<Value> = shape.as_deref().and_then(|shape| serde_json::from_str(shape).ok());
    let is_history = told.is_some_and(|shape| shape["mode"] == Mode::History.as_str());
    if domain.is_some() && !is_history && snapshot.table_properties().append_only == Some(true) {
        return Err(Error::operator(format!(
            "{} has delta.appendOnly = true, which another program set",
            shown(url)
        ))
        .with_hint("unset it: rows of this table are updated and deleted"));
    }
    let version = snapshot.version();
    let scan = snapshot.scan_builder().build().map_err(kernel)?;
    let mut files = Vec::new();
    for metadata in scan.scan_metadata(engine).map_err(kernel)? {
        let data = metadata
            .map_err(kernel)?
            .scan_files
            .apply_selection_vector()
            .map_err(kernel)?;
        let data = data
            .into_any()
            .downcast::<ArrowEngineData>()
            .map_err(|_| Error::bug("the Delta kernel returned data that is not Arrow"))?;
        live_files(data.record_batch(), engine, url, &mut files)?;
    }
    Ok(LogState {
        version,
        domain,
        shape,
        txn,
        has_feed,
        feed,
        files,
    })
}

/// Reads the kernel's scan rows: path, size, modificationTime, stats, deletionVector,
/// partitionValues.
fn live_files(rows: &RecordBatch, engine: &KernelEngine, url: &Url, files: &mut Vec<LiveFile>) -> Result<()> {
    let missing = || Error::bug("the Delta kernel's scan rows miss a column");
    let column = |name: &str| rows.column_by_name(name).ok_or_else(missing);
    let (paths, sizes) = (
        column("path")?.as_string::<i32>(),
        column("size")?.as_primitive::<Int64Type>(),
    );
    let times = column("modificationTime")?.as_primitive::<Int64Type>();
    let stats = column("stats")?.as_string::<i32>();
    let vectors = column("deletionVector")?.as_struct();
    let constants = column("fileConstantValues")?.as_struct();
    let partitions = constants
        .column_by_name("partitionValues")
        .ok_or_else(missing)?
        .as_map();
    let (names, values) = (
        partitions.keys().as_string::<i32>(),
        partitions.values().as_string::<i32>(),
    );
    let partition = |row: usize| {
        let offsets = partitions.value_offsets();
        let (from, to) = match partitions.is_valid(row) {
            true => (offsets[row] as usize, offsets[row + 1] as usize),
            false => (0, 0),
        };
        let value = |at: usize| values.is_valid(at).then(|| values.value(at).to_owned());
        partition::values((from..to).map(|at| (names.value(at).to_owned(), value(at))))
    };
    let part = |name: &str| vectors.column_by_name(name).ok_or_else(missing);
    let (kinds, dv_paths) = (
        part("storageType")?.as_string::<i32>(),
        part("pathOrInlineDv")?.as_string::<i32>(),
    );
    let (offsets, dv_sizes) = (
        part("offset")?.as_primitive::<Int32Type>(),
        part("sizeInBytes")?.as_primitive::<Int32Type>(),
    );
    let cardinalities = part("cardinality")?.as_primitive::<Int64Type>();
    for row in 0..rows.num_rows() {
        let descriptor = (vectors.is_valid(row) && kinds.is_valid(row)).then(|| Descriptor {
            storage_type: kinds.value(row).to_owned(),
            path_or_inline_dv: dv_paths.value(row).to_owned(),
            offset: offsets.is_valid(row).then(|| offsets.value(row)),
            size_in_bytes: dv_sizes.value(row),
            cardinality: cardinalities.value(row),
        });
        let deleted = match &descriptor {
            Some(descriptor) => read_vector(descriptor, engine, url)?,
            None => RoaringBitmap::new(),
        };
        files.push(LiveFile {
            path: paths.value(row).to_owned(),
            size: sizes.value(row),
            modification_time: times.value(row),
            stats: stats.is_valid(row).then(|| stats.value(row).to_owned()),
            partition: partition(row),
            deletion_vector: descriptor,
            deleted,
        });
    }
    Ok(())
}

fn read_vector(descriptor: &Descriptor, engine: &KernelEngine, url: &Url) -> Result<RoaringBitmap> {
    let unreadable = |e: KernelError| kernel_error("cannot read a deletion vector of", url, e);
    let kind = descriptor.storage_type.parse().map_err(unreadable)?;
    let vector = DeletionVectorDescriptor::try_new(
        kind,
        descriptor.path_or_inline_dv.clone(),
        descriptor.offset,
        descriptor.size_in_bytes,
        descriptor.cardinality,
    )
    .map_err(unreadable)?;
    let rows = vector.row_indexes(engine.storage_handler(), url).map_err(unreadable)?;
    deletion_vector::from_rows(rows)
}
