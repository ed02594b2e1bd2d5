//! Region maps: built from the nearest checkpoint, the runs behind it and the tail; kept while there is room.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use gateway_image::catalogue::Volume;
use gateway_image::{Catalogue, RegionMap, RegionMapBuilder};
use gateway_journal::{GroupNo, RegionNo, Version};
use tap_block::units::count;
use tap_block::{Lsn, VolumeId};

use crate::error::{Damage, StoreError};
use crate::layout::{Gather, Layout};
use crate::store::{Counters, Shared};
use crate::sync::{lock, read};
use crate::tail::Frozen;

type Key = (VolumeId, RegionNo, Lsn);

/// The maps used last, bounded in bytes.
pub(crate) struct MapCache {
    maps: HashMap<Key, (Arc<RegionMap>, u64)>,
    by_use: BTreeMap<u64, Key>,
    uses: u64,
    bytes: u64,
    limit: u64,
    /// How often it was cleared: what was made before is not put in behind.
    cleared: u64,
}

impl MapCache {
    pub(crate) fn new(limit: u64) -> Self {
        Self { maps: HashMap::new(), by_use: BTreeMap::new(), uses: 0, bytes: 0, limit, cleared: 0 }
    }

    fn clear(&mut self) {
        self.maps.clear();
        self.by_use.clear();
        self.bytes = 0;
        self.cleared += 1;
    }

    fn get(&mut self, key: &Key) -> Option<Arc<RegionMap>> {
        let (map, used) = self.maps.get_mut(key)?;
        self.uses += 1;
        self.by_use.remove(used);
        self.by_use.insert(self.uses, *key);
        *used = self.uses;
        Some(Arc::clone(map))
    }

    fn put(&mut self, key: Key, map: Arc<RegionMap>) {
        self.uses += 1;
        self.bytes += count(map.bytes());
        self.by_use.insert(self.uses, key);
        if let Some((old, used)) = self.maps.insert(key, (map, self.uses)) {
            self.by_use.remove(&used);
            self.bytes = self.bytes.saturating_sub(count(old.bytes()));
        }
        while self.bytes > self.limit {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            if let Some((map, _)) = self.maps.remove(&oldest) {
                self.bytes = self.bytes.saturating_sub(count(map.bytes()));
            }
        }
    }
}

/// What memory holds of a region at a point, taken at one moment.
struct Snapshot {
    last_group: Option<GroupNo>,
    frozen: Vec<Arc<Frozen>>,
    active: Vec<Version>,
    /// No copy of a sync can come and change the map.
    lasting: bool,
    layout: Arc<Layout>,
}

impl Shared {
    pub(crate) fn cached_map(
        &self,
        volume: VolumeId,
        region: RegionNo,
        point: Lsn,
    ) -> Option<Arc<RegionMap>> {
        let found = lock(&self.maps).get(&(volume, region, point));
        if found.is_some() {
            Counters::add(&self.counters.map_hits, 1);
        }
        found
    }

    pub(crate) fn region_map(
        &self,
        volume: VolumeId,
        region: RegionNo,
        point: Lsn,
    ) -> Result<Arc<RegionMap>, StoreError> {
        self.gathered_map(volume, region, point, true)
    }

    /// The same; unless it is to be kept, it takes no place from maps that somebody reads by.
    pub(crate) fn gathered_map(
        &self,
        volume: VolumeId,
        region: RegionNo,
        point: Lsn,
        keep: bool,
    ) -> Result<Arc<RegionMap>, StoreError> {
        if let Some(map) = self.cached_map(volume, region, point) {
            return Ok(map);
        }
        Counters::add(&self.counters.map_misses, 1);
        loop {
            let cleared = lock(&self.maps).cleared;
            let snapshot = self.snapshot(volume, region, point)?;
            let built = self.build(volume, region, point, &snapshot);
            // A settle that ended meanwhile may have taken rows away that this was reading; one that failed may have moved them, and
            // they may have been found wrong.
            let mut maps = lock(&self.maps);
            if maps.cleared != cleared || !Arc::ptr_eq(&snapshot.layout, &read(&self.published).layout) {
                continue;
            }
            let map = Arc::new(built?);
            if keep && snapshot.lasting {
                maps.put((volume, region, point), Arc::clone(&map));
            }
            return Ok(map);
        }
    }

    /// The first region from `from` on that may hold something at `point`; those before it hold nothing. `None`: nor does any.
    pub(crate) fn next_region(
        &self,
        volume: VolumeId,
        from: RegionNo,
        point: Lsn,
    ) -> Result<Option<RegionNo>, StoreError> {
        loop {
            // All that must be so for a map must be so here; what is lost could have been anywhere.
            let snapshot = self.snapshot(volume, from, point)?;
            if !snapshot.layout.lost.is_empty() {
                return Ok(Some(from));
            }
            // Memory first, at one moment: what leaves it meanwhile is in the index by then.
            let in_memory = read(&self.published).next_region(volume, from);
            let in_index = snapshot.layout.next_region(&self.index, volume, from)?;
            if Arc::ptr_eq(&snapshot.layout, &read(&self.published).layout) {
                return Ok(in_memory.into_iter().chain(in_index).min());
            }
        }
    }

    /// No map is at hand any more.
    pub(crate) fn forget_maps(&self) {
        lock(&self.maps).clear();
    }

    fn snapshot(&self, volume: VolumeId, region: RegionNo, point: Lsn) -> Result<Snapshot, StoreError> {
        let published = read(&self.published);
        let known = volume_of(&published.catalogue, volume)?;
        let durable = published.streams.get(&known.stream()).map_or(Lsn::ZERO, |d| d.lsn);
        if point > durable {
            return Err(StoreError::NotDurable { point, durable });
        }
        refuse_if_lost(known, &published.damage, point)?;
        // What the index made up for until it was settled.
        refuse_if_lost(known, published.layout.trail.damage(), point)?;
        published.layout.check(known, point)?;
        refuse_if_missing(known, &published.layout, region, point)?;
        let visible = |v: &&Version| v.position.visible_at(point);
        Ok(Snapshot {
            last_group: published.last_needed(volume, point),
            frozen: published.frozen.iter().cloned().collect(),
            active: published.active.of(volume, region).iter().filter(visible).copied().collect(),
            lasting: known.open_sync().is_none(),
            layout: Arc::clone(&published.layout),
        })
    }

    fn build(
        &self,
        volume: VolumeId,
        region: RegionNo,
        point: Lsn,
        snapshot: &Snapshot,
    ) -> Result<RegionMap, StoreError> {
        let mut builder = RegionMapBuilder::new(point);
        let (index, layout, segments) = (&self.index, &*snapshot.layout, &self.segments);
        let gather = Gather { index, layout, segments, volume, region };
        gather.versions(point, snapshot.last_group, &mut |v| builder.apply(v))?;
        for frozen in &snapshot.frozen {
            frozen.group.of(volume, region).iter().for_each(|v| builder.apply(v));
        }
        snapshot.active.iter().for_each(|v| builder.apply(v));
        Ok(builder.build())
    }
}

fn volume_of(catalogue: &Catalogue, volume: VolumeId) -> Result<&Arc<Volume>, StoreError> {
    catalogue.volume(volume).ok_or(StoreError::UnknownVolume(volume))
}

/// Records that are lost may have written any block: no point from them on can be known, until a whole copy of
/// the disk made after them is complete.
pub(crate) fn refuse_if_lost(volume: &Volume, damage: &[Damage], point: Lsn) -> Result<(), StoreError> {
    let lost = damage.iter().flat_map(|d| d.lost.iter().map(move |l| (d, l)));
    for (damage, &(stream, from, to)) in lost {
        if stream != volume.stream() || point < from || healed(volume, from, point) {
            continue;
        }
        let Damage { segment, from: start, detail, .. } = damage;
        let text = format!(
            "records {from} to {to} are lost ({segment} at byte {start}: {detail}); points before them are sound, \
             and so is every point after a resync of the whole volume"
        );
        return Err(StoreError::Damaged(text));
    }
    Ok(())
}

/// The same for settled history, of which only some regions may be missing.
fn refuse_if_missing(
    volume: &Volume,
    layout: &Layout,
    region: RegionNo,
    point: Lsn,
) -> Result<(), StoreError> {
    if layout.lost(volume.id(), region).is_none_or(|lost| healed(volume, lost, point)) {
        return Ok(());
    }
    let text = format!(
        "settled segments are damaged where the 16 MiB from byte {} lie; a resync of the whole volume makes later \
         points sound",
        region.offset()
    );
    Err(StoreError::Damaged(text))
}

pub(crate) fn healed(volume: &Volume, lost: Lsn, point: Lsn) -> bool {
    healed_at(volume, lost).is_some_and(|end| end <= point)
}

/// The first point that a loss does not concern: a copy of the whole disk, begun after it, is complete there. The record before
/// the copy is then the one before the loss or a later one, or there was none in all of the stream's history. (A copy of differences
/// heals nothing: what it left out may be what is lost.)
pub(crate) fn healed_at(volume: &Volume, lost: Lsn) -> Option<Lsn> {
    let begun = volume.runs().first().filter(|run| run.previous.is_none() && lost < run.first.lsn);
    let after = volume.syncs().iter().filter(|sync| sync.is_whole());
    let ends = after.filter_map(|sync| {
        let end = sync.end?.lsn;
        let is_behind = match sync.sound {
            Some(sound) => sound.lsn >= lost.previous(),
            // With the first run that is known; what stands in for one that is lost is no copy, and ends where a run begins.
            None => begun.is_some_and(|run| run.first.lsn < end),
        };
        is_behind.then_some(end)
    });
    ends.min()
}
