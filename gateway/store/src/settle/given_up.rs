//! What of history that is gone, or cannot be read, somebody has read of: it is waited for no longer. That is about what was listed
//! when they said so, and about what was gone then and is named by no list; whatever is found later is waited for anew.

use std::collections::BTreeSet;
use std::sync::Mutex;

use gateway_journal::SegmentId;

use crate::store::Shared;
use crate::sync::lock;

#[derive(Default)]
pub(super) struct GivenUp(Mutex<State>);

#[derive(Default)]
struct State {
    /// How often somebody said so.
    times: u64,
    /// Segments that were listed.
    listed: BTreeSet<SegmentId>,
}

impl GivenUp {
    pub(super) fn add(&self, listed: BTreeSet<SegmentId>) {
        let mut state = lock(&self.0);
        state.times += 1;
        state.listed.extend(listed);
    }

    pub(super) fn times(&self) -> u64 {
        lock(&self.0).times
    }

    fn has(&self, segment: SegmentId) -> bool {
        lock(&self.0).listed.contains(&segment)
    }
}

impl Shared {
    /// Will a segment not be put back, or not be read another time?
    pub(crate) fn is_given_up_as_read(&self, segment: SegmentId) -> bool {
        let given_up = &self.settling.given_up;
        // One that was gone when the store was opened, and that no finding names.
        let is_unnamed = || !self.segments.lives(segment) && !self.proving.names(segment);
        given_up.has(segment) || (given_up.times() > 0 && is_unnamed())
    }
}
