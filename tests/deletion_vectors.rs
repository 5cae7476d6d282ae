//! Deletion vectors stay whole from commit to commit, and no batch is applied twice.
//!
//! Every comparison also audits the table's log: a `remove` that does not carry the deletion vector of its `add`
//! is a difference there, and doubled rows for the readers.

use crate::support::Case;
use crate::support::lake::{commits, rows_written};
use crate::support::position::Position;
use crate::support::server::Server;

#[test]
fn every_remove_carries_the_deletion_vector_of_its_add() {
    let server = Server::start(15, &[]);
    let mut case = Case::new(&server, "vectors");
    case.max_latency = "20ms";
    case.sql("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, 0 FROM generate_series(1, 3000) i");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    for round in 1..=20 {
        case.sql(&format!(
            "UPDATE t SET v = {round} WHERE id % 20 = {round} % 20; DELETE FROM t WHERE id BETWEEN {round} * 100 AND {round} * 100 + 9;
             INSERT INTO t VALUES ({round} * 100, -{round})"
        ));
        case.wait_until_current(&mut sidecar);
    }
    let commits = commits(&case.table("t"));
    let removes = commits
        .iter()
        .flatten()
        .filter(|action| action["remove"]["deletionVector"].is_object())
        .count();
    assert!(
        removes >= 19,
        "only {removes} removes carry a deletion vector: nothing was tested"
    );
    case.compare(&[]);

    // The last rows of every file go: files are removed, not kept with all rows deleted.
    case.sql("DELETE FROM t");
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    case.sql("INSERT INTO t SELECT i, 1 FROM generate_series(1, 10) i");
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();
}

#[test]
fn a_checkpoint_keeps_files_vectors_and_watermark() {
    let mut case = Case::new(Server::shared(15), "checkpoint");
    case.sql("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, 0 FROM generate_series(1, 500) i");
    case.a_checkpoint_is_read_back();
}

#[test]
fn a_replayed_batch_changes_nothing() {
    let server = Server::start(15, &[]);
    let case = Case::new(&server, "replay");
    case.sql("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, 0 FROM generate_series(1, 1000) i");
    for round in 1.. {
        let mut sidecar = case.start();
        case.wait_until_current(&mut sidecar);
        // The slot's position is on disk as of now; a crash takes the server back to it.
        case.sql("CHECKPOINT");
        case.sql(&format!("INSERT INTO t VALUES (-{round}, 0)"));
        case.wait_until_current(&mut sidecar);
        case.sql(&format!(
            "INSERT INTO t SELECT {round}000 + i, 1 FROM generate_series(1, 500) i; UPDATE t SET v = v + 1 WHERE id % 2 = 0;
             DELETE FROM t WHERE id % 5 = 0; UPDATE t SET id = id + 100000 WHERE id % 7 = 0 AND id < 100000;
             INSERT INTO t VALUES (0, 0); DELETE FROM t WHERE id = 0"
        ));
        case.wait_until_current(&mut sidecar);
        sidecar.kill();
        server.crash();
        let confirmed = Position::parse(&case.sql("SELECT confirmed_flush_lsn FROM pg_replication_slots"));
        // The server may have saved the slot in between: then nothing is sent again.
        if !confirmed.covers(&case.status().tables[0].watermark) {
            break;
        }
        assert!(round < 10, "the server never sends a batch again");
    }
    let written = rows_written(&commits(&case.table("t")));
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    sidecar.stop();
    assert_eq!(
        rows_written(&commits(&case.table("t"))),
        written,
        "rows were written again"
    );
    case.compare(&[]);
}
