//! The program's own words.

use std::process::Command;

use serde_json::Value;

use crate::support::server::Server;
use crate::support::{Case, finish, text};

fn tributary(arguments: &[&str]) -> std::process::Output {
    finish(Command::new(env!("CARGO_BIN_EXE_tributary")).args(arguments))
}

#[test]
fn help_names_the_verbs() {
    let output = tributary(&["--help"]);
    assert!(output.status.success());
    for verb in ["run", "check", "status"] {
        assert!(text(&output).contains(verb), "{}", text(&output));
        assert!(tributary(&[verb, "--help"]).status.success());
    }
}

#[test]
fn version_is_that_of_the_package() {
    let output = tributary(&["--version"]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        concat!("tributary ", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn an_unknown_verb_is_an_error() {
    assert_eq!(tributary(&["rum"]).status.code(), Some(2));
}

#[test]
fn check_passes_before_and_after_the_first_run() {
    let case = Case::new(Server::shared(15), "check");
    case.sql("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a')");
    for _ in 0..2 {
        let output = finish(&mut case.command("check"));
        assert!(output.status.success(), "{}", text(&output));
        assert!(
            text(&output).contains('✓') && !text(&output).contains('✗'),
            "{}",
            text(&output)
        );
        case.catch_up();
    }
}

#[test]
fn status_tells_tables_and_source_while_the_program_runs() {
    let case = Case::new(Server::shared(15), "status");
    case.sql("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'v' FROM generate_series(1, 10) i");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.sql("DELETE FROM t WHERE id = 1");
    case.wait_until_current(&mut sidecar);

    let output = finish(case.command("status").arg("--json"));
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    let table = &status["tables"][0];
    assert_eq!(table["table"], "public.t", "{status}");
    assert_eq!(table["state"], "streaming", "{status}");
    assert_eq!(table["rows"], 9, "{status}");
    for number in ["version", "files", "lag_bytes"] {
        assert!(table[number].is_u64(), "{number} in {status}");
    }
    assert!(status["source"].is_object(), "{status}");

    let plain = finish(&mut case.command("status"));
    assert!(plain.status.success());
    assert!(
        text(&plain).contains("public.t") && text(&plain).contains("streaming"),
        "{}",
        text(&plain)
    );
    sidecar.stop();
}

#[test]
fn tables_are_chosen_by_patterns() {
    let mut case = Case::new(Server::shared(15), "patterns");
    case.sql(
        "CREATE SCHEMA shop; CREATE TABLE shop.orders (id int PRIMARY KEY); CREATE TABLE shop.old_orders (id int PRIMARY KEY);
         CREATE TABLE public.t (id int PRIMARY KEY); CREATE TABLE public.keyless (v int)",
    );
    case.tables = vec!["shop.*".to_owned(), "!*.old_*".to_owned()];
    case.catch_up();
    let tables: Vec<_> = case.status().tables.into_iter().map(|t| t.table).collect();
    assert_eq!(tables, ["shop.orders"]);
}
