//! One connection: moves bytes between a socket and the protocol's state machine, operations between that
//! and a device, [turn by turn](crate::turn).

use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut as _, BytesMut};
use gateway_nbd::{Action, CloseReason, ExportInfo, ListEntry, Refusal, Server, Tag, Tls, Wants};
use tap_block::units::count;
use tap_block::{Answer, Answered, BlockDevice, DeviceError, Name, Op, Ticket};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep};

use crate::access::Access;
use crate::budget::Share;
use crate::busy_poll::BusyPoll;
use crate::channel::Channel;
use crate::ended::Ended;
use crate::exports::{ClientId, Export, Exports, OpenError};
use crate::front::{Limits, Place, Shared};
use crate::landing::{Begun, Doubt, Shore};
use crate::mailbox::{Mailbox, Stop};
use crate::pace::Pace;
use crate::patience::Patience;
use crate::remains::Remains;
use crate::sessions::Session;
use crate::tls::Security;
use crate::turn::{LEAST_ROOM, Turns, batch, linger, poll_write};

/// The receive buffer, as long as no larger request comes.
const RECEIVE: usize = 256 << 10;
/// A buffer that grew beyond this for one request is given back after it.
const KEPT: usize = 2 << 20;
/// So many requests one at a time show a client that sends one at a time.
const ALONE_AT_LEAST: u32 = 8;
/// What is still read of a client when the front stops: what it has sent already, but no endless stream.
const LAST_INPUT: usize = 1 << 20;
/// A client gets on with it when it takes so much of what waits for it, or all.
pub(crate) const PROGRESS: usize = 64 << 10;

/// How long a client that opens an export waits for the writes that are under way there.
const BARRED: Duration = Duration::from_secs(10);
/// How often it is asked meanwhile whether it is still there, should it have sent more than is read until then.
const LOOK: Duration = Duration::from_secs(1);
/// The tag of the ticket by which it hears that they are over; no request has it.
const OVER: u64 = u64::MAX;

/// A client's connection.
pub(crate) struct Connection<S> {
    stream: Channel<S>,
    server: Server,
    input: BytesMut,
    has_large_buffer: bool,
    mailbox: Arc<Mailbox>,
    busy_poll: BusyPoll,
    done: Vec<(u64, Answered)>,
    /// Asked for in this turn, for the device.
    asked: Vec<(Op, Ticket)>,
    exports: Arc<dyn Exports>,
    shared: Arc<Shared>,
    security: Arc<Security>,
    session: Arc<Session>,
    client: ClientId,
    access: Access,
    limits: Limits,
    /// So many requests in a row came while there was no other.
    alone: u32,
    /// TLS begins when what waits to be written is written.
    starting_tls: bool,
    /// What was written may still lie in the buffers of TLS.
    unflushed: bool,
    /// For a client that takes no reply.
    stalled: Patience,
    /// What it has taken meanwhile.
    taken: usize,
    /// Its part of the memory for requests and replies.
    share: Share,
    /// For a client that others wait for, since it holds more than its minimum and is slow.
    pace: Pace,
    /// For a client that asks for nothing.
    idle: Option<Patience>,
    lookup: Option<Lookup>,
    opened: Option<Opened>,
    entry: Entry,
    /// Its writes, as others see them.
    shore: Option<Arc<Shore>>,
    /// The doubt in which it was asked last whether it is still there.
    asked_in: Option<Doubt>,
    /// For the handshake and for the last bytes of a connection that is being closed.
    deadline: Option<Pin<Box<Sleep>>>,
    closing: Option<CloseReason>,
    /// Bytes that may still be read; `None` while there is no end in sight.
    input_left: Option<usize>,
    stop: Stop,
    /// The front stops, and what the client had sent before is read: what comes now is refused.
    heard: bool,
}

/// Is the export open to the client's requests?
enum Entry {
    /// It has not made any.
    Outside,
    /// They wait for the writes of others, until then at most.
    Barred {
        until: Instant,
        look: Pin<Box<Sleep>>,
    },
    Inside,
}

/// An export looked up, with what the client was told of it.
struct Opened {
    asked: String,
    export: Export,
    info: ExportInfo,
}

/// A question to [`Exports`] under way on another thread.
enum Lookup {
    List(JoinHandle<Vec<ListEntry>>),
    Open { asked: String, answer: JoinHandle<Result<(Export, ExportInfo), OpenError>> },
    Bookmarks(JoinHandle<Vec<Name>>),
}

impl<S: AsyncRead + AsyncWrite + AsFd + Unpin> Connection<S> {
    pub(crate) fn new(
        stream: S,
        client: ClientId,
        tls: Tls,
        exports: Arc<dyn Exports>,
        place: &Place,
    ) -> Self {
        let Place { shared, session } = place;
        let (limits, security) = (shared.limits, shared.security());
        // At a listener without TLS whoever can connect is trusted.
        let access = if tls == Tls::Off { Access::all() } else { security.clients.access_of_unknown() };
        let share = Share::new(&shared.budget, session.id, &session.mailbox, std::time::Instant::now());
        Self {
            stream: Channel::Open(stream),
            server: Server::with_tls(limits.protocol, tls),
            input: BytesMut::with_capacity(RECEIVE),
            has_large_buffer: false,
            mailbox: Arc::clone(&session.mailbox),
            busy_poll: BusyPoll::new(),
            done: Vec::new(),
            asked: Vec::new(),
            exports,
            shared: Arc::clone(shared),
            security,
            session: Arc::clone(session),
            client,
            access,
            limits,
            alone: 0,
            starting_tls: false,
            unflushed: false,
            stalled: Patience::new(limits.stall).or_less(limits.stall_in_need),
            taken: 0,
            share,
            pace: Pace::new(limits.stall_in_need),
            idle: limits.idle.map(Patience::new),
            lookup: None,
            opened: None,
            entry: Entry::Outside,
            shore: None,
            asked_in: None,
            deadline: None,
            closing: None,
            input_left: None,
            stop: Stop::Run,
            heard: false,
        }
    }

    /// Serves the client until either side ends it.
    pub(crate) async fn serve(mut self) -> Ended {
        self.limit_time();
        let ended = std::future::poll_fn(|cx| self.poll(cx)).await;
        let in_order = matches!(ended, Ended::Stopped) || self.stream.is_secure() && ended.is_mutual();
        if in_order && self.stop != Stop::Abort {
            linger(&mut self.stream, &mut self.input).await;
        }
        ended
    }

    fn take_letters(&mut self) -> bool {
        let stop = self.mailbox.take(&mut self.done);
        let busy = !self.done.is_empty() || stop != self.stop;
        for (tag, answered) in self.done.drain(..) {
            if tag == OVER {
                self.entry = Entry::Inside;
                continue;
            }
            self.session.count_read(answered.as_ref().map_or(0, Answer::length));
            self.server.handle_completion(Tag::new(tag), answered);
        }
        if stop != self.stop {
            self.stop = stop;
            let last = if self.lookup.is_some() || self.starting_tls { 0 } else { LAST_INPUT };
            self.input_left = Some(self.input_left.unwrap_or(last));
            if self.server.is_handshaking() {
                self.server.begin_shutdown();
            }
        }
        busy
    }

    /// Starts requests until the batch is full or there are no more; was there any?
    fn act(&mut self, cx: &mut Context<'_>) -> bool {
        let any = batch(|| {
            if self.closing.is_some() || !self.may_enter() {
                return None;
            }
            let action = match self.server.poll_action(&mut self.input) {
                None if self.borrow() => self.server.poll_action(&mut self.input),
                action => action,
            };
            Some(self.perform(action?, cx))
        });
        if let Some(opened) = &self.opened {
            opened.export.device.submit_all(&mut self.asked);
        }
        any
    }

    /// May requests be looked at? Before the first one the writes have to be over that were under way when it came.
    fn may_enter(&mut self) -> bool {
        let is_outside = matches!(self.entry, Entry::Outside) && !self.server.is_handshaking();
        if let Some(opened) = self.opened.as_ref().filter(|_| is_outside) {
            self.entry = Entry::Inside;
            if !opened.info.geometry.read_only {
                let over = Ticket::new(OVER, self.mailbox.clone());
                self.shore = Some(self.shared.shores.open(&opened.export.name, over));
                let look = Box::pin(tokio::time::sleep(LOOK));
                self.entry = Entry::Barred { until: Instant::now() + BARRED, look };
            }
        }
        !self.is_barred()
    }

    const fn is_barred(&self) -> bool {
        matches!(self.entry, Entry::Barred { .. })
    }

    /// While they are not over: is the client gone? And after so long it is no use to wait any longer.
    fn keeps_waiting(&mut self, cx: &mut Context<'_>) -> Option<Ended> {
        let Entry::Barred { until, look } = &mut self.entry else { return None };
        let now = Instant::now();
        while look.as_mut().poll(cx).is_ready() {
            if self.stream.has_hung_up() {
                return Some(Ended::HungUp);
            }
            if *until <= now {
                self.give_up_waiting();
                cx.waker().wake_by_ref();
                return None;
            }
            look.as_mut().reset(now + LOOK);
        }
        None
    }

    fn give_up_waiting(&mut self) {
        let export = self.opened.as_ref().map_or("", |opened| &opened.export.name);
        tracing::warn!(
            export,
            client = self.session.peer(),
            "writes of other connections are not over after {BARRED:?}: this client's may be done before them; look what keeps the disk"
        );
        self.entry = Entry::Inside;
    }

    /// Asks for memory for a request that waits for it; is there enough?
    fn borrow(&mut self) -> bool {
        let Some(total) = self.server.lacks() else { return false };
        let (held, spare) = (self.server.held(), self.spare());
        let lent = self.share.ask(held + spare, total.saturating_add(spare), std::time::Instant::now());
        if lent {
            self.allow();
        }
        lent
    }

    /// What it may hold is for requests and replies, but for what an input buffer takes that has grown.
    fn allow(&mut self) {
        self.server.allow(self.share.allowance().saturating_sub(self.spare()));
    }

    /// Bytes of the input buffer that are for no request.
    fn spare(&self) -> u64 {
        count(self.input.capacity().saturating_sub(RECEIVE)).saturating_sub(self.server.incoming())
    }

    /// What is held no more can be lent to others, and who holds much has to get on with it.
    fn settle_memory(&mut self) {
        let is_large = self.input.capacity() > RECEIVE && self.input.len() <= RECEIVE;
        if is_large && self.server.incoming() == 0 && self.shared.budget.is_short() {
            let large = std::mem::replace(&mut self.input, BytesMut::with_capacity(RECEIVE));
            self.input.extend_from_slice(&large);
            self.has_large_buffer = false;
        }
        let held = self.server.held() + self.spare();
        if self.server.lacks().is_none() {
            self.share.keep(held);
        }
        self.shared.sessions.note_held(&self.session, held);
        self.keep_time(held);
    }

    /// Times a client that holds more than its minimum, as long as it is the one that is waited for.
    fn keep_time(&mut self, held: u64) {
        let has_output = !self.server.output().is_empty() || self.unflushed;
        if !self.share.is_borrowing() || !has_output && self.server.incoming() == 0 {
            return self.pace.rest();
        }
        self.pace.keep(held, &self.limits);
    }

    fn note_moved(&mut self, bytes: usize) {
        self.share.earn(bytes);
        self.pace.note_moved(bytes);
    }

    /// Does what the protocol asks for; how much payload it moves.
    fn perform(&mut self, action: Action, cx: &mut Context<'_>) -> u64 {
        match action {
            Action::Submit { tag, op } => return self.submit(tag, op, cx),
            Action::Resolve { name } => self.resolve(name),
            Action::List => self.list(),
            Action::StartTls => self.starting_tls = true,
            Action::Bookmarks { named, newest } => self.look_for_bookmarks(named, newest),
            Action::Close(reason) => {
                self.closing = Some(reason);
                self.limit_time();
            }
        }
        0
    }

    fn submit(&mut self, tag: Tag, op: Op, cx: &mut Context<'_>) -> u64 {
        let (bytes, written) = match &op {
            Op::Read { extent } => (extent.length(), 0),
            Op::Write { data, .. } => (count(data.len()), count(data.len())),
            _ => (0, 0),
        };
        self.session.count_request(written);
        if let Some(idle) = &mut self.idle {
            idle.end();
        }
        let is_alone = self.is_alone();
        let Some(opened) = &self.opened else { return bytes };
        let device = &opened.export.device;
        let changes = matches!(op, Op::Write { .. } | Op::Zero { .. } | Op::Trim { .. });
        let Begun { queue, doubt } = match self.shore.as_ref().filter(|_| changes) {
            Some(shore) => shore.begin(self.mailbox.clone(), device),
            None => Begun { queue: self.mailbox.clone(), doubt: None },
        };
        let ticket = Ticket::new(tag.get(), queue);
        if doubt.is_some_and(|doubt| self.is_gone(doubt, cx)) {
            // It may be here again, with newer writes.
            self.server.begin_shutdown();
            ticket.complete(Err(DeviceError::Stopped));
        } else {
            self.asked.push((op, if is_alone { ticket.alone() } else { ticket }));
        }
        bytes
    }

    /// Has the client hung up? That is told behind all that it has sent, but who is gone does not take a reply either, and says so.
    fn is_gone(&mut self, doubt: Doubt, cx: &mut Context<'_>) -> bool {
        self.asked_in = Some(doubt);
        self.poll_write(cx).is_err() || self.stream.has_hung_up()
    }

    /// Nothing more has come: then a client that was in doubt, has been asked and is still there is to be trusted.
    fn note_quiet(&self) {
        let doubt = self.shore.as_ref().and_then(|shore| Some((shore, shore.doubt()?)));
        if let Some((shore, doubt)) = doubt
            && self.asked_in == Some(doubt)
            && self.input.is_empty()
            && self.stream.is_quiet()
        {
            shore.trust(doubt);
        }
    }

    /// Does the client send one request at a time, and is this the one? Then this thread may wait for it: there is nothing else
    /// that it could do. It takes some of them in a row, as each of many may happen to be the first.
    fn is_alone(&mut self) -> bool {
        let alone = self.server.in_flight() <= 1 && self.input.is_empty() && self.server.output().is_empty();
        self.alone = if alone { self.alone.saturating_add(1) } else { 0 };
        self.alone > ALONE_AT_LEAST
    }

    /// Begins TLS when it is time, and sees it through.
    fn poll_tls(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        if !self.starting_tls || !self.server.output().is_empty() {
            return Ok(false);
        }
        if let (Channel::Open(_), Some(acceptor)) = (&self.stream, self.security.acceptor()) {
            self.stream.start(&acceptor);
        }
        let secured = match self.stream.poll_start(cx) {
            Poll::Pending => return Ok(false),
            Poll::Ready(secured) => secured.map_err(Ended::Tls)?,
        };
        // Whatever the client was told in the open, it may not be the same client.
        (self.starting_tls, self.opened) = (false, None);
        if let Some(names) = &secured.names {
            self.access = self.security.clients.access_of(names);
        }
        if let Some(client) = self.session.note_tls(&secured) {
            self.client = client;
        }
        self.server.handle_tls_started();
        Ok(true)
    }

    fn list(&mut self) {
        if self.session.one_too_many {
            return self.server.handle_list(&[]);
        }
        let (exports, access) = (self.exports.clone(), self.access.clone());
        self.deadline = None;
        self.lookup = Some(Lookup::List(tokio::task::spawn_blocking(move || {
            let entries = exports.list(&access).into_iter();
            entries.map(|e| ListEntry { name: e.name, description: e.description }).collect()
        })));
    }

    /// What a client is told that may not open anything, or not this.
    fn refusal_of(&self, name: &str) -> Option<String> {
        let limit = self.limits.connections;
        if self.session.one_too_many {
            return Some(format!(
                "there are {limit} connections already, which is the limit: try again when one has ended"
            ));
        }
        // Which export the empty name means is known later.
        (!name.is_empty() && !self.access.allows(name)).then(|| not_for(&self.client, name))
    }

    fn resolve(&mut self, name: String) {
        if let Some(text) = self.refusal_of(&name) {
            return self.server.handle_resolved(Err(Refusal::Policy(text)));
        }
        // `NBD_OPT_GO` right after `NBD_OPT_INFO` must be told the same, so the export is kept.
        if let Some(opened) = self.opened.as_ref().filter(|opened| opened.asked == name) {
            self.server.handle_resolved(Ok(opened.info.clone()));
            return self.settle_time();
        }
        let (exports, client, asked) = (self.exports.clone(), self.client.clone(), name.clone());
        let access = self.access.clone();
        self.deadline = None;
        let answer = tokio::task::spawn_blocking(move || {
            let export = exports.open(&name, &client)?;
            if name.is_empty() && !access.allows(&export.name) {
                return Err(OpenError::Refused(not_for(&client, "the default export")));
            }
            let info = ExportInfo {
                name: export.name.clone(),
                description: export.description.clone(),
                geometry: export.device.geometry(),
            };
            Ok((export, info))
        });
        self.lookup = Some(Lookup::Open { asked, answer });
    }

    fn look_for_bookmarks(&mut self, named: Vec<Name>, newest: usize) {
        let Some(device) = self.opened.as_ref().map(|opened| Arc::clone(&opened.export.device)) else {
            return self.server.handle_bookmarks(&[]);
        };
        self.deadline = None;
        let found = tokio::task::spawn_blocking(move || bookmarks_of(&*device, named, newest));
        self.lookup = Some(Lookup::Bookmarks(found));
    }

    fn poll_lookup(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.lookup {
            None => return false,
            Some(Lookup::List(answer)) => match Pin::new(answer).poll(cx) {
                Poll::Pending => return false,
                Poll::Ready(entries) => self.server.handle_list(&entries.unwrap_or_default()),
            },
            Some(Lookup::Bookmarks(answer)) => match Pin::new(answer).poll(cx) {
                Poll::Pending => return false,
                Poll::Ready(found) => self.server.handle_bookmarks(&found.unwrap_or_default()),
            },
            Some(Lookup::Open { asked, answer }) => match Pin::new(answer).poll(cx) {
                Poll::Pending => return false,
                Poll::Ready(Ok(Ok((export, info)))) => {
                    let opened = Opened { asked: std::mem::take(asked), export, info };
                    self.lookup = None;
                    self.take_up(opened);
                }
                Poll::Ready(Ok(Err(error))) => self.server.handle_resolved(Err(refusal(error))),
                Poll::Ready(Err(_)) => {
                    let text = "opening the export failed inside the server; see its log";
                    self.server.handle_resolved(Err(Refusal::Policy(text.to_owned())));
                }
            },
        }
        self.lookup = None;
        self.settle_time();
        true
    }

    /// The client has its export, if there is a place left at it.
    fn take_up(&mut self, opened: Opened) {
        let name = &opened.export.name;
        match self.shared.sessions.open(&self.session, name, &self.limits) {
            Ok(()) => {
                self.server.handle_resolved(Ok(opened.info.clone()));
                self.opened = Some(opened);
            }
            Err(others) => {
                let text = format!(
                    "{name} has {others} connections already, which is the limit: try again when one has ended"
                );
                self.server.handle_resolved(Err(Refusal::Policy(text)));
            }
        }
    }

    /// Has the client asked for nothing, for too long?
    fn has_idled(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(idle) = &mut self.idle else { return false };
        if self.server.in_flight() > 0 || self.server.lacks().is_some() {
            idle.end();
            return false;
        }
        idle.begin();
        idle.is_over(cx, || false)
    }

    /// After a lookup, which was not the client's time: a fresh limit for a handshake that goes on.
    fn settle_time(&mut self) {
        if self.server.is_handshaking() {
            self.limit_time();
        } else {
            self.deadline = None;
        }
    }

    fn limit_time(&mut self) {
        let end = Instant::now() + self.limits.handshake;
        self.deadline = Some(Box::pin(tokio::time::sleep_until(end)));
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut busy = false;
        while !self.server.output().is_empty() {
            match poll_write(&mut self.stream, self.server.output_mut(), cx)? {
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
            (busy, self.unflushed) = (true, self.stream.is_secure());
        }
        if !self.unflushed {
            self.stalled.end();
        }
        self.poll_flush(cx)?;
        Ok(busy)
    }

    /// TLS takes bytes that it has not written yet.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(cx)? {
                Poll::Pending => self.stalled.begin(),
                Poll::Ready(()) => {
                    self.stalled.end();
                    self.unflushed = false;
                }
            }
        }
        Ok(())
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let Some(wanted) = self.wanted() else { return Ok(false) };
        if self.input_left == Some(0) || self.closing.is_some() {
            return Ok(false);
        }
        self.make_room(wanted);
        // However large the buffer has become: no more than one that fits into the usual one comes behind what is waited for.
        let most = wanted.max(RECEIVE).saturating_sub(self.input.len()).max(1);
        match pin!(self.stream.read_buf(&mut (&mut self.input).limit(most))).poll(cx)? {
            Poll::Pending if self.stop == Stop::Run || self.heard || !self.is_heard_out() => {
                self.note_quiet();
                return Ok(false);
            }
            // When the front stops, a client that has sent nothing more has been heard to the end. What it asks for while
            // something is still under way is answered "shutting down".
            Poll::Pending => {
                self.heard = true;
                self.server.begin_shutdown();
            }
            Poll::Ready(0) => self.input_left = Some(0),
            Poll::Ready(n) => {
                self.note_moved(n);
                self.input_left = self.input_left.map(|left| left.saturating_sub(n));
            }
        }
        Ok(true)
    }

    /// How much input is of use, in all. A client that may not enter yet is read as far as the usual buffer goes: it may have hung
    /// up, or have sent nothing when the front stops.
    fn wanted(&self) -> Option<usize> {
        if self.is_barred() {
            return (self.input.len() + LEAST_ROOM <= RECEIVE).then_some(0);
        }
        match self.server.wants(&self.input) {
            Wants::Input(wanted) => Some(wanted),
            Wants::Nothing => None,
        }
    }

    /// Was all looked at that it has sent? What has come since the socket was read last is not known to be there yet.
    fn is_heard_out(&self) -> bool {
        (self.input.is_empty() || !self.is_barred()) && self.stream.is_quiet()
    }

    /// Room for a message of `wanted` bytes in all, and for a worthwhile read in any case.
    fn make_room(&mut self, wanted: usize) {
        if self.has_large_buffer && self.input.is_empty() && wanted <= RECEIVE {
            self.input = BytesMut::with_capacity(RECEIVE);
            self.has_large_buffer = false;
        }
        let there = self.input.len();
        let missing = wanted.saturating_sub(there).max(LEAST_ROOM);
        if self.input.capacity() - there < missing {
            self.input.reserve(wanted.max(RECEIVE).saturating_sub(there).max(missing));
            self.has_large_buffer |= wanted > KEPT;
        }
    }
}

impl<S> Drop for Connection<S> {
    fn drop(&mut self) {
        let under_way = self.server.under_way().map(|(tag, bytes)| (tag.get(), bytes));
        Remains::leave(self.share.take(), under_way, &self.mailbox);
    }
}

impl<S: AsyncRead + AsyncWrite + AsFd + Unpin> Turns for Connection<S> {
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
        let is_free = self.server.in_flight() == 0 && self.server.output().is_empty();
        is_free && matches!(self.entry, Entry::Inside) && self.server.lacks().is_none()
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        let mut busy = self.take_letters();
        busy |= self.poll_lookup(cx);
        busy |= self.poll_tls(cx)?;
        self.allow();
        if self.act(cx) {
            // Operations that completed on the spot are answered in this very turn.
            self.take_letters();
            busy = true;
        }
        busy |= self.poll_write(cx)?;
        if !busy {
            busy = self.poll_read(cx)?;
        }
        self.session.note_in_flight(self.server.in_flight());
        self.settle_memory();
        Ok(busy)
    }

    fn rest(&mut self, cx: &mut Context<'_>) -> Option<Ended> {
        let budget = &self.shared.budget;
        if self.stalled.is_over(cx, || budget.is_short()) {
            return Some(Ended::Stalled);
        }
        if self.pace.is_over(cx, || budget.is_short()) {
            return Some(Ended::InTheWay);
        }
        if let Some(ended) = self.keeps_waiting(cx) {
            return Some(ended);
        }
        if self.server.in_flight() == 0 && self.server.output().is_empty() && !self.unflushed {
            if let Some(reason) = self.closing.take() {
                return Some(Ended::Closed(reason));
            }
            if self.input_left == Some(0) || self.heard {
                return Some(if self.stop == Stop::Drain { Ended::Stopped } else { Ended::HungUp });
            }
        }
        if let Some(timer) = &mut self.deadline {
            return timer.as_mut().poll(cx).is_ready().then_some(Ended::TooSlow);
        }
        self.has_idled(cx).then_some(Ended::Idle)
    }
}

/// Whether there is such an export is not said.
fn not_for(client: &ClientId, name: &str) -> String {
    format!("{client} may not open {name} here: ask whoever keeps this server's list of clients")
}

fn bookmarks_of(device: &dyn BlockDevice, named: Vec<Name>, newest: usize) -> Vec<Name> {
    let mut found = if newest > 0 { device.newest_bookmarks(newest) } else { Vec::new() };
    found.extend(named.into_iter().filter(|name| device.has_bookmark(name)));
    found
}

fn refusal(error: OpenError) -> Refusal {
    match error {
        OpenError::NotFound(text) => Refusal::Unknown(text),
        OpenError::Refused(text) => Refusal::Policy(text),
    }
}
