//! Decodes MySQL's and MariaDB's values, as a row image of the binlog and as a
//! row of the binary protocol has them, straight into Arrow arrays.
//!
//! Enters: a column's type as `information_schema` spells it, then one value's
//! bytes at a time. Leaves: the column's [`LakeType`] and an Arrow array of
//! exactly that type. Pure: no I/O. Never panics: malformed bytes are a
//! [`DecodeError`], and a failed append leaves a builder as it was.
//!
//! Both forms of a value give the same array. In a result set the server has
//! converted text to UTF-8; in the log it is in the column's charset, which is
//! converted by tables read from the server itself.

mod charset;
mod column;
mod json;
mod number;
mod temporal;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

pub use charset::Charsets;
pub use column::ColumnBuilder;
pub use json::{apply_json_diffs, json_text};

use super::binlog::{Layout, column_type as wire};
use crate::schema::LakeType;

/// Bytes that are not what a server writes, or a value that the column cannot
/// hold. Says what was expected and found, never the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    what: String,
}

impl DecodeError {
    fn new(what: impl Into<String>) -> Self {
        Self { what: what.into() }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for DecodeError {}

/// Writing to a `String` does not fail; this lets `write!(out, ..)?` say so.
impl From<fmt::Error> for DecodeError {
    fn from(_: fmt::Error) -> Self {
        Self::new("expected the text form to be writable, found a formatting error")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavor {
    MySql,
    MariaDb,
}

/// What becomes of a date that is none: 0000-00-00, 2024-00-10, 2024-02-31, and
/// any of the year 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroDates {
    /// NULL.
    Null,
    /// The nearest that is one: year, month and day at least 1, and a day at
    /// most its month's last. The time of day stays.
    Clamp,
    Error,
}

/// The choices a pipeline makes about types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeOptions {
    pub zero_dates: ZeroDates,
}

/// How the values of one column are decoded. Cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub struct Codec {
    node: Arc<Node>,
}

#[derive(Debug, PartialEq)]
struct Node {
    kind: Kind,
    /// How the log may have it.
    wires: &'static [u8],
    unsigned: bool,
    zero_dates: ZeroDates,
}

/// A type, and what the lake makes of it.
#[derive(Debug, PartialEq)]
enum Kind {
    /// Any integer, in the lake type that holds it.
    Int(LakeType),
    Year,
    Float,
    Double,
    Decimal {
        precision: u8,
        scale: u8,
    },
    /// 64 bits are `decimal(20,0)`, fewer a `long`.
    Bit {
        wide: bool,
    },
    Date,
    /// With its digits after the second.
    DateTime {
        digits: u8,
    },
    Timestamp {
        digits: u8,
    },
    Time {
        digits: u8,
    },
    Text(charset::Charset),
    /// BINARY(n) is as long as it is declared; the log leaves out zeros.
    Binary {
        length: usize,
    },
    Enum(Words),
    Set(Words),
    /// MySQL's; MariaDB's is text.
    Json,
    Geometry,
    Vector,
    Uuid,
    Inet6,
    Inet4,
}

/// The words of ENUM or SET. The catalogue has `?` for characters outside of
/// utf8mb3.
#[derive(Debug, PartialEq)]
struct Words {
    list: Vec<String>,
    /// Of the words in the log.
    charset: Option<charset::Charset>,
}

impl Words {
    fn are_doubtful(&self) -> bool {
        self.list.iter().any(|word| word.contains('?'))
    }
}

impl Codec {
    /// `column_type` and `charset` are `information_schema.COLUMNS`'
    /// `COLUMN_TYPE` and `CHARACTER_SET_NAME`. Errors: why the type can't be
    /// replicated.
    pub fn resolve(
        column_type: &str,
        charset: Option<&str>,
        flavor: Flavor,
        options: &TypeOptions,
        charsets: &Charsets,
    ) -> Result<Self, String> {
        let lower = column_type.to_ascii_lowercase();
        if lower.contains("compressed*/") {
            return Err(format!("the type {column_type} is stored compressed"));
        }
        let name_end = lower.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(lower.len());
        let (name, rest) = lower.split_at(name_end);
        let arguments = numbers(rest);
        let first = arguments.first().copied();
        let unsigned = lower.contains("unsigned");
        let text = || -> Result<Kind, String> {
            let charset = charset.unwrap_or("utf8mb4");
            let conversion = charsets.get(charset);
            Ok(Kind::Text(conversion.ok_or_else(|| {
                format!("text in the charset {charset} can't be converted")
            })?))
        };
        let words = || -> Result<Words, String> {
            Ok(Words {
                list: members(column_type)?,
                charset: charsets.get(charset.unwrap_or("utf8mb4")),
            })
        };
        let digits = u8::try_from(first.unwrap_or(0)).unwrap_or(0);
        let blob = |kind: Kind| (kind, BLOBS);
        let (kind, wires): (Kind, &'static [u8]) = match name {
            "tinyint" => (Kind::Int(LakeType::Short), &[wire::TINY]),
            "smallint" if unsigned => (Kind::Int(LakeType::Integer), &[wire::SHORT]),
            "smallint" => (Kind::Int(LakeType::Short), &[wire::SHORT]),
            "mediumint" => (Kind::Int(LakeType::Integer), &[wire::INT24]),
            "int" if unsigned => (Kind::Int(LakeType::Long), &[wire::LONG]),
            "int" => (Kind::Int(LakeType::Integer), &[wire::LONG]),
            "bigint" if unsigned => {
                let ty = LakeType::Decimal {
                    precision: 20,
                    scale: 0,
                };
                (Kind::Int(ty), &[wire::LONGLONG])
            }
            "bigint" => (Kind::Int(LakeType::Long), &[wire::LONGLONG]),
            "year" => (Kind::Year, &[wire::YEAR]),
            "float" => (Kind::Float, &[wire::FLOAT]),
            "double" => (Kind::Double, &[wire::DOUBLE]),
            "decimal" => {
                let (precision, scale) = (first.unwrap_or(10), arguments.get(1).copied().unwrap_or(0));
                match (u8::try_from(precision), u8::try_from(scale)) {
                    (Ok(precision), Ok(scale)) if precision <= 65 && scale <= precision => {
                        (Kind::Decimal { precision, scale }, &[wire::NEWDECIMAL])
                    }
                    _ => return Err(format!("the type {column_type} has no known form")),
                }
            }
            "bit" => {
                let wide = first.unwrap_or(1) > 63;
                (Kind::Bit { wide }, &[wire::BIT])
            }
            "date" => (Kind::Date, &[wire::DATE, wire::NEWDATE]),
            "datetime" => (Kind::DateTime { digits }, &[wire::DATETIME2, wire::DATETIME]),
            "timestamp" => (Kind::Timestamp { digits }, &[wire::TIMESTAMP2, wire::TIMESTAMP]),
            "time" => (Kind::Time { digits }, &[wire::TIME2, wire::TIME]),
            "char" => (text()?, &[wire::STRING, wire::VAR_STRING]),
            "varchar" => (text()?, &[wire::VARCHAR, wire::VAR_STRING]),
            "tinytext" | "text" | "mediumtext" | "longtext" => blob(text()?),
            "binary" => {
                let length = usize::try_from(first.unwrap_or(1)).unwrap_or(1);
                (Kind::Binary { length }, &[wire::STRING, wire::VAR_STRING])
            }
            "varbinary" => (Kind::Binary { length: 0 }, &[wire::VARCHAR, wire::VAR_STRING]),
            "tinyblob" | "blob" | "mediumblob" | "longblob" => blob(Kind::Binary { length: 0 }),
            "enum" => (Kind::Enum(words()?), &[wire::ENUM]),
            "set" => (Kind::Set(words()?), &[wire::SET]),
            "json" if flavor == Flavor::MySql => (Kind::Json, &[wire::JSON]),
            "json" => blob(text()?),
            "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring" | "multipolygon"
            | "geometrycollection" | "geomcollection" => (Kind::Geometry, &[wire::GEOMETRY]),
            "vector" => (
                Kind::Vector,
                &[wire::VECTOR, wire::VARCHAR, wire::VAR_STRING, wire::BLOB],
            ),
            "uuid" => (Kind::Uuid, &[wire::STRING]),
            "inet6" => (Kind::Inet6, &[wire::STRING]),
            "inet4" => (Kind::Inet4, &[wire::STRING]),
            _ => return Err(format!("the type {column_type} is not supported")),
        };
        Ok(Self {
            node: Arc::new(Node {
                kind,
                wires,
                unsigned,
                zero_dates: options.zero_dates,
            }),
        })
    }

    /// The type of the lake column.
    pub fn lake_type(&self) -> LakeType {
        match &self.node.kind {
            Kind::Int(ty) => ty.clone(),
            Kind::Year => LakeType::Short,
            Kind::Float => LakeType::Float,
            Kind::Double => LakeType::Double,
            Kind::Decimal { precision, scale } if *precision <= 38 => LakeType::Decimal {
                precision: *precision,
                scale: *scale as i8,
            },
            Kind::Bit { wide: true } => LakeType::Decimal {
                precision: 20,
                scale: 0,
            },
            Kind::Bit { wide: false } => LakeType::Long,
            Kind::Date => LakeType::Date,
            Kind::DateTime { .. } => LakeType::TimestampNtz,
            Kind::Timestamp { .. } => LakeType::Timestamp,
            Kind::Binary { .. } | Kind::Geometry => LakeType::Binary,
            Kind::Vector => LakeType::List(Box::new(LakeType::Float)),
            Kind::Decimal { .. }
            | Kind::Time { .. }
            | Kind::Text(_)
            | Kind::Enum(_)
            | Kind::Set(_)
            | Kind::Json
            | Kind::Uuid
            | Kind::Inet6
            | Kind::Inet4 => LakeType::String,
        }
    }

    /// Whether rows may be matched by this column.
    pub fn key_capable(&self) -> bool {
        !matches!(self.node.kind, Kind::Json | Kind::Geometry | Kind::Vector)
    }

    /// Whether only the log can tell the words of this ENUM or SET.
    pub fn has_doubtful_words(&self) -> bool {
        matches!(&self.node.kind, Kind::Enum(words) | Kind::Set(words) if words.are_doubtful())
    }

    pub fn builder(&self) -> ColumnBuilder {
        ColumnBuilder::new(self.clone())
    }

    /// Whether the log's description of a column is of this type.
    pub fn fits(&self, layout: Layout, unsigned: Option<bool>) -> bool {
        let metadata = layout.metadata();
        let same_form = match self.node.kind {
            Kind::Decimal { precision, scale } => metadata == u16::from(precision) << 8 | u16::from(scale),
            Kind::DateTime { digits } if layout.real_type() == wire::DATETIME2 => metadata == u16::from(digits),
            Kind::Timestamp { digits } if layout.real_type() == wire::TIMESTAMP2 => metadata == u16::from(digits),
            Kind::Time { digits } if layout.real_type() == wire::TIME2 => metadata == u16::from(digits),
            // Before MariaDB 10.1 fractions had forms of their own, which
            // nothing in the log tells from these.
            Kind::DateTime { digits } | Kind::Timestamp { digits } | Kind::Time { digits } => digits == 0,
            Kind::Int(_) => unsigned.is_none_or(|unsigned| unsigned == self.node.unsigned),
            Kind::Uuid | Kind::Inet6 => metadata == 16,
            Kind::Inet4 => metadata == 4,
            _ => true,
        };
        self.node.wires.contains(&layout.real_type()) && same_form
    }
}

const BLOBS: &[u8] = &[wire::BLOB, wire::TINY_BLOB, wire::MEDIUM_BLOB, wire::LONG_BLOB];

/// The numbers in the parentheses that a type begins with.
fn numbers(rest: &str) -> Vec<u64> {
    let inside = rest
        .strip_prefix('(')
        .and_then(|rest| rest.split_once(')'))
        .map(|(inside, _)| inside);
    let parts = inside.unwrap_or_default().split(',');
    parts.filter_map(|number| number.trim().parse().ok()).collect()
}

/// The words of ENUM and SET, quoted as `SHOW CREATE TABLE` quotes them.
fn members(column_type: &str) -> Result<Vec<String>, String> {
    let malformed = || format!("the type {column_type} has words that can't be read");
    let mut rest = column_type.split_once('(').ok_or_else(malformed)?.1.chars();
    let mut words = Vec::new();
    loop {
        if rest.next() != Some('\'') {
            return Err(malformed());
        }
        let mut word = String::new();
        let end = loop {
            match rest.next().ok_or_else(malformed)? {
                '\\' => word.push(match rest.next().ok_or_else(malformed)? {
                    '0' => '\0',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'b' => '\u{8}',
                    'Z' => '\u{1a}',
                    other => other,
                }),
                '\'' => match rest.next() {
                    Some('\'') => word.push('\''),
                    end => break end,
                },
                other => word.push(other),
            }
        };
        words.push(word);
        match end {
            Some(',') => {}
            Some(')') => return Ok(words),
            _ => return Err(malformed()),
        }
    }
}
