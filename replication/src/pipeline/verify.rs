//! `verify`: whether the lake equals the source, while both go on changing.
//!
//! ```text
//! source:  chunk ─ chunk ─ chunk …            rows by key ──────── row versions again
//! lake:    rows of the same keys, compared    newest version past HIGH ┘
//!                    │ unequal                     │ unequal, and the row the same
//!                    └──► candidates ──────────────┘──► differences
//! ```
//!
//! The first pass compares whatever both sides have: what is equal is equal. A
//! row that is not is a candidate: the lake may be late, or the row may have
//! changed between the two readings. Candidates are read at the source with
//! their row versions and a position past them (HIGH). Once a version of the
//! lake covers HIGH, the row versions are read again. If a row is the very
//! same, the source had it all the time, and the lake's version lies within: it
//! has to have the row. An extra row has no version at the source; it is wrong
//! if the same row of the lake is there before and after a reading without it.
//! Everything else is in flight and is looked at again.
//!
//! Memory: a key index of its own (an eighth of `apply.memory`, the rest on disk),
//! a bitmap of rows seen, of the source one chunk for each reader, one that waits
//! and one that is compared, and of the lake small files up to a quarter of
//! `apply.memory`.

mod comparison;
mod report;
mod scan;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::debug;

use self::comparison::{Comparison, Stop};
pub use self::report::{Difference, Differences, Keys, Outcome, Report, TableReport};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::lake::{DeltaTable, IndexHome, Lake, Opened, Shape, State, TableRecord};
use crate::metrics::Metrics;
use crate::position::Position;
use crate::schema::{TableId, TableSchema};
use crate::source::{Discovery, Slot, Source, SourceTable, Throttle, selected};

/// How long a changed column may take to the lake.
const SHAPE_PATIENCE: Duration = Duration::from_secs(15);
const SHAPE_POLL: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(100);
/// How often a table is begun anew because another took its place.
const ATTEMPTS: u32 = 3;

/// What to verify.
#[derive(Clone, Debug, Default)]
pub struct VerifyOptions {
    /// Names or globs over `schema.table`; none is all.
    pub tables: Vec<String>,
    /// The share to look at, above 0 and up to 1; absent means all.
    pub sample: Option<f64>,
}

/// Compares the lake with the source. Works beside a running sidecar and
/// without one.
///
/// Errors: nothing could be compared at all. What stops one table is in its
/// report.
pub async fn verify(config: &Config, options: &VerifyOptions, metrics: Arc<Metrics>) -> Result<Report> {
    for_source!(config, S => verify_with::<S>(config, options, metrics).await)
}

async fn verify_with<S: Source>(config: &Config, options: &VerifyOptions, metrics: Arc<Metrics>) -> Result<Report> {
    let mut source = S::connect(config).await?;
    let discovery = source.discover().await?;
    let pipeline = source.identify().await?.pipeline;
    let chosen = choose(&discovery, &options.tables)?;
    let mut verifier = Verifier {
        source,
        lake: Lake::open(&config.lake.url, &config.lake.options)?,
        pipeline,
        throttle: Arc::new(Throttle::new(config.snapshot.max_bytes_per_s)),
        metrics,
        sample: options.sample.filter(|share| *share < 1.0),
        // The sidecar's own may be in use.
        indexes: IndexHome::beside(config.cache.dir.as_deref(), config.apply.memory / 8),
        cache_bytes: usize::try_from(config.apply.memory / 4).unwrap_or(usize::MAX),
        parallelism: config.snapshot.parallelism.max(1),
        seed: uuid::Uuid::new_v4().as_u64_pair().0,
        stood_still_at: None,
    };
    let mut tables = Vec::new();
    for (id, table) in chosen {
        let report = match table {
            Ok(table) => verifier.table(table).await,
            Err((reason, hint)) => TableReport::new(&id, verifier.sample).unverified(reason, Some(&hint)),
        };
        tables.push(report);
    }
    Ok(Report::of(tables))
}

type Chosen<T> = (TableId, Result<Arc<T>, (String, String)>);

/// The tables that patterns name. Errors: a pattern that names none.
fn choose<T: SourceTable>(discovery: &Discovery<T>, patterns: &[String]) -> Result<Vec<Chosen<T>>> {
    let usable = discovery
        .tables
        .iter()
        .map(|table| (table.id().clone(), Ok(Arc::new(table.clone()))));
    let refused = discovery
        .refused
        .iter()
        .map(|r| (r.table.clone(), Err((r.reason.clone(), r.hint.clone()))));
    let all: Vec<Chosen<T>> = usable.chain(refused).collect();
    if patterns.is_empty() {
        if all.is_empty() {
            return Err(Error::operator("no table of the source is selected by source.tables")
                .with_hint("patterns match schema.table, as in source.tables = [\"public.*\"]"));
        }
        return Ok(all);
    }
    for pattern in patterns {
        let one = std::slice::from_ref(pattern);
        if !all.iter().any(|(id, _)| selected(one, id)) {
            let known: Vec<String> = all.iter().map(|(id, _)| id.to_string()).collect();
            return Err(
                Error::operator(format!("no replicated table is named {pattern:?}")).with_hint(format!(
                    "write schema.table or a glob over it; there are: {}",
                    known.join(", ")
                )),
            );
        }
    }
    Ok(all.into_iter().filter(|(id, _)| selected(patterns, id)).collect())
}

struct Verifier<S: Source> {
    source: S,
    lake: Lake,
    pipeline: String,
    throttle: Arc<Throttle>,
    metrics: Arc<Metrics>,
    sample: Option<f64>,
    seed: u64,
    parallelism: usize,
    cache_bytes: usize,
    indexes: Arc<IndexHome>,
    /// Where the slot stood when waiting for it was given up, with nobody on it.
    stood_still_at: Option<Position>,
}

impl<S: Source> Verifier<S> {
    async fn table(&mut self, mut table: Arc<S::Table>) -> TableReport {
        let started = Instant::now();
        let mut attempt = 1;
        let mut report = loop {
            let mut report = TableReport::new(table.id(), self.sample);
            let Err(stop) = self.attempt(&mut table, &mut report).await else {
                break report;
            };
            let again = self.discover_again(&table).await;
            let replaced = matches!(stop, Stop::Replaced);
            if let Some((found, changed)) = again.filter(|_| attempt < ATTEMPTS)
                && (replaced || changed)
            {
                table = found;
                attempt += 1;
                continue;
            }
            break match stop {
                Stop::Replaced => TableReport::new(table.id(), self.sample).unverified(
                    "the table was replaced while it was compared",
                    Some("verify again once it is at rest"),
                ),
                Stop::Failed(error) => {
                    let reason = match error.cause() {
                        Some(cause) => format!("{error}: {cause}"),
                        None => error.to_string(),
                    };
                    report.unverified(reason, error.hint())
                }
            };
        };
        self.metrics.update(|m| {
            m.snapshots.remove(table.id());
        });
        let differences = report.differences();
        if differences > 0 {
            report.outcome = Outcome::Different;
        }
        let elapsed = started.elapsed();
        report.elapsed_ms = elapsed.as_millis() as u64;
        debug!(table = %table.id(), outcome = ?report.outcome, rows = report.rows, in_flight = report.in_flight, differences,
            elapsed_ms = report.elapsed_ms, rows_per_s = (report.rows as f64 / elapsed.as_secs_f64().max(0.001)) as u64, "verified");
        report
    }

    /// How far the lake is known to be, whatever tables say.
    async fn slot(&mut self) -> Result<Option<Slot>> {
        super::slot(&mut self.source, &self.lake, &self.pipeline).await
    }

    /// The table as the source has it by now, and whether it is another.
    async fn discover_again(&mut self, table: &S::Table) -> Option<(Arc<S::Table>, bool)> {
        let discovery = self.source.discover().await.ok()?;
        let again = discovery.tables.into_iter().find(|t| t.id() == table.id())?;
        let changed = again.differs(table);
        Some((Arc::new(again), changed))
    }

    async fn attempt(&mut self, table: &mut Arc<S::Table>, report: &mut TableReport) -> Result<(), Stop> {
        let opened = self.open(table).await?;
        let Some(opened) = opened else {
            return Err(Error::operator("it has no lake table yet")
                .with_hint("start `tributary run`: it copies the table")
                .into());
        };
        if !is_whole(&opened.record) {
            return Err(not_whole(&opened.record).into());
        }
        report.version = Some(opened.version());
        if let Some(reason) = self.source.reason_to_copy(table, &opened.shape) {
            report.outcome = Outcome::Different;
            report.reason = Some(reason);
            report.hint = Some("`tributary run` copies the table anew when it starts".to_owned());
            return Ok(());
        }
        if !opened.shape.is_of(table.schema()) {
            report.outcome = Outcome::Different;
            report.reason = Some(columns_differ(&opened.shape, table.schema()));
            return Ok(());
        }
        let lake = DeltaTable::new(table.schema().clone(), opened);
        Comparison::new(self, table.clone(), lake, report).run().await
    }

    /// Opens the lake's table; columns that differ get some time to become
    /// equal, on both sides.
    async fn open(&mut self, table: &mut Arc<S::Table>) -> Result<Option<Opened>> {
        let started = Instant::now();
        loop {
            let opened = Opened::read(self.lake.table(table.id())?, &self.pipeline).await?;
            if let Some(opened) = &opened {
                *table = Arc::new(self.source.numbered(table, &opened.shape)?);
            }
            let settled = opened
                .as_ref()
                .is_none_or(|o| !is_whole(&o.record) || o.shape.is_of(table.schema()));
            let other_rules = opened
                .as_ref()
                .and_then(|o| self.source.reason_to_copy(table, &o.shape));
            if settled || other_rules.is_some() || started.elapsed() > SHAPE_PATIENCE {
                return Ok(opened);
            }
            tokio::time::sleep(SHAPE_POLL).await;
            if let Some((again, _)) = self.discover_again(table).await {
                *table = again;
            }
        }
    }
}

/// Whether a table's rows can be compared with the source's at all.
fn is_whole(record: &TableRecord) -> bool {
    matches!(record.state, State::Streaming | State::CatchingUp)
}

fn not_whole(record: &TableRecord) -> Error {
    let reason = record.reason.as_ref().map_or_else(String::new, |r| format!(": {r}"));
    Error::operator(format!(
        "it is {}, so its lake table is not whole{reason}",
        record.state.as_str()
    ))
    .with_hint("verify it once `tributary status` says that it is streaming")
}

/// In what the lake's columns differ from the source's.
fn columns_differ(shape: &Shape, schema: &TableSchema) -> String {
    let ours: Vec<&String> = schema.columns.iter().map(|c| &c.name).collect();
    let lake: Vec<&String> = shape.columns.iter().map(|c| &c.name).collect();
    let without = |a: &[&String], b: &[&String]| {
        let names: Vec<&str> = a
            .iter()
            .filter(|name| !b.contains(name))
            .map(|name| name.as_str())
            .collect();
        names.join(", ")
    };
    let (source_only, lake_only) = (without(&ours, &lake), without(&lake, &ours));
    let mut parts = Vec::new();
    if !source_only.is_empty() {
        parts.push(format!("at the source only {source_only}"));
    }
    if !lake_only.is_empty() {
        parts.push(format!("in the lake only {lake_only}"));
    }
    if parts.is_empty() {
        parts.push("by type, order or key".to_owned());
    }
    format!("columns differ: {}", parts.join("; "))
}
