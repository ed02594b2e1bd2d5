//! Traces of other programs, read in pieces of any size.
//!
//! [`Importer::detect`] tells the format by the content and refuses what is none; [`Importer::push`] takes the bytes as they come. A
//! line that is no I/O and no comment is *rejected*: counted, and the first few are kept to be shown.

mod blktrace;
mod fields;
mod held;
mod lines;
mod nbdkit;
mod vscsi;

use std::collections::HashMap;

use crate::cgp::{Clock, Tally};
use crate::event::{At, DeviceNo, Event};

pub use blktrace::Action;
pub use held::{Completion, Latencies};
pub(crate) use lines::kind_of_rwbs;

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
    /// vscsiStats of VMware ESX, binary, version 1.
    Vscsi1,
    /// vscsiStats of VMware ESX, binary, version 2: with response times.
    Vscsi2,
    /// MQSim's ASCII traces: nanoseconds, device, sector, sectors, 0 for a write or 1 for a read.
    Mqsim,
    /// What nbdkit's log filter writes.
    Nbdkit,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Blktrace,
        Self::Blkparse,
        Self::Fio2,
        Self::Fio3,
        Self::Blkreplay,
        Self::Msr,
        Self::Systor,
        Self::Tencent,
        Self::Alibaba,
        Self::Vscsi1,
        Self::Vscsi2,
        Self::Mqsim,
        Self::Nbdkit,
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
            Self::Vscsi1 => "vscsi1",
            Self::Vscsi2 => "vscsi2",
            Self::Mqsim => "mqsim",
            Self::Nbdkit => "nbdkit",
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
            Self::Msr | Self::Systor | Self::Tencent | Self::Alibaba | Self::Nbdkit => Clock::Wall,
            Self::Blktrace
            | Self::Blkparse
            | Self::Fio2
            | Self::Fio3
            | Self::Blkreplay
            | Self::Vscsi1
            | Self::Vscsi2
            | Self::Mqsim => Clock::Relative,
        }
    }

    /// Is it of records, not of lines?
    #[must_use]
    pub const fn is_binary(self) -> bool {
        matches!(self, Self::Blktrace | Self::Vscsi1 | Self::Vscsi2)
    }

    /// Can a trace be written in it?
    #[must_use]
    pub const fn is_written(self) -> bool {
        !matches!(self, Self::Blkparse | Self::Nbdkit)
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
        "the file begins with the bytes {0}, which no trace format that is known does; text, or the binary of blktrace or vscsiStats is expected"
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
    /// An I/O whose end is waited for.
    Held,
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
        match vscsi::Version::detect(prefix) {
            Some(vscsi::Version::One) => return Ok(Self::of(Format::Vscsi1, prefix)),
            Some(vscsi::Version::Two) => return Ok(Self::of(Format::Vscsi2, prefix)),
            None => {}
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

    /// Keeps the ends of I/Os for [`Importer::completions`]; of a blktrace that tells them apart from their beginnings.
    pub const fn keep_completions(&mut self) {
        self.blktrace.keeps_ends = true;
    }

    /// Does the beginning of the file have ends of I/Os?
    #[must_use]
    pub const fn has_completions(&self) -> bool {
        self.blktrace.has_ends
    }

    /// The ends of I/Os in what was pushed since the last call.
    pub fn completions(&mut self) -> Vec<Completion> {
        std::mem::take(&mut self.blktrace.ends)
    }

    /// Takes the next bytes, and appends the I/Os in them to `out`.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<Event>) {
        if self.format.is_binary() {
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
        if !self.carry.is_empty() || self.skipping {
            if self.format.is_binary() {
                self.reject("the file ends inside a record");
                self.carry.clear();
            } else {
                self.end_line(&[], out);
            }
        }
        self.lines.release_all(out);
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
            Line::Held => self.tally.accepted += 1,
            Line::Nothing => self.tally.ignored += 1,
            Line::Rejected(why) => self.reject(why),
        }
        if self.format == Format::Nbdkit {
            self.lines.release(out);
        }
    }

    fn records(&mut self, out: &mut Vec<Event>) {
        let mut used = 0;
        while let Some(rest) = self.carry.get(used..) {
            let next = match self.format {
                Format::Vscsi1 => vscsi::Version::One.next(rest, &mut self.devices),
                Format::Vscsi2 => vscsi::Version::Two.next(rest, &mut self.devices),
                _ => self.blktrace.next(rest, &mut self.devices),
            };
            let Some((length, record)) = next else { break };
            match record {
                Line::Event(event) => {
                    self.tally.accepted += 1;
                    out.push(event);
                }
                Line::Held | Line::Nothing => self.tally.ignored += 1,
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

/// Appends an I/O in `format`; `false` when the format cannot say it (a flush in a CSV of reads and writes), or is none that
/// is written. `device` is the name that the format shows, `before` the time of the I/O before, for formats that tell waits, and
/// `number` counts them, for formats that have serial numbers.
pub fn write(
    format: Format,
    event: &Event,
    device: &str,
    before: At,
    number: u32,
    out: &mut Vec<u8>,
) -> bool {
    match format {
        Format::Blktrace => blktrace::write_record(event, device, number, out),
        Format::Vscsi1 => vscsi::Version::One.write(event, number, out),
        Format::Vscsi2 => vscsi::Version::Two.write(event, number, out),
        _ => lines::write_line(format, event, device, before, out),
    }
}
