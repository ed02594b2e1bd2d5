//! One operation under way: its whole blocks, and the edges that have to be read to complete them.

use bytes::Bytes;
use tap_block::stored::{UNIT, is_zero};
use tap_block::units::index;
use tap_block::{BLOCK_SIZE, Extent};

use super::{Change, MAX_RECORD, whole_blocks};
use crate::queue::Content;

#[derive(Debug)]
pub(super) struct Op {
    extent: Extent,
    change: Change,
    /// `extent` rounded out to whole blocks: what it holds, and what its records say.
    pub(super) blocks: Extent,
    /// The blocks it covers only partly, cut at the volume's end; the content once it was read.
    edges: Vec<(Extent, Option<Bytes>)>,
}

impl Op {
    pub(super) fn new(extent: Extent, change: Change, size: u64) -> Self {
        Self { extent, change, blocks: whole_blocks(extent), edges: partial_blocks(extent, size) }
    }

    /// Is the content of every block known?
    pub(super) fn is_complete(&self) -> bool {
        self.edges.iter().all(|(_, content)| content.is_some())
    }

    /// What has to be read.
    pub(super) fn edges(&self) -> impl Iterator<Item = Extent> {
        self.edges.iter().map(|(extent, _)| *extent)
    }

    pub(super) fn fill(&mut self, extent: Extent, content: Bytes) {
        if let Some(edge) = self.edges.iter_mut().find(|(e, _)| *e == extent) {
            edge.1 = Some(content);
        }
    }

    /// Records and bytes of data it takes at most.
    pub(super) fn cost(&self) -> (u64, u64) {
        match self.change {
            Change::Write(_) => (self.blocks.length().div_ceil(MAX_RECORD) + 3, self.blocks.length()),
            Change::Zero => (3, 2 * BLOCK_SIZE),
        }
    }

    /// Its records, in the order of the disk. Long writes are cut at multiples of 1 MiB.
    pub(super) fn for_each_piece(self, mut each: impl FnMut(Content)) {
        let inner = self.inner();
        let mut edges = self.edges.into_iter().peekable();
        if let Some((extent, Some(data))) = edges.next_if(|(e, _)| e.offset() < inner.offset()) {
            each(Content::Write { extent: whole_blocks(extent), data });
        }
        match &self.change {
            Change::Zero if inner.is_empty() => {}
            Change::Zero => each(Content::Zero { extent: inner }),
            Change::Write(data) => {
                for extent in inner.split_at_multiples(MAX_RECORD) {
                    let from = index(extent.offset() - self.extent.offset());
                    let to = data.len().min(from + index(extent.length()));
                    each(Content::Write { extent, data: data.slice(from.min(to)..to) });
                }
            }
        }
        if let Some((extent, Some(data))) = edges.next() {
            each(Content::Write { extent: whole_blocks(extent), data });
        }
    }

    /// The blocks it covers wholly; a last block cut by the volume's end counts as whole.
    fn inner(&self) -> Extent {
        let start = if self.extent.offset().is_multiple_of(BLOCK_SIZE) {
            self.blocks.offset()
        } else {
            self.blocks.offset() + BLOCK_SIZE
        };
        let last_is_edge = self.edges.iter().any(|(e, _)| whole_blocks(*e).end() == self.blocks.end());
        let end = if last_is_edge { self.blocks.end() - BLOCK_SIZE } else { self.blocks.end() };
        Extent::between(start, end)
    }
}

fn partial_blocks(extent: Extent, size: u64) -> Vec<(Extent, Option<Bytes>)> {
    let block = |no: u64| Extent::between(no * BLOCK_SIZE, ((no + 1) * BLOCK_SIZE).min(size));
    let (first, last) = (extent.offset() / BLOCK_SIZE, (extent.end().max(1) - 1) / BLOCK_SIZE);
    let first_cut = !extent.offset().is_multiple_of(BLOCK_SIZE);
    let last_cut = !extent.end().is_multiple_of(BLOCK_SIZE) && extent.end() != size;
    let mut edges = Vec::new();
    if first_cut || (last_cut && first == last) {
        edges.push((block(first), None));
    }
    if last_cut && first != last {
        edges.push((block(last), None));
    }
    edges
}

/// Cuts the content of `extent` (shorter where the volume ends) into stretches that are zero and stretches
/// that are not.
pub(super) fn split_at_zeroes(extent: Extent, content: &Bytes, mut each: impl FnMut(Content)) {
    let blocks: Vec<bool> = content.chunks(UNIT).map(is_zero).collect();
    let mut at = 0;
    for run in blocks.chunk_by(|a, b| a == b) {
        let (start, end) = (at, at + run.len());
        at = end;
        let stretch = Extent::between(byte(extent, start), byte(extent, end));
        if run.first() == Some(&true) {
            each(Content::Zero { extent: stretch });
        } else {
            let data = content.slice(start * UNIT..(end * UNIT).min(content.len()));
            each(Content::Write { extent: stretch, data });
        }
    }
}

fn byte(extent: Extent, block: usize) -> u64 {
    extent.offset() + tap_block::units::count(block) * BLOCK_SIZE
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: u64 = BLOCK_SIZE;

    fn pieces(extent: Extent, size: u64, zero: bool) -> Vec<(Extent, usize)> {
        let data = Bytes::from(vec![7u8; index(extent.length())]);
        let change = if zero { Change::Zero } else { Change::Write(data) };
        let mut op = Op::new(extent, change, size);
        for e in op.edges().collect::<Vec<_>>() {
            op.fill(e, Bytes::from(vec![9u8; index(e.length())]));
        }
        let mut out = Vec::new();
        op.for_each_piece(|c| {
            out.push(match c {
                Content::Write { extent, data } => (extent, data.len()),
                Content::Zero { extent } => (extent, 0),
                Content::Resize { .. } | Content::Mark(_) => unreachable!(),
            });
        });
        out
    }

    #[test]
    fn pieces_are_whole_blocks_and_cover_the_operation() {
        let e = Extent::between;
        assert_eq!(pieces(e(0, B), 9 * B, false), [(e(0, B), 4096)]);
        assert_eq!(pieces(e(1, 2), 9 * B, false), [(e(0, B), 4096)]);
        assert_eq!(pieces(e(0, 512), 9 * B, false), [(e(0, B), 4096)]);
        assert_eq!(pieces(e(1, B + 1), 9 * B, false), [(e(0, B), 4096), (e(B, 2 * B), 4096)]);
        let three = [(e(0, B), 4096), (e(B, 2 * B), 4096), (e(2 * B, 3 * B), 4096)];
        assert_eq!(pieces(e(5, 2 * B + 5), 9 * B, false), three);
        assert_eq!(pieces(e(5, 2 * B + 5), 9 * B, true), [three[0], (e(B, 2 * B), 0), three[2]]);
    }

    #[test]
    fn a_volume_that_ends_inside_a_block_needs_no_edge_there() {
        let e = Extent::between;
        assert_eq!(pieces(e(0, B + 100), B + 100, false), [(e(0, 2 * B), 4196)]);
        assert_eq!(pieces(e(B + 50, B + 100), B + 100, false), [(e(B, 2 * B), 100)]);
        assert_eq!(pieces(e(B, B + 50), B + 100, false), [(e(B, 2 * B), 100)]);
    }

    #[test]
    fn long_writes_are_cut() {
        let cut = pieces(Extent::between(B, MAX_RECORD + 2 * B), 1 << 30, false);
        assert_eq!(cut.len(), 2);
        assert_eq!(cut.iter().map(|(_, n)| n).sum::<usize>(), index(MAX_RECORD + B));
    }
}
