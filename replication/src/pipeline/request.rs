//! `tributary snapshot`: asks for new snapshots, and waits until they are in
//! place.

use std::time::Duration;

use super::gaps::{self, Standing};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::lake::{Lake, Opened, Request, State, table_path};
use crate::schema::TableId;
use crate::source::{Source, SourceTable, selected};

/// How often a running sidecar's work is looked at.
const INTERVAL: Duration = Duration::from_millis(500);

/// What a request is doing.
#[derive(Clone, Debug)]
pub struct Progress {
    pub table: TableId,
    pub state: &'static str,
    pub rows: u64,
    pub done: bool,
}

/// Asks for new snapshots of the tables that match; of all that need one if
/// none are named. Returns their names, and whether a sidecar is running that
/// will see to it: if not, the caller has to.
///
/// Errors: a pattern without a table, or nothing that needs a snapshot.
pub async fn snapshot(config: &Config, patterns: &[String]) -> Result<Asked> {
    for_source!(config, S => ask::<S>(config, patterns).await)
}

async fn ask<S: Source>(config: &Config, patterns: &[String]) -> Result<Asked> {
    let mut source = S::connect(config).await?;
    let discovery = source.discover().await?;
    let pipeline = source.identify().await?.pipeline;
    let lake = Lake::open(&config.lake.url, &config.lake.options)?;
    let slot = source.slot().await?;
    let Standing {
        entries, slot, gaps, ..
    } = Standing::read(&mut source, slot, &lake, &discovery, &pipeline).await?;
    let mut tables = Vec::new();
    for (number, entry) in entries.iter().enumerate() {
        let id = entry.table.id();
        let wanted = if patterns.is_empty() {
            gaps.tables.iter().any(|(gap, _)| *gap == number)
        } else {
            selected(patterns, id)
        };
        if wanted {
            // A first snapshot that runs is as new as can be.
            let record = entry.opened.as_ref().map(|opened| &opened.record);
            let before = record.filter(|r| r.state != State::Snapshotting).map(|r| r.generation);
            tables.push((id.clone(), before));
        }
    }
    for pattern in patterns {
        let one = std::slice::from_ref(pattern);
        if !tables.iter().any(|(id, _)| selected(one, id)) {
            let names: Vec<String> = discovery.tables.iter().map(|t| t.id().to_string()).collect();
            return Err(Error::operator(format!("no replicated table is called {pattern}"))
                .with_hint(format!("source.tables selects {}", names.join(", "))));
        }
    }
    let running = slot.is_some_and(|slot| slot.active);
    if tables.is_empty() && running {
        return Err(Error::operator("no table needs a new snapshot")
            .with_hint("name the tables to copy anew: tributary snapshot schema.table"));
    }
    if !tables.is_empty() {
        lake.prepare().await?;
        let names = tables.iter().map(|(id, _)| id.to_string()).collect();
        lake.put_request(&Request::new(names)).await?;
    }
    Ok(Asked {
        running,
        lake,
        pipeline,
        tables,
    })
}

/// A request on its way.
pub struct Asked {
    /// Whether a sidecar is running that carries it out.
    pub running: bool,
    lake: Lake,
    pipeline: String,
    tables: Vec<(TableId, Option<u64>)>,
}

impl Asked {
    /// Whether a sidecar has started meanwhile.
    pub async fn is_running(&self, config: &Config) -> Result<bool> {
        for_source!(config, S => self.slot_is_active::<S>(config).await)
    }

    async fn slot_is_active<S: Source>(&self, config: &Config) -> Result<bool> {
        let mut source = S::connect(config).await?;
        let slot = super::slot(&mut source, &self.lake, &self.pipeline).await?;
        Ok(slot.is_some_and(|slot| slot.active))
    }

    pub fn tables(&self) -> impl Iterator<Item = &TableId> {
        self.tables.iter().map(|(id, _)| id)
    }

    /// Waits until all tables have their new content, telling how far they are.
    pub async fn wait(&self, mut tell: impl FnMut(&[Progress])) -> Result<()> {
        loop {
            let mut progress = Vec::with_capacity(self.tables.len());
            for (id, before) in &self.tables {
                progress.push(self.progress(id, *before).await?);
            }
            tell(&progress);
            if progress.iter().all(|p| p.done) {
                return Ok(());
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    async fn progress(&self, id: &TableId, before: Option<u64>) -> Result<Progress> {
        let opened = Opened::read(self.lake.table(id)?, &self.pipeline).await?;
        let Some(opened) = opened else {
            return Ok(Progress {
                table: id.clone(),
                state: "discovered",
                rows: 0,
                done: false,
            });
        };
        let record = &opened.record;
        let waiting = match record.state {
            State::Dropped | State::Excluded | State::Stalled => true,
            State::NeedsSnapshot => before.is_some_and(|before| record.generation > before),
            _ => false,
        };
        if waiting {
            let reason = record.reason.clone().unwrap_or_default();
            return Err(match record.state {
                State::NeedsSnapshot => gaps::needs_snapshot(&[id.to_string()], &reason),
                state => Error::operator(format!("{id} is {}: {reason}", state.as_str()))
                    .with_hint("`tributary check` says what keeps it from being replicated"),
            });
        }
        let copy = self.lake.copy_of(&table_path(id), record).await;
        let snapshot = copy.as_ref().map_or(&record.snapshot, |copy| &copy.record.snapshot);
        Ok(Progress {
            table: id.clone(),
            state: record.state.as_str(),
            rows: snapshot
                .as_ref()
                .map_or_else(|| copy.as_ref().map_or(0, Opened::rows), |s| s.rows),
            done: before.is_none_or(|before| record.generation > before) && record.state == State::Streaming,
        })
    }
}
