//! A device that keeps something alive for as long as a connection uses it.

use std::any::Any;
use std::sync::Arc;

use tap_block::{Base, BlockDevice, Extent, Geometry, Name, Op, Shown, Ticket};

/// A device and what its user holds by using it; dropping it gives that back.
pub(crate) struct Guarded {
    device: Arc<dyn BlockDevice>,
    _held: Box<dyn Any + Send + Sync>,
}

impl Guarded {
    pub(crate) fn new(device: Arc<dyn BlockDevice>, held: impl Any + Send + Sync) -> Self {
        Self { device, _held: Box::new(held) }
    }
}

impl BlockDevice for Guarded {
    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    fn submit(&self, op: Op, ticket: Ticket) {
        self.device.submit(op, ticket);
    }

    fn submit_all(&self, batch: &mut Vec<(Op, Ticket)>) {
        self.device.submit_all(batch);
    }

    fn shown(&self, extent: Extent) -> Option<Shown> {
        self.device.shown(extent)
    }

    fn show(&self, base: Base, from: Extent, to: u64, ticket: Ticket) {
        self.device.show(base, from, to, ticket);
    }

    fn has_bookmark(&self, name: &Name) -> bool {
        self.device.has_bookmark(name)
    }

    fn newest_bookmarks(&self, most: usize) -> Vec<Name> {
        self.device.newest_bookmarks(most)
    }
}
