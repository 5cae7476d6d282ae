//! Key → (file, row), in memory: a hash map of recent keys over sorted runs.
//!
//! Entries are never removed one by one. An entry counts only if the caller's
//! `live` says that its row is there, so that a delete costs nothing here and
//! stale entries go when runs merge. The newest entry of a key is the only one
//! that can be live.
//!
//! It is a cache: lost with the process, rebuilt from the key columns.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::key::Key;

/// Entries the map holds before it becomes a run. 64k entries are 3 MiB, and
/// a look-up in a map of this size still hits the cache.
const RECENT_MAX: usize = 64 << 10;

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

/// Sorted by key, unique.
#[derive(Default)]
struct Run<K> {
    keys: Vec<K>,
    locations: Vec<Location>,
}

impl<K: Copy + Ord> Run<K> {
    fn from_entries(mut entries: Vec<(K, Location)>) -> Self {
        // Stable, so that of equal keys the last one given stays last.
        entries.sort_by_key(|(key, _)| *key);
        let mut run = Self {
            keys: Vec::with_capacity(entries.len()),
            locations: Vec::with_capacity(entries.len()),
        };
        for (key, location) in entries {
            run.push(key, location);
        }
        run
    }

    fn push(&mut self, key: K, location: Location) {
        if self.keys.last() == Some(&key) {
            self.keys.pop();
            self.locations.pop();
        }
        self.keys.push(key);
        self.locations.push(location);
    }

    fn get(&self, key: K) -> Option<Location> {
        let at = self.keys.binary_search(&key).ok()?;
        self.locations.get(at).copied()
    }

    fn merge(older: Self, newer: Self, live: &dyn Fn(Location) -> bool) -> Self {
        let mut run = Self {
            keys: Vec::with_capacity(older.keys.len() + newer.keys.len()),
            locations: Vec::with_capacity(older.keys.len() + newer.keys.len()),
        };
        let mut old = older.keys.iter().copied().zip(older.locations).peekable();
        let mut new = newer.keys.iter().copied().zip(newer.locations).peekable();
        loop {
            let take_new = match (old.peek(), new.peek()) {
                (Some((o, _)), Some((n, _))) => n <= o,
                (None, Some(_)) => true,
                (Some(_), None) => false,
                (None, None) => break,
            };
            let entry = if take_new {
                let entry = new.next();
                old.next_if(|(o, _)| entry.is_some_and(|(n, _)| n == *o));
                entry
            } else {
                old.next()
            };
            if let Some((key, location)) = entry.filter(|(_, location)| live(*location)) {
                run.keys.push(key);
                run.locations.push(location);
            }
        }
        run.keys.shrink_to_fit();
        run.locations.shrink_to_fit();
        run
    }
}

/// Runs, oldest first; each at least twice as long as the next.
#[derive(Default)]
struct Runs<K>(Vec<Run<K>>);

impl<K: Copy + Ord> Runs<K> {
    fn get(&self, key: K) -> Option<Location> {
        self.0.iter().rev().find_map(|run| run.get(key))
    }

    fn push(&mut self, run: Run<K>, live: &dyn Fn(Location) -> bool) {
        self.0.push(run);
        while let [.., older, newer] = self.0.as_slice()
            && older.keys.len() < 2 * newer.keys.len()
        {
            let (Some(newer), Some(older)) = (self.0.pop(), self.0.pop()) else {
                break;
            };
            self.0.push(Run::merge(older, newer, live));
        }
    }

    fn bytes(&self) -> usize {
        let entry = size_of::<K>() + size_of::<Location>();
        self.0.iter().map(|run| run.keys.capacity() * entry).sum()
    }
}

enum Width {
    /// 16 bytes an entry.
    Exact(Runs<u64>),
    /// 24 bytes an entry.
    Hashed(Runs<u128>),
}

pub struct KeyIndex {
    recent: KeyMap<Location>,
    runs: Width,
}

impl KeyIndex {
    pub fn new(exact: bool) -> Self {
        Self {
            recent: KeyMap::default(),
            runs: if exact {
                Width::Exact(Runs::default())
            } else {
                Width::Hashed(Runs::default())
            },
        }
    }

    /// The newest entry of a key. The caller checks that its row is live.
    pub fn get(&self, key: Key) -> Option<Location> {
        self.recent.get(&key).copied().or_else(|| match &self.runs {
            Width::Exact(runs) => runs.get(key as u64),
            Width::Hashed(runs) => runs.get(key),
        })
    }

    pub fn insert(&mut self, key: Key, location: Location, live: &dyn Fn(Location) -> bool) {
        self.recent.insert(key, location);
        if self.recent.len() >= RECENT_MAX {
            self.freeze(live);
        }
    }

    /// Adds many entries as a run of their own, newer than all before.
    pub fn insert_all(&mut self, entries: Vec<(Key, Location)>, live: &dyn Fn(Location) -> bool) {
        self.freeze(live);
        self.push_run(entries, live);
    }

    /// What the index holds, in bytes.
    pub fn bytes(&self) -> usize {
        let runs = match &self.runs {
            Width::Exact(runs) => runs.bytes(),
            Width::Hashed(runs) => runs.bytes(),
        };
        runs + self.recent.capacity() * (size_of::<(Key, Location)>() + 1)
    }

    fn freeze(&mut self, live: &dyn Fn(Location) -> bool) {
        let entries: Vec<_> = self.recent.drain().collect();
        self.push_run(entries, live);
    }

    fn push_run(&mut self, entries: Vec<(Key, Location)>, live: &dyn Fn(Location) -> bool) {
        if entries.is_empty() {
            return;
        }
        match &mut self.runs {
            Width::Exact(runs) => {
                let entries = entries
                    .into_iter()
                    .map(|(key, location)| (key as u64, location))
                    .collect();
                runs.push(Run::from_entries(entries), live);
            }
            Width::Hashed(runs) => runs.push(Run::from_entries(entries), live),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Random upserts and deletes against a plain map, across freezes and merges.
    fn check(exact: bool) {
        let mut index = KeyIndex::new(exact);
        let mut model: HashMap<Key, Location> = HashMap::new();
        let mut dead = std::collections::HashSet::new();
        let mut seed = 42_u64;
        for step in 0..600_000_u32 {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let key = Key::from((seed >> 33) % 150_000);
            if let Some(old) = model.remove(&key) {
                dead.insert(old.0);
            }
            if step % 5 != 0 {
                let location = Location::new(step / 1000, step % 1000);
                model.insert(key, location);
                index.insert(key, location, &|l| !dead.contains(&l.0));
            }
        }
        for key in 0..150_000 {
            let found = index.get(key).filter(|l| !dead.contains(&l.0));
            assert_eq!(found, model.get(&key).copied(), "key {key}");
        }
    }

    #[test]
    fn finds_the_newest_live_entry_of_every_key() {
        check(true);
        check(false);
    }

    #[test]
    fn of_equal_keys_in_one_run_the_last_wins() {
        let mut index = KeyIndex::new(true);
        let entries = vec![
            (7, Location::new(0, 1)),
            (7, Location::new(0, 2)),
            (5, Location::new(0, 3)),
        ];
        index.insert_all(entries, &|_| true);
        assert_eq!(index.get(7), Some(Location::new(0, 2)));
        assert_eq!(index.get(5), Some(Location::new(0, 3)));
        assert_eq!(index.get(6), None);
    }
}
