//! The differences that a partial update of a JSON column logs, applied to the
//! text that the server printed for the column before.
//!
//! The text is cut and joined where a difference says so and never parsed into
//! a tree: what stays is what it was, byte by byte. Spec:
//! `sql-common/json_diff.h` of MySQL.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::ops::Range;

use super::{DecodeError, json_text, quote};

/// The text that the server prints for `text`, which it printed before, after
/// the differences that a partial update logs. What they do not name is kept as
/// it is, byte by byte.
pub fn apply_json_diffs(text: &str, diffs: &[u8]) -> Result<String, DecodeError> {
    let mut document = text.to_owned();
    let mut reader = DiffReader { rest: diffs };
    while let Some(diff) = reader.next()? {
        diff.apply(&mut document)?;
    }
    Ok(document)
}

/// One difference of a partial update.
enum Diff<'a> {
    Replace(Vec<Leg<'a>>, String),
    Insert(Vec<Leg<'a>>, String),
    Remove(Vec<Leg<'a>>),
}

/// A step from a value to one inside it.
enum Leg<'a> {
    Member(Cow<'a, str>),
    Cell(usize),
    /// Counted from the last element, which is 0.
    CellFromLast(usize),
}

fn malformed(expected: &str) -> DecodeError {
    DecodeError::new(format!(
        "expected {expected} in a partial JSON update, found other bytes"
    ))
}

struct DiffReader<'a> {
    rest: &'a [u8],
}

impl<'a> DiffReader<'a> {
    fn next(&mut self) -> Result<Option<Diff<'a>>, DecodeError> {
        let Some((&operation, rest)) = self.rest.split_first() else {
            return Ok(None);
        };
        self.rest = rest;
        let path = std::str::from_utf8(self.sized()?).map_err(|_| malformed("a path in UTF-8"))?;
        let path = parse_path(path)?;
        Ok(Some(match operation {
            0 => Diff::Replace(path, self.value()?),
            1 => Diff::Insert(path, self.value()?),
            2 => Diff::Remove(path),
            _ => return Err(malformed("the operation replace, insert or remove")),
        }))
    }

    fn value(&mut self) -> Result<String, DecodeError> {
        let mut text = String::new();
        json_text(self.sized()?, &mut text)?;
        Ok(text)
    }

    /// Bytes after their length-encoded length.
    fn sized(&mut self) -> Result<&'a [u8], DecodeError> {
        let expected = || malformed("a length and as many bytes");
        let (&first, rest) = self.rest.split_first().ok_or_else(expected)?;
        let size = match first {
            0..=250 => 0,
            252 => 2,
            253 => 3,
            254 => 8,
            _ => return Err(expected()),
        };
        let (bytes, rest) = rest.split_at_checked(size).ok_or_else(expected)?;
        let length = if size == 0 {
            u64::from(first)
        } else {
            let mut buffer = [0; 8];
            buffer[..size].copy_from_slice(bytes);
            u64::from_le_bytes(buffer)
        };
        let length = usize::try_from(length).map_err(|_| expected())?;
        let (bytes, rest) = rest.split_at_checked(length).ok_or_else(expected)?;
        self.rest = rest;
        Ok(bytes)
    }
}

/// A path as the server logs it: `$.name."a name"[3][last-1]`.
fn parse_path(path: &str) -> Result<Vec<Leg<'_>>, DecodeError> {
    let expected = || malformed("a path to one value");
    let mut legs = Vec::new();
    let mut rest = path.strip_prefix('$').ok_or_else(expected)?;
    while !rest.is_empty() {
        if let Some(cell) = rest.strip_prefix('[') {
            let (cell, tail) = cell.split_once(']').ok_or_else(expected)?;
            let index = |text: &str| text.parse().map_err(|_| expected());
            legs.push(match cell.strip_prefix("last") {
                None => Leg::Cell(index(cell)?),
                Some("") => Leg::CellFromLast(0),
                Some(back) => Leg::CellFromLast(index(back.strip_prefix('-').ok_or_else(expected)?)?),
            });
            rest = tail;
        } else {
            let member = rest.strip_prefix('.').ok_or_else(expected)?;
            let length = if member.starts_with('"') {
                skip_string(member, 0).ok_or_else(expected)?
            } else {
                member.find(['.', '[']).unwrap_or(member.len())
            };
            let (name, tail) = member.split_at(length);
            legs.push(Leg::Member(match name.strip_prefix('"') {
                Some(_) => unquote(name).ok_or_else(expected)?,
                None if name.is_empty() || name == "*" => return Err(expected()),
                None => Cow::Borrowed(name),
            }));
            rest = tail;
        }
    }
    Ok(legs)
}

impl Diff<'_> {
    fn apply(&self, document: &mut String) -> Result<(), DecodeError> {
        let rejected = || DecodeError::new("expected the document that a partial JSON update changes, found another");
        match self {
            Self::Replace(path, value) => {
                let place = seek(document, path).ok_or_else(rejected)?;
                document.replace_range(place, value);
            }
            Self::Insert(path, value) => {
                let (last, parent) = path.split_last().ok_or_else(rejected)?;
                let parent = seek(document, parent).ok_or_else(rejected)?;
                let (at, text) = insertion(document, parent, last, value).ok_or_else(rejected)?;
                document.insert_str(at, &text);
            }
            Self::Remove(path) => {
                let (last, parent) = path.split_last().ok_or_else(rejected)?;
                let parent = seek(document, parent).ok_or_else(rejected)?;
                let place = removal(document, parent, last).ok_or_else(rejected)?;
                document.replace_range(place, "");
            }
        }
        Ok(())
    }
}

/// An element of an object or array in printed JSON.
struct Element<'t> {
    /// `None` in an array.
    key: Option<Cow<'t, str>>,
    /// With the key.
    whole: Range<usize>,
    value: Range<usize>,
}

/// Walks the elements of the object or array that starts at a place of a
/// printed document. The server has one form for it: no white space but one
/// blank after each comma and colon.
struct Elements<'t> {
    text: &'t str,
    object: bool,
    /// Where the next element starts, or the bracket that closes.
    at: usize,
}

impl<'t> Elements<'t> {
    /// `None` if a scalar is there.
    fn open(text: &'t str, at: usize) -> Option<Self> {
        let object = match text.as_bytes().get(at)? {
            b'{' => true,
            b'[' => false,
            _ => return None,
        };
        Some(Self {
            text,
            object,
            at: at + 1,
        })
    }

    /// `Some(None)` at the end, `None` if the text is not as the server prints.
    fn next(&mut self) -> Option<Option<Element<'t>>> {
        let bytes = self.text.as_bytes();
        let close = if self.object { b'}' } else { b']' };
        if *bytes.get(self.at)? == close {
            return Some(None);
        }
        let start = self.at;
        let mut value_start = start;
        let mut key = None;
        if self.object {
            let key_end = skip_string(self.text, start)?;
            key = Some(unquote(&self.text[start..key_end])?);
            value_start = key_end + ": ".len();
            if bytes.get(key_end..value_start)? != b": " {
                return None;
            }
        }
        let end = skip_value(self.text, value_start)?;
        self.at = match bytes.get(end..)? {
            [b',', b' ', ..] => end + ", ".len(),
            &[byte, ..] if byte == close => end,
            _ => return None,
        };
        Some(Some(Element {
            key,
            whole: start..end,
            value: value_start..end,
        }))
    }

    /// The element that a leg leads to.
    fn find(mut self, leg: &Leg<'_>) -> Option<Element<'t>> {
        let index = match leg {
            Leg::Member(name) => {
                while let Some(element) = self.next()? {
                    if element.key.as_ref() == Some(name) {
                        return Some(element);
                    }
                }
                return None;
            }
            _ if self.object => return None,
            Leg::Cell(index) => *index,
            Leg::CellFromLast(back) => {
                let count = Self { ..self }.count()?;
                count.checked_sub(1)?.checked_sub(*back)?
            }
        };
        for _ in 0..index {
            self.next()??;
        }
        self.next()?
    }

    fn count(mut self) -> Option<usize> {
        let mut count = 0;
        while self.next()?.is_some() {
            count += 1;
        }
        Some(count)
    }
}

/// Where the value that a path leads to is printed.
fn seek(text: &str, path: &[Leg<'_>]) -> Option<Range<usize>> {
    let mut place = 0..text.len();
    for leg in path {
        place = Elements::open(text, place.start)?.find(leg)?.value;
    }
    Some(place)
}

/// Where an element is inserted, and its text with what sets it apart.
fn insertion(text: &str, parent: Range<usize>, leg: &Leg<'_>, value: &str) -> Option<(usize, String)> {
    let mut elements = Elements::open(text, parent.start)?;
    let mut inserted = String::new();
    // How many elements an array's new one follows.
    let mut before = usize::MAX;
    match leg {
        Leg::Member(name) if elements.object => {
            quote(name, &mut inserted);
            inserted.push_str(": ");
        }
        Leg::Cell(index) if !elements.object => before = *index,
        Leg::CellFromLast(back) if !elements.object => {
            let count = Elements::open(text, parent.start)?.count()?;
            before = count.saturating_sub(1).saturating_sub(*back);
        }
        _ => return None,
    }
    inserted.push_str(value);

    let first = elements.at;
    let mut index = 0;
    while let Some(element) = elements.next()? {
        let here = match (leg, &element.key) {
            (Leg::Member(name), Some(key)) => match key_order(name, key) {
                Ordering::Less => true,
                Ordering::Equal => return None,
                Ordering::Greater => false,
            },
            _ => index == before,
        };
        if here {
            inserted.push_str(", ");
            return Some((element.whole.start, inserted));
        }
        index += 1;
    }
    if elements.at > first {
        inserted.insert_str(0, ", ");
    }
    Some((elements.at, inserted))
}

/// An element that is removed, with one of the commas around it.
fn removal(text: &str, parent: Range<usize>, leg: &Leg<'_>) -> Option<Range<usize>> {
    let elements = Elements::open(text, parent.start)?;
    let first = elements.at;
    let Range { start, end } = elements.find(leg)?.whole;
    if text[end..].starts_with(", ") {
        Some(start..end + ", ".len())
    } else if start > first {
        Some(start - ", ".len()..end)
    } else {
        Some(start..end)
    }
}

/// The order of an object's members.
fn key_order(a: &str, b: &str) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

/// The end of the string that starts at a place.
fn skip_string(text: &str, start: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    if *bytes.get(start)? != b'"' {
        return None;
    }
    let mut at = start + 1;
    loop {
        match *bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// The end of the value that starts at a place.
fn skip_value(text: &str, start: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut depth = 0usize;
    let mut at = start;
    loop {
        match *bytes.get(at)? {
            b'"' => at = skip_string(text, at)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
                continue;
            }
            b'}' | b']' if depth > 0 => {
                depth -= 1;
                at += 1;
            }
            b',' | b':' | b' ' if depth > 0 => {
                at += 1;
                continue;
            }
            _ => {
                let length = bytes[at..].iter().position(|byte| b",:]} ".contains(byte));
                match length {
                    Some(0) => return None,
                    Some(length) => at += length,
                    None => at = bytes.len(),
                }
            }
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

/// The text of a string with its quotes.
fn unquote(quoted: &str) -> Option<Cow<'_, str>> {
    let text = quoted.strip_prefix('"')?.strip_suffix('"')?;
    if !text.contains('\\') {
        return Some(Cow::Borrowed(text));
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        out.push_str(plain);
        let mut characters = escaped.chars();
        out.push(match characters.next()? {
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            // The server escapes control characters alone this way.
            'u' => {
                let (code, tail) = characters.as_str().split_at_checked(4)?;
                characters = tail.chars();
                char::from_u32(u32::from_str_radix(code, 16).ok()?)?
            }
            character @ ('"' | '\\' | '/') => character,
            _ => return None,
        });
        rest = characters.as_str();
    }
    out.push_str(rest);
    Some(Cow::Owned(out))
}
