//! Segment files of a store on memory: which there are, what is in them, and how they go away and come back.

use std::io::IoSlice;

use gateway_journal::{FrameHeader, Manifest, SegmentHeader, SegmentId, SettledHeader};
use gateway_store::MarkStore as _;
use tap_disk::{FileNo, SegmentDir as _};

use super::Disk;

/// A file that is away.
pub type Away = (FileNo, Vec<u8>);

/// Where a frame of the log begins, and what it is.
pub type Frame = (FileNo, u64, FrameHeader);

fn first(disk: &Disk, no: FileNo, most: u64) -> Vec<u8> {
    let file = disk.dir.open(no).unwrap();
    let mut bytes = vec![0; most.min(file.len()) as usize];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

pub fn content(disk: &Disk, no: FileNo) -> Vec<u8> {
    first(disk, no, u64::MAX)
}

fn with_headers<H>(disk: &Disk, decode: impl Fn(&[u8]) -> Option<H>) -> Vec<(FileNo, H)> {
    let of = |no: FileNo| Some((no, decode(&first(disk, no, 4096))?));
    disk.dir.list().unwrap().into_iter().filter_map(of).collect()
}

/// Segments of the log, in order.
pub fn log(disk: &Disk) -> Vec<(FileNo, SegmentHeader)> {
    let mut found = with_headers(disk, |head| SegmentHeader::decode(head).ok());
    found.sort_by_key(|(_, header)| header.segment);
    found
}

pub fn settled(disk: &Disk) -> Vec<(FileNo, SettledHeader)> {
    with_headers(disk, |head| SettledHeader::decode(head).ok())
}

/// Files that hold segments.
pub fn used(disk: &Disk) -> Vec<FileNo> {
    let is_used = |head: &[u8]| SegmentHeader::decode(head).is_ok() || SettledHeader::decode(head).is_ok();
    with_headers(disk, |head| is_used(head).then_some(())).into_iter().map(|(no, ())| no).collect()
}

/// Frames of a segment of the log, in order.
pub fn frames_in(disk: &Disk, (no, header): &(FileNo, SegmentHeader)) -> Vec<Frame> {
    let (bytes, mut at, mut found) = (content(disk, *no), 4096, Vec::new());
    while at + 128 <= bytes.len() {
        match FrameHeader::decode(&bytes[at..]).ok().filter(|frame| frame.segment == header.segment) {
            Some(frame) => {
                found.push((*no, at as u64, frame));
                at += frame.span as usize;
            }
            None => at += 8,
        }
    }
    found
}

/// Frames of the log, in order.
pub fn frames(disk: &Disk) -> Vec<Frame> {
    log(disk).iter().flat_map(|segment| frames_in(disk, segment)).collect()
}

pub fn take_away(disk: &Disk, no: FileNo) -> Away {
    let bytes = content(disk, no);
    disk.dir.remove(no).unwrap();
    (no, bytes)
}

/// Under another number, when its own is taken.
pub fn put_back(disk: &Disk, (no, bytes): &Away) {
    let highest = disk.dir.list().unwrap().iter().map(|no| no.get()).max().unwrap_or(0);
    let no = if disk.dir.open(*no).is_ok() { FileNo::new(highest + 1) } else { *no };
    write_new(disk, no, bytes);
}

/// A file that was not there.
pub fn write_new(disk: &Disk, no: FileNo, bytes: &[u8]) {
    let file = disk.dir.create(no, bytes.len() as u64).unwrap();
    file.write_at(0, &[IoSlice::new(bytes)]).unwrap();
    file.sync().unwrap();
}

/// Files of the settled segments that count.
pub fn live(disk: &Disk) -> Vec<(FileNo, SegmentId)> {
    let listed = if disk.manifest.load().is_some() { listed(disk) } else { Vec::new() };
    let counts = |(no, header): (FileNo, SettledHeader)| {
        listed.contains(&header.segment).then_some((no, header.segment))
    };
    settled(disk).into_iter().filter_map(counts).collect()
}

/// Segments of the newest manifest.
pub fn listed(disk: &Disk) -> Vec<SegmentId> {
    let manifest = Manifest::unseal(&disk.manifest.load().unwrap()).unwrap();
    manifest.generations.iter().flat_map(|g| &g.segments).map(|s| s.segment).collect()
}
