//! The transmission phase: requests in, operations out, replies in the order of completion.

use bytes::{Buf, BytesMut};
use tap_block::units::count;
use tap_block::{DeviceError, Extent, Geometry, Op, Outcome};

use crate::handshake::{Session, drop_front};
use crate::output::Output;
use crate::proto::{Errno, REQUEST_MAGIC, SIMPLE_REPLY_MAGIC, command, command_flag};
use crate::server::{Action, CloseReason, Limits, Step, Tag, Wants};

/// Magic, flags, type, cookie, offset, length.
const REQUEST_HEADER: usize = 28;
/// What a request costs beside its payload, so that tiny ones are bounded too.
const REQUEST_COST: u64 = 512;

/// The transmission phase of one connection.
#[derive(Debug)]
pub(crate) struct Transmission {
    geometry: Geometry,
    stage: Stage,
    pending: PendingTable,
}

#[derive(Debug)]
enum Stage {
    Request,
    /// Dropping the payload of a write that is refused, then saying so.
    Skip {
        left: u32,
        cookie: u64,
        error: Errno,
    },
    /// No further request is read; closes when the last one under way is answered.
    Leaving(CloseReason),
}

/// "Request message".
#[derive(Debug, Clone, Copy)]
struct Request {
    flags: u16,
    command: u16,
    cookie: u64,
    offset: u64,
    length: u32,
}

/// A request under way.
#[derive(Debug, Clone, Copy)]
struct Pending {
    cookie: u64,
    cost: u64,
    kind: Kind,
}

/// What the reply depends on.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Read {
        length: u32,
    },
    /// A write or the writing of zeroes, for which being out of range has its own error.
    Write,
    Other,
}

impl Transmission {
    pub(crate) fn new(session: Session) -> Self {
        Self { geometry: session.geometry, stage: Stage::Request, pending: PendingTable::default() }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.pending.len()
    }

    pub(crate) fn step(
        &mut self,
        input: &mut BytesMut,
        output: &mut Output,
        limits: &Limits,
        stopping: bool,
    ) -> Step {
        match &self.stage {
            Stage::Request => self.request(input, output, limits, stopping),
            Stage::Skip { .. } => self.skip(input, output),
            Stage::Leaving(reason) if self.pending.len() == 0 => Step::Act(Action::Close(reason.clone())),
            Stage::Leaving(_) => Step::Wait,
        }
    }

    pub(crate) fn wants(&self, input: &[u8], output: &Output, limits: &Limits) -> Wants {
        match &self.stage {
            Stage::Leaving(_) => Wants::Nothing,
            Stage::Skip { .. } => Wants::Input(1),
            Stage::Request => match peek_request(input) {
                _ if !self.has_room(0, output, limits) => Wants::Nothing,
                Some(Ok(request)) if !self.has_room(request.payload_length(), output, limits) => {
                    Wants::Nothing
                }
                Some(Ok(request)) if request.command == command::WRITE => {
                    Wants::Input(REQUEST_HEADER + request.length as usize)
                }
                _ => Wants::Input(REQUEST_HEADER),
            },
        }
    }

    fn request(
        &mut self,
        input: &mut BytesMut,
        output: &mut Output,
        limits: &Limits,
        stopping: bool,
    ) -> Step {
        if !self.has_room(0, output, limits) {
            return Step::Wait;
        }
        let request = match peek_request(input) {
            None => return Step::Wait,
            Some(Err(magic)) => return self.leave(CloseReason::BadRequestMagic(magic)),
            Some(Ok(request)) => request,
        };
        // "NBD_CMD_DISC": every outstanding request is handled, then the connection is closed.
        if request.command == command::DISC {
            return self.leave(CloseReason::Disconnected);
        }
        match request.admit(self.geometry, limits, stopping) {
            Err(error) => self.refuse(request, error, input, output),
            Ok(()) if request.length == 0 && request.command != command::FLUSH => {
                input.advance(REQUEST_HEADER);
                push_reply(output, request.cookie, Errno::None);
                Step::Again
            }
            Ok(()) if !self.has_room(request.payload_length(), output, limits) => Step::Wait,
            Ok(()) => self.start(request, input),
        }
    }

    /// Is there room for a request with this much payload? One is always served when there is nothing else.
    fn has_room(&self, payload: u64, output: &Output, limits: &Limits) -> bool {
        let used = self.pending.cost + count(output.len());
        used == 0 || used + payload + REQUEST_COST <= limits.in_flight
    }

    fn start(&mut self, request: Request, input: &mut BytesMut) -> Step {
        let whole = REQUEST_HEADER + request.incoming();
        if input.len() < whole {
            return Step::Wait;
        }
        input.advance(REQUEST_HEADER);
        let Some(op) = request.into_op(input) else {
            return Step::Again;
        };
        let kind = match &op {
            Op::Read { .. } => Kind::Read { length: request.length },
            Op::Write { .. } | Op::Zero { .. } => Kind::Write,
            Op::Trim { .. } | Op::Flush => Kind::Other,
        };
        let cost = request.payload_length() + REQUEST_COST;
        let tag = self.pending.insert(Pending { cookie: request.cookie, cost, kind });
        Step::Act(Action::Submit { tag, op })
    }

    fn refuse(&mut self, request: Request, error: Errno, input: &mut BytesMut, output: &mut Output) -> Step {
        input.advance(REQUEST_HEADER);
        if request.command == command::WRITE {
            self.stage = Stage::Skip { left: request.length, cookie: request.cookie, error };
        } else {
            push_reply(output, request.cookie, error);
        }
        Step::Again
    }

    fn skip(&mut self, input: &mut BytesMut, output: &mut Output) -> Step {
        if let Stage::Skip { left, cookie, error } = &mut self.stage {
            *left -= drop_front(input, *left);
            if *left > 0 {
                return Step::Wait;
            }
            push_reply(output, *cookie, *error);
            self.stage = Stage::Request;
        }
        Step::Again
    }

    fn leave(&mut self, reason: CloseReason) -> Step {
        self.stage = Stage::Leaving(reason);
        Step::Again
    }

    pub(crate) fn handle_completion(&mut self, tag: Tag, outcome: Outcome, output: &mut Output) {
        let Some(pending) = self.pending.remove(tag) else { return };
        match (outcome, pending.kind) {
            // A device that answers with another length has broken its contract; its bytes go nowhere.
            (Ok(data), Kind::Read { length }) if count(data.len()) != u64::from(length) => {
                push_reply(output, pending.cookie, Errno::Io);
            }
            (Ok(data), Kind::Read { .. }) => {
                push_reply(output, pending.cookie, Errno::None);
                output.push_payload(data);
            }
            (Ok(_), _) => push_reply(output, pending.cookie, Errno::None),
            (Err(error), kind) => push_reply(output, pending.cookie, errno_of(&error, kind)),
        }
    }
}

impl Request {
    /// The checks before anything is started; the error that a request which fails them is answered with.
    fn admit(self, geometry: Geometry, limits: &Limits, stopping: bool) -> Result<(), Errno> {
        // "Error values": an unknown command, or a flag not documented for it, is NBD_EINVAL.
        if self.flags & !self.allowed_flags(geometry).ok_or(Errno::Invalid)? != 0 {
            return Err(Errno::Invalid);
        }
        // "Terminating the transmission phase": requests received from now on.
        if stopping {
            return Err(Errno::Shutdown);
        }
        if self.command == command::FLUSH {
            // "NBD_CMD_FLUSH": length and offset are reserved and must be zero.
            return if self.length == 0 && self.offset == 0 { Ok(()) } else { Err(Errno::Invalid) };
        }
        if self.is_write() && geometry.read_only {
            return Err(Errno::Perm);
        }
        self.check_range(geometry)?;
        // "Size constraints": a payload beyond the maximum.
        if self.payload_length() > u64::from(limits.max_payload) {
            return Err(Errno::Invalid);
        }
        Ok(())
    }

    /// The flags its command may carry; `None` for a command that is not served.
    ///
    /// "Command flags": FUA is valid for all commands once it is offered. NBD_CMD_CACHE, BLOCK_STATUS and the
    /// flags DF and FAST_ZERO are not offered, so they are refused like unknown ones.
    fn allowed_flags(self, geometry: Geometry) -> Option<u16> {
        let fua = if geometry.read_only { 0 } else { command_flag::FUA };
        match self.command {
            command::READ | command::FLUSH => Some(fua),
            // Refused for the export being read-only, which says more than a complaint about the flag.
            command::WRITE | command::TRIM => Some(command_flag::FUA),
            command::WRITE_ZEROES => Some(command_flag::FUA | command_flag::NO_HOLE),
            _ => None,
        }
    }

    /// "Error values": NBD_ENOSPC for writes beyond the end, NBD_EINVAL for reads and trims.
    fn check_range(self, geometry: Geometry) -> Result<(), Errno> {
        match self.offset.checked_add(u64::from(self.length)) {
            Some(end) if end <= geometry.size => Ok(()),
            _ if matches!(self.command, command::WRITE | command::WRITE_ZEROES) => Err(Errno::NoSpace),
            _ => Err(Errno::Invalid),
        }
    }

    fn is_write(self) -> bool {
        matches!(self.command, command::WRITE | command::WRITE_ZEROES | command::TRIM)
    }

    /// The bytes it moves in either direction.
    fn payload_length(self) -> u64 {
        match self.command {
            command::READ | command::WRITE => u64::from(self.length),
            _ => 0,
        }
    }

    /// The bytes that follow its header.
    fn incoming(self) -> usize {
        if self.command == command::WRITE { self.length as usize } else { 0 }
    }

    /// The operation, its payload split off the input without a copy.
    fn into_op(self, input: &mut BytesMut) -> Option<Op> {
        let fua = self.flags & command_flag::FUA != 0;
        let extent = Extent::new(self.offset, u64::from(self.length))?;
        Some(match self.command {
            command::READ => Op::Read { extent },
            command::WRITE => {
                Op::Write { offset: self.offset, data: input.split_to(self.incoming()).freeze(), fua }
            }
            command::TRIM => Op::Trim { extent, fua },
            command::WRITE_ZEROES => {
                Op::Zero { extent, fua, may_trim: self.flags & command_flag::NO_HOLE == 0 }
            }
            _ => Op::Flush,
        })
    }
}

/// "Simple reply message". The one place replies are encoded in.
fn push_reply(output: &mut Output, cookie: u64, error: Errno) {
    let [a, b, c, d] = SIMPLE_REPLY_MAGIC.to_be_bytes();
    let [e, f, g, h] = error.wire().to_be_bytes();
    let [i, j, k, l, m, n, o, p] = cookie.to_be_bytes();
    output.push(&[a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]);
}

/// "Error values".
fn errno_of(error: &DeviceError, kind: Kind) -> Errno {
    match (error, kind) {
        (DeviceError::ReadOnly, _) => Errno::Perm,
        (DeviceError::OutOfRange { .. }, Kind::Write) | (DeviceError::NoSpace(_), _) => Errno::NoSpace,
        (DeviceError::OutOfRange { .. }, _) => Errno::Invalid,
        (DeviceError::Damaged { .. } | DeviceError::Io(_), _) => Errno::Io,
        (DeviceError::Stopped, _) => Errno::Shutdown,
    }
}

/// The next request's header, left in place; the magic number when it is a wrong one.
fn peek_request(mut input: &[u8]) -> Option<Result<Request, u32>> {
    let magic = input.try_get_u32().ok()?;
    if magic != REQUEST_MAGIC {
        return Some(Err(magic));
    }
    Some(Ok(Request {
        flags: input.try_get_u16().ok()?,
        command: input.try_get_u16().ok()?,
        cookie: input.try_get_u64().ok()?,
        offset: input.try_get_u64().ok()?,
        length: input.try_get_u32().ok()?,
    }))
}

/// The requests under way by tag: slots used again, each use with another generation in the tag, so that a
/// completion that comes twice cannot answer somebody else's request.
#[derive(Debug, Default)]
struct PendingTable {
    slots: Vec<Slot>,
    free: Vec<u32>,
    cost: u64,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    pending: Option<Pending>,
}

impl PendingTable {
    fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn insert(&mut self, pending: Pending) -> Tag {
        self.cost += pending.cost;
        let no = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        let generation = match self.slots.get_mut(no as usize) {
            Some(slot) => {
                slot.pending = Some(pending);
                slot.generation
            }
            None => 0,
        };
        Tag::new(u64::from(generation) << 32 | u64::from(no))
    }

    fn remove(&mut self, tag: Tag) -> Option<Pending> {
        let no = u32::try_from(tag.get() & u64::from(u32::MAX)).ok()?;
        let slot = self.slots.get_mut(no as usize)?;
        if u64::from(slot.generation) != tag.get() >> 32 {
            return None;
        }
        let pending = slot.pending.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(no);
        self.cost -= pending.cost;
        Some(pending)
    }
}
