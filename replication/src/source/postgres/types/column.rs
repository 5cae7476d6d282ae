//! Arrow arrays under construction.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, BooleanBufferBuilder, ListArray, MapArray, NullBufferBuilder, PrimitiveArray,
    StringArray, StructArray,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type,
    Int64Type, TimestampMicrosecondType,
};

use super::nested::{ArrayReader, for_each_field, for_each_number, for_each_pair, write_json_array};
use super::text::{versioned, write_text, write_uuid};
use super::wire::{boolean, fixed, utf8};
use super::{Attribute, Codec, DecodeError, Items, Kind, datetime, numeric};
use crate::schema::LakeType;

/// Builds one column from fields' bytes. A failed append changes nothing.
#[derive(Debug)]
pub struct ColumnBuilder {
    column: Column,
    replaced: u64,
}

impl ColumnBuilder {
    pub(super) fn new(codec: Codec) -> Self {
        Self {
            column: Column::new(codec),
            replaced: 0,
        }
    }

    /// Decodes one field, which is not NULL.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        self.column.append(bytes, &mut self.replaced)
    }

    pub fn append_null(&mut self) {
        self.column.append_null();
    }

    /// Rows since the last `finish`.
    pub fn len(&self) -> usize {
        self.column.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that the values take, which is what their array will take. The
    /// buffers may hold up to twice that while they grow.
    pub fn bytes(&self) -> usize {
        self.column.bytes()
    }

    /// Values that the infinity policy changed since the last `finish`; those
    /// inside lists and structs count each.
    pub fn replaced(&self) -> u64 {
        self.replaced
    }

    /// The rows so far as an array of exactly `lake_type().arrow()`. Leaves
    /// the builder empty.
    pub fn finish(&mut self) -> ArrayRef {
        self.replaced = 0;
        self.column.finish()
    }
}

/// The buffers are plain vectors rather than Arrow's builders, because those
/// cannot take back the first elements of a list whose last one is malformed,
/// and panic when 32-bit offsets run out.
///
/// Invariant: `nulls` and `values` have the same length between calls.
#[derive(Debug)]
struct Column {
    codec: Codec,
    nulls: NullBufferBuilder,
    values: Values,
}

/// Decode rule and buffers in one, so that a field costs one match.
#[derive(Debug)]
enum Values {
    Bool(BooleanBufferBuilder),
    Int2(Vec<i16>),
    Int4(Vec<i32>),
    Int8(Vec<i64>),
    Oid(Vec<i64>),
    Xid8(Vec<i128>),
    Float4(Vec<f32>),
    Float8(Vec<f64>),
    Decimal {
        values: Vec<i128>,
        precision: u8,
        scale: i8,
    },
    Money(Vec<i128>),
    Date(Vec<i32>),
    Timestamp(Vec<i64>),
    Binary(Binaries),
    Text(Strings),
    Versioned(Strings),
    Uuid(Strings),
    Json(Items, Strings),
    /// Every other type that is a string in the lake.
    Rendered(Strings),
    List {
        element_oid: u32,
        offsets: Offsets,
        items: Box<Column>,
    },
    Vector {
        offsets: Offsets,
        items: Vec<f32>,
    },
    Struct {
        attributes: Arc<[Attribute]>,
        fields: Vec<Column>,
    },
    Hstore {
        offsets: Offsets,
        keys: Strings,
        values: Strings,
        nulls: NullBufferBuilder,
    },
}

impl Column {
    fn new(codec: Codec) -> Self {
        let values = match codec.kind() {
            Kind::Bool => Values::Bool(BooleanBufferBuilder::new(0)),
            Kind::Int2 => Values::Int2(Vec::new()),
            Kind::Int4 => Values::Int4(Vec::new()),
            Kind::Int8 => Values::Int8(Vec::new()),
            Kind::Oid => Values::Oid(Vec::new()),
            Kind::Xid8 => Values::Xid8(Vec::new()),
            Kind::Float4 => Values::Float4(Vec::new()),
            Kind::Float8 => Values::Float8(Vec::new()),
            Kind::Decimal { precision, scale } => Values::Decimal {
                values: Vec::new(),
                precision: *precision,
                scale: *scale,
            },
            Kind::Money { .. } => Values::Money(Vec::new()),
            Kind::Date => Values::Date(Vec::new()),
            Kind::Timestamp | Kind::Timestamptz => Values::Timestamp(Vec::new()),
            Kind::Bytea | Kind::Geometry => Values::Binary(Binaries::default()),
            Kind::Text => Values::Text(Strings::default()),
            Kind::Versioned => Values::Versioned(Strings::default()),
            Kind::Uuid => Values::Uuid(Strings::default()),
            Kind::JsonArray(items) => Values::Json(items.clone(), Strings::default()),
            Kind::List(items) => Values::List {
                element_oid: items.oid,
                offsets: Offsets::default(),
                items: Box::new(Column::new(items.codec.clone())),
            },
            Kind::Vector => Values::Vector {
                offsets: Offsets::default(),
                items: Vec::new(),
            },
            Kind::Struct(attributes) => Values::Struct {
                attributes: attributes.as_slice().into(),
                fields: attributes.iter().map(|a| Column::new(a.codec.clone())).collect(),
            },
            Kind::Hstore => Values::Hstore {
                offsets: Offsets::default(),
                keys: Strings::default(),
                values: Strings::default(),
                nulls: NullBufferBuilder::new(0),
            },
            Kind::Numeric
            | Kind::Char
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
            | Kind::Multirange(_) => Values::Rendered(Strings::default()),
        };
        Self {
            codec,
            nulls: NullBufferBuilder::new(0),
            values,
        }
    }

    fn len(&self) -> usize {
        self.nulls.len()
    }

    fn append(&mut self, bytes: &[u8], replaced: &mut u64) -> Result<(), DecodeError> {
        let mut valid = true;
        let mut or_null = |was_replaced: bool, is_valid: bool| {
            *replaced = replaced.saturating_add(was_replaced.into());
            valid = is_valid;
        };
        match &mut self.values {
            Values::Bool(values) => values.append(boolean(bytes)?),
            Values::Int2(values) => values.push(i16::from_be_bytes(fixed(bytes, "int2")?)),
            Values::Int4(values) => values.push(i32::from_be_bytes(fixed(bytes, "int4")?)),
            Values::Int8(values) => values.push(i64::from_be_bytes(fixed(bytes, "int8")?)),
            Values::Oid(values) => values.push(u32::from_be_bytes(fixed(bytes, "oid")?).into()),
            Values::Xid8(values) => values.push(u64::from_be_bytes(fixed(bytes, "xid8")?).into()),
            Values::Float4(values) => values.push(f32::from_be_bytes(fixed(bytes, "float4")?)),
            Values::Float8(values) => values.push(f64::from_be_bytes(fixed(bytes, "float8")?)),
            Values::Decimal {
                values,
                precision,
                scale,
            } => {
                let (value, was_replaced) = numeric::decimal(bytes, *precision, *scale, self.codec.infinity())?;
                values.push(value.unwrap_or_default());
                or_null(was_replaced, value.is_some());
            }
            Values::Money(values) => {
                values.push(i64::from_be_bytes(fixed(bytes, "money")?).into());
            }
            Values::Date(values) => {
                let (value, was_replaced) = datetime::date(bytes, self.codec.infinity())?;
                values.push(value.unwrap_or_default());
                or_null(was_replaced, value.is_some());
            }
            Values::Timestamp(values) => {
                let (value, was_replaced) = datetime::timestamp(bytes, self.codec.infinity())?;
                values.push(value.unwrap_or_default());
                or_null(was_replaced, value.is_some());
            }
            Values::Binary(values) => values.append(bytes)?,
            Values::Text(values) => {
                let text = utf8(bytes, "text")?;
                values.append_with(|out| {
                    out.push_str(text);
                    Ok(())
                })?;
            }
            Values::Versioned(values) => {
                let text = versioned(bytes)?;
                values.append_with(|out| {
                    out.push_str(text);
                    Ok(())
                })?;
            }
            Values::Uuid(values) => values.append_with(|out| write_uuid(bytes, out))?,
            Values::Json(items, values) => {
                values.append_with(|out| write_json_array(items, bytes, out))?;
            }
            Values::Rendered(values) => {
                values.append_with(|out| write_text(&self.codec, bytes, out))?;
            }
            Values::List {
                element_oid,
                offsets,
                items,
            } => {
                let (before, replaced_before) = (items.len(), *replaced);
                let appended =
                    append_items(*element_oid, bytes, items, replaced).and_then(|()| offsets.push(items.len()));
                if let Err(error) = appended {
                    items.truncate(before);
                    *replaced = replaced_before;
                    return Err(error);
                }
            }
            Values::Vector { offsets, items } => {
                let before = items.len();
                let appended = for_each_number(bytes, |number| {
                    items.push(number);
                    Ok(())
                })
                .and_then(|()| offsets.push(items.len()));
                if let Err(error) = appended {
                    items.truncate(before);
                    return Err(error);
                }
            }
            Values::Struct { attributes, fields } => {
                let (before, replaced_before) = (self.nulls.len(), *replaced);
                let appended = for_each_field(attributes, bytes, |i, _, field| match (fields.get_mut(i), field) {
                    (Some(column), Some(field)) => column.append(field, replaced),
                    (Some(column), None) => {
                        column.append_null();
                        Ok(())
                    }
                    (None, _) => Ok(()),
                });
                if let Err(error) = appended {
                    for column in fields {
                        column.truncate(before);
                    }
                    *replaced = replaced_before;
                    return Err(error);
                }
            }
            Values::Hstore {
                offsets,
                keys,
                values,
                nulls,
            } => {
                let before = keys.len();
                let appended = append_pairs(bytes, keys, values, nulls).and_then(|()| offsets.push(keys.len()));
                if let Err(error) = appended {
                    keys.truncate(before);
                    values.truncate(before);
                    nulls.truncate(before);
                    return Err(error);
                }
            }
        }
        self.nulls.append(valid);
        Ok(())
    }

    fn append_null(&mut self) {
        match &mut self.values {
            Values::Bool(values) => values.append(false),
            Values::Int2(values) => values.push(0),
            Values::Int4(values) | Values::Date(values) => values.push(0),
            Values::Int8(values) | Values::Oid(values) | Values::Timestamp(values) => {
                values.push(0);
            }
            Values::Xid8(values) | Values::Money(values) | Values::Decimal { values, .. } => {
                values.push(0);
            }
            Values::Float4(values) => values.push(0.0),
            Values::Float8(values) => values.push(0.0),
            Values::Binary(values) => values.offsets.repeat(),
            Values::Text(values)
            | Values::Versioned(values)
            | Values::Uuid(values)
            | Values::Json(_, values)
            | Values::Rendered(values) => values.offsets.repeat(),
            Values::List { offsets, .. } | Values::Vector { offsets, .. } | Values::Hstore { offsets, .. } => {
                offsets.repeat()
            }
            Values::Struct { fields, .. } => fields.iter_mut().for_each(Column::append_null),
        }
        self.nulls.append_null();
    }

    /// Keeps the first `len` rows. A struct's fields may have one row more
    /// than the struct itself when an append has failed half-way.
    fn truncate(&mut self, len: usize) {
        match &mut self.values {
            Values::Bool(values) => values.truncate(len),
            Values::Int2(values) => values.truncate(len),
            Values::Int4(values) | Values::Date(values) => values.truncate(len),
            Values::Int8(values) | Values::Oid(values) | Values::Timestamp(values) => {
                values.truncate(len);
            }
            Values::Xid8(values) | Values::Money(values) | Values::Decimal { values, .. } => {
                values.truncate(len);
            }
            Values::Float4(values) => values.truncate(len),
            Values::Float8(values) => values.truncate(len),
            Values::Binary(values) => values.truncate(len),
            Values::Text(values)
            | Values::Versioned(values)
            | Values::Uuid(values)
            | Values::Json(_, values)
            | Values::Rendered(values) => values.truncate(len),
            Values::List { offsets, items, .. } => {
                offsets.truncate(len);
                items.truncate(offsets.last());
            }
            Values::Vector { offsets, items } => {
                offsets.truncate(len);
                items.truncate(offsets.last());
            }
            Values::Struct { fields, .. } => fields.iter_mut().for_each(|f| f.truncate(len)),
            Values::Hstore {
                offsets,
                keys,
                values,
                nulls,
            } => {
                offsets.truncate(len);
                keys.truncate(offsets.last());
                values.truncate(offsets.last());
                nulls.truncate(offsets.last());
            }
        }
        self.nulls.truncate(len);
    }

    fn bytes(&self) -> usize {
        let values = match &self.values {
            Values::Bool(values) => values.len().div_ceil(8),
            Values::Int2(values) => size_of_val(values.as_slice()),
            Values::Int4(values) | Values::Date(values) => size_of_val(values.as_slice()),
            Values::Int8(values) | Values::Oid(values) | Values::Timestamp(values) => size_of_val(values.as_slice()),
            Values::Xid8(values) | Values::Money(values) | Values::Decimal { values, .. } => {
                size_of_val(values.as_slice())
            }
            Values::Float4(values) => size_of_val(values.as_slice()),
            Values::Float8(values) => size_of_val(values.as_slice()),
            Values::Binary(values) => values.bytes(),
            Values::Text(values)
            | Values::Versioned(values)
            | Values::Uuid(values)
            | Values::Json(_, values)
            | Values::Rendered(values) => values.bytes(),
            Values::List { offsets, items, .. } => offsets.bytes().saturating_add(items.bytes()),
            Values::Vector { offsets, items } => offsets.bytes().saturating_add(size_of_val(items.as_slice())),
            Values::Struct { fields, .. } => fields.iter().fold(0, |sum, field| field.bytes().saturating_add(sum)),
            Values::Hstore {
                offsets,
                keys,
                values,
                nulls,
            } => offsets
                .bytes()
                .saturating_add(keys.bytes())
                .saturating_add(values.bytes())
                .saturating_add(nulls.len().div_ceil(8)),
        };
        values.saturating_add(self.nulls.len().div_ceil(8))
    }

    fn finish(&mut self) -> ArrayRef {
        let nulls = self.nulls.finish();
        let ty = self.codec.lake_type();
        match &mut self.values {
            Values::Bool(values) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            Values::Int2(values) => primitive::<Int16Type>(values, nulls, ty),
            Values::Int4(values) => primitive::<Int32Type>(values, nulls, ty),
            Values::Int8(values) | Values::Oid(values) => primitive::<Int64Type>(values, nulls, ty),
            Values::Xid8(values) | Values::Money(values) | Values::Decimal { values, .. } => {
                primitive::<Decimal128Type>(values, nulls, ty)
            }
            Values::Float4(values) => primitive::<Float32Type>(values, nulls, ty),
            Values::Float8(values) => primitive::<Float64Type>(values, nulls, ty),
            Values::Date(values) => primitive::<Date32Type>(values, nulls, ty),
            Values::Timestamp(values) => primitive::<TimestampMicrosecondType>(values, nulls, ty),
            Values::Binary(values) => Arc::new(values.finish(nulls)),
            Values::Text(values)
            | Values::Versioned(values)
            | Values::Uuid(values)
            | Values::Json(_, values)
            | Values::Rendered(values) => Arc::new(values.finish(nulls)),
            Values::List { offsets, items, .. } => Arc::new(ListArray::new(
                LakeType::list_field(items.codec.lake_type()),
                offsets.finish(),
                items.finish(),
                nulls,
            )),
            Values::Vector { offsets, items } => Arc::new(ListArray::new(
                LakeType::list_field(&LakeType::Float),
                offsets.finish(),
                primitive::<Float32Type>(items, None, &LakeType::Float),
                nulls,
            )),
            Values::Struct { attributes, fields } => {
                let types: Vec<_> = attributes
                    .iter()
                    .map(|a| (a.name.clone(), a.codec.lake_type().clone()))
                    .collect();
                Arc::new(StructArray::new(
                    LakeType::struct_fields(&types),
                    fields.iter_mut().map(Column::finish).collect(),
                    nulls,
                ))
            }
            Values::Hstore {
                offsets,
                keys,
                values,
                nulls: value_nulls,
            } => {
                let field = LakeType::map_field();
                let entries = match field.data_type() {
                    DataType::Struct(fields) => fields.clone(),
                    _ => Default::default(),
                };
                let columns: Vec<ArrayRef> = vec![
                    Arc::new(keys.finish(None)),
                    Arc::new(values.finish(value_nulls.finish())),
                ];
                let entries = StructArray::new(entries, columns, None);
                Arc::new(MapArray::new(field, offsets.finish(), entries, nulls, false))
            }
        }
    }
}

fn append_items(element_oid: u32, bytes: &[u8], items: &mut Column, replaced: &mut u64) -> Result<(), DecodeError> {
    let mut array = ArrayReader::new(bytes, element_oid)?;
    for _ in 0..array.list_len()? {
        match array.element()? {
            Some(element) => items.append(element, replaced)?,
            None => items.append_null(),
        }
    }
    array.finish()
}

fn append_pairs(
    bytes: &[u8],
    keys: &mut Strings,
    values: &mut Strings,
    nulls: &mut NullBufferBuilder,
) -> Result<(), DecodeError> {
    for_each_pair(bytes, |key, value| {
        keys.append_with(|out| {
            out.push_str(key);
            Ok(())
        })?;
        values.append_with(|out| {
            out.push_str(value.unwrap_or_default());
            Ok(())
        })?;
        nulls.append(value.is_some());
        Ok(())
    })
}

fn primitive<T: ArrowPrimitiveType>(values: &mut Vec<T::Native>, nulls: Option<NullBuffer>, ty: &LakeType) -> ArrayRef {
    let values = ScalarBuffer::from(std::mem::take(values));
    Arc::new(PrimitiveArray::<T>::new(values, nulls).with_data_type(ty.arrow()))
}

/// Where each value ends in the buffer it shares with the others.
#[derive(Debug)]
struct Offsets(Vec<i32>);

impl Default for Offsets {
    fn default() -> Self {
        Self(vec![0])
    }
}

impl Offsets {
    fn push(&mut self, end: usize) -> Result<(), DecodeError> {
        let end = i32::try_from(end).map_err(|_| {
            DecodeError::new(format!(
                "expected a column of up to {} bytes or elements in one batch, found {end}",
                i32::MAX
            ))
        })?;
        self.0.push(end);
        Ok(())
    }

    /// An empty value.
    fn repeat(&mut self) {
        self.0.push(self.0.last().copied().unwrap_or(0));
    }

    /// Where the last value ends.
    fn last(&self) -> usize {
        let last = self.0.last().copied().unwrap_or(0);
        usize::try_from(last).unwrap_or(0)
    }

    fn len(&self) -> usize {
        self.0.len().saturating_sub(1)
    }

    fn truncate(&mut self, len: usize) {
        self.0.truncate(len.saturating_add(1));
    }

    fn bytes(&self) -> usize {
        size_of_val(self.0.as_slice())
    }

    fn finish(&mut self) -> OffsetBuffer<i32> {
        OffsetBuffer::new(std::mem::take(self).0.into())
    }
}

#[derive(Debug, Default)]
struct Strings {
    data: String,
    offsets: Offsets,
}

impl Strings {
    /// Appends what `write` writes, or nothing if it fails.
    fn append_with(&mut self, write: impl FnOnce(&mut String) -> Result<(), DecodeError>) -> Result<(), DecodeError> {
        let before = self.data.len();
        let appended = write(&mut self.data).and_then(|()| self.offsets.push(self.data.len()));
        if appended.is_err() {
            self.data.truncate(before);
        }
        appended
    }

    fn len(&self) -> usize {
        self.offsets.len()
    }

    fn truncate(&mut self, len: usize) {
        self.offsets.truncate(len);
        self.data.truncate(self.offsets.last());
    }

    fn bytes(&self) -> usize {
        self.data.len().saturating_add(self.offsets.bytes())
    }

    fn finish(&mut self, nulls: Option<NullBuffer>) -> StringArray {
        let data = std::mem::take(&mut self.data).into_bytes();
        StringArray::new(self.offsets.finish(), Buffer::from_vec(data), nulls)
    }
}

#[derive(Debug, Default)]
struct Binaries {
    data: Vec<u8>,
    offsets: Offsets,
}

impl Binaries {
    fn append(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        self.offsets.push(self.data.len().saturating_add(bytes.len()))?;
        self.data.extend_from_slice(bytes);
        Ok(())
    }

    fn truncate(&mut self, len: usize) {
        self.offsets.truncate(len);
        self.data.truncate(self.offsets.last());
    }

    fn bytes(&self) -> usize {
        self.data.len().saturating_add(self.offsets.bytes())
    }

    fn finish(&mut self, nulls: Option<NullBuffer>) -> BinaryArray {
        let data = Buffer::from_vec(std::mem::take(&mut self.data));
        BinaryArray::new(self.offsets.finish(), data, nulls)
    }
}
