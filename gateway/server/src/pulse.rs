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
    proven: Option<WallTime>,
    last: Option<(Monotonic, Heartbeat)>,
}

impl Pulse {
    /// A heartbeat arrived.
    pub(crate) fn heard(&mut self, heartbeat: Heartbeat, durable: Lsn, now: Monotonic) {
        if self.waiting.len() >= LIMIT {
            self.waiting.pop_back();
        }
        if proves(&heartbeat.status) {
            self.waiting.push_back((heartbeat.head, heartbeat.at));
        }
        self.last = Some((now, heartbeat));
        self.durable(durable);
    }

    /// Everything up to `durable` is here.
    pub(crate) fn durable(&mut self, durable: Lsn) {
        while let Some(&(head, at)) = self.waiting.front() {
            if head > durable {
                break;
            }
            self.proven = self.proven.max(Some(at));
            self.waiting.pop_front();
        }
    }

    /// The latest tap time up to which everything is known to be here. `record` is when the last durable
    /// record was captured, which proves as much.
    pub(crate) fn proven(&self, record: Option<WallTime>) -> Option<WallTime> {
        self.proven.max(record)
    }

    /// What the tap last said, unless that is too long ago.
    pub(crate) fn status(&self, now: Monotonic) -> Option<&TapStatus> {
        let (_, heartbeat) = self.last.as_ref().filter(|(at, _)| now.since(*at) < SILENCE)?;
        Some(&heartbeat.status)
    }
}

/// While writes are only marked, or blocks still have to be copied, the head says nothing about the disk.
fn proves(status: &TapStatus) -> bool {
    let complete = matches!(status.state, TapState::Protected | TapState::Spooling | TapState::Stopped);
    complete && status.sync.is_none() && status.marked_bytes == 0
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
        Heartbeat { head: lsn(head), at: WallTime::from_nanos(at), status }
    }

    #[test]
    fn a_heartbeat_proves_its_time_once_its_records_are_durable() {
        let mut pulse = Pulse::default();
        pulse.heard(beat(5, 100), lsn(3), second(0));
        pulse.heard(beat(5, 200), lsn(4), second(1));
        assert_eq!(pulse.proven(None), None);
        pulse.durable(lsn(5));
        assert_eq!(pulse.proven(None), Some(WallTime::from_nanos(200)));
        assert_eq!(pulse.proven(Some(WallTime::from_nanos(250))), Some(WallTime::from_nanos(250)));
        pulse.heard(beat(5, 300), lsn(5), second(2));
        assert_eq!(pulse.proven(None), Some(WallTime::from_nanos(300)), "an idle stream stays current");
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
