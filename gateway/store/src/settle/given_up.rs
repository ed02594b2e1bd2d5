//! What of history that is gone, or cannot be read, somebody has read of: it is waited for no longer. That is about what was listed
//! when they said so; whatever is found later is waited for anew.

use std::collections::BTreeSet;
use std::sync::Mutex;

use gateway_journal::{Location, SegmentId};
use tap_block::VolumeId;

use crate::layout::Layout;
use crate::store::Shared;
use crate::sync::{lock, read};
use crate::verify::{Finding, GivenUp};

/// What somebody said since the start. Which segments are given up is kept with what was found.
#[derive(Default)]
pub(super) struct Acknowledged(Mutex<State>);

#[derive(Default)]
struct State {
    /// How often.
    times: u64,
    /// Bytes of segments that are there, which they have read cannot be read.
    unreadable: BTreeSet<(SegmentId, u32, u32)>,
}

impl Acknowledged {
    fn add(&self, unreadable: impl Iterator<Item = (SegmentId, u32, u32)>) {
        let mut state = lock(&self.0);
        state.times += 1;
        state.unreadable.extend(unreadable);
    }

    pub(super) fn times(&self) -> u64 {
        lock(&self.0).times
    }

    fn has(&self, at: Location) -> bool {
        let here = |&(_, from, to): &(SegmentId, u32, u32)| from < at.end() && at.offset < to;
        lock(&self.0).unreadable.range((at.segment, 0, 0)..(at.segment.next(), 0, 0)).any(here)
    }
}

impl Shared {
    /// Somebody has `read` of what is listed of a volume. What is over is listed no more, and what is gone is given up.
    pub(crate) fn acknowledge(&self, volume: VolumeId, is_read: impl Fn(&Finding) -> bool) {
        let is_listed = |f: &Finding| f.volume.is_none_or(|v| v == volume) && is_read(f);
        let open = |f: &Finding| f.over_at.is_none() && f.segment > SegmentId::new(0);
        let listed = self.proving.findings(volume).into_iter().filter(|f| open(f) && is_read(f));
        let listed: BTreeSet<(SegmentId, u32, u32)> = listed.map(|f| (f.segment, f.from, f.to)).collect();
        let segments: BTreeSet<SegmentId> = listed.iter().map(|(segment, ..)| *segment).collect();
        let gone: BTreeSet<SegmentId> =
            segments.into_iter().filter(|segment| self.is_gone(*segment)).collect();
        let settled = self.settled_segments();
        let mut others: BTreeSet<SegmentId> = self.proving.named(is_listed);
        others.extend(self.segments.all().difference(&gone));
        others.retain(|segment| !gone.contains(segment));
        self.proving.acknowledge(is_listed, &GivenUp::with(&gone, &others, &settled));
        self.settling.acknowledged.add(listed.into_iter().filter(|(segment, ..)| !gone.contains(segment)));
        self.settling.hurry();
    }

    /// It may be put back.
    fn is_gone(&self, segment: SegmentId) -> bool {
        self.segments.is_awaited(segment) || !self.segments.is_there(segment)
    }

    fn settled_segments(&self) -> BTreeSet<SegmentId> {
        let layout = std::sync::Arc::clone(&read(&self.published).layout);
        let listed = layout.generations.iter().flat_map(|g| &g.segments).map(|s| s.segment);
        listed.chain(self.segments.settled().into_iter().map(|(segment, _)| segment)).collect()
    }

    /// Will a segment that is gone not be put back?
    pub(crate) fn is_given_up_as_read(&self, segment: SegmentId) -> bool {
        self.proving.gives_up(segment)
    }

    /// Will bytes of a segment that is there not be read another time?
    pub(super) fn is_unreadable_as_read(&self, at: Location) -> bool {
        self.settling.acknowledged.has(at)
    }

    /// Segments that are there again are waited for when they go another time.
    pub(crate) fn take_back_what_is_there(&self) {
        let given_up = self.proving.given_up();
        if !given_up.is_empty() {
            let all = self.segments.all().into_iter().filter(|segment| given_up.holds(*segment));
            self.proving.take_back(&all.filter(|segment| !self.is_gone(*segment)).collect());
        }
    }

    /// Settled segments that are gone and may be put back, of which some point still shows something.
    pub(crate) fn waited_for(&self, layout: &Layout) -> BTreeSet<SegmentId> {
        let awaited = self.segments.awaited();
        if awaited.is_empty() { awaited } else { self.proving.waited_for(awaited, layout) }
    }
}
