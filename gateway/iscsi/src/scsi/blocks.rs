//! Commands to the medium (SBC-3 section 5): from a CDB to the work to be done, all ranges and flags checked.

use tap_block::Extent;

use crate::field::{be16, be24, be32, be64};
use crate::scsi::inquiry::{MAX_TRANSFER, MAX_WRITE_SAME};
use crate::scsi::sense::Sense;
use crate::scsi::work::{Check, Work};

/// What a CDB is checked against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Disk {
    /// Bytes of a block.
    pub(crate) block: u64,
    pub(crate) blocks: u64,
}

/// A stretch of blocks as a CDB gives it.
#[derive(Debug, Clone, Copy)]
struct Range {
    lba: u64,
    count: u64,
}

impl Range {
    /// By the CDB's length: 6, 10, 12 or 16 bytes.
    fn of(cdb: &[u8; 16]) -> Self {
        match cdb[0] >> 5 {
            0 => {
                let count = if cdb[4] == 0 { 256 } else { u64::from(cdb[4]) };
                Self { lba: u64::from(be24(cdb, 1) & 0x1f_ffff), count }
            }
            1 | 2 => Self { lba: u64::from(be32(cdb, 2)), count: u64::from(be16(cdb, 7)) },
            4 => Self { lba: be64(cdb, 2), count: u64::from(be32(cdb, 10)) },
            _ => Self { lba: u64::from(be32(cdb, 2)), count: u64::from(be32(cdb, 6)) },
        }
    }
}

impl Disk {
    /// The bytes of a range; beyond the end is an error (SBC-3 section 4.4).
    fn extent(self, range: Range) -> Result<Extent, Sense> {
        let end = range.lba.checked_add(range.count).filter(|&end| end <= self.blocks);
        let end = end.ok_or(Sense::OUT_OF_RANGE)?;
        Ok(Extent::between(range.lba * self.block, end * self.block))
    }

    /// The same for what is moved between us and the initiator at once.
    fn transfer(self, cdb: &[u8; 16]) -> Result<Extent, Sense> {
        let extent = self.extent(Range::of(cdb))?;
        let at = if cdb[0] >> 5 == 4 { 10 } else { 6 };
        if extent.length() > MAX_TRANSFER { Err(Sense::invalid_field(at)) } else { Ok(extent) }
    }

    /// A stretch of bytes from an offset into a block.
    pub(crate) fn stretch(self, lba: u64, offset: u64, length: u64) -> Option<Extent> {
        let start = lba.checked_mul(self.block)?.checked_add(offset)?;
        let extent = Extent::new(start, length)?;
        (extent.end() <= self.blocks * self.block).then_some(extent)
    }

    /// A stretch named in a parameter list.
    pub(crate) fn listed(self, lba: u64, count: u64) -> Result<Extent, Sense> {
        self.extent(Range { lba, count })
    }
}

/// The work that a command to the medium is; `None` when the opcode is none of these.
pub(crate) fn work(disk: Disk, cdb: &[u8; 16]) -> Result<Option<Work>, Sense> {
    Ok(Some(match cdb[0] {
        0x08 | 0x28 | 0x88 | 0xa8 => {
            no_protection(cdb)?;
            Work::read(disk.transfer(cdb)?)
        }
        0x0a | 0x2a | 0x8a | 0xaa => {
            no_protection(cdb)?;
            let fua = cdb[0] != 0x0a && cdb[1] & 0x08 != 0;
            Work::write(disk.transfer(cdb)?, fua)
        }
        0x2e | 0x8e | 0xae => write_and_verify(disk, cdb)?,
        0x2f | 0x8f | 0xaf => verify(disk, cdb)?,
        0x34 | 0x90 => {
            disk.extent(Range::of(cdb))?;
            Work::nothing()
        }
        0x35 | 0x91 => {
            disk.extent(Range::of(cdb))?;
            Work::flush()
        }
        0x41 | 0x93 => write_same(disk, cdb)?,
        0x42 => unmap(disk, cdb)?,
        0x89 => compare_and_write(disk, cdb)?,
        0x8b => {
            no_protection(cdb)?;
            Work::or_write(disk.transfer(cdb)?, cdb[1] & 0x08 != 0)
        }
        _ => return Ok(None),
    }))
}

/// RDPROTECT, WRPROTECT, VRPROTECT: there is no protection information (SBC-3 section 4.22).
fn no_protection(cdb: &[u8; 16]) -> Result<(), Sense> {
    if cdb[0] >> 5 != 0 && cdb[1] & 0xe0 != 0 { Err(Sense::invalid_field(1)) } else { Ok(()) }
}

fn write_and_verify(disk: Disk, cdb: &[u8; 16]) -> Result<Work, Sense> {
    no_protection(cdb)?;
    // BYTCHK: 00b and 01b; what is written is read back and compared for either.
    if cdb[1] & 0x04 != 0 {
        return Err(Sense::invalid_field(1));
    }
    Ok(Work::write_and_verify(disk.transfer(cdb)?))
}

fn verify(disk: Disk, cdb: &[u8; 16]) -> Result<Work, Sense> {
    no_protection(cdb)?;
    let range = Range::of(cdb);
    let extent = disk.extent(range)?;
    let check = match cdb[1] >> 1 & 0x03 {
        0 => Check::Readable,
        1 => Check::Whole,
        3 => Check::Repeated(disk.block),
        _ => return Err(Sense::invalid_field(1)),
    };
    if check == Check::Whole {
        disk.transfer(cdb)?;
    }
    Ok(Work::verify(extent, check))
}

fn write_same(disk: Disk, cdb: &[u8; 16]) -> Result<Work, Sense> {
    no_protection(cdb)?;
    // ANCHOR, and what is long obsolete: PBDATA, LBDATA.
    if cdb[1] & 0x16 != 0 {
        return Err(Sense::invalid_field(1));
    }
    let no_data = cdb[1] & 0x01 != 0;
    if no_data && cdb[0] == 0x41 {
        return Err(Sense::invalid_field(1));
    }
    let mut range = Range::of(cdb);
    if range.count == 0 {
        range.count = disk.blocks.saturating_sub(range.lba);
    }
    let extent = disk.extent(range)?;
    if extent.length() > MAX_WRITE_SAME {
        return Err(Sense::invalid_field(if cdb[0] == 0x41 { 7 } else { 10 }));
    }
    let block = if no_data { 0 } else { disk.block };
    Ok(Work::write_same(extent, block, cdb[1] & 0x08 != 0))
}

fn unmap(disk: Disk, cdb: &[u8; 16]) -> Result<Work, Sense> {
    // ANCHOR.
    if cdb[1] & 0x01 != 0 {
        return Err(Sense::invalid_field(1));
    }
    Ok(Work::unmap(disk, be16(cdb, 7)))
}

fn compare_and_write(disk: Disk, cdb: &[u8; 16]) -> Result<Work, Sense> {
    no_protection(cdb)?;
    let extent = disk.extent(Range { lba: be64(cdb, 2), count: u64::from(cdb[13]) })?;
    Ok(Work::compare_and_write(extent, cdb[1] & 0x08 != 0))
}
