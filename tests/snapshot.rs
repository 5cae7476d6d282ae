//! The first copy: beside changes, and resumed after a kill.

use std::process::Stdio;

use crate::support::lake::{commits, record, rows_written};
use crate::support::server::Server;
use crate::support::{Case, wait_for};

const ROWS: u64 = 5_000_000;

#[test]
fn a_killed_copy_goes_on_at_its_last_chunk() {
    let server = Server::start(15, &[]);
    let case = Case::new(&server, "resume");
    case.sql(&format!(
        "CREATE TABLE big (id bigint PRIMARY KEY, n int, t text, at timestamptz);
         INSERT INTO big SELECT i, i % 1000, md5(i::text), '2024-01-01'::timestamptz + i * interval '1 s' FROM generate_series(1, {ROWS}) i"
    ));
    let table = case.table("big");
    let rows_copied = || {
        let commits = commits(&table);
        let last = commits.iter().rev().find_map(|commit| record(commit));
        last.map_or(0, |record| record["snapshot"]["rows"].as_u64().unwrap_or(0))
    };
    let mut goal = 1;
    for _ in 0..3 {
        let mut sidecar = case.start();
        let copied = wait_for("a chunk", || {
            sidecar.assert_running();
            Some(rows_copied()).filter(|rows| *rows >= goal)
        });
        sidecar.kill();
        assert!(copied < ROWS, "the copy was over before it was killed");
        goal = rows_copied() + 1;
    }
    case.catch_up();

    let commits = commits(&table);
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

#[test]
fn rows_that_change_while_they_are_copied_end_as_at_the_source() {
    let case = Case::new(Server::shared(16), "changing");
    case.sql(
        "CREATE TABLE moving (id int PRIMARY KEY, n int NOT NULL, big text, pad text);
         ALTER TABLE moving ALTER big SET STORAGE EXTERNAL;
         INSERT INTO moving SELECT i, 0, CASE WHEN i % 50 = 0 THEN repeat(md5(i::text), 100) END, md5(i::text) || md5(i::text)
           FROM generate_series(1, 800000) i;
         CREATE TABLE stop (id int PRIMARY KEY);",
    );
    // Updates move rows to other pages, key changes and reuse move them between chunks.
    let changes = "DO $$ DECLARE i int := 0; k int; BEGIN
        WHILE NOT EXISTS (SELECT FROM stop) LOOP
          i := i + 1; k := 1 + random() * 790000;
          UPDATE moving SET n = n + 1 WHERE id BETWEEN k AND k + 20;
          UPDATE moving SET n = n + 1 WHERE id % 50 = 0 AND id BETWEEN k + 1000 AND k + 1200;
          DELETE FROM moving WHERE id BETWEEN k + 300 AND k + 310;
          COMMIT;
          INSERT INTO moving SELECT j, -i, NULL, 'again' FROM generate_series(k + 300, k + 305) j ON CONFLICT DO NOTHING;
          UPDATE moving SET id = -id, n = n + 1 WHERE id BETWEEN k + 500 AND k + 510 AND NOT EXISTS (SELECT FROM moving m WHERE m.id = -moving.id);
          INSERT INTO moving VALUES (1000000 + i, 0, repeat('x', 3000), 'new');
          COMMIT;
        END LOOP; END $$";
    let mut writer = case
        .database
        .psql()
        .args(["-c", changes])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the first changes", || {
        (case.sql("SELECT max(id) FROM moving").parse::<u32>().unwrap() > 1_000_010).then_some(())
    });

    let mut sidecar = case.start();
    for rows in [200_000, 400_000, 600_000] {
        wait_for("a part of the copy", || {
            sidecar.assert_running();
            case.status()
                .tables
                .iter()
                .any(|t| t.table == "public.moving" && t.rows >= Some(rows))
                .then_some(())
        });
        sidecar.kill();
        sidecar = case.start();
    }
    wait_for("the copy", || {
        sidecar.assert_running();
        case.status()
            .tables
            .iter()
            .any(|t| t.table == "public.moving" && t.state == "streaming")
            .then_some(())
    });
    case.sql("INSERT INTO stop VALUES (1)");
    assert!(writer.wait().unwrap().success());
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
    let copied = |case: &Case| {
        case.status()
            .tables
            .into_iter()
            .find(|t| t.table == "public.t" && t.rows > Some(0))
    };
    let table = wait_for("a part of the copy", || {
        sidecar.assert_running();
        copied(&case)
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

#[test]
fn a_table_rewritten_while_it_is_copied_is_copied_whole() {
    while_copied(
        "rewritten",
        "VACUUM FULL wide; UPDATE wide SET n = 1 WHERE id % 100 = 0",
    );
}

#[test]
fn a_table_emptied_while_it_is_copied_ends_as_at_the_source() {
    while_copied(
        "emptied",
        "TRUNCATE wide; INSERT INTO wide SELECT i, 2, 'again' FROM generate_series(1, 5000) i",
    );
}

/// Runs `change` when a part of a table of several chunks is in the lake.
fn while_copied(name: &str, change: &str) {
    let case = Case::new(Server::shared(16), name);
    case.sql(
        "CREATE TABLE wide (id int PRIMARY KEY, n int, pad text);
         INSERT INTO wide SELECT i, 0, repeat(md5(i::text), 30) FROM generate_series(1, 300000) i",
    );
    let mut sidecar = case.start();
    wait_for("a part of the copy", || {
        sidecar.assert_running();
        case.status().tables.iter().any(|t| t.rows > Some(0)).then_some(())
    });
    for statement in change.split(';') {
        case.sql(statement);
    }
    case.wait_until_current(&mut sidecar);
    sidecar.stop();
    case.compare(&[]);
}

#[test]
fn a_new_table_is_copied_by_the_next_run() {
    let case = Case::new(Server::shared(16), "new_table");
    case.sql("CREATE TABLE first (id int PRIMARY KEY, v text); INSERT INTO first VALUES (1, 'a')");
    case.catch_up();
    case.sql("CREATE TABLE second (id int PRIMARY KEY, v text); INSERT INTO second SELECT i, 'x' FROM generate_series(1, 1000) i;
              INSERT INTO first VALUES (2, 'b')");
    case.catch_up();
    case.sql("UPDATE second SET v = 'y' WHERE id < 10; DELETE FROM first WHERE id = 1");
    case.catch_up();
    case.compare(&[]);
}
