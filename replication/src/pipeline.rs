//! How the rooms are wired: opens source and lake, decides where each table
//! stands, and runs stream, snapshots and writers until told to stop.
//!
//! Memory, from `apply.memory` (M): open batches M/12, batches on their way
//! M/6, and what a batch becomes while it is written about as much again. The
//! rest is for key indexes, one snapshot chunk's keys and file buffers.

mod apply;
mod control;
mod snapshotter;
mod writer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{error, info, warn};

use self::apply::{Apply, Route};
use self::control::Control;
use self::writer::Writer;
use crate::config::Config;
use crate::error::{Class, Error, Result};
use crate::lake::{DeltaTable, Lake, PipelineRecord, State, TableRecord, shown};
use crate::metrics::Metrics;
use crate::position::Position;
use crate::schema::TableId;
use crate::source::postgres::{Finding, Identity, Postgres, Slot, SourceTable};

/// The longest pause before another try.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// How long a slot may stay in use after a restart: the server notices that
/// the old connection is gone when it next writes to it.
const SLOT_RELEASE_TIMEOUT: Duration = Duration::from_secs(15);

/// How often the publication is looked at.
const PUBLICATION_INTERVAL: Duration = Duration::from_secs(10);

/// Replicates until `shutdown` turns true; with `once`, until everything that
/// was in the source at the start is in the lake.
///
/// Transient failures start over from the lake's watermarks, with a growing
/// pause; with `once` they end the run.
pub async fn run(config: &Config, once: bool, metrics: Arc<Metrics>, shutdown: watch::Receiver<bool>) -> Result<()> {
    let mut pause = Duration::from_millis(500);
    loop {
        let started = Instant::now();
        let mut stop = shutdown.clone();
        let result = attempt(config, once, metrics.clone(), shutdown.clone()).await;
        metrics.update(|m| {
            m.streaming = false;
            m.snapshots.clear();
        });
        let error = match result {
            Err(error) if error.class() == Class::Transient && !once && !*stop.borrow() => error,
            other => return other,
        };
        if started.elapsed() > Duration::from_secs(60) {
            pause = Duration::from_millis(500);
        }
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        warn!(%error, cause, hint = error.hint(), retry_ms = pause.as_millis() as u64, "replication interrupted; trying again");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.changed() => return Ok(()),
        }
        pause = (pause * 2).min(BACKOFF_MAX);
    }
}

/// Everything that would fail later, looked at now.
pub async fn check(config: &Config) -> Result<Vec<Finding>> {
    let mut source = Postgres::connect(&config.source).await?;
    let discovery = source.discover().await?;
    let mut findings = source.check(&discovery).await?;
    let pipeline = source.identify().await?.pipeline;
    let lake = async {
        let lake = Lake::open(&config.lake.url)?;
        lake.prepare()?;
        Control::open(lake.pipeline()?, &pipeline).await?;
        for table in &discovery.tables {
            let opened = DeltaTable::open(lake.table(&table.id)?, table.schema.clone(), &pipeline).await?;
            opened.map_or(Ok(()), |table| table.check_shape())?;
        }
        Ok::<_, Error>(())
    };
    findings.push(match lake.await {
        Ok(()) => Finding {
            ok: true,
            what: format!("lake {} can be written", config.lake.url),
            hint: None,
        },
        Err(error) => Finding {
            ok: false,
            what: error.to_string(),
            hint: error.hint().map(str::to_owned),
        },
    });
    findings.extend(discovery.notes.into_iter().map(|what| Finding {
        ok: true,
        what,
        hint: None,
    }));
    Ok(findings)
}

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
    pub snapshot: Option<crate::lake::SnapshotProgress>,
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

/// One life of the pipeline, from opening to the first failure.
async fn attempt(config: &Config, once: bool, metrics: Arc<Metrics>, shutdown: watch::Receiver<bool>) -> Result<()> {
    let mut stop = shutdown.clone();
    // Before the stream runs there is nothing to save: stop at once.
    let Prepared {
        apply,
        writers,
        copies,
        windows,
        source,
        members,
    } = tokio::select! {
        prepared = prepare(config, once, metrics.clone(), shutdown.clone()) => prepared?,
        _ = stop.changed() => return Ok(()),
    };
    let mut snapshots = JoinSet::new();
    snapshots.spawn(snapshotter::run(copies, windows, metrics));
    snapshots.spawn(watch_publication(source, members));
    let mut writing = JoinSet::new();
    for writer in writers {
        writing.spawn(writer.run());
    }
    let result = supervise(apply, &mut writing, &mut snapshots).await;
    snapshots.shutdown().await;
    writing.shutdown().await;
    result
}

/// Everything opened, nothing running but the source's stream.
struct Prepared {
    apply: Apply,
    writers: Vec<Writer>,
    copies: Vec<snapshotter::Task>,
    windows: mpsc::Sender<snapshotter::Window>,
    source: Postgres,
    /// The published tables' places, as the record has them.
    members: BTreeMap<String, String>,
}

async fn prepare(
    config: &Config,
    once: bool,
    metrics: Arc<Metrics>,
    shutdown: watch::Receiver<bool>,
) -> Result<Prepared> {
    let mut source = Postgres::connect(&config.source).await?;
    let discovery = source.discover().await?;
    for note in &discovery.notes {
        info!("{note}");
    }
    wait_for_slot(&mut source).await?;
    source.require(&discovery).await?;
    let identity = source.identify().await?;
    let until = if once { Some(source.log_end().await?) } else { None };

    let lake = Lake::open(&config.lake.url)?;
    lake.prepare()?;
    let control = Control::open(lake.pipeline()?, &identity.pipeline).await?;
    let tables: Vec<Arc<SourceTable>> = discovery.tables.iter().cloned().map(Arc::new).collect();
    let mut opened = Vec::with_capacity(tables.len());
    for table in &tables {
        let log = lake.table(&table.id)?;
        opened.push(DeltaTable::open(log, table.schema.clone(), &identity.pipeline).await?);
    }
    let (mut control, from) =
        start_position(&mut source, &lake, control, &identity, &tables, &mut opened, &discovery).await?;
    let published = source.members().await?;
    let members = places(&published, tables.iter().map(|t| &t.id));
    let epoch = control.claim(members.clone(), identity.timeline).await?;

    let in_flight_bytes_max = usize::try_from(config.apply.memory / 6)
        .unwrap_or(usize::MAX)
        .min(u32::MAX as usize);
    let (durable_sender, durable) = mpsc::unbounded_channel();
    let (window_sender, windows) = mpsc::channel(1);
    let (mut writers, mut routes, mut streamed, mut copies) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    // A new table needs no change from before its copy begins.
    let log_end = source.log_end().await?;
    let mut held = None;
    for (table, lake_table) in tables.iter().zip(opened) {
        if let Some(Err(error)) = lake_table.as_ref().map(DeltaTable::check_shape) {
            if once {
                return Err(error);
            }
            error!(table = %table.id, %error, hint = error.hint(), position = %from,
                "table stalled: it gets no changes and holds the slot's log from here on");
            held = Some(from);
            continue;
        }
        let number = routes.len();
        let lake_table = ready(&lake, table, lake_table, &identity, epoch, log_end).await?;
        let record = lake_table.record().clone();
        let table_source = source.table_source(table.clone());
        // One command at work, and a batch and a chunk waiting.
        let (commands, receiver) = mpsc::channel(2);
        routes.push(Route::new(
            table.id.clone(),
            commands,
            record.state,
            record.watermark,
            record.catch_up_to,
        ));
        streamed.push((table.clone(), record.watermark));
        if record.state == State::Snapshotting {
            copies.push(snapshotter::Task {
                number,
                id: table.id.clone(),
                source: table_source.clone(),
                log: lake_table.log().clone(),
                schema: table.schema.clone(),
                encoder: lake_table.encoder().clone(),
                progress: record.snapshot.clone(),
            });
        }
        writers.push(Writer {
            number,
            table: lake_table,
            points: Arc::new(table_source),
            commands: receiver,
            durable: durable_sender.clone(),
        });
    }
    let stream = source.stream(streamed, from).await?;
    info!(tables = tables.len(), slot = config.source.slot, position = %from, epoch, "streaming");
    let apply = Apply {
        stream,
        routes,
        windows,
        durable,
        control,
        max_latency: config.apply.max_latency,
        open_bytes_max: usize::try_from(config.apply.memory / 12).unwrap_or(usize::MAX),
        in_flight: Arc::new(Semaphore::new(in_flight_bytes_max)),
        in_flight_bytes_max,
        until,
        held,
        metrics,
        shutdown,
    };
    Ok(Prepared {
        apply,
        writers,
        copies,
        windows: window_sender,
        source,
        members,
    })
}

/// Runs the stream until it ends, or until a writer or the snapshotter fails:
/// their error says more than the stream's, which only sees them gone.
async fn supervise(apply: Apply, writers: &mut JoinSet<Result<()>>, snapshots: &mut JoinSet<Result<()>>) -> Result<()> {
    let failed = |joined: Result<Result<()>, tokio::task::JoinError>| match joined {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error),
        Err(error) => Some(Error::bug("a task panicked").with_source(error)),
    };
    let mut running = std::pin::pin!(apply.run());
    let mut result = loop {
        tokio::select! {
            result = &mut running => break result,
            Some(joined) = snapshots.join_next() => if let Some(error) = failed(joined) { break Err(error) },
            Some(joined) = writers.join_next() => if let Some(error) = failed(joined) { break Err(error) },
        }
    };
    if result.is_err() {
        while let Some(joined) = writers.try_join_next() {
            if let Some(error) = failed(joined) {
                result = Err(error);
            }
        }
    }
    result
}

/// The recorded form of tables' places in the publication.
fn places<'a>(
    published: &BTreeMap<TableId, String>,
    tables: impl Iterator<Item = &'a TableId>,
) -> BTreeMap<String, String> {
    tables
        .map(|id| (id.to_string(), published.get(id).cloned().unwrap_or_default()))
        .collect()
}

/// Fails once a table's place in the publication changes: while it was out,
/// its changes were in nobody's stream.
async fn watch_publication(mut source: Postgres, members: BTreeMap<String, String>) -> Result<()> {
    loop {
        tokio::time::sleep(PUBLICATION_INTERVAL).await;
        let published = source.members().await?;
        let now: BTreeMap<String, &String> = published.iter().map(|(id, place)| (id.to_string(), place)).collect();
        if let Some((table, _)) = members.iter().find(|(table, place)| now.get(*table) != Some(place)) {
            return Err(Error::operator(format!("{table} was taken out of the publication"))
                .with_hint("run again: it tells which tables missed changes, and what to do"));
        }
    }
}

async fn wait_for_slot(source: &mut Postgres) -> Result<()> {
    let started = Instant::now();
    while source.slot().await?.is_some_and(|slot| slot.active) {
        if started.elapsed() > SLOT_RELEASE_TIMEOUT {
            // `require` tells what is wrong and what to do.
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Finds where the stream starts, creating what is missing, and makes sure
/// that no lake table would silently miss changes.
///
/// The slot was confirmed only up to positions the lake knows of. A slot that
/// is gone, or further than that, was dropped or made anew: what lies between
/// is lost to us.
async fn start_position(
    source: &mut Postgres,
    lake: &Lake,
    control: Option<Control>,
    identity: &Identity,
    tables: &[Arc<SourceTable>],
    opened: &mut [Option<DeltaTable>],
    discovery: &crate::source::postgres::Discovery,
) -> Result<(Control, Position)> {
    let slot = source.slot().await?;
    let log_end = source.log_end().await?;
    let published = source.members().await?;
    let known = control.as_ref().map(|c| c.record().confirm_limit);
    let covered = |position: &Position, opened: &[Option<DeltaTable>]| {
        known.is_some_and(|limit| limit.covers(position))
            || opened
                .iter()
                .flatten()
                .any(|table| table.record().watermark.covers(position))
    };
    let mut gaps = Vec::new();
    // Whether the slot's log refers to a publication that is no more.
    let mut remade = false;
    for (number, table) in tables.iter().enumerate() {
        let Some(Some(lake_table)) = opened.get(number) else {
            continue;
        };
        let record = lake_table.record();
        let reason = if record.state == State::NeedsSnapshot {
            record.reason.clone().unwrap_or_default()
        } else if record.relation != table.relation {
            "the table was dropped and created anew at the source".to_owned()
        } else if !log_end.covers(&record.watermark) {
            format!(
                "the source's log ends at {log_end}, before the table's watermark {}: it was restored from a backup",
                record.watermark
            )
        } else if let Some(control) = &control {
            let place = published.get(&table.id);
            match control.record().tables.get(&table.id.to_string()) {
                None => "it was left out of source.tables for a while".to_owned(),
                Some(before) if Some(before) == place => continue,
                Some(before) => {
                    let same_publication = place.is_some_and(|p| p.split('.').next() == before.split('.').next())
                        || (place.is_none() && !published.is_empty());
                    remade |= !same_publication;
                    let what = if same_publication {
                        "it was taken out of the publication"
                    } else {
                        "the publication was dropped or made anew"
                    };
                    format!("{what}; changes after {} are lost", record.watermark)
                }
            }
        } else {
            continue;
        };
        gaps.push((number, reason));
    }
    let lost = match &slot {
        None => Some("the replication slot is gone".to_owned()),
        Some(slot) if control.is_some() && !covered(&slot.confirmed, opened) => {
            Some(format!("the replication slot was made anew at {}", slot.confirmed))
        }
        Some(_) => None,
    };
    if let (true, Some(lost)) = (gaps.is_empty(), lost) {
        let lake_tables = opened
            .iter()
            .enumerate()
            .filter_map(|(number, table)| Some((number, table.as_ref()?)));
        gaps = lake_tables
            .map(|(number, table)| {
                (
                    number,
                    format!("{lost}; changes after {} are lost", table.record().watermark),
                )
            })
            .collect();
    }
    if !gaps.is_empty() {
        let drop_slot = (remade && slot.is_some()).then(|| source.drop_slot_sql());
        return Err(mark_gaps(opened, gaps, drop_slot).await?);
    }
    source.ensure_publication(discovery).await?;
    let from = match slot {
        Some(slot) => slot.confirmed,
        None => source.create_slot().await?,
    };
    let control = match control {
        Some(mut control) => {
            if !control.record().confirm_limit.covers(&from) {
                control.raise(from).await?;
            }
            control
        }
        None => {
            let record = PipelineRecord::new(identity.pipeline.clone(), from, identity.timeline);
            Control::create(lake.pipeline()?, record).await?
        }
    };
    Ok((control, from))
}

/// Records that tables have missed changes, and says what to do.
async fn mark_gaps(
    opened: &mut [Option<DeltaTable>],
    gaps: Vec<(usize, String)>,
    drop_slot: Option<String>,
) -> Result<Error> {
    let mut names = Vec::new();
    let mut folders = Vec::new();
    let mut first_reason = None;
    for (number, reason) in gaps {
        let Some(Some(table)) = opened.get_mut(number) else {
            continue;
        };
        if table.record().state != State::NeedsSnapshot {
            table
                .commit("NEEDS SNAPSHOT", |record| {
                    record.state = State::NeedsSnapshot;
                    record.reason = Some(reason.clone());
                })
                .await?;
        }
        names.push(table.record().table.clone());
        folders.push(shown(table.log().url()));
        first_reason.get_or_insert(reason);
    }
    let message = format!(
        "{} need a new snapshot: {}",
        names.join(", "),
        first_reason.unwrap_or_default()
    );
    let first = drop_slot.map(|sql| format!("{sql}; then ")).unwrap_or_default();
    let hint = format!(
        "{first}move {} away and run again: these tables are copied anew, the others go on",
        folders.join(", ")
    );
    Ok(Error::operator(message).with_hint(hint))
}

/// Brings a table to where its writer can start: created or indexed, and
/// claimed for this epoch.
async fn ready(
    lake: &Lake,
    table: &Arc<SourceTable>,
    opened: Option<DeltaTable>,
    identity: &Identity,
    epoch: u64,
    log_end: Position,
) -> Result<DeltaTable> {
    let Some(mut lake_table) = opened else {
        let record = TableRecord::new(
            identity.pipeline.clone(),
            table.id.to_string(),
            table.relation,
            &table.schema,
            epoch,
            log_end,
        );
        info!(table = %table.id, "creating lake table");
        return DeltaTable::create(lake.table(&table.id)?, table.schema.clone(), record).await;
    };
    let started = Instant::now();
    let rows = lake_table.build_index().await?;
    lake_table.commit("CLAIM", |record| record.epoch = epoch).await?;
    info!(table = %table.id, rows, watermark = %lake_table.record().watermark, index_bytes = lake_table.bytes(),
        elapsed_ms = started.elapsed().as_millis() as u64, "opened lake table");
    Ok(lake_table)
}
