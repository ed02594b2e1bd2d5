//! How far the runs of a stream are known: what a tap that greets is told of the runs before its own. A tap that remembers less of
//! them was set back to an older state together with its disk, and what it goes on from is not what is below.

use cx_wire::RunSeen;
use tap_block::{RunId, WallTime};

/// So many runs are remembered: the last one of a tap that was set back may be some runs ago.
const KEPT: usize = 8;

/// The runs of one stream.
#[derive(Debug, Default)]
pub(crate) struct Past {
    /// Oldest first as far as that is known; the one that greeted last is the last.
    runs: Vec<RunSeen>,
    /// The tap was welcomed before every gateway had said what it has.
    blind: bool,
}

impl Past {
    /// The tap's present run.
    pub(crate) fn greet(&mut self, run: RunId) {
        let known = self.runs.iter().position(|seen| seen.run == run).map(|at| self.runs.remove(at));
        self.runs.push(known.unwrap_or(RunSeen { run, at: WallTime::EPOCH }));
        let over = self.runs.len().saturating_sub(KEPT);
        self.runs.drain(..over);
    }

    /// Something of `run` from that moment is here or below. True when the tap is to hear of it, and was not told when it was
    /// welcomed.
    pub(crate) fn note(&mut self, seen: RunSeen) -> bool {
        let last = self.runs.len().saturating_sub(1);
        let at = self.runs.iter().position(|known| known.run == seen.run);
        if let Some((at, known)) = at.and_then(|at| Some((at, self.runs.get_mut(at)?))) {
            let newer = known.at < seen.at;
            known.at = known.at.max(seen.at);
            return newer && at != last;
        }
        // Of a gateway: nobody greeted with it since the CX was started.
        let has_room = self.runs.len() < KEPT;
        if has_room {
            self.runs.insert(last, seen);
        }
        has_room
    }

    /// A gateway said what it has: true when the tap waits to hear of that.
    pub(crate) fn heard(&mut self) -> bool {
        std::mem::take(&mut self.blind)
    }

    /// What the tap whose run is `run` is told; `known`: every gateway has said what it has.
    pub(crate) fn tell(&mut self, run: RunId, known: bool) -> Vec<RunSeen> {
        let of_others = |seen: &&RunSeen| seen.run != run && seen.at > WallTime::EPOCH;
        self.blind = !known;
        self.runs.iter().filter(of_others).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(run: u64, at: u64) -> RunSeen {
        RunSeen { run: RunId::new(run), at: WallTime::from_nanos(at) }
    }

    #[test]
    fn a_run_that_greets_is_told_how_far_those_before_it_came() {
        let mut past = Past::default();
        past.greet(RunId::new(1));
        assert!(!past.note(seen(1, 5)) && !past.note(seen(1, 9)) && !past.note(seen(1, 7)));
        assert_eq!(past.tell(RunId::new(1), true), []);
        past.greet(RunId::new(2));
        assert_eq!(past.tell(RunId::new(2), true), [seen(1, 9)]);
        assert!(!past.note(seen(2, 20)));
        past.greet(RunId::new(2));
        assert_eq!(past.tell(RunId::new(2), true), [seen(1, 9)]);
    }

    #[test]
    fn what_a_gateway_tells_later_is_news_once() {
        let mut past = Past::default();
        past.greet(RunId::new(2));
        assert!(past.tell(RunId::new(2), false).is_empty());
        assert!(past.heard() && !past.heard());
        assert!(past.note(seen(1, 9)) && !past.note(seen(1, 9)) && !past.note(seen(1, 8)));
        assert!(past.note(seen(1, 10)));
        assert_eq!(past.tell(RunId::new(2), false), [seen(1, 10)]);
        assert!(past.heard(), "another one may know more");
        past.tell(RunId::new(2), true);
        assert!(!past.heard(), "all have said what they have");
    }

    #[test]
    fn it_does_not_grow_for_ever() {
        let mut past = Past::default();
        for run in 1..100 {
            past.greet(RunId::new(run));
            past.note(seen(run, run));
        }
        assert!(!past.note(seen(1, 1)), "one so old is no matter any more");
        assert_eq!(past.tell(RunId::new(99), true).len(), KEPT - 1);
        const { assert!(KEPT <= cx_wire::MAX_PAST) };
    }
}
