//! What a folder of runs is an index of: one small file, replaced as a whole.
//!
//! ```text
//! magic, format, length of the description, description (JSON),
//! one bitmap for each run (files named), one for each file (rows deleted), checksum
//! ```
//!
//! It is right about a file whatever has happened to the table since: a path is
//! never given twice, a data file never changes, and as long as the rows that
//! were deleted then still are, every other row has its entry in the runs. So an
//! older copy of the folder only means that more files have to be read.

use std::fs::{self, File};
use std::io::{self, Write};

use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::home::Folder;

pub(super) const MAGIC: &[u8; 8] = b"TRIBINDX";
/// The form that this program reads and writes; another one is built anew.
pub(super) const FORMAT: u32 = 1;
const HEADER: usize = 16;
const CHECKSUM: usize = 16;

/// Whose keys an index has. All of it has to fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The log's URL.
    pub log: String,
    /// `metaData.id`.
    pub table: String,
    pub pipeline: String,
    pub generation: u64,
    /// What the key is made of.
    pub key: String,
    pub exact: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunEntry {
    pub id: u64,
    /// The file's length in blocks.
    pub places: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileEntry {
    pub number: u32,
    pub path: String,
}

#[derive(Serialize, Deserialize)]
struct Description {
    identity: Identity,
    version: u64,
    seed: u64,
    runs: Vec<RunEntry>,
    files: Vec<FileEntry>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    pub identity: Identity,
    /// The version of the table that it was written at.
    pub version: u64,
    /// Of hashed keys.
    pub seed: u64,
    /// The oldest first, each with the numbers of files that it names.
    pub runs: Vec<(RunEntry, RoaringBitmap)>,
    /// Files all of whose rows are in the runs, but those deleted.
    pub files: Vec<(FileEntry, RoaringBitmap)>,
}

impl Manifest {
    pub fn encode(self) -> io::Result<Vec<u8>> {
        let (runs, names): (_, Vec<_>) = self.runs.into_iter().unzip();
        let (files, deleted): (_, Vec<_>) = self.files.into_iter().unzip();
        let description = serde_json::to_vec(&Description {
            identity: self.identity,
            version: self.version,
            seed: self.seed,
            runs,
            files,
        })?;
        let mut bytes = Vec::with_capacity(HEADER + description.len() + CHECKSUM);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        let length = u32::try_from(description.len()).map_err(io::Error::other)?;
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&description);
        for bitmap in names.iter().chain(&deleted) {
            bitmap.serialize_into(&mut bytes)?;
        }
        bytes.extend_from_slice(&xxh3_128(&bytes).to_le_bytes());
        Ok(bytes)
    }

    /// Errors: why the bytes are no manifest.
    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        const TORN: &str = "its manifest is torn";
        let (body, sum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(TORN)?;
        if xxh3_128(body).to_le_bytes() != *sum {
            return Err(TORN);
        }
        let (magic, body) = body.split_first_chunk::<8>().ok_or(TORN)?;
        let (format, body) = body.split_first_chunk::<4>().ok_or(TORN)?;
        if magic != MAGIC || *format != FORMAT.to_le_bytes() {
            return Err("its manifest has another format");
        }
        let (length, body) = body.split_first_chunk::<4>().ok_or(TORN)?;
        let (description, mut bitmaps) = body
            .split_at_checked(u32::from_le_bytes(*length) as usize)
            .ok_or(TORN)?;
        let description: Description = serde_json::from_slice(description).map_err(|_| TORN)?;
        let mut bitmap = || RoaringBitmap::deserialize_from(&mut bitmaps).map_err(|_| TORN);
        let runs = description.runs.into_iter().map(|run| Ok((run, bitmap()?)));
        let runs = runs.collect::<Result<_, &'static str>>()?;
        let files = description.files.into_iter().map(|file| Ok((file, bitmap()?)));
        Ok(Self {
            identity: description.identity,
            version: description.version,
            seed: description.seed,
            runs,
            files: files.collect::<Result<_, &'static str>>()?,
        })
    }

    /// Reads a folder's manifest, if it has one.
    ///
    /// Errors: why it is of no use.
    pub fn read(folder: &Folder) -> Result<Option<Self>, String> {
        match fs::read(folder.manifest()) {
            Ok(bytes) => Self::decode(&bytes).map(Some).map_err(str::to_owned),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("its manifest can't be read: {error}")),
        }
    }
}

/// Puts a manifest in the place of a folder's last one, durably. What it names
/// has to be durable already.
pub fn write(folder: &Folder, bytes: &[u8]) -> io::Result<()> {
    let (path, temporary) = (folder.manifest(), folder.dir().join("manifest.new"));
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, &path)?;
    File::open(folder.dir())?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_as_it_was_or_not_at_all() {
        let identity = Identity {
            log: "file:///lake/t/".into(),
            table: "id".into(),
            pipeline: "p".into(),
            generation: 3,
            key: "1:long".into(),
            exact: true,
        };
        let run = RunEntry { id: 7, places: 3 };
        let file = |number: u32| FileEntry {
            number,
            path: format!("part-{number}"),
        };
        let manifest = Manifest {
            identity,
            version: 12,
            seed: 5,
            runs: vec![(run, [1, 9].into_iter().collect())],
            files: vec![(file(1), (0..70_000).collect()), (file(9), RoaringBitmap::new())],
        };
        let bytes = manifest.clone().encode().expect("encode");
        assert_eq!(Manifest::decode(&bytes).expect("decode"), manifest);
        for length in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..length]).is_err());
        }
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            assert!(Manifest::decode(&flipped).is_err(), "byte {at}");
        }
        // A right checksum of anything else is no reason to panic either.
        for at in 0..bytes.len() - CHECKSUM {
            let mut other = bytes[..bytes.len() - CHECKSUM].to_vec();
            other[at] = other[at].wrapping_add(13);
            other.extend_from_slice(&xxh3_128(&other).to_le_bytes());
            let _ = Manifest::decode(&other);
        }
    }
}
