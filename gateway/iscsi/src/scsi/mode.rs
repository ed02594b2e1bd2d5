//! MODE SENSE and MODE SELECT (SPC-4 sections 6.9 to 6.14, 7.5; SBC-3 section 6.5): the caching, control and
//! informational exceptions pages. D_SENSE and SWP can be changed; both are shared by all initiators.

use crate::field::{be16, byte, len8, len16, put};
use crate::scsi::sense::{Reply, Sense};

/// What initiators can change, and what a page shows of the unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Modes {
    /// Sense data as descriptors.
    pub(crate) descriptors: bool,
    /// Software write protect.
    pub(crate) protected: bool,
}

/// What the headers show.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Medium {
    pub(crate) read_only: bool,
    pub(crate) block: u32,
    pub(crate) blocks: u64,
}

const CACHING: u8 = 0x08;
const CONTROL: u8 = 0x0a;
const EXCEPTIONS: u8 = 0x1c;
const ALL: u8 = 0x3f;
/// The second byte of the control page that holds D_SENSE, and the one that holds SWP.
const D_SENSE: (usize, u8) = (2, 0x04);
const SWP: (usize, u8) = (4, 0x08);
/// A task set for each nexus (SPC-4 section 7.5.8).
const TST: (usize, u8) = (2, 0x20);

/// Page control (SPC-4 section 6.11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Values {
    Current,
    Changeable,
    Default,
}

/// MODE SENSE (6) or (10).
pub(crate) fn sense(modes: Modes, medium: Medium, cdb: &[u8; 16]) -> Result<Reply, Sense> {
    let long = cdb[0] == 0x5a;
    let (page, subpage) = (cdb[2] & 0x3f, cdb[3]);
    let values = match cdb[2] >> 6 {
        0 => Values::Current,
        1 => Values::Changeable,
        2 => Values::Default,
        _ => return Err(Sense::SAVING_UNSUPPORTED),
    };
    if subpage != 0 && subpage != 0xff {
        return Err(Sense::invalid_field(3));
    }
    let mut pages = Vec::new();
    for known in [CACHING, CONTROL, EXCEPTIONS] {
        if page == known || page == ALL {
            pages.extend_from_slice(&page_of(known, modes, values));
        }
    }
    if pages.is_empty() {
        return Err(Sense::invalid_field(2));
    }
    let block = if cdb[1] & 0x08 == 0 { descriptor(medium) } else { Vec::new() };
    let protected = if medium.read_only || modes.protected { 0x80 } else { 0 };
    // WP; DPOFUA.
    let mut data = header(long, protected | 0x10, block.len(), pages.len());
    data.extend_from_slice(&block);
    data.extend_from_slice(&pages);
    let allotted = if long { usize::from(be16(cdb, 7)) } else { usize::from(cdb[4]) };
    Ok(Reply::data(data, allotted))
}

fn header(long: bool, specific: u8, block: usize, pages: usize) -> Vec<u8> {
    if !long {
        return vec![len8(3 + block + pages), 0, specific, len8(block)];
    }
    let mut data = vec![0; 8];
    put(&mut data, 0, &len16(6 + block + pages).to_be_bytes());
    put(&mut data, 3, &[specific]);
    put(&mut data, 6, &len16(block).to_be_bytes());
    data
}

/// The short block descriptor (SBC-3 section 6.5.2).
fn descriptor(medium: Medium) -> Vec<u8> {
    let mut data = u32::try_from(medium.blocks).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    data.extend_from_slice(&medium.block.to_be_bytes());
    data
}

fn page_of(page: u8, modes: Modes, values: Values) -> Vec<u8> {
    let length = match page {
        CACHING => 18,
        _ => 10,
    };
    let mut bytes = vec![0; 2 + usize::from(length)];
    put(&mut bytes, 0, &[page, length]);
    if page == CONTROL {
        let set = |value: bool, bit: u8| if value { bit } else { 0 };
        let (descriptors, protected, sets) = match values {
            Values::Current => (modes.descriptors, modes.protected, true),
            Values::Changeable => (true, true, false),
            Values::Default => (false, false, true),
        };
        put(&mut bytes, D_SENSE.0, &[set(descriptors, D_SENSE.1) | set(sets, TST.1)]);
        put(&mut bytes, SWP.0, &[set(protected, SWP.1)]);
    }
    if values == Values::Changeable {
        return bytes;
    }
    match page {
        // WCE: what is written is durable after SYNCHRONIZE CACHE, not before.
        CACHING => put(&mut bytes, 2, &[0x04]),
        // QUEUE ALGORITHM MODIFIER: commands may be reordered; BUSY TIMEOUT without limit.
        CONTROL => {
            put(&mut bytes, 3, &[0x10]);
            put(&mut bytes, 8, &[0xff, 0xff]);
        }
        _ => {}
    }
    bytes
}

/// MODE SELECT (6) or (10); what the modes are afterwards.
pub(crate) fn select(modes: Modes, cdb: &[u8; 16], list: &[u8]) -> Result<Modes, Sense> {
    let long = cdb[0] == 0x55;
    let (head, block) = match long {
        true => (8, usize::from(be16(list, 6))),
        false => (4, usize::from(byte(list, 3))),
    };
    if list.is_empty() {
        return Ok(modes);
    }
    let mut pages = list.get(head + block..).ok_or(Sense::PARAMETER_LENGTH)?;
    let mut at = head + block;
    let mut result = modes;
    while !pages.is_empty() {
        let length = 2 + usize::from(byte(pages, 1));
        let page = pages.get(..length).ok_or(Sense::PARAMETER_LENGTH)?;
        result = select_page(result, page, at)?;
        pages = pages.get(length..).unwrap_or_default();
        at += length;
    }
    Ok(result)
}

/// One page: nothing but what is changeable may differ from what is there.
fn select_page(modes: Modes, page: &[u8], at: usize) -> Result<Modes, Sense> {
    let code = byte(page, 0) & 0x3f;
    if ![CACHING, CONTROL, EXCEPTIONS].contains(&code) || byte(page, 0) & 0x40 != 0 {
        return Err(Sense::invalid_parameter(len16(at)));
    }
    let current = page_of(code, modes, Values::Current);
    let mask = page_of(code, modes, Values::Changeable);
    if page.len() != current.len() {
        return Err(Sense::invalid_parameter(len16(at + 1)));
    }
    for (n, ((new, old), may)) in page.iter().zip(&current).zip(&mask).enumerate().skip(2) {
        if (new ^ old) & !may != 0 {
            return Err(Sense::invalid_parameter(len16(at + n)));
        }
    }
    let bit = |(at, bit): (usize, u8)| byte(page, at) & bit != 0;
    Ok(if code == CONTROL { Modes { descriptors: bit(D_SENSE), protected: bit(SWP) } } else { modes })
}
