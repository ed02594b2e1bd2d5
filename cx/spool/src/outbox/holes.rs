//! What is not for a consumer: what it has already, what it can never take, and what lies behind a hole in its history.

use tap_block::units::{count, index};
use tap_block::{Lsn, RunId};

use super::Outbox;
use crate::consumer::{Broken, ConsumerNo, Hole};
use crate::item::{Item, ItemNo, Place, Reached};

impl Outbox {
    /// Does what waits here from before the run `own` contradict what a consumer `has`? Its last record is of a run that nothing
    /// here knows of, and there are records here at places that it has filled: nobody will ever take them.
    #[must_use]
    pub fn contradicts(&self, own: RunId, has: Reached) -> bool {
        let Some(run) = has.run.filter(|run| *run != own) else { return false };
        let mut before = self.items.iter().map(|item| &item.summary).take_while(|summary| summary.run != own);
        let is_known = self.items.iter().any(|item| item.summary.run == run);
        !is_known && before.any(|summary| summary.first.is_some_and(|first| first <= has.lsn))
    }

    /// Is another record here at the place of the one that somebody `has`, or was there when it was let go? Batches stay as they
    /// are on their way, so one that ends elsewhere is another one as well.
    #[must_use]
    pub fn contradicts_record(&self, has: Reached) -> bool {
        let Some(at) = has.at else { return false };
        let summaries = self.items.iter().map(|item| &item.summary).filter(|s| Some(s.run) == has.run);
        let mut here = summaries.filter(|s| s.first.is_some_and(|first| first <= has.lsn));
        match here.next_back() {
            Some(s) if s.last >= Some(has.lsn) => s.last != Some(has.lsn) || s.last_at != Some(at),
            Some(_) => false,
            None => {
                let end = self.forgotten_end;
                (end.lsn, end.run) == (has.lsn, has.run) && end.at.is_some_and(|known| known != at)
            }
        }
    }

    /// Does `consumer` have another record than this hop at its last place? This hop was set back with its memory, and its source as
    /// well, and both gave places away a second time: nothing that is here up to the next sync of everything follows on that.
    pub(super) fn is_split(&self, consumer: ConsumerNo, has: Reached) -> bool {
        let broken = self.consumers.get(consumer.get()).and_then(|c| c.broken);
        let is_known = broken.is_some_and(|broken| broken.until_healed);
        self.config.detect_holes && !is_known && self.contradicts_record(has)
    }

    /// Lets go of what waits from before `run` (`None`: of everything). To be called while no consumer is connected.
    pub fn let_go_before(&mut self, run: Option<RunId>) {
        let others = self.items.iter().take_while(|item| Some(item.summary.run) != run).count();
        let (from, to) = (self.first, self.first.plus(count(others)));
        self.consumers.iter_mut().for_each(|c| c.skip(from, to));
        self.forget();
    }

    /// Skips what `consumer` has. Copies carry no LSN, so an item with any is sent again, and so is all after it; but not one of a
    /// run that ended there. It would be refused: to whoever remembers the last run alone it contradicts what is there. So do records
    /// that go on in a run of which another one's took the places: they would be refused for ever, and nothing but a copy of
    /// everything replaces them.
    pub(super) fn skip_received(&mut self, consumer: ConsumerNo, has: Reached) -> Option<Hole> {
        let c = self.consumers.get_mut(consumer.get())?;
        while let Some(item) = self.items.get(index(c.next.since(self.first))) {
            let s = &item.summary;
            let has_ended = has.run.is_some_and(|run| run != s.run) && s.last.unwrap_or(s.needs) <= has.lsn;
            let is_received = has_ended || !s.copies && s.last.is_some_and(|last| last <= has.lsn);
            if !is_received || item.place == Place::Lost {
                break;
            }
            c.has_next();
        }
        let (next, broken) = (c.next, c.broken);
        let rest = self.items.iter().skip(index(next.since(self.first)));
        let (no, other) =
            (next.get()..).map(ItemNo::new).zip(rest).find(|(_, i)| Some(i.summary.run) != has.run)?;
        let is_left_out = broken.is_some_and(|b| b.until_healed && b.at <= no);
        let contradicts = self.config.detect_holes && other.summary.contradicts(has);
        if contradicts && !is_left_out { self.break_off_at(no, consumer, has.lsn, true) } else { None }
    }

    /// `consumer` misses something after `after`: it goes on with the next sync of everything, here or to come.
    pub(super) fn break_off(&mut self, consumer: ConsumerNo, after: Lsn, until_healed: bool) -> Option<Hole> {
        self.break_off_at(self.consumers.get(consumer.get())?.next, consumer, after, until_healed)
    }

    /// The same, with nothing from `from` on, which is sent yet or not.
    fn break_off_at(
        &mut self,
        from: ItemNo,
        consumer: ConsumerNo,
        after: Lsn,
        until_healed: bool,
    ) -> Option<Hole> {
        let skip = index(from.since(self.first));
        let heals = |i: &Item| i.summary.heals && i.summary.first > Some(after) && i.place != Place::Lost;
        let healing = self.items.iter().skip(skip).position(heals);
        let c = self.consumers.get_mut(consumer.get())?;
        if let Some(n) = healing {
            c.skip(from, from.plus(count(n)));
            self.forget();
            return None;
        }
        c.clear_window();
        c.broken = Some(Broken { at: from, after, until_healed });
        self.relieve();
        Some(Hole { consumer, after })
    }

    /// What waits behind holes must not keep out the sync that heals them: when memory fills and the disk takes no
    /// more, it goes. The gap that the sync leaves covers it.
    pub(super) fn relieve(&mut self) {
        let disk_takes = !self.spill_paused && self.first_unspilled().is_none_or(|w| self.disk_has_room(w));
        if disk_takes || self.room() >= self.config.memory_limit / 2 {
            return;
        }
        let end = self.end();
        self.consumers.iter_mut().for_each(|c| c.give_up(end));
        self.forget();
    }
}
