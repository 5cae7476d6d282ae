//! Every type of MySQL and MariaDB, value by value, by copy and by stream. The values are in python/mysql_types.py.

use crate::support::lake::replacements;
use crate::support::server::{Kind, MARIADB, Server};
use crate::support::{Case, assert_error, finish, on_mysql_and_mariadb, python, succeed, text};

on_mysql_and_mariadb! {
    every_type_is_equal_by_copy_and_by_stream
    every_type_is_equal_with_full_metadata_and_minimal_images
    every_type_that_can_be_a_key_is_one
    every_form_of_key_finds_its_rows
    columns_that_are_hidden_or_computed_are_copied
    columns_of_many_collations_are_told_apart
    zero_dates_are_null_or_clamped_or_refused
    a_zero_date_in_a_key_is_refused_and_never_null
    comparisons_see_one_wrong_bit
}

fn every_type_is_equal_by_copy_and_by_stream(kind: Kind) {
    types_are_equal(Server::shared(kind), "types");
}

fn every_type_is_equal_with_full_metadata_and_minimal_images(kind: Kind) {
    let server = Server::configured(kind, "binlog_row_metadata = FULL\nbinlog_row_image = MINIMAL");
    types_are_equal(&server, "types_full_minimal");
}

fn types_are_equal(server: &Server, name: &str) {
    let case = Case::new(server, name);
    case.types("snapshot");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.compare(&["types_snapshot"]);
    case.types("stream");
    case.wait_until_current(&mut sidecar);
    case.types("equal");
    case.compare(&[]);
    sidecar.stop();
}

fn every_type_that_can_be_a_key_is_one(kind: Kind) {
    let case = Case::new(Server::shared(kind), "keys");
    case.types("keys");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.types("keys-stream");
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    sidecar.kill();
    // Found again by an index that is rebuilt from the lake.
    for table in case.sql("SHOW TABLES LIKE 'key\\_%'").lines() {
        match table.ends_with("_two") {
            true => case.sql(&format!("DELETE FROM {table} WHERE v > 0")),
            false => case.sql(&format!("UPDATE {table} SET v = v + 1")),
        };
    }
    std::fs::remove_dir_all(case.cache()).unwrap_or_default();
    case.catch_up();
    case.compare(&[]);
    case.verify();
}

/// Chunks by integers, texts, bytes and several columns; keys that are no primary key.
const TABLES: &str = "
    CREATE TABLE by_text (k varchar(40) CHARACTER SET utf8mb4 NOT NULL PRIMARY KEY, n int, pad text);
    INSERT INTO by_text SELECT concat(CASE i % 4 WHEN 0 THEN 'ä' WHEN 1 THEN 'Z' WHEN 2 THEN '''q' ELSE 'a' END, hash(i)), i, repeat(hash(i), 20) FROM series(1, 30000);
    CREATE TABLE by_latin (k varchar(40) CHARACTER SET latin1 NOT NULL PRIMARY KEY, n int, pad text);
    INSERT INTO by_latin SELECT k, n, pad FROM by_text;
    CREATE TABLE by_bytes (k varbinary(40) NOT NULL PRIMARY KEY, n int, pad text);
    INSERT INTO by_bytes SELECT unhex(hash(i)), i, repeat(hash(i), 20) FROM series(1, 30000);
    CREATE TABLE by_many (a int NOT NULL, b char(10) NOT NULL, c date NOT NULL, n int, pad text, PRIMARY KEY (b, c, a));
    INSERT INTO by_many SELECT i, concat('b', i % 7), '2024-01-01' + INTERVAL i % 50 DAY, i, repeat(hash(i), 20) FROM series(1, 30000);
    CREATE TABLE by_descending (a int NOT NULL, n int, pad text, PRIMARY KEY (a DESC));
    INSERT INTO by_descending SELECT i, i, repeat(hash(i), 20) FROM series(-15000, 15000);
    CREATE TABLE by_unsigned (a bigint unsigned NOT NULL PRIMARY KEY, n int, pad text);
    INSERT INTO by_unsigned SELECT 18446744073709551615 - i * 100000, i, repeat(hash(i), 20) FROM series(0, 30000);
    CREATE TABLE by_unique (a int, b int NOT NULL, c varchar(20) NOT NULL, n int, pad text, UNIQUE KEY nullable (a), UNIQUE KEY good (c, b));
    INSERT INTO by_unique SELECT NULL, i, concat('c', i % 9), i, repeat(hash(i), 20) FROM series(1, 30000);
    CREATE TABLE by_one (a enum('x', 'y', 'z') NOT NULL PRIMARY KEY, n int);
    INSERT INTO by_one VALUES ('z', 1), ('x', 2);
    CREATE TABLE parted (a int NOT NULL, b date NOT NULL, n int, pad text, PRIMARY KEY (a, b)) PARTITION BY HASH (a) PARTITIONS 4;
    INSERT INTO parted SELECT i, '2024-01-01', i, repeat(hash(i), 20) FROM series(1, 30000)";

const CHANGES: &str = "
    UPDATE by_text SET n = -n WHERE n % 7 = 0; UPDATE by_text SET k = concat(k, '!') WHERE n % 11 = 0; DELETE FROM by_text WHERE n % 13 = 0;
    UPDATE by_text SET k = upper(k) WHERE n % 5 = 0;
    UPDATE by_latin SET n = -n WHERE n % 7 = 0; UPDATE by_latin SET k = concat(k, 'é') WHERE n % 11 = 0; DELETE FROM by_latin WHERE n % 13 = 0;
    UPDATE by_bytes SET n = -n WHERE n % 7 = 0; UPDATE by_bytes SET k = concat(k, x'00') WHERE n % 11 = 0; DELETE FROM by_bytes WHERE n % 13 = 0;
    UPDATE by_many SET n = -n WHERE n % 7 = 0; UPDATE by_many SET c = c + INTERVAL 400 DAY WHERE n % 11 = 0; DELETE FROM by_many WHERE n % 13 = 0;
    UPDATE by_descending SET n = -n WHERE n % 7 = 0; UPDATE by_descending SET a = a + 100000 WHERE n % 11 = 0; DELETE FROM by_descending WHERE n % 13 = 0;
    UPDATE by_unsigned SET n = -n WHERE n % 7 = 0; UPDATE by_unsigned SET a = a - 1 WHERE n % 11 = 0; DELETE FROM by_unsigned WHERE n % 13 = 0;
    UPDATE by_unique SET n = -n WHERE n % 7 = 0; UPDATE by_unique SET b = -b, a = NULL WHERE n % 11 = 0; DELETE FROM by_unique WHERE n % 13 = 0;
    UPDATE by_one SET n = n + 1; INSERT INTO by_one VALUES ('y', 7); UPDATE parted SET n = -n WHERE n % 7 = 0; DELETE FROM parted WHERE n % 13 = 0;
    ALTER TABLE parted TRUNCATE PARTITION p1; ALTER TABLE parted COALESCE PARTITION 1; UPDATE parted SET n = 5 WHERE n % 10 = 0";

fn every_form_of_key_finds_its_rows(kind: Kind) {
    let mut case = Case::new(Server::shared(kind), "key_forms");
    // Chunks of a part of a table.
    case.snapshot = "max_bytes_per_s = \"20MiB\"";
    case.sql(TABLES);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    case.sql(CHANGES);
    case.wait_until_settled(&mut sidecar);
    case.wait_until_equal(&mut sidecar);
    case.verify();
    sidecar.kill();
    case.sql("UPDATE by_text SET n = 1 WHERE n % 17 = 0; DELETE FROM by_many WHERE n % 17 = 0; DELETE FROM by_bytes WHERE n % 17 = 0");
    case.catch_up();
    case.compare(&[]);
}

fn columns_that_are_hidden_or_computed_are_copied(kind: Kind) {
    let case = Case::new(Server::shared(kind), "computed");
    case.sql(
        "CREATE TABLE t (id int PRIMARY KEY, a int, kept int GENERATED ALWAYS AS (a * 2) STORED, computed varchar(20) GENERATED ALWAYS AS (concat('v', a)) VIRTUAL,
           hidden int NOT NULL DEFAULT 7 INVISIBLE, big text, b int);
         INSERT INTO t (id, a, big, b) SELECT i, i, repeat('x', 100), -i FROM series(1, 100);
         CREATE TABLE indexed (id int PRIMARY KEY, a varchar(20), b int, KEY (b DESC), v int AS (b + 1) VIRTUAL, KEY (v), FULLTEXT (a));
         INSERT INTO indexed (id, a, b) SELECT i, 'text', i FROM series(1, 50)",
    );
    if kind == Kind::MySql {
        // Its expression is a hidden column.
        case.sql("ALTER TABLE indexed ADD KEY functional ((b * 3))");
        case.sql("SET SESSION sql_generate_invisible_primary_key = ON; CREATE TABLE keyed (v int); INSERT INTO keyed VALUES (1), (2), (2)");
    }
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    case.sql(
        "UPDATE t SET a = a + 1 WHERE id % 2 = 0; UPDATE t SET hidden = 8 WHERE id % 3 = 0; DELETE FROM t WHERE id % 5 = 0; UPDATE t SET id = -id WHERE id % 7 = 0;
         UPDATE indexed SET b = b + 1 WHERE id % 2 = 0; INSERT INTO indexed (id, a, b) VALUES (100, 'new', 1); DELETE FROM indexed WHERE id = 3",
    );
    if kind == Kind::MySql {
        case.sql("UPDATE keyed SET v = v + 1 WHERE v = 2; INSERT INTO keyed VALUES (3)");
    }
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    case.verify();
    sidecar.stop();
}

/// What the servers list of columns' collations differs: vectors, geometries.
fn columns_of_many_collations_are_told_apart(kind: Kind) {
    let server = Server::configured(kind, "binlog_row_metadata = FULL");
    let case = Case::new(&server, "collations");
    case.sql(
        "CREATE TABLE t (id int PRIMARY KEY, a varchar(9) CHARACTER SET latin1, y year, g point, n int, b varchar(9), c varbinary(9), e enum('é', 'ü') CHARACTER SET latin1,
           h geometry, d varchar(9) CHARACTER SET utf8mb4, u int unsigned, f text CHARACTER SET latin1 COLLATE latin1_bin, s set('x', 'y'))",
    );
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.sql("INSERT INTO t VALUES (1, 'é', 2024, ST_GeomFromText('POINT(1 2)'), -1, 'b', x'ff', 'ü', ST_GeomFromText('POINT(3 4)'), '漢', 4294967295, 'ß', 'x,y'); UPDATE t SET n = -2");
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    assert!(replacements(&case.table("t")).is_empty(), "copied anew without need");
    sidecar.stop();
}

#[test]
fn hashes_that_mariadb_keeps_of_long_values_are_passed_over() {
    for metadata in ["MINIMAL", "FULL"] {
        let server = Server::configured(MARIADB, &format!("binlog_row_metadata = {metadata}"));
        let case = Case::new(&server, "hashed");
        case.sql(
            "CREATE TABLE t (id int PRIMARY KEY, u text, n bigint, UNIQUE (u)); INSERT INTO t VALUES (1, 'one', 1)",
        );
        let mut sidecar = case.start();
        case.wait_until_current(&mut sidecar);
        case.sql("INSERT INTO t VALUES (2, 'two', 2); UPDATE t SET u = 'uno', n = 5 WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (3, NULL, NULL)");
        case.wait_until_current(&mut sidecar);
        case.compare(&[]);
        assert!(replacements(&case.table("t")).is_empty(), "copied anew without need");
        sidecar.stop();
    }
}

#[test]
fn virtual_columns_that_the_log_leaves_out_are_refused() {
    let server = Server::configured(MARIADB, "binlog_row_image = MINIMAL");
    let case = Case::new(&server, "virtual");
    case.sql("CREATE TABLE t (id int PRIMARY KEY, n int, v int AS (n * 2) VIRTUAL, s int AS (n * 3) STORED); INSERT INTO t (id, n) VALUES (1, 1), (2, 2)");
    let t = case.qualified("t");
    for verb in ["check", "run"] {
        let parts = [t.as_str(), "virtual", "SET GLOBAL binlog_row_image = 'NOBLOB'"];
        assert_error(&finish(&mut case.command(verb)), &parts);
    }
    server.sql("SET GLOBAL binlog_row_image = 'NOBLOB'");
    case.catch_up();
    case.sql("UPDATE t SET n = 7 WHERE id = 1; INSERT INTO t (id, n) VALUES (3, 3)");
    case.catch_up();
    case.compare(&[]);
    // What is stored is told.
    server.sql("SET GLOBAL binlog_row_image = 'MINIMAL'");
    case.sql("ALTER TABLE t DROP v; UPDATE t SET n = 8 WHERE id = 1");
    case.catch_up();
    case.compare(&[]);
}

const ZERO: &str = "SET SESSION sql_mode = ''; INSERT INTO zero VALUES
    (ID + 1, '0000-00-00', '0000-00-00 00:00:00', '0000-00-00 00:00:00'), (ID + 2, '2024-00-10', '2024-00-10 01:02:03', '2024-01-01'),
    (ID + 3, '2024-02-00', '2024-02-00', '2024-01-01'), (ID + 4, '2024-01-02', '2024-01-02 03:04:05', '2024-01-02')";

/// Of two lots, one copied and one streamed.
fn zero_dates(kind: Kind, policy: &'static str) -> Case<'static> {
    let mut case = Case::new(Server::shared(kind), &format!("zero_{policy}"));
    case.source = match policy {
        "clamp" => "infinity = \"clamp\"",
        "error" => "infinity = \"error\"",
        _ => "infinity = \"null\"",
    };
    case.sql("SET SESSION sql_mode = ''; CREATE TABLE zero (id int PRIMARY KEY, d date, t datetime, s timestamp NULL)");
    case.sql(&ZERO.replace("ID", "0"));
    case
}

fn zero_dates_are_null_or_clamped_or_refused(kind: Kind) {
    let case = zero_dates(kind, "null");
    case.catch_up();
    case.sql(&ZERO.replace("ID", "10"));
    case.catch_up();
    case.compare(&[]);

    let case = zero_dates(kind, "clamp");
    case.catch_up();
    case.sql(&ZERO.replace("ID", "10"));
    case.catch_up();
    let select = "select id, arrow_cast(d, 'Int32') as d, arrow_cast(t, 'Int64') as t, arrow_cast(s, 'Int64') as s from t order by id";
    let rows = succeed(python("lake.py").arg("query").arg(case.table("zero")).arg(select));
    // Day and moment of the first day of year 1; of 2024-01-10 and 2024-02-01.
    let expected = |id: u32| {
        format!(
            "[{}, -719162, -62135596800000000, -62135596800000000]\n[{}, 19732, 1704848523000000, 1704067200000000]\n\
             [{}, 19754, 1706745600000000, 1704067200000000]\n[{}, 19724, 1704164645000000, 1704153600000000]\n",
            id + 1,
            id + 2,
            id + 3,
            id + 4
        )
    };
    assert_eq!(rows, expected(0) + &expected(10));

    let mut case = zero_dates(kind, "error");
    assert_error(&case.run_once(), &[&case.qualified("zero"), "source.infinity"]);
    case.sql("DELETE FROM zero WHERE id < 4");
    case.catch_up();
    case.sql("SET SESSION sql_mode = ''; INSERT INTO zero VALUES (20, '0000-00-00', NULL, NULL)");
    assert_error(&case.run_once(), &[&case.qualified("zero"), "source.infinity"]);
    case.source = "infinity = \"null\"";
    case.catch_up();
    case.compare(&[]);
}

fn a_zero_date_in_a_key_is_refused_and_never_null(kind: Kind) {
    let case = Case::new(Server::shared(kind), "zero_key");
    case.sql("CREATE TABLE days (d date PRIMARY KEY, v int); INSERT INTO days VALUES ('2024-01-01', 1)");
    case.catch_up();
    case.sql("SET SESSION sql_mode = ''; INSERT INTO days VALUES ('0000-00-00', 2)");
    let days = case.qualified("days");
    assert_error(&case.run_once(), &[&days, &format!("tributary snapshot {days}")]);
    case.sql("SET SESSION sql_mode = ''; UPDATE days SET d = '2024-01-02' WHERE v = 2");
    succeed(&mut case.snapshot(&[&days]));
    case.catch_up();
    case.compare(&[]);
}

fn comparisons_see_one_wrong_bit(kind: Kind) {
    let case = Case::new(Server::shared(kind), "wrong_bit");
    case.sql("CREATE TABLE t (id int PRIMARY KEY, f float, d datetime(6), s text, j json); INSERT INTO t VALUES (1, 0.1, '2024-01-01', 'a', '{}')");
    case.catch_up();
    for (column, value) in [
        ("f", "0.10000001"),
        ("d", "'2024-01-01 00:00:00.000001'"),
        ("s", "'A'"),
        ("j", "'[]'"),
    ] {
        case.sql(&format!("UPDATE t SET {column} = {value}"));
        let comparison = case.comparison(&[]);
        assert_eq!(comparison.status.code(), Some(1));
        let found = format!("column {column} differs in 1 rows");
        assert!(text(&comparison).contains(&found), "{}", text(&comparison));
        case.catch_up();
        case.compare(&[]);
    }
}
