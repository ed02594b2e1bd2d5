//! What policies would let go of what is here, before they are set: which points at once, and how much room that makes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gateway_image::Catalogue;
use gateway_image::catalogue::Volume;
use gateway_image::retention::needed;
use gateway_journal::{Kept, KeptPoint, Location, MetaRecord, Place, RegionNo, Version};
use tap_block::units::count;
use tap_block::{VolumeId, WallTime};

use super::keep::{Strain, Terms, thinned};
use super::plan::keep_whole;
use super::room::Pressure;
use crate::error::StoreError;
use crate::index::{IndexStore as _, Table, keys};
use crate::layout::{Gather, Layout};
use crate::store::Shared;
use crate::sync::read;
use crate::tail::GroupInfo;

/// Versions that are looked at of a volume: of more the rest is reckoned to be alike.
const MOST_VERSIONS: usize = 4 << 20;

/// What would become of a volume whose policy would be another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// Which volume.
    pub volume: VolumeId,
    /// Points of its settled history.
    pub points: u64,
    /// Those of them that would go at once, and would not go as it is.
    pub goes: u64,
    /// The first and the last of those.
    pub between: Option<(KeptPoint, KeptPoint)>,
    /// Bytes of settled history that only they show.
    pub freed: u64,
    /// Not all of it was looked at: that is about how much it is.
    pub is_estimate: bool,
    /// Bytes of its log that would be thinned out at once, and are still too young for that as it is.
    pub log: u64,
    /// Bytes by which it would be above its limit.
    pub over_limit: u64,
}

/// Of each volume whose policy these records would change. Goes through its settled history in the index: may take a while.
pub(crate) fn preview(shared: &Shared, records: &[MetaRecord]) -> Result<Vec<Preview>, StoreError> {
    let (catalogue, layout, groups, usage) = {
        let published = read(&shared.published);
        let groups = published.ingested.to_vec();
        (Arc::clone(&published.catalogue), Arc::clone(&published.layout), groups, published.usage())
    };
    let mut then = Catalogue::clone(&catalogue);
    then.apply_all(records);
    let now = shared.age.now();
    let (as_it_is, changed) = (terms(shared, &catalogue, now), terms(shared, &then, now));
    let policy = |of: &Catalogue, volume: &Volume| of.rules().policy_of(volume.id());
    let mut all = Vec::new();
    for volume in catalogue.volumes().filter(|v| policy(&catalogue, v) != policy(&then, v)) {
        let kept = layout.kept.get(&volume.id()).cloned().unwrap_or_default();
        let left = |of: &Catalogue, terms| thinned(of, volume, &kept, &[], BTreeSet::new(), terms);
        let (stays, left) = (left(&catalogue, &as_it_is), left(&then, &changed));
        let gone: Vec<&KeptPoint> = stays.points.iter().filter(|p| !is_in(&left, p)).collect();
        let (freed, is_estimate) =
            if gone.is_empty() { (0, false) } else { freed(shared, &layout, volume.id(), (&stays, &left))? };
        let used = usage.get(&volume.id()).map_or(0, |bytes| bytes.total());
        let limit = policy(&then, volume).limit;
        all.push(Preview {
            volume: volume.id(),
            points: kept.count(),
            goes: count(gone.len()),
            between: gone.first().zip(gone.last()).map(|(first, last)| (**first, **last)),
            freed,
            is_estimate,
            log: settled_soon(&then, &groups, volume, now)
                .saturating_sub(settled_soon(&catalogue, &groups, volume, now)),
            over_limit: limit.map_or(0, |limit| used.saturating_sub(limit)),
        });
    }
    Ok(all)
}

/// With nobody in want of room.
fn terms(shared: &Shared, catalogue: &Catalogue, now: WallTime) -> Terms {
    let strain = Strain { pressure: Pressure::None, floor: None, bookmarks: None };
    Terms { now, strain, own: BTreeMap::new(), marks: Arc::new(shared.marks_of(catalogue, now, false)) }
}

fn is_in(kept: &Kept, point: &KeptPoint) -> bool {
    kept.listed(point.lsn).is_some()
}

/// Bytes of units that points of the first list show and none of the second does; whether that is reckoned from a part.
fn freed(
    shared: &Shared,
    layout: &Layout,
    volume: VolumeId,
    (before, after): (&Kept, &Kept),
) -> Result<(u64, bool), StoreError> {
    let regions = regions(shared, layout, volume)?;
    let (mut looked, mut seen, mut bytes) = (0, 0, 0u64);
    for region in &regions {
        let mut versions = Vec::new();
        let gather =
            Gather { index: &shared.index, layout, segments: &shared.segments, volume, region: *region };
        gather.settled(&mut |v| versions.push(*v))?;
        let (shown, left) =
            (places(&needed(&versions, &before.points)), places(&needed(&versions, &after.points)));
        bytes += shown.difference(&left).map(|at| u64::from(at.bytes())).sum::<u64>();
        (seen, looked) = (seen + versions.len(), looked + 1);
        if seen >= MOST_VERSIONS {
            break;
        }
    }
    let (looked, all) = (count(looked), count(regions.len()));
    let whole = u128::from(bytes) * u128::from(all) / u128::from(looked.max(1));
    Ok((u64::try_from(whole).unwrap_or(u64::MAX), looked < all))
}

/// Those of which something is settled.
fn regions(shared: &Shared, layout: &Layout, volume: VolumeId) -> Result<BTreeSet<RegionNo>, StoreError> {
    let mut found = BTreeSet::new();
    for settle in layout.generations.iter().map(|g| g.settle).collect::<BTreeSet<_>>() {
        let [from, to] = [0, u32::MAX].map(|region| keys::settled(settle, volume, RegionNo::new(region)));
        shared.index.scan(Table::Settled, &from, &to, &mut |key, _| {
            found.extend(keys::settled_place(key).map(|(_, region)| region));
            true
        })?;
    }
    Ok(found)
}

/// Where the units lie; members of one pack lie in one place.
fn places(versions: &[Version]) -> BTreeSet<Location> {
    let unit = |v: &Version| match v.place {
        Place::Unit(at) => Some(at),
        Place::Zero => None,
    };
    versions.iter().filter_map(unit).collect()
}

/// Bytes of a volume's log in the oldest groups of which every record is older than all that policies keep whole.
fn settled_soon(catalogue: &Catalogue, groups: &[GroupInfo], volume: &Volume, now: WallTime) -> u64 {
    let is_old = |group: &&GroupInfo| {
        keep_whole(catalogue.rules(), group).is_none_or(|whole| now.since(group.received_at) > whole)
    };
    let spans = groups.iter().take_while(is_old).flat_map(|group| &group.spans);
    spans.filter(|(stream, _)| *stream == volume.stream()).map(|(_, bytes)| bytes).sum()
}
