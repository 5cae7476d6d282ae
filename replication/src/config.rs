//! The only configuration: one TOML file, every key also an environment
//! variable (`source.url` is `TRIBUTARY_SOURCE_URL`, and so on).

pub mod reference;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, de};

use self::reference::Form;
use crate::error::{Error, Result};
use crate::partition::PartitionBy;
use crate::schema::TableId;
use crate::source::selected;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub source: SourceConfig,
    /// What only some tables have, in the file's order; [`Config::table`] puts it together.
    #[serde(default, rename = "table")]
    pub tables: Vec<TableEntry>,
    #[serde(default)]
    pub transform: TransformConfig,
    pub lake: LakeConfig,
    #[serde(default)]
    pub apply: ApplyConfig,
    #[serde(default)]
    pub snapshot: SnapshotConfig,
    #[serde(default)]
    pub maintenance: MaintenanceConfig,
    #[serde(default)]
    pub cuts: CutsConfig,
    #[serde(default)]
    pub cache: CacheConfig,
    #[serde(default)]
    pub http: HttpConfig,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// `postgres://user:password@host:port/database?sslmode=verify-full`.
    pub url: Secret,
    /// A file with the password, for a URL that has none.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// What it says.
    #[serde(skip)]
    pub password: Option<Secret>,
    /// Globs over `schema.table`; `!` in front excludes. Default: all user tables.
    #[serde(default)]
    pub tables: Vec<String>,
    /// The replication slot. One slot is one pipeline.
    #[serde(default = "default_name")]
    pub slot: String,
    #[serde(default = "default_name")]
    pub publication: String,
    /// Whether the server may be a standby. Otherwise one is waited for until it is promoted.
    #[serde(default, deserialize_with = "boolean")]
    pub standby: bool,
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
    /// Log that PostgreSQL's slot may keep before it is told, in bytes.
    #[serde(default, deserialize_with = "some_bytes")]
    pub wal_budget: Option<u64>,
    /// What happens then beside telling it.
    #[serde(default)]
    pub on_wal_budget: OnWalBudget,
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
    /// Errors: a bound of what is not there.
    fn validate_budget(&self) -> Result<()> {
        let key = if self.wal_budget.is_some() {
            "source.wal_budget"
        } else if self.on_wal_budget != OnWalBudget::default() {
            "source.on_wal_budget"
        } else {
            return Ok(());
        };
        let kept = match self.kind() {
            Ok(SourceKind::MySql) => "MySQL and MariaDB remove their log by age",
            Ok(SourceKind::MongoDb) => "MongoDB's oplog has a size",
            _ => return Ok(()),
        };
        Err(
            Error::operator(format!("{key} is set, but only PostgreSQL keeps log for a slot"))
                .with_hint(format!("remove it: {kept}, whoever reads it")),
        )
    }

    fn read_password(&mut self) -> Result<()> {
        read_secret("source.password", &mut self.password, self.password_file.as_deref())?;
        match &self.password {
            Some(password) if password.expose().is_empty() => Err(Error::operator("source.password_file is empty")
                .with_hint("name a file with the password as its only line")),
            _ => Ok(()),
        }
    }

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
#[serde(rename_all = "kebab-case")]
pub enum OnWalBudget {
    /// It is told, again and again.
    #[default]
    Alert,
    /// Stalled tables that alone hold more are given up, too.
    DropTable,
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
    /// A path, `file:///path`, or a prefix of a bucket: `s3://bucket/prefix`,
    /// `gs://bucket/prefix`, `az://container/prefix`.
    pub url: String,
    /// What an object store needs beside the environment.
    #[serde(default)]
    pub options: StoreOptions,
    /// Whether a renamed column may turn on Delta column mapping for its table.
    /// Otherwise the table is copied anew.
    #[serde(default = "yes", deserialize_with = "boolean")]
    pub column_mapping: bool,
    /// How rows that changed go from their files.
    #[serde(default)]
    pub merge: Merge,
    /// Whether tables tell their changes, row by row, to readers that follow them.
    #[serde(default, deserialize_with = "boolean")]
    pub change_data_feed: bool,
    /// What becomes of rows that are deleted at the source.
    #[serde(default)]
    pub mode: Mode,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Merge {
    /// They are marked in deletion vectors: a commit costs what its changes cost.
    #[default]
    DeletionVectors,
    /// Their files are written anew, for readers that know no deletion vectors.
    CopyOnWrite,
}

/// What a lake table is of its source's table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The same rows.
    #[default]
    Mirror,
    /// The same rows, and those that were deleted, as they were last, marked.
    SoftDelete,
    /// A row for every change.
    History,
}

impl Mode {
    /// As the configuration spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Mirror => "mirror",
            Mode::SoftDelete => "soft-delete",
            Mode::History => "history",
        }
    }

    pub fn is_mirror(&self) -> bool {
        *self == Mode::Mirror
    }

    pub fn is_history(&self) -> bool {
        *self == Mode::History
    }
}

/// Options of an object store by key. Their values never show.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StoreOptions(BTreeMap<String, String>);

impl StoreOptions {
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

impl FromIterator<(String, String)> for StoreOptions {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl<'de> Deserialize<'de> for StoreOptions {
    /// Takes a table whose values are plain, or `key=value,key=value` from the
    /// environment.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // By hand, for errors of derived code repeat the value.
        let wrong = || de::Error::custom("expected lake.options as a table of texts, numbers, true or false");
        match toml::Value::deserialize(deserializer)? {
            toml::Value::Table(table) => table
                .into_iter()
                .map(|(key, value)| match value {
                    toml::Value::String(text) => Ok((key, text)),
                    toml::Value::Boolean(value) => Ok((key, value.to_string())),
                    toml::Value::Integer(value) => Ok((key, value.to_string())),
                    _ => Err(wrong()),
                })
                .collect(),
            toml::Value::String(text) => text
                .split(',')
                .filter(|pair| !pair.trim().is_empty())
                .map(|pair| {
                    let (key, value) = pair
                        .split_once('=')
                        .ok_or_else(|| de::Error::custom("expected TRIBUTARY_LAKE_OPTIONS as key=value,key=value"))?;
                    Ok((key.trim().to_owned(), value.trim().to_owned()))
                })
                .collect(),
            _ => Err(wrong()),
        }
    }
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
    /// What large transactions that are open may take on the local disk; `None`: the server keeps them.
    #[serde(deserialize_with = "bytes_or_off")]
    pub spill_max: Option<u64>,
}

impl Default for ApplyConfig {
    fn default() -> Self {
        Self {
            max_latency: Duration::from_secs(5),
            memory: 256 << 20,
            spill_max: Some(4 << 30),
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

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CutsConfig {
    /// How often a cut is written down at most; `None` is never.
    #[serde(deserialize_with = "duration_or_off")]
    pub interval: Option<Duration>,
}

impl Default for CutsConfig {
    fn default() -> Self {
        Self {
            interval: Some(Duration::from_secs(10)),
        }
    }
}

/// How tables are kept fast to read.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MaintenanceConfig {
    /// Whether a running sidecar compacts files and removes old ones; without,
    /// `tributary maintain` does it.
    #[serde(deserialize_with = "boolean")]
    pub enabled: bool,
    /// Tables compacted at the same time.
    #[serde(deserialize_with = "count")]
    pub threads: usize,
    /// How long a version can still be read after the next one has come.
    #[serde(deserialize_with = "duration")]
    pub retention: Duration,
}

impl Default for MaintenanceConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            threads: 1,
            retention: Duration::from_secs(2 * 24 * 3600),
        }
    }
}

impl MaintenanceConfig {
    /// What was replaced before this has no use any more, in milliseconds since 1970.
    pub fn cutoff_ms(&self) -> i64 {
        crate::lake::now_ms() - i64::try_from(self.retention.as_millis()).unwrap_or(i64::MAX)
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheConfig {
    /// Disposable local files: key indexes. Losing the folder loses nothing.
    /// Default: `tributary` in `$XDG_CACHE_HOME` or `~/.cache`.
    pub dir: Option<PathBuf>,
}

impl CacheConfig {
    /// Where what large transactions change waits for their end.
    pub fn spill_dir(&self) -> PathBuf {
        let usual = || cache_dir().filter(|dir| std::fs::create_dir_all(dir).is_ok());
        self.dir.clone().or_else(usual).unwrap_or_else(std::env::temp_dir)
    }
}

/// What `cache.dir` is if it is not set.
pub fn cache_dir() -> Option<PathBuf> {
    let folder = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    cache.map(|cache| cache.join("tributary"))
}

/// Where a running sidecar answers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// `address:port`; `None` is nowhere.
    #[serde(deserialize_with = "socket_address_or_off")]
    pub listen: Option<SocketAddr>,
    /// What a POST has to bring as `Authorization: Bearer …`. Without, none is taken.
    pub token: Option<Secret>,
    /// A file that has it.
    pub token_file: Option<PathBuf>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 9464))),
            token: None,
            token_file: None,
        }
    }
}

impl HttpConfig {
    fn read_token(&mut self) -> Result<()> {
        read_secret("http.token", &mut self.token, self.token_file.as_deref())?;
        match &self.token {
            Some(token) if token.expose().len() < TOKEN_MIN => Err(Error::operator(format!(
                "http.token is shorter than {TOKEN_MIN} characters"
            ))
            .with_hint("make one with `openssl rand -hex 32`")),
            _ => Ok(()),
        }
    }
}

/// Reads what a key is to hold from the file of its `_file`, if that is set.
fn read_secret(key: &str, secret: &mut Option<Secret>, file: Option<&Path>) -> Result<()> {
    let Some(path) = file else { return Ok(()) };
    if secret.is_some() {
        let variable = format!("TRIBUTARY_{}", key.replace('.', "_").to_uppercase());
        return Err(Error::operator(format!("{key} and {key}_file are both set"))
            .with_hint(format!("keep one of them; {variable} is {key}")));
    }
    let text = std::fs::read_to_string(path).map_err(|e| {
        Error::operator(format!("cannot read {key}_file {}", path.display()))
            .with_hint("name a file that the program may read, with the secret as its only line")
            .with_source(e)
    })?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    *secret = Some(Secret(line.strip_suffix('\r').unwrap_or(line).to_owned()));
    Ok(())
}

/// Characters of `http.token` at least.
const TOKEN_MIN: usize = 16;

fn socket_address_or_off<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text == "off" {
        return Ok(None);
    }
    let parsed = text.parse().map(Some);
    parsed.map_err(|_| de::Error::custom("expected http.listen as \"127.0.0.1:9464\", \"[::1]:9464\" or \"off\""))
}

/// One `[[table]]` of the file: what is set for the tables that match.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableEntry {
    /// Globs over `schema.table`, as in `source.tables`.
    #[serde(rename = "match", deserialize_with = "texts")]
    pub patterns: Vec<String>,
    #[serde(default, deserialize_with = "some_texts")]
    pub include: Option<Vec<String>>,
    #[serde(default, deserialize_with = "some_texts")]
    pub exclude: Option<Vec<String>>,
    #[serde(default, deserialize_with = "some_texts")]
    pub hash: Option<Vec<String>>,
    #[serde(default, deserialize_with = "masks")]
    pub mask: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub merge: Option<Merge>,
    #[serde(default)]
    pub change_data_feed: Option<bool>,
    #[serde(default, deserialize_with = "partitions")]
    pub partition_by: Option<Vec<PartitionBy>>,
    pub mode: Option<Mode>,
}

impl TableEntry {
    /// Errors: it names what is no field at the top of a document.
    fn fits_documents(&self) -> Result<()> {
        let lists = [
            ("include", &self.include),
            ("exclude", &self.exclude),
            ("hash", &self.hash),
        ];
        let listed = lists
            .into_iter()
            .flat_map(|(key, list)| list.iter().flatten().map(move |pattern| (key, pattern)));
        let masks = self.mask.iter().flat_map(|mask| mask.keys());
        for (key, pattern) in listed.chain(masks.map(|pattern| ("mask", pattern))) {
            let wrong = |what: &str| {
                let tables = self.patterns.join(", ");
                Error::operator(format!("[[table]] {tables}: {key} has {pattern:?}, which {what}"))
            };
            if let Some((field, _)) = pattern.split_once('.') {
                return Err(
                    wrong("has a dot, but whole fields at the top of a document are meant").with_hint(match field {
                        "" => "name fields without dots".to_owned(),
                        field => format!("name the field {field:?}: all in it goes the same way"),
                    }),
                );
            }
            if key != "include" && pattern.eq_ignore_ascii_case("_extra") {
                return Err(wrong("has what of a document is in no other column").with_hint(
                    "name the fields that the lake must not see, or those that it may in include: nothing of the \
                     others gets to _extra",
                ));
            }
        }
        Ok(())
    }
}

/// What is set for one table. Globs over its columns match whatever the case.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TableConfig {
    /// The columns that the lake gets. Default: all.
    pub include: Option<Vec<String>>,
    /// The columns that it does not get, of those.
    pub exclude: Vec<String>,
    /// The columns of which it gets a keyed hash instead of the value.
    pub hash: Vec<String>,
    /// The columns of which it gets a text instead of the value, with the text.
    pub mask: BTreeMap<String, String>,
    /// How rows that changed go from their files.
    pub merge: Merge,
    /// Whether versions tell their changes row by row.
    pub change_data_feed: bool,
    /// What its files are told apart by.
    pub partition_by: Vec<PartitionBy>,
    /// What becomes of rows that are deleted at the source.
    pub mode: Mode,
}

/// What a masked value reads if the configuration names no text.
const MASK: &str = "***";

/// A hash with a shorter key can be tried out.
const HASH_KEY_BYTES_MIN: usize = 16;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TransformConfig {
    /// The key of all hashes.
    pub key: Option<Secret>,
    /// A file that has nothing but the key, and perhaps the end of its line.
    pub key_file: Option<PathBuf>,
}

impl TransformConfig {
    /// Reads the key from its file, if it has one.
    fn read_key(&mut self) -> Result<()> {
        read_secret("transform.key", &mut self.key, self.key_file.as_deref())?;
        match &self.key {
            Some(key) if key.0.len() < HASH_KEY_BYTES_MIN => Err(Error::operator(format!(
                "transform.key is shorter than {HASH_KEY_BYTES_MIN} bytes"
            ))
            .with_hint("make one with `openssl rand -hex 32`, and keep it: another key makes other hashes")),
            _ => Ok(()),
        }
    }
}

/// A text that never shows.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<hidden>")
    }
}

fn default_name() -> String {
    "tributary".to_owned()
}

/// Files that are younger may be on their way to a commit.
const RETENTION_MIN: Duration = Duration::from_secs(3600);

impl Config {
    /// What is set for a table: of all entries that match, each key as the last has it.
    pub fn table(&self, id: &TableId) -> TableConfig {
        let mut config = TableConfig {
            merge: self.lake.merge,
            change_data_feed: self.lake.change_data_feed,
            mode: self.lake.mode,
            ..TableConfig::default()
        };
        for entry in self.tables.iter().filter(|entry| selected(&entry.patterns, id)) {
            if entry.include.is_some() {
                config.include.clone_from(&entry.include);
            }
            if let Some(exclude) = &entry.exclude {
                config.exclude.clone_from(exclude);
            }
            if let Some(hash) = &entry.hash {
                config.hash.clone_from(hash);
            }
            if let Some(mask) = &entry.mask {
                config.mask.clone_from(mask);
            }
            if let Some(merge) = entry.merge {
                config.merge = merge;
            }
            if let Some(feed) = entry.change_data_feed {
                config.change_data_feed = feed;
            }
            if let Some(partition_by) = &entry.partition_by {
                config.partition_by.clone_from(partition_by);
            }
            if let Some(mode) = entry.mode {
                config.mode = mode;
            }
        }
        config
    }

    /// Errors: settings that each are right, but not together.
    fn validate_tables(&self) -> Result<()> {
        if self.tables.iter().any(|entry| entry.patterns.is_empty()) {
            return Err(Error::operator("a [[table]] has an empty match")
                .with_hint("write match = \"schema.table\", a glob over it, or \"*\" for all"));
        }
        let hashes = |entry: &TableEntry| entry.hash.as_ref().is_some_and(|columns| !columns.is_empty());
        if self.transform.key.is_none()
            && let Some(entry) = self.tables.iter().find(|entry| hashes(entry))
        {
            return Err(Error::operator(format!(
                "columns of {} are to be hashed, but there is no key",
                entry.patterns.join(", ")
            ))
            .with_hint("set TRIBUTARY_TRANSFORM_KEY or transform.key_file to a key from `openssl rand -hex 32`"));
        }
        if self.source.kind().is_ok_and(|kind| kind == SourceKind::MongoDb) {
            self.tables.iter().try_for_each(TableEntry::fits_documents)?;
        }
        Ok(())
    }

    /// Takes over what can change while a pipeline runs.
    pub fn take_live(&mut self, new: Self) {
        self.source.tables = new.source.tables;
        self.source.on_gap = new.source.on_gap;
        self.source.wal_budget = new.source.wal_budget;
        self.source.on_wal_budget = new.source.on_wal_budget;
        self.snapshot = new.snapshot;
        self.maintenance = MaintenanceConfig {
            threads: self.maintenance.threads,
            ..new.maintenance
        };
    }

    /// Whether `new` differs in anything else.
    pub fn needs_restart(&self, new: &Self) -> bool {
        let (a, b) = (&self.source, &new.source);
        a.url != b.url
            || a.password != b.password
            || a.slot != b.slot
            || a.publication != b.publication
            || a.server_id != b.server_id
            || a.infinity != b.infinity
            || a.schema != b.schema
            || self.lake.url != new.lake.url
            || self.lake.options != new.lake.options
            || self.lake.column_mapping != new.lake.column_mapping
            || self.lake.merge != new.lake.merge
            || self.lake.change_data_feed != new.lake.change_data_feed
            || self.lake.mode != new.lake.mode
            || self.apply.max_latency != new.apply.max_latency
            || self.apply.memory != new.apply.memory
            || self.apply.spill_max != new.apply.spill_max
            || self.maintenance.threads != new.maintenance.threads
            || self.tables != new.tables
            || self.transform != new.transform
            || self.cuts != new.cuts
            || self.cache.dir != new.cache.dir
            || self.http != new.http
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
        Self::parse(&text, |name| std::env::var(name).ok()).map_err(|e| e.within(path.display()))
    }

    /// Parses TOML text with overrides from `env`.
    pub fn parse(text: &str, env: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let mut root: toml::Table = text.parse().map_err(|e: toml::de::Error| {
            Error::operator(format!("not valid TOML: {}", e.message()))
                .with_hint("strings need quotes: url = \"postgres://…\"")
        })?;
        reject_unknown(&root)?;
        for section in reference::SECTIONS {
            for key in section.keys {
                let Some(value) = section.variable(key).and_then(|name| env(&name)) else {
                    continue;
                };
                let value = match key.form {
                    Form::Texts => toml::Value::Array(
                        value
                            .split(',')
                            .map(|t| toml::Value::String(t.trim().to_owned()))
                            .collect(),
                    ),
                    _ => toml::Value::String(value),
                };
                root.entry(section.name)
                    .or_insert_with(|| toml::Value::Table(toml::Table::new()))
                    .as_table_mut()
                    .ok_or_else(|| Error::operator(format!("[{}] is not a table", section.name)))?
                    .insert(key.name.to_owned(), value);
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
        // What the parser says would show them.
        for (section, key) in [("transform", "key"), ("http", "token")] {
            let value = root.get(section).and_then(|section| section.get(key));
            if value.is_some_and(|value| !value.is_str()) {
                return Err(Error::operator(format!("{section}.{key} is not a text")).with_hint("put it in quotes"));
            }
        }
        let mut config: Config = toml::Value::Table(root).try_into().map_err(|e: toml::de::Error| {
            Error::operator(e.message().to_owned()).with_hint("see the README's list of keys, or `tributary config`")
        })?;
        if config.apply.memory < 64 << 20 {
            return Err(
                Error::operator("apply.memory is below 64MiB").with_hint("set apply.memory = \"64MiB\" or more")
            );
        }
        if config.maintenance.retention < RETENTION_MIN {
            return Err(Error::operator("maintenance.retention is below 1h").with_hint(
                "set maintenance.retention = \"1h\" or more: files on their way to a commit are told by their age",
            ));
        }
        config.source.read_password()?;
        config.transform.read_key()?;
        config.http.read_token()?;
        config.source.validate_budget()?;
        config.validate_tables()?;
        Ok(config)
    }
}

/// A key we don't know is a typing error that would otherwise be silent.
fn reject_unknown(root: &toml::Table) -> Result<()> {
    let unknown =
        |what: String, known: Vec<&str>, given: &str| Err(Error::operator(what).with_hint(did_you_mean(&known, given)));
    for (name, value) in root {
        let Some(section) = reference::SECTIONS.iter().find(|section| section.name == name) else {
            let sections = reference::SECTIONS.iter().map(|section| section.name).collect();
            return unknown(format!("unknown section [{name}]"), sections, name);
        };
        let known = section.key_names();
        if section.repeated {
            let entries = value
                .as_array()
                .filter(|entries| entries.iter().all(toml::Value::is_table));
            let Some(entries) = entries else {
                return Err(
                    Error::operator(format!("{name} is not a list of sections")).with_hint(format!(
                        "write {}, with two brackets, on a line of its own",
                        section.heading()
                    )),
                );
            };
            let mut keys = entries
                .iter()
                .filter_map(toml::Value::as_table)
                .flat_map(toml::Table::keys);
            if let Some(key) = keys.find(|key| !known.contains(&key.as_str())) {
                return unknown(format!("unknown key {key} in {}", section.heading()), known, key);
            }
            continue;
        }
        let Some(table) = value.as_table() else {
            return Err(Error::operator(format!("{name} is not a section"))
                .with_hint(format!("write {} on a line of its own", section.heading())));
        };
        if let Some(key) = table.keys().find(|key| !known.contains(&key.as_str())) {
            return unknown(format!("unknown key {name}.{key}"), known, key);
        }
    }
    Ok(())
}

/// Names that a hint lists at most.
const NAMED: usize = 20;

/// What may be meant by a name that nobody knows.
pub(crate) fn did_you_mean(known: &[&str], given: &str) -> String {
    let near = known.iter().map(|name| (distance(name, given), *name)).min();
    match near {
        Some((steps, near)) if steps <= 3 => format!("did you mean {near:?}?"),
        _ => {
            let named: Vec<&str> = known.iter().take(NAMED).copied().collect();
            format!("known here: {}", named.join(", "))
        }
    }
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
    parse_duration(&String::deserialize(deserializer)?).map_err(de::Error::custom)
}

fn duration_or_off<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text == "off" {
        return Ok(None);
    }
    let parsed = parse_duration(&text).map_err(|what| de::Error::custom(format!("{what}, or \"off\"")));
    parsed.map(Some)
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let seconds = number_and_unit(text).and_then(|(n, unit)| match unit {
        "ms" => Some(n / 1e3),
        "s" => Some(n),
        "m" | "min" => Some(n * 60.0),
        "h" => Some(n * 3600.0),
        "d" => Some(n * 24.0 * 3600.0),
        _ => None,
    });
    seconds
        .and_then(|s| Duration::try_from_secs_f64(s).ok())
        .filter(|d| !d.is_zero())
        .ok_or_else(|| format!("expected a duration like \"5s\" or \"500ms\", found {text:?}"))
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

/// One text, or several.
fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let text = |value: toml::Value| match value {
        toml::Value::String(text) => Ok(text),
        other => Err(de::Error::custom(format!(
            "expected a text, found a value of type {}",
            other.type_str()
        ))),
    };
    match toml::Value::deserialize(deserializer)? {
        toml::Value::Array(values) => values.into_iter().map(text).collect(),
        value => text(value).map(|text| vec![text]),
    }
}

fn some_texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    texts(deserializer).map(Some)
}

fn partitions<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<PartitionBy>>, D::Error> {
    let texts = texts(deserializer)?;
    let parsed = texts.iter().map(|text| text.parse().map_err(de::Error::custom));
    parsed.collect::<Result<_, _>>().map(Some)
}

/// Columns with the texts that take the place of their values, or columns alone.
fn masks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    let masked = match toml::Value::deserialize(deserializer)? {
        toml::Value::Table(masks) => masks
            .into_iter()
            .map(|(column, text)| match text {
                toml::Value::String(text) => Ok((column, text)),
                other => Err(de::Error::custom(format!(
                    "expected a text as mask of {column}, found a value of type {}",
                    other.type_str()
                ))),
            })
            .collect::<Result<_, _>>()?,
        columns => {
            let columns = texts(columns).map_err(de::Error::custom)?;
            columns.into_iter().map(|column| (column, MASK.to_owned())).collect()
        }
    };
    Ok(Some(masked))
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
    parse_bytes(&String::deserialize(deserializer)?).map_err(de::Error::custom)
}

fn bytes_or_off<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text == "off" {
        return Ok(None);
    }
    let parsed = parse_bytes(&text).map_err(|what| de::Error::custom(format!("{what}, or \"off\"")));
    parsed.map(Some)
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let bytes = number_and_unit(text).and_then(|(n, unit)| match unit {
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
        .ok_or_else(|| format!("expected a size like \"256MiB\", found {text:?}"))
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
        assert_eq!(config.maintenance.retention, Duration::from_secs(48 * 3600));
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
    fn a_feed_is_for_all_tables_or_for_some() {
        let table = "[[table]]\nmatch = \"public.a*\"\nchange_data_feed";
        let lake = "[source]\nurl = \"postgres://db\"\n[lake]\nurl = \"./lake\"";
        for (text, env, expected) in [
            (lake.to_owned(), None, [false, false]),
            (format!("{lake}\nchange_data_feed = true"), None, [true, true]),
            (lake.to_owned(), Some("true"), [true, true]),
            (format!("{lake}\n{table} = true"), None, [true, false]),
            (
                format!("{lake}\nchange_data_feed = true\n{table} = false"),
                None,
                [false, true],
            ),
        ] {
            let set = |name: &str| (name == "TRIBUTARY_LAKE_CHANGE_DATA_FEED").then(|| env.map(str::to_owned));
            let config = Config::parse(&text, |name| set(name).flatten()).expect("config");
            let has = |name| config.table(&TableId::new("public", name)).change_data_feed;
            assert_eq!([has("accounts"), has("b")], expected, "{text}");
            let other = Config::parse(lake, |_| None).expect("config");
            assert_eq!(config.needs_restart(&other), expected != [false, false], "{text}");
        }
        assert!(parse(&format!("{lake}\n{table} = \"maybe\"")).is_err());
    }

    #[test]
    fn cuts_can_be_turned_off() {
        let config = parse(MINIMAL).expect("minimal");
        assert_eq!(config.cuts.interval, Some(Duration::from_secs(10)));
        let text = format!("{MINIMAL}[cuts]\ninterval = \"off\"");
        let config = parse(&text).expect("config");
        assert_eq!(config.cuts.interval, None);
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
            (
                "[maintenance]\nretention=\"5m\"",
                "maintenance.retention is below 1h",
                "\"1h\" or more",
            ),
            ("[apply]\nmemory=\"lots\"", "expected a size like", "README"),
            ("[apply]\nmax_latency=\"0s\"", "expected a duration like", "README"),
            ("[cuts]\ninterval=\"never\"", "or \"off\"", "README"),
            ("[apply", "not valid TOML", "quotes"),
            (
                "[[table]]\nmatch=\"*\"\nexlude=\"a\"",
                "unknown key exlude in [[table]]",
                "did you mean \"exclude\"?",
            ),
            ("[table]\nmatch=\"*\"", "table is not a list of sections", "[[table]]"),
            ("[[table]]\nexclude=\"a\"", "missing field `match`", "README"),
            ("[[table]]\nmatch=[]", "empty match", "schema.table"),
            (
                "[[table]]\nmatch=\"*\"\nmask={a=1}",
                "expected a text as mask of a",
                "README",
            ),
            ("[[table]]\nmatch=\"*\"\nhash=[1]", "expected a text", "README"),
            (
                "[[table]]\nmatch=\"*\"\npartition_by=\"day(x)\"",
                "partition_by as date(column), hour(column), bucket(N, column) or value(column)",
                "README",
            ),
            (
                "[[table]]\nmatch=\"s.t\"\nhash=\"a\"",
                "columns of s.t are to be hashed, but there is no key",
                "TRIBUTARY_TRANSFORM_KEY",
            ),
            ("[transform]\nkey=\"short\"", "shorter than 16 bytes", "openssl"),
            (
                "[transform]\nkey=12345678901234567",
                "transform.key is not a text",
                "quotes",
            ),
            (
                "[transform]\nkey_file=\"/nowhere/key\"",
                "cannot read transform.key_file /nowhere/key",
                "only line",
            ),
            (
                "[transform]\nkey=\"0123456789abcdef\"\nkey_file=\"/nowhere/key\"",
                "both set",
                "keep one",
            ),
            ("[http]\ntoken=\"short\"", "shorter than 16 characters", "openssl"),
            ("[http]\ntoken=12345678901234567", "http.token is not a text", "quotes"),
            (
                "[http]\ntoken=\"0123456789abcdef\"\ntoken_file=\"/nowhere/token\"",
                "both set",
                "TRIBUTARY_HTTP_TOKEN",
            ),
            (
                "[http]\ntoken_file=\"/nowhere/token\"",
                "http.token_file /nowhere/token",
                "only line",
            ),
            ("[http]\nlisten=\"9464\"", "http.listen", "README"),
        ] {
            let error = parse(&format!("{MINIMAL}{extra}")).expect_err(extra);
            assert!(error.to_string().contains(what), "{error}");
            assert!(error.hint().unwrap_or("").contains(hint), "{error}: {:?}", error.hint());
        }
        let error = parse("[lake]\nurl=\"x\"").expect_err("no source");
        assert!(error.to_string().contains("source.url is missing"));
    }

    #[test]
    fn a_budget_is_for_who_keeps_log_for_a_slot() {
        let budget = |url: &str, lines: &str| {
            let text = MINIMAL.replace("postgres:", url);
            parse(&text.replace("[lake]", &format!("{lines}\n[lake]")))
        };
        let config = budget("postgres:", "wal_budget = \"2GiB\"\non_wal_budget = \"drop-table\"").expect("config");
        assert_eq!(config.source.wal_budget, Some(2 << 30));
        assert_eq!(config.source.on_wal_budget, OnWalBudget::DropTable);
        let mut now = parse(MINIMAL).expect("config");
        assert!(!now.needs_restart(&config));
        now.take_live(config);
        assert_eq!(now.source.wal_budget, Some(2 << 30));
        assert_eq!(now.source.on_wal_budget, OnWalBudget::DropTable);
        for (url, line, what, hint) in [
            ("mysql:", "wal_budget = \"2GiB\"", "only PostgreSQL keeps log", "by age"),
            (
                "mariadb:",
                "on_wal_budget = \"drop-table\"",
                "only PostgreSQL",
                "by age",
            ),
            (
                "mongodb:",
                "wal_budget = \"2GiB\"",
                "only PostgreSQL keeps log",
                "oplog",
            ),
            ("postgres:", "wal_budget = 2", "expected a string", "README"),
        ] {
            let error = budget(url, line).expect_err(line);
            assert!(error.to_string().contains(what), "{error}");
            assert!(error.hint().is_some_and(|given| given.contains(hint)), "{error:?}");
        }
    }

    #[test]
    fn a_mode_is_for_all_tables_or_for_some() {
        let text = format!("{MINIMAL}mode = \"soft-delete\"\n[[table]]\nmatch = \"s.log*\"\nmode = \"mirror\"");
        let config = parse(&text).expect("config");
        let mode = |name| config.table(&TableId::new("s", name)).mode;
        assert_eq!((mode("orders"), mode("logs")), (Mode::SoftDelete, Mode::Mirror));
        let error = parse(&format!("{MINIMAL}mode = \"scd2\"")).expect_err("unknown");
        assert!(error.to_string().contains("history"), "{error}");
    }

    #[test]
    fn fields_of_documents_are_those_at_the_top() {
        let text = MINIMAL.replace("postgres:", "mongodb:");
        for (entry, part) in [
            (
                "exclude = [\"a\", \"address.street\"]",
                "exclude has \"address.street\"",
            ),
            ("include = \"a.*\"", "include has \"a.*\""),
            ("mask = { \"a.b\" = \"\" }", "mask has \"a.b\""),
            ("exclude = \"_EXTRA\"", "exclude has \"_EXTRA\""),
            ("mask = [\"_extra\"]", "mask has \"_extra\""),
        ] {
            let entry = format!("[[table]]\nmatch=\"*\"\n{entry}");
            let error = parse(&format!("{text}{entry}")).expect_err("refused");
            assert!(error.to_string().contains(part), "{error}");
            assert!(error.hint().is_some_and(|hint| hint.contains("name")), "{error:?}");
            parse(&format!("{MINIMAL}{entry}")).expect("a column may be called so");
        }
        for entry in [
            "exclude = \"*extra\"\ninclude=[\"_id\", \"_extra\"]",
            "merge = \"copy-on-write\"",
        ] {
            parse(&format!("{text}[[table]]\nmatch=\"*\"\n{entry}")).expect(entry);
        }
    }

    #[test]
    fn the_key_comes_from_the_environment_or_a_file() {
        let secret = "0123456789abcdef";
        let env = |name: &str| (name == "TRIBUTARY_TRANSFORM_KEY").then(|| secret.to_owned());
        let entry = "[[table]]\nmatch=\"*\"\nhash=\"a\"";
        let of_env = Config::parse(&format!("{MINIMAL}{entry}"), env).expect("config");
        let path = std::env::temp_dir().join(format!("tributary-key-{}", std::process::id()));
        std::fs::write(&path, format!("{secret}\r\n")).expect("file");
        let of_file = parse(&format!("{MINIMAL}[transform]\nkey_file={path:?}\n{entry}"));
        std::fs::remove_file(&path).expect("file");
        for config in [of_env, of_file.expect("config")] {
            let key = config.transform.key.as_ref().expect("key");
            assert_eq!(key.expose(), secret);
            assert!(!format!("{config:?}").contains(secret));
        }
    }

    #[test]
    fn the_password_comes_from_a_file_and_never_shows() {
        let path = std::env::temp_dir().join(format!("tributary-password-{}", std::process::id()));
        let text = MINIMAL.replace("[lake]", &format!("password_file={path:?}\n[lake]"));
        let error = parse(&text).expect_err("no file");
        let absent = format!("cannot read source.password_file {}", path.display());
        assert!(error.to_string().contains(&absent), "{error}");
        std::fs::write(&path, "\n").expect("file");
        let error = parse(&text).expect_err("an empty file");
        assert!(error.to_string().contains("source.password_file is empty"), "{error}");
        std::fs::write(&path, "se cret \n").expect("file");
        let config = parse(&text).expect("config");
        std::fs::remove_file(&path).expect("file");
        let password = config.source.password.as_ref().expect("password");
        assert_eq!(password.expose(), "se cret ");
        assert!(!format!("{config:?}").contains("cret"), "{config:?}");
        assert!(config.needs_restart(&parse(MINIMAL).expect("config")));
        // It is a file, or in the URL, or in the server's own variable.
        let error = parse(&MINIMAL.replace("[lake]", "password=\"x\"\n[lake]")).expect_err("no such key");
        assert!(
            error.hint().is_some_and(|hint| hint.contains("password_file")),
            "{error:?}"
        );
    }

    #[test]
    fn options_of_the_store_are_plain_values_that_never_show() {
        let text =
            format!("{MINIMAL}[lake.options]\naws_secret_access_key = \"secret\"\naws_allow_http = true\nretries = 3");
        let config = parse(&text).expect("options");
        let options: Vec<_> = config.lake.options.iter().collect();
        let wanted = [
            ("aws_allow_http", "true"),
            ("aws_secret_access_key", "secret"),
            ("retries", "3"),
        ];
        assert_eq!(options, wanted);
        assert!(!format!("{config:?}").contains("\"secret\""), "{config:?}");
        for wrong in ["a = [\"secret\"]", "a = {b = \"secret\"}", "a = 1.5"] {
            let error = parse(&format!("{MINIMAL}[lake.options]\n{wrong}")).expect_err(wrong);
            assert!(error.to_string().contains("lake.options"), "{error}");
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
        let env = |name: &str| (name == "TRIBUTARY_LAKE_OPTIONS").then(|| "a=1, b=x=y".to_owned());
        let config = Config::parse(MINIMAL, env).expect("from the environment");
        assert_eq!(
            config.lake.options.iter().collect::<Vec<_>>(),
            [("a", "1"), ("b", "x=y")]
        );
        let env = |name: &str| (name == "TRIBUTARY_LAKE_OPTIONS").then(|| "secret".to_owned());
        let error = Config::parse(MINIMAL, env).expect_err("no pair");
        assert!(error.to_string().contains("key=value"), "{error}");
    }

    #[test]
    fn debug_output_hides_the_url() {
        let text = MINIMAL.replace("localhost", "u:secret@localhost");
        assert!(!format!("{:?}", parse(&text).expect("config")).contains("secret"));
    }
}
