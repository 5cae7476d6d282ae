//! What became of transactions, as the server knows (`pg_xact_status`): whether what they did is seen, and what of them was
//! rolled back. The stream has 32 bits of their ids, and the server is asked by 64.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::catalog::{number, text};
use super::wire::{Endpoint, TextRow, Wire};
use crate::error::{Error, Result};
use crate::source::ONLY_WHOLE;

/// How long a commit may take to be seen once it is in the log, and how often is looked.
const VISIBLE_TIMEOUT: Duration = Duration::from_secs(10);
const VISIBLE_INTERVAL: Duration = Duration::from_millis(20);

/// Of how many subtransactions the server is asked at a time, how long it may take to answer, and how often it is asked
/// again.
const ASKED_MAX: usize = 50_000;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const ASKED_AGAIN: u32 = 3;

/// The 64 bits of a transaction, given by 32 and by one that is not far.
pub fn nearest(full: u64, transaction: u32) -> u64 {
    let distance = transaction.wrapping_sub(full as u32) as i32;
    full.wrapping_add_signed(i64::from(distance))
}

/// The error that open transactions can't be taken.
pub fn only_whole(why: &str) -> Error {
    Error::transient(why)
        .with_hint("nothing is lost: for an hour the server sends transactions once they commit")
        .with_code(ONLY_WHOLE)
}

/// Waits until others see what a transaction did whose commit the stream tells. It is in the log before that, and long
/// before if it waits for a synchronous standby.
///
/// Errors: it takes too long. It is told again.
pub async fn wait_until_visible(wire: &mut Wire, transaction: u32) -> Result<()> {
    let status = format!("SELECT pg_xact_status('{}')", nearest(next(wire).await?, transaction));
    let deadline = Instant::now() + VISIBLE_TIMEOUT;
    while wire.scalar(&status).await? == "in progress" {
        if Instant::now() > deadline {
            return Err(
                Error::transient("a change of columns is in the log, and its commit waits for a standby").with_hint(
                    "synchronous_standby_names has to name others than this stream, and who it names has to be there",
                ),
            );
        }
        tokio::time::sleep(VISIBLE_INTERVAL).await;
    }
    Ok(())
}

/// Those subtransactions that were rolled back, of a transaction that has committed.
///
/// The server tells that as it happens, but not always: it takes what it spilled to its own disk before it was sent, more
/// than 4096 changes of one subtransaction, for not sent at all (`ReorderBufferMaybeMarkTXNStreamed`; versions 14 to 18).
/// That is where a new connection has got what came before, and where a value is too large to be whole in memory.
///
/// Errors: it does not say. Whole transactions are without what was rolled back.
pub async fn rolled_back(endpoint: Endpoint, subtransactions: Vec<u32>) -> Result<HashSet<u32>> {
    let mut tries = 0;
    loop {
        let error = match ask(&endpoint, &subtransactions).await {
            Ok(rolled_back) => return Ok(rolled_back),
            Err(error) => error,
        };
        if tries == ASKED_AGAIN {
            return Err(only_whole("the server does not say what a transaction has rolled back").with_source(error));
        }
        tries += 1;
        tokio::time::sleep(Duration::from_secs(1) * tries).await;
    }
}

async fn ask(endpoint: &Endpoint, subtransactions: &[u32]) -> Result<HashSet<u32>> {
    let mut wire = Wire::connect(endpoint, false).await?;
    let next = within_time(next(&mut wire)).await?;
    let mut all = HashSet::new();
    for some in subtransactions.chunks(ASKED_MAX) {
        let ids: Vec<String> = some.iter().map(|id| nearest(next, *id).to_string()).collect();
        let others = format!(
            "SELECT id::xid, status FROM (SELECT id, pg_xact_status(id) AS status FROM unnest('{{{}}}'::xid8[]) AS id) AS all_of_them
             WHERE status IS DISTINCT FROM 'committed'",
            ids.join(",")
        );
        for row in &within_time(wire.query(&others)).await? {
            match text(row, 1).as_str() {
                "aborted" => {
                    all.insert(number(row, 0)?);
                }
                // The commit is in the log, and not seen yet.
                "in progress" => {}
                _ => return Err(Error::transient("it was too long ago")),
            }
        }
    }
    wire.terminate().await;
    Ok(all)
}

async fn within_time<T>(answer: impl Future<Output = Result<T>>) -> Result<T> {
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, answer).await;
    answer.map_err(|_| Error::transient("there was no answer"))?
}

/// None that has ended is later.
async fn next(wire: &mut Wire) -> Result<u64> {
    let next: Vec<TextRow> = wire.query("SELECT pg_snapshot_xmax(pg_current_snapshot())").await?;
    number(next.first().unwrap_or(&TextRow::new()), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_of_all_transactions_with_these_bits() {
        let epoch = 3_u64 << 32;
        for (full, bits, expected) in [
            (755, 755, 755),
            (755, 760, 760),
            (epoch - 2, 1, epoch + 1),
            (epoch + 2, u32::MAX, epoch - 1),
        ] {
            assert_eq!(nearest(full, bits), expected, "{full} {bits}");
        }
    }
}
