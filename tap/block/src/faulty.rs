//! A decorator that breaks a device on purpose: operations fail, or wait until the test lets them go.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::device::{BlockDevice, DeviceError, Geometry, Op, Ticket};
use crate::name::Name;

/// What to do with an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Pass it on.
    None,
    /// Refuse it without touching the device.
    Fail(DeviceError),
    /// Keep it until [`FaultyDevice::release`].
    Hold,
}

/// A device whose faults a closure decides, operation by operation.
pub struct FaultyDevice<D, F> {
    inner: D,
    decide: F,
    held: Mutex<VecDeque<(Op, Ticket)>>,
}

impl<D: BlockDevice, F: Fn(&Op) -> Fault + Send + Sync> FaultyDevice<D, F> {
    /// Breaks `inner` as `decide` says.
    pub fn new(inner: D, decide: F) -> Self {
        Self { inner, decide, held: Mutex::new(VecDeque::new()) }
    }

    /// The device behind.
    pub fn inner(&self) -> &D {
        &self.inner
    }

    /// How many operations are held.
    pub fn held(&self) -> usize {
        self.queue().len()
    }

    /// Passes the `n`-th held operation on (in any order the caller likes); `false` when there is none.
    pub fn release(&self, n: usize) -> bool {
        let taken = self.queue().remove(n);
        match taken {
            Some((op, ticket)) => {
                self.inner.submit(op, ticket);
                true
            }
            None => false,
        }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<(Op, Ticket)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: BlockDevice, F: Fn(&Op) -> Fault + Send + Sync> BlockDevice for FaultyDevice<D, F> {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn submit(&self, op: Op, ticket: Ticket) {
        match (self.decide)(&op) {
            Fault::None => self.inner.submit(op, ticket),
            Fault::Fail(error) => ticket.complete(Err(error)),
            Fault::Hold => self.queue().push_back((op, ticket)),
        }
    }

    fn has_bookmark(&self, name: &Name) -> bool {
        self.inner.has_bookmark(name)
    }

    fn newest_bookmarks(&self, most: usize) -> Vec<Name> {
        self.inner.newest_bookmarks(most)
    }
}
