//! What an overlay is when it is opened: what a gateway that was killed had answered is put into the log, and what is damaged is
//! refused, not served as it was before.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use gateway_image::overlay::{Change, FromImage, Overlay};
use tap_block::device::run;
use tap_block::{BLOCK_SIZE, BlockDevice as _, Extent, Op};
use tap_disk::{FileDevice, FileOptions};

use super::overlay_log::OverlayLog;
use super::recent;

/// The file with the content of the overlay in `dir`.
pub(super) fn open_data(path: &Path) -> io::Result<Arc<FileDevice>> {
    let about = match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(cut_off(0)),
        about => about?,
    };
    if about.len() == 0 {
        return Err(cut_off(0));
    }
    FileDevice::open(path, FileOptions::default()).map_err(io::Error::other)
}

/// Puts what a killed gateway had answered and not flushed into the log, durably, and onto `changes`.
pub(super) fn recover(
    dir: &Path,
    image: u64,
    data: &FileDevice,
    log: &mut OverlayLog,
    changes: &mut Vec<Change>,
) -> io::Result<()> {
    let recent::Found { mut claims, furthest } = recent::read(dir, image, log.place())?;
    let all = claims.iter().flat_map(|claim| &claim.changes).chain(changes.iter());
    check_length(data, all)?;
    for claim in claims.iter_mut().filter(|claim| !claim.is_sure) {
        claim.changes.retain(|change| is_there(data, change));
    }
    let found: Vec<Change> = claims.into_iter().flat_map(|claim| claim.changes).collect();
    // The files are emptied and that is not synced: what they held, or the beginning of it, may come back when the power goes. Then
    // the log is to stand further than it was said to come: what is found here, or flushed from here on, would be undone.
    let is_behind = furthest.is_some_and(|furthest| furthest > log.place());
    if found.is_empty() && !is_behind {
        return Ok(());
    }
    if !found.is_empty() {
        tracing::info!(
            image,
            changes = found.len(),
            "an image finds what was written on it before the gateway ended"
        );
    }
    tell_rotten(image, data, &found);
    run(data, Op::Flush).map_err(io::Error::other)?;
    changes.extend(found.iter().copied());
    furthest.into_iter().for_each(|furthest| log.pass(furthest));
    if log.fits(&found) {
        return log.append(&found);
    }
    log.replace(&Overlay::restore(0, changes.iter().copied()).snapshot())
}

/// Is all of the data file there that is spoken of?
fn check_length<'a>(data: &FileDevice, mut changes: impl Iterator<Item = &'a Change>) -> io::Result<()> {
    let len = data.geometry().size;
    if changes.any(|change| slot_end(change) > len) { Err(cut_off(len)) } else { Ok(()) }
}

fn cut_off(len: u64) -> io::Error {
    let text = format!(
        "its data file is cut off: {len} bytes are left of what was written on the image; put the file `data` back, or remove the \
         image and create it again"
    );
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn slot_end(change: &Change) -> u64 {
    match change {
        Change::Slot { slot, .. } => slot.offset().saturating_add(BLOCK_SIZE),
        Change::Zero(_) | Change::Image(_) => 0,
    }
}

/// What was written and is not there any more is refused, not served as it was before.
fn tell_rotten(image: u64, data: &FileDevice, found: &[Change]) {
    let now = Overlay::restore(0, found.iter().copied());
    let rotten = now.snapshot().into_iter().filter(|change| !is_there(data, change));
    let rotten: Vec<u64> = rotten.map(|change| change_offset(&change)).collect();
    if let Some(first) = rotten.first() {
        tracing::warn!(
            image,
            blocks = rotten.len(),
            first,
            "what was written on a test image has rotted: the blocks are refused"
        );
    }
}

const fn change_offset(change: &Change) -> u64 {
    match change {
        Change::Slot { block, .. } => block.offset(),
        Change::Zero(extent) | Change::Image(FromImage { extent, .. }) => extent.offset(),
    }
}

/// Is the content there that the change speaks of?
fn is_there(data: &FileDevice, change: &Change) -> bool {
    let Change::Slot { slot, sum, .. } = *change else { return true };
    let extent = Extent::between(slot.offset(), slot.offset().saturating_add(BLOCK_SIZE));
    extent.end() <= data.geometry().size
        && run(data, Op::Read { extent }).is_ok_and(|content| sum.is_of(&content))
}
