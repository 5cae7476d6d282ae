//! What is lost is told, and what isn't is not: logs that are removed, other histories, and other servers.

use std::io::Read;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use crate::support::lake::replacements;
use crate::support::position::Position;
use crate::support::server::{Kind, MARIADB, Server};
use crate::support::{
    Case, assert_error, finish, on_mysql_and_mariadb, python, succeed, text, wait_for, wait_for_exit,
};

on_mysql_and_mariadb! {
    logs_that_were_removed_are_a_gap_with_a_way_out
    another_history_of_the_same_name_is_a_gap
    an_unrelated_server_is_a_gap
    a_gap_is_made_up_for_by_itself_if_so_configured
    logs_removed_while_the_program_is_held_up_are_a_gap
    a_replica_that_has_it_all_takes_over
    a_replica_that_lags_behind_the_lake_is_a_gap
    a_replica_that_lags_behind_a_table_of_the_lake_is_a_gap
    a_primary_killed_under_load_loses_and_doubles_nothing
}

const TABLES: &str =
    "CREATE TABLE a (id int PRIMARY KEY, v varchar(20)); INSERT INTO a SELECT i, concat('v', i) FROM series(1, 1000);
    CREATE TABLE b (id int PRIMARY KEY, v varchar(20)); INSERT INTO b SELECT i, 'b' FROM series(1, 10)";

fn lose(case: &Case, round: usize) {
    case.sql(&format!(
        "INSERT INTO a VALUES (2000 + {round}, 'missed'); DELETE FROM a WHERE id = {round}; UPDATE b SET v = 'round {round}' WHERE id < 9"
    ));
}

fn is_a_gap(case: &Case, reasons: &[&str]) {
    case.is_a_gap(reasons, || {
        case.sql("UPDATE a SET v = 'after' WHERE id > 900; INSERT INTO b VALUES (1000, 'after') ON DUPLICATE KEY UPDATE v = 'again'");
    });
}

fn logs_that_were_removed_are_a_gap_with_a_way_out(kind: Kind) {
    let server = Server::start(kind, &[]);
    let case = Case::new(&server, "purged");
    case.sql(TABLES);
    case.catch_up();
    // Removed logs that were read before are no gap.
    server.purge_logs();
    case.sql("UPDATE a SET v = 'kept' WHERE id = 5");
    case.catch_up();
    case.compare(&[]);
    assert!(replacements(&case.table("a")).is_empty());
    lose(&case, 1);
    server.purge_logs();
    case.sql("UPDATE a SET v = 'later' WHERE id = 6");
    is_a_gap(&case, &["purged"]);
}

fn another_history_of_the_same_name_is_a_gap(kind: Kind) {
    let server = Server::start(kind, &[]);
    let case = Case::new(&server, "reset");
    case.sql(TABLES);
    case.catch_up();
    lose(&case, 1);
    let reset = match kind {
        Kind::MySql => "RESET BINARY LOGS AND GTIDS",
        _ => "RESET MASTER",
    };
    server.sql(reset);
    case.sql("UPDATE a SET v = 'later' WHERE id = 6");
    is_a_gap(&case, &[]);

    // A history that has grown past what the lake knows.
    server.sql(reset);
    for round in 2..80 {
        lose(&case, round);
    }
    is_a_gap(&case, &[]);
}

fn an_unrelated_server_is_a_gap(kind: Kind) {
    let (one, two) = (
        Server::start(kind, &[]),
        Server::start(kind, &[("MYSQL_SERVER_ID", "2")]),
    );
    let mut case = Case::new(&one, "unrelated");
    case.sql(TABLES);
    case.catch_up();
    case.sql("UPDATE a SET v = 'w'");
    case.catch_up();
    // Has tables of the same names, and a longer log.
    let other = Case::new(&two, "unrelated");
    other.sql(TABLES);
    for round in 1..50 {
        lose(&other, round);
    }
    let lake = case.lake.clone();
    case.url = other.url.clone();
    let (a, b) = (case.qualified("a"), case.qualified("b"));
    for _ in 0..2 {
        assert_error(&case.run_once(), &["tributary snapshot", &a, &b]);
    }
    assert_eq!(case.query("a", "select count(*), max(v) from t", None), "[1000, 'w']");
    // Back at the first one nothing is lost, if nothing was begun meanwhile.
    let mut moved = other;
    moved.lake = lake;
    succeed(&mut moved.snapshot(&[]));
    moved.compare(&[]);
    lose(&moved, 60);
    moved.catch_up();
    moved.compare(&[]);
}

fn a_gap_is_made_up_for_by_itself_if_so_configured(kind: Kind) {
    let server = Server::start(kind, &[]);
    let mut case = Case::new(&server, "gap_resnapshot");
    case.source = "on_gap = \"resnapshot\"";
    case.sql(TABLES);
    case.catch_up();
    for round in 1..4 {
        lose(&case, round);
        server.purge_logs();
        case.sql(&format!("INSERT INTO a VALUES (3000 + {round}, 'later')"));
        let mut sidecar = case.start();
        case.wait_until_current(&mut sidecar);
        case.compare(&[]);
        assert_eq!(replacements(&case.table("a")).len(), round);
        sidecar.stop();
    }
}

fn logs_removed_while_the_program_is_held_up_are_a_gap(kind: Kind) {
    let server = Server::start(kind, &[]);
    let case = Case::new(&server, "held_up");
    case.sql(TABLES);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    // The server goes, and comes back without the logs.
    server.stop("fast");
    server.start_again();
    sidecar.kill();
    lose(&case, 1);
    server.sql("FLUSH BINARY LOGS");
    lose(&case, 2);
    server.purge_logs();
    is_a_gap(&case, &[]);
}

/// A primary with a database, and its replica.
fn pair(kind: Kind) -> (Server, Server) {
    let one = Server::start(kind, &[("MYSQL_SERVER_ID", "101")]);
    let two = Server::start(kind, &[("MYSQL_SERVER_ID", "102")]);
    two.follow(&one);
    (one, two)
}

/// Waits until a replica has all that the primary has committed until here.
fn wait_for_replica(primary: &Server, replica: &Server) {
    let position = primary.position();
    wait_for("the replica", || has(replica, &position).then_some(()));
}

/// A server has everything up to a position of another one.
fn has(server: &Server, position: &Position) -> bool {
    let gtids = position.gtids();
    match server.kind {
        Kind::MySql => server.sql(&format!("SELECT gtid_subset('{gtids}', @@gtid_executed)")) == "1",
        _ => {
            let at = server.sql("SELECT @@gtid_current_pos");
            Position::parse(&format!("{at}@0:x.1:1")).covers(&Position::parse(&format!("{gtids}@1:x.1:1")))
        }
    }
}

fn a_replica_that_has_it_all_takes_over(kind: Kind) {
    let (one, two) = pair(kind);
    let mut case = Case::new(&one, "takeover");
    case.sql(TABLES);
    wait_for_replica(&one, &two);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    // Some changes that the lake has, and some that it hasn't.
    case.sql("UPDATE a SET v = 'seen' WHERE id < 100");
    case.wait_until_current(&mut sidecar);
    sidecar.kill();
    case.sql("UPDATE a SET v = 'unseen' WHERE id BETWEEN 50 AND 150; DELETE FROM a WHERE id > 990; UPDATE a SET id = -id WHERE id BETWEEN 200 AND 210");
    wait_for_replica(&one, &two);
    one.stop("immediate");
    two.promote();
    let moved = case.moved_to(&two);
    case.url = moved.url.clone();
    let mut sidecar = moved.start();
    moved.sql("INSERT INTO a VALUES (5000, 'at the new one'); DELETE FROM a WHERE id = 60");
    moved.wait_until_current(&mut sidecar);
    moved.compare(&[]);
    assert!(replacements(&moved.table("a")).is_empty(), "copied anew without need");
    sidecar.kill();
    moved.sql("UPDATE a SET v = 'after' WHERE id < 20; ALTER TABLE a ADD c int; UPDATE a SET c = 1 WHERE id < 5");
    moved.catch_up();
    moved.compare(&[]);

    // And back, when the old one has become its replica.
    one.start_again();
    one.follow(&two);
    wait_for_replica(&two, &one);
    moved.sql("UPDATE a SET v = 'before the way back' WHERE id BETWEEN 300 AND 400");
    wait_for_replica(&two, &one);
    two.stop("immediate");
    one.promote();
    let back = moved.moved_to(&one);
    back.sql("UPDATE a SET v = 'back' WHERE id BETWEEN 350 AND 450");
    back.catch_up();
    back.compare(&[]);
    assert!(replacements(&back.table("a")).is_empty(), "copied anew without need");
    back.verify();
}

fn a_replica_that_lags_behind_the_lake_is_a_gap(kind: Kind) {
    let (one, two) = pair(kind);
    let case = Case::new(&one, "lagging");
    case.sql(TABLES);
    wait_for_replica(&one, &two);
    case.catch_up();
    let stop = match kind {
        Kind::MySql => "STOP REPLICA",
        _ => "STOP SLAVE",
    };
    two.sql(stop);
    case.sql("UPDATE a SET v = 'never replicated' WHERE id < 10; INSERT INTO a VALUES (7000, 'never replicated')");
    case.catch_up();
    one.stop("immediate");
    two.promote();
    let moved = case.moved_to(&two);
    moved.sql("INSERT INTO a VALUES (7001, 'of the new primary'); UPDATE b SET v = 'new'");
    is_a_gap(&moved, &[]);
}

/// The pipeline's own position is one that the replica has, and the replica's log has grown past what was lost.
fn a_replica_that_lags_behind_a_table_of_the_lake_is_a_gap(kind: Kind) {
    let (one, two) = pair(kind);
    let case = Case::new(&one, "overtaken");
    case.sql(TABLES);
    wait_for_replica(&one, &two);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let stop = match kind {
        Kind::MySql => "STOP REPLICA",
        _ => "STOP SLAVE",
    };
    two.sql(stop);
    case.sql("UPDATE a SET v = 'never replicated' WHERE id < 10; INSERT INTO a VALUES (7000, 'never replicated'); UPDATE b SET v = 'never replicated'");
    case.wait_until_current(&mut sidecar);
    sidecar.kill();
    one.stop("immediate");
    two.promote();
    let moved = case.moved_to(&two);
    for round in 10..20 {
        lose(&moved, round);
    }
    is_a_gap(&moved, &[]);
}

#[test]
fn a_replica_that_keeps_to_itself_what_it_gets_is_refused() {
    let one = Server::start(MARIADB, &[("MYSQL_SERVER_ID", "101")]);
    let two = Server::start(
        MARIADB,
        &[("MYSQL_SERVER_ID", "102"), ("MYSQL_CONF", "log_slave_updates = OFF")],
    );
    let case = Case::new(&one, "silent");
    case.sql(TABLES);
    // A primary need not.
    two.sql("SELECT 1");
    two.follow(&one);
    wait_for("the replica", || {
        (!two.sql("SELECT @@gtid_slave_pos").is_empty()).then_some(())
    });
    let moved = case.moved_to(&two);
    for verb in ["check", "run"] {
        assert_error(&finish(&mut moved.command(verb)), &["log_slave_updates", "[mysqld]"]);
    }
}

fn a_primary_killed_under_load_loses_and_doubles_nothing(kind: Kind) {
    let (one, two) = pair(kind);
    let mut case = Case::new(&one, "failover");
    case.tables = vec![case.qualified("*"), format!("!{}", case.qualified("skipped"))];
    let journal = case.folder.join("journal");
    let mut workload = workload(&case, &journal, 100);
    workload
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut [0; 6])
        .expect("the workload's tables");
    let mut sidecar = case.start();
    sleep(Duration::from_secs(4));
    sidecar.assert_running();
    sidecar.kill();
    sidecar = case.start();
    wait_for("all tables", || {
        sidecar.assert_running();
        let tables = case.status().tables;
        (tables.len() == 9 && tables.iter().all(|t| t.state == "streaming")).then_some(())
    });
    sleep(Duration::from_secs(4));
    sidecar.assert_running();
    sidecar.kill();
    // What the lake has must have reached the replica; what comes until the crash may have, or not.
    for table in case.status().tables {
        wait_for("the replica", || has(&two, &table.watermark).then_some(()));
    }
    one.stop("immediate");
    wait_for_exit(&mut workload, Duration::from_secs(120)).expect("the workload ends with its server");
    two.promote();
    // What the primary has committed and never sent is lost.
    let executed = two.position();

    let moved = case.moved_to(&two);
    let mut sidecar = moved.start();
    moved.wait_until_current(&mut sidecar);
    moved.sql("UPDATE by_int SET a = 1 WHERE id < 100; DELETE FROM by_index WHERE id % 7 = 0; INSERT INTO orders VALUES (-1, 5)");
    moved.wait_until_current(&mut sidecar);
    sidecar.stop();
    moved.compare(&[
        "by_int",
        "by_identity",
        "by_pair",
        "by_uuid",
        "by_row",
        "by_index",
        "truncated",
        "orders",
        "order_lines",
    ]);
    for table in moved.status().tables {
        let name = table.table.split('.').next_back().unwrap().to_owned();
        assert!(
            replacements(&moved.table(&name)).is_empty(),
            "{name} was copied anew without need"
        );
    }
    // Versions of before the crash hold what the journal says at their watermark.
    let mut command = python("check_history.py");
    command.args(["--source", &moved.database.socket_url(), "--lake"]);
    command.arg(&moved.lake).arg("--journal").arg(&journal);
    let history = finish(command.args(["--executed", executed.gtids()]));
    println!("{}", text(&history));
    assert!(history.status.success(), "{}", text(&history));
}

fn workload(case: &Case, journal: &std::path::Path, seconds: u32) -> std::process::Child {
    let mut command = python("workload.py");
    command.args(["--source", &case.database.socket_url(), "--seed", "7"]);
    command
        .args(["--seconds", &seconds.to_string(), "--journal"])
        .arg(journal);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_history_that_was_injected_is_no_gap() {
    let server = Server::start(Kind::MySql, &[]);
    let case = Case::new(&server, "injected");
    case.sql(TABLES);
    case.catch_up();
    // Transactions of others that this server has never had in its log: as after a restore of their backup.
    server.sql("SET GLOBAL gtid_purged = '+4e11fa47-71ca-11e1-9e33-c80aa9429562:1-500'");
    case.sql("UPDATE a SET v = 'w' WHERE id < 10");
    // They may concern our tables, and no log tells of them.
    let output = case.run_once();
    println!("{}", text(&output));
    if output.status.success() {
        case.compare(&[]);
    } else {
        assert_error(&output, &["tributary snapshot"]);
        succeed(&mut case.snapshot(&[]));
        case.compare(&[]);
    }
}
