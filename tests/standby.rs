//! PostgreSQL 16 and newer: the source is a standby, and the primary is left alone.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::lake::replacements;
use crate::support::server::Server;
use crate::support::sidecar::Sidecar;
use crate::support::writer::Writer;
use crate::support::{Case, assert_error, finish, python, succeed, text, wait_for};

const TABLES: &str =
    "CREATE TABLE a (id int PRIMARY KEY, v text); INSERT INTO a SELECT i, 'v' || i FROM generate_series(1, 20000) i;
    CREATE TABLE b (id int PRIMARY KEY, v text, big text); ALTER TABLE b ALTER big SET STORAGE EXTERNAL;
    INSERT INTO b SELECT i, 'b', CASE WHEN i % 3 = 0 THEN repeat(md5(i::text), 100) END FROM generate_series(1, 500) i";

const LOAD: [&str; 2] = [
    "INSERT INTO a VALUES (100000 + {i}, 'new'); UPDATE b SET v = 'round {i}' WHERE id = {k} % 500 + 1",
    "UPDATE a SET v = 'u{i}' WHERE id % 50 = {k} % 50 AND id < 5000; DELETE FROM a WHERE id = 100000 + {i} - 7;
     UPDATE a SET id = -id WHERE id BETWEEN {k} * 20 + 5000 AND {k} * 20 + 5010",
];

/// A primary, and its standby.
fn pair(version: u32) -> (Server, Server) {
    let one = Server::start(version, &[]);
    let two = Server::start(version, &[]);
    two.follow(&one);
    (one, two)
}

/// A database at the primary, replicated from the standby.
fn at_standby<'a>(one: &'a Server, two: &Server, name: &str) -> Case<'a> {
    let mut case = Case::new(one, name);
    case.source = "standby = true";
    case.url = case.url.replace(&format!(":{}/", one.port), &format!(":{}/", two.port));
    case
}

/// The same, with a publication of all tables.
fn case<'a>(one: &'a Server, two: &Server, name: &str) -> Case<'a> {
    let case = at_standby(one, two, name);
    case.sql(&format!(
        "CREATE PUBLICATION {name} FOR ALL TABLES WITH (publish_via_partition_root = true)"
    ));
    wait_for_replay(one, two);
    case
}

/// The standby has replayed all that the primary has written.
fn wait_for_replay(one: &Server, two: &Server) {
    let end = one.sql("SELECT pg_current_wal_flush_lsn()");
    wait_for("the standby", || {
        (two.sql(&format!("SELECT pg_last_wal_replay_lsn() >= '{end}'")) == "t").then_some(())
    });
}

/// Gives the standby what its new slot waits for.
fn let_slot_begin(one: &Server, two: &Server, slot: &str) {
    let begun = format!(
        "SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{slot}' AND confirmed_flush_lsn IS NOT NULL"
    );
    wait_for("the slot", || {
        one.sql("SELECT pg_log_standby_snapshot()");
        (two.sql(&begun) == "1").then_some(())
    });
}

/// `tributary run` with a new slot.
fn start(one: &Server, two: &Server, case: &Case) -> Sidecar {
    wait_for_replay(one, two);
    let sidecar = case.start();
    let_slot_begin(one, two, &case.slot);
    sidecar
}

fn assert_left_alone(primary: &Server) {
    let ours = "SELECT (SELECT count(*) FROM pg_replication_slots WHERE slot_type = 'logical')
        + (SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tributary')";
    assert_eq!(primary.sql(ours), "0");
}

fn versions(case: &Case, table: &str) -> u64 {
    case.table_status(table).map_or(0, |t| t.version.unwrap_or(0))
}

fn follows_a_standby(version: u32) {
    let (one, two) = pair(version);
    let case = case(&one, &two, &format!("follows_{version}"));
    case.sql(TABLES);
    let writer = Writer::paced(&case, 500, 2, &LOAD);
    let mut sidecar = start(&one, &two, &case);
    case.wait_until_current(&mut sidecar);
    assert_left_alone(&one);
    let before = versions(&case, "a");
    wait_for("commits under load", || {
        (versions(&case, "a") > before + 5).then_some(())
    });

    // Columns and tables, under load, as of replay.
    case.sql("ALTER TABLE a ADD note text; UPDATE a SET note = 'n' WHERE id % 7 = 0");
    case.sql("CREATE TABLE c (id int PRIMARY KEY, n int[]); INSERT INTO c SELECT i, ARRAY[i] FROM generate_series(1, 3000) i");
    case.sql("ALTER TABLE b ADD more text");
    // Sent early; the standby is asked what of it was rolled back.
    case.sql(
        "BEGIN; SAVEPOINT x; INSERT INTO c SELECT i, ARRAY[i] FROM generate_series(10001, 13000) i; ROLLBACK TO x;
         SAVEPOINT y; INSERT INTO c SELECT i, ARRAY[i] FROM generate_series(20001, 23000) i; RELEASE y; COMMIT",
    );
    case.sql("UPDATE b SET big = 'short', more = 'm' WHERE id % 5 = 0");
    case.sql("UPDATE c SET n = n || 1 WHERE id % 2 = 0");
    writer.stop();
    case.wait_until_settled(&mut sidecar);
    case.compare(&[]);

    case.sql("ALTER TABLE a DROP note");
    let writer = Writer::paced(
        &case,
        500,
        2,
        &[
            LOAD[1],
            "INSERT INTO c VALUES (5000 + {i}, NULL); DELETE FROM c WHERE id = {k}",
        ],
    );
    for _ in 0..3 {
        let before = versions(&case, "c");
        wait_for("commits", || (versions(&case, "c") > before + 2).then_some(()));
        sidecar.kill();
        sidecar = case.start();
    }
    let before = versions(&case, "c");
    wait_for("commits after a kill", || (versions(&case, "c") > before).then_some(()));
    // While it changes, at rest, and with a planted difference.
    case.verify();
    writer.stop();
    case.wait_until_current(&mut sidecar);
    case.verify();
    case.compare(&[]);
    case.assert_not_copied_anew(&["a", "b"]);
    assert_left_alone(&one);
    sidecar.stop();
    succeed(
        python("tamper.py")
            .arg(case.table("c"))
            .args(["drop", r#"{"id": 2999}"#]),
    );
    let output = finish(&mut case.command("verify"));
    assert!(
        !output.status.success() && text(&output).contains("2999"),
        "{}",
        text(&output)
    );
}

#[test]
fn a_lake_follows_a_standby_18() {
    follows_a_standby(18);
}

#[test]
fn a_lake_follows_a_standby_16() {
    follows_a_standby(16);
}

fn is_promoted_under_load(version: u32) {
    let (one, two) = pair(version);
    let case = case(&one, &two, &format!("promoted_{version}"));
    case.sql(TABLES);
    let mut sidecar = start(&one, &two, &case);
    case.wait_until_current(&mut sidecar);
    let writer = Writer::paced(&case, 500, 2, &LOAD);
    let before = versions(&case, "a");
    wait_for("commits under load", || {
        (versions(&case, "a") > before + 5).then_some(())
    });
    one.stop("immediate");
    drop(writer);
    two.promote();

    let moved = case.moved_to(&two);
    let writer = Writer::paced(
        &moved,
        500,
        2,
        &[
            "UPDATE a SET v = 'after {i}' WHERE id % 30 = {k} % 30 AND id < 3000; INSERT INTO b VALUES ({i} + 1000, 'after')",
        ],
    );
    let before = versions(&moved, "a");
    wait_for("commits after it", || {
        (versions(&moved, "a") > before + 5).then_some(())
    });
    // Killed before or after it noticed: what the lake has is this server's.
    sidecar.kill();
    sidecar = moved.start();
    let before = versions(&moved, "a");
    wait_for("commits", || (versions(&moved, "a") > before + 5).then_some(()));
    writer.stop();
    moved.wait_until_current(&mut sidecar);
    moved.compare(&[]);
    moved.verify();
    moved.assert_not_copied_anew(&["a", "b"]);
    sidecar.stop();
    two.crash();
    moved.sql("UPDATE a SET v = 'at last' WHERE id < 100");
    moved.catch_up();
    moved.compare(&[]);
    assert!(replacements(&moved.table("a")).is_empty());
}

#[test]
fn a_standby_that_is_promoted_under_load_is_followed_on_18() {
    is_promoted_under_load(18);
}

#[test]
fn a_standby_that_is_promoted_under_load_is_followed_on_16() {
    is_promoted_under_load(16);
}

/// Copies go on when the standby becomes a primary in the middle of them, and the run notices by itself.
#[test]
fn a_promotion_in_the_middle_of_a_copy_loses_and_doubles_nothing() {
    let (one, two) = pair(18);
    let mut case = case(&one, &two, "promoted_copy");
    case.snapshot = "max_bytes_per_s = \"5MiB\"";
    case.sql("CREATE TABLE a (id int PRIMARY KEY, v text); INSERT INTO a SELECT i, repeat(md5(i::text), 20) FROM generate_series(1, 60000) i");
    case.sql("CREATE TABLE b (id int PRIMARY KEY, v text)");
    let mut sidecar = start(&one, &two, &case);
    wait_for("a part of the copy", || {
        sidecar.assert_running();
        (case.table_status("a")?.rows > Some(0)).then_some(())
    });
    case.sql("UPDATE a SET id = -id WHERE id % 100 = 0; DELETE FROM a WHERE id % 100 = 1; UPDATE a SET v = 'short' WHERE id % 100 = 2");
    wait_for_replay(&one, &two);
    one.stop("immediate");
    assert_eq!(case.table_status("a").unwrap().state, "snapshotting");
    two.promote();
    let moved = case.moved_to(&two);
    moved.sql(
        "UPDATE a SET id = -id WHERE id % 100 = 3; DELETE FROM a WHERE id % 100 = 4; INSERT INTO a VALUES (-1, 'new')",
    );
    sidecar.wait_for_log("the standby was promoted");
    moved.wait_until_current(&mut sidecar);
    moved.compare(&[]);
    sidecar.stop();
}

/// Neither the standby's locks nor its snapshots tell of such a writer.
#[test]
fn a_writer_that_began_before_the_table_was_published_is_waited_for() {
    let (one, two) = pair(18);
    let mut case = at_standby(&one, &two, "early_writer");
    case.sql("CREATE TABLE known (id int PRIMARY KEY); CREATE TABLE late (id int PRIMARY KEY, v text)");
    case.sql("CREATE PUBLICATION early_writer FOR TABLE known");
    wait_for_replay(&one, &two);
    case.tables = vec!["public.known".to_owned()];
    let mut sidecar = start(&one, &two, &case);
    case.wait_until_current(&mut sidecar);

    let mut open = case.database.psql().stdin(Stdio::piped()).spawn().unwrap();
    let early =
        "BEGIN; INSERT INTO late SELECT i, 'early' FROM generate_series(1, 100) i; INSERT INTO known VALUES (1);\n";
    let input = open.stdin.as_mut().unwrap();
    input.write_all(early.as_bytes()).unwrap();
    let writing = "SELECT count(*) FROM pg_locks WHERE relation = 'known'::regclass AND mode = 'RowExclusiveLock'";
    wait_for("the writer", || (case.sql(writing) == "1").then_some(()));
    // It can't wait for the writer's lock: a statement that takes a weaker one puts the table in.
    case.sql("ALTER PUBLICATION early_writer ADD TABLE late; INSERT INTO late VALUES (1000, 'ours')");
    wait_for_replay(&one, &two);
    case.tables = vec![];
    case.write_config();
    sidecar.reload();
    sidecar.wait_for_log("the snapshot waits for transactions that were open at the primary");
    assert_eq!(case.table_status("late").unwrap().rows, Some(0));
    open.stdin.as_mut().unwrap().write_all(b"COMMIT;\n").unwrap();
    drop(open.stdin.take());
    assert!(open.wait().unwrap().success());
    case.wait_until_settled(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();
}

/// The primary removes rows of the catalogue that the slot needs.
fn loses_its_slot_to_vacuum(version: u32) {
    let (one, two) = pair(version);
    let case = case(&one, &two, &format!("conflict_{version}"));
    case.sql(
        "CREATE TABLE a (id int PRIMARY KEY, v text); INSERT INTO a SELECT i, 'v' || i FROM generate_series(1, 1000) i;
         CREATE TABLE b (id int PRIMARY KEY, v text); INSERT INTO b SELECT i, 'b' FROM generate_series(1, 10) i",
    );
    let mut sidecar = start(&one, &two, &case);
    case.wait_until_current(&mut sidecar);
    two.sql("ALTER SYSTEM SET hot_standby_feedback = off");
    two.sql("SELECT pg_reload_conf()");
    // What the standby asked for is forgotten.
    let held = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'standby' AND (xmin IS NOT NULL OR catalog_xmin IS NOT NULL)";
    wait_for("the primary to forget", || (one.sql(held) == "0").then_some(()));
    // Rows that come and go in one transaction are missed by nobody.
    case.sql("CREATE TABLE gone (id int PRIMARY KEY)");
    case.sql("DROP TABLE gone");
    let vacuum = ["pg_class", "pg_attribute", "pg_type"].map(|name| format!("VACUUM {name}"));
    succeed(case.database.psql().args(vacuum.iter().flat_map(|sql| ["-c", sql])));
    case.sql("UPDATE a SET v = 'unseen' WHERE id < 10; INSERT INTO b VALUES (100, 'unseen')");
    wait_for_replay(&one, &two);
    let status = sidecar.wait_for_end();
    assert_eq!(status.code(), Some(1));
    let reason = case.table_status("a").unwrap().reason;
    assert!(
        reason.contains("invalidated") && reason.contains("hot_standby_feedback"),
        "{reason}"
    );
    // What has to be put right first is told as soon as nothing is lost any more by it.
    assert_error(
        &finish(&mut case.command("check")),
        &["hot_standby_feedback is off", "need a new snapshot"],
    );
    two.sql("ALTER SYSTEM RESET hot_standby_feedback");
    two.sql("SELECT pg_reload_conf()");
    let again = std::thread::scope(|scope| {
        // The new slot waits for the primary, within the gap that is made up for.
        let slot = scope.spawn(|| let_slot_begin(&one, &two, &case.slot));
        case.is_a_gap(&["invalidated", "hot_standby_feedback"], || {
            case.sql("UPDATE a SET v = 'after' WHERE id > 900; INSERT INTO b VALUES (1000, 'after') ON CONFLICT (id) DO UPDATE SET v = 'again'");
        });
        slot.join()
    });
    again.unwrap();
}

#[test]
fn a_slot_that_conflicts_with_recovery_is_a_gap_on_18() {
    loses_its_slot_to_vacuum(18);
}

#[test]
fn a_slot_that_conflicts_with_recovery_is_a_gap_on_16() {
    loses_its_slot_to_vacuum(16);
}

/// Replay goes before reads that stand in its way. They are done again, and their table goes on.
#[test]
fn a_chunk_that_conflicts_with_recovery_is_read_again() {
    let (one, two) = pair(18);
    two.sql("ALTER SYSTEM SET max_standby_streaming_delay = 0");
    two.sql("SELECT pg_reload_conf()");
    let mut case = case(&one, &two, "cancelled");
    case.snapshot = "max_bytes_per_s = \"5MiB\"";
    case.sql("CREATE TABLE wide (id int PRIMARY KEY, v text); INSERT INTO wide SELECT i, repeat(md5(i::text), 20) FROM generate_series(1, 60000) i");
    let mut sidecar = start(&one, &two, &case);
    wait_for("a part of the copy", || {
        sidecar.assert_running();
        (case.table_status("wide")?.rows > Some(0)).then_some(())
    });
    let conflicts = || {
        let sum = "SELECT sum(confl_lock) FROM pg_stat_database_conflicts";
        two.sql(sum).parse::<u64>().unwrap_or(0)
    };
    wait_for("a conflict", || {
        case.sql("BEGIN; LOCK TABLE wide; COMMIT");
        case.sql("UPDATE wide SET v = 'new' WHERE id % 1000 = 5");
        (conflicts() > 0).then_some(())
    });
    sidecar.wait_for_log("a chunk is read again");
    assert!(
        sidecar.whole_log().contains("max_standby_streaming_delay"),
        "{}",
        sidecar.log()
    );
    case.sql("VACUUM FULL wide");
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    assert!(!sidecar.whole_log().contains("stalled"), "{}", sidecar.log());
    sidecar.stop();
}

/// From a primary at rest, or away, nothing comes that a slot could begin at.
#[test]
fn a_new_slot_waits_for_the_primary_and_says_so() {
    let (one, two) = pair(18);
    let case = case(&one, &two, "idle");
    case.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    wait_for_replay(&one, &two);
    one.stop("fast");
    let slots = || two.sql("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'idle'");
    let sidecar = case.start();
    sidecar.wait_for_log("pg_log_standby_snapshot");
    assert_eq!(slots(), "1");
    // It listens meanwhile, and leaves nothing behind.
    sidecar.stop();
    wait_for("the slot to go", || (slots() == "0").then_some(()));

    // The wait has an end; the server ends it the same way.
    let mut once = Sidecar::start(once(&case), &case.folder.join("once.log"));
    once.wait_for_log("the new slot waits for the primary");
    two.sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_create_logical_replication_slot%' AND pid <> pg_backend_pid()");
    wait_for("its end", || once.has_ended().then_some(()));
    for part in [
        "the new slot found nothing to begin at",
        "hint: run at the primary: SELECT pg_log_standby_snapshot()",
    ] {
        assert!(once.whole_log().contains(part), "{}", once.log());
    }

    one.start_again();
    let mut sidecar = start(&one, &two, &case);
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();
}

fn once(case: &Case) -> Command {
    let mut command = case.command("run");
    command.arg("--once");
    command
}

#[test]
fn check_tells_what_a_standby_needs() {
    let (one, two) = pair(18);
    let mut case = at_standby(&one, &two, "needs");
    case.sql("CREATE TABLE t (id int PRIMARY KEY)");
    wait_for_replay(&one, &two);
    let check = |case: &Case| finish(&mut case.command("check"));
    case.source = "";
    assert_error(&check(&case), &["is a standby", "source.standby = true"]);
    case.source = "standby = true";
    let create = "run at the primary: CREATE PUBLICATION \"needs\" FOR TABLE ONLY \"public\".\"t\"";
    assert_error(&check(&case), &[create]);
    assert_error(&case.run_once(), &[create]);
    case.sql("CREATE PUBLICATION needs FOR TABLE t");
    case.sql("CREATE TABLE u (id int PRIMARY KEY)");
    wait_for_replay(&one, &two);
    assert_error(
        &check(&case),
        &["run at the primary: ALTER PUBLICATION \"needs\" ADD TABLE ONLY \"public\".\"u\""],
    );
    case.sql("ALTER PUBLICATION needs ADD TABLE u");
    wait_for_replay(&one, &two);
    let found = text(&check(&case));
    for part in [
        "is a standby and runs PostgreSQL 18",
        "wal_level is logical, here and at the primary",
        "hot_standby_feedback is on",
    ] {
        assert!(found.contains(&format!("✓ {part}")) || found.contains(part), "{found}");
    }
    assert!(!found.contains('✗'), "{found}");
    two.sql("ALTER SYSTEM SET hot_standby_feedback = off");
    two.sql("SELECT pg_reload_conf()");
    let off = [
        "hot_standby_feedback is off",
        "ALTER SYSTEM SET hot_standby_feedback = on",
    ];
    wait_for("the setting", || (!check(&case).status.success()).then_some(()));
    assert_error(&check(&case), &off);
    assert_error(&case.run_once(), &off);
}

#[test]
fn a_standby_whose_primary_is_away_is_caught_up_with() {
    let (one, two) = pair(18);
    let case = case(&one, &two, "away");
    case.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    let mut sidecar = start(&one, &two, &case);
    case.wait_until_current(&mut sidecar);
    sidecar.stop();
    case.sql("INSERT INTO t VALUES (2)");
    wait_for_replay(&one, &two);
    one.stop("fast");
    wait_for("the end of the log's receiver", || {
        (two.sql("SELECT count(*) FROM pg_stat_wal_receiver") == "0").then_some(())
    });
    case.catch_up();
    let status = succeed(case.command("status").arg("--json"));
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let table = &status["tables"][0];
    assert_eq!(
        (&table["rows"], &table["lag_bytes"]),
        (&2.into(), &0.into()),
        "{status}"
    );
}

/// It is named once, and comes in when it is published.
#[test]
fn a_table_that_is_not_published_keeps_nobody_else_out() {
    let (one, two) = pair(18);
    let case = at_standby(&one, &two, "unpublished");
    case.sql("CREATE TABLE a (id int PRIMARY KEY, v text); INSERT INTO a SELECT i, 'v' FROM generate_series(1, 100) i");
    case.sql("CREATE PUBLICATION unpublished FOR TABLE a");
    let mut sidecar = start(&one, &two, &case);
    case.wait_until_current(&mut sidecar);
    case.sql(
        "CREATE TABLE b (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY); INSERT INTO c VALUES (1);
         ALTER PUBLICATION unpublished ADD TABLE c",
    );
    wait_for_replay(&one, &two);
    sidecar.reload();
    case.wait_for_state(&mut sidecar, "c", "streaming");
    let needed = "ALTER PUBLICATION \"unpublished\" ADD TABLE ONLY \"public\".\"b\"";
    let says_once = |sidecar: &Sidecar| {
        sidecar.wait_for_log("new tables can't be replicated yet");
        let log = sidecar.whole_log().replace("\\\"", "\"");
        assert_eq!(log.matches(needed).count(), 1, "{log}");
    };
    sidecar.reload();
    case.sql("INSERT INTO c VALUES (2); UPDATE a SET v = 'w'");
    wait_for_replay(&one, &two);
    case.wait_until_published_equal(&mut sidecar);
    says_once(&sidecar);
    sidecar.stop();

    case.sql("INSERT INTO c VALUES (3); DELETE FROM a WHERE id < 10");
    wait_for_replay(&one, &two);
    assert_error(&finish(&mut case.command("check")), &[needed]);
    std::fs::remove_file(case.folder.join("sidecar.log")).unwrap();
    let mut sidecar = case.start();
    says_once(&sidecar);
    case.sql("INSERT INTO c VALUES (4)");
    case.sql("ALTER PUBLICATION unpublished ADD TABLE b; INSERT INTO b VALUES (1)");
    wait_for_replay(&one, &two);
    sidecar.reload();
    case.wait_for_state(&mut sidecar, "b", "streaming");
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    case.assert_not_copied_anew(&["a", "c"]);
    sidecar.stop();
}

#[test]
fn the_wal_level_of_both_servers_is_looked_at() {
    let one = Server::start(18, &[("PG_WAL_LEVEL", "replica")]);
    let two = Server::start(18, &[]);
    two.follow(&one);
    let case = at_standby(&one, &two, "levels");
    case.sql("CREATE TABLE t (id int PRIMARY KEY)");
    wait_for_replay(&one, &two);
    assert_error(&finish(&mut case.command("check")), &["wal_level is replica"]);
    two.sql("ALTER SYSTEM SET wal_level = logical");
    two.stop("fast");
    two.start_again();
    let at_primary = ["wal_level of the primary is not logical", "at the primary"];
    assert_error(&finish(&mut case.command("check")), &at_primary);
    assert_error(&case.run_once(), &at_primary);
}

#[test]
fn an_older_standby_is_refused() {
    let (one, two) = pair(15);
    let case = case(&one, &two, "older");
    case.sql("CREATE TABLE t (id int PRIMARY KEY)");
    wait_for_replay(&one, &two);
    let refusal = [
        "which can't decode",
        "upgrade both to PostgreSQL 16",
        "point source.url at the primary",
    ];
    assert_error(&finish(&mut case.command("check")), &refusal);
    assert_error(&case.run_once(), &refusal);
}

#[test]
fn init_writes_that_it_is_a_standby_and_says_what_to_run_at_the_primary() {
    let (one, two) = pair(18);
    let case = at_standby(&one, &two, "init_standby");
    case.sql("CREATE TABLE t (id int PRIMARY KEY)");
    wait_for_replay(&one, &two);
    let file = case.folder.join("written.toml");
    let mut init = Command::new(env!("CARGO_BIN_EXE_tributary"));
    init.arg("init")
        .arg("--config")
        .arg(&file)
        .arg(&case.url)
        .arg("--lake")
        .arg(&case.lake);
    let said = succeed(&mut init);
    assert!(
        said.contains("at the primary:") && said.contains("CREATE PUBLICATION tributary"),
        "{said}"
    );
    let written = std::fs::read_to_string(&file).unwrap();
    assert!(written.contains("\nstandby = true\n"), "{written}");
}

/// A sidecar moves to a standby without a copy: the slot there begins before it leaves the primary.
#[test]
fn a_lake_moves_from_the_primary_to_its_standby() {
    let (one, two) = pair(16);
    let mut case = Case::new(&one, "moves");
    case.sql(TABLES);
    let primary = case.url.clone();
    case.catch_up();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            two.psql(&case.database.name)
                .args(["-c", "SELECT pg_create_logical_replication_slot('moves', 'pgoutput')"])
                .output()
        });
        let_slot_begin(&one, &two, &case.slot);
    });
    case.sql("UPDATE a SET v = 'at the primary' WHERE id < 100");
    case.catch_up();
    case.url = primary.replace(&format!(":{}/", one.port), &format!(":{}/", two.port));
    case.source = "standby = true";
    one.sql("SELECT pg_drop_replication_slot('moves')");
    case.sql("UPDATE a SET v = 'at the standby' WHERE id > 19000; DELETE FROM b WHERE id < 10");
    wait_for_replay(&one, &two);
    case.catch_up();
    case.compare(&[]);
    assert!(replacements(&case.table("a")).is_empty());
    assert_left_alone(&one);
}

/// From 17 on a standby may have the primary's slot, to be used once it is promoted and not before.
#[test]
fn a_slot_that_is_synchronized_is_not_for_a_standby() {
    let (one, two) = pair(18);
    let mut case = Case::new(&one, "synced");
    case.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    case.catch_up();
    let synced = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'synced' AND synced";
    wait_for("the slot at the standby", || (two.sql(synced) == "1").then_some(()));
    case.url = case.url.replace(&format!(":{}/", one.port), &format!(":{}/", two.port));
    case.source = "standby = true";
    let refusal = ["is the primary's, synchronized", "source.slot"];
    assert_error(&finish(&mut case.command("check")), &refusal);
    assert_error(&case.run_once(), &refusal);
}
