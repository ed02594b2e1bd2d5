//! GET LBA STATUS (SBC-3 section 5.4): what the device's map says, in whole blocks.

use std::sync::Arc;

use tap_block::{Extent, Map, Op, State, Stretch};

use crate::field::{be32, be64, len32, put};
use crate::scsi::blocks::Disk;
use crate::scsi::sense::{Reply, Sense};

/// Descriptors of one answer; whoever wants to know more asks again from where it ends.
const MAX_DESCRIPTORS: usize = 256;
const DESCRIPTOR: usize = 16;
const HEADER: usize = 8;

/// A question for the map.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question {
    disk: Disk,
    /// From the first block asked for to the disk's end.
    extent: Extent,
    allotted: usize,
}

/// Blocks of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    blocks: u64,
    mapped: bool,
}

impl Question {
    pub(crate) fn parse(disk: Disk, cdb: &[u8; 16]) -> Result<Self, Sense> {
        let lba = be64(cdb, 2);
        let left = disk.blocks.checked_sub(lba).filter(|left| *left > 0).ok_or(Sense::OUT_OF_RANGE)?;
        let allotted = usize::try_from(be32(cdb, 10)).unwrap_or(usize::MAX);
        Ok(Self { disk, extent: disk.listed(lba, left)?, allotted })
    }

    fn most(&self) -> usize {
        (self.allotted.saturating_sub(HEADER) / DESCRIPTOR).clamp(1, MAX_DESCRIPTORS)
    }

    pub(crate) fn op(&self) -> Op {
        Op::Status { extent: self.extent, maps: Arc::new([Map::Allocation]), most: self.most() }
    }

    /// The answer to what the map says; one that says nothing is taken to say that there is data, which is always true.
    pub(crate) fn answer(&self, stretches: &[Stretch]) -> Reply {
        let mut runs = self.runs(stretches);
        if runs.is_empty() {
            let blocks = if stretches.is_empty() { self.extent.length() / self.disk.block } else { 1 };
            runs.push(Run { blocks, mapped: true });
        }
        let mut data = vec![0; HEADER];
        let mut lba = self.extent.offset() / self.disk.block;
        for run in runs.iter().take(self.most()) {
            let blocks = u32::try_from(run.blocks).unwrap_or(u32::MAX);
            data.extend_from_slice(&lba.to_be_bytes());
            data.extend_from_slice(&blocks.to_be_bytes());
            data.extend_from_slice(&[u8::from(!run.mapped), 0, 0, 0]);
            lba += u64::from(blocks);
            if u64::from(blocks) < run.blocks {
                // What follows is asked for from there on.
                break;
            }
        }
        let length = len32(data.len() - 4).to_be_bytes();
        put(&mut data, 0, &length);
        Reply::data(data, self.allotted)
    }

    /// A block is deallocated only if all of it is zeroes that take no room. One of which not all is told is left out.
    fn runs(&self, stretches: &[Stretch]) -> Vec<Run> {
        let block = self.disk.block;
        let (mut runs, mut at, mut told) = (Vec::new(), 0, 0);
        let mut push = |blocks: u64, mapped: bool| {
            if blocks > 0 {
                runs.push(Run { blocks, mapped });
            }
        };
        for stretch in stretches {
            let end = stretch.length.saturating_add(at).min(self.extent.length());
            let (first, whole) = (at.div_ceil(block), end / block);
            if stretch.state == State::Zeroes && first < whole {
                push(first - told, true);
                push(whole - first, false);
                told = whole;
            }
            at = end;
        }
        push(at / block - told, true);
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn stretch(length: u64, data: bool) -> Stretch {
        Stretch { length, state: if data { State::Data } else { State::Zeroes } }
    }

    /// What is answered from block 3 on: runs of blocks, negative ones deallocated.
    fn told(block: u64, allotted: u32, stretches: &[Stretch]) -> Vec<i64> {
        let mut cdb = [0; 16];
        cdb[9] = 3;
        cdb[10..14].copy_from_slice(&allotted.to_be_bytes());
        let disk = Disk { block, blocks: 1 << 40 };
        let data = Question::parse(disk, &cdb).unwrap().answer(stretches).data;
        assert_eq!(usize::try_from(be32(&data, 0)).unwrap(), data.len() - 4);
        let mut next = 3;
        let runs = data[HEADER..].chunks(DESCRIPTOR).map(|run| {
            assert_eq!(be64(run, 0), next, "one follows the other");
            next += u64::from(be32(run, 8));
            let blocks = i64::from(be32(run, 8));
            if run[12] == 1 { -blocks } else { blocks }
        });
        runs.collect()
    }

    #[test]
    fn a_block_is_deallocated_only_if_all_of_it_is() {
        let mix = [stretch(8192, true), stretch(4096, false), stretch(512, true), stretch(5120, false)];
        assert_eq!(told(512, 200, &mix), [16, -8, 1, -10]);
        assert_eq!(told(4096, 200, &mix), [2, -1, 1], "of the fifth not all is told");
        assert_eq!(
            told(4096, 200, &[stretch(4000, false), stretch(96, true), stretch(9000, false)]),
            [1, -2]
        );
        assert_eq!(told(4096, 200, &[stretch(512, false)]), [1], "always one");
    }

    #[test]
    fn there_is_no_more_than_was_asked_for_and_numbers_fit() {
        let mix = [stretch(512, false), stretch(512, true), stretch(512, false)];
        assert_eq!(told(512, 40, &mix), [-1, 1]);
        assert_eq!(told(512, 24, &mix), [-1]);
        let long = [stretch(1 << 45, false), stretch(512, true)];
        assert_eq!(told(512, 200, &long), [-i64::from(u32::MAX)]);
        assert_eq!(told(512, 200, &[]), [i64::from(u32::MAX)], "nothing known");
    }
}
