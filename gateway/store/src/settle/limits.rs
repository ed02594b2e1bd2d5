//! Limits of single volumes: whose history presses against the limit of its policy, and how hard.
//!
//! ```text
//!   0 ──────────────────────── 70% ─ 75% ─ 85% ─ 90% ─ 95% ─ limit
//!   thinned sooner       until  ◄───────────┴ from
//!   the oldest points go       until  ◄───────────────┴ from
//!   no more is taken                       until  ◄───────────┴ from     (policies that say so)
//! ```
//!
//! Each time the oldest points go all that is left of the volume's settled history is written again: so a fifth of the limit
//! goes at once, not a little all the time.

use std::collections::BTreeMap;

use gateway_image::Catalogue;
use gateway_journal::WhenFull;
use tap_block::{StreamId, VolumeId};

use super::Pressure;
use crate::usage::VolumeBytes;

/// What a volume's history takes of what its policy allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolumeLimit {
    /// Bytes that it may take.
    pub limit: u64,
    /// Bytes that it takes.
    pub used: u64,
    /// What is done about it.
    pub state: LimitState,
}

/// What is done about a volume's limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitState {
    /// Nothing: there is room.
    Fits,
    /// Its history is thinned sooner than its policy says.
    Thinning,
    /// Its oldest points go.
    Purging,
    /// It is full, and nothing more may go: the newest state, pins, holds, images and open points need what is left.
    Stuck,
    /// No more of its history is taken until there is room.
    Stopped,
}

/// Every volume whose policy has a limit.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    volumes: BTreeMap<VolumeId, Limited>,
    /// Streams whose history is no longer taken: what it takes, and what it may.
    stopped: BTreeMap<StreamId, (u64, u64)>,
}

#[derive(Debug, Clone, Copy)]
struct Limited {
    stream: StreamId,
    limit: u64,
    used: u64,
    pressure: Pressure,
    when_full: WhenFull,
    /// What it took when it was found that nothing more may go.
    stuck_at: Option<u64>,
}

impl Limits {
    /// As of now: where a volume stands depends on where it stood before.
    pub(crate) fn next(&self, catalogue: &Catalogue, usage: &BTreeMap<VolumeId, VolumeBytes>) -> Self {
        let of = |(id, bytes): (&VolumeId, &VolumeBytes)| {
            let (volume, policy) = (catalogue.volume(*id)?, catalogue.rules().policy_of(*id));
            let (limit, used) = (policy.limit?, bytes.total());
            // Another limit is looked at as if nothing had been: whoever raises it would keep what is there.
            let same = |l: &&Limited| l.limit == limit && l.when_full == policy.when_full;
            let before = self.volumes.get(id).filter(same);
            let pressure = pressure(before.map_or(Pressure::None, |b| b.pressure), used, limit);
            let stuck_at = before.and_then(|b| b.stuck_at).filter(|_| pressure == Pressure::Purge);
            let (stream, when_full) = (volume.stream(), policy.when_full);
            let pressure = if when_full == WhenFull::Stop { stop(before, used, limit) } else { pressure };
            Some((*id, Limited { stream, limit, used, pressure, when_full, stuck_at }))
        };
        let volumes: BTreeMap<_, Limited> = usage.iter().filter_map(of).collect();
        let stopped = volumes.values().filter(|l| l.state() == LimitState::Stopped);
        let stopped = stopped.map(|l| (l.stream, (l.used, l.limit))).collect();
        Self { volumes, stopped }
    }

    /// May a volume reach its limit before the next look, if nobody looks sooner?
    pub(crate) fn are_near(&self) -> bool {
        self.volumes.values().any(|l| l.limit <= QUICKLY_FILLED || l.used > percent(l.limit, RELIEVED))
    }

    /// Volumes that have to become smaller, and how hard.
    pub(super) fn strained(&self) -> BTreeMap<VolumeId, Pressure> {
        let strained = self.volumes.iter().filter(|(_, l)| l.is_strained());
        strained.map(|(id, l)| (*id, l.pressure)).collect()
    }

    /// Bytes by which the volumes of streams have to become smaller.
    pub(super) fn needs(&self) -> BTreeMap<StreamId, u64> {
        let strained = self.volumes.values().filter(|l| l.is_strained());
        strained.map(|l| (l.stream, l.used.saturating_sub(percent(l.limit, RELIEVED)))).collect()
    }

    /// The part of its bytes that a volume has to give up, in thousandths.
    pub(super) fn excess(&self, volume: VolumeId) -> u64 {
        let Some(limited) = self.volumes.get(&volume) else { return 0 };
        let excess = limited.used.saturating_sub(percent(limited.limit, ROOMY));
        excess.saturating_mul(1000) / limited.used.max(1)
    }

    /// Is a stream's history no longer taken? Then: what it takes, and what it may.
    pub(crate) fn stopped(&self, stream: StreamId) -> Option<(u64, u64)> {
        self.stopped.get(&stream).copied()
    }

    /// A sixteenth of the limit of a strained volume's stream: so much is worth settling on its own.
    pub(super) fn worth_settling(&self, stream: StreamId) -> Option<u64> {
        let strained = self.volumes.values().find(|l| l.stream == stream && l.is_strained());
        strained.map(|l| (l.limit / 16).max(1))
    }

    /// Whether anything of a full volume may go.
    pub(super) fn set_stuck(&mut self, volume: VolumeId, stuck: bool) {
        if let Some(limited) = self.volumes.get_mut(&volume) {
            limited.stuck_at = stuck.then(|| limited.stuck_at.unwrap_or(limited.used));
        }
    }

    /// Is it worth going through a volume's settled history for points that went already? One of which little else is left than
    /// its newest state gives up next to nothing each time: only when it has grown.
    pub(super) fn is_worth_tidying(&self, volume: VolumeId) -> bool {
        let grown = |l: &Limited| l.stuck_at.is_none_or(|at| l.used >= at.saturating_add(l.limit / 8));
        self.volumes.get(&volume).is_none_or(grown)
    }

    /// For people.
    pub(crate) fn views(&self) -> BTreeMap<VolumeId, VolumeLimit> {
        let view = |l: &Limited| VolumeLimit { limit: l.limit, used: l.used, state: l.state() };
        self.volumes.iter().map(|(id, l)| (*id, view(l))).collect()
    }
}

impl Limited {
    fn is_strained(&self) -> bool {
        self.when_full == WhenFull::Thin && self.pressure > Pressure::None
    }

    const fn state(&self) -> LimitState {
        match (self.when_full, self.pressure) {
            (_, Pressure::None) => LimitState::Fits,
            (WhenFull::Stop, _) => LimitState::Stopped,
            (_, Pressure::Thin) => LimitState::Thinning,
            (_, Pressure::Purge) if self.stuck_at.is_some() => LimitState::Stuck,
            (_, Pressure::Purge) => LimitState::Purging,
        }
    }
}

/// Shares of the limit, in percent: history is thinned from [`FILLING`] until [`RELIEVED`], the oldest points go from
/// [`CROWDED`] until [`ROOMY`].
const RELIEVED: u64 = 70;
const FILLING: u64 = 85;
const ROOMY: u64 = 75;
const CROWDED: u64 = 95;
/// What was stopped goes on from here.
const REOPENED: u64 = 90;

/// A limit that history may reach from nothing within seconds.
const QUICKLY_FILLED: u64 = 16 << 30;

fn percent(limit: u64, share: u64) -> u64 {
    limit / 100 * share + limit % 100 * share / 100
}

fn pressure(before: Pressure, used: u64, limit: u64) -> Pressure {
    let above = |share| used > percent(limit, share);
    match before {
        _ if above(CROWDED) => Pressure::Purge,
        Pressure::Purge if above(ROOMY) => Pressure::Purge,
        _ if above(FILLING) => Pressure::Thin,
        Pressure::Thin | Pressure::Purge if above(RELIEVED) => Pressure::Thin,
        _ => Pressure::None,
    }
}

/// Of a policy that takes no more when its limit is reached.
fn stop(before: Option<&Limited>, used: u64, limit: u64) -> Pressure {
    let stopped = before.is_some_and(|b| b.state() == LimitState::Stopped);
    let still = stopped && used > percent(limit, REOPENED);
    if still || used >= limit { Pressure::Purge } else { Pressure::None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_rises_at_one_mark_and_falls_at_a_lower_one() {
        use Pressure::{None, Purge, Thin};
        let mut at = None;
        for (used, expected) in [
            (0, None),
            (85, None),
            (86, Thin),
            (71, Thin),
            (95, Thin),
            (96, Purge),
            (76, Purge),
            (75, Thin),
            (71, Thin),
            (70, None),
            (300, Purge),
            (0, None),
        ] {
            at = pressure(at, used, 100);
            assert_eq!(at, expected, "{used}");
        }
        assert_eq!(percent(u64::MAX, 100), u64::MAX);
        assert_eq!(percent(7, 50), 3);
    }

    #[test]
    fn what_is_stopped_goes_on_when_there_is_room() {
        let limited = |pressure| Limited {
            stream: StreamId::new(1),
            limit: 100,
            used: 0,
            pressure,
            when_full: WhenFull::Stop,
            stuck_at: Option::None,
        };
        let (open, stopped) = (limited(Pressure::None), limited(Pressure::Purge));
        assert_eq!(stop(Option::None, 99, 100), Pressure::None);
        assert_eq!(stop(Some(&open), 100, 100), Pressure::Purge);
        assert_eq!(stop(Some(&stopped), 91, 100), Pressure::Purge);
        assert_eq!(stop(Some(&stopped), 90, 100), Pressure::None);
        assert_eq!((open.state(), stopped.state()), (LimitState::Fits, LimitState::Stopped));
    }
}
