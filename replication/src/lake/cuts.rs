//! `_tributary/cuts`: a Delta table of consistent cuts that any reader can
//! open. One row is one table of one cut.
//!
//! Each cut is one small file; they are put together now and then, and go once
//! they are older than what is to be kept. It has the same epochs as the
//! tables: a sidecar that finds a newer one adds nothing any more.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::compute::{filter_record_batch, kernels::cmp};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::temporal_conversions::timestamp_us_to_datetime;
use object_store::ObjectStoreExt;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};

use super::data_file::{self, FileWriter, WrittenFile};
use super::log::{Commit, DOMAIN, Log, LogState, creation, now_ms};
use super::mode::System;
use super::shape::delta_field;
use super::vacuum::Cleaning;
use super::{DataFile, Lake, shown};
use crate::error::{Error, Result};
use crate::failpoint;
use crate::position::Position;

/// The record form that this program reads and writes.
const FORMAT: u32 = 1;
const FOLDER: &str = "_tributary/cuts";
/// Small files at the end that are put together.
const FAN_IN: usize = 64;
/// Rows of a file that is put together no more: what is read at a time.
const FILE_ROWS: u32 = 16 << 10;
/// How long files stay that no version needs any more, for readers that have
/// opened an older one.
const GRACE: Duration = Duration::from_secs(3600);
/// How often others may be first to take a version.
const ATTEMPTS: usize = 5;

/// Versions of tables that show the source at one position.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cut {
    /// Ascending; given when it is written down.
    pub number: u64,
    pub position: Position,
    /// When the last transaction in it was committed at the source; when the
    /// cut was made, where no transaction has told yet. Microseconds since 1970.
    #[serde(serialize_with = "as_time")]
    pub committed_at: i64,
    #[serde(serialize_with = "as_time")]
    pub recorded_at: i64,
    pub tables: Vec<CutTable>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CutTable {
    /// `schema.table` at the source.
    pub table: String,
    /// Its folder, relative to the lake's.
    pub path: String,
    pub version: u64,
}

/// Microseconds since 1970 as RFC 3339.
pub fn shown_time(micros: i64) -> String {
    let time = timestamp_us_to_datetime(micros);
    time.map_or_else(
        || micros.to_string(),
        |time| time.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
    )
}

/// As [`shown_time`], for records that programs read.
pub fn as_time<S: Serializer>(micros: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&shown_time(*micros))
}

/// Who may add cuts.
#[derive(Debug, Serialize, Deserialize)]
struct CutRecord {
    format: u32,
    pipeline: String,
    epoch: u64,
}

/// What became of a cut that was to be added.
#[derive(Debug, PartialEq)]
pub enum Added {
    Cut {
        number: u64,
        version: u64,
    },
    /// It says no more than the last one does.
    Nothing,
    /// A newer sidecar adds cuts.
    Fenced,
}

/// All cuts, for reading.
pub struct Cuts {
    log: Log,
    /// The oldest first.
    files: Vec<CutFile>,
}

struct CutFile {
    data: DataFile,
    /// Numbers of its first and last cut.
    first: u64,
    last: u64,
}

impl CutFile {
    fn new(data: DataFile) -> Result<Self> {
        let stats: Value = serde_json::from_str(&data.stats).unwrap_or_default();
        let number = |bound: &str| stats[bound]["cut"].as_u64();
        let (first, last) = number("minValues").zip(number("maxValues")).ok_or_else(|| {
            Error::operator(format!("{} of {FOLDER} was written by others", data.path))
                .with_hint(format!("remove the folder {FOLDER} from the lake; cuts begin anew"))
        })?;
        Ok(Self { data, first, last })
    }

    fn written(file: WrittenFile, first: u64, last: u64) -> Self {
        let mut data = DataFile::written(file);
        data.committed = true;
        Self { data, first, last }
    }
}

impl Cuts {
    /// `None` where none was ever written.
    pub async fn open(lake: &Lake) -> Result<Option<Self>> {
        let log = lake.log(FOLDER)?;
        let Some(state) = log.load("").await? else {
            return Ok(None);
        };
        let files = files_of(&log, state).await?;
        Ok(Some(Self { log, files }))
    }

    pub async fn newest(&self) -> Result<Option<Cut>> {
        Ok(self.find(|_| true, 1).await?.pop())
    }

    pub async fn oldest(&self) -> Result<Option<Cut>> {
        match self.files.first() {
            Some(file) => Ok(read(&self.log, file).await?.into_iter().next()),
            None => Ok(None),
        }
    }

    /// The newest cuts that are `wanted`, `limit` of them at most, the newest first.
    pub async fn find(&self, wanted: impl Fn(&Cut) -> bool, limit: usize) -> Result<Vec<Cut>> {
        let mut found = Vec::new();
        for file in self.files.iter().rev() {
            let cuts = read(&self.log, file).await?;
            found.extend(cuts.into_iter().rev().filter(&wanted));
            if found.len() >= limit {
                break;
            }
        }
        found.truncate(limit);
        Ok(found)
    }
}

/// The log of cuts, for adding to it.
pub struct CutLog {
    log: Log,
    schema: SchemaRef,
    version: u64,
    record: CutRecord,
    /// The oldest first.
    files: Vec<CutFile>,
    last: Option<Cut>,
    /// A newer epoch has added cuts.
    fenced: bool,
}

impl CutLog {
    /// Opens the log, or creates it.
    pub async fn open(lake: &Lake, pipeline: &str, epoch: u64) -> Result<Self> {
        let log = lake.log(FOLDER)?;
        let record = CutRecord {
            format: FORMAT,
            pipeline: pipeline.to_owned(),
            epoch,
        };
        let mut cuts = Self {
            log,
            schema: schema(),
            version: 0,
            record,
            files: Vec::new(),
            last: None,
            fenced: false,
        };
        if !cuts.load().await? {
            // Whoever else creates it: it is there.
            cuts.log.commit(0, "CREATE TABLE", cuts.creation()).await?;
            cuts.load().await?;
        }
        Ok(cuts)
    }

    fn creation(&self) -> Vec<Value> {
        let field = |field: &Arc<Field>| {
            let kind = match field.data_type() {
                DataType::Int64 => "long",
                DataType::Timestamp(..) => "timestamp",
                _ => "string",
            };
            delta_field(field.name(), None, json!(kind))
        };
        let fields = self.schema.fields().iter().map(field).collect();
        let mut actions = creation("cuts", fields);
        actions.push(self.domain_action());
        actions
    }

    fn domain_action(&self) -> Value {
        let configuration = json!(self.record).to_string();
        json!({"domainMetadata": {"domain": DOMAIN, "configuration": configuration, "removed": false}})
    }

    /// Takes on what the log has. False where there is none.
    async fn load(&mut self) -> Result<bool> {
        let Some(state) = self.log.load("").await? else {
            return Ok(false);
        };
        let theirs = state.domain.as_deref().map(serde_json::from_str::<CutRecord>);
        let theirs = theirs.and_then(|record| record.ok()).filter(|r| r.format == FORMAT);
        let theirs = theirs.filter(|record| record.pipeline == self.record.pipeline);
        let theirs = theirs.ok_or_else(|| {
            Error::operator(format!("{} is not this pipeline's list of cuts", shown(self.log.url())))
                .with_hint("move the folder away: cuts begin anew")
        })?;
        self.fenced = theirs.epoch > self.record.epoch;
        self.version = state.version;
        self.files = files_of(&self.log, state).await?;
        self.last = match self.files.last() {
            Some(file) => read(&self.log, file).await?.pop(),
            None => None,
        };
        Ok(true)
    }

    /// Writes a cut down, under the next number.
    pub async fn add(&mut self, cut: &Cut) -> Result<Added> {
        for _ in 0..ATTEMPTS {
            if self.fenced {
                return Ok(Added::Fenced);
            }
            let number = match &self.last {
                Some(last) if !follows(cut, last) => return Ok(Added::Nothing),
                Some(last) => last.number + 1,
                None => 1,
            };
            let cut = Cut {
                number,
                recorded_at: now_ms() * 1000,
                ..cut.clone()
            };
            let mut writer = self.writer()?;
            writer.write(&rows(&self.schema, &cut)?).await?;
            let file = CutFile::written(writer.finish().await?, number, number);
            let actions = vec![file.data.add_action(None, true), self.domain_action()];
            failpoint::reach("cut.file");
            if self.commit("WRITE", actions).await? {
                failpoint::reach("cut.put");
                self.files.push(file);
                self.last = Some(cut);
                return Ok(Added::Cut {
                    number,
                    version: self.version,
                });
            }
            self.remove(&file.data.path).await;
            self.load().await?;
        }
        Err(Error::transient(format!(
            "others keep writing to {}",
            shown(self.log.url())
        )))
    }

    /// Puts small files together and drops cuts from before `oldest`, in
    /// milliseconds since 1970, where that is due.
    pub async fn tidy(&mut self, oldest: i64) -> Result<()> {
        // Of an idle source, the last cut stands however old it is.
        let settled = self.files.len().saturating_sub(1);
        let expired = self.files[..settled]
            .iter()
            .take_while(|file| file.data.modification_time < oldest)
            .count();
        let small = self.small_files().max(expired);
        let merged = self.files.len() - small >= FAN_IN;
        if expired == 0 && !merged {
            return Ok(());
        }
        let removed = self.files.drain(..expired);
        let mut actions: Vec<Value> = removed.map(|file| file.data.remove_action(true)).collect();
        let mut whole = None;
        if merged {
            let inputs = self.files.split_off(small - expired);
            let (file, dropped) = self.merge(&inputs, oldest * 1000).await?;
            actions.extend(inputs.iter().map(|file| file.data.remove_action(dropped)));
            actions.push(file.data.add_action(None, dropped));
            whole = Some(file);
        }
        actions.push(self.domain_action());
        if !self.commit("OPTIMIZE", actions).await? {
            // Whoever was first: nothing of it counts.
            if let Some(file) = whole {
                self.remove(&file.data.path).await;
            }
            self.load().await?;
            return Ok(());
        }
        self.files.extend(whole);
        self.clean_up(now_ms() - GRACE.as_millis() as i64).await
    }

    /// Where the files at the end begin that make one of [`FILE_ROWS`], or of
    /// [`FAN_IN`] cuts, if those have more rows.
    fn small_files(&self) -> usize {
        let tables = self.last.as_ref().map_or(0, |cut| cut.tables.len() as u32);
        let most = FILE_ROWS.max(tables.saturating_mul(2 * FAN_IN as u32));
        let mut rows = 0;
        let fits = |file: &&CutFile| {
            rows += file.data.rows;
            rows <= most
        };
        self.files.len() - self.files.iter().rev().take_while(fits).count()
    }

    /// Writes the cuts of files as one, without those recorded before `oldest`.
    /// Returns whether there were any.
    async fn merge(&self, inputs: &[CutFile], oldest: i64) -> Result<(CutFile, bool)> {
        let mut writer = self.writer()?;
        let (mut first, mut dropped) = (None, false);
        let last = inputs.last().map_or(0, |file| file.last);
        for (place, input) in inputs.iter().enumerate() {
            let mut batches = Vec::new();
            let each = |batch| {
                batches.push(batch);
                Ok(())
            };
            data_file::scan(&self.log, &input.data.stored(), &self.schema, each).await?;
            for mut batch in batches {
                let recorded = column(&batch, 3)?.as_primitive::<TimestampMicrosecondType>();
                if place + 1 < inputs.len() && recorded.values().iter().any(|time| *time < oldest) {
                    let oldest = TimestampMicrosecondArray::new_scalar(oldest);
                    let recorded = recorded.clone().with_timezone_opt(None::<String>);
                    let kept = cmp::gt_eq(&recorded, &oldest).map_err(unfit)?;
                    batch = filter_record_batch(&batch, &kept).map_err(unfit)?;
                    dropped = true;
                }
                if batch.num_rows() > 0 {
                    let numbers = column(&batch, 0)?.as_primitive::<Int64Type>();
                    first.get_or_insert(numbers.value(0) as u64);
                    writer.write(&batch).await?;
                }
            }
        }
        let file = CutFile::written(writer.finish().await?, first.unwrap_or(last), last);
        Ok((file, dropped))
    }

    fn writer(&self) -> Result<FileWriter> {
        FileWriter::create(&self.log, &self.schema, &[0], System::default())
    }

    /// Commits the next version. False if somebody else has.
    async fn commit(&mut self, operation: &str, actions: Vec<Value>) -> Result<bool> {
        let version = self.version + 1;
        match self.log.commit(version, operation, actions).await? {
            Commit::Conflict => Ok(false),
            Commit::Committed => {
                self.version = version;
                if self.log.checkpoint_is_due(version) {
                    self.log.checkpoint(version).await?;
                }
                Ok(true)
            }
        }
    }

    /// Removes what no reader can need any more: what was out of the table
    /// before `before_ms`.
    async fn clean_up(&self, before_ms: i64) -> Result<()> {
        let needed = self.files.iter().map(|file| file.data.path.clone()).collect();
        let cleaning = Cleaning {
            log: self.log.clone(),
            needed,
        };
        cleaning.run(before_ms).await.map(|_| ())
    }

    /// Removes a file. One that can't be removed is only litter.
    async fn remove(&self, path: &str) {
        if let Err(error) = self.log.store().delete(&self.log.file(path)).await {
            tracing::debug!(path, %error, "cannot remove a file that is not used any more");
        }
    }
}

/// Whether a cut says more than the one before. Positions of one history never
/// go back; in one that was restored, every table's content is another.
fn follows(cut: &Cut, last: &Cut) -> bool {
    let before = |table: &CutTable| last.tables.iter().find(|before| before.path == table.path);
    let older = |table: &CutTable| before(table).is_some_and(|before| before.version > table.version);
    let renewed = |table: &CutTable| before(table).is_none_or(|before| before.version < table.version);
    if cut.tables == last.tables || cut.tables.iter().any(older) {
        return false;
    }
    cut.position.covers(&last.position) || cut.tables.iter().all(renewed)
}

async fn files_of(log: &Log, state: LogState) -> Result<Vec<CutFile>> {
    let mut files = Vec::with_capacity(state.files.len());
    for file in state.files {
        files.push(CutFile::new(DataFile::live(log, file).await?)?);
    }
    files.sort_by_key(|file| file.first);
    Ok(files)
}

fn schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let fields = [
        ("cut", DataType::Int64),
        ("position", DataType::Utf8),
        ("committed_at", time.clone()),
        ("recorded_at", time),
        ("table_name", DataType::Utf8),
        ("path", DataType::Utf8),
        ("version", DataType::Int64),
    ];
    let fields = fields.map(|(name, kind)| Field::new(name, kind, true));
    Arc::new(Schema::new(fields.to_vec()))
}

fn unfit(error: arrow::error::ArrowError) -> Error {
    Error::bug("a cut does not fit its columns").with_source(error)
}

fn rows(schema: &SchemaRef, cut: &Cut) -> Result<RecordBatch> {
    let count = cut.tables.len();
    let time = |micros| TimestampMicrosecondArray::from_value(micros, count).with_timezone("UTC");
    let text = |of: fn(&CutTable) -> &str| StringArray::from_iter_values(cut.tables.iter().map(of));
    let version = |table: &CutTable| table.version as i64;
    let position = format!("{:#}", cut.position);
    let columns: Vec<Arc<dyn Array>> = vec![
        Arc::new(Int64Array::from_value(cut.number as i64, count)),
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(position, count))),
        Arc::new(time(cut.committed_at)),
        Arc::new(time(cut.recorded_at)),
        Arc::new(text(|table| &table.table)),
        Arc::new(text(|table| &table.path)),
        Arc::new(Int64Array::from_iter_values(cut.tables.iter().map(version))),
    ];
    RecordBatch::try_new(schema.clone(), columns).map_err(unfit)
}

fn column(batch: &RecordBatch, number: usize) -> Result<&Arc<dyn Array>> {
    batch
        .columns()
        .get(number)
        .ok_or_else(|| Error::bug("a cut misses a column"))
}

/// The cuts of a file, the oldest first.
async fn read(log: &Log, file: &CutFile) -> Result<Vec<Cut>> {
    let mut cuts: Vec<Cut> = Vec::new();
    let each = |batch: RecordBatch| {
        let number = |c| column(&batch, c).map(|c| c.as_primitive::<Int64Type>());
        let time = |c| column(&batch, c).map(|c| c.as_primitive::<TimestampMicrosecondType>());
        let text = |c| column(&batch, c).map(|c| c.as_string::<i32>());
        let (numbers, positions, versions) = (number(0)?, text(1)?, number(6)?);
        let (committed, recorded, tables, paths) = (time(2)?, time(3)?, text(4)?, text(5)?);
        for row in 0..batch.num_rows() {
            let number = numbers.value(row) as u64;
            if cuts.last().is_none_or(|last| last.number != number) {
                let position = serde_json::from_value(json!(positions.value(row)));
                cuts.push(Cut {
                    number,
                    position: position.map_err(|e| {
                        Error::operator(format!("cut {number} has no position"))
                            .with_hint(format!("remove the folder {FOLDER} from the lake; cuts begin anew"))
                            .with_source(e)
                    })?,
                    committed_at: committed.value(row),
                    recorded_at: recorded.value(row),
                    tables: Vec::new(),
                });
            }
            if let Some(cut) = cuts.last_mut() {
                cut.tables.push(CutTable {
                    table: tables.value(row).to_owned(),
                    path: paths.value(row).to_owned(),
                    version: versions.value(row) as u64,
                });
            }
        }
        Ok(())
    };
    data_file::scan(log, &file.data.stored(), &schema(), each).await?;
    Ok(cuts)
}
