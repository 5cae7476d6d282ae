//! Canonical extended JSON, written from BSON's bytes and read back into them.
//! Spec: MongoDB Extended JSON (v2), canonical format.

use std::borrow::Cow;
use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::number;
use super::raw::{self, DEPTH_MAX, Malformed, Result, Value, tag};

/// A binary subtype. Spec: BSON, "Binary (Old)".
const OLD_BINARY: u8 = 2;

/// How values are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    AsGiven,
    /// The fields of documents in the order of their names.
    Sorted,
    /// That, and numbers by their values.
    ByValue,
}

/// Appends a value.
pub fn write(value: Value<'_>, out: &mut Vec<u8>) -> Result<()> {
    write_at(value, Form::AsGiven, 0, out)
}

/// Appends a value with the fields of its documents in the order of their
/// names: equal texts then mean equal documents, whatever their fields' order.
pub fn write_sorted(value: Value<'_>, out: &mut Vec<u8>) -> Result<()> {
    write_at(value, Form::Sorted, 0, out)
}

/// Appends a value as [`write_sorted`] does, but numbers as [`number::write`] does:
/// equal texts mean equal values, whatever the numbers' types.
pub fn write_by_value(value: Value<'_>, out: &mut Vec<u8>) -> Result<()> {
    write_at(value, Form::ByValue, 0, out)
}

/// Appends a name and a colon.
pub fn write_name(name: &[u8], out: &mut Vec<u8>) {
    write_text(name, out);
    out.push(b':');
}

fn write_at(value: Value<'_>, form: Form, depth: usize, out: &mut Vec<u8>) -> Result<()> {
    if depth > DEPTH_MAX {
        return Err(Malformed("documents less deep in each other"));
    }
    let whole = || Malformed("a value as long as its type");
    match value.tag {
        tag::DOUBLE | tag::INT32 | tag::INT64 | tag::DECIMAL128 if form == Form::ByValue => number::write(value, out)?,
        tag::DOUBLE => {
            out.extend_from_slice(b"{\"$numberDouble\":\"");
            write_double(value.double().ok_or_else(whole)?, out);
            out.extend_from_slice(b"\"}");
        }
        tag::STRING => write_text(value.text().ok_or_else(whole)?, out),
        tag::DOCUMENT => write_document(value.bytes, form, depth, out)?,
        tag::ARRAY => {
            out.push(b'[');
            for (number, element) in value.elements()?.enumerate() {
                if number > 0 {
                    out.push(b',');
                }
                write_at(element?.1, form, depth + 1, out)?;
            }
            out.push(b']');
        }
        tag::BINARY => {
            let (subtype, bytes) = value.binary().ok_or_else(whole)?;
            // The old subtype has its length once more before its bytes.
            let bytes = match (subtype, bytes.split_first_chunk()) {
                (OLD_BINARY, Some((length, bytes))) if u32::from_le_bytes(*length) as usize == bytes.len() => bytes,
                _ => bytes,
            };
            out.extend_from_slice(b"{\"$binary\":{\"base64\":\"");
            let start = out.len();
            let length = bytes.len().div_ceil(3) * 4;
            out.resize(start + length, 0);
            let written = BASE64.encode_slice(bytes, &mut out[start..]);
            out.truncate(start + written.map_err(|_| whole())?);
            put(out, format_args!("\",\"subType\":\"{subtype:02x}\"}}}}"));
        }
        tag::UNDEFINED => out.extend_from_slice(b"{\"$undefined\":true}"),
        tag::OBJECT_ID => {
            out.extend_from_slice(b"{\"$oid\":\"");
            write_hex(&value.object_id().ok_or_else(whole)?, out);
            out.extend_from_slice(b"\"}");
        }
        tag::BOOLEAN => {
            let text: &[u8] = match value.boolean().ok_or_else(whole)? {
                true => b"true",
                false => b"false",
            };
            out.extend_from_slice(text);
        }
        tag::DATE => {
            let date = value.date().ok_or_else(whole)?;
            put(out, format_args!("{{\"$date\":{{\"$numberLong\":\"{date}\"}}}}"));
        }
        tag::NULL => out.extend_from_slice(b"null"),
        tag::REGEX => {
            let mut parts = value.bytes.split(|byte| *byte == 0);
            let (pattern, options) = (parts.next().ok_or_else(whole)?, parts.next().ok_or_else(whole)?);
            out.extend_from_slice(b"{\"$regularExpression\":{\"pattern\":");
            write_text(pattern, out);
            out.extend_from_slice(b",\"options\":");
            write_text(options, out);
            out.extend_from_slice(b"}}");
        }
        tag::DB_POINTER => {
            let (name, id) = value.bytes.split_at_checked(value.bytes.len() - 12).ok_or_else(whole)?;
            let name = name.get(4..name.len() - 1).ok_or_else(whole)?;
            out.extend_from_slice(b"{\"$dbPointer\":{\"$ref\":");
            write_text(name, out);
            out.extend_from_slice(b",\"$id\":{\"$oid\":\"");
            write_hex(id, out);
            out.extend_from_slice(b"\"}}}");
        }
        tag::CODE => {
            out.extend_from_slice(b"{\"$code\":");
            write_text(value.text().ok_or_else(whole)?, out);
            out.push(b'}');
        }
        tag::SYMBOL => {
            out.extend_from_slice(b"{\"$symbol\":");
            write_text(value.text().ok_or_else(whole)?, out);
            out.push(b'}');
        }
        tag::CODE_WITH_SCOPE => {
            let (code, scope) = code_with_scope(value.bytes)?;
            out.extend_from_slice(b"{\"$code\":");
            write_text(code, out);
            out.extend_from_slice(b",\"$scope\":");
            write_document(scope, form, depth + 1, out)?;
            out.push(b'}');
        }
        tag::INT32 => {
            let number = value.int32().ok_or_else(whole)?;
            put(out, format_args!("{{\"$numberInt\":\"{number}\"}}"));
        }
        tag::INT64 => {
            let number = value.int64().ok_or_else(whole)?;
            put(out, format_args!("{{\"$numberLong\":\"{number}\"}}"));
        }
        tag::TIMESTAMP => {
            let time = value.timestamp().ok_or_else(whole)?;
            let (t, i) = (time >> 32, time & 0xffff_ffff);
            put(out, format_args!("{{\"$timestamp\":{{\"t\":{t},\"i\":{i}}}}}"));
        }
        tag::DECIMAL128 => {
            let decimal = bson::Decimal128::from_bytes(value.decimal().ok_or_else(whole)?);
            put(out, format_args!("{{\"$numberDecimal\":\"{decimal}\"}}"));
        }
        tag::MIN_KEY => out.extend_from_slice(b"{\"$minKey\":1}"),
        tag::MAX_KEY => out.extend_from_slice(b"{\"$maxKey\":1}"),
        _ => return Err(Malformed("a type that is known")),
    }
    Ok(())
}

fn write_document(bytes: &[u8], form: Form, depth: usize, out: &mut Vec<u8>) -> Result<()> {
    let elements = raw::document(bytes)?;
    out.push(b'{');
    let start = out.len();
    let mut field = |(name, value): (&[u8], Value<'_>)| {
        if out.len() > start {
            out.push(b',');
        }
        write_name(name, out);
        write_at(value, form, depth + 1, out)
    };
    if form != Form::AsGiven {
        let mut elements = elements.collect::<Result<Vec<_>>>()?;
        // As they are written, or another order came of what was written.
        elements.sort_by_key(|(name, _)| utf8(name));
        elements.into_iter().try_for_each(&mut field)?;
    } else {
        for element in elements {
            field(element?)?;
        }
    }
    out.push(b'}');
    Ok(())
}

fn code_with_scope(bytes: &[u8]) -> Result<(&[u8], &[u8])> {
    let malformed = Malformed("code with its scope");
    let length = bytes
        .get(4..8)
        .and_then(|b| b.first_chunk())
        .map(|b| u32::from_le_bytes(*b));
    let end = 8 + length.ok_or(malformed)? as usize;
    let code = bytes.get(8..end.checked_sub(1).ok_or(malformed)?).ok_or(malformed)?;
    Ok((code, bytes.get(end..).ok_or(malformed)?))
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing to memory does not fail.
    let _ = out.write_fmt(text);
}

fn write_double(number: f64, out: &mut Vec<u8>) {
    match number {
        _ if number.is_nan() => out.extend_from_slice(b"NaN"),
        f64::INFINITY => out.extend_from_slice(b"Infinity"),
        f64::NEG_INFINITY => out.extend_from_slice(b"-Infinity"),
        _ => put(out, format_args!("{number:?}")),
    }
}

pub fn write_hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
}

/// What is no UTF-8 becomes U+FFFD.
pub fn utf8(bytes: &[u8]) -> Cow<'_, [u8]> {
    match String::from_utf8_lossy(bytes) {
        Cow::Borrowed(_) => Cow::Borrowed(bytes),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    }
}

fn write_text(text: &[u8], out: &mut Vec<u8>) {
    let text = utf8(text);
    out.push(b'"');
    let mut plain = 0;
    for (at, byte) in text.iter().enumerate() {
        if *byte >= b' ' && *byte != b'"' && *byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&text[plain..at]);
        plain = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            other => put(out, format_args!("\\u{other:04x}")),
        }
    }
    out.extend_from_slice(&text[plain..]);
    out.push(b'"');
}

/// Reads one value of the canonical format. Appends its bytes, returns its tag.
pub fn read(text: &[u8], out: &mut Vec<u8>) -> Result<u8> {
    let mut parser = Parser { text, at: 0 };
    let tag = parser.value(out, 0)?;
    match parser.at == text.len() {
        true => Ok(tag),
        false => Err(Malformed("the end of the JSON text")),
    }
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Result<u8> {
        self.text.get(self.at).copied().ok_or(Malformed("more JSON text"))
    }

    fn takes(&mut self, literal: &[u8]) -> bool {
        let found = self.text[self.at..].starts_with(literal);
        if found {
            self.at += literal.len();
        }
        found
    }

    fn expect(&mut self, literal: &[u8]) -> Result<()> {
        match self.takes(literal) {
            true => Ok(()),
            false => Err(Malformed("canonical extended JSON")),
        }
    }

    fn value(&mut self, out: &mut Vec<u8>, depth: usize) -> Result<u8> {
        if depth > DEPTH_MAX {
            return Err(Malformed("documents less deep in each other"));
        }
        match self.peek()? {
            b'"' => {
                let text = self.text()?;
                raw::string(out, &text);
                Ok(tag::STRING)
            }
            b'{' => {
                let (start, length) = (self.at, out.len());
                if self.text[start..].starts_with(b"{\"$") {
                    if let Ok(tag) = self.wrapped(out, depth)
                        && self.is_ours(start, tag, &out[length..])
                    {
                        return Ok(tag);
                    }
                    // A document whose fields only look like one of the forms.
                    self.at = start;
                    out.truncate(length);
                }
                self.document(out, depth)?;
                Ok(tag::DOCUMENT)
            }
            b'[' => {
                self.at += 1;
                let begun = raw::begin(out);
                let mut number = 0_u32;
                while !self.takes(b"]") {
                    if number > 0 {
                        self.expect(b",")?;
                    }
                    let place = out.len();
                    raw::name(out, 0, number.to_string().as_bytes());
                    let tag = self.value(out, depth + 1)?;
                    out[place] = tag;
                    number += 1;
                }
                raw::end(out, begun);
                Ok(tag::ARRAY)
            }
            _ if self.takes(b"true") => {
                out.push(1);
                Ok(tag::BOOLEAN)
            }
            _ if self.takes(b"false") => {
                out.push(0);
                Ok(tag::BOOLEAN)
            }
            _ => self.expect(b"null").map(|()| tag::NULL),
        }
    }

    /// Whether a value would be written as the text that it was read from.
    fn is_ours(&self, start: usize, tag: u8, bytes: &[u8]) -> bool {
        let mut text = Vec::new();
        write(Value { tag, bytes }, &mut text).is_ok() && text == self.text[start..self.at]
    }

    /// Whether the value that begins here is the last of its object.
    fn is_last(&self) -> bool {
        let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
        for (place, byte) in self.text.iter().enumerate().skip(self.at) {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                _ if quoted => {}
                b'{' | b'[' => depth += 1,
                b'}' | b']' => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        return self.text.get(place + 1) == Some(&b'}');
                    }
                }
                _ => {}
            }
        }
        false
    }

    fn document(&mut self, out: &mut Vec<u8>, depth: usize) -> Result<()> {
        self.expect(b"{")?;
        let begun = raw::begin(out);
        let mut first = true;
        while !self.takes(b"}") {
            if !first {
                self.expect(b",")?;
            }
            first = false;
            let name = self.text()?;
            self.expect(b":")?;
            let place = out.len();
            raw::name(out, 0, &name);
            let tag = self.value(out, depth + 1)?;
            out[place] = tag;
        }
        raw::end(out, begun);
        Ok(())
    }

    /// An object that stands for a value.
    fn wrapped(&mut self, out: &mut Vec<u8>, depth: usize) -> Result<u8> {
        let malformed = Malformed("canonical extended JSON");
        self.expect(b"{")?;
        let key = self.text()?;
        self.expect(b":")?;
        let tag = match key.as_ref() {
            b"$numberInt" => {
                out.extend_from_slice(&self.number::<i32>()?.to_le_bytes());
                tag::INT32
            }
            b"$numberLong" => {
                out.extend_from_slice(&self.number::<i64>()?.to_le_bytes());
                tag::INT64
            }
            b"$numberDouble" => {
                let text = self.text()?;
                let number = match text.as_ref() {
                    b"NaN" => f64::NAN,
                    b"Infinity" => f64::INFINITY,
                    b"-Infinity" => f64::NEG_INFINITY,
                    text => parse(text)?,
                };
                out.extend_from_slice(&number.to_le_bytes());
                tag::DOUBLE
            }
            b"$numberDecimal" => {
                out.extend_from_slice(&self.number::<bson::Decimal128>()?.bytes());
                tag::DECIMAL128
            }
            b"$oid" => {
                self.object_id(out)?;
                tag::OBJECT_ID
            }
            b"$date" => {
                self.expect(b"{\"$numberLong\":")?;
                out.extend_from_slice(&self.number::<i64>()?.to_le_bytes());
                self.expect(b"}")?;
                tag::DATE
            }
            b"$binary" => {
                self.expect(b"{\"base64\":")?;
                let bytes = BASE64.decode(self.text()?).map_err(|_| malformed)?;
                self.expect(b",\"subType\":")?;
                let text = self.text()?;
                let subtype = std::str::from_utf8(&text).ok();
                let subtype = subtype
                    .and_then(|text| u8::from_str_radix(text, 16).ok())
                    .ok_or(malformed)?;
                self.expect(b"}")?;
                match subtype {
                    OLD_BINARY => {
                        let length = (bytes.len() as u32).to_le_bytes();
                        raw::binary(out, subtype, &[length.as_slice(), &bytes].concat());
                    }
                    _ => raw::binary(out, subtype, &bytes),
                }
                tag::BINARY
            }
            b"$timestamp" => {
                self.expect(b"{\"t\":")?;
                let t = self.digits()?;
                self.expect(b",\"i\":")?;
                let i = self.digits()?;
                self.expect(b"}")?;
                out.extend_from_slice(&i.to_le_bytes());
                out.extend_from_slice(&t.to_le_bytes());
                tag::TIMESTAMP
            }
            b"$regularExpression" => {
                self.expect(b"{\"pattern\":")?;
                self.c_string(out)?;
                self.expect(b",\"options\":")?;
                self.c_string(out)?;
                self.expect(b"}")?;
                tag::REGEX
            }
            b"$dbPointer" => {
                self.expect(b"{\"$ref\":")?;
                let name = self.text()?;
                raw::string(out, &name);
                self.expect(b",\"$id\":{\"$oid\":")?;
                self.object_id(out)?;
                self.expect(b"}}")?;
                tag::DB_POINTER
            }
            b"$symbol" => {
                let text = self.text()?;
                raw::string(out, &text);
                tag::SYMBOL
            }
            b"$code" => {
                let code = self.text()?;
                if self.takes(b",\"$scope\":") {
                    // Or it would be read twice, and what is in it four times.
                    if !self.is_last() {
                        return Err(malformed);
                    }
                    let begun = out.len();
                    out.extend_from_slice(&[0; 4]);
                    raw::string(out, &code);
                    self.document(out, depth + 1)?;
                    let length = (out.len() - begun) as u32;
                    out[begun..begun + 4].copy_from_slice(&length.to_le_bytes());
                    tag::CODE_WITH_SCOPE
                } else {
                    raw::string(out, &code);
                    tag::CODE
                }
            }
            b"$undefined" => self.expect(b"true").map(|()| tag::UNDEFINED)?,
            b"$minKey" => self.expect(b"1").map(|()| tag::MIN_KEY)?,
            b"$maxKey" => self.expect(b"1").map(|()| tag::MAX_KEY)?,
            _ => return Err(malformed),
        };
        self.expect(b"}")?;
        Ok(tag)
    }

    fn c_string(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let text = self.text()?;
        if text.contains(&0) {
            return Err(Malformed("a text without zeros"));
        }
        out.extend_from_slice(&text);
        out.push(0);
        Ok(())
    }

    fn object_id(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let text = self.text()?;
        out.extend_from_slice(&object_id(&text)?);
        Ok(())
    }

    fn number<T: std::str::FromStr>(&mut self) -> Result<T> {
        parse(&self.text()?)
    }

    fn digits(&mut self) -> Result<u32> {
        let rest = &self.text[self.at..];
        let end = rest
            .iter()
            .position(|byte| !byte.is_ascii_digit())
            .unwrap_or(rest.len());
        self.at += end;
        parse(&rest[..end])
    }

    /// A string, without its quotes and escapes.
    fn text(&mut self) -> Result<Cow<'a, [u8]>> {
        self.expect(b"\"")?;
        let rest = &self.text[self.at..];
        let end = rest.iter().position(|byte| *byte == b'"' || *byte == b'\\');
        let end = end.ok_or(Malformed("the end of a JSON string"))?;
        if rest[end] == b'"' {
            self.at += end + 1;
            return Ok(Cow::Borrowed(&rest[..end]));
        }
        let mut text = Vec::with_capacity(end + 16);
        loop {
            let byte = self.peek()?;
            self.at += 1;
            match byte {
                b'"' => return Ok(Cow::Owned(text)),
                b'\\' => {
                    let escape = self.peek()?;
                    self.at += 1;
                    match escape {
                        b'n' => text.push(b'\n'),
                        b'r' => text.push(b'\r'),
                        b't' => text.push(b'\t'),
                        b'u' => {
                            let digits = self.text.get(self.at..self.at + 4);
                            let digits = digits.and_then(|d| std::str::from_utf8(d).ok());
                            let code = digits.and_then(|d| u8::from_str_radix(d, 16).ok());
                            text.push(code.ok_or(Malformed("an escape that we write"))?);
                            self.at += 4;
                        }
                        other => text.push(other),
                    }
                }
                other => text.push(other),
            }
        }
    }
}

fn parse<T: std::str::FromStr>(text: &[u8]) -> Result<T> {
    let text = std::str::from_utf8(text).ok();
    text.and_then(|text| text.parse().ok()).ok_or(Malformed("a number"))
}

/// The bytes of 24 hex digits.
pub fn object_id(text: &[u8]) -> Result<[u8; 12]> {
    let malformed = Malformed("24 hex digits");
    let mut id = [0; 12];
    if text.len() != 24 {
        return Err(malformed);
    }
    for (byte, digits) in id.iter_mut().zip(text.chunks(2)) {
        let digits = std::str::from_utf8(digits).map_err(|_| malformed)?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| malformed)?;
    }
    Ok(id)
}
