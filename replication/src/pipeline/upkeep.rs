//! Keeps tables fast to read beside their commits: compaction, and the removal
//! of what no kept version needs. One job for a table at a time, and no more
//! jobs than `maintenance.threads` for all.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::control::Control;
use crate::config::{Config, MaintenanceConfig};
use crate::error::{Class, Error, Result};
use crate::lake::{Cleaned, Cleaning, Compacted, Compaction, DeltaTable, Lake, Opened, State};
use crate::trace::{span, within};

/// How often a table's folder is cleaned, and how often within a retention that is short.
const CLEANINGS: u32 = 4;
const CLEANING_INTERVAL: Duration = Duration::from_secs(3600);
/// How long after the start for the first time.
const CLEANING_DELAY: Duration = Duration::from_secs(60);
/// How long what failed waits for another try.
const PAUSE: Duration = Duration::from_secs(60);
/// How often `maintain` tries to commit beside a busy sidecar.
const TRIES: usize = 20;

/// What a job has done.
pub enum Done {
    Compacted(Compacted),
    Cleaned(Cleaned),
}

/// The jobs of one table.
pub struct Upkeep {
    config: watch::Receiver<Config>,
    threads: Arc<Semaphore>,
    running: Option<JoinHandle<Result<Option<Done>>>>,
    cancelled: Arc<AtomicBool>,
    next_compaction: Instant,
    next_cleaning: Instant,
}

impl Upkeep {
    pub fn new(config: watch::Receiver<Config>, threads: Arc<Semaphore>) -> Self {
        Self {
            config,
            threads,
            running: None,
            cancelled: Arc::default(),
            next_compaction: Instant::now(),
            next_cleaning: Instant::now() + CLEANING_DELAY,
        }
    }

    /// Starts a job, if one is due.
    pub fn look(&mut self, table: &DeltaTable) {
        let config = self.config.borrow().maintenance.clone();
        if self.running.is_some() || !config.enabled {
            return;
        }
        let now = Instant::now();
        // Compactions may always be due.
        if now >= self.next_cleaning {
            self.next_cleaning = now + CLEANING_INTERVAL.min(config.retention / CLEANINGS);
            if let Some(cleaning) = table.cleaning() {
                let span = span!("clean up", table = table.record().table);
                let job = clean(cleaning, self.threads.clone(), config);
                self.running = Some(tokio::spawn(within(span, job)));
                return;
            }
        }
        if now >= self.next_compaction
            && let Some(compaction) = table.compaction()
        {
            let span = span!("compact", table = table.record().table);
            let job = compact(compaction, self.threads.clone(), self.cancelled.clone());
            self.running = Some(tokio::spawn(within(span, job)));
        }
    }

    /// When to look although nothing has happened.
    pub fn wake(&self) -> Instant {
        let now = Instant::now();
        if self.running.is_some() || !self.config.borrow().maintenance.enabled {
            return now + CLEANING_INTERVAL;
        }
        let next = self.next_cleaning.max(now + CLEANING_DELAY);
        // What failed is tried again then.
        match self.next_compaction > now {
            true => next.min(self.next_compaction),
            false => next,
        }
    }

    /// Waits for the running job; for ever if there is none. A job that failed
    /// is told and tried again later.
    pub async fn done(&mut self, table: &str) -> Option<Done> {
        let Some(running) = &mut self.running else {
            return std::future::pending().await;
        };
        let result = running.await;
        self.running = None;
        match result {
            Ok(Ok(done)) => {
                // Compactions have their turn after one that took long.
                if matches!(done, Some(Done::Cleaned(_))) {
                    self.next_cleaning = self.next_cleaning.max(Instant::now() + CLEANING_DELAY);
                }
                done
            }
            Ok(Err(error)) => {
                self.next_compaction = Instant::now() + PAUSE;
                warn!(table, %error, cause = error.cause(), hint = error.hint(), "maintenance failed; the table goes on without");
                None
            }
            Err(error) => {
                self.next_compaction = Instant::now() + PAUSE;
                warn!(table, %error, "a maintenance job ended early");
                None
            }
        }
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

/// Reads and writes on a thread of its own: it is work for a processor, and the
/// stream's threads are not to wait for it.
async fn compact(compaction: Compaction, threads: Arc<Semaphore>, cancelled: Arc<AtomicBool>) -> Result<Option<Done>> {
    let Ok(_permit) = threads.acquire().await else {
        return Ok(None);
    };
    let runtime = tokio::runtime::Handle::current();
    let run = tokio::task::spawn_blocking(move || runtime.block_on(compaction.run(&cancelled)));
    let compacted = run
        .await
        .map_err(|e| Error::bug("a compaction panicked").with_source(e))??;
    Ok(compacted.map(Done::Compacted))
}

async fn clean(cleaning: Cleaning, threads: Arc<Semaphore>, config: MaintenanceConfig) -> Result<Option<Done>> {
    let Ok(_permit) = threads.acquire().await else {
        return Ok(None);
    };
    cleaning
        .run(config.cutoff_ms())
        .await
        .map(|cleaned| Some(Done::Cleaned(cleaned)))
}

/// What `maintain` did for a table.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Maintained {
    pub table: String,
    /// Files that became others, and those others.
    pub files_compacted: usize,
    pub files_written: usize,
    pub log_entries_removed: u64,
    pub files_removed: u64,
    pub bytes_removed: u64,
    /// Why it was left alone.
    pub skipped: Option<String>,
}

/// Compacts and cleans all tables of the lake once. Works without the source,
/// and beside a running sidecar.
pub async fn maintain(config: &Config, mut each: impl FnMut(&Maintained)) -> Result<Vec<Maintained>> {
    let lake = Lake::open(&config.lake.url, &config.lake.options)?;
    let Some(control) = Control::any(lake.pipeline()?).await? else {
        return Err(Error::operator(format!("there is no lake at {} yet", config.lake.url))
            .with_hint("`tributary run` makes it"));
    };
    let record = control.record();
    let mut report = Vec::new();
    let mut copies = HashSet::new();
    for folder in record.tables.keys().chain(&record.former) {
        let Some(opened) = Opened::read(lake.log(folder)?, &record.pipeline).await? else {
            continue;
        };
        copies.extend(opened.record.copy.clone());
        let maintained = maintain_table(&lake, folder, opened, &config.maintenance).await?;
        each(&maintained);
        report.push(maintained);
    }
    let stray = lake
        .remove_stray_copies(&copies, config.maintenance.cutoff_ms())
        .await?;
    debug!(stray, "removed what was left of copies");
    Ok(report)
}

async fn maintain_table(lake: &Lake, folder: &str, opened: Opened, config: &MaintenanceConfig) -> Result<Maintained> {
    let mut maintained = Maintained {
        table: opened.record.table.clone(),
        files_compacted: 0,
        files_written: 0,
        log_entries_removed: 0,
        files_removed: 0,
        bytes_removed: 0,
        skipped: None,
    };
    if matches!(opened.record.state, State::Resnapshotting | State::Snapshotting) {
        maintained.skipped = Some(format!("it is {}", opened.record.state.as_str()));
        return Ok(maintained);
    }
    let pipeline = opened.record.pipeline.clone();
    let mut table = DeltaTable::for_maintenance(opened)?;
    while let Some(compaction) = table.compaction() {
        let Some(compacted) = compaction.run(&AtomicBool::new(false)).await? else {
            break;
        };
        let mut tries = 0;
        // Another writer's commit in between: rows may have died in it.
        loop {
            let error = match table.take_compacted(&compacted).await {
                Ok(Some(_)) => {
                    maintained.files_compacted += compacted.sizes().0;
                    maintained.files_written += 1;
                    break;
                }
                Ok(None) => break,
                Err(error) => error,
            };
            tries += 1;
            if tries == TRIES || error.class() != Class::Transient {
                return Err(error);
            }
            let newest = Opened::read(lake.log(folder)?, &pipeline).await?;
            let newest = newest.ok_or_else(|| Error::transient(format!("{} is gone", maintained.table)))?;
            table = DeltaTable::for_maintenance(newest)?;
        }
    }
    if let Some(cleaning) = table.cleaning() {
        let cleaned = cleaning.run(config.cutoff_ms()).await?;
        maintained.log_entries_removed = cleaned.log_entries;
        maintained.files_removed = cleaned.files;
        maintained.bytes_removed = cleaned.bytes;
    }
    Ok(maintained)
}

/// Tells what a job has done.
pub fn tell(table: &str, done: &Done, version: Option<u64>) {
    match done {
        Done::Compacted(compacted) => {
            let (files, bytes) = compacted.sizes();
            info!(table, version, files, bytes, "compacted");
        }
        Done::Cleaned(cleaned) if *cleaned != Cleaned::default() => info!(
            table,
            log_entries = cleaned.log_entries,
            files = cleaned.files,
            bytes = cleaned.bytes,
            "removed what no kept version needs"
        ),
        Done::Cleaned(_) => {}
    }
}
