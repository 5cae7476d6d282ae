//! The set of tables changes while the program runs: new, dropped, renamed, excluded, and what was missed of one.

use std::path::Path;

use crate::support::lake::{self, replacements};
use crate::support::server::{Kind, POSTGRES, Server};
use crate::support::sidecar::Sidecar;
use crate::support::{Case, Open, assert_error, finish, on_every_source, succeed, text, wait_for};

on_every_source! {
    a_new_table_is_copied_without_a_word_and_the_others_go_on
    a_new_configuration_takes_effect_and_a_broken_one_does_not
    a_table_excluded_and_included_between_two_runs_is_copied_anew
    a_dropped_table_is_kept_and_one_of_its_name_replaces_it
    a_table_dropped_and_made_again_between_two_runs_is_copied_anew
    renamed_tables_are_told_apart_by_what_they_are
    a_source_restored_from_a_backup_is_a_gap
    a_table_that_was_furthest_may_go_while_the_program_is_away
}

fn case(kind: Kind, name: &str, tables: &[&str]) -> Case<'static> {
    let case = Case::new(Server::shared(kind), name);
    for table in tables {
        case.sql(&table_with_rows(table));
    }
    case
}

/// Patterns of the case's own schema.
fn patterns(case: &Case, tables: &[&str]) -> Vec<String> {
    let pattern = |table: &&str| match table.strip_prefix('!') {
        Some(excluded) => format!("!{}", case.qualified(excluded)),
        None => case.qualified(table),
    };
    tables.iter().map(pattern).collect()
}

fn table_with_rows(name: &str) -> String {
    format!(
        "CREATE TABLE {name} (id int PRIMARY KEY, v text);
         INSERT INTO {name} SELECT i, concat('v', i) FROM series(1, 1000)"
    )
}

/// The last version of a table's log.
fn versions(table: &Path) -> usize {
    crate::support::lake::commits(table).len()
}

fn excluded_or_dropped_stays(case: &Case, sidecar: &mut Sidecar, table: &str, other: &str) {
    let before = (
        versions(&case.table(table)),
        case.query(table, "select count(*), max(v) from t", None),
    );
    case.sql(&format!("UPDATE {other} SET v = concat(v, '!') WHERE id % 3 = 0"));
    wait_for("the other table", || {
        sidecar.assert_running();
        let position = case.database.position();
        let table = case.table_status(other)?;
        (table.state == "streaming" && table.watermark.covers(&position)).then_some(())
    });
    case.compare(&[other]);
    let after = (
        versions(&case.table(table)),
        case.query(table, "select count(*), max(v) from t", None),
    );
    assert_eq!(after, before, "{table} was written");
}

/// Waits until a table of whatever schema is followed.
fn streams(case: &Case, sidecar: &mut Sidecar, table: &str) {
    wait_for("the other schema", || {
        sidecar.assert_running();
        let tables = case.status().tables;
        tables
            .iter()
            .any(|t| t.table == table && t.state == "streaming")
            .then_some(())
    });
}

fn a_new_table_is_copied_without_a_word_and_the_others_go_on(kind: Kind) {
    let case = case(kind, "table_new", &["a"]);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let more = case.database.other_schema();
    case.sql(&format!(
        "CREATE SCHEMA {more}; CREATE TABLE {more}.c (id int PRIMARY KEY, v text)"
    ));
    case.sql(&table_with_rows("b"));
    case.sql(&format!(
        "UPDATE b SET v = 'w' WHERE id < 50; UPDATE a SET v = 'w' WHERE id < 50; INSERT INTO {more}.c VALUES (1, 'c')"
    ));
    case.wait_for_state(&mut sidecar, "b", "streaming");
    case.sql(&format!(
        "UPDATE b SET v = 'x' WHERE id < 20; DELETE FROM a WHERE id < 20; INSERT INTO {more}.c VALUES (2, 'c')"
    ));
    streams(&case, &mut sidecar, &format!("{more}.c"));
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();
    case.catch_up();
    case.compare(&[]);
}

fn a_new_configuration_takes_effect_and_a_broken_one_does_not(kind: Kind) {
    let mut case = case(kind, "reload", &["a", "b", "c"]);
    let reload = |case: &mut Case, sidecar: &Sidecar, tables: &[&str]| {
        case.tables = patterns(case, tables);
        case.write_config();
        sidecar.reload();
    };
    case.tables = patterns(&case, &["a"]);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    assert!(!case.table("b").exists());

    reload(&mut case, &sidecar, &["a", "b"]);
    case.wait_for_state(&mut sidecar, "b", "streaming");
    case.sql("UPDATE a SET v = 'a2' WHERE id = 1; UPDATE b SET v = 'b2' WHERE id = 1");
    case.wait_until_current(&mut sidecar);
    case.compare(&["a", "b"]);

    let good = std::fs::read(case.write_config()).unwrap();
    for broken in ["[source", "[source]\nurl = \"postgres://nowhere\"\ntable = [\"x\"]\n"] {
        std::fs::write(case.folder.join("tributary.toml"), broken).unwrap();
        let said = sidecar.whole_log().len();
        sidecar.reload();
        wait_for("a word about the broken configuration", || {
            let log = sidecar.whole_log();
            let new = &log[said..];
            (new.contains("ERROR") || new.contains("WARN")).then_some(())
        });
        case.sql("UPDATE a SET v = concat(v, '+') WHERE id < 9");
        std::fs::write(case.folder.join("tributary.toml"), &good).unwrap();
        case.wait_until_current(&mut sidecar);
    }
    case.compare(&["a", "b"]);

    // Excluded: stopped where it is, and not lost.
    reload(&mut case, &sidecar, &["*", "!b"]);
    case.wait_for_state(&mut sidecar, "b", "excluded");
    case.wait_for_state(&mut sidecar, "c", "streaming");
    case.sql("INSERT INTO b VALUES (5000, 'missed'); DELETE FROM b WHERE id < 10");
    excluded_or_dropped_stays(&case, &mut sidecar, "b", "a");
    // A restart does not bring it back.
    sidecar.stop();
    let mut sidecar = case.start();
    case.sql("INSERT INTO a VALUES (6000, 'after'); INSERT INTO b VALUES (6000, 'missed')");
    case.wait_until_current(&mut sidecar);
    assert_eq!(case.table_status("b").unwrap().state, "excluded");
    assert_eq!(case.query("b", "select count(*) from t", None), "[1000]");
    assert_eq!(case.query("a", "select count(*) from t", None), "[1001]");

    // Included again: what was missed is made up for, in one step.
    reload(&mut case, &sidecar, &["*"]);
    case.wait_for_state(&mut sidecar, "b", "streaming");
    case.sql("UPDATE b SET v = 'again' WHERE id = 100");
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    assert_eq!(replacements(&case.table("b")).len(), 1);
    sidecar.stop();
}

fn a_table_excluded_and_included_between_two_runs_is_copied_anew(kind: Kind) {
    let mut case = case(kind, "exclude_apart", &["a", "b"]);
    case.catch_up();
    case.tables = patterns(&case, &["*", "!b"]);
    case.sql("DELETE FROM b WHERE id < 10");
    case.catch_up();
    assert_eq!(case.table_status("b").unwrap().state, "excluded");
    case.sql("DELETE FROM b WHERE id < 20; UPDATE a SET v = 'w'");
    case.catch_up();
    case.compare(&["a"]);
    case.tables = vec![];
    case.catch_up();
    case.compare(&[]);
}

fn a_dropped_table_is_kept_and_one_of_its_name_replaces_it(kind: Kind) {
    let case = case(kind, "table_dropped", &["a", "b", "c", "d"]);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.sql("UPDATE b SET v = 'last' WHERE id = 1; DROP TABLE b");
    sidecar.reload();
    case.wait_for_state(&mut sidecar, "b", "dropped");
    assert_eq!(case.query("b", "select count(*) from t", None), "[1000]");
    excluded_or_dropped_stays(&case, &mut sidecar, "b", "a");
    sidecar.stop();
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    assert_eq!(case.table_status("b").unwrap().state, "dropped");

    // Made again, with other columns; at once, and in one transaction.
    case.sql("CREATE TABLE b (code varchar(20) PRIMARY KEY, at date); INSERT INTO b VALUES ('x', '2024-01-01')");
    case.sql("UPDATE c SET v = 'lost'; DROP TABLE c");
    case.sql("CREATE TABLE c (id int PRIMARY KEY, v text); INSERT INTO c SELECT i, 'c2' FROM series(500, 700)");
    let like = match kind {
        Kind::Postgres(_) => "(LIKE d INCLUDING ALL)",
        _ => "LIKE d",
    };
    case.sql(&format!(
        "UPDATE d SET v = 'lost'; CREATE TABLE d2 {like}; INSERT INTO d2 SELECT id, 'd2' FROM d WHERE id % 2 = 0;
         DROP TABLE d; ALTER TABLE d2 RENAME TO d; UPDATE d SET v = 'd3' WHERE id % 4 = 0"
    ));
    case.sql("INSERT INTO b VALUES ('y', NULL); UPDATE c SET v = 'c3' WHERE id = 600; DELETE FROM d WHERE id = 500");
    sidecar.reload();
    for table in ["b", "c", "d"] {
        wait_for("the new content", || {
            sidecar.assert_running();
            (!replacements(&case.table(table)).is_empty()).then_some(())
        });
    }
    case.wait_until_settled(&mut sidecar);
    case.compare(&[]);
    case.sql("UPDATE b SET at = '2025-01-01'; DELETE FROM c WHERE id < 510; UPDATE d SET v = 'd4' WHERE id < 50");
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();
}

fn a_table_dropped_and_made_again_between_two_runs_is_copied_anew(kind: Kind) {
    let case = case(kind, "dropped_apart", &["a", "b", "c"]);
    case.catch_up();
    case.sql("UPDATE b SET v = 'lost'; DROP TABLE b; UPDATE a SET v = 'w'");
    case.sql("DROP TABLE c");
    case.sql("CREATE TABLE c (id int PRIMARY KEY, v text); INSERT INTO c VALUES (1, 'new')");
    case.catch_up();
    assert_eq!(case.table_status("b").unwrap().state, "dropped");
    case.compare(&[]);
    case.sql("CREATE TABLE b (id int PRIMARY KEY, w text); INSERT INTO b VALUES (2, 'new')");
    case.catch_up();
    case.compare(&[]);
}

fn renamed_tables_are_told_apart_by_what_they_are(kind: Kind) {
    let case = case(kind, "table_renamed", &["a", "b", "c", "d"]);
    let more = case.database.other_schema();
    case.sql(&format!("CREATE SCHEMA {more}"));
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.sql(
        "UPDATE a SET v = 'before' WHERE id = 1; ALTER TABLE a RENAME TO a2; UPDATE a2 SET v = 'after' WHERE id = 2",
    );
    let status = case.wait_for_state(&mut sidecar, "a", "dropped");
    assert!(status.reason.contains("a2"), "{:?}", status.reason);
    case.wait_for_state(&mut sidecar, "a2", "streaming");
    // Two tables exchange their names; a third goes to another schema.
    let go = match kind {
        Kind::Postgres(_) => "ALTER TABLE d SET SCHEMA more".to_owned(),
        _ => format!("RENAME TABLE d TO {more}.d"),
    };
    case.sql(&format!(
        "ALTER TABLE b RENAME TO betwixt; ALTER TABLE c RENAME TO b; ALTER TABLE betwixt RENAME TO c;
         UPDATE b SET v = 'was c' WHERE id < 100; DELETE FROM c WHERE id < 100; {go}"
    ));
    case.sql(&format!(
        "INSERT INTO b VALUES (2000, 'was c'); INSERT INTO c VALUES (2000, 'was b'); UPDATE {more}.d SET v = 'moved'"
    ));
    sidecar.reload();
    case.wait_for_state(&mut sidecar, "d", "dropped");
    for table in ["b", "c"] {
        wait_for("the new content", || {
            sidecar.assert_running();
            (!replacements(&case.table(table)).is_empty()).then_some(())
        });
    }
    streams(&case, &mut sidecar, &format!("{more}.d"));
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();
    // And between two runs.
    case.sql("ALTER TABLE a2 RENAME TO a; ALTER TABLE b RENAME TO b2; INSERT INTO b2 VALUES (3000, 'x'); UPDATE a SET v = 'z'");
    case.catch_up();
    case.compare(&[]);
    for table in ["a2", "b"] {
        assert_eq!(case.table_status(table).unwrap().state, "dropped");
    }
}

/// Ways to lose changes of both tables, or of `a` alone.
const GAPS: &[(&str, &str)] = &[
    ("SELECT pg_drop_replication_slot('SLOT')", ""),
    (
        "SELECT pg_drop_replication_slot('SLOT')",
        "SELECT pg_create_logical_replication_slot('SLOT', 'pgoutput')",
    ),
    ("ALTER PUBLICATION SLOT DROP TABLE a", ""),
    (
        "ALTER PUBLICATION SLOT DROP TABLE a",
        "ALTER PUBLICATION SLOT ADD TABLE a",
    ),
];

fn lose_changes(case: &Case, (before, after): (&str, &str), round: usize) {
    case.sql(&before.replace("SLOT", &case.slot));
    case.sql(&format!(
        "INSERT INTO a VALUES (2000 + {round}, 'missed'); DELETE FROM a WHERE id = {round}; UPDATE b SET v = 'round {round}' WHERE id < 9"
    ));
    if !after.is_empty() {
        case.sql(&after.replace("SLOT", &case.slot));
    }
    case.sql(&format!("INSERT INTO a VALUES (3000 + {round}, 'later')"));
}

#[test]
fn a_gap_stops_the_run_until_a_snapshot_is_asked_for() {
    let case = case(POSTGRES, "gap_stop", &["a", "b"]);
    case.catch_up();
    for (round, gap) in (1..).zip(GAPS) {
        lose_changes(&case, *gap, round);
        let before = case.query("a", "select count(*), max(id) from t", None);
        for _ in 0..2 {
            assert_error(&case.run_once(), &["tributary snapshot", "public.a"]);
            let status = case.table_status("a").unwrap();
            assert_eq!(status.state, "needs_snapshot");
            assert!(!status.reason.is_empty());
        }
        let sidecar = case.start();
        assert_eq!(sidecar.wait_for_end().code(), Some(1));
        assert_eq!(
            case.query("a", "select count(*), max(id) from t", None),
            before,
            "{gap:?}"
        );
        // By name, or whatever needs it.
        let output = finish(&mut case.snapshot(if round % 2 == 0 { &[] } else { &["public.*"] }));
        assert!(output.status.success(), "{}", text(&output));
        case.compare(&[]);
        case.sql("UPDATE a SET v = 'after' WHERE id > 900");
        case.catch_up();
        case.compare(&[]);
    }
}

#[test]
fn a_gap_is_made_up_for_by_itself_if_so_configured() {
    let mut case = case(POSTGRES, "gap_resnapshot", &["a", "b"]);
    case.source = "on_gap = \"resnapshot\"";
    case.catch_up();
    for (round, gap) in (1..).zip(GAPS) {
        lose_changes(&case, *gap, round);
        let mut sidecar = case.start();
        case.wait_until_current(&mut sidecar);
        case.compare(&[]);
        assert_eq!(replacements(&case.table("a")).len(), round, "{gap:?}");
        sidecar.stop();
    }
    // While the program runs.
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    for (round, gap) in (5..).zip(&GAPS[2..]) {
        lose_changes(&case, *gap, round);
        sidecar.reload();
        wait_for("the new content", || {
            sidecar.assert_running();
            (replacements(&case.table("a")).len() == round).then_some(())
        });
        case.wait_until_current(&mut sidecar);
        case.compare(&[]);
    }
    sidecar.stop();
}

#[test]
fn a_gap_found_while_running_ends_the_run() {
    let case = case(POSTGRES, "gap_running", &["a", "b"]);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    lose_changes(&case, GAPS[3], 1);
    sidecar.wait_for_log("tributary snapshot");
    assert_eq!(sidecar.wait_for_end().code(), Some(1));
    assert_eq!(case.table_status("a").unwrap().state, "needs_snapshot");
    assert_error(&case.run_once(), &["tributary snapshot", "public.a"]);
    let output = finish(&mut case.snapshot(&["public.a"]));
    assert!(output.status.success(), "{}", text(&output));
    case.compare(&[]);
    let mut sidecar = case.start();
    case.sql("UPDATE a SET v = 'after' WHERE id > 900");
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();
}

fn a_source_restored_from_a_backup_is_a_gap(kind: Kind) {
    let server = Server::start(kind, &[]);
    let mut case = Case::new(&server, "restored");
    case.sql(&table_with_rows("a"));
    case.catch_up();
    let backup = case.folder.join("backup");
    server.stop("fast");
    succeed(
        std::process::Command::new("cp")
            .arg("-a")
            .arg(server.folder.join("data"))
            .arg(&backup),
    );
    server.start_again();
    case.sql("DELETE FROM a WHERE id < 100; INSERT INTO a VALUES (5000, 'undone')");
    case.catch_up();
    server.stop("fast");
    std::fs::remove_dir_all(server.folder.join("data")).unwrap();
    std::fs::rename(&backup, server.folder.join("data")).unwrap();
    server.start_again();
    case.sql("UPDATE a SET v = 'another history' WHERE id = 1");
    assert_error(&case.run_once(), &["tributary snapshot", &case.qualified("a")]);
    assert_eq!(case.table_status("a").unwrap().state, "needs_snapshot");
    case.source = "on_gap = \"resnapshot\"";
    case.catch_up();
    case.compare(&[]);
    case.sql("UPDATE a SET v = 'goes on' WHERE id = 2");
    case.catch_up();
    case.compare(&[]);
}

/// Lets the server remove log that the slot needs.
fn invalidate_slot(case: &Case) {
    for statement in [
        "ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'",
        "SELECT pg_reload_conf()",
        "UPDATE a SET v = 'lost' WHERE id = 1; DELETE FROM a WHERE id = 2",
    ] {
        case.sql(statement);
    }
    wait_for("the slot to be invalidated", || {
        case.sql("INSERT INTO filler SELECT i, repeat(md5(i::text), 100) FROM generate_series(1, 3000) i");
        case.sql("TRUNCATE filler");
        case.sql("SELECT pg_switch_wal()");
        case.sql("CHECKPOINT");
        let status = case.sql("SELECT wal_status FROM pg_replication_slots");
        (status.trim() == "lost").then_some(())
    });
    case.sql("ALTER SYSTEM RESET max_slot_wal_keep_size");
    case.sql("SELECT pg_reload_conf()");
}

#[test]
fn a_slot_whose_log_is_removed_is_made_anew() {
    let server = Server::start(15, &[]);
    let mut case = Case::new(&server, "slot_lost");
    case.tables = vec!["public.a".to_owned()];
    case.sql(
        "CREATE TABLE a (id int PRIMARY KEY, v text); INSERT INTO a SELECT i, 'old' FROM generate_series(1, 100) i",
    );
    case.sql("CREATE TABLE filler (id int, v text)");
    case.catch_up();
    invalidate_slot(&case);
    assert_error(
        &finish(&mut case.command("check")),
        &["public.a", "max_slot_wal_keep_size"],
    );
    assert_error(&case.run_once(), &["public.a", "removed log", "tributary snapshot"]);
    assert_eq!(case.table_status("a").unwrap().state, "needs_snapshot");
    succeed(&mut case.snapshot(&[]));
    case.compare(&["a"]);
    case.verify();
    case.source = "on_gap = \"resnapshot\"";
    invalidate_slot(&case);
    case.catch_up();
    case.compare(&["a"]);
    assert_eq!(replacements(&case.table("a")).len(), 2);
}

#[test]
fn a_slot_that_goes_while_another_gap_waits_is_told_for_all_tables() {
    let case = case(POSTGRES, "two_gaps", &["a", "b"]);
    case.catch_up();
    case.sql("ALTER PUBLICATION two_gaps DROP TABLE a");
    case.sql("UPDATE a SET v = 'lost' WHERE id < 10");
    assert_error(&case.run_once(), &["public.a"]);
    case.sql("SELECT pg_drop_replication_slot('two_gaps')");
    case.sql("UPDATE b SET v = 'lost' WHERE id < 10; DELETE FROM b WHERE id = 20");
    // `b` may not go on in silence behind the back of `a`.
    assert_error(&finish(&mut case.snapshot(&["public.a"])), &["public.b", "slot"]);
    succeed(&mut case.snapshot(&[]));
    case.compare(&[]);
    case.verify();
}

#[test]
fn what_check_finds_lost_a_snapshot_without_names_puts_right() {
    let case = case(POSTGRES, "check_then_snapshot", &["a", "b"]);
    case.catch_up();
    case.sql("SELECT pg_drop_replication_slot('check_then_snapshot')");
    case.sql("UPDATE b SET v = 'lost' WHERE id < 10");
    assert_error(&finish(&mut case.command("check")), &["public.b", "tributary snapshot"]);
    succeed(&mut case.snapshot(&[]));
    case.compare(&[]);
    for table in ["a", "b"] {
        assert_eq!(replacements(&case.table(table)).len(), 1, "{table}");
    }
}

fn a_table_that_was_furthest_may_go_while_the_program_is_away(kind: Kind) {
    let mut case = case(kind, "furthest_gone", &["a", "b", "c"]);
    case.catch_up();
    for (gone, sql) in [("a", "DROP TABLE a"), ("b", "SELECT 1")] {
        // Only its watermark moves, and the slot with it.
        case.sql(&format!("UPDATE {gone} SET v = 'last' WHERE id < 5"));
        case.catch_up();
        case.sql(sql);
        case.tables = patterns(&case, if gone == "a" { &["c", "b"] } else { &["c"] });
        case.catch_up();
    }
    for table in ["a", "b"] {
        assert!(["dropped", "excluded"].contains(&case.table_status(table).unwrap().state.as_str()));
    }
    case.sql("UPDATE c SET v = 'goes on'");
    case.catch_up();
    case.compare(&["c"]);
    assert!(replacements(&case.table("c")).is_empty());
}

#[test]
fn publishing_keeps_nobody_waiting_for_a_lock_of_another() {
    // From 16 on, to look at what is published locks it.
    let case = Case::new(Server::shared(16), "publishing");
    let tables: Vec<String> = ["a", "b", "c"]
        .iter()
        .map(|name| format!("CREATE TABLE {name} (id int PRIMARY KEY)"))
        .collect();
    case.sql(&tables.join(";"));
    // Each may be the one that is asked for last.
    let altering = ["a", "c"].map(|table| Open::begin(&case, &format!("ALTER TABLE {table} ADD v int")));
    let mut sidecar = case.start();
    sidecar.wait_for_log("a table that is to be published is locked");
    case.sql("SET lock_timeout = '20s'; ALTER TABLE b ADD v int; INSERT INTO b VALUES (1, 1)");
    for open in altering {
        open.end("COMMIT");
    }
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    // A new table beside others that are followed, of which one is being altered, too.
    case.sql("CREATE TABLE d (id int PRIMARY KEY)");
    let open = Open::begin(&case, "ALTER TABLE d ADD v int; ALTER TABLE c ADD w int");
    sidecar.reload();
    wait_for("the look to give up", || {
        sidecar.assert_running();
        sidecar
            .whole_log()
            .contains("new tables can't be replicated yet")
            .then_some(())
    });
    // With a change that is looked at in the catalogue; then after a kill.
    case.sql("ALTER TABLE b ADD w int; INSERT INTO b VALUES (2, 2, 2)");
    let has_rows = |rows: u64| move |table: lake::TableStatus| table.rows == Some(rows);
    wait_for("the other tables to go on", || {
        case.table_status("b").is_some_and(has_rows(2)).then_some(())
    });
    sidecar.kill();
    let mut sidecar = case.start();
    case.sql("INSERT INTO b VALUES (3, 3, 3)");
    wait_for("the other tables to go on after a start", || {
        sidecar.assert_running();
        case.table_status("b").is_some_and(has_rows(3)).then_some(())
    });
    open.end("COMMIT");
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();
}
