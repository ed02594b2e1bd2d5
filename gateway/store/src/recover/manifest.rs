//! Which settled segments count: the newest sound manifest says.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gateway_journal::run::encode_run;
use gateway_journal::{
    FormatError, Generation, Manifest, Pieces, RegionNo, RegionPlace, SEGMENT_HEADER, SegmentId,
    SettledFrame, SettledHeader, SettledKind, SettledSegment, Share, StoreId, Version,
};
use tap_block::VolumeId;
use tap_disk::{FileNo, SegmentFile, SegmentPool};
use tracing::{info, warn};

use super::Told;
use super::headless::Inside;
use super::newer::refuse_newer_manifest;
use super::rivals::{Worth, is_worthless, tell_left_alone};
use super::stand_in::stands_in;
use crate::error::{Damage, StoreError};
use crate::index::{IndexStore, Row, Table, keys};
use crate::layout::Lost;
use crate::segments::{Known, Segments};
use crate::settled::{next_sound, read_frame, versions_in};

/// Settled segments found, and what is known of them.
#[derive(Debug, Default)]
pub(super) struct SettledFound {
    /// Whole segments, by id.
    pub(super) files: BTreeMap<SegmentId, (FileNo, SettledHeader)>,
    /// What counts; `None`: nothing is settled.
    pub(super) manifest: Option<Manifest>,
    /// No segment has it (any more), only its copy.
    pub(super) copy_only: bool,
    /// Those of them whose header is damaged: what it said is put together from elsewhere.
    pub(super) headless: BTreeSet<SegmentId>,
    /// No settle ever had this number or a later one.
    pub(super) next: u64,
    /// More files that say they are one of `files`.
    rivals: Vec<(FileNo, SettledHeader)>,
    /// Those of them that may hold what the one that counts does not.
    left_alone: Vec<(SegmentId, FileNo)>,
}

impl SettledFound {
    /// A whole segment, as its header says.
    pub(super) fn sort_in(&mut self, file: FileNo, header: SettledHeader) {
        match self.files.entry(header.segment) {
            Entry::Vacant(place) => drop(place.insert((file, header))),
            Entry::Occupied(_) => self.rivals.push((file, header)),
        }
    }

    /// Of several files of one segment the one with more of it counts: one that was put back before what stands in for it, a whole
    /// one before one that was cut off.
    pub(super) fn choose_files(&mut self, pool: &SegmentPool, told: Option<&Told<'_>>) {
        let rows = told.map(|told| told.index);
        for (file, header) in std::mem::take(&mut self.rivals) {
            let Some(known) = self.files.get_mut(&header.segment) else { continue };
            let here = Worth::of_settled(pool, (known.0, &known.1), rows);
            let there = Worth::of_settled(pool, (file, &header), rows);
            let (loser, best) = match there > here {
                true => (std::mem::replace(known, (file, header)).0, there),
                false => (file, here),
            };
            if !is_worthless(pool, loser, known.0, best) {
                tell_left_alone(header.segment, loser, known.0);
                self.left_alone.push((header.segment, loser));
            }
        }
    }

    /// Finds the manifest that counts. `copy` is the one kept beside the segments; `told`: what the index shows.
    ///
    /// # Errors
    /// When there was one that cannot be read any more: what it listed must not be taken for rubbish.
    pub(super) fn choose(
        mut self,
        pool: &SegmentPool,
        (store, told): (Option<StoreId>, Option<&Told<'_>>),
        copy: Option<Vec<u8>>,
        inside: &[Inside],
    ) -> Result<Self, StoreError> {
        let copy = copy.and_then(|bytes| Manifest::unseal(&bytes).ok());
        let mut best = copy.filter(|m| Some(m.store) == store);
        let shown = told.map_or(0, |told| told.settle(store));
        let mut newest = best.as_ref().map_or(0, |m| m.settle).max(shown);
        let mut found_in_segment = 0;
        for (file, header) in self.files.values() {
            self.next = self.next.max(header.settle);
            let Some(at) = header.manifest.filter(|_| Some(header.store) == store) else { continue };
            newest = newest.max(header.settle);
            match read_manifest(pool, &self.files, (*file, header, at)) {
                Ok(found) if best.as_ref().is_none_or(|b| b.settle <= found.settle) => {
                    found_in_segment = found.settle;
                    best = Some(found);
                }
                Ok(_) => {}
                Err(Unread::Newer(why)) => refuse_newer_manifest(&header.segment.to_string(), &why)?,
                Err(Unread::Damaged(why)) => {
                    info!("the manifest of settle {} in {}: {why}", header.settle, header.segment)
                }
            }
        }
        let headless = inside.iter().flat_map(|i| i.segments.values()).filter_map(|r| r.manifest.as_ref());
        for (_, manifest) in headless.filter(|(_, m)| Some(m.store) == store) {
            newest = newest.max(manifest.settle);
            found_in_segment = found_in_segment.max(manifest.settle);
            if best.as_ref().is_none_or(|b| b.settle < manifest.settle) {
                best = Some(manifest.clone());
            }
        }
        if newest > best.as_ref().map_or(0, |m| m.settle) {
            return Err(StoreError::Open(format!(
                "the manifest of settle {newest} is damaged, and so is its copy: without it nobody knows which settled \
                 segments count; nothing was changed. Restore the store's SETTLED file or the damaged segment from a copy{}",
                match newest == shown {
                    true =>
                        "; only if all segments were put back to an older state on purpose, delete the fjall directory, which \
                             knows of it",
                    false => "",
                }
            )));
        }
        self.next = self.next.max(newest) + 1;
        self.copy_only = best.as_ref().is_some_and(|m| m.settle > found_in_segment);
        self.manifest = best;
        Ok(self)
    }

    /// Does nothing that can be read at once lead to the manifest of this settle, or a newer one?
    pub(super) fn lacks(&self, settle: u64, copy: Option<&[u8]>) -> bool {
        let copied = copy.and_then(|bytes| Manifest::unseal(bytes).ok()).map_or(0, |m| m.settle);
        let homes = self.files.values().filter(|(_, h)| h.manifest.is_some()).map(|(_, h)| h.settle);
        homes.chain([copied]).max() < Some(settle)
    }

    /// Segments that count, in files whose header is damaged.
    pub(super) fn find_headless(&mut self, inside: &[Inside]) {
        let Some(manifest) = &self.manifest else { return };
        let header = |segment, end, settle, frames, manifest| {
            let (store, last) = (self.manifest.as_ref().map_or(StoreId::new(0), |m| m.store), 0);
            SettledHeader { store, segment, length: end, settle, end, frames, last, manifest }
        };
        let mut found = Vec::new();
        for (id, file, remains) in
            inside.iter().flat_map(|i| i.segments.iter().map(|(id, r)| (*id, i.file, r)))
        {
            let home = remains.manifest.as_ref().filter(|(_, m)| m.settle == manifest.settle);
            let home = home.map(|(at, _)| *at);
            let generation = manifest.generations.iter().find(|g| g.segments.iter().any(|s| s.segment == id));
            let listed =
                generation.and_then(|g| Some((g.settle, g.segments.iter().find(|s| s.segment == id)?)));
            match listed {
                Some((settle, s)) => found.push((file, header(id, s.end, settle, s.frames, home))),
                None if home.is_some() => {
                    found.push((file, header(id, remains.end, manifest.settle, remains.frames, home)));
                }
                None => {}
            }
        }
        for (file, header) in found {
            if let Entry::Vacant(place) = self.files.entry(header.segment) {
                warn!(
                    "{}: the settled segment's header is damaged; its frames say what it is",
                    header.segment
                );
                place.insert((file, header));
                self.headless.insert(header.segment);
            }
        }
    }

    /// Is a segment that counts in none of the files so far?
    pub(super) fn misses_some(&self) -> bool {
        self.manifest.iter().flat_map(listed).any(|id| !self.files.contains_key(&id))
    }

    /// The settle that wrote a segment that counts; `None` when it is not there itself.
    pub(super) fn settle_of(&self, segment: SegmentId) -> Option<u64> {
        self.files.get(&segment).filter(|(_, header)| !stands_in(header))?;
        let generations = self.manifest.iter().flat_map(|m| &m.generations);
        let holds = |g: &&Generation| g.segments.iter().any(|s| s.segment == segment);
        generations.into_iter().find(holds).map(|g| g.settle)
    }

    /// Is what was missing of a segment, or the frame that was damaged, there now?
    pub(super) fn is_sound_again(&self, pool: &SegmentPool, was: &Damage) -> bool {
        let at = was.from.max(SEGMENT_HEADER);
        let file = self.files.get(&was.segment).and_then(|(no, _)| pool.get(*no).ok());
        let frame = file.map(|file| read_frame(&file, was.segment, at));
        frame.is_some_and(|read| read.is_ok_and(|(frame, table)| versions_in(&frame, at, &table).is_ok()))
    }

    /// Is every segment that counts there itself?
    pub(super) fn is_whole(&self) -> bool {
        self.manifest.iter().flat_map(listed).all(|id| self.settle_of(id).is_some())
    }

    /// Does this file hold a segment that counts, or what may be worth something of one?
    pub(super) fn is_in(&self, file: FileNo) -> bool {
        let alone = self.left_alone.iter().any(|(id, f)| *f == file && self.is_live(*id));
        alone || self.files.iter().any(|(id, (f, _))| *f == file && self.is_live(*id))
    }

    /// What volumes take of segments, where a manifest of version 1 does not say.
    pub(super) fn count_shares(&mut self, pool: &SegmentPool) {
        let generations = self.manifest.iter_mut().flat_map(|m| &mut m.generations);
        for generation in generations.filter(|g| g.shares.is_empty()) {
            let file = |s: &&SettledSegment| Some((**s, pool.get(self.files.get(&s.segment)?.0).ok()?));
            let files = generation.segments.iter().filter_map(|s| file(&s));
            generation.shares = files.flat_map(|(segment, file)| shares_of(&file, &segment)).collect();
        }
    }

    /// Is the segment needed?
    pub(super) fn is_live(&self, segment: SegmentId) -> bool {
        let Some(manifest) = &self.manifest else { return false };
        // All that its own settle wrote: the manifest, or its pieces, may lie in segments that hold nothing else.
        let home = self.files.get(&segment).is_some_and(|(_, h)| h.settle == manifest.settle);
        home || listed(manifest).any(|s| s == segment)
    }

    /// The log's first segment that counts.
    pub(super) fn log_from(&self) -> SegmentId {
        self.manifest.as_ref().map_or(SegmentId::new(0), |m| m.through.0)
    }

    /// Makes the segments known; those that are missing are damage.
    pub(super) fn make_known(&self, segments: &Segments) -> Vec<Damage> {
        for (&id, (file, header)) in self.files.iter().filter(|(id, _)| self.is_live(**id)) {
            segments.set_settled(id, Known { file: *file, end: header.end });
        }
        let lists = self.manifest.iter().flat_map(|m| &m.generations).flat_map(|g| &g.segments);
        let missing = lists.filter(|s| !self.files.contains_key(&s.segment));
        let damage = missing.map(|s| Damage {
            segment: s.segment,
            from: 0,
            to: s.end,
            detail: "the settled segment is missing".into(),
            lost: Vec::new(),
        });
        damage.inspect(|d| warn!("{}: {}", d.segment, d.detail)).collect()
    }

    /// Brings every generation's rows into an empty index. Which regions stand in frames that are damaged nobody knows but
    /// from their neighbours: those are noted as lost.
    pub(super) fn rebuild(
        &self,
        pool: &SegmentPool,
        index: &dyn IndexStore,
    ) -> Result<Vec<Damage>, StoreError> {
        let mut damage = Vec::new();
        let Some(manifest) = &self.manifest else { return Ok(damage) };
        let mut state = vec![(keys::LAYOUT.to_vec(), manifest.settle.to_be_bytes().to_vec())];
        for (settle, segments) in self.written() {
            let mut rows = Rows::new(index, settle);
            for segment in segments.values() {
                match self.files.get(&segment.segment) {
                    Some((no, _)) => rows.segment(pool.get(*no)?, segment, &mut damage)?,
                    None => rows.missing(),
                }
            }
            let lost = rows.finish()?;
            let written = manifest.generations.iter().find(|g| g.settle == settle).map(|g| g.at);
            let lost =
                lost.iter().flat_map(|l| l.by_volume(manifest.kept.iter(), written.unwrap_or_default()));
            state.extend(lost.map(|lost| (keys::lost(&lost), lost.encode())));
        }
        index.commit(state)?;
        Ok(damage)
    }
}

impl SettledFound {
    /// The segments of each settle that are left, in the order of their blocks. Parts of one generation may share one.
    fn written(&self) -> BTreeMap<u64, BTreeMap<(RegionPlace, SegmentId), SettledSegment>> {
        let mut all: BTreeMap<u64, BTreeMap<_, _>> = BTreeMap::new();
        for generation in self.manifest.iter().flat_map(|m| &m.generations) {
            let known = all.entry(generation.settle).or_default();
            known.extend(generation.segments.iter().map(|s| ((s.first, s.segment), *s)));
        }
        all
    }
}

/// What volumes take of a segment. What cannot be read is nobody's.
fn shares_of(file: &Arc<SegmentFile>, written: &SettledSegment) -> Vec<Share> {
    let (mut shares, mut at) = (BTreeMap::new(), SEGMENT_HEADER);
    while at < written.end {
        at = match read_frame(file, written.segment, at) {
            Ok((frame, _)) => {
                if let SettledKind::Run(volume, _) = frame.kind {
                    *shares.entry(volume).or_default() += u64::from(frame.span);
                }
                at.saturating_add(frame.span.max(1))
            }
            Err(_) => next_sound(file, written.segment, at, written.end),
        };
    }
    shares.into_iter().map(|(volume, bytes)| Share { segment: written.segment, volume, bytes }).collect()
}

fn listed(manifest: &Manifest) -> impl Iterator<Item = SegmentId> {
    manifest.generations.iter().flat_map(|g| &g.segments).map(|s| s.segment)
}

fn read_manifest(
    pool: &SegmentPool,
    files: &BTreeMap<SegmentId, (FileNo, SettledHeader)>,
    (no, header, at): (FileNo, &SettledHeader, u32),
) -> Result<Manifest, Unread> {
    let table = read_of_kind(pool, no, (header.segment, at), SettledKind::Manifest)?;
    let manifest = match Pieces::decode(&table)? {
        None => Manifest::decode(&table)?,
        Some(pieces) => pieces.join(|segment, at| {
            let gone = || Unread::Damaged(format!("a piece of it lay in {segment}, which is gone"));
            let (no, _) = files.get(&segment).ok_or_else(gone)?;
            read_of_kind(pool, *no, (segment, at), SettledKind::Piece)
        })?,
    };
    match manifest.settle == header.settle {
        true => Ok(manifest),
        false => Err(Unread::Damaged("of another settle".into())),
    }
}

fn read_of_kind(
    pool: &SegmentPool,
    no: FileNo,
    (segment, at): (SegmentId, u32),
    kind: SettledKind,
) -> Result<Vec<u8>, Unread> {
    let file = pool.get(no).map_err(|e| Unread::Damaged(e.to_string()))?;
    let (frame, table) = read_frame(&file, segment, at).map_err(Unread::Damaged)?;
    match frame.kind == kind {
        true => Ok(table),
        false => Err(Unread::Damaged(format!("nothing of it is at {at} of {segment}"))),
    }
}

/// Why a manifest was not read.
enum Unread {
    Damaged(String),
    Newer(FormatError),
}

impl From<FormatError> for Unread {
    fn from(why: FormatError) -> Self {
        match why {
            FormatError::Newer { .. } => Self::Newer(why),
            damage => Self::Damaged(damage.to_string()),
        }
    }
}

/// Rows of a generation on their way into the index: a region's frames are one row.
struct Rows<'a> {
    index: &'a dyn IndexStore,
    settle: u64,
    last: Option<((VolumeId, RegionNo), Vec<Version>)>,
    ready: Vec<Row>,
    /// Something is missing behind this place.
    open: Option<(VolumeId, RegionNo)>,
    lost: Vec<Lost>,
}

impl<'a> Rows<'a> {
    const AT_ONCE: usize = 1024;

    fn new(index: &'a dyn IndexStore, settle: u64) -> Self {
        Self { index, settle, last: None, ready: Vec::new(), open: None, lost: Vec::new() }
    }

    fn segment(
        &mut self,
        file: Arc<SegmentFile>,
        written: &SettledSegment,
        damage: &mut Vec<Damage>,
    ) -> Result<(), StoreError> {
        let mut at = SEGMENT_HEADER;
        while at < written.end {
            let found = read_frame(&file, written.segment, at)
                .and_then(|(frame, table)| Ok((frame, versions_in(&frame, at, &table)?)));
            match found {
                Ok((frame, versions)) => {
                    self.take(&frame, versions)?;
                    at = at.saturating_add(frame.span);
                }
                Err(why) => {
                    warn!("{} from byte {at} on: {why}", written.segment);
                    let next = next_sound(&file, written.segment, at, written.end);
                    let (segment, from) = (written.segment, at);
                    damage.push(Damage { segment, from, to: next, detail: why, lost: Vec::new() });
                    self.missing();
                    at = next;
                }
            }
        }
        Ok(())
    }

    /// From the last place on something is missing.
    fn missing(&mut self) {
        let start = (VolumeId::new(0), RegionNo::new(0));
        self.open.get_or_insert(self.last.as_ref().map_or(start, |(place, _)| *place));
    }

    fn take(&mut self, frame: &SettledFrame, versions: Vec<Version>) -> Result<(), StoreError> {
        let SettledKind::Run(volume, region) = frame.kind else { return Ok(()) };
        let here = (volume, region);
        if let Some(from) = self.open.take() {
            self.lost.push(Lost { settle: self.settle, from, to: here, since: None });
        }
        match &mut self.last {
            Some((place, all)) if *place == here => all.extend(versions),
            _ => {
                self.close();
                self.last = Some((here, versions));
            }
        }
        if self.ready.len() >= Self::AT_ONCE {
            self.index.ingest(Table::Settled, std::mem::take(&mut self.ready))?;
        }
        Ok(())
    }

    fn close(&mut self) {
        if let Some(((volume, region), versions)) = self.last.take() {
            let mut run = Vec::new();
            encode_run(&versions, &mut run);
            self.ready.push((keys::settled(self.settle, volume, region), run));
        }
    }

    fn finish(mut self) -> Result<Vec<Lost>, StoreError> {
        if let Some(from) = self.open.take() {
            let to = (VolumeId::new(u64::MAX), RegionNo::new(u32::MAX));
            self.lost.push(Lost { settle: self.settle, from, to, since: None });
        }
        self.close();
        self.index.ingest(Table::Settled, self.ready)?;
        Ok(self.lost)
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use gateway_journal::{GroupNo, Location, Place, RegionRange, SettledWriter, Start};
    use tap_block::{Lsn, Position, WallTime};
    use tap_disk::{MemoryDir, PoolOptions};

    use super::*;

    #[test]
    fn what_a_manifest_of_version_1_does_not_say_is_counted() {
        let options = PoolOptions { ready: 0, ..PoolOptions::default() };
        let pool = SegmentPool::over(Box::new(MemoryDir::new()), 64 << 10, options).unwrap();
        let (no, file) = pool.take().unwrap();
        let mut writer = SettledWriter::begin(StoreId::new(5), SegmentId::new(9), 64 << 10, 3);
        let mut spans = BTreeMap::new();
        for (volume, region) in [(1, 0), (1, 1), (2, 0)] {
            let place = Place::Unit(Location { segment: SegmentId::new(1), offset: 0, len: 100 });
            let position = Position::record(Lsn::new(7).unwrap());
            let versions = [Version { first: 3, blocks: 1, position, place }];
            let (volume, region) = (VolumeId::new(volume), RegionNo::new(region));
            let laid = writer.run(volume, region, &versions).unwrap();
            let padding = vec![0; laid.padding as usize];
            let frame = [IoSlice::new(&laid.head), IoSlice::new(&[7; 100]), IoSlice::new(&padding)];
            file.write_at(u64::from(laid.at), &frame).unwrap();
            *spans.entry(volume).or_default() += frame.iter().map(|s| s.len() as u64).sum::<u64>();
        }
        let (first, last) = (RegionRange::ALL.first, RegionRange::ALL.last);
        let end = writer.header().end;
        let segment = SettledSegment { segment: writer.segment(), end, frames: 3, first, last, warm: end };
        let (range, shares) = (RegionRange::ALL, Vec::new());
        let manifest = Manifest {
            store: StoreId::new(5),
            settle: 3,
            at: WallTime::EPOCH,
            generations: vec![Generation {
                settle: 3,
                range,
                segments: vec![segment],
                shares,
                at: WallTime::EPOCH,
                packs: false,
            }],
            through: (SegmentId::new(8), Start::of_segment(None)),
            group: GroupNo::new(1),
            kept: Vec::new(),
            short: Vec::new(),
            state: Vec::new(),
        };
        let files = [(writer.segment(), (no, writer.header()))].into();
        let mut found = SettledFound { files, manifest: Some(manifest), next: 4, ..SettledFound::default() };
        found.count_shares(&pool);
        assert_eq!(Generation::bytes_by_volume(&found.manifest.unwrap().generations), spans);
    }
}
