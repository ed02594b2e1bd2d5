//! Retention policies as the journal keeps them. What they mean for points is `gateway_image::retention`'s business.

use std::time::Duration;

use prost::Message;

use crate::error::FormatError;

const WHAT: &str = "retention policy";
/// More tiers than this are somebody's mistake.
const MOST_TIERS: usize = 16;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tier {
    /// The distance of points.
    pub each: Duration,
    /// The age up to which they are kept, counted from now.
    pub keep: Duration,
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
        let tier = |each, keep| Tier { each: Duration::from_secs(each), keep: Duration::from_secs(keep) };
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
            (each, keep) = (tier.each, tier.keep);
        }
        Ok(())
    }

    /// How far back points reach, bookmarks and pins apart.
    #[must_use]
    pub fn window(&self) -> Duration {
        self.tiers.last().map_or(self.every_write, |tier| tier.keep)
    }
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
}

fn nanos(duration: Duration) -> u64 {
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
    }
}

pub(crate) fn policy_in(twin: &PPolicy) -> Result<RetentionPolicy, FormatError> {
    if twin.each.len() != twin.keep.len() {
        return Err(FormatError::malformed(WHAT, "its lists differ in length"));
    }
    let tier = |(&each, &keep): (&u64, &u64)| Tier {
        each: Duration::from_nanos(each),
        keep: Duration::from_nanos(keep),
    };
    let policy = RetentionPolicy {
        every_write: Duration::from_nanos(twin.every_write),
        tiers: twin.each.iter().zip(&twin.keep).map(tier).collect(),
        bookmarks: Duration::from_nanos(twin.bookmarks),
        when_full: if twin.stop_when_full { WhenFull::Stop } else { WhenFull::Thin },
        limit: Some(twin.limit).filter(|&limit| limit > 0),
    };
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
    fn tiers_must_grow_sparser_and_older() {
        let good = RetentionPolicy::default();
        let mut denser = good.clone();
        denser.tiers[1].each = denser.tiers[0].each;
        let mut shorter = good.clone();
        shorter.tiers[0].keep = shorter.every_write;
        let many = RetentionPolicy { tiers: vec![good.tiers[0]; 17], ..good.clone() };
        assert_eq!(good.validate(), Ok(()));
        for bad in [denser, shorter, many] {
            assert!(bad.validate().is_err() && RetentionPolicy::decode(&bad.encode()).is_err());
        }
    }
}
