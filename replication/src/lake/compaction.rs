//! Compaction: small files become one, and files that lost many rows are
//! written anew, beside the commits.
//!
//! ```text
//! version    V0 ─── V1 ─── V2 ─── V3 ─── OPTIMIZE
//! commits     │   rows die in the inputs    │
//! compaction  └── reads them as of V0 ──────┘  the output's vector has the rows that died since
//! ```
//!
//! So nothing waits for it, and no load is too fast for it. Its commit changes
//! no data (`dataChange: false`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::datatypes::SchemaRef;
use roaring::RoaringBitmap;

use super::data_file::{self, Stored, WrittenFile};
use super::log::{Commit, Log};
use super::{DataFile, DeltaTable, FileFormat, undeleted};
use crate::error::{Error, Result};
use crate::failpoint;
use crate::partition::Values;

/// Small files of a partition that are worth becoming fewer.
const SMALL_FILES: usize = 8;
/// How much larger than all smaller ones together a file is at most that goes with
/// them. So files of different sizes stay few, and a byte is written again only with
/// at least half as many others.
const GROWTH: u64 = 2;
/// What one compaction reads at most, but for the last file, in bytes.
const INPUT_BYTES: u64 = 128 << 20;
/// The share of a file's rows that is dead before the file is written anew. With a
/// fifth, `deltalake` reads such a file in twice the time. To write a small table
/// anew costs little whatever its changes are, and where reading takes no time each bit of it shows.
const DEAD_SHARE: f64 = 0.1;
const DEAD_SHARE_SMALL: f64 = 0.05;
const SMALL_TABLE_BYTES: u64 = 64 << 20;
/// The part of `full` from which on a file is written anew for its own sake.
const WORN_PART: u64 = 64;
/// What small files that go with a worn one make of its bytes at most.
const BESIDE_PART: u64 = 4;
/// A file of at least this size is left alone while its rows live; in large
/// tables it is more, so that their files stay countable.
const FULL_BYTES: u64 = 16 << 20;
const FULL_BYTES_MAX: u64 = 64 << 20;
/// Files that a large table is cut into at most, if they were all just full.
const FILES_MAX: u64 = 256;

/// A file of a table as far as compaction cares.
#[derive(Clone, Copy, Debug)]
struct Weight {
    number: usize,
    bytes: u64,
    rows: u64,
    dead: u64,
    /// What its vectors took so far.
    vector_bytes: u64,
}

impl Weight {
    /// `dead` rows of it are not for readers.
    fn of(number: usize, file: &DataFile, dead: u64) -> Option<Self> {
        (!file.removed && file.committed).then(|| Self {
            number,
            bytes: file.size as u64,
            rows: u64::from(file.rows),
            dead,
            vector_bytes: file.vector_bytes,
        })
    }

    /// Whether it is to be written anew: readers are to meet no more dead rows than
    /// `share`, and once the vectors, each of which is written whole, have taken what
    /// the file takes, a new file is the cheaper. That is as late as it is early: no
    /// other moment writes less than half, however many rows die at a time.
    fn is_worn(&self, share: f64) -> bool {
        self.dead > 0 && (self.dead as f64 >= self.rows as f64 * share || self.vector_bytes >= self.bytes)
    }

    fn live_bytes(&self) -> u64 {
        (self.bytes as u128 * u128::from(self.rows - self.dead) / u128::from(self.rows.max(1))) as u64
    }
}

/// The files of a partition that are to become one now, if there are any.
/// `table` is what all of the table's have of live bytes.
fn choose(files: &[Weight], table: u64) -> Option<Vec<usize>> {
    let full = (table / FILES_MAX).clamp(FULL_BYTES, FULL_BYTES_MAX);
    let share = match table < SMALL_TABLE_BYTES {
        true => DEAD_SHARE_SMALL,
        false => DEAD_SHARE,
    };
    let worn = files
        .iter()
        .filter(|file| file.bytes >= full / WORN_PART && file.is_worn(share))
        // The most worn first: it gives back the most for what it costs.
        .min_by_key(|file| (file.rows - file.dead) * 1000 / file.rows.max(1));
    let mut small: Vec<&Weight> = files.iter().filter(|file| file.live_bytes() < full).collect();
    small.sort_by_key(|file| file.live_bytes());
    if let Some(worn) = worn {
        // Small ones go with it, for little more.
        let room = (worn.live_bytes() / BESIDE_PART).min((2 * full).saturating_sub(worn.live_bytes()));
        small.retain(|file| file.number != worn.number);
        let mut taken = vec![worn];
        let mut bytes = 0;
        taken.extend(small.into_iter().take_while(|file| {
            bytes += file.live_bytes();
            bytes <= room
        }));
        return Some(within_bounds(&taken));
    }
    if small.len() < SMALL_FILES {
        return None;
    }
    let (mut count, mut bytes) = (0, 0);
    for (at, file) in small.iter().enumerate() {
        if at > 0 && file.live_bytes() <= GROWTH * bytes {
            count = at + 1;
        }
        bytes += file.live_bytes();
    }
    small.truncate(count);
    (!small.is_empty()).then(|| within_bounds(&small))
}

fn within_bounds(files: &[&Weight]) -> Vec<usize> {
    let mut bytes = 0;
    let taken = files.iter().take_while(|file| {
        let fits = bytes < INPUT_BYTES;
        bytes += file.live_bytes();
        fits
    });
    let mut numbers: Vec<usize> = taken.map(|file| file.number).collect();
    // Rows that came together stay together.
    numbers.sort_unstable();
    numbers
}

/// A file that goes, as it was when the compaction began.
#[derive(Clone, Debug)]
struct Input {
    path: String,
    size: u64,
    rows: u32,
    /// The rows that stay behind.
    deleted: RoaringBitmap,
}

/// Files that are to become one.
pub struct Compaction {
    log: Log,
    format: FileFormat,
    columns: SchemaRef,
    inputs: Vec<Input>,
    partition: Values,
    /// Whether the file's columns have ids.
    mapped: bool,
}

/// The file that others have become; not committed.
pub struct Compacted {
    inputs: Vec<Input>,
    file: WrittenFile,
    mapped: bool,
}

impl Compaction {
    /// Reads and writes; `None` if `cancelled` came before the end. What was
    /// written then is litter.
    pub async fn run(self, cancelled: &AtomicBool) -> Result<Option<Compacted>> {
        let mut writer = self.format.writer_of(&self.partition)?;
        for input in &self.inputs {
            let stored = Stored {
                path: &input.path,
                size: input.size,
            };
            let live = (!input.deleted.is_empty()).then(|| undeleted(input.rows, &input.deleted));
            let expected = live.as_ref().map_or(input.rows as usize, Vec::len);
            let go_on = || !cancelled.load(Ordering::Relaxed);
            let copied = data_file::copy_rows(&self.log, &stored, &self.columns, live.as_deref(), &mut writer, go_on);
            match copied.await? {
                Some(copied) if copied == expected => {}
                Some(copied) => {
                    return Err(Error::operator(format!(
                        "{} has {copied} of the {expected} rows that the log says",
                        input.path
                    ))
                    .with_hint("`tributary snapshot` copies its table anew"));
                }
                None => return Ok(None),
            }
        }
        Ok(Some(Compacted {
            file: writer.finish().await?,
            inputs: self.inputs,
            mapped: self.mapped,
        }))
    }
}

impl Compacted {
    /// How many files have become one, of which size in bytes.
    pub fn sizes(&self) -> (usize, i64) {
        (self.inputs.len(), self.file.size)
    }
}

impl DeltaTable {
    /// What is worth compacting now: of all partitions, where most files become one.
    pub fn compaction(&self) -> Option<Compaction> {
        let mut partitions: BTreeMap<&Values, Vec<Weight>> = BTreeMap::new();
        for (number, file) in self.files.iter().enumerate() {
            if let Some(weight) = Weight::of(number, file, self.hidden(file)) {
                partitions.entry(&file.partition).or_default().push(weight);
            }
        }
        let table = partitions.values().flatten().map(Weight::live_bytes).sum();
        let chosen = partitions.values().filter_map(|files| choose(files, table));
        Some(self.compaction_of(&chosen.max_by_key(Vec::len)?))
    }

    /// Makes one file of files of one partition.
    fn compaction_of(&self, numbers: &[usize]) -> Compaction {
        let first = numbers.first().and_then(|number| self.files.get(*number));
        let inputs = numbers.iter().filter_map(|number| {
            let file = self.files.get(*number)?;
            Some(Input {
                path: file.path.clone(),
                size: file.size as u64,
                rows: file.rows,
                deleted: self.hidden_rows(file).cloned().unwrap_or_default(),
            })
        });
        let partition = first.map(|file| file.partition.clone()).unwrap_or_default();
        self.compaction_from(inputs.collect(), &self.whole_schema, partition)
    }

    fn compaction_from(&self, inputs: Vec<Input>, columns: &SchemaRef, partition: Values) -> Compaction {
        Compaction {
            log: self.log.clone(),
            format: self.file_format(),
            columns: columns.clone(),
            inputs,
            partition,
            mapped: self.shape.mapped,
        }
    }

    /// Makes a file of copied rows anew without some of them: their system columns
    /// are those of rows that are copied now.
    pub(super) async fn without(&self, file: &WrittenFile, dropped: RoaringBitmap) -> Result<WrittenFile> {
        let input = Input {
            path: file.path.clone(),
            size: file.size as u64,
            rows: file.rows,
            deleted: dropped,
        };
        let compaction = self.compaction_from(vec![input], &self.read_schema, file.partition.clone());
        let done = compaction.run(&AtomicBool::new(false)).await?;
        let done = done.ok_or_else(|| Error::bug("a file was not written to the end"))?;
        Ok(done.file)
    }

    /// Puts a compaction's file in the place of its inputs, as one version.
    /// Nothing else may be staged. Returns that version, or `None` if it came too
    /// late: what it has read is elsewhere now, or columns have got ids meanwhile.
    pub async fn take_compacted(&mut self, done: &Compacted) -> Result<Option<u64>> {
        if self.has_staged {
            return Err(Error::bug("a compaction was committed beside staged changes"));
        }
        if done.mapped != self.shape.mapped {
            return Ok(None);
        }
        loop {
            // Rows of another writer that doubled ours have died since.
            let mut files = self.files.iter();
            let data_change = files.any(|file| !file.dead().is_empty() || !file.born().is_empty());
            let told = self.tell().await?;
            let Some((mut file, replaced)) = self.carry_over(done)? else {
                return Ok(None);
            };
            for number in &replaced {
                self.files[*number].removed = true;
            }
            file.dirty = self.hidden(&file) > 0;
            let number = self.place(file) as usize;
            let rewritten = self.write_anew().await?;
            let vectors = self.write_vectors().await?;
            let mut actions = self.file_actions(&vectors, data_change);
            if data_change {
                actions.extend(told);
                actions.push(self.record.txn_action(self.batch_number));
            }
            actions.push(self.record.domain_action());
            failpoint::reach("optimize.files");
            if self.put("OPTIMIZE", actions).await? == Commit::Committed {
                failpoint::reach("optimize.put");
                // Before the index is saved as one that knows the file.
                if self.indexed && !rewritten && self.files[number].live_rows() > 0 {
                    self.index_rows(&[number]).await?;
                }
                self.settle(&vectors);
                return Ok(Some(self.version));
            }
            if rewritten {
                // The index knows its rows in a file that is not to be.
                return Err(self.beside("a compaction"));
            }
            self.files[number] = DataFile::gone();
            for number in replaced {
                self.files[number].removed = false;
            }
            self.absorb().await?;
        }
    }

    /// Writes files with dead rows anew, in a table whose readers know no
    /// deletion vectors. Returns whether there were any.
    pub(super) async fn write_anew(&mut self) -> Result<bool> {
        if self.shape.has_vectors() {
            return Ok(false);
        }
        let touched = |file: &DataFile| self.stays(file) && self.hidden(file) > 0;
        let mut numbers: Vec<usize> = (0..self.files.len()).filter(|n| touched(&self.files[*n])).collect();
        numbers.sort_by_key(|number| self.files[*number].partition.clone());
        let rewritten = !numbers.is_empty();
        while !numbers.is_empty() {
            // Small ones of a partition become one.
            let mut bytes = 0;
            let together = numbers.iter().take_while(|number| {
                let file = &self.files[**number];
                let fits = bytes < INPUT_BYTES && file.partition == self.files[numbers[0]].partition;
                bytes += file.size as u64;
                fits
            });
            let count = together.count();
            let now: Vec<usize> = numbers.drain(..count).collect();
            let done = self.compaction_of(&now).run(&AtomicBool::new(false)).await?;
            let done = done.ok_or_else(|| Error::bug("files were not written to the end"))?;
            for number in now {
                self.files[number].removed = true;
                self.files[number].rewritten = true;
            }
            let number = self.place(DataFile::written(done.file)) as usize;
            if self.indexed {
                self.index_rows(&[number]).await?;
            }
        }
        Ok(rewritten)
    }

    /// The output with what has died in its inputs since, and the inputs that
    /// are still there. `None` if rows would be there twice.
    fn carry_over(&self, done: &Compacted) -> Result<Option<(DataFile, Vec<usize>)>> {
        let mut file = DataFile::written(done.file.clone());
        let mut replaced = Vec::new();
        let mut first = 0_u32;
        for input in &done.inputs {
            let live = input.rows - input.deleted.len() as u32;
            let now = self
                .files
                .iter()
                .position(|file| !file.removed && file.committed && file.path == input.path);
            match now.and_then(|number| Some((number, self.files.get(number)?))) {
                Some((number, now)) => {
                    for row in (&now.deleted - &input.deleted).iter() {
                        let dead_before = input.deleted.rank(row) as u32;
                        file.deleted.insert(first + row - dead_before);
                    }
                    replaced.push(number);
                }
                // No vector can hide them.
                None if self.shape.mode.is_history() => return Ok(None),
                // All its rows died, or live elsewhere.
                None => {
                    file.deleted.insert_range(first..first + live);
                }
            }
            first += live;
        }
        if first != file.rows {
            return Err(Error::bug("a compaction lost rows"));
        }
        Ok(Some((file, replaced)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn live(files: &[Weight]) -> u64 {
        files.iter().map(Weight::live_bytes).sum()
    }

    fn weight(number: usize, (bytes, rows, dead): (u64, u64, u64)) -> Weight {
        Weight {
            number,
            bytes,
            rows,
            dead,
            vector_bytes: 0,
        }
    }

    fn weights(files: &[(u64, u64, u64)]) -> Vec<Weight> {
        files.iter().enumerate().map(|(n, file)| weight(n, *file)).collect()
    }

    /// Files by bytes, rows and dead rows.
    fn check(files: &[(u64, u64, u64)], expected: Option<&[usize]>) {
        let weights = weights(files);
        assert_eq!(choose(&weights, live(&weights)).as_deref(), expected, "{files:?}");
    }

    #[test]
    fn enough_small_files_become_one() {
        let small = (100 << 10, 1000, 0);
        check(&[small; 7], None);
        check(&[small; 8], Some(&[0, 1, 2, 3, 4, 5, 6, 7]));
        // Smaller ones go along, full ones stay.
        let mut files = vec![(40 * MIB, 100_000, 0), (1000, 10, 0)];
        files.extend([small; 8]);
        check(&files, Some(&[1, 2, 3, 4, 5, 6, 7, 8, 9]));
        check(&[(40 * MIB, 100_000, 0); 50], None);
        // So do larger ones of at most twice what is there by then.
        let mut files = vec![(3 * MIB, 30_000, 0), (MIB, 10_000, 0)];
        files.extend([small; 6]);
        check(&files, Some(&[0, 1, 2, 3, 4, 5, 6, 7]));
        files[0].0 = 4 * MIB;
        check(&files, Some(&[1, 2, 3, 4, 5, 6, 7]));
    }

    #[test]
    fn worn_files_are_written_anew() {
        check(&[(40 * MIB, 1000, 99), (40 * MIB, 1000, 50)], None);
        check(&[(40 * MIB, 1000, 100), (40 * MIB, 1000, 50)], Some(&[0]));
        // The most worn first.
        let mut files = vec![(100 * MIB, 1000, 100); 3];
        files.push((100 * MIB, 1000, 900));
        check(&files, Some(&[3]));
        // In a small table sooner, with small files that make it a quarter larger at most.
        check(&[(20 * MIB, 1000, 49), (20 * MIB, 1000, 20)], None);
        check(&[(20 * MIB, 1000, 50), (20 * MIB, 1000, 20)], Some(&[0]));
        let files = [
            (20 * MIB, 1000, 50),
            (MIB, 1000, 0),
            (2 * MIB, 1000, 0),
            (3 * MIB, 1000, 0),
        ];
        check(&files, Some(&[0, 1, 2]));
        // What is nearly nothing waits for others.
        check(&[(10 << 10, 100, 90)], None);
    }

    #[test]
    fn a_file_is_written_anew_once_its_vectors_took_as_much() {
        let mut files = weights(&[(40 * MIB, 1_000_000, 1000), (40 * MIB, 1_000_000, 1000)]);
        files[1].vector_bytes = 40 * MIB - 1;
        assert_eq!(choose(&files, live(&files)), None);
        files[1].vector_bytes += 1;
        assert_eq!(choose(&files, live(&files)), Some(vec![1]));
    }

    /// Whatever is added, files stay few, and each byte is written a few times.
    #[test]
    fn files_stay_few_and_rewrites_cheap() {
        let mut files: Vec<Weight> = Vec::new();
        let (mut written, mut most, added) = (0, 0, 20_000);
        for number in 0..added {
            let bytes = 50 << 10;
            files.push(weight(number, (bytes, 500, 0)));
            written += bytes;
            while let Some(chosen) = choose(&files, live(&files)) {
                let taken: Vec<Weight> = files.extract_if(.., |file| chosen.contains(&file.number)).collect();
                let bytes: u64 = taken.iter().map(|file| file.bytes).sum();
                written += bytes;
                let rows = taken.iter().map(|file| file.rows).sum();
                files.push(weight(taken[0].number, (bytes, rows, 0)));
            }
            let full = files.iter().filter(|file| file.bytes >= FULL_BYTES).count();
            most = most.max(files.len() - full);
        }
        let ratio = written as f64 / (added as u64 * (50 << 10)) as f64;
        assert!(most < SMALL_FILES, "{most} files");
        assert!(ratio < 6.5, "{ratio}");
    }

    /// Rows that die anywhere cost what they cost at the best moment to write their file
    /// anew, or at most twice of it.
    #[test]
    fn vectors_and_new_files_cost_alike() {
        let (bytes, rows) = (40 * MIB, 1_400_000_u64);
        for dying in [2, 20, 200] {
            let (mut file, mut written, mut commits) = (weight(0, (bytes, rows, 0)), 0, 0);
            while choose(&[file], bytes * 10).is_none() {
                commits += 1;
                file.dead += dying;
                file.vector_bytes += 2 * file.dead;
            }
            written += bytes + file.vector_bytes;
            let cost = written as f64 / commits as f64;
            // Written anew every n commits, a file costs bytes / n and vectors of dying * n.
            let best = 2.0 * (bytes as f64 * dying as f64).sqrt();
            assert!(cost < best * 1.1, "{dying} a commit: {cost} for {best}");
        }
    }
}
