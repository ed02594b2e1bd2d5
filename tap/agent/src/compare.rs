//! Finding out what the gateways have, so that after an unwatched change or an unclean stop only what differs is
//! copied.
//!
//! An inquiry never holds a sync up for good: who does not answer for [`PATIENCE`] is not asked any more in this run,
//! and everything is copied.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use cx_link::Querier;
use cx_wire::{AskCode, Hashes, Lookup};
use tap_block::{Extent, Lsn, VolumeId};
use tap_splitter::{Compared, CopyTask};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::volume::Volume;

/// How long no answer is waited for, in all, before everything is copied.
const PATIENCE: Duration = Duration::from_secs(30);
/// One answer may take this long.
const LIMIT: Duration = Duration::from_secs(10);
/// Between a question without an answer and the next.
const AGAIN: Duration = Duration::from_millis(200);
/// Inquiries at a time; one more is not made, and its stretch copied. (The splitter has fewer copies under way.)
const AT_A_TIME: usize = 8;

/// How the content of `extent` differs from what was `found`; `None` when that is not of this extent.
pub(crate) fn compare(seed: u64, extent: Extent, content: &Bytes, found: &Hashes) -> Option<Compared> {
    let differs = cx_delta::differing(seed, extent, content, &found.hashes);
    let differs = differs.inspect_err(|e| tracing::warn!("{extent}: {e}")).ok()?;
    Some(Compared { at: found.at, differs })
}

/// The way to the task that asks.
#[derive(Debug)]
pub(crate) struct Inquiry {
    tasks: mpsc::Sender<(CopyTask, Lsn)>,
    seed: u64,
}

impl Inquiry {
    /// Starts the task; it ends with the volume. `seed` is of this run alone.
    pub(crate) fn spawn(volume: Weak<Volume>, querier: Querier, id: VolumeId, seed: u64) -> Self {
        let (sender, mut tasks) = mpsc::channel(AT_A_TIME);
        let asker = Arc::new(Asker { volume, querier, id, seed, patience: Mutex::new(Patience::Fresh) });
        tokio::spawn(async move {
            while let Some((task, after)) = tasks.recv().await {
                tokio::spawn(Arc::clone(&asker).inquire(task, after));
            }
        });
        Self { tasks: sender, seed }
    }

    /// Asks what the gateways have there; [`Volume::told`] is called with what comes of it. False when it need not or
    /// cannot be asked.
    pub(crate) fn ask(&self, task: CopyTask) -> bool {
        task.compare.is_some_and(|after| self.tasks.try_send((task, after)).is_ok())
    }

    /// Of the hashes.
    pub(crate) const fn seed(&self) -> u64 {
        self.seed
    }
}

struct Asker {
    volume: Weak<Volume>,
    querier: Querier,
    id: VolumeId,
    seed: u64,
    patience: Mutex<Patience>,
}

#[derive(Debug, Clone, Copy)]
enum Patience {
    /// Nothing was asked, or the last question was answered.
    Fresh,
    Until(Instant),
    Over,
}

impl Asker {
    async fn inquire(self: Arc<Self>, task: CopyTask, after: Lsn) {
        let found = self.find(task, after).await;
        if let Some(volume) = self.volume.upgrade() {
            volume.told(task.copy, found);
        }
    }

    async fn find(&self, task: CopyTask, after: Lsn) -> Option<Hashes> {
        let lookup = Lookup { volume: self.id, extent: task.extent.to_blocks(), after, seed: self.seed };
        while let Some(left) = self.time_left() {
            match self.querier.query(lookup, left.min(LIMIT)).await {
                // An older point than asked for: records on their way may still change what it shows.
                Ok(found) if found.at < after => {}
                Ok(found) => {
                    self.set(Patience::Fresh);
                    return Some(found);
                }
                Err(e) if matches!(e.code, AskCode::NotReachable | AskCode::Timeout) => {}
                Err(e) => {
                    tracing::info!("{} is copied without comparing: {e}", task.extent);
                    return None;
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
        None
    }

    /// `None` when no answer is to be expected any more.
    fn time_left(&self) -> Option<Duration> {
        let mut patience = self.patience.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match *patience {
            Patience::Fresh => {
                *patience = Patience::Until(now + PATIENCE);
                Some(PATIENCE)
            }
            Patience::Until(end) if now < end => Some(end - now),
            Patience::Until(_) => {
                tracing::warn!(
                    "the gateways do not tell what they have: everything that may differ is copied"
                );
                *patience = Patience::Over;
                None
            }
            Patience::Over => None,
        }
    }

    fn set(&self, patience: Patience) {
        *self.patience.lock().unwrap_or_else(PoisonError::into_inner) = patience;
    }
}
