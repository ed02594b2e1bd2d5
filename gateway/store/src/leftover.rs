//! Rows of the index that nobody looks for any more, and that are there all the same: the program ended before it had removed them, or
//! the index failed. A settle notes that it leaves some with the word that it is shown; so nobody goes through the index for nothing.

use std::sync::Arc;

use gateway_journal::{GroupNo, RegionNo, RegionRange};
use tap_block::{Lsn, StreamId, VolumeId};

use crate::index::{IndexError, IndexStore, Row, Table, first_key, keys, remove_range};
use crate::layout::Layout;
use crate::store::Shared;
use crate::sync::read;

/// The index shows this settle, and has rows of what was before it.
pub(crate) fn told(settle: u64) -> Vec<Row> {
    vec![(keys::LAYOUT.to_vec(), settle.to_be_bytes().to_vec()), (keys::OWED.to_vec(), Vec::new())]
}

/// They are gone.
pub(crate) fn forget(index: &dyn IndexStore) -> Result<(), IndexError> {
    index.remove(Table::State, vec![keys::OWED.to_vec()])
}

impl Shared {
    /// Removes what is left over, if anything is. No pass is made meanwhile.
    pub(crate) fn remove_leftovers(&self) -> Result<(), IndexError> {
        let (index, layout) = (&self.index, Arc::clone(&read(&self.published).layout));
        let shown = index.get(Table::State, keys::LAYOUT)?;
        let shown = shown.and_then(|v| v.first_chunk::<8>().map(|b| u64::from_be_bytes(*b))).unwrap_or(0);
        if shown != layout.settle {
            index.commit(told(layout.settle))?;
        } else if index.get(Table::State, keys::OWED)?.is_none() {
            return Ok(());
        }
        remove_settled(index, &layout)?;
        remove_runs(index, layout.group)?;
        for (stream, settled) in self.settled_streams(&layout) {
            let (from, to) = (keys::time(stream, Lsn::ZERO), keys::time(stream, settled));
            remove_range(index, Table::Times, from, &to)?;
        }
        remove_range(index, Table::State, keys::group(GroupNo::new(0)), &keys::group(layout.group))?;
        forget(index)
    }

    fn settled_streams(&self, layout: &Layout) -> Vec<(StreamId, Lsn)> {
        let catalogue = Arc::clone(&read(&self.published).catalogue);
        let of = |id| catalogue.volume(id).map(|volume| volume.stream());
        layout.kept.iter().filter_map(|(id, kept)| Some((of(*id)?, kept.settled))).collect()
    }
}

/// Of generations that were written again, and of the parts of others that were. Those of a later settle the next start decides about.
fn remove_settled(index: &dyn IndexStore, layout: &Layout) -> Result<(), IndexError> {
    let (mut from, to) = (keys::settled(0, VolumeId::new(0), RegionNo::new(0)), [0xff; 20]);
    while let Some(key) = first_key(index, Table::Settled, &from, &to)? {
        let settle = key.first_chunk::<8>().map_or(u64::MAX, |b| u64::from_be_bytes(*b));
        if settle > layout.settle {
            break;
        }
        for range in outside(layout, settle) {
            let key = |(volume, region)| keys::settled(settle, volume, region);
            remove_range(index, Table::Settled, key(range.first), &key(range.last))?;
        }
        from = keys::settled(settle + 1, VolumeId::new(0), RegionNo::new(0));
    }
    Ok(())
}

/// The regions of which nothing counts that this settle wrote.
fn outside(layout: &Layout, settle: u64) -> Vec<RegionRange> {
    let of_settle = layout.generations.iter().filter(|g| g.settle == settle);
    let mut ranges: Vec<RegionRange> = of_settle.map(|g| g.range).collect();
    ranges.sort_unstable_by_key(|range| range.first);
    let (mut outside, mut next) = (Vec::new(), Some(RegionRange::ALL.first));
    for range in ranges {
        let before = next.zip(RegionRange::before(range.first)).filter(|(first, last)| first <= last);
        outside.extend(before.map(|(first, last)| RegionRange { first, last }));
        next = RegionRange::after(range.last);
    }
    outside.extend(next.map(|first| RegionRange { first, ..RegionRange::ALL }));
    outside
}

/// Of groups that are settled: one look for each region, however many rows it has.
fn remove_runs(index: &dyn IndexStore, settled: GroupNo) -> Result<(), IndexError> {
    let zero = GroupNo::new(0);
    let (mut from, to) = (keys::run(VolumeId::new(0), RegionNo::new(0), zero), [0xff; 20]);
    while let Some((volume, region)) =
        first_key(index, Table::Runs, &from, &to)?.and_then(|key| keys::run_place(&key))
    {
        let last = keys::run(volume, region, settled);
        remove_range(index, Table::Runs, keys::run(volume, region, zero), &last)?;
        from = keys::behind(volume, region);
    }
    Ok(())
}
