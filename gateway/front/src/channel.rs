//! A client's socket, in the open or under TLS.

use std::future::Future;
use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};

use crate::tls;

/// The other end has closed its side, or is not there any more.
const GONE: PollFlags = PollFlags::RDHUP.union(PollFlags::HUP).union(PollFlags::ERR);

/// See the module.
pub(crate) enum Channel<S> {
    Open(S),
    /// The two ends are agreeing on keys.
    Starting(Box<Accept<S>>),
    Secure(Box<TlsStream<S>>),
    /// TLS failed.
    Gone,
}

/// What was agreed on, and who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Secured {
    pub(crate) version: String,
    /// The names in the client's certificate; `None`: it has not shown one.
    pub(crate) names: Option<Vec<String>>,
}

impl<S: AsFd> Channel<S> {
    /// Has the other end closed its side, whatever is still to be read?
    pub(crate) fn has_hung_up(&self) -> bool {
        self.told(PollFlags::RDHUP).is_some_and(|told| told.intersects(GONE))
    }

    /// Is there nothing to be read, not even that the other end has closed its side?
    pub(crate) fn is_quiet(&self) -> bool {
        self.told(PollFlags::RDHUP | PollFlags::IN).is_some_and(|told| told.is_empty())
    }

    fn told(&self, of: PollFlags) -> Option<PollFlags> {
        let socket = match self {
            Self::Open(stream) => stream,
            Self::Secure(stream) => stream.get_ref().0,
            Self::Starting(_) | Self::Gone => return None,
        };
        let mut asked = [PollFd::new(socket, of)];
        let [answer] = &mut asked;
        poll(std::slice::from_mut(answer), Some(&Timespec::default())).ok()?;
        Some(answer.revents())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Channel<S> {
    /// From here on TLS begins; nothing may be read or written before it is [done](Self::poll_start).
    pub(crate) fn start(&mut self, acceptor: &TlsAcceptor) {
        *self = match mem::replace(self, Self::Gone) {
            Self::Open(stream) => Self::Starting(Box::new(acceptor.accept(stream))),
            other => other,
        };
    }

    pub(crate) fn poll_start(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Secured>> {
        let Self::Starting(accept) = self else { return Poll::Pending };
        match Pin::new(accept.as_mut()).poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => {
                *self = Self::Gone;
                Poll::Ready(Err(error))
            }
            Poll::Ready(Ok(stream)) => {
                let (_, session) = stream.get_ref();
                let version = match session.protocol_version() {
                    Some(rustls::ProtocolVersion::TLSv1_2) => "1.2",
                    Some(rustls::ProtocolVersion::TLSv1_3) => "1.3",
                    _ => "unknown",
                };
                let names = session.peer_certificates().and_then(<[_]>::first).map(tls::names);
                let secured = Secured { version: version.to_owned(), names };
                *self = Self::Secure(Box::new(stream));
                Poll::Ready(Ok(secured))
            }
        }
    }

    pub(crate) const fn is_secure(&self) -> bool {
        matches!(self, Self::Secure(_))
    }
}

/// The client has gone: without the end that TLS has for this, which says nothing that NBD does not say itself.
fn ended(read: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
    match read {
        Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
        other => other,
    }
}

fn gone<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Channel<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Open(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Secure(stream) => ended(Pin::new(stream.as_mut()).poll_read(cx, buffer)),
            Self::Starting(_) | Self::Gone => gone(),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Channel<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Open(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Secure(stream) => Pin::new(stream.as_mut()).poll_write(cx, bytes),
            Self::Starting(_) | Self::Gone => gone(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Open(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            Self::Secure(stream) => Pin::new(stream.as_mut()).poll_write_vectored(cx, pieces),
            Self::Starting(_) | Self::Gone => gone(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Open(stream) => Pin::new(stream).poll_flush(cx),
            Self::Secure(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
            Self::Starting(_) | Self::Gone => gone(),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Open(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Secure(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
            Self::Starting(_) | Self::Gone => gone(),
        }
    }
}
