//! The `.cgp` format: golden bytes, round trips, damage.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs, reason = "tests")]

use analyzer_profile::cgp::{CgpError, Clock, Found, Mode, Reader, Record, Source, Tally, encode};
use analyzer_profile::content::{Content, Packed};
use analyzer_profile::{At, Bin, DeviceNo, Event, Kind};
use proptest::prelude::*;

const GOLDEN: &[u8] = include_bytes!("golden/v1.cgp");
/// A kind that came later: readers from before it leave it out and say so.
const GOLDEN_CONTENT: &[u8] = include_bytes!("golden/content.cgp");

fn records() -> Vec<Record> {
    let event = |at: u64, device: u32, kind, offset: u64, length: u64, latency| Event {
        at: At::from_nanos(at),
        device: DeviceNo::new(device),
        kind,
        offset,
        length,
        latency,
    };
    let origin = "example 1".to_owned();
    vec![
        Record::Source(Source { clock: Clock::Wall, mode: Mode::Events, host: "db01".to_owned(), origin }),
        Record::Device { device: DeviceNo::new(7), name: "sda".to_owned() },
        Record::Events(vec![
            event(1_700_000_000_000_000_000, 7, Kind::Write, 4096, 8192, None),
            event(1_700_000_000_000_000_500, 7, Kind::Write, 12288, 8192, Some(250_000)),
            event(1_699_999_999_000_000_000, 8, Kind::Read, 0, 512, None),
            event(1_700_000_001_000_000_000, 8, Kind::Flush, 0, 0, None),
            event(u64::MAX, u32::MAX, Kind::Discard, u64::MAX, u64::MAX, Some(u64::MAX)),
        ]),
        Record::Counters {
            at: At::from_nanos(1_700_000_002_000_000_000),
            device: DeviceNo::new(7),
            bin: Bin { write_bytes: 1 << 40, writes: 70_000, reads: 3, read_bytes: 12_288 },
        },
        Record::Loss { from: At::from_nanos(1), to: At::from_nanos(2_000_000_000), events: 17 },
        Record::Tally(Tally { accepted: 5, ignored: 2, rejected: 1 }),
    ]
}

fn encoded(records: &[Record]) -> Vec<u8> {
    let mut out = Vec::new();
    for record in records {
        encode(record, &mut out).unwrap();
    }
    out
}

fn found(bytes: &[u8], piece: usize) -> Vec<Found> {
    let (mut reader, mut all) = (Reader::default(), Vec::new());
    for chunk in bytes.chunks(piece) {
        reader.push(chunk);
        while let Some(found) = reader.next(false).unwrap() {
            all.push(found);
        }
    }
    while let Some(found) = reader.next(true).unwrap() {
        all.push(found);
    }
    all
}

#[test]
fn version_1_is_what_it_was() {
    assert_eq!(encoded(&records()), GOLDEN, "the format changed: that takes a new version");
    let expected: Vec<_> = records().into_iter().map(Found::Record).collect();
    assert_eq!(found(GOLDEN, 4096), expected);
    assert_eq!(found(GOLDEN, 1), expected);
}

fn content() -> Content {
    Content {
        from: At::from_nanos(1_700_000_000_000_000_000),
        to: At::from_nanos(1_700_000_001_000_000_000),
        device: DeviceNo::new(7),
        blocks: 300,
        zeroes: 44,
        packed: Packed { count: 16, bytes: 30_000, squares: 70_000_000 },
        share_bits: 4,
        hashes: vec![0, 0x0fff_ffff_ffff_ffff, 0x0123_4567_89ab_cdef],
    }
}

#[test]
fn content_frames_are_what_they_were() {
    let records = [Record::Content(content())];
    assert_eq!(encoded(&records), GOLDEN_CONTENT, "the format changed: that takes a new kind");
    assert_eq!(found(GOLDEN_CONTENT, 3), records.map(Found::Record));
}

#[test]
fn content_that_cannot_be_is_refused() {
    let refused = |change: &dyn Fn(&mut Content)| {
        let mut content = content();
        change(&mut content);
        let mut reader = Reader::default();
        reader.push(&encoded(&[Record::Content(content)]));
        matches!(reader.next(true), Err(CgpError::Body(_)))
    };
    assert!(!refused(&|_| ()));
    assert!(refused(&|c| c.zeroes = 301), "more zeroes than blocks");
    assert!(refused(&|c| c.packed.count = 257), "more packed than not all zeroes");
    assert!(refused(&|c| c.hashes.push(1 << 60)), "a hash of another sample");
    assert!(refused(&|c| c.share_bits = 64), "of one in 2^64");
}

#[test]
fn a_newer_version_is_refused_and_an_unknown_kind_left_out() {
    let sealed = |version: u8, kind: u8| {
        let mut bytes = b"cgpf".to_vec();
        bytes.extend_from_slice(&[version, kind, 0, 0, 1, 0, 0, 0]);
        let mut hashed = bytes.clone();
        hashed.push(b'!');
        bytes.extend_from_slice(&xxhash_rust::xxh3::xxh3_64(&hashed).to_le_bytes());
        bytes.push(b'!');
        bytes
    };
    assert_eq!(found(&sealed(1, 200), 64), [Found::Unknown(200)]);
    let mut reader = Reader::default();
    reader.push(&sealed(2, 1));
    assert_eq!(reader.next(false), Err(CgpError::Newer { found: 2 }));
}

#[test]
fn a_file_that_was_cut_keeps_its_whole_frames() {
    for cut in 0..GOLDEN.len() {
        let all = found(&GOLDEN[..cut], 64);
        let lost: u64 = all.iter().map(|f| if let Found::Lost(n) = f { *n } else { 0 }).sum();
        let whole = all.iter().filter(|f| matches!(f, Found::Record(_))).count();
        let kept = encoded(&records()[..whole]);
        assert_eq!(kept.len() as u64 + lost, cut as u64);
    }
}

#[test]
fn a_changed_byte_loses_its_frame_and_no_other() {
    for at in 0..GOLDEN.len() {
        let mut bytes = GOLDEN.to_vec();
        bytes[at] ^= 0x20;
        let (mut reader, mut whole) = (Reader::default(), 0);
        reader.push(&bytes);
        while let Ok(Some(found)) = reader.next(true) {
            if let Found::Record(record) = found {
                assert!(records().contains(&record), "byte {at} gave {record:?}");
                whole += 1;
            }
        }
        assert_eq!(whole, records().len() - 1, "byte {at}");
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    let number = || prop_oneof![0..300_u64, any::<u64>()];
    (number(), 0..3_u32, 0..4_usize, number(), number(), prop::option::of(number())).prop_map(
        |(at, device, kind, offset, length, latency)| Event {
            at: At::from_nanos(at),
            device: DeviceNo::new(device),
            kind: Kind::ALL[kind],
            offset,
            length,
            latency,
        },
    )
}

proptest! {
    #[test]
    fn events_survive_their_bytes(events in prop::collection::vec(any_event(), 0..200), piece in 1..400_usize) {
        let records = [Record::Events(events)];
        prop_assert_eq!(found(&encoded(&records), piece), records.map(Found::Record));
    }

    #[test]
    fn noise_is_no_profile(mut noise in prop::collection::vec(any::<u8>(), 0..3000), at in 0..3000_usize) {
        let at = at.min(noise.len());
        noise.splice(at..at, b"cgpf\x01\x03\0\0\x10\0\0\0".iter().copied());
        let all = found(&noise, 512);
        prop_assert!(all.iter().all(|f| matches!(f, Found::Lost(_))), "{:?}", all);
    }
}
