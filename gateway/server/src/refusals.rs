//! Batches that the store has no room for. To drop one ends its connection, and a sender that comes back only to be refused again
//! comes back ever more slowly; but everything else that goes over the link is wanted just then: where the tap is, a bookmark. So the
//! connection stands for a while, and the sender's credit says how much comes meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cx_link::BatchDone;
use gateway_store::Store;
use tap_block::StreamId;

/// How often it is looked whether there is room again.
const LOOK_EACH: Duration = Duration::from_millis(500);
/// After so many looks the sender is to try again: longer than what makes a connection one that lasted, for it.
const LOOKS: u32 = 12;

/// What was refused of a stream and is to be sent again.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    inner: Mutex<Inner>,
    /// The last batch could not be stored.
    last: AtomicBool,
}

#[derive(Debug, Default)]
struct Inner {
    /// A connection stands.
    open: bool,
    kept: Vec<BatchDone>,
}

impl Refusals {
    /// A connection stands.
    pub(crate) fn open(&self) {
        self.lock().open = true;
    }

    /// It is gone; what was kept comes again over the next.
    pub(crate) fn close(&self) {
        self.lock().open = false;
        self.let_go();
    }

    /// Keeps what was refused, as long as the connection stands.
    pub(crate) fn keep(&self, done: BatchDone) {
        let mut inner = self.lock();
        if inner.open {
            inner.kept.push(done);
        }
    }

    /// Keeps what comes behind something that was refused: it has to come again, too. `Err`: nothing was.
    pub(crate) fn follow(&self, done: BatchDone) -> Result<(), BatchDone> {
        let mut inner = self.lock();
        if inner.kept.is_empty() {
            return Err(done);
        }
        inner.kept.push(done);
        Ok(())
    }

    /// What was kept is sent again, over another connection.
    fn let_go(&self) {
        let kept = std::mem::take(&mut self.lock().kept);
        drop(kept);
    }

    fn is_keeping(&self) -> bool {
        !self.lock().kept.is_empty()
    }

    /// The last batch was stored.
    pub(crate) fn stored(&self) {
        self.last.store(false, Ordering::Relaxed);
    }

    /// The last batch was not; was the one before?
    pub(crate) fn is_new(&self) -> bool {
        !self.last.swap(true, Ordering::Relaxed)
    }

    /// Was the last batch refused? Then a link that is down is about to come back.
    pub(crate) fn is_last(&self) -> bool {
        self.last.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has what was refused sent again when there is room, and by and by in any case. Runs while the link stands.
pub(crate) async fn send_again_when_there_is_room(
    refusals: Arc<Refusals>,
    store: Arc<Store>,
    stream: StreamId,
) {
    let mut looks = 0;
    loop {
        tokio::time::sleep(LOOK_EACH).await;
        if !refusals.is_keeping() {
            looks = 0;
            continue;
        }
        looks += 1;
        if looks >= LOOKS || store.has_room_for(stream) {
            refusals.let_go();
        }
    }
}
