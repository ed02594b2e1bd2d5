//! Bookmarks of a group that wait for a barrier: whose turn it is, and who has waited long enough.
//!
//! A barrier is missed for all of them alike; so each is answered at its own deadline, whoever waits before it, and none is made
//! after its caller was told that it is not.

use std::collections::VecDeque;
use std::time::Duration;

use tap_block::{Bookmark, Monotonic, VolumeId};

use crate::volume::BookmarkReply;

/// A barrier that was missed is tried again after this, when somebody waits for it.
const AGAIN: Duration = Duration::from_millis(50);
/// Bookmarks that may wait; more are refused.
pub(crate) const MOST_WANTED: usize = 64;

/// See the module.
#[derive(Default)]
pub(crate) struct Waiting {
    wanted: VecDeque<Wanted>,
    /// Not before this: the last try was missed.
    again: Option<Monotonic>,
}

/// A bookmark that somebody waits for.
pub(crate) struct Wanted {
    pub(crate) bookmark: Bookmark,
    /// The member that was asked.
    pub(crate) asked: VolumeId,
    pub(crate) deadline: Monotonic,
    pub(crate) reply: BookmarkReply,
}

/// What is to be done.
pub(crate) enum Turn {
    /// These have waited long enough: they are told why there is no barrier.
    Over(Vec<Wanted>),
    /// Try a barrier for this one; `again`: the last try was missed.
    Bookmark { bookmark: Bookmark, again: bool },
    /// Nobody waits, and a barrier is due.
    Due,
    /// Nothing, until then.
    Wait(Monotonic),
}

impl Waiting {
    /// One more.
    ///
    /// # Errors
    /// It is handed back when too many wait already.
    pub(crate) fn push(&mut self, wanted: Wanted) -> Result<(), Wanted> {
        if self.wanted.len() >= MOST_WANTED {
            return Err(wanted);
        }
        self.wanted.push_back(wanted);
        Ok(())
    }

    /// The next turn, when a barrier that nobody waits for is due at `due`.
    pub(crate) fn next(&mut self, now: Monotonic, due: Monotonic) -> Turn {
        let over = |wanted: &Wanted| wanted.deadline <= now;
        if self.wanted.iter().any(over) {
            let (over, left) = std::mem::take(&mut self.wanted).into_iter().partition(over);
            self.wanted = left;
            return Turn::Over(over.into());
        }
        let Some(first) = self.wanted.front() else {
            self.again = None;
            return if due <= now { Turn::Due } else { Turn::Wait(due) };
        };
        match self.again {
            Some(again) if now < again => Turn::Wait(again),
            again => Turn::Bookmark { bookmark: first.bookmark.clone(), again: again.is_some() },
        }
    }

    /// The barrier was missed.
    pub(crate) fn missed(&mut self, now: Monotonic) {
        self.again = Some(now.plus(AGAIN));
    }

    /// The barrier of the first was made: it waits no more.
    pub(crate) fn made(&mut self) -> Option<Wanted> {
        self.again = None;
        self.wanted.pop_front()
    }

    /// There will be no barrier any more.
    pub(crate) fn end(&mut self) -> VecDeque<Wanted> {
        std::mem::take(&mut self.wanted)
    }
}

#[cfg(test)]
mod tests {
    use tap_block::Consistency;

    use super::*;

    fn at(ms: u64) -> Monotonic {
        Monotonic::from_nanos(ms * 1_000_000)
    }

    fn wanted(name: &str, deadline: u64) -> Wanted {
        let (consistency, note) = (Consistency::Crash, String::new());
        let bookmark = Bookmark { name: name.parse().unwrap(), consistency, note };
        let (asked, deadline) = (VolumeId::new(1), at(deadline));
        Wanted { bookmark, asked, deadline, reply: Box::new(|_| ()) }
    }

    fn turn(waiting: &mut Waiting, now: u64) -> String {
        match waiting.next(at(now), at(1000)) {
            Turn::Over(over) => over.iter().map(|w| format!("-{}", w.bookmark.name)).collect(),
            Turn::Bookmark { bookmark, again } => {
                format!("{}{}", bookmark.name, if again { " again" } else { "" })
            }
            Turn::Due => "due".to_owned(),
            Turn::Wait(until) => format!("wait {}", until.since(at(0)).as_millis()),
        }
    }

    #[test]
    fn who_waits_behind_another_is_answered_in_time_and_not_made_afterwards() {
        let mut waiting = Waiting::default();
        assert_eq!((turn(&mut waiting, 0), turn(&mut waiting, 1000)), ("wait 1000".into(), "due".into()));
        for (name, deadline) in [("patient", 90_000), ("hasty", 1100), ("other", 90_000)] {
            assert!(waiting.push(wanted(name, deadline)).is_ok());
        }
        assert_eq!(turn(&mut waiting, 1001), "patient");
        waiting.missed(at(1020));
        assert_eq!(
            (turn(&mut waiting, 1020), turn(&mut waiting, 1070)),
            ("wait 1070".into(), "patient again".into())
        );
        waiting.missed(at(1099));
        assert_eq!(turn(&mut waiting, 1100), "-hasty", "though another waits before it");
        assert_eq!(turn(&mut waiting, 1149), "patient again");
        assert_eq!(waiting.made().unwrap().bookmark.name.as_str(), "patient");
        assert_eq!(turn(&mut waiting, 1149), "other", "at once");
        assert_eq!(turn(&mut waiting, 90_000), "-other", "too late to be made");
        assert_eq!(turn(&mut waiting, 90_000), "due");
    }

    #[test]
    fn only_so_many_may_wait() {
        let mut waiting = Waiting::default();
        assert!((0..MOST_WANTED).all(|n| waiting.push(wanted(&format!("b{n}"), 9)).is_ok()));
        assert!(waiting.push(wanted("one-more", 9)).is_err());
        assert_eq!(waiting.end().len(), MOST_WANTED);
        assert!(waiting.made().is_none());
    }
}
