//! What becomes of our commit when another writer's takes its version: theirs
//! is taken over, what was staged is brought in line, and ours comes next.
//!
//! | They | We |
//! |---|---|
//! | are a newer sidecar of this pipeline | stop |
//! | changed columns, properties or features | open the table again |
//! | removed a file | drop it; staged deletes of its rows follow the rows by their keys |
//! | enlarged a file's vector | enlarge theirs |
//! | added rows | index them; where we have a row of that key already, theirs dies |
//! | compacted rows of ours together with theirs of the same keys | write ours anew |
//!
//! So each key has one row, ours if there is any.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::ArrayRef;
use roaring::RoaringBitmap;
use serde_json::Value;

use super::data_file::WrittenFile;
use super::deletion_vector::Descriptor;
use super::key_index::{IndexHome, Location};
use super::log::LiveFile;
use super::record::TableRecord;
use super::{DataFile, DeltaTable, UNREADABLE, data_file, is_marked, undeleted};
use crate::error::{Error, Result};
use crate::key::Key;

/// Rows that are written anew at a time.
const KEPT_ROWS: usize = 1 << 10;

/// What an entry is to us that took our version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// Its files can be taken over.
    Files,
    /// Columns, properties or features are others now.
    Table,
    /// It has our own changes.
    Ours,
}

/// Whose an entry is. Errors: a newer sidecar's, so we are the one to stop.
pub fn judge(entry: &[Value], own: &TableRecord) -> Result<Others> {
    if record_of(entry).is_some_and(|theirs| theirs.epoch > own.epoch) {
        return Err(Error::operator(format!(
            "another sidecar of this pipeline writes {}; this one stops",
            own.table
        ))
        .with_hint("run one `tributary run` per slot"));
    }
    let has = |what: &dyn Fn(&Value) -> bool| entry.iter().any(what);
    if has(&|action| action["txn"]["appId"] == own.pipeline.as_str()) {
        return Ok(Others::Ours);
    }
    match changes_table(entry) {
        true => Ok(Others::Table),
        false => Ok(Others::Files),
    }
}

/// Whether an entry changes the table itself.
fn changes_table(entry: &[Value]) -> bool {
    let changes = |action: &Value| action["metaData"].is_object() || action["protocol"].is_object();
    entry.iter().any(changes)
}

fn record_of(entry: &[Value]) -> Option<TableRecord> {
    entry
        .iter()
        .find_map(|action| TableRecord::from_action(&action["domainMetadata"]))
}

/// Whether an entry is one that a sidecar, or `maintain`, compacts files with.
fn is_compaction(entry: &[Value]) -> bool {
    let has = |what: &dyn Fn(&Value) -> bool| entry.iter().any(what);
    has(&|action| action["commitInfo"]["operation"] == "OPTIMIZE") && !has(&|action| action["txn"].is_object())
}

impl DeltaTable {
    /// Takes over what others have committed since our last look.
    pub(super) async fn absorb(&mut self) -> Result<()> {
        while let Some(entry) = self.log.read(self.version + 1).await? {
            let version = self.version + 1;
            let fits = match judge(&entry, &self.record)? {
                Others::Files => true,
                Others::Table => false,
                // The sidecar's, beside which this is maintenance, for columns as they are.
                Others::Ours => !self.indexed && !changes_table(&entry),
            };
            if !fits {
                return Err(Error::transient(format!(
                    "another writer committed version {version} of {}",
                    self.record.table
                )));
            }
            self.take_over(&entry).await?;
        }
        Ok(())
    }

    /// Makes a table ready for its writer: fills the index, and takes over what
    /// others have committed since our last version, in their order. Returns the
    /// rows indexed.
    pub async fn prepare(&mut self, indexes: &Arc<IndexHome>) -> Result<u64> {
        let newest = self.version;
        self.go_back_to_own().await?;
        let indexed = self.open_index(indexes).await?;
        while self.version < newest {
            let version = self.version + 1;
            let entry = self.log.read(version).await?;
            let entry =
                entry.ok_or_else(|| Error::transient(format!("version {version} of {} is gone", self.record.table)))?;
            self.take_over(&entry).await?;
        }
        Ok(indexed)
    }

    async fn take_over(&mut self, entry: &[Value]) -> Result<()> {
        self.take_in(entry).await?;
        self.version += 1;
        if !self.indexed {
            if let Some(record) = record_of(entry) {
                self.record = record;
            }
            return Ok(());
        }
        let operation = entry
            .iter()
            .find_map(|action| action["commitInfo"]["operation"].as_str());
        tracing::warn!(table = %self.record.table, version = self.version, operation,
            "another writer committed to the table; its change is taken over");
        Ok(())
    }

    /// Goes back to the last version that is ours.
    async fn go_back_to_own(&mut self) -> Result<()> {
        let newest = self.version;
        let (mut own, mut others) = (newest, false);
        while own > 0 {
            match self.log.read(own).await? {
                Some(entry) if record_of(&entry).is_none() => others = true,
                // What others have added before it is in its files.
                Some(entry) if is_compaction(&entry) => {}
                Some(_) => break,
                // Cleaned up: as it is, then.
                None => return Ok(()),
            }
            own -= 1;
        }
        if !others {
            return Ok(());
        }
        let state = self.log.load_at(&self.record.pipeline, own).await?;
        let state = state.ok_or_else(|| Error::transient(format!("{} is gone", self.record.table)))?;
        self.files.clear();
        for file in state.files {
            self.files.push(DataFile::live(&self.log, file).await?);
        }
        self.version = own;
        Ok(())
    }

    async fn take_in(&mut self, entry: &[Value]) -> Result<()> {
        let added = |action: &Value| action["add"].is_object().then(|| LiveFile::of(&action["add"]));
        let added = entry.iter().filter_map(added).collect::<Option<Vec<LiveFile>>>();
        let added = added.ok_or_else(|| self.unfit("has an add that can't be read"))?;
        let numbers: HashMap<&str, usize> = self
            .files
            .iter()
            .enumerate()
            .filter(|(_, file)| file.committed)
            .map(|(number, file)| (file.path.as_str(), number))
            .collect();
        let number_of = |path: &str| numbers.get(path).copied();
        let (mut gone, mut grown, mut new) = (Vec::new(), Vec::new(), Vec::new());
        for remove in entry.iter().map(|action| &action["remove"]) {
            let path = remove["path"].as_str().unwrap_or_default();
            if added.iter().all(|add| add.path != path) {
                gone.extend(number_of(path));
            }
        }
        for add in added {
            match number_of(&add.path) {
                Some(number) => grown.push((number, add)),
                None => new.push(add),
            }
        }
        if self.shape.mode.is_history() {
            if !grown.is_empty() || new.iter().any(|add| add.deletion_vector.is_some()) {
                return Err(self.unfit("has lost rows of its history"));
            }
            return self.take_in_changes(&gone, new).await;
        }
        let mut emptied = false;
        let mut deleted_keys = HashSet::new();
        // Keys that lost one row to another of ours: both are in what comes.
        let mut kept = Vec::new();
        let is_mirror = self.shape.mode.is_mirror();
        for number in &gone {
            let staged = self.staged_deletes(*number).await?;
            // A staged truncation empties whatever comes in its place.
            emptied |= self.files[*number].is_emptied();
            for key in self.keys_at(*number, &staged.iter().collect::<Vec<u32>>()).await? {
                let row = self
                    .find_any(key)?
                    .filter(|row| !new.is_empty() && gone.contains(&(row.file() as usize)));
                // Where what is deleted stays, the index has its newer row.
                if (is_mirror || row.is_some()) && deleted_keys.insert(key) {
                    kept.extend(row.map(|row| (row, key)));
                }
            }
        }
        let marked = kept.iter().filter(|(row, _)| is_marked(&self.files, *row));
        let marked: HashSet<Key> = marked.map(|(_, key)| *key).collect();
        let kept = self.write_kept(kept).await?;
        for number in gone {
            self.files[number] = DataFile::gone();
        }
        emptied |= self.files.iter().any(|file| file.is_emptied() && file.committed);
        for (number, add) in grown {
            let theirs = self.vector_rows(add.deletion_vector.as_ref()).await?;
            let before = self.vector_rows(self.files[number].vector.as_ref()).await?;
            if !before.is_subset(&theirs) {
                return Err(self.unfit("has rows again that were deleted"));
            }
            if is_mirror && !new.is_empty() {
                // Theirs may be the newer row of a key that we delete.
                let ours = self.staged_deletes(number).await? & &theirs;
                deleted_keys.extend(self.keys_at(number, &ours.iter().collect::<Vec<u32>>()).await?);
            }
            let file = &mut self.files[number];
            file.vector = add.deletion_vector;
            if !file.removed {
                file.dirty = !file.deleted.is_subset(&theirs);
            }
            // Their version has told of these.
            file.killed -= &theirs;
            file.deleted |= theirs;
        }
        for mut add in new {
            add.deleted = self.vector_rows(add.deletion_vector.as_ref()).await?;
            let mut file = DataFile::live(&self.log, add).await?;
            file.removed = emptied;
            let number = self.place(file) as usize;
            if !emptied && self.indexed {
                self.take_rows(number, &deleted_keys).await?;
            }
        }
        for (file, keys) in kept {
            self.add_new_versions(file, &keys, &marked)?;
        }
        Ok(())
    }

    /// Writes rows of files that are gone to files of ours.
    async fn write_kept(&self, mut rows: Vec<(Location, Key)>) -> Result<Vec<(WrittenFile, Vec<Key>)>> {
        rows.sort_unstable_by_key(|(row, _)| (row.file(), row.row()));
        let mut writer = self.file_format().writer();
        for of_file in rows.chunk_by(|(a, _), (b, _)| a.file() == b.file()) {
            let stored = self.files[of_file[0].0.file() as usize].stored();
            for some in of_file.chunks(KEPT_ROWS) {
                let (numbers, keys): (Vec<u32>, Vec<Key>) = some.iter().map(|(row, key)| (row.row(), *key)).unzip();
                let read = data_file::read_rows(&self.log, &stored, &self.whole_schema, &numbers).await?;
                writer.write(&read, &keys).await?;
            }
        }
        writer.finish().await
    }

    /// Indexes a file that another writer has added. Its rows die where we have
    /// one of their key, or have deleted it.
    async fn take_rows(&mut self, number: usize, deleted_keys: &HashSet<Key>) -> Result<()> {
        self.read_marks(&[number]).await?;
        let mut dead = RoaringBitmap::new();
        let file = &self.files[number];
        let rows = undeleted(file.rows, &file.deleted);
        for (key, row) in self.keys_at(number, &rows).await?.into_iter().zip(rows) {
            if deleted_keys.contains(&key) || self.find_any(key)?.is_some() {
                dead.insert(row);
            } else {
                self.index.insert(key, Location::new(number as u32, row))?;
            }
        }
        self.maintain_index()?;
        if !dead.is_empty() {
            let table = &self.record.table;
            tracing::warn!(%table, rows = dead.len(), "another writer added rows whose keys the table has; they are removed");
            let file = &mut self.files[number];
            file.killed |= &dead;
            file.deleted |= dead;
            file.dirty = true;
            self.has_staged = true;
        }
        Ok(())
    }

    /// The rows that staged changes deleted in a file.
    async fn staged_deletes(&self, number: usize) -> Result<RoaringBitmap> {
        let file = &self.files[number];
        if !file.dirty || file.is_emptied() {
            return Ok(RoaringBitmap::new());
        }
        Ok(&file.deleted - &self.vector_rows(file.vector.as_ref()).await?)
    }

    /// The keys of some rows of a file.
    async fn keys_at(&self, number: usize, rows: &[u32]) -> Result<Vec<Key>> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let (columns, order) = self.key_columns()?;
        let stored = self.files[number].stored();
        let mut keys = Vec::with_capacity(rows.len());
        data_file::scan_rows(&self.log, &stored, &columns, rows, |batch| {
            let columns: Vec<&ArrayRef> = order.iter().map(|c| batch.column(*c)).collect();
            keys.extend(self.encoder.keys_of(&columns, batch.num_rows())?);
            Ok(())
        })
        .await?;
        Ok(keys)
    }

    async fn vector_rows(&self, vector: Option<&Descriptor>) -> Result<RoaringBitmap> {
        match vector {
            Some(vector) => Ok(self.log.vectors(vec![vector.clone()]).await?.pop().unwrap_or_default()),
            None => Ok(RoaringBitmap::new()),
        }
    }

    /// What was done can't be brought in line with another writer's commit.
    pub(super) fn beside(&self, what: &str) -> Error {
        let table = &self.record.table;
        Error::transient(format!("another writer committed to {table} beside {what}"))
    }

    fn unfit(&self, what: &str) -> Error {
        let table = &self.record.table;
        Error::operator(format!("{table} {what}: another program has changed it"))
            .with_hint(format!("`tributary snapshot {table}` copies the table anew"))
            .with_code(UNREADABLE)
    }
}
