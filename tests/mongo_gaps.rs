//! MongoDB's history: an oplog that has moved on, other sets, elections and crashes.

use crate::support::lake::{commits, replacements};
use crate::support::mongo::Workload;
use crate::support::server::{MONGO, Server};
use crate::support::sidecar::Sidecar;
use crate::support::{Case, assert_error, succeed, wait_for};

const COLLECTIONS: &str = "
    db.a.insert_many({'_id': i, 'v': f'v{i}'} for i in range(1000))
    db.b.insert_many({'_id': i, 'v': 'b'} for i in range(10))";

fn lose(case: &Case, round: usize) {
    case.mongo(&format!(
        "db.a.insert_one({{'_id': 2000 + {round}, 'v': 'missed'}}); db.a.delete_one({{'_id': {round}}}); db.b.update_many({{}}, {{'$set': {{'v': 'round {round}'}}}})"
    ));
}

/// Writes elsewhere until the oplog begins after this moment.
fn overrun(case: &Case) {
    case.mongo(
        "
        at = position(client)
        while client.local['oplog.rs'].find_one(sort=[('$natural', 1)])['ts'] <= at:
            client.elsewhere.t.insert_one({'pad': 'x' * 1_000_000})
        client.drop_database('elsewhere')",
    );
}

fn small_oplog() -> Server {
    Server::start(MONGO, &[("OPLOG_MB", "16")])
}

fn is_a_gap(case: &Case, reasons: &[&str]) {
    case.is_a_gap(reasons, || {
        case.mongo("db.a.update_many({'_id': {'$gt': 900}}, {'$set': {'v': 'after'}}); db.b.insert_one({'_id': 1000})");
    });
}

#[test]
fn an_oplog_that_has_moved_on_is_a_gap_with_a_way_out() {
    let server = small_oplog();
    let case = Case::new(&server, "overrun");
    case.mongo(COLLECTIONS);
    case.catch_up();
    lose(&case, 1);
    overrun(&case);
    is_a_gap(&case, &["oplog"]);
}

#[test]
fn an_oplog_that_moves_on_is_no_gap_for_a_program_that_runs() {
    let server = small_oplog();
    let case = Case::new(&server, "kept_up");
    case.mongo(COLLECTIONS);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    for round in 1..3 {
        lose(&case, round);
        case.wait_until_current(&mut sidecar);
        // Most of it is of no table.
        overrun(&case);
        case.wait_until_current(&mut sidecar);
    }
    sidecar.stop();
    case.catch_up();
    case.compare(&[]);
    assert!(replacements(&case.table("a")).is_empty());
}

#[test]
fn a_gap_is_made_up_for_by_itself_if_so_configured() {
    let server = small_oplog();
    let mut case = Case::new(&server, "mongo_resnapshot");
    case.source = "on_gap = \"resnapshot\"";
    case.mongo(COLLECTIONS);
    case.catch_up();
    for round in 1..3 {
        lose(&case, round);
        overrun(&case);
        case.mongo(&format!("db.a.insert_one({{'_id': 3000 + {round}}})"));
        let mut sidecar = case.start();
        case.wait_until_current(&mut sidecar);
        case.compare(&[]);
        assert_eq!(replacements(&case.table("a")).len(), round);
        sidecar.stop();
    }
}

#[test]
fn another_set_of_the_same_name_and_place_is_a_gap() {
    let server = Server::start(MONGO, &[]);
    let case = Case::new(&server, "another_set");
    case.mongo(COLLECTIONS);
    case.catch_up();
    server.stop("immediate");
    std::fs::remove_dir_all(server.folder.join("n0")).unwrap();
    server.start_again();
    case.mongo(COLLECTIONS);
    for round in 1..5 {
        lose(&case, round);
    }
    is_a_gap(&case, &["replica set"]);
}

#[test]
fn an_unrelated_set_is_a_gap() {
    let (one, two) = (Server::start(MONGO, &[]), Server::start(MONGO, &[]));
    let case = Case::new(&one, "mongo_unrelated");
    case.mongo(COLLECTIONS);
    case.catch_up();
    let moved = case.moved_to(&two);
    moved.mongo(COLLECTIONS);
    for round in 1..5 {
        lose(&moved, round);
    }
    let (a, b) = (case.qualified("a"), case.qualified("b"));
    assert_error(&moved.run_once(), &["tributary snapshot", &a, &b]);
    for table in ["a", "b"] {
        assert!(replacements(&case.table(table)).is_empty());
    }
}

#[test]
fn a_crash_of_the_only_node_is_survived_without_a_restart() {
    let server = Server::start(MONGO, &[]);
    let case = Case::new(&server, "mongo_crash");
    case.mongo(COLLECTIONS);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    for round in 1..4 {
        lose(&case, round);
        server.crash();
        case.mongo(&format!(
            "db.a.delete_many({{'_id': {{'$gte': {round} * 10, '$lt': {round} * 10 + 10}}}})"
        ));
        case.wait_until_current(&mut sidecar);
    }
    case.compare(&[]);
    assert!(replacements(&case.table("a")).is_empty());
    sidecar.stop();
}

/// Waits until the lake has some more of the workload's transactions.
fn goes_on(case: &Case, sidecar: &mut Sidecar) {
    let versions = || commits(&case.table("accounts_a")).len();
    let before = versions();
    wait_for("more versions", || {
        sidecar.assert_running();
        (versions() > before + 15).then_some(())
    });
}

#[test]
fn elections_under_load_lose_and_double_nothing() {
    let server = Server::start(MONGO, &[("NODES", "3")]);
    let case = Case::new(&server, "elections");
    let workload = Workload::start(&case, 21, "mixed");
    let mut sidecar = case.start();
    case.wait_for_state(&mut sidecar, "accounts_a", "streaming");
    goes_on(&case, &mut sidecar);
    for _ in 0..2 {
        server.step_down();
        goes_on(&case, &mut sidecar);
        let primary = server.primary();
        server.kill_node(primary);
        wait_for("another primary", || (server.primary() != primary).then_some(()));
        goes_on(&case, &mut sidecar);
        server.start_node(primary);
        goes_on(&case, &mut sidecar);
    }
    workload.stop();
    case.wait_until_settled(&mut sidecar);
    sidecar.stop();
    case.compare(&[]);
    case.check_mongo_history();
    // And a copy from whoever is the primary.
    server.step_down();
    succeed(&mut case.snapshot(&[&case.qualified("docs")]));
    case.compare(&[]);
    assert_eq!(replacements(&case.table("docs")).len(), 1);
}

#[test]
fn a_set_without_a_majority_is_waited_for() {
    let server = Server::start(MONGO, &[("NODES", "3")]);
    let case = Case::new(&server, "no_majority");
    case.mongo(COLLECTIONS);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let primary = server.primary();
    let others = [(primary + 1) % 3, (primary + 2) % 3];
    for node in others {
        server.kill_node(node);
    }
    // Nobody has agreed to it yet.
    case.mongo(
        "
        try:
            db.get_collection('a', write_concern=WriteConcern(1)).insert_one({'_id': 5000, 'v': 'alone'})
        except pymongo.errors.PyMongoError:
            pass",
    );
    for node in others {
        server.start_node(node);
    }
    lose(&case, 1);
    case.wait_until_current(&mut sidecar);
    sidecar.stop();
    case.compare(&[]);
    assert!(replacements(&case.table("a")).is_empty());
}
