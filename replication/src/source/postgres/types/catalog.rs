//! What a server's catalogue says of its types, and the codec each column gets.

use std::collections::HashMap;

use super::{Attribute, Codec, DecodeError, Items, Kind, TypeOptions};

/// Domains, arrays, ranges and composites inside one another. PostgreSQL has
/// no limit; a lake schema this deep has no reader.
const DEPTH_MAX: u32 = 16;

/// Types that one column may be made of, for composites that use one another
/// many times over.
const PARTS_MAX: usize = 4096;

const DECIMAL_PRECISION_MAX: i32 = 38;
const MONEY_DIGITS: u8 = 19;

/// The types of one database.
#[derive(Clone, Debug, Default)]
pub struct TypeCatalog {
    pub(super) types: HashMap<u32, TypeRow>,
    /// By `typrelid`, in order.
    attributes: HashMap<u32, Vec<AttributeRow>>,
}

#[derive(Clone, Debug)]
pub(super) struct TypeRow {
    schema: String,
    pub(super) name: String,
    typtype: String,
    category: String,
    len: i32,
    has_send: bool,
    delimiter: char,
    element: u32,
    base: u32,
    typmod: i32,
    ndims: i32,
    relation: u32,
    /// The type of the bounds of a range or multirange.
    bound: u32,
    extension: Option<String>,
}

#[derive(Clone, Debug)]
struct AttributeRow {
    name: String,
    type_oid: u32,
    typmod: i32,
    ndims: i32,
}

impl TypeCatalog {
    /// Reads all types. Any role may run it, on PostgreSQL 14 and later.
    pub const QUERY: &str = "\
SELECT t.oid, n.nspname, t.typname, t.typtype, t.typcategory, t.typlen, t.typsend <> 0, \
t.typdelim, t.typelem, t.typbasetype, t.typtypmod, t.typndims, t.typrelid, \
coalesce(r.rngsubtype, m.rngsubtype, 0), e.extname \
FROM pg_catalog.pg_type t \
JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace \
LEFT JOIN pg_catalog.pg_range r ON r.rngtypid = t.oid \
LEFT JOIN pg_catalog.pg_range m ON m.rngmultitypid = t.oid \
LEFT JOIN pg_catalog.pg_depend d ON d.objid = t.oid AND d.deptype = 'e' \
AND d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass \
AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass \
LEFT JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid";

    /// Reads the attributes of composite types, in order: those made by CREATE
    /// TYPE, and the row types of tables that a column, array or domain uses.
    pub const ATTRIBUTES_QUERY: &str = "\
SELECT a.attrelid, a.attname, a.atttypid, a.atttypmod, a.attndims \
FROM pg_catalog.pg_attribute a \
JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
WHERE a.attnum > 0 AND NOT a.attisdropped AND (c.relkind = 'c' OR c.reltype IN ( \
SELECT CASE WHEN u.typelem <> 0 THEN u.typelem WHEN u.typbasetype <> 0 THEN u.typbasetype \
ELSE u.oid END FROM pg_catalog.pg_type u WHERE u.typtype = 'd' OR u.oid IN ( \
SELECT b.atttypid FROM pg_catalog.pg_attribute b WHERE b.attnum > 0 AND NOT b.attisdropped))) \
ORDER BY a.attrelid, a.attnum";

    /// Takes the rows of both queries, in their order of columns.
    pub fn from_rows(types: &[Vec<Option<String>>], attributes: &[Vec<Option<String>>]) -> Result<Self, DecodeError> {
        let mut catalog = Self::default();
        for row in types {
            let row = Row(row);
            let [
                oid,
                schema,
                name,
                typtype,
                category,
                len,
                has_send,
                delimiter,
                element,
                base,
                typmod,
                ndims,
                relation,
                bound,
                extension,
            ] = row.cells("pg_type")?;
            catalog.types.insert(
                number(oid, "oid")?,
                TypeRow {
                    schema: text(schema, "nspname")?.to_owned(),
                    name: text(name, "typname")?.to_owned(),
                    typtype: text(typtype, "typtype")?.to_owned(),
                    category: text(category, "typcategory")?.to_owned(),
                    len: number(len, "typlen")?,
                    has_send: text(has_send, "typsend")? == "t",
                    delimiter: text(delimiter, "typdelim")?.chars().next().unwrap_or(','),
                    element: number(element, "typelem")?,
                    base: number(base, "typbasetype")?,
                    typmod: number(typmod, "typtypmod")?,
                    ndims: number(ndims, "typndims")?,
                    relation: number(relation, "typrelid")?,
                    bound: number(bound, "rngsubtype")?,
                    extension: extension.map(str::to_owned),
                },
            );
        }
        for row in attributes {
            let row = Row(row);
            let [relation, name, type_oid, typmod, ndims] = row.cells("pg_attribute")?;
            catalog
                .attributes
                .entry(number(relation, "attrelid")?)
                .or_default()
                .push(AttributeRow {
                    name: text(name, "attname")?.to_owned(),
                    type_oid: number(type_oid, "atttypid")?,
                    typmod: number(typmod, "atttypmod")?,
                    ndims: number(ndims, "attndims")?,
                });
        }
        Ok(catalog)
    }

    /// The codec of a column with these `atttypid`, `atttypmod` and
    /// `attndims`. An error says which type the lake cannot hold.
    pub fn resolve(&self, type_oid: u32, typmod: i32, ndims: i32, options: &TypeOptions) -> Result<Codec, String> {
        Resolution {
            catalog: self,
            options,
            depth: 0,
            parts: 0,
        }
        .codec(type_oid, typmod, ndims)
    }
}

/// One column's walk through the types it is made of.
struct Resolution<'a> {
    catalog: &'a TypeCatalog,
    options: &'a TypeOptions,
    depth: u32,
    parts: usize,
}

impl Resolution<'_> {
    fn codec(&mut self, oid: u32, typmod: i32, ndims: i32) -> Result<Codec, String> {
        let catalog = self.catalog;
        let Some(row) = catalog.types.get(&oid) else {
            return Err(format!("type with oid {oid} is not in the catalogue"));
        };
        self.parts = self.parts.saturating_add(1);
        if self.depth >= DEPTH_MAX || self.parts > PARTS_MAX {
            return Err(format!("type {} is made of too many types", row.quoted()));
        }
        if !row.has_send {
            return Err(format!("type {} has no binary form", row.quoted()));
        }
        self.depth = self.depth.saturating_add(1);
        let codec = self.codec_of_row(row, typmod, ndims);
        self.depth = self.depth.saturating_sub(1);
        codec
    }

    fn codec_of_row(&mut self, row: &TypeRow, typmod: i32, ndims: i32) -> Result<Codec, String> {
        match row.typtype.as_str() {
            "b" if row.is_array() => {
                let items = Items {
                    codec: self.codec(row.element, typmod, 0)?,
                    oid: row.element,
                    delimiter: self
                        .catalog
                        .types
                        .get(&row.element)
                        .map_or(',', |element| element.delimiter),
                };
                Ok(self.not_key(if ndims >= 2 {
                    Kind::JsonArray(items)
                } else {
                    Kind::List(items)
                }))
            }
            "b" => self
                .base(row, typmod)?
                .ok_or_else(|| format!("type {} is not supported", row.quoted())),
            // A pseudo-type since PostgreSQL 10.
            "p" if row.schema == "pg_catalog" && row.name == "unknown" => Ok(self.not_key(Kind::Text)),
            "e" => Ok(self.key(Kind::Text)),
            "d" => {
                let typmod = if typmod == -1 { row.typmod } else { typmod };
                self.codec(row.base, typmod, ndims.max(row.ndims))
            }
            "r" => {
                let bound = self.codec(row.bound, -1, 0)?;
                Ok(self.not_key(Kind::Range(bound)))
            }
            "m" => {
                let bound = self.codec(row.bound, -1, 0)?;
                Ok(self.not_key(Kind::Multirange(bound)))
            }
            "c" => self.composite(row),
            _ => Err(format!("type {} is not supported", row.quoted())),
        }
    }

    fn composite(&mut self, row: &TypeRow) -> Result<Codec, String> {
        let catalog = self.catalog;
        let Some(rows) = catalog.attributes.get(&row.relation) else {
            // Parquet has no struct without fields either.
            return Err(format!("type {} has no attributes", row.quoted()));
        };
        let mut attributes = Vec::new();
        for attribute in rows {
            attributes.push(Attribute {
                name: attribute.name.clone(),
                oid: attribute.type_oid,
                codec: self.codec(attribute.type_oid, attribute.typmod, attribute.ndims)?,
            });
        }
        Ok(self.not_key(Kind::Struct(attributes)))
    }

    fn base(&self, row: &TypeRow, typmod: i32) -> Result<Option<Codec>, String> {
        if row.schema != "pg_catalog" {
            return Ok(self.extension(row));
        }
        let codec = match row.name.as_str() {
            "bool" => self.key(Kind::Bool),
            "int2" => self.key(Kind::Int2),
            "int4" => self.key(Kind::Int4),
            "int8" => self.key(Kind::Int8),
            "oid" | "xid" | "cid" | "regproc" | "regprocedure" | "regoper" | "regoperator" | "regclass"
            | "regcollation" | "regtype" | "regrole" | "regnamespace" | "regconfig" | "regdictionary"
            | "regdatabase" => self.key(Kind::Oid),
            "xid8" => self.key(Kind::Xid8),
            "float4" => self.key(Kind::Float4),
            "float8" => self.key(Kind::Float8),
            "numeric" => self.key(numeric(typmod)),
            "money" => {
                let scale = self.options.money_scale;
                if scale > MONEY_DIGITS {
                    return Err(format!(
                        "type \"money\" has at most {MONEY_DIGITS} fractional digits, found {scale}"
                    ));
                }
                self.key(Kind::Money { scale })
            }
            "text" | "varchar" | "bpchar" | "name" => self.key(Kind::Text),
            "xml" | "json" | "refcursor" => self.not_key(Kind::Text),
            "char" => self.key(Kind::Char),
            "jsonb" | "jsonpath" => self.not_key(Kind::Versioned),
            "bytea" => self.key(Kind::Bytea),
            "uuid" => self.key(Kind::Uuid),
            "date" => self.key(Kind::Date),
            "time" => self.key(Kind::Time),
            "timetz" => self.not_key(Kind::Timetz),
            "timestamp" => self.key(Kind::Timestamp),
            "timestamptz" => self.key(Kind::Timestamptz),
            "interval" => self.not_key(Kind::Interval),
            "inet" => self.key(Kind::Inet),
            "cidr" => self.key(Kind::Cidr),
            "macaddr" => self.key(Kind::Macaddr),
            "macaddr8" => self.key(Kind::Macaddr8),
            "bit" | "varbit" => self.key(Kind::Bit),
            "pg_lsn" => self.key(Kind::PgLsn),
            "pg_snapshot" | "txid_snapshot" => self.not_key(Kind::Snapshot),
            "tid" => self.not_key(Kind::Tid),
            "point" => self.not_key(Kind::Point),
            "lseg" => self.not_key(Kind::Lseg),
            "path" => self.not_key(Kind::Path),
            "box" => self.not_key(Kind::Box),
            "polygon" => self.not_key(Kind::Polygon),
            "line" => self.not_key(Kind::Line),
            "circle" => self.not_key(Kind::Circle),
            "tsvector" => self.not_key(Kind::TsVector),
            "tsquery" => self.not_key(Kind::TsQuery),
            _ => return Ok(None),
        };
        Ok(Some(codec))
    }

    /// Types of extensions go by name, for their oids differ by database. The
    /// extension's name must agree: other extensions have a `vector` too, with
    /// another binary form.
    fn extension(&self, row: &TypeRow) -> Option<Codec> {
        let extension = row.extension.as_deref();
        match (extension?, row.name.as_str()) {
            ("citext", "citext") => Some(self.not_key(Kind::Text)),
            ("hstore", "hstore") => Some(self.not_key(Kind::Hstore)),
            ("vector", "vector") => Some(self.not_key(Kind::Vector)),
            ("postgis", "geometry" | "geography") => Some(self.not_key(Kind::Geometry)),
            _ => None,
        }
    }

    fn key(&self, kind: Kind) -> Codec {
        Codec::new(kind, true, self.options)
    }

    fn not_key(&self, kind: Kind) -> Codec {
        Codec::new(kind, false, self.options)
    }
}

impl TypeRow {
    /// A true array, not a fixed-length type with a subscript such as `point`.
    fn is_array(&self) -> bool {
        self.element != 0 && self.len == -1 && self.category == "A"
    }

    fn quoted(&self) -> String {
        match self.schema.as_str() {
            "pg_catalog" => format!("\"{}\"", self.name),
            schema => format!("\"{schema}.{}\"", self.name),
        }
    }
}

/// The typmod of `numeric(p, s)` holds both; `s` may be negative or above `p`
/// since PostgreSQL 15.
fn numeric(typmod: i32) -> Kind {
    let Some(packed) = typmod.checked_sub(4).filter(|packed| *packed >= 0) else {
        return Kind::Numeric;
    };
    let precision = packed >> 16 & 0xffff;
    let scale = ((packed & 0x7ff) ^ 1024).saturating_sub(1024);
    if !(1..=DECIMAL_PRECISION_MAX).contains(&precision) || !(0..=precision).contains(&scale) {
        return Kind::Numeric;
    }
    match (u8::try_from(precision), i8::try_from(scale)) {
        (Ok(precision), Ok(scale)) => Kind::Decimal { precision, scale },
        _ => Kind::Numeric,
    }
}

/// One row of a catalogue query.
struct Row<'a>(&'a [Option<String>]);

impl<'a> Row<'a> {
    fn cells<const N: usize>(&self, table: &str) -> Result<[Option<&'a str>; N], DecodeError> {
        let Self(row) = self;
        let row: &[Option<String>; N] = (*row)
            .try_into()
            .map_err(|_| DecodeError::new(format!("expected {N} columns of {table}, found {}", row.len())))?;
        Ok(row.each_ref().map(Option::as_deref))
    }
}

fn text<'a>(cell: Option<&'a str>, column: &str) -> Result<&'a str, DecodeError> {
    cell.ok_or_else(|| DecodeError::new(format!("expected a value of {column}, found null")))
}

fn number<T: std::str::FromStr>(cell: Option<&str>, column: &str) -> Result<T, DecodeError> {
    let cell = text(cell, column)?;
    cell.parse()
        .map_err(|_| DecodeError::new(format!("expected a number as {column}, found {cell:?}")))
}
