//! The events that begin a transaction and name it.

use super::reader::Reader;
use super::{Result, event_type};

/// MySQL's GTID, or `anonymous` where `gtid_mode` left it without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gtid<'a> {
    pub anonymous: bool,
    /// In the order of its text form.
    pub uuid: [u8; 16],
    /// Empty in most.
    pub tag: &'a str,
    /// The transaction's number; 0 if anonymous.
    pub gno: u64,
    pub last_committed: u64,
    pub sequence_number: u64,
    /// Microseconds since 1970. Since MySQL 8.0.
    pub immediate_commit_micros: Option<u64>,
    pub original_commit_micros: Option<u64>,
    /// Bytes of the transaction's events, this one included. Since MySQL 8.0.
    pub transaction_length: Option<u64>,
}

pub(super) fn read<'a>(r: &mut Reader<'a>, ty: u8) -> Result<Gtid<'a>> {
    r.skip(1, "flags")?;
    let mut gtid = Gtid {
        anonymous: ty == event_type::ANONYMOUS_GTID,
        uuid: r.array("a UUID")?,
        tag: "",
        gno: r.u64("a transaction number")?,
        last_committed: 0,
        sequence_number: 0,
        immediate_commit_micros: None,
        original_commit_micros: None,
        transaction_length: None,
    };
    if r.is_empty() || r.u8("a timestamp type")? != 2 {
        return Ok(gtid);
    }
    gtid.last_committed = r.u64("a logical timestamp")?;
    gtid.sequence_number = r.u64("a logical timestamp")?;
    if r.remaining() < 7 {
        return Ok(gtid);
    }
    const ORIGINAL_FOLLOWS: u64 = 1 << 55;
    let immediate = r.uint(7, "a commit time")?;
    gtid.immediate_commit_micros = Some(immediate & !ORIGINAL_FOLLOWS);
    gtid.original_commit_micros = if immediate & ORIGINAL_FOLLOWS != 0 {
        Some(r.uint(7, "a commit time")?)
    } else {
        gtid.immediate_commit_micros
    };
    if !r.is_empty() {
        gtid.transaction_length = Some(r.lenenc("a transaction length")?);
    }
    Ok(gtid)
}

/// GTID_TAGGED, in the format of MySQL's serialization library: numbered
/// fields, of which a reader may ignore those past the last that matters.
pub(super) fn read_tagged<'a>(r: &mut Reader<'a>) -> Result<Gtid<'a>> {
    if varlen(r, "a format version")? != 1 {
        return Err(r.error("format version 1 before"));
    }
    let size = varlen(r, "a message size")?;
    if varlen(r, "the last field that matters")? > 11 {
        return Err(r.error("fields that are known"));
    }
    // The size counts from the format version on.
    if size > (r.remaining() as u64).saturating_add(19) {
        return Err(r.error("a message size that fits the event"));
    }
    let mut gtid = Gtid {
        anonymous: false,
        uuid: [0; 16],
        tag: "",
        gno: 0,
        last_committed: 0,
        sequence_number: 0,
        immediate_commit_micros: None,
        original_commit_micros: None,
        transaction_length: None,
    };
    while !r.is_empty() {
        match varlen(r, "a field id")? {
            0 => drop(varlen(r, "flags")?),
            1 => {
                for byte in &mut gtid.uuid {
                    *byte = u8::try_from(varlen(r, "a byte of a UUID")?).map_err(|_| r.error("a byte of a UUID"))?;
                }
            }
            2 => gtid.gno = signed(varlen(r, "a transaction number")?),
            3 => {
                let len = varlen(r, "the length of a tag")?;
                let len = usize::try_from(len).map_err(|_| r.error("the length of a tag"))?;
                gtid.tag = r.text(len, "a tag")?;
            }
            4 => gtid.last_committed = signed(varlen(r, "a logical timestamp")?),
            5 => gtid.sequence_number = signed(varlen(r, "a logical timestamp")?),
            6 => gtid.immediate_commit_micros = Some(varlen(r, "a commit time")?),
            7 => gtid.original_commit_micros = Some(varlen(r, "a commit time")?),
            8 => gtid.transaction_length = Some(varlen(r, "a transaction length")?),
            // The server versions and the commit group.
            9..=11 => drop(varlen(r, "a field")?),
            // What later versions add ends the part that is understood.
            _ => break,
        }
    }
    if gtid.gno == 0 {
        return Err(r.error("a transaction number"));
    }
    gtid.original_commit_micros = gtid.original_commit_micros.or(gtid.immediate_commit_micros);
    Ok(gtid)
}

/// A number that says by the ones at its low end how many bytes follow.
fn varlen(r: &mut Reader<'_>, what: &'static str) -> Result<u64> {
    let first = r.u8(what)?;
    let more = first.trailing_ones() as usize;
    let rest = r.uint(more, what)?;
    Ok(match more {
        8 => rest,
        7 => rest,
        _ => u64::from(first >> (more + 1)) | rest << (7 - more),
    })
}

/// Signed numbers keep their sign in the lowest bit; none here is negative.
fn signed(number: u64) -> u64 {
    number >> 1
}

/// MariaDB's GTID is domain-server-sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MariaDbGtid {
    pub domain_id: u32,
    pub server_id: u32,
    pub sequence: u64,
    /// The `FL_` bits.
    pub flags: u8,
    pub commit_id: Option<u64>,
    pub alter: Option<AlterPhase>,
}

/// With `binlog_alter_two_phase`, an ALTER TABLE is logged when it starts,
/// then again when it ends, which names its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlterPhase {
    Start,
    Commit { started_by: u64 },
    Rollback { started_by: u64 },
}

impl MariaDbGtid {
    /// One statement, without a commit after it.
    pub fn is_standalone(&self) -> bool {
        self.flags & 0x01 != 0
    }

    /// Whether it can be rolled back.
    pub fn is_transactional(&self) -> bool {
        self.flags & 0x04 != 0
    }

    pub fn is_ddl(&self) -> bool {
        self.flags & 0x20 != 0
    }

    /// The first phase of an XA transaction: not committed yet.
    pub fn is_xa_prepared(&self) -> bool {
        self.flags & 0x40 != 0
    }

    /// The second phase: XA COMMIT or XA ROLLBACK.
    pub fn is_xa_completed(&self) -> bool {
        self.flags & 0x80 != 0
    }
}

pub(super) fn read_mariadb(r: &mut Reader<'_>, server_id: u32) -> Result<MariaDbGtid> {
    let mut gtid = MariaDbGtid {
        sequence: r.u64("a sequence number")?,
        domain_id: r.u32("a domain id")?,
        server_id,
        flags: r.u8("flags")?,
        commit_id: None,
        alter: None,
    };
    if gtid.flags & 0x02 != 0 {
        gtid.commit_id = Some(r.u64("a commit id")?);
    }
    if gtid.is_xa_prepared() || gtid.is_xa_completed() {
        r.skip(4, "an XA format id")?;
        let gtrid = r.u8("the length of a global id")?;
        let bqual = r.u8("the length of a branch qualifier")?;
        r.skip(usize::from(gtrid) + usize::from(bqual), "an XA id")?;
    }
    // Padding reads as no more flags.
    let more = if r.is_empty() { 0 } else { r.u8("flags")? };
    if more & 0x01 != 0 {
        r.skip(1, "a count of engines")?;
    }
    gtid.alter = match more & 0x0e {
        0 => None,
        0x02 => Some(AlterPhase::Start),
        0x04 => Some(AlterPhase::Commit {
            started_by: r.u64("the sequence number of an ALTER's start")?,
        }),
        0x08 => Some(AlterPhase::Rollback {
            started_by: r.u64("the sequence number of an ALTER's start")?,
        }),
        _ => return Err(r.error("one phase of an ALTER before")),
    };
    Ok(gtid)
}

/// The last GTID of each domain and server before a binlog file; also sent in
/// a stream to tell where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MariaDbGtidList<'a> {
    pub flags: u8,
    entries: &'a [[u8; 16]],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MariaDbGtidEntry {
    pub domain_id: u32,
    pub server_id: u32,
    pub sequence: u64,
}

impl<'a> MariaDbGtidList<'a> {
    pub fn iter(&self) -> impl Iterator<Item = MariaDbGtidEntry> + 'a {
        self.entries.iter().map(|entry| {
            let number = u128::from_le_bytes(*entry);
            MariaDbGtidEntry {
                domain_id: number as u32,
                server_id: (number >> 32) as u32,
                sequence: (number >> 64) as u64,
            }
        })
    }
}

pub(super) fn read_list<'a>(r: &mut Reader<'a>) -> Result<MariaDbGtidList<'a>> {
    let head = r.u32("a count of GTIDs")?;
    let (count, flags) = (head & 0x0fff_ffff, (head >> 28) as u8);
    let bytes = r.take((count as usize).saturating_mul(16), "GTIDs")?;
    let (entries, _) = bytes.as_chunks();
    Ok(MariaDbGtidList { flags, entries })
}
