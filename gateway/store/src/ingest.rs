//! Bringing closed groups of versions into the index, off the way of commits.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use gateway_image::RegionMapBuilder;
use gateway_journal::run::{encode_checkpoint, encode_run};
use gateway_journal::{GroupNo, RegionNo, Version};
use tap_block::units::count;
use tap_block::{Lsn, VolumeId};
use tracing::warn;

use crate::index::{IndexError, IndexStore, Row, Table, keys};
use crate::layout::{Gather, Layout};
use crate::names::NameRows;
use crate::segments::Segments;
use crate::state;
use crate::store::Shared;
use crate::sync::{lock, read, wait, wait_for, write};
use crate::tail::{Frozen, Group};

/// What the commit thread and the index thread tell each other.
#[derive(Debug, Default)]
pub(crate) struct IngestState {
    /// Why the last attempt failed.
    pub(crate) failing: Option<IndexError>,
    /// No more groups come.
    pub(crate) stopped: bool,
}

/// How many versions (and runs, each counted as [`RUN_WEIGHT`]) a region has gathered since its last
/// checkpoint. Regions of an older life of the process are looked up when they are touched.
#[derive(Debug, Default)]
pub(crate) struct Weights {
    known: HashMap<(VolumeId, RegionNo), u32>,
    /// The index was empty when this began: what is not known is nothing.
    complete: bool,
}

/// A run is a row to be found and read, about as dear as so many versions.
const RUN_WEIGHT: u32 = 16;

impl Weights {
    pub(crate) fn new(complete: bool) -> Self {
        Self { known: HashMap::new(), complete }
    }
}

/// What is known of what the index was brought.
#[derive(Debug, Default)]
pub(crate) struct Brought {
    pub(crate) weights: Weights,
    pub(crate) names: NameRows,
}

pub(crate) struct Ingester {
    shared: Arc<Shared>,
    brought: Brought,
}

impl Ingester {
    pub(crate) const fn new(shared: Arc<Shared>, brought: Brought) -> Self {
        Self { shared, brought }
    }

    /// Works until it is stopped, and then brings in what is left, if that is wanted and the index takes it: else it is found
    /// again in the journal.
    pub(crate) fn run(mut self) {
        while let Some(frozen) = self.next() {
            let Err(e) = self.bring_in(&frozen) else { continue };
            self.failed(&e);
            if lock(&self.shared.ingest).stopped {
                return;
            }
        }
    }

    fn next(&self) -> Option<Arc<Frozen>> {
        let mut state = lock(&self.shared.ingest);
        loop {
            if state.stopped && !self.shared.config.index_at_stop {
                return None;
            }
            if let Some(frozen) = read(&self.shared.published).frozen.front() {
                return Some(Arc::clone(frozen));
            }
            if state.stopped {
                return None;
            }
            state = match self.shared.index.is_ill() {
                false => wait(&self.shared.ingest_changed, state),
                true => self.mend_after_a_while(state),
            };
        }
    }

    /// Nothing is to be brought in, but it could not be: others who write to the index may have to wait for it.
    fn mend_after_a_while<'a>(&'a self, state: MutexGuard<'a, IngestState>) -> MutexGuard<'a, IngestState> {
        let state = wait_for(&self.shared.ingest_changed, state, AGAIN);
        let is_stopped = state.stopped;
        drop(state);
        if !is_stopped {
            self.shared.mend_index();
        }
        lock(&self.shared.ingest)
    }

    fn bring_in(&mut self, frozen: &Frozen) -> Result<(), IndexError> {
        let shared = &self.shared;
        shared.index.mend()?;
        // A settle that ended in between would take away what a checkpoint is being made of.
        let _turn = lock(&shared.index_turn);
        let into = Into {
            index: &shared.index,
            layout: &Arc::clone(&read(&shared.published).layout),
            segments: &shared.segments,
            checkpoint_at: shared.config.checkpoint_versions,
        };
        ingest(&into, frozen, &mut self.brought)?;
        self.publish(frozen);
        Ok(())
    }

    fn publish(&self, frozen: &Frozen) {
        {
            let mut published = write(&self.shared.published);
            published.frozen.pop_front();
            published.ingested.push(frozen.info());
        }
        lock(&self.shared.ingest).failing = None;
        self.shared.ingest_changed.notify_all();
    }

    fn failed(&self, e: &IndexError) {
        let mut state = lock(&self.shared.ingest);
        if state.failing.is_none() {
            warn!("the index took no versions, they are offered to it each second: {e}");
        }
        state.failing = Some(e.clone());
        self.shared.ingest_changed.notify_all();
        if !state.stopped {
            drop(wait_for(&self.shared.ingest_changed, state, AGAIN));
        }
    }
}

/// When what failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Where versions are brought in.
pub(crate) struct Into<'a> {
    pub(crate) index: &'a dyn IndexStore,
    pub(crate) layout: &'a Layout,
    pub(crate) segments: &'a Segments,
    /// A region gets a checkpoint when it has gathered so many versions.
    pub(crate) checkpoint_at: u32,
}

/// Brings one group in: the rows first, then, in one durable batch, the word that they are there. Doing it again
/// after a crash in between changes nothing. Checkpoints come last: a group whose word is not there may go further in the next life,
/// and what it holds then a checkpoint of the first would hide. Of which group they are is noted before the rows, and with the
/// checkpoints: a state that was set back is told by that (`recover/set_back.rs`).
pub(crate) fn ingest(into: &Into<'_>, frozen: &Frozen, brought: &mut Brought) -> Result<(), IndexError> {
    let (index, group) = (into.index, &frozen.group);
    let (mut runs, mut maps) = (Vec::new(), Vec::new());
    for (volume, region, versions) in group.sorted() {
        let mut run = Vec::new();
        encode_run(versions, &mut run);
        runs.push((keys::run(volume, region, group.no), run));
        let gather = Gather { index, layout: into.layout, segments: into.segments, volume, region };
        maps.extend(Region { gather, group: group.no }.weigh(
            versions,
            &mut brought.weights,
            into.checkpoint_at,
        )?);
    }
    index.ingest(Table::Times, times_of(group))?;
    index.ingest(Table::Runs, runs)?;
    let info = frozen.info();
    let names = brought.names.step(index, &frozen.catalogue)?;
    let mut rows = vec![
        (keys::group(group.no), state::encode_group(&info)),
        (keys::STATE.to_vec(), state::encode_beside_names(frozen, names.tally())),
    ];
    let (named, gone, after) = names.parts();
    rows.extend(named);
    index.replace(rows, gone)?;
    brought.names = after;
    if maps.is_empty() {
        return Ok(());
    }
    maps.insert(0, keys::newest(group.no));
    index.ingest(Table::Maps, maps)
}

/// The rows of a group's times, behind the word that it is begun.
fn times_of(group: &Group) -> Vec<Row> {
    let begun = keys::newest(group.no);
    let times = group.rows.iter().map(|(s, row)| (keys::time(*s, row.lsn), row.encode()));
    let mut rows: Vec<Row> = std::iter::once(begun).chain(times).collect();
    rows.sort_unstable();
    rows.dedup_by(|a, b| a.0 == b.0);
    rows
}

/// A region and the group that is being brought in.
struct Region<'a> {
    gather: Gather<'a>,
    group: GroupNo,
}

impl Region<'_> {
    /// Counts `versions`; a checkpoint when the region has gathered enough.
    fn weigh(
        &self,
        versions: &[Version],
        weights: &mut Weights,
        limit: u32,
    ) -> Result<Option<Row>, IndexError> {
        let key = (self.gather.volume, self.gather.region);
        let before = match weights.known.get(&key) {
            Some(&weight) => weight,
            None if weights.complete => 0,
            None => self.gathered()?,
        };
        let weight = before.saturating_add(weight_of(count(versions.len())));
        if weight < limit {
            weights.known.insert(key, weight);
            return Ok(None);
        }
        weights.known.insert(key, 0);
        self.checkpoint(versions).map(Some)
    }

    fn last(&self) -> GroupNo {
        GroupNo::new(self.group.get().saturating_sub(1))
    }

    /// What the index holds of the region since its last checkpoint.
    fn gathered(&self) -> Result<u32, IndexError> {
        let mut weight = 0u32;
        self.gather.runs(self.gather.checkpointed()?, self.last(), &mut |value| {
            // A run's count stands behind its form.
            let n = value.get(4..8).and_then(|b| b.first_chunk::<4>()).map_or(0, |b| u32::from_le_bytes(*b));
            weight = weight.saturating_add(weight_of(u64::from(n)));
            Ok(())
        })?;
        Ok(weight)
    }

    /// The region's map after this group.
    fn checkpoint(&self, versions: &[Version]) -> Result<Row, IndexError> {
        let everything = Lsn::ZERO.plus(Lsn::LIMIT);
        let mut builder = RegionMapBuilder::new(everything);
        let mut point = Lsn::ZERO;
        let mut apply = |v: &Version| {
            point = point.max(v.position.lsn());
            builder.apply(v);
        };
        let base = self.gather.versions(everything, Some(self.last()), &mut apply)?;
        versions.iter().for_each(&mut apply);
        let point = point.max(base);
        let mut value = Vec::new();
        encode_checkpoint(self.group, &builder.versions(), &mut value);
        Ok((keys::map(self.gather.volume, self.gather.region, point), value))
    }
}

fn weight_of(versions: u64) -> u32 {
    u32::try_from(versions).unwrap_or(u32::MAX).saturating_add(RUN_WEIGHT)
}
