//! The format's bytes, pinned: a change here is a new format version.
//!
//! `GOLDEN=write cargo test -p gateway-journal --test golden` writes the fixtures of a *new* version.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use common::{Image, NOW, header};
use gateway_journal::marker::{decode_marker, encode_marker};
use gateway_journal::pack::{Unpacker, pack as pack_together};
use gateway_journal::run::{decode_checkpoint, decode_run, encode_checkpoint, encode_run};
use gateway_journal::{
    Aged, Gate, GateMove, GateStep, Generation, GroupNo, Hold, ImageId, ImageRecord, Kept, KeptPoint,
    Location, MARK_BYTES, Manifest, Mark, MetaRecord, Pieces, Place, RegionNo, RegionRange, RetentionPolicy,
    SETTLED_FRAME, Sealed, SegmentHeader, SegmentId, SettledSegment, SettledWriter, Share, ShortOf, Shortage,
    Start, StoreId, Uncounted, Version, Went,
};
use tap_block::stored::pack;
use tap_block::{
    Action, BarrierMark, Batch, BlockNo, Bookmark, Consistency, Entry, Epoch, Extent, Lsn, MarkId, Marker,
    Position, RunId, RunStart, StreamId, SyncCause, VolumeId, WallTime,
};

/// Compares with the fixture, as lines of 32 bytes in hex; runs of zero lines are one `*`.
fn pinned(name: &str, bytes: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.hex"));
    let mut text = String::new();
    let mut zeroes = false;
    for line in bytes.chunks(32) {
        let zero = line.len() == 32 && line.iter().all(|&b| b == 0);
        if zero && zeroes {
            continue;
        }
        zeroes = zero;
        if zero {
            text.push_str("*\n");
            continue;
        }
        line.iter().for_each(|b| write!(text, "{b:02x}").unwrap());
        text.push('\n');
    }
    if std::env::var_os("GOLDEN").is_some_and(|v| v == "write") {
        std::fs::write(&path, &text).unwrap();
    }
    let fixture = std::fs::read_to_string(&path).unwrap();
    assert!(fixture == text, "{name}: the bytes changed; that needs a new format version\n{text}");
}

/// The bytes of a fixture that has no runs of zeroes: of an earlier version, which goes on to be read.
fn fixture(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.hex"));
    let digits: Vec<u8> =
        std::fs::read(path).unwrap().into_iter().filter(|b| !b.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn lsn(n: u64) -> Lsn {
    Lsn::new(n).unwrap()
}

fn markers() -> Vec<Marker> {
    vec![
        Marker::RunStart(RunStart {
            previous: Some(RunId::new(0x1111)),
            durable: lsn(41),
            volume: VolumeId::new(0x22),
            name: "web01".parse().unwrap(),
            size: 1 << 30,
            sync: Some(SyncCause::Baseline),
        }),
        Marker::RunStart(RunStart {
            previous: None,
            durable: Lsn::ZERO,
            volume: VolumeId::new(0x22),
            name: "web01".parse().unwrap(),
            size: 512,
            sync: None,
        }),
        Marker::Bookmark(Bookmark {
            name: "before-upgrade".parse().unwrap(),
            consistency: Consistency::Application,
            note: "by hand".into(),
        }),
        Marker::SyncStart { cause: SyncCause::Overflow },
        Marker::SyncEnd { cause: SyncCause::UncleanStop, copied: 4096, from_zero: true },
    ]
}

fn batch() -> Batch {
    let volume = VolumeId::new(0x22);
    let blocks = |first: u64, n: u64| Extent::new(first * 4096, n * 4096).unwrap();
    let mut body = Vec::new();
    let lens =
        vec![pack(BlockNo::new(5), &[7; 4096], &mut body), 0, pack(BlockNo::new(9), &[9; 4096], &mut body)];
    let at = |n: u64| WallTime::from_nanos(1_700_000_000_000_000_000 + n);
    let entry = |position, n, action| Entry { position, captured_at: at(n), action };
    let entries = vec![
        entry(Position::record(lsn(42)), 0, Action::Write { volume, extent: blocks(5, 2) }),
        entry(Position::copy_as_of(lsn(41)), 900, Action::Write { volume, extent: blocks(9, 1) }),
        entry(Position::record(lsn(43)), 500, Action::Zero { volume, extent: blocks(1000, 70_000) }),
        entry(Position::record(lsn(44)), 1000, Action::Resize { volume: VolumeId::new(0x23), size: 1 << 31 }),
        entry(Position::record(lsn(45)), 2000, Action::Mark(Box::new(markers().remove(2)))),
    ];
    Batch {
        stream: StreamId::new(0x33),
        run: RunId::new(0x44),
        epoch: Epoch::new(2),
        first_lsn: lsn(42),
        entries,
        lens,
        body: Bytes::from(body),
    }
}

#[test]
fn segment_headers() {
    let sealed = Sealed { segment: SegmentId::new(6), end: 8192, frames: 3, last: 0xdead_beef };
    let header = header(7, 64 << 20, Some(sealed));
    pinned("segment-header", &header.encode());
    assert_eq!(SegmentHeader::decode(&header.encode()).unwrap(), header);
}

#[test]
fn frames() {
    let mut image = Image::new(header(7, 32 << 10, None));
    let mut second = batch();
    second.entries.retain(|e| matches!(e.action, Action::Mark(_)));
    (second.first_lsn, second.lens, second.body) = (lsn(46), Vec::new(), Bytes::new());
    second.entries[0].position = Position::record(lsn(46));
    assert!(image.group(&[batch(), second]));
    pinned("frames", &image.bytes[4096..12_288]);
}

#[test]
fn own_records() {
    let mut image = Image::new(header(7, 32 << 10, None));
    let created = ImageRecord {
        id: ImageId::new(3),
        name: "test".parse().unwrap(),
        volume: VolumeId::new(0x22),
        stream: StreamId::new(0x33),
        point: lsn(44),
        at: NOW,
        writable: true,
        quota: 1 << 30,
        created_at: NOW,
        parent: None,
    };
    let clone = MetaRecord::ImageCreated(ImageRecord { parent: Some(ImageId::new(2)), ..created.clone() });
    assert_eq!(MetaRecord::decode(&clone.encode()).unwrap(), clone);
    pinned("image-of-an-image", &clone.encode());
    let records = [MetaRecord::ImageCreated(created), MetaRecord::ImageRemoved { id: ImageId::new(3) }];
    for record in &records {
        assert_eq!(&MetaRecord::decode(&record.encode()).unwrap(), record);
    }
    let mut group = image.writer.group();
    assert!(group.push_meta(&records, lsn(1), NOW));
    group.seal();
    image.bytes[4096..4096 + group.frames()[0].head.len()].copy_from_slice(&group.frames()[0].head);
    pinned("own-records", &image.bytes[4096..8192]);
}

#[test]
fn high_water_marks() {
    let durable = Sealed { segment: SegmentId::new(7), end: 12_288, frames: 3, last: 0xabcd };
    let before =
        Mark { store: StoreId::new(0x11), durable: Some(durable), group: 2, clean: true, aged: None };
    let (went, missed) = (Duration::from_secs(365 * 86_400), Duration::from_secs(358 * 86_400));
    let uncounted = Uncounted { noticed: NOW, went, uncounted: missed };
    let aged = Aged {
        at: NOW,
        wall: NOW.plus(went),
        budget: Duration::from_secs(5),
        credited: Duration::ZERO,
        uncounted: None,
    };
    let plain = Mark { aged: Some(aged), ..before };
    let told = Mark { aged: Some(Aged { uncounted: Some(uncounted), ..aged }), ..before };
    let credited = Mark { aged: Some(Aged { credited: went, ..aged }), ..before };
    let all =
        [("mark", before), ("mark-aged", plain), ("mark-aged-uncounted", told), ("mark-credited", credited)];
    for (name, mark) in all {
        let bytes = mark.encode();
        pinned(name, &bytes);
        assert!(bytes.len() <= MARK_BYTES);
        assert_eq!(Mark::decode(&bytes), Some(mark));
    }
    assert_eq!(
        uncounted.to_string(),
        "the clock went on by 365 days while the gateway was down; 358 days of them are not counted for retention and holds: \
         things are kept longer. If this machine's clock is wrong, set it"
    );
}

#[test]
fn marker_messages() {
    let mut all = Vec::new();
    for marker in markers() {
        let bytes = encode_marker(&marker);
        assert_eq!(decode_marker(&bytes).unwrap(), marker);
        all.push(u8::try_from(bytes.len()).unwrap());
        all.extend(bytes);
    }
    pinned("markers", &all);
}

#[test]
fn barrier_markers() {
    let bookmark =
        Bookmark { name: "monday".parse().unwrap(), consistency: Consistency::Crash, note: "by hand".into() };
    let mark = |bookmark| BarrierMark {
        id: MarkId::new(1_700_000_000_000_000_000),
        group: "db".parse().unwrap(),
        members: vec![VolumeId::new(0x22), VolumeId::new(0x23)],
        bookmark,
    };
    let mut all = Vec::new();
    for marker in [Marker::Barrier(mark(None)), Marker::Barrier(mark(Some(bookmark)))] {
        let bytes = encode_marker(&marker);
        assert_eq!(decode_marker(&bytes).unwrap(), marker);
        all.push(u8::try_from(bytes.len()).unwrap());
        all.extend(bytes);
    }
    pinned("barriers", &all);
    for members in [vec![], vec![0x23, 0x22], vec![0x22, 0x22], (0..65).collect()] {
        let members = members.into_iter().map(VolumeId::new).collect();
        let bad = Marker::Barrier(BarrierMark { members, ..mark(None) });
        assert!(decode_marker(&encode_marker(&bad)).is_err());
    }
}

#[test]
fn clock_markers() {
    let marker = Marker::ClockSet { before: WallTime::from_nanos(1_700_000_000_000_000_000) };
    let bytes = encode_marker(&marker);
    assert_eq!(decode_marker(&bytes).unwrap(), marker);
    pinned("clock-set", &bytes);
}

#[test]
fn runs_and_checkpoints() {
    let unit = |segment, offset, len| Place::Unit(Location { segment: SegmentId::new(segment), offset, len });
    let version = |first, blocks, position, place| Version { first, blocks, position, place };
    let narrow = [
        version(0, 1, Position::record(lsn(42)), unit(7, 4200, 50)),
        version(4000, 96, Position::record(lsn(43)), Place::Zero),
        version(9, 1, Position::copy_as_of(lsn(41)), unit(8, 9000, 4108)),
    ];
    let wide = [narrow[0], version(9, 1, Position::copy_as_of(lsn(1 << 40)), unit(1 << 20, 9000, 4108))];
    for (name, versions) in [("run-narrow", &narrow[..]), ("run-wide", &wide[..])] {
        let mut bytes = Vec::new();
        encode_run(versions, &mut bytes);
        pinned(name, &bytes);
        let mut back = Vec::new();
        decode_run(&bytes, |v| back.push(v)).unwrap();
        assert_eq!(back, versions);
        for cut in 0..bytes.len() {
            assert!(decode_run(&bytes[..cut], |_| {}).is_err());
        }
    }
    let mut bytes = Vec::new();
    encode_checkpoint(GroupNo::new(12), &narrow, &mut bytes);
    pinned("checkpoint", &bytes);
    assert_eq!(decode_checkpoint(&bytes, |_| {}).unwrap(), GroupNo::new(12));
}

#[test]
fn retention_records() {
    let volume = VolumeId::new(0x22);
    let hold =
        Hold { volume, from: NOW, to: NOW, until: NOW, credited: Duration::ZERO, note: "audit".into() };
    let records = [
        MetaRecord::PolicySet { volume: None, policy: Some(RetentionPolicy::default()) },
        MetaRecord::PolicySet { volume: Some(volume), policy: None },
        MetaRecord::Pinned { volume, point: lsn(44), note: "quarter".into() },
        MetaRecord::Unpinned { volume, point: lsn(44) },
        MetaRecord::Held(hold),
    ];
    let mut all = Vec::new();
    for record in &records {
        let bytes = record.encode();
        assert_eq!(&MetaRecord::decode(&bytes).unwrap(), record);
        all.push(u8::try_from(bytes.len()).unwrap());
        all.extend(bytes);
    }
    pinned("retention-records", &all);
    let limited = RetentionPolicy { limit: Some(200 << 30), ..RetentionPolicy::default() };
    let record = MetaRecord::PolicySet { volume: Some(volume), policy: Some(limited) };
    assert_eq!(MetaRecord::decode(&record.encode()).unwrap(), record);
    pinned("policy-with-limit", &record.encode());
    let (from, credited, note) = (NOW, Duration::from_secs(7 * 86_400), String::new());
    let record = MetaRecord::Held(Hold { volume, from, to: NOW, until: NOW, credited, note });
    assert_eq!(MetaRecord::decode(&record.encode()).unwrap(), record);
    pinned("hold-credited", &record.encode());
    let mut gated = RetentionPolicy::default();
    let deadline = std::time::Duration::from_secs(6 * 3600);
    gated.tiers[1].before_drop = Some(Gate { hook: "archive.sh".into(), deadline });
    let record = MetaRecord::PolicySet { volume: Some(volume), policy: Some(gated) };
    assert_eq!(MetaRecord::decode(&record.encode()).unwrap(), record);
    pinned("policy-with-gate", &record.encode());
}

#[test]
fn a_bookmark_that_was_removed() {
    let name = "before-upgrade".parse().unwrap();
    let record = MetaRecord::BookmarkRemoved { volume: VolumeId::new(0x22), point: lsn(77), name };
    assert_eq!(MetaRecord::decode(&record.encode()).unwrap(), record);
    pinned("bookmark-removed", &record.encode());
}

#[test]
fn a_loss_that_was_read_of() {
    let record = MetaRecord::LossRead;
    assert_eq!(MetaRecord::decode(&record.encode()).unwrap(), record);
    pinned("loss-read", &record.encode());
}

#[test]
fn moves_at_a_gate() {
    let (volume, keep) = (VolumeId::new(0x22), std::time::Duration::from_secs(60));
    let mut all = Vec::new();
    for step in [GateStep::Begun, GateStep::Passed, GateStep::Overdue, GateStep::Overruled] {
        let record = MetaRecord::GateMoved(GateMove { volume, keep, through: NOW, at: NOW, step });
        let bytes = record.encode();
        assert_eq!(MetaRecord::decode(&bytes).unwrap(), record);
        all.push(u8::try_from(bytes.len()).unwrap());
        all.extend(bytes);
    }
    pinned("gate-moves", &all);
}

/// Field 16 of a manifest came later: a program that does not know it leaves it out of the next one.
fn shortages() -> Vec<(VolumeId, Shortage)> {
    let shortage = |went, of, first, last| {
        let (since, until) = (NOW, NOW.plus(std::time::Duration::from_secs(60)));
        let shortage = Shortage { went, of, first: lsn(first), last: lsn(last), points: 5, since, until };
        (VolumeId::new(0x22), shortage)
    };
    vec![
        shortage(Went::Thinned, ShortOf::Journal, 2, 5),
        shortage(Went::Oldest, ShortOf::Limit, 1, 4),
        shortage(Went::Bookmarks, ShortOf::Journal, 3, 3),
    ]
}

#[test]
fn settled_segments() {
    let store = gateway_journal::StoreId::new(0x55);
    let mut writer = SettledWriter::begin(store, SegmentId::new(9), 64 << 10, 3);
    let unit = |len| Place::Unit(Location { segment: SegmentId::new(1), offset: 0, len });
    let version = |first, at, place| Version { first, blocks: 1, position: Position::record(lsn(at)), place };
    let versions = [version(1, 5, unit(100)), version(1, 7, unit(50)), version(2, 6, Place::Zero)];
    let run = writer.run(VolumeId::new(0x22), RegionNo::new(4), &versions).unwrap();
    pinned("settled-run", &run.head);
    let point = KeptPoint::new(lsn(6), NOW, NOW);
    let place = (VolumeId::new(0x22), RegionNo::new(4));
    let (segment, end) = (SegmentId::new(9), 8192);
    let segment = SettledSegment { segment, end, frames: 1, first: place, last: place, warm: end };
    let share = Share { segment: SegmentId::new(9), volume: VolumeId::new(0x22), bytes: 400 };
    let (range, segments) = (RegionRange::ALL, vec![segment]);
    let (at, shares) = (tap_block::WallTime::EPOCH, vec![share]);
    let manifest = Manifest {
        store,
        settle: 3,
        at: NOW,
        generations: vec![Generation { settle: 3, range, segments, shares, at, packs: false }],
        through: (SegmentId::new(8), Start { at: 8192, number: 4, group: 2, previous: Some(1) }),
        group: GroupNo::new(11),
        kept: vec![(VolumeId::new(0x22), Kept { settled: lsn(7), points: vec![point] })],
        short: Vec::new(),
        state: b"state".to_vec(),
    };
    assert_eq!(Manifest::decode(&manifest.encode()).unwrap(), manifest);
    let mut newer = writer;
    pinned("settled-manifest-2", &newer.manifest(&manifest.encode()).unwrap().head);
    let mut packed = manifest.clone();
    (packed.generations[0].at, packed.generations[0].packs) = (NOW, true);
    packed.generations[0].segments[0].warm = 100;
    assert_eq!(Manifest::decode(&packed.encode()).unwrap(), packed);
    pinned("settled-manifest-3", &newer.manifest(&packed.encode()).unwrap().head);
    let mut held = manifest.clone();
    let run = KeptPoint { before: 299, idle: true, ..KeptPoint::new(lsn(306), NOW, NOW) };
    held.kept[0].1 =
        Kept { settled: lsn(308), points: vec![point, run, KeptPoint { lsn: lsn(308), ..point }] };
    assert_eq!(Manifest::decode(&held.encode()).unwrap(), held);
    pinned("settled-manifest-4", &newer.manifest(&held.encode()).unwrap().head);
    let short = Manifest { short: shortages(), ..manifest.clone() };
    assert_eq!(Manifest::decode(&short.encode()).unwrap(), short);
    assert!(Manifest::check(&short.encode()).is_ok());
    let mut other = newer;
    pinned("settled-manifest-short", &other.manifest(&short.encode()).unwrap().head);
    // What a compressor makes of the same content may change with its version; what is on disks goes on to be read.
    held.state = b"names ".repeat(100);
    let bytes = held.encode_within(0);
    if std::env::var_os("GOLDEN").is_some_and(|v| v == "write") {
        pinned("settled-manifest-5", &bytes);
    }
    for bytes in [bytes, fixture("settled-manifest-5")] {
        assert!(bytes.len() < held.encode().len() && Manifest::decode(&bytes).unwrap() == held);
    }
    // Where one lies in pieces, and a piece.
    let bytes = manifest.encode();
    let places = vec![(SegmentId::new(9), 8192), (SegmentId::new(10), 4096)];
    let pieces = Pieces::of(&manifest, &bytes, places);
    assert_eq!(Pieces::decode(&pieces.encode()).unwrap(), Some(pieces.clone()));
    assert!(Manifest::decode(&pieces.encode()).is_err() && Manifest::check(&pieces.encode()).is_ok());
    pinned("settled-manifest-6", &newer.manifest(&pieces.encode()).unwrap().head);
    pinned("settled-piece", &newer.piece(&bytes[..10]).unwrap().head);
    let mut old = manifest;
    old.generations[0].shares.clear();
    let bytes = &fixture("settled-manifest")[SETTLED_FRAME..];
    assert_eq!(Manifest::decode(bytes).unwrap(), old);
    writer.manifest(bytes).unwrap();
    pinned("settled-header", &writer.header().encode());
}

#[test]
fn packs() {
    let region = RegionNo::new(4);
    let contents =
        [3u8, 9].map(|seed| (0..4096u32).map(|n| if n % 3 == 0 { seed } else { (n % 7) as u8 }).collect());
    let [first, second]: [Vec<u8>; 2] = contents;
    // What a compressor makes of the same content may change with its version; what is on disks goes on to be read.
    let bytes = fixture("pack");
    let now = pack_together(region, &[(1, &first), (8, &second)]).unwrap();
    assert_eq!([&now[8..12], &now[16..36]], [&bytes[8..12], &bytes[16..36]]);
    let at =
        |offset| Location::of_pack(SegmentId::new(1), offset, u32::try_from(bytes.len()).unwrap()).unwrap();
    let mut out = [0; 4096];
    Unpacker::default().unpack(at(0), region.block(8), &bytes, &mut out).unwrap();
    assert_eq!(out[..], second);
    let store = gateway_journal::StoreId::new(0x55);
    let mut writer = SettledWriter::begin(store, SegmentId::new(9), 64 << 10, 3);
    let version = |first, at, place| Version { first, blocks: 1, position: Position::record(lsn(at)), place };
    let unit = Place::Unit(Location { segment: SegmentId::new(1), offset: 0, len: 50 });
    let versions =
        [version(0, 5, unit), version(1, 5, Place::Unit(at(0))), version(8, 7, Place::Unit(at(0)))];
    let run = writer.run(VolumeId::new(0x22), region, &versions).unwrap();
    assert_eq!(run.versions[1].place, run.versions[2].place);
    pinned("settled-run-with-pack", &run.head);
}

#[test]
fn ledger_entries() {
    use gateway_journal::ledger::{Event, Hashed, Settled, Why, read};
    use gateway_journal::{Digest, EntryNo, Head, Ledger};

    let (mut ledger, mut file) = (Ledger::new(gateway_journal::StoreId::new(0x55)), Vec::new());
    let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
    let sealed = |segment, settle, digest| {
        Event::Sealed(SegmentId::new(segment), Hashed { settle, end: 8192, digest })
    };
    let settled = Settled {
        settle: 3,
        log_from: 8,
        inputs: vec![SegmentId::new(7)],
        outputs: vec![SegmentId::new(9)],
        unhashed: vec![SegmentId::new(6)],
        counts: Some([100, 40, 2]),
        policies: vec![RetentionPolicy::default()],
    };
    let head = Head { number: EntryNo::new(12), digest: two, at: NOW };
    let place = || "cx".to_owned();
    let events = [
        Event::Begun(Why::New),
        sealed(7, 0, one),
        sealed(9, 3, two),
        Event::Settled(Box::new(settled)),
        Event::Repaired { segment: SegmentId::new(9), from: 4200, to: 4300, before: two, digest: one },
        Event::Anchored { place: place(), number: EntryNo::new(2), digest: one },
        Event::Witnessed { store: gateway_journal::StoreId::new(0x66), head },
        Event::Contradicted { place: place(), number: EntryNo::new(20), digest: two },
    ];
    let mut add = |ledger: &mut Ledger, event: Event| {
        let entry = ledger.next(event, NOW);
        let (bytes, digest) = entry.encode();
        ledger.take(&entry, digest);
        file.extend(bytes);
    };
    events.into_iter().for_each(|event| add(&mut ledger, event));
    let folded = ledger.fold();
    add(&mut ledger, folded);
    pinned("ledger", &file);
    let reading = read(ledger.store(), &file);
    assert_eq!((reading.faults.len(), reading.end), (0, file.len()));
    assert_eq!(reading.ledger.segments(), ledger.segments());
}

/// What came to the ledger later: a break, what is kept of before it, and that somebody has read of it.
#[test]
fn ledger_doubts() {
    use gateway_journal::ledger::{Event, Why, read};
    use gateway_journal::{Digest, EntryNo, Ledger};

    let (mut ledger, mut file) = (Ledger::new(gateway_journal::StoreId::new(0x55)), Vec::new());
    let mut add = |ledger: &mut Ledger, event: Event| {
        let entry = ledger.next(event, NOW);
        let (bytes, digest) = entry.encode();
        ledger.take(&entry, digest);
        file.extend(bytes);
    };
    let (number, digest) = (EntryNo::new(20), Digest::of(b"one"));
    add(&mut ledger, Event::Begun(Why::Lost));
    add(&mut ledger, Event::Lapsed { place: "cx".to_owned(), number, digest });
    assert_eq!((ledger.doubts().len(), ledger.due().0), (2, EntryNo::new(22)));
    let doubted = ledger.fold();
    add(&mut ledger, doubted);
    assert_eq!(ledger.doubts().len(), 2);
    add(&mut ledger, Event::Acknowledged);
    assert_eq!(ledger.doubts(), []);
    let read_of = ledger.fold();
    add(&mut ledger, read_of);
    pinned("ledger-doubts", &file);
    let reading = read(ledger.store(), &file);
    assert_eq!(
        (reading.faults.len(), reading.ledger.doubts().len(), reading.ledger.lost()),
        (0, 0, ledger.lost())
    );
    assert!(reading.ledger.lost().unwrap().read && reading.ledger.is_contradicted("cx", number, digest));
}
