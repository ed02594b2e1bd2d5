//! A connection as the drivers see it: messages out, messages in, whatever carries them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cx_wire::Message;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::address::Address;
use crate::hub::{Hub, Inbox};
use crate::tcp;

/// What a closing connection may take to get its last words out.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// One end of a connection. Dropping it closes it; what was sent before still goes out.
#[derive(Debug)]
pub struct Connection {
    pub(crate) out: mpsc::Sender<Message>,
    pub(crate) incoming: mpsc::Receiver<Message>,
    peer: String,
    /// Bytes received; counts up while a long message is still coming in. None where messages come whole.
    received: Option<Arc<AtomicU64>>,
    /// Tells the tasks behind a socket to finish.
    _close: Option<DropGuard>,
}

/// The connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection is closed")]
pub struct Closed;

impl Connection {
    /// Two ends that hand each other the very messages.
    pub(crate) fn pair(name: &str) -> (Self, Self) {
        /// Few: what is on its way is bounded by credit, this only smooths the hand-over.
        const DEPTH: usize = 8;
        let (down, from_above) = mpsc::channel(DEPTH);
        let (up, from_below) = mpsc::channel(DEPTH);
        let end =
            |out, incoming| Self { out, incoming, peer: format!("mem:{name}"), received: None, _close: None };
        (end(down, from_below), end(up, from_above))
    }

    pub(crate) fn over_socket(
        out: mpsc::Sender<Message>,
        incoming: mpsc::Receiver<Message>,
        peer: String,
        received: Arc<AtomicU64>,
        close: CancellationToken,
    ) -> Self {
        Self { out, incoming, peer, received: Some(received), _close: Some(close.drop_guard()) }
    }

    /// Sends; waits while the other end is slow.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn send(&self, message: Message) -> Result<(), Closed> {
        self.out.send(message).await.map_err(|_| Closed)
    }

    /// The next message; `None` when the connection is closed. A peer that sends anything but sound messages is
    /// disconnected with a line in the log.
    pub async fn recv(&mut self) -> Option<Message> {
        self.incoming.recv().await
    }

    /// Who is at the other end, for logs.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// A number that grows while bytes come in.
    pub(crate) fn bytes_received(&self) -> u64 {
        self.received.as_ref().map_or(0, |n| n.load(Ordering::Relaxed))
    }
}

/// Waits until a message can be sent at once; false when none ever can.
pub(crate) async fn has_room(out: &mpsc::Sender<Message>) -> bool {
    out.reserve().await.is_ok()
}

/// Connects.
///
/// # Errors
/// Nobody listens there, or the network's own error.
pub async fn connect(address: &Address, hub: &Hub) -> io::Result<Connection> {
    match address {
        Address::Memory(name) => hub.connect(name),
        Address::Tcp(at) => tcp::connect(at).await,
    }
}

/// Takes connections.
#[derive(Debug)]
pub struct Listener {
    from: Source,
    address: Address,
}

#[derive(Debug)]
enum Source {
    Tcp(tokio::net::TcpListener),
    Memory(Inbox),
}

impl Listener {
    /// Listens at `address`; port 0 takes any free port.
    ///
    /// # Errors
    /// The address is taken or not ours.
    pub async fn bind(address: &Address, hub: &Hub) -> io::Result<Self> {
        match address {
            Address::Memory(name) => {
                Ok(Self { from: Source::Memory(hub.listen(name)?), address: address.clone() })
            }
            Address::Tcp(at) => {
                let listener = tokio::net::TcpListener::bind(at.as_str()).await?;
                let address = Address::Tcp(listener.local_addr()?.to_string());
                Ok(Self { from: Source::Tcp(listener), address })
            }
        }
    }

    /// Where it listens, with the real port.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// The next connection.
    ///
    /// # Errors
    /// The system's own, for instance too many open files; the listener is still good.
    pub async fn accept(&mut self) -> io::Result<Connection> {
        match &mut self.from {
            Source::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                tcp::connection(stream)
            }
            Source::Memory(inbox) => inbox.accept().await,
        }
    }
}
