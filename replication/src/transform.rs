//! Columns that the lake gets in another form than the source has them, or not
//! at all. Pure: configuration and rows in, rows out.
//!
//! What a column becomes depends on its name alone. A table's rows are
//! transformed where they leave the source's room (`source/transformed`), each
//! once: a batch's, a chunk's, and those read by key. Past that, nobody knows a
//! value that was there before.
//!
//! A hash is HMAC-SHA-256 in hex, of the UTF-8 bytes of a text, of the bytes of
//! a binary value, and of the text that [`integer`], [`decimal`], [`date`] and
//! [`timestamp`] write.
//!
//! Documents have fields in place of columns, and their source transforms them
//! itself, by the same [`Rules`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, RecordBatch, StringBuilder};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Int16Type, Int32Type, Int64Type, SchemaRef, TimeUnit,
    TimestampMicrosecondType,
};
use aws_lc_rs::hmac;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::batch::{ChangeBatch, UnchangedCell};
use crate::config::{Config, Mode, TableConfig};
use crate::error::{Error, Result};
use crate::lake::delta_type;
use crate::schema::{Column, LakeType, SourceType, TableId, TableSchema, civil};
use crate::source::{Refusal, glob};

/// Hex digits of a hash.
pub const HASH_DIGITS: usize = 64;
/// Hex digits by which a key is told from another one.
const FINGERPRINT_DIGITS: usize = 16;
/// What a row of the source takes at least, for guesses of how rows grow.
const ROW_BYTES_MIN: usize = 16;

/// What becomes of a column's values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Keep,
    /// The lake has no such column.
    Exclude,
    /// A keyed hash takes the place of each, but of NULL.
    Hash,
    /// This text takes the place of each, but of NULL.
    Mask(String),
}

impl TableConfig {
    /// What becomes of a column. Where several things are set, what tells least.
    pub fn action(&self, column: &str) -> Action {
        let name = column.to_lowercase();
        let matches = |pattern: &String| glob(&pattern.to_lowercase(), &name);
        let included = self
            .include
            .as_ref()
            .is_none_or(|patterns| patterns.iter().any(matches));
        if !included || self.exclude.iter().any(matches) {
            return Action::Exclude;
        }
        // The nearest pattern has the text: the name itself, or else the longest.
        let masks = self.mask.iter().filter(|(pattern, _)| matches(pattern));
        let nearest = masks.max_by_key(|(pattern, _)| (pattern.to_lowercase() == name, pattern.chars().count()));
        if let Some((_, text)) = nearest {
            return Action::Mask(text.clone());
        }
        match self.hash.iter().any(matches) {
            true => Action::Hash,
            false => Action::Keep,
        }
    }
}

/// What hashes are made with. Never shows.
pub struct HashKey {
    key: hmac::Key,
    /// Tells that it is another key.
    fingerprint: String,
}

impl HashKey {
    pub fn new(secret: &str) -> Self {
        let mut key = Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()),
            fingerprint: String::new(),
        };
        // Of a text that no source has as a value of its own.
        let mut digits = [0; HASH_DIGITS];
        key.fingerprint = key.hex(b"\0tributary: which key is this", &mut digits)[..FINGERPRINT_DIGITS].to_owned();
        key
    }

    /// The hash in lower-case hex digits.
    pub fn hex<'a>(&self, bytes: &[u8], digits: &'a mut [u8; HASH_DIGITS]) -> &'a str {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let hash = hmac::sign(&self.key, bytes);
        for (pair, byte) in digits.chunks_exact_mut(2).zip(hash.as_ref()) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 15)];
        }
        std::str::from_utf8(digits).unwrap_or_default()
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<key>")
    }
}

/// What is set for one table.
#[derive(Debug)]
pub struct Rules {
    config: TableConfig,
    key: Option<Arc<HashKey>>,
}

impl Rules {
    pub fn of(config: &Config, key: Option<Arc<HashKey>>, table: &TableId) -> Self {
        Self {
            config: config.table(table),
            key,
        }
    }

    /// What the lake keeps of the table.
    pub fn mode(&self) -> Mode {
        self.config.mode
    }

    /// Why content that was made by `form` is not what these make, if so.
    pub fn reason_to_copy(&self, form: &Form) -> Option<String> {
        let now = |column: &FormColumn| self.config.action(&column.name);
        let changed: Vec<&str> = form
            .columns
            .iter()
            .filter(|column| now(column) != column.action)
            .map(|column| column.name.as_str())
            .collect();
        if !changed.is_empty() {
            return Some(format!(
                "the configuration of its columns changed: {}",
                changed.join(", ")
            ));
        }
        self.other_key(form)
    }

    fn other_key(&self, form: &Form) -> Option<String> {
        let key = self.key.as_ref().map(|key| &key.fingerprint);
        (form.key.is_some() && form.key.as_ref() != key)
            .then(|| "its columns are hashed with another key (transform.key)".to_owned())
    }

    /// What becomes of a column, or of a document's field.
    pub fn action(&self, name: &str) -> Action {
        self.config.action(name)
    }

    /// The key of hashes, which is there if anything is hashed.
    pub fn key(&self) -> Option<&HashKey> {
        self.key.as_deref()
    }

    /// What documents become by these rules; `None` if they stay as they are.
    pub fn document_form(&self) -> Option<Form> {
        let fields = FieldRules::of(&self.config);
        (fields != FieldRules::default()).then(|| Form {
            key: self
                .key
                .as_ref()
                .filter(|_| !fields.hash.is_empty())
                .map(|key| key.fingerprint.clone()),
            columns: Vec::new(),
            fields: Some(fields),
        })
    }

    /// Why documents that were made by a form are not what these make, if so.
    /// Which fields there are nobody knows, so any other rule counts.
    pub fn reason_to_copy_documents(&self, before: Option<&Form>) -> Option<String> {
        let now = FieldRules::of(&self.config);
        let was = before.and_then(|form| form.fields.clone()).unwrap_or_default();
        let changed: Vec<&str> = [
            ("include", was.include != now.include),
            ("exclude", was.exclude != now.exclude),
            ("hash", was.hash != now.hash),
            ("mask", was.mask != now.mask),
        ]
        .into_iter()
        .filter_map(|(name, changed)| changed.then_some(name))
        .collect();
        match (changed.as_slice(), before) {
            ([], Some(before)) => self.other_key(before),
            ([], None) => None,
            _ => Some(format!(
                "the configuration of its fields changed: {}",
                changed.join(", ")
            )),
        }
    }

    /// Why a key column can't be what the rules make of it, if so.
    pub fn refuse_key(&self, table: &TableId, column: &str) -> Option<Refusal> {
        let what = match self.config.action(column) {
            Action::Keep => return None,
            Action::Exclude => "excluded",
            Action::Hash => "hashed",
            Action::Mask(_) => "masked",
        };
        Some(Refusal {
            table: table.clone(),
            reason: format!("can't be replicated: its column {column} is {what}, but is part of its key"),
            hint: "rows are found by their key, here and at the source: name it in no exclude, hash or mask, \
                   and in include where there is one"
                .to_owned(),
        })
    }
}

/// What is set for the fields of documents, in one form for the many ways to
/// write it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FieldRules {
    #[serde(skip_serializing_if = "Option::is_none")]
    include: Option<BTreeSet<String>>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    exclude: BTreeSet<String>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    hash: BTreeSet<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    mask: BTreeMap<String, String>,
}

impl FieldRules {
    fn of(config: &TableConfig) -> Self {
        let lower = |patterns: &[String]| patterns.iter().map(|pattern| pattern.to_lowercase()).collect();
        let all = |patterns: &BTreeSet<String>| patterns.contains("*");
        let masks = config.mask.iter();
        Self {
            include: config.include.as_deref().map(lower).filter(|include| !all(include)),
            exclude: lower(&config.exclude),
            hash: lower(&config.hash),
            mask: masks
                .map(|(pattern, text)| (pattern.to_lowercase(), text.clone()))
                .collect(),
        }
    }

    /// What is done, for people.
    pub fn summary(&self) -> String {
        let mut parts = Vec::new();
        let mut add = |what: &str, names: Vec<&str>| {
            if !names.is_empty() {
                parts.push(format!("{what} {}", names.join(", ")));
            }
        };
        add("only", self.include.iter().flatten().map(String::as_str).collect());
        add("without", self.exclude.iter().map(String::as_str).collect());
        add("hashed:", self.hash.iter().map(String::as_str).collect());
        add("masked:", self.mask.keys().map(String::as_str).collect());
        parts.join("; ")
    }
}

/// What a lake table's content was made by: the source's columns, also those
/// that the lake does not have, and what became of each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Form {
    /// The fingerprint of the key, where columns are hashed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub key: Option<String>,
    pub columns: Vec<FormColumn>,
    /// Of documents: the rules themselves, for nobody knows all fields.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fields: Option<FieldRules>,
}

/// A column of the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormColumn {
    pub attribute: i32,
    pub name: String,
    /// The type of its values before, as Delta's schema spells it.
    #[serde(rename = "type")]
    pub ty: Value,
    pub source: SourceType,
    pub action: Action,
}

impl Form {
    /// That of content with the columns as they are.
    pub fn plain(schema: &TableSchema) -> Self {
        let plain = |column: &Column| form_column((column, Action::Keep));
        Self {
            key: None,
            columns: schema.columns.iter().map(plain).collect(),
            fields: None,
        }
    }

    /// Whether values of a column of one content may stand in one of another: both
    /// are made in the same way. `names` are what the column is called in each.
    pub fn is_alike(forms: (Option<&Self>, Option<&Self>), names: (&str, &str)) -> bool {
        let (before, now) = forms;
        if before == now {
            return true;
        }
        let fields = |form: Option<&Self>| form.is_some_and(|form| form.fields.is_some());
        if fields(before) || fields(now) {
            return false;
        }
        let action = |form: Option<&Self>, name: &str| {
            let column = form.and_then(|form| form.columns.iter().find(|column| column.name == name));
            column.map_or(Action::Keep, |column| column.action.clone())
        };
        let key = |form: Option<&Self>| form.and_then(|form| form.key.clone());
        let (was, is) = (action(before, names.0), action(now, names.1));
        was == is && (was == Action::Keep || key(before) == key(now))
    }

    /// Whether columns of the same names became the same, whatever their numbers.
    pub fn is_like(&self, other: &Self) -> bool {
        let same = |(a, b): (&FormColumn, &FormColumn)| a.name == b.name && a.action == b.action;
        self.key == other.key
            && self.columns.len() == other.columns.len()
            && self.columns.iter().zip(&other.columns).all(same)
    }

    /// Why content of this form is not what another one makes of the same
    /// columns, if so.
    pub fn reason_to_copy(&self, now: &Self) -> Option<String> {
        let changed = |before: &&FormColumn| {
            let now = now.columns.iter().find(|column| column.attribute == before.attribute);
            now.is_some_and(|now| now.action != before.action)
        };
        let changed = self.columns.iter().find(changed)?;
        let name = now.columns.iter().find(|column| column.attribute == changed.attribute);
        Some(format!(
            "its column {:?} was renamed to {:?}, for which the configuration has something else",
            changed.name,
            name.map_or("", |column| &column.name)
        ))
    }
}

/// How the rows of a table are transformed.
#[derive(Debug)]
pub struct Transform {
    form: Form,
    /// The columns as the lake has them.
    schema: Arc<TableSchema>,
    arrow: SchemaRef,
    /// By column of the lake: its place at the source, and what becomes of it.
    columns: Vec<(usize, Action)>,
    /// By column of the source: its place in the lake, if it has one.
    places: Vec<Option<u16>>,
    key: Option<Arc<HashKey>>,
    /// How many times as large rows may become.
    growth: usize,
}

impl Transform {
    /// How the rules transform a table with these columns; `None` if they leave
    /// it as it is. Errors: they ask for what can't be done.
    pub fn of(table: &TableId, schema: &TableSchema, rules: &Rules) -> Result<Option<Self>, Refusal> {
        let actions: Vec<Action> = schema.columns.iter().map(|c| rules.config.action(&c.name)).collect();
        if actions.iter().all(|action| *action == Action::Keep) {
            return Ok(None);
        }
        let refused = |reason: String, hint: &str| Refusal {
            table: table.clone(),
            reason,
            hint: hint.to_owned(),
        };
        let mut columns = Vec::new();
        let mut places = Vec::with_capacity(actions.len());
        let mut kept = Vec::new();
        let (mut before, mut added) = (ROW_BYTES_MIN, 0);
        for (place, (column, action)) in schema.columns.iter().zip(&actions).enumerate() {
            let name = &column.name;
            if schema.key.contains(&place)
                && let Some(refusal) = rules.refuse_key(table, name)
            {
                return Err(refusal);
            }
            before += fixed_bytes(&column.ty);
            let ty = match action {
                Action::Exclude => {
                    places.push(None);
                    continue;
                }
                Action::Keep => column.ty.clone(),
                Action::Mask(text) => {
                    added += text.len();
                    LakeType::String
                }
                Action::Hash if !is_hashable(&column.ty) => {
                    return Err(refused(
                        format!("can't be replicated: its column {name} is to be hashed, and has no text of its own"),
                        "texts, integers, decimals, dates, timestamps and binary values are hashed; mask or exclude it",
                    ));
                }
                Action::Hash => {
                    added += HASH_DIGITS;
                    LakeType::String
                }
            };
            places.push(Some(columns.len() as u16));
            columns.push((place, action.clone()));
            kept.push(Column { ty, ..column.clone() });
        }
        let key = schema
            .key
            .iter()
            .filter_map(|place| (*places.get(*place)?).map(usize::from));
        let schema_now = TableSchema {
            key: key.collect(),
            columns: kept,
        };
        let hashes = actions.contains(&Action::Hash);
        let form = Form {
            key: rules.key.as_ref().filter(|_| hashes).map(|key| key.fingerprint.clone()),
            columns: schema.columns.iter().zip(actions).map(form_column).collect(),
            fields: None,
        };
        Ok(Some(Self {
            form,
            arrow: schema_now.arrow(),
            schema: Arc::new(schema_now),
            columns,
            places,
            key: rules.key.clone(),
            growth: 1 + added.div_ceil(before),
        }))
    }

    pub fn form(&self) -> &Form {
        &self.form
    }

    /// The table's columns in the lake.
    pub fn schema(&self) -> &Arc<TableSchema> {
        &self.schema
    }

    /// How many times as large rows may become.
    pub fn growth(&self) -> usize {
        self.growth
    }

    /// The attributes of the columns that the lake does not have.
    pub fn excluded(&self) -> impl Iterator<Item = i32> {
        let columns = self.form.columns.iter();
        columns
            .filter(|column| column.action == Action::Exclude)
            .map(|column| column.attribute)
    }

    /// What becomes of each column of the source.
    pub fn actions(&self) -> impl Iterator<Item = (&str, &Action)> {
        self.form
            .columns
            .iter()
            .map(|column| (column.name.as_str(), &column.action))
    }

    /// Changes with all columns of the source.
    pub fn changes(&self, mut batch: ChangeBatch) -> Result<ChangeBatch> {
        if let Some(commits) = &mut batch.commits {
            let earlier = std::mem::take(&mut commits.earlier).into_iter();
            commits.earlier = earlier.map(|batch| self.changes(batch)).collect::<Result<_>>()?;
        }
        if batch.patches.is_some() {
            return Err(Error::bug("patches of a table whose columns are transformed"));
        }
        let columns = self.columns.iter().map(|(place, action)| {
            let column = batch.rows.columns().get(*place);
            self.column(column.ok_or_else(other_columns)?, action)
        });
        let rows = RecordBatch::try_new(self.arrow.clone(), columns.collect::<Result<_>>()?);
        let cell = |cell: UnchangedCell| {
            let column = *self.places.get(usize::from(cell.column))?;
            Some(UnchangedCell {
                column: column?,
                ..cell
            })
        };
        Ok(ChangeBatch {
            rows: rows.map_err(|e| other_columns().with_source(e))?,
            unchanged: batch.unchanged.into_iter().filter_map(cell).collect(),
            ..batch
        })
    }

    /// Rows that were read without the columns that are excluded.
    pub fn rows(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        if rows.num_columns() != self.columns.len() {
            return Err(other_columns());
        }
        let columns = self.columns.iter().zip(rows.columns());
        let columns = columns.map(|((_, action), column)| self.column(column, action));
        let rows = RecordBatch::try_new(self.arrow.clone(), columns.collect::<Result<_>>()?);
        rows.map_err(|e| other_columns().with_source(e))
    }

    fn column(&self, column: &ArrayRef, action: &Action) -> Result<ArrayRef> {
        match action {
            Action::Keep => Ok(column.clone()),
            Action::Mask(text) => {
                let mut texts = Texts::new(column.len(), text.len())?;
                (0..column.len()).for_each(|row| texts.add(column.is_valid(row).then_some(text)));
                Ok(texts.finish())
            }
            Action::Hash => {
                let key = self.key.as_ref().ok_or_else(|| Error::bug("a hash without a key"))?;
                hashed(column, key)
            }
            Action::Exclude => Err(Error::bug("an excluded column was read")),
        }
    }
}

fn other_columns() -> Error {
    Error::bug("rows to be transformed have other columns than their table")
}

fn form_column((column, action): (&Column, Action)) -> FormColumn {
    FormColumn {
        attribute: column.attribute,
        name: column.name.clone(),
        ty: delta_type(&column.ty, None),
        source: column.source.clone(),
        action,
    }
}

/// What a value takes at least.
fn fixed_bytes(ty: &LakeType) -> usize {
    match ty {
        LakeType::Short => 2,
        LakeType::Integer | LakeType::Float | LakeType::Date => 4,
        LakeType::Long | LakeType::Double | LakeType::Timestamp | LakeType::TimestampNtz => 8,
        LakeType::Decimal { .. } => 16,
        _ => 1,
    }
}

/// Whether values have one text that everybody would write. Numbers with
/// exponents and nested values have several.
fn is_hashable(ty: &LakeType) -> bool {
    match ty {
        LakeType::Short
        | LakeType::Integer
        | LakeType::Long
        | LakeType::Decimal { .. }
        | LakeType::String
        | LakeType::Binary
        | LakeType::Date
        | LakeType::TimestampNtz
        | LakeType::Timestamp => true,
        // Two values are soon found out.
        LakeType::Boolean => false,
        LakeType::Float | LakeType::Double | LakeType::List(_) | LakeType::Struct(_) | LakeType::Map => false,
    }
}

/// A column of texts.
struct Texts(StringBuilder);

impl Texts {
    /// Errors: they would not fit one column of a batch.
    fn new(rows: usize, bytes: usize) -> Result<Self> {
        let all = rows.saturating_mul(bytes);
        if i32::try_from(all).is_err() {
            return Err(
                Error::operator("the hashes or masks of a batch are larger than 2 GiB").with_hint("lower apply.memory")
            );
        }
        Ok(Self(StringBuilder::with_capacity(rows, all)))
    }

    fn add(&mut self, text: Option<&str>) {
        self.0.append_option(text);
    }

    fn finish(mut self) -> ArrayRef {
        Arc::new(self.0.finish())
    }
}

fn hashed(column: &ArrayRef, key: &HashKey) -> Result<ArrayRef> {
    let mut texts = Texts::new(column.len(), HASH_DIGITS)?;
    let mut digits = [0; HASH_DIGITS];
    match column.data_type() {
        DataType::Utf8 => {
            for value in column.as_string::<i32>() {
                texts.add(value.map(|value| key.hex(value.as_bytes(), &mut digits)));
            }
        }
        DataType::Binary => {
            for value in column.as_binary::<i32>() {
                texts.add(value.map(|value| key.hex(value, &mut digits)));
            }
        }
        DataType::Int16 => hash_each::<Int16Type>(column, key, &mut texts, |v, out| integer(v.into(), out)),
        DataType::Int32 => hash_each::<Int32Type>(column, key, &mut texts, |v, out| integer(v.into(), out)),
        DataType::Int64 => hash_each::<Int64Type>(column, key, &mut texts, |v, out| integer(v.into(), out)),
        DataType::Decimal128(_, scale) => {
            let scale = usize::try_from(*scale).map_err(|e| Error::bug("a decimal's scale").with_source(e))?;
            hash_each::<Decimal128Type>(column, key, &mut texts, |v, out| decimal(v, scale, out));
        }
        DataType::Date32 => hash_each::<Date32Type>(column, key, &mut texts, |v, out| date(v.into(), out)),
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let zone = if zone.is_some() { "Z" } else { "" };
            hash_each::<TimestampMicrosecondType>(column, key, &mut texts, |v, out| {
                timestamp_of(v, zone, out);
            });
        }
        other => return Err(Error::bug(format!("{other} can't be hashed"))),
    }
    Ok(texts.finish())
}

/// Hashes the text of each value.
fn hash_each<T: ArrowPrimitiveType>(
    column: &ArrayRef,
    key: &HashKey,
    texts: &mut Texts,
    write: impl Fn(T::Native, &mut String),
) {
    let mut digits = [0; HASH_DIGITS];
    let mut text = String::new();
    for value in column.as_primitive::<T>() {
        let hash = value.map(|value| {
            text.clear();
            write(value, &mut text);
            key.hex(text.as_bytes(), &mut digits)
        });
        texts.add(hash);
    }
}

/// Decimal digits, with `-` in front of those below 0.
fn integer(value: i128, out: &mut String) {
    out.push_str(&value.to_string());
}

/// As [`integer`], with a point and as many digits after it as the column has;
/// none without such digits.
fn decimal(value: i128, scale: usize, out: &mut String) {
    let digits = format!("{:0>width$}", value.unsigned_abs(), width = scale + 1);
    if value < 0 {
        out.push('-');
    }
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    out.push_str(whole);
    if scale > 0 {
        out.push('.');
        out.push_str(fraction);
    }
}

/// `2024-02-29`. Years have four digits, or more; the year 0 is 1 BC.
/// Spec: ISO 8601, proleptic Gregorian.
fn date(days: i64, out: &mut String) {
    let (year, month, day) = civil(days);
    let sign = if year < 0 { "-" } else { "" };
    out.push_str(&format!("{sign}{:04}-{month:02}-{day:02}", year.unsigned_abs()));
}

/// As [`timestamp`], of microseconds since 1970.
fn timestamp_of(micros: i64, zone: &str, out: &mut String) {
    const SECOND: i64 = 1_000_000;
    timestamp(micros.div_euclid(SECOND), micros.rem_euclid(SECOND), zone, out);
}

/// `2024-02-29T12:00:00.000000`, with six digits always, and the zone; of
/// seconds since 1970, and microseconds.
pub fn timestamp(seconds: i64, micros: i64, zone: &str, out: &mut String) {
    const DAY: i64 = 86_400;
    date(seconds.div_euclid(DAY), out);
    let seconds = seconds.rem_euclid(DAY);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    out.push_str(&format!("T{hour:02}:{minute:02}:{second:02}.{micros:06}{zone}"));
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        BinaryArray, Date32Array, Decimal128Array, Int16Array, Int32Array, Int64Array, StringArray,
        TimestampMicrosecondArray,
    };

    use super::*;
    use crate::batch::Op;

    const SETTINGS: &str = "[source]\nurl = \"postgres://localhost/db\"\n[lake]\nurl = \"./lake\"\n\
                            [transform]\nkey = \"0123456789abcdef0123456789abcdef\"\n";

    fn rules_of(entries: &str, table: &str) -> Rules {
        let config = Config::parse(&format!("{SETTINGS}{entries}"), |_| None).expect("config");
        let key = config
            .transform
            .key
            .as_ref()
            .map(|key| Arc::new(HashKey::new(key.expose())));
        Rules::of(&config, key, &TableId::new("public", table))
    }

    fn rules(entry: &str) -> Rules {
        rules_of(&format!("[[table]]\nmatch = \"*\"\n{entry}"), "t")
    }

    fn schema(columns: &[(&str, LakeType)]) -> TableSchema {
        let column = |(place, (name, ty)): (usize, &(&str, LakeType))| Column {
            name: (*name).to_owned(),
            ty: ty.clone(),
            attribute: 10 + place as i32,
            source: SourceType::default(),
        };
        TableSchema {
            columns: columns.iter().enumerate().map(column).collect(),
            key: vec![1],
        }
    }

    fn people() -> TableSchema {
        schema(&[
            ("SSN", LakeType::String),
            ("id", LakeType::Long),
            ("email", LakeType::String),
            ("note", LakeType::Double),
            ("raw_a", LakeType::Binary),
            ("age", LakeType::Short),
        ])
    }

    fn transform(entry: &str) -> Result<Option<Transform>, Refusal> {
        Transform::of(&TableId::new("public", "t"), &people(), &rules(entry))
    }

    #[test]
    fn what_tells_least_wins() {
        for (entry, column, expected) in [
            ("", "c", Action::Keep),
            ("exclude = \"c*\"", "C1", Action::Exclude),
            ("exclude = [\"C\"]", "c", Action::Exclude),
            ("include = [\"a\", \"b*\"]", "b1", Action::Keep),
            ("include = [\"a\", \"b*\"]", "c", Action::Exclude),
            ("include = \"*\"\nexclude = \"c\"", "c", Action::Exclude),
            ("hash = \"?\"", "c", Action::Hash),
            ("hash = \"c\"\nmask = { c = \"\" }", "c", Action::Mask(String::new())),
            ("hash = \"c\"\nexclude = \"c\"\nmask = \"c\"", "c", Action::Exclude),
            ("mask = [\"c\"]", "c", Action::Mask("***".into())),
            (
                "mask = { \"*\" = \"all\", c = \"one\" }",
                "c",
                Action::Mask("one".into()),
            ),
            (
                "mask = { \"*\" = \"all\", \"c*\" = \"some\" }",
                "c1",
                Action::Mask("some".into()),
            ),
            (
                "mask = { \"*\" = \"all\", c = \"one\" }",
                "d",
                Action::Mask("all".into()),
            ),
        ] {
            assert_eq!(rules(entry).config.action(column), expected, "{entry}: {column}");
        }
    }

    #[test]
    fn each_key_is_as_the_last_entry_that_matches_has_it() {
        let entries = "[[table]]\nmatch = [\"public.*\", \"!public.free\"]\nexclude = [\"a\", \"b\"]\nhash = \"c\"\n\
                       [[table]]\nmatch = \"public.t?\"\nexclude = [\"d\"]\n\
                       [[table]]\nmatch = \"other.*\"\nexclude = []\nhash = []\n";
        let actions = |table: &str| {
            let rules = rules_of(entries, table);
            ["a", "c", "d"].map(|column| rules.config.action(column))
        };
        use Action::{Exclude, Hash, Keep};
        assert_eq!(actions("x"), [Exclude, Hash, Keep]);
        assert_eq!(actions("t1"), [Keep, Hash, Exclude]);
        assert_eq!(actions("free"), [Keep, Keep, Keep]);
    }

    /// RFC 4231, test cases 1 and 2.
    #[test]
    fn values_stand_in_for_others_that_were_made_alike() {
        let schema = schema(&[("email", LakeType::String), ("id", LakeType::Long)]);
        let form = |entry: &str| {
            let transform = Transform::of(&TableId::new("public", "t"), &schema, &rules(entry)).expect("a transform");
            transform.map(|transform| transform.form().clone())
        };
        let (plain, masked, hashed) = (form(""), form("mask = [\"email\"]"), form("hash = [\"email\"]"));
        let mut other_key = hashed.clone();
        if let Some(form) = &mut other_key {
            form.key = Some("another".to_owned());
        }
        let forms = [&plain, &masked, &hashed, &other_key];
        for (a, before) in forms.iter().enumerate() {
            for (b, now) in forms.iter().enumerate() {
                let pair = (before.as_ref(), now.as_ref());
                assert_eq!(Form::is_alike(pair, ("email", "email")), a == b, "{a} {b}");
                assert!(Form::is_alike(pair, ("id", "id")), "{a} {b}");
            }
        }
    }

    #[test]
    fn hashes_are_hmac_sha_256() {
        let mut digits = [0; HASH_DIGITS];
        let jefe = HashKey::new("Jefe");
        assert_eq!(
            jefe.hex(b"what do ya want for nothing?", &mut digits),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        let key = HashKey::new(&"\x0b".repeat(20));
        assert_eq!(
            key.hex(b"Hi There", &mut digits),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
        );
        assert_ne!(jefe.fingerprint, key.fingerprint);
        assert!(!format!("{jefe:?}").contains("Jefe"));
    }

    fn texts(column: ArrayRef) -> Vec<Option<String>> {
        let texts = column.as_string::<i32>().iter();
        texts.map(|text| text.map(str::to_owned)).collect()
    }

    #[test]
    fn each_type_is_hashed_by_its_text() {
        let key = HashKey::new("k");
        let timestamp = |micros| TimestampMicrosecondArray::from(vec![Some(micros), None]);
        let decimal = |value, scale| {
            Decimal128Array::from(vec![Some(value), None])
                .with_precision_and_scale(20, scale)
                .expect("decimal")
        };
        let columns: Vec<(ArrayRef, &[u8])> = vec![
            (Arc::new(StringArray::from(vec![Some("å b"), None])), "å b".as_bytes()),
            (Arc::new(StringArray::from(vec![Some(""), None])), b""),
            (Arc::new(BinaryArray::from(vec![Some(&b"\0\xff"[..]), None])), b"\0\xff"),
            (Arc::new(Int16Array::from(vec![Some(-7), None])), b"-7"),
            (Arc::new(Int32Array::from(vec![Some(0), None])), b"0"),
            (
                Arc::new(Int64Array::from(vec![Some(i64::MIN), None])),
                b"-9223372036854775808",
            ),
            (Arc::new(decimal(-5, 2)), b"-0.05"),
            (Arc::new(decimal(123_456, 3)), b"123.456"),
            (Arc::new(decimal(1200, 2)), b"12.00"),
            (Arc::new(decimal(12, 0)), b"12"),
            (Arc::new(Date32Array::from(vec![Some(0), None])), b"1970-01-01"),
            (Arc::new(Date32Array::from(vec![Some(19_782), None])), b"2024-02-29"),
            (Arc::new(Date32Array::from(vec![Some(-719_468), None])), b"0000-03-01"),
            (Arc::new(Date32Array::from(vec![Some(-719_529), None])), b"-0001-12-31"),
            (Arc::new(Date32Array::from(vec![Some(2_932_897), None])), b"10000-01-01"),
            (Arc::new(timestamp(-1)), b"1969-12-31T23:59:59.999999"),
            (Arc::new(timestamp(86_400_000_000)), b"1970-01-02T00:00:00.000000"),
            (
                Arc::new(timestamp(1).with_timezone("UTC")),
                b"1970-01-01T00:00:00.000001Z",
            ),
        ];
        let mut digits = [0; HASH_DIGITS];
        for (column, bytes) in columns {
            let expected = key.hex(bytes, &mut digits).to_owned();
            let text = String::from_utf8_lossy(bytes);
            assert_eq!(
                texts(hashed(&column, &key).expect("hashed")),
                [Some(expected), None],
                "{text}"
            );
        }
    }

    #[test]
    fn columns_and_unchanged_cells_are_those_of_the_lake() {
        let transform =
            transform("exclude = [\"ssn\", \"raw_*\"]\nhash = [\"email\", \"age\"]\nmask = { note = \"-\" }");
        let transform = transform.expect("rules").expect("transform");
        let schema = transform.schema();
        let columns: Vec<_> = schema
            .columns
            .iter()
            .map(|c| (c.name.as_str(), c.attribute, c.ty.clone()))
            .collect();
        assert_eq!(
            columns,
            [
                ("id", 11, LakeType::Long),
                ("email", 12, LakeType::String),
                ("note", 13, LakeType::String),
                ("age", 15, LakeType::String)
            ]
        );
        assert_eq!(schema.key, [0]);
        assert_eq!(transform.excluded().collect::<Vec<_>>(), [10, 14]);
        let rows = RecordBatch::try_new(
            people().arrow(),
            vec![
                Arc::new(StringArray::from(vec![None::<&str>, None])),
                Arc::new(Int64Array::from(vec![1, 2])),
                Arc::new(StringArray::from(vec![Some("a@b"), None])),
                Arc::new(arrow::array::Float64Array::from(vec![None, Some(0.5)])),
                Arc::new(BinaryArray::from(vec![None::<&[u8]>, None])),
                Arc::new(Int16Array::from(vec![Some(33), Some(44)])),
            ],
        )
        .expect("rows");
        let cell = |row, column| UnchangedCell { row, column };
        let batch = transform.changes(ChangeBatch {
            rows: rows.clone(),
            ops: vec![Op::Upsert, Op::Upsert],
            transactions: vec![1, 1],
            unchanged: vec![cell(0, 3), cell(0, 4), cell(1, 0), cell(1, 2)],
            truncated_by: None,
            patches: None,
            commits: None,
        });
        let batch = batch.expect("batch");
        assert_eq!(batch.rows.schema(), schema.arrow());
        assert_eq!(batch.unchanged, [cell(0, 2), cell(1, 1)]);
        assert_eq!(texts(batch.rows.column(2).clone()), [None, Some("-".into())]);
        let emails = texts(batch.rows.column(1).clone());
        assert_eq!((emails[0].as_ref().map(String::len), &emails[1]), (Some(64), &None));
        // Rows that are read have no excluded columns, and come out the same.
        let read = rows.project(&[1, 2, 3, 5]).expect("project");
        assert_eq!(transform.rows(&read).expect("rows"), batch.rows);
        assert!(transform.rows(&rows).is_err());
    }

    #[test]
    fn what_can_not_be_done_is_refused_by_name() {
        for (entry, reason) in [
            ("exclude = \"i*\"", "its column id is excluded, but is part of its key"),
            ("include = \"email\"", "its column id is excluded"),
            ("hash = \"id\"", "its column id is hashed"),
            ("mask = \"*\"", "its column id is masked"),
            ("hash = \"note\"", "its column note is to be hashed"),
        ] {
            let refusal = transform(entry).expect_err(entry);
            assert!(refusal.reason.contains(reason), "{entry}: {}", refusal.reason);
        }
        assert!(transform("exclude = \"nothing\"").expect("rules").is_none());
    }

    #[test]
    fn another_configuration_or_key_means_a_copy() {
        let form = |entry: &str| match transform(entry).expect("rules") {
            Some(transform) => transform.form().clone(),
            None => Form::plain(&people()),
        };
        let hashed = form("hash = \"email\"");
        for (entry, reason) in [
            ("hash = [\"e*\", \"nothing\"]", None),
            ("hash = \"email\"\nmask = \"age\"", Some("changed: age")),
            ("mask = \"email\"", Some("changed: email")),
            ("", Some("changed: email")),
        ] {
            let found = rules(entry).reason_to_copy(&hashed);
            assert_eq!(found.is_some(), reason.is_some(), "{entry}: {found:?}");
            assert!(
                found.unwrap_or_default().contains(reason.unwrap_or_default()),
                "{entry}"
            );
        }
        assert_eq!(rules("").reason_to_copy(&form("")), None);
        let other = Rules {
            key: Some(Arc::new(HashKey::new("another key"))),
            ..rules("hash = \"email\"")
        };
        assert!(other.reason_to_copy(&hashed).expect("reason").contains("another key"));
        let other = Rules {
            key: other.key,
            ..rules("")
        };
        assert_eq!(other.reason_to_copy(&form("")), None);
        // As recorded, and read again.
        let text = serde_json::to_string(&hashed).expect("json");
        assert_eq!(serde_json::from_str::<Form>(&text).expect("form"), hashed);
        // A column of another name.
        let mut renamed = form("");
        assert_eq!(form("").reason_to_copy(&renamed), None);
        renamed.columns[2].name = "mail".to_owned();
        assert!(hashed.reason_to_copy(&renamed).expect("reason").contains("\"mail\""));
    }
}
