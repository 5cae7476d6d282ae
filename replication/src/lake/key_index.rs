//! Key → (file, row): a hash map of recent keys over sorted runs on disk.
//!
//! ```text
//! insert ─► recent (map) ─ full ─► run ─┐
//! bulk ──── sorted in chunks ─────► run ─┴─ four of a size, in the background ─► one run
//! get ────► recent, then runs, the newest first (filter, index block, data block)
//! commit ─► manifest: which runs these are, and which files they are whole for
//! ```
//!
//! Entries are never removed one by one. An entry counts only if its row is
//! live, which the caller checks, so that a delete costs nothing here and stale
//! entries go when runs merge. The newest entry of a key is the only one that
//! can be live.
//!
//! It is a cache: what is lost of it is read again from the key columns. A block
//! that is not what was written is an error and makes the manifest go, so that
//! the next start builds the index anew; it is never taken for an answer.

mod bulk;
mod filter;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod home;
mod manifest;
mod merge;
mod run;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use roaring::RoaringBitmap;
use tracing::{debug, info, warn};

pub use self::bulk::Bulk;
pub use self::home::{Folder, IndexHome};
pub use self::manifest::{Identity, Manifest};
pub use self::merge::Live;

use self::bulk::Gathered;
use self::home::{Memory, unwritable};
use self::manifest::{FileEntry, RunEntry};
use self::merge::{Merged, merge};
use self::run::{Fault, Probe, Run, RunWriter};
use crate::error::{Error, Result};
use crate::failpoint;
use crate::key::Key;

/// Entries the map holds before it becomes a run: as many as fit 64k buckets,
/// which are 2 MiB.
const RECENT_MAX: usize = 56 << 10;
/// With little memory, the map becomes a run from so many entries on.
const RECENT_MIN: usize = 256;
/// Files that the map may name: what is only in memory is read from them again
/// at the next start.
const RECENT_FILES_MAX: u64 = 64;
/// Runs that are merged together, at least.
const FAN_IN: usize = 4;
/// More runs than this wait for a merge that is under way.
const RUNS_MAX: usize = 64;
/// Keys looked up together at a time.
const BATCH_KEYS: usize = 32 << 10;
/// The time between two manifests while the table is written to.
const SAVE_INTERVAL: Duration = Duration::from_secs(5);

/// The code of an error after which the index is built anew.
pub const DAMAGED: &str = "key index damaged";

/// A row of a file: file number in the upper half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location(u64);

impl Location {
    #[cfg(test)]
    pub const ZERO: Self = Self(0);

    pub fn new(file: u32, row: u32) -> Self {
        Self(u64::from(file) << 32 | u64::from(row))
    }

    pub fn file(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub fn row(self) -> u32 {
        self.0 as u32
    }
}

/// Keys are hashes or near-unique integers: one multiplication spreads them.
#[derive(Default)]
pub struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0 ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ (mixed >> 29);
    }

    fn write_u128(&mut self, value: u128) {
        self.write_u64((value >> 64) as u64);
        self.write_u64(value as u64);
    }
}

pub type KeyMap<V> = HashMap<Key, V, BuildHasherDefault<KeyHasher>>;

/// The numbers of files that entries of runs name.
fn names_of(runs: &[Arc<Run>]) -> RoaringBitmap {
    runs.iter().fold(RoaringBitmap::new(), |names, run| names | &run.names)
}

/// A run's id, which no other run ever has.
fn new_id() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}

/// A live file, as a manifest has it.
pub struct SavedFile<'a> {
    pub number: u32,
    pub path: &'a str,
    pub deleted: &'a RoaringBitmap,
    /// Whether it needs no entries.
    pub is_superseded: bool,
}

/// A merge in the background.
struct Merge {
    inputs: Vec<u64>,
    cancel: Arc<AtomicBool>,
    thread: JoinHandle<Result<Merged, Fault>>,
}

pub struct KeyIndex {
    exact: bool,
    home: Arc<IndexHome>,
    /// Without one, nothing was written yet.
    folder: Option<Arc<Folder>>,
    recent: KeyMap<Location>,
    /// The files that `recent` names.
    recent_files: RoaringBitmap,
    recent_bytes: usize,
    /// The oldest first.
    runs: Vec<Arc<Run>>,
    /// Runs that are not used any more, but the manifest names them.
    former: Vec<u64>,
    merge: Option<Merge>,
    /// Gives back the runs that have to stay, if it fails.
    save: Option<JoinHandle<Vec<u64>>>,
    /// The runs of the newest manifest, and its time.
    saved: Vec<u64>,
    saved_at: Instant,
}

impl KeyIndex {
    /// An index that goes with the value.
    pub fn new(exact: bool, home: Arc<IndexHome>) -> Self {
        Self {
            exact,
            home,
            folder: None,
            recent: KeyMap::default(),
            recent_files: RoaringBitmap::new(),
            recent_bytes: 0,
            runs: Vec::new(),
            former: Vec::new(),
            merge: None,
            save: None,
            saved: Vec::new(),
            saved_at: Instant::now(),
        }
    }

    /// Opens what a folder has, if it is an index of `identity` at a version up
    /// to `version`; otherwise the folder is emptied and the index too.
    pub fn open(
        home: &Arc<IndexHome>,
        folder: Arc<Folder>,
        identity: &Identity,
        version: u64,
    ) -> (Self, Option<Manifest>) {
        let mut index = Self::new(identity.exact, home.clone());
        let manifest = match folder.is_kept() {
            true => index.read(&folder, identity, version),
            false => Ok(None),
        };
        let manifest = manifest.unwrap_or_else(|reason| {
            info!(dir = %folder.dir().display(), reason, "the key index can't be used; it is built anew");
            None
        });
        if manifest.is_none() {
            index.runs = Vec::new();
        }
        index.saved = index.runs.iter().map(|run| run.id).collect();
        folder.clean(&index.saved);
        index.folder = Some(folder);
        (index, manifest)
    }

    /// Errors: why the folder is of no use.
    fn read(&mut self, folder: &Folder, identity: &Identity, version: u64) -> Result<Option<Manifest>, String> {
        let Some(manifest) = Manifest::read(folder)? else {
            return Ok(None);
        };
        if manifest.identity != *identity {
            return Err("it is of another table or key".to_owned());
        }
        if manifest.version > version {
            return Err(format!(
                "it is of version {}, and the table at {version}",
                manifest.version
            ));
        }
        for (entry, names) in &manifest.runs {
            let run = Run::open(
                &folder.run(entry.id),
                entry.id,
                identity.exact,
                entry.places,
                names.clone(),
                self.home.memory(),
            );
            let run = run.map_err(|fault| format!("run {:016x}: {fault}", entry.id))?;
            self.runs.push(Arc::new(run));
        }
        Ok(Some(manifest))
    }

    fn memory(&self) -> &Arc<Memory> {
        self.home.memory()
    }

    /// The folder, if it outlives this.
    fn kept(&self) -> Option<&Arc<Folder>> {
        self.folder.as_ref().filter(|folder| folder.is_kept())
    }

    fn folder(&mut self) -> Result<Arc<Folder>> {
        if let Some(folder) = &self.folder {
            return Ok(folder.clone());
        }
        Ok(self.folder.insert(self.home.private_folder()?).clone())
    }

    /// The newest entry of a key. The caller checks that its row is live.
    ///
    /// Errors: a run is damaged.
    pub fn get(&self, key: Key) -> Result<Option<Location>> {
        if let Some(location) = self.recent.get(&key) {
            return Ok(Some(*location));
        }
        for run in self.runs.iter().rev() {
            let found = Probe::new(run, self.memory()).get(key);
            if let Some(location) = found.map_err(|fault| self.damaged(&[run.id], &fault))? {
                return Ok(Some(location));
            }
        }
        Ok(None)
    }

    /// The newest entries of keys, in their order. Cheaper than one by one:
    /// neighbours in a run are found together.
    pub fn get_all(&self, keys: &[Key]) -> Result<Vec<Option<Location>>> {
        let mut found: Vec<Option<Location>> = keys.iter().map(|key| self.recent.get(key).copied()).collect();
        for (keys, found) in keys.chunks(BATCH_KEYS).zip(found.chunks_mut(BATCH_KEYS)) {
            let mut open: Vec<u32> = (0_u32..)
                .zip(found.iter())
                .filter(|(_, found)| found.is_none())
                .map(|(at, _)| at)
                .collect();
            if !self.runs.is_empty() && !open.is_sorted_by_key(|at| keys[*at as usize]) {
                open.sort_unstable_by_key(|at| keys[*at as usize]);
            }
            for run in self.runs.iter().rev() {
                let mut probe = Probe::new(run, self.memory());
                let mut left = Vec::with_capacity(open.len());
                for at in open {
                    let got = probe.get(keys[at as usize]);
                    match got.map_err(|fault| self.damaged(&[run.id], &fault))? {
                        Some(location) => found[at as usize] = Some(location),
                        None => left.push(at),
                    }
                }
                open = left;
            }
        }
        Ok(found)
    }

    /// What can't be read is not believed again after a restart.
    fn damaged(&self, runs: &[u64], fault: &Fault) -> Error {
        let dir = match &self.folder {
            Some(folder) => {
                if folder.is_kept() {
                    let _ = std::fs::remove_file(folder.manifest());
                    // Nor by a manifest that is being written.
                    runs.iter().for_each(|id| folder.remove_run(*id));
                }
                folder.dir().display().to_string()
            }
            None => String::new(),
        };
        let runs: Vec<String> = runs.iter().map(|id| format!("{id:016x}")).collect();
        let runs = runs.join(" or ");
        Error::transient(format!("run {runs} of the key index in {dir} is damaged: {fault}"))
            .with_code(DAMAGED)
            .with_hint("nothing is lost: the index is built anew from the lake; if it happens again, look at that disk")
    }

    /// Adds an entry, newer than all before.
    pub fn insert(&mut self, key: Key, location: Location) -> Result<()> {
        self.recent.insert(key, location);
        self.recent_files.insert(location.file());
        let entries = self.recent.len();
        let early = entries.is_multiple_of(RECENT_MIN) && self.memory().is_tight();
        if entries >= RECENT_MAX || early {
            self.freeze()?;
        }
        Ok(())
    }

    /// Starts to gather many entries; they count once [`KeyIndex::take`] has them.
    pub fn bulk(&mut self) -> Result<Bulk> {
        Ok(Bulk::new(self.folder()?, self.memory().clone(), self.exact))
    }

    /// Adds what a bulk has gathered, newer than all before.
    pub fn take(&mut self, bulk: Bulk) -> Result<()> {
        let few = RECENT_MAX.saturating_sub(self.recent.len() + 1);
        match bulk.finish(few)? {
            Gathered::Few(entries) => {
                for (key, location) in entries {
                    self.insert(key, location)?;
                }
            }
            Gathered::Run(run) => {
                self.freeze()?;
                self.runs.push(run);
            }
        }
        self.note_recent();
        Ok(())
    }

    /// Makes a run of the recent keys.
    fn freeze(&mut self) -> Result<()> {
        if self.recent.is_empty() {
            return Ok(());
        }
        let folder = self.folder()?;
        let mut entries: Vec<_> = self.recent.iter().map(|(key, location)| (*key, *location)).collect();
        entries.sort_unstable_by_key(|(key, _)| *key);
        let write = || {
            let (id, count) = (new_id(), entries.len() as u64);
            let mut writer = RunWriter::create(&folder.run(id), id, self.exact, count, self.memory())?;
            for (key, location) in &entries {
                writer.push(*key, *location)?;
            }
            writer.finish()
        };
        // Where that fails, they are still in memory.
        let run = write().map_err(|fault| unwritable(folder.dir(), fault))?;
        self.runs.push(Arc::new(run));
        self.recent.clear();
        if self.memory().is_tight() {
            self.recent = KeyMap::default();
        }
        self.recent_files = RoaringBitmap::new();
        self.note_recent();
        Ok(())
    }

    fn note_recent(&mut self) {
        let now = self.recent.capacity() * (size_of::<(Key, Location)>() + 1);
        self.home.memory().note_recent(self.recent_bytes, now);
        self.recent_bytes = now;
    }

    /// Whether the next look after runs waits for a merge.
    pub fn is_crowded(&self) -> bool {
        self.runs.len() > RUNS_MAX
    }

    /// Looks after runs: takes over what a merge has made, and begins one that
    /// is due. `live` tells what rows of some files are live now.
    pub fn maintain(&mut self, live: impl FnOnce(&RoaringBitmap) -> Live) -> Result<()> {
        self.note_recent();
        self.take_merged(self.is_crowded())?;
        let sizes: Vec<u64> = self.runs.iter().map(|run| run.entries).collect();
        let (None, Some(from)) = (&self.merge, due(&sizes)) else {
            return Ok(());
        };
        let folder = self.folder()?;
        let memory = self.memory().clone();
        let Some(merging) = memory.begin_merge() else {
            return Ok(());
        };
        let inputs = self.runs[from..].to_vec();
        let names = names_of(&inputs);
        let (live, exact, id) = (live(&names), self.exact, new_id());
        let cancel = Arc::new(AtomicBool::new(false));
        let (ids, cancelled) = (inputs.iter().map(|run| run.id).collect(), cancel.clone());
        let work = move || {
            let _merging = merging;
            let started = Instant::now();
            let merged = merge(&inputs, Some(&live), &folder.run(id), id, exact, &memory, &cancelled);
            let entries: u64 = inputs.iter().map(|run| run.entries).sum();
            debug!(dir = %folder.dir().display(), runs = inputs.len(), entries, elapsed_ms = started.elapsed().as_millis() as u64, "merged runs of a key index");
            merged
        };
        let thread = std::thread::Builder::new().name("merge-keys".to_owned()).spawn(work);
        self.merge = Some(Merge {
            inputs: ids,
            cancel,
            thread: thread.map_err(|e| Error::transient("cannot start a thread").with_source(e))?,
        });
        Ok(())
    }

    /// Puts a merged run in the place of its inputs, if it is done.
    fn take_merged(&mut self, wait: bool) -> Result<()> {
        let Some(merge) = self.merge.take_if(|merge| wait || merge.thread.is_finished()) else {
            return Ok(());
        };
        let merged = merge
            .thread
            .join()
            .map_err(|_| Error::bug("merging key runs panicked"))?;
        let merged = match merged {
            Ok(Merged::Cancelled) => return Ok(()),
            Ok(Merged::Run(run)) => Some(run),
            Ok(Merged::Nothing) => None,
            Err(fault @ Fault::Damaged(_)) => return Err(self.damaged(&merge.inputs, &fault)),
            // The inputs are there still.
            Err(fault @ Fault::Io(_)) => {
                let dir = self.folder.as_ref().map_or(Path::new(""), |folder| folder.dir());
                let error = unwritable(dir, fault);
                warn!(%error, cause = error.cause(), hint = error.hint(), "cannot merge runs of a key index; it is tried again");
                return Ok(());
            }
        };
        let from = self.runs.iter().position(|run| Some(&run.id) == merge.inputs.first());
        let Some(from) = from else {
            return Err(Error::bug("runs went while they were merged"));
        };
        let replaced = from..from + merge.inputs.len();
        self.runs.splice(replaced, merged.map(Arc::new));
        self.leave(merge.inputs);
        Ok(())
    }

    /// Removes runs that are not used any more, or remembers to do so.
    fn leave(&mut self, runs: Vec<u64>) {
        match &self.folder {
            Some(folder) if !folder.is_kept() => runs.into_iter().for_each(|id| folder.remove_run(id)),
            _ => self.former.extend(runs),
        }
    }

    /// Forgets all entries. What the manifest names stays until the next one.
    pub fn clear(&mut self) {
        self.end_merge();
        self.recent = KeyMap::default();
        self.recent_files = RoaringBitmap::new();
        self.note_recent();
        let runs = std::mem::take(&mut self.runs);
        self.leave(runs.iter().map(|run| run.id).collect());
    }

    fn end_merge(&mut self) {
        if let Some(merge) = self.merge.take() {
            merge.cancel.store(true, Ordering::Relaxed);
            if let Ok(Ok(Merged::Run(run))) = merge.thread.join() {
                self.leave(vec![run.id]);
            }
        }
    }

    /// The numbers of files that entries name.
    pub fn names(&self) -> RoaringBitmap {
        names_of(&self.runs) | &self.recent_files
    }

    /// Whether a manifest is due: the runs are others than its, and some time
    /// has passed.
    pub fn wants_save(&mut self) -> Result<bool> {
        if self.kept().is_none() {
            return Ok(false);
        }
        if self.recent_files.len() >= RECENT_FILES_MAX {
            self.freeze()?;
        }
        let idle = self.save.as_ref().is_none_or(JoinHandle::is_finished);
        Ok(idle && self.saved_at.elapsed() >= SAVE_INTERVAL && !self.is_saved())
    }

    /// Whether a manifest is worth while as soon as all is committed.
    pub fn wants_save_now(&self) -> bool {
        self.kept().is_some() && !self.is_saved()
    }

    fn is_saved(&self) -> bool {
        self.runs.iter().map(|run| run.id).eq(self.saved.iter().copied())
    }

    /// Writes a manifest in the background. `files` are the live files of a
    /// committed version, with their deleted rows; all of their entries have to
    /// be here.
    pub fn save<'a>(
        &mut self,
        identity: Identity,
        version: u64,
        seed: u64,
        files: impl Iterator<Item = SavedFile<'a>>,
    ) -> Result<()> {
        self.end_save();
        let Some(folder) = self.kept().cloned() else {
            return Ok(());
        };
        let names = names_of(&self.runs);
        let entry = |run: &Arc<Run>| RunEntry {
            id: run.id,
            places: run.places,
        };
        let manifest = Manifest {
            identity,
            version,
            seed,
            runs: self.runs.iter().map(|run| (entry(run), run.names.clone())).collect(),
            // Some entries of the others are in memory only.
            files: files
                .filter(|file| !self.recent_files.contains(file.number))
                .filter(|file| names.contains(file.number) || file.is_superseded)
                .map(|file| {
                    let entry = FileEntry {
                        number: file.number,
                        path: file.path.to_owned(),
                    };
                    (entry, file.deleted.clone())
                })
                .collect(),
        };
        self.saved = self.runs.iter().map(|run| run.id).collect();
        self.saved_at = Instant::now();
        let (runs, former) = (self.runs.clone(), std::mem::take(&mut self.former));
        let work = move || {
            let written = manifest.encode().and_then(|bytes| {
                runs.iter().try_for_each(|run| run.sync())?;
                failpoint::reach("index.runs");
                manifest::write(&folder, &bytes)
            });
            match written {
                Ok(()) => {
                    former.into_iter().for_each(|id| folder.remove_run(id));
                    Vec::new()
                }
                // The one before stays, and so do its runs.
                Err(error) => {
                    let error = unwritable(folder.dir(), Fault::Io(error));
                    warn!(%error, cause = error.cause(), hint = error.hint(), "cannot save the key index; more of it is read again at the next start");
                    former
                }
            }
        };
        let thread = std::thread::Builder::new().name("save-keys".to_owned()).spawn(work);
        self.save = Some(thread.map_err(|e| Error::transient("cannot start a thread").with_source(e))?);
        Ok(())
    }

    /// Waits until the last manifest is durable.
    pub fn end_save(&mut self) {
        if let Some(Ok(former)) = self.save.take().map(JoinHandle::join) {
            self.former.extend(former);
        }
    }

    /// Brings all that is in memory to disk, for a manifest that is to be the last.
    pub fn settle(&mut self) -> Result<bool> {
        self.end_merge();
        let kept = self.kept().is_some();
        if kept {
            self.freeze()?;
        }
        Ok(kept && !self.is_saved())
    }

    /// Makes the folder that of another log, whose index went. A manifest has to
    /// be saved next.
    pub fn rename(&mut self, log: &url::Url) {
        self.end_merge();
        self.end_save();
        let Some(folder) = &self.folder else { return };
        if let Some(renamed) = self.home.rename(folder, log) {
            self.folder = Some(renamed);
            self.saved = Vec::new();
        }
    }

    /// What the index holds in memory, in bytes.
    pub fn bytes(&self) -> usize {
        let runs: usize = self.runs.iter().map(|run| run.bytes()).sum();
        runs + self.recent.capacity() * (size_of::<(Key, Location)>() + 1)
    }

    /// Whether a merge is under way, or to be taken over.
    pub fn is_merging(&self) -> bool {
        self.merge.is_some()
    }

    /// Entries in runs, live or not, and the runs' bytes on disk.
    pub fn on_disk(&self) -> (u64, u64) {
        let runs = self.runs.iter();
        (
            runs.clone().map(|run| run.entries).sum(),
            runs.map(|run| run.file_bytes()).sum(),
        )
    }
}

impl Drop for KeyIndex {
    fn drop(&mut self) {
        if let Some(merge) = &self.merge {
            merge.cancel.store(true, Ordering::Relaxed);
        }
        self.home.memory().note_recent(self.recent_bytes, 0);
    }
}

/// From which run on runs are to be merged: with those after it, at least four,
/// that make up three times as much. So each merge makes entries part of a run
/// four times as large, and there are at most three runs of about a size.
fn due(sizes: &[u64]) -> Option<usize> {
    let mut after = sizes.iter().sum::<u64>();
    sizes.iter().enumerate().find_map(|(at, size)| {
        after -= size;
        (sizes.len() - at >= FAN_IN && 3 * size <= after).then_some(at)
    })
}
