//! Tables in partitions: every row is in the partition that it says itself, through kills, moves, renames and copies,
//! and readers open no more files than they have to.
//!
//! Every comparison makes the partition columns anew from the rows, for both outside readers.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::lake::{column_names, commits, is_mapped, replacements};
use crate::support::server::{Kind, MONGO, POSTGRES, Server};
use crate::support::writer::Writer;
use crate::support::{Case, assert_error, cache, finish, on_every_source, repository, succeed, wait_for};

on_every_source! {
    rows_stay_in_their_partitions_through_kills
    partitions_follow_renames_and_copies
    a_table_that_cannot_be_partitioned_any_more_is_kept
    what_cannot_be_partitioned_by_is_told
}

const PARTITIONS: &str = "
    [[table]]\nmatch = \"*.events\"\npartition_by = [\"date(made)\", \"value(region)\"]
    [[table]]\nmatch = \"*.hashed\"\npartition_by = [\"bucket(4, id)\", \"hour(zoned)\"]";

/// A source's types of timestamps without and with a zone.
fn stamps(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Postgres(_) => ("timestamp", "timestamptz"),
        _ => ("datetime(6)", "timestamp(6)"),
    }
}

/// A case with two tables in partitions, which have a row for each id from 1 on.
fn partitioned(kind: Kind, name: &str, rows: u32) -> Case<'static> {
    filled(Case::new(Server::shared(kind), name), rows)
}

fn filled(mut case: Case<'static>, rows: u32) -> Case<'static> {
    let kind = case.kind();
    case.sections = PARTITIONS.to_owned();
    let (stamp, zoned) = stamps(kind);
    for table in ["events", "hashed"] {
        case.sql(&format!(
            "CREATE TABLE {table} (made {stamp} NULL, id int PRIMARY KEY, zoned {zoned} NULL, region varchar(200), v int, note text)"
        ));
        case.sql(&insert(kind, table, 1, rows));
    }
    case
}

/// Days around 1970 and a leap day, some of them not there; and regions that are no good names for folders.
fn insert(kind: Kind, table: &str, from: u32, to: u32) -> String {
    let (stamp, zone, zoned) = match kind {
        Kind::Postgres(_) => ("timestamp", "+00", "timestamptz"),
        _ => ("datetime(6)", "", "datetime(6)"),
    };
    let long = "long ".repeat(20);
    format!(
        "INSERT INTO {table} SELECT CAST(CASE i % 5 WHEN 0 THEN NULL WHEN 1 THEN '2024-02-29 23:59:59.999999' WHEN 2 THEN '1969-12-31 23:30:00'
             WHEN 3 THEN '1970-01-01 00:00:00' ELSE '2024-03-01 00:00:00' END AS {stamp}), i,
         CAST(CASE i % 3 WHEN 0 THEN NULL WHEN 1 THEN '2001-02-03 04:59:59.5{zone}' ELSE '2001-02-03 05:00:00{zone}' END AS {zoned}),
         CASE i % 7 WHEN 0 THEN NULL WHEN 1 THEN '' WHEN 2 THEN '../../x' WHEN 3 THEN 'a b%2F=ü😀' WHEN 4 THEN '{long}' WHEN 5 THEN '__HIVE_DEFAULT_PARTITION__' ELSE 'DE' END,
         0, hash(i) FROM series({from}, {to})"
    )
}

/// The distinct partitions of a table's newest version.
fn partitions(table: &Path) -> BTreeSet<String> {
    let mut live = BTreeSet::new();
    for action in commits(table).iter().flatten() {
        if action["add"].is_object() {
            live.insert((
                action["add"]["path"].to_string(),
                action["add"]["partitionValues"].to_string(),
            ));
        }
    }
    live.into_iter().map(|(_, values)| values).collect()
}

/// Rows that change where they are, that move to another partition, that come and go, and that get another key.
const CHANGES: [&str; 5] = [
    "UPDATE events SET v = {i} WHERE id = {k} + 1; UPDATE hashed SET v = {i} WHERE id = {k} + 1",
    "UPDATE events SET region = CASE {i} % 3 WHEN 0 THEN NULL WHEN 1 THEN 'FR' ELSE 'DE' END WHERE id = {k} + 2",
    "UPDATE events SET made = CAST(CASE {i} % 3 WHEN 0 THEN NULL WHEN 1 THEN '2024-02-29 12:00:00' ELSE '2024-03-01 12:00:00' END AS {stamp}) WHERE id % 50 = {k} % 50",
    "DELETE FROM hashed WHERE id = {k} + 3; DELETE FROM events WHERE id = {k} + 3",
    "UPDATE hashed SET id = {i} + 100000 WHERE id = {k} + 4",
];

fn assert_equal(case: &Case) {
    case.compare(&[]);
    case.verify();
}

fn rows_stay_in_their_partitions_through_kills(kind: Kind) {
    let case = partitioned(kind, "partition_kills", 800);
    let changes = CHANGES.map(|sql| sql.replace("{stamp}", stamps(kind).0));
    let changes: Vec<&str> = changes.iter().map(String::as_str).collect();
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    assert_equal(&case);
    let events = case.table("events");
    assert!(partitions(&events).len() > 10, "{:?}", partitions(&events));

    let writer = Writer::paced(&case, 800, 10, &changes);
    for round in 0..5 {
        let before = commits(&events).len();
        wait_for("commits", || {
            sidecar.assert_running();
            (commits(&events).len() > before + 5).then_some(())
        });
        sidecar.kill();
        if round == 2 {
            fs::remove_dir_all(case.cache()).unwrap();
        }
        sidecar = case.start();
    }
    writer.stop();
    case.wait_until_current(&mut sidecar);
    assert_equal(&case);

    // New content has the same partitions.
    succeed(&mut case.snapshot(&[&case.qualified("events")]));
    case.wait_until_current(&mut sidecar);
    assert_eq!(replacements(&events).len(), 1);
    case.sql(&insert(kind, "events", 20_000, 20_100));
    case.wait_until_current(&mut sidecar);
    assert_equal(&case);
    sidecar.stop();
}

fn partitions_follow_renames_and_copies(kind: Kind) {
    let mut case = partitioned(kind, "partition_renames", 100);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let events = case.table("events");
    case.sql("ALTER TABLE events RENAME COLUMN made TO born");
    case.sql("UPDATE events SET born = NULL WHERE id < 20");
    case.wait_until_settled(&mut sidecar);
    assert!(is_mapped(&events));
    assert_equal(&case);
    sidecar.stop();
    let derived = |case: &Case| case.query("events", "select count(distinct made_date) from t", None);
    assert_eq!(derived(&case), "[4]");

    // Either name will do, no other; and what is there stays as it is.
    for (by, right) in [
        ("\"date(born)\", \"value(region)\"", true),
        ("\"date(made)\", \"value(region)\"", true),
        ("\"value(region)\", \"date(made)\"", false),
        ("\"date(zoned)\", \"value(region)\"", false),
    ] {
        case.sections = PARTITIONS.replace("\"date(made)\", \"value(region)\"", by);
        let name = case.qualified("events");
        if right {
            case.catch_up();
            continue;
        }
        for output in [case.run_once(), finish(&mut case.command("check"))] {
            assert_error(
                &output,
                &[
                    &format!("{name} was made with partition_by"),
                    "\"date(made)\"",
                    "set it back",
                ],
            );
        }
    }
    case.sections = PARTITIONS.to_owned();
    let mut sidecar = case.start();
    // The command would take one that does not stream yet for none.
    case.sql("UPDATE events SET v = 2 WHERE id > 90");
    case.wait_until_current(&mut sidecar);
    succeed(&mut case.snapshot(&[&case.qualified("events")]));
    case.sql("UPDATE events SET v = 1 WHERE id > 50");
    case.wait_until_current(&mut sidecar);
    assert_eq!(replacements(&events).len(), 1);
    assert_eq!(derived(&case), "[4]");
    assert_equal(&case);
    sidecar.stop();
}

fn a_table_that_cannot_be_partitioned_any_more_is_kept(kind: Kind) {
    let case = partitioned(kind, "partition_gone", 100);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.sql("ALTER TABLE events DROP COLUMN region");
    case.sql("UPDATE events SET v = 2");
    let status = case.wait_for_state(&mut sidecar, "events", "stalled");
    assert!(status.reason.contains("is gone: value(region)"), "{}", status.reason);
    assert_eq!(
        case.query("events", "select count(*) from t where v = 0", None),
        "[100]"
    );
    // A column of a partition column's name.
    case.sql("ALTER TABLE hashed ADD COLUMN ID_BUCKET int");
    case.sql("UPDATE hashed SET v = 2");
    let status = case.wait_for_state(&mut sidecar, "hashed", "stalled");
    assert!(
        status.reason.to_lowercase().contains("one of that name: \"id_bucket\""),
        "{}",
        status.reason
    );
    sidecar.stop();
    // So it is after a restart; the others go on meanwhile.
    case.sql("CREATE TABLE plain (id int PRIMARY KEY); INSERT INTO plain VALUES (1)");
    let mut sidecar = case.start();
    case.wait_for_state(&mut sidecar, "plain", "streaming");
    assert_eq!(case.table_status("events").map(|t| t.state), Some("stalled".to_owned()));

    case.sql("ALTER TABLE hashed DROP COLUMN ID_BUCKET");
    case.sql("ALTER TABLE events ADD COLUMN region varchar(200)");
    case.sql("UPDATE events SET region = 'back' WHERE id > 90");
    sidecar.reload();
    case.wait_for_state(&mut sidecar, "hashed", "streaming");
    case.wait_for_state(&mut sidecar, "events", "streaming");
    case.wait_until_current(&mut sidecar);
    assert_equal(&case);
    sidecar.stop();
}

fn what_cannot_be_partitioned_by_is_told(kind: Kind) {
    let mut case = partitioned(kind, "partition_misuse", 10);
    for (by, parts) in [
        (
            "date(maed)",
            [
                "partition_by has date(maed), but there is no column",
                "did you mean \"made\"?",
            ],
        ),
        (
            "hour(v)",
            ["the column \"v\" has the type integer", "hour() takes a timestamp"],
        ),
        (
            "day(made)",
            [
                "partition_by",
                "date(column), hour(column), bucket(N, column) or value(column)",
            ],
        ),
    ] {
        case.sections = format!("[[table]]\nmatch = \"*.events\"\npartition_by = {by:?}");
        for output in [finish(&mut case.command("check")), case.run_once()] {
            assert_error(&output, &parts);
        }
    }
    // A table that is there stays as it is.
    case.sections.clear();
    case.catch_up();
    case.sections = PARTITIONS.to_owned();
    for output in [finish(&mut case.command("check")), case.run_once()] {
        assert_error(&output, &["was made with partition_by = []", "set it back"]);
    }
    case.sections.clear();
    case.catch_up();
    // One that comes while the others are followed does not keep them from going on.
    case.sections = "[[table]]\nmatch = \"*.late*\"\npartition_by = \"date(made)\"\n".to_owned();
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.sql("CREATE TABLE late_wrong (id int PRIMARY KEY); CREATE TABLE late (id int PRIMARY KEY, made date)");
    case.sql("INSERT INTO late VALUES (1, '2024-02-29'), (2, NULL)");
    sidecar.reload();
    case.wait_for_state(&mut sidecar, "late", "streaming");
    sidecar.wait_for_log("a new table can't be replicated yet");
    assert!(!case.table("late_wrong").exists());
    case.sql("DROP TABLE late_wrong");
    case.wait_until_current(&mut sidecar);
    assert_equal(&case);
    assert_eq!(column_names(&case.table("late")), ["id", "made"]);
    sidecar.stop();
}

#[test]
fn readers_open_the_files_of_a_partition_alone() {
    let case = partitioned(POSTGRES, "partition_pruning", 700);
    case.catch_up();
    case.sql("UPDATE events SET v = 1 WHERE id % 3 = 0");
    case.sql("UPDATE hashed SET v = 1 WHERE id % 3 = 0");
    case.catch_up();
    let prune = |table: &str, column: &str, value: &str, more: &[&str]| -> Value {
        let mut command = Command::new(cache().join("readers/bin/python"));
        command.arg("-B").arg(repository().join("tests/python/pruning.py"));
        command.arg(case.table(table)).args([column, value]).args(more);
        serde_json::from_str(&succeed(&mut command)).unwrap()
    };
    for (table, column, value, share) in [
        ("events", "made_date", "1969-12-31", 5),
        ("events", "region_value", "DE", 4),
        ("hashed", "zoned_hour", "2001-02-03-04", 3),
        ("hashed", "id_bucket", "3", 4),
    ] {
        let bucket: &[&str] = match column {
            "id_bucket" => &["--bucket", "id_bucket", "id", "4"],
            _ => &[],
        };
        let found = prune(table, column, value, bucket);
        for reader in ["deltalake", "duckdb"] {
            let count = |n: usize| {
                found[reader][n]
                    .as_u64()
                    .unwrap_or_else(|| panic!("{reader}: {found:#}"))
            };
            let (opened, all) = (count(0), count(1));
            assert!(
                opened > 0 && opened * share <= all + share,
                "{column}: {reader} opens {opened} of {all}"
            );
        }
        if !bucket.is_empty() {
            assert_eq!(found["chdb"], serde_json::json!([700, 700]), "{found:#}");
        }
    }
}

/// Odd values are part of the objects' names.
#[test]
fn partitions_in_a_bucket_are_as_on_disk() {
    let case = filled(Case::in_bucket(Server::shared(POSTGRES), "partition_bucket"), 200);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    assert_equal(&case);
    for k in 1..20 {
        for sql in CHANGES {
            let sql = sql.replace("{stamp}", "timestamp");
            case.sql(&sql.replace("{i}", &k.to_string()).replace("{k}", &(k * 7).to_string()));
        }
    }
    case.wait_until_current(&mut sidecar);
    sidecar.stop();
    fs::remove_dir_all(case.cache()).unwrap();
    case.catch_up();
    assert_equal(&case);
}

/// Collections have partitions, too, by the columns of their sample.
#[test]
fn a_collection_is_partitioned_by_its_columns() {
    let mut case = Case::new(Server::shared(MONGO), "partition_mongo");
    case.sections = "[[table]]\nmatch = \"*.events\"\npartition_by = [\"date(made)\", \"bucket(4, _id)\"]".to_owned();
    case.mongo(
        "db.events.insert_many([{'_id': i, 'v': 0, **({} if i % 5 == 0 else {'made': datetime.datetime(2024, 2, 27 + i % 3)})} for i in range(300)])",
    );
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    case.mongo(
        "db.events.update_many({'_id': {'$lt': 100}}, {'$set': {'made': datetime.datetime(2024, 3, 1)}}); \
         db.events.update_many({'_id': {'$gt': 250}}, {'$unset': {'made': 1}}); db.events.delete_many({'v': 0, '_id': {'$gt': 280}}); \
         db.events.update_many({}, {'$set': {'later': 'x'}})",
    );
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    case.verify();
    assert!(partitions(&case.table("events")).len() > 12);
    // One that has no such column is told of, and the others go on.
    case.mongo("db.other.events.insert_one({'_id': 1})");
    sidecar.reload();
    sidecar.wait_for_log("a new table can't be replicated yet");
    case.mongo("db.events.update_many({}, {'$set': {'v': 7}}); db.other.events.drop()");
    sidecar.reload();
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();
    // Another configuration, and a new one that does not fit.
    case.sections = case.sections.replace("bucket(4, _id)", "bucket(5, _id)");
    assert_error(&case.run_once(), &["was made with partition_by", "bucket(4, _id)"]);
    case.sections = "[[table]]\nmatch = \"*.later\"\npartition_by = \"date(made)\"\n".to_owned()
        + &case.sections.replace("bucket(5, _id)", "bucket(4, _id)");
    case.mongo("db.later.insert_one({'_id': 1})");
    assert_error(
        &case.run_once(),
        &["later: partition_by has date(made), but there is no column"],
    );
}
