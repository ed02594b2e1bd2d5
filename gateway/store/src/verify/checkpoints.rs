//! Checkpoints: what points are read by, and what no segment says. One is compared with what the index holds beside it; one that says
//! something else is removed, for without it everything is read from the rows that it was made of.

use gateway_image::RegionMapBuilder;
use gateway_journal::run::decode_checkpoint;
use gateway_journal::{REGION_BLOCKS, RegionNo, SegmentId, Version};
use tap_block::{Lsn, VolumeId};

use super::{Finding, FindingKind, TELL_EACH, Verifier};
use crate::error::StoreError;
use crate::index::{IndexError, IndexStore, Row, Table, keys};
use crate::layout::Gather;
use crate::sync::lock;

/// Rows that are read at once.
const PAGE: usize = 16;
const NEWEST: Lsn = Lsn::ZERO.plus(Lsn::LIMIT);

impl Verifier<'_, '_> {
    pub(super) fn checkpoints(&mut self) -> Result<(), StoreError> {
        let (mut from, to) = (keys::map(VolumeId::new(0), RegionNo::new(0), Lsn::ZERO), vec![0xff; 24]);
        loop {
            let rows = self.page(&from, &to)?;
            let Some((last, _)) = rows.last() else { return Ok(()) };
            // The key after it.
            from = [last.as_slice(), &[0]].concat();
            for (key, _) in rows {
                self.checkpoint(key)?;
            }
        }
    }

    fn page(&self, from: &[u8], to: &[u8]) -> Result<Vec<Row>, IndexError> {
        let mut rows = Vec::new();
        self.shared.index.scan(Table::Maps, from, to, &mut |key, _| {
            rows.push((key.to_vec(), Vec::new()));
            rows.len() < PAGE
        })?;
        Ok(rows)
    }

    fn checkpoint(&mut self, key: Vec<u8>) -> Result<(), StoreError> {
        let place = keys::run_place(&key).filter(|(volume, _)| self.report.scope.has(*volume));
        let Some((volume, region)) = place else { return Ok(()) };
        let shared = self.shared;
        let found = {
            // A settle that is about to publish has moved checkpoints already.
            let _turn = lock(&shared.index_turn);
            let wrong = self.is_wrong(&key, volume, region)?;
            if wrong {
                shared.index.remove(Table::Maps, vec![key])?;
                shared.forget_maps();
            }
            wrong
        };
        if found {
            let detail = wrong(region);
            let finding = self.finding(FindingKind::Index, SegmentId::new(0), (0, 0), detail);
            self.list(vec![Finding { volume: Some(volume), ..finding }]);
        }
        self.reread += u64::from(REGION_BLOCKS);
        if self.reread < TELL_EACH {
            return Ok(());
        }
        self.reread -= TELL_EACH;
        self.pause()
    }

    /// Does it say something else than what it was made of, or nothing that can be read? One that nobody reads by says nothing.
    fn is_wrong(&self, key: &[u8], volume: VolumeId, region: RegionNo) -> Result<bool, StoreError> {
        let (index, segments, layout) = (&self.shared.index, &self.shared.segments, &*self.layout());
        let Some(value) = index.get(Table::Maps, key)? else { return Ok(false) };
        let gather = Gather { index, layout, segments, volume, region };
        let mut said = RegionMapBuilder::new(NEWEST);
        let mut versions: Vec<Version> = Vec::new();
        let Ok(group) = decode_checkpoint(&value, |v| versions.push(v)) else { return Ok(true) };
        if group < layout.group || !gather.all_live(&versions) {
            return Ok(false);
        }
        versions.iter().for_each(|v| said.apply(v));
        let mut made_of = RegionMapBuilder::new(NEWEST);
        gather.all(Some(group), &mut |v| made_of.apply(v))?;
        let (said, made_of) = (said.build(), made_of.build());
        Ok((0..REGION_BLOCKS).any(|block| said.unit(block) != made_of.unit(block)))
    }
}

fn wrong(region: RegionNo) -> String {
    format!(
        "a checkpoint in the index of the 16 MiB from byte {} was not what the segments say: points that were read by it may have shown \
         blocks older or newer than theirs. It is removed, and they are read without it",
        region.offset()
    )
}
