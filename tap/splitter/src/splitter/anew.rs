//! A new run in the midst of a tap's life, for receivers that do not take the present one: the tap's state was an old copy, and its
//! records have places that another run's took. Somebody said that this disk is the one to go on with.
//!
//! The order is that of every sync: the activity log says first that everything may differ, then the new run is reserved, then its
//! first record is made. A kill in between leaves the old run, which is refused as before, or the new one with all of the disk marked.

use tap_block::{ExtentSet, Lsn, Marker};

use super::{Action, Anew, Extent, Mode, Now, Splitter, Sync};
use crate::compare::Comparison;

/// A run that is to begin.
#[derive(Debug)]
pub(super) struct Waiting {
    anew: Anew,
    /// Its beginning is being made durable.
    asked: bool,
}

impl Splitter {
    fn whole(&self) -> Extent {
        Extent::between(0, self.config.size)
    }

    pub(super) fn want_anew(&mut self, anew: Anew) {
        self.regions.want_just(self.whole());
        self.anew.get_or_insert(Waiting { anew, asked: false });
    }

    pub(super) fn ask_for_anew(&mut self, actions: &mut Vec<Action>) {
        let whole = self.whole();
        let is_marked = self.regions.ready(whole);
        if let Some(waiting) = self.anew.as_mut().filter(|waiting| is_marked && !waiting.asked) {
            waiting.asked = true;
            actions.push(Action::PersistAnew(Box::new(waiting.anew.clone())));
        }
    }

    pub(super) fn anew_persisted(&mut self, durable: bool, now: Now) {
        if !durable {
            self.anew.iter_mut().for_each(|waiting| waiting.asked = false);
        } else if let Some(Waiting { anew, .. }) = self.anew.take() {
            self.begin_anew(anew, now);
        }
    }

    /// Operations under way go on, and get LSNs of the new run. Copies under way are thrown away when they come.
    fn begin_anew(&mut self, mut anew: Anew, now: Now) {
        self.queue.clear();
        (self.lost, self.doubted) = (ExtentSet::new(), ExtentSet::new());
        (self.unproven, self.fresh, self.mode) = (false, false, Mode::Streaming);
        self.head = anew.first_lsn.previous();
        (self.bound, self.bound_asked) = (anew.bound, false);
        (self.everywhere, self.flushed) = (Lsn::ZERO, Lsn::ZERO);
        self.sync = anew.run.sync.map(|cause| Sync {
            cause,
            done: 0,
            copied: 0,
            from_zero: false,
            owed: false,
            covered: None,
            joined: Vec::new(),
        });
        self.comparison = Some(Comparison::new(anew.first_lsn));
        // The disk may have grown since it was asked.
        anew.run.size = self.config.size;
        self.mark(Marker::RunStart(anew.run), now);
        self.floor = self.head;
        self.regions.begin_anew(self.head);
        self.copies.mark(self.whole().to_blocks(), self.config.size);
    }
}
