//! The outside readers that README names see the same rows at every age of a table: as copied, with deletion vectors
//! and renamed columns, compacted, behind a checkpoint, and after a clean-up. What a reader can't do is told here by
//! name, and must be so still: README says it.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::lake::{age, compactions};
use crate::support::server::{POSTGRES, Server};
use crate::support::writer::Writer;
use crate::support::{Case, cache, finish, repository, succeed, text, wait_for};

/// Tables with their keys.
const TABLES: [(&str, &str); 8] = [
    ("kinds", "id"),
    ("by_int", "id"),
    ("by_text", "region,seq"),
    ("renamed", "id"),
    ("alike", "id"),
    ("parts", "id"),
    ("kept", "id"),
    ("told", "_sequence"),
];
const SMALL: [&str; 6] = ["kinds", "renamed", "alike", "parts", "kept", "told"];
const RENAMED: [&str; 2] = ["renamed", "alike"];
const ALIKE: [&str; 1] = ["alike"];
const KINDS: [&str; 1] = ["kinds"];
/// Those with files of several row groups.
const LARGE: [&str; 2] = ["by_int", "by_text"];
/// All but the one whose rows never go.
const MUTABLE: [&str; 7] = ["kinds", "by_int", "by_text", "renamed", "alike", "parts", "kept"];

/// Tables that tell their changes are read as any other.
const FED: &str =
    "[[table]]\nmatch = [\"public.kinds\", \"public.by_text\", \"public.alike\"]\nchange_data_feed = true\n";
/// What is deleted stays, or every change is a row.
const KEPT: &str = "[[table]]\nmatch = \"public.kept\"\nmode = \"soft-delete\"\n[[table]]\nmatch = \"public.told\"\nmode = \"history\"\n";

const DEFINITIONS: &str = "
    CREATE EXTENSION hstore;
    CREATE TYPE place AS (street text, number int);
    CREATE TABLE kinds (id int PRIMARY KEY, flag bool, small int2, large int8, single float4, double float8,
        price numeric(12,2), wide numeric(38,10), label text, raw bytea, uid uuid, day date, moment timestamp,
        instant timestamptz, doc jsonb, span interval, numbers int4[], words text[], address place, attributes hstore);
    INSERT INTO kinds SELECT i, i % 2 = 0, i - 100, i * 10000000000, i / 3.0, i / 7.0, i * 1.25,
        i * 12345678901234567.0123456789, 'ü😀 ' || i, decode(md5(i::text), 'hex'), md5(i::text)::uuid,
        date '1999-12-01' + i, timestamp '1999-12-31 23:00:00.123456' + i * interval '7 min',
        timestamptz '2024-03-31 00:30:00.654321+01' + i * interval '1 hour', jsonb_build_object('i', i, 'list', ARRAY[i, i + 1]),
        i * interval '1 day 3 min', ARRAY[i, NULL, -i], ARRAY['a,' || i, NULL, ''], ROW('street ' || i, i)::place,
        hstore('k' || i, 'v') FROM generate_series(1, 300) i;
    INSERT INTO kinds (id) VALUES (1000), (1001);
    INSERT INTO kinds VALUES (2000, false, -32768, -9223372036854775808, '-Infinity', '-0', -9999999999.99, 0, '', '', NULL,
        '1900-01-01', '1900-01-01', '1900-01-01 00:00+00', '{}', '0', '{}', '{}', ROW(NULL, NULL), '');
    CREATE TABLE by_int (id int PRIMARY KEY, v int NOT NULL, w int8, pad text);
    INSERT INTO by_int SELECT i, 0, nullif(i % 10, 0), (SELECT string_agg(md5(i::text || j), '') FROM generate_series(1, 24) j)
        FROM generate_series(1, 69000) i;
    CREATE TABLE by_text (region text, seq int, v int NOT NULL, w int8, pad text, PRIMARY KEY (region, seq));
    INSERT INTO by_text SELECT 'région ' || chr(97 + id % 5), id, v, w, pad FROM by_int;
    CREATE TABLE renamed (id int PRIMARY KEY, v int, plain text, address place);
    INSERT INTO renamed SELECT i, 0, 'row ' || i, ROW('street ' || i, i)::place FROM generate_series(1, 500) i;
    CREATE TABLE alike (id int PRIMARY KEY, v int, street text, address place);
    INSERT INTO alike SELECT i, 0, 'row ' || i, ROW('street ' || i, i)::place FROM generate_series(1, 500) i;
    CREATE TABLE parts (id int PRIMARY KEY, v int, made timestamp, region text, small int2, flag bool);
    INSERT INTO parts SELECT i, 0, timestamp '1969-12-31 23:30' + (i % 3) * interval '1 hour', CASE i % 2 WHEN 0 THEN 'région ../%' ELSE '__HIVE_DEFAULT_PARTITION__' END, i % 2 - 1, i % 2 = 0
        FROM generate_series(1, 497) i;
    INSERT INTO parts (id) VALUES (498), (499), (500);
    CREATE TABLE kept (id int PRIMARY KEY, v int, label text);
    INSERT INTO kept SELECT i, 0, 'row ' || i FROM generate_series(1, 500) i;
    CREATE TABLE told (id int PRIMARY KEY, v int, label text);
    INSERT INTO told SELECT * FROM kept;
";

/// In whose data files are no partition columns.
const PARTITIONED: &str = "
    [[table]]
    match = '*.parts'
    partition_by = ['date(made)', 'hour(made)', 'bucket(2, id)', 'value(region)', 'value(small)', 'value(flag)']";

/// When something is true of a table.
#[derive(Clone, Copy, PartialEq)]
enum When {
    Always,
    /// One of its files has a deletion vector.
    Vectors,
    /// A column was renamed.
    Mapped,
}

/// What readers get wrong: who, in which tables, when, what. A refusal has a word of its reason. All else is right.
const WRONG: [(&str, &[&str], When, &[&str]); 6] = [
    (
        "DeltaTable.to_pyarrow_table",
        &MUTABLE,
        When::Always,
        &["refuses: deletionVectors"],
    ),
    ("DeltaTable.count", &MUTABLE, When::Vectors, &["count()"]),
    ("Polars", &RENAMED, When::Mapped, &["refuses: columnMapping"]),
    ("chDB", &ALIKE, When::Mapped, &["refuses: Duplicate"]),
    ("chDB", &MUTABLE, When::Vectors, &["count(*)"]),
    // It has no NULL of these types.
    (
        "chDB",
        &KINDS,
        When::Always,
        &[
            "column numbers",
            "column words",
            "column address",
            "column attributes",
            "count(numbers)",
            "count(words)",
            "count(address)",
            "count(attributes)",
        ],
    ),
];

/// Every reader sees what the protocol reader sees in every table, but for what is known. Returns the tables of which
/// files have deletion vectors.
fn readers_agree(case: &Case, stage: &str) -> BTreeSet<String> {
    let mut command = Command::new(cache().join("readers/bin/python"));
    command.arg("-B").arg(repository().join("tests/python/readers.py"));
    for (table, key) in TABLES {
        command.arg(format!("{}={key}", case.table(table).display()));
    }
    let readme = fs::read_to_string(repository().join("README.md"))
        .unwrap()
        .replace('`', "");
    let (mut seen, mut with_vectors) = (0, BTreeSet::new());
    for line in succeed(&mut command).lines() {
        let verdict: Value = serde_json::from_str(line).unwrap();
        let said = |name: &str| verdict[name].as_str().unwrap();
        let (table, reader) = (said("table"), said("reader"));
        let is = |when| match when {
            When::Always => true,
            When::Vectors => verdict["vectors"] == true,
            When::Mapped => verdict["mapped"] == true,
        };
        let known = WRONG
            .iter()
            .filter(|(name, tables, when, _)| *name == reader && tables.contains(&table) && is(*when));
        let mut expected: BTreeSet<&str> = known.flat_map(|(_, _, _, what)| what.iter().copied()).collect();
        let reason = expected.iter().find_map(|what| what.strip_prefix("refuses: "));
        if let Some(reason) = reason {
            assert!(
                verdict["details"].to_string().contains(reason),
                "{stage}: {reader} reads {table}: {verdict:#}"
            );
            expected = BTreeSet::from(["refuses"]);
        }
        let wrong = verdict["wrong"].as_array().unwrap().iter();
        let wrong: BTreeSet<&str> = wrong.map(|what| what.as_str().unwrap()).collect();
        assert_eq!(wrong, expected, "{stage}: {reader} reads {table}: {verdict:#}");
        let release = format!("{} {}", said("program"), said("release"));
        assert!(readme.contains(&release), "README does not tell of {release}");
        if LARGE.contains(&table) {
            assert!(
                verdict["row_groups"].as_u64().unwrap() > 1,
                "{stage}: nothing to skip: {verdict:#}"
            );
        }
        if is(When::Vectors) {
            with_vectors.insert(table.to_owned());
        }
        seen += 1;
    }
    assert_eq!(seen, TABLES.len() * 6, "{stage}: readers are missing");
    with_vectors
}

/// Changes rows of all tables in one transaction. `{k}` is 300 at most: two thirds of the large tables' rows stay where
/// they are, however many rounds there are, so that files of several row groups remain.
const CHANGES: &str = "
    UPDATE kinds SET large = {i}, numbers = ARRAY[{i}] WHERE id = {k}; DELETE FROM kinds WHERE id = {k} + 1;
    INSERT INTO kinds (id, label, words, address) VALUES ({k} + 1, 'again', ARRAY['{i}'], ROW('new', {i})::place);
    UPDATE by_int SET v = {i} WHERE id % 900 = {k}; DELETE FROM by_int WHERE id % 9000 = {k};
    UPDATE by_text SET v = {i} WHERE seq % 900 = {k}; UPDATE by_text SET region = 'moved' WHERE seq % 9000 = {k};
    UPDATE renamed SET w = {i} WHERE id = {k}; DELETE FROM renamed WHERE id = {k} + 200;
    UPDATE alike SET w = {i} WHERE id = {k}; DELETE FROM alike WHERE id = {k} + 200;
    UPDATE parts SET v = {i}, made = timestamp '1969-12-31 23:30' + {i} % 2 * interval '1 hour' WHERE id = {k};
    DELETE FROM parts WHERE id = {k} + 200;
    UPDATE kept SET v = {i} WHERE id = {k} + 1; DELETE FROM kept WHERE id = {k} OR id = {k} + 200;
    INSERT INTO kept VALUES ({k}, {i}, 'again');
    UPDATE told SET v = {i} WHERE id = {k} + 1; DELETE FROM told WHERE id = {k} OR id = {k} + 200;
    INSERT INTO told VALUES ({k}, {i}, 'again')";

/// One round of [`CHANGES`].
fn change(case: &Case, i: u32, k: u32) {
    case.sql(&CHANGES.replace("{i}", &i.to_string()).replace("{k}", &k.to_string()));
}

fn all() -> BTreeSet<String> {
    MUTABLE.map(str::to_owned).into()
}

#[test]
fn every_reader_sees_the_same_rows_at_every_age_of_a_table() {
    let mut case = Case::new(Server::shared(POSTGRES), "readers");
    let maintained = format!("{PARTITIONED}\n{FED}{KEPT}");
    let left_alone = format!("[maintenance]\nenabled = false\n{maintained}");
    case.sections = left_alone.clone();
    case.max_latency = "1ms";
    case.sql(DEFINITIONS);
    case.catch_up();
    assert_eq!(readers_agree(&case, "copied"), BTreeSet::new());

    let mut sidecar = case.start();
    case.sql("ALTER TABLE renamed RENAME v TO w; ALTER TABLE alike RENAME v TO w");
    for round in 1..=5 {
        change(&case, round, round * 20);
        case.wait_until_current(&mut sidecar);
    }
    // A whole row group, too, and the ends of its neighbours: each has some 21,000 rows.
    case.sql(
        "DELETE FROM by_int WHERE id BETWEEN 15000 AND 43000; DELETE FROM by_text WHERE seq BETWEEN 15000 AND 43000",
    );
    case.wait_until_current(&mut sidecar);
    sidecar.stop();
    assert_eq!(readers_agree(&case, "with deletion vectors"), all());

    // More than a tenth of the large files is dead, and the writer makes many small ones.
    case.sections = maintained.clone();
    let mut sidecar = case.start();
    let writer = Writer::paced(&case, 300, 5, &[CHANGES]);
    wait_for("checkpoints and compactions", || {
        sidecar.assert_running();
        TABLES
            .iter()
            .all(|(t, _)| case.is_checkpointed(t) && !compactions(&case.table(t)).is_empty())
            .then_some(())
    });
    writer.stop();
    case.wait_until_current(&mut sidecar);
    sidecar.stop();
    // What these two change stays as it was committed.
    case.sections = left_alone.clone();
    change(&case, 9999, 7);
    case.catch_up();
    assert_eq!(readers_agree(&case, "compacted, behind a checkpoint"), all());
    case.compare(&SMALL);

    case.sections = maintained;
    // What is old enough by now goes, and the log's beginning with it.
    age(&case.lake, Duration::from_secs(5 * 24 * 3600));
    change(&case, 10000, 11);
    case.catch_up();
    let output = finish(case.command("maintain").arg("--json"));
    assert!(output.status.success(), "{}", text(&output));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["tables"].as_array().unwrap().len(), TABLES.len(), "{said:#}");
    for table in said["tables"].as_array().unwrap() {
        for removed in ["files_removed", "log_entries_removed"] {
            assert!(table[removed].as_u64().unwrap() > 0, "{table:#}");
        }
    }
    readers_agree(&case, "cleaned up");
    case.sections = left_alone;
    change(&case, 10001, 13);
    case.catch_up();
    assert_eq!(readers_agree(&case, "changed after a clean-up"), all());
    case.compare(&SMALL);
    case.verify();
}
