//! Presenting a stream to a gateway that begins in its middle.
//!
//! A gateway knows a volume by the record that starts a run. One that lost everything, or is new, comes in where the
//! resync begins that was asked for because of it, and the marker there names nothing. What it says to this gateway, "a
//! copy of everything begins here, do not ask for what was before", is just what the first record of a run says that
//! begins with a sync; so it is given that instead, in the marker's place, with what the tap's greeting tells.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cx_wire::{Hello, Welcome};
use tap_block::{Action, Batch, Entry, Lsn, Marker, RunStart, SyncCause};

/// Knows whether a gateway can name the volume.
#[derive(Debug)]
pub(crate) struct Naming {
    hello: Arc<Mutex<Hello>>,
    nameless: AtomicBool,
}

impl Naming {
    pub(crate) const fn new(hello: Arc<Mutex<Hello>>) -> Self {
        Self { hello, nameless: AtomicBool::new(true) }
    }

    /// A connection stands.
    pub(crate) fn ready(&self, welcome: &Welcome) {
        self.nameless.store(welcome.durable == Lsn::ZERO, Ordering::Release);
    }

    /// What the gateway is given for `batch`.
    pub(crate) fn name(&self, batch: Arc<Batch>) -> Arc<Batch> {
        if !self.nameless.load(Ordering::Acquire) {
            return batch;
        }
        let Some(at) = batch.entries.iter().position(|e| !e.position.is_copy()) else { return batch };
        self.nameless.store(false, Ordering::Release);
        match batch.entries.get(at).and_then(|e| announced(&e.action)) {
            Some(cause) => Arc::new(self.renamed(&batch, at, cause)),
            None => batch,
        }
    }

    fn renamed(&self, batch: &Batch, at: usize, cause: SyncCause) -> Batch {
        let hello = self.hello.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let start = RunStart {
            previous: None,
            durable: Lsn::ZERO,
            volume: hello.volume,
            name: hello.name,
            size: hello.size,
            sync: Some(cause),
        };
        let mut batch = batch.clone();
        if let Some(Entry { action, .. }) = batch.entries.get_mut(at) {
            *action = Action::Mark(Box::new(Marker::RunStart(start)));
        }
        batch
    }
}

fn announced(action: &Action) -> Option<SyncCause> {
    let Action::Mark(marker) = action else { return None };
    match marker.as_ref() {
        Marker::SyncStart { cause: cause @ SyncCause::HopLost } => Some(*cause),
        _ => None,
    }
}
