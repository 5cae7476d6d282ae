//! What a test stands on: a [`Case`] is a database with a lake beside it.

pub mod http;
pub mod lake;
pub mod mongo;
pub mod position;
pub mod proxy;
pub mod s3;
pub mod server;
mod shared;
pub mod sidecar;
pub mod sql;
pub mod writer;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use server::{Database, Kind, Server};
use sidecar::Sidecar;

/// How long anything may take before the test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(180);
/// How long the lake may differ from a source at rest: the source's catalogue is looked at every 10 s, and a copy takes its time.
const EQUAL_WITHIN: Duration = Duration::from_secs(60);
/// How often a condition is looked at.
pub const POLL: Duration = Duration::from_millis(50);

/// The repository's root.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where servers, environments and scratch folders live; installs what is missing on first use.
pub fn cache() -> &'static Path {
    static CACHE: OnceLock<PathBuf> = OnceLock::new();
    CACHE.get_or_init(|| {
        succeed(&mut Command::new(repository().join("tests/setup")));
        PathBuf::from(std::env::var("TRIBUTARY_CACHE").unwrap_or("/var/tmp/tributary".to_owned()))
    })
}

/// Runs a command that must succeed; returns its standard output.
pub fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{stdout}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    stdout
}

/// Runs a command that must end within [`PATIENCE`].
pub fn finish(command: &mut Command) -> Output {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let child = child.unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let id = child.id();
    let output = std::thread::spawn(move || child.wait_with_output());
    let start = Instant::now();
    while !output.is_finished() {
        if start.elapsed() > PATIENCE {
            signal(id, "KILL");
            let output = output.join().unwrap().unwrap();
            panic!("{command:?} did not end\n{}", String::from_utf8_lossy(&output.stderr));
        }
        sleep(POLL);
    }
    output.join().unwrap().unwrap()
}

pub fn signal(process: u32, name: &str) {
    succeed(Command::new("kill").args(["-s", name, &process.to_string()]));
}

/// Polls until `look` finds something.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        sleep(POLL);
    }
}

/// Waits for the end of a child.
pub fn wait_for_exit(child: &mut Child, within: Duration) -> Option<std::process::ExitStatus> {
    let start = Instant::now();
    loop {
        match child.try_wait().unwrap() {
            Some(status) => return Some(status),
            None if start.elapsed() > within => return None,
            None => sleep(POLL),
        }
    }
}

/// The tests' Python environment.
pub fn interpreter() -> Command {
    Command::new(cache().join("venv/bin/python"))
}

/// A file of tests/python.
pub fn python(script: &str) -> Command {
    let mut command = interpreter();
    command.arg("-B").arg(repository().join("tests/python").join(script));
    command
}

/// Starts a script that serves until its standard input ends. Returns the line in which it says where.
pub fn serving(script: &mut Command) -> (Child, String) {
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    (child, line.trim().to_owned())
}

/// Makes a test for each kind of source of functions that take a [`Kind`].
macro_rules! on_every_source {
    ($($test:ident)*) => {
        mod postgres {
            $(#[test] fn $test() { super::$test(crate::support::server::POSTGRES) })*
        }
        $crate::support::on_mysql_and_mariadb! { $($test)* }
    };
}
pub(crate) use on_every_source;

/// As `on_every_source`, for sources with a binlog.
macro_rules! on_mysql_and_mariadb {
    ($($test:ident)*) => {
        mod mysql {
            $(#[test] fn $test() { super::$test(crate::support::server::Kind::MySql) })*
        }
        mod mariadb {
            $(#[test] fn $test() { super::$test(crate::support::server::MARIADB) })*
        }
    };
}
pub(crate) use on_mysql_and_mariadb;

/// A database, a lake and the configuration between them. Fields may be changed before each run.
pub struct Case<'a> {
    pub database: Database<'a>,
    pub folder: PathBuf,
    pub lake: PathBuf,
    /// Set if the lake is in a bucket: `lake` is a copy of it then.
    pub bucket: Option<s3::Bucket>,
    pub url: String,
    pub tables: Vec<String>,
    pub slot: String,
    pub max_latency: &'static str,
    /// More lines for `[source]`.
    pub source: &'static str,
    /// The lines of `[snapshot]`.
    pub snapshot: &'static str,
    /// The lines of `[http]`: off but for tests of it, for many programs run at a time.
    pub http: &'static str,
    /// More sections of the configuration.
    pub sections: String,
    /// What becomes of columns, for the comparison: see tests/python/transforms.py, of fields: mongo_transforms.py.
    pub transforms: String,
}

impl<'a> Case<'a> {
    /// `name` is unique among the tests.
    pub fn new(server: &'a Server, name: &str) -> Self {
        let database = Database::create(server, name);
        let scheme = server.kind.scheme();
        let folder = cache().join(format!("run/{scheme}-{name}.{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Case {
            url: database.default_url(),
            lake: folder.join("lake"),
            bucket: None,
            slot: database.name.clone(),
            tables: vec![],
            max_latency: "200ms",
            source: "",
            snapshot: "",
            http: "listen = \"off\"",
            sections: String::new(),
            transforms: "{}".to_owned(),
            database,
            folder,
        }
    }

    /// The same lake, with a server that has become the primary of this one's database.
    pub fn moved_to<'b>(&self, server: &'b Server) -> Case<'b> {
        let database = Database {
            server,
            name: self.database.name.clone(),
        };
        let folder = self.folder.join(format!("at-{}", server.port));
        fs::create_dir_all(&folder).unwrap();
        Case {
            url: database.default_url(),
            lake: self.lake.clone(),
            bucket: self.bucket.clone(),
            slot: self.slot.clone(),
            tables: self.tables.clone(),
            max_latency: self.max_latency,
            source: self.source,
            snapshot: self.snapshot,
            http: self.http,
            sections: self.sections.clone(),
            transforms: self.transforms.clone(),
            database,
            folder,
        }
    }

    pub fn sql(&self, sql: &str) -> String {
        self.database.sql(sql)
    }

    pub fn kind(&self) -> Kind {
        self.database.server.kind
    }

    /// A table's name in messages and patterns.
    pub fn qualified(&self, table: &str) -> String {
        format!("{}.{table}", self.database.schema())
    }

    /// Runs a file of fixtures/sql.
    pub fn fixture(&self, name: &str) {
        self.database.file(&repository().join("fixtures/sql").join(name));
    }

    /// Every type of the source with its edge values: tables to copy (`snapshot`), and changes (`stream`).
    pub fn types(&self, stage: &str) {
        match (self.kind(), stage) {
            (Kind::Postgres(_), "snapshot") => self.fixture("types.sql"),
            (Kind::Postgres(_), _) => self.fixture("types_stream.sql"),
            _ => {
                succeed(python("mysql_types.py").arg(self.database.socket_url()).arg(stage));
            }
        }
    }

    pub fn cache(&self) -> PathBuf {
        self.folder.join("cache")
    }

    /// The patterns of `source.tables`. A log of several databases has those of other tests, too.
    fn selected(&self) -> Vec<String> {
        match self.tables.is_empty() && !self.kind().has_slot() {
            true => [self.database.schema(), &self.database.other_schema()]
                .map(|schema| format!("{schema}.*"))
                .to_vec(),
            false => self.tables.clone(),
        }
    }

    pub fn write_config(&self) -> PathBuf {
        let path = self.folder.join("tributary.toml");
        let lake = match &self.bucket {
            Some(bucket) => bucket.config(),
            None => format!("url = \"file://{}\"\n", self.lake.display()),
        };
        // A sidecar that starts at the same time must not find half a file.
        let whole = self.folder.join("tributary.toml.new");
        fs::write(&whole, self.config(&lake)).unwrap();
        fs::rename(&whole, &path).unwrap();
        path
    }

    /// A configuration with these lines of `[lake]`.
    fn config(&self, lake: &str) -> String {
        let mut source = format!(
            "url = {:?}\ntables = {:?}\nslot = {:?}\n",
            self.url,
            self.selected(),
            self.slot
        );
        if self.kind().has_slot() {
            source += &format!("publication = {:?}\n", self.slot);
        }
        format!(
            "[source]\n{source}{}\n[lake]\n{lake}[apply]\nmax_latency = {:?}\n[cache]\ndir = {:?}\n[snapshot]\n{}\n[http]\n{}\n{}\n",
            self.source,
            self.max_latency,
            self.cache(),
            self.snapshot,
            self.http,
            self.sections
        )
    }

    /// `tributary VERB --config …`
    pub fn command(&self, verb: &str) -> Command {
        self.command_with(verb, &self.write_config())
    }

    /// The same with another file.
    pub fn command_with(&self, verb: &str, config: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tributary"));
        command.arg(verb).arg("--config").arg(config).env_remove("RUST_LOG");
        if self.bucket.is_some() {
            command.envs(s3::KEY);
        }
        command
    }

    /// `tributary run`, in the background.
    pub fn start(&self) -> Sidecar {
        Sidecar::start(self.command("run"), &self.folder.join("sidecar.log"))
    }

    /// `tributary run --once`, to its end.
    pub fn run_once(&self) -> Output {
        finish(self.command("run").arg("--once"))
    }

    /// `tributary run --once`, which must succeed.
    pub fn catch_up(&self) {
        let output = self.run_once();
        assert!(output.status.success(), "run --once: {}", text(&output));
    }

    /// Every table that is replicated streams, and holds all that the source has committed.
    pub fn wait_until_current(&self, sidecar: &mut Sidecar) {
        self.wait_until(sidecar, |_| true);
    }

    /// As [`Self::wait_until_current`], for the tables of this moment with their columns: to be used after changes of
    /// the source's tables that no row follows.
    pub fn wait_until_settled(&self, sidecar: &mut Sidecar) {
        let columns = match self.kind() {
            Kind::Mongo(_) => return self.wait_until_all_stream(sidecar),
            Kind::Postgres(_) => self.sql(
                "SELECT c.relname || ' ' || string_agg(attname, ',' ORDER BY attnum)
                 FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
                 WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
                 GROUP BY c.oid",
            ),
            _ => self.sql(
                "SELECT concat(c.table_name, ' ', group_concat(column_name ORDER BY ordinal_position))
                 FROM information_schema.columns c JOIN information_schema.tables t USING (table_schema, table_name)
                 WHERE table_schema = database() AND table_type = 'BASE TABLE' GROUP BY c.table_name",
            ),
        };
        let columns: Vec<_> = columns.lines().filter_map(|line| line.split_once(' ')).collect();
        self.wait_until(sidecar, |status| {
            self.sync();
            let folder = self.lake.join(self.database.schema());
            columns.iter().all(|(table, columns)| {
                let known = |t: &lake::TableStatus| t.table == self.qualified(table) && t.state == "streaming";
                status.tables.iter().any(known) && lake::column_names(&folder.join(table)).join(",") == *columns
            })
        });
    }

    /// As [`Self::wait_until_settled`], for the collections of this moment; their columns are the program's own affair.
    fn wait_until_all_stream(&self, sidecar: &mut Sidecar) {
        let names = "print(*db.list_collection_names(filter={'type': 'collection'}), sep='\\n')";
        let collections = self.mongo(names);
        self.wait_until(sidecar, |status| {
            collections.lines().all(|collection| {
                let known = |t: &lake::TableStatus| t.table == self.qualified(collection) && t.state == "streaming";
                status.tables.iter().any(known)
            })
        });
    }

    fn wait_until(&self, sidecar: &mut Sidecar, settled: impl Fn(&lake::Status) -> bool) {
        let position = self.database.position();
        let start = Instant::now();
        loop {
            sidecar.assert_running();
            let status = self.status();
            let current = |table: &lake::TableStatus| match table.state.as_str() {
                "dropped" | "excluded" => true,
                state => state == "streaming" && table.watermark.covers(&position),
            };
            if !status.tables.is_empty() && status.tables.iter().all(current) && settled(&status) {
                return;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "the lake does not reach {position:?}: {}\n{}",
                status.text,
                sidecar.log()
            );
            sleep(POLL);
        }
    }

    pub fn status(&self) -> lake::Status {
        lake::Status::parse(&finish(self.command("status").arg("--json")))
    }

    /// What `status` says of a table of the case's own schema, if it knows it.
    pub fn table_status(&self, table: &str) -> Option<lake::TableStatus> {
        let name = self.qualified(table);
        self.status().tables.into_iter().find(|t| t.table == name)
    }

    /// Waits until a table is in `state`; returns what is said of it.
    pub fn wait_for_state(&self, sidecar: &mut Sidecar, table: &str, state: &str) -> lake::TableStatus {
        let start = Instant::now();
        loop {
            sidecar.assert_running();
            let found = self.table_status(table);
            match found {
                Some(found) if found.state == state => return found,
                _ if start.elapsed() > PATIENCE => {
                    panic!(
                        "{table} does not become {state}: {}\n{}",
                        self.status().text,
                        sidecar.log()
                    )
                }
                _ => sleep(POLL),
            }
        }
    }

    /// `tributary snapshot TABLE…`
    pub fn snapshot(&self, tables: &[&str]) -> Command {
        let mut command = self.command("snapshot");
        command.args(tables);
        command
    }

    /// Source and lake are equal, row by row, for both outside readers. All tables if none is named.
    pub fn compare(&self, tables: &[&str]) {
        let output = self.comparison(tables);
        assert!(output.status.success(), "{}", text(&output));
    }

    pub fn comparison(&self, tables: &[&str]) -> Output {
        finish(self.comparer().args(tables))
    }

    /// As [`Self::compare`], for the tables, columns and rows that the publication has.
    pub fn compare_published(&self) {
        let output = self.published_comparison();
        assert!(output.status.success(), "{}", text(&output));
    }

    fn published_comparison(&self) -> Output {
        finish(self.comparer().args(["--publication", &self.slot]))
    }

    /// Waits until source and lake are equal, after changes of which no row tells. Nobody changes the source meanwhile.
    pub fn wait_until_equal(&self, sidecar: &mut Sidecar) {
        wait_for_success(sidecar, || self.comparison(&[]));
    }

    /// As [`Self::wait_until_equal`], for what the publication has.
    pub fn wait_until_published_equal(&self, sidecar: &mut Sidecar) {
        wait_for_success(sidecar, || self.published_comparison());
    }

    /// The program's own comparison finds no difference.
    pub fn verify(&self) {
        let output = finish(&mut self.command("verify"));
        assert!(output.status.success(), "verify: {}", text(&output));
    }

    fn comparer(&self) -> Command {
        self.sync();
        let is_mongo = matches!(self.kind(), Kind::Mongo(_));
        let mut command = python(if is_mongo { "mongo_compare.py" } else { "compare.py" });
        command
            .args(["--source", &self.database.socket_url(), "--lake"])
            .arg(&self.lake);
        command.args(["--transforms", &self.transforms]);
        if is_mongo {
            command.args(["--database", &self.database.name]);
        }
        if let Some(bucket) = &self.bucket {
            command.args(["--remote", &bucket.url]).envs(bucket.environment());
        }
        command
    }

    /// The first row of an SQL query over the table `t`, as an outside reader sees it, in one version or the newest.
    pub fn query(&self, table: &str, sql: &str, version: Option<u64>) -> String {
        let mut command = python("lake.py");
        command.arg("query").arg(self.table(table)).arg(sql);
        if let Some(version) = version {
            command.args(["--version", &version.to_string()]);
        }
        succeed(&mut command).trim_end().to_owned()
    }

    /// No table's content was ever replaced by a new copy.
    pub fn assert_not_copied_anew(&self, tables: &[&str]) {
        for table in tables {
            assert!(
                lake::replacements(&self.table(table)).is_empty(),
                "{table} was copied anew without need"
            );
        }
    }

    /// The folder of a table whose name needs no encoding.
    pub fn table(&self, name: &str) -> PathBuf {
        self.sync();
        self.lake.join(self.database.schema()).join(name)
    }
}

impl Drop for Case<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept for a look: {}", self.folder.display());
        } else {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

fn wait_for_success(sidecar: &mut Sidecar, attempt: impl Fn() -> Output) {
    sidecar.reload();
    let start = Instant::now();
    loop {
        sidecar.assert_running();
        let output = attempt();
        if output.status.success() {
            return;
        }
        assert!(start.elapsed() < EQUAL_WITHIN, "{}\n{}", text(&output), sidecar.log());
    }
}

/// A folder of its own for a test without a database. It goes with the value.
pub struct Folder(PathBuf);

impl Folder {
    /// `name` is unique among the tests.
    pub fn new(name: &str) -> Self {
        let path = cache().join(format!("run/{name}.{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A transaction that stays open on a connection of its own (PostgreSQL).
pub struct Open(Child);

impl Open {
    /// Returns once `sql` has been carried out.
    pub fn begin(case: &Case, sql: &str) -> Self {
        let mut command = case.database.psql();
        let mut open = Open(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
        open.run(&format!("BEGIN; {sql}"));
        open
    }

    /// Returns once `sql` has been carried out.
    pub fn run(&mut self, sql: &str) {
        writeln!(self.0.stdin.as_mut().unwrap(), "{sql};\n\\echo done").unwrap();
        let done = &mut [0; 5];
        self.0.stdout.as_mut().unwrap().read_exact(done).unwrap();
        assert_eq!(done, b"done\n", "{sql}");
    }

    pub fn end(mut self, sql: &str) {
        writeln!(self.0.stdin.as_mut().unwrap(), "{sql};").unwrap();
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

pub fn text(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The program failed as it should: exit code 1, an `error:` or a `✗` of `check`, a `hint:`, and all `parts` (any case).
pub fn assert_error(output: &Output, parts: &[&str]) {
    let said = text(output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("error: ") || said.contains("✗ "), "no error in:\n{said}");
    for part in ["hint: "].iter().chain(parts) {
        assert!(
            said.to_lowercase().contains(&part.to_lowercase()),
            "no {part:?} in:\n{said}"
        );
    }
}
