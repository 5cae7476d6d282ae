//! Runs against what was put into them, and the index against a plain map.

use std::collections::HashSet;
use std::path::PathBuf;

use super::run::Cursor;
use super::*;

const MEMORY: u64 = 8 << 20;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, below: u64) -> u64 {
        self.next() % below
    }

    fn wide(&mut self) -> u128 {
        (0..5).fold(0, |wide, _| wide << 31 | u128::from(self.next()))
    }
}

struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("tributary-runs-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&dir).expect("folder");
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn write(dir: &Dir, id: u64, exact: bool, entries: &[(Key, Location)], memory: &Arc<Memory>) -> Run {
    let path = dir.0.join(id.to_string());
    let mut writer = RunWriter::create(&path, id, exact, entries.len() as u64, memory).expect("create");
    for (key, location) in entries {
        writer.push(*key, *location).expect("push");
    }
    writer.finish().expect("finish")
}

fn check_run(exact: bool, mut keys: Vec<Key>, mut location: impl FnMut() -> Location) {
    keys.sort_unstable();
    keys.dedup();
    let entries: Vec<_> = keys.iter().map(|key| (*key, location())).collect();
    let (dir, memory) = (Dir::new(), Arc::new(Memory::new(MEMORY as usize)));
    let written = write(&dir, 7, exact, &entries, &memory);
    let names = written.names.clone();
    assert_eq!(names, entries.iter().map(|(_, location)| location.file()).collect());
    let opened = Run::open(&dir.0.join("7"), 7, exact, written.places, names, &memory).expect("open");
    let missing = keys.iter().filter_map(|key| key.checked_add(1));
    let missing: Vec<Key> = missing.filter(|key| keys.binary_search(key).is_err()).collect();
    for run in [written, opened] {
        assert_eq!(run.entries, entries.len() as u64);
        let mut probe = Probe::new(&run, &memory);
        for (key, location) in &entries {
            assert_eq!(probe.get(*key).expect("get"), Some(*location), "{key:x}");
            assert_eq!(Probe::new(&run, &memory).get(*key).expect("get"), Some(*location));
        }
        assert!(missing.iter().all(|key| probe.get(*key).expect("get").is_none()));
        let mut cursor = Cursor::new(&run);
        for entry in &entries {
            assert_eq!(cursor.next().expect("next").as_ref(), Some(entry));
        }
        assert_eq!(cursor.next().expect("next"), None);
    }
}

#[test]
fn a_run_has_what_was_put_into_it_whatever_the_keys() {
    let mut random = Random(3);
    let mut place = |files: u64, rows: u64| {
        let mut random = Random(random.next());
        move || Location::new(random.below(files) as u32, random.below(rows) as u32)
    };
    let mut keys = Random(5);
    let longs = |keys: &mut Random, count| (0..count).map(|_| u128::from(keys.wide() as u64)).collect::<Vec<_>>();
    check_run(true, vec![42], place(1, 1));
    check_run(true, vec![0, u64::MAX.into()], place(u32::MAX.into(), u32::MAX.into()));
    check_run(true, (0..70_000).collect(), || Location::new(3, 5));
    let mut row = 0;
    let in_order = move || {
        row += 1;
        Location::new(row / 50_000, row)
    };
    check_run(true, (0..200_000).map(|i| 3 * i).collect(), in_order);
    check_run(true, longs(&mut keys, 300_000), place(1000, 1 << 20));
    // Negative keys, and a gap after them.
    check_run(
        true,
        (-5000_i64..5000).map(|i| u128::from(i as u64)).collect(),
        place(10, 1000),
    );
    check_run(false, vec![0, 1, u128::MAX - 1, u128::MAX], place(2, u32::MAX.into()));
    let wide = (0..150_000).map(|_| keys.wide()).collect();
    check_run(false, wide, place(200, 1 << 21));
    // More than a group, in each of which the first block has a key more than it should.
    let long_runs = (0..900_000).map(|i| i * 7 + u128::from(i % 97 == 0));
    check_run(true, long_runs.collect(), place(5000, 1 << 22));
}

#[test]
fn no_changed_byte_of_a_run_is_believed() {
    let mut random = Random(11);
    let (dir, memory) = (Dir::new(), Arc::new(Memory::new(MEMORY as usize)));
    let entries: Vec<_> = (0..3000_u128)
        .map(|i| (i * 5, Location::new(random.below(20) as u32, random.below(1000) as u32)))
        .collect();
    let places = write(&dir, 1, true, &entries, &memory).places;
    let (path, bytes) = (dir.0.join("1"), std::fs::read(dir.0.join("1")).expect("read"));
    // Without memory there is no filter, so data blocks are not read when it is opened.
    let poor = Arc::new(Memory::new(8));
    let mut late = 0;
    for _ in 0..600 {
        let mut damaged = bytes.clone();
        match random.below(10) {
            0 => damaged.truncate(random.below(bytes.len() as u64) as usize),
            // A block of the same file in another place.
            1 => {
                let to = random.below(places) as usize;
                let from = random.below(places) as usize;
                if to == from {
                    continue;
                }
                damaged.copy_within(from * run::BLOCK..(from + 1) * run::BLOCK, to * run::BLOCK);
            }
            _ => {
                let at = random.below(bytes.len() as u64) as usize;
                damaged[at] ^= 1 << random.below(8);
            }
        }
        std::fs::write(&path, &damaged).expect("write");
        let Ok(run) = Run::open(&path, 1, true, places, RoaringBitmap::new(), &poor) else {
            continue;
        };
        late += 1;
        let memory = Arc::new(Memory::new(1 << 20));
        let mut faults = 0;
        for (key, location) in &entries {
            match Probe::new(&run, &memory).get(*key) {
                Ok(found) => assert_eq!(found, Some(*location)),
                Err(_) => faults += 1,
            }
        }
        assert!(faults > 0, "the damage went unnoticed");
        // With one, all is read at once.
        let opened = Run::open(&path, 1, true, places, RoaringBitmap::new(), &memory);
        assert!(opened.is_err());
    }
    assert!(late > 50, "{late}");
    // The same file under another id is another run.
    std::fs::write(&path, &bytes).expect("write");
    assert!(Run::open(&path, 2, true, places, RoaringBitmap::new(), &memory).is_err());
    assert!(Run::open(&path, 1, false, places, RoaringBitmap::new(), &memory).is_err());
    assert!(Run::open(&path, 1, true, u64::MAX, RoaringBitmap::new(), &memory).is_err());
    assert!(Run::open(&path, 1, true, places, RoaringBitmap::new(), &memory).is_ok());
}

/// The rows of files as a table knows them.
#[derive(Default)]
struct Rows(Vec<Option<RoaringBitmap>>);

impl Rows {
    fn add(&mut self) -> u32 {
        self.0.push(Some(RoaringBitmap::new()));
        self.0.len() as u32 - 1
    }

    fn kill(&mut self, location: Location) {
        if let Some(Some(deleted)) = self.0.get_mut(location.file() as usize) {
            deleted.insert(location.row());
        }
    }

    fn is_live(&self, location: Location) -> bool {
        let deleted = self.0.get(location.file() as usize).and_then(Option::as_ref);
        deleted.is_some_and(|deleted| !deleted.contains(location.row()))
    }

    fn live(&self, names: &RoaringBitmap) -> Live {
        let mut live = Live::default();
        for number in names {
            if let Some(Some(deleted)) = self.0.get(number as usize) {
                live.insert(number, deleted.clone());
            }
        }
        live
    }
}

/// Random upserts and deletes against a plain map, across freezes and merges.
fn check(exact: bool, memory: u64) {
    let mut index = KeyIndex::new(exact, IndexHome::private(memory));
    let mut model: HashMap<Key, Location> = HashMap::new();
    let mut rows = Rows::default();
    let mut random = Random(42);
    let spread: Key = if exact { 1 } else { u128::MAX / 150_000 };
    for _ in 0..600 {
        let file = rows.add();
        for row in 0..1000 {
            let key = Key::from(random.below(150_000)) * spread;
            if let Some(old) = model.remove(&key) {
                rows.kill(old);
            }
            if row % 5 != 0 {
                let location = Location::new(file, row);
                model.insert(key, location);
                index.insert(key, location).expect("insert");
            }
        }
        index.maintain(|names| rows.live(names)).expect("maintain");
        // A file may go as a whole.
        if random.below(20) == 0 {
            let gone = random.below(rows.0.len() as u64) as u32;
            rows.0[gone as usize] = None;
            model.retain(|_, location| location.file() != gone);
        }
    }
    index.take_merged(true).expect("merge");
    let keys: Vec<Key> = (0..150_000).map(|key| Key::from(key as u64) * spread).collect();
    let found = index.get_all(&keys).expect("get");
    for (key, found) in keys.iter().zip(found) {
        assert_eq!(found, index.get(*key).expect("get"), "key {key}");
        let live = found.filter(|location| rows.is_live(*location));
        assert_eq!(live, model.get(key).copied(), "key {key}");
    }
    let (entries, bytes) = index.on_disk();
    // Of 480 thousand entries, most are stale: merges have dropped them.
    assert!(entries < 400_000, "{entries} entries in {} runs", index.runs.len());
    assert!(index.runs.len() > 1 && bytes / entries < 30, "{bytes} bytes");
    let folder = index.folder.as_ref().expect("a folder").dir().to_owned();
    assert_eq!(std::fs::read_dir(&folder).expect("folder").count(), index.runs.len());
    drop(index);
    assert!(!folder.exists());
}

#[test]
fn finds_the_newest_live_entry_of_every_key() {
    check(true, MEMORY);
    check(false, MEMORY);
}

#[test]
fn little_memory_makes_smaller_runs_and_no_filters() {
    check(true, 1 << 10);
    let memory = Memory::new(1 << 20);
    assert!(!memory.take_filter(1 << 18) && memory.take_filter(1 << 16));
    memory.note_recent(0, 1 << 20);
    assert!(memory.is_tight());
    memory.note_recent(1 << 20, 0);
    assert!(!memory.is_tight());
}

#[test]
fn of_equal_keys_in_one_run_the_last_wins() {
    let mut index = KeyIndex::new(true, IndexHome::private(MEMORY));
    let entries = vec![
        (7, Location::new(0, 1)),
        (7, Location::new(0, 2)),
        (5, Location::new(0, 3)),
    ];
    let mut bulk = index.bulk().expect("bulk");
    for (key, location) in entries {
        bulk.push(key, location).expect("push");
    }
    index.take(bulk).expect("insert");
    for _ in 0..2 {
        assert_eq!(index.get(7).expect("get"), Some(Location::new(0, 2)));
        assert_eq!(index.get(5).expect("get"), Some(Location::new(0, 3)));
        assert_eq!(index.get(6).expect("get"), None);
        index.freeze().expect("freeze");
    }
}

/// A bulk whose chunks overlap, follow each other, or both.
#[test]
fn a_bulk_becomes_one_run() {
    for (exact, in_order) in [(true, true), (true, false), (false, false)] {
        let home = IndexHome::private(4 << 20);
        let mut index = KeyIndex::new(exact, home);
        let mut bulk = index.bulk().expect("bulk");
        let (mut random, mut keys) = (Random(9), HashSet::new());
        let count = 500_000_u64;
        for row in 0..count {
            let key = match (exact, in_order) {
                (true, true) => Key::from(3 * row),
                // Each key once, but in any order.
                (true, false) => Key::from(row.wrapping_mul(0x9E37_79B9_7F4A_7C15)),
                _ => random.wide(),
            };
            if keys.insert(key) {
                bulk.push(key, Location::new(row as u32 % 7, row as u32)).expect("push");
            }
        }
        index.take(bulk).expect("take");
        assert_eq!((index.runs.len(), index.on_disk().0), (1, keys.len() as u64));
        let keys: Vec<Key> = keys.into_iter().collect();
        assert!(index.get_all(&keys).expect("get").iter().all(Option::is_some));
        let folder = index.folder.as_ref().expect("a folder").dir();
        assert_eq!(std::fs::read_dir(folder).expect("folder").count(), 1);
    }
}

#[test]
fn runs_merge_with_those_of_their_size() {
    for (sizes, from) in [
        (&[][..], None),
        (&[1, 1, 1], None),
        (&[1, 1, 1, 1], Some(0)),
        (&[100, 1, 1, 1], None),
        (&[100, 1, 1, 1, 1], Some(1)),
        (&[4, 4, 4, 1, 1, 1, 1], Some(0)),
        (&[4, 4, 1, 1, 1, 1], Some(2)),
        (&[0, 0, 0, 0], Some(0)),
    ] {
        assert_eq!(due(sizes), from, "{sizes:?}");
    }
    // However long it goes on, there are few runs, and entries move seldom.
    let (mut sizes, mut moved) = (Vec::new(), 0);
    for _ in 0..4096 {
        sizes.push(1);
        while let Some(from) = due(&sizes) {
            let merged: u64 = sizes.drain(from..).sum();
            moved += merged;
            sizes.push(merged);
        }
        assert!(sizes.len() <= 21, "{sizes:?}");
    }
    assert!(moved <= 4096 * 6, "{moved}");
}
