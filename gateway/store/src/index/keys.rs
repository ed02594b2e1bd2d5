//! Keys of the index, big endian so that they sort as their fields do.

use gateway_journal::{GroupNo, RegionNo};
use tap_block::{Lsn, StreamId, VolumeId};

/// A region's run of one group.
#[must_use]
pub(crate) fn run(volume: VolumeId, region: RegionNo, group: GroupNo) -> Vec<u8> {
    of_region(volume, region, group.get())
}

/// A region's checkpoint at a point.
#[must_use]
pub(crate) fn map(volume: VolumeId, region: RegionNo, point: Lsn) -> Vec<u8> {
    of_region(volume, region, point.get())
}

fn of_region(volume: VolumeId, region: RegionNo, last: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(20);
    key.extend_from_slice(&volume.get().to_be_bytes());
    key.extend_from_slice(&region.get().to_be_bytes());
    key.extend_from_slice(&last.to_be_bytes());
    key
}

/// A stream's time row.
#[must_use]
pub(crate) fn time(stream: StreamId, lsn: Lsn) -> Vec<u8> {
    [stream.get().to_be_bytes(), lsn.get().to_be_bytes()].concat()
}

/// A region in one generation of settled history, the one this settle wrote.
#[must_use]
pub(crate) fn settled(settle: u64, volume: VolumeId, region: RegionNo) -> Vec<u8> {
    let mut key = settle.to_be_bytes().to_vec();
    key.extend_from_slice(&volume.get().to_be_bytes());
    key.extend_from_slice(&region.get().to_be_bytes());
    key
}

/// The volume and region of a run's key.
#[must_use]
pub(crate) fn run_place(key: &[u8]) -> Option<(VolumeId, RegionNo)> {
    let (volume, rest) = key.split_first_chunk::<8>()?;
    let region = rest.first_chunk::<4>()?;
    Some((VolumeId::new(u64::from_be_bytes(*volume)), RegionNo::new(u32::from_be_bytes(*region))))
}

/// Behind every key of a region.
#[must_use]
pub(crate) fn behind(volume: VolumeId, region: RegionNo) -> Vec<u8> {
    of_region(volume, region, u64::MAX)
}

/// The volume and region of such a key.
#[must_use]
pub(crate) fn settled_place(key: &[u8]) -> Option<(VolumeId, RegionNo)> {
    let (_, rest) = key.split_first_chunk::<8>()?;
    run_place(rest)
}

/// Regions that a rebuild did not find in settled segments.
#[must_use]
pub(crate) fn lost(lost: &crate::layout::Lost) -> Vec<u8> {
    [LOST, &lost.settle.to_be_bytes(), &lost.encode()].concat()
}

/// What such keys begin with.
pub(crate) const LOST: &[u8] = b"lost";

/// Numbers of settles and segments that were given out, so that none is given out again.
pub(crate) const RESERVED: &[u8] = b"reserved";

/// The value of that row.
#[must_use]
pub(crate) fn reserved(settle: u64, segment: gateway_journal::SegmentId) -> Vec<u8> {
    [&settle.to_be_bytes()[..], &segment.get().to_be_bytes()[..]].concat()
}

/// Which settle the index shows.
pub(crate) const LAYOUT: &[u8] = b"layout";

/// There while rows are that no settle shows any more.
pub(crate) const OWED: &[u8] = b"owed";

/// What keys of bookmarks and barrier marks begin with.
pub(crate) const NAMES: &[u8] = b"names";

/// A row of the catalogue with this key there.
#[must_use]
pub(crate) fn name(key: &[u8]) -> Vec<u8> {
    [NAMES, key].concat()
}

/// How far the index goes.
pub(crate) const STATE: &[u8] = b"state";

/// What a group holds.
#[must_use]
pub(crate) fn group(group: GroupNo) -> Vec<u8> {
    [b"group".as_slice(), &group.get().to_be_bytes()].concat()
}

/// Before all times: the last group of which rows were brought in. Before all checkpoints: the last of which such were; the state knew
/// of it by then.
pub(crate) const NEWEST: &[u8] = &[0, 0];

/// Such a row.
#[must_use]
pub(crate) fn newest(group: GroupNo) -> (Vec<u8>, Vec<u8>) {
    (NEWEST.to_vec(), group.get().to_be_bytes().to_vec())
}

/// The number at the end of a key.
#[must_use]
pub(crate) fn last_number(key: &[u8]) -> Option<u64> {
    key.last_chunk::<8>().map(|b| u64::from_be_bytes(*b))
}
