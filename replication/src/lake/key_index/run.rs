//! A sorted run: a file of keys in order, each with the location of its row.
//!
//! ```text
//! data block × 509 (254 of hashes), index block, data block × 509, index block, …, footer
//! ```
//!
//! All blocks are 4 KiB and end with a checksum that is seeded by the run's id
//! and the block's place, so that no block passes for another, of this file or
//! of an older copy. A data block has its first key, the rest as differences
//! from it, and the locations as differences from its least file and row; each
//! of the three in as few bits as the block needs, but all in equally many, so
//! that a look-up is a binary search that unpacks what it touches. An index
//! block has the first keys of the data blocks before it; in memory are only
//! the first keys of those groups, 8 KiB for 100 million entries.
//!
//! Blocks are read by position: nothing is mapped, so a page that can't be
//! read is an error and not the end of the process.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use roaring::RoaringBitmap;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Location;
use super::filter::Filter;
use super::home::{BlockCache, Memory};
use crate::key::Key;

pub const BLOCK: usize = 4096;
pub type Block = [u8; BLOCK];

/// Where a data block's packed bits begin, and an index block's keys.
const HEADER: usize = 32;
const CHECKSUM: usize = 8;
pub(super) const PAYLOAD: usize = BLOCK - CHECKSUM;
const MAGIC: &[u8; 8] = b"TRIBKEYS";
/// The file form that this program reads and writes.
const FORMAT: u32 = 1;
/// Blocks read or written at a time when a whole run is.
const BLOCKS_AT_ONCE: usize = 16;

/// Why a run can't be used.
#[derive(Debug)]
pub enum Fault {
    /// The file is not what was written.
    Damaged(&'static str),
    Io(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Fault::Damaged("it is too short"),
            _ => Fault::Io(error),
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Damaged(what) => f.write_str(what),
            Fault::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Fault {}

/// Data blocks that share an index block.
fn group_blocks(exact: bool) -> u64 {
    ((PAYLOAD - HEADER) / key_bytes(exact)) as u64
}

fn key_bytes(exact: bool) -> usize {
    if exact { 8 } else { 16 }
}

/// The place of a data block in the file, in blocks.
fn place(block: u64, exact: bool) -> u64 {
    block + block / group_blocks(exact)
}

pub(super) fn seal(block: &mut Block, id: u64, place: u64) {
    let sum = xxh3_64_with_seed(&block[..PAYLOAD], id.wrapping_add(place));
    block[PAYLOAD..].copy_from_slice(&sum.to_le_bytes());
}

fn is_sealed(block: &Block, id: u64, place: u64) -> bool {
    let sum = xxh3_64_with_seed(&block[..PAYLOAD], id.wrapping_add(place));
    block[PAYLOAD..] == sum.to_le_bytes()
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    array(bytes, at).map_or(0, u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    array(bytes, at).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    array(bytes, at).map_or(0, u64::from_le_bytes)
}

fn u128_at(bytes: &[u8], at: usize) -> u128 {
    array(bytes, at).map_or(0, u128::from_le_bytes)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn bit_length(value: u128) -> usize {
    128 - value.leading_zeros() as usize
}

/// Reads up to 64 bits at a bit position.
fn bits(block: &Block, at: usize, width: usize) -> u64 {
    if width == 0 {
        return 0;
    }
    let (byte, shift) = (at / 8, at % 8);
    let mut value = u64_at(block, byte) >> shift;
    if shift + width > 64 {
        value |= u64::from(block.get(byte + 8).copied().unwrap_or(0)) << (64 - shift);
    }
    value & (u64::MAX >> (64 - width))
}

fn wide_bits(block: &Block, at: usize, width: usize) -> u128 {
    let low = u128::from(bits(block, at, width.min(64)));
    match width {
        0..=64 => low,
        _ => low | u128::from(bits(block, at + 64, width - 64)) << 64,
    }
}

/// Writes up to 64 bits at a bit position of zeroes.
fn put_bits(block: &mut Block, at: usize, value: u64, width: usize) {
    if width == 0 {
        return;
    }
    let (byte, shift) = (at / 8, at % 8);
    let word = u64_at(block.as_slice(), byte) | value << shift;
    put(block, byte, &word.to_le_bytes());
    if shift + width > 64 {
        block[byte + 8] |= (value >> (64 - shift)) as u8;
    }
}

fn put_wide_bits(block: &mut Block, at: usize, value: u128, width: usize) {
    put_bits(block, at, value as u64, width.min(64));
    if width > 64 {
        put_bits(block, at + 64, (value >> 64) as u64, width - 64);
    }
}

/// The header of a data block.
#[derive(Clone, Copy)]
struct Header {
    first: Key,
    file: u32,
    row: u32,
    count: usize,
    key_bits: usize,
    file_bits: usize,
    row_bits: usize,
}

impl Header {
    fn read(block: &Block) -> Self {
        Self {
            first: u128_at(block, 0),
            file: u32_at(block, 16),
            row: u32_at(block, 20),
            count: usize::from(u16_at(block, 24)),
            // Whatever the bytes, nothing panics.
            key_bits: usize::from(block[26]).min(128),
            file_bits: usize::from(block[27]).min(32),
            row_bits: usize::from(block[28]).min(32),
        }
    }

    fn write(&self, block: &mut Block) {
        put(block, 0, &self.first.to_le_bytes());
        put(block, 16, &self.file.to_le_bytes());
        put(block, 20, &self.row.to_le_bytes());
        put(block, 24, &(self.count as u16).to_le_bytes());
        block[26] = self.key_bits as u8;
        block[27] = self.file_bits as u8;
        block[28] = self.row_bits as u8;
    }

    fn bits(&self) -> usize {
        self.count * (self.key_bits + self.file_bits + self.row_bits)
    }

    fn key_at(&self, entry: usize) -> usize {
        8 * HEADER + entry * self.key_bits
    }

    fn file_at(&self, entry: usize) -> usize {
        self.key_at(self.count) + entry * self.file_bits
    }

    fn row_at(&self, entry: usize) -> usize {
        self.file_at(self.count) + entry * self.row_bits
    }

    fn key(&self, block: &Block, entry: usize) -> Key {
        self.first
            .wrapping_add(wide_bits(block, self.key_at(entry), self.key_bits))
    }

    fn location(&self, block: &Block, entry: usize) -> Location {
        let file = bits(block, self.file_at(entry), self.file_bits) as u32;
        let row = bits(block, self.row_at(entry), self.row_bits) as u32;
        Location::new(self.file.wrapping_add(file), self.row.wrapping_add(row))
    }
}

/// Looks a key up in a data block.
fn find(block: &Block, key: Key) -> Option<Location> {
    let header = Header::read(block);
    let wanted = key.checked_sub(header.first)?;
    let (mut low, mut high) = (0, header.count);
    while low < high {
        let middle = usize::midpoint(low, high);
        match wide_bits(block, header.key_at(middle), header.key_bits).cmp(&wanted) {
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Equal => return Some(header.location(block, middle)),
            std::cmp::Ordering::Greater => high = middle,
        }
    }
    None
}

/// Gathers entries of one data block.
#[derive(Default)]
struct Builder {
    entries: Vec<(Key, Location)>,
    files: (u32, u32),
    rows: (u32, u32),
}

impl Builder {
    /// Takes an entry, unless the block is full.
    fn push(&mut self, key: Key, location: Location) -> bool {
        let (file, row) = (location.file(), location.row());
        let (files, rows) = match self.entries.is_empty() {
            true => ((file, file), (row, row)),
            false => (
                (self.files.0.min(file), self.files.1.max(file)),
                (self.rows.0.min(row), self.rows.1.max(row)),
            ),
        };
        let count = self.entries.len() + 1;
        let header = self.header(files, rows, count, key);
        if header.bits() > 8 * (PAYLOAD - HEADER) || count > usize::from(u16::MAX) {
            return false;
        }
        (self.files, self.rows) = (files, rows);
        self.entries.push((key, location));
        true
    }

    fn header(&self, files: (u32, u32), rows: (u32, u32), count: usize, last: Key) -> Header {
        let first = self.entries.first().map_or(last, |(key, _)| *key);
        Header {
            first,
            file: files.0,
            row: rows.0,
            count,
            key_bits: bit_length(last - first),
            file_bits: bit_length(u128::from(files.1 - files.0)),
            row_bits: bit_length(u128::from(rows.1 - rows.0)),
        }
    }

    fn encode(&mut self) -> Block {
        let mut block = [0; BLOCK];
        let last = self.entries.last().map_or(0, |(key, _)| *key);
        let header = self.header(self.files, self.rows, self.entries.len(), last);
        header.write(&mut block);
        for (i, (key, location)) in self.entries.drain(..).enumerate() {
            put_wide_bits(&mut block, header.key_at(i), key - header.first, header.key_bits);
            let (file, row) = (location.file() - header.file, location.row() - header.row);
            put_bits(&mut block, header.file_at(i), file.into(), header.file_bits);
            put_bits(&mut block, header.row_at(i), row.into(), header.row_bits);
        }
        block
    }
}

/// The numbers of files that entries name.
#[derive(Default)]
struct Names {
    words: Vec<u64>,
    last: Option<u32>,
}

impl Names {
    fn insert(&mut self, file: u32) {
        if self.last == Some(file) {
            return;
        }
        self.last = Some(file);
        let word = file as usize / 64;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (file % 64);
    }

    fn bitmap(&self) -> RoaringBitmap {
        let numbers = self.words.iter().zip(0_u32..).flat_map(|(word, i)| {
            (0..64_u32)
                .filter(move |bit| word >> bit & 1 == 1)
                .map(move |bit| i * 64 + bit)
        });
        numbers.collect()
    }
}

/// Writes a run, entry by entry.
pub struct RunWriter {
    file: File,
    id: u64,
    exact: bool,
    buffer: Vec<u8>,
    builder: Builder,
    /// Blocks given to `buffer` or the file.
    written: u64,
    blocks: u64,
    entries: u64,
    /// First keys of the data blocks since the last index block.
    group: Vec<Key>,
    tops: Vec<Key>,
    least: Key,
    last: Option<Key>,
    names: Names,
    filter: Option<Filter>,
}

impl RunWriter {
    /// `entries` is how many there will be at most; it decides whether the run
    /// gets a filter.
    pub fn create(path: &Path, id: u64, exact: bool, entries: u64, memory: &Arc<Memory>) -> Result<Self, Fault> {
        let file = File::options().read(true).write(true).create_new(true).open(path)?;
        Ok(Self {
            file,
            id,
            exact,
            buffer: Vec::with_capacity(BLOCKS_AT_ONCE * BLOCK),
            builder: Builder::default(),
            written: 0,
            blocks: 0,
            entries: 0,
            group: Vec::new(),
            tops: Vec::new(),
            least: 0,
            last: None,
            names: Names::default(),
            filter: Filter::for_entries(entries, memory),
        })
    }

    /// The last key that was given.
    pub fn last(&self) -> Option<Key> {
        self.last
    }

    /// Keys have to ascend.
    pub fn push(&mut self, key: Key, location: Location) -> Result<(), Fault> {
        if !self.builder.push(key, location) {
            self.end_block()?;
            self.builder.push(key, location);
        }
        if self.last.is_none() {
            self.least = key;
        }
        self.last = Some(key);
        self.entries += 1;
        self.names.insert(location.file());
        if let Some(filter) = &mut self.filter {
            filter.insert(key);
        }
        Ok(())
    }

    fn end_block(&mut self) -> Result<(), Fault> {
        let Some((first, _)) = self.builder.entries.first().copied() else {
            return Ok(());
        };
        if self.group.is_empty() {
            self.tops.push(first);
        }
        self.group.push(first);
        self.blocks += 1;
        let block = self.builder.encode();
        self.write(block)?;
        if self.group.len() as u64 == group_blocks(self.exact) {
            self.end_group()?;
        }
        Ok(())
    }

    fn end_group(&mut self) -> Result<(), Fault> {
        if self.group.is_empty() {
            return Ok(());
        }
        let mut block = [0; BLOCK];
        put(&mut block, 0, &(self.group.len() as u16).to_le_bytes());
        let bytes = key_bytes(self.exact);
        for (i, key) in self.group.drain(..).enumerate() {
            put(&mut block, HEADER + i * bytes, &key.to_le_bytes()[..bytes]);
        }
        self.write(block)
    }

    fn write(&mut self, mut block: Block) -> Result<(), Fault> {
        seal(&mut block, self.id, self.written);
        self.written += 1;
        self.buffer.extend_from_slice(&block);
        if self.buffer.len() >= BLOCKS_AT_ONCE * BLOCK {
            self.file.write_all(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Ends the file; it is durable only after [`Run::sync`].
    pub fn finish(mut self) -> Result<Run, Fault> {
        self.end_block()?;
        self.end_group()?;
        let mut footer = [0; BLOCK];
        put(&mut footer, 0, MAGIC);
        put(&mut footer, 8, &FORMAT.to_le_bytes());
        footer[12] = u8::from(self.exact);
        put(&mut footer, 16, &self.entries.to_le_bytes());
        put(&mut footer, 24, &self.blocks.to_le_bytes());
        put(&mut footer, 32, &self.least.to_le_bytes());
        put(&mut footer, 48, &self.last.unwrap_or(0).to_le_bytes());
        self.write(footer)?;
        self.file.write_all(&self.buffer)?;
        self.tops.shrink_to_fit();
        Ok(Run {
            file: self.file,
            id: self.id,
            exact: self.exact,
            entries: self.entries,
            blocks: self.blocks,
            places: self.written,
            least: self.least,
            greatest: self.last.unwrap_or(0),
            tops: self.tops,
            names: self.names.bitmap(),
            filter: self.filter,
            synced: AtomicBool::new(false),
        })
    }
}

/// A run that is whole; it never changes.
pub struct Run {
    file: File,
    pub id: u64,
    exact: bool,
    pub entries: u64,
    /// Data blocks.
    blocks: u64,
    /// All blocks.
    pub places: u64,
    least: Key,
    greatest: Key,
    /// The first key of each group.
    tops: Vec<Key>,
    /// The numbers of the files that entries name.
    pub names: RoaringBitmap,
    filter: Option<Filter>,
    synced: AtomicBool,
}

impl Run {
    /// Opens a run that was written earlier, as `names` and `places` describe
    /// it. Its index blocks are checked now, its data blocks when they are read;
    /// those of a run that gets a filter are read now.
    pub fn open(
        path: &Path,
        id: u64,
        exact: bool,
        places: u64,
        names: RoaringBitmap,
        memory: &Arc<Memory>,
    ) -> Result<Self, Fault> {
        let file = File::open(path)?;
        if places == 0 || places.checked_mul(BLOCK as u64) != Some(file.metadata()?.len()) {
            return Err(Fault::Damaged("it has another length"));
        }
        let mut run = Self {
            file,
            id,
            exact,
            entries: 0,
            blocks: 0,
            places,
            least: 0,
            greatest: 0,
            tops: Vec::new(),
            names,
            filter: None,
            synced: AtomicBool::new(true),
        };
        let footer = run.read(places - 1)?;
        if footer[..8] != *MAGIC || u32_at(footer.as_slice(), 8) != FORMAT || footer[12] != u8::from(exact) {
            return Err(Fault::Damaged("it is not a run of this kind"));
        }
        run.entries = u64_at(footer.as_slice(), 16);
        run.blocks = u64_at(footer.as_slice(), 24);
        run.least = u128_at(footer.as_slice(), 32);
        run.greatest = u128_at(footer.as_slice(), 48);
        let groups = run.blocks.div_ceil(group_blocks(exact));
        if run.blocks.checked_add(groups + 1) != Some(places) {
            return Err(Fault::Damaged("it has another number of blocks"));
        }
        for group in 0..groups {
            let index = run.read(run.index_place(group))?;
            run.tops.push(index_key(&index, 0, exact));
        }
        if let Some(mut filter) = Filter::for_entries(run.entries, memory) {
            let mut cursor = Cursor::new(&run);
            while let Some((key, _)) = cursor.next()? {
                filter.insert(key);
            }
            run.filter = Some(filter);
        }
        Ok(run)
    }

    fn index_place(&self, group: u64) -> u64 {
        let last = self.blocks.min((group + 1) * group_blocks(self.exact));
        last + group
    }

    fn read(&self, at: u64) -> Result<Arc<Block>, Fault> {
        let mut block = [0; BLOCK];
        self.file.read_exact_at(&mut block, at * BLOCK as u64)?;
        if !is_sealed(&block, self.id, at) {
            return Err(Fault::Damaged("a block has another checksum"));
        }
        Ok(Arc::new(block))
    }

    fn cached(&self, at: u64, cache: &BlockCache) -> Result<Arc<Block>, Fault> {
        if let Some(block) = cache.get(self.id, at) {
            return Ok(block);
        }
        let block = self.read(at)?;
        cache.insert(self.id, at, block.clone());
        Ok(block)
    }

    /// Whether the run can have a key, as far as memory tells.
    fn may_have(&self, key: Key) -> bool {
        (self.least..=self.greatest).contains(&key) && self.filter.as_ref().is_none_or(|filter| filter.may_have(key))
    }

    /// Makes the file durable, if it is not yet.
    pub fn sync(&self) -> io::Result<()> {
        if !self.synced.load(Ordering::Acquire) {
            self.file.sync_all()?;
            self.synced.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// What it holds in memory, in bytes.
    pub fn bytes(&self) -> usize {
        let filter = self.filter.as_ref().map_or(0, Filter::bytes);
        filter + self.tops.capacity() * size_of::<Key>() + self.names.serialized_size()
    }

    pub fn file_bytes(&self) -> u64 {
        self.places * BLOCK as u64
    }
}

fn index_key(index: &Block, entry: usize, exact: bool) -> Key {
    match exact {
        true => u64_at(index, HEADER + 8 * entry).into(),
        false => u128_at(index, HEADER + 16 * entry),
    }
}

/// Looks keys up in one run. Ascending keys find the blocks of the last one.
pub struct Probe<'a> {
    run: &'a Run,
    memory: &'a Memory,
    /// By group and by number.
    index: Option<(u64, Arc<Block>)>,
    data: Option<(u64, Arc<Block>)>,
}

impl<'a> Probe<'a> {
    pub fn new(run: &'a Run, memory: &'a Memory) -> Self {
        Self {
            run,
            memory,
            index: None,
            data: None,
        }
    }

    pub fn get(&mut self, key: Key) -> Result<Option<Location>, Fault> {
        let run = self.run;
        if !run.may_have(key) {
            return Ok(None);
        }
        let Some(group) = run.tops.partition_point(|top| *top <= key).checked_sub(1) else {
            return Ok(None);
        };
        let group = group as u64;
        let index = match &self.index {
            Some((number, block)) if *number == group => block,
            _ => {
                let block = run.cached(run.index_place(group), &self.memory.index_blocks)?;
                &self.index.insert((group, block)).1
            }
        };
        let (mut low, mut high) = (0, usize::from(u16_at(index.as_slice(), 0)));
        while low < high {
            let middle = usize::midpoint(low, high);
            match index_key(index, middle, run.exact) <= key {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        let Some(block) = low.checked_sub(1) else {
            return Ok(None);
        };
        let block = group * group_blocks(run.exact) + block as u64;
        let data = match &self.data {
            Some((number, data)) if *number == block => data,
            _ => {
                let data = run.cached(place(block, run.exact), &self.memory.data_blocks)?;
                &self.data.insert((block, data)).1
            }
        };
        Ok(find(data, key))
    }
}

/// All entries of a run in order, read some blocks at a time.
pub struct Cursor<'a> {
    run: &'a Run,
    buffer: Vec<u8>,
    /// The place after the blocks in `buffer`.
    next: u64,
    /// The block of `buffer` that is unpacked next.
    at: usize,
    block: Box<Block>,
    header: Option<Header>,
    entry: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(run: &'a Run) -> Self {
        Self {
            run,
            buffer: Vec::new(),
            next: 0,
            at: 0,
            block: Box::new([0; BLOCK]),
            header: None,
            entry: 0,
        }
    }

    pub fn next(&mut self) -> Result<Option<(Key, Location)>, Fault> {
        loop {
            if let Some(header) = self.header
                && self.entry < header.count
            {
                let entry = self.entry;
                self.entry += 1;
                return Ok(Some((
                    header.key(&self.block, entry),
                    header.location(&self.block, entry),
                )));
            }
            if !self.next_block()? {
                return Ok(None);
            }
        }
    }

    /// Goes on to the next data block.
    fn next_block(&mut self) -> Result<bool, Fault> {
        let run = self.run;
        // The last block is the footer.
        let end = run.places - 1;
        let group = group_blocks(run.exact) + 1;
        loop {
            if self.at == self.buffer.len() / BLOCK {
                let blocks = (end - self.next).min(BLOCKS_AT_ONCE as u64);
                if blocks == 0 {
                    return Ok(false);
                }
                self.buffer.resize(blocks as usize * BLOCK, 0);
                run.file.read_exact_at(&mut self.buffer, self.next * BLOCK as u64)?;
                self.next += blocks;
                self.at = 0;
            }
            let at = self.next - (self.buffer.len() / BLOCK - self.at) as u64;
            let from = self.at * BLOCK;
            self.block.copy_from_slice(&self.buffer[from..from + BLOCK]);
            self.at += 1;
            if !is_sealed(&self.block, run.id, at) {
                return Err(Fault::Damaged("a block has another checksum"));
            }
            // Every group, and the data, ends with an index block.
            if at % group != group - 1 && at != end - 1 {
                self.header = Some(Header::read(&self.block));
                self.entry = 0;
                return Ok(true);
            }
        }
    }
}
