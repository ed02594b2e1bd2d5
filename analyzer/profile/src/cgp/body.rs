//! What frames hold, as bytes: varints of seven bits (LEB128), signed ones zigzag.

use crate::bins::Bin;
use crate::cgp::CgpError;
use crate::content::{Content, Packed};
use crate::event::{At, DeviceNo, Event, Kind};

/// What the times of a source count from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Clock {
    /// 1970 in UTC.
    Wall,
    /// A start of their own.
    Relative,
}

/// How a source came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Imported from a trace.
    Import,
    /// Counters of the kernel, sums of a second.
    Counters,
    /// Each I/O, from the kernel's trace.
    Events,
    /// Made up.
    Synth,
}

/// Where what follows was recorded.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Source {
    /// The clock of its times.
    pub clock: Clock,
    /// How.
    pub mode: Mode,
    /// The host, empty when unknown.
    pub host: String,
    /// The trace's format, or what recorded it.
    pub origin: String,
}

/// What an import took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Lines or records that are I/Os.
    pub accepted: u64,
    /// Those that are something else: comments, headers, other stages of an I/O.
    pub ignored: u64,
    /// Those that are neither.
    pub rejected: u64,
}

impl Tally {
    /// Adds what another import took.
    pub fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.ignored += other.ignored;
        self.rejected += other.rejected;
    }
}

/// What a frame holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A source begins. Devices and events behind it are its own.
    Source(Source),
    /// A device of the source.
    Device {
        /// Its number.
        device: DeviceNo,
        /// Its name.
        name: String,
    },
    /// I/Os.
    Events(Vec<Event>),
    /// A second's sums.
    Counters {
        /// When the second began.
        at: At,
        /// Of which device.
        device: DeviceNo,
        /// The sums.
        bin: Bin,
    },
    /// What a recorder missed.
    Loss {
        /// From when.
        from: At,
        /// Until when.
        to: At,
        /// How many events, 0 when unknown.
        events: u64,
    },
    /// What an import took, at its end.
    Tally(Tally),
    /// What was sampled of the content of writes.
    Content(Content),
}

const SOURCE: u8 = 1;
const DEVICE: u8 = 2;
const EVENTS: u8 = 3;
const COUNTERS: u8 = 4;
const LOSS: u8 = 5;
const TALLY: u8 = 6;
const CONTENT: u8 = 7;

/// The longest name.
const MAX_NAME: usize = 4096;

const HAS_LATENCY: u8 = 1 << 2;
const SAME_DEVICE: u8 = 1 << 3;
const SAME_LENGTH: u8 = 1 << 4;
const FOLLOWS: u8 = 1 << 5;

/// Appends the body and gives the frame's kind.
pub(super) fn encode_body(record: &Record, out: &mut Vec<u8>) -> u8 {
    match record {
        Record::Source(source) => {
            out.push(u8::from(source.clock == Clock::Relative));
            out.push(mode_code(source.mode));
            put_text(&source.host, out);
            put_text(&source.origin, out);
            SOURCE
        }
        Record::Device { device, name } => {
            put(u64::from(device.get()), out);
            put_text(name, out);
            DEVICE
        }
        Record::Events(events) => {
            put_events(events, out);
            EVENTS
        }
        Record::Counters { at, device, bin } => {
            let counts = [bin.write_bytes, u64::from(bin.writes), bin.read_bytes, u64::from(bin.reads)];
            [at.nanos(), u64::from(device.get())].into_iter().chain(counts).for_each(|n| put(n, out));
            COUNTERS
        }
        Record::Loss { from, to, events } => {
            [from.nanos(), to.nanos(), *events].into_iter().for_each(|n| put(n, out));
            LOSS
        }
        Record::Tally(t) => {
            [t.accepted, t.ignored, t.rejected].into_iter().for_each(|n| put(n, out));
            TALLY
        }
        Record::Content(content) => {
            put_content(content, out);
            CONTENT
        }
    }
}

/// `None` for a kind that this version does not know.
pub(super) fn decode(kind: u8, body: &[u8]) -> Result<Option<Record>, CgpError> {
    let mut input = Input { rest: body };
    let record = match kind {
        SOURCE => Record::Source(source(&mut input)?),
        DEVICE => Record::Device { device: input.device()?, name: input.text()? },
        EVENTS => Record::Events(events(&mut input)?),
        COUNTERS => Record::Counters {
            at: At::from_nanos(input.number()?),
            device: input.device()?,
            bin: bin(&mut input)?,
        },
        LOSS => {
            let (from, to) = (At::from_nanos(input.number()?), At::from_nanos(input.number()?));
            Record::Loss { from, to, events: input.number()? }
        }
        TALLY => {
            let [accepted, ignored, rejected] = [input.number()?, input.number()?, input.number()?];
            Record::Tally(Tally { accepted, ignored, rejected })
        }
        CONTENT => Record::Content(content(&mut input)?),
        _ => return Ok(None),
    };
    if input.rest.is_empty() { Ok(Some(record)) } else { Err(CgpError::Body("bytes behind its end")) }
}

const fn mode_code(mode: Mode) -> u8 {
    match mode {
        Mode::Import => 0,
        Mode::Counters => 1,
        Mode::Events => 2,
        Mode::Synth => 3,
    }
}

fn source(input: &mut Input<'_>) -> Result<Source, CgpError> {
    let clock = match input.byte()? {
        0 => Clock::Wall,
        1 => Clock::Relative,
        _ => return Err(CgpError::Body("a clock that is none")),
    };
    let mode = match input.byte()? {
        0 => Mode::Import,
        1 => Mode::Counters,
        2 => Mode::Events,
        3 => Mode::Synth,
        _ => return Err(CgpError::Body("a mode that is none")),
    };
    Ok(Source { clock, mode, host: input.text()?, origin: input.text()? })
}

fn bin(input: &mut Input<'_>) -> Result<Bin, CgpError> {
    let small = |n: u64| u32::try_from(n).map_err(|_| CgpError::Body("more than 2^32 I/Os in a second"));
    Ok(Bin {
        write_bytes: input.number()?,
        writes: small(input.number()?)?,
        read_bytes: input.number()?,
        reads: small(input.number()?)?,
    })
}

fn put_content(content: &Content, out: &mut Vec<u8>) {
    let Content { from, to, device, blocks, zeroes, packed, share_bits, hashes } = content;
    let places = [from.nanos(), to.nanos(), u64::from(device.get())];
    let counts = [*blocks, *zeroes, packed.count, packed.bytes, packed.squares, u64::from(*share_bits)];
    places.into_iter().chain(counts).for_each(|n| put(n, out));
    put(tap_block::units::count(hashes.len()), out);
    hashes.iter().for_each(|hash| out.extend_from_slice(&hash.to_le_bytes()));
}

fn content(input: &mut Input<'_>) -> Result<Content, CgpError> {
    let (from, to) = (At::from_nanos(input.number()?), At::from_nanos(input.number()?));
    let device = input.device()?;
    let (blocks, zeroes) = (input.number()?, input.number()?);
    let packed = Packed { count: input.number()?, bytes: input.number()?, squares: input.number()? };
    let share_bits = u8::try_from(input.number()?).ok().filter(|&bits| bits < 64);
    let share_bits = share_bits.ok_or(CgpError::Body("a sample of one hash in 2^64 or less"))?;
    if zeroes > blocks || packed.count > blocks - zeroes {
        return Err(CgpError::Body("more blocks sampled than were written"));
    }
    let announced = input.number()?;
    let (hashes, rest) = input.rest.as_chunks::<8>();
    if announced != tap_block::units::count(hashes.len()) || !rest.is_empty() {
        return Err(CgpError::Body("more or fewer hashes than announced"));
    }
    let hashes: Vec<u64> = hashes.iter().map(|h| u64::from_le_bytes(*h)).collect();
    if hashes.iter().any(|h| h.leading_zeros() < u32::from(share_bits)) {
        return Err(CgpError::Body("a hash that is not of its sample"));
    }
    input.rest = &[];
    Ok(Content { from, to, device, blocks, zeroes, packed, share_bits, hashes })
}

/// What the next event is told against.
#[derive(Default)]
struct Before {
    at: u64,
    device: u32,
    length: u64,
    end: u64,
}

impl Before {
    fn now(event: &Event) -> Self {
        Self {
            at: event.at.nanos(),
            device: event.device.get(),
            length: event.length,
            end: event.offset.wrapping_add(event.length),
        }
    }
}

fn put_events(events: &[Event], out: &mut Vec<u8>) {
    put(tap_block::units::count(events.len()), out);
    let mut before = Before::default();
    for event in events {
        let flags = [
            (HAS_LATENCY, event.latency.is_some()),
            (SAME_DEVICE, event.device.get() == before.device),
            (SAME_LENGTH, event.length == before.length),
            (FOLLOWS, event.offset == before.end),
        ];
        let flags = flags.into_iter().filter(|(_, set)| *set).fold(0, |all, (flag, _)| all | flag);
        out.push(event.kind.code() | flags);
        put_signed(event.at.nanos().wrapping_sub(before.at), out);
        if flags & SAME_DEVICE == 0 {
            put(u64::from(event.device.get()), out);
        }
        if flags & SAME_LENGTH == 0 {
            put(event.length, out);
        }
        if flags & FOLLOWS == 0 {
            put_signed(event.offset.wrapping_sub(before.end), out);
        }
        if let Some(nanos) = event.latency {
            put(nanos, out);
        }
        before = Before::now(event);
    }
}

fn events(input: &mut Input<'_>) -> Result<Vec<Event>, CgpError> {
    let announced = input.number()?;
    // An event takes two bytes at least: a count that cannot be is not believed.
    if announced > tap_block::units::count(input.rest.len()) / 2 {
        return Err(CgpError::Body("more events than bytes for them"));
    }
    let mut events = Vec::with_capacity(tap_block::units::index(announced));
    let mut before = Before::default();
    for _ in 0..announced {
        let event = one_event(input, &before)?;
        before = Before::now(&event);
        events.push(event);
    }
    Ok(events)
}

fn one_event(input: &mut Input<'_>, before: &Before) -> Result<Event, CgpError> {
    let head = input.byte()?;
    if head & !(HAS_LATENCY | SAME_DEVICE | SAME_LENGTH | FOLLOWS | 3) != 0 {
        return Err(CgpError::Body("an event with unknown flags"));
    }
    let has = |flag: u8| head & flag != 0;
    let kind = Kind::ALL.into_iter().find(|k| k.code() == head & 3).unwrap_or(Kind::Read);
    let at = before.at.wrapping_add(input.signed()?);
    let device = if has(SAME_DEVICE) { DeviceNo::new(before.device) } else { input.device()? };
    let length = if has(SAME_LENGTH) { before.length } else { input.number()? };
    let offset = if has(FOLLOWS) { before.end } else { before.end.wrapping_add(input.signed()?) };
    let latency = if has(HAS_LATENCY) { Some(input.number()?) } else { None };
    Ok(Event { at: At::from_nanos(at), device, kind, offset, length, latency })
}

fn put(mut number: u64, out: &mut Vec<u8>) {
    loop {
        let [low, ..] = (number & 0x7f).to_le_bytes();
        number >>= 7;
        out.push(if number == 0 { low } else { low | 0x80 });
        if number == 0 {
            return;
        }
    }
}

/// A difference modulo 2^64, so that small ones of both signs are short.
fn put_signed(difference: u64, out: &mut Vec<u8>) {
    put((difference << 1) ^ (0_u64.wrapping_sub(difference >> 63)), out);
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    put(tap_block::units::count(text.len()), out);
    out.extend_from_slice(text.as_bytes());
}

struct Input<'a> {
    rest: &'a [u8],
}

impl Input<'_> {
    fn byte(&mut self) -> Result<u8, CgpError> {
        let (&byte, rest) = self.rest.split_first().ok_or(CgpError::Body("it ends too early"))?;
        self.rest = rest;
        Ok(byte)
    }

    fn number(&mut self) -> Result<u64, CgpError> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                break;
            }
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(CgpError::Body("a number above 2^64"))
    }

    fn signed(&mut self) -> Result<u64, CgpError> {
        let folded = self.number()?;
        Ok((folded >> 1) ^ 0_u64.wrapping_sub(folded & 1))
    }

    fn device(&mut self) -> Result<DeviceNo, CgpError> {
        let number = u32::try_from(self.number()?);
        number.map(DeviceNo::new).map_err(|_| CgpError::Body("a device number above 2^32"))
    }

    fn text(&mut self) -> Result<String, CgpError> {
        let length = usize::try_from(self.number()?).ok().filter(|&l| l <= MAX_NAME);
        let parts = length.and_then(|l| self.rest.split_at_checked(l));
        let (text, rest) = parts.ok_or(CgpError::Body("a name longer than itself"))?;
        self.rest = rest;
        String::from_utf8(text.to_vec()).map_err(|_| CgpError::Body("a name that is no text"))
    }
}
