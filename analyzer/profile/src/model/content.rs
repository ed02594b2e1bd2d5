//! What compression saves on the way, and what deduplication would: estimated from samples of the content of writes, each with
//! its interval.
//!
//! *Compression.* N blocks were written, Z of them all zeroes, which take nothing. Of the others n were drawn at random and
//! packed, x̄ bytes on average with a standard deviation of s. A written byte becomes (N − Z)/N · x̄/4096 on the way, and
//! that mean is within 1.96 · s/√n · √(1 − n/(N − Z)) of x̄ in 95 of 100 such samples (simple random sampling without
//! replacement, Cochran 1977, section 2).
//!
//! *Deduplication.* A content is in the second sample when its hash begins with b zero bits, so with p = 2^−b, with all of its
//! writes. Of d distinct ones there, d/p are expected in all (Horvitz and Thompson 1952), within 1.96 · √(d (1 − p))/p. The
//! share written again is 1 − (d/p)/(N − Z). The sample of writes could not tell: of two writes of one content it rarely has both.

use std::collections::HashSet;
use std::hash::BuildHasherDefault;

use super::coalescing::AsIs;
use crate::content::{Content, Packed};
use crate::numbers::real;

/// The most hashes that are remembered; above it the sample is halved.
const MAX_HASHES: usize = 1 << 19;
/// Standard deviations to both sides that hold 95 % of a normal distribution.
const Z: f64 = 1.96;
/// Fewer drawn blocks than this say nothing about their spread.
const LEAST: u64 = 30;

/// See the module.
#[derive(Clone, Default)]
pub struct Contents {
    blocks: u64,
    zeroes: u64,
    packed: Packed,
    hashes: HashSet<u64, BuildHasherDefault<AsIs>>,
    share_bits: u32,
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contents").field("blocks", &self.blocks).finish_non_exhaustive()
    }
}

/// A figure and where it lies in 95 of 100 samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The figure.
    pub value: f64,
    /// From here.
    pub low: f64,
    /// To here.
    pub high: f64,
}

impl Estimate {
    fn share(value: f64, error: f64) -> Self {
        let [value, low, high] = [value, value - error, value + error].map(|v: f64| v.max(0.0));
        Self { value, low, high }
    }
}

impl Contents {
    /// Adds what was sampled in a while.
    pub fn add(&mut self, content: &Content) {
        self.sums(content.blocks, content.zeroes, &content.packed);
        self.distinct(u32::from(content.share_bits), content.hashes.iter().copied());
    }

    /// Adds all that another has seen. Both are samples of writes and of contents, so the sum is one: its hashes are of the
    /// smaller share.
    pub(crate) fn merge(&mut self, other: Self) {
        self.sums(other.blocks, other.zeroes, &other.packed);
        self.distinct(other.share_bits, other.hashes);
    }

    fn sums(&mut self, blocks: u64, zeroes: u64, packed: &Packed) {
        self.blocks = self.blocks.saturating_add(blocks);
        self.zeroes = self.zeroes.saturating_add(zeroes);
        self.packed.merge(packed);
    }

    fn distinct(&mut self, share_bits: u32, hashes: impl IntoIterator<Item = u64>) {
        self.share_bits = self.share_bits.max(share_bits);
        self.hashes.extend(hashes);
        self.thin();
        while self.hashes.len() > MAX_HASHES {
            self.share_bits += 1;
            self.thin();
        }
    }

    fn thin(&mut self) {
        let bits = self.share_bits;
        self.hashes.retain(|hash| hash.leading_zeros() >= bits);
    }

    /// Whole blocks seen.
    #[must_use]
    pub const fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Those that were all zeroes.
    #[must_use]
    pub const fn zeroes(&self) -> u64 {
        self.zeroes
    }

    /// How many were packed.
    #[must_use]
    pub const fn packed(&self) -> u64 {
        self.packed.count
    }

    fn others(&self) -> u64 {
        self.blocks.saturating_sub(self.zeroes)
    }

    /// What a written byte becomes on the way. `None` when too few blocks were drawn to say.
    #[must_use]
    pub fn stored_share(&self) -> Option<Estimate> {
        if self.blocks == 0 || (self.others() > 0 && self.packed.count < LEAST) {
            return None;
        }
        let (n, all) = (real(self.packed.count).max(1.0), real(self.others()));
        let mean = real(self.packed.bytes) / n;
        let variance = (real(self.packed.squares) / n - mean * mean).max(0.0) * n / (n - 1.0).max(1.0);
        let left = (1.0 - n / all.max(n)).max(0.0);
        let of_all = all / real(self.blocks) / real(tap_block::BLOCK_SIZE);
        Some(Estimate::share(mean * of_all, Z * (variance / n * left).sqrt() * of_all))
    }

    /// The standard deviation of the bytes that a block becomes, all-zero ones among them. `None` when too few were drawn.
    #[must_use]
    pub fn deviation(&self) -> Option<f64> {
        let mean = self.stored_share()?.value * real(tap_block::BLOCK_SIZE);
        let squares = real(self.packed.squares) / real(self.packed.count).max(1.0);
        let squares = squares * real(self.others()) / real(self.blocks);
        Some((squares - mean * mean).max(0.0).sqrt())
    }

    /// The share of blocks, all-zero ones apart, that had been written with the same content before. `None` without any.
    #[must_use]
    pub fn repeated_share(&self) -> Option<Estimate> {
        let others = real(self.others());
        let (found, p) =
            (real(tap_block::units::count(self.hashes.len())), (-f64::from(self.share_bits)).exp2());
        let distinct = (found / p).min(others);
        let error = Z * (found * (1.0 - p)).sqrt() / p / others;
        (others > 0.0 && self.packed.count >= LEAST).then(|| {
            let share = Estimate::share(1.0 - distinct / others, error);
            Estimate { high: share.high.min(1.0), ..share }
        })
    }
}
