//! Segment files that are taken away and put back.

use std::io::IoSlice;

use gateway_journal::{Manifest, SegmentHeader, SegmentId, SettledHeader};
use gateway_store::MarkStore as _;
use tap_disk::{FileNo, SegmentDir as _};

use super::Disk;

/// Segments of the log, in order.
pub fn log(disk: &Disk) -> Vec<(FileNo, SegmentHeader)> {
    let header = |no: FileNo| {
        let mut head = [0; 4096];
        disk.dir.open(no).unwrap().read_at(0, &mut head).unwrap();
        Some((no, SegmentHeader::decode(&head).ok()?))
    };
    let mut found: Vec<_> = disk.dir.list().unwrap().into_iter().filter_map(header).collect();
    found.sort_by_key(|(_, header)| header.segment);
    found
}

/// Removes a file; its bytes.
pub fn take_away(disk: &Disk, no: FileNo) -> (FileNo, Vec<u8>) {
    let file = disk.dir.open(no).unwrap();
    let mut bytes = vec![0; file.len() as usize];
    file.read_at(0, &mut bytes).unwrap();
    disk.dir.remove(no).unwrap();
    (no, bytes)
}

/// Under its number, if nothing else has that.
pub fn put_back(disk: &Disk, (no, bytes): &(FileNo, Vec<u8>)) {
    let highest = disk.dir.list().unwrap().iter().map(|no| no.get()).max().unwrap_or(0);
    let no = if disk.dir.open(*no).is_ok() { FileNo::new(highest + 1) } else { *no };
    let file = disk.dir.create(no, bytes.len() as u64).unwrap();
    file.write_at(0, &[IoSlice::new(bytes)]).unwrap();
    file.sync().unwrap();
}

/// Files of the settled segments that count.
pub fn live(disk: &Disk) -> Vec<(FileNo, SegmentId)> {
    let Some(manifest) = disk.manifest.load() else { return Vec::new() };
    let manifest = Manifest::unseal(&manifest).unwrap();
    let listed: Vec<_> = manifest.generations.iter().flat_map(|g| &g.segments).map(|s| s.segment).collect();
    let of = |no: FileNo| {
        let mut head = [0; 128];
        disk.dir.open(no).unwrap().read_at(0, &mut head).unwrap();
        let header = SettledHeader::decode(&head).ok().filter(|header| listed.contains(&header.segment))?;
        Some((no, header.segment))
    };
    disk.dir.list().unwrap().into_iter().filter_map(of).collect()
}

/// Segments of the newest manifest.
pub fn listed(disk: &Disk) -> Vec<SegmentId> {
    let manifest = Manifest::unseal(&disk.manifest.load().unwrap()).unwrap();
    manifest.generations.iter().flat_map(|g| &g.segments).map(|s| s.segment).collect()
}
