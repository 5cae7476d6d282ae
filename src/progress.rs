//! Logs, and on a terminal the lines that move below them.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{HumanCount, MultiProgress, ProgressBar, ProgressStyle};
use replication::metrics::{Metrics, Numbers};
use replication::schema::TableId;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, Layer};

use crate::report::bytes;
use crate::traces::Traces;

/// How often the lines move.
const REFRESH: Duration = Duration::from_millis(200);

/// Starts logging to stderr, and traces. Returns what draws progress there too.
pub fn start_logging(verbose: u8, traces: Option<&Traces>) -> Bars {
    let multi = std::io::stderr().is_terminal().then(MultiProgress::new);
    // The Delta kernel tells much at info that is of no use to an operator.
    let default = match verbose {
        0 => "warn,tributary=info,replication=info,delta_kernel=error",
        1 => "info,tributary=debug,replication=debug,delta_kernel=warn",
        _ => "debug,tributary=trace,replication=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let lines = tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_ansi(multi.is_some())
        .with_writer(Lines(multi.clone()))
        // Spans are for traces alone.
        .with_filter(filter.and(filter_fn(|metadata| metadata.is_event())));
    let spans = traces.map(Traces::layer);
    tracing_subscriber::registry().with(spans).with(lines).init();
    Bars(multi)
}

/// Writes log lines above the progress lines.
#[derive(Clone)]
struct Lines(Option<MultiProgress>);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Lines;

    fn make_writer(&'a self) -> Self::Writer {
        self.clone()
    }
}

impl Write for Lines {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        match &self.0 {
            Some(multi) => multi.suspend(|| std::io::stderr().write_all(text))?,
            None => std::io::stderr().write_all(text)?,
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// Progress lines, or nothing where stderr is no terminal.
pub struct Bars(Option<MultiProgress>);

/// Lines that follow a running pipeline.
pub struct Following {
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

impl Bars {
    pub fn follow(self, metrics: Arc<Metrics>) -> Following {
        let (stop, mut stopped) = watch::channel(false);
        let task = self.0.map(|multi| {
            tokio::spawn(async move {
                let mut lines = ProgressLines {
                    multi,
                    tables: HashMap::new(),
                    stream: None,
                };
                let mut tick = tokio::time::interval(REFRESH);
                loop {
                    tokio::select! {
                        _ = tick.tick() => lines.draw(&metrics.read()),
                        _ = stopped.changed() => break,
                    }
                }
                lines.clear();
            })
        });
        Following { stop, task }
    }
}

impl Following {
    pub async fn stop(self) {
        drop(self.stop);
        if let Some(task) = self.task {
            // It only draws; how it ended is of no interest.
            let _ = task.await;
        }
    }
}

struct ProgressLines {
    multi: MultiProgress,
    tables: HashMap<TableId, ProgressBar>,
    stream: Option<ProgressBar>,
}

impl ProgressLines {
    fn draw(&mut self, numbers: &Numbers) {
        self.tables.retain(|id, bar| {
            let running = numbers.snapshots.contains_key(id);
            if !running {
                bar.finish_and_clear();
            }
            running
        });
        for (id, snapshot) in &numbers.snapshots {
            let bar = self.tables.entry(id.clone()).or_insert_with(|| {
                let bar = self.multi.add(ProgressBar::new(snapshot.blocks));
                bar.set_style(style("{prefix:<28} [{bar:24}] {percent:>3} %  {msg}"));
                bar.set_prefix(id.to_string());
                bar
            });
            let rate = snapshot.rate();
            let left = snapshot.blocks.saturating_sub(snapshot.blocks_done) as f64;
            // By blocks: how many rows are still to come is not known.
            let rows_left = snapshot.rows as f64 * left / snapshot.blocks_done.max(1) as f64;
            let eta = Duration::from_secs_f64((rows_left / rate.max(1.0)).min(1e9)).as_secs();
            bar.set_length(snapshot.blocks.max(1));
            bar.set_position(snapshot.blocks_done);
            bar.set_message(format!(
                "{} rows  {} rows/s  {eta} s left",
                HumanCount(snapshot.rows),
                HumanCount(rate as u64)
            ));
        }
        if numbers.streaming {
            let bar = self.stream.get_or_insert_with(|| {
                let bar = self.multi.add(ProgressBar::new_spinner());
                bar.set_style(style("{spinner} {msg}"));
                bar
            });
            bar.set_message(format!(
                "streaming  {} changes committed  {} not yet durable",
                HumanCount(numbers.changes),
                numbers.lag_bytes.map_or_else(|| "an unknown part".to_owned(), bytes)
            ));
            bar.tick();
        } else if let Some(bar) = self.stream.take() {
            bar.finish_and_clear();
        }
    }

    fn clear(&mut self) {
        for bar in self.tables.values().chain(&self.stream) {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants of this file.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
