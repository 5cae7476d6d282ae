//! Tables that keep what their source's tables don't: deleted rows.

use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use crate::support::lake::commits;
use crate::support::server::{Kind, MONGO, POSTGRES, Server};
use crate::support::sidecar::Sidecar;
use crate::support::writer::Writer;
use crate::support::{Case, assert_error, finish, on_every_source, python, succeed, text, wait_for};

on_every_source! {
    deleted_rows_stay_through_kills
    a_new_copy_keeps_deleted_rows
    a_transaction_larger_than_memory_deletes_in_parts
    verify_tells_rows_that_live_from_marked_ones
}

/// `t` keeps what is deleted; before it deletes, a transaction copies to `graves` what it is going to.
fn case<'a>(server: &'a Server, name: &str) -> Case<'a> {
    let mut case = Case::new(server, name);
    let t = case.qualified("t");
    case.sections = format!("[[table]]\nmatch = {t:?}\nmode = \"soft-delete\"\n");
    for table in ["t", "graves"] {
        case.sql(&format!("CREATE TABLE {table} (id int PRIMARY KEY, v int, big text)"));
        if case.kind().has_slot() {
            // Out of line and as long as it is, so that updates of `v` leave it out of the log.
            case.sql(&format!("ALTER TABLE {table} ALTER big SET STORAGE EXTERNAL"));
        }
    }
    case.sql("INSERT INTO t SELECT i, 0, concat(i, repeat('x', 3000)) FROM series(1, 400)");
    case
}

/// SQL that copies rows of `t` to `graves`.
fn bury(condition: &str) -> String {
    format!(
        "DELETE FROM graves WHERE id IN (SELECT id FROM t WHERE {condition}); INSERT INTO graves SELECT * FROM t WHERE {condition}"
    )
}

fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let time = succeed(Command::new("date").args(["-u", "-Iseconds", "-d", &format!("@{seconds}")]));
    time.trim().to_owned()
}

/// Rows that live are those of the source, and those that don't are the graves'.
fn compare_with_graves(case: &Case, since: SystemTime, least: usize) {
    case.compare(&[]);
    case.verify();
    let until = SystemTime::now() + Duration::from_secs(2);
    let mut command = python("modes.py");
    command.args(["soft-delete", "--source", &case.database.socket_url(), "--lake"]);
    command.arg(&case.lake).args(["--since", &rfc3339(since)]);
    command.args(["--until", &rfc3339(until), "--least", &least.to_string()]);
    let output = finish(command.args([case.qualified("t"), case.qualified("graves")]));
    assert!(output.status.success(), "{}", text(&output));
}

fn wait_for_commits(case: &Case, sidecar: &mut Sidecar, more: usize) {
    let before = commits(&case.table("t")).len();
    wait_for("commits", || {
        sidecar.assert_running();
        (commits(&case.table("t")).len() >= before + more).then_some(())
    });
}

fn deleted_rows_stay_through_kills(kind: Kind) {
    let server = match kind {
        // Deletes have nothing but the key, and updates what they set.
        Kind::MariaDb(_) => Server::configured(kind, "binlog_row_image = MINIMAL"),
        _ => Server::start(kind, &[]),
    };
    let case = case(&server, "soft_delete");
    let since = SystemTime::now() - Duration::from_secs(2);
    case.catch_up();
    let again = "INSERT INTO t SELECT i, {i}, concat('again', repeat('y', 3000)) FROM series(1, 400) WHERE i % 20 = {k} % 20 AND i NOT IN (SELECT id FROM t)";
    let transactions = [
        "UPDATE t SET v = {i} WHERE id % 37 = {k} % 37".to_owned(),
        format!("{}; DELETE FROM t WHERE id = {{k}}", bury("id = {k}")),
        // What a row was last, no commit of the lake may have seen.
        format!(
            "UPDATE t SET v = -{{i}} WHERE id % 50 = {{k}} % 50; {}; DELETE FROM t WHERE id % 50 = {{k}} % 50",
            bury("id % 50 = {k} % 50")
        ),
        again.to_owned(),
        format!(
            "{}; UPDATE t SET id = {{i}} + 1000 WHERE id = {{k}} + 1",
            bury("id = {k} + 1")
        ),
    ];
    let transactions: Vec<&str> = transactions.iter().map(String::as_str).collect();
    let writer = Writer::paced(&case, 399, 5, &transactions);
    for round in 0..6 {
        let mut sidecar = case.start();
        wait_for_commits(&case, &mut sidecar, 3);
        sidecar.kill();
        if round == 3 {
            std::fs::remove_dir_all(case.cache()).unwrap();
        }
    }
    writer.stop();
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    compare_with_graves(&case, since, 30);

    // The table is emptied in the middle of a batch, and rows of before it are in no commit of the lake.
    case.sql(&format!(
        "UPDATE t SET v = v + 1; INSERT INTO t SELECT i, 7, 'short-lived' FROM series(200000, 200100); {}; TRUNCATE TABLE t; \
         INSERT INTO t SELECT i, 8, 'of later' FROM series(1, 50)",
        bury("id > 0")
    ));
    case.wait_until_current(&mut sidecar);
    compare_with_graves(&case, since, 400);
    sidecar.stop();
}

fn a_new_copy_keeps_deleted_rows(kind: Kind) {
    let case = case(Server::shared(kind), "soft_delete_copy");
    let since = SystemTime::now() - Duration::from_secs(2);
    case.catch_up();
    case.sql(&format!("{}; DELETE FROM t WHERE id <= 100", bury("id <= 100")));
    case.catch_up();
    // Nobody tells the lake of these: the copy is as of later.
    case.sql(&format!("{}; DELETE FROM t WHERE id > 350", bury("id > 350")));
    case.sql("INSERT INTO t SELECT i, 1, 'again' FROM series(1, 20)");
    succeed(&mut case.snapshot(&[&case.qualified("t")]));
    compare_with_graves(&case, since, 130);
    // Through kills.
    for _ in 0..3 {
        case.sql(&format!("{}; DELETE FROM t WHERE id % 9 = 0", bury("id % 9 = 0")));
        case.sql("INSERT INTO t SELECT i, 2, 'again' FROM series(1, 400) WHERE i % 18 = 0");
        let mut sidecar = case.start();
        // The command would take one that does not stream yet for none.
        case.wait_until_current(&mut sidecar);
        let replaced = || versions(&case, "REPLACE");
        let before = replaced();
        let mut request = case.snapshot(&[&case.qualified("t")]);
        let mut request = request.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_for("the copy", || {
            sidecar.assert_running();
            let copying = case.table_status("t").is_some_and(|t| t.state == "resnapshotting");
            (copying || replaced() > before).then_some(())
        });
        sidecar.kill();
        let _ = request.kill();
        request.wait().unwrap();
    }
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    compare_with_graves(&case, since, 130);
    sidecar.stop();
}

fn a_transaction_larger_than_memory_deletes_in_parts(kind: Kind) {
    let case = case(Server::shared(kind), "soft_delete_large");
    let since = SystemTime::now() - Duration::from_secs(2);
    case.catch_up();
    let before = commits(&case.table("t")).len();
    case.sql(&format!(
        "BEGIN; INSERT INTO t SELECT i, 1, concat(i, repeat('z', 2000)) FROM series(1001, 8000); UPDATE t SET v = v + 2 WHERE id % 3 = 0; \
         {}; DELETE FROM t WHERE id % 2 = 0; UPDATE t SET v = 9 WHERE id % 5 = 0; {}; DELETE FROM t WHERE id % 5 = 0; COMMIT",
        bury("id % 2 = 0"),
        bury("id % 5 = 0"),
    ));
    let output = finish(case.command("run").arg("--once").env("TRIBUTARY_APPLY_MEMORY", "64MiB"));
    assert!(output.status.success(), "{}", text(&output));
    let with_rows = |commit: &&Vec<serde_json::Value>| commit.iter().any(|action| action["add"]["dataChange"] == true);
    assert_eq!(commits(&case.table("t"))[before..].iter().filter(with_rows).count(), 1);
    compare_with_graves(&case, since, 4400);
}

fn verify_tells_rows_that_live_from_marked_ones(kind: Kind) {
    let case = case(Server::shared(kind), "soft_delete_verify");
    case.catch_up();
    case.sql("DELETE FROM t WHERE id <= 10");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.verify();
    let set = |id: u32, value: &str| {
        let key = format!("{{\"id\": {id}}}");
        let mut tamper = python("tamper.py");
        succeed(tamper.arg(case.table("t")).args(["set", &key, "_deleted", value]));
    };
    set(7, "false");
    set(8, "false");
    set(20, "true");
    let output = finish(&mut case.command("verify"));
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    for part in ["1 missing", "2 extra", "missing in the lake: id=20"] {
        assert!(text(&output).contains(part), "{}", text(&output));
    }
    sidecar.stop();
}

#[test]
fn columns_change_beside_deleted_rows() {
    let case = case(Server::shared(POSTGRES), "soft_delete_columns");
    let since = SystemTime::now() - Duration::from_secs(2);
    case.catch_up();
    let mut sidecar = case.start();
    let delete = |condition: &str| case.sql(&format!("{}; DELETE FROM t WHERE {condition}", bury(condition)));
    delete("id <= 10");
    for (number, change) in [
        "ADD COLUMN more int",
        "RENAME v TO w",
        "DROP COLUMN more",
        "ADD COLUMN other text",
    ]
    .iter()
    .enumerate()
    {
        case.sql(&format!("ALTER TABLE t {change}; ALTER TABLE graves {change}"));
        case.sql("UPDATE t SET big = 'new' WHERE id % 7 = 0; INSERT INTO graves (id) VALUES (0); DELETE FROM graves WHERE id = 0");
        delete(&format!("id <= {}", 10 * (number + 2)));
        case.wait_until_current(&mut sidecar);
        compare_with_graves(&case, since, 10 * (number + 2));
    }
    // A column of the lake's own name stalls it, until it is gone again.
    case.sql("ALTER TABLE t ADD COLUMN _deleted_at int; UPDATE t SET big = 'newer' WHERE id % 11 = 0 AND id > 300");
    let status = case.wait_for_state(&mut sidecar, "t", "stalled");
    assert!(status.reason.contains("_deleted_at"), "{}", status.reason);
    case.sql("ALTER TABLE t DROP COLUMN _deleted_at");
    delete("id <= 60");
    sidecar.reload();
    case.wait_for_state(&mut sidecar, "t", "streaming");
    case.wait_until_current(&mut sidecar);
    compare_with_graves(&case, since, 60);
    sidecar.stop();
}

fn versions(case: &Case, operation: &str) -> usize {
    let is_one = |commit: &Vec<serde_json::Value>| {
        commit
            .iter()
            .any(|action| action["commitInfo"]["operation"] == operation)
    };
    commits(&case.table("t")).iter().filter(|commit| is_one(commit)).count()
}

#[test]
fn a_table_keeps_its_mode_and_needs_its_names() {
    let mut case = case(Server::shared(POSTGRES), "soft_delete_misuse");
    case.catch_up();
    let sections = std::mem::take(&mut case.sections);
    for verb in ["check", "run"] {
        let output = finish(case.command(verb).args((verb == "run").then_some("--once")));
        assert_error(
            &output,
            &["public.t was made with mode = \"soft-delete\"", "set it back"],
        );
    }
    case.sections = sections.replace("public.t", "*");
    case.sql("CREATE TABLE clash (id int PRIMARY KEY, \"_Deleted\" bool)");
    for verb in ["check", "run"] {
        let output = finish(case.command(verb).args((verb == "run").then_some("--once")));
        assert_error(&output, &["public.clash", "_Deleted", "exclude"]);
    }
    case.sections = format!(
        "{}exclude = \"_deleted\"\n",
        sections.replace("public.t", "public.clash")
    );
    case.sections += &sections;
    case.sql("INSERT INTO clash VALUES (1, true), (2, false)");
    case.catch_up();
    case.sql("DELETE FROM clash WHERE id = 1");
    case.catch_up();
    let marks = case.query(
        "clash",
        "select count(*), sum(case when _deleted then id end) from t",
        None,
    );
    assert_eq!(marks, "[2, 1]");
}

#[test]
fn deleted_documents_stay_as_they_were_last() {
    let mut case = Case::new(Server::shared(MONGO), "soft_delete");
    case.sections = format!("[[table]]\nmatch = {:?}\nmode = \"soft-delete\"\n", case.qualified("t"));
    case.mongo("db.t.insert_many([{'_id': i, 'v': 0, 'tags': ['a']} for i in range(100)])");
    // Fields of the names that the lake's own columns have.
    case.mongo("db.t.insert_one({'_id': 1000, 'v': 0, '_deleted': True})");
    let mut sidecar = case.start();
    case.wait_until_settled(&mut sidecar);
    case.mongo("db.t.insert_one({'_id': 1001, 'v': 0, '_Deleted_At': 'x'})");
    case.mongo(
        "
        db.t.update_many({'_id': {'$lt': 10}}, {'$inc': {'v': 5}, '$push': {'tags': 'b'}})
        db.t.delete_many({'_id': {'$lt': 20}})
        db.t.insert_many([{'_id': i, 'v': 9} for i in range(5)])
        db.t.update_many({'_id': {'$lt': 3}}, {'$set': {'v': 10}})
        db.t.insert_one({'_id': 500, 'v': 1})
        db.t.update_one({'_id': 500}, {'$set': {'v': 2}})
        db.t.delete_one({'_id': 500})",
    );
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    case.verify();
    let sum = |condition: &str| {
        let sql = format!("select count(*), sum(v), count(_deleted_at) from t where {condition}");
        case.query("t", &sql, None)
    };
    // 5 to 9 had 5, 10 to 19 nothing, 500 had 2.
    assert_eq!(sum("_deleted"), "[16, 27, 16]");
    assert_eq!(sum("not _deleted"), "[87, 48, 0]");
    // When it was at the source: MongoDB's clock has seconds.
    let fractions = "select count(*) from t where _deleted_at <> date_trunc('second', _deleted_at)";
    assert_eq!(case.query("t", fractions, None), "[0]");
    sidecar.kill();
    case.mongo("db.t.delete_many({'_id': {'$lt': 5}})");
    case.catch_up();
    assert_eq!(sum("_deleted"), "[21, 75, 21]");
    case.compare(&[]);
}
