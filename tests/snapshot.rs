//! The first copy: beside changes, and resumed after a kill.

use crate::support::lake::{commits, record, rows_written};
use crate::support::server::{Kind, Server};
use crate::support::writer::Writer;
use crate::support::{Case, on_every_source, wait_for};

on_every_source! {
    a_killed_copy_goes_on_at_its_last_chunk
    rows_that_change_while_they_are_copied_end_as_at_the_source
    a_table_rewritten_while_it_is_copied_is_copied_whole
    a_table_emptied_while_it_is_copied_ends_as_at_the_source
    a_new_table_is_copied_by_the_next_run
}

fn a_killed_copy_goes_on_at_its_last_chunk(kind: Kind) {
    const ROWS: u64 = 400_000;
    let mut case = Case::new(Server::shared(kind), "resume");
    case.sql(&format!(
        "CREATE TABLE big (id bigint PRIMARY KEY, n int, pad text);
         INSERT INTO big SELECT i, i % 1000, repeat(hash(i), 4) FROM series(1, {ROWS})"
    ));
    let goal = case.copy_through_kills("big", ROWS);

    let commits = commits(&case.table("big"));
    let progress: Vec<u64> = commits
        .iter()
        .filter_map(|commit| record(commit)?["snapshot"]["rows"].as_u64())
        .collect();
    assert!(progress.is_sorted(), "progress went back: {progress:?}");
    assert!(
        progress.contains(&(goal - 1)),
        "{progress:?} does not go on from {}",
        goal - 1
    );
    assert_eq!(rows_written(&commits), ROWS, "rows were copied twice or not at all");
    case.compare(&[]);
}

/// Values that PostgreSQL keeps out of line, whatever their size.
fn stored_out_of_line(case: &Case, table: &str, column: &str) {
    if case.kind().has_slot() {
        case.sql(&format!("ALTER TABLE {table} ALTER {column} SET STORAGE EXTERNAL"));
    }
}

fn rows_that_change_while_they_are_copied_end_as_at_the_source(kind: Kind) {
    let mut case = Case::new(Server::shared(kind), "changing");
    case.snapshot = "max_bytes_per_s = \"20MiB\"";
    case.sql("CREATE TABLE moving (id int PRIMARY KEY, n int NOT NULL, big text, pad text)");
    stored_out_of_line(&case, "moving", "big");
    case.sql(
        "INSERT INTO moving SELECT i, 0, CASE WHEN i % 50 = 0 THEN repeat(hash(i), 100) END, repeat(hash(i), 2)
           FROM series(1, 400000)",
    );
    // Updates move rows to other pages, key changes and reuse move them between chunks.
    let writer = Writer::start(
        &case,
        390_000,
        &[
            "UPDATE moving SET n = n + 1 WHERE id BETWEEN {k} AND {k} + 20;
             UPDATE moving SET n = n + 1 WHERE id % 50 = 0 AND id BETWEEN {k} + 1000 AND {k} + 1200;
             DELETE FROM moving WHERE id BETWEEN {k} + 300 AND {k} + 310",
            "INSERT INTO moving SELECT {k} + 300 + i, -{i}, NULL, 'again' FROM series(0, 5);
             DELETE FROM moving WHERE id BETWEEN -({k} + 510) AND -({k} + 500);
             UPDATE moving SET id = -id, n = n + 1 WHERE id BETWEEN {k} + 500 AND {k} + 510;
             INSERT INTO moving VALUES (1000000 + {i}, 0, repeat('x', 3000), 'new')",
        ],
    );
    let mut sidecar = case.start();
    for rows in [100_000, 200_000, 300_000] {
        wait_for("a part of the copy", || {
            sidecar.assert_running();
            (case.table_status("moving")?.rows >= Some(rows)).then_some(())
        });
        sidecar.kill();
        sidecar = case.start();
    }
    case.wait_for_state(&mut sidecar, "moving", "streaming");
    writer.stop();
    case.wait_until_current(&mut sidecar);
    sidecar.stop();
    case.compare(&[]);
}

#[test]
fn a_row_takes_no_value_from_a_later_row_of_its_key() {
    let mut case = Case::new(Server::shared(16), "key_reused");
    // Change by change, with time between them while the backlog is read.
    case.max_latency = "1ms";
    case.sql(
        "CREATE TABLE t (id int PRIMARY KEY, n int, pad text, big text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
         INSERT INTO t SELECT i, 0, repeat(md5(i::text), 30), CASE WHEN i > 199900 THEN repeat(md5(i::text), 100) END
           FROM generate_series(1, 200000) i;
         CREATE TABLE filler (id int PRIMARY KEY, n int); INSERT INTO filler VALUES (1, 0)",
    );
    let mut sidecar = case.start();
    let table = wait_for("a part of the copy", || {
        sidecar.assert_running();
        case.table_status("t").filter(|t| t.rows > Some(0))
    });
    sidecar.kill();
    assert_eq!(table.state, "snapshotting");
    // The value that the first two leave out is asked for at the source, when the third is done there.
    for change in [
        "UPDATE t SET n = 1 WHERE id > 199950",
        "UPDATE t SET id = -id WHERE id > 199950",
        "INSERT INTO t SELECT i, 2, 'new', NULL FROM generate_series(199951, 200000) i",
    ] {
        case.sql(change);
        case.sql("DO $$ BEGIN FOR i IN 1..3000 LOOP UPDATE filler SET n = i; COMMIT; END LOOP; END $$");
    }
    case.catch_up();
    case.compare(&[]);
}

fn a_table_rewritten_while_it_is_copied_is_copied_whole(kind: Kind) {
    let rewrite = match kind {
        Kind::Postgres(_) => "VACUUM FULL wide",
        _ => "ALTER TABLE wide ENGINE = InnoDB, FORCE",
    };
    while_copied(
        kind,
        "rewritten",
        &[rewrite, "UPDATE wide SET n = 1 WHERE id % 100 = 0"],
    );
}

fn a_table_emptied_while_it_is_copied_ends_as_at_the_source(kind: Kind) {
    let refill = "INSERT INTO wide SELECT i, 2, 'again' FROM series(1, 5000)";
    while_copied(kind, "emptied", &["TRUNCATE wide", refill]);
}

/// Makes changes when a part of a table of several chunks is in the lake.
fn while_copied(kind: Kind, name: &str, changes: &[&str]) {
    let mut case = Case::new(Server::shared(kind), name);
    case.snapshot = "max_bytes_per_s = \"20MiB\"";
    case.sql(
        "CREATE TABLE wide (id int PRIMARY KEY, n int, pad text);
         INSERT INTO wide SELECT i, 0, repeat(hash(i), 30) FROM series(1, 80000)",
    );
    let mut sidecar = case.start();
    wait_for("a part of the copy", || {
        sidecar.assert_running();
        (case.table_status("wide")?.rows > Some(0)).then_some(())
    });
    assert_eq!(case.table_status("wide").unwrap().state, "snapshotting");
    for change in changes {
        case.sql(change);
    }
    case.wait_until_current(&mut sidecar);
    sidecar.stop();
    case.compare(&[]);
}

fn a_new_table_is_copied_by_the_next_run(kind: Kind) {
    let case = Case::new(Server::shared(kind), "new_table");
    case.sql("CREATE TABLE first (id int PRIMARY KEY, v text); INSERT INTO first VALUES (1, 'a')");
    case.catch_up();
    case.sql(
        "CREATE TABLE second (id int PRIMARY KEY, v text); INSERT INTO second SELECT i, 'x' FROM series(1, 1000);
         INSERT INTO first VALUES (2, 'b')",
    );
    case.catch_up();
    case.sql("UPDATE second SET v = 'y' WHERE id < 10; DELETE FROM first WHERE id = 1");
    case.catch_up();
    case.compare(&[]);
}
