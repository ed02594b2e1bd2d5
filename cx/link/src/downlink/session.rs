//! One connection of a downlink.

use std::collections::HashMap;
use std::sync::Arc;

use cx_wire::{
    Answer, AskError, Given, Hello, MAX_ASKS, MAX_QUERIES, QueryReply, Receiver, ReceiverEvent, Refuse,
    Reply, Welcome,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::connection::{Connection, GRACE, has_room};
use crate::intake::{BatchDone, DownlinkHandle, OpenQuestion, StreamIntake};
use crate::lane::{FAILED, Lane};
use crate::query::LookupReply;
use crate::timing::{Alarm, Timebase};

/// How a connection ended.
pub(super) enum Ended {
    /// By itself, or the machine has said what there is to say.
    Closed(String),
    /// With a refusal.
    Refuse(Refuse),
    /// With a goodbye.
    Leave(String),
}

/// One connection.
pub(super) struct Session {
    machine: Receiver,
    connection: Connection,
    base: Timebase,
    alarm: Alarm,
    stop: CancellationToken,
    asked: HashMap<u64, oneshot::Sender<Result<Reply, AskError>>>,
    replies: mpsc::Receiver<QueryReply>,
    reply: mpsc::Sender<QueryReply>,
    deaf: bool,
    bytes: u64,
}

/// The stream a connection carries.
struct Stream<'s> {
    lane: &'s Arc<Lane>,
    connection: u64,
    intake: &'s dyn StreamIntake,
    questions: mpsc::Receiver<OpenQuestion>,
}

impl Session {
    pub(super) fn new(connection: Connection, stop: CancellationToken) -> Self {
        let base = Timebase::new();
        let (reply, replies) = mpsc::channel(MAX_QUERIES);
        Self {
            machine: Receiver::new(base.now()),
            connection,
            base,
            alarm: Alarm::new(base),
            stop,
            asked: HashMap::new(),
            replies,
            reply,
            deaf: false,
            bytes: 0,
        }
    }

    /// Waits for the sender to say who it is.
    pub(super) async fn greet(&mut self) -> Result<Hello, Ended> {
        loop {
            match self.machine.poll_event() {
                Some(ReceiverEvent::Opened(hello)) => return Ok(hello),
                Some(ReceiverEvent::Closed(why)) => return Err(Ended::Closed(why)),
                _ => {}
            }
            self.alarm.set(self.machine.poll_timeout());
            tokio::select! {
                message = self.connection.incoming.recv() => self.take(message)?,
                () = self.alarm.ring() => self.handle_timeout(),
                () = self.stop.cancelled() => return Err(stopping()),
            }
        }
    }

    /// Carries the stream until the connection ends.
    pub(super) async fn run(
        &mut self,
        hello: &Hello,
        welcome: Welcome,
        given: Vec<Given>,
        lane: &Arc<Lane>,
        connection: u64,
        intake: &dyn StreamIntake,
    ) -> Ended {
        let peer = self.connection.peer();
        tracing::info!(peer, stream = %hello.stream, name = %hello.name, durable = %welcome.durable, "stream open");
        self.machine.accept(welcome, given, self.base.now());
        let (ask, questions) = mpsc::channel(MAX_ASKS);
        intake.attached(DownlinkHandle::new(Arc::clone(lane), connection, ask));
        let mut stream = Stream { lane, connection, intake, questions };
        let ended = loop {
            if let Err(ended) = self.advance(&mut stream) {
                break ended;
            }
            if let Err(ended) = self.wait(&mut stream).await {
                break ended;
            }
        };
        self.asked.clear();
        intake.closed();
        ended
    }

    /// Does everything that can be done now.
    fn advance(&mut self, stream: &mut Stream<'_>) -> Result<(), Ended> {
        while let Some(event) = self.machine.poll_event() {
            self.handle(event, stream)?;
        }
        let news = stream.lane.take(stream.connection);
        for number in news.finished {
            self.machine.finished(number);
        }
        self.machine.durable(news.durable, news.everywhere);
        if let Some(head) = news.ledger {
            self.machine.ledger(head);
        }
        if let Some(head) = news.witnessed {
            self.machine.witnessed(head);
        }
        if let Some(why) = news.close {
            return Err(Ended::Leave(why));
        }
        self.push_out();
        self.alarm.set(self.machine.poll_timeout());
        Ok(())
    }

    fn handle(&mut self, event: ReceiverEvent, stream: &Stream<'_>) -> Result<(), Ended> {
        match event {
            ReceiverEvent::Batch { number, batch } => {
                if !stream.lane.give(batch.run, batch.last_lsn()) {
                    return Err(Ended::Leave(FAILED.to_owned()));
                }
                let done = BatchDone::new(Arc::clone(stream.lane), stream.connection, number);
                stream.intake.batch(batch, done);
            }
            ReceiverEvent::Heartbeat(heartbeat) => stream.intake.heartbeat(heartbeat),
            ReceiverEvent::Answered(answer) => self.answer(answer),
            ReceiverEvent::Queried(query) => {
                stream.intake.query(query.lookup, LookupReply::new(query.id, self.reply.clone()));
            }
            ReceiverEvent::Closed(why) => return Err(Ended::Closed(why)),
            ReceiverEvent::Opened(_) => {}
        }
        Ok(())
    }

    fn answer(&mut self, answer: Answer) {
        // An asker that gave up is told nothing.
        if let Some(asker) = self.asked.remove(&answer.id)
            && asker.send(answer.result).is_err()
        {
            tracing::debug!(id = answer.id, "an answer came after its asker had gone");
        }
    }

    fn ask(&mut self, (question, asker): OpenQuestion) {
        match self.machine.ask(question) {
            Ok(id) => {
                self.asked.insert(id, asker);
            }
            Err(error) => {
                let _ = asker.send(Err(error));
            }
        }
    }

    /// Moves messages to the connection as far as it takes them.
    fn push_out(&mut self) {
        while !self.deaf && self.machine.has_message() {
            match self.connection.out.try_reserve() {
                Ok(permit) => {
                    if let Some(message) = self.machine.poll_message(self.base.now()) {
                        permit.send(message);
                    }
                }
                Err(mpsc::error::TrySendError::Full(())) => return,
                Err(mpsc::error::TrySendError::Closed(())) => self.deaf = true,
            }
        }
    }

    /// Until something happens.
    async fn wait(&mut self, stream: &mut Stream<'_>) -> Result<(), Ended> {
        let may_write = !self.deaf && self.machine.has_message();
        tokio::select! {
            message = self.connection.incoming.recv() => self.take(message)?,
            room = has_room(&self.connection.out), if may_write => self.deaf = !room,
            () = stream.lane.changed() => {}
            question = stream.questions.recv() => {
                if let Some(question) = question {
                    self.ask(question);
                }
            }
            reply = self.replies.recv() => {
                if let Some(reply) = reply {
                    self.machine.reply(reply);
                }
            }
            () = self.alarm.ring() => self.handle_timeout(),
            () = self.stop.cancelled() => return Err(stopping()),
        }
        Ok(())
    }

    fn take(&mut self, message: Option<cx_wire::Message>) -> Result<(), Ended> {
        let closed = || Ended::Closed("the sender closed the connection".to_owned());
        let taken = self.machine.handle_message(message.ok_or_else(closed)?, self.base.now());
        taken.map_err(|error| Ended::Closed(error.to_string()))
    }

    fn handle_timeout(&mut self) {
        let (now, bytes) = (self.base.now(), self.connection.bytes_received());
        if bytes != self.bytes {
            self.bytes = bytes;
            self.machine.handle_bytes(now);
        }
        self.machine.handle_timeout(now);
    }

    /// Last words, and a line in the log.
    pub(super) async fn finish(mut self, ended: &Ended) {
        let why = match ended {
            Ended::Closed(why) => why.clone(),
            Ended::Leave(why) => {
                self.machine.leave(why.clone());
                why.clone()
            }
            Ended::Refuse(refuse) => {
                self.machine.refuse(refuse.clone());
                format!("refused: {}", refuse.detail)
            }
        };
        tracing::info!(peer = self.connection.peer(), why, "connection closed");
        let all = async {
            while let Some(message) = self.machine.poll_message(self.base.now()) {
                if self.connection.send(message).await.is_err() {
                    break;
                }
            }
        };
        if tokio::time::timeout(GRACE, all).await.is_err() {
            tracing::debug!("the sender did not take the last messages");
        }
    }
}

fn stopping() -> Ended {
    Ended::Leave("this program stops".to_owned())
}
