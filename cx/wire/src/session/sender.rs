//! The upper end: sends records, learns what is durable.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tap_block::units::count;
use tap_block::{Batch, Lsn, Monotonic};

use super::{KEEPALIVE, MAX_ASKS, MAX_QUERIES, SILENCE, SessionError};
use crate::codec::{MAX_ENTRIES, MAX_MESSAGE};
use crate::columns;
use crate::message::{
    Ack, Answer, Ask, AskCode, AskError, Goodbye, Heartbeat, Hello, LedgerHead, Lookup, Message, Query,
    QueryReply, Refuse, Welcome,
};

/// The upper end of a connection.
#[derive(Debug)]
pub struct Sender {
    state: State,
    outgoing: VecDeque<Message>,
    events: VecDeque<SenderEvent>,
    credit: u64,
    /// Weights of the batches sent and not acknowledged, in order.
    in_flight: VecDeque<u64>,
    in_flight_bytes: u64,
    acked: Ack,
    open_asks: usize,
    /// Bytes of hashes that each open query is to be answered with.
    queries: BTreeMap<u64, usize>,
    next_query: u64,
    heard: Monotonic,
    heartbeat_at: Monotonic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Greeting,
    Open,
    Over,
}

/// What the program above has to act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SenderEvent {
    /// The receiver takes the stream: send from behind `durable` on.
    Ready(Welcome),
    /// More is durable.
    Acked {
        /// Batches newly durable, in the order sent; may be 0 when only an LSN moved.
        batches: u64,
        /// The last record durable below.
        durable: Lsn,
        /// The last record durable at every gateway.
        everywhere: Lsn,
    },
    /// The head of the receiver's ledger, to be kept for it.
    Ledger(LedgerHead),
    /// The head of another ledger that is kept there.
    Witnessed(LedgerHead),
    /// A question to answer with [`Sender::answer`].
    Asked(Ask),
    /// The answer to a [`Sender::query`].
    Found(QueryReply),
    /// Call [`Sender::heartbeat`].
    HeartbeatDue,
    /// The receiver does not take the stream. Nothing follows.
    Refused(Refuse),
    /// The connection is of no more use, and why. Nothing follows.
    Lost(String),
}

const NOTHING: Ack =
    Ack { batches: 0, durable: Lsn::ZERO, everywhere: Lsn::ZERO, ledger: None, witnessed: None };

impl Sender {
    /// A connection that was just made.
    #[must_use]
    pub fn new(hello: Hello, now: Monotonic) -> Self {
        Self {
            state: State::Greeting,
            outgoing: VecDeque::from([Message::Hello(hello)]),
            events: VecDeque::new(),
            credit: 0,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            acked: NOTHING,
            open_asks: 0,
            queries: BTreeMap::new(),
            next_query: 1,
            heard: now,
            heartbeat_at: now,
        }
    }

    /// Takes a message of the receiver.
    ///
    /// # Errors
    /// The receiver broke the protocol: close the connection.
    pub fn handle_message(&mut self, message: Message, now: Monotonic) -> Result<(), SessionError> {
        self.heard = now;
        match (self.state, message) {
            (State::Over, _) => Ok(()),
            (_, Message::Refuse(refuse)) => {
                self.end(SenderEvent::Refused(refuse));
                Ok(())
            }
            (_, Message::Goodbye(goodbye)) => {
                self.end(SenderEvent::Lost(format!("the receiver left: {}", goodbye.reason)));
                Ok(())
            }
            (State::Greeting, Message::Welcome(welcome)) => {
                self.open(welcome, now);
                Ok(())
            }
            (State::Open, Message::Ack(ack)) => self.handle_ack(ack),
            (State::Open, Message::Ask(ask)) => self.handle_ask(ask),
            (State::Open, Message::QueryReply(reply)) => self.handle_reply(reply),
            (_, other) => Err(SessionError::Unexpected(other.kind())),
        }
    }

    fn open(&mut self, welcome: Welcome, now: Monotonic) {
        self.state = State::Open;
        self.credit = welcome.credit;
        self.acked.durable = welcome.durable;
        self.heartbeat_at = now;
        self.events.push_back(SenderEvent::Ready(welcome));
    }

    fn handle_ack(&mut self, ack: Ack) -> Result<(), SessionError> {
        let sent = self.acked.batches + count(self.in_flight.len());
        let batches = ack.batches.checked_sub(self.acked.batches).filter(|_| ack.batches <= sent);
        let batches = batches.ok_or(SessionError::Acknowledged { acked: ack.batches, sent })?;
        for _ in 0..batches {
            self.in_flight_bytes -= self.in_flight.pop_front().unwrap_or(0);
        }
        let before = self.acked;
        self.acked = Ack {
            batches: ack.batches,
            durable: before.durable.max(ack.durable),
            everywhere: before.everywhere.max(ack.everywhere),
            ledger: None,
            witnessed: None,
        };
        if let Some(head) = ack.ledger {
            self.events.push_back(SenderEvent::Ledger(head));
        }
        if let Some(head) = ack.witnessed {
            self.events.push_back(SenderEvent::Witnessed(head));
        }
        if self.acked != before {
            let Ack { durable, everywhere, .. } = self.acked;
            self.events.push_back(SenderEvent::Acked { batches, durable, everywhere });
        }
        Ok(())
    }

    fn handle_ask(&mut self, ask: Ask) -> Result<(), SessionError> {
        if self.open_asks == MAX_ASKS {
            return Err(SessionError::TooManyAsks);
        }
        self.open_asks += 1;
        self.events.push_back(SenderEvent::Asked(ask));
        Ok(())
    }

    fn handle_reply(&mut self, reply: QueryReply) -> Result<(), SessionError> {
        let due = self.queries.remove(&reply.id);
        let fits = |due: usize| reply.result.as_ref().map_or(true, |found| found.hashes.len() == due);
        if !due.is_some_and(fits) {
            return Err(SessionError::NotQueried(reply.id));
        }
        self.events.push_back(SenderEvent::Found(reply));
        Ok(())
    }

    /// Asks the receiver what a stretch looks like there; the answer comes as [`SenderEvent::Found`] with the id
    /// returned.
    ///
    /// # Errors
    /// There is no session, or too many queries are open.
    pub fn query(&mut self, lookup: Lookup) -> Result<u64, AskError> {
        if self.state != State::Open {
            let detail = "the connection to the receiver is down: check that it runs, then try again";
            return Err(AskError::new(AskCode::NotReachable, detail));
        }
        if self.queries.len() >= MAX_QUERIES {
            let detail = format!("{MAX_QUERIES} queries to this receiver are open already: try again later");
            return Err(AskError::new(AskCode::Timeout, detail));
        }
        let id = self.next_query;
        self.next_query += 1;
        self.queries.insert(id, lookup.hash_bytes());
        self.outgoing.push_back(Message::Query(Query { id, lookup }));
        Ok(id)
    }

    /// Bytes came in that are no whole message yet: a slow line is not a silent peer.
    pub const fn handle_bytes(&mut self, now: Monotonic) {
        self.heard = now;
    }

    /// Lets time pass; call it when [`Sender::poll_timeout`] is reached.
    pub fn handle_timeout(&mut self, now: Monotonic) {
        if self.state == State::Over {
            return;
        }
        if now.since(self.heard) >= SILENCE {
            let why = format!("the receiver said nothing for {} s", SILENCE.as_secs());
            return self.end(SenderEvent::Lost(why));
        }
        if self.state == State::Open && now >= self.heartbeat_at {
            self.heartbeat_at = now.plus(KEEPALIVE);
            self.events.push_back(SenderEvent::HeartbeatDue);
        }
    }

    /// When to call [`Sender::handle_timeout`] next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Monotonic> {
        let silent = self.heard.plus(SILENCE);
        match self.state {
            State::Greeting => Some(silent),
            State::Open => Some(silent.min(self.heartbeat_at)),
            State::Over => None,
        }
    }

    /// The next message to put on the wire.
    pub fn poll_message(&mut self) -> Option<Message> {
        self.outgoing.pop_front()
    }

    /// Is a message waiting to be polled?
    #[must_use]
    pub fn has_message(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// The next event to act on.
    pub fn poll_event(&mut self) -> Option<SenderEvent> {
        self.events.pop_front()
    }

    /// May a batch of this weight be sent now? One always may when nothing is in flight, however heavy.
    #[must_use]
    pub fn can_send(&self, weight: u64) -> bool {
        let fits = self.in_flight_bytes.saturating_add(weight) <= self.credit;
        self.state == State::Open && (fits || self.in_flight.is_empty())
    }

    /// Sends a batch; ask [`Sender::can_send`] first.
    ///
    /// # Errors
    /// It breaks the rules of batches, is too big for any message, or must not be sent now.
    pub fn send(&mut self, batch: Arc<Batch>) -> Result<(), SessionError> {
        let weight = batch.weight();
        columns::check(&batch)?;
        if !fits_a_message(&batch) {
            return Err(SessionError::TooBig { weight });
        }
        if !self.can_send(weight) {
            return Err(SessionError::Credit { outstanding: self.in_flight_bytes, credit: self.credit });
        }
        self.in_flight.push_back(weight);
        self.in_flight_bytes += weight;
        self.outgoing.push_back(Message::Data(batch));
        Ok(())
    }

    /// Says where the stream stands.
    pub fn heartbeat(&mut self, heartbeat: Heartbeat) {
        match self.outgoing.back_mut() {
            _ if self.state != State::Open => {}
            // Only the newest counts; a peer that does not read gathers no queue of them.
            Some(Message::Heartbeat(unsent)) => *unsent = heartbeat,
            _ => self.outgoing.push_back(Message::Heartbeat(heartbeat)),
        }
    }

    /// Answers a question.
    pub fn answer(&mut self, answer: Answer) {
        if self.state == State::Open {
            self.open_asks = self.open_asks.saturating_sub(1);
            self.outgoing.push_back(Message::Answer(answer));
        }
    }

    /// Leaves on purpose: the last message to poll is the goodbye.
    pub fn leave(&mut self, reason: impl Into<String>) {
        if self.state != State::Over {
            self.state = State::Over;
            self.outgoing.push_back(Message::Goodbye(Goodbye { reason: reason.into() }));
        }
    }

    fn end(&mut self, event: SenderEvent) {
        self.state = State::Over;
        self.outgoing.clear();
        self.events.push_back(event);
    }
}

/// Bytes a record takes outside the body at most, markers' texts apart.
const ENTRY_BYTES: usize = 64;
/// Room for the header and the texts of a few markers.
const SLACK: usize = 64 << 10;

fn fits_a_message(batch: &Batch) -> bool {
    let bytes = batch.body.len() + batch.lens.len() * 3 + batch.entries.len() * ENTRY_BYTES + SLACK;
    batch.entries.len() <= MAX_ENTRIES && bytes <= MAX_MESSAGE
}
