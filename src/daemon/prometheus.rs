//! Metrics in Prometheus' text format: base units, counters end in `_total`.
//! Spec: <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::fmt::{Display, Write};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use replication::metrics::{Numbers, TableNumbers};
use replication::schema::TableId;

/// All states that a table can be in here.
const STATES: [&str; 8] = [
    "snapshotting",
    "catching_up",
    "streaming",
    "needs_snapshot",
    "resnapshotting",
    "stalled",
    "dropped",
    "excluded",
];

struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a text can't fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn value(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (number, (label, text)) in labels.iter().enumerate() {
            let start = if number == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{start}{label}=\"{}\"", escaped(text));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.head(name, kind, help);
        self.value(name, &[], value);
    }

    fn by_table<V: Display>(
        &mut self,
        numbers: &Numbers,
        (name, kind, help): (&str, &str, &str),
        value: impl Fn(&TableNumbers) -> Option<V>,
    ) {
        self.head(name, kind, help);
        for (id, table) in &numbers.tables {
            if let Some(value) = value(table) {
                self.value(name, &[("table", &id.to_string())], value);
            }
        }
    }
}

/// Since a time in microseconds since 1970.
fn seconds_since(micros: i64) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (now.as_secs_f64() - micros as f64 / 1e6).max(0.001)
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

pub fn render(numbers: &Numbers, started: Instant) -> String {
    let mut text = Text(String::new());
    text.head("tributary_build_info", "gauge", "The version that runs.");
    text.value("tributary_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    text.one(
        "tributary_uptime_seconds",
        "gauge",
        "Time since the start.",
        started.elapsed().as_secs(),
    );
    text.one(
        "tributary_streaming",
        "gauge",
        "Whether the stream of the source's log is there; it also is in a pause.",
        u8::from(numbers.streaming),
    );
    text.one(
        "tributary_paused_seconds",
        "gauge",
        "How long replication has been paused; 0 if it is not.",
        numbers.paused.map_or(0.0, seconds_since),
    );
    if let Some(bytes) = numbers.lag_bytes {
        text.one(
            "tributary_lag_bytes",
            "gauge",
            "Log that was read and is not durable in the lake for every table.",
            bytes,
        );
    }
    if let Some(budget) = &numbers.budget {
        text.one(
            "tributary_source_wal_budget_bytes",
            "gauge",
            "Log that the source may keep for this pipeline (source.wal_budget).",
            budget.budget,
        );
    }
    if let Some(bytes) = numbers.retained_bytes() {
        text.one(
            "tributary_source_retained_bytes",
            "gauge",
            "Log that the source keeps for this pipeline.",
            bytes,
        );
    }
    if let Some(at) = numbers.committed_at {
        text.one(
            "tributary_source_last_commit_timestamp_seconds",
            "gauge",
            "When the last transaction that was read was committed at the source.",
            at as f64 / 1e6,
        );
    }
    text.head("tributary_memory_bytes", "gauge", "Memory by what holds it.");
    let index: u64 = numbers.tables.values().map(|table| table.size.index_bytes).sum();
    for (pool, bytes) in [
        ("open", numbers.memory.open),
        ("in_flight", numbers.memory.in_flight),
        ("index", index),
    ] {
        text.value("tributary_memory_bytes", &[("pool", pool)], bytes);
    }
    text.one(
        "tributary_spilled_bytes",
        "gauge",
        "What large transactions that are open take on the local disk.",
        numbers.spilled_bytes,
    );
    text.head(
        "tributary_errors_total",
        "counter",
        "Interruptions since the start, by class.",
    );
    let errors = &numbers.errors;
    for (class, count) in [
        ("transient", errors.transient),
        ("operator", errors.operator),
        ("bug", errors.bug),
    ] {
        text.value("tributary_errors_total", &[("class", class)], count);
    }
    tables(&mut text, numbers);
    snapshots(&mut text, numbers);
    text.0
}

fn tables(text: &mut Text, numbers: &Numbers) {
    text.head("tributary_table_state", "gauge", "1 for the state that a table is in.");
    for (id, table) in &numbers.tables {
        for state in STATES {
            let labels = [("table", id.to_string()), ("state", state.to_owned())];
            let labels = labels.each_ref().map(|(label, text)| (*label, text.as_str()));
            text.value("tributary_table_state", &labels, u8::from(table.state == state));
        }
    }
    let gauge = "gauge";
    text.by_table(
        numbers,
        (
            "tributary_table_lag_seconds",
            gauge,
            "How long the oldest change has waited that was read and is not durable.",
        ),
        |table| Some(table.lag().as_secs_f64()),
    );
    text.by_table(
        numbers,
        (
            "tributary_table_lag_bytes",
            gauge,
            "Log since the oldest change that was read and is not durable.",
        ),
        |table| table.lag_bytes,
    );
    text.by_table(
        numbers,
        ("tributary_table_version", gauge, "The Delta version that readers see."),
        |table| table.version,
    );
    text.by_table(numbers, ("tributary_table_rows", gauge, "Live rows."), |table| {
        Some(table.size.rows)
    });
    text.by_table(numbers, ("tributary_table_files", gauge, "Live data files."), |table| {
        Some(table.size.files)
    });
    text.by_table(
        numbers,
        (
            "tributary_table_deletion_vectors",
            gauge,
            "Live data files with a deletion vector.",
        ),
        |table| Some(table.size.vectors),
    );
    text.by_table(
        numbers,
        (
            "tributary_table_index_bytes",
            gauge,
            "Memory of the key index and of vectors.",
        ),
        |table| Some(table.size.index_bytes),
    );
    let name = "tributary_table_rows_committed_total";
    text.head(name, "counter", "Rows committed since the start, by what they were.");
    for (id, table) in &numbers.tables {
        let id = id.to_string();
        for (op, rows) in [
            ("upsert", table.upserts),
            ("delete", table.deletes),
            ("snapshot", table.snapshot_rows),
        ] {
            text.value(name, &[("table", &id), ("op", op)], rows);
        }
    }
    let name = "tributary_table_commit_duration_seconds";
    text.head(name, "histogram", "How long commits took, staging included.");
    for (id, table) in &numbers.tables {
        let id = id.to_string();
        for (bound, count) in table.commits.cumulated() {
            let bound = if bound.is_finite() {
                bound.to_string()
            } else {
                "+Inf".to_owned()
            };
            text.value(&format!("{name}_bucket"), &[("table", &id), ("le", &bound)], count);
        }
        text.value(&format!("{name}_sum"), &[("table", &id)], table.commits.sum());
        text.value(&format!("{name}_count"), &[("table", &id)], table.commits.count());
    }
}

fn snapshots(text: &mut Text, numbers: &Numbers) {
    let mut each = |name: &str, help: &str, value: &dyn Fn(&replication::metrics::SnapshotNumbers) -> f64| {
        text.head(name, "gauge", help);
        for (id, snapshot) in &numbers.snapshots {
            let id: &TableId = id;
            text.value(name, &[("table", &id.to_string())], value(snapshot));
        }
    };
    each("tributary_snapshot_rows", "Rows copied so far.", &|s| s.rows as f64);
    each(
        "tributary_snapshot_done_ratio",
        "The share of the table that is copied.",
        &|s| s.share(),
    );
}

#[cfg(test)]
mod tests {
    use replication::metrics::TableSize;

    use super::*;

    #[test]
    fn names_of_tables_can_hold_anything() {
        let mut numbers = Numbers::default();
        let id = TableId::new("a\"b", "c\\d\ne");
        numbers.tables.insert(
            id,
            TableNumbers {
                size: TableSize {
                    rows: 7,
                    ..TableSize::default()
                },
                ..TableNumbers::default()
            },
        );
        let text = render(&numbers, Instant::now());
        let line = text.lines().find(|line| line.starts_with("tributary_table_rows{"));
        let line = line.expect("the table's rows");
        assert!(line.ends_with("\"} 7"), "{line}");
        for line in text.lines() {
            let quotes = line.replace("\\\\", "").replace("\\\"", "").matches('"').count();
            assert!(
                line.starts_with("# ") || line.starts_with("tributary_") && quotes % 2 == 0,
                "{line}"
            );
        }
    }
}
