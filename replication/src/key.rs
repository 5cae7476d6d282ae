//! Keys as the index stores them: the one encoding that snapshot, stream and
//! index rebuild share.
//!
//! A key of one column of at most 8 bytes is exact. Any other key is a 128-bit
//! hash of its canonical bytes, seeded per process so that nobody who can
//! choose keys can choose collisions. 64 bits would not do: a billion keys
//! have a 2.7 % chance of some collision, which is a silent wrong delete.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType,
};
use arrow::record_batch::RecordBatch;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::error::{Error, Result};
use crate::schema::{LakeType, TableSchema};

/// A key, exact or hashed; which of the two is a property of its table.
pub type Key = u128;

#[derive(Clone, Debug)]
pub struct KeyEncoder {
    columns: Vec<usize>,
    exact: bool,
    seed: u64,
}

impl KeyEncoder {
    pub fn new(schema: &TableSchema, seed: u64) -> Self {
        let exact = match schema.key.as_slice() {
            [one] => schema.columns.get(*one).is_some_and(|c| {
                matches!(
                    c.ty,
                    LakeType::Short
                        | LakeType::Integer
                        | LakeType::Long
                        | LakeType::Date
                        | LakeType::Timestamp
                        | LakeType::TimestampNtz
                )
            }),
            _ => false,
        };
        Self {
            columns: schema.key.clone(),
            exact,
            seed,
        }
    }

    /// The same keys among other columns.
    pub fn with_schema(&self, schema: &TableSchema) -> Self {
        Self::new(schema, self.seed)
    }

    /// Whether keys fit 8 bytes.
    pub fn is_exact(&self) -> bool {
        self.exact
    }

    /// The columns of the key, in key order.
    pub fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// One key per row of a batch with the table's full schema.
    pub fn keys(&self, rows: &RecordBatch) -> Result<Vec<Key>> {
        let columns: Vec<&ArrayRef> = self.columns.iter().map(|c| rows.column(*c)).collect();
        self.keys_of(&columns, rows.num_rows())
    }

    /// One key per row, of the key columns alone, in key order.
    pub fn keys_of(&self, columns: &[&ArrayRef], rows: usize) -> Result<Vec<Key>> {
        if self.exact
            && let [column] = columns
        {
            return exact(column);
        }
        // Column by column into one buffer per row would touch memory rows
        // times; one row at a time through a small buffer stays in cache.
        let mut keys = Vec::with_capacity(rows);
        let mut buffer = Vec::with_capacity(64);
        for row in 0..rows {
            buffer.clear();
            for column in columns {
                encode(column, row, &mut buffer)?;
            }
            keys.push(xxh3_128_with_seed(&buffer, self.seed));
        }
        Ok(keys)
    }
}

fn exact(column: &ArrayRef) -> Result<Vec<Key>> {
    let widen = |v: i64| Key::from(v as u64);
    Ok(match column.data_type() {
        DataType::Int16 => column
            .as_primitive::<Int16Type>()
            .values()
            .iter()
            .map(|v| widen(i64::from(*v)))
            .collect(),
        DataType::Int32 => column
            .as_primitive::<Int32Type>()
            .values()
            .iter()
            .map(|v| widen(i64::from(*v)))
            .collect(),
        DataType::Int64 => column
            .as_primitive::<Int64Type>()
            .values()
            .iter()
            .map(|v| widen(*v))
            .collect(),
        DataType::Date32 => column
            .as_primitive::<Date32Type>()
            .values()
            .iter()
            .map(|v| widen(i64::from(*v)))
            .collect(),
        DataType::Timestamp(TimeUnit::Microsecond, _) => column
            .as_primitive::<TimestampMicrosecondType>()
            .values()
            .iter()
            .map(|v| widen(*v))
            .collect(),
        other => return Err(Error::bug(format!("{other} is not an exact key"))),
    })
}

/// Appends a tag and the value; variable-length values carry their length, so
/// that no two keys have the same bytes.
fn encode(column: &ArrayRef, row: usize, out: &mut Vec<u8>) -> Result<()> {
    if column.is_null(row) {
        out.push(0);
        return Ok(());
    }
    out.push(1);
    let variable = |bytes: &[u8], out: &mut Vec<u8>| {
        out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(bytes);
    };
    match column.data_type() {
        DataType::Boolean => out.push(u8::from(column.as_boolean().value(row))),
        DataType::Int16 => out.extend_from_slice(&column.as_primitive::<Int16Type>().value(row).to_le_bytes()),
        DataType::Int32 => out.extend_from_slice(&column.as_primitive::<Int32Type>().value(row).to_le_bytes()),
        DataType::Int64 => out.extend_from_slice(&column.as_primitive::<Int64Type>().value(row).to_le_bytes()),
        DataType::Date32 => out.extend_from_slice(&column.as_primitive::<Date32Type>().value(row).to_le_bytes()),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            out.extend_from_slice(
                &column
                    .as_primitive::<TimestampMicrosecondType>()
                    .value(row)
                    .to_le_bytes(),
            );
        }
        // By bits: the source compares old and new key by bits too, and says so.
        DataType::Float32 => {
            out.extend_from_slice(&column.as_primitive::<Float32Type>().value(row).to_bits().to_le_bytes())
        }
        DataType::Float64 => {
            out.extend_from_slice(&column.as_primitive::<Float64Type>().value(row).to_bits().to_le_bytes())
        }
        DataType::Decimal128(_, _) => {
            out.extend_from_slice(&column.as_primitive::<Decimal128Type>().value(row).to_le_bytes());
        }
        DataType::Utf8 => variable(column.as_string::<i32>().value(row).as_bytes(), out),
        DataType::Binary => variable(column.as_binary::<i32>().value(row), out),
        other => return Err(Error::bug(format!("{other} can't be part of a key"))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int32Array, StringArray};

    use super::*;
    use crate::schema::Column;

    fn schema(types: &[LakeType]) -> TableSchema {
        TableSchema {
            columns: types
                .iter()
                .enumerate()
                .map(|(i, ty)| Column {
                    name: format!("c{i}"),
                    ty: ty.clone(),
                    attribute: i as i32,
                    source: crate::schema::SourceType::default(),
                })
                .collect(),
            key: (0..types.len()).collect(),
        }
    }

    #[test]
    fn integer_keys_are_exact_and_keep_their_sign() {
        let schema = schema(&[LakeType::Integer]);
        let rows =
            RecordBatch::try_new(schema.arrow(), vec![Arc::new(Int32Array::from(vec![-1, 0, 7]))]).expect("batch");
        let keys = KeyEncoder::new(&schema, 1).keys(&rows).expect("keys");
        assert_eq!(keys, [u128::from(u64::MAX), 0, 7]);
    }

    #[test]
    fn text_that_runs_together_makes_different_keys() {
        let schema = schema(&[LakeType::String, LakeType::String]);
        let a = StringArray::from(vec![Some("ab"), Some("a"), Some(""), None]);
        let b = StringArray::from(vec![Some("c"), Some("bc"), None, Some("")]);
        let rows = RecordBatch::try_new(schema.arrow(), vec![Arc::new(a), Arc::new(b)]).expect("batch");
        let mut keys = KeyEncoder::new(&schema, 1).keys(&rows).expect("keys");
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 4);
    }
}
