//! Traces of other programs, read in pieces of any size.
//!
//! [`Importer::detect`] tells the format by the content and refuses what is none; [`Importer::push`] takes the bytes as they come. A
//! line that is no I/O and no comment is *rejected*: counted, and the first few are kept to be shown.

mod blktrace;
mod fields;
mod lines;

use std::collections::HashMap;

use crate::cgp::{Clock, Tally};
use crate::event::{DeviceNo, Event};

pub use blktrace::{Action, write_record as write_blktrace};
pub(crate) use lines::kind_of_rwbs;
pub use lines::write_line;

/// How many bytes [`Importer::detect`] wants to see, if there are so many.
pub const PREFIX: usize = 1 << 20;
/// The longest line; a longer one is rejected without being kept.
const MAX_LINE: usize = 64 << 10;
/// How many rejected lines are kept to be shown.
const SHOWN: usize = 3;
/// The most devices in one trace.
const MAX_DEVICES: usize = 1 << 20;

/// What is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// What `blktrace` writes, one file per processor.
    Blktrace,
    /// What `blkparse` prints.
    Blkparse,
    /// fio's iolog, version 2: waits between actions.
    Fio2,
    /// fio's iolog, version 3: a timestamp each.
    Fio3,
    /// blkreplay's `.load`.
    Blkreplay,
    /// Microsoft Research Cambridge (SNIA IOTTA): timestamp, host, disk, type, offset, size, response time.
    Msr,
    /// SYSTOR '17 (SNIA IOTTA): timestamp, response, type, LUN, offset, size.
    Systor,
    /// Tencent CBS (SNIA IOTTA): timestamp, offset, size, type, volume.
    Tencent,
    /// Alibaba block traces: device, opcode, offset, length, timestamp.
    Alibaba,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Blktrace,
        Self::Blkparse,
        Self::Fio2,
        Self::Fio3,
        Self::Blkreplay,
        Self::Msr,
        Self::Systor,
        Self::Tencent,
        Self::Alibaba,
    ];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blktrace => "blktrace",
            Self::Blkparse => "blkparse",
            Self::Fio2 => "fio2",
            Self::Fio3 => "fio3",
            Self::Blkreplay => "blkreplay",
            Self::Msr => "msr",
            Self::Systor => "systor",
            Self::Tencent => "tencent",
            Self::Alibaba => "alibaba",
        }
    }

    /// By its name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.name() == name)
    }

    /// What its times count from.
    #[must_use]
    pub const fn clock(self) -> Clock {
        match self {
            Self::Msr | Self::Systor | Self::Tencent | Self::Alibaba => Clock::Wall,
            Self::Blktrace | Self::Blkparse | Self::Fio2 | Self::Fio3 | Self::Blkreplay => Clock::Relative,
        }
    }
}

/// Why a file is not imported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is nothing in it.
    #[error("the file is empty: was the trace stopped before it wrote anything?")]
    Empty,
    /// It is binary, and no blktrace.
    #[error(
        "the file begins with the bytes {0}, which no trace format that is known does; text or blktrace binary is expected"
    )]
    Binary(String),
    /// It is text, but of no format.
    #[error(
        "none of its first {lines} lines is an I/O in any format that is known ({known}); the first is {first:?}"
    )]
    Text {
        /// How many were looked at.
        lines: usize,
        /// The names of the formats.
        known: String,
        /// The first line.
        first: String,
    },
}

/// What one line is.
enum Line {
    Event(Event),
    /// A comment, a header, another stage of an I/O.
    Nothing,
    /// Why it is not an I/O.
    Rejected(&'static str),
}

/// A rejected line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Its number from 1; of a record its place in bytes.
    pub place: u64,
    /// Why.
    pub why: &'static str,
}

/// Reads one trace.
#[derive(Debug)]
pub struct Importer {
    format: Format,
    /// The beginning of what is not whole yet.
    carry: Vec<u8>,
    /// Is the rest of an overlong line being skipped?
    skipping: bool,
    place: u64,
    lines: lines::State,
    blktrace: blktrace::State,
    devices: Devices,
    tally: Tally,
    rejected: Vec<Rejected>,
}

impl Importer {
    /// Tells the format by the beginning of the file ([`PREFIX`] bytes of it, or all).
    ///
    /// # Errors
    /// [`Refusal`]: it is no trace.
    pub fn detect(prefix: &[u8]) -> Result<Self, Refusal> {
        if prefix.is_empty() {
            return Err(Refusal::Empty);
        }
        if blktrace::begins(prefix) {
            return Ok(Self::of(Format::Blktrace, prefix));
        }
        let head = prefix.get(..4096).unwrap_or(prefix);
        if head.contains(&0) || std::str::from_utf8(head).is_err_and(|e| e.valid_up_to() + 4 < head.len()) {
            let shown: Vec<String> = prefix.iter().take(8).map(|b| format!("{b:02x}")).collect();
            return Err(Refusal::Binary(shown.join(" ")));
        }
        lines::detect(prefix).map(|format| Self::of(format, prefix))
    }

    /// Reads what is known to be of this format; the beginning of the file says what of it to count.
    #[must_use]
    pub fn of(format: Format, prefix: &[u8]) -> Self {
        Self {
            format,
            carry: Vec::new(),
            skipping: false,
            place: 0,
            lines: lines::State::default(),
            blktrace: blktrace::State::choose(prefix),
            devices: Devices::default(),
            tally: Tally::default(),
            rejected: Vec::new(),
        }
    }

    /// The format.
    #[must_use]
    pub const fn format(&self) -> Format {
        self.format
    }

    /// The stage of an I/O's life at which a blktrace is counted; `None` when its beginning has none of them.
    #[must_use]
    pub const fn counted(&self) -> Option<Action> {
        self.blktrace.counted
    }

    /// Counts this stage: the files of one trace must agree on it, for a processor may have seen completions only.
    pub const fn count(&mut self, stage: Action) {
        self.blktrace.counted = Some(stage);
    }

    /// Takes the next bytes, and appends the I/Os in them to `out`.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<Event>) {
        if self.format == Format::Blktrace {
            self.carry.extend_from_slice(bytes);
            self.records(out);
            return;
        }
        let mut rest = bytes;
        while let Some(at) = rest.iter().position(|&b| b == b'\n') {
            let (line, behind) = rest.split_at(at);
            rest = behind.get(1..).unwrap_or(&[]);
            self.end_line(line, out);
        }
        self.carry_over(rest);
    }

    /// The file has ended: takes what is left of it.
    pub fn finish(&mut self, out: &mut Vec<Event>) {
        if self.carry.is_empty() && !self.skipping {
            return;
        }
        if self.format == Format::Blktrace {
            self.reject("the file ends inside a record");
            self.carry.clear();
        } else {
            self.end_line(&[], out);
        }
    }

    fn end_line(&mut self, line: &[u8], out: &mut Vec<Event>) {
        self.place += 1;
        if std::mem::take(&mut self.skipping) {
            return;
        }
        if self.carry.is_empty() {
            return self.line(line, out);
        }
        let mut whole = std::mem::take(&mut self.carry);
        whole.extend_from_slice(line);
        self.line(&whole, out);
        whole.clear();
        self.carry = whole;
    }

    fn carry_over(&mut self, rest: &[u8]) {
        if self.skipping {
            return;
        }
        self.carry.extend_from_slice(rest);
        if self.carry.len() > MAX_LINE {
            self.carry.clear();
            self.skipping = true;
            self.place += 1;
            self.reject("a line of more than 64 KiB");
            self.place -= 1;
        }
    }

    fn line(&mut self, line: &[u8], out: &mut Vec<Event>) {
        match self.lines.read(self.format, line, &mut self.devices) {
            Line::Event(event) => {
                self.tally.accepted += 1;
                out.push(event);
            }
            Line::Nothing => self.tally.ignored += 1,
            Line::Rejected(why) => self.reject(why),
        }
    }

    fn records(&mut self, out: &mut Vec<Event>) {
        let mut used = 0;
        while let Some(rest) = self.carry.get(used..) {
            let Some((length, record)) = self.blktrace.next(rest, &mut self.devices) else { break };
            match record {
                Line::Event(event) => {
                    self.tally.accepted += 1;
                    out.push(event);
                }
                Line::Nothing => self.tally.ignored += 1,
                Line::Rejected(why) => {
                    self.tally.rejected += 1;
                    if self.rejected.len() < SHOWN {
                        let place = self.place + tap_block::units::count(used);
                        self.rejected.push(Rejected { place, why });
                    }
                }
            }
            used += length;
        }
        self.place += tap_block::units::count(used);
        self.carry.drain(..used);
    }

    fn reject(&mut self, why: &'static str) {
        self.tally.rejected += 1;
        if self.rejected.len() < SHOWN {
            self.rejected.push(Rejected { place: self.place, why });
        }
    }

    /// What was taken so far.
    #[must_use]
    pub const fn tally(&self) -> Tally {
        self.tally
    }

    /// The first few that were rejected.
    #[must_use]
    pub fn rejected(&self) -> &[Rejected] {
        &self.rejected
    }

    /// The names of the devices, by number.
    #[must_use]
    pub fn devices(&self) -> &[String] {
        &self.devices.names
    }
}

/// Names of devices to their numbers.
#[derive(Debug, Default)]
struct Devices {
    numbers: HashMap<Vec<u8>, DeviceNo>,
    names: Vec<String>,
    /// The one that came last: the next is mostly the same.
    last: (Vec<u8>, DeviceNo),
}

impl Devices {
    fn number(&mut self, name: &[u8]) -> DeviceNo {
        if self.last.0 == name && !self.names.is_empty() {
            return self.last.1;
        }
        let known = self.numbers.get(name).copied();
        let number = known.unwrap_or_else(|| self.add(name));
        self.last.0.clear();
        self.last.0.extend_from_slice(name);
        self.last.1 = number;
        number
    }

    /// What is past the limit counts as one device.
    fn add(&mut self, name: &[u8]) -> DeviceNo {
        if self.names.len() >= MAX_DEVICES {
            return DeviceNo::new(u32::try_from(MAX_DEVICES).unwrap_or(u32::MAX));
        }
        let number = DeviceNo::new(u32::try_from(self.names.len()).unwrap_or(u32::MAX));
        self.numbers.insert(name.to_vec(), number);
        let shown: String = String::from_utf8_lossy(name).chars().take(256).collect();
        self.names.push(shown);
        number
    }
}
