//! blktrace's binary: the kernel's `struct blk_io_trace` (include/uapi/linux/blktrace_api.h), version 7.
//!
//! ```text
//!  magic 4 │ sequence 4 │ time 8 │ sector 8 │ bytes 4 │ action 4 │ pid 4 │ device 4 │ cpu 4 │ error 2 │ pdu_len 2 │ pdu
//! ```
//!
//! In the byte order of the machine that traced, which the magic tells. The low half of `action` is the stage of the
//! I/O's life, the high half its categories.

use super::{Completion, Devices, Line};
use crate::event::{At, Event, Kind};

const MAGIC: u32 = 0x6561_7400;
const VERSION: u32 = 7;
const RECORD: usize = 48;
const SECTOR: u64 = 512;

const WRITE: u32 = 1 << 1;
const FLUSH: u32 = 1 << 2;
const READ: u32 = 1;
const NOTIFY: u32 = 1 << 10;
const DISCARD: u32 = 1 << 13;

/// The stage of its life at which an I/O is counted: the earliest one that the trace has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Action {
    /// Submitted. What a replicating driver would see.
    #[default]
    Queue,
    /// Sent to the device, after merging.
    Issue,
    /// Done.
    Complete,
}

impl Action {
    const fn code(self) -> u32 {
        match self {
            Self::Queue => 1,
            Self::Issue => 7,
            Self::Complete => 8,
        }
    }
}

/// Which stage is counted.
#[derive(Debug, Default)]
pub(super) struct State {
    /// `None` while none was seen.
    pub(super) counted: Option<Action>,
    /// The device that came last and its number.
    last: Option<(u32, crate::event::DeviceNo)>,
    /// Are there ends of I/Os in the beginning of the file?
    pub(super) has_ends: bool,
    /// Are they kept?
    pub(super) keeps_ends: bool,
    /// Those of the bytes at hand.
    pub(super) ends: Vec<Completion>,
}

/// Does a trace begin so?
pub(super) fn begins(prefix: &[u8]) -> bool {
    prefix.first_chunk().is_some_and(|&magic| big_endian(magic).is_some())
}

/// `None`: no magic.
fn big_endian(magic: [u8; 4]) -> Option<bool> {
    let ours = |m: u32| m & 0xffff_ff00 == MAGIC;
    if ours(u32::from_le_bytes(magic)) {
        Some(false)
    } else {
        ours(u32::from_be_bytes(magic)).then_some(true)
    }
}

/// The fields that matter.
struct Record {
    version: u32,
    time: u64,
    sector: u64,
    bytes: u32,
    action: u32,
    device: u32,
    pdu_len: u16,
}

/// `None`: it is no record. `Some(None)`: more bytes are needed.
fn record(bytes: &[u8]) -> Option<Option<Record>> {
    let Some(&magic) = bytes.first_chunk::<4>() else { return Some(None) };
    let big = big_endian(magic)?;
    let Some(fixed) = bytes.first_chunk::<RECORD>() else { return Some(None) };
    let u32_at = |at: usize| {
        let raw = fixed.get(at..).and_then(|b| b.first_chunk()).copied().unwrap_or_default();
        if big { u32::from_be_bytes(raw) } else { u32::from_le_bytes(raw) }
    };
    let u64_at = |at: usize| {
        let raw = fixed.get(at..).and_then(|b| b.first_chunk()).copied().unwrap_or_default();
        if big { u64::from_be_bytes(raw) } else { u64::from_le_bytes(raw) }
    };
    let &[.., p0, p1] = fixed;
    Some(Some(Record {
        version: u32_at(0) & 0xff,
        time: u64_at(8),
        sector: u64_at(16),
        bytes: u32_at(24),
        action: u32_at(28),
        device: u32_at(36),
        pdu_len: if big { u16::from_be_bytes([p0, p1]) } else { u16::from_le_bytes([p0, p1]) },
    }))
}

impl State {
    /// Chooses the stage by the beginning of the file.
    pub(super) fn choose(prefix: &[u8]) -> Self {
        let (mut rest, mut counted, mut has_ends) = (prefix, None, false);
        while let Some(Some(found)) = record(rest) {
            let stage = [Action::Queue, Action::Issue, Action::Complete]
                .into_iter()
                .find(|a| found.action & 0xffff == a.code() && found.action >> 16 & NOTIFY == 0);
            has_ends |= stage == Some(Action::Complete);
            counted = match (counted, stage) {
                (Some(a), Some(b)) => Some(std::cmp::min::<Action>(a, b)),
                (a, b) => a.or(b),
            };
            rest = rest.get(RECORD + usize::from(found.pdu_len)..).unwrap_or(&[]);
        }
        Self { counted, has_ends, ..Self::default() }
    }

    /// The record at the front and its length; `None` when more bytes are needed.
    pub(super) fn next(&mut self, bytes: &[u8], devices: &mut Devices) -> Option<(usize, Line)> {
        let Some(found) = record(bytes) else {
            return Some((to_next_magic(bytes), Line::Rejected("bytes that are no record of blktrace")));
        };
        let found = found?;
        let length = RECORD + usize::from(found.pdu_len);
        if bytes.len() < length {
            return None;
        }
        Some((length, self.line(&found, devices)))
    }

    fn line(&mut self, found: &Record, devices: &mut Devices) -> Line {
        if found.version != VERSION {
            return Line::Rejected("a record of another version than 7");
        }
        let categories = found.action >> 16;
        let stage = found.action & 0xffff;
        let is_counted = stage == self.counted.unwrap_or_default().code();
        let is_end = self.keeps_ends && stage == Action::Complete.code();
        if categories & NOTIFY != 0 || !(is_counted || is_end) {
            return Line::Nothing;
        }
        let Some(kind) = kind(categories, found.bytes) else { return Line::Nothing };
        let Some(offset) = found.sector.checked_mul(SECTOR) else {
            return Line::Rejected("a sector past 2^64 bytes");
        };
        let device = self.device(found.device, devices);
        let (at, length) = (At::from_nanos(found.time), u64::from(found.bytes));
        if !is_counted {
            self.ends.push(Completion { at, device, kind, offset, length });
            return Line::Nothing;
        }
        Line::Event(Event { at, device, kind, offset, length, latency: None })
    }

    fn device(&mut self, raw: u32, devices: &mut Devices) -> crate::event::DeviceNo {
        match self.last {
            Some((last, number)) if last == raw => number,
            _ => {
                // The kernel's own packing: twelve bits of major, twenty of minor.
                let number = devices.number(format!("{},{}", raw >> 20, raw & 0xf_ffff).as_bytes());
                self.last = Some((raw, number));
                number
            }
        }
    }
}

/// `None`: it moves no data.
const fn kind(categories: u32, bytes: u32) -> Option<Kind> {
    Some(if categories & DISCARD != 0 {
        Kind::Discard
    } else if bytes == 0 && categories & FLUSH != 0 {
        Kind::Flush
    } else if categories & WRITE != 0 {
        Kind::Write
    } else if categories & READ != 0 {
        Kind::Read
    } else {
        return None;
    })
}

/// Bytes to the next place where a magic stands, or could.
fn to_next_magic(bytes: &[u8]) -> usize {
    let found =
        bytes.windows(4).skip(1).position(|w| w.first_chunk().is_some_and(|&m| big_endian(m).is_some()));
    found.map_or_else(|| bytes.len().saturating_sub(3).max(1), |at| at + 1)
}

/// Appends an I/O as the record of its queue event; the device's number is `major,minor` where its name is one, else
/// its number here. `false` for lengths that do not fit.
pub(super) fn write_record(event: &Event, device: &str, sequence: u32, out: &mut Vec<u8>) -> bool {
    let Ok(bytes) = u32::try_from(event.length) else { return false };
    let categories = match event.kind {
        Kind::Read => READ,
        Kind::Write => WRITE,
        Kind::Flush => WRITE | FLUSH,
        Kind::Discard => WRITE | DISCARD,
    };
    let queued = 1 << 4;
    let action = Action::Queue.code() | (categories | queued) << 16;
    let parsed =
        device.split_once(',').and_then(|(a, b)| Some((a.parse::<u32>().ok()?, b.parse::<u32>().ok()?)));
    let device =
        parsed.filter(|&(a, b)| a < 1 << 12 && b < 1 << 20).map_or(event.device.get(), |(a, b)| a << 20 | b);
    out.extend_from_slice(&(MAGIC | VERSION).to_le_bytes());
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(&event.at.nanos().to_le_bytes());
    out.extend_from_slice(&(event.offset / SECTOR).to_le_bytes());
    for word in [bytes, action, 0, device, 0, 0] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    true
}
