//! Copies tables chunk by chunk while the stream goes on.
//!
//! ```text
//! snapshot transaction:  lock ─ snapshot, HIGH ─ COPY ──► data file, keys
//! stream:                ────────────── position ≥ HIGH ──► chunk merged, progress committed
//! ```
//!
//! While a chunk waits for its window to close, the next one is read.

use std::sync::Arc;
use std::time::Instant;

use arrow::record_batch::RecordBatch;
use tokio::sync::{mpsc, oneshot};
use tracing::info;

use crate::error::{Error, Result};
use crate::key::{Key, KeyEncoder};
use crate::lake::{Chunk, FileWriter, Log, SnapshotProgress, WrittenFile};
use crate::metrics::{Metrics, SnapshotNumbers};
use crate::position::Position;
use crate::schema::{TableId, TableSchema};
use crate::source::postgres::{ChunkStart, Reader, TableSource};

/// What a chunk reads at the source, in bytes. Larger chunks make larger
/// files, smaller ones repeat less after a kill; the keys of one chunk are in
/// memory, 16 bytes each.
const CHUNK_BYTES: u64 = 64 << 20;

/// A chunk that waits for the stream to pass `high`.
pub struct Window {
    pub table: usize,
    pub high: Position,
    pub chunk: Chunk,
    pub progress: SnapshotProgress,
    pub merged: oneshot::Sender<u64>,
}

/// One table to copy.
pub struct Task {
    pub number: usize,
    pub id: TableId,
    pub source: TableSource,
    pub log: Log,
    pub schema: Arc<TableSchema>,
    pub encoder: KeyEncoder,
    /// Where an earlier run got to.
    pub progress: Option<SnapshotProgress>,
}

/// Copies the tables one after the other.
pub async fn run(tasks: Vec<Task>, windows: mpsc::Sender<Window>, metrics: Arc<Metrics>) -> Result<()> {
    for task in tasks {
        let id = task.id.clone();
        let result = task.run(&windows, &metrics).await;
        metrics.update(|m| {
            m.snapshots.remove(&id);
        });
        result?;
    }
    Ok(())
}

impl Task {
    async fn run(self, windows: &mpsc::Sender<Window>, metrics: &Metrics) -> Result<()> {
        let mut reader = self.source.reader().await?;
        reader.wait_for_writers().await?;
        let started = Instant::now();
        let rows_before = self.progress.as_ref().map_or(0, |p| p.rows);
        if let Some(progress) = &self.progress {
            info!(table = %self.id, block = progress.next_block, blocks = progress.end_block, rows = progress.rows,
                "resuming snapshot");
        } else {
            info!(table = %self.id, "starting snapshot");
        }
        let mut plan = self.progress.clone();
        let mut waiting: Option<oneshot::Receiver<u64>> = None;
        let mut rows_read = 0_u64;
        loop {
            let start = reader.begin().await?;
            let from = plan_from(plan.as_ref(), &start);
            let blocks = reader.blocks_for(CHUNK_BYTES, start.blocks);
            let progress = SnapshotProgress {
                relation_file: start.relation_file,
                next_block: (from.next_block + blocks).min(from.end_block),
                ..from
            };
            let files = self.read(&mut reader, from.next_block, progress.next_block).await?;
            reader.end().await?;
            rows_read += files.iter().map(|(file, _)| u64::from(file.rows)).sum::<u64>();
            metrics.update(|m| {
                let numbers = SnapshotNumbers {
                    rows: rows_before + rows_read,
                    rows_since_start: rows_read,
                    started,
                    blocks_done: progress.next_block,
                    blocks: progress.end_block,
                };
                m.snapshots.insert(self.id.clone(), numbers);
            });
            // One chunk waits, one is read: two are the bound.
            if let Some(merged) = waiting.take() {
                merged.await.map_err(|_| stream_ended())?;
            }
            let (done, merged) = oneshot::channel();
            let visibility = start.visibility;
            let window = Window {
                table: self.number,
                high: start.high,
                chunk: Chunk {
                    files,
                    saw: Box::new(move |transaction| visibility.saw(transaction)),
                },
                progress: progress.clone(),
                merged: done,
            };
            windows.send(window).await.map_err(|_| stream_ended())?;
            waiting = Some(merged);
            if progress.next_block >= progress.end_block {
                break;
            }
            plan = Some(progress);
        }
        if let Some(merged) = waiting {
            merged.await.map_err(|_| stream_ended())?;
        }
        let elapsed = started.elapsed();
        info!(table = %self.id, rows = rows_before + rows_read, elapsed_ms = elapsed.as_millis() as u64,
            rows_per_s = (rows_read as f64 / elapsed.as_secs_f64().max(0.001)) as u64, "snapshot complete");
        Ok(())
    }

    /// Reads blocks into a data file. Decoding here and encoding in a task of
    /// its own run side by side.
    async fn read(&self, reader: &mut Reader, from: u64, to: u64) -> Result<Vec<(WrittenFile, Vec<Key>)>> {
        let mut writer = FileWriter::create(&self.log, &self.schema.arrow(), &self.schema.key)?;
        let encoder = self.encoder.clone();
        let (batches, mut received) = mpsc::channel::<RecordBatch>(2);
        let encode = tokio::spawn(async move {
            let mut keys = Vec::new();
            while let Some(batch) = received.recv().await {
                keys.extend(encoder.keys(&batch)?);
                writer.write(&batch).await?;
            }
            Ok::<_, Error>((writer, keys))
        });
        let read = async {
            reader.read(from, to).await?;
            while let Some(batch) = reader.next_batch().await? {
                batches
                    .send(batch)
                    .await
                    .map_err(|_| Error::transient("the data file could not be written"))?;
            }
            Ok::<_, Error>(())
        }
        .await;
        drop(batches);
        let encoded = encode
            .await
            .map_err(|e| Error::bug("writing a data file panicked").with_source(e))?;
        // The writer's error says more than "the other side is gone".
        let (writer, keys) = encoded?;
        read?;
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        Ok(vec![(writer.finish().await?, keys)])
    }
}

/// Where to go on: after the last chunk, or from the first block if there is
/// none or the table was rewritten since. Rows read again are recognised by key.
fn plan_from(plan: Option<&SnapshotProgress>, start: &ChunkStart) -> SnapshotProgress {
    match plan {
        Some(plan) if plan.relation_file == start.relation_file => plan.clone(),
        _ => SnapshotProgress {
            relation_file: start.relation_file,
            next_block: 0,
            end_block: start.blocks,
            rows: 0,
        },
    }
}

fn stream_ended() -> Error {
    Error::transient("the stream ended while a snapshot was running")
}
