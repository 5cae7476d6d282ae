//! One task per table: takes batches and chunks in order, and commits them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;
use tracing::field::{Empty, display};
use tracing::{Span, info};

use super::snapshotter::{Halt, Progress};
use super::upkeep::{self, Done, Upkeep};
use crate::batch::ChangeBatch;
use crate::error::{Error, Result};
use crate::lake::{
    Chunk, Committed, Compacted, DeltaTable, Origin, PointReader, SnapshotProgress, State, TableRecord, UNREADABLE,
};
use crate::metrics::TableSize;
use crate::position::Position;
use crate::schema::TableSchema;
use crate::trace::{span, within};

/// What the stream hands to a table's writer. The permit holds the bytes of a
/// batch against the memory budget until the batch is written.
pub enum Command {
    /// A part of a transaction; nothing of it shows before a commit.
    Stage(ChangeBatch, OwnedSemaphorePermit),
    /// The table's columns change; what follows has the new ones.
    Evolve {
        schema: Arc<TableSchema>,
        origin: Origin,
        points: Arc<dyn PointReader>,
    },
    /// Rows that no change told are copied beside the stream.
    Extend,
    /// Everything up to the watermark is staged, or in this batch.
    Commit {
        batch: Option<(ChangeBatch, OwnedSemaphorePermit)>,
        watermark: Position,
    },
    /// A chunk whose window is closed: the stream has told everything the
    /// chunk can have seen, and all of it is staged.
    Chunk {
        chunk: Chunk,
        progress: Progress,
        watermark: Position,
        merged: oneshot::Sender<()>,
    },
}

/// What a writer tells back.
pub struct Durable {
    pub table: usize,
    /// Whether this ends a commit that was asked for. If not, a version with
    /// the same content has come by itself.
    pub asked_for: bool,
    /// What readers see the content in, if they can.
    pub version: Option<u64>,
    /// What the commit's deletion vectors took.
    pub vector_bytes: u64,
    pub watermark: Position,
    pub state: State,
    pub catch_up_to: Option<Position>,
    pub snapshot: Option<SnapshotProgress>,
    pub rows: RowNumbers,
}

/// What a commit changed, and what the table is now.
#[derive(Default)]
pub struct RowNumbers {
    pub upserts: u64,
    pub deletes: u64,
    pub snapshot_rows: u64,
    /// How long the commit took, staging included; `None` if there was none.
    pub took: Option<Duration>,
    pub size: TableSize,
}

pub struct Writer {
    pub number: usize,
    pub table: DeltaTable,
    pub points: Arc<dyn PointReader>,
    pub commands: mpsc::Receiver<Command>,
    pub durable: mpsc::UnboundedSender<Durable>,
    pub halts: mpsc::UnboundedSender<(usize, Halt)>,
    /// Rows that the lake needs can't be read any more: what comes is passed
    /// over until the table is closed and copied anew.
    pub unreadable: bool,
    /// The newest plan of the table's snapshot.
    pub plan: u64,
    pub upkeep: Upkeep,
}

impl Writer {
    /// Runs until the stream closes its end; gives the table back.
    pub async fn run(mut self) -> Result<(usize, DeltaTable)> {
        // A copy may have become whole just before the last run ended.
        if self.replace().await? {
            self.tell(&Committed::default(), None)?;
        }
        // What is to be put in place once nothing else is staged.
        let mut compacted = None;
        loop {
            if let Some(done) = compacted.take_if(|_| !self.table.has_staged()) {
                self.put_compacted(done).await?;
            }
            if compacted.is_none() && !self.unreadable {
                self.upkeep.look(&self.table);
            }
            let table = &self.table.record().table;
            let wake = self.upkeep.wake();
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => {
                        let span = self.span(&command);
                        within(span, self.carry_out(command)).await?;
                    }
                    None => {
                        self.table.end_index();
                        return Ok((self.number, self.table));
                    }
                },
                done = self.upkeep.done(table) => match done {
                    Some(Done::Compacted(done)) => compacted = Some(done),
                    Some(done) => upkeep::tell(table, &done, None),
                    None => {}
                },
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// The span of what is asked for. Commits tell what they were when they are done.
    fn span(&self, command: &Command) -> Span {
        let table = &self.table.record().table;
        match command {
            Command::Commit { .. } | Command::Chunk { .. } => {
                span!(
                    "commit",
                    table,
                    version = Empty,
                    upserts = Empty,
                    deletes = Empty,
                    snapshot_rows = Empty,
                    watermark = Empty
                )
            }
            Command::Stage(..) | Command::Evolve { .. } | Command::Extend => Span::none(),
        }
    }

    async fn carry_out(&mut self, command: Command) -> Result<()> {
        let started = Instant::now();
        match command {
            _ if self.unreadable => {}
            Command::Stage(batch, permit) => {
                self.stage(batch).await?;
                drop(permit);
            }
            Command::Evolve { schema, origin, points } => {
                self.table.evolve(schema, &origin)?;
                self.points = points;
            }
            Command::Extend => {
                let extend = |record: &mut TableRecord| {
                    record.state = State::Snapshotting;
                    record.snapshot = None;
                };
                self.table.commit("EXTEND", extend).await?;
            }
            Command::Commit { batch, watermark } => {
                if let Some((batch, permit)) = batch {
                    self.stage(batch).await?;
                    drop(permit);
                }
                if !self.unreadable {
                    self.commit("MERGE", watermark, None, started).await?;
                }
            }
            Command::Chunk {
                chunk,
                progress,
                watermark,
                merged,
            } => {
                let span = span!("stage", table = self.table.record().table, rows = Empty);
                let staged = within(span.clone(), self.table.stage_chunk(chunk));
                let rows = staged.await?;
                span.record("rows", rows as i64);
                self.commit("SNAPSHOT", watermark, Some((progress, rows)), started)
                    .await?;
                // A snapshotter that is gone has no use for it.
                let _ = merged.send(());
            }
        }
        Ok(())
    }

    async fn put_compacted(&mut self, done: Compacted) -> Result<()> {
        match self.table.take_compacted(&done).await {
            // Others were faster; its file goes with the next clean-up.
            Ok(None) => Ok(()),
            Ok(version) => {
                upkeep::tell(&self.table.record().table, &Done::Compacted(done), version);
                // Cuts name the newest version, which stays longest.
                self.tell(&Committed::default(), None)
            }
            Err(error) => self.fail(error),
        }
    }

    /// Ends the writer, or the table alone if it has to be copied anew.
    fn fail(&mut self, error: Error) -> Result<()> {
        if error.code() != Some(UNREADABLE) {
            return Err(error);
        }
        self.unreadable = true;
        let _ = self.halts.send((self.number, Halt::Unreadable(error)));
        Ok(())
    }

    /// Puts a copy in the place of what it copies, once it equals the source.
    /// Returns whether it did.
    async fn replace(&mut self) -> Result<bool> {
        if self.table.record().state != State::Streaming {
            return Ok(false);
        }
        let started = Instant::now();
        let replaced = self.table.replace().await?;
        if let Some(version) = replaced {
            let record = self.table.record();
            info!(table = %record.table, version, rows = self.table.rows(), watermark = %record.watermark,
                elapsed_ms = started.elapsed().as_millis() as u64, "replaced the table's content");
        }
        Ok(replaced.is_some())
    }

    async fn stage(&mut self, batch: ChangeBatch) -> Result<()> {
        let span = span!(
            "stage",
            table = self.table.record().table,
            rows = batch.ops.len() as i64
        );
        match within(span, self.table.stage(batch, self.points.as_ref())).await {
            Ok(Some(high)) => self.table.expect_catch_up(high),
            Ok(None) => {}
            Err(error) => return self.fail(error),
        }
        Ok(())
    }

    async fn commit(
        &mut self,
        operation: &str,
        watermark: Position,
        progress: Option<(Progress, u64)>,
        started: Instant,
    ) -> Result<()> {
        let plan = &mut self.plan;
        let committed = self
            .table
            .commit(operation, |record| {
                record.watermark = watermark;
                if let Some((progress, rows)) = progress
                    && record.state == State::Snapshotting
                {
                    let snapshot = record.snapshot.get_or_insert_default();
                    snapshot.rows += rows;
                    progress.note(snapshot, plan);
                }
                advance(record);
            })
            .await;
        let committed = match committed {
            Ok(committed) => committed,
            Err(error) => return self.fail(error),
        };
        self.log(&committed, started);
        self.replace().await?;
        self.tell(&committed, Some(started.elapsed()))
    }

    /// Tells the stream's loop where the table stands.
    fn tell(&self, committed: &Committed, took: Option<Duration>) -> Result<()> {
        let record = self.table.record();
        let durable = Durable {
            table: self.number,
            asked_for: took.is_some(),
            version: self.table.visible_version(),
            vector_bytes: committed.vector_bytes,
            watermark: record.watermark.clone(),
            state: record.state,
            catch_up_to: record.catch_up_to.clone(),
            snapshot: record.snapshot.clone(),
            rows: RowNumbers {
                upserts: committed.upserts,
                deletes: committed.deletes,
                snapshot_rows: committed.snapshot_rows,
                took,
                size: self.table.size(),
            },
        };
        self.durable
            .send(durable)
            .map_err(|_| Error::transient("the stream has ended"))
    }

    fn log(&self, committed: &Committed, started: Instant) {
        let record = self.table.record();
        Span::current()
            .record("version", committed.version as i64)
            .record("upserts", committed.upserts as i64)
            .record("deletes", committed.deletes as i64)
            .record("snapshot_rows", committed.snapshot_rows as i64)
            .record("watermark", display(&record.watermark));
        info!(
            table = %record.table,
            version = committed.version,
            upserts = committed.upserts,
            deletes = committed.deletes,
            snapshot_rows = committed.snapshot_rows,
            rows = committed.upserts + committed.deletes + committed.snapshot_rows,
            watermark = %record.watermark,
            state = record.state.as_str(),
            elapsed_ms = (started.elapsed().as_secs_f64() * 1e4).round() / 1e1,
            "committed"
        );
    }
}

/// Moves a table on once its watermark allows it.
fn advance(record: &mut TableRecord) {
    let copied = record.snapshot.as_ref().is_some_and(SnapshotProgress::is_complete);
    if record.state == State::Snapshotting && copied {
        record.state = State::CatchingUp;
        record.snapshot = None;
    }
    if record
        .catch_up_to
        .as_ref()
        .is_some_and(|to| record.watermark.covers(to))
    {
        record.catch_up_to = None;
    }
    match (record.state, &record.catch_up_to) {
        (State::CatchingUp, None) => record.state = State::Streaming,
        (State::Streaming, Some(_)) => record.state = State::CatchingUp,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lake::PartProgress;
    use crate::position::Lsn;

    fn record(state: State, done: u64, catch_up_to: Option<u64>, watermark: u64) -> TableRecord {
        let mut record = TableRecord::new("p".into(), "t".into(), 1, 1, Position::Lsn(Lsn(watermark)));
        record.state = state;
        record.snapshot = Some(SnapshotProgress {
            rows: 0,
            parts: vec![PartProgress {
                relation: 1,
                file: 1,
                end_block: 10,
                bounds: Vec::new(),
                done: vec![(0, done)],
            }],
        });
        record.catch_up_to = catch_up_to.map(|lsn| Position::Lsn(Lsn(lsn)));
        record
    }

    #[test]
    fn a_table_streams_once_it_is_copied_and_caught_up() {
        for (state, done, catch_up_to, watermark, expected) in [
            (State::Snapshotting, 9, None, 5, State::Snapshotting),
            (State::Snapshotting, 10, None, 5, State::Streaming),
            (State::Snapshotting, 10, Some(6), 5, State::CatchingUp),
            (State::CatchingUp, 10, Some(6), 6, State::Streaming),
            (State::Streaming, 10, Some(6), 5, State::CatchingUp),
            (State::NeedsSnapshot, 10, None, 5, State::NeedsSnapshot),
        ] {
            let mut record = record(state, done, catch_up_to, watermark);
            advance(&mut record);
            assert_eq!(record.state, expected, "{state:?} {done} {catch_up_to:?}");
        }
    }
}
