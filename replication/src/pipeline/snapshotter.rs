//! Copies tables chunk by chunk, several chunks at a time, while the stream
//! goes on.
//!
//! ```text
//! snapshot transaction:  lock ─ snapshot, HIGH ─ COPY ──► data file, keys
//! stream:                ────────────── position ≥ HIGH ──► chunk merged, progress committed
//! ```
//!
//! Chunks may be merged in any order. While some wait for their windows to
//! close, as many others are read.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrow::record_batch::RecordBatch;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::field::Empty;
use tracing::{Span, info, warn};

use super::pause::Paused;
use crate::error::{Class, Error, Result};
use crate::key::{Key, KeyEncoder};
use crate::lake::{Chunk, FileFormat, PartProgress, SnapshotProgress, WrittenFile};
use crate::metrics::{Metrics, SnapshotNumbers};
use crate::position::Position;
use crate::schema::TableId;
use crate::source::{Begun, ChunkStart, Part, Reader, Saw, SourceTable, TableSource};
use crate::trace::{span, within};

/// What a chunk reads at the source, in bytes. Larger chunks make larger
/// files, smaller ones repeat less after a kill; the keys of one chunk are in
/// memory, 16 bytes each.
const CHUNK_BYTES: u64 = 64 << 20;

/// How long a server that ended a read for its own sake is left alone.
const CONFLICT_PAUSE: Duration = Duration::from_secs(1);

/// A chunk that waits for the stream to pass `high`.
pub struct Window {
    pub table: usize,
    pub high: Position,
    pub chunk: Chunk,
    pub progress: Progress,
    pub merged: oneshot::Sender<()>,
}

/// What a chunk adds to a table's progress.
#[derive(Clone)]
pub struct Progress {
    /// Grows when a table is planned anew; what an older plan says is void.
    plan: u64,
    /// Everything to copy.
    parts: Arc<Vec<PartProgress>>,
    /// What the chunk has of it: a part and its blocks.
    range: Option<(usize, u64, u64)>,
}

impl Progress {
    /// Notes the chunk in a table's record. `plan` is the newest plan noted.
    pub fn note(&self, progress: &mut SnapshotProgress, plan: &mut u64) {
        if self.plan < *plan {
            return;
        }
        *plan = self.plan;
        let before = std::mem::take(&mut progress.parts);
        for part in self.parts.iter() {
            let own = before
                .iter()
                .find(|p| p.relation == part.relation && p.file == part.file);
            progress.parts.push(own.unwrap_or(part).clone());
        }
        if let Some((part, from, to)) = self.range
            && let Some(part) = progress.parts.get_mut(part)
        {
            part.add(from, to);
        }
    }
}

/// One table to copy.
pub struct Task<T> {
    pub number: usize,
    pub id: TableId,
    pub source: T,
    pub format: FileFormat,
    pub encoder: KeyEncoder,
    /// Where an earlier run got to.
    pub progress: SnapshotProgress,
}

/// What a copy that can't go on tells the stream's loop.
pub enum Halt {
    /// The table doesn't have its columns any more.
    Changed,
    Failed(Error),
    /// Rows that the lake lacks can't be read with the columns that they had.
    Unreadable(Error),
}

/// Runs all copies of a pipeline.
pub struct Snapshotter<T> {
    pub tasks: mpsc::UnboundedReceiver<Task<T>>,
    pub windows: mpsc::Sender<Window>,
    pub halts: mpsc::UnboundedSender<(usize, Halt)>,
    /// Chunks read at the same time.
    pub parallelism: Arc<AtomicUsize>,
    /// While it is, no chunk begins; one that is being read is read to its end.
    pub paused: Paused,
    pub metrics: Arc<Metrics>,
}

/// The snapshots of chunks that are not merged yet, by chunk; `None` before
/// they are known.
type Open = Arc<Mutex<BTreeMap<u64, Option<Saw>>>>;

struct Copy<T: TableSource> {
    task: Task<T>,
    /// Tells it from earlier copies of the table, whose chunks may still wait.
    run: u64,
    parts: Vec<Part>,
    plan: u64,
    planned: Arc<Vec<PartProgress>>,
    /// What no chunk has taken yet: part and blocks.
    left: VecDeque<(usize, u64, u64)>,
    /// Whether the plan is still to be made.
    unplanned: bool,
    busy: usize,
    merging: usize,
    open: Open,
    readers: Vec<T::Reader>,
    progress: SnapshotProgress,
    started: Instant,
    rows_before: u64,
    rows_read: u64,
    next_chunk: u64,
}

/// How a job ended.
enum Ended<R> {
    Planned(Box<(R, Vec<PartProgress>)>),
    Read(Box<ReadChunk<R>>),
    /// The part's blocks are not those of the plan.
    Rewritten(Box<R>),
    Halted(Halt),
}

struct ReadChunk<R> {
    reader: R,
    read: Waiting,
}

/// A chunk whose window is not closed yet.
struct Waiting {
    chunk: u64,
    rows: u64,
    progress: Progress,
    merged: oneshot::Receiver<()>,
    open: Open,
}

impl Waiting {
    fn merge(self, run: u64) -> Merged {
        async move {
            let merged = self.merged.await.is_ok();
            lock(&self.open).remove(&self.chunk);
            (run, self.progress, merged)
        }
        .boxed()
    }
}

/// A chunk that was merged, or `false` if its table is not followed any more.
type Merged = BoxFuture<'static, (u64, Progress, bool)>;

impl<T: TableSource> Snapshotter<T> {
    /// Runs until the stream's loop is gone.
    pub async fn run(mut self) -> Result<()> {
        let mut copies: Vec<Copy<T>> = Vec::new();
        let mut jobs: JoinSet<(u64, Result<Ended<T::Reader>>)> = JoinSet::new();
        let mut merges: FuturesUnordered<Merged> = FuturesUnordered::new();
        // What chunks saw that no copy waits for any more, by table.
        let mut opens: HashMap<usize, (Open, u64)> = HashMap::new();
        let mut runs = 0;
        loop {
            let limit = self.parallelism.load(Ordering::Relaxed);
            let paused = self.paused.borrow_and_update().is_some();
            while !paused && jobs.len() < limit && merges.len() <= 2 * limit {
                let Some(copy) = copies.iter_mut().find(|copy| copy.has_work(merges.len() < limit)) else {
                    break;
                };
                let (run, job) = (copy.run, copy.job(&self.windows, limit));
                jobs.spawn(async move { (run, job.await) });
            }
            copies.retain(|copy| !self.is_complete(copy));
            let reading = jobs.len();
            self.metrics.update(|m| m.reading = reading);
            tokio::select! {
                task = self.tasks.recv() => match task {
                    Some(task) => {
                        if let Some(at) = copies.iter().position(|copy| copy.task.number == task.number) {
                            let before = copies.remove(at);
                            opens.insert(task.number, (before.open, before.next_chunk));
                        }
                        let mut copy = Copy::new(task);
                        if let Some((open, next_chunk)) = opens.get(&copy.task.number) {
                            (copy.open, copy.next_chunk) = (open.clone(), *next_chunk);
                        }
                        runs += 1;
                        copy.run = runs;
                        copies.push(copy);
                    }
                    None => {
                        while let Some(Some((run, progress, true))) = merges.next().now_or_never() {
                            let copy = copies.iter_mut().find(|copy| copy.run == run);
                            copy.into_iter().for_each(|copy| copy.end_merge(&progress));
                        }
                        copies.retain(|copy| !self.is_complete(copy));
                        return Ok(());
                    }
                },
                Some(joined) = jobs.join_next() => {
                    let (run, result) = joined.map_err(|e| Error::bug("a snapshot panicked").with_source(e))?;
                    let Some(copy) = copies.iter_mut().find(|copy| copy.run == run) else {
                        if let Ok(Ended::Read(read)) = result {
                            // Its window is on its way all the same.
                            merges.push(read.read.merge(run));
                        }
                        continue;
                    };
                    copy.busy -= 1;
                    match copy.end_job(result?) {
                        JobEnd::Merging(merge) => merges.push(merge),
                        JobEnd::Halted(halt) => {
                            self.forget(copy);
                            let number = copy.task.number;
                            opens.insert(number, (copy.open.clone(), copy.next_chunk));
                            copies.retain(|copy| copy.run != run);
                            // Without a stream there is nobody to tell.
                            let _ = self.halts.send((number, halt));
                        }
                        JobEnd::Nothing => {}
                    }
                }
                Some((run, progress, merged)) = merges.next() => {
                    let Some(copy) = copies.iter_mut().find(|copy| copy.run == run) else { continue };
                    if merged {
                        copy.end_merge(&progress);
                        self.show(copy);
                    } else {
                        self.forget(copy);
                        copies.retain(|copy| copy.run != run);
                    }
                }
                Ok(()) = self.paused.changed() => {}
                // Parallelism may have been raised.
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
    }

    fn is_complete(&self, copy: &Copy<T>) -> bool {
        let complete = !copy.unplanned && copy.left.is_empty() && copy.busy == 0 && copy.merging == 0;
        if complete {
            self.forget(copy);
            let elapsed = copy.started.elapsed();
            info!(table = %copy.task.id, rows = copy.rows_before + copy.rows_read, elapsed_ms = elapsed.as_millis() as u64,
                rows_per_s = (copy.rows_read as f64 / elapsed.as_secs_f64().max(0.001)) as u64, "snapshot complete");
        }
        complete
    }

    fn show(&self, copy: &Copy<T>) {
        let numbers = SnapshotNumbers {
            rows: copy.rows_before + copy.rows_read,
            rows_since_start: copy.rows_read,
            started: copy.started,
            blocks_done: copy.progress.blocks_done(),
            blocks: copy.progress.blocks(),
        };
        self.metrics.update(|m| {
            m.snapshots.insert(copy.task.id.clone(), numbers);
        });
    }

    fn forget(&self, copy: &Copy<T>) {
        self.metrics.update(|m| {
            m.snapshots.remove(&copy.task.id);
        });
    }
}

enum JobEnd {
    Merging(Merged),
    Halted(Halt),
    Nothing,
}

impl<T: TableSource> Copy<T> {
    fn new(task: Task<T>) -> Self {
        if task.progress.parts.is_empty() {
            info!(table = %task.id, "starting snapshot");
        } else {
            info!(table = %task.id, blocks_done = task.progress.blocks_done(), blocks = task.progress.blocks(),
                rows = task.progress.rows, "resuming snapshot");
        }
        Self {
            parts: task.source.table().parts().to_vec(),
            run: 0,
            plan: 0,
            planned: Arc::default(),
            left: VecDeque::new(),
            unplanned: true,
            busy: 0,
            merging: 0,
            open: Open::default(),
            readers: Vec::new(),
            progress: task.progress.clone(),
            started: Instant::now(),
            rows_before: task.progress.rows,
            rows_read: 0,
            next_chunk: 0,
            task,
        }
    }

    /// `more` allows reading ahead of what is merged.
    fn has_work(&self, more: bool) -> bool {
        if self.unplanned {
            // What is under way belongs to the plan before.
            return self.busy == 0;
        }
        !self.left.is_empty() && (more || self.merging == 0)
    }

    fn job(&mut self, windows: &mpsc::Sender<Window>, readers: usize) -> BoxFuture<'static, Result<Ended<T::Reader>>> {
        self.busy += 1;
        let (source, reader) = (self.task.source.clone(), self.readers.pop());
        if self.unplanned {
            let parts = self.parts.clone();
            return plan(source, reader, parts, self.progress.parts.clone()).boxed();
        }
        let range = self.take_range(readers);
        let chunk = self.next_chunk;
        self.next_chunk += 1;
        lock(&self.open).insert(chunk, None);
        let job = ChunkJob {
            number: self.task.number,
            chunk,
            part: range.and_then(|(part, ..)| Some((self.parts.get(part)?.clone(), self.planned.get(part)?.clone()))),
            progress: Progress {
                plan: self.plan,
                parts: self.planned.clone(),
                range: range.filter(|(_, from, to)| to > from),
            },
            format: self.task.format.clone(),
            encoder: self.task.encoder.clone(),
            open: self.open.clone(),
            windows: windows.clone(),
        };
        job.run(source, reader).boxed()
    }

    /// The next blocks to read, of about a chunk's size; all readers share the
    /// throttle.
    fn take_range(&mut self, readers: usize) -> Option<(usize, u64, u64)> {
        let (part, from, to) = self.left.pop_front()?;
        let blocks = self.planned.get(part).map_or(0, |p| p.end_block);
        let bytes = self.task.source.throttle().chunk_bytes(CHUNK_BYTES, readers);
        let size = self
            .parts
            .get(part)
            .map_or(1, |part| T::blocks_for(part, bytes, blocks));
        let middle = from.saturating_add(size).min(to);
        if middle < to {
            self.left.push_front((part, middle, to));
        }
        Some((part, from, middle))
    }

    fn end_job(&mut self, ended: Ended<T::Reader>) -> JobEnd {
        match ended {
            Ended::Planned(planned) => {
                let (reader, plan) = *planned;
                self.readers.push(reader);
                self.set_plan(plan);
                JobEnd::Nothing
            }
            Ended::Read(read) => {
                let ReadChunk { reader, read } = *read;
                self.readers.push(reader);
                self.rows_read += read.rows;
                self.merging += 1;
                JobEnd::Merging(read.merge(self.run))
            }
            Ended::Rewritten(reader) => {
                self.readers.push(*reader);
                self.unplanned = true;
                self.left.clear();
                JobEnd::Nothing
            }
            Ended::Halted(halt) => JobEnd::Halted(halt),
        }
    }

    fn end_merge(&mut self, progress: &Progress) {
        self.merging -= 1;
        let mut plan = self.plan;
        progress.note(&mut self.progress, &mut plan);
    }

    /// What is to read: all blocks of files that nobody read yet, and what is
    /// left of the others. Rows read again are recognised by key.
    fn set_plan(&mut self, plan: Vec<PartProgress>) {
        self.plan += 1;
        self.unplanned = false;
        let before = &self.progress.parts;
        let mut planned = Vec::with_capacity(plan.len());
        for part in plan {
            let own = before
                .iter()
                .find(|p| p.relation == part.relation && p.file == part.file);
            let progress = own.cloned().unwrap_or(part);
            for (from, to) in progress.remaining() {
                self.left.push_back((planned.len(), from, to));
            }
            planned.push(progress);
        }
        if self.left.is_empty() {
            // Nothing to read is progress, too.
            self.left.push_back((0, 0, 0));
        }
        self.planned = Arc::new(planned);
    }
}

async fn plan<T: TableSource>(
    source: T,
    reader: Option<T::Reader>,
    parts: Vec<Part>,
    before: Vec<PartProgress>,
) -> Result<Ended<T::Reader>> {
    let result = async {
        let mut reader = match reader {
            Some(reader) => reader,
            None => source.reader().await?,
        };
        reader.wait_for_writers().await?;
        Ok(match reader.plan(&parts, &before).await? {
            Some(plan) => Ended::Planned(Box::new((reader, plan))),
            None => Ended::Halted(Halt::Changed),
        })
    };
    halt::<T>(result.await)
}

/// Sorts out what only one table is concerned with.
fn halt<T: TableSource>(result: Result<Ended<T::Reader>>) -> Result<Ended<T::Reader>> {
    match result {
        Err(error) if T::is_gone(&error) => Ok(Ended::Halted(Halt::Changed)),
        Err(error) if error.class() == Class::NeedsOperator => Ok(Ended::Halted(Halt::Failed(error))),
        other => other,
    }
}

/// What a chunk was written to, with the keys of each file's rows.
type Files = Vec<(WrittenFile, Vec<Key>)>;

struct ChunkJob {
    number: usize,
    chunk: u64,
    part: Option<(Part, PartProgress)>,
    progress: Progress,
    format: FileFormat,
    encoder: KeyEncoder,
    open: Open,
    windows: mpsc::Sender<Window>,
}

impl ChunkJob {
    async fn run<T: TableSource>(self, source: T, reader: Option<T::Reader>) -> Result<Ended<T::Reader>> {
        let span = span!("chunk", table = %source.table().id(), rows = Empty);
        halt::<T>(within(span, self.read(source, reader)).await)
    }

    async fn read<T: TableSource>(self, source: T, reader: Option<T::Reader>) -> Result<Ended<T::Reader>> {
        let mut kept = reader;
        let (reader, start, files) = loop {
            match self.read_once(&source, kept.take()).await {
                Ok(Ok(read)) => break read,
                Ok(Err(ended)) => return Ok(ended),
                Err(error) if T::is_conflict(&error) => {
                    warn!(table = %source.table().id(), %error, hint = error.hint(), "a chunk is read again");
                    lock(&self.open).insert(self.chunk, None);
                    tokio::time::sleep(CONFLICT_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        };
        let rows = files.iter().map(|(file, _)| u64::from(file.rows)).sum::<u64>();
        Span::current().record("rows", rows as i64);
        let (done, merged) = oneshot::channel();
        let (saw, own, all) = (start.saw.clone(), start.saw, self.all_open());
        let window = Window {
            table: self.number,
            high: start.high,
            chunk: Chunk {
                files,
                saw: Box::new(move |transaction| saw(transaction)),
                all_saw: Box::new(move |transaction| {
                    own(transaction) && all.iter().all(|saw| saw.as_ref().is_some_and(|saw| saw(transaction)))
                }),
            },
            progress: self.progress.clone(),
            merged: done,
        };
        self.windows
            .send(window)
            .await
            .map_err(|_| Error::transient("the stream ended while a snapshot was running"))?;
        Ok(Ended::Read(Box::new(ReadChunk {
            reader,
            read: Waiting {
                chunk: self.chunk,
                rows,
                progress: self.progress,
                merged,
                open: self.open,
            },
        })))
    }

    /// Reads the chunk, or finds out why it can't be read.
    async fn read_once<T: TableSource>(
        &self,
        source: &T,
        reader: Option<T::Reader>,
    ) -> Result<Result<(T::Reader, ChunkStart, Files), Ended<T::Reader>>> {
        let mut reader = match reader {
            Some(reader) => reader,
            None => source.reader().await?,
        };
        let part = self.part.as_ref().map(|(part, plan)| (part, plan));
        let start = match reader.begin(part).await? {
            Begun::Chunk(start) => start,
            Begun::Changed => return Ok(Err(Ended::Halted(Halt::Changed))),
            Begun::Rewritten => {
                lock(&self.open).remove(&self.chunk);
                return Ok(Err(Ended::Rewritten(Box::new(reader))));
            }
        };
        lock(&self.open).insert(self.chunk, Some(start.saw.clone()));
        let files = match (part, self.progress.range) {
            (Some((part, plan)), Some((_, from, to))) => self.copy(&mut reader, part, plan, from, to).await?,
            _ => Vec::new(),
        };
        reader.end().await?;
        Ok(Ok((reader, start, files)))
    }

    /// The snapshots of the other chunks under way. Those that begin later see
    /// more than this one.
    fn all_open(&self) -> Vec<Option<Saw>> {
        let open = lock(&self.open);
        let others = open.iter().filter(|(chunk, _)| **chunk != self.chunk);
        others.map(|(_, saw)| saw.clone()).collect()
    }

    /// Reads blocks into data files. Decoding here and encoding in a task of
    /// its own run side by side.
    async fn copy<R: Reader>(
        &self,
        reader: &mut R,
        part: &Part,
        plan: &PartProgress,
        from: u64,
        to: u64,
    ) -> Result<Files> {
        let mut writer = self.format.writer();
        let encoder = self.encoder.clone();
        let (batches, mut received) = mpsc::channel::<RecordBatch>(2);
        let encode = tokio::spawn(async move {
            while let Some(batch) = received.recv().await {
                let keys = encoder.keys(&batch)?;
                writer.write(&batch, &keys).await?;
            }
            Ok::<_, Error>(writer)
        });
        let read = async {
            reader.read(part, plan, from, to).await?;
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
        let writer = encoded?;
        read?;
        writer.finish().await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // The maps are whole between changes, whoever panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
