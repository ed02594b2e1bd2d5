//! Segment files that somebody removed or replaced while they are in use. Who has one open reads on as if nothing had happened, and
//! the next start would have lost it; so it is looked for them every few seconds, and those that are open are written once again.

use std::sync::mpsc::channel;
use std::time::Duration;

use gateway_journal::SegmentId;
use tap_disk::{Astray, FileNo};
use tracing::warn;

use super::{Finding, FindingKind};
use crate::error::StoreError;
use crate::store::Shared;
use crate::sync::lock;

/// So long it is waited until nobody writes to a file. It is looked again soon.
const PATIENCE: Duration = Duration::from_secs(30);

impl Shared {
    /// Looks whether every file in use is where it should be. One that is not is written again if it is open, and noted; those that
    /// could not be are returned.
    pub(crate) fn look_for_files(&self) -> Vec<Finding> {
        let _one = lock(&self.scrubbing.looking);
        let strays = match self.segments.pool().astray() {
            Ok(strays) => strays,
            Err(e) => return self.note_astray(self.directory_is_astray(&e)).into_iter().collect(),
        };
        self.proving.end(self.age.now(), |f| f.is_of_directory());
        self.wait_for_astray(&strays);
        let known = strays.into_iter().filter_map(|stray| {
            // What no segment is known of holds nothing that counts.
            let segment = self.segments.lying_in(stray.no)?;
            (!self.settling.is_stopped()).then(|| self.look_after(stray, segment))
        });
        known.filter_map(|found| self.note_astray(found)).collect()
    }

    /// Those of settled history that nobody has open may be put back. What was gone and is not is given up no more.
    fn wait_for_astray(&self, strays: &[Astray]) {
        let gone = strays.iter().filter(|stray| !stray.is_open);
        let gone = gone.filter_map(|stray| self.segments.lying_in(stray.no)).map(|(segment, _)| segment);
        self.segments.set_astray(gone.filter(|segment| self.segments.is_settled(*segment)).collect());
        self.take_back_what_is_there();
    }

    fn directory_is_astray(&self, e: &std::io::Error) -> Finding {
        let detail = format!(
            "the segments' directory: {e}. What is open of it is still read and written; nothing else there can be used"
        );
        let (kind, segment) = (FindingKind::Missing, SegmentId::new(0));
        Finding::of_store(kind, segment, (0, 0), detail, self.age.now())
    }

    /// Over, if nothing is lost.
    fn look_after(&self, Astray { no, is_open }: Astray, (segment, end): (SegmentId, u32)) -> Finding {
        let outcome = is_open.then(|| self.write_again(no, segment));
        let now = self.age.now();
        let detail = match &outcome {
            None => "and was not open: what lay there cannot be read, until the file is put back there".to_owned(),
            Some(Ok(())) => "which had it open, and wrote it again: nothing of it is lost. Find out who removes files there".to_owned(),
            Some(Err(e)) => format!(
                "which still has it open, but cannot write it again: {e}. It tries so every few seconds, and what lies there is lost \
                 when it ends before: do not stop it"
            ),
        };
        let detail = format!(
            "its file {no}.seg was removed from the store's directory, or replaced, while the gateway ran, {detail}"
        );
        let found = Finding::of_store(FindingKind::Missing, segment, (0, end), detail, now);
        Finding { over_at: matches!(outcome, Some(Ok(()))).then_some(now), ..found }
    }

    /// Returned if it is not over.
    fn note_astray(&self, found: Finding) -> Option<Finding> {
        let is_open = found.over_at.is_none();
        if !is_open || !self.proving.knows(&found) {
            warn!("{}: {}", found.segment, found.detail);
            self.proving.note(found.clone());
            // Which blocks and points that concerns the next walk names.
            if is_open {
                self.proving.doubt();
            }
        }
        is_open.then_some(found)
    }

    /// What is open of it, with nobody who writes to it: neither the commit thread nor a repair, and no pass gives it back.
    fn write_again(&self, no: FileNo, segment: SegmentId) -> Result<(), StoreError> {
        if self.segments.durable_end().is_some_and(|(last, _)| last == segment) {
            self.leave_open_segment()?;
        }
        let _still = self.settling.still(PATIENCE).ok_or(StoreError::Busy)?;
        Ok(self.segments.pool().restore(no)?)
    }

    /// The commit thread goes on in another segment.
    fn leave_open_segment(&self) -> Result<(), StoreError> {
        let (tell, told) = channel();
        self.queue.leave_segment(Box::new(move |outcome| drop(tell.send(outcome))));
        told.recv_timeout(PATIENCE).map_err(|_| StoreError::Busy)?.map(drop)
    }
}
