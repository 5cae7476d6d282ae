//! What the lake's logs and `tributary status --json` say.

use std::fs;
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::position::Position;
use super::python;

/// `tributary status --json`.
pub struct Status {
    pub tables: Vec<TableStatus>,
    /// Up to where the source's log is needed no more.
    pub confirmed: Position,
    pub text: String,
}

pub struct TableStatus {
    pub table: String,
    pub state: String,
    pub watermark: Position,
    pub rows: Option<u64>,
    pub version: Option<u64>,
    pub files: Option<u64>,
    pub reason: String,
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
                    watermark: table["watermark"].as_str().map(Position::parse).unwrap_or_default(),
                    rows: table["rows"].as_u64(),
                    version: table["version"].as_u64(),
                    files: table["files"].as_u64(),
                    reason: table["reason"].as_str().unwrap_or_default().to_owned(),
                })
                .collect(),
            confirmed: json["source"]["confirmed"]
                .as_str()
                .map(Position::parse)
                .unwrap_or_default(),
            text: super::text(output),
        }
    }
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

/// Rows of all data files that commits bring, not those of files that only change their deletion vector or are compacted.
pub fn rows_written(commits: &[Vec<Value>]) -> u64 {
    let mut known = std::collections::HashSet::new();
    commits
        .iter()
        .flatten()
        .map(|action| &action["add"])
        .filter(|add| add["dataChange"] == true && known.insert(add["path"].to_string()))
        .map(|add| {
            serde_json::from_str::<Value>(add["stats"].as_str().unwrap()).unwrap()["numRecords"]
                .as_u64()
                .unwrap()
        })
        .sum()
}

/// The columns of a table's newest version that the source has; none while there is no table.
pub fn column_names(table: &Path) -> Vec<String> {
    let metadata = newest(table, "metaData").unwrap_or_default();
    let schema: Value = serde_json::from_str(metadata["schemaString"].as_str().unwrap_or("null")).unwrap();
    let fields = schema["fields"].as_array().into_iter().flatten();
    let names = fields.map(|field| field["name"].as_str().unwrap().to_owned());
    let derived = metadata["partitionColumns"].as_array().cloned().unwrap_or_default();
    names
        .filter(|name| !derived.contains(&Value::from(name.as_str())))
        .collect()
}

/// Readers need column mapping for the newest version.
pub fn is_mapped(table: &Path) -> bool {
    newest(table, "protocol").unwrap()["readerFeatures"]
        .as_array()
        .is_some_and(|features| features.iter().any(|feature| feature == "columnMapping"))
}

fn newest(table: &Path, action: &str) -> Option<Value> {
    let mut actions = commits(table).into_iter().rev().flatten();
    actions.find_map(|mut a| a.get_mut(action).map(Value::take))
}

/// The versions in which the whole content was replaced.
pub fn replacements(table: &Path) -> Vec<u64> {
    versions_of(table, "REPLACE")
}

/// The versions in which files were compacted.
pub fn compactions(table: &Path) -> Vec<u64> {
    versions_of(table, "OPTIMIZE")
}

fn versions_of(table: &Path, operation: &str) -> Vec<u64> {
    let is_one = |commit: &[Value]| {
        commit
            .iter()
            .any(|action| action["commitInfo"]["operation"] == operation)
    };
    (0..)
        .zip(commits(table))
        .filter(|(_, commit)| is_one(commit))
        .map(|(version, _)| version)
        .collect()
}

/// Makes every file of a lake seem older.
pub fn age(folder: &Path, by: Duration) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            age(&path, by);
        } else {
            let file = fs::File::options().write(true).open(&path).unwrap();
            let modified = file.metadata().unwrap().modified().unwrap_or(SystemTime::now());
            file.set_modified(modified - by).unwrap();
        }
    }
}

/// An outside reader that polls a table, version by version.
pub struct Follower {
    child: Child,
}

impl Follower {
    /// `sql` is over `t` and gives one row.
    pub fn start(table: &Path, sql: &str) -> Self {
        let child = python("lake.py")
            .arg("follow")
            .arg(table)
            .arg(sql)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Follower { child }
    }

    /// What it has seen in each version, the newest included.
    pub fn finish(mut self) -> Vec<(u64, Value)> {
        drop(self.child.stdin.take());
        let output = self.child.wait_with_output().unwrap();
        assert!(output.status.success(), "the reader failed: {}", super::text(&output));
        String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(|line| {
                let seen: Value = serde_json::from_str(line).unwrap();
                (seen[0].as_u64().unwrap(), seen[1][0].clone())
            })
            .collect()
    }
}
