//! Files that stand in for settled segments that are gone or were cut off: as long as the segment itself, with what is left of
//! it, and zeroes. Every block that lay there is a damaged block then like any other: it is refused by its checksum, another
//! gateway's can be put in its place, and history around it is settled as ever.
//!
//! Which they are stands in their header: it says that they hold no frame.

use std::collections::BTreeSet;
use std::io::{self, IoSlice};

use gateway_journal::{SEGMENT_HEADER, SettledHeader, SettledSegment, StoreId};
use tap_block::units::index;
use tap_disk::FileNo;
use tracing::warn;

use super::Torn;
use super::manifest::SettledFound;
use crate::chunks::read_what_can_be;
use crate::segments::{Known, Segments};

/// So many are made at one start: each is a file of zeroes that has to be written, and a whole directory may be gone.
const AT_ONCE: usize = 32;
const CHUNK: u32 = 1 << 20;

/// Does something else stand in for the segment?
pub(super) const fn stands_in(header: &SettledHeader) -> bool {
    header.frames == 0
}

/// What is torn of the segments that count, with files that stand in as far as there is room.
pub(super) fn stand_in(found: &SettledFound, segments: &Segments, store: StoreId) -> Vec<Torn> {
    let (mut torn, mut seen, mut made) = (Vec::new(), BTreeSet::new(), 0);
    let generations = found.manifest.iter().flat_map(|m| &m.generations);
    for (settle, written) in generations.flat_map(|g| g.segments.iter().map(|s| (g.settle, s))) {
        if !seen.insert(written.segment) {
            continue;
        }
        // A manifest may lie behind all that is listed.
        let known = found.files.get(&written.segment).map(|(_, header)| *header);
        let (segment, end) = (written.segment, known.map_or(written.end, |header| header.end));
        let Some((old, left)) = what_is_torn(found, segments, written, end) else { continue };
        let Some(why) = left else {
            torn.push(Torn { segment, end, found: None });
            continue;
        };
        torn.push(Torn { segment, end, found: Some(why.clone()) });
        let manifest = known.and_then(|header| header.manifest);
        let length = u32::try_from(segments.pool().file_len()).unwrap_or(u32::MAX);
        let header = SettledHeader { store, segment, length, settle, end, frames: 0, last: 0, manifest };
        if made == AT_ONCE {
            warn!("{segment}: {why}; more are torn than another file is made for at one start");
            continue;
        }
        made += 1;
        match make(segments, &header, old) {
            Ok(()) => warn!("{segment}: {why}; a file with what is left of it stands in for it"),
            Err(e) => warn!("{segment}: {why}; no other file can be made for it: {e}"),
        }
    }
    torn
}

/// A segment that is torn, the file with what is left of it, and what became of it unless something stands in for it already.
type Left = (Option<FileNo>, Option<String>);

fn what_is_torn(
    found: &SettledFound,
    segments: &Segments,
    written: &SettledSegment,
    end: u32,
) -> Option<Left> {
    let Some((no, header)) = found.files.get(&written.segment) else {
        return Some((None, Some("the settled segment is missing".to_owned())));
    };
    if stands_in(header) {
        return Some((None, None));
    }
    let len = segments.pool().get(*no).ok()?.len();
    let short = || format!("the settled segment was cut off at byte {len} of {end}");
    (len < u64::from(end)).then(|| (Some(*no), Some(short())))
}

/// Its header comes last: without it the file is nothing.
fn make(segments: &Segments, header: &SettledHeader, old: Option<FileNo>) -> io::Result<()> {
    let left = old.map(|no| segments.pool().get(no)).transpose()?;
    let (no, file) = segments.pool().take()?;
    let fill = || {
        // Whatever the file was, it is that no more.
        file.write_at(0, &[IoSlice::new(&vec![0; index(u64::from(SEGMENT_HEADER))])])?;
        file.sync()?;
        let mut at = SEGMENT_HEADER;
        while at < header.end {
            let mut bytes = vec![0; index(u64::from(CHUNK.min(header.end - at)))];
            if let Some(left) = &left {
                let there = index(left.len().saturating_sub(u64::from(at))).min(bytes.len());
                read_what_can_be(left, u64::from(at), bytes.get_mut(..there).unwrap_or_default());
            }
            file.write_at(u64::from(at), &[IoSlice::new(&bytes)])?;
            at = at.saturating_add(CHUNK).min(header.end);
        }
        file.sync()?;
        file.write_at(0, &[IoSlice::new(&header.encode())])?;
        file.sync()
    };
    if let Err(e) = fill() {
        segments.pool().give_back(no)?;
        return Err(e);
    }
    segments.set_settled(header.segment, Known { file: no, end: header.end });
    match old {
        Some(old) => segments.pool().give_back(old),
        None => Ok(()),
    }
}
