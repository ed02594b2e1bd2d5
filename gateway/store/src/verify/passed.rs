//! Damage of the log that settling goes past: which blocks are not what was written, wherever they lie then, and whose records lay
//! there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gateway_journal::{Place, RegionNo, Version};

use super::hidden::Stretch;
use super::judge::versions;
use super::known::lost;
use super::{Finding, FindingKind, Scope, Step, Suspect, Verifier};
use crate::error::{Damage, StoreError};
use crate::settle::WentPast;
use crate::store::Shared;
use crate::sync::read;

/// Blocks that are not what was written.
pub(crate) struct Unreadable(Vec<Suspect>);

impl Shared {
    /// Blocks that lie there and are not what was written.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub(crate) fn unreadable(&self, past: &WentPast) -> Result<Unreadable, StoreError> {
        let stretch = |d: &Damage| Stretch { segment: d.segment, from: d.from, to: d.to };
        let stretches: Vec<Stretch> = past.damage.iter().map(stretch).collect();
        let (mut watch, mut step) = (|_| true, Step::default());
        let verifier = Verifier::new(self, Scope::default(), &mut watch);
        verifier.hidden_in_log(&stretches, past.group, &mut step)?;
        Ok(Unreadable(step.suspects))
    }

    /// The log is settled past it: what of it can be read no more, whose records lay there, and which of them are lost.
    pub(crate) fn note_passed(&self, past: &WentPast, unreadable: Unreadable) {
        if let Err(e) = self.note_moved(unreadable) {
            tracing::warn!("which blocks are damaged where the log was settled the next scrub tells: {e}");
        }
        let (layout, catalogue) = {
            let published = read(&self.published);
            (Arc::clone(&published.layout), Arc::clone(&published.catalogue))
        };
        let lost = layout.trail.damage().iter().flat_map(|damage| lost(self, damage));
        let lost: Vec<Finding> = lost.filter(|finding| finding.volume.is_some()).collect();
        let losers: BTreeSet<_> = lost.iter().map(|finding| finding.volume).collect();
        let Some(Damage { segment, from, to, detail, .. }) = past.damage.first() else { return };
        let (now, place) = (self.age.now(), (*from, *to));
        tracing::warn!(
            "{segment} from byte {from} to {to}: {detail}; the log is settled past it by what the index knows of it"
        );
        let over = |said: &str| {
            let text = format!("{detail}; {said}");
            let found = Finding::of_store(FindingKind::Frame, *segment, place, text, now);
            Finding { over_at: Some(now), ..found }
        };
        let known = past.known.iter().filter_map(|&(stream, first, last)| {
            let volume = Some(catalogue.volume_of(stream)?.id());
            let said = "these records are known from the index, but not when exactly they were captured";
            Some(Finding { volume, points: Some((first, Some(last))), ..over(said) })
        });
        let known = known.filter(|finding| !losers.contains(&finding.volume)).collect::<Vec<_>>();
        let whole = over("the log is settled past it by what the index knew of it");
        self.proving.note_all(&[lost, known, vec![whole]].concat());
    }

    /// Those that history still holds are damaged where they lie now.
    fn note_moved(&self, Unreadable(suspects): Unreadable) -> Result<(), StoreError> {
        let mut by_region: BTreeMap<_, Vec<Suspect>> = BTreeMap::new();
        for suspect in suspects {
            if let Some((region, _)) = RegionNo::holding(suspect.block) {
                by_region.entry((suspect.volume, region)).or_default().push(suspect);
            }
        }
        let mut watch = |_| true;
        let mut verifier = Verifier::new(self, Scope::default(), &mut watch);
        for ((volume, region), suspects) in by_region {
            let blocks = suspects.iter().filter_map(|s| Some(RegionNo::holding(s.block)?.1)).collect();
            let (versions, _) = versions(self, volume, region, &blocks)?;
            let moved = suspects.into_iter().filter_map(|suspect| moved(suspect, &versions)).collect();
            verifier.judge(moved)?;
        }
        self.proving.add(&verifier.report);
        Ok(())
    }
}

/// The suspect where it lies now; `None` when no point shows it any more.
fn moved(suspect: Suspect, versions: &[Version]) -> Option<Suspect> {
    let (_, within) = RegionNo::holding(suspect.block)?;
    let here = |v: &&Version| v.first == within && v.position == suspect.position;
    match versions.iter().rfind(here)?.place {
        Place::Unit(at) => Some(Suspect { at, ..suspect }),
        Place::Zero => None,
    }
}
