//! Decodes binlog events, as they come in the replication stream (after the
//! OK byte) or in a binlog file (after [`MAGIC`]).
//!
//! Enters: one whole event at a time. Leaves: an [`Event`] that borrows it.
//! Pure: no I/O. Never panics: malformed bytes are a [`BinlogError`]. What
//! costs is put off until it is asked for: a TABLE_MAP is parsed when rows of
//! it are read, rows are walked and compressed bodies inflated by who wants
//! them, so that an event of a table nobody follows costs its checksum alone.
//!
//! Spec: MySQL source documentation, "Replication Protocol"; MariaDB
//! knowledge base, "Replication Protocol"; where they are silent, the
//! servers' `log_event.cc`.

mod compressed;
mod gtid;
mod layout;
mod payload;
mod query;
mod reader;
mod rows;
mod table_map;
#[cfg(test)]
pub(super) mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

pub use gtid::{AlterPhase, Gtid, MariaDbGtid, MariaDbGtidEntry, MariaDbGtidList};
pub use layout::{Layout, column_type};
pub use payload::{Payload, PayloadReader};
pub use query::{Query, QueryCharset, Statement};
pub use rows::{Datum, Op, Row, RowReader, Rows};
pub use table_map::{TableColumn, TableMap, TableMapEvent};

use reader::Reader;

/// What a binlog file begins with.
pub const MAGIC: [u8; 4] = *b"\xfebin";

const HEADER_LEN: usize = 19;
const CHECKSUM_LEN: usize = 4;

const ARTIFICIAL_FLAG: u16 = 0x20;
const IGNORABLE_FLAG: u16 = 0x80;
const IN_USE_FLAG: u8 = 0x01;

/// Table maps that are kept for the case that the next statement repeats them.
const TABLES_MAX: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BinlogError {
    /// Bytes that no server writes.
    Malformed {
        event: &'static str,
        what: &'static str,
        offset: usize,
    },
    Checksum {
        event: &'static str,
        expected: u32,
        found: u32,
    },
    /// Rows of a table that the statement has not described.
    UnknownTable(u64),
    /// Something that is known, or known to be unknown, and not read.
    Unsupported(String),
    /// A compressed body that does not inflate to what it says it holds.
    Compression(String),
}

impl fmt::Display for BinlogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed { event, what, offset } => {
                write!(f, "malformed binlog event {event}: expected {what} at byte {offset}")
            }
            Self::Checksum { event, expected, found } => write!(
                f,
                "binlog event {event} is damaged: expected checksum {expected:#010x}, found {found:#010x}"
            ),
            Self::UnknownTable(id) => write!(f, "binlog rows of table id {id}, which no TABLE_MAP describes"),
            Self::Unsupported(what) | Self::Compression(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for BinlogError {}

pub type Result<T> = std::result::Result<T, BinlogError>;

/// What follows each event's body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    #[default]
    Off,
    Crc32,
}

/// What every event begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Seconds since 1970 when the statement began.
    pub timestamp: u32,
    pub event_type: u8,
    pub server_id: u32,
    /// From header to checksum.
    pub event_size: u32,
    /// Where the next event begins in the file, modulo 4 GiB. Not of events
    /// inside a TRANSACTION_PAYLOAD, and 0 in most artificial ones.
    pub log_pos: u32,
    pub flags: u16,
}

impl Header {
    /// Reads the first 19 bytes of an event: enough to walk a file.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new(bytes, "header");
        let header = Self {
            timestamp: r.u32("a timestamp")?,
            event_type: r.u8("an event type")?,
            server_id: r.u32("a server id")?,
            event_size: r.u32("an event size")?,
            log_pos: r.u32("a log position")?,
            flags: r.u16("flags")?,
        };
        if (header.event_size as usize) < HEADER_LEN {
            return Err(BinlogError::Malformed {
                event: event_name(header.event_type),
                what: "an event size that covers the header",
                offset: 9,
            });
        }
        Ok(header)
    }

    /// Whether the server made the event up for this connection: its log does
    /// not have it.
    pub fn is_artificial(&self) -> bool {
        self.flags & ARTIFICIAL_FLAG != 0
            || self.log_pos == 0 && matches!(self.event_type, event_type::ROTATE | event_type::FORMAT_DESCRIPTION)
    }
}

/// One event; borrows its bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Event<'a> {
    pub header: Header,
    pub body: Body<'a>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Body<'a> {
    FormatDescription(FormatDescription<'a>),
    /// The stream goes on in this file.
    Rotate {
        position: u64,
        file: &'a str,
    },
    /// The server shut down; the next event is of another file.
    Stop,
    /// MySQL GTID, ANONYMOUS_GTID and GTID_TAGGED: a transaction begins.
    Gtid(Gtid<'a>),
    /// MariaDB GTID: a transaction, or a statement on its own, begins.
    MariaDbGtid(MariaDbGtid),
    MariaDbGtidList(MariaDbGtidList<'a>),
    /// A transaction is committed.
    Xid(u64),
    /// The first phase of an XA transaction ends here; with `one_phase` it is
    /// its only one.
    XaPrepare {
        one_phase: bool,
        format_id: u32,
        gtrid: &'a [u8],
        bqual: &'a [u8],
    },
    /// A statement: of a transaction's frame, DDL, or one that was logged
    /// instead of its rows.
    Query(Query<'a>),
    TableMap(TableMapEvent<'a>),
    Rows(Rows<'a>),
    /// A transaction's events, compressed.
    Payload(Payload<'a>),
    /// Nothing was logged for a while; the log ends here. The file is empty
    /// where the server did not tell it.
    Heartbeat {
        file: &'a str,
        position: u64,
    },
    /// Nothing that a table needs.
    Other,
}

/// How the events after it are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormatDescription<'a> {
    pub binlog_version: u16,
    pub server_version: &'a str,
    pub checksum: Checksum,
}

pub mod event_type {
    //! `LOG_EVENT_TYPE`s that are told apart.
    pub const QUERY: u8 = 2;
    pub const STOP: u8 = 3;
    pub const ROTATE: u8 = 4;
    pub const INTVAR: u8 = 5;
    pub const APPEND_BLOCK: u8 = 9;
    pub const DELETE_FILE: u8 = 11;
    pub const RAND: u8 = 13;
    pub const USER_VAR: u8 = 14;
    pub const FORMAT_DESCRIPTION: u8 = 15;
    pub const XID: u8 = 16;
    pub const BEGIN_LOAD_QUERY: u8 = 17;
    pub const EXECUTE_LOAD_QUERY: u8 = 18;
    pub const TABLE_MAP: u8 = 19;
    pub const WRITE_ROWS_V1: u8 = 23;
    pub const UPDATE_ROWS_V1: u8 = 24;
    pub const DELETE_ROWS_V1: u8 = 25;
    pub const INCIDENT: u8 = 26;
    pub const HEARTBEAT: u8 = 27;
    pub const IGNORABLE: u8 = 28;
    pub const ROWS_QUERY: u8 = 29;
    pub const WRITE_ROWS: u8 = 30;
    pub const UPDATE_ROWS: u8 = 31;
    pub const DELETE_ROWS: u8 = 32;
    pub const GTID: u8 = 33;
    pub const ANONYMOUS_GTID: u8 = 34;
    pub const PREVIOUS_GTIDS: u8 = 35;
    pub const TRANSACTION_CONTEXT: u8 = 36;
    pub const VIEW_CHANGE: u8 = 37;
    pub const XA_PREPARE: u8 = 38;
    pub const PARTIAL_UPDATE_ROWS: u8 = 39;
    pub const TRANSACTION_PAYLOAD: u8 = 40;
    pub const HEARTBEAT_V2: u8 = 41;
    pub const GTID_TAGGED: u8 = 42;
    pub const ANNOTATE_ROWS: u8 = 160;
    pub const BINLOG_CHECKPOINT: u8 = 161;
    pub const MARIADB_GTID: u8 = 162;
    pub const GTID_LIST: u8 = 163;
    pub const START_ENCRYPTION: u8 = 164;
    pub const QUERY_COMPRESSED: u8 = 165;
    pub const WRITE_ROWS_COMPRESSED_V1: u8 = 166;
    pub const UPDATE_ROWS_COMPRESSED_V1: u8 = 167;
    pub const DELETE_ROWS_COMPRESSED_V1: u8 = 168;
    pub const WRITE_ROWS_COMPRESSED: u8 = 169;
    pub const UPDATE_ROWS_COMPRESSED: u8 = 170;
    pub const DELETE_ROWS_COMPRESSED: u8 = 171;
}

/// The type's name as the servers' tools print it.
pub fn event_name(ty: u8) -> &'static str {
    use event_type::*;
    match ty {
        QUERY => "QUERY",
        STOP => "STOP",
        ROTATE => "ROTATE",
        INTVAR => "INTVAR",
        APPEND_BLOCK => "APPEND_BLOCK",
        DELETE_FILE => "DELETE_FILE",
        RAND => "RAND",
        USER_VAR => "USER_VAR",
        FORMAT_DESCRIPTION => "FORMAT_DESCRIPTION",
        XID => "XID",
        BEGIN_LOAD_QUERY => "BEGIN_LOAD_QUERY",
        EXECUTE_LOAD_QUERY => "EXECUTE_LOAD_QUERY",
        TABLE_MAP => "TABLE_MAP",
        WRITE_ROWS_V1 => "WRITE_ROWS_V1",
        UPDATE_ROWS_V1 => "UPDATE_ROWS_V1",
        DELETE_ROWS_V1 => "DELETE_ROWS_V1",
        INCIDENT => "INCIDENT",
        HEARTBEAT => "HEARTBEAT",
        IGNORABLE => "IGNORABLE",
        ROWS_QUERY => "ROWS_QUERY",
        WRITE_ROWS => "WRITE_ROWS",
        UPDATE_ROWS => "UPDATE_ROWS",
        DELETE_ROWS => "DELETE_ROWS",
        GTID => "GTID",
        ANONYMOUS_GTID => "ANONYMOUS_GTID",
        PREVIOUS_GTIDS => "PREVIOUS_GTIDS",
        TRANSACTION_CONTEXT => "TRANSACTION_CONTEXT",
        VIEW_CHANGE => "VIEW_CHANGE",
        XA_PREPARE => "XA_PREPARE",
        PARTIAL_UPDATE_ROWS => "PARTIAL_UPDATE_ROWS",
        TRANSACTION_PAYLOAD => "TRANSACTION_PAYLOAD",
        HEARTBEAT_V2 => "HEARTBEAT_V2",
        GTID_TAGGED => "GTID_TAGGED",
        ANNOTATE_ROWS => "ANNOTATE_ROWS",
        BINLOG_CHECKPOINT => "BINLOG_CHECKPOINT",
        MARIADB_GTID => "GTID",
        GTID_LIST => "GTID_LIST",
        START_ENCRYPTION => "START_ENCRYPTION",
        QUERY_COMPRESSED => "QUERY_COMPRESSED",
        WRITE_ROWS_COMPRESSED_V1 => "WRITE_ROWS_COMPRESSED_V1",
        UPDATE_ROWS_COMPRESSED_V1 => "UPDATE_ROWS_COMPRESSED_V1",
        DELETE_ROWS_COMPRESSED_V1 => "DELETE_ROWS_COMPRESSED_V1",
        WRITE_ROWS_COMPRESSED => "WRITE_ROWS_COMPRESSED",
        UPDATE_ROWS_COMPRESSED => "UPDATE_ROWS_COMPRESSED",
        DELETE_ROWS_COMPRESSED => "DELETE_ROWS_COMPRESSED",
        _ => "of an unknown type",
    }
}

/// What must be known from one event to read the next.
#[derive(Debug)]
pub struct Decoder {
    checksum: Checksum,
    server_version: Option<String>,
    /// Whether table ids have 4 bytes: MySQL 5.1's early form.
    short_table_ids: bool,
    tables: HashMap<u64, KnownTable>,
    /// Counts statements. Rows find only tables of their own.
    statement: u64,
    /// The last event ended its statement.
    statement_ended: bool,
}

#[derive(Debug)]
struct KnownTable {
    statement: u64,
    body: Box<[u8]>,
    /// Once it was asked for.
    parsed: Option<Arc<TableMap>>,
}

impl Decoder {
    /// `checksum` is that of the events before the first FORMAT_DESCRIPTION,
    /// which says it for those after: what the connection asked for with
    /// `@source_binlog_checksum` or `@master_binlog_checksum`.
    pub fn new(checksum: Checksum) -> Self {
        Self {
            checksum,
            server_version: None,
            short_table_ids: false,
            tables: HashMap::new(),
            statement: 0,
            statement_ended: false,
        }
    }

    /// As the last FORMAT_DESCRIPTION tells it.
    pub fn server_version(&self) -> Option<&str> {
        self.server_version.as_deref()
    }

    /// Decodes one event, header to checksum, which is verified.
    pub fn decode<'a>(&mut self, event: &'a [u8]) -> Result<Event<'a>> {
        let header = whole(event)?;
        let checksum = match header.event_type {
            event_type::FORMAT_DESCRIPTION => format_checksum(event)?,
            _ => Some(self.checksum),
        };
        let body_end = match checksum {
            // A FORMAT_DESCRIPTION has the bytes even if it turns checksums off.
            Some(Checksum::Off) if header.event_type == event_type::FORMAT_DESCRIPTION => {
                event.len().saturating_sub(CHECKSUM_LEN)
            }
            Some(Checksum::Off) | None => event.len(),
            Some(Checksum::Crc32) => verify(event, header.event_type)?,
        };
        let event = event.get(..body_end).unwrap_or_default();
        self.decode_body(header, event, checksum.unwrap_or_default())
    }

    /// Decodes one event out of a TRANSACTION_PAYLOAD; those have no checksum.
    pub fn decode_inner<'a>(&mut self, event: &'a [u8]) -> Result<Event<'a>> {
        let header = whole(event)?;
        match header.event_type {
            event_type::FORMAT_DESCRIPTION | event_type::ROTATE | event_type::TRANSACTION_PAYLOAD => {
                Err(BinlogError::Malformed {
                    event: event_name(event_type::TRANSACTION_PAYLOAD),
                    what: "an event of a transaction",
                    offset: 4,
                })
            }
            _ => self.decode_body(header, event, Checksum::Off),
        }
    }

    /// The table whose id rows name. The work is done at the first call after
    /// a TABLE_MAP that differs from the last one of its id.
    pub fn table(&mut self, table_id: u64) -> Result<Arc<TableMap>> {
        match self.tables.get_mut(&table_id) {
            Some(known) if known.statement == self.statement => match &known.parsed {
                Some(parsed) => Ok(parsed.clone()),
                None => {
                    let parsed = Arc::new(TableMap::parse(table_id, &known.body)?);
                    known.parsed = Some(parsed.clone());
                    Ok(parsed)
                }
            },
            _ => Err(BinlogError::UnknownTable(table_id)),
        }
    }

    /// Schema and name of the table whose id rows name.
    pub fn table_name(&self, table_id: u64) -> Result<(&str, &str)> {
        match self.tables.get(&table_id) {
            Some(known) if known.statement == self.statement => {
                let map = TableMapEvent::read(table_id, &known.body)?;
                Ok((map.schema, map.name))
            }
            _ => Err(BinlogError::UnknownTable(table_id)),
        }
    }

    fn decode_body<'a>(&mut self, header: Header, event: &'a [u8], checksum: Checksum) -> Result<Event<'a>> {
        if std::mem::take(&mut self.statement_ended) {
            self.statement += 1;
        }
        let ty = header.event_type;
        let mut r = Reader::new(event, event_name(ty));
        r.skip(HEADER_LEN, "a header")?;
        let body = match ty {
            event_type::TABLE_MAP => Body::TableMap(self.table_map(&mut r)?),
            event_type::WRITE_ROWS_V1..=event_type::DELETE_ROWS_V1
            | event_type::WRITE_ROWS..=event_type::DELETE_ROWS
            | event_type::PARTIAL_UPDATE_ROWS
            | event_type::WRITE_ROWS_COMPRESSED_V1..=event_type::DELETE_ROWS_COMPRESSED => {
                let rows = Rows::read(&mut r, ty, self.short_table_ids)?;
                self.statement_ended = rows.statement_end;
                Body::Rows(rows)
            }
            event_type::XID => Body::Xid(r.u64("a transaction number")?),
            event_type::GTID | event_type::ANONYMOUS_GTID => Body::Gtid(gtid::read(&mut r, ty)?),
            event_type::GTID_TAGGED => Body::Gtid(gtid::read_tagged(&mut r)?),
            event_type::MARIADB_GTID => Body::MariaDbGtid(gtid::read_mariadb(&mut r, header.server_id)?),
            event_type::GTID_LIST => Body::MariaDbGtidList(gtid::read_list(&mut r)?),
            event_type::QUERY | event_type::QUERY_COMPRESSED | event_type::EXECUTE_LOAD_QUERY => {
                Body::Query(query::read(&mut r, ty)?)
            }
            event_type::TRANSACTION_PAYLOAD => Body::Payload(payload::read(&mut r)?),
            event_type::XA_PREPARE => xa_prepare(&mut r)?,
            event_type::HEARTBEAT => heartbeat(&mut r, header)?,
            event_type::HEARTBEAT_V2 => heartbeat_v2(&mut r)?,
            event_type::ROTATE => {
                self.forget_tables();
                Body::Rotate {
                    position: r.u64("a position")?,
                    file: r.text_rest("a file name")?,
                }
            }
            event_type::FORMAT_DESCRIPTION => self.format_description(&mut r, checksum)?,
            event_type::STOP => Body::Stop,
            event_type::ROWS_QUERY
            | event_type::ANNOTATE_ROWS
            | event_type::INTVAR
            | event_type::RAND
            | event_type::USER_VAR
            | event_type::PREVIOUS_GTIDS
            | event_type::BINLOG_CHECKPOINT
            | event_type::TRANSACTION_CONTEXT
            | event_type::VIEW_CHANGE
            | event_type::IGNORABLE
            // The data of a LOAD DATA that was logged as a statement; the
            // statement itself follows.
            | event_type::BEGIN_LOAD_QUERY
            | event_type::APPEND_BLOCK
            | event_type::DELETE_FILE => Body::Other,
            event_type::START_ENCRYPTION => {
                return Err(BinlogError::Unsupported(
                    "the binlog file is encrypted: only the server that wrote it can read it".into(),
                ));
            }
            event_type::INCIDENT => {
                return Err(BinlogError::Unsupported(
                    "the source logged an INCIDENT: changes are missing from its binlog".into(),
                ));
            }
            _ if header.flags & IGNORABLE_FLAG != 0 => Body::Other,
            _ => {
                return Err(BinlogError::Unsupported(format!(
                    "expected a binlog event of a known type, found type {ty}"
                )));
            }
        };
        Ok(Event { header, body })
    }

    fn table_map<'a>(&mut self, r: &mut Reader<'a>) -> Result<TableMapEvent<'a>> {
        let table_id = if self.short_table_ids {
            r.u32("a table id")?.into()
        } else {
            r.u48("a table id")?
        };
        let body = r.rest();
        let map = TableMapEvent::read(table_id, body)?;
        match self.tables.get_mut(&table_id) {
            Some(known) if *known.body == *body => known.statement = self.statement,
            _ => {
                if self.tables.len() >= TABLES_MAX {
                    self.tables.retain(|_, known| known.statement == self.statement);
                }
                self.tables.insert(
                    table_id,
                    KnownTable {
                        statement: self.statement,
                        body: body.into(),
                        parsed: None,
                    },
                );
            }
        }
        Ok(map)
    }

    fn format_description<'a>(&mut self, r: &mut Reader<'a>, checksum: Checksum) -> Result<Body<'a>> {
        let binlog_version = r.u16("a binlog version")?;
        if binlog_version != 4 {
            return Err(BinlogError::Unsupported(format!(
                "expected binlog version 4, found {binlog_version}"
            )));
        }
        let server_version = format_version(r)?;
        r.u32("a creation time")?;
        if usize::from(r.u8("a header length")?) != HEADER_LEN {
            return Err(r.error("a header length of 19"));
        }
        // One byte for each type from 1 on.
        let lengths = r.rest();
        let length_of = |ty: u8| usize::from(ty).checked_sub(1).and_then(|i| lengths.get(i));
        self.short_table_ids = length_of(event_type::TABLE_MAP) == Some(&6);
        self.checksum = checksum;
        self.server_version = Some(server_version.to_owned());
        self.forget_tables();
        Ok(Body::FormatDescription(FormatDescription {
            binlog_version,
            server_version,
            checksum,
        }))
    }

    fn forget_tables(&mut self) {
        self.statement += 1;
    }
}

/// Reads the header of an event that is there to its end.
fn whole(event: &[u8]) -> Result<Header> {
    let header = Header::read(event)?;
    if header.event_size as usize != event.len() {
        return Err(BinlogError::Malformed {
            event: event_name(header.event_type),
            what: "an event as long as its header says",
            offset: 9,
        });
    }
    Ok(header)
}

/// Checks the last four bytes; returns where they begin.
fn verify(event: &[u8], ty: u8) -> Result<usize> {
    let Some((body, expected)) = event.split_last_chunk::<CHECKSUM_LEN>() else {
        return Err(Reader::new(event, event_name(ty)).error("a checksum"));
    };
    let expected = u32::from_le_bytes(*expected);
    let mut hasher = crc32fast::Hasher::new();
    match (ty, body.split_at_checked(HEADER_LEN - 2)) {
        // The flag that the file is in use comes and goes without the sum.
        (event_type::FORMAT_DESCRIPTION, Some((before, [flags, rest @ ..]))) => {
            hasher.update(before);
            hasher.update(&[flags & !IN_USE_FLAG]);
            hasher.update(rest);
        }
        _ => hasher.update(body),
    }
    let found = hasher.finalize();
    if found != expected {
        return Err(BinlogError::Checksum {
            event: event_name(ty),
            expected,
            found,
        });
    }
    Ok(body.len())
}

/// The algorithm that a FORMAT_DESCRIPTION names before its own checksum;
/// none from servers before MySQL 5.6 and MariaDB 5.3, which have neither.
fn format_checksum(event: &[u8]) -> Result<Option<Checksum>> {
    let mut r = Reader::new(event, event_name(event_type::FORMAT_DESCRIPTION));
    r.skip(HEADER_LEN, "a header")?;
    r.skip(2, "a binlog version")?;
    let version = format_version(&mut r)?;
    let mut parts = version
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let version_number = [(); 3].map(|()| parts.next().unwrap_or(0));
    let first = if version.contains("MariaDB") {
        [5, 3, 0]
    } else {
        [5, 6, 1]
    };
    if version_number < first {
        return Ok(None);
    }
    let algorithm = event.len().checked_sub(CHECKSUM_LEN + 1).and_then(|at| event.get(at));
    match algorithm {
        Some(0) => Ok(Some(Checksum::Off)),
        Some(1) => Ok(Some(Checksum::Crc32)),
        Some(other) => Err(BinlogError::Unsupported(format!(
            "expected binlog checksum algorithm 0 or 1, found {other}"
        ))),
        None => Err(r.error("a checksum algorithm")),
    }
}

/// The server version, in 50 bytes.
fn format_version<'a>(r: &mut Reader<'a>) -> Result<&'a str> {
    let version = r.take(50, "a server version")?;
    let len = version.iter().position(|b| *b == 0).unwrap_or(version.len());
    match std::str::from_utf8(version.get(..len).unwrap_or_default()) {
        Ok(version) => Ok(version),
        Err(_) => Err(r.error("a server version in ASCII")),
    }
}

fn xa_prepare<'a>(r: &mut Reader<'a>) -> Result<Body<'a>> {
    let one_phase = r.u8("a phase flag")? != 0;
    let format_id = r.u32("an XA format id")?;
    let gtrid_len = r.u32("the length of a global id")? as usize;
    let bqual_len = r.u32("the length of a branch qualifier")? as usize;
    Ok(Body::XaPrepare {
        one_phase,
        format_id,
        gtrid: r.take(gtrid_len, "a global id")?,
        bqual: r.take(bqual_len, "a branch qualifier")?,
    })
}

fn heartbeat<'a>(r: &mut Reader<'a>, header: Header) -> Result<Body<'a>> {
    // MariaDB puts a position that does not fit the header first.
    let position = match header.log_pos {
        0 => r.u64("a position")?,
        position => position.into(),
    };
    Ok(Body::Heartbeat {
        position,
        file: r.text_rest("a file name")?,
    })
}

fn heartbeat_v2<'a>(r: &mut Reader<'a>) -> Result<Body<'a>> {
    let (mut file, mut position) = ("", 0);
    loop {
        match r.lenenc("a field type")? {
            0 => break,
            ty => {
                let len = r.len("a field length")?;
                let mut field = r.sub(len, "a field")?;
                match ty {
                    1 => file = field.text_rest("a file name")?,
                    2 => position = field.lenenc("a position")?,
                    _ => {}
                }
            }
        }
    }
    Ok(Body::Heartbeat { file, position })
}
