//! What a pass gains: whether more segments come free than it fills. It is reckoned from rows of the index before anything is
//! written, for passes that are made while all that is left of room is needed to settle: one that gains nothing would eat what the
//! next one needs.

use std::collections::BTreeSet;

use gateway_journal::{Generation, RegionRange, SegmentId};
use tap_block::units::count;

use super::cursor::Regions;
use super::decide::{Decision, decide, decide_settled};
use super::keep::Terms;
use super::plan::Plan;
use super::rewrite::Rewriter;
use crate::error::StoreError;
use crate::store::Shared;

/// A segment in a manifest and its volumes' shares, and a generation, take no more bytes than this.
const LISTED: u64 = 192;
/// What is around a manifest in a segment.
const AROUND: u64 = 8 << 10;

/// How much a pass for gain has to write, within `room`, to come to where most segments come free beyond those that it fills, its
/// manifest in the last of them; `None`: nowhere is anything gained.
pub(super) fn budget_for_gain(
    shared: &Shared,
    (plan, room): (&Plan, u64),
    decision: &Decision,
    into: &Rewriter<'_>,
) -> Result<Option<u64>, StoreError> {
    let mut regions = Regions::new(shared, plan, &decision.window);
    let (manifest, ends, lone) =
        (manifest_bytes(shared, plan, decision), plan.ends(), lone_segments(shared, plan));
    let (mut written, mut best) = (0u64, None);
    while let Some((place, versions)) = regions.step()? {
        let (.., bytes) = into.left_of(&versions, decision.kept.get(&place.0));
        written += bytes;
        if written + manifest > room {
            break;
        }
        let freed = ends.partition_point(|end| *end <= place) + lone;
        let gain = freed.saturating_sub(shared.segments_for(written + manifest));
        if gain > best.map_or(0, |(most, _)| most) {
            best = Some((gain, written));
        }
    }
    Ok(best.map(|(_, written)| written))
}

/// Would anything be gained on these terms by going through settled history?
pub(super) fn can_gain(shared: &Shared, range: RegionRange, terms: &Terms) -> Result<bool, StoreError> {
    let Some(plan) = Plan::for_gain(shared, range) else { return Ok(false) };
    let decision = decide_settled(shared, &plan, terms)?;
    let into = Rewriter::new(shared, (decision.trail.store(), 0), decision.at(), true, decision.damaged());
    let budget = budget_for_gain(shared, (&plan, shared.last_room()), &decision, &into);
    shared.points.call_off();
    Ok(budget?.is_some())
}

/// Decides what a pass over the log leaves: of as many of the plan's groups, and generations beside them, as pay. `None`: none do.
pub(super) fn decide_what_pays(
    shared: &Shared,
    plan: &mut Plan,
    terms: &Terms,
) -> Result<Option<Decision>, StoreError> {
    loop {
        let decision = decide(shared, plan, terms)?;
        let found = pays(shared, plan, &decision);
        if matches!(found, Ok(true)) {
            return Ok(Some(decision));
        }
        shared.points.call_off();
        found?;
        if !plan.take_on_less() {
            return Ok(None);
        }
    }
}

/// Is as much free behind a pass over the log as before, or enough to go through all that is settled then?
fn pays(shared: &Shared, plan: &Plan, decision: &Decision) -> Result<bool, StoreError> {
    let Some(free) = shared.free_segments() else { return Ok(true) };
    let Some(fills) = filled(shared, plan, decision, free)? else { return Ok(false) };
    let left = (free + freed(shared, plan, decision)).saturating_sub(fills);
    // In stretches, for each of which a segment of every generation may stay; or as a whole.
    if left >= free || left > plan.depth_behind() + 3 {
        return Ok(true);
    }
    Ok(filled(shared, &plan.with_all_that_is_settled(), decision, left)?.is_some())
}

/// Segments that what is left of all that a plan takes on fills, with its manifest; `None`: more than so many.
fn filled(
    shared: &Shared,
    plan: &Plan,
    decision: &Decision,
    most: usize,
) -> Result<Option<usize>, StoreError> {
    let into = Rewriter::new(shared, (decision.trail.store(), 0), decision.at(), true, decision.damaged());
    let mut regions = Regions::new(shared, plan, &decision.window);
    let mut written = manifest_bytes(shared, plan, decision);
    while shared.segments_for(written) <= most {
        let Some((place, versions)) = regions.step()? else { return Ok(Some(shared.segments_for(written))) };
        let (.., bytes) = into.left_of(&versions, decision.kept.get(&place.0));
        written += bytes;
    }
    Ok(None)
}

/// Segments that come free by a pass over the log.
fn freed(shared: &Shared, plan: &Plan, decision: &Decision) -> usize {
    let stay = listed(&plan.untouched);
    let go = listed(&plan.merged).difference(&stay).count();
    shared.segments.count_before(decision.trail.at().0) + go + lone_segments(shared, plan)
}

/// Settled segments in which nothing but the last manifest lies.
fn lone_segments(shared: &Shared, plan: &Plan) -> usize {
    let listed: BTreeSet<SegmentId> = &listed(&plan.untouched) | &listed(&plan.merged);
    shared.segments.settled().iter().filter(|(id, _)| !listed.contains(id)).count()
}

fn listed(generations: &[Generation]) -> BTreeSet<SegmentId> {
    generations.iter().flat_map(|g| &g.segments).map(|s| s.segment).collect()
}

/// Bytes of the manifest of a pass, at most, about.
fn manifest_bytes(shared: &Shared, plan: &Plan, decision: &Decision) -> u64 {
    let there: Vec<Generation> = plan.untouched.iter().chain(&plan.merged).cloned().collect();
    let merged: usize = plan.merged.iter().map(|g| g.segments.len() + 1).sum();
    let written = shared.segments.count_before(decision.trail.at().0) + merged + decision.kept.len() + 2;
    count(decision.manifest(0, there).encode().len()) + count(written) * LISTED + AROUND
}
