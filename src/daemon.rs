//! Where a running sidecar answers: health, metrics, one page, and a few
//! actions for who has the token.

mod page;
mod prometheus;

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use replication::config::{Config, HttpConfig};
use replication::metrics::{BudgetNumbers, Metrics, Numbers};
use replication::pipeline::{Pause, shown_time};
use replication::schema::TableId;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tracing::{info, warn};

/// Connections served at a time; further ones are closed.
const CONNECTIONS_MAX: usize = 128;
/// How long a client may take to ask, and until it has its answer.
const HEADER_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// What a request's body and its head may take, in bytes.
const BODY_MAX: usize = 16 << 10;
const HEAD_MAX: usize = 16 << 10;
/// What can be looked at, and what can be done.
const VIEWS: [&str; 5] = ["/", "/health", "/ready", "/metrics", "/status"];
const ACTIONS: [&str; 4] = ["/reload", "/snapshot", "/pause", "/resume"];
/// What the page's curves show: one point each, that many.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(5);
const SAMPLES: usize = 120;

/// What requests are answered from.
struct Daemon {
    metrics: Arc<Metrics>,
    config: watch::Sender<Config>,
    pause: Arc<Pause>,
    path: PathBuf,
    token: Option<String>,
    started: Instant,
    /// Seconds of lag by table, the oldest first.
    samples: Mutex<BTreeMap<TableId, VecDeque<f32>>>,
}

/// Answers from now on, if the configuration has an address that is free.
pub async fn start(
    http: &HttpConfig,
    metrics: Arc<Metrics>,
    config: watch::Sender<Config>,
    pause: Arc<Pause>,
    path: PathBuf,
) {
    let Some(address) = http.listen else { return };
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => {
            // Replication is worth more than its page.
            warn!(%address, %error, hint = "set http.listen to a free address, or to \"off\"",
                "cannot listen: there is no page and there are no metrics");
            return;
        }
    };
    let daemon = Arc::new(Daemon {
        metrics,
        config,
        pause,
        path,
        token: http.token.as_ref().map(|token| token.expose().to_owned()),
        started: Instant::now(),
        samples: Mutex::default(),
    });
    let shown = listener.local_addr().unwrap_or(address);
    info!("page and metrics at http://{shown}/");
    tokio::spawn(sample(daemon.clone()));
    tokio::spawn(accept(listener, daemon));
}

async fn accept(listener: TcpListener, daemon: Arc<Daemon>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot take a connection");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        // Whoever comes when all is taken must not keep the next from asking.
        let Ok(permit) = room.clone().try_acquire_owned() else {
            continue;
        };
        let daemon = daemon.clone();
        tokio::spawn(async move {
            let served = tokio::time::timeout(CONNECTION_TIMEOUT, serve(stream, peer, daemon)).await;
            if let Ok(Err(error)) = served {
                tracing::debug!(%peer, %error, "a connection ended");
            }
            drop(permit);
        });
    }
}

async fn serve(stream: TcpStream, peer: SocketAddr, daemon: Arc<Daemon>) -> Result<(), hyper::Error> {
    let service = service_fn(move |request| {
        let daemon = daemon.clone();
        async move { Ok::<_, Infallible>(daemon.answer(request, peer).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

/// Keeps what the curves show.
async fn sample(daemon: Arc<Daemon>) {
    let mut tick = tokio::time::interval(SAMPLE_INTERVAL);
    loop {
        tick.tick().await;
        let tables = daemon.metrics.read().tables;
        let mut samples = daemon.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.retain(|id, _| tables.contains_key(id));
        for (id, table) in &tables {
            let points = samples.entry(id.clone()).or_default();
            points.push_back(table.lag().as_secs_f32());
            if points.len() > SAMPLES {
                points.pop_front();
            }
        }
    }
}

impl Daemon {
    async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let mut response = match (&method, path.as_str()) {
            (&Method::GET | &Method::HEAD, "/health") => json_response(StatusCode::OK, &json!({"status": "ok"})),
            (&Method::GET | &Method::HEAD, "/ready") => self.ready(),
            (&Method::GET | &Method::HEAD, "/metrics") => text(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8",
                prometheus::render(&self.metrics.read(), self.started),
            ),
            (&Method::GET | &Method::HEAD, "/status") => json_response(StatusCode::OK, &status(&self.metrics.read())),
            (&Method::GET | &Method::HEAD, "/") => {
                let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let html = page::render(&self.metrics.read(), &samples, self.started);
                text(StatusCode::OK, "text/html; charset=utf-8", html)
            }
            (&Method::POST, action) if ACTIONS.contains(&action) => self.act(request, &path, peer).await,
            (_, known) if ACTIONS.contains(&known) || VIEWS.contains(&known) => {
                let allowed = if ACTIONS.contains(&known) { "POST" } else { "GET, HEAD" };
                let mut response = failure(
                    StatusCode::METHOD_NOT_ALLOWED,
                    &format!("{path} takes {allowed}"),
                    Some("use one of these methods"),
                );
                response
                    .headers_mut()
                    .insert(header::ALLOW, HeaderValue::from_static(allowed));
                response
            }
            _ => failure(
                StatusCode::NOT_FOUND,
                "there is nothing here",
                Some("GET / /health /ready /metrics /status, POST /reload /snapshot /pause /resume"),
            ),
        };
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
        );
        response
    }

    /// Whether the stream runs. A table that stalls alone does not take the
    /// sidecar out: the others go on. Nor does a pause, which somebody wanted.
    fn ready(&self) -> Response<Full<Bytes>> {
        let numbers = self.metrics.read();
        if numbers.streaming {
            let status = if numbers.paused.is_some() { "paused" } else { "ready" };
            return json_response(StatusCode::OK, &json!({"status": status}));
        }
        let error = numbers.last_error.as_ref().map(|trouble| &trouble.error);
        json_response(
            StatusCode::SERVICE_UNAVAILABLE,
            &json!({"status": "not streaming", "error": error}),
        )
    }

    async fn act(&self, request: Request<Incoming>, path: &str, peer: SocketAddr) -> Response<Full<Bytes>> {
        let Some(token) = &self.token else {
            return failure(
                StatusCode::FORBIDDEN,
                "actions are off",
                Some("set http.token_file or TRIBUTARY_HTTP_TOKEN, and restart"),
            );
        };
        let given = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        let bearer = given.and_then(|given| given.strip_prefix(b"Bearer "));
        if !bearer.is_some_and(|bearer| same(bearer, token.as_bytes())) {
            warn!(%peer, path, "an action without the right token was refused");
            let mut response = failure(
                StatusCode::UNAUTHORIZED,
                "the bearer token is missing or wrong",
                Some("send Authorization: Bearer with http.token"),
            );
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return response;
        }
        let body = match Limited::new(request.into_body(), BODY_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => {
                return failure(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "the body is too large or broke off",
                    Some("name tables by globs: a body may have 16 KiB"),
                );
            }
        };
        info!(%peer, path, "an action was asked for");
        let done = match path {
            "/reload" => reload(&self.path, &self.config).map(|()| json!({"status": "read again"})),
            "/pause" => Ok(json!({"status": "paused", "since": shown_time(self.pause.begin())})),
            "/resume" => Ok(json!({"status": "resumed", "paused_since": self.pause.end().map(shown_time)})),
            _ => self.snapshot(&body).await,
        };
        match done {
            Ok(answer) => json_response(StatusCode::ACCEPTED, &answer),
            Err(error) => failure(StatusCode::BAD_REQUEST, &error.to_string(), error.hint()),
        }
    }

    /// Asks for new snapshots, as `tributary snapshot` does.
    async fn snapshot(&self, body: &[u8]) -> replication::error::Result<Value> {
        use replication::error::Error;

        let wrong = || {
            Error::operator("the body has no tables")
                .with_hint("send {\"tables\": [\"schema.table\"]}; globs are taken, too")
        };
        let parsed: Value = serde_json::from_slice(body).map_err(|_| wrong())?;
        let tables = parsed["tables"]
            .as_array()
            .filter(|tables| !tables.is_empty())
            .ok_or_else(wrong)?;
        let patterns = tables.iter().map(|table| table.as_str().map(str::to_owned));
        let patterns = patterns.collect::<Option<Vec<_>>>().ok_or_else(wrong)?;
        if patterns.iter().all(|pattern| pattern.starts_with('!')) {
            return Err(wrong());
        }
        let config = self.config.borrow().clone();
        let asked = replication::pipeline::snapshot(&config, &patterns).await?;
        let names: Vec<String> = asked.tables().map(ToString::to_string).collect();
        Ok(json!({"tables": names}))
    }
}

/// Reads the configuration again; what can't take effect at once is told.
pub fn reload(path: &std::path::Path, config: &watch::Sender<Config>) -> replication::error::Result<()> {
    let new = Config::load(path)?;
    if config.borrow().needs_restart(&new) {
        warn!(
            "only source.tables, source.on_gap, source.wal_budget, source.on_wal_budget, [snapshot] and [maintenance] but its threads take effect without a restart"
        );
    }
    config.send_modify(|now| now.take_live(new));
    Ok(())
}

/// Compares in a time that does not tell where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

/// All numbers, for programs.
fn status(numbers: &Numbers) -> Value {
    let trouble = |trouble: &replication::metrics::Trouble| json!({"error": trouble.error, "hint": trouble.hint, "age_seconds": trouble.since.elapsed().as_secs()});
    let tables = numbers.tables.iter().map(|(id, table)| {
        let snapshot = numbers
            .snapshots
            .get(id)
            .map(|s| json!({"rows": s.rows, "rows_per_second": s.rate(), "share_done": s.share()}));
        json!({
            "table": id.to_string(),
            "state": table.state,
            "version": table.version,
            "watermark": table.watermark,
            "lag_bytes": table.lag_bytes,
            "lag_seconds": table.lag().as_secs_f64(),
            "rows": table.size.rows,
            "files": table.size.files,
            "deletion_vectors": table.size.vectors,
            "index_bytes": table.size.index_bytes,
            "upserts": table.upserts,
            "deletes": table.deletes,
            "snapshot_rows": table.snapshot_rows,
            "commits": table.commits.count(),
            "snapshot": snapshot,
            "trouble": table.trouble.as_ref().map(trouble),
        })
    });
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "streaming": numbers.streaming,
        "paused": numbers.paused.map(|since| json!({"since": shown_time(since), "at_rest": numbers.at_rest})),
        "lag_bytes": numbers.lag_bytes,
        "source": numbers.source.as_ref().map(|s| json!({"retained_bytes": s.retained_bytes, "log_end": s.log_end})),
        "wal_budget": numbers.budget.as_ref().map(budget),
        "memory": {"open_bytes": numbers.memory.open, "in_flight_bytes": numbers.memory.in_flight},
        "spilled_bytes": numbers.spilled_bytes,
        "errors": {
            "transient": numbers.errors.transient,
            "operator": numbers.errors.operator,
            "bug": numbers.errors.bug,
        },
        "last_error": numbers.last_error.as_ref().map(trouble),
        "tables": tables.collect::<Vec<_>>(),
    })
}

fn budget(numbers: &BudgetNumbers) -> Value {
    let over = numbers.over.as_ref().map(|over| {
        let held_by = over.held_by.iter().map(|h| json!({"what": h.what, "hint": h.hint}));
        json!({"seconds": over.since.elapsed().as_secs(), "held_by": held_by.collect::<Vec<_>>()})
    });
    json!({"budget_bytes": numbers.budget, "retained_bytes": numbers.retained, "over": over})
}

fn text(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn json_response(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    text(status, "application/json", format!("{body}\n"))
}

fn failure(status: StatusCode, error: &str, hint: Option<&str>) -> Response<Full<Bytes>> {
    json_response(status, &json!({"error": error, "hint": hint}))
}
