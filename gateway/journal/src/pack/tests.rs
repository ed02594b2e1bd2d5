//! Packs give back what was put in, and nothing else.

#![allow(clippy::cast_possible_truncation, reason = "tests")]

use proptest::prelude::*;

use super::*;
use crate::units::SegmentId;

fn content(seed: u8) -> Vec<u8> {
    (0..UNIT).map(|n| if n % 3 == 0 { seed } else { (n / 7 % 256) as u8 }).collect()
}

fn sealed(region: RegionNo, blocks: &[u16]) -> (Location, Vec<u8>) {
    let contents: Vec<(u16, Vec<u8>)> = blocks.iter().map(|&b| (b, content(b as u8))).collect();
    let members: Vec<Member<'_>> = contents.iter().map(|(b, c)| (*b, c.as_slice())).collect();
    let bytes = pack(region, &members).unwrap();
    let at = Location::of_pack(SegmentId::new(1), 64, u32::try_from(bytes.len()).unwrap()).unwrap();
    (at, bytes)
}

#[test]
fn every_member_comes_back() {
    let region = RegionNo::new(3);
    let blocks = [0, 7, 8, 4095];
    let (at, bytes) = sealed(region, &blocks);
    assert!(at.is_pack() && at.bytes() as usize == bytes.len() && bytes.len() < 2 * UNIT, "{at}");
    let (mut unpacker, mut out) = (Unpacker::default(), [0; UNIT]);
    for block in blocks.into_iter().rev() {
        unpacker.unpack(at, region.block(block), &bytes, &mut out).unwrap();
        assert_eq!(out[..], content(block as u8));
    }
    assert_eq!(
        unpacker.unpack(at, region.block(9), &bytes, &mut out),
        Err(UnitError::Malformed),
        "no member"
    );
    let other = RegionNo::new(4).block(7);
    assert_eq!(unpacker.unpack(at, other, &bytes, &mut out), Err(UnitError::Checksum), "another region's");
    assert!(unpacker.verify(at, region.block(7), &bytes).is_ok());
}

#[test]
fn its_head_says_what_its_members_were() {
    let region = RegionNo::new(0);
    let (_, mut bytes) = sealed(region, &[5, 6]);
    let last = bytes.len() - 9;
    bytes[last] ^= 1;
    let head = PackHead::decode(&bytes).unwrap();
    let sum = |block: u16| (block, content_sum(region.block(block), &content(block as u8)));
    assert_eq!(head.members, [sum(5), sum(6)]);
}

#[test]
fn only_what_a_reader_takes_is_packed() {
    let (region, block) = (RegionNo::new(0), content(1));
    let twice: [Member<'_>; 2] = [(3, &block), (3, &block)];
    assert_eq!(pack(region, &twice), None, "a block twice");
    assert_eq!(pack(region, &[]), None);
    assert_eq!(pack(region, &[(1, &block[..100])]), None, "a part of a block");
    let many: Vec<Member<'_>> = (0..17).map(|n| (n, block.as_slice())).collect();
    assert_eq!(pack(region, &many), None, "too many");
}

#[test]
fn a_place_of_a_pack_says_how_long_it_is() {
    let of = |bytes| Location::of_pack(SegmentId::new(1), 8, bytes);
    assert_eq!(of(8).map(|at| (at.is_pack(), at.bytes(), at.end())), Some((true, 8, 16)));
    assert_eq!(of(0x7fff * 8).map(Location::bytes), Some(0x7fff * 8));
    assert_eq!([of(0), of(12), of(0x8000 * 8)], [None; 3]);
    let unit = Location { segment: SegmentId::new(1), offset: 8, len: 4108 };
    assert_eq!((unit.is_pack(), unit.bytes()), (false, 4108));
}

proptest! {
    #[test]
    fn a_flipped_bit_is_never_content(bit in 0usize..8 * 600) {
        let region = RegionNo::new(2);
        let (at, mut bytes) = sealed(region, &[1, 2, 3]);
        let bit = bit % (bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Unpacker::default().verify(at, region.block(2), &bytes).is_err());
    }

    #[test]
    fn noise_is_an_error(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), members in 0u8..20) {
        let (region, at) = (RegionNo::new(0), Location::of_pack(SegmentId::new(1), 0, 304).unwrap());
        if let Some(head) = bytes.get_mut(..12) {
            head[8..].copy_from_slice(&[1, members, 0, 0]);
            let sum = sum(region, &bytes).to_le_bytes();
            bytes[..8].copy_from_slice(&sum);
        }
        let _ = PackHead::decode(&bytes);
        prop_assert!(Unpacker::default().verify(at, region.block(0), &bytes).is_err());
    }
}
