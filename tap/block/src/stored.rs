//! The stored form of a block: what travels on the wire and lies in a segment, made once and copied
//! verbatim from there on.
//!
//! ```text
//!  ┌──────────────┬───────┬──────────┬─────────────┬──────────────────┐
//!  │ xxh3-64  u64 │ codec │ zero  u8 │ body    u16 │ body …           │   little endian
//!  └──────────────┴───────┴──────────┴─────────────┴──────────────────┘
//!    over codec, body length and body, seeded with the block number
//! ```
//!
//! An all-zero block has no stored form at all: its stored length is 0. Seeding with the block number
//! makes a unit that was read from the wrong place fail its check.
//! One unit per 4 KiB, so that a 4 KiB read decodes 4 KiB (design, section 4: lz4 costs 2 µs a block).
//!
//! Two libraries, one form: `lz4_flex` packs, as it is the faster one there (2.4 µs a half-compressible block, 2.9);
//! lz4's own reads, which is what readers wait for (0.4 µs of 1.2; 1.6 of 2.1 for a distribution's files).

use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::units::{BLOCK_SIZE, BlockNo, index};

/// Bytes of a block in memory.
pub const UNIT: usize = index(BLOCK_SIZE);
/// Bytes before a unit's body.
pub const UNIT_HEADER: usize = STORED_HEADER as usize;
/// The longest stored form of a block.
pub const MAX_STORED: usize = UNIT_HEADER + UNIT;

/// [`UNIT`] as lz4 counts.
const UNIT_BYTES: i32 = 4096;
const STORED_HEADER: StoredLen = 12;
const CODEC_RAW: u8 = 0;
const CODEC_LZ4: u8 = 1;
/// A block that lz4 cannot shrink below this is kept raw: decoding it would cost more than it saves.
const WORTH_IT: usize = UNIT * 7 / 8;

/// Bytes of a block's stored form; 0 is an all-zero block, which has none.
pub type StoredLen = u16;

/// Why a stored unit cannot be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum UnitError {
    /// The checksum does not match: rot, a torn write, or a unit of another block.
    #[error("the checksum of the stored block does not match")]
    Checksum,
    /// The form itself is wrong.
    #[error("the stored block is malformed")]
    Malformed,
}

/// Appends the stored form of `block` (at most [`UNIT`] bytes; a shorter one is padded with zeroes) to `out`
/// and returns its length.
pub fn pack(no: BlockNo, block: &[u8], out: &mut Vec<u8>) -> StoredLen {
    let mut padded = [0u8; UNIT];
    let whole: &[u8] = match block.len() {
        UNIT => block,
        short => {
            let short = short.min(UNIT);
            if let (Some(to), Some(from)) = (padded.get_mut(..short), block.get(..short)) {
                to.copy_from_slice(from);
            }
            &padded
        }
    };
    if is_zero(whole) { 0 } else { pack_whole(no, whole, out) }
}

fn pack_whole(no: BlockNo, block: &[u8], out: &mut Vec<u8>) -> StoredLen {
    let mut squeezed = [0u8; lz4_flex::block::get_maximum_output_size(UNIT)];
    let short = lz4_flex::block::compress_into(block, &mut squeezed).ok().filter(|&n| n < WORTH_IT);
    let (codec, body) = match short.and_then(|n| squeezed.get(..n)) {
        Some(body) => (CODEC_LZ4, body),
        None => (CODEC_RAW, block),
    };
    let len = u16::try_from(body.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&checksum(no, codec, len, body).to_le_bytes());
    out.extend_from_slice(&[codec, 0]);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(body);
    len.saturating_add(STORED_HEADER)
}

fn checksum(no: BlockNo, codec: u8, len: u16, body: &[u8]) -> u64 {
    let form = (u64::from(codec) << 56) | (u64::from(len) << 40);
    xxh3_64_with_seed(body, no.get() ^ form)
}

/// Checks a unit and decodes it into `out`, exactly one block long.
///
/// # Errors
/// [`UnitError`] when `stored` is not the sound stored form of block `no`.
pub fn unpack(no: BlockNo, stored: &[u8], out: &mut [u8]) -> Result<(), UnitError> {
    let (codec, body) = verify(no, stored)?;
    if out.len() != UNIT {
        return Err(UnitError::Malformed);
    }
    match codec {
        CODEC_RAW if body.len() == UNIT => out.copy_from_slice(body),
        CODEC_LZ4 => {
            let n = lz4::block::decompress_to_buffer(body, Some(UNIT_BYTES), out);
            if n.ok() != Some(UNIT) {
                return Err(UnitError::Malformed);
            }
        }
        _ => return Err(UnitError::Malformed),
    }
    Ok(())
}

/// Checks a unit without decoding it; returns its codec and body.
///
/// # Errors
/// [`UnitError`] when the form or the checksum is wrong.
pub fn verify(no: BlockNo, stored: &[u8]) -> Result<(u8, &[u8]), UnitError> {
    let (header, body) = stored.split_at_checked(UNIT_HEADER).ok_or(UnitError::Malformed)?;
    let (sum, form) = header.split_first_chunk::<8>().ok_or(UnitError::Malformed)?;
    let &[codec, _, l0, l1] = form else { return Err(UnitError::Malformed) };
    let len = u16::from_le_bytes([l0, l1]);
    if usize::from(len) != body.len() || body.len() > UNIT {
        return Err(UnitError::Malformed);
    }
    if u64::from_le_bytes(*sum) != checksum(no, codec, len, body) {
        return Err(UnitError::Checksum);
    }
    Ok((codec, body))
}

/// Is every byte zero? Eight bytes at a time: 29 GB/s against 1.5 byte by byte.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut groups = words.chunks(32);
    groups.all(|g| g.iter().fold(0, |acc, w| acc | u64::from_ne_bytes(*w)) == 0)
        && rest.iter().all(|&b| b == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64) -> Vec<u8> {
        let mut x = seed | 1;
        (0..UNIT)
            .map(|_| {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                x.to_le_bytes()[3]
            })
            .collect()
    }

    fn round_trip(block: &[u8]) -> usize {
        let mut stored = Vec::new();
        let len = usize::from(pack(BlockNo::new(9), block, &mut stored));
        assert_eq!(len, stored.len());
        let mut back = vec![1; UNIT];
        unpack(BlockNo::new(9), &stored, &mut back).unwrap();
        assert_eq!(&back[..block.len()], block);
        assert!(is_zero(&back[block.len()..]));
        len
    }

    #[test]
    fn blocks_come_back() {
        assert_eq!(round_trip(&noise(3)), MAX_STORED, "noise is kept raw");
        assert!(round_trip(&vec![7; UNIT]) < 100);
        assert!(round_trip(&[7; 512]) < 100, "a short last block is padded");
    }

    /// Noise with runs of every period in it, up to the very end.
    fn runs(seed: u64) -> Vec<u8> {
        let mut block = noise(seed);
        let steps: Vec<usize> = noise(seed ^ 0xffff).iter().map(|b| usize::from(*b)).collect();
        let (mut at, mut steps) = (0, steps.into_iter());
        while let (Some(skip), Some(period), Some(length)) = (steps.next(), steps.next(), steps.next()) {
            at += skip % 40 + 1 + period % 70;
            let length = (length * 3).min(UNIT.saturating_sub(at));
            (at..at + length).for_each(|n| block[n] = block[n - 1 - period % 70]);
            at += length;
        }
        block
    }

    #[test]
    fn what_one_library_packs_the_other_reads() {
        let lengths: Vec<_> = (1..3000).map(|seed| round_trip(&runs(seed))).collect();
        assert!(lengths.iter().filter(|&&length| length < MAX_STORED).count() > 2000, "most are packed");
        for tail in 0..100 {
            let mut block = vec![7; UNIT];
            block[UNIT - tail..].copy_from_slice(&noise(tail as u64)[..tail]);
            round_trip(&block);
        }
    }

    #[test]
    fn a_body_that_is_no_lz4_is_malformed_whatever_its_checksum_says() {
        let mut sound = Vec::new();
        pack(BlockNo::new(1), &runs(1), &mut sound);
        let bodies = (0..20_000u64).map(|seed| {
            let noise = noise(seed);
            let body = sound[UNIT_HEADER..].iter().enumerate();
            // A tenth of it changed, or cut off somewhere, or noise from there on.
            let at = usize::from(noise[0]) << 4;
            body.map(|(n, b)| if seed % 3 == 1 && n > at || noise[n] < 25 { noise[n] } else { *b })
                .take(if seed % 3 == 2 { at + 1 } else { UNIT })
                .collect::<Vec<_>>()
        });
        let refused = bodies.filter(|body| {
            let len = u16::try_from(body.len()).unwrap();
            let sum = checksum(BlockNo::new(1), CODEC_LZ4, len, body).to_le_bytes();
            let stored = [&sum[..], &[CODEC_LZ4, 0], &len.to_le_bytes(), body].concat();
            unpack(BlockNo::new(1), &stored, &mut [0; UNIT]) == Err(UnitError::Malformed)
        });
        assert!(refused.count() > 15_000);
    }

    #[test]
    fn zeroes_have_no_stored_form() {
        let mut stored = Vec::new();
        assert_eq!(pack(BlockNo::new(1), &[0; UNIT], &mut stored), 0);
        assert!(stored.is_empty());
    }

    #[test]
    fn a_unit_of_another_block_is_refused() {
        let mut stored = Vec::new();
        pack(BlockNo::new(1), &noise(5), &mut stored);
        assert_eq!(unpack(BlockNo::new(2), &stored, &mut [0; UNIT]), Err(UnitError::Checksum));
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let mut stored = Vec::new();
        pack(BlockNo::new(1), &vec![7; UNIT], &mut stored);
        for bit in 0..stored.len() * 8 {
            if bit / 8 == 9 {
                continue; // the reserved byte carries nothing
            }
            let mut bad = stored.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(verify(BlockNo::new(1), &bad).is_err(), "bit {bit}");
        }
        for len in 0..stored.len() {
            assert!(verify(BlockNo::new(1), &stored[..len]).is_err());
        }
    }
}
