//! Small writes that a client sent together, done as one.
//!
//! A client with many requests under way sends several before it looks for an answer. Each by itself would be two system calls,
//! one for its content and one to say where that lies; together they are two or three.

use bytes::Bytes;
use tap_block::units::count;
use tap_block::{BlockDevice, Extent, ExtentSet, Op, Ticket};

use super::overlay::{LARGE, OverlayDevice};

/// Writes that are done as one.
#[derive(Default)]
struct Together {
    writes: Vec<(Extent, Bytes)>,
    tickets: Vec<Ticket>,
    covered: ExtentSet,
}

impl Together {
    fn push(&mut self, extent: Extent, data: Bytes, ticket: Ticket) {
        self.covered.insert(extent);
        self.writes.push((extent, data));
        self.tickets.push(ticket);
    }

    /// Does them; what cannot be done together is done one by one, so that each has the answer that is its own.
    fn finish(&mut self, device: &OverlayDevice) {
        let Self { writes, tickets, .. } = std::mem::take(self);
        if writes.len() > 1 && device.write_together(&writes) {
            return tickets.into_iter().for_each(|ticket| ticket.complete(Ok(Bytes::new())));
        }
        for ((extent, data), ticket) in writes.into_iter().zip(tickets) {
            device.submit(Op::Write { offset: extent.offset(), data, fua: false }, ticket);
        }
    }
}

/// Starts all of `batch`, in its order: writes of whole blocks together as far as they come one after the other and none of them
/// writes what another does.
pub(super) fn submit_all(device: &OverlayDevice, batch: &mut Vec<(Op, Ticket)>) {
    if batch.len() == 1 {
        return batch.drain(..).for_each(|(op, ticket)| device.submit(op, ticket));
    }
    let mut together = Together::default();
    for (op, ticket) in batch.drain(..) {
        let Some(extent) = small(device, &op) else {
            together.finish(device);
            device.submit(op, ticket);
            continue;
        };
        if together.covered.overlaps(extent) {
            together.finish(device);
        }
        if let Op::Write { data, .. } = op {
            together.push(extent, data, ticket);
        }
    }
    together.finish(device);
}

/// What is written, if it is whole blocks and few, and need not be durable at once.
fn small(device: &OverlayDevice, op: &Op) -> Option<Extent> {
    let Op::Write { offset, data, fua: false } = op else { return None };
    device.geometry().admit(op).ok()?;
    let extent = Extent::new(*offset, count(data.len()))?;
    (extent.is_block_aligned() && !extent.is_empty() && data.len() < LARGE).then_some(extent)
}
