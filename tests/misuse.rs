//! What a user can get wrong, and what the environment can: a clear error that names the fix, and nothing lost.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::lake::commits;
use crate::support::server::{POSTGRES, Server};
use crate::support::sidecar::Sidecar;
use crate::support::{Case, assert_error, finish, interpreter, python, signal, succeed, text, wait_for};

const TABLE: &str =
    "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'v' FROM generate_series(1, 100) i";

fn case(name: &str) -> Case<'static> {
    let case = Case::new(Server::shared(15), name);
    case.sql(TABLE);
    case
}

#[test]
fn configuration_mistakes_name_the_key() {
    let mut case = case("configuration");
    case.source = "publicaton = \"p\"";
    for verb in ["check", "run", "status"] {
        assert_error(
            &finish(&mut case.command(verb)),
            &["unknown key source.publicaton", "publication"],
        );
    }
    let mut absent = Command::new(env!("CARGO_BIN_EXE_tributary"));
    assert_error(
        &finish(absent.args(["run", "--config", "/absent/tributary.toml"])),
        &["/absent/tributary.toml"],
    );
}

#[test]
fn a_server_or_database_that_is_not_there_is_named() {
    let mut case = case("unreachable");
    let good = case.url.clone();
    case.url = "postgres://postgres@127.0.0.1:1/unreachable".to_owned();
    assert_error(&case.run_once(), &["127.0.0.1:1"]);
    assert_error(&finish(&mut case.command("check")), &["127.0.0.1:1"]);
    case.url = good.replace("/unreachable", "/nowhere");
    assert_error(&case.run_once(), &["nowhere"]);
    case.url = good.replace("postgres@", "nobody@");
    assert_error(&case.run_once(), &["nobody"]);
}

#[test]
fn missing_rights_come_with_the_sql_that_grants_them() {
    let mut case = case("rights");
    case.sql("CREATE ROLE rights_reader LOGIN");
    case.url = case.database.url("rights_reader", "127.0.0.1");
    assert_error(&case.run_once(), &["ALTER ROLE", "rights_reader", "REPLICATION"]);
    case.sql("ALTER ROLE rights_reader REPLICATION");
    // In whatever order the program finds them.
    let mut missing = vec![
        ("GRANT SELECT", "GRANT SELECT ON t TO rights_reader"),
        ("CREATE PUBLICATION", "CREATE PUBLICATION rights FOR TABLE t"),
    ];
    while !missing.is_empty() {
        let output = case.run_once();
        let said = text(&output);
        let Some(found) = missing.iter().position(|(hint, _)| said.contains(hint)) else {
            panic!("none of {missing:?} in:\n{said}")
        };
        assert_error(&output, &[]);
        case.sql(missing.remove(found).1);
    }
    case.catch_up();
    case.sql("UPDATE t SET v = 'w'");
    case.catch_up();
    case.compare(&[]);
    // Rows that a policy hides would be missing in a copy.
    case.sql("CREATE TABLE hidden (id int PRIMARY KEY); INSERT INTO hidden VALUES (1); GRANT SELECT ON hidden TO rights_reader");
    case.sql("ALTER TABLE hidden ENABLE ROW LEVEL SECURITY; ALTER PUBLICATION rights ADD TABLE hidden");
    assert_error(&case.run_once(), &["public.hidden", "row-level security", "BYPASSRLS"]);
    case.sql("ALTER ROLE rights_reader BYPASSRLS");
    case.catch_up();
    case.compare(&[]);
}

#[test]
fn wal_level_replica_is_named_with_its_fix() {
    let server = Server::start(15, &[("PG_WAL_LEVEL", "replica")]);
    let case = Case::new(&server, "wal_level");
    case.sql(TABLE);
    assert_error(&case.run_once(), &["wal_level", "replica", "logical"]);
    assert_error(&finish(&mut case.command("check")), &["wal_level"]);
    case.sql("ALTER SYSTEM SET wal_level = logical");
    server.crash();
    case.catch_up();
    case.compare(&[]);
}

#[test]
fn a_second_program_on_a_slot_is_refused_and_the_first_goes_on() {
    let case = case("slot_in_use");
    let mut first = case.start();
    case.wait_until_current(&mut first);
    assert_error(&case.run_once(), &["slot_in_use"]);
    case.sql("UPDATE t SET v = 'w'; INSERT INTO t VALUES (1000, 'x')");
    case.wait_until_current(&mut first);
    first.stop();
    case.compare(&[]);
}

#[test]
fn a_slot_made_again_is_never_resumed_in_silence() {
    let case = case("slot_again");
    case.catch_up();
    case.sql("SELECT pg_drop_replication_slot('slot_again')");
    case.sql("INSERT INTO t VALUES (1001, 'missed'); DELETE FROM t WHERE id = 1");
    case.sql("SELECT pg_create_logical_replication_slot('slot_again', 'pgoutput')");
    case.sql("INSERT INTO t VALUES (1002, 'after')");
    a_gap_stops_the_table(&case);
}

#[test]
fn a_slot_that_is_gone_is_never_replaced_in_silence() {
    let case = case("slot_gone");
    case.catch_up();
    case.sql("SELECT pg_drop_replication_slot('slot_gone')");
    case.sql("INSERT INTO t VALUES (1001, 'missed'); DELETE FROM t WHERE id = 1");
    a_gap_stops_the_table(&case);
}

#[test]
fn a_slot_moved_by_another_is_never_resumed_in_silence() {
    let case = case("slot_moved");
    case.catch_up();
    case.sql("INSERT INTO t VALUES (1001, 'missed'); DELETE FROM t WHERE id = 1");
    case.sql("SELECT pg_replication_slot_advance('slot_moved', pg_current_wal_lsn())");
    case.sql("INSERT INTO t VALUES (1002, 'after')");
    a_gap_stops_the_table(&case);
}

#[test]
fn a_table_taken_out_of_the_publication_is_never_resumed_in_silence() {
    let case = case("publication_gap");
    case.catch_up();
    case.sql("ALTER PUBLICATION publication_gap DROP TABLE t");
    case.sql("INSERT INTO t VALUES (1001, 'missed'); DELETE FROM t WHERE id = 1");
    a_gap_stops_the_table(&case);
}

#[test]
fn a_publication_made_again_is_an_error_with_a_way_out() {
    let case = case("publication_again");
    case.catch_up();
    case.sql("DROP PUBLICATION publication_again");
    case.sql("INSERT INTO t VALUES (1001, 'missed'); DELETE FROM t WHERE id = 1");
    case.sql("CREATE PUBLICATION publication_again FOR TABLE t");
    // The server decodes by the catalogue of the time, in which there is no such publication: the slot is of no use.
    assert_error(
        &case.run_once(),
        &["publication was dropped or made anew", "tributary snapshot"],
    );
    succeed(&mut case.command("snapshot"));
    case.catch_up();
    case.compare(&[]);
}

/// Changes of `t` are lost: every run says so, and the lake neither claims to be current nor takes later changes.
fn a_gap_stops_the_table(case: &Case) {
    for _ in 0..2 {
        assert_error(&case.run_once(), &["snapshot", "public.t"]);
        let status = case.status();
        assert_eq!(status.tables[0].state, "needs_snapshot", "{}", status.text);
    }
    let rows = succeed(
        python("lake.py")
            .arg("query")
            .arg(case.table("t"))
            .arg("select count(id), max(id) from t"),
    );
    assert_eq!(rows, "[100, 100]\n", "the lake is not what it was before the gap");
    // The way out that the hint names.
    succeed(&mut case.command("snapshot"));
    case.catch_up();
    case.compare(&[]);
}

#[test]
fn a_lake_that_cannot_be_written_is_named() {
    let mut case = case("unwritable");
    let good = case.lake.clone();
    let file = case.folder.join("file");
    std::fs::write(&file, "not a folder").unwrap();
    case.lake = file.join("lake");
    for verb in ["run", "check"] {
        assert_error(&finish(&mut case.command(verb)), &[file.to_str().unwrap()]);
    }
    case.lake = good;
    case.catch_up();
    case.compare(&[]);
}

#[test]
fn a_lake_that_becomes_read_only_loses_nothing() {
    let mut case = case("read_only");
    let disk = Disk::mount(case.folder.join("disk"), "size=64m");
    case.lake = disk.folder.join("lake");
    case.catch_up();
    disk.remount("ro");
    case.sql("UPDATE t SET v = 'w' WHERE id < 50");
    assert_error(&case.run_once(), &[case.lake.to_str().unwrap()]);
    disk.remount("rw");
    case.catch_up();
    case.compare(&[]);
}

const NOISE: &str = "CREATE TABLE noise (id int PRIMARY KEY, v text)";
const MORE_NOISE: &str =
    "INSERT INTO noise SELECT i, (SELECT string_agg(md5(i || '.' || j), '') FROM generate_series(1, 250) j)
    FROM generate_series((SELECT count(*) FROM noise) + 1, (SELECT count(*) FROM noise) + 6000) i";

#[test]
fn a_full_disk_in_the_first_copy_loses_nothing() {
    let mut case = case("full_copy");
    let disk = Disk::mount(case.folder.join("disk"), "size=8m");
    case.lake = disk.folder.join("lake");
    case.sql(NOISE);
    case.sql(MORE_NOISE);
    assert_error(&case.run_once(), &["space"]);
    case.sql("UPDATE t SET v = 'w'");
    disk.remount("size=400m");
    case.catch_up();
    case.compare(&[]);
}

#[test]
fn a_full_disk_while_streaming_loses_nothing() {
    let mut case = case("full_stream");
    let disk = Disk::mount(case.folder.join("disk"), "size=8m");
    case.lake = disk.folder.join("lake");
    case.sql(NOISE);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.sql(MORE_NOISE);
    case.sql("UPDATE t SET v = 'w'");
    // It says what is wrong, and goes on by itself once that is mended.
    for part in ["no space", "hint"] {
        sidecar.wait_for_log(part);
    }
    disk.remount("size=400m");
    case.wait_until_current(&mut sidecar);
    sidecar.stop();
    case.compare(&[]);
}

#[test]
fn a_foreign_delta_table_is_left_alone() {
    let case = case("foreign");
    let folder = case.table("t");
    let write = "import os, sys, pyarrow, deltalake; deltalake.write_deltalake(sys.argv[1], pyarrow.table({'id': [7]})); os._exit(0)";
    succeed(interpreter().args(["-c", write]).arg(&folder));
    for verb in ["run", "check"] {
        assert_error(&finish(&mut case.command(verb)), &["public/t", "did not write"]);
    }
    assert_eq!(commits(&folder).len(), 1, "the foreign table was changed");
    std::fs::remove_dir_all(&folder).unwrap();
    case.catch_up();
    case.compare(&[]);
}

#[test]
fn the_lake_of_another_pipeline_is_left_alone() {
    let one = case("pipeline_one");
    one.catch_up();
    let commits_before = commits(&one.table("t")).len();
    let mut two = case("pipeline_two");
    two.lake = one.lake.clone();
    assert_error(&two.run_once(), &["pipeline"]);
    assert_eq!(commits(&one.table("t")).len(), commits_before);
    one.compare(&[]);
}

#[test]
fn a_table_without_a_key_is_refused_with_two_ways_out() {
    let mut case = case("no_key");
    case.sql("CREATE TABLE keyless (v int); INSERT INTO keyless VALUES (1)");
    for verb in ["check", "run"] {
        let output = finish(case.command(verb).args((verb == "run").then_some("--once")));
        assert_error(&output, &["public.keyless", "PRIMARY KEY", "!public.keyless"]);
    }
    case.tables = vec!["public.*".to_owned(), "!public.keyless".to_owned()];
    case.catch_up();
    case.compare(&["public.t"]);
    // The other way out.
    case.tables = vec![];
    case.sql("ALTER TABLE keyless ADD PRIMARY KEY (v)");
    case.catch_up();
    case.compare(&[]);
}

#[test]
fn replica_identity_nothing_is_refused() {
    let case = case("nothing");
    case.sql("ALTER TABLE t REPLICA IDENTITY NOTHING");
    assert_error(&finish(&mut case.command("check")), &["public.t", "REPLICA IDENTITY"]);
}

#[test]
fn a_type_that_is_not_supported_is_named() {
    let mut case = case("unsupported");
    case.sql(
        "CREATE EXTENSION ltree; CREATE TABLE odd (id int PRIMARY KEY, way ltree); INSERT INTO odd VALUES (1, 'a.b')",
    );
    assert_error(&finish(&mut case.command("check")), &["public.odd", "way", "ltree"]);
    assert_error(&case.run_once(), &["public.odd", "way", "ltree"]);
    case.tables = vec!["!public.odd".to_owned()];
    case.catch_up();
    case.compare(&["public.t"]);
}

#[test]
fn a_type_that_cannot_be_a_key_is_named() {
    let case = case("odd_key");
    case.sql("CREATE TABLE odd (way jsonb PRIMARY KEY)");
    assert_error(&finish(&mut case.command("check")), &["public.odd", "way", "jsonb"]);
}

#[test]
fn a_value_that_cannot_be_taken_over_has_a_way_out() {
    let case = case("odd_values");
    case.sql("CREATE TABLE days (d date PRIMARY KEY); CREATE TABLE lists (id int PRIMARY KEY, v int[])");
    case.catch_up();
    for (table, odd, mended) in [
        (
            "days",
            "INSERT INTO days VALUES ('infinity')",
            "UPDATE days SET d = '2024-01-01'",
        ),
        (
            "lists",
            "INSERT INTO lists VALUES (1, '{{1,2},{3,4}}')",
            "UPDATE lists SET v = '{1}'",
        ),
    ] {
        case.sql(odd);
        assert_error(&case.run_once(), &[&format!("tributary snapshot public.{table}")]);
        case.sql(mended);
        succeed(case.command("snapshot").arg(format!("public.{table}")));
        case.catch_up();
        case.compare(&[]);
    }
}

#[test]
fn what_is_not_a_stored_table_is_left_out() {
    let case = case("relations");
    case.sql(
        "CREATE VIEW a_view AS SELECT * FROM t; CREATE MATERIALIZED VIEW a_copy AS SELECT * FROM t;
         CREATE SEQUENCE a_sequence; CREATE FOREIGN DATA WRAPPER w;
         CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE far (id int) SERVER s",
    );
    case.catch_up();
    let replicated: Vec<_> = case.status().tables.into_iter().map(|t| t.table).collect();
    assert_eq!(replicated, ["public.t"]);
    case.sql("CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY)");
    assert_error(&case.run_once(), &["public.unlogged", "SET LOGGED"]);
    case.compare(&["public.t"]);
}

#[test]
fn a_hostile_name_stays_inside_the_lake() {
    let case = case("hostile");
    case.sql(
        r#"CREATE SCHEMA "Odd schema/..";
        CREATE TABLE "Odd schema/.."."../Ünï ""%41""" (
          "ID" int PRIMARY KEY, dropped text, "select" text, "a.b" int, "Ü""'" text,
          double int GENERATED ALWAYS AS ("ID" * 2) STORED);
        ALTER TABLE "Odd schema/.."."../Ünï ""%41""" DROP dropped;
        INSERT INTO "Odd schema/.."."../Ünï ""%41""" SELECT i, 's' || i, i, 'ü' FROM generate_series(1, 10) i"#,
    );
    case.catch_up();
    case.sql(
        r#"UPDATE "Odd schema/.."."../Ünï ""%41""" SET "a.b" = "a.b" + 1, "ID" = -"ID" WHERE "ID" % 2 = 0;
        INSERT INTO "Odd schema/.."."../Ünï ""%41""" VALUES (11, 'new', NULL, '')"#,
    );
    case.catch_up();
    case.compare(&[]);
    let entries = |folder: &Path| {
        let names = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = names.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(entries(&case.folder), ["cache", "lake", "tributary.toml"]);
    assert_eq!(entries(&case.lake), ["Odd~20schema~2F~2E~2E", "_tributary", "public"]);
}

/// A small disk, for root.
struct Disk {
    folder: PathBuf,
}

impl Disk {
    fn mount(folder: PathBuf, options: &str) -> Self {
        std::fs::create_dir(&folder).unwrap();
        succeed(
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", options, "tmpfs"])
                .arg(&folder),
        );
        Disk { folder }
    }

    fn remount(&self, options: &str) {
        succeed(
            Command::new("mount")
                .args(["-o", &format!("remount,{options}")])
                .arg(&self.folder),
        );
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
    }
}

#[test]
fn a_sidecar_that_was_replaced_while_it_was_away_stops() {
    let case = Case::new(Server::shared(POSTGRES), "replaced");
    case.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    let mut old = case.start();
    case.wait_until_current(&mut old);
    signal(old.id(), "STOP");
    case.sql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'replaced'");
    let mut new = Sidecar::start(case.command("run"), &case.folder.join("new.log"));
    new.wait_for_log(" INFO streaming tables=1");
    signal(old.id(), "CONT");
    wait_for("the old one to end", || old.has_ended().then_some(()));
    let said = old.log();
    assert!(said.contains("another sidecar of this pipeline has started"), "{said}");
    assert!(!old.wait_for_end().success());
    case.sql("INSERT INTO t VALUES (2)");
    case.wait_until_current(&mut new);
    case.compare(&[]);
    new.stop();
}
