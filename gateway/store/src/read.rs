//! Reading units: neighbours in one go, every one checked before a byte leaves.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;

use gateway_journal::pack::Unpacker;
use gateway_journal::{Location, SegmentId};
use tap_block::BlockNo;
use tap_block::stored::UNIT;
use tap_block::units::{count, index};
use tap_disk::SegmentFile;

use crate::error::ReadError;
use crate::store::{Counters, Shared};

/// A unit to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitRead {
    /// The block it is the content of.
    pub block: BlockNo,
    /// Where it lies.
    pub at: Location,
    /// Where in the output its block begins.
    pub into: usize,
}

/// How long a read may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadMode {
    /// Only what the page cache has.
    Cached,
    /// As long as the disk needs.
    Blocking,
}

/// Units this near to each other are read in one go: a gap costs less than another read.
const GAP: u32 = 32 << 10;
/// From the page cache there is nothing to save but the call.
const CACHED_GAP: u32 = 4 << 10;
/// The most that is read in one go.
const LONGEST: u32 = 1 << 20;
/// From the page cache: what was copied is still in the processor's when it is checked.
const CACHED_LONGEST: u32 = 256 << 10;

thread_local! {
    /// What is read, before it is decoded. It is cleared once, not for each read.
    static SCRATCH: RefCell<(Vec<u8>, Unpacker)> = RefCell::default();
}

impl Shared {
    pub(crate) fn read_units(
        &self,
        units: &[UnitRead],
        mode: ReadMode,
        out: &mut [u8],
    ) -> Result<bool, ReadError> {
        Counters::add(&self.counters.blocks_read, count(units.len()));
        SCRATCH.with_borrow_mut(|(scratch, unpacker)| {
            Reader { shared: self, mode, open: None, scratch, unpacker }.read_all(units, out)
        })
    }
}

impl Shared {
    pub(crate) fn will_need(&self, mut units: Vec<Location>) {
        Counters::add(&self.counters.blocks_ahead, count(units.len()));
        units.sort_unstable();
        let mut rest = units.as_slice();
        while let Some(first) = rest.first() {
            let n = run_length(rest.iter().copied(), *first, GAP, LONGEST);
            let (run, behind) = rest.split_at(n);
            let end = run.iter().map(|at| at.end()).max().unwrap_or(first.offset);
            if let Ok(Some(file)) = self.segments.file(first.segment) {
                file.will_need(u64::from(first.offset), u64::from(end.saturating_sub(first.offset)));
            }
            rest = behind;
        }
    }
}

impl Reader<'_> {
    fn read_all(&mut self, units: &[UnitRead], out: &mut [u8]) -> Result<bool, ReadError> {
        if let [unit] = units {
            return self.read_run(&[unit], out);
        }
        let mut sorted: Vec<&UnitRead> = units.iter().collect();
        sorted.sort_unstable_by_key(|u| u.at);
        let (gap, longest) = match self.mode {
            ReadMode::Cached => (CACHED_GAP, CACHED_LONGEST),
            ReadMode::Blocking => (GAP, LONGEST),
        };
        let mut rest = sorted.as_slice();
        while let Some(first) = rest.first() {
            let n = run_length(rest.iter().map(|u| u.at), first.at, gap, longest);
            let (run, behind) = rest.split_at(n);
            if !self.read_run(run, out)? {
                return Ok(false);
            }
            rest = behind;
        }
        Ok(true)
    }
}

/// How many of `units`, which are sorted, are read with the first.
fn run_length(units: impl Iterator<Item = Location>, first: Location, gap: u32, longest: u32) -> usize {
    let mut end = first.end();
    let near = units.take_while(|at| {
        let fits = at.segment == first.segment
            && at.offset <= end.saturating_add(gap)
            && at.end().saturating_sub(first.offset) <= longest;
        end = end.max(at.end());
        fits
    });
    near.count().max(1)
}

struct Reader<'a> {
    shared: &'a Shared,
    mode: ReadMode,
    open: Option<(SegmentId, Arc<SegmentFile>)>,
    scratch: &'a mut Vec<u8>,
    unpacker: &'a mut Unpacker,
}

impl Reader<'_> {
    fn file(&mut self, segment: SegmentId) -> Result<Arc<SegmentFile>, ReadError> {
        if let Some((open, file)) = &self.open
            && *open == segment
        {
            return Ok(Arc::clone(file));
        }
        let file = self.shared.segments.file(segment).map_err(|e| io_error(&e))?;
        let file = file.ok_or(ReadError::Gone(segment))?;
        self.shared.heat.note(segment, self.shared.age.now());
        self.open = Some((segment, Arc::clone(&file)));
        Ok(file)
    }

    /// Reads units of one segment that lie close together.
    fn read_run(&mut self, units: &[&UnitRead], out: &mut [u8]) -> Result<bool, ReadError> {
        let Some(first) = units.first() else { return Ok(true) };
        let start = first.at.offset;
        let end = units.iter().map(|u| u.at.end()).max().unwrap_or(start);
        let file = self.file(first.at.segment)?;
        let len = usize::try_from(end.saturating_sub(start)).unwrap_or(0);
        if self.scratch.len() < len {
            self.scratch.resize(len, 0);
        }
        let bytes = self.scratch.get_mut(..len).unwrap_or_default();
        let offset = u64::from(start);
        let there = match self.mode {
            ReadMode::Cached => file.read_cached(offset, bytes),
            ReadMode::Blocking => file.read_at(offset, bytes).map(|()| true),
        };
        if !there.map_err(|e| self.failed(first, &e))? {
            return Ok(false);
        }
        // Its file may have been used again while this read it.
        if !self.shared.segments.lives(first.at.segment) {
            return Err(ReadError::Gone(first.at.segment));
        }
        for unit in units {
            let from = index(u64::from(unit.at.offset.saturating_sub(start)));
            let stored = self.scratch.get(from..from.saturating_add(index(u64::from(unit.at.bytes()))));
            let block = out.get_mut(unit.into..unit.into.saturating_add(UNIT));
            let (Some(stored), Some(block)) = (stored, block) else {
                return Err(ReadError::Io("the block does not fit into the buffer given for it".into()));
            };
            let done = self.unpacker.unpack(unit.at, unit.block, stored, block);
            done.map_err(|e| self.damaged(unit, e.to_string()))?;
        }
        Ok(true)
    }

    /// The end of a file that is not where it should be is damage; all else is the disk.
    fn failed(&self, unit: &UnitRead, e: &io::Error) -> ReadError {
        match e.kind() {
            io::ErrorKind::UnexpectedEof => self.damaged(unit, e.to_string()),
            _ => io_error(e),
        }
    }

    fn damaged(&self, unit: &UnitRead, detail: String) -> ReadError {
        Counters::add(&self.shared.counters.blocks_damaged, 1);
        tracing::error!("block {} in {} is damaged: {detail}", unit.block.get(), unit.at);
        ReadError::Damaged { block: unit.block, at: unit.at, detail }
    }
}

fn io_error(e: &io::Error) -> ReadError {
    ReadError::Io(e.to_string())
}
