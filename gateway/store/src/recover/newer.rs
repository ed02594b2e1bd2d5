//! A store that a newer program wrote to is not opened: what is not known here would be taken for damage, and written over.

use std::sync::Arc;

use gateway_journal::{
    FORMAT, FormatError, Manifest, Mark, SEGMENT_HEADER, SegmentHeader, SegmentId, SettledHeader, StoreId,
    may_be_rot, newer_frame, newer_header,
};
use tap_block::units::index;
use tap_disk::{SegmentFile, SegmentPool};

use crate::chunks::ChunkReader;
use crate::error::StoreError;

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
    let files = pool.list().into_iter().filter_map(|no| pool.get(no).ok());
    let said: Vec<_> = files.filter_map(|file| Some((file.name().to_owned(), version_of(file)?))).collect();
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

/// Refuses when a frame of a newer version is where one of this segment was due.
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

/// What the start of a file says when it is newer.
fn version_of(file: Arc<SegmentFile>) -> Option<u8> {
    let mut reader = ChunkReader::new(file);
    let head = reader.fetch(0, SEGMENT_HEADER * 2);
    let log = SegmentHeader::decode(head).ok().map(|h| (h.store, h.segment));
    let known = log.or_else(|| SettledHeader::decode(head).ok().map(|h| (h.store, h.segment)));
    let first = head.get(index(u64::from(SEGMENT_HEADER))..).unwrap_or_default();
    newer_header(head).or_else(|| known.and_then(|(store, segment)| newer_frame(first, store, segment)))
}

fn newer(what: &str, version: u32, known: u32) -> StoreError {
    StoreError::Open(format!(
        "{what} is of version {version} of its format, and {known} is the last that this program knows: a newer chronogate \
         wrote it; use that one. Nothing was changed"
    ))
}
