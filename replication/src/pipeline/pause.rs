//! Whether replication is paused: nothing is read from the source, but the
//! connection is kept. A state of this process alone: a restart ends it.

use std::sync::Arc;

use tokio::sync::watch;
use tracing::info;

use crate::lake::now_ms;
use crate::metrics::Metrics;

/// Since when replication is paused, in microseconds since 1970, if it is.
pub type Paused = watch::Receiver<Option<i64>>;

/// Pauses replication, and lets it go on.
pub struct Pause {
    since: watch::Sender<Option<i64>>,
    metrics: Arc<Metrics>,
}

impl Pause {
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            since: watch::Sender::new(None),
            metrics,
        }
    }

    pub fn watch(&self) -> Paused {
        self.since.subscribe()
    }

    /// Pauses, if that is not so already. Returns since when.
    pub fn begin(&self) -> i64 {
        let mut began = None;
        self.since.send_if_modified(|since| {
            let news = since.is_none();
            began = Some(*since.get_or_insert_with(|| now_ms() * 1000));
            news
        });
        let since = began.unwrap_or_default();
        self.metrics.update(|m| m.paused = Some(since));
        info!("paused: what is complete is committed, and no more is read; POST /resume or a restart ends it");
        since
    }

    /// Lets replication go on. Returns since when it was paused, if it was.
    pub fn end(&self) -> Option<i64> {
        let since = self.since.send_replace(None);
        self.metrics.update(|m| {
            m.paused = None;
            m.at_rest = false;
        });
        if since.is_some() {
            info!("resumed");
        }
        since
    }
}
