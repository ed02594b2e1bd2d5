//! A pass over the log by which nothing would be gained: whether that is still so is found out by going through the log and the index
//! again, so it is not looked for before something that it depends on has changed.

use std::collections::BTreeSet;

use gateway_image::catalogue::Rules;
use gateway_journal::GroupNo;
use tap_block::{Lsn, VolumeId, WallTime};

use super::LOOK_AGAIN;
use super::plan::Plan;
use crate::store::Shared;
use crate::sync::read;

/// Nothing would be gained by a pass over these groups of the log, whatever went for it.
#[derive(PartialEq, Eq)]
pub(super) struct Futile {
    groups: Option<(GroupNo, GroupNo)>,
    free: Option<usize>,
    /// The last settle.
    settle: u64,
    rules: Rules,
    claims: Claims,
}

/// What keeps points, beside the rules.
#[derive(PartialEq, Eq)]
struct Claims {
    open: BTreeSet<(VolumeId, Lsn)>,
    images: BTreeSet<(VolumeId, Lsn)>,
    /// So many holds have not ended.
    holds: usize,
}

impl Claims {
    fn new(shared: &Shared, now: WallTime) -> Self {
        let published = read(&shared.published);
        let (catalogue, rules) = (&published.catalogue, published.catalogue.rules());
        let holds = catalogue.volumes().map(|v| rules.holds_of(v.id(), now).count()).sum();
        let images = catalogue.images().map(|image| (image.volume, image.point)).collect();
        drop(published);
        Self { open: shared.points.all_open(), images, holds }
    }
}

impl Futile {
    pub(super) fn new(shared: &Shared, plan: &Plan, now: WallTime) -> Self {
        let settle = read(&shared.published).layout.settle;
        let groups = plan.groups.first().zip(plan.groups.last()).map(|(first, last)| (first.no, last.no));
        let (free, rules, claims) = (shared.free_segments(), plan.rules.clone(), Claims::new(shared, now));
        Self { groups, free, settle, rules, claims }
    }
}

/// That, and when it is looked for again though nothing of it has changed: some points are only too young to go.
pub(super) struct Known {
    futile: Futile,
    until: WallTime,
}

/// It takes no more than one part in so many of the time to look for it.
const IDLE: u32 = 10;

impl Known {
    /// It was found out from `begun` until now.
    pub(super) fn found(futile: Futile, begun: WallTime, now: WallTime) -> Self {
        let pause = now.since(begun).saturating_mul(IDLE).min(LOOK_AGAIN);
        Self { futile, until: now.plus(pause) }
    }

    /// It was found out by writing most of it.
    pub(super) fn tried(futile: Futile, now: WallTime) -> Self {
        Self { futile, until: now.plus(LOOK_AGAIN) }
    }

    pub(super) fn is_still(&self, futile: &Futile, now: WallTime) -> bool {
        now < self.until && self.futile == *futile
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(n: u64) -> WallTime {
        WallTime::from_nanos(n * 1_000_000_000)
    }

    fn futile(open: &[u64]) -> Futile {
        let open = open.iter().map(|lsn| (VolumeId::new(1), Lsn::new(*lsn).unwrap())).collect();
        let claims = Claims { open, images: BTreeSet::new(), holds: 0 };
        Futile { groups: None, free: Some(1), settle: 3, rules: Rules::default(), claims }
    }

    #[test]
    fn what_took_a_moment_is_looked_for_again_after_a_few() {
        let known = Known::found(futile(&[7]), second(100), second(101));
        assert!(known.is_still(&futile(&[7]), second(110)));
        assert!(!known.is_still(&futile(&[7]), second(111)), "points have grown older");
        assert!(!known.is_still(&futile(&[]), second(102)), "somebody let go of one");
        let dear = Known::found(futile(&[7]), second(100), second(200));
        assert!(dear.is_still(&futile(&[7]), second(259)) && !dear.is_still(&futile(&[7]), second(260)));
        let tried = Known::tried(futile(&[7]), second(100));
        assert!(tried.is_still(&futile(&[7]), second(159)) && !tried.is_still(&futile(&[8]), second(159)));
    }
}
