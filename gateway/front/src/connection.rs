//! One connection: moves bytes between a socket and the protocol's state machine, operations between that
//! and a device.
//!
//! Each turn takes all completions there are, starts a batch of requests, writes all replies in one go and
//! reads whatever has arrived; only when none of this got anywhere does the thread sleep.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use gateway_nbd::{Action, CloseReason, ExportInfo, ListEntry, Refusal, Server, Tag, Wants};
use tap_block::units::count;
use tap_block::{Op, Outcome, Ticket};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep};

use crate::exports::{ClientId, Export, Exports, OpenError};
use crate::front::Limits;
use crate::mailbox::{Mailbox, Stop};

/// The receive buffer, as long as no larger request comes.
const RECEIVE: usize = 256 << 10;
/// A buffer that grew beyond this for one request is given back after it.
const KEPT: usize = 2 << 20;
/// A read with less room than this is not worth its system call.
const LEAST_ROOM: usize = 32 << 10;
/// Requests started before replies are written: enough to save system calls, few enough that the client
/// gets to work on the first replies.
const BATCH: usize = 8;
/// The same for large requests: payload beyond this ends a batch.
const BATCH_BYTES: u64 = 256 << 10;
/// Pieces to one vectored write.
const SLICES: usize = 64;
/// What is still read of a client when the front stops: what it has sent already, but no endless stream.
const LAST_INPUT: usize = 1 << 20;
/// How long a client has to hang up after the last reply, so that closing does not cut the reply off.
const LINGER: Duration = Duration::from_millis(500);

/// A client's connection.
pub(crate) struct Connection<S> {
    stream: S,
    server: Server,
    input: BytesMut,
    has_large_buffer: bool,
    mailbox: Arc<Mailbox>,
    done: Vec<(u64, Outcome)>,
    exports: Arc<dyn Exports>,
    client: ClientId,
    limits: Limits,
    lookup: Option<Lookup>,
    opened: Option<Opened>,
    /// For the handshake and for the last bytes of a connection that is being closed.
    deadline: Option<Pin<Box<Sleep>>>,
    closing: Option<CloseReason>,
    /// Bytes that may still be read; `None` while there is no end in sight.
    input_left: Option<usize>,
    stop: Stop,
}

/// Why a connection ended.
#[derive(Debug, Error)]
pub(crate) enum Ended {
    /// As the protocol has it.
    #[error("{0}")]
    Closed(CloseReason),
    /// As iSCSI has it.
    #[error("{0}")]
    IscsiClosed(gateway_iscsi::CloseReason),
    /// The client hung up without a word.
    #[error("the client hung up")]
    HungUp,
    /// The front is stopping.
    #[error("the front is stopping")]
    Stopped,
    /// A client that does not get on with it.
    #[error("the client took too long over its handshake or its last replies")]
    TooSlow,
    /// The socket failed.
    #[error("the socket failed: {0}")]
    Socket(#[from] io::Error),
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
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(crate) fn new(
        stream: S,
        client: ClientId,
        exports: Arc<dyn Exports>,
        limits: Limits,
        mailbox: Arc<Mailbox>,
    ) -> Self {
        Self {
            stream,
            server: Server::new(limits.protocol),
            input: BytesMut::with_capacity(RECEIVE),
            has_large_buffer: false,
            mailbox,
            done: Vec::new(),
            exports,
            client,
            limits,
            lookup: None,
            opened: None,
            deadline: None,
            closing: None,
            input_left: None,
            stop: Stop::Run,
        }
    }

    /// Serves the client until either side ends it.
    pub(crate) async fn serve(mut self) -> Ended {
        self.limit_time();
        let ended = std::future::poll_fn(|cx| self.poll(cx)).await;
        if matches!(ended, Ended::Stopped) && self.stop != Stop::Abort {
            self.linger().await;
        }
        ended
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        self.mailbox.awake();
        loop {
            match self.turn(cx) {
                Ok(_) if self.stop == Stop::Abort => return Poll::Ready(Ended::Stopped),
                Ok(true) => {}
                Ok(false) => match self.rest(cx) {
                    Some(ended) => return Poll::Ready(ended),
                    None if self.mailbox.sleep(self.stop, cx.waker()) => return Poll::Pending,
                    None => {}
                },
                Err(error) => return Poll::Ready(Ended::Socket(error)),
            }
        }
    }

    /// Does whatever can be done; was there anything?
    fn turn(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut busy = self.take_letters();
        busy |= self.poll_lookup(cx);
        if self.act() {
            // Operations that completed on the spot are answered in this very turn.
            self.take_letters();
            busy = true;
        }
        busy |= self.poll_write(cx)?;
        if !busy {
            busy = self.poll_read(cx)?;
        }
        Ok(busy)
    }

    /// Nothing to do: is the connection over, or too slow?
    fn rest(&mut self, cx: &mut Context<'_>) -> Option<Ended> {
        if self.server.in_flight() == 0 && self.server.output().is_empty() {
            if let Some(reason) = self.closing.take() {
                return Some(Ended::Closed(reason));
            }
            if self.input_left == Some(0) {
                return Some(if self.stop == Stop::Drain { Ended::Stopped } else { Ended::HungUp });
            }
        }
        let timer = self.deadline.as_mut()?;
        timer.as_mut().poll(cx).is_ready().then_some(Ended::TooSlow)
    }

    fn take_letters(&mut self) -> bool {
        let stop = self.mailbox.take(&mut self.done);
        let busy = !self.done.is_empty() || stop != self.stop;
        for (tag, outcome) in self.done.drain(..) {
            self.server.handle_completion(Tag::new(tag), outcome);
        }
        if stop != self.stop {
            self.stop = stop;
            let last = if self.lookup.is_some() { 0 } else { LAST_INPUT };
            self.input_left = Some(self.input_left.unwrap_or(last));
            if self.server.is_handshaking() {
                self.server.begin_shutdown();
            }
        }
        busy
    }

    /// Starts requests until the batch is full or there are no more; was there any?
    fn act(&mut self) -> bool {
        let (mut started, mut bytes) = (0, 0);
        while started < BATCH && bytes < BATCH_BYTES && self.closing.is_none() {
            let Some(action) = self.server.poll_action(&mut self.input) else { break };
            bytes += self.perform(action);
            started += 1;
        }
        started > 0
    }

    /// Does what the protocol asks for; how much payload it moves.
    fn perform(&mut self, action: Action) -> u64 {
        match action {
            Action::Submit { tag, op } => return self.submit(tag, op),
            Action::Resolve { name } => self.resolve(name),
            Action::List => self.list(),
            Action::Close(reason) => {
                self.closing = Some(reason);
                self.limit_time();
            }
        }
        0
    }

    fn submit(&mut self, tag: Tag, op: Op) -> u64 {
        let bytes = match &op {
            Op::Read { extent } => extent.length(),
            Op::Write { data, .. } => count(data.len()),
            _ => 0,
        };
        let ticket = Ticket::new(tag.get(), self.mailbox.clone());
        if let Some(opened) = &self.opened {
            opened.export.device.submit(op, ticket);
        }
        bytes
    }

    fn list(&mut self) {
        let exports = self.exports.clone();
        self.deadline = None;
        self.lookup = Some(Lookup::List(tokio::task::spawn_blocking(move || {
            let entries = exports.list().into_iter();
            entries.map(|e| ListEntry { name: e.name, description: e.description }).collect()
        })));
    }

    fn resolve(&mut self, name: String) {
        // `NBD_OPT_GO` right after `NBD_OPT_INFO` must be told the same, so the export is kept.
        if let Some(opened) = self.opened.as_ref().filter(|opened| opened.asked == name) {
            self.server.handle_resolved(Ok(opened.info.clone()));
            return self.settle_time();
        }
        let (exports, client, asked) = (self.exports.clone(), self.client.clone(), name.clone());
        self.deadline = None;
        let answer = tokio::task::spawn_blocking(move || {
            let export = exports.open(&name, &client)?;
            let info = ExportInfo {
                name: export.name.clone(),
                description: export.description.clone(),
                geometry: export.device.geometry(),
            };
            Ok((export, info))
        });
        self.lookup = Some(Lookup::Open { asked, answer });
    }

    fn poll_lookup(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.lookup {
            None => return false,
            Some(Lookup::List(answer)) => match Pin::new(answer).poll(cx) {
                Poll::Pending => return false,
                Poll::Ready(entries) => self.server.handle_list(&entries.unwrap_or_default()),
            },
            Some(Lookup::Open { asked, answer }) => match Pin::new(answer).poll(cx) {
                Poll::Pending => return false,
                Poll::Ready(Ok(Ok((export, info)))) => {
                    let asked = std::mem::take(asked);
                    self.server.handle_resolved(Ok(info.clone()));
                    self.opened = Some(Opened { asked, export, info });
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
            let mut slices = [IoSlice::new(&[]); SLICES];
            let used = self.server.output().slices(&mut slices);
            let pieces = slices.get(..used).unwrap_or_default();
            match Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)? {
                Poll::Pending => break,
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(n) => self.server.output_mut().advance(n),
            }
            busy = true;
        }
        Ok(busy)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let Wants::Input(wanted) = self.server.wants(&self.input) else {
            return Ok(false);
        };
        if self.input_left == Some(0) || self.closing.is_some() {
            return Ok(false);
        }
        self.make_room(wanted);
        match pin!(self.stream.read_buf(&mut self.input)).poll(cx)? {
            // When the front stops, a client that has sent nothing more has been heard to the end.
            Poll::Pending if self.stop == Stop::Run => return Ok(false),
            Poll::Pending | Poll::Ready(0) => self.input_left = Some(0),
            Poll::Ready(n) => self.input_left = self.input_left.map(|left| left.saturating_sub(n)),
        }
        Ok(true)
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

    /// Tells the client that nothing more comes and waits a little for it to hang up.
    async fn linger(&mut self) {
        let goodbye = async {
            self.stream.shutdown().await?;
            while self.stream.read_buf(&mut self.input).await? > 0 {
                self.input.clear();
            }
            io::Result::Ok(())
        };
        // A client that lingers on, or has gone already, has got its replies or never will.
        let _ = tokio::time::timeout(LINGER, goodbye).await;
    }
}

fn refusal(error: OpenError) -> Refusal {
    match error {
        OpenError::NotFound(text) => Refusal::Unknown(text),
        OpenError::Refused(text) => Refusal::Policy(text),
    }
}
