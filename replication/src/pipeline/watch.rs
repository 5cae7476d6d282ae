//! Looks at the source's catalogue and publication, at requests and at the
//! configuration, beside the stream.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};

use super::pause::Paused;
use crate::config::Config;
use crate::error::Result;
use crate::lake::{Lake, Request};
use crate::metrics::{Metrics, SourceNumbers};
use crate::position::Position;
use crate::source::{Discovery, Source};
use crate::trace::{span, within};

/// How often the catalogue is looked at.
const CATALOGUE_INTERVAL: Duration = Duration::from_secs(10);
/// How often requests are looked for.
const REQUEST_INTERVAL: Duration = Duration::from_secs(1);
/// The same in a bucket, where each look costs a little.
const REMOTE_REQUEST_INTERVAL: Duration = Duration::from_secs(5);

/// The source as it was at a position.
pub struct Seen<T> {
    /// When it was begun to be read.
    pub since: Instant,
    /// A position that the catalogue's answer is not older than.
    pub from: Position,
    pub discovery: Discovery<T>,
    /// A position past all that the catalogue's answer shows.
    pub position: Position,
    pub requests: Vec<Request>,
}

impl<T> Seen<T> {
    pub async fn read<S: Source<Table = T>>(source: &mut S, requests: Vec<Request>) -> Result<Self> {
        let since = Instant::now();
        let from = source.visible().await?;
        let discovery = source.discover().await?;
        Ok(Self {
            since,
            from,
            discovery,
            position: source.log_end().await?,
            requests,
        })
    }
}

pub struct Watch<S: Source> {
    pub source: S,
    pub lake: Lake,
    pub config: watch::Receiver<Config>,
    /// Asks for a look at once.
    pub now: Arc<Notify>,
    pub seen: mpsc::Sender<Seen<S::Table>>,
    /// Requests that were told already.
    pub told: HashSet<String>,
    /// Our name in the lake.
    pub pipeline: String,
    /// While it is, only the end of the log and the slot are looked at.
    pub paused: Paused,
    pub metrics: Arc<Metrics>,
}

impl<S: Source> Watch<S> {
    /// Runs until the stream's loop is gone.
    pub async fn run(mut self) -> Result<()> {
        let mut next = tokio::time::Instant::now() + CATALOGUE_INTERVAL;
        let interval = match self.lake.is_local() {
            true => REQUEST_INTERVAL,
            false => REMOTE_REQUEST_INTERVAL,
        };
        let mut missed = false;
        loop {
            let mut look = false;
            tokio::select! {
                () = tokio::time::sleep_until(next) => look = true,
                () = tokio::time::sleep(interval) => {}
                () = self.now.notified() => look = true,
                changed = self.config.changed() => look = changed.is_ok(),
                Ok(()) = self.paused.changed() => {}
            }
            if self.paused.borrow_and_update().is_some() {
                missed = true;
                if look {
                    let log_end = self.source.log_end().await?;
                    self.tell_slot(&log_end).await;
                    next = tokio::time::Instant::now() + CATALOGUE_INTERVAL;
                }
                continue;
            }
            look |= std::mem::take(&mut missed);
            let mut requests = self.lake.requests().await?;
            requests.retain(|request| self.told.insert(request.id.clone()));
            if !look && requests.is_empty() {
                continue;
            }
            let patterns = self.config.borrow_and_update().source.tables.clone();
            self.source.select(patterns);
            let seen = within(span!("look"), Seen::read(&mut self.source, requests)).await?;
            self.tell_slot(&seen.position).await;
            if self.seen.send(seen).await.is_err() {
                return Ok(());
            }
            next = tokio::time::Instant::now() + CATALOGUE_INTERVAL;
        }
    }

    /// For metrics alone, so nothing ends if it fails: what is wrong with the slot,
    /// the stream finds out.
    async fn tell_slot(&mut self, log_end: &Position) {
        match super::slot(&mut self.source, &self.lake, &self.pipeline).await {
            Ok(Some(slot)) => {
                let retained_bytes = match S::KEEPS_POSITION {
                    true => Some(slot.retained_bytes),
                    false => self
                        .source
                        .log_bytes(&slot.confirmed, log_end)
                        .await
                        .unwrap_or_default(),
                };
                let numbers = SourceNumbers {
                    retained_bytes,
                    log_end: log_end.to_string(),
                };
                self.metrics.update(|m| m.source = Some(numbers));
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "cannot look at the slot"),
        }
    }
}
