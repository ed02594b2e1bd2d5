//! The CX as a whole: started, stopped, asked how it is.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cx_link::{Address, Downlink, Hub, Listener};
use tap_block::Clock;
use tap_disk::{DirLock, LockError, RealClock};
use tokio::runtime::Handle;

use crate::acknowledged::Acknowledged;
use crate::books::Books;
use crate::heads::Heads;
use crate::intake::Streams;
use crate::status::CxStatus;
use crate::stream::Surroundings;

/// What a CX needs to know.
#[derive(Debug, Clone)]
pub struct CxConfig {
    /// Its own directory.
    pub data: PathBuf,
    /// Where taps connect.
    pub listen: Vec<Address>,
    /// The gateways, by name. Every stream goes to each of them.
    pub gateways: Vec<(String, Address)>,
    /// The switchboard for `mem:` addresses.
    pub hub: Hub,
    /// Limits of each stream.
    pub limits: Limits,
}

/// Limits of each stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes a tap may send ahead of the acknowledgements. At the limit it waits.
    pub credit: u64,
    /// Records go to the spool while a gateway has made nothing durable for so long, or lags ten times as much.
    pub spill_after: Duration,
    /// So do the oldest when more than this waits in memory; more than `credit`, lest a busy gateway cause it.
    pub spill_above: u64,
    /// Bytes a spool may hold. At the limit the tap is acknowledged nothing more, until a gateway catches up.
    pub spool_limit: u64,
    /// The size of a spool file.
    pub segment_len: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            credit: 32 << 20,
            spill_after: Duration::from_millis(200),
            spill_above: 48 << 20,
            spool_limit: 64 << 30,
            segment_len: cx_link::outbox::DriverConfig::SEGMENT_LEN,
        }
    }
}

impl Limits {
    pub(crate) const fn outbox(&self) -> cx_spool::Config {
        cx_spool::Config {
            // The link lets a sender exceed its credit a little before it calls it a fault.
            memory_limit: self.credit.saturating_mul(2),
            spill_after: Some(self.spill_after),
            spill_above: self.spill_above,
            disk_limit: self.spool_limit,
            read_ahead: 4 << 20,
            detect_holes: true,
        }
    }
}

/// Why a CX does not start.
#[derive(Debug, thiserror::Error)]
pub enum CxError {
    /// Another one works in its data directory, or the directory is not to be had.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Its data directory cannot be read or written.
    #[error("the CX cannot use its data directory {path}: {error}; check its file system and permissions")]
    Data {
        /// The directory.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// An address is not to be had.
    #[error("the CX cannot listen at {address}: {error}; choose another address or end what listens there")]
    Listen {
        /// The address.
        address: Address,
        /// Why not.
        error: io::Error,
    },
}

/// The CX.
#[derive(Debug)]
pub struct Cx;

/// A CX at work. Dropped without [`CxHandle::stop`] it goes on until its runtime ends, as if killed then.
pub struct CxHandle {
    streams: Arc<Streams>,
    downlink: Downlink,
    addresses: Vec<Address>,
    _lock: DirLock,
}

impl Cx {
    /// Starts a CX on the current tokio runtime: takes up the spools it finds, connects to the gateways, listens.
    ///
    /// # Errors
    /// [`CxError`].
    pub async fn start(config: CxConfig) -> Result<CxHandle, CxError> {
        let (wanted, runtime) = (config.clone(), Handle::current());
        let opened = tokio::task::spawn_blocking(move || open(wanted, runtime)).await;
        let (lock, streams) = opened.map_err(|e| CxError::Data {
            path: config.data.clone(),
            error: io::Error::other(e.to_string()),
        })??;
        let downlink = Downlink::new(streams.clone());
        let mut addresses = Vec::new();
        for address in &config.listen {
            let listener = Listener::bind(address, &config.hub)
                .await
                .map_err(|error| CxError::Listen { address: address.clone(), error })?;
            addresses.push(listener.address().clone());
            downlink.listen(listener);
        }
        Ok(CxHandle { streams, downlink, addresses, _lock: lock })
    }
}

fn open(config: CxConfig, runtime: Handle) -> Result<(DirLock, Arc<Streams>), CxError> {
    let CxConfig { data, gateways, hub, limits, .. } = config;
    let unusable = |error| CxError::Data { path: data.clone(), error };
    tap_disk::ensure_dir(&data).map_err(unusable)?;
    let lock = DirLock::acquire(&data)?;
    let books = Books::open(&data).map_err(unusable)?;
    let clock = Arc::new(RealClock) as Arc<dyn Clock>;
    let names = gateways.iter().map(|(name, _)| name.clone()).collect();
    let heads = Arc::new(Heads::open(&data, Arc::clone(&clock), names).map_err(unusable)?);
    let acknowledged = Arc::new(Acknowledged::open(&data, Arc::clone(&clock)).map_err(unusable)?);
    let around = Surroundings { gateways, hub, clock, runtime, heads, acknowledged };
    let streams = Streams::open(books, limits, around).map_err(unusable)?;
    Ok((lock, Arc::new(streams)))
}

impl CxHandle {
    /// How it is doing.
    #[must_use]
    pub fn status(&self) -> CxStatus {
        self.streams.status()
    }

    /// Where it listens, with real port numbers.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Ends it: taps are told goodbye, gateways get what they take within moments, the spool keeps the rest.
    pub async fn stop(self) {
        let streams = self.streams.close();
        self.downlink.stop().await;
        let stopping: Vec<_> =
            streams.into_iter().map(|stream| tokio::spawn(async move { stream.stop().await })).collect();
        for stopped in stopping {
            if let Err(error) = stopped.await {
                tracing::error!(%error, "a stream failed while it stopped");
            }
        }
        let kept = self.streams.acknowledged();
        // Late is no error: what was acknowledged last is not known then.
        let _ = tokio::task::spawn_blocking(move || kept.flush()).await;
    }
}

impl std::fmt::Debug for CxHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CxHandle").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}
