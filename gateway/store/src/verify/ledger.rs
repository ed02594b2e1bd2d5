//! The ledger, and what it says of segments.
//!
//! A hash that does not match says that something changed, not what. When damage was found in the segment, that is it: it is
//! named already, and once it is put right the hash says whether it was all. When none was, the checksums were made to fit.

use std::sync::Arc;

use gateway_journal::SegmentId;
use gateway_journal::ledger::Hashed;
use tap_disk::SegmentFile;

use super::sound::is_sound;
use super::{Finding, FindingKind, Verifier, VerifyReport};
use crate::error::StoreError;
use crate::layout::Layout;
use crate::ledger::{Trouble, hash};

impl Verifier<'_, '_> {
    /// What does not hold what it held, and is the ledger the chain that it was?
    pub(super) fn ledger(&mut self) -> Result<(), StoreError> {
        for id in std::mem::take(&mut self.differing) {
            let named = |report: &VerifyReport| report.findings.iter().any(|f| f.segment == id);
            if !named(&self.report) && self.report.unlisted.is_empty() {
                self.altered(id)?;
            }
        }
        self.taken_away();
        let book = &self.shared.bookkeeping.book;
        let finding = |Trouble { from, to, detail }| {
            self.finding(FindingKind::Ledger, SegmentId::new(0), (from, to), detail)
        };
        let now = self.shared.age.now();
        let (troubles, doubts) = (book.check(), book.doubts(now));
        let doubted = doubts.iter().map(|doubt| Finding::of_doubt(doubt, now));
        let notes = self.shared.bookkeeping.contradicted_notes(now);
        let findings = troubles.into_iter().map(finding).chain(doubted).chain(notes).collect();
        self.list(findings);
        Ok(())
    }

    /// Segments that were hashed, were not settled or replaced, and are not there.
    fn taken_away(&mut self) {
        let shared = self.shared;
        // What was settled or replaced meanwhile was not taken away.
        let is_part = |layout: &Layout, id: SegmentId, settle: u64| match settle {
            0 => id >= layout.trail.at().0,
            settle => settle >= layout.settle,
        };
        let layout = self.layout();
        let gone: Vec<(SegmentId, Hashed)> = shared.bookkeeping.book.ask(|ledger| {
            let part = ledger.segments().iter().filter(|(id, h)| is_part(&layout, **id, h.settle));
            part.filter(|(id, _)| !shared.segments.lives(**id)).map(|(id, h)| (*id, *h)).collect()
        });
        let layout = self.layout();
        for (id, hashed) in gone.into_iter().filter(|(id, h)| is_part(&layout, *id, h.settle)) {
            if self.report.findings.iter().any(|f| f.segment == id) {
                continue;
            }
            let detail = "the ledger knows of this segment, which was part of the store, and it is not there: it was taken away, \
                          with what it held";
            let finding = self.finding(FindingKind::Missing, id, (0, hashed.end), detail.to_owned());
            self.list(vec![finding]);
        }
    }

    fn altered(&mut self, id: SegmentId) -> Result<(), StoreError> {
        // A repair may have been on its way: then this look shows what it brought back.
        let Some((hashed, file)) = self.differs(id)? else { return Ok(()) };
        let store = self.layout().trail.store();
        let sound = self.again(|reached| is_sound(store, id, &file, hashed, reached))?;
        // Rot explains it, and is no reason to suspect anybody.
        let (kind, detail) = if sound {
            let detail = "its content is not what was entered in the ledger when it was finished, and all its checksums fit: \
                          somebody changed it, or a byte that no checksum covers. Compare what its points show with another \
                          gateway's history";
            (FindingKind::Altered, detail)
        } else if self.report.scope.volume.is_some() || self.report.scope.to.is_some() {
            // Nothing that was asked for shows it: it is whose the rot is that are told, by a walk that looks at theirs.
            return Ok(());
        } else {
            (FindingKind::Frame, "there is rot in it, in what no kept point shows")
        };
        if self.shared.segments.lives(id) {
            let finding = self.finding(kind, id, (0, hashed.end), detail.to_owned());
            self.list(vec![finding]);
        }
        Ok(())
    }

    /// Compares segments of the log before this one that the walk came past.
    pub(super) fn compare_log(&mut self, from: SegmentId, open: SegmentId) -> Result<(), StoreError> {
        let hashed: Vec<SegmentId> = self.shared.bookkeeping.book.ask(|ledger| {
            let passed = ledger.segments().range(from..open.max(from));
            passed.filter(|(_, hashed)| hashed.settle == 0).map(|(id, _)| *id).collect()
        });
        hashed.into_iter().try_for_each(|id| self.compare_hash(id))
    }

    /// Does a segment hold what was entered in the ledger?
    pub(super) fn compare_hash(&mut self, id: SegmentId) -> Result<(), StoreError> {
        if self.compared.insert(id) && self.differs(id)?.is_some() {
            self.differing.insert(id);
        }
        Ok(())
    }

    /// A segment that does not hold what was entered. What cannot be read is found by the rest of the walk.
    fn differs(&mut self, id: SegmentId) -> Result<Option<(Hashed, Arc<SegmentFile>)>, StoreError> {
        let shared = self.shared;
        let book = &shared.bookkeeping.book;
        let Some(hashed) = book.hashed(id) else { return Ok(None) };
        let Some(file) = shared.segments.file(id).ok().flatten() else { return Ok(None) };
        let found = self.again(|reached| hash(&file, hashed.end, &shared.queue, reached))?;
        let differs = found.is_ok_and(|found| found.is_some_and(|found| found != hashed.digest));
        Ok((differs && book.hashed(id) == Some(hashed)).then_some((hashed, file)))
    }
}
