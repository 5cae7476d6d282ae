//! Every type, value by value, by copy and by stream. The values are in fixtures/sql/types.sql.

use crate::support::server::Server;
use crate::support::{Case, assert_error, python, succeed, text};

#[test]
fn every_type_of_postgres_14() {
    every_type_is_equal_by_copy_and_by_stream(14);
}

#[test]
fn every_type_of_postgres_15() {
    every_type_is_equal_by_copy_and_by_stream(15);
}

#[test]
fn every_type_of_postgres_18() {
    every_type_is_equal_by_copy_and_by_stream(18);
}

fn every_type_is_equal_by_copy_and_by_stream(version: u32) {
    let case = Case::new(Server::shared(version), &format!("types_{version}"));
    case.fixture("types.sql");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.compare(&["public.types_snapshot"]);
    case.fixture("types_stream.sql");
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    for table in ["types_stream", "types_updated"] {
        let rows = format!(
            "SELECT count(*) FROM (SELECT t::text FROM types_snapshot t EXCEPT SELECT t::text FROM {table} t) d"
        );
        assert_eq!(case.sql(&rows), "0", "{table} is not what it is meant to be");
    }
    sidecar.stop();

    // The comparison does see one wrong bit.
    case.sql("UPDATE types_snapshot SET float8s[2] = 'Infinity' WHERE float8s IS NOT NULL AND float8s <> '{}'");
    let comparison = case.comparison(&["public.types_snapshot"]);
    assert_eq!(comparison.status.code(), Some(1));
    assert!(
        text(&comparison).contains("column float8s differs in 1 rows"),
        "{}",
        text(&comparison)
    );
}

const ENDLESS: &str = "CREATE TABLE endless (id int PRIMARY KEY, d date, t timestamptz, n numeric(4,2));
    INSERT INTO endless VALUES (1, 'infinity', '-infinity', 'NaN'), (2, '2024-01-01', '2024-01-01', 1.5)";

#[test]
fn endless_values_can_be_clamped() {
    let mut case = Case::new(Server::shared(15), "endless_clamp");
    case.source = "infinity = \"clamp\"";
    case.sql(ENDLESS);
    case.catch_up();
    case.sql("INSERT INTO endless VALUES (3, '-infinity', 'infinity', 2)");
    case.catch_up();
    let select = "select id, arrow_cast(d, 'Int32') as d, arrow_cast(t, 'Int64') as t from t order by id";
    let table = case.table("endless");
    let rows = succeed(python("lake.py").arg("query").arg(table).arg(select));
    // Days and µs of the first day of year 1, of 2024, and of the last moment of year 9999.
    assert_eq!(
        rows,
        "[1, 2932896, -62135596800000000]\n[2, 19723, 1704067200000000]\n[3, -719162, 253402300799999999]\n"
    );
}

#[test]
fn endless_values_can_be_refused() {
    let mut case = Case::new(Server::shared(15), "endless_error");
    case.source = "infinity = \"error\"";
    case.sql(ENDLESS);
    assert_error(&case.run_once(), &["public.endless.d", "source.infinity"]);
    case.source = "infinity = \"null\"";
    case.catch_up();
    case.compare(&[]);
}

#[test]
fn an_endless_value_in_a_key_is_refused_and_never_null() {
    let case = Case::new(Server::shared(15), "endless_key");
    case.sql(
        "CREATE TABLE endless (d date PRIMARY KEY); INSERT INTO endless VALUES ('infinity'), ('-infinity');
         CREATE TABLE later (t timestamp PRIMARY KEY)",
    );
    assert_error(&case.run_once(), &["public.endless.d"]);
    case.sql("DROP TABLE endless");
    case.catch_up();
    case.sql("INSERT INTO later VALUES ('-infinity')");
    assert_error(&case.run_once(), &["public.later"]);
}
