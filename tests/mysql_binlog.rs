//! Forms of the binlog: row images, compression, partial documents, transactions of all sizes, logs that are removed.

use std::time::Duration;

use crate::support::lake::{commits, compactions, replacements};
use crate::support::server::{Kind, MARIADB, Server};
use crate::support::{Case, assert_error, on_mysql_and_mariadb, text, wait_for};

on_mysql_and_mariadb! {
    row_images_that_leave_values_out
    row_images_that_change_while_the_program_runs
    compressed_events_are_read
    checksums_may_be_off
    a_transaction_larger_than_memory_is_one_version
    a_transaction_of_many_large_rows_stays_within_memory
    many_files_of_log_are_read_in_order
    a_table_that_leaves_the_stream_takes_nothing_of_the_others
    an_idle_table_goes_on_while_logs_are_removed
    statements_in_the_log_stop_the_table_and_not_in_silence
    savepoints_and_rollbacks_leave_nothing
    foreign_keys_that_cascade_are_followed
}

/// Values that one change leaves out and another one needs.
const CHANGES: &str = "
    UPDATE t SET n = n + 1 WHERE id % 2 = 0; UPDATE t SET big = concat('new', id) WHERE id % 5 = 0;
    BEGIN; UPDATE t SET id = id + 1000 WHERE id <= 50; UPDATE t SET id = id - 1000, n = n + 1 WHERE id > 1000; COMMIT;
    BEGIN; UPDATE t SET id = 0 WHERE id = 1; UPDATE t SET id = 1 WHERE id = 2; UPDATE t SET id = 2 WHERE id = 3; UPDATE t SET id = 3 WHERE id = 0; COMMIT;
    BEGIN; DELETE FROM t WHERE id = 10; UPDATE t SET id = 10 WHERE id = 11; COMMIT; UPDATE t SET id = 11 WHERE id = 12; UPDATE t SET n = n + 1 WHERE id = 11;
    UPDATE t SET id = 12 WHERE id = 10; UPDATE t SET big = NULL, doc = NULL, small = NULL WHERE id = 20; UPDATE t SET n = n + 1 WHERE id = 20;
    INSERT INTO t (id) VALUES (60), (61); UPDATE t SET small = 's' WHERE id = 60; DELETE FROM t WHERE id IN (60, 61);
    UPDATE pair SET n = n + 1; UPDATE pair SET b = concat(b, '!') WHERE a % 3 = 0; UPDATE pair SET n = n + 1 WHERE a % 2 = 0; DELETE FROM pair WHERE a = 7; INSERT INTO pair VALUES (7, 'seven', 0, NULL);
    UPDATE keyed SET n = n + 1 WHERE code % 2 = 0; UPDATE keyed SET code = -code WHERE code % 7 = 0; DELETE FROM keyed WHERE code % 11 = 0; INSERT INTO keyed (code) VALUES (11), (22), (33), (44)";

fn tables_of_images(case: &Case) {
    case.sql(
        "CREATE TABLE t (id int PRIMARY KEY, n int DEFAULT 3, small varchar(20), big mediumtext, doc json, raw blob);
         INSERT INTO t SELECT i, 0, concat('s', i), repeat(hash(i), 100), concat('{\"k\": ', i, '}'), unhex(hash(i)) FROM series(1, 50);
         CREATE TABLE pair (a int NOT NULL, b varchar(200) NOT NULL, n int, big longtext, PRIMARY KEY (b, a));
         INSERT INTO pair SELECT i, hash(i), 0, repeat('x', 5000) FROM series(1, 50);
         CREATE TABLE keyed (code int NOT NULL, n int DEFAULT 5, big text, UNIQUE KEY (code));
         INSERT INTO keyed SELECT i, 1, repeat('y', 300) FROM series(1, 50)",
    );
}

fn row_images_that_leave_values_out(kind: Kind) {
    for image in ["MINIMAL", "NOBLOB"] {
        for metadata in ["MINIMAL", "FULL"] {
            let lines = format!("binlog_row_image = {image}\nbinlog_row_metadata = {metadata}");
            let server = Server::configured(kind, &lines);
            for max_latency in ["1ms", "2s"] {
                let mut case = Case::new(&server, &format!("images_{max_latency}"));
                case.max_latency = max_latency;
                tables_of_images(&case);
                let mut sidecar = case.start();
                case.wait_until_current(&mut sidecar);
                for _ in 0..2 {
                    case.sql(CHANGES);
                    case.wait_until_current(&mut sidecar);
                    case.compare(&[]);
                }
                sidecar.kill();
                // What changed meanwhile comes as one batch, after a rebuild of the key index.
                case.sql(CHANGES);
                case.sql(CHANGES);
                std::fs::remove_dir_all(case.cache()).unwrap_or_default();
                case.catch_up();
                case.compare(&[]);
            }
        }
    }
}

fn row_images_that_change_while_the_program_runs(kind: Kind) {
    let case = Case::new(Server::shared(kind), "images_mixed");
    tables_of_images(&case);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    for image in ["MINIMAL", "FULL", "NOBLOB"] {
        case.sql(&format!("SET SESSION binlog_row_image = {image}; {CHANGES}"));
    }
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();
}

fn compressed_events_are_read(kind: Kind) {
    let lines = match kind {
        Kind::MySql => "binlog_transaction_compression = ON",
        _ => "log_bin_compress = ON\nlog_bin_compress_min_len = 10",
    };
    let server = Server::configured(kind, lines);
    let case = Case::new(&server, "compressed");
    tables_of_images(&case);
    case.sql("CREATE TABLE skipped (id int PRIMARY KEY, v text); CREATE TABLE random (id int PRIMARY KEY, v blob)");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.sql(CHANGES);
    // Some transactions are compressed and some aren't, and some compress badly.
    if kind == Kind::MySql {
        case.sql("SET SESSION binlog_transaction_compression = OFF; UPDATE t SET n = n + 1; SET SESSION binlog_transaction_compression = ON; UPDATE t SET n = n + 1");
    }
    case.sql(
        "INSERT INTO random SELECT i, unhex(sha2(i, 512)) FROM series(1, 3000);
         BEGIN; INSERT INTO skipped SELECT i, repeat('z', 1000) FROM series(1, 5000); UPDATE t SET n = -n; DELETE FROM skipped WHERE id % 2 = 0; COMMIT;
         ALTER TABLE t ADD c int; UPDATE t SET c = 5 WHERE id % 2 = 1; TRUNCATE pair; INSERT INTO pair VALUES (1, 'a', 1, NULL)",
    );
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    sidecar.kill();
    case.sql(CHANGES);
    case.catch_up();
    case.compare(&[]);
}

fn checksums_may_be_off(kind: Kind) {
    let server = Server::configured(kind, "binlog_checksum = NONE");
    let case = Case::new(&server, "checksums");
    tables_of_images(&case);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.sql(CHANGES);
    // Files with and without checksums follow each other.
    for checksum in ["CRC32", "NONE"] {
        server.sql(&format!("SET GLOBAL binlog_checksum = {checksum}"));
        case.sql(CHANGES);
    }
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();
}

fn a_transaction_larger_than_memory_is_one_version(kind: Kind) {
    const ROWS: u32 = 300_000;
    let case = Case::new(Server::shared(kind), "large");
    case.sql("CREATE TABLE large (id int PRIMARY KEY, n int, pad varchar(600)); CREATE TABLE small (id int PRIMARY KEY, n int); INSERT INTO small VALUES (1, 0)");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let before = commits(&case.table("large")).len();
    case.sql(&format!(
        "BEGIN; INSERT INTO large SELECT i, 0, repeat(hash(i), 15) FROM series(1, {ROWS}); UPDATE small SET n = 1;
         UPDATE large SET n = 1 WHERE id % 3 = 0; DELETE FROM large WHERE id % 10 = 0; COMMIT"
    ));
    case.wait_until_current(&mut sidecar);
    let peak = sidecar.peak_mib();
    println!("peak {peak} MiB");
    // A compaction may have come already.
    let commits = commits(&case.table("large")).len() - before - compactions(&case.table("large")).len();
    assert_eq!(commits, 1, "one transaction became {commits} versions");
    case.compare(&[]);
    assert!(peak < 450, "{peak} MiB");
    sidecar.stop();
}

fn a_transaction_of_many_large_rows_stays_within_memory(kind: Kind) {
    let server = Server::configured(kind, "max_allowed_packet = 64M");
    let case = Case::new(&server, "large_rows");
    case.sql("CREATE TABLE t (id int PRIMARY KEY, n int, big longblob); INSERT INTO t VALUES (0, 0, NULL)");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    // Rows of 4 and of 20 MiB; a row event has more than one of them, or one larger than 16 MiB, a packet's limit.
    case.sql(
        "BEGIN; INSERT INTO t SELECT i, 0, repeat(unhex(hash(i)), 262144) FROM series(1, 60); UPDATE t SET n = 1 WHERE id < 30; COMMIT;
         INSERT INTO t SELECT i, 0, repeat(unhex(hash(i)), 1310720) FROM series(101, 104); UPDATE t SET n = 2 WHERE id > 100; DELETE FROM t WHERE id = 103",
    );
    case.wait_until_current(&mut sidecar);
    println!("peak {} MiB", sidecar.peak_mib());
    case.compare(&[]);
    sidecar.stop();
}

fn many_files_of_log_are_read_in_order(kind: Kind) {
    let server = Server::configured(kind, "max_binlog_size = 64K");
    let case = Case::new(&server, "files");
    case.sql("CREATE TABLE t (id int PRIMARY KEY, v text)");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    for round in 0..40 {
        case.sql(&format!(
            "INSERT INTO t SELECT {round} * 100 + i, repeat('x', 500) FROM series(1, 100); UPDATE t SET v = '{round}' WHERE id % 40 = {round}; FLUSH BINARY LOGS"
        ));
        if round == 20 {
            sidecar.kill();
            sidecar = case.start();
        }
    }
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    // A new file each time the server starts.
    for _ in 0..2 {
        server.stop("fast");
        server.start_again();
        case.sql("UPDATE t SET v = concat(v, '+') WHERE id % 3 = 0");
    }
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();
}

fn an_idle_table_goes_on_while_logs_are_removed(kind: Kind) {
    let server = Server::start(kind, &[]);
    let case = Case::new(&server, "idle");
    case.sql("CREATE TABLE idle (id int PRIMARY KEY); INSERT INTO idle VALUES (1); CREATE TABLE busy (id int PRIMARY KEY, n int); INSERT INTO busy VALUES (1, 0)");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    for round in 1..4 {
        for _ in 0..10 {
            case.sql("UPDATE busy SET n = n + 1; CREATE DATABASE IF NOT EXISTS elsewhere; CREATE TABLE IF NOT EXISTS elsewhere.x (id int)");
        }
        case.wait_until_current(&mut sidecar);
        server.purge_logs();
        // A restart finds where it was, though the idle table has seen no change since its copy.
        sidecar.kill();
        sidecar = case.start();
        case.sql(&format!("UPDATE busy SET n = -{round}"));
        case.wait_until_current(&mut sidecar);
    }
    case.sql("INSERT INTO idle VALUES (2)");
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    assert!(replacements(&case.table("idle")).is_empty() && replacements(&case.table("busy")).is_empty());

    // All of it idle: what others write moves the position as well.
    for _ in 0..5 {
        case.sql("INSERT INTO elsewhere.x VALUES (1)");
        let position = case.database.position();
        wait_for("the position to move on", || {
            let status = case.status();
            status
                .tables
                .iter()
                .all(|t| t.watermark.covers(&position))
                .then_some(())
        });
        server.purge_logs();
    }
    sidecar.stop();
    case.catch_up();
    case.sql("DROP DATABASE elsewhere");
}

fn statements_in_the_log_stop_the_table_and_not_in_silence(kind: Kind) {
    let case = Case::new(Server::shared(kind), "statements");
    case.sql("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, i FROM series(1, 100); CREATE TABLE u (id int PRIMARY KEY)");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.sql("SET SESSION binlog_format = STATEMENT; UPDATE t SET v = v + 1 WHERE id < 50");
    // Whether it is copied anew or stalls: never taken for equal while it is not.
    let state = wait_for("a word about it", || {
        let status = case.table_status("t")?;
        let told = status.state != "streaming" || !replacements(&case.table("t")).is_empty();
        told.then_some(status)
    });
    println!("{}: {}", state.state, state.reason);
    case.sql("INSERT INTO u VALUES (1)");
    wait_for("the other table", || {
        (case.table_status("u")?.rows == Some(1)).then_some(())
    });
    sidecar.stop();
}

/// Copies begin and end anywhere in the log, also between a table's description and its rows.
fn a_table_that_leaves_the_stream_takes_nothing_of_the_others(kind: Kind) {
    let case = Case::new(Server::shared(kind), "leaving");
    let tables = |statement: &str| -> String { (0..12).map(|i| statement.replace("{i}", &i.to_string())).collect() };
    case.sql("CREATE TABLE counted (id int PRIMARY KEY, v int, pad text); INSERT INTO counted SELECT i, 0, repeat(hash(i), 6) FROM series(1, 20000)");
    case.sql(&tables(
        "CREATE TABLE t{i} (id int PRIMARY KEY, v int); INSERT INTO t{i} VALUES (1, 1);",
    ));
    case.catch_up();
    for ty in ["bigint", "smallint"] {
        // A change of a type is a copy. One description precedes all rows of a statement.
        case.sql(&tables(&format!(
            "ALTER TABLE t{{i}} MODIFY v {ty}; UPDATE counted SET v = v + 1;"
        )));
        case.catch_up();
        case.compare(&[]);
    }
}

fn savepoints_and_rollbacks_leave_nothing(kind: Kind) {
    let mut case = Case::new(Server::shared(kind), "savepoints");
    case.sql("CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE plain (id int PRIMARY KEY, v int) ENGINE = MyISAM; INSERT INTO t SELECT i, 0 FROM series(1, 100)");
    case.tables = vec![format!("{}.t", case.database.schema())];
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.sql(
        "BEGIN; UPDATE t SET v = 1 WHERE id < 10; SAVEPOINT s; UPDATE t SET v = 2 WHERE id < 20; ROLLBACK TO s; DELETE FROM t WHERE id = 50; COMMIT;
         BEGIN; DELETE FROM t; ROLLBACK; BEGIN; SAVEPOINT a; INSERT INTO t VALUES (500, 1); ROLLBACK TO a; COMMIT;
         BEGIN; INSERT INTO t VALUES (501, 1); DELETE FROM t WHERE id = 501; COMMIT;
         INSERT INTO plain VALUES (1, 1), (2, 2); BEGIN; INSERT INTO t VALUES (502, 1); ROLLBACK; UPDATE plain SET v = 3; DELETE FROM plain WHERE id = 1;
         REPLACE INTO t VALUES (1, 9), (600, 9); INSERT INTO t VALUES (2, 8), (601, 8) ON DUPLICATE KEY UPDATE v = 10; UPDATE t SET id = id + 10000 ORDER BY id DESC LIMIT 5",
    );
    // A table that knows no transactions, written to in one that is rolled back.
    let mixed = "BEGIN; INSERT INTO plain VALUES (9, 9); UPDATE t SET v = 77; INSERT INTO plain VALUES (10, 10); ROLLBACK; INSERT INTO t VALUES (700, 7)";
    if kind != Kind::MySql {
        case.sql(mixed);
    }
    // Two parts of one decision.
    case.sql("XA START 'one'; UPDATE t SET v = 5 WHERE id = 5; XA END 'one'; XA PREPARE 'one'; XA COMMIT 'one';
              XA START 'two'; UPDATE t SET v = 6 WHERE id = 6; XA END 'two'; XA COMMIT 'two' ONE PHASE;
              XA START 'three'; UPDATE t SET v = 7 WHERE id = 7; XA END 'three'; XA PREPARE 'three'; XA ROLLBACK 'three'");
    case.wait_until_current(&mut sidecar);
    case.compare(&["t"]);
    // Prepared, and decided after the program was killed.
    case.sql("XA START 'late'; UPDATE t SET v = 55 WHERE id = 15; XA END 'late'; XA PREPARE 'late'");
    case.sql("UPDATE t SET v = 56 WHERE id = 16");
    case.wait_until_current(&mut sidecar);
    sidecar.kill();
    case.sql("XA COMMIT 'late'; UPDATE t SET v = 57 WHERE id = 17");
    case.catch_up();
    case.compare(&["t"]);
}

fn foreign_keys_that_cascade_are_followed(kind: Kind) {
    let case = Case::new(Server::shared(kind), "cascade");
    case.sql(
        "CREATE TABLE parent (id int PRIMARY KEY, v int); CREATE TABLE child (id int PRIMARY KEY, parent int, FOREIGN KEY (parent) REFERENCES parent (id) ON DELETE CASCADE ON UPDATE CASCADE);
         INSERT INTO parent SELECT i, i FROM series(1, 50); INSERT INTO child SELECT i, 1 + i % 50 FROM series(1, 500)",
    );
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.sql("DELETE FROM parent WHERE id % 5 = 0; UPDATE parent SET id = id + 1000 WHERE id % 3 = 0; DELETE FROM parent WHERE id > 1040");
    case.wait_until_current(&mut sidecar);
    // MySQL before 9.6, and MariaDB, leave to the engine what cascades: no log tells of it.
    let comparison = case.comparison(&[]);
    println!("{}", text(&comparison));
    case.compare(&["parent"]);
    sidecar.stop();
}

#[test]
fn documents_changed_in_part_are_whole() {
    let server = Server::configured(Kind::MySql, "binlog_row_value_options = PARTIAL_JSON");
    let case = Case::new(&server, "partial");
    case.sql(
            "CREATE TABLE t (id int PRIMARY KEY, n int, doc json, other json);
             INSERT INTO t SELECT i, 0, JSON_OBJECT('a', i, 'list', JSON_ARRAY(1, 2, 3), 'pad', REPEAT('x', 500), 'deep', JSON_OBJECT('k', 'value')), JSON_ARRAY(REPEAT('y', 300), i) FROM series(1, 40)",
        );
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let changes = "
            UPDATE t SET doc = JSON_SET(doc, '$.a', 1000 + id) WHERE id % 2 = 0; UPDATE t SET doc = JSON_REPLACE(doc, '$.list[1]', 'two') WHERE id % 3 = 0;
            UPDATE t SET doc = JSON_REMOVE(doc, '$.deep.k'), n = n + 1 WHERE id % 5 = 0; UPDATE t SET doc = JSON_SET(doc, '$.new', JSON_OBJECT('x', 1.5)) WHERE id % 7 = 0;
            UPDATE t SET other = JSON_SET(other, '$[0]', 'short'), doc = JSON_SET(doc, '$.pad', 'z') WHERE id % 11 = 0;
            BEGIN; UPDATE t SET doc = JSON_SET(doc, '$.a', -1) WHERE id = 1; UPDATE t SET doc = JSON_SET(doc, '$.a', -2) WHERE id = 1; UPDATE t SET id = 101 WHERE id = 1; UPDATE t SET doc = JSON_SET(doc, '$.b', 'ü') WHERE id = 101; COMMIT;
            UPDATE t SET id = 1 WHERE id = 101; UPDATE t SET doc = '[]' WHERE id = 13; UPDATE t SET doc = JSON_ARRAY_APPEND(doc, '$', 1) WHERE id = 13; UPDATE t SET doc = NULL WHERE id = 17;
            UPDATE t SET doc = JSON_SET(doc, '$.a', id) WHERE id > 30";
    case.sql(changes);
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    sidecar.kill();
    case.sql(changes);
    case.sql(changes);
    case.catch_up();
    case.compare(&[]);
    // The image before has not what the difference is to.
    server.sql("SET GLOBAL binlog_row_image = MINIMAL");
    assert_error(
        &case.run_once(),
        &["PARTIAL_JSON", "MINIMAL", "SET PERSIST binlog_row_image = 'FULL'"],
    );
}

#[test]
fn gtids_may_be_off() {
    let server = Server::configured(Kind::MySql, "gtid_mode = OFF\nenforce_gtid_consistency = OFF");
    let case = Case::new(&server, "no_gtids");
    // Nothing else tells when what is in the log is visible.
    server.sql("GRANT PROCESS ON *.* TO tributary");
    tables_of_images(&case);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    for round in 0..3 {
        case.sql(CHANGES);
        server.sql("FLUSH BINARY LOGS");
        case.sql(&format!("UPDATE t SET n = {round}"));
        sidecar.kill();
        case.sql(CHANGES);
        sidecar = case.start();
        case.wait_until_current(&mut sidecar);
        case.compare(&[]);
    }
    // They are switched on while the program runs, step by step, and off again.
    for mode in [
        "OFF_PERMISSIVE",
        "ON_PERMISSIVE",
        "ON",
        "ON_PERMISSIVE",
        "OFF_PERMISSIVE",
    ] {
        if mode == "ON_PERMISSIVE" {
            server.sql("SET GLOBAL enforce_gtid_consistency = ON");
        }
        if mode == "ON" {
            // Transactions without a GTID are not sent any more from here on.
            let position = server.position();
            wait_for("the lake's position", || {
                case.status().confirmed.covers(&position).then_some(())
            });
        }
        server.sql(&format!("SET GLOBAL gtid_mode = {mode}"));
        case.sql(CHANGES);
        case.wait_until_current(&mut sidecar);
        case.compare(&[]);
        sidecar.kill();
        case.sql(CHANGES);
        sidecar = case.start();
        case.wait_until_current(&mut sidecar);
        case.compare(&[]);
    }
    sidecar.stop();
}

#[test]
fn tagged_gtids_and_those_of_others_are_counted() {
    let server = Server::start(Kind::MySql, &[]);
    let case = Case::new(&server, "tags");
    case.sql("CREATE TABLE t (id int PRIMARY KEY, v int)");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    for round in 0..3 {
        case.sql(&format!(
            "SET gtid_next = 'AUTOMATIC:tag_{round}'; INSERT INTO t VALUES ({round}, 0); SET gtid_next = AUTOMATIC; INSERT INTO t VALUES (10 + {round}, 0);
             SET gtid_next = '3e11fa47-71ca-11e1-9e33-c80aa9429562:{n}'; INSERT INTO t VALUES (20 + {round}, 0); SET gtid_next = AUTOMATIC;
             SET gtid_next = '3e11fa47-71ca-11e1-9e33-c80aa9429562:{m}'; BEGIN; COMMIT; SET gtid_next = AUTOMATIC",
            n = 100 - round * 7,
            m = 200 + round
        ));
        case.wait_until_current(&mut sidecar);
        case.compare(&[]);
        sidecar.kill();
        case.sql(&format!("UPDATE t SET v = {round} + 1"));
        sidecar = case.start();
    }
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();
}

#[test]
fn domains_of_mariadb_are_followed_each_on_its_own() {
    let server = Server::start(MARIADB, &[]);
    let case = Case::new(&server, "domains");
    case.sql("CREATE TABLE t (id int PRIMARY KEY, v int)");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    for round in 0..3 {
        case.sql(&format!(
            "SET gtid_domain_id = 7; INSERT INTO t VALUES ({round}, 0); SET gtid_domain_id = 0; INSERT INTO t VALUES (10 + {round}, 0);
             SET gtid_domain_id = 4294967295; SET server_id = 77; INSERT INTO t VALUES (20 + {round}, 0)"
        ));
        case.wait_until_current(&mut sidecar);
        case.compare(&[]);
        sidecar.kill();
        case.sql(&format!("SET gtid_domain_id = {round}; UPDATE t SET v = {round} + 1"));
        sidecar = case.start();
    }
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();
}

#[test]
fn a_quiet_server_is_no_lost_connection() {
    let server = Server::configured(
        Kind::MySql,
        "net_read_timeout = 3\nnet_write_timeout = 3\nwait_timeout = 3\ninteractive_timeout = 3",
    );
    let case = Case::new(&server, "quiet");
    case.sql("CREATE TABLE t (id int PRIMARY KEY)");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    std::thread::sleep(Duration::from_secs(8));
    case.sql("INSERT INTO t VALUES (1)");
    case.wait_until_current(&mut sidecar);
    let log = sidecar.whole_log();
    assert!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
    case.compare(&[]);
    sidecar.stop();
}

#[test]
fn a_log_without_rows_is_refused() {
    let server = Server::configured(Kind::MySql, "skip_log_bin");
    let case = Case::new(&server, "no_log");
    case.sql("CREATE TABLE t (id int PRIMARY KEY)");
    assert_error(&case.run_once(), &["log_bin"]);
}
