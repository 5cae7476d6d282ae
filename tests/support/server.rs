//! PostgreSQL servers and databases.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use super::{cache, repository, succeed};

/// A private server. It ends with the pipe that `_holder` keeps open, so with this process at the latest.
pub struct Server {
    pub version: u32,
    pub folder: PathBuf,
    pub port: u16,
    _holder: Child,
}

impl Server {
    /// The server that the tests of a major version share. It is never configured otherwise.
    pub fn shared(version: u32) -> &'static Server {
        static SHARED: Mutex<Option<HashMap<u32, &'static Server>>> = Mutex::new(None);
        let mut shared = SHARED.lock().unwrap();
        let servers = shared.get_or_insert_default();
        servers
            .entry(version)
            .or_insert_with(|| Box::leak(Box::new(Server::start(version, &[]))))
    }

    /// A server of one's own; `settings` are the environment variables of tests/servers/pg.sh.
    pub fn start(version: u32, settings: &[(&str, &str)]) -> Server {
        cache();
        let mut holder = Command::new(script())
            .args(["serve", &version.to_string()])
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
            version,
            folder: said
                .get("DIR")
                .unwrap_or_else(|| panic!("PostgreSQL {version} does not start"))
                .into(),
            port: said["PORT"].parse().unwrap(),
            _holder: holder,
        }
    }

    /// Stops the server without a checkpoint and starts it again.
    pub fn crash(&self) {
        self.stop("immediate");
        self.start_again();
    }

    /// `mode` as of pg_ctl.
    pub fn stop(&self, mode: &str) {
        succeed(Command::new(script()).arg("stop").arg(&self.folder).arg(mode));
    }

    pub fn start_again(&self) {
        let log = std::fs::File::create(self.folder.join("restart.log")).unwrap();
        let status = Command::new(script())
            .args(["start", &self.version.to_string()])
            .arg(&self.folder)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .status();
        assert!(status.unwrap().success(), "PostgreSQL does not start again");
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
}

fn script() -> PathBuf {
    repository().join("tests/servers/pg.sh")
}

/// A database of its own, dropped with its slots at the end.
pub struct Database<'a> {
    pub server: &'a Server,
    pub name: String,
}

impl<'a> Database<'a> {
    pub fn create(server: &'a Server, name: &str) -> Self {
        succeed(
            server
                .psql("postgres")
                .args(["-c", &format!("CREATE DATABASE \"{name}\"")]),
        );
        Database {
            server,
            name: name.to_owned(),
        }
    }

    pub fn url(&self, user: &str, host: &str) -> String {
        format!("postgres://{user}@{host}:{}/{}", self.server.port, self.name)
    }

    /// For libpq, which knows sockets.
    pub fn socket_url(&self) -> String {
        format!(
            "host={} port={} user=postgres dbname={}",
            self.server.folder.display(),
            self.server.port,
            self.name
        )
    }

    pub fn psql(&self) -> Command {
        self.server.psql(&self.name)
    }

    pub fn sql(&self, sql: &str) -> String {
        succeed(self.psql().args(["-c", sql])).trim_end().to_owned()
    }

    /// Runs each text as a transaction of its own.
    pub fn run(&self, texts: &[String]) {
        succeed(self.psql().args(texts.iter().flat_map(|text| ["-c", text])));
    }

    pub fn file(&self, path: &Path) {
        succeed(self.psql().arg("-f").arg(path));
    }

    /// The WAL position that covers every transaction committed until here.
    pub fn position(&self) -> u64 {
        self.sql("SELECT pg_current_wal_flush_lsn() - '0/0'").parse().unwrap()
    }
}

impl Drop for Database<'_> {
    fn drop(&mut self) {
        let drop = format!(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = '{0}' AND active;
             SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = '{0}' AND NOT active;
             DROP DATABASE \"{0}\" WITH (FORCE)",
            self.name
        );
        let statements = drop.split(';').flat_map(|statement| ["-c", statement]);
        // Best effort: a slot that is still held goes away with the server.
        let _ = self.server.psql("postgres").args(statements).output();
    }
}
