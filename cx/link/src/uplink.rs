//! The sender's side: a task that keeps one stream connected to its receiver and feeds it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use cx_wire::{
    Answer, Hello, MAX_ASKS, MAX_QUERIES, QueryReply, Refuse, Sender, SenderEvent, SessionError, Welcome,
};
use tap_block::Batch;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::address::Address;
use crate::connection::{Connection, GRACE, connect, has_room};
use crate::feed::{AskReply, Feed};
use crate::hub::Hub;
use crate::query::{Found, OpenQuery, Querier};
use crate::timing::{Alarm, Timebase};

/// Where an uplink connects to, and how eagerly.
#[derive(Debug, Clone)]
pub struct UplinkConfig {
    /// The receiver.
    pub address: Address,
    /// The switchboard for `mem:` addresses.
    pub hub: Hub,
    /// Pauses between attempts.
    pub backoff: Backoff,
}

/// Pauses between attempts: `first`, then twice as long each time up to `limit`; from `first` again after a
/// connection that lasted at least `limit`.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// After the first failure.
    pub first: Duration,
    /// After many, and after a refusal.
    pub limit: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(100), limit: Duration::from_secs(5) }
    }
}

/// How an uplink is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UplinkState {
    /// Not connected, and why not if it was tried.
    Connecting {
        /// What went wrong last.
        problem: Option<String>,
    },
    /// Records flow.
    Connected(Welcome),
    /// The receiver does not take the stream; tried again slowly.
    Refused(Refuse),
    /// Stopped on purpose.
    Stopped,
}

/// The way to a running uplink. Dropping it stops the uplink.
#[derive(Debug)]
pub struct UplinkHandle {
    state: watch::Receiver<UplinkState>,
    querier: Querier,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl UplinkHandle {
    /// How it is doing; watch it for changes.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<UplinkState> {
        self.state.clone()
    }

    /// For questions to the receiver.
    #[must_use]
    pub fn querier(&self) -> Querier {
        self.querier.clone()
    }

    /// Says goodbye and ends. What is not acknowledged stays with the feed.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take()
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the task of an uplink failed");
        }
    }
}

impl Drop for UplinkHandle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Keeps one stream connected to its receiver.
pub struct Uplink {
    config: UplinkConfig,
    hello: Box<dyn Fn() -> Hello + Send + Sync>,
    feed: Arc<dyn Feed>,
    state: watch::Sender<UplinkState>,
    querier: Querier,
    stop: CancellationToken,
}

/// How a session ended.
enum End {
    Lost(String),
    Refused(Refuse),
    Stopped,
}

impl Uplink {
    /// Starts it on the current tokio runtime. `hello` is asked before each attempt.
    pub fn spawn(
        config: UplinkConfig,
        hello: impl Fn() -> Hello + Send + Sync + 'static,
        feed: Arc<dyn Feed>,
    ) -> UplinkHandle {
        let (sender, state) = watch::channel(UplinkState::Connecting { problem: None });
        let (querier, stop) = (Querier::default(), CancellationToken::new());
        let uplink = Self {
            config,
            hello: Box::new(hello),
            feed,
            state: sender,
            querier: querier.clone(),
            stop: stop.clone(),
        };
        UplinkHandle { state, querier, stop, task: Some(tokio::spawn(uplink.run())) }
    }

    async fn run(self) {
        let Backoff { first, limit } = self.config.backoff;
        let mut pause = first;
        loop {
            let (before, began) = (self.state.borrow().clone(), Instant::now());
            let end = self.attempt().await;
            let was_connected = matches!(*self.state.borrow(), UplinkState::Connected(_));
            if was_connected && began.elapsed() >= limit {
                pause = first;
            }
            let after = match end {
                End::Stopped => break,
                End::Lost(problem) => UplinkState::Connecting { problem: Some(problem) },
                End::Refused(refuse) => {
                    self.feed.refused(&refuse);
                    pause = limit;
                    UplinkState::Refused(refuse)
                }
            };
            // A receiver that is away for a day leaves one line.
            if was_connected || before != after {
                self.log(&after);
            }
            self.state.send_replace(after);
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(limit),
                () = self.stop.cancelled() => break,
            }
        }
        self.state.send_replace(UplinkState::Stopped);
    }

    fn log(&self, state: &UplinkState) {
        let to = &self.config.address;
        match state {
            UplinkState::Connecting { problem: Some(problem) } => {
                tracing::warn!(%to, problem, "not connected")
            }
            UplinkState::Refused(refuse) => {
                tracing::error!(%to, code = ?refuse.code, detail = refuse.detail, "refused");
            }
            _ => {}
        }
    }

    async fn attempt(&self) -> End {
        let connected = tokio::select! {
            connected = connect(&self.config.address, &self.config.hub) => connected,
            () = self.stop.cancelled() => return End::Stopped,
        };
        match connected {
            Ok(connection) => Session::new(self, connection).run().await,
            Err(error) => End::Lost(format!("cannot connect to {}: {error}", self.config.address)),
        }
    }
}

/// One connection of an uplink.
struct Session<'u> {
    uplink: &'u Uplink,
    machine: Sender,
    connection: Connection,
    base: Timebase,
    alarm: Alarm,
    /// A batch that waits for credit.
    waiting: Option<Arc<Batch>>,
    answers: mpsc::Receiver<Answer>,
    answer: mpsc::Sender<Answer>,
    queries: mpsc::Receiver<OpenQuery>,
    query: mpsc::Sender<OpenQuery>,
    queried: HashMap<u64, oneshot::Sender<Found>>,
    /// `Feed::ready` was called: `Feed::lost` is due.
    ready: bool,
    /// The way out is closed; there may still be last words to read.
    deaf: bool,
    bytes: u64,
}

impl<'u> Session<'u> {
    fn new(uplink: &'u Uplink, connection: Connection) -> Self {
        let base = Timebase::new();
        let (answer, answers) = mpsc::channel(MAX_ASKS);
        let (query, queries) = mpsc::channel(MAX_QUERIES);
        Self {
            uplink,
            machine: Sender::new((uplink.hello)(), base.now()),
            connection,
            base,
            alarm: Alarm::new(base),
            waiting: None,
            answers,
            answer,
            queries,
            query,
            queried: HashMap::new(),
            ready: false,
            deaf: false,
            bytes: 0,
        }
    }

    async fn run(mut self) -> End {
        let end = loop {
            if let Err(end) = self.advance() {
                break end;
            }
            if let Err(end) = self.wait().await {
                break end;
            }
        };
        self.uplink.querier.close();
        if self.ready {
            self.uplink.feed.lost();
        }
        self.flush().await;
        end
    }

    /// Does everything that can be done now.
    fn advance(&mut self) -> Result<(), End> {
        while let Some(event) = self.machine.poll_event() {
            self.handle(event)?;
        }
        loop {
            self.push_out();
            if self.machine.has_message() || !self.send_next().map_err(|e| End::Lost(e.to_string()))? {
                self.alarm.set(self.machine.poll_timeout());
                return Ok(());
            }
        }
    }

    fn handle(&mut self, event: SenderEvent) -> Result<(), End> {
        let feed = &self.uplink.feed;
        match event {
            SenderEvent::Ready(welcome) => return self.open(welcome),
            SenderEvent::Acked { batches, durable, everywhere } => feed.acked(batches, durable, everywhere),
            SenderEvent::Ledger(head) => feed.ledger(head),
            SenderEvent::Witnessed(head) => feed.witnessed(head),
            SenderEvent::Asked(ask) => feed.ask(ask.question, AskReply::new(ask.id, self.answer.clone())),
            SenderEvent::Found(reply) => self.found(reply),
            SenderEvent::HeartbeatDue => self.machine.heartbeat(feed.heartbeat()),
            SenderEvent::Refused(refuse) => return Err(End::Refused(refuse)),
            SenderEvent::Lost(why) => return Err(End::Lost(why)),
        }
        Ok(())
    }

    fn open(&mut self, welcome: Welcome) -> Result<(), End> {
        if let Err(why) = self.uplink.feed.ready(&welcome) {
            self.machine.leave(why.clone());
            return Err(End::Lost(why));
        }
        self.ready = true;
        self.uplink.querier.open(self.query.clone());
        tracing::info!(to = %self.uplink.config.address, durable = %welcome.durable, "connected");
        self.uplink.state.send_replace(UplinkState::Connected(welcome));
        Ok(())
    }

    fn ask(&mut self, (lookup, asker): OpenQuery) {
        match self.machine.query(lookup) {
            Ok(id) => {
                self.queried.insert(id, asker);
            }
            Err(error) => {
                let _ = asker.send(Err(error));
            }
        }
    }

    fn found(&mut self, reply: QueryReply) {
        // An asker that gave up is told nothing.
        if let Some(asker) = self.queried.remove(&reply.id)
            && asker.send(reply.result).is_err()
        {
            tracing::debug!(id = reply.id, "an answer came after its asker had gone");
        }
    }

    /// Moves messages to the connection as far as it takes them.
    fn push_out(&mut self) {
        while self.machine.has_message() && !self.deaf {
            match self.connection.out.try_reserve() {
                Ok(permit) => {
                    if let Some(message) = self.machine.poll_message() {
                        permit.send(message);
                    }
                }
                Err(mpsc::error::TrySendError::Full(())) => return,
                Err(mpsc::error::TrySendError::Closed(())) => self.deaf = true,
            }
        }
    }

    /// Gives the machine one more batch; false when there is none or it must wait for credit.
    fn send_next(&mut self) -> Result<bool, SessionError> {
        if !self.ready {
            return Ok(false);
        }
        let Some(batch) = self.waiting.take().or_else(|| self.uplink.feed.next()) else { return Ok(false) };
        if !self.machine.can_send(batch.weight()) {
            self.waiting = Some(batch);
            return Ok(false);
        }
        self.machine.send(batch)?;
        Ok(true)
    }

    /// Until something happens.
    async fn wait(&mut self) -> Result<(), End> {
        let may_write = self.machine.has_message() && !self.deaf;
        let may_feed = self.ready && self.waiting.is_none() && !may_write;
        tokio::select! {
            message = self.connection.incoming.recv() => {
                let closed = || End::Lost("the receiver closed the connection".to_owned());
                let message = message.ok_or_else(closed)?;
                let taken = self.machine.handle_message(message, self.base.now());
                taken.map_err(|error| End::Lost(error.to_string()))?;
            }
            room = has_room(&self.connection.out), if may_write => self.deaf = !room,
            () = self.uplink.feed.changed().notified(), if may_feed => {}
            answer = self.answers.recv() => {
                if let Some(answer) = answer {
                    self.machine.answer(answer);
                }
            }
            query = self.queries.recv() => {
                if let Some(query) = query {
                    self.ask(query);
                }
            }
            () = self.alarm.ring() => self.handle_timeout(),
            () = self.uplink.stop.cancelled() => {
                self.machine.leave("this program stops");
                return Err(End::Stopped);
            }
        }
        Ok(())
    }

    fn handle_timeout(&mut self) {
        let (now, bytes) = (self.base.now(), self.connection.bytes_received());
        if bytes != self.bytes {
            self.bytes = bytes;
            self.machine.handle_bytes(now);
        }
        self.machine.handle_timeout(now);
    }

    /// Last words.
    async fn flush(&mut self) {
        let all = async {
            while let Some(message) = self.machine.poll_message() {
                if self.connection.send(message).await.is_err() {
                    break;
                }
            }
        };
        if tokio::time::timeout(GRACE, all).await.is_err() {
            tracing::debug!("the receiver did not take the last messages");
        }
    }
}
