//! Comparing by hashes finds what comparing the bytes finds.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use cx_delta::{Mismatch, agreed, differing, hashes};
use proptest::prelude::*;
use tap_block::units::{count, index};
use tap_block::{BLOCK_SIZE, Extent, ExtentSet};

const BLOCK: usize = 4096;

/// A disk of few different blocks, zeroes among them, cut short at its end now and then.
fn disk(kinds: &[u8], cut: usize) -> Vec<u8> {
    let mut disk: Vec<u8> = kinds.iter().flat_map(|kind| [kind % 3; BLOCK]).collect();
    disk.truncate(disk.len() - cut.min(disk.len()));
    disk
}

/// The blocks at which two disks of one size differ, byte for byte.
fn really_differing(at: u64, one: &[u8], other: &[u8]) -> ExtentSet {
    let pairs = one.chunks(BLOCK).zip(other.chunks(BLOCK)).enumerate();
    let start = |i: usize| at + count(i) * BLOCK_SIZE;
    pairs
        .filter(|(_, (a, b))| a != b)
        .map(|(i, _)| Extent::between(start(i), start(i) + BLOCK_SIZE))
        .collect()
}

proptest! {
    #[test]
    fn the_blocks_that_differ_and_no_others(
        seed: u64,
        at in 0u64..1000,
        kinds in proptest::collection::vec(any::<(u8, u8)>(), 1..40),
        cut in 0usize..BLOCK,
        touched in proptest::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let (mine, mut theirs): (Vec<u8>, Vec<u8>) = kinds.into_iter().unzip();
        // Mostly the same, as disks are that are compared.
        for (i, kind) in theirs.iter_mut().enumerate() {
            if *kind > 60 {
                *kind = mine[i];
            }
        }
        let (mine, mut theirs) = (disk(&mine, cut), disk(&theirs, cut));
        for i in touched {
            let i = i.index(theirs.len());
            theirs[i] ^= 0x10;
        }
        let extent = Extent::between(at * BLOCK_SIZE, at * BLOCK_SIZE + count(mine.len()));
        let found = differing(seed, extent, &mine, &hashes(seed, &theirs)).unwrap();
        let really = really_differing(extent.offset(), &mine, &theirs);
        prop_assert_eq!(found.iter().collect::<Vec<_>>(), really.iter().collect::<Vec<_>>());
    }

    #[test]
    fn where_receivers_disagree_every_content_differs(
        seed: u64,
        kinds in proptest::collection::vec(any::<[u8; 3]>(), 1..20),
    ) {
        let pick = |which: usize| disk(&kinds.iter().map(|k| k[which]).collect::<Vec<_>>(), 0);
        let (mine, a, b) = (pick(0), pick(1), pick(2));
        let both = agreed(&hashes(seed, &a), &hashes(seed, &b)).unwrap();
        let extent = Extent::between(0, count(mine.len()));
        let found = differing(seed, extent, &mine, &both).unwrap();
        let mut union = really_differing(0, &mine, &a);
        really_differing(0, &mine, &b).iter().for_each(|e| union.insert(e));
        prop_assert_eq!(found.iter().collect::<Vec<_>>(), union.iter().collect::<Vec<_>>());
    }

    #[test]
    fn hashes_of_another_stretch_are_refused(blocks in 0usize..8, len in 0usize..200) {
        let content = vec![1; blocks * BLOCK];
        let compared = differing(0, Extent::between(0, count(content.len())), &content, &vec![0; len]);
        if len == blocks * cx_wire::HASH_BYTES {
            prop_assert_eq!(compared.unwrap().bytes(), count(content.len()), "unknown equals nothing");
        } else {
            prop_assert_eq!(compared, Err(Mismatch { blocks: count(blocks), found: count(len) }));
        }
    }
}

#[test]
fn a_cut_block_is_the_same_as_one_filled_up_with_zeroes() {
    let cut = vec![7; BLOCK + 100];
    let mut whole = cut.clone();
    whole.resize(2 * BLOCK, 0);
    assert_eq!(hashes(3, &cut), hashes(3, &whole));
    assert_eq!(hashes(3, &[0; 100]), hashes(4, &[0; BLOCK]), "zeroes are zeroes under any seed");
    assert_ne!(hashes(3, &cut), hashes(4, &cut), "each seed has its own hashes");
    assert_eq!(index(count(hashes(3, &cut).len())), 2 * cx_wire::HASH_BYTES);
}
