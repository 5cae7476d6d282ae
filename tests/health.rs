//! `tributary health`: what it asks, and what it makes of the answer.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread;

use crate::support::sidecar::Sidecar;
use crate::support::{Folder, assert_error, finish, repository, text, wait_for};

/// Nobody listens there, so neither source nor lake can be reached.
const NOWHERE: &str = "[source]\nurl = \"postgres://nobody@127.0.0.1:1/nothing\"\n[lake]\nurl = \"s3://nothing/there\"\n\
                       [lake.options]\naws_endpoint = \"http://127.0.0.1:1\"\naws_allow_http = true\n";

/// A configuration whose sidecar listens at this address.
fn config(folder: &Folder, listen: &str) -> PathBuf {
    let path = folder.path().join("tributary.toml");
    let cache = folder.path().join("cache");
    fs::write(
        &path,
        format!("{NOWHERE}[cache]\ndir = {cache:?}\n[http]\nlisten = {listen:?}\n"),
    )
    .unwrap();
    path
}

fn tributary(verb: &str, config: &PathBuf) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tributary"));
    command.arg(verb).arg("--config").arg(config).env_remove("RUST_LOG");
    command
}

fn health(config: &PathBuf) -> Output {
    finish(&mut tributary("health", config))
}

/// Takes connections one after the other. Returns its port.
fn server(mut answer: impl FnMut(TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || listener.incoming().for_each(|stream| answer(stream.unwrap())));
    port
}

/// Reads the head of a request; answers with these bytes.
fn answering(bytes: &'static str) -> u16 {
    server(move |mut stream| {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read > 0) {
            head.push(byte[0]);
        }
        // Who has seen enough may be gone.
        let _ = stream.write_all(bytes.as_bytes());
    })
}

#[test]
fn a_sidecar_without_source_and_lake_is_healthy_and_not_ready_wherever_it_listens() {
    for host in ["127.0.0.1", "0.0.0.0", "[::]"] {
        let folder = Folder::new("health");
        // Free again once it is known.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = config(&folder, &format!("{host}:{port}"));
        assert_error(&health(&config), &["nobody listens at http://", "tributary run"]);

        let mut sidecar = Sidecar::start(tributary("run", &config), &folder.path().join("log"));
        let output = wait_for("an answer", || {
            sidecar.assert_running();
            Some(health(&config)).filter(|output| output.status.success())
        });
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let asked = if host == "[::]" {
            ["http://[::1]", "http://127.0.0.1"]
        } else {
            ["http://127.0.0.1"; 2]
        };
        let expected = asked.map(|asked| format!("{asked}:{port}/health: ok\n"));
        assert!(expected.contains(&said), "{}", text(&output));
        assert!(output.stderr.is_empty(), "{}", text(&output));

        // Once it has tried, with what is wrong.
        wait_for("the reason", || {
            let output = finish(tributary("health", &config).arg("--ready"));
            assert_error(&output, &["/ready answers 503: not streaming"]);
            text(&output).contains("127.0.0.1:1").then_some(())
        });
        sidecar.stop();
        assert_error(&health(&config), &["nobody listens at http://"]);
    }
}

#[test]
fn an_answer_is_ready_with_200_alone() {
    let folder = Folder::new("ready");
    for (answer, error) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n{\"status\": \"ready\"}",
            None,
        ),
        ("HTTP/1.0 200 OK\r\n\r\nanything", None),
        ("HTTP/1.1 204 No Content\r\n\r\n", Some("/ready answers 204")),
        (
            "HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
            Some("/ready answers 302"),
        ),
        (
            "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
            Some("another program"),
        ),
        (
            "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 41\r\n\r\n{\"status\": \"not streaming\", \"error\": \"e\"}",
            Some("answers 503: not streaming: e\n"),
        ),
        ("SSH-2.0-OpenSSH_9.2\r\n", Some("no answer from http://127.0.0.1")),
        ("", Some("no answer from http://127.0.0.1")),
    ] {
        let config = config(&folder, &format!("127.0.0.1:{}", answering(answer)));
        let output = finish(tributary("health", &config).arg("--ready"));
        match error {
            None => assert_eq!(output.status.code(), Some(0), "{}", text(&output)),
            Some(error) => assert_error(&output, &[error]),
        }
    }
}

#[test]
fn an_answer_that_does_not_come_is_not_waited_for() {
    let folder = Folder::new("hanging");
    let mut held = Vec::new();
    let silent = server(move |stream| held.push(stream));
    assert_error(
        &health(&config(&folder, &format!("127.0.0.1:{silent}"))),
        &["no answer from", "within 5 s"],
    );
    let endless = server(|mut stream| {
        while stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
            .is_ok()
        {}
    });
    assert_error(
        &health(&config(&folder, &format!("127.0.0.1:{endless}"))),
        &["no answer from"],
    );
}

#[test]
fn a_sidecar_that_nobody_can_ask_is_said_so() {
    let folder = Folder::new("unasked");
    assert_error(
        &health(&config(&folder, "off")),
        &["http.listen is \"off\"", "set http.listen"],
    );
    assert_error(
        &health(&config(&folder, "127.0.0.1:0")),
        &["127.0.0.1:0", "with a port"],
    );
    assert_error(
        &health(&folder.path().join("none.toml")),
        &["cannot read the configuration"],
    );
}

#[test]
fn the_image_asks_with_the_configuration_that_it_runs_with() {
    let dockerfile = fs::read_to_string(repository().join("docker/Dockerfile")).unwrap();
    let command = |instruction: &str| -> Vec<String> {
        let line = dockerfile.lines().find(|line| line.starts_with(instruction)).unwrap();
        let (_, list) = line.split_once('[').unwrap();
        serde_json::from_str(&format!("[{list}")).unwrap()
    };
    assert_eq!(command("ENTRYPOINT"), ["tributary"]);
    // Neither names a file, so both take that of the variable.
    assert_eq!(command("CMD"), ["run"]);
    assert!(dockerfile.contains("\nENV TRIBUTARY_CONFIG=/"));
    let check = command("HEALTHCHECK");
    assert_eq!(check, ["tributary", "health"]);
    let folder = Folder::new("image");
    let port = answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let mut asking = Command::new(env!("CARGO_BIN_EXE_tributary"));
    asking
        .args(&check[1..])
        .env("TRIBUTARY_CONFIG", config(&folder, &format!("0.0.0.0:{port}")));
    let output = finish(&mut asking);
    assert!(output.status.success(), "{}", text(&output));
}
