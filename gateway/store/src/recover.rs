//! Opening: find the segments, see how far the index goes, read the frames behind it, and tell a torn tail from
//! damage. Whatever is sound is served.

mod headless;
mod manifest;
mod newer;
mod rivals;
mod set_back;
mod stand_in;
mod survey;
mod unclaimed;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use gateway_image::Catalogue;
use gateway_journal::table::{decode_meta, decode_records, placed};
use gateway_journal::{
    Expected, Found, FrameHeader, FrameKind, GroupNo, Manifest, Mark, Records, RegionNo, SEGMENT_HEADER,
    Sealed, SegmentId, SegmentScan, SegmentWriter, Start, StoreId,
};
use tap_block::stored::verify;
use tap_block::units::index;
use tap_block::{Action, VolumeId, WallTime};
use tap_disk::{FileNo, SegmentFile, SegmentPool};
use tracing::{info, warn};

use crate::chunks::ChunkReader;
use crate::commit::{Open, Tail};
use crate::config::StoreConfig;
use crate::error::{Damage, StoreError};
use crate::history::{History, PlacedFrame, forget_over, forgotten_names};
use crate::index::{IndexError, IndexOpener, IndexStore, Table, keys, remove_settle};
use crate::ingest::{Brought, Into, Weights, ingest};
use crate::layout::{Layout, Lost};
use crate::leftover;
use crate::mark::MarkStore;
use crate::names::{self, NameRows};
use crate::segments::{self, Segments};
use crate::settle::{Settler, Trail};
use crate::state::{self, IndexState};
use crate::tail::{Group, GroupInfo, Published};

use headless::end_of_log;
use newer::{refuse_newer, refuse_newer_frame};
use set_back::refuse_set_back;
use stand_in::stand_in;
use survey::{Piece, Survey};

/// A store as it was found.
pub(crate) struct Recovered {
    pub(crate) segments: Segments,
    pub(crate) index: Arc<dyn IndexStore>,
    pub(crate) published: Published,
    pub(crate) history: History,
    pub(crate) tail: Tail,
    pub(crate) mark: Mark,
    pub(crate) brought: Brought,
    /// With the number of the next settle.
    pub(crate) settler: Settler,
    /// The last time in the journal; `None` when nothing is there.
    pub(crate) last_received: Option<WallTime>,
    /// Settled segments, and segments of the log, whose header is damaged.
    pub(crate) headless: Vec<SegmentId>,
    /// Settled segments that are gone, or of which something is.
    pub(crate) torn: Vec<Torn>,
}

/// A settled segment of which something is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Torn {
    pub(crate) segment: SegmentId,
    /// The byte behind its last frame.
    pub(crate) end: u32,
    /// What became of it, when that was found just now.
    pub(crate) found: Option<String>,
}

impl Recovered {
    /// The most that any hold remembers of what the store's clock was credited with.
    pub(crate) fn credited(&self) -> Duration {
        self.history.catalogue.rules().credited()
    }

    /// The store's clock has been credited with so much, which no hold runs by.
    pub(crate) fn credit(&mut self, credited: Duration) {
        Arc::make_mut(&mut self.history.catalogue).credit(credited);
        self.published.catalogue = Arc::clone(&self.history.catalogue);
    }
}

/// Opens what is there. An index that is found damaged on the way is built again.
pub(crate) fn recover(
    config: &StoreConfig,
    pool: SegmentPool,
    opener: &dyn IndexOpener,
    marks: &dyn MarkStore,
    manifests: &dyn MarkStore,
) -> Result<Recovered, StoreError> {
    let pool = Arc::new(pool);
    let with = |condemned| recover_with(config, &pool, (opener, condemned), (marks, manifests));
    let done = match with(opener.condemned()) {
        Err(StoreError::IndexDamaged(why)) => with(Some(why)),
        done => done,
    };
    done.map_err(|e| match (e, opener.shortage()) {
        (StoreError::Index(why), Some(shortage)) => shortage.explains(IndexError::new(why)).into(),
        (e, _) => e,
    })
}

/// `condemned`: why the index is damaged, whatever it looks like.
fn recover_with(
    config: &StoreConfig,
    pool: &Arc<SegmentPool>,
    (opener, condemned): (&dyn IndexOpener, Option<String>),
    (marks, manifests): (&dyn MarkStore, &dyn MarkStore),
) -> Result<Recovered, StoreError> {
    let (mark, copy) = (marks.load(), manifests.load());
    refuse_newer(pool, mark.as_deref(), copy.as_deref())?;
    let stored = mark.and_then(|bytes| Mark::decode(&bytes));
    opener.make_room();
    let opened = opener.open();
    if let Err(e) = &opened
        && (e.is_full() || opener.shortage().is_some() && !e.is_damage())
    {
        return Err(StoreError::IndexFull(e.to_string()));
    }
    let told = opened.as_ref().ok().and_then(|index| Told::of(&**index));
    let mut survey = Survey::make(pool, stored.as_ref(), copy, told.as_ref())?;
    survey.settled.count_shares(pool);
    let store = match survey.store.or(stored.map(|m| m.store)) {
        Some(store) => store,
        None => StoreId::new(getrandom::u64().map_err(|e| StoreError::Open(e.to_string()))?),
    };
    let unknown = Mark { store, durable: None, group: 0, clean: false, aged: None };
    let mark = stored.filter(|m| m.store == store).unwrap_or(unknown);
    renew_copy(survey.settled.manifest.as_ref(), manifests);
    let settled = settled_state(&survey, store)?;
    let trail = Trail::new(store, settled.clone());
    // What it tells of the manifest it tells all the same.
    let opened = condemned.map_or(opened, |why| Err(IndexError::new(why)));
    let found = (&survey, mark.durable.as_ref());
    let (index, known, damage) = open_index(opened, opener, (store, trail.catalogue()), found, pool)?;
    let (next_settle, next_segment) = given_out(&*index, &survey)?;
    // Numbers that the index leads to are never given out again, whatever became of those segments.
    let through = known.as_ref().map_or(SegmentId::new(0), |(state, _)| state.through.0);
    let next_segment = next_segment.max(through.next());
    if !survey.is_whole(mark.durable.as_ref()) {
        leave_names(pool, next_segment);
    }
    let segments = Segments::new(Arc::clone(pool), next_segment);
    let mut missing = survey.settled.make_known(&segments);
    // Only the index knows what lay there: without it nothing could be put back.
    let torn = if known.is_some() { stand_in(&survey.settled, &segments, store) } else { Vec::new() };
    torn.iter().for_each(|torn| segments.wait_for(torn.segment));
    missing.retain(|damage| !segments.lives(damage.segment));
    let known = known.or_else(|| settled.map(|state| (state, Vec::new())));
    let layout = match &survey.settled.manifest {
        Some(manifest) => Layout { copy_only: survey.settled.copy_only, ..Layout::of(manifest, trail) },
        None => Layout { trail: Arc::new(trail), ..Layout::default() },
    };
    let layout = layout.losing(&lost(&*index)?);
    let mut replay = Replay::new(config, segments, index, mark, known, layout);
    for damage in missing.into_iter().chain(damage) {
        let known = |d: &Damage| d.segment == damage.segment && d.from == damage.from;
        if !replay.history.damage.iter().any(known) {
            replay.history.damage.push(damage);
        }
    }
    replay.missing(&survey);
    replay.run(&survey)?;
    let recovered = replay.finish(&survey, Settler::new(next_settle))?;
    Ok(Recovered { torn, ..recovered })
}

/// Files that were made and never used, at most, about.
const NEVER_USED: u32 = 4096;

/// Somebody may put files back that are gone, under the names that they had: those are given to no others. Each that was ever used was a
/// segment's, and no number was given to two segments.
fn leave_names(pool: &SegmentPool, next: SegmentId) {
    pool.go_on_at(FileNo::new(next.get().saturating_add(NEVER_USED)));
}

/// A crash may have come between a manifest and its copy. One that is damaged is left for verification to find.
fn renew_copy(manifest: Option<&Manifest>, copies: &dyn MarkStore) {
    let Some(manifest) = manifest else { return };
    let copy = copies.load().map(|bytes| Manifest::unseal(&bytes));
    let is_behind = copy.is_none_or(|copy| copy.is_ok_and(|copy| copy.settle < manifest.settle));
    if is_behind && let Err(e) = copies.store(&manifest.seal()) {
        warn!("the copy of the manifest of settle {} cannot be written: {e}", manifest.settle);
    }
}

/// Regions that an earlier start found missing when it built the index.
fn lost(index: &dyn IndexStore) -> Result<Vec<Lost>, IndexError> {
    let mut found = Vec::new();
    let to = [keys::LOST, &[0xff; 40]].concat();
    index.scan(Table::State, keys::LOST, &to, &mut |_, value| {
        found.extend(Lost::decode(value));
        true
    })?;
    Ok(found)
}

/// What the manifest says was known where the log goes on.
fn settled_state(survey: &Survey, store: StoreId) -> Result<Option<IndexState>, StoreError> {
    let Some(manifest) = &survey.settled.manifest else { return Ok(None) };
    let state = state::decode(&manifest.state, store);
    // A manifest stands alone.
    let state = state.filter(|state| state.names.is_none());
    let unreadable = || {
        StoreError::Open(
            "the manifest of settled history is of a version this program does not know: use a newer one"
                .into(),
        )
    };
    state.ok_or_else(unreadable).map(Some)
}

/// The settle that an index shows: it was published, whatever is left of its manifest.
pub(super) struct Told<'a> {
    index: &'a dyn IndexStore,
    settle: u64,
    state: Vec<u8>,
}

impl<'a> Told<'a> {
    fn of(index: &'a dyn IndexStore) -> Option<Self> {
        let shown = index.get(Table::State, keys::LAYOUT).ok()??;
        let settle = u64::from_be_bytes(*shown.first_chunk::<8>()?);
        Some(Self { index, settle, state: index.get(Table::State, keys::STATE).ok()?? })
    }

    /// Of this store; 0: it is another one's.
    fn settle(&self, store: Option<StoreId>) -> u64 {
        store.filter(|store| state::decode(&self.state, *store).is_some()).map_or(0, |_| self.settle)
    }
}

/// What an index says about itself, and about its groups.
type Known = (IndexState, Vec<GroupInfo>);

/// The index, what it says, and what was found damaged while it was built.
type Opened = (Arc<dyn IndexStore>, Option<Known>, Vec<Damage>);

/// The index and what it says; an index that says nothing usable is made anew.
fn open_index(
    opened: Result<Arc<dyn IndexStore>, IndexError>,
    opener: &dyn IndexOpener,
    (store, like): (StoreId, &Catalogue),
    (survey, mark): (&Survey, Option<&Sealed>),
    pool: &SegmentPool,
) -> Result<Opened, StoreError> {
    match opened {
        Ok(index) => match read_state(&*index, store, like).and_then(|state| adopt(&*index, survey, state)) {
            Ok(Some((state, _)))
                if survey.is_whole(mark) && is_back(&lost(&*index)?, &state.damage, (survey, pool)) =>
            {
                info!("what was missing when the index was built is back; it is built again");
            }
            // What it knows of segments that are gone is more than all that is left.
            Ok(Some(state)) => return Ok((index, Some(state), Vec::new())),
            Ok(None) if survey.pieces.is_empty() && survey.settled.manifest.is_none() => {
                return Ok((index, None, Vec::new()));
            }
            Ok(_) => info!("the index is missing or behind the segments; it is built again"),
            // It is not damaged: nothing is gained by building it again.
            Err(e) if e.is_full() => return Err(e.into()),
            Err(e) => warn!("the index cannot be read, it is built again from the segments: {e}"),
        },
        Err(e) => warn!("the index cannot be opened, it is built again from the segments: {e}"),
    }
    opener.wipe()?;
    let index = opener.open()?;
    let damage = survey.settled.rebuild(pool, &*index)?;
    Ok((index, None, damage))
}

/// Is something of what the index has for lost there again? (What was lost when that was settled past stays so.)
fn is_back(lost: &[Lost], known: &[Damage], (survey, pool): (&Survey, &SegmentPool)) -> bool {
    let in_log = |d: &Damage| {
        // A damaged header costs no more than itself.
        let was_gone = d.from == 0 && d.to > SEGMENT_HEADER && !d.lost.is_empty();
        let piece = survey.pieces.get(&d.segment).filter(|_| d.segment > survey.settled.log_from());
        was_gone && piece.is_some_and(|piece| piece.header.is_some())
    };
    let is_settled = |d: &Damage| {
        let settle = survey.settled.settle_of(d.segment).filter(|_| survey.settled.is_sound_again(pool, d));
        lost.iter().any(|lost| Some(lost.settle) == settle)
    };
    known.iter().any(|d| in_log(d) || is_settled(d))
}

/// Does the index show the manifest that counts? It may be one settle behind, whose rows it has: they were brought in before
/// the manifest was written.
fn adopt(index: &dyn IndexStore, survey: &Survey, known: Option<Known>) -> Result<Option<Known>, IndexError> {
    let shown = index.get(Table::State, keys::LAYOUT)?;
    let shown = shown.and_then(|v| v.first_chunk::<8>().map(|b| u64::from_be_bytes(*b))).unwrap_or(0);
    let (settle, group) =
        survey.settled.manifest.as_ref().map_or((0, GroupNo::new(0)), |m| (m.settle, m.group));
    let Some((state, mut groups)) = known else { return Ok(None) };
    let rows_are_there = shown == settle || (shown < settle && has_rows(index, survey, settle)?);
    if !rows_are_there || state.group < group {
        return Err(IndexError::new(format!("it shows settle {shown}, not {settle}")));
    }
    groups.retain(|g| g.no > group);
    refuse_set_back(index, (group, state.group), &groups, settle.max(reserved(index)?.0))?;
    if shown != settle {
        index.commit(leftover::told(settle))?;
    }
    Ok(Some((state, groups)))
}

/// The last settle and the last segment of one that numbers were given to.
fn reserved(index: &dyn IndexStore) -> Result<(u64, SegmentId), IndexError> {
    let row = index.get(Table::State, keys::RESERVED)?.unwrap_or_default();
    let settle = row.first_chunk::<8>().map_or(0, |b| u64::from_be_bytes(*b));
    let segment = row.last_chunk::<4>().filter(|_| row.len() == 12).map_or(0, |b| u32::from_be_bytes(*b));
    Ok((settle, SegmentId::new(segment)))
}

/// The numbers that no settle and no segment ever had. Those of a pass that was cut off are in the index, whose rows may
/// name them.
fn given_out(index: &dyn IndexStore, survey: &Survey) -> Result<(u64, SegmentId), IndexError> {
    let (settle, segment) = reserved(index)?;
    let known = survey.settled.manifest.as_ref().map_or(0, |m| m.settle);
    for cut_off in known + 1..=settle {
        remove_settle(index, cut_off)?;
    }
    Ok((survey.settled.next.max(settle + 1), survey.next.max(segment.next())))
}

/// Are the rows of the newest generation there? They are all, if one is.
fn has_rows(index: &dyn IndexStore, survey: &Survey, settle: u64) -> Result<bool, IndexError> {
    let generations = survey.settled.manifest.as_ref().map_or(&[][..], |m| &m.generations);
    for generation in generations {
        let mut found = false;
        let (volume, region) = (VolumeId::new(0), RegionNo::new(0));
        let from = keys::settled(generation.settle, volume, region);
        let to = keys::settled(generation.settle, VolumeId::new(u64::MAX), RegionNo::new(u32::MAX));
        index.scan(Table::Settled, &from, &to, &mut |_, _| {
            found = true;
            false
        })?;
        if !found {
            return Ok(false);
        }
    }
    Ok(settle > 0)
}

/// What it knows of names that `like` has as well is shared with that.
fn read_state(index: &dyn IndexStore, store: StoreId, like: &Catalogue) -> Result<Option<Known>, IndexError> {
    let Some(bytes) = index.get(Table::State, keys::STATE)? else { return Ok(None) };
    let mut state =
        state::decode(&bytes, store).ok_or_else(|| IndexError::new("its state is not readable".into()))?;
    names::complete(index, &mut state, like)?;
    let mut groups = Vec::new();
    let (from, to) = (keys::group(GroupNo::new(0)), keys::group(state.group));
    index.scan(Table::State, &from, &to, &mut |key, value| {
        let no = GroupNo::new(keys::last_number(key).unwrap_or(0));
        groups.extend(state::decode_group(no, value));
        true
    })?;
    Ok(Some((state, groups)))
}

/// Feeds the frames behind the index to the history.
struct Replay<'a> {
    config: &'a StoreConfig,
    segments: Segments,
    index: Arc<dyn IndexStore>,
    mark: Mark,
    history: History,
    published: Published,
    brought: Brought,
    /// Where to begin.
    from: Option<(SegmentId, Start)>,
    /// The segment walked last, how it ended and its last group.
    last: Option<(Sealed, u32)>,
    replayed: u64,
    /// Segments that are gone, and headers that are damaged, not passed yet.
    gone: VecDeque<Damage>,
}

impl<'a> Replay<'a> {
    fn new(
        config: &'a StoreConfig,
        segments: Segments,
        index: Arc<dyn IndexStore>,
        mark: Mark,
        known: Option<Known>,
        layout: Layout,
    ) -> Self {
        let mut history = History::new(mark.store);
        let mut published = Published::default();
        let mut brought = Brought { weights: Weights::new(known.is_none()), ..Brought::default() };
        let mut next = GroupNo::new(1);
        let mut from = None;
        if let Some((state, groups)) = known {
            published.ingested = groups;
            next = state.group.next();
            from = Some(state.through);
            brought.names = NameRows::of(&state);
            history.restore(state);
        }
        published.active = Group::new(next);
        published.layout = Arc::new(layout);
        Self {
            config,
            segments,
            index,
            mark,
            history,
            published,
            brought,
            from,
            last: None,
            replayed: 0,
            gone: VecDeque::new(),
        }
    }

    /// Makes the segments known, and those that must be there and are not.
    fn missing(&mut self, survey: &Survey) {
        let (first, at) = self.from.map_or((SegmentId::new(0), 0), |(segment, start)| (segment, start.at));
        for (segment, file) in survey.all() {
            let end = match survey.sealed(segment) {
                Some(sealed) => sealed.end,
                // Nothing of it is read again here, and its frames are needed to settle it.
                None if segment < first => end_of_log(self.segments.pool(), file, (self.mark.store, segment)),
                None => SEGMENT_HEADER,
            };
            self.segments.set(segment, segments::Known { file, end });
        }
        for damage in survey.damage(self.mark.durable.as_ref()) {
            if !survey.pieces.contains_key(&damage.segment) {
                self.segments.miss(damage.segment);
            }
            // Of a segment that is gone, what lay behind the index's place is lost; a header, the index did without.
            let behind = at <= SEGMENT_HEADER || (damage.to > at && !survey.pieces.contains_key(&first));
            if damage.segment > first || (damage.segment == first && behind) {
                self.gone.push_back(damage);
            } else if !self.history.damage.iter().any(|d| d.is_at(&damage)) {
                self.history.damage.push(damage);
            }
        }
    }

    /// Segments that are missing before `segment` have their place here, and its own header: without it nothing says where the
    /// one before it ended.
    fn note_gone(&mut self, segment: Option<SegmentId>) {
        while let Some(damage) = self.gone.pop_front_if(|d| segment.is_none_or(|s| d.segment <= s)) {
            self.history.damaged(damage);
        }
    }

    fn run(&mut self, survey: &Survey) -> Result<(), StoreError> {
        let first = self.from.map_or(SegmentId::new(0), |(segment, _)| segment);
        for (&segment, piece) in survey.pieces.range(first..) {
            let from = match self.from {
                Some((s, start)) if s == segment => start,
                _ => Start::of_segment(piece.header.map(|h| h.hash())),
            };
            self.note_gone(Some(segment));
            self.walk(segment, piece, from, survey.sealed(segment))?;
        }
        self.note_gone(None);
        if self.replayed > 0 {
            info!("{} frames read behind the index", self.replayed);
        }
        Ok(())
    }

    fn walk(
        &mut self,
        segment: SegmentId,
        piece: &Piece,
        from: Start,
        sealed: Option<Sealed>,
    ) -> Result<(), StoreError> {
        let file = self.segments.pool().get(piece.file)?;
        if sealed.is_none() {
            // What is accepted here must be on the disk, and it must be the disk that says so.
            file.sync()?;
            file.drop_cache()?;
        }
        let durable = self.durable_below(segment);
        let length = u32::try_from(file.len()).unwrap_or(u32::MAX);
        let expected =
            Expected { store: self.mark.store, segment, length, from, sealed, durable: durable.max(from.at) };
        let trusted = if sealed.is_some() { u32::MAX } else { expected.durable };
        let mut scan = SegmentScan::new(expected);
        let mut reader = ChunkReader::new(Arc::clone(&file));
        // Where bytes begin behind which no sound frame was met yet.
        let (mut group, mut doubtful) = (from.group, None);
        while let Some((at, len)) = scan.want() {
            match scan.give(reader.fetch(at, len)) {
                Some(Found::Frame { at, header, table }) => {
                    if self.take(segment, &file, at, &header, &table, trusted) {
                        (group, doubtful) = (header.group, None);
                        self.after_frame(segment, at, &header, &scan)?;
                    } else {
                        scan.reject();
                    }
                }
                Some(Found::Damage { from, to, why }) => {
                    doubtful = Some(from);
                    self.damaged(segment, from, to, why.to_string());
                }
                Some(Found::Over { end, torn }) => {
                    // Behind a segment that another one follows a program of this version went on.
                    let doubtful = doubtful.into_iter().chain([end.at]).filter(|_| sealed.is_none());
                    for at in doubtful {
                        refuse_newer_frame(&file, at, (self.mark.store, segment))?;
                    }
                    self.over(segment, piece, end, group, torn);
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Up to where the mark knows `segment` to be durable.
    fn durable_below(&self, segment: SegmentId) -> u32 {
        self.mark.durable.filter(|m| m.segment == segment).map_or(0, |m| m.end)
    }

    /// Takes a frame in; false when it is not sound after all.
    fn take(
        &mut self,
        segment: SegmentId,
        file: &SegmentFile,
        at: u32,
        header: &FrameHeader,
        table: &[u8],
        trusted: u32,
    ) -> bool {
        match header.kind {
            FrameKind::Meta => match decode_meta(header, table) {
                Ok(records) => {
                    self.history.take_meta(at, header, &records, &mut self.published.active);
                }
                Err(_) => return false,
            },
            FrameKind::Records => {
                let Ok(records) = decode_records(header, table) else { return false };
                let unsure = at.saturating_add(header.span) > trusted;
                if unsure && !units_sound(file, header.body_at(at), header.body, &records) {
                    return false;
                }
                let Records { entries, lens } = &records;
                let frame = PlacedFrame { segment, at, header, entries, lens };
                self.history.take(&frame, &self.published.layout.kept, &mut self.published.active);
            }
        }
        self.replayed += 1;
        true
    }

    fn after_frame(
        &mut self,
        segment: SegmentId,
        at: u32,
        header: &FrameHeader,
        scan: &SegmentScan,
    ) -> Result<(), StoreError> {
        self.segments.set_end(segment, at.saturating_add(header.span));
        // Only between groups: that is where a walk may begin.
        if header.following == 0 && self.published.active.is_full(self.config) {
            self.bring_in((segment, scan.place()))?;
        }
        Ok(())
    }

    fn bring_in(&mut self, through: (SegmentId, Start)) -> Result<(), StoreError> {
        self.history.freeze(&mut self.published, through);
        while let Some(frozen) = self.published.frozen.pop_front() {
            let into = Into {
                index: &*self.index,
                layout: &self.published.layout,
                segments: &self.segments,
                checkpoint_at: self.config.checkpoint_versions,
            };
            ingest(&into, &frozen, &mut self.brought)?;
            self.published.ingested.push(frozen.info());
        }
        Ok(())
    }

    fn damaged(&mut self, segment: SegmentId, from: u32, to: u32, detail: String) {
        warn!("{segment} is damaged from byte {from} to {to}: {detail}");
        self.history.damaged(Damage { segment, from, to, detail, lost: Vec::new() });
    }

    fn over(&mut self, segment: SegmentId, piece: &Piece, end: Start, group: u32, torn: bool) {
        if torn {
            info!(
                "the last write to {segment} was cut off at byte {}; nobody was told that it was done",
                end.at
            );
        }
        let header = piece.header.map_or(0, |h| h.hash());
        let sealed =
            Sealed { segment, end: end.at, frames: end.number, last: end.previous.unwrap_or(header) };
        self.segments.set_end(segment, end.at);
        self.last = Some((sealed, group));
    }

    fn finish(mut self, survey: &Survey, settler: Settler) -> Result<Recovered, StoreError> {
        self.history.presume_own_loss();
        let received = self.history.last_received();
        let settled_at = survey.settled.manifest.as_ref().map_or(WallTime::EPOCH, |m| m.at);
        let last_received = Some(received.max(settled_at)).filter(|&last| last > WallTime::EPOCH);
        self.published.streams = self.history.streams.iter().map(|(&id, s)| (id, s.durable)).collect();
        self.history.forget_names(&forgotten_names(&self.history.catalogue, &self.published.layout));
        self.published.catalogue = Arc::clone(&self.history.catalogue);
        forget_over(&mut self.history.damage, &self.segments, &self.published.layout);
        self.published.damage.clone_from(&self.history.damage);
        let open = self.resume(survey)?;
        let end = self.end();
        let behind = end.map(|(sealed, group)| {
            let previous = Some(sealed.last);
            (sealed.segment, Start { at: sealed.end, number: sealed.frames, group, previous })
        });
        let tail = Tail { open, sealed: end.map(|(sealed, _)| sealed), behind };
        Ok(Recovered {
            segments: self.segments,
            index: self.index,
            published: self.published,
            history: self.history,
            tail,
            mark: self.mark,
            brought: self.brought,
            settler,
            last_received,
            headless: survey.headless(),
            torn: Vec::new(),
        })
    }

    /// How the log ended: as its last segment was read, or as the index or the mark knows of one that is gone. The next header names
    /// it; what no header names was never part of the store.
    fn end(&self) -> Option<(Sealed, u32)> {
        let indexed = self.from.map(|(segment, start)| {
            let last = start.previous.unwrap_or_default();
            let end = start.at.max(SEGMENT_HEADER);
            (Sealed { segment, end, frames: start.number, last }, start.group)
        });
        let marked = self.mark.durable.map(|sealed| (sealed, self.mark.group));
        let known =
            indexed.filter(|(sealed, _)| sealed.segment > SegmentId::new(0)).into_iter().chain(marked);
        let known = known.max_by_key(|(sealed, _)| (sealed.segment, sealed.end));
        // Of equal ones the last is taken.
        known.into_iter().chain(self.last).max_by_key(|(sealed, _)| sealed.segment)
    }

    /// The last segment, to be written on: only after a stop in order, and only if it is exactly as it was left.
    fn resume(&self, survey: &Survey) -> Result<Option<Open>, StoreError> {
        let Some((sealed, group)) = self.last.filter(|(sealed, _)| self.mark.durable == Some(*sealed)) else {
            return Ok(None);
        };
        let piece =
            survey.pieces.get(&sealed.segment).filter(|_| self.mark.clean && self.mark.group == group);
        let Some((piece, header)) = piece.and_then(|p| Some((p, p.header?))) else { return Ok(None) };
        let file = self.segments.pool().get(piece.file)?;
        if file.len() != u64::from(header.length) || sealed.end < SEGMENT_HEADER {
            return Ok(None);
        }
        let writer = SegmentWriter::resume(&header, &sealed, group);
        Ok(Some(Open { writer, durable: writer, file, no: piece.file, header: None, lent: true }))
    }
}

/// Are a frame's units what was written? Asked only of frames that no sync is known to have made durable.
fn units_sound(file: &SegmentFile, body_at: u32, body: u32, records: &Records) -> bool {
    let mut bytes = vec![0; index(u64::from(body))];
    if file.read_at(u64::from(body_at), &mut bytes).is_err() {
        return false;
    }
    let mut rest = bytes.as_slice();
    for (entry, lens, _) in placed(&records.entries, &records.lens, body_at) {
        let Action::Write { extent, .. } = &entry.action else { continue };
        for (block, &len) in extent.blocks().zip(lens) {
            let Some((unit, behind)) = rest.split_at_checked(usize::from(len)) else { return false };
            rest = behind;
            if len > 0 && verify(block, unit).is_err() {
                return false;
            }
        }
    }
    rest.is_empty()
}
