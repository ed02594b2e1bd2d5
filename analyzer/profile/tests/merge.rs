//! Profiles of the parts of a trace, merged, are the profile of the trace.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs, reason = "tests")]

use std::time::Duration;

use analyzer_profile::cgp::{Clock, Mode, Record, Source, Tally};
use analyzer_profile::profile::MergeError;
use analyzer_profile::report::{Question, Report};
use analyzer_profile::{At, Bin, DeviceNo, Event, Kind, Profile, Sampler};
use proptest::prelude::*;

const RPOS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(15)];

fn any_events() -> impl Strategy<Value = Vec<Event>> {
    // From 2 ms on: nearer ones may share a batch, which is two when a seam lies between them.
    let one = (2_000_000..3_000_000_000_u64, 0..3_u32, 0..5_usize, 0..40_u64, 1..9_u64, any::<bool>());
    prop::collection::vec(one, 1..120).prop_map(|list| {
        let mut at = 1_700_000_000_123_456_789;
        list.into_iter()
            .map(|(gap, device, kind, block, blocks, told)| {
                at += gap;
                Event {
                    at: At::from_nanos(at),
                    device: DeviceNo::new(device),
                    // Writes most of all.
                    kind: *Kind::ALL.get(kind).unwrap_or(&Kind::Write),
                    offset: block * 4096,
                    length: blocks * 4096,
                    latency: told.then_some(gap),
                }
            })
            .collect()
    })
}

/// A profile whose seconds count from `begin`.
fn profile(events: &[Event], begin: At) -> Profile {
    let mut profile = Profile::new(&RPOS);
    profile.begin(begin);
    let source =
        Source { clock: Clock::Wall, mode: Mode::Events, host: "h".to_owned(), origin: "o".to_owned() };
    profile.take(Record::Source(source));
    profile.take(Record::Tally(Tally { accepted: events.len() as u64, ignored: 0, rejected: 1 }));
    events.iter().for_each(|event| profile.event(event));
    profile
}

/// All that is said, but for what takes the events in order, and how many parts rejected something.
fn said(mut profile: Profile) -> String {
    let question = Question { rpos: RPOS.to_vec(), link: Some([50_000.0; 168]), ..Question::default() };
    let mut report = Report::of(&mut profile, &question);
    report.required_bandwidth.iter_mut().for_each(|r| r.bytes_per_second_exact = None);
    report.quality.rejected = 1;
    format!("{report:#?}")
}

fn merged(parts: Vec<Profile>) -> Profile {
    parts.into_iter().fold(Profile::new(&RPOS), |mut all, part| {
        all.merge(part).unwrap();
        all
    })
}

proptest! {
    #[test]
    fn devices_recorded_apart_are_one_group(events in any_events()) {
        let begin = events[0].at;
        let part = |device| {
            let of_device: Vec<Event> = events.iter().copied().filter(|e| e.device.get() == device).collect();
            profile(&of_device, begin)
        };
        prop_assert_eq!(said(merged(vec![part(0), part(1), part(2)])), said(profile(&events, begin)));
        prop_assert_eq!(said(merged(vec![part(2), part(0), part(1)])), said(profile(&events, begin)));
    }

    #[test]
    fn a_run_behind_another_goes_on(events in any_events(), cut in 0..120_usize) {
        let begin = events[0].at;
        let (one, two) = events.split_at(cut.min(events.len()));
        let whole = said(profile(&events, begin));
        prop_assert_eq!(&said(merged(vec![profile(one, begin), profile(two, begin)])), &whole);
        prop_assert_eq!(&said(merged(vec![profile(two, begin), profile(one, begin)])), &whole);
    }

    /// A run with a beginning of its own, whole seconds later: its seconds fall into place.
    #[test]
    fn beginnings_whole_seconds_apart_fall_into_place(events in any_events(), cut in 0..120_usize) {
        let begin = events[0].at;
        let (one, two) = events.split_at(cut.min(events.len()));
        let Some(first) = two.first() else { return Ok(()) };
        let second = begin.plus(Duration::from_secs(first.at.since(begin).as_secs()));
        let mut both = merged(vec![profile(two, second), profile(one, begin)]);
        let mut whole = profile(&events, begin);
        prop_assert_eq!(both.bins(), whole.bins());
        prop_assert_eq!(both.first(), whole.first());
        prop_assert_eq!(both.sequential_writes, whole.sequential_writes);
        prop_assert_eq!(both.duration_seconds(), whole.duration_seconds());
        // More events go on in it.
        let next = Event { at: events[events.len() - 1].at.plus(Duration::from_millis(1)), ..events[0] };
        both.event(&next);
        whole.event(&next);
        prop_assert_eq!(both.bins(), whole.bins());
    }

    #[test]
    fn the_exact_figure_stays_where_only_one_has_writes(events in any_events()) {
        let begin = events[0].at;
        let (writes, others): (Vec<Event>, Vec<Event>) = events.iter().partition(|e| e.kind == Kind::Write);
        let both = merged(vec![profile(&others, begin), profile(&writes, begin)]);
        prop_assert_eq!(both.exact(RPOS[0]), profile(&events, begin).exact(RPOS[0]));
        let twice = merged(vec![profile(&writes, begin), profile(&writes, begin)]);
        prop_assert_eq!(twice.exact(RPOS[0]).is_none(), !writes.is_empty());
    }
}

#[test]
fn seconds_that_lie_across_each_other_are_refused() {
    let event = |nanos| Event {
        at: At::from_nanos(nanos),
        device: DeviceNo::new(0),
        kind: Kind::Write,
        offset: 0,
        length: 4096,
        latency: None,
    };
    let (mut one, two) = (profile(&[event(5)], At::from_nanos(5)), profile(&[event(9)], At::from_nanos(9)));
    let before = said(one.clone());
    let refused = one.merge(two).unwrap_err();
    assert_eq!(refused, MergeError::Seconds(4));
    assert!(refused.to_string().contains("4 ns off"), "{refused}");
    assert_eq!(said(one), before);
}

#[test]
fn contents_seen_apart_are_one_sample() {
    let begin = At::from_nanos(1_700_000_000_000_000_000);
    // Each has 300 contents of its own, 300 that the other has too, and 50 blocks of zeroes.
    let content = |device: u32| {
        let mut sampler = Sampler::new(DeviceNo::new(device), u64::from(device));
        for n in (0..300).chain((0..300).map(|n| 1000 * (device + 1) + n)) {
            sampler.write(begin, 0, &(n + 1).to_le_bytes().repeat(1024));
        }
        sampler.write(begin, 0, &[0; 50 * 4096]);
        Record::Content(sampler.take().unwrap())
    };
    let of = |devices: &[u32]| {
        let mut profile = profile(&[], begin);
        devices.iter().for_each(|&device| profile.take(content(device)));
        profile
    };
    let (both, whole) = (merged(vec![of(&[0]), of(&[1])]), of(&[0, 1]));
    assert_eq!((whole.contents.blocks(), whole.contents.zeroes()), (1300, 100));
    assert!(whole.contents.repeated_share().is_some_and(|share| share.value > 0.1));
    assert_eq!(said(both), said(whole));
}

#[test]
fn sums_of_seconds_merge_as_well() {
    let at = At::from_nanos(1_700_000_000_000_000_000);
    let counted = |device| {
        let mut profile = Profile::new(&RPOS);
        let bin = Bin { write_bytes: 4096, writes: 1, reads: 0, read_bytes: 0 };
        profile.take(Record::Counters { at, device: DeviceNo::new(device), bin });
        profile
    };
    let mut both = merged(vec![counted(0), counted(1)]);
    assert_eq!(both.bins().peak(), 8192);
    assert_eq!((both.writes.count, both.exact(RPOS[0])), (2, None));
    assert_eq!(both.duration_seconds(), 1.0);
}
