//! Transactions that PostgreSQL sends while they are open: nothing of them shows before they commit, and nothing at all
//! if they do not.

use std::io::Read;
use std::process::{Child, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::http::{address, metric};
use crate::support::lake::{commits, compactions};
use crate::support::server::{Database, Server};
use crate::support::sidecar::Sidecar;
use crate::support::{Case, Open, assert_error, python, wait_for, wait_for_exit};

/// The server sends a transaction once all that are open have more than this.
const EARLY: &str = "ALTER DATABASE \"{}\" SET logical_decoding_work_mem = '64kB'";

fn send_early(database: &Database) {
    database.sql(&EARLY.replace("{}", &database.name));
}

/// A number of the slot's statistics, which come with some delay.
fn slot_number(case: &Case, column: &str) -> u64 {
    let sql = format!(
        "SELECT coalesce(sum({column}), 0) FROM pg_stat_replication_slots WHERE slot_name = '{}'",
        case.slot
    );
    case.sql(&sql).parse().unwrap()
}

fn interleave(case: &Case, transactions: u32) -> Child {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    println!("seed {seed}");
    let mut child = python("interleave.py")
        .args(["--source", &case.database.socket_url(), "--seed", &seed.to_string()])
        .args(["--transactions", &transactions.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = child.stdout.as_mut().unwrap();
    stdout.read_exact(&mut [0; 6]).expect("the tables");
    child
}

fn interleaved_transactions_are_told_as_they_end(version: u32) {
    let server = Server::start(version, &[("PG_CONF", "max_prepared_transactions = 20")]);
    let mut case = Case::new(&server, &format!("interleaved_{version}"));
    case.max_latency = "500ms";
    send_early(&case.database);
    let mut writer = interleave(&case, 120);
    let mut kills = 0;
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    drop(writer.stdin.take());
    while writer.try_wait().unwrap().is_none() {
        let commits = sidecar.whole_log().matches("committed").count();
        wait_for("a commit, or the end", || {
            sidecar.assert_running();
            let more = sidecar.whole_log().matches("committed").count() > commits;
            (more || writer.try_wait().unwrap().is_some()).then_some(())
        });
        if kills < 5 {
            sidecar.kill();
            kills += 1;
            sidecar = case.start();
        } else {
            wait_for_exit(&mut writer, Duration::from_secs(120)).expect("the writer does not end");
        }
    }
    assert!(writer.wait().unwrap().success(), "the writer failed");
    case.wait_until_settled(&mut sidecar);
    case.wait_until_equal(&mut sidecar);
    let streamed = wait_for("statistics of transactions sent early", || {
        Some(slot_number(&case, "stream_txns")).filter(|count| *count > 0)
    });
    let whole = sidecar
        .whole_log()
        .matches("can't decode a transaction that is open")
        .count();
    println!("{streamed} transactions sent early, {whole} times only whole from there on");
    sidecar.stop();
    case.verify();
}

#[test]
fn interleaved_transactions_are_told_as_they_end_14() {
    interleaved_transactions_are_told_as_they_end(14);
}

#[test]
fn interleaved_transactions_are_told_as_they_end_16() {
    interleaved_transactions_are_told_as_they_end(16);
}

#[test]
fn interleaved_transactions_are_told_as_they_end_18() {
    interleaved_transactions_are_told_as_they_end(18);
}

/// Waits until the source need not send again what is there.
fn confirmed(case: &Case, sidecar: &mut Sidecar) {
    case.sql("INSERT INTO other SELECT count(*) FROM other");
    case.wait_until_current(sidecar);
    let end = case.sql("SELECT pg_current_wal_lsn()");
    wait_for("what was sent to be confirmed", || {
        sidecar.assert_running();
        let confirmed = format!(
            "SELECT confirmed_flush_lsn >= '{end}' FROM pg_replication_slots WHERE slot_name = '{}'",
            case.slot
        );
        (case.sql(&confirmed) == "t").then_some(())
    });
}

fn spilled(address: &str) -> f64 {
    metric(address, "tributary_spilled_bytes").unwrap()
}

/// Waits until more than that of what is open is here.
fn wait_until_sent(address: &str, bytes: f64) {
    wait_for("what is open", || (spilled(address) > bytes).then_some(()));
}

/// The server does not tell that a subtransaction was rolled back if it had to spill more than 4096 of its changes before
/// they were sent. It has to where a new connection has got what came before them, and while a value is not whole yet.
fn rolled_back_parts_leave_nothing(version: u32) {
    let mut case = Case::new(Server::shared(version), &format!("rolled_back_{version}"));
    case.max_latency = "500ms";
    send_early(&case.database);
    case.sql(
        "CREATE TABLE t (id int PRIMARY KEY, pad text); ALTER TABLE t ALTER pad SET STORAGE EXTERNAL;
         CREATE TABLE other (id int PRIMARY KEY)",
    );
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let rows = |from: u32, to: u32| {
        format!("INSERT INTO t SELECT i, repeat(md5(i::text), 4) FROM generate_series({from}, {to}) i")
    };
    let mut open = Open::begin(&case, &format!("SAVEPOINT a; {}", rows(10_000, 16_000)));
    open.run(&format!("SAVEPOINT b; {}; RELEASE b", rows(20_000, 26_000)));
    confirmed(&case, &mut sidecar);
    sidecar.kill();
    case.http = "listen = \"127.0.0.1:0\"";
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let address = address(&sidecar);
    open.run(&format!("SAVEPOINT c; {}", rows(30_000, 32_000)));
    wait_until_sent(&address, 1e6);
    open.run(&format!("ROLLBACK TO a; {}", rows(40_000, 40_010)));
    open.run(&format!("SAVEPOINT d; {}; RELEASE d", rows(50_000, 56_000)));
    open.end("COMMIT");
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);

    let value =
        |id: u32| format!("INSERT INTO t SELECT {id}, string_agg(md5(i::text), '') FROM generate_series(1, 400000) i");
    let mut open = Open::begin(&case, &format!("SAVEPOINT a; {}", value(1)));
    open.run(&format!("SAVEPOINT b; {}", rows(60_000, 62_000)));
    wait_until_sent(&address, 12e6);
    open.run(&format!(
        "ROLLBACK TO a; {}; SAVEPOINT c; {}",
        rows(70_000, 70_010),
        value(2)
    ));
    open.end("COMMIT");
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();
}

/// As above, with what describes tables: by the part that is rolled back, and by others after it.
fn rolled_back_descriptions_count_for_nothing(version: u32) {
    let mut case = Case::new(Server::shared(version), &format!("rolled_back_columns_{version}"));
    case.max_latency = "500ms";
    send_early(&case.database);
    for table in ["t", "u"] {
        case.sql(&format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, pad text, n int); INSERT INTO {table} VALUES (0, 'old', 1)"
        ));
    }
    case.sql("CREATE TABLE other (id int PRIMARY KEY)");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let rows = |table: &str, from: u32, to: u32| {
        format!("INSERT INTO {table} SELECT i, repeat(md5(i::text), 4), i FROM generate_series({from}, {to}) i")
    };
    let changes = [
        ("ALTER TABLE t ADD x int;", ""),
        ("ALTER TABLE t RENAME n TO m;", ""),
        ("", "ALTER TABLE t ADD y int; UPDATE t SET y = 1 WHERE id < 10"),
    ];
    case.http = "listen = \"127.0.0.1:0\"";
    for (round, (within, beside)) in changes.iter().enumerate() {
        let first = 100_000 * (round as u32 + 1);
        let mut open = Open::begin(
            &case,
            &format!("SAVEPOINT a; {within} {}", rows("t", first, first + 6000)),
        );
        confirmed(&case, &mut sidecar);
        sidecar.kill();
        sidecar = Sidecar::start(case.command("run"), &case.folder.join(format!("round{round}.log")));
        case.wait_until_current(&mut sidecar);
        let address = address(&sidecar);
        open.run(&format!("SAVEPOINT b; {}", rows("u", first, first + 2000)));
        wait_until_sent(&address, 5e5);
        open.run("ROLLBACK TO a");
        if !beside.is_empty() {
            case.sql(beside);
        }
        open.run(&rows("t", first + 10_000, first + 10_010));
        open.end("COMMIT");
        case.wait_until_settled(&mut sidecar);
        case.compare(&[]);
    }
    case.assert_not_copied_anew(&["t", "u", "other"]);
    sidecar.stop();
}

#[test]
fn rolled_back_parts_leave_nothing_14() {
    rolled_back_parts_leave_nothing(14);
}

#[test]
fn rolled_back_parts_leave_nothing_18() {
    rolled_back_parts_leave_nothing(18);
}

#[test]
fn rolled_back_descriptions_count_for_nothing_14() {
    rolled_back_descriptions_count_for_nothing(14);
}

#[test]
fn rolled_back_descriptions_count_for_nothing_18() {
    rolled_back_descriptions_count_for_nothing(18);
}

#[test]
fn what_is_open_is_on_disk_and_not_in_the_lake() {
    const ROWS: u32 = 400_000;
    let mut case = Case::new(Server::shared(16), "on_disk");
    case.max_latency = "500ms";
    case.http = "listen = \"127.0.0.1:0\"";
    send_early(&case.database);
    case.sql("CREATE TABLE t (id int PRIMARY KEY, n int, pad text); CREATE TABLE small (id int PRIMARY KEY)");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let address = address(&sidecar);
    let rows = "INSERT INTO t SELECT i, 0, repeat(md5(i::text), 10) FROM generate_series({}) i";
    let many = rows.replace("{}", &format!("1, {ROWS}"));
    let open = Open::begin(&case, &format!("{many}; UPDATE t SET n = 1 WHERE id % 3 = 0"));
    let given_up = Open::begin(&case, &rows.replace("{}", &format!("{ROWS} + 1, {ROWS} + 100000")));
    wait_until_sent(&address, 100e6);
    case.sql("INSERT INTO small VALUES (1)");
    wait_for("what is committed", || {
        case.table_status("small")
            .is_some_and(|table| table.rows == Some(1))
            .then_some(())
    });
    assert_eq!(case.table_status("t").unwrap().rows, Some(0));
    given_up.end("ROLLBACK");
    let before = commits(&case.table("t")).len();
    open.end("COMMIT");
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    // A compaction may have come already.
    let commits = commits(&case.table("t")).len() - before - compactions(&case.table("t")).len();
    assert_eq!(commits, 1, "one transaction became {commits} versions");
    assert_eq!(slot_number(&case, "spill_txns"), 0, "the server wrote to its own disk");
    wait_for("the disk is given back", || (spilled(&address) == 0.0).then_some(()));
    let peak = sidecar.peak_mib();
    println!("peak {peak} MiB");
    assert!(peak < 300, "{peak} MiB");
    sidecar.stop();
}

#[test]
fn without_room_the_server_keeps_them() {
    let mut case = Case::new(Server::shared(15), "spill_full");
    case.max_latency = "500ms";
    send_early(&case.database);
    case.sql("CREATE TABLE t (id int PRIMARY KEY, pad text); CREATE TABLE other (id int PRIMARY KEY)");
    let start = |max: &str| {
        let mut command = case.command("run");
        command.env("TRIBUTARY_APPLY_SPILL_MAX", max);
        Sidecar::start(command, &case.folder.join("sidecar.log"))
    };
    let mut sidecar = start("1MiB");
    case.wait_until_current(&mut sidecar);
    let rows = "INSERT INTO t SELECT i, repeat(md5(i::text), 10) FROM generate_series({}) i";
    let open = Open::begin(&case, &rows.replace("{}", "1, 50000"));
    sidecar.wait_for_log("cannot keep what large transactions");
    // The others do not wait for it.
    case.sql("INSERT INTO other VALUES (1)");
    wait_for("the other table", || {
        case.table_status("other")
            .is_some_and(|table| table.rows == Some(1))
            .then_some(())
    });
    open.end("COMMIT");
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    wait_for("statistics of what the server kept", || {
        (slot_number(&case, "spill_txns") > 0).then_some(())
    });
    sidecar.kill();

    // The backlog has one that has no room, too.
    case.sql(&rows.replace("{}", "50001, 90000"));
    let output = case
        .command("run")
        .arg("--once")
        .env("TRIBUTARY_APPLY_SPILL_MAX", "1MiB")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", crate::support::text(&output));
    case.compare(&[]);

    let streamed = slot_number(&case, "stream_txns");
    let mut sidecar = start("off");
    case.sql(&rows.replace("{}", "90001, 99999"));
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    assert_eq!(slot_number(&case, "stream_txns"), streamed);
    sidecar.stop();
}

#[test]
fn a_large_transaction_that_nobody_follows_keeps_nothing_from_its_turn() {
    let server = Server::start(16, &[("PG_CONF", "wal_sender_timeout = 2s")]);
    let mut case = Case::new(&server, "unfollowed");
    case.max_latency = "500ms";
    case.sql("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE unfollowed (id int PRIMARY KEY, pad text)");
    case.sql(&format!("CREATE PUBLICATION {} FOR ALL TABLES", case.slot));
    case.tables = vec!["public.t".to_owned()];
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    // More than is read from the spool in that time.
    case.sql("INSERT INTO unfollowed SELECT i, repeat(md5(i::text), 60) FROM generate_series(1, 500000) i");
    case.sql("INSERT INTO t VALUES (1)");
    wait_for("the row after it", || {
        sidecar.assert_running();
        case.table_status("t")
            .is_some_and(|table| table.rows == Some(1))
            .then_some(())
    });
    assert!(!sidecar.whole_log().contains("interrupted"), "{}", sidecar.log());
    sidecar.stop();
}

#[test]
fn a_slot_that_decodes_two_phase_commits_is_refused() {
    let case = Case::new(Server::shared(16), "two_phase");
    case.sql("CREATE TABLE t (id int PRIMARY KEY)");
    case.sql("SELECT pg_create_logical_replication_slot('two_phase', 'pgoutput', false, true)");
    assert_error(&case.run_once(), &["two-phase", "source.slot"]);
}
