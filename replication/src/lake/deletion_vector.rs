//! Deletion vectors: encoding, packing into files, reading back.
//!
//! Only storage type `u` without a prefix and with an explicit offset is
//! written: some readers reject the others. Spec: Delta protocol, "Deletion
//! Vectors".

use bytes::Bytes;
use delta_kernel::KernelResult;
use delta_kernel::actions::deletion_vector_writer::{DeletionVector, StreamingDeletionVectorWriter};
use roaring::{RoaringBitmap, RoaringTreemap};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Result};

/// Readers fetch the whole file for each vector in it, so packs stay small.
const PACK_BYTES: usize = 256 << 10;

/// The `deletionVector` of an `add` or `remove`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub storage_type: String,
    pub path_or_inline_dv: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<i32>,
    pub size_in_bytes: i32,
    pub cardinality: i64,
}

impl Descriptor {
    /// The vector's file, relative to the table; none for other storage types.
    pub fn path(&self) -> Option<String> {
        let (prefix, name) = self
            .path_or_inline_dv
            .split_at_checked(self.path_or_inline_dv.len().checked_sub(20)?)?;
        let bytes: [u8; 16] = z85::decode(name).ok()?.try_into().ok()?;
        let file = format!("deletion_vector_{}.bin", Uuid::from_bytes(bytes));
        let folder = if prefix.is_empty() {
            String::new()
        } else {
            format!("{prefix}/")
        };
        (self.storage_type == "u").then(|| folder + &file)
    }
}

/// A file of one or more vectors, to be put beside the data files.
pub struct Pack {
    /// Relative to the table.
    pub path: String,
    pub bytes: Bytes,
    /// In the order of the bitmaps given.
    pub descriptors: Vec<Descriptor>,
}

/// Packs bitmaps into files of at most about [`PACK_BYTES`]; the descriptors
/// of all packs, put together, are in the order of `bitmaps`.
pub fn pack(bitmaps: &[&RoaringBitmap]) -> Result<Vec<Pack>> {
    let mut packs = Vec::new();
    let mut rest = bitmaps;
    while !rest.is_empty() {
        let mut size = 0;
        let fits = rest
            .iter()
            .take_while(|bitmap| {
                let first = size == 0;
                size += bitmap.serialized_size();
                first || size <= PACK_BYTES
            })
            .count();
        let (now, later) = rest.split_at(fits);
        packs.push(pack_one(now)?);
        rest = later;
    }
    Ok(packs)
}

fn pack_one(bitmaps: &[&RoaringBitmap]) -> Result<Pack> {
    let uuid = Uuid::new_v4();
    let mut buffer = Vec::new();
    let mut descriptors = Vec::with_capacity(bitmaps.len());
    let mut writer = StreamingDeletionVectorWriter::new(&mut buffer);
    for bitmap in bitmaps {
        let written = writer
            .write_deletion_vector(Rows(bitmap))
            .map_err(|e| Error::bug("cannot encode a deletion vector").with_source(e))?;
        descriptors.push(Descriptor {
            storage_type: "u".to_owned(),
            path_or_inline_dv: z85::encode(uuid.as_bytes()),
            offset: Some(written.offset),
            size_in_bytes: written.size_in_bytes,
            cardinality: written.cardinality,
        });
    }
    Ok(Pack {
        path: format!("deletion_vector_{uuid}.bin"),
        bytes: buffer.into(),
        descriptors,
    })
}

/// Row numbers of one data file; we write no file of 2^32 rows.
struct Rows<'a>(&'a RoaringBitmap);

impl DeletionVector for Rows<'_> {
    type IndexIterator = std::vec::IntoIter<u64>;

    fn into_iter(self) -> Self::IndexIterator {
        self.0.iter().map(u64::from).collect::<Vec<_>>().into_iter()
    }

    fn cardinality(&self) -> u64 {
        self.0.len()
    }

    fn serialize(self) -> KernelResult<Bytes> {
        let treemap = RoaringTreemap::from_bitmaps([(0, self.0.clone())]);
        let mut bytes = Vec::with_capacity(treemap.serialized_size());
        treemap.serialize_into(&mut bytes)?;
        Ok(bytes.into())
    }
}

/// The rows of a stored vector as a bitmap of 32-bit row numbers.
pub fn from_rows(rows: impl IntoIterator<Item = u64>) -> Result<RoaringBitmap> {
    rows.into_iter()
        .map(|row| {
            u32::try_from(row)
                .map_err(|_| Error::operator("a deletion vector names a row past 2^32, which this lake never writes"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_stay_small_and_keep_order() {
        let sparse: Vec<RoaringBitmap> = (0..40_u32)
            .map(|i| (0..10_000).map(|row| row * 97 + i).collect())
            .collect();
        let packs = pack(&sparse.iter().collect::<Vec<_>>()).expect("packs");
        assert!(packs.len() > 1);
        assert!(packs.iter().all(|p| p.bytes.len() <= PACK_BYTES + 1024));
        let descriptors: Vec<_> = packs.iter().flat_map(|p| &p.descriptors).collect();
        assert_eq!(descriptors.len(), 40);
        assert!(
            descriptors
                .iter()
                .all(|d| d.cardinality == 10_000 && d.path_or_inline_dv.len() == 20)
        );
        let named = packs.iter().flat_map(|p| p.descriptors.iter().map(move |d| (d, p)));
        assert!(named.into_iter().all(|(d, p)| d.path().as_ref() == Some(&p.path)));
        assert_eq!(packs[0].descriptors[0].offset, Some(1));
        assert_eq!(packs[0].bytes[0], 1);
    }
}
