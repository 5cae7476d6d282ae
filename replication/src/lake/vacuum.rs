//! What keeps a table's folder and log small: entries and files that no kept
//! version needs are removed.
//!
//! A version is kept for as long as `maintenance.retention` says, counted from
//! when the next one took its place. Of files, these stay: what the newest
//! version has, what an entry within that time removed, the changes that a kept
//! version tells, and all that is younger itself, for it may be on its way to a
//! commit. Spec: Delta protocol, "Vacuum".

use std::collections::{HashMap, HashSet};

use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectMeta, ObjectStore, ObjectStoreExt};
use serde_json::Value;
use url::Url;

use super::deletion_vector::Descriptor;
use super::log::{CHECKPOINT_VERSIONS_MAX, Log, now_ms, store_error};
use super::{DeltaTable, feed, store};
use crate::error::Result;
use crate::failpoint;

/// Objects removed at a time.
const REMOVALS: usize = 16;
/// How long checkpoints stay that others have followed.
const YOUNG_MS: i64 = 3600 * 1000;

/// What a clean-up has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    pub log_entries: u64,
    pub files: u64,
    pub bytes: u64,
}

/// Something in the log's folder that belongs to a version.
struct LogFile {
    version: u64,
    kind: Kind,
    path: Path,
    modified_ms: i64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Commit,
    Checkpoint,
    Checksum,
}

impl LogFile {
    fn of(meta: ObjectMeta) -> Option<Self> {
        let name = meta.location.filename()?;
        let version = name.get(..20)?.parse().ok()?;
        let kind = match name.get(20..)? {
            ".json" => Kind::Commit,
            ".checkpoint.parquet" => Kind::Checkpoint,
            ".crc" => Kind::Checksum,
            _ => return None,
        };
        Some(Self {
            version,
            kind,
            modified_ms: meta.last_modified.timestamp_millis(),
            path: meta.location,
        })
    }
}

impl Log {
    async fn log_files(&self) -> Result<Vec<LogFile>> {
        let listed = self.store().list(Some(&self.log_folder()));
        let mut files: Vec<LogFile> = listed
            .try_filter_map(|meta| async { Ok(LogFile::of(meta)) })
            .try_collect()
            .await
            .map_err(|e| store_error("cannot list the log of", self.url(), e))?;
        files.sort_by_key(|file| file.version);
        Ok(files)
    }

    /// Removes the entries that only versions need which were replaced before
    /// `cutoff_ms`. Returns how many.
    pub async fn trim(&self, cutoff_ms: i64) -> Result<u64> {
        self.trim_of(self.log_files().await?, cutoff_ms).await
    }

    async fn trim_of(&self, files: Vec<LogFile>, cutoff_ms: i64) -> Result<u64> {
        let base = first_needed(&files, cutoff_ms).unwrap_or_default();
        // The store's clock may be another than ours.
        let newest = files.iter().map(|file| file.modified_ms).max().unwrap_or_default();
        let mut spare = spare_checkpoints(&files, base, newest.min(now_ms()) - YOUNG_MS);
        // It may be older than the newest. Readers of a version before the one that it names
        // begin there, too.
        if let Some(hinted) = self.hinted().await? {
            spare.remove(&hinted);
        }
        let is_spare = |file: &LogFile| file.kind == Kind::Checkpoint && spare.contains(&file.version);
        let old = files.into_iter().filter(|file| file.version < base || is_spare(file));
        remove(self.store().as_ref(), self.url(), old.map(|file| file.path).collect()).await
    }

    /// The version of the checkpoint that the log's hint names.
    async fn hinted(&self) -> Result<Option<u64>> {
        let bytes = match self.store().get(&self.hint()).await {
            Ok(found) => found.bytes().await,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(e) => Err(e),
        };
        let bytes = bytes.map_err(|e| store_error("cannot read the log of", self.url(), e))?;
        let hint: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        Ok(hint["version"].as_u64())
    }

    /// Removes the data files and vectors that no version needs which is kept.
    /// `live` has those of the newest version, and what is on its way; `entries`
    /// is the log.
    async fn remove_unused(&self, live: &HashSet<String>, entries: &[LogFile], cutoff_ms: i64) -> Result<(u64, u64)> {
        let folder = self.folder().clone();
        let listed: Vec<ObjectMeta> = self
            .store()
            .list(Some(&folder))
            .try_filter(|meta| {
                let old = meta.last_modified.timestamp_millis() < cutoff_ms;
                futures::future::ready(old && is_content(&folder, &meta.location))
            })
            .try_collect()
            .await
            .map_err(|e| store_error("cannot list the files of", self.url(), e))?;
        let live: HashSet<Path> = live.iter().map(|path| self.file(path)).collect();
        let mut unused: HashMap<Path, u64> = listed
            .into_iter()
            .filter(|meta| !live.contains(&meta.location))
            .map(|meta| (meta.location, meta.size))
            .collect();
        // Versions that are kept still have what was removed since, and tell
        // their own changes.
        let oldest = oldest_kept(entries, cutoff_ms);
        for entry in entries {
            if unused.is_empty() {
                break;
            }
            let is_kept = oldest.is_some_and(|oldest| entry.version >= oldest);
            if entry.kind != Kind::Commit || !is_kept {
                continue;
            }
            let is_young = entry.modified_ms >= cutoff_ms;
            for action in self.read(entry.version).await?.unwrap_or_default() {
                let removed = named_by(&action["remove"]).into_iter().filter(|_| is_young);
                for path in removed.chain(named_by(&action["cdc"])) {
                    unused.remove(&self.file(&path));
                }
            }
        }
        let bytes = unused.values().sum();
        let removed = remove(self.store().as_ref(), self.url(), unused.into_keys().collect()).await?;
        Ok((removed, bytes))
    }
}

/// Removes objects, some at a time, in their order. Returns how many.
async fn remove(store: &dyn ObjectStore, url: &Url, paths: Vec<Path>) -> Result<u64> {
    let count = paths.len() as u64;
    let mut removals = futures::stream::iter(paths)
        .map(|path| async move { store.delete(&path).await })
        .buffered(REMOVALS);
    while let Some(removed) = removals.next().await {
        match removed {
            Ok(()) | Err(StoreError::NotFound { .. }) => {}
            Err(e) => return Err(store_error("cannot remove old files of", url, e)),
        }
    }
    Ok(count)
}

/// The checkpoint that the oldest kept version is read from, if there is one:
/// what is older is not needed.
fn first_needed(files: &[LogFile], cutoff_ms: i64) -> Option<u64> {
    let oldest_kept = oldest_kept(files, cutoff_ms)?;
    files
        .iter()
        .filter(|file| file.kind == Kind::Checkpoint && file.version <= oldest_kept)
        .map(|file| file.version)
        .next_back()
}

/// Checkpoints from `base` on that nobody needs who does not read the newest version:
/// another lies near enough before those which come after it. What is as young as
/// `young_ms` may be what somebody is about to read.
fn spare_checkpoints(files: &[LogFile], base: u64, young_ms: i64) -> HashSet<u64> {
    let checkpoints: Vec<&LogFile> = files
        .iter()
        .filter(|file| file.kind == Kind::Checkpoint && file.version >= base)
        .collect();
    let mut spare = HashSet::new();
    let mut before = None;
    for pair in checkpoints.windows(2).take_while(|pair| pair[1].modified_ms < young_ms) {
        let (version, next) = (pair[0].version, pair[1].version);
        match before {
            Some(before) if next - before <= CHECKPOINT_VERSIONS_MAX => {
                spare.insert(version);
            }
            _ => before = Some(version),
        }
    }
    spare
}

/// The oldest version that is kept.
fn oldest_kept(files: &[LogFile], cutoff_ms: i64) -> Option<u64> {
    let commits = || files.iter().filter(|file| file.kind == Kind::Commit);
    let newest = commits().next_back()?.version;
    // A version was current until the next one came.
    let next = commits().find(|file| file.modified_ms >= cutoff_ms);
    Some(next.map_or(newest, |next| next.version.saturating_sub(1)))
}

/// Whether a file of the folder holds rows, vectors or changes: nothing else
/// that is hidden, and nothing that others may have put there.
fn is_content(folder: &Path, path: &Path) -> bool {
    let Some(parts) = path.prefix_match(folder) else {
        return false;
    };
    // A partition's folder is not, whatever its column is called.
    let hidden = |part: &str| part.starts_with(['_', '.']) && !part.contains('=');
    let hidden = parts
        .enumerate()
        .any(|(at, part)| hidden(part.as_ref()) && (at, part.as_ref()) != (0, feed::FOLDER));
    let kind = path.extension().is_some_and(|end| end == "parquet" || end == "bin");
    kind && !hidden
}

/// The data file and the vector's file that an action names.
fn named_by(action: &Value) -> Vec<String> {
    let mut paths = Vec::new();
    if let Some(path) = action["path"].as_str() {
        paths.push(path.to_owned());
    }
    if let Ok(vector) = serde_json::from_value::<Descriptor>(action["deletionVector"].clone()) {
        paths.extend(vector.path());
    }
    paths
}

impl DeltaTable {
    /// Everything in the table's folder that must stay.
    fn needed(&self) -> HashSet<String> {
        let files = self.files.iter().filter(|file| !file.removed || file.committed);
        files
            .flat_map(|file| {
                let vector = file.vector.as_ref().and_then(Descriptor::path);
                std::iter::once(file.path.clone()).chain(vector)
            })
            .collect()
    }

    /// What a clean-up of this table needs to know; `None` while another
    /// content for it is gathered in the same folder.
    pub fn cleaning(&self) -> Option<Cleaning> {
        let alone = self.replaces.is_none() && self.record.copy.is_none();
        alone.then(|| Cleaning {
            log: self.log.clone(),
            needed: self.needed(),
        })
    }
}

/// A clean-up of one table's folder and log.
pub struct Cleaning {
    pub(super) log: Log,
    pub(super) needed: HashSet<String>,
}

impl Cleaning {
    /// Files first: the entries tell which are needed.
    pub async fn run(self, cutoff_ms: i64) -> Result<Cleaned> {
        let entries = self.log.log_files().await?;
        let (files, bytes) = self.log.remove_unused(&self.needed, &entries, cutoff_ms).await?;
        failpoint::reach("clean.files");
        let log_entries = self.log.trim_of(entries, cutoff_ms).await?;
        Ok(Cleaned {
            log_entries,
            files,
            bytes,
        })
    }
}

impl super::Lake {
    /// Removes what is left of copies that no table's record names. Returns
    /// how many objects.
    pub async fn remove_stray_copies(&self, named: &HashSet<String>, cutoff_ms: i64) -> Result<u64> {
        let root = store::root_path(&self.url("_tributary/copies")?)?;
        let unreadable = |e| store_error("cannot list the copies of", &self.root, e);
        let stray: Vec<Path> = self
            .store
            .list(Some(&root))
            .try_filter_map(|meta| {
                let copy = meta.location.prefix_match(&root).and_then(|mut parts| parts.next());
                let known = copy.is_none_or(|copy| named.contains(copy.as_ref()));
                let old = meta.last_modified.timestamp_millis() < cutoff_ms;
                futures::future::ready(Ok((old && !known).then_some(meta.location)))
            })
            .try_collect()
            .await
            .map_err(unreadable)?;
        remove(self.store.as_ref(), &self.root, stray).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(version: u64, kind: Kind, modified_ms: i64) -> LogFile {
        LogFile {
            version,
            kind,
            path: Path::default(),
            modified_ms,
        }
    }

    #[test]
    fn the_oldest_kept_version_keeps_its_checkpoint() {
        // Version n was written at 10 * n; checkpoints at 4 and 8.
        let mut files: Vec<LogFile> = (0..=10).map(|v| file(v, Kind::Commit, v as i64 * 10)).collect();
        files.push(file(4, Kind::Checkpoint, 40));
        files.push(file(8, Kind::Checkpoint, 80));
        files.sort_by_key(|file| file.version);
        for (cutoff, expected) in [
            (0, None),
            // Version 3 was current until 40.
            (40, None),
            (41, Some(4)),
            (50, Some(4)),
            (89, Some(8)),
            (81, Some(8)),
            (80, Some(4)),
            // All is old: the newest version stays.
            (1000, Some(8)),
        ] {
            assert_eq!(first_needed(&files, cutoff), expected, "{cutoff}");
        }
    }

    #[test]
    fn old_checkpoints_stay_near_enough_to_each_other() {
        let at = |versions: &[u64]| -> Vec<LogFile> {
            versions.iter().map(|v| file(*v, Kind::Checkpoint, *v as i64)).collect()
        };
        let files = at(&[10, 20, 60, 110, 115, 300, 310, 390, 400, 420, 500]);
        for (base, young_ms, expected) in [
            (0, 1000, vec![20, 60, 310, 390, 420]),
            // The newest but those that are young.
            (0, 420, vec![20, 60, 310, 390]),
            (60, 420, vec![110, 310, 390]),
            (0, 60, vec![]),
            (400, 1000, vec![420]),
        ] {
            let mut spare: Vec<u64> = spare_checkpoints(&files, base, young_ms).into_iter().collect();
            spare.sort_unstable();
            assert_eq!(spare, expected, "from {base}, before {young_ms}");
        }
    }

    #[test]
    fn hidden_folders_and_other_files_are_left_alone() {
        let folder = Path::from("lake/public/t");
        for (path, content) in [
            ("lake/public/t/part-1.snappy.parquet", true),
            ("lake/public/t/deletion_vector_1.bin", true),
            ("lake/public/t/day=1/part-1.parquet", true),
            ("lake/public/t/_day=%2E%2E/part-1.parquet", true),
            (
                "lake/public/t/_delta_log/00000000000000000010.checkpoint.parquet",
                false,
            ),
            ("lake/public/t/_change_data/cdc-1.snappy.parquet", true),
            ("lake/public/t/day=1/_change_data/cdc-1.snappy.parquet", false),
            ("lake/public/t/.hidden/part-1.parquet", false),
            ("lake/public/t/notes.txt", false),
            ("lake/public/t2/part-1.parquet", false),
        ] {
            assert_eq!(is_content(&folder, &Path::from(path)), content, "{path}");
        }
    }
}
