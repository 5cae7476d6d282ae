//! What `init` says is enough: its statements make the user, its file runs.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::server::{Kind, MONGO, Server};
use crate::support::{Case, assert_error, finish, on_every_source, succeed, text};

on_every_source! {
    a_user_and_a_file_are_all_that_it_takes
}

fn tributary(verb: &str, config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tributary"));
    command.arg(verb).arg("--config").arg(config).env_remove("RUST_LOG");
    command
}

fn init(case: &Case, url: &str, config: &Path) -> Command {
    let mut command = tributary("init", config);
    command.arg(url).arg("--lake").arg(&case.lake);
    command
}

fn a_user_and_a_file_are_all_that_it_takes(kind: Kind) {
    let server = Server::start(kind, &[]);
    let case = Case::new(&server, "init");
    case.sql(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b');
         CREATE TABLE keyless (v int)",
    );
    if kind.has_slot() {
        // Partitions in another schema, and a child without the key of its parent, to which the application writes.
        case.sql(
            "CREATE SCHEMA \"other one\"; CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
             CREATE TABLE \"other one\".low PARTITION OF parts FOR VALUES FROM (0) TO (10); INSERT INTO parts VALUES (1);
             CREATE TABLE child () INHERITS (t); INSERT INTO child VALUES (1, 'a')",
        );
    }
    let config = case.folder.join("written.toml");
    let url = match kind {
        Kind::Postgres(_) => case.database.url("postgres:planted-password", "127.0.0.1"),
        _ => case.url.clone(),
    };
    let said = succeed(&mut init(&case, &url, &config));
    let written = fs::read_to_string(&config).unwrap();
    assert!(
        written.contains(&format!("    \"{}\",\n", case.qualified("t"))),
        "{written}"
    );
    let (t, keyless) = (case.qualified("t"), case.qualified("keyless"));
    assert!(said.contains(&format!("✓ {t}: 2 columns, key id")), "{said}");
    assert!(said.contains(&format!("✗ {keyless}: ")), "{said}");
    assert!(written.contains(&format!("\"!{keyless}\"")), "{written}");
    assert!(
        !written.contains(":planted") && !written.contains(":tributary@"),
        "{written}"
    );
    assert_error(
        &finish(&mut init(&case, &url, &config)),
        &["is there already", "--force"],
    );

    let (_, statements) = said.split_once("than it needs:\n\n").unwrap();
    let (statements, _) = statements.split_once("\n\nwrote ").unwrap();
    let statements = statements.replace('…', "planted").replace("'tributary'", "'fresh'");
    case.sql(&statements);
    // As that user, whose password is in the environment.
    let user = if kind.has_slot() { "tributary" } else { "fresh" };
    let command = |verb: &str| {
        let mut command = tributary(verb, &config);
        command.env("TRIBUTARY_SOURCE_URL", case.database.url(user, "127.0.0.1"));
        command.env("PGPASSWORD", "planted").env("MYSQL_PWD", "planted");
        command.env("TRIBUTARY_CACHE_DIR", case.cache());
        command
    };
    let checked = finish(&mut command("check"));
    assert!(checked.status.success(), "{}", text(&checked));
    succeed(command("run").arg("--once"));
    case.sql("UPDATE t SET v = 'c' WHERE id = 2");
    if kind.has_slot() {
        case.sql("UPDATE child SET v = 'b'");
    }
    succeed(command("run").arg("--once"));
    let copied: &[&str] = if kind.has_slot() { &["t", "parts"] } else { &["t"] };
    case.compare(copied);
}

#[test]
fn collections_are_known_by_their_names_alone() {
    let case = Case::new(Server::shared(MONGO), "init_mongo");
    case.mongo("db.t.insert_one({'_id': 1, 'v': 'a'})");
    let config = case.folder.join("written.toml");
    let said = succeed(&mut init(&case, &case.url, &config));
    assert!(said.contains("✓ init_mongo.t: key _id"), "{said}");
    assert!(said.contains("createUser"), "{said}");
}

#[test]
fn a_server_that_is_not_there_is_told_and_nothing_is_written() {
    let case = Case::new(Server::shared(MONGO), "init_nowhere");
    let config = case.folder.join("written.toml");
    let output = finish(&mut init(&case, "postgres://nobody:planted@127.0.0.1:1/none", &config));
    assert_error(&output, &["cannot connect", "source.url"]);
    assert!(!text(&output).contains("planted"), "{}", text(&output));
    assert!(!config.exists());
}
