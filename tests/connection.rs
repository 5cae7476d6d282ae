//! How the program reaches a server: passwords (SCRAM), TLS, certificates, and what libpq's environment says.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::OnceLock;

use crate::support::server::Server;
use crate::support::{Case, assert_error, finish, python, serving, succeed, text};

/// What some users need; all others, a password over TLS.
const HBA: &str = "\
hostssl all client 127.0.0.1/32 cert
hostssl all another 127.0.0.1/32 cert
hostssl all client_too 127.0.0.1/32 scram-sha-256 clientcert=verify-ca
hostssl all not_client 127.0.0.1/32 scram-sha-256 clientcert=verify-full
hostnossl all plain 127.0.0.1/32 scram-sha-256
host all old 127.0.0.1/32 md5
host all clear 127.0.0.1/32 password
host all trusted 127.0.0.1/32 trust";

/// Speaks TLS and asks for a password.
fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::start(15, &[("PG_TLS", "on"), ("PG_AUTH", "scram"), ("PG_HBA", HBA)]))
}

/// A file of the server's folder: certificates and keys.
fn file(name: &str) -> String {
    server().folder.join(name).to_str().unwrap().to_owned()
}

/// With roles of these names, whose password is their name.
fn case_with_roles(name: &str, roles: &[&str]) -> Case<'static> {
    let case = Case::new(server(), name);
    for role in roles {
        case.sql(&format!("CREATE ROLE {role} SUPERUSER LOGIN PASSWORD '{role}'"));
    }
    case.sql("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a')");
    case
}

/// With a role of the case's name and a password that needs encoding in a URL.
fn case(name: &str) -> Case<'static> {
    let mut case = case_with_roles(name, &[]);
    case.sql(&format!(
        "CREATE ROLE {name} SUPERUSER LOGIN PASSWORD 'p@ss/wörd: 100%'"
    ));
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

#[test]
fn certificates_let_a_user_in() {
    let mut case = case_with_roles("certificates", &["client", "another", "client_too", "not_client"]);
    let copy = |name: &str, mode: u32, command: &[&str]| {
        let path = case.folder.join(name);
        succeed(Command::new("openssl").args(command).arg("-out").arg(&path));
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let key = &file("client.key");
    let pkcs1 = copy("pkcs1.key", 0o600, &["rsa", "-traditional", "-in", key]);
    let der = copy(
        "key.pk8",
        0o600,
        &["pkcs8", "-topk8", "-nocrypt", "-outform", "DER", "-in", key],
    );
    // As a secret that is mounted for a group: the tests run as root.
    let of_group = copy("group.key", 0o640, &["pkey", "-in", key]);
    let of_all = copy("open.key", 0o644, &["pkey", "-in", key]);
    let pkcs8_locked = copy(
        "locked.key",
        0o600,
        &["pkcs8", "-topk8", "-passout", "pass:planted", "-in", key],
    );
    let pkcs1_locked = copy(
        "old.key",
        0o600,
        &["rsa", "-traditional", "-aes128", "-passout", "pass:planted", "-in", key],
    );
    let (rsa, elliptic, stranger) = (file("client.crt"), file("client-ec.crt"), file("stranger.crt"));

    let (base, authority) = (case.database.url("client", "localhost"), file("ca.crt"));
    for (certificate, key) in [
        (&rsa, key),
        (&rsa, &pkcs1),
        (&rsa, &der),
        (&rsa, &of_group),
        (&elliptic, &file("client-ec.key")),
    ] {
        case.url = format!("{base}?sslmode=verify-full&sslrootcert={authority}&sslcert={certificate}&sslkey={key}");
        replicates(&case);
    }
    for (tail, parts) in [
        (String::new(), &["valid client certificate", "sslcert="][..]),
        (format!("&sslcert={rsa}"), &["without a key", "sslkey="]),
        (format!("&sslkey={key}"), &["without a certificate", "sslcert="]),
        (
            format!("&sslcert={rsa}&sslkey={of_all}"),
            &["others may read", "chmod 0600"],
        ),
        (
            format!("&sslcert={rsa}&sslkey={pkcs8_locked}"),
            &["is encrypted", "openssl pkey"],
        ),
        (
            format!("&sslcert={rsa}&sslkey={pkcs1_locked}"),
            &["is encrypted", "openssl pkey"],
        ),
        (format!("&sslcert={rsa}&sslkey={rsa}"), &["others may read"]),
        (
            format!("&sslcert={rsa}&sslkey=/absent.key"),
            &["cannot read sslkey /absent.key"],
        ),
        (format!("&sslcert={key}&sslkey={key}"), &["no readable certificate"]),
        (
            format!("&sslcert={elliptic}&sslkey={}", file("stranger.key")),
            &["is not the key of"],
        ),
        (
            format!("&sslcert={stranger}&sslkey={}", file("stranger.key")),
            &["refuses the client's certificate", "ssl_ca_file"],
        ),
    ] {
        case.url = format!("{base}?sslmode=require{tail}");
        assert_error(&case.run_once(), parts);
    }

    let shown = format!("sslcert={rsa}&sslkey={key}");
    case.url = format!("{base}?{shown}&channel_binding=require");
    assert_error(&case.run_once(), &["without channel binding"]);
    case.url = format!("{}?{shown}", case.database.url("another", "localhost"));
    assert_error(&case.run_once(), &["certificate authentication failed", "CN"]);
    // A certificate and a password.
    let both = case.database.url("client_too:client_too", "localhost");
    case.url = format!("{both}?{shown}");
    replicates(&case);
    case.url = both;
    assert_error(&case.run_once(), &["valid client certificate"]);
    let of_another = case.database.url("not_client:not_client", "localhost");
    case.url = format!("{of_another}?{shown}");
    assert_error(&case.run_once(), &["the password is right", "CN"]);
    // From the environment.
    case.url = base;
    let mut command = case.command("check");
    command.env("PGSSLCERT", &rsa).env("PGSSLKEY", key);
    command.env("PGSSLMODE", "verify-full").env("PGSSLROOTCERT", &authority);
    let checked = finish(&mut command);
    assert!(checked.status.success(), "{}", text(&checked));
    assert_error(&finish(command.env("PGSSLROOTCERT", &stranger)), &["sslrootcert"]);
}

#[test]
fn a_login_can_be_bound_to_its_channel() {
    let mut case = case_with_roles("binding", &["bound", "plain", "clear", "trusted"]);
    case.sql("SET password_encryption = 'md5'; CREATE ROLE old SUPERUSER LOGIN PASSWORD 'old'");
    let url = |user: &str, tail: &str| case.database.url(&format!("{user}:{user}"), "localhost") + tail;
    let bound = url("bound", "?sslmode=require");
    let refused = [
        url("plain", "?sslmode=disable&channel_binding=require"),
        url("clear", "?channel_binding=require"),
        url("clear", "?sslmode=disable&channel_binding=require"),
        url("old", "?channel_binding=require"),
        url("trusted", "?channel_binding=require"),
    ];
    let taken = [
        url("bound", "?channel_binding=disable"),
        url("bound", "?channel_binding=prefer"),
        url("bound", "?channel_binding=require"),
        url("plain", "?sslmode=disable"),
        url("clear", ""),
        url("old", ""),
        url("trusted", ""),
    ];
    for url in taken {
        case.url = url;
        replicates(&case);
    }
    for url in refused {
        case.url = url;
        let output = case.run_once();
        assert_error(&output, &["channel_binding=require"]);
    }

    // Somebody between, with a certificate that nobody asks for, who may also hide what the server offers.
    for (mode, said) in [("", "check failed"), ("strip", "negotiation error")] {
        let mut proxy = python("tls_proxy.py");
        proxy.args([&server().port.to_string(), &file("stranger.crt"), &file("stranger.key")]);
        let (mut proxy, port) = serving(proxy.args((!mode.is_empty()).then_some(mode)));
        let through = bound.replace(&server().port.to_string(), &port);
        case.url = format!("{through}&channel_binding=disable");
        replicates(&case);
        for tail in ["", "&channel_binding=prefer"] {
            case.url = format!("{through}{tail}");
            assert_error(&case.run_once(), &["SCRAM channel binding", said, "between"]);
        }
        case.url = format!("{through}&channel_binding=require");
        assert_error(&case.run_once(), &["channel binding"]);
        drop(proxy.stdin.take());
        proxy.wait().unwrap();
    }
}

#[test]
fn what_the_url_leaves_out_is_where_libpq_has_it() {
    const PASSWORD: &str = "plan:ted\\";
    let mut case = case_with_roles("elsewhere", &[]);
    case.sql(&format!("CREATE ROLE elsewhere SUPERUSER LOGIN PASSWORD '{PASSWORD}'"));
    case.url = "postgres://".to_owned();
    let port = server().port.to_string();
    let passwords = case.folder.join(".pgpass");
    let secret = case.folder.join("password");
    let home = case.folder.to_str().unwrap().to_owned();
    let write = |mode: u32, lines: &str| {
        fs::write(&passwords, lines).unwrap();
        fs::set_permissions(&passwords, Permissions::from_mode(mode)).unwrap();
    };
    let said = |more: &[(&str, &str)]| {
        let mut command = case.command("run");
        command.arg("--once").env_remove("PGPASSWORD").env("HOME", &home);
        command.env("PGHOST", "localhost").env("PGPORT", &port);
        command.env("PGUSER", "elsewhere").env("PGDATABASE", "elsewhere");
        let output = finish(command.envs(more.iter().copied()));
        assert!(!text(&output).contains("plan"), "{}", text(&output));
        output
    };
    let goes = |more: &[(&str, &str)]| {
        case.sql("UPDATE t SET v = v || 'b'");
        let output = said(more);
        assert!(output.status.success(), "{}", text(&output));
        case.compare(&[]);
    };
    let right = format!("# {port}\nlocalhost:1:*:elsewhere:no\nlocalhost:{port}:elsewhere:*:plan\\:ted\\\\\n");

    assert_error(&said(&[]), &["for a password", ".pgpass", "source.password_file"]);
    write(0o600, &right);
    goes(&[]);
    // Nearer places go first.
    goes(&[("PGPASSFILE", "/absent"), ("PGPASSWORD", PASSWORD)]);
    assert_error(&said(&[("PGPASSWORD", "plan B")]), &["which is from PGPASSWORD"]);
    fs::write(&secret, format!("{PASSWORD}\n")).unwrap();
    let secret = secret.to_str().unwrap();
    goes(&[("TRIBUTARY_SOURCE_PASSWORD_FILE", secret), ("PGPASSWORD", "plan B")]);
    assert_error(
        &said(&[("TRIBUTARY_SOURCE_PASSWORD_FILE", "/absent")]),
        &["source.password_file /absent"],
    );

    write(0o600, "*:*:*:elsewhere:plan C\n");
    assert_error(&said(&[]), &["which is from", ".pgpass"]);
    write(0o640, &right);
    assert_error(
        &said(&[]),
        &["is ignored: others may read", "chmod 0600", "for a password"],
    );
}

#[test]
fn channels_are_bound_whatever_the_certificates_signature() {
    let settings = [
        ("PG_TLS", "on"),
        ("PG_AUTH", "scram"),
        ("PG_CONF", "ssl_max_protocol_version = 'TLSv1.2'"),
    ];
    let server = Server::start(15, &settings);
    let mut case = Case::new(&server, "signatures");
    case.sql("CREATE ROLE signatures SUPERUSER LOGIN PASSWORD 'planted'; CREATE TABLE t (id int PRIMARY KEY)");
    let url = case.database.url("signatures:planted", "localhost");
    let check = |case: &Case| finish(&mut case.command("check"));
    let path = |name: &str| server.folder.join(name).to_str().unwrap().to_owned();
    // Before TLS 1.3 a certificate is refused within the handshake.
    case.url = format!("{url}?sslcert={}&sslkey={}", path("stranger.crt"), path("stranger.key"));
    assert_error(&check(&case), &["refuses the client's certificate"]);
    case.url = format!("{url}?sslcert={}&sslkey={}", path("client.crt"), path("client.key"));
    let output = check(&case);
    assert!(output.status.success(), "{}", text(&output));

    case.url = format!("{url}?channel_binding=require");
    for (key, signature) in [
        ("rsa:2048", "-sha224"),
        ("rsa:2048", "-sha384"),
        ("rsa:2048", "-sha512"),
        ("rsa:2048", "-sha256 -sigopt rsa_padding_mode:pss"),
        ("rsa:2048", "-sha512 -sigopt rsa_padding_mode:pss"),
        ("ec -pkeyopt ec_paramgen_curve:prime256v1", "-sha256"),
        ("ec -pkeyopt ec_paramgen_curve:secp384r1", "-sha384"),
        ("ec -pkeyopt ec_paramgen_curve:prime256v1", "-sha512"),
        ("ed25519", ""),
    ] {
        // The files are the server's own, and stay so.
        let request = format!("req -x509 -nodes -days 30 -subj /CN=localhost -newkey {key} {signature}");
        let mut openssl = Command::new("openssl");
        openssl.args(request.split_whitespace());
        succeed(openssl.args(["-keyout", &path("server.key"), "-out", &path("server.crt")]));
        server.stop("fast");
        server.start_again();
        let output = check(&case);
        match key {
            "ed25519" => assert_error(&output, &["without a hash", "channel_binding=disable"]),
            _ => assert!(output.status.success(), "{key} {signature}: {}", text(&output)),
        }
    }
    case.url = format!("{url}?channel_binding=disable");
    let output = check(&case);
    assert!(output.status.success(), "{}", text(&output));
}
