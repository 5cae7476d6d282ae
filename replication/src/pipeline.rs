//! How the rooms are wired: opens source and lake, decides where each table
//! stands, and runs stream, snapshots and writers until told to stop.
//!
//! Memory, from `apply.memory` (M): open batches M/12, batches on their way
//! M/6, and what a batch becomes while it is written about as much again. The
//! rest is for key indexes (M/8), one snapshot chunk's keys and file buffers.

/// Runs what is written for any source with the one that the URL names.
macro_rules! for_source {
    ($config:expr, $source:ident => $run:expr) => {
        match $config.source.kind()? {
            crate::config::SourceKind::Postgres => {
                type $source = crate::source::transformed::Transformed<crate::source::postgres::Postgres>;
                $run
            }
            crate::config::SourceKind::MySql => {
                type $source = crate::source::transformed::Transformed<crate::source::mysql::MySql>;
                $run
            }
            crate::config::SourceKind::MongoDb => {
                type $source = crate::source::mongodb::MongoDb;
                $run
            }
        }
    };
}

mod apply;
mod budget;
mod control;
mod cuts;
mod gaps;
mod pause;
mod request;
mod round;
mod snapshotter;
mod status;
mod survey;
mod tables;
mod upkeep;
mod verify;
mod watch;
mod writer;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch::Receiver;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use self::apply::Apply;
use self::budget::{Keeper, Look, shown_bytes};
use self::control::Control;
pub use self::cuts::{Cut, CutList, CutTable, CutsOptions, cuts, shown_time};
use self::cuts::{Gatherer, Recorder};
use self::gaps::Standing;
pub use self::pause::{Pause, Paused};
pub use self::request::{Progress, snapshot};
use self::round::Pace;
use self::snapshotter::Snapshotter;
pub use self::status::{CutStatus, SourceStatus, Status, TableStatus, status};
pub use self::survey::{Survey, SurveyedTable, survey};
use self::tables::{Entry, GivenUp};
pub use self::upkeep::{Maintained, maintain};
pub use self::verify::{Difference, Differences, Keys, Outcome, Report, TableReport, VerifyOptions, verify};
use self::watch::{Seen, Watch};
use crate::config::{Config, OnGap};
use crate::error::{Class, Error, Result};
use crate::lake::{DAMAGED, IndexHome, Lake, Opened, PipelineRecord, State, TableRecord, table_path};
use crate::metrics::Metrics;
use crate::position::Position;
use crate::source::{
    Discovery, Finding, Identity, LOCKED, Membership, ONLY_WHOLE, Refusal, Slot, Source, SourceTable, Throttle,
};
use crate::trace::{span, within};

/// The longest pause before another try.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// How long a slot may stay in use after a restart: the server notices that
/// the old connection is gone when it next writes to it.
const SLOT_RELEASE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the server keeps transactions until their end once they could not be taken before.
const ONLY_WHOLE_FOR: Duration = Duration::from_secs(3600);
/// How long the end may take: a store that is out keeps a commit waiting. What
/// is not committed comes again.
const STOP_TIMEOUT: Duration = Duration::from_secs(7);

/// Replicates until `shutdown` turns true; with `once`, until everything that
/// was in the source at the start is in the lake.
///
/// Transient failures start over from the lake's watermarks, with a growing
/// pause; with `once` they end the run. What of a new configuration can take
/// effect at once does so.
pub async fn run(
    config: Receiver<Config>,
    once: bool,
    metrics: Arc<Metrics>,
    paused: Paused,
    shutdown: Receiver<bool>,
) -> Result<()> {
    let mut pause = Duration::from_millis(500);
    // When transactions could not be taken while they were open: then the server has to keep them for a while.
    let mut only_whole: Option<Instant> = None;
    let claimed = Arc::new(AtomicU64::new(0));
    let (looks, seen) = tokio::sync::watch::channel(None);
    let keeper = Keeper {
        config: config.clone(),
        metrics: metrics.clone(),
        looks,
        over: None,
    };
    // It ends with this function.
    let mut beside = JoinSet::new();
    let first = config.borrow().clone();
    for_source!(first, S => if S::KEEPS_POSITION {
        beside.spawn(keeper.run::<S>());
    });
    loop {
        let started = Instant::now();
        let mut stop = shutdown.clone();
        let now = config.borrow().clone();
        let running = Running {
            config: config.clone(),
            once,
            claimed: claimed.clone(),
            metrics: metrics.clone(),
            looks: seen.clone(),
            paused: paused.clone(),
            shutdown: shutdown.clone(),
        };
        let spills = only_whole.is_none_or(|at| at.elapsed() >= ONLY_WHOLE_FOR);
        let result = for_source!(now, S => attempt::<S>(running, spills).await);
        metrics.update(|m| {
            m.streaming = false;
            m.at_rest = false;
            m.reading = 0;
            m.source = None;
            m.snapshots.clear();
        });
        let error = match result {
            // A damaged index was a cache: it is gone when the next attempt looks.
            Err(error)
                if error.class() == Class::Transient
                    && (!once || matches!(error.code(), Some(DAMAGED | ONLY_WHOLE | LOCKED)))
                    && !*stop.borrow() =>
            {
                error
            }
            other => {
                if let Err(error) = &other {
                    metrics.note(error);
                }
                return other;
            }
        };
        metrics.note(&error);
        if error.code() == Some(ONLY_WHOLE) {
            only_whole = Some(Instant::now());
        }
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
    for_source!(config, S => check_source::<S>(config).await)
}

async fn check_source<S: Source>(config: &Config) -> Result<Vec<Finding>> {
    let mut source = S::connect(config).await?;
    let discovery = source.discover().await?;
    let mut findings = source.check(&discovery).await?;
    let pipeline = source.identify().await?.pipeline;
    match check_lake(config, &mut source, &discovery, &pipeline).await {
        Ok(copies) => {
            findings.push(Finding::ok(format!(
                "lake {} can be written and goes on",
                config.lake.url
            )));
            findings.extend(copies);
        }
        // What the server refuses has been told.
        Err(error) if error.code().is_some() && findings.iter().any(|finding| !finding.ok) => {}
        Err(error) => findings.push(Finding::from_error(&error)),
    }
    findings.extend(discovery.notes.into_iter().map(Finding::ok));
    Ok(findings)
}

/// Whether the lake can be written, and nothing is lost for its tables. Returns
/// which of them will be copied anew.
async fn check_lake<S: Source>(
    config: &Config,
    source: &mut S,
    discovery: &Discovery<S::Table>,
    pipeline: &str,
) -> Result<Vec<Finding>> {
    let lake = Lake::open(&config.lake.url, &config.lake.options)?;
    lake.prepare().await?;
    IndexHome::open(config.cache.dir.as_deref(), 0)?;
    let (slot, usable) = match source.slot().await {
        Ok(slot) => (slot, true),
        Err(_) => (None, false),
    };
    let Standing {
        entries, slot, gaps, ..
    } = Standing::read(source, slot, &lake, discovery, pipeline).await?;
    for entry in &entries {
        tables::fits::<S>(&config.table(entry.table.id()), &entry.table, entry.opened.as_ref())?;
    }
    let copies = entries.iter().filter_map(|entry| {
        let opened = entry.opened.as_ref().filter(|opened| opened.record.state.is_live())?;
        let reason = source.reason_to_copy(&entry.table, &opened.shape)?;
        let what = format!("table {} will be copied anew: {reason}", entry.table.id());
        Some(Finding::ok(what))
    });
    let mut copies: Vec<Finding> = copies.collect();
    // A slot that can't be used has a finding of its own.
    if !usable {
        return Ok(copies);
    }
    if let (Some(slot), Some(budget)) = (&slot, config.source.wal_budget)
        && slot.retained_bytes > budget
    {
        copies.push(Finding {
            hint: Some("a running sidecar's page and log name what holds it; one that starts reads on".to_owned()),
            ..Finding::ok(format!(
                "the source keeps {} of log for slot {:?}, more than source.wal_budget",
                shown_bytes(slot.retained_bytes),
                config.source.slot
            ))
        });
    }
    let given_up = |number: &usize| entries.get(*number).is_some_and(Entry::is_given_up);
    let (left, gaps): (Vec<_>, Vec<_>) = gaps.tables.into_iter().partition(|(number, _)| given_up(number));
    copies.extend(left.iter().filter_map(|(number, reason)| {
        let table = entries.get(*number)?.table.id();
        Some(Finding {
            hint: Some(format!("`tributary snapshot {table}` copies it anew")),
            ..Finding::ok(format!("table {table} was given up: {reason}"))
        })
    }));
    let Some((_, reason)) = gaps.first() else {
        return Ok(copies);
    };
    if config.source.on_gap == OnGap::Resnapshot {
        return Ok(copies);
    }
    let names: Vec<String> = gaps
        .iter()
        .filter_map(|(number, _)| entries.get(*number))
        .map(|entry| entry.table.id().to_string())
        .collect();
    Err(gaps::needs_snapshot(&names, reason))
}

/// What a life of the pipeline is told from outside, and tells.
struct Running {
    config: Receiver<Config>,
    once: bool,
    /// The epoch that the last one claimed, or 0.
    claimed: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
    looks: Receiver<Option<Look>>,
    paused: Paused,
    shutdown: Receiver<bool>,
}

/// One life of the pipeline, from opening to the first failure. `spills`: large
/// transactions that are open may be kept here.
async fn attempt<S: Source>(mut running: Running, spills: bool) -> Result<()> {
    let mut stop = running.shutdown.clone();
    let mut now = running.config.borrow_and_update().clone();
    now.apply.spill_max = now.apply.spill_max.filter(|_| spills);
    // Before the stream runs there is nothing to save: stop at once.
    let Prepared {
        apply,
        snapshotter,
        watch,
        recorder,
    } = tokio::select! {
        prepared = within(span!("start"), prepare::<S>(&now, running)) => prepared?,
        _ = stop.changed() => return Ok(()),
    };
    let mut beside = JoinSet::new();
    beside.spawn(snapshotter.run());
    beside.spawn(recorder.run());
    let watch = beside.spawn(watch.run());
    let result = tokio::select! {
        result = supervise(apply, &mut beside) => result,
        () = out_of_time(stop) => {
            warn!("the lake does not answer; stopping without the last changes, which come again");
            Ok(())
        }
    };
    watch.abort();
    if result.is_ok() {
        // The snapshotter ends with the stream's loop; what is complete, it tells.
        // So does what records cuts: the last one.
        let _ = tokio::time::timeout(Duration::from_secs(1), async {
            while beside.join_next().await.is_some() {}
        })
        .await;
    }
    beside.shutdown().await;
    result
}

/// Waits until it has been time to stop for too long.
async fn out_of_time(mut stop: Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        // Nobody is left who could say so.
        return std::future::pending().await;
    }
    tokio::time::sleep(STOP_TIMEOUT).await;
}

/// Everything opened, nothing running but the source's stream and the writers.
struct Prepared<S: Source> {
    apply: Apply<S>,
    snapshotter: Snapshotter<S::Tables>,
    watch: Watch<S>,
    recorder: Recorder,
}

async fn prepare<S: Source>(config: &Config, running: Running) -> Result<Prepared<S>> {
    let Running {
        config: updates,
        once,
        claimed,
        metrics,
        looks,
        paused,
        shutdown,
    } = running;
    let mut source = S::connect(config).await?;
    let mut discovery = source.discover().await?;
    for note in &discovery.notes {
        info!("{note}");
    }
    let indexes = IndexHome::open(config.cache.dir.as_deref(), config.apply.memory / 8)?;
    let lake = Lake::open(&config.lake.url, &config.lake.options)?.with_indexes(indexes);
    wait_for_slot(&mut source, &lake, claimed.load(Ordering::Relaxed)).await?;
    let identity = source.identify().await?;
    lake.prepare().await?;
    let slot = source.slot().await?;
    let Standing {
        mut control,
        mut entries,
        slot,
        gaps,
    } = Standing::read(&mut source, slot, &lake, &discovery, &identity.pipeline).await?;
    for entry in &entries {
        // Before anything is changed at the source.
        let by = config.table(entry.table.id()).partition_by;
        tables::partitions_fit::<S>(&by, &entry.table, entry.opened.as_ref())?;
    }
    let refused = set_aside(&mut discovery, control.as_ref());
    if source.is_standby().await? {
        set_aside_unpublished(&mut discovery, control.as_ref());
    }
    source.require(&discovery).await?;
    discovery.refused.extend(refused);
    // A standby whose primary is away never tells of a later one.
    let until = if once { Some(source.visible().await?) } else { None };

    let requests = lake.requests().await?;
    let asked: HashSet<&String> = requests.iter().flat_map(|request| &request.tables).collect();
    for entry in &mut entries {
        entry.ask(&asked);
    }
    if let (Some(control), Some(slot), false) = (&mut control, &slot, gaps.slot) {
        // Before any of the tables that know it is marked.
        control.know(slot.confirmed.clone()).await?;
    }
    let slot = close_gaps(gaps, slot, &mut entries, &mut source, config.source.on_gap).await?;
    let (left, mut entries): (Vec<_>, Vec<_>) = entries.into_iter().partition(Entry::is_given_up);
    let given_up = left.iter().filter_map(|entry| {
        let given_up = GivenUp::new(entry.opened.as_ref()?);
        warn!(table = %entry.table.id(), reason = given_up.trouble.error, hint = given_up.trouble.hint, "the table was given up and is not followed");
        Some((entry.table.id().clone(), given_up))
    });
    let given_up = given_up.collect();
    let (mut control, from) = start_position(&mut source, &lake, control, slot, &identity, &discovery, once).await?;
    let epoch = control.claim(&identity).await?;
    claimed.store(epoch, Ordering::Relaxed);
    leave_former(&lake, &mut control, &discovery, &identity.pipeline, epoch).await?;

    // With what the publication says of the tables now.
    let seen = Seen::read(&mut source, Vec::new()).await?;
    let mut places = BTreeMap::new();
    for entry in &mut entries {
        let place = seen.discovery.places.get(entry.table.id()).map(String::as_str);
        let before = control.record().tables.get(&table_path(entry.table.id()));
        if before.is_some_and(|before| S::membership(place, before) == Membership::Reformed) {
            entry.why.get_or_insert_with(|| gaps::REFORMED.to_owned());
            entry.remember_why().await?;
        }
    }
    entries.retain_mut(|entry| {
        let table = seen
            .discovery
            .tables
            .iter()
            .find(|table| table.id() == entry.table.id());
        let place = seen.discovery.places.get(entry.table.id());
        let (Some(table), Some(place)) = (table, place) else {
            return false;
        };
        entry.table = table.clone();
        places.insert(table_path(table.id()), place.clone());
        true
    });
    // Those given up as well: of an old place it would be told at every start that the publication was made anew.
    let mut entered = places.clone();
    entered.extend(left.iter().filter_map(|entry| {
        let place = seen.discovery.places.get(entry.table.id())?;
        Some((table_path(entry.table.id()), place.clone()))
    }));
    control.enter(entered).await?;

    let in_flight_bytes_max = usize::try_from(config.apply.memory / 6)
        .unwrap_or(usize::MAX)
        .min(u32::MAX as usize);
    let (durable_sender, durable) = mpsc::unbounded_channel();
    let (window_sender, windows) = mpsc::channel(1);
    let (task_sender, tasks) = mpsc::unbounded_channel();
    let (halt_sender, halts) = mpsc::unbounded_channel();
    let (seen_sender, seen_receiver) = mpsc::channel(1);
    let parallelism = Arc::new(AtomicUsize::new(config.snapshot.parallelism));
    let look = Arc::new(Notify::new());
    let (gatherer, newest_cut) = Gatherer::new();
    let recorder = Recorder {
        lake: lake.clone(),
        pipeline: identity.pipeline.clone(),
        epoch,
        config: updates.clone(),
        newest: newest_cut,
    };
    let watching = S::connect(config).await?;
    // Errors: the standby was promoted meanwhile. Both have to take the server for the same.
    source.visible().await?;
    let stream = source.stream(&from).await?;
    let mut apply = Apply {
        stream,
        source,
        lake: lake.clone(),
        pipeline: identity.pipeline.clone(),
        epoch,
        control,
        config: updates.clone(),
        maintenance: Arc::new(Semaphore::new(config.maintenance.threads)),
        throttle: Arc::new(Throttle::new(config.snapshot.max_bytes_per_s)),
        parallelism: parallelism.clone(),
        column_mapping: config.lake.column_mapping,
        routes: Vec::new(),
        writers: JoinSet::new(),
        tasks: task_sender,
        halts,
        halt_sender: halt_sender.clone(),
        windows,
        seen: seen_receiver,
        ahead: None,
        newest: None,
        look: look.clone(),
        requests: Vec::new(),
        given_up,
        looks,
        unfit: HashSet::new(),
        unpublished: None,
        durable,
        durable_sender,
        pace: Pace::of(config.apply.max_latency),
        last_round: None,
        round_wanted: false,
        left_since: None,
        cuts: gatherer,
        open_bytes_max: usize::try_from(config.apply.memory / 12).unwrap_or(usize::MAX),
        in_flight: Arc::new(Semaphore::new(in_flight_bytes_max)),
        in_flight_bytes_max,
        until,
        metrics: metrics.clone(),
        paused: paused.clone(),
        paused_at: None,
        shutdown,
    };
    let count = entries.len();
    for entry in entries {
        let place = places.get(&table_path(entry.table.id())).cloned().unwrap_or_default();
        apply.enter(entry, place).await?;
    }
    for request in &requests {
        lake.remove_request(&request.id).await?;
    }
    // What changed at the source without a row that tells of it.
    apply.ahead = Some(Seen {
        since: std::time::Instant::now(),
        ..seen
    });
    info!(tables = count, slot = config.source.slot, position = %from, epoch, "streaming");
    Ok(Prepared {
        apply,
        snapshotter: Snapshotter {
            tasks,
            windows: window_sender,
            halts: halt_sender,
            parallelism,
            paused: paused.clone(),
            metrics: metrics.clone(),
        },
        watch: Watch {
            source: watching,
            lake,
            config: updates,
            now: look,
            seen: seen_sender,
            told: requests.into_iter().map(|request| request.id).collect(),
            pipeline: identity.pipeline,
            paused,
            metrics,
        },
        recorder,
    })
}

/// Takes tables out of what is refused that the lake already has: they must
/// not keep the others from going on. Returns them.
fn set_aside<T>(discovery: &mut Discovery<T>, control: Option<&Control>) -> Vec<Refusal> {
    let known = |refusal: &Refusal| {
        let folder = table_path(&refusal.table);
        control.is_some_and(|c| c.record().tables.contains_key(&folder))
    };
    let (aside, refused) = std::mem::take(&mut discovery.refused).into_iter().partition(known);
    discovery.refused = refused;
    aside
}

/// Takes tables out that nobody has published yet, and that the lake does not know: they must not keep those
/// that it has from going on. The looks at the catalogue say what is to be done, and take them on then.
fn set_aside_unpublished<T: SourceTable>(discovery: &mut Discovery<T>, control: Option<&Control>) {
    let Some(control) = control else { return };
    let Discovery { tables, places, .. } = discovery;
    let goes_on =
        |table: &T| places.contains_key(table.id()) || control.record().tables.contains_key(&table_path(table.id()));
    if tables.iter().any(goes_on) {
        tables.retain(goes_on);
    }
}

/// Decides what becomes of tables that miss changes. Returns the slot, if it
/// is of use still.
async fn close_gaps<S: Source>(
    gaps: gaps::Gaps,
    slot: Option<Slot>,
    entries: &mut [Entry<S::Table>],
    source: &mut S,
    on_gap: OnGap,
) -> Result<Option<Slot>> {
    let waits = |entry: &Entry<S::Table>| {
        let being_copied = entry
            .opened
            .as_ref()
            .is_some_and(|o| o.record.state == State::Resnapshotting);
        on_gap == OnGap::Stop && entry.why.is_none() && !being_copied && !entry.is_given_up()
    };
    let open: Vec<_> = gaps
        .tables
        .iter()
        .filter(|(number, _)| entries.get(*number).is_some_and(waits))
        .cloned()
        .collect();
    if !open.is_empty() {
        return Err(gaps::stop(entries, &open).await?);
    }
    for (number, reason) in gaps.tables {
        let stays = |entry: &Entry<S::Table>| on_gap == OnGap::Stop && entry.is_given_up();
        if let Some(entry) = entries.get_mut(number).filter(|entry| !stays(entry)) {
            entry.why.get_or_insert(reason);
        }
    }
    // Before anything that tells of the gap is put right.
    for entry in &mut *entries {
        entry.remember_why().await?;
    }
    let goes_on = |entry: &Entry<S::Table>| {
        let follows = |record: &TableRecord| record.state.is_live() && record.relation == entry.table.relation();
        entry.why.is_none() && entry.record().is_some_and(follows)
    };
    // What one goes on with is in its log alone.
    if gaps.drop_slot && slot.is_some() && !entries.iter().any(goes_on) {
        source.drop_slot().await?;
        return Ok(None);
    }
    Ok(slot)
}

/// Marks tables that were replicated once and are not to be any more.
async fn leave_former<T: SourceTable>(
    lake: &Lake,
    control: &mut Control,
    discovery: &Discovery<T>,
    pipeline: &str,
    epoch: u64,
) -> Result<()> {
    let selected: HashSet<String> = discovery.tables.iter().map(|t| table_path(t.id())).collect();
    let folders: Vec<String> = control.record().tables.keys().cloned().collect();
    for folder in folders.into_iter().filter(|folder| !selected.contains(folder)) {
        let Some(mut opened) = Opened::read(lake.log(&folder)?, pipeline).await? else {
            control.leave(folder).await?;
            continue;
        };
        let (state, reason) = tables::gone(&opened.record.table, opened.record.relation, discovery);
        if opened.record.state != state {
            tables::stop(&mut opened, epoch, state, &reason).await?;
        }
        if state != State::Stalled {
            control.leave(folder).await?;
        }
    }
    Ok(())
}

/// Runs the stream until it ends, or until something beside it fails.
async fn supervise<S: Source>(apply: Apply<S>, beside: &mut JoinSet<Result<()>>) -> Result<()> {
    let mut running = std::pin::pin!(apply.run());
    loop {
        tokio::select! {
            result = &mut running => return result,
            Some(joined) = beside.join_next() => joined.map_err(|e| Error::bug("a task panicked").with_source(e))??,
        }
    }
}

/// The slot, by the server or by the lake's record.
async fn slot<S: Source>(source: &mut S, lake: &Lake, pipeline: &str) -> Result<Option<Slot>> {
    if S::KEEPS_POSITION {
        return source.slot().await;
    }
    match Control::open(lake.pipeline()?, pipeline).await? {
        Some(control) => source.slot_at(&control.record().confirm_limit).await,
        None => Ok(None),
    }
}

/// Waits until the connection of the life before is gone. `claimed`: that life's epoch, or 0.
///
/// Errors: somebody has the slot, and it may be another sidecar; or it is one.
async fn wait_for_slot<S: Source>(source: &mut S, lake: &Lake, claimed: u64) -> Result<()> {
    let started = Instant::now();
    while source.in_use().await? {
        if started.elapsed() > SLOT_RELEASE_TIMEOUT {
            if claimed > 0 {
                let control = Control::any(lake.pipeline()?).await?;
                if control.is_some_and(|control| control.record().epoch > claimed) {
                    return Err(control::replaced());
                }
                return Err(Error::transient(
                    "the server still serves the connection that is gone, or another sidecar",
                )
                .with_hint(
                    "it notices by itself: PostgreSQL within wal_sender_timeout, or once it has decoded what it \
                             is at. If another sidecar uses source.slot, stop one of them",
                ));
            }
            // `require` tells what is wrong and what to do.
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Finds where the stream starts, creating publication and slot if need be.
async fn start_position<S: Source>(
    source: &mut S,
    lake: &Lake,
    control: Option<Control>,
    slot: Option<Slot>,
    identity: &Identity,
    discovery: &Discovery<S::Table>,
    once: bool,
) -> Result<(Control, Position)> {
    match source.ensure_published(discovery).await {
        // The others go on; the next look takes on what is not published yet. A slot that is
        // still to be made has to come after its publication.
        Err(error) if error.code() == Some(LOCKED) && control.is_some() && slot.is_some() && !once => {
            warn!(%error, hint = error.hint(), "new tables can't be replicated yet");
        }
        published => published?,
    }
    let from = match slot {
        Some(slot) => slot.confirmed,
        None => source.create_slot().await?,
    };
    let control = match control {
        Some(mut control) => {
            if S::KEEPS_POSITION {
                control.know(from.clone()).await?;
            } else if control.record().confirm_limit != from {
                // Whatever comes after, the log before is lost.
                control.raise(from.clone()).await?;
            }
            control
        }
        None => {
            let record = PipelineRecord::new(identity.pipeline.clone(), from.clone(), identity.timeline);
            Control::create(lake.pipeline()?, record).await?
        }
    };
    Ok((control, from))
}
