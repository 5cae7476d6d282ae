//! A network that fails: connections that are cut, and ones that nothing comes through any more.

use std::thread::sleep;
use std::time::Duration;

use crate::support::lake::replacements;
use crate::support::proxy::Network;
use crate::support::server::{Kind, Server};
use crate::support::writer::Writer;
use crate::support::{Case, on_every_source, signal, wait_for};

on_every_source! {
    connections_that_are_cut_are_made_again
    a_server_that_falls_silent_is_left_and_found_again
}

fn case<'a>(server: &'a Server, name: &str) -> (Case<'a>, Network) {
    let mut case = Case::new(server, name);
    let network = Network::before(server.port);
    let (own, port) = (format!(":{}/", server.port), format!(":{}/", network.port));
    assert!(case.url.contains(&own), "{}", case.url);
    case.url = case.url.replace(&own, &port);
    case.sql("CREATE TABLE t (id int PRIMARY KEY, v int, big text)");
    case.sql("INSERT INTO t SELECT i, 0, concat(i, repeat('x', 500)) FROM series(1, 20000)");
    (case, network)
}

const LOAD: [&str; 2] = [
    "UPDATE t SET v = {i} WHERE id % 100 = {k} % 100",
    "DELETE FROM t WHERE id = {k}; INSERT INTO t VALUES ({i} + 100000, {i}, 'new')",
];

fn connections_that_are_cut_are_made_again(kind: Kind) {
    let (case, network) = case(Server::shared(kind), "cut");
    let mut sidecar = case.start();
    let writer = Writer::paced(&case, 399, 5, &LOAD);
    // In the first copy, and while it streams.
    for round in 0..6 {
        let before = network.accepted();
        network.cut();
        wait_for("a connection", || {
            sidecar.assert_running();
            (network.accepted() > before).then_some(())
        });
        if round > 2 {
            case.wait_for_state(&mut sidecar, "t", "streaming");
        }
    }
    writer.stop();
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    assert!(replacements(&case.table("t")).is_empty(), "copied anew without need");
    sidecar.stop();
}

fn a_server_that_falls_silent_is_left_and_found_again(kind: Kind) {
    // A minute is the limit otherwise.
    let server = Server::start(kind, &[("PG_CONF", "wal_sender_timeout = 10s")]);
    let (case, network) = case(&server, "silent");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    // For a short while, nothing is lost but time.
    let connections = network.accepted();
    network.swallow(true);
    case.sql("UPDATE t SET v = 1 WHERE id < 1000");
    sleep(Duration::from_secs(2));
    network.swallow(false);
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    assert!(!sidecar.log().contains("said nothing"), "{}", sidecar.log());
    network.swallow(true);
    case.sql("UPDATE t SET v = 2 WHERE id < 2000; DELETE FROM t WHERE id > 19000");
    wait_for("the silence to be noticed", || {
        sidecar.assert_running();
        sidecar.log().contains("the server said nothing for").then_some(())
    });
    network.swallow(false);
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    assert!(network.accepted() > connections);
    sidecar.stop();
}

#[test]
fn a_server_that_keeps_the_slot_for_a_connection_that_is_gone_is_waited_for() {
    let server = Server::start(15, &[("PG_CONF", "wal_sender_timeout = 2s")]);
    let case = Case::new(&server, "kept");
    case.sql("CREATE TABLE t (id int PRIMARY KEY)");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    let walsender = case.sql("SELECT active_pid FROM pg_replication_slots");
    let walsender: u32 = walsender.parse().unwrap();
    // As if it decoded something very large: it neither speaks nor looks at its connection.
    signal(walsender, "STOP");
    case.sql("INSERT INTO t VALUES (1)");
    sidecar.wait_for_log("the server still serves the connection that is gone");
    signal(walsender, "CONT");
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();
}
