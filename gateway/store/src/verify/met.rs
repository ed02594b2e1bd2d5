//! Damage that readers come past: it is told at once, and looked into soon, by the thread that scrubs. What still cannot be read then
//! is a finding like those of a walk.

use std::collections::{BTreeMap, BTreeSet};

use gateway_journal::{Location, Place, RegionNo};
use tap_block::units::count;
use tap_block::{BlockNo, VolumeId};

use super::judge::versions;
use super::repair::sound;
use super::{Finding, FindingKind, Scope, Suspect, Verifier, VerifyReport};
use crate::error::{ReadError, StoreError};
use crate::read::UnitRead;
use crate::store::{Shared, Store};
use crate::sync::lock;

/// A block, and where it lies.
type Where = (VolumeId, BlockNo, Location);

/// What readers met and nobody looked into yet, and whether it is known to be damaged: of several units that were read together it
/// may be any, where the disk only says that it cannot.
pub(super) type Met = BTreeMap<Where, bool>;

/// So much is looked into at a time. Who reads on meets the rest.
const MOST: usize = 1024;

impl Store {
    /// Somebody who reads these blocks of a volume was refused them for that reason. Damage is counted from here on; never blocks for
    /// long.
    pub fn met_damage(&self, volume: VolumeId, units: &[UnitRead], why: &ReadError) {
        self.shared().note_met(volume, units, why);
    }

    /// What was found of a volume, and of the store as a whole, and is not acknowledged; and how much more there is: what there is no
    /// room to list, and what readers met just now.
    #[must_use]
    pub fn found(&self, volume: VolumeId) -> (Vec<Finding>, u64) {
        let (met, proving) = (lock(&self.shared().scrubbing.met), &self.shared().proving);
        (proving.findings(volume), proving.unlisted(volume) + unjudged(&met, volume))
    }

    /// Blocks of which reads are refused, as far as anybody knows.
    #[must_use]
    pub fn refused_blocks(&self) -> u64 {
        let (met, catalogue) = (lock(&self.shared().scrubbing.met), self.catalogue());
        let of = |id| self.shared().proving.open_blocks(id) + unjudged(&met, id);
        catalogue.volumes().map(|volume| of(volume.id())).sum()
    }
}

impl Shared {
    fn note_met(&self, volume: VolumeId, units: &[UnitRead], why: &ReadError) {
        let damaged = match why {
            // Somebody moved it or took it away: that is looked for in files, not in blocks.
            ReadError::Gone(_) => return,
            ReadError::Damaged { block, at, .. } => Some((*block, *at)),
            ReadError::Io(_) => None,
        };
        if damaged.is_some_and(|(block, at)| self.proving.lists(volume, block, at)) {
            return;
        }
        let mut met = lock(&self.scrubbing.met);
        for unit in units {
            let is_damaged = damaged == Some((unit.block, unit.at));
            if met.len() < MOST {
                *met.entry((volume, unit.block, unit.at)).or_default() |= is_damaged;
            }
        }
        drop(met);
        match self.config.scrub_rate {
            Some(_) => self.scrubbing.hurry(),
            None => self.judge_met(),
        }
    }

    /// Looks into what readers met. What cannot be looked into, because the index cannot be read, stays for the next time.
    pub(super) fn judge_met(&self) {
        let met = lock(&self.scrubbing.met).clone();
        if met.is_empty() {
            return;
        }
        match self.look_into(met.keys().copied()) {
            Ok(report) => {
                // Whoever counts counts each once.
                let mut waiting = lock(&self.scrubbing.met);
                self.proving.add(&report);
                waiting.retain(|place, _| !met.contains_key(place));
            }
            Err(e) => tracing::warn!("damage that was met by readers cannot be looked into yet: {e}"),
        }
    }

    fn look_into(&self, met: impl Iterator<Item = Where>) -> Result<VerifyReport, StoreError> {
        let mut by_region: BTreeMap<_, Vec<(BlockNo, u16, Location)>> = BTreeMap::new();
        for (volume, block, at) in met {
            if let Some((region, within)) = RegionNo::holding(block) {
                by_region.entry((volume, region)).or_default().push((block, within, at));
            }
        }
        let mut watch = |_| true;
        let mut verifier = Verifier::new(self, Scope::default(), &mut watch);
        for ((volume, region), met) in by_region {
            let blocks: BTreeSet<u16> = met.iter().map(|(_, within, _)| *within).collect();
            let (versions, _) = versions(self, volume, region, &blocks)?;
            let suspect = |&(block, within, at): &(BlockNo, u16, Location)| {
                let here = versions.iter().rfind(|v| v.first == within && v.place == Place::Unit(at))?;
                let detail = self.still_damaged(block, at)?;
                Some(Suspect { volume, block, position: here.position, at, detail })
            };
            verifier.judge(met.iter().filter_map(suspect).collect())?;
        }
        Ok(verifier.report)
    }

    /// What is wrong there; `None` when nothing is any more. A file that is gone is listed as such.
    fn still_damaged(&self, block: BlockNo, at: Location) -> Option<String> {
        let file = self.segments.file(at.segment).ok().flatten()?;
        let read = sound(&file, block, at).ok()?;
        read.err().filter(|_| self.segments.lives(at.segment))
    }
}

/// Blocks of a volume that are known to be damaged and that nobody looked into yet.
fn unjudged(met: &Met, volume: VolumeId) -> u64 {
    count(met.iter().filter(|((of, ..), damaged)| **damaged && *of == volume).count())
}

impl super::Proving {
    /// Is a block that lies there listed as damaged?
    fn lists(&self, volume: VolumeId, block: BlockNo, at: Location) -> bool {
        self.any_open(|f| {
            f.kind == FindingKind::Block
                && f.volume == Some(volume)
                && (f.segment, f.from) == (at.segment, at.offset)
                && f.extent.is_some_and(|extent| extent.offset() == block.offset())
        })
    }
}
