//! What a user of MongoDB can get wrong: a clear error that names the fix, and nothing lost.

use crate::support::lake::commits;
use crate::support::mongo::entries;
use crate::support::server::{Kind, MONGO, Server};
use crate::support::{Case, assert_error, finish, text, wait_for};

const COLLECTION: &str = "db.t.insert_many({'_id': i, 'v': 'v'} for i in range(100))";

fn case(name: &str) -> Case<'static> {
    let case = Case::new(Server::shared(MONGO), name);
    case.mongo(COLLECTION);
    case
}

/// `check` and `run --once` both say so.
fn is_refused(case: &Case, parts: &[&str]) {
    for verb in ["check", "run"] {
        let output = finish(case.command(verb).args((verb == "run").then_some("--once")));
        assert_error(&output, parts);
    }
}

#[test]
fn check_passes_before_and_after_the_first_run() {
    case("mongo_check").check_passes_before_and_after_the_first_run();
}

#[test]
fn status_tells_tables_and_source_while_the_program_runs() {
    let case = case("mongo_status");
    case.status_tells_tables_and_source(|| drop(case.mongo("db.t.delete_one({'_id': 1})")));
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let mut case = case("mongo_unreachable");
    case.url = "mongodb://someone:secret@127.0.0.1:1/?replicaSet=rs0&serverSelectionTimeoutMS=1000".to_owned();
    for verb in ["check", "run"] {
        let output = finish(case.command(verb).args((verb == "run").then_some("--once")));
        assert_error(&output, &["127.0.0.1:1"]);
        assert!(!text(&output).contains("secret"), "{}", text(&output));
    }
    for broken in [
        "mongodb://",
        "mongodb://127.0.0.1:99999/",
        "mongodb://a:b@c:d@127.0.0.1/",
    ] {
        case.url = broken.to_owned();
        assert_error(&case.run_once(), &[]);
    }
}

#[test]
fn a_server_alone_and_an_old_server_are_refused() {
    let alone = Server::start(MONGO, &[("MONGO_STANDALONE", "1")]);
    let case = Case::new(&alone, "mongo_alone");
    case.mongo(COLLECTION);
    is_refused(&case, &["--replSet", "rs.initiate()"]);
    let old = Server::start(Kind::Mongo("5.0.4"), &[]);
    let case = Case::new(&old, "mongo_old");
    case.mongo(COLLECTION);
    is_refused(&case, &["5.0", "6.0"]);
}

#[test]
fn a_server_that_splits_no_events_will_do() {
    let server = Server::start(Kind::Mongo("6.0.5"), &[]);
    let case = Case::new(&server, "no_split");
    case.mongo(COLLECTION);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.mongo("db.t.update_many({}, {'$set': {'w.x': 1}}); db.u.insert_one({'pad': 'x' * 16_000_000})");
    case.wait_until_settled(&mut sidecar);
    sidecar.stop();
    case.compare(&[]);
}

#[test]
fn users_need_to_read_and_no_more() {
    let server = Server::start(MONGO, &[("MONGO_AUTH", "1")]);
    let mut case = Case::new(&server, "mongo_users");
    case.mongo(COLLECTION);
    server.mongo(
        "admin",
        "
        def user(name, *roles, password='p@ss/w:rd 100%'):
            db.command('createUser', name, pwd=password, roles=list(roles))
        user('reader', {'role': 'read', 'db': 'mongo_users'}); user('any', 'readAnyDatabase')
        user('monitor', 'readAnyDatabase', 'clusterMonitor'); user('nobody'); user('other', {'role': 'read', 'db': 'elsewhere'})
        client.mongo_users.command('createUser', 'local', pwd='local', roles=['read'])",
    );
    const PASSWORD: &str = "p%40ss%2Fw%3Ard%20100%25";
    let replicates = |case: &Case| {
        case.mongo("db.t.update_many({'_id': {'$lt': 9}}, {'$inc': {'n': 1}})");
        let check = finish(&mut case.command("check"));
        assert!(check.status.success(), "{}", text(&check));
        case.catch_up();
        case.compare(&[]);
        case.verify();
        let said = text(&finish(&mut case.command("status"))) + &text(&check);
        assert!(!said.contains("p@ss") && !said.contains(PASSWORD), "{said}");
    };
    for user in ["any", "monitor"] {
        case.url = server.mongo_url(&format!("{user}:{PASSWORD}"), "");
        replicates(&case);
    }
    // The right to read one database is enough for that one.
    case.url = server.mongo_url(&format!("reader:{PASSWORD}"), "mongo_users") + "&authSource=admin";
    replicates(&case);
    case.url = server.mongo_url("local:local", "mongo_users");
    replicates(&case);
    // The password of a URL without one.
    let secret = case.folder.join("password");
    std::fs::write(&secret, "local\n").unwrap();
    case.url = server.mongo_url("local", "mongo_users");
    let mut command = case.command("check");
    let check = finish(command.env("TRIBUTARY_SOURCE_PASSWORD_FILE", &secret));
    assert!(check.status.success(), "{}", text(&check));
    is_refused(&case, &["local"]);

    for user in ["nobody", "other"] {
        case.url = server.mongo_url(&format!("{user}:{PASSWORD}"), "mongo_users") + "&authSource=admin";
        is_refused(&case, &["read"]);
    }
    case.url = server.mongo_url("any:wrong", "");
    for verb in ["check", "run"] {
        let output = finish(case.command(verb).args((verb == "run").then_some("--once")));
        assert_error(&output, &["any"]);
        assert!(!text(&output).contains("wrong"), "{}", text(&output));
    }
    case.url = server.mongo_url("", "");
    is_refused(&case, &["auth"]);
    // Rights that go while the program runs.
    case.url = server.mongo_url(&format!("any:{PASSWORD}"), "");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    server.mongo(
        "admin",
        "db.command('revokeRolesFromUser', 'any', roles=['readAnyDatabase'])",
    );
    case.mongo("db.t.insert_one({'_id': 'x'})");
    wait_for("a word about it", || {
        let log = sidecar.whole_log();
        (sidecar.has_ended() || log.contains("WARN") || log.contains("ERROR")).then_some(())
    });
    drop(sidecar);
    server.mongo(
        "admin",
        "db.command('grantRolesToUser', 'any', roles=['readAnyDatabase'])",
    );
    case.catch_up();
    case.compare(&[]);
}

#[test]
fn servers_speak_tls() {
    let server = Server::start(MONGO, &[("MONGO_TLS", "1")]);
    let mut case = Case::new(&server, "mongo_tls");
    case.mongo(COLLECTION);
    case.catch_up();
    case.compare(&[]);
    let good = case.url.clone();
    let plain = good.split("&tls").next().unwrap().to_owned() + "&serverSelectionTimeoutMS=1000";
    for (options, part) in [
        ("&tls=true", "certificate"),
        ("&tls=true&tlsCAFile=/absent.crt", "/absent.crt"),
        ("", "tls"),
    ] {
        case.url = format!("{plain}{options}");
        assert_error(&case.run_once(), &[part]);
    }
    case.url = format!("{plain}&tls=true&tlsInsecure=true");
    case.mongo("db.t.delete_one({'_id': 1})");
    case.catch_up();
    case.compare(&[]);
}

#[test]
fn what_is_no_collection_of_documents_is_left_out() {
    let mut case = case("mongo_relations");
    case.mongo(
        "
        db.create_collection('a_view', viewOn='t', pipeline=[])
        db.create_collection('collated', collation={'locale': 'en', 'strength': 2}); db.collated.insert_one({'_id': 'A'})
        db.create_collection('clustered', clusteredIndex={'key': {'_id': 1}, 'unique': True}); db.clustered.insert_one({'_id': 5})",
    );
    case.catch_up();
    let mut replicated: Vec<_> = case.status().tables.into_iter().map(|t| t.table).collect();
    replicated.sort();
    assert_eq!(
        replicated,
        ["clustered", "collated", "t"].map(|name| case.qualified(name))
    );
    case.mongo(
        "db.collated.update_one({'_id': 'a'}, {'$set': {'v': 1}}); db.clustered.update_many({}, {'$set': {'v': 1}})",
    );
    case.catch_up();
    case.compare(&[]);
    case.mongo(
        "
        db.create_collection('series', timeseries={'timeField': 'at'}); db.series.insert_one({'at': datetime.datetime(2020, 1, 1), 'v': 1})
        db.create_collection('capped', capped=True, size=10_000); db.capped.insert_one({'_id': 1})",
    );
    let (series, capped) = (case.qualified("series"), case.qualified("capped"));
    assert_error(
        &finish(&mut case.command("check")),
        &[&series, "time-series", &format!("!{series}"), &capped, "falls out"],
    );
    case.tables = vec![case.qualified("*"), format!("!{series}"), format!("!{capped}")];
    let check = finish(&mut case.command("check"));
    assert!(check.status.success(), "{}", text(&check));
    case.catch_up();
    case.compare(&["t", "collated", "clustered"]);
}

#[test]
fn tables_are_chosen_by_patterns() {
    let server = Server::start(MONGO, &[]);
    let mut case = Case::new(&server, "mongo_patterns");
    case.mongo("for name in ['t', 'old_t', 'u']: db[name].insert_one({'_id': 1})");
    case.mongo("for name in ['orders', 'old_orders']: client.other[name].insert_one({'_id': 1})");
    let tables = |case: &Case| -> Vec<_> {
        let mut tables: Vec<_> = case.status().tables.into_iter().map(|t| t.table).collect();
        tables.sort();
        tables
    };
    case.tables = vec!["other.*".to_owned(), "!*.old_*".to_owned()];
    case.catch_up();
    assert_eq!(tables(&case), ["other.orders"]);
    // Those of one database, which the URL names; then all, and never the server's own.
    let mut one = Case::new(&server, "mongo_one");
    one.tables = vec!["*.*".to_owned()];
    one.url = server.mongo_url("", "other");
    one.catch_up();
    assert_eq!(tables(&one), ["other.old_orders", "other.orders"]);
    let mut all = Case::new(&server, "mongo_all");
    all.tables = vec!["*.*".to_owned()];
    all.catch_up();
    let expected = [
        "mongo_patterns.old_t",
        "mongo_patterns.t",
        "mongo_patterns.u",
        "other.old_orders",
        "other.orders",
    ];
    assert_eq!(tables(&all), expected);
}

#[test]
fn a_hostile_name_stays_inside_the_lake() {
    let mut case = Case::new(Server::shared(MONGO), "mongo_hostile");
    case.tables = vec!["mongo_hostile.*".to_owned(), "Ünï*.*".to_owned()];
    let names = "['weird.name', 'a b', '_underscore', '../../up', 'Żółć😀', 'x%41~20', '\"q\\'', 'tab\\tname', 'sys.tem', 'A', 'a', '.']";
    case.mongo(&format!(
        "
        for name in {names}:
            try:
                db[name].insert_one({{'_id': 1, 'a.b': 1, '': 2, '$c': 3, '../x': 4, ' ': 5, '_id ': 6, 'SELECT': 7}})
            except (pymongo.errors.InvalidName, pymongo.errors.OperationFailure) as refused:
                print(name, refused)
        client['Ünï-db']['_odd.ˆ'].insert_one({{'_id': 1}})"
    ));
    let mut sidecar = case.start();
    case.wait_until_settled(&mut sidecar);
    case.mongo("for name in db.list_collection_names(): db[name].update_one({'_id': 1}, {'$set': {'new': 1, ' ': 6}}); db[name].insert_one({'_id': 2})");
    case.mongo("client['Ünï-db']['_odd.ˆ'].insert_one({'_id': 2})");
    case.wait_until_settled(&mut sidecar);
    sidecar.stop();
    case.catch_up();
    case.compare(&[]);
    case.verify();
    let other = crate::support::server::Database {
        server: case.database.server,
        name: "Ünï-db".to_owned(),
    };
    let mut comparer = crate::support::python("mongo_compare.py");
    comparer
        .args(["--source", &other.socket_url(), "--lake"])
        .arg(&case.lake);
    let comparison = finish(comparer.args(["--database", &other.name]));
    assert!(comparison.status.success(), "{}", text(&comparison));
    assert_eq!(entries(&case.lake), ["_tributary", "mongo_hostile", "~C3~9Cn~C3~AF-db"]);
    case.mongo("client.drop_database('Ünï-db')");
}

#[test]
fn the_lake_of_another_pipeline_is_left_alone() {
    let one = case("mongo_pipeline");
    one.catch_up();
    let before = commits(&one.table("t")).len();
    let mut two = case("mongo_pipeline_two");
    two.lake = one.lake.clone();
    let output = two.run_once();
    println!("{}", text(&output));
    if !output.status.success() {
        assert_error(&output, &[]);
    }
    assert_eq!(one.query("t", "select count(*) from t", None), "[100]");
    assert!(commits(&one.table("t")).len() <= before + 1);
    one.catch_up();
    one.compare(&["t"]);
}

#[test]
fn two_programs_of_one_lake_do_not_mix() {
    let case = case("mongo_fenced");
    let mut first = case.start();
    case.wait_until_current(&mut first);
    let mut second = case.start();
    // One of them ends, by its own decision; the other one goes on.
    let ended = wait_for("one of them to end", || {
        case.mongo("db.t.update_many({'_id': {'$lt': 5}}, {'$inc': {'n': 1}})");
        (first.has_ended() || second.has_ended()).then_some(first.has_ended())
    });
    let (mut running, ended) = if ended { (second, first) } else { (first, second) };
    drop(ended);
    case.wait_until_current(&mut running);
    running.stop();
    case.compare(&[]);
}
