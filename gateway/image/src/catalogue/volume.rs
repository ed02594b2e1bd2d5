//! One volume's history as seen from above: which points exist and which of them are sound.

use std::collections::BTreeMap;
use std::sync::Arc;

use tap_block::{
    BarrierMark, Bookmark, Epoch, Lsn, Name, RunId, RunStart, StreamId, SyncCause, VolumeId, WallTime,
};
use thiserror::Error;

use super::bookmarks::{BookmarkPoint, Bookmarks};
use super::{Marks, Origin, Passed};

/// A protected disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    pub(super) id: VolumeId,
    pub(super) name: Name,
    pub(super) stream: StreamId,
    /// The size from each LSN on.
    pub(super) sizes: BTreeMap<Lsn, u64>,
    pub(super) runs: Vec<Run>,
    pub(super) bookmarks: Bookmarks,
    /// Bookmarks that were forgotten when their points went, the last of them.
    pub(super) gone: Arc<Vec<(Name, Passed)>>,
    pub(super) syncs: Vec<SyncSpan>,
    pub(super) marks: Marks,
    /// Within runs, ascending.
    pub(super) clocks: Vec<ClockSet>,
}

/// Places where a source's clock was set that are remembered of a volume. Of older history times are then looked up as if it had
/// not been.
pub const MOST_CLOCKS: usize = 4096;

/// Bookmarks whose points are gone that are remembered of a volume, so that whoever asks for one is told what became of it.
pub const MOST_GONE: usize = 1024;

/// Where the clock of the source was set within a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockSet {
    /// The first record by the clock as it was from then on.
    pub first: Passed,
    /// What the clock would have shown there.
    pub before: WallTime,
}

/// One life of the tap, as the journal knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// The fencing number it wrote under.
    pub epoch: Epoch,
    /// Its first record.
    pub first: Passed,
    /// The last record of earlier runs that arrived.
    pub previous: Option<Passed>,
}

/// A stretch in which blocks were copied outside the stream of writes, so that no point in it is a disk that
/// ever was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncSpan {
    /// Why.
    pub cause: SyncCause,
    /// The last sound record before it; `None` when nothing was sound.
    pub sound: Option<Passed>,
    /// Its end record: selectable again. `None` while it is open.
    pub end: Option<Passed>,
    /// Bytes copied.
    pub copied: u64,
    /// It tells nothing wrong after all: the disk was all zeroes when it began.
    pub harmless: bool,
    /// Records were lost within it: what its end says about its start no longer holds.
    pub(super) interrupted: bool,
    /// The cause whose [`tap_block::Marker::SyncEnd`] ends it.
    pub(super) ends_with: SyncCause,
}

/// A stretch of history that was lost, as operators see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The last sound record before it.
    pub from: Option<Passed>,
    /// The first sound record after it; `None` while it is open.
    pub to: Option<Passed>,
    /// Why.
    pub cause: SyncCause,
    /// Bytes copied to heal it.
    pub bytes: u64,
}

/// Why a point cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("lsn:{} is no disk that ever was: {} was under way; nearest sound points: {} before, {} after",
    lsn.get(), cause_text(*cause), lsn_text(*nearest_before), lsn_text(*nearest_after))]
pub struct NotSelectable {
    /// The point asked for.
    pub lsn: Lsn,
    /// What was under way there.
    pub cause: SyncCause,
    /// The nearest selectable point before it.
    pub nearest_before: Option<Lsn>,
    /// The nearest selectable point after it.
    pub nearest_after: Option<Lsn>,
}

/// A sync's cause in words.
#[must_use]
pub const fn cause_text(cause: SyncCause) -> &'static str {
    match cause {
        SyncCause::Baseline => "the baseline",
        SyncCause::UncleanStop => "the resync after an unclean stop of the tap",
        SyncCause::Overflow => "the resync after the tap's queues overflowed",
        SyncCause::HopLost => "the resync after a hop lost records",
        SyncCause::FailedWrite => "the resync after the local disk refused a write",
        SyncCause::ChangedUnwatched => "the resync after the disk may have changed unwatched",
    }
}

fn lsn_text(lsn: Option<Lsn>) -> String {
    lsn.map_or_else(|| "none".to_owned(), |l| format!("lsn:{}", l.get()))
}

impl Volume {
    pub(super) fn new(id: VolumeId, name: Name, stream: StreamId) -> Self {
        Self {
            id,
            name,
            stream,
            sizes: BTreeMap::new(),
            runs: Vec::new(),
            bookmarks: Bookmarks::default(),
            gone: Arc::default(),
            syncs: Vec::new(),
            marks: Marks::default(),
            clocks: Vec::new(),
        }
    }

    /// One that no run names: it is lost. Its name says whose it is, as far as anybody knows.
    pub(super) fn unnamed(id: VolumeId, stream: StreamId) -> Option<Self> {
        let name = format!("unnamed-{:016x}", id.get()).parse().ok()?;
        Some(Self::new(id, name, stream))
    }

    /// Is the run that names it lost? Neither its size nor its name is known then, and no point of it can be opened.
    #[must_use]
    pub const fn is_unnamed(&self) -> bool {
        self.runs.is_empty()
    }

    /// Its id.
    #[must_use]
    pub const fn id(&self) -> VolumeId {
        self.id
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// The stream its records are in.
    #[must_use]
    pub const fn stream(&self) -> StreamId {
        self.stream
    }

    /// Its newest size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.sizes.last_key_value().map_or(0, |(_, &size)| size)
    }

    /// Its size at a point; before the first record, the first size.
    #[must_use]
    pub fn size_at(&self, lsn: Lsn) -> u64 {
        let then = self.sizes.range(..=lsn).next_back().or_else(|| self.sizes.first_key_value());
        then.map_or(0, |(_, &size)| size)
    }

    /// The first record from which on the disk has been too small to reach this byte; `None`: it reaches it now.
    #[must_use]
    pub fn beyond_end_since(&self, byte: u64) -> Option<Lsn> {
        let small = self.sizes.iter().rev().take_while(|&(_, &size)| size <= byte);
        small.last().map(|(&lsn, _)| lsn)
    }

    /// The taps' lives, oldest first.
    #[must_use]
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Where the source's clock was set within a run, oldest first.
    #[must_use]
    pub fn clocks(&self) -> &[ClockSet] {
        &self.clocks
    }

    /// The records, first and last, among which a time of the source is looked up: from one of them to the other its clock was
    /// not set. Times that went by twice mean the last time they did. `None` for a time before all history.
    #[must_use]
    pub fn clock_at(&self, time: WallTime) -> Option<(Lsn, Lsn)> {
        let (mut runs, mut clocks) = (self.runs.iter().rev().peekable(), self.clocks.iter().rev().peekable());
        let mut end = Lsn::ZERO.plus(Lsn::LIMIT);
        loop {
            let (run, set) = (runs.peek().map(|r| r.first), clocks.peek().map(|c| c.first));
            let begin = match (run, set) {
                (Some(run), Some(set)) if set.lsn > run.lsn => set,
                (Some(run), _) => run,
                (None, set) => set?,
            };
            if begin.at <= time {
                return Some((begin.lsn, end));
            }
            end = begin.lsn.previous();
            runs.next_if(|r| r.first.lsn == begin.lsn);
            clocks.next_if(|c| c.first.lsn == begin.lsn);
        }
    }

    /// The bookmarks, by name.
    pub fn bookmarks(&self) -> impl Iterator<Item = (&Name, &BookmarkPoint)> {
        self.bookmarks.iter()
    }

    /// Those behind this record, in the order of their records.
    pub fn bookmarks_behind(&self, lsn: Lsn) -> impl Iterator<Item = (&Name, &BookmarkPoint)> {
        self.bookmarks.behind(lsn)
    }

    /// Those before this record, the newest first.
    pub fn bookmarks_before(&self, lsn: Lsn) -> impl Iterator<Item = (&Name, &BookmarkPoint)> {
        self.bookmarks.before(lsn)
    }

    /// Their records, ascending.
    pub fn bookmark_lsns(&self) -> impl Iterator<Item = Lsn> {
        self.bookmarks.lsns()
    }

    /// How many there are.
    #[must_use]
    pub const fn bookmark_count(&self) -> usize {
        self.bookmarks.len()
    }

    /// The bookmark of this name.
    #[must_use]
    pub fn bookmark_named(&self, name: &Name) -> Option<&BookmarkPoint> {
        self.bookmarks.get(name)
    }

    /// The bookmark at this record.
    #[must_use]
    pub fn bookmark_at(&self, lsn: Lsn) -> Option<(&Name, &BookmarkPoint)> {
        self.bookmarks.at(lsn)
    }

    /// Where a bookmark stood whose point is gone, if it is one of the last [`MOST_GONE`] of them.
    #[must_use]
    pub fn gone_bookmark(&self, name: &Name) -> Option<Passed> {
        self.gone.iter().find(|(gone, _)| gone == name).map(|(_, at)| *at)
    }

    /// The marks of barriers over its group.
    #[must_use]
    pub const fn marks(&self) -> &Marks {
        &self.marks
    }

    /// The syncs, oldest first.
    #[must_use]
    pub fn syncs(&self) -> &[SyncSpan] {
        &self.syncs
    }

    /// The sync under way, if any; a baseline before all others.
    #[must_use]
    pub fn open_sync(&self) -> Option<&SyncSpan> {
        let open = || self.syncs.iter().filter(|s| s.end.is_none());
        open().find(|s| s.cause == SyncCause::Baseline).or_else(|| open().next_back())
    }

    /// What history lost.
    pub fn gaps(&self) -> impl Iterator<Item = Gap> {
        let lost = self.syncs.iter().filter(|s| s.cause != SyncCause::Baseline);
        lost.map(|s| Gap { from: s.sound, to: s.end, cause: s.cause, bytes: s.copied })
    }

    /// How many baselines began.
    #[must_use]
    pub fn baseline_count(&self) -> usize {
        self.syncs.iter().filter(|s| s.cause == SyncCause::Baseline).count()
    }

    /// Bytes copied by all syncs that were no baseline.
    #[must_use]
    pub fn resynced_bytes(&self) -> u64 {
        self.gaps().map(|g| g.bytes).sum()
    }

    /// Is the disk at `lsn` one that ever was? Says nothing about whether `lsn` has arrived yet.
    ///
    /// # Errors
    /// [`NotSelectable`] with the nearest points that are sound.
    pub fn selectable(&self, lsn: Lsn) -> Result<(), NotSelectable> {
        if self.is_unnamed() {
            let (cause, nearest_before, nearest_after) = (SyncCause::HopLost, None, None);
            return Err(NotSelectable { lsn, cause, nearest_before, nearest_after });
        }
        let Some(first) = self.syncs.iter().find(|s| s.covers(lsn)) else { return Ok(()) };
        Err(NotSelectable {
            lsn,
            cause: first.cause,
            nearest_before: self.sound_at_or_before(lsn),
            nearest_after: self.sound_at_or_after(lsn),
        })
    }

    /// The newest sound point at or before `lsn`.
    #[must_use]
    pub fn sound_at_or_before(&self, lsn: Lsn) -> Option<Lsn> {
        if self.is_unnamed() {
            return None;
        }
        let mut at = lsn;
        while let Some(sync) = self.syncs.iter().find(|s| s.covers(at)) {
            at = sync.sound?.lsn;
        }
        Some(at)
    }

    /// The first record after which the disk was sound; whether it is still kept is not known here.
    #[must_use]
    pub fn first_selectable(&self) -> Option<Lsn> {
        self.runs.first().and_then(|run| self.sound_at_or_after(run.first.lsn))
    }

    fn sound_at_or_after(&self, lsn: Lsn) -> Option<Lsn> {
        let mut at = lsn;
        while let Some(sync) = self.syncs.iter().find(|s| s.covers(at)) {
            at = sync.end?.lsn;
        }
        Some(at)
    }

    pub(super) fn start_run(&mut self, origin: &Origin, here: Passed, start: &RunStart) {
        self.name = start.name.clone();
        self.stream = origin.stream;
        self.resize(here.lsn, start.size);
        self.runs.push(Run { id: origin.run, epoch: origin.epoch, first: here, previous: origin.previous });
        let lost = origin.previous.is_some_and(|p| p.lsn.next() != here.lsn);
        for open in self.syncs.iter_mut().filter(|s| s.end.is_none()) {
            open.interrupted |= lost;
            // The tap that starts knows what is left to copy: the end of its sync is the end of all.
            open.ends_with = start.sync.unwrap_or(open.ends_with);
        }
        if let Some(cause) = start.sync {
            self.start_sync(cause, origin.previous);
        }
    }

    /// The run that said how large the disk was is lost: before this one no point can be opened, whatever was copied since.
    pub(super) fn lost_before(&mut self, here: Passed) {
        self.syncs.insert(
            0,
            SyncSpan {
                cause: SyncCause::HopLost,
                sound: None,
                end: Some(here),
                copied: 0,
                harmless: false,
                interrupted: true,
                ends_with: SyncCause::HopLost,
            },
        );
    }

    pub(super) fn resize(&mut self, lsn: Lsn, size: u64) {
        if self.sizes.is_empty() || self.size_at(lsn) != size {
            self.sizes.insert(lsn, size);
        }
    }

    /// The first that has a name keeps it, until it is forgotten: whoever was told of that point finds it under its name.
    pub(super) fn bookmark(&mut self, at: Passed, mark: &Bookmark) {
        let point = BookmarkPoint { at, consistency: mark.consistency, note: mark.note.as_str().into() };
        if self.bookmarks.get(&mark.name).is_none() {
            self.bookmarks.insert(mark.name.clone(), point);
            if self.gone_bookmark(&mark.name).is_some() {
                Arc::make_mut(&mut self.gone).retain(|(gone, _)| *gone != mark.name);
            }
        }
    }

    /// Forgets these bookmarks, whose points are gone, but for the last of them where they stood.
    pub(super) fn forget_bookmarks(&mut self, gone: &BTreeMap<Lsn, Name>) {
        let bookmarks = &mut self.bookmarks;
        let forgotten = gone.iter().filter_map(|(lsn, name)| {
            bookmarks.get(name).filter(|there| there.at.lsn == *lsn)?;
            Some((name.clone(), bookmarks.remove(name)?))
        });
        let known = Arc::make_mut(&mut self.gone);
        known.extend(forgotten);
        known.sort_by_key(|(_, at)| at.lsn);
        known.drain(..known.len().saturating_sub(MOST_GONE));
    }

    pub(super) fn forget_bookmark(&mut self, name: &Name) {
        self.bookmarks.remove(name);
    }

    pub(super) fn remove_bookmark(&mut self, name: &Name, point: Lsn) {
        if self.bookmarks.get(name).is_some_and(|there| there.at.lsn == point) {
            self.bookmarks.remove(name);
        }
    }

    pub(super) fn barrier(&mut self, at: Passed, received_at: WallTime, mark: &BarrierMark) {
        if let Some(bookmark) = &mark.bookmark {
            self.bookmark(at, bookmark);
        }
        let bookmarks = &self.bookmarks;
        self.marks.take(at, received_at, mark, || bookmarks.lsns().collect());
    }

    pub(super) fn set_clock(&mut self, first: Passed, before: WallTime) {
        let over = (self.clocks.len() + 1).saturating_sub(MOST_CLOCKS);
        self.clocks.drain(..over);
        self.clocks.push(ClockSet { first, before });
    }

    /// A sync that starts while one of the same cause is open goes on with that one.
    pub(super) fn start_sync(&mut self, ends_with: SyncCause, sound: Option<Passed>) {
        let cause = self.cause_of(ends_with);
        if self.syncs.iter().any(|s| s.end.is_none() && s.cause == cause) {
            return;
        }
        self.syncs.push(SyncSpan {
            cause,
            sound,
            end: None,
            copied: 0,
            harmless: false,
            interrupted: false,
            ends_with,
        });
    }

    /// A volume has one baseline. A tap that is killed before it could note that its baseline had ended goes on with
    /// it; what it lost meanwhile is history all the same, and shown as a gap.
    fn cause_of(&self, said: SyncCause) -> SyncCause {
        let ended = self.syncs.iter().any(|s| s.cause == SyncCause::Baseline && s.end.is_some());
        if ended && said == SyncCause::Baseline { SyncCause::UncleanStop } else { said }
    }

    pub(super) fn end_sync(&mut self, cause: SyncCause, end: Passed, copied: u64, from_zero: bool) {
        let counted = self.cause_of(cause);
        let ending = |s: &&mut SyncSpan| s.end.is_none() && s.ends_with == cause;
        for sync in self.syncs.iter_mut().filter(ending) {
            sync.end = Some(end);
            sync.harmless = from_zero && sync.cause == SyncCause::Baseline && !sync.interrupted;
            if sync.cause == counted {
                sync.copied = copied;
            }
        }
    }
}

impl SyncSpan {
    /// Does it copy every block of the volume? After an unwatched change a tap leaves out what it finds to be here, and
    /// a sync that another one went on with may have become such a one.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        matches!(self.cause, SyncCause::Baseline | SyncCause::HopLost) && self.ends_with == self.cause
    }

    /// The cause that its end names: another sync may have gone on with it.
    #[must_use]
    pub const fn ends_with(&self) -> SyncCause {
        self.ends_with
    }

    /// Does it make `lsn` unsound?
    #[must_use]
    pub fn covers(&self, lsn: Lsn) -> bool {
        let after_start = self.sound.is_none_or(|s| s.lsn < lsn);
        let before_end = self.end.is_none_or(|e| lsn < e.lsn);
        after_start && before_end && !self.harmless
    }
}
