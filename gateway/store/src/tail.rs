//! What is published: how far each stream is durable, and the versions that are not in the index yet.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use gateway_image::Catalogue;
use gateway_journal::{GroupNo, RegionNo, SegmentId, Start, StoreId, Version};
use tap_block::{Epoch, Lsn, Position, RunId, StreamId, VolumeId, WallTime};

use crate::config::StoreConfig;
use crate::error::Damage;
use crate::history::Suspect;
use crate::layout::Layout;
use crate::times::TimeRow;

/// Regions of a group that are looked at for one question.
const LOOKED_AT: usize = 4096;

/// How far a stream is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durable {
    /// Its last record.
    pub lsn: Lsn,
    /// The run that wrote it.
    pub run: RunId,
    /// The fencing number it wrote under.
    pub epoch: Epoch,
    /// When that record was captured.
    pub at: WallTime,
}

/// Versions that go into the index together.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) no: GroupNo,
    regions: HashMap<(VolumeId, RegionNo), Vec<Version>>,
    versions: usize,
    bytes: u64,
    /// Bytes of the frames of each stream.
    spans: HashMap<StreamId, u64>,
    mins: HashMap<VolumeId, Position>,
    pub(crate) rows: Vec<(StreamId, TimeRow)>,
    /// When the first of it was received.
    pub(crate) begun: Option<WallTime>,
}

impl Group {
    pub(crate) fn new(no: GroupNo) -> Self {
        Self { no, ..Self::default() }
    }

    pub(crate) fn push(&mut self, volume: VolumeId, region: RegionNo, version: Version) {
        self.regions.entry((volume, region)).or_default().push(version);
        self.versions += 1;
    }

    /// A frame of so many bytes in the log is in the group.
    pub(crate) fn grow(&mut self, stream: StreamId, span: u32) {
        self.bytes += u64::from(span);
        *self.spans.entry(stream).or_default() += u64::from(span);
    }

    /// Bytes of the frames of each stream.
    pub(crate) const fn spans(&self) -> &HashMap<StreamId, u64> {
        &self.spans
    }

    /// A record of this volume at this position is in the group.
    pub(crate) fn reach(&mut self, volume: VolumeId, position: Position) {
        let min = self.mins.entry(volume).or_insert(position);
        *min = position.min(*min);
    }

    /// Its volumes.
    pub(crate) fn volumes(&self) -> impl Iterator<Item = VolumeId> {
        self.mins.keys().copied()
    }

    /// Has it gathered as much as goes into the index together?
    pub(crate) const fn is_full(&self, config: &StoreConfig) -> bool {
        self.versions >= config.group_versions || self.bytes >= config.group_limit
    }

    pub(crate) const fn versions(&self) -> usize {
        self.versions
    }

    pub(crate) fn of(&self, volume: VolumeId, region: RegionNo) -> &[Version] {
        self.regions.get(&(volume, region)).map_or(&[], Vec::as_slice)
    }

    /// The first region of a volume from `from` on with anything in it; of a group with many regions it may be an earlier one.
    pub(crate) fn next_region(&self, volume: VolumeId, from: RegionNo) -> Option<RegionNo> {
        if self.regions.len() <= LOOKED_AT {
            let here = self.regions.keys().filter(|(v, region)| *v == volume && *region >= from);
            return here.map(|(_, region)| *region).min();
        }
        let end = from.get().saturating_add(u32::try_from(LOOKED_AT).unwrap_or(u32::MAX));
        let mut all = (from.get()..end).map(RegionNo::new);
        all.find(|region| self.regions.contains_key(&(volume, *region))).or(Some(RegionNo::new(end)))
    }

    /// The regions of a volume, in no order.
    pub(crate) fn regions_of(&self, volume: VolumeId) -> impl Iterator<Item = RegionNo> {
        self.regions.keys().filter(move |(of, _)| *of == volume).map(|(_, region)| *region)
    }

    /// The regions in order.
    pub(crate) fn sorted(&self) -> Vec<(VolumeId, RegionNo, &[Version])> {
        let mut all: Vec<_> = self.regions.iter().map(|(&(v, r), list)| (v, r, list.as_slice())).collect();
        all.sort_unstable_by_key(|&(v, r, _)| (v, r));
        all
    }

    /// What is kept of it once it is elsewhere, were it to end here.
    pub(crate) fn info(&self, through: (SegmentId, Start)) -> GroupInfo {
        let received_at = self.begun.unwrap_or_default();
        let versions = tap_block::units::count(self.versions());
        let mut spans: Vec<_> = self.spans.iter().map(|(&s, &n)| (s, n)).collect();
        spans.sort_unstable();
        GroupInfo { no: self.no, mins: self.sorted_mins(), through, received_at, versions, spans }
    }

    fn sorted_mins(&self) -> Vec<(VolumeId, Position)> {
        let mut mins: Vec<_> = self.mins.iter().map(|(&v, &p)| (v, p)).collect();
        mins.sort_unstable();
        mins
    }
}

/// What is kept in memory of a group that is in the index: the least position of each volume in it, so that a
/// point far back need not look into groups that hold only newer records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupInfo {
    pub(crate) no: GroupNo,
    pub(crate) mins: Vec<(VolumeId, Position)>,
    /// The place behind its last frame.
    pub(crate) through: (SegmentId, Start),
    /// When the last of it was received.
    pub(crate) received_at: WallTime,
    pub(crate) versions: u64,
    /// Bytes of the frames of each stream. Empty when an earlier program brought the group in: it is to be counted.
    pub(crate) spans: Vec<(StreamId, u64)>,
}

impl GroupInfo {
    pub(crate) fn visible(&self, volume: VolumeId, point: Lsn) -> bool {
        let found = self.mins.binary_search_by_key(&volume, |&(v, _)| v).ok();
        found.and_then(|i| self.mins.get(i)).is_some_and(|(_, p)| p.visible_at(point))
    }
}

/// A group on its way into the index, with what was true when it was closed.
#[derive(Debug)]
pub(crate) struct Frozen {
    pub(crate) store: StoreId,
    pub(crate) group: Group,
    /// The place behind its last frame.
    pub(crate) through: (SegmentId, Start),
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) streams: Vec<(StreamId, StreamState)>,
    pub(crate) damage: Vec<Damage>,
    pub(crate) suspect: Option<Suspect>,
    /// When the last of it was received.
    pub(crate) received_at: WallTime,
}

impl Frozen {
    pub(crate) fn info(&self) -> GroupInfo {
        GroupInfo { received_at: self.received_at, ..self.group.info(self.through) }
    }
}

/// What the owner of a stream's order remembers of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamState {
    pub(crate) durable: Durable,
    /// The greatest time captured so far in the run.
    pub(crate) latest: WallTime,
    /// The time of the last row, and how many frames came since.
    pub(crate) row: (WallTime, u32),
}

/// What readers see.
#[derive(Debug, Default)]
pub(crate) struct Published {
    pub(crate) streams: HashMap<StreamId, Durable>,
    /// Bytes of frames that each stream wrote since the start, without copies of what the disk held: those are no trend.
    pub(crate) written: HashMap<StreamId, u64>,
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) active: Group,
    pub(crate) frozen: VecDeque<Arc<Frozen>>,
    /// Those that are not settled.
    pub(crate) ingested: Vec<GroupInfo>,
    pub(crate) layout: Arc<Layout>,
    pub(crate) damage: Vec<Damage>,
}

impl Published {
    /// The last group of the index that a map at `point` needs.
    pub(crate) fn last_needed(&self, volume: VolumeId, point: Lsn) -> Option<GroupNo> {
        self.ingested.iter().rev().find(|g| g.visible(volume, point)).map(|g| g.no)
    }

    /// The first region of a volume from `from` on of which anything is in memory; it may be an earlier one.
    pub(crate) fn next_region(&self, volume: VolumeId, from: RegionNo) -> Option<RegionNo> {
        let groups = self.frozen.iter().map(|frozen| &frozen.group).chain([&self.active]);
        groups.filter_map(|group| group.next_region(volume, from)).min()
    }

    pub(crate) fn tail_versions(&self) -> usize {
        self.active.versions() + self.frozen.iter().map(|f| f.group.versions()).sum::<usize>()
    }
}
