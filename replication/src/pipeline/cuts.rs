//! Consistent cuts: versions of several tables that show the source at one
//! position, so that what holds across tables there holds across them here.
//!
//! ```text
//! stream at P, nothing open ──► candidate: for each table, how many commits were asked for
//! each writer: commits done ──► the version after the last of them
//! all known ─────────────────► cut ─► the newest, every `cuts.interval` ─► _tributary/cuts
//! ```
//!
//! Between transactions, a table of which nothing is open has been sent all
//! that it has up to the stream's position. So the version after the last
//! commit sent so far shows exactly the transactions up to there, whatever
//! was sent by then and whenever it is written. A table that takes no part
//! (it does not equal the source at its watermark, or readers see an older
//! content of it) is not in the cut.
//!
//! A cut that is listed is right. One that is not, because a process was
//! killed or its log could not be written, is no loss: others follow.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::control::Control;
use super::writer::Durable;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::lake::{Added, CutLog, Cuts, Lake, State, now_ms};
pub use crate::lake::{Cut, CutTable, shown_time};
use crate::position::Position;
use crate::schema::TableId;

/// Candidates that wait for their commits at a time. A writer takes three
/// commands, so more are there only with many tables.
const CANDIDATES_MAX: usize = 16;

/// A table as a candidate sees it.
pub struct Standing<'a> {
    /// The route's number.
    pub number: usize,
    pub table: &'a TableId,
    pub path: &'a str,
    /// Commits asked for, and done.
    pub sent: u64,
    pub done: u64,
    pub version: Option<u64>,
}

struct Candidate {
    position: Position,
    committed_at: i64,
    parts: Vec<Part>,
}

struct Part {
    number: usize,
    table: String,
    path: String,
    /// The commits that have to be done.
    sent: u64,
    version: Known,
}

#[derive(PartialEq)]
enum Known {
    NotYet,
    Version(u64),
    /// It does not show the source at the position.
    No,
}

/// Gathers cuts while the stream goes on.
pub struct Gatherer {
    /// Whether anything has come since the last candidate that can make
    /// another one.
    pub changed: bool,
    candidates: VecDeque<Candidate>,
    newest: watch::Sender<Option<Arc<Cut>>>,
}

impl Gatherer {
    /// Returns the place where the newest cut appears, too.
    pub fn new() -> (Self, watch::Receiver<Option<Arc<Cut>>>) {
        let (newest, receiver) = watch::channel(None);
        let gatherer = Self {
            // Where an earlier run left off, nobody may have told.
            changed: true,
            candidates: VecDeque::new(),
            newest,
        };
        (gatherer, receiver)
    }

    /// Whether a candidate would be like the last one, or one too many, or
    /// nobody wants cuts.
    pub fn is_idle(&self) -> bool {
        !self.changed || self.candidates.len() >= CANDIDATES_MAX || self.newest.is_closed()
    }

    /// The stream is at `position`, and none of these tables has anything open.
    pub fn propose<'a>(
        &mut self,
        position: Position,
        committed_at: Option<i64>,
        tables: impl Iterator<Item = Standing<'a>>,
    ) {
        self.changed = false;
        let part = |table: Standing<'_>| Part {
            number: table.number,
            table: table.table.to_string(),
            path: table.path.to_owned(),
            sent: table.sent,
            version: match (table.sent > table.done, table.version) {
                (true, _) => Known::NotYet,
                (false, Some(version)) => Known::Version(version),
                (false, None) => Known::No,
            },
        };
        self.candidates.push_back(Candidate {
            position,
            committed_at: committed_at.unwrap_or_else(now_us),
            parts: tables.map(part).collect(),
        });
        self.publish();
    }

    /// A table's writer has done what was asked for up to its commit `done`.
    pub fn durable(&mut self, event: &Durable, done: u64) {
        let equal = event.state == State::Streaming && event.catch_up_to.is_none();
        for candidate in &mut self.candidates {
            for part in &mut candidate.parts {
                if part.number == event.table && part.version == Known::NotYet && done >= part.sent {
                    part.version = match event.version.filter(|_| equal) {
                        Some(version) => Known::Version(version),
                        None => Known::No,
                    };
                }
            }
        }
        self.publish();
    }

    /// Drops what waits for a table that has stopped: its commits may never come.
    pub fn forget(&mut self, number: usize) {
        self.candidates.retain(|candidate| {
            let waits = |part: &Part| part.number == number && part.version == Known::NotYet;
            !candidate.parts.iter().any(waits)
        });
    }

    /// Tells of candidates that have become cuts, in their order.
    fn publish(&mut self) {
        while let Some(done) = self.candidates.iter().position(Candidate::is_done) {
            // Those before it are of no use any more, done or not.
            let cut = self.candidates.drain(..=done).next_back();
            if let Some(cut) = cut.and_then(Candidate::into_cut) {
                self.newest.send_replace(Some(Arc::new(cut)));
            }
        }
    }
}

impl Candidate {
    fn is_done(&self) -> bool {
        self.parts.iter().all(|part| part.version != Known::NotYet)
    }

    /// `None` if no table takes part.
    fn into_cut(self) -> Option<Cut> {
        let mut tables: Vec<CutTable> = self
            .parts
            .into_iter()
            .filter_map(|part| match part.version {
                Known::Version(version) => Some(CutTable {
                    table: part.table,
                    path: part.path,
                    version,
                }),
                _ => None,
            })
            .collect();
        tables.sort_by(|a, b| a.table.cmp(&b.table));
        (!tables.is_empty()).then_some(Cut {
            number: 0,
            position: self.position,
            committed_at: self.committed_at,
            recorded_at: 0,
            tables,
        })
    }
}

/// Writes the newest cut down, now and then, beside the stream.
pub struct Recorder {
    pub lake: Lake,
    pub pipeline: String,
    pub epoch: u64,
    pub config: watch::Receiver<Config>,
    pub newest: watch::Receiver<Option<Arc<Cut>>>,
}

impl Recorder {
    /// Runs until the stream ends, and writes the last cut then. What goes
    /// wrong here never stops the stream.
    pub async fn run(mut self) -> Result<()> {
        let interval = self.config.borrow().cuts.interval;
        let Some(interval) = interval else { return Ok(()) };
        let mut log = None;
        let mut last: Option<Instant> = None;
        while self.newest.changed().await.is_ok() {
            if let Some(last) = last {
                self.wait(last + interval).await;
            }
            last = Some(Instant::now());
            let cut = self.newest.borrow_and_update().clone();
            let Some(cut) = cut else { continue };
            match self.add(&mut log, &cut).await {
                Ok(Added::Fenced) => {
                    warn!("a newer sidecar of this pipeline writes cuts; this one writes none any more");
                    return Ok(());
                }
                Ok(Added::Cut { number, version }) => {
                    info!(cut = number, version, position = %cut.position, tables = cut.tables.len(), "recorded a cut");
                }
                Ok(Added::Nothing) => {}
                Err(error) => {
                    warn!(%error, cause = error.cause(), hint = error.hint(), "cannot record a cut; the next one will do");
                    log = None;
                }
            }
        }
        Ok(())
    }

    async fn add(&self, log: &mut Option<CutLog>, cut: &Cut) -> Result<Added> {
        if log.is_none() {
            *log = Some(CutLog::open(&self.lake, &self.pipeline, self.epoch).await?);
        }
        let Some(open) = log else { return Ok(Added::Nothing) };
        let added = open.add(cut).await?;
        let cutoff_ms = self.config.borrow().maintenance.cutoff_ms();
        if let Added::Cut { .. } = added
            && let Err(error) = open.tidy(cutoff_ms).await
        {
            warn!(%error, cause = error.cause(), hint = error.hint(), "cannot tidy the list of cuts");
            *log = None;
        }
        Ok(added)
    }

    /// Lets newer cuts take the place of this one, until `then` or the stream's end.
    async fn wait(&mut self, then: Instant) {
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(then) => return,
                changed = self.newest.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// Which cuts are asked for.
#[derive(Clone, Debug, Default)]
pub struct CutsOptions {
    /// An RFC 3339 time or a position of the source; none is the newest.
    pub at: Option<String>,
    /// How many, from that one back.
    pub limit: usize,
}

/// What `cuts` found.
#[derive(Clone, Debug, serde::Serialize)]
pub struct CutList {
    /// The lake's place, as a person would type it.
    pub lake: String,
    /// The newest first; at least one.
    pub cuts: Vec<Cut>,
    /// Folders of tables that are replicated but not in the first of them.
    pub missing: Vec<String>,
}

/// The newest cuts, or those at or before a time or a position.
///
/// Reads the lake alone, with a running sidecar or without one.
pub async fn cuts(config: &Config, options: &CutsOptions) -> Result<CutList> {
    let lake = Lake::open(&config.lake.url, &config.lake.options)?;
    let at = options.at.as_deref().map(At::parse).transpose()?;
    let none = || {
        Error::operator("there are no cuts yet").with_hint(
            "`tributary run` writes one once tables are in `streaming`, unless cuts.interval is \"off\"; \
             see `tributary status`",
        )
    };
    let log = Cuts::open(&lake).await?.ok_or_else(none)?;
    let newest = log.newest().await?.ok_or_else(none)?;
    if let Some(At::Position(position)) = &at
        && !position.covers(&newest.position)
        && !newest.position.covers(position)
    {
        return Err(Error::operator(format!("{position} is not a position of this source"))
            .with_hint(format!("cuts have positions like {:#}", newest.position)));
    }
    let wanted = |cut: &Cut| at.as_ref().is_none_or(|at| at.is_past(cut));
    let cuts = log.find(wanted, options.limit.max(1)).await?;
    let Some(first) = cuts.first() else {
        let oldest = log.oldest().await?.unwrap_or(newest);
        let told = options.at.as_deref().unwrap_or_default();
        return Err(
            Error::operator(format!("no cut is as old as {told}")).with_hint(format!(
                "the oldest one is cut {} of {} at {:#}; maintenance.retention says how long they are kept",
                oldest.number,
                shown_time(oldest.committed_at),
                oldest.position,
            )),
        );
    };
    let control = Control::any(lake.pipeline()?).await?;
    let followed = control.map(|control| control.record().tables.keys().map(|folder| lake.key(folder)).collect());
    let followed: Vec<String> = followed.unwrap_or_default();
    let in_it = |path: &String| first.tables.iter().any(|table| table.path == *path);
    Ok(CutList {
        lake: lake.shown(),
        missing: followed.into_iter().filter(|path| !in_it(path)).collect(),
        cuts,
    })
}

/// What a cut has to be at or before.
enum At {
    /// In microseconds since 1970.
    Time(i64),
    Position(Position),
}

impl At {
    fn parse(text: &str) -> Result<Self> {
        if let Ok(nanos) = arrow::compute::kernels::cast_utils::string_to_timestamp_nanos(text) {
            return Ok(At::Time(nanos.div_euclid(1000)));
        }
        let parse = |text: String| serde_json::from_value::<Position>(serde_json::Value::String(text));
        // A time alone means all of that time.
        let whole = text.contains('.') && !text.contains(['+', '-', '@']);
        let position = parse(if whole { format!("{text}+") } else { text.to_owned() });
        position.map(At::Position).map_err(|_| {
            Error::operator(format!("{text:?} is neither a time nor a position"))
                .with_hint("write a time like 2026-01-31T12:00:00Z, or a position as `tributary cuts` prints it")
        })
    }

    /// Whether a cut has nothing of after it.
    fn is_past(&self, cut: &Cut) -> bool {
        match self {
            At::Time(micros) => cut.committed_at <= *micros,
            At::Position(position) => position.covers(&cut.position),
        }
    }
}

fn now_us() -> i64 {
    now_ms() * 1000
}

#[cfg(test)]
mod tests {
    use super::super::writer::RowNumbers;
    use super::*;
    use crate::position::Lsn;

    fn at(lsn: u64) -> Position {
        Position::Lsn(Lsn(lsn))
    }

    /// Tables by commits sent and done, and the version.
    fn propose(gatherer: &mut Gatherer, lsn: u64, tables: &[(u64, u64, u64)]) {
        let names: Vec<TableId> = (0..tables.len()).map(|n| TableId::new("s", format!("t{n}"))).collect();
        let standing = tables
            .iter()
            .enumerate()
            .map(|(number, (sent, done, version))| Standing {
                number,
                table: &names[number],
                path: &names[number].name,
                sent: *sent,
                done: *done,
                version: Some(*version),
            });
        gatherer.propose(at(lsn), Some(7), standing);
    }

    fn durable(gatherer: &mut Gatherer, table: usize, done: u64, version: Option<u64>, state: State) {
        let event = Durable {
            table,
            asked_for: true,
            version,
            vector_bytes: 0,
            watermark: at(1),
            state,
            catch_up_to: None,
            snapshot: None,
            rows: RowNumbers::default(),
        };
        gatherer.durable(&event, done);
    }

    /// The newest cut's position and its tables' versions.
    fn newest(receiver: &watch::Receiver<Option<Arc<Cut>>>) -> Option<(Position, Vec<(String, u64)>)> {
        let cut = receiver.borrow().clone()?;
        let versions = cut.tables.iter().map(|table| (table.path.clone(), table.version));
        Some((cut.position.clone(), versions.collect()))
    }

    fn versions(versions: &[(usize, u64)]) -> Vec<(String, u64)> {
        versions
            .iter()
            .map(|(n, version)| (format!("t{n}"), *version))
            .collect()
    }

    #[test]
    fn a_cut_is_whole_once_every_commit_sent_before_it_is_done() {
        let (mut gatherer, receiver) = Gatherer::new();
        propose(&mut gatherer, 10, &[(3, 1, 40), (2, 2, 50)]);
        // Sent after the candidate: its version is another cut's.
        propose(&mut gatherer, 20, &[(4, 1, 40), (3, 2, 50)]);
        durable(&mut gatherer, 0, 2, Some(41), State::Streaming);
        assert_eq!(newest(&receiver), None);
        durable(&mut gatherer, 1, 3, Some(51), State::Streaming);
        durable(&mut gatherer, 0, 3, Some(42), State::Streaming);
        assert_eq!(newest(&receiver), Some((at(10), versions(&[(0, 42), (1, 50)]))));
        durable(&mut gatherer, 0, 4, Some(44), State::Streaming);
        assert_eq!(newest(&receiver), Some((at(20), versions(&[(0, 44), (1, 51)]))));
    }

    #[test]
    fn a_version_that_is_not_equal_or_not_visible_is_in_no_cut() {
        for (version, state) in [
            (Some(9), State::CatchingUp),
            (Some(9), State::Snapshotting),
            (None, State::Streaming),
        ] {
            let (mut gatherer, receiver) = Gatherer::new();
            propose(&mut gatherer, 10, &[(1, 0, 8), (0, 0, 5)]);
            durable(&mut gatherer, 0, 1, version, state);
            assert_eq!(newest(&receiver), Some((at(10), versions(&[(1, 5)]))), "{state:?}");
        }
        let (mut gatherer, receiver) = Gatherer::new();
        propose(&mut gatherer, 10, &[(1, 0, 8)]);
        durable(&mut gatherer, 0, 1, Some(9), State::CatchingUp);
        assert_eq!(newest(&receiver), None, "a cut without tables");
    }

    #[test]
    fn a_table_that_stops_takes_the_cuts_that_wait_for_it_along() {
        let (mut gatherer, receiver) = Gatherer::new();
        propose(&mut gatherer, 10, &[(1, 0, 8), (1, 0, 5)]);
        durable(&mut gatherer, 1, 1, Some(6), State::Streaming);
        gatherer.forget(0);
        durable(&mut gatherer, 0, 1, Some(9), State::Streaming);
        assert_eq!(newest(&receiver), None);
    }

    #[test]
    fn candidates_are_few_and_none_if_nobody_wants_cuts() {
        let (mut gatherer, receiver) = Gatherer::new();
        for lsn in 0..CANDIDATES_MAX as u64 {
            assert!(!gatherer.is_idle());
            propose(&mut gatherer, lsn, &[(lsn + 1, 0, 1)]);
            assert!(gatherer.is_idle());
            gatherer.changed = true;
        }
        assert!(gatherer.is_idle());
        durable(&mut gatherer, 0, 1, Some(2), State::Streaming);
        assert!(!gatherer.is_idle());
        drop(receiver);
        assert!(gatherer.is_idle());
    }

    #[test]
    fn what_a_cut_is_asked_by() {
        for (text, micros) in [
            ("1970-01-01T00:00:01Z", 1_000_000),
            ("1970-01-01T01:00:01.5+01:00", 1_500_000),
            ("1970-01-02", 86_400_000_000),
        ] {
            let found = At::parse(text).expect(text);
            assert!(matches!(found, At::Time(time) if time == micros), "{text}");
        }
        for text in [
            "0/16B3748",
            "1700000000.5",
            "1700000000.5+82AB!set",
            "@1:binlog.000001:4",
        ] {
            assert!(matches!(At::parse(text), Ok(At::Position(_))), "{text}");
        }
        for text in ["", "yesterday", "2026-13-01T00:00:00Z", "0/", "12"] {
            let error = At::parse(text).err().expect(text);
            assert!(error.hint().is_some_and(|hint| hint.contains("write a time")), "{text}");
        }
        assert_eq!(shown_time(1_500_000), "1970-01-01T00:00:01.500000Z");
    }
}
