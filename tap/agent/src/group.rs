//! A consistency group: volumes of one tap whose writes depend on one another. A thread puts a barrier over their streams now
//! and then, and whenever a bookmark of the group is asked for.
//!
//! ```text
//!   A  w w │ w w w          the mark is put into every stream while all members are locked, for microseconds: who was
//!   B  w   │ w              answered before it is before it. Answers wait only for writes of a part of a block that were
//!   C      │ w w w w        answered without an LSN, and no longer than 20 ms (tap_splitter::attempt).
//! ```

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use cx_wire::{AskCode, AskError};
use tap_block::{BarrierMark, Bookmark, Clock, Lsn, MarkId, Monotonic, Name, VolumeId, WallTime};
use tap_disk::RealClock;
use tap_splitter::attempt::{Attempt, Missed, Step};
use tap_splitter::{Event, Progress};

use crate::volume::{BookmarkReply, Locked, Volume, now, together, too_early};

/// A barrier that was missed is tried again after this, when somebody waits for it.
const AGAIN: Duration = Duration::from_millis(50);
/// Whoever asks for a bookmark of a group waits for so many tries at least.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);
/// Bookmarks that may wait for their barriers; more are refused.
const MOST_WANTED: usize = 64;

/// A group as it was given: its name and the names of its members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupOf {
    /// Its name.
    pub name: Name,
    /// Volumes of this tap.
    pub members: Vec<Name>,
}

/// What came of a group's barriers since the tap started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Barriers {
    /// Barriers that were made.
    pub made: u64,
    /// Barriers that were given up because a member did not catch up within 20 ms.
    pub late: u64,
    /// Barriers that were not made because a member was being copied.
    pub refused: u64,
}

/// See the module.
pub(crate) struct Group {
    name: Name,
    /// Ascending in their ids.
    members: Vec<Arc<Volume>>,
    ids: Vec<VolumeId>,
    interval: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    wanted: VecDeque<Wanted>,
    barriers: Barriers,
    /// The last barrier was late.
    late: bool,
    stopped: bool,
}

/// A bookmark that somebody waits for.
struct Wanted {
    bookmark: Bookmark,
    /// The member that was asked.
    asked: VolumeId,
    deadline: Monotonic,
    reply: BookmarkReply,
}

/// A mark in every stream.
struct Made {
    at: WallTime,
    /// In the order of the members.
    heads: Vec<Lsn>,
}

/// What came of a step.
enum Turn {
    Over(Result<Made, Why>),
    Wait { until: Monotonic },
}

/// Why a barrier was not made.
struct Why {
    missed: Missed,
    sync: Option<Progress>,
}

impl Group {
    /// Of `members`, each with its id.
    pub(crate) fn new(
        name: Name,
        mut members: Vec<(VolumeId, Arc<Volume>)>,
        interval: Duration,
    ) -> Arc<Self> {
        members.sort_by_key(|(id, _)| *id);
        let (ids, members) = members.into_iter().unzip();
        let (state, changed) = (Mutex::default(), Condvar::new());
        let group = Arc::new(Self { name, members, ids, interval, state, changed });
        group.members.iter().for_each(|volume| volume.join(&group));
        group
    }

    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    pub(crate) fn barriers(&self) -> Barriers {
        self.lock().barriers
    }

    /// Runs until it is stopped.
    pub(crate) fn spawn(self: &Arc<Self>) -> std::io::Result<JoinHandle<()>> {
        let group = Arc::clone(self);
        std::thread::Builder::new().name(format!("group-{}", self.name)).spawn(move || group.run())
    }

    /// No barrier begins after this; who waits for one is told so.
    pub(crate) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    /// A bookmark in the stream of each member, at one barrier. `asked` is told its own place.
    pub(crate) fn bookmark(&self, asked: &Volume, bookmark: Bookmark, wait: Duration, reply: BookmarkReply) {
        let found = self.members.iter().zip(&self.ids).find(|(member, _)| member.name() == asked.name());
        let Some((_, &asked)) = found else { return reply(Err(self.stopping())) };
        let deadline = RealClock.monotonic().plus(wait.max(LEAST_PATIENCE));
        let mut state = self.lock();
        let refused = if state.stopped {
            Some(self.stopping())
        } else {
            (state.wanted.len() >= MOST_WANTED).then(|| self.crowded())
        };
        if let Some(refused) = refused {
            drop(state);
            return reply(Err(refused));
        }
        state.wanted.push_back(Wanted { bookmark, asked, deadline, reply });
        drop(state);
        self.changed.notify_all();
    }

    fn run(&self) {
        let mut marked: Option<Vec<Lsn>> = None;
        let mut due = RealClock.monotonic().plus(self.interval);
        while let Some(wanted) = self.next(due) {
            due = RealClock.monotonic().plus(self.interval);
            if let Some(wanted) = wanted {
                marked = self.bookmark_now(wanted).or(marked);
            } else if marked.as_ref() != Some(&self.heads())
                && let Ok(made) = self.barrier(None)
            {
                marked = Some(made.heads);
            }
        }
        for wanted in std::mem::take(&mut self.lock().wanted) {
            (wanted.reply)(Err(self.stopping()));
        }
    }

    /// Waits for the next bookmark, or until `due`; `None` once it is stopped.
    fn next(&self, due: Monotonic) -> Option<Option<Wanted>> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            if let Some(wanted) = state.wanted.pop_front() {
                return Some(Some(wanted));
            }
            let left = due.since(RealClock.monotonic());
            if left == Duration::ZERO {
                return Some(None);
            }
            (state, _) = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Tries until there is a barrier or it is too late; what was marked.
    fn bookmark_now(&self, wanted: Wanted) -> Option<Vec<Lsn>> {
        let Wanted { bookmark, asked, deadline, reply } = wanted;
        loop {
            match self.barrier(Some(bookmark.clone())) {
                Ok(made) => {
                    let own = self.ids.iter().zip(&made.heads).find(|(id, _)| **id == asked);
                    reply(own.map(|(_, lsn)| (*lsn, made.at)).ok_or_else(|| self.stopping()));
                    return Some(made.heads);
                }
                Err(why) if RealClock.monotonic() >= deadline => {
                    reply(Err(self.missed(&why)));
                    return None;
                }
                Err(_) => {}
            }
            let state = self.lock();
            if state.stopped {
                drop(state);
                reply(Err(self.stopping()));
                return None;
            }
            drop(self.changed.wait_timeout(state, AGAIN).unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn heads(&self) -> Vec<Lsn> {
        self.members.iter().map(|volume| volume.snapshot().head).collect()
    }

    /// One attempt.
    fn barrier(&self, bookmark: Option<Bookmark>) -> Result<Made, Why> {
        let outcome = self.attempt(bookmark);
        let mut state = self.lock();
        let late = matches!(&outcome, Err(Why { missed: Missed::Late, .. }));
        match &outcome {
            Ok(_) => state.barriers.made += 1,
            Err(_) if late => state.barriers.late += 1,
            Err(_) => state.barriers.refused += 1,
        }
        // Said once for as long as it goes on.
        if late && !std::mem::replace(&mut state.late, late) {
            let Barriers { made, late, .. } = state.barriers;
            tracing::warn!(
                group = %self.name, made, late,
                "no barrier could be made within 20 ms: a member's disk is slow; it is tried again and again"
            );
        }
        state.late = late;
        outcome
    }

    fn attempt(&self, bookmark: Option<Bookmark>) -> Result<Made, Why> {
        let (mut attempt, mut held) = (Attempt::default(), None);
        loop {
            let turn = together(&self.members, |members| self.turn(&mut attempt, members, &bookmark));
            match turn {
                Turn::Over(outcome) => return outcome,
                Turn::Wait { until } => {
                    // From here on it is let go on every way out.
                    held.get_or_insert_with(|| Holding(&self.members));
                    self.members.iter().for_each(|volume| volume.wait_caught_up(until));
                }
            }
        }
    }

    /// One step of it, with all members locked.
    fn turn(&self, attempt: &mut Attempt, members: &mut [Locked<'_>], bookmark: &Option<Bookmark>) -> Turn {
        let now = now(&RealClock);
        match attempt.next(members.iter().map(|m| m.standing()), now.monotonic) {
            Step::Mark => {
                let at = members.iter().map(|m| m.earliest_mark(now)).max().unwrap_or(now.wall);
                let mark = self.mark(at, bookmark.clone());
                let heads = members.iter_mut().map(|m| m.put(mark.clone(), at)).collect();
                Turn::Over(Ok(Made { at, heads }))
            }
            Step::GiveUp(missed) => {
                Turn::Over(Err(Why { missed, sync: members.iter().find_map(|m| m.sync()) }))
            }
            Step::Hold { until } => {
                members.iter_mut().for_each(|m| m.tell(Event::Hold));
                Turn::Wait { until }
            }
            Step::Wait { until } => Turn::Wait { until },
        }
    }

    fn mark(&self, at: WallTime, bookmark: Option<Bookmark>) -> BarrierMark {
        let id = MarkId::new(at.nanos());
        BarrierMark { id, group: self.name.clone(), members: self.ids.clone(), bookmark }
    }

    fn missed(&self, why: &Why) -> AskError {
        if why.missed == Missed::Refused {
            return too_early(why.sync);
        }
        let text = "no barrier over the group could be made within 20 ms, again and again: its disks answer too slowly; try \
                    again when there is less to write";
        AskError::new(AskCode::Timeout, text)
    }

    fn stopping(&self) -> AskError {
        let text = format!(
            "no barrier over {} is made any more, for the tap stops: try again when it runs",
            self.name
        );
        AskError::new(AskCode::Failed, text)
    }

    fn crowded(&self) -> AskError {
        let text =
            format!("{MOST_WANTED} bookmarks of {} wait already: try again when some are made", self.name);
        AskError::new(AskCode::Conflict, text)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Members that keep back answers, until this is dropped.
struct Holding<'g>(&'g [Arc<Volume>]);

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|volume| volume.apply(Event::Release));
    }
}
