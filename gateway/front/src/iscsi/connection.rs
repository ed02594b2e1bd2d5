//! One iSCSI connection: moves bytes between a socket and the protocol's state machine, operations between
//! that and the disks, [turn by turn](crate::turn).

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use gateway_iscsi::{Action, Challenge, CloseReason, Connection, Refusal, Setup, Target, Wants};
use tap_block::units::count;
use tap_block::{Answered, BlockDevice, DeviceError, Monotonic, Op, Ticket};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep};

use super::intake::Intake;
use super::{IscsiLimits, Targets};
use crate::budget::Share;
use crate::busy_poll::BusyPoll;
use crate::connection::PROGRESS;
use crate::ended::Ended;
use crate::exports::ClientId;
use crate::front::{Place, Shared};
use crate::mailbox::{Mailbox, Stop};
use crate::pace::Pace;
use crate::patience::Patience;
use crate::remains::Remains;
use crate::sessions::Session;
use crate::turn::{LEAST_ROOM, Turns, batch, linger, poll_write};

/// How long an initiator has to log out when the front stops (the protocol tells it so).
const LOGOUT: Duration = Duration::from_secs(5);

/// An initiator's connection.
pub(crate) struct IscsiConnection<S> {
    stream: S,
    protocol: Connection,
    intake: Intake,
    mailbox: Arc<Mailbox>,
    busy_poll: BusyPoll,
    session: Arc<Session>,
    shared: Arc<Shared>,
    client: ClientId,
    done: Vec<(u64, Answered)>,
    /// What is asked of one disk in a row: it is given to the disk as a whole.
    asked: Vec<(Op, Ticket)>,
    asked_of: Option<Arc<dyn BlockDevice>>,
    /// For an initiator that takes no answer.
    stalled: Patience,
    /// What it has taken meanwhile.
    taken: usize,
    /// Its part of the memory for commands and answers.
    share: Share,
    /// For an initiator that others wait for, since it holds more than its minimum and is slow.
    pace: Pace,
    targets: Arc<dyn Targets>,
    lookup: Option<Lookup>,
    /// Who says to be logging in, until it has.
    initiator: Option<String>,
    began: Instant,
    timer: Pin<Box<Sleep>>,
    /// The login, the last answers or the logout have to be over by then.
    deadline: Option<Instant>,
    login: Duration,
    closing: Option<CloseReason>,
    hung_up: bool,
    stop: Stop,
}

/// A question to [`Targets`] under way on another thread.
enum Lookup {
    List(JoinHandle<Vec<String>>),
    Open(JoinHandle<Result<Arc<Target>, Refusal>>),
}

impl<S: AsyncRead + AsyncWrite + Unpin> IscsiConnection<S> {
    pub(crate) fn new(
        stream: S,
        (portal, client): (String, ClientId),
        targets: Arc<dyn Targets>,
        limits: IscsiLimits,
        place: &Place,
    ) -> Self {
        let (session, shared) = (Arc::clone(&place.session), Arc::clone(&place.shared));
        let mailbox = Arc::clone(&session.mailbox);
        let stalled = Patience::new(shared.limits.stall).or_less(shared.limits.stall_in_need);
        let setup = Setup {
            limits: limits.protocol,
            discovery: targets.discovery(),
            portal,
            challenge: challenge(),
            queue: mailbox.clone(),
        };
        let share = Share::new(&shared.budget, session.id, &mailbox, std::time::Instant::now());
        let pace = Pace::new(shared.limits.stall_in_need);
        let mut protocol = Connection::new(setup);
        if let ClientId::Tcp(ip) = &client {
            protocol.comes_from(&ip.to_string());
        }
        let began = Instant::now();
        Self {
            stream,
            protocol,
            intake: Intake::new(),
            mailbox,
            busy_poll: BusyPoll::new(),
            session,
            shared,
            client,
            done: Vec::new(),
            asked: Vec::new(),
            asked_of: None,
            stalled,
            taken: 0,
            share,
            pace,
            targets,
            lookup: None,
            initiator: None,
            began,
            timer: Box::pin(tokio::time::sleep_until(began)),
            deadline: Some(began + limits.login),
            login: limits.login,
            closing: None,
            hung_up: false,
            stop: Stop::Run,
        }
    }

    /// Serves the initiator until either side ends it.
    pub(crate) async fn serve(mut self) -> Ended {
        let ended = std::future::poll_fn(|cx| self.poll(cx)).await;
        if matches!(ended, Ended::Stopped | Ended::IscsiClosed(_)) && self.stop != Stop::Abort {
            linger(&mut self.stream, self.intake.input()).await;
        }
        ended
    }

    fn now(&self) -> Monotonic {
        let nanos = self.began.elapsed().as_nanos();
        Monotonic::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Is it before `next`? Then the task of `cx` is woken at that time at the latest. Deadlines move with each command: the
    /// timer runs on and is set right when it goes off, or when it would be too late.
    fn sleeps_until(&mut self, next: Instant, cx: &mut Context<'_>) -> bool {
        if next < self.timer.deadline() {
            self.timer.as_mut().reset(next);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            if next <= Instant::now() {
                return false;
            }
            self.timer.as_mut().reset(next);
        }
        true
    }

    fn take_letters(&mut self) -> bool {
        let stop = self.mailbox.take(&mut self.done);
        let busy = !self.done.is_empty() || stop != self.stop;
        for (tag, answered) in self.done.drain(..) {
            self.protocol.handle_completion(tag, answered);
        }
        if stop != self.stop {
            self.stop = stop;
            self.protocol.begin_shutdown();
            self.deadline = Some(Instant::now() + LOGOUT);
        }
        busy
    }

    /// Does actions until the batch is full or there are no more; was there any?
    fn act(&mut self) -> bool {
        let any = batch(|| {
            if self.closing.is_some() {
                return None;
            }
            let action = match self.protocol.poll_action(self.intake.input()) {
                None if self.borrow() => self.protocol.poll_action(self.intake.input()),
                action => action,
            };
            Some(self.perform(action?))
        });
        self.submit_asked();
        any
    }

    /// Asks it of `device`, together with what comes next for the same one.
    fn ask(&mut self, device: Arc<dyn BlockDevice>, op: Op, ticket: Ticket) -> u64 {
        let bytes = self.count(&op);
        if !self.asked_of.as_ref().is_some_and(|last| Arc::ptr_eq(last, &device)) {
            self.submit_asked();
            self.asked_of = Some(device);
        }
        self.asked.push((op, ticket));
        bytes
    }

    fn submit_asked(&mut self) {
        if let Some(device) = self.asked_of.take() {
            device.submit_all(&mut self.asked);
        }
    }

    /// Asks for memory for a command that waits for it; is there enough?
    fn borrow(&mut self) -> bool {
        let Some(total) = self.protocol.lacks() else { return false };
        let lent = self.share.ask(self.protocol.held(), total, std::time::Instant::now());
        if lent {
            self.protocol.allow(self.share.allowance());
        }
        lent
    }

    /// What is held no more can be lent to others, and who holds much has to get on with it.
    fn settle_memory(&mut self) {
        if self.shared.budget.is_short() {
            self.intake.rest();
        }
        let held = self.protocol.held();
        if self.protocol.lacks().is_none() {
            self.share.keep(held);
        }
        self.shared.sessions.note_held(&self.session, held + count(self.intake.grown()));
        let has_output = !self.protocol.output().is_empty();
        if self.share.is_borrowing() && (has_output || self.protocol.awaits_data()) {
            self.pace.keep(held, &self.shared.limits);
        } else {
            self.pace.rest();
        }
    }

    fn note_moved(&mut self, bytes: usize) {
        self.share.earn(bytes);
        self.pace.note_moved(bytes);
    }

    /// Does what the protocol asks for; how much payload it moves.
    fn perform(&mut self, action: Action) -> u64 {
        match action {
            Action::Submit { device, op, ticket } => return self.ask(device, op, ticket),
            Action::Keep { target, lun, ticket, .. } => self.keep(&target, lun, ticket),
            Action::Resolve { target, initiator } => {
                let (targets, client) = (self.targets.clone(), self.client.clone());
                self.deadline = None;
                self.initiator = Some(initiator.clone());
                let answer = tokio::task::spawn_blocking(move || targets.open(&target, &initiator, &client));
                self.lookup = Some(Lookup::Open(answer));
            }
            Action::List { initiator } => {
                self.session.note_initiator(&initiator);
                let (targets, client) = (self.targets.clone(), self.client.clone());
                let answer = tokio::task::spawn_blocking(move || targets.list(&initiator, &client));
                self.lookup = Some(Lookup::List(answer));
            }
            Action::Close(reason) => self.close(reason),
        }
        0
    }

    /// Counts an operation; how much payload it moves.
    fn count(&self, op: &Op) -> u64 {
        let (read, written) = match op {
            Op::Read { extent } => (extent.length(), 0),
            Op::Write { data, .. } => (0, count(data.len())),
            _ => (0, 0),
        };
        self.session.count_request(written);
        self.session.count_read(read);
        read + written
    }

    fn close(&mut self, reason: CloseReason) {
        self.closing = Some(reason);
        self.deadline = Some(Instant::now() + self.login);
    }

    /// On a thread of its own, which completes the ticket.
    fn keep(&self, target: &Arc<Target>, lun: u16, ticket: Ticket) {
        let (targets, target) = (self.targets.clone(), target.clone());
        drop(tokio::task::spawn_blocking(move || {
            let kept = target.keep(lun, |reservations| targets.keep(target.name(), lun, reservations));
            let kept = kept.unwrap_or_else(|| Err("the target has no such unit".to_owned()));
            if let Err(error) = &kept {
                tracing::error!(target = target.name(), lun, error, "reservations could not be kept");
            }
            ticket.complete(kept.map(|()| Bytes::new()).map_err(DeviceError::Io));
        }));
    }

    fn poll_lookup(&mut self, cx: &mut Context<'_>) -> bool {
        let then = match &mut self.lookup {
            None => return false,
            Some(Lookup::List(answer)) => match Pin::new(answer).poll(cx) {
                Poll::Pending => return false,
                Poll::Ready(names) => {
                    self.protocol.handle_list(&names.unwrap_or_default());
                    None
                }
            },
            Some(Lookup::Open(answer)) => match Pin::new(answer).poll(cx) {
                Poll::Pending => return false,
                Poll::Ready(answer) => {
                    let answer = answer.unwrap_or(Err(Refusal::Unavailable));
                    if let Ok(target) = &answer {
                        self.session.note_target(target.name());
                    }
                    self.protocol.handle_resolved(answer)
                }
            },
        };
        self.lookup = None;
        if let Some(action) = then {
            self.perform(action);
        }
        self.settle_time();
        true
    }

    /// A fresh limit for a login that goes on, none for one that is over.
    fn settle_time(&mut self) {
        if self.closing.is_none()
            && !self.protocol.is_logging_in()
            && let Some(initiator) = self.initiator.take()
        {
            self.session.note_initiator(&initiator);
        }
        if self.closing.is_none() && self.stop == Stop::Run {
            self.deadline = self.protocol.is_logging_in().then(|| Instant::now() + self.login);
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut busy = false;
        while !self.protocol.output().is_empty() {
            match poll_write(&mut self.stream, self.protocol.output_mut(), cx)? {
                Poll::Pending => {
                    self.stalled.begin();
                    return Ok(busy);
                }
                Poll::Ready(n) => {
                    self.taken += n;
                    self.note_moved(n);
                }
            }
            if self.taken >= PROGRESS {
                self.taken = 0;
                self.stalled.end();
            }
            busy = true;
        }
        self.stalled.end();
        Ok(busy)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let Wants::Input(wanted) = self.protocol.wants(self.intake.bytes()) else { return Ok(false) };
        if self.hung_up || self.closing.is_some() {
            return Ok(false);
        }
        self.intake.make_room(wanted.saturating_sub(self.intake.bytes().len()).max(LEAST_ROOM));
        match pin!(self.stream.read_buf(self.intake.input())).poll(cx)? {
            Poll::Pending => return Ok(false),
            Poll::Ready(0) => self.hung_up = true,
            Poll::Ready(n) => self.note_moved(n),
        }
        Ok(true)
    }
}

impl<S> Drop for IscsiConnection<S> {
    fn drop(&mut self) {
        let under_way = self.protocol.under_way();
        Remains::leave(self.share.take(), under_way.into_iter(), &self.mailbox);
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Turns for IscsiConnection<S> {
    fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    fn stop(&self) -> Stop {
        self.stop
    }

    fn busy_poll(&mut self) -> &mut BusyPoll {
        &mut self.busy_poll
    }

    fn awaits_client(&self) -> bool {
        let is_free = self.protocol.in_flight() == 0 && self.protocol.output().is_empty();
        is_free && !self.protocol.is_logging_in() && self.protocol.lacks().is_none()
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        self.protocol.handle_time(self.now());
        let mut busy = self.take_letters();
        busy |= self.poll_lookup(cx);
        self.protocol.allow(self.share.allowance());
        if self.act() {
            // Operations that completed on the spot are answered in this very turn.
            self.take_letters();
            busy = true;
        }
        if self.deadline.is_some() && !self.protocol.is_logging_in() {
            self.settle_time();
        }
        self.session.note_in_flight(self.protocol.in_flight());
        busy |= self.poll_write(cx)?;
        if !busy {
            busy = self.poll_read(cx)?;
        }
        self.settle_memory();
        Ok(busy)
    }

    fn rest(&mut self, cx: &mut Context<'_>) -> Option<Ended> {
        if self.protocol.in_flight() == 0 {
            self.intake.rest();
        }
        let budget = &self.shared.budget;
        if self.stalled.is_over(cx, || budget.is_short() || budget.is_exceeded()) {
            return Some(Ended::Stalled);
        }
        if self.pace.is_over(cx, || budget.is_short()) {
            return Some(Ended::InTheWay);
        }
        if self.protocol.output().is_empty() {
            if let Some(reason) = self.closing.take() {
                return Some(Ended::IscsiClosed(reason));
            }
            if self.hung_up {
                return Some(Ended::HungUp);
            }
        }
        let protocol = self.protocol.next_deadline();
        let protocol = protocol.map(|at| self.began + Duration::from_nanos(at.nanos()));
        let next = [self.deadline, protocol].into_iter().flatten().min()?;
        if self.sleeps_until(next, cx) {
            return None;
        }
        if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Some(if self.stop == Stop::Drain { Ended::Stopped } else { Ended::TooSlow });
        }
        // The protocol's own time is up: another turn.
        cx.waker().wake_by_ref();
        None
    }
}

/// Without random numbers nobody may believe a response, so there is no going on.
fn challenge() -> Challenge {
    let mut bytes = [0; 33];
    if let Err(error) = getrandom::fill(&mut bytes) {
        tracing::error!(%error, "the system gives no random numbers; CHAP is not safe");
    }
    let [identifier, bytes @ ..] = bytes;
    Challenge { identifier, bytes }
}
