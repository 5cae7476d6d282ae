//! Arrow columns of BSON values: what a column holds, exactly or not at all.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, ListArray, NullBufferBuilder, PrimitiveArray, StringArray,
    StructArray,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{ArrowPrimitiveType, Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType};

use super::json;
use super::raw::{self, Malformed, Value, tag};
use crate::error::{Error, Result};
use crate::schema::{LakeType, MongoKind as Kind};

/// Up to here every integer is a double.
const EXACT_DOUBLE: i64 = 1 << 53;
/// A decimal column's digits.
pub const DECIMAL_PRECISION: u8 = 38;
/// Binary subtypes. Spec: BSON, "binary subtypes".
pub const GENERIC: u8 = 0;
pub const UUID: u8 = 4;

impl Kind {
    pub fn lake_type(&self) -> LakeType {
        match self {
            Kind::Bool => LakeType::Boolean,
            Kind::Long => LakeType::Long,
            Kind::Double => LakeType::Double,
            Kind::Decimal(scale) => LakeType::Decimal {
                precision: DECIMAL_PRECISION,
                scale: *scale,
            },
            Kind::Binary => LakeType::Binary,
            Kind::Date => LakeType::Timestamp,
            Kind::Array(element) => LakeType::List(Box::new(element.lake_type())),
            Kind::Struct(fields) => LakeType::Struct(
                fields
                    .iter()
                    .map(|(name, kind)| (name.clone(), kind.lake_type()))
                    .collect(),
            ),
            Kind::ObjectId | Kind::Uuid | Kind::String | Kind::Json | Kind::Extra | Kind::Document => LakeType::String,
        }
    }

    /// What a value takes in a column at least, NULL too, in bytes.
    pub fn width(&self) -> usize {
        match self {
            Kind::Bool => 1,
            Kind::Long | Kind::Double | Kind::Date => 8,
            Kind::Decimal(_) => 16,
            Kind::Struct(fields) => fields.iter().map(|(_, kind)| kind.width()).sum(),
            _ => 4,
        }
    }

    /// Whether a value that is not null can be in such a column without loss.
    pub fn holds(&self, value: Value<'_>) -> bool {
        match self {
            Kind::ObjectId => value.tag == tag::OBJECT_ID,
            Kind::Uuid => matches!(value.binary(), Some((UUID, bytes)) if bytes.len() == 16),
            Kind::String => value.tag == tag::STRING,
            Kind::Bool => value.tag == tag::BOOLEAN,
            Kind::Long => long(value).is_some(),
            Kind::Double => double(value).is_some(),
            Kind::Decimal(scale) => decimal(value, *scale).is_some(),
            Kind::Binary => matches!(value.binary(), Some((GENERIC, _))),
            Kind::Date => micros(value).is_some(),
            Kind::Json => true,
            Kind::Extra | Kind::Document => false,
            Kind::Array(element) => {
                value.tag == tag::ARRAY
                    && value.elements().is_ok_and(|mut elements| {
                        elements.all(|e| e.is_ok_and(|(_, value)| value.tag == tag::NULL || element.holds(value)))
                    })
            }
            Kind::Struct(fields) => {
                let known = |name: &[u8], value: Value<'_>| {
                    fields
                        .iter()
                        .any(|(own, kind)| own.as_bytes() == name && value.tag != tag::NULL && kind.holds(value))
                };
                value.tag == tag::DOCUMENT
                    && value
                        .elements()
                        .is_ok_and(|mut elements| elements.all(|e| e.is_ok_and(|(name, value)| known(name, value))))
                    && !has_doubles(value)
            }
        }
    }
}

/// Whether a document has two fields of one name, which BSON allows.
fn has_doubles(value: Value<'_>) -> bool {
    let Ok(elements) = value.elements() else { return true };
    let mut names: Vec<&[u8]> = elements.filter_map(|e| e.ok().map(|(name, _)| name)).collect();
    names.sort_unstable();
    names.windows(2).any(|pair| pair[0] == pair[1])
}

fn long(value: Value<'_>) -> Option<i64> {
    match value.tag {
        tag::DOUBLE => {
            let number = value.double()?;
            let exact = number.fract() == 0.0 && number.abs() <= EXACT_DOUBLE as f64;
            (exact && !(number == 0.0 && number.is_sign_negative())).then_some(number as i64)
        }
        _ => value.integer(),
    }
}

fn double(value: Value<'_>) -> Option<f64> {
    match value.integer() {
        Some(number) => (-EXACT_DOUBLE..=EXACT_DOUBLE)
            .contains(&number)
            .then_some(number as f64),
        // JSON knows one NaN, whatever its bits.
        None => value
            .double()
            .map(|number| if number.is_nan() { f64::NAN } else { number }),
    }
}

fn decimal(value: Value<'_>, scale: i8) -> Option<i128> {
    let (digits, exponent, negative) = match value.integer() {
        Some(number) => (i128::from(number), 0, false),
        None => decimal_parts(value.decimal()?)?,
    };
    if digits == 0 && negative {
        return None;
    }
    let shift = exponent + i32::from(scale);
    let power = |n: i32| 10_i128.checked_pow(n as u32);
    let unscaled = match shift {
        _ if digits == 0 => 0,
        0.. => digits.checked_mul(power(shift)?)?,
        _ => {
            let divisor = power(-shift)?;
            (digits % divisor == 0).then_some(digits / divisor)?
        }
    };
    let limit = power(i32::from(DECIMAL_PRECISION))?;
    (unscaled > -limit && unscaled < limit).then_some(unscaled)
}

/// Signed digits, the exponent of ten, and the sign; `None` for NaN and
/// infinity. Spec: IEEE 754-2008, decimal128, binary integer decimal encoding.
pub fn decimal_parts(bytes: [u8; 16]) -> Option<(i128, i32, bool)> {
    let bits = u128::from_le_bytes(bytes);
    let high = (bits >> 64) as u64;
    let negative = high >> 63 == 1;
    let (exponent, digits) = match high >> 61 & 3 {
        3 if high >> 59 & 15 == 15 => return None,
        // Digits that are more than 34, which stand for none.
        3 => (high >> 47 & 0x3fff, 0),
        _ => (high >> 49 & 0x3fff, bits & ((1 << 113) - 1)),
    };
    let digits = match digits < 10_u128.pow(34) {
        true => digits as i128,
        false => 0,
    };
    let exponent = exponent as i32 - 6176;
    Some((if negative { -digits } else { digits }, exponent, negative))
}

fn micros(value: Value<'_>) -> Option<i64> {
    value.date()?.checked_mul(1000)
}

/// Builds one column. A value that does not fit changes nothing.
#[derive(Debug)]
pub struct ColumnBuilder {
    kind: Kind,
    nulls: NullBufferBuilder,
    values: Values,
}

#[derive(Debug)]
enum Values {
    Boolean(Vec<bool>),
    Long(Vec<i64>),
    Double(Vec<f64>),
    Decimal(Vec<i128>),
    /// Ends, and bytes end to end.
    Bytes(Vec<i32>, Vec<u8>),
    List(Vec<i32>, Box<ColumnBuilder>),
    Struct(Vec<ColumnBuilder>),
}

impl ColumnBuilder {
    pub fn new(kind: &Kind) -> Self {
        let values = match kind {
            Kind::Bool => Values::Boolean(Vec::new()),
            Kind::Long | Kind::Date => Values::Long(Vec::new()),
            Kind::Double => Values::Double(Vec::new()),
            Kind::Decimal(_) => Values::Decimal(Vec::new()),
            Kind::Array(element) => Values::List(vec![0], Box::new(ColumnBuilder::new(element))),
            Kind::Struct(fields) => Values::Struct(fields.iter().map(|(_, kind)| ColumnBuilder::new(kind)).collect()),
            _ => Values::Bytes(vec![0], Vec::new()),
        };
        Self {
            kind: kind.clone(),
            nulls: NullBufferBuilder::new(0),
            values,
        }
    }

    pub fn len(&self) -> usize {
        self.nulls.len()
    }

    /// Takes a value that is not null, if the column can hold it.
    pub fn append(&mut self, value: Value<'_>) -> Result<bool> {
        match (&mut self.values, &self.kind) {
            (Values::Boolean(values), _) => match value.boolean() {
                Some(value) => values.push(value),
                None => return Ok(false),
            },
            (Values::Long(values), Kind::Date) => match micros(value) {
                Some(value) => values.push(value),
                None => return Ok(false),
            },
            (Values::Long(values), _) => match long(value) {
                Some(value) => values.push(value),
                None => return Ok(false),
            },
            (Values::Double(values), _) => match double(value) {
                Some(value) => values.push(value),
                None => return Ok(false),
            },
            (Values::Decimal(values), Kind::Decimal(scale)) => match decimal(value, *scale) {
                Some(value) => values.push(value),
                None => return Ok(false),
            },
            (Values::Bytes(ends, bytes), kind) => {
                if !kind.holds(value) {
                    return Ok(false);
                }
                append_plain(kind, value, bytes).map_err(malformed)?;
                end(ends, bytes)?;
            }
            _ => {
                if !self.kind.holds(value) {
                    return Ok(false);
                }
                self.append_nested(value)?;
            }
        }
        self.nulls.append_non_null();
        Ok(true)
    }

    /// Takes an array or a document that fits.
    fn append_nested(&mut self, value: Value<'_>) -> Result<()> {
        match (&mut self.values, &self.kind) {
            (Values::List(ends, child), _) => {
                for element in value.elements().map_err(malformed)? {
                    let (_, value) = element.map_err(malformed)?;
                    if value.tag == tag::NULL || !child.append(value)? {
                        child.append_null();
                    }
                }
                ends.push(i32::try_from(child.len()).map_err(|_| too_long())?);
            }
            (Values::Struct(children), Kind::Struct(fields)) => {
                let elements = value.elements().map_err(malformed)?;
                let elements = elements.collect::<raw::Result<Vec<_>>>().map_err(malformed)?;
                for (child, (name, _)) in children.iter_mut().zip(fields) {
                    let own = elements.iter().find(|(own, _)| *own == name.as_bytes());
                    if !matches!(own, Some((_, value)) if child.append(*value)?) {
                        child.append_null();
                    }
                }
            }
            _ => return Err(Error::bug("a nested value in a flat column")),
        }
        Ok(())
    }

    /// Takes text as it is.
    pub fn append_text(&mut self, text: &[u8]) -> Result<()> {
        let Values::Bytes(ends, bytes) = &mut self.values else {
            return Err(Error::bug("text in a column that has none"));
        };
        bytes.extend_from_slice(text);
        end(ends, bytes)?;
        self.nulls.append_non_null();
        Ok(())
    }

    pub fn append_null(&mut self) {
        match &mut self.values {
            Values::Boolean(values) => values.push(false),
            Values::Long(values) => values.push(0),
            Values::Double(values) => values.push(0.0),
            Values::Decimal(values) => values.push(0),
            Values::Bytes(ends, _) => ends.push(ends.last().copied().unwrap_or(0)),
            Values::List(ends, _) => ends.push(ends.last().copied().unwrap_or(0)),
            Values::Struct(children) => children.iter_mut().for_each(ColumnBuilder::append_null),
        }
        self.nulls.append_null();
    }

    /// Ends the column; the builder is empty again.
    pub fn finish(&mut self) -> Result<ArrayRef> {
        let own = std::mem::replace(self, ColumnBuilder::new(&self.kind));
        let (kind, mut nulls) = (own.kind, own.nulls);
        let nulls = nulls.finish();
        let mismatch = |e| Error::bug("a column's buffers do not fit each other").with_source(e);
        Ok(match own.values {
            Values::Boolean(values) => Arc::new(BooleanArray::new(values.into(), nulls)),
            Values::Long(values) if kind == Kind::Date => {
                Arc::new(primitive::<TimestampMicrosecondType>(values, nulls).with_timezone("UTC"))
            }
            Values::Long(values) => Arc::new(primitive::<Int64Type>(values, nulls)),
            Values::Double(values) => Arc::new(primitive::<Float64Type>(values, nulls)),
            Values::Decimal(values) => {
                Arc::new(primitive::<Decimal128Type>(values, nulls).with_data_type(kind.lake_type().arrow()))
            }
            Values::Bytes(ends, bytes) => {
                let ends = OffsetBuffer::new(ScalarBuffer::from(ends));
                let bytes = Buffer::from(bytes);
                match kind {
                    Kind::Binary => Arc::new(BinaryArray::try_new(ends, bytes, nulls).map_err(mismatch)?),
                    _ => Arc::new(StringArray::try_new(ends, bytes, nulls).map_err(mismatch)?),
                }
            }
            Values::List(ends, mut child) => {
                let field = match &kind {
                    Kind::Array(element) => LakeType::list_field(&element.lake_type()),
                    _ => return Err(Error::bug("a list that is no array")),
                };
                let ends = OffsetBuffer::new(ScalarBuffer::from(ends));
                Arc::new(ListArray::try_new(field, ends, child.finish()?, nulls).map_err(mismatch)?)
            }
            Values::Struct(mut children) => {
                let LakeType::Struct(fields) = kind.lake_type() else {
                    return Err(Error::bug("a struct that is no document"));
                };
                let arrays = children
                    .iter_mut()
                    .map(ColumnBuilder::finish)
                    .collect::<Result<Vec<_>>>()?;
                Arc::new(StructArray::try_new(LakeType::struct_fields(&fields), arrays, nulls).map_err(mismatch)?)
            }
        })
    }
}

/// Appends what a column of texts or bytes has of a value that it holds.
pub fn append_plain(kind: &Kind, value: Value<'_>, out: &mut Vec<u8>) -> raw::Result<()> {
    let bytes = value.binary().map_or(&[][..], |(_, bytes)| bytes);
    match kind {
        Kind::ObjectId => json::write_hex(value.bytes, out),
        Kind::Uuid => {
            for (place, byte) in bytes.iter().enumerate() {
                if matches!(place, 4 | 6 | 8 | 10) {
                    out.push(b'-');
                }
                json::write_hex(&[*byte], out);
            }
        }
        Kind::String => out.extend_from_slice(&json::utf8(value.text().unwrap_or_default())),
        Kind::Binary => out.extend_from_slice(bytes),
        _ => json::write(value, out)?,
    }
    Ok(())
}

fn end(ends: &mut Vec<i32>, bytes: &[u8]) -> Result<()> {
    ends.push(i32::try_from(bytes.len()).map_err(|_| too_long())?);
    Ok(())
}

fn too_long() -> Error {
    Error::bug("expected less than 2 GiB of values in a batch")
}

/// The error of bytes that are no BSON, or text that is not what we write.
pub fn malformed(error: Malformed) -> Error {
    Error::operator("a document can't be decoded")
        .with_hint("see the cause; `tributary snapshot` copies a table of the lake anew")
        .with_source(error)
}

fn primitive<T: ArrowPrimitiveType>(values: Vec<T::Native>, nulls: Option<NullBuffer>) -> PrimitiveArray<T> {
    PrimitiveArray::new(ScalarBuffer::from(values), nulls)
}

/// Reads a column's value back. Appends its bytes, returns its tag; `None` if
/// there is none.
pub fn read_back(kind: &Kind, array: &dyn Array, row: usize, out: &mut Vec<u8>) -> Result<Option<u8>> {
    if array.is_null(row) {
        return Ok(None);
    }
    let text = || array.as_string::<i32>().value(row).as_bytes();
    Ok(Some(match kind {
        Kind::ObjectId => {
            out.extend_from_slice(&json::object_id(text()).map_err(malformed)?);
            tag::OBJECT_ID
        }
        Kind::Uuid => {
            let id = uuid::Uuid::try_parse_ascii(text()).map_err(|_| malformed(Malformed("a UUID")))?;
            raw::binary(out, UUID, id.as_bytes());
            tag::BINARY
        }
        Kind::String => {
            raw::string(out, text());
            tag::STRING
        }
        Kind::Bool => {
            out.push(u8::from(array.as_boolean().value(row)));
            tag::BOOLEAN
        }
        Kind::Long => {
            out.extend_from_slice(&array.as_primitive::<Int64Type>().value(row).to_le_bytes());
            tag::INT64
        }
        Kind::Double => {
            out.extend_from_slice(&array.as_primitive::<Float64Type>().value(row).to_le_bytes());
            tag::DOUBLE
        }
        Kind::Decimal(scale) => {
            let unscaled = array.as_primitive::<Decimal128Type>().value(row);
            out.extend_from_slice(&decimal_bytes(unscaled, *scale)?);
            tag::DECIMAL128
        }
        Kind::Binary => {
            raw::binary(out, GENERIC, array.as_binary::<i32>().value(row));
            tag::BINARY
        }
        Kind::Date => {
            let micros = array.as_primitive::<TimestampMicrosecondType>().value(row);
            out.extend_from_slice(&micros.div_euclid(1000).to_le_bytes());
            tag::DATE
        }
        Kind::Json | Kind::Extra | Kind::Document => json::read(text(), out).map_err(malformed)?,
        Kind::Array(element) => {
            let values = array.as_list::<i32>().value(row);
            let begun = raw::begin(out);
            for place in 0..values.len() {
                let name = place.to_string();
                element_back(element, &values, place, name.as_bytes(), true, out)?;
            }
            raw::end(out, begun);
            tag::ARRAY
        }
        Kind::Struct(fields) => {
            let columns = array.as_struct();
            let begun = raw::begin(out);
            for ((name, kind), column) in fields.iter().zip(columns.columns()) {
                element_back(kind, column, row, name.as_bytes(), false, out)?;
            }
            raw::end(out, begun);
            tag::DOCUMENT
        }
    }))
}

fn element_back(kind: &Kind, array: &dyn Array, row: usize, name: &[u8], nulls: bool, out: &mut Vec<u8>) -> Result<()> {
    let place = out.len();
    raw::name(out, tag::NULL, name);
    match read_back(kind, array, row, out)? {
        Some(tag) => out[place] = tag,
        None if !nulls => out.truncate(place),
        None => {}
    }
    Ok(())
}

/// A decimal of a column as BSON has it.
fn decimal_bytes(unscaled: i128, scale: i8) -> Result<[u8; 16]> {
    let (mut digits, mut exponent) = (unscaled.unsigned_abs(), -i32::from(scale));
    // What the column holds came from 34 digits at most.
    while digits != 0 && digits % 10 == 0 && digits >= 10_u128.pow(34) {
        digits /= 10;
        exponent += 1;
    }
    if digits >= 10_u128.pow(34) {
        return Err(malformed(Malformed("at most 34 digits")));
    }
    let sign = u128::from(unscaled < 0) << 127;
    let bits = sign | ((exponent + 6176) as u128) << 113 | digits;
    Ok(bits.to_le_bytes())
}

/// The column of an `_id`, as the value that it is.
pub fn id_back(kind: &Kind, array: &dyn Array, row: usize) -> Result<bson::Bson> {
    let mut bytes = Vec::new();
    let begun = raw::begin(&mut bytes);
    element_back(kind, array, row, b"_id", true, &mut bytes)?;
    raw::end(&mut bytes, begun);
    let document = bson::Document::from_reader(bytes.as_slice())
        .map_err(|e| Error::bug("a key can't be read back").with_source(e))?;
    document
        .get("_id")
        .cloned()
        .ok_or_else(|| Error::bug("a key that is NULL"))
}
