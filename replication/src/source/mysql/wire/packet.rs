//! The protocol's packets, as bytes: what the server says, parsed with checked
//! reads, and what the client answers. Pure: no I/O.
//!
//! Spec: MySQL source, "MySQL Client/Server Protocol"; MariaDB, "Client/Server Protocol".

use bytes::{BufMut, BytesMut};

use super::{Flavor, Server};
use crate::error::{Error, Result};

/// Length and sequence number.
pub const HEADER_BYTES: usize = 4;
/// A payload of this size goes on in the next packet.
pub const CHUNK_BYTES: usize = 0xff_ffff;

pub const OK: u8 = 0x00;
pub const MORE_DATA: u8 = 0x01;
pub const LOCAL_INFILE: u8 = 0xfb;
/// End of rows, or in a login another authentication method.
pub const EOF: u8 = 0xfe;
pub const ERR: u8 = 0xff;

pub mod capability {
    pub const LONG_PASSWORD: u32 = 1;
    pub const LONG_FLAG: u32 = 1 << 2;
    pub const CONNECT_WITH_DB: u32 = 1 << 3;
    pub const PROTOCOL_41: u32 = 1 << 9;
    pub const SSL: u32 = 1 << 11;
    pub const TRANSACTIONS: u32 = 1 << 13;
    pub const SECURE_CONNECTION: u32 = 1 << 15;
    pub const PLUGIN_AUTH: u32 = 1 << 19;
    pub const CONNECT_ATTRS: u32 = 1 << 20;
    pub const PLUGIN_AUTH_LENENC: u32 = 1 << 21;
    pub const DEPRECATE_EOF: u32 = 1 << 24;
}

/// Reads from the front; `None` is "too short".
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// A length-encoded integer; `None` also for NULL's and ERR's first byte.
    pub fn lenenc(&mut self) -> Option<u64> {
        match self.u8()? {
            first @ 0..=0xfa => Some(first.into()),
            0xfc => self.u16().map(u64::from),
            0xfd => self
                .array::<3>()
                .map(|[a, b, c]| u32::from_le_bytes([a, b, c, 0]).into()),
            0xfe => self.array().map(u64::from_le_bytes),
            _ => None,
        }
    }

    pub fn lenenc_bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.lenenc()?;
        self.bytes(usize::try_from(len).ok()?)
    }

    /// Up to a NUL byte, or to the end (some servers leave out the last NUL).
    pub fn until_nul(&mut self) -> &'a [u8] {
        let len = self.0.iter().position(|b| *b == 0).unwrap_or(self.0.len());
        let head = self.bytes(len).unwrap_or_default();
        let _ = self.u8();
        head
    }
}

pub fn put_lenenc_bytes(out: &mut BytesMut, bytes: &[u8]) {
    let len = bytes.len() as u64;
    match len {
        0..=0xfa => out.put_u8(len as u8),
        0xfb..=0xffff => {
            out.put_u8(0xfc);
            out.put_u16_le(len as u16);
        }
        _ => {
            out.put_u8(0xfe);
            out.put_u64_le(len);
        }
    }
    out.extend_from_slice(bytes);
}

fn put_nul_text(out: &mut BytesMut, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.put_u8(0);
}

/// The server's first packet.
pub struct Greeting {
    pub server: Server,
    pub capabilities: u32,
    pub plugin: String,
    pub nonce: Vec<u8>,
}

impl Greeting {
    pub fn parse(payload: &[u8]) -> Result<Self> {
        let protocol = payload.first().copied().unwrap_or_default();
        if protocol != 10 {
            return Err(Error::operator(format!(
                "expected protocol version 10 of a MySQL or MariaDB server, found {protocol}"
            ))
            .with_hint("check host and port in source.url: another service may listen there"));
        }
        Self::fields(payload).ok_or_else(|| malformed("greeting"))
    }

    fn fields(payload: &[u8]) -> Option<Self> {
        let mut reader = Reader(payload.get(1..)?);
        let version = String::from_utf8_lossy(reader.until_nul()).into_owned();
        let connection_id = reader.u32()?;
        let mut nonce = reader.bytes(8)?.to_vec();
        reader.u8()?;
        let low = reader.u16()?;
        reader.bytes(3)?; // character set and status
        let high = reader.u16()?;
        let capabilities = u32::from(low) | u32::from(high) << 16;
        let nonce_len = usize::from(reader.u8()?);
        reader.bytes(10)?;
        let rest = nonce_len.saturating_sub(8).max(13).min(reader.0.len());
        let rest = reader.bytes(rest)?;
        nonce.extend_from_slice(rest.strip_suffix(&[0]).unwrap_or(rest));
        let plugin = String::from_utf8_lossy(reader.until_nul()).into_owned();
        // MariaDB's own clients know its servers by this bit, which every MySQL sets.
        let maria = version.to_ascii_lowercase().contains("mariadb") || capabilities & capability::LONG_PASSWORD == 0;
        // MariaDB 10 went by a version that old replicas let pass.
        let version = match version.strip_prefix("5.5.5-") {
            Some(real) if maria => real.to_owned(),
            _ => version,
        };
        Some(Self {
            server: Server {
                number: version_number(&version),
                version,
                flavor: if maria { Flavor::MariaDb } else { Flavor::MySql },
                connection_id,
            },
            capabilities,
            plugin,
            nonce,
        })
    }
}

fn version_number(text: &str) -> (u16, u16, u16) {
    let mut parts = text
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    (next(), next(), next())
}

/// `utf8mb4_general_ci`: the one number both servers know for utf8mb4.
const COLLATION: u8 = 45;

/// The fields that the request for TLS and the login have in common.
pub fn put_login_head(out: &mut BytesMut, capabilities: u32) {
    out.put_u32_le(capabilities);
    out.put_u32_le(1 << 30);
    out.put_u8(COLLATION);
    out.put_bytes(0, 23);
}

pub struct Login<'a> {
    pub capabilities: u32,
    pub user: &'a str,
    pub answer: &'a [u8],
    pub database: Option<&'a str>,
    pub plugin: &'a str,
}

impl Login<'_> {
    pub fn put(&self, out: &mut BytesMut) {
        put_login_head(out, self.capabilities);
        put_nul_text(out, self.user);
        // Below 251 bytes, as every answer to a nonce is, both forms of length are the same byte.
        put_lenenc_bytes(out, self.answer);
        if let Some(database) = self.database {
            put_nul_text(out, database);
        }
        put_nul_text(out, self.plugin);
        if self.capabilities & capability::CONNECT_ATTRS != 0 {
            let mut attributes = BytesMut::new();
            for text in [
                "program_name",
                "tributary",
                "_client_version",
                env!("CARGO_PKG_VERSION"),
            ] {
                put_lenenc_bytes(&mut attributes, text.as_bytes());
            }
            put_lenenc_bytes(out, &attributes);
        }
    }
}

/// A column of a result set, as its definition packet describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// One of [`super::kind`].
    pub kind: u8,
    pub flags: u16,
    /// The collation's number.
    pub charset: u16,
    /// The longest value, in bytes.
    pub length: u32,
    pub decimals: u8,
}

impl Column {
    const UNSIGNED: u16 = 1 << 5;
    const BINARY: u16 = 63;

    pub fn unsigned(&self) -> bool {
        self.flags & Self::UNSIGNED != 0
    }

    /// Bytes, not text.
    pub fn binary(&self) -> bool {
        self.charset == Self::BINARY
    }

    pub fn parse(payload: &[u8]) -> Option<Self> {
        let mut reader = Reader(payload);
        // Catalog, schema, alias and name of the table.
        for _ in 0..4 {
            reader.lenenc_bytes()?;
        }
        let name = String::from_utf8_lossy(reader.lenenc_bytes()?).into_owned();
        reader.lenenc_bytes()?;
        reader.lenenc()?;
        let charset = reader.u16()?;
        let length = reader.u32()?;
        Some(Self {
            name,
            kind: reader.u8()?,
            flags: reader.u16()?,
            charset,
            length,
            decimals: reader.u8()?,
        })
    }
}

/// The answer to COM_STMT_PREPARE: statement, columns, parameters.
pub fn prepared(payload: &[u8]) -> Option<(u32, u16, u16)> {
    let mut reader = Reader(payload.get(1..)?);
    Some((reader.u32()?, reader.u16()?, reader.u16()?))
}

/// The cells of a row of the text protocol.
pub fn text_row(payload: &[u8], columns: usize) -> Option<Vec<Option<String>>> {
    let mut reader = Reader(payload);
    let row = (0..columns)
        .map(|_| {
            if reader.0.first() == Some(&0xfb) {
                reader.u8()?;
                return Some(None);
            }
            let bytes = reader.lenenc_bytes()?;
            Some(Some(String::from_utf8_lossy(bytes).into_owned()))
        })
        .collect::<Option<Vec<_>>>()?;
    reader.0.is_empty().then_some(row)
}

pub fn malformed(what: &str) -> Error {
    Error::transient(format!("the server sent a malformed {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A greeting of MariaDB 10.11, and of MySQL 9.
    const MARIA: &[u8] = b"\x0a5.5.5-10.11.6-MariaDB-log\0\x05\0\0\0ABCDEFGH\0\xfe\xf7\x2d\x02\0\xff\x81\x15\
        \0\0\0\0\0\0\x1d\0\0\0ABCDEFGHIJKL\0mysql_native_password\0";
    const MYSQL: &[u8] = b"\x0a9.7.4-0debian\0\x0b\0\0\0ABCDEFGH\0\xff\xff\xff\x02\0\xff\xdf\x15\
        \0\0\0\0\0\0\0\0\0\0ABCDEFGHIJKL\0caching_sha2_password\0";

    #[test]
    fn a_greeting_names_the_server() {
        let maria = Greeting::parse(MARIA).expect("greeting");
        assert_eq!(maria.server.flavor, Flavor::MariaDb);
        assert_eq!(maria.server.version, "10.11.6-MariaDB-log");
        assert_eq!(maria.server.number, (10, 11, 6));
        assert_eq!(maria.nonce, b"ABCDEFGHABCDEFGHIJKL");
        assert_eq!(maria.plugin, "mysql_native_password");
        let mysql = Greeting::parse(MYSQL).expect("greeting");
        assert_eq!((mysql.server.flavor, mysql.server.number), (Flavor::MySql, (9, 7, 4)));
        assert_eq!(mysql.server.connection_id, 11);
        assert!(mysql.capabilities & capability::SSL != 0);
    }

    #[test]
    fn truncated_packets_are_errors() {
        let head = MYSQL.len() - b"IJKL\0caching_sha2_password\0".len() - 8;
        for len in 0..head {
            assert!(Greeting::parse(&MYSQL[..len]).is_err(), "{len}");
        }
        let column = b"\x03def\x01s\x01t\x01t\x04name\x04name\x0c\x2d\0\x40\0\0\0\xfd\x21\0\x00\0\0";
        let parsed = Column::parse(column).expect("column");
        assert_eq!((parsed.name.as_str(), parsed.kind, parsed.charset), ("name", 0xfd, 45));
        assert!(parsed.unsigned() && !parsed.binary());
        for len in 0..column.len() - 2 {
            assert!(Column::parse(&column[..len]).is_none(), "{len}");
        }
    }

    #[test]
    fn text_rows_are_exact() {
        let row = text_row(b"\x01a\xfb\x00", 3).expect("row");
        assert_eq!(row, [Some("a".to_owned()), None, Some(String::new())]);
        for bad in [&b"\x01a\xfb"[..], b"\x01a\xfb\x00\x00", b"\x02a", b"\xff", b"\xfc\x01"] {
            assert!(text_row(bad, 3).is_none());
        }
    }

    #[test]
    fn lengths_survive_the_round_trip() {
        for len in [0, 1, 250, 251, 65_535, 65_536, 1 << 24] {
            let mut out = BytesMut::new();
            put_lenenc_bytes(&mut out, &vec![7; len]);
            assert_eq!(Reader(&out).lenenc_bytes().map(<[u8]>::len), Some(len));
        }
    }
}
