//! Intervals against populations that are known.

use super::*;

/// A population: what block `n` holds, `None` for zeroes, and what it stores.
type Population = fn(u64) -> (Option<u64>, u64);

const BLOCKS: u64 = 200_000;

fn sampled(population: Population, n: usize, seed: u64) -> AtRestFigures {
    let mut drawn = AtRest::new(BLOCKS, 4096);
    for block in Draw::new(BLOCKS, seed).take(n) {
        match population(block) {
            (None, _) => drawn.zero(),
            (Some(hash), stored) => drawn.block(hash, stored),
        }
    }
    drawn.figures().unwrap()
}

/// How often the truth lies in each interval, of a hundred samples: zero, stored, compression, distinct.
fn held(population: Population, n: usize) -> [usize; 4] {
    let truth = sampled(population, usize::MAX, 0);
    assert_eq!(truth.sampled, BLOCKS, "all of it: exact");
    assert_eq!(truth.distinct.low, truth.distinct.high);
    let mut held = [0; 4];
    for seed in 1..=100 {
        let found = sampled(population, n, seed);
        let within = |found: Interval, truth: Interval| {
            usize::from(found.low <= truth.middle + 1e-12 && truth.middle <= found.high + 1e-12)
        };
        held[0] += within(found.zero, truth.zero);
        held[1] += within(found.stored, truth.stored);
        held[2] += within(found.compression, truth.compression);
        held[3] += within(found.distinct, truth.distinct);
    }
    held
}

#[test]
fn the_truth_lies_in_nearly_every_interval() {
    let populations: [(&str, Population); 5] = [
        ("all different", |n| (Some(n), 1000 + n % 3000)),
        ("each twice", |n| (Some(n / 2), 4108)),
        ("a tenth everywhere the same, a third zero", |n| match n % 30 {
            0..10 => (None, 0),
            10..13 => (Some(u64::MAX), 60),
            _ => (Some(n), 2000),
        }),
        ("a hundred blocks, over and over", |n| (Some(n % 100), n % 100 * 40)),
        ("half from a pool of a thousand", |n| (Some(if n % 2 == 0 { n } else { n % 1000 }), 3000)),
    ];
    for (name, population) in populations {
        for n in [500, 8000] {
            let held = held(population, n);
            assert!(held.iter().all(|&times| times >= 90), "{name}, {n}: {held:?}");
        }
    }
}

#[test]
fn more_samples_say_more_of_doubles() {
    let different: Population = |n| (Some(n), 4108);
    let (few, many) = (sampled(different, 500, 7).distinct, sampled(different, 20_000, 7).distinct);
    assert!(few.low < 0.5 && few.high > 0.99, "{few:?}");
    assert!(many.low > 0.95 && many.high > 0.99, "{many:?}");
    let doubles: Population = |n| (Some(n / 4), 4108);
    let found = sampled(doubles, 60_000, 7).distinct;
    assert!(found.high < 0.6 && found.low > 0.2, "{found:?}");
}

#[test]
fn few_blocks_give_no_interval_and_none_no_figures() {
    assert_eq!(AtRest::new(10, 4096).figures(), None);
    let few = sampled(|n| (Some(n), 2048), 5, 1);
    assert_eq!(few.compression, Interval { low: 0.0, middle: 0.5, high: 1.0 });
    let mut zeroes = AtRest::new(1 << 40, 4096);
    (0..100).for_each(|_| zeroes.zero());
    let figures = zeroes.figures().unwrap();
    assert_eq!((figures.zero.middle, figures.stored.middle, figures.distinct.high), (1.0, 0.0, 0.0));
    assert!(figures.zero.low > 0.95);
}

#[test]
fn each_number_is_drawn_once() {
    for population in [1_u64, 2, 7, 1000] {
        let mut all: Vec<u64> = Draw::new(population, 3).collect();
        assert!(population < 7 || !all.is_sorted(), "in random order");
        all.sort_unstable();
        assert_eq!(all, (0..population).collect::<Vec<_>>());
    }
    let first: Vec<u64> = (0..1000).map(|seed| Draw::new(4, seed).next().unwrap()).collect();
    for number in 0..4 {
        let times = first.iter().filter(|&&n| n == number).count();
        assert!((200..300).contains(&times), "{number}: {times}");
    }
    assert!(Draw::new(u64::MAX, 1).take(1000).collect::<HashSet<_>>().len() == 1000);
}
