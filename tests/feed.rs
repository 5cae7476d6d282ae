//! The change data feed is the table's history: folded, it is the table, through kills and whatever changes.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::lake::{commits, replacements};
use crate::support::server::{Kind, POSTGRES, Server};
use crate::support::writer::Writer;
use crate::support::{Case, assert_error, finish, on_every_source, python, succeed, wait_for};

on_every_source! {
    a_feed_folds_to_its_table_through_kills
}

const FEED: &str = "[[table]]\nmatch = \"*\"\nchange_data_feed = true\n";

/// Folds the feeds of tables whose key is `id`; what each of them tells.
fn folded(case: &Case, tables: &[&str]) -> Vec<Value> {
    let mut command = python("feed.py");
    command.args(tables.iter().map(|table| format!("{}=id", case.table(table).display())));
    let said = succeed(&mut command);
    println!("{said}");
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What was told begins with the table, and `deltalake` reads it the same.
fn assert_whole(told: &Value) {
    assert_eq!(
        (&told["first"], &told["deltalake"]),
        (&json!(0), &json!("right")),
        "{told}"
    );
}

fn cdc_files(table: &Path) -> usize {
    let actions = commits(table);
    actions.iter().flatten().filter(|a| a["cdc"].is_object()).count()
}

fn a_feed_folds_to_its_table_through_kills(kind: Kind) {
    let mut case = Case::new(Server::shared(kind), "feed");
    case.max_latency = "20ms";
    let (rewritten, marked) = (case.qualified("rewritten"), case.qualified("marked"));
    case.sections = format!(
        "{FEED}[[table]]\nmatch = \"{rewritten}\"\nmerge = \"copy-on-write\"
         [[table]]\nmatch = \"{marked}\"\nmode = \"soft-delete\"\npartition_by = \"bucket(3, v)\""
    );
    case.sql(
        "CREATE TABLE t (id int PRIMARY KEY, v int, big text); CREATE TABLE rewritten (id int PRIMARY KEY, v int);
         CREATE TABLE emptied (id int PRIMARY KEY, v int); CREATE TABLE marked (id int PRIMARY KEY, v int);
         INSERT INTO marked SELECT i, 0 FROM series(1, 500);
         INSERT INTO t SELECT i, 0, hash(i) FROM series(1, 3000); INSERT INTO rewritten SELECT i, 0 FROM series(1, 500)",
    );
    let writer = Writer::start(
        &case,
        400,
        &[
            "DELETE FROM t WHERE id = {k}; INSERT INTO t VALUES ({k}, {i}, 'anew'); UPDATE t SET v = {i} WHERE id % 400 = {k} + 1",
            "DELETE FROM t WHERE id = {k} + 1000; UPDATE t SET id = 100000 + {i} WHERE id = {k} + 2000",
            "UPDATE rewritten SET v = {i} WHERE id = {k}; DELETE FROM rewritten WHERE id = {k} + 1",
            "DELETE FROM emptied WHERE id = {k}; INSERT INTO emptied VALUES ({k}, {i})",
            "DELETE FROM marked WHERE id = {k}; INSERT INTO marked VALUES ({k}, {i}); UPDATE marked SET v = {i} WHERE id = {k} + 1",
            "DELETE FROM marked WHERE id = {k} + 2; INSERT INTO marked VALUES (1000 + {i}, {k})",
        ],
    );
    for life in 0..6 {
        let mut sidecar = case.start();
        let told = || cdc_files(&case.table("t")) + cdc_files(&case.table("rewritten"));
        let marked = || {
            case.table("marked")
                .join("_delta_log")
                .exists()
                .then(|| cdc_files(&case.table("marked")))
        };
        // Once the log is there.
        wait_for("the tables", || {
            case.table("t").join("_delta_log").exists().then_some(())
        });
        let (before, marked_before) = (told(), marked().unwrap_or_default());
        wait_for("changes that are told", || {
            sidecar.assert_running();
            // A file for each of three partitions.
            (told() >= before + 4 + life && marked()? >= marked_before + 6).then_some(())
        });
        if life % 2 == 1 {
            case.sql("TRUNCATE TABLE emptied");
            case.sql("TRUNCATE TABLE marked");
        }
        sidecar.kill();
    }
    writer.stop();
    case.catch_up();
    let tables = ["t", "rewritten", "emptied", "marked"];
    case.compare(&tables);
    case.verify();
    for told in folded(&case, &tables) {
        assert_whole(&told);
        let least = match told["table"].as_str() {
            Some("emptied") => 1,
            Some("marked") => 8,
            _ => 20,
        };
        assert!(told["files"].as_u64() >= Some(least), "{told}");
        let mut kinds = vec!["insert", "update_preimage", "update_postimage"];
        // Rows that stay when they are deleted only change.
        kinds.extend((told["table"] != "marked").then_some("delete"));
        let missing = kinds
            .iter()
            .find(|kind| told["kinds"][**kind].as_u64().unwrap_or(0) == 0);
        assert!(missing.is_none(), "{missing:?} in {told}");
    }
}

#[test]
fn a_feed_is_turned_on_and_off_at_the_start() {
    let mut case = Case::new(Server::shared(POSTGRES), "feed_on_off");
    case.sql(
        "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, 0 FROM generate_series(1, 100) i;
         CREATE TABLE copied (id int PRIMARY KEY, v int); INSERT INTO copied SELECT id, v FROM t",
    );
    let change = |case: &Case, round: u32| {
        case.sql(&format!(
            "UPDATE t SET v = {round} WHERE id % 7 = {round}; DELETE FROM t WHERE id = 50 + {round}; INSERT INTO t VALUES (1000 + {round}, 0)"
        ));
        case.catch_up();
    };
    case.catch_up();
    change(&case, 1);
    assert_eq!(folded(&case, &["t"])[0]["folded"], 0);
    case.sections = FEED.to_owned();
    let first = commits(&case.table("t")).len();
    change(&case, 2);
    change(&case, 3);
    let told = folded(&case, &["t"]).remove(0);
    assert_eq!((&told["first"], &told["files"]), (&json!(first), &json!(2)), "{told}");
    assert_eq!(told["deltalake"], "right", "{told}");
    // New columns, and names.
    case.sql("ALTER TABLE t ADD w int; ALTER TABLE t RENAME v TO u; UPDATE t SET u = 9, w = 9 WHERE id = 5");
    case.catch_up();
    case.sql("UPDATE t SET w = 10 WHERE id < 10; DELETE FROM t WHERE id = 20; DELETE FROM copied WHERE id = 20");
    case.catch_up();
    folded(&case, &["t"]);
    // A new copy, with deletion vectors before and after.
    let copied = finish(&mut case.snapshot(&["public.t", "public.copied"]));
    assert!(copied.status.success());
    case.sql("UPDATE t SET w = 11 WHERE id < 10");
    case.catch_up();
    assert_eq!(replacements(&case.table("t")).len(), 1);
    let told = folded(&case, &["t"]).remove(0);
    assert!(told["kinds"]["delete"].as_u64() >= Some(90), "{told}");
    // One reader takes the dead rows of a file that goes.
    let told = folded(&case, &["copied"]).remove(0);
    let said = told["deltalake"].as_str().unwrap();
    assert!(said.starts_with("wrong in 1 versions, REPLACE"), "{told}");
    case.sections.clear();
    let before = cdc_files(&case.table("t"));
    case.sql("UPDATE t SET w = 12 WHERE id < 10");
    case.catch_up();
    assert_eq!(cdc_files(&case.table("t")), before);
    folded(&case, &["t"]);
    case.compare(&["t"]);
    case.verify();
}

#[test]
fn a_column_that_the_feeds_readers_have_is_refused() {
    let mut case = Case::new(Server::shared(POSTGRES), "feed_column");
    case.sql("CREATE TABLE t (id int PRIMARY KEY, _change_type text); INSERT INTO t VALUES (1, 'a')");
    case.sections = FEED.to_owned();
    assert_error(
        &finish(&mut case.command("check")),
        &["public.t", "_change_type", "exclude"],
    );
    assert_error(
        &case.run_once(),
        &["public.t", "_change_type", "change_data_feed = false"],
    );
    case.sections += "exclude = [\"_change_type\"]";
    case.catch_up();
    case.sql("UPDATE t SET _change_type = 'b'; INSERT INTO t VALUES (2, 'c')");
    case.catch_up();
    assert_whole(&folded(&case, &["t"])[0]);
}

#[test]
fn a_feed_in_a_bucket_is_as_one_on_disk() {
    let mut case = Case::in_bucket(Server::shared(POSTGRES), "feed_bucket");
    case.max_latency = "100ms";
    case.sections = FEED.to_owned();
    case.sql("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, 0 FROM generate_series(1, 1000) i");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let changes = "UPDATE t SET v = {i} WHERE id % 100 = {k} % 100; DELETE FROM t WHERE id = {k}; INSERT INTO t VALUES (10000 + {i}, 0)";
    let writer = Writer::start(&case, 1000, &[changes]);
    for _ in 0..2 {
        let before = cdc_files(&case.table("t"));
        wait_for("changes that are told", || {
            sidecar.assert_running();
            (cdc_files(&case.table("t")) >= before + 4).then_some(())
        });
        sidecar.kill();
        sidecar = case.start();
    }
    writer.stop();
    case.wait_until_current(&mut sidecar);
    sidecar.stop();
    case.compare(&["t"]);
    assert_whole(&folded(&case, &["t"])[0]);
}

#[test]
fn what_others_add_and_delete_is_told_once() {
    let mut case = Case::new(Server::shared(POSTGRES), "feed_others");
    case.max_latency = "20ms";
    case.sections = FEED.to_owned();
    case.sql("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, 0 FROM generate_series(1, 1000) i");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let other = |what: &str, arguments: &[&str]| {
        let mut command = python("others.py");
        succeed(command.arg(what).arg(case.table("t")).args(arguments));
    };
    let writer = Writer::start(
        &case,
        300,
        &["UPDATE t SET v = {i} WHERE id = {k}; DELETE FROM t WHERE id = 500 + {k}"],
    );
    for round in 0..3 {
        other("optimize", &[]);
        let row = format!("{{\"id\": {}, \"v\": -5}}", 400 + round);
        other("append", &[&row, "{\"id\": 7, \"v\": -5}"]);
        other("delete", &[]);
    }
    writer.stop();
    case.wait_until_current(&mut sidecar);
    sidecar.stop();
    let told = folded(&case, &["t"]).remove(0);
    assert!(told["files"].as_u64() >= Some(10), "{told}");
}
