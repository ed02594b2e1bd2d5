//! C*(R) and what hangs on it, against definitions written down as they stand, quadratic and plain.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs, reason = "tests")]

use std::time::Duration;

use analyzer_profile::model::calendar::{Calendar, WEEK};
use analyzer_profile::model::drain::{Kept, constant, with_calendar};
use analyzer_profile::model::requirement::Requirement;
use analyzer_profile::model::{coverage, outage};
use analyzer_profile::{At, Bin, Bins};
use proptest::prelude::*;

/// max over i <= j of sum(A_i..A_j) / (t_j - t_i + R), pair by pair, as a fraction of whole numbers.
fn brute_force(arrivals: &[(u64, u64)], rpo: u64) -> f64 {
    let mut best = 0.0_f64;
    for i in 0..arrivals.len() {
        let mut sum = 0_u128;
        for j in i..arrivals.len() {
            sum += u128::from(arrivals[j].1);
            best = best.max(sum as f64 * 1e9 / (arrivals[j].0 - arrivals[i].0 + rpo) as f64);
        }
    }
    best
}

fn required(arrivals: &[(u64, u64)], rpo: u64) -> f64 {
    let mut requirement = Requirement::new(Duration::from_nanos(rpo));
    for &(at, bytes) in arrivals {
        requirement.arrive(At::from_nanos(at), bytes);
    }
    assert!(!requirement.is_lower_bound());
    requirement.rate().bytes_per_second()
}

fn bins(seconds: &[(u64, u64)]) -> Bins {
    let mut bins = Bins::default();
    for &(second, write_bytes) in seconds {
        bins.add(second, Bin { write_bytes, writes: 1, ..Bin::default() });
    }
    bins
}

fn binned(bins: &Bins, rpo: u64) -> f64 {
    let arrivals: Vec<_> = bins.written().map(|(s, b)| (s * 1_000_000_000, b)).collect();
    required(&arrivals, rpo * 1_000_000_000)
}

/// Times in order, with bursts at one moment, long gaps, and lengths over nine orders of magnitude.
fn arrivals() -> impl Strategy<Value = Vec<(u64, u64)>> {
    let gap = prop_oneof![Just(0_u64), 1..1000_u64, 1..2_000_000_000_u64, 1..1_000_000_000_000_u64];
    let bytes = prop_oneof![Just(0_u64), 1..10_000_u64, 1..4_000_000_000_u64];
    prop::collection::vec((gap, bytes), 1..120).prop_map(|steps| {
        let mut now = 0;
        steps
            .into_iter()
            .map(|(gap, bytes)| {
                now += gap;
                (now, bytes)
            })
            .collect()
    })
}

fn seconds() -> impl Strategy<Value = Vec<(u64, u64)>> {
    prop::collection::vec((prop_oneof![1..3_u64, 1..90_u64], 1..10_000_000_u64), 1..80).prop_map(|steps| {
        let mut now = 0;
        steps
            .into_iter()
            .map(|(gap, bytes)| {
                now += gap;
                (now - 1, bytes)
            })
            .collect()
    })
}

/// The queue written down second by second, without any cleverness: how many seconds have a lag above the RPO.
fn broken_by_hand(bins: &Bins, length: u64, rate: f64, rpo: f64) -> u64 {
    let map: std::collections::HashMap<_, _> = bins.written().collect();
    let (mut backlog, mut broken) = (0.0_f64, 0);
    for second in 0..length {
        backlog += *map.get(&second).unwrap_or(&0) as f64;
        broken += u64::from(backlog / rate > rpo);
        backlog = (backlog - rate).max(0.0);
    }
    broken
}

proptest! {
    #[test]
    fn the_hull_finds_what_trying_all_pairs_finds(trace in arrivals(), rpo in 1..600_000_000_000_u64) {
        let (fast, slow) = (required(&trace, rpo), brute_force(&trace, rpo));
        prop_assert!((fast - slow).abs() <= slow * 1e-12, "{fast} {slow}");
    }

    #[test]
    fn the_rate_keeps_the_rpo_and_a_hundredth_less_breaks_it(trace in seconds(), rpo in 1..300_u64) {
        let bins = bins(&trace);
        let rate = binned(&bins, rpo);
        let worst = |rate: f64| constant(&bins, rate).map(|lag| lag.seconds).fold(0.0, f64::max);
        prop_assert!(worst(rate * (1.0 + 1e-9)) <= rpo as f64);
        prop_assert!(worst(rate * 0.99) > rpo as f64);
    }

    #[test]
    fn it_falls_as_the_rpo_grows_from_the_peak_bin_on(trace in seconds()) {
        let bins = bins(&trace);
        let rates: Vec<f64> = [1, 2, 5, 15, 60, 300, 3600].iter().map(|&rpo| binned(&bins, rpo)).collect();
        prop_assert!(rates.windows(2).all(|pair| pair[0] >= pair[1]));
        prop_assert!((rates[0] - bins.peak() as f64).abs() < 1e-6);
        let last = trace.last().unwrap().0 - trace[0].0;
        let whole = bins.total() as f64 / (last + 3600) as f64;
        prop_assert!(rates[6] >= whole * (1.0 - 1e-12));
    }

    #[test]
    fn a_share_of_the_time_is_counted_as_by_hand(trace in seconds(), rpo in 1..60_u64, q in 0.5..1.0_f64) {
        let (bins, length) = (bins(&trace), trace.last().unwrap().0 + 1);
        let always = binned(&bins, rpo);
        let rate = coverage::rate_for(&bins, length, rpo as f64, q, always);
        prop_assert!(rate <= always);
        let may = length as f64 * (1.0 - q);
        prop_assert!(broken_by_hand(&bins, length, rate * 1.000_001, rpo as f64) as f64 <= may);
        prop_assert!(broken_by_hand(&bins, length, rate * 0.999, rpo as f64) as f64 > may || rate < 1.0);
    }

    #[test]
    fn a_calendar_with_one_rate_is_that_rate(trace in seconds(), rate in 1_000.0..5e6_f64) {
        let bins = bins(&trace);
        let mut nearly = [rate; WEEK];
        nearly[167] = rate + 1e-6; // not constant, so that it is served hour by hour
        let slow = with_calendar(&bins, &Calendar::new(nearly, 0));
        for (lag, fast) in slow.iter().zip(constant(&bins, rate)) {
            prop_assert!((lag.seconds - fast.seconds).abs() < 1e-3 * fast.seconds.max(1.0), "{lag:?} {fast:?}");
        }
    }

    #[test]
    fn the_fullest_window_is_found(trace in seconds(), length in 1..200_u64) {
        let map: std::collections::HashMap<_, _> = trace.iter().copied().collect();
        let end = trace.last().unwrap().0;
        let slow = (0..=end).map(|b| (b..b + length).filter_map(|s| map.get(&s)).sum::<u64>()).max().unwrap();
        let bins = bins(&trace);
        prop_assert_eq!(outage::worst(&bins, length).spool, slow);
        if let Some(seconds) = outage::survived(&bins, end + 1, slow) {
            prop_assert!(outage::worst(&bins, seconds).spool <= slow);
            prop_assert!(seconds >= length.min(end));
        }
    }
}

#[test]
fn steady_writes_tend_to_the_mean() {
    let bins = bins(&(0..100_000).map(|s| (s, 4096)).collect::<Vec<_>>());
    assert!((binned(&bins, 60) / 4096.0 - 1.0).abs() < 0.001);
}

#[test]
fn a_gap_of_thirty_years_costs_nothing() {
    let trace = [(0, 1 << 20), (1_000_000_000, 1 << 21)];
    assert!((binned(&bins(&trace), 2) - f64::from(1 << 20)).abs() < 1e-6);
    let kept = Kept::judge(with_calendar(&bins(&trace), &calendar_with_night(1e6)).into_iter(), 1.0);
    assert_eq!(kept.count, 2);
}

/// Nothing by day, `rate` from 00:00 to 06:00.
fn calendar_with_night(rate: f64) -> Calendar {
    Calendar::new(std::array::from_fn(|hour| if hour % 24 < 6 { rate } else { 0.0 }), 0)
}

#[test]
fn by_day_writes_wait_for_the_night() {
    // Written at noon, carried away at midnight in 10 s: 12 hours and 10 seconds.
    let lags = with_calendar(&bins(&[(12 * 3600, 10_000_000)]), &calendar_with_night(1e6));
    assert!((lags[0].seconds - 43_210.0).abs() < 1e-6, "{lags:?}");
    // A petabyte at 6 hours of 1 byte/s a day takes 127 million years, and no time to find out.
    let ages = with_calendar(&bins(&[(0, 1_000_000_000_000_000)]), &calendar_with_night(1.0));
    assert!((ages[0].seconds / 4e15 - 1.0).abs() < 1e-6, "{ages:?}");
    let never = with_calendar(&bins(&[(0, 1)]), &Calendar::always(0.0));
    assert!(never[0].seconds.is_infinite());
}

#[test]
fn a_stretch_with_the_rpo_broken_is_told_whole() {
    // 100 bytes at 10 a second: lag 10 s, above 4 s for 6 s. Again when the queue is not yet empty, and far behind.
    let bins = bins(&[(0, 100), (5, 10), (100, 100)]);
    let kept = Kept::judge(constant(&bins, 10.0), 4.0);
    assert_eq!((kept.count, kept.broken_seconds), (2, 7 + 6));
    assert_eq!((kept.violations[0].start, kept.violations[0].seconds), (0, 7));
    assert!((kept.worst_lag_seconds - 10.0).abs() < 1e-9);
}

#[test]
fn behind_an_outage_the_link_catches_up() {
    let bins = bins(&(0..1000).map(|s| (s, 100)).collect::<Vec<_>>());
    let worst = outage::worst(&bins, 60);
    assert_eq!(worst.spool, 6000);
    // 100 a second go on coming, 200 leave: 6000 more take 60 s, wherever in the trace it falls.
    let seconds = outage::catch_up(&bins, 1000, worst, 60, 200.0).unwrap();
    assert!((seconds - 60.0).abs() < 2.0, "{seconds}");
    assert_eq!(outage::survived(&bins, 1000, 6050), Some(60));
    assert_eq!(outage::survived(&bins, 1000, 100_000), None);
}
