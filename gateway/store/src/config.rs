//! What a store is told when it is opened.

use std::path::PathBuf;
use std::time::Duration;

/// Where a store lies and its limits.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Its directory: `seg` holds the segments, `fjall` the index (deleting it loses nothing but time), `MARK` the
    /// high-water mark.
    pub dir: PathBuf,
    /// Bytes of a segment file; fewer where there is little room.
    pub segment_len: u32,
    /// Segment files zeroed ahead.
    pub spare_segments: usize,
    /// No more segment files than this; appends fail with `NoSpace` beyond.
    pub max_segments: usize,
    /// Bytes that are left free on the file system: no new segment is begun below that.
    pub keep_free: u64,
    /// Bytes that one commit (one sync) takes at most.
    pub group_bytes: u64,
    /// Blocks of a batch that fill at least so many bytes are written while the commit before is still on its way to the disk.
    pub least_ahead: u64,
    /// Bytes that may wait for their commit; more are refused with `Overloaded`.
    pub max_queue: u64,
    /// Versions that are gathered in memory before they go into the index together.
    pub group_versions: usize,
    /// Bytes of the log whose versions go into the index together: what a pass of settling takes on at least.
    pub group_limit: u64,
    /// Groups of versions that may wait for the index; the commit thread waits beyond.
    pub max_groups: usize,
    /// An orderly stop brings what waits into the index, so that the next start reads nothing again. Without it a stop leaves what a
    /// crash leaves.
    pub index_at_stop: bool,
    /// A region gets a checkpoint when it has gathered so many versions since its last.
    pub checkpoint_versions: u32,
    /// How often it is looked whether there is something to settle; `None`: only when it is asked for.
    pub settle_each: Option<Duration>,
    /// Bytes of units in memory while history is settled.
    pub settle_memory: u64,
    /// Versions of the log that one pass settles, about.
    pub settle_versions: u64,
    /// Points of settled history that are listed because something holds them, at most: a record that is held is one, and takes
    /// 32 bytes of memory and about 9 of every manifest; marks in a row at which nothing was written are one. Of what is held
    /// beyond all stays, but not every point is listed on its own.
    pub held_points: u64,
    /// A pass over settled history writes about so many bytes: it ends in a while, and needs no more room than that.
    pub settle_at_once: u64,
    /// What is old and unread is packed; `None`: nothing ever is.
    pub cold: Option<Cold>,
    /// Segment files that are left to settling when the log has no more room; half of a small store at most.
    pub settle_reserve: usize,
    /// Bytes a second that the scrub reads; `None`: there is none.
    pub scrub_rate: Option<u64>,
    /// How often it is looked whether a segment is to be entered into the ledger; `None`: only when it is asked for.
    pub ledger_each: Option<Duration>,
    /// Bytes of region maps kept.
    pub map_cache: u64,
    /// Bytes of index blocks kept.
    pub index_cache: u64,
}

/// What of settled history is packed: less room, at the price of slower reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cold {
    /// What changed no more since then,
    pub after: Duration,
    /// and was not read by any image for so long.
    pub unread: Duration,
    /// A stretch is gone through for its sake alone no more often than that.
    pub pause: Duration,
}

impl Cold {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    /// A week, and two days.
    pub const USUAL: Self = Self {
        after: Self::DAY.saturating_mul(7),
        unread: Self::DAY.saturating_mul(2),
        pause: Duration::from_secs(10),
    };

    /// What is so old; unread as long as is usual, or as it is old if that is less.
    #[must_use]
    pub fn after(after: Duration) -> Self {
        Self { after, unread: after.min(Self::USUAL.unread), ..Self::USUAL }
    }
}

impl StoreConfig {
    /// The fewest segments that a limited store may have: the log, what settling needs, and some history.
    pub const LEAST_SEGMENTS: usize = 16;

    /// What a scrub reads each second unless it is said: 16 MiB.
    pub const SCRUB_RATE: u64 = 16 << 20;

    /// The least that [`StoreConfig::limited`] can keep to, in bytes.
    #[must_use]
    pub fn least_limit(&self) -> u64 {
        u64::from(self.segment_len) * tap_block::units::count(Self::LEAST_SEGMENTS)
    }

    /// With segments of so many bytes together at most; [`StoreConfig::least_limit`] if that is more.
    #[must_use]
    pub fn limited(self, bytes: u64) -> Self {
        let segments = usize::try_from(bytes / u64::from(self.segment_len.max(1))).unwrap_or(usize::MAX);
        let max_segments = segments.max(Self::LEAST_SEGMENTS);
        let bytes = u64::from(self.segment_len) * tap_block::units::count(max_segments);
        Self { max_segments, ..self.within(bytes) }
    }

    /// So many segments a store has at least, where there is room for so many of the shortest: of a few, settling could not make
    /// room, since it has to write new ones before old ones go.
    const ENOUGH_SEGMENTS: u64 = 64;
    /// A batch, and its frames, are much shorter.
    const SHORTEST_SEGMENT: u32 = 8 << 20;

    /// With segments as long as those that are `there` already; else with such that enough of them fit into the room there is, and
    /// into its own limit. All its files have one length.
    pub(crate) fn fitted(self, there: Option<u32>, room: u64) -> Self {
        let limit = tap_block::units::count(self.max_segments).saturating_mul(u64::from(self.segment_len));
        let room = if self.max_segments == usize::MAX { room } else { room.min(limit) };
        let mut len = self.segment_len;
        while len / 2 >= Self::SHORTEST_SEGMENT && room / u64::from(len) < Self::ENOUGH_SEGMENTS {
            len /= 2;
        }
        let len = there.filter(|there| *there <= self.segment_len).unwrap_or(len);
        let max_segments = match self.max_segments {
            usize::MAX => usize::MAX,
            _ => usize::try_from(limit / u64::from(len.max(1))).unwrap_or(usize::MAX),
        };
        Self { segment_len: len, max_segments, ..self }.within(room)
    }

    /// With groups for a store that has no more room than this. A pass takes on a group at least: it has to fit into what is left to
    /// settling.
    #[must_use]
    pub fn within(self, bytes: u64) -> Self {
        let share = (bytes / 16).max(u64::from(self.segment_len) / 4);
        Self { group_limit: self.group_limit.min(share), ..self }
    }

    /// The usual limits for a store in `dir`.
    #[must_use]
    pub const fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            segment_len: 64 << 20,
            spare_segments: 2,
            max_segments: usize::MAX,
            keep_free: 64 << 20,
            group_bytes: 4 << 20,
            least_ahead: 32 << 10,
            max_queue: 64 << 20,
            group_versions: 256 << 10,
            group_limit: 256 << 20,
            max_groups: 4,
            index_at_stop: true,
            checkpoint_versions: 16 << 10,
            settle_each: Some(Duration::from_secs(10)),
            settle_memory: 64 << 20,
            settle_versions: 1 << 20,
            held_points: 1 << 20,
            settle_at_once: 4 << 30,
            cold: Some(Cold::USUAL),
            settle_reserve: 8,
            scrub_rate: Some(Self::SCRUB_RATE),
            ledger_each: Some(Duration::from_secs(2)),
            map_cache: 64 << 20,
            index_cache: 32 << 20,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_there_is_little_room_segments_are_short_and_many() {
        let fitted = |there, room| {
            let config = StoreConfig::new(PathBuf::new()).fitted(there, room);
            (config.segment_len >> 20, config.group_limit >> 20)
        };
        assert_eq!(fitted(None, u64::MAX), (64, 256));
        assert_eq!(fitted(None, 4 << 30), (64, 256));
        assert_eq!(fitted(None, 3 << 30), (32, 192));
        assert_eq!(fitted(None, 576 << 20), (8, 36));
        assert_eq!(fitted(None, 0), (8, 2), "and it goes on getting shorter no more");
        assert_eq!(fitted(Some(64 << 20), 576 << 20), (64, 36), "what is there stays as it is");
    }

    #[test]
    fn a_limited_store_has_as_many_bytes_in_shorter_segments() {
        let limited = StoreConfig::new(PathBuf::new()).limited(1 << 30).fitted(None, u64::MAX);
        assert_eq!((limited.segment_len, limited.max_segments), (16 << 20, 64));
        let limited = StoreConfig::new(PathBuf::new()).limited(1 << 30).fitted(Some(64 << 20), u64::MAX);
        assert_eq!((limited.segment_len, limited.max_segments), (64 << 20, 16));
    }
}
