//! What is known to be damaged without a walk: opening a store comes past it.

use std::sync::Arc;

use gateway_journal::meta::OWN_STREAM;
use gateway_journal::{SEGMENT_HEADER, SegmentId};
use tap_block::Lsn;

use super::judge::is_kept;
use super::segment::ONLY_COPY;
use super::{Finding, FindingKind};
use crate::error::{Damage, StoreError};
use crate::history::is_needed;
use crate::maps::healed_at;
use crate::store::Shared;
use crate::sync::read;

/// What records a damaged stretch of the log costs every volume of which some points are kept that need them.
pub(super) fn lost(shared: &Shared, damage: &Damage) -> Vec<Finding> {
    let Damage { segment, from, to, detail, .. } = damage;
    let now = shared.age.now();
    let whole = Finding::of_store(FindingKind::Frame, *segment, (*from, *to), detail.clone(), now);
    if damage.lost.is_empty() {
        return vec![whole];
    }
    let (layout, catalogue, known) = {
        let published = read(&shared.published);
        (Arc::clone(&published.layout), Arc::clone(&published.catalogue), published.damage.clone())
    };
    // Damage that reads know of refuses every point behind it; of what rotted since, the index still knows all.
    let refused = |lost| known.iter().chain(layout.trail.damage()).any(|d| d.lost.contains(lost));
    let own = damage.lost.iter().find(|(stream, ..)| *stream == OWN_STREAM);
    let own = own.and_then(|own| {
        let loss = StoreError::OwnLoss { from: own.1.get(), to: own.2.get() };
        match known.iter().any(|d| d.lost.contains(own)) {
            true => Some(Finding { detail: format!("{detail}; {loss}"), ..whole.clone() }),
            // What it said was taken in long ago, and is known.
            false => shared.segments.lives(*segment).then(|| whole.clone()),
        }
    });
    let of = damage.lost.iter().filter_map(|lost| {
        let &(stream, first, last) = lost;
        let known = catalogue.volume_of(stream)?;
        let volume = known.id();
        let last = match refused(lost) {
            true => healed_at(known, first).map(Lsn::previous),
            false => Some(last),
        };
        let kept = layout.kept.get(&volume).cloned().unwrap_or_default();
        let points = Some((first, last));
        let found = Finding { volume: Some(volume), points, ..whole.clone() };
        is_kept(&kept, first, last).then_some(found)
    });
    of.chain(own).collect()
}

impl Shared {
    /// What was found in segments that are not the store's any more is over. (Blocks that lay there are known by their versions,
    /// records that are lost by their numbers: those go on.)
    pub(crate) fn end_findings_of_the_past(&self) {
        let (layout, damage) = {
            let published = read(&self.published);
            (Arc::clone(&published.layout), published.damage.clone())
        };
        let costs = |f: &Finding| {
            damage.iter().any(|d| (d.segment, d.from) == (f.segment, f.from) && !d.lost.is_empty())
        };
        let past = |f: &Finding| f.is_renewable() || f.kind == FindingKind::Missing;
        self.proving.end(self.age.now(), |f| {
            let gone =
                !f.is_of_copy() && !f.is_of_directory() && !is_needed(f.segment, &self.segments, &layout);
            f.volume.is_none() && past(f) && gone && !costs(f)
        });
    }

    /// The copy of the manifest was written anew.
    pub(crate) fn end_findings_of_the_copy(&self) {
        self.proving.end(self.age.now(), Finding::is_of_copy);
    }

    /// Settling waits for segments of the log that are gone: they are listed from here on, whatever else is, so that it can be said of
    /// them that they are given up.
    pub(crate) fn note_gone(&self, gone: &[&Damage]) {
        let named = self.proving.named(|_| false);
        let found = gone.iter().filter(|d| !named.contains(&d.segment));
        let found = found.map(|d| {
            let place = (d.from, d.to);
            Finding::of_store(FindingKind::Missing, d.segment, place, d.detail.clone(), self.age.now())
        });
        self.proving.note_all(&found.collect::<Vec<_>>());
    }

    /// Segments that are listed as gone, and are: no walk comes past those of the log, and something may stand in for settled ones.
    pub(super) fn still_gone(&self) -> Vec<Finding> {
        let layout = Arc::clone(&read(&self.published).layout);
        let is_gone = |f: &Finding| match layout.lists(f.segment) {
            true => self.segments.is_awaited(f.segment),
            false => f.segment >= layout.trail.at().0 && !self.segments.is_there(f.segment),
        };
        let mut missing = self.proving.missing();
        missing.retain(|f| !f.is_of_directory() && is_gone(f));
        let now = self.age.now();
        missing.into_iter().map(|found| Finding { found_at: now, ..found }).collect()
    }

    /// Holds and pins that are lost keep nothing: no point may go until somebody has looked.
    ///
    /// # Errors
    /// [`StoreError::OwnLoss`] when records of the gateway's own are lost, and nobody has read of it.
    pub(crate) fn refuse_unread_loss(&self) -> Result<(), StoreError> {
        let published = read(&self.published);
        let lost = published.damage.iter().flat_map(|d| &d.lost);
        let own =
            lost.filter(|(stream, ..)| *stream == OWN_STREAM).map(|&(_, from, to)| (from.get(), to.get()));
        let all = own.reduce(|(from, to), (first, last)| (from.min(first), to.max(last)));
        all.map_or(Ok(()), |(from, to)| Err(StoreError::OwnLoss { from, to }))
    }

    /// Notes what was found when the store was opened, so that it is listed from the start: segments whose header is damaged, and
    /// what is lost or gone. Headers of settled segments, and the manifest, are written anew.
    pub(crate) fn note_found(&self, headless: &[SegmentId]) {
        let header = |segment: &SegmentId| {
            let detail = "the segment's header is damaged: what it holds is known from its frames".to_owned();
            let place = (0, SEGMENT_HEADER);
            Finding::of_store(FindingKind::Header, *segment, place, detail, self.age.now())
        };
        let (damage, copy_only) = {
            let published = read(&self.published);
            (published.damage.clone(), published.layout.copy_only)
        };
        let lost = damage.iter().filter(|d| !d.lost.is_empty()).flat_map(|d| lost(self, d));
        let gone = damage.iter().filter(|d| d.lost.is_empty() && !self.segments.lives(d.segment));
        let gone = gone.map(|d| {
            let place = (d.from, d.to);
            Finding::of_store(FindingKind::Missing, d.segment, place, d.detail.clone(), self.age.now())
        });
        let only_copy = copy_only.then(|| {
            let (kind, segment) = (FindingKind::Manifest, SegmentId::new(0));
            Finding::of_store(kind, segment, (0, 0), ONLY_COPY.to_owned(), self.age.now())
        });
        let found = headless.iter().map(header).chain(lost).chain(gone).chain(only_copy);
        let found: Vec<Finding> = found.collect();
        // Headers that were put right while nothing ran, and what is not there any more.
        self.proving.end(self.age.now(), |f| {
            f.kind == FindingKind::Header && self.segments.lives(f.segment) && !headless.contains(&f.segment)
        });
        self.end_findings_of_the_past();
        self.proving.note_all(&found);
        self.take_back_what_is_there();
        if copy_only || headless.iter().any(|segment| self.segments.is_settled(*segment)) {
            self.settling.renew();
        }
    }
}
