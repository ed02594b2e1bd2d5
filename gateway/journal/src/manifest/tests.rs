//! Generations that are cut to pieces, and manifests through their bytes.

use super::*;
use crate::shortage::{ShortOf, Went};

fn lsn(n: u64) -> Lsn {
    Lsn::new(n).unwrap()
}

fn point(lsn: u64, at: u64) -> KeptPoint {
    let at = WallTime::from_nanos(at);
    KeptPoint::new(Lsn::new(lsn).unwrap(), at, at)
}

fn place(n: u32) -> RegionPlace {
    (VolumeId::new(1), RegionNo::new(n))
}

fn range(first: u32, last: u32) -> RegionRange {
    RegionRange { first: place(first), last: place(last) }
}

fn segment(n: u32, first: u32, last: u32) -> SettledSegment {
    SettledSegment {
        segment: SegmentId::new(n),
        end: 9000,
        frames: 2,
        first: place(first),
        last: place(last),
        warm: 9000,
    }
}

fn share(segment: u32, volume: u64, bytes: u64) -> Share {
    Share { segment: SegmentId::new(segment), volume: VolumeId::new(volume), bytes }
}

/// A segment that holds the end of one volume and the start of the next.
#[test]
fn a_volume_takes_what_segments_hold_of_it_as_long_as_some_of_that_counts() {
    let at = |volume, region| (VolumeId::new(volume), RegionNo::new(region));
    let written = |n, first, last| SettledSegment { first, last, ..segment(n, 0, 0) };
    let whole = Generation {
        settle: 2,
        range: RegionRange::ALL,
        segments: vec![written(1, at(1, 0), at(1, 8)), written(2, at(1, 8), at(2, 3))],
        shares: vec![share(1, 1, 100), share(2, 1, 20), share(2, 2, 30)],
        at: WallTime::EPOCH,
        packs: false,
    };
    let sums = |parts: &[Generation]| {
        let sums = Generation::bytes_by_volume(parts);
        [1, 2].map(|v| sums.get(&VolumeId::new(v)).copied().unwrap_or(0))
    };
    assert_eq!(sums(std::slice::from_ref(&whole)), [120, 30]);
    // From the middle of a segment on: both parts name it, and it counts once.
    assert_eq!(sums(&whole.without(range(3, 4))), [120, 30]);
    assert_eq!(sums(&whole.without(range(0, 8))), [20, 30], "where it ends nobody knows but by its volume");
    let all = RegionRange { first: at(1, 0), last: at(1, u32::MAX) };
    assert_eq!(
        sums(&whole.without(all)),
        [0, 30],
        "what is left in a segment for another's sake is nobody's"
    );
    assert_eq!(sums(&whole.without(RegionRange { first: at(2, 0), last: at(2, 9) })), [120, 0]);
}

#[test]
fn what_was_written_again_is_cut_out_of_a_generation() {
    let segments = vec![segment(1, 0, 4), segment(2, 4, 7), segment(3, 9, 9)];
    let whole = Generation {
        settle: 2,
        range: RegionRange::ALL,
        segments,
        shares: Vec::new(),
        at: WallTime::EPOCH,
        packs: true,
    };
    let ids = |g: &Generation| g.segments.iter().map(|s| s.segment.get()).collect::<Vec<_>>();
    let parts = whole.without(range(4, 4));
    assert_eq!(parts.iter().map(ids).collect::<Vec<_>>(), [vec![1], vec![2, 3]]);
    assert!(parts[0].range.holds(place(3)) && !parts[0].range.holds(place(4)));
    assert!(parts[1].range.holds(place(5)) && !parts[1].range.holds(place(4)));
    assert_eq!(parts[1].without(range(0, 3)), [parts[1].clone()], "nothing in common");
    assert_eq!(parts[1].without(range(5, 20)), [], "nothing is left");
    assert_eq!(whole.without(RegionRange::ALL), []);
    assert_eq!(whole.bytes(), 27_000);
}

fn shortage(first: u64, last: u64) -> Shortage {
    let at = WallTime::from_nanos;
    let (went, of) = (Went::Oldest, ShortOf::Limit);
    Shortage { went, of, first: lsn(first), last: lsn(last), points: 2, since: at(5), until: at(9) }
}

fn manifest() -> Manifest {
    let segment = |n| segment(n, n, n + 1);
    Manifest {
        store: StoreId::new(5),
        settle: 3,
        at: WallTime::from_nanos(77),
        generations: vec![
            Generation {
                settle: 2,
                range: RegionRange::ALL,
                segments: vec![segment(4), segment(6)],
                shares: vec![share(4, 1, 300), share(4, 2, 50), share(6, 2, 40)],
                at: WallTime::from_nanos(70),
                packs: false,
            },
            Generation {
                settle: 3,
                range: range(5, 9),
                segments: vec![segment(9)],
                shares: vec![share(9, 1, 7)],
                at: WallTime::EPOCH,
                packs: true,
            },
        ],
        through: (SegmentId::new(8), Start { at: 8192, number: 4, group: 2, previous: Some(1) }),
        group: GroupNo::new(11),
        kept: vec![(
            VolumeId::new(1),
            Kept {
                settled: Lsn::new(90).unwrap(),
                // A clock that went back between runs is no error.
                points: vec![point(10, 500), point(40, 300), point(90, 900)],
            },
        )],
        short: vec![(VolumeId::new(1), shortage(3, 8)), (VolumeId::new(1), shortage(5, 5))],
        state: b"state".to_vec(),
    }
}

#[test]
fn a_manifest_survives_its_bytes() {
    let manifest = manifest();
    assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest.clone()));
    let sealed = manifest.seal();
    assert_eq!(Manifest::unseal(&sealed), Ok(manifest));
    for bit in 0..sealed.len() * 8 {
        let mut bad = sealed.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Manifest::unseal(&bad).is_err(), "bit {bit}");
    }
}

#[test]
fn a_manifest_that_is_too_long_is_packed_and_what_is_none_inside_is_refused() {
    let manifest = Manifest { state: b"bookmark-".repeat(500), ..manifest() };
    let plain = manifest.encode();
    assert_eq!(manifest.encode_within(count(plain.len())), plain, "there is room for it");
    let packed = manifest.encode_within(count(plain.len()) - 1);
    assert!(packed.len() < plain.len() / 4);
    assert_eq!(Manifest::decode(&packed), Ok(manifest.clone()));
    let sealed = manifest.seal_within(100);
    assert_eq!(Manifest::unseal(&sealed), Ok(manifest.clone()));
    for bit in 0..sealed.len() * 8 {
        let mut bad = sealed.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Manifest::unseal(&bad).is_err(), "bit {bit}");
    }
    let outer = PPacked::decode(packed.as_slice()).unwrap();
    let pack = |bytes: &[u8]| PPacked {
        bytes: count(bytes.len()),
        packed: zstd::bulk::compress(bytes, PACKED_LEVEL).unwrap(),
        ..outer.clone()
    };
    let noise: Vec<u8> = (0..997u32).map(|n| (n * n / 7).to_le_bytes()[0]).collect();
    for bad in [
        PPacked { settle: 4, ..outer.clone() },
        PPacked { store: 6, ..outer.clone() },
        PPacked { bytes: outer.bytes - 1, ..outer.clone() },
        PPacked { bytes: outer.bytes + 1, ..outer.clone() },
        PPacked { bytes: u64::MAX, ..outer.clone() },
        PPacked { packed: Vec::new(), ..outer.clone() },
        PPacked { version: VERSION_PACKED + 1, ..outer.clone() },
        pack(&packed),
        pack(&noise),
    ] {
        assert!(Manifest::decode(&bad.encode_to_vec()).is_err(), "{bad:?}");
    }
    let random = Manifest { state: noise, ..manifest };
    assert!(random.encode_within(0).len() <= random.encode().len());
}

#[test]
fn lists_that_do_not_fit_are_refused() {
    let twin = PManifest::decode(manifest().encode().as_slice()).unwrap();
    let mut unordered = twin.clone();
    unordered.kept[0].lsns[1] = 0;
    let mut short = twin.clone();
    short.generations[0].ends.pop();
    let mut unshared = twin.clone();
    unshared.generations[0].share_bytes.pop();
    let mut cold = twin.clone();
    cold.generations[0].warm = vec![1];
    let runs = |runs: &[u64]| {
        let mut twin = twin.clone();
        twin.kept[0].runs = runs.to_vec();
        twin
    };
    // Too few; one that is of the point before too; one that begins before there was anything; one that is far too long.
    let runs = [runs(&[0]), runs(&[0, 60, 0]), runs(&[22, 0, 0]), runs(&[0, 0, 1 << 40])];
    for bad in runs.into_iter().chain([
        unordered,
        short,
        unshared,
        cold,
        PManifest { version: VERSION_WITH_RUNS + 1, ..twin.clone() },
    ]) {
        assert!(Manifest::decode(&bad.encode_to_vec()).is_err());
    }
}

/// It keeps nothing, so nobody needs to be kept from opening a store for it.
#[test]
fn what_a_newer_program_says_of_a_shortage_is_left_out_and_nonsense_is_refused() {
    let changed = |change: fn(&mut PManifest)| {
        let mut twin = PManifest::decode(manifest().encode().as_slice()).unwrap();
        change(&mut twin);
        Manifest::decode(&twin.encode_to_vec())
    };
    let strange = |at: u64| vec![(VolumeId::new(1), shortage(at, at))];
    let field = |bytes: &[u8], n: usize, value: u8| {
        let mut bytes = bytes.to_vec();
        bytes[n] = value;
        PShortage::decode(bytes.as_slice()).unwrap()
    };
    let bytes = shortage_out(&strange(3)[0]).encode_to_vec();
    // The words stand behind the volume: a tag and nine bytes.
    assert_eq!((bytes[9], bytes[11]), (0x10, 0x18));
    for unknown in [field(&bytes, 10, 9), field(&bytes, 12, 9)] {
        assert_eq!(shortage_in(&unknown), Ok(None));
    }
    assert!(shortage_in(&shortage_out(&(VolumeId::new(1), shortage(9, 3)))).is_err());
    assert!(changed(|twin| twin.short.clear()).unwrap().short.is_empty());
    assert_eq!(changed(|_| {}), Ok(manifest()));
}

#[test]
fn a_point_that_is_gone_has_neighbours() {
    let manifest = manifest();
    let kept = manifest.kept_of(VolumeId::new(1)).unwrap();
    let lsn = |n| Lsn::new(n).unwrap();
    assert!(kept.holds(lsn(40)) && kept.holds(lsn(91)) && !kept.holds(lsn(41)));
    assert_eq!(kept.nearest(lsn(41)), (Some(lsn(40)), Some(lsn(90))));
    assert_eq!(kept.nearest(lsn(5)), (None, Some(lsn(10))));
}

#[test]
fn a_point_that_stands_for_a_run_is_all_of_it() {
    let run = KeptPoint { before: 29, idle: true, ..point(70, 800) };
    let kept = Kept { settled: lsn(90), points: vec![point(10, 500), point(40, 300), run, point(90, 900)] };
    let there: Vec<u64> = (0..=95).filter(|n| kept.holds(lsn(*n))).collect();
    let expected: Vec<u64> = [10, 40].into_iter().chain(41..=70).chain(90..=95).collect();
    assert_eq!((there, kept.count()), (expected, 33));
    assert_eq!(kept.nearest(lsn(39)), (Some(lsn(10)), Some(lsn(40))));
    assert_eq!(kept.nearest(lsn(80)), (Some(lsn(70)), Some(lsn(90))));
    let apart = Kept { points: vec![point(10, 500), KeptPoint { before: 9, ..run }], ..kept.clone() };
    assert_eq!(apart.nearest(lsn(20)), (Some(lsn(10)), Some(lsn(61))));
    assert_eq!((kept.listed(lsn(50)), kept.listed(lsn(39))), (Some(&run), None));
    assert_eq!(kept.listed_by(lsn(50)), Some(&point(40, 300)));
    for (first, last, any) in
        [(11, 39, false), (41, 45, true), (69, 71, true), (71, 89, false), (91, 99, false)]
    {
        assert_eq!(kept.any(lsn(first), Some(lsn(last))), any, "{first} to {last}");
    }
    let manifest = Manifest { kept: vec![(VolumeId::new(1), kept)], ..manifest() };
    assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest));
}

#[test]
fn points_join_when_nothing_is_between_them() {
    let (a, b) =
        (KeptPoint { before: 3, idle: true, ..point(10, 5) }, KeptPoint { idle: true, ..point(11, 6) });
    assert_eq!(b.joined(&a), Some(KeptPoint { before: 4, ..b }));
    assert_eq!(point(12, 7).joined(&a), None, "11 is no point");
    let coarse = point(11, 6).joined(&a).unwrap();
    assert!(coarse.is_coarse() && !a.is_coarse(), "{coarse:?}");
    assert_eq!(b.joined(&KeptPoint { before: u32::MAX, ..a }), None);
}

#[test]
fn pieces_are_joined_to_the_manifest_that_they_are_of_and_to_no_other() {
    let manifest = manifest();
    let bytes = manifest.encode();
    let places: Vec<_> =
        (1..).map(SegmentId::new).zip((4096..).step_by(8)).take(bytes.len().div_ceil(50)).collect();
    let piece = |bytes: &[u8], segment: SegmentId| {
        bytes.chunks(50).nth(usize::try_from(segment.get()).unwrap() - 1).unwrap().to_vec()
    };
    let join =
        |pieces: &Pieces, bytes: &[u8]| pieces.join(|segment, _| Ok::<_, FormatError>(piece(bytes, segment)));
    let pieces = Pieces::of(&manifest, &bytes, places);
    assert_eq!(join(&pieces, &bytes), Ok(manifest.clone()));
    let mut bad = bytes.clone();
    bad[77] ^= 4;
    assert_eq!(join(&pieces, &bad), Err(FormatError::Checksum(WHAT)));
    let missing = Pieces { places: pieces.places[1..].to_vec(), ..pieces.clone() };
    assert_eq!(join(&missing, &bytes), Err(FormatError::Checksum(WHAT)));
    assert!(join(&Pieces { settle: pieces.settle + 1, ..pieces.clone() }, &bytes).is_err());
    assert!(pieces.join(|_, _| Err(FormatError::Short(WHAT))).is_err());
    assert_eq!(Pieces::decode(&bytes), Ok(None), "a whole one");
    assert!(Manifest::check(&bytes).is_ok() && Manifest::check(&bytes[1..]).is_err());
    let far = Pieces { bytes: MOST_BYTES + 1, ..pieces };
    assert!(Pieces::decode(&far.encode()).is_err());
}
