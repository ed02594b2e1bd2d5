//! Content to write: noise, half of it or less made compressible, and stamped so that no two blocks are alike.

use tap_block::units::{count, index};
use testbed_model::Random;

/// Noise is made once and cut from: making it costs more than writing it.
const POOL: usize = 8 << 20;
/// Compressible and noisy stretches take turns within this many bytes.
const STRIPE: usize = 256;

/// How well content compresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mix {
    /// To about half, as database and file system pages do.
    Half,
    /// Not at all.
    Noise,
}

impl Mix {
    /// In a table.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Half => "half-compressible",
            Self::Noise => "incompressible",
        }
    }
}

/// A source of content.
#[derive(Debug, Clone)]
pub(crate) struct Payload {
    pool: Vec<u8>,
    random: Random,
}

impl Payload {
    /// The seed decides the content.
    pub(crate) fn new(mix: Mix, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut pool = vec![0; POOL];
        random.fill(&mut pool);
        if mix == Mix::Half {
            for stripe in pool.chunks_mut(STRIPE) {
                let (plain, _) = stripe.split_at_mut(stripe.len() / 2);
                plain.fill(b'c');
            }
        }
        Self { pool, random }
    }

    /// Fills `out`, and stamps each of its 4 KiB blocks with where it goes and a number of its own.
    pub(crate) fn fill(&mut self, offset: u64, out: &mut [u8]) {
        let mut at = offset;
        for block in out.chunks_mut(4096) {
            let places = count((POOL - block.len()) / STRIPE);
            let from = index(self.random.below(places + 1)) * STRIPE;
            if let Some(source) = self.pool.get(from..from + block.len()) {
                block.copy_from_slice(source);
            }
            stamp(block, at, self.random.next());
            at += count(block.len());
        }
    }
}

fn stamp(block: &mut [u8], offset: u64, own: u64) {
    let marks = offset.to_le_bytes().into_iter().chain(own.to_le_bytes());
    block.iter_mut().zip(marks).for_each(|(to, from)| *to = from);
}

#[cfg(test)]
mod tests {
    use super::*;
    use tap_block::BlockNo;
    use tap_block::stored::{UNIT, pack};

    fn stored(mix: Mix) -> usize {
        let (mut block, mut out) = (vec![0; UNIT], Vec::new());
        Payload::new(mix, 1).fill(4096, &mut block);
        pack(BlockNo::new(1), &block, &mut out);
        out.len()
    }

    #[test]
    fn half_is_half_and_noise_is_all() {
        assert!((1900..2500).contains(&stored(Mix::Half)), "{}", stored(Mix::Half));
        assert!(stored(Mix::Noise) > UNIT);
    }

    #[test]
    fn no_two_blocks_are_alike() {
        let mut two = vec![0; 2 * UNIT];
        Payload::new(Mix::Half, 1).fill(0, &mut two);
        let (a, b) = two.split_at(UNIT);
        assert_ne!(a, b);
    }
}
