//! Blocks in frames whose head is damaged: the frame does not say any more what lies in it, but the index does, and by the
//! index they are read.

use gateway_journal::pack::Unpacker;
use gateway_journal::run::decode_run;
use gateway_journal::{GroupNo, Location, Place, RegionNo, RegionRange, SegmentId, Version};
use tap_block::VolumeId;
use tap_block::units::index;

use super::{Scope, Step, Suspect, Verifier};
use crate::error::StoreError;
use crate::index::{IndexError, IndexStore, Table, keys};
use crate::store::Shared;
use crate::sync::read;

/// Bytes of a segment that no frame speaks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stretch {
    pub(super) segment: SegmentId,
    pub(super) from: u32,
    pub(super) to: u32,
}

impl Stretch {
    fn holds(&self, at: Location) -> bool {
        at.segment == self.segment && self.from <= at.offset && at.offset < self.to
    }
}

impl Verifier<'_, '_> {
    /// Checks what lies in a stretch of the log, in this group. The whole index is gone through for it: that is slow, and
    /// seldom.
    pub(super) fn hidden_in_log(
        &self,
        stretches: &[Stretch],
        group: GroupNo,
        step: &mut Step,
    ) -> Result<(), StoreError> {
        // What memory has of the group first: it may be on its way into the index.
        let tail: Vec<(VolumeId, RegionNo, Vec<Version>)> = {
            let published = read(&self.shared.published);
            let groups = published.frozen.iter().map(|f| &f.group).chain([&published.active]);
            let here = groups.filter(|g| g.no == group).flat_map(|g| g.sorted());
            here.map(|(volume, region, versions)| (volume, region, versions.to_vec())).collect()
        };
        let mut hidden = Hidden {
            shared: self.shared,
            scope: self.report.scope,
            stretches,
            step,
            unpacker: Unpacker::default(),
        };
        let (from, to) = (keys::run(VolumeId::new(0), RegionNo::new(0), GroupNo::new(0)), vec![0xff; 24]);
        let mut outcome = Ok(());
        self.shared.index.scan(Table::Runs, &from, &to, &mut |key, run| {
            if keys::last_number(key) == Some(group.get())
                && let Some((volume, region)) = keys::run_place(key)
            {
                outcome = hidden.take(volume, region, run);
            }
            outcome.is_ok()
        })?;
        outcome?;
        for (volume, region, versions) in tail {
            versions.iter().for_each(|v| hidden.check(volume, region, v));
        }
        Ok(())
    }

    /// Checks what lies in stretches of settled segments that this settle wrote.
    pub(super) fn hidden_in_settled(
        &self,
        stretches: &[Stretch],
        settle: u64,
        step: &mut Step,
    ) -> Result<(), StoreError> {
        let layout = self.layout();
        for generation in layout.generations.iter().filter(|g| g.settle == settle) {
            self.hidden_in_range(stretches, (settle, generation.range), usize::MAX, step)?;
        }
        Ok(())
    }

    /// The same in these regions; it ends behind one with which there are so many suspects, and says where to go on.
    pub(super) fn hidden_in_range(
        &self,
        stretches: &[Stretch],
        (settle, range): (u64, RegionRange),
        enough: usize,
        step: &mut Step,
    ) -> Result<Option<RegionRange>, StoreError> {
        let mut hidden = Hidden {
            shared: self.shared,
            scope: self.report.scope,
            stretches,
            step,
            unpacker: Unpacker::default(),
        };
        let key = |(volume, region)| keys::settled(settle, volume, region);
        let (mut outcome, mut last) = (Ok(()), None);
        self.shared.index.scan(Table::Settled, &key(range.first), &key(range.last), &mut |key, run| {
            if let Some((volume, region)) = keys::settled_place(key) {
                outcome = hidden.take(volume, region, run);
                last = (hidden.step.suspects.len() >= enough).then_some((volume, region));
            }
            outcome.is_ok() && last.is_none()
        })?;
        outcome?;
        let next = last.and_then(RegionRange::after).filter(|next| *next <= range.last);
        Ok(next.map(|first| RegionRange { first, ..range }))
    }
}

struct Hidden<'a> {
    shared: &'a Shared,
    scope: Scope,
    stretches: &'a [Stretch],
    step: &'a mut Step,
    unpacker: Unpacker,
}

impl Hidden<'_> {
    fn take(&mut self, volume: VolumeId, region: RegionNo, run: &[u8]) -> Result<(), IndexError> {
        decode_run(run, |v| self.check(volume, region, &v)).map_err(|e| IndexError::new(e.to_string()))
    }

    fn check(&mut self, volume: VolumeId, region: RegionNo, version: &Version) {
        let Place::Unit(at) = version.place else { return };
        if !self.scope.has(volume) || !self.stretches.iter().any(|s| s.holds(at)) {
            return;
        }
        let block = region.block(version.first);
        self.step.blocks += 1;
        let mut bytes = vec![0; index(u64::from(at.bytes()))];
        let read = match self.shared.segments.file(at.segment) {
            Ok(Some(file)) => file.read_at(u64::from(at.offset), &mut bytes).map_err(|e| e.to_string()),
            // If it was given back meanwhile, nobody finds the version there any more.
            Ok(None) => Err(format!("{} is missing", at.segment)),
            Err(e) => Err(e.to_string()),
        };
        let mut sound = || self.unpacker.verify(at, block, &bytes).map_err(|e| e.to_string());
        if let Err(detail) = read.and_then(|()| sound()) {
            let position = version.position;
            self.step.suspects.push(Suspect { volume, block, position, at, detail });
        }
    }
}
