//! Packing and taking apart change no content.

#![allow(clippy::cast_possible_truncation, reason = "tests")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use tap_block::{Lsn, Position};

use super::*;

const REGION: RegionNo = RegionNo::new(2);

fn content(seed: u64, noise: bool) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    (0..UNIT)
        .map(|n| if noise || n % 64 < 4 { next() as u8 } else { b"the quick brown fox "[n % 20] })
        .collect()
}

/// Versions in the order that `needed` leaves, with the units of their contents.
fn body(list: &[(u16, u64, bool)]) -> (Vec<Version>, Vec<u8>) {
    let (mut versions, mut bytes) = (Vec::new(), Vec::new());
    let sorted: BTreeMap<(u16, u64), bool> =
        list.iter().map(|&(block, at, noise)| ((block, at), noise)).collect();
    for ((first, at), noise) in sorted {
        let seed = u64::from(first) * 1000 + at;
        let offset = u32::try_from(bytes.len()).unwrap();
        let len = pack_unit(REGION.block(first), &content(seed, noise), &mut bytes);
        let place = Place::Unit(Location { segment: SegmentId::new(1), offset, len });
        versions.push(Version { first, blocks: 1, position: Position::record(Lsn::new(at).unwrap()), place });
    }
    (versions, bytes)
}

/// As a settled segment holds it: places are where bytes lie.
fn laid(mut body: Body) -> (Vec<Version>, Vec<u8>) {
    let (mut offset, mut before) = (0, None::<(Location, u32)>);
    for version in &mut body.versions {
        let Place::Unit(at) = &mut version.place else { continue };
        let here = before.filter(|(b, _)| at.is_pack() && b == at).map_or(offset, |(_, here)| here);
        before = Some((*at, here));
        (at.segment, at.offset) = (SegmentId::new(2), here);
        offset = offset.max(at.end());
    }
    assert_eq!(offset as usize, body.bytes.len());
    (body.versions, body.bytes)
}

fn contents(versions: &[Version], bytes: &[u8]) -> BTreeMap<(u16, u64), Vec<u8>> {
    let mut unpacker = Unpacker::default();
    let mut all = BTreeMap::new();
    for version in versions {
        let Place::Unit(at) = version.place else { continue };
        let stored = &bytes[at.offset as usize..at.end() as usize];
        let mut out = vec![0; UNIT];
        unpacker.unpack(at, REGION.block(version.first), stored, &mut out).unwrap();
        assert!(all.insert((version.first, version.position.lsn().get()), out).is_none(), "twice");
    }
    all
}

fn run(versions: Vec<Version>, bytes: Vec<u8>, is_cold: &dyn Fn(&Version) -> bool) -> Body {
    repack(&Judge { region: REGION, is_cold, offered: &|_, _| None }, versions, bytes)
}

fn members(body: &Body) -> usize {
    body.versions.iter().filter(|v| pack_of(v).is_some()).count()
}

#[test]
fn what_is_cold_takes_less_room_and_what_is_warm_stays_as_it_is() {
    let list: Vec<_> = (0..64).map(|n| (n, 5, false)).collect();
    let (versions, bytes) = body(&list);
    let warm = run(versions.clone(), bytes.clone(), &|_| false);
    assert_eq!((warm.warm, warm.packs), (bytes.len() as u64, false));
    assert_eq!((&warm.versions, &warm.bytes), (&versions, &bytes));
    let packed = run(versions.clone(), bytes.clone(), &|_| true);
    assert_eq!((packed.warm, packed.packs, members(&packed)), (0, true, 64));
    assert_eq!(places(&packed.versions).count(), 4);
    assert!(packed.bytes.len() * 3 < bytes.len() * 2, "{} of {}", packed.bytes.len(), bytes.len());
    let (versions, bytes) = laid(packed);
    let again = run(versions.clone(), bytes.clone(), &|_| true);
    assert_eq!(again.bytes, bytes, "packs are copied as they are");
    let apart = run(versions, bytes, &|_| false);
    assert_eq!((apart.packs, apart.warm), (false, warm.bytes.len() as u64));
}

#[test]
fn noise_is_not_packed_and_not_tried_again() {
    let (versions, bytes) = body(&(0..16).map(|n| (n, 5, true)).collect::<Vec<_>>());
    let tried = run(versions, bytes.clone(), &|_| true);
    assert_eq!((tried.packs, tried.warm, tried.bytes.len()), (false, 0, bytes.len()));
}

#[test]
fn a_damaged_pack_is_copied_and_what_is_offered_comes_out_of_it() {
    let (versions, bytes) = body(&(0..16).map(|n| (n, 5, false)).collect::<Vec<_>>());
    let (versions, mut bytes) = laid(run(versions, bytes, &|_| true));
    // Nothing is left to tell a member by.
    bytes[16 + 2 * 16..16 + 10 * 16].fill(0);
    let copied = run(versions.clone(), bytes.clone(), &|_| false);
    assert!(copied.bytes == bytes && members(&copied) == 16, "still damaged, still refused");
    let offered = |_, block| (block == REGION.block(3)).then(|| content(3005, false));
    let judge = Judge { region: REGION, is_cold: &|_| true, offered: &offered };
    let mended = repack(&judge, versions, bytes);
    assert_eq!(places(&mended.versions).count(), 2);
    let one = *mended.versions.iter().find(|v| v.first == 3).unwrap();
    assert_eq!(mended.versions.iter().filter(|v| v.place != one.place).count(), 15);
    let (versions, bytes) = laid(mended);
    let one: Vec<Version> = versions.into_iter().filter(|v| v.first == 3).collect();
    assert_eq!(contents(&one, &bytes), [((3, 5), content(3005, false))].into());
}

#[test]
fn what_is_left_of_a_damaged_pack_comes_out_of_it() {
    let (versions, bytes) = body(&(0..16).map(|n| (n, 5, false)).collect::<Vec<_>>());
    let (versions, sound) = laid(run(versions, bytes, &|_| true));
    let mut left = 0;
    for at in (0..sound.len()).step_by(7) {
        let mut bytes = sound.clone();
        bytes[at] ^= 4;
        let (mended, bytes) = laid(run(versions.clone(), bytes, &|_| false));
        let units: Vec<Version> = mended.into_iter().filter(|v| pack_of(v).is_none()).collect();
        left += units.len();
        for ((block, position), found) in contents(&units, &bytes) {
            assert!(
                found == content(u64::from(block) * 1000 + position, false),
                "block {block} at byte {at}"
            );
        }
    }
    assert!(left > sound.len() / 7 * 4, "{left} blocks");
}

proptest! {
    /// However often it is packed and taken apart, every version keeps its content.
    #[test]
    fn content_never_changes(
        list in proptest::collection::vec((0u16..40, 1u64..6, any::<bool>()), 1..80),
        cold in proptest::collection::vec(any::<u64>(), 1..4),
        dropped in any::<u64>(),
    ) {
        let (mut versions, mut bytes) = body(&list);
        let mut wanted = contents(&versions, &bytes);
        for seed in cold {
            let is_cold = |v: &Version| (seed >> ((u64::from(v.first) + v.position.lsn().get()) % 64)) & 1 == 1;
            (versions, bytes) = laid(run(versions, bytes, &is_cold));
            prop_assert_eq!(&contents(&versions, &bytes), &wanted);
            // Some are not needed any more; the order is that of blocks again.
            let goes = |first: u16| (dropped >> (first % 64)) & 1 == 1;
            wanted.retain(|(first, _), _| !goes(*first));
            let mut left: Vec<Version> = versions.iter().filter(|v| !goes(v.first)).copied().collect();
            left.sort_by_key(|v| (v.first, v.position));
            bring_together(&mut left);
            let gathered: Vec<u8> =
                places(&left).flat_map(|at| bytes[at.offset as usize..at.end() as usize].to_vec()).collect();
            (versions, bytes) = laid(Body { versions: left, bytes: gathered, ..Body::default() });
        }
    }
}
