//! The names held still, on disk, so that a client that reconnects after a restart of the gateway still sees
//! the disk it was reading. A moment is one of a store: in another one the same record may not be there, and what is shown
//! then is no disk that ever was. So each store's wait in the file until it is in use.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use gateway_journal::StoreId;
use serde::{Deserialize, Serialize};
use tap_block::{Clock, Lsn, VolumeId};
use tap_disk::small_file;

use crate::leases::{Frozen, LeaseKey, Leases};

/// Leases with their file.
pub(crate) struct LeaseFile {
    leases: Mutex<Leases>,
    path: PathBuf,
    store: StoreId,
    /// What clients saw of other stores.
    others: Vec<Line>,
    /// Held while writing, so that an older state never replaces a newer one.
    writing: Mutex<()>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Line {
    client: String,
    name: String,
    volume: u64,
    point: u64,
    /// An earlier program did not say which it was.
    #[serde(default)]
    store: Option<u64>,
}

/// Lines of other stores that are kept, the last of them: none is of use ten minutes after its store is back.
const MOST_OTHERS: usize = 10_000;

impl LeaseFile {
    /// Takes over what an earlier life held of this store. A file that cannot be read is no reason not to start.
    pub(crate) fn open(path: PathBuf, store: StoreId, clock: &dyn Clock) -> Self {
        let bytes = small_file::read(&path).ok().flatten().unwrap_or_default();
        let lines: Vec<Line> = serde_json::from_slice(&bytes).unwrap_or_default();
        let is_own = |line: &Line| line.store.is_none_or(|of| of == store.get());
        let (own, mut others): (Vec<Line>, Vec<Line>) = lines.into_iter().partition(is_own);
        others.drain(..others.len().saturating_sub(MOST_OTHERS));
        let held = own.into_iter().filter_map(Line::into_lease);
        let leases = Mutex::new(Leases::restored(held, clock.monotonic()));
        Self { leases, path, store, others, writing: Mutex::default() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down what is held now. Should that fail, the names are still held until the next restart.
    pub(crate) fn save(&self) {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let own: Vec<Line> = self.lock().held().map(|held| Line::of(held, self.store)).collect();
        let lines = [self.others.clone(), own].concat();
        let written = serde_json::to_vec(&lines).map_err(std::io::Error::other);
        if let Err(e) = written.and_then(|bytes| small_file::write_atomic(&self.path, &bytes)) {
            tracing::warn!("which client sees which moment is not written down: {e}");
        }
    }
}

impl Line {
    fn of((key, frozen): (&LeaseKey, Frozen), store: StoreId) -> Self {
        let (client, name) = (key.client.clone(), key.name.clone());
        let (volume, point, store) = (frozen.volume.get(), frozen.point.get(), Some(store.get()));
        Self { client, name, volume, point, store }
    }

    fn into_lease(self) -> Option<(LeaseKey, Frozen)> {
        let frozen = Frozen { volume: VolumeId::new(self.volume), point: Lsn::new(self.point)? };
        Some((LeaseKey { client: self.client, name: self.name }, frozen))
    }
}

#[cfg(test)]
mod tests {
    use tap_disk::RealClock;

    use super::*;

    fn frozen(point: u64) -> Frozen {
        Frozen { volume: VolumeId::new(1), point: Lsn::new(point).unwrap() }
    }

    #[test]
    fn what_a_client_saw_of_another_store_waits_for_that_store() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("leases.json");
        let open = |store| LeaseFile::open(path.clone(), StoreId::new(store), &RealClock);
        let key = LeaseKey { client: "a".to_owned(), name: "web01".to_owned() };
        let now = RealClock.monotonic();
        let take = |store, point| {
            let file = open(store);
            let held = file.lock().open(key.clone(), frozen(point), now);
            file.save();
            held
        };
        assert_eq!(take(1, 7), frozen(7));
        assert_eq!(take(2, 3), frozen(3), "the record 7 is another one here, or none");
        assert_eq!((take(1, 9), take(2, 9)), (frozen(7), frozen(3)));
        // As an earlier program wrote it.
        std::fs::write(&path, br#"[{"client":"a","name":"web01","volume":1,"point":7}]"#).unwrap();
        assert_eq!(take(2, 3), frozen(7));
    }
}
