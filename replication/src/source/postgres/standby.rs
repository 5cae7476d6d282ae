//! A standby as the source: what its positions mean, and what it can't do.
//!
//! A standby has no transactions of its own. What it shows is what it has
//! replayed, one record after the other, and its walsenders decode no further.
//! So the order of commits in the log is the order in which they are seen, and a
//! position takes the place of what a primary tells of transactions in progress
//! (`pg_current_snapshot()` lists none of them here).
//!
//! Replay makes a commit visible before it counts the commit's record as
//! replayed. So two positions stand for one moment: all before the lower one is
//! visible, and nothing visible lies past the upper one.

use std::time::Duration;

use super::catalog::{number, text};
use super::transactions::nearest;
use super::wire::{Wire, quote_literal};
use crate::error::{Error, Result};
use crate::position::Lsn;

/// The oldest server that decodes on a standby.
pub const VERSION_MIN: u32 = 160_000;

/// How long a slot may take to be created. Under load it needs three records of running transactions, and a primary
/// writes one in 15 s.
const SLOT_TIME: Duration = Duration::from_secs(120);
/// When to say what is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much longer than the server itself its answer is waited for.
const GRACE: Duration = Duration::from_secs(10);

/// What makes a primary write a record of running transactions.
const LOG_SNAPSHOT: &str = "run at the primary: SELECT pg_log_standby_snapshot(); a new slot begins at a record of \
                            running transactions, and a primary without load writes none";

/// Where a standby is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replay {
    /// Every commit before is visible.
    pub seen: Lsn,
    /// No later position is reached before everything that was visible has been told.
    pub end: Lsn,
}

impl Replay {
    /// `replayed` and `received` were read after what is visible was; `received` is `None` unless log is being received.
    ///
    /// The record after `replayed` may be visible. If all that was received is replayed there is none: log is
    /// received before it is replayed. Positions that streams tell are ends of records, so the first one past
    /// `replayed` is past that record, too.
    fn at(replayed: Lsn, received: Option<Lsn>) -> Self {
        let all = received.is_some_and(|received| received <= replayed);
        Self {
            seen: replayed,
            end: if all { replayed } else { Lsn(replayed.0 + 1) },
        }
    }

    /// Where it is now. Errors: it is no standby any more.
    pub async fn read(wire: &mut Wire) -> Result<Self> {
        let rows = wire
            .query(
                "SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn(), \
                 CASE WHEN EXISTS (SELECT FROM pg_stat_wal_receiver) THEN pg_last_wal_receive_lsn() END",
            )
            .await?;
        let row = rows
            .first()
            .ok_or_else(|| Error::bug("the server has no log position"))?;
        if text(row, 0) != "t" {
            return Err(promoted());
        }
        let received = text(row, 2);
        let received = (!received.is_empty()).then(|| received.parse()).transpose()?;
        Ok(Self::at(text(row, 1).parse()?, received))
    }
}

/// Whether the server is a standby now.
pub async fn follows(wire: &mut Wire) -> Result<bool> {
    Ok(wire.scalar("SELECT pg_is_in_recovery()").await? == "t")
}

/// The error of a standby that has become a primary: from here on positions mean something else.
pub fn promoted() -> Error {
    Error::transient("the standby was promoted: going on with it as a primary")
}

/// Which transactions of the primary may be in progress, as of replay.
pub struct Running {
    /// All before have ended.
    pub oldest: u64,
    /// None is later.
    pub next: u64,
}

impl Running {
    /// Errors: it is no standby any more.
    pub async fn read(wire: &mut Wire) -> Result<Self> {
        // A standby's snapshot ends at the last transaction that ended; `age` counts from the next one to begin.
        let rows = wire
            .query(
                "SELECT pg_is_in_recovery(), pg_snapshot_xmin(pg_current_snapshot()), \
                 pg_snapshot_xmax(pg_current_snapshot()), age('3'::xid)",
            )
            .await?;
        let row = rows.first().cloned().unwrap_or_default();
        if text(&row, 0) != "t" {
            return Err(promoted());
        }
        let age: i64 = number(&row, 3)?;
        Ok(Self {
            oldest: number(&row, 1)?,
            next: nearest(number(&row, 2)?, age.wrapping_add(3) as u32),
        })
    }
}

/// Creates the slot. Errors: nothing came from the primary that it can begin at.
pub async fn create_slot(wire: &mut Wire, slot: &str) -> Result<String> {
    // While it waits for log, a backend does not notice by itself that its client is gone.
    if let Err(error) = wire.query("SET client_connection_check_interval = '1s'").await {
        tracing::debug!(%error, "the server can't tell whether its client is gone");
    }
    wire.query(&format!("SET statement_timeout = {}", SLOT_TIME.as_millis()))
        .await?;
    let sql = format!(
        "SELECT lsn FROM pg_create_logical_replication_slot({}, 'pgoutput')",
        quote_literal(slot)
    );
    let created = {
        let mut created = std::pin::pin!(wire.scalar(&sql));
        match tokio::time::timeout(PATIENCE, &mut created).await {
            Ok(created) => created,
            Err(_) => {
                tracing::warn!(slot, hint = LOG_SNAPSHOT, "the new slot waits for the primary");
                match tokio::time::timeout(SLOT_TIME + GRACE, created).await {
                    Ok(created) => created,
                    Err(_) => return Err(late()),
                }
            }
        }
    };
    match created {
        Err(error) if error.code() == Some("57014") => Err(late().with_source(error)),
        Err(error) => Err(error),
        Ok(lsn) => wire.query("SET statement_timeout = 0").await.map(|_| lsn),
    }
}

fn late() -> Error {
    Error::transient(format!(
        "the new slot found nothing to begin at within {} s",
        SLOT_TIME.as_secs()
    ))
    .with_hint(LOG_SNAPSHOT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_under_replay_is_waited_for() {
        let at = |replayed, received: Option<u64>| Replay::at(Lsn(replayed), received.map(Lsn));
        for (received, end) in [(Some(100), 100), (Some(90), 100), (Some(101), 101), (None, 101)] {
            let expected = Replay {
                seen: Lsn(100),
                end: Lsn(end),
            };
            assert_eq!(at(100, received), expected, "{received:?}");
        }
    }
}
