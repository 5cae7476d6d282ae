//! Types made of types: how the wire holds arrays, records, ranges, hstore and
//! vectors, and their text and JSON forms.

use std::fmt::Write;

use super::numeric::{write_float4, write_scaled};
use super::text::write_text;
use super::wire::{Reader, boolean, fixed, utf8};
use super::{Attribute, Codec, DecodeError, Items, Kind};

/// PostgreSQL's MAXDIM.
const DIMENSIONS_MAX: usize = 6;

/// Text is written behind that of the column's earlier rows, and past this
/// their 32-bit offsets end. Checked while writing: quotes double at every
/// level of nesting and a numeric of ten bytes prints as many thousand digits,
/// so a short field could otherwise take all memory.
const TEXT_BYTES_MAX: usize = i32::MAX as usize;

#[derive(Clone, Copy, Default)]
struct Dimension {
    size: usize,
    lower: i32,
}

/// An array whose header has been read.
pub(super) struct ArrayReader<'a> {
    reader: Reader<'a>,
    dimensions: [Dimension; DIMENSIONS_MAX],
    ndims: usize,
    /// How many elements all dimensions hold together.
    len: usize,
}

impl<'a> ArrayReader<'a> {
    pub fn new(bytes: &'a [u8], element_oid: u32) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, "array");
        let ndims = reader.i32()?;
        let _has_nulls = reader.i32()?;
        let oid = reader.u32()?;
        if oid != element_oid {
            return Err(DecodeError::new(format!(
                "expected array elements of type {element_oid}, found type {oid}"
            )));
        }
        let mut dimensions = [Dimension::default(); DIMENSIONS_MAX];
        let Some(used) = usize::try_from(ndims)
            .ok()
            .and_then(|ndims| dimensions.get_mut(..ndims))
        else {
            return Err(DecodeError::new(format!(
                "expected an array of up to {DIMENSIONS_MAX} dimensions, found {ndims}"
            )));
        };
        let ndims = used.len();
        let mut len = usize::from(ndims > 0);
        for dimension in used {
            // Every element has a length of four bytes.
            dimension.size = reader.count(4)?;
            dimension.lower = reader.i32()?;
            len = len.saturating_mul(dimension.size);
        }
        if len.checked_mul(4).is_none_or(|len| len > reader.remaining()) {
            return Err(DecodeError::new(format!(
                "expected array dimensions that fit {} bytes, found {len} elements",
                reader.remaining()
            )));
        }
        Ok(Self {
            reader,
            dimensions,
            ndims: if len == 0 { 0 } else { ndims },
            len,
        })
    }

    /// The elements' count, if they are a plain list.
    pub fn list_len(&self) -> Result<usize, DecodeError> {
        match self.ndims {
            0 | 1 => Ok(self.len),
            ndims => Err(DecodeError::new(format!(
                "array with {ndims} dimensions in a column declared one-dimensional"
            ))),
        }
    }

    pub fn element(&mut self) -> Result<Option<&'a [u8]>, DecodeError> {
        self.reader.field()
    }

    pub fn finish(self) -> Result<(), DecodeError> {
        self.reader.finish()
    }

    fn dimensions(&self) -> &[Dimension] {
        self.dimensions.get(..self.ndims).unwrap_or_default()
    }

    /// Visits all elements in order, with what brackets go before and after.
    fn for_each(
        mut self,
        mut visit: impl FnMut(usize, Option<&'a [u8]>, usize) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        let dimensions = self.dimensions;
        let inner_first = dimensions.get(..self.ndims).unwrap_or_default();
        for i in 0..self.len {
            // As many brackets open at an element as it is the first of
            // sub-arrays, counted from the innermost; closing mirrors that.
            let edge = |position: usize| {
                let mut stride = 1usize;
                inner_first
                    .iter()
                    .rev()
                    .take_while(|d| {
                        stride = stride.saturating_mul(d.size);
                        position.checked_rem(stride) == Some(0)
                    })
                    .count()
            };
            let element = self.element()?;
            visit(edge(i), element, edge(i.saturating_add(1)))?;
        }
        self.finish()
    }
}

/// `{1,NULL,"a b"}`, with bounds before it where one is not 1.
pub(super) fn write_array(items: &Items, bytes: &[u8], out: &mut String) -> Result<(), DecodeError> {
    let array = ArrayReader::new(bytes, items.oid)?;
    if array.len == 0 {
        array.finish()?;
        out.push_str("{}");
        return Ok(());
    }
    if array.dimensions().iter().any(|d| d.lower != 1) {
        for Dimension { size, lower } in array.dimensions() {
            let upper = i64::from(*lower)
                .saturating_add(i64::try_from(*size).unwrap_or(i64::MAX))
                .saturating_sub(1);
            write!(out, "[{lower}:{upper}]")?;
        }
        out.push('=');
    }
    let mut first = true;
    array.for_each(|opening, element, closing| {
        if !std::mem::take(&mut first) {
            out.push(items.delimiter);
        }
        out.extend(std::iter::repeat_n('{', opening));
        match element {
            None => out.push_str("NULL"),
            Some(element) => {
                let text = text_of(&items.codec, element)?;
                let quote = text.is_empty()
                    || text.eq_ignore_ascii_case("null")
                    || text.contains(|c| matches!(c, '"' | '\\' | '{' | '}') || c == items.delimiter || is_space(c));
                if quote {
                    push_quoted(&text, Escape::Backslash, out)?;
                } else {
                    out.push_str(&text);
                }
            }
        }
        out.extend(std::iter::repeat_n('}', closing));
        check_size(out)
    })
}

/// Nested JSON arrays; bounds are dropped.
pub(super) fn write_json_array(items: &Items, bytes: &[u8], out: &mut String) -> Result<(), DecodeError> {
    let array = ArrayReader::new(bytes, items.oid)?;
    if array.len == 0 {
        array.finish()?;
        out.push_str("[]");
        return Ok(());
    }
    let mut first = true;
    array.for_each(|opening, element, closing| {
        if !std::mem::take(&mut first) {
            out.push(',');
        }
        out.extend(std::iter::repeat_n('[', opening));
        match element {
            None => out.push_str("null"),
            Some(element) => write_json(&items.codec, element, out)?,
        }
        out.extend(std::iter::repeat_n(']', closing));
        check_size(out)
    })
}

fn write_json(codec: &Codec, bytes: &[u8], out: &mut String) -> Result<(), DecodeError> {
    match codec.kind() {
        Kind::Bool => {
            out.push_str(if boolean(bytes)? { "true" } else { "false" });
            Ok(())
        }
        Kind::Money { scale } => write_scaled(i64::from_be_bytes(fixed(bytes, "money")?), *scale, out),
        Kind::Int2
        | Kind::Int4
        | Kind::Int8
        | Kind::Oid
        | Kind::Xid8
        | Kind::Float4
        | Kind::Float8
        | Kind::Decimal { .. }
        | Kind::Numeric => {
            let start = out.len();
            write_text(codec, bytes, out)?;
            // NaN and infinities are not JSON numbers.
            if !out.ends_with(|c: char| c.is_ascii_digit()) {
                out.insert(start, '"');
                out.push('"');
            }
            Ok(())
        }
        _ => push_json_string(&text_of(codec, bytes)?, out),
    }
}

fn push_json_string(text: &str, out: &mut String) -> Result<(), DecodeError> {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => write!(out, "\\u{:04x}", u32::from(c))?,
            c => out.push(c),
        }
    }
    out.push('"');
    check_size(out)
}

/// Visits the fields of a record, which must be those of `attributes`.
pub(super) fn for_each_field<'a>(
    attributes: &[Attribute],
    bytes: &'a [u8],
    mut visit: impl FnMut(usize, &Attribute, Option<&'a [u8]>) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    let mut reader = Reader::new(bytes, "record");
    let count = reader.i32()?;
    if usize::try_from(count) != Ok(attributes.len()) {
        return Err(DecodeError::new(format!(
            "expected a record of {} fields, found {count}",
            attributes.len()
        )));
    }
    for (i, attribute) in attributes.iter().enumerate() {
        let oid = reader.u32()?;
        if oid != attribute.oid {
            return Err(DecodeError::new(format!(
                "expected type {} in field {:?} of a record, found type {oid}",
                attribute.oid, attribute.name
            )));
        }
        visit(i, attribute, reader.field()?)?;
    }
    reader.finish()
}

/// `(1,,"a b")`
pub(super) fn write_record(attributes: &[Attribute], bytes: &[u8], out: &mut String) -> Result<(), DecodeError> {
    out.push('(');
    for_each_field(attributes, bytes, |i, attribute, field| {
        if i > 0 {
            out.push(',');
        }
        let Some(field) = field else { return Ok(()) };
        let text = text_of(&attribute.codec, field)?;
        let special = |c| matches!(c, '"' | '\\' | '(' | ')' | ',') || is_space(c);
        if text.is_empty() || text.contains(special) {
            push_quoted(&text, Escape::Double, out)
        } else {
            out.push_str(&text);
            check_size(out)
        }
    })?;
    out.push(')');
    Ok(())
}

/// `[1,5)`, `empty`
pub(super) fn write_range(bound: &Codec, bytes: &[u8], out: &mut String) -> Result<(), DecodeError> {
    const EMPTY: u8 = 0x01;
    const LOWER_INCLUSIVE: u8 = 0x02;
    const UPPER_INCLUSIVE: u8 = 0x04;
    const LOWER_INFINITE: u8 = 0x08;
    const UPPER_INFINITE: u8 = 0x10;
    // Flags of the types' internal form that are not sent.
    const UNKNOWN: u8 = 0xe0;

    let mut reader = Reader::new(bytes, "range");
    let flags = reader.u8()?;
    if flags & UNKNOWN != 0 {
        return Err(DecodeError::new(format!(
            "expected the flags of a range, found {flags:#04x}"
        )));
    }
    if flags & EMPTY != 0 {
        out.push_str("empty");
        return reader.finish();
    }
    let has = |flag| flags & flag != 0;
    out.push(if has(LOWER_INCLUSIVE) { '[' } else { '(' });
    if !has(LOWER_INFINITE) {
        write_bound(bound, reader.required_field()?, out)?;
    }
    out.push(',');
    if !has(UPPER_INFINITE) {
        write_bound(bound, reader.required_field()?, out)?;
    }
    out.push(if has(UPPER_INCLUSIVE) { ']' } else { ')' });
    reader.finish()
}

fn write_bound(codec: &Codec, bytes: &[u8], out: &mut String) -> Result<(), DecodeError> {
    let text = text_of(codec, bytes)?;
    let special = |c| matches!(c, '"' | '\\' | '(' | ')' | '[' | ']' | ',') || is_space(c);
    if text.is_empty() || text.contains(special) {
        push_quoted(&text, Escape::Double, out)
    } else {
        out.push_str(&text);
        Ok(())
    }
}

/// `{[1,5),[7,9)}`
pub(super) fn write_multirange(bound: &Codec, bytes: &[u8], out: &mut String) -> Result<(), DecodeError> {
    let mut reader = Reader::new(bytes, "multirange");
    out.push('{');
    for i in 0..reader.count(4)? {
        if i > 0 {
            out.push(',');
        }
        write_range(bound, reader.required_field()?, out)?;
    }
    out.push('}');
    reader.finish()
}

/// Visits the pairs of an hstore.
pub(super) fn for_each_pair<'a>(
    bytes: &'a [u8],
    mut visit: impl FnMut(&'a str, Option<&'a str>) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    let mut reader = Reader::new(bytes, "hstore");
    // A pair has two lengths of four bytes.
    for _ in 0..reader.count(8)? {
        let key = utf8(reader.required_field()?, "a key of hstore")?;
        let value = match reader.field()? {
            Some(value) => Some(utf8(value, "a value of hstore")?),
            None => None,
        };
        visit(key, value)?;
    }
    reader.finish()
}

/// `"a"=>"1", "b"=>NULL`
pub(super) fn write_hstore(bytes: &[u8], out: &mut String) -> Result<(), DecodeError> {
    let mut first = true;
    for_each_pair(bytes, |key, value| {
        if !std::mem::take(&mut first) {
            out.push_str(", ");
        }
        push_quoted(key, Escape::Backslash, out)?;
        out.push_str("=>");
        match value {
            Some(value) => push_quoted(value, Escape::Backslash, out),
            None => {
                out.push_str("NULL");
                Ok(())
            }
        }
    })
}

/// Visits the numbers of a pgvector `vector`.
pub(super) fn for_each_number(
    bytes: &[u8],
    mut visit: impl FnMut(f32) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    let mut reader = Reader::new(bytes, "vector");
    let count = reader.u16()?;
    let _unused = reader.u16()?;
    for _ in 0..count {
        visit(f32::from_bits(reader.u32()?))?;
    }
    reader.finish()
}

/// `[1,2.5]`
pub(super) fn write_vector(bytes: &[u8], out: &mut String) -> Result<(), DecodeError> {
    let mut first = true;
    out.push('[');
    for_each_number(bytes, |number| {
        if !std::mem::take(&mut first) {
            out.push(',');
        }
        write_float4(number, out)
    })?;
    out.push(']');
    Ok(())
}

fn text_of(codec: &Codec, bytes: &[u8]) -> Result<String, DecodeError> {
    let mut text = String::new();
    write_text(codec, bytes, &mut text)?;
    Ok(text)
}

/// C's `isspace` in every locale a server may have, for UTF-8.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r')
}

#[derive(Clone, Copy, PartialEq)]
enum Escape {
    /// A special character is written twice.
    Double,
    Backslash,
}

fn push_quoted(text: &str, escape: Escape, out: &mut String) -> Result<(), DecodeError> {
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push(match escape {
                Escape::Double => c,
                Escape::Backslash => '\\',
            });
        }
        out.push(c);
    }
    out.push('"');
    check_size(out)
}

fn check_size(out: &str) -> Result<(), DecodeError> {
    if out.len() <= TEXT_BYTES_MAX {
        return Ok(());
    }
    Err(DecodeError::new(format!(
        "expected a column of up to {TEXT_BYTES_MAX} bytes in one batch, found more"
    )))
}
