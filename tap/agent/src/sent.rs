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
    pub(crate) fn note(&self, own: RunId, batch: &Batch) {
        // What an earlier run left is sent again now and then, and says nothing of this one.
        let Some(last) = batch.last_lsn().filter(|_| batch.run == own) else { return };
        let mut sent = self.lock();
        match &mut *sent {
            Some((run, lsn)) if *run == batch.run => *lsn = last.max(*lsn),
            other => *other = Some((batch.run, last)),
        }
    }

    /// Is more of the run `own`, which began with this process, below than ever was sent? Up to where it is, and that was.
    pub(crate) fn exceeded(&self, own: RunId, welcome: &Welcome) -> Option<(Lsn, Lsn)> {
        let sent = self.lock().filter(|(run, _)| *run == own).map_or(Lsn::ZERO, |(_, lsn)| lsn);
        let durable = welcome.durable_run.map(|run| (run, welcome.durable));
        let last = welcome.last.map(|last| (last.run, last.lsn));
        let of_own = [durable, last].into_iter().flatten().filter(|(run, _)| *run == own);
        let there = of_own.map(|(_, lsn)| lsn).max()?;
        (there > sent).then_some((there, sent))
    }

    fn lock(&self) -> MutexGuard<'_, Option<(RunId, Lsn)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cx_wire::RecordSeen;
    use tap_block::{StreamId, VolumeId, WallTime};
    use testbed_model::BatchBuilder;

    const OWN: RunId = RunId::new(9);

    fn lsn(n: u64) -> Lsn {
        Lsn::new(n).unwrap()
    }

    fn batch(run: RunId, first: u64) -> Batch {
        let (stream, volume) = (StreamId::new(1), VolumeId::new(1));
        let mut to = BatchBuilder::new(stream, volume, run, lsn(first), WallTime::EPOCH);
        to.write(0, &[1; 4096]);
        to.build()
    }

    fn welcome(durable: u64, last: u64) -> Welcome {
        let last = RecordSeen { run: OWN, lsn: lsn(last), at: WallTime::EPOCH };
        let run = Some(OWN);
        Welcome {
            durable: lsn(durable),
            durable_run: run,
            known: true,
            credit: 0,
            store: None,
            past: None,
            last: Some(last),
        }
    }

    #[test]
    fn more_than_was_sent_of_its_own_run_is_too_much_durable_or_not() {
        let sent = Sent::default();
        assert_eq!(sent.exceeded(OWN, &welcome(1, 1)), Some((lsn(1), Lsn::ZERO)));
        sent.note(OWN, &batch(OWN, 20));
        // What the run before left, sent once more.
        sent.note(OWN, &batch(RunId::new(8), 7));
        assert_eq!(sent.exceeded(OWN, &welcome(20, 20)), None);
        assert_eq!(sent.exceeded(OWN, &welcome(21, 21)), Some((lsn(21), lsn(20))));
        assert_eq!(sent.exceeded(OWN, &welcome(18, 21)), Some((lsn(21), lsn(20))));
        assert_eq!(sent.exceeded(RunId::new(8), &welcome(21, 21)), None, "of another run");
    }
}
