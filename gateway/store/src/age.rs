//! The store's own clock, on which history ages: it never goes back, and never jumps forward.
//!
//! While the store is open it runs with the monotonic clock, whatever happens to the wall clock. Over a restart it is
//! credited with what the wall clock says went by, seven days at most: a clock that is a year ahead by mistake must not
//! let a year of history go. (design, section 4, *Time*)

use std::sync::Arc;
use std::time::Duration;

use tap_block::{Clock, Monotonic, WallTime};

/// The most that a restart credits.
const MOST_CREDIT: Duration = Duration::from_secs(7 * 24 * 3600);

pub(crate) struct Age {
    clock: Arc<dyn Clock>,
    /// What it said at `since`.
    base: WallTime,
    since: Monotonic,
}

impl Age {
    /// Goes on from the last time that is in the journal; `None` when nothing is.
    pub(crate) fn new(clock: Arc<dyn Clock>, last: Option<WallTime>) -> Self {
        let wall = clock.wall();
        let base = last.map_or(wall, |last| last.plus(wall.since(last).min(MOST_CREDIT)));
        let since = clock.monotonic();
        Self { clock, base, since }
    }

    pub(crate) fn now(&self) -> WallTime {
        self.base.plus(self.clock.monotonic().since(self.since))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Hands(Mutex<(u64, u64)>);

    impl Clock for Hands {
        fn wall(&self) -> WallTime {
            WallTime::from_nanos(self.0.lock().unwrap().0 * 1_000_000_000)
        }

        fn monotonic(&self) -> Monotonic {
            Monotonic::from_nanos(self.0.lock().unwrap().1 * 1_000_000_000)
        }
    }

    #[test]
    fn a_clock_that_jumps_ages_nothing() {
        let day = 24 * 3600;
        let hands = Arc::new(Hands::default());
        let set = |wall, monotonic| *hands.0.lock().unwrap() = (wall, monotonic);
        let seconds = |age: &Age| age.now().nanos() / 1_000_000_000;
        set(1000 * day, 5);
        let age = Age::new(hands.clone(), None);
        set(1365 * day, 15);
        assert_eq!(seconds(&age), 1000 * day + 10, "a year ahead while it runs");
        let last = Some(age.now());
        assert_eq!(seconds(&Age::new(hands.clone(), last)), 1007 * day + 10, "and over a restart");
        set(999 * day, 0);
        assert_eq!(seconds(&Age::new(hands.clone(), last)), 1000 * day + 10, "a day back");
        set(1003 * day, 0);
        assert_eq!(seconds(&Age::new(hands, last)), 1003 * day, "three days off");
    }
}
