//! The replication stream: binlog events in, changes of each table gathered in
//! Arrow builders, positions out.
//!
//! A transaction is what one GTID event begins: BEGIN, table maps and rows,
//! then XID or COMMIT; or one statement, for DDL. Rows of a table that nobody
//! follows, or that the table has already, are passed over undecoded.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io::Cursor;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch};

use super::binlog::{
    AlterPhase, Body, Checksum, Datum, Decoder, Event, Header, Layout, Op as RowOp, PayloadReader, Rows, Statement,
    TableColumn, TableMap, column_type,
};
use super::catalog::SourceTable;
use super::ddl::{self, Effect, Session};
use super::lease::Lease;
use super::server::Server;
use super::types::{ColumnBuilder, DecodeError, apply_json_diffs, json_text};
use super::wire::{Endpoint, Replica, Wire};
use crate::batch::{ChangeBatch, CommitPoint, Commits, Op, TxId, UnchangedCell};
use crate::error::{Error, Result};
use crate::position::gtid::Origin;
use crate::position::{BinlogPosition, Gtids, Position, file_number};
use crate::schema::TableId;
use crate::source::silence::Silence;
use crate::source::{ChangeStream, SourceEvent};

/// How often an idle server tells that it is there, and notices that we are not.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// What the server's list of replicas calls us.
pub const HOSTNAME: &str = "tributary";

/// How long it may say nothing.
const SILENCE: Duration = Duration::from_secs(60);

/// What a builder takes for a row beside the values themselves.
const ROW_OVERHEAD_BYTES: usize = 16;

/// The code of the error that the log has another key than the lake.
const OTHER_KEY: &str = "other key";

/// What XA did is known only once it is decided, and its rows are long past.
const XA: &str = "an XA transaction has changed it";

/// How a transaction is named within one run: by GTID where there are any (an
/// origin's number, then 48 bits), else by its place in the log.
const NUMBER_BITS: u32 = 48;

/// Every origin seen, by its number.
static ORIGINS: Mutex<Vec<Origin>> = Mutex::new(Vec::new());

fn origin_number(origin: &Origin) -> TxId {
    let mut origins = ORIGINS.lock().unwrap_or_else(PoisonError::into_inner);
    let number = origins.iter().position(|own| own == origin).unwrap_or_else(|| {
        origins.push(origin.clone());
        origins.len() - 1
    });
    (number as TxId) << NUMBER_BITS
}

/// The GTID that a transaction's name stands for.
pub fn gtid_of(transaction: TxId) -> Option<(Origin, u64)> {
    let origins = ORIGINS.lock().unwrap_or_else(PoisonError::into_inner);
    let origin = origins.get((transaction >> NUMBER_BITS) as usize)?.clone();
    Some((origin, transaction & ((1 << NUMBER_BITS) - 1)))
}

/// A transaction's name by its place in the log.
pub fn place_name(file_number: u64, offset: u64) -> TxId {
    file_number << NUMBER_BITS | offset & ((1 << NUMBER_BITS) - 1)
}

/// How the server is to know us.
pub fn replica(server_id: u32, uuid: &str) -> Replica<'_> {
    Replica {
        server_id,
        uuid,
        hostname: HOSTNAME,
        heartbeat: HEARTBEAT,
    }
}

/// The last transaction that a stream told, by its name; 0 before any. The
/// server sends a transaction before it can be seen in its tables.
#[derive(Clone, Debug, Default)]
pub struct Told(Arc<AtomicU64>);

impl Told {
    /// Whether it is among what can be seen.
    pub fn is_among(&self, visible: &Gtids) -> bool {
        match visible {
            Gtids::MySql(set) => gtid_of(self.0.load(Ordering::Acquire))
                .is_none_or(|(origin, number)| number == 0 || set.contains(&origin, number)),
            _ => true,
        }
    }

    /// Whether it lies before a place of the log.
    pub fn is_before(&self, place: &BinlogPosition) -> bool {
        self.0.load(Ordering::Acquire) < place_name(place.file_number(), place.offset)
    }
}

/// What the stream is started with.
pub struct Start<'a> {
    pub told: Told,
    pub server: &'a Server,
    pub endpoint: &'a Endpoint,
    pub server_id: u32,
    pub replica_uuid: &'a str,
    pub checksum: Checksum,
    /// As DDL is read, but for what each statement's event tells.
    pub session: Session,
}

pub struct Stream {
    wire: Wire,
    silence: Silence,
    _lease: Option<Lease>,
    decoder: Decoder,
    /// The compressed transaction that is being read.
    payload: Option<PayloadReader<Cursor<Vec<u8>>>>,
    log: Log,
}

impl Stream {
    pub async fn start(start: Start<'_>, from: &Position) -> Result<Self> {
        let place = from
            .binlog()
            .ok_or_else(|| Error::bug("expected a position in a binlog, found an LSN"))?
            .clone();
        let lease = Lease::take(start.endpoint, start.server_id).await?;
        let mut wire = Wire::connect(start.endpoint).await?;
        start.server.expect(&mut wire).await?;
        wire.register_replica(&replica(start.server_id, start.replica_uuid))
            .await?;
        match &place.gtids {
            Gtids::MySql(set) => wire.dump_gtid(start.server_id, &set.encode()).await?,
            Gtids::MariaDb(list) => wire.dump_gtid_list(start.server_id, list).await?,
            Gtids::None => wire.dump(start.server_id, &place.file, place.offset).await?,
        }
        let (file, offset) = match place.server == start.server.name {
            true => (place.file, place.offset),
            // Another server's files say nothing here; the first event tells.
            false => (String::new(), 0),
        };
        Ok(Self {
            wire,
            silence: Silence::new(),
            _lease: lease,
            decoder: Decoder::new(start.checksum),
            payload: None,
            log: Log {
                server: start.server.name.clone(),
                session: start.session,
                tables: Vec::new(),
                routes: HashMap::new(),
                ids: HashMap::new(),
                file,
                offset,
                event_start: offset,
                gtids: place.gtids,
                transaction: None,
                committed_at: None,
                event_time: 0,
                prepared: HashMap::new(),
                steps: VecDeque::new(),
                described: None,
                told: start.told,
                open_bytes: 0,
                position: OnceLock::new(),
            },
        })
    }

    /// What the log told last of a table's columns, and how it is to be read.
    pub fn described(&self, table: usize) -> Option<(&What, &Session)> {
        let described = self.log.described.as_ref().filter(|(number, ..)| *number == table);
        described.map(|(_, what, session)| (what, session))
    }
}

impl ChangeStream for Stream {
    type Table = SourceTable;

    fn add(&mut self, table: Arc<SourceTable>, watermark: Position) -> usize {
        let log = &mut self.log;
        let number = log.tables.len();
        log.routes.insert(table.id.clone(), number);
        log.ids.clear();
        log.tables.push(TableBuffer::new(table, watermark));
        number
    }

    fn close(&mut self, table: usize) {
        let log = &mut self.log;
        log.routes.retain(|_, number| *number != table);
        log.ids.clear();
        self.stall(table);
    }

    fn stall(&mut self, table: usize) {
        let log = &mut self.log;
        if let Some(buffer) = log.tables.get_mut(table) {
            log.open_bytes -= buffer.bytes;
            buffer.stall();
        }
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
            Some(buffer) if buffer.bytes == 0 => {
                *buffer = TableBuffer::new(source, buffer.watermark.clone());
                Ok(())
            }
            _ => Err(Error::bug("a table was altered with changes in hand")),
        }
    }

    fn position(&self) -> Position {
        self.log
            .position
            .get_or_init(|| self.log.place(self.log.offset))
            .clone()
    }

    fn commit_position(&self) -> Position {
        match &self.log.transaction {
            Some(_) => self.log.place(self.log.offset),
            None => self.position(),
        }
    }

    fn committed_at(&self) -> Option<i64> {
        self.log.committed_at
    }

    fn in_transaction(&self) -> bool {
        self.log.transaction.is_some()
    }

    fn open_bytes(&self) -> usize {
        self.log.open_bytes
    }

    fn bytes(&self, table: usize) -> usize {
        self.log.tables.get(table).map_or(0, |t| t.bytes)
    }

    async fn fill(&mut self) -> Result<()> {
        // A server that is there sends heartbeats.
        self.silence.end(Some(SILENCE), self.wire.fill()).await
    }

    fn next_event(&mut self) -> Result<Option<SourceEvent>> {
        loop {
            if let Some(step) = self.log.steps.pop_front() {
                if let Some(event) = self.log.take(step) {
                    return Ok(Some(event));
                }
                continue;
            }
            if let Some(payload) = &mut self.payload {
                match payload.next_event().map_err(undecodable)? {
                    Some(bytes) => {
                        let event = self.decoder.decode_inner(bytes).map_err(undecodable)?;
                        self.log.apply(&mut self.decoder, event)?;
                    }
                    None => self.payload = None,
                }
                continue;
            }
            let Some(frame) = self.wire.buffered()? else {
                return Ok(None);
            };
            let event = self.decoder.decode(self.wire.body(frame)).map_err(undecodable)?;
            self.log.pass(&event.header);
            match &event.body {
                Body::Payload(payload) => {
                    let compressed = Cursor::new(payload.compressed.to_vec());
                    self.payload = Some(payload.reader_over(compressed).map_err(undecodable)?);
                }
                _ => self.log.apply(&mut self.decoder, event)?,
            }
            self.wire.consume(frame);
        }
    }

    fn take_batch(&mut self, table: usize) -> Result<ChangeBatch> {
        if let Some(open) = self
            .log
            .transaction
            .as_ref()
            .filter(|open| open.touched.contains(&table))
        {
            // Its end is yet to come; this is as near as can be known.
            let micros = open.commit_time.and_then(|micros| i64::try_from(micros).ok());
            let at = micros.unwrap_or(i64::from(self.log.event_time) * 1_000_000);
            let point = self.log.commit_point(&[table], Some(at), open.gtid.as_ref());
            self.log.note(&[table], &point);
        }
        match self.log.tables.get_mut(table) {
            Some(table) => {
                self.log.open_bytes -= table.bytes;
                table.take_batch()
            }
            None => Err(Error::bug("a batch of a table that isn't streamed")),
        }
    }

    /// The server keeps no position for us, and sends heartbeats by itself.
    async fn confirm(&mut self, _: &Position, _: bool) -> Result<()> {
        Ok(())
    }

    async fn end(&mut self) {
        self.wire.terminate().await;
    }
}

fn undecodable(error: super::binlog::BinlogError) -> Error {
    Error::operator(format!("cannot decode the binlog: {error}"))
        .with_hint("if the server is one that README lists, please report it; `tributary check` may say more")
}

/// What the log told of a table.
#[derive(Debug)]
pub enum What {
    Alter(ddl::Alter),
    Gone(String),
}

/// What comes next, before any further event of the log.
enum Step {
    Event(SourceEvent),
    Described(usize, What, Session),
    Commit,
}

struct Transaction {
    id: TxId,
    gtid: Option<TransactionGtid>,
    /// When it was committed, in microseconds, if its first event tells.
    commit_time: Option<u64>,
    /// Whether it is more than one statement.
    begun: bool,
    /// The tables of an XA transaction: prepared here, decided later.
    xa: Option<Vec<TableId>>,
    /// A statement that only announces an ALTER, or takes that back.
    announced: bool,
    /// Tables whose rows were taken.
    touched: Vec<usize>,
}

enum TransactionGtid {
    MySql(Origin, u64),
    MariaDb { domain: u32, server: u32, sequence: u64 },
}

impl fmt::Display for TransactionGtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TransactionGtid::MySql(origin, number) => write!(f, "{origin}:{number}"),
            TransactionGtid::MariaDb {
                domain,
                server,
                sequence,
            } => write!(f, "{domain}-{server}-{sequence}"),
        }
    }
}

/// Where the log is, and what it changes: all of [`Stream`] but the connection,
/// whose receive buffer an event borrows.
struct Log {
    server: String,
    session: Session,
    tables: Vec<TableBuffer>,
    /// Where the changes of a table go.
    routes: HashMap<TableId, usize>,
    /// The same by the log's own numbers, as far as they were looked up.
    ids: HashMap<u64, Option<usize>>,
    file: String,
    /// The end of the last event, whatever its length.
    offset: u64,
    /// Where it began.
    event_start: u64,
    /// Of every transaction told.
    gtids: Gtids,
    transaction: Option<Transaction>,
    /// When the last transaction was committed, in microseconds since 1970.
    committed_at: Option<i64>,
    /// The time in the last event's header, in seconds.
    event_time: u32,
    /// Tables that prepared XA transactions have changed, by their names.
    prepared: HashMap<Vec<u8>, Vec<TableId>>,
    steps: VecDeque<Step>,
    described: Option<(usize, What, Session)>,
    told: Told,
    /// The sum over all tables.
    open_bytes: usize,
    /// The position between transactions, once it was asked for.
    position: OnceLock<Position>,
}

impl Log {
    fn place(&self, offset: u64) -> Position {
        Position::Binlog(Arc::new(BinlogPosition {
            server: self.server.clone(),
            file: self.file.clone(),
            offset,
            gtids: self.gtids.clone(),
        }))
    }

    /// Moves to the end of an event of the file.
    fn pass(&mut self, header: &Header) {
        self.event_start = self.offset;
        if header.is_artificial() || header.log_pos == 0 {
            return;
        }
        // The log tells 32 bits. A little behind is no wrap: a file's first
        // events come again wherever the stream begins.
        let high = self.offset & !u64::from(u32::MAX);
        let end = high | u64::from(header.log_pos);
        let wrapped = end + (1 << 31) < self.offset;
        self.offset = self.offset.max(if wrapped { end + (1 << 32) } else { end });
    }

    fn take(&mut self, step: Step) -> Option<SourceEvent> {
        match step {
            Step::Event(SourceEvent::Unfit { table, reason }) => {
                let followed = self.tables.get(table).is_some_and(|buffer| !buffer.stalled);
                followed.then_some(SourceEvent::Unfit { table, reason })
            }
            Step::Event(event) => Some(event),
            Step::Described(table, what, session) => {
                if self.tables.get(table).is_none_or(|buffer| buffer.stalled) {
                    return None;
                }
                self.described = Some((table, what, session));
                Some(SourceEvent::Described { table })
            }
            Step::Commit => {
                self.commit();
                Some(SourceEvent::Commit)
            }
        }
    }

    fn commit(&mut self) {
        let transaction = self.transaction.take();
        if let Some(transaction) = &transaction {
            // Else the event that ends it tells, in seconds.
            let micros = transaction.commit_time.and_then(|micros| i64::try_from(micros).ok());
            self.committed_at = Some(micros.unwrap_or(i64::from(self.event_time) * 1_000_000));
            let point = self.commit_point(&transaction.touched, self.committed_at, transaction.gtid.as_ref());
            self.note(&transaction.touched, &point);
        }
        if let Some(transaction) = &transaction
            && transaction.gtid.is_some()
        {
            self.told.0.store(transaction.id, Ordering::Release);
        }
        match (transaction.and_then(|t| t.gtid), &mut self.gtids) {
            (Some(TransactionGtid::MySql(origin, number)), Gtids::MySql(set)) => set.add(&origin, number),
            (
                Some(TransactionGtid::MariaDb {
                    domain,
                    server,
                    sequence,
                }),
                Gtids::MariaDb(list),
            ) => {
                list.set(domain, server, sequence);
            }
            _ => {}
        }
        self.position = OnceLock::new();
    }

    /// A commit as some tables are told of it: by its GTID, else by where it ends.
    fn commit_point(&self, tables: &[usize], at: Option<i64>, gtid: Option<&TransactionGtid>) -> CommitPoint {
        let mut buffers = tables.iter().filter_map(|table| self.tables.get(*table));
        let wanted = buffers.any(|buffer| buffer.source.mode.is_history());
        let position = || match gtid {
            Some(gtid) => gtid.to_string().into(),
            None => format!("{}:{}", self.file, self.offset).into(),
        };
        CommitPoint {
            at,
            position: wanted.then(position),
        }
    }

    /// Notes the commit of what tables were told last.
    fn note(&mut self, tables: &[usize], point: &CommitPoint) {
        for table in tables {
            if let Some(buffer) = self.tables.get_mut(*table) {
                let before = buffer.bytes;
                buffer.note(point);
                self.open_bytes = self.open_bytes - before + buffer.bytes;
            }
        }
    }

    fn apply(&mut self, decoder: &mut Decoder, event: Event<'_>) -> Result<()> {
        if event.header.timestamp != 0 {
            self.event_time = event.header.timestamp;
        }
        match event.body {
            Body::Rotate { position, file } => {
                // At the start the server tells the file's beginning, and then
                // passes over what we have.
                if file != self.file || position > self.offset {
                    file.clone_into(&mut self.file);
                    self.offset = position;
                }
                if self.transaction.is_none() {
                    self.position = OnceLock::new();
                }
            }
            Body::FormatDescription(_) => self.ids.clear(),
            Body::Gtid(gtid) => {
                let own = match (gtid.anonymous, gtid.tag.is_empty()) {
                    (true, _) => None,
                    (false, true) => Some(Origin::new(gtid.uuid)),
                    (false, false) => Some(Origin::tagged(gtid.uuid, gtid.tag)?),
                };
                let own = own.map(|origin| TransactionGtid::MySql(origin, gtid.gno));
                self.begin(own);
                self.opened().commit_time = gtid.immediate_commit_micros;
            }
            Body::MariaDbGtid(gtid) => {
                self.begin(Some(TransactionGtid::MariaDb {
                    domain: gtid.domain_id,
                    server: gtid.server_id,
                    sequence: gtid.sequence,
                }));
                let transaction = self.opened();
                // An ALTER that is logged twice happens the second time.
                transaction.announced = matches!(gtid.alter, Some(AlterPhase::Start | AlterPhase::Rollback { .. }));
                // No BEGIN or XA START follows.
                transaction.begun = !gtid.is_standalone();
                transaction.xa = gtid.is_xa_prepared().then(Vec::new);
            }
            Body::Query(query) => match query.statement().map_err(undecodable)? {
                Statement::Begin => self.opened().begun = true,
                Statement::Commit => self.steps.push_back(Step::Commit),
                Statement::Rollback => {
                    self.undone("its log has a transaction that was rolled back");
                    self.steps.push_back(Step::Commit);
                }
                Statement::RollbackToSavepoint => self.undone("its log has a savepoint that was rolled back to"),
                Statement::Savepoint | Statement::XaEnd | Statement::XaPrepare => {}
                Statement::XaStart => {
                    let transaction = self.opened();
                    (transaction.begun, transaction.xa) = (true, Some(Vec::new()));
                }
                Statement::XaCommit => {
                    let sql = query.sql().map_err(undecodable)?;
                    // One that was prepared before the stream began may be of any.
                    let tables = self.prepared.remove(&xa_name(&sql));
                    let tables = tables.unwrap_or_else(|| self.followed(|_| true));
                    self.changed(&tables, XA);
                    self.steps.push_back(Step::Commit);
                }
                Statement::XaRollback => {
                    let sql = query.sql().map_err(undecodable)?;
                    self.prepared.remove(&xa_name(&sql));
                    self.steps.push_back(Step::Commit);
                }
                Statement::Other => {
                    let session = Session {
                        sql_mode: query.sql_mode.unwrap_or(self.session.sql_mode),
                        ..self.session
                    };
                    let sql = query.sql().map_err(undecodable)?;
                    let foreign = !sql.is_ascii() && query.charset.is_some_and(|charset| !is_utf8(charset.client));
                    let (sql, schema) = (String::from_utf8_lossy(&sql), String::from_utf8_lossy(query.schema));
                    self.statement(&sql, &schema, session, foreign)?;
                    if !self.opened().begun {
                        self.steps.push_back(Step::Commit);
                    }
                }
            },
            Body::Xid(_) => self.steps.push_back(Step::Commit),
            Body::XaPrepare {
                one_phase,
                gtrid,
                bqual,
                ..
            } => {
                let tables = self.opened().xa.take().unwrap_or_default();
                if one_phase {
                    self.changed(&tables, XA);
                } else {
                    let name = [gtrid, b"\0", bqual].concat();
                    self.prepared.insert(name, tables);
                }
                self.steps.push_back(Step::Commit);
            }
            Body::TableMap(map) => {
                let xa = self
                    .transaction
                    .as_mut()
                    .and_then(|transaction| transaction.xa.as_mut());
                if let Some(tables) = xa {
                    let id = self.session.table(map.schema, map.name);
                    if !tables.contains(&id) {
                        tables.push(id);
                    }
                }
            }
            Body::Rows(rows) if !rows.is_dummy() => {
                // Known only until the tables change, which may be between a
                // table map and its rows.
                let route = match self.ids.get(&rows.table_id) {
                    Some(route) => *route,
                    None => {
                        let (schema, name) = decoder.table_name(rows.table_id).map_err(undecodable)?;
                        let route = self.routes.get(&self.session.table(schema, name)).copied();
                        self.ids.insert(rows.table_id, route);
                        route
                    }
                };
                if let Some(table) = route {
                    self.rows(decoder, table, &rows)?;
                }
            }
            Body::Heartbeat { file, position } => {
                if self.transaction.is_none() {
                    if !file.is_empty() && file != self.file {
                        file.clone_into(&mut self.file);
                        self.offset = position;
                    } else if position > self.offset {
                        self.offset = position;
                    }
                    self.position = OnceLock::new();
                }
                self.steps
                    .push_back(Step::Event(SourceEvent::Heartbeat { reply_wanted: false }));
            }
            Body::Rows(_) | Body::Payload(_) | Body::Stop | Body::MariaDbGtidList(_) | Body::Other => {}
        }
        Ok(())
    }

    fn begin(&mut self, gtid: Option<TransactionGtid>) {
        // The server went down while it wrote the one before.
        self.undone("its log has a transaction without an end");
        let id = match &gtid {
            Some(TransactionGtid::MySql(origin, number)) => origin_number(origin) | number & ((1 << NUMBER_BITS) - 1),
            _ => place_name(file_number(&self.file), self.offset),
        };
        // What lies before has been told; from here on the position stands.
        self.position = OnceLock::new();
        let position = self.place(self.event_start);
        let _ = self.position.set(position);
        self.transaction = Some(Transaction {
            id,
            gtid,
            commit_time: None,
            begun: false,
            xa: None,
            announced: false,
            touched: Vec::new(),
        });
        self.steps.push_back(Step::Event(SourceEvent::Begin));
    }

    /// The open transaction. Old servers begin some without a word.
    fn opened(&mut self) -> &mut Transaction {
        if self.transaction.is_none() {
            self.begin(None);
        }
        self.transaction.get_or_insert_with(|| Transaction {
            id: 0,
            gtid: None,
            commit_time: None,
            begun: false,
            xa: None,
            announced: false,
            touched: Vec::new(),
        })
    }

    /// Rows that were taken have not happened.
    fn undone(&mut self, reason: &str) {
        let touched = self.transaction.as_ref().map(|t| t.touched.clone());
        self.unfit(touched, reason);
    }

    /// Those of the tables that are concerned have to be copied anew.
    fn changed(&mut self, tables: &[TableId], reason: &str) {
        for table in tables {
            if let Some(number) = self.concerned(table) {
                self.unfit(Some(vec![number]), reason);
            }
        }
    }

    /// The tables that are followed, as far as they are `those`.
    fn followed(&self, those: impl Fn(&TableId) -> bool) -> Vec<TableId> {
        self.routes.keys().filter(|id| those(id)).cloned().collect()
    }

    fn unfit(&mut self, tables: Option<Vec<usize>>, reason: &str) {
        for table in tables.into_iter().flatten() {
            self.steps.push_back(Step::Event(SourceEvent::Unfit {
                table,
                reason: reason.to_owned(),
            }));
        }
    }

    /// The table's number, if it is followed and does not have the open
    /// transaction already.
    fn concerned(&mut self, id: &TableId) -> Option<usize> {
        let number = self.routes.get(id).copied()?;
        let transaction = self.transaction.as_ref()?;
        let end = BinlogEnd {
            server: &self.server,
            file: &self.file,
            offset: self.offset,
        };
        let buffer = self.tables.get_mut(number)?;
        (!buffer.stalled && !buffer.has(transaction, &end)).then_some(number)
    }

    /// A statement that is not of a transaction: DDL, mostly. `foreign` has
    /// words in a charset that is not Unicode.
    fn statement(&mut self, sql: &str, schema: &str, session: Session, foreign: bool) -> Result<()> {
        if self.opened().announced {
            return Ok(());
        }
        for effect in ddl::parse(sql, schema, &session) {
            // Names may mean other tables from here on.
            self.ids.clear();
            if foreign {
                self.misread(&effect);
                continue;
            }
            match effect {
                Effect::Alter { table, alter } => {
                    if let Some(number) = self.concerned(&table) {
                        self.steps
                            .push_back(Step::Described(number, What::Alter(alter), session));
                    }
                }
                Effect::Rename { from, to } => {
                    if let Some(number) = self.concerned(&to) {
                        self.unfit(Some(vec![number]), "another table took its name at the source");
                    }
                    let reason = format!("it was renamed to {to} at the source");
                    self.gone(&from, reason, session);
                }
                Effect::Truncate { table } => {
                    if let Some(number) = self.concerned(&table) {
                        self.truncate(number)?;
                    }
                }
                Effect::Drop { table } => self.gone(&table, "it was dropped at the source".to_owned(), session),
                Effect::DropSchema { schema } => {
                    for table in self.followed(|id| id.schema == schema) {
                        self.gone(&table, "its database was dropped at the source".to_owned(), session);
                    }
                }
                // It is logged even if the table was there.
                Effect::Create { table, unless_exists } => {
                    if !unless_exists && let Some(number) = self.concerned(&table) {
                        self.unfit(Some(vec![number]), "it was dropped and made anew at the source");
                    }
                }
                Effect::Unlogged { table } => {
                    // What nobody follows may be a view of what is, or have triggers.
                    let followed = self.routes.contains_key(&table);
                    let tables = self.followed(|id| *id == table || (!followed && id.schema == table.schema));
                    self.changed(&tables, "rows were written as a statement, not as rows");
                }
                Effect::Unclear { tables, reason } => {
                    let named = |id: &TableId| sql.to_lowercase().contains(&id.name.to_lowercase());
                    let tables = tables.unwrap_or_else(|| self.followed(named));
                    self.changed(&tables, &reason);
                }
            }
        }
        Ok(())
    }

    /// A statement that can't be read to the letter: the tables that it may be
    /// of are copied anew.
    fn misread(&mut self, effect: &Effect) {
        let named = effect.tables();
        let may_be = |id: &TableId| match &named {
            None => true,
            Some(named) => named.iter().any(|(schema, name)| {
                let same = |named: &str, own: &str| named == own || !(named.is_ascii() || own.is_ascii());
                same(schema, &id.schema) && name.is_none_or(|name| same(name, &id.name))
            }),
        };
        let tables = self.followed(may_be);
        self.changed(
            &tables,
            "a statement in another charset than Unicode may have changed it",
        );
    }

    fn gone(&mut self, table: &TableId, reason: String, session: Session) {
        if let Some(number) = self.concerned(table) {
            self.steps
                .push_back(Step::Described(number, What::Gone(reason), session));
        }
    }

    fn truncate(&mut self, number: usize) -> Result<()> {
        let (Some(buffer), Some(transaction)) = (self.tables.get_mut(number), &mut self.transaction) else {
            return Ok(());
        };
        if !transaction.touched.contains(&number) {
            transaction.touched.push(number);
        }
        let before = buffer.bytes;
        buffer.truncate(transaction.id)?;
        self.open_bytes = self.open_bytes - before + buffer.bytes;
        self.steps
            .push_back(Step::Event(SourceEvent::Changed { table: number }));
        Ok(())
    }

    fn rows(&mut self, decoder: &mut Decoder, table: usize, rows: &Rows<'_>) -> Result<()> {
        self.opened();
        let (Some(buffer), Some(transaction)) = (self.tables.get_mut(table), self.transaction.as_mut()) else {
            return Ok(());
        };
        let end = BinlogEnd {
            server: &self.server,
            file: &self.file,
            offset: self.offset,
        };
        // Replay, or from before a copy began: the lake has it already.
        if buffer.stalled || buffer.has(transaction, &end) {
            return Ok(());
        }
        if transaction.xa.is_some() {
            return Ok(());
        }
        if !transaction.touched.contains(&table) {
            transaction.touched.push(table);
        }
        let before = buffer.bytes;
        let changed = decoder
            .table(rows.table_id)
            .map_err(undecodable)
            .and_then(|map| buffer.change(&map, rows, transaction.id));
        let event = match changed {
            Ok(()) => SourceEvent::Changed { table },
            Err(error) => {
                buffer.stall();
                if error.code() == Some(OTHER_KEY) {
                    let reason = error.to_string();
                    SourceEvent::Unfit { table, reason }
                } else {
                    SourceEvent::Stalled { table, error }
                }
            }
        };
        self.open_bytes = self.open_bytes - before + buffer.bytes;
        if let SourceEvent::Unfit { table, reason } = event {
            // It is stalled already, so that `take` would pass over it.
            buffer.stalled = false;
            self.steps.push_back(Step::Event(SourceEvent::Unfit { table, reason }));
        } else {
            self.steps.push_back(Step::Event(event));
        }
        Ok(())
    }
}

/// Whether a client charset, by the number of a collation, is UTF-8 (or ASCII,
/// or bytes that are taken as they are). MariaDB adds 1024 for NO PAD, and has
/// the collations of UCA 14 of UTF-8 alone as client charsets from 2048 on.
/// Spec: `information_schema.COLLATIONS` of both servers.
fn is_utf8(collation: u16) -> bool {
    collation >= 2048
        || matches!(
            collation % 1024,
            11 | 65 | 63 | 33 | 76 | 83 | 192..=223 | 45 | 46 | 224..=247 | 255..=323
        )
}

/// `XA COMMIT X'…',X'…',1` names what `XA PREPARE` did.
fn xa_name(sql: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(sql);
    let parts: Vec<Vec<u8>> = text
        .split('\'')
        .skip(1)
        .step_by(2)
        .map(|hex| {
            let pairs = hex.as_bytes().chunks(2);
            pairs
                .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
                .collect()
        })
        .collect();
    parts.join(&0)
}

/// Where the event ends that is being looked at.
struct BinlogEnd<'a> {
    server: &'a str,
    file: &'a str,
    offset: u64,
}

/// The open batch of one table.
struct TableBuffer {
    source: Arc<SourceTable>,
    /// By column: whether it is part of the key.
    is_key: Vec<bool>,
    /// By column: whether nobody wants its values.
    is_unread: Vec<bool>,
    watermark: Position,
    /// Whether the watermark has the transaction that was last asked for.
    has: Option<(TxId, bool)>,
    /// The log's description that the columns were found to fit.
    map: Option<Arc<TableMap>>,
    layouts: Vec<Layout>,
    columns: Vec<ColumnBuilder>,
    ops: Vec<Op>,
    transactions: Vec<TxId>,
    unchanged: Vec<UnchangedCell>,
    truncated_by: Option<TxId>,
    /// If the lake keeps what is deleted.
    commits: Option<Commits>,
    bytes: usize,
    stalled: bool,
}

impl TableBuffer {
    fn new(source: Arc<SourceTable>, watermark: Position) -> Self {
        Self {
            is_key: (0..source.columns.len())
                .map(|i| source.schema.key.contains(&i))
                .collect(),
            is_unread: source
                .columns
                .iter()
                .map(|c| source.unread.contains(&c.attribute))
                .collect(),
            columns: source.columns.iter().map(|c| c.codec.builder()).collect(),
            commits: (!source.mode.is_mirror()).then(Commits::default),
            source,
            watermark,
            has: None,
            map: None,
            layouts: Vec::new(),
            ops: Vec::new(),
            transactions: Vec::new(),
            unchanged: Vec::new(),
            truncated_by: None,
            bytes: 0,
            stalled: false,
        }
    }

    /// Whether the table's watermark has a transaction.
    fn has(&mut self, transaction: &Transaction, end: &BinlogEnd<'_>) -> bool {
        if let Some((id, has)) = self.has
            && id == transaction.id
        {
            return has;
        }
        let has = self
            .watermark
            .binlog()
            .is_some_and(|own| match (&transaction.gtid, &own.gtids) {
                (Some(TransactionGtid::MySql(origin, number)), Gtids::MySql(set)) => set.contains(origin, *number),
                // In one server's file what is visible is all that lies before.
                _ if own.server == end.server => {
                    let place = (file_number(end.file), end.offset);
                    place <= (own.file_number(), own.offset)
                }
                (Some(TransactionGtid::MariaDb { domain, sequence, .. }), Gtids::MariaDb(list)) => {
                    list.get(*domain).is_some_and(|(_, own)| *sequence <= own)
                }
                _ => false,
            });
        self.has = Some((transaction.id, has));
        has
    }

    fn change(&mut self, map: &Arc<TableMap>, rows: &Rows<'_>, tx: TxId) -> Result<()> {
        if self.map.as_ref().is_none_or(|own| !Arc::ptr_eq(own, map)) {
            self.fit(map)?;
        }
        let data = rows.data().map_err(undecodable)?;
        let mut reader = rows.reader(map, &data).map_err(undecodable)?;
        while let Some(row) = reader.next_row().map_err(undecodable)? {
            match rows.op {
                RowOp::Insert => self.upsert(Op::Insert, row.after, &[], tx)?,
                RowOp::Update => self.upsert(Op::Upsert, row.after, row.before, tx)?,
                RowOp::Delete => self.delete(row.before, tx)?,
            }
        }
        Ok(())
    }

    /// Makes sure that the log means the columns that we know.
    fn fit(&mut self, map: &Arc<TableMap>) -> Result<()> {
        let other = |what: String| Error::operator(what).with_code(OTHER_KEY);
        // MariaDB's hashes of long unique values come last, and have no name
        // that anybody knows.
        let known = self.source.columns.len();
        let is_hash = |column: &TableColumn| column.layout.real_type() == column_type::LONGLONG;
        let hidden =
            |rest: &[TableColumn]| rest.is_empty() || (rest.len() == self.source.hidden && rest.iter().all(is_hash));
        if !map.columns.get(known..).is_some_and(hidden) {
            return Err(other(format!(
                "its log has {} columns where {} were known",
                map.columns.len(),
                self.source.columns.len()
            )));
        }
        for (told, known) in map.columns.iter().zip(&self.source.columns) {
            let named = told
                .name
                .as_ref()
                .is_none_or(|name| name.eq_ignore_ascii_case(&known.name));
            if !named || !known.codec.fits(told.layout, told.unsigned) {
                return Err(other(format!(
                    "its log has another column where {:?} was known",
                    known.name
                )));
            }
        }
        for (told, builder) in map.columns.iter().zip(&mut self.columns) {
            if let Some(words) = &told.members {
                builder.tell_words(words);
            }
        }
        self.layouts = map.columns.iter().map(|column| column.layout).collect();
        self.map = Some(map.clone());
        Ok(())
    }

    fn upsert(&mut self, mut op: Op, after: &[Datum<'_>], before: &[Datum<'_>], tx: TxId) -> Result<()> {
        if self.key_differs(before, after) {
            self.delete(before, tx)?;
            op = Op::Move;
        }
        let row = self.ops.len() as u32;
        let mut bytes = 0;
        for (column, new) in after.iter().enumerate().take(self.columns.len()) {
            let old = before.get(column).copied().unwrap_or(Datum::Absent);
            let datum = if *new == Datum::Absent { old } else { *new };
            let Some((builder, layout)) = self.columns.get_mut(column).zip(self.layouts.get(column)) else {
                return Err(Error::bug("a row has more columns than its table map"));
            };
            if self.is_unread.get(column) == Some(&true) {
                builder.append_null();
                continue;
            }
            match datum {
                Datum::Value(value) => {
                    bytes += value.len();
                    builder
                        .append_binlog(*layout, value)
                        .map_err(|e| bad_value(&self.source, column, e))?;
                }
                Datum::Null => builder.append_null(),
                Datum::JsonDiff(diffs) => {
                    let text = patched(old, diffs).map_err(|e| bad_value(&self.source, column, e))?;
                    let Some(text) = text else {
                        return Err(partial_json(&self.source, column));
                    };
                    bytes += text.len();
                    builder
                        .append_text(&text)
                        .map_err(|e| bad_value(&self.source, column, e))?;
                }
                Datum::Absent if self.is_key.get(column) == Some(&true) => {
                    return Err(Error::operator("its log does not tell its key").with_code(OTHER_KEY));
                }
                Datum::Absent => {
                    builder.append_null();
                    self.unchanged.push(UnchangedCell {
                        row,
                        column: column as u16,
                    });
                }
            }
        }
        self.push(op, tx, bytes);
        Ok(())
    }

    fn delete(&mut self, before: &[Datum<'_>], tx: TxId) -> Result<()> {
        let mut bytes = 0;
        for (column, datum) in before.iter().enumerate().take(self.columns.len()) {
            let Some((builder, layout)) = self.columns.get_mut(column).zip(self.layouts.get(column)) else {
                return Err(Error::bug("a row has more columns than its table map"));
            };
            match datum {
                Datum::Value(value) if self.is_key.get(column) == Some(&true) => {
                    bytes += value.len();
                    builder
                        .append_binlog(*layout, value)
                        .map_err(|e| bad_value(&self.source, column, e))?;
                }
                _ if self.is_key.get(column) == Some(&true) => {
                    return Err(Error::operator("its log tells a change without its key").with_code(OTHER_KEY));
                }
                _ => builder.append_null(),
            }
        }
        self.push(Op::Delete, tx, bytes);
        Ok(())
    }

    /// Nothing before a truncate counts any more, unless what is deleted is kept.
    fn truncate(&mut self, tx: TxId) -> Result<()> {
        let bytes = self.bytes;
        let earlier = match self.commits.is_some() && bytes > 0 {
            true => self.take_batch()?.with_earlier(),
            false => Vec::new(),
        };
        self.clear();
        self.truncated_by = Some(tx);
        self.bytes = ROW_OVERHEAD_BYTES;
        if let Some(commits) = self.commits.as_mut().filter(|_| !earlier.is_empty()) {
            commits.earlier = earlier;
            self.bytes += bytes;
        }
        Ok(())
    }

    /// Notes the commit of what has come last.
    fn note(&mut self, point: &CommitPoint) {
        if let Some(commits) = &mut self.commits {
            let is_history = self.source.mode.is_history();
            let point = CommitPoint {
                at: point.at,
                position: point.position.clone().filter(|_| is_history),
            };
            self.bytes += commits.note(self.ops.len(), self.truncated_by.is_some(), &point);
        }
    }

    fn push(&mut self, op: Op, tx: TxId, bytes: usize) {
        self.ops.push(op);
        self.transactions.push(tx);
        self.bytes += bytes + ROW_OVERHEAD_BYTES + self.columns.len();
    }

    /// Compares by bits: what the server takes for equal may differ in case.
    fn key_differs(&self, before: &[Datum<'_>], after: &[Datum<'_>]) -> bool {
        before
            .iter()
            .zip(after)
            .zip(&self.is_key)
            .any(|((old, new), is_key)| *is_key && *new != Datum::Absent && old != new)
    }

    fn stall(&mut self) {
        self.clear();
        self.stalled = true;
    }

    fn clear(&mut self) {
        for (builder, column) in self.columns.iter_mut().zip(&self.source.columns) {
            *builder = column.codec.builder();
        }
        self.ops.clear();
        self.transactions.clear();
        self.unchanged.clear();
        self.truncated_by = None;
        self.commits = self.commits.take().map(|_| Commits::default());
        self.bytes = 0;
    }

    fn take_batch(&mut self) -> Result<ChangeBatch> {
        let replaced: u64 = self.columns.iter().map(ColumnBuilder::replaced).sum();
        if replaced > 0 {
            tracing::warn!(table = %self.source.id, values = replaced, "zero or partial dates were replaced, as source.infinity says");
        }
        let arrays: Vec<ArrayRef> = self.columns.iter_mut().map(ColumnBuilder::finish).collect();
        let rows = RecordBatch::try_new(self.source.schema.arrow(), arrays)
            .map_err(|e| Error::bug(format!("a batch of {} does not fit its schema", self.source.id)).with_source(e))?;
        self.bytes = 0;
        Ok(ChangeBatch {
            rows,
            ops: std::mem::take(&mut self.ops),
            transactions: std::mem::take(&mut self.transactions),
            unchanged: std::mem::take(&mut self.unchanged),
            truncated_by: self.truncated_by.take(),
            patches: None,
            commits: self.commits.as_mut().map(|commits| Box::new(std::mem::take(commits))),
        })
    }
}

/// A JSON value after diffs of the one before, if that is known.
fn patched(old: Datum<'_>, diffs: &[u8]) -> Result<Option<String>, DecodeError> {
    let Datum::Value(old) = old else { return Ok(None) };
    let mut text = String::new();
    json_text(old, &mut text)?;
    apply_json_diffs(&text, diffs).map(Some)
}

fn partial_json(table: &SourceTable, column: usize) -> Error {
    let name = table.columns.get(column).map_or("?", |c| c.name.as_str());
    Error::operator(format!(
        "the log has only a part of {}.{name}, and not the value before",
        table.id
    ))
    .with_hint(format!(
        "SET PERSIST binlog_row_image = 'FULL'; or SET PERSIST binlog_row_value_options = ''; \
         then `tributary snapshot {}` copies the table anew",
        table.id
    ))
}

/// A value that its column's lake type can't hold.
pub fn bad_value(table: &SourceTable, column: usize, error: DecodeError) -> Error {
    let name = table.columns.get(column).map_or("?", |c| c.name.as_str());
    let setting = if table.schema.key.contains(&column) {
        "a key is never replaced by NULL or clamped"
    } else {
        "source.infinity = \"null\" or \"clamp\" takes zero and partial dates"
    };
    Error::operator(format!("a value of {}.{name} can't be taken over", table.id))
        .with_hint(format!(
            "change the value at the source ({setting}), then `tributary snapshot {}` copies the table anew; \
             or exclude it in source.tables",
            table.id
        ))
        .with_source(error)
}
