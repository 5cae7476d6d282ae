//! Decodes pgoutput messages (protocol version 2, in-progress streaming included).
//! Pure: no I/O. Never panics; malformed bytes are an error.
//!
//! Everything borrows the frame. Spec: PostgreSQL manual, "Logical
//! Replication Message Formats".

use std::fmt;

use crate::position::Lsn;

/// What was expected, what was found and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    what: &'static str,
    offset: usize,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "malformed pgoutput message: expected {} at byte {}",
            self.what, self.offset
        )
    }
}

impl std::error::Error for Malformed {}

type Result<T> = std::result::Result<T, Malformed>;

#[derive(Clone, Debug, PartialEq)]
pub enum Message<'a> {
    Begin {
        /// Where the commit record starts.
        commit_lsn: Lsn,
        /// Microseconds since 2000-01-01 UTC.
        commit_time: i64,
        xid: u32,
    },
    Commit {
        /// Where the commit record ends: what is confirmed is confirmed up to here.
        end_lsn: Lsn,
    },
    Relation(Relation<'a>),
    Insert {
        relation: u32,
        new: Tuple<'a>,
    },
    Update {
        relation: u32,
        old: Old<'a>,
        new: Tuple<'a>,
    },
    Delete {
        relation: u32,
        old: Tuple<'a>,
    },
    Truncate {
        relations: Vec<u32>,
    },
    /// Changes of a transaction that is not over follow, each with the id of who made it.
    StreamStart {
        xid: u32,
    },
    StreamStop,
    /// A transaction whose changes were sent before.
    StreamCommit {
        xid: u32,
        commit_lsn: Lsn,
        end_lsn: Lsn,
        commit_time: i64,
    },
    /// What `aborted` has done does not count: all of the transaction, or a subtransaction.
    StreamAbort {
        xid: u32,
        aborted: u32,
    },
    /// Origin, type and logical messages: nothing that a table needs.
    Other,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Relation<'a> {
    pub id: u32,
    pub schema: &'a str,
    pub name: &'a str,
    pub columns: Vec<RelationColumn<'a>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RelationColumn<'a> {
    pub name: &'a str,
    pub type_oid: u32,
    pub typmod: i32,
}

/// What an update tells of the row before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Old<'a> {
    /// The key is as before.
    None,
    /// Only the key columns hold values.
    Key(Tuple<'a>),
    /// The whole row: REPLICA IDENTITY FULL.
    Row(Tuple<'a>),
}

/// The columns of one row, still on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tuple<'a> {
    pub columns: u16,
    bytes: &'a [u8],
}

/// One column of a tuple.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Datum<'a> {
    Null,
    /// A TOASTed value that the change left as it was. Not a value.
    Unchanged,
    Text(&'a [u8]),
    Binary(&'a [u8]),
}

impl<'a> Tuple<'a> {
    /// What the tuple takes on the wire.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn iter(&self) -> TupleIter<'a> {
        TupleIter(Reader {
            bytes: self.bytes,
            offset: 0,
        })
    }
}

/// Yields the data of a tuple that [`decode`] has checked.
pub struct TupleIter<'a>(Reader<'a>);

impl<'a> Iterator for TupleIter<'a> {
    type Item = Datum<'a>;

    #[inline]
    fn next(&mut self) -> Option<Datum<'a>> {
        self.0.datum().ok()
    }
}

/// Decodes one message, whole: left-over bytes are an error.
pub fn decode(bytes: &[u8]) -> Result<Message<'_>> {
    let mut r = Reader { bytes, offset: 0 };
    let tag = r.u8("a message tag")?;
    r.message(tag)
}

/// Who made the change of a message between [`Message::StreamStart`] and [`Message::StreamStop`]: the transaction or one of
/// its subtransactions. `None` if no table needs the message.
pub fn author(bytes: &[u8]) -> Result<Option<u32>> {
    let mut r = Reader { bytes, offset: 0 };
    match r.u8("a message tag")? {
        b'R' | b'I' | b'U' | b'D' | b'T' => r.u32("an xid").map(Some),
        b'O' | b'Y' | b'M' => Ok(None),
        _ => {
            r.offset = 0;
            r.fail("message tag R, I, U, D, T, O, Y or M within a stream")
        }
    }
}

/// As [`decode`], of a message that has an [`author`], which comes first.
pub fn decode_streamed(bytes: &[u8]) -> Result<(u32, Message<'_>)> {
    let mut r = Reader { bytes, offset: 0 };
    let tag = r.u8("a message tag")?;
    if !matches!(tag, b'R' | b'I' | b'U' | b'D' | b'T') {
        r.offset = 0;
        return r.fail("message tag R, I, U, D or T within a stream");
    }
    Ok((r.u32("an xid")?, r.message(tag)?))
}

struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    /// What follows a tag, to the end.
    fn message(&mut self, tag: u8) -> Result<Message<'a>> {
        let message = match tag {
            b'B' => Message::Begin {
                commit_lsn: self.lsn("the commit LSN")?,
                commit_time: self.i64("the commit time")?,
                xid: self.u32("the xid")?,
            },
            b'C' => {
                self.u8("commit flags")?;
                self.lsn("the commit LSN")?;
                let end_lsn = self.lsn("the end LSN")?;
                self.i64("the commit time")?;
                Message::Commit { end_lsn }
            }
            b'R' => Message::Relation(self.relation()?),
            b'I' => {
                let relation = self.u32("a relation id")?;
                self.tag(b'N', "tuple tag N")?;
                Message::Insert {
                    relation,
                    new: self.tuple()?,
                }
            }
            b'U' => {
                let relation = self.u32("a relation id")?;
                let (old, new_tag) = match self.u8("tuple tag K, O or N")? {
                    b'K' => (Old::Key(self.tuple()?), self.u8("tuple tag N")?),
                    b'O' => (Old::Row(self.tuple()?), self.u8("tuple tag N")?),
                    tag => (Old::None, tag),
                };
                if new_tag != b'N' {
                    return self.fail("tuple tag N");
                }
                Message::Update {
                    relation,
                    old,
                    new: self.tuple()?,
                }
            }
            b'D' => {
                let relation = self.u32("a relation id")?;
                match self.u8("tuple tag K or O")? {
                    b'K' | b'O' => Message::Delete {
                        relation,
                        old: self.tuple()?,
                    },
                    _ => return self.fail("tuple tag K or O"),
                }
            }
            b'T' => {
                let count = self.u32("a relation count")?;
                self.u8("truncate options")?;
                let mut relations = Vec::new();
                for _ in 0..count {
                    relations.push(self.u32("a relation id")?);
                }
                Message::Truncate { relations }
            }
            b'S' => {
                let xid = self.u32("an xid")?;
                self.u8("whether it is the first segment")?;
                Message::StreamStart { xid }
            }
            b'E' => Message::StreamStop,
            b'c' => {
                let xid = self.u32("an xid")?;
                self.u8("commit flags")?;
                Message::StreamCommit {
                    xid,
                    commit_lsn: self.lsn("the commit LSN")?,
                    end_lsn: self.lsn("the end LSN")?,
                    commit_time: self.i64("the commit time")?,
                }
            }
            b'A' => Message::StreamAbort {
                xid: self.u32("an xid")?,
                aborted: self.u32("the xid that is aborted")?,
            },
            b'O' | b'Y' | b'M' => return Ok(Message::Other),
            _ => {
                self.offset = 0;
                return self.fail("message tag B, C, R, I, U, D, T, S, E, c, A, O, Y or M");
            }
        };
        if self.offset != self.bytes.len() {
            return self.fail("the end of the message");
        }
        Ok(message)
    }

    fn fail<T>(&self, what: &'static str) -> Result<T> {
        Err(Malformed {
            what,
            offset: self.offset,
        })
    }

    #[inline]
    fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8]> {
        let end = self.offset.checked_add(len);
        match end.and_then(|end| self.bytes.get(self.offset..end)) {
            Some(bytes) => {
                self.offset += len;
                Ok(bytes)
            }
            None => self.fail(what),
        }
    }

    #[inline]
    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N]> {
        let bytes = self.take(N, what)?;
        bytes.try_into().or_else(|_| self.fail(what))
    }

    #[inline]
    fn u8(&mut self, what: &'static str) -> Result<u8> {
        Ok(self.array::<1>(what)?[0])
    }

    fn u16(&mut self, what: &'static str) -> Result<u16> {
        Ok(u16::from_be_bytes(self.array(what)?))
    }

    #[inline]
    fn u32(&mut self, what: &'static str) -> Result<u32> {
        Ok(u32::from_be_bytes(self.array(what)?))
    }

    fn i64(&mut self, what: &'static str) -> Result<i64> {
        Ok(i64::from_be_bytes(self.array(what)?))
    }

    fn lsn(&mut self, what: &'static str) -> Result<Lsn> {
        Ok(Lsn(u64::from_be_bytes(self.array(what)?)))
    }

    fn tag(&mut self, tag: u8, what: &'static str) -> Result<()> {
        if self.u8(what)? == tag { Ok(()) } else { self.fail(what) }
    }

    fn text(&mut self, what: &'static str) -> Result<&'a str> {
        let rest = self.bytes.get(self.offset..).unwrap_or_default();
        let Some(len) = rest.iter().position(|b| *b == 0) else {
            return self.fail(what);
        };
        let Ok(text) = std::str::from_utf8(&rest[..len]) else {
            return self.fail(what);
        };
        self.offset += len + 1;
        Ok(text)
    }

    fn relation(&mut self) -> Result<Relation<'a>> {
        let id = self.u32("a relation id")?;
        let schema = self.text("a schema name")?;
        let name = self.text("a relation name")?;
        self.u8("a replica identity")?;
        let count = self.u16("a column count")?;
        let mut columns = Vec::new();
        for _ in 0..count {
            self.u8("column flags")?;
            columns.push(RelationColumn {
                name: self.text("a column name")?,
                type_oid: self.u32("a type oid")?,
                typmod: self.u32("a type modifier")? as i32,
            });
        }
        Ok(Relation {
            id,
            // pg_catalog arrives as an empty name.
            schema: if schema.is_empty() { "pg_catalog" } else { schema },
            name,
            columns,
        })
    }

    /// Walks a tuple to its end, so that iterating it later can't fail.
    #[inline]
    fn tuple(&mut self) -> Result<Tuple<'a>> {
        let columns = self.u16("a column count")?;
        let start = self.offset;
        for _ in 0..columns {
            self.datum()?;
        }
        let bytes = self.bytes.get(start..self.offset).unwrap_or_default();
        Ok(Tuple { columns, bytes })
    }

    #[inline]
    fn datum(&mut self) -> Result<Datum<'a>> {
        match self.u8("tuple kind n, u, t or b")? {
            b'n' => Ok(Datum::Null),
            b'u' => Ok(Datum::Unchanged),
            kind @ (b't' | b'b') => {
                let len = self.u32("a value length")? as usize;
                let value = self.take(len, "a value")?;
                Ok(if kind == b'b' {
                    Datum::Binary(value)
                } else {
                    Datum::Text(value)
                })
            }
            _ => {
                self.offset -= 1;
                self.fail("tuple kind n, u, t or b")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: &[u8] = b"B\0\0\0\0\x01\x6b\x37\x48\0\0\0\0\0\0\0\x07\0\0\x02\xdf";
    const COMMIT: &[u8] = b"C\0\0\0\0\0\x01\x6b\x37\x48\0\0\0\0\x01\x6b\x37\x78\0\0\0\0\0\0\0\x07";
    const RELATION: &[u8] =
        b"R\0\0\x40\x01public\0t\0d\0\x02\x01id\0\0\0\0\x17\xff\xff\xff\xff\0v\0\0\0\0\x19\xff\xff\xff\xff";
    const INSERT: &[u8] = b"I\0\0\x40\x01N\0\x03b\0\0\0\x04\0\0\0\x05nt\0\0\0\x02hi";
    const UPDATE: &[u8] = b"U\0\0\x40\x01N\0\x02b\0\0\0\x04\0\0\0\x05u";
    const UPDATE_KEY: &[u8] = b"U\0\0\x40\x01K\0\x02b\0\0\0\x04\0\0\0\x05nN\0\x02b\0\0\0\x04\0\0\0\x06u";
    const DELETE: &[u8] = b"D\0\0\x40\x01K\0\x01b\0\0\0\x04\0\0\0\x05";
    const TRUNCATE: &[u8] = b"T\0\0\0\x02\0\0\0\x40\x01\0\0\x40\x02";
    const STREAM_START: &[u8] = b"S\0\0\x02\xdf\x01";
    const STREAM_COMMIT: &[u8] = b"c\0\0\x02\xdf\0\0\0\0\0\x01\x6b\x37\x48\0\0\0\0\x01\x6b\x37\x78\0\0\0\0\0\0\0\x07";
    const STREAM_ABORT: &[u8] = b"A\0\0\x02\xdf\0\0\x02\xe1";
    const ALL: &[&[u8]] = &[
        BEGIN,
        COMMIT,
        RELATION,
        INSERT,
        UPDATE,
        UPDATE_KEY,
        DELETE,
        TRUNCATE,
        STREAM_START,
        b"E",
        STREAM_COMMIT,
        STREAM_ABORT,
    ];

    #[test]
    fn begin_and_commit_carry_their_positions() {
        assert_eq!(
            decode(BEGIN),
            Ok(Message::Begin {
                commit_lsn: Lsn(0x16B3748),
                commit_time: 7,
                xid: 735
            })
        );
        assert_eq!(
            decode(COMMIT),
            Ok(Message::Commit {
                end_lsn: Lsn(0x16B3778)
            })
        );
    }

    #[test]
    fn relation_lists_its_columns() {
        let Ok(Message::Relation(relation)) = decode(RELATION) else {
            unreachable!("relation")
        };
        assert_eq!((relation.schema, relation.name), ("public", "t"));
        let columns: Vec<_> = relation
            .columns
            .iter()
            .map(|c| (c.name, c.type_oid, c.typmod))
            .collect();
        assert_eq!(columns, [("id", 23, -1), ("v", 25, -1)]);
    }

    #[test]
    fn tuples_tell_null_unchanged_text_and_binary_apart() {
        let Ok(Message::Insert { new, .. }) = decode(INSERT) else {
            unreachable!("insert")
        };
        let data: Vec<_> = new.iter().collect();
        assert_eq!(data, [Datum::Binary(&[0, 0, 0, 5]), Datum::Null, Datum::Text(b"hi")]);
        let Ok(Message::Update {
            old: Old::None, new, ..
        }) = decode(UPDATE)
        else {
            unreachable!("update")
        };
        assert_eq!(new.iter().nth(1), Some(Datum::Unchanged));
        let Ok(Message::Update { old: Old::Key(old), .. }) = decode(UPDATE_KEY) else {
            unreachable!("key")
        };
        assert_eq!(old.iter().next(), Some(Datum::Binary(&[0, 0, 0, 5])));
        assert!(matches!(decode(DELETE), Ok(Message::Delete { relation: 0x4001, .. })));
        assert_eq!(
            decode(TRUNCATE),
            Ok(Message::Truncate {
                relations: vec![0x4001, 0x4002]
            })
        );
    }

    #[test]
    fn streamed_transactions_carry_who_made_a_change_and_how_they_end() {
        assert_eq!(decode(STREAM_START), Ok(Message::StreamStart { xid: 735 }));
        assert_eq!(decode(b"E"), Ok(Message::StreamStop));
        assert_eq!(
            decode(STREAM_COMMIT),
            Ok(Message::StreamCommit {
                xid: 735,
                commit_lsn: Lsn(0x16B3748),
                end_lsn: Lsn(0x16B3778),
                commit_time: 7
            })
        );
        let aborted = Message::StreamAbort { xid: 735, aborted: 737 };
        assert_eq!(decode(STREAM_ABORT), Ok(aborted));
        for bytes in &ALL[2..8] {
            let streamed = streamed(bytes);
            assert_eq!(author(&streamed), Ok(Some(737)));
            assert_eq!(decode_streamed(&streamed), decode(bytes).map(|change| (737, change)));
        }
        for bytes in [BEGIN, COMMIT, STREAM_START, STREAM_COMMIT, STREAM_ABORT] {
            assert!(author(&streamed(bytes)).is_err(), "{bytes:x?}");
            assert!(decode_streamed(&streamed(bytes)).is_err(), "{bytes:x?}");
        }
    }

    /// A message as it is within a stream.
    fn streamed(bytes: &[u8]) -> Vec<u8> {
        [&bytes[..1], b"\0\0\x02\xe1", &bytes[1..]].concat()
    }

    #[test]
    fn truncated_or_extended_messages_are_errors() {
        for bytes in ALL {
            for len in 0..bytes.len() {
                assert!(decode(&bytes[..len]).is_err(), "{len} of {bytes:x?}");
                assert!(decode_streamed(&streamed(bytes)[..len]).is_err(), "{len} of {bytes:x?}");
            }
            assert!(decode(&[bytes, b"x".as_slice()].concat()).is_err());
        }
    }

    #[test]
    fn flipped_bytes_never_panic() {
        let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
        for round in 0..200_000 {
            let mut bytes = ALL[round % ALL.len()].to_vec();
            for _ in 0..3 {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                let at = (seed >> 8) as usize % bytes.len();
                bytes[at] = seed as u8;
            }
            let _ = (decode(&bytes), author(&bytes), decode_streamed(&bytes));
        }
    }
}
