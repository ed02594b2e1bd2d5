//! "Request message", compact and extended: taken apart, and checked before anything is started.

use std::sync::Arc;

use bytes::{Buf, BytesMut};
use tap_block::{Extent, Geometry, Map, Op};

use crate::proto::{EXTENDED_REQUEST_MAGIC, Errno, REQUEST_MAGIC, command, command_flag};
use crate::reply::{Style, To};
use crate::server::Limits;

/// Magic, flags, type, cookie, offset, length of 32 bits.
const COMPACT_HEADER: usize = 28;
/// The same with a length of 64 bits.
const EXTENDED_HEADER: usize = 32;
/// What a request costs beside its payload, so that tiny ones are bounded too.
const COST: u64 = 512;
/// A block status makes the device look about, and its reply may be long: few of them are under way at a time.
const STATUS_COST: u64 = 8 << 20;
/// Stretches that a reply tells of each context at most; a client asks on from there.
const MAX_STRETCHES: usize = 4096;
/// What those take in memory.
const STATUS_MEMORY: u64 = 24 * MAX_STRETCHES as u64;

/// A request's header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    style: Style,
    flags: u16,
    pub(crate) command: u16,
    cookie: u64,
    offset: u64,
    /// Bytes of the export.
    length: u64,
    /// Bytes that follow the header.
    payload: u64,
}

/// Why a request is refused.
pub(crate) type Refused = (Errno, &'static str);

/// What a connection serves.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) geometry: Geometry,
    pub(crate) style: Style,
    /// The contexts that were negotiated; the place in here is the number.
    pub(crate) contexts: Arc<[Map]>,
}

impl Served {
    /// The bytes of a request before its payload.
    pub(crate) const fn header(&self) -> usize {
        if matches!(self.style, Style::Extended) { EXTENDED_HEADER } else { COMPACT_HEADER }
    }

    /// The next request's header, left in place; the magic number when it is a wrong one.
    pub(crate) fn peek(&self, mut input: &[u8]) -> Option<Result<Request, u32>> {
        let is_extended = self.style == Style::Extended;
        let magic = input.try_get_u32().ok()?;
        if magic != if is_extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC } {
            return Some(Err(magic));
        }
        let (flags, command) = (input.try_get_u16().ok()?, input.try_get_u16().ok()?);
        let (cookie, offset) = (input.try_get_u64().ok()?, input.try_get_u64().ok()?);
        let length = match is_extended {
            true => input.try_get_u64().ok()?,
            false => u64::from(input.try_get_u32().ok()?),
        };
        // "NBD_CMD_FLAG_PAYLOAD_LEN": extended requests say themselves whether a payload follows. A write "MUST use the flag in
        // this mode"; QEMU's client (10.0) does not, and sends its payload all the same.
        let has_flag = is_extended && flags & command_flag::PAYLOAD_LEN != 0;
        let has_payload = has_flag || command == command::WRITE;
        let payload = if has_payload { length } else { 0 };
        Some(Ok(Request { style: self.style, flags, command, cookie, offset, length, payload }))
    }
}

impl Request {
    pub(crate) const fn to(&self) -> To {
        let is_read = self.command == command::READ;
        To { style: self.style, is_read, cookie: self.cookie, offset: self.offset }
    }

    /// Bytes that follow the header.
    pub(crate) const fn payload(&self) -> u64 {
        self.payload
    }

    /// What it takes of the connection's limit while it is under way: the bytes it moves in either direction, and more.
    pub(crate) fn cost(&self) -> u64 {
        match self.command {
            command::READ => self.length.saturating_add(COST),
            command::BLOCK_STATUS => STATUS_COST,
            _ => self.payload.saturating_add(COST),
        }
    }

    /// Bytes of memory that it may take, from its payload to the last byte of its reply.
    pub(crate) fn memory(&self, served: &Served) -> u64 {
        let reply = match self.command {
            command::READ => self.length,
            command::BLOCK_STATUS => STATUS_MEMORY * tap_block::units::count(served.contexts.len()),
            _ => 0,
        };
        reply.saturating_add(self.payload).saturating_add(COST)
    }

    /// "Don't fragment".
    pub(crate) const fn is_whole(&self) -> bool {
        self.flags & command_flag::DF != 0
    }

    pub(crate) const fn length(&self) -> u64 {
        self.length
    }

    /// Does its payload say what it is about?
    pub(crate) const fn has_filter(&self) -> bool {
        self.command == command::BLOCK_STATUS && self.payload > 0
    }

    /// The checks that need only the header.
    pub(crate) fn admit(&self, served: &Served, limits: &Limits, stopping: bool) -> Result<(), Refused> {
        self.check_flags(served)?;
        // "Terminating the transmission phase": requests received from now on.
        if stopping {
            return Err((Errno::Shutdown, "the server is shutting down"));
        }
        if self.command == command::FLUSH {
            // "NBD_CMD_FLUSH": length and offset are reserved and must be zero.
            let is_plain = self.length == 0 && self.offset == 0;
            return if is_plain { Ok(()) } else { Err((Errno::Invalid, "a flush has no range")) };
        }
        if self.is_write() && served.geometry.read_only {
            return Err((Errno::Perm, "the export is read-only"));
        }
        if self.has_filter() {
            return self.check_filter(served);
        }
        self.check_range(served.geometry)?;
        // "Size constraints": a payload beyond the maximum.
        let moved = if self.command == command::READ { self.length } else { self.payload };
        if moved > u64::from(limits.max_payload) {
            return Err((Errno::Invalid, "more bytes than one request may carry"));
        }
        Ok(())
    }

    /// "Error values": an unknown command, or a flag not documented for it, is NBD_EINVAL.
    fn check_flags(&self, served: &Served) -> Result<(), Refused> {
        let allowed = self.allowed_flags(served).ok_or((Errno::Invalid, "the command is not offered"))?;
        let is_known = self.flags & !allowed == 0;
        if is_known { Ok(()) } else { Err((Errno::Invalid, "a flag is not offered with this command")) }
    }

    /// The flags its command may carry; `None` for a command that is not served.
    ///
    /// "Command flags": FUA is valid for all commands once it is offered.
    fn allowed_flags(&self, served: &Served) -> Option<u16> {
        use command_flag as f;
        let fua = if served.geometry.read_only { 0 } else { f::FUA };
        let payload = if served.style == Style::Extended { f::PAYLOAD_LEN } else { 0 };
        match self.command {
            command::READ if served.style == Style::Simple => Some(fua),
            command::READ => Some(fua | f::DF),
            command::FLUSH | command::CACHE => Some(fua),
            // Refused for the export being read-only, which says more than a complaint about the flag.
            command::WRITE => Some(f::FUA | payload),
            command::TRIM => Some(f::FUA),
            command::WRITE_ZEROES => Some(f::FUA | f::NO_HOLE | f::FAST_ZERO),
            // "A client MUST NOT send NBD_CMD_BLOCK_STATUS unless" a context was negotiated.
            command::BLOCK_STATUS if served.contexts.is_empty() => None,
            command::BLOCK_STATUS => Some(fua | f::REQ_ONE | payload),
            _ => None,
        }
    }

    /// "Error values": NBD_ENOSPC for writes beyond the end, NBD_EINVAL for all others.
    fn check_range(&self, geometry: Geometry) -> Result<(), Refused> {
        const BEYOND: &str = "the range is not all within the export";
        match self.offset.checked_add(self.length) {
            // There is nothing to say of nothing.
            Some(_) if self.command == command::BLOCK_STATUS && self.length == 0 => {
                Err((Errno::Invalid, "a block status of no length"))
            }
            Some(end) if end <= geometry.size => Ok(()),
            _ if matches!(self.command, command::WRITE | command::WRITE_ZEROES) => {
                Err((Errno::NoSpace, BEYOND))
            }
            _ => Err((Errno::Invalid, BEYOND)),
        }
    }

    /// "The payload form MUST occupy 8 + n*4 bytes"; with more numbers than there are contexts, some are wrong.
    fn check_filter(&self, served: &Served) -> Result<(), Refused> {
        let most = 8 + 4 * tap_block::units::count(served.contexts.len());
        let fits = (12..=most).contains(&self.payload) && self.payload.is_multiple_of(4);
        if fits { Ok(()) } else { Err((Errno::Invalid, "the payload of a block status is malformed")) }
    }

    /// What the payload of a block status says: its length, and the contexts' numbers.
    pub(crate) fn filtered(
        &mut self,
        served: &Served,
        mut payload: &[u8],
    ) -> Result<(Vec<u32>, Arc<[Map]>), Refused> {
        const UNKNOWN: Refused = (Errno::Invalid, "a block status of unknown contexts, or of one twice");
        self.length = payload.try_get_u64().map_err(|_| UNKNOWN)?;
        let (mut numbers, mut maps) = (Vec::new(), Vec::new());
        while let Ok(number) = payload.try_get_u32() {
            let map = served.contexts.get(number as usize).filter(|_| !numbers.contains(&number));
            maps.push(map.ok_or(UNKNOWN)?.clone());
            numbers.push(number);
        }
        self.check_range(served.geometry)?;
        Ok((numbers, maps.into()))
    }

    /// The operation on `maps`, if it is about such.
    pub(crate) fn status(&self, maps: Arc<[Map]>) -> Option<Op> {
        let most = if self.flags & command_flag::REQ_ONE != 0 { 1 } else { MAX_STRETCHES };
        Some(Op::Status { extent: Extent::new(self.offset, self.length)?, maps, most })
    }

    /// The operation, its payload split off the input without a copy.
    pub(crate) fn into_op(self, input: &mut BytesMut) -> Option<Op> {
        let is_set = |flag| self.flags & flag != 0;
        let fua = is_set(command_flag::FUA);
        let extent = Extent::new(self.offset, self.length)?;
        Some(match self.command {
            command::READ => Op::Read { extent },
            command::WRITE => {
                let data = input.split_to(tap_block::units::index(self.payload)).freeze();
                Op::Write { offset: self.offset, data, fua }
            }
            command::TRIM => Op::Trim { extent, fua },
            command::CACHE => Op::Cache { extent },
            command::WRITE_ZEROES => Op::Zero {
                extent,
                fua,
                may_trim: !is_set(command_flag::NO_HOLE),
                fast: is_set(command_flag::FAST_ZERO),
            },
            _ => Op::Flush,
        })
    }

    fn is_write(&self) -> bool {
        matches!(self.command, command::WRITE | command::WRITE_ZEROES | command::TRIM)
    }
}
