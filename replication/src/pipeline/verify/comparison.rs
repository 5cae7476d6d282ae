//! One table: the first pass over both sides, and what becomes of the rows that
//! it did not find equal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, interleave, take_record_batch};
use arrow::error::ArrowError;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::debug;

use super::report::TableReport;
use super::scan::{CHUNK_BYTES, Progress, Scan, lot};
use super::{POLL, Verifier, is_whole, not_whole};
use crate::error::{Error, Result};
use crate::key::Key;
use crate::lake::{DeltaTable, FileCache, Location, Mismatch, Normal, Place, Refreshed, Seen};
use crate::position::Position;
use crate::source::{Reader, RowVersions, Source, SourceTable, TableSource};

/// Candidates looked at together; fewer if their rows are wide.
const CANDIDATES: usize = 10_000;
const CANDIDATE_BYTES: u64 = 32 << 20;
/// How often a row that keeps changing is looked at.
const ROUNDS: u32 = 5;
/// How long the lake may stand still before a row that it lacks: with a
/// sidecar on the slot, and without one.
const PATIENCE: Duration = Duration::from_secs(30);
const PATIENCE_ALONE: Duration = Duration::from_secs(10);

/// Why a comparison ended early.
pub enum Stop {
    /// Another table, or another content, took its place.
    Replaced,
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Failed(error)
    }
}

/// What is wrong with a key.
struct Wrong {
    /// The key's number among those read.
    key: usize,
    kind: Kind,
}

enum Kind {
    /// With the version of the source's row.
    Missing(String),
    /// With that, and the columns.
    Different(String, Vec<usize>),
    /// With the place of the lake's row.
    Extra(Location),
}

impl Kind {
    /// Whether the difference is real. `now` is the row's version at the
    /// source after the lake's version was committed; `before` is where the
    /// lake had the row when the source was first read.
    fn is_settled(&self, now: Option<&String>, before: Option<&Location>) -> bool {
        match self {
            // The source had this row from first to last, so at the lake's
            // version too.
            Kind::Missing(version) | Kind::Different(version, _) => now == Some(version),
            // A key may come and go between two readings, so that it is in
            // neither means nothing. But this row was in the lake before a
            // reading without it, and still is after that.
            Kind::Extra(location) => before == Some(location),
        }
    }
}

/// One table on its way.
pub struct Comparison<'a, S: Source> {
    verifier: &'a mut Verifier<S>,
    table: Arc<S::Table>,
    lake: DeltaTable,
    /// What equal rows have in common.
    normal: Option<Normal>,
    source: S::Tables,
    /// For rows by key.
    reader: Option<<S::Tables as TableSource>::Reader>,
    seen: Seen,
    cache: FileCache,
    /// Key columns, in key order.
    candidates: Vec<RecordBatch>,
    candidates_max: usize,
    /// Keys that were told, each once.
    reported: BTreeSet<Key>,
    report: &'a mut TableReport,
}

impl<'a, S: Source> Comparison<'a, S> {
    pub fn new(
        verifier: &'a mut Verifier<S>,
        table: Arc<S::Table>,
        lake: DeltaTable,
        report: &'a mut TableReport,
    ) -> Self {
        Self {
            candidates_max: candidates_max(table.parts().iter().map(|part| part.bytes).sum(), lake.rows()),
            source: verifier.source.table_source(table.clone(), verifier.throttle.clone()),
            cache: FileCache::new(verifier.cache_bytes),
            verifier,
            normal: table.normal(),
            table,
            lake,
            reader: None,
            seen: Seen::default(),
            candidates: Vec::new(),
            reported: BTreeSet::new(),
            report,
        }
    }

    pub async fn run(mut self) -> Result<(), Stop> {
        let chunks: u64 = self
            .table
            .parts()
            .iter()
            .map(|part| part.bytes.div_ceil(CHUNK_BYTES))
            .sum();
        let chunks = usize::try_from(chunks).unwrap_or(usize::MAX);
        let parallel = self.verifier.parallelism.min(chunks.max(1));
        let scan = Arc::new(Scan {
            id: self.table.id().clone(),
            source: self.source.clone(),
            readers: parallel,
            sample: self.verifier.sample,
            seed: self.verifier.seed,
            metrics: self.verifier.metrics.clone(),
            progress: Mutex::new(Progress::default()),
        });
        scan.plan().await?;
        let (batches, mut received) = mpsc::channel(1);
        let mut readers = JoinSet::new();
        for _ in 0..parallel {
            readers.spawn(scan.clone().read(batches.clone()));
        }
        drop(batches);
        // The first chunks are read meanwhile.
        self.lake.open_index(&self.verifier.indexes).await?;
        debug!(table = %self.table.id(), version = self.lake.version(), rows = self.lake.rows(), "indexed lake table");
        while let Some(batches) = received.recv().await {
            self.part(batches).await?;
        }
        while let Some(joined) = readers.join_next().await {
            joined.map_err(|e| Error::bug("reading the source panicked").with_source(e))??;
        }
        self.unseen().await?;
        self.settle_from(1).await?;
        self.report.version = Some(self.lake.version());
        Ok(())
    }

    /// Compares rows of the source with the lake as it is.
    async fn part(&mut self, batches: Vec<RecordBatch>) -> Result<(), Stop> {
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        let Mismatch { missing, different } = self
            .lake
            .compare(&batches, self.normal.as_ref(), Some(&mut self.seen), &mut self.cache)
            .await?;
        self.report.rows += (rows - missing.len() - different.len()) as u64;
        let mut at = missing;
        at.extend(different.into_iter().map(|(at, _)| at));
        if at.is_empty() {
            return Ok(());
        }
        self.candidates.push(self.keys(&batches, &at)?);
        self.settle_from(self.candidates_max).await
    }

    /// Makes candidates of the lake's rows that no row of the source met.
    async fn unseen(&mut self) -> Result<(), Stop> {
        // Refreshing adds files; their rows came later.
        for number in self.lake.file_numbers() {
            let mut from = 0;
            let (sample, seed) = (self.verifier.sample, self.verifier.seed);
            let chosen = |row: u64| sample.is_none_or(|share| lot(seed, row) < share);
            while let Some(unseen) = self.lake.unseen(number, &self.seen, chosen, &mut from).await? {
                for row in &unseen.doubles {
                    self.report.extra.add(&unseen.keys, *row)?;
                }
                self.report.rows += unseen.doubles.len() as u64;
                let others: UInt32Array = (0..unseen.keys.num_rows() as u32)
                    .filter(|row| unseen.doubles.binary_search(&(*row as usize)).is_err())
                    .collect();
                self.candidates
                    .push(take_record_batch(&unseen.keys, &others).map_err(arrow_bug)?);
                self.settle_from(self.candidates_max).await?;
            }
        }
        Ok(())
    }

    /// The key columns of some rows, in key order.
    fn keys(&self, batches: &[RecordBatch], at: &[Place]) -> Result<RecordBatch> {
        let columns: Vec<ArrayRef> = self
            .table
            .schema()
            .key
            .iter()
            .map(|column| {
                let arrays: Vec<&dyn Array> = batches.iter().map(|b| b.column(*column).as_ref()).collect();
                interleave(&arrays, at)
            })
            .collect::<Result<_, _>>()
            .map_err(arrow_bug)?;
        let schema = self
            .table
            .schema()
            .arrow()
            .project(&self.table.schema().key)
            .map_err(arrow_bug)?;
        RecordBatch::try_new(schema.into(), columns).map_err(arrow_bug)
    }

    /// Settles candidates while there are at least `min`.
    async fn settle_from(&mut self, min: usize) -> Result<(), Stop> {
        loop {
            let waiting: usize = self.candidates.iter().map(RecordBatch::num_rows).sum();
            let Some(first) = self.candidates.first().filter(|_| waiting >= min) else {
                return Ok(());
            };
            let all = concat_batches(&first.schema(), &self.candidates).map_err(arrow_bug)?;
            let now = all.num_rows().min(self.candidates_max);
            self.candidates = vec![all.slice(now, all.num_rows() - now)];
            if now == all.num_rows() {
                self.candidates.clear();
            }
            self.settle(all.slice(0, now)).await?;
        }
    }

    /// Finds out whether candidates are late, in flight, or wrong.
    async fn settle(&mut self, mut keys: RecordBatch) -> Result<(), Stop> {
        // Where the lake had rows that the source had not, in the round before.
        let mut places: BTreeMap<Key, Location> = BTreeMap::new();
        for round in 1..=ROUNDS {
            let before = self.read(&keys).await?;
            // What the lake has by now may do.
            self.refresh().await?;
            let hashes = self.hashes(&keys)?;
            let mut wrong = self.wrong(&hashes, &before).await?;
            if !wrong.is_empty() {
                self.wait_for(&before.high, wrong.len()).await?;
                wrong = self.wrong(&hashes, &before).await?;
            }
            self.count_equal(&hashes, &before, &wrong)?;
            if wrong.is_empty() {
                return Ok(());
            }
            let numbers: UInt32Array = wrong.iter().map(|w| w.key as u32).collect();
            let suspects = take_record_batch(&keys, &numbers).map_err(arrow_bug)?;
            // From here on the source shows all that the lake has.
            let committed = {
                let watermark = self.lake.record().watermark.clone();
                self.reader().await?.wait_for_commits(&watermark).await?
            };
            let after = self.read(&suspects).await?;
            let now = self.versions(&after)?;
            let mut again = Vec::new();
            let mut placed = BTreeMap::new();
            for (row, Wrong { key, kind }) in wrong.into_iter().enumerate() {
                let hash = hashes.get(key).copied().unwrap_or_default();
                if committed && kind.is_settled(now.get(&hash), places.get(&hash)) {
                    self.tell(hash, &suspects, row, &kind)?;
                    continue;
                }
                again.push(row as u32);
                if let Kind::Extra(location) = kind
                    && committed
                {
                    placed.insert(hash, location);
                }
            }
            if again.is_empty() {
                return Ok(());
            }
            debug!(table = %self.table.id(), round, rows = again.len(), "rows to look at again");
            places = placed;
            keys = take_record_batch(&suspects, &UInt32Array::from(again)).map_err(arrow_bug)?;
        }
        self.report.in_flight += keys.num_rows() as u64;
        Ok(())
    }

    async fn reader(&mut self) -> Result<&mut <S::Tables as TableSource>::Reader> {
        if self.reader.is_none() {
            self.reader = Some(self.source.reader().await?);
        }
        self.reader.as_mut().ok_or_else(|| Error::bug("no reader"))
    }

    async fn read(&mut self, keys: &RecordBatch) -> Result<RowVersions> {
        self.reader().await?.read_versions(keys).await
    }

    fn hashes(&self, keys: &RecordBatch) -> Result<Vec<Key>> {
        let columns: Vec<&ArrayRef> = keys.columns().iter().collect();
        self.lake.encoder().keys_of(&columns, keys.num_rows())
    }

    /// The version of each row read, by key.
    fn versions(&self, read: &RowVersions) -> Result<BTreeMap<Key, String>> {
        let mut versions = BTreeMap::new();
        for (rows, batch) in read.rows.iter().zip(&read.versions) {
            for (row, key) in self.lake.encoder().keys(rows)?.into_iter().enumerate() {
                versions.insert(key, batch.value(row).to_owned());
            }
        }
        Ok(versions)
    }

    /// Which keys the lake does not have as they were read.
    async fn wrong(&mut self, hashes: &[Key], read: &RowVersions) -> Result<Vec<Wrong>> {
        let versions = self.versions(read)?;
        let Mismatch { missing, different } = self
            .lake
            .compare(&read.rows, self.normal.as_ref(), None, &mut self.cache)
            .await?;
        let mut hashes_read = Vec::with_capacity(read.rows.len());
        for rows in &read.rows {
            hashes_read.push(self.lake.encoder().keys(rows)?);
        }
        let hash = |(batch, row): Place| hashes_read.get(batch).and_then(|rows| rows.get(row)).copied();
        let unequal: BTreeMap<Key, Option<Vec<usize>>> = missing
            .into_iter()
            .map(|at| (at, None))
            .chain(different.into_iter().map(|(at, columns)| (at, Some(columns))))
            .filter_map(|(at, columns)| Some((hash(at)?, columns)))
            .collect();
        let mut wrong = Vec::new();
        for (key, hash) in hashes.iter().enumerate() {
            let kind = match versions.get(hash) {
                Some(version) => unequal.get(hash).map(|columns| match columns {
                    Some(columns) => Kind::Different(version.clone(), columns.clone()),
                    None => Kind::Missing(version.clone()),
                }),
                None => self.lake.locate(*hash)?.map(Kind::Extra),
            };
            wrong.extend(kind.map(|kind| Wrong { key, kind }));
        }
        Ok(wrong)
    }

    /// Counts the rows that turned out to be equal; one that neither side has
    /// is none.
    fn count_equal(&mut self, hashes: &[Key], read: &RowVersions, wrong: &[Wrong]) -> Result<()> {
        let versions = self.versions(read)?;
        let found = hashes.iter().filter(|hash| versions.contains_key(hash)).count();
        let wrong = wrong.iter().filter(|w| !matches!(w.kind, Kind::Extra(_))).count();
        self.report.rows += (found - wrong.min(found)) as u64;
        Ok(())
    }

    async fn refresh(&mut self) -> Result<(), Stop> {
        if self.lake.refresh().await? == Refreshed::Replaced {
            return Err(Stop::Replaced);
        }
        if !is_whole(self.lake.record()) {
            return Err(not_whole(self.lake.record()).into());
        }
        Ok(())
    }

    /// Waits until the lake has everything up to `high`.
    async fn wait_for(&mut self, high: &Position, unequal: usize) -> Result<(), Stop> {
        let mut last = None;
        let mut moved = Instant::now();
        loop {
            // The slot first: a version read after it has all that it confirms.
            let slot = self.verifier.slot().await?;
            self.refresh().await?;
            let watermark = self.lake.record().watermark.clone();
            let confirmed = slot.as_ref().map(|slot| slot.confirmed.clone());
            if watermark.covers(high) || confirmed.as_ref().is_some_and(|confirmed| confirmed.covers(high)) {
                return Ok(());
            }
            let now = Some((watermark.clone(), confirmed.clone()));
            if last != now {
                last = now;
                moved = Instant::now();
            }
            let active = slot.as_ref().is_some_and(|slot| slot.active);
            let patience = if active { PATIENCE } else { PATIENCE_ALONE };
            let known = !active && confirmed.is_some() && self.verifier.stood_still_at == confirmed;
            if known || moved.elapsed() > patience {
                if !active {
                    self.verifier.stood_still_at = confirmed;
                }
                return Err(Error::operator(format!(
                    "at least {unequal} rows are not equal, and the lake is not as far as the source ({watermark} before {high}) and stands still: \
                     they may be wrong, or late"
                ))
                .with_hint(if active {
                    "see in the log of `tributary run` and in `tributary status` what holds it"
                } else {
                    "start `tributary run`, and verify again"
                })
                .into());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn tell(&mut self, hash: Key, keys: &RecordBatch, row: usize, kind: &Kind) -> Result<()> {
        if !self.reported.insert(hash) {
            return Ok(());
        }
        self.report.rows += 1;
        match kind {
            Kind::Missing(_) => self.report.missing.add(keys, row)?,
            Kind::Extra(_) => self.report.extra.add(keys, row)?,
            Kind::Different(_, columns) => {
                let columns = columns
                    .iter()
                    .filter_map(|column| self.table.schema().columns.get(*column));
                let names = columns.map(|column| column.name.clone()).collect();
                self.report.different.add(keys, row, names)?;
            }
        }
        Ok(())
    }
}

/// How many rows of a table fit [`CANDIDATE_BYTES`].
fn candidates_max(table_bytes: u64, rows: u64) -> usize {
    // TOAST compresses to a third or so.
    let row_bytes = 4 * table_bytes / rows.max(1) + 64;
    usize::try_from(CANDIDATE_BYTES / row_bytes)
        .unwrap_or(CANDIDATES)
        .clamp(16, CANDIDATES)
}

fn arrow_bug(error: ArrowError) -> Error {
    Error::bug("cannot rearrange rows of a comparison").with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_wrong_only_if_the_source_did_not_change() {
        let version = |text: &str| text.to_owned();
        let (here, there) = (Location::new(1, 2), Location::new(3, 0));
        for (kind, now, before, settled) in [
            (Kind::Missing(version("a")), Some("a"), None, true),
            (Kind::Missing(version("a")), Some("b"), None, false),
            (Kind::Missing(version("a")), None, None, false),
            (Kind::Different(version("a"), vec![1]), Some("a"), Some(here), true),
            (Kind::Different(version("a"), vec![1]), Some("b"), Some(here), false),
            // It may have come and gone twice.
            (Kind::Extra(here), None, None, false),
            (Kind::Extra(here), None, Some(there), false),
            (Kind::Extra(here), None, Some(here), true),
        ] {
            let now = now.map(version);
            assert_eq!(kind.is_settled(now.as_ref(), before.as_ref()), settled);
        }
    }

    #[test]
    fn wide_rows_are_looked_at_in_smaller_numbers() {
        assert_eq!(candidates_max(1000 * 100, 1000), CANDIDATES);
        assert_eq!(candidates_max(1000 << 20, 1000), 16);
        assert_eq!(candidates_max(0, 0), CANDIDATES);
    }
}
