//! The table's side of its key index: which files it is whole for, what has to
//! be read for it, and under which numbers files are known to it.
//!
//! A file keeps its number as long as an entry of the index may name it, across
//! restarts too: a manifest says which numbers its runs mean. A number is given
//! to another file only once no run and no recent key names it, so files that
//! come and go leave nothing behind.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::ArrayRef;
use roaring::RoaringBitmap;
use tokio::runtime::{Handle, RuntimeFlavor};
use tracing::{info, warn};

use super::key_index::{Identity, IndexHome, KeyIndex, Live, Location, Manifest, SavedFile};
use super::{DataFile, DeltaTable, data_file};
use crate::error::{Error, Result};

/// How often a long reading of keys tells how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
/// Numbers that are looked through for ones to give again, at least.
const NUMBERS_MIN: usize = 256;
/// Keys whose look-up may keep a thread of the runtime.
const KEYS_IN_PLACE: usize = 1024;

/// File numbers to give again.
#[derive(Default)]
pub struct Vacant {
    numbers: Vec<u32>,
    /// How many files there have to be for the next look.
    look_at: usize,
}

/// Runs work that may wait for a disk; other tasks go on meanwhile if it is
/// more than a little.
pub fn blocking<T>(keys: usize, work: impl FnOnce() -> T) -> T {
    let flavor = Handle::try_current().map(|handle| handle.runtime_flavor());
    match flavor {
        Ok(RuntimeFlavor::MultiThread) if keys > KEYS_IN_PLACE => tokio::task::block_in_place(work),
        _ => work(),
    }
}

impl DeltaTable {
    /// Opens the table's index, and reads the keys of files that it does not
    /// know. Returns the rows read. Hashes of keys are others from now on.
    pub async fn open_index(&mut self, home: &Arc<IndexHome>) -> Result<u64> {
        let folder = home.folder(self.log.log_url()).await?;
        let (identity, version) = (self.identity(), self.version);
        let (index, manifest) = blocking(usize::MAX, || KeyIndex::open(home, folder, &identity, version));
        self.index = index;
        if let Some(manifest) = &manifest {
            self.seed = manifest.seed;
            self.set_schema(self.schema.clone());
        }
        let unknown = self.number_files(manifest);
        let read: HashSet<&usize> = unknown.iter().collect();
        let known: Vec<usize> = (0..self.files.len()).filter(|n| !read.contains(n)).collect();
        self.read_marks(&known).await?;
        let rows = self.index_files(&unknown).await?;
        if self.index.wants_save_now() {
            self.save_manifest()?;
        }
        self.indexed = true;
        Ok(rows)
    }

    /// Whose keys the index has.
    fn identity(&self) -> Identity {
        let key = self
            .schema
            .key
            .iter()
            .filter_map(|column| self.schema.columns.get(*column));
        let key: Vec<String> = key
            .map(|column| format!("{} {:?}", column.attribute, column.ty))
            .collect();
        Identity {
            log: self.log.log_url().to_string(),
            table: self.shape.id.clone(),
            pipeline: self.record.pipeline.clone(),
            generation: self.record.generation,
            key: key.join(", "),
            exact: self.encoder.is_exact(),
        }
    }

    /// Gives files the numbers that a manifest knows them by. Returns the
    /// numbers of those that it does not know.
    fn number_files(&mut self, manifest: Option<Manifest>) -> Vec<usize> {
        let is_history = self.shape.mode.is_history();
        let mut files: Vec<Option<DataFile>> = self.files.drain(..).map(Some).collect();
        let names = self.index.names();
        let known = manifest.iter().flat_map(|manifest| &manifest.files);
        let named = known.map(|(entry, _)| entry.number).chain(names.max());
        let numbers = named.max().map_or(0, |max| max as usize + 1);
        self.files.resize_with(numbers, DataFile::gone);
        self.vacant = Vacant::default();
        if let Some(manifest) = manifest {
            let paths: HashMap<String, usize> = files
                .iter()
                .enumerate()
                .filter_map(|(at, file)| Some((file.as_ref()?.path.clone(), at)))
                .collect();
            for (entry, deleted) in manifest.files {
                let place = self
                    .files
                    .get_mut(entry.number as usize)
                    .filter(|place| place.path.is_empty());
                let file = paths.get(&entry.path).and_then(|at| files.get_mut(*at));
                let (Some(place), Some(file)) = (place, file) else {
                    continue;
                };
                // If rows came back, the index may not have them.
                if let Some(known) = file.take_if(|file| is_history || deleted.is_subset(&file.deleted)) {
                    *place = known;
                    if is_history {
                        place.deleted = deleted;
                    }
                }
            }
        }
        let unknown = files.into_iter().flatten();
        unknown.map(|file| self.place(file) as usize).collect()
    }

    /// Takes a file in, under a number that no entry of the index names.
    pub(super) fn place(&mut self, file: DataFile) -> u32 {
        if self.vacant.numbers.is_empty() && self.files.len() >= self.vacant.look_at {
            self.look_for_numbers();
        }
        if let Some(number) = self.vacant.numbers.pop()
            && let Some(place) = self.files.get_mut(number as usize)
        {
            *place = file;
            return number;
        }
        self.files.push(file);
        (self.files.len() - 1) as u32
    }

    fn look_for_numbers(&mut self) {
        let names = self.index.names();
        let numbered = (0_u32..).zip(&self.files);
        self.vacant.numbers = numbered
            .filter(|(number, file)| file.removed && !file.committed && !names.contains(*number))
            .map(|(number, _)| number)
            .collect();
        let (files, vacant) = (self.files.len(), self.vacant.numbers.len());
        // When they are used up is soon enough, unless they are few.
        self.vacant.look_at = match vacant > files / 4 {
            true => files,
            false => 2 * files.max(NUMBERS_MIN / 2),
        };
    }

    /// Adds the rows of files to the index that others have, or that nobody knows
    /// yet. Returns how many.
    pub(super) async fn index_files(&mut self, numbers: &[usize]) -> Result<u64> {
        match self.shape.mode.is_history() {
            true if !numbers.is_empty() => self.index_changes(numbers).await,
            _ => self.index_rows(numbers).await,
        }
    }

    /// Adds the live rows of files to the index, whose keys have no newer ones.
    /// Returns how many.
    pub(super) async fn index_rows(&mut self, numbers: &[usize]) -> Result<u64> {
        if numbers.is_empty() {
            return Ok(0);
        }
        self.read_marks(numbers).await?;
        let files = numbers.iter().filter_map(|number| self.files.get(*number));
        let total: u64 = files.map(|file| u64::from(file.rows)).sum();
        let (key_schema, order) = self.key_columns()?;
        let encoder = &self.encoder;
        let mut bulk = self.index.bulk()?;
        let (mut read, mut live) = (0_u64, 0_u64);
        let started = Instant::now();
        let mut told = started;
        for number in numbers {
            let Some(file) = self.files.get(*number) else { continue };
            let mut row = 0_u32;
            data_file::scan(&self.log, &file.stored(), &key_schema, |batch| {
                let key_columns: Vec<&ArrayRef> = order.iter().map(|c| batch.column(*c)).collect();
                for key in encoder.keys_of(&key_columns, batch.num_rows())? {
                    if file.deleted.is_empty() || !file.deleted.contains(row) {
                        bulk.push(key, Location::new(*number as u32, row))?;
                        live += 1;
                    }
                    row += 1;
                }
                read += batch.num_rows() as u64;
                if told.elapsed() >= PROGRESS_INTERVAL {
                    told = Instant::now();
                    let rows_per_s = (read as f64 / started.elapsed().as_secs_f64()) as u64;
                    info!(table = %self.record.table, rows = read, of = total, rows_per_s, "indexing keys");
                }
                Ok(())
            })
            .await?;
            if row != file.rows {
                return Err(
                    Error::operator(format!("{} has {row} rows, but the log says {}", file.path, file.rows))
                        .with_hint(format!("`tributary snapshot {}` copies it anew", self.record.table)),
                );
            }
        }
        let index = &mut self.index;
        blocking(usize::MAX, || index.take(bulk))?;
        self.maintain_index()?;
        Ok(live)
    }

    /// Lets runs of the index be merged.
    pub(super) fn maintain_index(&mut self) -> Result<()> {
        let (files, index) = (&self.files, &mut self.index);
        let live = |names: &RoaringBitmap| {
            let mut live = Live::default();
            for number in names {
                if let Some(file) = files.get(number as usize).filter(|file| !file.removed) {
                    live.insert(number, file.deleted.clone());
                }
            }
            live
        };
        let wait = if index.is_crowded() { usize::MAX } else { 0 };
        blocking(wait, || index.maintain(live))
    }

    /// Saves the index if that is due. Everything staged is committed, and that
    /// stands whatever becomes of the index.
    pub(super) fn save_index(&mut self) {
        let saved = match self.index.wants_save() {
            Ok(true) => self.save_manifest(),
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        };
        self.tell_unsaved(saved);
    }

    /// Saves the index as it is, unless something is staged; nothing more will
    /// come. Without it, files of the last seconds are read again at the next
    /// start, so a failure is only told.
    pub fn end_index(&mut self) {
        let committed = |file: &DataFile| !file.dirty && file.committed != file.removed;
        if !self.files.iter().all(committed) {
            return;
        }
        let saved = blocking(usize::MAX, || {
            if self.index.settle()? {
                self.save_manifest()?;
            }
            self.index.end_save();
            Ok::<(), Error>(())
        });
        self.tell_unsaved(saved);
    }

    fn tell_unsaved(&self, saved: Result<()>) {
        if let Err(error) = saved {
            warn!(table = %self.record.table, %error, cause = error.cause(), hint = error.hint(), "cannot save the key index");
        }
    }

    fn save_manifest(&mut self) -> Result<()> {
        let identity = self.identity();
        // Rows that are all superseded make one run.
        for file in self
            .files
            .iter_mut()
            .filter(|file| !file.removed && file.live_rows() == 0)
        {
            file.deleted.optimize();
        }
        let live = (0_u32..)
            .zip(&self.files)
            .filter(|(_, file)| file.committed && !file.removed);
        let files = live.map(|(number, file)| SavedFile {
            number,
            path: &file.path,
            deleted: &file.deleted,
            is_superseded: file.live_rows() == 0,
        });
        self.index.save(identity, self.version, self.seed, files)
    }
}
