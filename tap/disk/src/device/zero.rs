//! Zeroes: by the file system where it can, written where it cannot.

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{Errno, retry_on_intr};
use tap_block::{BLOCK_SIZE, DeviceError, Extent};

use super::Disk;
use crate::raw;

/// What becomes of the space, and whether it may take as long as writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Zeroing {
    /// Given back to the file system.
    Punch { fast: bool },
    /// Kept allocated.
    Keep { fast: bool },
}

impl Zeroing {
    const fn must_be_fast(self) -> bool {
        matches!(self, Self::Punch { fast: true } | Self::Keep { fast: true })
    }
}

impl Disk {
    /// Makes `extent` read as zeroes, whatever the file system can do.
    pub(super) fn zero(&self, extent: Extent, way: Zeroing) -> Result<(), DeviceError> {
        self.refuse_if_shrunk()?;
        if extent.is_empty() {
            return Ok(());
        }
        match self.deallocate(extent, way) {
            Ok(()) => Ok(()),
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) if way.must_be_fast() => {
                Err(self.no_fast_zeroes())
            }
            // A block device takes whole sectors only.
            Err(Errno::INVAL) if !extent.is_block_aligned() => self.zero_in_parts(extent, way),
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => self.write_zeroes(extent),
            Err(e) => Err(self.failed("zero a part of", &e.into())),
        }
    }

    /// The answer to what is to be fast or not at all.
    pub(super) fn no_fast_zeroes(&self) -> DeviceError {
        DeviceError::Unsupported(format!("{} cannot make zeroes without writing them", self.path.display()))
    }

    fn zero_in_parts(&self, extent: Extent, way: Zeroing) -> Result<(), DeviceError> {
        let inner_start = extent.offset().next_multiple_of(BLOCK_SIZE).min(extent.end());
        let inner_end = (extent.end() / BLOCK_SIZE * BLOCK_SIZE).max(inner_start);
        self.write_zeroes(Extent::between(extent.offset(), inner_start))?;
        self.zero(Extent::between(inner_start, inner_end), way)?;
        self.write_zeroes(Extent::between(inner_end, extent.end()))
    }

    fn write_zeroes(&self, extent: Extent) -> Result<(), DeviceError> {
        self.check_size()
            .and_then(|()| raw::write_zeroes(&self.file, extent.offset(), extent.length()))
            .map_err(|e| self.failed("write zeroes to", &e))
    }

    fn deallocate(&self, extent: Extent, way: Zeroing) -> rustix::io::Result<()> {
        let flags = match way {
            Zeroing::Punch { .. } => FallocateFlags::PUNCH_HOLE,
            Zeroing::Keep { .. } => FallocateFlags::ZERO_RANGE,
        };
        let flags = flags | FallocateFlags::KEEP_SIZE;
        retry_on_intr(|| fallocate(&self.file, flags, extent.offset(), extent.length()))
    }
}
