//! MongoDB: code for documents in place of SQL, the members of a set, and the workload.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::server::Server;
use super::{Case, PATIENCE, finish, python, succeed, text, wait_for_exit};

impl Server {
    /// Runs Python code with `db`, `client`, `transaction` and the types of BSON: see tests/python/mongo.py.
    pub fn mongo(&self, database: &str, code: &str) -> String {
        let output = succeed(python("mongo.py").args(["eval", &self.url, database, code]));
        output.trim_end().to_owned()
    }

    /// The server's URL with other credentials (`user:password`, or none) and a database.
    pub fn mongo_url(&self, credentials: &str, database: &str) -> String {
        let (authority, rest) = self.url["mongodb://".len()..].split_once('/').unwrap();
        let hosts = authority.rsplit('@').next().unwrap();
        let at = if credentials.is_empty() { "" } else { "@" };
        format!("mongodb://{credentials}{at}{hosts}/{database}{rest}")
    }

    /// The number of the node that is the set's primary.
    pub fn primary(&self) -> usize {
        let name = self.mongo("admin", "client.admin.command('hello')['primary']");
        let ports = std::fs::read_to_string(self.folder.join("ports")).unwrap();
        let primary = ports.lines().position(|port| name.ends_with(&format!(":{port}")));
        primary.unwrap()
    }

    /// The primary becomes a secondary, and another node the primary.
    pub fn step_down(&self) {
        // It may close the connection that asks for it.
        let step_down = "
            try:
                client.admin.command({'replSetStepDown': 20, 'secondaryCatchUpPeriodSecs': 10})
            except pymongo.errors.AutoReconnect:
                pass";
        let former = self.primary();
        self.mongo("admin", step_down);
        super::wait_for("another primary", || (self.primary() != former).then_some(()));
    }

    /// SIGKILL for one node.
    pub fn kill_node(&self, node: usize) {
        self.node("kill", node);
    }

    pub fn start_node(&self, node: usize) {
        self.node("start-node", node);
    }

    fn node(&self, verb: &str, node: usize) {
        let log = std::fs::File::create(self.folder.join(format!("{verb}.log"))).unwrap();
        let status = Command::new(self.kind.script())
            .arg(verb)
            .arg(&self.folder)
            .arg(node.to_string())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .status();
        assert!(status.unwrap().success(), "{verb} {node} failed");
    }
}

impl Case<'_> {
    /// Runs Python code on the case's database: see [`Server::mongo`].
    pub fn mongo(&self, code: &str) -> String {
        self.database.server.mongo(&self.database.name, code)
    }

    /// As [`Case::compare`], and all that fits its column is there: for tables that no document is younger than.
    pub fn compare_strictly(&self) {
        let output = finish(self.comparer().arg("--strict"));
        assert!(output.status.success(), "{}", text(&output));
    }

    /// Every version of the workload's tables keeps what its transactions keep.
    pub fn check_mongo_history(&self) {
        let mut command = python("mongo_history.py");
        command.arg("--lake").arg(&self.lake);
        let output = finish(command.args(["--database", &self.database.name]));
        println!("{}", text(&output));
        assert!(output.status.success(), "{}", text(&output));
    }
}

/// tests/python/mongo_workload.py beside a running program.
pub struct Workload {
    child: Child,
}

impl Workload {
    /// Starts it; its collections exist then, with their first documents.
    pub fn start(case: &Case, seed: u32, ids: &str) -> Self {
        println!("seed {seed}, ids {ids}");
        let mut command = python("mongo_workload.py");
        command.args(["--url", &case.database.server.url, "--database", &case.database.name]);
        command.args(["--seed", &seed.to_string(), "--ids", ids]);
        command.args(["--seconds", "3600"]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap();
        let stdout = child.stdout.as_mut().unwrap();
        stdout.read_exact(&mut [0; 6]).expect("the workload's collections");
        Workload { child }
    }

    /// Lets it end its round.
    pub fn stop(mut self) {
        drop(self.child.stdin.take());
        let status = wait_for_exit(&mut self.child, PATIENCE).expect("the workload does not end");
        assert!(status.success(), "the workload failed");
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The names in a folder, sorted.
pub fn entries(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = names.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
