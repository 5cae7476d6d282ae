//! The sources. Each turns its log into [`crate::batch::ChangeBatch`]es and
//! its tables into chunks, and tells where in its log it is.
//!
//! What every source keeps:
//! - a batch has the changes of one table in commit order, all of its schema;
//! - positions only grow, and a position is told only when every change
//!   before it has been told;
//! - nothing is confirmed to the source that the pipeline did not confirm;
//! - a value that was not sent is marked unchanged, never made up;
//! - a table that can't be decoded stalls alone.

use crate::error::Error;
use crate::position::Position;

pub mod postgres;

/// What a stream tells beside the changes it gathers.
#[derive(Debug)]
pub enum SourceEvent {
    /// A transaction begins; its changes follow.
    Begin,
    /// A change of a table was added to its open batch.
    Changed { table: usize },
    /// The transaction is complete up to here.
    Commit { position: Position },
    /// Nothing lies between the last event and here.
    Heartbeat { position: Position, reply_wanted: bool },
    /// A table can't go on; its open batch is gone, the others are untouched.
    Stalled { table: usize, error: Error },
}
