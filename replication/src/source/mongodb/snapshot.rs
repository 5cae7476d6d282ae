//! Chunks of a collection, each by a range of its `_id` index, and documents by
//! key: all of them as of one cluster time, which is what a chunk saw.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{RecordBatch, StringArray};
use bson::{Bson, Document, doc};
use mongodb::Client;
use mongodb::options::SelectionCriteria;
use xxhash_rust::xxh3::xxh3_128;

use super::columns::{id_back, malformed};
use super::cursor::{self, Batch, Batches, code, snapshot_at, timestamp};
use super::json;
use super::raw::{self, Value};
use super::rows::Rows;
use super::table::SourceTable;
use super::transform::Transformer;
use crate::error::{Error, Result};
use crate::lake::{PartProgress, PointRead};
use crate::position::{ClusterTime, Position, ResumePoint};
use crate::source::{Begun, ChunkStart, Part, RowVersions, SourceTable as _, Throttle};

/// What a block is of, in bytes.
pub const BLOCK_BYTES: u64 = 16 << 20;
/// Random documents for each bound of a block: the more, the more even.
const SAMPLES_PER_BLOCK: u64 = 10;
/// The server takes random documents one by one up to a twentieth of all.
const SAMPLE_SHARE: u64 = 25;
/// What a batch of rows holds at most.
const BATCH_ROWS: usize = 8 << 10;
const BATCH_BYTES: usize = 8 << 20;
/// Keys of one query.
const QUERY_KEYS: usize = 1000;
/// What documents read by key may take at a time.
const POINT_BYTES: usize = 32 << 20;

/// The code of the error that a document does not fit the table's key.
pub const OTHER_KEY: &str = "other key";

/// How collections are read.
#[derive(Clone)]
pub struct Access {
    pub client: Client,
    pub criteria: Option<SelectionCriteria>,
    /// What names the replica set, for positions.
    pub set: String,
    pub told: Told,
}

/// How far the stream has told everything: another member may be behind.
#[derive(Clone, Debug, Default)]
pub struct Told(Arc<AtomicU64>);

impl Told {
    pub fn note(&self, time: ClusterTime) {
        self.0.fetch_max(time.0, Ordering::AcqRel);
    }

    fn get(&self) -> ClusterTime {
        ClusterTime(self.0.load(Ordering::Acquire))
    }
}

impl Access {
    /// The newest time that most members have, but not before `after`, nor
    /// before what the stream has told.
    pub async fn newest(&self, table: &SourceTable, after: Option<ClusterTime>) -> Result<ClusterTime> {
        let database = self.client.database(&table.id.schema);
        let mut concern = snapshot_at(None);
        if let Some(after) = after.max(Some(self.told.get())).filter(|time| time.0 > 0) {
            // The read waits until the member is there.
            concern.insert("afterClusterTime", timestamp(after));
        }
        let find = doc! {
            "find": &table.id.name, "limit": 1, "projection": {"_id": 1}, "singleBatch": true, "readConcern": concern,
        };
        let (_, time) = cursor::all(&database, find, self.criteria.clone()).await?;
        // A collection that is not there has no time.
        time.ok_or_else(|| {
            Error::transient(format!("{} is not there any more", table.id))
                .with_code(code::NAMESPACE_NOT_FOUND.to_string())
        })
    }

    pub fn point(&self, time: ClusterTime) -> ResumePoint {
        ResumePoint {
            time,
            whole: true,
            token: String::new(),
            set: self.set.clone(),
        }
    }
}

/// Reads one collection.
pub struct Reader {
    access: Access,
    table: Arc<SourceTable>,
    throttle: Arc<Throttle>,
    /// What chunks have to be as new as.
    least: Option<ClusterTime>,
    /// The time of the open chunk.
    time: Option<ClusterTime>,
    batches: Option<Batches>,
    /// A reply that is read in part.
    batch: Option<Batch>,
    transformer: Transformer,
    rows: Rows,
    /// Of each row, where rows are read by key.
    versions: Option<Vec<String>>,
}

impl Reader {
    pub fn new(access: Access, table: Arc<SourceTable>, throttle: Arc<Throttle>) -> Self {
        Self {
            rows: Rows::new(table.fields.clone(), table.schema().arrow()),
            transformer: Transformer::new(table.transform.clone()),
            access,
            table,
            throttle,
            least: None,
            time: None,
            batches: None,
            batch: None,
            versions: None,
        }
    }

    async fn open(&mut self) -> Result<ClusterTime> {
        let time = self.access.newest(&self.table, self.least).await?;
        self.time = Some(time);
        Ok(time)
    }

    /// Starts reading documents of the collection, which must be the one that
    /// we know.
    fn find(&mut self, mut command: Document) {
        command.insert("readConcern", snapshot_at(self.time));
        let uuid = bson::Binary {
            subtype: bson::spec::BinarySubtype::Uuid,
            bytes: self.table.uuid.to_vec(),
        };
        command.insert("collectionUUID", uuid);
        let database = self.access.client.database(&self.table.id.schema);
        self.batch = None;
        self.batches = Some(Batches::open(&database, command, self.access.criteria.clone(), None));
    }

    async fn next_rows(&mut self) -> Result<Option<RecordBatch>> {
        let Some(batches) = &mut self.batches else {
            return Ok(None);
        };
        while self.rows.len() < BATCH_ROWS && self.rows.bytes < BATCH_BYTES {
            if self.batch.is_none() {
                self.batch = batches.next().await?;
                if let Some(batch) = &self.batch {
                    self.throttle.take(batch.bytes() as u64).await;
                }
            }
            let Some(batch) = &mut self.batch else {
                self.batches = None;
                break;
            };
            while self.rows.len() < BATCH_ROWS && self.rows.bytes < BATCH_BYTES {
                let Some(document) = batch.document() else {
                    self.batch = None;
                    break;
                };
                let document = document?;
                let id = raw::field(document, "_id").map_err(malformed)?;
                if !id.is_some_and(|id| self.rows.takes_key(id)) {
                    let what = self.table.other_kind();
                    return Err(Error::transient(format!("{}: {what}", self.table.id)).with_code(OTHER_KEY));
                }
                let document = self.transformer.document(document).map_err(malformed)?;
                self.rows.append(document)?;
                if let Some(versions) = &mut self.versions {
                    versions.push(format!("{:032x}", xxh3_128(document)));
                }
            }
        }
        match self.rows.len() {
            0 => Ok(None),
            _ => self.rows.finish().map(Some),
        }
    }

    /// Starts reading documents by key.
    fn find_keys(&mut self, keys: &RecordBatch) -> Result<()> {
        let kind = self.table.fields.key();
        let ids = (0..keys.num_rows()).map(|row| id_back(kind, keys.column(0).as_ref(), row));
        let ids = ids.collect::<Result<Vec<Bson>>>()?;
        self.find(doc! {"find": &self.table.id.name, "filter": {"_id": {"$in": ids}}});
        Ok(())
    }

    /// Rows by key, as many as fit in memory, and a position past all that
    /// they show.
    pub async fn read_keys(&mut self, keys: &RecordBatch) -> Result<PointRead> {
        let time = self.open().await?;
        let (mut found, mut asked, mut bytes, mut step) = (Vec::new(), 0, 0, 1);
        while asked < keys.num_rows() && bytes < POINT_BYTES {
            let count = step.min(keys.num_rows() - asked);
            self.find_keys(&keys.slice(asked, count))?;
            while let Some(batch) = self.next_rows().await? {
                bytes += batch.get_array_memory_size();
                found.push(batch);
            }
            asked += count;
            // What those before took tells how many the next ones may be.
            let left = POINT_BYTES.saturating_sub(bytes) / (bytes / asked).max(1);
            step = left.clamp(1, (4 * step).min(QUERY_KEYS));
        }
        let rows = arrow::compute::concat_batches(&self.table.schema().arrow(), &found)
            .map_err(|e| Error::bug("batches of one table differ").with_source(e))?;
        Ok(PointRead {
            rows,
            asked,
            high: Position::Resume(Arc::new(self.access.point(time))),
        })
    }

    /// The keys that each block but the first begins with.
    async fn bounds(&self) -> Result<Vec<String>> {
        let database = self.access.client.database(&self.table.id.schema);
        let Some(size) = size(&database, &self.table.id.name).await? else {
            return Ok(Vec::new());
        };
        let blocks = size.bytes.div_ceil(BLOCK_BYTES).max(1);
        let samples = (blocks * SAMPLES_PER_BLOCK).min(size.documents / SAMPLE_SHARE);
        let blocks = blocks.min(samples);
        if blocks < 2 {
            return Ok(Vec::new());
        }
        let command = doc! {
            "aggregate": &self.table.id.name,
            "pipeline": [{"$sample": {"size": samples as i64}}, {"$project": {"_id": 1}}, {"$sort": {"_id": 1}}],
            "cursor": {"batchSize": 100_000},
            "allowDiskUse": true,
        };
        let mut batches = Batches::open(&database, command, self.access.criteria.clone(), None);
        let mut bounds: Vec<String> = Vec::new();
        let mut seen = 0;
        while let Some(mut batch) = batches.next().await? {
            while let Some(document) = batch.document() {
                let document = document?;
                seen += 1;
                if bounds.len() as u64 + 1 < blocks && seen * blocks >= (bounds.len() as u64 + 1) * samples {
                    let id = raw::field(document, "_id").map_err(malformed)?;
                    let bound = id.map(bound_text).transpose()?.unwrap_or_default();
                    if bounds.last() != Some(&bound) {
                        bounds.push(bound);
                    }
                }
            }
        }
        Ok(bounds)
    }
}

fn bound_text(id: Value<'_>) -> Result<String> {
    let mut text = Vec::new();
    json::write(id, &mut text).map_err(malformed)?;
    String::from_utf8(text).map_err(|e| Error::bug("JSON that is not UTF-8").with_source(e))
}

/// A bound as `min` and `max` take it.
fn bound(text: &str) -> Result<Document> {
    let mut bytes = Vec::new();
    let begun = raw::begin(&mut bytes);
    let place = bytes.len();
    raw::name(&mut bytes, 0, b"_id");
    bytes[place] = json::read(text.as_bytes(), &mut bytes).map_err(malformed)?;
    raw::end(&mut bytes, begun);
    Document::from_reader(bytes.as_slice())
        .map_err(|e| Error::bug("a record has bounds that are not ours").with_source(e))
}

/// What a collection takes.
pub struct Size {
    pub bytes: u64,
    pub documents: u64,
}

/// `None` if it is gone, or we may not know.
pub async fn size(database: &mongodb::Database, collection: &str) -> Result<Option<Size>> {
    let reply = cursor::command(
        database,
        "cannot see how large a collection is",
        doc! {"collStats": collection},
    )
    .await;
    let reply = match reply {
        Ok(reply) => reply,
        Err(error) if error.class() == crate::error::Class::NeedsOperator => return Ok(None),
        Err(error) => return Err(error),
    };
    let number = |name| {
        let value: Option<&Bson> = reply.get(name);
        let value = value.and_then(|v| {
            v.as_i64()
                .or(v.as_i32().map(i64::from))
                .or(v.as_f64().map(|v| v as i64))
        });
        value.and_then(|v| u64::try_from(v).ok())
    };
    Ok(Some(Size {
        bytes: number("size").unwrap_or(0),
        documents: number("count").unwrap_or(0),
    }))
}

impl crate::source::Reader for Reader {
    /// Cluster times tell what is visible.
    async fn wait_for_writers(&mut self) -> Result<()> {
        Ok(())
    }

    async fn plan(&mut self, parts: &[Part], before: &[PartProgress]) -> Result<Option<Vec<PartProgress>>> {
        let mut plans = Vec::with_capacity(parts.len());
        for part in parts {
            plans.push(match PartProgress::earlier(before, part.relation) {
                Some(earlier) => earlier,
                None => PartProgress::of_ranges(part.relation, self.bounds().await?),
            });
        }
        Ok(Some(plans))
    }

    async fn begin(&mut self, _: Option<(&Part, &PartProgress)>) -> Result<Begun> {
        let time = self.open().await?;
        Ok(Begun::Chunk(ChunkStart {
            saw: Arc::new(move |transaction| transaction <= time.0),
            high: Position::Resume(Arc::new(self.access.point(time))),
        }))
    }

    async fn read(&mut self, _: &Part, plan: &PartProgress, from: u64, to: u64) -> Result<()> {
        let mut command = doc! {"find": &self.table.id.name};
        let (min, max) = (plan.bound(from), plan.bound(to));
        if min.is_some() || max.is_some() {
            command.insert("hint", doc! {"_id": 1});
        }
        if let Some(min) = min {
            command.insert("min", bound(min)?);
        }
        if let Some(max) = max {
            command.insert("max", bound(max)?);
        }
        self.find(command);
        Ok(())
    }

    async fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        self.next_rows().await
    }

    async fn end(&mut self) -> Result<()> {
        (self.time, self.batches, self.batch) = (None, None, None);
        Ok(())
    }

    /// A document's version is what it consists of.
    async fn read_versions(&mut self, keys: &RecordBatch) -> Result<RowVersions> {
        let time = self.open().await?;
        let mut found = RowVersions {
            rows: Vec::new(),
            versions: Vec::new(),
            high: Position::Resume(Arc::new(self.access.point(time))),
        };
        for from in (0..keys.num_rows()).step_by(QUERY_KEYS) {
            self.find_keys(&keys.slice(from, QUERY_KEYS.min(keys.num_rows() - from)))?;
            self.versions = Some(Vec::new());
            while let Some(batch) = self.next_rows().await? {
                let versions = self.versions.replace(Vec::new()).unwrap_or_default();
                found.versions.push(StringArray::from(versions));
                found.rows.push(batch);
            }
        }
        self.versions = None;
        self.end().await?;
        Ok(found)
    }

    /// Reads wait until the member is there.
    async fn wait_for_commits(&mut self, watermark: &Position) -> Result<bool> {
        self.least = watermark.resume_point().map(ResumePoint::through).max(self.least);
        let waiting = self.access.newest(&self.table, self.least);
        match tokio::time::timeout(Duration::from_secs(30), waiting).await {
            Ok(newest) => newest.map(|_| true),
            Err(_) => Ok(false),
        }
    }
}

/// Whether an error says that the collection is not the one that we know, or
/// that a document does not fit the table any more.
pub fn is_gone(error: &Error) -> bool {
    let gone = [code::NAMESPACE_NOT_FOUND, code::COLLECTION_UUID_MISMATCH].map(|code| code.to_string());
    error
        .code()
        .is_some_and(|code| code == OTHER_KEY || gone.iter().any(|own| own == code))
}

/// Blocks that make a chunk of about `bytes`.
pub fn blocks_for(bytes: u64) -> u64 {
    (bytes / BLOCK_BYTES).max(1)
}
