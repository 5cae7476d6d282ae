//! PostgreSQL: a standby takes over. What the lake has is either followed by all that comes, or told to be of no use.

use crate::support::lake::replacements;
use crate::support::proxy::Network;
use crate::support::server::{Kind, Server};
use crate::support::writer::Writer;
use crate::support::{Case, assert_error, finish, wait_for};

const TABLES: &str =
    "CREATE TABLE a (id int PRIMARY KEY, v text); INSERT INTO a SELECT i, 'v' || i FROM generate_series(1, 1000) i;
    CREATE TABLE b (id int PRIMARY KEY, v text); INSERT INTO b SELECT i, 'b' FROM generate_series(1, 10) i";

/// A primary, and its standby.
fn pair(version: u32) -> (Server, Server) {
    let one = Server::start(version, &[]);
    let two = Server::start(version, &[]);
    two.follow(&one);
    (one, two)
}

/// The standby has the slot, for good.
fn wait_for_slot(standby: &Server, slot: &str) {
    let synced =
        format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{slot}' AND synced AND NOT temporary");
    wait_for("the slot at the standby", || {
        (standby.sql(&synced) == "1").then_some(())
    });
}

#[test]
fn a_standby_that_is_promoted_under_load_goes_on_with_its_slot() {
    let (one, two) = pair(18);
    // No change is sent that the standby has not.
    one.sql("ALTER SYSTEM SET synchronized_standby_slots = 'standby'");
    one.sql("SELECT pg_reload_conf()");
    let mut case = Case::new(&one, "failover");
    // The address of whichever is the primary.
    let network = Network::before(one.port);
    case.url = case
        .url
        .replace(&format!(":{}/", one.port), &format!(":{}/", network.port));
    case.sql(TABLES);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    wait_for_slot(&two, &case.slot);
    let transactions = [
        "INSERT INTO a VALUES (10000 + {i}, 'new'); UPDATE b SET v = 'round {i}' WHERE id = {k} % 10 + 1",
        "UPDATE a SET v = 'u{i}' WHERE id % 50 = {k} % 50; DELETE FROM a WHERE id = 10000 + {i} - 7",
    ];
    let writer = Writer::paced(&case, 500, 2, &transactions);
    let versions = || case.table_status("a").map_or(0, |t| t.version.unwrap_or(0));
    let before = versions();
    wait_for("commits under load", || (versions() > before + 5).then_some(()));
    one.stop("immediate");
    drop(writer);
    // The address moves first: a standby is waited for.
    network.lead_to(two.port);
    wait_for("a standby to be met", || {
        sidecar.assert_running();
        sidecar.log().contains("recovery is in progress").then_some(())
    });
    two.promote();
    // It has no standby itself.
    two.sql("ALTER SYSTEM RESET synchronized_standby_slots");
    two.sql("SELECT pg_reload_conf()");

    let moved = case.moved_to(&two);
    let writer = Writer::paced(
        &moved,
        500,
        2,
        &["UPDATE a SET v = 'after {i}' WHERE id % 30 = {k} % 30; INSERT INTO b VALUES ({i} + 100, 'after')"],
    );
    let versions = || moved.table_status("a").map_or(0, |t| t.version.unwrap_or(0));
    let before = versions();
    wait_for("commits at the new primary", || (versions() > before + 5).then_some(()));
    writer.stop();
    moved.wait_until_current(&mut sidecar);
    moved.compare(&[]);
    moved.verify();
    moved.assert_not_copied_anew(&["a", "b"]);
    // And again on the timeline that is now known.
    sidecar.kill();
    moved.sql("DELETE FROM a WHERE id < 100");
    moved.catch_up();
    moved.compare(&[]);
    assert!(replacements(&moved.table("a")).is_empty());
    // The old primary has another history by now, which its log does not tell.
    one.start_again();
    one.sql("ALTER SYSTEM RESET synchronized_standby_slots");
    one.sql("SELECT pg_reload_conf()");
    assert_error(
        &finish(
            case.command("run")
                .arg("--once")
                .env("TRIBUTARY_SOURCE_URL", case.database.default_url()),
        ),
        &[
            "timeline 1",
            "does not descend from 2",
            "public.b",
            "tributary snapshot",
        ],
    );
}

/// The lake has changes that the standby never got, and the standby's log has grown past them.
#[test]
fn a_standby_that_lags_behind_the_lake_is_a_gap() {
    let (one, two) = pair(18);
    let case = Case::new(&one, "lagging");
    case.sql(TABLES);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    wait_for_slot(&two, &case.slot);
    two.stop("fast");
    case.sql("UPDATE a SET v = 'never replicated' WHERE id < 10; INSERT INTO a VALUES (7000, 'never replicated'); UPDATE b SET v = 'never replicated'");
    case.wait_until_current(&mut sidecar);
    sidecar.kill();
    one.stop("immediate");
    two.start_again();
    two.promote();
    let moved = case.moved_to(&two);
    moved.sql("SELECT pg_switch_wal()");
    moved.sql("INSERT INTO a VALUES (7001, 'of the new primary'); UPDATE b SET v = 'new'");
    moved.sql(
        "SELECT count(pg_logical_emit_message(false, 'filler', repeat('x', 1000))) FROM generate_series(1, 20000)",
    );
    moved.is_a_gap(&["timeline", "took over without those changes"], || {
        moved.sql("UPDATE a SET v = 'after' WHERE id > 900; INSERT INTO b VALUES (1000, 'after') ON CONFLICT (id) DO UPDATE SET v = 'again'");
    });
}

#[test]
fn a_standby_without_the_slot_is_a_gap() {
    let (one, two) = pair(16);
    let case = Case::new(&one, "no_slot");
    case.sql(TABLES);
    case.catch_up();
    case.sql("UPDATE a SET v = 'unseen' WHERE id < 10");
    let end = one.sql("SELECT pg_current_wal_insert_lsn()");
    wait_for("the standby", || {
        (two.sql(&format!("SELECT pg_last_wal_replay_lsn() >= '{end}'")) == "t").then_some(())
    });
    one.stop("immediate");
    two.promote();
    let moved = case.moved_to(&two);
    moved.is_a_gap(&["the replication slot is gone"], || {
        moved.sql("UPDATE a SET v = 'after' WHERE id > 900");
    });
}

#[test]
fn a_new_slot_is_one_that_survives_a_failover() {
    for (version, expected) in [(18, "t"), (16, "")] {
        let case = Case::new(Server::shared(Kind::Postgres(version)), "failover_flag");
        case.sql("CREATE TABLE a (id int PRIMARY KEY)");
        case.catch_up();
        let flag = "SELECT to_jsonb(s) ->> 'failover' FROM pg_replication_slots s WHERE slot_name = 'failover_flag'";
        assert_eq!(case.sql(flag).replace("true", "t"), expected);
    }
}
