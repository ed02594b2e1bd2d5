//! The ledger, and what it says of segments.
//!
//! A hash that does not match says that something changed, not what. When damage was found in the segment, that is it: it is
//! named already, and once it is put right the hash says whether it was all. When none was, the checksums were made to fit.

use std::sync::Arc;

use gateway_journal::SegmentId;
use gateway_journal::ledger::Hashed;
use tap_disk::SegmentFile;

use super::sound::is_sound;
use super::{FindingKind, Verifier, VerifyReport};
use crate::error::StoreError;
use crate::ledger::{Trouble, digest};

impl Verifier<'_, '_> {
    /// What does not hold what it held, and is the ledger the chain that it was?
    pub(super) fn ledger(&mut self) -> Result<(), StoreError> {
        for id in std::mem::take(&mut self.differing) {
            let named = |report: &VerifyReport| report.findings.iter().any(|f| f.segment == id);
            if !named(&self.report) && self.report.unlisted.is_empty() {
                self.altered(id);
            }
        }
        self.taken_away();
        let found = self.shared.bookkeeping.book.check()?;
        let finding = |Trouble { from, to, detail }| {
            self.finding(FindingKind::Ledger, SegmentId::new(0), (from, to), detail)
        };
        let findings = found.into_iter().map(finding).collect();
        self.list(findings);
        Ok(())
    }

    /// Segments of the log that were hashed, were not settled, and are not there.
    fn taken_away(&mut self) {
        let names = |from: SegmentId| {
            let segments = &self.shared.segments;
            self.shared.bookkeeping.book.ask(|ledger| {
                let of_log = ledger.segments().range(from..).filter(|(_, hashed)| hashed.settle == 0);
                of_log.filter(|(id, _)| !segments.lives(**id)).map(|(id, h)| (*id, h.end)).collect::<Vec<_>>()
            })
        };
        let gone = names(self.layout().trail.at().0);
        // What was settled meanwhile was not taken away.
        let from = self.layout().trail.at().0;
        for (id, end) in gone.into_iter().filter(|(id, _)| *id >= from) {
            if self.report.findings.iter().any(|f| f.segment == id) {
                continue;
            }
            let detail = "the ledger knows of this segment of the log, and it is not there: it was taken away, with what it held";
            let finding = self.finding(FindingKind::Missing, id, (0, end), detail.to_owned());
            self.list(vec![finding]);
        }
    }

    fn altered(&mut self, id: SegmentId) {
        // A repair may have been on its way: then this look shows what it brought back.
        let Some((hashed, file)) = self.differs(id) else { return };
        let store = self.layout().trail.store();
        // Rot explains it, and is no reason to suspect anybody.
        let (kind, detail) = if is_sound(store, id, &file, hashed) {
            let detail = "its content is not what was entered in the ledger when it was finished, and all its checksums fit: \
                          somebody changed it, or a byte that no checksum covers. Compare what its points show with another \
                          gateway's history";
            (FindingKind::Altered, detail)
        } else {
            (FindingKind::Frame, "there is rot in it, in what nothing that was asked for shows")
        };
        if self.shared.segments.lives(id) {
            let finding = self.finding(kind, id, (0, hashed.end), detail.to_owned());
            self.list(vec![finding]);
        }
    }

    /// Compares segments of the log before this one that the walk came past.
    pub(super) fn compare_log(&mut self, from: SegmentId, open: SegmentId) {
        let hashed: Vec<SegmentId> = self.shared.bookkeeping.book.ask(|ledger| {
            let passed = ledger.segments().range(from..open.max(from));
            passed.filter(|(_, hashed)| hashed.settle == 0).map(|(id, _)| *id).collect()
        });
        hashed.into_iter().for_each(|id| self.compare_hash(id));
    }

    /// Does a segment hold what was entered in the ledger?
    pub(super) fn compare_hash(&mut self, id: SegmentId) {
        if self.compared.insert(id) && self.differs(id).is_some() {
            self.differing.insert(id);
        }
    }

    /// A segment that does not hold what was entered. What cannot be read is found by the rest of the walk.
    fn differs(&self, id: SegmentId) -> Option<(Hashed, Arc<SegmentFile>)> {
        let book = &self.shared.bookkeeping.book;
        let hashed = book.hashed(id)?;
        let file = self.shared.segments.file(id).ok().flatten()?;
        let differs = digest(&file, hashed.end, &self.shared.queue).is_ok_and(|found| found != hashed.digest);
        (differs && book.hashed(id) == Some(hashed)).then_some((hashed, file))
    }
}
