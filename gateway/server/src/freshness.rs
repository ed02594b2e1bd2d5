//! How old the newest point of a group is, and whether points stopped though its members are written to.

use std::time::Duration;

use gateway_image::Group;
use gateway_image::catalogue::{Catalogue, Volume, cause_text};
use tap_block::{StreamId, WallTime};

use crate::skew::Offset;

/// How long ago `at` was on the tap's clock, reckoned against us; `None` when nobody knows: nothing of that clock was measured,
/// or it was set back since.
pub(crate) fn age(offsets: impl Iterator<Item = Offset>, now: WallTime, at: WallTime) -> Option<Duration> {
    let latest = offsets.map(|offset| offset.latest(now)).max()?;
    (at <= latest).then(|| latest.since(at))
}

/// Barriers may be missed for so long before anything is said of it, and for a few of their usual distances.
const PATIENCE: Duration = Duration::from_secs(60);
const USUAL: u32 = 5;
/// After that the group is taken to be given up.
const GIVEN_UP: Duration = Duration::from_secs(7 * 24 * 3600);
/// Marks that tell how far apart they usually are.
const LOOKED_AT: usize = 17;

/// What is to be said of a group that has members written to since its last mark; `durable`: the time of the last record that is
/// here of a stream.
pub(crate) fn stalled(
    catalogue: &Catalogue,
    group: &Group,
    durable: impl Fn(StreamId) -> Option<WallTime>,
) -> Option<String> {
    let members = || group.members.iter().filter_map(|id| catalogue.volume(*id));
    let last = members().filter_map(|v| v.marks().last()).map(|mark| mark.at.at).max()?;
    let written = members().filter_map(|v| Some((durable(v.stream())?, v)));
    let (until, busy) = written.max_by_key(|(at, _)| *at)?;
    let (missed, usual) =
        (until.since(last), members().filter_map(|v| distance(v)).min().unwrap_or_default());
    if missed <= PATIENCE.max(usual * USUAL) || missed >= GIVEN_UP {
        return None;
    }
    let syncing = members().find_map(|v| Some((v.name(), cause_text(v.open_sync()?.cause))));
    let why = match syncing {
        Some((volume, sync)) => format!("{sync} of {volume} is under way, which forbids them"),
        None => {
            "the tap's log says why: a disk may be slow, or the tap was started without the group".to_owned()
        }
    };
    let (name, busy) = (&group.name, busy.name());
    Some(format!("the group {name} has no new point since {last}, though {busy} is written to: {why}"))
}

/// How far apart the last marks are, most of them.
fn distance(volume: &Volume) -> Option<Duration> {
    let times: Vec<WallTime> = volume.marks().iter().rev().take(LOOKED_AT).map(|mark| mark.at.at).collect();
    let mut apart: Vec<Duration> =
        times.iter().zip(times.iter().skip(1)).map(|(young, old)| young.since(*old)).collect();
    apart.sort_unstable();
    apart.get(apart.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use gateway_image::catalogue::{Origin, Passed};
    use tap_block::{
        Action, BarrierMark, Entry, Epoch, Lsn, MarkId, Marker, Monotonic, Position, RunId, RunStart,
        SyncCause, VolumeId,
    };

    use super::*;
    use crate::skew::Skew;

    fn at(seconds: u64) -> WallTime {
        WallTime::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn an_age_is_never_better_than_it_is_and_unknown_when_the_clock_is() {
        let mut skew = Skew::default();
        let age = |skew: &Skew, mark| age(skew.offset().into_iter(), at(1000), at(mark));
        assert_eq!(age(&skew, 990), None, "nothing was measured");
        // Ten minutes ahead, give or take 2 s.
        skew.measure(at(900), Duration::from_secs(4), at(900 + 602), Monotonic::default());
        assert_eq!(age(&skew, 1590), Some(Duration::from_secs(12)));
        assert_eq!(age(&skew, 1603), None, "the tap's clock was set back since");
    }

    struct Site(Catalogue, u64);

    impl Site {
        fn take(&mut self, stream: u64, seconds: u64, marker: Marker) {
            self.1 += 1;
            let (id, lsn) = (StreamId::new(stream), Lsn::new(self.1).unwrap());
            let (run, epoch) = (RunId::new(1), Epoch::new(1));
            let previous = Some(Passed { lsn: lsn.previous(), at: at(seconds) });
            let origin = Origin { stream: id, run, epoch, previous, received_at: at(seconds) };
            let (position, action) = (Position::record(lsn), Action::Mark(Box::new(marker)));
            self.0.apply(&origin, &Entry { position, captured_at: at(seconds), action });
        }

        fn mark(&mut self, seconds: u64) {
            let (id, group) = (MarkId::new(at(seconds).nanos()), "db".parse().unwrap());
            let mark =
                BarrierMark { id, group, members: vec![VolumeId::new(1), VolumeId::new(2)], bookmark: None };
            (1..=2).for_each(|stream| self.take(stream, seconds, Marker::Barrier(mark.clone())));
        }

        /// What is said when the first was last written to at `first`.
        fn said(&self, first: u64) -> Option<String> {
            let durable = |stream: StreamId| Some(at(if stream.get() == 1 { first } else { 0 }));
            stalled(&self.0, &Group::all(&self.0)[0], durable)
        }
    }

    #[test]
    fn a_group_that_is_written_to_and_gets_no_points_is_spoken_of() {
        let mut site = Site(Catalogue::new(), 0);
        for n in 1..=2 {
            let (volume, name) = (VolumeId::new(n), format!("v{n}").parse().unwrap());
            let (previous, durable, size, sync) = (None, Lsn::ZERO, 4096, None);
            site.take(n, 0, Marker::RunStart(RunStart { previous, durable, volume, name, size, sync }));
        }
        (1..=20).for_each(|n| site.mark(n));
        assert_eq!((site.said(20), site.said(80)), (None, None), "idle, or late");
        let said = site.said(81).unwrap();
        assert!(
            said.contains("db has no new point since 1970-01-01T00:00:20") && said.contains("v1"),
            "{said}"
        );
        site.take(2, 85, Marker::SyncStart { cause: SyncCause::Overflow });
        let said = site.said(100).unwrap();
        assert!(said.contains("queues overflowed of v2 is under way"), "{said}");
        assert_eq!(site.said(8 * 24 * 3600), None, "it was given up");
        // Of one that has a point each hour, nothing is said sooner.
        (1..=20).for_each(|n| site.mark(n * 3600));
        assert_eq!(site.said(24 * 3600), None);
        assert!(site.said(26 * 3600).is_some());
    }
}
