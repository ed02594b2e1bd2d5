//! Operations on the local disk, one after the other instead of one inside the other.
//!
//! A disk that has the answer at hand completes before `submit` returns, and a completion may lead to the next operation:
//! a thousand writes that waited for one another would nest a thousand deep. So whoever is at it on a thread already only
//! queues.

use std::cell::RefCell;
use std::collections::VecDeque;

use tap_block::{BlockDevice, Op, Ticket};

/// An operation that is due: where, what, and who hears of it.
pub(crate) type Due<D> = (std::sync::Arc<D>, Op, Ticket);

type Queue = VecDeque<Due<dyn BlockDevice>>;

thread_local! {
    /// `Some` while this thread runs operations.
    static DUE: RefCell<Option<Queue>> = const { RefCell::new(None) };
}

/// Runs `due`, and whatever becomes due through it on this thread, in order.
pub(crate) fn run(due: impl IntoIterator<Item = Due<dyn BlockDevice>>) {
    if !enter(due) {
        return;
    }
    let _leave = Leave;
    while let Some((disk, op, ticket)) = next() {
        disk.submit(op, ticket);
    }
}

/// Queues `due`; true when this thread was not at it already.
fn enter(due: impl IntoIterator<Item = Due<dyn BlockDevice>>) -> bool {
    DUE.with_borrow_mut(|queue| match queue {
        Some(queue) => {
            queue.extend(due);
            false
        }
        None => {
            *queue = Some(due.into_iter().collect());
            true
        }
    })
}

fn next() -> Option<Due<dyn BlockDevice>> {
    DUE.with_borrow_mut(|queue| queue.as_mut()?.pop_front())
}

/// Even a panic leaves the thread able to run operations.
struct Leave;

impl Drop for Leave {
    fn drop(&mut self) {
        DUE.with_borrow_mut(|queue| *queue = None);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use tap_block::memory::MemoryDevice;
    use tap_block::{Answered, CompletionQueue, Extent};

    use super::*;

    /// Each completion leads to the next operation.
    struct Chain {
        disk: Arc<MemoryDevice>,
        left: AtomicU64,
    }

    impl CompletionQueue for Chain {
        fn complete(&self, tag: u64, _: Answered) {
            if self.left.fetch_sub(1, Ordering::Relaxed) > 1 {
                let next = Arc::new(Self {
                    disk: Arc::clone(&self.disk),
                    left: AtomicU64::new(self.left.load(Ordering::Relaxed)),
                });
                run([read(&next.disk.clone(), next, tag + 1)]);
            }
        }
    }

    fn read(disk: &Arc<MemoryDevice>, chain: Arc<Chain>, tag: u64) -> Due<dyn BlockDevice> {
        let op = Op::Read { extent: Extent::between(0, 1) };
        (Arc::clone(disk) as Arc<dyn BlockDevice>, op, Ticket::new(tag, chain))
    }

    #[test]
    fn a_long_chain_of_immediate_completions_does_not_nest() {
        let disk = Arc::new(MemoryDevice::new(4096));
        let chain = Arc::new(Chain { disk: Arc::clone(&disk), left: AtomicU64::new(1_000_000) });
        run([read(&disk, chain, 0)]);
        assert!(enter([]), "the thread is free again");
        drop(Leave);
    }
}
