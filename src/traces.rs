//! Traces of what takes time, sent to an OpenTelemetry collector if the environment names one.
//!
//! Spec: <https://opentelemetry.io/docs/specs/otel/protocol/exporter/>.

use std::env;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter as Exporter};
use tracing::{Level, Metadata, info, warn};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::{Layer, Registry};

/// Any of these names a collector.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
/// Either of these names the protocol; the first counts.
const PROTOCOLS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
const PROTOCOL: &str = "http/protobuf";
/// How long the end waits for the last of them.
const SHUTDOWN: Duration = Duration::from_secs(2);

/// Sends traces until it is dropped.
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// `None` if the environment names no collector, or says that there are to be no traces.
    pub fn start() -> Result<Option<Self>> {
        let is = |name: &str, value: &str| env::var(name).is_ok_and(|is| is.eq_ignore_ascii_case(value));
        let off = is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none");
        if off || first(&ENDPOINTS).is_none() {
            return Ok(None);
        }
        if let Some(other) = first(&PROTOCOLS).filter(|protocol| protocol != PROTOCOL) {
            bail!(
                "they are sent as {PROTOCOL} and not as {other}: set {} to {PROTOCOL}, with the address for it",
                PROTOCOLS[0]
            );
        }
        let exporter = SpanExporter::builder().with_http().build();
        let exporter = exporter.context("they can't be sent as the environment says")?;
        let mut resource = Resource::builder();
        if first(&["OTEL_SERVICE_NAME"]).is_none() {
            resource = resource.with_service_name(env!("CARGO_PKG_NAME"));
        }
        let provider = SdkTracerProvider::builder()
            .with_resource(resource.build())
            .with_batch_exporter(Telling {
                exporter,
                fails: AtomicBool::new(false),
            })
            .build();
        Ok(Some(Self(provider)))
    }

    /// What takes the program's spans.
    pub fn layer(&self) -> impl Layer<Registry> + Send + Sync + use<> {
        let own = |metadata: &Metadata<'_>| {
            let module = metadata.target().split("::").next();
            matches!(module, Some("replication" | "tributary")) && *metadata.level() <= Level::INFO
        };
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer(env!("CARGO_PKG_NAME")))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(own))
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        // What could not be sent was told.
        let _ = self.0.shutdown_with_timeout(SHUTDOWN);
    }
}

fn first(names: &[&str]) -> Option<String> {
    names
        .iter()
        .find_map(|name| env::var(name).ok().filter(|value| !value.is_empty()))
}

/// Tells when traces can't be sent, and when they can again.
#[derive(Debug)]
struct Telling {
    exporter: SpanExporter,
    fails: AtomicBool,
}

impl Exporter for Telling {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let sent = self.exporter.export(batch).await;
        match (&sent, self.fails.swap(sent.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => {
                let hint =
                    "they are dropped meanwhile, and nothing else waits for them: see OTEL_EXPORTER_OTLP_ENDPOINT";
                warn!(%error, hint, "cannot send traces");
            }
            (Ok(()), true) => info!("traces are sent again"),
            _ => {}
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
