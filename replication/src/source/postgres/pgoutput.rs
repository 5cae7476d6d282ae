//! Decodes pgoutput messages (protocol versions 1 and 2 without in-progress
//! streaming). Pure: no I/O. Never panics; malformed bytes are an error.
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
    let message = match r.u8("a message tag")? {
        b'B' => Message::Begin {
            commit_lsn: r.lsn("the commit LSN")?,
            commit_time: r.i64("the commit time")?,
            xid: r.u32("the xid")?,
        },
        b'C' => {
            r.u8("commit flags")?;
            r.lsn("the commit LSN")?;
            let end_lsn = r.lsn("the end LSN")?;
            r.i64("the commit time")?;
            Message::Commit { end_lsn }
        }
        b'R' => Message::Relation(r.relation()?),
        b'I' => {
            let relation = r.u32("a relation id")?;
            r.tag(b'N', "tuple tag N")?;
            Message::Insert {
                relation,
                new: r.tuple()?,
            }
        }
        b'U' => {
            let relation = r.u32("a relation id")?;
            let (old, new_tag) = match r.u8("tuple tag K, O or N")? {
                b'K' => (Old::Key(r.tuple()?), r.u8("tuple tag N")?),
                b'O' => (Old::Row(r.tuple()?), r.u8("tuple tag N")?),
                tag => (Old::None, tag),
            };
            if new_tag != b'N' {
                return r.fail("tuple tag N");
            }
            Message::Update {
                relation,
                old,
                new: r.tuple()?,
            }
        }
        b'D' => {
            let relation = r.u32("a relation id")?;
            match r.u8("tuple tag K or O")? {
                b'K' | b'O' => Message::Delete {
                    relation,
                    old: r.tuple()?,
                },
                _ => return r.fail("tuple tag K or O"),
            }
        }
        b'T' => {
            let count = r.u32("a relation count")?;
            r.u8("truncate options")?;
            let mut relations = Vec::new();
            for _ in 0..count {
                relations.push(r.u32("a relation id")?);
            }
            Message::Truncate { relations }
        }
        b'O' | b'Y' | b'M' => return Ok(Message::Other),
        _ => {
            r.offset = 0;
            return r.fail("message tag B, C, R, I, U, D, T, O, Y or M");
        }
    };
    if r.offset != bytes.len() {
        return r.fail("the end of the message");
    }
    Ok(message)
}

struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
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
    const ALL: &[&[u8]] = &[BEGIN, COMMIT, RELATION, INSERT, UPDATE, UPDATE_KEY, DELETE, TRUNCATE];

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
    fn truncated_or_extended_messages_are_errors() {
        for bytes in ALL {
            for len in 0..bytes.len() {
                assert!(decode(&bytes[..len]).is_err(), "{len} of {bytes:x?}");
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
            let _ = decode(&bytes);
        }
    }
}
