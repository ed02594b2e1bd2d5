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
//!
//! Of what a machine held that lost its power anything may be missing. Where it did not, all is there but what was being written
//! at the very end, and what a group of one zero of no length takes back: it failed. A file that is emptied or cut off between two
//! groups would look whole: a mark stands behind the last one.

use tap_block::Extent;
use tap_block::units::{count, index};
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Change;
use super::log::{changes_behind, has_references, put_changes};
use super::noted::{Begun, Noted, is_ended, mark};

const MAGIC: [u8; 4] = *b"CGR1";
/// Of a group with references.
const MAGIC_REFERENCES: [u8; 4] = *b"CGR2";
pub(super) const HEAD: usize = 32;
/// The kernel takes a write page by page: there it is cut when its program is killed.
pub(super) const PAGE: usize = 4096;
/// A file ends at a multiple of it where a write of its last group was cut short.
const SECTOR: usize = 512;

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
    begun: Begun,
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
    /// The group, and the mark behind it.
    pub bytes: Vec<u8>,
    /// Bytes of the group.
    group: usize,
}

impl Said {
    /// Without the mark.
    #[must_use]
    pub fn group(&self) -> &[u8] {
        self.bytes.get(..self.group).unwrap_or_default()
    }

    /// Is it to be noted, once it is written, how many there were with this one?
    #[must_use]
    pub const fn is_noted(&self) -> bool {
        !is_on_one_page(index(self.offset), self.bytes.len())
    }
}

impl Recent {
    /// Both files are empty; what is said is not in a log at `place`.
    #[must_use]
    pub fn new(image: u64, place: LogPlace) -> Self {
        Self { image, place, begun: Begun { place, ..Begun::default() }, ..Self::default() }
    }

    /// Says that these changes come. Write it, then tell with [`Recent::said`].
    #[must_use]
    pub fn say(&self, changes: &[Change]) -> Said {
        let mut bytes = encode_recent(self.image, self.no, self.place, changes);
        let group = bytes.len();
        bytes.extend(mark(self.image, self.no + 1));
        Said { second: self.begun.second, offset: self.end, bytes, group }
    }

    /// What was said last failed: of its content anything may be there.
    #[must_use]
    pub fn take_back(&self) -> Said {
        self.say(&[Change::Zero(Extent::between(0, 0))])
    }

    /// It is written.
    pub fn said(&mut self, said: &Said) {
        self.no += 1;
        self.end += count(said.group);
    }

    /// No more was said than what is there: a file begins with it, and it is put back where more could not be written.
    #[must_use]
    pub fn ended(&self) -> Said {
        let bytes = mark(self.image, self.no).to_vec();
        Said { second: self.begun.second, offset: self.end, bytes, group: 0 }
    }

    /// What is to be noted, when a file begins with [`Recent::ended`] and when [`Said::is_noted`] was written.
    #[must_use]
    pub const fn noted(&self) -> Begun {
        Begun { said: self.no, ..self.begun }
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
    /// [`Recent::recorded`] is to be called. Whether the other file is written from here on.
    pub fn turn(&mut self, place: LogPlace) -> bool {
        let turns = !self.behind;
        (self.place, self.behind) = (place, true);
        if turns {
            self.begun = Begun { second: !self.begun.second, first: self.no, place, said: self.no };
            self.end = 0;
        }
        turns
    }

    /// The flush has succeeded.
    pub const fn recorded(&mut self) {
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
    groups.into_iter().flat_map(|group| group.changes).filter(|change| !says_nothing(change)).collect()
}

/// Changes that were said together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The changes.
    pub changes: Vec<Change>,
    /// Their content was written: if it is not there, or nothing that was written later takes its place, it has rotted.
    pub is_sure: bool,
}

/// Something is missing of what was said, and no end of a program explains it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "what was written on the image since its last flush is not all known: recent-0 or recent-1 is damaged, or was emptied or cut off"
)]
pub struct RecentError;

/// The changes in both `files` that a log at `place` does not have, in order, where the machine has not lost its power since.
/// `noted`: what is beside them; the earliest programs noted nothing.
///
/// # Errors
/// [`RecentError`].
pub fn all_unrecorded(
    image: u64,
    files: [&[u8]; 2],
    place: LogPlace,
    noted: Option<Noted>,
) -> Result<Vec<Claims>, RecentError> {
    let found = files.map(|file| scattered(image, file));
    let mut all: Vec<(usize, Group)> = Vec::new();
    for (file, groups) in found.into_iter().enumerate() {
        all.extend(groups.into_iter().map(|group| (file, group)));
    }
    all.sort_by_key(|(_, group)| group.no);
    let mut next = 0;
    for (_, group) in &all {
        // What was said before the file was begun anew lies in the other, and counted before the flush.
        let is_recorded = group.place < place || (group.at == 0 && group.place <= place);
        if group.no != next && !is_recorded {
            return Err(RecentError);
        }
        next = group.no.saturating_add(1);
    }
    let is_whole = match noted {
        Some(Noted::Begun(begun)) => has_all(image, files, &all, begun, place),
        Some(Noted::Count(so_far)) => {
            !so_far.misses_some(next) && has_all_unmarked(image, files, &all, place)
        }
        None => has_all_unmarked(image, files, &all, place),
    };
    if !is_whole {
        return Err(RecentError);
    }
    let groups = all.into_iter().map(|(_, group)| group).filter(|group| group.place >= place);
    Ok(claims(groups.map(|group| group.changes)))
}

/// Is nothing missing but what a log at `place` has?
fn has_all(image: u64, files: [&[u8]; 2], all: &[(usize, Group)], begun: Begun, place: LogPlace) -> bool {
    let [first, second] = files;
    let written = if begun.second { second } else { first };
    let last = all.last().map(|(file, group)| (*file, group));
    if let Some((file, group)) = last.filter(|(_, group)| group.no >= begun.first) {
        let (next, end) = (group.no.saturating_add(1), group.at + group.len);
        return file == usize::from(begun.second) && is_ended(image, next, end, written, begun.said);
    }
    let next = last.map_or(0, |(_, group)| group.no.saturating_add(1));
    (next == begun.first || begun.place <= place) && is_ended(image, begun.first, 0, written, begun.said)
}

/// The same of files without marks.
fn has_all_unmarked(image: u64, files: [&[u8]; 2], all: &[(usize, Group)], place: LogPlace) -> bool {
    let next = all.last().map_or(0, |(_, group)| group.no.saturating_add(1));
    let is_first_recorded =
        all.first().is_some_and(|(_, group)| group.no > 0 && group.at == 0 && group.place <= place);
    files.into_iter().enumerate().all(|(no, file)| {
        let last = all.last().filter(|(of, _)| *of == no);
        let end = last.map_or(0, |(_, group)| group.at + group.len);
        let is_known = all.iter().any(|(of, _)| *of == no) || is_first_recorded || is_begun(next, file);
        (is_known || file.is_empty()) && !has_rotten(image, next, end, file)
    })
}

/// Without what says only that something failed.
fn claims(groups: impl Iterator<Item = Vec<Change>>) -> Vec<Claims> {
    let mut claims: Vec<Claims> = Vec::new();
    for changes in groups.filter(|changes| !changes.is_empty()) {
        match claims.last_mut() {
            Some(failed) if changes.iter().all(says_nothing) => failed.is_sure = false,
            _ => claims.push(Claims { changes, is_sure: true }),
        }
    }
    if let Some(last) = claims.last_mut() {
        last.is_sure = false;
    }
    claims
}

fn says_nothing(change: &Change) -> bool {
    matches!(change, Change::Zero(extent) if extent.is_empty())
}

/// How the group `no` begins, without and with references.
fn heads(no: u64) -> [Vec<u8>; 2] {
    [MAGIC, MAGIC_REFERENCES].map(|magic| [&magic[..], &no.to_le_bytes()].concat())
}

/// Does the group `no` begin there, as far as there is anything?
pub(super) fn is_begun(no: u64, bytes: &[u8]) -> bool {
    heads(no).iter().any(|head| bytes.starts_with(head) || (!bytes.is_empty() && head.starts_with(bytes)))
}

/// Was the group `no`, which is not sound, written at `at` in full?
fn has_rotten(image: u64, no: u64, at: usize, file: &[u8]) -> bool {
    let bytes = file.get(at..).unwrap_or_default();
    if bytes.is_empty() {
        return false;
    }
    if !is_begun(no, bytes) {
        return decode(image, bytes).is_none() && is_sound_but_for_its_head(image, no, bytes);
    }
    let rows = bytes.get(HEAD - 4..).and_then(|rows| rows.first_chunk());
    let len = rows.map(|rows| HEAD + index(u64::from(u32::from_le_bytes(*rows))) * 25 + 8);
    match len.filter(|len| *len <= bytes.len()) {
        Some(len) => is_on_one_page(at, len),
        // Where a page ends within, the rest may be what was there before.
        None => !file.len().is_multiple_of(SECTOR) && is_on_one_page(at, bytes.len()),
    }
}

fn is_sound_but_for_its_head(image: u64, no: u64, bytes: &[u8]) -> bool {
    heads(no).iter().any(|head| {
        let behind = bytes.get(head.len()..).unwrap_or_default();
        decode(image, &[head, behind].concat()).is_some()
    })
}

const fn is_on_one_page(at: usize, len: usize) -> bool {
    at / PAGE == (at + len - 1) / PAGE
}

/// All groups in a file, wherever they are.
fn scattered(image: u64, file: &[u8]) -> Vec<Group> {
    let (mut groups, mut at) = (Vec::new(), 0);
    while let Some(rest) = file.get(at..).filter(|rest| !rest.is_empty()) {
        at += match decode(image, rest) {
            Some((mut group, len)) => {
                (group.at, group.len) = (at, len);
                groups.push(group);
                len
            }
            None => {
                let mut later = rest.get(1..).unwrap_or_default().windows(MAGIC.len());
                let next = later.position(|bytes| bytes == MAGIC || bytes == MAGIC_REFERENCES);
                next.map_or(rest.len(), |before| before + 1)
            }
        };
    }
    groups
}

/// The furthest place that a log is known to have come to; `None`: that was never said.
#[must_use]
pub fn stood(image: u64, files: [&[u8]; 2]) -> Option<LogPlace> {
    let groups = files.into_iter().flat_map(|file| groups_of(image, file));
    groups.filter(|group| group.changes.is_empty()).map(|group| group.place).max()
}

/// The furthest place of a log that anything in the files bears, what is damaged left out: whatever comes into the log next has to
/// stand beyond it, or it would count as older than that.
#[must_use]
pub fn furthest(image: u64, files: [&[u8]; 2]) -> Option<LogPlace> {
    files.into_iter().flat_map(|file| scattered(image, file)).map(|group| group.place).max()
}

struct Group {
    no: u64,
    place: LogPlace,
    changes: Vec<Change>,
    /// Where in its file, as far as anybody asked.
    at: usize,
    len: usize,
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
    Some((Group { no, place: LogPlace { generation, group }, changes, at: 0, len }, len))
}
