//! `tributary health`: what a running sidecar says of itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use replication::config::Config;
use replication::error::Error;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::cli::Health;

/// Until there is an answer, from the first connection on.
const TIMEOUT: Duration = Duration::from_secs(5);
/// What is read of an answer, in bytes.
const BODY_MAX: usize = 64 << 10;

pub async fn health(args: Health) -> Result<ExitCode> {
    let path = if args.ready { "/ready" } else { "/health" };
    let config = Config::load(&args.configured.config)?;
    let Some(listen) = config.http.listen else {
        return Err(Error::operator("http.listen is \"off\", so no sidecar can be asked")
            .with_hint("set http.listen to an address, such as \"127.0.0.1:9464\", and restart the sidecar")
            .into());
    };
    if listen.port() == 0 {
        return Err(
            Error::operator(format!("http.listen is {listen}, so the sidecar's port is any"))
                .with_hint(
                    "set http.listen to an address with a port, such as \"127.0.0.1:9464\", and restart the sidecar",
                )
                .into(),
        );
    }
    let answer = tokio::time::timeout(TIMEOUT, ask(listen, path)).await;
    let (url, status, body) = answer.unwrap_or_else(|_| {
        Err(Error::transient(format!(
            "no answer from http://{listen}{path} within {} s",
            TIMEOUT.as_secs()
        ))
        .with_hint("the sidecar hangs or the machine is overloaded: look at its log"))
    })?;
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let said = body["status"].as_str();
    if status == StatusCode::OK {
        println!("{url}: {}", said.unwrap_or("ok"));
        return Ok(ExitCode::SUCCESS);
    }
    let said: Vec<&str> = said.into_iter().chain(body["error"].as_str()).collect();
    let hint = match said.is_empty() {
        true => "see whether another program listens at http.listen of the configuration",
        false => "the sidecar's log and `tributary check` say what is to be done",
    };
    let said = said.iter().map(|part| format!(": {part}")).collect::<String>();
    Err(Error::operator(format!("{url} answers {}{said}", status.as_u16()))
        .with_hint(hint)
        .into())
}

/// Where to ask on this machine who listens at an address: one after the other, until one takes the connection.
fn addresses(listen: SocketAddr) -> Vec<SocketAddr> {
    let ips = match listen.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => vec![Ipv4Addr::LOCALHOST.into()],
        // It takes both, and there are machines without an IPv6 loopback.
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()],
        ip => vec![ip],
    };
    ips.into_iter().map(|ip| SocketAddr::new(ip, listen.port())).collect()
}

/// The answer to a GET: the URL that was asked, status and body.
async fn ask(listen: SocketAddr, path: &str) -> Result<(String, StatusCode, Bytes), Error> {
    let mut refused = None;
    for address in addresses(listen) {
        let url = format!("http://{address}{path}");
        match TcpStream::connect(address).await {
            Ok(stream) => {
                let (status, body) = get(stream, address, path).await.map_err(|error| {
                    Error::transient(format!("no answer from {url}"))
                        .with_hint("see whether another program listens at http.listen of the configuration")
                        .with_source(error)
                })?;
                return Ok((url, status, body));
            }
            Err(error) => {
                let error = Error::transient(format!("nobody listens at {url}"))
                    .with_hint("start the sidecar with `tributary run`, or look at its log for why it does not listen")
                    .with_source(error);
                refused.get_or_insert(error);
            }
        }
    }
    Err(refused.expect("there is an address for every one to listen at"))
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn get(stream: TcpStream, address: SocketAddr, path: &str) -> Result<(StatusCode, Bytes), Failure> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Its errors are those of the request.
    tokio::spawn(connection);
    let request = Request::get(path)
        .header(header::HOST, address.to_string())
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), BODY_MAX).collect().await?;
    Ok((status, body.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_everywhere_is_asked_on_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:9464", &["127.0.0.1:9464"][..]),
            ("[::]:1", &["[::1]:1", "127.0.0.1:1"]),
            ("127.0.0.2:80", &["127.0.0.2:80"]),
            ("10.1.2.3:9464", &["10.1.2.3:9464"]),
            ("[::1]:9464", &["[::1]:9464"]),
        ] {
            let found = addresses(listen.parse().expect("an address"));
            let found: Vec<String> = found.iter().map(SocketAddr::to_string).collect();
            assert_eq!(found, asked, "{listen}");
        }
    }
}
