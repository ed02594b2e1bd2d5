//! Several volumes changed at one moment: what a barrier of a consistency group is made of.

use std::sync::{Arc, MutexGuard};

use tap_block::{BarrierMark, Lsn, WallTime};
use tap_splitter::{Event, Now, Progress};

use super::{Core, Later, Volume};

/// One of several volumes that are locked together.
pub(crate) struct Locked<'v> {
    volume: &'v Volume,
    core: MutexGuard<'v, Core>,
    later: Later,
}

/// Locks `volumes`, in this order, changes them, and does what follows once all are free again. Whoever locks several at a
/// time locks those of one group, and a volume is in one group at most: nobody waits in a circle.
pub(crate) fn together<R>(volumes: &[Arc<Volume>], change: impl FnOnce(&mut [Locked<'_>]) -> R) -> R {
    let lock = |volume| Locked { volume, core: Volume::lock(volume), later: Later::default() };
    let mut locked: Vec<Locked<'_>> = volumes.iter().map(|volume| lock(volume)).collect();
    let changed = change(&mut locked);
    let free = |Locked { volume, core, later }| {
        drop(core);
        (volume, later)
    };
    let later: Vec<(&Volume, Later)> = locked.into_iter().map(free).collect();
    later.into_iter().for_each(|(volume, later)| volume.follow(later));
    changed
}

impl Locked<'_> {
    pub(crate) fn takes_marks(&self) -> bool {
        self.core.splitter.takes_marks()
    }

    pub(crate) fn head(&self) -> Lsn {
        self.core.splitter.head()
    }

    /// The sync that is open, if one is.
    pub(crate) fn sync(&self) -> Option<Progress> {
        self.core.splitter.progress()
    }

    pub(crate) fn earliest_mark(&self, now: Now) -> WallTime {
        self.core.splitter.earliest_mark(now)
    }

    /// Puts the mark here, and says where that is.
    pub(crate) fn put(&mut self, mark: BarrierMark, at: WallTime) -> Lsn {
        let here = self.head().next();
        self.tell(Event::Barrier { mark, at });
        here
    }

    pub(crate) fn tell(&mut self, event: Event) {
        self.volume.feed(&mut self.core, event, &mut self.later);
    }
}
