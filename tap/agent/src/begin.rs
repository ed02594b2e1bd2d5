//! How a run begins: what the last one left behind decides what must be copied, and why.

use std::io;
use std::time::Duration;

use tap_block::{
    Epoch, Extent, ExtentSet, Lsn, Name, RunId, RunStart, StreamId, SyncCause, VolumeId, WallTime,
};
use tap_disk::FileIdentity;
use tap_splitter::{RegionMarks, RegionSize, Start};
use thiserror::Error;

use crate::proof::{self, Unproven};
use crate::state::{Alive, Disk, State};

/// LSNs are reserved this far ahead at the start of a run.
pub(crate) const RESERVATION: u64 = 1 << 20;
/// The tap notes each second that it watches; a disk changed later than this after the last note was changed
/// by somebody else.
const WATCH_SLACK: Duration = Duration::from_secs(4);

/// What is there when a tap starts.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) state: Option<State>,
    /// `None`: there is no activity log that can be read.
    pub(crate) marks: Option<RegionMarks>,
    /// The last run's last note that it watched.
    pub(crate) alive: Option<Alive>,
    pub(crate) identity: FileIdentity,
}

/// Numbers drawn for this start; the first two are used when protection begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Drawn {
    pub(crate) stream: StreamId,
    pub(crate) volume: VolumeId,
    pub(crate) run: RunId,
}

/// What to do: make `state` and the start's marks durable, in this order, then go.
#[derive(Debug)]
pub(crate) struct Beginning {
    pub(crate) state: State,
    pub(crate) start: Start,
    /// After a clean stop: every record up to here is below or in the spool.
    pub(crate) left: Option<Lsn>,
}

/// Why a run cannot begin.
#[derive(Debug, Error)]
pub(crate) enum BeginError {
    #[error(
        "the protected disk has shrunk from {was} to {is} bytes: give it its old size back, or stop protecting it and \
         begin anew (move the tap's directory for it away)"
    )]
    Shrunk { was: u64, is: u64 },
    #[error("cannot find out where the protected disk has data: {0}")]
    Data(#[from] io::Error),
}

/// Decides. `data` lists where the disk has data; it is called only when the whole disk is to be copied.
pub(crate) fn begin(
    found: Found,
    drawn: Drawn,
    name: &Name,
    data: impl FnOnce() -> io::Result<ExtentSet>,
) -> Result<Beginning, BeginError> {
    let size = found.identity.size;
    let log = log_of(&found);
    let (state, copy) = match found.state {
        None => first_time(drawn, found.identity),
        Some(ref old) if size < old.disk.size => {
            return Err(BeginError::Shrunk { was: old.disk.size, is: size });
        }
        Some(ref old) => again(old, drawn, &found, &log),
    };
    let (dirty, fresh) = match copy {
        Copy::Nothing => (ExtentSet::new(), false),
        Copy::Marked => (marked(&log, size), false),
        Copy::Data => (data()?, true),
        Copy::Everything => (std::iter::once(Extent::between(0, size).to_blocks()).collect(), false),
    };
    let first_lsn = first_lsn(found.state.as_ref());
    let run = RunStart {
        previous: found.state.as_ref().map(|s| s.run),
        durable: state.everywhere,
        volume: state.volume,
        name: name.clone(),
        size,
        sync: state.sync,
    };
    let marks = marks_for(log, &dirty, size);
    // Most of a disk that was changed unwatched is what it was, and most of a marked region. What a hop lost is
    // copied as a whole: that heals a damaged journal, too.
    let compare = matches!(state.sync, Some(SyncCause::ChangedUnwatched | SyncCause::UncleanStop));
    let left = found.state.as_ref().and_then(|s| s.clean).map(|clean| clean.next.previous());
    // After a clean stop the old run's end is known.
    let unproven = !state.unproven.is_empty() && found.state.is_some_and(|old| old.clean.is_none());
    let start = Start { run, first_lsn, bound: state.bound, marks, dirty, fresh, compare, unproven };
    Ok(Beginning { state, start, left })
}

/// What the activity log marks. It is written before the state is for the first time: where there is a state and no log, that
/// was lost, and everything may have been under way.
fn log_of(found: &Found) -> RegionMarks {
    let size = found.identity.size;
    match (&found.marks, &found.state) {
        (Some(marks), _) => marks.clone(),
        (None, Some(_)) => RegionMarks::repeat(true, RegionSize::for_volume(size).count(size)),
        (None, None) => RegionMarks::new(),
    }
}

enum Copy {
    Nothing,
    /// What the activity log marks.
    Marked,
    /// Where the disk has data; nothing was ever sent.
    Data,
    Everything,
}

fn first_time(drawn: Drawn, identity: FileIdentity) -> (State, Copy) {
    let state = State {
        stream: drawn.stream,
        volume: drawn.volume,
        epoch: Epoch::new(1),
        run: drawn.run,
        bound: Lsn::ZERO.plus(RESERVATION),
        everywhere: Lsn::ZERO,
        clean: None,
        sync: Some(SyncCause::Baseline),
        baselines: 1,
        resynced: 0,
        disk: Disk::from(identity),
        first: first_lsn(None),
        unproven: Vec::new(),
        lineage: Vec::new(),
    };
    (state, Copy::Data)
}

fn again(old: &State, drawn: Drawn, found: &Found, log: &RegionMarks) -> (State, Copy) {
    let changed = changed_unwatched(old, found);
    let unproven = unproven(old, found, changed);
    // A killed run that left nothing marked left nothing to copy, as far as is known here.
    let unfinished = old.clean.is_none() && (log.any() || !unproven.is_empty());
    let cause = match (changed, unfinished) {
        (true, _) => Some(SyncCause::ChangedUnwatched),
        (false, true) => Some(SyncCause::UncleanStop),
        (false, false) => None,
    };
    // An open sync goes on; a baseline stays a baseline, whatever else happened.
    let sync = match old.sync {
        Some(SyncCause::Baseline) => Some(SyncCause::Baseline),
        open => cause.or(open),
    };
    let copy = match (changed, sync) {
        (true, _) => Copy::Everything,
        (false, Some(_)) => Copy::Marked,
        (false, None) => Copy::Nothing,
    };
    let first = first_lsn(Some(old));
    let mut lineage = old.lineage.clone();
    proof::descend(&mut lineage, old.run);
    let state = State {
        run: drawn.run,
        bound: first.plus(RESERVATION).max(old.bound),
        clean: None,
        sync,
        disk: Disk::from(found.identity),
        first,
        unproven,
        lineage,
        ..old.clone()
    };
    (state, copy)
}

/// The runs whose ends are to be looked for below. A disk that is compared as a whole needs no proof.
fn unproven(old: &State, found: &Found, changed: bool) -> Vec<Unproven> {
    let mut runs = old.unproven.clone();
    if changed {
        runs.clear();
        return runs;
    }
    if let Some(Alive { at: ended, .. }) = found.alive {
        // Of one that stopped cleanly all is known; it is no stranger beside the others, and who wrote after it is.
        let alive = if old.clean.is_some() { WallTime::from_nanos(u64::MAX) } else { ended };
        proof::add(&mut runs, Unproven { run: old.run, first: old.first, alive, ended });
    }
    runs
}

/// After a clean stop the disk must be exactly as it was left; after any other, it may have been changed by our own
/// last writes, so what counts is whether it changed after we were gone, or went back behind what we saw of it: somebody
/// put an older copy in its place.
fn changed_unwatched(old: &State, found: &Found) -> bool {
    let id = found.identity;
    if id.is_block_device || Disk::from(id) != old.disk {
        return true;
    }
    match (old.clean, found.alive) {
        (Some(clean), _) => clean.changed_ns != id.ctime_ns,
        (None, Some(alive)) => {
            let latest = i64::try_from(alive.at.plus(WATCH_SLACK).nanos()).unwrap_or(i64::MAX);
            id.ctime_ns > latest || alive.changed_ns.is_some_and(|noted| id.ctime_ns < noted)
        }
        (None, None) => true,
    }
}

fn first_lsn(old: Option<&State>) -> Lsn {
    match old {
        None => Lsn::ZERO.next(),
        Some(State { clean: Some(clean), .. }) => clean.next,
        Some(old) => old.bound,
    }
}

fn marked(marks: &RegionMarks, size: u64) -> ExtentSet {
    let region = RegionSize::for_volume(size);
    marks.iter_ones().map(|i| region.extent(i, size).to_blocks()).collect()
}

fn marks_for(mut marks: RegionMarks, dirty: &ExtentSet, size: u64) -> RegionMarks {
    let region = RegionSize::for_volume(size);
    marks.resize(region.count(size), false);
    for extent in dirty.iter() {
        let range = region.touched(Extent::between(extent.offset(), extent.end().min(size)));
        if let Some(bits) = marks.get_mut(range) {
            bits.fill(true);
        }
    }
    marks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::CleanStop;

    const SIZE: u64 = 8 << 20;

    fn identity() -> FileIdentity {
        FileIdentity { size: SIZE, inode: 5, device: 6, ctime_ns: 1_000, is_block_device: false }
    }

    fn drawn(run: u64) -> Drawn {
        Drawn { stream: StreamId::new(1), volume: VolumeId::new(2), run: RunId::new(run) }
    }

    fn go(found: Found) -> Beginning {
        let name = "web01".parse().unwrap();
        begin(found, drawn(9), &name, || Ok(ExtentSet::new())).unwrap()
    }

    fn left_behind(clean: Option<CleanStop>, marks: &[usize]) -> Found {
        let found = Found { state: None, marks: None, alive: None, identity: identity() };
        let mut state = go(found).state;
        (state.clean, state.sync) = (clean, None);
        let mut map = RegionMarks::repeat(false, 8);
        marks.iter().for_each(|&i| map.set(i, true));
        Found {
            state: Some(state),
            marks: Some(map),
            alive: Some(Alive { at: WallTime::from_nanos(1_000), changed_ns: Some(900), log: None }),
            identity: identity(),
        }
    }

    const CLEAN: CleanStop = CleanStop { next: Lsn::ZERO, changed_ns: 1_000 };

    #[test]
    fn a_clean_stop_is_followed_by_the_next_lsn_and_no_copy() {
        let clean = CleanStop { next: Lsn::ZERO.plus(50), ..CLEAN };
        let b = go(left_behind(Some(clean), &[3]));
        assert_eq!((b.start.first_lsn, b.start.run.sync), (clean.next, None));
        assert!(b.start.dirty.is_empty() && b.state.clean.is_none());
        assert_eq!(b.left, Some(Lsn::ZERO.plus(49)));
    }

    #[test]
    fn after_an_unclean_stop_the_marked_regions_and_no_used_lsn() {
        let found = left_behind(None, &[3]);
        let bound = found.state.as_ref().unwrap().bound;
        let b = go(found);
        assert_eq!((b.start.first_lsn, b.start.run.sync), (bound, Some(SyncCause::UncleanStop)));
        assert_eq!(b.start.dirty.iter().collect::<Vec<_>>(), [Extent::between(3 << 20, 4 << 20)]);
        assert!(b.start.compare);
        assert!(b.state.bound > bound);
        assert_eq!(b.left, None, "of what is not there the marks say more");
        let idle = go(left_behind(None, &[]));
        assert!(idle.start.dirty.is_empty(), "nothing was under way");
        assert_eq!(idle.start.run.sync, Some(SyncCause::UncleanStop), "as far as is known here");
    }

    #[test]
    fn a_lost_activity_log_marks_everything() {
        let lost = |clean| Found { marks: None, ..left_behind(clean, &[]) };
        let b = go(lost(None));
        assert_eq!((b.start.run.sync, b.start.compare), (Some(SyncCause::UncleanStop), true));
        assert_eq!(b.start.dirty.bytes(), SIZE);
        // After a clean stop nothing is to be copied, but what was sent may be on its way yet.
        let b = go(lost(Some(CLEAN)));
        assert_eq!((b.start.run.sync, b.start.dirty.bytes(), b.start.marks.all()), (None, 0, true));
    }

    #[test]
    fn what_a_killed_run_left_is_to_be_proven_below() {
        let found = left_behind(None, &[]);
        let killed = found.state.clone().unwrap();
        let b = go(found);
        let ended = WallTime::from_nanos(1_000);
        let of_first = Unproven { run: killed.run, first: Lsn::ZERO.next(), alive: ended, ended };
        assert_eq!((b.start.unproven, b.state.unproven.clone()), (true, vec![of_first]));
        assert_eq!(b.state.first, b.start.first_lsn);
        // Killed again before anybody answered.
        let again = |state: State| Found { state: Some(state), ..left_behind(None, &[]) };
        let runs = go(again(b.state.clone())).state.unproven;
        assert_eq!((runs.len(), runs[0], runs[1].first), (2, of_first, b.state.first));
        // Stopped cleanly before: it is still to be proven, and nothing waits for it.
        let stopped = go(again(State { clean: Some(CLEAN), sync: None, ..b.state.clone() }));
        assert_eq!((stopped.start.unproven, stopped.start.run.sync), (false, None));
        assert_eq!(stopped.state.unproven[0], of_first);
        let whole = Unproven { alive: WallTime::from_nanos(u64::MAX), ..of_first };
        assert_eq!(stopped.state.unproven[1].alive, whole.alive, "it is known whole");
        // A newer copy may have gone on from there.
        let clean = go(left_behind(Some(CLEAN), &[]));
        assert_eq!((clean.start.unproven, clean.state.unproven), (false, vec![whole]));
        assert_eq!((b.state.lineage, clean.state.lineage), (vec![killed.run], vec![killed.run]));
    }

    #[test]
    fn a_disk_that_changed_unwatched_is_copied_whole() {
        let mut found = left_behind(Some(CLEAN), &[]);
        found.identity.ctime_ns += 1;
        let b = go(found);
        assert_eq!(b.start.run.sync, Some(SyncCause::ChangedUnwatched));
        assert_eq!((b.start.dirty.bytes(), b.start.compare), (SIZE, true));
        let mut found = left_behind(None, &[]);
        found.identity.ctime_ns = 60_000_000_000;
        assert_eq!(go(found).start.run.sync, Some(SyncCause::ChangedUnwatched));
        let mut found = left_behind(Some(CLEAN), &[]);
        found.identity.inode += 1;
        assert_eq!(go(found).start.run.sync, Some(SyncCause::ChangedUnwatched));
    }

    #[test]
    fn a_disk_that_went_back_behind_what_was_seen_of_it_is_copied_whole() {
        let mut found = left_behind(None, &[]);
        found.identity.ctime_ns = 899;
        let b = go(found);
        assert_eq!(b.start.run.sync, Some(SyncCause::ChangedUnwatched));
        assert_eq!((b.start.dirty.bytes(), b.start.compare), (SIZE, true));
        // The last writes came after the note; and an older program noted less.
        for (seen, is) in [(Some(900), 901), (Some(900), 900), (None, 1)] {
            let mut found = left_behind(None, &[]);
            found.identity.ctime_ns = is;
            found.alive = found.alive.map(|alive| Alive { changed_ns: seen, ..alive });
            assert_ne!(go(found).start.run.sync, Some(SyncCause::ChangedUnwatched));
        }
    }

    #[test]
    fn an_open_baseline_goes_on_as_one() {
        let mut found = left_behind(None, &[1]);
        found.state.as_mut().unwrap().sync = Some(SyncCause::Baseline);
        let b = go(found);
        assert_eq!((b.start.run.sync, b.state.baselines), (Some(SyncCause::Baseline), 1));
        assert_eq!(b.start.dirty.bytes(), 1 << 20);
    }

    #[test]
    fn a_shrunk_disk_is_refused() {
        let mut found = left_behind(Some(CLEAN), &[]);
        found.identity.size = 4096;
        let refused = begin(found, drawn(1), &"a".parse().unwrap(), || Ok(ExtentSet::new()));
        assert!(matches!(refused, Err(BeginError::Shrunk { was: SIZE, is: 4096 })));
    }
}
