//! What a user of MySQL or MariaDB can get wrong: a clear error that names the fix, and nothing lost.

use std::path::Path;
use std::sync::OnceLock;

use crate::support::lake::commits;
use crate::support::server::{Kind, MARIADB, Server};
use crate::support::{Case, assert_error, finish, on_mysql_and_mariadb, text};

on_mysql_and_mariadb! {
    check_passes_before_and_after_the_first_run
    status_tells_tables_and_source_while_the_program_runs
    a_server_that_is_not_there_is_named
    missing_rights_come_with_the_sql_that_grants_them
    settings_come_with_the_sql_that_mends_them
    settings_that_change_while_the_program_runs_are_told
    a_table_without_a_key_is_refused_with_two_ways_out
    what_is_not_a_stored_table_is_left_out
    tables_are_chosen_by_patterns
    a_hostile_name_stays_inside_the_lake
    the_lake_of_another_pipeline_is_left_alone
    two_programs_of_one_lake_do_not_mix
    two_programs_of_two_lakes_do_not_disturb_each_other
    users_come_by_password_and_by_tls
    users_come_by_certificate_and_by_a_password_of_a_file
}

const TABLE: &str =
    "CREATE TABLE t (id int PRIMARY KEY, v varchar(20)); INSERT INTO t SELECT i, 'v' FROM series(1, 100)";

fn case(kind: Kind, name: &str) -> Case<'static> {
    let case = Case::new(Server::shared(kind), name);
    case.sql(TABLE);
    case
}

fn check_passes_before_and_after_the_first_run(kind: Kind) {
    case(kind, "check").check_passes_before_and_after_the_first_run();
}

fn status_tells_tables_and_source_while_the_program_runs(kind: Kind) {
    let case = case(kind, "status");
    case.status_tells_tables_and_source(|| drop(case.sql("DELETE FROM t WHERE id = 1")));
}

fn a_server_that_is_not_there_is_named(kind: Kind) {
    let mut case = case(kind, "unreachable");
    let good = case.url.clone();
    case.url = format!("{}://tributary:tributary@127.0.0.1:1/", kind.scheme());
    assert_error(&case.run_once(), &["127.0.0.1:1"]);
    assert_error(&finish(&mut case.command("check")), &["127.0.0.1:1"]);
    case.url = good.replace("tributary:tributary", "nobody:secret");
    let output = case.run_once();
    assert_error(&output, &["nobody"]);
    assert!(!text(&output).contains("secret"), "{}", text(&output));
    // A database in the URL is for the connection; the tables' patterns choose.
    case.url = format!("{good}{}", case.database.name);
    case.catch_up();
    case.compare(&[]);
    case.url = format!("{good}nowhere");
    assert_error(&case.run_once(), &["nowhere"]);
    // The other kind's name for it is all the same.
    case.url = match kind {
        Kind::MySql => good.replace("mysql://", "mariadb://"),
        _ => good.replace("mariadb://", "mysql://"),
    };
    case.sql("UPDATE t SET v = 'w'");
    case.catch_up();
    case.compare(&[]);
}

fn missing_rights_come_with_the_sql_that_grants_them(kind: Kind) {
    let server = Server::start(kind, &[]);
    let mut case = Case::new(&server, "rights");
    case.sql(TABLE);
    case.sql("CREATE USER reader IDENTIFIED BY 'reader'");
    case.url = case.database.url("reader:reader", "127.0.0.1");
    let monitor = match kind {
        Kind::MySql => "REPLICATION CLIENT",
        _ => "BINLOG MONITOR",
    };
    let rights = ["REPLICATION SLAVE", monitor, "SELECT"];
    let mut granted = vec![];
    while granted.len() < rights.len() {
        let check = finish(&mut case.command("check"));
        let said = text(&check);
        assert_error(&check, &["GRANT", "reader"]);
        for right in rights.iter().filter(|right| !granted.contains(right)) {
            assert!(said.contains(right) || *right == "SELECT", "no {right} in {said}");
        }
        assert_error(&case.run_once(), &["GRANT", "reader"]);
        // The statements that it prints are good as they are.
        let statements: Vec<_> = said
            .lines()
            .filter_map(|line| {
                line.find("GRANT ")
                    .map(|at| line[at..].trim_matches(['`', ' ', ';']).to_owned())
            })
            .collect();
        assert!(!statements.is_empty(), "{said}");
        println!("{statements:?}");
        for statement in statements {
            server.sql(&statement);
            granted.extend(rights.iter().filter(|right| statement.contains(**right)));
        }
    }
    let check = finish(&mut case.command("check"));
    assert!(check.status.success(), "{}", text(&check));
    case.catch_up();
    case.sql("UPDATE t SET v = 'w'");
    case.catch_up();
    case.compare(&[]);
    case.verify();
}

fn settings_come_with_the_sql_that_mends_them(kind: Kind) {
    let server = Server::configured(kind, "binlog_format = STATEMENT");
    let case = Case::new(&server, "settings");
    case.sql(TABLE);
    let mend = match kind {
        Kind::MySql => "SET PERSIST binlog_format = 'ROW'",
        _ => "SET GLOBAL binlog_format = 'ROW'",
    };
    for verb in ["check", "run"] {
        assert_error(&finish(&mut case.command(verb)), &["binlog_format is STATEMENT", mend]);
    }
    server.sql(mend);
    case.catch_up();
    case.compare(&[]);
    // What could be better, and what is too short for comfort, is said and is no error.
    let expire = match kind {
        Kind::MySql => "SET GLOBAL binlog_expire_logs_seconds = 60",
        _ => "SET GLOBAL expire_logs_days = 0.0007",
    };
    server.sql(expire);
    let output = finish(&mut case.command("check"));
    println!("{}", text(&output));
    let variable = if kind == Kind::MySql {
        "binlog_expire_logs_seconds"
    } else {
        "expire_logs"
    };
    assert!(text(&output).contains(variable), "{}", text(&output));
    server.sql("SET GLOBAL binlog_row_image = 'MINIMAL'");
    println!("{}", text(&finish(&mut case.command("check"))));
}

fn settings_that_change_while_the_program_runs_are_told(kind: Kind) {
    let server = Server::start(kind, &[]);
    let case = Case::new(&server, "setting_changed");
    case.sql(TABLE);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    server.sql("SET GLOBAL binlog_row_metadata = 'FULL'");
    case.sql("UPDATE t SET v = 'w' WHERE id < 10");
    server.sql("SET GLOBAL binlog_row_image = 'NOBLOB'");
    case.sql("UPDATE t SET v = 'x' WHERE id < 5; DELETE FROM t WHERE id = 50");
    server.sql("SET GLOBAL binlog_row_metadata = 'MINIMAL'");
    case.sql("UPDATE t SET v = 'y' WHERE id < 3; ALTER TABLE t ADD w int; UPDATE t SET w = 1 WHERE id < 3");
    case.wait_until_settled(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();
}

fn a_table_without_a_key_is_refused_with_two_ways_out(kind: Kind) {
    let mut case = case(kind, "no_key");
    case.sql("CREATE TABLE keyless (v int, u int, UNIQUE KEY (u)); INSERT INTO keyless VALUES (1, NULL), (2, NULL)");
    let keyless = case.qualified("keyless");
    for verb in ["check", "run"] {
        let output = finish(case.command(verb).args((verb == "run").then_some("--once")));
        assert_error(&output, &[&keyless, "PRIMARY KEY", &format!("!{keyless}")]);
    }
    case.tables = vec![case.qualified("*"), format!("!{keyless}")];
    case.catch_up();
    case.compare(&["t"]);
    // The other way out.
    case.tables = vec![];
    case.sql("ALTER TABLE keyless ADD PRIMARY KEY (v)");
    case.catch_up();
    case.compare(&[]);
}

fn what_is_not_a_stored_table_is_left_out(kind: Kind) {
    let mut case = case(kind, "relations");
    case.sql("CREATE VIEW a_view AS SELECT * FROM t");
    if kind != Kind::MySql {
        case.sql("CREATE SEQUENCE a_sequence; SELECT nextval(a_sequence)");
    }
    case.catch_up();
    let replicated: Vec<_> = case.status().tables.into_iter().map(|t| t.table).collect();
    assert_eq!(replicated, [case.qualified("t")]);
    // Rows of no moment, and rows that a restart of the server loses without a word.
    for engine in ["MyISAM", "MEMORY"] {
        case.sql(&format!("CREATE TABLE odd (id int PRIMARY KEY) ENGINE = {engine}"));
        let odd = case.qualified("odd");
        let parts = [odd.as_str(), engine, "ENGINE = InnoDB", &format!("!{odd}")];
        assert_error(&finish(&mut case.command("check")), &parts);
        case.tables = vec![case.qualified("*"), format!("!{odd}")];
        case.sql("INSERT INTO odd VALUES (2); UPDATE t SET v = concat(left(v, 9), '+')");
        case.catch_up();
        case.compare(&["t"]);
        case.sql("DROP TABLE odd");
        case.tables = vec![];
    }
}

fn tables_are_chosen_by_patterns(kind: Kind) {
    let mut case = case(kind, "patterns");
    let more = case.database.other_schema();
    case.sql(&format!(
        "CREATE TABLE old_t (id int PRIMARY KEY); CREATE TABLE keyless (v int); CREATE DATABASE {more};
         CREATE TABLE {more}.orders (id int PRIMARY KEY); CREATE TABLE {more}.old_orders (id int PRIMARY KEY)"
    ));
    case.tables = vec![format!("{more}.*"), "!*.old_*".to_owned()];
    case.catch_up();
    let tables: Vec<_> = case.status().tables.into_iter().map(|t| t.table).collect();
    assert_eq!(tables, [format!("{more}.orders")]);
    // All user databases by default, and never the server's own.
    let server = Server::start(kind, &[]);
    let mut all = Case::new(&server, "everything");
    all.sql(TABLE);
    all.sql("CREATE DATABASE everything_more; CREATE TABLE everything_more.u (id int PRIMARY KEY)");
    all.tables = vec!["*.*".to_owned()];
    all.catch_up();
    let tables: Vec<_> = all.status().tables.into_iter().map(|t| t.table).collect();
    assert_eq!(tables, ["everything.t", "everything_more.u"]);
}

fn a_hostile_name_stays_inside_the_lake(kind: Kind) {
    let mut case = case(kind, "hostile");
    let (schema, table) = ("`Odd schema/..`", "`Odd schema/..`.`../Ünï \"%41``'`");
    case.tables = vec!["Odd*.*".to_owned(), "hostile.*".to_owned()];
    case.sql(&format!(
        "DROP DATABASE IF EXISTS {schema}; CREATE DATABASE {schema};
         CREATE TABLE {table} (`ID` int PRIMARY KEY, dropped text, `select` text, `a.b` int, `Ü``'\"` text, `double` int GENERATED ALWAYS AS (ID * 2) STORED);
         ALTER TABLE {table} DROP dropped; INSERT INTO {table} (`ID`, `select`, `a.b`, `Ü``'\"`) SELECT i, concat('s', i), i, 'ü' FROM series(1, 10)"
    ));
    case.catch_up();
    case.sql(&format!(
        "UPDATE {table} SET `a.b` = `a.b` + 1, `ID` = -`ID` WHERE `ID` % 2 = 0; INSERT INTO {table} (`ID`, `select`, `a.b`, `Ü``'\"`) VALUES (11, 'new', NULL, '');
         ALTER TABLE {table} ADD `x;y -- z` int; UPDATE {table} SET `x;y -- z` = 5 WHERE `ID` > 0"
    ));
    case.catch_up();
    let odd = crate::support::server::Database {
        server: case.database.server,
        name: "Odd schema/..".to_owned(),
    };
    let mut comparer = crate::support::python("compare.py");
    comparer.args(["--source", &odd.socket_url(), "--lake"]).arg(&case.lake);
    let comparison = finish(comparer.arg("Odd schema/...../Ünï \"%41`'"));
    assert!(comparison.status.success(), "{}", text(&comparison));
    case.compare(&["t"]);
    case.verify();
    let entries = |folder: &Path| {
        let names = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = names.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(entries(&case.lake), ["Odd~20schema~2F~2E~2E", "_tributary", "hostile"]);
    // `odd` is dropped here, and the database with it.
}

fn the_lake_of_another_pipeline_is_left_alone(kind: Kind) {
    let one = case(kind, "pipeline_one");
    one.catch_up();
    let commits_before = commits(&one.table("t")).len();
    let mut two = case(kind, "pipeline_two");
    two.lake = one.lake.clone();
    // One lake is one pipeline: other tables join it or are refused, and the first one's stay as they are.
    let output = two.run_once();
    println!("{}", text(&output));
    if !output.status.success() {
        assert_error(&output, &[]);
    }
    let rows = one.query("t", "select count(*) from t", None);
    assert_eq!(rows, "[100]");
    assert!(commits(&one.table("t")).len() <= commits_before + 1);
    one.catch_up();
    one.compare(&["t"]);
}

fn two_programs_of_one_lake_do_not_mix(kind: Kind) {
    let case = case(kind, "fenced");
    let mut first = case.start();
    case.wait_until_current(&mut first);
    let mut second = case.start();
    // One of them ends, by its own decision; the other one goes on.
    case.sql("UPDATE t SET v = 'w'; INSERT INTO t VALUES (1000, 'x')");
    let ended = crate::support::wait_for("one of them to end", || {
        case.sql("UPDATE t SET v = concat(left(v, 5), '+') WHERE id < 5");
        (first.has_ended() || second.has_ended()).then_some(first.has_ended())
    });
    let (mut running, ended) = if ended { (second, first) } else { (first, second) };
    drop(ended);
    case.wait_until_current(&mut running);
    running.stop();
    case.compare(&[]);
}

fn two_programs_of_two_lakes_do_not_disturb_each_other(kind: Kind) {
    let server = Server::start(kind, &[]);
    let one = Case::new(&server, "lake_one");
    one.sql(TABLE);
    let mut two = Case::new(&server, "lake_two");
    two.tables = vec![one.qualified("*")];
    let (mut first, mut second) = (one.start(), two.start());
    for round in 0..20 {
        one.sql(&format!("UPDATE t SET v = '{round}' WHERE id % 3 = 0"));
        one.wait_until_current(&mut first);
        two.wait_until_current(&mut second);
    }
    for sidecar in [&first, &second] {
        let log = sidecar.whole_log();
        assert!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
    }
    first.stop();
    second.stop();
    one.compare(&[]);
}

/// Speaks TLS, with a certificate by an authority that nobody knows, and wants it of some users.
fn tls_server(kind: Kind) -> &'static Server {
    static SERVERS: [OnceLock<Server>; 2] = [OnceLock::new(), OnceLock::new()];
    let server = &SERVERS[usize::from(kind == Kind::MySql)];
    server.get_or_init(|| Server::start(kind, &[("MYSQL_TLS", "on")]))
}

fn users_come_by_password_and_by_tls(kind: Kind) {
    let server = tls_server(kind);
    let mut case = Case::new(server, "users");
    case.sql(TABLE);
    let rights = "GRANT REPLICATION SLAVE, REPLICATION CLIENT, SELECT ON *.* TO";
    server.sql(&format!(
        "CREATE USER odd IDENTIFIED BY 'p@ss/wörd: 100%'; {rights} odd; CREATE USER secure IDENTIFIED BY 'secure' REQUIRE SSL; {rights} secure; CREATE USER nothing; {rights} nothing"
    ));
    let replicates = |case: &Case| {
        case.sql("UPDATE t SET v = concat(left(v, 9), '+') WHERE id < 9");
        case.catch_up();
        case.compare(&[]);
    };
    case.url = case.database.url("odd:p%40ss%2Fw%C3%B6rd%3A%20100%25", "localhost");
    replicates(&case);
    for verb in ["check", "status"] {
        let said = text(&finish(&mut case.command(verb)));
        assert!(!said.contains("p@ss") && !said.contains("p%40ss"), "{said}");
    }
    // Without TLS, MySQL's password goes encrypted by the server's public key; the second time the server remembers it.
    let url = case.url.clone();
    if kind == Kind::MySql {
        server.sql("FLUSH PRIVILEGES");
    }
    for _ in 0..2 {
        case.url = format!("{url}?sslmode=disable");
        replicates(&case);
    }
    case.url = case.database.url("nothing", "127.0.0.1");
    replicates(&case);
    case.url = case.database.url("odd:wrong", "127.0.0.1");
    for verb in ["run", "check"] {
        let output = finish(&mut case.command(verb));
        assert_error(&output, &["odd", "password"]);
        assert!(!text(&output).contains("wrong"), "{}", text(&output));
    }

    let secure = case.database.url("secure:secure", "localhost");
    let authority = server.folder.join("ca.crt");
    let authority = authority.to_str().unwrap();
    for mode in ["prefer", "require"] {
        case.url = format!("{secure}?sslmode={mode}");
        replicates(&case);
    }
    for (mode, host) in [
        ("verify-ca", "localhost"),
        ("verify-full", "localhost"),
        ("verify-full", "127.0.0.1"),
    ] {
        case.url = format!("{secure}?sslmode={mode}&sslrootcert={authority}").replace("localhost", host);
        replicates(&case);
    }
    case.url = format!("{secure}?sslmode=verify-full");
    assert_error(&case.run_once(), &["certificate", "sslrootcert"]);
    case.url = format!("{secure}?sslmode=disable");
    assert_error(&case.run_once(), &["sslmode"]);
    case.url = format!("{secure}?sslmode=verify-full&sslrootcert=/absent.crt");
    assert_error(&case.run_once(), &["/absent.crt"]);
}

fn users_come_by_certificate_and_by_a_password_of_a_file(kind: Kind) {
    let server = tls_server(kind);
    let mut case = Case::new(server, "certified");
    case.sql(TABLE);
    server.sql(
        "CREATE USER certified IDENTIFIED BY 'planted' REQUIRE X509; \
         GRANT REPLICATION SLAVE, REPLICATION CLIENT, SELECT ON *.* TO certified",
    );
    let secret = case.folder.join("password");
    std::fs::write(&secret, "planted\n").unwrap();
    let url = case.database.url("certified", "localhost");
    let run = |case: &Case| {
        let mut command = case.command("run");
        // A file goes before the variable.
        command.arg("--once").env("TRIBUTARY_SOURCE_PASSWORD_FILE", &secret);
        let output = finish(command.env("MYSQL_PWD", "planted too"));
        assert!(!text(&output).contains("planted"), "{}", text(&output));
        output
    };
    let file = |name: &str| server.folder.join(name).to_str().unwrap().to_owned();
    for (certificate, key) in [("client.crt", "client.key"), ("client-ec.crt", "client-ec.key")] {
        let (certificate, key) = (file(certificate), file(key));
        for parameters in [
            format!("ssl-mode=REQUIRED&ssl-cert={certificate}&ssl-key={key}"),
            format!(
                "sslmode=verify-full&sslrootcert={}&sslcert={certificate}&sslkey={key}",
                file("ca.crt")
            ),
        ] {
            case.sql("UPDATE t SET v = concat(left(v, 9), '+') WHERE id < 9");
            case.url = format!("{url}?{parameters}");
            let output = run(&case);
            assert!(output.status.success(), "{}", text(&output));
            case.compare(&[]);
        }
    }
    for (tail, parts) in [
        (String::new(), &["certified", "ssl-cert"][..]),
        (
            format!("?ssl-cert={}&ssl-key={}", file("stranger.crt"), file("stranger.key")),
            &["refuses the client's certificate", "ssl_ca"],
        ),
        (
            format!("?ssl-cert={}&ssl-key={}", file("client.crt"), file("stranger.key")),
            &["is not the key of"],
        ),
    ] {
        case.url = format!("{url}{tail}");
        assert_error(&run(&case), parts);
    }
    case.url = case.database.url("certified:wrong", "localhost");
    case.url += &format!("?ssl-cert={}&ssl-key={}", file("client.crt"), file("client.key"));
    assert_error(&run(&case), &["certified", "password"]);
}

#[test]
fn passwords_of_older_kinds_are_taken() {
    for (server, users) in [
        (
            tls_server(MARIADB),
            "CREATE USER native IDENTIFIED VIA mysql_native_password USING PASSWORD('native')",
        ),
        (
            tls_server(Kind::MySql),
            "CREATE USER native IDENTIFIED WITH sha256_password BY 'native'",
        ),
    ] {
        let mut case = Case::new(server, "older");
        case.sql(TABLE);
        server.sql(&format!(
            "{users}; GRANT REPLICATION SLAVE, REPLICATION CLIENT, SELECT ON *.* TO native"
        ));
        case.url = case.database.url("native:native", "127.0.0.1");
        let output = case.run_once();
        // A method that is not known is named.
        match output.status.success() {
            true => case.compare(&[]),
            false => assert_error(&output, &["sha256_password"]),
        }
        assert!(
            output.status.success() || server.kind == Kind::MySql,
            "{}",
            text(&output)
        );
    }
}

#[test]
fn a_type_that_is_not_supported_is_named() {
    let mut case = Case::new(Server::shared(MARIADB), "unsupported");
    case.sql(TABLE);
    case.sql("CREATE TABLE odd (id int PRIMARY KEY, way text COMPRESSED)");
    let odd = case.qualified("odd");
    for verb in ["check", "run"] {
        assert_error(&finish(&mut case.command(verb)), &[&odd, "way", "compressed"]);
    }
    case.tables = vec![case.qualified("*"), format!("!{odd}")];
    case.catch_up();
    case.compare(&["t"]);
}

#[test]
fn names_may_be_the_same_but_for_case() {
    let case = Case::new(Server::shared(MARIADB), "letter_case");
    case.sql("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE T (id int PRIMARY KEY); INSERT INTO t VALUES (1); INSERT INTO T VALUES (2)");
    case.catch_up();
    case.sql("INSERT INTO t VALUES (3); INSERT INTO T VALUES (4); ALTER TABLE T ADD v int; UPDATE T SET v = 1");
    case.catch_up();
    case.compare(&[]);
}

#[test]
fn names_in_lower_case_are_found() {
    let server = Server::configured(MARIADB, "lower_case_table_names = 1");
    let case = Case::new(&server, "lower_case");
    case.sql("CREATE TABLE Orders (ID int PRIMARY KEY, V text); INSERT INTO ORDERS VALUES (1, 'a')");
    case.catch_up();
    case.sql("INSERT INTO oRDERS VALUES (2, 'b'); ALTER TABLE ORDERS ADD W int; UPDATE Orders SET W = 5");
    case.catch_up();
    case.compare(&[]);
}
