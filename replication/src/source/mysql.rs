//! MySQL 8.0 and newer, MariaDB 10.5 and newer: the binlog by GTID (or by file
//! and position), chunks by ranges of the key.
//!
//! The server keeps no place for us. Where the stream has to go on is in the
//! lake's own record, and whether the server's log still has all from there on
//! is asked at every start.

pub mod binlog;
mod catalog;
pub mod ddl;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod lease;
mod server;
mod snapshot;
mod stream;
pub mod types;
mod wire;

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use tokio::sync::Mutex;

use self::binlog::Checksum;
use self::catalog::{SourceTable, Types, relation, text, variables};
use self::ddl::Session;
use self::lease::Lease;
use self::server::Server;
use self::snapshot::{Reader, blocks_for, consistent_place, visible_gtids};
use self::stream::{Start, Stream, Told, What};
use self::wire::{Endpoint, Flavor, Wire};
use crate::config::{Config, SourceConfig};
use crate::error::{Class, Error, Result};
use crate::lake::{PointRead, PointReader, Shape};
use crate::position::{BinlogPosition, Gtids, Position, file_number};
use crate::schema::TableId;
use crate::source::{
    Discovery, Finding, Identity, Judgement, Look, Part, Slot, Source, SourceTable as _, Throttle, Verdict,
};

/// How long a commit is waited for that the log has already.
const COMMIT_TIME: Duration = Duration::from_secs(12);

/// What the server says of a table, column or database that is gone, or was
/// altered since a snapshot. Codes: MySQL manual, "Server Error Message Reference".
const GONE: [&str; 5] = ["1146", "1054", "1049", "1412", "1176"];

/// A source as configured, with one connection for catalogue queries.
pub struct MySql {
    endpoint: Endpoint,
    config: SourceConfig,
    wire: Wire,
    server: Server,
    types: Types,
    told: Told,
}

impl MySql {
    /// What the server is to know us by.
    fn server_id(&self) -> u32 {
        self.config.server_id.unwrap_or_else(|| {
            // Far from the small numbers that people give.
            0x5452_0000 | relation(&TableId::new("tributary", self.config.slot.as_str())) & 0xffff
        })
    }

    fn replica_uuid(&self) -> String {
        format!("74726962-7574-6172-7920-{:012x}", self.server_id())
    }

    /// Why the server's log does not go on from a place, whatever is still
    /// there of it, if so.
    async fn other_history(&mut self, place: &BinlogPosition) -> Result<Option<String>> {
        let same_server = place.server == self.server.name;
        if !same_server && place.gtids == Gtids::None {
            return Ok(Some(
                "it is another server, and without GTIDs its log can't be matched with the one before".to_owned(),
            ));
        }
        // A log that was begun anew gives the same names again.
        if same_server && !self.goes_on_from(place).await? {
            return Ok(Some(format!(
                "the server's log was begun anew (RESET, or restored files): nothing ends at {}:{} in it",
                place.file, place.offset
            )));
        }
        let started = Instant::now();
        loop {
            let missing = self.never_had(&[place]).await?.pop().flatten();
            // The log has a transaction before it can be seen.
            if missing.is_none() || !same_server || started.elapsed() > COMMIT_TIME {
                return Ok(missing);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn goes_on_from(&mut self, place: &BinlogPosition) -> Result<bool> {
        let files = self.server.files(&mut self.wire).await?;
        Ok(match files.iter().find(|(file, _)| *file == place.file) {
            Some((_, size)) if place.offset >= *size => place.offset == *size,
            Some(_) => {
                let event = self
                    .server
                    .event_from(&mut self.wire, &place.file, place.offset)
                    .await?;
                event == Some(place.offset)
            }
            None => files
                .last()
                .is_some_and(|(file, _)| file_number(file) > place.file_number()),
        })
    }

    /// Of each place, why its transactions are not all of the server's history.
    async fn never_had(&mut self, places: &[&BinlogPosition]) -> Result<Vec<Option<String>>> {
        let now = self.server.gtids(&mut self.wire).await?;
        let logged = match self.server.flavor {
            Flavor::MySql => None,
            Flavor::MariaDb => Some(self.server.logged(&mut self.wire).await?),
        };
        let missing = |place: &&BinlogPosition| match (&place.gtids, &now, &logged) {
            (Gtids::MySql(own), Gtids::MySql(now), _) => own.subtract(now).to_string(),
            // Two servers may have given the same number.
            (Gtids::MariaDb(own), _, Some(logged)) => logged.lacks(own).to_string(),
            _ => String::new(),
        };
        let told = |missing: String| {
            (!missing.is_empty()).then(|| {
                format!(
                    "the server never had {missing}, which the lake has: it is another server, was restored from \
                     a backup, or took over before it had all"
                )
            })
        };
        Ok(places.iter().map(missing).map(told).collect())
    }

    /// Why the server does not have all of its log that comes after a place, if so.
    async fn purged(&mut self, place: &BinlogPosition) -> Result<Option<String>> {
        let purged = self.server.purged(&mut self.wire).await?;
        Ok(match (&place.gtids, &purged) {
            (Gtids::MySql(own), Gtids::MySql(purged)) => {
                let missing = purged.subtract(own);
                (!missing.is_empty()).then(|| {
                    format!("the server has purged binlogs that were needed, with {missing} (see binlog_expire_logs_seconds)")
                })
            }
            (Gtids::MariaDb(own), Gtids::MariaDb(purged)) => {
                let missing = purged
                    .iter()
                    .find(|(domain, _, sequence)| own.get(*domain).is_none_or(|(_, own)| own < *sequence));
                missing.map(|(domain, server, sequence)| {
                    format!("the server has purged binlogs that were needed, up to {domain}-{server}-{sequence} (see expire_logs_days)")
                })
            }
            _ => {
                let files = self.server.files(&mut self.wire).await?;
                let there = files.iter().any(|(file, _)| *file == place.file);
                (!there).then(|| format!("the server does not have {} any more", place.file))
            }
        })
    }

    /// Whether a replica that is no sidecar has our server id.
    async fn has_namesake(&mut self) -> Result<bool> {
        let id = self.server_id().to_string();
        let rows = self.wire.query(self.server.replicas_statement()).await?;
        Ok(rows
            .iter()
            .any(|row| text(row, 0) == id && text(row, 1) != stream::HOSTNAME))
    }

    async fn check_server(&mut self) -> Finding {
        let address = self.address();
        let (version, number) = (self.wire.server().version.clone(), self.server.number);
        let (name, least) = match self.server.flavor {
            Flavor::MySql => ("MySQL", (8, 0, 0)),
            Flavor::MariaDb => ("MariaDB", (10, 5, 0)),
        };
        if number < least {
            return Finding::bad(
                format!("{address} runs {name} {version}, older than {}.{}", least.0, least.1),
                format!("upgrade the server to {name} {}.{} or newer", least.0, least.1),
            );
        }
        let tls = if self.wire.encrypted() {
            "with TLS"
        } else {
            "without TLS"
        };
        Finding::ok(format!("{address} runs {name} {version}, connected {tls}"))
    }

    /// How the binlog is written.
    async fn check_log(&mut self) -> Result<Vec<Finding>> {
        let values = variables(
            &mut self.wire,
            &[
                "log_bin",
                "binlog_format",
                "binlog_row_image",
                "binlog_row_metadata",
                "binlog_row_value_options",
                "binlog_expire_logs_seconds",
                "expire_logs_days",
                "gtid_mode",
                "log_replica_updates",
                "log_slave_updates",
                "gtid_slave_pos",
                "wsrep_on",
            ],
        )
        .await?;
        let value = |name: &str| values.get(name).map(String::as_str).unwrap_or_default();
        let set = match self.server.flavor {
            Flavor::MySql => "SET PERSIST",
            Flavor::MariaDb => "SET GLOBAL",
        };
        let mut findings = Vec::new();
        if value("log_bin") != "ON" {
            findings.push(Finding::bad(
                "log_bin is off: the server writes no binary log",
                "set log_bin and server_id under [mysqld] in the server's configuration, and restart it",
            ));
            return Ok(findings);
        }
        findings.push(match value("binlog_format") {
            "ROW" => Finding::ok("binlog_format is ROW"),
            other => Finding::bad(
                format!("binlog_format is {other}, so rows are not in the log"),
                format!("{set} binlog_format = 'ROW'; sessions that are open keep the old format until they reconnect"),
            ),
        });
        let image = value("binlog_row_image");
        findings.push(if value("binlog_row_value_options").contains("PARTIAL_JSON") && image != "FULL" {
            Finding::bad(
                format!("binlog_row_value_options is PARTIAL_JSON with binlog_row_image {image}: JSON values can't be put together"),
                "SET PERSIST binlog_row_image = 'FULL'; or SET PERSIST binlog_row_value_options = '';",
            )
        } else {
            Finding::ok(format!("binlog_row_image is {image}"))
        });
        findings.push(match value("binlog_row_metadata") {
            "FULL" => Finding::ok("binlog_row_metadata is FULL: the log names its columns"),
            _ => Finding::ok(format!(
                "binlog_row_metadata is not FULL: columns are known by DDL statements alone; better: {set} binlog_row_metadata = 'FULL';"
            )),
        });
        findings.push(match (self.server.flavor, self.server.gtid_mode) {
            (Flavor::MariaDb, _) => Finding::ok("transactions have GTIDs"),
            (_, true) => Finding::ok("gtid_mode is ON"),
            _ => Finding::ok(format!(
                "gtid_mode is {}: the log is followed by file and position, and a failover needs new snapshots",
                value("gtid_mode")
            )),
        });
        let passes_on = [value("log_replica_updates"), value("log_slave_updates")].contains(&"ON");
        let replicates = !value("gtid_slave_pos").is_empty() || value("wsrep_on") == "ON";
        if !passes_on {
            let what =
                "log_slave_updates (log_replica_updates) is off: what the server gets from others is not in its log";
            findings.push(match replicates {
                true => Finding::bad(
                    what,
                    "set log_slave_updates = ON under [mysqld] and restart the server; or point source.url at the primary",
                ),
                false => Finding::ok(format!("{what}; right for a server that is never a replica")),
            });
        }
        let seconds = value("binlog_expire_logs_seconds").parse::<u64>().ok();
        let days = value("expire_logs_days").parse::<f64>().unwrap_or(0.0);
        let seconds = seconds.filter(|s| *s > 0).unwrap_or((days * 86_400.0) as u64);
        findings.push(Finding::ok(match seconds {
            0 => "binlogs are kept until they are purged by hand".to_owned(),
            s if s < 86_400 => format!(
                "binlogs are kept for {s} s only: after a longer absence tables need new snapshots; \
                 better: {set} binlog_expire_logs_seconds = 259200;"
            ),
            s => format!("binlogs are kept for {} h", s / 3600),
        }));
        Ok(findings)
    }

    /// Who we are, as the server has it and as GRANT takes it.
    async fn user(&mut self) -> Result<(String, String)> {
        let user = self.wire.scalar("SELECT CURRENT_USER()").await?;
        let quoted = match user.rsplit_once('@') {
            Some((name, host)) => format!("{}@{}", wire::quote_literal(name), wire::quote_literal(host)),
            None => wire::quote_literal(&user),
        };
        Ok((user, quoted))
    }

    /// What lets us see where the log is.
    async fn monitor_grant(&mut self) -> Result<String> {
        let right = match self.server.flavor {
            Flavor::MySql => "REPLICATION CLIENT",
            Flavor::MariaDb => "BINLOG MONITOR",
        };
        Ok(format!("GRANT {right} ON *.* TO {};", self.user().await?.1))
    }

    /// Whether the server takes us for a replica; asked on a connection of its own.
    async fn may_replicate(&self) -> Result<()> {
        let mut wire = Wire::connect(&self.endpoint).await?;
        wire.register_replica(&stream::replica(self.server_id(), &self.replica_uuid()))
            .await
    }

    /// What the role may do, by doing it.
    async fn check_rights(&mut self) -> Result<Vec<Finding>> {
        let (user, quoted) = self.user().await?;
        let mut findings = Vec::new();
        match self.server.filters(&mut self.wire).await {
            Ok(None) => findings.push(Finding::ok(format!("{user} may see where the log is"))),
            Ok(Some(filter)) => findings.push(Finding::bad(
                filter,
                "take it out of the server's configuration: changes of the other databases are in no log",
            )),
            Err(error) if error.class() == Class::Transient => return Err(error),
            Err(error) => findings.push(Finding::bad(
                format!("{user} may not see where the log is: {error}"),
                self.monitor_grant().await?,
            )),
        }
        let id = self.server_id();
        let taken = Lease::is_taken(&mut self.wire, id).await?;
        let namesake = match (self.has_namesake().await, self.server.flavor) {
            // To see other replicas is another right, which nothing else needs.
            (Err(error), Flavor::MariaDb) if error.class() != Class::Transient && !taken => {
                self.may_replicate().await.map(|()| false)
            }
            (Err(error), Flavor::MariaDb) if error.class() != Class::Transient => Ok(false),
            (namesake, _) => namesake,
        };
        findings.push(match namesake {
            Ok(false) if id == self.server.id => Finding::bad(
                format!("the server itself has the server id {id}"),
                "set source.server_id to a number of its own",
            ),
            Ok(false) if taken => Finding::bad(
                format!("another process streams as server id {id}"),
                "stop the other sidecar, or set source.slot or source.server_id to one of its own",
            ),
            Ok(false) => Finding::ok(format!("{user} may replicate, as server id {id}")),
            Ok(true) => Finding::bad(
                format!("another replica has the server id {id}"),
                "set source.server_id to a number of its own",
            ),
            Err(error) if error.class() == Class::Transient => return Err(error),
            Err(error) => Finding::bad(
                format!("{user} may not replicate: {error}"),
                format!("GRANT REPLICATION SLAVE ON *.* TO {quoted};"),
            ),
        });
        if !self.server.gtid_mode {
            let transactions = self
                .wire
                .query("SELECT 1 FROM information_schema.INNODB_TRX LIMIT 1")
                .await;
            if transactions.is_err() {
                findings.push(Finding::bad(
                    format!("without GTIDs, {user} has to see which transactions are open"),
                    format!("GRANT PROCESS ON *.* TO {quoted}; or turn gtid_mode on"),
                ));
            }
        }
        Ok(findings)
    }

    /// What SELECT is needed on, as far as one database is named.
    fn wanted(&self) -> String {
        let named = self.config.tables.iter().find(|pattern| !pattern.starts_with('!'));
        match named.and_then(|pattern| pattern.split_once('.')) {
            Some((database, _)) if !database.contains(['*', '?', '[', '{', '\\']) => {
                format!("{}.*", wire::quote_identifier(database))
            }
            _ => "*.*".to_owned(),
        }
    }

    async fn check_tables(&mut self, discovery: &Discovery<SourceTable>) -> Result<Vec<Finding>> {
        let (_, user) = self.user().await?;
        let mut findings: Vec<Finding> = discovery
            .refused
            .iter()
            .map(|r| Finding::bad(format!("table {} {}", r.table, r.reason), r.hint.clone()))
            .collect();
        let mut readable = 0;
        for table in &discovery.tables {
            match self
                .wire
                .query(&format!("SELECT 1 FROM {} LIMIT 0", table.sql_name()))
                .await
            {
                Ok(_) => readable += 1,
                Err(error) if error.class() == Class::Transient => return Err(error),
                // It went away just now.
                Err(error) if error.code().is_some_and(|code| GONE.contains(&code)) => {}
                Err(error) => findings.push(Finding::bad(
                    format!("table {} can't be read: {error}", table.id),
                    format!(
                        "GRANT SELECT ON {} TO {user}; or exclude it in source.tables",
                        table.sql_name()
                    ),
                )),
            }
        }
        if readable > 0 {
            findings.push(Finding::ok(format!("{readable} tables can be replicated")));
        } else if findings.is_empty() {
            findings.push(Finding::bad(
                "no table of the server is selected by source.tables, or this user may see none",
                format!(
                    "check that the patterns match database.table, as in \"shop.*\"; or GRANT SELECT ON {} TO {user};",
                    self.wanted()
                ),
            ));
        }
        Ok(findings)
    }
}

impl Source for MySql {
    type Table = SourceTable;
    type Stream = Stream;
    type Tables = TableSource;

    const KEEPS_POSITION: bool = false;
    const KNOWS_COLUMNS: bool = true;

    async fn connect(config: &Config) -> Result<Self> {
        let config = &config.source;
        let endpoint = Endpoint::new(config)?;
        let mut wire = Wire::connect(&endpoint).await?;
        if wire.server().flavor == Flavor::MySql {
            // Sizes as they are now, and keys that the server made itself.
            wire.execute("SET SESSION information_schema_stats_expiry = 0").await?;
            let _ = wire
                .execute("SET SESSION show_gipk_in_create_table_and_information_schema = ON")
                .await;
        }
        let server = Server::read(&mut wire).await?;
        let flavor = match server.flavor {
            Flavor::MySql => ddl::Flavor::MySql,
            Flavor::MariaDb => ddl::Flavor::MariaDb,
        };
        let session = Session {
            flavor,
            version: server.version(),
            sql_mode: server.sql_mode,
            explicit_timestamps: None,
            fold_names: server.fold_names,
        };
        let type_flavor = match server.flavor {
            Flavor::MySql => types::Flavor::MySql,
            Flavor::MariaDb => types::Flavor::MariaDb,
        };
        Ok(Self {
            types: Types::new(type_flavor, session, config),
            endpoint,
            config: config.clone(),
            wire,
            server,
            told: Told::default(),
        })
    }

    fn address(&self) -> String {
        self.endpoint.address()
    }

    /// The server is not part of the name: another one may take over.
    async fn identify(&mut self) -> Result<Identity> {
        let flavor = match self.server.flavor {
            Flavor::MySql => "mysql",
            Flavor::MariaDb => "mariadb",
        };
        Ok(Identity {
            pipeline: format!("{flavor}:{}", self.config.slot),
            timeline: 0,
            server: None,
        })
    }

    async fn log_end(&mut self) -> Result<Position> {
        match self.server.log_end(&mut self.wire).await {
            Err(error) if error.code() == Some("1227") => {
                let hint = self.monitor_grant().await?;
                Err(error.with_hint(hint))
            }
            end => end,
        }
    }

    async fn log_bytes(&mut self, from: &Position, to: &Position) -> Result<Option<u64>> {
        if let Some(bytes) = from.bytes_until(to) {
            return Ok(Some(bytes));
        }
        let (Some(from), Some(to)) = (from.binlog(), to.binlog()) else {
            return Ok(None);
        };
        if from.server != to.server {
            return Ok(None);
        }
        let files = self.server.files(&mut self.wire).await?;
        let between = files.iter().skip_while(|(file, _)| *file != from.file);
        let whole: u64 = between
            .take_while(|(file, _)| *file != to.file)
            .map(|(_, size)| size)
            .sum();
        Ok((whole > 0).then(|| whole.saturating_sub(from.offset) + to.offset))
    }

    fn select(&mut self, patterns: Vec<String>) {
        self.config.tables = patterns;
    }

    async fn discover(&mut self) -> Result<Discovery<SourceTable>> {
        let mut found = catalog::discover(&mut self.wire, &self.config.tables, &mut self.types, None).await?;
        if !self.server.full_metadata {
            for table in &found.tables {
                for column in table.columns.iter().filter(|column| column.codec.has_doubtful_words()) {
                    found.notes.push(format!(
                        "{}: a ? in the words of {} may be a character that only the log tells, if binlog_row_metadata is FULL",
                        table.id, column.name
                    ));
                }
            }
        }
        Ok(found)
    }

    async fn look(&mut self, id: &TableId, _: u32) -> Result<Look<SourceTable>> {
        let found = catalog::discover(&mut self.wire, &self.config.tables, &mut self.types, Some(id)).await?;
        if let Some(table) = found.tables.into_iter().next() {
            return Ok(Look::Table(Box::new(table), Some(String::new())));
        }
        Ok(found.refused.into_iter().next().map_or(Look::Gone, Look::Refused))
    }

    async fn begin(&mut self, mut table: SourceTable) -> Result<Option<(SourceTable, Position)>> {
        // The log tells no columns, so they have to be known for the very
        // position: the same before it and after.
        loop {
            let position = match self.server.flavor {
                // With GTIDs, it is the visible transactions that count.
                Flavor::MySql => {
                    visible_gtids(&mut self.wire, &self.server, &self.told).await?;
                    self.log_end().await?
                }
                Flavor::MariaDb => {
                    let place = consistent_place(&mut self.wire, &self.server, &self.told).await?;
                    self.wire.execute("COMMIT").await?;
                    Position::Binlog(Arc::new(place))
                }
            };
            let id = table.id.clone();
            let Look::Table(now, _) = self.look(&id, table.relation).await? else {
                return Ok(None);
            };
            if now.decodes_like(&table) && now.is_like(&table) {
                return Ok(Some((table, position)));
            }
            table = *now;
        }
    }

    fn as_recorded(&self, table: &SourceTable, shape: &Shape) -> Result<Option<SourceTable>> {
        Ok(table.as_recorded(shape, &self.types))
    }

    fn numbered(&self, table: &SourceTable, shape: &Shape) -> Result<SourceTable> {
        let recorded = self.as_recorded(table, shape)?;
        Ok(recorded
            .filter(|recorded| recorded.is_like(table))
            .unwrap_or_else(|| table.clone()))
    }

    async fn judge(&mut self, stream: &Stream, table: usize) -> Result<Judgement<SourceTable>> {
        use crate::source::ChangeStream;
        let (Some(before), Some((what, session))) = (stream.table(table), stream.described(table)) else {
            return Ok(Judgement::Nothing);
        };
        let alter = match what {
            What::Gone(reason) => return Ok(Judgement::Gone(reason.clone())),
            What::Alter(alter) => alter,
        };
        let (known, evolved) = match before.known().judge(alter, session) {
            ddl::Verdict::Same(known) => (known, false),
            ddl::Verdict::Evolve(known) => (known, true),
            ddl::Verdict::Copy(reason) => return Ok(Judgement::Columns(Verdict::Copy(reason))),
        };
        for column in &known.columns {
            self.types.learn(&mut self.wire, column.charset.as_deref()).await?;
        }
        Ok(Judgement::Columns(match before.with_known(&known, &self.types) {
            Err(reason) => Verdict::Copy(reason),
            Ok(table) if evolved => Verdict::Evolve(table),
            Ok(table) => Verdict::Same(table),
        }))
    }

    async fn check(&mut self, discovery: &Discovery<SourceTable>) -> Result<Vec<Finding>> {
        let mut findings = vec![self.check_server().await];
        findings.extend(self.check_log().await?);
        findings.extend(self.check_rights().await?);
        findings.extend(self.check_tables(discovery).await?);
        Ok(findings)
    }

    async fn in_use(&mut self) -> Result<bool> {
        let id = self.server_id();
        Lease::is_taken(&mut self.wire, id).await
    }

    async fn slot_at(&mut self, confirmed: &Position) -> Result<Option<Slot>> {
        let end = self.log_end().await?;
        Ok(Some(Slot {
            confirmed: confirmed.clone(),
            active: self.in_use().await?,
            retained_bytes: self.log_bytes(confirmed, &end).await?.unwrap_or_default(),
            lost: None,
        }))
    }

    async fn foreign(&mut self, watermarks: &[Position], _: u32, _: Option<&str>) -> Result<Vec<Option<String>>> {
        let places: Vec<&BinlogPosition> = watermarks.iter().filter_map(Position::binlog).collect();
        if places.len() != watermarks.len() {
            return Err(Error::bug("expected positions in a binlog, found an LSN"));
        }
        self.never_had(&places).await
    }

    async fn lost(&mut self, confirmed: &Position) -> Result<Option<String>> {
        let Some(place) = confirmed.binlog() else {
            return Err(Error::bug("expected a position in a binlog, found an LSN"));
        };
        match self.other_history(place).await? {
            None => self.purged(place).await,
            lost => Ok(lost),
        }
    }

    async fn create_slot(&mut self) -> Result<Position> {
        self.log_end().await
    }

    async fn stream(&self, from: &Position) -> Result<Stream> {
        let start = Start {
            told: self.told.clone(),
            endpoint: &self.endpoint,
            server_id: self.server_id(),
            replica_uuid: &self.replica_uuid(),
            server: &self.server,
            checksum: if self.server.checksums {
                Checksum::Crc32
            } else {
                Checksum::Off
            },
            session: self.types.session,
        };
        Stream::start(start, from).await
    }

    fn table_source(&self, table: Arc<SourceTable>, throttle: Arc<Throttle>) -> TableSource {
        TableSource {
            endpoint: self.endpoint.clone(),
            server: self.server.clone(),
            told: self.told.clone(),
            table: table.to_read(),
            throttle,
            points: Arc::new(Mutex::new(None)),
        }
    }
}

/// Connects for one table: to read chunks, and to read rows by key.
#[derive(Clone)]
pub struct TableSource {
    endpoint: Endpoint,
    server: Server,
    told: Told,
    table: Arc<SourceTable>,
    throttle: Arc<Throttle>,
    /// Kept between point reads.
    points: Arc<Mutex<Option<Reader>>>,
}

impl crate::source::TableSource for TableSource {
    type Table = SourceTable;
    type Reader = Reader;

    async fn reader(&self) -> Result<Reader> {
        self.connect(self.throttle.clone()).await
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
}

impl TableSource {
    async fn connect(&self, throttle: Arc<Throttle>) -> Result<Reader> {
        let (told, table) = (self.told.clone(), self.table.clone());
        Reader::connect(&self.endpoint, &self.server, told, table, throttle).await
    }

    async fn read_points(&self, keys: RecordBatch) -> Result<PointRead> {
        let mut slot = self.points.lock().await;
        let mut reader = match slot.take() {
            Some(reader) => reader,
            // Not throttled: the stream waits for these.
            None => self.connect(Arc::default()).await?,
        };
        let (rows, high) = reader
            .read_keys(&keys)
            .await
            .map_err(<Self as crate::source::TableSource>::of_read)?;
        *slot = Some(reader);
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
