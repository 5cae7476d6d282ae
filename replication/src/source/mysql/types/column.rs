//! Arrow arrays under construction.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, ListArray, NullBufferBuilder, PrimitiveArray, StringArray};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type,
    Int64Type, TimestampMicrosecondType,
};

use super::super::binlog::{Layout, column_type as wire};
use super::json::json_text;
use super::{Codec, DecodeError, Kind, number, temporal};
use crate::schema::LakeType;

/// Builds one column from values' bytes. A failed append changes nothing.
#[derive(Debug)]
pub struct ColumnBuilder {
    codec: Codec,
    /// The words of ENUM or SET, if the log tells them better.
    words: Option<Arc<[String]>>,
    nulls: NullBufferBuilder,
    values: Values,
    replaced: u64,
}

/// The buffers, by the array they become.
#[derive(Debug)]
enum Values {
    Short(Vec<i16>),
    Integer(Vec<i32>),
    Long(Vec<i64>),
    Float(Vec<f32>),
    Double(Vec<f64>),
    Decimal(Vec<i128>, u8, i8),
    Date(Vec<i32>),
    Micros(Vec<i64>, bool),
    Text(Bytes),
    Binary(Bytes),
    List(Vec<i32>, Vec<f32>),
}

/// Values end to end.
#[derive(Debug)]
struct Bytes {
    offsets: Vec<i32>,
    data: Vec<u8>,
}

impl Bytes {
    fn new() -> Self {
        Self {
            offsets: vec![0],
            data: Vec::new(),
        }
    }

    /// Ends the value that was written after the last one.
    fn end(&mut self) -> Result<(), DecodeError> {
        match i32::try_from(self.data.len()) {
            Ok(end) => {
                self.offsets.push(end);
                Ok(())
            }
            Err(_) => {
                self.undo();
                Err(DecodeError::new("expected less than 2 GiB of values in a batch"))
            }
        }
    }

    fn undo(&mut self) {
        let end = self.offsets.last().copied().unwrap_or(0);
        self.data.truncate(end as usize);
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        self.data.extend_from_slice(bytes);
        self.end()
    }
}

impl ColumnBuilder {
    pub(super) fn new(codec: Codec) -> Self {
        let values = match codec.lake_type() {
            LakeType::Short => Values::Short(Vec::new()),
            LakeType::Integer => Values::Integer(Vec::new()),
            LakeType::Long => Values::Long(Vec::new()),
            LakeType::Float => Values::Float(Vec::new()),
            LakeType::Double => Values::Double(Vec::new()),
            LakeType::Decimal { precision, scale } => Values::Decimal(Vec::new(), precision, scale),
            LakeType::Date => Values::Date(Vec::new()),
            LakeType::TimestampNtz => Values::Micros(Vec::new(), false),
            LakeType::Timestamp => Values::Micros(Vec::new(), true),
            LakeType::Binary => Values::Binary(Bytes::new()),
            LakeType::List(_) => Values::List(vec![0], Vec::new()),
            _ => Values::Text(Bytes::new()),
        };
        Self {
            codec,
            words: None,
            nulls: NullBufferBuilder::new(0),
            values,
            replaced: 0,
        }
    }

    /// Takes over the words of ENUM or SET as the log has them.
    pub fn tell_words(&mut self, told: &[Vec<u8>]) {
        if let Kind::Enum(words) | Kind::Set(words) = &self.codec.node.kind
            && words.are_doubtful()
            && words.list.len() == told.len()
            && let Some(charset) = &words.charset
        {
            let decoded = told.iter().map(|word| charset.decode(word).into_owned());
            self.words = Some(decoded.collect());
        }
    }

    /// Takes a value of a row image, which is not NULL.
    pub fn append_binlog(&mut self, layout: Layout, bytes: &[u8]) -> Result<(), DecodeError> {
        let node = self.codec.node.clone();
        match &node.kind {
            Kind::Year => {
                let [year] = bytes else {
                    return Err(DecodeError::new(format!(
                        "expected a year of 1 byte, found {}",
                        bytes.len()
                    )));
                };
                let year = i128::from(*year);
                self.integer(if year == 0 { 0 } else { 1900 + year })
            }
            Kind::Decimal { precision, scale } => match &mut self.values {
                Values::Decimal(values, ..) => {
                    values.push(number::packed_to_integer(bytes, *precision, *scale)?);
                    self.nulls.append_non_null();
                    Ok(())
                }
                _ => self.text(|out| number::packed_to_text(bytes, *precision, *scale, out)),
            },
            Kind::Date => self.moment(temporal::log_date(bytes)?),
            Kind::DateTime { .. } => {
                let old = layout.real_type() == wire::DATETIME;
                self.moment(temporal::log_datetime(bytes, old)?)
            }
            Kind::Timestamp { .. } => {
                let old = layout.real_type() == wire::TIMESTAMP;
                match temporal::log_timestamp(bytes, old)? {
                    Some(micros) => self.micros(micros),
                    None => self.moment(temporal::Moment::default()),
                }
            }
            Kind::Time { digits } => {
                let time = temporal::log_time(bytes, layout.real_type() == wire::TIME)?;
                self.text(|out| temporal::write_time(time, *digits, out))
            }
            Kind::Text(conversion) => {
                let text = conversion.decode(bytes);
                self.bytes_value(text.as_bytes())
            }
            Kind::Binary { length } if bytes.len() < *length => match &mut self.values {
                Values::Binary(own) => {
                    own.data.extend_from_slice(bytes);
                    own.data.resize(own.data.len() + length - bytes.len(), 0);
                    own.end()?;
                    self.nulls.append_non_null();
                    Ok(())
                }
                _ => Err(mismatch()),
            },
            Kind::Enum(words) => {
                let told = self.words.clone();
                let members = told.as_deref().unwrap_or(&words.list);
                let index = number::integer(bytes, true)?;
                // 0 is what a value that was no member became.
                let word = match usize::try_from(index - 1) {
                    Ok(place) => members.get(place).map(String::as_str),
                    Err(_) => Some(""),
                };
                let word = word.ok_or_else(|| DecodeError::new("expected a word of the enum, found another number"))?;
                self.bytes_value(word.as_bytes())
            }
            Kind::Set(words) => {
                let told = self.words.clone();
                let members = told.as_deref().unwrap_or(&words.list);
                let bits = number::integer(bytes, true)?;
                if members.len() < 128 && bits >> members.len() != 0 {
                    return Err(DecodeError::new("expected words of the set, found another bit"));
                }
                let chosen = members.iter().enumerate().filter(|(place, _)| bits >> place & 1 == 1);
                self.text(|out| {
                    for (count, (_, word)) in chosen.enumerate() {
                        if count > 0 {
                            out.push(',');
                        }
                        out.push_str(word);
                    }
                    Ok(())
                })
            }
            Kind::Json => self.text(|out| json_text(bytes, out)),
            Kind::Uuid => self.text(|out| write_uuid(bytes, out)),
            Kind::Inet6 => {
                let bytes = padded::<16>(bytes)?;
                self.text(|out| write_inet6(bytes, out))
            }
            Kind::Inet4 => {
                let address = std::net::Ipv4Addr::from(padded::<4>(bytes)?);
                self.text(|out| Ok(write!(out, "{address}")?))
            }
            _ => self.common(&node.kind, node.unsigned, bytes),
        }
    }

    /// Takes a value of the binary protocol, without the length before it.
    pub fn append_protocol(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        let node = self.codec.node.clone();
        match &node.kind {
            Kind::Year => self.integer(number::integer(bytes, true)?),
            Kind::Decimal { scale, .. } => match &mut self.values {
                Values::Decimal(values, ..) => {
                    values.push(number::text_to_integer(bytes, *scale)?);
                    self.nulls.append_non_null();
                    Ok(())
                }
                _ => self.utf8(number::without_fill(bytes)),
            },
            Kind::Date | Kind::DateTime { .. } | Kind::Timestamp { .. } => {
                self.moment(temporal::protocol_moment(bytes)?)
            }
            Kind::Time { digits } => {
                let time = temporal::protocol_time(bytes)?;
                self.text(|out| temporal::write_time(time, *digits, out))
            }
            Kind::Text(_) | Kind::Enum(_) | Kind::Set(_) | Kind::Json | Kind::Uuid | Kind::Inet6 | Kind::Inet4 => {
                self.utf8(bytes)
            }
            _ => self.common(&node.kind, node.unsigned, bytes),
        }
    }

    /// Takes text in UTF-8, for a column that is a string.
    pub fn append_text(&mut self, text: &str) -> Result<(), DecodeError> {
        match &self.values {
            Values::Text(_) => self.bytes_value(text.as_bytes()),
            _ => Err(mismatch()),
        }
    }

    /// What both forms have alike.
    #[inline]
    fn common(&mut self, kind: &Kind, unsigned: bool, bytes: &[u8]) -> Result<(), DecodeError> {
        match kind {
            Kind::Int(_) => self.integer(number::integer(bytes, unsigned)?),
            Kind::Bit { .. } => self.integer(i128::from(number::bits(bytes)?)),
            Kind::Float | Kind::Double => {
                let wrong = || DecodeError::new(format!("expected a float of its size, found {} bytes", bytes.len()));
                match &mut self.values {
                    Values::Float(values) => values.push(f32::from_le_bytes(bytes.try_into().map_err(|_| wrong())?)),
                    Values::Double(values) => values.push(f64::from_le_bytes(bytes.try_into().map_err(|_| wrong())?)),
                    _ => return Err(mismatch()),
                }
                self.nulls.append_non_null();
                Ok(())
            }
            Kind::Binary { .. } => self.bytes_value(bytes),
            Kind::Geometry => self.geometry(bytes),
            Kind::Vector => {
                let Values::List(offsets, items) = &mut self.values else {
                    return Err(mismatch());
                };
                let (floats, rest) = bytes.as_chunks::<4>();
                if !rest.is_empty() {
                    return Err(DecodeError::new("expected a vector of whole floats"));
                }
                let end = i32::try_from(items.len() + floats.len())
                    .map_err(|_| DecodeError::new("expected less than 2^31 floats in a batch"))?;
                items.extend(floats.iter().map(|float| f32::from_le_bytes(*float)));
                offsets.push(end);
                self.nulls.append_non_null();
                Ok(())
            }
            _ => Err(mismatch()),
        }
    }

    /// A 4-byte SRID and WKB becomes EWKB, or plain WKB without an SRID.
    fn geometry(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        const HAS_SRID: u32 = 0x2000_0000;
        let malformed = || DecodeError::new("expected an SRID and WKB");
        let (srid, wkb) = bytes.split_first_chunk::<4>().ok_or_else(malformed)?;
        if *srid == [0; 4] {
            return self.bytes_value(wkb);
        }
        let ([order], rest) = wkb.split_first_chunk::<1>().ok_or_else(malformed)?;
        let (ty, rest) = rest.split_first_chunk::<4>().ok_or_else(malformed)?;
        if *order != 1 {
            return Err(DecodeError::new("expected little-endian WKB"));
        }
        let ty = u32::from_le_bytes(*ty) | HAS_SRID;
        let value = [&[1][..], &ty.to_le_bytes(), srid, rest].concat();
        self.bytes_value(&value)
    }

    #[inline]
    fn integer(&mut self, value: i128) -> Result<(), DecodeError> {
        let wide = |_| DecodeError::new("expected an integer that fits its column");
        match &mut self.values {
            Values::Short(values) => values.push(value.try_into().map_err(wide)?),
            Values::Integer(values) => values.push(value.try_into().map_err(wide)?),
            Values::Long(values) => values.push(value.try_into().map_err(wide)?),
            Values::Decimal(values, ..) => values.push(value),
            _ => return Err(mismatch()),
        }
        self.nulls.append_non_null();
        Ok(())
    }

    fn micros(&mut self, micros: i64) -> Result<(), DecodeError> {
        let Values::Micros(values, _) = &mut self.values else {
            return Err(mismatch());
        };
        values.push(micros);
        self.nulls.append_non_null();
        Ok(())
    }

    fn moment(&mut self, moment: temporal::Moment) -> Result<(), DecodeError> {
        let policy = self.codec.node.zero_dates;
        let (is_null, changed) = match &mut self.values {
            Values::Date(values) => {
                let (days, changed) = moment.days(policy)?;
                values.push(days.unwrap_or_default());
                (days.is_none(), changed)
            }
            Values::Micros(values, _) => {
                let (micros, changed) = moment.micros(policy)?;
                values.push(micros.unwrap_or_default());
                (micros.is_none(), changed)
            }
            _ => return Err(mismatch()),
        };
        self.nulls.append(!is_null);
        self.replaced += u64::from(changed);
        Ok(())
    }

    #[inline]
    fn bytes_value(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        match &mut self.values {
            Values::Text(own) | Values::Binary(own) => own.push(bytes)?,
            _ => return Err(mismatch()),
        }
        self.nulls.append_non_null();
        Ok(())
    }

    #[inline]
    fn utf8(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        if std::str::from_utf8(bytes).is_err() {
            return Err(DecodeError::new("expected UTF-8"));
        }
        self.bytes_value(bytes)
    }

    fn text(&mut self, write: impl FnOnce(&mut String) -> Result<(), DecodeError>) -> Result<(), DecodeError> {
        let mut text = String::new();
        write(&mut text)?;
        self.bytes_value(text.as_bytes())
    }

    pub fn append_null(&mut self) {
        match &mut self.values {
            Values::Short(values) => values.push(0),
            Values::Integer(values) | Values::Date(values) => values.push(0),
            Values::Long(values) | Values::Micros(values, _) => values.push(0),
            Values::Float(values) => values.push(0.0),
            Values::Double(values) => values.push(0.0),
            Values::Decimal(values, ..) => values.push(0),
            Values::Text(own) | Values::Binary(own) => own.offsets.push(own.offsets.last().copied().unwrap_or(0)),
            Values::List(offsets, _) => offsets.push(offsets.last().copied().unwrap_or(0)),
        }
        self.nulls.append_null();
    }

    /// Values that the policy on zero dates changed since the last `finish`.
    pub fn replaced(&self) -> u64 {
        self.replaced
    }

    /// The rows so far as an array of exactly `lake_type().arrow()`. Leaves
    /// the builder empty.
    pub fn finish(&mut self) -> ArrayRef {
        self.replaced = 0;
        let nulls = self.nulls.finish();
        match &mut self.values {
            Values::Short(values) => primitive::<Int16Type>(values, nulls),
            Values::Integer(values) => primitive::<Int32Type>(values, nulls),
            Values::Long(values) => primitive::<Int64Type>(values, nulls),
            Values::Float(values) => primitive::<Float32Type>(values, nulls),
            Values::Double(values) => primitive::<Float64Type>(values, nulls),
            Values::Date(values) => primitive::<Date32Type>(values, nulls),
            Values::Micros(values, utc) => {
                let array = PrimitiveArray::<TimestampMicrosecondType>::new(std::mem::take(values).into(), nulls);
                Arc::new(if *utc { array.with_timezone("UTC") } else { array })
            }
            Values::Decimal(values, precision, scale) => {
                let array = PrimitiveArray::<Decimal128Type>::new(std::mem::take(values).into(), nulls);
                Arc::new(array.with_data_type(DataType::Decimal128(*precision, *scale)))
            }
            Values::Text(own) => {
                let (offsets, data) = own.take();
                let array = arrow::array::ArrayData::builder(DataType::Utf8)
                    .len(offsets.len() - 1)
                    .nulls(nulls)
                    .add_buffer(Buffer::from_vec(offsets))
                    .add_buffer(data);
                // Every value was checked when it was taken.
                match array.build() {
                    Ok(array) => Arc::new(StringArray::from(array)),
                    Err(_) => Arc::new(StringArray::new_null(0)),
                }
            }
            Values::Binary(own) => {
                let (offsets, data) = own.take();
                let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
                Arc::new(BinaryArray::new(offsets, data, nulls))
            }
            Values::List(offsets, items) => {
                let offsets = OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(offsets, vec![0])));
                let items = PrimitiveArray::<Float32Type>::new(std::mem::take(items).into(), None);
                let field = LakeType::list_field(&LakeType::Float);
                Arc::new(ListArray::new(field, offsets, Arc::new(items), nulls))
            }
        }
    }
}

impl Bytes {
    fn take(&mut self) -> (Vec<i32>, Buffer) {
        let own = std::mem::replace(self, Self::new());
        (own.offsets, Buffer::from_vec(own.data))
    }
}

fn primitive<T: ArrowPrimitiveType>(values: &mut Vec<T::Native>, nulls: Option<NullBuffer>) -> ArrayRef {
    Arc::new(PrimitiveArray::<T>::new(std::mem::take(values).into(), nulls))
}

fn mismatch() -> DecodeError {
    DecodeError::new("expected a value of its column's type")
}

/// The log leaves out trailing zeros of fixed binary values.
fn padded<const N: usize>(bytes: &[u8]) -> Result<[u8; N], DecodeError> {
    let mut whole = [0; N];
    let own = whole
        .get_mut(..bytes.len())
        .ok_or_else(|| DecodeError::new(format!("expected at most {N} bytes, found {}", bytes.len())))?;
    own.copy_from_slice(bytes);
    Ok(whole)
}

/// MariaDB stores versions 1 to 5 with their parts in another order, so that
/// they sort by time. Spec: MariaDB source, `plugin/type_uuid/sql_type_uuid.h`.
fn write_uuid(bytes: &[u8], out: &mut String) -> Result<(), DecodeError> {
    let record = padded::<16>(bytes)?;
    let swapped = record[6] & 0x80 != 0 && (1..0x60).contains(&record[8]);
    let order: [usize; 16] = if swapped {
        [12, 13, 14, 15, 10, 11, 8, 9, 6, 7, 0, 1, 2, 3, 4, 5]
    } else {
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
    };
    for (place, from) in order.into_iter().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        write!(out, "{:02x}", record[from])?;
    }
    Ok(())
}

/// As MariaDB prints an address. It shortens like `inet_ntop`, and shows the
/// last 32 bits as IPv4 where the address embeds one.
fn write_inet6(bytes: [u8; 16], out: &mut String) -> Result<(), DecodeError> {
    let groups: Vec<u16> = bytes
        .chunks(2)
        .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
        .collect();
    let (mut gap, mut at) = (0..0, 0);
    while at < 8 {
        let end = (at..8).find(|i| groups[*i] != 0).unwrap_or(8);
        if end - at > gap.len() {
            gap = at..end;
        }
        at = end + 1;
    }
    let embedded = gap.start == 0 && (gap.len() == 6 || (gap.len() == 5 && groups[5] == 0xffff));
    let mut place = 0;
    while place < 8 {
        if place == gap.start && !gap.is_empty() {
            out.push_str("::");
            place = gap.end;
            continue;
        }
        if place > 0 && place != gap.end {
            out.push(':');
        }
        if embedded && place == 6 {
            write!(out, "{}.{}.{}.{}", bytes[12], bytes[13], bytes[14], bytes[15])?;
            break;
        }
        write!(out, "{:x}", groups[place])?;
        place += 1;
    }
    Ok(())
}
