//! How much room there is, for the log and for settling, and how hard it is needed.

use std::sync::Arc;
use std::time::Duration;

use gateway_journal::SEGMENT_HEADER;
use tap_block::units::count;

use super::rewrite::FRAME_BYTES;
use crate::error::StoreError;
use crate::store::Shared;
use crate::sync::{lock, read, wait_for, write};
use crate::tail::Published;

/// How hard room is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pressure {
    /// Not at all: policies are followed.
    None,
    /// History is thinned sooner than policies say.
    Thin,
    /// The oldest points go as well.
    Purge,
}

/// A group that fills slowly is closed when its first record is so much older than all that policies keep whole.
const SLACK: Duration = Duration::from_secs(3600);

/// Nobody fills the disk with so many segments from one look to the next.
const NEAR: u64 = 256;

impl Shared {
    /// The index takes versions by the group. One that would still be filling when its records may go is closed early, and
    /// one that is all that a full log holds.
    pub(crate) fn end_old_group(&self) {
        let now = self.age.now();
        let due = {
            let published = read(&self.published);
            let rules = published.catalogue.rules();
            let whole = published.active.volumes().map(|v| rules.policy_of(v).every_write).max();
            let filled = published.ingested.is_empty() && self.pressure() == Pressure::Purge;
            let filled = filled || self.fills_a_limit(&published);
            let begun = published.active.begun.filter(|_| published.active.versions() > 0);
            let old = whole.zip(begun).is_some_and(|(whole, begun)| {
                filled || now.since(begun) > whole.saturating_add(whole.min(SLACK))
            });
            old || self.is_scattered(&published)
        };
        if due {
            let (told, ended) = std::sync::mpsc::channel();
            self.queue.end_group(Box::new(move |_| {
                // Whoever waited may be gone.
                let _ = told.send(());
            }));
            // The sender is dropped if the store stops.
            if ended.recv().is_ok() {
                self.wait_for_index();
            }
        }
    }

    /// Are several segments all that a full log holds, and records of the gateway's own all that they do? It begins one each time it
    /// was killed.
    pub(crate) fn is_scattered(&self, published: &Published) -> bool {
        let empty = published.ingested.is_empty() && published.frozen.is_empty();
        empty && published.active.versions() == 0 && self.segments.count() > 1 && self.is_scarce()
    }

    /// Is a full volume's history in the group that is gathered, and nowhere else in the log?
    fn fills_a_limit(&self, published: &Published) -> bool {
        let limits = read(&self.limits);
        let waits = |stream| published.ingested.iter().any(|g| g.spans.iter().any(|(s, _)| *s == stream));
        published.active.spans().iter().any(|(stream, bytes)| {
            limits.worth_settling(*stream).is_some_and(|worth| *bytes >= worth) && !waits(*stream)
        })
    }

    /// Finds out anew which volumes press against their limits.
    pub(crate) fn find_limits(&self) {
        let (catalogue, usage) = {
            let published = read(&self.published);
            (Arc::clone(&published.catalogue), published.usage())
        };
        let mut limits = write(&self.limits);
        *limits = limits.next(&catalogue, &usage);
    }

    /// Until no group waits for the index, or it fails.
    fn wait_for_index(&self) {
        let mut state = lock(&self.ingest);
        while !read(&self.published).frozen.is_empty() && state.failing.is_none() && !state.stopped {
            state = wait_for(&self.ingest_changed, state, Duration::from_millis(200));
        }
    }

    /// Segments that can still be begun; `None` when nothing limits it.
    pub(super) fn free_segments(&self) -> Option<usize> {
        let used = self.segments.count() + self.segments.settled_count();
        let limit = self.config.max_segments;
        let by_count = (limit != usize::MAX).then(|| limit.saturating_sub(used));
        let len = u64::from(self.config.segment_len);
        let by_space = (self.free)().map(|free| {
            let left = free.saturating_sub(self.config.keep_free) / len;
            usize::try_from(left).unwrap_or(usize::MAX).saturating_add(self.segments.pool().spare())
        });
        [by_count, by_space].into_iter().flatten().min()
    }

    /// Segments that the log can still begin, leaving what settling needs; `None` when nothing limits it.
    pub(crate) fn log_room(&self) -> Option<usize> {
        let free = self.free_segments()?;
        let reserve = self.reserve(free);
        // Of a log that is but one segment nothing could ever go: the last is left behind only once there is another.
        let turns = self.segments.count() <= 1 && free == reserve && free > 2;
        Some(if turns { 1 } else { free.saturating_sub(reserve) })
    }

    /// Is all that is left of room needed to settle?
    pub(crate) fn is_scarce(&self) -> bool {
        self.log_room() == Some(0)
    }

    /// Where the disk gets full, what is left to settling lies ready as files, which whoever else writes to it cannot take: for each
    /// segment beyond the first that the store holds one, as long as it is small.
    pub(crate) fn hold_room(&self) {
        let Some((free, room)) = self.free_segments().zip(self.log_room()) else { return };
        let used = self.segments.count() + self.segments.settled_count();
        let others = (self.free)().unwrap_or(u64::MAX).saturating_sub(self.config.keep_free);
        let near = others / u64::from(self.config.segment_len) < NEAR;
        let held = if near { free.saturating_sub(room).min(used.saturating_sub(1)) } else { 0 };
        self.segments.pool().hold_back(held);
    }

    /// Why appends fail, unless they failed for want of room and there is room again: whoever was refused comes back by and by.
    pub(crate) fn still_failing(&self) -> Option<StoreError> {
        let failing = lock(&self.failing).clone();
        failing.filter(|why| match why {
            StoreError::NoSpace(_) => self.log_room().is_none_or(|room| room == 0),
            StoreError::IndexFull(_) => self.index.is_ill(),
            _ => true,
        })
    }

    /// Has the index opened again that failed, if that is possible now; whoever waits for it goes on.
    pub(crate) fn mend_index(&self) {
        if self.index.mend().is_ok() {
            self.settling.hurry();
        }
    }

    /// May the gateway's own records begin a segment though history may not? They are few and small: one of what is left to
    /// settling is enough for them for long, and without them nobody could say what may go. With the last one something can still be settled.
    pub(crate) fn may_lend(&self) -> bool {
        self.free_segments().is_none_or(|free| free > 1)
    }

    /// Segments that are left to settling.
    fn reserve(&self, free: usize) -> usize {
        // A small disk is for history too.
        let all = self.segments.count() + self.segments.settled_count() + free;
        self.config.settle_reserve.min(all / 2)
    }

    /// Bytes that a pass may write that leaves `kept` segments of what it rewrites behind: one more is for the manifest,
    /// and frames do not fill segments to the last byte.
    pub(super) fn settle_room(&self, kept: usize) -> u64 {
        let Some(free) = self.free_segments() else { return u64::MAX };
        let segments = count(free.saturating_sub(kept).saturating_sub(1));
        (segments * u64::from(self.config.segment_len) / 8).saturating_mul(7)
    }

    /// Bytes that a pass may write that fills all that is left, with its manifest.
    pub(super) fn last_room(&self) -> u64 {
        let free = self.free_segments().unwrap_or(usize::MAX);
        count(free).saturating_mul(self.fits())
    }

    /// Segments that so many bytes of frames fill.
    pub(super) fn segments_for(&self, bytes: u64) -> usize {
        usize::try_from(bytes.div_ceil(self.fits().max(1))).unwrap_or(usize::MAX)
    }

    /// Bytes of frames that a settled segment holds for certain: behind the last there may be room for all but one more.
    fn fits(&self) -> u64 {
        let longest = FRAME_BYTES.min(self.config.segment_len / 4);
        u64::from(self.config.segment_len.saturating_sub(SEGMENT_HEADER).saturating_sub(longest / 4 * 5))
    }

    /// Bytes of the file system that others may take: with less left, history would be thinned to make room, or not be taken any
    /// more. `None` when nobody knows.
    pub(crate) fn room_for_others(&self) -> Option<u64> {
        let free = (self.free)()?;
        let (len, spare) = (u64::from(self.config.segment_len), self.segments.pool().spare());
        let used = self.segments.count() + self.segments.settled_count();
        let left = free.saturating_sub(self.config.keep_free) / len;
        let left = usize::try_from(left).unwrap_or(usize::MAX).saturating_add(spare);
        // As `pressure` has it, and a segment to go on with. More than its limit the journal never takes.
        let calm = (used.saturating_add(left) / 10).max(4) + 1;
        let needed = (self.reserve(left) + calm).min(self.config.max_segments.saturating_sub(used));
        let kept =
            count(needed.saturating_sub(spare)).saturating_mul(len).saturating_add(self.config.keep_free);
        Some(free.saturating_sub(kept))
    }

    /// How hard room is needed.
    pub(crate) fn pressure(&self) -> Pressure {
        let Some(room) = self.log_room() else { return Pressure::None };
        let all = self.segments.count() + self.segments.settled_count() + room;
        match room {
            room if room < (all / 20).max(2) => Pressure::Purge,
            room if room < (all / 10).max(4) => Pressure::Thin,
            _ => Pressure::None,
        }
    }
}
