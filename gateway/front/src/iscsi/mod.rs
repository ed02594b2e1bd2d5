//! What an iSCSI front serves: the seam between the protocol and whoever owns the targets.

mod connection;
mod intake;

use std::sync::Arc;
use std::time::Duration;

use gateway_iscsi::{Access, Refusal, Target};

use crate::exports::ClientId;

pub(crate) use connection::IscsiConnection;

/// The targets behind a front. All methods may block: they run on a thread of their own.
pub trait Targets: Send + Sync {
    /// The names of all targets that `initiator`, which comes from `from`, may see, for SendTargets.
    fn list(&self, initiator: &str, from: &ClientId) -> Vec<String>;

    /// The target that `initiator`, not yet authenticated, wants to log in to from `from`. Sessions of one
    /// name share one [`Target`].
    ///
    /// # Errors
    /// [`Refusal`].
    fn open(&self, name: &str, initiator: &str, from: &ClientId) -> Result<Arc<Target>, Refusal>;

    /// Makes the reservations of a unit durable, in place of those kept before; empty for none.
    ///
    /// # Errors
    /// Why that cannot be done; the initiator is told that it failed, the text goes to the log.
    fn keep(&self, target: &str, lun: u16, reservations: &[u8]) -> Result<(), String>;

    /// Who may ask for the list of targets.
    fn discovery(&self) -> Access {
        Access::Open
    }
}

/// The bounds of what initiators may cost.
#[derive(Debug, Clone, Copy)]
pub struct IscsiLimits {
    /// Connections at a time. One more is hung up on.
    pub connections: usize,
    /// How long an initiator may take to log in, lookups not counted.
    pub login: Duration,
    /// How long an initiator may take next to nothing of answers that wait for it; then it is hung up on.
    pub stall: Duration,
    /// Bytes of commands that were given room and of answers that all connections may hold, as
    /// [`Limits::memory`](crate::Limits::memory) has it. What comes unasked of commands that wait has its limit in `protocol`.
    pub memory: u64,
    /// What each connection may hold.
    pub protocol: gateway_iscsi::Limits,
}

impl Default for IscsiLimits {
    fn default() -> Self {
        Self {
            connections: 256,
            login: Duration::from_secs(10),
            stall: Duration::from_secs(120),
            memory: 1 << 30,
            protocol: gateway_iscsi::Limits::default(),
        }
    }
}
