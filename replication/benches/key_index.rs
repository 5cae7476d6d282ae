//! Measures the key index by itself: what `tests/bench/run index` runs.
//!
//! Arguments: integer keys and hashed keys, in millions (default 100 and 20),
//! and the folder to work in (default: the system's for temporary files).
//! Prints one JSON object for each measured step.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use replication::config::Config;
use replication::error::Result;
use replication::lake::{IndexHome, KeyIndex, Live, Location};
use serde_json::json;

/// Rows of a data file.
const FILE_ROWS: u64 = 2_000_000;
const LOOKUPS: u64 = 500_000;
/// Updates, in batches as a table's writer applies them.
const UPDATES: u64 = 4_000_000;
const BATCH: usize = 1000;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let number = |at: usize, default: u64| arguments.get(at).and_then(|a| a.parse().ok()).unwrap_or(default);
    let (exact, hashed) = (number(0, 100), number(1, 20));
    let dir = arguments.get(2).map_or_else(std::env::temp_dir, PathBuf::from);
    // The defaults of what a sidecar gives to its indexes.
    let config = Config::parse(
        "[source]\nurl = \"postgres://localhost/db\"\n[lake]\nurl = \"x\"",
        |_| None,
    )?;
    let memory = config.apply.memory / 8;
    for (kind, millions) in [("integer", exact), ("hash", hashed)] {
        if millions > 0 {
            measure(kind, millions * 1_000_000, &dir, memory)?;
        }
    }
    Ok(())
}

struct Keys {
    exact: bool,
    count: u64,
}

impl Keys {
    /// Row `i`'s key, all different: integers grow by 2, or are in any order;
    /// hashes are what they are.
    fn key(&self, i: u64, in_order: bool) -> u128 {
        let i = match in_order {
            true => i,
            // A step that has no divisor in common with the count walks over all.
            false => (u128::from(i) * 0x9E37_79B9_7F4A_7C55 % u128::from(self.count)) as u64,
        };
        match self.exact {
            true => u128::from(2 * i),
            false => u128::from(mix(2 * i)) << 64 | u128::from(mix(!(2 * i))),
        }
    }

    /// A key that no row has.
    fn missing(&self, i: u64) -> u128 {
        let i = i % self.count;
        match self.exact {
            true => u128::from(2 * i + 1),
            false => u128::from(mix(2 * i + 1)) << 64 | u128::from(mix(!(2 * i + 1))),
        }
    }
}

fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 33).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    let value = (value ^ value >> 29).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    value ^ value >> 32
}

fn location(row: u64) -> Location {
    Location::new((row / FILE_ROWS) as u32, (row % FILE_ROWS) as u32)
}

fn tell(kind: &str, step: &str, count: u64, started: Clock, more: serde_json::Value) {
    let seconds = started.wall.elapsed().as_secs_f64();
    let cpu_seconds = cpu_seconds() - started.cpu_seconds;
    let mut line = json!({
        "keys": kind, "step": step, "count": count, "seconds": (seconds * 1e3).round() / 1e3,
        "per_s": (count as f64 / seconds).round(), "peak_rss_mib": peak_rss_mib(),
        "cpu_seconds": (cpu_seconds * 1e2).round() / 1e2,
    });
    if let (Some(line), Some(more)) = (line.as_object_mut(), more.as_object()) {
        line.extend(more.clone());
    }
    println!("{line}");
}

fn peak_rss_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or_default() / 1024
}

struct Clock {
    wall: Instant,
    cpu_seconds: f64,
}

impl Clock {
    fn now() -> Self {
        Self {
            wall: Instant::now(),
            cpu_seconds: cpu_seconds(),
        }
    }
}

/// Of all threads; ticks are hundredths of a second.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks = fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
    ticks.sum::<f64>() / 100.0
}

fn bytes_per_key(index: &KeyIndex) -> serde_json::Value {
    let (entries, bytes) = index.on_disk();
    json!({"bytes_per_key": (bytes as f64 / entries as f64 * 100.0).round() / 100.0, "index_memory_bytes": index.bytes()})
}

fn fill(index: &mut KeyIndex, keys: &Keys, rows: impl Iterator<Item = u64>, in_order: bool) -> Result<()> {
    let mut bulk = index.bulk()?;
    for row in rows {
        bulk.push(keys.key(row, in_order), location(row))?;
    }
    index.take(bulk)
}

/// All rows are live.
fn live(names: &roaring::RoaringBitmap) -> Live {
    let mut live = Live::default();
    for file in names {
        live.insert(file, roaring::RoaringBitmap::new());
    }
    live
}

fn wait_for_merges(index: &mut KeyIndex) -> Result<()> {
    while index.is_merging() {
        std::thread::sleep(Duration::from_millis(1));
        index.maintain(live)?;
    }
    Ok(())
}

fn measure(kind: &str, count: u64, dir: &std::path::Path, memory: u64) -> Result<()> {
    let exact = kind == "integer";
    let keys = Keys { exact, count };
    let home = || IndexHome::beside(Some(dir), memory);
    if exact {
        let mut index = KeyIndex::new(exact, home());
        let started = Clock::now();
        fill(&mut index, &keys, 0..count, true)?;
        tell(kind, "build, keys in order", count, started, bytes_per_key(&index));
    }
    // Four runs of a size, which become one.
    let mut index = KeyIndex::new(exact, home());
    let started = Clock::now();
    for part in 0..4 {
        fill(&mut index, &keys, (0..count / 4).map(|i| 4 * i + part), false)?;
    }
    tell(
        kind,
        "four builds of a quarter, keys in any order",
        count,
        started,
        bytes_per_key(&index),
    );
    let started = Clock::now();
    index.maintain(live)?;
    wait_for_merges(&mut index)?;
    tell(kind, "merge of the four", count, started, bytes_per_key(&index));
    drop(index);

    let mut index = KeyIndex::new(exact, home());
    let started = Clock::now();
    fill(&mut index, &keys, 0..count, false)?;
    tell(kind, "build, keys in any order", count, started, bytes_per_key(&index));
    look_up(kind, "one run", &index, &keys)?;

    // As a writer does: look up, then insert, with merges beside it.
    let started = Clock::now();
    let mut row = count;
    for batch in 0..UPDATES / BATCH as u64 {
        let of_batch: Vec<u128> = (0..BATCH as u64)
            .map(|i| keys.key(mix(batch * BATCH as u64 + i) % count, false))
            .collect();
        assert!(index.get_all(&of_batch)?.iter().all(Option::is_some));
        for key in of_batch {
            index.insert(key, location(row))?;
            row += 1;
        }
        index.maintain(live)?;
    }
    tell(
        kind,
        "updates, 1,000 at a time",
        UPDATES,
        started,
        bytes_per_key(&index),
    );
    wait_for_merges(&mut index)?;
    look_up(kind, "after updates", &index, &keys)
}

fn look_up(kind: &str, state: &str, index: &KeyIndex, keys: &Keys) -> Result<()> {
    let hits = (0..LOOKUPS).map(|i| keys.key(mix(i) % keys.count, false));
    let misses = (0..LOOKUPS).map(|i| keys.missing(mix(i)));
    for (what, found, wanted) in [
        ("hits", true, hits.collect::<Vec<u128>>()),
        ("misses", false, misses.collect()),
    ] {
        let started = Clock::now();
        for key in &wanted {
            assert_eq!(index.get(*key)?.is_some(), found);
        }
        tell(
            kind,
            &format!("{what}, {state}, one by one"),
            LOOKUPS,
            started,
            json!({}),
        );
        for size in [1000, 100_000] {
            let started = Clock::now();
            for batch in wanted.chunks(size) {
                assert!(index.get_all(batch)?.iter().all(|location| location.is_some() == found));
            }
            tell(
                kind,
                &format!("{what}, {state}, {size} at a time"),
                LOOKUPS,
                started,
                json!({}),
            );
        }
    }
    Ok(())
}
