//! What the lake remembers beside the data: one `domainMetadata` action per
//! commit. With these, a lost local disk loses nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::log::{DOMAIN, Log, SHAPE_DOMAIN, now_ms};
use super::shape::Shape;
use super::shown;
use crate::error::{Error, Result};
use crate::position::Position;

/// The record form that this program reads and writes.
const FORMAT: u32 = 2;

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
    /// Changes are lost for it; the operator decides when it is copied anew.
    NeedsSnapshot,
    /// As it was at its watermark, until a copy that is on its way replaces it.
    Resnapshotting,
    /// Can't be replicated as it is at the source now; copied anew once it can.
    Stalled,
    /// Gone at the source.
    Dropped,
    /// Not selected any more.
    Excluded,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            State::Snapshotting => "snapshotting",
            State::CatchingUp => "catching_up",
            State::Streaming => "streaming",
            State::NeedsSnapshot => "needs_snapshot",
            State::Resnapshotting => "resnapshotting",
            State::Stalled => "stalled",
            State::Dropped => "dropped",
            State::Excluded => "excluded",
        }
    }

    /// Whether changes of the stream are applied in this state.
    pub fn is_live(self) -> bool {
        matches!(self, State::Snapshotting | State::CatchingUp | State::Streaming)
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
    /// Grows with every start of a sidecar; a lower one is a zombie's.
    pub epoch: u64,
    /// Grows each time that all content was replaced.
    #[serde(default)]
    pub generation: u64,
    /// Every transaction up to here is in this version, and none after.
    pub watermark: Position,
    pub state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its changes are lost because the source was not to keep more log for it:
    /// no gap that ends a run.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub given_up: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catch_up_to: Option<Position>,
    pub snapshot: Option<SnapshotProgress>,
    /// Where the content is gathered that will replace this table's.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub copy: Option<String>,
    /// Of a history: what no row's `_sequence` has reached yet.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub next_sequence: i64,
    /// Rows before it are of contents that were replaced: each key that lives
    /// has a later one.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub first_sequence: i64,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// How far a snapshot is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotProgress {
    pub rows: u64,
    /// The physical tables to read: one, or the partitions.
    pub parts: Vec<PartProgress>,
}

/// How far one physical table is copied. Blocks are its heap pages, or
/// ranges of its keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartProgress {
    pub relation: u32,
    /// The physical file the block numbers belong to; another one means that
    /// the table was rewritten and rows moved.
    pub file: u32,
    /// Blocks when the snapshot began; rows in later ones come by the stream.
    pub end_block: u64,
    /// Where blocks are ranges of keys: the key that each but the first
    /// begins with, as SQL.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub bounds: Vec<String>,
    /// Block ranges that are in the lake, ascending and apart.
    pub done: Vec<(u64, u64)>,
}

impl SnapshotProgress {
    pub fn is_complete(&self) -> bool {
        self.parts.iter().all(|part| part.remaining().is_empty())
    }

    pub fn blocks(&self) -> u64 {
        self.parts.iter().map(|part| part.end_block).sum()
    }

    pub fn blocks_done(&self) -> u64 {
        self.parts
            .iter()
            .flat_map(|p| &p.done)
            .map(|(from, to)| to - from)
            .sum()
    }
}

impl PartProgress {
    /// A plan of ranges of keys, each but the first beginning at a bound.
    pub fn of_ranges(relation: u32, bounds: Vec<String>) -> Self {
        Self {
            relation,
            file: 0,
            end_block: bounds.len() as u64 + 1,
            bounds,
            done: Vec::new(),
        }
    }

    /// The plan that an earlier run made of a part's ranges, if it is whole.
    pub fn earlier(before: &[Self], relation: u32) -> Option<Self> {
        let own = before.iter().find(|part| part.relation == relation);
        own.filter(|own| own.end_block == own.bounds.len() as u64 + 1).cloned()
    }

    /// The bound that a range begins with; the first has none, nor has the end.
    pub fn bound(&self, block: u64) -> Option<&str> {
        let place = usize::try_from(block).ok()?.checked_sub(1)?;
        self.bounds.get(place).map(String::as_str)
    }

    /// The ranges still to copy.
    pub fn remaining(&self) -> Vec<(u64, u64)> {
        let mut remaining = Vec::new();
        let mut next = 0;
        for (from, to) in &self.done {
            if *from > next {
                remaining.push((next, *from));
            }
            next = *to;
        }
        if next < self.end_block {
            remaining.push((next, self.end_block));
        }
        remaining
    }

    /// Adds a range that was copied.
    pub fn add(&mut self, from: u64, to: u64) {
        self.done.push((from, to));
        self.done.sort_unstable();
        let mut joined: Vec<(u64, u64)> = Vec::with_capacity(self.done.len());
        for (from, to) in self.done.drain(..) {
            match joined.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(to),
                _ => joined.push((from, to)),
            }
        }
        self.done = joined;
    }
}

impl TableRecord {
    pub fn new(pipeline: String, table: String, relation: u32, epoch: u64, watermark: Position) -> Self {
        Self {
            format: FORMAT,
            pipeline,
            table,
            relation,
            epoch,
            generation: 0,
            watermark,
            state: State::Snapshotting,
            reason: None,
            given_up: false,
            catch_up_to: None,
            snapshot: None,
            copy: None,
            next_sequence: 0,
            first_sequence: 0,
        }
    }

    /// Whether it was left for good, until somebody asks for a new snapshot.
    pub fn is_given_up(&self) -> bool {
        self.state == State::NeedsSnapshot && self.given_up
    }

    pub fn domain_action(&self) -> Value {
        domain_action(DOMAIN, self)
    }

    pub fn txn_action(&self, batch_number: i64) -> Value {
        json!({"txn": {
            "appId": self.pipeline, "version": batch_number, "lastUpdated": now_ms(),
        }})
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PipelineRecord {
    pub format: u32,
    pub pipeline: String,
    pub epoch: u64,
    /// The slot is never confirmed past the highest of this and all tables'
    /// watermarks. A slot found beyond was made anew, or moved by others.
    pub confirm_limit: Position,
    /// The server's timeline, for a look at what happened.
    pub timeline: u32,
    /// The standby that all since then comes from, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The tables that the newest epoch replicates, by their folder, each with
    /// what identifies its place in the publication. A lake table that is not among them, or
    /// has another place at the source, has missed changes.
    pub tables: BTreeMap<String, String>,
    /// Folders of tables that were replicated once and are still there.
    #[serde(default)]
    pub former: BTreeSet<String>,
}

impl PipelineRecord {
    /// Reads the `domainMetadata` part of an action, if it is ours.
    pub fn from_action(domain: &Value) -> Option<Self> {
        if domain["domain"] != DOMAIN {
            return None;
        }
        serde_json::from_str(domain["configuration"].as_str()?).ok()
    }

    pub fn new(pipeline: String, confirm_limit: Position, timeline: u32) -> Self {
        Self {
            format: FORMAT,
            pipeline,
            epoch: 0,
            confirm_limit,
            timeline,
            server: None,
            tables: BTreeMap::new(),
            former: BTreeSet::new(),
        }
    }

    pub fn domain_action(&self) -> Value {
        domain_action(DOMAIN, self)
    }

    pub fn from_log(log: &Log, configuration: Option<&str>) -> Result<Self> {
        parse(log, configuration)
    }
}

impl Shape {
    pub fn domain_action(&self) -> Value {
        domain_action(SHAPE_DOMAIN, self)
    }

    pub fn from_log(log: &Log, configuration: Option<&str>) -> Result<Self> {
        parse(log, configuration)
    }
}

fn domain_action(domain: &str, record: &impl Serialize) -> Value {
    let configuration = json!(record).to_string();
    json!({"domainMetadata": {"domain": domain, "configuration": configuration, "removed": false}})
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_join_and_leave_the_rest() {
        let mut part = PartProgress {
            relation: 1,
            file: 1,
            end_block: 10,
            bounds: Vec::new(),
            done: Vec::new(),
        };
        assert_eq!(part.remaining(), [(0, 10)]);
        part.add(4, 6);
        part.add(0, 2);
        assert_eq!(
            (part.done.as_slice(), part.remaining().as_slice()),
            (&[(0, 2), (4, 6)][..], &[(2, 4), (6, 10)][..])
        );
        part.add(2, 4);
        part.add(6, 10);
        assert_eq!((part.done.as_slice(), part.remaining().len()), (&[(0, 10)][..], 0));
    }
}
