//! The only configuration: one TOML file, every key also an environment
//! variable (`source.url` is `TRIBUTARY_SOURCE_URL`, and so on).

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use crate::error::{Error, Result};

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub source: SourceConfig,
    pub lake: LakeConfig,
    #[serde(default)]
    pub apply: ApplyConfig,
    #[serde(default)]
    pub snapshot: SnapshotConfig,
    #[serde(default)]
    pub cache: CacheConfig,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// `postgres://user:password@host:port/database?sslmode=verify-full`.
    pub url: SecretUrl,
    /// Globs over `schema.table`; `!` in front excludes. Default: all user tables.
    #[serde(default)]
    pub tables: Vec<String>,
    /// The replication slot. One slot is one pipeline.
    #[serde(default = "default_name")]
    pub slot: String,
    #[serde(default = "default_name")]
    pub publication: String,
    /// What a MySQL or MariaDB server knows us by: no other replica of it may
    /// have the same. Default: derived from `slot`.
    #[serde(default, deserialize_with = "server_id")]
    pub server_id: Option<u32>,
    /// What becomes of dates and timestamps that are infinite or past what
    /// the lake can hold, and of NaN and infinity in `numeric(p,s)` columns.
    #[serde(default)]
    pub infinity: Infinity,
    /// What becomes of a table for which changes are lost.
    #[serde(default)]
    pub on_gap: OnGap,
    /// What columns the documents of a MongoDB collection get.
    #[serde(default)]
    pub schema: Documents,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Documents {
    /// One for each field of a sample, and for each field that comes later.
    #[default]
    Evolve,
    /// One for each field of a sample; later fields are left over.
    Fixed,
    /// One for the whole document.
    Json,
}

/// What kind of server a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    Postgres,
    /// MySQL or MariaDB.
    MySql,
    MongoDb,
}

impl SourceConfig {
    /// The kind of server that the URL names.
    pub fn kind(&self) -> Result<SourceKind> {
        let scheme = self.url.expose().split_once("://").map_or("", |(scheme, _)| scheme);
        match scheme {
            "postgres" | "postgresql" => Ok(SourceKind::Postgres),
            "mysql" | "mariadb" => Ok(SourceKind::MySql),
            "mongodb" | "mongodb+srv" => Ok(SourceKind::MongoDb),
            other => Err(
                Error::operator(format!("source.url has the scheme {other:?}")).with_hint(
                    "write source.url as postgres://user:password@host:5432/database, \
                 mysql://user:password@host:3306, mariadb://user:password@host:3306 or \
                 mongodb://user:password@host:27017/?replicaSet=name",
                ),
            ),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnGap {
    /// The run stops and says which tables to copy anew.
    #[default]
    Stop,
    /// They are copied anew.
    Resnapshot,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Infinity {
    /// NULL, counted.
    #[default]
    Null,
    /// The first or last value that every reader knows (years 1 and 9999), counted.
    Clamp,
    /// The table stops.
    Error,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LakeConfig {
    /// `file:///path` or a plain path.
    pub url: String,
    /// Whether a renamed column may turn on Delta column mapping for its table.
    /// Otherwise the table is copied anew.
    #[serde(default = "yes", deserialize_with = "boolean")]
    pub column_mapping: bool,
}

fn yes() -> bool {
    true
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApplyConfig {
    /// A change is in the lake at most this long after its commit was read.
    #[serde(deserialize_with = "duration")]
    pub max_latency: Duration,
    /// Sizes batches and what is on its way to the lake, in bytes.
    #[serde(deserialize_with = "bytes")]
    pub memory: u64,
}

impl Default for ApplyConfig {
    fn default() -> Self {
        Self {
            max_latency: Duration::from_secs(5),
            memory: 256 << 20,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SnapshotConfig {
    /// Chunks read at the same time, of one table or of several.
    #[serde(deserialize_with = "count")]
    pub parallelism: usize,
    /// Bytes read at the source in a second, by all readers together.
    #[serde(deserialize_with = "some_bytes")]
    pub max_bytes_per_s: Option<u64>,
}

impl Default for SnapshotConfig {
    fn default() -> Self {
        Self {
            parallelism: 2,
            max_bytes_per_s: None,
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheConfig {
    /// Disposable local files: key indexes. Losing the folder loses nothing.
    /// Default: `tributary` in `$XDG_CACHE_HOME` or `~/.cache`.
    pub dir: Option<PathBuf>,
}

/// A URL whose password never shows.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct SecretUrl(String);

impl SecretUrl {
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<url>")
    }
}

fn default_name() -> String {
    "tributary".to_owned()
}

/// Keys by section, for environment variables and for "unknown key" hints.
const KEYS: &[(&str, &[&str])] = &[
    (
        "source",
        &[
            "url",
            "tables",
            "slot",
            "publication",
            "server_id",
            "infinity",
            "on_gap",
            "schema",
        ],
    ),
    ("lake", &["url", "column_mapping"]),
    ("apply", &["max_latency", "memory"]),
    ("snapshot", &["parallelism", "max_bytes_per_s"]),
    ("cache", &["dir"]),
];

impl Config {
    /// Takes over what can change while a pipeline runs.
    pub fn take_live(&mut self, new: Self) {
        self.source.tables = new.source.tables;
        self.source.on_gap = new.source.on_gap;
        self.snapshot = new.snapshot;
    }

    /// Whether `new` differs in anything else.
    pub fn needs_restart(&self, new: &Self) -> bool {
        let (a, b) = (&self.source, &new.source);
        a.url.expose() != b.url.expose()
            || a.slot != b.slot
            || a.publication != b.publication
            || a.server_id != b.server_id
            || a.infinity != b.infinity
            || a.schema != b.schema
            || self.lake.url != new.lake.url
            || self.lake.column_mapping != new.lake.column_mapping
            || self.apply.max_latency != new.apply.max_latency
            || self.apply.memory != new.apply.memory
            || self.cache.dir != new.cache.dir
    }

    /// Reads `path`, then lets `TRIBUTARY_<SECTION>_<KEY>` override.
    pub fn load(path: &Path) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) => {
                return Err(
                    Error::operator(format!("cannot read the configuration {}", path.display()))
                        .with_hint(
                            "write a tributary.toml with source.url and lake.url, or name the file with --config",
                        )
                        .with_source(e),
                );
            }
        };
        Self::parse(&text, |name| std::env::var(name).ok()).map_err(|e| match e.hint().map(str::to_owned) {
            Some(hint) => Error::operator(format!("{}: {e}", path.display())).with_hint(hint),
            None => Error::operator(format!("{}: {e}", path.display())),
        })
    }

    /// Parses TOML text with overrides from `env`.
    pub fn parse(text: &str, env: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let mut root: toml::Table = text.parse().map_err(|e: toml::de::Error| {
            Error::operator(format!("not valid TOML: {}", e.message()))
                .with_hint("strings need quotes: url = \"postgres://…\"")
        })?;
        reject_unknown(&root)?;
        for (section, keys) in KEYS {
            for key in *keys {
                let name = format!("TRIBUTARY_{}_{}", section.to_uppercase(), key.to_uppercase());
                let Some(value) = env(&name) else { continue };
                let value = match *key {
                    "tables" => toml::Value::Array(
                        value
                            .split(',')
                            .map(|t| toml::Value::String(t.trim().to_owned()))
                            .collect(),
                    ),
                    _ => toml::Value::String(value),
                };
                root.entry(*section)
                    .or_insert_with(|| toml::Value::Table(toml::Table::new()))
                    .as_table_mut()
                    .ok_or_else(|| Error::operator(format!("[{section}] is not a table")))?
                    .insert((*key).to_owned(), value);
            }
        }
        for (section, key, example) in [
            ("source", "url", "postgres://user@host:5432/database"),
            ("lake", "url", "./lake"),
        ] {
            let present = root.get(section).and_then(|s| s.get(key)).is_some();
            if !present {
                return Err(Error::operator(format!("{section}.{key} is missing"))
                    .with_hint(format!("add [{section}] {key} = \"{example}\"")));
            }
        }
        let config: Config = toml::Value::Table(root).try_into().map_err(|e: toml::de::Error| {
            Error::operator(e.message().to_owned()).with_hint("see the README's list of keys")
        })?;
        if config.apply.memory < 64 << 20 {
            return Err(
                Error::operator("apply.memory is below 64MiB").with_hint("set apply.memory = \"64MiB\" or more")
            );
        }
        Ok(config)
    }
}

/// A key we don't know is a typing error that would otherwise be silent.
fn reject_unknown(root: &toml::Table) -> Result<()> {
    let unknown = |what: String, known: Vec<&str>, given: &str| {
        let near = known.iter().min_by_key(|k| distance(k, given)).copied().unwrap_or("");
        let hint = if distance(near, given) <= 3 {
            format!("did you mean {near:?}?")
        } else {
            format!("known here: {}", known.join(", "))
        };
        Err(Error::operator(what).with_hint(hint))
    };
    for (section, value) in root {
        let Some((_, keys)) = KEYS.iter().find(|(name, _)| name == section) else {
            let sections = KEYS.iter().map(|(name, _)| *name).collect();
            return unknown(format!("unknown section [{section}]"), sections, section);
        };
        let Some(table) = value.as_table() else {
            return Err(Error::operator(format!("{section} is not a section"))
                .with_hint(format!("write [{section}] on a line of its own")));
        };
        for key in table.keys() {
            if !keys.contains(&key.as_str()) {
                return unknown(format!("unknown key {section}.{key}"), keys.to_vec(), key);
            }
        }
    }
    Ok(())
}

/// Levenshtein distance, for "did you mean".
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// A number and a unit: `5s`, `250ms`, `256MiB`.
fn number_and_unit(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let number: f64 = text[..split].parse().ok()?;
    Some((number, text[split..].trim()))
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let seconds = number_and_unit(&text).and_then(|(n, unit)| match unit {
        "ms" => Some(n / 1e3),
        "s" => Some(n),
        "m" | "min" => Some(n * 60.0),
        _ => None,
    });
    seconds
        .and_then(|s| Duration::try_from_secs_f64(s).ok())
        .filter(|d| !d.is_zero())
        .ok_or_else(|| de::Error::custom(format!("expected a duration like \"5s\" or \"500ms\", found {text:?}")))
}

/// A server id; from the environment it comes as text.
fn server_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        Number(i64),
        Text(String),
    }
    let number = match Given::deserialize(deserializer)? {
        Given::Number(number) => u32::try_from(number).ok(),
        Given::Text(text) => text.parse().ok(),
    };
    number
        .filter(|number| *number > 0)
        .map(Some)
        .ok_or_else(|| de::Error::custom("expected a number from 1 to 4294967295"))
}

fn some_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    bytes(deserializer).map(Some)
}

/// A positive number; from the environment it comes as text.
fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        Number(i64),
        Text(String),
    }
    let given = Given::deserialize(deserializer)?;
    let number = match &given {
        Given::Number(number) => usize::try_from(*number).ok(),
        Given::Text(text) => text.parse().ok(),
    };
    number
        .filter(|number| (1..=64).contains(number))
        .ok_or_else(|| de::Error::custom("expected a number from 1 to 64"))
}

/// From the environment it comes as text.
fn boolean<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        Boolean(bool),
        Text(String),
    }
    match Given::deserialize(deserializer)? {
        Given::Boolean(value) => Ok(value),
        Given::Text(text) => text.parse().map_err(|_| de::Error::custom("expected true or false")),
    }
}

fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    let bytes = number_and_unit(&text).and_then(|(n, unit)| match unit {
        "KiB" => Some(n * 1024.0),
        "MiB" => Some(n * 1024.0 * 1024.0),
        "GiB" => Some(n * 1024.0 * 1024.0 * 1024.0),
        "kB" => Some(n * 1e3),
        "MB" => Some(n * 1e6),
        "GB" => Some(n * 1e9),
        _ => None,
    });
    bytes
        .map(|b| b as u64)
        .ok_or_else(|| de::Error::custom(format!("expected a size like \"256MiB\", found {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config> {
        Config::parse(text, |_| None)
    }

    const MINIMAL: &str = "[source]\nurl = \"postgres://localhost/db\"\n[lake]\nurl = \"./lake\"\n";

    #[test]
    fn two_keys_are_enough() {
        let config = parse(MINIMAL).expect("minimal");
        assert_eq!(config.source.slot, "tributary");
        assert_eq!(config.apply.max_latency, Duration::from_secs(5));
        assert_eq!(config.apply.memory, 256 << 20);
    }

    #[test]
    fn environment_overrides_the_file() {
        let env = |name: &str| match name {
            "TRIBUTARY_SOURCE_URL" => Some("postgres://other/db".to_owned()),
            "TRIBUTARY_APPLY_MAX_LATENCY" => Some("250ms".to_owned()),
            "TRIBUTARY_SOURCE_TABLES" => Some("public.*, !public.x".to_owned()),
            _ => None,
        };
        let config = Config::parse(MINIMAL, env).expect("config");
        assert_eq!(config.source.url.expose(), "postgres://other/db");
        assert_eq!(config.apply.max_latency, Duration::from_millis(250));
        assert_eq!(config.source.tables, ["public.*", "!public.x"]);
    }

    #[test]
    fn mistakes_name_the_key_and_the_way_out() {
        for (extra, what, hint) in [
            ("[sorce]\nx=1", "unknown section [sorce]", "did you mean \"source\"?"),
            (
                "[apply]\nmax_latencie=\"1s\"",
                "unknown key apply.max_latencie",
                "did you mean \"max_latency\"?",
            ),
            (
                "[apply]\nfoo=\"1s\"",
                "unknown key apply.foo",
                "known here: max_latency, memory",
            ),
            ("[apply]\nmemory=\"1MiB\"", "apply.memory is below 64MiB", "64MiB"),
            ("[apply]\nmemory=\"lots\"", "expected a size like", "README"),
            ("[apply]\nmax_latency=\"0s\"", "expected a duration like", "README"),
            ("[apply", "not valid TOML", "quotes"),
        ] {
            let error = parse(&format!("{MINIMAL}{extra}")).expect_err(extra);
            assert!(error.to_string().contains(what), "{error}");
            assert!(error.hint().unwrap_or("").contains(hint), "{error}: {:?}", error.hint());
        }
        let error = parse("[lake]\nurl=\"x\"").expect_err("no source");
        assert!(error.to_string().contains("source.url is missing"));
    }

    #[test]
    fn debug_output_hides_the_url() {
        let text = MINIMAL.replace("localhost", "u:secret@localhost");
        assert!(!format!("{:?}", parse(&text).expect("config")).contains("secret"));
    }
}
