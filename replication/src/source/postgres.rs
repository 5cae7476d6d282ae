//! PostgreSQL 14 and newer: one slot, pgoutput in binary, chunks by COPY. The
//! server is a primary or, if it may be, a standby.

mod alteration;
mod catalog;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod pgoutput;
mod row_versions;
mod snapshot;
mod spool;
mod standby;
mod stream;
mod transactions;
mod types;
mod wire;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use tokio::sync::Mutex;

use self::catalog::{Published, PublishedTable, SourceTable, Types, number, sql_name, text};
use self::snapshot::{Reader, blocks_for};
use self::spool::Spool;
use self::standby::Replay;
use self::stream::Stream;
use self::wire::{CONFLICT, Endpoint, Wire, quote_identifier, quote_literal};
use crate::config::{CacheConfig, Config, OnGap, SourceConfig};
use crate::error::{Class, Error, Result};
use crate::lake::{PointRead, PointReader, Shape};
use crate::position::{Lsn, Position};
use crate::schema::TableId;
use crate::source::{
    ChangeStream, Discovery, Finding, Identity, Judgement, LOCKED, Look, Membership, Part, Slot, Source,
    SourceTable as _, Throttle, Verdict, WENT_AWAY,
};

/// The oldest server with TID range scans and pgoutput version 2.
const VERSION_MIN: u32 = 140_000;

/// What the server says of a table, column or schema that is gone.
/// Codes: PostgreSQL manual, appendix "PostgreSQL Error Codes".
const GONE: [&str; 3] = ["42P01", "42703", "3F000"];

/// What is wrong with a standby that lets the primary remove what a slot needs.
const NO_FEEDBACK: &str = "hot_standby_feedback is off, so vacuum at the primary removes rows of the catalogue that the slot needs, and the slot with them";

/// What keeps that from happening.
const FEEDBACK: &str = "ALTER SYSTEM SET hot_standby_feedback = on; SELECT pg_reload_conf(); at the standby, and have primary_slot_name name a slot of the primary, which remembers while the standby is away";

/// What tells a run of a server from all others.
const STARTED: &str = "SELECT pg_postmaster_start_time()";

/// How long a standby may take to replay what the lake has of it.
const REPLAY_TIME: Duration = Duration::from_secs(10);

/// Keys asked for in one point read.
const POINT_READ_KEYS: usize = 1000;

/// How long publishing waits for a lock, in milliseconds.
const LOCK_TIMEOUT_MS: u32 = 2000;

/// The error of a statement that needs rights, unless it failed for another reason. Places that are all taken
/// (class 53) are for a person to make more of.
fn refused(what: String, hint: impl FnOnce() -> String, error: Error) -> Error {
    let refused = match error.class() {
        Class::NeedsOperator => return Error::operator(what).with_hint(hint()).with_source(error),
        _ if error.code().is_some_and(|code| code.starts_with("53")) => Error::operator(what),
        _ => Error::transient(what),
    };
    match error.hint().map(str::to_owned) {
        Some(hint) => refused.with_hint(hint),
        None => refused,
    }
    .with_source(error)
}

/// The timeline of a WAL file, by its name.
fn timeline_of(file: &str) -> Result<u32> {
    let digits = file.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    digits.ok_or_else(|| Error::bug(format!("expected the name of a WAL file, found {file:?}")))
}

/// Where a history of timelines left one of them; `None` if that is not among its ancestors.
/// Spec: `readTimeLineHistory`: lines of a timeline, the LSN where it was left, and the reason.
fn left_at(history: &str, timeline: u32) -> Result<Option<Lsn>> {
    for line in history.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        if words.next().and_then(|own| own.parse().ok()) == Some(timeline) {
            return words.next().unwrap_or_default().parse().map(Some);
        }
    }
    Ok(None)
}

/// Whether all before `position` lies before `end`. No record ends one byte past the end of another: such a position is
/// that of a read at a standby ([`Replay`]), which saw nothing past the record under replay.
fn is_reached(position: Lsn, end: Lsn) -> bool {
    position.0 <= end.0.saturating_add(1)
}

/// Why a slot is of no use any more, by `invalidation_reason`, which PostgreSQL 16 does not have.
fn invalidation(reason: &str) -> String {
    match reason {
        "rows_removed" => "the replication slot was invalidated: the primary removed rows of the catalogue that it \
                           needed (see hot_standby_feedback and primary_slot_name of the standby)"
            .to_owned(),
        "wal_level_insufficient" => {
            "the replication slot was invalidated: wal_level of the primary was not logical".to_owned()
        }
        "idle_timeout" => {
            "the replication slot was invalidated: nobody used it for idle_replication_slot_timeout".to_owned()
        }
        "conflict" => {
            "the replication slot was invalidated: the primary removed rows of the catalogue that it needed, \
                       or its wal_level was not logical (see hot_standby_feedback and primary_slot_name of the standby)"
                .to_owned()
        }
        _ => "the server has removed log that the replication slot needed (see max_slot_wal_keep_size)".to_owned(),
    }
}

/// A source as configured, with one connection for catalogue queries.
pub struct Postgres {
    endpoint: Endpoint,
    config: SourceConfig,
    wire: Wire,
    /// Whether the server is a standby, and may be. It was one when this connected.
    standby: bool,
    types: Option<Types>,
    /// Where large transactions that are open are kept, and how much of them.
    spill: Option<(CacheConfig, u64)>,
}

impl Source for Postgres {
    type Table = SourceTable;
    type Stream = Stream;
    type Tables = TableSource;

    const KEEPS_POSITION: bool = true;
    const KNOWS_COLUMNS: bool = true;

    async fn connect(config: &Config) -> Result<Self> {
        let spill = config.apply.spill_max.map(|max| (config.cache.clone(), max));
        let config = &config.source;
        let endpoint = Endpoint::new(config)?;
        let mut wire = Wire::connect(&endpoint, false).await?;
        let standby = config.standby && standby::follows(&mut wire).await?;
        Ok(Self {
            endpoint,
            config: config.clone(),
            wire,
            standby,
            types: None,
            spill,
        })
    }

    fn address(&self) -> String {
        self.endpoint.address()
    }

    async fn identify(&mut self) -> Result<Identity> {
        let rows = self
            .wire
            .query(
                "SELECT (pg_control_system()).system_identifier, CASE WHEN pg_is_in_recovery() \
                 THEN lpad(to_hex((pg_control_checkpoint()).timeline_id), 8, '0') \
                 ELSE pg_walfile_name(pg_current_wal_insert_lsn()) END",
            )
            .await?;
        let row = rows
            .first()
            .ok_or_else(|| Error::bug("the server has no system identifier"))?;
        Ok(Identity {
            pipeline: format!(
                "postgres:{}:{}:{}",
                text(row, 0),
                self.endpoint.database,
                self.config.slot
            ),
            // What the server's control file says is as of its last checkpoint.
            timeline: match self.standby {
                true => self.replayed_timeline().await?,
                false => timeline_of(&text(row, 1))?,
            },
            server: match self.standby {
                true => Some(self.wire.scalar(STARTED).await?),
                false => None,
            },
        })
    }

    async fn is_standby(&mut self) -> Result<bool> {
        standby::follows(&mut self.wire).await
    }

    async fn visible(&mut self) -> Result<Position> {
        match self.standby {
            true => Ok(Position::Lsn(Replay::read(&mut self.wire).await?.seen)),
            false => self.log_end().await,
        }
    }

    async fn log_end(&mut self) -> Result<Position> {
        if self.standby {
            return Ok(Position::Lsn(Replay::read(&mut self.wire).await?.end));
        }
        let rows = self
            .wire
            .query(
                "SELECT pg_current_wal_insert_lsn(), (SELECT setting FROM pg_settings WHERE name = 'wal_segment_size')",
            )
            .await?;
        let row = rows
            .first()
            .ok_or_else(|| Error::bug("the server has no log position"))?;
        Ok(Position::Lsn(snapshot::wal_end(&text(row, 0), number(row, 1)?)?))
    }

    async fn log_bytes(&mut self, from: &Position, to: &Position) -> Result<Option<u64>> {
        Ok(from.bytes_until(to))
    }

    fn select(&mut self, patterns: Vec<String>) {
        self.config.tables = patterns;
    }

    async fn discover(&mut self) -> Result<Discovery<SourceTable>> {
        self.types = Some(Types::read(&mut self.wire, &self.config).await?);
        self.read_catalogue(None).await
    }

    /// Looks at one relation as it is now.
    async fn look(&mut self, _: &TableId, relation: u32) -> Result<Look<SourceTable>> {
        let mut fresh = false;
        loop {
            if self.types.is_none() || fresh {
                self.types = Some(Types::read(&mut self.wire, &self.config).await?);
            }
            let mut found = self.read_catalogue(Some(relation)).await?;
            if let Some(table) = found.tables.pop() {
                let place = found.places.remove(&table.id);
                return Ok(Look::Table(Box::new(table), place));
            }
            match found.refused.into_iter().next() {
                None => return Ok(Look::Gone),
                // Perhaps for a type that is new.
                Some(_) if !fresh => fresh = true,
                Some(refusal) => return Ok(Look::Refused(refusal)),
            }
        }
    }

    async fn begin(&mut self, mut table: SourceTable) -> Result<Option<(SourceTable, Position)>> {
        // What the log tells of its columns before the position does not come again, so they have to be known for the
        // very position: the same before it and after.
        loop {
            let position = self.visible().await?;
            let now = match self.look(&table.id, table.relation).await? {
                Look::Table(now, _) if now.id == table.id => *now,
                _ => return Ok(None),
            };
            if now.decodes_like(&table) && now.origin() == table.origin() && !now.differs(&table) {
                return Ok(Some((table, position)));
            }
            table = now;
        }
    }

    fn as_recorded(&self, table: &SourceTable, shape: &Shape) -> Result<Option<SourceTable>> {
        Ok(table.as_recorded(shape, self.types()?))
    }

    fn numbered(&self, table: &SourceTable, _: &Shape) -> Result<SourceTable> {
        Ok(table.clone())
    }

    async fn judge(&mut self, stream: &Stream, table: usize) -> Result<Judgement<SourceTable>> {
        let (Some(before), Some(described)) = (stream.table(table), stream.described(table)) else {
            return Ok(Judgement::Nothing);
        };
        if let Some(transaction) = stream.transaction() {
            transactions::wait_until_visible(&mut self.wire, transaction).await?;
        }
        Ok(match self.look(&before.id, before.relation).await? {
            Look::Table(now, _) => Judgement::Columns(before.judge(described, &now, self.types()?)),
            // The next look at the catalogue says what has become of it.
            _ if before.is_described_by(described) => Judgement::Nothing,
            Look::Refused(refusal) => Judgement::Refused(refusal),
            Look::Gone => Judgement::Columns(Verdict::Copy("its columns changed".into())),
        })
    }

    fn membership(now: Option<&str>, before: &str) -> Membership {
        catalog::membership(now, before)
    }

    fn same_publication(a: &str, b: &str) -> bool {
        catalog::same_publication(a, b)
    }

    async fn check(&mut self, discovery: &Discovery<SourceTable>) -> Result<Vec<Finding>> {
        let server = self.check_server().await?;
        let decodes = server.ok;
        let mut findings = vec![server, self.check_wal_level(decodes).await?, self.check_role().await?];
        if self.standby {
            findings.push(self.check_feedback().await?);
        }
        findings.extend(self.check_tables(discovery));
        findings.push(self.check_publication(discovery).await?);
        findings.push(self.check_slot().await?);
        Ok(findings)
    }

    /// A slot that is lost says so table by table, and why; the run ends then.
    async fn require(&mut self, discovery: &Discovery<SourceTable>) -> Result<()> {
        let ends = self.standby
            && self.config.on_gap == OnGap::Stop
            && self
                .slot()
                .await
                .is_ok_and(|slot| slot.is_some_and(|slot| slot.lost.is_some()));
        let mut findings = self.check(discovery).await?.into_iter();
        let passes = |finding: &Finding| finding.ok || (ends && finding.what == NO_FEEDBACK);
        match findings.find(|finding| !passes(finding)) {
            Some(finding) => Err(finding.into_error()),
            None => Ok(()),
        }
    }

    /// The configured slot. Errors: it is not one of ours to use, or the
    /// server has dropped its log.
    async fn slot(&mut self) -> Result<Option<Slot>> {
        let name = self.config.slot.clone();
        let rows = self
            .wire
            .query(&format!(
                "SELECT plugin, database, active, coalesce(wal_status, ''), confirmed_flush_lsn, \
                 coalesce({} - restart_lsn, 0), to_jsonb(s) ->> 'invalidation_reason', to_jsonb(s) ->> 'conflicting', \
                 to_jsonb(s) ->> 'synced', two_phase FROM pg_replication_slots s WHERE slot_name = {}",
                if self.standby {
                    "pg_last_wal_replay_lsn()"
                } else {
                    "pg_current_wal_lsn()"
                },
                quote_literal(&name)
            ))
            .await?;
        let Some(row) = rows.first() else { return Ok(None) };
        if text(row, 0) != "pgoutput" || text(row, 1) != self.endpoint.database {
            return Err(Error::operator(format!(
                "slot {name:?} is of plugin {:?} in database {:?}, not of pgoutput in {:?}",
                text(row, 0),
                text(row, 1),
                self.endpoint.database
            ))
            .with_hint("set source.slot to a name of its own; it is created"));
        }
        if text(row, 9) == "t" {
            return Err(Error::operator(format!("slot {name:?} decodes two-phase commits"))
                .with_hint("set source.slot to a name of its own; it is created without"));
        }
        if self.standby && text(row, 8) == "true" {
            return Err(Error::operator(format!(
                "slot {name:?} is the primary's, synchronized, and can't be read here"
            ))
            .with_hint("set source.slot to a name of its own, or drop the slot at the primary"));
        }
        let conflicting = text(row, 7) == "true";
        let lost = text(row, 3) == "lost" || conflicting;
        let reason = match text(row, 6) {
            reason if reason.is_empty() && conflicting => "conflict".to_owned(),
            reason => reason,
        };
        // A slot has no position while it is being created, even by a backend
        // whose client is gone.
        let confirmed = text(row, 4);
        let unfinished = confirmed.is_empty() && !lost;
        Ok(Some(Slot {
            confirmed: Position::Lsn(if confirmed.is_empty() {
                Lsn(0)
            } else {
                confirmed.parse()?
            }),
            active: unfinished || text(row, 2) == "t",
            retained_bytes: text(row, 5).parse::<f64>().map_or(0, |b| b.max(0.0) as u64),
            lost: lost.then(|| invalidation(&reason)),
        }))
    }

    async fn in_use(&mut self) -> Result<bool> {
        Ok(self.slot().await?.is_some_and(|slot| slot.active))
    }

    async fn slot_at(&mut self, _: &Position) -> Result<Option<Slot>> {
        Ok(None)
    }

    /// A standby that was promoted may lack what the lake has of the primary before it.
    async fn foreign(
        &mut self,
        watermarks: &[Position],
        timeline: u32,
        server: Option<&str>,
    ) -> Result<Vec<Option<String>>> {
        let now = self.identify().await?.timeline;
        if timeline == 0 || now == timeline {
            self.wait_for_replay(watermarks).await?;
            return Ok(vec![None; watermarks.len()]);
        }
        let history = self.timeline_history(now).await?;
        let left = left_at(&history, timeline)?;
        // The standby that told all of it was promoted since.
        if let (Some(server), Some(left)) = (server, left)
            && self.has_told(server, left).await?
        {
            self.wait_for_replay(watermarks).await?;
            return Ok(vec![None; watermarks.len()]);
        }
        let why = |watermark: &Position| match (left, watermark) {
            (Some(left), Position::Lsn(lsn)) if is_reached(*lsn, left) => None,
            (Some(left), _) => Some(format!(
                "the server left timeline {timeline} for {now} at {left}, before the table's watermark {watermark}: it took over without those changes, or was restored from a backup"
            )),
            (None, _) => Some(format!(
                "the server is on timeline {now}, which does not descend from {timeline} of the lake: it was restored from a backup"
            )),
        };
        let foreign: Vec<Option<String>> = watermarks.iter().map(why).collect();
        if foreign.iter().all(Option::is_none) {
            self.wait_for_replay(watermarks).await?;
        }
        Ok(foreign)
    }

    async fn lost(&mut self, _: &Position) -> Result<Option<String>> {
        Ok(None)
    }

    /// Creates the slot. Returns the position where its log begins.
    async fn create_slot(&mut self) -> Result<Position> {
        let name = quote_literal(&self.config.slot);
        tracing::info!(
            slot = self.config.slot,
            "creating the replication slot; this waits for running transactions to end"
        );
        if self.standby {
            let created = standby::create_slot(&mut self.wire, &self.config.slot).await;
            let lsn = created.map_err(|e| match e.class() {
                Class::NeedsOperator => Error::operator(format!("cannot create slot {name}"))
                    .with_hint("give the role REPLICATION at the primary")
                    .with_source(e),
                _ => e,
            })?;
            return Ok(Position::Lsn(lsn.parse()?));
        }
        // Where standbys synchronize slots, it outlives the primary. Spec: manual, "Replication Slot Synchronization".
        let failover = match self
            .wire
            .scalar("SELECT current_setting('server_version_num')")
            .await?
            .parse::<u32>()
        {
            Ok(version) if version >= 170_000 => ", failover => true",
            _ => "",
        };
        let sql = format!("SELECT lsn FROM pg_create_logical_replication_slot({name}, 'pgoutput'{failover})");
        let lsn = self.wire.scalar(&sql).await.map_err(|e| {
            let hint = || format!("give the role REPLICATION, or let an administrator run: {sql};");
            refused(format!("cannot create slot {name}"), hint, e)
        })?;
        Ok(Position::Lsn(lsn.parse()?))
    }

    /// Drops the slot, which is of no use any more.
    async fn drop_slot(&mut self) -> Result<()> {
        tracing::info!(slot = self.config.slot, "dropping the replication slot to make it anew");
        let sql = format!("SELECT pg_drop_replication_slot({})", quote_literal(&self.config.slot));
        self.wire.query(&sql).await.map(|_| ())
    }

    /// Makes the publication hold all the tables.
    async fn ensure_published(&mut self, discovery: &Discovery<SourceTable>) -> Result<()> {
        let name = self.config.publication.clone();
        let published = self.published().await?;
        let Some((sql, tables)) = publication_sql(&name, &published, discovery) else {
            return Ok(());
        };
        if self.standby {
            return Err(unpublished(&name, &published, tables.len(), &sql).into_error());
        }
        tracing::info!(publication = name, tables = tables.len(), "publishing tables");
        // It locks one table after the other; who waits for these must not wait for those that have the next one.
        // Nor may a synchronous standby keep us: perhaps the stream is one.
        self.wire
            .query(&format!(
                "SET lock_timeout = {LOCK_TIMEOUT_MS}; SET synchronous_commit = local"
            ))
            .await?;
        let result = self.wire.query(&sql).await;
        self.wire.query("SET lock_timeout = 0").await?;
        result.map(|_| ()).map_err(|e| match e.code() {
            Some(code) if GONE.contains(&code) => Error::transient("a table went away before it was published")
                .with_code(WENT_AWAY)
                .with_source(e),
            Some("55P03") => Error::transient("a table that is to be published is locked")
                .with_hint("it is tried again; pg_locks tells which transaction has the lock")
                .with_code(LOCKED)
                .with_source(e),
            _ => {
                let hint = || format!("let the tables' owner run: {sql};");
                refused(format!("cannot publish the selected tables in {name:?}"), hint, e)
            }
        })
    }

    async fn stream(&self, from: &Position) -> Result<Stream> {
        let SourceConfig { slot, publication, .. } = &self.config;
        let spool = self
            .spill
            .as_ref()
            .map(|(cache, max)| Spool::new(cache.spill_dir(), *max));
        Stream::start(&self.endpoint, self.standby, slot, publication, from, spool).await
    }

    fn table_source(&self, table: Arc<SourceTable>, throttle: Arc<Throttle>) -> TableSource {
        TableSource {
            endpoint: self.endpoint.clone(),
            standby: self.standby,
            table: table.to_read(),
            throttle,
            points: Arc::new(Mutex::new(None)),
        }
    }
}

impl Postgres {
    /// The timeline that a standby replays.
    async fn replayed_timeline(&self) -> Result<u32> {
        let mut wire = Wire::connect(&self.endpoint, true).await?;
        let rows = wire.query("IDENTIFY_SYSTEM").await?;
        number(&rows.into_iter().next().unwrap_or_default(), 1)
    }

    /// Whether it was this server, then a standby, that told the lake what comes after `left`, where it left that
    /// timeline: the server has run since, or the slot was confirmed later and by nobody else.
    async fn has_told(&mut self, server: &str, left: Lsn) -> Result<bool> {
        let sql = format!(
            "SELECT ({STARTED}) = {} OR EXISTS (SELECT FROM pg_replication_slots s WHERE slot_name = {} \
             AND confirmed_flush_lsn > '{left}' AND coalesce(to_jsonb(s) ->> 'synced', 'false') = 'false')",
            quote_literal(server),
            quote_literal(&self.config.slot)
        );
        Ok(self.wire.scalar(&sql).await? == "t")
    }

    /// Waits until a standby has replayed what the lake has: one that was started again begins earlier.
    async fn wait_for_replay(&mut self, watermarks: &[Position]) -> Result<()> {
        let started = Instant::now();
        while self.standby {
            let seen = Replay::read(&mut self.wire).await?.seen;
            let is_ahead = |watermark: &&Position| !matches!(watermark, Position::Lsn(lsn) if is_reached(*lsn, seen));
            let Some(ahead) = watermarks.iter().find(is_ahead) else {
                break;
            };
            if started.elapsed() > REPLAY_TIME {
                return Err(Error::transient(format!(
                    "the standby has replayed its log up to {seen}, and the lake has it up to {ahead}"
                ))
                .with_hint(
                    "the standby is waited for; if it does not come to it because its primary was restored from a \
                     backup, move the lake's folder away",
                ));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// What the server knows of how a timeline came about; nothing of the first.
    async fn timeline_history(&self, timeline: u32) -> Result<String> {
        let mut wire = Wire::connect(&self.endpoint, true).await?;
        match wire.query(&format!("TIMELINE_HISTORY {timeline}")).await {
            Ok(rows) => Ok(rows.first().map(|row| text(row, 1)).unwrap_or_default()),
            // As the server itself takes a history file that is not there.
            Err(error) if error.code() == Some("58P01") => Ok(String::new()),
            Err(error) => Err(error),
        }
    }

    /// Reads publication and catalogue as of one moment.
    async fn read_catalogue(&mut self, only: Option<u32>) -> Result<Discovery<SourceTable>> {
        self.wire
            .query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .await?;
        let found = async {
            let (types, patterns) = (self.types()?.clone(), self.config.tables.clone());
            let published = self.published().await?;
            catalog::discover(&mut self.wire, &patterns, &types, published, only).await
        }
        .await;
        self.wire.query("COMMIT").await?;
        found
    }

    /// The types as last read.
    fn types(&self) -> Result<&Types> {
        self.types
            .as_ref()
            .ok_or_else(|| Error::bug("the source's types were not read yet"))
    }

    async fn check_server(&mut self) -> Result<Finding> {
        let rows = self
            .wire
            .query(
                "SELECT current_setting('server_version_num'), current_setting('server_version'), pg_is_in_recovery()",
            )
            .await?;
        let row = rows.first().cloned().unwrap_or_default();
        let version: u32 = number(&row, 0)?;
        let address = self.address();
        Ok(if version < VERSION_MIN {
            Finding::bad(
                format!("{address} runs PostgreSQL {}, older than 14", text(&row, 1)),
                "upgrade the server to PostgreSQL 14 or newer",
            )
        } else if text(&row, 2) == "t" && version < standby::VERSION_MIN {
            Finding::bad(
                format!(
                    "{address} is a standby of PostgreSQL {}, which can't decode",
                    text(&row, 1)
                ),
                "point source.url at the primary, or upgrade both to PostgreSQL 16 or newer",
            )
        } else if text(&row, 2) == "t" && !self.standby {
            Finding::bad(
                format!("{address} is a standby"),
                "point source.url at the primary, or set source.standby = true to replicate from the standby",
            )
        } else if self.standby {
            Finding::ok(format!("{address} is a standby and runs PostgreSQL {}", text(&row, 1)))
        } else {
            Finding::ok(format!("{address} runs PostgreSQL {}", text(&row, 1)))
        })
    }

    /// `decodes`: a server that can't has been told of.
    async fn check_wal_level(&mut self, decodes: bool) -> Result<Finding> {
        let level = self.wire.scalar("SHOW wal_level").await?;
        if self.standby && decodes && level == "logical" {
            return self.check_primary().await;
        }
        Ok(if level == "logical" {
            Finding::ok("wal_level is logical")
        } else {
            Finding::bad(
                format!("wal_level is {level}, but logical decoding needs logical"),
                "ALTER SYSTEM SET wal_level = logical; then restart the server",
            )
        })
    }

    /// The primary's wal_level. A standby tells it to who would decode: before it misses a slot's name.
    async fn check_primary(&mut self) -> Result<Finding> {
        let asked = self
            .wire
            .query("SELECT pg_logical_slot_peek_changes(NULL, NULL, NULL)")
            .await;
        match asked {
            Err(error) if error.code() == Some("55000") => Ok(Finding::bad(
                "wal_level of the primary is not logical",
                "ALTER SYSTEM SET wal_level = logical; at the primary, then restart it",
            )),
            // Who may not replicate is told of next.
            Err(error) if matches!(error.code(), Some("22004" | "42501")) => {
                Ok(Finding::ok("wal_level is logical, here and at the primary"))
            }
            Err(error) => Err(error),
            Ok(_) => Err(Error::bug("the server has a slot without a name")),
        }
    }

    async fn check_feedback(&mut self) -> Result<Finding> {
        let rows = self
            .wire
            .query("SELECT current_setting('hot_standby_feedback'), current_setting('primary_slot_name')")
            .await?;
        let row = rows.first().cloned().unwrap_or_default();
        Ok(match (text(&row, 0).as_str(), text(&row, 1).as_str()) {
            ("on", "") => Finding::ok(
                "hot_standby_feedback is on, but primary_slot_name is not set: the slot may be lost while the standby is away",
            ),
            ("on", _) => Finding::ok("hot_standby_feedback is on, with a slot at the primary"),
            _ => Finding::bad(NO_FEEDBACK, FEEDBACK),
        })
    }

    async fn check_role(&mut self) -> Result<Finding> {
        // Managed services grant replication through a role of their own.
        let allowed = self
            .wire
            .scalar(
                "SELECT rolsuper OR rolreplication OR EXISTS (SELECT FROM pg_roles r WHERE r.rolname IN ('rds_replication', 'azure_pg_admin') \
                 AND pg_has_role(r.oid, 'MEMBER')) FROM pg_roles WHERE rolname = current_user",
            )
            .await?;
        let role = self.endpoint.user().to_owned();
        Ok(if allowed == "t" {
            Finding::ok(format!("role {role:?} may replicate"))
        } else {
            Finding::bad(
                format!("role {role:?} lacks the REPLICATION right"),
                format!("ALTER ROLE {} REPLICATION;", quote_identifier(&role)),
            )
        })
    }

    fn check_tables(&self, discovery: &Discovery<SourceTable>) -> Vec<Finding> {
        let mut findings: Vec<Finding> = discovery
            .refused
            .iter()
            .map(|r| Finding::bad(format!("table {} {}", r.table, r.reason), r.hint.clone()))
            .collect();
        if !discovery.tables.is_empty() {
            findings.push(Finding::ok(format!(
                "{} tables can be replicated",
                discovery.tables.len()
            )));
        } else if discovery.refused.is_empty() {
            findings.push(Finding::bad(
                format!(
                    "no table of database {:?} is selected by source.tables",
                    self.endpoint.database
                ),
                "patterns match schema.table, as in source.tables = [\"public.*\"]",
            ));
        }
        findings
    }

    async fn check_publication(&mut self, discovery: &Discovery<SourceTable>) -> Result<Finding> {
        let name = self.config.publication.clone();
        let published = self.published().await?;
        if published.publishes_all == Some(false) {
            return Ok(Finding::bad(
                format!("publication {name:?} does not publish all of insert, update, delete and truncate"),
                format!(
                    "ALTER PUBLICATION {} SET (publish = 'insert, update, delete, truncate');",
                    quote_identifier(&name)
                ),
            ));
        }
        let Some((sql, tables)) = publication_sql(&name, &published, discovery) else {
            return Ok(Finding::ok(format!("publication {name:?} has all selected tables")));
        };
        if self.standby {
            return Ok(unpublished(&name, &published, tables.len(), &sql));
        }
        // Creating needs CREATE on the database, adding needs to own the
        // publication; both need to own every table.
        let oids: Vec<String> = tables.iter().map(|t| t.relation.to_string()).collect();
        let own = format!(
            "NOT EXISTS (SELECT FROM pg_class WHERE oid IN ({}) AND NOT pg_has_role(relowner, 'USAGE'))",
            oids.join(", ")
        );
        let may = match published.publishes_all {
            None => format!("SELECT has_database_privilege(current_database(), 'CREATE') AND {own}"),
            Some(_) => format!(
                "SELECT pg_has_role(pubowner, 'USAGE') AND {own} FROM pg_publication WHERE pubname = {}",
                quote_literal(&name)
            ),
        };
        Ok(if self.wire.scalar(&may).await? == "t" {
            Finding::ok(format!("publication {name:?} will get {} tables", tables.len()))
        } else {
            Finding::bad(
                format!(
                    "publication {name:?} lacks {} of the selected tables, and this role may not add them",
                    tables.len()
                ),
                format!("let the tables' owner run: {sql};"),
            )
        })
    }

    async fn check_slot(&mut self) -> Result<Finding> {
        let name = self.config.slot.clone();
        match self.slot().await {
            Ok(None) => {
                let free = self
                    .wire
                    .scalar("SELECT current_setting('max_replication_slots')::int - count(*) FROM pg_replication_slots")
                    .await?;
                Ok(if free.parse::<i64>().unwrap_or(1) > 0 {
                    Finding::ok(format!("slot {name:?} will be created"))
                } else {
                    Finding::bad(
                        format!("slot {name:?} can't be created: all max_replication_slots are taken"),
                        "raise max_replication_slots, or drop a slot that nobody uses",
                    )
                })
            }
            Ok(Some(slot)) if slot.active => Ok(Finding::bad(
                format!("slot {name:?} is in use by another process"),
                "stop the other sidecar, or set source.slot to a name of its own",
            )),
            // Whether it still has all log is told with the tables concerned.
            Ok(Some(_)) => Ok(Finding::ok(format!("slot {name:?} is ready"))),
            // A standby has been told of already.
            Err(error) if error.class() == Class::NeedsOperator || error.code() == Some("55000") => {
                Ok(Finding::from_error(&error))
            }
            Err(error) => Err(error),
        }
    }

    /// What the publication says of its tables. One that is still to be
    /// created will publish partitions as their root.
    async fn published(&mut self) -> Result<Published> {
        let name = quote_literal(&self.config.publication);
        let publication = self
            .wire
            .query(&format!(
                "SELECT pubviaroot, coalesce(to_jsonb(p) ->> 'pubgencols', 'n'), pubinsert AND pubupdate AND pubdelete AND pubtruncate, \
                 current_setting('server_version_num')::int >= 150000 FROM pg_publication p WHERE pubname = {name}"
            ))
            .await?;
        // Row filters, column lists and publications of schemas exist from PostgreSQL 15 on.
        let newer = publication.first().is_some_and(|row| text(row, 3) == "t");
        let rows = self.wire.query(&published_tables(&name, newer)).await?;
        let mut tables = BTreeMap::new();
        for row in &rows {
            let columns = row.get(4).and_then(Option::as_deref).map(|list| {
                let numbers = list.split(|c: char| !c.is_ascii_digit());
                numbers.filter_map(|number| number.parse().ok()).collect()
            });
            let published = PublishedTable {
                place: format!("{}.{}", text(row, 2), text(row, 3)),
                form: text(row, 6),
                columns,
                filter: row.get(5).cloned().flatten(),
            };
            tables.insert(TableId::new(text(row, 0), text(row, 1)), published);
        }
        Ok(Published {
            publishes_all: publication.first().map(|row| text(row, 2) == "t"),
            via_root: publication.first().is_none_or(|row| text(row, 0) == "t"),
            generated: publication.first().is_some_and(|row| text(row, 1) == "s"),
            tables,
        })
    }
}

/// A query for the tables of a publication, those that are published with all others or with their schema too, which
/// have no entry of their own. As `pg_publication_tables` has them: that locks them from PostgreSQL 16 on, and waits; here
/// only those with a row filter are locked, for its text.
/// Relations below 16384 are the server's own. Spec: `pg_get_publication_tables`.
fn published_tables(name: &str, newer: bool) -> String {
    let (schemas, filter) = match newer {
        true => (
            "UNION SELECT c.oid FROM publication p JOIN pg_publication_namespace s ON s.pnpubid = p.oid \
             JOIN publishable c ON c.relnamespace = s.pnnspid",
            "CASE WHEN NOT p.puballtables AND NOT EXISTS \
             (SELECT FROM pg_publication_namespace s WHERE s.pnpubid = p.oid AND s.pnnspid = c.relnamespace) \
             THEN pg_get_expr(r.prqual, r.prrelid) END",
        ),
        false => ("", "NULL"),
    };
    format!(
        "WITH RECURSIVE publication AS (SELECT * FROM pg_publication WHERE pubname = {name}), \
         publishable AS (SELECT * FROM pg_class \
             WHERE relkind IN ('r', 'p') AND relpersistence = 'p' AND oid >= 16384), \
         named AS (\
             SELECT r.prrelid AS oid FROM publication p JOIN pg_publication_rel r ON r.prpubid = p.oid \
             UNION SELECT c.oid FROM publication p JOIN publishable c ON p.puballtables {schemas}), \
         below AS (\
             SELECT i.inhrelid AS oid FROM named n JOIN pg_class c ON c.oid = n.oid AND c.relkind = 'p' \
             JOIN pg_inherits i ON i.inhparent = c.oid AND NOT i.inhdetachpending \
             UNION SELECT i.inhrelid FROM below b JOIN pg_inherits i ON i.inhparent = b.oid AND NOT i.inhdetachpending), \
         members AS (\
             SELECT n.oid FROM publication p, named n WHERE p.pubviaroot AND n.oid NOT IN (SELECT oid FROM below) \
             UNION SELECT l.oid FROM publication p, (TABLE named UNION TABLE below) l WHERE NOT p.pubviaroot) \
         SELECT n.nspname, c.relname, p.oid, r.oid, to_jsonb(r) ->> 'prattrs', {filter}, \
             md5(concat(to_jsonb(r) ->> 'prattrs', ' ', to_jsonb(r) ->> 'prqual')) \
         FROM publication p CROSS JOIN members m JOIN pg_class c ON c.oid = m.oid \
         JOIN pg_namespace n ON n.oid = c.relnamespace \
         LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = c.oid \
         WHERE p.pubviaroot OR c.relkind <> 'p'"
    )
}

/// What a standby's publication lacks, and can't be given there.
fn unpublished(name: &str, published: &Published, tables: usize, sql: &str) -> Finding {
    let what = match published.publishes_all {
        None => format!("there is no publication {name:?}, and a standby can't have one made"),
        Some(_) => format!("publication {name:?} lacks {tables} of the selected tables"),
    };
    Finding::bad(what, format!("run at the primary: {sql};"))
}

/// The statement that makes a publication whole, and the tables it adds.
fn publication_sql<'a>(
    name: &str,
    published: &Published,
    discovery: &'a Discovery<SourceTable>,
) -> Option<(String, Vec<&'a SourceTable>)> {
    let exists = published.publishes_all.is_some();
    let missing = |table: &&SourceTable| !published.tables.contains_key(&table.id);
    let tables: Vec<&SourceTable> = discovery.tables.iter().filter(missing).collect();
    if tables.is_empty() {
        return None;
    }
    let names: Vec<String> = tables.iter().map(|t| sql_name(&t.id)).collect();
    let (verb, kind) = if exists {
        ("ALTER", "ADD TABLE ONLY")
    } else {
        ("CREATE", "FOR TABLE ONLY")
    };
    let options = if exists {
        ""
    } else {
        " WITH (publish_via_partition_root = true)"
    };
    let sql = format!(
        "{verb} PUBLICATION {} {kind} {}{options}",
        quote_identifier(name),
        names.join(", ONLY ")
    );
    Some((sql, tables))
}

/// Connects for one table: to read chunks, and to read rows by key.
#[derive(Clone)]
pub struct TableSource {
    endpoint: Endpoint,
    standby: bool,
    table: Arc<SourceTable>,
    throttle: Arc<Throttle>,
    /// Kept between point reads.
    points: Arc<Mutex<Option<Reader>>>,
}

impl crate::source::TableSource for TableSource {
    type Table = SourceTable;
    type Reader = Reader;

    async fn reader(&self) -> Result<Reader> {
        Reader::connect(&self.endpoint, self.standby, self.table.clone(), self.throttle.clone()).await
    }

    fn table(&self) -> &Arc<SourceTable> {
        &self.table
    }

    fn throttle(&self) -> &Throttle {
        &self.throttle
    }

    fn blocks_for(part: &Part, bytes: u64, blocks: u64) -> u64 {
        blocks_for(part, bytes, blocks)
    }

    fn is_gone(error: &Error) -> bool {
        error.code().is_some_and(|code| GONE.contains(&code))
    }

    fn is_conflict(error: &Error) -> bool {
        error.code().is_some_and(|code| CONFLICT.contains(&code))
    }
}

impl TableSource {
    async fn read_points(&self, keys: RecordBatch) -> Result<PointRead> {
        let mut slot = self.points.lock().await;
        let mut reader = match slot.take() {
            Some(reader) => reader,
            // Not throttled: the stream waits for these.
            None => Reader::connect(&self.endpoint, self.standby, self.table.clone(), Arc::default()).await?,
        };
        let mut batches = Vec::new();
        let mut high = Position::Lsn(Lsn(0));
        for from in (0..keys.num_rows()).step_by(POINT_READ_KEYS) {
            let part = keys.slice(from, POINT_READ_KEYS.min(keys.num_rows() - from));
            let (rows, position) = reader
                .read_keys(&part)
                .await
                .map_err(<Self as crate::source::TableSource>::of_read)?;
            batches.push(rows);
            high = position;
        }
        *slot = Some(reader);
        let rows = arrow::compute::concat_batches(&self.table.schema.arrow(), &batches)
            .map_err(|e| Error::bug("rows of one table differ in schema").with_source(e))?;
        Ok(PointRead {
            rows,
            asked: keys.num_rows(),
            high,
        })
    }
}

impl PointReader for TableSource {
    fn read<'a>(&'a self, keys: RecordBatch) -> Pin<Box<dyn Future<Output = Result<PointRead>> + Send + 'a>> {
        Box::pin(self.read_points(keys))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_one_byte_past_the_log_is_of_that_log() {
        for (position, reached) in [(99, true), (100, true), (101, true), (102, false)] {
            assert_eq!(is_reached(Lsn(position), Lsn(100)), reached, "{position}");
        }
        assert!(is_reached(Lsn(u64::MAX), Lsn(u64::MAX)));
    }

    #[test]
    fn a_timeline_is_left_where_its_history_says() {
        let history = "1\t0/3000000\tno recovery target specified\n\n2\t0/4000130\tbefore 2026-01-01\n";
        assert_eq!(left_at(history, 1).expect("history"), Some(Lsn(0x300_0000)));
        assert_eq!(left_at(history, 2).expect("history"), Some(Lsn(0x400_0130)));
        assert_eq!(left_at(history, 3).expect("history"), None);
        assert_eq!(left_at("", 1).expect("history"), None);
        assert!(left_at("1 nothing", 1).is_err());
        assert_eq!(timeline_of("0000000A0000000000000003").expect("a file"), 10);
        assert!(timeline_of("").is_err());
    }
}
