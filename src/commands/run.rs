//! `tributary run`: the sidecar.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use replication::config::Config;
use replication::metrics::Metrics;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::cli::Run;
use crate::progress::Bars;

pub async fn run(args: Run, bars: Bars) -> Result<ExitCode> {
    let config = Config::load(&args.configured.config)?;
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
    let showing = bars.follow(metrics.clone());
    let result = replication::pipeline::run(&config, args.once, metrics, shutdown).await;
    showing.stop().await;
    result?;
    Ok(ExitCode::SUCCESS)
}
