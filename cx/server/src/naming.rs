//! Presenting a stream to a gateway that begins in its middle.
//!
//! A gateway knows a volume by the record that starts a run. One that lost everything, or is new, comes in where the
//! resync begins that was asked for because of it, and the marker there names nothing. What it says to this gateway, "a
//! copy of everything begins here, do not ask for what was before", is just what the first record of a run says that
//! begins with a sync; so it is given that instead, in the marker's place, with what the tap's greeting tells.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cx_wire::{Hello, Welcome};
use tap_block::{Action, Batch, Entry, Epoch, Lsn, Marker, RunId, RunStart, SyncCause};

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

    /// Of the tap that greeted last.
    pub(crate) fn epoch(&self) -> Epoch {
        self.hello.lock().unwrap_or_else(PoisonError::into_inner).epoch
    }

    /// Its run.
    pub(crate) fn run(&self) -> RunId {
        self.hello.lock().unwrap_or_else(PoisonError::into_inner).run
    }

    /// A connection stands.
    pub(crate) fn ready(&self, welcome: &Welcome) {
        self.nameless.store(welcome.durable == Lsn::ZERO, Ordering::Release);
    }

    /// What the gateway is given for `batch`.
    pub(crate) fn name(&self, batch: Arc<Batch>) -> Arc<Batch> {
        if let Some(size) = batch.entries.iter().rev().find_map(|e| resized(&e.action)) {
            self.hello.lock().unwrap_or_else(PoisonError::into_inner).size = size;
        }
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

/// What the tap greeted with is older than this.
const fn resized(action: &Action) -> Option<u64> {
    if let Action::Resize { size, .. } = action { Some(*size) } else { None }
}

fn announced(action: &Action) -> Option<SyncCause> {
    let Action::Mark(marker) = action else { return None };
    match marker.as_ref() {
        Marker::SyncStart { cause: cause @ SyncCause::HopLost } => Some(*cause),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use tap_block::WallTime;
    use testbed_model::BatchBuilder;

    use super::*;
    use crate::tap::tests::hello;

    #[test]
    fn a_gateway_that_comes_in_late_is_told_the_size_that_the_disk_has_by_then() {
        let naming = Naming::new(Arc::new(Mutex::new(hello(7, 1, 1))));
        let whose = hello(7, 1, 1);
        let batch = |lsn| {
            let first = Lsn::new(lsn).unwrap();
            BatchBuilder::new(whose.stream, whose.volume, whose.run, first, WallTime::EPOCH)
        };
        let (mut grown, mut lost) = (batch(2), batch(3));
        grown.resize(2 << 30);
        lost.mark(Marker::SyncStart { cause: SyncCause::HopLost });
        naming.nameless.store(false, Ordering::Release);
        naming.name(Arc::new(grown.build()));
        naming.nameless.store(true, Ordering::Release);
        let named = naming.name(Arc::new(lost.build()));
        let Action::Mark(start) = &named.entries[0].action else { panic!("{named:?}") };
        assert!(matches!(&**start, Marker::RunStart(run) if run.size == 2 << 30), "{start:?}");
    }
}
