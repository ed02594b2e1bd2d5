//! The connection as a whole: what callers see, and which phase gets the next unit.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tap_block::units::count;
use tap_block::{Answered, BlockDevice, CompletionQueue, Monotonic, Op, Output, Ticket};
use thiserror::Error;

use crate::login::chap::{Access, Challenge};
use crate::login::status::LoginStatus;
use crate::login::{Ended, Login, LoginStep, Portal, failure};
use crate::neighbours::Visitor;
use crate::pdu::{self, Digests, Framed, FramingError, HEADER, Header, Pdu};
use crate::session::Session;
use crate::target::Target;

/// The bounds of what one connection may hold, and of what it agrees to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest data segment that we take (`MaxRecvDataSegmentLength`).
    pub max_receive: u32,
    /// The longest data segment that we send, whatever the initiator would take.
    pub max_send: u32,
    /// `MaxBurstLength`.
    pub max_burst: u32,
    /// `FirstBurstLength`: what comes unasked for each write.
    pub first_burst: u32,
    /// `MaxOutstandingR2T`.
    pub max_outstanding_r2t: u32,
    /// Commands under way: the command window. A few immediate ones more are taken.
    pub commands: u32,
    /// Bytes of commands under way and of answers not yet written. At this limit further commands wait; a
    /// single larger one is served alone.
    pub in_flight: u64,
    /// Bytes of one text negotiation.
    pub text: usize,
    /// Keys of one login.
    pub keys: usize,
    /// After so long without a word from it, an initiator is asked whether it is there (NOP-In).
    pub idle: Duration,
    /// How long it may take to answer that.
    pub ping: Duration,
    /// How long task management waits for the disk.
    pub management: Duration,
}

/// What a connection is begun with.
pub struct Setup {
    /// Its bounds.
    pub limits: Limits,
    /// Who may ask for the list of targets.
    pub discovery: Access,
    /// Where the initiator connected to: `HOST:PORT`, as `TargetAddress` has it.
    pub portal: String,
    /// Random bytes for CHAP.
    pub challenge: Challenge,
    /// Where outcomes go that the driver then hands to [`Connection::handle_completion`].
    pub queue: Arc<dyn CompletionQueue>,
}

/// What a caller has to do next.
pub enum Action {
    /// Look up the target and answer with [`Connection::handle_resolved`]. Until then no input is used.
    Resolve {
        /// Its name.
        target: String,
        /// Who asks, not yet authenticated.
        initiator: String,
    },
    /// Give the names of all targets to [`Connection::handle_list`]. Until then no input is used.
    List {
        /// Who asks.
        initiator: String,
    },
    /// Hand `op` to `device`.
    Submit {
        /// The disk.
        device: Arc<dyn BlockDevice>,
        /// Within the disk's size.
        op: Op,
        /// Where its outcome goes.
        ticket: Ticket,
    },
    /// Make these reservations durable, in place of those kept before, then complete the ticket.
    Keep {
        /// Whose.
        target: Arc<Target>,
        /// Of which of its units.
        lun: u16,
        /// What [`LogicalUnit::new`](crate::LogicalUnit::new) is to be given after a restart.
        reservations: Bytes,
        /// Where it is told that they are.
        ticket: Ticket,
    },
    /// Write what is left of the output, then close the connection. The last action.
    Close(CloseReason),
}

/// Why a target cannot be logged in to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such target.
    Unknown,
    /// It exists, but not for this initiator.
    Policy,
    /// It exists, but not now.
    Unavailable,
}

/// Why the connection is closed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CloseReason {
    /// The initiator logged out.
    #[error("the initiator logged out")]
    LoggedOut,
    /// The login failed.
    #[error("the login failed: {0}")]
    LoginFailed(LoginStatus),
    /// The stream cannot be followed any further.
    #[error("{0}")]
    Framing(#[from] FramingError),
    /// Data came damaged, which recovery level 0 answers with the end of the connection.
    #[error("a data digest is wrong")]
    DataDigest,
    /// The same initiator logged in again, or an operator ended the session.
    #[error(
        "the session was ended from elsewhere: a new login of the same initiator, a reset, or an operator"
    )]
    Kicked,
    /// No answer to a NOP-In.
    #[error("the initiator does not answer any more")]
    Silent,
}

/// What the connection can use when [`Connection::poll_action`] gave `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    /// Input of at least this length in all, what is there already included.
    Input(usize),
    /// No input before an answer, a completion or a write has made room.
    Nothing,
}

/// The tag of the ticket by which a session is ended from elsewhere.
pub(crate) const KICK: u64 = u64::MAX;

/// One initiator's connection.
///
/// Feed received bytes to [`poll_action`](Self::poll_action) until it gives `None`, do what it says, and
/// write [`output`](Self::output) to the socket.
pub struct Connection {
    phase: Phase,
    limits: Limits,
    portal: String,
    queue: Arc<dyn CompletionQueue>,
    output: Output,
    /// A unit that waits for a lookup.
    pending: Option<Pdu>,
    short: usize,
    now: Monotonic,
    kicked: bool,
    closed: bool,
    host: Option<Arc<str>>,
}

enum Phase {
    Login(Box<Login>),
    Full(Box<Session>),
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_receive: 256 << 10,
            max_send: 1 << 20,
            max_burst: 1 << 20,
            first_burst: 256 << 10,
            max_outstanding_r2t: 8,
            commands: 128,
            in_flight: 64 << 20,
            text: 64 << 10,
            keys: 64,
            idle: Duration::from_secs(30),
            ping: Duration::from_secs(15),
            management: Duration::from_secs(10),
        }
    }
}

impl Connection {
    /// A connection just accepted.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        let Setup { limits, discovery, portal, challenge, queue } = setup;
        let login = Login::new(Portal { discovery, challenge, limits });
        Self {
            phase: Phase::Login(Box::new(login)),
            limits,
            portal,
            queue,
            output: Output::default(),
            pending: None,
            short: HEADER,
            now: Monotonic::default(),
            kicked: false,
            closed: false,
            host: None,
        }
    }

    /// It is from `host`: copies go to other targets if that is where the initiator comes to those from, and to none without.
    pub fn comes_from(&mut self, host: &str) {
        self.host = Some(host.into());
    }

    /// The next thing to do, taking whole units from the front of `input` as far as that needs.
    pub fn poll_action(&mut self, input: &mut BytesMut) -> Option<Action> {
        loop {
            if self.closed || self.pending.is_some() {
                return None;
            }
            if self.kicked {
                return Some(self.close(CloseReason::Kicked));
            }
            if let Phase::Full(session) = &mut self.phase
                && let Some(action) = session.poll_action(&mut self.output)
            {
                self.closed = matches!(action, Action::Close(_));
                return Some(action);
            }
            if !self.takes_input() {
                return None;
            }
            match self.take(input) {
                Ok(None) => return None,
                Ok(Some(pdu)) => {
                    if let Some(action) = self.handle(pdu) {
                        return Some(action);
                    }
                }
                Err(reason) => return Some(self.close(reason)),
            }
        }
    }

    fn close(&mut self, reason: CloseReason) -> Action {
        self.closed = true;
        // What the session held is given up now, not when the driver gets round to it.
        if let Phase::Full(session) = &mut self.phase {
            session.end();
        }
        Action::Close(reason)
    }

    /// Answers that nobody reads must not pile up.
    fn takes_input(&self) -> bool {
        u64::try_from(self.output.len()).is_ok_and(|waiting| waiting <= self.limits.in_flight)
            && !matches!(&self.phase, Phase::Full(session) if session.is_choked())
    }

    fn take(&mut self, input: &mut BytesMut) -> Result<Option<Pdu>, CloseReason> {
        let (digests, limit) = match &self.phase {
            // Section 13.12: before the full feature phase 8 KiB are taken.
            Phase::Login(_) => (Digests::default(), 8192.min(self.limits.max_receive)),
            Phase::Full(session) => (session.digests(), self.limits.max_receive),
        };
        match pdu::take(input, digests, limit)? {
            Framed::Short(needed) => {
                self.short = needed;
                Ok(None)
            }
            Framed::Whole(pdu) => {
                self.short = HEADER;
                Ok(Some(pdu))
            }
            Framed::BadData(header) => {
                self.reject(header);
                Err(CloseReason::DataDigest)
            }
        }
    }

    fn reject(&mut self, header: Header) {
        if let Phase::Full(session) = &mut self.phase {
            session.reject(&header, 0x02, &mut self.output);
        }
    }

    fn handle(&mut self, pdu: Pdu) -> Option<Action> {
        match &mut self.phase {
            Phase::Full(session) => {
                session.handle(pdu, self.now, &mut self.output);
                None
            }
            Phase::Login(login) => {
                let step = login.step(&pdu);
                self.log_in(step, pdu)
            }
        }
    }

    fn log_in(&mut self, step: LoginStep, pdu: Pdu) -> Option<Action> {
        match step {
            LoginStep::Answer(answer) => {
                self.push_login(&pdu.header, answer);
                None
            }
            LoginStep::Resolve(target, initiator) => {
                self.pending = Some(pdu);
                Some(Action::Resolve { target, initiator })
            }
            LoginStep::Failed(answer, status) => Some(self.fail_login(&pdu.header, answer, status)),
            LoginStep::Done(answer, ended) => self.enter(&pdu.header, answer, ended),
        }
    }

    fn fail_login(&mut self, header: &Header, answer: Pdu, status: LoginStatus) -> Action {
        self.push_login(header, answer);
        self.close(CloseReason::LoginFailed(status))
    }

    /// During login there is one command under way and StatSN is ours to begin with (section 11.13).
    fn push_login(&mut self, request: &Header, answer: Pdu) {
        let cmd_sn = request.word(24);
        // An initiator that names the StatSN it expects is given it; the first request names none.
        let stat_sn = request.word(28);
        let header = answer.header.with_word(24, stat_sn).with_word(28, cmd_sn).with_word(32, cmd_sn);
        header.send(answer.data, Digests::default(), &mut self.output);
    }

    fn enter(&mut self, request: &Header, answer: Pdu, ended: Ended) -> Option<Action> {
        let membership = match &ended.target {
            None => None,
            Some((target, admission)) => {
                let kick = Ticket::new(KICK, self.queue.clone());
                let (port, proved) = (ended.port.clone(), ended.proved.clone());
                let visitor = Visitor { port, host: self.host.clone(), proved };
                match target.enter((visitor, admission), ended.tsih, kick) {
                    Ok(membership) => Some(membership),
                    Err(status) => {
                        return Some(self.fail_login(request, failure(request, status), status));
                    }
                }
            }
        };
        let tsih = membership.as_ref().map_or(1, |membership| membership.tsih);
        let answer = Pdu { header: answer.header.with(14, &tsih.to_be_bytes()), ..answer };
        self.push_login(request, answer);
        let stat_sn = request.word(28).wrapping_add(1);
        let session = Session::new(ended, membership, self.limits, stat_sn, self.queue.clone(), self.now);
        self.phase = Phase::Full(Box::new(session));
        None
    }

    /// What would let the connection go on, once [`poll_action`](Self::poll_action) has given `None`.
    #[must_use]
    pub fn wants(&self, _input: &[u8]) -> Wants {
        if self.closed || self.pending.is_some() || !self.takes_input() {
            return Wants::Nothing;
        }
        Wants::Input(self.short)
    }

    /// The answer to [`Action::Resolve`].
    pub fn handle_resolved(&mut self, resolved: Result<Arc<Target>, Refusal>) -> Option<Action> {
        let pdu = self.pending.take()?;
        let Phase::Login(login) = &mut self.phase else { return None };
        match resolved {
            Ok(target) => {
                login.handle_resolved(target);
                self.handle(pdu)
            }
            Err(refusal) => {
                let status = match refusal {
                    Refusal::Unknown => LoginStatus::NotFound,
                    Refusal::Policy => LoginStatus::NotAuthorized,
                    Refusal::Unavailable => LoginStatus::Unavailable,
                };
                Some(self.fail_login(&pdu.header, failure(&pdu.header, status), status))
            }
        }
    }

    /// The answer to [`Action::List`].
    pub fn handle_list(&mut self, names: &[String]) {
        if let Phase::Full(session) = &mut self.phase {
            session.handle_list(names, &self.portal, &mut self.output);
        }
    }

    /// The outcome that came to the queue with `tag`. An unknown tag changes nothing.
    pub fn handle_completion(&mut self, tag: u64, answered: Answered) {
        match &mut self.phase {
            Phase::Full(_) if tag == KICK => self.kicked = true,
            Phase::Full(session) => session.handle_completion(tag, answered, &mut self.output),
            Phase::Login(_) => {}
        }
    }

    /// It is `now`. Call it often enough: at [`next_deadline`](Self::next_deadline) at the latest.
    pub fn handle_time(&mut self, now: Monotonic) {
        self.now = now;
        if let Phase::Full(session) = &mut self.phase {
            session.handle_time(now, &mut self.output);
        }
    }

    /// When [`handle_time`](Self::handle_time) has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Monotonic> {
        match &self.phase {
            Phase::Full(session) if !self.closed => Some(session.next_deadline()),
            _ => None,
        }
    }

    /// The initiator is asked to log out (section 11.9.1); what it sends until then is served.
    pub fn begin_shutdown(&mut self) {
        if let Phase::Full(session) = &mut self.phase {
            session.ask_to_log_out(&mut self.output);
        }
    }

    /// What waits to be written.
    #[must_use]
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// What waits to be written, to take written bytes off.
    pub fn output_mut(&mut self) -> &mut Output {
        &mut self.output
    }

    /// Whatever [`Limits`] say, commands and answers may hold so many bytes of memory from now on: a command for which there is not
    /// enough waits, and is [told of](Self::lacks). At first that is as much as there is.
    pub fn allow(&mut self, bytes: u64) {
        if let Phase::Full(session) = &mut self.phase {
            session.allow(bytes);
        }
    }

    /// Once [`poll_action`](Self::poll_action) has given `None`: so much would be held in all with the next command, which waits
    /// because that is more than is [allowed](Self::allow).
    #[must_use]
    pub fn lacks(&self) -> Option<u64> {
        match &self.phase {
            Phase::Full(session) if !self.closed => session.lacks(),
            _ => None,
        }
    }

    /// Bytes of memory that commands hold which were given room, and answers: an answer all of it until its last byte is written.
    pub fn held(&mut self) -> u64 {
        match &mut self.phase {
            Phase::Login(_) => count(self.output.len()),
            Phase::Full(session) => session.held(&self.output),
        }
    }

    /// Has the initiator not sent all of what it was given room for?
    #[must_use]
    pub fn awaits_data(&self) -> bool {
        matches!(&self.phase, Phase::Full(session) if session.awaits_data())
    }

    /// The operations that commands wait for, or waited for when the connection was closed, by the tags of their tickets, each
    /// with the bytes of memory that it may hold.
    #[must_use]
    pub fn under_way(&self) -> Vec<(u64, u64)> {
        match &self.phase {
            Phase::Login(_) => Vec::new(),
            Phase::Full(session) => session.under_way(),
        }
    }

    /// How many commands are under way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        match &self.phase {
            Phase::Full(session) if !self.closed => session.in_flight(),
            _ => 0,
        }
    }

    /// Is the initiator not in the full feature phase yet?
    #[must_use]
    pub fn is_logging_in(&self) -> bool {
        matches!(self.phase, Phase::Login(_)) && !self.closed
    }
}
