//! What the lake remembers beside the data: one `domainMetadata` action per
//! commit. With these, a lost local disk loses nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

use super::log::{DOMAIN, Log};
use super::shown;
use crate::error::{Error, Result};
use crate::position::Position;
use crate::schema::TableSchema;

/// The newest record form this program reads.
const FORMAT: u32 = 1;

/// How far a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Chunks are being copied; the table is not whole.
    Snapshotting,
    /// Whole, but equal to the source only from `catch_up_to` on.
    CatchingUp,
    /// Equal to the source at every watermark.
    Streaming,
    /// Changes are lost for it; it has to be copied anew.
    NeedsSnapshot,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            State::Snapshotting => "snapshotting",
            State::CatchingUp => "catching_up",
            State::Streaming => "streaming",
            State::NeedsSnapshot => "needs_snapshot",
        }
    }
}

/// The record of a table. Spec: Delta protocol, "Domain Metadata".
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TableRecord {
    pub format: u32,
    /// Source and slot: who may write here. Also the `txn` application id.
    pub pipeline: String,
    /// Schema and name at the source.
    pub table: String,
    /// What identifies the table at the source whatever its name.
    pub relation: u32,
    /// Hash of the columns; another one means another shape.
    pub schema_id: String,
    /// Grows with every start of a sidecar; a lower one is a zombie's.
    pub epoch: u64,
    /// Every transaction up to here is in this version, and none after.
    pub watermark: Position,
    pub state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catch_up_to: Option<Position>,
    pub snapshot: Option<SnapshotProgress>,
}

/// How far a snapshot is. Blocks are heap pages of the source's table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotProgress {
    /// The physical file the block numbers belong to; another one means that
    /// the table was rewritten and rows moved.
    pub relation_file: u32,
    pub next_block: u64,
    /// Blocks when the snapshot began; rows in later ones come by the stream.
    pub end_block: u64,
    pub rows: u64,
}

impl TableRecord {
    pub fn new(
        pipeline: String,
        table: String,
        relation: u32,
        schema: &TableSchema,
        epoch: u64,
        watermark: Position,
    ) -> Self {
        Self {
            format: FORMAT,
            pipeline,
            table,
            relation,
            schema_id: Self::schema_id(schema),
            epoch,
            watermark,
            state: State::Snapshotting,
            reason: None,
            catch_up_to: None,
            snapshot: None,
        }
    }

    pub fn schema_id(schema: &TableSchema) -> String {
        let text = json!({"columns": schema.delta_json(), "key": schema.key}).to_string();
        format!("{:016x}", xxh3_64(text.as_bytes()))
    }

    pub fn domain_action(&self) -> Value {
        domain_action(self)
    }

    /// Reads the `domainMetadata` part of an action, if it is ours.
    pub fn from_action(domain: &Value) -> Option<Self> {
        if domain["domain"] != DOMAIN {
            return None;
        }
        serde_json::from_str(domain["configuration"].as_str()?).ok()
    }

    /// Reads the record of a loaded table and checks that it is this pipeline's.
    pub fn from_log(log: &Log, configuration: Option<&str>, pipeline: &str) -> Result<Self> {
        let record: Self = parse(log, configuration)?;
        if record.pipeline != pipeline {
            return Err(Error::operator(format!(
                "{} belongs to the pipeline {}, not to {pipeline}",
                shown(log.url()),
                record.pipeline
            ))
            .with_hint("set another lake.url for this source and slot, or move the folder away"));
        }
        Ok(record)
    }
}

/// The record of the pipeline itself, in `_tributary/pipeline`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PipelineRecord {
    pub format: u32,
    pub pipeline: String,
    pub epoch: u64,
    /// The slot is never confirmed past the highest of this and all tables'
    /// watermarks. A slot found beyond was made anew, or moved by others.
    pub confirm_limit: Position,
    /// The server's timeline, for a look at what happened.
    pub timeline: u32,
    /// The tables that the newest epoch replicates, by their folder, each with
    /// what identifies its place in the publication. A lake table that is not among them, or
    /// has another place at the source, has missed changes.
    pub tables: BTreeMap<String, String>,
}

impl PipelineRecord {
    pub fn new(pipeline: String, confirm_limit: Position, timeline: u32) -> Self {
        Self {
            format: FORMAT,
            pipeline,
            epoch: 0,
            confirm_limit,
            timeline,
            tables: BTreeMap::new(),
        }
    }

    pub fn domain_action(&self) -> Value {
        domain_action(self)
    }

    pub fn from_log(log: &Log, configuration: Option<&str>) -> Result<Self> {
        parse(log, configuration)
    }
}

fn domain_action(record: &impl Serialize) -> Value {
    let configuration = json!(record).to_string();
    json!({"domainMetadata": {"domain": DOMAIN, "configuration": configuration, "removed": false}})
}

fn parse<T: DeserializeOwned>(log: &Log, configuration: Option<&str>) -> Result<T> {
    let path = shown(log.url());
    let Some(text) = configuration else {
        return Err(
            Error::operator(format!("{path} is a Delta table that Tributary did not write"))
                .with_hint("move it away, or set another lake.url; nothing was changed there"),
        );
    };
    serde_json::from_str(text).map_err(|e| {
        Error::operator(format!("{path} has a record that this version of Tributary can't read"))
            .with_hint("run the version that wrote it, or a newer one")
            .with_source(e)
    })
}
