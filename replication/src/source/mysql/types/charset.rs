//! Text of any charset to UTF-8.
//!
//! Unicode charsets are converted here. For the others the server is asked,
//! once for each charset, what its codes stand for, so that a value is what
//! the server itself would send.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use super::DecodeError;

/// What the server writes for a code that stands for nothing.
const UNMAPPED: char = '?';

/// The byte that begins a three-byte code of `ujis` and `eucjpms`.
const TRIPLE_LEAD: u8 = 0x8f;

/// Conversion tables of charsets, from the server itself. Cheap to clone.
/// Names are in lower case, as the information schema has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Charsets {
    tables: Arc<HashMap<String, Arc<Table>>>,
}

impl Charsets {
    /// The statement whose rows tell all codes of a charset and what they
    /// stand for, both in hex; `None` if the charset needs no table. It runs on
    /// every server with recursive CTEs, under any `sql_mode`.
    pub fn query(charset: &str) -> Result<Option<String>, DecodeError> {
        if Charset::built_in(charset).is_some() {
            return Ok(None);
        }
        if charset.is_empty()
            || !charset
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        {
            return Err(DecodeError::new(
                "expected the name of a charset in lower case, found other characters",
            ));
        }
        if charset == "gb18030" {
            return Err(DecodeError::new(
                "expected a charset with codes of at most three bytes, found gb18030",
            ));
        }
        // A sequence of bytes that is no code is NULL in strict mode, and cut short otherwise. Bytes that
        // only begin a code may pass, and convert to nothing.
        let codes = |length: u8, code: &str, from: &str| {
            format!(
                "SELECT HEX(c), HEX(CONVERT(c USING utf8mb4)) FROM (SELECT CHAR({code} USING {charset}) AS c FROM {from}) \
                 AS codes WHERE LENGTH(c) = {length} AND CHAR_LENGTH(c) = 1 AND CHAR_LENGTH(CONVERT(c USING utf8mb4)) = 1"
            )
        };
        // Two levels of sixteen stay below any limit that a server sets to the depth of recursion.
        let mut sql = String::from(
            "WITH RECURSIVE n(d) AS (SELECT 0 UNION ALL SELECT d + 1 FROM n WHERE d < 15), \
             b(d) AS (SELECT high.d * 16 + low.d FROM n AS high, n AS low) ",
        );
        sql.push_str(&codes(1, "x.d", "b AS x"));
        sql.push_str(" UNION ALL ");
        sql.push_str(&codes(2, "x.d, y.d", "b AS x, b AS y"));
        if matches!(charset, "ujis" | "eucjpms") {
            sql.push_str(" UNION ALL ");
            sql.push_str(&codes(3, &format!("{TRIPLE_LEAD}, x.d, y.d"), "b AS x, b AS y"));
        }
        Ok(Some(sql))
    }

    /// Takes the rows of [`query`](Self::query)'s statement.
    pub fn load(&mut self, charset: &str, rows: &[Vec<Option<String>>]) -> Result<(), DecodeError> {
        let table = Table::from_rows(rows).map_err(|error| DecodeError::new(format!("charset {charset}: {error}")))?;
        Arc::make_mut(&mut self.tables).insert(charset.to_owned(), Arc::new(table));
        Ok(())
    }

    /// Whether text of this charset can be decoded.
    pub fn has(&self, charset: &str) -> bool {
        self.get(charset).is_some()
    }

    /// The charset of a column, to decode many values with.
    pub(super) fn get(&self, charset: &str) -> Option<Charset> {
        Charset::built_in(charset).or_else(|| self.tables.get(charset).cloned().map(Charset::Table))
    }

    /// Text of a charset in UTF-8. As where the server converts, bytes that
    /// stand for nothing become `?`; so do, in text that is UTF-8 by name,
    /// bytes that are not, although the server would send these as they are.
    pub fn decode<'a>(&self, charset: &str, bytes: &'a [u8]) -> Result<Cow<'a, str>, DecodeError> {
        match self.get(charset) {
            Some(charset) => Ok(charset.decode(bytes)),
            None => Err(DecodeError::new(format!(
                "expected a charset whose codes are known, found {charset}"
            ))),
        }
    }
}

/// How the bytes of one charset are decoded. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Charset {
    /// Also `binary`: text without a charset is taken for UTF-8.
    Utf8,
    Ascii,
    Ucs2,
    Utf16,
    Utf16Le,
    Utf32,
    Table(Arc<Table>),
}

impl Charset {
    fn built_in(name: &str) -> Option<Self> {
        Some(match name {
            "utf8mb4" | "utf8mb3" | "utf8" | "binary" => Self::Utf8,
            "ascii" => Self::Ascii,
            "ucs2" => Self::Ucs2,
            "utf16" => Self::Utf16,
            "utf16le" => Self::Utf16Le,
            "utf32" => Self::Utf32,
            _ => return None,
        })
    }

    /// As [`Charsets::decode`].
    pub(super) fn decode<'a>(&self, bytes: &'a [u8]) -> Cow<'a, str> {
        match self {
            Self::Utf8 => utf8(bytes),
            Self::Ascii => ascii(bytes),
            // Of a lone surrogate, which no text in UTF-8 holds, MariaDB sends the bytes; MySQL ends the text there.
            Self::Ucs2 => units(bytes, |unit: [u8; 2]| char::from_u32(u16::from_be_bytes(unit).into())),
            Self::Utf16 => utf16(bytes, u16::from_be_bytes),
            Self::Utf16Le => utf16(bytes, u16::from_le_bytes),
            Self::Utf32 => units(bytes, |unit: [u8; 4]| char::from_u32(u32::from_be_bytes(unit))),
            Self::Table(table) => table.decode(bytes),
        }
    }
}

fn utf8(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        out.extend(chunk.invalid().iter().map(|_| UNMAPPED));
    }
    Cow::Owned(out)
}

fn ascii(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.is_ascii() => Cow::Borrowed(text),
        _ => bytes
            .iter()
            .map(|&byte| if byte.is_ascii() { char::from(byte) } else { UNMAPPED })
            .collect(),
    }
}

/// Characters of `N` bytes each.
fn units<const N: usize>(bytes: &[u8], decode: impl Fn([u8; N]) -> Option<char>) -> Cow<'_, str> {
    let (units, rest) = bytes.as_chunks::<N>();
    let mut out = String::with_capacity(bytes.len());
    out.extend(units.iter().map(|&unit| decode(unit).unwrap_or(UNMAPPED)));
    if !rest.is_empty() {
        out.push(UNMAPPED);
    }
    Cow::Owned(out)
}

fn utf16(bytes: &[u8], unit: impl Fn([u8; 2]) -> u16) -> Cow<'_, str> {
    let (units, rest) = bytes.as_chunks::<2>();
    let mut out = String::with_capacity(bytes.len());
    let decoded = char::decode_utf16(units.iter().map(|&bytes| unit(bytes)));
    out.extend(decoded.map(|character| character.unwrap_or(UNMAPPED)));
    if !rest.is_empty() {
        out.push(UNMAPPED);
    }
    Cow::Owned(out)
}

/// What every code of a charset stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Table {
    single: [Option<char>; 256],
    /// Of 65,536 codes, or empty.
    double: Box<[Option<char>]>,
    /// What follows [`TRIPLE_LEAD`]: of 65,536 codes, or empty.
    triple: Box<[Option<char>]>,
    /// Whether the first 128 codes are ASCII's.
    ascii: bool,
}

impl Table {
    fn from_rows(rows: &[Vec<Option<String>>]) -> Result<Self, DecodeError> {
        let mut table = Self {
            single: [None; 256],
            double: Box::default(),
            triple: Box::default(),
            ascii: false,
        };
        for row in rows {
            let [Some(code), Some(text)] = row.as_slice() else {
                return Err(DecodeError::new("expected a code and its text, found another row"));
            };
            let character = character(text)?;
            match *hex(code)?.as_slice() {
                [byte] => table.single[usize::from(byte)] = Some(character),
                [first, second] => *slot(&mut table.double, first, second) = Some(character),
                [TRIPLE_LEAD, second, third] => *slot(&mut table.triple, second, third) = Some(character),
                _ => {
                    return Err(DecodeError::new(
                        "expected a code of one, two or three bytes, found another",
                    ));
                }
            }
        }
        if table.single.iter().all(Option::is_none) {
            return Err(DecodeError::new("expected codes of one byte, found none"));
        }
        table.ascii = (0..128u8).all(|byte| table.single[usize::from(byte)] == Some(char::from(byte)));
        Ok(table)
    }

    fn decode<'a>(&self, bytes: &'a [u8]) -> Cow<'a, str> {
        if self.ascii
            && let Ok(text) = std::str::from_utf8(bytes)
            && text.is_ascii()
        {
            return Cow::Borrowed(text);
        }
        let mut out = String::with_capacity(bytes.len() + bytes.len() / 2);
        let mut rest = bytes;
        while let Some(length) = self.decode_one(rest, &mut out) {
            rest = &rest[length..];
        }
        Cow::Owned(out)
    }

    /// The length of the first code; `None` at the end.
    fn decode_one(&self, bytes: &[u8], out: &mut String) -> Option<usize> {
        let (&first, rest) = bytes.split_first()?;
        if !self.triple.is_empty()
            && first == TRIPLE_LEAD
            && let Some(character) = lookup(&self.triple, rest)
        {
            out.push(character);
            return Some(3);
        }
        if !self.double.is_empty()
            && let Some(character) = lookup(&self.double, bytes)
        {
            out.push(character);
            return Some(2);
        }
        out.push(self.single[usize::from(first)].unwrap_or(UNMAPPED));
        Some(1)
    }
}

fn index(first: u8, second: u8) -> usize {
    usize::from(u16::from_be_bytes([first, second]))
}

fn lookup(table: &[Option<char>], bytes: &[u8]) -> Option<char> {
    match bytes {
        &[first, second, ..] => table.get(index(first, second)).copied().flatten(),
        _ => None,
    }
}

fn slot(table: &mut Box<[Option<char>]>, first: u8, second: u8) -> &mut Option<char> {
    if table.is_empty() {
        *table = vec![None; 1 << 16].into_boxed_slice();
    }
    &mut table[index(first, second)]
}

fn character(text: &str) -> Result<char, DecodeError> {
    let utf8 = hex(text)?;
    let mut characters = std::str::from_utf8(&utf8).unwrap_or_default().chars();
    match (characters.next(), characters.next()) {
        (Some(character), None) => Ok(character),
        _ => Err(DecodeError::new(
            "expected a code to be one character, found another text",
        )),
    }
}

fn hex(text: &str) -> Result<Vec<u8>, DecodeError> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let bytes = pairs
        .iter()
        .map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?))
        .collect::<Option<Vec<u8>>>();
    match bytes {
        Some(bytes) if rest.is_empty() => Ok(bytes),
        _ => Err(DecodeError::new("expected bytes in hex, found another text")),
    }
}
