//! Traces of other programs: lines as those programs write them, what is told apart, what is refused.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs, reason = "tests")]

use analyzer_profile::import::{Action, Completion, Format, Importer, Latencies, Refusal, write};
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
        (
            "1250000000 3 128 8 0\n",
            (Format::Mqsim, event(1_250_000_000, Kind::Write, 128 * 512, 4096, None), "3"),
        ),
    ];
    for (text, (format, expected, device)) in cases {
        assert_eq!(one(text), (format, expected, device.to_owned()));
    }
}

/// The I/Os of a fixture, read in pieces, and the names of its devices.
fn fixture(bytes: &[u8], format: Format) -> (Vec<Event>, Vec<String>) {
    let mut reads = [1, 13, 1 << 20].map(|piece| {
        let (importer, events) = import(bytes, piece);
        assert_eq!(importer.format(), format);
        (events, importer.devices().to_vec(), importer.tally())
    });
    assert_eq!(reads[0], reads[1]);
    assert_eq!(reads[1], reads[2]);
    assert_eq!(reads[0].2.rejected, 0);
    let (events, devices, _) = std::mem::take(&mut reads[0]);
    (events, devices)
}

/// The I/Os of both fixtures of vscsiStats; an INQUIRY among them moves no data.
fn vscsi_events(with_latency: bool) -> Vec<Event> {
    let micros = |micros: u64| (with_latency && micros > 0).then_some(micros * 1000);
    let at = |micros: u64| (2_756_000_000_000 + micros) * 1000;
    vec![
        event(at(778_716_647), Kind::Write, 24_048_792 * 512, 4096, micros(310)),
        event(at(783_857_269), Kind::Write, 6_322_464 * 512, 4096, micros(250)),
        event(at(783_857_712), Kind::Read, 6_234_880 * 512, 8192, micros(4000)),
        event(at(797_029_103), Kind::Write, 23_749_656 * 512, 4608, micros(0)),
        event(at(797_702_520), Kind::Flush, 0, 0, micros(90)),
        event(at(802_107_736), Kind::Write, (1 << 33) * 512, 65536, micros(700)),
        event(at(802_107_740), Kind::Discard, 100 * 512, 24, micros(1)),
    ]
}

#[test]
fn both_versions_of_vscsi_stats_are_read() {
    let one = fixture(include_bytes!("fixtures/vscsi1.trace"), Format::Vscsi1);
    assert_eq!(one, (vscsi_events(false), vec!["vscsi".to_owned()]));
    let two = fixture(include_bytes!("fixtures/vscsi2.trace"), Format::Vscsi2);
    assert_eq!(two, (vscsi_events(true), vec!["vscsi".to_owned()]));
}

#[test]
fn a_trace_for_mqsim_is_read() {
    let (events, devices) = fixture(include_bytes!("fixtures/mqsim.trace"), Format::Mqsim);
    let mut last = event(1_250_000_000, Kind::Write, 128 * 512, 4096, None);
    last.device = DeviceNo::new(1);
    let first = event(32_200, Kind::Read, 7_441_224 * 512, 4096, None);
    assert_eq!(events, [first, event(96_000, Kind::Write, 7_441_232 * 512, 8192, None), last]);
    assert_eq!(devices, ["0", "1"]);
}

#[test]
fn noise_in_a_trace_of_vscsi_stats_costs_what_it_covers() {
    for (bytes, size) in [
        (&include_bytes!("fixtures/vscsi1.trace")[..], 32),
        (&include_bytes!("fixtures/vscsi2.trace")[..], 40),
    ] {
        let (_, all) = import(bytes, 64);
        let mut damaged = bytes[..3 * size].to_vec();
        damaged.extend_from_slice(b"some noise, 31 bytes in a row..");
        damaged.extend_from_slice(&bytes[3 * size..8 * size - 7]);
        let format = import(bytes, 64).0.format();
        let (mut importer, mut found) = (Importer::of(format, bytes), Vec::new());
        importer.push(&damaged, &mut found);
        importer.finish(&mut found);
        assert_eq!(found, all[..all.len() - 1], "the last was cut off");
        assert_eq!(importer.tally().rejected, 2);
    }
}

#[test]
fn the_log_of_a_real_nbdkit_has_each_request_once_with_its_latency() {
    let (events, devices) = fixture(include_bytes!("fixtures/nbdkit.log"), Format::Nbdkit);
    let at = |micros: u64| (1_795_891_283_000_000 + micros) * 1000;
    let micros = |micros: u64| Some(micros * 1000);
    let expected = [
        event(at(442_578), Kind::Write, 0x1000, 0x2000, micros(53)),
        event(at(445_909), Kind::Write, 0x10000, 0x10000, micros(28)),
        event(at(445_981), Kind::Discard, 0x20000, 0x1000, micros(4)),
        event(at(446_017), Kind::Read, 0, 0x200, micros(4)),
        event(at(446_117), Kind::Write, 0x40000, 0x1000, micros(31)),
        event(at(446_159), Kind::Write, 0x80000, 0x1000, micros(24)),
        event(at(446_238), Kind::Write, 0x2000, 0x1000, micros(4)),
        event(at(446_271), Kind::Flush, 0, 0, micros(3)),
        event(at(446_308), Kind::Flush, 0, 0, micros(3)),
    ];
    assert_eq!(events, expected);
    assert_eq!(devices, ["nbdkit"]);
}

#[test]
fn requests_of_nbdkit_that_cross_or_are_never_answered_keep_their_order() {
    let line = |seconds: u64, rest: &str| format!("2026-01-31 12:00:{seconds:02}.000001 connection={rest}\n");
    let text = [
        line(0, "2 Connect export=\"db\" tls=0 size=0x400"),
        line(1, "2 Write id=1 offset=0x0 count=0x200 fua=0 ..."),
        line(2, "3 Read id=1 offset=0x200 count=0x200 ..."),
        line(3, "2 Write id=2 offset=0x400 count=0x200 fua=0 ..."),
        line(4, "2 ...Write id=2 return=0"),
        line(5, "3 ...Read id=1 return=-1 error=EIO"),
        line(6, "2 Write id=3 ..."),
    ]
    .concat();
    let (importer, events) = import(text.as_bytes(), 1000);
    let found: Vec<_> = events.iter().map(|e| (e.offset, e.device.get(), e.latency)).collect();
    let s = 1_000_000_000;
    assert_eq!(found, [(0, 0, None), (0x200, 1, Some(3 * s)), (0x400, 0, Some(s))]);
    assert_eq!(importer.devices(), ["db", "nbdkit"]);
    assert_eq!(importer.tally().rejected, 1, "a write of no range");
}

#[test]
fn a_blktrace_tells_how_long_its_i_os_took() {
    let submitted = [event(5, Kind::Write, 512, 4096, None), event(9, Kind::Read, 0, 512, None)];
    let mut bytes = blktrace(&submitted);
    let mut ends =
        blktrace(&[event(105, Kind::Write, 512, 4096, None), event(300, Kind::Read, 0, 512, None)]);
    ends.chunks_mut(48).for_each(|record| record[28..30].copy_from_slice(&8_u16.to_le_bytes()));
    bytes.extend(ends);
    let (mut importer, mut events) = (Importer::detect(&bytes).unwrap(), Vec::new());
    assert!(importer.has_completions() && importer.counted() == Some(Action::Queue));
    importer.keep_completions();
    importer.push(&bytes, &mut events);
    assert_eq!(events, submitted);
    let found = importer.completions();
    let end = |at, kind, offset, length| Completion {
        at: At::from_nanos(at),
        device: DeviceNo::new(0),
        kind,
        offset,
        length,
    };
    assert_eq!(found, [end(105, Kind::Write, 512, 4096), end(300, Kind::Read, 0, 512)]);
    let mut latencies = Latencies::new(std::time::Duration::from_secs(1));
    events.drain(..).for_each(|event| latencies.submit(event));
    found.iter().for_each(|end| latencies.complete(end));
    latencies.release(&mut events);
    assert_eq!(events.iter().map(|e| e.latency).collect::<Vec<_>>(), [Some(100), Some(291)]);
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
        let n = u32::try_from(n).unwrap();
        assert!(write(Format::Blktrace, event, "8,16", At::default(), n, &mut bytes));
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
        let formats = [Format::Msr, Format::Systor, Format::Tencent, Format::Alibaba, Format::Blkreplay, Format::Fio2, Format::Fio3, Format::Mqsim];
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
                prop_assert!(write(format, &with, device, before, 0, &mut text));
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
    fn records_written_are_records_read(events in any_events(1000), piece in 1..300_usize) {
        for format in [Format::Blktrace, Format::Vscsi1, Format::Vscsi2] {
            let mut bytes = Vec::new();
            for (n, event) in (0..).zip(&events) {
                prop_assert!(write(format, event, "8,16", At::default(), n, &mut bytes));
            }
            let (importer, found) = import(&bytes, piece);
            prop_assert_eq!(importer.format(), format);
            prop_assert_eq!(&found, &events);
        }
    }

    /// What a format carries of latencies, flushes and discards comes back as it was.
    #[test]
    fn all_that_a_format_carries_comes_back(list in prop::collection::vec((0..9000_u64, 0..4_usize, 0..1_u64 << 30, 1..2048_u64, 1..100_000_u64), 1..40)) {
        let mut at = 1_600_000_000_000_000_000;
        let events: Vec<Event> = list.into_iter().map(|(gap, kind, sector, sectors, latency)| {
            at += gap * 1_000_000;
            let flush = Kind::ALL[kind] == Kind::Flush;
            let (offset, length) = if flush { (0, 0) } else { (sector * 512, sectors * 512) };
            event(at, Kind::ALL[kind], offset, length, Some(latency * 1000))
        }).collect();
        for format in Format::ALL.into_iter().filter(|f| f.is_written()) {
            let device = if format == Format::Msr { "host,3" } else { "12" };
            let mut bytes = match format {
                Format::Fio2 => b"fio version 2 iolog\n".to_vec(),
                Format::Fio3 => b"fio version 3 iolog\n".to_vec(),
                _ => Vec::new(),
            };
            let (mut before, mut said) = (At::default(), Vec::new());
            for (n, event) in (0..).zip(&events) {
                if write(format, event, device, before, n, &mut bytes) {
                    before = event.at;
                    said.push(*event);
                }
            }
            let has_latency = matches!(format, Format::Msr | Format::Systor | Format::Blkreplay | Format::Vscsi2);
            let has_fraction = format != Format::Tencent;
            for event in &mut said {
                event.latency = event.latency.filter(|_| has_latency);
                if !has_fraction {
                    event.at = At::from_nanos(event.at.nanos() / 1_000_000_000 * 1_000_000_000);
                }
            }
            if said.is_empty() {
                continue;
            }
            let (mut importer, mut found) = (Importer::of(format, &bytes), Vec::new());
            importer.push(&bytes, &mut found);
            importer.finish(&mut found);
            prop_assert_eq!(&found, &said, "{:?}", format);
        }
    }

    #[test]
    fn no_bytes_stop_the_importer(mut bytes in prop::collection::vec(any::<u8>(), 1..2000), piece in 1..100_usize, format in 0..13_usize) {
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
            if Format::ALL[format].is_binary() {
                // How much noise makes one rejected stretch depends on the pieces; the I/Os do not.
                reads.iter_mut().for_each(|(_, tally)| tally.rejected = 0);
            }
            prop_assert_eq!(&reads[0], &reads[1]);
        }
    }
}
