//! Putting a damaged block right with the same bytes from elsewhere: another gateway has the same version in the same
//! stored form, which is made once and copied from there on.
//!
//! The protected disk may still hold the version that was damaged; what it offers is compared with what is left of it here.
//!
//! This is the one place that writes into history, and it writes what stood there. What lies in a damaged pack is written
//! anew elsewhere, with its region.

use gateway_journal::pack::{PackHead, Unpacker, content_sum};
use gateway_journal::{Location, Place, RegionNo, SegmentId, Version};
use tap_block::stored::{UNIT, pack, unpack};
use tap_block::units::index;
use tap_block::{BlockNo, Position, VolumeId};
use tap_disk::SegmentFile;

use std::collections::{BTreeMap, BTreeSet};
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

/// A version's stored form, if it is here.
pub type StoredUnit = Result<Option<Vec<u8>>, StoreError>;

/// The stored forms of versions; `None` where there is none of it here. Each that is damaged, or cannot be read, is an error of its
/// own.
///
/// # Errors
/// When the index cannot be read.
pub(crate) fn stored_units(
    shared: &Shared,
    volume: VolumeId,
    wanted: &[(BlockNo, Position)],
) -> Result<Vec<StoredUnit>, StoreError> {
    let places = Places::of(shared, volume, wanted.iter().map(|(block, _)| *block))?;
    let of = |&(block, position): &(BlockNo, Position)| unit_at(shared, block, places.at(block, position));
    Ok(wanted.iter().map(of).collect())
}

fn unit_at(shared: &Shared, block: BlockNo, places: Vec<Location>) -> StoredUnit {
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

/// Where versions of some blocks lie: looked up a region at a time.
struct Places(BTreeMap<RegionNo, Vec<Version>>);

impl Places {
    fn of(
        shared: &Shared,
        volume: VolumeId,
        blocks: impl Iterator<Item = BlockNo>,
    ) -> Result<Self, StoreError> {
        let mut wanted = BTreeMap::<RegionNo, BTreeSet<u16>>::new();
        for (region, within) in blocks.filter_map(RegionNo::holding) {
            wanted.entry(region).or_default().insert(within);
        }
        let look = |(region, blocks)| Ok((region, versions(shared, volume, region, &blocks)?.0));
        wanted.into_iter().map(look).collect::<Result<_, StoreError>>().map(Self)
    }

    fn at(&self, block: BlockNo, position: Position) -> Vec<Location> {
        let Some((region, within)) = RegionNo::holding(block) else { return Vec::new() };
        let versions = self.0.get(&region).into_iter().flatten();
        let here = versions.filter(|v| v.first == within && v.position == position);
        let units = here.filter_map(|v| match v.place {
            Place::Unit(at) => Some(at),
            Place::Zero => None,
        });
        units.collect()
    }
}

/// A version of a block from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// The block.
    pub block: BlockNo,
    /// Which version.
    pub position: Position,
    /// Its stored form.
    pub unit: Vec<u8>,
}

/// What a repair comes to: in how many places it was put.
type Outcome = Result<usize, StoreError>;

/// A version that is left to be put right with its region: where it lies in packs, and what it holds.
struct Packed {
    /// Which of the repairs.
    no: usize,
    places: Vec<Location>,
    content: Vec<u8>,
}

/// Writes each unit wherever its version lies and is damaged. A region with damaged packs is written anew once for all of them.
///
/// # Errors
/// [`StoreError::Busy`] when history is being settled for too long. The others are each repair's own: it is not the stored form of
/// that version, or cannot be written.
pub(crate) fn repair(
    shared: &Shared,
    volume: VolumeId,
    repairs: &[Repair],
    offered: Offered,
) -> Result<Vec<Outcome>, StoreError> {
    // As long as no pass is made no file is given back.
    let mut still = shared.settling.still(PATIENCE).ok_or(StoreError::Busy)?;
    let (mut outcomes, mut of_region) = (Vec::new(), BTreeMap::<RegionNo, Vec<Packed>>::new());
    let (places, mut written) = (Places::of(shared, volume, repairs.iter().map(|r| r.block))?, Vec::new());
    shared.bookkeeping.before_repair();
    for (no, repair) in repairs.iter().enumerate() {
        let mut here = Vec::new();
        let places = places.at(repair.block, repair.position);
        let mended = mend_units(shared, places, repair, offered, &mut here);
        written.extend(here.into_iter().map(|put| (no, put)));
        outcomes.push(mended.map(|(put, places, content)| {
            let region = RegionNo::holding(repair.block).filter(|_| !places.is_empty());
            if let Some((region, _)) = region {
                of_region.entry(region).or_default().push(Packed { no, places, content });
            }
            put
        }));
    }
    settle_on_disk(&written, repairs, &mut outcomes);
    shared.bookkeeping.after_repair();
    for (region, packed) in of_region {
        for (no, outcome) in mend_packs(shared, &mut still, (volume, region), repairs, packed) {
            if let Some(of_all) = outcomes.get_mut(no) {
                *of_all = outcome.and_then(|put| of_all.clone().map(|units| units + put));
            }
        }
    }
    for (repair, outcome) in repairs.iter().zip(&outcomes) {
        if offered == Offered::Content && matches!(outcome, Err(StoreError::Invalid(_))) {
            shared.proving.note_unproven((volume, repair.block, repair.position));
        }
    }
    let put = repairs.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_ok());
    let put: BTreeSet<_> = put.map(|(repair, _)| (repair.block, repair.position)).collect();
    shared.proving.repaired(volume, &put, shared.age.now());
    Ok(outcomes)
}

/// Puts a version right where it lies by itself, not durably yet; in how many places, and where it lies in damaged packs.
fn mend_units(
    shared: &Shared,
    places: Vec<Location>,
    Repair { block, position, unit }: &Repair,
    offered: Offered,
    written: &mut Vec<(Arc<SegmentFile>, Location)>,
) -> Result<(usize, Vec<Location>, Vec<u8>), StoreError> {
    let (block, position) = (*block, *position);
    let mut content = vec![0; UNIT];
    unpack(block, unit, &mut content)
        .map_err(|e| StoreError::Invalid(format!("the block offered is not sound: {e}")))?;
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
            let known = offered == Offered::Version || was_member(shared, at, block, &content)?;
            packs.push(known.then_some(at).ok_or_else(another_version)?);
            continue;
        }
        check_length(unit, at)?;
        if offered == Offered::Content && !is_what_stood(&file, at, unit) {
            return Err(another_version());
        }
        file.write_at(u64::from(at.offset), &[IoSlice::new(unit)])?;
        written.push((file, at));
        repaired += 1;
    }
    Ok((repaired, packs, content))
}

fn another_version() -> StoreError {
    StoreError::Invalid("the disk holds another version of the block by now".to_owned())
}

/// A pack is compressed as a whole, so the region is written anew with what is offered in place of the damaged members.
fn mend_packs(
    shared: &Shared,
    settler: &mut Settler,
    (volume, region): (VolumeId, RegionNo),
    repairs: &[Repair],
    packed: Vec<Packed>,
) -> Vec<(usize, Outcome)> {
    let with_repair = |packed: Packed| Some((repairs.get(packed.no)?, packed));
    let packed: Vec<(&Repair, Packed)> = packed.into_iter().filter_map(with_repair).collect();
    let put = packed.iter().all(|(repair, Packed { places, content, .. })| {
        places.iter().all(|at| shared.offers.put(*at, repair.block, content.clone()))
    });
    let renewed = if put { settler.renew_region(shared, volume, region) } else { Err(StoreError::Busy) };
    for (repair, Packed { places, .. }) in &packed {
        places.iter().for_each(|at| shared.offers.clear(*at, repair.block));
    }
    if let Ok(report) = &renewed {
        shared.bookkeeping.settled(report);
    }
    let outcome = |(repair, Packed { no, places, .. }): (&Repair, Packed)| {
        let outcome = match &renewed {
            Ok(_) => check_whole(shared, volume, repair).map(|()| places.len()),
            Err(e) => Err(e.clone()),
        };
        (no, outcome)
    };
    packed.into_iter().map(outcome).collect()
}

/// Is the version sound wherever it lies now?
fn check_whole(shared: &Shared, volume: VolumeId, repair: &Repair) -> Result<(), StoreError> {
    let places = Places::of(shared, volume, std::iter::once(repair.block))?;
    for at in places.at(repair.block, repair.position) {
        let Some(file) = shared.segments.file(at.segment)? else { continue };
        sound(&file, repair.block, at)?.map_err(|why| {
            StoreError::Io(format!("block {} cannot be put right: {why}", repair.block.get()))
        })?;
    }
    Ok(())
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
pub(super) fn sound(
    file: &SegmentFile,
    block: BlockNo,
    at: Location,
) -> Result<Result<Vec<u8>, String>, StoreError> {
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

/// Makes durable what was written for each of the repairs, each file once, and reads it from the disk again.
fn settle_on_disk(
    written: &[(usize, (Arc<SegmentFile>, Location))],
    repairs: &[Repair],
    outcomes: &mut [Outcome],
) {
    let mut files: BTreeMap<SegmentId, Result<(), StoreError>> = BTreeMap::new();
    for (no, (file, at)) in written {
        let on_disk = files.entry(at.segment).or_insert_with(|| {
            file.sync()?;
            Ok(file.drop_cache()?)
        });
        let Some((repair, outcome)) = repairs.get(*no).zip(outcomes.get_mut(*no)) else { continue };
        let failed = |why| StoreError::Io(format!("block {} cannot be put right: {why}", repair.block.get()));
        let there = on_disk.clone().and_then(|()| sound(file, repair.block, *at)?.map_err(failed));
        if let Err(e) = there {
            *outcome = Err(e);
        }
    }
}
