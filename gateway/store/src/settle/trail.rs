//! What was known where the log goes on: the history of everything that is settled, which follows behind the one of the
//! commit thread, fed with the same frames by the same code.

mod made_up;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use gateway_image::Catalogue;
use gateway_journal::meta::OWN_STREAM;
use gateway_journal::run::decode_run;
use gateway_journal::table::{decode_meta, decode_records};
use gateway_journal::{
    Expected, Found, FrameHeader, FrameKind, GroupNo, Kept, KeptPoint, Place, Records, RegionNo,
    SEGMENT_HEADER, Sealed, SegmentId, SegmentScan, Start, StoreId, Version,
};
use tap_block::units::count;
use tap_block::{Entry, Lsn, StreamId, VolumeId, WallTime};
use tap_disk::SegmentFile;

use crate::chunks::ChunkReader;
use crate::error::{Damage, StoreError};
use crate::history::{History, Loss, PlacedFrame, gone_names, is_idle};
use crate::index::{IndexError, IndexStore as _, Table, keys};
use crate::state::{self, IndexState};
use crate::store::Shared;
use crate::tail::Group;

use made_up::MadeUp;
pub(crate) use made_up::WentPast;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Trail {
    history: History,
    at: Option<(SegmentId, Start)>,
    group: GroupNo,
    /// While it follows a group that cannot be read as a whole: what is known of it otherwise.
    made_up: Option<MadeUp>,
}

/// A place between two groups of the log: the last group before it, and where that ends.
pub(crate) type Border = (GroupNo, (SegmentId, Start));

/// Something that a trail comes past.
pub(crate) enum Met<'a> {
    /// A sound frame; its units are not looked at. `None`: it holds records of the gateway's own.
    Frame(&'a PassedFrame<'a>, Option<&'a Records>),
    /// Bytes that are not what was written.
    Damage(&'a Damage),
    /// Nothing says that the segment before ended where its last sound frame does: these bytes may have held some.
    Unsealed(&'a Damage),
    /// Records are missing between two sound frames, which nobody noted when the log was read into the index.
    Missing(&'a Damage),
}

/// A frame and where it lies.
pub(crate) struct PassedFrame<'a> {
    pub(crate) segment: SegmentId,
    pub(crate) file: &'a Arc<SegmentFile>,
    pub(crate) at: u32,
    pub(crate) header: &'a FrameHeader,
}

/// What is known of the log that a trail follows.
#[derive(Clone, Copy)]
struct Noted<'a> {
    /// What was found lost when it was read into the index.
    lost: &'a [Damage],
    /// What settled history has left.
    kept: &'a BTreeMap<VolumeId, Kept>,
}

/// What is told of everything that is met; an error ends the walk.
pub(crate) type Tell<'a> = dyn FnMut(Met<'_>) -> Result<(), StoreError> + 'a;

/// What lies in the groups that were passed.
pub(crate) struct Window {
    /// Versions by region.
    pub(crate) versions: Group,
    /// Every record of each stream.
    pub(super) points: BTreeMap<StreamId, Vec<KeptPoint>>,
}

impl Window {
    /// Records, of whatever kind.
    pub(super) fn records(&self) -> u64 {
        self.points.values().map(|points| count(points.len())).sum()
    }
}

impl Default for Trail {
    fn default() -> Self {
        Self::new(StoreId::new(0), None)
    }
}

impl Trail {
    /// Behind what a manifest settled; `None`: nothing is settled yet.
    pub(crate) fn new(store: StoreId, known: Option<IndexState>) -> Self {
        let mut history = History::new(store);
        let (at, group) = known.as_ref().map_or((None, GroupNo::new(0)), |k| (Some(k.through), k.group));
        known.into_iter().for_each(|known| history.restore(known));
        Self { history, at, group, made_up: None }
    }

    pub(crate) const fn store(&self) -> StoreId {
        self.history.store
    }

    /// Barrier marks and bookmarks that are thinned out are not written down.
    pub(super) fn forget_names(&mut self, kept: &BTreeMap<VolumeId, Kept>) {
        let gone = gone_names(&self.history.catalogue, kept);
        self.history.forget_names(&gone);
    }

    /// Bookmarks that were passed behind these records are the same as the store's: a million need not be there twice.
    pub(super) fn share_bookmarks(&mut self, like: &Catalogue, behind: impl Fn(VolumeId) -> Lsn) {
        let catalogue = Arc::make_mut(&mut self.history.catalogue);
        let volumes: Vec<VolumeId> = catalogue.volumes().map(|volume| volume.id()).collect();
        volumes.into_iter().for_each(|id| catalogue.share_bookmarks(id, behind(id), like));
    }

    /// Damage that cost nothing and is passed is of no more concern to anybody.
    pub(super) fn forget_harmless(&mut self) {
        self.history.damage.retain(|damage| !damage.lost.is_empty());
    }

    /// Their list is too long: half of the barrier marks are let go; `false`: there are hardly any.
    pub(super) fn halve_marks(&mut self) -> bool {
        Arc::make_mut(&mut self.history.catalogue).halve_marks()
    }

    pub(crate) fn catalogue(&self) -> &Catalogue {
        &self.history.catalogue
    }

    /// The last record of a stream.
    pub(super) fn last(&self, stream: StreamId) -> Option<Lsn> {
        self.history.streams.get(&stream).map(|s| s.durable.lsn)
    }

    /// Where the log goes on.
    pub(crate) fn at(&self) -> (SegmentId, Start) {
        self.at.unwrap_or((SegmentId::new(0), Start::of_segment(None)))
    }

    pub(crate) const fn group(&self) -> GroupNo {
        self.group
    }

    /// When the last of it was received.
    pub(super) const fn received_at(&self) -> WallTime {
        self.history.last_received()
    }

    /// For the manifest.
    pub(super) fn encode(&self) -> Vec<u8> {
        state::encode(&self.history.frozen(Group::new(self.group), self.at()))
    }

    /// Nothing is passed.
    pub(crate) fn stand(&self) -> Window {
        Window { versions: Group::new(self.group.next()), points: BTreeMap::new() }
    }

    /// Damage that the log has shown so far, with what it cost.
    pub(crate) fn damage(&self) -> &[Damage] {
        &self.history.damage
    }

    /// Of `whole` streams the index took in just what was met, and lost no more than is known: what else looks like it behind damage is
    /// none, but a jump of a run or a copy under way.
    pub(crate) fn trust(&mut self, known: [&[Damage]; 2], whole: impl Fn(StreamId) -> bool) {
        let noted = |loss: &Loss| known.iter().copied().flatten().any(|d| d.lost.contains(loss));
        let stays = |loss: &Loss| loss.0 == OWN_STREAM || !whole(loss.0) || noted(loss);
        self.history.damage.iter_mut().for_each(|damage| damage.lost.retain(stays));
    }

    /// Follows the log to the end of a group, telling what it meets.
    ///
    /// # Errors
    /// When `tell` has one, or a sound frame makes no sense.
    pub(crate) fn advance(
        &mut self,
        shared: &Shared,
        (group, last): Border,
        tell: &mut Tell<'_>,
    ) -> Result<Window, StoreError> {
        let mut window = self.stand();
        self.advance_into(&mut window, shared, (group, last), tell)?;
        Ok(window)
    }

    /// The same, with what lies there added to what was passed before.
    pub(super) fn advance_into(
        &mut self,
        window: &mut Window,
        shared: &Shared,
        (group, last): Border,
        tell: &mut Tell<'_>,
    ) -> Result<(), StoreError> {
        let (known, layout) = {
            let published = crate::sync::read(&shared.published);
            let of_log = published.damage.iter().filter(|d| !published.layout.lists(d.segment));
            (of_log.cloned().collect::<Vec<_>>(), Arc::clone(&published.layout))
        };
        let noted = Noted { lost: &known, kept: &layout.kept };
        let oldest = || shared.segments.oldest().map(|segment| (segment, Start::of_segment(None)));
        let (end_segment, end) = last;
        let Some((mut segment, mut start)) = self.at.or_else(oldest) else {
            // All of the log is gone, and the index alone knows of it. Passed it is, or the group would be settled for ever.
            self.pass_missing(&known, SegmentId::new(0)..end_segment.next(), tell)?;
            self.stands_at(group, last);
            return Ok(());
        };
        if self.at.is_none() {
            // The log may have begun with what is gone.
            self.pass_missing(&known, SegmentId::new(0)..segment, tell)?;
        }
        loop {
            let to = if segment == end_segment { Some(end.at) } else { None };
            if !shared.segments.lives(segment) {
                self.pass_missing(&known, segment..segment.next(), tell)?;
            }
            if segment <= end_segment {
                self.walk((shared, noted), (segment, start), to, window, tell)?;
            }
            if segment >= end_segment {
                break;
            }
            let next = shared.segments.after(segment).unwrap_or(end_segment).min(end_segment);
            self.pass_border(shared, &known, (segment, next), tell)?;
            self.pass_missing(&known, segment.next()..next, tell)?;
            (segment, start) = (next, Start::of_segment(None));
        }
        self.stands_at(group, last);
        Ok(())
    }

    fn stands_at(&mut self, group: GroupNo, last: (SegmentId, Start)) {
        (self.at, self.group) = (Some(last), group);
        self.history.begin_rows();
    }

    /// Segments that are gone are damage, and known as such.
    fn pass_missing(
        &mut self,
        known: &[Damage],
        gone: Range<SegmentId>,
        tell: &mut Tell<'_>,
    ) -> Result<(), StoreError> {
        for damage in known.iter().filter(|d| gone.contains(&d.segment)) {
            tell(Met::Damage(damage))?;
            self.history.damaged(Damage { lost: Vec::new(), ..damage.clone() });
        }
        Ok(())
    }

    /// How a segment ended stands in the header of the one behind it. Where that is damaged or gone, frames may be missing at
    /// the end that leave no gap in anybody's numbers: copies.
    fn pass_border(
        &mut self,
        shared: &Shared,
        known: &[Damage],
        (segment, next): (SegmentId, SegmentId),
        tell: &mut Tell<'_>,
    ) -> Result<(), StoreError> {
        let headless = known.iter().find(|d| d.segment > segment && d.segment <= next && d.from == 0);
        let Some((headless, here)) = headless.zip(shared.segments.known(segment)) else { return Ok(()) };
        let length = shared.segments.pool().get(here.file)?.len();
        let detail = "nothing says that the segment ended here".to_owned();
        let to = u32::try_from(length).unwrap_or(u32::MAX);
        tell(Met::Unsealed(&Damage { segment, from: here.end, to, detail, lost: Vec::new() }))?;
        self.history.damaged(Damage { lost: Vec::new(), ..headless.clone() });
        Ok(())
    }

    fn walk(
        &mut self,
        (shared, noted): (&Shared, Noted<'_>),
        (segment, from): (SegmentId, Start),
        to: Option<u32>,
        window: &mut Window,
        tell: &mut Tell<'_>,
    ) -> Result<(), StoreError> {
        let Some(known) = shared.segments.known(segment) else { return Ok(()) };
        let end = to.unwrap_or(known.end).max(from.at);
        if from.at.max(SEGMENT_HEADER) >= end {
            return Ok(());
        }
        let file = match shared.segments.pool().get(known.file) {
            // Somebody removed it since the store was opened.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let (from, detail) = (from.at.max(SEGMENT_HEADER), e.to_string());
                let damage = Damage { segment, from, to: end, detail, lost: Vec::new() };
                tell(Met::Damage(&damage))?;
                self.history.damaged(damage);
                return Ok(());
            }
            file => file?,
        };
        let expected = Expected {
            store: self.history.store,
            segment,
            length: u32::try_from(file.len()).unwrap_or(u32::MAX),
            from,
            sealed: Some(Sealed { segment, end, frames: 0, last: 0 }),
            durable: end,
        };
        let mut scan = SegmentScan::new(expected);
        let mut reader = ChunkReader::new(Arc::clone(&file));
        while let Some((at, len)) = scan.want() {
            match scan.give(reader.fetch(at, len)) {
                Some(Found::Frame { at, header, table }) => {
                    let frame = PassedFrame { segment, file: &file, at, header: &header };
                    self.take(&frame, &table, noted, window, tell)?
                }
                Some(Found::Damage { from, to, why }) => {
                    let damage = Damage { segment, from, to, detail: why.to_string(), lost: Vec::new() };
                    tell(Met::Damage(&damage))?;
                    self.history.damaged(damage);
                }
                Some(Found::Over { .. }) | None => {}
            }
        }
        Ok(())
    }

    fn take(
        &mut self,
        passed: &PassedFrame<'_>,
        table: &[u8],
        noted: Noted<'_>,
        window: &mut Window,
        tell: &mut Tell<'_>,
    ) -> Result<(), StoreError> {
        let &PassedFrame { segment, at, header, .. } = passed;
        let bad = |e: gateway_journal::FormatError| {
            StoreError::Damaged(format!("the frame at {at} of {segment} cannot be settled: {e}"))
        };
        match header.kind {
            FrameKind::Meta => {
                tell(Met::Frame(passed, None))?;
                let records = decode_meta(header, table).map_err(bad)?;
                self.history.take_meta(at, header, &records, &mut window.versions);
            }
            FrameKind::Records => {
                let records = decode_records(header, table).map_err(bad)?;
                tell(Met::Frame(passed, Some(&records)))?;
                let Records { entries, lens } = &records;
                let frame = PlacedFrame { segment, at, header, entries, lens };
                let (due, next) = (self.history.due(header.stream), next_of(header, entries));
                self.fill_before(header, entries, window.points.entry(header.stream).or_default());
                self.note_lost(header.stream, (due, next), noted.lost);
                let last = self.last(header.stream).unwrap_or_default();
                self.history.take(&frame, noted.kept, &mut window.versions);
                if let Some(missing) = self.missing_before(&frame, noted.lost) {
                    tell(Met::Missing(missing))?;
                }
                let fresh = entries.iter().filter(|e| !e.position.is_copy() && e.position.lsn() > last);
                window.points.entry(header.stream).or_default().extend(fresh.map(|e| KeptPoint {
                    idle: is_idle(e),
                    ..KeptPoint::new(e.position.lsn(), e.captured_at, header.received_at)
                }));
            }
        }
        Ok(())
    }
}

/// The first record of a frame; of copies alone, the header says which is due next.
fn next_of(header: &FrameHeader, entries: &[Entry]) -> Lsn {
    let record = entries.iter().find(|e| !e.position.is_copy());
    record.map_or(header.first_lsn, |e| e.position.lsn())
}

impl Trail {
    /// What was found lost of a stream when the log was read is lost here, too: behind the same frame, or among records from the one
    /// on that was `due` before some were filled in.
    fn note_lost(&mut self, stream: StreamId, (due, next): (Lsn, Lsn), known: &[Damage]) {
        let passed = due..=self.history.due(stream).max(next.previous());
        for damage in known {
            for loss in damage.lost.iter().filter(|(of, from, _)| *of == stream && passed.contains(from)) {
                self.history.lose(damage, *loss);
            }
        }
    }

    /// What is missing before this frame and was not noted when the log was read.
    fn missing_before(&self, frame: &PlacedFrame<'_>, known: &[Damage]) -> Option<&Damage> {
        let here = |d: &&Damage| (d.segment, d.from, d.to) == (frame.segment, frame.at, frame.at);
        let noted = |d: &Damage| d.lost.iter().all(|loss| known.iter().any(|k| k.lost.contains(loss)));
        self.history.damage.iter().find(here).filter(|d| !noted(d))
    }
}

/// Damage that the index knows nothing of has been assessed: what it cost is noted, and reads refuse it. Of all other the index
/// knows more than the log does: were what the log says settled, older content would stand where that lay, and nobody would know.
pub(super) fn check_known(shared: &Shared, damage: &Damage) -> Result<(), StoreError> {
    let known = {
        let published = crate::sync::read(&shared.published);
        let overlaps = |d: &Damage| d.segment == damage.segment && d.from < damage.to && damage.from < d.to;
        published.damage.iter().any(overlaps)
    };
    if known && !is_indexed(shared, damage)? {
        return Ok(());
    }
    Err(not_settled(damage))
}

/// If the index leads behind the last sound frame of a segment, there was more: it is not settled, as above.
pub(super) fn check_unsealed(shared: &Shared, damage: &Damage) -> Result<(), StoreError> {
    if is_indexed(shared, damage)? { Err(not_settled(damage)) } else { Ok(()) }
}

/// The index knows more than the log does. What is in the segments all the same is settled by what it says; a segment that is gone
/// may be found.
pub(super) fn not_settled(damage: &Damage) -> StoreError {
    let Damage { segment, from, to, detail, .. } = damage;
    StoreError::Damaged(format!(
        "{segment} from byte {from} to {to}: {detail}; the log is not settled from there on, so that what lay there is whole again \
         once the segment is put back (into the stopped gateway's store). If it is gone for good, say `chronogate verify VOLUME \
         --acknowledge`: then history is settled past it, the blocks that lay there are refused until they are repaired from \
         another gateway (`--repair-from`), and a resync makes later points whole"
    ))
}

/// Does the index lead to anything in a damaged stretch? All of it is gone through: that is slow, and seldom.
fn is_indexed(shared: &Shared, damage: &Damage) -> Result<bool, IndexError> {
    let inside = |v: &Version| match v.place {
        Place::Unit(at) => at.segment == damage.segment && damage.from <= at.offset && at.offset < damage.to,
        Place::Zero => false,
    };
    let (from, to) = (keys::run(VolumeId::new(0), RegionNo::new(0), GroupNo::new(0)), vec![0xff; 24]);
    let (mut found, mut outcome) = (false, Ok(()));
    shared.index.scan(Table::Runs, &from, &to, &mut |_, run| {
        outcome = decode_run(run, |v| found |= inside(&v));
        outcome.is_ok() && !found
    })?;
    outcome.map_err(|e| IndexError::new(e.to_string()))?;
    Ok(found)
}

impl History {
    /// Everything that `known` says.
    pub(crate) fn restore(&mut self, known: IndexState) {
        self.catalogue = known.catalogue;
        self.streams = known.streams.into_iter().collect();
        self.damage = known.damage;
        self.suspect = known.suspect;
        let _ = self.received(known.received_at);
    }
}
