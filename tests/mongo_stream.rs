//! Changes of MongoDB: every operator, every kind of `_id`, transactions, and collections that come and go.

use crate::support::lake::{Follower, column_names, commits, replacements};
use crate::support::mongo::Workload;
use crate::support::server::{MONGO, Server};
use crate::support::sidecar::Sidecar;
use crate::support::{Case, python, succeed, text, wait_for};

fn case(name: &str) -> Case<'static> {
    Case::new(Server::shared(MONGO), name)
}

/// Lets the workload write beside a sidecar until the lake has many of its transactions.
fn workload_ends_equal(name: &str, seed: u32, ids: &str, source: &'static str) {
    let mut case = case(name);
    case.source = source;
    let workload = Workload::start(&case, seed, ids);
    let mut sidecar = case.start();
    case.wait_for_state(&mut sidecar, "accounts_a", "streaming");
    wait_for("many versions", || {
        sidecar.assert_running();
        (commits(&case.table("accounts_a")).len() > 60).then_some(())
    });
    workload.stop();
    case.wait_until_settled(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();
    case.check_mongo_history();
    case.verify();
}

#[test]
fn random_changes_with_object_ids_arrive() {
    workload_ends_equal("load_object_id", 11, "objectId", "");
}

#[test]
fn random_changes_with_numbers_for_ids_arrive() {
    workload_ends_equal("load_int", 12, "int", "");
}

#[test]
fn random_changes_with_texts_for_ids_arrive() {
    workload_ends_equal("load_string", 13, "string", "");
}

#[test]
fn random_changes_with_uuids_arrive() {
    workload_ends_equal("load_uuid", 14, "uuid", "");
}

#[test]
fn random_changes_with_documents_for_ids_arrive() {
    workload_ends_equal("load_compound", 15, "compound", "");
}

#[test]
fn random_changes_with_mixed_ids_arrive() {
    workload_ends_equal("load_mixed", 16, "mixed", "");
}

#[test]
fn random_changes_arrive_in_columns_that_stay() {
    workload_ends_equal("load_fixed", 17, "mixed", "schema = \"fixed\"");
}

#[test]
fn random_changes_arrive_as_json() {
    workload_ends_equal("load_json", 18, "mixed", "schema = \"json\"");
}

#[test]
fn a_new_field_gets_a_column_unless_they_stay() {
    for (name, source, grows) in [("grows", "", true), ("stays", "schema = \"fixed\"", false)] {
        let mut case = case(&format!("columns_{name}"));
        case.source = source;
        case.mongo("db.t.insert_many({'_id': i, 'a': i} for i in range(100))");
        let mut sidecar = case.start();
        case.wait_until_current(&mut sidecar);
        assert_eq!(column_names(&case.table("t")), ["_id", "a", "_extra"]);
        case.mongo(
            "db.t.insert_one({'_id': 1000, 'a': 1, 'b': 'new'}); db.t.update_one({'_id': 1}, {'$set': {'c.d': 1.5}})",
        );
        case.wait_until_current(&mut sidecar);
        let columns = column_names(&case.table("t"));
        if grows {
            assert_eq!(columns[..2], ["_id", "a"]);
            assert_eq!(columns.last().unwrap(), "_extra");
            for field in ["b", "c"] {
                assert!(columns.iter().any(|column| column == field), "{columns:?}");
            }
        } else {
            assert_eq!(columns, ["_id", "a", "_extra"]);
        }
        // Values that do not fit, and names that differ but for their case.
        case.mongo(
            "
            db.t.update_one({'_id': 2}, {'$set': {'a': 'text', 'A': 1, 'B': 2, '_extra': {'a': 1}}})
            db.t.update_one({'_id': 3}, {'$set': {'a': None}}); db.t.update_one({'_id': 4}, {'$unset': {'a': 1}})
            db.t.update_one({'_id': 5}, {'$set': {'a': 2.0}}); db.t.update_one({'_id': 6}, {'$set': {'a': 2.5, 'c': 5}})
            db.t.update_one({'_id': 7}, {'$set': {'a': Int64(2**60)}}); db.t.update_one({'_id': 8}, {'$set': {'a': -0.0}})
            db.t.update_one({'_id': 2}, {'$set': {'a': 5}}); db.t.update_one({'_id': 3}, {'$inc': {'b': 1}})",
        );
        case.wait_until_current(&mut sidecar);
        case.compare(&[]);
        sidecar.stop();
        assert!(replacements(&case.table("t")).is_empty());
    }
}

#[test]
fn names_with_dots_and_dollars_are_names() {
    let case = case("odd_fields");
    case.mongo("db.t.insert_many({'_id': i, 'a': {'b': i, 'b.c': i, '0': i}, 'a.b': i, 'x.y': {'z': i}, 'l': [i, {'0': i}], '$d': i} for i in range(20))");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    case.mongo(
        "
        def field(name, value, parent='$$ROOT'):
            return {'$setField': {'field': {'$literal': name}, 'input': parent, 'value': value}}
        db.t.update_one({'_id': 1}, [{'$replaceWith': field('a.b', 'top')}])
        db.t.update_one({'_id': 2}, [{'$replaceWith': field('x.y', 'top')}])
        db.t.update_one({'_id': 3}, [{'$set': {'a': field('b.c', 'inner', '$a')}}])
        db.t.update_one({'_id': 4}, [{'$replaceWith': field('$d', 'dollar')}])
        db.t.update_one({'_id': 5}, {'$set': {'a.b': 'by path', 'a.0': 'by name', 'l.0': 'by place', 'l.1.0': 'by both'}})
        db.t.update_one({'_id': 6}, [{'$replaceWith': field('a.b', '$$REMOVE')}])
        db.t.update_one({'_id': 7}, [{'$replaceWith': field('new.one', 1)}])
        db.t.update_one({'_id': 8}, {'$unset': {'a.0': 1, 'l.0': 1}})
        db.t.update_one({'_id': 9}, [{'$replaceWith': field('', 'empty')}])
        db.t.insert_one({'_id': 100, '': 1, '.': 2, 'a..b': 3, '.a': 4, 'a.': 5, 'a': {'': 1, '.': {'': 2}}})",
    );
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();
}

#[test]
fn another_kind_of_id_means_a_copy() {
    let case = case("id_kind");
    case.mongo("db.t.insert_many({'_id': i, 'v': i} for i in range(100)); db.u.insert_many({} for i in range(10))");
    case.mongo("db.create_collection('empty')");
    let mut sidecar = case.start();
    case.wait_until_settled(&mut sidecar);
    for id in [
        "'text'",
        "None",
        "Decimal128('1.5')",
        "{'a': 1, 'b': 2}",
        "{'b': 2, 'a': 1}",
        "2.5",
        "Int64(2**40)",
    ] {
        case.mongo(&format!("db.t.insert_one({{'_id': {id}, 'v': 1}})"));
    }
    case.mongo("db.empty.insert_one({'_id': 'first'}); db.u.update_many({}, {'$set': {'a': 1}})");
    case.wait_until_settled(&mut sidecar);
    case.compare(&[]);
    assert_eq!(replacements(&case.table("t")).len(), 1);
    assert!(replacements(&case.table("u")).is_empty());
    // From here on numbers are told apart by their values.
    case.mongo(
        "
        db.t.update_one({'_id': 5.0}, {'$inc': {'v': 1}}); db.t.delete_one({'_id': Int64(6)}); db.t.insert_one({'_id': 6.0})
        db.t.replace_one({'_id': Decimal128('7')}, {'v': 'by value'}); db.t.update_one({'_id': {'b': 2, 'a': 1}}, {'$set': {'v': 'order'}})",
    );
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();
    // While the program is away.
    case.mongo(
        "db.u.insert_one({'_id': 5}); db.u.delete_one({'_id': 5}); db.empty.insert_one({'_id': Binary(b'x', 5)})",
    );
    case.catch_up();
    case.compare(&[]);
}

#[test]
fn collections_come_and_go() {
    let case = case("collections");
    case.mongo("for name in 'abcdef': db[name].insert_many({'_id': i, 'v': name} for i in range(500))");
    let mut sidecar = case.start();
    case.wait_until_settled(&mut sidecar);

    case.mongo(
        "db.new.insert_many({'_id': i} for i in range(100)); client[db.name + '_more'].t.insert_one({'_id': 1})",
    );
    case.mongo("db.new.update_many({'_id': {'$lt': 10}}, {'$set': {'v': 'w'}})");
    case.wait_until_settled(&mut sidecar);
    wait_for_table(&case, &mut sidecar, "collections_more.t");
    case.compare(&[]);

    // Dropped, and dropped and made again.
    case.mongo("db.a.update_one({'_id': 1}, {'$set': {'v': 'last'}}); db.a.drop()");
    case.wait_for_state(&mut sidecar, "a", "dropped");
    assert_eq!(case.query("a", "select count(*), max(v) from t", None), "[500, 'last']");
    case.mongo("db.b.update_many({}, {'$set': {'v': 'lost'}}); db.b.drop(); db.b.insert_many({'_id': str(i)} for i in range(50)); db.b.delete_one({'_id': '7'})");
    replaced(&case, &mut sidecar, "b");

    // Renamed, and renamed over another one.
    case.mongo("db.c.rename('c2'); db.c2.update_one({'_id': 1}, {'$set': {'v': 'after'}})");
    case.wait_for_state(&mut sidecar, "c", "dropped");
    case.wait_for_state(&mut sidecar, "c2", "streaming");
    case.mongo("db.d.rename('e', dropTarget=True); db.e.update_many({'_id': {'$lt': 9}}, {'$set': {'v': 'was d'}})");
    case.wait_for_state(&mut sidecar, "d", "dropped");
    replaced(&case, &mut sidecar, "e");
    case.wait_until_settled(&mut sidecar);
    case.compare(&[]);
    // To another database, which MongoDB does by a copy.
    case.mongo("client.admin.command('renameCollection', db.name + '.f', to=db.name + '_more.f')");
    case.wait_for_state(&mut sidecar, "f", "dropped");
    wait_for_table(&case, &mut sidecar, "collections_more.f");
    case.compare(&[]);

    // And while the program is away.
    sidecar.stop();
    case.mongo(
        "
        db.b.drop(); db.b.insert_one({'_id': 'other'}); db.c2.rename('c'); db.c.insert_one({'_id': 'c'}); db.e.drop()
        db.new.rename('b', dropTarget=True); db.new.insert_one({'_id': 'again'})",
    );
    case.catch_up();
    case.compare(&[]);
    assert_eq!(case.table_status("e").unwrap().state, "dropped");
    case.mongo("db.b.insert_one({'v': 1}); db.new.insert_one({'v': 1}); db.c.delete_one({'_id': 'c'})");
    case.catch_up();
    case.compare(&[]);
}

/// A table whose content was made anew, and is followed.
fn replaced(case: &Case, sidecar: &mut Sidecar, table: &str) {
    wait_for("the new content", || {
        sidecar.assert_running();
        (!replacements(&case.table(table)).is_empty()).then_some(())
    });
    case.wait_for_state(sidecar, table, "streaming");
}

/// A table of whatever database.
fn wait_for_table(case: &Case, sidecar: &mut Sidecar, table: &str) {
    wait_for(table, || {
        sidecar.assert_running();
        let tables = case.status().tables;
        tables
            .iter()
            .any(|t| t.table == table && t.state == "streaming")
            .then_some(())
    });
}

#[test]
fn a_dropped_database_drops_its_tables() {
    for away in [false, true] {
        let case = case(&format!("dropped_{away}"));
        case.mongo("for name in 'ab': db[name].insert_many({'_id': i, 'v': name} for i in range(100))");
        case.mongo("client[db.name + '_more'].t.insert_one({})");
        let mut sidecar = case.start();
        case.wait_until_settled(&mut sidecar);
        let drop = || case.mongo("client.drop_database(db.name)");
        if away {
            sidecar.stop();
            drop();
            sidecar = case.start();
        } else {
            drop();
        }
        for table in ["a", "b"] {
            case.wait_for_state(&mut sidecar, table, "dropped");
            assert_eq!(case.query(table, "select count(*) from t", None), "[100]");
        }
        case.mongo("db.a.insert_one({'_id': 'again'})");
        replaced(&case, &mut sidecar, "a");
        case.wait_until_settled(&mut sidecar);
        case.compare(&[]);
        sidecar.stop();
    }
}

#[test]
fn a_large_transaction_is_one_version() {
    let case = case("large_transaction");
    case.mongo("db.t.insert_one({'_id': -1, 'n': 0}); db.u.insert_one({'_id': -1, 'n': 0})");
    let mut sidecar = case.start();
    case.wait_until_settled(&mut sidecar);
    let follower = Follower::start(&case.table("t"), "select count(*) from t");
    case.mongo(
        "
        def work(session):
            for start in range(0, 50000, 5000):
                db.t.insert_many([{'_id': i, 'n': 1, 'pad': 'x' * 400} for i in range(start, start + 5000)], session=session)
            db.u.insert_many([{'_id': i} for i in range(1000)], session=session)
            db.t.update_many({'_id': {'$mod': [10, 0]}}, {'$inc': {'n': 1}}, session=session)
            db.t.delete_one({'_id': -1}, session=session)
        transaction(work)
        db.t.insert_one({'_id': -2})",
    );
    case.wait_until_current(&mut sidecar);
    let counts: Vec<_> = follower
        .finish()
        .iter()
        .map(|(_, row)| row[0].as_u64().unwrap())
        .collect();
    assert!(
        counts.iter().all(|count| [1, 50_000, 50_001].contains(count)),
        "half a transaction: {counts:?}"
    );
    sidecar.stop();
    case.compare(&[]);
}

#[test]
fn documents_as_large_as_they_may_be_arrive() {
    let case = case("largest");
    let body = "
        def largest(key, **fields):
            document = {'_id': key} | fields | {'pad': ''}
            return document | {'pad': 'y' * (16 * 1024 * 1024 - len(bson.encode(document)))}";
    case.mongo(&format!(
        "{body}\n        db.t.insert_one(largest(1)); db.t.insert_one(largest('i' * 1000))"
    ));
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.mongo(&format!(
        "{body}
        db.t.insert_one(largest(2, a={{'b': 1}})); db.t.insert_one({{'_id': 'i' * 1_000_000, 'pad': 'z' * 5_000_000}})
        db.t.update_one({{'_id': 2}}, {{'$set': {{'a.b': 2}}}}); db.t.insert_one({{'_id': 3}})
        db.t.update_one({{'_id': 3}}, {{'$set': {{'one': 'x' * 8_300_000, 'two': 'y' * 8_300_000}}}})
        db.t.update_one({{'_id': 'i' * 1_000_000}}, {{'$set': {{'pad': 'w' * 6_000_000}}}}); db.t.delete_one({{'_id': 1}})
        db.t.replace_one({{'_id': 'i' * 1000}}, {{'pad': 'x' * 16_000_000}})"
    ));
    case.wait_until_current(&mut sidecar);
    sidecar.stop();
    case.compare(&[]);
    case.verify();
}

/// The event with its token is larger than a message, whatever is split: only that the document changed can be told.
#[test]
fn a_change_too_large_for_an_event_is_read_at_the_source() {
    let case = case("untellable");
    case.mongo("db.t.insert_one({'_id': 'a', 'n': 0}); db.u.insert_one({'_id': 'a'})");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.mongo(
        "
        large = 'i' * 2_000_000
        db.t.insert_one({'_id': large, 'pad': 'y' * 10_000_000}); db.u.insert_one({'_id': 'b'})
        db.t.insert_one({'_id': 'j' * 2_000_000, 'pad': 'y' * 10_000_000}); db.t.update_one({'_id': 'a'}, {'$inc': {'n': 1}})
        db.t.update_one({'_id': large}, {'$set': {'pad': 'z' * 10_000_000, 'more': 1}}); db.t.delete_one({'_id': 'j' * 2_000_000})
        db.t.update_one({'_id': 'a'}, {'$inc': {'n': 1}}); db.t.insert_one({'_id': 'c'})",
    );
    case.wait_until_current(&mut sidecar);
    sidecar.stop();
    case.compare(&[]);
    case.assert_not_copied_anew(&["t", "u"]);
}

#[test]
fn an_idle_table_moves_on_with_the_others() {
    let server = Server::start(MONGO, &[]);
    let case = Case::new(&server, "idle");
    case.mongo("db.idle.insert_many({'_id': i} for i in range(10)); db.busy.insert_one({'_id': 0})");
    let mut sidecar = case.start();
    case.wait_until_settled(&mut sidecar);
    let versions = commits(&case.table("idle")).len();
    for round in 1..4 {
        case.mongo(&format!(
            "db.busy.insert_one({{'_id': {round}}}); client.elsewhere.t.insert_one({{}})"
        ));
        // The watermark of both reaches what only one of them has got.
        case.wait_until_current(&mut sidecar);
    }
    // Nor does it need a change of a table.
    case.mongo("client.elsewhere.t.insert_one({})");
    case.wait_until_current(&mut sidecar);
    sidecar.stop();
    case.mongo("db.idle.insert_one({'_id': 100})");
    case.catch_up();
    case.compare(&[]);
    assert!(
        commits(&case.table("idle")).len() <= versions + 2,
        "an idle table was written"
    );
    case.assert_not_copied_anew(&["idle", "busy"]);
}

#[test]
fn verify_finds_what_is_wrong() {
    let case = case("mongo_wrong");
    case.mongo(
        "db.t.insert_many({'_id': i, 'n': i, 's': {'x': 'text'}, 'odd': i if i % 2 else str(i)} for i in range(1000))",
    );
    case.catch_up();
    case.verify();
    let tamper = |arguments: &[&str]| succeed(python("tamper.py").arg(case.table("t")).args(arguments));
    tamper(&["set", r#"{"_id": 7}"#, "n", "8"]);
    tamper(&["drop", r#"{"_id": 13}"#]);
    tamper(&["add", r#"{"_id": 1}"#, r#"{"_id": 20001}"#]);
    assert!(!case.comparison(&[]).status.success());
    // Without it nobody knows whether the lake is late: others write to the server.
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let output = crate::support::finish(case.command("verify").arg("--json"));
    sidecar.stop();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let table = &report["tables"][0];
    for (what, count) in [("missing", 1), ("extra", 1), ("different", 1)] {
        assert_eq!(table[what]["count"], count, "{report:#}");
    }
    assert_eq!(table["missing"]["keys"][0]["_id"], 13, "{report:#}");
    let output = crate::support::finish(&mut case.snapshot(&[&case.qualified("t")]));
    assert!(output.status.success(), "{}", text(&output));
    case.compare(&[]);
    case.verify();
}
