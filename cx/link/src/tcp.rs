//! Messages over TCP: a 32-bit big-endian length, then that many bytes of one encoded message.
//!
//! Two tasks stand behind a connection. The writer sends a batch's head and body in one vectored write, without
//! joining them. The reader takes in whole frames, verifies the checksum of every stored unit (TCP's own is 16
//! bits), and stops at the first byte that is not ours.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use cx_wire::{MAX_MESSAGE, Message, WireError, verify_units};
use tap_block::units::{count, index};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::connection::{Connection, GRACE};

/// Messages from the driver to the socket. Credit bounds their bytes.
const DEPTH: usize = 16;
/// Messages from the socket to the driver. Each may be as long as a message can be, so they are few.
const ARRIVED: usize = 4;
/// Messages up to this size are joined with their neighbours into one write.
const SMALL: usize = 16 << 10;
/// Read at least this much at once, so that small messages share a system call.
const READ_AHEAD: usize = 16 << 10;
/// The most reserved on the word of a length prefix alone.
const TRUSTED: usize = 2 << 20;
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

pub(crate) async fn connect(at: &str) -> io::Result<Connection> {
    let late = |_| {
        let why = format!("{at} did not answer within {CONNECT_LIMIT:?}");
        io::Error::new(io::ErrorKind::TimedOut, why)
    };
    let stream = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(at)).await.map_err(late)??;
    connection(stream)
}

/// Puts the two tasks behind a socket.
pub(crate) fn connection(stream: TcpStream) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let peer = stream.peer_addr()?.to_string();
    let (reading, writing) = stream.into_split();
    let (out, to_write) = mpsc::channel(DEPTH);
    let (arrived, incoming) = mpsc::channel(ARRIVED);
    let received = Arc::new(AtomicU64::new(0));
    let close = CancellationToken::new();
    let reader = Reader { socket: reading, buffer: BytesMut::new(), received: Arc::clone(&received) };
    tokio::spawn(read_all(reader, arrived, close.clone(), peer.clone()));
    tokio::spawn(write_all(writing, to_write, close.clone(), peer.clone()));
    Ok(Connection::over_socket(out, incoming, peer, received, close))
}

async fn write_all(
    mut socket: OwnedWriteHalf,
    messages: mpsc::Receiver<Message>,
    close: CancellationToken,
    peer: String,
) {
    let stuck = async {
        close.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        written = write_messages(&mut socket, messages) => {
            if let Err(error) = written {
                tracing::debug!(peer, %error, "the connection broke while writing");
            }
        }
        () = stuck => tracing::debug!(peer, "the peer did not take the last messages"),
    }
}

async fn write_messages(
    socket: &mut OwnedWriteHalf,
    mut messages: mpsc::Receiver<Message>,
) -> io::Result<()> {
    let (mut ready, mut small) = (Vec::with_capacity(DEPTH), BytesMut::new());
    while messages.recv_many(&mut ready, DEPTH).await > 0 {
        for message in ready.drain(..) {
            let parts = message.encode();
            small.put_u32(checked_length(parts.len())?);
            if parts.len() <= SMALL {
                small.put(parts.head);
                small.put(parts.body);
            } else {
                socket.write_all_buf(&mut small.split().chain(parts.head).chain(parts.body)).await?;
            }
        }
        socket.write_all_buf(&mut small).await?;
    }
    socket.shutdown().await
}

fn checked_length(len: usize) -> io::Result<u32> {
    let too_long = || io::Error::other(WireError::TooLong(count(len)));
    u32::try_from(len).ok().filter(|_| len <= MAX_MESSAGE).ok_or_else(too_long)
}

async fn read_all(
    mut reader: Reader,
    arrived: mpsc::Sender<Message>,
    close: CancellationToken,
    peer: String,
) {
    let ended = tokio::select! {
        ended = reader.read_messages(&arrived) => ended,
        () = close.cancelled() => {
            // Bytes left unread would turn our last words into a reset.
            let _ = tokio::time::timeout(GRACE, reader.drain()).await;
            return;
        }
    };
    match ended {
        Ok(()) => {}
        Err(ReadError::Wire(error)) => {
            tracing::warn!(peer, %error, "closed a connection that sent no sound message");
        }
        Err(ReadError::Io(error)) => tracing::debug!(peer, %error, "the connection broke while reading"),
    }
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Wire(#[from] WireError),
}

struct Reader {
    socket: OwnedReadHalf,
    buffer: BytesMut,
    received: Arc<AtomicU64>,
}

impl Reader {
    /// Until the peer closes, or nobody listens any more.
    async fn read_messages(&mut self, arrived: &mpsc::Sender<Message>) -> Result<(), ReadError> {
        while let Some(frame) = self.frame().await? {
            let message = Message::decode(frame)?;
            if let Message::Data(batch) = &message {
                verify_units(batch)?;
            }
            if arrived.send(message).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// The next frame; `None` at a clean end.
    async fn frame(&mut self) -> Result<Option<Bytes>, ReadError> {
        if !self.fill(size_of::<u32>()).await? {
            return Ok(None);
        }
        let len = u64::from(self.buffer.get_u32());
        if len > count(MAX_MESSAGE) {
            return Err(WireError::TooLong(len).into());
        }
        let len = index(len);
        if !self.fill(len).await? {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(Some(self.buffer.split_to(len).freeze()))
    }

    /// Reads until `len` bytes are there; false when the peer closed before the first of them.
    async fn fill(&mut self, len: usize) -> io::Result<bool> {
        while self.buffer.len() < len {
            let want = (len - self.buffer.len()).max(READ_AHEAD);
            self.buffer.reserve(want.min(TRUSTED.max(self.buffer.len())));
            let n = self.socket.read_buf(&mut (&mut self.buffer).limit(want)).await?;
            self.received.fetch_add(count(n), Ordering::Relaxed);
            if n == 0 {
                let clean = self.buffer.is_empty();
                return if clean { Ok(false) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
        Ok(true)
    }

    async fn drain(&mut self) -> io::Result<()> {
        loop {
            self.buffer.clear();
            self.buffer.reserve(READ_AHEAD);
            if self.socket.read_buf(&mut self.buffer).await? == 0 {
                return Ok(());
            }
        }
    }
}
