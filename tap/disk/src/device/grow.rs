//! A disk whose file or block device was made larger while it is open.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use tap_block::stored::is_zero;
use tap_block::units::index;
use tap_block::{BLOCK_SIZE, Extent, ExtentSet};

use super::{Disk, FileDevice, FileIdentity};

/// A disk that could be larger than it is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Growth {
    /// Bytes that it has now.
    pub size: u64,
    /// Of what came, the blocks that may hold something other than zeroes.
    pub data: ExtentSet,
}

impl FileDevice {
    /// Has the file grown beyond the size that it is served with? Nothing changes before [`FileDevice::grow_to`].
    ///
    /// # Errors
    /// What the operating system says.
    pub fn growth(&self) -> io::Result<Option<Growth>> {
        let (known, size) = (self.disk.geometry().size, FileIdentity::of(&self.disk.file)?.size);
        if size <= known {
            return Ok(None);
        }
        Ok(Some(Growth { size, data: self.disk.data_between(known, size)? }))
    }

    /// From here on it has this size, as [`FileDevice::growth`] told. It never gets smaller.
    pub fn grow_to(&self, size: u64) {
        self.disk.size.fetch_max(size, Ordering::AcqRel);
    }
}

impl Disk {
    fn data_between(&self, known: u64, size: u64) -> io::Result<ExtentSet> {
        let mut data = ExtentSet::new();
        // Nobody knows what a block device holds.
        if self.is_block_device {
            data.insert(Extent::between(known, size).to_blocks());
            return Ok(data);
        }
        let mut from = known.next_multiple_of(BLOCK_SIZE).min(size);
        // The block that the old end cut is data as a whole.
        let mut rest = vec![0; index(from - known)];
        self.file.read_exact_at(&mut rest, known)?;
        if !is_zero(&rest) {
            data.insert(Extent::between(known, from).to_blocks());
        }
        while let Some(extent) = self.data_below(from, size)? {
            data.insert(extent.to_blocks());
            from = extent.end();
        }
        Ok(data)
    }
}
