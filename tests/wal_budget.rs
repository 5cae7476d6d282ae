//! More log at the source than `source.wal_budget`: told with what holds it, and given up for a stalled table.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::support::http::{TOKEN, WITH_TOKEN, address, get, metric, post};
use crate::support::lake::{commits, replacements};
use crate::support::position::Position;
use crate::support::server::{POSTGRES, Server};
use crate::support::sidecar::Sidecar;
use crate::support::writer::Writer;
use crate::support::{Case, Open, assert_error, finish, succeed, text, wait_for};

const ALERT: &str = "infinity = \"error\"\nwal_budget = \"6MiB\"";
const DROP: &str = "infinity = \"error\"\nwal_budget = \"6MiB\"\non_wal_budget = \"drop-table\"";
const DROP_AND_COPY: &str =
    "infinity = \"error\"\nwal_budget = \"6MiB\"\non_wal_budget = \"drop-table\"\non_gap = \"resnapshot\"";
/// More log than the budget, each time.
const LOAD: &str = "UPDATE good SET v = repeat(md5(random()::text), 30)";
/// What no lake table holds.
const BAD: &str = "INSERT INTO bad VALUES (100, 'infinity')";

/// A server of its own: its log is that of the test alone.
fn case<'a>(server: &'a Server, name: &str, source: &'static str) -> Case<'a> {
    let mut case = Case::new(server, name);
    case.source = source;
    case.http = WITH_TOKEN;
    tables(&case);
    case
}

fn tables(case: &Case) {
    case.sql(
        "CREATE TABLE good (id int PRIMARY KEY, v text); INSERT INTO good SELECT i, 'v' FROM generate_series(1, 10000) i;
         CREATE TABLE bad (id int PRIMARY KEY, d date); INSERT INTO bad SELECT i, '2024-01-01' FROM generate_series(1, 50) i;
         CREATE TABLE late (id int PRIMARY KEY, d date); INSERT INTO late VALUES (1, '2024-01-01')",
    );
}

/// Writes small changes, so that the server notes now and then which transactions run: the slot's log goes by that.
fn writer(case: &Case) -> Writer {
    Writer::paced(case, 500, 50, &["UPDATE good SET v = '{i}' WHERE id = {k}"])
}

fn stalled(address: &str, table: &str) {
    let series = format!("tributary_table_state{{table=\"public.{table}\",state=\"stalled\"}}");
    wait_for("the table to stall", || {
        (metric(address, &series)? == 1.0).then_some(())
    });
}

/// What holds the log, once it is more than it may be.
fn held_by(address: &str) -> String {
    wait_for("too much log", || {
        let status = get(address, "/status").json();
        let held_by = &status["wal_budget"]["over"]["held_by"];
        held_by.as_array().map(|_| held_by.to_string())
    })
}

fn slot(case: &Case, column: &str) -> Position {
    let slot = &case.slot;
    Position::parse(&case.sql(&format!(
        "SELECT {column} FROM pg_replication_slots WHERE slot_name = '{slot}'"
    )))
}

/// The server forgets the log before `position`.
fn log_goes(case: &Case, position: &Position) {
    wait_for("the log to go", || {
        case.sql("CHECKPOINT");
        slot(case, "restart_lsn").covers(position).then_some(())
    });
}

/// All that is committed until here is in a table.
fn is_current(case: &Case, sidecar: &mut Sidecar, table: &str) {
    let position = case.database.position();
    wait_for(table, || {
        sidecar.assert_running();
        let table = case.table_status(table)?;
        (table.state == "streaming" && table.watermark.covers(&position)).then_some(())
    });
}

/// `bad` is given up, and `good` has all.
fn give_up_bad(case: &Case, sidecar: &mut Sidecar) {
    case.wait_until_current(sidecar);
    case.sql(BAD);
    stalled(&address(sidecar), "bad");
    case.sql(LOAD);
    case.wait_for_state(sidecar, "bad", "needs_snapshot");
    is_current(case, sidecar, "good");
}

#[test]
fn more_log_than_the_budget_is_told_with_the_table_that_holds_it() {
    let server = Server::start(POSTGRES, &[]);
    let case = case(&server, "budget_alert", ALERT);
    let mut sidecar = case.start();
    let address = address(&sidecar);
    case.wait_until_current(&mut sidecar);
    wait_for("a look", || metric(&address, "tributary_source_retained_bytes"));
    let budget = f64::from(6 << 20);
    assert_eq!(metric(&address, "tributary_source_wal_budget_bytes"), Some(budget));
    assert_eq!(get(&address, "/status").json()["wal_budget"]["over"], Value::Null);

    let writer = writer(&case);
    case.sql(BAD);
    let after = case.database.position();
    stalled(&address, "bad");
    case.sql(LOAD);
    let held_by = held_by(&address);
    assert!(
        held_by.contains("public.bad is stalled and holds") && held_by.contains("a value of public.bad.d"),
        "{held_by}"
    );
    assert!(held_by.contains("tributary snapshot public.bad"), "{held_by}");
    assert!(metric(&address, "tributary_source_retained_bytes").unwrap() > budget);
    let page = get(&address, "/").body;
    assert!(page.contains("more log is kept than source.wal_budget"), "{page}");
    sidecar.wait_for_log("the source keeps more log than source.wal_budget");
    let said = succeed(&mut case.command("status"));
    assert!(said.contains("more than source.wal_budget (6.00 MiB)"), "{said}");
    // The slot is in use, and that alone is for `check` to refuse.
    let said = text(&finish(&mut case.command("check")));
    assert!(
        said.contains("more than source.wal_budget") && said.contains("1 to change"),
        "{said}"
    );

    // The log is kept, and the others go on.
    is_current(&case, &mut sidecar, "good");
    assert!(after.covers(&slot(&case, "confirmed_flush_lsn")));
    assert_eq!(case.table_status("bad").unwrap().state, "streaming");
    let said = sidecar.whole_log().matches("the source keeps more log than").count();
    assert_eq!(said, 1, "{}", sidecar.log());

    case.sql("DELETE FROM bad WHERE id = 100");
    succeed(&mut case.snapshot(&["public.bad"]));
    log_goes(&case, &after);
    wait_for("the end of it", || {
        let status = get(&address, "/status").json();
        status["wal_budget"]["over"].is_null().then_some(())
    });
    writer.stop();
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();
}

#[test]
fn a_stalled_table_is_given_up_and_the_others_go_on() {
    let server = Server::start(POSTGRES, &[]);
    let case = case(&server, "budget_drop", DROP);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let writer = writer(&case);
    case.sql(BAD);
    let after = case.database.position();
    stalled(&address(&sidecar), "bad");
    case.sql(LOAD);
    let status = case.wait_for_state(&mut sidecar, "bad", "needs_snapshot");
    let said = ["a value of public.bad.d", "was given up", "are lost"];
    assert!(
        said.iter().all(|part| status.reason.contains(part)),
        "{}",
        status.reason
    );
    log_goes(&case, &after);
    // Another one that holds little is kept.
    case.sql("INSERT INTO late VALUES (2, 'infinity')");
    let late = case.database.position();
    stalled(&address(&sidecar), "late");
    is_current(&case, &mut sidecar, "good");
    let needs = "tributary_table_state{table=\"public.bad\",state=\"needs_snapshot\"}";
    assert_eq!(metric(&address(&sidecar), needs), Some(1.0));
    sidecar.stop();

    // The same after a restart, and after a look at the catalogue.
    let versions = commits(&case.table("bad")).len();
    case.sql("INSERT INTO bad VALUES (101, '2024-02-02'); DELETE FROM bad WHERE id = 1");
    std::fs::remove_file(case.folder.join("sidecar.log")).unwrap();
    let mut sidecar = case.start();
    let address = address(&sidecar);
    stalled(&address, "late");
    is_current(&case, &mut sidecar, "good");
    case.sql("CREATE TABLE fresh (id int PRIMARY KEY); INSERT INTO fresh VALUES (1)");
    sidecar.reload();
    case.wait_for_state(&mut sidecar, "fresh", "streaming");
    assert_eq!(metric(&address, needs), Some(1.0));
    let page = get(&address, "/").body;
    assert!(
        page.contains("`tributary snapshot public.bad` copies it anew"),
        "{page}"
    );
    assert_eq!(case.table_status("bad").unwrap().state, "needs_snapshot");
    assert_eq!(commits(&case.table("bad")).len(), versions, "it was written");
    assert!(late.covers(&slot(&case, "confirmed_flush_lsn")));
    sidecar.stop();
    let said = text(&finish(&mut case.command("check")));
    assert!(
        said.contains("table public.bad was given up") && said.contains("ready: tributary run"),
        "{said}"
    );

    let mut sidecar = case.start();
    case.sql("DELETE FROM bad WHERE id = 100; DELETE FROM late WHERE id = 2");
    is_current(&case, &mut sidecar, "good");
    succeed(&mut case.snapshot(&["public.bad", "public.late"]));
    writer.stop();
    case.sql("UPDATE bad SET d = '2025-01-01' WHERE id < 10");
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();
    case.catch_up();
    case.compare(&[]);
}

#[test]
fn a_crash_while_a_table_is_given_up_loses_nothing_in_silence() {
    let server = Server::start(POSTGRES, &[]);
    let case = case(&server, "budget_crash", DROP);
    case.catch_up();
    for (round, failpoint) in ["give_up", "give_up.marked"].into_iter().enumerate() {
        let mut command = case.command("run");
        command.env("TRIBUTARY_FAILPOINT", failpoint);
        let _ = std::fs::remove_file(case.folder.join("sidecar.log"));
        let sidecar = Sidecar::start(command, &case.folder.join("sidecar.log"));
        let address = address(&sidecar);
        case.sql(BAD);
        stalled(&address, "bad");
        case.sql(LOAD);
        let status = sidecar.wait_for_end();
        assert_eq!(status.signal(), Some(6), "{failpoint}: {status}");
        case.sql("UPDATE bad SET d = '2026-01-01' WHERE id < 20");

        let mut sidecar = case.start();
        is_current(&case, &mut sidecar, "good");
        let status = case.wait_for_state(&mut sidecar, "bad", "needs_snapshot");
        assert!(status.reason.contains("was given up"), "{}", status.reason);
        case.compare(&["good"]);
        case.sql("DELETE FROM bad WHERE id = 100");
        succeed(&mut case.snapshot(&[]));
        case.wait_until_current(&mut sidecar);
        case.compare(&[]);
        assert_eq!(replacements(&case.table("bad")).len(), round + 1);
        sidecar.stop();
    }
}

/// A table that is given up has a place in the publication before: it is no reason to drop the slot that the others
/// go on with.
#[test]
fn a_publication_made_anew_while_a_table_is_given_up_costs_the_others_nothing() {
    let server = Server::start(POSTGRES, &[]);
    let case = case(&server, "budget_remade", DROP);
    let mut sidecar = case.start();
    give_up_bad(&case, &mut sidecar);
    sidecar.stop();
    case.sql("DROP PUBLICATION budget_remade");
    case.sql("UPDATE good SET v = 'unpublished' WHERE id < 100");
    assert_error(&case.run_once(), &["the publication was dropped or made anew"]);
    succeed(&mut case.snapshot(&["public.good", "public.late"]));
    for round in 0..2 {
        case.sql(&format!(
            "UPDATE good SET v = 'round {round}' WHERE id % 7 = {round}; UPDATE late SET d = d + 1"
        ));
        case.catch_up();
        case.compare(&["good", "late"]);
    }
    assert_eq!(replacements(&case.table("good")).len(), 1);
    assert_eq!(case.table_status("bad").unwrap().state, "needs_snapshot");
    case.sql("DELETE FROM bad WHERE id = 100");
    succeed(&mut case.snapshot(&["public.bad"]));
    case.compare(&[]);
}

/// What a request asks for is on record before the request goes, whatever keeps the table from being copied.
#[test]
fn a_request_for_a_table_that_was_given_up_outlives_a_lock_and_a_crash() {
    let server = Server::start(POSTGRES, &[]);
    let case = case(&server, "budget_asked", DROP);
    let mut sidecar = case.start();
    give_up_bad(&case, &mut sidecar);
    case.sql("DELETE FROM bad WHERE id = 100; ALTER PUBLICATION budget_asked DROP TABLE bad");
    let open = Open::begin(&case, "LOCK TABLE bad IN SHARE UPDATE EXCLUSIVE MODE");
    let locked = "SELECT count(*) FROM pg_locks WHERE relation = 'bad'::regclass AND mode = 'ShareUpdateExclusiveLock'";
    wait_for("the lock", || (case.sql(locked) == "1").then_some(()));
    let asked = post(&address(&sidecar), "/snapshot", TOKEN, "{\"tables\": [\"public.bad\"]}");
    assert_eq!(asked.status, 202, "{}", asked.body);
    sidecar.wait_for_log("new tables can't be replicated yet");
    let requests = case.lake.join("_tributary/requests");
    wait_for("the request to go", || {
        let left = std::fs::read_dir(&requests).map_or(0, Iterator::count);
        (left == 0).then_some(())
    });
    sidecar.kill();
    open.end("ROLLBACK");
    let mut sidecar = case.start();
    is_current(&case, &mut sidecar, "bad");
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();
}

#[test]
fn with_copies_for_gaps_a_table_that_is_given_up_is_copied_at_once() {
    let server = Server::start(POSTGRES, &[]);
    let case = case(&server, "budget_copy", DROP_AND_COPY);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.sql(BAD);
    stalled(&address(&sidecar), "bad");
    case.sql("DELETE FROM bad WHERE id = 100; UPDATE bad SET d = '2025-01-01' WHERE id < 10");
    case.sql(LOAD);
    wait_for("a copy", || (replacements(&case.table("bad")).len() == 1).then_some(()));
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();
}

#[test]
fn a_table_is_given_up_from_now_on_and_excluded_and_selected_again() {
    let server = Server::start(POSTGRES, &[]);
    let mut case = case(&server, "budget_reload", ALERT);
    let mut sidecar = case.start();
    let address = address(&sidecar);
    case.wait_until_current(&mut sidecar);
    case.sql(BAD);
    stalled(&address, "bad");
    case.sql(LOAD);
    held_by(&address);
    case.source = DROP;
    case.write_config();
    sidecar.reload();
    case.wait_for_state(&mut sidecar, "bad", "needs_snapshot");
    case.tables = vec!["public.*".to_owned(), "!public.bad".to_owned()];
    case.write_config();
    sidecar.reload();
    case.wait_for_state(&mut sidecar, "bad", "excluded");
    let needs = "tributary_table_state{table=\"public.bad\",state=\"needs_snapshot\"}";
    wait_for("the end of the alert", || {
        (metric(&address, needs) == Some(0.0)).then_some(())
    });
    case.sql("DELETE FROM bad WHERE id = 100");
    case.tables = vec![];
    case.write_config();
    sidecar.reload();
    case.wait_for_state(&mut sidecar, "bad", "streaming");
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();
}

/// A transaction that stays open.
fn open_transaction(case: &Case) -> Child {
    let mut child = case
        .database
        .psql()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let sql = b"BEGIN; CREATE TABLE opened AS SELECT 1 AS one;\n";
    child.stdin.as_mut().unwrap().write_all(sql).unwrap();
    wait_for("the transaction", || {
        let open =
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND backend_xid IS NOT NULL";
        (case.sql(open) == "1").then_some(())
    });
    child
}

#[test]
fn a_transaction_that_stays_open_and_a_pause_are_named() {
    let server = Server::start(POSTGRES, &[]);
    let case = case(&server, "budget_open", DROP);
    let mut sidecar = case.start();
    let address = address(&sidecar);
    case.wait_until_current(&mut sidecar);
    let mut open = open_transaction(&case);
    case.sql(LOAD);
    case.wait_until_current(&mut sidecar);
    wait_for("the transaction to be named", || {
        held_by(&address).contains("a transaction at the source").then_some(())
    });
    // All is streaming: there is nothing to give up.
    let said = held_by(&address);
    assert!(!said.contains("stalled") && !said.contains("paused"), "{said}");
    drop(open.stdin.take());
    open.wait().unwrap();
    let end = case.database.position();
    let writer = writer(&case);
    log_goes(&case, &end);
    wait_for("the end of it", || {
        let status = get(&address, "/status").json();
        status["wal_budget"]["over"].is_null().then_some(())
    });

    assert_eq!(post(&address, "/pause", TOKEN, "").status, 202);
    case.sql(LOAD);
    let said = held_by(&address);
    assert!(
        said.contains("replication is paused since") && said.contains("POST /resume"),
        "{said}"
    );
    assert_eq!(post(&address, "/resume", TOKEN, "").status, 202);
    writer.stop();
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();
}

#[test]
fn a_lake_that_is_out_does_not_hide_how_much_log_is_kept() {
    let server = Server::start(POSTGRES, &[]);
    let (mut case, proxy) = Case::behind_proxy(&server, "budget_out", 1);
    case.source = ALERT;
    case.http = WITH_TOKEN;
    tables(&case);
    let mut sidecar = case.start();
    let address = address(&sidecar);
    case.wait_until_current(&mut sidecar);
    proxy.set(serde_json::json!([{"match": ".", "do": "refuse"}]));
    case.sql(LOAD);
    wait_for("the lake to be named", || {
        sidecar.assert_running();
        held_by(&address).contains("replication does not run: ").then_some(())
    });
    let budget = metric(&address, "tributary_source_wal_budget_bytes").unwrap();
    assert!(metric(&address, "tributary_source_retained_bytes").unwrap() > budget);
    proxy.set(serde_json::json!([]));
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();
}
