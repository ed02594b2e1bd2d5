//! The names held still, on disk, so that a client that reconnects after a restart of the gateway still sees
//! the disk it was reading.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tap_block::{Clock, Lsn, VolumeId};
use tap_disk::small_file;

use crate::leases::{Frozen, LeaseKey, Leases};

/// Leases with their file.
pub(crate) struct LeaseFile {
    leases: Mutex<Leases>,
    path: PathBuf,
    /// Held while writing, so that an older state never replaces a newer one.
    writing: Mutex<()>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    client: String,
    name: String,
    volume: u64,
    point: u64,
}

impl LeaseFile {
    /// Takes over what an earlier life held. A file that cannot be read is no reason not to start.
    pub(crate) fn open(path: PathBuf, clock: &dyn Clock) -> Self {
        let bytes = small_file::read(&path).ok().flatten().unwrap_or_default();
        let lines: Vec<Line> = serde_json::from_slice(&bytes).unwrap_or_default();
        let held = lines.into_iter().filter_map(Line::into_lease);
        let leases = Mutex::new(Leases::restored(held, clock.monotonic()));
        Self { leases, path, writing: Mutex::default() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down what is held now. Should that fail, the names are still held until the next restart.
    pub(crate) fn save(&self) {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<Line> = self.lock().held().map(Line::of).collect();
        let written = serde_json::to_vec(&lines).map_err(std::io::Error::other);
        if let Err(e) = written.and_then(|bytes| small_file::write_atomic(&self.path, &bytes)) {
            tracing::warn!("which client sees which moment is not written down: {e}");
        }
    }
}

impl Line {
    fn of((key, frozen): (&LeaseKey, Frozen)) -> Self {
        let (client, name) = (key.client.clone(), key.name.clone());
        Self { client, name, volume: frozen.volume.get(), point: frozen.point.get() }
    }

    fn into_lease(self) -> Option<(LeaseKey, Frozen)> {
        let frozen = Frozen { volume: VolumeId::new(self.volume), point: Lsn::new(self.point)? };
        Some((LeaseKey { client: self.client, name: self.name }, frozen))
    }
}
