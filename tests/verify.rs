//! `tributary verify`: equal is told as equal while both sides change, and every wrong bit is found.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::server::{Kind, Server};
use crate::support::writer::Writer;
use crate::support::{Case, finish, on_every_source, python, succeed, text};

on_every_source! {
    a_right_lake_is_equal_with_a_sidecar_and_without
    a_lake_is_equal_while_everything_changes
    one_wrong_bit_one_missing_row_and_one_extra_row_are_found
    every_type_is_compared_by_value
    a_sample_is_a_part_of_the_table
    without_a_sidecar_late_and_wrong_can_not_be_told_apart
    what_is_not_whole_is_not_verified_and_the_others_are
    the_load_on_the_source_is_limited
    many_wrong_rows_are_counted_in_full
    a_table_that_is_copied_anew_meanwhile_is_compared_again
}

/// `tributary verify --json …`: the exit code and what it says.
fn verify(case: &Case, arguments: &[&str]) -> (Option<i32>, Value) {
    let output = finish(case.command("verify").arg("--json").args(arguments));
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output)));
    (output.status.code(), report)
}

fn plain(case: &Case, arguments: &[&str]) -> Output {
    finish(case.command("verify").args(arguments))
}

fn tamper(table: &Path, arguments: &[&str]) -> String {
    succeed(python("tamper.py").arg(table).args(arguments))
}

/// A table of the case's own schema.
fn table_of<'a>(case: &Case, report: &'a Value, name: &str) -> &'a Value {
    table(report, &case.qualified(name))
}

fn table<'a>(report: &'a Value, name: &str) -> &'a Value {
    let tables = report["tables"].as_array().unwrap();
    tables
        .iter()
        .find(|table| table["table"] == name)
        .unwrap_or_else(|| panic!("no {name} in {report}"))
}

fn assert_equal(case: &Case, arguments: &[&str]) -> Value {
    let (code, report) = verify(case, arguments);
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!(report["outcome"], "equal", "{report:#}");
    report
}

fn shop(kind: Kind) -> String {
    let odd = format!("'{}'", ODD.replace('\'', "''"));
    // Only MySQL's backslash escapes.
    let odd = if kind.has_slot() {
        odd
    } else {
        odd.replace('\\', "\\\\")
    };
    format!(
        "CREATE TABLE orders (id bigint PRIMARY KEY, n int, price numeric(10,2), f float8, note text);
         INSERT INTO orders SELECT i, i % 7, i / 100.0, i / 3.0, CASE WHEN i % 5 > 0 THEN concat('note ', i) ELSE '' END FROM series(1, 20000);
         CREATE TABLE items (region varchar(30), no int, name text, PRIMARY KEY (no, region));
         INSERT INTO items SELECT r, i, hash(i) FROM series(1, 3000) CROSS JOIN (SELECT 'eu' AS r UNION ALL SELECT 'us' UNION ALL SELECT {odd}) AS regions"
    )
}

/// A key that no quoting may spoil.
const ODD: &str = r#"it's, "q" \ é"#;

fn a_right_lake_is_equal_with_a_sidecar_and_without(kind: Kind) {
    let case = Case::new(Server::shared(kind), "verify_equal");
    case.sql(&shop(kind));
    case.sql("CREATE TABLE nothing (id int PRIMARY KEY)");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let report = assert_equal(&case, &[]);
    assert_eq!(table_of(&case, &report, "orders")["rows"], 20_000);
    assert_eq!(table_of(&case, &report, "items")["rows"], 9_000);
    assert_eq!(table_of(&case, &report, "nothing")["rows"], 0);

    case.sql("UPDATE orders SET n = n + 1, note = NULL WHERE id % 3 = 0; DELETE FROM orders WHERE id % 10 = 1; UPDATE orders SET id = -id WHERE id % 11 = 0;
              UPDATE items SET name = '' WHERE no < 100; DELETE FROM items WHERE region = 'us' AND no > 2000; TRUNCATE nothing");
    // What is on its way is waited for.
    let report = assert_equal(&case, &[]);
    assert_eq!(table_of(&case, &report, "orders")["in_flight"], 0);
    case.wait_until_current(&mut sidecar);
    sidecar.stop();
    let report = assert_equal(&case, &[&case.qualified("orders"), &case.qualified("i*")]);
    assert_eq!(table_of(&case, &report, "orders")["rows"], 18_000);
    assert_eq!(table_of(&case, &report, "items")["rows"], 8_000);
    assert_eq!(report["tables"].as_array().unwrap().len(), 2);
    let said = text(&plain(&case, &[]));
    let line = format!("{}   equal       18,000 rows compared", case.qualified("orders"));
    assert!(said.contains(&line), "{said}");
}

fn a_lake_is_equal_while_everything_changes(kind: Kind) {
    let case = Case::new(Server::shared(kind), "verify_busy");
    case.sql("CREATE TABLE moving (id int PRIMARY KEY, n int NOT NULL, big text, pad text)");
    if kind.has_slot() {
        case.sql("ALTER TABLE moving ALTER big SET STORAGE EXTERNAL");
    }
    case.sql(
        "INSERT INTO moving SELECT i, 0, CASE WHEN i % 50 = 0 THEN repeat(hash(i), 100) END, repeat(hash(i), 2) FROM series(1, 200000);
         CREATE TABLE hot (id int PRIMARY KEY, n int); INSERT INTO hot VALUES (1, 0), (2, 0); CREATE TABLE queue (id int PRIMARY KEY, n int)",
    );
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let writer = Writer::paced(
        &case,
        190_000,
        1,
        &[
            "UPDATE moving SET n = n + 1 WHERE id BETWEEN {k} AND {k} + 20;
             UPDATE moving SET n = n + 1 WHERE id % 50 = 0 AND id BETWEEN {k} + 1000 AND {k} + 1200;
             DELETE FROM moving WHERE id BETWEEN {k} + 300 AND {k} + 310;
             UPDATE hot SET n = n + 1 WHERE id = 1; INSERT INTO queue SELECT i, {i} FROM series(1, 20)",
            "INSERT INTO moving SELECT {k} + 300 + i, -{i}, NULL, 'again' FROM series(0, 5);
             DELETE FROM moving WHERE id BETWEEN -({k} + 510) AND -({k} + 500);
             UPDATE moving SET id = -id, n = n + 1 WHERE id BETWEEN {k} + 500 AND {k} + 510;
             INSERT INTO moving VALUES (1000000 + {i}, 0, repeat('x', 3000), 'new'); DELETE FROM queue",
        ],
    );
    for _ in 0..5 {
        let done: u32 = case.sql("SELECT max(id) FROM moving").parse().unwrap();
        let report = assert_equal(&case, &[]);
        assert!(
            table_of(&case, &report, "moving")["rows"].as_u64() > Some(190_000),
            "{report:#}"
        );
        let now: u32 = case.sql("SELECT max(id) FROM moving").parse().unwrap();
        assert!(now > done, "nothing changed meanwhile");
    }
    writer.stop();
    let report = assert_equal(&case, &[]);
    assert_eq!(table_of(&case, &report, "hot")["in_flight"], 0);
    sidecar.stop();
    case.compare(&[]);
}

fn one_wrong_bit_one_missing_row_and_one_extra_row_are_found(kind: Kind) {
    let case = Case::new(Server::shared(kind), "verify_wrong");
    case.sql(&shop(kind));
    case.sql("CREATE TABLE fine (id int PRIMARY KEY); INSERT INTO fine VALUES (1)");
    case.catch_up();
    case.sql("UPDATE orders SET n = n + 1 WHERE id % 100 = 0; UPDATE items SET name = 'x' WHERE no = 7");
    case.catch_up();
    let (orders, items) = (case.table("orders"), case.table("items"));
    tamper(&orders, &["flip", r#"{"id": 4711}"#, "price"]);
    tamper(&orders, &["flip", r#"{"id": 4700}"#, "f"]);
    tamper(&orders, &["drop", r#"{"id": 13}"#]);
    tamper(&orders, &["add", r#"{"id": 1}"#, r#"{"id": 20001}"#]);
    tamper(&items, &["flip", &json!({"region": ODD, "no": 8}).to_string(), "name"]);
    tamper(
        &items,
        &[
            "drop",
            r#"{"region": "eu", "no": 7}"#,
            r#"{"region": "us", "no": 2999}"#,
        ],
    );
    // The same key twice, with the same values.
    tamper(&items, &["add", r#"{"region": "us", "no": 1}"#, "{}"]);

    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let (code, report) = verify(&case, &[]);
    assert_eq!(code, Some(1), "{report:#}");
    assert_eq!(report["outcome"], "different");
    let orders = table_of(&case, &report, "orders");
    assert_eq!(orders["outcome"], "different");
    assert_eq!(orders["missing"], json!({"count": 1, "keys": [{"id": 13}]}));
    assert_eq!(orders["extra"], json!({"count": 1, "keys": [{"id": 20001}]}));
    let different = json!({"count": 2, "columns": {"f": 1, "price": 1},
        "keys": [{"key": {"id": 4700}, "columns": ["f"]}, {"key": {"id": 4711}, "columns": ["price"]}]});
    assert_eq!(sorted(&orders["different"]), sorted(&different));
    assert_eq!((&orders["rows"], &orders["in_flight"]), (&json!(20_001), &json!(0)));
    let items = table_of(&case, &report, "items");
    // Key columns are in the order of the key.
    assert_eq!(
        sorted(&items["missing"]),
        sorted(&json!({"count": 2, "keys": [{"no": 7, "region": "eu"}, {"no": 2999, "region": "us"}]}))
    );
    assert_eq!(items["extra"], json!({"count": 1, "keys": [{"no": 1, "region": "us"}]}));
    assert_eq!(
        items["different"]["keys"],
        json!([{"key": {"no": 8, "region": ODD}, "columns": ["name"]}])
    );
    assert_eq!(table_of(&case, &report, "fine")["outcome"], "equal");

    let output = plain(&case, &[&case.qualified("*")]);
    assert_eq!(output.status.code(), Some(1));
    let [orders, fine] = ["orders", "fine"].map(|table| case.qualified(table));
    let (orders, fine) = (
        format!("{orders}  DIFFERENT   20,001 rows compared, 1 missing, 1 extra, 2 different"),
        format!("{fine}    equal       1 rows compared"),
    );
    for line in [
        orders.as_str(),
        "missing in the lake: id=13",
        "extra in the lake: id=20001",
        "different: id=4711 in price",
        "different: no=8, region=\"it's, \\\"q\\\" \\\\ é\" in name",
        &fine,
    ] {
        assert!(text(&output).contains(line), "no {line:?} in {}", text(&output));
    }
    assert!(!text(&output).contains("47.11"), "values are not printed");
    sidecar.stop();
}

/// With lists in an order of their own.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Array(items) => {
            let mut items: Vec<Value> = items.iter().map(sorted).collect();
            items.sort_by_key(ToString::to_string);
            items.into()
        }
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), sorted(value)))
            .collect(),
        other => other.clone(),
    }
}

fn every_type_is_compared_by_value(kind: Kind) {
    let case = Case::new(Server::shared(kind), "verify_types");
    case.types("snapshot");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.types("stream");
    case.wait_until_current(&mut sidecar);
    assert_equal(&case, &[]);
    sidecar.stop();

    let columns: Value = serde_json::from_str(&tamper(&case.table("types_snapshot"), &["flip-all"])).unwrap();
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let (code, report) = verify(&case, &[]);
    assert_eq!(code, Some(1), "{report:#}");
    let found = &table_of(&case, &report, "types_snapshot")["different"]["columns"];
    let missed: Vec<&Value> = columns
        .as_array()
        .unwrap()
        .iter()
        .filter(|column| found[column.as_str().unwrap()].is_null())
        .collect();
    assert!(missed.is_empty(), "{missed:?} are wrong and not in {found:#}");
    assert!(columns.as_array().unwrap().len() > 80, "{columns}");
    assert_eq!(table_of(&case, &report, "types_stream")["outcome"], "equal");
    sidecar.stop();
}

#[test]
fn null_is_not_empty_and_zero_has_a_sign() {
    let case = Case::new(Server::shared(15), "verify_bits");
    case.sql(
        "CREATE TABLE t (id int PRIMARY KEY, f float8, g float4, t text, b bytea, a int[], s float4[]);
         INSERT INTO t SELECT i, CASE i % 3 WHEN 0 THEN '-0' WHEN 1 THEN '0' ELSE 'NaN' END::float8, 'NaN', '', '', '{}', '{0,NaN}' FROM generate_series(1, 60) i",
    );
    case.catch_up();
    assert_equal(&case, &[]);
    let table_folder = case.table("t");
    // The sign bits of 0, -0 and NaN, and the lowest bit of NaN.
    for (id, column, bit) in [
        (1, "f", "7"),
        (3, "f", "7"),
        (5, "f", "7"),
        (8, "f", "0"),
        (10, "g", "7"),
    ] {
        tamper(&table_folder, &["flip", &format!(r#"{{"id": {id}}}"#), column, bit]);
    }
    for (id, column, value) in [
        (21, "t", "null"),
        (22, "b", "null"),
        (23, "a", "null"),
        (24, "a", "[null]"),
        (25, "s", "[-0.0, NaN]"),
        (26, "s", "null"),
    ] {
        tamper(&table_folder, &["set", &format!(r#"{{"id": {id}}}"#), column, value]);
    }
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let (code, report) = verify(&case, &[]);
    assert_eq!(code, Some(1), "{report:#}");
    let different = &table(&report, "public.t")["different"];
    assert_eq!(different["count"], 11, "{report:#}");
    assert_eq!(
        different["columns"],
        json!({"a": 2, "b": 1, "f": 4, "g": 1, "s": 2, "t": 1})
    );
    sidecar.stop();
}

fn a_sample_is_a_part_of_the_table(kind: Kind) {
    let case = Case::new(Server::shared(kind), "verify_sample");
    case.sql(
        "CREATE TABLE big (id int PRIMARY KEY, pad text); INSERT INTO big SELECT i, hash(i) FROM series(1, 100000)",
    );
    case.catch_up();
    let report = assert_equal(&case, &["--sample", "10%"]);
    // A tenth of the source's rows, and a tenth of the lake's other rows.
    let rows = table_of(&case, &report, "big")["rows"].as_u64().unwrap();
    assert!((15_000..25_000).contains(&rows), "{report:#}");
    assert_eq!(table_of(&case, &report, "big")["sample"], 0.1);
    assert_eq!(
        table_of(&case, &assert_equal(&case, &["--sample=100%"]), "big")["rows"],
        100_000
    );

    // Rows that are nearly all wrong are found by a small sample too.
    case.sql("DELETE FROM big WHERE id > 20");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    sidecar.stop();
    let folder = case.table("big");
    let extra: Vec<String> = (101..140).map(|id| json!({"id": id}).to_string()).collect();
    let arguments: Vec<&str> = ["add", r#"{"id": 1}"#]
        .into_iter()
        .chain(extra.iter().map(String::as_str))
        .collect();
    tamper(&folder, &arguments);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let (code, report) = verify(&case, &["--sample", "50%"]);
    assert_eq!(code, Some(1), "{report:#}");
    let extra = table_of(&case, &report, "big")["extra"]["count"].as_u64().unwrap();
    assert!((5..35).contains(&extra), "{report:#}");
    sidecar.stop();
    for wrong in ["0%", "101%", "x"] {
        assert_eq!(plain(&case, &["--sample", wrong]).status.code(), Some(2));
    }
}

fn without_a_sidecar_late_and_wrong_can_not_be_told_apart(kind: Kind) {
    let case = Case::new(Server::shared(kind), "verify_alone");
    case.sql(&shop(kind));
    case.catch_up();
    case.sql("UPDATE orders SET n = -1 WHERE id = 5; DELETE FROM orders WHERE id = 6");
    let output = plain(&case, &[]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    let [orders, items] = ["orders", "items"].map(|table| case.qualified(table));
    for part in [
        "2 rows are not equal",
        "hint: start `tributary run`",
        &format!("{orders}  unverified"),
        &format!("{items}   equal       9,000 rows"),
    ] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    assert_equal(&case, &[]);
    sidecar.stop();
}

fn what_is_not_whole_is_not_verified_and_the_others_are(kind: Kind) {
    let mut case = Case::new(Server::shared(kind), "verify_states");
    case.sql(
        "CREATE TABLE a (id int PRIMARY KEY, v int); INSERT INTO a VALUES (1, 1); CREATE TABLE b (id int PRIMARY KEY)",
    );
    case.catch_up();
    case.sql("CREATE TABLE c (id int PRIMARY KEY)");
    tamper(&case.table("b"), &["state", "needs_snapshot", "a reason"]);
    let (code, report) = verify(&case, &[]);
    assert_eq!(code, Some(2), "{report:#}");
    assert_eq!(report["outcome"], "unverified");
    assert_eq!(table_of(&case, &report, "a")["outcome"], "equal");
    for (name, parts) in [
        ("b", &["needs_snapshot", "a reason"][..]),
        ("c", &["no lake table yet"]),
    ] {
        let table = table_of(&case, &report, name);
        assert_eq!(table["outcome"], "unverified");
        for part in parts {
            assert!(table["reason"].as_str().unwrap().contains(part), "{table:#}");
        }
        assert!(table["hint"].is_string(), "{table:#}");
    }
    let [a, b, c, z] = ["a", "b", "c", "z"].map(|table| case.qualified(table));
    let output = plain(&case, &[&a, &z]);
    assert_eq!(output.status.code(), Some(2));
    for part in ["error: ", &format!("{z:?}"), "hint: ", &format!("{a}, {b}, {c}")] {
        assert!(text(&output).contains(part), "{}", text(&output));
    }
    case.sql("ALTER TABLE a ADD w int");
    let (code, report) = verify(&case, &[&a]);
    assert_eq!(code, Some(1), "{report:#}");
    assert_eq!(
        table_of(&case, &report, "a")["reason"],
        "columns differ: at the source only w"
    );

    case.url = format!("{}://nobody@127.0.0.1:1/nowhere", kind.scheme());
    let output = plain(&case, &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output).contains("127.0.0.1:1") && text(&output).contains("hint: "),
        "{}",
        text(&output)
    );
}

fn the_load_on_the_source_is_limited(kind: Kind) {
    let case = Case::new(Server::shared(kind), "verify_throttle");
    case.sql("CREATE TABLE big (id int PRIMARY KEY, pad text); INSERT INTO big SELECT i, repeat('x', 1000) FROM series(1, 2000)");
    case.catch_up();
    let started = Instant::now();
    let output = finish(case.command("verify").env("TRIBUTARY_SNAPSHOT_MAX_BYTES_PER_S", "1MiB"));
    assert!(output.status.success(), "{}", text(&output));
    // Two MiB, less what may come at once.
    assert!(
        started.elapsed() > Duration::from_millis(1500),
        "{:?}",
        started.elapsed()
    );
}

fn many_wrong_rows_are_counted_in_full(kind: Kind) {
    let case = Case::new(Server::shared(kind), "verify_many");
    case.sql("CREATE TABLE t (id varchar(20) PRIMARY KEY, v int); INSERT INTO t SELECT concat('k', i), i FROM series(1, 30000)");
    case.catch_up();
    tamper(&case.table("t"), &["set-all", "v", "7"]);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let (code, report) = verify(&case, &[&case.qualified("t")]);
    assert_eq!(code, Some(1), "{report:#}");
    let different = &table_of(&case, &report, "t")["different"];
    assert_eq!(different["count"], 29_999);
    assert_eq!(different["columns"], json!({"v": 29_999}));
    assert_eq!(different["keys"].as_array().unwrap().len(), 20);
    let said = text(&plain(&case, &[]));
    assert!(
        said.contains("… and 29,979 more") && said.contains("columns that differ: v in 29,999"),
        "{said}"
    );
    sidecar.stop();
}

#[test]
fn partitions_filters_and_new_columns_are_compared_as_published() {
    let case = Case::new(Server::shared(16), "verify_published");
    case.sql(
        "CREATE TABLE parted (id int, region text, v int, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
         CREATE TABLE parted_eu PARTITION OF parted FOR VALUES IN ('eu'); CREATE TABLE parted_us PARTITION OF parted FOR VALUES IN ('us');
         INSERT INTO parted SELECT i, CASE WHEN i % 3 = 0 THEN 'eu' ELSE 'us' END, i FROM generate_series(1, 3000) i;
         CREATE TABLE half (id int PRIMARY KEY, a text, secret text); INSERT INTO half SELECT i, 'a' || i, 'secret' FROM generate_series(1, 1000) i;
         CREATE PUBLICATION verify_published FOR TABLE parted, half (id, a) WHERE (id % 2 = 0) WITH (publish_via_partition_root = true)",
    );
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let report = assert_equal(&case, &[]);
    assert_eq!(table(&report, "public.parted")["rows"], 3000);
    assert_eq!(table(&report, "public.half")["rows"], 500);

    case.sql(
        "ALTER TABLE parted RENAME v TO w; ALTER TABLE parted ADD v text; UPDATE parted SET w = 0, v = 'new' WHERE id < 100;
         UPDATE parted SET region = 'us' WHERE id < 50; DELETE FROM parted WHERE id > 2900; UPDATE half SET a = '', secret = '' WHERE id < 300",
    );
    case.wait_until_current(&mut sidecar);
    let report = assert_equal(&case, &[]);
    assert_eq!(table(&report, "public.parted")["rows"], 2900);
    sidecar.stop();

    tamper(
        &case.table("parted"),
        &["drop", r#"{"id": 6, "region": "us"}"#, r#"{"id": 600, "region": "eu"}"#],
    );
    tamper(&case.table("half"), &["add", r#"{"id": 2}"#, r#"{"id": 1}"#]);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let (code, report) = verify(&case, &[]);
    assert_eq!(code, Some(1), "{report:#}");
    assert_eq!(
        sorted(&table(&report, "public.parted")["missing"]),
        sorted(&json!({"count": 2, "keys": [{"id": 6, "region": "us"}, {"id": 600, "region": "eu"}]}))
    );
    // The source has this row, but does not publish it.
    assert_eq!(
        table(&report, "public.half")["extra"],
        json!({"count": 1, "keys": [{"id": 1}]})
    );
    sidecar.stop();
}

fn a_table_that_is_copied_anew_meanwhile_is_compared_again(kind: Kind) {
    let case = Case::new(Server::shared(kind), "verify_replaced");
    case.sql("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, hash(i) FROM series(1, 200000)");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    for round in 0..3 {
        let asked = case.snapshot(&[&case.qualified("t")]).stdout(Stdio::null()).spawn();
        let mut asked = asked.unwrap();
        loop {
            case.sql("UPDATE t SET v = concat(v, 'x') WHERE id % 1000 = 0");
            let (code, report) = verify(&case, &[]);
            let reason = table_of(&case, &report, "t")["reason"].as_str().unwrap_or_default();
            assert!(
                code == Some(0) || (code == Some(2) && reason.contains("resnapshotting")),
                "round {round}: {report:#}"
            );
            if let Some(status) = asked.try_wait().unwrap() {
                assert!(status.success());
                break;
            }
        }
    }
    case.wait_until_current(&mut sidecar);
    assert_equal(&case, &[]);
    sidecar.stop();
}
