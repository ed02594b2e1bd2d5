//! Why connections end.

use std::io;

use gateway_nbd::CloseReason;
use thiserror::Error;

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
    #[error("the front is stopping, or the session was ended by hand")]
    Stopped,
    /// A client that takes none of its replies.
    #[error("the client took next to nothing of its replies for too long")]
    Stalled,
    /// A client that others wait for.
    #[error(
        "the client took or sent too little of what it holds memory for, while others wait for that; it should ask for less at a time"
    )]
    InTheWay,
    /// A client that asks for nothing.
    #[error("the client asked for nothing for too long")]
    Idle,
    /// No TLS, or a certificate that is none of ours.
    #[error("TLS could not be started: {0}")]
    Tls(io::Error),
    /// A client that does not get on with it.
    #[error("the client took too long over its handshake or its last replies")]
    TooSlow,
    /// The socket failed.
    #[error("the socket failed: {0}")]
    Socket(io::Error),
}

impl Ended {
    /// Do both ends know that it is over?
    pub(crate) const fn is_mutual(&self) -> bool {
        matches!(self, Self::Closed(CloseReason::Disconnected))
    }
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Socket(error)
    }
}
