//! Taking frames in, in the order of the journal: the one place where a durable frame becomes history.
//!
//! The commit thread owns it, recovery feeds it the same way; so what is rebuilt is what was.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use gateway_image::catalogue::Volume;
use gateway_image::{Catalogue, Origin, Passed};
use gateway_journal::meta::OWN_STREAM;
use gateway_journal::table::placed;
use gateway_journal::{FrameHeader, Kept, MetaRecord, SegmentId, Start, StoreId, versions_of};
use tap_block::stored::StoredLen;
use tap_block::{
    Action, Batch, Bookmark, Entry, Epoch, Lsn, Marker, Name, RunId, StreamId, SyncCause, VolumeId, WallTime,
};

use crate::error::{Damage, StoreError};
use crate::layout::Layout;
use crate::segments::Segments;
use crate::tail::{Durable, Frozen, Group, Published, StreamState};
use crate::times::TimeRow;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct History {
    pub(crate) store: StoreId,
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) streams: HashMap<StreamId, StreamState>,
    pub(crate) damage: Vec<Damage>,
    pub(crate) suspect: Option<Suspect>,
    received: WallTime,
}

/// Damage behind which not all streams have shown yet whether they lost something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Suspect {
    pub(crate) damage: Damage,
    /// The streams that have.
    pub(crate) seen: Vec<StreamId>,
}

/// A stream and the records of it that are lost.
pub(crate) type Loss = (StreamId, Lsn, Lsn);

/// A frame of a tap's records and where it lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlacedFrame<'a> {
    pub(crate) segment: SegmentId,
    pub(crate) at: u32,
    pub(crate) header: &'a FrameHeader,
    pub(crate) entries: &'a [Entry],
    pub(crate) lens: &'a [StoredLen],
}

/// Names of points of volumes that are gone; of none without any.
pub(crate) type GoneNames = BTreeMap<VolumeId, Gone>;

/// Names of points that are gone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Gone {
    marks: BTreeSet<Lsn>,
    bookmarks: BTreeMap<Lsn, Name>,
}

/// Those that a catalogue still has. It looks at every mark and bookmark of what is settled.
pub(crate) fn gone_names(catalogue: &Catalogue, kept: &BTreeMap<VolumeId, Kept>) -> GoneNames {
    let gone = |(id, kept): (&VolumeId, &Kept)| {
        let volume = catalogue.volume(*id)?;
        let marks = volume.marks().gone(kept.settled, |lsn| kept.holds(lsn));
        let bookmarks = volume.bookmarks().filter(|(_, there)| !kept.holds(there.at.lsn));
        let bookmarks: BTreeMap<_, _> = bookmarks.map(|(name, there)| (there.at.lsn, name.clone())).collect();
        (!marks.is_empty() || !bookmarks.is_empty()).then_some((*id, Gone { marks, bookmarks }))
    };
    kept.iter().filter_map(gone).collect()
}

/// Damage that cost no record is over once nothing of the store lies there any more, or should.
pub(crate) fn forget_over(damage: &mut Vec<Damage>, segments: &Segments, layout: &Layout) {
    damage.retain(|d| !d.lost.is_empty() || is_needed(d.segment, segments, layout));
}

/// Is it a segment of the store, or should be?
pub(crate) fn is_needed(segment: SegmentId, segments: &Segments, layout: &Layout) -> bool {
    let of_log = || segment >= layout.trail.at().0 && segments.is_missed(segment);
    segments.lives(segment) || layout.lists(segment) || of_log()
}

/// The same, and marks that what is known of settled history does not have any more.
pub(crate) fn forgotten_names(catalogue: &Catalogue, layout: &Layout) -> GoneNames {
    let mut all = gone_names(catalogue, &layout.kept);
    for (id, kept) in &layout.kept {
        let Some((here, there)) = catalogue.volume(*id).zip(layout.trail.catalogue().volume(*id)) else {
            continue;
        };
        let gone = here.marks().gone(kept.settled, |lsn| there.marks().at(lsn).is_some());
        if !gone.is_empty() {
            all.entry(*id).or_default().marks.extend(gone);
        }
    }
    all
}

impl History {
    /// Nothing has happened yet.
    pub(crate) fn new(store: StoreId) -> Self {
        Self {
            store,
            catalogue: Arc::default(),
            streams: HashMap::new(),
            damage: Vec::new(),
            suspect: None,
            received: WallTime::EPOCH,
        }
    }

    /// The LSN due in a stream.
    pub(crate) fn due(&self, stream: StreamId) -> Lsn {
        self.streams.get(&stream).map_or(Lsn::ZERO.next(), |s| s.durable.lsn.next())
    }

    /// May `batch` follow when `due` is due? Returns what is due after it.
    pub(crate) fn admit(batch: &Batch, due: Lsn, known: bool) -> Result<Lsn, StoreError> {
        if batch.stream == OWN_STREAM {
            return Err(StoreError::Invalid("the stream number 0 is the gateway's own".into()));
        }
        let Some(first) = batch.entries.iter().find(|e| !e.position.is_copy()) else {
            let known = known || batch.entries.is_empty();
            return if known { Ok(due) } else { Err(sequence(due, batch)) };
        };
        let jumps = first.position.lsn() > due && explains_jump(first);
        // A volume is known by the run that names it: what comes before could never be shown.
        if (first.position.lsn() != due && !jumps) || (!known && !starts_run(first)) {
            return Err(sequence(due, batch));
        }
        Ok(batch.last_lsn().map_or(due, Lsn::next))
    }

    /// A time for a frame received now: never earlier than the one before.
    pub(crate) fn received(&mut self, now: WallTime) -> WallTime {
        self.received = self.received.max(now);
        self.received
    }

    /// The time of the last frame.
    pub(crate) const fn last_received(&self) -> WallTime {
        self.received
    }

    /// Bytes of the journal are damaged: what is missing shows in the frames that follow.
    pub(crate) fn damaged(&mut self, damage: Damage) {
        self.suspect = Some(Suspect { damage: damage.clone(), seen: Vec::new() });
        if !self.damage.iter().any(|d| d.is_at(&damage)) {
            self.damage.push(damage);
        }
    }

    /// `damage` cost this; it is listed once.
    pub(crate) fn lose(&mut self, damage: &Damage, loss: Loss) {
        match self.damage.iter_mut().find(|d| d.is_at(damage)) {
            Some(known) if known.lost.contains(&loss) => {}
            Some(known) => known.lost.push(loss),
            None => self.damage.push(Damage { lost: vec![loss], ..damage.clone() }),
        }
    }

    /// Takes a frame of a tap's records in; says whether the catalogue changed. `kept` is what settled history has left.
    pub(crate) fn take(
        &mut self,
        frame: &PlacedFrame<'_>,
        kept: &BTreeMap<VolumeId, Kept>,
        into: &mut Group,
    ) -> bool {
        let header = frame.header;
        self.received = self.received.max(header.received_at);
        into.begun.get_or_insert(self.received);
        into.grow(header.stream, header.span);
        self.note_losses(frame);
        self.free_names(frame, kept);
        let unnamed = self.note_unnamed(frame);
        let mut state = self.streams.get(&header.stream).copied();
        let mut rows = RowMaker::new(frame, state);
        let mut changed = unnamed;
        for (entry, lens, units) in placed(frame.entries, frame.lens, header.body_at(frame.at)) {
            let lsn = entry.position.lsn();
            if !entry.position.is_copy() && state.is_some_and(|s| lsn <= s.durable.lsn) {
                continue; // Delivered twice around a failed sync: the first is as good.
            }
            if let Some((volume, _)) = entry.action.changes() {
                into.reach(volume, entry.position);
                versions_of(&entry.action, entry.position, lens, (frame.segment, units), |region, v| {
                    into.push(volume, region, v);
                });
            } else {
                changed |= self.apply(header, state.as_ref(), entry);
            }
            if !entry.position.is_copy() {
                // Time goes back where the clock was set, and where a new run finds that it was.
                let same_clock = state.filter(|s| s.durable.run == header.run && !sets_clock(entry));
                let latest = same_clock.map_or(entry.captured_at, |s| s.latest.max(entry.captured_at));
                rows.record(lsn, latest);
                let durable = Durable { lsn, run: header.run, epoch: header.epoch, at: entry.captured_at };
                state = Some(StreamState { durable, latest, row: rows.row });
            }
        }
        if let Some(state) = state {
            self.streams.insert(header.stream, state);
        }
        into.rows.extend(rows.made.map(|row| (header.stream, row)));
        changed
    }

    /// The first run of a stream names its volume. Where that is lost, what is left of the stream is known without a name.
    fn note_unnamed(&mut self, frame: &PlacedFrame<'_>) -> bool {
        let stream = frame.header.stream;
        let is_known = self.streams.contains_key(&stream);
        let begins = frame.entries.first().is_none_or(starts_run);
        if (!is_known && begins) || (is_known && !self.catalogue.is_provisional(stream)) {
            return false;
        }
        let of = |entry: &Entry| match entry.action {
            Action::Resize { volume, .. } => Some(volume),
            _ => entry.action.changes().map(|(volume, _)| volume),
        };
        let volume = frame.entries.iter().find_map(of);
        Arc::make_mut(&mut self.catalogue).find_unnamed(stream, volume)
    }

    /// A bookmark's name that is given again is free if the point that has it is gone; if not, that keeps it.
    fn free_names(&mut self, frame: &PlacedFrame<'_>, kept: &BTreeMap<VolumeId, Kept>) {
        let named = |entry: &'_ Entry| match &entry.action {
            Action::Mark(marker) => Some((bookmark_of(marker)?.name.clone(), entry.position.lsn())),
            _ => None,
        };
        for (name, lsn) in frame.entries.iter().filter_map(named) {
            let gone = |volume: &Volume| {
                let had = volume.bookmark_named(&name).map(|there| there.at.lsn)?;
                let left = kept.get(&volume.id())?;
                (had < lsn && had <= left.settled && !left.holds(had)).then(|| volume.id())
            };
            let of = self.catalogue.volumes().filter(|v| v.stream() == frame.header.stream);
            let free: Vec<VolumeId> = of.filter_map(|volume| gone(volume)).collect();
            for volume in free {
                Arc::make_mut(&mut self.catalogue).forget_bookmark(volume, &name);
            }
        }
    }

    fn apply(&mut self, header: &FrameHeader, state: Option<&StreamState>, entry: &Entry) -> bool {
        let previous = state.map(|s| Passed { lsn: s.durable.lsn, at: s.durable.at });
        let origin = Origin {
            stream: header.stream,
            run: header.run,
            epoch: header.epoch,
            previous,
            received_at: header.received_at,
        };
        Catalogue::concerns(&entry.action) && Arc::make_mut(&mut self.catalogue).apply(&origin, entry)
    }

    /// Takes a frame of the gateway's own records in, which lies at this byte of its segment.
    pub(crate) fn take_meta(
        &mut self,
        at: u32,
        header: &FrameHeader,
        records: &[MetaRecord],
        into: &mut Group,
    ) {
        self.received = self.received.max(header.received_at);
        into.grow(header.stream, header.span);
        self.note_own_losses(at, header);
        if records.contains(&MetaRecord::LossRead) {
            self.forget_own_losses();
        }
        Arc::make_mut(&mut self.catalogue).apply_all(records);
        let last = header.first_lsn.plus(u64::from(header.entries)).previous();
        let durable = Durable { lsn: last, run: header.run, epoch: header.epoch, at: header.received_at };
        let state = StreamState { durable, latest: header.received_at, row: (header.received_at, 0) };
        self.streams.insert(OWN_STREAM, state);
    }

    /// The gateway's own records are numbered without exception: every jump is a loss, of holds, pins and policies maybe.
    fn note_own_losses(&mut self, at: u32, header: &FrameHeader) {
        let due = self.due(OWN_STREAM);
        let suspect = self.suspect.as_mut().filter(|s| !s.seen.contains(&OWN_STREAM));
        let damage = suspect.map(|suspect| {
            suspect.seen.push(OWN_STREAM);
            suspect.damage.clone()
        });
        if header.first_lsn > due {
            let damage = damage.unwrap_or_else(|| missing_before(header.segment, at));
            self.lose(&damage, (OWN_STREAM, due, header.first_lsn.previous()));
        }
    }

    /// The log is over, and no record of the gateway's own came behind the last damage: one may have lain there. Its number is
    /// not given again, so that the jump says so to whoever reads the log anew.
    pub(crate) fn presume_own_loss(&mut self) {
        let unanswered = self.suspect.as_mut().filter(|s| !s.seen.contains(&OWN_STREAM));
        let Some(suspect) = unanswered else { return };
        suspect.seen.push(OWN_STREAM);
        let (damage, due) = (suspect.damage.clone(), self.due(OWN_STREAM));
        self.lose(&damage, (OWN_STREAM, due, due));
        let state = self.streams.entry(OWN_STREAM).or_insert_with(|| StreamState {
            durable: Durable { lsn: due, run: RunId::new(0), epoch: Epoch::new(0), at: WallTime::EPOCH },
            latest: WallTime::EPOCH,
            row: (WallTime::EPOCH, 0),
        });
        state.durable.lsn = due;
    }

    /// Somebody has read of them.
    fn forget_own_losses(&mut self) {
        let lost = self.damage.iter_mut().map(|damage| &mut damage.lost);
        lost.for_each(|lost| lost.retain(|(stream, ..)| *stream != OWN_STREAM));
    }

    /// Does a frame leave something out? After damage the first one of each stream is not believed whatever it says; of all
    /// others a jump that nothing explains is a loss, too, even where no damage was seen.
    fn note_losses(&mut self, frame: &PlacedFrame<'_>) {
        let stream = frame.header.stream;
        let due = self.due(stream);
        let record = frame.entries.iter().find(|e| !e.position.is_copy());
        let Some(suspect) = self.suspect.as_mut().filter(|s| !s.seen.contains(&stream)) else {
            let jump = record.filter(|e| e.position.lsn() > due && !explains_jump(e));
            if let Some(first) = jump {
                self.lose(
                    &missing_before(frame.segment, frame.at),
                    (stream, due, first.position.lsn().previous()),
                );
            }
            return;
        };
        suspect.seen.push(stream);
        let damage = suspect.damage.clone();
        // Of copies alone, the header says which record is due next.
        let first = record.map_or(frame.header.first_lsn, |e| e.position.lsn());
        let begins = !self.streams.contains_key(&stream) && record.is_some_and(begins_stream);
        let missing = Some(first).filter(|&lsn| lsn > due && !begins);
        // Copies carry no number that would show their loss: while a sync ran, some may be missing.
        let syncing = self.catalogue.volumes().any(|v| v.stream() == stream && v.open_sync().is_some());
        if let Some(to) = missing.map(Lsn::previous).or_else(|| syncing.then_some(due)) {
            self.lose(&damage, (stream, due, to));
        }
    }

    /// Closes the active group; what is true now goes with it.
    pub(crate) fn freeze(&mut self, published: &mut Published, through: (SegmentId, Start)) {
        let next = Group::new(published.active.no.next());
        let group = std::mem::replace(&mut published.active, next);
        self.begin_rows();
        published.frozen.push_back(Arc::new(self.frozen(group, through)));
    }

    /// Barrier marks and bookmarks that were thinned out need not be known any more.
    pub(crate) fn forget_names(&mut self, gone: &GoneNames) {
        if gone.is_empty() {
            return;
        }
        let catalogue = Arc::make_mut(&mut self.catalogue);
        for (volume, gone) in gone {
            catalogue.forget_marks(*volume, &gone.marks);
            catalogue.forget_bookmarks(*volume, &gone.bookmarks);
        }
    }

    /// The next frame of each stream gets a row in the time table: what lies before may be settled first.
    pub(crate) fn begin_rows(&mut self) {
        self.streams.values_mut().for_each(|state| state.row.1 = ROW_FRAMES);
    }

    /// `group` with what is true now.
    pub(crate) fn frozen(&self, group: Group, through: (SegmentId, Start)) -> Frozen {
        let mut streams: Vec<_> = self.streams.iter().map(|(&id, &state)| (id, state)).collect();
        streams.sort_unstable_by_key(|&(id, _)| id);
        Frozen {
            store: self.store,
            group,
            through,
            catalogue: Arc::clone(&self.catalogue),
            streams,
            damage: self.damage.clone(),
            suspect: self.suspect.clone(),
            received_at: self.received,
        }
    }
}

/// No bytes are known to be damaged: what lay before the frame is gone without a trace.
fn missing_before(segment: SegmentId, at: u32) -> Damage {
    let detail = "the records before this frame are missing".to_owned();
    Damage { segment, from: at, to: at, detail, lost: Vec::new() }
}

fn sequence(expected: Lsn, batch: &Batch) -> StoreError {
    StoreError::Sequence { expected, found: batch.first_lsn }
}

const fn bookmark_of(marker: &Marker) -> Option<&Bookmark> {
    match marker {
        Marker::Bookmark(bookmark) => Some(bookmark),
        Marker::Barrier(mark) => mark.bookmark.as_ref(),
        _ => None,
    }
}

/// A mark with which nothing was written, named or said: the disk is what it was before.
pub(crate) fn is_idle(entry: &Entry) -> bool {
    let plain = |marker: &Marker| matches!(marker, Marker::Barrier(mark) if mark.bookmark.is_none());
    matches!(&entry.action, Action::Mark(marker) if plain(marker))
}

fn starts_run(entry: &Entry) -> bool {
    matches!(&entry.action, Action::Mark(marker) if matches!(**marker, Marker::RunStart(_)))
}

/// A run that follows none: whatever number it begins with, its stream had no record here before.
fn begins_stream(entry: &Entry) -> bool {
    let first = |marker: &Marker| matches!(marker, Marker::RunStart(start) if start.previous.is_none());
    matches!(&entry.action, Action::Mark(marker) if first(marker))
}

fn sets_clock(entry: &Entry) -> bool {
    matches!(&entry.action, Action::Mark(marker) if matches!(**marker, Marker::ClockSet { .. }))
}

/// A new run may go on at a higher LSN, and so does a tap that was told that a hop lost records.
pub(crate) fn explains_jump(entry: &Entry) -> bool {
    let lost = |marker: &Marker| matches!(marker, Marker::SyncStart { cause: SyncCause::HopLost });
    starts_run(entry) || matches!(&entry.action, Action::Mark(marker) if lost(marker))
}

/// Decides whether a frame gets a row in the time table: the first of a run, and then one each quarter of a second
/// of the stream's time or each [`ROW_FRAMES`] frames, and the first after the clock was set back.
struct RowMaker<'a> {
    frame: &'a PlacedFrame<'a>,
    row: (WallTime, u32),
    fresh: bool,
    made: Option<TimeRow>,
    counted: bool,
}

const ROW_NANOS: u64 = 250_000_000;
const ROW_FRAMES: u32 = 64;

impl<'a> RowMaker<'a> {
    fn new(frame: &'a PlacedFrame<'a>, state: Option<StreamState>) -> Self {
        let row = state.map_or((WallTime::EPOCH, 0), |s| s.row);
        let fresh = state.is_none_or(|s| s.durable.run != frame.header.run);
        Self { frame, row, fresh, made: None, counted: false }
    }

    /// The first record of a frame may make a row.
    fn record(&mut self, lsn: Lsn, time: WallTime) {
        if self.counted {
            return;
        }
        self.counted = true;
        let (last, frames) = self.row;
        let later = time.nanos().saturating_sub(last.nanos()) >= ROW_NANOS;
        let due = self.fresh || frames >= ROW_FRAMES || later || time < last;
        if due {
            self.made = Some(TimeRow { lsn, time, segment: self.frame.segment, at: self.frame.at });
            self.row = (time, 0);
        } else {
            self.row = (last, frames + 1);
        }
    }
}
