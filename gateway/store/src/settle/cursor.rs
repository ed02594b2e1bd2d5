//! Going through what a pass takes on, region by region: versions of the log's window, and rows of the generations that are
//! rewritten. No unit is read.

use std::collections::VecDeque;
use std::iter::Peekable;
use std::vec::IntoIter;

use gateway_journal::run::decode_run;
use gateway_journal::{Generation, RegionNo, RegionPlace, RegionRange, Version};
use tap_block::VolumeId;

use super::plan::Plan;
use super::trail::Window;
use crate::error::StoreError;
use crate::index::{IndexError, IndexStore, Row, Table, keys};
use crate::store::Shared;

/// See the module.
pub(super) struct Regions<'a> {
    fresh: Peekable<IntoIter<(VolumeId, RegionNo, &'a [Version])>>,
    old: Vec<Cursor<'a>>,
}

impl<'a> Regions<'a> {
    pub(super) fn new(shared: &'a Shared, plan: &Plan, window: &'a Window) -> Self {
        let old = plan.merged.iter().filter_map(|g| Cursor::new(&shared.index, g, plan.range)).collect();
        Self { fresh: window.versions.sorted().into_iter().peekable(), old }
    }

    /// The next region and its versions in the order of delivery: the oldest generation's first, the log's last.
    pub(super) fn step(&mut self) -> Result<Option<(RegionPlace, Vec<Version>)>, StoreError> {
        let mut next = self.fresh.peek().map(|(volume, region, _)| (*volume, *region));
        for cursor in &mut self.old {
            next = [next, cursor.place()?].into_iter().flatten().min();
        }
        let Some(place) = next else { return Ok(None) };
        let mut versions = Vec::new();
        for cursor in &mut self.old {
            cursor.take(place, &mut versions)?;
        }
        if let Some((_, _, more)) = self.fresh.next_if(|(v, r, _)| (*v, *r) == place) {
            versions.extend_from_slice(more);
        }
        Ok(Some((place, versions)))
    }
}

/// Walks a generation's rows.
struct Cursor<'a> {
    index: &'a dyn IndexStore,
    from: Vec<u8>,
    to: Vec<u8>,
    rows: VecDeque<Row>,
    over: bool,
}

impl<'a> Cursor<'a> {
    const PAGE: usize = 64;

    /// Over what counts of a generation within `range`; `None` when that is nothing.
    fn new(index: &'a dyn IndexStore, generation: &Generation, range: RegionRange) -> Option<Self> {
        let (first, last) = (generation.range.first.max(range.first), generation.range.last.min(range.last));
        let key = |(volume, region)| keys::settled(generation.settle, volume, region);
        let (from, to) = (key(first), key(last));
        (first <= last).then(|| Self { index, from, to, rows: VecDeque::new(), over: false })
    }

    fn place(&mut self) -> Result<Option<(VolumeId, RegionNo)>, IndexError> {
        if self.rows.is_empty() && !self.over {
            self.fill()?;
        }
        Ok(self.rows.front().and_then(|(key, _)| keys::settled_place(key)))
    }

    fn fill(&mut self) -> Result<(), IndexError> {
        let rows = &mut self.rows;
        self.index.scan(Table::Settled, &self.from, &self.to, &mut |key, value| {
            rows.push_back((key.to_vec(), value.to_vec()));
            rows.len() < Self::PAGE
        })?;
        match self.rows.back() {
            Some((key, _)) => {
                self.from.clone_from(key);
                // The key after it.
                self.from.push(0);
            }
            None => self.over = true,
        }
        Ok(())
    }

    fn take(&mut self, place: (VolumeId, RegionNo), into: &mut Vec<Version>) -> Result<(), StoreError> {
        if self.place()? == Some(place)
            && let Some((_, run)) = self.rows.pop_front()
        {
            decode_run(&run, |v| into.push(v)).map_err(|e| StoreError::Index(e.to_string()))?;
        }
        Ok(())
    }
}
