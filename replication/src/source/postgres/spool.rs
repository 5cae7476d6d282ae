//! Transactions whose changes the server sends before it is known whether they commit: kept here until they
//! end, in memory while they are small and in one file otherwise.
//!
//! The file has no name any more once it is open, so it goes with the process. It is made of extents, each of
//! one transaction; what a transaction leaves is taken by others.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use uuid::Uuid;

/// What a transaction takes of the file at a time.
const EXTENT: u64 = 256 << 10;
/// What a transaction gathers before it goes to the file.
const TAIL_MAX: usize = 256 << 10;
/// What all transactions gather before they go to the file.
const TAILS_MAX: usize = 4 << 20;
/// Of how many changes of hands is remembered where they were, in all transactions: 32 MiB.
const RUNS_MAX: usize = 2 << 20;
/// In front of each message: its length.
const LENGTH: usize = 4;

/// The changes of all transactions that are open.
#[derive(Default)]
pub struct Spool {
    /// Where the file is made.
    dir: PathBuf,
    /// What the file may take.
    extents_max: u64,
    file: Option<File>,
    /// What the file takes, in extents.
    extents: u64,
    free: Vec<u64>,
    open: HashMap<u32, Spooled>,
    /// The sum of all tails.
    gathered: usize,
    /// The number of all runs.
    runs: usize,
}

/// The messages of one transaction, one after the other.
#[derive(Default)]
struct Spooled {
    extents: Vec<u64>,
    /// How much is in the extents; what follows is the tail.
    flushed: u64,
    tail: Vec<u8>,
    /// Who made the changes from an offset on: the transaction or one of its subtransactions.
    runs: Vec<(u32, u64)>,
}

/// A transaction that has committed, read message by message.
pub struct Replay {
    extents: std::vec::IntoIter<u64>,
    /// How much is left to be read in the extents.
    flushed: u64,
    tail: Vec<u8>,
    bytes: Vec<u8>,
    /// Where the next message begins in `bytes`.
    at: usize,
}

impl Spool {
    pub fn new(dir: PathBuf, bytes_max: u64) -> Self {
        Self {
            dir,
            extents_max: bytes_max / EXTENT,
            ..Self::default()
        }
    }

    /// What the file holds, in bytes.
    pub fn bytes(&self) -> u64 {
        (self.extents - self.free.len() as u64) * EXTENT
    }

    /// Adds a message of a transaction that `xid`, which is it or one of its subtransactions, has made.
    ///
    /// Errors: the file can't be written, or takes all that it may; or too many subtransactions.
    pub fn append(&mut self, transaction: u32, xid: u32, message: &[u8]) -> io::Result<()> {
        let length = u32::try_from(message.len()).map_err(io::Error::other)?;
        let spooled = self.open.entry(transaction).or_default();
        if spooled.runs.last().is_none_or(|(last, _)| *last != xid) {
            if self.runs >= RUNS_MAX {
                return Err(io::ErrorKind::StorageFull.into());
            }
            spooled.runs.push((xid, spooled.len()));
            self.runs += 1;
        }
        spooled.tail.extend_from_slice(&length.to_be_bytes());
        spooled.tail.extend_from_slice(message);
        self.gathered += LENGTH + message.len();
        if spooled.tail.len() >= TAIL_MAX {
            self.flush(transaction)?;
        }
        if self.gathered >= TAILS_MAX {
            for transaction in self.open.keys().copied().collect::<Vec<_>>() {
                self.flush(transaction)?;
            }
        }
        Ok(())
    }

    /// Forgets what `xid` has done, with all that it began: all of the transaction, or one of its subtransactions
    /// and those within.
    pub fn abort(&mut self, transaction: u32, xid: u32) {
        if transaction == xid {
            if let Some(spooled) = self.open.remove(&transaction) {
                self.leave(spooled);
            }
            return;
        }
        let Some(spooled) = self.open.get_mut(&transaction) else {
            return;
        };
        // While a subtransaction runs, nobody else of its transaction does but those within it, whose ids are later.
        // So they are what the end is made of.
        let mut end = spooled.len();
        while let Some((_, from)) = spooled.runs.pop_if(|(by, _)| !precedes(*by, xid)) {
            self.runs -= 1;
            end = from;
        }
        let tail = spooled.tail.len();
        match end.checked_sub(spooled.flushed) {
            Some(kept) => spooled.tail.truncate(kept as usize),
            None => {
                spooled.tail.clear();
                spooled.flushed = end;
                let kept = end.div_ceil(EXTENT) as usize;
                self.free
                    .extend(spooled.extents.drain(kept.min(spooled.extents.len())..));
            }
        }
        self.gathered -= tail - spooled.tail.len();
        self.shrink();
    }

    /// The subtransactions whose changes are kept.
    pub fn subtransactions(&self, transaction: u32) -> Vec<u32> {
        let runs = self.open.get(&transaction).map(|spooled| spooled.runs.as_slice());
        let mut authors: Vec<u32> = runs.unwrap_or_default().iter().map(|(by, _)| *by).collect();
        authors.sort_unstable();
        authors.dedup();
        authors.retain(|by| *by != transaction);
        authors
    }

    /// Takes what a transaction has done, to be read.
    pub fn take(&mut self, transaction: u32) -> Replay {
        let spooled = self.open.remove(&transaction).unwrap_or_default();
        self.gathered -= spooled.tail.len();
        self.runs -= spooled.runs.len();
        Replay {
            extents: spooled.extents.into_iter(),
            flushed: spooled.flushed,
            tail: spooled.tail,
            bytes: Vec::new(),
            at: 0,
        }
    }

    /// Moves what a transaction has gathered to the file.
    fn flush(&mut self, transaction: u32) -> io::Result<()> {
        let Some(spooled) = self.open.get_mut(&transaction) else {
            return Ok(());
        };
        if self.file.is_none() && !spooled.tail.is_empty() {
            fs::create_dir_all(&self.dir)?;
            let path = self.dir.join(format!("spill-{}", Uuid::new_v4()));
            let file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            fs::remove_file(&path)?;
            self.file = Some(file);
        }
        let Some(file) = &self.file else { return Ok(()) };
        let mut rest = spooled.tail.as_slice();
        while !rest.is_empty() {
            let (extent, within) = (spooled.flushed / EXTENT, spooled.flushed % EXTENT);
            let extent = match spooled.extents.get(extent as usize) {
                Some(extent) => *extent,
                None => {
                    let extent = match self.free.pop() {
                        Some(extent) => extent,
                        None if self.extents < self.extents_max => {
                            self.extents += 1;
                            self.extents - 1
                        }
                        None => return Err(io::ErrorKind::StorageFull.into()),
                    };
                    spooled.extents.push(extent);
                    extent
                }
            };
            let (now, later) = rest.split_at(rest.len().min((EXTENT - within) as usize));
            file.write_all_at(now, extent * EXTENT + within)?;
            spooled.flushed += now.len() as u64;
            self.gathered -= now.len();
            rest = later;
        }
        spooled.tail = Vec::new();
        Ok(())
    }

    /// Takes back what a transaction had.
    fn leave(&mut self, spooled: Spooled) {
        self.gathered -= spooled.tail.len();
        self.runs -= spooled.runs.len();
        self.free.extend(spooled.extents);
        self.shrink();
    }

    /// Gives the disk back once nobody has any of it.
    fn shrink(&mut self) {
        if self.extents > 0 && self.free.len() as u64 == self.extents {
            self.file = None;
            self.free.clear();
            self.extents = 0;
        }
    }
}

impl Spooled {
    fn len(&self) -> u64 {
        self.flushed + self.tail.len() as u64
    }
}

impl Replay {
    /// The next message in what has been read; `None` when that is used up.
    pub fn buffered(&mut self) -> Option<&[u8]> {
        let (length, rest) = self.bytes.get(self.at..)?.split_first_chunk::<LENGTH>()?;
        let length = u32::from_be_bytes(*length) as usize;
        if rest.len() < length {
            return None;
        }
        let begin = self.at + LENGTH;
        self.at = begin + length;
        self.bytes.get(begin..self.at)
    }

    /// Whether all of it has been read.
    pub fn is_done(&self) -> bool {
        self.flushed == 0 && self.tail.is_empty() && self.at == self.bytes.len()
    }

    /// Reads on, and gives back what that took.
    pub fn fill(&mut self, spool: &mut Spool) -> io::Result<()> {
        self.bytes.drain(..self.at);
        self.at = 0;
        if self.flushed == 0 {
            if self.tail.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.bytes.append(&mut self.tail);
            return Ok(());
        }
        let (Some(file), Some(extent)) = (&spool.file, self.extents.next()) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let (begin, length) = (self.bytes.len(), EXTENT.min(self.flushed));
        self.bytes.resize(begin + length as usize, 0);
        file.read_exact_at(self.bytes.get_mut(begin..).unwrap_or_default(), extent * EXTENT)?;
        self.flushed -= length;
        spool.free.push(extent);
        spool.shrink();
        Ok(())
    }
}

/// Whether a transaction id was given before another: they are counted in a circle.
/// Spec: `TransactionIdPrecedes`.
fn precedes(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that is not there yet.
    fn dir() -> PathBuf {
        std::env::temp_dir().join(format!("tributary-spool-{}", Uuid::new_v4()))
    }

    fn read(spool: &mut Spool, transaction: u32) -> Vec<Vec<u8>> {
        let mut replay = spool.take(transaction);
        let mut messages = Vec::new();
        while !replay.is_done() {
            match replay.buffered() {
                Some(message) => messages.push(message.to_vec()),
                None => replay.fill(spool).expect("more"),
            }
        }
        messages
    }

    #[test]
    fn random_transactions_come_back_as_they_were() {
        let dir = dir();
        let mut spool = Spool::new(dir.clone(), 64 << 20);
        let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
        let mut random = |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 8) % below
        };
        // By transaction: the subtransactions that are open, each with how many messages were there before it; and
        // the messages.
        type Made = (Vec<(u32, usize)>, Vec<Vec<u8>>);
        let mut model: HashMap<u32, Made> = HashMap::new();
        // Ids are counted past the end of the circle meanwhile.
        let mut next_id = u32::MAX - 4_000;
        let mut spilled = 0;
        for round in 0..60_000_u64 {
            let picked = model
                .keys()
                .copied()
                .min_by_key(|xid| xid.wrapping_mul(round as u32 | 1));
            match (random(1000), picked) {
                (0..4, _) | (_, None) if model.len() < 20 => {
                    next_id = next_id.wrapping_add(1);
                    model.insert(next_id, Made::default());
                }
                (4..40, Some(xid)) => {
                    next_id = next_id.wrapping_add(1);
                    let (open, made) = model.get_mut(&xid).expect("open");
                    open.push((next_id, made.len()));
                }
                // Released: what it did is its parent's from now on, and aborted with that.
                (40..60, Some(xid)) => drop(model.get_mut(&xid).expect("open").0.pop()),
                (60..75, Some(xid)) => {
                    let (open, made) = model.get_mut(&xid).expect("open");
                    if let Some((sub, before)) = open.pop() {
                        made.truncate(before);
                        spool.abort(xid, sub);
                    }
                }
                (75..76, Some(xid)) => {
                    model.remove(&xid);
                    spool.abort(xid, xid);
                }
                (76..78, Some(xid)) => {
                    let (_, made) = model.remove(&xid).expect("open");
                    assert!(read(&mut spool, xid) == made, "transaction {xid} in round {round}");
                }
                (_, Some(xid)) => {
                    let (open, made) = model.get_mut(&xid).expect("open");
                    let by = open.last().map_or(xid, |(sub, _)| *sub);
                    let size = if random(2_000) == 0 { 600_000 } else { random(3_000) };
                    let message = vec![round as u8; size as usize];
                    spool.append(xid, by, &message).expect("room");
                    made.push(message);
                }
                _ => {}
            }
            spilled = spilled.max(spool.bytes());
            assert!(spool.gathered <= TAILS_MAX + 1_000_000);
        }
        assert!(spilled > 1 << 20, "{spilled}");
        for xid in model.keys().copied().collect::<Vec<_>>() {
            let (_, made) = model.remove(&xid).expect("open");
            assert!(read(&mut spool, xid) == made);
        }
        assert_eq!((spool.bytes(), spool.extents, spool.gathered, spool.runs), (0, 0, 0, 0));
        assert_eq!(fs::read_dir(&dir).expect("folder").count(), 0, "the file has no name");
        fs::remove_dir(dir).expect("clean");
    }

    #[test]
    fn a_full_file_is_an_error_until_somebody_leaves() {
        let dir = dir();
        let mut spool = Spool::new(dir.clone(), 2 * EXTENT);
        let message = vec![7; TAIL_MAX];
        spool
            .append(1, 1, &message)
            .expect("an extent, and a little of another");
        let full = spool.append(2, 2, &message).expect_err("full");
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        spool.abort(1, 1);
        spool.abort(2, 2);
        spool.append(3, 3, &message).expect("room");
        assert_eq!(read(&mut spool, 3), [message]);
        fs::remove_dir(dir).expect("clean");
    }

    #[test]
    fn what_is_small_needs_no_file() {
        let dir = dir();
        let mut spool = Spool::new(dir.clone(), 0);
        spool.append(1, 1, b"one").expect("in memory");
        spool.append(1, 2, b"two").expect("in memory");
        spool.abort(1, 2);
        assert_eq!(read(&mut spool, 1), [b"one"]);
        assert_eq!(read(&mut spool, 1), [] as [Vec<u8>; 0]);
        assert!(!dir.exists());
    }
}
