//! How far the records of this process went: whoever has more of its run has them from a future that was given up.
//!
//! A snapshot may hold the memory of a machine as well as its disk. A tap that is set back to one goes on as if nothing had been:
//! in the same run, with the number of the next record that it remembers. Below are other records of that run with these numbers
//! already, and its own would be taken for repetitions of them. Only a process that has never been set back has sent all that is
//! there.

use std::sync::{Mutex, MutexGuard, PoisonError};

use cx_wire::Welcome;
use tap_block::{Batch, Lsn, RunId};

/// The last record that this process gave to a connection.
#[derive(Debug, Default)]
pub(crate) struct Sent(Mutex<Option<(RunId, Lsn)>>);

impl Sent {
    /// It is about to go.
    pub(crate) fn note(&self, batch: &Batch) {
        let Some(last) = batch.last_lsn() else { return };
        let mut sent = self.lock();
        match &mut *sent {
            Some((run, lsn)) if *run == batch.run => *lsn = last.max(*lsn),
            other => *other = Some((batch.run, last)),
        }
    }

    /// Is more of the run `own`, which began with this process, durable below than ever was sent? Up to where that was.
    pub(crate) fn is_exceeded(&self, own: RunId, welcome: &Welcome) -> Option<Lsn> {
        let sent = self.lock().filter(|(run, _)| *run == own).map_or(Lsn::ZERO, |(_, lsn)| lsn);
        (welcome.durable_run == Some(own) && welcome.durable > sent).then_some(sent)
    }

    fn lock(&self) -> MutexGuard<'_, Option<(RunId, Lsn)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
