//! What a publication publishes is what the lake has: roots or leaves, some columns, some rows, generated columns.

use crate::support::server::Server;
use crate::support::{Case, Open, signal};

const PARTITIONED: &str = "
    CREATE TABLE root (id int, region text, n int, long text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
    ALTER TABLE root ALTER long SET STORAGE EXTERNAL;
    CREATE TABLE north PARTITION OF root FOR VALUES IN ('n');
    CREATE TABLE south (gone int, long text, region text NOT NULL, n int, id int NOT NULL, PRIMARY KEY (id, region));
    ALTER TABLE south DROP gone; ALTER TABLE south ALTER long SET STORAGE EXTERNAL;
    ALTER TABLE root ATTACH PARTITION south FOR VALUES IN ('s');
    CREATE TABLE rest PARTITION OF root DEFAULT PARTITION BY RANGE (id);
    CREATE TABLE rest_low PARTITION OF rest FOR VALUES FROM (MINVALUE) TO (1000000);
    CREATE TABLE rest_high PARTITION OF rest FOR VALUES FROM (1000000) TO (MAXVALUE);
    CREATE TABLE plain (id int PRIMARY KEY, n int);
    INSERT INTO plain VALUES (1, 1);
    INSERT INTO root SELECT i, substr('nse', i % 3 + 1, 1), i, CASE WHEN i % 7 = 0 THEN repeat(md5(i::text), 90) END FROM generate_series(1, 3000) i";

/// Rows come, go and move between partitions, with values stored out of line that stay as they are.
fn change_partitioned(case: &Case, round: u32) {
    case.sql(&format!(
        "INSERT INTO root SELECT i * 10000 + {round}, substr('nse', i % 3 + 1, 1), {round}, repeat('x', i * 30) FROM generate_series(100, 200) i;
         UPDATE root SET n = n + 1 WHERE id % 5 = {round} % 5; DELETE FROM root WHERE id % 31 = {round};
         UPDATE plain SET n = {round}"
    ));
    case.sql("UPDATE root SET region = 's' WHERE region = 'n' AND id % 4 = 0; UPDATE root SET region = 'n' WHERE region = 'e' AND id % 4 = 1");
    case.sql("UPDATE root SET id = id + 2000000, n = 0 WHERE region = 'e' AND id % 17 = 0 AND id < 1000000");
}

fn partitioned(version: u32, via_root: bool) {
    let form = if via_root { "root" } else { "leaves" };
    let case = Case::new(Server::shared(version), &format!("parts_{form}_{version}"));
    case.sql(PARTITIONED);
    let publication = &case.slot;
    let replicated: &[&str] = if via_root {
        &["plain", "root"]
    } else {
        case.sql(&format!(
            "CREATE PUBLICATION {publication} FOR TABLE root, plain WITH (publish_via_partition_root = false)"
        ));
        &["north", "plain", "rest_high", "rest_low", "south"]
    };
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let mut names: Vec<_> = case.status().tables.into_iter().map(|t| t.table).collect();
    names.sort();
    assert_eq!(
        names,
        replicated.iter().map(|t| format!("public.{t}")).collect::<Vec<_>>()
    );
    for round in 1..=3 {
        change_partitioned(&case, round);
    }
    case.wait_until_current(&mut sidecar);
    case.compare_published();
    sidecar.kill();
    change_partitioned(&case, 4);
    case.sql("ALTER TABLE root ADD extra int; UPDATE root SET extra = id WHERE id % 2 = 0");
    change_partitioned(&case, 5);
    case.catch_up();
    case.compare_published();
}

#[test]
fn a_partitioned_table_is_one_table() {
    partitioned(15, true);
}

#[test]
fn a_partitioned_table_is_one_table_on_the_newest_server() {
    partitioned(18, true);
}

#[test]
fn leaves_are_tables_if_the_publication_says_so() {
    partitioned(15, false);
}

#[test]
fn changes_of_the_set_of_partitions_reach_the_root() {
    let case = Case::new(Server::shared(15), "parts_set");
    case.sql(PARTITIONED);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.compare_published();
    let rows = "INSERT INTO root SELECT i, 'w', 1, 'west' FROM generate_series(5000, 5100) i";
    for change in [
        // Rows that come or go with their partition, and nothing in the stream tells.
        "CREATE TABLE west (LIKE root INCLUDING ALL); INSERT INTO west SELECT i, 'w', 1, 'w' FROM generate_series(1, 50) i; ALTER TABLE root ATTACH PARTITION west FOR VALUES IN ('w')",
        rows,
        "TRUNCATE north",
        "ALTER TABLE root DETACH PARTITION west",
        "DROP TABLE south",
        "CREATE TABLE south PARTITION OF root FOR VALUES IN ('s'); INSERT INTO root SELECT i, 's', 1, 'new' FROM generate_series(1, 10) i",
        "TRUNCATE root",
        "INSERT INTO root SELECT i, 's', 1, 'new' FROM generate_series(1, 10) i",
    ] {
        case.sql(change);
        case.sql("UPDATE plain SET n = n + 1");
        case.wait_until_published_equal(&mut sidecar);
    }
    sidecar.stop();
}

#[test]
fn a_partition_that_is_locked_when_it_is_first_seen_is_copied() {
    let case = Case::new(Server::shared(15), "parts_locked");
    case.sql(PARTITIONED);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let lock = Open::begin(
        &case,
        "CREATE TABLE west (LIKE root INCLUDING ALL); INSERT INTO west SELECT i, 'w', 1, 'w' FROM generate_series(1, 50) i;
         ALTER TABLE root ATTACH PARTITION west FOR VALUES IN ('w'); COMMIT; BEGIN; LOCK TABLE west IN ACCESS EXCLUSIVE MODE",
    );
    // It looks at once.
    signal(sidecar.id(), "HUP");
    sidecar.wait_for_log("copying new partitions");
    lock.end("COMMIT");
    case.wait_until_published_equal(&mut sidecar);
    sidecar.stop();
}

#[test]
fn inherited_columns_are_each_tables_own() {
    let case = Case::new(Server::shared(15), "inherited");
    case.sql(
        "CREATE TABLE parent (id int PRIMARY KEY, v text);
         CREATE TABLE child (extra int, PRIMARY KEY (id)) INHERITS (parent);
         CREATE TABLE grandchild (more text, PRIMARY KEY (id)) INHERITS (child);
         INSERT INTO parent SELECT i, 'p' FROM generate_series(1, 100) i;
         INSERT INTO child SELECT i, 'c', i FROM generate_series(1, 200) i;
         INSERT INTO grandchild SELECT i, 'g', i, 'more' FROM generate_series(1, 300) i",
    );
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    // A change through the parent is one of each child's rows too.
    case.sql("UPDATE parent SET v = v || '!' WHERE id % 3 = 0; DELETE FROM parent WHERE id % 7 = 0; UPDATE ONLY child SET extra = 0 WHERE id > 150");
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    case.sql("ALTER TABLE parent ADD w int; UPDATE parent SET w = id; ALTER TABLE parent RENAME v TO u; UPDATE parent SET u = 'u' WHERE id % 2 = 0");
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();
}

/// A publication with column lists and row filters.
fn listed_and_filtered(version: u32) {
    let case = Case::new(Server::shared(version), &format!("filters_{version}"));
    let publication = &case.slot;
    case.sql(
        "CREATE TABLE listed (secret text, id int PRIMARY KEY, a int, long text, b text);
         CREATE TABLE filtered (id int PRIMARY KEY, n int, long text); ALTER TABLE filtered REPLICA IDENTITY FULL;
         CREATE TABLE keyed (id int, part int, long text, PRIMARY KEY (id, part));
         CREATE TABLE combined (id int PRIMARY KEY, secret text, n int, long text); ALTER TABLE combined REPLICA IDENTITY FULL;
         CREATE TABLE plain (id int PRIMARY KEY, n int);",
    );
    for table in ["listed", "filtered", "keyed", "combined"] {
        case.sql(&format!("ALTER TABLE {table} ALTER long SET STORAGE EXTERNAL"));
    }
    let long = "CASE WHEN i % 3 = 0 THEN repeat(md5(i::text), 90) END";
    case.sql(&format!(
        "INSERT INTO listed SELECT 's', i, i, {long}, 'b' FROM generate_series(1, 500) i;
         INSERT INTO filtered SELECT i, i % 100, {long} FROM generate_series(1, 1000) i;
         INSERT INTO keyed SELECT i, i % 10, {long} FROM generate_series(1, 1000) i;
         INSERT INTO plain SELECT i, 0 FROM generate_series(1, 10) i;
         INSERT INTO combined SELECT i, 's', i % 100, {long} FROM generate_series(1, 1000) i"
    ));
    // A table with REPLICA IDENTITY FULL must publish all its columns for updates.
    case.sql("ALTER TABLE combined REPLICA IDENTITY DEFAULT; ALTER TABLE combined DROP CONSTRAINT combined_pkey, ALTER n SET NOT NULL, ADD PRIMARY KEY (id, n)");
    case.sql(&format!(
        "CREATE PUBLICATION {publication} FOR TABLE listed (id, long, b), filtered WHERE (n < 50), keyed WHERE (part BETWEEN 2 AND 5),
           combined (long, n, id) WHERE (n > 20), plain"
    ));
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.compare_published();
    for round in 0..2 {
        for change in [
            // In and out of the filters, with values out of line that stay as they are.
            "UPDATE filtered SET n = n + 30 WHERE id % 3 = 0",
            "UPDATE filtered SET n = n - 60 WHERE n > 60 AND id % 6 = 0",
            "UPDATE keyed SET part = (part + 3) % 10 WHERE id % 3 = 0",
            "UPDATE keyed SET id = -id, part = 10 - part WHERE id % 30 = 0",
            "UPDATE combined SET n = 100 - n, secret = 'other' WHERE id % 3 = 0",
            "UPDATE combined SET secret = 'nobody sees' WHERE id % 2 = 0",
            "UPDATE listed SET secret = 'nobody sees', a = a + 1 WHERE id % 2 = 0; UPDATE listed SET b = 'c' WHERE id % 9 = 0",
            "INSERT INTO filtered SELECT i, i % 70, 'new' FROM generate_series(1001 + ROUND * 10, 1010 + ROUND * 10) i",
            "DELETE FROM filtered WHERE id % 50 = ROUND; DELETE FROM combined WHERE id % 50 = ROUND; DELETE FROM keyed WHERE id % 50 = ROUND",
            "UPDATE plain SET n = n + 1",
        ] {
            case.sql(&change.replace("ROUND", &round.to_string()));
        }
        case.wait_until_current(&mut sidecar);
    }
    case.compare_published();
    // A column that is not published goes unnoticed.
    case.sql("ALTER TABLE listed DROP secret; ALTER TABLE listed ADD secret int DEFAULT 5; UPDATE listed SET b = 'd' WHERE id % 8 = 0");
    case.wait_until_current(&mut sidecar);
    case.compare_published();
    // Another list, another filter, another form.
    for (set, change) in [
        (
            "listed (id, a, b), filtered WHERE (n < 50), keyed WHERE (part BETWEEN 2 AND 5), combined, plain WHERE (id < 5)",
            "UPDATE listed SET a = 0 WHERE id < 9",
        ),
        (
            "listed, filtered WHERE (n >= 50), keyed WHERE (part < 5), combined, plain",
            "UPDATE filtered SET n = 70 WHERE id < 9",
        ),
    ] {
        case.sql(&format!("ALTER PUBLICATION {publication} SET TABLE {set}"));
        case.sql(change);
        case.wait_until_published_equal(&mut sidecar);
    }
    sidecar.stop();
}

#[test]
fn column_lists_and_row_filters_are_respected() {
    listed_and_filtered(15);
}

#[test]
fn column_lists_and_row_filters_are_respected_on_the_newest_server() {
    listed_and_filtered(18);
}

#[test]
fn stored_generated_columns_are_there_if_published() {
    let case = Case::new(Server::shared(18), "generated");
    let publication = &case.slot;
    case.sql(
        "CREATE TABLE t (id int PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2) STORED, virtual int GENERATED ALWAYS AS (n * 3) VIRTUAL,
           long text, size int GENERATED ALWAYS AS (length(long)) STORED);
         ALTER TABLE t ALTER long SET STORAGE EXTERNAL;
         INSERT INTO t (id, n, long) SELECT i, i, CASE WHEN i % 3 = 0 THEN repeat(md5(i::text), 90) END FROM generate_series(1, 500) i",
    );
    case.sql(&format!(
        "CREATE PUBLICATION {publication} FOR TABLE t WITH (publish_generated_columns = stored)"
    ));
    let change = "UPDATE t SET n = n + 1 WHERE id % 2 = 0; INSERT INTO t (id, n) SELECT max(id) + 1, 7 FROM t; DELETE FROM t WHERE id % 40 = 1";
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.compare_published();
    case.sql(change);
    case.wait_until_current(&mut sidecar);
    case.compare_published();
    case.sql("ALTER TABLE t ADD thrice bigint GENERATED ALWAYS AS (n * 3::bigint) STORED");
    case.sql(change);
    case.wait_until_published_equal(&mut sidecar);
    case.sql("ALTER TABLE t ALTER twice SET EXPRESSION AS (n * 20)");
    case.sql(change);
    case.wait_until_published_equal(&mut sidecar);
    case.sql(&format!(
        "ALTER PUBLICATION {publication} SET (publish_generated_columns = none)"
    ));
    case.sql(change);
    case.wait_until_published_equal(&mut sidecar);
    sidecar.stop();
}

#[test]
fn generated_columns_are_left_out_where_they_are_not_published() {
    for version in [15, 18] {
        let case = Case::new(Server::shared(version), &format!("not_generated_{version}"));
        case.sql("CREATE TABLE t (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED, n int); INSERT INTO t (id, n) SELECT i, i FROM generate_series(1, 100) i");
        let mut sidecar = case.start();
        case.wait_until_current(&mut sidecar);
        case.sql("UPDATE t SET n = -n WHERE id % 2 = 0; UPDATE t SET id = -id WHERE id % 3 = 0");
        case.wait_until_current(&mut sidecar);
        case.compare_published();
        assert_eq!(crate::support::lake::column_names(&case.table("t")), ["id", "n"]);
        sidecar.stop();
    }
}
