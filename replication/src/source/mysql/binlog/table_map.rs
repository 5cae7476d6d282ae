//! TABLE_MAP: the columns that rows events have.

use super::Result;
use super::layout::{Layout, column_type, metadata_len};
use super::reader::Reader;

/// A TABLE_MAP of which only the head has been read: whether anyone follows
/// the table. [`Decoder::table`](super::Decoder::table) has the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableMapEvent<'a> {
    pub table_id: u64,
    pub schema: &'a str,
    pub name: &'a str,
}

/// A table as the rows of one statement have it.
#[derive(Clone, Debug, PartialEq)]
pub struct TableMap {
    pub table_id: u64,
    pub schema: String,
    pub name: String,
    pub columns: Vec<TableColumn>,
    /// Column and prefix length, 0 for the whole value, in key order. Only
    /// from `binlog_row_metadata=FULL`.
    pub primary_key: Option<Vec<(usize, u32)>>,
    pub(super) json_columns: usize,
}

/// What is optional is absent from servers that do not tell it:
/// `binlog_row_metadata=FULL` has all of it, `MINIMAL` what is marked so.
#[derive(Clone, Debug, PartialEq)]
pub struct TableColumn {
    pub layout: Layout,
    pub nullable: bool,
    /// Of numbers. MINIMAL too.
    pub unsigned: Option<bool>,
    pub name: Option<String>,
    /// The values of an ENUM or SET, in the column's charset.
    pub members: Option<Vec<Vec<u8>>>,
    pub visible: Option<bool>,
    /// MINIMAL too.
    pub geometry_type: Option<u32>,
    pub vector_dimensions: Option<u32>,
}

impl TableMap {
    /// Whether the columns' names were sent.
    pub fn has_names(&self) -> bool {
        self.columns.iter().all(|column| column.name.is_some())
    }

    /// Reads what follows the table id.
    pub(super) fn parse(table_id: u64, body: &[u8]) -> Result<Self> {
        let mut r = Reader::new(body, "TABLE_MAP");
        let (schema, name) = head(&mut r)?;
        let count = r.len("a column count")?;
        let types = r.take(count, "column types")?;
        let mut metadata = Reader::new(r.lenenc_bytes("column metadata")?, "TABLE_MAP");
        let null_bits = r.take(count.div_ceil(8), "null bits")?;
        let mut columns = Vec::with_capacity(count);
        for (i, ty) in types.iter().enumerate() {
            let (len, high_first) = metadata_len(*ty);
            let value = metadata.uint(len, "column metadata")? as u16;
            columns.push(TableColumn {
                layout: Layout::new(*ty, if high_first { value.swap_bytes() } else { value })?,
                nullable: null_bits.get(i / 8).is_some_and(|byte| byte >> (i % 8) & 1 == 1),
                unsigned: None,
                name: None,
                members: None,
                visible: None,
                geometry_type: None,
                vector_dimensions: None,
            });
        }
        if !metadata.is_empty() {
            return Err(r.error("as much metadata as the columns have"));
        }
        let mut map = Self {
            table_id,
            schema: schema.to_owned(),
            name: name.to_owned(),
            json_columns: of_type(&mut columns, is_json).count(),
            columns,
            primary_key: None,
        };
        while !r.is_empty() {
            let ty = r.u8("a metadata type")?;
            let len = r.len("a metadata length")?;
            map.read_optional(ty, r.sub(len, "optional metadata")?)?;
        }
        Ok(map)
    }

    fn read_optional(&mut self, ty: u8, mut r: Reader<'_>) -> Result<()> {
        let columns = &mut self.columns;
        match ty {
            1 => {
                let bits = r.rest();
                for (i, column) in of_type(columns, is_numeric).enumerate() {
                    column.unsigned = Some(bit_from_high(bits, i));
                }
            }
            4 => {
                for column in columns.iter_mut() {
                    let name = r.lenenc_bytes("a column name")?;
                    let name = std::str::from_utf8(name).map_err(|_| r.error("a column name in UTF-8"))?;
                    column.name = Some(name.to_owned());
                }
            }
            5 => members(&mut r, of_type(columns, |ty| ty == column_type::SET))?,
            6 => members(&mut r, of_type(columns, |ty| ty == column_type::ENUM))?,
            7 => {
                for column in of_type(columns, |ty| ty == column_type::GEOMETRY) {
                    column.geometry_type = Some(number(&mut r, "a geometry type")?);
                }
            }
            8 | 9 => {
                let mut key = Vec::new();
                while !r.is_empty() {
                    let column = r.len("a key column")?;
                    if column >= columns.len() {
                        return Err(r.error("a key column of the table"));
                    }
                    let prefix = if ty == 9 { number(&mut r, "a prefix length")? } else { 0 };
                    key.push((column, prefix));
                }
                self.primary_key = Some(key);
            }
            12 => {
                let bits = r.rest();
                for (i, column) in columns.iter_mut().enumerate() {
                    column.visible = Some(bit_from_high(bits, i));
                }
            }
            13 => {
                for column in of_type(columns, |ty| ty == column_type::VECTOR) {
                    column.vector_dimensions = Some(number(&mut r, "vector dimensions")?);
                }
            }
            // Collations (2, 3, 10, 11) of what the server takes for text, which
            // is not the same in both: the catalogue has them.
            _ => {}
        }
        Ok(())
    }
}

impl<'a> TableMapEvent<'a> {
    pub(super) fn read(table_id: u64, body: &'a [u8]) -> Result<Self> {
        let (schema, name) = head(&mut Reader::new(body, "TABLE_MAP"))?;
        Ok(Self { table_id, schema, name })
    }
}

/// What lies between a table id and the column count.
fn head<'a>(r: &mut Reader<'a>) -> Result<(&'a str, &'a str)> {
    let name = |r: &mut Reader<'a>| {
        let len = r.u8("the length of a name")?;
        let name = r.text(len.into(), "a name")?;
        match r.u8("a zero byte")? {
            0 => Ok(name),
            _ => Err(r.error("a zero byte before")),
        }
    };
    r.skip(2, "flags")?;
    Ok((name(r)?, name(r)?))
}

fn of_type(columns: &mut [TableColumn], is: impl Fn(u8) -> bool) -> impl Iterator<Item = &mut TableColumn> {
    columns.iter_mut().filter(move |column| is(column.layout.real_type()))
}

fn is_json(ty: u8) -> bool {
    ty == column_type::JSON
}

fn is_numeric(ty: u8) -> bool {
    use column_type::*;
    matches!(
        ty,
        YEAR | TINY | SHORT | INT24 | LONG | LONGLONG | NEWDECIMAL | FLOAT | DOUBLE
    )
}

fn bit_from_high(bits: &[u8], i: usize) -> bool {
    bits.get(i / 8).is_some_and(|byte| byte << (i % 8) & 0x80 != 0)
}

fn number(r: &mut Reader<'_>, what: &'static str) -> Result<u32> {
    let number = r.lenenc(what)?;
    u32::try_from(number).map_err(|_| r.error(what))
}

fn members<'c>(r: &mut Reader<'_>, columns: impl Iterator<Item = &'c mut TableColumn>) -> Result<()> {
    for column in columns {
        let count = r.len("a count of members")?;
        let mut members = Vec::new();
        for _ in 0..count {
            members.push(r.lenenc_bytes("a member")?.to_vec());
        }
        column.members = Some(members);
    }
    Ok(())
}
