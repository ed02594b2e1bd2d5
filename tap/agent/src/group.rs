//! A consistency group: volumes of one tap whose writes depend on one another. A thread puts a barrier over their streams now
//! and then, and whenever a bookmark of the group is asked for.
//!
//! ```text
//!   A  w w │ w w w          the mark is put into every stream while all members are locked, for microseconds: who was
//!   B  w   │ w              answered before it is before it, for a write has its LSN when it is answered.
//!   C      │ w w w w
//! ```

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use cx_wire::{AskCode, AskError};
use tap_block::{BarrierMark, Bookmark, Clock, Lsn, MarkId, Monotonic, Name, VolumeId, WallTime};
use tap_disk::RealClock;
use tap_splitter::{Event, Progress};

use crate::volume::{BookmarkReply, Locked, Volume, describe, now, together, too_early};
use crate::waiting::{MOST_WANTED, Turn, Waiting, Wanted};

/// Whoever asks for a bookmark of a group waits for so many tries at least.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);

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
    waiting: Waiting,
    barriers: Barriers,
    /// Why barriers are not made at the moment; said once for as long as that goes on.
    said: bool,
    stopped: bool,
}

/// A mark in every stream.
struct Made {
    at: WallTime,
    /// In the order of the members.
    heads: Vec<Lsn>,
}

/// Why a barrier was not made: what is being copied, and of which member.
#[derive(Clone, Default)]
struct Why {
    sync: Option<(Name, Progress)>,
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
            Err((reply, self.stopping()))
        } else {
            let wanted = Wanted { bookmark, asked, deadline, reply };
            state.waiting.push(wanted).map_err(|wanted| (wanted.reply, self.crowded()))
        };
        drop(state);
        match refused {
            Ok(()) => self.changed.notify_all(),
            Err((reply, why)) => reply(Err(why)),
        }
    }

    fn run(&self) {
        let (mut marked, mut why): (Option<Vec<Lsn>>, Option<Why>) = (None, None);
        let mut due = RealClock.monotonic().plus(self.interval);
        while let Some(turn) = self.next(due) {
            let outcome = match turn {
                Turn::Over(over) => {
                    let sync = why.as_ref().and_then(|why| why.sync.as_ref()).map(|(_, sync)| *sync);
                    over.into_iter().for_each(|wanted| (wanted.reply)(Err(too_early(sync))));
                    continue;
                }
                Turn::Bookmark { bookmark, again } => self.bookmark_now(bookmark, again),
                Turn::Due if marked.as_ref() == Some(&self.heads()) => Err(None),
                Turn::Due | Turn::Wait(_) => self.barrier(None, false).map_err(Some),
            };
            due = RealClock.monotonic().plus(self.interval);
            match outcome {
                Ok(made) => marked = Some(made.heads),
                Err(missed) => why = missed.or(why),
            }
        }
        let wanted = self.lock().waiting.end();
        wanted.into_iter().for_each(|wanted| (wanted.reply)(Err(self.stopping())));
    }

    /// The next turn, once it is there; `None` once it is stopped.
    fn next(&self, due: Monotonic) -> Option<Turn> {
        let mut state = self.lock();
        while !state.stopped {
            let now = RealClock.monotonic();
            match state.waiting.next(now, due) {
                Turn::Wait(until) => {
                    let waited = self.changed.wait_timeout(state, until.since(now));
                    (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
                }
                turn => return Some(turn),
            }
        }
        None
    }

    /// One try for the bookmark that is first; who asked for it is told its own place.
    fn bookmark_now(&self, bookmark: Bookmark, again: bool) -> Result<Made, Option<Why>> {
        let made = match self.barrier(Some(bookmark), again) {
            Ok(made) => made,
            Err(why) => {
                self.lock().waiting.missed(RealClock.monotonic());
                return Err(Some(why));
            }
        };
        let wanted = self.lock().waiting.made();
        if let Some(Wanted { asked, reply, .. }) = wanted {
            let own = self.ids.iter().zip(&made.heads).find(|(id, _)| **id == asked);
            reply(own.map(|(_, lsn)| (*lsn, made.at)).ok_or_else(|| self.stopping()));
        }
        Ok(made)
    }

    fn heads(&self) -> Vec<Lsn> {
        self.members.iter().map(|volume| volume.snapshot().head).collect()
    }

    /// One attempt; one that is made `again` for somebody who waits is not counted again.
    fn barrier(&self, bookmark: Option<Bookmark>, again: bool) -> Result<Made, Why> {
        let outcome = self.attempt(bookmark);
        let mut state = self.lock();
        match &outcome {
            Ok(_) => state.barriers.made += 1,
            Err(_) if again => {}
            Err(_) => state.barriers.refused += 1,
        }
        let (before, barriers) = (std::mem::replace(&mut state.said, outcome.is_err()), state.barriers);
        drop(state);
        match &outcome {
            Ok(_) if before => tracing::info!(group = %self.name, "barriers are made again"),
            Err(why) if !before => self.say(why, barriers),
            _ => {}
        }
        outcome
    }

    /// Said once for as long as it goes on.
    fn say(&self, why: &Why, Barriers { made, refused }: Barriers) {
        let text = match &why.sync {
            Some((volume, sync)) => format!(
                "no barrier is made while {} of {volume} is under way ({} of {} bytes done): the group has no new points until \
                 its end",
                describe(sync.cause),
                sync.done,
                sync.total
            ),
            None => "no barrier was made, for a sync of a member has only just ended; it is tried again"
                .to_owned(),
        };
        tracing::warn!(group = %self.name, made, refused, "{text}");
    }

    /// With all members locked, for a moment.
    fn attempt(&self, bookmark: Option<Bookmark>) -> Result<Made, Why> {
        together(&self.members, |members| {
            if !members.iter().all(Locked::takes_marks) {
                let named = members.iter().zip(&self.members);
                let sync = named.into_iter().find_map(|(m, volume)| Some((volume.name().clone(), m.sync()?)));
                return Err(Why { sync });
            }
            let now = now(&RealClock);
            members.iter_mut().for_each(|m| m.tell(Event::Clock));
            let at = members.iter().map(|m| m.earliest_mark(now)).max().unwrap_or(now.wall);
            let mark = self.mark(at, bookmark);
            let heads = members.iter_mut().map(|m| m.put(mark.clone(), at)).collect();
            Ok(Made { at, heads })
        })
    }

    fn mark(&self, at: WallTime, bookmark: Option<Bookmark>) -> BarrierMark {
        let id = MarkId::new(at.nanos());
        BarrierMark { id, group: self.name.clone(), members: self.ids.clone(), bookmark }
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
