//! One stream per server id: a user lock that a connection of its own holds.
//!
//! The server lets a lock go with its connection, at once after a kill, while
//! the thread that sent the log to it may linger; and anybody may ask for it,
//! which needs no right. Spec: MySQL manual, "Locking Functions".

use std::time::Duration;

use tokio::task::JoinHandle;

use super::wire::{Endpoint, Wire, quote_literal};
use crate::error::{Class, Error, Result};

/// How often the server is told that the holder is there.
const INTERVAL: Duration = Duration::from_secs(3);
/// After how long without a word the server lets go: seconds.
const TIMEOUT_S: u32 = 10;

fn name(server_id: u32) -> String {
    quote_literal(&format!("tributary.{server_id}"))
}

/// Let go when it is dropped.
#[derive(Debug)]
pub struct Lease {
    holder: JoinHandle<()>,
}

impl Lease {
    /// Errors: another one has it.
    pub async fn take(endpoint: &Endpoint, server_id: u32) -> Result<Option<Self>> {
        let mut wire = Wire::connect(endpoint).await?;
        wire.execute(&format!("SET SESSION wait_timeout = {TIMEOUT_S}")).await?;
        match wire.scalar(&format!("SELECT GET_LOCK({}, 1)", name(server_id))).await {
            Ok(taken) if taken == "1" => {}
            Ok(_) => {
                return Err(
                    Error::operator(format!("another process streams as server id {server_id}"))
                        .with_hint("stop the other sidecar, or set source.slot or source.server_id to one of its own"),
                );
            }
            // Clusters may forbid user locks. Commits are fenced without them.
            Err(error) if error.class() != Class::Transient => {
                tracing::debug!("no lock guards server id {server_id}: {error}");
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        let holder = tokio::spawn(async move {
            loop {
                tokio::time::sleep(INTERVAL).await;
                if let Err(error) = wire.execute("DO 1").await {
                    tracing::debug!("the lock that guards server id {server_id} is lost: {error}");
                    return;
                }
            }
        });
        Ok(Some(Self { holder }))
    }

    /// Whether anybody has it.
    pub async fn is_taken(wire: &mut Wire, server_id: u32) -> Result<bool> {
        match wire.scalar(&format!("SELECT IS_FREE_LOCK({})", name(server_id))).await {
            Ok(free) => Ok(free == "0"),
            Err(error) if error.class() != Class::Transient => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.holder.abort();
    }
}
