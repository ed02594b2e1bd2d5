//! A tap as a whole: its volumes, and the front through which guests use them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cx_link::{Address, Hub};
use gateway_front::{Front, FrontHandle, ListenAddress, ListenError};
use tap_block::Name;
use thiserror::Error;

use crate::exports::Disks;
use crate::protect::{Protected, Upward};
use crate::{Limits, Protect, ProtectError};

/// Guests that are idle are given this long to hear the end of their connections.
const FRONT_DRAIN: Duration = Duration::from_secs(3);

/// What a tap needs to know.
pub struct TapConfig {
    /// Its directory; state lies in `tap/` below it.
    pub data: PathBuf,
    /// The disks.
    pub protect: Vec<Protect>,
    /// Where guests connect.
    pub listen: Vec<ListenAddress>,
    /// The CX.
    pub cx: Address,
    /// The switchboard for in-memory addresses.
    pub hub: Hub,
    /// What may wait.
    pub limits: Limits,
}

/// Why a tap does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A volume cannot be protected.
    #[error(transparent)]
    Protect(#[from] ProtectError),
    /// Two volumes with one name, or one disk twice.
    #[error("{0} is given twice: protect each disk once, under one name")]
    Twice(String),
    /// Nobody could connect.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

/// A running tap.
pub struct Tap {
    volumes: Vec<Protected>,
    front: FrontHandle,
}

/// A volume, for the ready file and for status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeStatus {
    /// Its name.
    pub name: Name,
    /// The disk behind it.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// Where a guest opens it, unix sockets first.
    pub uris: Vec<String>,
}

impl Tap {
    /// Starts protecting and serving. Blocks while disks are opened; must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When a disk cannot be protected or an address cannot be listened on; nothing is left running then.
    pub fn start(config: TapConfig) -> Result<Self, StartError> {
        refuse_doubles(&config.protect)?;
        let upward = Upward { cx: config.cx, hub: config.hub, sender: format!("tap {}", std::process::id()) };
        let dir = config.data.join("tap");
        let mut volumes = Vec::new();
        for what in &config.protect {
            volumes.push(Protected::start(what, &dir, config.limits, &upward)?);
        }
        let exports = Disks(volumes.iter().map(|v| Arc::clone(&v.volume)).collect());
        let front = Front::start(&config.listen, Arc::new(exports), gateway_front::Limits::default())?;
        Ok(Self { volumes, front })
    }

    /// The volumes, in the order in which they were given.
    #[must_use]
    pub fn volumes(&self) -> Vec<VolumeStatus> {
        let status = |p: &Protected| VolumeStatus {
            name: p.volume.name().clone(),
            path: p.path.clone(),
            size: p.size(),
            uris: self.front.uris(p.volume.name().as_str()),
        };
        self.volumes.iter().map(status).collect()
    }

    /// Stops: guests are drained, everything captured is sent or spooled. Takes about `limit` at most; says whether every
    /// volume stopped cleanly (one that did not copies its marked regions at the next start).
    pub async fn stop(self, limit: Duration) -> bool {
        let Self { volumes, front } = self;
        let stopped = tokio::task::spawn_blocking(move || {
            front.drain_and_stop(FRONT_DRAIN);
            let share = limit.saturating_sub(FRONT_DRAIN);
            let stops: Vec<_> =
                volumes.into_iter().map(|v| std::thread::spawn(move || v.stop(share))).collect();
            stops.into_iter().all(|s| s.join().unwrap_or(false))
        });
        stopped.await.unwrap_or(false)
    }
}

fn refuse_doubles(protect: &[Protect]) -> Result<(), StartError> {
    for (i, what) in protect.iter().enumerate() {
        let same = |other: &Protect| other.name == what.name || same_file(other, what);
        if protect.iter().skip(i + 1).any(same) {
            return Err(StartError::Twice(format!("{}={}", what.name, what.path.display())));
        }
    }
    Ok(())
}

fn same_file(a: &Protect, b: &Protect) -> bool {
    let real = |p: &Protect| p.path.canonicalize().unwrap_or_else(|_| p.path.clone());
    real(a) == real(b)
}
