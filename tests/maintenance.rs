//! Tables stay fast to read beside their commits, and other programs' commits between them lose and double nothing.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::lake::{self, Follower, age, commits};
use crate::support::server::{Kind, POSTGRES, Server};
use crate::support::writer::Writer;
use crate::support::{Case, assert_error, finish, interpreter, on_every_source, python, succeed, text, wait_for};

on_every_source! {
    files_stay_few_while_rows_change
    a_lake_that_is_run_once_at_a_time_is_maintained_by_a_command
}

/// Live data files of the newest version.
fn files(case: &Case, table: &str) -> u64 {
    case.table_status(table).unwrap().files.unwrap()
}

fn compactions(case: &Case, table: &str) -> usize {
    lake::compactions(&case.table(table)).len()
}

/// What another program commits to a table.
fn other(case: &Case, table: &str, what: &str, arguments: &[&str]) -> u64 {
    let mut command = python("others.py");
    command.arg(what).arg(case.table(table)).args(arguments);
    succeed(&mut command).trim().parse().unwrap()
}

fn files_stay_few_while_rows_change(kind: Kind) {
    let mut case = Case::new(Server::shared(kind), "few_files");
    case.max_latency = "20ms";
    case.sql("CREATE TABLE t (id int PRIMARY KEY, v int, pad varchar(100))");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    // In every version, every row that is there has the round of its transaction.
    let follower = Follower::start(
        &case.table("t"),
        "select count(*) - sum(case when v >= 0 then 1 else 0 end) from t",
    );
    let writer = Writer::start(
        &case,
        400,
        &[
            "DELETE FROM t WHERE id = {k}; INSERT INTO t VALUES ({k}, {i}, 'some text that makes rows a little longer'); UPDATE t SET v = {i} WHERE id = 7",
        ],
    );
    wait_for("compactions", || (compactions(&case, "t") >= 5).then_some(()));
    sidecar.kill();
    let mut sidecar = case.start();
    wait_for("more compactions", || (compactions(&case, "t") >= 10).then_some(()));
    writer.stop();
    case.wait_until_current(&mut sidecar);
    let commits = commits(&case.table("t")).len();
    assert!(commits > 80, "only {commits} commits");
    wait_for("few files", || (files(&case, "t") < 40).then_some(()));
    sidecar.stop();
    for (version, all) in follower.finish() {
        assert!(all == json!([0]) || all == json!([null]), "version {version}: {all}");
    }
    case.compare(&["t"]);
    case.verify();
}

#[test]
fn kills_beside_compactions_lose_nothing() {
    let mut case = Case::new(Server::shared(POSTGRES), "compaction_kills");
    case.max_latency = "5ms";
    case.sql("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, 0 FROM generate_series(1, 5000) i");
    let writer = Writer::start(
        &case,
        5000,
        &[
            "UPDATE t SET v = {i} WHERE id % 500 = {k} % 500; DELETE FROM t WHERE id = {k}; INSERT INTO t VALUES ({k} + 10000, {i}) ON CONFLICT DO NOTHING",
        ],
    );
    let mut seen = 0;
    for life in 0..12 {
        let mut sidecar = case.start();
        let log = case.table("t").join("_delta_log");
        // Not always at the same place: just after a compaction, or some commits later.
        wait_for("a compaction", || {
            sidecar.assert_running();
            (log.exists() && compactions(&case, "t") > seen).then_some(())
        });
        let before = commits(&case.table("t")).len();
        wait_for("commits", || {
            (commits(&case.table("t")).len() >= before + life).then_some(())
        });
        sidecar.kill();
        seen = compactions(&case, "t");
    }
    writer.stop();
    case.catch_up();
    case.compare(&["t"]);
    case.verify();
}

fn content(folder: &Path) -> usize {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    names
        .filter(|path| path.extension().is_some_and(|e| e == "parquet" || e == "bin"))
        .count()
}

fn a_lake_that_is_run_once_at_a_time_is_maintained_by_a_command(kind: Kind) {
    let mut case = Case::new(Server::shared(kind), "maintain");
    case.sections = "[maintenance]\nenabled = false".to_owned();
    let maintain = |case: &Case| finish(case.command("maintain").arg("--json"));
    assert_error(&maintain(&case), &["there is no lake", "tributary run"]);
    case.sql("CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE u (id int PRIMARY KEY, v int)");
    for round in 0..12 {
        case.sql(&format!(
            "INSERT INTO t VALUES ({round}, 0), ({round} + 100, 0); UPDATE t SET v = v + 1 WHERE id % 2 = 0; INSERT INTO u VALUES ({round}, 0)"
        ));
        case.catch_up();
    }
    let before = files(&case, "t");
    let output = maintain(&case);
    assert!(output.status.success(), "{}", text(&output));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let of = |table: &str| {
        let name = case.qualified(table);
        let tables = said["tables"].as_array().unwrap().iter();
        tables.clone().find(|t| t["table"] == name.as_str()).unwrap().clone()
    };
    assert!(of("u")["files_compacted"].as_u64().unwrap() >= 8, "{said}");
    assert!(files(&case, "t") <= before && files(&case, "u") < 8, "{said}");
    case.compare(&["t", "u"]);
    // Nothing is old enough to go.
    assert_eq!(of("t")["files_removed"], 0, "{said}");
    case.sql("INSERT INTO t VALUES (1000, 0)");
    case.catch_up();
    // A hundred commits make a checkpoint, from which a trimmed log is read.
    let table = case.table("t");
    case.max_latency = "1ms";
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.change_until_checkpoint(|round| format!("INSERT INTO t VALUES (1000 + {round}, 0)"));
    case.wait_until_current(&mut sidecar);
    sidecar.stop();
    case.sql("UPDATE t SET v = -1");
    case.catch_up();
    age(&case.lake, Duration::from_secs(5 * 24 * 3600));
    case.sql("UPDATE t SET v = -2 WHERE id < 5");
    case.catch_up();
    let (files_before, entries_before) = (content(&table), commits(&table).len());
    let output = finish(&mut case.command("maintain"));
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains(&case.qualified("t")), "{}", text(&output));
    let (files_after, entries_after) = (content(&table), commits(&table).len());
    assert!(
        files_after < 12 && files_after < files_before,
        "{files_before} files became {files_after}"
    );
    assert!(
        entries_after < entries_before,
        "{entries_before} entries became {entries_after}"
    );
    case.compare(&["t", "u"]);
    case.sql("UPDATE t SET v = 9; DELETE FROM t WHERE id < 3");
    case.catch_up();
    case.compare(&["t", "u"]);
    case.verify();
}

#[test]
fn maintain_works_beside_a_running_sidecar() {
    let mut case = Case::new(Server::shared(POSTGRES), "maintain_beside");
    case.max_latency = "50ms";
    case.sections = "[maintenance]\nenabled = false".to_owned();
    case.sql("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, 0 FROM generate_series(1, 2000) i");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let writer = Writer::start(
        &case,
        2000,
        &[
            "UPDATE t SET v = {i} WHERE id = {k}; DELETE FROM t WHERE id = {k} + 1; INSERT INTO t VALUES (100000 + {i}, 0)",
        ],
    );
    for round in 1..=4 {
        let before = commits(&case.table("t")).len();
        wait_for("commits", || {
            (commits(&case.table("t")).len() >= before + 20).then_some(())
        });
        let output = finish(&mut case.command("maintain"));
        assert!(output.status.success(), "{}", text(&output));
        assert!(compactions(&case, "t") >= round, "{}", text(&output));
    }
    writer.stop();
    case.wait_until_current(&mut sidecar);
    sidecar.assert_running();
    assert!(sidecar.whole_log().contains("its change is taken over"));
    sidecar.stop();
    case.compare(&["t"]);
    case.verify();
}

#[test]
fn other_programs_commits_double_and_lose_nothing() {
    let mut case = Case::new(Server::shared(POSTGRES), "others");
    case.max_latency = "20ms";
    case.sql("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, 0 FROM generate_series(1, 1000) i");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let writer = Writer::start(
        &case,
        500,
        &["UPDATE t SET v = {i} WHERE id = {k}; UPDATE t SET id = id + 10000 WHERE id = {k} + 1"],
    );
    for round in 0..4 {
        other(&case, "t", "optimize", &[]);
        // Of keys that the table has: the source's rows stay.
        let row = format!("{{\"id\": {}, \"v\": -5}}", 600 + round);
        other(&case, "t", "append", &[&row, "{\"id\": 601, \"v\": -5}"]);
        other(&case, "t", "property", &["test.round=1"]);
    }
    writer.stop();
    case.sql("UPDATE t SET v = -1 WHERE id < 100");
    case.wait_until_current(&mut sidecar);
    case.compare(&["t"]);
    // While the sidecar is away.
    sidecar.stop();
    other(&case, "t", "optimize", &[]);
    other(&case, "t", "append", &["{\"id\": 700, \"v\": -5}"]);
    let mut sidecar = case.start();
    case.sql("UPDATE t SET v = -2 WHERE id < 200");
    case.wait_until_current(&mut sidecar);
    case.compare(&["t"]);
    // Rows that others delete are gone until they change at the source; `verify` finds them, a copy puts them right.
    other(&case, "t", "delete", &[]);
    other(&case, "t", "drop-file", &[]);
    other(&case, "t", "append", &["{\"id\": -1, \"v\": -5}"]);
    case.sql("UPDATE t SET v = -3 WHERE id = 300");
    case.wait_until_current(&mut sidecar);
    assert_eq!(
        case.query(
            "t",
            "select count(*) from (select id from t group by id having count(*) > 1)",
            None
        ),
        "[0]"
    );
    let found = finish(&mut case.command("verify"));
    assert_eq!(found.status.code(), Some(1), "{}", text(&found));
    let copied = finish(&mut case.snapshot(&["public.t"]));
    assert!(copied.status.success(), "{}", text(&copied));
    case.wait_until_current(&mut sidecar);
    sidecar.stop();
    case.compare(&["t"]);
    case.verify();
}

#[test]
fn a_feature_that_is_not_known_stops_the_table_with_a_hint() {
    let case = Case::new(Server::shared(POSTGRES), "unknown_feature");
    case.sql("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1)");
    case.catch_up();
    other(&case, "t", "unknown-feature", &["rowTracking"]);
    assert_error(&case.run_once(), &["rowTracking", "public"]);
}

#[test]
fn retention_below_an_hour_is_refused() {
    let mut case = Case::new(Server::shared(POSTGRES), "retention");
    case.sections = "[maintenance]\nretention = \"1s\"".to_owned();
    let output = finish(&mut case.command("check"));
    assert_error(&output, &["maintenance.retention", "1h"]);
}

#[test]
fn tables_without_deletion_vectors_are_for_readers_that_know_none() {
    let mut case = Case::new(Server::shared(POSTGRES), "copy_on_write");
    case.sections = "[[table]]\nmatch = \"public.t*\"\nmerge = \"copy-on-write\"".to_owned();
    case.sql(
        "CREATE TABLE t (id int PRIMARY KEY, v int, big text); CREATE TABLE other (id int PRIMARY KEY, v int);
         INSERT INTO t SELECT i, 0, repeat('x', 3000) || i FROM generate_series(1, 2000) i; INSERT INTO other VALUES (1, 1), (2, 2)",
    );
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    for round in 1..=12 {
        case.sql(&format!(
            "UPDATE t SET v = {round} WHERE id % 50 = {round}; DELETE FROM t WHERE id % 100 = {round}; INSERT INTO t VALUES (10000 + {round}, 0, 'new');
             UPDATE t SET id = id + 20000 WHERE id = 2000 - {round}; DELETE FROM other WHERE id = {round}"
        ));
        case.wait_until_current(&mut sidecar);
    }
    sidecar.kill();
    case.sql("UPDATE t SET v = -1 WHERE id < 100; TRUNCATE other");
    case.catch_up();
    case.compare(&["t", "other"]);
    case.verify();
    let has_vector = |action: &Value| action["add"]["deletionVector"].is_object();
    assert!(!commits(&case.table("t")).iter().flatten().any(has_vector));
    let protocol = commits(&case.table("t"))[0]
        .iter()
        .find_map(|a| a.get("protocol").cloned())
        .unwrap();
    assert_eq!(protocol["minReaderVersion"], 1, "{protocol}");
    // A reader that refuses deletion vectors.
    let script = "import os, sys, deltalake; print(len(deltalake.DeltaTable(sys.argv[1]).to_pyarrow_table()), flush=True); os._exit(0)";
    let rows = succeed(interpreter().args(["-c", script]).arg(case.table("t")));
    assert_eq!(rows.trim(), case.sql("SELECT count(*) FROM t").trim());
    case.sections.clear();
    assert_error(&case.run_once(), &["public.t", "copy-on-write", "copied anew"]);
}
