//! Putting a damaged block right with the same bytes from elsewhere: another gateway has the same version in the same
//! stored form, which is made once and copied from there on.
//!
//! The protected disk may still hold the version that was damaged; what it offers is compared with what is left of it here.
//!
//! This is the one place that writes into history, and it writes what stood there. What lies in a damaged pack is written
//! anew elsewhere, with its region.

use gateway_journal::pack::{PackHead, Unpacker, content_sum};
use gateway_journal::{Location, Place, RegionNo};
use tap_block::stored::{UNIT, pack, unpack};
use tap_block::units::index;
use tap_block::{BlockNo, Position, VolumeId};
use tap_disk::SegmentFile;

use std::collections::BTreeSet;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use super::judge::versions;
use crate::chunks::read_what_can_be;
use crate::error::StoreError;
use crate::settle::Settler;
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
    let mut content = vec![0; UNIT];
    unpack(block, unit, &mut content)
        .map_err(|e| StoreError::Invalid(format!("the block offered is not sound: {e}")))?;
    // As long as no pass is made no file is given back.
    let mut still = shared.settling.still(PATIENCE).ok_or(StoreError::Busy)?;
    let places = places(shared, volume, block, position)?;
    if places.is_empty() {
        return Err(StoreError::Invalid(format!(
            "nothing is kept of block {} as of {position:?}",
            block.get()
        )));
    }
    let (mut repaired, mut packs) = (0, Vec::new());
    for at in places {
        let gone = || StoreError::Damaged(format!("{} is missing", at.segment));
        let file = shared.segments.file(at.segment)?.ok_or_else(gone)?;
        if sound(&file, block, at)?.is_ok() {
            continue;
        }
        if at.is_pack() {
            packs.push(at);
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
    let which = (volume, block, position);
    repaired += mend_packs(shared, &mut still, which, &packs, (&content, offered))?;
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

/// A pack is compressed as a whole, so the region is written anew with what is offered in place of the damaged member.
fn mend_packs(
    shared: &Shared,
    settler: &mut Settler,
    (volume, block, position): (VolumeId, BlockNo, Position),
    packs: &[Location],
    (content, offered): (&[u8], Offered),
) -> Result<usize, StoreError> {
    let Some((region, _)) = RegionNo::holding(block).filter(|_| !packs.is_empty()) else { return Ok(0) };
    if offered == Offered::Content {
        for at in packs {
            if !was_member(shared, *at, block, content)? {
                let text = "the disk holds another version of the block by now";
                return Err(StoreError::Invalid(text.to_owned()));
            }
        }
    }
    let put = packs.iter().all(|at| shared.offers.put(*at, block, content.to_vec()));
    let renewed = if put { settler.renew_region(shared, volume, region) } else { Err(StoreError::Busy) };
    packs.iter().for_each(|at| shared.offers.clear(*at, block));
    shared.bookkeeping.settled(&renewed?);
    for at in places(shared, volume, block, position)? {
        let Some(file) = shared.segments.file(at.segment)? else { continue };
        sound(&file, block, at)?
            .map_err(|why| StoreError::Io(format!("block {} cannot be put right: {why}", block.get())))?;
    }
    Ok(packs.len())
}

/// Does what is left of the pack say that this was the block's content?
fn was_member(shared: &Shared, at: Location, block: BlockNo, content: &[u8]) -> Result<bool, StoreError> {
    let Some(file) = shared.segments.file(at.segment)? else { return Ok(false) };
    let mut bytes = vec![0; index(u64::from(at.bytes()))];
    read_what_can_be(&file, u64::from(at.offset), &mut bytes);
    let within = RegionNo::holding(block).map(|(_, within)| within);
    let members = PackHead::decode(&bytes).map_or_else(|_| Vec::new(), |head| head.members);
    Ok(members.iter().any(|(b, sum)| Some(*b) == within && *sum == content_sum(block, content)))
}

/// The unit there, and whether it is what was written. What lies in a pack is given the unit it would have alone.
fn sound(file: &SegmentFile, block: BlockNo, at: Location) -> Result<Result<Vec<u8>, String>, StoreError> {
    let mut bytes = vec![0; index(u64::from(at.bytes()))];
    if let Err(e) = file.read_at(u64::from(at.offset), &mut bytes) {
        return Ok(Err(e.to_string()));
    }
    let mut content = [0; UNIT];
    let unpacked = Unpacker::default().unpack(at, block, &bytes, &mut content).map_err(|e| e.to_string());
    if at.is_pack() {
        bytes.clear();
        pack(block, &content, &mut bytes);
    }
    Ok(unpacked.map(|()| bytes))
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
