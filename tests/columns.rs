//! Columns that are left out, hashed or masked: what the lake has is what an outside program makes of the source's
//! values, and those values are in none of its bytes.

use std::fs;
use std::process::Output;

use serde_json::json;

use crate::support::lake::{column_names, replacements};
use crate::support::server::{Kind, Server};
use crate::support::sidecar::Sidecar;
use crate::support::writer::Writer;
use crate::support::{Case, assert_error, finish, on_every_source, python, succeed, text, wait_for};

on_every_source! {
    values_are_transformed_in_the_copy_and_in_the_stream
    values_that_are_read_by_key_are_transformed_once
    columns_that_change_follow_the_configuration
    another_configuration_means_a_copy
    a_key_is_never_transformed
    what_matches_nothing_is_told
}

pub const KEY: &str = "a key that nobody can guess";
/// In every value that must not be in the lake, as Python prints it.
const PLANTED: &str = "planted,918273645,1911-03-07,1912-05-09,31415926";

const EXCLUDE: &[&str] = &["SSN", "raw_*"];
const HASH: &[&str] = &[
    "email", "mail*", "phone", "born", "seen", "zoned", "paid", "photo", "bio",
];
const MASK: &[(&str, &str)] = &[("name", "***"), ("score", "hidden")];

/// Sets the program's configuration, and the comparison's.
fn configure(case: &mut Case, exclude: &[&str], hash: &[&str], mask: &[(&str, &str)], key: &str) {
    let masks: Vec<String> = mask
        .iter()
        .map(|(column, text)| format!("{column} = {text:?}"))
        .collect();
    case.sections = format!(
        "[[table]]\nmatch = [\"*.people\"]\nexclude = {exclude:?}\nhash = {hash:?}\nmask = {{ {} }}\n[transform]\nkey = {key:?}\n",
        masks.join(", ")
    );
    let mask: serde_json::Map<_, _> = mask
        .iter()
        .map(|(column, text)| ((*column).to_owned(), json!(text)))
        .collect();
    case.transforms = json!({"exclude": exclude, "hash": hash, "mask": mask, "key": key}).to_string();
}

/// A case with the table `people`, which has a row for each id from 1 on.
fn people(kind: Kind, name: &str, rows: u32) -> Case<'static> {
    let mut case = Case::new(Server::shared(kind), name);
    configure(&mut case, EXCLUDE, HASH, MASK, KEY);
    case.sql(&create(kind));
    case.sql(&insert(kind, 1, rows));
    case
}

fn create(kind: Kind) -> String {
    let (stamp, zoned, bytes, out_of_line) = match kind {
        Kind::Postgres(_) => (
            "timestamp",
            "timestamptz",
            "bytea",
            "; ALTER TABLE people ALTER bio SET STORAGE EXTERNAL, ALTER name SET STORAGE EXTERNAL, ALTER raw_a SET STORAGE EXTERNAL",
        ),
        _ => ("datetime(6)", "timestamp(6) NULL", "blob", ""),
    };
    format!(
        "CREATE TABLE people (ssn varchar(60), id int PRIMARY KEY, email varchar(200), phone bigint, born date, \
         seen {stamp}, zoned {zoned}, paid decimal(12,2), photo {bytes}, bio text, raw_a text, name text, \
         score double precision, plain varchar(100)){out_of_line}"
    )
}

/// Every seventh row has NULL wherever it can.
fn insert(kind: Kind, from: u32, to: u32) -> String {
    let photo = match kind {
        Kind::Postgres(_) => "convert_to('planted photo', 'UTF8')",
        _ => "'planted photo'",
    };
    format!(
        "INSERT INTO people SELECT concat('planted-ssn-', i), i, concat('planted-', hash(i), '@example.org'), 918273645000 + i, \
         '1911-03-07', '1912-05-09 01:02:03.040506', '2001-02-03 04:05:06.070809', 31415926.50, {photo}, \
         concat('planted', repeat(hash(i), 90)), repeat('planted raw ', 300), concat('planted', repeat(hash(i + 1), 90)), i * 918273645e2, 'plain' \
         FROM series({from}, {to}) WHERE i % 7 > 0; \
         INSERT INTO people (id) SELECT i FROM series({from}, {to}) WHERE i % 7 = 0"
    )
}

/// Changes that leave out long values (MySQL: all that did not change), move rows, and bring new ones.
fn change(case: &Case, round: u32) {
    let settings = match case.kind() {
        Kind::Postgres(_) => "",
        _ => "SET SESSION binlog_row_image = 'MINIMAL';",
    };
    let first = 10_000 * round;
    case.sql(&format!(
        "{settings} UPDATE people SET plain = 'round {round}' WHERE id % 3 = 0;
         UPDATE people SET email = concat('planted-{round}-', id), raw_a = 'planted anew' WHERE id % 5 = 0;
         UPDATE people SET id = id + 1000000 * {round} WHERE id % 11 = {round};
         DELETE FROM people WHERE id % 13 = {round};
         UPDATE people SET bio = NULL, name = NULL WHERE id % 17 = {round};
         UPDATE people SET bio = 'planted short', name = '', score = 0, paid = 918273645.99, born = NULL WHERE id % 19 = {round};
         {};
         UPDATE people SET plain = 'again' WHERE id = {first} + 1",
        insert(case.kind(), first, first + 40)
    ));
}

/// What was planted is in no byte of the lake, of what the program said, and of these outputs.
fn assert_nothing_planted(case: &Case, outputs: &[&Output]) {
    assert_nowhere(PLANTED, case, outputs);
}

/// None of the texts, with commas between, is there.
pub fn assert_nowhere(planted: &str, case: &Case, outputs: &[&Output]) {
    let said = case.folder.join("outputs");
    let all: String = outputs.iter().map(|output| text(output)).collect();
    fs::write(&said, all).unwrap();
    let log = case.folder.join("sidecar.log");
    let paths = [&case.lake, &said, &log];
    let output = finish(
        python("planted.py")
            .arg(planted)
            .args(paths.into_iter().filter(|path| path.exists())),
    );
    assert!(output.status.success(), "{}", text(&output));
}

fn verify(case: &Case) -> Output {
    finish(&mut case.command("verify"))
}

fn assert_equal(case: &Case, sidecar: &mut Sidecar) {
    case.wait_until_current(sidecar);
    case.compare(&[]);
    let output = verify(case);
    assert!(output.status.success(), "{}", text(&output));
    assert_nothing_planted(case, &[&output]);
}

fn values_are_transformed_in_the_copy_and_in_the_stream(kind: Kind) {
    let case = people(kind, "columns_plain", 500);
    let mut sidecar = case.start();
    assert_equal(&case, &mut sidecar);
    let columns = column_names(&case.table("people"));
    assert!(
        !columns.iter().any(|name| name == "ssn" || name == "raw_a"),
        "{columns:?}"
    );
    change(&case, 1);
    assert_equal(&case, &mut sidecar);

    sidecar.kill();
    change(&case, 2);
    fs::remove_dir_all(case.cache()).unwrap_or_default();
    let mut sidecar = case.start();
    assert_equal(&case, &mut sidecar);
    assert!(replacements(&case.table("people")).is_empty());

    succeed(&mut case.snapshot(&[&case.qualified("people")]));
    change(&case, 3);
    assert_equal(&case, &mut sidecar);
    assert_eq!(replacements(&case.table("people")).len(), 1);
    sidecar.stop();

    // The planted texts would be found, and so is a hash that is not right.
    case.sql("UPDATE people SET plain = 'planted' WHERE id = 4");
    case.catch_up();
    let folder = case.table("people");
    let output = finish(python("planted.py").arg(PLANTED).arg(&folder));
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    succeed(
        python("tamper.py")
            .arg(&folder)
            .args(["flip", r#"{"id": 4}"#, "email", "0"]),
    );
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let output = verify(&case);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("different: id=4 in email"), "{}", text(&output));
    sidecar.stop();
}

/// A row that is not in the lake yet is read by its key when a change leaves values of it out.
fn values_that_are_read_by_key_are_transformed_once(kind: Kind) {
    let mut case = people(kind, "columns_points", 3000);
    case.snapshot = "parallelism = 1\nmax_bytes_per_s = \"2MiB\"";
    let mut sidecar = case.start();
    sidecar.wait_for_log("starting snapshot");
    let image = match kind {
        Kind::Postgres(_) => "",
        _ => "SET SESSION binlog_row_image = 'MINIMAL';",
    };
    case.sql(&format!("{image} UPDATE people SET plain = 'before' WHERE id > 1500"));
    let writer = Writer::start(&case, 3000, &["UPDATE people SET plain = 'w{i}' WHERE id = {k} + 1"]);
    case.wait_for_state(&mut sidecar, "people", "streaming");
    writer.stop();
    assert_equal(&case, &mut sidecar);
    sidecar.stop();
}

fn columns_that_change_follow_the_configuration(kind: Kind) {
    let case = people(kind, "columns_ddl", 200);
    let table = case.table("people");
    let mut sidecar = case.start();
    assert_equal(&case, &mut sidecar);
    // What is done, the values set then, and whether the table has to be copied.
    let steps = [
        ("ADD COLUMN raw_b varchar(50)", "raw_b = 'planted b'", Some(0)),
        (
            "ADD COLUMN mail_b varchar(50)",
            "mail_b = 'planted mail', raw_b = 'planted c'",
            Some(0),
        ),
        (
            "RENAME COLUMN raw_b TO RAW_d",
            "RAW_d = 'planted d', plain = 'd'",
            Some(0),
        ),
        (
            "RENAME COLUMN mail_b TO mail_c",
            "mail_c = 'planted other mail'",
            Some(0),
        ),
        ("RENAME COLUMN plain TO raw_plain", "raw_plain = 'p'", Some(1)),
        ("RENAME COLUMN raw_plain TO remark", "remark = 'r'", Some(2)),
        ("DROP COLUMN RAW_d", "remark = 's'", Some(2)),
        ("DROP COLUMN ssn", "email = 'planted without ssn'", Some(2)),
        ("DROP COLUMN mail_c", "phone = 918273645", Some(2)),
        (type_change(kind), "phone = '918273645-0'", None),
    ];
    for (round, (alter, set, copies)) in (1..).zip(steps) {
        case.sql(&format!("ALTER TABLE people {alter}"));
        case.sql(&format!("UPDATE people SET {set} WHERE id % {} = 0", 2 + round % 3));
        case.sql(&format!("UPDATE people SET id = -id WHERE id % 29 = {round}"));
        case.wait_until_equal(&mut sidecar);
        if let Some(copies) = copies {
            assert_eq!(replacements(&table).len(), copies, "{alter}: {}", sidecar.log());
        }
    }
    assert_equal(&case, &mut sidecar);

    // While nobody looks.
    sidecar.kill();
    case.sql("ALTER TABLE people RENAME COLUMN remark TO mailing");
    case.sql("UPDATE people SET mailing = 'planted mailing' WHERE id % 2 = 0");
    let mut sidecar = case.start();
    // It knows SIGHUP only once it runs.
    case.wait_until_current(&mut sidecar);
    case.wait_until_equal(&mut sidecar);
    assert_equal(&case, &mut sidecar);
    sidecar.stop();
}

fn type_change(kind: Kind) -> &'static str {
    match kind {
        Kind::Postgres(_) => "ALTER COLUMN phone TYPE text",
        _ => "MODIFY COLUMN phone varchar(40)",
    }
}

fn another_configuration_means_a_copy(kind: Kind) {
    let mut case = people(kind, "columns_settings", 300);
    let table = case.table("people");
    case.catch_up();
    case.catch_up();
    assert!(replacements(&table).is_empty());
    type Setting<'a> = (&'a [&'a str], &'a [&'a str], &'a [(&'a str, &'a str)], &'a str, &'a str);
    let settings: [Setting; 4] = [
        // More is left out; less is hashed.
        (
            &["SSN", "raw_*", "p*o"],
            &["email", "bio", "phone"],
            MASK,
            KEY,
            "born, seen, zoned, paid, photo",
        ),
        (
            &["SSN", "raw_*", "p*o"],
            &["email", "bio", "phone"],
            &[("name", "?"), ("score", "hidden")],
            KEY,
            "name",
        ),
        (
            &["SSN", "raw_*", "p*o"],
            &["email", "bio", "phone"],
            &[("name", "?"), ("score", "hidden")],
            "quite another key",
            "another key",
        ),
        (&[], &[], &[], KEY, "changed: ssn"),
    ];
    for (copies, (exclude, hash, mask, key, reason)) in (1..).zip(settings) {
        configure(&mut case, exclude, hash, mask, key);
        case.sql(&format!("UPDATE people SET plain = '{copies}' WHERE id % 3 = 0"));
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
        assert_eq!(
            column_names(&table).iter().any(|name| name == "ssn"),
            exclude.is_empty()
        );
    }
    // The same in other words is the same.
    case.sections = "[[table]]\nmatch = \"none.*\"\nexclude = \"*\"".to_owned();
    case.catch_up();
    assert_eq!(replacements(&table).len(), 4);

    // A running program keeps what it has begun with.
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    configure(&mut case, EXCLUDE, HASH, MASK, KEY);
    case.write_config();
    sidecar.reload();
    sidecar.wait_for_log("without a restart");
    case.sql("UPDATE people SET plain = 'last' WHERE id % 2 = 0");
    case.wait_until_current(&mut sidecar);
    assert_eq!(replacements(&table).len(), 4);
    sidecar.kill();
    let mut sidecar = case.start();
    wait_for("the new copy", || (replacements(&table).len() == 5).then_some(()));
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();

    // What was there before is in old files, until the folder is removed.
    let output = finish(python("planted.py").arg(PLANTED).arg(&case.lake));
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    fs::remove_dir_all(&table).unwrap();
    case.catch_up();
    case.compare(&[]);
    assert_nothing_planted(&case, &[]);
}

fn a_key_is_never_transformed(kind: Kind) {
    let mut case = people(kind, "columns_key", 20);
    case.sql("CREATE TABLE others (id int PRIMARY KEY, v int); INSERT INTO others VALUES (1, 1)");
    let name = case.qualified("people");
    for (setting, parts) in [
        ("exclude = \"i?\"", ["column id is excluded", "part of its key"]),
        (
            "include = [\"email\", \"name\"]",
            ["column id is excluded", "part of its key"],
        ),
        ("hash = [\"id\"]", ["column id is hashed", "part of its key"]),
        ("mask = [\"ID\"]", ["column id is masked", "part of its key"]),
        (
            "hash = [\"score\"]",
            ["column score is to be hashed", "mask or exclude it"],
        ),
    ] {
        case.sections = format!("[[table]]\nmatch = {name:?}\n{setting}\n[transform]\nkey = {KEY:?}");
        for output in [finish(&mut case.command("check")), case.run_once()] {
            assert_error(&output, &parts);
            assert_error(&output, &[&name]);
        }
    }
    case.sections = format!("[[table]]\nmatch = {name:?}\nhash = \"email\"");
    assert_error(&case.run_once(), &["there is no key", "TRIBUTARY_TRANSFORM_KEY"]);
    let output = finish(case.command("check").env("TRIBUTARY_TRANSFORM_KEY", KEY));
    assert!(output.status.success(), "{}", text(&output));
    assert!(
        text(&output).contains(&format!("table {name}: hashed: email")),
        "{}",
        text(&output)
    );
    assert!(!text(&output).contains(KEY));

    // A table whose key comes to be named so stands still; the others go on.
    configure(&mut case, EXCLUDE, HASH, MASK, KEY);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.sql("ALTER TABLE people RENAME COLUMN id TO raw_id");
    case.sql("UPDATE people SET plain = 'x' WHERE raw_id < 5");
    let status = case.wait_for_state(&mut sidecar, "people", "stalled");
    assert!(status.reason.contains("column raw_id is excluded"), "{}", status.reason);
    case.sql("UPDATE others SET v = 2");
    sidecar.assert_running();
    let position = case.database.position();
    wait_for("the other table to go on", || {
        let status = case.table_status("others")?;
        status.watermark.covers(&position).then_some(())
    });
    case.sql("ALTER TABLE people RENAME COLUMN raw_id TO id");
    case.wait_until_equal(&mut sidecar);
    sidecar.stop();
}

fn what_matches_nothing_is_told(kind: Kind) {
    let mut case = people(kind, "columns_unmatched", 20);
    let name = case.qualified("people");
    case.sections = format!(
        "[[table]]\nmatch = {name:?}\nexclude = [\"snn\", \"raw_*\"]\nmask = [\"nam\"]\n[[table]]\nmatch = \"*.poeple\"\nexclude = \"ssn\"\n"
    );
    let output = finish(&mut case.command("check"));
    assert_error(
        &output,
        &[
            &format!("[[table]] {name}: exclude has \"snn\", which matches no column"),
            "did you mean \"ssn\"?",
            "mask has \"nam\", which matches no column",
            "did you mean \"name\"?",
            "[[table]] *.poeple matches no table",
            &format!("table {name}: without raw_a"),
        ],
    );
    assert!(!text(&output).contains("\"raw_*\", which"), "{}", text(&output));
    // A table or column may be yet to come.
    let output = case.run_once();
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("matches no column"), "{}", text(&output));
}
