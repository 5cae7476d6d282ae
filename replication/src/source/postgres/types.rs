//! Decodes PostgreSQL's binary field format (what a type's send function
//! writes into `COPY ... (FORMAT binary)` and pgoutput `b` columns) straight
//! into Arrow arrays.
//!
//! Enters: the system catalogue's rows, a column's type, then one field's
//! bytes at a time. Leaves: the column's [`LakeType`] and an Arrow array of
//! exactly that type. Pure: no I/O. Never panics: malformed bytes are a
//! [`DecodeError`], and a failed append leaves a builder as it was.
//!
//! Types without an exact lake type become strings in the form the type's
//! output function writes under `datestyle = ISO`, `intervalstyle =
//! iso_8601`, `timezone = UTC` and the default `extra_float_digits`. Two casts
//! to `text` differ from that form and are not followed, for they lose or add
//! something: `inet::text` always shows a mask and `bpchar::text` drops
//! padding. Where only text is left and the wire carries less than the output
//! function knows, it shows what the wire carries: `reg*` types are numbers,
//! `money` is a plain decimal.
//!
//! Spec: the `*send` functions of PostgreSQL, `src/backend/utils/adt`.

mod catalog;
mod column;
mod datetime;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fields;
mod geometry;
mod nested;
mod numeric;
mod text;
mod text_search;
mod wire;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

pub use catalog::TypeCatalog;
pub use column::ColumnBuilder;

use crate::schema::LakeType;

/// Bytes that are not what a type's send function writes, or a value that the
/// column cannot hold. Says what was expected and found, never the value.
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

/// What becomes of a value that PostgreSQL has and the lake type lacks: a date
/// or timestamp that is ±infinity or does not fit, and NaN or ±infinity in a
/// decimal column. Strings hold such values as PostgreSQL prints them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Infinity {
    /// NULL.
    Null,
    /// The end of the range that every reader of the lake can print:
    /// 0001-01-01 (00:00:00) and 9999-12-31 (23:59:59.999999); the largest and
    /// smallest decimal of the column's precision. NaN has no side: NULL.
    Clamp,
    Error,
}

/// The choices a pipeline makes about types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeOptions {
    pub infinity: Infinity,
    /// Fractional digits of `money`: the server's `lc_monetary` decides, and
    /// the wire does not tell. At most 19.
    pub money_scale: u8,
}

/// How the fields of one column are decoded. Cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub struct Codec {
    node: Arc<Node>,
}

#[derive(Debug, PartialEq)]
struct Node {
    kind: Kind,
    lake: LakeType,
    key_capable: bool,
    infinity: Infinity,
}

impl Codec {
    fn new(kind: Kind, key_capable: bool, options: &TypeOptions) -> Self {
        Self {
            node: Arc::new(Node {
                lake: kind.lake_type(),
                kind,
                key_capable,
                infinity: options.infinity,
            }),
        }
    }

    /// That of `text`.
    pub fn text() -> Self {
        let options = TypeOptions {
            infinity: Infinity::Error,
            money_scale: 2,
        };
        Self::new(Kind::Text, true, &options)
    }

    /// The type of the lake column.
    pub fn lake_type(&self) -> &LakeType {
        &self.node.lake
    }

    /// Whether rows may be matched by this column: PostgreSQL's equality of
    /// the type is equality of the values that `append` stores.
    ///
    /// Three types count as capable although PostgreSQL's equality is wider
    /// than ours: `numeric` without a scale (`1.0` and `1.00`), floats (`0`
    /// and `-0`), and `bpchar` without a length (trailing blanks). Text under
    /// a nondeterministic collation is the caller's to look for: the collation
    /// belongs to the column, not to the type.
    pub fn key_capable(&self) -> bool {
        self.node.key_capable
    }

    pub fn builder(&self) -> ColumnBuilder {
        ColumnBuilder::new(self.clone())
    }

    fn kind(&self) -> &Kind {
        &self.node.kind
    }

    fn infinity(&self) -> Infinity {
        self.node.infinity
    }
}

/// A send function's format, and what the lake makes of it.
#[derive(Debug, PartialEq)]
enum Kind {
    Bool,
    Int2,
    Int4,
    Int8,
    /// `oid`, `xid`, `cid` and the `reg*` types.
    Oid,
    Xid8,
    Float4,
    Float8,
    /// `numeric(p, s)` that fits a lake decimal.
    Decimal {
        precision: u8,
        scale: i8,
    },
    /// Any other `numeric`.
    Numeric,
    Money {
        scale: u8,
    },
    Bytea,
    /// PostGIS `geometry` and `geography`: EWKB.
    Geometry,
    Date,
    Timestamp,
    Timestamptz,
    /// Types whose binary form is their text form.
    Text,
    /// `"char"`, one byte.
    Char,
    /// `jsonb` and `jsonpath`: a version byte, then text.
    Versioned,
    Uuid,
    Time,
    Timetz,
    Interval,
    Inet,
    Cidr,
    Macaddr,
    Macaddr8,
    Bit,
    PgLsn,
    Snapshot,
    Tid,
    Point,
    Lseg,
    Path,
    Box,
    Polygon,
    Line,
    Circle,
    TsVector,
    TsQuery,
    Range(Codec),
    Multirange(Codec),
    /// An array of at most one dimension.
    List(Items),
    /// An array declared with more dimensions: nested JSON arrays.
    JsonArray(Items),
    Struct(Vec<Attribute>),
    Hstore,
    /// pgvector's `vector`.
    Vector,
}

/// The elements of an array type.
#[derive(Clone, Debug, PartialEq)]
struct Items {
    codec: Codec,
    /// The element type that the wire must name.
    oid: u32,
    /// What array text puts between elements.
    delimiter: char,
}

/// One attribute of a composite type.
#[derive(Clone, Debug, PartialEq)]
struct Attribute {
    name: String,
    /// The type that the wire must name.
    oid: u32,
    codec: Codec,
}

impl Kind {
    fn lake_type(&self) -> LakeType {
        match self {
            Kind::Bool => LakeType::Boolean,
            Kind::Int2 => LakeType::Short,
            Kind::Int4 => LakeType::Integer,
            Kind::Int8 | Kind::Oid => LakeType::Long,
            Kind::Xid8 => LakeType::Decimal {
                precision: 20,
                scale: 0,
            },
            Kind::Float4 => LakeType::Float,
            Kind::Float8 => LakeType::Double,
            Kind::Decimal { precision, scale } => LakeType::Decimal {
                precision: *precision,
                scale: *scale,
            },
            Kind::Money { scale } => LakeType::Decimal {
                precision: 19,
                scale: i8::try_from(*scale).unwrap_or(0),
            },
            Kind::Bytea | Kind::Geometry => LakeType::Binary,
            Kind::Date => LakeType::Date,
            Kind::Timestamp => LakeType::TimestampNtz,
            Kind::Timestamptz => LakeType::Timestamp,
            Kind::List(items) => LakeType::List(Box::new(items.codec.lake_type().clone())),
            Kind::Vector => LakeType::List(Box::new(LakeType::Float)),
            Kind::Struct(attributes) => LakeType::Struct(
                attributes
                    .iter()
                    .map(|a| (a.name.clone(), a.codec.lake_type().clone()))
                    .collect(),
            ),
            Kind::Hstore => LakeType::Map,
            Kind::Numeric
            | Kind::Text
            | Kind::Char
            | Kind::Versioned
            | Kind::Uuid
            | Kind::Time
            | Kind::Timetz
            | Kind::Interval
            | Kind::Inet
            | Kind::Cidr
            | Kind::Macaddr
            | Kind::Macaddr8
            | Kind::Bit
            | Kind::PgLsn
            | Kind::Snapshot
            | Kind::Tid
            | Kind::Point
            | Kind::Lseg
            | Kind::Path
            | Kind::Box
            | Kind::Polygon
            | Kind::Line
            | Kind::Circle
            | Kind::TsVector
            | Kind::TsQuery
            | Kind::Range(_)
            | Kind::Multirange(_)
            | Kind::JsonArray(_) => LakeType::String,
        }
    }
}
