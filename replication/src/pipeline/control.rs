//! The pipeline's own record in the lake, `_tributary/pipeline`: which epoch
//! is the newest, and how far the slot may be confirmed.
//!
//! It is a Delta table without rows, so that it has put-if-absent commits and
//! readable history like every other table.

use std::collections::BTreeMap;

use serde_json::json;
use tracing::warn;

use crate::error::{Error, Result};
use crate::lake::{Commit, Log, PipelineRecord, creation, delta_field, now_ms};
use crate::position::Position;
use crate::source::Identity;

/// How long old versions of the record are kept, in milliseconds: a day.
const KEPT_MS: i64 = 24 * 3600 * 1000;

pub struct Control {
    log: Log,
    version: u64,
    record: PipelineRecord,
}

impl Control {
    /// Reads the record, or `None` in a new lake.
    pub async fn open(log: Log, pipeline: &str) -> Result<Option<Self>> {
        let Some(control) = Self::any(log).await? else {
            return Ok(None);
        };
        if control.record.pipeline != pipeline {
            return Err(Error::operator(format!(
                "the lake belongs to the pipeline {}, not to {pipeline}",
                control.record.pipeline
            ))
            .with_hint("set another lake.url: one lake folder takes one source and slot"));
        }
        Ok(Some(control))
    }

    /// Reads the record, whosever it is; `None` in a new lake.
    pub async fn any(log: Log) -> Result<Option<Self>> {
        let Some(state) = log.load("").await? else {
            return Ok(None);
        };
        let record = PipelineRecord::from_log(&log, state.domain.as_deref())?;
        let version = state.version;
        Ok(Some(Self { log, version, record }))
    }

    /// Creates the record.
    pub async fn create(log: Log, record: PipelineRecord) -> Result<Self> {
        let fields = vec![delta_field("pipeline", None, json!("string"))];
        let mut actions = creation("pipeline", fields);
        actions.push(record.domain_action());
        match log.commit(0, "CREATE TABLE", actions).await? {
            Commit::Committed => Ok(Self {
                log,
                version: 0,
                record,
            }),
            Commit::Conflict => Err(Error::transient(
                "another sidecar created the pipeline at the same time",
            )),
        }
    }

    pub fn record(&self) -> &PipelineRecord {
        &self.record
    }

    /// Starts a new epoch: from here on, every sidecar with an older one is a
    /// zombie.
    pub async fn claim(&mut self, identity: &Identity) -> Result<u64> {
        let mut record = self.record.clone();
        record.epoch += 1;
        record.timeline = identity.timeline;
        record.server = identity.server.clone();
        self.commit(record).await?;
        Ok(self.record.epoch)
    }

    /// Sets the places of tables that are replicated from now on. To be called
    /// before their first change counts.
    pub async fn enter(&mut self, places: BTreeMap<String, String>) -> Result<()> {
        let mut record = self.record.clone();
        record.former.retain(|folder| !places.contains_key(folder));
        record.tables.extend(places);
        if record == self.record {
            return Ok(());
        }
        self.commit(record).await
    }

    /// Notes that a table is not replicated any more. To be called once its
    /// own record says so.
    pub async fn leave(&mut self, folder: String) -> Result<()> {
        let mut record = self.record.clone();
        record.tables.remove(&folder);
        record.former.insert(folder);
        self.commit(record).await
    }

    /// Takes back that a table was entered which nobody follows.
    pub async fn take_back(&mut self, folder: &str) -> Result<()> {
        let mut record = self.record.clone();
        record.tables.remove(folder);
        self.commit(record).await
    }

    /// Whether the slot may be confirmed up to `target` without telling the
    /// lake first: the lake has to know a position at or past the slot's.
    pub fn covers(&self, target: &Position, durable: &[Position]) -> bool {
        self.record.confirm_limit.covers(target) || durable.iter().any(|position| position.covers(target))
    }

    /// Makes sure that the record itself knows a position which the slot may
    /// have been confirmed up to, before what else knows it goes.
    pub async fn know(&mut self, position: Position) -> Result<()> {
        if self.record.confirm_limit.covers(&position) {
            return Ok(());
        }
        self.raise(position).await
    }

    /// Lets the slot be confirmed up to `target`.
    pub async fn raise(&mut self, target: Position) -> Result<()> {
        let mut record = self.record.clone();
        record.confirm_limit = target;
        self.commit(record).await
    }

    async fn commit(&mut self, record: PipelineRecord) -> Result<()> {
        let version = self.version + 1;
        match self
            .log
            .commit(version, "PIPELINE", vec![record.domain_action()])
            .await?
        {
            Commit::Conflict => Err(self.conflict(version).await),
            Commit::Committed => {
                self.version = version;
                self.record = record;
                if self.log.checkpoint_is_due(version) {
                    self.log.checkpoint(version).await?;
                    if let Err(error) = self.log.trim(now_ms() - KEPT_MS).await {
                        warn!(%error, cause = error.cause(), hint = error.hint(), "cannot remove old entries of the pipeline's record");
                    }
                }
                Ok(())
            }
        }
    }

    /// Tells what took our version, and those after it.
    async fn conflict(&self, version: u64) -> Error {
        let mut next = version;
        loop {
            let entry = match self.log.read(next).await {
                Ok(Some(entry)) => entry,
                // One of an earlier life of ours, which reached the store late.
                Ok(None) => {
                    return Error::transient(format!(
                        "another writer committed version {version} of the pipeline's record"
                    ));
                }
                Err(error) => return error,
            };
            let record = entry
                .iter()
                .find_map(|action| PipelineRecord::from_action(&action["domainMetadata"]));
            if record.is_some_and(|record| record.epoch > self.record.epoch) {
                return replaced();
            }
            next += 1;
        }
    }
}

/// The error of a sidecar whose epoch is not the newest any more.
pub fn replaced() -> Error {
    Error::operator("another sidecar of this pipeline has started; this one stops")
        .with_hint("run one `tributary run` per slot")
}
