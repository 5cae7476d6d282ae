//! Exactly once through kills of the program, loss of its cache, and crashes of the server.

use std::io::{Read, Write};
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::support::position::Position;
use crate::support::server::{Kind, Server};
use crate::support::{Case, finish, on_every_source, python, text, wait_for, wait_for_exit};

const WORKLOAD: Duration = Duration::from_secs(75);
const KILLS_MIN: u32 = 20;

on_every_source! {
    kills_at_random_moments_lose_nothing_and_double_nothing
    a_crash_of_the_server_is_survived_without_a_restart
    sigterm_flushes_commits_and_confirms
}

fn kills_at_random_moments_lose_nothing_and_double_nothing(kind: Kind) {
    let server = Server::start(kind, &[]);
    let mut case = Case::new(&server, "kills");
    case.tables = vec![case.qualified("*"), format!("!{}", case.qualified("skipped"))];
    let journal = case.folder.join("journal");
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    println!("seed {seed}");

    let workload = python("workload.py")
        .args(["--source", &case.database.socket_url(), "--seed", &seed.to_string()])
        .args(["--seconds", &WORKLOAD.as_secs().to_string(), "--journal"])
        .arg(&journal)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn();
    let mut workload = workload.unwrap();
    let stdout = workload.stdout.as_mut().unwrap();
    stdout.read_exact(&mut [0; 6]).expect("the workload's tables");

    let start = Instant::now();
    let mut random = seed;
    let mut kills = 0;
    while start.elapsed() < WORKLOAD || kills < KILLS_MIN {
        let mut sidecar = case.start();
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Every fourth life is too short for more than the start; the others see a few commits.
        let life_ms = if kills % 4 == 3 {
            random >> 22
        } else {
            500 + (random >> 20)
        };
        sleep(Duration::from_millis(life_ms.into()));
        sidecar.assert_running();
        sidecar.kill();
        kills += 1;
        if kills == 5 || kills == 15 {
            std::fs::remove_dir_all(case.cache()).unwrap_or_default();
        }
    }
    assert!(
        wait_for_exit(&mut workload, WORKLOAD).unwrap().success(),
        "the workload failed"
    );
    println!("{kills} kills");

    let mut sidecar = case.start();
    let tables = [
        "by_int",
        "by_identity",
        "by_pair",
        "by_uuid",
        "by_row",
        "by_index",
        "truncated",
        "orders",
        "order_lines",
    ];
    case.wait_until_current(&mut sidecar);
    sidecar.stop();
    case.compare(&tables);
    let history = finish(
        python("check_history.py")
            .args(["--source", &case.database.socket_url(), "--lake"])
            .arg(&case.lake)
            .arg("--journal")
            .arg(&journal),
    );
    println!("{}", text(&history));
    assert!(history.status.success(), "{}", text(&history));
}

#[test]
fn a_kill_while_the_slot_is_created_is_survived() {
    let server = Server::start(15, &[]);
    let case = Case::new(&server, "slot_creation");
    case.sql("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a')");
    // A slot's creation waits for the transactions that are open.
    let mut open = case.database.psql().stdin(Stdio::piped()).spawn().unwrap();
    let statements = open.stdin.as_mut().unwrap();
    statements
        .write_all(b"BEGIN; INSERT INTO t VALUES (2, 'b');\n")
        .unwrap();
    wait_for("the transaction", || {
        let writers = "SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NOT NULL";
        (case.sql(writers) == "1").then_some(())
    });
    let sidecar = case.start();
    wait_for("the slot", || {
        (case.sql("SELECT count(*) FROM pg_replication_slots") == "1").then_some(())
    });
    sidecar.kill();
    let mut sidecar = case.start();
    wait_for("the second start", || {
        // The open transaction, the creation that goes on, the second program, and this query.
        let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'slot_creation'";
        (case.sql(sessions) == "4").then_some(())
    });
    statements.write_all(b"COMMIT;\n").unwrap();
    drop(open.stdin.take());
    assert!(open.wait().unwrap().success());
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();
}

fn a_crash_of_the_server_is_survived_without_a_restart(kind: Kind) {
    let server = Server::start(kind, &[]);
    let case = Case::new(&server, "server_crash");
    case.sql("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, hash(i) FROM series(1, 1000)");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    for round in 0..3 {
        case.sql(&format!(
            "UPDATE t SET v = 'round {round}' WHERE id % 3 = 0; INSERT INTO t VALUES (2000 + {round}, 'new')"
        ));
        server.crash();
        case.sql(&format!(
            "DELETE FROM t WHERE id > {round} * 10 AND id <= {round} * 10 + 10"
        ));
        case.wait_until_current(&mut sidecar);
    }
    case.compare(&[]);
    sidecar.stop();
}

fn sigterm_flushes_commits_and_confirms(kind: Kind) {
    let server = Server::start(kind, &[]);
    let mut case = Case::new(&server, "sigterm");
    case.max_latency = "60s";
    case.sql("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a')");
    let mut sidecar = case.start();
    case.wait_for_state(&mut sidecar, "t", "streaming");
    case.sql("INSERT INTO t SELECT i, 'b' FROM series(2, 1000)");
    let position = case.database.position();
    // The change has been received, and its batch has most of a minute left.
    wait_for("the change to be sent", || match kind {
        Kind::Postgres(_) => {
            let sent = "SELECT coalesce(max(sent_lsn), '0/0') FROM pg_stat_replication JOIN pg_replication_slots ON pid = active_pid WHERE slot_name = 'sigterm'";
            Position::parse(&case.sql(sent)).covers(&position).then_some(())
        }
        _ => {
            let sent = "SELECT count(*) FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%' AND state LIKE '%has sent all binlog%'";
            (case.sql(sent) == "1").then_some(())
        }
    });
    sidecar.assert_running();
    sidecar.stop();
    case.compare(&[]);
    if kind.has_slot() {
        let confirmed = case.sql("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'sigterm'");
        assert!(
            Position::parse(&confirmed).covers(&position),
            "confirmed {confirmed}, expected at least {position:?}"
        );
    }
}
