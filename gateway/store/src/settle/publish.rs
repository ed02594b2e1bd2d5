//! Making what was written count, and giving back what it replaces.

use std::collections::BTreeSet;
use std::sync::Arc;

use gateway_journal::run::{decode_checkpoint, decode_run, encode_checkpoint};
use gateway_journal::{Location, Manifest, Place, RegionNo, SegmentId, Version};
use tap_block::units::count;
use tap_block::{Lsn, Position, StreamId, VolumeId};
use tracing::warn;

use super::Trail;
use super::decide::room;
use super::plan::Plan;
use super::rewrite::Written;
use crate::error::StoreError;
use crate::history::{forget_over, forgotten_names};
use crate::index::{IndexError, IndexStore, Table, keys, remove_range};
use crate::layout::{Layout, Lost};
use crate::leftover;
use crate::maps::healed_at;
use crate::store::Shared;
use crate::sync::lock;

/// Publishes `manifest` with what was written for it; how many segment files became free.
pub(super) fn publish(
    shared: &Shared,
    plan: &Plan,
    manifest: &Manifest,
    trail: Trail,
    mut written: Written<'_>,
    undecided: &mut bool,
) -> Result<u64, StoreError> {
    // No checkpoint may be made of rows that go.
    let turn = lock(&shared.index_turn);
    written.make_known();
    let moved = move_checkpoints(shared, manifest, written.regions()).map_err(StoreError::from);
    let bytes = manifest.encode_within(room(shared));
    let counting = lock(&shared.counting);
    let published = moved.and_then(|()| check_holds(shared, plan));
    let published = published.and_then(|()| written.publish(manifest, &bytes));
    let homes = match published {
        Ok(homes) => homes,
        Err(e) => {
            // Whether it counts only the next start will tell: until then nothing is opened that it does not keep.
            *undecided = written.is_kept();
            written.make_unknown();
            // Maps may have been made of checkpoints that were moved already.
            shared.forget_maps();
            return Err(e);
        }
    };
    // A copy: one flipped bit must not cost what the log does not have any more. It counts without, too.
    match shared.manifests.store(&Manifest::sealed(&bytes)) {
        Ok(()) => shared.end_findings_of_the_copy(),
        Err(e) => warn!("the copy of the manifest of settle {} cannot be written: {e}", manifest.settle),
    }
    let lost = still_lost(shared, manifest);
    shared.points.replace_layout(shared, Arc::new(Layout::of(manifest, trail).losing(&lost)));
    drop(counting);
    shared.forget_maps();
    let told = shared.index.commit(leftover::told(manifest.settle));
    let removed = told.and_then(|()| remove_rows(shared, plan, manifest, written.regions()));
    if let Err(e) = removed.and_then(|()| leftover::forget(&shared.index)) {
        // The manifest counts; the next start finds the index one behind, and goes on from it. So does the next pass.
        shared.settling.leave_rows();
        warn!("the index does not know yet of settle {}: {e}", manifest.settle);
    }
    drop(turn);
    note_gone_names(shared);
    let freed = recycle(shared, manifest, homes);
    forget_damage(shared);
    Ok(freed)
}

/// Regions of which something is missing, but for those of volumes that have no point any more that shows it: a copy of the whole disk
/// came behind, and what is kept comes behind the copy.
fn still_lost(shared: &Shared, manifest: &Manifest) -> Vec<Lost> {
    let (lost, catalogue) = {
        let published = crate::sync::read(&shared.published);
        (published.layout.lost.clone(), Arc::clone(&published.catalogue))
    };
    let is_over = |lost: &Lost| {
        let of = |id| catalogue.volume(id).zip(manifest.kept.iter().find(|(kept, _)| *kept == id));
        let known = of(lost.from.0).filter(|_| lost.from.0 == lost.to.0).zip(lost.since);
        known.is_some_and(|((volume, (_, kept)), since)| {
            let whole = healed_at(volume, since.next());
            whole.is_some_and(|end| end <= kept.settled && kept.points.iter().all(|p| end <= p.first()))
        })
    };
    let (over, still): (Vec<Lost>, Vec<Lost>) = lost.into_iter().partition(is_over);
    if !over.is_empty() {
        // What is left of it may be written anew, and with that nobody misses anything any more.
        shared.settling.renew();
    }
    let rows = over.iter().map(keys::lost).collect();
    if let Err(e) = shared.index.remove(Table::State, rows) {
        warn!("the index goes on to say that regions are lost that no point shows any more: {e}");
    }
    still
}

/// What was damaged in segments that are not there any more is over.
fn forget_damage(shared: &Shared) {
    let layout = Arc::clone(&crate::sync::read(&shared.published).layout);
    forget_over(&mut crate::sync::write(&shared.published).damage, &shared.segments, &layout);
    shared.end_findings_of_the_past();
}

/// The commit thread is told which barrier marks and bookmarks are thinned out; to find them takes a look at all.
fn note_gone_names(shared: &Shared) {
    let (catalogue, layout) = {
        let published = crate::sync::read(&shared.published);
        (Arc::clone(&published.catalogue), Arc::clone(&published.layout))
    };
    *lock(&shared.gone_names) = forgotten_names(&catalogue, &layout);
}

/// A hold that was made meanwhile: what it covers may have been thinned.
fn check_holds(shared: &Shared, plan: &Plan) -> Result<(), StoreError> {
    let known = plan.rules.has_holds_of(crate::sync::read(&shared.published).catalogue.rules());
    if known { Ok(()) } else { Err(StoreError::RulesChanged) }
}

/// Checkpoints that lead to segments that go are made to lead to the new ones; those before the end of what is settled
/// are of no more use.
fn move_checkpoints(
    shared: &Shared,
    manifest: &Manifest,
    regions: &[(VolumeId, RegionNo)],
) -> Result<(), IndexError> {
    let (mut moved, mut useless) = (Vec::new(), Vec::new());
    for &(volume, region) in regions {
        let mut rows = Vec::new();
        let (from, to) =
            (keys::map(volume, region, Lsn::ZERO), keys::map(volume, region, Lsn::ZERO.plus(Lsn::LIMIT)));
        shared.index.scan(Table::Maps, &from, &to, &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            true
        })?;
        if rows.is_empty() {
            continue;
        }
        let places = Places::load(shared, manifest.settle, volume, region)?;
        for (key, value) in rows {
            match places.moved(manifest, &value) {
                Some(value) => moved.push((key, value)),
                None => useless.push(key),
            }
        }
    }
    shared.index.ingest(Table::Maps, moved)?;
    shared.index.remove(Table::Maps, useless)
}

/// Where the versions of a region lie now, by block and position.
struct Places(Vec<((u16, Position), Location)>);

impl Places {
    fn load(shared: &Shared, settle: u64, volume: VolumeId, region: RegionNo) -> Result<Self, IndexError> {
        let mut places = Vec::new();
        if let Some(run) = shared.index.get(Table::Settled, &keys::settled(settle, volume, region))? {
            let add = |v: Version| {
                if let Place::Unit(at) = v.place {
                    places.push(((v.first, v.position), at));
                }
            };
            decode_run(&run, add).map_err(|e| IndexError::new(e.to_string()))?;
        }
        places.sort_unstable_by_key(|(key, _)| *key);
        Ok(Self(places))
    }

    fn find(&self, block: u16, position: Position) -> Option<Location> {
        let at = self.0.binary_search_by_key(&(block, position), |(key, _)| *key).ok()?;
        self.0.get(at).map(|(_, location)| *location)
    }

    /// The checkpoint with new places; `None` when it is of no more use, or cannot be read. What was not rewritten stays where it is.
    fn moved(&self, manifest: &Manifest, checkpoint: &[u8]) -> Option<Vec<u8>> {
        let mut versions = Vec::new();
        let group = decode_checkpoint(checkpoint, |v| versions.push(v)).ok()?;
        if group < manifest.group {
            return None;
        }
        for version in &mut versions {
            if let Place::Unit(at) = &mut version.place {
                *at = self.find(version.first, version.position).unwrap_or(*at);
            }
        }
        let mut value = Vec::new();
        encode_checkpoint(group, &versions, &mut value);
        Some(value)
    }
}

/// Takes rows away that nobody looks for any more.
fn remove_rows(
    shared: &Shared,
    plan: &Plan,
    manifest: &Manifest,
    regions: &[(VolumeId, RegionNo)],
) -> Result<(), IndexError> {
    let zero = gateway_journal::GroupNo::new(0);
    if !plan.groups.is_empty() {
        for &(volume, region) in regions {
            let (from, to) = (keys::run(volume, region, zero), keys::run(volume, region, manifest.group));
            remove_range(&shared.index, Table::Runs, from, &to)?;
        }
        remove_range(&shared.index, Table::State, keys::group(zero), &keys::group(manifest.group))?;
    }
    for generation in &plan.merged {
        let first = generation.range.first.max(plan.range.first);
        let last = generation.range.last.min(plan.range.last);
        let key = |(volume, region)| keys::settled(generation.settle, volume, region);
        remove_range(&shared.index, Table::Settled, key(first), &key(last))?;
    }
    for (stream, settled) in settled_streams(shared, manifest) {
        remove_range(
            &shared.index,
            Table::Times,
            keys::time(stream, Lsn::ZERO),
            &keys::time(stream, settled),
        )?;
    }
    Ok(())
}

fn settled_streams(shared: &Shared, manifest: &Manifest) -> Vec<(StreamId, Lsn)> {
    let catalogue = Arc::clone(&crate::sync::read(&shared.published).catalogue);
    let of = |(volume, kept): &(VolumeId, gateway_journal::Kept)| {
        catalogue.volume(*volume).map(|v| (v.stream(), kept.settled))
    };
    manifest.kept.iter().filter_map(of).collect()
}

/// The segments that the manifest does not need are taken out of the store, and their files used again.
fn recycle(shared: &Shared, manifest: &Manifest, homes: BTreeSet<SegmentId>) -> u64 {
    let segments = manifest.generations.iter().flat_map(|g| &g.segments);
    let live: BTreeSet<_> = segments.map(|s| s.segment).chain(homes).collect();
    let mut free = shared.segments.retain_settled(&live);
    free.extend(shared.segments.forget_before(manifest.through.0));
    shared.bookkeeping.gone(free.iter().map(|(id, _)| *id));
    shared.heat.forget(free.iter().map(|(id, _)| *id));
    for (_, known) in &free {
        if let Err(e) = shared.segments.pool().give_back(known.file) {
            warn!("segment file {} cannot be given back: {e}", known.file);
        }
    }
    count(free.len())
}
