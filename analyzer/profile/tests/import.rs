//! Traces of other programs: lines as those programs write them, what is told apart, what is refused.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs, reason = "tests")]

use analyzer_profile::import::{Format, Importer, Refusal, write_blktrace, write_line};
use analyzer_profile::{At, DeviceNo, Event, Kind};
use proptest::prelude::*;

/// Detects and reads it in pieces of so many bytes.
fn import(bytes: &[u8], piece: usize) -> (Importer, Vec<Event>) {
    let (mut importer, mut events) = (Importer::detect(bytes).unwrap(), Vec::new());
    bytes.chunks(piece).for_each(|chunk| importer.push(chunk, &mut events));
    importer.finish(&mut events);
    (importer, events)
}

fn one(text: &str) -> (Format, Event, String) {
    let (importer, events) = import(text.as_bytes(), 7);
    assert_eq!(events.len(), 1, "{text}: {:?}", importer.rejected());
    (importer.format(), events[0], importer.devices()[0].clone())
}

fn event(nanos: u64, kind: Kind, offset: u64, length: u64, latency: Option<u64>) -> Event {
    Event { at: At::from_nanos(nanos), device: DeviceNo::new(0), kind, offset, length, latency }
}

#[test]
fn a_line_of_each_format_is_what_it_says() {
    let cases = [
        (
            "128166372003061629,usr,0,Read,7014609920,24576,41286\n",
            (
                Format::Msr,
                event(1_172_163_600_306_162_900, Kind::Read, 7_014_609_920, 24576, Some(4_128_600)),
                "usr,0",
            ),
        ),
        (
            "Timestamp,Response,IOType,LUN,Offset,Size\n1456106400.012345,0.000250,W,4,8192,16384",
            (Format::Systor, event(1_456_106_400_012_345_000, Kind::Write, 8192, 16384, Some(250_000)), "4"),
        ),
        (
            "1538323200,12312,8,1,1283\r\n",
            (Format::Tencent, event(1_538_323_200_000_000_000, Kind::Write, 12312 * 512, 4096, None), "1283"),
        ),
        (
            "419,W,8792731648,16384,1577808144360767\n",
            (
                Format::Alibaba,
                event(1_577_808_144_360_767_000, Kind::Write, 8_792_731_648, 16384, None),
                "419",
            ),
        ),
        (
            "Copyright somebody; all rights.\nfree text\nstart ; sector; length ; op ;  replay_delay=0 ; replay_duration=0\n      0.449518165 ;     37766917 ;   14 ; W ; 0.0 ; 0.0\n",
            (
                Format::Blkreplay,
                event(449_518_165, Kind::Write, 37_766_917 * 512, 14 * 512, None),
                "blkreplay",
            ),
        ),
        (
            "fio version 3 iolog\n34 /dev/sdb add\n281 /dev/sdb open\n286 /dev/sdb write 61440 4096\n490 /dev/sdb close\n",
            (Format::Fio3, event(286_000, Kind::Write, 61440, 4096, None), "/dev/sdb"),
        ),
        (
            "fio version 2 iolog\n/dev/sdb add\n/dev/sdb open\n/dev/sdb wait 1500 0\n/dev/sdb read 512 1024\n/dev/sdb close\n",
            (Format::Fio2, event(1_500_000, Kind::Read, 512, 1024, None), "/dev/sdb"),
        ),
        (
            "  8,0    3        1     0.000001234   697  Q  WS 223490 + 8 [kjournald]\n  8,0    3        2     0.000001299   697  G  WS 223490 + 8 [kjournald]\nCPU0 (8,0):\n Reads Queued:           0,        0KiB\n",
            (Format::Blkparse, event(1234, Kind::Write, 223_490 * 512, 4096, None), "8,0"),
        ),
    ];
    for (text, (format, expected, device)) in cases {
        assert_eq!(one(text), (format, expected, device.to_owned()));
    }
}

#[test]
fn a_read_ahead_is_a_read() {
    let text = "start ; sector; length ; op ;  replay_delay=0 ; replay_duration=0\nCopyright\n 25.0 ; 8 ; 8 ;RA ; 0.0 ; 0.0\n";
    assert_eq!(one(text).1, event(25_000_000_000, Kind::Read, 4096, 4096, None));
}

#[test]
fn flushes_and_discards_are_no_writes() {
    let text = "  8,0 0 1 0.0 1 Q FWS [x]\n  8,0 0 2 0.1 1 Q D 8 + 8 [x]\n  8,0 0 3 0.2 1 Q WFS 8 + 8 [x]\n  8,0 0 4 0.3 1 Q FN [x]\n";
    let (_, events) = import(text.as_bytes(), 1000);
    // The kernel writes FWS for a write that is to be behind a flush; without a range it is the flush alone.
    let kinds: Vec<Kind> = events.iter().map(|e| e.kind).collect();
    assert_eq!(kinds, [Kind::Discard, Kind::Write, Kind::Flush]);
}

#[test]
fn what_is_no_trace_is_refused_with_the_reason() {
    assert_eq!(Importer::detect(b"").unwrap_err(), Refusal::Empty);
    assert!(
        matches!(Importer::detect(b"\x7fELF\x02\x01\x01\0\0\0").unwrap_err(), Refusal::Binary(s) if s.starts_with("7f 45"))
    );
    let said = Importer::detect(b"dear diary,\ntoday I wrote to a disk\n").unwrap_err().to_string();
    assert!(said.contains("\"dear diary,\"") && said.contains("alibaba"), "{said}");
}

#[test]
fn rejected_lines_are_counted_and_named() {
    let text = "419,W,0,4096,1000\n419,X,0,4096,1000\n\ngarbage\n420,R,0,512,2000\n419,W,1,2\n";
    let (importer, events) = import(text.as_bytes(), 3);
    assert_eq!(events.len(), 2);
    let tally = importer.tally();
    assert_eq!((tally.accepted, tally.ignored, tally.rejected), (2, 1, 3));
    assert_eq!(importer.rejected().iter().map(|r| r.place).collect::<Vec<_>>(), [2, 4, 6]);
}

#[test]
fn a_line_without_end_does_not_fill_the_memory() {
    let mut text = b"419,W,0,4096,1000\n".to_vec();
    text.extend(vec![b'9'; 1 << 20]);
    text.extend_from_slice(b"\n419,W,0,4096,2000\n");
    let (importer, events) = import(&text, 1000);
    assert_eq!((events.len(), importer.tally().rejected), (2, 1));
}

fn blktrace(events: &[Event]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (n, event) in events.iter().enumerate() {
        assert!(write_blktrace(event, "8,16", u32::try_from(n).unwrap(), &mut bytes));
    }
    bytes
}

#[test]
fn noise_between_records_of_blktrace_is_passed_over() {
    let events = [event(5, Kind::Write, 512, 4096, None), event(9, Kind::Read, 0, 512, None)];
    let mut bytes = blktrace(&events[..1]);
    bytes.extend_from_slice(b"some noise");
    bytes.extend(blktrace(&events[1..]));
    bytes.extend_from_slice(&bytes.clone()[..20]);
    for piece in [1, 5, 48, 1000] {
        let (importer, found) = import(&bytes, piece);
        assert_eq!(found, events);
        assert_eq!(importer.devices(), ["8,16"]);
        assert!(importer.tally().rejected >= 2);
    }
}

#[test]
fn the_earliest_stage_of_a_trace_is_counted() {
    let mut complete = blktrace(&[event(5, Kind::Write, 512, 4096, None)]);
    complete[28..30].copy_from_slice(&8_u16.to_le_bytes());
    assert_eq!(import(&complete, 48).1.len(), 1, "where there are completions only they count");
    let mut both = complete.clone();
    both.extend(blktrace(&[event(5, Kind::Write, 512, 4096, None)]));
    assert_eq!(import(&both, 48).1.len(), 1, "and not beside the I/O's own queue event");
    // A processor that only completes, of a trace that has queue events elsewhere.
    let (mut importer, mut events) = (Importer::detect(&complete).unwrap(), Vec::new());
    importer.count(analyzer_profile::import::Action::Queue);
    importer.push(&complete, &mut events);
    assert_eq!(events, []);
}

#[test]
fn a_trace_of_the_other_byte_order_is_read() {
    let ours = blktrace(&[event(5, Kind::Write, 512, 4096, None)]);
    // Each field turned round: 4 4 8 8 4 4 4 4 4 2 2.
    let (mut theirs, mut at) = (Vec::new(), 0);
    for width in [4, 4, 8, 8, 4, 4, 4, 4, 4, 2, 2] {
        theirs.extend(ours[at..at + width].iter().rev());
        at += width;
    }
    assert_eq!(import(&theirs, 48).1, [event(5, Kind::Write, 512, 4096, None)]);
}

/// I/Os that every format can say: whole sectors, and times in what it counts in.
fn any_events(grain: u64) -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec((0..1_000_000_u64, any::<bool>(), 0..1_u64 << 30, 1..2048_u64), 1..60).prop_map(
        move |list| {
            let mut at = 1_600_000_000_000_000_000;
            let next = |(gap, read, sector, sectors): (u64, bool, u64, u64)| {
                at += gap * grain;
                let kind = if read { Kind::Read } else { Kind::Write };
                event(at, kind, sector * 512, sectors * 512, None)
            };
            list.into_iter().map(next).collect()
        },
    )
}

proptest! {
    #[test]
    fn lines_written_are_lines_read(events in any_events(1_000_000_000), piece in 1..300_usize) {
        let formats = [Format::Msr, Format::Systor, Format::Tencent, Format::Alibaba, Format::Blkreplay, Format::Fio2, Format::Fio3];
        for format in formats {
            let mut text = match format {
                Format::Fio2 => b"fio version 2 iolog\n".to_vec(),
                Format::Fio3 => b"fio version 3 iolog\n".to_vec(),
                _ => Vec::new(),
            };
            let device = if format == Format::Msr { "host,3" } else { "12" };
            let mut before = At::default();
            for event in &events {
                let with = if format == Format::Msr { Event { latency: Some(700), ..*event } } else { *event };
                prop_assert!(write_line(format, &with, device, before, &mut text));
                before = event.at;
            }
            let (importer, found) = import(&text, piece);
            prop_assert_eq!(importer.format(), format);
            let found: Vec<_> = found.into_iter().map(|e| Event { latency: None, ..e }).collect();
            prop_assert_eq!(&found, &events);
            prop_assert_eq!(importer.tally().rejected, 0);
        }
    }

    #[test]
    fn records_written_are_records_read(events in any_events(1), piece in 1..300_usize) {
        let (importer, found) = import(&blktrace(&events), piece);
        prop_assert_eq!(importer.format(), Format::Blktrace);
        prop_assert_eq!(found, events);
    }

    #[test]
    fn no_bytes_stop_the_importer(mut bytes in prop::collection::vec(any::<u8>(), 1..2000), piece in 1..100_usize, format in 0..9_usize) {
        for text in [false, true] {
            if text {
                bytes.iter_mut().for_each(|b| *b = b"0123456789,;. +RWQ\n"[usize::from(*b) % 19]);
            }
            let mut reads = [piece, 1 << 20].map(|piece| {
                let (mut importer, mut events) = (Importer::of(Format::ALL[format], &bytes), Vec::new());
                bytes.chunks(piece).for_each(|chunk| importer.push(chunk, &mut events));
                importer.finish(&mut events);
                (events, importer.tally())
            });
            if format == 0 {
                // How much noise makes one rejected stretch depends on the pieces; the I/Os do not.
                reads.iter_mut().for_each(|(_, tally)| tally.rejected = 0);
            }
            prop_assert_eq!(&reads[0], &reads[1]);
        }
    }
}
