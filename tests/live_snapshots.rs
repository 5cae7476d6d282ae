//! Copies beside a running stream: several readers, kills, throttle, and new content in one switch.

use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::lake::{Follower, replacements};
use crate::support::position::Position;
use crate::support::server::{Kind, Server};
use crate::support::writer::Writer;
use crate::support::{Case, PATIENCE, assert_error, finish, on_every_source, text, wait_for, wait_for_exit};

on_every_source! {
    a_gap_is_closed_in_one_switch_through_kills
    a_snapshot_asked_for_beside_a_running_program_survives_its_kills
    a_snapshot_without_a_running_program_is_resumed_after_kills
    a_table_that_is_not_known_is_refused_with_those_that_are
    a_slow_copy_holds_neither_the_slot_nor_the_other_tables_nor_the_vacuum
    the_throttle_is_let_go_by_a_new_configuration
}

/// Changes of `t` that look rows up by key, until the table `stop` has a row.
fn write_to(case: &Case, body: &str) -> Child {
    case.sql("CREATE TABLE IF NOT EXISTS stop (id int PRIMARY KEY); TRUNCATE stop");
    let changes = format!(
        "DO $$ DECLARE i int := 0; k int; BEGIN WHILE NOT EXISTS (SELECT FROM stop) LOOP i := i + 1; {body} END LOOP; END $$"
    );
    case.database
        .psql()
        .args(["-c", "SET enable_seqscan = off", "-c", &changes])
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

fn stop_writing(case: &Case, mut writer: Child) {
    case.sql("INSERT INTO stop VALUES (1)");
    assert!(
        wait_for_exit(&mut writer, PATIENCE).unwrap().success(),
        "the writer failed"
    );
}

/// Copying sessions at the source at this moment.
const READERS: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query ~* '^copy' AND state = 'active'";

#[test]
fn a_table_read_by_two_and_killed_goes_on_where_it_was() {
    const ROWS: u64 = 450_000;
    let server = Server::start(16, &[]);
    let mut case = Case::new(&server, "read_by_two");
    case.snapshot = "parallelism = 2\nmax_bytes_per_s = \"16MiB\"";
    case.sql(&format!(
        "CREATE TABLE t (id int PRIMARY KEY, n int, pad text, big text) WITH (autovacuum_enabled = off);
         ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
         INSERT INTO t SELECT i, 0, repeat(md5(i::text), 10), CASE WHEN i % 1000 = 0 THEN repeat(md5(i::text), 100) END FROM generate_series(1, {ROWS}) i"
    ));
    let writer = write_to(
        &case,
        "k := 1 + random() * 440000;
         UPDATE t SET n = n + 1 WHERE id BETWEEN k AND k + 20; COMMIT;
         UPDATE t SET n = n + 1 WHERE id = k / 1000 * 1000;
         DELETE FROM t WHERE id BETWEEN k + 100 AND k + 105; COMMIT;
         INSERT INTO t VALUES (2000000 + i, 0, 'new', repeat('x', 3000)), (k + 100, i, 'again', NULL) ON CONFLICT DO NOTHING; COMMIT;
         PERFORM pg_sleep(0.002);",
    );
    let rows_read = || -> u64 {
        case.sql("SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 't'")
            .parse()
            .unwrap()
    };
    let before = rows_read();
    let mut together = false;
    for part in [1, 20, 60] {
        let mut sidecar = case.start();
        wait_for("a part of the copy", || {
            sidecar.assert_running();
            together |= case.sql(READERS).parse::<u32>().unwrap() >= 2;
            case.table_status("t")
                .is_some_and(|t| t.rows >= Some(ROWS * part / 100))
                .then_some(())
        });
        assert_eq!(case.table_status("t").unwrap().state, "snapshotting");
        sidecar.kill();
        if part == 20 {
            std::fs::remove_dir_all(case.cache()).unwrap_or_default();
        }
    }
    assert!(together, "there were never two readers");
    let mut sidecar = case.start();
    case.wait_for_state(&mut sidecar, "t", "streaming");
    stop_writing(&case, writer);
    case.wait_until_current(&mut sidecar);
    sidecar.stop();
    let read = rows_read() - before;
    assert!(
        read >= ROWS / 2,
        "the server's count of rows read tells nothing: {read}"
    );
    assert!(read < ROWS * 9 / 5, "{read} rows were read for a table of {ROWS}");
    case.compare(&["public.t"]);
}

#[test]
fn rows_that_move_between_the_parts_of_two_readers_end_as_at_the_source() {
    let mut case = Case::new(Server::shared(15), "moving_parts");
    case.snapshot = "parallelism = 2\nmax_bytes_per_s = \"30MiB\"";
    // Room at the head and in the middle: updates of any row go there, ahead of or behind the readers.
    case.database.run(&[
        "CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL, pad text, big text) WITH (autovacuum_enabled = off)".to_owned(),
        "ALTER TABLE t ALTER big SET STORAGE EXTERNAL".to_owned(),
        "INSERT INTO t SELECT i, 0, repeat(md5(i::text), 8), CASE WHEN i % 40 = 0 THEN repeat(md5(i::text), 80) END FROM generate_series(1, 200000) i".to_owned(),
        "DELETE FROM t WHERE id < 20000 OR id BETWEEN 100000 AND 120000".to_owned(),
        "VACUUM t".to_owned(),
    ]);
    let writer = write_to(
        &case,
        "k := 20000 + random() * 179000;
         UPDATE t SET n = n + 1 WHERE id BETWEEN k AND k + 30; COMMIT;
         UPDATE t SET n = n + 1 WHERE id % 40 = 0 AND id BETWEEN k - 2000 AND k + 2000; COMMIT;
         UPDATE t SET id = -id, n = n + 1 WHERE id % 40 = 0 AND id BETWEEN k + 100 AND k + 300 AND NOT EXISTS (SELECT FROM t o WHERE o.id = -t.id); COMMIT;
         INSERT INTO t SELECT j, i, 'again', NULL FROM generate_series(k + 100, k + 110) j ON CONFLICT DO NOTHING;
         DELETE FROM t WHERE id BETWEEN k + 500 AND k + 520; COMMIT;",
    );
    let mut sidecar = case.start();
    case.wait_for_state(&mut sidecar, "t", "streaming");
    stop_writing(&case, writer);
    case.wait_until_current(&mut sidecar);
    sidecar.stop();
    let moved = "SELECT count(*) FROM t WHERE n > 0 AND id > 120000 AND (ctid::text::point)[0] < 10000";
    assert!(
        case.sql(moved).parse::<u32>().unwrap() > 100,
        "no rows moved: nothing was tested"
    );
    case.compare(&["public.t"]);
}

/// A table whose rows say of which time they are, and rows that nobody tells the slot of.
fn table_with_a_gap(case: &Case, rows: u32) {
    case.sql(&format!(
        "CREATE TABLE other (id int PRIMARY KEY, n int); INSERT INTO other VALUES (1, 0);
         CREATE TABLE t (id int PRIMARY KEY, v text, n int, pad text);
         INSERT INTO t SELECT i, 'old', 1, repeat(hash(i), 6) FROM series(1, {rows})"
    ));
}

/// Changes of `t` that are in no log.
fn make_a_gap(case: &Case) {
    let changes = "DELETE FROM t WHERE id % 10 = 0; UPDATE t SET v = 'new'";
    match case.kind() {
        Kind::Postgres(_) => {
            let publication = &case.slot;
            case.sql(&format!("ALTER PUBLICATION {publication} DROP TABLE t"));
            case.sql(changes);
            case.sql(&format!("ALTER PUBLICATION {publication} ADD TABLE t"));
        }
        _ => {
            case.sql(changes);
            case.database.server.purge_logs();
        }
    }
}

/// All rows are of one time, and none is missing of it.
const CONTENT: &str = "select count(*), min(v), max(v) from t";

fn only_old_or_new(seen: &[(u64, serde_json::Value)], rows: u32) {
    let (old, new) = (
        format!("[{rows},\"old\",\"old\"]"),
        format!("[{},\"new\",\"new\"]", rows - rows / 10),
    );
    let mut switched = false;
    for (version, row) in seen {
        let row = row.to_string();
        switched |= row == new;
        let right = if switched { &new } else { &old };
        assert_eq!(&row, right, "version {version} is neither the old content nor the new");
    }
    assert!(switched, "the new content was never seen");
}

fn a_gap_is_closed_in_one_switch_through_kills(kind: Kind) {
    let server = Server::start(kind, &[]);
    const ROWS: u32 = 150_000;
    let mut case = Case::new(&server, "switch_gap");
    case.source = "on_gap = \"resnapshot\"";
    case.snapshot = "max_bytes_per_s = \"15MiB\"";
    table_with_a_gap(&case, ROWS);
    case.catch_up();
    let reader = Follower::start(&case.table("t"), CONTENT);
    make_a_gap(&case);
    // Changes that the new content must have, of rows that the old one has not.
    let writer = Writer::paced(
        &case,
        149_000,
        5,
        &[
            "UPDATE t SET n = n + 1 WHERE id BETWEEN {k} AND {k} + 20",
            "UPDATE t SET id = 1000000 + {i} WHERE id = {k}; UPDATE other SET n = {i}",
        ],
    );
    for life_ms in [300, 900, 1700, 600] {
        let mut sidecar = case.start();
        sleep(Duration::from_millis(life_ms));
        sidecar.assert_running();
        sidecar.kill();
    }
    std::fs::remove_dir_all(case.cache()).unwrap_or_default();
    let mut sidecar = case.start();
    case.wait_for_state(&mut sidecar, "t", "streaming");
    writer.stop();
    case.wait_until_current(&mut sidecar);
    only_old_or_new(&reader.finish(), ROWS);
    assert_eq!(replacements(&case.table("t")).len(), 1);
    case.compare(&[]);
    sidecar.stop();
    nothing_is_left_of_the_copy(&case);
}

/// Neither files of the hidden tables of copies, nor requests.
fn nothing_is_left_of_the_copy(case: &Case) {
    let mut folders = ["copies", "requests"]
        .map(|name| case.lake.join("_tributary").join(name))
        .to_vec();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            // A kill may leave half of a file, under a name that nobody reads.
            let is_half = path.to_string_lossy().contains('#');
            assert!(path.is_dir() || is_half, "{} is left", path.display());
            folders.push(path);
        }
    }
}

fn a_snapshot_asked_for_beside_a_running_program_survives_its_kills(kind: Kind) {
    const ROWS: u32 = 120_000;
    let mut case = Case::new(Server::shared(kind), "snapshot_live");
    case.snapshot = "max_bytes_per_s = \"15MiB\"";
    table_with_a_gap(&case, ROWS);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let before = case.table_status("t").unwrap();
    let mut asked = case
        .snapshot(&[&case.qualified("t")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let reader = Follower::start(&case.table("t"), "select count(*) from t");
    case.wait_for_state(&mut sidecar, "t", "resnapshotting");
    // The others go on meanwhile, and this one is frozen.
    case.sql("DELETE FROM t WHERE id % 10 = 0; UPDATE other SET n = 7; INSERT INTO other VALUES (2, 2)");
    wait_for("the other table", || {
        sidecar.assert_running();
        (case.table_status("other")?.rows == Some(2)).then_some(())
    });
    let now = case.table_status("t").unwrap();
    assert_eq!(
        (now.state.as_str(), now.rows),
        ("resnapshotting", before.rows),
        "{}",
        case.status().text
    );
    for life_ms in [200, 700, 1500] {
        sleep(Duration::from_millis(life_ms));
        assert!(asked.try_wait().unwrap().is_none() || replacements(&case.table("t")).len() == 1);
        sidecar.kill();
        sidecar = case.start();
    }
    let status = wait_for_exit(&mut asked, PATIENCE).expect("the command does not end");
    assert!(status.success(), "tributary snapshot ended with {status}");
    assert_eq!(
        replacements(&case.table("t")).len(),
        1,
        "the command ended before its work was done, or it was done twice"
    );
    case.wait_until_current(&mut sidecar);
    for (version, row) in reader.finish() {
        let row = row.to_string();
        assert!(
            row == "[120000]" || row == "[108000]",
            "version {version} has {row} rows"
        );
    }
    case.compare(&[]);
    sidecar.stop();
    nothing_is_left_of_the_copy(&case);
}

fn a_snapshot_without_a_running_program_is_resumed_after_kills(kind: Kind) {
    let server = Server::start(kind, &[]);
    const ROWS: u32 = 120_000;
    let mut case = Case::new(&server, "snapshot_alone");
    case.snapshot = "max_bytes_per_s = \"15MiB\"";
    table_with_a_gap(&case, ROWS);
    case.catch_up();
    make_a_gap(&case);
    assert_error(&case.run_once(), &["tributary snapshot", &case.qualified("t")]);
    let reader = Follower::start(&case.table("t"), CONTENT);
    for life_ms in [400, 1100, 1900] {
        let mut snapshot = case
            .snapshot(&[])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        sleep(Duration::from_millis(life_ms));
        assert!(snapshot.try_wait().unwrap().is_none_or(|status| status.success()));
        let _ = snapshot.kill();
        snapshot.wait().unwrap();
        case.sql("UPDATE t SET n = n + 1 WHERE id % 97 = 1; UPDATE other SET n = n + 1");
    }
    let output = finish(&mut case.snapshot(&[&case.qualified("t")]));
    assert!(output.status.success(), "{}", text(&output));
    only_old_or_new(&reader.finish(), ROWS);
    case.compare(&[]);
    // A table that wants for nothing can be copied anew as well, several by a pattern.
    let copies = ["t", "other"].map(|table| replacements(&case.table(table)).len());
    let output = finish(&mut case.snapshot(&[&case.qualified("*")]));
    assert!(output.status.success(), "{}", text(&output));
    let again = ["t", "other"].map(|table| replacements(&case.table(table)).len());
    assert_eq!(again, copies.map(|count| count + 1));
    case.compare(&[]);
    nothing_is_left_of_the_copy(&case);
}

fn a_table_that_is_not_known_is_refused_with_those_that_are(kind: Kind) {
    let case = Case::new(Server::shared(kind), "snapshot_unknown");
    case.sql("CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE details (id int PRIMARY KEY)");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    refused(&case);
    sidecar.stop();
    refused(&case);
}

fn refused(case: &Case) {
    let [orders, details, nothing] = ["orders", "details", "nothing"].map(|table| case.qualified(table));
    for names in [&[nothing.as_str()][..], &[&orders, "other.*"]] {
        let output = finish(&mut case.snapshot(names));
        assert_error(&output, &[&orders, &details, names[names.len() - 1]]);
    }
    assert!(replacements(&case.table("orders")).is_empty());
}

fn a_slow_copy_holds_neither_the_slot_nor_the_other_tables_nor_the_vacuum(kind: Kind) {
    let server = Server::start(kind, &[]);
    let mut case = Case::new(&server, "slow_copy");
    // About ten seconds.
    case.snapshot = "parallelism = 2\nmax_bytes_per_s = \"6MiB\"";
    case.sql(
        "CREATE TABLE other (id int PRIMARY KEY, n int); INSERT INTO other VALUES (1, 0);
         CREATE TABLE t (id int PRIMARY KEY, pad text);
         INSERT INTO t SELECT i, repeat(hash(i), 6) FROM series(1, 300000)",
    );
    if !kind.has_slot() {
        // Chunks are cut by the server's statistics, which come some seconds after so many inserts.
        case.sql("ANALYZE TABLE t");
    }
    let confirmed = || {
        let sql =
            "SELECT coalesce(max(confirmed_flush_lsn), '0/0') FROM pg_replication_slots WHERE slot_name = 'slow_copy'";
        Position::parse(&case.sql(sql))
    };
    let oldest = match kind {
        Kind::Postgres(_) => {
            "SELECT coalesce(max(extract(epoch FROM now() - xact_start)), 0) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        }
        _ => "SELECT coalesce(max(timestampdiff(SECOND, trx_started, now())), 0) FROM information_schema.innodb_trx",
    };
    let mut sidecar = case.start();
    case.wait_for_state(&mut sidecar, "t", "snapshotting");
    wait_for("the small table", || {
        (case.table_status("other")?.state == "streaming").then_some(())
    });
    let (start, mut rounds, mut oldest_s, mut lag) = (Instant::now(), 0, 0.0_f64, Duration::ZERO);
    while case.table_status("t").unwrap().state == "snapshotting" {
        sidecar.assert_running();
        rounds += 1;
        case.sql(&format!(
            "UPDATE other SET n = {rounds}; UPDATE t SET pad = 'x' WHERE id = {rounds}"
        ));
        let (position, written) = (case.database.position(), Instant::now());
        wait_for("the small table's change", || {
            oldest_s = oldest_s.max(case.sql(oldest).parse().unwrap());
            (case.table_status("other")?.watermark.covers(&position)).then_some(())
        });
        lag = lag.max(written.elapsed());
        if kind.has_slot() {
            wait_for("the slot", || confirmed().covers(&position).then_some(()));
        }
    }
    let copied = start.elapsed();
    println!("{rounds} rounds in {copied:?}, oldest transaction {oldest_s} s, lag at most {lag:?}");
    assert!(rounds >= 3, "the copy took {copied:?}: nothing was tested");
    assert!(copied > Duration::from_secs(5), "66 MB at 6 MiB/s in {copied:?}");
    assert!(
        oldest_s < copied.as_secs_f64() / 2.0,
        "a transaction of {oldest_s} s in a copy of {copied:?}"
    );
    assert!(lag < Duration::from_secs(3), "the small table waited {lag:?}");
    case.wait_until_current(&mut sidecar);
    sidecar.stop();
    case.compare(&[]);
}

fn the_throttle_is_let_go_by_a_new_configuration(kind: Kind) {
    let mut case = Case::new(Server::shared(kind), "throttle_reload");
    case.snapshot = "max_bytes_per_s = \"512KiB\"";
    case.sql(
        "CREATE TABLE t (id int PRIMARY KEY, pad text);
         INSERT INTO t SELECT i, repeat(hash(i), 6) FROM series(1, 300000)",
    );
    let mut sidecar = case.start();
    case.wait_for_state(&mut sidecar, "t", "snapshotting");
    // Would take two minutes.
    case.snapshot = "max_bytes_per_s = \"1GiB\"";
    case.write_config();
    let start = Instant::now();
    sidecar.reload();
    case.wait_until_current(&mut sidecar);
    assert!(start.elapsed() < Duration::from_secs(30), "took {:?}", start.elapsed());
    sidecar.stop();
    case.compare(&[]);
}
