//! What holds of every kind of source, whatever makes its tables.

use super::lake::{commits, record};
use super::server::Kind;
use super::{Case, assert_error, finish, succeed, text, wait_for};

impl Case<'_> {
    /// `check` finds nothing to change before the first run, and after it.
    pub fn check_passes_before_and_after_the_first_run(&self) {
        for _ in 0..2 {
            let output = finish(&mut self.command("check"));
            assert!(output.status.success(), "{}", text(&output));
            assert!(
                text(&output).contains('✓') && !text(&output).contains('✗'),
                "{}",
                text(&output)
            );
            self.catch_up();
        }
    }

    /// `status` tells of the table `t`, which has 100 rows until `delete` takes one of them.
    pub fn status_tells_tables_and_source(&self, delete: impl Fn()) {
        let mut sidecar = self.start();
        self.wait_until_current(&mut sidecar);
        delete();
        self.wait_until_current(&mut sidecar);
        let status = self.table_status("t").unwrap();
        assert_eq!((status.state.as_str(), status.rows), ("streaming", Some(99)));
        let output = finish(self.command("status").arg("--json"));
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(status["source"].is_object(), "{status}");
        let plain = finish(&mut self.command("status"));
        assert!(plain.status.success());
        for part in [&self.qualified("t"), "streaming"] {
            assert!(text(&plain).contains(part), "{}", text(&plain));
        }
        sidecar.stop();
    }

    /// Every run says that changes of `a` and `b` are lost, why, and what to do; nothing is written until it is done.
    /// Then `change`s of both arrive again.
    pub fn is_a_gap(&self, reasons: &[&str], change: impl Fn()) {
        let (a, b) = (self.qualified("a"), self.qualified("b"));
        let key = match self.kind() {
            Kind::Mongo(_) => "_id",
            _ => "id",
        };
        let content = || self.query("a", &format!("select count(*), max({key}), max(v) from t"), None);
        let before = content();
        for _ in 0..2 {
            let mut parts = vec!["tributary snapshot", &a, &b];
            parts.extend(reasons);
            assert_error(&self.run_once(), &parts);
            for table in ["a", "b"] {
                let status = self.table_status(table).unwrap();
                assert_eq!(status.state, "needs_snapshot", "{}", self.status().text);
                assert!(!status.reason.is_empty());
            }
        }
        let check = finish(&mut self.command("check"));
        assert_error(&check, &["tributary snapshot", &a]);
        assert_eq!(content(), before, "the lake is not what it was before the gap");
        succeed(&mut self.snapshot(&[]));
        self.compare(&[]);
        change();
        self.catch_up();
        self.compare(&[]);
        self.verify();
    }

    /// Whether the log of a table has a checkpoint.
    pub fn is_checkpointed(&self, table: &str) -> bool {
        self.table(table).join("_delta_log/_last_checkpoint").exists()
    }

    /// Changes `t` until its log has a checkpoint; `sql` is one change, by its number. The sidecar commits each.
    pub fn change_until_checkpoint(&self, sql: impl Fn(u32) -> String) {
        let mut round = 0;
        wait_for("a checkpoint", || {
            for _ in 0..20 {
                round += 1;
                self.sql(&sql(round));
            }
            self.is_checkpointed("t").then_some(())
        });
    }

    /// The table `t`, with keys from 1 to 500 or more, is right with a checkpoint, by a run that goes on and by one
    /// that reads it.
    pub fn a_checkpoint_is_read_back(&mut self) {
        self.max_latency = "1ms";
        let mut sidecar = self.start();
        self.wait_until_current(&mut sidecar);
        self.change_until_checkpoint(|round| {
            format!("UPDATE t SET v = {round} WHERE id = {round} % 500 + 1; DELETE FROM t WHERE id = {round} % 7 + 490")
        });
        self.sql("UPDATE t SET v = -1 WHERE id < 10");
        self.wait_until_current(&mut sidecar);
        self.compare(&[]);
        sidecar.kill();
        self.sql("UPDATE t SET v = -2 WHERE id < 20");
        self.catch_up();
        self.compare(&[]);
    }

    /// Copies a table of `rows` rows to its end, killed three times at work. Returns one more than the rows that were
    /// copied before the last time.
    pub fn copy_through_kills(&mut self, table: &str, rows: u64) -> u64 {
        self.snapshot = "max_bytes_per_s = \"10MiB\"";
        let table = self.table(table);
        let rows_copied = || {
            let commits = commits(&table);
            let last = commits.iter().rev().find_map(|commit| record(commit));
            last.map_or(0, |record| record["snapshot"]["rows"].as_u64().unwrap_or(0))
        };
        let mut goal = 1;
        for _ in 0..3 {
            let mut sidecar = self.start();
            let copied = wait_for("a chunk", || {
                sidecar.assert_running();
                Some(rows_copied()).filter(|rows| *rows >= goal)
            });
            sidecar.kill();
            assert!(copied < rows, "the copy was over before it was killed");
            goal = rows_copied() + 1;
        }
        self.snapshot = "";
        self.catch_up();
        goal
    }
}
