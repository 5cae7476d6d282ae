//! The change stream: events in, changes of each table gathered in Arrow
//! builders, positions out.
//!
//! An event is a transaction of its own, but those of one multi-document
//! transaction, which share their cluster time, are one. No event ends such a
//! transaction: one of another time does, or a batch that says how far the
//! server has read. Spec: MongoDB manual, "Change Events", "Change Streams".

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arrow::array::RecordBatch;
use bson::{Bson, Document, doc};
use mongodb::Database;
use mongodb::options::SelectionCriteria;

use super::cursor::{self, Batch, Batches, code, timestamp, token, token_text};
use super::delta::{Description, Updates};
use super::raw::{self, Malformed, Value, tag};
use super::rows::Rows;
use super::snapshot::{Access, Told};
use super::table::SourceTable;
use super::transform::Transformer;
use crate::batch::{ChangeBatch, CommitPoint, Commits, Op, Patches, TxId};
use crate::error::{Error, Result};
use crate::position::{ClusterTime, Position, ResumePoint};
use crate::schema::{MongoKind as Kind, TableId};
use crate::source::{ChangeStream, SourceEvent, SourceTable as _};

/// How long the server waits for events before it says that there are none.
const TAIL: Duration = Duration::from_millis(200);

/// What a change stream is opened with.
#[derive(Clone, Default)]
pub struct Scope {
    /// The database that is watched; none is all of them.
    pub database: Option<String>,
    /// What the server's list of operations calls us.
    pub comment: String,
    wanted: Wanted,
}

/// What of the events the server is to send; the rest is passed over here.
#[derive(Clone, Default)]
struct Wanted {
    all: bool,
    databases: BTreeSet<String>,
    /// By database.
    collections: BTreeMap<String, BTreeSet<String>>,
}

/// Whether events come with what changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bodies {
    Sent,
    /// An event was too large to be sent: only which documents changed.
    Left,
}

impl Scope {
    pub fn new(database: Option<String>, comment: String, patterns: &[String]) -> Self {
        let mut wanted = Wanted {
            all: patterns.iter().all(|pattern| pattern.starts_with('!')),
            ..Wanted::default()
        };
        for pattern in patterns.iter().filter(|pattern| !pattern.starts_with('!')) {
            match pattern.split_once('.') {
                // A star takes dots, too.
                Some((database, _)) if database.contains(['*', '?']) => wanted.all = true,
                Some((database, "*")) => drop(wanted.databases.insert(database.to_owned())),
                // The server is slow with expressions: what they select is
                // named once it is followed.
                Some((_, collection)) if collection.contains(['*', '?']) => {}
                Some((database, collection)) => wanted.add(database, collection),
                None => wanted.all = true,
            }
        }
        Self {
            database,
            comment,
            wanted,
        }
    }

    /// The same for whatever comes.
    pub fn of_everything(self) -> Self {
        let wanted = Wanted {
            all: true,
            ..Wanted::default()
        };
        Self { wanted, ..self }
    }

    /// Opens the stream after a place.
    pub fn command(&self, from: &ResumePoint, bodies: Bodies) -> Document {
        let mut stage = doc! {"showExpandedEvents": true};
        if self.database.is_none() {
            stage.insert("allChangesForCluster", true);
        }
        match from.token.as_str() {
            "" => stage.insert("startAtOperationTime", timestamp(from.time)),
            text => stage.insert("startAfter", token(text)),
        };
        let mut pipeline = vec![doc! {"$changeStream": stage}];
        pipeline.extend(self.wanted.filter(from).map(|filter| doc! {"$match": filter}));
        if bodies == Bodies::Left {
            pipeline.push(doc! {"$project": {"fullDocument": 0, "updateDescription": 0}});
        }
        doc! {"aggregate": 1, "pipeline": pipeline, "cursor": {}, "comment": &self.comment}
    }
}

impl Wanted {
    fn add(&mut self, database: &str, collection: &str) {
        let collections = self.collections.entry(database.to_owned()).or_default();
        collections.insert(collection.to_owned());
    }

    fn has(&self, table: &TableId) -> bool {
        let collections = self.collections.get(&table.schema);
        self.all
            || self.databases.contains(&table.schema)
            || collections.is_some_and(|collections| collections.contains(&table.name))
    }

    fn filter(&self, from: &ResumePoint) -> Option<Document> {
        if self.all {
            return None;
        }
        let mut wanted = Vec::new();
        // As whole namespaces, which servers compare fastest.
        let collections = self.collections.iter();
        let names =
            collections.flat_map(|(database, names)| names.iter().map(move |name| doc! {"db": database, "coll": name}));
        let names: Vec<Bson> = names.map(Bson::Document).collect();
        // Events of a namespace, and those that make one.
        for place in ["ns", "to"] {
            wanted.extend(match names.as_slice() {
                [] => None,
                [one] => Some(doc! {place: one}),
                all => Some(doc! {place: {"$in": all}}),
            });
            let whole = self.databases.iter();
            wanted.extend(whole.map(|database| doc! {format!("{place}.db"): database}));
        }
        wanted.push(doc! {"operationType": {"$in": ["invalidate", "dropDatabase"]}});
        // The server goes on only from an event that it would send.
        wanted.push(doc! {"clusterTime": timestamp(from.time)});
        Some(doc! {"$or": wanted})
    }
}

/// What the stream is started with.
pub struct Start {
    pub access: Access,
    pub scope: Scope,
    /// Whether the server is a router of a sharded cluster.
    pub sharded: bool,
    /// Whether new fields get columns.
    pub evolve: bool,
}

pub struct Stream {
    database: Database,
    criteria: Option<SelectionCriteria>,
    scope: Scope,
    /// Opened once it is known what is followed.
    batches: Option<Batches>,
    batch: Option<Batch>,
    /// The cursor's number and namespace.
    cursor: (i64, String),
    bodies: Bodies,
    /// The cursor does not send what is wanted, or has ended with what it
    /// watched: what the next one is to send.
    reopen: Option<Bodies>,
    log: Log,
}

impl Stream {
    pub fn start(start: Start, from: &ResumePoint) -> Self {
        let Start { access, scope, .. } = &start;
        let database = access.client.database(scope.database.as_deref().unwrap_or("admin"));
        let (criteria, scope) = (access.criteria.clone(), scope.clone());
        access.told.note(from.through());
        Self {
            database,
            criteria,
            scope,
            batches: None,
            batch: None,
            cursor: (0, String::new()),
            bodies: Bodies::Sent,
            reopen: Some(Bodies::Sent),
            log: Log {
                set: start.access.set,
                told: start.access.told,
                sharded: start.sharded,
                evolve: start.evolve,
                tables: Vec::new(),
                routes: HashMap::new(),
                last_route: None,
                point: from.clone(),
                transaction: None,
                described: None,
                described_at: None,
                invalidated: false,
                steps: VecDeque::new(),
                open_bytes: 0,
                position: OnceLock::new(),
            },
        }
    }

    /// What the stream told last of a table.
    pub fn described(&self, table: usize) -> Option<&What> {
        let described = self.log.described.as_ref().filter(|(number, _)| *number == table);
        described.map(|(_, what)| what)
    }

    /// Safe to cancel.
    async fn next_batch(&mut self) -> Result<Option<Batch>> {
        if let Some(bodies) = self.reopen {
            let command = self.scope.command(self.log.last(), bodies);
            let batches = Batches::open(&self.database, command, self.criteria.clone(), Some(TAIL));
            self.batches = Some(batches);
            (self.reopen, self.bodies) = (None, bodies);
        }
        match &mut self.batches {
            Some(batches) => batches.next().await,
            None => Ok(None),
        }
    }
}

/// Whether the server can't send an event as it is.
fn is_too_large(error: &Error) -> bool {
    error.code() == Some(&code::OBJECT_TOO_LARGE.to_string())
}

impl ChangeStream for Stream {
    type Table = SourceTable;

    fn add(&mut self, table: Arc<SourceTable>, watermark: Position) -> usize {
        if let Some(point) = watermark.resume_point() {
            self.log.told.note(point.through());
        }
        // What is on its way already may lack events of it.
        if !self.scope.wanted.has(&table.id) {
            self.scope.wanted.add(&table.id.schema, &table.id.name);
            self.reopen.get_or_insert(self.bodies);
        }
        let log = &mut self.log;
        let number = log.tables.len();
        log.routes.insert(table.id.clone(), number);
        log.last_route = None;
        log.tables.push(TableBuffer::new(table, watermark));
        number
    }

    fn close(&mut self, table: usize) {
        self.log.routes.retain(|_, number| *number != table);
        self.log.last_route = None;
        self.stall(table);
    }

    fn stall(&mut self, table: usize) {
        self.log.stall(table);
    }

    fn refresh(&mut self, table: usize, source: Arc<SourceTable>) -> Result<()> {
        let buffer = self.log.tables.get_mut(table);
        buffer.ok_or_else(|| Error::bug("a table that isn't streamed"))?.source = source;
        Ok(())
    }

    fn table(&self, table: usize) -> Option<&Arc<SourceTable>> {
        self.log.tables.get(table).map(|buffer| &buffer.source)
    }

    fn alter(&mut self, table: usize, source: Arc<SourceTable>) -> Result<()> {
        match self.log.tables.get_mut(table) {
            Some(buffer) if buffer.ops.is_empty() => {
                *buffer = TableBuffer::new(source, buffer.watermark.clone());
                Ok(())
            }
            _ => Err(Error::bug("a table was altered with changes in hand")),
        }
    }

    fn position(&self) -> Position {
        let position = self
            .log
            .position
            .get_or_init(|| Position::Resume(Arc::new(self.log.point.clone())));
        position.clone()
    }

    fn commit_position(&self) -> Position {
        match &self.log.transaction {
            Some(last) => Position::Resume(Arc::new(last.clone())),
            None => self.position(),
        }
    }

    /// The cluster time that the stream has come to, with or without changes.
    fn committed_at(&self) -> Option<i64> {
        let seconds = self.log.point.time.0 >> 32;
        (seconds > 0).then_some(seconds as i64 * 1_000_000)
    }

    fn in_transaction(&self) -> bool {
        self.log.transaction.is_some()
    }

    fn open_bytes(&self) -> usize {
        self.log.open_bytes
    }

    fn bytes(&self, table: usize) -> usize {
        self.log.tables.get(table).map_or(0, TableBuffer::bytes)
    }

    async fn fill(&mut self) -> Result<()> {
        if self.batch.is_some() {
            return Ok(());
        }
        let batch = match self.next_batch().await {
            Err(error) if is_too_large(&error) && self.bodies == Bodies::Sent => {
                tracing::warn!(%error, "an event is too large for the server to send: documents are read at the source");
                // Until the event is past.
                self.reopen = Some(Bodies::Left);
                return Ok(());
            }
            batch => batch?,
        };
        match batch {
            Some(batch) => {
                if self.bodies == Bodies::Left && !batch.was_empty() {
                    self.reopen = Some(Bodies::Sent);
                }
                self.log.described_at = None;
                if let Some(time) = batch.token.as_deref().and_then(token_time) {
                    self.log.told.note(time);
                }
                self.cursor.clone_from(&batch.cursor);
                self.batch = Some(batch);
            }
            // What was watched is gone, and may come again.
            None if std::mem::take(&mut self.log.invalidated) => self.reopen = Some(self.bodies),
            None => return Err(Error::transient("the server ended the change stream")),
        }
        Ok(())
    }

    fn next_event(&mut self) -> Result<Option<SourceEvent>> {
        loop {
            if let Some(step) = self.log.steps.pop_front() {
                if let Some(event) = self.log.take(step) {
                    return Ok(Some(event));
                }
                continue;
            }
            let Some(batch) = &mut self.batch else {
                return Ok(None);
            };
            let Some(next) = batch.peek() else {
                let done = self.batch.take();
                if let Some(batch) = done {
                    self.log.end_batch(&batch);
                }
                continue;
            };
            let (event, after) = next.map_err(undecodable)?;
            let at = batch.at();
            if self.log.apply(event, at)? {
                batch.go_to(after);
            }
        }
    }

    fn take_batch(&mut self, table: usize) -> Result<ChangeBatch> {
        let buffer = self.log.tables.get_mut(table);
        let buffer = buffer.ok_or_else(|| Error::bug("a batch of a table that isn't streamed"))?;
        self.log.open_bytes -= buffer.bytes();
        buffer.take_batch()
    }

    /// The server keeps no position for us.
    async fn confirm(&mut self, _: &Position, _: bool) -> Result<()> {
        Ok(())
    }

    /// What waits for the server's word, the server ends with its cursor.
    async fn end(&mut self) {
        self.batches = None;
        let (number, name) = std::mem::take(&mut self.cursor);
        if number == 0 {
            return;
        }
        let command = doc! {"killCursors": name, "cursors": [number]};
        // One that is gone is as good.
        let _ = cursor::command(&self.database, "cannot end a cursor", command).await;
    }
}

fn undecodable(error: Malformed) -> Error {
    Error::operator("cannot decode an event of the change stream")
        .with_hint("if the server is one that README lists, please report it")
        .with_source(error)
}

/// What the stream told of a table.
#[derive(Debug)]
pub enum What {
    /// It has fields that it had not.
    Fields(Vec<(String, Kind)>),
    Gone(String),
}

enum Step {
    Event(SourceEvent),
    Described(usize, What),
    /// The transaction ends, at its own place.
    Commit {
        whole: bool,
    },
}

/// An event by its parts.
#[derive(Default)]
pub(super) struct Event<'a> {
    token: Option<Value<'a>>,
    operation: &'a str,
    time: ClusterTime,
    pub(super) namespace: Option<Value<'a>>,
    pub(super) key: Option<Value<'a>>,
    pub(super) document: Option<Value<'a>>,
    pub(super) update: Option<Value<'a>>,
    to: Option<Value<'a>>,
    uuid: Option<Value<'a>>,
    /// Whether it is one of a multi-document transaction.
    in_transaction: bool,
}

impl<'a> Event<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> raw::Result<Self> {
        let mut event = Self::default();
        for element in raw::document(bytes)? {
            let (name, value) = element?;
            match name {
                b"_id" => event.token = Some(value),
                b"operationType" => event.operation = value.string().ok_or(Malformed("an operation's name"))?,
                b"clusterTime" => {
                    event.time = ClusterTime(value.timestamp().ok_or(Malformed("a cluster time"))?);
                }
                b"ns" => event.namespace = Some(value),
                b"documentKey" => event.key = Some(value),
                b"fullDocument" if value.tag == tag::DOCUMENT => event.document = Some(value),
                b"updateDescription" => event.update = Some(value),
                b"to" => event.to = Some(value),
                b"collectionUUID" => event.uuid = Some(value),
                b"txnNumber" => event.in_transaction = true,
                _ => {}
            }
        }
        Ok(event)
    }

    pub(super) fn token(&self) -> raw::Result<String> {
        let token = self.token.map(token_text).transpose()?.flatten();
        token.ok_or(Malformed("a resume token"))
    }
}

/// A collection's name in an event.
pub(super) fn table_id(namespace: Value<'_>) -> raw::Result<Option<TableId>> {
    let database = raw::field(namespace.bytes, "db")?.and_then(Value::string);
    let collection = raw::field(namespace.bytes, "coll")?.and_then(Value::string);
    Ok(database
        .zip(collection)
        .map(|(database, collection)| TableId::new(database, collection)))
}

/// Where the stream is, and what it changes: all but the connection.
struct Log {
    set: String,
    told: Told,
    sharded: bool,
    /// Whether new fields get columns.
    evolve: bool,
    tables: Vec<TableBuffer>,
    routes: HashMap<TableId, usize>,
    /// The bytes of the last namespace, and where its changes go.
    last_route: Option<(Vec<u8>, Option<usize>)>,
    /// Everything before has been told.
    point: ResumePoint,
    /// The last event of the open transaction.
    transaction: Option<ResumePoint>,
    described: Option<(usize, What)>,
    /// The event whose new fields were told already, by its place in the batch.
    described_at: Option<usize>,
    /// The cursor ends with what it watched.
    invalidated: bool,
    steps: VecDeque<Step>,
    /// The sum over all tables.
    open_bytes: usize,
    position: OnceLock<Position>,
}

impl Log {
    fn take(&mut self, step: Step) -> Option<SourceEvent> {
        match step {
            Step::Event(SourceEvent::Unfit { table, reason }) => {
                let followed = self.tables.get(table).is_some_and(|buffer| !buffer.stalled);
                followed.then_some(SourceEvent::Unfit { table, reason })
            }
            Step::Event(event) => Some(event),
            Step::Described(table, what) => {
                if self.tables.get(table).is_none_or(|buffer| buffer.stalled) {
                    return None;
                }
                self.described = Some((table, what));
                Some(SourceEvent::Described { table })
            }
            Step::Commit { whole } => {
                let last = self.transaction.take()?;
                self.go_to(ResumePoint { whole, ..last });
                Some(SourceEvent::Commit)
            }
        }
    }

    /// Where the last event was.
    fn last(&self) -> &ResumePoint {
        self.transaction.as_ref().unwrap_or(&self.point)
    }

    fn go_to(&mut self, point: ResumePoint) {
        self.told.note(point.time);
        self.point = point;
        self.position = OnceLock::new();
    }

    /// Applies an event. False if it has to be looked at once more, after what
    /// it was found to need.
    fn apply(&mut self, bytes: &[u8], at: usize) -> Result<bool> {
        let event = Event::of(bytes).map_err(undecodable)?;
        if self.transaction.as_ref().is_some_and(|last| last.time != event.time) {
            self.steps.push_back(Step::Commit { whole: true });
            return Ok(false);
        }
        let token = event.token().map_err(undecodable)?;
        // What the stream tells again after it was opened anew.
        if self.transaction.is_none() && !self.point.token.is_empty() && self.point.has(event.time, &token) {
            return Ok(true);
        }
        let number = self.route(event.namespace).map_err(undecodable)?;
        let followed = number.filter(|number| {
            self.tables
                .get(*number)
                .is_some_and(|buffer| !buffer.stalled && !buffer.has(event.time, &token))
        });
        let mut steps: Vec<Step> = Vec::new();
        match event.operation {
            "insert" | "update" | "replace" | "delete" => {
                if let Some(number) = followed {
                    match self.change(number, &event, at) {
                        Applied::Changed => steps.push(Step::Event(SourceEvent::Changed { table: number })),
                        Applied::Idle => {}
                        Applied::Unfit(reason) => {
                            steps.push(Step::Event(SourceEvent::Unfit { table: number, reason }));
                        }
                        Applied::Described(what) => {
                            self.described_at = Some(at);
                            self.steps.push_back(Step::Described(number, what));
                            return Ok(false);
                        }
                        Applied::Stalled(error) => {
                            self.stall(number);
                            steps.push(Step::Event(SourceEvent::Stalled { table: number, error }));
                        }
                    }
                }
            }
            "drop" => {
                let gone = || What::Gone("it was dropped at the source".to_owned());
                steps.extend(followed.map(|number| Step::Described(number, gone())));
            }
            "rename" => {
                let to = event.to.map(table_id).transpose().map_err(undecodable)?.flatten();
                if let Some(to) = to {
                    let gone = What::Gone(format!("it was renamed to {to} at the source"));
                    steps.extend(followed.map(|number| Step::Described(number, gone)));
                    let over = self.routes.get(&to).copied();
                    let over = over.filter(|over| !self.tables[*over].has(event.time, &token));
                    let gone = What::Gone("another collection took its place at the source".to_owned());
                    steps.extend(over.map(|number| Step::Described(number, gone)));
                }
            }
            "dropDatabase" => {
                let database = event.namespace.map(|ns| raw::field(ns.bytes, "db"));
                let database = database
                    .transpose()
                    .map_err(undecodable)?
                    .flatten()
                    .and_then(Value::string);
                for (id, number) in &self.routes {
                    if Some(id.schema.as_str()) == database && !self.tables[*number].has(event.time, &token) {
                        let gone = What::Gone("its database was dropped at the source".to_owned());
                        steps.push(Step::Described(*number, gone));
                    }
                }
            }
            "invalidate" => self.invalidated = true,
            _ => {}
        }
        let point = ResumePoint {
            time: event.time,
            whole: false,
            token,
            set: self.set.clone(),
        };
        // Shards may have several transactions of one time.
        if event.in_transaction || self.transaction.is_some() {
            if self.transaction.is_none() {
                self.steps.push_back(Step::Event(SourceEvent::Begin));
            }
            self.transaction = Some(point);
            self.steps.extend(steps);
        } else if steps.is_empty() {
            // Nothing of it concerns us; where it was, does.
            self.go_to(point);
        } else {
            self.transaction = Some(point);
            self.steps.push_back(Step::Event(SourceEvent::Begin));
            self.steps.extend(steps);
            self.steps.push_back(Step::Commit { whole: false });
        }
        Ok(true)
    }

    /// Takes what a batch says of how far the server has read.
    fn end_batch(&mut self, batch: &Batch) {
        let Some(token) = &batch.token else { return };
        let Some(time) = token_time(token) else { return };
        let last = self.last().clone();
        let empty = batch.was_empty();
        if self.transaction.is_some() && time <= last.time && (self.sharded || !empty) {
            return;
        }
        let whole = !self.sharded && (empty || time > last.time);
        let further = time > last.time || (empty && time == last.time && *token >= last.token);
        let point = match further {
            true => ResumePoint {
                time,
                whole,
                token: token.clone(),
                set: last.set,
            },
            false => last,
        };
        match &mut self.transaction {
            Some(last) => {
                *last = point;
                self.steps.push_back(Step::Commit { whole });
            }
            None if further => self.go_to(point),
            None => {}
        }
        self.steps
            .push_back(Step::Event(SourceEvent::Heartbeat { reply_wanted: false }));
    }

    /// Where the changes of a namespace go.
    fn route(&mut self, namespace: Option<Value<'_>>) -> raw::Result<Option<usize>> {
        let Some(namespace) = namespace else { return Ok(None) };
        if let Some((bytes, number)) = &self.last_route
            && bytes == namespace.bytes
        {
            return Ok(*number);
        }
        let id = table_id(namespace)?;
        let number = id.and_then(|id| self.routes.get(&id).copied());
        self.last_route = Some((namespace.bytes.to_vec(), number));
        Ok(number)
    }

    /// Gives a table no more changes.
    fn stall(&mut self, number: usize) {
        if let Some(buffer) = self.tables.get_mut(number) {
            self.open_bytes -= buffer.bytes();
            buffer.stall();
        }
    }

    /// Applies an event to the table that is followed.
    fn change(&mut self, number: usize, event: &Event<'_>, at: usize) -> Applied {
        let evolve = self.evolve && self.described_at != Some(at);
        let buffer = &mut self.tables[number];
        let before = buffer.bytes();
        let applied = buffer.change(event, evolve).unwrap_or_else(Applied::Stalled);
        let after = buffer.bytes();
        self.open_bytes = self.open_bytes + after - before;
        applied
    }
}

enum Applied {
    Changed,
    /// Nothing that the lake has.
    Idle,
    /// The table has to learn of something first.
    Described(What),
    Unfit(String),
    Stalled(Error),
}

/// The cluster time in a resume token: a type byte of its key string, then the
/// time, most significant byte first.
pub fn token_time(token: &str) -> Option<ClusterTime> {
    let digits = token.strip_prefix("82")?.get(..16)?;
    u64::from_str_radix(digits, 16).ok().map(ClusterTime)
}

/// A cluster time in microseconds since 1970.
fn micros(time: ClusterTime) -> i64 {
    (time.0 >> 32) as i64 * 1_000_000
}

/// The open batch of one table.
struct TableBuffer {
    source: Arc<SourceTable>,
    watermark: Position,
    transformer: Transformer,
    rows: Rows,
    ops: Vec<Op>,
    transactions: Vec<TxId>,
    patches: Vec<(u32, usize)>,
    patch_bytes: Vec<u8>,
    /// If the lake keeps what is deleted.
    commits: Option<Commits>,
    commit_bytes: usize,
    stalled: bool,
}

impl TableBuffer {
    fn new(source: Arc<SourceTable>, watermark: Position) -> Self {
        Self {
            rows: Rows::new(source.fields.clone(), source.schema().arrow()),
            transformer: Transformer::new(source.transform.clone()),
            commits: (!source.mode.is_mirror()).then(Commits::default),
            commit_bytes: 0,
            source,
            watermark,
            ops: Vec::new(),
            transactions: Vec::new(),
            patches: Vec::new(),
            patch_bytes: Vec::new(),
            stalled: false,
        }
    }

    fn bytes(&self) -> usize {
        self.rows.bytes + self.patch_bytes.len() + self.commit_bytes
    }

    /// Whether the table has an event already.
    fn has(&self, time: ClusterTime, token: &str) -> bool {
        self.watermark
            .resume_point()
            .is_some_and(|point| point.has(time, token))
    }

    fn stall(&mut self) {
        *self = Self {
            stalled: true,
            ..Self::new(self.source.clone(), self.watermark.clone())
        };
    }

    fn change(&mut self, event: &Event<'_>, evolve: bool) -> Result<Applied> {
        let malformed = super::columns::malformed;
        if let Some((_, uuid)) = event.uuid.and_then(Value::binary)
            && uuid != self.source.uuid
        {
            return Ok(Applied::Unfit("it was dropped and made anew at the source".to_owned()));
        }
        let key = event.key.ok_or_else(|| malformed(Malformed("a document key")))?;
        let id = raw::field(key.bytes, "_id").map_err(malformed)?;
        let id = id.ok_or_else(|| malformed(Malformed("an _id")))?;
        if !self.rows.takes_key(id) {
            return Ok(Applied::Unfit(self.source.other_kind().to_owned()));
        }
        let (document, update) = match (event.operation, event.document, event.update) {
            ("insert" | "replace", Some(document), _) => (Some(self.transformer.document(document.bytes)), None),
            ("update", _, Some(update)) => (None, Some(self.transformer.update(update.bytes))),
            _ => (None, None),
        };
        let document = document.transpose().map_err(malformed)?;
        let update = update.transpose().map_err(malformed)?;
        if update.as_ref().is_some_and(|update| update.idle) {
            return Ok(Applied::Idle);
        }
        if evolve && !self.source.fields.whole {
            let fields = match &update {
                Some(update) => Description::of(update.description).map_err(malformed)?.updated(),
                None => document,
            };
            let new = fields.map(|fields| self.source.new_fields(fields)).transpose();
            let new = new.map_err(malformed)?.unwrap_or_default();
            if !new.is_empty() {
                return Ok(Applied::Described(What::Fields(new)));
            }
        }
        let op = match (event.operation, document) {
            ("delete", _) => {
                self.rows.append_only_key(id)?;
                Op::Delete
            }
            ("insert" | "replace", Some(document)) => {
                let new = raw::field(document, "_id").map_err(malformed)?.unwrap_or(id);
                if !Rows::is_one_key(id, new) {
                    // A number in it has become one of another type.
                    if !self.rows.takes_key(new) {
                        return Ok(Applied::Unfit(self.source.other_kind().to_owned()));
                    }
                    self.rows.append_only_key(id)?;
                    self.ops.push(Op::Delete);
                    self.transactions.push(event.time.0);
                }
                self.rows.append(document)?;
                match event.operation {
                    "insert" => Op::Insert,
                    _ => Op::Upsert,
                }
            }
            // Without all that changed, the patch is empty.
            _ => {
                self.rows.append_only_key(id)?;
                let whole = update.as_ref().filter(|update| !update.unsure);
                let patch = whole.map_or(&[][..], |update| update.description);
                self.patch_bytes.extend_from_slice(patch);
                self.patches.push((self.ops.len() as u32, self.patch_bytes.len()));
                Op::Upsert
            }
        };
        self.ops.push(op);
        self.transactions.push(event.time.0);
        if let Some(commits) = &mut self.commits {
            let point = CommitPoint {
                at: Some(micros(event.time)),
                position: self.source.mode.is_history().then(|| event.time.to_string().into()),
            };
            self.commit_bytes += commits.note(self.ops.len(), false, &point);
        }
        Ok(Applied::Changed)
    }

    fn take_batch(&mut self) -> Result<ChangeBatch> {
        self.transformer.release();
        let rows: RecordBatch = self.rows.finish()?;
        let patches = std::mem::take(&mut self.patches);
        let bytes = std::mem::take(&mut self.patch_bytes);
        self.commit_bytes = 0;
        Ok(ChangeBatch {
            rows,
            ops: std::mem::take(&mut self.ops),
            transactions: std::mem::take(&mut self.transactions),
            unchanged: Vec::new(),
            truncated_by: None,
            patches: (!patches.is_empty()).then(|| {
                Box::new(Patches {
                    by: Arc::new(Updates(self.source.fields.clone())),
                    rows: patches,
                    bytes,
                })
            }),
            commits: self.commits.as_mut().map(|commits| Box::new(std::mem::take(commits))),
        })
    }
}
