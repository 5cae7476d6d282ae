//! MongoDB 6.0 and newer, as a replica set or a sharded cluster: one change
//! stream for all collections, chunks by ranges of `_id`.
//!
//! The server keeps no place for us. Where the stream has to go on is in the
//! lake's own record, and whether the oplog still has all from there on is
//! asked at every start.

mod columns;
mod cursor;
mod delta;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod infer;
mod json;
mod number;
mod raw;
mod rows;
mod snapshot;
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod transform;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use bson::{Bson, Document, doc};
use mongodb::Client;
use mongodb::options::ClientOptions;
use tokio::sync::Mutex;

use self::cursor::{Batches, code, failure};
use self::infer::Sample;
use self::snapshot::{Access, Reader, Told, blocks_for, is_gone};
use self::stream::{Bodies, Scope, Start, Stream, What};
use self::table::{MixedKeys, SourceTable};
use self::transform::{Transform, Transformer};
use crate::config::{Config, Documents, SourceConfig};
use crate::error::{Class, Error, Result};
use crate::lake::{PointRead, PointReader, Shape};
use crate::position::{ClusterTime, Position, ResumePoint};
use crate::schema::TableId;
use crate::source::transformed::matches_no_table;
use crate::source::{
    Discovery, Finding, Identity, Judgement, Look, Part, Refusal, Slot, Source, SourceTable as _, Throttle, Verdict,
    selected,
};
use crate::transform::{HashKey, Rules};

/// How long a server is looked for.
const SELECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// The oldest server with what we need.
const VERSION_LEAST: (i32, i32) = (6, 0);
/// Documents that columns are inferred from, and what they take at most.
const SAMPLE_DOCUMENTS: i64 = 1000;
const SAMPLE_ENDS: i64 = 50;
const SAMPLE_BYTES: usize = 32 << 20;
/// How long after its last use a cursor is still taken for one in use.
const IN_USE: Duration = Duration::from_secs(2);
/// An oplog that keeps less is worth a word.
const OPLOG_HOURS_LEAST: u64 = 24;
/// Databases that are the server's own.
const OWN_DATABASES: [&str; 3] = ["admin", "local", "config"];

/// A source as configured.
pub struct MongoDb {
    config: SourceConfig,
    /// What is set for tables, and the key of hashes.
    settings: Config,
    key: Option<Arc<HashKey>>,
    access: Access,
    address: String,
    /// The database that is watched; none is all of them.
    database: Option<String>,
    server: Server,
    mixed: MixedKeys,
    /// What collections take, by UUID, as they were first seen.
    sizes: HashMap<[u8; 16], u64>,
}

/// What of a server decides how it is asked.
#[derive(Clone, Debug)]
struct Server {
    version: String,
    number: (i32, i32, i32),
    /// The replica set's name, where it is one.
    set_name: Option<String>,
    sharded: bool,
    encrypted: bool,
}

/// A collection as the catalogue has it.
struct Collection {
    id: TableId,
    uuid: Option<[u8; 16]>,
    kind: String,
    capped: bool,
    /// Whether the server keeps pre-images of its documents.
    images: bool,
}

impl MongoDb {
    /// What the server's list of operations calls us.
    fn comment(&self) -> String {
        format!("tributary {}", self.config.slot)
    }

    async fn admin(&self, what: &str, command: Document) -> Result<Document> {
        cursor::command(&self.access.client.database("admin"), what, command).await
    }

    async fn databases(&self) -> Result<Vec<String>> {
        if let Some(own) = &self.database {
            return Ok(vec![own.clone()]);
        }
        let command = doc! {"listDatabases": 1, "nameOnly": true, "authorizedDatabases": true};
        let reply = self.admin("cannot list databases", command).await?;
        let listed = reply.get_array("databases").map(Vec::as_slice).unwrap_or_default();
        let names = listed
            .iter()
            .filter_map(|entry| entry.as_document()?.get_str("name").ok());
        Ok(names
            .filter(|name| !OWN_DATABASES.contains(name))
            .map(str::to_owned)
            .collect())
    }

    async fn collections(&self, database: &str, only: Option<&str>) -> Result<Vec<Collection>> {
        let mut command = doc! {"listCollections": 1, "cursor": {"batchSize": 10_000}};
        if let Some(name) = only {
            command.insert("filter", doc! {"name": name});
        }
        let own = self.access.client.database(database);
        let (listed, _) = cursor::all(&own, command, None).await?;
        Ok(listed.iter().filter_map(|entry| collection(database, entry)).collect())
    }

    /// Sorts collections into what can be replicated and what can't.
    async fn sort(&mut self, found: Vec<Collection>, discovery: &mut Discovery<SourceTable>) -> Result<()> {
        for collection in found {
            let id = collection.id;
            // The server's own, buckets of time series among them, and what
            // it makes to give it another name.
            let passing = id.name.starts_with("tmp.agg_out.") || id.name.ends_with(".renameCollection");
            if id.name.starts_with("system.") || passing || collection.kind == "view" {
                continue;
            }
            if let Some(uuid) = &collection.uuid {
                discovery.names.insert(table::relation(uuid), id.clone());
            }
            if !selected(&self.config.tables, &id) {
                continue;
            }
            if collection.kind == "timeseries" {
                discovery.refused.push(Refusal {
                    hint: format!("exclude it: source.tables = [\"*\", \"!{id}\"]"),
                    reason: "is a time-series collection, of which no change stream tells".to_owned(),
                    table: id,
                });
                continue;
            }
            if collection.capped {
                discovery.refused.push(Refusal {
                    hint: format!("exclude it: source.tables = [\"*\", \"!{id}\"]"),
                    reason: "is capped, and no change stream tells what falls out of it".to_owned(),
                    table: id,
                });
                continue;
            }
            let Some(uuid) = collection.uuid else { continue };
            let transform = match Transform::of(&id, self.rules(&id)) {
                Ok(transform) => transform,
                Err(refusal) => {
                    discovery.refused.push(refusal);
                    continue;
                }
            };
            if collection.images {
                discovery.notes.push(format!(
                    "{id} has changeStreamPreAndPostImages on, which cost the server writes and are not needed here"
                ));
            }
            let bytes = match self.sizes.get(&uuid) {
                Some(bytes) => *bytes,
                None => {
                    let database = self.access.client.database(&id.schema);
                    let size = snapshot::size(&database, &id.name).await?;
                    let bytes = size.map_or(0, |size| size.bytes);
                    self.sizes.insert(uuid, bytes);
                    bytes
                }
            };
            discovery.places.insert(id.clone(), String::new());
            let mode = self.settings.table(&id).mode;
            let table = SourceTable::new(id, uuid, bytes, self.mixed.clone())?;
            discovery.tables.push(table.with_transform(transform).with_mode(mode));
        }
        Ok(())
    }

    fn rules(&self, table: &TableId) -> Rules {
        Rules::of(&self.settings, self.key.clone(), table)
    }

    /// The entries of the configuration that are for no collection.
    fn unmatched(&self, discovery: &Discovery<SourceTable>) -> Vec<Finding> {
        let entries = self.settings.tables.iter();
        entries.filter_map(|entry| matches_no_table(entry, discovery)).collect()
    }

    /// What the documents of a collection look like, as far as the lake gets them.
    async fn sample(&self, table: &SourceTable) -> Result<Sample> {
        let ends = |order: i32| {
            doc! {
                "find": &table.id.name, "sort": {"_id": order}, "limit": SAMPLE_ENDS,
                "batchSize": SAMPLE_ENDS as i32, "singleBatch": true,
            }
        };
        let random = doc! {
            "aggregate": &table.id.name, "pipeline": [{"$sample": {"size": SAMPLE_DOCUMENTS}}],
            "cursor": {"batchSize": SAMPLE_DOCUMENTS as i32}, "allowDiskUse": true,
        };
        let mut sample = Sample::default();
        let mut transformer = Transformer::new(table.transform.clone());
        let database = self.access.client.database(&table.id.schema);
        // The first documents give the columns their order.
        for command in [ends(1), ends(-1), random] {
            let mut bytes = 0;
            let mut batches = Batches::open(&database, command, self.access.criteria.clone(), None);
            while bytes < SAMPLE_BYTES
                && let Some(mut batch) = batches.next().await?
            {
                bytes += batch.bytes();
                while let Some(document) = batch.document() {
                    let document = transformer.document(document?).map_err(columns::malformed)?;
                    sample.add(document).map_err(columns::malformed)?;
                }
            }
        }
        Ok(sample)
    }

    fn scope(&self) -> Scope {
        Scope::new(self.database.clone(), self.comment(), &self.config.tables)
    }

    fn watched(&self) -> String {
        self.database
            .as_ref()
            .map_or("all databases".to_owned(), |name| format!("the database {name}"))
    }

    /// The time of the server's last operation.
    async fn operation_time(&self) -> Result<ClusterTime> {
        let reply = self.admin("cannot ask for the server's time", doc! {"ping": 1}).await?;
        let time = reply.get_timestamp("operationTime").map_err(|_| standalone())?;
        Ok(ClusterTime(u64::from(time.time) << 32 | u64::from(time.increment)))
    }

    /// Opens a change stream, to see whether the server would.
    async fn try_stream(&self, from: &ResumePoint) -> Result<()> {
        // Whatever comes next will do.
        let mut command = self.scope().of_everything().command(from, Bodies::Left);
        command.insert("cursor", doc! {"batchSize": 1});
        command.insert("comment", "tributary looks whether it may");
        let name = self.database.as_deref().unwrap_or("admin");
        let database = self.access.client.database(name);
        let mut batches = Batches::open(&database, command, self.access.criteria.clone(), None);
        batches.next().await.map(drop)
    }

    fn check_server(&self) -> Vec<Finding> {
        let server = &self.server;
        let (version, address) = (&server.version, &self.address);
        if (server.number.0, server.number.1) < VERSION_LEAST {
            return vec![Finding::bad(
                format!("{address} runs MongoDB {version}, older than 6.0"),
                "upgrade the server to MongoDB 6.0 or newer",
            )];
        }
        let tls = if server.encrypted { "with TLS" } else { "without TLS" };
        let mut findings = vec![Finding::ok(format!(
            "{address} runs MongoDB {version}, connected {tls}"
        ))];
        findings.push(match (&server.set_name, server.sharded) {
            (Some(name), _) => Finding::ok(format!("it is of the replica set {name}")),
            (None, true) => Finding::ok(
                "it is the router of a sharded cluster; a key must be in one shard only, and writes at rest for longer \
                 than 10 s are told late unless periodicNoopIntervalSecs is lower",
            ),
            (None, false) => Finding::from_error(&standalone()),
        });
        findings
    }

    /// Whether a change stream of ours is read, which the server lists to its
    /// own user. Spec: MongoDB manual, "$currentOp".
    async fn is_read(&self) -> Result<bool> {
        let comment = self.comment();
        let command = doc! {
            "aggregate": 1,
            "pipeline": [
                {"$currentOp": {"idleCursors": true, "allUsers": false}},
                {"$match": {"$or": [
                    {"cursor.originatingCommand.comment": &comment},
                    {"command.comment": &comment, "command.aggregate": {"$exists": true}},
                ]}},
                {"$project": {"type": 1, "lastAccessDate": "$cursor.lastAccessDate", "now": "$$NOW"}},
            ],
            "cursor": {},
        };
        let admin = self.access.client.database("admin");
        let listed = match cursor::all(&admin, command, self.access.criteria.clone()).await {
            Ok((listed, _)) => listed,
            // Commits are fenced without it.
            Err(error) if error.class() != Class::Transient => return Ok(false),
            Err(error) => return Err(error),
        };
        Ok(listed.iter().any(|entry| {
            let idle = entry.get_str("type").is_ok_and(|kind| kind == "idleCursor");
            let dates = entry
                .get_datetime("now")
                .ok()
                .zip(entry.get_datetime("lastAccessDate").ok());
            let since = dates.map(|(now, last)| now.timestamp_millis() - last.timestamp_millis());
            !idle || since.is_some_and(|ms| ms < IN_USE.as_millis() as i64)
        }))
    }

    /// How far back the oplog goes.
    async fn check_oplog(&self) -> Finding {
        let local = self.access.client.database("local");
        let ends = async |order: i32| -> Result<Option<u32>> {
            let command = doc! {
                "find": "oplog.rs", "sort": {"$natural": order}, "limit": 1, "projection": {"ts": 1}, "singleBatch": true,
            };
            let (found, _) = cursor::all(&local, command, None).await?;
            Ok(found
                .first()
                .and_then(|entry| Some(entry.get_timestamp("ts").ok()?.time)))
        };
        let window = match (ends(1).await, ends(-1).await) {
            (Ok(Some(first)), Ok(Some(last))) => u64::from(last.saturating_sub(first)),
            _ if self.server.sharded => {
                return Finding::ok("how far the shards' oplogs go back can't be seen through a router");
            }
            _ => {
                return Finding::ok(
                    "how far the oplog goes back can't be seen; to see it, give the user the role clusterMonitor \
                     and read on local",
                );
            }
        };
        let hours = window / 3600;
        Finding::ok(match hours {
            0..OPLOG_HOURS_LEAST => format!(
                "the oplog goes back {} only: after a longer absence collections need new snapshots; better: \
                 db.adminCommand({{replSetResizeOplog: 1, minRetentionHours: {OPLOG_HOURS_LEAST}}})",
                if hours == 0 {
                    format!("{window} s")
                } else {
                    format!("{hours} h")
                }
            ),
            _ => format!("the oplog goes back {hours} h"),
        })
    }

    async fn check_rights(&self) -> Result<Finding> {
        let now = self.access.point(self.operation_time().await?);
        match self.try_stream(&now).await {
            Ok(()) => Ok(Finding::ok(format!("changes of {} can be watched", self.watched()))),
            Err(error) if error.class() == Class::Transient => Err(error),
            Err(error) => Ok(Finding::bad(
                format!("changes of {} can't be watched: {error}", self.watched()),
                match &self.database {
                    Some(name) => format!("db.grantRolesToUser(\"…\", [{{role: \"read\", db: \"{name}\"}}])"),
                    None => "db.grantRolesToUser(\"…\", [{role: \"readAnyDatabase\", db: \"admin\"}]), or name one \
                             database in source.url"
                        .to_owned(),
                },
            )),
        }
    }

    async fn check_source(&mut self, discovery: &Discovery<SourceTable>) -> Result<Vec<Finding>> {
        let mut findings = self.check_server();
        if findings.iter().any(|finding| !finding.ok) {
            return Ok(findings);
        }
        findings.push(self.check_oplog().await);
        findings.push(self.check_rights().await?);
        if self.in_use().await? {
            findings.push(Finding::bad(
                format!("another process streams as {:?}", self.config.slot),
                "stop the other sidecar, or set source.slot to a name of its own",
            ));
        }
        if self.access.set.is_empty() {
            findings.push(Finding::ok(
                "which replica set this is can't be seen, so one that takes its place is known by its collections \
                 alone; to see it, give the user the role clusterMonitor",
            ));
        }
        findings.extend(self.check_tables(discovery).await?);
        Ok(findings)
    }

    async fn check_tables(&self, discovery: &Discovery<SourceTable>) -> Result<Vec<Finding>> {
        let mut findings: Vec<Finding> = discovery
            .refused
            .iter()
            .map(|r| Finding::bad(format!("collection {} {}", r.table, r.reason), r.hint.clone()))
            .collect();
        let mut readable = 0;
        for table in &discovery.tables {
            let database = self.access.client.database(&table.id.schema);
            let find = doc! {"find": &table.id.name, "limit": 1, "projection": {"_id": 1}, "singleBatch": true};
            match cursor::all(&database, find, self.access.criteria.clone()).await {
                Ok(_) => readable += 1,
                Err(error) if error.class() == Class::Transient => return Err(error),
                Err(error) => findings.push(Finding::bad(
                    format!("collection {} can't be read: {error}", table.id),
                    format!(
                        "db.grantRolesToUser(\"…\", [{{role: \"read\", db: \"{}\"}}]); or exclude it in source.tables",
                        table.id.schema
                    ),
                )),
            }
        }
        if readable > 0 {
            findings.push(Finding::ok(format!("{readable} collections can be replicated")));
        } else if findings.is_empty() {
            findings.push(Finding::bad(
                "no collection of the server is selected by source.tables, or this user may see none",
                "check that the patterns match database.collection, as in \"shop.*\"",
            ));
        }
        Ok(findings)
    }
}

fn standalone() -> Error {
    Error::operator("the server is not of a replica set, and only those have change streams")
        .with_hint("start mongod with --replSet rs0 and run rs.initiate() once: a set of one member will do")
}

/// A collection of a reply to `listCollections`.
fn collection(database: &str, entry: &Document) -> Option<Collection> {
    let (info, options) = (entry.get_document("info").ok(), entry.get_document("options").ok());
    let uuid = info.and_then(|info| info.get("uuid"));
    let uuid = match uuid {
        Some(Bson::Binary(binary)) => binary.bytes.as_slice().try_into().ok(),
        _ => None,
    };
    Some(Collection {
        id: TableId::new(database, entry.get_str("name").ok()?),
        uuid,
        kind: entry.get_str("type").unwrap_or("collection").to_owned(),
        capped: options.is_some_and(|options| options.get_bool("capped").unwrap_or(false)),
        images: options
            .and_then(|options| options.get_document("changeStreamPreAndPostImages").ok())
            .is_some_and(|images| images.get_bool("enabled").unwrap_or(false)),
    })
}

impl Source for MongoDb {
    type Table = SourceTable;
    type Stream = Stream;
    type Tables = TableSource;

    const KEEPS_POSITION: bool = false;
    const KNOWS_COLUMNS: bool = false;

    async fn connect(config: &Config) -> Result<Self> {
        let (settings, key) = (config.clone(), config.transform.key.as_ref());
        let config = &config.source;
        let mut options = ClientOptions::parse(config.url.expose())
            .await
            .map_err(|e| failure("cannot connect to source.url", e))?;
        if let Some(credential) = options.credential.as_mut().filter(|user| user.username.is_some())
            && credential.password.is_none()
        {
            credential.password = config.password.as_ref().map(|password| password.expose().to_owned());
        }
        let user = options
            .credential
            .as_ref()
            .and_then(|credential| credential.username.clone());
        let cannot = &match user {
            Some(user) => format!("cannot connect to source.url as {user}"),
            None => "cannot connect to source.url".to_owned(),
        };
        options
            .app_name
            .get_or_insert_with(|| format!("tributary {}", config.slot));
        options.server_selection_timeout.get_or_insert(SELECTION_TIMEOUT);
        let address = options.hosts.first().map(ToString::to_string).unwrap_or_default();
        let (database, criteria) = (options.default_database.clone(), options.selection_criteria.clone());
        let encrypted = matches!(options.tls, Some(mongodb::options::Tls::Enabled(_)));
        let client = Client::with_options(options).map_err(|e| failure(cannot, e))?;
        let admin = client.database("admin");
        let hello = cursor::command(&admin, cannot, doc! {"hello": 1}).await?;
        let info = cursor::command(&admin, cannot, doc! {"buildInfo": 1}).await?;
        let parts = info.get_array("versionArray").map(Vec::as_slice).unwrap_or_default();
        let part = |place: usize| parts.get(place).and_then(Bson::as_i32).unwrap_or(0);
        let server = Server {
            version: info.get_str("version").unwrap_or("?").to_owned(),
            number: (part(0), part(1), part(2)),
            set_name: hello.get_str("setName").ok().map(str::to_owned),
            sharded: hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid"),
            encrypted,
        };
        let set = set_id(&client, server.sharded).await;
        Ok(Self {
            access: Access {
                client,
                criteria,
                set,
                told: Told::default(),
            },
            config: config.clone(),
            settings,
            key: key.map(|key| Arc::new(HashKey::new(key.expose()))),
            address,
            // What holds users is not what is watched.
            database: database.filter(|name| !OWN_DATABASES.contains(&name.as_str())),
            server,
            mixed: MixedKeys::default(),
            sizes: HashMap::new(),
        })
    }

    fn address(&self) -> String {
        self.address.clone()
    }

    /// The servers are not part of the name: another one may take over.
    async fn identify(&mut self) -> Result<Identity> {
        Ok(Identity {
            pipeline: format!("mongodb:{}", self.config.slot),
            timeline: 0,
            server: None,
        })
    }

    async fn log_end(&mut self) -> Result<Position> {
        let time = self.operation_time().await?;
        Ok(Position::Resume(Arc::new(self.access.point(time))))
    }

    /// The oplog is not counted in bytes.
    async fn log_bytes(&mut self, from: &Position, to: &Position) -> Result<Option<u64>> {
        Ok(from.bytes_until(to))
    }

    fn select(&mut self, patterns: Vec<String>) {
        self.config.tables = patterns;
    }

    async fn discover(&mut self) -> Result<Discovery<SourceTable>> {
        let mut discovery = Discovery::default();
        for database in self.databases().await? {
            let found = self.collections(&database, None).await?;
            self.sort(found, &mut discovery).await?;
        }
        discovery.tables.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(discovery)
    }

    async fn look(&mut self, id: &TableId, _: u32) -> Result<Look<SourceTable>> {
        let mut found = Discovery::default();
        let listed = self.collections(&id.schema, Some(&id.name)).await?;
        self.sort(listed, &mut found).await?;
        if let Some(table) = found.tables.into_iter().next() {
            return Ok(Look::Table(Box::new(table), Some(String::new())));
        }
        Ok(found.refused.into_iter().next().map_or(Look::Gone, Look::Refused))
    }

    async fn begin(&mut self, table: SourceTable) -> Result<Option<(SourceTable, Position)>> {
        let time = match self.access.newest(&table, None).await {
            Err(error) if is_gone(&error) => return Ok(None),
            time => time?,
        };
        self.access.told.note(time);
        let now = match self.look(&table.id, table.relation).await? {
            Look::Table(now, _) => now,
            _ => return Ok(None),
        };
        let sample = self.sample(&now).await?;
        let table = now.inferred(self.config.schema, &sample)?;
        Ok(Some((table, Position::Resume(Arc::new(self.access.point(time))))))
    }

    fn as_recorded(&self, table: &SourceTable, shape: &Shape) -> Result<Option<SourceTable>> {
        table.as_recorded(shape)
    }

    fn numbered(&self, table: &SourceTable, shape: &Shape) -> Result<SourceTable> {
        Ok(table.as_recorded(shape)?.unwrap_or_else(|| table.clone()))
    }

    async fn judge(&mut self, stream: &Stream, table: usize) -> Result<Judgement<SourceTable>> {
        use crate::source::ChangeStream;
        Ok(match (stream.table(table), stream.described(table)) {
            (Some(before), Some(What::Fields(new))) => Judgement::Columns(Verdict::Evolve(before.with_fields(new)?)),
            (Some(_), Some(What::Gone(reason))) => Judgement::Gone(reason.clone()),
            _ => Judgement::Nothing,
        })
    }

    fn reason_to_copy(&self, table: &SourceTable, shape: &Shape) -> Option<String> {
        self.rules(&table.id)
            .reason_to_copy_documents(shape.origin.form.as_ref())
    }

    async fn check(&mut self, discovery: &Discovery<SourceTable>) -> Result<Vec<Finding>> {
        let mut findings = self.check_source(discovery).await?;
        let transformed = discovery.tables.iter().filter_map(|table| {
            let fields = table.transform.as_ref()?.form().fields.as_ref()?;
            Some(Finding::ok(format!("table {}: {}", table.id, fields.summary())))
        });
        findings.extend(transformed);
        findings.extend(self.unmatched(discovery));
        Ok(findings)
    }

    /// What matches nothing keeps nothing from going on: a collection may be yet to come.
    async fn require(&mut self, discovery: &Discovery<SourceTable>) -> Result<()> {
        let findings = self.check_source(discovery).await?;
        if let Some(finding) = findings.into_iter().find(|finding| !finding.ok) {
            return Err(finding.into_error());
        }
        for Finding { what, hint, .. } in self.unmatched(discovery) {
            tracing::warn!(hint, "{what}");
        }
        Ok(())
    }

    async fn in_use(&mut self) -> Result<bool> {
        // One that has just ended may still be listed for a moment.
        let first = self.is_read().await?;
        if first {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Ok(first && self.is_read().await?)
    }

    async fn slot_at(&mut self, confirmed: &Position) -> Result<Option<Slot>> {
        Ok(Some(Slot {
            confirmed: confirmed.clone(),
            active: self.in_use().await?,
            retained_bytes: 0,
            lost: None,
        }))
    }

    async fn foreign(&mut self, watermarks: &[Position], _: u32, _: Option<&str>) -> Result<Vec<Option<String>>> {
        let own = &self.access.set;
        let other = |watermark: &Position| {
            let set = watermark
                .resume_point()
                .map(|point| point.set.as_str())
                .unwrap_or_default();
            let differs = !set.is_empty() && !own.is_empty() && set != own;
            differs.then(|| format!("the lake has changes of the replica set {set}, and this is {own}"))
        };
        Ok(watermarks.iter().map(other).collect())
    }

    async fn lost(&mut self, confirmed: &Position) -> Result<Option<String>> {
        let Some(point) = confirmed.resume_point() else {
            return Err(Error::bug("expected a place in a change stream, found another"));
        };
        if let Some(foreign) = self
            .foreign(std::slice::from_ref(confirmed), 0, None)
            .await?
            .pop()
            .flatten()
        {
            return Ok(Some(foreign));
        }
        let now = self.operation_time().await?;
        // A router may not have heard of it yet.
        if now < point.through() && !self.server.sharded {
            return Ok(Some(format!(
                "the server is at {now}, before {}, which the lake has: it is another server, or was restored from a backup",
                point.time
            )));
        }
        let lost = [code::CHANGE_STREAM_FATAL, code::CHANGE_STREAM_HISTORY_LOST].map(|code| code.to_string());
        match self.try_stream(point).await {
            Ok(()) => Ok(None),
            Err(error) if error.code().is_some_and(|code| lost.iter().any(|own| own == code)) => Ok(Some(format!(
                "the oplog does not go back to {} any more, or is that of another server: {error}",
                point.time
            ))),
            // The findings say what is not allowed.
            Err(error) if error.class() == Class::NeedsOperator => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn create_slot(&mut self) -> Result<Position> {
        self.log_end().await
    }

    async fn stream(&self, from: &Position) -> Result<Stream> {
        let Some(point) = from.resume_point() else {
            return Err(Error::bug("expected a place in a change stream, found another"));
        };
        let start = Start {
            access: self.access.clone(),
            scope: self.scope(),
            sharded: self.server.sharded,
            evolve: self.config.schema == Documents::Evolve,
        };
        Ok(Stream::start(start, point))
    }

    fn table_source(&self, table: Arc<SourceTable>, throttle: Arc<Throttle>) -> TableSource {
        TableSource {
            access: self.access.clone(),
            table,
            throttle,
            points: Arc::new(Mutex::new(None)),
        }
    }
}

/// What names a replica set or a cluster whatever its members; empty if we may
/// not know.
async fn set_id(client: &Client, sharded: bool) -> String {
    let what = "cannot see which replica set it is";
    let id = if sharded {
        let find = doc! {"find": "version", "limit": 1, "singleBatch": true};
        let found = cursor::all(&client.database("config"), find, None).await;
        found
            .ok()
            .and_then(|(found, _)| found.first()?.get_object_id("clusterId").ok())
    } else {
        let reply = cursor::command(&client.database("admin"), what, doc! {"replSetGetConfig": 1}).await;
        let settings = reply.ok().and_then(|reply| {
            let config = reply.get_document("config").ok()?;
            config.get_document("settings").ok().cloned()
        });
        settings.and_then(|settings| settings.get_object_id("replicaSetId").ok())
    };
    id.map(|id| id.to_hex()).unwrap_or_default()
}

/// Connects for one table: to read chunks, and to read rows by key.
#[derive(Clone)]
pub struct TableSource {
    access: Access,
    table: Arc<SourceTable>,
    throttle: Arc<Throttle>,
    /// Kept between point reads.
    points: Arc<Mutex<Option<Reader>>>,
}

impl crate::source::TableSource for TableSource {
    type Table = SourceTable;
    type Reader = Reader;

    async fn reader(&self) -> Result<Reader> {
        Ok(self.connect(self.throttle.clone()))
    }

    fn table(&self) -> &Arc<SourceTable> {
        &self.table
    }

    fn throttle(&self) -> &Throttle {
        &self.throttle
    }

    fn blocks_for(_: &Part, bytes: u64, _: u64) -> u64 {
        blocks_for(bytes)
    }

    fn is_gone(error: &Error) -> bool {
        is_gone(error)
    }
}

impl TableSource {
    fn connect(&self, throttle: Arc<Throttle>) -> Reader {
        Reader::new(self.access.clone(), self.table.clone(), throttle)
    }

    async fn read_points(&self, keys: RecordBatch) -> Result<PointRead> {
        let mut slot = self.points.lock().await;
        // Not throttled: the stream waits for these.
        let mut reader = slot.take().unwrap_or_else(|| self.connect(Arc::default()));
        let read = reader
            .read_keys(&keys)
            .await
            .map_err(<Self as crate::source::TableSource>::of_read)?;
        *slot = Some(reader);
        Ok(read)
    }
}

impl PointReader for TableSource {
    fn read<'a>(&'a self, keys: RecordBatch) -> Pin<Box<dyn Future<Output = Result<PointRead>> + Send + 'a>> {
        Box::pin(self.read_points(keys))
    }
}
