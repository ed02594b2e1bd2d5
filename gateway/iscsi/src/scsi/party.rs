//! A unit that a copy reads or writes (SPC-4 section 5.17.3): there the copy may what the initiator itself may do in one of its
//! sessions, and no longer than that session lasts.

use std::fmt;
use std::sync::Arc;

use tap_block::{Extent, Ticket};

use crate::scsi::blocks::Disk;
use crate::scsi::reservation::Wants;
use crate::scsi::sense::Sense;
use crate::scsi::unit::{Hold, LogicalUnit, Seat};
use crate::target::Target;

/// COPY ABORTED: the unit did not do its part: it was reset, or is reserved by somebody else.
pub(crate) const DEVICE_FAILURE: Sense = Sense::new(0xa, 0x0d01);
/// COPY ABORTED: the session with the unit has ended.
const NOT_REACHABLE: Sense = Sense::new(0xa, 0x0d02);

/// See the module.
#[derive(Clone)]
pub(crate) struct Party {
    pub(crate) unit: Arc<LogicalUnit>,
    seat: Seat,
    /// The session's epoch there when the copy began.
    epoch: u64,
    /// One made anew would know of no claim for the initiator's next session to wait for.
    target: Arc<Target>,
}

/// Why a unit does not take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// There is no session.
    Gone,
    /// Somebody else reserved it.
    Reserved,
    /// It cannot be written.
    Protected,
}

impl Party {
    pub(crate) fn new(unit: Arc<LogicalUnit>, seat: Seat, target: Arc<Target>) -> Self {
        let epoch = seat.epoch();
        Self { unit, seat, epoch, target }
    }

    pub(crate) fn is_same_unit(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.unit, &other.unit)
    }

    pub(crate) fn disk(&self) -> Disk {
        self.unit.disk()
    }

    /// The order in which copies claim blocks of several units, so that no two wait for each other.
    pub(crate) fn rank(&self) -> usize {
        Arc::as_ptr(&self.unit).addr()
    }

    /// May this be done there now (section 5.17.7.4)? Attentions that wait there are for a command that is sent there.
    pub(crate) fn admit(&self, wants: Wants) -> Result<(), Sense> {
        self.unit.admit_copy(&self.seat, wants).map_err(|unfit| match unfit {
            Unfit::Gone => NOT_REACHABLE,
            Unfit::Reserved => DEVICE_FAILURE,
            Unfit::Protected => Sense::WRITE_PROTECTED,
        })?;
        if self.is_current() { Ok(()) } else { Err(DEVICE_FAILURE) }
    }

    fn is_current(&self) -> bool {
        self.seat.epoch() == self.epoch
    }

    /// Claims blocks there for as long as the copy goes on; `false` as in [`LogicalUnit::claim`]. `None`: the unit was reset.
    pub(crate) fn claim(
        &self,
        extent: Extent,
        besides: Option<Arc<Hold>>,
        ticket: impl FnOnce() -> Ticket,
    ) -> Option<(Arc<Hold>, bool)> {
        let claimed = self.unit.claim(extent, false, || self.is_current(), ticket);
        claimed.map(|(hold, free)| (Arc::new(hold.besides(besides, self.target.clone())), free))
    }
}

impl fmt::Debug for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Party").field("unit", &self.unit).finish_non_exhaustive()
    }
}
