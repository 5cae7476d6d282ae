//! How column values are laid out in row images.

use super::{BinlogError, Result};

pub mod column_type {
    //! `enum_field_types` of both servers.
    pub const DECIMAL: u8 = 0;
    pub const TINY: u8 = 1;
    pub const SHORT: u8 = 2;
    pub const LONG: u8 = 3;
    pub const FLOAT: u8 = 4;
    pub const DOUBLE: u8 = 5;
    pub const NULL: u8 = 6;
    pub const TIMESTAMP: u8 = 7;
    pub const LONGLONG: u8 = 8;
    pub const INT24: u8 = 9;
    pub const DATE: u8 = 10;
    pub const TIME: u8 = 11;
    pub const DATETIME: u8 = 12;
    pub const YEAR: u8 = 13;
    pub const NEWDATE: u8 = 14;
    pub const VARCHAR: u8 = 15;
    pub const BIT: u8 = 16;
    pub const TIMESTAMP2: u8 = 17;
    pub const DATETIME2: u8 = 18;
    pub const TIME2: u8 = 19;
    pub const TYPED_ARRAY: u8 = 20;
    /// MariaDB: a COMPRESSED blob or text.
    pub const BLOB_COMPRESSED: u8 = 140;
    /// MariaDB: a COMPRESSED varchar or varbinary.
    pub const VARCHAR_COMPRESSED: u8 = 141;
    pub const VECTOR: u8 = 242;
    pub const JSON: u8 = 245;
    pub const NEWDECIMAL: u8 = 246;
    pub const ENUM: u8 = 247;
    pub const SET: u8 = 248;
    pub const TINY_BLOB: u8 = 249;
    pub const MEDIUM_BLOB: u8 = 250;
    pub const LONG_BLOB: u8 = 251;
    pub const BLOB: u8 = 252;
    pub const VAR_STRING: u8 = 253;
    pub const STRING: u8 = 254;
    pub const GEOMETRY: u8 = 255;
}

use column_type::*;

/// A column's type in a TABLE_MAP, and what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    real_type: u8,
    /// Bytes of the length before a value, or 0 if all have `size` bytes.
    pub(super) prefix: u8,
    pub(super) size: u8,
    metadata: u16,
}

impl Layout {
    /// From the type and metadata of a TABLE_MAP. STRING hides ENUM, SET and
    /// the upper bits of a CHAR's length in its metadata; here they are told
    /// apart.
    pub fn new(ty: u8, metadata: u16) -> Result<Self> {
        let [low, high] = metadata.to_le_bytes();
        let fixed = |size| Self {
            real_type: ty,
            prefix: 0,
            size,
            metadata,
        };
        let prefixed = |prefix| Self {
            real_type: ty,
            prefix,
            size: 0,
            metadata,
        };
        let bad = || {
            Err(BinlogError::Malformed {
                event: "TABLE_MAP",
                what: "metadata that fits its column type",
                offset: 0,
            })
        };
        let layout = match ty {
            NULL => fixed(0),
            TINY | YEAR => fixed(1),
            SHORT => fixed(2),
            INT24 | DATE | NEWDATE | TIME => fixed(3),
            LONG | TIMESTAMP => fixed(4),
            LONGLONG | DATETIME => fixed(8),
            FLOAT if metadata == 4 => fixed(4),
            DOUBLE if metadata == 8 => fixed(8),
            VARCHAR | VAR_STRING | VARCHAR_COMPRESSED => prefixed(if metadata > 255 { 2 } else { 1 }),
            BIT if low < 8 && high <= 8 => fixed(high + u8::from(low > 0)),
            TIMESTAMP2 if metadata <= 6 => fixed(4 + low.div_ceil(2)),
            DATETIME2 if metadata <= 6 => fixed(5 + low.div_ceil(2)),
            TIME2 if metadata <= 6 => fixed(3 + low.div_ceil(2)),
            BLOB | TINY_BLOB | MEDIUM_BLOB | LONG_BLOB | JSON | GEOMETRY | VECTOR | BLOB_COMPRESSED
                if (1..=4).contains(&metadata) =>
            {
                prefixed(low)
            }
            NEWDECIMAL => match decimal_size(high, low) {
                Some(size) => fixed(size),
                None => return bad(),
            },
            ENUM | SET if (1..=8).contains(&low) => fixed(low),
            STRING => match high {
                ENUM | SET if (1..=8).contains(&low) => Self {
                    real_type: high,
                    prefix: 0,
                    size: low,
                    metadata: low.into(),
                },
                ENUM | SET => return bad(),
                _ => {
                    // The length's bits 8 and 9 are inverted into bits 4 and
                    // 5 of the type.
                    let len = u16::from(low) | u16::from(high & 0x30 ^ 0x30) << 4;
                    if high | 0x30 != STRING {
                        return bad();
                    }
                    Self {
                        real_type: STRING,
                        prefix: if len > 255 { 2 } else { 1 },
                        size: 0,
                        metadata: len,
                    }
                }
            },
            FLOAT | DOUBLE | BIT | TIMESTAMP2 | DATETIME2 | TIME2 | BLOB | TINY_BLOB | MEDIUM_BLOB | LONG_BLOB
            | JSON | GEOMETRY | VECTOR | BLOB_COMPRESSED | ENUM | SET => return bad(),
            DECIMAL => {
                return Err(BinlogError::Unsupported(
                    "a column has the DECIMAL format of MySQL before 5.0: ALTER TABLE ... FORCE rewrites it".into(),
                ));
            }
            _ => {
                return Err(BinlogError::Unsupported(format!(
                    "expected a column of a known type, found type {ty}"
                )));
            }
        };
        Ok(layout)
    }

    /// One of [`column_type`].
    pub fn real_type(&self) -> u8 {
        self.real_type
    }

    /// As in the TABLE_MAP, but for CHAR the length in bytes and for ENUM and
    /// SET the size.
    pub fn metadata(&self) -> u16 {
        self.metadata
    }
}

/// Bytes of a type's metadata in a TABLE_MAP, and whether the first is the
/// high one.
pub(super) fn metadata_len(ty: u8) -> (usize, bool) {
    match ty {
        FLOAT | DOUBLE | TIMESTAMP2 | DATETIME2 | TIME2 | BLOB | TINY_BLOB | MEDIUM_BLOB | LONG_BLOB | JSON
        | GEOMETRY | VECTOR | BLOB_COMPRESSED => (1, false),
        VARCHAR | VARCHAR_COMPRESSED | BIT => (2, false),
        VAR_STRING | STRING | ENUM | SET | NEWDECIMAL => (2, true),
        _ => (0, false),
    }
}

/// Bytes of `decimal(precision, scale)`: nine digits in four bytes, fewer in
/// as many as they need.
pub(super) fn decimal_size(precision: u8, scale: u8) -> Option<u8> {
    const BYTES: [u8; 9] = [0, 1, 1, 2, 2, 3, 3, 4, 4];
    let part = |digits: u8| BYTES.get(usize::from(digits % 9)).map(|rest| digits / 9 * 4 + rest);
    let whole = precision.checked_sub(scale).filter(|_| precision <= 65)?;
    Some(part(whole)? + part(scale)?)
}
