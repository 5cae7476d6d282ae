//! What the lake's logs and `tributary status --json` say.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;

/// `tributary status --json`.
pub struct Status {
    pub tables: Vec<TableStatus>,
    pub text: String,
}

pub struct TableStatus {
    pub table: String,
    pub state: String,
    pub watermark: u64,
    pub rows: Option<u64>,
}

impl Status {
    /// No tables while there is no lake.
    pub fn parse(output: &Output) -> Self {
        let json: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let tables = json["tables"].as_array().into_iter().flatten();
        Status {
            tables: tables
                .map(|table| TableStatus {
                    table: table["table"].as_str().unwrap_or_default().to_owned(),
                    state: table["state"].as_str().unwrap_or_default().to_owned(),
                    watermark: table["watermark"].as_str().map(parse_lsn).unwrap_or_default(),
                    rows: table["rows"].as_u64(),
                })
                .collect(),
            text: super::text(output),
        }
    }
}

pub fn parse_lsn(text: &str) -> u64 {
    let (high, low) = text.split_once('/').unwrap();
    u64::from_str_radix(high, 16).unwrap() << 32 | u64::from_str_radix(low, 16).unwrap()
}

/// The actions of every commit of a Delta table, in order.
pub fn commits(table: &Path) -> Vec<Vec<Value>> {
    let mut names: Vec<_> = fs::read_dir(table.join("_delta_log"))
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    names.sort();
    names
        .iter()
        .map(|path| {
            fs::read_to_string(path)
                .unwrap()
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect()
        })
        .collect()
}

/// Tributary's record in a commit, if there is one.
pub fn record(commit: &[Value]) -> Option<Value> {
    let domain = commit
        .iter()
        .map(|action| &action["domainMetadata"])
        .find(|d| d["domain"] == "tributary")?;
    serde_json::from_str(domain["configuration"].as_str()?).ok()
}

/// Rows of all data files that a commit brings, not those of files that only change their deletion vector.
pub fn rows_written(commits: &[Vec<Value>]) -> u64 {
    let mut known = std::collections::HashSet::new();
    commits
        .iter()
        .flatten()
        .map(|action| &action["add"])
        .filter(|add| add["path"].is_string() && known.insert(add["path"].to_string()))
        .map(|add| {
            serde_json::from_str::<Value>(add["stats"].as_str().unwrap()).unwrap()["numRecords"]
                .as_u64()
                .unwrap()
        })
        .sum()
}
