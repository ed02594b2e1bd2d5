//! What changed between two points of a volume.
//!
//! In the log the records between them say so, in a time that depends on what was written. Settled history is told by the
//! maps at both points, region by region, where any generation holds something of the region at all.

use std::collections::BTreeSet;

use gateway_journal::{REGION_BLOCKS, RegionNo};
use tap_block::{BLOCK_SIZE, Extent, ExtentSet, Lsn, VolumeId};

use crate::error::StoreError;
use crate::index::{IndexStore, Table, keys};
use crate::layout::Layout;
use crate::maps::refuse_if_lost;
use crate::store::Shared;
use crate::sync::read;
use crate::times::{each_change, under_one_layout};

/// The blocks that records after `from`, up to `to`, wrote; blocks written with what they held count too.
pub(crate) fn between(
    shared: &Shared,
    volume: VolumeId,
    from: Lsn,
    to: Lsn,
) -> Result<ExtentSet, StoreError> {
    under_one_layout(shared, |layout| {
        let stream = {
            let published = read(&shared.published);
            let known = published.catalogue.volume(volume).ok_or(StoreError::UnknownVolume(volume))?;
            layout.check(known, from)?;
            layout.check(known, to)?;
            known.stream()
        };
        let settled = layout.kept.get(&volume).map_or(Lsn::ZERO, |kept| kept.settled);
        let mut changed = ExtentSet::new();
        if from < settled {
            in_settled(shared, layout, volume, (from, to.min(settled)), &mut changed)?;
        }
        if to > settled {
            // Copies may have come later than the records they stand behind.
            let log = (from.max(settled), to);
            let told = each_change(shared, stream, log, from, &mut |of, extent| {
                if of == volume {
                    changed.insert(extent.to_blocks());
                }
            });
            match told {
                // Some of the log is gone: the index knows where everything lay.
                Err(StoreError::Damaged(_)) => in_maps(shared, layout, volume, log, &mut changed)?,
                told => told?,
            }
        }
        Ok(changed)
    })
}

/// The regions that history holds anything of, at whatever point: what is in none of them is zero. `None`: a rebuild of the index
/// did not find some, so it is not known of any.
pub(crate) fn held(shared: &Shared, volume: VolumeId) -> Result<Option<BTreeSet<RegionNo>>, StoreError> {
    under_one_layout(shared, |layout| {
        if !layout.lost.is_empty() {
            return Ok(None);
        }
        all_regions(shared, layout, volume).map(Some)
    })
}

/// The regions that anything is known of.
fn all_regions(shared: &Shared, layout: &Layout, volume: VolumeId) -> Result<BTreeSet<RegionNo>, StoreError> {
    // First: what is not in memory any more is in the index by then.
    let mut found: BTreeSet<RegionNo> = {
        let published = read(&shared.published);
        let groups = published.frozen.iter().map(|f| &f.group).chain([&published.active]);
        groups.flat_map(|group| group.regions_of(volume)).collect()
    };
    found.extend(regions(shared, layout, volume)?);
    for table in [Table::Runs, Table::Maps] {
        found.extend(indexed(shared, table, volume)?);
    }
    Ok(found)
}

/// The regions that a table has rows of: one look for each of them, however many rows it has.
fn indexed(shared: &Shared, table: Table, volume: VolumeId) -> Result<BTreeSet<RegionNo>, StoreError> {
    let (mut from, to) =
        (keys::map(volume, RegionNo::new(0), Lsn::ZERO), keys::behind(volume, RegionNo::new(u32::MAX)));
    let mut found = BTreeSet::new();
    loop {
        let mut next = None;
        shared.index.scan(table, &from, &to, &mut |key, _| {
            next = keys::run_place(key).map(|(_, region)| region);
            false
        })?;
        let Some(region) = next else { return Ok(found) };
        found.insert(region);
        from = keys::behind(volume, region);
    }
}

fn in_settled(
    shared: &Shared,
    layout: &Layout,
    volume: VolumeId,
    range: (Lsn, Lsn),
    changed: &mut ExtentSet,
) -> Result<(), StoreError> {
    compare(shared, volume, regions(shared, layout, volume)?, range, changed)
}

/// What lies in the log, told like settled history. What the index does not know, either, is refused.
fn in_maps(
    shared: &Shared,
    layout: &Layout,
    volume: VolumeId,
    (from, to): (Lsn, Lsn),
    changed: &mut ExtentSet,
) -> Result<(), StoreError> {
    if !layout.lost.is_empty() {
        return Err(StoreError::Damaged("not everything of what is settled was found again".into()));
    }
    {
        let published = read(&shared.published);
        let known = published.catalogue.volume(volume).ok_or(StoreError::UnknownVolume(volume))?;
        refuse_if_lost(known, &published.damage, to)?;
        refuse_if_lost(known, layout.trail.damage(), to)?;
    }
    let regions = all_regions(shared, layout, volume)?;
    compare(shared, volume, regions, (from, to), changed)
}

/// Compares the maps at two points.
fn compare(
    shared: &Shared,
    volume: VolumeId,
    regions: BTreeSet<RegionNo>,
    (from, to): (Lsn, Lsn),
    changed: &mut ExtentSet,
) -> Result<(), StoreError> {
    for region in regions {
        let map = |point| shared.gathered_map(volume, region, point, false);
        let (before, after) = (map(from)?, map(to)?);
        let mut since = None;
        for block in 0..=REGION_BLOCKS {
            let differs = block < REGION_BLOCKS && before.unit(block) != after.unit(block);
            match (differs, since) {
                (true, None) => since = Some(block),
                (false, Some(first)) => {
                    changed.insert(blocks(region, first, block));
                    since = None;
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn blocks(region: RegionNo, first: u16, end: u16) -> Extent {
    let at = |block: u16| region.offset() + u64::from(block) * BLOCK_SIZE;
    Extent::between(at(first), at(end))
}

/// The regions that settled history holds anything of.
fn regions(shared: &Shared, layout: &Layout, volume: VolumeId) -> Result<BTreeSet<RegionNo>, StoreError> {
    let mut found = BTreeSet::new();
    for generation in &layout.generations {
        let from = keys::settled(generation.settle, volume, RegionNo::new(0));
        let to = keys::settled(generation.settle, volume, RegionNo::new(u32::MAX));
        shared.index.scan(Table::Settled, &from, &to, &mut |key, _| {
            found.extend(keys::settled_place(key).map(|(_, region)| region));
            true
        })?;
    }
    Ok(found)
}
