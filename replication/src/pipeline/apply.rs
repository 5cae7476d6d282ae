//! The stream's loop: gathers changes, closes batches at transaction
//! boundaries, closes chunk windows, and confirms what is durable.
//!
//! ```text
//! socket ─► builders ─► batches ─► writer of each table ─► lake
//!    ▲                                       │
//!    └────────────── confirm ◄── durable ────┘
//! ```
//!
//! Bounds: the builders of all tables together hold `open_bytes_max`, batches
//! on their way `in_flight` permits; when both are used up the socket is not
//! read, and the source waits.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{error, info};

use super::budget::Look;
use super::control::Control;
use super::cuts::{Gatherer, Standing};
use super::pause::Paused;
use super::round::{Gathered, Pace};
use super::snapshotter::{Halt, Task, Window};
use super::tables::{Ending, GivenUp};
use super::watch::Seen;
use super::writer::{Command, Durable};
use crate::batch::ChangeBatch;
use crate::config::{Config, OnGap};
use crate::error::{Error, Result};
use crate::failpoint;
use crate::key::KeyEncoder;
use crate::lake::{DeltaTable, FileFormat, Lake, Request, Shape, SnapshotProgress, State};
use crate::metrics::{MemoryNumbers, Metrics, Trouble};
use crate::position::Position;
use crate::schema::TableId;
use crate::source::{ChangeStream, Source, SourceEvent, SourceTable, Throttle};

/// How often time-driven things are looked at.
const TICK: Duration = Duration::from_millis(50);
/// How often metrics are brought up to date.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(200);
/// How often the source hears from us at least; servers give up after 60 s.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// The same while nothing is read: what the server asks for is not seen.
const DEAF_STATUS_INTERVAL: Duration = Duration::from_millis(500);
/// How often at most the pipeline's record moves for an idle slot's sake.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);
/// How long a shutdown, or a pause, waits for the end of an open transaction.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// A table as the stream's loop sees it.
pub struct Route {
    pub id: TableId,
    /// Its folder.
    path: String,
    pub relation: u32,
    /// `None` once it is closed.
    pub commands: Option<mpsc::Sender<Command>>,
    /// Its place in the publication.
    pub place: String,
    pub state: State,
    pub durable: Position,
    pub catch_up_to: Option<Position>,
    pub progress: SnapshotProgress,
    /// The lake table's columns, as of the last command sent.
    pub shape: Shape,
    /// How its data files are written, as of the last command sent.
    pub format: FileFormat,
    pub encoder: KeyEncoder,
    /// When it was entered.
    pub since: std::time::Instant,
    /// Where in the log its columns last changed, and when that was followed.
    pub altered: Option<(Position, std::time::Instant)>,
    /// Set while its snapshot waits for a look at the catalogue.
    pub paused: Option<std::time::Instant>,
    /// What becomes of it once its writer has finished.
    pub ending: Option<Ending>,
    /// Holds the slot until what the table misses is on record.
    pub held: Option<Position>,
    pub open: Option<Open>,
    /// For each commit on its way, the position before its first change, and when that was read.
    in_flight: VecDeque<(Position, Instant)>,
    /// Commits that its writer was asked for, and has done.
    sent: u64,
    done: u64,
    /// The version that readers see its durable content in.
    version: Option<u64>,
    /// What the last commit's deletion vectors took.
    vector_bytes: u64,
    /// Set when the table can't go on: where its changes stop being durable.
    pub stalled_at: Option<Position>,
    /// What it can't go on for.
    pub stalled_by: String,
    /// Since when it has been stalled, or holds the slot, or its oldest change before that.
    waiting_since: Option<Instant>,
}

pub struct Open {
    since: Instant,
    /// The stream's position before the first change.
    start: Position,
    /// Left by a round, for its writer had no room.
    late: bool,
}

impl Open {
    pub fn now(start: Position) -> Self {
        Self {
            since: Instant::now(),
            start,
            late: false,
        }
    }
}

impl Route {
    pub fn new(
        table: &impl SourceTable,
        commands: mpsc::Sender<Command>,
        place: String,
        path: String,
        lake_table: &DeltaTable,
    ) -> Self {
        let record = lake_table.record();
        Self {
            id: table.id().clone(),
            path,
            relation: table.relation(),
            commands: Some(commands),
            place,
            state: record.state,
            durable: record.watermark.clone(),
            catch_up_to: record.catch_up_to.clone(),
            progress: record.snapshot.clone().unwrap_or_default(),
            shape: lake_table.shape().clone(),
            format: lake_table.file_format(),
            encoder: lake_table.encoder().clone(),
            since: std::time::Instant::now(),
            altered: None,
            paused: None,
            ending: None,
            held: None,
            open: None,
            in_flight: VecDeque::new(),
            sent: 0,
            done: 0,
            version: lake_table.visible_version(),
            vector_bytes: 0,
            stalled_at: None,
            stalled_by: String::new(),
            waiting_since: None,
        }
    }

    /// When its oldest change was read that is not durable.
    fn pending_since(&self) -> Option<Instant> {
        let held = self.held.is_some() || self.stalled_at.is_some();
        let waiting = self.waiting_since.filter(|_| held);
        waiting
            .or(self.in_flight.front().map(|(_, since)| *since))
            .or(self.open.as_ref().map(|open| open.since))
    }

    /// Notes that what comes from now on is not durable soon.
    pub fn wait(&mut self) {
        self.waiting_since = Some(self.pending_since().unwrap_or_else(Instant::now));
    }

    /// Whether its version equals the source at its watermark, and readers can see it.
    fn takes_part_in_cuts(&self) -> bool {
        !self.is_closed()
            && self.stalled_at.is_none()
            && self.held.is_none()
            && self.state == State::Streaming
            && self.catch_up_to.is_none()
            && (self.version.is_some() || self.sent > self.done)
    }

    /// Everything of the table up to here is durable; `None` if all of it is.
    pub fn pending(&self) -> Option<Position> {
        let held = self.held.as_ref().or(self.stalled_at.as_ref());
        held.or(self.in_flight.front().map(|(position, _)| position))
            .or(self.open.as_ref().map(|open| &open.start))
            .cloned()
    }

    /// Hands its writer a command, if there is room.
    fn try_send(&self, command: Command) -> Result<()> {
        let commands = self.commands.as_ref().ok_or_else(|| self.ended())?;
        commands.try_send(command).map_err(|_| self.ended())
    }

    /// Hands its writer a command, once there is room.
    pub async fn send(&self, command: Command) -> Result<()> {
        let commands = self.commands.as_ref().ok_or_else(|| self.ended())?;
        commands.send(command).await.map_err(|_| self.ended())
    }

    fn ended(&self) -> Error {
        Error::transient(format!("the writer of {} has ended", self.id))
    }

    /// Notes a commit that is on its way, and takes what was open from it: its
    /// changes come after `position` if nothing was.
    pub fn expect_commit(&mut self, position: &Position) {
        let open = self.open.take();
        self.sent += 1;
        let first = open.map_or_else(|| (position.clone(), Instant::now()), |open| (open.start, open.since));
        self.in_flight.push_back(first);
    }

    pub fn is_closed(&self) -> bool {
        self.commands.is_none()
    }

    /// Gives it no more changes.
    pub fn close(&mut self) {
        self.commands = None;
        self.open = None;
        self.in_flight.clear();
        self.stalled_at = None;
        self.catch_up_to = None;
        self.paused = None;
    }
}

pub struct Apply<S: Source> {
    pub stream: S::Stream,
    /// For looks at the catalogue.
    pub source: S,
    pub lake: Lake,
    /// Our name in the lake.
    pub pipeline: String,
    pub epoch: u64,
    pub control: Control,
    pub config: watch::Receiver<Config>,
    /// A permit for each maintenance job that may run.
    pub maintenance: Arc<Semaphore>,
    pub throttle: Arc<Throttle>,
    pub parallelism: Arc<AtomicUsize>,
    pub column_mapping: bool,
    pub routes: Vec<Route>,
    pub writers: JoinSet<Result<(usize, DeltaTable)>>,
    pub tasks: mpsc::UnboundedSender<Task<S::Tables>>,
    pub halts: mpsc::UnboundedReceiver<(usize, Halt)>,
    pub halt_sender: mpsc::UnboundedSender<(usize, Halt)>,
    pub windows: mpsc::Receiver<Window>,
    pub seen: mpsc::Receiver<Seen<S::Table>>,
    /// What waits for the stream to come to its position.
    pub ahead: Option<Seen<S::Table>>,
    /// A later one.
    pub newest: Option<Seen<S::Table>>,
    /// Asks for a look at the catalogue.
    pub look: Arc<Notify>,
    /// Requests that are being carried out.
    pub requests: Vec<Request>,
    /// Tables that nobody follows until a new snapshot is asked for.
    pub given_up: BTreeMap<TableId, GivenUp>,
    /// How much log the source keeps.
    pub looks: watch::Receiver<Option<Look>>,
    /// New tables that can't be followed as they are configured; told once.
    pub unfit: HashSet<TableId>,
    /// Why new tables are not published, as it was said.
    pub unpublished: Option<String>,
    pub durable: mpsc::UnboundedReceiver<Durable>,
    pub durable_sender: mpsc::UnboundedSender<Durable>,
    pub pace: Pace,
    /// When batches were last closed together.
    pub last_round: Option<Instant>,
    /// A round is due as soon as the open transaction ends.
    pub round_wanted: bool,
    /// Since when a round is under way that some writers had no room for, for
    /// memory was full.
    pub left_since: Option<Instant>,
    pub cuts: Gatherer,
    pub open_bytes_max: usize,
    pub in_flight: Arc<Semaphore>,
    pub in_flight_bytes_max: usize,
    /// Stop once every table's watermark covers this.
    pub until: Option<Position>,
    pub metrics: Arc<Metrics>,
    pub paused: Paused,
    /// Since when this loop knows of a pause.
    pub paused_at: Option<Instant>,
    pub shutdown: watch::Receiver<bool>,
}

/// What the loop does next.
#[derive(PartialEq)]
enum Next {
    Read,
    /// The budget is used up: wait for a writer.
    Blocked,
    /// Replication is paused.
    Rest,
    /// A table's columns were described anew.
    Judge(usize),
    /// The stream is where the catalogue was looked at.
    Reconcile,
    Done,
}

impl<S: Source> Apply<S> {
    /// Runs until shutdown, until the target of `--once` is reached, or until
    /// something fails.
    pub async fn run(mut self) -> Result<()> {
        let result = self.follow_stream().await;
        if result.is_err() {
            // What made a writer end says more than that it is gone.
            while let Some(joined) = self.writers.try_join_next() {
                joined.map_err(panicked)??;
            }
        }
        result
    }

    async fn follow_stream(&mut self) -> Result<()> {
        let mut waiting: Vec<Window> = Vec::new();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut confirmed = self.confirmable();
        let mut last_status = Instant::now();
        let mut last_heartbeat = Instant::now();
        let mut last_published = Instant::now();
        let mut stopping: Option<Instant> = None;
        let mut answer = false;
        self.publish(false);
        loop {
            let paused = self.paused_for().filter(|_| stopping.is_none());
            let next = self.work(&mut waiting, stopping.is_some(), paused, &mut answer)?;
            if let Some(since) = stopping
                && (next == Next::Done || since.elapsed() > DRAIN_TIMEOUT)
            {
                break;
            }
            match next {
                Next::Judge(table) => {
                    self.judge(table).await?;
                    continue;
                }
                Next::Reconcile => {
                    if let Some(seen) = self.ahead.take() {
                        self.ahead = self.newest.take();
                        self.reconcile(seen).await?;
                    }
                    continue;
                }
                _ => {}
            }
            if self.finished(&waiting) {
                break;
            }
            let target = self.confirmable();
            let moved = target != confirmed;
            // The slot must never pass what the lake knows of.
            let known = match S::KEEPS_POSITION {
                true => self.control.covers(&target, &self.routes_durable()),
                false => self.control.record().confirm_limit == target,
            };
            if moved && !known && last_heartbeat.elapsed() >= HEARTBEAT_INTERVAL {
                self.control.raise(target).await?;
                last_heartbeat = Instant::now();
                continue;
            }
            let interval = match next {
                Next::Read if !self.stream.is_deaf() => STATUS_INTERVAL,
                _ => DEAF_STATUS_INTERVAL,
            };
            if answer || (moved && known) || last_status.elapsed() >= interval {
                if known {
                    confirmed = target.clone();
                }
                let ask = next == Next::Read && self.wants_position(&waiting);
                failpoint::reach("confirm");
                self.stream.confirm(&confirmed, ask).await?;
                last_status = Instant::now();
                answer = false;
            }
            tokio::select! {
                result = self.stream.fill(), if next == Next::Read => result?,
                Some(event) = self.durable.recv() => self.on_durable(event),
                Some(window) = self.windows.recv() => waiting.push(window),
                Some(seen) = self.seen.recv() => self.look_ahead(seen).await?,
                Some((table, halt)) = self.halts.recv() => self.halted(table, halt)?,
                Some(joined) = self.writers.join_next() => {
                    let (number, table) = joined.map_err(panicked)??;
                    self.settle(number, table).await?;
                    self.answer_requests().await?;
                }
                Ok(()) = self.config.changed() => self.reconfigure(),
                Ok(()) = self.looks.changed() => self.keep_budget()?,
                Ok(()) = self.paused.changed() => {}
                _ = tick.tick() => {
                    if next == Next::Read && self.wants_position(&waiting) && last_status.elapsed() >= TICK {
                        answer = true;
                    }
                    if last_published.elapsed() >= PUBLISH_INTERVAL {
                        let passed = |window: &Window| self.stream.position().covers(&window.high);
                        self.publish(next == Next::Rest && !waiting.iter().any(passed));
                        last_published = Instant::now();
                    }
                }
                _ = self.shutdown.changed(), if stopping.is_none() => {
                    info!("stopping: committing what is complete");
                    stopping = Some(Instant::now());
                }
            }
        }
        self.drain().await?;
        let target = self.confirmable();
        if !S::KEEPS_POSITION || !self.control.covers(&target, &self.routes_durable()) {
            self.control.raise(target.clone()).await?;
        }
        self.stream.confirm(&target, false).await?;
        info!(position = %target, "confirmed");
        self.stream.end().await;
        // All is durable: the writers have their key indexes left to save.
        for route in &mut self.routes {
            route.close();
        }
        while let Some(joined) = self.writers.join_next().await {
            drop(joined.map_err(panicked)??);
        }
        Ok(())
    }

    fn reconfigure(&mut self) {
        let config = self.config.borrow_and_update();
        self.throttle.set(config.snapshot.max_bytes_per_s);
        self.parallelism.store(config.snapshot.parallelism, Ordering::Relaxed);
        info!(parallelism = config.snapshot.parallelism, tables = ?config.source.tables, "configuration read again");
    }

    pub fn on_gap(&self) -> OnGap {
        self.config.borrow().source.on_gap
    }

    /// How long replication has been paused, if it is.
    fn paused_for(&mut self) -> Option<Duration> {
        if self.paused.borrow_and_update().is_none() {
            self.paused_at = None;
            return None;
        }
        Some(self.paused_at.get_or_insert_with(Instant::now).elapsed())
    }

    /// Uses up what has been read from the socket, closing batches as due. A pause
    /// leaves what comes after the open transaction.
    fn work(
        &mut self,
        waiting: &mut Vec<Window>,
        stopping: bool,
        paused: Option<Duration>,
        answer: &mut bool,
    ) -> Result<Next> {
        let closing = stopping || paused.is_some();
        if !self.close_due(waiting, closing)? {
            return Ok(Next::Blocked);
        }
        loop {
            if stopping && !self.stream.in_transaction() {
                return Ok(Next::Done);
            }
            if paused.is_some_and(|paused| !self.stream.in_transaction() || paused > DRAIN_TIMEOUT) {
                return Ok(Next::Rest);
            }
            if self.ahead.is_some() && self.at_look() {
                return Ok(Next::Reconcile);
            }
            let boundary = match self.stream.next_event()? {
                None => return Ok(Next::Read),
                Some(SourceEvent::Changed { table }) => {
                    if self.route(table)?.open.is_none() {
                        let open = Open::now(self.stream.position());
                        self.route(table)?.open = Some(open);
                    }
                    false
                }
                Some(SourceEvent::Described { table }) => return Ok(Next::Judge(table)),
                Some(SourceEvent::Heartbeat { reply_wanted }) => {
                    *answer |= reply_wanted;
                    true
                }
                Some(SourceEvent::Commit) => true,
                Some(SourceEvent::Begin) => false,
                Some(SourceEvent::Unfit { table, reason }) => {
                    self.copy_anew(table, &reason)?;
                    false
                }
                Some(SourceEvent::Stalled { table, error }) => {
                    self.stall(table, error)?;
                    false
                }
            };
            // Looking at every table costs, so not for every change. What is
            // due by time is found after the next read.
            let full = self.stream.open_bytes() >= self.open_bytes_max;
            let wanted = closing || self.round_wanted || !waiting.is_empty() || self.until.is_some();
            let look = full || (boundary && wanted);
            if look && !self.close_due(waiting, closing)? {
                return Ok(Next::Blocked);
            }
        }
    }

    /// Whether the stream has told all that a look at the catalogue has seen.
    fn at_look(&self) -> bool {
        if self.stream.in_transaction() {
            return false;
        }
        let position = self.stream.position();
        self.ahead.as_ref().is_some_and(|seen| position.covers(&seen.position))
    }

    /// Closes the batches and windows that are due. False if the budget does
    /// not allow it yet.
    fn close_due(&mut self, waiting: &mut Vec<Window>, closing: bool) -> Result<bool> {
        let full = self.stream.open_bytes() >= self.open_bytes_max;
        if self.stream.in_transaction() {
            // A transaction that doesn't fit goes to the lake in parts, of
            // which nothing shows before its commit.
            self.round_wanted = self.round_wanted || self.round_is_due();
            return if full { self.stage_largest() } else { Ok(true) };
        }
        let position = self.stream.position();
        let target_reached = self.until.as_ref().is_some_and(|until| position.covers(until));
        let mut i = 0;
        while let Some(window) = waiting.get(i) {
            let (table, passed) = (window.table, position.covers(&window.high));
            let route = self.route(table)?;
            if route.is_closed() || route.stalled_at.is_some() {
                waiting.swap_remove(i);
            } else if !passed {
                i += 1;
            } else if self.can_send(table, 2) {
                let window = waiting.swap_remove(i);
                self.close_window(window)?;
            } else {
                // Later will do: nobody else has to wait for this table's writer.
                i += 1;
            }
        }
        self.round_wanted = false;
        let round = closing || full || target_reached || self.round_is_due();
        if round {
            self.last_round = Some(Instant::now());
        }
        let mut left = false;
        for table in 0..self.routes.len() {
            let route = self.route(table)?;
            let due = route.open.as_ref().is_some_and(|open| round || open.late);
            let caught_up = route.open.is_none()
                && route.in_flight.is_empty()
                && route.stalled_at.is_none()
                && route.catch_up_to.as_ref().is_some_and(|to| position.covers(to));
            if (due || caught_up) && !self.close(table)? {
                // It follows once its writer has room; the others don't wait.
                left = true;
                if let Some(open) = &mut self.route(table)?.open {
                    open.late = true;
                }
            }
        }
        self.propose_cut();
        if !left {
            self.left_since = None;
            return Ok(true);
        }
        // A backlog fills memory again and again. Were the stream read while
        // some tables wait, none of the rounds would be of one position.
        if full {
            self.left_since.get_or_insert_with(Instant::now);
        }
        let patient = self.left_since.is_some_and(|since| since.elapsed() < self.pace.age_max);
        let full = self.stream.open_bytes() >= self.open_bytes_max;
        Ok(!(full || closing || patient))
    }

    /// Whether the open batches are to be closed, by their age or because it pays.
    fn round_is_due(&self) -> bool {
        let open = |route: &Route| route.open.as_ref().filter(|open| !open.late).map(|open| open.since);
        let open = self.routes.iter().filter_map(|route| Some((route, open(route)?)));
        let (mut oldest, mut tables, mut vectors) = (None, 0, 0);
        for (route, since) in open {
            oldest = Some(oldest.map_or(since, |oldest: Instant| oldest.min(since)));
            tables += 1;
            vectors += route.vector_bytes;
        }
        oldest.is_some_and(|oldest| {
            self.pace.is_due(&Gathered {
                age: oldest.elapsed(),
                gap: self.last_round.map_or(Duration::MAX, |last| last.elapsed()),
                rows: self.stream.open_bytes() as u64,
                tables,
                vectors,
            })
        })
    }

    /// Between transactions and with nothing open, what was sent is a cut.
    fn propose_cut(&mut self) {
        if self.cuts.is_idle() {
            return;
        }
        let position = self.stream.position();
        let tables = || {
            self.routes
                .iter()
                .enumerate()
                .filter(|(_, route)| route.takes_part_in_cuts())
        };
        // One that is further, as after a restart, the stream has to come to.
        let fits = |route: &Route| route.open.is_none() && position.covers(&route.durable);
        if !tables().all(|(_, route)| fits(route)) {
            return;
        }
        let tables = tables().map(|(number, route)| Standing {
            number,
            table: &route.id,
            path: &route.path,
            sent: route.sent,
            done: route.done,
            version: route.version,
        });
        self.cuts.propose(position.clone(), self.stream.committed_at(), tables);
    }

    /// Sends a table's open batch as one commit.
    fn close(&mut self, table: usize) -> Result<bool> {
        if !self.can_send(table, 1) {
            return Ok(false);
        }
        let watermark = self.stream.position();
        let batch = match self.take_open(table)? {
            Taken::Nothing => None,
            Taken::Batch(batch, permit) => Some((batch, permit)),
            Taken::NoRoom => return Ok(false),
        };
        let route = self.route(table)?;
        route.expect_commit(&watermark);
        route.try_send(Command::Commit { batch, watermark })?;
        self.cuts.changed = true;
        Ok(true)
    }

    /// The stream has passed the window's end: the chunk goes after all that
    /// the stream has told.
    fn close_window(&mut self, window: Window) -> Result<()> {
        let watermark = self.stream.position();
        let taken = self.take_open(window.table)?;
        let table = window.table;
        let command = Command::Chunk {
            chunk: window.chunk,
            progress: window.progress,
            watermark: watermark.clone(),
            merged: window.merged,
        };
        let route = self.route(table)?;
        match taken {
            Taken::Batch(batch, permit) => route.try_send(Command::Stage(batch, permit))?,
            Taken::Nothing => {}
            Taken::NoRoom => return Err(Error::bug("a window was closed without room for its batch")),
        }
        route.expect_commit(&watermark);
        route.try_send(command)?;
        self.cuts.changed = true;
        Ok(())
    }

    /// Stages the largest open batch in the middle of a transaction.
    fn stage_largest(&mut self) -> Result<bool> {
        let Some(table) = (0..self.routes.len()).max_by_key(|t| self.stream.bytes(*t)) else {
            return Ok(true);
        };
        if !self.can_send(table, 1) {
            return Ok(false);
        }
        match self.take_open(table)? {
            Taken::Batch(batch, permit) => self
                .route(table)?
                .try_send(Command::Stage(batch, permit))
                .map(|()| true),
            Taken::Nothing => Ok(true),
            Taken::NoRoom => Ok(false),
        }
    }

    /// Whether the writer has room for some commands and the budget for the batch.
    fn can_send(&self, table: usize, commands: usize) -> bool {
        let room = self
            .routes
            .get(table)
            .is_some_and(|route| route.commands.as_ref().is_some_and(|c| c.capacity() >= commands));
        room && self.in_flight.available_permits() >= self.permits(table) as usize
    }

    pub fn permits(&self, table: usize) -> u32 {
        self.stream.bytes(table).clamp(1, self.in_flight_bytes_max) as u32
    }

    fn take_open(&mut self, table: usize) -> Result<Taken> {
        if self.stream.bytes(table) == 0 {
            return Ok(Taken::Nothing);
        }
        let permits = self.permits(table);
        let Ok(permit) = self.in_flight.clone().try_acquire_many_owned(permits) else {
            return Ok(Taken::NoRoom);
        };
        Ok(Taken::Batch(self.stream.take_batch(table)?, permit))
    }

    /// One table stops; the others go on. It holds the slot, and says so.
    pub fn stall(&mut self, table: usize, error: Error) -> Result<()> {
        let position = self.stream.position();
        let once = self.until.is_some();
        self.stream.stall(table);
        let route = self.route(table)?;
        if route.is_closed() {
            return Ok(());
        }
        let at = route.pending().unwrap_or(position);
        route.wait();
        route.stalled_at = Some(at.clone());
        route.open = None;
        let (id, trouble) = (route.id.clone(), Trouble::of(&error));
        route.stalled_by.clone_from(&trouble.error);
        self.metrics
            .update(|m| m.tables.entry(id).or_default().trouble = Some(trouble));
        self.cuts.forget(table);
        let route = self.route(table)?;
        error!(table = %route.id, %error, cause = error.cause(), hint = error.hint(), position = %at,
            "table stalled: it gets no more changes and holds the slot's log from here on");
        if !once {
            return Ok(());
        }
        let hint = error.hint().unwrap_or_default().to_owned();
        Err(Error::operator(format!("{} is stalled", route.id))
            .with_hint(hint)
            .with_source(error))
    }

    fn on_durable(&mut self, event: Durable) {
        if let Some(route) = self.routes.get_mut(event.table) {
            if event.asked_for {
                route.in_flight.pop_front();
                route.done += 1;
                route.vector_bytes = event.vector_bytes;
            }
            self.cuts.durable(&event, route.done);
            let took_part = route.takes_part_in_cuts();
            route.version = event.version;
            route.durable = event.watermark;
            route.state = event.state;
            if !route.is_closed() {
                route.catch_up_to = event.catch_up_to;
            }
            route.progress = event.snapshot.unwrap_or_default();
            // What takes part from now on, no candidate has yet.
            self.cuts.changed |= !event.asked_for || (!took_part && route.takes_part_in_cuts());
            let (rows, id) = (event.rows, &route.id);
            self.metrics.update(|m| {
                m.changes += rows.upserts + rows.deletes;
                let table = m.tables.entry(id.clone()).or_default();
                table.upserts += rows.upserts;
                table.deletes += rows.deletes;
                table.snapshot_rows += rows.snapshot_rows;
                if let Some(took) = rows.took {
                    table.commits.add(took);
                }
                table.size = rows.size;
            });
        }
    }

    /// Waits for what is on its way to become durable.
    async fn drain(&mut self) -> Result<()> {
        while self.routes.iter().any(|route| !route.in_flight.is_empty()) {
            tokio::select! {
                Some(event) = self.durable.recv() => self.on_durable(event),
                Some((table, halt)) = self.halts.recv() => self.halted(table, halt)?,
                // A table that is closed goes on at the next start.
                Some(joined) = self.writers.join_next() => drop(joined.map_err(panicked)??),
                else => return Err(Error::transient("a table's writer ended early")),
            }
        }
        Ok(())
    }

    /// Whether `--once` is done.
    fn finished(&self, waiting: &[Window]) -> bool {
        let Some(until) = &self.until else { return false };
        let done = |route: &Route| match route.is_closed() {
            true => route.ending.is_none(),
            false => route.pending().is_none() && route.state == State::Streaming && route.paused.is_none(),
        };
        let position = self.stream.position();
        // One byte further is what a standby may never come to, if its primary is away.
        let looked = |seen: &Seen<S::Table>| position.bytes_until(&seen.position) == Some(1);
        waiting.is_empty()
            && self.ahead.as_ref().is_none_or(looked)
            && position.covers(until)
            && !self.stream.in_transaction()
            && self.routes.iter().all(done)
    }

    /// The position up to which every table is durable.
    fn confirmable(&self) -> Position {
        let mut least = self.stream.position();
        for pending in self.routes.iter().filter_map(Route::pending) {
            if least.covers(&pending) {
                least = pending;
            }
        }
        least
    }

    fn routes_durable(&self) -> Vec<Position> {
        self.routes.iter().map(|route| route.durable.clone()).collect()
    }

    /// Whether something waits for the stream's position to move.
    fn wants_position(&self, waiting: &[Window]) -> bool {
        let position = self.stream.position();
        let ahead = self.ahead.as_ref().is_some_and(|seen| !position.covers(&seen.position));
        !waiting.is_empty()
            || ahead
            || self.until.as_ref().is_some_and(|until| !position.covers(until))
            || self.routes.iter().any(|route| route.catch_up_to.is_some())
    }

    /// Whether all that was read is in the lake.
    fn is_durable(&self) -> bool {
        let whole = |route: &Route| route.in_flight.is_empty() && route.open.is_none();
        self.routes.iter().all(whole)
    }

    /// Tells where everything stands.
    fn publish(&self, resting: bool) {
        let position = self.stream.position();
        let shown = position.to_string();
        let lag = |from: Position| from.bytes_until(&position);
        let confirmable = self.confirmable();
        let at_rest = resting && self.is_durable();
        let followed = self.routes.iter().map(|route| &route.id);
        let followed: HashSet<&TableId> = followed.chain(self.given_up.keys()).collect();
        self.metrics.update(|m| {
            m.streaming = true;
            // In this order: a chunk that was read has told its window.
            m.at_rest = at_rest && m.paused.is_some() && m.reading == 0 && self.windows.is_empty();
            m.lag_bytes = lag(confirmable);
            m.committed_at = self.stream.committed_at();
            m.spilled_bytes = self.stream.spilled_bytes();
            m.memory = MemoryNumbers {
                open: self.stream.open_bytes() as u64,
                in_flight: self
                    .in_flight_bytes_max
                    .saturating_sub(self.in_flight.available_permits()) as u64,
            };
            m.tables.retain(|id, _| followed.contains(id));
            for route in &self.routes {
                let table = m.tables.entry(route.id.clone()).or_default();
                let pending = route.pending();
                let stalled = route.stalled_at.is_some();
                table.state = if stalled { "stalled" } else { route.state.as_str() };
                table.version = route.version;
                table.watermark = match &pending {
                    // What is on its way is more than its last commit says.
                    None if position.covers(&route.durable) && !route.is_closed() => shown.clone(),
                    _ => route.durable.to_string(),
                };
                table.lag_bytes = pending.map_or(Some(0), lag);
                table.pending_since = route.pending_since().map(Instant::into_std);
                if route.is_closed() {
                    table.size.index_bytes = 0;
                } else if !stalled {
                    table.trouble = None;
                }
            }
            for (id, given_up) in &self.given_up {
                let table = m.tables.entry(id.clone()).or_default();
                table.state = State::NeedsSnapshot.as_str();
                table.version = given_up.version;
                table.watermark = given_up.watermark.to_string();
                table.trouble = Some(given_up.trouble.clone());
            }
        });
    }

    pub fn route(&mut self, table: usize) -> Result<&mut Route> {
        self.routes
            .get_mut(table)
            .ok_or_else(|| Error::bug("an event of a table that has no route"))
    }
}

enum Taken {
    Nothing,
    Batch(ChangeBatch, OwnedSemaphorePermit),
    /// The budget for batches on their way is used up.
    NoRoom,
}

fn panicked(error: tokio::task::JoinError) -> Error {
    Error::bug("a task panicked").with_source(error)
}
