//! BSON by its bytes: values are looked at where they lie. Spec: bsonspec.org,
//! version 1.1. Pure; never panics on any bytes.

use std::fmt;

/// A value that is not what BSON allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed BSON: expected {}", self.0)
    }
}

impl std::error::Error for Malformed {}

pub type Result<T> = std::result::Result<T, Malformed>;

/// The types' tags.
pub mod tag {
    pub const DOUBLE: u8 = 0x01;
    pub const STRING: u8 = 0x02;
    pub const DOCUMENT: u8 = 0x03;
    pub const ARRAY: u8 = 0x04;
    pub const BINARY: u8 = 0x05;
    pub const UNDEFINED: u8 = 0x06;
    pub const OBJECT_ID: u8 = 0x07;
    pub const BOOLEAN: u8 = 0x08;
    pub const DATE: u8 = 0x09;
    pub const NULL: u8 = 0x0A;
    pub const REGEX: u8 = 0x0B;
    pub const DB_POINTER: u8 = 0x0C;
    pub const CODE: u8 = 0x0D;
    pub const SYMBOL: u8 = 0x0E;
    pub const CODE_WITH_SCOPE: u8 = 0x0F;
    pub const INT32: u8 = 0x10;
    pub const TIMESTAMP: u8 = 0x11;
    pub const INT64: u8 = 0x12;
    pub const DECIMAL128: u8 = 0x13;
    pub const MAX_KEY: u8 = 0x7F;
    pub const MIN_KEY: u8 = 0xFF;
}

/// The bytes of a document without elements.
pub const EMPTY: usize = 5;

/// Documents lie in each other at most this deep; servers allow 100.
pub const DEPTH_MAX: usize = 250;

/// A value: its type, and its bytes without the name before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'a> {
    pub tag: u8,
    pub bytes: &'a [u8],
}

impl<'a> Value<'a> {
    pub fn int32(self) -> Option<i32> {
        self.fixed(tag::INT32).map(i32::from_le_bytes)
    }

    pub fn int64(self) -> Option<i64> {
        self.fixed(tag::INT64).map(i64::from_le_bytes)
    }

    pub fn double(self) -> Option<f64> {
        self.fixed(tag::DOUBLE).map(f64::from_le_bytes)
    }

    /// Milliseconds since 1970.
    pub fn date(self) -> Option<i64> {
        self.fixed(tag::DATE).map(i64::from_le_bytes)
    }

    /// Seconds in the upper half, the increment in the lower one.
    pub fn timestamp(self) -> Option<u64> {
        self.fixed(tag::TIMESTAMP).map(u64::from_le_bytes)
    }

    pub fn object_id(self) -> Option<[u8; 12]> {
        self.fixed(tag::OBJECT_ID)
    }

    pub fn decimal(self) -> Option<[u8; 16]> {
        self.fixed(tag::DECIMAL128)
    }

    pub fn boolean(self) -> Option<bool> {
        self.fixed::<1>(tag::BOOLEAN).map(|[byte]| byte != 0)
    }

    /// Of an int32 or int64.
    pub fn integer(self) -> Option<i64> {
        self.int64().or(self.int32().map(i64::from))
    }

    /// The text of a string, code or symbol.
    pub fn text(self) -> Option<&'a [u8]> {
        match self.tag {
            tag::STRING | tag::CODE | tag::SYMBOL => self.bytes.get(4..self.bytes.len().checked_sub(1)?),
            _ => None,
        }
    }

    /// Of a string, where it is UTF-8.
    pub fn string(self) -> Option<&'a str> {
        std::str::from_utf8(self.text()?).ok()
    }

    /// Subtype and bytes.
    pub fn binary(self) -> Option<(u8, &'a [u8])> {
        match self.tag {
            tag::BINARY => Some((*self.bytes.get(4)?, self.bytes.get(5..)?)),
            _ => None,
        }
    }

    /// The elements of a document or an array.
    pub fn elements(self) -> Result<Elements<'a>> {
        match self.tag {
            tag::DOCUMENT | tag::ARRAY => document(self.bytes),
            _ => Err(Malformed("a document")),
        }
    }

    fn fixed<const N: usize>(self, tag: u8) -> Option<[u8; N]> {
        (self.tag == tag).then(|| self.bytes.try_into().ok()).flatten()
    }
}

/// The elements of a document, one by one.
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    rest: &'a [u8],
}

/// The elements of a document's bytes.
pub fn document(bytes: &[u8]) -> Result<Elements<'_>> {
    let length = length(bytes)?;
    match bytes.split_last() {
        Some((0, rest)) if length == bytes.len() && length >= 5 => Ok(Elements { rest: &rest[4..] }),
        _ => Err(Malformed("a document as long as it says, and a 0 at its end")),
    }
}

/// The value of one field of a document.
pub fn field<'a>(bytes: &'a [u8], name: &str) -> Result<Option<Value<'a>>> {
    for element in document(bytes)? {
        let (own, value) = element?;
        if own == name.as_bytes() {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

fn length(bytes: &[u8]) -> Result<usize> {
    let length = bytes.first_chunk().map(|b| i32::from_le_bytes(*b));
    let length = length.and_then(|length| usize::try_from(length).ok());
    length.ok_or(Malformed("a length"))
}

fn c_string(bytes: &[u8]) -> Result<usize> {
    let end = bytes.iter().position(|byte| *byte == 0);
    end.ok_or(Malformed("a 0 at the end of a name"))
}

/// How many bytes a value takes.
fn size(tag: u8, bytes: &[u8]) -> Result<usize> {
    Ok(match tag {
        tag::DOUBLE | tag::DATE | tag::TIMESTAMP | tag::INT64 => 8,
        tag::INT32 => 4,
        tag::BOOLEAN => 1,
        tag::OBJECT_ID => 12,
        tag::DECIMAL128 => 16,
        tag::NULL | tag::UNDEFINED | tag::MIN_KEY | tag::MAX_KEY => 0,
        tag::STRING | tag::CODE | tag::SYMBOL => string_size(bytes)?,
        tag::DB_POINTER => string_size(bytes)? + 12,
        tag::DOCUMENT | tag::ARRAY => length(bytes)?.max(5),
        tag::CODE_WITH_SCOPE => length(bytes)?.max(14),
        tag::BINARY => length(bytes)?.checked_add(5).ok_or(Malformed("a length"))?,
        tag::REGEX => {
            let pattern = c_string(bytes)? + 1;
            pattern + c_string(&bytes[pattern..])? + 1
        }
        _ => return Err(Malformed("a type that is known")),
    })
}

fn string_size(bytes: &[u8]) -> Result<usize> {
    let size = length(bytes)?.checked_add(4).ok_or(Malformed("a length"))?;
    match size.checked_sub(1).and_then(|last| bytes.get(last)) {
        Some(0) if size >= 5 => Ok(size),
        _ => Err(Malformed("a string with a 0 at its end")),
    }
}

impl<'a> Elements<'a> {
    /// Of elements that are no whole document.
    pub fn over(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    /// What is left, in bytes.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    fn step(&mut self, tag: u8, rest: &'a [u8]) -> Result<(&'a [u8], Value<'a>)> {
        let end = c_string(rest)?;
        let (name, rest) = (&rest[..end], &rest[end + 1..]);
        let size = size(tag, rest)?;
        let bytes = rest.get(..size).ok_or(Malformed("a whole value"))?;
        self.rest = &rest[size..];
        Ok((name, Value { tag, bytes }))
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<(&'a [u8], Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        let (tag, rest) = self.rest.split_first()?;
        let step = self.step(*tag, rest);
        if step.is_err() {
            self.rest = &[];
        }
        Some(step)
    }
}

/// Begins a document; [`end`] needs what it returns.
pub fn begin(out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(&[0; 4]);
    out.len() - 4
}

pub fn end(out: &mut Vec<u8>, begun: usize) {
    out.push(0);
    let length = (out.len() - begun) as u32;
    out[begun..begun + 4].copy_from_slice(&length.to_le_bytes());
}

/// A tag, and a name without its zeros, which no name has.
pub fn name(out: &mut Vec<u8>, tag: u8, name: &[u8]) {
    out.push(tag);
    match name.contains(&0) {
        true => out.extend(name.iter().filter(|byte| **byte != 0)),
        false => out.extend_from_slice(name),
    }
    out.push(0);
}

/// The bytes of a string value.
pub fn string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&(text.len() as u32 + 1).to_le_bytes());
    out.extend_from_slice(text);
    out.push(0);
}

/// The bytes of a binary value.
pub fn binary(out: &mut Vec<u8>, subtype: u8, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.push(subtype);
    out.extend_from_slice(bytes);
}
