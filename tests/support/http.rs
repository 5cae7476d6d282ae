//! What a running sidecar answers over HTTP.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use super::sidecar::Sidecar;
use super::wait_for;

pub const TOKEN: &str = "planted-token-of-the-test";
/// The lines of `[http]` with it.
pub const WITH_TOKEN: &str = "listen = \"127.0.0.1:0\"\ntoken = \"planted-token-of-the-test\"";

pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

/// Where a sidecar listens, as it says itself.
pub fn address(sidecar: &Sidecar) -> String {
    wait_for("the address", || {
        let log = sidecar.whole_log();
        let (_, rest) = log.split_once("page and metrics at http://")?;
        Some(rest.split_once('/')?.0.to_owned())
    })
}

pub fn ask(address: &str, request: &str, headers: &str, body: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let length = body.len();
    let text = format!(
        "{request} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    );
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer {
        status,
        head: head.to_lowercase(),
        body: body.to_owned(),
    }
}

pub fn get(address: &str, path: &str) -> Answer {
    ask(address, &format!("GET {path}"), "", "")
}

pub fn post(address: &str, path: &str, token: &str, body: &str) -> Answer {
    ask(
        address,
        &format!("POST {path}"),
        &format!("Authorization: Bearer {token}\r\n"),
        body,
    )
}

/// The value of a series, given as it is written.
pub fn metric(address: &str, series: &str) -> Option<f64> {
    let metrics = get(address, "/metrics");
    assert_eq!(metrics.status, 200);
    let line = metrics
        .body
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}
