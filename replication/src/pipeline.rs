//! How the rooms are wired: opens source and lake, decides where each table
//! stands, and runs stream, snapshots and writers until told to stop.
//!
//! Memory, from `apply.memory` (M): open batches M/12, batches on their way
//! M/6, and what a batch becomes while it is written about as much again. The
//! rest is for key indexes, one snapshot chunk's keys and file buffers.

mod apply;
mod control;
mod gaps;
mod snapshotter;
mod status;
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
pub use self::status::{SourceStatus, Status, TableStatus, status};
use self::writer::Writer;
use crate::config::Config;
use crate::error::{Class, Error, Result};
use crate::lake::{DeltaTable, Lake, PipelineRecord, State, TableRecord, table_path};
use crate::metrics::Metrics;
use crate::position::Position;
use crate::schema::TableId;
use crate::source::postgres::{Discovery, Finding, Identity, Postgres, Slot, SourceTable};

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
        warn!(%error, cause = error.cause(), hint = error.hint(), retry_ms = pause.as_millis() as u64, "replication interrupted; trying again");
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
        Ok(()) => Finding::ok(format!("lake {} can be written", config.lake.url)),
        Err(error) => Finding::from_error(&error),
    });
    findings.extend(discovery.notes.into_iter().map(Finding::ok));
    Ok(findings)
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
    let slot = source.slot().await?;
    let found = gaps::Found {
        tables: &tables,
        slot: slot.as_ref(),
        control: control.as_ref(),
    };
    gaps::refuse(found, &mut source, &mut opened).await?;
    let (mut control, from) = start_position(&mut source, &lake, control, slot, &identity, &discovery).await?;
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
        .map(|id| (table_path(id), published.get(id).cloned().unwrap_or_default()))
        .collect()
}

/// Fails once a table's place in the publication changes: while it was out,
/// its changes were in nobody's stream.
async fn watch_publication(mut source: Postgres, members: BTreeMap<String, String>) -> Result<()> {
    loop {
        tokio::time::sleep(PUBLICATION_INTERVAL).await;
        let published = source.members().await?;
        let now: BTreeMap<String, &String> = published.iter().map(|(id, place)| (table_path(id), place)).collect();
        if let Some((table, _)) = members.iter().find(|(table, place)| now.get(*table) != Some(place)) {
            return Err(
                Error::operator(format!("{} was taken out of the publication", table.replace('/', ".")))
                    .with_hint("run again: it tells which tables missed changes, and what to do"),
            );
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

/// Finds where the stream starts, creating publication and slot if need be.
async fn start_position(
    source: &mut Postgres,
    lake: &Lake,
    control: Option<Control>,
    slot: Option<Slot>,
    identity: &Identity,
    discovery: &Discovery,
) -> Result<(Control, Position)> {
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
