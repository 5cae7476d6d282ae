//! A pause: what is complete is committed, nothing more is read, the connection stays, and nothing is lost.

use crate::support::http::{TOKEN, WITH_TOKEN, address, get, metric, post};
use crate::support::lake::{commits, record};
use crate::support::server::{Kind, MONGO, POSTGRES, Server};
use crate::support::sidecar::Sidecar;
use crate::support::writer::Writer;
use crate::support::{Case, on_every_source, wait_for};

on_every_source! {
    what_is_written_in_a_pause_comes_after_it
}

fn pause(address: &str) {
    let answer = post(address, "/pause", TOKEN, "");
    assert_eq!((answer.status, answer.json()["status"].as_str()), (202, Some("paused")));
    wait_for("what is complete", || {
        let status = get(address, "/status").json();
        (status["paused"]["at_rest"] == true).then_some(())
    });
}

fn resume(address: &str) {
    let answer = post(address, "/resume", TOKEN, "");
    assert_eq!(answer.status, 202);
    assert!(answer.json()["paused_since"].is_string(), "{}", answer.body);
}

/// What the newest commit of the table remembers, whatever was compacted.
fn newest(case: &Case) -> Option<serde_json::Value> {
    commits(&case.table("t")).iter().rev().find_map(|commit| record(commit))
}

/// The pause lasts longer than this, by the program's own clock.
fn lasts(address: &str, sidecar: &mut Sidecar, seconds: f64) {
    wait_for("the pause to last", || {
        sidecar.assert_running();
        (metric(address, "tributary_paused_seconds")? > seconds).then_some(())
    });
}

/// Nothing was interrupted since the start.
fn assert_steady(address: &str, sidecar: &Sidecar) {
    let errors = metric(address, "tributary_errors_total{class=\"transient\"}");
    assert_eq!(errors, Some(0.0), "{}", sidecar.log());
}

fn what_is_written_in_a_pause_comes_after_it(kind: Kind) {
    let mut case = Case::new(Server::shared(kind), "pause");
    case.http = WITH_TOKEN;
    case.sql("CREATE TABLE t (id int PRIMARY KEY, v int, big text)");
    case.sql("INSERT INTO t SELECT i, 0, repeat('x', 200) FROM series(1, 2000)");
    let mut sidecar = case.start();
    let address = address(&sidecar);
    case.wait_until_current(&mut sidecar);
    let load = [
        "UPDATE t SET v = {i} WHERE id % 100 = {k} % 100",
        "DELETE FROM t WHERE id = {k}; INSERT INTO t VALUES ({i} + 100000, {i}, 'new')",
    ];
    let writer = Writer::paced(&case, 399, 5, &load);
    for _ in 0..3 {
        pause(&address);
        let before = newest(&case);
        case.sql("UPDATE t SET v = v + 1 WHERE id % 3 = 0");
        lasts(&address, &mut sidecar, 2.0);
        assert_eq!(newest(&case), before, "{}", sidecar.log());
        resume(&address);
        wait_for("what was written meanwhile", || (newest(&case) != before).then_some(()));
    }
    writer.stop();
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    assert_steady(&address, &sidecar);
    sidecar.stop();
}

#[test]
fn documents_that_are_written_in_a_pause_come_after_it() {
    let mut case = Case::new(Server::shared(MONGO), "pause");
    case.http = WITH_TOKEN;
    case.mongo("db.t.insert_many({'_id': i, 'a': i} for i in range(1000))");
    let mut sidecar = case.start();
    let address = address(&sidecar);
    case.wait_until_current(&mut sidecar);
    pause(&address);
    let before_it = newest(&case);
    case.mongo("db.t.update_many({'a': {'$lt': 300}}, {'$inc': {'a': 5000}}); db.t.delete_many({'_id': {'$gt': 900}})");
    lasts(&address, &mut sidecar, 3.0);
    assert_eq!(newest(&case), before_it, "{}", sidecar.log());
    resume(&address);
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    assert_steady(&address, &sidecar);
    sidecar.stop();
}

#[test]
fn the_connection_outlives_the_servers_patience() {
    let server = Server::start(POSTGRES, &[("PG_CONF", "wal_sender_timeout = 2s")]);
    let mut case = Case::new(&server, "pause_long");
    case.http = WITH_TOKEN;
    case.sql(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'v' FROM generate_series(1, 20000) i",
    );
    let mut sidecar = case.start();
    let address = address(&sidecar);
    case.wait_until_current(&mut sidecar);
    let walsender = || case.sql("SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'pause_long'");
    let before = walsender();
    pause(&address);
    assert_eq!(get(&address, "/health").status, 200);
    let ready = get(&address, "/ready");
    assert_eq!((ready.status, ready.json()["status"].as_str()), (200, Some("paused")));
    assert!(get(&address, "/").body.contains("paused since"));
    let since = get(&address, "/status").json()["paused"]["since"].clone();
    assert_eq!(post(&address, "/pause", TOKEN, "").json()["since"], since, "one pause");
    assert_eq!(post(&address, "/resume", "wrong-token-of-the-test", "").status, 401);
    assert_eq!(get(&address, "/pause").status, 405);

    // More than the sockets between hold: the server waits for the program in the middle of a transaction.
    let before_it = newest(&case);
    for _ in 0..4 {
        case.sql("UPDATE t SET v = repeat(md5(random()::text), 30)");
    }
    case.sql("CREATE TABLE fresh (id int PRIMARY KEY); INSERT INTO fresh VALUES (1)");
    lasts(&address, &mut sidecar, 13.0);
    assert_eq!(newest(&case), before_it);
    assert!(!case.table("fresh").exists());
    assert_eq!(walsender(), before, "{}", sidecar.log());
    resume(&address);
    case.wait_for_state(&mut sidecar, "fresh", "streaming");
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    assert_eq!(metric(&address, "tributary_paused_seconds"), Some(0.0));
    assert_eq!(walsender(), before, "{}", sidecar.log());
    assert_steady(&address, &sidecar);
    sidecar.stop();
}

#[test]
fn a_copy_waits_too_and_a_restart_ends_the_pause() {
    let mut case = Case::new(Server::shared(POSTGRES), "pause_copy");
    case.http = WITH_TOKEN;
    case.snapshot = "max_bytes_per_s = \"1MiB\"\nparallelism = 1";
    case.sql(
        "CREATE TABLE t (id int PRIMARY KEY, v text);
         INSERT INTO t SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 20000) i",
    );
    let mut sidecar = case.start();
    let here = address(&sidecar);
    let rows = "tributary_snapshot_rows{table=\"public.t\"}";
    wait_for("the first rows", || metric(&here, rows).filter(|rows| *rows > 0.0));
    pause(&here);
    let before_it = newest(&case);
    case.sql("UPDATE t SET v = 'new' WHERE id % 10 = 0; DELETE FROM t WHERE id % 11 = 0");
    lasts(&here, &mut sidecar, 8.0);
    assert_eq!(newest(&case), before_it, "{}", sidecar.log());
    assert_eq!(case.table_status("t").unwrap().state, "snapshotting");
    // It ends as ever, with a pause or without.
    sidecar.stop();

    std::fs::remove_file(case.folder.join("sidecar.log")).unwrap();
    case.snapshot = "";
    let mut sidecar = case.start();
    let here = address(&sidecar);
    case.wait_until_current(&mut sidecar);
    assert_eq!(metric(&here, "tributary_paused_seconds"), Some(0.0));
    case.compare(&[]);
    sidecar.stop();
}
