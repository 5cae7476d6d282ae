//! Chunks of a table, read with COPY over ctid ranges, each in a repeatable
//! read transaction of its own.
//!
//! A chunk's transaction takes its lock before its snapshot, so that no
//! TRUNCATE and no rewrite comes between, and then tells three things: which
//! transactions it sees, a position past all of them (HIGH), and which
//! physical file the block numbers belong to. On a standby the transactions that
//! it is sure to see are those whose commits lie before a position (LOW), which is
//! read first; those between LOW and HIGH, the stream has told by HIGH.
//!
//! Before the first chunk of a run, [`Reader::wait_for_writers`] waits for
//! every transaction that had written to the table by then. That closes two
//! gaps that positions alone leave open: a transaction whose changes came
//! before the table was published, and one whose commit is in the log but not
//! yet visible (a commit waits for a synchronous standby in that state). A standby
//! has no locks of writers, but shows what it has told; there it is every
//! transaction of the primary that is waited for.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::catalog::{SourceTable, number, sql_name, text};
use super::standby::{Replay, Running};
use super::stream::bad_value;
use super::transactions::nearest;
use super::types::{ColumnBuilder, DecodeError};
use super::wire::{CONFLICT, CONFLICT_HINT, Endpoint, TextRow, Wire, quote_identifier, quote_literal};
use crate::batch::TxId;
use crate::error::{Class, Error, Result};
use crate::lake::PartProgress;
use crate::position::{Lsn, Position};
use crate::source::{Begun, ChunkStart, Part, RowVersions, Throttle};

/// Rows in one Arrow batch of a COPY.
const BATCH_ROWS: usize = 8 << 10;
/// Bytes of one Arrow batch, for wide rows.
const BATCH_BYTES: usize = 4 << 20;
/// Starts every binary COPY. Spec: PostgreSQL manual, COPY, "Binary Format".
pub(super) const COPY_SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";

/// A page of heap or WAL, in bytes, as nearly every server is built.
const BLOCK_BYTES: u64 = 8192;

/// Which transactions a snapshot saw. Spec: PostgreSQL manual, "Transaction ID
/// and Snapshot Information Functions".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visibility {
    xmin: u64,
    xmax: u64,
    in_progress: HashSet<u64>,
}

impl Visibility {
    /// Parses `xmin:xmax:xip,xip,…`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let (xmin, xmax) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let list = parts.next()?;
        let in_progress = list
            .split(',')
            .filter(|x| !x.is_empty())
            .map(|x| x.parse().ok())
            .collect::<Option<_>>()?;
        Some(Self {
            xmin,
            xmax,
            in_progress,
        })
    }

    /// Whether the snapshot saw a committed transaction, given by the 32 bits
    /// that the stream tells.
    pub fn saw(&self, transaction: TxId) -> bool {
        let full = nearest(self.xmax, transaction as u32);
        full < self.xmin || (full < self.xmax && !self.in_progress.contains(&full))
    }
}

/// What a chunk sees.
#[derive(Debug)]
enum Sight {
    /// By what the server says of transactions.
    Snapshot(Visibility),
    /// On a standby: what was committed before a position, and perhaps more.
    Log(Lsn),
}

impl Sight {
    /// Whether it is sure to have a transaction, as the stream of its server calls it.
    fn saw(&self, transaction: TxId) -> bool {
        match self {
            Self::Snapshot(visibility) => visibility.saw(transaction),
            Self::Log(low) => transaction < low.0,
        }
    }
}

/// What a transaction found out before reading.
#[derive(Debug)]
pub struct Start {
    sight: Sight,
    pub high: Position,
    /// The physical files of the parts asked for, and their sizes in blocks.
    files: Vec<(u32, u64)>,
}

/// Reads one table.
pub struct Reader {
    pub(super) wire: Wire,
    pub(super) table: Arc<SourceTable>,
    arrow: SchemaRef,
    /// The schema of the COPY's rows.
    copied: SchemaRef,
    columns: Vec<ColumnBuilder>,
    throttle: Arc<Throttle>,
    /// Whether the server is a standby.
    pub(super) standby: bool,
    /// What each column is called now; `None` if it is gone or another type.
    names: Vec<Option<String>>,
    /// Whether the COPY's header is still to come.
    at_start: bool,
    /// Whether a COPY has rows left.
    copying: bool,
}

impl Reader {
    pub async fn connect(
        endpoint: &Endpoint,
        standby: bool,
        table: Arc<SourceTable>,
        throttle: Arc<Throttle>,
    ) -> Result<Self> {
        let wire = Wire::connect(endpoint, false).await?;
        let arrow = table.schema.arrow();
        Ok(Self {
            wire,
            table,
            copied: arrow.clone(),
            arrow,
            columns: Vec::new(),
            throttle,
            standby,
            names: Vec::new(),
            at_start: false,
            copying: false,
        })
    }

    /// Waits until every transaction that holds a writer's lock on the table
    /// now has ended. New ones are not waited for.
    async fn wait_for_lock_holders(&mut self) -> Result<()> {
        let holders = |rows: Vec<TextRow>| rows.iter().map(|row| text(row, 0)).collect::<HashSet<_>>();
        let mut waiting = holders(self.writers().await?);
        let started = Instant::now();
        let mut warned = false;
        let mut pause = Duration::from_millis(10);
        while !waiting.is_empty() {
            if !warned && started.elapsed() > Duration::from_secs(5) {
                tracing::warn!(table = %self.table.id, transactions = waiting.len(),
                    "the snapshot waits for transactions that write to the table; see pg_locks for who they are");
                warned = true;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
            let now = holders(self.writers().await?);
            waiting.retain(|transaction| now.contains(transaction));
        }
        Ok(())
    }

    /// Waits until every transaction of the primary has ended that had begun to
    /// write by now, as of replay.
    async fn wait_for_primary(&mut self) -> Result<()> {
        let started = Instant::now();
        let until = Running::read(&mut self.wire).await?.next;
        let mut warned = false;
        let mut pause = Duration::from_millis(10);
        while Running::read(&mut self.wire).await?.oldest < until {
            if !warned && started.elapsed() > Duration::from_secs(5) {
                tracing::warn!(table = %self.table.id,
                    "the snapshot waits for transactions that were open at the primary; see pg_stat_activity (backend_xid) and pg_prepared_xacts there for which they are");
                warned = true;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
        Ok(())
    }

    /// Who holds a writer's lock on the table: virtual transaction, process,
    /// and what it waits for. Writers hold RowExclusiveLock, and TRUNCATE
    /// AccessExclusiveLock, until after their commit is visible.
    pub(super) async fn writers(&mut self) -> Result<Vec<TextRow>> {
        let parts = self.table.parts.iter().map(|part| part.relation);
        let relations: Vec<String> = std::iter::once(self.table.relation)
            .chain(parts)
            .map(|r| r.to_string())
            .collect();
        let sql = format!(
            "SELECT l.virtualtransaction, l.pid, coalesce(a.wait_event, '') FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid) \
             WHERE l.locktype = 'relation' AND l.granted AND l.relation IN ({}) \
             AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
             AND l.mode IN ('RowExclusiveLock', 'AccessExclusiveLock')",
            relations.join(", ")
        );
        self.wire.query(&sql).await
    }

    /// Opens a transaction over some parts of the table. `None` if the table
    /// doesn't have its columns any more.
    async fn open(&mut self, parts: &[Part]) -> Result<Option<Start>> {
        let low = match self.standby {
            true => Some(Replay::read(&mut self.wire).await?.seen),
            false => None,
        };
        let mut locks = vec![format!("ONLY {}", self.table.sql_name())];
        locks.extend(parts.iter().map(|part| format!("ONLY {}", sql_name(&part.id))));
        self.wire
            .query(&format!(
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; LOCK TABLE {} IN ACCESS SHARE MODE",
                locks.join(", ")
            ))
            .await?;
        let (sight, high) = match low {
            Some(low) => (Sight::Log(low), Replay::read(&mut self.wire).await?.end),
            None => self.sight().await?,
        };
        let start = Start {
            sight,
            high: Position::Lsn(high),
            files: self.files(parts).await?,
        };
        self.names = self.current_names().await?;
        Ok((start.files.len() == parts.len()).then_some(start))
    }

    /// What the open transaction sees, and a position past all of it.
    async fn sight(&mut self) -> Result<(Sight, Lsn)> {
        let rows = self
            .wire
            .query(
                "SELECT pg_current_snapshot(), pg_current_wal_insert_lsn(), \
                 (SELECT setting FROM pg_settings WHERE name = 'wal_segment_size')",
            )
            .await?;
        let row = rows
            .first()
            .ok_or_else(|| Error::bug("the server returned no snapshot"))?;
        let visibility =
            Visibility::parse(&text(row, 0)).ok_or_else(|| Error::bug("cannot parse pg_current_snapshot()"))?;
        Ok((Sight::Snapshot(visibility), wal_end(&text(row, 1), number(row, 2)?)?))
    }

    async fn files(&mut self, parts: &[Part]) -> Result<Vec<(u32, u64)>> {
        let values: Vec<String> = parts
            .iter()
            .enumerate()
            .map(|(place, part)| format!("({place}, {})", part.relation))
            .collect();
        if values.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self
            .wire
            .query(&format!(
                "SELECT pg_relation_filenode(c.oid), pg_relation_size(c.oid) / current_setting('block_size')::int8 \
                 FROM (VALUES {}) AS p(place, oid) JOIN pg_class c ON c.oid = p.oid ORDER BY p.place",
                values.join(", ")
            ))
            .await?;
        rows.iter().map(|row| Ok((number(row, 0)?, number(row, 1)?))).collect()
    }

    async fn current_names(&mut self) -> Result<Vec<Option<String>>> {
        let rows = self
            .wire
            .query(&format!(
                "SELECT attnum, atttypid, atttypmod, attname FROM pg_attribute \
                 WHERE attrelid = {} AND attnum > 0 AND NOT attisdropped",
                self.table.relation
            ))
            .await?;
        let columns = self.table.columns.iter().map(|column| {
            let own = [
                column.attribute.to_string(),
                column.ty.oid.to_string(),
                column.ty.modifier.to_string(),
            ];
            let found = rows
                .iter()
                .find(|row| own.iter().enumerate().all(|(i, own)| text(row, i) == *own));
            found.map(|row| text(row, 3))
        });
        Ok(columns.collect())
    }

    /// The columns as the open transaction has them; one that is gone is NULL.
    fn select_list(&self) -> String {
        let column = |name: &Option<String>| name.as_deref().map_or_else(|| "NULL".to_owned(), quote_identifier);
        let columns: Vec<String> = self.names.iter().map(column).collect();
        columns.join(", ")
    }

    fn filter(&self) -> String {
        let filter = self.table.filter.as_ref();
        filter.map_or_else(String::new, |filter| format!(" AND ({filter})"))
    }

    /// Whether the open transaction has all the table's columns.
    pub(super) fn has_columns(&self) -> bool {
        self.names.iter().all(Option::is_some)
    }

    /// Ends the open transaction.
    pub(super) async fn close(&mut self) -> Result<()> {
        self.wire.query("COMMIT").await.map(|_| ())
    }

    /// Opens a transaction for reading rows by key.
    pub(super) async fn open_by_key(&mut self) -> Result<Start> {
        let parts = if self.table.is_partitioned() {
            Vec::new()
        } else {
            self.table.parts.clone()
        };
        self.open(&parts)
            .await?
            .ok_or_else(|| Error::transient(format!("{} is being replaced", self.table.id)))
    }

    /// Reads rows by key in a transaction of its own. `keys` has the key
    /// columns in key order.
    pub async fn read_keys(&mut self, keys: &RecordBatch) -> Result<(RecordBatch, Position)> {
        let start = self.open_by_key().await?;
        let mut batches = Vec::new();
        // Without its key's columns a row can't be found; what becomes of the
        // table then lies before the end of this read, too.
        let key = self.table.schema.key.iter();
        if key.clone().all(|i| self.names.get(*i).is_some_and(Option::is_some)) {
            let sql = self.key_query(keys, "")?;
            self.copy(&sql).await?;
            while let Some(batch) = self.next_rows().await? {
                batches.push(batch);
            }
        }
        self.close().await?;
        let rows = arrow::compute::concat_batches(&self.arrow, &batches)
            .map_err(|e| Error::bug("rows of one COPY differ in schema").with_source(e))?;
        Ok((rows, start.high))
    }

    /// The COPY of the rows of some keys. `more` is SQL that follows the columns.
    pub(super) fn key_query(&self, keys: &RecordBatch, more: &str) -> Result<String> {
        let key: Vec<_> = self
            .table
            .schema
            .key
            .iter()
            .filter_map(|i| self.table.columns.get(*i))
            .collect();
        let options = FormatOptions::default().with_null("NULL");
        let formatters = keys
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &options))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| Error::bug("a key has no text form").with_source(e))?;
        let mut values = Vec::with_capacity(keys.num_rows());
        for row in 0..keys.num_rows() {
            let literals: Vec<String> = formatters
                .iter()
                .zip(&key)
                .map(|(formatter, column)| {
                    let value = formatter.value(row).to_string();
                    let value = if column.type_name == "bytea" {
                        format!("\\x{value}")
                    } else {
                        value
                    };
                    format!("{}::{}", quote_literal(&value), column.type_name)
                })
                .collect();
            values.push(format!("({})", literals.join(", ")));
        }
        let name = |i: &usize| self.names.get(*i).cloned().flatten();
        let names: Vec<String> = self
            .table
            .schema
            .key
            .iter()
            .filter_map(name)
            .map(|n| quote_identifier(&n))
            .collect();
        Ok(format!(
            "COPY (SELECT {}{more} FROM {}{} WHERE ({}) IN (VALUES {}){}) TO STDOUT (FORMAT binary)",
            self.select_list(),
            if self.table.is_partitioned() { "" } else { "ONLY " },
            self.table.sql_name(),
            names.join(", "),
            values.join(", "),
            self.filter(),
        ))
    }

    async fn copy(&mut self, sql: &str) -> Result<()> {
        let columns = self.table.columns.iter().map(|c| c.codec.builder()).collect();
        self.copy_as(sql, self.arrow.clone(), columns).await
    }

    /// Starts a COPY whose rows have another schema than the table's.
    pub(super) async fn copy_as(&mut self, sql: &str, schema: SchemaRef, columns: Vec<ColumnBuilder>) -> Result<()> {
        self.at_start = true;
        self.copied = schema;
        self.columns = columns;
        self.wire.copy_out(sql).await?;
        self.copying = true;
        Ok(())
    }

    /// The error of a read that a standby may have ended: one whose answer was on its way ends with its connection.
    fn ended(&self, error: Error) -> Error {
        if self.standby && error.class() == Class::Transient && error.code().is_none() {
            return error.with_code(CONFLICT[0]).with_hint(CONFLICT_HINT);
        }
        error
    }

    /// The next rows of the COPY, or `None` once it is complete.
    pub(super) async fn next_rows(&mut self) -> Result<Option<RecordBatch>> {
        let (mut rows, mut bytes) = (0, 0);
        while self.copying && rows < BATCH_ROWS && bytes < BATCH_BYTES {
            let Some(frame) = self.wire.copy_frame().await? else {
                self.copying = false;
                break;
            };
            let mut body = self.wire.body(frame);
            bytes += body.len();
            if std::mem::take(&mut self.at_start) {
                body = skip_header(body)?;
            }
            while append_row(&mut body, &mut self.columns, |column, e| {
                bad_value(&self.table, column, e)
            })? {
                rows += 1;
            }
            self.wire.consume(frame);
        }
        if bytes > 0 {
            self.throttle.take(bytes as u64).await;
        }
        if rows == 0 {
            return Ok(None);
        }
        let replaced: u64 = self.columns.iter().map(ColumnBuilder::replaced).sum();
        if replaced > 0 {
            tracing::warn!(table = %self.table.id, values = replaced, "values out of range were replaced, as source.infinity says");
        }
        let arrays: Vec<ArrayRef> = self.columns.iter_mut().map(ColumnBuilder::finish).collect();
        RecordBatch::try_new(self.copied.clone(), arrays)
            .map(Some)
            .map_err(|e| Error::bug(format!("a chunk of {} does not fit its schema", self.table.id)).with_source(e))
    }
}

impl crate::source::Reader for Reader {
    async fn wait_for_writers(&mut self) -> Result<()> {
        match self.standby {
            true => self.wait_for_primary().await,
            false => self.wait_for_lock_holders().await,
        }
    }

    async fn plan(&mut self, parts: &[Part], _: &[PartProgress]) -> Result<Option<Vec<PartProgress>>> {
        let Some(start) = self.open(parts).await? else {
            return Ok(None);
        };
        self.close().await?;
        let plan = |(part, (file, blocks)): (&Part, &(u32, u64))| PartProgress {
            relation: part.relation,
            file: *file,
            end_block: *blocks,
            bounds: Vec::new(),
            done: Vec::new(),
        };
        Ok(Some(parts.iter().zip(&start.files).map(plan).collect()))
    }

    async fn begin(&mut self, part: Option<(&Part, &PartProgress)>) -> Result<Begun> {
        let parts: Vec<Part> = part.iter().map(|(part, _)| (*part).clone()).collect();
        let Some(start) = self.open(&parts).await? else {
            return Ok(Begun::Changed);
        };
        if !self.has_columns() {
            return Ok(Begun::Changed);
        }
        if part.is_some_and(|(_, plan)| start.files.first().is_some_and(|(file, _)| *file != plan.file)) {
            self.close().await?;
            return Ok(Begun::Rewritten);
        }
        let sight = start.sight;
        Ok(Begun::Chunk(ChunkStart {
            saw: Arc::new(move |transaction| sight.saw(transaction)),
            high: start.high,
        }))
    }

    async fn read(&mut self, part: &Part, _: &PartProgress, from: u64, to: u64) -> Result<()> {
        let sql = format!(
            "COPY (SELECT {} FROM ONLY {} WHERE ctid >= '({from},0)'::tid AND ctid < '({to},0)'::tid{}) TO STDOUT (FORMAT binary)",
            self.select_list(),
            sql_name(&part.id),
            self.filter(),
        );
        self.copy(&sql).await.map_err(|error| self.ended(error))
    }

    async fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        self.next_rows().await.map_err(|error| self.ended(error))
    }

    async fn end(&mut self) -> Result<()> {
        self.close().await.map_err(|error| self.ended(error))
    }

    async fn read_versions(&mut self, keys: &RecordBatch) -> Result<RowVersions> {
        self.versions(keys).await
    }

    async fn wait_for_commits(&mut self, _: &Position) -> Result<bool> {
        // A standby tells nothing before it shows it.
        Ok(self.standby || self.commits().await?)
    }
}

/// Blocks that make a chunk of about `bytes`, TOAST included.
pub fn blocks_for(part: &Part, bytes: u64, heap_blocks: u64) -> u64 {
    let heap = heap_blocks.max(1) * BLOCK_BYTES;
    let with_toast = part.bytes.max(heap);
    (bytes.saturating_mul(heap_blocks.max(1)) / with_toast).clamp(1, u64::from(u32::MAX))
}

/// The end of WAL as a position that the stream will reach.
///
/// `pg_current_wal_insert_lsn` skips a page header that is not written yet,
/// while the walsender counts to the end of the last record. On an idle server
/// the two differ for as long as it stays idle.
pub fn wal_end(text: &str, segment_bytes: u64) -> Result<Lsn> {
    // Page header sizes: SizeOfXLogShortPHD on any page, SizeOfXLogLongPHD on
    // the first of a segment.
    const SHORT: u64 = 24;
    const LONG: u64 = 40;
    let lsn: Lsn = text.parse()?;
    Ok(if lsn.0 % segment_bytes.max(1) == LONG {
        Lsn(lsn.0 - LONG)
    } else if lsn.0 % BLOCK_BYTES == SHORT {
        Lsn(lsn.0 - SHORT)
    } else {
        lsn
    })
}

fn malformed(what: &str) -> Error {
    Error::bug(format!("malformed COPY data: expected {what}"))
}

pub(super) fn skip_header(body: &[u8]) -> Result<&[u8]> {
    let rest = body
        .strip_prefix(COPY_SIGNATURE)
        .ok_or_else(|| malformed("the signature"))?;
    // Flags, then the length of an extension that nobody uses yet.
    let (extension, rest) = rest
        .get(4..)
        .and_then(|rest| rest.split_first_chunk::<4>())
        .ok_or_else(|| malformed("a header"))?;
    rest.get(u32::from_be_bytes(*extension) as usize..)
        .ok_or_else(|| malformed("a header extension"))
}

/// Appends one row and moves past it. False at the trailer or the end. `bad`
/// tells what is wrong with a column's value.
pub(super) fn append_row(
    body: &mut &[u8],
    columns: &mut [ColumnBuilder],
    bad: impl Fn(usize, DecodeError) -> Error,
) -> Result<bool> {
    let Some((count, mut rest)) = body.split_first_chunk::<2>() else {
        return if body.is_empty() {
            Ok(false)
        } else {
            Err(malformed("a field count"))
        };
    };
    let count = i16::from_be_bytes(*count);
    if count == -1 {
        *body = rest;
        return Ok(false);
    }
    if usize::try_from(count) != Ok(columns.len()) {
        return Err(malformed("as many fields as columns"));
    }
    for (column, builder) in columns.iter_mut().enumerate() {
        let (len, after) = rest
            .split_first_chunk::<4>()
            .ok_or_else(|| malformed("a field length"))?;
        rest = after;
        match usize::try_from(i32::from_be_bytes(*len)) {
            // -1
            Err(_) => builder.append_null(),
            Ok(len) => {
                let (value, after) = rest.split_at_checked(len).ok_or_else(|| malformed("a field"))?;
                builder.append(value).map_err(|e| bad(column, e))?;
                rest = after;
            }
        }
    }
    *body = rest;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visibility_is_exact_across_the_32_bit_wrap() {
        let v = Visibility::parse("100:105:101,103").expect("snapshot");
        for (xid, seen) in [
            (99_u32, true),
            (100, true),
            (101, false),
            (102, true),
            (103, false),
            (104, true),
            (105, false),
            (200, false),
        ] {
            assert_eq!(v.saw(TxId::from(xid)), seen, "{xid}");
        }
        let epoch = 3_u64 << 32;
        let v = Visibility::parse(&format!("{}:{}:{}", epoch - 2, epoch + 2, epoch + 1)).expect("snapshot");
        for (xid, seen) in [
            (u32::MAX - 5, true),
            (u32::MAX, true),
            (0, true),
            (1, false),
            (2, false),
        ] {
            assert_eq!(v.saw(TxId::from(xid)), seen, "{xid}");
        }
        for text in ["", "1", "1:2", "a:b:", "1:2:x"] {
            assert_eq!(Visibility::parse(text), None, "{text}");
        }
        assert!(Visibility::parse("5:5:").is_some());
    }

    #[test]
    fn wal_end_steps_back_over_an_unwritten_page_header() {
        for (text, end) in [
            ("0/2002018", 0x200_2000),
            ("0/2000028", 0x200_0000),
            // A record may end here on a page that doesn't begin a segment.
            ("0/2002028", 0x200_2028),
            ("0/2000030", 0x200_0030),
            ("0/1FFFFF8", 0x1FF_FFF8),
        ] {
            assert_eq!(wal_end(text, 16 << 20).expect(text), Lsn(end));
        }
    }

    #[test]
    fn copy_headers_are_checked() {
        let mut header = COPY_SIGNATURE.to_vec();
        header.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 2, 9, 9, 7]);
        assert_eq!(skip_header(&header).expect("header"), [7]);
        for len in 0..header.len() - 1 {
            assert!(skip_header(&header[..len]).is_err(), "{len}");
        }
    }
}
