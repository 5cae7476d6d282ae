//! MySQL's binary JSON, as a JSON column is stored and logged, to the text that
//! the server prints for it.
//!
//! A value is one type byte and its data. Objects and arrays begin with tables
//! of entries that point at keys and values by their offset; a value that fits
//! its entry is held there. Spec: `sql-common/json_binary.h` of MySQL.

mod diff;

#[cfg(test)]
mod tests;

use std::fmt::Write;

pub use diff::apply_json_diffs;

use super::DecodeError;

/// The server refuses documents that are nested deeper.
const DEPTH_MAX: usize = 100;

/// Bytes of base64 on a line.
const BASE64_LINE: usize = 57;

mod json_type {
    pub const SMALL_OBJECT: u8 = 0x00;
    pub const LARGE_OBJECT: u8 = 0x01;
    pub const SMALL_ARRAY: u8 = 0x02;
    pub const LARGE_ARRAY: u8 = 0x03;
    pub const LITERAL: u8 = 0x04;
    pub const INT16: u8 = 0x05;
    pub const UINT16: u8 = 0x06;
    pub const INT32: u8 = 0x07;
    pub const UINT32: u8 = 0x08;
    pub const INT64: u8 = 0x09;
    pub const UINT64: u8 = 0x0a;
    pub const DOUBLE: u8 = 0x0b;
    pub const STRING: u8 = 0x0c;
    pub const OPAQUE: u8 = 0x0f;
}

/// Column types that an opaque value tells apart.
mod opaque_type {
    pub const TIMESTAMP: u8 = 7;
    pub const DATE: u8 = 10;
    pub const TIME: u8 = 11;
    pub const DATETIME: u8 = 12;
    pub const NEWDECIMAL: u8 = 246;
}

/// Writes the text that the server prints for the bytes of a JSON column.
/// `out` is as it was after an error.
pub fn json_text(bytes: &[u8], out: &mut String) -> Result<(), DecodeError> {
    let start = out.len();
    let written = Printer::new(bytes).print(bytes, out);
    if written.is_err() {
        out.truncate(start);
    }
    written
}

fn malformed(expected: &str) -> DecodeError {
    DecodeError::new(format!("expected {expected} in binary JSON, found other bytes"))
}

fn fixed<const N: usize>(bytes: &[u8], expected: &str) -> Result<[u8; N], DecodeError> {
    bytes.first_chunk::<N>().copied().ok_or_else(|| malformed(expected))
}

/// An object or array whose elements are being printed.
struct Container<'a> {
    /// From its element count on; offsets count from there.
    bytes: &'a [u8],
    large: bool,
    object: bool,
    count: usize,
    /// The element to print next.
    next: usize,
}

impl<'a> Container<'a> {
    fn open(json_type: u8, bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let large = matches!(json_type, json_type::LARGE_OBJECT | json_type::LARGE_ARRAY);
        let object = matches!(json_type, json_type::SMALL_OBJECT | json_type::LARGE_OBJECT);
        let mut container = Self {
            bytes,
            large,
            object,
            count: 0,
            next: 0,
        };
        container.count = container.offset(0)?;
        let size = container.offset(container.offset_size())?;
        container.bytes = bytes
            .get(..size)
            .filter(|bytes| container.header_size() <= bytes.len())
            .ok_or_else(|| malformed("an object or array within its parent"))?;
        Ok(container)
    }

    fn offset_size(&self) -> usize {
        if self.large { 4 } else { 2 }
    }

    fn key_entry_size(&self) -> usize {
        if self.object { self.offset_size() + 2 } else { 0 }
    }

    fn header_size(&self) -> usize {
        let entry_size = self.key_entry_size() + 1 + self.offset_size();
        self.count
            .saturating_mul(entry_size)
            .saturating_add(2 * self.offset_size())
    }

    /// The offset or count that is at `at`.
    fn offset(&self, at: usize) -> Result<usize, DecodeError> {
        let bytes = self.bytes.get(at..).unwrap_or_default();
        if self.large {
            let offset = u32::from_le_bytes(fixed(bytes, "an offset")?);
            usize::try_from(offset).map_err(|_| malformed("an offset"))
        } else {
            Ok(u16::from_le_bytes(fixed(bytes, "an offset")?).into())
        }
    }

    /// What is at an offset, which must be past the entries.
    fn data(&self, offset: usize) -> Result<&'a [u8], DecodeError> {
        self.bytes
            .get(offset..)
            .filter(|_| offset >= self.header_size())
            .ok_or_else(|| malformed("an offset within its object or array"))
    }

    fn key(&self, element: usize) -> Result<&'a [u8], DecodeError> {
        let entry = 2 * self.offset_size() + element * self.key_entry_size();
        let data = self.data(self.offset(entry)?)?;
        let length = self.bytes.get(entry + self.offset_size()..).unwrap_or_default();
        let length = u16::from_le_bytes(fixed(length, "a key's length")?);
        data.get(..length.into())
            .ok_or_else(|| malformed("a key within its object"))
    }

    /// An element's type and data.
    fn value(&self, element: usize) -> Result<(u8, &'a [u8]), DecodeError> {
        let entry = 2 * self.offset_size() + self.count * self.key_entry_size() + element * (1 + self.offset_size());
        let inlined = self.bytes.get(entry + 1..entry + 1 + self.offset_size());
        let (Some(&json_type), Some(inlined)) = (self.bytes.get(entry), inlined) else {
            return Err(malformed("a value's entry"));
        };
        match json_type {
            json_type::LITERAL | json_type::INT16 | json_type::UINT16 => Ok((json_type, inlined)),
            json_type::INT32 | json_type::UINT32 if self.large => Ok((json_type, inlined)),
            _ => Ok((json_type, self.data(self.offset(entry + 1)?)?)),
        }
    }
}

struct Printer<'a> {
    /// The containers around the value that is printed, outermost first.
    open: Vec<Container<'a>>,
    /// Bytes of the document that nothing printed so far takes up. No two values
    /// share bytes, so what would need more than there are is not a document;
    /// if it were printed, it could be without bound.
    unused: usize,
}

impl<'a> Printer<'a> {
    fn new(bytes: &[u8]) -> Self {
        Self {
            open: Vec::new(),
            unused: bytes.len(),
        }
    }

    fn print(mut self, bytes: &'a [u8], out: &mut String) -> Result<(), DecodeError> {
        let Some((&json_type, data)) = bytes.split_first() else {
            // What a NOT NULL column without a value holds.
            out.push_str("null");
            return Ok(());
        };
        self.value(json_type, data, out)?;
        while let Some(container) = self.open.last_mut() {
            let element = container.next;
            if element == container.count {
                out.push(if container.object { '}' } else { ']' });
                self.open.pop();
                continue;
            }
            container.next += 1;
            if element > 0 {
                out.push_str(", ");
            }
            let (json_type, data) = container.value(element)?;
            if container.object {
                let key = container.key(element)?;
                self.take(key.len())?;
                quote(utf8(key)?, out);
                out.push_str(": ");
            }
            self.value(json_type, data, out)?;
        }
        Ok(())
    }

    /// Prints a scalar; opens an object or array.
    fn value(&mut self, json_type: u8, data: &'a [u8], out: &mut String) -> Result<(), DecodeError> {
        match json_type {
            json_type::SMALL_OBJECT | json_type::LARGE_OBJECT | json_type::SMALL_ARRAY | json_type::LARGE_ARRAY => {
                let container = Container::open(json_type, data)?;
                self.take(container.header_size())?;
                if self.open.len() == DEPTH_MAX {
                    return Err(malformed("at most 100 levels of objects and arrays"));
                }
                out.push(if container.object { '{' } else { '[' });
                self.open.push(container);
            }
            json_type::LITERAL => out.push_str(match data.first() {
                Some(0) => "null",
                Some(1) => "true",
                Some(2) => "false",
                _ => return Err(malformed("null, true or false")),
            }),
            json_type::INT16 => write!(out, "{}", i16::from_le_bytes(fixed(data, "an int16")?))?,
            json_type::UINT16 => write!(out, "{}", u16::from_le_bytes(fixed(data, "a uint16")?))?,
            json_type::INT32 => write!(out, "{}", i32::from_le_bytes(fixed(data, "an int32")?))?,
            json_type::UINT32 => write!(out, "{}", u32::from_le_bytes(fixed(data, "a uint32")?))?,
            json_type::INT64 => write!(out, "{}", i64::from_le_bytes(fixed(data, "an int64")?))?,
            json_type::UINT64 => write!(out, "{}", u64::from_le_bytes(fixed(data, "a uint64")?))?,
            json_type::DOUBLE => double(f64::from_le_bytes(fixed(data, "a double")?), out)?,
            json_type::STRING => quote(utf8(self.variable(data)?)?, out),
            json_type::OPAQUE => {
                let (&column_type, data) = data.split_first().ok_or_else(|| malformed("an opaque value's type"))?;
                opaque(column_type, self.variable(data)?, out)?;
            }
            _ => {
                return Err(DecodeError::new(format!(
                    "expected a type of binary JSON, found {json_type:#04x}"
                )));
            }
        }
        Ok(())
    }

    /// Data after its length, which is in groups of seven bits, lowest first.
    fn variable(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], DecodeError> {
        let mut length = 0usize;
        for (index, &byte) in bytes.iter().take(5).enumerate() {
            let bits = u32::from(byte & 0x7f)
                .checked_mul(1 << (7 * index))
                .and_then(|bits| usize::try_from(bits).ok())
                .ok_or_else(|| malformed("a length of 32 bits"))?;
            length |= bits;
            if byte & 0x80 == 0 {
                let data = bytes[index + 1..]
                    .get(..length)
                    .ok_or_else(|| malformed("a string within its document"))?;
                self.take(length)?;
                return Ok(data);
            }
        }
        Err(malformed("a length"))
    }

    fn take(&mut self, length: usize) -> Result<(), DecodeError> {
        self.unused = self
            .unused
            .checked_sub(length)
            .ok_or_else(|| malformed("values that do not overlap"))?;
        Ok(())
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, DecodeError> {
    std::str::from_utf8(bytes).map_err(|_| malformed("UTF-8"))
}

fn quote(text: &str, out: &mut String) {
    out.push('"');
    escape(text, out);
    out.push('"');
}

fn escape(text: &str, out: &mut String) {
    let mut copied = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= b' ' && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&text[copied..at]);
        copied = at + 1;
        out.push('\\');
        match byte {
            b'"' | b'\\' => out.push(byte.into()),
            0x08 => out.push('b'),
            0x0c => out.push('f'),
            b'\n' => out.push('n'),
            b'\r' => out.push('r'),
            b'\t' => out.push('t'),
            _ => {
                out.push_str("u00");
                out.push(hex_digit(byte >> 4));
                out.push(hex_digit(byte & 0xf));
            }
        }
    }
    out.push_str(&text[copied..]);
}

fn hex_digit(digit: u8) -> char {
    char::from_digit(digit.into(), 16).unwrap_or('0')
}

/// The fewest digits that read back as the number. They are in positional
/// notation where the server has it so, and never look like an integer's.
fn double(number: f64, out: &mut String) -> Result<(), DecodeError> {
    /// Digits below which no number is half way between two candidates.
    const TIE_DIGITS_MIN: usize = 16;

    if !number.is_finite() {
        return Err(malformed("a finite double"));
    }
    if number.is_sign_negative() {
        out.push('-');
    }
    let number = number.abs();
    let mut scientific = format!("{number:e}");
    let digits = scientific
        .bytes()
        .take_while(|&byte| byte != b'e')
        .filter(u8::is_ascii_digit)
        .count();
    if digits >= TIE_DIGITS_MIN {
        // Half way, the server takes the even digit; with a precision, so does this.
        let even = format!("{number:.*e}", digits - 1);
        if even.parse() == Ok(number) {
            scientific = even;
        }
    }
    let (mantissa, exponent) = scientific.split_once('e').ok_or_else(|| malformed("a double"))?;
    let exponent: i32 = exponent.parse().map_err(|_| malformed("a double"))?;
    let whole = usize::try_from(exponent + 1).unwrap_or(0);
    if exponent < -15 || exponent >= 15 && digits <= whole {
        out.push_str(&scientific);
        return Ok(());
    }
    let mut digits = mantissa.bytes().filter(u8::is_ascii_digit).map(char::from);
    if whole == 0 {
        out.push_str("0.");
        out.extend((exponent + 1..0).map(|_| '0'));
        out.extend(digits);
    } else {
        out.extend((0..whole).map(|_| digits.next().unwrap_or('0')));
        out.push('.');
        out.push(digits.next().unwrap_or('0'));
        out.extend(digits);
    }
    Ok(())
}

/// A value of a column type that JSON lacks.
fn opaque(column_type: u8, data: &[u8], out: &mut String) -> Result<(), DecodeError> {
    match column_type {
        opaque_type::NEWDECIMAL => decimal(data, out),
        opaque_type::DATE | opaque_type::TIME | opaque_type::DATETIME | opaque_type::TIMESTAMP => {
            out.push('"');
            temporal(column_type, data, out)?;
            out.push('"');
            Ok(())
        }
        _ => {
            write!(out, "\"base64:type{column_type}:")?;
            for (index, line) in data.chunks(BASE64_LINE).enumerate() {
                if index > 0 {
                    out.push_str("\\n");
                }
                base64(line, out);
            }
            out.push('"');
            Ok(())
        }
    }
}

/// From the packed form: microseconds in 24 bits, above them seconds and
/// minutes in 6 each and hours, then days in 5 and months, of which a year has
/// 13.
fn temporal(column_type: u8, data: &[u8], out: &mut String) -> Result<(), DecodeError> {
    let Ok(packed) = <[u8; 8]>::try_from(data).map(i64::from_le_bytes) else {
        return Err(malformed("eight bytes of a date or time"));
    };
    let (micros, seconds) = (packed.unsigned_abs() & 0xff_ffff, packed.unsigned_abs() >> 24);
    let (minute, second) = (seconds >> 6 & 0x3f, seconds & 0x3f);
    if column_type == opaque_type::TIME {
        let hour = seconds >> 12 & 0x3ff;
        let sign = if packed < 0 { "-" } else { "" };
        write!(out, "{sign}{hour:02}:{minute:02}:{second:02}.{micros:06}")?;
        return Ok(());
    }
    if packed < 0 {
        return Err(malformed("a date that is not negative"));
    }
    let hour = seconds >> 12 & 0x1f;
    let (months, day) = (seconds >> 22, seconds >> 17 & 0x1f);
    let (year, month) = (months / 13, months % 13);
    write!(out, "{year:04}-{month:02}-{day:02}")?;
    if column_type != opaque_type::DATE {
        write!(out, " {hour:02}:{minute:02}:{second:02}.{micros:06}")?;
    }
    Ok(())
}

/// From precision, scale and the form in which a DECIMAL column is stored: nine
/// digits in four bytes, fewer at both ends in as many as they need; the first
/// bit is inverted, and if the number is negative all are.
fn decimal(data: &[u8], out: &mut String) -> Result<(), DecodeError> {
    const DIGITS: usize = 9;
    /// Bytes of fewer than nine digits.
    const SIZES: [usize; DIGITS] = [0, 1, 1, 2, 2, 3, 3, 4, 4];
    let expected = || malformed("a decimal");

    let (&[precision, scale], mut rest) = data.split_first_chunk().ok_or_else(expected)?;
    let whole = precision.checked_sub(scale).map(usize::from).ok_or_else(expected)?;
    let scale = usize::from(scale);
    let negative = rest.first().ok_or_else(expected)? & 0x80 == 0;
    let mut first = true;
    let mut group = |digits: usize| -> Result<u32, DecodeError> {
        let size = SIZES.get(digits).copied().unwrap_or(4);
        let (bytes, tail) = rest.split_at_checked(size).ok_or_else(expected)?;
        rest = tail;
        let mut value = 0u32;
        for &byte in bytes {
            let byte = if std::mem::take(&mut first) { byte ^ 0x80 } else { byte };
            value = value << 8 | u32::from(if negative { !byte } else { byte });
        }
        Ok(value)
    };

    let mut number = String::new();
    if whole % DIGITS > 0 {
        write!(number, "{}", group(whole % DIGITS)?)?;
    }
    for _ in 0..whole / DIGITS {
        write!(number, "{:09}", group(DIGITS)?)?;
    }
    let significant = number.trim_start_matches('0');
    let integer = if significant.is_empty() { "0" } else { significant };
    let mut fraction = String::new();
    for _ in 0..scale / DIGITS {
        write!(fraction, "{:09}", group(DIGITS)?)?;
    }
    if scale % DIGITS > 0 {
        let digits = scale % DIGITS;
        write!(fraction, "{:0digits$}", group(digits)?)?;
    }
    if !rest.is_empty() || fraction.len() != scale || integer.len() > whole.max(1) {
        return Err(expected());
    }

    if negative {
        out.push('-');
    }
    out.push_str(integer);
    if scale > 0 {
        out.push('.');
        out.push_str(&fraction);
    }
    Ok(())
}

fn base64(bytes: &[u8], out: &mut String) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for group in bytes.chunks(3) {
        let byte = |index: usize| group.get(index).copied().map_or(0, usize::from);
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for index in 0..4 {
            out.push(if index <= group.len() {
                ALPHABET[bits >> (18 - 6 * index) & 0x3f].into()
            } else {
                '='
            });
        }
    }
}
