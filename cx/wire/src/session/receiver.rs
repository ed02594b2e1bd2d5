//! The lower end: takes records, says what is durable.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use tap_block::{Batch, Lsn, Monotonic, RunId, StreamId};

use super::tail::{Tail, Verdict};
use super::{KEEPALIVE, MAX_ASKS, MAX_QUERIES, SILENCE, SessionError};
use crate::columns;
use crate::message::{
    Ack, Answer, Ask, AskCode, AskError, Goodbye, Heartbeat, Hello, LedgerHead, Message, PROTOCOL, Query,
    QueryReply, Question, Refuse, RefuseCode, Welcome,
};

/// The lower end of a connection.
#[derive(Debug)]
pub struct Receiver {
    state: State,
    outgoing: VecDeque<Message>,
    events: VecDeque<ReceiverEvent>,
    /// Batches received and not acknowledged, in order. The first has the number `ack.batches`.
    slots: VecDeque<Slot>,
    outstanding: u64,
    credit: u64,
    /// What the next acknowledgement says.
    ack: Ack,
    /// What the last one said.
    said: Ack,
    ack_at: Monotonic,
    /// It is time for a sign of life.
    ack_due: bool,
    asks: BTreeSet<u64>,
    next_ask: u64,
    /// Queries that wait for their answer.
    queries: BTreeSet<u64>,
    heard: Monotonic,
}

#[derive(Debug)]
enum State {
    Greeting,
    Opening(StreamId),
    Open(StreamId, Tail),
    Over,
}

#[derive(Debug)]
struct Slot {
    weight: u64,
    progress: Progress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// With the program below.
    Given,
    /// A repetition: durable as soon as its last record is.
    Repeated(Lsn),
    Durable,
}

/// Records that were handed over: everything of `run` up to `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    /// The run.
    pub run: RunId,
    /// Its last record handed over.
    pub last: Lsn,
}

/// What the program below has to act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReceiverEvent {
    /// A sender wants to deliver: answer with [`Receiver::accept`] or [`Receiver::refuse`].
    Opened(Hello),
    /// Records; call [`Receiver::finished`] with the number once they are durable.
    Batch {
        /// Counts every batch of this connection, from 0; repetitions have numbers too but no events.
        number: u64,
        /// Valid, in order, without records that came before.
        batch: Arc<Batch>,
    },
    /// Where the stream stands above.
    Heartbeat(Heartbeat),
    /// An answer to [`Receiver::ask`].
    Answered(Answer),
    /// A query to answer with [`Receiver::reply`].
    Queried(Query),
    /// The connection is of no more use, and why. Nothing follows.
    Closed(String),
}

const NOTHING: Ack =
    Ack { batches: 0, durable: Lsn::ZERO, everywhere: Lsn::ZERO, ledger: None, witnessed: None };

impl Receiver {
    /// A connection that was just taken.
    #[must_use]
    pub const fn new(now: Monotonic) -> Self {
        Self {
            state: State::Greeting,
            outgoing: VecDeque::new(),
            events: VecDeque::new(),
            slots: VecDeque::new(),
            outstanding: 0,
            credit: 0,
            ack: NOTHING,
            said: NOTHING,
            ack_at: now,
            ack_due: false,
            asks: BTreeSet::new(),
            next_ask: 1,
            queries: BTreeSet::new(),
            heard: now,
        }
    }

    /// Takes a message of the sender.
    ///
    /// # Errors
    /// The sender broke the protocol or contradicts history. The refusal that tells it is in the messages to poll;
    /// send them, then close the connection.
    pub fn handle_message(&mut self, message: Message, now: Monotonic) -> Result<(), SessionError> {
        self.heard = now;
        let handled = match (&self.state, message) {
            (State::Over, _) => Ok(()),
            (_, Message::Goodbye(goodbye)) => {
                self.end(format!("the sender left: {}", goodbye.reason));
                Ok(())
            }
            (State::Greeting, Message::Hello(hello)) => {
                self.handle_hello(hello);
                Ok(())
            }
            (State::Open(..), Message::Data(batch)) => self.handle_batch(batch),
            (State::Open(..), Message::Heartbeat(heartbeat)) => {
                self.events.push_back(ReceiverEvent::Heartbeat(heartbeat));
                Ok(())
            }
            (State::Open(..), Message::Answer(answer)) => self.handle_answer(answer),
            (State::Open(..), Message::Query(query)) => self.handle_query(query),
            (_, other) => Err(SessionError::Unexpected(other.kind())),
        };
        if let Err(error) = &handled {
            self.refuse(Refuse { code: code_of(error), detail: error.to_string() });
        }
        handled
    }

    fn handle_hello(&mut self, hello: Hello) {
        if hello.protocol != PROTOCOL {
            let detail = format!(
                "the sender speaks protocol {}, this program {PROTOCOL}: run the same version on both sides",
                hello.protocol
            );
            self.refuse(Refuse { code: RefuseCode::Protocol, detail });
            return self.events.push_back(ReceiverEvent::Closed("another protocol version".to_owned()));
        }
        self.state = State::Opening(hello.stream);
        self.events.push_back(ReceiverEvent::Opened(hello));
    }

    /// Takes the stream. `given`: what the program below was handed over earlier connections beyond
    /// `welcome.durable` and still holds, oldest run first; it is not handed over again.
    pub fn accept(&mut self, welcome: Welcome, given: Vec<Given>, now: Monotonic) {
        let State::Opening(stream) = self.state else { return };
        let durable = welcome.durable_run.map(|run| Given { run, last: welcome.durable });
        let mut tail = Tail::new(durable, given);
        tail.set_unknown_run(welcome.durable);
        self.state = State::Open(stream, tail);
        self.credit = welcome.credit;
        self.ack.durable = welcome.durable;
        self.said.durable = welcome.durable;
        (self.heard, self.ack_at) = (now, now.plus(KEEPALIVE));
        self.outgoing.push_back(Message::Welcome(welcome));
    }

    /// Refuses the stream, at once or later.
    pub fn refuse(&mut self, refuse: Refuse) {
        if !matches!(self.state, State::Over) {
            self.state = State::Over;
            self.outgoing.push_back(Message::Refuse(refuse));
        }
    }

    /// Leaves on purpose: the last message to poll is the goodbye.
    pub fn leave(&mut self, reason: impl Into<String>) {
        if !matches!(self.state, State::Over) {
            self.state = State::Over;
            self.outgoing.push_back(Message::Goodbye(Goodbye { reason: reason.into() }));
        }
    }

    fn handle_batch(&mut self, batch: Arc<Batch>) -> Result<(), SessionError> {
        let State::Open(stream, tail) = &mut self.state else { return Ok(()) };
        if batch.stream != *stream {
            return Err(SessionError::WrongStream);
        }
        columns::check(&batch)?;
        let weight = batch.weight();
        let verdict = tail.admit(batch)?;
        self.outstanding = self.outstanding.saturating_add(weight);
        // Twice: a sender of another build may weigh a little differently.
        if self.outstanding > self.credit.saturating_mul(2) && !self.slots.is_empty() {
            return Err(SessionError::Credit { outstanding: self.outstanding, credit: self.credit });
        }
        let number = self.ack.batches + tap_block::units::count(self.slots.len());
        let progress = match verdict {
            Verdict::Repeated(last) => Progress::Repeated(last),
            Verdict::Take(batch) => {
                self.events.push_back(ReceiverEvent::Batch { number, batch });
                Progress::Given
            }
        };
        self.slots.push_back(Slot { weight, progress });
        self.settle();
        Ok(())
    }

    fn handle_answer(&mut self, answer: Answer) -> Result<(), SessionError> {
        if !self.asks.remove(&answer.id) {
            return Err(SessionError::NotAsked(answer.id));
        }
        self.events.push_back(ReceiverEvent::Answered(answer));
        Ok(())
    }

    fn handle_query(&mut self, query: Query) -> Result<(), SessionError> {
        if self.queries.len() >= MAX_QUERIES || !self.queries.insert(query.id) {
            return Err(SessionError::TooManyQueries);
        }
        self.events.push_back(ReceiverEvent::Queried(query));
        Ok(())
    }

    /// Answers a query.
    pub fn reply(&mut self, reply: QueryReply) {
        if matches!(self.state, State::Open(..)) && self.queries.remove(&reply.id) {
            self.outgoing.push_back(Message::QueryReply(reply));
        }
    }

    /// The batch with this number is durable.
    pub fn finished(&mut self, number: u64) {
        let at = number.checked_sub(self.ack.batches).map(tap_block::units::index);
        if let Some(slot) = at.and_then(|at| self.slots.get_mut(at)) {
            slot.progress = Progress::Durable;
        }
        self.settle();
    }

    /// The stream is durable up to here, and up to `everywhere` at every gateway.
    pub fn durable(&mut self, durable: Lsn, everywhere: Lsn) {
        self.ack.durable = self.ack.durable.max(durable);
        self.ack.everywhere = self.ack.everywhere.max(everywhere);
        self.settle();
    }

    /// The head of the ledger below, for the sender to keep.
    pub const fn ledger(&mut self, head: LedgerHead) {
        self.ack.ledger = Some(head);
    }

    /// The head of another ledger that is kept below.
    pub const fn witnessed(&mut self, head: LedgerHead) {
        self.ack.witnessed = Some(head);
    }

    /// Acknowledges the batches at the front that are durable.
    fn settle(&mut self) {
        let durable = self.ack.durable;
        while let Some(slot) = self.slots.front() {
            let done = match slot.progress {
                Progress::Given => false,
                Progress::Repeated(last) => last <= durable,
                Progress::Durable => true,
            };
            if !done {
                break;
            }
            self.outstanding -= slot.weight;
            self.ack.batches += 1;
            self.slots.pop_front();
        }
    }

    /// Asks the sender; the answer comes as [`ReceiverEvent::Answered`] with the id returned.
    ///
    /// # Errors
    /// There is no session, or too many questions are open.
    pub fn ask(&mut self, question: Question) -> Result<u64, AskError> {
        if !matches!(self.state, State::Open(..)) {
            let detail = "the connection to the tap is down: check that the tap runs, then try again";
            return Err(AskError::new(AskCode::NotReachable, detail));
        }
        if self.asks.len() >= MAX_ASKS {
            let detail = format!("{MAX_ASKS} questions to this tap are open already: try again later");
            return Err(AskError::new(AskCode::Failed, detail));
        }
        let id = self.next_ask;
        self.next_ask += 1;
        self.asks.insert(id);
        self.outgoing.push_back(Message::Ask(Ask { id, question }));
        Ok(id)
    }

    /// Bytes came in that are no whole message yet: a slow line is not a silent peer.
    pub const fn handle_bytes(&mut self, now: Monotonic) {
        self.heard = now;
    }

    /// Lets time pass; call it when [`Receiver::poll_timeout`] is reached.
    pub fn handle_timeout(&mut self, now: Monotonic) {
        let waits = matches!(self.state, State::Greeting | State::Open(..));
        if waits && now.since(self.heard) >= SILENCE {
            return self.end(format!("the sender said nothing for {} s", SILENCE.as_secs()));
        }
        if matches!(self.state, State::Open(..)) && now >= self.ack_at {
            (self.ack_due, self.ack_at) = (true, now.plus(KEEPALIVE));
        }
    }

    /// When to call [`Receiver::handle_timeout`] next. None while the program below
    /// opens the stream: it is waited for, not the sender.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Monotonic> {
        let silent = self.heard.plus(SILENCE);
        match self.state {
            State::Greeting => Some(silent),
            State::Open(..) => Some(silent.min(self.ack_at)),
            State::Opening(_) | State::Over => None,
        }
    }

    /// The next message to put on the wire. Acknowledgements are made here, so that a busy receiver sends one for
    /// many batches.
    pub fn poll_message(&mut self, now: Monotonic) -> Option<Message> {
        if let Some(message) = self.outgoing.pop_front() {
            return Some(message);
        }
        if !self.has_message() {
            return None;
        }
        let ack = self.ack;
        (self.ack.ledger, self.ack.witnessed) = (None, None);
        (self.said, self.ack_due, self.ack_at) = (self.ack, false, now.plus(KEEPALIVE));
        Some(Message::Ack(ack))
    }

    /// Would [`Receiver::poll_message`] give one?
    #[must_use]
    pub fn has_message(&self) -> bool {
        let acks = matches!(self.state, State::Open(..)) && (self.ack_due || self.ack != self.said);
        acks || !self.outgoing.is_empty()
    }

    /// The next event to act on.
    pub fn poll_event(&mut self) -> Option<ReceiverEvent> {
        self.events.pop_front()
    }

    fn end(&mut self, why: String) {
        self.state = State::Over;
        self.outgoing.clear();
        self.events.push_back(ReceiverEvent::Closed(why));
    }
}

const fn code_of(error: &SessionError) -> RefuseCode {
    match error {
        SessionError::SplitHistory { .. } => RefuseCode::SplitHistory,
        SessionError::Fenced { .. } => RefuseCode::Fenced,
        _ => RefuseCode::Protocol,
    }
}
