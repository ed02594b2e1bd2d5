//! A settled segment survives its bytes, and every flipped bit of what counts is found.

use tap_block::{Lsn, Position};

use super::*;
use crate::units::Location;

fn version(first: u16, at: u64, len: u16) -> Version {
    let position = Position::record(Lsn::new(at).unwrap());
    let place = match len {
        0 => Place::Zero,
        len => Place::Unit(Location { segment: SegmentId::new(3), offset: 77, len }),
    };
    Version { first, blocks: 1, position, place }
}

fn writer(length: u32) -> SettledWriter {
    SettledWriter::begin(StoreId::new(9), SegmentId::new(12), length, 4)
}

#[test]
fn units_get_places_in_their_frame_one_after_the_other() {
    let mut writer = writer(1 << 20);
    let versions = [version(1, 5, 100), version(1, 7, 50), version(9, 6, 0)];
    let laid = writer.run(VolumeId::new(1), RegionNo::new(2), &versions).unwrap();
    let frame = SettledFrame::decode(&laid.head).unwrap();
    check_settled(&laid.head).unwrap();
    assert_eq!((frame.body, frame.kind), (150, SettledKind::Run(VolumeId::new(1), RegionNo::new(2))));
    let read = decode_settled_run(&frame, laid.at, &laid.head[SETTLED_FRAME..]).unwrap();
    assert_eq!(read, laid.versions);
    let body_at = laid.at + SETTLED_FRAME_BYTES + frame.table;
    let offsets: Vec<u32> = read
        .iter()
        .filter_map(|v| match v.place {
            Place::Unit(l) => Some(l.offset),
            Place::Zero => None,
        })
        .collect();
    assert_eq!(offsets, [body_at, body_at + 100]);
    assert!(
        decode_settled_run(&frame, laid.at + 8, &laid.head[SETTLED_FRAME..]).is_err(),
        "of another frame"
    );
}

#[test]
fn a_segment_takes_what_it_has_room_for_and_its_header_tells() {
    let mut writer = writer(SEGMENT_HEADER + 400);
    assert!(writer.run(VolumeId::new(1), RegionNo::new(0), &[version(0, 1, 500)]).is_none());
    let laid = writer.run(VolumeId::new(1), RegionNo::new(0), &[version(0, 1, 100)]).unwrap();
    assert_eq!(laid.at, SEGMENT_HEADER);
    let manifest = writer.manifest(b"everything").unwrap();
    let header = writer.header();
    assert_eq!((header.frames, header.manifest), (2, Some(manifest.at)));
    let bytes = header.encode();
    assert_eq!(SettledHeader::decode(&bytes), Ok(header));
    for bit in 0..60 * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(SettledHeader::decode(&bad).is_err(), "bit {bit}");
    }
}

#[test]
fn every_flipped_bit_of_a_frame_is_found() {
    let laid = writer(1 << 20).run(VolumeId::new(1), RegionNo::new(2), &[version(1, 5, 100)]).unwrap();
    for bit in 0..laid.head.len() * 8 {
        let mut bad = laid.head.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(SettledFrame::decode(&bad).is_err() || check_settled(&bad).is_err(), "bit {bit}");
    }
}
