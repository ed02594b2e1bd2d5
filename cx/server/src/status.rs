//! How the CX is doing, as plain values.

use cx_link::{Address, UplinkState};
use cx_spool::ConsumerView;
use tap_block::{Lsn, Name, StreamId, VolumeId};

/// The whole CX.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CxStatus {
    /// Its streams, in the order of their ids.
    pub streams: Vec<StreamStatus>,
    /// Streams that cannot be served, and why.
    pub problems: Vec<(StreamId, String)>,
    /// Why the heads of gateways' ledgers that were kept once are not known any more; `None`: they are.
    pub heads_lost: Option<String>,
}

/// One stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamStatus {
    /// The stream.
    pub stream: StreamId,
    /// The volume protected.
    pub volume: VolumeId,
    /// Its name.
    pub name: Name,
    /// Its tap is connected.
    pub tap_connected: bool,
    /// The last LSN that the tap told to have assigned.
    pub head: Option<Lsn>,
    /// The last record received.
    pub received: Lsn,
    /// The last record durable at every gateway or in the spool.
    pub durable: Lsn,
    /// The last record durable at every gateway.
    pub everywhere: Lsn,
    /// Bytes that some gateway has not acknowledged.
    pub queued_bytes: u64,
    /// Bytes of them in memory alone.
    pub memory_bytes: u64,
    /// Bytes in the spool.
    pub spooled_bytes: u64,
    /// The spool is at its limit.
    pub spool_full: bool,
    /// What is wrong with the spool's disk.
    pub problem: Option<String>,
    /// Its gateways, as configured.
    pub gateways: Vec<GatewayStatus>,
}

/// One gateway of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayStatus {
    /// Its name in the configuration.
    pub name: String,
    /// Where it is.
    pub address: String,
    /// Records flow.
    pub connected: bool,
    /// The last record durable there, as it said last.
    pub durable: Lsn,
    /// Bytes it has not acknowledged.
    pub lag_bytes: u64,
    /// Its history breaks off after this record; a resync is awaited.
    pub broken_after: Option<Lsn>,
    /// Why it is not connected, or does not take the stream.
    pub problem: Option<String>,
    /// It had less than it had acknowledged when it was reached once since the start: what that means, and what to do.
    pub set_back: Option<String>,
}

impl GatewayStatus {
    pub(crate) fn new(
        name: &str,
        address: &Address,
        view: Option<ConsumerView>,
        state: Option<UplinkState>,
        refused: Option<String>,
    ) -> Self {
        let problem = match state {
            Some(UplinkState::Connecting { problem }) => problem,
            Some(UplinkState::Refused(refuse)) => Some(refuse.detail),
            Some(UplinkState::Connected(_) | UplinkState::Stopped) | None => None,
        };
        Self {
            name: name.to_owned(),
            address: address.to_string(),
            connected: view.is_some_and(|v| v.attached),
            durable: view.map_or(Lsn::ZERO, |v| v.durable),
            lag_bytes: view.map_or(0, |v| v.pending_bytes),
            broken_after: view.and_then(|v| v.broken_after),
            problem: problem.or(refused),
            set_back: None,
        }
    }
}
