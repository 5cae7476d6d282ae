//! Many entries at once, in bounded memory: sorted in chunks, which become
//! runs, which become one. Chunks that follow each other in key order, as keys
//! that grow with time do, become one run straight away.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::home::{Folder, Memory, unwritable};
use super::merge::{Merged, merge};
use super::run::{Fault, Run, RunWriter};
use super::{Location, new_id};
use crate::error::Result;
use crate::key::Key;

/// Runs merged at a time: each holds some blocks.
const FAN_IN: usize = 64;

/// Entries in the least memory; sorting orders them by key.
enum Entries {
    /// Key and location in one number.
    Exact(Vec<u128>),
    /// The key's halves and the location.
    Hashed(Vec<[u64; 3]>),
}

impl Entries {
    fn len(&self) -> usize {
        match self {
            Entries::Exact(entries) => entries.len(),
            Entries::Hashed(entries) => entries.len(),
        }
    }

    fn push(&mut self, key: Key, location: Location) {
        match self {
            Entries::Exact(entries) => entries.push(key << 64 | u128::from(location.0)),
            Entries::Hashed(entries) => entries.push([(key >> 64) as u64, key as u64, location.0]),
        }
    }

    fn sort(&mut self) {
        match self {
            Entries::Exact(entries) => entries.sort_unstable(),
            Entries::Hashed(entries) => entries.sort_unstable(),
        }
    }

    fn get(&self, at: usize) -> Option<(Key, Location)> {
        match self {
            Entries::Exact(entries) => entries.get(at).map(|entry| (entry >> 64, Location(*entry as u64))),
            Entries::Hashed(entries) => {
                let [high, low, location] = *entries.get(at)?;
                Some((Key::from(high) << 64 | Key::from(low), Location(location)))
            }
        }
    }

    fn clear(&mut self) {
        match self {
            Entries::Exact(entries) => entries.clear(),
            Entries::Hashed(entries) => entries.clear(),
        }
    }
}

/// Takes entries of different keys; of equal ones, that with the greatest
/// location stays.
pub struct Bulk {
    folder: Arc<Folder>,
    memory: Arc<Memory>,
    exact: bool,
    entries: Entries,
    entries_max: usize,
    writer: Option<RunWriter>,
    runs: Vec<Arc<Run>>,
}

/// What a bulk has become.
pub enum Gathered {
    /// A few entries, in key order.
    Few(Vec<(Key, Location)>),
    Run(Arc<Run>),
}

impl Bulk {
    pub fn new(folder: Arc<Folder>, memory: Arc<Memory>, exact: bool) -> Self {
        let entry = if exact {
            size_of::<u128>()
        } else {
            size_of::<[u64; 3]>()
        };
        Self {
            entries_max: memory.bulk_bytes() / entry,
            folder,
            memory,
            exact,
            entries: match exact {
                true => Entries::Exact(Vec::new()),
                false => Entries::Hashed(Vec::new()),
            },
            writer: None,
            runs: Vec::new(),
        }
    }

    pub fn push(&mut self, key: Key, location: Location) -> Result<()> {
        self.entries.push(key, location);
        if self.entries.len() >= self.entries_max {
            // How many will follow is not known: that run gets no filter.
            let flushed = self.flush(u32::MAX.into());
            flushed.map_err(|fault| unwritable(self.folder.dir(), fault))?;
        }
        Ok(())
    }

    /// Writes what is in memory to a run, of at most so many entries.
    fn flush(&mut self, entries: u64) -> Result<(), Fault> {
        self.entries.sort();
        let Some((first, _)) = self.entries.get(0) else {
            return Ok(());
        };
        if self.writer.as_ref().is_some_and(|writer| writer.last() >= Some(first)) {
            self.end_run()?;
        }
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                let id = new_id();
                let writer = RunWriter::create(&self.folder.run(id), id, self.exact, entries, &self.memory)?;
                self.writer.insert(writer)
            }
        };
        for at in 0..self.entries.len() {
            let (Some((key, location)), next) = (self.entries.get(at), self.entries.get(at + 1)) else {
                break;
            };
            if next.is_none_or(|(next, _)| next != key) {
                writer.push(key, location)?;
            }
        }
        self.entries.clear();
        Ok(())
    }

    fn end_run(&mut self) -> Result<(), Fault> {
        if let Some(writer) = self.writer.take() {
            self.runs.push(Arc::new(writer.finish()?));
        }
        Ok(())
    }

    /// Ends it; up to `few` entries are no run of their own.
    pub fn finish(self, few: usize) -> Result<Gathered> {
        let folder = self.folder.clone();
        self.end(few).map_err(|fault| unwritable(folder.dir(), fault))
    }

    fn end(mut self, few: usize) -> Result<Gathered, Fault> {
        if self.writer.is_none() && self.runs.is_empty() && self.entries.len() <= few {
            self.entries.sort();
            let entries = (0..self.entries.len()).map_while(|at| self.entries.get(at));
            return Ok(Gathered::Few(entries.collect()));
        }
        self.flush(self.entries.len() as u64)?;
        self.end_run()?;
        self.entries = Entries::Exact(Vec::new());
        while self.runs.len() > 1 {
            let rest = self.runs.split_off(self.runs.len().min(FAN_IN));
            let (inputs, id) = (std::mem::replace(&mut self.runs, rest), new_id());
            let path = self.folder.run(id);
            let merged = merge(
                &inputs,
                None,
                &path,
                id,
                self.exact,
                &self.memory,
                &AtomicBool::new(false),
            )?;
            if let Merged::Run(run) = merged {
                self.runs.push(Arc::new(run));
            }
            for input in inputs {
                self.folder.remove_run(input.id);
            }
        }
        Ok(match self.runs.pop() {
            Some(run) => Gathered::Run(run),
            None => Gathered::Few(Vec::new()),
        })
    }
}
