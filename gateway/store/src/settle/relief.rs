//! Making full volumes smaller: the settled history of one that presses against its limit is gone through on its own, thinned
//! sooner at first, and then without its oldest points, until it fits or nothing more may go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gateway_journal::{KeptPoint, RegionNo, RegionPlace, RegionRange};
use tap_block::{VolumeId, WallTime};

use super::blocked::Wait;
use super::keep::{Strain, Terms, thinned};
use super::plan::Plan;
use super::{Pressure, SettleReport, Settler};
use crate::error::StoreError;
use crate::store::Shared;
use crate::sync::{read, write};

/// A share of a volume's points that is worth going through its settled history for.
const WORTH: usize = 8;

impl Settler {
    /// The terms as of now. What a volume was asked to give up is forgotten when it is full no longer.
    pub(super) fn terms(&mut self, shared: &Shared, pressure: Pressure) -> Terms {
        let strained = read(&shared.limits).strained();
        self.floors.retain(|volume, _| strained.get(volume) == Some(&Pressure::Purge));
        let strain = |(volume, pressure): (VolumeId, Pressure)| {
            (volume, Strain { pressure, floor: self.floors.get(&volume).copied(), bookmarks: None })
        };
        let own: BTreeMap<VolumeId, Strain> = strained.into_iter().map(strain).collect();
        let strain = Strain { pressure, floor: self.floor, bookmarks: self.bookmarks };
        let strained = pressure > Pressure::None || !own.is_empty();
        // One look at the clock: else a mark may be too old for one of the two and too young for the other.
        let now = shared.age.now();
        let marks = Arc::new(shared.common_marks(now, strained));
        Terms { now, strain, own, marks }
    }

    /// Goes on through the settled history of a full volume, or begins to; `None` when that would change nothing.
    pub(super) fn relieve(
        &mut self,
        shared: &Shared,
        mut terms: Terms,
    ) -> Result<Option<SettleReport>, StoreError> {
        let (from, floor) = match self.own_cycle {
            Some(from) => (from, None),
            None => match self.find_full(shared, &mut terms) {
                Some((volume, floor)) => ((volume, RegionNo::new(0)), floor),
                None => return Ok(None),
            },
        };
        let own = terms.own.get(&from.0).map_or(Pressure::None, |strain| strain.pressure);
        let wait = Wait::under(own.max(terms.strain.pressure));
        let Some(plan) = Plan::compaction(shared, volume_from(from), wait) else {
            // No point goes for room that nothing would give.
            self.own_cycle = None;
            return Ok(None);
        };
        self.floors.extend(floor.map(|floor| (from.0, floor)));
        let begins = self.own_cycle.is_none();
        let report = self.pass(shared, plan, terms)?;
        if begins {
            // What goes from here on is found the next time.
            self.dropped.remove(&from.0);
            self.relieved = Some(from.0);
        }
        self.log_last = false;
        Ok(Some(report))
    }

    /// A volume of which something may go, and what it is asked to give up.
    fn find_full(&self, shared: &Shared, terms: &mut Terms) -> Option<(VolumeId, Option<WallTime>)> {
        let mut full: Vec<(VolumeId, Strain)> = terms.own.iter().map(|(v, s)| (*v, *s)).collect();
        // Each in its turn.
        full.sort_by_key(|(volume, _)| Some(*volume) <= self.relieved);
        for (volume, strain) in full {
            let found = self.find_floor(shared, terms, volume, strain);
            let full = strain.pressure == Pressure::Purge;
            let stuck = full && found.is_none() && !waits_in_log(shared, volume);
            write(&shared.limits).set_stuck(volume, stuck);
            if let Some(floor) = found {
                return Some((volume, floor));
            }
        }
        None
    }

    /// What a volume has to give up so that going through its settled history is worth it; `None` when nothing is.
    fn find_floor(
        &self,
        shared: &Shared,
        terms: &mut Terms,
        volume: VolumeId,
        strain: Strain,
    ) -> Option<Option<WallTime>> {
        let points = self.points_of(shared, volume)?;
        let worth = (points.len() / WORTH).max(1);
        let mut gone = |floor| {
            terms.own.insert(volume, Strain { floor, ..strain });
            self.gone_of(shared, terms, volume)
        };
        if gone(strain.floor) >= worth {
            return Some(strain.floor);
        }
        let (mut found, now) = (None, shared.age.now());
        if strain.pressure == Pressure::Purge {
            let oldest = strain.floor.max(points.first().map(|p| p.received_at)).unwrap_or(now);
            let excess = read(&shared.limits).excess(volume).clamp(100, 1000);
            let mut floor = oldest.plus(share(now.since(oldest), excess));
            while gone(Some(floor)) < worth && now.since(floor) >= Duration::from_secs(1) {
                floor = floor.plus(now.since(floor) / 4);
            }
            found = (gone(Some(floor)) > 0).then_some(Some(floor));
        }
        if found.is_none() {
            terms.own.insert(volume, strain);
        }
        found
    }

    /// The settled points of a volume; `None` when none of its history is settled.
    fn points_of(&self, shared: &Shared, volume: VolumeId) -> Option<Vec<KeptPoint>> {
        let layout = Arc::clone(&read(&shared.published).layout);
        layout.shares.get(&volume)?;
        layout.kept.get(&volume).map(|kept| kept.points.clone())
    }

    /// Settled points of a volume that go, or went since its settled history was last gone through.
    fn gone_of(&self, shared: &Shared, terms: &Terms, volume: VolumeId) -> usize {
        let (catalogue, layout) = {
            let published = read(&shared.published);
            (Arc::clone(&published.catalogue), Arc::clone(&published.layout))
        };
        let Some((known, kept)) = catalogue.volume(volume).zip(layout.kept.get(&volume)) else { return 0 };
        let left = thinned(&catalogue, known, kept, &[], shared.points.open_of(volume), terms);
        let went = self.dropped.get(&volume).filter(|_| read(&shared.limits).is_worth_tidying(volume));
        let went = went.copied().unwrap_or(0);
        went + kept.points.len().saturating_sub(left.points.len())
    }
}

/// What is left of a volume's regions from one on.
const fn volume_from(from: RegionPlace) -> RegionRange {
    RegionRange { first: from, last: (from.0, RegionNo::new(u32::MAX)) }
}

/// Does the log hold something of the volume that is to be settled?
fn waits_in_log(shared: &Shared, volume: VolumeId) -> bool {
    let (stream, usage) = {
        let published = read(&shared.published);
        (published.catalogue.volume(volume).map(|v| v.stream()), published.usage())
    };
    let worth = stream.and_then(|stream| read(&shared.limits).worth_settling(stream));
    let log = usage.get(&volume).map_or(0, |bytes| bytes.log);
    worth.is_some_and(|worth| log >= worth)
}

/// So many thousandths of a time.
fn share(of: Duration, thousandths: u64) -> Duration {
    let nanos = of.as_nanos() * u128::from(thousandths) / 1000;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
