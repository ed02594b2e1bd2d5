//! What tells a file of recent changes that was emptied or cut off from one in which no more was said.
//!
//! Behind the last group stands a mark, in the same write, which the next group takes the place of:
//!
//! ```text
//!  ┌───────────┬───────────────┬─────────────┐
//!  │ magic u32 │ next group u64│ xxh3-64 u64 │   little endian; the checksum is seeded with the image's number
//!  └───────────┴───────────────┴─────────────┘
//! ```
//!
//! A file is made longer before it is written, so one that ends within a group was cut off. Which of the two files is written, and
//! with which group it was begun, is noted beside them: once at each turn, behind the mark with which that file begins then.
//!
//! Where a program is killed while it writes, the write ends with a page. Pages that were lost look the same. So it is noted as well
//! how many groups there were, behind each that does not lie on one page with its mark.

use tap_block::units::index;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::recent::{HEAD, LogPlace, PAGE, is_begun};

const MAGIC: [u8; 4] = *b"CGRE";
/// Bytes of a mark.
pub(super) const MARK: usize = 20;

/// What is noted beside the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// By programs before marks.
    Count(SaidSoFar),
    /// Which of them is written.
    Begun(Begun),
}

/// How many groups there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaidSoFar {
    /// So many were said: one more may have been.
    said: u64,
    /// What is in those before this one the log has, or they say nothing.
    recorded: u64,
}

/// The file that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Begun {
    /// The second, not the first.
    pub(super) second: bool,
    /// The group that it begins with.
    pub(super) first: u64,
    /// A log that stands there has all groups before.
    pub(super) place: LogPlace,
    /// So many groups there were at least.
    pub(super) said: u64,
}

impl Noted {
    /// `None`: it is none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        SaidSoFar::decode(bytes).map(Self::Count).or_else(|| Begun::decode(bytes).map(Self::Begun))
    }
}

impl SaidSoFar {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let [said, recorded] = *<&[u8; 16]>::try_from(bytes).ok()?.as_chunks::<8>().0 else { return None };
        Some(Self { said: u64::from_le_bytes(said), recorded: u64::from_le_bytes(recorded) })
    }

    /// Is anything missing that the log does not have, if the last group that is there comes before `next`?
    pub(super) const fn misses_some(&self, next: u64) -> bool {
        next < self.said && self.recorded < self.said
    }
}

impl Begun {
    /// Bytes of it.
    pub const LEN: usize = 33;

    /// As it is noted.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut out = [u8::from(self.second); Self::LEN];
        let numbers = [self.first, self.place.generation, self.place.group, self.said];
        for (to, number) in out.as_rchunks_mut::<8>().1.iter_mut().zip(numbers) {
            *to = number.to_le_bytes();
        }
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (second, numbers) = <&[u8; Self::LEN]>::try_from(bytes).ok()?.split_first()?;
        let [first, generation, group, said] = *numbers.as_chunks::<8>().0 else { return None };
        let [first, generation, group, said] = [first, generation, group, said].map(u64::from_le_bytes);
        Some(Self { second: *second != 0, first, place: LogPlace { generation, group }, said })
    }
}

/// Before the group `no` nothing is missing.
pub(super) fn mark(image: u64, no: u64) -> [u8; MARK] {
    let mut out = [0; MARK];
    let (head, sum) = out.split_at_mut(MARK - 8);
    head.iter_mut().zip(MAGIC.into_iter().chain(no.to_le_bytes())).for_each(|(to, from)| *to = from);
    sum.copy_from_slice(&xxh3_64_with_seed(head, image).to_le_bytes());
    out
}

/// Does what was said in `file` end at `at`, before the group `no`, if there were `said` groups at least? As it was written, or as
/// it is when the program is killed while it says that group or has said the one before it.
pub(super) fn is_ended(image: u64, no: u64, at: usize, file: &[u8], said: u64) -> bool {
    let Some(behind) = file.get(at..).filter(|behind| behind.len() >= MARK && said <= no) else {
        return false;
    };
    let (here, next) = (mark(image, no), mark(image, no.saturating_add(1)));
    // The mark behind it is the last of the group that is written.
    let is_torn = || is_torn(no, at, behind) && !behind.windows(MARK).any(|bytes| bytes == next);
    behind.starts_with(&here) || (said < no && is_cut(&here, at, behind)) || is_torn()
}

/// Does a page end within the mark, and the mark with it? The group before it was there in full.
fn is_cut(mark: &[u8], at: usize, behind: &[u8]) -> bool {
    let there = at.next_multiple_of(PAGE) - at;
    at > 0 && mark.get(..there).is_some_and(|begin| begin.len() < MARK && behind.starts_with(begin))
}

/// Does a page end within the group `no` with its mark, and is it there up to that at least, as far as its head goes?
fn is_torn(no: u64, at: usize, behind: &[u8]) -> bool {
    let there = PAGE - at % PAGE;
    let page = behind.get(..there).unwrap_or(behind);
    let rows = page.get(HEAD - 4..).and_then(|rows| rows.first_chunk());
    let rows = rows.map_or(0, |rows| index(u64::from(u32::from_le_bytes(*rows))));
    let len = HEAD + rows * 25 + 8 + MARK;
    is_begun(no, page) && there < len && len <= behind.len()
}
