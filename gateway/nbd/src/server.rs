//! The connection as a whole: what callers see, and which half of the protocol gets the next bytes.

use bytes::BytesMut;
use tap_block::units::count;
use tap_block::{Answered, Geometry, Name, Op, Output};
use thiserror::Error;

use crate::handshake::{Handshake, Session};
use crate::transmission::Transmission;

/// One client's connection.
///
/// Feed received bytes to [`poll_action`](Self::poll_action) until it gives `None`, do what it says, and
/// write [`output`](Self::output) to the socket.
#[derive(Debug)]
pub struct Server {
    phase: Phase,
    limits: Limits,
    output: Output,
    /// What it may hold in memory for requests and replies.
    allowed: u64,
    stopping: bool,
    closed: bool,
}

/// The bounds of what one connection may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest read or write served. A longer write is read and dropped piece by piece, then both are
    /// answered `NBD_EINVAL`.
    pub max_payload: u32,
    /// Bytes of requests under way and of replies not yet written. At this limit the server takes no further
    /// request; a single larger one is served alone.
    pub in_flight: u64,
}

/// May, or must, a client of this connection start TLS?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Tls {
    /// It cannot.
    #[default]
    Off,
    /// As it likes.
    Optional,
    /// Before it is told or given anything.
    Required,
}

/// What a caller has to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Look up the export `name` and answer with [`Server::handle_resolved`]. Until then no input is used.
    Resolve {
        /// As the client gave it; empty for the default export.
        name: String,
    },
    /// Give all exports to [`Server::handle_list`]. Until then no input is used.
    List,
    /// Write what is left of the output, start TLS as its server, and say so to [`Server::handle_tls_started`]. From here on
    /// nothing may be read or written but through it, and whatever was looked up in the open is to be forgotten. When TLS cannot
    /// be started the connection is to be closed.
    StartTls,
    /// Say which bookmarks the device of the export resolved last has
    /// ([`tap_block::BlockDevice::has_bookmark`], [`tap_block::BlockDevice::newest_bookmarks`]), with
    /// [`Server::handle_bookmarks`]. Until then no input is used.
    Bookmarks {
        /// Those of these names.
        named: Vec<Name>,
        /// And so many of the newest.
        newest: usize,
    },
    /// Hand `op` to the device of the export resolved last; its outcome goes to
    /// [`Server::handle_completion`].
    Submit {
        /// Names the operation.
        tag: Tag,
        /// Within the export's size, and no write when the export is read-only.
        op: Op,
    },
    /// Write what is left of the output, then close the connection. The last action.
    Close(CloseReason),
}

/// Names a request under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(u64);

impl Tag {
    /// From the raw number.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The raw number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// An export as a client is told of it when it opens it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportInfo {
    /// Its canonical name.
    pub name: String,
    /// For people; may be empty.
    pub description: String,
    /// Size and whether it may be written.
    pub geometry: Geometry,
}

/// One line of the list of exports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListEntry {
    /// What a client opens it by.
    pub name: String,
    /// For people; may be empty.
    pub description: String,
}

/// Why an export cannot be opened; the text reaches the user of a client that shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such export.
    Unknown(String),
    /// It exists, but not for this client or not now.
    Policy(String),
}

/// Why the server closes the connection.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CloseReason {
    /// The client said goodbye.
    #[error("the client disconnected")]
    Disconnected,
    /// "Client flags": the server must drop a client that sets unknown ones.
    #[error("the client set handshake flags {0:#x}, of which some are unknown")]
    UnknownClientFlags(u32),
    /// What should be an option is none, so the stream cannot be followed any further.
    #[error("the client sent {0:#x} where an option should start")]
    BadOptionMagic(u64),
    /// The same in the transmission phase.
    #[error("the client sent {0:#x} where a request should start")]
    BadRequestMagic(u32),
    /// An option longer than any sane one.
    #[error("the client announced an option of {0} bytes")]
    AbsurdOption(u32),
    /// A request that announces more bytes than any that could be refused politely.
    #[error("the client announced a payload of {0} bytes")]
    AbsurdPayload(u64),
    /// Haggling without end.
    #[error("the client sent too many options")]
    TooManyOptions,
    /// `NBD_OPT_EXPORT_NAME` in the open, which cannot be answered with an error.
    #[error("the client asked for an export without TLS, which this server requires")]
    TlsRequired,
    /// Bytes that cannot have been sent under TLS.
    #[error("the client sent more behind its request for TLS")]
    BehindStartTls,
    /// `NBD_OPT_EXPORT_NAME` knows no error reply.
    #[error("the export asked for by its name alone was refused: {0}")]
    ExportRefused(String),
}

/// What the server can use when [`Server::poll_action`] gave `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    /// Input of at least this length in all, what is there already included.
    Input(usize),
    /// No input before an answer, a completion or a write has made room.
    Nothing,
}

#[derive(Debug)]
enum Phase {
    Handshake(Handshake),
    Transmission(Transmission),
}

/// What one look at the input came to.
#[derive(Debug)]
pub(crate) enum Step {
    /// Something was done; look again.
    Again,
    /// The caller's turn.
    Act(Action),
    /// Nothing to do yet; `wants` says what for.
    Wait,
    /// The client chose an export.
    Enter(Session),
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_payload: 64 << 20, in_flight: 64 << 20 }
    }
}

impl Server {
    /// A connection just accepted; the greeting waits in the output.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self::with_tls(limits, Tls::Off)
    }

    /// The same, where clients may or must start TLS.
    #[must_use]
    pub fn with_tls(limits: Limits, tls: Tls) -> Self {
        let mut output = Output::default();
        let phase = Phase::Handshake(Handshake::new(&mut output, tls));
        Self { phase, limits, output, allowed: u64::MAX, stopping: false, closed: false }
    }

    /// The next thing to do, taking whole messages from the front of `input` as far as that needs.
    pub fn poll_action(&mut self, input: &mut BytesMut) -> Option<Action> {
        loop {
            match self.step(input) {
                Step::Again => {}
                Step::Wait => return None,
                Step::Enter(session) => self.enter(session),
                Step::Act(action) => {
                    self.closed = matches!(action, Action::Close(_));
                    return Some(action);
                }
            }
        }
    }

    /// What would let the connection go on, once [`poll_action`](Self::poll_action) has given `None`.
    #[must_use]
    pub fn wants(&self, input: &[u8]) -> Wants {
        if self.closed {
            return Wants::Nothing;
        }
        match &self.phase {
            Phase::Handshake(handshake) => handshake.wants(input, &self.output),
            Phase::Transmission(transmission) => transmission.wants(input, &self.output, &self.limits),
        }
    }

    /// Whatever [`Limits`] say, requests and replies may hold so many bytes of memory from now on: a request for which there is not
    /// enough waits, and is [told of](Self::lacks). At first that is as much as there is.
    pub fn allow(&mut self, bytes: u64) {
        self.allowed = bytes;
        if let Phase::Transmission(transmission) = &mut self.phase {
            transmission.allow(bytes);
        }
    }

    /// Once [`poll_action`](Self::poll_action) has given `None`: so much would be held in all with the next request, which waits
    /// because that is more than is [allowed](Self::allow).
    #[must_use]
    pub fn lacks(&self) -> Option<u64> {
        match &self.phase {
            Phase::Transmission(transmission) if !self.closed => transmission.short(),
            _ => None,
        }
    }

    /// Bytes of memory that requests under way and replies hold: a reply all of it until its last byte is written.
    pub fn held(&mut self) -> u64 {
        match &mut self.phase {
            Phase::Handshake(_) => count(self.output.len()),
            Phase::Transmission(transmission) => transmission.held(&self.output),
        }
    }

    /// The part of that which is for a request whose payload has not come whole.
    #[must_use]
    pub fn incoming(&self) -> u64 {
        match &self.phase {
            Phase::Handshake(_) => 0,
            Phase::Transmission(transmission) => transmission.incoming(),
        }
    }

    /// The answer to [`Action::Resolve`].
    pub fn handle_resolved(&mut self, resolved: Result<ExportInfo, Refusal>) {
        if let Phase::Handshake(handshake) = &mut self.phase {
            handshake.handle_resolved(resolved, &mut self.output);
        }
    }

    /// TLS was started, as [`Action::StartTls`] asked.
    pub fn handle_tls_started(&mut self) {
        if let Phase::Handshake(handshake) = &mut self.phase {
            handshake.handle_tls_started();
        }
    }

    /// The answer to [`Action::List`].
    pub fn handle_list(&mut self, exports: &[ListEntry]) {
        if let Phase::Handshake(handshake) = &mut self.phase {
            handshake.handle_list(exports, &mut self.output);
        }
    }

    /// The answer to [`Action::Bookmarks`]: those there are, in any order.
    pub fn handle_bookmarks(&mut self, found: &[Name]) {
        if let Phase::Handshake(handshake) = &mut self.phase {
            handshake.handle_bookmarks(found, &mut self.output);
        }
    }

    /// What came of the operation submitted with `tag`. An unknown tag changes nothing.
    pub fn handle_completion(&mut self, tag: Tag, answered: Answered) {
        if let Phase::Transmission(transmission) = &mut self.phase {
            transmission.handle_completion(tag, answered, &mut self.output);
        }
    }

    /// From now on options and requests are answered "shutting down"; what is under way still completes.
    pub fn begin_shutdown(&mut self) {
        self.stopping = true;
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

    /// How many requests are under way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        match &self.phase {
            Phase::Handshake(_) => 0,
            Phase::Transmission(transmission) => transmission.in_flight(),
        }
    }

    /// Those, each with the bytes of memory that it may hold.
    pub fn under_way(&self) -> impl Iterator<Item = (Tag, u64)> {
        let transmission = match &self.phase {
            Phase::Handshake(_) => None,
            Phase::Transmission(transmission) => Some(transmission),
        };
        transmission.into_iter().flat_map(Transmission::under_way)
    }

    /// Has the client not chosen an export yet?
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        matches!(&self.phase, Phase::Handshake(handshake) if !handshake.is_over())
    }

    fn step(&mut self, input: &mut BytesMut) -> Step {
        if self.closed {
            return Step::Wait;
        }
        match &mut self.phase {
            Phase::Handshake(handshake) => handshake.step(input, &mut self.output, self.stopping),
            Phase::Transmission(transmission) => {
                transmission.step(input, &mut self.output, &self.limits, self.stopping)
            }
        }
    }

    fn enter(&mut self, session: Session) {
        self.phase = Phase::Transmission(Transmission::new(session, self.allowed));
    }
}
