//! Barrier marks in a volume's stream: where each stands, and of which group.
//!
//! There may be one a second for as long as every write is kept, and a catalogue is copied with each marker it takes in; so
//! they lie in chunks that copies share.

use std::sync::Arc;

use tap_block::{BarrierMark, Lsn, MarkId, Name, VolumeId, WallTime};

use super::Passed;

/// Marks of a chunk.
const CHUNK: usize = 512;

/// A barrier's mark in one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MarkPoint {
    /// The barrier.
    pub id: MarkId,
    /// Its record here.
    pub at: Passed,
    /// When the gateway took it, on the store's own clock.
    pub received_at: WallTime,
}

/// Of which group a volume's marks are, from a record on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The first mark that says so.
    pub from: Lsn,
    /// The group.
    pub group: Name,
    /// Its members, ascending.
    pub members: Arc<[VolumeId]>,
}

/// See the module. Ascending in their LSNs.
#[derive(Debug, Clone, Default)]
pub struct Marks {
    chunks: Vec<Arc<Vec<MarkPoint>>>,
    memberships: Vec<Membership>,
}

impl PartialEq for Marks {
    fn eq(&self, other: &Self) -> bool {
        self.memberships == other.memberships && self.iter().eq(other.iter())
    }
}

impl Eq for Marks {}

impl Marks {
    /// Oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &MarkPoint> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        let last = self.chunks.last().map_or(0, |chunk| chunk.len());
        // All but the last are full.
        self.chunks.len().saturating_sub(1) * CHUNK + last
    }

    /// The one with so many before it.
    #[must_use]
    pub fn get(&self, n: usize) -> Option<&MarkPoint> {
        self.chunks.get(n / CHUNK)?.get(n % CHUNK)
    }

    /// Is there none?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// The newest.
    #[must_use]
    pub fn last(&self) -> Option<&MarkPoint> {
        self.chunks.last()?.last()
    }

    /// The one of this barrier.
    #[must_use]
    pub fn find(&self, id: MarkId) -> Option<&MarkPoint> {
        self.iter().rev().find(|mark| mark.id == id)
    }

    /// The group that the mark at `lsn` is of.
    #[must_use]
    pub fn membership_at(&self, lsn: Lsn) -> Option<&Membership> {
        self.memberships.iter().rev().find(|m| m.from <= lsn)
    }

    /// The group that the newest mark is of.
    #[must_use]
    pub fn membership(&self) -> Option<&Membership> {
        self.memberships.last()
    }

    /// The groups that its marks are of, one after the other.
    #[must_use]
    pub fn memberships(&self) -> &[Membership] {
        &self.memberships
    }

    pub(super) fn take(&mut self, at: Passed, received_at: WallTime, mark: &BarrierMark) {
        let same = |m: &Membership| m.group == mark.group && *m.members == *mark.members;
        if !self.membership().is_some_and(same) {
            let members = mark.members.as_slice().into();
            self.join(Membership { from: at.lsn, group: mark.group.clone(), members });
        }
        self.push(MarkPoint { id: mark.id, at, received_at });
    }

    pub(super) fn join(&mut self, membership: Membership) {
        self.memberships.push(membership);
    }

    /// One that is not behind all others is ignored: they come in the order of their stream.
    pub(super) fn push(&mut self, mark: MarkPoint) {
        if self.last().is_some_and(|last| mark.at.lsn <= last.at.lsn) {
            return;
        }
        match self.chunks.last_mut().filter(|chunk| chunk.len() < CHUNK) {
            Some(chunk) => Arc::make_mut(chunk).push(mark),
            None => self.chunks.push(Arc::new(vec![mark])),
        }
    }

    /// Forgets marks up to `settled` that are not `kept`.
    pub(super) fn forget(&mut self, settled: Lsn, kept: impl Fn(Lsn) -> bool) {
        let gone = |mark: &MarkPoint| mark.at.lsn <= settled && !kept(mark.at.lsn);
        if !self.iter().take_while(|mark| mark.at.lsn <= settled).any(gone) {
            return;
        }
        let left: Vec<MarkPoint> = self.iter().filter(|mark| !gone(mark)).copied().collect();
        self.chunks = left.chunks(CHUNK).map(|chunk| Arc::new(chunk.to_vec())).collect();
        let first = self.iter().next().map(|mark| mark.at.lsn);
        let counts = first.and_then(|first| self.memberships.iter().rposition(|m| m.from <= first));
        let newest = self.memberships.len().saturating_sub(1);
        self.memberships.drain(..counts.unwrap_or(newest).min(newest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(n: u64, members: &[u64]) -> (Passed, BarrierMark) {
        let (lsn, at) = (Lsn::new(n).unwrap(), WallTime::from_nanos(n * 10));
        let members = members.iter().map(|&m| VolumeId::new(m)).collect();
        let id = MarkId::new(at.nanos());
        (Passed { lsn, at }, BarrierMark { id, group: "db".parse().unwrap(), members, bookmark: None })
    }

    #[test]
    fn what_is_thinned_out_is_forgotten_and_the_rest_keeps_its_group() {
        let mut marks = Marks::default();
        for n in 1..=2000 {
            let (at, mark) = mark(n, if n <= 1500 { &[1, 2] } else { &[1, 2, 3] });
            marks.take(at, at.at, &mark);
        }
        let (again, mark) = mark(1999, &[1, 2, 3]);
        marks.take(again, again.at, &mark);
        assert_eq!((marks.iter().count(), marks.memberships().len()), (2000, 2));
        assert!(
            marks.iter().eq((0..marks.len()).map(|n| marks.get(n).unwrap())) && marks.get(2000).is_none()
        );
        let before = marks.clone();
        marks.forget(Lsn::new(1600).unwrap(), |lsn| lsn.get().is_multiple_of(100));
        assert_eq!((marks.iter().count(), marks.len()), (16 + 400, 16 + 400));
        assert!(marks.iter().is_sorted_by_key(|m| m.at.lsn));
        assert_eq!(marks.membership_at(Lsn::new(1500).unwrap()).unwrap().members.len(), 2);
        assert_eq!(marks.membership_at(Lsn::new(1600).unwrap()).unwrap().members.len(), 3);
        assert_eq!(marks.find(MarkId::new(16_000)).unwrap().at.lsn.get(), 1600);
        assert_eq!(marks.find(MarkId::new(15_990)), None);
        marks.forget(Lsn::new(1600).unwrap(), |_| false);
        assert_eq!((marks.iter().count(), marks.memberships().len()), (400, 1));
        marks.forget(Lsn::new(2000).unwrap(), |_| false);
        assert_eq!((marks.is_empty(), marks.memberships().len()), (true, 1), "its group stays known");
        assert_eq!(before.iter().count(), 2000, "who holds a copy sees what was");
    }
}
