//! A blocked Bloom filter over the keys of one run: whether a look-up can
//! spare itself the run. One key touches one cache line.

use std::sync::Arc;

use super::home::Memory;
use crate::key::Key;

/// With this, about one absent key in a hundred passes.
const BITS_PER_KEY: u64 = 11;
/// Odd numbers; each picks a bit of one word of a block.
const PICKS: [u32; 8] = [
    0x9E37_79B1,
    0x85EB_CA77,
    0xC2B2_AE3D,
    0x27D4_EB2F,
    0x1656_67B1,
    0xD3A2_646D,
    0xFD70_46C5,
    0xB55A_4F09,
];

/// Its bytes count against the memory that all indexes share, while it lives.
pub struct Filter {
    blocks: Vec<[u32; 8]>,
    memory: Arc<Memory>,
}

impl Filter {
    /// A filter for a number of keys, if there is memory for it.
    pub fn for_entries(entries: u64, memory: &Arc<Memory>) -> Option<Self> {
        let bits = entries.checked_mul(BITS_PER_KEY)?;
        let blocks = usize::try_from(bits.div_ceil(256).max(1)).ok()?;
        memory.take_filter(blocks * size_of::<[u32; 8]>()).then(|| Self {
            blocks: vec![[0; 8]; blocks],
            memory: memory.clone(),
        })
    }

    pub fn insert(&mut self, key: Key) {
        let hash = mix(key);
        let at = self.block(hash);
        for (word, pick) in self.blocks[at].iter_mut().zip(PICKS) {
            *word |= 1 << ((hash as u32).wrapping_mul(pick) >> 27);
        }
    }

    pub fn may_have(&self, key: Key) -> bool {
        let hash = mix(key);
        let words = self.blocks[self.block(hash)].iter().zip(PICKS);
        words.fold(true, |found, (word, pick)| {
            found & (word >> ((hash as u32).wrapping_mul(pick) >> 27) & 1 == 1)
        })
    }

    pub fn bytes(&self) -> usize {
        self.blocks.len() * size_of::<[u32; 8]>()
    }

    fn block(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.blocks.len() as u128) >> 64) as usize
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        self.memory.give_filter(self.bytes());
    }
}

/// Spreads keys that are near each other: block and bits come from all of one.
fn mix(key: Key) -> u64 {
    let mut hash = key as u64 ^ ((key >> 64) as u64).rotate_left(32);
    hash = (hash ^ hash >> 33).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    hash = (hash ^ hash >> 33).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    hash ^ hash >> 33
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_what_it_has_and_little_else() {
        let memory = Arc::new(Memory::new(32 << 20));
        for spread in [1_u128, 1 << 40, u128::MAX / 200_001] {
            let mut filter = Filter::for_entries(100_000, &memory).expect("memory");
            for i in 0..100_000 {
                filter.insert(2 * i * spread);
            }
            assert!((0..100_000).all(|i| filter.may_have(2 * i * spread)));
            let wrong = (0..100_000).filter(|i| filter.may_have((2 * i + 1) * spread)).count();
            assert!(wrong < 3_000, "{wrong} of 100000 with {spread}");
        }
        assert_eq!(memory.filter_bytes(), 0);
    }

    #[test]
    fn there_is_none_for_what_only_a_damaged_file_claims() {
        let memory = Arc::new(Memory::new(32 << 20));
        for entries in [u64::MAX, u64::MAX / BITS_PER_KEY, 1 << 40] {
            assert!(Filter::for_entries(entries, &memory).is_none(), "{entries}");
        }
    }
}
