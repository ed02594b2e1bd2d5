//! A store that a newer program wrote to is not opened: what is not known here would be taken for damage, and written over.

use gateway_journal::{
    FORMAT, FormatError, Manifest, Mark, SEGMENT_HEADER, SegmentHeader, SegmentId, SettledHeader, StoreId,
    may_be_rot, newer_frame, newer_header,
};
use tap_block::units::index;
use tap_disk::{FileNo, SegmentFile, SegmentPool};

use super::headless::end_of_log;
use crate::chunks::ChunkReader;
use crate::error::StoreError;
use crate::settled::read_frame;

/// A version so far ahead of this program's is believed of a header only if no frame of this version lies in its segment.
const FAR: u8 = 16;

/// Refuses a store of which a mark, the copy of a manifest, or the start of a file says that it is newer.
pub(super) fn refuse_newer(
    pool: &SegmentPool,
    mark: Option<&[u8]>,
    copy: Option<&[u8]>,
) -> Result<(), StoreError> {
    if let Some(version) = mark.and_then(Mark::newer) {
        return Err(newer("the file MARK", version, u32::from(FORMAT)));
    }
    if let Some(Err(e)) = copy.map(Manifest::unseal) {
        refuse_newer_manifest("the file SETTLED", &e)?;
    }
    let said: Vec<_> = pool.list().into_iter().filter_map(|no| version_of(pool, no)).collect();
    let counts = |version: u8| !may_be_rot(version) || said.iter().filter(|(_, v)| *v == version).count() > 1;
    match said.iter().find(|(_, version)| counts(*version)) {
        Some((name, version)) => {
            Err(newer(&format!("the file {name}"), u32::from(*version), u32::from(FORMAT)))
        }
        None => Ok(()),
    }
}

/// Refuses when that is why a manifest was not read.
pub(super) fn refuse_newer_manifest(file: &str, why: &FormatError) -> Result<(), StoreError> {
    match why {
        FormatError::Newer { version, known, .. } => {
            Err(newer(&format!("the manifest in {file}"), *version, *known))
        }
        _ => Ok(()),
    }
}

/// Refuses when a frame of a newer version is where one of this segment was due, and no sound one of this version lies behind, in it
/// or in another: a newer program writes no older ones.
pub(super) fn refuse_newer_frame(
    file: &SegmentFile,
    at: u32,
    (store, segment): (StoreId, SegmentId),
) -> Result<(), StoreError> {
    let mut bytes = [0; 32];
    if file.read_at(u64::from(at), &mut bytes).is_err() {
        return Ok(());
    }
    match newer_frame(&bytes, store, segment).filter(|&version| !may_be_rot(version)) {
        Some(version) => {
            let what = format!("byte {at} of {segment} (file {})", file.name());
            Err(newer(&what, u32::from(version), u32::from(FORMAT)))
        }
        None => Ok(()),
    }
}

/// What the start of a file says when it is newer, and the file's name.
fn version_of(pool: &SegmentPool, no: FileNo) -> Option<(String, u8)> {
    let file = pool.get(no).ok()?;
    let name = file.name().to_owned();
    let mut reader = ChunkReader::new(file);
    let head = reader.fetch(0, SEGMENT_HEADER * 2);
    let log = SegmentHeader::decode(head).ok().map(|h| (h.store, h.segment));
    let known = log.or_else(|| SettledHeader::decode(head).ok().map(|h| (h.store, h.segment)));
    let first = head.get(index(u64::from(SEGMENT_HEADER))..).unwrap_or_default();
    let in_frame = || {
        let version = known.and_then(|(store, segment)| newer_frame(first, store, segment))?;
        // Damage, when sound frames of this version lie behind.
        let sound = log.is_some_and(|of| end_of_log(pool, no, of) > SEGMENT_HEADER);
        (!sound).then_some(version)
    };
    let in_header = newer_header(head).filter(|&version| !is_far(version) || !holds_frames(pool, no, head));
    in_header.or_else(in_frame).map(|version| (name, version))
}

const fn is_far(version: u8) -> bool {
    version.saturating_sub(FORMAT) > FAR
}

/// Was the segment that the header names written by a program of this version?
fn holds_frames(pool: &SegmentPool, no: FileNo, head: &[u8]) -> bool {
    let mut head = head.to_vec();
    head.get_mut(7).into_iter().for_each(|version| *version = FORMAT);
    if let Ok(header) = SegmentHeader::decode(&head) {
        return end_of_log(pool, no, (header.store, header.segment)) > SEGMENT_HEADER;
    }
    let settled = SettledHeader::decode(&head).ok().zip(pool.get(no).ok());
    settled.is_some_and(|(header, file)| read_frame(&file, header.segment, SEGMENT_HEADER).is_ok())
}

fn newer(what: &str, version: u32, known: u32) -> StoreError {
    StoreError::Open(format!(
        "{what} is of version {version} of its format, and {known} is the last that this program knows: a newer chronogate \
         wrote it; use that one. Nothing was changed. If none ever ran here, it is damaged: put it back from a copy, or move it away, \
         which gives up what lies in it"
    ))
}
