//! The formats that are a line per I/O. Each is a function from a line to an [`Event`], strict enough that the
//! lines of one format are none of another: so the format is told by trying.

use std::io::Write as _;

use super::fields::{number, seconds, split, words};
use super::{Devices, Format, Line, Refusal, nbdkit};
use crate::event::{At, DeviceNo, Event, Kind};

const SECTOR: u64 = 512;
/// Lines looked at to tell the format.
const LOOKED_AT: usize = 200;
/// 1601 to 1970, in the 100 ns ticks of Windows.
const TICKS_TO_1970: u64 = 116_444_736_000_000_000;

/// What lines say about those behind them.
#[derive(Debug, Default)]
pub(super) struct State {
    /// fio 2: the sum of the waits, in nanoseconds.
    waited: u64,
    /// blkreplay: was there an I/O?
    in_body: bool,
    nbdkit: nbdkit::State,
}

/// The format of text.
pub(super) fn detect(prefix: &[u8]) -> Result<Format, Refusal> {
    if prefix.starts_with(b"fio version 3 iolog") {
        return Ok(Format::Fio3);
    }
    if prefix.starts_with(b"fio version 2 iolog") {
        return Ok(Format::Fio2);
    }
    let lines = || prefix.split(|&b| b == b'\n').filter(|l| !l.trim_ascii().is_empty()).take(LOOKED_AT);
    if lines().any(is_blkreplay_heading) {
        return Ok(Format::Blkreplay);
    }
    if lines().next().is_some_and(nbdkit::is_line) {
        return Ok(Format::Nbdkit);
    }
    let formats = [
        Format::Blkparse,
        Format::Blkreplay,
        Format::Msr,
        Format::Systor,
        Format::Tencent,
        Format::Alibaba,
        Format::Mqsim,
    ];
    let best = formats.into_iter().map(|format| (accepted(format, lines()), format)).max_by_key(|(n, _)| *n);
    match best {
        Some((n, format)) if n > 0 => Ok(format),
        _ => Err(Refusal::Text {
            lines: lines().count(),
            known: Format::ALL.map(Format::name).join(", "),
            first: String::from_utf8_lossy(lines().next().unwrap_or(&[])).chars().take(80).collect(),
        }),
    }
}

fn accepted<'a>(format: Format, lines: impl Iterator<Item = &'a [u8]>) -> usize {
    let (mut state, mut devices) = (State { in_body: true, ..State::default() }, Devices::default());
    lines.filter(|line| matches!(state.read(format, line, &mut devices), Line::Event(_))).count()
}

fn is_blkreplay_heading(line: &[u8]) -> bool {
    let mut fields = split(line, b';');
    fields.next() == Some(b"start") && fields.next() == Some(b"sector")
}

impl State {
    /// What a line is.
    pub(super) fn read(&mut self, format: Format, line: &[u8], devices: &mut Devices) -> Line {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            return Line::Nothing;
        }
        match format {
            Format::Fio2 => self.fio2(line, devices),
            Format::Fio3 => fio3(line, devices),
            Format::Blkreplay => self.blkreplay(line, devices),
            Format::Blkparse => blkparse(line, devices),
            Format::Msr => msr(line, devices).map_or_else(|| heading(line, b"Timestamp"), Line::Event),
            Format::Systor => systor(line, devices).map_or_else(|| heading(line, b"Timestamp"), Line::Event),
            Format::Tencent => {
                tencent(line, devices).map_or_else(|| heading(line, b"Timestamp"), Line::Event)
            }
            Format::Alibaba => {
                alibaba(line, devices).map_or_else(|| heading(line, b"device_id"), Line::Event)
            }
            Format::Mqsim => {
                mqsim(line, devices).map_or(Line::Rejected("not the fields of this format"), Line::Event)
            }
            Format::Nbdkit => self.nbdkit.read(line, devices),
            Format::Blktrace | Format::Vscsi1 | Format::Vscsi2 => Line::Rejected("a line in a binary trace"),
        }
    }

    /// Appends the I/Os whose end is waited for no longer.
    pub(super) fn release(&mut self, out: &mut Vec<Event>) {
        self.nbdkit.release(out);
    }

    /// Appends those that still wait.
    pub(super) fn release_all(&mut self, out: &mut Vec<Event>) {
        self.nbdkit.release_all(out);
    }

    fn fio2(&mut self, line: &[u8], devices: &mut Devices) -> Line {
        if line.starts_with(b"fio version") {
            return Line::Nothing;
        }
        let mut rest = words(line);
        let (Some(file), Some(action)) = (rest.next(), rest.next()) else {
            return Line::Rejected("no file and action");
        };
        if action == b"wait" {
            let Some(micros) = rest.next().and_then(number) else {
                return Line::Rejected("a wait of no time");
            };
            self.waited = self.waited.saturating_add(micros.saturating_mul(1000));
            return Line::Nothing;
        }
        fio_action(At::from_nanos(self.waited), devices.number(file), action, rest.next(), rest.next())
    }

    fn blkreplay(&mut self, line: &[u8], devices: &mut Devices) -> Line {
        match blkreplay(line, devices) {
            Some(event) => {
                self.in_body = true;
                Line::Event(event)
            }
            // What stands before the first I/O is free text: a notice, the names of the fields.
            None if !self.in_body => Line::Nothing,
            None => Line::Rejected("not `start ; sector ; length ; R or W ; …`"),
        }
    }
}

fn heading(line: &[u8], first: &[u8]) -> Line {
    let is_heading = line.get(..first.len()).is_some_and(|l| l.eq_ignore_ascii_case(first));
    if is_heading { Line::Nothing } else { Line::Rejected("not the fields of this format") }
}

/// `timestamp filename action [offset length]`, microseconds as fio 3.33 writes them.
fn fio3(line: &[u8], devices: &mut Devices) -> Line {
    if line.starts_with(b"fio version") {
        return Line::Nothing;
    }
    let mut rest = words(line);
    let at = rest.next().and_then(number).and_then(|micros| micros.checked_mul(1000));
    match (at, rest.next(), rest.next()) {
        (Some(at), Some(file), Some(action)) => {
            fio_action(At::from_nanos(at), devices.number(file), action, rest.next(), rest.next())
        }
        _ => Line::Rejected("no timestamp, file and action"),
    }
}

fn fio_action(at: At, device: DeviceNo, action: &[u8], offset: Option<&[u8]>, length: Option<&[u8]>) -> Line {
    let kind = match action {
        b"read" => Kind::Read,
        b"write" => Kind::Write,
        b"trim" => Kind::Discard,
        b"sync" | b"datasync" => {
            return Line::Event(Event { at, device, kind: Kind::Flush, offset: 0, length: 0, latency: None });
        }
        b"add" | b"open" | b"close" => return Line::Nothing,
        _ => return Line::Rejected("an action that fio does not have"),
    };
    match (offset.and_then(number), length.and_then(number)) {
        (Some(offset), Some(length)) => {
            Line::Event(Event { at, device, kind, offset, length, latency: None })
        }
        _ => Line::Rejected("no offset and length"),
    }
}

/// `start ; sector ; length ; op ; replay_delay ; replay_duration`, seconds and sectors.
fn blkreplay(line: &[u8], devices: &mut Devices) -> Option<Event> {
    let mut rest = split(line, b';');
    let at = At::from_nanos(seconds(rest.next()?)?);
    let (offset, length) = (sectors(rest.next()?)?, sectors(rest.next()?)?);
    // It has the kernel's letters: RA is a read ahead.
    let kind = kind_of_rwbs(rest.next()?)?;
    let _delay = rest.next();
    let latency = rest.next().and_then(seconds).filter(|&nanos| nanos > 0);
    Some(Event { at, device: devices.number(b"blkreplay"), kind, offset, length, latency })
}

fn sectors(text: &[u8]) -> Option<u64> {
    number(text)?.checked_mul(SECTOR)
}

fn read_or_write(text: &[u8], read: &[u8], write: &[u8]) -> Option<Kind> {
    if text.eq_ignore_ascii_case(read) {
        Some(Kind::Read)
    } else if text.eq_ignore_ascii_case(write) {
        Some(Kind::Write)
    } else {
        None
    }
}

/// `maj,min cpu sequence seconds pid action rwbs sector + sectors [process]`. The queue event is the I/O; the other
/// stages of its life are passed over.
fn blkparse(line: &[u8], devices: &mut Devices) -> Line {
    let mut rest = words(line);
    let device = rest.next().filter(|d| is_device(d));
    let (cpu, sequence) = (rest.next().and_then(number), rest.next().and_then(number));
    let at = rest.next().and_then(seconds);
    let (Some(device), Some(_), Some(_), Some(at)) = (device, cpu, sequence, at) else {
        // Behind the events blkparse prints sums by processor; they are text.
        let is_sum = !line.first().is_some_and(u8::is_ascii_digit);
        return if is_sum { Line::Nothing } else { Line::Rejected("not what blkparse prints") };
    };
    let _pid = rest.next();
    let (action, rwbs) = (rest.next().unwrap_or(b""), rest.next().unwrap_or(b""));
    if action != b"Q" {
        return Line::Nothing;
    }
    let offset = rest.next().and_then(sectors);
    let length = rest.next().filter(|&plus| plus == b"+").and_then(|_| rest.next()).and_then(sectors);
    let Some(kind) = kind_of_rwbs(rwbs) else {
        return Line::Rejected("an I/O that neither reads nor writes");
    };
    let (offset, length) = match (offset, length, kind) {
        (Some(offset), Some(length), _) => (offset, length),
        (_, _, Kind::Flush) => (0, 0),
        _ => return Line::Rejected("no sector and length"),
    };
    Line::Event(Event {
        at: At::from_nanos(at),
        device: devices.number(device),
        kind,
        offset,
        length,
        latency: None,
    })
}

/// The letters of the kernel's `blk_fill_rwbs`: an F before the rest is a flush, behind it a forced write.
pub(crate) fn kind_of_rwbs(rwbs: &[u8]) -> Option<Kind> {
    let body = rwbs.strip_prefix(b"F").unwrap_or(rwbs);
    match body.first() {
        Some(b'R') => Some(Kind::Read),
        Some(b'W') => Some(Kind::Write),
        Some(b'D') => Some(Kind::Discard),
        Some(b'N' | b'S' | b'F') | None if rwbs.starts_with(b"F") => Some(Kind::Flush),
        _ => None,
    }
}

fn is_device(text: &[u8]) -> bool {
    let mut parts = text.split(|&b| b == b',');
    let both = [parts.next(), parts.next()].map(|p| p.and_then(number));
    both.iter().all(Option::is_some) && parts.next().is_none()
}

/// Ticks of 100 ns since 1601, host, disk, Read or Write, offset, size, response time in ticks.
fn msr(line: &[u8], devices: &mut Devices) -> Option<Event> {
    let mut rest = split(line, b',');
    let ticks = number(rest.next()?)?.checked_sub(TICKS_TO_1970)?;
    let (host, disk) = (rest.next()?, rest.next()?);
    let kind = read_or_write(rest.next()?, b"Read", b"Write")?;
    let (offset, length) = (number(rest.next()?)?, number(rest.next()?)?);
    let latency = number(rest.next()?)?.checked_mul(100);
    number(disk)?;
    // Host and disk stand next to each other with one comma between: that is the device's name.
    let from = line.iter().position(|&b| b == b',')? + 1;
    let name = line.get(from..from + host.len() + 1 + disk.len()).filter(|n| n.ends_with(disk))?;
    Some(Event {
        at: At::from_nanos(ticks.checked_mul(100)?),
        device: devices.number(name),
        kind,
        offset,
        length,
        latency,
    })
}

/// Seconds, response in seconds (may be empty), R or W, LUN, offset, size.
fn systor(line: &[u8], devices: &mut Devices) -> Option<Event> {
    let mut rest = split(line, b',');
    let at = At::from_nanos(seconds(rest.next()?)?);
    let response = rest.next()?;
    let latency = if response.is_empty() { None } else { Some(seconds(response)?) };
    let kind = read_or_write(rest.next()?, b"R", b"W")?;
    let lun = rest.next()?;
    let (offset, length) = (number(rest.next()?)?, number(rest.next()?)?);
    rest.next().is_none().then_some(())?;
    Some(Event { at, device: devices.number(lun), kind, offset, length, latency })
}

/// Seconds, sector, sectors, 0 for a read or 1 for a write, volume.
fn tencent(line: &[u8], devices: &mut Devices) -> Option<Event> {
    let mut rest = split(line, b',');
    let at = At::from_nanos(number(rest.next()?)?.checked_mul(1_000_000_000)?);
    let (offset, length) = (sectors(rest.next()?)?, sectors(rest.next()?)?);
    let kind = read_or_write(rest.next()?, b"0", b"1")?;
    let volume = rest.next()?;
    number(volume)?;
    rest.next().is_none().then_some(())?;
    Some(Event { at, device: devices.number(volume), kind, offset, length, latency: None })
}

/// Device, R or W, offset, length, microseconds.
fn alibaba(line: &[u8], devices: &mut Devices) -> Option<Event> {
    let mut rest = split(line, b',');
    let device = rest.next()?;
    let kind = read_or_write(rest.next()?, b"R", b"W")?;
    let (offset, length) = (number(rest.next()?)?, number(rest.next()?)?);
    let at = At::from_nanos(number(rest.next()?)?.checked_mul(1000)?);
    rest.next().is_none().then_some(())?;
    Some(Event { at, device: devices.number(device), kind, offset, length, latency: None })
}

/// Nanoseconds, device, sector, sectors, 0 for a write or 1 for a read.
fn mqsim(line: &[u8], devices: &mut Devices) -> Option<Event> {
    let mut rest = words(line);
    let at = At::from_nanos(number(rest.next()?)?);
    let device = rest.next()?;
    number(device)?;
    let (offset, length) = (sectors(rest.next()?)?, sectors(rest.next()?)?);
    let kind = read_or_write(rest.next()?, b"1", b"0")?;
    rest.next().is_none().then_some(())?;
    Some(Event { at, device: devices.number(device), kind, offset, length, latency: None })
}

/// Appends an I/O as a line of `format`; `false` when the format cannot say it (a flush in a CSV of reads and
/// writes), or is not of lines. `before` is the time of the line before, for formats that tell waits.
pub(super) fn write_line(format: Format, event: &Event, device: &str, before: At, out: &mut Vec<u8>) -> bool {
    let nanos = event.at.nanos();
    let read = event.kind == Kind::Read;
    if !read && event.kind != Kind::Write && !matches!(format, Format::Fio2 | Format::Fio3) {
        return false;
    }
    let (offset, length) = (event.offset, event.length);
    let letter = if read { 'R' } else { 'W' };
    let latency = event.latency.unwrap_or(0);
    // Writing to memory does not fail.
    let _ = match format {
        Format::Blkreplay => writeln!(
            out,
            "{:5}.{:09} ; {:12} ; {:4} ; {letter} ; 0.0 ; {}.{:09}",
            nanos / 1_000_000_000,
            nanos % 1_000_000_000,
            offset / SECTOR,
            length.div_ceil(SECTOR),
            latency / 1_000_000_000,
            latency % 1_000_000_000
        ),
        Format::Msr => writeln!(
            out,
            "{},{device},{},{offset},{length},{}",
            nanos / 100 + TICKS_TO_1970,
            if read { "Read" } else { "Write" },
            latency / 100
        ),
        Format::Systor => writeln!(
            out,
            "{}.{:09},{},{letter},{device},{offset},{length}",
            nanos / 1_000_000_000,
            nanos % 1_000_000_000,
            event.latency.map_or_else(String::new, |l| format!(
                "{}.{:09}",
                l / 1_000_000_000,
                l % 1_000_000_000
            ))
        ),
        Format::Tencent => {
            let op = u8::from(!read);
            writeln!(
                out,
                "{},{},{},{op},{device}",
                nanos / 1_000_000_000,
                offset / SECTOR,
                length.div_ceil(SECTOR)
            )
        }
        Format::Alibaba => writeln!(out, "{device},{letter},{offset},{length},{}", nanos / 1000),
        Format::Fio3 => writeln!(out, "{} {device} {}", nanos / 1000, fio_words(event)),
        Format::Fio2 => {
            let wait = (nanos / 1000).saturating_sub(before.nanos() / 1000);
            if wait > 0 {
                let _ = writeln!(out, "{device} wait {wait} 0");
            }
            writeln!(out, "{device} {}", fio_words(event))
        }
        Format::Mqsim => writeln!(
            out,
            "{nanos} {device} {} {} {}",
            offset / SECTOR,
            length.div_ceil(SECTOR),
            u8::from(read)
        ),
        Format::Blkparse | Format::Nbdkit | Format::Blktrace | Format::Vscsi1 | Format::Vscsi2 => {
            return false;
        }
    };
    true
}

fn fio_words(event: &Event) -> String {
    let action = match event.kind {
        Kind::Read => "read",
        Kind::Write => "write",
        Kind::Flush => "sync",
        Kind::Discard => "trim",
    };
    format!("{action} {} {}", event.offset, event.length)
}
