//! Retention policies as the journal keeps them. What they mean for points is `gateway_image::retention`'s business.

use std::time::Duration;

use prost::Message;

use crate::error::FormatError;

const WHAT: &str = "retention policy";
/// More tiers than this are somebody's mistake.
const MOST_TIERS: usize = 16;
/// And a longer path of a hook.
const LONGEST_HOOK: usize = 4096;
/// And a longer time: what is journalled are nanoseconds, which end at 584 years.
const LONGEST: Duration = Duration::from_nanos(u64::MAX);

/// How long history is kept, ever more sparsely.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// Every write is a point for so long.
    pub every_write: Duration,
    /// After that, one point each so often for so long; ascending in both.
    pub tiers: Vec<Tier>,
    /// Bookmarks are points for so long.
    pub bookmarks: Duration,
    /// What to do when there is no more room.
    pub when_full: WhenFull,
    /// Bytes that each volume's history may take; `None`: as much as there is room.
    pub limit: Option<u64>,
}

/// One point each so often, for so long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tier {
    /// The distance of points.
    pub each: Duration,
    /// The age up to which they are kept, counted from now.
    pub keep: Duration,
    /// What has to succeed before the tier lets points go.
    pub before_drop: Option<Gate>,
}

/// What has to succeed before a tier lets points go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    /// The program that is run, which hands them on.
    pub hook: String,
    /// They go without it when it has not succeeded for so long.
    pub deadline: Duration,
}

/// What to do when there is no more room, or history takes more than its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// Thin out sooner than the policy says, then let the oldest points go.
    Thin,
    /// Take no more history, and say so: the head goes on as a gap.
    Stop,
}

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

impl Default for RetentionPolicy {
    /// Every write 48 hours, one a minute 7 days, one an hour 30 days, bookmarks a year.
    fn default() -> Self {
        let tier = |each, keep| Tier {
            each: Duration::from_secs(each),
            keep: Duration::from_secs(keep),
            before_drop: None,
        };
        Self {
            every_write: Duration::from_secs(48 * HOUR),
            tiers: vec![tier(60, 7 * DAY), tier(HOUR, 30 * DAY)],
            bookmarks: Duration::from_secs(365 * DAY),
            when_full: WhenFull::Thin,
            limit: None,
        }
    }
}

impl RetentionPolicy {
    /// Is it one that can be followed?
    ///
    /// # Errors
    /// What is wrong with it, for whoever wrote it.
    pub fn validate(&self) -> Result<(), String> {
        if self.lengths().any(|length| length > LONGEST) {
            return Err("no length of time may be more than 584 years (584y)".into());
        }
        if self.tiers.len() > MOST_TIERS {
            return Err(format!("{} tiers are more than {MOST_TIERS}", self.tiers.len()));
        }
        if self.limit == Some(0) {
            return Err("a limit of no bytes leaves no room for any history".into());
        }
        let (mut each, mut keep) = (Duration::ZERO, self.every_write);
        for tier in &self.tiers {
            if tier.each <= each {
                return Err("each tier must be sparser than the one before it (`each` must grow)".into());
            }
            if tier.keep <= keep {
                return Err(
                    "each tier must reach further back than the one before it (`keep` must grow)".into()
                );
            }
            tier.before_drop.as_ref().map_or(Ok(()), Gate::validate)?;
            (each, keep) = (tier.each, tier.keep);
        }
        Ok(())
    }

    /// Every length of time in it.
    fn lengths(&self) -> impl Iterator<Item = Duration> {
        let gate = |tier: &Tier| tier.before_drop.as_ref().map(|gate| gate.deadline);
        let of = move |tier: &Tier| [Some(tier.each), Some(tier.keep), gate(tier)].into_iter().flatten();
        [self.every_write, self.bookmarks].into_iter().chain(self.tiers.iter().flat_map(of))
    }

    /// How far back points reach, bookmarks and pins apart.
    #[must_use]
    pub fn window(&self) -> Duration {
        self.tiers.last().map_or(self.every_write, |tier| tier.keep)
    }
}

impl Gate {
    fn validate(&self) -> Result<(), String> {
        if self.deadline.is_zero() {
            return Err("the deadline of `before_drop` must be longer than nothing".into());
        }
        if self.hook.is_empty() || self.hook.len() > LONGEST_HOOK || self.hook.contains(char::is_control) {
            return Err("the `hook` of `before_drop` is no path of a program".into());
        }
        Ok(())
    }
}

#[derive(Clone, PartialEq, Message)]
struct PGate {
    /// The place of its tier, from 0.
    #[prost(uint32, tag = "1")]
    tier: u32,
    #[prost(string, tag = "2")]
    hook: String,
    #[prost(uint64, tag = "3")]
    deadline: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PPolicy {
    #[prost(uint64, tag = "1")]
    every_write: u64,
    #[prost(uint64, repeated, tag = "2")]
    each: Vec<u64>,
    #[prost(uint64, repeated, tag = "3")]
    keep: Vec<u64>,
    #[prost(uint64, tag = "4")]
    bookmarks: u64,
    #[prost(bool, tag = "5")]
    stop_when_full: bool,
    /// 0: none.
    #[prost(uint64, tag = "6")]
    limit: u64,
    #[prost(message, repeated, tag = "7")]
    gates: Vec<PGate>,
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

pub(crate) fn policy_out(policy: &RetentionPolicy) -> PPolicy {
    PPolicy {
        every_write: nanos(policy.every_write),
        each: policy.tiers.iter().map(|t| nanos(t.each)).collect(),
        keep: policy.tiers.iter().map(|t| nanos(t.keep)).collect(),
        bookmarks: nanos(policy.bookmarks),
        stop_when_full: policy.when_full == WhenFull::Stop,
        limit: policy.limit.unwrap_or(0),
        gates: (0..).zip(&policy.tiers).filter_map(|(n, tier)| gate_out(n, tier)).collect(),
    }
}

fn gate_out(tier: u32, of: &Tier) -> Option<PGate> {
    let gate = of.before_drop.as_ref()?;
    Some(PGate { tier, hook: gate.hook.clone(), deadline: nanos(gate.deadline) })
}

pub(crate) fn policy_in(twin: &PPolicy) -> Result<RetentionPolicy, FormatError> {
    if twin.each.len() != twin.keep.len() {
        return Err(FormatError::malformed(WHAT, "its lists differ in length"));
    }
    let tier = |(&each, &keep): (&u64, &u64)| Tier {
        each: Duration::from_nanos(each),
        keep: Duration::from_nanos(keep),
        before_drop: None,
    };
    let mut policy = RetentionPolicy {
        every_write: Duration::from_nanos(twin.every_write),
        tiers: twin.each.iter().zip(&twin.keep).map(tier).collect(),
        bookmarks: Duration::from_nanos(twin.bookmarks),
        when_full: if twin.stop_when_full { WhenFull::Stop } else { WhenFull::Thin },
        limit: Some(twin.limit).filter(|&limit| limit > 0),
    };
    for gate in &twin.gates {
        let tier = usize::try_from(gate.tier).ok().and_then(|n| policy.tiers.get_mut(n));
        let tier = tier.ok_or_else(|| FormatError::malformed(WHAT, "a gate of no tier"))?;
        let deadline = Duration::from_nanos(gate.deadline);
        tier.before_drop = Some(Gate { hook: gate.hook.clone(), deadline });
    }
    policy.validate().map_err(|why| FormatError::malformed(WHAT, why))?;
    Ok(policy)
}

impl RetentionPolicy {
    /// As bytes, for whoever keeps it elsewhere.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        policy_out(self).encode_to_vec()
    }

    /// Back from bytes.
    ///
    /// # Errors
    /// [`FormatError`] when they are no policy.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let twin = PPolicy::decode(bytes).map_err(|e| FormatError::malformed(WHAT, e.to_string()))?;
        policy_in(&twin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_survives_its_bytes() {
        let policy = RetentionPolicy::default();
        assert_eq!(RetentionPolicy::decode(&policy.encode()), Ok(policy.clone()));
        let limited = RetentionPolicy { limit: Some(200 << 30), ..policy.clone() };
        assert_eq!(RetentionPolicy::decode(&limited.encode()), Ok(limited));
        assert!(RetentionPolicy { limit: Some(0), ..policy.clone() }.validate().is_err());
        let stop = RetentionPolicy { when_full: WhenFull::Stop, tiers: Vec::new(), ..policy };
        assert_eq!(RetentionPolicy::decode(&stop.encode()), Ok(stop.clone()));
        assert_eq!(stop.window(), stop.every_write);
    }

    #[test]
    fn what_cannot_be_written_as_it_is_is_refused_before_it_is_written() {
        let years = |n: u64| Duration::from_secs(n * 365 * DAY);
        let mut long = RetentionPolicy::default();
        (long.tiers[0].keep, long.tiers[1].keep) = (years(600), years(700));
        assert!(RetentionPolicy::decode(&long.encode()).is_err(), "both are 584 years there");
        assert!(long.validate().is_err());
        for refused in [Duration::MAX, years(585)] {
            let plain = RetentionPolicy::default;
            assert!(
                RetentionPolicy { every_write: refused, tiers: Vec::new(), ..plain() }.validate().is_err()
            );
            assert!(RetentionPolicy { bookmarks: refused, ..plain() }.validate().is_err());
            let mut slow = plain();
            slow.tiers[1].before_drop = Some(Gate { hook: "archive.sh".into(), deadline: refused });
            assert!(slow.validate().is_err());
        }
        let forever = RetentionPolicy { bookmarks: years(584), ..RetentionPolicy::default() };
        assert_eq!(RetentionPolicy::decode(&forever.encode()), Ok(forever));
        // Journalled by an earlier program, which took more.
        let cut = RetentionPolicy { bookmarks: years(1000), ..RetentionPolicy::default() };
        assert!(RetentionPolicy::decode(&cut.encode()).is_ok());
    }

    #[test]
    fn a_gate_belongs_to_its_tier() {
        let mut policy = RetentionPolicy::default();
        let gate = Gate { hook: "archive.sh".into(), deadline: Duration::from_secs(6 * HOUR) };
        policy.tiers[1].before_drop = Some(gate.clone());
        assert_eq!(RetentionPolicy::decode(&policy.encode()), Ok(policy.clone()));
        let mut stray = policy_out(&policy);
        stray.gates[0].tier = 2;
        assert!(policy_in(&stray).is_err());
        for (hook, deadline) in [("", 1), ("a\nb", 1), ("a", 0)] {
            let gate = Gate { hook: hook.into(), deadline: Duration::from_secs(deadline) };
            policy.tiers[1].before_drop = Some(gate);
            assert!(policy.validate().is_err(), "{hook:?} {deadline}");
        }
    }

    #[test]
    fn tiers_must_grow_sparser_and_older() {
        let good = RetentionPolicy::default();
        let mut denser = good.clone();
        denser.tiers[1].each = denser.tiers[0].each;
        let mut shorter = good.clone();
        shorter.tiers[0].keep = shorter.every_write;
        let many = RetentionPolicy { tiers: vec![good.tiers[0].clone(); 17], ..good.clone() };
        assert_eq!(good.validate(), Ok(()));
        for bad in [denser, shorter, many] {
            assert!(bad.validate().is_err() && RetentionPolicy::decode(&bad.encode()).is_err());
        }
    }
}
