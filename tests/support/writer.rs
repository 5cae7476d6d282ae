//! Changes at the source beside a running program.

use std::process::{Child, Stdio};

use super::{Case, PATIENCE, python, wait_for_exit};

/// Writes transactions, again and again, until it is stopped.
pub struct Writer {
    child: Child,
}

impl Writer {
    /// Each text is a transaction. In it `{i}` is the round, and `{k}` a number of the round below `keys`.
    pub fn start(case: &Case, keys: u32, transactions: &[&str]) -> Self {
        Self::paced(case, keys, 0, transactions)
    }

    /// As [`Self::start`], with a pause after each round.
    pub fn paced(case: &Case, keys: u32, pause_ms: u32, transactions: &[&str]) -> Self {
        let kind = case.kind();
        let mut command = python("writer.py");
        command.args(["--source", &case.database.socket_url(), "--keys", &keys.to_string()]);
        command.args(["--pause-ms", &pause_ms.to_string()]);
        command.args(transactions.iter().map(|text| super::sql::dialect(kind, text)));
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap();
        let mut first = [0; 1];
        let stdout = child.stdout.as_mut().unwrap();
        std::io::Read::read_exact(stdout, &mut first).expect("the writer's first round");
        Writer { child }
    }

    /// Lets it end its round.
    pub fn stop(mut self) {
        drop(self.child.stdin.take());
        let status = wait_for_exit(&mut self.child, PATIENCE).expect("the writer does not end");
        assert!(status.success(), "the writer failed");
    }
}

impl From<Child> for Writer {
    /// A program that writes until its standard input ends.
    fn from(child: Child) -> Self {
        Writer { child }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
