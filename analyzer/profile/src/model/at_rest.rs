//! What compression and deduplication would save of data at rest, from blocks drawn at random without replacement.
//!
//! **Compression** is the mean stored size of a block (an all-zero one stores nothing). The interval is that of a mean of a simple
//! random sample with the finite population correction: `mean ± 1.96 s / sqrt(n) · sqrt(1 - n/N)` (Cochran, Sampling Techniques,
//! 3rd edition 1977, section 2.6 and 2.7). Shares have Wilson's interval (1927), which holds near 0 and 1 as well.
//!
//! **Deduplication** cannot be read off a small sample: whether a block has a double is seen only when both were drawn. So two bounds
//! are given, which are far from each other when the sample says little.
//!
//! - *At most* so many blocks are distinct: `D <= (N/n) f1 + (distinct blocks seen again)`, where f1 is the number of blocks seen once
//!   (the upper end of GEE: Charikar, Chaudhuri, Motwani, Narasayya, Towards estimation error guarantees for distinct values, PODS 2000).
//! - *At least* so many: a population with few distinct blocks makes coincidences in the sample (the birthday problem). With m_i copies of
//!   block i, pairs coincide at a rate of `sum m_i (m_i - 1) / N²`, and by Cauchy and Schwarz `D >= N² / sum m_i²`. c coincidences bound the
//!   rate by Poisson's upper limit (Byar's approximation: Breslow and Day 1987, volume 2, p. 69). A few blocks that are everywhere
//!   would spoil this, so they are found in the first half of the sample, and only the others are looked at in the second.
//!
//! (That it cannot be done better from a few samples: Raskhodnikova and others, SICOMP 2009; Harnik and others, FAST 2016.)

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use crate::numbers::real;

/// Of a normal distribution, 95 % lie within so many standard deviations.
const Z: f64 = 1.96;
/// Under so many blocks a mean has no interval.
const FEW: u64 = 30;

/// A figure and the 95 % interval around it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The figure.
    pub middle: f64,
    /// The upper end.
    pub high: f64,
}

/// What the samples say.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct AtRestFigures {
    /// Blocks that there are.
    pub blocks: u64,
    /// Blocks that were drawn and could be read.
    pub sampled: u64,
    /// The share of all-zero blocks.
    pub zero: Interval,
    /// Stored bytes for each byte of the device, zeroes included.
    pub stored: Interval,
    /// Stored bytes for each byte that is not in an all-zero block: what `--compression` of `report` takes.
    pub compression: Interval,
    /// Distinct blocks among those that are not all zero, as a share.
    pub distinct: Interval,
}

/// The blocks drawn so far.
#[derive(Debug, Clone)]
pub struct AtRest {
    blocks: u64,
    block_size: u64,
    zeroes: u64,
    /// Hashes of the others, in the order in which they were drawn.
    hashes: Vec<u64>,
    /// Sum and sum of squares of what the others store.
    sum: f64,
    squares: f64,
}

impl AtRest {
    /// Nothing drawn yet of `blocks` blocks of `block_size` bytes.
    #[must_use]
    pub const fn new(blocks: u64, block_size: u64) -> Self {
        Self { blocks, block_size, zeroes: 0, hashes: Vec::new(), sum: 0.0, squares: 0.0 }
    }

    /// An all-zero block.
    pub const fn zero(&mut self) {
        self.zeroes += 1;
    }

    /// Another block: its hash and what it would store, in bytes.
    pub fn block(&mut self, hash: u64, stored: u64) {
        let share = real(stored) / real(self.block_size.max(1));
        self.hashes.push(hash);
        self.sum += share;
        self.squares += share * share;
    }

    fn others(&self) -> u64 {
        tap_block::units::count(self.hashes.len())
    }

    /// What they say; `None` while nothing was drawn.
    #[must_use]
    pub fn figures(&self) -> Option<AtRestFigures> {
        let sampled = self.zeroes + self.others();
        if sampled == 0 {
            return None;
        }
        let all = sampled >= self.blocks;
        let zero =
            if all { exactly(real(self.zeroes) / real(sampled)) } else { wilson(self.zeroes, sampled) };
        let others = real(self.blocks) * (1.0 - zero.middle);
        Some(AtRestFigures {
            blocks: self.blocks,
            sampled,
            zero,
            stored: mean(self.sum, self.squares, sampled, real(self.blocks)),
            compression: mean(self.sum, self.squares, self.others(), others),
            distinct: self.distinct(others, all),
        })
    }

    /// The share of distinct blocks among `population` blocks that are not zero.
    fn distinct(&self, population: f64, all: bool) -> Interval {
        let n = self.others();
        if n == 0 {
            return Interval { low: 0.0, middle: 0.0, high: 0.0 };
        }
        let counts = counts(&self.hashes);
        let seen = tap_block::units::count(counts.len());
        if all {
            return exactly(real(seen) / real(n));
        }
        let once = tap_block::units::count(counts.values().filter(|&&times| times == 1).count());
        let high = (wilson(once, n).high + real(seen - once) / population).min(1.0);
        let low = self.at_least(population).max(real(seen) / population).min(high);
        Interval { low, middle: (low * high).sqrt(), high }
    }

    /// The lower bound, by coincidences.
    fn at_least(&self, population: f64) -> f64 {
        let (first, second) = self.hashes.split_at(self.hashes.len() / 2);
        let everywhere: HashSet<u64> =
            counts(first).into_iter().filter(|&(_, times)| times > 1).map(|(hash, _)| hash).collect();
        let light: Vec<u64> = second.iter().copied().filter(|hash| !everywhere.contains(hash)).collect();
        let heavy = tap_block::units::count(second.len() - light.len());
        let rest = population * (1.0 - wilson(heavy, tap_block::units::count(second.len()).max(1)).high);
        let n = real(tap_block::units::count(light.len()));
        let pairs = n * (n - 1.0) / 2.0;
        if pairs < 1.0 || rest < 1.0 {
            return 0.0;
        }
        let coincidences: u64 = counts(&light).values().map(|&times| times * (times - 1) / 2).sum();
        let distinct = rest / (poisson_upper(coincidences) * rest / pairs + 1.0);
        (real(tap_block::units::count(everywhere.len())) + distinct) / population
    }
}

fn counts(hashes: &[u64]) -> HashMap<u64, u64> {
    let mut counts = HashMap::with_capacity(hashes.len());
    hashes.iter().for_each(|hash| *counts.entry(*hash).or_insert(0) += 1);
    counts
}

const fn exactly(value: f64) -> Interval {
    Interval { low: value, middle: value, high: value }
}

/// The mean of n values, of which there are `population`.
fn mean(sum: f64, squares: f64, n: u64, population: f64) -> Interval {
    let count = real(n);
    if n == 0 {
        return exactly(0.0);
    }
    let middle = sum / count;
    if n < FEW && count < population {
        return Interval { low: 0.0, middle, high: 1.0 };
    }
    let variance = ((squares - sum * middle) / (count - 1.0).max(1.0)).max(0.0);
    let half = Z * (variance / count * (1.0 - count / population).max(0.0)).sqrt();
    Interval { low: (middle - half).max(0.0), middle, high: middle + half }
}

/// Wilson's interval for `hits` of `n`.
fn wilson(hits: u64, n: u64) -> Interval {
    let (n, share) = (real(n), real(hits) / real(n.max(1)));
    let (square, scale) = (Z * Z, 1.0 + Z * Z / n);
    let centre = (share + square / (2.0 * n)) / scale;
    let half = Z / scale * (share * (1.0 - share) / n + square / (4.0 * n * n)).sqrt();
    Interval { low: (centre - half).max(0.0), middle: share, high: (centre + half).min(1.0) }
}

/// The mean of a Poisson distribution above which so few events come in one of forty cases (Byar's approximation).
fn poisson_upper(events: u64) -> f64 {
    let n = real(events) + 1.0;
    n * (1.0 - 1.0 / (9.0 * n) + Z / (3.0 * n.sqrt())).powi(3)
}

/// Numbers below `population`, each at most once, in random order: the first n of them are a simple random sample (Fisher and
/// Yates's shuffle, of which only the places that were touched are kept).
#[derive(Debug, Clone)]
pub struct Draw {
    population: u64,
    drawn: u64,
    moved: HashMap<u64, u64>,
    random: u64,
}

impl Draw {
    /// The same seed draws the same numbers.
    #[must_use]
    pub fn new(population: u64, seed: u64) -> Self {
        Self { population, drawn: 0, moved: HashMap::new(), random: seed }
    }

    /// The finalizer of `SplitMix64` (Steele and others 2014).
    const fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Iterator for Draw {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let left = self.population.checked_sub(self.drawn).filter(|&left| left > 0)?;
        // A modulus of 64 bits favours small numbers by less than one in 2^20 for any disk.
        let place = self.drawn + self.random() % left;
        let front = self.moved.remove(&self.drawn).unwrap_or(self.drawn);
        let found = if place == self.drawn {
            front
        } else {
            // What stood at the front goes where the drawn one stood.
            self.moved.insert(place, front).unwrap_or(place)
        };
        self.drawn += 1;
        Some(found)
    }
}

#[cfg(test)]
mod tests;
