//! How much of what is written is written again soon: what thinning history saves.
//!
//! For a window W, time is cut into stretches of W; a block written twice in one stretch needs to be kept once in a
//! history with one point per W. The figure is `blocks kept / blocks written`, 1 when nothing is written twice.
//!
//! Remembering every block would take memory without limit, so a block counts only when its hash falls below a
//! threshold, which is halved when too many do: a sample of the blocks, each with all its writes (spatial sampling as in
//! SHARDS, Waldspurger and others, FAST 2015). The ratio needs no scaling: counts before a halving are halved too.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::event::Event;
use crate::numbers::mix;

/// The grain of history.
const BLOCK: u64 = tap_block::BLOCK_SIZE;
/// The most blocks that are remembered.
const MAX_BLOCKS: usize = 1 << 17;
/// Most blocks of one write that are looked at: a longer one is counted at its beginning.
const MAX_OF_ONE: u64 = 1 << 16;

/// The windows, in seconds: every second, minute, hour and day.
pub const WINDOWS: [u64; 4] = [1, 60, 3600, 86400];

/// Keys are hashes already.
#[derive(Default)]
pub(super) struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

/// See the module.
#[derive(Clone)]
pub struct Coalescing {
    /// When each sampled block was written first and last, by its hash, in seconds.
    last: HashMap<u64, (u32, u32), BuildHasherDefault<AsIs>>,
    /// Blocks whose hash is at most this count.
    threshold: u64,
    written: f64,
    kept: [f64; WINDOWS.len()],
}

impl Default for Coalescing {
    fn default() -> Self {
        // One block in 16 from the start: a trace of a few thousand blocks still has hundreds of them.
        Self { last: HashMap::default(), threshold: u64::MAX >> 4, written: 0.0, kept: [0.0; WINDOWS.len()] }
    }
}

impl std::fmt::Debug for Coalescing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Coalescing").field("sampled", &self.last.len()).finish_non_exhaustive()
    }
}

impl Coalescing {
    /// A write, in a second of the trace.
    pub fn write(&mut self, event: &Event, second: u64) {
        if event.length == 0 {
            return;
        }
        let first = event.offset / BLOCK;
        let end =
            event.offset.saturating_add(event.length).div_ceil(BLOCK).min(first.saturating_add(MAX_OF_ONE));
        for block in first..end {
            let hash = mix(block ^ mix(u64::from(event.device.get())));
            if hash <= self.threshold {
                self.sampled(hash, u32::try_from(second).unwrap_or(u32::MAX));
            }
        }
    }

    fn sampled(&mut self, hash: u64, second: u32) {
        let mut before = None;
        let times =
            self.last.entry(hash).and_modify(|times| before = Some(times.1)).or_insert((second, second));
        times.1 = second;
        self.written += 1.0;
        for (kept, window) in self.kept.iter_mut().zip(WINDOWS) {
            let again = before.is_some_and(|b| u64::from(b) / window == u64::from(second) / window);
            *kept += f64::from(u8::from(!again));
        }
        if self.last.len() > MAX_BLOCKS {
            self.halve();
        }
    }

    fn halve(&mut self) {
        self.threshold /= 2;
        let threshold = self.threshold;
        self.last.retain(|&hash, _| hash <= threshold);
        self.written /= 2.0;
        self.kept.iter_mut().for_each(|k| *k /= 2.0);
    }

    /// Adds what another saw; the seconds of both are moved by so many.
    pub(crate) fn merge(&mut self, mut other: Self, later: (u64, u64)) {
        while self.threshold != other.threshold {
            if self.threshold > other.threshold { self.halve() } else { other.halve() }
        }
        self.last.values_mut().for_each(|times| *times = moved(*times, later.0));
        self.written += other.written;
        self.kept.iter_mut().zip(other.kept).for_each(|(mine, theirs)| *mine += theirs);
        for (hash, times) in other.last {
            self.join(hash, moved(times, later.1));
        }
        while self.last.len() > MAX_BLOCKS {
            self.halve();
        }
    }

    /// A block that both saw: the first time of one may lie in a window with the last time of the other.
    fn join(&mut self, hash: u64, theirs: (u32, u32)) {
        let Some(mine) = self.last.get_mut(&hash) else {
            self.last.insert(hash, theirs);
            return;
        };
        let (earlier, later) = if *mine <= theirs { (*mine, theirs) } else { (theirs, *mine) };
        *mine = (earlier.0, earlier.1.max(later.1));
        if earlier.1 > later.0 {
            return;
        }
        for (kept, window) in self.kept.iter_mut().zip(WINDOWS) {
            if u64::from(earlier.1) / window == u64::from(later.0) / window {
                *kept -= 1.0;
            }
        }
    }

    /// The share of blocks that one point per window keeps, for each of [`WINDOWS`]; `None` when no block was sampled.
    #[must_use]
    pub fn kept(&self) -> Option<[f64; WINDOWS.len()]> {
        (self.written > 0.0).then(|| self.kept.map(|k| (k / self.written).clamp(0.0, 1.0)))
    }

    /// Distinct bytes written, estimated from the sample.
    #[must_use]
    pub fn working_set(&self) -> f64 {
        let share = crate::numbers::real(self.threshold) / crate::numbers::real(u64::MAX);
        crate::numbers::real(tap_block::units::count(self.last.len())) / share * crate::numbers::real(BLOCK)
    }
}

/// Times in seconds, so many later.
fn moved((first, last): (u32, u32), later: u64) -> (u32, u32) {
    let later = u32::try_from(later).unwrap_or(u32::MAX);
    (first.saturating_add(later), last.saturating_add(later))
}
