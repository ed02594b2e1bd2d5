//! Packs: blocks of a region that are old and unread, compressed together. That takes less room than a unit for each,
//! and reading one of them costs decoding all.
//!
//! ```text
//!   0 xxh3-64 of all behind it, seeded with the region's first block   8 codec u8 (1: zstd)   9 members u8   10 zero u16
//!  12 body u32                                                        16 members: block within the region u16, ascending
//!  ·· sums: xxh3-64 of each member's content, seeded with its block    ·· body: their contents, compressed as one run
//!  ·· zeroes up to a multiple of 8                                                                        little endian
//! ```
//!
//! No block is a member twice, so a pack's place and a block's number say which content is meant.

use tap_block::BlockNo;
use tap_block::stored::{UNIT, UnitError, unpack, verify};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::bytes::Reader;
use crate::error::FormatError;
use crate::units::{Location, RegionNo};

/// The most members.
pub const MEMBERS: usize = 16;
/// Levels above this one take far longer for a percent or two.
const LEVEL: i32 = 3;
const CODEC_ZSTD: u8 = 1;
const HEADER: usize = 16;
const WHAT: &str = "pack";

/// A block and its content, [`UNIT`] bytes.
pub type Member<'a> = (u16, &'a [u8]);

/// Packs the members, which are of one region, in ascending order and at most [`MEMBERS`]; `None` when that is not so, or
/// they cannot be compressed.
#[must_use]
pub fn pack(region: RegionNo, members: &[Member<'_>]) -> Option<Vec<u8>> {
    let ascending = members.iter().zip(members.iter().skip(1)).all(|((a, _), (b, _))| a < b);
    let whole = members.iter().all(|(_, content)| content.len() == UNIT);
    if members.is_empty() || members.len() > MEMBERS || !ascending || !whole {
        return None;
    }
    let contents: Vec<u8> = members.iter().flat_map(|(_, content)| content.iter().copied()).collect();
    let body = zstd::bulk::compress(&contents, LEVEL).ok()?;
    let mut out = vec![0; 8];
    out.extend_from_slice(&[CODEC_ZSTD, u8::try_from(members.len()).ok()?, 0, 0]);
    out.extend_from_slice(&u32::try_from(body.len()).ok()?.to_le_bytes());
    for (block, _) in members {
        out.extend_from_slice(&block.to_le_bytes());
    }
    for (block, content) in members {
        out.extend_from_slice(&content_sum(region.block(*block), content).to_le_bytes());
    }
    out.extend_from_slice(&body);
    out.resize(out.len().next_multiple_of(8), 0);
    let sum = sum(region, &out).to_le_bytes();
    out.get_mut(..8)?.copy_from_slice(&sum);
    Some(out)
}

fn sum(region: RegionNo, bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes.get(8..).unwrap_or_default(), region.block(0).get())
}

/// The checksum that a pack keeps of a member.
#[must_use]
pub fn content_sum(block: BlockNo, content: &[u8]) -> u64 {
    xxh3_64_with_seed(content, block.get())
}

/// A pack's head: what it holds, as far as it can be read. Says nothing of whether it is sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackHead {
    /// Each member and the checksum of its content.
    pub members: Vec<(u16, u64)>,
    body: std::ops::Range<usize>,
}

impl PackHead {
    /// Reads it.
    ///
    /// # Errors
    /// [`FormatError`] when `bytes` do not begin like a pack.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut r = Reader::new(WHAT, bytes);
        let (_sum, [codec, members, _, _], body) = (r.u64()?, r.array::<4>()?, r.u32()?);
        let count = usize::from(members);
        if codec != CODEC_ZSTD || !(1..=MEMBERS).contains(&count) {
            return Err(FormatError::malformed(WHAT, "a codec or a number of members that no writer leaves"));
        }
        let blocks: Vec<u16> = (0..count).map(|_| r.u16()).collect::<Result<_, _>>()?;
        let sums: Vec<u64> = (0..count).map(|_| r.u64()).collect::<Result<_, _>>()?;
        let from = HEADER + count * 10;
        let body = usize::try_from(body).ok().and_then(|body| from.checked_add(body));
        let body = body.filter(|&end| end <= bytes.len()).ok_or(FormatError::Short(WHAT))?;
        Ok(Self { members: blocks.into_iter().zip(sums).collect(), body: from..body })
    }
}

/// Decodes units and packs. It remembers the last pack, so that reading one block after the other decodes it once.
#[derive(Debug, Default)]
pub struct Unpacker {
    /// Whose contents these are.
    at: Option<(Location, RegionNo, [u8; 8])>,
    blocks: Vec<u16>,
    contents: Vec<u8>,
}

impl Unpacker {
    /// Checks what lies at `at`, which is `stored`, and decodes the content of `block` into `out`, exactly one block long.
    ///
    /// # Errors
    /// [`UnitError`] when it is not the sound stored form of that block.
    pub fn unpack(
        &mut self,
        at: Location,
        block: BlockNo,
        stored: &[u8],
        out: &mut [u8],
    ) -> Result<(), UnitError> {
        if !at.is_pack() {
            return unpack(block, stored, out);
        }
        let content = self.member(at, block, stored)?;
        match out.len() {
            UNIT => out.copy_from_slice(content),
            _ => return Err(UnitError::Malformed),
        }
        Ok(())
    }

    /// Checks what lies at `at` without decoding more than it has to.
    ///
    /// # Errors
    /// As [`Self::unpack`].
    pub fn verify(&mut self, at: Location, block: BlockNo, stored: &[u8]) -> Result<(), UnitError> {
        match at.is_pack() {
            true => self.member(at, block, stored).map(drop),
            false => verify(block, stored).map(drop),
        }
    }

    fn member(&mut self, at: Location, block: BlockNo, stored: &[u8]) -> Result<&[u8], UnitError> {
        let (region, within) = RegionNo::holding(block).ok_or(UnitError::Malformed)?;
        // Its checksum, too: places say what is meant within one store only.
        let sum = stored.first_chunk::<8>().ok_or(UnitError::Malformed)?;
        if self.at != Some((at, region, *sum)) {
            self.load(region, stored)?;
            self.at = Some((at, region, *sum));
        }
        let n = self.blocks.binary_search(&within).map_err(|_| UnitError::Malformed)?;
        self.contents.get(n * UNIT..(n + 1) * UNIT).ok_or(UnitError::Malformed)
    }

    fn load(&mut self, region: RegionNo, stored: &[u8]) -> Result<(), UnitError> {
        self.at = None;
        let head = stored.first_chunk::<8>().ok_or(UnitError::Malformed)?;
        if u64::from_le_bytes(*head) != sum(region, stored) {
            return Err(UnitError::Checksum);
        }
        let head = PackHead::decode(stored).map_err(|_| UnitError::Malformed)?;
        decompress(&head, stored, &mut self.contents)?;
        self.blocks = head.members.into_iter().map(|(block, _)| block).collect();
        Ok(())
    }
}

fn decompress(head: &PackHead, stored: &[u8], contents: &mut Vec<u8>) -> Result<(), UnitError> {
    contents.resize(head.members.len() * UNIT, 0);
    let body = stored.get(head.body.clone()).ok_or(UnitError::Malformed)?;
    let bytes = zstd::bulk::decompress_to_buffer(body, contents).map_err(|_| UnitError::Malformed)?;
    if bytes == contents.len() { Ok(()) } else { Err(UnitError::Malformed) }
}

/// What a damaged pack still holds: the members whose own checksums fit. Never to be served from where it lies, where
/// everything is refused; but it need not be lost when that is written anew.
#[must_use]
pub fn salvage(region: RegionNo, stored: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let (Ok(head), mut contents) = (PackHead::decode(stored), Vec::new()) else { return Vec::new() };
    if decompress(&head, stored, &mut contents).is_err() {
        return Vec::new();
    }
    let members = head.members.iter().zip(contents.chunks(UNIT));
    let sound = members.filter(|((block, sum), content)| content_sum(region.block(*block), content) == *sum);
    sound.map(|((block, _), content)| (*block, content.to_vec())).collect()
}

#[cfg(test)]
mod tests;
