//! The store's own clock, on which history ages and holds run: it never goes back, and never jumps forward.
//!
//! While the store is open it runs with the monotonic clock, whatever happens to the wall clock. Over a restart it is
//! credited with what the wall clock says went by since it was last noted, out of a budget: seven days, which come back only
//! as the store runs. So a clock that is a year ahead by mistake lets no more than seven days of history and of a hold go,
//! however often the gateway is restarted. The credit is noted durably before anything ages by it. What is not credited counts
//! only if somebody confirms, within a week, that it went by; else things are kept longer by as much. (design, section 4, *Time*)
//!
//! Holds take no part in the credit: a wrong clock over one restart would end one of five days. They run by the time that
//! the store itself was open, or that somebody confirmed, so a machine that was off for a week keeps them a week longer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gateway_journal::{Aged, Uncounted};
use tap_block::{Clock, Monotonic, WallTime};
use tracing::warn;

/// The budget for time that no program saw go by.
const MOST_CREDIT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Less than this is not worth telling anybody.
const LEAST_TOLD: Duration = Duration::from_secs(60);
/// It is told until the store has run for so long.
const TOLD: Duration = MOST_CREDIT;

pub(crate) struct Age {
    clock: Arc<dyn Clock>,
    /// What it said at `since`.
    base: WallTime,
    since: Monotonic,
    /// How much of `base` is credited for this restart.
    credit: Duration,
    /// All that it was ever credited with, this time's as well.
    credited: Duration,
    /// What was left of the budget at `since`, the credit taken off.
    budget: Duration,
    uncounted: Option<Uncounted>,
    /// Nanoseconds of it that somebody confirmed; 0: nobody did.
    confirmed: AtomicU64,
}

impl Age {
    /// Goes on from the last time that is in the journal, or from what was noted later; anew when there is neither.
    pub(crate) fn new(clock: Arc<dyn Clock>, last: Option<WallTime>, noted: Option<Aged>) -> Self {
        let (wall, since) = (clock.wall(), clock.monotonic());
        let last = last.max(noted.map(|n| n.at)).unwrap_or(wall);
        // From the note to what is later in the journal the store ran.
        let ran = noted.map_or(Duration::ZERO, |n| last.since(n.at));
        let left = noted.map_or(MOST_CREDIT, |n| n.budget.saturating_add(ran).min(MOST_CREDIT));
        let down = wall.since(noted.map_or(last, |n| n.wall.plus(ran)));
        let credit = down.min(left);
        let base = last.plus(credit);
        let before = noted.and_then(|n| n.uncounted).filter(|u| base.since(u.noticed) < TOLD);
        let uncounted = not_counted(base, (down, credit), before).or(before);
        let credited = noted.map_or(Duration::ZERO, |n| n.credited).saturating_add(credit);
        Self {
            clock,
            base,
            since,
            credit,
            credited,
            budget: left.saturating_sub(credit),
            uncounted,
            confirmed: AtomicU64::new(0),
        }
    }

    /// Holds remember what it was credited with before they were made: without a note it is no less than that.
    pub(crate) fn remembering(self, credited: Duration) -> Self {
        let before = self.credited.saturating_sub(self.credit).max(credited);
        Self { credited: before.saturating_add(self.credit), ..self }
    }

    /// Without what it was credited with: that cannot be noted, and would be credited again and again.
    pub(crate) fn uncredited(self) -> Self {
        let base = self.base.minus(self.credit);
        let budget = self.budget.saturating_add(self.credit);
        let credited = self.credited.saturating_sub(self.credit);
        Self { base, budget, credit: Duration::ZERO, credited, ..self }
    }

    /// How much of the time that it tells no program saw go by; the same as long as the store is open.
    pub(crate) const fn credited(&self) -> Duration {
        self.credited
    }

    pub(crate) fn now(&self) -> WallTime {
        self.base.plus(Duration::from_nanos(self.confirmed.load(Ordering::Acquire))).plus(self.ran())
    }

    /// What of the time that was not counted may be, on somebody's word: no more than leads up to what the machine's clock shows
    /// now, which may have been set right since.
    pub(crate) fn creditable(&self) -> Duration {
        let missed = self.uncounted().map_or(Duration::ZERO, |u| u.uncounted);
        missed.min(self.clock.wall().since(self.now()))
    }

    /// Somebody confirmed that so much went by, and it is [noted](Self::note_with).
    pub(crate) fn confirm(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.confirmed.store(nanos.max(1), Ordering::Release);
    }

    /// What is to be noted before that.
    pub(crate) fn note_with(&self, by: Duration) -> Aged {
        let note = self.note();
        Aged { at: note.at.plus(by), uncounted: None, ..note }
    }

    /// What the machine's clock shows.
    pub(crate) fn machine(&self) -> WallTime {
        self.clock.wall()
    }

    fn ran(&self) -> Duration {
        self.clock.monotonic().since(self.since)
    }

    /// What is to be noted durably, for the next start.
    pub(crate) fn note(&self) -> Aged {
        Aged {
            at: self.now(),
            wall: self.clock.wall(),
            budget: self.budget.saturating_add(self.ran()).min(MOST_CREDIT),
            credited: self.credited,
            uncounted: self.unconfirmed(),
        }
    }

    fn unconfirmed(&self) -> Option<Uncounted> {
        self.uncounted.filter(|_| self.confirmed.load(Ordering::Acquire) == 0)
    }

    /// What was not counted and is still to be told.
    pub(crate) fn uncounted(&self) -> Option<Uncounted> {
        self.unconfirmed().filter(|u| self.now().since(u.noticed) < TOLD)
    }
}

/// What of the time that the store was closed is not counted, together with what was told `before`; it goes to the log.
fn not_counted(
    now: WallTime,
    (down, credit): (Duration, Duration),
    before: Option<Uncounted>,
) -> Option<Uncounted> {
    let missed = down.saturating_sub(credit);
    if missed < LEAST_TOLD {
        return None;
    }
    let fresh = Uncounted { noticed: now, went: down, uncounted: missed };
    warn!("{fresh}");
    Some(before.map_or(fresh, |before| Uncounted {
        noticed: now,
        went: before.went.saturating_add(down),
        uncounted: before.uncounted.saturating_add(missed),
    }))
}

#[cfg(test)]
mod tests;
