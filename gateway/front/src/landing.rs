//! The writes that are under way on each export, those of connections that are gone included.
//!
//! A client whose connection broke comes back and sends its writes again, and newer ones. Those of the old connection may still
//! wait for the disk, which does them in any order: they must not land on top. So who opens an export waits until the writes are
//! over that were under way there then ([`Shores::bar`]); whatever became of their connections, each is known until its ticket
//! is. And what an old connection has received and not begun is not begun any more once its client has hung up: that may be told
//! behind all that it had sent, so that each write is in doubt until everything that had come was read ([`Shore::trust`]).
//!
//! An iSCSI unit knows the claims of its commands and does the same with them (`gateway_iscsi`).

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tap_block::{Answered, BlockDevice, CompletionQueue, Ticket};

/// What connections of a front write to, by the name of the export.
#[derive(Debug, Default)]
pub(crate) struct Shores {
    exports: Mutex<HashMap<String, Vec<Weak<Shore>>>>,
}

/// The writes of one connection. It is there as long as the connection or one of them is.
#[derive(Debug, Default)]
pub(crate) struct Shore {
    writes: Mutex<Writes>,
    /// The number of the newest doubt, as long as there is one; none has 0.
    doubt: AtomicU64,
}

#[derive(Debug, Default)]
struct Writes {
    under_way: BTreeSet<u64>,
    next: u64,
    /// Dropped when all writes before a number are over.
    waiting: Vec<(u64, Arc<Ticket>)>,
    /// So often somebody else has opened the export.
    doubts: u64,
}

/// Somebody else has opened the export, and may be the client itself, here again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Doubt(u64);

/// A write that may be handed to its device.
pub(crate) struct Begun {
    /// Where its outcome goes.
    pub(crate) queue: Arc<dyn CompletionQueue>,
    /// Is its client perhaps gone, and here again already? Then this write must not be done.
    pub(crate) doubt: Option<Doubt>,
}

/// One of them on its way: over when this is dropped.
struct Landing {
    queue: Arc<dyn CompletionQueue>,
    shore: Arc<Shore>,
    no: u64,
    /// Whoever opens it next has to find this very device.
    _device: Arc<dyn BlockDevice>,
}

impl Shores {
    /// A connection opens `export`: its own writes will be known by what comes back. `ticket` is dropped, or completed, when those
    /// are over that are under way there now.
    pub(crate) fn open(&self, export: &str, ticket: Ticket) -> Arc<Shore> {
        let (own, ticket) = (Arc::new(Shore::default()), Arc::new(ticket));
        let mut exports = self.exports.lock().unwrap_or_else(PoisonError::into_inner);
        exports.retain(|_, shores| {
            shores.retain(|shore| shore.strong_count() > 0);
            !shores.is_empty()
        });
        let shores = exports.entry(export.to_owned()).or_default();
        shores.iter().filter_map(Weak::upgrade).for_each(|shore| shore.bar(&ticket));
        shores.push(Arc::downgrade(&own));
        own
    }
}

impl Shore {
    /// A write begins.
    pub(crate) fn begin(
        self: &Arc<Self>,
        queue: Arc<dyn CompletionQueue>,
        device: &Arc<dyn BlockDevice>,
    ) -> Begun {
        let mut writes = self.lock();
        let no = writes.next;
        writes.next += 1;
        writes.under_way.insert(no);
        let doubt = self.doubt();
        drop(writes);
        let landing = Landing { queue, shore: Arc::clone(self), no, _device: Arc::clone(device) };
        Begun { queue: Arc::new(landing), doubt }
    }

    /// Is its client in doubt?
    pub(crate) fn doubt(&self) -> Option<Doubt> {
        Some(self.doubt.load(Ordering::Acquire)).filter(|no| *no > 0).map(Doubt)
    }

    /// All that the client had sent was read after `doubt` came up, and it is still there: what it sends from here on is no older
    /// than what others do. Nothing changes when somebody has come since.
    pub(crate) fn trust(&self, doubt: Doubt) {
        // Who comes now has come before, or is a newer doubt.
        let _ = self.doubt.compare_exchange(doubt.0, 0, Ordering::AcqRel, Ordering::Relaxed);
    }

    fn bar(&self, ticket: &Arc<Ticket>) {
        let mut writes = self.lock();
        writes.doubts += 1;
        self.doubt.store(writes.doubts, Ordering::Release);
        if !writes.under_way.is_empty() {
            let before = writes.next;
            writes.waiting.push((before, Arc::clone(ticket)));
        }
    }

    fn end(&self, no: u64) {
        let mut writes = self.lock();
        writes.under_way.remove(&no);
        let oldest = writes.under_way.first().copied().unwrap_or(u64::MAX);
        let free = writes.waiting.extract_if(.., |(before, _)| *before <= oldest).collect::<Vec<_>>();
        drop(writes);
        drop(free);
    }

    fn lock(&self) -> MutexGuard<'_, Writes> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CompletionQueue for Landing {
    fn complete(&self, tag: u64, answered: Answered) {
        self.queue.complete(tag, answered);
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.shore.end(self.no);
    }
}

#[cfg(test)]
mod tests {
    use tap_block::memory::MemoryDevice;

    use super::*;
    use crate::mailbox::{Mailbox, Stop};

    /// Has what was waited for come?
    fn has_come(mailbox: &Mailbox) -> bool {
        let mut done = Vec::new();
        assert_eq!(mailbox.take(&mut done), Stop::Run);
        !done.is_empty()
    }

    #[test]
    fn who_opens_an_export_waits_for_what_is_under_way_there_and_for_nothing_newer() {
        let device: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::new(4096));
        let (shores, mailbox, others) = (Shores::default(), Arc::<Mailbox>::default(), Arc::default());
        let others: Arc<Mailbox> = others;
        let ticket = || Ticket::new(1, mailbox.clone());
        let first = shores.open("a", ticket());
        assert!(has_come(&mailbox), "there is nobody to wait for");
        let begin = |shore: &Arc<Shore>| shore.begin(others.clone(), &device);
        let (one, two) = (begin(&first), begin(&first));
        assert_eq!((one.doubt, two.doubt), (None, None));
        let second = shores.open("a", ticket());
        let elsewhere = shores.open("b", Ticket::new(2, others.clone()));
        assert!(has_come(&others) && !has_come(&mailbox));
        // What begins now is in doubt, and nobody waits for it; the connection itself may be gone.
        let three = begin(&first);
        assert!(three.doubt.is_some() && begin(&second).doubt.is_none());
        drop((first, two));
        assert!(!has_come(&mailbox));
        drop(one);
        assert!(has_come(&mailbox));
        // The next one waits for the third, whose connection is gone.
        let _third = shores.open("a", ticket());
        assert!(!has_come(&mailbox));
        drop(three);
        assert!(has_come(&mailbox));
        drop((second, elsewhere));
    }

    #[test]
    fn a_client_is_in_doubt_until_it_is_trusted_and_again_for_whoever_comes_then() {
        let device: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::new(4096));
        let (shores, mailbox) = (Shores::default(), Arc::<Mailbox>::default());
        let open = || shores.open("a", Ticket::new(1, mailbox.clone()));
        let (first, _second) = (open(), open());
        let begin = || first.begin(mailbox.clone(), &device).doubt;
        let doubt = begin().unwrap();
        assert_eq!(begin(), Some(doubt), "having looked once says nothing of what is still to be read");
        let _third = open();
        first.trust(doubt);
        let newer = begin().unwrap();
        assert_ne!(newer, doubt, "the third came after all was read");
        first.trust(newer);
        assert_eq!((begin(), first.doubt()), (None, None));
    }
}
