//! An attempt at a barrier over the volumes of a consistency group: when its marks are put, and when it is given up.

use std::time::Duration;

use tap_block::Monotonic;

use crate::splitter::Standing;

/// No answer is kept back for a barrier any longer than this.
pub const LONGEST: Duration = Duration::from_millis(20);

/// See the module. The driver asks [`Attempt::next`] again after every step but the last, with all members locked.
#[derive(Debug, Default)]
pub struct Attempt {
    /// Answers are kept back until then at most.
    until: Option<Monotonic>,
}

/// What to do, in the same moment in which the members stood as they did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Put the mark into every stream, and let go. The last step.
    Mark,
    /// Have every member keep back answers, then wait.
    Hold {
        /// Until then, or until whoever is behind has caught up.
        until: Monotonic,
    },
    /// Go on waiting.
    Wait {
        /// Until then, or until whoever is behind has caught up.
        until: Monotonic,
    },
    /// Let go; there is no mark. The last step.
    GiveUp(Missed),
}

/// Why there is no mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// A sync is open on a member.
    Refused,
    /// Not every member caught up in time.
    Late,
}

impl Attempt {
    /// The next step, by how every member stands at `now`.
    pub fn next(&mut self, standings: impl IntoIterator<Item = Standing>, now: Monotonic) -> Step {
        match (standings.into_iter().max(), self.until) {
            (Some(Standing::Refused), _) => Step::GiveUp(Missed::Refused),
            (Some(Standing::Ready) | None, _) => Step::Mark,
            (Some(Standing::Behind), Some(until)) if now >= until => Step::GiveUp(Missed::Late),
            (Some(Standing::Behind), Some(until)) => Step::Wait { until },
            (Some(Standing::Behind), None) => {
                let until = now.plus(LONGEST);
                self.until = Some(until);
                Step::Hold { until }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Monotonic {
        Monotonic::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn who_stands_ready_is_marked_at_once_and_who_is_behind_is_waited_for() {
        use Standing::{Behind, Ready};
        assert_eq!(Attempt::default().next([Ready, Ready], at(5)), Step::Mark);
        let mut attempt = Attempt::default();
        assert_eq!(attempt.next([Ready, Behind], at(5)), Step::Hold { until: at(25) });
        assert_eq!(attempt.next([Behind, Ready], at(24)), Step::Wait { until: at(25) });
        assert_eq!(attempt.next([Ready, Ready], at(30)), Step::Mark, "late, but there");
    }

    #[test]
    fn nobody_is_waited_for_any_longer_than_the_limit_nor_through_a_sync() {
        let mut attempt = Attempt::default();
        let _ = attempt.next([Standing::Behind], at(5));
        assert_eq!(attempt.next([Standing::Behind], at(25)), Step::GiveUp(Missed::Late));
        let refused = Step::GiveUp(Missed::Refused);
        assert_eq!(Attempt::default().next([Standing::Behind, Standing::Refused], at(5)), refused);
    }
}
