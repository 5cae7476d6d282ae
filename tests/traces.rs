//! Traces, as an OpenTelemetry collector takes them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use serde_json::Value;

use crate::support::lake::commits;
use crate::support::server::{POSTGRES, Server};
use crate::support::sidecar::Sidecar;
use crate::support::{Case, finish, python, serving, text, wait_for};

/// tests/python/collector.py
struct Collector {
    child: Child,
    endpoint: String,
    file: PathBuf,
}

impl Collector {
    fn start(folder: &Path) -> Self {
        let file = folder.join("spans");
        let (child, port) = serving(python("collector.py").arg(&file));
        let endpoint = format!("http://127.0.0.1:{port}");
        Collector { child, endpoint, file }
    }

    /// All spans that came.
    fn spans(&self) -> Vec<Value> {
        let lines = fs::read_to_string(&self.file).unwrap_or_default();
        let whole = lines.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn named(&self, name: &str) -> Vec<Value> {
        let mut spans = self.spans();
        spans.retain(|span| span["name"] == name);
        spans
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn traced(mut command: Command, endpoint: &str) -> Command {
    command
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .env("OTEL_BSP_SCHEDULE_DELAY", "100");
    command
}

#[test]
fn what_takes_time_is_told() {
    let case = Case::new(Server::shared(POSTGRES), "traces");
    let collector = Collector::start(&case.folder);
    case.sql(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'v' FROM generate_series(1, 1000) i",
    );
    let mut sidecar = Sidecar::start(
        traced(case.command("run"), &collector.endpoint),
        &case.folder.join("sidecar.log"),
    );
    case.wait_until_current(&mut sidecar);
    case.sql("UPDATE t SET v = 'w' WHERE id <= 10; DELETE FROM t WHERE id = 11");
    case.wait_until_current(&mut sidecar);
    let told = |span: &Value, key: &str| {
        span["attributes"][key]
            .as_i64()
            .unwrap_or_else(|| panic!("{key}: {span:#}"))
    };
    wait_for("the changes", || {
        sidecar.assert_running();
        let commits = collector.named("commit");
        (commits.iter().map(|span| told(span, "deletes")).sum::<i64>() == 1).then_some(())
    });
    // The log is as without.
    let log = sidecar.whole_log();
    assert!(log.contains(" INFO committed table=public.t "), "{log}");
    assert!(!log.contains("commit{"), "{log}");
    sidecar.stop();

    let start = collector.named("start");
    assert_eq!(start.len(), 1);
    assert_eq!(start[0]["resource"]["service.name"], "tributary");
    let chunks = collector.named("chunk");
    assert_eq!(chunks.iter().map(|span| told(span, "rows")).sum::<i64>(), 1000);
    // Each version of the table is a commit, and each commit has its parts.
    let spans = collector.spans();
    let commit_spans = collector.named("commit");
    let versions: BTreeSet<i64> = commit_spans.iter().map(|span| told(span, "version")).collect();
    let puts: BTreeSet<i64> = spans
        .iter()
        .filter(|span| span["name"] == "put")
        .map(|span| told(span, "version"))
        .collect();
    assert!(versions.is_subset(&puts), "{versions:?} {puts:?}");
    assert_eq!(puts.last().copied(), Some(commits(&case.table("t")).len() as i64 - 1));
    for commit in &commit_spans {
        assert_eq!(commit["attributes"]["table"], "public.t");
        assert_eq!(
            (&commit["status"], &commit["parent"]),
            (&"STATUS_CODE_UNSET".into(), &"".into())
        );
        let parts: BTreeSet<&str> = spans
            .iter()
            .filter(|span| span["trace"] == commit["trace"] && span["parent"] == commit["id"])
            .map(|span| span["name"].as_str().unwrap())
            .collect();
        assert_eq!(parts, BTreeSet::from(["put", "stage", "vectors"]), "{commit:#}");
    }
    case.compare(&[]);
}

#[test]
fn what_fails_is_told() {
    let mut case = Case::new(Server::shared(POSTGRES), "traces_fail");
    let collector = Collector::start(&case.folder);
    case.sql("CREATE TABLE t (id int PRIMARY KEY)");
    case.sections = "[[table]]\nmatch = '*.t'\npartition_by = ['value(nowhere)']".into();
    let output = finish(traced(case.command("run"), &collector.endpoint).arg("--once"));
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    // The end waits for it.
    let start = collector.named("start");
    assert_eq!(start.len(), 1);
    assert_eq!(start[0]["status"], "STATUS_CODE_ERROR");
    assert!(start[0]["message"].as_str().unwrap().contains("nowhere"), "{start:#?}");
}

#[test]
fn nothing_waits_for_traces() {
    let case = Case::new(Server::shared(POSTGRES), "traces_none");
    let collector = Collector::start(&case.folder);
    case.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    let said = |command: &mut Command| {
        let output = finish(command.arg("--once"));
        assert!(output.status.success(), "{}", text(&output));
        text(&output)
    };
    let once = |name: &str, value: &str| said(traced(case.command("run"), &collector.endpoint).env(name, value));
    for (name, value) in [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")] {
        once(name, value);
    }
    let other = once("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    assert!(
        other.contains("there are no traces") && other.contains("http/protobuf"),
        "{other}"
    );
    assert!(collector.spans().is_empty());
    let endpoint = collector.endpoint.clone();
    drop(collector);
    let out = said(&mut traced(case.command("run"), &endpoint));
    assert_eq!(out.matches("cannot send traces").count(), 1, "{out}");
    case.compare(&[]);
}
