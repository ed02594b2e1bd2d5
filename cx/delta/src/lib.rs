//! Delta differencing: which blocks of a disk differ from what a receiver has, told from hashes, so that only
//! those are sent.
//!
//! Each 4 KiB block has a hash of 128 bits, xxh3 with a seed:
//! - *128 bits*, because two different blocks taken for equal would differ for good and nobody would see it. With
//!   64 bits that happens once in 2^64 comparisons by chance, which a fleet that compares whole disks at each
//!   start gets within sight of; the wider hash costs the same time and 0.4 % of the bytes compared.
//! - *xxh3*, because it is as fast as the memory; it finds chance, not malice. The *seed* is drawn anew for each
//!   sync by the one who asks: blocks that were made to collide under one seed differ under the next.
//!
//! A block of zeroes is told without hashing. Where receivers do not agree a hash says "unknown", which equals
//! nothing: the block differs.

use cx_wire::HASH_BYTES;
use tap_block::stored::{UNIT, is_zero};
use tap_block::units::count;
use tap_block::{BLOCK_SIZE, Extent, ExtentSet};
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// What a block has whose hash is not known: no block's hash.
const UNKNOWN: u128 = 0;
/// What a block of zeroes has.
const ZEROES: u128 = 1;

/// Hashes that do not belong to the stretch they are compared with. Nothing can be said of it then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{found} bytes of hashes came for {blocks} blocks: they are not of this stretch; copy it as a whole")]
pub struct Mismatch {
    /// Blocks compared.
    pub blocks: u64,
    /// Bytes of hashes.
    pub found: u64,
}

/// The hashes of the blocks of `content`, one after the other. A last block that is cut short counts as filled up
/// with zeroes.
#[must_use]
pub fn hashes(seed: u64, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len().div_ceil(UNIT) * HASH_BYTES);
    for block in content.chunks(UNIT) {
        out.extend_from_slice(&hash(seed, block).to_le_bytes());
    }
    out
}

/// The stretches of `extent` (whole blocks, but for an end cut short like `content`) where `content` is not what
/// `theirs` are the hashes of.
///
/// # Errors
/// [`Mismatch`] when there is not one hash for each block.
pub fn differing(seed: u64, extent: Extent, content: &[u8], theirs: &[u8]) -> Result<ExtentSet, Mismatch> {
    check(count(content.len().div_ceil(UNIT)), theirs)?;
    let pairs = content.chunks(UNIT).zip(theirs.chunks_exact(HASH_BYTES));
    let starts = (0..).map(|i| extent.offset() + i * BLOCK_SIZE);
    let differs = starts.zip(pairs).filter(|(_, (block, hash_there))| {
        // Never UNKNOWN: a block has no such hash.
        hash(seed, block).to_le_bytes() != **hash_there
    });
    Ok(differs.map(|(start, _)| Extent::between(start, start + BLOCK_SIZE)).collect())
}

/// What two receivers agree on: hashes that are not the same in both become unknown.
///
/// # Errors
/// [`Mismatch`] when they are not of equally many blocks.
pub fn agreed(one: &[u8], other: &[u8]) -> Result<Vec<u8>, Mismatch> {
    check(count(one.len() / HASH_BYTES), other)?;
    let pairs = one.chunks_exact(HASH_BYTES).zip(other.chunks_exact(HASH_BYTES));
    let unknown = UNKNOWN.to_le_bytes();
    let agreed = pairs.flat_map(|(a, b)| if a == b { a } else { unknown.as_slice() });
    Ok(agreed.copied().collect())
}

fn check(blocks: u64, hashes: &[u8]) -> Result<(), Mismatch> {
    let found = count(hashes.len());
    if found == blocks * count(HASH_BYTES) { Ok(()) } else { Err(Mismatch { blocks, found }) }
}

/// Never [`UNKNOWN`], and [`ZEROES`] for zeroes alone.
fn hash(seed: u64, block: &[u8]) -> u128 {
    if is_zero(block) {
        return ZEROES;
    }
    let hash = match block.len() {
        UNIT => xxh3_128_with_seed(block, seed),
        _ => xxh3_128_with_seed(&filled_up(block), seed),
    };
    if hash <= ZEROES { hash + 2 } else { hash }
}

fn filled_up(block: &[u8]) -> [u8; UNIT] {
    let mut whole = [0; UNIT];
    for (to, from) in whole.iter_mut().zip(block) {
        *to = *from;
    }
    whole
}
