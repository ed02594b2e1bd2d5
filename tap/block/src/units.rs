//! Newtypes for every number that crosses an interface, so that a block number is never taken for a
//! byte offset nor a volume for a stream.

use std::fmt;

/// The grain of history: every record is whole blocks of this many bytes.
pub const BLOCK_SIZE: u64 = 4096;

/// A 64-bit count as an index.
///
/// Chronogate runs on 64-bit machines only (checked when it is compiled), so nothing is lost.
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "usize is 64 bits wide, asserted below")]
pub const fn index(n: u64) -> usize {
    const { assert!(usize::BITS == 64, "Chronogate needs a 64-bit machine") };
    n as usize
}

/// A length in memory as a 64-bit count.
#[must_use]
pub const fn count(n: usize) -> u64 {
    n as u64
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $repr:ty, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($repr);

        impl $name {
            /// Wraps the raw number.
            #[must_use]
            pub const fn new(raw: $repr) -> Self {
                Self(raw)
            }

            /// The raw number, for encoding.
            #[must_use]
            pub const fn get(self) -> $repr {
                self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{:x}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self, f)
            }
        }
    };
}

id!(
    /// A protected disk. Drawn at random when protection begins, the same for its whole life.
    VolumeId, u64, "vol-"
);
id!(
    /// The write order of one tap's volumes in one consistency group. Drawn at random once.
    StreamId, u64, "stream-"
);
id!(
    /// One life of a tap process. Drawn at random at each start.
    RunId, u64, "run-"
);
id!(
    /// The fencing number, raised at failover. A frame of an older epoch is refused.
    Epoch, u32, "epoch-"
);

/// A barrier of a consistency group: the same number in the stream of each member. It is the mark's time on the tap's clock,
/// in nanoseconds, as its record carries it; people write it in decimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MarkId(u64);

impl MarkId {
    /// Wraps the raw number.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The raw number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for MarkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mark:{}", self.0)
    }
}

impl fmt::Display for MarkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A place in a stream: the n-th record of its history. 0 is "before the first record".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(u64);

impl Lsn {
    /// Before the first record.
    pub const ZERO: Self = Self(0);
    /// LSNs stay below 2^53, so that they survive JSON numbers and leave room in a [`Position`].
    pub const LIMIT: u64 = 1 << 53;

    /// `None` at or above [`Lsn::LIMIT`].
    #[must_use]
    pub const fn new(raw: u64) -> Option<Self> {
        if raw < Self::LIMIT { Some(Self(raw)) } else { None }
    }

    /// The raw number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The LSN `n` places later; saturates at the limit, which no real stream reaches
    /// (2^53 writes are 285 years at a million a second).
    #[must_use]
    pub const fn plus(self, n: u64) -> Self {
        let sum = self.0.saturating_add(n);
        if sum < Self::LIMIT { Self(sum) } else { Self(Self::LIMIT - 1) }
    }

    /// The next LSN.
    #[must_use]
    pub const fn next(self) -> Self {
        self.plus(1)
    }

    /// The LSN before this one; [`Lsn::ZERO`] stays.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lsn:{}", self.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Where a version stands in a stream's history.
///
/// A stream record stands *at* its LSN. A copy (baseline, resync) read as of LSN `a` stands *just after*
/// the record at `a`, so that it never changes an older point and never hides a newer write.
/// An image at LSN `l` shows, for each block, the version with the greatest position that is
/// [`visible_at`](Position::visible_at) `l`; among equal positions the later delivered wins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(u64);

impl Position {
    /// A record of the stream itself.
    #[must_use]
    pub const fn record(lsn: Lsn) -> Self {
        Self(lsn.0 * 2)
    }

    /// A copy that shows the disk as of `lsn`.
    #[must_use]
    pub const fn copy_as_of(lsn: Lsn) -> Self {
        Self(lsn.0 * 2 + 1)
    }

    /// The LSN it belongs to: the record's own, or the copy's as-of LSN.
    #[must_use]
    pub const fn lsn(self) -> Lsn {
        Lsn(self.0 / 2)
    }

    /// Is it a copy?
    #[must_use]
    pub const fn is_copy(self) -> bool {
        self.0 % 2 == 1
    }

    /// Is a version here part of the image at `point`?
    #[must_use]
    pub const fn visible_at(self, point: Lsn) -> bool {
        self.0 <= point.0 * 2 + 1
    }

    /// The encoded form: twice the LSN, plus one for a copy.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Decodes; `None` when the LSN inside is out of range.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Option<Self> {
        if raw / 2 < Lsn::LIMIT { Some(Self(raw)) } else { None }
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_copy() { "copy@" } else { "" };
        write!(f, "{kind}{:?}", self.lsn())
    }
}

/// The number of a 4 KiB block within its volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BlockNo(u64);

impl BlockNo {
    /// The block with this number.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The block that holds byte `offset`.
    #[must_use]
    pub const fn holding(offset: u64) -> Self {
        Self(offset / BLOCK_SIZE)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The byte offset of its first byte.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.0.saturating_mul(BLOCK_SIZE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_stands_between_its_lsn_and_the_next() {
        let at = Lsn::new(7).unwrap();
        assert!(Position::record(at) < Position::copy_as_of(at));
        assert!(Position::copy_as_of(at) < Position::record(at.next()));
    }

    #[test]
    fn a_copy_is_invisible_at_every_older_point() {
        let at = Lsn::new(7).unwrap();
        assert!(!Position::copy_as_of(at).visible_at(at.previous()));
        assert!(Position::copy_as_of(at).visible_at(at));
        assert!(!Position::record(at.next()).visible_at(at));
    }

    #[test]
    fn lsns_end_below_two_to_the_53() {
        assert!(Lsn::new(Lsn::LIMIT).is_none());
        assert_eq!(Lsn::new(Lsn::LIMIT - 1).unwrap().next().get(), Lsn::LIMIT - 1);
        assert!(Position::from_raw(u64::MAX).is_none());
    }
}
