//! Tables that keep what their source's tables don't: deleted rows, and every change.

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
    a_history_has_every_change_through_kills
    a_new_copy_comes_after_a_history
    a_transaction_larger_than_memory_is_told_whole
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
    compare_beside(case, &["soft-delete"], "graves", since, least);
}

fn compare_beside(case: &Case, mode: &[&str], other: &str, since: SystemTime, least: usize) {
    let until = SystemTime::now() + Duration::from_secs(2);
    let mut command = python("modes.py");
    command
        .args(mode)
        .args(["--source", &case.database.socket_url(), "--lake"]);
    command.arg(&case.lake).args(["--since", &rfc3339(since)]);
    command.args(["--until", &rfc3339(until), "--least", &least.to_string()]);
    let output = finish(command.args([case.qualified("t"), case.qualified(other)]));
    assert!(output.status.success(), "{}", text(&output));
}

/// `t` keeps every change, and the source's triggers tell each in `told`.
fn history_case<'a>(server: &'a Server, name: &str) -> Case<'a> {
    let mut case = Case::new(server, name);
    let t = case.qualified("t");
    case.sections = format!("[[table]]\nmatch = {t:?}\nmode = \"history\"\n");
    case.sql("CREATE TABLE t (id int PRIMARY KEY, v int, big text)");
    case.sql("INSERT INTO t SELECT i, 0, concat(i, repeat('x', 3000)) FROM series(1, 400)");
    let told = "CREATE TABLE told (n {serial} PRIMARY KEY, op varchar(1), id int, v int, big text)";
    if case.kind().has_slot() {
        case.sql("ALTER TABLE t ALTER big SET STORAGE EXTERNAL");
        case.sql(&told.replace("{serial}", "serial"));
        case.sql(
            "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF TG_OP = 'DELETE' OR TG_OP = 'UPDATE' AND OLD.id <> NEW.id THEN
                    INSERT INTO told (op, id, v, big) VALUES ('d', OLD.id, OLD.v, OLD.big);
                END IF;
                IF TG_OP = 'INSERT' OR TG_OP = 'UPDATE' AND OLD.id <> NEW.id THEN
                    INSERT INTO told (op, id, v, big) VALUES ('c', NEW.id, NEW.v, NEW.big);
                ELSIF TG_OP = 'UPDATE' THEN
                    INSERT INTO told (op, id, v, big) VALUES ('u', NEW.id, NEW.v, NEW.big);
                END IF;
                RETURN NULL;
             END $$;
             CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION tell()",
        );
    } else {
        case.sql(&told.replace("{serial}", "int AUTO_INCREMENT"));
        let tell = "INSERT INTO told (op, id, v, big)";
        for (event, body) in [
            ("INSERT", "VALUES ('c', NEW.id, NEW.v, NEW.big)"),
            // An update that changes nothing is not in the log.
            (
                "UPDATE",
                "SELECT 'd', OLD.id, OLD.v, OLD.big FROM DUAL WHERE OLD.id <> NEW.id \
                 UNION ALL SELECT if(OLD.id = NEW.id, 'u', 'c'), NEW.id, NEW.v, NEW.big FROM DUAL \
                 WHERE NOT (OLD.id = NEW.id AND OLD.v <=> NEW.v AND OLD.big <=> NEW.big)",
            ),
            ("DELETE", "VALUES ('d', OLD.id, OLD.v, OLD.big)"),
        ] {
            case.sql(&format!(
                "CREATE TRIGGER tell_{event} AFTER {event} ON t FOR EACH ROW {tell} {body}"
            ));
        }
    }
    case
}

/// The lake has each change that was told, and the rows that live are the source's.
fn compare_with_told(case: &Case, since: SystemTime, least: usize) {
    case.compare(&[]);
    case.verify();
    compare_beside(case, &["history"], "told", since, least);
}

fn wait_for_commits(case: &Case, sidecar: &mut Sidecar, more: usize) {
    let before = commits(&case.table("t")).len();
    wait_for("commits", || {
        sidecar.assert_running();
        (commits(&case.table("t")).len() >= before + more).then_some(())
    });
}

/// Kills sidecars again and again beside transactions, the index of one too. Returns one that is current, beside none.
fn kill_under_load(case: &Case, transactions: &[&str]) -> Sidecar {
    let writer = Writer::paced(case, 399, 5, transactions);
    for round in 0..6 {
        let mut sidecar = case.start();
        wait_for_commits(case, &mut sidecar, 3);
        sidecar.kill();
        if round == 3 {
            std::fs::remove_dir_all(case.cache()).unwrap();
        }
    }
    writer.stop();
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    sidecar
}

/// Kills a sidecar while it copies `t` anew, or when it just has.
fn kill_while_copying(case: &Case, is_copying: impl Fn() -> bool) {
    let mut sidecar = case.start();
    // The command would take one that does not stream yet for none.
    case.wait_until_current(&mut sidecar);
    let before = versions(case, "REPLACE");
    let mut request = case.snapshot(&[&case.qualified("t")]);
    let mut request = request.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the copy", || {
        sidecar.assert_running();
        (is_copying() || versions(case, "REPLACE") > before).then_some(())
    });
    sidecar.kill();
    let _ = request.kill();
    request.wait().unwrap();
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
    let mut sidecar = kill_under_load(&case, &transactions);
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
        kill_while_copying(&case, || {
            case.table_status("t").is_some_and(|t| t.state == "resnapshotting")
        });
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

fn a_history_has_every_change_through_kills(kind: Kind) {
    let server = match kind {
        // Updates have only what they set, and no values of before.
        Kind::MariaDb(_) => Server::configured(kind, "binlog_row_image = MINIMAL"),
        _ => Server::start(kind, &[]),
    };
    let case = history_case(&server, "history");
    let since = SystemTime::now() - Duration::from_secs(2);
    case.catch_up();
    let again = "INSERT INTO t SELECT i, {i}, concat('again', repeat('y', 3000)) FROM series(1, 400) WHERE i % 20 = {k} % 20 AND i NOT IN (SELECT id FROM t)";
    let transactions = [
        "UPDATE t SET v = {i} WHERE id % 37 = {k} % 37",
        "DELETE FROM t WHERE id = {k}",
        // Several changes of a row in a transaction, values left out of the log among them.
        "UPDATE t SET v = -{i} WHERE id % 50 = {k} % 50; UPDATE t SET v = v - 1 WHERE id % 50 = {k} % 50; DELETE FROM t WHERE id % 100 = {k} % 100",
        again,
        "UPDATE t SET id = {i} + 1000 WHERE id = {k} + 1",
        "UPDATE t SET v = v + 1000000, big = concat('short', {i}) WHERE id % 60 = {k} % 60",
    ];
    let mut sidecar = kill_under_load(&case, &transactions);
    compare_with_told(&case, since, 1000);
    // Small files become one beside the commits, and what was superseded stays superseded after a restart.
    for i in 0..30 {
        case.sql(&format!("UPDATE t SET v = v + {i} + 1 WHERE id % 7 = {i} % 7"));
        case.wait_until_current(&mut sidecar);
    }
    wait_for("a compaction", || (versions(&case, "OPTIMIZE") > 0).then_some(()));
    sidecar.stop();
    succeed(&mut case.command("maintain"));
    case.sql("DELETE FROM t WHERE id % 10 = 0");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    compare_with_told(&case, since, 2000);

    // No trigger tells of the rows of a table that is emptied.
    case.sql(
        "UPDATE t SET v = v + 1; INSERT INTO t SELECT i, 7, 'short-lived' FROM series(200000, 200100); \
         INSERT INTO told (op, id, v, big) SELECT 'd', id, v, big FROM t; TRUNCATE TABLE t; INSERT INTO t SELECT i, 8, 'of later' FROM series(1, 50)",
    );
    case.wait_until_current(&mut sidecar);
    compare_with_told(&case, since, 2500);
    sidecar.stop();
}

/// Whether new content for a table is being gathered.
fn is_copying(case: &Case) -> bool {
    let copies = std::fs::read_dir(case.lake.join("_tributary/copies"));
    let mut logs = copies
        .into_iter()
        .flatten()
        .map(|copy| copy.unwrap().path().join("_delta_log"));
    logs.any(|log| log.join(format!("{:020}.json", 0)).exists())
}

fn a_new_copy_comes_after_a_history(kind: Kind) {
    let case = history_case(Server::shared(kind), "history_copy");
    let since = SystemTime::now() - Duration::from_secs(2);
    case.catch_up();
    case.sql("UPDATE t SET v = 1 WHERE id % 3 = 0; DELETE FROM t WHERE id % 10 = 0");
    case.catch_up();
    succeed(&mut case.snapshot(&[&case.qualified("t")]));
    compare_with_told(&case, since, 400 + 360);
    for round in 0..3 {
        case.sql(&format!(
            "UPDATE t SET v = {round} + 5 WHERE id % 4 = 0; DELETE FROM t WHERE id % 9 = {round}"
        ));
        case.sql(&format!("INSERT INTO t SELECT i, {round}, 'again' FROM series(1, 400) WHERE i % 50 = 0 AND i NOT IN (SELECT id FROM t)"));
        // What changes from then on, the copy is told of.
        kill_while_copying(&case, || is_copying(&case));
    }
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    case.verify();
    compare_beside(&case, &["history", "--copied"], "told", since, 1000);
    sidecar.stop();
}

fn a_transaction_larger_than_memory_is_told_whole(kind: Kind) {
    let case = history_case(Server::shared(kind), "history_large");
    let since = SystemTime::now() - Duration::from_secs(2);
    case.catch_up();
    let before = commits(&case.table("t")).len();
    case.sql(
        "BEGIN; INSERT INTO t SELECT i, 1, concat(i, repeat('z', 2000)) FROM series(1001, 6000); UPDATE t SET v = v + 2 WHERE id % 3 = 0; \
         DELETE FROM t WHERE id % 2 = 0; UPDATE t SET v = 9 WHERE id % 5 = 0; DELETE FROM t WHERE id % 5 = 0; COMMIT",
    );
    let output = finish(case.command("run").arg("--once").env("TRIBUTARY_APPLY_MEMORY", "64MiB"));
    assert!(output.status.success(), "{}", text(&output));
    let with_rows = |commit: &&Vec<serde_json::Value>| commit.iter().any(|action| action["add"]["dataChange"] == true);
    assert_eq!(commits(&case.table("t"))[before..].iter().filter(with_rows).count(), 1);
    compare_with_told(&case, since, 5000);
}

#[test]
fn columns_of_a_history_change_and_its_old_rows_stay() {
    let case = history_case(Server::shared(POSTGRES), "history_columns");
    case.sql("DROP TRIGGER tell ON t");
    case.catch_up();
    let mut sidecar = case.start();
    case.sql("UPDATE t SET v = 5 WHERE id <= 10; ALTER TABLE t ADD more int; UPDATE t SET more = 6 WHERE id <= 20");
    case.sql("ALTER TABLE t RENAME v TO w; UPDATE t SET w = 7 WHERE id = 30; DELETE FROM t WHERE id = 400");
    case.wait_until_current(&mut sidecar);
    case.compare(&["public.t"]);
    let counts = |what: &str| case.query("t", &format!("select {what} from t"), None);
    assert_eq!(counts("count(*), count(more), sum(w)"), "[432, 20, 107]");
    // Another type is a new copy, after what is there; rows of before have no value of the new one.
    case.sql("ALTER TABLE t ALTER w TYPE text; UPDATE t SET w = 'nine' WHERE id = 9");
    wait_for("the new copy", || (versions(&case, "REPLACE") > 0).then_some(()));
    case.wait_until_current(&mut sidecar);
    case.compare(&["public.t"]);
    case.verify();
    assert_eq!(case.query("t", "select count(*) from t where w is null", None), "[432]");
    let nines = case.query("t", "select count(*) > 0 from t where w = 'nine'", None);
    assert_eq!(nines, "[True]");
    sidecar.stop();
}

#[test]
fn a_history_of_documents_has_each_as_it_was() {
    let mut case = Case::new(Server::shared(MONGO), "history");
    case.sections = format!("[[table]]\nmatch = {:?}\nmode = \"history\"\n", case.qualified("t"));
    case.mongo("db.t.insert_many([{'_id': i, 'v': 0, 'tags': ['a']} for i in range(100)])");
    let mut sidecar = case.start();
    case.wait_until_settled(&mut sidecar);
    case.mongo(
        "
        for i in range(200): db.t.update_one({'_id': 7}, {'$inc': {'v': 1}, '$set': {'at': i}})
        db.t.update_many({'_id': {'$lt': 5}}, {'$push': {'tags': 'b'}})
        db.t.delete_many({'_id': {'$lt': 10}})
        db.t.insert_one({'_id': 500, 'v': 1})
        db.t.replace_one({'_id': 500}, {'v': 2})
        db.t.delete_one({'_id': 500})
        db.t.insert_one({'_id': 3, 'v': 9})",
    );
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    case.verify();
    let query = |sql: &str| case.query("t", sql, None);
    // 200 times 7, 5 documents, 10 and 1 deletes, 2 inserts, a replacement.
    assert_eq!(query("select count(*) from t where _op <> 'r'"), "[219]");
    // Each update of 7, one after the other.
    let steps =
        "select count(*), min(v), max(v), sum(case when v = at + 1 then 1 end) from t where id = 7 and _op = 'u'";
    let steps = steps.replace("id =", "_id =");
    assert_eq!(query(&steps), "[200, 1, 200, 200]");
    assert_eq!(query("select v, at from t where _id = 7 and _op = 'd'"), "[200, 199]");
    assert_eq!(
        query("select string_agg(_op, '' order by _sequence), sum(v) from t where _id = 500"),
        "['cud', 5]"
    );
    assert_eq!(
        query("select count(*) from t where _op <> 'r' and (_position is null or _committed_at is null)"),
        "[0]"
    );
    sidecar.kill();
    case.mongo("db.t.update_one({'_id': 3}, {'$inc': {'v': 1}})");
    case.catch_up();
    assert_eq!(
        query("select string_agg(_op, '' order by _sequence), max(v) from t where _id = 3"),
        "['rudcu', 10]"
    );
    case.compare(&[]);
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
