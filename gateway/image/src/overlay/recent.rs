//! What was changed on an overlay since the last flush, as bytes: so that a gateway that is killed, whose clients are not, and who
//! will not say again what was answered, finds it when it comes back.
//!
//! ```text
//!  ┌───────────┬────────┬────────────────┬───────────┬───────────┬──────────────────┬─────────────┐
//!  │ magic u32 │ no u64 │ generation u64 │ group u64 │ count u32 │ count × 25 bytes │ xxh3-64 u64 │   little endian
//!  └───────────┴────────┴────────────────┴───────────┴───────────┴──────────────────┴─────────────┘
//!    changes and checksum as in the mapping log, with a magic of its own where there are references as well
//! ```
//!
//! A group is written, and not synced, before the content that it is about. So it is a claim: whoever reads it back compares the
//! checksum of the slot's content, and leaves out a change whose content is not there. The changes of one file count up; two
//! files are written by turns, so that one can begin anew once the mapping log has all that the other held: generation and group
//! say where the log stood, or was about to stand, when the change was made. A log that stands further on has it. A group without
//! changes says that the log has stood there, durably: one that does not come so far any more is damaged.

use tap_block::units::count;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Change;
use super::log::{changes_behind, has_references, put_changes};

const MAGIC: [u8; 4] = *b"CGR1";
/// Of a group with references.
const MAGIC_REFERENCES: [u8; 4] = *b"CGR2";
const HEAD: usize = 32;

/// How far a mapping log has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct LogPlace {
    /// Of the log's file.
    pub generation: u64,
    /// The number of its next group.
    pub group: u64,
}

/// Where the next group goes.
#[derive(Debug, Clone, Default)]
pub struct Recent {
    image: u64,
    /// The second file, not the first.
    second: bool,
    end: u64,
    no: u64,
    place: LogPlace,
    /// The other file is still needed: no flush has succeeded since it was left.
    behind: bool,
}

/// A group on its way into a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Into the second, not the first.
    pub second: bool,
    /// Where in it.
    pub offset: u64,
    /// The group.
    pub bytes: Vec<u8>,
}

impl Recent {
    /// Both files are empty; what is said is not in a log at `place`.
    #[must_use]
    pub fn new(image: u64, place: LogPlace) -> Self {
        Self { image, place, ..Self::default() }
    }

    /// Says that these changes come. Write it, then tell with [`Recent::said`].
    #[must_use]
    pub fn say(&self, changes: &[Change]) -> Said {
        let bytes = encode_recent(self.image, self.no, self.place, changes);
        Said { second: self.second, offset: self.end, bytes }
    }

    /// It is written.
    pub fn said(&mut self, said: &Said) {
        self.no += 1;
        self.end += count(said.bytes.len());
    }

    /// How long the file is that is written.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.end
    }

    /// Has nothing been said since the last turn?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.end == 0
    }

    /// A flush has taken what changed until now. When it has succeeded the log is at `place`, and
    /// [`Recent::recorded`] is to be called.
    pub fn turn(&mut self, place: LogPlace) {
        self.place = place;
        if !self.behind {
            (self.second, self.end) = (!self.second, 0);
        }
        self.behind = true;
    }

    /// The flush has succeeded.
    pub fn recorded(&mut self) {
        self.behind = false;
    }
}

/// Group `no`, of changes to `image` that a log at `place` does not have.
fn encode_recent(image: u64, no: u64, place: LogPlace, changes: &[Change]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD + changes.len() * 25 + 8);
    out.extend_from_slice(if has_references(changes) { &MAGIC_REFERENCES } else { &MAGIC });
    for number in [no, place.generation, place.group] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    put_changes(&mut out, changes);
    let sum = xxh3_64_with_seed(&out, image);
    out.extend_from_slice(&sum.to_le_bytes());
    out
}

/// The changes in both `files` that a log at `place` does not have, in order.
#[must_use]
pub fn unrecorded(image: u64, files: [&[u8]; 2], place: LogPlace) -> Vec<Change> {
    let mut groups: Vec<Group> = files.into_iter().flat_map(|file| groups_of(image, file)).collect();
    groups.sort_by_key(|group| group.no);
    groups.retain(|group| group.place >= place);
    groups.into_iter().flat_map(|group| group.changes).collect()
}

/// The furthest place that a log is known to have come to; `None`: that was never said.
#[must_use]
pub fn stood(image: u64, files: [&[u8]; 2]) -> Option<LogPlace> {
    let groups = files.into_iter().flat_map(|file| groups_of(image, file));
    groups.filter(|group| group.changes.is_empty()).map(|group| group.place).max()
}

struct Group {
    no: u64,
    place: LogPlace,
    changes: Vec<Change>,
}

/// From the start, as long as they count up: what comes then is older, or was torn.
fn groups_of(image: u64, mut rest: &[u8]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    while let Some((group, len)) = decode(image, rest) {
        if groups.last().is_some_and(|last| last.no.checked_add(1) != Some(group.no)) {
            break;
        }
        groups.push(group);
        rest = rest.get(len..).unwrap_or_default();
    }
    groups
}

fn decode(image: u64, bytes: &[u8]) -> Option<(Group, usize)> {
    let numbers = bytes.strip_prefix(&MAGIC).or_else(|| bytes.strip_prefix(&MAGIC_REFERENCES))?;
    let [no, generation, group] = *numbers.first_chunk::<24>()?.as_chunks::<8>().0 else { return None };
    let [no, generation, group] = [no, generation, group].map(u64::from_le_bytes);
    let (changes, len) = changes_behind(image, HEAD, bytes)?;
    Some((Group { no, place: LogPlace { generation, group }, changes }, len))
}
