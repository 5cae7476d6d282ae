//! Documents to rows: which field goes to which column, and what is left over.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::columns::{ColumnBuilder, decimal_parts, malformed};
use super::json;
use super::raw::{self, Value, tag};
use crate::error::{Error, Result};
use crate::schema::{MongoKind as Kind, SourceType, TableSchema};

/// What a row takes beside its columns.
const ROW_OVERHEAD_BYTES: usize = 16;

/// The columns of a table by the fields that they hold.
#[derive(Debug)]
pub struct Fields {
    /// Column 0 is the key.
    pub kinds: Vec<Kind>,
    names: Vec<String>,
    by_name: HashMap<Box<[u8]>, usize>,
    /// The names as readers may take them that don't know upper case.
    lower: HashSet<String>,
    /// The column of what has no column, or of the whole document.
    pub rest: usize,
    /// Whether that is the whole document.
    pub whole: bool,
}

impl Fields {
    pub fn of(schema: &TableSchema) -> Result<Self> {
        let mut kinds = Vec::with_capacity(schema.columns.len());
        for column in &schema.columns {
            match &column.source {
                SourceType::Mongo(own) => kinds.push(own.bson.clone()),
                _ => return Err(Error::bug("a column of another kind of source")),
            }
        }
        let rest = kinds
            .iter()
            .position(|kind| matches!(kind, Kind::Extra | Kind::Document));
        let rest = rest.ok_or_else(|| Error::bug("a table without a column for what is left over"))?;
        let names: Vec<String> = schema.columns.iter().map(|c| c.name.clone()).collect();
        let by_name = names.iter().enumerate().filter(|(place, _)| *place != rest);
        Ok(Self {
            by_name: by_name.map(|(place, name)| (name.as_bytes().into(), place)).collect(),
            whole: kinds[rest] == Kind::Document,
            lower: names.iter().map(|name| name.to_lowercase()).collect(),
            kinds,
            names,
            rest,
        })
    }

    /// The column of a field. `near` is the one that is looked at first.
    pub fn column(&self, name: &[u8], near: usize) -> Option<usize> {
        match self.names.get(near) {
            Some(own) if own.as_bytes() == name && near != self.rest => Some(near),
            _ => self.by_name.get(name).copied(),
        }
    }

    pub fn name(&self, column: usize) -> &str {
        &self.names[column]
    }

    /// Whether a column has the name, in whatever case.
    pub fn has_like(&self, name: &str) -> bool {
        self.lower.contains(&name.to_lowercase())
    }

    pub fn key(&self) -> &Kind {
        &self.kinds[0]
    }
}

/// Rows under construction.
#[derive(Debug)]
pub struct Rows {
    pub fields: Arc<Fields>,
    schema: SchemaRef,
    columns: Vec<ColumnBuilder>,
    rows: usize,
    pub bytes: usize,
    /// What a row takes whatever is in it.
    row_bytes: usize,
    /// Up to which row each column's field was met.
    met: Vec<usize>,
    /// The text of what is left over of a document.
    rest: Vec<u8>,
}

impl Rows {
    pub fn new(fields: Arc<Fields>, schema: SchemaRef) -> Self {
        Self {
            columns: fields.kinds.iter().map(ColumnBuilder::new).collect(),
            row_bytes: ROW_OVERHEAD_BYTES + fields.kinds.iter().map(Kind::width).sum::<usize>(),
            met: vec![0; fields.kinds.len()],
            fields,
            schema,
            rows: 0,
            bytes: 0,
            rest: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether a document's `_id` can be this table's key.
    pub fn takes_key(&self, id: Value<'_>) -> bool {
        match whole_number(id) {
            Some(number) => self.fields.key().holds(Value {
                tag: tag::INT64,
                bytes: &number.to_le_bytes(),
            }),
            None => self.fields.key().holds(id),
        }
    }

    /// Whether two values are one key.
    pub fn is_one_key(a: Value<'_>, b: Value<'_>) -> bool {
        a == b || matches!((whole_number(a), whole_number(b)), (Some(a), Some(b)) if a == b)
    }

    /// Takes a whole document. Its key must be one that the table takes.
    pub fn append(&mut self, document: &[u8]) -> Result<()> {
        if self.fields.whole {
            self.append_whole(document)?;
        } else {
            self.append_fields(document)?;
        }
        self.end_row(document.len());
        Ok(())
    }

    fn append_whole(&mut self, document: &[u8]) -> Result<()> {
        let id = raw::field(document, "_id").map_err(malformed)?;
        self.append_id(id)?;
        self.rest.clear();
        let value = Value {
            tag: tag::DOCUMENT,
            bytes: document,
        };
        json::write(value, &mut self.rest).map_err(malformed)?;
        self.columns[self.fields.rest].append_text(&self.rest)
    }

    fn append_id(&mut self, id: Option<Value<'_>>) -> Result<()> {
        let taken = match id {
            Some(id) => append_key(&mut self.columns[0], id)?,
            None => false,
        };
        match taken {
            true => Ok(()),
            false => Err(Error::bug("a document whose _id is none of the table's")),
        }
    }

    fn append_fields(&mut self, document: &[u8]) -> Result<()> {
        let (fields, columns) = (self.fields.clone(), &mut self.columns);
        self.rest.clear();
        let mut near = 0;
        for element in raw::document(document).map_err(malformed)? {
            let (name, value) = element.map_err(malformed)?;
            if let Some(column) = fields.column(name, near) {
                near = column + 1;
                let builder = &mut columns[column];
                // A second field of the name is left over.
                let first = std::mem::replace(&mut self.met[column], self.rows + 1) == self.rows;
                if first && (value.tag != tag::NULL || column == 0) {
                    let taken = match column {
                        0 => append_key(builder, value)?,
                        _ => builder.append(value)?,
                    };
                    if taken {
                        continue;
                    }
                }
            }
            self.rest.push(if self.rest.is_empty() { b'{' } else { b',' });
            json::write_name(name, &mut self.rest);
            json::write(value, &mut self.rest).map_err(malformed)?;
        }
        if columns[0].len() == self.rows {
            return Err(Error::bug("a document whose _id is none of the table's"));
        }
        if !self.rest.is_empty() {
            self.rest.push(b'}');
            columns[fields.rest].append_text(&self.rest)?;
        }
        Ok(())
    }

    /// Takes a key alone; every other column is NULL.
    pub fn append_only_key(&mut self, id: Value<'_>) -> Result<()> {
        self.append_id(Some(id))?;
        self.rest.clear();
        self.end_row(id.bytes.len());
        Ok(())
    }

    fn end_row(&mut self, bytes: usize) {
        self.rows += 1;
        for column in &mut self.columns {
            if column.len() < self.rows {
                column.append_null();
            }
        }
        self.met.fill(self.rows);
        // As JSON it may be longer.
        self.bytes += bytes.max(self.rest.len()) + self.row_bytes;
    }

    /// Ends the batch; the next rows make another one.
    pub fn finish(&mut self) -> Result<RecordBatch> {
        let arrays = self
            .columns
            .iter_mut()
            .map(ColumnBuilder::finish)
            .collect::<Result<Vec<_>>>()?;
        (self.rows, self.bytes) = (0, 0);
        self.met.fill(0);
        RecordBatch::try_new(self.schema.clone(), arrays)
            .map_err(|e| Error::bug("columns of different lengths").with_source(e))
    }
}

/// Takes a key. Numbers that the server takes for equal are one key.
fn append_key(column: &mut ColumnBuilder, id: Value<'_>) -> Result<bool> {
    match whole_number(id) {
        Some(number) => column.append(Value {
            tag: tag::INT64,
            bytes: &number.to_le_bytes(),
        }),
        None => column.append(id),
    }
}

fn whole_number(id: Value<'_>) -> Option<i64> {
    match id.tag {
        tag::INT32 | tag::INT64 => id.integer(),
        tag::DECIMAL128 => {
            let (digits, exponent, _) = decimal_parts(id.decimal()?)?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
            let whole = match exponent >= 0 {
                true => digits.checked_mul(power)?,
                false => (digits % power == 0).then_some(digits / power)?,
            };
            i64::try_from(whole).ok()
        }
        tag::DOUBLE => {
            let number = id.double()?;
            (number.fract() == 0.0 && number.abs() < i64::MAX as f64).then_some(number as i64)
        }
        _ => None,
    }
}
