//! Fields of documents that are left out, hashed or masked: what the lake has is what an outside program makes of the
//! source's documents, and the values are in none of its bytes.

use std::fs;
use std::process::Output;

use serde_json::{Value, json};

use crate::columns::{KEY, assert_nowhere};
use crate::support::lake::{column_names, commits, replacements, rows_written};
use crate::support::mongo::Workload;
use crate::support::server::{MONGO, Server};
use crate::support::sidecar::Sidecar;
use crate::support::{Case, assert_error, finish, python, succeed, text, wait_for};

/// In every value that must not be in the lake: as text, as a number, as Base64, as hex, and as a UUID.
const PLANTED: &str = "planted,918273645,cGxhbnRl,706c616e746564,706c616e-7465";

/// Sets the program's configuration, and the comparison's.
fn configure(case: &mut Case, rules: &Value) {
    let mut entry = format!("[[table]]\nmatch = \"{}.*\"\n", case.database.name);
    for (key, value) in rules.as_object().unwrap() {
        let value = match (key.as_str(), value) {
            ("key", _) => continue,
            ("mask", Value::Object(masks)) => {
                let masks: Vec<String> = masks.iter().map(|(name, text)| format!("{name:?} = {text}")).collect();
                format!("{{ {} }}", masks.join(", "))
            }
            (_, value) => value.to_string(),
        };
        entry += &format!("{key} = {value}\n");
    }
    case.sections = format!("{entry}[transform]\nkey = {}", rules.get("key").unwrap_or(&json!(KEY)));
    let mut transforms = rules.clone();
    transforms["key"] = rules.get("key").cloned().unwrap_or(json!(KEY));
    case.transforms = transforms.to_string();
}

fn rules() -> Value {
    json!({
        "exclude": ["SSN", "raw*"],
        "hash": ["e?ail", "mail*", "phone*", "born", "paid", "score", "photo", "token", "home", "tags", "odd*", "any"],
        "mask": {"name": "***", "lines": "hidden"},
    })
}

/// Documents whose secrets are of many types; every eleventh one's are of other types than the others'.
const PEOPLE: &str = "
    def person(i, mark='planted'):
        if i % 7 == 0:
            return {'_id': i, 'plain': 'alone'}
        found = {
            '_id': i, 'ssn': f'{mark}-{i}', 'email': f'{mark}{i * 7919}@example.org', 'phone': Int64(918273645000 + i),
            'born': DatetimeMS(-918273645000 - i), 'paid': Decimal128(f'918273645.{i}'), 'score': 918273645.25 + i,
            'photo': f'{mark} {i}'.encode(), 'token': uuid.UUID(bytes=b'planted-' + i.to_bytes(8)), 'name': f'{mark} {i}',
            'home': {'street': f'{mark} {i}', 'geo': {'x': 918273645.5, 'y': i}}, 'tags': [mark, i], 'raw_a': {'v': [mark]},
            'lines': [{'sku': mark, 'n': 918273645}], 'odd name': f'{mark} {i}', 'plain': f'plain {i}', 'inner': {'a': i, 'b': 'kept'},
            'list': [i, i + 1],
        }
        if i % 11 == 0:
            found |= {
                'email': {'x': mark, 'n': [918273645, None]}, 'phone': f'{mark} {i}', 'born': None, 'paid': Int64(918273645), 'score': mark,
                'photo': Binary(b'planted', 5), 'token': Regex('planted'), 'name': ObjectId(b'planted-1234'), 'home': [mark], 'tags': {'a': mark},
                'lines': None, 'SSN': {'a': mark}, 'Raw_b': 918273645, 'inner': 'of another type', 'list': 5,
            }
        return found
    people = db.people
";

fn people(name: &str, count: u32) -> Case<'static> {
    let mut case = Case::new(Server::shared(MONGO), name);
    configure(&mut case, &rules());
    mongo(
        &case,
        &format!("people.insert_many(person(i) for i in range(1, {count} + 1))"),
    );
    case
}

fn mongo(case: &Case, code: &str) -> String {
    case.mongo(&format!("{PEOPLE}\n    {}", code.trim_start()))
}

/// Changes of every kind, in fields that are transformed and in others.
fn change(case: &Case, round: u32) {
    mongo(
        case,
        &format!(
            "
    def every(n, update, **more):
        people.update_many({{'_id': {{'$mod': [n, {round}]}}}} | more, update)
    first = 10000 * {round}
    people.insert_many(person(i) for i in range(first, first + 60))
    for i in range(first, first + 30, 3):
        people.replace_one({{'_id': i}}, person(i + 1, 'planted anew') | {{'_id': i}})
    every(3, {{'$set': {{'plain': 'round {round}', 'inner.a': {round}}}}}, inner={{'$not': {{'$type': 'string'}}}})
    every(4, {{'$set': {{'email': 'planted round {round}', 'ssn': 'planted', 'name': ['planted'], 'odd name': 918273645}}}})
    every(5, {{'$set': {{'home.street': 'planted street', 'raw_a.v': 'planted'}}}}, raw_a={{'$type': 'object'}}, home={{'$type': 'object'}})
    every(6, {{'$push': {{'tags': 'planted {round}', 'list': 7}}}}, tags={{'$type': 'array'}}, list={{'$type': 'array'}})
    every(7, {{'$unset': {{'home.geo': 1, 'email': 1, 'name': 1}}}}, home={{'$type': 'object'}})
    every(8, {{'$pop': {{'tags': 1, 'lines': -1}}}}, tags={{'$type': 'array'}}, lines={{'$type': 'array'}})
    every(9, {{'$inc': {{'home.geo.x': 918273645, 'phone': 1}}}}, phone={{'$type': 'long'}}, home={{'$type': 'object'}})
    every(10, {{'$set': {{'lines.0.sku': 'planted sku', 'inner.a': 5}}}}, lines={{'$type': 'array'}}, inner={{'$type': 'object'}})
    # Of other types, new fields, and other names.
    every(13, {{'$set': {{'email': [918273645, {{'a': 'planted'}}], 'phone': None, 'home': 'planted', 'name': 5}}}})
    every(14, {{'$set': {{'mail_{round}': 'planted', 'raw_{round}': 'planted', 'fresh_{round}': {{'a': {round}}}, 'any': 918273645}}}})
    every(15, {{'$rename': {{'phone': 'mail_x', 'email': 'raw_email'}}}})
    every(16, {{'$set': {{'any.deep': 'planted'}}}}, any={{'$exists': False}})
    every(17, {{'$unset': {{'plain': 1, 'ssn': 1, 'inner.b': 1}}}})
    every(18, [{{'$set': {{'email': {{'$concat': ['planted ', {{'$toString': '$_id'}}]}}, 'copied': {{'$type': '$ssn'}}}}}}, {{'$unset': 'raw_a'}}])
    # Names with dots, which look like paths.
    def field(name, value):
        return [{{'$replaceWith': {{'$setField': {{'field': {{'$literal': name}}, 'input': '$$ROOT', 'value': value}}}}}}]
    every(19, field('home.street', 'planted'))
    every(20, field('name.x', 'planted'))
    every(21, field('raw_a.v', 'planted'))
    every(22, field('plain.x', 'kept'))
    people.insert_one({{'_id': first + 100, 'email.a': 'planted', 'name.b': 'planted', 'raw.c': 'planted', 'plain.d': 1, 'ssn': None, 'tags': None}})
    people.delete_many({{'_id': {{'$mod': [23, {round}]}}}})
    def work(session):
        people.update_many({{'_id': {{'$gte': first}}}}, {{'$set': {{'ssn': 'planted first'}}}}, session=session)
        people.insert_many([person(i) for i in range(first + 200, first + 230)], session=session)
        people.update_many({{'_id': {{'$gte': first + 200}}, 'home': {{'$type': 'object'}}}}, {{'$set': {{'home.no': 918273645, 'plain': 'in one'}}}}, session=session)
        people.update_many({{'_id': {{'$gte': first + 210}}}}, {{'$set': {{'email': 'planted in one'}}, '$unset': {{'home': 1}}}}, session=session)
    transaction(work)"
        ),
    );
}

fn verify(case: &Case) -> Output {
    finish(&mut case.command("verify"))
}

fn assert_equal(case: &Case, sidecar: &mut Sidecar) {
    case.wait_until_current(sidecar);
    case.compare(&[]);
    let output = verify(case);
    assert!(output.status.success(), "{}", text(&output));
    assert_nowhere(PLANTED, case, &[&output]);
}

fn fields_are_transformed(name: &str, source: &'static str) {
    let mut case = people(name, 400);
    case.source = source;
    let mut sidecar = case.start();
    assert_equal(&case, &mut sidecar);
    let columns = column_names(&case.table("people"));
    let hidden = |name: &String| name.to_lowercase().starts_with("raw") || name == "ssn";
    assert!(!columns.iter().any(hidden), "{columns:?}");
    change(&case, 1);
    assert_equal(&case, &mut sidecar);

    sidecar.kill();
    change(&case, 2);
    fs::remove_dir_all(case.cache()).unwrap_or_default();
    let mut sidecar = case.start();
    assert_equal(&case, &mut sidecar);
    assert!(replacements(&case.table("people")).is_empty());
    let columns = column_names(&case.table("people"));
    assert!(!columns.iter().any(hidden), "{columns:?}");

    succeed(&mut case.snapshot(&[&case.qualified("people")]));
    change(&case, 3);
    assert_equal(&case, &mut sidecar);
    assert_eq!(replacements(&case.table("people")).len(), 1);

    // What only concerns fields that the lake does not have writes nothing.
    let written = rows_written(&commits(&case.table("people")));
    mongo(
        &case,
        "people.update_many({}, {'$set': {'ssn': 'planted again', 'raw_c.d': 1}})",
    );
    case.wait_until_current(&mut sidecar);
    assert_eq!(rows_written(&commits(&case.table("people"))), written);
    sidecar.stop();

    // The planted texts would be found.
    mongo(&case, "people.update_one({'_id': 4}, {'$set': {'plain': 'planted'}})");
    case.catch_up();
    let folder = case.table("people");
    let output = finish(python("planted.py").arg(PLANTED).arg(&folder));
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
}

#[test]
fn fields_are_transformed_where_columns_grow() {
    fields_are_transformed("fields_evolve", "");
}

#[test]
fn fields_are_transformed_where_columns_stay() {
    fields_are_transformed("fields_fixed", "schema = \"fixed\"");
}

#[test]
fn fields_are_transformed_in_whole_documents() {
    fields_are_transformed("fields_json", "schema = \"json\"");
}

#[test]
fn only_fields_that_are_included_arrive() {
    let mut case = people("fields_included", 200);
    configure(
        &mut case,
        &json!({"include": ["_id", "plain", "inner", "list", "e*", "fresh*"], "exclude": [], "hash": ["email"], "mask": {}}),
    );
    let mut sidecar = case.start();
    assert_equal(&case, &mut sidecar);
    change(&case, 1);
    mongo(
        &case,
        "people.update_many({'_id': {'$lt': 50}}, {'$set': {'later': 'planted', 'fresh.a': 1}})",
    );
    assert_equal(&case, &mut sidecar);
    let columns = column_names(&case.table("people"));
    assert!(
        !columns
            .iter()
            .any(|name| ["ssn", "name", "later", "copied"].contains(&name.as_str())),
        "{columns:?}"
    );
    sidecar.stop();
}

/// Hashes and masks of every type, in fields of every name, by every operator.
fn random_changes(name: &str, seed: u32, source: &'static str) {
    let mut case = Case::new(Server::shared(MONGO), name);
    case.source = source;
    configure(
        &mut case,
        &json!({
            "exclude": ["m0", "blob", "naïve"],
            "hash": ["m1", "m2", "m3", "address", "tags", "price", "ratio", "when", "count", "owner", "token", "deep", "a?b", "é"],
            "mask": {"m4": "***", "lines": "", "name": "hidden", "x-y": "masked"},
        }),
    );
    let workload = Workload::start(&case, seed, "mixed");
    let mut sidecar = case.start();
    case.wait_for_state(&mut sidecar, "docs", "streaming");
    wait_for("many versions", || {
        sidecar.assert_running();
        (commits(&case.table("docs")).len() > 40).then_some(())
    });
    sidecar.kill();
    let mut sidecar = case.start();
    let before = commits(&case.table("docs")).len();
    wait_for("some more versions", || {
        sidecar.assert_running();
        (commits(&case.table("docs")).len() > before + 20).then_some(())
    });
    workload.stop();
    case.wait_until_settled(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();
    case.verify();
}

#[test]
fn random_changes_arrive_transformed() {
    random_changes("fields_random", 21, "");
}

#[test]
fn random_changes_arrive_transformed_as_json() {
    random_changes("fields_random_json", 22, "schema = \"json\"");
}

/// A document that the lake does not have yet, and one of which a part of a hashed field changes, is read by its key.
#[test]
fn documents_that_are_read_by_key_are_transformed_once() {
    let mut case = people("fields_points", 6000);
    case.snapshot = "parallelism = 1\nmax_bytes_per_s = \"1MiB\"";
    let mut sidecar = case.start();
    sidecar.wait_for_log("starting snapshot");
    for round in 0..4 {
        mongo(
            &case,
            &format!(
                "
    people.update_many({{'_id': {{'$mod': [4, {round}]}}, 'home.geo': {{'$exists': True}}}}, {{'$set': {{'home.geo.y': 'planted {round}', 'plain': 'w'}}}})
    people.update_many({{'_id': {{'$mod': [5, {round}]}}, 'lines': {{'$type': 'array'}}}}, {{'$push': {{'lines': 'planted'}}}})
    people.update_many({{'_id': {{'$mod': [9, {round}]}}}}, {{'$set': {{'email': 'planted {round}'}}}})
    people.delete_many({{'_id': {{'$mod': [100, {round}]}}}})"
            ),
        );
    }
    case.wait_for_state(&mut sidecar, "people", "streaming");
    mongo(
        &case,
        "people.update_many({'home.geo': {'$exists': True}}, {'$unset': {'home.street': 1}})",
    );
    assert_equal(&case, &mut sidecar);
    sidecar.stop();
}

#[test]
fn another_configuration_means_a_copy() {
    let mut case = people("fields_settings", 200);
    let table = case.table("people");
    case.catch_up();
    case.catch_up();
    assert!(replacements(&table).is_empty());
    let with = |change: fn(&mut Value)| {
        let mut changed = rules();
        change(&mut changed);
        changed
    };
    let settings = [
        (
            with(|rules| rules["exclude"] = json!(["SSN", "raw*", "p*o"])),
            "changed: exclude",
        ),
        (
            with(|rules| rules["mask"]["name"] = json!("?")),
            "changed: exclude, mask",
        ),
        (
            with(|rules| {
                rules["mask"]["name"] = json!("?");
                rules["key"] = json!("quite another key");
            }),
            "another key",
        ),
        (
            json!({"exclude": [], "hash": [], "mask": {}}),
            "changed: exclude, hash, mask",
        ),
    ];
    for (copies, (rules, reason)) in (1..).zip(settings) {
        configure(&mut case, &rules);
        mongo(
            &case,
            &format!(
                "people.update_many({{'_id': {{'$mod': [3, 0]}}, 'home': {{'$type': 'object'}}}}, {{'$set': {{'plain': '{copies}', 'home.z': 'planted'}}}})"
            ),
        );
        let output = verify(&case);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains(reason), "no {reason:?} in {}", text(&output));
        let output = finish(&mut case.command("check"));
        assert!(output.status.success(), "{}", text(&output));
        assert!(text(&output).contains("will be copied anew"), "{}", text(&output));
        case.catch_up();
        assert_eq!(replacements(&table).len(), copies, "{reason}");
        case.compare(&[]);
        case.verify();
    }
    assert!(column_names(&table).iter().any(|name| name == "ssn"));
    // What was there before is in old files, until the folder is removed.
    configure(&mut case, &rules());
    case.catch_up();
    assert_eq!(replacements(&table).len(), 5);
    // The same in other words is the same.
    let mut other = rules();
    other["exclude"] = json!(["RAW*", "ssn", "SSN"]);
    other["include"] = json!(["*"]);
    configure(&mut case, &other);
    case.catch_up();
    assert_eq!(replacements(&table).len(), 5);
    case.compare(&[]);
    let output = finish(python("planted.py").arg(PLANTED).arg(&case.lake));
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    fs::remove_dir_all(&table).unwrap();
    case.catch_up();
    case.compare(&[]);
    assert_nowhere(PLANTED, &case, &[]);
}

#[test]
fn what_can_not_be_done_is_refused_by_name() {
    let mut case = people("fields_refused", 20);
    let name = case.qualified("people");
    for (setting, parts) in [
        ("exclude = \"_i?\"", ["column _id is excluded", "part of its key"]),
        ("include = [\"email\"]", ["column _id is excluded", "part of its key"]),
        ("hash = [\"_ID\"]", ["column _id is hashed", "part of its key"]),
        ("mask = \"*\"", ["column _id is masked", "part of its key"]),
        (
            "exclude = \"home.street\"",
            [
                "exclude has \"home.street\", which has a dot",
                "name the field \"home\"",
            ],
        ),
        ("mask = [\"_extra\"]", ["mask has \"_extra\"", "name the fields"]),
    ] {
        case.sections = format!("[[table]]\nmatch = {name:?}\n{setting}\n[transform]\nkey = {KEY:?}");
        for output in [finish(&mut case.command("check")), case.run_once()] {
            assert_error(&output, &parts);
            assert_error(&output, &[&name]);
        }
    }
    case.sections = format!("[[table]]\nmatch = {name:?}\nhash = \"email\"");
    assert_error(&case.run_once(), &["there is no key", "TRIBUTARY_TRANSFORM_KEY"]);
    case.sections = format!(
        "[[table]]\nmatch = {name:?}\nexclude = [\"ssn\", \"raw_*\"]\nhash = \"email\"\n[[table]]\nmatch = \"*.poeple\"\nexclude = \"ssn\"\n[transform]\nkey = {KEY:?}"
    );
    let output = finish(&mut case.command("check"));
    assert_error(&output, &["[[table]] *.poeple matches no table"]);
    assert!(
        text(&output).contains(&format!("table {name}: without raw_*, ssn; hashed: email")),
        "{}",
        text(&output)
    );
    assert!(!text(&output).contains(KEY));
    // A collection may be yet to come.
    let output = case.run_once();
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("matches no table"), "{}", text(&output));
}

/// What `verify` compares are the transformed values.
#[test]
fn a_wrong_hash_is_found() {
    let case = people("fields_wrong", 50);
    case.catch_up();
    let folder = case.table("people");
    succeed(
        python("tamper.py")
            .arg(&folder)
            .args(["flip", r#"{"_id": 4}"#, "email", "0"]),
    );
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let output = verify(&case);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("different: _id=4 in email"), "{}", text(&output));
    assert!(!case.comparison(&[]).status.success());
    sidecar.stop();
}
