//! INQUIRY and its vital product data pages (SPC-4 sections 6.6 and 7.8, SBC-3 section 6.6).

use crate::field::{be16, len8, len16, put};
use crate::scsi::copy;
use crate::scsi::sense::{Reply, Sense};
use crate::scsi::unit::Identity;

/// Blocks in the largest COMPARE AND WRITE.
pub(crate) const MAX_COMPARE: u8 = 255;
/// Bytes that one command may move.
pub(crate) const MAX_TRANSFER: u64 = 32 << 20;
/// Bytes that one WRITE SAME may write.
pub(crate) const MAX_WRITE_SAME: u64 = 128 << 20;
/// Descriptors in one UNMAP.
pub(crate) const MAX_UNMAP_DESCRIPTORS: u32 = 256;
/// Bytes worth moving at a time.
const OPTIMAL_TRANSFER: u64 = 1 << 20;
/// Bytes that history keeps whole.
const GRAIN: u64 = 4096;

/// What the pages tell of a unit.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) identity: &'a Identity,
    /// The name of the target, as its port's.
    pub(crate) target: &'a str,
}

/// INQUIRY.
pub(crate) fn inquiry(facts: &Facts<'_>, cdb: &[u8; 16]) -> Result<Reply, Sense> {
    let allotted = usize::from(be16(cdb, 3));
    let page = cdb[2];
    if cdb[1] & 1 == 0 {
        return if page == 0 {
            Ok(Reply::data(standard(facts.identity), allotted))
        } else {
            Err(Sense::invalid_field(2))
        };
    }
    let body = match page {
        0x00 => vec![0x00, 0x80, 0x83, 0x86, 0x8f, 0xb0, 0xb1, 0xb2],
        0x80 => facts.identity.serial.as_bytes().to_vec(),
        0x83 => identification(facts),
        0x86 => extended(),
        0x8f => copy::page(),
        0xb0 => limits(facts.identity),
        0xb1 => characteristics(),
        0xb2 => provisioning(),
        _ => return Err(Sense::invalid_field(2)),
    };
    let mut data = vec![0, page];
    data.extend_from_slice(&len16(body.len()).to_be_bytes());
    data.extend_from_slice(&body);
    Ok(Reply::data(data, allotted))
}

/// For a LUN that is not there: no device, and none can be (SPC-4 section 6.6.2).
pub(crate) fn absent(cdb: &[u8; 16]) -> Reply {
    let mut data = vec![0; 36];
    put(&mut data, 0, &[0x7f, 0, 6, 2, 31]);
    Reply::data(data, usize::from(be16(cdb, 3)))
}

fn standard(identity: &Identity) -> Vec<u8> {
    let mut data = vec![0; 96];
    // SPC-4; HISUP and response format 2; TPGS implicit, 3PC; CmdQue.
    put(&mut data, 0, &[0, 0, 6, 0x12, 91, 0x18, 0, 0x02]);
    put(&mut data, 8, &padded::<8>(&identity.vendor));
    put(&mut data, 16, &padded::<16>(&identity.product));
    put(&mut data, 32, &padded::<4>(&identity.revision));
    // Section 6.6.2 table 143: SAM-5, iSCSI, SPC-4, SBC-3.
    for (n, version) in [0x00a0_u16, 0x0960, 0x0460, 0x04c0].into_iter().enumerate() {
        put(&mut data, 58 + 2 * n, &version.to_be_bytes());
    }
    data
}

/// Text to a field's width, with spaces.
fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [b' '; N];
    for (to, from) in field.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    field
}

fn identification(facts: &Facts<'_>) -> Vec<u8> {
    let mut body = Vec::new();
    // The unit: NAA, and vendor with serial number.
    designator(&mut body, 0x01, 0x03, &facts.identity.naa.to_be_bytes());
    designator(&mut body, 0x02, 0x01, &t10_designator(facts.identity));
    // The target port: its number, its group and its name; protocol iSCSI.
    designator(&mut body, 0x51, 0x94, &[0, 0, 0, 1]);
    designator(&mut body, 0x51, 0x95, &[0, 0, 0, 1]);
    designator(&mut body, 0x53, 0x98, &name(&format!("{},t,0x0001", facts.target)));
    designator(&mut body, 0x53, 0xa8, &name(facts.target));
    body
}

/// The unit's vendor and serial number (section 7.8.6.4).
pub(crate) fn t10_designator(identity: &Identity) -> Vec<u8> {
    let mut t10 = padded::<8>(&identity.vendor).to_vec();
    t10.extend_from_slice(identity.serial.as_bytes());
    t10
}

fn designator(body: &mut Vec<u8>, code_set: u8, kind: u8, value: &[u8]) {
    body.extend_from_slice(&[code_set, kind, 0, len8(value.len())]);
    body.extend_from_slice(value);
}

/// A SCSI name string: ended by a zero, to whole words.
fn name(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// SPC-4 section 7.8.7.
fn extended() -> Vec<u8> {
    let mut body = vec![0; 60];
    // HEADSUP, ORDSUP, SIMPSUP; V_SUP (a volatile cache); LUICLR.
    put(&mut body, 1, &[0x07, 0x01, 0x01]);
    body
}

/// SBC-3 section 6.6.4.
fn limits(identity: &Identity) -> Vec<u8> {
    let blocks = |bytes: u64| u32::try_from(bytes / identity.block.bytes()).unwrap_or(u32::MAX);
    let mut body = vec![0; 60];
    put(&mut body, 1, &[MAX_COMPARE]);
    let grain = u16::try_from(blocks(GRAIN).max(1)).unwrap_or(1);
    put(&mut body, 2, &grain.to_be_bytes());
    put(&mut body, 4, &blocks(MAX_TRANSFER).to_be_bytes());
    put(&mut body, 8, &blocks(OPTIMAL_TRANSFER).to_be_bytes());
    put(&mut body, 16, &u32::MAX.to_be_bytes());
    put(&mut body, 20, &MAX_UNMAP_DESCRIPTORS.to_be_bytes());
    put(&mut body, 24, &blocks(GRAIN).max(1).to_be_bytes());
    put(&mut body, 28, &0x8000_0000_u32.to_be_bytes());
    put(&mut body, 32, &u64::from(blocks(MAX_WRITE_SAME)).to_be_bytes());
    body
}

/// SBC-3 section 6.6.2: a medium that does not rotate.
fn characteristics() -> Vec<u8> {
    let mut body = vec![0; 60];
    put(&mut body, 1, &[1]);
    body
}

/// SBC-3 section 6.6.6: thin, unmapped blocks read as zeroes, by UNMAP and both WRITE SAMEs.
fn provisioning() -> Vec<u8> {
    vec![0, 0x80 | 0x40 | 0x20 | 0x04, 0x02, 0]
}
