//! A group of the log of which not every frame can be read any more, and that the index has as a whole: it is settled by what the
//! index says.
//!
//! ```text
//!   log      [ 1 2 3 | rot | 7 8 ]     one bit of a frame's head, and nobody can say from the log what lay there
//!   index      1 2 3 4 5 . 7 8         versions of the group: what every point shows, where it lies, whose records there were
//!   catalogue            6             marks, bookmarks, sizes, where the source's clock was set
//!              └─► 1 … 8, but when exactly 4 and 5 were captured: as late as may be, so that no time shows what came after it
//! ```
//!
//! Records that nobody knows of (the beginning of a run, or of a sync) are lost from there on, as if there were no index: were that gone
//! one day, points behind them could not be told from sound ones.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use gateway_image::catalogue::Volume;
use gateway_image::{Catalogue, Origin, Passed};
use gateway_journal::meta::OWN_STREAM;
use gateway_journal::run::decode_run;
use gateway_journal::{FrameHeader, GroupNo, KeptPoint, Place, RegionNo, SegmentId, Start, Version};
use tap_block::{
    Action, BarrierMark, Bookmark, Entry, Epoch, Lsn, Marker, Position, RunId, StreamId, VolumeId, WallTime,
};

use super::{Met, Trail, Window, not_settled};
use crate::error::{Damage, StoreError};
use crate::history::{Loss, explains_jump};
use crate::index::{IndexError, IndexStore as _, Table, keys};
use crate::store::Shared;
use crate::sync::read;
use crate::tail::{Durable, Group, GroupInfo, StreamState};
use crate::times::TimeRow;

/// What is known of a group otherwise than from its frames.
#[derive(Debug, Clone)]
pub(super) struct MadeUp {
    catalogue: Arc<Catalogue>,
    /// Records of each stream that changed something.
    records: BTreeMap<StreamId, BTreeSet<Lsn>>,
    /// When the last of the group was received.
    received_at: WallTime,
    /// Records that were filled in, a stretch at a time.
    filled: Vec<Loss>,
}

/// What a pass went past.
#[derive(Debug)]
pub(crate) struct WentPast {
    /// The group it lies in.
    pub(crate) group: GroupNo,
    /// Bytes that are not what was written, or are gone.
    pub(crate) damage: Vec<Damage>,
    /// Records whose frames lay there, and that are known all the same.
    pub(crate) known: Vec<Loss>,
}

/// A record whose frame cannot be read.
#[derive(Debug, Default)]
struct Told {
    captured_at: Option<WallTime>,
    received_at: Option<WallTime>,
    /// What it says, if it is no change of blocks.
    action: Option<Action>,
}

impl MadeUp {
    /// All that the index has of a group is gone through for it: that is slow, and seldom.
    fn of(shared: &Shared, group: &GroupInfo) -> Result<(Self, Group), StoreError> {
        let catalogue = Arc::clone(&read(&shared.published).catalogue);
        let (mut versions, mut records) = (Group::new(group.no), BTreeMap::<_, BTreeSet<Lsn>>::new());
        let stream = |volume| catalogue.volume(volume).map(|known| known.stream());
        let (from, to) = (keys::run(VolumeId::new(0), RegionNo::new(0), GroupNo::new(0)), vec![0xff; 24]);
        let mut outcome = Ok(());
        shared.index.scan(Table::Runs, &from, &to, &mut |key, run| {
            let place = keys::run_place(key).filter(|_| keys::last_number(key) == Some(group.no.get()));
            let Some((volume, region)) = place else { return true };
            outcome = decode_run(run, |version| {
                versions.push(volume, region, version);
                if let Some(stream) = stream(volume).filter(|_| !version.position.is_copy()) {
                    records.entry(stream).or_default().insert(version.position.lsn());
                }
            });
            outcome.is_ok()
        })?;
        outcome.map_err(|e| IndexError::damaged(e.to_string()))?;
        let (received_at, filled) = (group.received_at, Vec::new());
        Ok((Self { catalogue, records, received_at, filled }, versions))
    }

    /// The last record of a stream here that changed something.
    fn last(&self, stream: StreamId) -> Option<Lsn> {
        self.records.get(&stream)?.last().copied()
    }

    /// What is known of a stream's records, one after the other from `due` on; up to a jump all that is known.
    fn told(&self, stream: StreamId, due: Lsn, upto: Upto) -> Vec<(Lsn, Told)> {
        let lsns = &(due..upto.lsn());
        if lsns.is_empty() {
            return Vec::new();
        }
        let changes = self.records.get(&stream).into_iter().flat_map(|of| of.range(lsns.clone()));
        let mut all: BTreeMap<Lsn, Told> = changes.map(|lsn| (*lsn, Told::default())).collect();
        let volume = self.catalogue.volume_of(stream);
        all.extend(volume.into_iter().flat_map(|volume| self.markers(volume, lsns)));
        if upto != Upto::End {
            all.extend(volume.into_iter().flat_map(|volume| ends_of_syncs(volume, lsns)));
        }
        if matches!(upto, Upto::Jump(_)) {
            volume.into_iter().for_each(|volume| add_sizes(&mut all, volume, lsns));
            return all.into_iter().collect();
        }
        let (mut row, mut due) = (Vec::new(), lsns.start);
        while let Some(told) =
            all.remove(&due).or_else(|| resized(volume?, due)).filter(|_| lsns.contains(&due))
        {
            row.push((due, told));
            due = due.next();
        }
        row
    }

    /// The last of records up to a jump after which the disk was sound: a sync that goes on, or begins, behind it goes back to there.
    fn sound(&self, stream: StreamId, row: &[(Lsn, Told)], upto: Upto) -> Lsn {
        let last = row.last().map_or(Lsn::ZERO, |(lsn, _)| *lsn);
        match self.catalogue.volume_of(stream).filter(|_| matches!(upto, Upto::Jump(_))) {
            Some(volume) => volume.sound_at_or_before(last).unwrap_or_default(),
            None => last,
        }
    }

    /// Markers that the catalogue remembers. Of marks, which may follow each other without an end, those received by now.
    fn markers(&self, volume: &Volume, lsns: &Range<Lsn>) -> Vec<(Lsn, Told)> {
        let named = |lsn: Lsn| {
            let (name, point) = volume.bookmark_at(lsn)?;
            let (name, consistency, note) = (name.clone(), point.consistency, point.note.to_string());
            Some(Bookmark { name, consistency, note })
        };
        let marker = |at: Passed, received_at, marker| {
            let action = Some(Action::Mark(Box::new(marker)));
            (at.lsn, Told { captured_at: Some(at.at), received_at, action })
        };
        let here = |at: Passed| lsns.contains(&at.lsn);
        let of_clock = volume.clocks().iter().filter(|set| here(set.first));
        let mut found: Vec<_> =
            of_clock.map(|set| marker(set.first, None, Marker::ClockSet { before: set.before })).collect();
        let points = volume.bookmarks().map(|(_, point)| point.at).filter(|at| here(*at));
        found.extend(points.filter_map(|at| Some(marker(at, None, Marker::Bookmark(named(at.lsn)?)))));
        // Last: one that is a bookmark as well is both.
        let marks = volume.marks().iter().filter(|m| here(m.at) && m.received_at <= self.received_at);
        found.extend(marks.filter_map(|mark| {
            let of = volume.marks().membership_at(mark.at.lsn)?;
            let (group, members) = (of.group.clone(), of.members.to_vec());
            let barrier = BarrierMark { id: mark.id, group, members, bookmark: named(mark.at.lsn) };
            Some(marker(mark.at, Some(mark.received_at), Marker::Barrier(barrier)))
        }));
        found
    }
}

/// What records are filled in up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Upto {
    /// The end of the group. Some of what is known may lie behind it.
    End,
    /// A record that follows in the group.
    Record(Lsn),
    /// One that says why others are left out. Of a run that lies before it as a whole it says all that points behind it need: how large
    /// the disk is, and what is still to be copied.
    Jump(Lsn),
}

impl Upto {
    const fn lsn(self) -> Lsn {
        match self {
            Self::End => Lsn::ZERO.plus(Lsn::LIMIT),
            Self::Record(lsn) | Self::Jump(lsn) => lsn,
        }
    }
}

/// Where syncs end whose copies are in the group.
fn ends_of_syncs(volume: &Volume, lsns: &Range<Lsn>) -> Vec<(Lsn, Told)> {
    let ended = volume.syncs().iter().filter_map(|sync| Some((sync, sync.end?)));
    let ended = ended.filter(|(_, end)| lsns.contains(&end.lsn)).map(|(sync, end)| {
        let (cause, copied, from_zero) = (sync.ends_with(), sync.copied, sync.harmless);
        let action = Action::Mark(Box::new(Marker::SyncEnd { cause, copied, from_zero }));
        (end.lsn, Told { captured_at: Some(end.at), received_at: None, action: Some(action) })
    });
    ended.collect()
}

/// Did the volume get another size there, and not because a run began?
fn resized(volume: &Volume, lsn: Lsn) -> Option<Told> {
    let (size, before) = (volume.size_at(lsn), volume.size_at(lsn.previous()));
    let begins = volume.runs().iter().any(|run| run.first.lsn == lsn);
    let action = Action::Resize { volume: volume.id(), size };
    (size != before && !begins).then_some(Told { action: Some(action), ..Told::default() })
}

/// Where the volume got another size: behind records that are known, or where a run began.
fn add_sizes(all: &mut BTreeMap<Lsn, Told>, volume: &Volume, lsns: &Range<Lsn>) {
    for run in volume.runs().iter().filter(|run| lsns.contains(&run.first.lsn)) {
        let (lsn, at) = (run.first.lsn, Some(run.first.at));
        let action = Some(Action::Resize { volume: volume.id(), size: volume.size_at(lsn) });
        all.insert(lsn, Told { captured_at: at, received_at: None, action });
    }
    let behind: Vec<Lsn> = [lsns.start].into_iter().chain(all.keys().map(|lsn| lsn.next())).collect();
    for mut lsn in behind {
        while lsns.contains(&lsn)
            && !all.contains_key(&lsn)
            && let Some(told) = resized(volume, lsn)
        {
            all.insert(lsn, told);
            lsn = lsn.next();
        }
    }
}

/// Segments that a group's versions lead to, and the one that it ends in, if they are gone and no header names them any more.
fn unnamed(shared: &Shared, group: &GroupInfo, versions: &Group, named: &[Damage]) -> Vec<Damage> {
    let segment = |version: &Version| match version.place {
        Place::Unit(at) => Some(at.segment),
        Place::Zero => None,
    };
    let all = versions.sorted();
    let all = all.iter().flat_map(|(.., versions)| versions.iter()).filter_map(segment);
    let all: BTreeSet<SegmentId> = all.chain([group.through.0]).collect();
    let is_named = |segment: &SegmentId| named.iter().any(|damage| damage.segment == *segment);
    let gone = all.into_iter().filter(|segment| !shared.segments.lives(*segment) && !is_named(segment));
    let damage = |segment| {
        let detail = "the segment is missing".to_owned();
        Damage { segment, from: 0, to: shared.config.segment_len, detail, lost: Vec::new() }
    };
    gone.map(damage).collect()
}

impl Trail {
    /// Follows the log to the end of a group by what the index has of it.
    ///
    /// # Errors
    /// When the index cannot be read; and when a segment is gone, which may be put back until somebody gives it up.
    pub(crate) fn advance_by_index(
        &mut self,
        shared: &Shared,
        group: &GroupInfo,
    ) -> Result<(Window, WentPast), StoreError> {
        let (made_up, versions) = MadeUp::of(shared, group)?;
        let (mut window, mut damage) = (self.stand(), Vec::new());
        self.made_up = Some(made_up);
        let walked = self.advance_into(&mut window, shared, (group.no, group.through), &mut |met| {
            if let Met::Damage(met) | Met::Unsealed(met) | Met::Missing(met) = met {
                damage.push(met.clone());
            }
            Ok(())
        });
        let made_up = self.made_up.take();
        walked?;
        damage.extend(unnamed(shared, group, &versions, &damage));
        let waits =
            |d: &&Damage| !shared.segments.is_there(d.segment) && !shared.is_given_up_as_read(d.segment);
        let gone: Vec<&Damage> = damage.iter().filter(waits).collect();
        if let Some(first) = gone.first() {
            shared.note_gone(&gone);
            return Err(not_settled(first));
        }
        let mut known = Vec::new();
        if let Some(mut made_up) = made_up {
            self.fill_the_rest(shared, &mut made_up, &mut window)?;
            known = made_up.filled;
        }
        window.versions = versions;
        Ok((window, WentPast { group: group.no, damage, known }))
    }

    /// Before a frame is taken in: those before it may be lost.
    pub(super) fn fill_before(
        &mut self,
        header: &FrameHeader,
        entries: &[Entry],
        points: &mut Vec<KeptPoint>,
    ) {
        let Some(mut made_up) = self.made_up.take() else { return };
        let record = entries.iter().find(|e| !e.position.is_copy());
        let (upto, captured_at) = match record {
            Some(e) if explains_jump(e) => (Upto::Jump(e.position.lsn()), e.captured_at),
            Some(e) => (Upto::Record(e.position.lsn()), e.captured_at),
            None => (Upto::Record(header.first_lsn), header.last_time),
        };
        self.fill(&mut made_up, header.stream, upto, (captured_at, header.received_at), points);
        self.made_up = Some(made_up);
    }

    /// Records of a stream whose frames are lost, as far as they are known without a gap, or all up to a jump. They were captured and
    /// received no later than then.
    fn fill(
        &mut self,
        made_up: &mut MadeUp,
        stream: StreamId,
        upto: Upto,
        (captured_at, received_at): (WallTime, WallTime),
        points: &mut Vec<KeptPoint>,
    ) {
        // The index has all that lay here, copies as well, which no number would miss.
        if let Some(suspect) = self.history.suspect.as_mut().filter(|s| !s.seen.contains(&stream)) {
            suspect.seen.push(stream);
        }
        let due = self.history.due(stream);
        let Some(&(mut state)) = self.history.streams.get(&stream) else { return };
        let row = made_up.told(stream, due, upto);
        let sound = made_up.sound(stream, &row, upto);
        for ((lsn, told), captured_at) in row.iter().zip(no_later(&row, captured_at)) {
            let (lsn, received_at) = (*lsn, told.received_at.unwrap_or(received_at));
            self.apply_told(stream, &state, (lsn, captured_at, received_at), told);
            points.push(KeptPoint::new(lsn, captured_at, received_at));
            if lsn <= sound {
                (state.durable.lsn, state.durable.at) = (lsn, captured_at);
                state.latest = captured_at.max(state.latest);
            }
        }
        if let Some((last, _)) = row.last() {
            made_up.filled.push((stream, due, *last));
            self.history.streams.insert(stream, state);
        }
    }

    fn apply_told(
        &mut self,
        stream: StreamId,
        state: &StreamState,
        (lsn, captured_at, received_at): (Lsn, WallTime, WallTime),
        told: &Told,
    ) {
        let Some(action) = told.action.clone() else { return };
        let Durable { lsn: before, run, epoch, at } = state.durable;
        let origin = Origin { stream, run, epoch, previous: Some(Passed { lsn: before, at }), received_at };
        let entry = Entry { position: Position::record(lsn), captured_at, action };
        Arc::make_mut(&mut self.history.catalogue).apply(&origin, &entry);
    }

    /// Behind the group's last sound frame of each stream.
    fn fill_the_rest(
        &mut self,
        shared: &Shared,
        made_up: &mut MadeUp,
        window: &mut Window,
    ) -> Result<(), StoreError> {
        let streams = self.history.streams.keys().chain(made_up.records.keys());
        let streams: BTreeSet<StreamId> = streams.copied().filter(|stream| *stream != OWN_STREAM).collect();
        for stream in streams {
            let last = made_up.last(stream);
            let captured_at = captured_behind(shared, stream, last.unwrap_or_default())?;
            let points = window.points.entry(stream).or_default();
            let times = (captured_at, made_up.received_at);
            self.fill(made_up, stream, Upto::End, times, points);
            if let Some(last) = last.filter(|last| *last >= self.history.due(stream)) {
                self.lose_up_to(made_up, stream, last, captured_at);
            }
        }
        Ok(())
    }

    /// Some records up to this one are known, and some before them are not.
    fn lose_up_to(&mut self, made_up: &MadeUp, stream: StreamId, last: Lsn, captured_at: WallTime) {
        let ((segment, Start { at, .. }), due) = (self.at(), self.history.due(stream));
        let detail = "the records before this frame are missing".to_owned();
        let border = Damage { segment, from: at, to: at, detail, lost: Vec::new() };
        let damage = self.history.suspect.as_ref().map_or(border, |suspect| suspect.damage.clone());
        self.history.lose(&damage, (stream, due, last));
        if let Some(volume) = made_up.catalogue.volume_of(stream) {
            Arc::make_mut(&mut self.history.catalogue).find_unnamed(stream, Some(volume.id()));
        }
        let (run, epoch) = (RunId::new(0), Epoch::new(0));
        let durable = Durable { lsn: last, run, epoch, at: captured_at };
        let unknown = StreamState { durable, latest: captured_at, row: (captured_at, 0) };
        let state = self.history.streams.entry(stream).or_insert(unknown);
        (state.durable.lsn, state.durable.at) = (last, captured_at);
    }
}

/// For each record, a time that it was not captured after: its own, or the one of the next that has one.
fn no_later(row: &[(Lsn, Told)], behind: WallTime) -> Vec<WallTime> {
    let mut bound = behind;
    let mut times: Vec<WallTime> = row
        .iter()
        .rev()
        .map(|(_, told)| {
            bound = told.captured_at.unwrap_or(bound);
            bound
        })
        .collect();
    times.reverse();
    times
}

/// When the first frame of a stream behind this record was captured, as far as the index has rows of frames; else its last record.
fn captured_behind(shared: &Shared, stream: StreamId, lsn: Lsn) -> Result<WallTime, StoreError> {
    let (from, to) = (keys::time(stream, lsn), keys::time(stream, Lsn::ZERO.plus(Lsn::LIMIT)));
    let mut found = None;
    shared.index.scan(Table::Times, &from, &to, &mut |key, value| {
        found = TimeRow::decode(key, value).map(|row| row.time);
        found.is_none()
    })?;
    let newest = || read(&shared.published).streams.get(&stream).map(|durable| durable.at);
    Ok(found.or_else(newest).unwrap_or_default())
}
