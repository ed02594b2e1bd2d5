//! The activity log: which regions of the disk may differ from what the gateways have.
//!
//! A region is marked *durably* before its first write starts and cleared only when every record in it is
//! durable at every gateway and the local disk was flushed since. After an unclean stop the marked regions,
//! and only they, are copied again. Marks cost a sync, so a miss shortly after another marks an ever wider
//! neighbourhood: a burst of random writes over the whole disk costs a dozen syncs, not thousands.

use std::time::Duration;

use bitvec::prelude::{BitVec, Lsb0};
use tap_block::units::{count, index};
use tap_block::{Extent, Lsn, Monotonic};

/// Bits of a region map; bit `i` is region `i`.
pub type RegionMarks = BitVec<u8, Lsb0>;

/// At most this many regions per volume, so that the log stays one small write.
const MAX_REGIONS: u64 = 8192;
const SMALLEST: u64 = 1 << 20;
/// A miss this soon after the last one widens the neighbourhood that is marked.
const SOON: Duration = Duration::from_secs(1);
/// A region is cleared when nothing touched it for this long.
const QUIET: Duration = Duration::from_secs(5);

/// How a volume is cut into regions: a power of two of bytes, 1 MiB or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionSize(u64);

impl RegionSize {
    /// The size for a volume of `size` bytes.
    #[must_use]
    pub fn for_volume(size: u64) -> Self {
        Self(size.div_ceil(MAX_REGIONS).next_power_of_two().max(SMALLEST))
    }

    /// Bytes of a region.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// How many regions a volume of `size` bytes has.
    #[must_use]
    pub fn count(self, size: u64) -> usize {
        index(size.div_ceil(self.0))
    }

    /// The regions that `extent` touches.
    #[must_use]
    pub fn touched(self, extent: Extent) -> std::ops::Range<usize> {
        if extent.is_empty() {
            return 0..0;
        }
        index(extent.offset() / self.0)..index((extent.end() - 1) / self.0) + 1
    }

    /// The bytes of region `i` of a volume of `size` bytes.
    #[must_use]
    pub fn extent(self, i: usize, size: u64) -> Extent {
        let start = count(i).saturating_mul(self.0);
        Extent::between(start.min(size), start.saturating_add(self.0).min(size))
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Touch {
    last: Lsn,
    at: Monotonic,
}

/// The activity log in memory.
#[derive(Debug)]
pub(crate) struct Regions {
    region: RegionSize,
    size: u64,
    /// Marks as they should be on disk.
    wanted: RegionMarks,
    /// Marks known to be on disk and still wanted.
    durable: RegionMarks,
    touched: Vec<Touch>,
    /// The number of the newest set of marks handed out.
    generation: u64,
    /// A set is on its way to disk: its generation.
    persisting: Option<(u64, RegionMarks)>,
    /// Marks were wanted since the set on its way was made.
    stale: bool,
    last_miss: Option<Monotonic>,
    spread: usize,
}

impl Regions {
    /// Starts from the marks that are on disk. What an earlier run left marked may be on its way still: `first`, the
    /// first record of this run, comes after all of it.
    pub(crate) fn new(size: u64, mut marks: RegionMarks, first: Lsn) -> Self {
        let region = RegionSize::for_volume(size);
        marks.resize(region.count(size), false);
        Self {
            region,
            size,
            durable: marks.clone(),
            touched: vec![Touch { last: first, at: Monotonic::default() }; marks.len()],
            wanted: marks,
            generation: 0,
            persisting: None,
            stale: false,
            last_miss: None,
            spread: 1,
        }
    }

    /// The volume has this size now. Where its regions become coarser with it, each is marked in which anything was; `next` is the
    /// record that comes next.
    pub(crate) fn grow(&mut self, size: u64, next: Lsn) {
        let (before, region) = (self.region, RegionSize::for_volume(size));
        let at = |i: usize| index(count(i).saturating_mul(before.bytes()) / region.bytes());
        let mut wanted = RegionMarks::repeat(false, region.count(size));
        self.wanted.iter_ones().for_each(|i| wanted.set(at(i), true));
        // What counts as durable is on the disk in the new form only once that is written.
        let is_same = before == region;
        if is_same {
            self.durable.resize(wanted.len(), false);
        } else {
            self.durable = RegionMarks::repeat(false, wanted.len());
            self.persisting = None;
            self.stale = true;
        }
        if let Some((_, marks)) = &mut self.persisting {
            marks.resize(wanted.len(), false);
        }
        let mut touched = vec![Touch { last: next, at: Monotonic::default() }; wanted.len()];
        for (i, old) in self.touched.iter().enumerate() {
            if let Some(new) = touched.get_mut(at(i)) {
                *new = Touch { last: new.last.max(old.last), at: new.at.max(old.at) };
            }
        }
        (self.region, self.size, self.wanted, self.touched) = (region, size, wanted, touched);
    }

    /// A run begins with the record `first`: what was touched before is sound only with it.
    pub(crate) fn begin_anew(&mut self, first: Lsn) {
        self.touched.iter_mut().for_each(|touch| touch.last = first);
    }

    /// Is everything wanted on the disk?
    pub(crate) const fn is_kept(&self) -> bool {
        self.persisting.is_none() && !self.stale
    }

    /// May a write to `extent` start?
    pub(crate) fn ready(&self, extent: Extent) -> bool {
        self.region.touched(extent).all(|i| self.durable.get(i).is_some_and(|b| *b))
    }

    /// Asks for the regions of `extent` to be marked.
    pub(crate) fn want(&mut self, extent: Extent, now: Monotonic) {
        let soon = self.last_miss.is_some_and(|t| now.since(t) < SOON);
        self.spread = if soon { (self.spread * 2).min(self.wanted.len().next_power_of_two()) } else { 1 };
        self.last_miss = Some(now);
        let touched = self.region.touched(extent);
        let (start, end) = (touched.start / self.spread, touched.end.div_ceil(self.spread));
        let range = start * self.spread..(end * self.spread).min(self.wanted.len());
        if let Some(bits) = self.wanted.get_mut(range) {
            bits.fill(true);
        }
        self.stale = true;
    }

    /// Asks for the regions of `extent` to be marked, and for no neighbour.
    pub(crate) fn want_just(&mut self, extent: Extent) {
        let range = self.region.touched(Extent::between(extent.offset(), extent.end().min(self.size)));
        if let Some(bits) = self.wanted.get_mut(range) {
            bits.fill(true);
        }
        self.stale = true;
    }

    /// The marks to persist next, with their generation; `None` while a set is on its way or nothing changed.
    pub(crate) fn poll_persist(&mut self) -> Option<(u64, RegionMarks)> {
        if self.persisting.is_some() || !self.stale {
            return None;
        }
        self.stale = false;
        self.generation += 1;
        let set = (self.generation, self.wanted.clone());
        self.persisting = Some(set.clone());
        Some(set)
    }

    /// The set `generation` is durable.
    pub(crate) fn persisted(&mut self, generation: u64) {
        if let Some((g, marks)) = self.persisting.take_if(|(g, _)| *g == generation) {
            debug_assert_eq!(g, generation);
            self.durable = marks & &self.wanted;
        }
    }

    /// The set `generation` could not be made durable; it is tried again at the next poll.
    pub(crate) fn persist_failed(&mut self, generation: u64) {
        if self.persisting.take_if(|(g, _)| *g == generation).is_some() {
            self.stale = true;
        }
    }

    /// Remembers that the record `lsn` (or a copy before the record after it) changed `extent`.
    pub(crate) fn touch(&mut self, extent: Extent, lsn: Lsn, now: Monotonic) {
        for i in self.region.touched(extent) {
            if let Some(t) = self.touched.get_mut(i) {
                *t = Touch { last: t.last.max(lsn), at: now };
            }
        }
    }

    /// Clears every marked region that is safe at `sound` (durable everywhere and flushed here), quiet, and not
    /// `busy`. The cleared set goes to disk with the next [`Regions::poll_persist`].
    pub(crate) fn clear(&mut self, sound: Lsn, now: Monotonic, busy: impl Fn(Extent) -> bool) {
        let clearable: Vec<usize> = self
            .wanted
            .iter_ones()
            .filter(|&i| {
                let quiet = self.touched.get(i).is_some_and(|t| t.last <= sound && now.since(t.at) >= QUIET);
                quiet && !busy(self.region.extent(i, self.size))
            })
            .collect();
        self.stale |= !clearable.is_empty();
        for i in clearable {
            self.wanted.set(i, false);
            self.durable.set(i, false);
        }
    }

    /// Is there a region that only a flush of the local disk keeps from being cleared?
    pub(crate) fn flush_would_clear(&self, flushed: Lsn, everywhere: Lsn, now: Monotonic) -> bool {
        let waits = |t: &Touch| t.last > flushed && t.last <= everywhere && now.since(t.at) >= QUIET;
        self.wanted.iter_ones().any(|i| self.touched.get(i).is_some_and(waits))
    }

    /// The marks as they should be on disk.
    pub(crate) fn marks(&self) -> &RegionMarks {
        &self.wanted
    }

    /// How a volume of this size is cut.
    pub(crate) fn region(&self) -> RegionSize {
        self.region
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn at(i: u64) -> Extent {
        Extent::between(i * MIB, i * MIB + 4096)
    }

    fn persist(regions: &mut Regions) -> bool {
        regions.poll_persist().map(|(g, _)| regions.persisted(g)).is_some()
    }

    #[test]
    fn a_region_is_ready_only_when_its_mark_is_durable() {
        let mut r = Regions::new(64 * MIB, RegionMarks::new(), Lsn::ZERO);
        r.want(at(3), Monotonic::default());
        assert!(!r.ready(at(3)));
        let (g, marks) = r.poll_persist().unwrap();
        assert_eq!(marks.count_ones(), 1);
        assert!(!r.ready(at(3)));
        r.persisted(g);
        assert!(r.ready(at(3)) && !r.ready(at(4)));
    }

    #[test]
    fn a_burst_of_misses_costs_few_syncs() {
        let mut r = Regions::new(8192 * MIB, RegionMarks::new(), Lsn::ZERO);
        let mut syncs = 0;
        for i in 0..100_000u64 {
            let extent = at(i.wrapping_mul(2_654_435_761) % 8192);
            if !r.ready(extent) {
                r.want(extent, Monotonic::from_nanos(i * 10_000));
                syncs += u32::from(persist(&mut r));
            }
        }
        assert!(syncs <= 16, "{syncs} syncs");
    }

    #[test]
    fn a_mark_wanted_while_its_clearing_is_on_the_way_waits_for_its_own_sync() {
        let mut r = Regions::new(64 * MIB, RegionMarks::new(), Lsn::ZERO);
        r.want(at(0), Monotonic::default());
        assert!(persist(&mut r));
        let later = Monotonic::default().plus(QUIET);
        r.clear(Lsn::ZERO, later, |_| false);
        let (clearing, _) = r.poll_persist().unwrap();
        r.want(at(0), later);
        assert!(r.poll_persist().is_none(), "one at a time");
        r.persisted(clearing);
        assert!(!r.ready(at(0)), "the disk says cleared");
        assert!(persist(&mut r) && r.ready(at(0)));
    }

    #[test]
    fn marks_of_an_earlier_run_stay_until_this_run_is_durable() {
        let first = Lsn::ZERO.plus(100);
        let mut r = Regions::new(64 * MIB, RegionMarks::repeat(true, 1), first);
        let later = Monotonic::default().plus(QUIET);
        r.clear(first.previous(), later, |_| false);
        assert!(r.marks().any());
        r.clear(first, later, |_| false);
        assert!(r.marks().not_any());
    }

    #[test]
    fn a_volume_that_grows_keeps_its_marks_and_coarser_regions_wait_for_a_sync() {
        let mut r = Regions::new(64 * MIB, RegionMarks::new(), Lsn::ZERO);
        r.want(at(3), Monotonic::default());
        assert!(persist(&mut r) && r.is_kept());
        let next = Lsn::ZERO.plus(9);
        r.grow(96 * MIB + 1, next);
        assert!(r.ready(at(3)) && r.is_kept() && r.marks().len() == 97);
        r.want(at(96), Monotonic::default());
        let (old, marks) = r.poll_persist().unwrap();
        assert_eq!(marks.iter_ones().collect::<Vec<_>>(), [3, 96]);
        r.grow(32 << 30, next);
        assert_eq!(r.region().bytes(), 4 * MIB);
        assert_eq!(r.marks().iter_ones().collect::<Vec<_>>(), [0, 24]);
        r.persisted(old);
        assert!(!r.ready(at(3)), "the old form is on the disk");
        assert!(persist(&mut r) && r.ready(at(3)) && r.ready(at(96)) && r.is_kept());
        r.clear(next.previous(), Monotonic::default().plus(QUIET), |_| false);
        assert!(r.marks().any(), "what was written before it grew may be on its way");
    }

    #[test]
    fn a_flush_is_asked_for_only_when_it_helps() {
        let mut r = Regions::new(64 * MIB, RegionMarks::new(), Lsn::ZERO);
        r.want(at(0), Monotonic::default());
        assert!(persist(&mut r));
        let (lsn, quiet) = (Lsn::ZERO.plus(9), Monotonic::default().plus(QUIET));
        r.touch(at(0), lsn, Monotonic::default());
        assert!(r.flush_would_clear(Lsn::ZERO, lsn, quiet));
        assert!(!r.flush_would_clear(lsn, lsn, quiet), "flushed already");
        assert!(!r.flush_would_clear(Lsn::ZERO, lsn.previous(), quiet), "not durable everywhere");
        assert!(!r.flush_would_clear(Lsn::ZERO, lsn, Monotonic::default()), "still in use");
    }

    #[test]
    fn nothing_unsound_busy_or_recent_is_cleared() {
        let mut r = Regions::new(64 * MIB, RegionMarks::new(), Lsn::ZERO);
        r.want(Extent::between(0, 4 * MIB), Monotonic::default());
        assert!(persist(&mut r));
        let (lsn, now) = (Lsn::ZERO.plus(9), Monotonic::default().plus(QUIET));
        r.touch(at(1), lsn, Monotonic::default());
        r.touch(at(2), Lsn::ZERO, now);
        r.clear(lsn.previous(), now, |e| e.overlaps(at(3)));
        assert_eq!(r.marks().iter_ones().collect::<Vec<_>>(), [1, 2, 3]);
    }
}
