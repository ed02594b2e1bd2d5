//! I/Os and their ends: merged, split, lost.

use super::*;

fn event(at: u64, kind: Kind, offset: u64, length: u64) -> Event {
    Event { at: At::from_nanos(at), device: DeviceNo::new(1), kind, offset, length, latency: None }
}

fn done(at: u64, kind: Kind, offset: u64, length: u64) -> Completion {
    Completion { at: At::from_nanos(at), device: DeviceNo::new(1), kind, offset, length }
}

fn released(latencies: &mut Latencies) -> Vec<(u64, Option<u64>)> {
    let mut out = Vec::new();
    latencies.release(&mut out);
    out.iter().map(|e| (e.at.nanos(), e.latency)).collect()
}

#[test]
fn one_request_ends_all_that_it_carried_and_two_end_one() {
    let mut all = Latencies::new(Duration::from_secs(1));
    all.submit(event(10, Kind::Write, 0, 4096));
    all.submit(event(11, Kind::Write, 4096, 4096));
    all.submit(event(12, Kind::Read, 4096, 4096));
    all.submit(event(13, Kind::Flush, 0, 0));
    all.submit(event(14, Kind::Write, 65536, 8192));
    all.complete(&done(20, Kind::Write, 0, 8192));
    assert_eq!(released(&mut all), [(10, Some(10)), (11, Some(9))], "the read is not done");
    all.complete(&done(25, Kind::Write, 65536, 4096));
    all.complete(&done(27, Kind::Read, 4096, 4096));
    assert_eq!(released(&mut all), [(12, Some(15)), (13, None)]);
    all.complete(&done(30, Kind::Write, 65536 + 4096, 4096));
    assert_eq!(released(&mut all), [(14, Some(16))]);
}

#[test]
fn an_end_that_never_comes_holds_up_for_the_patience_alone() {
    let mut all = Latencies::new(Duration::from_nanos(100));
    all.submit(event(10, Kind::Write, 0, 4096));
    all.submit(event(11, Kind::Write, 4096, 4096));
    all.complete(&done(12, Kind::Write, 4096, 4096));
    assert_eq!(released(&mut all), []);
    all.submit(event(111, Kind::Write, 8192, 4096));
    assert_eq!(released(&mut all), [(10, None), (11, Some(1))]);
    // The end of a write before is not the end of the next one at its place.
    all.complete(&done(110, Kind::Write, 8192, 4096));
    assert_eq!(released(&mut all), []);
    let mut rest = Vec::new();
    all.release_all(&mut rest);
    assert_eq!(rest, [event(111, Kind::Write, 8192, 4096)]);
}

#[test]
fn ends_that_are_never_told_take_bounded_memory() {
    let mut all = Latencies::new(Duration::from_secs(3600));
    let mut out = Vec::new();
    for n in 0..300_000 {
        all.submit(event(n, Kind::Write, n * 4096, 4096));
        all.release(&mut out);
    }
    assert_eq!(out.len(), 300_000 - MOST);
    assert!(all.places.len() <= 2 * MOST, "{}", all.places.len());
}

#[test]
fn an_end_at_the_end_of_all_places_is_one_too() {
    let mut all = Latencies::new(Duration::from_secs(1));
    all.submit(event(1, Kind::Write, u64::MAX, u64::MAX));
    all.complete(&done(3, Kind::Write, u64::MAX, 1));
    all.complete(&done(3, Kind::Write, 0, u64::MAX));
    assert_eq!(released(&mut all), [(1, Some(2))]);
}
