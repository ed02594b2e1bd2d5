//! What is written on an image, put elsewhere: into the overlay of an image of it, or onto a disk that holds what is below. Reads and
//! writes go on meanwhile.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use gateway_image::overlay::{Change, FromImage, SlotNo};
use tap_block::device::run;
use tap_block::units::index;
use tap_block::{Answer, BLOCK_SIZE, BlockDevice as _, Extent, Op};
use tap_disk::{FileDevice, FileOptions};

use super::overlay::{DATA, Layers};
use super::overlay_log::OverlayLog;
use super::room::Promise;

/// Put onto a disk at a time of what the image below has elsewhere.
const FOLDED_AT_ONCE: u64 = 1 << 20;
/// Zeroed on a disk between two looks at whether that is still wanted.
const ZEROED_AT_ONCE: u64 = 64 << 20;

impl Layers {
    /// Copies what is written here, as of now, into the overlay in `dir`. Reads and writes go on; a flush waits until it is over,
    /// for it would let slots be used again that are being copied.
    pub(super) fn copy_into(&self, dir: &Path, image: u64, promised: &mut Promise<'_>) -> io::Result<()> {
        let _no_flush = self.log_lock();
        // From here on no slot in it is written again.
        let mapping = self.write_lock().seal_all();
        let data = FileDevice::open(&dir.join(DATA), FileOptions::default()).map_err(io::Error::other)?;
        let (mut log, _) = OverlayLog::open(dir, image)?;
        let (mut copied, mut slots) = (Vec::with_capacity(mapping.len()), 0);
        let mut shared: HashMap<SlotNo, SlotNo> = HashMap::new();
        for change in mapping {
            let Change::Slot { block, slot, sum } = change else {
                copied.push(change);
                continue;
            };
            // What blocks share here they share there.
            if let Some(&slot) = shared.get(&slot) {
                copied.push(Change::Slot { block, slot, sum });
                continue;
            }
            shared.insert(slot, SlotNo::new(slots));
            let content = self.read_slot(block, slot, sum).map_err(io::Error::other)?;
            let slot = SlotNo::new(slots);
            let write = Op::Write { offset: slot.offset(), data: content, fua: false };
            run(&*data, write).map_err(io::Error::other)?;
            promised.written(BLOCK_SIZE);
            copied.push(Change::Slot { block, slot, sum });
            slots += 1;
        }
        run(&*data, Op::Flush).map_err(io::Error::other)?;
        log.replace(&copied)
    }

    pub(super) fn fold_onto(
        &self,
        disk: &FileDevice,
        going: &mut dyn FnMut(u64) -> bool,
    ) -> io::Result<bool> {
        let _no_flush = self.log_lock();
        let mapping = self.write_lock().seal_all();
        let (end, mut done) = (disk.geometry().size, 0);
        for change in mapping {
            match change {
                Change::Image(part) => {
                    for piece in cut_at(part, FOLDED_AT_ONCE) {
                        self.fold_image(disk, piece, end)?;
                        done += piece.extent.length();
                        if !going(done) {
                            return Ok(false);
                        }
                    }
                }
                Change::Slot { block, slot, sum } => {
                    let mut data = self.read_slot(block, slot, sum).map_err(io::Error::other)?;
                    data.truncate(index(end.saturating_sub(block.offset())));
                    let write = Op::Write { offset: block.offset(), data, fua: false };
                    run(disk, write).map_err(io::Error::other)?;
                    done += BLOCK_SIZE;
                    if !going(done) {
                        return Ok(false);
                    }
                }
                Change::Zero(extent) => {
                    let extent = Extent::between(extent.offset(), extent.end().min(end));
                    if !zero_on(disk, extent, &mut || going(done))? {
                        return Ok(false);
                    }
                }
            }
        }
        run(disk, Op::Flush).map_err(io::Error::other)?;
        Ok(true)
    }

    /// Puts what the image below has elsewhere onto `disk`. That may be the very copy of the image, with something put onto it.
    fn fold_image(&self, disk: &FileDevice, part: FromImage, end: u64) -> io::Result<()> {
        let extent = Extent::between(part.extent.offset(), part.extent.end().min(end));
        let write = match self.below().original(part.source()).map_err(io::Error::other)? {
            Answer::Zeroes(_) => Op::Zero { extent, fua: false, may_trim: true, fast: false },
            answer => {
                let mut data = answer.into_bytes();
                data.truncate(index(extent.length()));
                Op::Write { offset: extent.offset(), data, fua: false }
            }
        };
        run(disk, write).map(drop).map_err(io::Error::other)
    }
}

/// Zeroes are not counted; they may be many all the same.
fn zero_on(disk: &FileDevice, extent: Extent, going: &mut dyn FnMut() -> bool) -> io::Result<bool> {
    for extent in extent.split_at_multiples(ZEROED_AT_ONCE) {
        run(disk, Op::Zero { extent, fua: false, may_trim: true, fast: false }).map_err(io::Error::other)?;
        if !going() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// In pieces of so many bytes.
fn cut_at(part: FromImage, grain: u64) -> impl Iterator<Item = FromImage> {
    let pieces = part.extent.split_at_multiples(grain);
    pieces.map(move |extent| FromImage { extent, at: part.at + (extent.offset() - part.extent.offset()) })
}
