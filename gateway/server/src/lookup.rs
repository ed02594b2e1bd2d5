//! Telling a tap what a stretch of its volume looks like here, so that it copies only what differs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cx_link::Found;
use cx_wire::{AskCode, AskError, Hashes, Lookup};
use gateway_store::Store;
use tap_block::{Lsn, StreamId};
use tokio::sync::{Semaphore, watch};

use crate::device::{Image, read_blocking};

/// How long a query waits for the record it asks for, and the next time for its turn.
const PATIENCE: Duration = Duration::from_secs(5);
/// Read and hashed at a time.
const PIECE: u64 = 1 << 20;
/// Lookups that read at a time, of all streams together; the others wait. The rest of the disk is for ingest.
pub(crate) const READERS: usize = 4;

/// One stream's place to look.
pub(crate) struct Looker {
    pub(crate) store: Arc<Store>,
    pub(crate) stream: StreamId,
    pub(crate) progress: watch::Receiver<()>,
    pub(crate) readers: Arc<Semaphore>,
}

impl Looker {
    /// Waits for `lookup.after` to be durable here, then hashes what the newest durable point shows.
    pub(crate) async fn look_up(mut self, lookup: Lookup) -> Found {
        let reached = tokio::time::timeout(PATIENCE, self.wait_for(lookup.after)).await;
        let at = reached.map_err(|_| too_late(lookup.after))??;
        let turn = tokio::time::timeout(PATIENCE, Arc::clone(&self.readers).acquire_owned()).await;
        let _turn = turn.map_err(|_| busy())?.map_err(failed)?;
        let hashed = tokio::task::spawn_blocking(move || self.hash(&lookup, at)).await;
        hashed.map_err(failed)?
    }

    /// The last durable record, once that is `after` or later.
    async fn wait_for(&mut self, after: Lsn) -> Result<Lsn, AskError> {
        loop {
            self.progress.mark_unchanged();
            match self.store.durable(self.stream) {
                Some(durable) if durable.lsn >= after => return Ok(durable.lsn),
                _ => self.progress.changed().await.map_err(failed)?,
            }
        }
    }

    fn hash(&self, lookup: &Lookup, at: Lsn) -> Found {
        let catalogue = self.store.catalogue();
        let volume = catalogue.volume(lookup.volume).filter(|v| v.stream() == self.stream);
        let volume = volume.ok_or_else(|| {
            AskError::new(AskCode::NotFound, format!("there is no {} in {}", lookup.volume, self.stream))
        })?;
        let image =
            Image::open(Arc::clone(&self.store), lookup.volume, at, volume.size_at(at)).map_err(failed)?;
        let mut hashes = Vec::with_capacity(lookup.hash_bytes());
        for piece in lookup.extent.split_at_multiples(PIECE) {
            let content = read_blocking(&image, piece).map_err(failed)?;
            hashes.extend(cx_delta::hashes(lookup.seed, &content));
        }
        Ok(Hashes { at, hashes: Bytes::from(hashes) })
    }
}

fn too_late(after: Lsn) -> AskError {
    AskError::new(AskCode::Timeout, format!("{after} is not durable here yet: ask again later"))
}

fn busy() -> AskError {
    AskError::new(AskCode::Timeout, "too much is being looked up here: ask again later")
}

fn failed(error: impl std::fmt::Display) -> AskError {
    AskError::new(AskCode::Failed, error.to_string())
}
