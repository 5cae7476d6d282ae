//! The program dies between a write and the one that makes it count, at each such place in turn, and goes on.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use crate::support::lake::age;
use crate::support::server::{POSTGRES, Server};
use crate::support::sidecar::Sidecar;
use crate::support::writer::Writer;
use crate::support::{Case, finish, succeed, text};

/// Where a running program dies, the n-th time that it comes there.
const RUNNING: [&str; 12] = [
    "commit.files:1",
    "commit.files:4",
    "commit.vectors:4",
    "commit.put:1",
    "commit.put:4",
    "optimize.files",
    "optimize.put",
    "checkpoint.file",
    "cut.file",
    "cut.put",
    "confirm:1",
    "confirm:4",
];
/// Where a copy dies, each time further on its way.
const COPYING: [&str; 8] = [
    "copy.marked",
    "copy.created",
    "commit.files:2",
    "commit.put:2",
    "commit.put:3",
    "replace.files",
    "replace.put",
    "index.runs",
];
/// Copies until one has come to its place.
const COPIES_MAX: usize = 20;
/// SIGABRT.
const ABORTED: Option<i32> = Some(6);

fn dying(case: &Case, verb: &str, failpoint: &str) -> Command {
    let mut command = case.command(verb);
    command.env("TRIBUTARY_FAILPOINT", failpoint);
    command
}

fn assert_aborted(status: ExitStatus, failpoint: &str, log: &str) {
    assert_eq!(status.signal(), ABORTED, "{failpoint}: {status}: {log}");
}

#[test]
fn a_crash_between_any_two_writes_loses_and_doubles_nothing() {
    crash_everywhere("failpoints", "");
}

#[test]
fn a_crash_between_any_two_writes_of_whole_files_loses_and_doubles_nothing() {
    crash_everywhere(
        "failpoints_copied",
        "[[table]]\nmatch = [\"*\"]\nmerge = \"copy-on-write\"\n",
    );
}

fn crash_everywhere(name: &str, sections: &str) {
    let mut case = Case::new(Server::shared(POSTGRES), name);
    case.max_latency = "20ms";
    case.sections = format!("[cuts]\ninterval = \"100ms\"\n{sections}");
    case.sql(
        "CREATE TABLE t (id int PRIMARY KEY, v int, big text); CREATE TABLE u (id int PRIMARY KEY, v int);
         INSERT INTO t SELECT i, 0, repeat(md5(i::text), 100) FROM generate_series(1, 5000) i;
         INSERT INTO u SELECT i, 0 FROM generate_series(1, 500) i",
    );
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    sidecar.stop();
    let write = |pause_ms| {
        let changes = [
            "UPDATE t SET v = {i} WHERE id % 499 = {k}; UPDATE u SET v = {i} WHERE id = {k} + 1",
            "DELETE FROM t WHERE id = {k} * 7; INSERT INTO t SELECT max(id) + 1, {i}, 'new' FROM t",
        ];
        Writer::paced(&case, 500, pause_ms, &changes)
    };
    let writer = write(2);
    for failpoint in RUNNING {
        let sidecar = Sidecar::start(dying(&case, "run", failpoint), &case.folder.join("sidecar.log"));
        let log = sidecar.log();
        assert_aborted(sidecar.wait_for_end(), failpoint, &log);
    }
    writer.stop();
    // A chunk gets in where the writer of its table is idle now and then.
    let writer = write(300);
    for failpoint in COPYING {
        // How many commits a copy takes depends on what changes beside it.
        let mut copy = || finish(dying(&case, "snapshot", failpoint).arg(case.qualified("t")));
        let ends = std::iter::repeat_with(&mut copy).take(COPIES_MAX);
        let aborted = ends
            .map(|output| (output.status, text(&output)))
            .find(|(status, said)| {
                assert!(
                    status.success() || status.signal() == ABORTED,
                    "{failpoint}: {status}: {said}"
                );
                !status.success()
            });
        assert!(aborted.is_some(), "no copy comes to {failpoint}");
    }
    writer.stop();
    age(&case.lake, Duration::from_secs(3 * 24 * 3600));
    let output = finish(&mut dying(&case, "maintain", "clean.files"));
    assert_aborted(output.status, "clean.files", &text(&output));
    succeed(&mut case.command("maintain"));

    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    sidecar.stop();
    case.compare(&["t", "u"]);
    case.verify();
}
