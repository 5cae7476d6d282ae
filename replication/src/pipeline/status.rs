//! Where everything stands, for people and for monitoring.

use super::control::Control;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::lake::{Cuts, Lake, Opened, SnapshotProgress, as_time, table_path};
use crate::position::Position;
use crate::source::{Slot, Source, SourceTable};

/// A table of [`status`].
#[derive(Clone, Debug, serde::Serialize)]
pub struct TableStatus {
    pub table: String,
    /// As in the lake, or "discovered" if it has no lake table yet.
    pub state: &'static str,
    pub reason: Option<String>,
    /// Every transaction up to here is in the lake.
    pub watermark: Option<Position>,
    /// Log between the watermark and the source's end.
    pub lag_bytes: Option<u64>,
    pub version: Option<u64>,
    pub rows: u64,
    pub files: usize,
    pub snapshot: Option<SnapshotProgress>,
    /// How far the copy is that will replace the table's content.
    pub copy: Option<SnapshotProgress>,
}

/// The source's side of [`status`].
#[derive(Clone, Debug, serde::Serialize)]
pub struct SourceStatus {
    pub address: String,
    pub slot: String,
    pub slot_active: bool,
    pub confirmed: Option<Position>,
    pub log_end: Position,
    /// WAL the server keeps for the slot.
    pub retained_bytes: u64,
    /// How much of it is told, if that is set.
    pub wal_budget: Option<u64>,
}

/// The newest cut that is listed.
#[derive(Clone, Debug, serde::Serialize)]
pub struct CutStatus {
    pub number: u64,
    pub position: Position,
    /// Microseconds since 1970.
    #[serde(serialize_with = "as_time")]
    pub committed_at: i64,
    pub tables: usize,
}

#[derive(Clone, Debug, serde::Serialize)]
pub struct Status {
    pub source: SourceStatus,
    pub tables: Vec<TableStatus>,
    pub cut: Option<CutStatus>,
}

/// Where everything stands, from the lake and the source's catalogue alone:
/// works beside a running sidecar and without one.
pub async fn status(config: &Config) -> Result<Status> {
    for_source!(config, S => status_of::<S>(config).await)
}

async fn status_of<S: Source>(config: &Config) -> Result<Status> {
    let mut source = S::connect(config).await?;
    let discovery = source.discover().await?;
    let pipeline = source.identify().await?.pipeline;
    let lake = Lake::open(&config.lake.url, &config.lake.options)?;
    // The slot first: a table's watermark can only be later than it.
    let slot = super::slot(&mut source, &lake, &pipeline).await?;
    let mut opened = Vec::new();
    for table in &discovery.tables {
        let read = Opened::read(lake.table(table.id())?, &pipeline).await;
        let copy = match &read {
            Ok(Some(opened)) => lake.copy_of(&table_path(table.id()), &opened.record).await,
            _ => None,
        };
        opened.push((table.id().to_string(), read, copy));
    }
    if let Ok(Some(control)) = Control::open(lake.pipeline()?, &pipeline).await {
        let record = control.record();
        let listed: Vec<String> = discovery.tables.iter().map(|t| table_path(t.id())).collect();
        for folder in record.former.iter().chain(record.tables.keys()) {
            if listed.contains(folder) {
                continue;
            }
            let read = Opened::read(lake.log(folder)?, &pipeline).await;
            let name = match &read {
                Ok(Some(opened)) => opened.record.table.clone(),
                _ => folder.replace('/', "."),
            };
            opened.push((name, read, None));
        }
    }
    // Past it, a standby may never tell anything.
    let log_end = source.visible().await?;
    let mut tables = Vec::with_capacity(opened.len());
    for (table, opened, copy) in opened {
        let mut status = table_status(table, opened, copy.as_ref(), slot.as_ref());
        if let Some(watermark) = &status.watermark {
            status.lag_bytes = source.log_bytes(watermark, &log_end).await?;
        }
        tables.push(status);
    }
    Ok(Status {
        source: SourceStatus {
            address: source.address(),
            slot: config.source.slot.clone(),
            slot_active: slot.as_ref().is_some_and(|s| s.active),
            confirmed: slot.as_ref().map(|s| s.confirmed.clone()),
            log_end,
            retained_bytes: slot.as_ref().map_or(0, |s| s.retained_bytes),
            wal_budget: config.source.wal_budget,
        },
        tables,
        cut: newest_cut(&lake).await,
    })
}

/// What can't be read is told by `cuts`.
async fn newest_cut(lake: &Lake) -> Option<CutStatus> {
    let cuts = Cuts::open(lake).await.ok()??;
    let cut = cuts.newest().await.ok()??;
    Some(CutStatus {
        number: cut.number,
        position: cut.position,
        committed_at: cut.committed_at,
        tables: cut.tables.len(),
    })
}

/// One row of [`status`]. A table that can't be opened is a row too.
fn table_status(
    table: String,
    opened: Result<Option<Opened>>,
    copy: Option<&Opened>,
    slot: Option<&Slot>,
) -> TableStatus {
    let mut status = TableStatus {
        table,
        state: "discovered",
        reason: None,
        watermark: None,
        lag_bytes: None,
        version: None,
        rows: 0,
        files: 0,
        snapshot: None,
        copy: None,
    };
    let told = |error: &Error| match error.hint() {
        Some(hint) => format!("{error} (hint: {hint})"),
        None => error.to_string(),
    };
    let lake_table = match opened {
        Ok(Some(lake_table)) => lake_table,
        Ok(None) => return status,
        Err(error) => {
            status.state = "stalled";
            status.reason = Some(told(&error));
            return status;
        }
    };
    let record = &lake_table.record;
    status.state = record.state.as_str();
    status.reason.clone_from(&record.reason);
    let mut watermark = record.watermark.clone();
    if record.state.is_live()
        && let Some(slot) = slot.filter(|slot| slot.confirmed.covers(&watermark))
    {
        // The slot is confirmed only where every table has everything, so an
        // idle table is as far as the slot.
        watermark = slot.confirmed.clone();
    }
    status.watermark = Some(watermark);
    status.version = Some(lake_table.version());
    status.rows = lake_table.rows();
    status.files = lake_table.file_count();
    status.snapshot.clone_from(&record.snapshot);
    status.copy = copy.map(|copy| copy.record.snapshot.clone().unwrap_or_default());
    status
}
