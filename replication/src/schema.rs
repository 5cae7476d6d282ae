//! The shape of a table: columns, key, and the types a lake column can have.
//!
//! Sources resolve their own types to [`LakeType`]; nothing past a source
//! knows what a column was called in the database's type system.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use serde::{Deserialize, Serialize};

/// A table of the source, by its two-part name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId {
    pub schema: String,
    pub name: String,
}

impl TableId {
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            schema: schema.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// A Delta column type. Spec: Delta protocol, "Schema Serialization Format".
#[derive(Clone, Debug, PartialEq)]
pub enum LakeType {
    Boolean,
    Short,
    Integer,
    Long,
    Float,
    Double,
    /// At most 38 digits, `0 <= scale <= precision`.
    Decimal {
        precision: u8,
        scale: i8,
    },
    String,
    Binary,
    /// Days since 1970-01-01.
    Date,
    /// Microseconds since 1970-01-01 00:00:00, no zone. Needs the
    /// `timestampNtz` table feature.
    TimestampNtz,
    /// Microseconds since 1970-01-01 00:00:00 UTC.
    Timestamp,
    List(Box<LakeType>),
    Struct(Vec<(String, LakeType)>),
    /// `map<string, string>` with nullable values.
    Map,
}

impl LakeType {
    /// The Arrow type that carries this column through the pipeline and into Parquet.
    pub fn arrow(&self) -> DataType {
        match self {
            LakeType::Boolean => DataType::Boolean,
            LakeType::Short => DataType::Int16,
            LakeType::Integer => DataType::Int32,
            LakeType::Long => DataType::Int64,
            LakeType::Float => DataType::Float32,
            LakeType::Double => DataType::Float64,
            LakeType::Decimal { precision, scale } => DataType::Decimal128(*precision, *scale),
            LakeType::String => DataType::Utf8,
            LakeType::Binary => DataType::Binary,
            LakeType::Date => DataType::Date32,
            LakeType::TimestampNtz => DataType::Timestamp(TimeUnit::Microsecond, None),
            LakeType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            LakeType::List(element) => DataType::List(Self::list_field(element)),
            LakeType::Struct(fields) => DataType::Struct(Self::struct_fields(fields)),
            LakeType::Map => DataType::Map(Self::map_field(), false),
        }
    }

    /// The item field of a list, named as Delta's Parquet files name it.
    pub fn list_field(element: &LakeType) -> Arc<Field> {
        Arc::new(Field::new("element", element.arrow(), true))
    }

    pub fn struct_fields(fields: &[(String, LakeType)]) -> Fields {
        fields
            .iter()
            .map(|(name, ty)| Field::new(name, ty.arrow(), true))
            .collect()
    }

    pub fn map_field() -> Arc<Field> {
        let entries = Fields::from(vec![
            Field::new("key", DataType::Utf8, false),
            Field::new("value", DataType::Utf8, true),
        ]);
        Arc::new(Field::new("key_value", DataType::Struct(entries), false))
    }

    /// Whether this type or one inside it is `timestamp_ntz`.
    pub fn has_timestamp_ntz(&self) -> bool {
        match self {
            LakeType::TimestampNtz => true,
            LakeType::List(element) => element.has_timestamp_ntz(),
            LakeType::Struct(fields) => fields.iter().any(|(_, ty)| ty.has_timestamp_ntz()),
            _ => false,
        }
    }
}

/// A column's type as the source knows it: enough to decode its values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SourceType {
    Postgres(PostgresType),
    MySql(MySqlType),
    Mongo(MongoType),
}

impl Default for SourceType {
    fn default() -> Self {
        SourceType::Postgres(PostgresType::default())
    }
}

/// `pg_attribute`'s `atttypid`, `atttypmod` and `attndims`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostgresType {
    pub oid: u32,
    pub modifier: i32,
    pub dimensions: i32,
}

/// `information_schema.COLUMNS`' `COLUMN_TYPE` and `CHARACTER_SET_NAME`, and
/// what an ALTER TABLE is judged by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MySqlType {
    pub column_type: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub charset: Option<String>,
    #[serde(default)]
    pub nullable: bool,
    #[serde(default)]
    pub auto_increment: bool,
}

/// What a field of a collection's documents is in the lake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MongoType {
    pub bson: MongoKind,
}

/// What a column holds of the BSON types; what it can't hold exactly is left over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MongoKind {
    ObjectId,
    Uuid,
    String,
    Bool,
    /// int32 and int64.
    Long,
    Double,
    /// With its scale.
    Decimal(i8),
    /// Of the generic subtype.
    Binary,
    Date,
    /// Anything, as canonical extended JSON.
    Json,
    /// The fields that have no column, or don't fit theirs.
    Extra,
    /// The whole document.
    Document,
    Array(Box<MongoKind>),
    Struct(Vec<(String, MongoKind)>),
}

/// One column of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    pub name: String,
    pub ty: LakeType,
    /// What stays when the column is renamed, and is never used again when it
    /// is dropped. PostgreSQL gives such numbers (`pg_attribute.attnum`); where
    /// a source doesn't, we do.
    pub attribute: i32,
    pub source: SourceType,
}

/// The columns of a table, in the source's order, and which of them are its key.
#[derive(Clone, Debug, PartialEq)]
pub struct TableSchema {
    pub columns: Vec<Column>,
    /// Indices into `columns`; never empty.
    pub key: Vec<usize>,
}

impl TableSchema {
    pub fn arrow(&self) -> SchemaRef {
        Arc::new(Schema::new(
            self.columns
                .iter()
                .map(|c| Field::new(&c.name, c.ty.arrow(), true))
                .collect::<Vec<_>>(),
        ))
    }

    /// The key's columns by what doesn't change with their names.
    pub fn key_attributes(&self) -> Vec<i32> {
        let attribute = |index: &usize| self.columns.get(*index).map(|c| c.attribute);
        self.key.iter().filter_map(attribute).collect()
    }
}

/// The year, month and day of a day counted from 1970-01-01; the year 0 is 1 BC.
/// For days that are far from where the arithmetic would overflow.
pub fn civil(days: i64) -> (i64, i64, i64) {
    // Proleptic Gregorian calendar in 400-year eras that begin on 1 March:
    // https://howardhinnant.github.io/date_algorithms.html#civil_from_days
    const MARCH_OF_YEAR_0: i64 = 719_468;
    const ERA_DAYS: i64 = 146_097;

    let days = days.saturating_add(MARCH_OF_YEAR_0);
    let era = days.div_euclid(ERA_DAYS);
    let day_of_era = days.rem_euclid(ERA_DAYS);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}
