//! vscsiStats' binary traces of VMware ESX, versions 1 and 2: records of a fixed size, little endian.
//!
//! ```text
//!  1   serial 4 │ bytes 4 │ segments 4 │ command 2 │ version 2 │ sector 8 │ time 8
//!  2   command 2 │ version 2 │ serial 4 │ bytes 4 │ segments 4 │ sector 8 │ time 8 │ response time 8
//! ```
//!
//! The command is the SCSI operation code, the high byte of the version is 1 or 2, times are microseconds since the host's own
//! start. (Facts of the format after the trace readers of libCacheSim and vscsiStats' own text form, which names its columns.)

use super::{Devices, Line};
use crate::event::{At, Event, Kind};

const SECTOR: u64 = 512;
/// Records looked at to tell the format.
const LOOKED_AT: usize = 16;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

struct Record {
    command: u16,
    version: u16,
    bytes: u32,
    sector: u64,
    micros: u64,
    response: Option<u64>,
}

impl Version {
    pub(super) const fn size(self) -> usize {
        match self {
            Self::One => 32,
            Self::Two => 40,
        }
    }

    const fn number(self) -> u16 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }

    /// The version of a trace that begins so.
    pub(super) fn detect(prefix: &[u8]) -> Option<Self> {
        [Self::Two, Self::One].into_iter().find(|version| {
            let records = prefix.chunks_exact(version.size()).take(LOOKED_AT);
            let mut kinds = records.map(|r| version.record(r).filter(|r| r.sound(*version)));
            let first = kinds.next().flatten();
            first.is_some() && kinds.all(|r| r.is_some())
        })
    }

    fn record(self, bytes: &[u8]) -> Option<Record> {
        let u16_at = |at: usize| bytes.get(at..)?.first_chunk().map(|&raw| u16::from_le_bytes(raw));
        let u32_at = |at: usize| bytes.get(at..)?.first_chunk().map(|&raw| u32::from_le_bytes(raw));
        let u64_at = |at: usize| bytes.get(at..)?.first_chunk().map(|&raw| u64::from_le_bytes(raw));
        Some(match self {
            Self::One => Record {
                bytes: u32_at(4)?,
                command: u16_at(12)?,
                version: u16_at(14)?,
                sector: u64_at(16)?,
                micros: u64_at(24)?,
                response: None,
            },
            Self::Two => Record {
                command: u16_at(0)?,
                version: u16_at(2)?,
                bytes: u32_at(8)?,
                sector: u64_at(16)?,
                micros: u64_at(24)?,
                response: Some(u64_at(32)?),
            },
        })
    }

    /// The record at the front and its length; `None` when more bytes are needed.
    pub(super) fn next(self, bytes: &[u8], devices: &mut Devices) -> Option<(usize, Line)> {
        let whole = bytes.get(..self.size())?;
        match self.record(whole).filter(|r| r.sound(self)) {
            Some(found) => Some((self.size(), found.line(devices))),
            None => Some((self.to_next(bytes), Line::Rejected("bytes that are no record of vscsiStats"))),
        }
    }

    /// Bytes to the next place where a record stands, or could.
    fn to_next(self, bytes: &[u8]) -> usize {
        let sound = |w: &[u8]| self.record(w).is_some_and(|r| r.sound(self));
        let found = bytes.windows(self.size()).skip(1).position(sound);
        found.map_or_else(|| bytes.len().saturating_sub(self.size() - 1).max(1), |at| at + 1)
    }

    /// Appends an I/O as a record; `false` for a length that does not fit.
    pub(super) fn write(self, event: &Event, serial: u32, out: &mut Vec<u8>) -> bool {
        let Ok(bytes) = u32::try_from(event.length) else { return false };
        let command: u16 = match event.kind {
            Kind::Read => 0x88,
            Kind::Write => 0x8a,
            Kind::Flush => 0x91,
            Kind::Discard => 0x42,
        };
        let segments = bytes.div_ceil(4096);
        let version = self.number() << 8;
        match self {
            Self::One => {
                [serial, bytes, segments].iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
                [command, version].iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
            }
            Self::Two => {
                [command, version].iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
                [serial, bytes, segments].iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
            }
        }
        out.extend_from_slice(&(event.offset / SECTOR).to_le_bytes());
        out.extend_from_slice(&(event.at.nanos() / 1000).to_le_bytes());
        if self == Self::Two {
            out.extend_from_slice(&(event.latency.unwrap_or(0) / 1000).to_le_bytes());
        }
        true
    }
}

impl Record {
    /// Is it one? Noise is, once in 2^16 places.
    fn sound(&self, version: Version) -> bool {
        self.version >> 8 == version.number() && self.command <= 0xff
    }

    fn line(&self, devices: &mut Devices) -> Line {
        let kind = match self.command {
            0x08 | 0x28 | 0x88 | 0xa8 => Kind::Read,
            0x0a | 0x2a | 0x8a | 0xaa | 0x2e | 0x8e => Kind::Write,
            0x35 | 0x91 => Kind::Flush,
            0x42 => Kind::Discard,
            // What tells of the disk, or reserves it, moves no data.
            _ => return Line::Nothing,
        };
        let (offset, at) = (self.sector.checked_mul(SECTOR), self.micros.checked_mul(1000));
        let (Some(offset), Some(at)) = (offset, at) else {
            return Line::Rejected("a sector or a time past 2^64");
        };
        // A response time of nothing is one that was not taken.
        let latency = self.response.and_then(|micros| micros.checked_mul(1000)).filter(|&nanos| nanos > 0);
        let (offset, length) = if kind == Kind::Flush { (0, 0) } else { (offset, u64::from(self.bytes)) };
        let device = devices.number(b"vscsi");
        Line::Event(Event { at: At::from_nanos(at), device, kind, offset, length, latency })
    }
}
