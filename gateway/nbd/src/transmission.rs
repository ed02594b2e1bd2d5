//! The transmission phase: requests in, operations out, replies in the order of completion.

use std::sync::Arc;

use bytes::{Buf, BytesMut};
use tap_block::units::{count, index};
use tap_block::{Answer, Answered, DeviceError, Map, Op, Output, Stretch, Unread};

use crate::handshake::{Session, drop_front};
use crate::pending::{Kind, Pending, PendingTable};
use crate::proto::{Errno, command};
use crate::reply::To;
use crate::request::{Refused, Request, Served};
use crate::server::{Action, CloseReason, Limits, Step, Tag, Wants};

/// No longer payload is followed to its end, to refuse the request.
const MAX_SKIPPED: u64 = u32::MAX as u64;

/// The transmission phase of one connection.
#[derive(Debug)]
pub(crate) struct Transmission {
    served: Served,
    stage: Stage,
    pending: PendingTable,
    unread: Unread,
    /// Memory for a request whose payload is on its way.
    incoming: u64,
    /// What may be held in all.
    allowed: u64,
    /// What would be held with the next request, which is more than that.
    short: Option<u64>,
}

#[derive(Debug)]
enum Stage {
    Request,
    /// Dropping the payload of a request that is refused, then saying so.
    Skip {
        left: u64,
        to: To,
        refused: Refused,
    },
    /// No further request is read; closes when the last one under way is answered.
    Leaving(CloseReason),
}

impl Transmission {
    pub(crate) fn new(session: Session, allowed: u64) -> Self {
        let Session { geometry, style, contexts } = session;
        let served = Served { geometry, style, contexts };
        let (pending, unread) = (PendingTable::default(), Unread::default());
        Self { served, stage: Stage::Request, pending, unread, incoming: 0, allowed, short: None }
    }

    pub(crate) const fn allow(&mut self, bytes: u64) {
        self.allowed = bytes;
    }

    pub(crate) const fn short(&self) -> Option<u64> {
        self.short
    }

    pub(crate) const fn incoming(&self) -> u64 {
        self.incoming
    }

    /// Memory that requests and replies hold.
    pub(crate) fn held(&mut self, output: &Output) -> u64 {
        self.pending.memory() + self.incoming + self.unread.held(output)
    }

    pub(crate) fn under_way(&self) -> impl Iterator<Item = (Tag, u64)> {
        self.pending.under_way()
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
        let header = self.served.header();
        match &self.stage {
            Stage::Leaving(_) => Wants::Nothing,
            Stage::Skip { .. } => Wants::Input(1),
            Stage::Request => match self.served.peek(input) {
                _ if self.short.is_some() || !self.has_room(0, output, limits) => Wants::Nothing,
                Some(Ok(request)) if !self.has_room(request.cost(), output, limits) => Wants::Nothing,
                Some(Ok(request)) => Wants::Input(header.saturating_add(index(request.payload()))),
                _ => Wants::Input(header),
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
        // What was lent to a request whose payload still comes stays lent.
        let begun = std::mem::take(&mut self.incoming) > 0;
        self.short = None;
        self.unread.note(output);
        if !self.has_room(0, output, limits) {
            return Step::Wait;
        }
        let request = match self.served.peek(input) {
            None => return Step::Wait,
            Some(Err(magic)) => return self.leave(CloseReason::BadRequestMagic(magic)),
            Some(Ok(request)) => request,
        };
        // "NBD_CMD_DISC": every outstanding request is handled, then the connection is closed.
        if request.command == command::DISC {
            return self.leave(CloseReason::Disconnected);
        }
        match request.admit(&self.served, limits, stopping) {
            // "A server SHOULD initiate hard disconnect" rather than follow such a payload.
            Err(_) if request.payload() > MAX_SKIPPED => {
                self.leave(CloseReason::AbsurdPayload(request.payload()))
            }
            Err(refused) => self.refuse(&request, refused, input),
            Ok(()) if request.length() == 0 && request.command != command::FLUSH => {
                input.advance(self.served.header());
                request.to().done(output);
                Step::Again
            }
            Ok(()) if !self.has_room(request.cost(), output, limits) => Step::Wait,
            Ok(()) if !begun && !self.may_hold(&request, output) => Step::Wait,
            Ok(()) => self.start(request, input, output),
        }
    }

    /// Is there memory for it?
    fn may_hold(&mut self, request: &Request, output: &Output) -> bool {
        let total = self.held(output).saturating_add(request.memory(&self.served));
        self.short = (total > self.allowed).then_some(total);
        self.short.is_none()
    }

    /// Is there room for a request that costs so much? One is always served when there is nothing else.
    fn has_room(&self, cost: u64, output: &Output, limits: &Limits) -> bool {
        let used = self.pending.cost() + count(output.len());
        used == 0 || used.saturating_add(cost.max(512)) <= limits.in_flight
    }

    fn start(&mut self, request: Request, input: &mut BytesMut, output: &mut Output) -> Step {
        if input.len() < self.served.header() + index(request.payload()) {
            self.incoming = request.memory(&self.served);
            return Step::Wait;
        }
        input.advance(self.served.header());
        if request.command == command::BLOCK_STATUS {
            return self.start_status(request, input, output);
        }
        let (to, cost, memory) = (request.to(), request.cost(), request.memory(&self.served));
        let (length, whole) = (request.length(), request.is_whole());
        let Some(op) = request.into_op(input) else {
            return Step::Again;
        };
        let kind = match &op {
            Op::Read { .. } => Kind::Read { length, whole },
            Op::Write { .. } | Op::Zero { .. } => Kind::Write,
            _ => Kind::Other,
        };
        let tag = self.pending.insert(Pending { to, cost, memory, kind });
        Step::Act(Action::Submit { tag, op })
    }

    /// "NBD_CMD_BLOCK_STATUS": of all contexts, or of those that the payload names.
    fn start_status(&mut self, mut request: Request, input: &mut BytesMut, output: &mut Output) -> Step {
        let chosen = if request.has_filter() {
            let payload = input.split_to(index(request.payload()));
            request.filtered(&self.served, &payload)
        } else {
            Ok(self.all_contexts())
        };
        let (contexts, maps) = match chosen {
            Ok(chosen) => chosen,
            Err((error, text)) => {
                request.to().error(output, error, text, None);
                return Step::Again;
            }
        };
        let Some(op) = request.status(maps) else { return Step::Again };
        let kind = Kind::Status { length: request.length(), contexts };
        let (to, cost, memory) = (request.to(), request.cost(), request.memory(&self.served));
        let tag = self.pending.insert(Pending { to, cost, memory, kind });
        Step::Act(Action::Submit { tag, op })
    }

    fn all_contexts(&self) -> (Vec<u32>, Arc<[Map]>) {
        let numbers = (0..).zip(self.served.contexts.iter()).map(|(number, _)| number);
        (numbers.collect(), Arc::clone(&self.served.contexts))
    }

    fn refuse(&mut self, request: &Request, refused: Refused, input: &mut BytesMut) -> Step {
        input.advance(self.served.header());
        self.stage = Stage::Skip { left: request.payload(), to: request.to(), refused };
        Step::Again
    }

    fn skip(&mut self, input: &mut BytesMut, output: &mut Output) -> Step {
        if let Stage::Skip { left, to, refused: (error, text) } = &mut self.stage {
            *left -= u64::from(drop_front(input, u32::try_from(*left).unwrap_or(u32::MAX)));
            if *left > 0 {
                return Step::Wait;
            }
            to.error(output, *error, text, None);
            self.stage = Stage::Request;
        }
        Step::Again
    }

    fn leave(&mut self, reason: CloseReason) -> Step {
        self.stage = Stage::Leaving(reason);
        Step::Again
    }

    pub(crate) fn handle_completion(&mut self, tag: Tag, answered: Answered, output: &mut Output) {
        let Some(Pending { to, kind, .. }) = self.pending.remove(tag) else { return };
        self.unread.note(output);
        reply(to, kind, answered, output);
        self.unread.note(output);
    }
}

fn reply(to: To, kind: Kind, answered: Answered, output: &mut Output) {
    match (answered, kind) {
        (Ok(answer), Kind::Read { length, whole }) if answer.length() == length => {
            to.content(output, answer, whole);
        }
        (Ok(Answer::Status(maps)), Kind::Status { length, contexts })
            if maps.len() == contexts.len() && maps.iter().all(|map| is_sound(map, length)) =>
        {
            to.status(output, &contexts, &maps);
        }
        // A device that answers with something else has broken its contract; its bytes go nowhere.
        (Ok(_), Kind::Read { .. } | Kind::Status { .. }) => {
            to.error(output, Errno::Io, "the device gave something else than what was asked for", None);
        }
        (Ok(_), _) => to.done(output),
        (Err(error), kind) => refused_by_device(to, &error, &kind, output),
    }
}

/// "The server MUST return at least one status descriptor", of a length that is not zero, of what was asked for.
fn is_sound(map: &[Stretch], length: u64) -> bool {
    let told = map.iter().try_fold(0_u64, |sum, stretch| sum.checked_add(stretch.length));
    !map.is_empty() && map.iter().all(|stretch| stretch.length > 0) && told.is_some_and(|sum| sum <= length)
}

fn refused_by_device(to: To, error: &DeviceError, kind: &Kind, output: &mut Output) {
    let text = error.to_string();
    // "NBD_REPLY_TYPE_ERROR_OFFSET": the offset lies within the request.
    let at = match (error, kind) {
        (DeviceError::Damaged { extent, .. }, Kind::Read { length, .. }) => {
            let end = to.offset.saturating_add(*length);
            Some(extent.offset().max(to.offset)).filter(|at| *at < end)
        }
        _ => None,
    };
    to.error(output, errno_of(error, kind), &text, at);
}

/// "Error values".
fn errno_of(error: &DeviceError, kind: &Kind) -> Errno {
    match (error, kind) {
        (DeviceError::ReadOnly, _) => Errno::Perm,
        (DeviceError::OutOfRange { .. }, Kind::Write) | (DeviceError::NoSpace(_), _) => Errno::NoSpace,
        (DeviceError::OutOfRange { .. }, _) => Errno::Invalid,
        (DeviceError::Damaged { .. } | DeviceError::Io(_), _) => Errno::Io,
        (DeviceError::Unsupported(_), _) => Errno::NotSupported,
        (DeviceError::Stopped, _) => Errno::Shutdown,
    }
}
