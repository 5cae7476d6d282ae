//! Merges runs into one: of equal keys the newest entry stays, and none whose
//! row was dead when the merge began. Memory is some blocks of each run.

use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use roaring::RoaringBitmap;

use super::Location;
use super::home::Memory;
use super::run::{Cursor, Fault, Run, RunWriter};
use crate::key::Key;

/// Entries between two looks at whether the merge is still wanted.
const CANCEL_ENTRIES: u64 = 16 << 10;

/// Which rows were there at one moment: by file number, the deleted rows of
/// files that were.
#[derive(Default)]
pub struct Live(Vec<Option<RoaringBitmap>>);

impl Live {
    pub fn insert(&mut self, file: u32, deleted: RoaringBitmap) {
        let file = file as usize;
        if self.0.len() <= file {
            self.0.resize_with(file + 1, || None);
        }
        self.0[file] = Some(deleted);
    }

    pub fn has(&self, location: Location) -> bool {
        match self.0.get(location.file() as usize) {
            Some(Some(deleted)) => deleted.is_empty() || !deleted.contains(location.row()),
            _ => false,
        }
    }
}

/// What became of a merge.
pub enum Merged {
    Run(Run),
    /// No entry was left.
    Nothing,
    Cancelled,
}

/// The first entry of what is left of a run. The greatest is the one to take:
/// the least key, and of equal keys the newest.
struct Head {
    key: Key,
    /// The input's number; newer ones are higher.
    input: usize,
    location: Location,
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Head {}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.key.cmp(&self.key).then(self.input.cmp(&other.input))
    }
}

/// Merges runs, the oldest first, into a new one at `path`. Without `live` all
/// entries are.
pub fn merge(
    inputs: &[Arc<Run>],
    live: Option<&Live>,
    path: &Path,
    id: u64,
    exact: bool,
    memory: &Arc<Memory>,
    cancel: &AtomicBool,
) -> Result<Merged, Fault> {
    let entries = inputs.iter().map(|run| run.entries).sum();
    let writer = RunWriter::create(path, id, exact, entries, memory)?;
    let merged = merge_into(writer, inputs, live, cancel);
    if !matches!(merged, Ok(Merged::Run(_))) {
        let _ = fs::remove_file(path);
    }
    merged
}

fn merge_into(
    mut writer: RunWriter,
    inputs: &[Arc<Run>],
    live: Option<&Live>,
    cancel: &AtomicBool,
) -> Result<Merged, Fault> {
    let mut cursors: Vec<Cursor> = inputs.iter().map(|run| Cursor::new(run)).collect();
    let mut heads = BinaryHeap::with_capacity(cursors.len());
    for (input, cursor) in cursors.iter_mut().enumerate() {
        if let Some((key, location)) = cursor.next()? {
            heads.push(Head { key, input, location });
        }
    }
    let mut last = None;
    let mut taken = 0_u64;
    while let Some(mut head) = heads.peek_mut() {
        let (key, location) = (head.key, head.location);
        match cursors[head.input].next()? {
            Some((key, location)) => (head.key, head.location) = (key, location),
            None => {
                PeekMut::pop(head);
            }
        }
        if last.replace(key) != Some(key) && live.is_none_or(|live| live.has(location)) {
            writer.push(key, location)?;
        }
        taken += 1;
        if taken.is_multiple_of(CANCEL_ENTRIES) && cancel.load(Ordering::Relaxed) {
            return Ok(Merged::Cancelled);
        }
    }
    match writer.last() {
        Some(_) => writer.finish().map(Merged::Run),
        None => Ok(Merged::Nothing),
    }
}
