//! Points that went though their volume's policy would have kept them: there was no room for them. A manifest says so, so that whoever
//! asks for one of them is told what became of it.

use prost::Message;
use tap_block::{Lsn, VolumeId, WallTime};

use crate::error::FormatError;

/// Points of a volume that went for want of room, told together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    /// What went.
    pub went: Went,
    /// What was too small.
    pub of: ShortOf,
    /// The first of them.
    pub first: Lsn,
    /// The last of them. Points that were kept may lie between the two.
    pub last: Lsn,
    /// How many.
    pub points: u64,
    /// When the first of them went, on the store's own clock.
    pub since: WallTime,
    /// When the last of them did.
    pub until: WallTime,
}

/// What went for want of room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Went {
    /// Points between others: history was thinned out sooner than its policy says.
    Thinned,
    /// The oldest points.
    Oldest,
    /// Bookmarks.
    Bookmarks,
}

/// What room was short of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ShortOf {
    /// The journal: its disk, or the limit of all of it.
    Journal,
    /// The limit that the volume's own policy sets.
    Limit,
}

impl Shortage {
    /// May the point be one of them?
    #[must_use]
    pub fn covers(&self, point: Lsn) -> bool {
        self.first <= point && point <= self.last
    }

    /// Both as one, if they tell the same of other points.
    #[must_use]
    pub fn joined(&self, later: &Self) -> Option<Self> {
        ((self.went, self.of) == (later.went, later.of)).then(|| Self {
            first: self.first.min(later.first),
            last: self.last.max(later.last),
            points: self.points.saturating_add(later.points),
            since: self.since.min(later.since),
            until: self.until.max(later.until),
            ..*self
        })
    }
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct PShortage {
    #[prost(fixed64, tag = "1")]
    volume: u64,
    /// 1 thinned, 2 oldest, 3 bookmarks.
    #[prost(uint32, tag = "2")]
    went: u32,
    /// 1 journal, 2 limit.
    #[prost(uint32, tag = "3")]
    of: u32,
    #[prost(uint64, tag = "4")]
    first: u64,
    #[prost(uint64, tag = "5")]
    last: u64,
    #[prost(uint64, tag = "6")]
    points: u64,
    #[prost(fixed64, tag = "7")]
    since: u64,
    #[prost(fixed64, tag = "8")]
    until: u64,
}

pub(crate) const fn shortage_out((volume, shortage): &(VolumeId, Shortage)) -> PShortage {
    PShortage {
        volume: volume.get(),
        went: match shortage.went {
            Went::Thinned => 1,
            Went::Oldest => 2,
            Went::Bookmarks => 3,
        },
        of: match shortage.of {
            ShortOf::Journal => 1,
            ShortOf::Limit => 2,
        },
        first: shortage.first.get(),
        last: shortage.last.get(),
        points: shortage.points,
        since: shortage.since.nanos(),
        until: shortage.until.nanos(),
    }
}

/// `None`: a newer program says of it what this one has no word for. No point is kept or served by it, so it is left out.
pub(crate) fn shortage_in(twin: &PShortage) -> Result<Option<(VolumeId, Shortage)>, FormatError> {
    let bad = || FormatError::malformed("manifest", "points that went for want of room are out of range");
    let went = match twin.went {
        1 => Went::Thinned,
        2 => Went::Oldest,
        3 => Went::Bookmarks,
        _ => return Ok(None),
    };
    let of = match twin.of {
        1 => ShortOf::Journal,
        2 => ShortOf::Limit,
        _ => return Ok(None),
    };
    let (first, last) = Lsn::new(twin.first).zip(Lsn::new(twin.last)).ok_or_else(bad)?;
    let (since, until) = (WallTime::from_nanos(twin.since), WallTime::from_nanos(twin.until));
    if first > last || since > until {
        return Err(bad());
    }
    let shortage = Shortage { went, of, first, last, points: twin.points, since, until };
    Ok(Some((VolumeId::new(twin.volume), shortage)))
}
