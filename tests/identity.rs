//! Rows are found by whatever identifies them. The changes are in fixtures/sql/identity_stream.sql and keys_stream.sql.

use crate::support::Case;
use crate::support::server::Server;

#[test]
fn rows_are_found_when_each_transaction_is_a_batch() {
    rows_are_found_by_their_identity("identity_single", "1ms");
}

#[test]
fn rows_are_found_when_many_transactions_are_a_batch() {
    rows_are_found_by_their_identity("identity_batched", "2s");
}

fn rows_are_found_by_their_identity(name: &str, max_latency: &'static str) {
    let mut case = Case::new(Server::shared(15), name);
    case.max_latency = max_latency;
    case.fixture("identity.sql");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    for _ in 0..3 {
        case.fixture("identity_stream.sql");
        case.wait_until_current(&mut sidecar);
        case.compare(&[]);
    }
    // What changed while the program was away comes as one batch, after a rebuild of the key index.
    sidecar.kill();
    case.fixture("identity_stream.sql");
    case.fixture("identity_stream.sql");
    std::fs::remove_dir_all(case.cache()).unwrap_or_default();
    case.catch_up();
    case.compare(&[]);
}

#[test]
fn every_type_that_can_be_a_key_is_one() {
    let case = Case::new(Server::shared(16), "keys");
    case.fixture("keys.sql");
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.fixture("keys_stream.sql");
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    sidecar.kill();
    // Found again by an index that is rebuilt from the lake.
    case.sql(
        "DO $$ DECLARE kind key_types; BEGIN FOR kind IN SELECT * FROM key_types LOOP
           EXECUTE format('UPDATE key_%s SET v = v + 1', kind.name);
           EXECUTE format('DELETE FROM key_two_%s', kind.name);
         END LOOP; END $$",
    );
    std::fs::remove_dir_all(case.cache()).unwrap_or_default();
    case.catch_up();
    case.compare(&[]);
}
