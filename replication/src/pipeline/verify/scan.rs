//! Reads the source's rows chunk by chunk, each in a transaction of its own,
//! by any number of readers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arrow::array::RecordBatch;
use tokio::sync::mpsc;

use crate::error::{Error, Result};
use crate::lake::PartProgress;
use crate::metrics::{Metrics, SnapshotNumbers};
use crate::schema::TableId;
use crate::source::{Begun, Part, Reader, SourceTable, TableSource};

/// What a chunk reads at the source, in bytes. A transaction is open for that
/// long, and several chunks are in memory.
pub const CHUNK_BYTES: u64 = 16 << 20;
/// A chunk of values that were stored compressed is cut here.
const CHUNK_ROWS_BYTES: usize = 64 << 20;
/// Pieces that a sample is made of at least.
const SAMPLE_PIECES: u64 = 64;
/// Blocks of a piece at most. Neighbours tell less than rows far apart.
const PIECE_BLOCKS: u64 = 1024;

/// From which block to which, without the last.
type Range = (u64, u64);

/// One table's scan, shared by its readers.
pub struct Scan<T> {
    pub id: TableId,
    pub source: T,
    /// How many share the throttle.
    pub readers: usize,
    /// The share of the table to read.
    pub sample: Option<f64>,
    pub seed: u64,
    pub metrics: Arc<Metrics>,
    pub progress: Mutex<Progress>,
}

#[derive(Default)]
pub struct Progress {
    parts: Vec<PartScan>,
    blocks_done: u64,
    rows: u64,
    started: Option<Instant>,
}

/// A physical table on its way.
struct PartScan {
    plan: Arc<PartProgress>,
    /// What is left to read, the first last.
    left: Vec<Range>,
    blocks: u64,
}

/// Blocks that a reader takes at a time, all of one part.
struct Chunk {
    part: usize,
    plan: Arc<PartProgress>,
    ranges: Vec<Range>,
}

impl<T: TableSource> Scan<T> {
    /// Finds out what there is to read. Then any number of readers may.
    pub async fn plan(&self) -> Result<()> {
        let mut reader = self.source.reader().await?;
        let plan = reader.plan(self.source.table().parts(), &[]).await?;
        let plan = plan.ok_or_else(|| self.changed())?;
        let mut progress = self.lock();
        progress.started = Some(Instant::now());
        progress.parts = plan.into_iter().map(|part| self.scan_part(part)).collect();
        Ok(())
    }

    fn scan_part(&self, plan: PartProgress) -> PartScan {
        let left = block_ranges(plan.end_block, self.sample, self.seed);
        PartScan {
            plan: Arc::new(plan),
            blocks: total(&left),
            left,
        }
    }

    /// Reads chunks until there are none, or nobody is there to take them.
    pub async fn read(self: Arc<Self>, batches: mpsc::Sender<Vec<RecordBatch>>) -> Result<()> {
        let mut reader = None;
        while let Some(chunk) = self.next() {
            if reader.is_none() {
                reader = Some(self.source.reader().await?);
            }
            let Some(reader) = reader.as_mut() else { break };
            let read = self.read_chunk(reader, &chunk, &batches).await?;
            if !read.is_empty() && batches.send(read).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Reads one chunk in a transaction of its own. What would be too much at
    /// once is sent on before.
    async fn read_chunk(
        &self,
        reader: &mut T::Reader,
        chunk: &Chunk,
        batches: &mpsc::Sender<Vec<RecordBatch>>,
    ) -> Result<Vec<RecordBatch>> {
        let part = self.part(chunk.part)?;
        let (mut read, mut bytes, mut rows) = (Vec::new(), 0, 0);
        match reader.begin(Some((part, &chunk.plan))).await? {
            Begun::Chunk(_) => {}
            Begun::Changed => return Err(self.changed()),
            Begun::Rewritten => {
                // Rows may have moved to blocks that were read.
                let plan = reader.plan(std::slice::from_ref(part), &[]).await?;
                let plan = plan.and_then(|mut plan| plan.pop()).ok_or_else(|| self.changed())?;
                self.again(chunk, plan);
                return Ok(read);
            }
        }
        for (from, to) in &chunk.ranges {
            reader.read(part, &chunk.plan, *from, *to).await?;
            while let Some(batch) = reader.next_batch().await? {
                rows += batch.num_rows() as u64;
                bytes += batch.get_array_memory_size();
                read.push(batch);
                if bytes >= CHUNK_ROWS_BYTES {
                    bytes = 0;
                    // The comparison that is gone has said why.
                    let _ = batches.send(std::mem::take(&mut read)).await;
                }
            }
        }
        self.done(total(&chunk.ranges), rows);
        reader.end().await?;
        Ok(read)
    }

    /// Takes the next chunk.
    fn next(&self) -> Option<Chunk> {
        let bytes = self.source.throttle().chunk_bytes(CHUNK_BYTES, self.readers);
        let mut progress = self.lock();
        let (number, scan) = progress
            .parts
            .iter_mut()
            .enumerate()
            .find(|(_, p)| !p.left.is_empty())?;
        let part = self.part(number).ok()?;
        // A sample reads few blocks of many.
        let share = self.sample.unwrap_or(1.0).max(f64::MIN_POSITIVE);
        let mut blocks = T::blocks_for(part, bytes, (scan.blocks as f64 / share) as u64);
        let mut ranges = Vec::new();
        while blocks > 0
            && let Some((from, to)) = scan.left.pop()
        {
            let end = to.min(from + blocks);
            if end < to {
                scan.left.push((end, to));
            }
            blocks -= end - from;
            ranges.push((from, end));
        }
        Some(Chunk {
            part: number,
            plan: scan.plan.clone(),
            ranges,
        })
    }

    /// Begins a part anew, unless another reader has.
    fn again(&self, chunk: &Chunk, plan: PartProgress) {
        let mut progress = self.lock();
        if let Some(part) = progress.parts.get_mut(chunk.part)
            && Arc::ptr_eq(&part.plan, &chunk.plan)
        {
            *part = self.scan_part(plan);
        }
    }

    fn done(&self, blocks: u64, rows: u64) {
        let mut progress = self.lock();
        progress.blocks_done += blocks;
        progress.rows += rows;
        let blocks: u64 = progress.parts.iter().map(|part| part.blocks).sum();
        let numbers = SnapshotNumbers {
            rows: progress.rows,
            rows_since_start: progress.rows,
            started: progress.started.unwrap_or_else(Instant::now),
            blocks_done: progress.blocks_done.min(blocks),
            blocks,
        };
        self.metrics.update(|m| {
            m.snapshots.insert(self.id.clone(), numbers);
        });
    }

    fn part(&self, number: usize) -> Result<&Part> {
        let part = self.source.table().parts().get(number);
        part.ok_or_else(|| Error::bug("a scan names a part that isn't there"))
    }

    fn changed(&self) -> Error {
        Error::transient(format!("{} has changed while it was compared", self.id))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Progress> {
        // It is whole between changes, whoever panicked.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn total(ranges: &[(u64, u64)]) -> u64 {
    ranges.iter().map(|(from, to)| to - from).sum()
}

/// The block ranges to read, the first one last: all, or a random sample of
/// about that share.
fn block_ranges(blocks: u64, sample: Option<f64>, seed: u64) -> Vec<(u64, u64)> {
    let Some(share) = sample else {
        return if blocks == 0 { Vec::new() } else { vec![(0, blocks)] };
    };
    let wanted = blocks as f64 * share;
    let piece = ((wanted / SAMPLE_PIECES as f64) as u64).clamp(1, PIECE_BLOCKS);
    let pieces = blocks.div_ceil(piece);
    let count = ((wanted / piece as f64).ceil() as u64).clamp(u64::from(pieces > 0), pieces);
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    let mut left = count;
    // Each piece has the chance that leaves exactly `count` at the end.
    for number in (0..pieces).rev() {
        if lot(seed, number) * ((number + 1) as f64) < left as f64 {
            left -= 1;
            let (from, to) = (number * piece, ((number + 1) * piece).min(blocks));
            match ranges.last_mut() {
                Some(later) if later.0 == to => later.0 = from,
                _ => ranges.push((from, to)),
            }
        }
    }
    ranges
}

/// A number in `0..1`, the same for the same seed and item.
pub fn lot(seed: u64, item: u64) -> f64 {
    let bytes = item.to_le_bytes();
    let hash = xxhash_rust::xxh3::xxh3_64_with_seed(&bytes, seed);
    (hash >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_of_its_size_and_within_the_table() {
        for (blocks, share) in [
            (0, 0.1),
            (1, 0.01),
            (7, 0.5),
            (1000, 0.01),
            (1000, 0.1),
            (1_000_000, 0.013),
            (5_000, 0.999),
        ] {
            for seed in 0..20 {
                let ranges = block_ranges(blocks, Some(share), seed);
                let read = total(&ranges);
                let wanted = blocks as f64 * share;
                let piece = (wanted / SAMPLE_PIECES as f64).clamp(1.0, PIECE_BLOCKS as f64);
                assert!(
                    (read as f64 - wanted).abs() <= piece + 1.0,
                    "{read} of {blocks} for {share}"
                );
                assert!(ranges.is_sorted_by(|a, b| a.0 > b.1), "{ranges:?}");
                assert!(ranges.iter().all(|(from, to)| from < to && *to <= blocks), "{ranges:?}");
            }
        }
        assert_eq!(block_ranges(10, None, 1), [(0, 10)]);
        assert_eq!(block_ranges(0, None, 1), []);
    }

    #[test]
    fn samples_differ_and_cover_the_table_together() {
        let mut read = vec![0; 100];
        for seed in 0..1000 {
            for (from, to) in block_ranges(100, Some(0.1), seed) {
                (from..to).for_each(|block| read[block as usize] += 1);
            }
        }
        assert!(read.iter().all(|times| (50..200).contains(times)), "{read:?}");
    }
}
