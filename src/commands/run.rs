//! `tributary run`: the sidecar.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use replication::config::Config;
use replication::metrics::Metrics;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::warn;

use crate::cli::Run;
use crate::progress::Bars;

pub async fn run(args: Run, bars: Bars) -> Result<ExitCode> {
    let path = args.configured.config;
    let config = Config::load(&path)?;
    replicate(path, config, args.once, bars).await
}

/// Replicates until told to stop; SIGHUP reads the configuration again.
pub async fn replicate(path: PathBuf, config: Config, once: bool, bars: Bars) -> Result<ExitCode> {
    let metrics = Arc::new(Metrics::default());
    let (stop, shutdown) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        // Nobody left to tell means that it stops already.
        let _ = stop.send(true);
    });
    let (update, updates) = watch::channel(config);
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            match Config::load(&path) {
                Ok(config) => {
                    if update.borrow().needs_restart(&config) {
                        warn!(
                            "only source.tables, source.on_gap, [snapshot] and [maintenance] but its threads take effect without a restart"
                        );
                    }
                    update.send_modify(|now| now.take_live(config));
                }
                Err(error) => warn!(%error, hint = error.hint(), "the configuration is kept as it was"),
            }
        }
    });
    let showing = bars.follow(metrics.clone());
    let result = replication::pipeline::run(updates, once, metrics, shutdown).await;
    showing.stop().await;
    result?;
    Ok(ExitCode::SUCCESS)
}
