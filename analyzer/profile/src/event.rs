//! One I/O as a trace tells it.

/// A moment of a trace: since 1970 in UTC where the trace says so, else since a start of its own
/// ([`Clock`](crate::cgp::Clock) of its source tells which).
pub type At = tap_block::WallTime;

/// A device within one trace or profile, numbered as it first comes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DeviceNo(u32);

impl DeviceNo {
    /// Wraps the number.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// What an I/O does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Reads bytes.
    Read,
    /// Writes bytes. Only these travel.
    Write,
    /// Makes earlier writes durable; of no length.
    Flush,
    /// Gives up a range. It travels as a note of a few bytes, so its length does not count as written.
    Discard,
}

impl Kind {
    /// All of them, in the order of their codes in `.cgp`.
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Flush, Self::Discard];

    /// The code in `.cgp`.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Flush => 2,
            Self::Discard => 3,
        }
    }
}

/// One I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Event {
    /// When it was submitted.
    pub at: At,
    /// On which device.
    pub device: DeviceNo,
    /// What it does.
    pub kind: Kind,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
    /// How long it took in nanoseconds, where the trace says so.
    pub latency: Option<u64>,
}
