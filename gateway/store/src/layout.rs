//! What is settled, as readers see it, and where the index keeps a region's versions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gateway_image::catalogue::Volume;
use gateway_journal::run::{decode_checkpoint, decode_run};
use gateway_journal::{Generation, GroupNo, Kept, Manifest, Place, RegionNo, SegmentId, Shortage, Version};
use tap_block::{Lsn, VolumeId, WallTime};

use crate::error::StoreError;
use crate::index::{IndexError, IndexStore, Table, first_key, keys};
use crate::segments::Segments;
use crate::settle::{Trail, apart};
use crate::store::Store;
use crate::sync::read;

/// The settled part of history: one manifest's word on it. Replaced as a whole, never changed.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    /// The settle that made it; 0 for none.
    pub(crate) settle: u64,
    /// The index's last group that is settled.
    pub(crate) group: GroupNo,
    /// Oldest history first.
    pub(crate) generations: Vec<Generation>,
    pub(crate) kept: BTreeMap<VolumeId, Kept>,
    /// What of it went for want of room, oldest first.
    pub(crate) short: BTreeMap<VolumeId, Vec<Shortage>>,
    /// Bytes that each volume takes of settled segments.
    pub(crate) shares: BTreeMap<VolumeId, u64>,
    /// What was known where the log goes on.
    pub(crate) trail: Arc<Trail>,
    /// Volumes of which not every point that is held is listed on its own, and how far apart the times are that are listed.
    pub(crate) coarse: BTreeMap<VolumeId, Duration>,
    /// The manifest lies in no segment any more: its copy is all that is left of it, until the next settle.
    pub(crate) copy_only: bool,
    /// Regions of which not all is known, because their frames are damaged and the index had to be built from them.
    pub(crate) lost: Vec<Lost>,
}

/// Regions from the first to the last, of which something in a generation is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) settle: u64,
    pub(crate) from: (VolumeId, RegionNo),
    pub(crate) to: (VolumeId, RegionNo),
    /// Of a volume: how far it was settled when that was found. A copy of the whole disk made since hides all of it. `None`: an
    /// earlier program did not note it.
    pub(crate) since: Option<Lsn>,
}

impl Lost {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let place = |(volume, region): (VolumeId, RegionNo)| {
            [&volume.get().to_be_bytes()[..], &region.get().to_be_bytes()[..]].concat()
        };
        let since = self.since.map_or(Vec::new(), |lsn| lsn.get().to_be_bytes().to_vec());
        [self.settle.to_be_bytes().to_vec(), place(self.from), place(self.to), since].concat()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (settle, rest) = bytes.split_first_chunk::<8>()?;
        let place = |bytes: &[u8]| {
            let (volume, region) = bytes.split_first_chunk::<8>()?;
            let region = RegionNo::new(u32::from_be_bytes(*region.first_chunk::<4>()?));
            Some((VolumeId::new(u64::from_be_bytes(*volume)), region))
        };
        let (from, rest) = rest.split_at_checked(12)?;
        let (to, since) = rest.split_at_checked(12)?;
        let since = since.first_chunk::<8>().and_then(|lsn| Lsn::new(u64::from_be_bytes(*lsn)));
        Some(Self { settle: u64::from_be_bytes(*settle), from: place(from)?, to: place(to)?, since })
    }

    /// The part of it that each of these volumes has, with how far that was settled when the generation was written: the points
    /// that came later say so, however often the index is built.
    pub(crate) fn by_volume<'a>(
        &self,
        volumes: impl Iterator<Item = &'a (VolumeId, Kept)>,
        written: WallTime,
    ) -> impl Iterator<Item = Self> {
        let (first, last) = (RegionNo::new(0), RegionNo::new(u32::MAX));
        let of = |(volume, kept): &(VolumeId, Kept)| {
            let (from, to) = (self.from.max((*volume, first)), self.to.min((*volume, last)));
            let later = kept.points.iter().find(|p| written > WallTime::EPOCH && p.received_at > written);
            let since = Some(later.map_or(kept.settled, |p| p.lsn.previous()));
            (from <= to).then_some(Self { settle: self.settle, from, to, since })
        };
        volumes.filter_map(of).collect::<Vec<_>>().into_iter()
    }
}

impl Layout {
    pub(crate) fn of(manifest: &Manifest, trail: Trail) -> Self {
        Self {
            settle: manifest.settle,
            group: manifest.group,
            generations: manifest.generations.clone(),
            kept: manifest.kept.iter().cloned().collect(),
            short: manifest.short.iter().fold(BTreeMap::new(), |mut all, (volume, shortage)| {
                all.entry(*volume).or_insert_with(Vec::new).push(*shortage);
                all
            }),
            shares: Generation::bytes_by_volume(&manifest.generations),
            trail: Arc::new(trail),
            coarse: manifest.kept.iter().filter_map(|(id, kept)| Some((*id, apart(kept)?))).collect(),
            copy_only: false,
            lost: Vec::new(),
        }
    }

    /// The same, with what is known to be lost of its generations.
    pub(crate) fn losing(mut self, lost: &[Lost]) -> Self {
        let here = |lost: &&Lost| self.generations.iter().any(|g| g.settle == lost.settle);
        self.lost = lost.iter().filter(here).copied().collect();
        self
    }

    /// Is something of this region's settled history missing? The first record that shows nothing of it if a copy of the whole disk
    /// was made since.
    pub(crate) fn lost(&self, volume: VolumeId, region: RegionNo) -> Option<Lsn> {
        let place = (volume, region);
        let counts = |settle| self.generations.iter().any(|g| g.settle == settle && g.range.holds(place));
        let here = |lost: &&Lost| lost.from <= place && place <= lost.to && counts(lost.settle);
        self.lost.iter().filter(here).map(|lost| self.behind(lost, volume)).max()
    }

    /// The same for anything of a volume.
    pub(crate) fn lost_of(&self, volume: VolumeId) -> Option<Lsn> {
        let here = |lost: &&Lost| lost.from.0 <= volume && volume <= lost.to.0;
        self.lost.iter().filter(here).map(|lost| self.behind(lost, volume)).max()
    }

    fn behind(&self, lost: &Lost, volume: VolumeId) -> Lsn {
        let settled = || self.kept.get(&volume).map_or(Lsn::ZERO, |kept| kept.settled);
        lost.since.unwrap_or_else(settled).next()
    }

    /// Is it a segment of settled history? Its number may lie between two of the log.
    pub(crate) fn lists(&self, segment: SegmentId) -> bool {
        self.generations.iter().flat_map(|g| &g.segments).any(|s| s.segment == segment)
    }

    /// Bytes of settled segments; parts of one generation may name a segment both.
    pub(crate) fn bytes(&self) -> u64 {
        let segments = self.generations.iter().flat_map(|g| &g.segments);
        let ends: BTreeMap<_, _> = segments.map(|s| (s.segment, u64::from(s.end))).collect();
        ends.values().sum()
    }

    /// The first region of a volume from `from` on of which the index has anything.
    pub(crate) fn next_region(
        &self,
        index: &dyn IndexStore,
        volume: VolumeId,
        from: RegionNo,
    ) -> Result<Option<RegionNo>, IndexError> {
        let last = RegionNo::new(u32::MAX);
        let runs =
            (keys::run(volume, from, GroupNo::default()), keys::run(volume, last, GroupNo::new(u64::MAX)));
        let maps = (keys::map(volume, from, Lsn::ZERO), keys::map(volume, last, Lsn::ZERO.plus(Lsn::LIMIT)));
        let mut found = Vec::new();
        for (table, (from, to)) in [(Table::Runs, runs), (Table::Maps, maps)] {
            found.extend(first_key(index, table, &from, &to)?.as_deref().and_then(keys::run_place));
        }
        for generation in &self.generations {
            let [from, to] = [from, last].map(|region| keys::settled(generation.settle, volume, region));
            let key = first_key(index, Table::Settled, &from, &to)?;
            found.extend(key.as_deref().and_then(keys::settled_place));
        }
        Ok(found.into_iter().map(|(_, region)| region).min())
    }

    /// Is `point` still one that can be opened?
    pub(crate) fn check(&self, volume: &Volume, point: Lsn) -> Result<(), StoreError> {
        let Some(kept) = self.kept.get(&volume.id()).filter(|kept| !kept.holds(point)) else { return Ok(()) };
        let (before, after) = kept.nearest(point);
        Err(StoreError::Thinned { point, before, after })
    }
}

/// What is left of a volume's settled history, as of when that was asked for.
#[derive(Debug, Clone)]
pub struct KeptPoints {
    layout: Arc<Layout>,
    volume: VolumeId,
}

impl KeptPoints {
    /// `None` when nothing of it is settled.
    pub(crate) fn of(layout: Arc<Layout>, volume: VolumeId) -> Option<Self> {
        layout.kept.contains_key(&volume).then_some(Self { layout, volume })
    }

    /// The settle that left it: until the next one nothing of it changes.
    #[must_use]
    pub fn settle(&self) -> u64 {
        self.layout.settle
    }
}

impl Default for KeptPoints {
    fn default() -> Self {
        Self { layout: Arc::default(), volume: VolumeId::new(0) }
    }
}

impl PartialEq for KeptPoints {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for KeptPoints {}

impl std::ops::Deref for KeptPoints {
    type Target = Kept;

    fn deref(&self) -> &Kept {
        static NOTHING: Kept = Kept { settled: Lsn::ZERO, points: Vec::new() };
        self.layout.kept.get(&self.volume).unwrap_or(&NOTHING)
    }
}

impl Store {
    /// What of a volume's settled history went though its policy would have kept it, for want of room; oldest first.
    #[must_use]
    pub fn shortages(&self, volume: VolumeId) -> Vec<Shortage> {
        read(&self.shared().published).layout.short.get(&volume).cloned().unwrap_or_default()
    }
}

/// A region's versions in the index, as one layout arranges them.
pub(crate) struct Gather<'a> {
    pub(crate) index: &'a dyn IndexStore,
    pub(crate) layout: &'a Layout,
    pub(crate) segments: &'a Segments,
    pub(crate) volume: VolumeId,
    pub(crate) region: RegionNo,
}

/// A checkpoint that can be relied on.
pub(crate) struct Checkpoint {
    /// Every version up to here is in it, or hidden by one that is.
    pub(crate) point: Lsn,
    group: GroupNo,
    versions: Vec<Version>,
}

impl Gather<'_> {
    /// Hands everything that a map at `point` needs up to group `last` to `each`, in the order of delivery; returns the
    /// point of the checkpoint it began with.
    pub(crate) fn versions(
        &self,
        point: Lsn,
        last: Option<GroupNo>,
        each: &mut dyn FnMut(&Version),
    ) -> Result<Lsn, IndexError> {
        let mut since = self.layout.group;
        let mut base = Lsn::ZERO;
        match self.checkpoint(point)? {
            Some(found) => {
                (since, base) = (found.group, found.point);
                found.versions.iter().for_each(&mut *each);
            }
            None => self.settled(each)?,
        }
        if let Some(last) = last {
            self.runs(since, last, &mut |value| decode_run(value, |v| each(&v)).map_err(bad))?;
        }
        Ok(base)
    }

    /// The last checkpoint at or before `point`, unless it is from before the last settle or leads to a segment that is
    /// gone: a settle that a crash cut off may leave such. One that cannot be read is as good as none.
    pub(crate) fn checkpoint(&self, point: Lsn) -> Result<Option<Checkpoint>, IndexError> {
        let (from, to) =
            (keys::map(self.volume, self.region, Lsn::ZERO), keys::map(self.volume, self.region, point));
        let Some((key, value)) = self.index.last(Table::Maps, &from, &to)? else { return Ok(None) };
        let mut versions = Vec::new();
        let Ok(group) = decode_checkpoint(&value, |v| versions.push(v)) else { return Ok(None) };
        if group < self.layout.group || !self.all_live(&versions) {
            return Ok(None);
        }
        let point = keys::last_number(&key).and_then(Lsn::new).unwrap_or(Lsn::ZERO);
        Ok(Some(Checkpoint { point, group, versions }))
    }

    pub(crate) fn all_live(&self, versions: &[Version]) -> bool {
        let mut last = None;
        versions.iter().all(|v| match v.place {
            Place::Zero => true,
            Place::Unit(at) if last == Some(at.segment) => true,
            Place::Unit(at) => {
                last = Some(at.segment);
                self.segments.lives(at.segment)
            }
        })
    }

    /// Every settled version of the region.
    pub(crate) fn settled(&self, each: &mut dyn FnMut(&Version)) -> Result<(), IndexError> {
        let here = |g: &&Generation| g.range.holds((self.volume, self.region));
        for generation in self.layout.generations.iter().filter(here) {
            let key = keys::settled(generation.settle, self.volume, self.region);
            if let Some(run) = self.index.get(Table::Settled, &key)? {
                decode_run(&run, |v| each(&v)).map_err(bad)?;
            }
        }
        Ok(())
    }

    /// Every version that the index has of the region up to group `last`, in the order of delivery.
    pub(crate) fn all(
        &self,
        last: Option<GroupNo>,
        each: &mut dyn FnMut(&Version),
    ) -> Result<(), IndexError> {
        self.settled(each)?;
        let Some(last) = last else { return Ok(()) };
        self.runs(self.layout.group, last, &mut |value| decode_run(value, |v| each(&v)).map_err(bad))
    }

    /// The region's runs of the groups behind `since` up to `last`.
    pub(crate) fn runs(
        &self,
        since: GroupNo,
        last: GroupNo,
        each: &mut dyn FnMut(&[u8]) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        let from = keys::run(self.volume, self.region, since.next());
        let to = keys::run(self.volume, self.region, last);
        let mut outcome = Ok(());
        self.index.scan(Table::Runs, &from, &to, &mut |_, value| {
            outcome = each(value);
            outcome.is_ok()
        })?;
        outcome
    }

    /// The group the last checkpoint goes up to, wherever it is.
    pub(crate) fn checkpointed(&self) -> Result<GroupNo, IndexError> {
        let last = Lsn::ZERO.plus(Lsn::LIMIT);
        Ok(self.checkpoint(last)?.map_or(self.layout.group, |c| c.group))
    }
}

fn bad(e: gateway_journal::FormatError) -> IndexError {
    IndexError::new(e.to_string())
}
