//! What `verify` found. Keys and columns are named, values never.

use std::collections::BTreeMap;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::schema::TableId;

/// Keys told for each kind of difference.
const KEYS_TOLD: usize = 20;

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub outcome: Outcome,
    pub tables: Vec<TableReport>,
}

impl Report {
    pub(super) fn of(tables: Vec<TableReport>) -> Self {
        let any = |outcome| tables.iter().any(|table| table.outcome == outcome);
        let outcome = if any(Outcome::Different) {
            Outcome::Different
        } else if any(Outcome::Unverified) {
            Outcome::Unverified
        } else {
            Outcome::Equal
        };
        Self { outcome, tables }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Equal,
    Different,
    /// Nothing different was found, but not all could be compared.
    Unverified,
}

/// What was found out about one table. Keys and columns are named, values never.
#[derive(Clone, Debug, Serialize)]
pub struct TableReport {
    pub table: String,
    pub outcome: Outcome,
    /// Why it could not be verified, or in what its columns differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<f64>,
    /// Rows compared. A row that moved meanwhile may count twice.
    pub rows: u64,
    /// Rows left out because they kept changing.
    pub in_flight: u64,
    /// At the source, not in the lake.
    pub missing: Keys,
    /// In the lake, not at the source; or twice in the lake.
    pub extra: Keys,
    pub different: Differences,
    /// The lake's version at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    pub elapsed_ms: u64,
}

/// All are counted, the first are named.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Keys {
    pub count: u64,
    pub keys: Vec<Map<String, Value>>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Differences {
    pub count: u64,
    /// Rows that differ, by column.
    pub columns: BTreeMap<String, u64>,
    pub keys: Vec<Difference>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    pub key: Map<String, Value>,
    pub columns: Vec<String>,
}

impl TableReport {
    pub(super) fn new(table: &TableId, sample: Option<f64>) -> Self {
        Self {
            table: table.to_string(),
            outcome: Outcome::Equal,
            reason: None,
            hint: None,
            sample,
            rows: 0,
            in_flight: 0,
            missing: Keys::default(),
            extra: Keys::default(),
            different: Differences::default(),
            version: None,
            elapsed_ms: 0,
        }
    }

    pub(super) fn unverified(mut self, reason: impl Into<String>, hint: Option<&str>) -> Self {
        self.outcome = Outcome::Unverified;
        self.reason = Some(reason.into());
        self.hint = hint.map(str::to_owned);
        self
    }

    pub fn differences(&self) -> u64 {
        self.missing.count + self.extra.count + self.different.count
    }
}

impl Keys {
    /// Counts a row of key columns, and names it if there is room.
    pub(super) fn add(&mut self, keys: &RecordBatch, row: usize) -> Result<()> {
        self.count += 1;
        if self.keys.len() < KEYS_TOLD {
            self.keys.push(readable(keys, row)?);
        }
        Ok(())
    }
}

impl Differences {
    pub(super) fn add(&mut self, keys: &RecordBatch, row: usize, columns: Vec<String>) -> Result<()> {
        self.count += 1;
        for column in &columns {
            *self.columns.entry(column.clone()).or_default() += 1;
        }
        if self.keys.len() < KEYS_TOLD {
            let key = readable(keys, row)?;
            self.keys.push(Difference { key, columns });
        }
        Ok(())
    }
}

/// A key as people read it: numbers as such, everything else as text.
fn readable(keys: &RecordBatch, row: usize) -> Result<Map<String, Value>> {
    let options = FormatOptions::default().with_null("NULL");
    let mut key = Map::new();
    for (field, column) in keys.schema_ref().fields().iter().zip(keys.columns()) {
        let formatter = ArrayFormatter::try_new(column.as_ref(), &options)
            .map_err(|e| Error::bug("a key has no text form").with_source(e))?;
        let text = formatter.value(row).to_string();
        let value = match column.data_type() {
            DataType::Int16 | DataType::Int32 | DataType::Int64 => text.parse::<i64>().map_or(Value::Null, Value::from),
            _ => Value::from(text),
        };
        key.insert(field.name().clone(), value);
    }
    Ok(key)
}
