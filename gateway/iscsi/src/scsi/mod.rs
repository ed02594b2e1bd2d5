//! A SCSI disk (SPC-4, SBC-3) over a block device: from a CDB to an answer, or to the work it takes.

pub(crate) mod blocks;
pub(crate) mod copy;
mod identity;
pub(crate) mod inquiry;
pub(crate) mod mode;
pub(crate) mod opcodes;
pub(crate) mod party;
pub(crate) mod reservation;
pub(crate) mod segments;
pub(crate) mod sense;
pub(crate) mod status;
pub(crate) mod unit;
pub(crate) mod work;

use crate::field::{be16, be32, len32, put};
use blocks::Disk;
use inquiry::Facts;
use sense::{Reply, Sense};
use unit::{BlockLength, Nexus};
use work::Work;

/// What a command comes to at first sight.
#[derive(Debug)]
pub(crate) enum Begun {
    /// Its answer.
    Reply(Reply),
    /// It needs data or the disk.
    Work(Work),
}

impl From<Reply> for Begun {
    fn from(reply: Reply) -> Self {
        Self::Reply(reply)
    }
}

/// Looks at a command to `nexus`; `luns` are those of its target.
pub(crate) fn begin(nexus: &Nexus, cdb: &[u8; 16], luns: &[u16]) -> Begun {
    let row = opcodes::find(cdb);
    if let Err(reply) = nexus.admit(row) {
        return reply.into();
    }
    // Byte 1 of the CDB's last: NACA is not supported (SAM-5 section 5.2).
    dispatch(nexus, cdb, luns).unwrap_or_else(|sense| Begun::Reply(sense.into()))
}

/// A command to a LUN that the target does not have (SAM-5 section 5.13.4).
pub(crate) fn begin_absent(cdb: &[u8; 16], luns: &[u16]) -> Reply {
    match cdb[0] {
        0x12 if cdb[1] & 1 == 0 => inquiry::absent(cdb),
        0xa0 => report_luns(cdb, luns).unwrap_or_else(Reply::failed),
        0x03 => request_sense(Sense::NO_SUCH_UNIT, cdb),
        _ => Sense::NO_SUCH_UNIT.into(),
    }
}

fn dispatch(nexus: &Nexus, cdb: &[u8; 16], luns: &[u16]) -> Result<Begun, Sense> {
    let unit = &nexus.unit;
    let disk = nexus.disk();
    if let Some(work) = blocks::work(disk, cdb)? {
        return Ok(Begun::Work(work));
    }
    let reply = match cdb[0] {
        0x00 => Reply::good(),
        0x03 => request_sense(nexus.take_attention().unwrap_or(Sense::NONE), cdb),
        0x12 => {
            let facts = Facts { identity: unit.identity(), target: &nexus.target };
            inquiry::inquiry(&facts, cdb)?
        }
        0x15 | 0x55 => return Ok(Begun::Work(Work::mode_select(*cdb))),
        0x16 | 0x17 => old_reservation(nexus, cdb)?,
        0x1a | 0x5a => mode::sense(nexus.modes(), nexus.medium(), cdb)?,
        0x1d => send_diagnostic(cdb)?,
        0x25 => read_capacity_10(disk),
        0x37 | 0xb7 => read_defects(cdb),
        0x5e => persistent_in(nexus, cdb)?,
        0x5f => return Ok(Begun::Work(Work::reserve(*cdb)?)),
        0x83 => return Ok(Begun::Work(Work::copy(cdb)?)),
        0x84 => copy_results(nexus, cdb)?,
        0x9e if cdb[1] & 0x1f == 0x10 => read_capacity_16(nexus, disk, cdb),
        0x9e => return Ok(Begun::Work(Work::status(status::Question::parse(disk, cdb)?))),
        0xa0 => report_luns(cdb, luns)?,
        0xa3 => maintenance_in(cdb)?,
        _ => return Err(Sense::INVALID_OPCODE),
    };
    Ok(reply.into())
}

fn allotted(cdb: &[u8; 16], at: usize) -> usize {
    usize::try_from(be32(cdb, at)).unwrap_or(usize::MAX)
}

/// SPC-4 section 6.39.
fn request_sense(sense: Sense, cdb: &[u8; 16]) -> Reply {
    Reply::data(sense.encode(cdb[1] & 1 != 0), usize::from(cdb[4]))
}

/// SPC-2 sections 7.16 and 7.17: only whole units.
fn old_reservation(nexus: &Nexus, cdb: &[u8; 16]) -> Result<Reply, Sense> {
    if cdb[1] & 0x1f != 0 {
        return Err(Sense::invalid_field(1));
    }
    Ok(if cdb[0] == 0x16 { nexus.reserve() } else { nexus.release() })
}

/// SPC-4 section 6.42: the default self-test, which an answer passes.
fn send_diagnostic(cdb: &[u8; 16]) -> Result<Reply, Sense> {
    if cdb[1] & 0x04 == 0 || be16(cdb, 3) != 0 {
        return Err(Sense::invalid_field(1));
    }
    Ok(Reply::good())
}

/// SBC-3 section 5.12.
fn read_capacity_10(disk: Disk) -> Reply {
    let last = u32::try_from(disk.blocks.saturating_sub(1)).unwrap_or(u32::MAX);
    let mut data = last.to_be_bytes().to_vec();
    data.extend_from_slice(&u32::try_from(disk.block).unwrap_or(0).to_be_bytes());
    Reply::data(data, usize::MAX)
}

/// SBC-3 section 5.13.
fn read_capacity_16(nexus: &Nexus, disk: Disk, cdb: &[u8; 16]) -> Reply {
    let identity = nexus.unit.identity();
    let exponent = if identity.emulated && identity.block == BlockLength::Short { 3 } else { 0 };
    let mut data = vec![0; 32];
    put(&mut data, 0, &disk.blocks.saturating_sub(1).to_be_bytes());
    put(&mut data, 8, &u32::try_from(disk.block).unwrap_or(0).to_be_bytes());
    // LBPME, LBPRZ.
    put(&mut data, 13, &[exponent, 0xc0]);
    Reply::data(data, allotted(cdb, 10))
}

/// SBC-3 sections 5.14 and 5.15: there are none.
fn read_defects(cdb: &[u8; 16]) -> Reply {
    if cdb[0] == 0x37 {
        return Reply::data(vec![0, cdb[2] & 0x1f, 0, 0], usize::from(be16(cdb, 7)));
    }
    Reply::data(vec![0, cdb[1] & 0x1f, 0, 0, 0, 0, 0, 0], allotted(cdb, 6))
}

fn persistent_in(nexus: &Nexus, cdb: &[u8; 16]) -> Result<Reply, Sense> {
    let data = nexus.report_reservations(cdb[1] & 0x1f).ok_or(Sense::invalid_field(1))?;
    Ok(Reply::data(data, usize::from(be16(cdb, 7))))
}

fn copy_results(nexus: &Nexus, cdb: &[u8; 16]) -> Result<Reply, Sense> {
    let data = if cdb[1] & 0x1f == 3 {
        copy::operating_parameters()
    } else {
        copy::status(nexus.take_copy(cdb[2]).ok_or(Sense::invalid_field(2))?)
    };
    Ok(Reply::data(data, allotted(cdb, 10)))
}

/// SPC-4 section 6.33.
fn report_luns(cdb: &[u8; 16], luns: &[u16]) -> Result<Reply, Sense> {
    let all: Vec<u64> = match cdb[2] {
        0x00 | 0x02 => luns.iter().map(|&lun| encode_lun(lun)).collect(),
        // Well-known units only: there are none.
        0x01 => Vec::new(),
        _ => return Err(Sense::invalid_field(2)),
    };
    let mut data = len32(all.len() * 8).to_be_bytes().to_vec();
    data.extend_from_slice(&[0; 4]);
    data.extend(all.iter().flat_map(|lun| lun.to_be_bytes()));
    Ok(Reply::data(data, allotted(cdb, 6)))
}

fn maintenance_in(cdb: &[u8; 16]) -> Result<Reply, Sense> {
    match cdb[1] & 0x1f {
        0x0a => Ok(report_port_groups(cdb)),
        0x0c => opcodes::report(cdb),
        _ => Ok(opcodes::report_task_management(cdb)),
    }
}

/// REPORT TARGET PORT GROUPS (SPC-4 section 6.36): one group with one port, always active.
fn report_port_groups(cdb: &[u8; 16]) -> Reply {
    // Active/optimized; no other state is ever taken.
    let group = [0x00, 0x01, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1];
    let extended: &[u8] = if cdb[1] >> 5 == 1 { &[0x10, 0, 0, 0] } else { &[] };
    let mut data = len32(group.len() + extended.len()).to_be_bytes().to_vec();
    data.extend_from_slice(extended);
    data.extend_from_slice(&group);
    Reply::data(data, allotted(cdb, 6))
}

/// A LUN in its eight bytes (SAM-5 section 4.7): small ones by the peripheral method, others flat.
pub(crate) fn encode_lun(lun: u16) -> u64 {
    if lun < 256 { u64::from(lun) << 48 } else { u64::from(0x4000 | lun) << 48 }
}

/// The LUN of a header; `None` for forms that name no unit of ours.
pub(crate) fn decode_lun(lun: u64) -> Option<u16> {
    let [a, b, rest @ ..] = lun.to_be_bytes();
    if rest != [0; 6] {
        return None;
    }
    match a >> 6 {
        0 if a == 0 => Some(u16::from(b)),
        1 => Some(u16::from_be_bytes([a & 0x3f, b])),
        _ => None,
    }
}
