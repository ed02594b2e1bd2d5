//! What the heartbeats of a tap prove: up to when everything is here, and whether the tap is heard at all.
//!
//! A heartbeat says "at this time my last record was LSN n". Once n is durable here, everything up to that
//! time is. Nothing is guessed: what no heartbeat and no record proves is not known.

use std::collections::VecDeque;
use std::time::Duration;

use cx_wire::{Heartbeat, TapState, TapStatus};
use tap_block::{Lsn, Monotonic, WallTime};

/// A tap that says nothing for so long is not known to be in any state.
pub(crate) const SILENCE: Duration = Duration::from_secs(3);
/// Heartbeats whose records are still on their way. At the limit the newest replaces the last but one: the
/// oldest is the next to prove anything.
const LIMIT: usize = 256;

/// One tap's heartbeats.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    waiting: VecDeque<(Lsn, WallTime)>,
    /// The last record of the newest heartbeat of which all is here, and its time. That goes back where the tap's clock was set.
    proven: Option<(Lsn, WallTime)>,
    last: Option<Last>,
}

/// The last heartbeat.
#[derive(Debug)]
struct Last {
    heartbeat: Heartbeat,
    heard: Monotonic,
    /// When the tap's own time last moved: a CX repeats the heartbeats of a tap that is away.
    moved: Monotonic,
}

impl Pulse {
    /// A heartbeat arrived.
    pub(crate) fn heard(&mut self, heartbeat: Heartbeat, durable: Lsn, now: Monotonic) {
        if self.waiting.len() >= LIMIT {
            self.waiting.pop_back();
        }
        if proves(&heartbeat) {
            self.waiting.push_back((heartbeat.head, heartbeat.at));
        }
        let same = self.last.as_ref().filter(|last| last.heartbeat.at == heartbeat.at);
        let moved = same.map_or(now, |last| last.moved);
        self.last = Some(Last { heartbeat, heard: now, moved });
        self.durable(durable);
    }

    /// Everything up to `durable` is here.
    pub(crate) fn durable(&mut self, durable: Lsn) {
        while let Some(&(head, at)) = self.waiting.front() {
            if head > durable {
                break;
            }
            self.proven = Some((head, at));
            self.waiting.pop_front();
        }
    }

    /// The latest tap time up to which everything is known to be here. `record` is the last durable record and when it was
    /// captured, which proves as much.
    pub(crate) fn proven(&self, record: Option<(Lsn, WallTime)>) -> Option<WallTime> {
        let newer = record.filter(|(lsn, _)| self.proven.is_none_or(|(head, _)| *lsn > head));
        newer.or(self.proven).map(|(_, at)| at)
    }

    /// Why the CX does not take what the tap has, as it last said.
    pub(crate) fn refused(&self, now: Monotonic) -> Option<&str> {
        let last = self.last.as_ref().filter(|last| now.since(last.heard) < SILENCE)?;
        last.heartbeat.refused.as_deref()
    }

    /// What the tap last said, unless that is too long ago.
    pub(crate) fn status(&self, now: Monotonic) -> Option<&TapStatus> {
        let last = self.last.as_ref().filter(|last| now.since(last.heard) < SILENCE)?;
        let status = &last.heartbeat.status;
        // A CX that has not heard of the tap itself yet says so without a time.
        let never = last.heartbeat.at == WallTime::EPOCH;
        let gone = status.state == TapState::Stopped && (never || now.since(last.moved) >= SILENCE);
        (!gone).then_some(status)
    }
}

/// While writes are only marked, or blocks still have to be copied, the head says nothing about the disk. A
/// tap that does not know up to when its head is complete says no time at all.
fn proves(heartbeat: &Heartbeat) -> bool {
    let status = &heartbeat.status;
    let complete = matches!(status.state, TapState::Protected | TapState::Spooling | TapState::Stopped);
    complete && status.sync.is_none() && status.marked_bytes == 0 && heartbeat.at != WallTime::EPOCH
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lsn(n: u64) -> Lsn {
        Lsn::new(n).unwrap()
    }

    fn second(n: u64) -> Monotonic {
        Monotonic::from_nanos(n * 1_000_000_000)
    }

    fn beat(head: u64, at: u64) -> Heartbeat {
        let status = TapStatus {
            state: TapState::Protected,
            queued_bytes: 0,
            spooled_bytes: 0,
            marked_bytes: 0,
            sync: None,
            baselines: 1,
            resynced_bytes: 0,
        };
        Heartbeat {
            head: lsn(head),
            at: WallTime::from_nanos(at),
            status,
            ledgers: None,
            witnesses: Vec::new(),
            stores: Vec::new(),
            refused: None,
            set_back: None,
        }
    }

    #[test]
    fn a_heartbeat_proves_its_time_once_its_records_are_durable() {
        let mut pulse = Pulse::default();
        pulse.heard(beat(5, 100), lsn(3), second(0));
        pulse.heard(beat(5, 200), lsn(4), second(1));
        assert_eq!(pulse.proven(None), None);
        pulse.durable(lsn(5));
        assert_eq!(pulse.proven(None), Some(WallTime::from_nanos(200)));
        let newer = Some((lsn(6), WallTime::from_nanos(250)));
        assert_eq!(pulse.proven(newer), Some(WallTime::from_nanos(250)));
        pulse.heard(beat(5, 300), lsn(5), second(2));
        assert_eq!(pulse.proven(None), Some(WallTime::from_nanos(300)), "an idle stream stays current");
    }

    #[test]
    fn a_clock_that_was_set_back_proves_no_time_that_is_still_to_come() {
        let mut pulse = Pulse::default();
        pulse.heard(beat(5, 900), lsn(5), second(0));
        let old = Some((lsn(5), WallTime::from_nanos(880)));
        pulse.heard(beat(5, 310), lsn(5), second(1));
        assert_eq!(pulse.proven(old), Some(WallTime::from_nanos(310)));
        let told = Some((lsn(6), WallTime::from_nanos(320)));
        assert_eq!(pulse.proven(told), Some(WallTime::from_nanos(320)));
    }

    #[test]
    fn marked_blocks_prove_nothing() {
        let mut pulse = Pulse::default();
        let mut marking = beat(5, 100);
        marking.status.state = TapState::Bitmap;
        pulse.heard(marking, lsn(5), second(0));
        assert_eq!(pulse.proven(None), None);
        assert!(pulse.status(second(1)).is_some());
    }

    #[test]
    fn a_tap_that_is_silent_is_unknown() {
        let mut pulse = Pulse::default();
        assert!(pulse.status(second(0)).is_none());
        pulse.heard(beat(1, 1), lsn(0), second(10));
        assert!(pulse.status(second(12)).is_some());
        assert!(pulse.status(second(13)).is_none());
    }

    #[test]
    fn a_tap_that_the_cx_has_not_heard_of_yet_is_unknown_and_not_stopped() {
        let mut pulse = Pulse::default();
        let mut first = beat(1, 0);
        first.status.state = TapState::Stopped;
        pulse.heard(first, lsn(1), second(0));
        assert!(pulse.status(second(0)).is_none());
        pulse.heard(beat(1, 2), lsn(1), second(1));
        assert!(pulse.status(second(1)).is_some());
    }

    #[test]
    fn a_tap_that_stopped_a_while_ago_is_unknown_however_often_the_cx_says_so() {
        let mut pulse = Pulse::default();
        let mut stopped = beat(1, 1);
        stopped.status.state = TapState::Stopped;
        for n in 0..5 {
            pulse.heard(stopped.clone(), lsn(1), second(n));
        }
        assert!(pulse.status(second(2)).is_some());
        assert!(pulse.status(second(4)).is_none());
        pulse.heard(beat(1, 2), lsn(1), second(5));
        assert!(pulse.status(second(5)).is_some());
    }

    #[test]
    fn a_long_wait_keeps_the_oldest_and_the_newest() {
        let mut pulse = Pulse::default();
        for n in 1..=1000 {
            pulse.heard(beat(n, n), lsn(0), second(n));
        }
        assert_eq!(pulse.waiting.len(), LIMIT);
        pulse.durable(lsn(3));
        assert_eq!(pulse.proven(None), Some(WallTime::from_nanos(3)));
        pulse.durable(lsn(1000));
        assert_eq!(pulse.proven(None), Some(WallTime::from_nanos(1000)));
    }
}
