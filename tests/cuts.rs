//! Consistent cuts: what holds across tables at the source holds at every cut, and not at the tables' heads.

use std::process::{Output, Stdio};

use serde_json::Value;

use crate::support::lake::column_names;
use crate::support::server::{Kind, MONGO, POSTGRES, Server};
use crate::support::sidecar::Sidecar;
use crate::support::wait_for;
use crate::support::writer::Writer;
use crate::support::{Case, assert_error, finish, interpreter, on_every_source, python, succeed, text};

on_every_source! {
    a_sum_over_tables_holds_at_every_cut_through_kills_and_copies
    heads_are_no_cut
}

/// Amounts move among them; `idle` has some, too.
const TABLES: [&str; 4] = ["purse", "bank", "parked", "idle"];
/// The sum of all amounts.
const TOTAL: &str = "5600";
/// Cuts with all tables after each thing that happens.
const CUTS: u64 = 6;

/// `tributary run` that writes cuts often.
fn start(case: &Case) -> Sidecar {
    let mut command = case.command("run");
    command.env("TRIBUTARY_CUTS_INTERVAL", "300ms");
    Sidecar::start(command, &case.folder.join("sidecar.log"))
}

/// The newest cut, as the program tells it: its number, and how many tables it has.
fn newest(case: &Case) -> Option<(u64, usize)> {
    let output = finish(case.command("cuts").arg("--json"));
    let list: Value = serde_json::from_slice(&output.stdout).ok()?;
    let cut = &list["cuts"][0];
    Some((cut["number"].as_u64()?, cut["tables"].as_array()?.len()))
}

/// Some more cuts with all tables.
fn wait_for_cuts(case: &Case, sidecar: &mut Sidecar) {
    let before = newest(case).map_or(0, |(number, _)| number);
    let mut seen = std::collections::BTreeSet::new();
    wait_for("cuts with all tables", || {
        sidecar.assert_running();
        match newest(case) {
            Some((number, tables)) if tables == TABLES.len() && number > before => seen.insert(number),
            _ => false,
        };
        (seen.len() as u64 >= CUTS).then_some(())
    });
}

fn sums(case: &Case, verb: &str, total: Option<&str>) -> Output {
    let mut command = python("cuts.py");
    command
        .arg(verb)
        .arg(&case.lake)
        .arg(case.database.schema())
        .args(total);
    finish(command.args(TABLES))
}

fn sum(case: &Case, verb: &str) -> String {
    let output = sums(case, verb, None);
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Every cut keeps the sum, and versions of neighbouring cuts, mixed, do not.
fn check(case: &Case) {
    let output = sums(case, "check", Some(TOTAL));
    println!("{}", text(&output));
    assert!(output.status.success(), "{}", text(&output));
    let counts = String::from_utf8(output.stdout).unwrap();
    let counts: Vec<u64> = counts.split_whitespace().map(|n| n.parse().unwrap()).collect();
    let [cuts, whole, mixed, broken] = counts[..] else {
        panic!("{counts:?}")
    };
    println!("{cuts} cuts, {whole} of all tables; {broken} of {mixed} mixtures are wrong");
    assert!(whole >= 4 * CUTS, "only {whole} cuts have all tables");
    assert!(
        broken * 2 > mixed && mixed > CUTS,
        "mixed versions keep the sum: {counts:?}"
    );
}

/// What happens beside the workload: a kill, other columns, a new copy of one table.
fn hold_through_all(case: &Case, stop: impl FnOnce(), alter: impl FnOnce()) {
    let mut sidecar = start(case);
    wait_for_cuts(case, &mut sidecar);
    sidecar.kill();
    let mut sidecar = start(case);
    wait_for_cuts(case, &mut sidecar);
    alter();
    wait_for("the new column", || {
        let columns = TABLES.map(|table| column_names(&case.table(table)));
        columns.iter().flatten().any(|column| column == "note").then_some(())
    });
    wait_for_cuts(case, &mut sidecar);
    succeed(&mut case.snapshot(&[&case.qualified("bank")]));
    wait_for_cuts(case, &mut sidecar);
    stop();
    case.wait_until_current(&mut sidecar);
    sidecar.stop();
    check(case);
    // The last cut is of all that there is, and is not older than the last commit.
    assert_eq!((sum(case, "newest"), sum(case, "heads")), (TOTAL.into(), TOTAL.into()));
    case.compare(&[]);
}

fn create(case: &Case, rows: u32) {
    for table in TABLES {
        case.sql(&format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, amount bigint, pad int)"
        ));
    }
    case.sql("INSERT INTO purse SELECT i, 100, 0 FROM series(1, 50)");
    case.sql(&format!(
        "INSERT INTO bank SELECT i, CASE WHEN i <= 50 THEN 10 ELSE 0 END, 0 FROM series(1, {rows})"
    ));
    case.sql("INSERT INTO idle SELECT i, 2, 0 FROM series(1, 50)");
}

fn a_sum_over_tables_holds_at_every_cut_through_kills_and_copies(kind: Kind) {
    let case = Case::new(Server::shared(kind), "cuts");
    create(&case, 50);
    let writer = Writer::paced(
        &case,
        50,
        5,
        &[
            "UPDATE purse SET amount = amount - {i} WHERE id = {k};
             UPDATE bank SET amount = amount + {i} WHERE id = {k}",
            "INSERT INTO parked (id, amount) VALUES ({i}, 7); UPDATE bank SET amount = amount - 7 WHERE id = {k}",
            "UPDATE purse SET amount = amount + (SELECT coalesce(sum(amount), 0) FROM parked WHERE id <= {i} - 20) WHERE id = {k};
             DELETE FROM parked WHERE id <= {i} - 20",
        ],
    );
    let alter = || {
        case.sql("ALTER TABLE parked ADD COLUMN note varchar(10)");
    };
    hold_through_all(&case, || writer.stop(), alter);
}

#[test]
fn a_sum_over_collections_holds_at_every_cut_through_kills_and_copies() {
    let case = Case::new(Server::shared(MONGO), "cuts");
    case.mongo(
        "
        db.purse.insert_many({'_id': i, 'amount': 100} for i in range(50))
        db.bank.insert_many({'_id': i, 'amount': 10} for i in range(50))
        db.parked.insert_one({'_id': 0, 'amount': 0})
        db.idle.insert_many({'_id': i, 'amount': 2} for i in range(50))",
    );
    let load = "
        import select
        i = 0
        def move(session):
            k = i % 50
            db.purse.update_one({'_id': k}, {'$inc': {'amount': -i}}, session=session)
            db.bank.update_one({'_id': k}, {'$inc': {'amount': i - 7}}, session=session)
            db.parked.insert_one({'_id': i, 'amount': 7}, session=session)
            if old := db.parked.find_one_and_delete({'_id': i - 20}, session=session):
                db.purse.update_one({'_id': k}, {'$inc': {'amount': old['amount']}}, session=session)
        while not select.select([sys.stdin], [], [], 0.01)[0]:
            i += 1
            transaction(move)";
    let writer: Writer = python("mongo.py")
        .args(["eval", &case.database.server.url, &case.database.name, load])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap()
        .into();
    let alter = || {
        case.mongo("db.idle.update_one({'_id': 1}, {'$set': {'note': 'x'}})");
    };
    hold_through_all(&case, || writer.stop(), alter);
}

/// One transaction changes two tables, and the commit of one of them can't be written.
fn heads_are_no_cut(kind: Kind) {
    let case = Case::new(Server::shared(kind), "heads");
    // So that the other one is written long before.
    create(&case, 200_000);
    let mut sidecar = start(&case);
    case.wait_until_current(&mut sidecar);
    let (before, _) = wait_for("a cut", || newest(&case).filter(|(_, tables)| *tables == TABLES.len()));
    let version = case.table_status("bank").unwrap().version.unwrap();
    let log = case.table("bank").join("_delta_log");
    let obstacle = log.join(format!("{:020}.json", version + 1));
    std::fs::create_dir(&obstacle).unwrap();
    case.database.run(&["UPDATE purse SET amount = amount - 5 WHERE id = 1;
         UPDATE bank SET pad = pad + 1, amount = amount + CASE WHEN id = 1 THEN 5 ELSE 0 END"
        .to_owned()]);
    wait_for("one of the two commits", || {
        sidecar.assert_running();
        (case.query("purse", "select sum(amount) from t", None) != "[5000]").then_some(())
    });
    assert_eq!(sum(&case, "heads"), "5595", "heads are of different transactions");
    assert_eq!(sum(&case, "newest"), TOTAL);
    std::fs::remove_dir(&obstacle).unwrap();
    case.wait_until_current(&mut sidecar);
    wait_for("the next cut", || newest(&case).filter(|(number, _)| *number > before));
    sidecar.stop();
    assert_eq!(
        (sum(&case, "newest"), sum(&case, "heads")),
        (TOTAL.into(), TOTAL.into())
    );
    case.compare(&[]);
}

#[test]
fn a_backlog_larger_than_memory_has_cuts_on_its_way() {
    let case = Case::new(Server::shared(POSTGRES), "cuts_backlog");
    create(&case, 50);
    case.sql("ALTER TABLE purse ADD more text; ALTER TABLE bank ADD more text");
    case.catch_up();
    let (before, _) = newest(&case).unwrap();
    case.sql(
        "INSERT INTO purse SELECT i, 0, 0, repeat('p', 200) FROM series(51, 1050);
         INSERT INTO bank SELECT i, 0, 0, repeat('b', 200) FROM series(51, 1050)",
    );
    case.sql(
        "DO $$ BEGIN FOR i IN 1..200 LOOP
             UPDATE purse SET amount = amount - i; UPDATE bank SET amount = amount + i;
             INSERT INTO parked VALUES (i, 0); COMMIT;
         END LOOP; END $$",
    );
    let mut command = case.command("run");
    command
        .arg("--once")
        .env("TRIBUTARY_CUTS_INTERVAL", "10ms")
        .env("TRIBUTARY_APPLY_MEMORY", "64MiB");
    let output = finish(&mut command);
    assert!(output.status.success(), "{}", text(&output));
    let output = sums(&case, "check", Some(TOTAL));
    println!("{}", text(&output));
    assert!(output.status.success(), "{}", text(&output));
    let (after, tables) = newest(&case).unwrap();
    assert_eq!((sum(&case, "newest"), tables), (TOTAL.to_owned(), TABLES.len()));
    assert!(after - before >= 6, "only {} cuts", after - before);
}

/// `tributary cuts --json`
fn list(case: &Case, arguments: &[&str]) -> Value {
    let output = finish(case.command("cuts").arg("--json").args(arguments));
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn cuts_are_found_by_time_and_by_position() {
    let case = Case::new(Server::shared(POSTGRES), "cuts_found");
    let cuts = |arguments: &[&str]| finish(case.command("cuts").args(arguments));
    assert_error(&cuts(&[]), &["there are no cuts yet", "tributary run"]);
    case.sql("CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (id int PRIMARY KEY)");
    case.sql("INSERT INTO a VALUES (1, 'x'); INSERT INTO b VALUES (1)");
    case.catch_up();
    let first = list(&case, &[]);
    let time = case.sql("SELECT to_json(clock_timestamp() AT TIME ZONE 'UTC')#>>'{}' || 'Z'");
    case.sql("INSERT INTO a VALUES (2, 'y')");
    case.catch_up();
    case.sql("INSERT INTO a VALUES (3, 'z'); INSERT INTO b VALUES (3)");
    case.catch_up();
    let all = list(&case, &["--limit", "1000"]);
    let all = all["cuts"].as_array().unwrap();
    let newest = &all[0];
    assert!(all.len() >= 3, "{all:?}");
    assert_eq!(all[all.len() - 1]["number"], 1);
    assert_eq!(&list(&case, &[])["cuts"][0], newest);
    // By time, and by a position in any of the lake's words.
    assert_eq!(list(&case, &["--at", &time])["cuts"], first["cuts"]);
    for cut in all {
        let at = cut["position"].as_str().unwrap();
        assert_eq!(list(&case, &["--at", at])["cuts"][0]["position"], cut["position"]);
    }
    for (arguments, parts) in [
        (
            &["--at", "2001-01-01T00:00:00Z"][..],
            &["no cut is as old as 2001", "cut 1"][..],
        ),
        (&["--at", "0/1"], &["no cut is as old", "maintenance.retention"]),
        (
            &["--at", "yesterday"],
            &["neither a time nor a position", "write a time"],
        ),
        (&["--at", "1700000000.5"], &["not a position of this source"]),
    ] {
        assert_error(&cuts(arguments), parts);
    }

    // What is printed for people can be run.
    let said = text(&cuts(&[]));
    for part in ["public.a", "public.b", "version", newest["position"].as_str().unwrap()] {
        assert!(said.contains(part), "{said}");
    }
    let example = &said[said.find("from deltalake").unwrap()..];
    let sql = "select a.v from public_a a join public_b b on a.id = b.id order by a.id";
    let code = format!(
        "{example}
import os, pyarrow
print(pyarrow.table(tables.execute({sql:?}).read_all()).to_pylist(), flush=True)
os._exit(0)"
    );
    assert_eq!(
        succeed(interpreter().args(["-c", &code])).trim(),
        "[{'v': 'x'}, {'v': 'z'}]"
    );
    assert!(text(&finish(&mut case.command("status"))).contains("newest cut"));
}

#[test]
fn without_an_interval_no_cut_is_written() {
    let case = Case::new(Server::shared(POSTGRES), "cuts_off");
    case.sql("CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1)");
    let output = finish(case.command("run").arg("--once").env("TRIBUTARY_CUTS_INTERVAL", "off"));
    assert!(output.status.success(), "{}", text(&output));
    assert!(!case.lake.join("_tributary/cuts").exists());
    assert_error(&finish(&mut case.command("cuts")), &["no cuts yet", "cuts.interval"]);
}
