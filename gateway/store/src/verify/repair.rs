//! Putting a damaged block right with the same bytes from elsewhere: another gateway has the same version in the same
//! stored form, which is made once and copied from there on.
//!
//! The protected disk may still hold the version that was damaged; what it offers is compared with what is left of it here.
//!
//! This is the one place that writes into history, and it writes what stood there.

use gateway_journal::{Location, Place, RegionNo};
use tap_block::stored::{UNIT, unpack};
use tap_block::{BlockNo, Position, VolumeId};
use tap_disk::SegmentFile;

use std::collections::BTreeSet;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use super::judge::versions;
use crate::error::StoreError;
use crate::store::Shared;

/// So long a repair waits for the end of a pass.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is known of a block that is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// It is the version that is asked for: it comes from where that is kept under its number.
    Version,
    /// It is what the disk holds now; whether it is the version has to be shown.
    Content,
}

/// The stored form of a version; `None` when there is none of it here.
///
/// # Errors
/// When it is damaged, or cannot be read.
pub(crate) fn stored_unit(
    shared: &Shared,
    volume: VolumeId,
    block: BlockNo,
    position: Position,
) -> Result<Option<Vec<u8>>, StoreError> {
    let places = places(shared, volume, block, position)?;
    let mut bad = None;
    // Of equal positions the one delivered last is read.
    for at in places.into_iter().rev() {
        let Some(file) = shared.segments.file(at.segment)? else { continue };
        match sound(&file, block, at)? {
            Ok(bytes) if shared.segments.lives(at.segment) => return Ok(Some(bytes)),
            Ok(_) => {}
            Err(why) => bad = Some(why),
        }
    }
    bad.map_or(Ok(None), |why| Err(StoreError::Damaged(format!("block {}: {why}", block.get()))))
}

/// Writes `unit` wherever this version lies and is damaged; how many places that were.
///
/// # Errors
/// When it is not the stored form of that version, or cannot be written.
pub(crate) fn repair(
    shared: &Shared,
    volume: VolumeId,
    block: BlockNo,
    position: Position,
    (unit, offered): (&[u8], Offered),
) -> Result<usize, StoreError> {
    unpack(block, unit, &mut [0; UNIT])
        .map_err(|e| StoreError::Invalid(format!("the block offered is not sound: {e}")))?;
    // As long as no pass is made no file is given back.
    let _still = shared.settling.still(PATIENCE).ok_or(StoreError::Busy)?;
    let places = places(shared, volume, block, position)?;
    if places.is_empty() {
        return Err(StoreError::Invalid(format!(
            "nothing is kept of block {} as of {position:?}",
            block.get()
        )));
    }
    let mut repaired = 0;
    for at in places {
        let gone = || StoreError::Damaged(format!("{} is missing", at.segment));
        let file = shared.segments.file(at.segment)?.ok_or_else(gone)?;
        if sound(&file, block, at)?.is_ok() {
            continue;
        }
        check_length(unit, at)?;
        if offered == Offered::Content && !is_what_stood(&file, at, unit) {
            return Err(StoreError::Invalid("the disk holds another version of the block by now".to_owned()));
        }
        shared.bookkeeping.before_repair();
        let put = put(&file, block, at, unit);
        shared.bookkeeping.after_repair();
        put?;
        repaired += 1;
    }
    shared.proving.repaired(volume, block, position, shared.age.now());
    Ok(repaired)
}

fn places(
    shared: &Shared,
    volume: VolumeId,
    block: BlockNo,
    position: Position,
) -> Result<Vec<Location>, StoreError> {
    let Some((region, within)) = RegionNo::holding(block) else { return Ok(Vec::new()) };
    let (versions, _) = versions(shared, volume, region, &BTreeSet::from([within]))?;
    let here = versions.iter().filter(|v| v.first == within && v.position == position);
    let units = here.filter_map(|v| match v.place {
        Place::Unit(at) => Some(at),
        Place::Zero => None,
    });
    Ok(units.collect())
}

/// What lies there, and whether it is what was written.
fn sound(file: &SegmentFile, block: BlockNo, at: Location) -> Result<Result<Vec<u8>, String>, StoreError> {
    let mut bytes = vec![0; usize::from(at.len)];
    if let Err(e) = file.read_at(u64::from(at.offset), &mut bytes) {
        return Ok(Err(e.to_string()));
    }
    Ok(unpack(block, &bytes, &mut [0; UNIT]).map_err(|e| e.to_string()).map(|()| bytes))
}

/// Either the checksum there is that of `unit`, or all the rest is as in `unit`: rot that leaves neither is not told from
/// another version.
fn is_what_stood(file: &SegmentFile, at: Location, unit: &[u8]) -> bool {
    let mut there = vec![0; usize::from(at.len)];
    if file.read_at(u64::from(at.offset), &mut there).is_err() || there.len() != unit.len() {
        return false;
    }
    match (there.split_first_chunk::<8>(), unit.split_first_chunk::<8>()) {
        (Some((sum, rest)), Some((wanted, body))) => sum == wanted || rest == body,
        _ => false,
    }
}

fn check_length(unit: &[u8], at: Location) -> Result<(), StoreError> {
    if unit.len() == usize::from(at.len) {
        return Ok(());
    }
    let text = format!("the block offered has another stored form: {} bytes, not {}", unit.len(), at.len);
    Err(StoreError::Invalid(text))
}

fn put(file: &Arc<SegmentFile>, block: BlockNo, at: Location, unit: &[u8]) -> Result<(), StoreError> {
    file.write_at(u64::from(at.offset), &[IoSlice::new(unit)])?;
    file.sync()?;
    file.drop_cache()?;
    match sound(file, block, at)? {
        Ok(_) => Ok(()),
        Err(why) => Err(StoreError::Io(format!("block {} cannot be put right: {why}", block.get()))),
    }
}
