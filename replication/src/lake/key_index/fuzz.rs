//! The index's files for fuzzers: see [`crate::fuzz`]. Checksums are made
//! right, for nothing behind one is reached by chance.

use std::path::PathBuf;
use std::sync::Arc;

use roaring::RoaringBitmap;
use xxhash_rust::xxh3::xxh3_128;

use super::Location;
use super::home::Memory;
use super::manifest::{FORMAT, FileEntry, Identity, MAGIC, Manifest, RunEntry};
use super::run::{BLOCK, Block, Cursor, PAYLOAD, Probe, Run, RunWriter, seal};

const MEMORY_BYTES: usize = 1 << 20;
const ID: u64 = 1;

thread_local! {
    static SCRATCH: Scratch = Scratch::new();
}

/// A file that goes with its thread.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("tributary-fuzz-{}", uuid::Uuid::new_v4())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Whether keys are exact, then blocks, each after its length in two bytes and
/// without the zeroes at its end.
pub fn run(bytes: &[u8]) {
    let Some((exact, mut rest)) = bytes.split_first() else {
        return;
    };
    let exact = exact & 1 == 1;
    let mut file = Vec::new();
    let mut places = 0;
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(PAYLOAD).min(after.len());
        let (content, after) = after.split_at(length);
        let mut block: Block = [0; BLOCK];
        block[..length].copy_from_slice(content);
        seal(&mut block, ID, places);
        file.extend_from_slice(&block);
        (rest, places) = (after, places + 1);
    }
    let path = SCRATCH.with(|scratch| scratch.0.clone());
    std::fs::write(&path, &file).expect("a file");
    let memory = Arc::new(Memory::new(MEMORY_BYTES));
    let Ok(run) = Run::open(&path, ID, exact, places, RoaringBitmap::new(), &memory) else {
        return;
    };
    let _ = (run.bytes(), run.file_bytes());
    let mut cursor = Cursor::new(&run);
    let mut probe = Probe::new(&run, &memory);
    for key in [0, 1, u128::MAX] {
        let _ = probe.get(key);
    }
    let mut left = 2000;
    while let Ok(Some((key, _))) = cursor.next() {
        let _ = probe.get(key);
        left -= 1;
        if left == 0 {
            break;
        }
    }
}

pub fn runs() -> Vec<Vec<u8>> {
    let write = |exact: bool, keys: &[u128]| {
        let scratch = Scratch::new();
        let memory = Arc::new(Memory::new(MEMORY_BYTES));
        let mut writer = RunWriter::create(&scratch.0, ID, exact, keys.len() as u64, &memory).expect("a file");
        for (row, key) in (0..).zip(keys) {
            writer.push(*key, Location::new(row / 100, row)).expect("an entry");
        }
        writer.finish().expect("a run");
        let file = std::fs::read(&scratch.0).expect("a file");
        let mut seed = vec![u8::from(exact)];
        for block in file.chunks(BLOCK) {
            let content = &block[..PAYLOAD];
            let length = content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            seed.extend_from_slice(&(length as u16).to_le_bytes());
            seed.extend_from_slice(&content[..length]);
        }
        seed
    };
    vec![
        write(true, &[42]),
        write(true, &(0..200).map(|key| key * 3).collect::<Vec<_>>()),
        write(false, &[0, 1, u128::MAX / 3, u128::MAX]),
        write(true, &(0..3000).map(|key| key * 1_000_003).collect::<Vec<_>>()),
    ]
}

/// A manifest without its checksum.
pub fn manifest(bytes: &[u8]) {
    let _ = Manifest::decode(bytes);
    let sealed = [bytes, &xxh3_128(bytes).to_le_bytes()].concat();
    let Ok(manifest) = Manifest::decode(&sealed) else {
        return;
    };
    let again = manifest.clone().encode().expect("a manifest");
    assert_eq!(Manifest::decode(&again), Ok(manifest));
}

pub fn manifests() -> Vec<Vec<u8>> {
    let manifest = Manifest {
        identity: Identity {
            log: "file:///l/t/".into(),
            table: "id".into(),
            pipeline: "p".into(),
            generation: 3,
            key: "1:long".into(),
            exact: true,
        },
        version: 12,
        seed: 5,
        runs: vec![(RunEntry { id: 7, places: 3 }, [1, 9].into_iter().collect())],
        files: vec![
            (file(1), (0..5000).collect()),
            (file(9), RoaringBitmap::new()),
            (file(70_000), (0..300_000).step_by(1000).collect()),
        ],
    };
    let mut bytes = manifest.encode().expect("a manifest");
    bytes.truncate(bytes.len() - size_of::<u128>());
    vec![bytes, [&MAGIC[..], &FORMAT.to_le_bytes(), &[0; 4]].concat()]
}

fn file(number: u32) -> FileEntry {
    FileEntry {
        number,
        path: format!("part-{number}"),
    }
}
