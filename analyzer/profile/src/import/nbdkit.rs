//! What nbdkit's log filter writes (nbdkit-log-filter(1)): a line as a request comes in and one as it is answered, in UTC.
//!
//! ```text
//!  2020-08-06 02:07:23.080907 connection=1 Read id=1 offset=0x0 count=0x200 ...
//!  2020-08-06 02:07:23.080927 connection=1 ...Read id=1 return=0
//! ```

use std::collections::HashMap;
use std::time::Duration;

use super::fields::{number, words};
use super::held::Held;
use super::{Devices, Line};
use crate::event::{At, DeviceNo, Event, Kind};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// The most connections whose export is remembered, and the most requests that wait for an answer.
const MOST: usize = 1 << 16;

/// What lines say about those behind them.
#[derive(Debug)]
pub(super) struct State {
    held: Held,
    /// Requests without an answer, by connection and id.
    waiting: HashMap<(u64, u64), u64>,
    /// The export that a connection chose.
    exports: HashMap<u64, DeviceNo>,
    now: At,
}

impl Default for State {
    fn default() -> Self {
        Self {
            held: Held::new(PATIENCE),
            waiting: HashMap::new(),
            exports: HashMap::new(),
            now: At::default(),
        }
    }
}

/// A line in its parts.
struct Said<'a> {
    at: At,
    connection: Option<u64>,
    action: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Said<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let at = time(line.get(..26)?)?;
        let rest = line.get(26..)?.trim_ascii_start();
        let (connection, rest) = match rest.strip_prefix(b"connection=") {
            None => (None, rest),
            Some(behind) => {
                let (text, rest) = cut(behind);
                (Some(number(text)?), rest)
            }
        };
        let (action, rest) = cut(rest);
        action.iter().any(u8::is_ascii_alphabetic).then_some(Self { at, connection, action, rest })
    }

    /// `name=0x…` or `name=…`.
    fn field(&self, name: &[u8]) -> Option<u64> {
        let found = words(self.rest).find_map(|w| w.strip_prefix(name)?.strip_prefix(b"="))?;
        found.strip_prefix(b"0x").map_or_else(|| number(found), hex)
    }

    /// What stands in quotes behind `export=`.
    fn export(&self) -> Option<&'a [u8]> {
        let quoted = words(self.rest).find_map(|w| w.strip_prefix(b"export="))?;
        Some(quoted.strip_prefix(b"\"").and_then(|q| q.strip_suffix(b"\"")).unwrap_or(quoted))
    }
}

/// A word and what stands behind it.
fn cut(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|&b| b == b' ').unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    (word, rest.trim_ascii_start())
}

fn hex(digits: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(digits).ok()?;
    u64::from_str_radix(digits, 16).ok()
}

/// `2020-08-06 02:07:23.080907`, UTC.
fn time(text: &[u8]) -> Option<At> {
    let text = std::str::from_utf8(text).ok()?;
    let (day, clock) = text.split_once(' ')?;
    let at = tap_block::WallTime::parse_rfc3339(&format!("{day}T{clock}Z"))?;
    Some(At::from_nanos(at.nanos()))
}

/// Is this a line of such a log? Also one that is no I/O.
pub(super) fn is_line(line: &[u8]) -> bool {
    Said::parse(line).is_some()
}

impl State {
    /// What a line is. Its I/O waits until its answer is read: see [`State::release`].
    pub(super) fn read(&mut self, line: &[u8], devices: &mut Devices) -> Line {
        let Some(said) = Said::parse(line) else {
            return Line::Rejected("not what nbdkit's log filter writes");
        };
        self.now = self.now.max(said.at);
        let (Some(connection), Some(id)) = (said.connection, said.field(b"id")) else {
            self.connect(&said, devices);
            return Line::Nothing;
        };
        if said.action.starts_with(b"...") {
            if let Some(held) = self.waiting.remove(&(connection, id)) {
                self.held.end(held, said.at);
            }
            return Line::Nothing;
        }
        match self.request(&said, connection, devices) {
            Ok(Some(event)) => {
                let held = self.held.submit(event);
                self.wait(connection, id, held);
                Line::Held
            }
            Ok(None) => Line::Nothing,
            Err(why) => Line::Rejected(why),
        }
    }

    fn wait(&mut self, connection: u64, id: u64, held: u64) {
        if self.waiting.len() >= MOST {
            let first = self.held.first();
            self.waiting.retain(|_, held| *held >= first);
        }
        self.waiting.insert((connection, id), held);
    }

    fn connect(&mut self, said: &Said<'_>, devices: &mut Devices) {
        let (Some(connection), b"Connect", Some(name)) = (said.connection, said.action, said.export()) else {
            return;
        };
        if self.exports.len() >= MOST {
            self.exports.clear();
        }
        self.exports.insert(connection, devices.number(if name.is_empty() { b"nbdkit" } else { name }));
    }

    fn request(
        &self,
        said: &Said<'_>,
        connection: u64,
        devices: &mut Devices,
    ) -> Result<Option<Event>, &'static str> {
        let kind = match said.action {
            b"Read" => Kind::Read,
            // Zeroes are written like data; a tap that sends a note of them asks less of the link.
            b"Write" | b"Zero" => Kind::Write,
            b"Trim" => Kind::Discard,
            b"Flush" => Kind::Flush,
            _ => return Ok(None),
        };
        let range =
            if kind == Kind::Flush { Some((0, 0)) } else { said.field(b"offset").zip(said.field(b"count")) };
        let (offset, length) = range.ok_or("a request without offset and count")?;
        // A log whose beginning is gone does not say which export it was.
        let device = self.exports.get(&connection).copied().unwrap_or_else(|| devices.number(b"nbdkit"));
        Ok(Some(Event { at: said.at, device, kind, offset, length, latency: None }))
    }

    /// Appends the I/Os that wait no longer, in the order in which they came.
    pub(super) fn release(&mut self, out: &mut Vec<Event>) {
        self.held.release(self.now, out);
    }

    /// Appends all that are left.
    pub(super) fn release_all(&mut self, out: &mut Vec<Event>) {
        self.held.release_all(out);
    }
}
