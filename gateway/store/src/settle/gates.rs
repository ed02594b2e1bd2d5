//! Gates of tiers as settling sees them: what waits there, and what went without its hook because there was no room.

use std::sync::Arc;
use std::time::Duration;

use gateway_image::Catalogue;
use gateway_image::catalogue::{GateMark, Volume};
use gateway_image::group::CommonMarks;
use gateway_image::retention::{Special, waiting};
use gateway_journal::{GateMove, GateStep, Kept, KeptPoint, MetaRecord, Tier};
use tap_block::{VolumeId, WallTime};
use tracing::warn;

use super::keep::{Terms, released};
use crate::queue::{Job, Work};
use crate::store::Shared;
use crate::sync::read;

/// A gate, and what waits there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtGate {
    /// The volume.
    pub volume: VolumeId,
    /// The tier; it has a gate.
    pub tier: Tier,
    /// What it let go, and what it is at.
    pub mark: GateMark,
    /// The points that would go without it, ascending.
    pub waiting: Vec<KeptPoint>,
}

/// Every gate there is.
pub(crate) fn at_gates(shared: &Shared) -> Vec<AtGate> {
    let catalogue = Arc::clone(&read(&shared.published).catalogue);
    let gated = |v: &Arc<Volume>| {
        catalogue.rules().policy_of(v.id()).tiers.iter().any(|tier| tier.before_drop.is_some())
    };
    if !catalogue.volumes().any(gated) {
        return Vec::new();
    }
    let marks = shared.common_marks(shared.age.now(), false);
    catalogue.volumes().flat_map(|volume| gates_of(shared, &catalogue, volume, &marks)).collect()
}

/// The gates of one volume, and what waits there.
pub(crate) fn at_gates_of(shared: &Shared, volume: VolumeId) -> Vec<AtGate> {
    let catalogue = Arc::clone(&read(&shared.published).catalogue);
    catalogue.volume(volume).map_or_else(Vec::new, |volume| {
        gates_of(shared, &catalogue, volume, &shared.common_marks(shared.age.now(), false))
    })
}

fn gates_of(shared: &Shared, catalogue: &Catalogue, volume: &Volume, marks: &CommonMarks) -> Vec<AtGate> {
    let (id, policy) = (volume.id(), catalogue.rules().policy_of(volume.id()));
    if policy.tiers.iter().all(|tier| tier.before_drop.is_none()) {
        return Vec::new();
    }
    let (layout, now) = (Arc::clone(&read(&shared.published).layout), shared.age.now());
    let kept = layout.kept.get(&id).cloned().unwrap_or_default();
    let released = released(catalogue.rules(), id, &policy);
    let special = Special { released, marks: marks.in_stream_of(volume.id()), ..Special::default() };
    let gate = |(n, waiting): (usize, Vec<KeptPoint>)| {
        let tier = policy.tiers.get(n)?.clone();
        Some(AtGate { volume: id, mark: catalogue.rules().gate(id, tier.keep), tier, waiting })
    };
    waiting(&policy, &special, now, &kept.points).into_iter().filter_map(gate).collect()
}

/// The gates that some of the `offered` points go past because there is no room for them.
pub(super) fn overruled<'a>(
    catalogue: &Catalogue,
    volume: &Volume,
    offered: impl Iterator<Item = &'a KeptPoint>,
    left: &Kept,
    terms: &Terms,
) -> Vec<GateMove> {
    let (rules, id) = (catalogue.rules(), volume.id());
    let (policy, floor) = terms.of(id, rules.policy_of(id));
    let Some(floor) = floor else { return Vec::new() };
    let gone = |p: &&KeptPoint| left.listed(p.lsn).is_none();
    let Some(last) = offered.filter(|p| p.received_at < floor).filter(gone).map(|p| p.received_at).max()
    else {
        return Vec::new();
    };
    let moved = |tier: &Tier| {
        let (keep, at, step) = (tier.keep, terms.now, GateStep::Overruled);
        let released = rules.gate(id, keep).released;
        let through = left_through(left, released, last);
        (released < last).then_some(GateMove { volume: id, keep, through, at, step })
    };
    policy.tiers.iter().filter(|tier| tier.before_drop.is_some()).filter_map(moved).collect()
}

/// Up to when a gate lets points go once those up to `last` went past it: what stayed of them, for a pin, is still to be handed
/// on.
fn left_through(left: &Kept, released: WallTime, last: WallTime) -> WallTime {
    let stays = left.points.iter().map(|p| p.received_at).find(|at| released < *at && *at <= last);
    stays.map_or(last, |at| at.minus(Duration::from_nanos(1)))
}

/// Puts it on record that points went past their gates.
pub(super) fn note_overruled(shared: &Shared, moves: Vec<GateMove>) {
    for moved in moves {
        warn!(volume = %moved.volume, "there was no room for points that wait for a hook: they went without it");
        let record = MetaRecord::GateMoved(moved);
        let told = |outcome: Result<_, _>| {
            if let Err(e) = outcome {
                warn!("that points went without their hook is not on record: {e}");
            }
        };
        shared.queue.push(Job { work: Work::Meta(vec![record]), done: Box::new(told) });
    }
}
