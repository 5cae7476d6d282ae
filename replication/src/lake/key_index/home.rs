//! Where key indexes live: one folder for each table's log, one memory budget
//! for all.
//!
//! ```text
//! <cache.dir>/keys/<hash of the log's URL>/     manifest, runs
//! <cache.dir>/keys/<hash of the log's URL>.lock held while the folder is in use
//! <cache.dir>/keys/tributary-private-<id>/      who has no other; goes with its index
//! ```

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tracing::{debug, info, warn};
use url::Url;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_128;

use super::run::{BLOCK, Block, Fault};
use crate::config;
use crate::error::{Error, Result};

/// How long a folder that is in use is waited for: an earlier attempt of this
/// process may be about to leave it.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);
/// A folder that was not written for so long belongs to a table that is gone.
const UNUSED_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
const PRIVATE: &str = "tributary-private-";
/// Merges of runs at the same time, of all tables.
const MERGES_MAX: usize = 2;

/// What all indexes may hold in memory together.
pub struct Memory {
    bytes_max: usize,
    recent: AtomicUsize,
    filters: AtomicUsize,
    merges: AtomicUsize,
    pub index_blocks: BlockCache,
    pub data_blocks: BlockCache,
}

impl Memory {
    /// Of which a quarter is for recent keys, half for filters, and an eighth
    /// each for the two kinds of blocks.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            recent: AtomicUsize::new(0),
            filters: AtomicUsize::new(0),
            merges: AtomicUsize::new(0),
            index_blocks: BlockCache::new(bytes_max / 8),
            data_blocks: BlockCache::new(bytes_max / 8),
        }
    }

    /// Notes that an index's recent keys hold `now` bytes instead of `before`.
    pub fn note_recent(&self, before: usize, now: usize) {
        self.recent.fetch_add(now, Ordering::Relaxed);
        self.recent.fetch_sub(before, Ordering::Relaxed);
    }

    /// Whether recent keys should go to disk early.
    pub fn is_tight(&self) -> bool {
        self.recent.load(Ordering::Relaxed) > self.bytes_max / 4
    }

    /// What a bulk of entries may hold before it is sorted.
    pub fn bulk_bytes(&self) -> usize {
        (self.bytes_max / 4).clamp(1 << 20, 32 << 20)
    }

    /// Takes memory for a filter, if there is any. No filter gets more than an
    /// eighth of all: many small runs need theirs more than a large one.
    pub fn take_filter(&self, bytes: usize) -> bool {
        let take = |taken: usize| (taken + bytes <= self.bytes_max / 2).then_some(taken + bytes);
        bytes <= self.bytes_max / 8
            && self
                .filters
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                .is_ok()
    }

    pub fn give_filter(&self, bytes: usize) {
        self.filters.fetch_sub(bytes, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub fn filter_bytes(&self) -> usize {
        self.filters.load(Ordering::Relaxed)
    }

    /// Lets a merge begin, unless enough are at work. The value ends with it.
    pub fn begin_merge(self: &Arc<Self>) -> Option<Merging> {
        let begin = |merges: usize| (merges < MERGES_MAX).then_some(merges + 1);
        let begun = self.merges.fetch_update(Ordering::Relaxed, Ordering::Relaxed, begin);
        begun.is_ok().then(|| Merging(self.clone()))
    }
}

pub struct Merging(Arc<Memory>);

impl Drop for Merging {
    fn drop(&mut self) {
        self.0.merges.fetch_sub(1, Ordering::Relaxed);
    }
}

type Slot = Option<(u64, u64, Arc<Block>)>;

/// Blocks of runs that were read; each has one slot that it shares with others.
pub struct BlockCache {
    slots: Mutex<Vec<Slot>>,
    slots_max: usize,
}

impl BlockCache {
    fn new(bytes_max: usize) -> Self {
        Self {
            slots: Mutex::new(Vec::new()),
            slots_max: (bytes_max / BLOCK).max(1),
        }
    }

    fn slot(&self, run: u64, place: u64) -> usize {
        let spread = (run ^ place).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        ((u128::from(spread) * self.slots_max as u128) >> 64) as usize
    }

    pub fn get(&self, run: u64, place: u64) -> Option<Arc<Block>> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        match slots.get(self.slot(run, place)) {
            Some(Some((r, p, block))) if (*r, *p) == (run, place) => Some(block.clone()),
            _ => None,
        }
    }

    pub fn insert(&self, run: u64, place: u64, block: Arc<Block>) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.is_empty() {
            slots.resize(self.slots_max, None);
        }
        if let Some(slot) = slots.get_mut(self.slot(run, place)) {
            *slot = Some((run, place, block));
        }
    }
}

/// The folder of all key indexes, and the memory that they share.
pub struct IndexHome {
    root: PathBuf,
    memory: Arc<Memory>,
    /// Whether tables keep their folders.
    kept: bool,
    /// Until when folders in use are waited for.
    patience: Instant,
}

impl IndexHome {
    /// Indexes that are kept below `dir`, or in the user's cache folder. Removes
    /// what tables and processes left that are gone.
    ///
    /// Errors: `dir` can't be written. Without one, a temporary folder will do.
    pub fn open(dir: Option<&Path>, memory: u64) -> Result<Arc<Self>> {
        let (chosen, given) = match dir {
            Some(dir) => (Some(dir.to_owned()), true),
            None => (config::cache_dir(), false),
        };
        let Some(dir) = chosen else {
            return Ok(Self::temporary(memory));
        };
        let root = std::path::absolute(&dir).unwrap_or(dir).join("keys");
        if let Err(error) = prepare(&root) {
            if !given {
                warn!(dir = %root.display(), %error, "no folder for key indexes there; they go to a temporary one");
                return Ok(Self::temporary(memory));
            }
            return Err(Error::operator(format!("cannot write to cache.dir {}", root.display()))
                .with_hint(
                    "make the folder writable for this user, or set another cache.dir; what is in it can be lost",
                )
                .with_source(error));
        }
        sweep(&root, true);
        Ok(Self::at(root, memory, true))
    }

    /// As [`IndexHome::private`], without what processes left that were killed.
    fn temporary(memory: u64) -> Arc<Self> {
        sweep(&std::env::temp_dir(), false);
        Self::private(memory)
    }

    /// Indexes that go with who opens them; they disturb no kept ones.
    pub fn private(memory: u64) -> Arc<Self> {
        Self::at(std::env::temp_dir(), memory, false)
    }

    /// As [`IndexHome::private`], on the disk of those that are kept.
    pub fn beside(dir: Option<&Path>, memory: u64) -> Arc<Self> {
        let root = dir
            .map(Path::to_owned)
            .or_else(config::cache_dir)
            .map(|dir| dir.join("keys"));
        match root.filter(|root| prepare(root).is_ok()) {
            Some(root) => Self::at(root, memory, false),
            None => Self::private(memory),
        }
    }

    fn at(root: PathBuf, memory: u64, kept: bool) -> Arc<Self> {
        Arc::new(Self {
            root,
            memory: Arc::new(Memory::new(usize::try_from(memory).unwrap_or(usize::MAX))),
            kept,
            patience: Instant::now() + PATIENCE,
        })
    }

    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    fn kept_dir(&self, log: &Url) -> PathBuf {
        self.root.join(format!("{:032x}", xxh3_128(log.as_str().as_bytes())))
    }

    /// A folder of its own, removed at its end.
    pub fn private_folder(&self) -> Result<Arc<Folder>> {
        loop {
            let dir = self.root.join(format!("{PRIVATE}{}", Uuid::new_v4()));
            let locked = prepare(&self.root).and_then(|()| lock(&dir));
            // Somebody may take it for one that was left, before it is locked.
            let Some(lock) = locked.map_err(|e| folder_error(&dir, e))? else {
                continue;
            };
            prepare(&dir).map_err(|e| folder_error(&dir, e))?;
            return Ok(Arc::new(Folder { dir, kept: false, lock }));
        }
    }

    /// The folder of a table by its log, if nobody else has it; otherwise, or if
    /// none is kept, one that goes at the end.
    pub async fn folder(&self, log: &Url) -> Result<Arc<Folder>> {
        if !self.kept {
            return self.private_folder();
        }
        let dir = self.kept_dir(log);
        loop {
            match lock(&dir) {
                Ok(Some(lock)) => {
                    prepare(&dir).map_err(|e| folder_error(&dir, e))?;
                    note_use(&lock);
                    return Ok(Arc::new(Folder { dir, kept: true, lock }));
                }
                Ok(None) if Instant::now() < self.patience => tokio::time::sleep(POLL).await,
                Ok(None) => {
                    info!(dir = %dir.display(), "another process has the key index; this one builds its own");
                    return self.private_folder();
                }
                Err(error) => return Err(folder_error(&dir, error)),
            }
        }
    }

    /// Makes a folder that of another log, in the place of what that had.
    /// Returns it anew, or `None` if that was not possible.
    ///
    /// Nobody else may hold `from`.
    pub fn rename(&self, from: &Folder, log: &Url) -> Option<Arc<Folder>> {
        if !from.kept {
            return None;
        }
        let dir = self.kept_dir(log);
        let moved = lock(&dir).and_then(|lock| {
            let lock = lock.ok_or_else(|| io::Error::from(io::ErrorKind::WouldBlock))?;
            remove_dir(&dir)?;
            fs::rename(&from.dir, &dir)?;
            Ok(lock)
        });
        match moved {
            Ok(lock) => {
                let _ = fs::remove_file(lock_path(&from.dir));
                Some(Arc::new(Folder { dir, kept: true, lock }))
            }
            Err(error) => {
                warn!(dir = %dir.display(), %error, "cannot keep the key index of a copy; it is built anew at the next start");
                None
            }
        }
    }

    /// Removes the folder of a log that is gone, unless somebody has it.
    pub fn forget(&self, log: &Url) {
        if self.kept {
            discard(&self.kept_dir(log));
        }
    }
}

/// A folder that is ours alone.
pub struct Folder {
    dir: PathBuf,
    kept: bool,
    lock: File,
}

impl Folder {
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn is_kept(&self) -> bool {
        self.kept
    }

    pub fn run(&self, id: u64) -> PathBuf {
        self.dir.join(format!("{id:016x}.run"))
    }

    pub fn manifest(&self) -> PathBuf {
        self.dir.join("manifest")
    }

    pub fn remove_run(&self, id: u64) {
        let path = self.run(id);
        if let Err(error) = fs::remove_file(&path) {
            debug!(path = %path.display(), %error, "cannot remove a run");
        }
    }

    /// Removes all files but those of some runs, and the manifest if `keep` is
    /// empty.
    pub fn clean(&self, keep: &[u64]) {
        let kept: Vec<PathBuf> = keep.iter().map(|id| self.run(*id)).collect();
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()) {
            let named = kept.contains(&path) || (!keep.is_empty() && path == self.manifest());
            if !named && let Err(error) = fs::remove_file(&path) {
                debug!(path = %path.display(), %error, "cannot remove a file that is not used any more");
            }
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.kept {
            note_use(&self.lock);
        } else {
            let _ = fs::remove_dir_all(&self.dir);
            let _ = fs::remove_file(lock_path(&self.dir));
        }
    }
}

fn folder_error(dir: &Path, error: io::Error) -> Error {
    Error::transient(format!("cannot write the key index in {}", dir.display()))
        .with_hint("free space there, or set another cache.dir; what is in it can be lost")
        .with_source(error)
}

pub fn unwritable(dir: &Path, fault: Fault) -> Error {
    match fault {
        Fault::Io(error) => folder_error(dir, error),
        damaged @ Fault::Damaged(_) => folder_error(dir, io::Error::other(damaged)),
    }
}

/// Makes a folder that only its owner can look into: who knows the seed of
/// hashed keys can choose keys that collide.
fn prepare(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Notes on a folder's lock that the folder is in use now. Where that is not
/// possible, it seems unused a little earlier.
fn note_use(lock: &File) {
    let _ = lock.set_modified(SystemTime::now());
}

fn lock_path(dir: &Path) -> PathBuf {
    dir.with_extension("lock")
}

/// Locks a folder, or returns `None` if somebody else has it.
fn lock(dir: &Path) -> io::Result<Option<File>> {
    let path = lock_path(dir);
    loop {
        let file = File::options().create(true).append(true).open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
        // Who had it may have removed it: then another file has its name.
        let ours = file.metadata()?;
        match fs::metadata(&path) {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => return Ok(Some(file)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}

fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes a folder and its lock, unless somebody has it.
fn discard(dir: &Path) {
    if let Ok(Some(_lock)) = lock(dir) {
        let removed = remove_dir(dir).and_then(|()| fs::remove_file(lock_path(dir)));
        if let Err(error) = removed {
            debug!(dir = %dir.display(), %error, "cannot remove a key index that is not used any more");
        }
    }
}

/// Removes what processes left that were killed, and, where folders are `kept`,
/// what was not used for long.
fn sweep(root: &Path, kept: bool) {
    for path in fs::read_dir(root).into_iter().flatten().flatten().map(|e| e.path()) {
        let Some(name) = path.file_stem().and_then(|name| name.to_str()) else {
            continue;
        };
        let is_private = name.starts_with(PRIVATE);
        let is_lock = path.extension().is_some_and(|extension| extension == "lock");
        // Its folder comes by itself.
        if is_lock && !is_private && path.with_extension("").exists() {
            continue;
        }
        let used = lock_path(&path).metadata().and_then(|lock| lock.modified()).ok();
        let age = used.and_then(|used| SystemTime::now().duration_since(used).ok());
        if is_private || kept && age.is_some_and(|age| age > UNUSED_MAX) {
            discard(&path.with_extension(""));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> PathBuf {
        std::env::temp_dir().join(format!("tributary-home-{}", Uuid::new_v4()))
    }

    #[tokio::test]
    async fn a_folder_has_one_user_and_what_a_killed_process_left_goes() {
        let dir = dir();
        let log = Url::parse("file:///lake/t/").expect("url");
        let home = IndexHome::open(Some(&dir), 1 << 20).expect("home");
        let first = home.folder(&log).await.expect("folder");
        assert!(first.is_kept());
        // As a process that was not there a moment ago.
        let other = IndexHome {
            root: home.root.clone(),
            memory: home.memory.clone(),
            kept: true,
            patience: Instant::now(),
        };
        let second = other.folder(&log).await.expect("folder");
        assert!(!second.is_kept());
        let private = second.dir().to_owned();
        drop(second);
        assert!(!private.exists() && first.dir().exists());
        drop(first);
        assert!(other.folder(&log).await.expect("folder").is_kept());
        // Left by a kill: nobody holds the lock.
        let left = home.root.join(format!("{PRIVATE}left"));
        prepare(&left).expect("folder");
        fs::write(left.join("x.run"), b"x").expect("file");
        fs::write(lock_path(&left), b"").expect("lock");
        let used = home.private_folder().expect("folder");
        IndexHome::open(Some(&dir), 1 << 20).expect("home");
        assert!(!left.exists() && !lock_path(&left).exists());
        assert!(used.dir().exists() && home.kept_dir(&log).exists());
        // A folder is as old as its last use, not as what is in it.
        let lock = File::options()
            .append(true)
            .open(lock_path(&home.kept_dir(&log)))
            .expect("lock");
        let long_ago = SystemTime::now() - UNUSED_MAX - UNUSED_MAX;
        lock.set_modified(long_ago).expect("older");
        drop(other.folder(&log).await.expect("folder"));
        IndexHome::open(Some(&dir), 1 << 20).expect("home");
        assert!(home.kept_dir(&log).exists());
        lock.set_modified(long_ago).expect("older");
        sweep(&home.root, false);
        assert!(home.kept_dir(&log).exists());
        IndexHome::open(Some(&dir), 1 << 20).expect("home");
        assert!(!home.kept_dir(&log).exists());
        drop(other.folder(&log).await.expect("folder"));
        home.forget(&log);
        assert!(!home.kept_dir(&log).exists());
        drop(used);
        assert_eq!(fs::read_dir(&home.root).expect("root").count(), 0);
        fs::remove_dir_all(dir).expect("clean");
    }

    #[test]
    fn a_folder_that_cannot_be_written_says_what_to_do() {
        let dir = dir();
        fs::write(&dir, b"a file").expect("file");
        let error = IndexHome::open(Some(&dir), 1 << 20).err().expect("no folder");
        assert!(error.to_string().contains("cache.dir") && error.hint().is_some());
        fs::remove_file(dir).expect("clean");
    }
}
