//! Servers of every kind, and databases on them.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use super::position::Position;
use super::sql::dialect;
use super::{cache, python, repository, succeed, wait_for};

/// What kind of source a test stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// With its major version.
    Postgres(u32),
    MySql,
    /// With its series.
    MariaDb(&'static str),
    /// With its version. It speaks no SQL: see [`super::mongo`].
    Mongo(&'static str),
}

/// The versions that tests take where any will do.
pub const POSTGRES: Kind = Kind::Postgres(15);
pub const MARIADB: Kind = Kind::MariaDb("10.11");
pub const MONGO: Kind = Kind::Mongo("6.0.27");

impl From<u32> for Kind {
    fn from(version: u32) -> Self {
        Kind::Postgres(version)
    }
}

impl Kind {
    /// A slot and a publication belong to each pipeline, and can be lost.
    pub fn has_slot(self) -> bool {
        matches!(self, Kind::Postgres(_))
    }

    /// The server's own name for itself in messages.
    pub fn scheme(self) -> &'static str {
        match self {
            Kind::Postgres(_) => "postgres",
            Kind::MySql => "mysql",
            Kind::MariaDb(_) => "mariadb",
            Kind::Mongo(_) => "mongodb",
        }
    }

    pub fn script(self) -> PathBuf {
        let name = match self {
            Kind::Postgres(_) => "pg.sh",
            Kind::MySql => "mysql.sh",
            Kind::MariaDb(_) => "mariadb.sh",
            Kind::Mongo(_) => "mongo.sh",
        };
        repository().join("tests/servers").join(name)
    }

    fn version(self) -> String {
        match self {
            Kind::Postgres(version) => version.to_string(),
            Kind::MySql => "9".to_owned(),
            Kind::MariaDb(version) | Kind::Mongo(version) => version.to_owned(),
        }
    }
}

/// A private server. It ends with the pipe that `_holder` keeps open, so with this process at the latest.
pub struct Server {
    pub kind: Kind,
    pub folder: PathBuf,
    pub port: u16,
    /// As its script tells it.
    pub url: String,
    client: String,
    _holder: Child,
}

impl Server {
    /// The server that the tests of a kind share. It is never configured otherwise.
    pub fn shared(kind: impl Into<Kind>) -> &'static Server {
        static SHARED: Mutex<Option<HashMap<Kind, &'static Server>>> = Mutex::new(None);
        let kind = kind.into();
        let mut shared = SHARED.lock().unwrap();
        let servers = shared.get_or_insert_default();
        servers
            .entry(kind)
            .or_insert_with(|| Box::leak(Box::new(Server::start(kind, &[]))))
    }

    /// A server of one's own; `settings` are the environment variables of its script in tests/servers.
    pub fn start(kind: impl Into<Kind>, settings: &[(&str, &str)]) -> Server {
        cache();
        let kind = kind.into();
        let mut holder = Command::new(kind.script())
            .args(["serve", &kind.version()])
            .envs(settings.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = HashMap::new();
        for line in BufReader::new(holder.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let (name, value) = line.split_once('=').unwrap();
            said.insert(name.to_owned(), value.to_owned());
            if name == "URL" {
                break;
            }
        }
        Server {
            kind,
            folder: said
                .get("DIR")
                .unwrap_or_else(|| panic!("{kind:?} does not start"))
                .into(),
            port: said["PORT"].parse().unwrap(),
            url: said["URL"].clone(),
            client: said.remove("CLIENT").unwrap_or("psql".to_owned()),
            _holder: holder,
        }
    }

    /// A server with lines of my.cnf of its own (MySQL and MariaDB).
    pub fn configured(kind: Kind, lines: &str) -> Server {
        Server::start(kind, &[("MYSQL_CONF", lines)])
    }

    /// Kills the server, without a checkpoint, and starts it again.
    pub fn crash(&self) {
        self.stop("immediate");
        self.start_again();
    }

    /// `fast` or `immediate`, which is a crash.
    pub fn stop(&self, mode: &str) {
        succeed(Command::new(self.kind.script()).arg("stop").arg(&self.folder).arg(mode));
    }

    pub fn start_again(&self) {
        let log = std::fs::File::create(self.folder.join("restart.log")).unwrap();
        let status = Command::new(self.kind.script())
            .args(["start", &self.kind.version()])
            .arg(&self.folder)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .status();
        assert!(status.unwrap().success(), "{:?} does not start again", self.kind);
    }

    /// Makes this server a replica of `primary`: by GTID (MySQL and MariaDB), or a standby (PostgreSQL).
    pub fn follow(&self, primary: &Server) {
        let mut command = Command::new(self.kind.script());
        succeed(command.arg("follow").arg(&self.folder).arg(primary.port.to_string()));
    }

    /// Makes a replica a primary, with all that it has received.
    pub fn promote(&self) {
        succeed(Command::new(self.kind.script()).arg("promote").arg(&self.folder));
    }

    /// psql as the superuser, over the socket.
    pub fn psql(&self, database: &str) -> Command {
        let mut command = Command::new("psql");
        command
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-h"])
            .arg(&self.folder)
            .args(["-p", &self.port.to_string()])
            .env("PGOPTIONS", "-c client_min_messages=warning");
        command
    }

    /// The client of MySQL or MariaDB as root, over the socket.
    fn mysql(&self, database: &str) -> Command {
        let mut command = Command::new(&self.client);
        command.args([
            "--no-defaults",
            "--batch",
            "--raw",
            "--skip-column-names",
            "--user=root",
        ]);
        command.args(["--default-character-set=utf8mb4", "--socket"]);
        command.arg(self.folder.join("sock")).arg(database);
        command
    }

    /// SQL that belongs to no database.
    pub fn sql(&self, sql: &str) -> String {
        match self.kind {
            Kind::Postgres(_) => succeed(self.psql("postgres").args(["-c", sql])),
            Kind::Mongo(_) => panic!("MongoDB speaks no SQL: {sql}"),
            _ => succeed(self.mysql("mysql").args(["-e", sql])),
        }
        .trim_end()
        .to_owned()
    }

    /// Removes all log that was written until here (MySQL and MariaDB).
    pub fn purge_logs(&self) {
        let name = |line: &str| line.split('\t').next().unwrap().to_owned();
        let logs = || -> Vec<String> { self.sql("SHOW BINARY LOGS").lines().map(name).collect() };
        self.sql("FLUSH BINARY LOGS");
        let last = logs().pop().unwrap();
        // One that a connection reads, also a connection of a program that was killed, is left alone. That one is
        // noticed when it is written to.
        wait_for("the logs to be removed", || {
            let newest = logs().pop().unwrap();
            self.sql(&format!("PURGE BINARY LOGS TO '{newest}'"));
            self.sql("FLUSH BINARY LOGS");
            (logs()[0] >= last).then_some(())
        });
    }

    /// The position that covers every transaction committed until here.
    pub fn position(&self) -> Position {
        match self.kind {
            Kind::Postgres(_) => Position::parse(&self.sql("SELECT pg_current_wal_flush_lsn()")),
            Kind::MySql => {
                let server = self.sql("SELECT @@server_uuid");
                Position::of_binlog(&server, &self.sql("SHOW BINARY LOG STATUS"), None)
            }
            Kind::MariaDb(_) => {
                let server = self.sql("SELECT @@server_id");
                // Two looks are two moments: the GTIDs are those of the file and offset, or of before.
                let gtids = self.sql("SELECT @@gtid_binlog_pos");
                Position::of_binlog(&server, &self.sql("SHOW MASTER STATUS"), Some(&gtids))
            }
            Kind::Mongo(_) => Position::parse(succeed(python("mongo.py").args(["position", &self.url])).trim_end()),
        }
    }
}

/// A database of its own, dropped with its slots at the end.
pub struct Database<'a> {
    pub server: &'a Server,
    pub name: String,
}

impl<'a> Database<'a> {
    pub fn create(server: &'a Server, name: &str) -> Self {
        match server.kind {
            Kind::Postgres(_) => server.sql(&format!("CREATE DATABASE \"{name}\"")),
            // It is there with its first collection.
            Kind::Mongo(_) => String::new(),
            _ => server.sql(&format!("CREATE DATABASE `{name}`")),
        };
        Database {
            server,
            name: name.to_owned(),
        }
    }

    /// Where the program finds it, as the user that it has in most tests.
    pub fn default_url(&self) -> String {
        match self.server.kind {
            Kind::Postgres(_) => self.url("postgres", "127.0.0.1"),
            Kind::Mongo(_) => self.server.url.clone(),
            _ => self.url("tributary:tributary", "127.0.0.1"),
        }
    }

    pub fn url(&self, user: &str, host: &str) -> String {
        let (scheme, port) = (self.server.kind.scheme(), self.server.port);
        match self.server.kind {
            Kind::Postgres(_) => format!("{scheme}://{user}@{host}:{port}/{}", self.name),
            // The set's members have their names from the set.
            Kind::Mongo(_) => self.server.mongo_url(user, ""),
            // One log has the changes of all databases.
            _ => format!("{scheme}://{user}@{host}:{port}/"),
        }
    }

    /// For the tests' own readers and writers in Python: as the superuser, over the socket.
    pub fn socket_url(&self) -> String {
        let folder = self.server.folder.display();
        match self.server.kind {
            Kind::Postgres(_) => format!(
                "host={folder} port={} user=postgres dbname={}",
                self.server.port, self.name
            ),
            Kind::Mongo(_) => self.server.url.clone(),
            kind => format!("{}:socket={folder}/sock dbname={}", kind.scheme(), self.name),
        }
    }

    pub fn psql(&self) -> Command {
        self.server.psql(&self.name)
    }

    /// What `public` is to PostgreSQL: the first part of tables' names.
    pub fn schema(&self) -> &str {
        match self.server.kind {
            Kind::Postgres(_) => "public",
            _ => &self.name,
        }
    }

    /// A second schema that is replicated too, once it exists.
    pub fn other_schema(&self) -> String {
        match self.server.kind {
            Kind::Postgres(_) => "more".to_owned(),
            _ => format!("{}_more", self.name),
        }
    }

    /// Runs SQL in the words of [`dialect`]. PostgreSQL takes several statements as one transaction, the others don't.
    pub fn sql(&self, sql: &str) -> String {
        succeed(&mut self.client(sql)).trim_end().to_owned()
    }

    /// The server's own client, which will run `sql`.
    pub fn client(&self, sql: &str) -> Command {
        let sql = dialect(self.server.kind, sql);
        match self.server.kind {
            Kind::Postgres(_) => {
                let mut command = self.psql();
                command.args(["-c", &sql]);
                command
            }
            _ => {
                let mut command = self.server.mysql(&self.name);
                command.args(["-e", &sql]);
                command
            }
        }
    }

    /// Runs each text as a transaction of its own.
    pub fn run(&self, texts: &[String]) {
        match self.server.kind {
            Kind::Postgres(_) => {
                succeed(self.psql().args(texts.iter().flat_map(|text| ["-c", text])));
            }
            _ => {
                let texts = texts.iter().map(|text| format!("BEGIN; {text}; COMMIT;\n"));
                self.sql(&texts.collect::<String>());
            }
        }
    }

    pub fn file(&self, path: &Path) {
        match self.server.kind {
            Kind::Postgres(_) => succeed(self.psql().arg("-f").arg(path)),
            _ => succeed(self.server.mysql(&self.name).stdin(std::fs::File::open(path).unwrap())),
        };
    }

    /// The position that covers every transaction committed until here.
    pub fn position(&self) -> Position {
        self.server.position()
    }
}

impl Drop for Database<'_> {
    fn drop(&mut self) {
        // Best effort: what is still held goes away with the server.
        match self.server.kind {
            Kind::Postgres(_) => {
                let drop = format!(
                    "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = '{0}' AND active;
                     SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = '{0}' AND NOT active;
                     DROP DATABASE \"{0}\" WITH (FORCE)",
                    self.name
                );
                let statements = drop.split(';').flat_map(|statement| ["-c", statement]);
                let _ = self.server.psql("postgres").args(statements).output();
            }
            Kind::Mongo(_) => {}
            _ => {
                let drop = format!("DROP DATABASE `{0}`; DROP DATABASE IF EXISTS `{0}_more`", self.name);
                let _ = self.server.mysql("mysql").args(["-e", &drop]).output();
            }
        }
    }
}
