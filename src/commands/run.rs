//! `tributary run`: the sidecar.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use replication::config::Config;
use replication::metrics::Metrics;
use replication::pipeline::Pause;
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
    let http = config.http.clone();
    let pause = Arc::new(Pause::new(metrics.clone()));
    let (update, updates) = watch::channel(config);
    if !once {
        crate::daemon::start(&http, metrics.clone(), update.clone(), pause.clone(), path.clone()).await;
    }
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            if let Err(error) = crate::daemon::reload(&path, &update) {
                warn!(%error, hint = error.hint(), "the configuration is kept as it was");
            }
        }
    });
    let showing = bars.follow(metrics.clone());
    let result = replication::pipeline::run(updates, once, metrics, pause.watch(), shutdown).await;
    showing.stop().await;
    result?;
    Ok(ExitCode::SUCCESS)
}
