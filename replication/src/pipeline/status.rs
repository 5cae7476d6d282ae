//! Where everything stands, for people and for monitoring.

use crate::config::Config;
use crate::error::{Error, Result};
use crate::lake::{DeltaTable, Lake, SnapshotProgress, State};
use crate::position::Position;
use crate::source::postgres::{Postgres, Slot};

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
}

#[derive(Clone, Debug, serde::Serialize)]
pub struct Status {
    pub source: SourceStatus,
    pub tables: Vec<TableStatus>,
}

/// Where everything stands, from the lake and the source's catalogue alone:
/// works beside a running sidecar and without one.
pub async fn status(config: &Config) -> Result<Status> {
    let mut source = Postgres::connect(&config.source).await?;
    let discovery = source.discover().await?;
    let pipeline = source.identify().await?.pipeline;
    // The slot first: a table's watermark can only be later than it.
    let slot = source.slot().await?;
    let lake = Lake::open(&config.lake.url)?;
    let mut opened = Vec::new();
    for table in &discovery.tables {
        let lake_table = DeltaTable::open(lake.table(&table.id)?, table.schema.clone(), &pipeline).await;
        opened.push((table.id.to_string(), lake_table));
    }
    let log_end = source.log_end().await?;
    let tables = opened
        .into_iter()
        .map(|(table, lake_table)| table_status(table, lake_table, slot.as_ref(), &log_end))
        .collect();
    Ok(Status {
        source: SourceStatus {
            address: source.address(),
            slot: config.source.slot.clone(),
            slot_active: slot.as_ref().is_some_and(|s| s.active),
            confirmed: slot.as_ref().map(|s| s.confirmed),
            log_end,
            retained_bytes: slot.as_ref().map_or(0, |s| s.retained_bytes),
        },
        tables,
    })
}

/// One row of [`status`]. A table that can't be opened is a row too.
fn table_status(
    table: String,
    opened: Result<Option<DeltaTable>>,
    slot: Option<&Slot>,
    log_end: &Position,
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
    let record = lake_table.record();
    status.state = record.state.as_str();
    status.reason.clone_from(&record.reason);
    let mut watermark = record.watermark;
    if let Err(error) = lake_table.check_shape() {
        status.state = "stalled";
        status.reason = Some(told(&error));
    } else if record.state != State::NeedsSnapshot
        && let Some(slot) = slot.filter(|slot| slot.confirmed.covers(&watermark))
    {
        // The slot is confirmed only where every table has everything, so an
        // idle table is as far as the slot.
        watermark = slot.confirmed;
    }
    status.watermark = Some(watermark);
    status.lag_bytes = Some(watermark.bytes_until(log_end));
    status.version = Some(lake_table.version());
    status.rows = lake_table.rows();
    status.files = lake_table.file_count();
    status.snapshot.clone_from(&record.snapshot);
    status
}
