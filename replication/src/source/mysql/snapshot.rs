//! Chunks of a table, read over ranges of its key, each in a consistent
//! snapshot of its own. Nothing is locked beyond what any SELECT locks.
//!
//! What a snapshot sees: MySQL adds a transaction to `gtid_executed` once it is
//! visible, and its log has it before that. So the GTIDs that were executed
//! before the snapshot were seen, and the log's end after it (HIGH) lies past
//! all that was. MariaDB tells the one position that a consistent snapshot has.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Float32Type, Float64Type, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use xxhash_rust::xxh3::xxh3_128;

use super::catalog::{SourceTable, text};
use super::ddl::charset_name;
use super::server::Server;
use super::stream::{Told, bad_value, gtid_of, place_name};
use super::types::ColumnBuilder;
use super::wire::{Column, Endpoint, Flavor, Statement, Wire, cells, quote_identifier, quote_literal};
use crate::error::{Error, Result};
use crate::lake::{PartProgress, UNREADABLE};
use crate::position::{BinlogPosition, Gtids, Position};
use crate::source::{Begun, ChunkStart, Part, RowVersions, Saw, Throttle};

/// Rows in one Arrow batch.
const BATCH_ROWS: usize = 8 << 10;
/// Bytes of one Arrow batch, for wide rows.
const BATCH_BYTES: usize = 4 << 20;
/// What one range of keys is planned to have: at most, and at least.
const BLOCK_BYTES: (u64, u64) = (16 << 20, 256 << 10);
/// Ranges that a table smaller than as many of the largest has, so that a part
/// of it can be read.
const BLOCKS: u64 = 32;
/// Keys asked for in one statement.
const STATEMENT_KEYS: usize = 500;
/// How long a commit is waited for.
const COMMIT_TIME: Duration = Duration::from_secs(30);

/// Reads one table.
pub struct Reader {
    wire: Wire,
    server: Server,
    told: Told,
    table: Arc<SourceTable>,
    arrow: SchemaRef,
    throttle: Arc<Throttle>,
    columns: Vec<ColumnBuilder>,
    /// What was prepared last.
    statement: Option<Statement>,
    /// How the rows that are being read are laid out.
    kinds: Vec<Column>,
    reading: bool,
    /// Whether rows get a version, and those of the batch.
    versioned: bool,
    versions: Vec<String>,
}

impl Reader {
    pub async fn connect(
        endpoint: &Endpoint,
        server: &Server,
        told: Told,
        table: Arc<SourceTable>,
        throttle: Arc<Throttle>,
    ) -> Result<Self> {
        let mut wire = Wire::connect(endpoint).await?;
        server.expect(&mut wire).await?;
        wire.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            .await?;
        Ok(Self {
            wire,
            server: server.clone(),
            told,
            arrow: table.schema.arrow(),
            columns: table.columns.iter().map(|c| c.codec.builder()).collect(),
            table,
            throttle,
            statement: None,
            kinds: Vec::new(),
            reading: false,
            versioned: false,
            versions: Vec::new(),
        })
    }

    /// Opens a consistent snapshot. `None` if the table doesn't have its
    /// columns any more.
    async fn open(&mut self) -> Result<Option<ChunkStart>> {
        let start = match self.server.flavor {
            Flavor::MySql => {
                // Each of these is visible by now, and all that was told is among them.
                let before = visible_gtids(&mut self.wire, &self.server, &self.told).await?;
                self.wire
                    .execute("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
                    .await?;
                ChunkStart {
                    saw: saw_gtids(before),
                    high: self.server.log_end(&mut self.wire).await?,
                }
            }
            Flavor::MariaDb => {
                let place = consistent_place(&mut self.wire, &self.server, &self.told).await?;
                let end = place_name(place.file_number(), place.offset);
                ChunkStart {
                    // A transaction is named by where it begins.
                    saw: Arc::new(move |transaction| transaction < end),
                    high: Position::Binlog(Arc::new(place)),
                }
            }
        };
        // From here on no ALTER TABLE comes between.
        self.wire
            .query(&format!("SELECT 1 FROM {} LIMIT 0", self.table.sql_name()))
            .await?;
        Ok(self.has_columns().await?.then_some(start))
    }

    async fn has_columns(&mut self) -> Result<bool> {
        let rows = self
            .wire
            .query(&format!(
                "SELECT COLUMN_NAME, COLUMN_TYPE, CHARACTER_SET_NAME, TABLE_SCHEMA, TABLE_NAME FROM information_schema.COLUMNS \
                 WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {} ORDER BY ORDINAL_POSITION",
                quote_literal(&self.table.id.schema),
                quote_literal(&self.table.id.name)
            ))
            .await?;
        let now = rows
            .iter()
            .filter(|row| text(row, 3) == self.table.id.schema && text(row, 4) == self.table.id.name);
        let now: Vec<_> = now.collect();
        // A column more or less is told by the stream; others are as they were.
        Ok(self.table.columns.iter().all(|own| {
            now.iter().any(|row| {
                text(row, 0) == own.name
                    && own.ty.charset == row.get(2).cloned().flatten().map(|name| charset_name(&name))
                    && self.table.same_type(&own.ty.column_type, &text(row, 1))
            })
        }))
    }

    async fn close(&mut self) -> Result<()> {
        self.wire.execute("COMMIT").await
    }

    fn select_list(&self) -> String {
        let names: Vec<String> = self.table.columns.iter().map(|c| quote_identifier(&c.name)).collect();
        names.join(", ")
    }

    fn index(&self) -> String {
        quote_identifier(&self.table.key_name)
    }

    async fn select(&mut self, sql: &str) -> Result<()> {
        if let Some(before) = self.statement.take() {
            self.wire.close(before).await?;
        }
        let statement = self.wire.prepare(sql).await?;
        self.kinds = self.wire.select(&statement).await?;
        self.statement = Some(statement);
        if self.kinds.len() != self.columns.len() {
            return Err(Error::bug("a chunk has other columns than were asked for"));
        }
        self.reading = true;
        Ok(())
    }

    /// The next rows of the SELECT, or `None` once it is complete.
    async fn next_rows(&mut self) -> Result<Option<RecordBatch>> {
        let (mut rows, mut bytes) = (0, 0);
        while self.reading && rows < BATCH_ROWS && bytes < BATCH_BYTES {
            let Some(row) = self.wire.next_row().await? else {
                self.reading = false;
                break;
            };
            bytes += row.len();
            rows += 1;
            append_row(row, &self.kinds, &self.table, &mut self.columns)?;
            if self.versioned {
                self.versions.push(format!("{:032x}", xxh3_128(row)));
            }
        }
        if bytes > 0 {
            self.throttle.take(bytes as u64).await;
        }
        if rows == 0 {
            return Ok(None);
        }
        let replaced: u64 = self.columns.iter().map(ColumnBuilder::replaced).sum();
        if replaced > 0 {
            tracing::warn!(table = %self.table.id, values = replaced, "zero or partial dates were replaced, as source.infinity says");
        }
        let arrays: Vec<ArrayRef> = self.columns.iter_mut().map(ColumnBuilder::finish).collect();
        RecordBatch::try_new(self.arrow.clone(), arrays)
            .map(Some)
            .map_err(|e| Error::bug(format!("a chunk of {} does not fit its schema", self.table.id)).with_source(e))
    }

    /// The SELECT of the rows of some keys.
    fn key_query(&self, keys: &RecordBatch) -> Result<String> {
        let names: Vec<String> = self.key_columns().map(quote_identifier).collect();
        let mut sql = format!(
            "SELECT {} FROM {} FORCE INDEX ({}) WHERE ({}) IN (",
            self.select_list(),
            self.table.sql_name(),
            self.index(),
            names.join(", ")
        );
        let columns = keys.columns().iter().map(Literals::new).collect::<Result<Vec<_>>>()?;
        for row in 0..keys.num_rows() {
            sql.push_str(if row == 0 { "(" } else { ", (" });
            for (place, column) in columns.iter().enumerate() {
                if place > 0 {
                    sql.push_str(", ");
                }
                column.write(row, &mut sql);
            }
            sql.push(')');
        }
        sql.push(')');
        Ok(sql)
    }

    fn key_columns(&self) -> impl Iterator<Item = &str> {
        let columns = self.table.schema.key.iter().filter_map(|i| self.table.columns.get(*i));
        columns.map(|column| column.name.as_str())
    }

    /// Reads rows by key in a transaction of its own.
    pub async fn read_keys(&mut self, keys: &RecordBatch) -> Result<(RecordBatch, Position)> {
        let Some(start) = self.open().await? else {
            let changed = format!("the columns of {} have changed", self.table.id);
            return Err(Error::transient(changed).with_code(UNREADABLE));
        };
        let mut batches = Vec::new();
        for from in (0..keys.num_rows()).step_by(STATEMENT_KEYS) {
            let part = keys.slice(from, STATEMENT_KEYS.min(keys.num_rows() - from));
            let sql = self.key_query(&part)?;
            self.select(&sql).await?;
            while let Some(batch) = self.next_rows().await? {
                batches.push(batch);
            }
        }
        self.close().await?;
        let rows = arrow::compute::concat_batches(&self.arrow, &batches)
            .map_err(|e| Error::bug("rows of one table differ in schema").with_source(e))?;
        Ok((rows, start.high))
    }

    /// Where to cut the key into ranges.
    async fn bounds(&mut self, part: &Part) -> Result<Vec<String>> {
        let (most, least) = BLOCK_BYTES;
        let blocks = part.bytes.div_ceil((part.bytes / BLOCKS).clamp(least, most));
        if blocks <= 1 {
            return Ok(Vec::new());
        }
        let first = self.table.schema.key.first().and_then(|i| self.table.columns.get(*i));
        let Some(first) = first.cloned() else {
            return Ok(Vec::new());
        };
        let rows = (self.table.rows / blocks).max(1);
        if is_integer(&first.ty.column_type) {
            let name = quote_identifier(&first.name);
            let found = self
                .wire
                .query(&format!(
                    "SELECT MIN({name}), MAX({name}) FROM {}",
                    self.table.sql_name()
                ))
                .await?;
            let ends = found
                .first()
                .and_then(|row| Some((text(row, 0).parse::<i128>().ok()?, text(row, 1).parse::<i128>().ok()?)));
            let Some((low, high)) = ends else { return Ok(Vec::new()) };
            return self.halve(&name, low, high + 1, rows).await;
        }
        self.walk(rows).await
    }

    /// Halves a range of integers until the server's estimate of each part is
    /// about `rows`. Reads nothing but the index's upper pages.
    async fn halve(&mut self, name: &str, low: i128, high: i128, rows: u64) -> Result<Vec<String>> {
        let mut bounds = Vec::new();
        let mut left = vec![(low, high)];
        while let Some((from, to)) = left.pop() {
            let estimate = if to - from > i128::from(rows) / 2 {
                self.estimate(&format!("{name} >= {from} AND {name} < {to}")).await?
            } else {
                0
            };
            if estimate > rows + rows / 2 && to - from > 1 {
                let middle = from + (to - from) / 2;
                left.push((middle, to));
                left.push((from, middle));
            } else if from > low {
                bounds.push(encode_bound(&[from.to_string()]));
            }
        }
        Ok(bounds)
    }

    /// MySQL does not dive into an index that it is forced to use.
    async fn estimate(&mut self, condition: &str) -> Result<u64> {
        let form = match self.server.flavor {
            Flavor::MySql => "EXPLAIN FORMAT=TRADITIONAL",
            Flavor::MariaDb => "EXPLAIN",
        };
        let sql = format!(
            "{form} SELECT 1 FROM {} USE INDEX ({}) WHERE {condition}",
            self.table.sql_name(),
            self.index()
        );
        let rows = self.wire.query(&sql).await?;
        // MySQL has columns `partitions` and `filtered` more.
        let place = match self.server.flavor {
            Flavor::MySql => 9,
            Flavor::MariaDb => 8,
        };
        Ok(rows.first().and_then(|row| text(row, place).parse().ok()).unwrap_or(0))
    }

    /// Walks the key's index and notes every so-manieth key.
    async fn walk(&mut self, rows: u64) -> Result<Vec<String>> {
        let key: Vec<_> = self
            .table
            .schema
            .key
            .iter()
            .filter_map(|i| self.table.columns.get(*i))
            .collect();
        let known = key
            .iter()
            .take_while(|column| literal_form(&column.ty.column_type).is_some());
        let known: Vec<_> = known.cloned().cloned().collect();
        if known.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<String> = known.iter().map(|c| quote_identifier(&c.name)).collect();
        let forms: Vec<String> = known
            .iter()
            .zip(&names)
            .filter_map(|(column, name)| Some(literal_form(&column.ty.column_type)?.replace("{}", name)))
            .collect();
        let mut bounds: Vec<Vec<String>> = Vec::new();
        loop {
            let after = bounds
                .last()
                .map_or_else(|| "TRUE".to_owned(), |bound| at_least(&names, bound));
            let sql = format!(
                "SELECT {} FROM {} FORCE INDEX ({}) WHERE {after} ORDER BY {} LIMIT 1 OFFSET {rows}",
                forms.join(", "),
                self.table.sql_name(),
                self.index(),
                names.join(", ")
            );
            let found = self.wire.query(&sql).await?;
            let Some(row) = found.first() else { break };
            let bound: Vec<String> = (0..names.len()).map(|i| text(row, i)).collect();
            // Many rows may share the columns that ranges are made of.
            if bounds.last() == Some(&bound) {
                break;
            }
            bounds.push(bound);
        }
        Ok(bounds.iter().map(|bound| encode_bound(bound)).collect())
    }
}

impl crate::source::Reader for Reader {
    /// Without GTIDs nothing else tells when what is in the log is visible.
    async fn wait_for_writers(&mut self) -> Result<()> {
        if self.server.flavor == Flavor::MariaDb || self.server.gtid_mode {
            return Ok(());
        }
        let sql = "SELECT trx_id FROM information_schema.INNODB_TRX WHERE trx_rows_modified > 0";
        let ids = |rows: Vec<super::wire::TextRow>| rows.iter().map(|row| text(row, 0)).collect::<Vec<_>>();
        let mut waiting = ids(self.wire.query(sql).await?);
        while !waiting.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = ids(self.wire.query(sql).await?);
            waiting.retain(|id| now.contains(id));
        }
        Ok(())
    }

    async fn plan(&mut self, parts: &[Part], before: &[PartProgress]) -> Result<Option<Vec<PartProgress>>> {
        let mut plans = Vec::with_capacity(parts.len());
        for part in parts {
            plans.push(match PartProgress::earlier(before, part.relation) {
                Some(earlier) => earlier,
                None => PartProgress::of_ranges(part.relation, self.bounds(part).await?),
            });
        }
        Ok(Some(plans))
    }

    async fn begin(&mut self, _: Option<(&Part, &PartProgress)>) -> Result<Begun> {
        Ok(self.open().await?.map_or(Begun::Changed, Begun::Chunk))
    }

    async fn read(&mut self, _: &Part, plan: &PartProgress, from: u64, to: u64) -> Result<()> {
        let names: Vec<String> = self.key_columns().map(quote_identifier).collect();
        let bound = |block: u64| plan.bound(block).map(decode_bound);
        let mut conditions = Vec::new();
        if let Some(bound) = bound(from) {
            conditions.push(at_least(&names, &bound?));
        }
        if let Some(bound) = bound(to) {
            let bound = bound?;
            conditions.push(format!("NOT ({})", at_least(&names, &bound)));
            // The same once more in a form that the optimizer knows as a range.
            conditions.push(below(&names, &bound));
        }
        let condition = if conditions.is_empty() {
            String::new()
        } else {
            format!(" FORCE INDEX ({}) WHERE {}", self.index(), conditions.join(" AND "))
        };
        let sql = format!(
            "SELECT {} FROM {}{condition}",
            self.select_list(),
            self.table.sql_name()
        );
        self.select(&sql).await
    }

    async fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        self.next_rows().await
    }

    async fn end(&mut self) -> Result<()> {
        self.close().await
    }

    /// A row's version is what it consists of.
    async fn read_versions(&mut self, keys: &RecordBatch) -> Result<RowVersions> {
        let Some(start) = self.open().await? else {
            return Err(Error::transient(format!(
                "the columns of {} have changed",
                self.table.id
            )));
        };
        let mut found = RowVersions {
            rows: Vec::new(),
            versions: Vec::new(),
            high: start.high,
        };
        self.versioned = true;
        for from in (0..keys.num_rows()).step_by(STATEMENT_KEYS) {
            let part = keys.slice(from, STATEMENT_KEYS.min(keys.num_rows() - from));
            let sql = self.key_query(&part)?;
            self.select(&sql).await?;
            while let Some(batch) = self.next_rows().await? {
                found
                    .versions
                    .push(StringArray::from(std::mem::take(&mut self.versions)));
                found.rows.push(batch);
            }
        }
        self.versioned = false;
        self.close().await?;
        Ok(found)
    }

    async fn wait_for_commits(&mut self, watermark: &Position) -> Result<bool> {
        let started = Instant::now();
        loop {
            let visible = match self.server.flavor {
                Flavor::MySql => {
                    let gtids = self.server.gtids(&mut self.wire).await?;
                    match watermark.binlog().map(|place| gtids.contain(&place.gtids)) {
                        Some(Some(visible)) => visible,
                        // Nothing tells; commits take no longer.
                        _ => started.elapsed() >= Duration::from_secs(1),
                    }
                }
                Flavor::MariaDb => {
                    let place = consistent_place(&mut self.wire, &self.server, &self.told).await?;
                    self.close().await?;
                    Position::Binlog(Arc::new(place)).covers(watermark)
                }
            };
            if visible || started.elapsed() > COMMIT_TIME {
                return Ok(visible);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn saw_gtids(gtids: Gtids) -> Saw {
    Arc::new(move |transaction| match &gtids {
        Gtids::MySql(set) => gtid_of(transaction).is_some_and(|(origin, number)| set.contains(&origin, number)),
        _ => false,
    })
}

/// MySQL: every transaction that is visible now, once all that was told is.
pub async fn visible_gtids(wire: &mut Wire, server: &Server, told: &Told) -> Result<Gtids> {
    let started = Instant::now();
    loop {
        let now = server.gtids(wire).await?;
        if told.is_among(&now) {
            return Ok(now);
        }
        wait_for_commit(started).await?;
    }
}

async fn wait_for_commit(started: Instant) -> Result<()> {
    if started.elapsed() > COMMIT_TIME {
        return Err(Error::transient(
            "a transaction that the log told is not visible yet: its commit waits, for replicas or a disk",
        )
        .with_hint("see what holds commits up: semi-synchronous replication (rpl_semi_sync_…), or a full disk"));
    }
    tokio::time::sleep(Duration::from_millis(5)).await;
    Ok(())
}

/// Opens a consistent snapshot of MariaDB that has all that was told, and says
/// which place of the log it is of. Spec: MariaDB, "START TRANSACTION WITH
/// CONSISTENT SNAPSHOT".
pub async fn consistent_place(wire: &mut Wire, server: &Server, told: &Told) -> Result<BinlogPosition> {
    let started = Instant::now();
    loop {
        let place = snapshot_place(wire, server).await?;
        if told.is_before(&place) {
            return Ok(place);
        }
        wire.execute("COMMIT").await?;
        wait_for_commit(started).await?;
    }
}

async fn snapshot_place(wire: &mut Wire, server: &Server) -> Result<BinlogPosition> {
    // What is in the log by now; the snapshot may be a little further.
    let gtids = server.gtids(wire).await?;
    wire.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT").await?;
    let rows = wire.query("SHOW STATUS LIKE 'binlog_snapshot_%'").await?;
    let value = |name: &str| {
        let row = rows.iter().find(|row| text(row, 0).eq_ignore_ascii_case(name));
        row.map(|row| text(row, 1)).filter(|value| !value.is_empty())
    };
    let place = value("binlog_snapshot_file").zip(value("binlog_snapshot_position"));
    let (file, offset) = place.ok_or_else(|| {
        Error::operator("the server does not tell which place of its log a snapshot is of")
            .with_hint("turn log_bin on; `tributary check` says what else is missing")
    })?;
    Ok(BinlogPosition {
        server: server.name.clone(),
        file,
        offset: offset.parse().map_err(|_| Error::bug("expected a binlog position"))?,
        gtids,
    })
}

/// Appends one row of the binary protocol.
fn append_row(row: &[u8], kinds: &[Column], table: &SourceTable, columns: &mut [ColumnBuilder]) -> Result<()> {
    for (column, (cell, builder)) in cells(kinds, row).zip(columns).enumerate() {
        match cell? {
            Some(value) => builder
                .append_protocol(value)
                .map_err(|e| bad_value(table, column, e))?,
            None => builder.append_null(),
        }
    }
    Ok(())
}

fn is_integer(column_type: &str) -> bool {
    ["tinyint", "smallint", "mediumint", "int", "bigint"]
        .iter()
        .any(|name| column_type.to_lowercase().starts_with(name))
}

/// SQL that makes a literal of a key column's value, which the server compares
/// as it orders the index; `None` for types where it doesn't.
fn literal_form(column_type: &str) -> Option<&'static str> {
    let lower = column_type.to_lowercase();
    let name = lower.split(['(', ' ']).next().unwrap_or_default();
    Some(match name {
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "decimal" | "year" => "{}",
        "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" => {
            "CONCAT('_utf8mb4 X''', HEX(CONVERT({} USING utf8mb4)), '''')"
        }
        "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => "CONCAT('X''', HEX({}), '''')",
        "date" | "datetime" | "timestamp" | "uuid" | "inet6" | "inet4" => "CONCAT('''', {}, '''')",
        _ => return None,
    })
}

fn encode_bound(bound: &[String]) -> String {
    serde_json::json!(bound).to_string()
}

fn decode_bound(text: &str) -> Result<Vec<String>> {
    serde_json::from_str(text).map_err(|e| Error::bug("a record has bounds that are not ours").with_source(e))
}

/// `(a, b) >= (x, y)` in a form that is a range of an index.
fn at_least(names: &[String], bound: &[String]) -> String {
    match (names, bound) {
        ([name, ..], [value]) => format!("{name} >= {value}"),
        ([name, names @ ..], [value, bound @ ..]) => {
            let rest = at_least(names, bound);
            format!("{name} >= {value} AND ({name} > {value} OR ({rest}))")
        }
        _ => "TRUE".to_owned(),
    }
}

/// A range that has all rows below a bound, and perhaps a few more.
fn below(names: &[String], bound: &[String]) -> String {
    match (names, bound) {
        ([name, ..], [value]) => format!("{name} < {value}"),
        ([name, ..], [value, ..]) => format!("{name} <= {value}"),
        _ => "TRUE".to_owned(),
    }
}

/// The values of a column, to be written as SQL.
enum Literals<'a> {
    Plain(ArrayFormatter<'a>),
    Quoted(ArrayFormatter<'a>),
    Text(&'a StringArray),
    Binary(&'a arrow::array::BinaryArray),
    Float(&'a dyn Array),
}

impl<'a> Literals<'a> {
    fn new(array: &'a ArrayRef) -> Result<Self> {
        const OPTIONS: FormatOptions<'static> = FormatOptions::new()
            .with_timestamp_format(Some("%Y-%m-%d %H:%M:%S%.6f"))
            .with_timestamp_tz_format(Some("%Y-%m-%d %H:%M:%S%.6f"));
        let formatter = || {
            ArrayFormatter::try_new(array.as_ref(), &OPTIONS)
                .map_err(|e| Error::bug("a key has no text form").with_source(e))
        };
        Ok(match array.data_type() {
            DataType::Utf8 => Literals::Text(array.as_string::<i32>()),
            DataType::Binary => Literals::Binary(array.as_binary::<i32>()),
            DataType::Float32 | DataType::Float64 => Literals::Float(array.as_ref()),
            DataType::Date32 | DataType::Timestamp(..) => Literals::Quoted(formatter()?),
            _ => Literals::Plain(formatter()?),
        })
    }

    fn write(&self, row: usize, sql: &mut String) {
        let hex = |sql: &mut String, bytes: &[u8]| {
            for byte in bytes {
                let _ = write!(sql, "{byte:02X}");
            }
            sql.push('\'');
        };
        // Writing to a string does not fail.
        match self {
            Literals::Plain(values) => {
                let _ = write!(sql, "{}", values.value(row));
            }
            Literals::Quoted(values) => {
                let _ = write!(sql, "'{}'", values.value(row));
            }
            Literals::Text(values) => {
                sql.push_str("_utf8mb4 X'");
                hex(sql, values.value(row).as_bytes());
            }
            Literals::Binary(values) => {
                sql.push_str("X'");
                hex(sql, values.value(row));
            }
            Literals::Float(values) => {
                let value = match values.as_primitive_opt::<Float32Type>() {
                    Some(values) => f64::from(values.value(row)),
                    None => values.as_primitive::<Float64Type>().value(row),
                };
                let _ = write!(sql, "{value:e}");
            }
        }
    }
}

/// Blocks that make a chunk of about `bytes`.
pub fn blocks_for(part: &Part, bytes: u64, blocks: u64) -> u64 {
    let block = (part.bytes / blocks.max(1)).max(1);
    (bytes / block).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_of_several_columns_are_ranges() {
        let names = ["`a`".to_owned(), "`b`".to_owned()];
        let bound = ["1".to_owned(), "X'02'".to_owned()];
        assert_eq!(at_least(&names, &bound), "`a` >= 1 AND (`a` > 1 OR (`b` >= X'02'))");
        assert_eq!(at_least(&names, &bound[..1]), "`a` >= 1");
        assert_eq!(below(&names, &bound), "`a` <= 1");
        assert_eq!(below(&names, &bound[..1]), "`a` < 1");
        assert_eq!(decode_bound(&encode_bound(&bound)).expect("a bound"), bound);
    }
}
