//! Decoders as functions of bytes, with bytes to begin with: what
//! `replication/fuzz` runs under a fuzzer, and the tests here with the seeds
//! and some thousand changes of them.
//!
//! A target panics if a decoder does, and where it breaks a promise: that what
//! is refused leaves a builder as it was, that what was written is read back.
//! Targets never mind errors.

use std::sync::OnceLock;

use crate::config::Config;
use crate::position::gtid::{GtidList, GtidSet, GtidState};
use crate::position::{BinlogPosition, ClusterTime, Lsn, Position, ResumePoint};
use crate::{lake, source};

#[derive(Clone, Copy)]
pub struct Target {
    /// As its program in `replication/fuzz` is named.
    pub name: &'static str,
    pub run: fn(&[u8]),
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub fn targets() -> &'static [Target] {
    static ALL: OnceLock<Vec<Target>> = OnceLock::new();
    ALL.get_or_init(|| {
        [
            TARGETS,
            source::postgres::fuzz::TARGETS,
            source::mysql::fuzz::TARGETS,
            source::mongodb::fuzz::TARGETS,
            lake::fuzz::TARGETS,
        ]
        .concat()
    })
}

/// The one of a name.
pub fn target(name: &str) -> Option<Target> {
    targets().iter().find(|target| target.name == name).copied()
}

const TARGETS: &[Target] = &[
    Target {
        name: "config",
        run: config,
        seeds: || CONFIGS.iter().map(|text| text.as_bytes().to_vec()).collect(),
    },
    Target {
        name: "positions",
        run: positions,
        seeds: || POSITIONS.iter().map(|text| text.as_bytes().to_vec()).collect(),
    },
];

/// A configuration, and where its URL says to connect.
fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    // Secrets would be read from files of any name.
    if text.contains("_file") {
        return;
    }
    if let Ok(config) = Config::parse(&text, |_| None) {
        let _ = config.source.kind();
        source::postgres::fuzz::endpoint(&config.source);
        source::mysql::fuzz::endpoint(&config.source);
        let _ = config.table(&crate::schema::TableId::new("public", "orders"));
    }
}

const CONFIGS: &[&str] = &[
    "[source]\nurl = \"postgres://u:p@h:5432/d?sslmode=require&channel_binding=require\"\ntables = [\"public.*\", \"!a.b\"]\n\
     slot = \"s\"\ninfinity = \"clamp\"\n[lake]\nurl = \"s3://b/l\"\nmode = \"history\"\n[lake.options]\nregion = \"r\"\n",
    "[source]\nurl = \"mysql://u:p@[::1]:3306/?sslmode=disable&socket=/a\"\n[lake]\nurl = \"./l\"\n[apply]\n\
     max_latency = \"1.5s\"\nmemory = \"64MiB\"\n[snapshot]\nparallelism = 3\nmax_bytes_per_s = \"1 GiB\"\n",
    "[source]\nurl = \"mongodb://h\"\n[lake]\nurl = \"./l\"\n[transform]\nkey = \"0123456789abcdef\"\n[http]\nlisten = \
     \"127.0.0.1:1\"\ntoken = \"t\"\n[[table]]\nmatch = \"public.*\"\nexclude = [\"a*\"]\nhash = \"b\"\nmask = { c = \"x\" }\n\
     partition_by = [\"day(t)\"]\nmode = \"soft-delete\"\n",
];

/// Positions as people, servers and the lake write them.
fn positions(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    comes_back::<Lsn>(text, |lsn| lsn.to_string());
    comes_back::<ClusterTime>(text, |time| time.to_string());
    comes_back::<ResumePoint>(text, |point| format!("{point:#}"));
    comes_back::<BinlogPosition>(text, |position| position.to_string());
    comes_back::<GtidSet>(text, |set| set.to_string());
    comes_back::<GtidList>(text, |list| list.to_string());
    if let Ok(set) = text.parse::<GtidSet>() {
        let (first, second) = text.split_at(text.find(',').unwrap_or(text.len()));
        let (first, second) = (parsed(first), parsed(second.trim_start_matches(',')));
        let mut both = first.clone();
        both.union(&second);
        assert_eq!(both, set);
        assert!(set.contains_set(&first) && set.contains_set(&second));
        let mut again = set.subtract(&first);
        assert!(again.intersect(&first).is_empty());
        again.union(&set.intersect(&first));
        assert_eq!(again, set);
        let _ = (set.len(), set.encode());
    }
    if let (Ok(state), Ok(list)) = (text.parse::<GtidState>(), text.parse::<GtidList>()) {
        let _ = state.lacks(&list);
        assert!(list.covers(&list));
    }
    let Ok(position) = serde_json::from_str::<Position>(text) else {
        return;
    };
    let written = serde_json::to_string(&position).unwrap_or_default();
    assert_eq!(serde_json::from_str(&written).ok(), Some(position.clone()), "{written}");
    assert!(position.covers(&position));
    let _ = (position.to_string(), position.bytes_until(&position));
}

fn parsed(text: &str) -> GtidSet {
    text.parse().unwrap_or_default()
}

fn comes_back<T: std::str::FromStr + PartialEq + std::fmt::Debug>(text: &str, written: impl Fn(&T) -> String) {
    if let Ok(value) = text.parse::<T>() {
        let written = written(&value);
        assert_eq!(written.parse().ok(), Some(value), "{text:?} became {written:?}");
    }
}

const POSITIONS: &[&str] = &[
    "16/B374D848",
    "1700000000.5",
    "1700000000.5+8265A0F2~0102!rs0",
    "1700000000.5-82!rs0",
    "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5@3e11fa47-71ca-11e1-9e33-c80aa9429562:binlog.000012:4",
    ",@3e11fa47-71ca-11e1-9e33-c80aa9429562:binlog.000001:154",
    "0-1-8,1-1-3@1:x.000003:4",
    "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5:7:tag:1-3:9, 3e11fa47-71ca-11e1-9e33-c80aa9429563:1",
    "0-1-5,1-2-18446744073709551615",
    "\"16/B374D848\"",
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The tests' own fuzzer: it knows nothing of the code, but comes by with every run of the tests.
    struct Random(u64);

    impl Random {
        fn below(&mut self, below: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 11) as usize % below.max(1)
        }

        fn changed(&mut self, seed: &[u8], other: &[u8]) -> Vec<u8> {
            let mut bytes = seed.to_vec();
            for _ in 0..=self.below(3) {
                let at = self.below(bytes.len() + 1);
                let odd = [0, 1, 0x7f, 0x80, 0xfe, 0xff, self.below(256) as u8][self.below(7)];
                match self.below(6) {
                    0 => bytes.truncate(at),
                    1 => bytes.insert(at, odd),
                    2 => {
                        let from = self.below(other.len() + 1);
                        let to = from + self.below(other.len() - from + 1);
                        bytes.splice(at..at, other[from..to].iter().copied());
                    }
                    3 => {
                        let to = at + self.below(bytes.len() - at + 1);
                        bytes.drain(at..to);
                    }
                    4 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                    _ if at < bytes.len() => bytes[at] = odd,
                    _ => bytes.push(odd),
                }
            }
            bytes
        }
    }

    /// The first input of seeds and changes of them at which a target panics.
    fn breaks(target: Target) -> Option<Vec<u8>> {
        let seeds = (target.seeds)();
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut changed = || {
            let seed = &seeds[random.below(seeds.len())];
            let other = &seeds[random.below(seeds.len())];
            random.changed(seed, other)
        };
        let inputs = seeds
            .iter()
            .cloned()
            .chain(std::iter::repeat_with(&mut changed).take(3000));
        inputs
            .chain([Vec::new()])
            .find(|input| std::panic::catch_unwind(|| (target.run)(input)).is_err())
    }

    #[test]
    fn every_decoder_takes_its_seeds_and_changes_of_them() {
        let mut broken = Vec::new();
        for target in targets() {
            assert!(!(target.seeds)().is_empty(), "{}", target.name);
            if let Some(input) = breaks(*target) {
                broken.push(format!("{} at {}", target.name, input.escape_ascii()));
            }
        }
        assert!(broken.is_empty(), "{}", broken.join("\n"));
    }

    #[test]
    fn every_target_has_a_program() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz");
        let manifest = std::fs::read_to_string(format!("{folder}/Cargo.toml")).expect("a manifest");
        let manifest: toml::Table = manifest.parse().expect("TOML");
        let programs = manifest["bin"].as_array().expect("programs");
        let mut programs: Vec<_> = programs.iter().filter_map(|bin| bin["name"].as_str()).collect();
        let mut names: Vec<_> = targets().iter().map(|target| target.name).collect();
        programs.sort_unstable();
        names.sort_unstable();
        assert_eq!(programs, names);
    }
}
