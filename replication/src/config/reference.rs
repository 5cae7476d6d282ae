//! Every key of the configuration: what it has to be, what it is if it is not set, and what it means.
//!
//! The one list of keys. [`super::Config::parse`] refuses what is not in it, README's table and the schema for editors
//! are made from it, and tests hold it against the structs that the file is read into.

use serde_json::{Map, Value, json};

/// A `[section]` of the file, or with [`Section::repeated`] a `[[section]]`.
pub struct Section {
    pub name: &'static str,
    pub about: &'static str,
    /// Whether there may be several. These have no environment variables.
    pub repeated: bool,
    pub keys: &'static [Key],
}

pub struct Key {
    pub name: &'static str,
    pub form: Form,
    pub default: Default,
    /// Markdown. Its links are all of the form `see [Title](#anchor)`, for a section of README.
    pub meaning: &'static str,
    /// A value as TOML has it, other than the default.
    pub example: &'static str,
}

/// What a key is if it is not set.
pub enum Default {
    /// This value, as TOML has it.
    Value(&'static str),
    /// What these words say, in Markdown.
    Otherwise(&'static str),
    /// It has to be set.
    Required,
}

/// What a value has to be. From the environment every value comes as text.
pub enum Form {
    Text,
    Path,
    Boolean,
    /// From 1 to this.
    Number(u32),
    /// `256MiB`
    Size,
    SizeOrOff,
    /// `5s`
    Duration,
    DurationOrOff,
    AddressOrOff,
    Choice(&'static [&'static str]),
    Texts,
    /// A text, or a list of at least so many.
    TextOrTexts(usize),
    /// As `partition_by`.
    Partitions,
    /// As `mask`.
    Masks,
    /// As `lake.options`.
    Options,
}

/// In the order of README's table.
pub const SECTIONS: &[Section] = &[
    Section {
        name: "source",
        about: "the database that is replicated",
        repeated: false,
        keys: &[
            Key {
                name: "url",
                form: Form::Text,
                default: Default::Required,
                meaning: "`postgres://user:password@host:5432/db`; parameters `sslmode` (`disable`, `prefer`, \
                          `require`, `verify-ca`, `verify-full`), `sslrootcert`, `sslcert`, `sslkey`, \
                          `channel_binding`, `passfile`, and `host` (a socket folder) with `user`. \
                          `mysql://user:password@host:3306` or `mariadb://…`; parameters `sslmode` or `ssl-mode`, \
                          `sslrootcert` or `ssl-ca`, `sslcert` or `ssl-cert`, `sslkey` or `ssl-key`, `socket`; see \
                          [Passwords and certificates](#passwords-and-certificates). \
                          `mongodb://user:password@host:27017,host:27017/?replicaSet=name` or `mongodb+srv://…`, \
                          with the options of MongoDB's connection strings: `authSource`, `tls`, `tlsCAFile`, \
                          `tlsCertificateKeyFile` (with `authMechanism=MONGODB-X509` it is the user), \
                          `readPreference`, …. A database in the URL, other than `admin`, is the only one that is \
                          watched.",
                example: "\"postgres://replicator:secret@db.example:5432/shop\"",
            },
            Key {
                name: "password_file",
                form: Form::Path,
                default: Default::Otherwise("none"),
                meaning: "a file with the password as its only line, for a URL that has a user and no password",
                example: "\"/run/secrets/replicator\"",
            },
            Key {
                name: "tables",
                form: Form::Texts,
                default: Default::Otherwise("all user tables"),
                meaning: "globs over `schema.table` (MySQL: `database.table`, MongoDB: `database.collection`); `!` in \
                          front excludes",
                example: "[\"public.*\", \"!public.old_*\"]",
            },
            Key {
                name: "slot",
                form: Form::Text,
                default: Default::Value("\"tributary\""),
                meaning: "PostgreSQL: created if absent. One slot, or one such name, is one pipeline and one lake",
                example: "\"shop\"",
            },
            Key {
                name: "publication",
                form: Form::Text,
                default: Default::Value("\"tributary\""),
                meaning: "PostgreSQL: created and extended if the role may",
                example: "\"shop\"",
            },
            Key {
                name: "standby",
                form: Form::Boolean,
                default: Default::Value("false"),
                meaning: "PostgreSQL 16 and newer: whether `source.url` may lead to a standby, see [From a \
                          standby](#from-a-standby). Otherwise one is waited for until it is promoted",
                example: "true",
            },
            Key {
                name: "server_id",
                form: Form::Number(u32::MAX),
                default: Default::Otherwise("derived from `source.slot`"),
                meaning: "MySQL: what the server knows the sidecar by; no replica may have the same",
                example: "4711",
            },
            Key {
                name: "infinity",
                form: Form::Choice(&["null", "clamp", "error"]),
                default: Default::Value("\"null\""),
                meaning: "what becomes of infinite or out-of-range dates and timestamps, of MySQL's zero and partial \
                          dates, and of NaN and infinity in `numeric(p,s)`: `\"null\"`, `\"clamp\"` (years 1 and \
                          9999) or `\"error\"`; counted in the log",
                example: "\"clamp\"",
            },
            Key {
                name: "on_gap",
                form: Form::Choice(&["stop", "resnapshot"]),
                default: Default::Value("\"stop\""),
                meaning: "what becomes of a table for which changes are lost: `\"stop\"` ends the run, \
                          `\"resnapshot\"` copies it anew",
                example: "\"resnapshot\"",
            },
            Key {
                name: "wal_budget",
                form: Form::Size,
                default: Default::Otherwise("none"),
                meaning: "PostgreSQL: how much log the slot may keep; more is told with what holds it, see [Log at \
                          the source](#log-at-the-source)",
                example: "\"20GiB\"",
            },
            Key {
                name: "on_wal_budget",
                form: Form::Choice(&["alert", "drop-table"]),
                default: Default::Value("\"alert\""),
                meaning: "PostgreSQL: what happens then: `\"alert\"` tells it, `\"drop-table\"` also gives up tables \
                          that are stalled and alone hold more than `source.wal_budget`",
                example: "\"drop-table\"",
            },
            Key {
                name: "schema",
                form: Form::Choice(&["evolve", "fixed", "json"]),
                default: Default::Value("\"evolve\""),
                meaning: "MongoDB: `\"evolve\"` makes columns of a sample's fields and of fields that come later, \
                          `\"fixed\"` of the sample's alone, `\"json\"` is one column for the whole document. A table \
                          that is there comes to `\"json\"`, or leaves it, with its next copy",
                example: "\"json\"",
            },
        ],
    },
    Section {
        name: "lake",
        about: "where the Delta tables are, and of what kind",
        repeated: false,
        keys: &[
            Key {
                name: "url",
                form: Form::Text,
                default: Default::Required,
                meaning: "a path or `file:///path`, or a prefix of a bucket: `s3://bucket/prefix`, \
                          `gs://bucket/prefix`, `az://container/prefix`, see [The lake in a \
                          bucket](#the-lake-in-a-bucket)",
                example: "\"s3://bucket/shop\"",
            },
            Key {
                name: "options",
                form: Form::Options,
                default: Default::Otherwise("none"),
                meaning: "a table of options for the bucket's store. As `TRIBUTARY_LAKE_OPTIONS`: \
                          `key=value,key=value`",
                example: "{ aws_endpoint = \"https://s3.example\", aws_allow_http = true }",
            },
            Key {
                name: "merge",
                form: Form::Choice(MERGES),
                default: Default::Value("\"deletion-vectors\""),
                meaning: "how rows that changed go from their files: marked in deletion vectors, or, with \
                          `\"copy-on-write\"`, by writing the files anew, for readers that know no deletion vectors \
                          (protocol 1/7): then a commit costs the files that it touches. Also in a `[[table]]`. A \
                          table keeps what it was made with; another setting is refused",
                example: "\"copy-on-write\"",
            },
            Key {
                name: "change_data_feed",
                form: Form::Boolean,
                default: Default::Value("false"),
                meaning: "whether tables tell their changes row by row (Delta's change data feed), see [Following a \
                          table](#following-a-table). Also in a `[[table]]`",
                example: "true",
            },
            Key {
                name: "mode",
                form: Form::Choice(MODES),
                default: Default::Value("\"mirror\""),
                meaning: "what a lake table is of its source's: the same rows, or, with `\"soft-delete\"`, also those \
                          that were deleted, marked: see [Tables that keep what is \
                          deleted](#tables-that-keep-what-is-deleted); or, with `\"history\"`, a row for every \
                          change: see [Tables with a row for every change](#tables-with-a-row-for-every-change). Also \
                          in a `[[table]]`",
                example: "\"soft-delete\"",
            },
            Key {
                name: "column_mapping",
                form: Form::Boolean,
                default: Default::Value("true"),
                meaning: "whether a renamed column may turn on column mapping for its table; otherwise the table is \
                          copied anew",
                example: "false",
            },
        ],
    },
    Section {
        name: "apply",
        about: "how changes come to the lake",
        repeated: false,
        keys: &[
            Key {
                name: "max_latency",
                form: Form::Duration,
                default: Default::Value("\"5s\""),
                meaning: "a change is in the lake at most this long after it was read. It is there earlier, after a \
                          fifth of this, if that costs little: what is written beside the rows (files, deletion \
                          vectors) is at most twice the rows, and the last commits were a second ago",
                example: "\"500ms\"",
            },
            Key {
                name: "memory",
                form: Form::Size,
                default: Default::Value("\"256MiB\""),
                meaning: "sizes batches and what is on its way to the lake (a quarter of it), and what key indexes \
                          keep in memory (an eighth); at least `\"64MiB\"`",
                example: "\"1GiB\"",
            },
            Key {
                name: "spill_max",
                form: Form::SizeOrOff,
                default: Default::Value("\"4GiB\""),
                meaning: "PostgreSQL: what large transactions that are open may take in `cache.dir`. The server sends \
                          them while they are open, and nothing of them comes to the lake before they commit. With \
                          `\"off\"`, and for an hour after more was needed or one could not be decoded while it was open, \
                          the server keeps them on its own disk",
                example: "\"off\"",
            },
        ],
    },
    Section {
        name: "snapshot",
        about: "how tables are copied",
        repeated: false,
        keys: &[
            Key {
                name: "parallelism",
                form: Form::Number(COUNT_MAX),
                default: Default::Value("2"),
                meaning: "chunks read at the same time, of one table or of several",
                example: "4",
            },
            Key {
                name: "max_bytes_per_s",
                form: Form::Size,
                default: Default::Otherwise("no limit"),
                meaning: "bytes read at the source a second, by all readers together",
                example: "\"20MiB\"",
            },
        ],
    },
    Section {
        name: "maintenance",
        about: "how the tables stay fast to read",
        repeated: false,
        keys: &[
            Key {
                name: "enabled",
                form: Form::Boolean,
                default: Default::Value("true"),
                meaning: "whether a running sidecar compacts files and removes old ones; `tributary maintain` does it \
                          anyway",
                example: "false",
            },
            Key {
                name: "threads",
                form: Form::Number(COUNT_MAX),
                default: Default::Value("1"),
                meaning: "tables that are compacted at the same time",
                example: "2",
            },
            Key {
                name: "retention",
                form: Form::Duration,
                default: Default::Value("\"2d\""),
                meaning: "how long a version can still be read after the next one has come; at least `\"1h\"`",
                example: "\"12h\"",
            },
        ],
    },
    Section {
        name: "cuts",
        about: "which versions of all tables belong together",
        repeated: false,
        keys: &[Key {
            name: "interval",
            form: Form::DurationOrOff,
            default: Default::Value("\"10s\""),
            meaning: "how often a consistent cut is written at most, or `\"off\"`",
            example: "\"off\"",
        }],
    },
    Section {
        name: "cache",
        about: "local files that can be lost",
        repeated: false,
        keys: &[Key {
            name: "dir",
            form: Form::Path,
            default: Default::Otherwise("`tributary` in `$XDG_CACHE_HOME` or `~/.cache`"),
            meaning: "disposable local files: the key indexes, see [Key indexes](#key-indexes), and large transactions \
                      that are open. Without any such folder they go to a temporary one, and indexes are built at \
                      every start",
            example: "\"/var/cache/tributary\"",
        }],
    },
    Section {
        name: "http",
        about: "where a running sidecar answers",
        repeated: false,
        keys: &[
            Key {
                name: "listen",
                form: Form::AddressOrOff,
                default: Default::Value("\"127.0.0.1:9464\""),
                meaning: "where a running sidecar answers, see [Watching it](#watching-it), or `\"off\"`",
                example: "\"0.0.0.0:9464\"",
            },
            Key {
                name: "token",
                form: Form::Text,
                default: Default::Otherwise("none"),
                meaning: "what an action has to bring as bearer token, 16 characters or more; none: no actions",
                example: "\"0123456789abcdef\"",
            },
            Key {
                name: "token_file",
                form: Form::Path,
                default: Default::Otherwise("none"),
                meaning: "a file with the token instead, as its only line",
                example: "\"/run/secrets/tributary-token\"",
            },
        ],
    },
    Section {
        name: "transform",
        about: "the key of hashed columns",
        repeated: false,
        keys: &[
            Key {
                name: "key",
                form: Form::Text,
                default: Default::Otherwise("none"),
                meaning: "the key of all hashes, 16 bytes or more: `openssl rand -hex 32`. Better in the environment, \
                          `TRIBUTARY_TRANSFORM_KEY`",
                example: "\"0123456789abcdef\"",
            },
            Key {
                name: "key_file",
                form: Form::Path,
                default: Default::Otherwise("none"),
                meaning: "a file with the key instead, as its only line",
                example: "\"/run/secrets/tributary-key\"",
            },
        ],
    },
    Section {
        name: "table",
        about: "what only some tables have",
        repeated: true,
        keys: &[
            Key {
                name: "match",
                form: Form::TextOrTexts(1),
                default: Default::Required,
                meaning: "globs over `schema.table`, as in `source.tables`: the tables that the entry's other keys \
                          are for",
                example: "[\"public.users*\", \"!public.users_old\"]",
            },
            Key {
                name: "include",
                form: Form::TextOrTexts(0),
                default: Default::Otherwise("all"),
                meaning: "globs over columns (MongoDB: fields at the top of documents): those that the lake has",
                example: "[\"id\", \"name\"]",
            },
            Key {
                name: "exclude",
                form: Form::TextOrTexts(0),
                default: Default::Otherwise("none"),
                meaning: "globs over columns: those that it does not have, also of the included ones",
                example: "\"raw_*\"",
            },
            Key {
                name: "hash",
                form: Form::TextOrTexts(0),
                default: Default::Otherwise("none"),
                meaning: "globs over columns: of which it has a keyed hash instead of the value",
                example: "[\"email\", \"phone\"]",
            },
            Key {
                name: "mask",
                form: Form::Masks,
                default: Default::Otherwise("none"),
                meaning: "of which it has a text instead of the value: `{ name = \"***\", \"card_*\" = \"\" }`, or a \
                          list of columns, which get `***`",
                example: "{ name = \"***\", \"card_*\" = \"\" }",
            },
            Key {
                name: "partition_by",
                form: Form::Partitions,
                default: Default::Otherwise("none"),
                meaning: "what the table's files are told apart by: a list of `date(column)`, `hour(column)`, \
                          `bucket(N, column)` and `value(column)`, see [Tables in partitions](#tables-in-partitions). \
                          A table keeps what it was made with; another setting is refused",
                example: "[\"date(created_at)\", \"bucket(16, customer_id)\"]",
            },
            Key {
                name: "merge",
                form: Form::Choice(MERGES),
                default: Default::Otherwise("`lake.merge`"),
                meaning: "as `lake.merge`, for these tables",
                example: "\"copy-on-write\"",
            },
            Key {
                name: "change_data_feed",
                form: Form::Boolean,
                default: Default::Otherwise("`lake.change_data_feed`"),
                meaning: "as `lake.change_data_feed`, for these tables",
                example: "true",
            },
            Key {
                name: "mode",
                form: Form::Choice(MODES),
                default: Default::Otherwise("`lake.mode`"),
                meaning: "as `lake.mode`, for these tables",
                example: "\"history\"",
            },
        ],
    },
];

const MERGES: &[&str] = &["deletion-vectors", "copy-on-write"];
const MODES: &[&str] = &["mirror", "soft-delete", "history"];
/// Of readers and threads.
const COUNT_MAX: u32 = 64;

impl Section {
    /// As the file has it.
    pub fn heading(&self) -> String {
        match self.repeated {
            true => format!("[[{}]]", self.name),
            false => format!("[{}]", self.name),
        }
    }

    pub fn key_names(&self) -> Vec<&'static str> {
        self.keys.iter().map(|key| key.name).collect()
    }

    /// The environment variable of a key.
    pub fn variable(&self, key: &Key) -> Option<String> {
        (!self.repeated).then(|| format!("TRIBUTARY_{}_{}", self.name.to_uppercase(), key.name.to_uppercase()))
    }
}

impl Key {
    /// [`Key::meaning`] without Markdown's links.
    pub fn plain_meaning(&self) -> String {
        let mut plain = String::new();
        let mut rest = self.meaning;
        while let Some((before, title, after)) = link(rest) {
            plain += &format!("{before}\"{title}\" in the README");
            rest = after;
        }
        plain + rest
    }
}

/// The first `[title](#anchor)` of a text: what is before it, its title, and what is after it.
fn link(text: &str) -> Option<(&str, &str, &str)> {
    let (head, tail) = text.split_once("](#")?;
    let (before, title) = head.rsplit_once('[')?;
    let (_, after) = tail.split_once(')')?;
    Some((before, title, after))
}

impl Form {
    /// For people.
    pub fn words(&self) -> String {
        match self {
            Form::Text => "text".to_owned(),
            Form::Path => "path".to_owned(),
            Form::Boolean => "true or false".to_owned(),
            Form::Number(max) => format!("number from 1 to {max}"),
            Form::Size => "size like \"256MiB\"".to_owned(),
            Form::SizeOrOff => "size like \"256MiB\", or \"off\"".to_owned(),
            Form::Duration => "duration like \"5s\"".to_owned(),
            Form::DurationOrOff => "duration like \"5s\", or \"off\"".to_owned(),
            Form::AddressOrOff => "address:port, or \"off\"".to_owned(),
            Form::Choice(values) => {
                let quoted: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
                let (last, others) = quoted.split_last().expect("there is something to choose from");
                format!("{} or {last}", others.join(", "))
            }
            Form::Texts => "list of texts".to_owned(),
            Form::TextOrTexts(_) => "text or list of texts".to_owned(),
            Form::Partitions => "text or list of texts like \"date(column)\"".to_owned(),
            Form::Masks => "table of texts, or list of texts".to_owned(),
            Form::Options => "table of texts, numbers, true or false".to_owned(),
        }
    }

    /// As JSON Schema. All keywords have the same meaning from draft 4 on, for editors that know no other.
    fn schema(&self) -> Value {
        let texts = |text: Value, least: usize| json!({"anyOf": [text.clone(), {"type": "array", "items": text, "minItems": least}]});
        match self {
            Form::Text | Form::Path => json!({"type": "string"}),
            Form::Boolean => json!({"type": "boolean"}),
            Form::Number(max) => json!({"type": "integer", "minimum": 1, "maximum": max}),
            Form::Size => json!({"type": "string", "pattern": format!("^{SIZE}$")}),
            Form::SizeOrOff => json!({"type": "string", "pattern": format!("^(off|{SIZE})$")}),
            Form::Duration => json!({"type": "string", "pattern": format!("^({DURATION})$")}),
            Form::DurationOrOff => json!({"type": "string", "pattern": format!("^(off|{DURATION})$")}),
            Form::AddressOrOff => json!({"type": "string", "pattern": ADDRESS_OR_OFF}),
            Form::Choice(values) => json!({"type": "string", "enum": values}),
            Form::Texts => json!({"type": "array", "items": {"type": "string"}}),
            Form::TextOrTexts(least) => texts(json!({"type": "string"}), *least),
            Form::Partitions => texts(json!({"type": "string", "pattern": PARTITION}), 0),
            Form::Masks => json!({"anyOf": [
                {"type": "object", "additionalProperties": {"type": "string"}},
                {"type": "array", "items": {"type": "string"}},
                {"type": "string"},
            ]}),
            Form::Options => json!({
                "type": "object",
                "additionalProperties": {"type": ["string", "integer", "boolean"]},
            }),
        }
    }
}

const SIZE: &str = "[0-9]+(\\.[0-9]+)? ?(KiB|MiB|GiB|kB|MB|GB)";
/// One digit at least is not zero.
const DURATION: &str = "([0-9]*[1-9][0-9]*(\\.[0-9]+)?|[0-9]+\\.[0-9]*[1-9][0-9]*) ?(ms|s|m|min|h|d)";
const ADDRESS_OR_OFF: &str = "^(off|[0-9]{1,3}(\\.[0-9]{1,3}){3}:[0-9]{1,5}|\\[[0-9A-Fa-f:.]+\\]:[0-9]{1,5})$";
const PARTITION: &str = "^ *((date|hour|value) *\\(|bucket *\\( *[0-9]+ *,) *[^ )].*\\)$";

/// JSON Schema of the file, for editors. It is stricter than the program where that takes text for
/// the environment's sake, and does not require the URLs, which may be in the environment.
pub fn schema() -> Value {
    let sections = SECTIONS.iter().map(|section| {
        let keys = section.keys.iter().map(|key| (key.name.to_owned(), key_schema(key)));
        let mut schema = json!({
            "type": "object",
            "additionalProperties": false,
            "properties": keys.collect::<Map<_, _>>(),
        });
        if section.repeated {
            let required = section
                .keys
                .iter()
                .filter(|key| matches!(key.default, Default::Required));
            schema["required"] = required.map(|key| key.name).collect();
            schema = json!({"type": "array", "items": schema});
        }
        schema["description"] = section.about.into();
        (section.name.to_owned(), schema)
    });
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tributary.toml",
        "description": "The configuration of Tributary.",
        "type": "object",
        "additionalProperties": false,
        "properties": sections.collect::<Map<_, _>>(),
    })
}

fn key_schema(key: &Key) -> Value {
    let mut schema = key.form.schema();
    let mut description = key.plain_meaning();
    match key.default {
        Default::Value(text) => schema["default"] = json_of(text),
        Default::Otherwise(words) => description += &format!(". Default: {words}"),
        Default::Required => {}
    }
    schema["description"] = description.into();
    schema
}

/// A TOML value of the list as JSON.
fn json_of(toml: &str) -> Value {
    let parsed: Option<toml::Table> = format!("value = {toml}").parse().ok();
    let value = parsed.and_then(|mut table| table.remove("value"));
    serde_json::to_value(value).expect("all values of the list are texts, numbers, true or false")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde::Deserialize;

    use super::*;
    use crate::config::Config;

    /// What is not in the environment, of what the keys of the list need.
    fn env(name: &str) -> Option<String> {
        match name {
            "TRIBUTARY_SOURCE_URL" => Some("postgres://localhost/db".to_owned()),
            "TRIBUTARY_TRANSFORM_KEY" => Some("0123456789abcdef".to_owned()),
            _ => None,
        }
    }

    /// The file with one key.
    fn file(section: &Section, key: &Key, value: &str) -> String {
        let lake = "lake.url = \"./lake\"\n";
        let line = format!("{} = {value}", key.name);
        match (section.repeated, section.name, key.name) {
            (true, _, "match") => format!("{lake}{}\n{line}\n", section.heading()),
            (true, ..) => format!("{lake}{}\nmatch = \"*\"\n{line}\n", section.heading()),
            (false, "lake", "url") => format!("lake.{line}\n"),
            (false, name, _) => format!("{lake}{name}.{line}\n"),
        }
    }

    /// The keys of a section, as the struct that it is read into has them.
    fn fields(section: &Section) -> BTreeSet<String> {
        let odd = match section.repeated {
            true => format!("[[{}]]\nnonsense = 1", section.name),
            false => format!("[{}]\nnonsense = 1", section.name),
        };
        let root: toml::Table = odd.parse().expect("TOML");
        let error = Config::deserialize(root).expect_err("no such field");
        let error = error.message();
        let (_, known) = error.split_once("unknown field `nonsense`, expected").expect(error);
        known.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn keys_are_those_that_the_file_is_read_into() {
        let root: toml::Table = "nonsense = 1".parse().expect("TOML");
        let error = Config::deserialize(root).expect_err("no such section").to_string();
        let (_, known) = error.split_once("expected").expect("fields");
        let known: BTreeSet<&str> = known.split('`').skip(1).step_by(2).collect();
        assert_eq!(
            SECTIONS.iter().map(|section| section.name).collect::<BTreeSet<_>>(),
            known
        );
        for section in SECTIONS {
            let listed: BTreeSet<String> = section.keys.iter().map(|key| key.name.to_owned()).collect();
            assert_eq!(listed, fields(section), "{}", section.name);
            assert_eq!(listed.len(), section.keys.len(), "{} has a key twice", section.name);
        }
    }

    #[test]
    fn every_key_is_read_and_its_default_is_what_it_is_without() {
        let without = format!("{:?}", Config::parse("lake.url = \"./lake\"", env).expect("least"));
        for section in SECTIONS {
            for key in section.keys {
                let name = format!("{}.{}", section.name, key.name);
                if let Default::Value(value) = key.default {
                    let config = Config::parse(&file(section, key, value), env).expect(&name);
                    assert_eq!(format!("{config:?}"), without, "{name}");
                }
                // Where the environment has the key, it has to be the file's.
                let env = |variable: &str| env(variable).filter(|_| section.variable(key).as_deref() != Some(variable));
                match Config::parse(&file(section, key, key.example), env) {
                    // It and the key are both set, or there is no such file: it was looked at.
                    Err(error) if key.name.ends_with("_file") => assert!(error.to_string().contains(&name), "{error}"),
                    Ok(config) if name == "source.url" => assert!(key.example.contains(config.source.url.expose())),
                    Ok(config) if name == "transform.key" => {
                        let read = config.transform.key.expect("a key");
                        assert!(key.example.contains(read.expose()));
                    }
                    parsed => assert_ne!(format!("{:?}", parsed.expect(&name)), without, "{name}"),
                }
            }
        }
    }

    #[test]
    fn choices_are_all_there_are() {
        for section in SECTIONS {
            for key in section.keys {
                let Form::Choice(values) = key.form else { continue };
                for value in values {
                    Config::parse(&file(section, key, &format!("{value:?}")), env).expect(value);
                }
                let error = Config::parse(&file(section, key, "\"nonsense\""), env).expect_err("no such choice");
                let error = error.to_string();
                let (_, known) = error.split_once("expected").expect(&error);
                let known: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
                assert_eq!(known, values, "{error}");
            }
        }
    }

    #[test]
    fn numbers_end_where_they_say() {
        let mut numbers = 0;
        for section in SECTIONS {
            for key in section.keys {
                let Form::Number(max) = key.form else { continue };
                let parse = |number: u64| Config::parse(&file(section, key, &number.to_string()), env);
                parse(1).expect(key.name);
                parse(max.into()).expect(key.name);
                parse(0).expect_err(key.name);
                parse(u64::from(max) + 1).expect_err(key.name);
                numbers += 1;
            }
        }
        assert!(numbers > 0);
    }

    #[test]
    fn meanings_are_plain_where_there_are_no_links() {
        let mut links = 0;
        for key in SECTIONS.iter().flat_map(|section| section.keys) {
            assert_eq!(
                key.meaning.matches("](#").count(),
                key.meaning.matches("see [").count(),
                "{}",
                key.name
            );
            let plain = key.plain_meaning();
            assert!(!plain.contains("](") && !key.meaning.contains(['|', '\n']), "{plain}");
            links += plain.matches("in the README").count();
        }
        assert!(links > 0);
    }
}
