//! Collections of MongoDB are copied as they are: every type, every kind of `_id`, beside changes and through kills.

use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::lake::{column_names, commits, replacements, rows_written};
use crate::support::mongo::Workload;
use crate::support::server::{MONGO, Server};
use crate::support::{Case, wait_for};

const KILLS: u32 = 8;

/// Collections for each kind of `_id`, with documents of every type; one with a document of all edge values; one whose
/// fields are regular.
const DOCUMENTS: &str = "
    from mongo_documents import *
    for seed, ids in enumerate(IDS):
        documents = Documents(seed, ids)
        db[ids].insert_many({repr(d['_id']): d for d in (documents.document() for _ in range(400))}.values())
    db.all.insert_many([every_type(), {}, {'_extra': 1, 'a': None}, {'A': 1, 'a': 2, 'Ä': 3}])
    r = random.Random(1)
    db.regular.insert_many({name: make(r) for name, make in REGULAR.items()} for _ in range(300))
    db.nothing.insert_one({}); db.nothing.delete_many({})";

fn every_type_is_copied(name: &str, source: &'static str) {
    let mut case = Case::new(Server::shared(MONGO), name);
    case.source = source;
    case.mongo(DOCUMENTS);
    case.catch_up();
    case.compare(&[]);
    case.verify();
    assert_eq!(case.table_status("regular").unwrap().rows, Some(300));
}

#[test]
fn every_type_is_copied_with_columns_that_grow() {
    every_type_is_copied("copy_evolve", "");
}

#[test]
fn every_type_is_copied_with_columns_that_stay() {
    every_type_is_copied("copy_fixed", "schema = \"fixed\"");
}

#[test]
fn every_type_is_copied_as_json() {
    every_type_is_copied("copy_json", "schema = \"json\"");
}

#[test]
fn regular_fields_have_columns_of_their_types() {
    let case = Case::new(Server::shared(MONGO), "regular");
    case.mongo(
        "
        from mongo_documents import REGULAR
        import random
        r = random.Random(1)
        db.t.insert_many({name: make(r) for name, make in REGULAR.items()} for _ in range(300))",
    );
    case.catch_up();
    case.compare_strictly();
    let columns = column_names(&case.table("t"));
    assert_eq!(
        (columns[0].as_str(), columns[columns.len() - 1].as_str()),
        ("_id", "_extra")
    );
    for field in [
        "name", "count", "total", "price", "ratio", "when", "done", "owner", "token", "blob",
    ] {
        assert!(
            columns.iter().any(|column| column == field),
            "no {field} in {columns:?}"
        );
    }
    // Readers need no word about BSON for them.
    let query = "select count(*), count(name), min(price) >= 0, min(ratio) >= 0 from t where \"when\" >= '1970-01-01T00:00:00Z'";
    assert_eq!(case.query("t", query, None), "[300, 300, True, True]");
    assert_eq!(case.query("t", "select count(_extra) from t", None), "[0]");
}

#[test]
fn json_has_two_columns() {
    let mut case = Case::new(Server::shared(MONGO), "two_columns");
    case.source = "schema = \"json\"";
    case.mongo("db.t.insert_one({'_id': 1, 'a': Int64(5)})");
    case.catch_up();
    assert_eq!(column_names(&case.table("t")), ["_id", "document"]);
    case.mongo("db.t.update_one({'_id': 1}, {'$set': {'b': 1}, '$unset': {'a': 1}}); db.t.insert_one({'_id': 2})");
    case.catch_up();
    assert_eq!(column_names(&case.table("t")), ["_id", "document"]);
    case.compare(&[]);
}

#[test]
fn a_killed_copy_goes_on_at_its_last_chunk() {
    const ROWS: u64 = 120_000;
    let mut case = Case::new(Server::shared(MONGO), "resume");
    case.mongo(&format!(
        "
        import random
        r = random.Random(1)
        for start in range(0, {ROWS}, 10000):
            db.big.insert_many({{'n': i % 1000, 'pad': r.randbytes(300).hex()}} for i in range(start, start + 10000))"
    ));
    case.copy_through_kills("big", ROWS);
    let table = case.table("big");
    assert_eq!(
        rows_written(&commits(&table)),
        ROWS,
        "documents were copied twice or not at all"
    );
    assert!(replacements(&table).is_empty());
    case.compare(&[]);
}

#[test]
fn documents_that_change_while_they_are_copied_end_as_at_the_source() {
    let mut case = Case::new(Server::shared(MONGO), "changing");
    case.snapshot = "max_bytes_per_s = \"4MiB\"";
    case.mongo(
        "
        for start in range(0, 40000, 10000):
            db.moving.insert_many({'_id': i, 'n': 0, 'pad': 'x' * 500, 'inner': {'a': i}} for i in range(start, start + 10000))",
    );
    let mut sidecar = case.start();
    for round in 0..6 {
        wait_for("a part of the copy", || {
            sidecar.assert_running();
            (case.table_status("moving")?.rows >= Some(1000 + 4000 * round)).then_some(())
        });
        case.mongo(&format!(
            "
            db.moving.update_many({{'_id': {{'$mod': [7, {round}]}}}}, {{'$inc': {{'n': 1, 'inner.a': 1}}, '$set': {{'inner.b{round}': 'new'}}}})
            db.moving.delete_many({{'_id': {{'$mod': [100, {round}]}}}})
            db.moving.insert_many([{{'_id': i * 100 + {round}, 'again': True}} for i in range(0, 400, 3)])
            db.moving.insert_many([{{'_id': -i - {round} * 100}} for i in range(1, 50)])
            db.moving.update_many({{'_id': {{'$mod': [50, {round}]}}}}, {{'$unset': {{'inner': 1}}}})
            db.moving.replace_one({{'_id': {{'$gt': 20000 + {round}}}}}, {{'n': 'replaced'}})"
        ));
        if round == 2 {
            sidecar.kill();
            sidecar = case.start();
        }
    }
    case.wait_for_state(&mut sidecar, "moving", "streaming");
    case.wait_until_current(&mut sidecar);
    sidecar.stop();
    case.compare(&[]);
}

#[test]
fn a_copy_beside_the_workload_is_equal_in_the_end() {
    for (seed, ids) in [(1, "mixed"), (2, "objectId")] {
        let mut case = Case::new(Server::shared(MONGO), &format!("beside_{seed}"));
        case.snapshot = "max_bytes_per_s = \"1MiB\"";
        let workload = Workload::start(&case, seed, ids);
        let mut sidecar = case.start();
        for table in ["docs", "accounts_a", "accounts_b"] {
            case.wait_for_state(&mut sidecar, table, "streaming");
        }
        let versions = || ["accounts_a", "accounts_b"].map(|table| commits(&case.table(table)).len());
        let before = versions();
        wait_for("some versions", || {
            sidecar.assert_running();
            let more = versions()
                .into_iter()
                .zip(before)
                .all(|(now, before)| now >= before + 12);
            more.then_some(())
        });
        workload.stop();
        case.wait_until_settled(&mut sidecar);
        sidecar.stop();
        case.compare(&[]);
        case.check_mongo_history();
    }
}

#[test]
fn kills_at_random_moments_lose_nothing_and_double_nothing() {
    let mut case = Case::new(Server::shared(MONGO), "mongo_kills");
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos() % 100_000;
    // The first lives see parts of the copy.
    case.snapshot = "max_bytes_per_s = \"500KiB\"";
    case.mongo("db.copied.insert_many({'_id': i, 'pad': 'x' * 1000} for i in range(4000))");
    let workload = Workload::start(&case, seed, "mixed");
    let mut random = seed;
    for kill in 0..KILLS {
        let mut sidecar = case.start();
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Every fourth life is too short for more than the start; the others see a few commits.
        let life_ms = if kill % 4 == 3 {
            random >> 22
        } else {
            1500 + (random >> 20)
        };
        sleep(Duration::from_millis(life_ms.into()));
        sidecar.assert_running();
        case.mongo("db.copied.update_many({'_id': {'$mod': [9, 0]}}, {'$inc': {'n': 1}})");
        sidecar.kill();
        if kill == 5 {
            std::fs::remove_dir_all(case.cache()).unwrap_or_default();
        }
        if kill == 3 {
            case.snapshot = "";
        }
    }
    let mut sidecar = case.start();
    case.wait_until_settled(&mut sidecar);
    let before = commits(&case.table("accounts_a")).len();
    wait_for("some versions", || {
        sidecar.assert_running();
        (commits(&case.table("accounts_a")).len() > before + 10).then_some(())
    });
    workload.stop();
    case.wait_until_settled(&mut sidecar);
    sidecar.stop();
    case.compare(&[]);
    case.check_mongo_history();
    case.verify();
}
