//! What a pass lets go though policies would keep it: what goes for want of room is remembered beside what is left, so that whoever
//! asks for it is told the truth.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gateway_image::Catalogue;
use gateway_image::catalogue::Volume;
use gateway_journal::{Kept, KeptPoint, Shortage, Went};
use tap_block::units::count;
use tap_block::{Lsn, VolumeId};

use super::keep::{Terms, thinned};

/// Of each volume.
pub(super) type Shortages = BTreeMap<VolumeId, Vec<Shortage>>;

/// So many are told apart of a volume: beyond that the oldest of a kind are told together.
const MOST: usize = 12;
/// What follows within so long is told as one.
const TOGETHER: Duration = Duration::from_secs(3600);
/// One takes no more bytes of a manifest: eight numbers, with their tags.
const BYTES: u64 = 72;

/// The points that went of those `before` and the fresh ones, and that the volume's policy would have kept.
pub(super) fn went(
    catalogue: &Catalogue,
    volume: &Volume,
    (before, fresh): (&Kept, &[KeptPoint]),
    left: &Kept,
    open: BTreeSet<Lsn>,
    terms: &Terms,
) -> Vec<Shortage> {
    let policy = catalogue.rules().policy_of(volume.id());
    let Some(of) = terms.short_of(volume.id(), &policy) else { return Vec::new() };
    let (_, floor) = terms.of(volume.id(), policy);
    let wanted = thinned(catalogue, volume, before, fresh, open, &terms.at_ease());
    let mut gone = wanted.points.iter().filter(|p| left.listed(p.lsn).is_none()).peekable();
    if gone.peek().is_none() {
        return Vec::new();
    }
    let bookmarks: BTreeSet<Lsn> = volume.bookmark_lsns().collect();
    let one = |point: &KeptPoint| {
        let went = match floor.is_some_and(|floor| point.received_at < floor) {
            _ if bookmarks.contains(&point.lsn) => Went::Bookmarks,
            true => Went::Oldest,
            false => Went::Thinned,
        };
        let (first, last, points) = (point.first(), point.lsn, u64::from(point.before) + 1);
        Shortage { went, of, first, last, points, since: terms.now, until: terms.now }
    };
    let mut told: BTreeMap<Went, Shortage> = BTreeMap::new();
    for shortage in gone.map(one) {
        let known = told.entry(shortage.went);
        known.and_modify(|k| *k = k.joined(&shortage).unwrap_or(*k)).or_insert(shortage);
    }
    told.into_values().collect()
}

/// Adds what went now to what is known.
pub(super) fn remember(known: &mut Shortages, volume: VolumeId, went: Vec<Shortage>) {
    let all = known.entry(volume).or_default();
    for shortage in went {
        let near = |k: &Shortage| shortage.since.since(k.until) <= TOGETHER;
        let joined = |(n, k): (usize, &Shortage)| Some((n, k.joined(&shortage).filter(|_| near(k))?));
        match all.iter().enumerate().rev().find_map(joined) {
            Some((n, one)) => all.splice(n..=n, [one]).for_each(drop),
            None => all.push(shortage),
        }
    }
    while all.len() > MOST && join_oldest(all) {}
    if all.is_empty() {
        known.remove(&volume);
    }
}

/// Of all that follow one of their kind the oldest, with that one; there are fewer kinds than [`MOST`].
fn join_oldest(all: &mut Vec<Shortage>) -> bool {
    let follows = |(m, later): (usize, &Shortage)| {
        let before = all.iter().take(m).enumerate();
        let (n, joined) = before.rev().find_map(|(n, k)| Some((n, k.joined(later)?)))?;
        Some((later.until, n, m, joined))
    };
    let oldest = all.iter().enumerate().filter_map(follows).min_by_key(|(until, ..)| *until);
    let Some((_, n, m, joined)) = oldest else { return false };
    all.remove(m);
    all.splice(n..=n, [joined]).for_each(drop);
    true
}

/// Bytes that they take of a manifest, at most.
pub(super) fn bytes(all: &Shortages) -> u64 {
    all.values().map(|of| count(of.len())).sum::<u64>().saturating_mul(BYTES)
}

#[cfg(test)]
mod tests {
    use gateway_journal::ShortOf;
    use tap_block::WallTime;

    use super::*;

    fn shortage(went: Went, hour: u64, first: u64) -> Shortage {
        let (at, lsn) = (WallTime::from_nanos(0).plus(TOGETHER * u32::try_from(hour).unwrap()), Lsn::new);
        let (first, last) = (lsn(first).unwrap(), lsn(first + 9).unwrap());
        Shortage { went, of: ShortOf::Journal, first, last, points: 10, since: at, until: at }
    }

    #[test]
    fn what_goes_again_and_again_is_told_together_and_what_goes_much_later_apart() {
        let (mut known, volume) = (Shortages::new(), VolumeId::new(1));
        for n in 0..1000 {
            remember(&mut known, volume, vec![shortage(Went::Thinned, n, 10 * n + 10)]);
        }
        let whole = known[&volume][0];
        assert_eq!((known[&volume].len(), whole.first.get(), whole.last.get()), (1, 10, 10_009));
        assert_eq!((whole.points, whole.until.since(whole.since)), (10_000, TOGETHER * 999));
        for n in 0..1000 {
            let kinds = [Went::Thinned, Went::Oldest, Went::Bookmarks];
            let went = kinds.map(|went| shortage(went, 2000 + 2 * n, 10_000 + 10 * n));
            remember(&mut known, volume, went.to_vec());
        }
        let all = &known[&volume];
        assert_eq!(all.len(), MOST);
        assert_eq!(all.iter().map(|s| s.points).sum::<u64>(), 40_000, "none is forgotten");
        let newest = all.iter().filter(|s| s.until == shortage(Went::Oldest, 3998, 1).until);
        assert_eq!(newest.clone().count(), 3);
        assert!(newest.clone().all(|s| s.points == 10), "the newest are told apart: {all:?}");
        assert!(u64::try_from(MOST).unwrap() * BYTES >= bytes(&known));
    }
}
