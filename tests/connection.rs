//! How the program reaches a server: passwords (SCRAM), TLS.

use std::sync::OnceLock;

use crate::support::server::Server;
use crate::support::{Case, assert_error, finish, text};

/// Speaks TLS only and asks for a password.
fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::start(15, &[("PG_TLS", "on"), ("PG_AUTH", "scram")]))
}

/// With a role of the case's name and a password that needs encoding in a URL.
fn case(name: &str) -> Case<'static> {
    let mut case = Case::new(server(), name);
    case.sql(&format!(
        "CREATE ROLE {name} SUPERUSER LOGIN PASSWORD 'p@ss/wörd: 100%'"
    ));
    case.sql("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a')");
    case.url = case
        .database
        .url(&format!("{name}:p%40ss%2Fw%C3%B6rd%3A%20100%25"), "localhost");
    case
}

fn replicates(case: &Case) {
    case.sql("UPDATE t SET v = v || 'b'");
    case.catch_up();
    case.compare(&[]);
}

#[test]
fn passwords_are_taken_and_never_shown() {
    let case = case("password");
    replicates(&case);
    for verb in ["check", "status"] {
        let said = text(&finish(&mut case.command(verb)));
        assert!(!said.contains("p@ss") && !said.contains("p%40ss"), "{said}");
    }
}

#[test]
fn a_wrong_password_is_an_error_that_names_the_user() {
    let mut case = case("wrong_password");
    let good = case.url.clone();
    case.url = case.database.url("wrong_password:secret", "127.0.0.1");
    for verb in ["run", "check"] {
        let output = finish(&mut case.command(verb));
        assert_error(&output, &["password", "wrong_password"]);
        assert!(!text(&output).contains("secret"), "{}", text(&output));
    }
    case.url = case.database.url("wrong_password", "127.0.0.1");
    assert_error(&case.run_once(), &["password"]);
    case.url = good;
    replicates(&case);
}

#[test]
fn tls_modes_are_those_of_libpq() {
    let mut case = case("tls");
    let url = case.url.clone();
    let authority = server().folder.join("ca.crt");
    let authority = authority.to_str().unwrap();
    // The server's certificate is by an authority that nobody knows.
    for mode in ["prefer", "require"] {
        case.url = format!("{url}?sslmode={mode}");
        replicates(&case);
    }
    for (mode, host) in [
        ("verify-ca", "localhost"),
        ("verify-full", "localhost"),
        ("verify-full", "127.0.0.1"),
    ] {
        case.url = format!("{url}?sslmode={mode}&sslrootcert={authority}").replace("localhost", host);
        replicates(&case);
    }
    case.url = format!("{url}?sslmode=verify-full");
    assert_error(&case.run_once(), &["certificate", "sslrootcert"]);
    case.url = format!("{url}?sslmode=disable");
    assert_error(&case.run_once(), &["sslmode"]);
    case.url = format!("{url}?sslmode=verify-full&sslrootcert=/absent.crt");
    assert_error(&case.run_once(), &["/absent.crt"]);
}
