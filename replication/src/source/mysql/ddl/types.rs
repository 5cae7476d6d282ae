//! Column types: as statements spell them, as information_schema does, and
//! which of two is only the wider one.

use std::fmt::Write as _;

use sqlparser::tokenizer::Token;

use super::lex::{self, Cursor};
use super::{Flavor, Session, mode};

/// A column type without its charset.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnType {
    /// In lower case, as information_schema calls it.
    pub base: String,
    /// Length, precision and scale, digits of a second, an integer's display
    /// width; if they are given or have a default.
    pub args: Vec<u32>,
    /// Of an enum or set.
    pub values: Vec<String>,
    pub unsigned: bool,
    pub zerofill: bool,
    /// MariaDB's COMPRESSED.
    pub compressed: bool,
}

/// What a type's words say of the column besides.
#[derive(Debug, Default)]
pub struct Implied {
    pub charset: Option<String>,
    /// SERIAL.
    pub serial: bool,
}

const INTEGERS: [(&str, u32); 5] = [
    ("tinyint", 8),
    ("smallint", 16),
    ("mediumint", 24),
    ("int", 32),
    ("bigint", 64),
];
const TEXTS: [(&str, u64); 4] = [
    ("tinytext", (1 << 8) - 1),
    ("text", (1 << 16) - 1),
    ("mediumtext", (1 << 24) - 1),
    ("longtext", (1 << 32) - 1),
];
const BLOBS: [(&str, u64); 4] = [
    ("tinyblob", (1 << 8) - 1),
    ("blob", (1 << 16) - 1),
    ("mediumblob", (1 << 24) - 1),
    ("longblob", (1 << 32) - 1),
];

impl ColumnType {
    pub fn of(base: &str, args: &[u32]) -> Self {
        Self {
            base: base.to_owned(),
            args: args.to_vec(),
            values: Vec::new(),
            unsigned: false,
            zerofill: false,
            compressed: false,
        }
    }

    /// Reads a COLUMN_TYPE text, or the type alone of a statement.
    pub fn parse(text: &str, session: &Session) -> Option<Self> {
        let (text, compressed) = match text.split_once("/*") {
            Some((text, mark)) if mark.contains("COMPRESSED") => (text, true),
            _ => (text, false),
        };
        // information_schema escapes the same way under any SQL mode.
        let session = Session {
            sql_mode: 0,
            ..*session
        };
        let (tokens, whole) = lex::tokens(text, &session);
        let mut cursor = Cursor::new(&tokens, &session);
        let (mut ty, implied) = Self::read(&mut cursor)?;
        let plain = implied.charset.is_none() && !implied.serial;
        ty.compressed |= compressed;
        (whole && plain && cursor.is_done()).then_some(ty)
    }

    /// Takes a type from a statement, with what belongs to it: UNSIGNED,
    /// ZEROFILL; charsets that are part of its name are told besides.
    pub fn read(cursor: &mut Cursor<'_>) -> Option<(Self, Implied)> {
        let mut implied = Implied::default();
        let flavor = cursor.session.flavor;
        let national = cursor.take_any(&["NATIONAL"]);
        if national {
            if !cursor.is_any(&["CHAR", "CHARACTER", "VARCHAR", "VARCHARACTER"]) {
                return None;
            }
            implied.charset = Some("utf8mb3".into());
        }
        let Some(Token::Word(word)) = cursor.peek().filter(|_| !cursor.is_done()) else {
            return None;
        };
        if word.quote_style.is_some() {
            return None;
        }
        cursor.bump();
        let word = word.value.to_ascii_lowercase();
        let mut ty = match word.as_str() {
            "bool" | "boolean" => Self::of("tinyint", &[1]),
            "tinyint" | "int1" => Self::integer("tinyint", cursor)?,
            "smallint" | "int2" => Self::integer("smallint", cursor)?,
            "mediumint" | "middleint" | "int3" => Self::integer("mediumint", cursor)?,
            "int" | "integer" | "int4" => Self::integer("int", cursor)?,
            "bigint" | "int8" => Self::integer("bigint", cursor)?,
            "serial" => {
                implied.serial = true;
                Self {
                    unsigned: true,
                    ..Self::of("bigint", &[])
                }
            }
            "decimal" | "dec" | "numeric" | "fixed" => {
                let args = numbers(cursor, 2)?;
                let precision = args.first().copied().filter(|p| *p > 0).unwrap_or(10);
                Self::of("decimal", &[precision, args.get(1).copied().unwrap_or(0)])
            }
            "float" => match *numbers(cursor, 2)? {
                [] | [0..=24] => Self::of("float", &[]),
                [_] => Self::of("double", &[]),
                [precision, scale, ..] => Self::of("float", &[precision, scale]),
            },
            "double" | "float8" => {
                cursor.take_any(&["PRECISION"]);
                Self::of("double", &numbers(cursor, 2)?)
            }
            "float4" => Self::of("float", &numbers(cursor, 2)?),
            "real" => {
                let base = if cursor.session.has(mode::REAL_AS_FLOAT) {
                    "float"
                } else {
                    "double"
                };
                Self::of(base, &numbers(cursor, 2)?)
            }
            "bit" => Self::of("bit", &length(cursor, 1)?),
            "year" => {
                numbers(cursor, 1)?;
                Self::of("year", &[])
            }
            "date" => Self::of("date", &[]),
            "time" | "datetime" | "timestamp" => {
                let mut digits = numbers(cursor, 1)?;
                digits.retain(|n| *n > 0);
                Self::of(&word, &digits)
            }
            "char" | "character" | "nchar" => {
                if word == "nchar" {
                    implied.charset = Some("utf8mb3".into());
                }
                let varying =
                    cursor.take_any(&["VARYING"]) || (word == "nchar" && cursor.take_any(&["VARCHAR", "VARCHARACTER"]));
                match varying {
                    true => Self::of("varchar", &given(cursor)?),
                    false => Self::of("char", &length(cursor, 1)?),
                }
            }
            "varchar" | "varcharacter" => Self::of("varchar", &given(cursor)?),
            "nvarchar" => {
                implied.charset = Some("utf8mb3".into());
                Self::of("varchar", &given(cursor)?)
            }
            "binary" => Self::of("binary", &length(cursor, 1)?),
            "varbinary" => Self::of("varbinary", &given(cursor)?),
            // Which of the family a length means depends on the charset.
            "text" | "blob" => Self::of(&word, &numbers(cursor, 1)?),
            "tinytext" | "mediumtext" | "longtext" | "tinyblob" | "mediumblob" | "longblob" => Self::of(&word, &[]),
            "long" => {
                if cursor.take_any(&["VARBINARY"]) {
                    Self::of("mediumblob", &[])
                } else {
                    let _ = cursor.take_any(&["VARCHAR", "VARCHARACTER"])
                        || cursor.take(&["CHAR", "VARYING"])
                        || cursor.take(&["CHARACTER", "VARYING"]);
                    Self::of("mediumtext", &[])
                }
            }
            "json" if flavor == Flavor::MariaDb => {
                implied.charset = Some("utf8mb4".into());
                Self::of("longtext", &[])
            }
            "json" => Self::of("json", &[]),
            "enum" | "set" => {
                let values = cursor.group()?.parts().into_iter().map(|mut part| {
                    let value = part.string().filter(|_| part.is_done());
                    // The server takes them off.
                    value.map(|v| v.trim_end_matches(' ').to_owned())
                });
                Self {
                    values: values.collect::<Option<_>>()?,
                    ..Self::of(&word, &[])
                }
            }
            "geometrycollection" | "geomcollection" => {
                let name = match flavor {
                    Flavor::MySql => "geomcollection",
                    Flavor::MariaDb => "geometrycollection",
                };
                Self::of(name, &[])
            }
            "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring" | "multipolygon" => {
                Self::of(&word, &[])
            }
            "vector" => Self::of("vector", &length(cursor, 2048)?),
            "uuid" | "inet4" | "inet6" if flavor == Flavor::MariaDb => Self::of(&word, &[]),
            _ => return None,
        };
        if national && ty.base == "varchar" {
            // NATIONAL CHAR VARYING, NATIONAL VARCHAR.
            implied.charset = Some("utf8mb3".into());
        }
        loop {
            if cursor.take_any(&["UNSIGNED"]) {
                ty.unsigned = true;
            } else if cursor.take_any(&["ZEROFILL"]) {
                ty.unsigned = true;
                ty.zerofill = true;
            } else if !cursor.take_any(&["SIGNED"]) {
                break;
            }
        }
        Some((ty, implied))
    }

    fn integer(base: &str, cursor: &mut Cursor<'_>) -> Option<Self> {
        Some(Self::of(base, &numbers(cursor, 1)?))
    }

    pub fn is_text(&self) -> bool {
        matches!(self.base.as_str(), "char" | "varchar" | "enum" | "set") || family(&TEXTS, &self.base).is_some()
    }

    /// What the column is with its charset: lengths of TEXT become types, and
    /// text in the charset `binary` is bytes.
    pub fn with_charset(mut self, charset: Option<&str>) -> Self {
        if let (Some(length), "text" | "blob") = (self.args.first().copied(), self.base.as_str()) {
            let (sizes, width) = match self.base.as_str() {
                "text" => (&TEXTS, charset.map_or(1, bytes_of_char)),
                _ => (&BLOBS, 1),
            };
            let bytes = u64::from(length) * width;
            let fits = sizes.iter().find(|(_, most)| length > 0 && bytes <= *most);
            self.base = fits.map_or_else(|| self.base.clone(), |(name, _)| (*name).to_owned());
            self.args.clear();
        }
        if charset == Some("binary") {
            let bytes = match self.base.as_str() {
                "char" => "binary",
                "varchar" => "varbinary",
                "tinytext" => "tinyblob",
                "text" => "blob",
                "mediumtext" => "mediumblob",
                "longtext" => "longblob",
                other => other,
            };
            self.base = bytes.to_owned();
        }
        self
    }

    /// The text of the type under another charset of more bytes a character:
    /// the server makes room for as many characters as before.
    pub fn widened(mut self, from: &str, to: &str) -> Self {
        let Some(place) = family(&TEXTS, &self.base) else {
            return self;
        };
        let grows = bytes_of_char(to) > bytes_of_char(from);
        if let Some((name, _)) = TEXTS.get(place + 1).filter(|_| grows) {
            self.base = (*name).to_owned();
        }
        self
    }

    /// Whether every value stays what it is, in the lake too, when a column of
    /// this type becomes one of the other. Both have the same charset.
    pub fn widens_to(&self, to: &Self, charset: Option<&str>, pads: bool) -> bool {
        if self.compressed != to.compressed {
            return false;
        }
        if self.same(to) {
            return true;
        }
        let (own, other) = (self.base.as_str(), to.base.as_str());
        let arg = |ty: &Self| ty.args.first().copied().unwrap_or(0);
        let longer = arg(self) <= arg(to);
        let width = charset.map_or(4, bytes_of_char);
        let bytes = u64::from(arg(self)) * width;
        let room = |sizes: &[(&str, u64)], name: &str| family(sizes, name).map(|place| sizes[place].1);
        match (own, other) {
            ("varchar", "varchar") | ("varbinary", "varbinary") => longer,
            // CHAR is read without its spaces and copied so, but in one mode.
            ("char", "char" | "varchar") => longer && !pads,
            ("char", _) if room(&TEXTS, other).is_some() => !pads && room(&TEXTS, other) >= Some(bytes),
            ("varchar", _) if room(&TEXTS, other).is_some() => room(&TEXTS, other) >= Some(bytes),
            ("binary", "varbinary") => longer,
            ("binary" | "varbinary", _) if room(&BLOBS, other).is_some() => {
                room(&BLOBS, other) >= Some(arg(self).into())
            }
            ("bit", "bit") => longer && arg(to) < 64,
            ("datetime", "datetime") | ("timestamp", "timestamp") => longer,
            // Beyond what a lake's decimal holds both are text.
            ("decimal", "decimal") => {
                let (own, other) = (&self.args, &to.args);
                let scale = |args: &[u32]| args.get(1).copied().unwrap_or(0);
                longer && arg(self) > 38 && scale(own) == scale(other) && (self.unsigned || !to.unsigned)
            }
            ("float", "float") | ("double", "double") => to.args.is_empty() && (self.unsigned || !to.unsigned),
            ("enum", "enum") | ("set", "set") => to.values.starts_with(&self.values),
            (_, "geometry") => is_geometry(own),
            _ if is_integer(own) && is_integer(other) => {
                let ((own_low, own_high), (low, high)) = (self.range(), to.range());
                low <= own_low && own_high <= high && self.lake_integer() == to.lake_integer()
            }
            _ => match (family(&TEXTS, own), family(&TEXTS, other)) {
                (Some(own), Some(other)) => own <= other,
                _ => match (family(&BLOBS, own), family(&BLOBS, other)) {
                    (Some(own), Some(other)) => own <= other,
                    _ => false,
                },
            },
        }
    }

    /// Whether both are one type, however they are displayed.
    pub fn same(&self, other: &Self) -> bool {
        let plain = |ty: &Self| {
            let mut ty = ty.clone();
            ty.zerofill = false;
            if is_integer(&ty.base) {
                ty.args.clear();
            }
            ty
        };
        plain(self) == plain(other)
    }

    fn bits(&self) -> u32 {
        INTEGERS
            .iter()
            .find(|(name, _)| *name == self.base)
            .map_or(0, |(_, bits)| *bits)
    }

    fn range(&self) -> (i128, i128) {
        let bits = self.bits();
        match self.unsigned {
            true => (0, (1i128 << bits) - 1),
            false => (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1),
        }
    }

    /// Integers of one lake type have the same number here.
    fn lake_integer(&self) -> u8 {
        match (self.bits(), self.unsigned) {
            (8, _) | (16, false) => 16,
            (16, true) | (24, _) | (32, false) => 32,
            (32, true) | (64, false) => 64,
            _ => 128,
        }
    }

    /// As information_schema's COLUMN_TYPE has it on this server.
    pub fn display(&self, session: &Session) -> String {
        let mut out = self.base.clone();
        let widths = session.flavor == Flavor::MariaDb || session.version < 80_019;
        if is_integer(&self.base) {
            let boolean = self.base == "tinyint" && self.args == [1] && !self.unsigned;
            let width = (widths || self.zerofill || boolean).then(|| self.display_width());
            if let Some(width) = width {
                let _ = write!(out, "({width})");
            }
        } else if self.base == "year" {
            out.push_str(if widths { "(4)" } else { "" });
        } else if !self.args.is_empty() {
            let args: Vec<String> = self.args.iter().map(u32::to_string).collect();
            let _ = write!(out, "({})", args.join(","));
        } else if matches!(self.base.as_str(), "enum" | "set") {
            let values: Vec<String> = self.values.iter().map(|v| quoted(v)).collect();
            let _ = write!(out, "({})", values.join(","));
        }
        if self.unsigned {
            out.push_str(" unsigned");
        }
        if self.zerofill {
            out.push_str(" zerofill");
        }
        if self.compressed {
            out.push_str(" /*M!100301 COMPRESSED*/");
        }
        out
    }

    fn display_width(&self) -> u32 {
        if let Some(width) = self.args.first() {
            return *width;
        }
        match (self.base.as_str(), self.unsigned) {
            ("tinyint", false) => 4,
            ("tinyint", true) => 3,
            ("smallint", false) => 6,
            ("smallint", true) => 5,
            ("mediumint", false) => 9,
            ("mediumint", true) => 8,
            ("int", false) => 11,
            ("int", true) => 10,
            _ => 20,
        }
    }
}

/// A value as COLUMN_TYPE has it.
fn quoted(value: &str) -> String {
    let mut out = String::from("'");
    for ch in value.chars() {
        match ch {
            '\0' => out.push_str("\\0"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\\' => out.push_str("\\\\"),
            '\'' => out.push_str("''"),
            other => out.push(other),
        }
    }
    out.push('\'');
    out
}

fn family(sizes: &[(&str, u64)], name: &str) -> Option<usize> {
    sizes.iter().position(|(own, _)| *own == name)
}

fn is_integer(base: &str) -> bool {
    INTEGERS.iter().any(|(name, _)| *name == base)
}

fn is_geometry(base: &str) -> bool {
    let single = [
        "point",
        "linestring",
        "polygon",
        "multipoint",
        "multilinestring",
        "multipolygon",
    ];
    single.contains(&base) || ["geometry", "geomcollection", "geometrycollection"].contains(&base)
}

/// The most bytes that a character takes.
pub fn bytes_of_char(charset: &str) -> u64 {
    match charset {
        "utf8mb4" | "utf16" | "utf16le" | "utf32" | "gb18030" => 4,
        "utf8mb3" | "eucjpms" | "ujis" => 3,
        "ucs2" | "gbk" | "gb2312" | "big5" | "sjis" | "cp932" | "euckr" => 2,
        _ => 1,
    }
}

/// The numbers in parentheses, if there are parentheses: at most so many.
fn numbers(cursor: &mut Cursor<'_>, most: usize) -> Option<Vec<u32>> {
    let Some(group) = cursor.group() else {
        return Some(Vec::new());
    };
    let parts = group.parts();
    let one = |mut part: Cursor<'_>| part.number().filter(|_| part.is_done());
    let numbers: Vec<u32> = parts.into_iter().map(one).collect::<Option<_>>()?;
    (numbers.len() <= most).then_some(numbers)
}

fn length(cursor: &mut Cursor<'_>, default: u32) -> Option<Vec<u32>> {
    let mut numbers = numbers(cursor, 1)?;
    if numbers.is_empty() {
        numbers.push(default);
    }
    Some(numbers)
}

/// A length that has to be there.
fn given(cursor: &mut Cursor<'_>) -> Option<Vec<u32>> {
    numbers(cursor, 1).filter(|numbers| numbers.len() == 1)
}

/// What information_schema calls a charset.
pub fn charset_name(name: &str) -> String {
    match name.to_ascii_lowercase().as_str() {
        "utf8" => "utf8mb3".to_owned(),
        other => other.to_owned(),
    }
}

/// The charset of a collation, if its name tells.
pub fn collation_charset(name: &str) -> Option<String> {
    let name = name.to_ascii_lowercase();
    match name.split_once('_') {
        // MariaDB's of any Unicode charset.
        Some(("uca1400", _)) => None,
        Some((charset, _)) => Some(charset_name(charset)),
        None if name == "binary" => Some(name),
        None => None,
    }
}
