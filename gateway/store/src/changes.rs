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
            each_change(shared, stream, (from.max(settled), to), from, &mut |of, extent| {
                if of == volume {
                    changed.insert(extent.to_blocks());
                }
            })?;
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
        Ok(Some(found))
    })
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
    (from, to): (Lsn, Lsn),
    changed: &mut ExtentSet,
) -> Result<(), StoreError> {
    for region in regions(shared, layout, volume)? {
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
