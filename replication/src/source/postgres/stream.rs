//! The replication stream: frames in, changes of each table gathered in Arrow
//! builders, positions out.
//!
//! A keepalive tells how far the walsender has decoded and sent; every
//! transaction that ends before has been sent whole. (The manual calls it the
//! end of WAL, but `WalSndKeepalive` sends `sentPtr`.) That is what lets an
//! idle table move the slot.
//!
//! A transaction that is large for the server (`logical_decoding_work_mem`) comes in segments while it is open,
//! between others. It waits in the [`Spool`]; at its commit it is read from there as if it came then.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow::array::{ArrayRef, RecordBatch};
use tokio::task::JoinSet;

use super::alteration::{Described, described};
use super::catalog::SourceTable;
use super::pgoutput::{self, Datum, Message, Old, Relation, Tuple};
use super::spool::{Replay, Spool};
use super::transactions::{only_whole, rolled_back};
use super::types::{ColumnBuilder, DecodeError};
use super::wire::{Endpoint, Wire, quote_identifier, quote_literal};
use crate::batch::{ChangeBatch, CommitPoint, Commits, Op, TxId, UnchangedCell};
use crate::error::{Error, Result};
use crate::position::{Lsn, Position};
use crate::schema::TableId;
use crate::source::silence::Silence;
use crate::source::{ChangeStream, ONLY_WHOLE, SourceEvent};

/// Microseconds between 1970-01-01 and PostgreSQL's epoch, 2000-01-01.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// How long the server may say nothing at least, before it is taken to be gone.
const SILENCE_MIN: Duration = Duration::from_secs(10);

/// The code of the error that the log has another key than the lake.
const OTHER_KEY: &str = "other key";

/// What a builder takes for a row beside the values themselves.
const ROW_OVERHEAD_BYTES: usize = 16;

pub struct Stream {
    wire: Wire,
    silence: Silence,
    /// How long a server that is there may say nothing, if that is known.
    silence_max: Option<Duration>,
    tables: Vec<TableBuffer>,
    /// Where the changes of a relation go, by `pg_class.oid`.
    routes: HashMap<u32, usize>,
    /// Every relation as it was last described. The server tells it once, and
    /// again when it changes, whether or not anyone follows the table yet.
    described: HashMap<u32, Described>,
    position: Lsn,
    /// Of the last transaction that was told.
    committed_at: Option<i64>,
    transaction: Option<Transaction>,
    /// Whether the server was a standby when the stream began.
    standby: bool,
    /// The sum over all tables.
    open_bytes: usize,
    /// Whether transactions are sent while they are open.
    spools: bool,
    spool: Spool,
    /// Whose changes are being sent.
    segment: Option<u32>,
    /// The next transaction, which is to come from the spool.
    asked: Option<Asked>,
    /// The open transaction, if it comes from the spool.
    replay: Option<Replaying>,
    endpoint: Endpoint,
}

/// A streamed transaction that has committed.
struct Ended {
    xid: u32,
    commit_lsn: Lsn,
    end_lsn: Lsn,
    commit_time: i64,
}

/// A streamed transaction of which the server is asked what was rolled back.
struct Asked {
    ended: Ended,
    asking: JoinSet<Result<HashSet<u32>>>,
    answer: Option<HashSet<u32>>,
}

struct Replaying {
    replay: Replay,
    rolled_back: HashSet<u32>,
    end_lsn: Lsn,
}

struct Transaction {
    commit_lsn: Lsn,
    /// In microseconds since PostgreSQL's epoch.
    commit_time: i64,
    id: TxId,
}

/// What messages change. A macro, for a message borrows another part of the stream.
macro_rules! open {
    ($stream:ident) => {
        Open {
            tables: &mut $stream.tables,
            routes: &$stream.routes,
            described: &mut $stream.described,
            position: &mut $stream.position,
            committed_at: &mut $stream.committed_at,
            transaction: &mut $stream.transaction,
            standby: $stream.standby,
            bytes: &mut $stream.open_bytes,
        }
    };
}

impl Stream {
    /// Starts decoding at the slot's confirmed position. Without a spool, the server keeps transactions until they
    /// end.
    pub async fn start(
        endpoint: &Endpoint,
        standby: bool,
        slot: &str,
        publication: &str,
        from: &Position,
        spool: Option<Spool>,
    ) -> Result<Self> {
        let mut wire = Wire::connect(endpoint, true).await?;
        let command = format!(
            "START_REPLICATION SLOT {} LOGICAL 0/0 (proto_version '2', publication_names {}, binary 'true', streaming '{}')",
            quote_identifier(slot),
            quote_literal(&quote_identifier(publication)),
            if spool.is_some() { "on" } else { "off" },
        );
        // While it decodes, it sends something at least twice in this time.
        let timeout_ms = "SELECT setting FROM pg_settings WHERE name = 'wal_sender_timeout'";
        let timeout_ms: u64 = wire.scalar(timeout_ms).await?.parse().unwrap_or_default();
        let silence_max = (timeout_ms > 0).then(|| SILENCE_MIN.max(Duration::from_millis(timeout_ms)));
        wire.start_replication(&command).await?;
        let position = lsn(from)?;
        Ok(Self {
            wire,
            silence: Silence::new(),
            silence_max,
            tables: Vec::new(),
            routes: HashMap::new(),
            described: HashMap::new(),
            position,
            committed_at: None,
            transaction: None,
            standby,
            open_bytes: 0,
            spools: spool.is_some(),
            spool: spool.unwrap_or_default(),
            segment: None,
            asked: None,
            replay: None,
            endpoint: endpoint.clone(),
        })
    }

    /// How the server last described a table.
    pub fn described(&self, table: usize) -> Option<&Described> {
        self.described.get(&self.table(table)?.relation)
    }

    /// Whose changes are told, if the server was a primary when the stream began.
    pub fn transaction(&self) -> Option<u32> {
        let transaction = self.transaction.as_ref().filter(|_| !self.standby)?;
        Some(transaction.id as u32)
    }

    /// The error of a stream that ended. What an open transaction does to the catalogue may be rolled back while the
    /// server decodes it, and not every place there is made for that: whole it can be decoded.
    fn undecoded(&self, error: Error) -> Error {
        match error.code() {
            Some("XX000") if self.spools => {
                only_whole("the server can't decode a transaction that is open").with_source(error)
            }
            _ => error,
        }
    }

    /// One CopyData payload: XLogData or a keepalive.
    /// Spec: PostgreSQL manual, "Streaming Replication Protocol".
    fn data(&mut self, frame: super::wire::Frame) -> Result<Option<SourceEvent>> {
        let body = self.wire.body(frame);
        match body.split_first() {
            // Start, end and clock: 24 bytes, then the plugin's message.
            Some((b'w', rest)) => {
                let message = rest.get(24..).ok_or_else(short_frame)?;
                if let Some(transaction) = self.segment
                    && message != STREAM_STOP
                {
                    if let Some(xid) = pgoutput::author(message).map_err(malformed)? {
                        let kept = self.spool.append(transaction, xid, message);
                        kept.map_err(cannot_spill)?;
                    }
                    return Ok(None);
                }
                match pgoutput::decode(message).map_err(malformed)? {
                    Message::StreamStart { xid } => self.segment = Some(xid),
                    Message::StreamStop => self.segment = None,
                    Message::StreamAbort { xid, aborted } => self.spool.abort(xid, aborted),
                    Message::StreamCommit {
                        xid,
                        commit_lsn,
                        end_lsn,
                        commit_time,
                    } => {
                        let ended = Ended {
                            xid,
                            commit_lsn,
                            end_lsn,
                            commit_time,
                        };
                        let subtransactions = self.spool.subtransactions(xid);
                        if subtransactions.is_empty() {
                            return self.replay(ended, HashSet::new());
                        }
                        let mut asking = JoinSet::new();
                        asking.spawn(rolled_back(self.endpoint.clone(), subtransactions));
                        self.asked = Some(Asked {
                            ended,
                            asking,
                            answer: None,
                        });
                    }
                    message => return open!(self).apply(message),
                }
                Ok(None)
            }
            Some((b'k', rest)) => {
                let (end, reply) = match (rest.first_chunk::<8>(), rest.get(16)) {
                    (Some(end), Some(reply)) => (Lsn(u64::from_be_bytes(*end)), *reply == 1),
                    _ => return Err(short_frame()),
                };
                if self.transaction.is_none() {
                    self.position = self.position.max(end);
                }
                Ok(Some(SourceEvent::Heartbeat { reply_wanted: reply }))
            }
            _ => Err(short_frame()),
        }
    }

    /// Begins to tell a transaction from the spool.
    fn replay(&mut self, ended: Ended, rolled_back: HashSet<u32>) -> Result<Option<SourceEvent>> {
        self.replay = Some(Replaying {
            replay: self.spool.take(ended.xid),
            rolled_back,
            end_lsn: ended.end_lsn,
        });
        open!(self).apply(Message::Begin {
            commit_lsn: ended.commit_lsn,
            commit_time: ended.commit_time,
            xid: ended.xid,
        })
    }
}

impl ChangeStream for Stream {
    type Table = SourceTable;

    fn add(&mut self, table: Arc<SourceTable>, watermark: Position) -> usize {
        let number = self.tables.len();
        self.routes.insert(table.relation, number);
        // Another source's position tells nothing: then all of it is news.
        self.tables
            .push(TableBuffer::new(table, lsn(&watermark).unwrap_or_default()));
        number
    }

    fn close(&mut self, table: usize) {
        self.routes.retain(|_, number| *number != table);
        if let Some(buffer) = self.tables.get_mut(table) {
            self.open_bytes -= buffer.bytes;
            buffer.stall();
        }
    }

    fn stall(&mut self, table: usize) {
        if let Some(buffer) = self.tables.get_mut(table) {
            self.open_bytes -= buffer.bytes;
            buffer.stall();
        }
    }

    fn refresh(&mut self, table: usize, source: Arc<SourceTable>) -> Result<()> {
        let buffer = self.tables.get_mut(table);
        buffer.ok_or_else(|| Error::bug("a table that isn't streamed"))?.source = source;
        Ok(())
    }

    fn table(&self, table: usize) -> Option<&Arc<SourceTable>> {
        self.tables.get(table).map(|buffer| &buffer.source)
    }

    fn alter(&mut self, table: usize, source: Arc<SourceTable>) -> Result<()> {
        match self.tables.get_mut(table) {
            Some(buffer) if buffer.bytes == 0 => {
                let watermark = buffer.watermark;
                *buffer = TableBuffer::new(source, watermark);
                Ok(())
            }
            _ => Err(Error::bug("a table was altered with changes in hand")),
        }
    }

    fn position(&self) -> Position {
        Position::Lsn(self.position)
    }

    fn commit_position(&self) -> Position {
        Position::Lsn(self.transaction.as_ref().map_or(self.position, |t| t.commit_lsn))
    }

    fn committed_at(&self) -> Option<i64> {
        self.committed_at
    }

    fn in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    fn open_bytes(&self) -> usize {
        self.open_bytes
    }

    fn bytes(&self, table: usize) -> usize {
        self.tables.get(table).map_or(0, |t| t.bytes)
    }

    fn is_deaf(&self) -> bool {
        self.asked.is_some() || self.replay.is_some()
    }

    fn spilled_bytes(&self) -> u64 {
        self.spool.bytes()
    }

    async fn fill(&mut self) -> Result<()> {
        if let Some(asked) = &mut self.asked {
            if let Some(answer) = asked.asking.join_next().await {
                let answer = answer.map_err(|e| Error::bug("asking for subtransactions panicked").with_source(e))?;
                asked.answer = Some(answer?);
            }
            return Ok(());
        }
        if let Some(Replaying { replay, .. }) = &mut self.replay {
            replay.fill(&mut self.spool).map_err(cannot_spill)?;
            // As between two reads of the socket, others have their turn.
            tokio::task::yield_now().await;
            return Ok(());
        }
        self.silence.end(self.silence_max, self.wire.fill()).await
    }

    fn next_event(&mut self) -> Result<Option<SourceEvent>> {
        if let Some(asked) = self.asked.take() {
            let Some(rolled_back) = asked.answer else {
                self.asked = Some(asked);
                return Ok(None);
            };
            return self.replay(asked.ended, rolled_back);
        }
        while let Some(Replaying {
            replay,
            rolled_back,
            end_lsn,
        }) = &mut self.replay
        {
            let event = if let Some(message) = replay.buffered() {
                let (author, change) = pgoutput::decode_streamed(message).map_err(malformed)?;
                match change {
                    change if !rolled_back.contains(&author) => open!(self).apply(change)?,
                    Message::Relation(relation) => open!(self).describe_as_before(relation)?,
                    _ => None,
                }
            } else if replay.is_done() {
                let end_lsn = *end_lsn;
                self.replay = None;
                open!(self).apply(Message::Commit { end_lsn })?
            } else {
                return Ok(None);
            };
            if event.is_some() {
                return Ok(event);
            }
        }
        while let Some(frame) = self.wire.buffered()? {
            if frame.tag != b'd' {
                if frame.tag == b'c' {
                    return Err(Error::transient("the server ended the replication stream"));
                }
                self.wire.control(frame).map_err(|e| self.undecoded(e))?;
                continue;
            }
            let event = self.data(frame)?;
            self.wire.consume(frame);
            if event.is_some() || self.asked.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    fn take_batch(&mut self, table: usize) -> Result<ChangeBatch> {
        match self.tables.get_mut(table) {
            Some(table) => {
                self.open_bytes -= table.bytes;
                table.take_batch()
            }
            None => Err(Error::bug("a batch of a table that isn't streamed")),
        }
    }

    async fn confirm(&mut self, confirmed: &Position, ask: bool) -> Result<()> {
        let flushed = lsn(confirmed)?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_micros() as i64)
            - EPOCH_MICROS;
        let mut payload = Vec::with_capacity(34);
        payload.push(b'r');
        for lsn in [self.position.max(flushed), flushed, flushed] {
            payload.extend_from_slice(&lsn.0.to_be_bytes());
        }
        payload.extend_from_slice(&now.to_be_bytes());
        // It has no reason of its own to say anything while we do.
        let quiet = self.silence_max.is_some_and(|max| self.silence.elapsed() > max / 4);
        payload.push(u8::from(ask || quiet));
        self.wire.send_copy_data(&payload).await
    }

    async fn end(&mut self) {
        self.wire.terminate().await;
    }
}

/// Between segments of streamed transactions, the end of one.
const STREAM_STOP: &[u8] = b"E";

fn malformed(error: pgoutput::Malformed) -> Error {
    Error::bug("cannot decode the stream").with_source(error)
}

/// The server can keep open transactions as well, until there is room.
fn cannot_spill(error: std::io::Error) -> Error {
    Error::transient("cannot keep what large transactions that are open have changed")
        .with_hint(
            "nothing is lost: the server sends them once they commit. Free space in cache.dir, or set a larger \
             apply.spill_max",
        )
        .with_code(ONLY_WHOLE)
        .with_source(error)
}

fn short_frame() -> Error {
    Error::bug("cannot decode the stream: expected XLogData or a keepalive")
}

/// What messages change: all of [`Stream`] but the connection, whose receive
/// buffer the message borrows.
struct Open<'a> {
    tables: &'a mut [TableBuffer],
    routes: &'a HashMap<u32, usize>,
    described: &'a mut HashMap<u32, Described>,
    position: &'a mut Lsn,
    committed_at: &'a mut Option<i64>,
    transaction: &'a mut Option<Transaction>,
    standby: bool,
    bytes: &'a mut usize,
}

impl Open<'_> {
    /// What was rolled back describes a table, and the server may believe it has described it for what follows.
    ///
    /// Errors: that may have been rolled back as well, or is not how the table is any more.
    fn describe_as_before(self, relation: Relation<'_>) -> Result<Option<SourceEvent>> {
        let now = described(&relation.columns);
        let table = self.routes.get(&relation.id).and_then(|table| self.tables.get(*table));
        let same = match (self.described.get(&relation.id), table) {
            (Some(before), _) => *before == now,
            (None, Some(table)) => table.source.is_described_by(&now),
            (None, None) => true,
        };
        if !same {
            return Err(only_whole(
                "a transaction has rolled back what describes a table otherwise",
            ));
        }
        self.apply(Message::Relation(relation))
    }

    fn apply(mut self, message: Message<'_>) -> Result<Option<SourceEvent>> {
        match message {
            Message::Insert { relation, new } => {
                self.change(relation, |t, tx| t.upsert(Op::Insert, new, Old::None, tx))
            }
            Message::Update { relation, old, new } => self.change(relation, |t, tx| t.upsert(Op::Upsert, new, old, tx)),
            Message::Delete { relation, old } => self.change(relation, |t, tx| t.delete(old, tx)),
            Message::Truncate { relations } => {
                let mut event = None;
                for relation in relations {
                    event = self.change(relation, TableBuffer::truncate)?.or(event);
                }
                Ok(event)
            }
            Message::Begin {
                commit_lsn,
                commit_time,
                xid,
            } => {
                *self.transaction = Some(Transaction {
                    commit_lsn,
                    commit_time,
                    // What its snapshots know a transaction by.
                    id: if self.standby { commit_lsn.0 } else { u64::from(xid) },
                });
                Ok(Some(SourceEvent::Begin))
            }
            Message::Commit { end_lsn } => {
                if let Some(transaction) = self.transaction.take() {
                    *self.committed_at = Some(transaction.commit_time.saturating_add(EPOCH_MICROS));
                }
                *self.position = (*self.position).max(end_lsn);
                Ok(Some(SourceEvent::Commit))
            }
            Message::Relation(relation) => {
                self.described.insert(relation.id, described(&relation.columns));
                // What it was before its watermark, the lake table need not follow.
                let news = |table: &usize| {
                    let commit = self.transaction.as_ref().map(|t| t.commit_lsn);
                    let watermark = self.tables.get(*table).filter(|t| !t.stalled).map(|t| t.watermark);
                    watermark
                        .zip(commit)
                        .is_some_and(|(watermark, commit)| commit >= watermark)
                };
                let table = self.routes.get(&relation.id).copied().filter(news);
                Ok(table.map(|table| SourceEvent::Described { table }))
            }
            // Those of streamed transactions are not for tables.
            _ => Ok(None),
        }
    }

    fn change(
        &mut self,
        relation: u32,
        change: impl FnOnce(&mut TableBuffer, TxId) -> Result<()>,
    ) -> Result<Option<SourceEvent>> {
        let Some(transaction) = self.transaction.as_ref() else {
            return Err(Error::bug("cannot decode the stream: a change outside a transaction"));
        };
        let Some(table) = self.routes.get(&relation).copied() else {
            if self.described.contains_key(&relation) {
                return Ok(None);
            }
            return Err(Error::bug(
                "cannot decode the stream: a change of a relation that was not described",
            ));
        };
        let Some(buffer) = self.tables.get_mut(table) else {
            return Ok(None);
        };
        // Replay, or from before a copy began: the lake has it already.
        if buffer.stalled || transaction.commit_lsn < buffer.watermark {
            return Ok(None);
        }
        let before = buffer.bytes;
        let changed = change(buffer, transaction.id);
        buffer.note(transaction);
        let event = match changed {
            Ok(()) => SourceEvent::Changed { table },
            Err(error) => {
                buffer.stall();
                if error.code() == Some(OTHER_KEY) {
                    let reason = "it had another key for a while".to_owned();
                    SourceEvent::Unfit { table, reason }
                } else {
                    SourceEvent::Stalled { table, error }
                }
            }
        };
        *self.bytes = *self.bytes - before + buffer.bytes;
        Ok(Some(event))
    }
}

fn lsn(position: &Position) -> Result<Lsn> {
    match position {
        Position::Lsn(lsn) => Ok(*lsn),
        _ => Err(Error::bug("expected an LSN, found another position")),
    }
}

/// The open batch of one table.
struct TableBuffer {
    source: Arc<SourceTable>,
    /// By column: whether it is part of the key.
    is_key: Vec<bool>,
    /// By column: whether nobody wants its values.
    is_unread: Vec<bool>,
    watermark: Lsn,
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
    fn new(source: Arc<SourceTable>, watermark: Lsn) -> Self {
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
            ops: Vec::new(),
            transactions: Vec::new(),
            unchanged: Vec::new(),
            truncated_by: None,
            bytes: 0,
            stalled: false,
        }
    }

    fn upsert(&mut self, mut op: Op, new: Tuple<'_>, old: Old<'_>, tx: TxId) -> Result<()> {
        if let Old::Key(old) | Old::Row(old) = old
            && self.key_differs(old, new)
        {
            self.delete(old, tx)?;
            op = Op::Move;
        }
        self.expect_columns(new)?;
        let row = self.ops.len() as u32;
        let source = &self.source;
        let id = &source.id;
        for (column, (datum, builder)) in new.iter().zip(&mut self.columns).enumerate() {
            if self.is_unread[column] {
                builder.append_null();
                continue;
            }
            let datum = match (datum, old) {
                // The old row has it, if the server flattened it.
                (Datum::Unchanged, Old::Row(old)) => old.iter().nth(column).unwrap_or(datum),
                (Datum::Unchanged, Old::Key(old)) if self.is_key[column] => old.iter().nth(column).unwrap_or(datum),
                _ => datum,
            };
            match datum {
                Datum::Binary(value) => builder.append(value).map_err(|e| bad_value(source, column, e))?,
                Datum::Null => builder.append_null(),
                Datum::Unchanged if self.is_key[column] => {
                    return Err(Error::bug(format!("the log does not tell the key of a change of {id}")));
                }
                Datum::Unchanged => {
                    builder.append_null();
                    self.unchanged.push(UnchangedCell {
                        row,
                        column: column as u16,
                    });
                }
                Datum::Text(_) => return Err(text_value(id, &self.source.columns[column].name)),
            }
        }
        self.push(op, tx, new.len());
        Ok(())
    }

    fn delete(&mut self, old: Tuple<'_>, tx: TxId) -> Result<()> {
        self.expect_columns(old)?;
        let id = &self.source.id;
        let mut bytes = 0;
        for (column, (datum, builder)) in old.iter().zip(&mut self.columns).enumerate() {
            match datum {
                Datum::Binary(value) if self.is_key[column] => {
                    bytes += value.len();
                    builder.append(value).map_err(|e| bad_value(&self.source, column, e))?;
                }
                Datum::Text(_) if self.is_key[column] => return Err(text_value(id, &self.source.columns[column].name)),
                _ if self.is_key[column] => {
                    let what = format!("the log tells a delete from {id} without its whole key");
                    return Err(Error::operator(what).with_code(OTHER_KEY));
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
    fn note(&mut self, transaction: &Transaction) {
        if let Some(commits) = &mut self.commits {
            let is_history = self.source.mode.is_history();
            let point = CommitPoint {
                at: Some(transaction.commit_time.saturating_add(EPOCH_MICROS)),
                position: is_history.then(|| transaction.commit_lsn.to_string().into()),
            };
            self.bytes += commits.note(self.ops.len(), self.truncated_by.is_some(), &point);
        }
    }

    fn push(&mut self, op: Op, tx: TxId, bytes: usize) {
        self.ops.push(op);
        self.transactions.push(tx);
        self.bytes += bytes + ROW_OVERHEAD_BYTES + self.columns.len();
    }

    fn expect_columns(&self, tuple: Tuple<'_>) -> Result<()> {
        if usize::from(tuple.columns) == self.columns.len() {
            return Ok(());
        }
        Err(Error::bug(format!(
            "expected {} columns in a change of {}, found {}",
            self.columns.len(),
            self.source.id,
            tuple.columns
        )))
    }

    /// Compares by bits, as the server does when it decides to send the old key.
    fn key_differs(&self, old: Tuple<'_>, new: Tuple<'_>) -> bool {
        old.iter()
            .zip(new.iter())
            .zip(&self.is_key)
            .any(|((old, new), is_key)| *is_key && new != Datum::Unchanged && old != new)
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
            tracing::warn!(table = %self.source.id, values = replaced, "values out of range were replaced, as source.infinity says");
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

/// A value that its column's lake type can't hold.
pub fn bad_value(table: &SourceTable, column: usize, error: DecodeError) -> Error {
    let name = table.columns.get(column).map_or("?", |c| c.name.as_str());
    let setting = if table.schema.key.contains(&column) {
        "a key is never replaced by NULL or clamped"
    } else {
        "source.infinity = \"null\" or \"clamp\" takes infinite and out-of-range values"
    };
    Error::operator(format!("a value of {}.{name} can't be taken over", table.id))
        .with_hint(format!(
            "change the value at the source ({setting}), then `tributary snapshot {}` copies the table anew; \
             or exclude it in source.tables",
            table.id
        ))
        .with_source(error)
}

fn text_value(table: &TableId, column: &str) -> Error {
    Error::operator(format!(
        "the server sends {table}.{column} as text, so its type has no binary form"
    ))
    .with_hint("exclude the table in source.tables")
}
