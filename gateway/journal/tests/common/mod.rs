//! Segments in memory, laid by the writer and read back by the scan.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use gateway_journal::{
    Expected, Found, FrameHeader, Group, Records, Sealed, SegmentHeader, SegmentId, SegmentScan,
    SegmentWriter, Start, StoreId, table,
};
use tap_block::{Batch, WallTime};

pub const STORE: StoreId = StoreId::new(0x5704_e1d0);
pub const NOW: WallTime = WallTime::from_nanos(1_700_000_000_123_456_789);

pub fn cases(n: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|v| v.parse().ok()).unwrap_or(n)
}

pub fn header(segment: u32, length: u32, previous: Option<Sealed>) -> SegmentHeader {
    SegmentHeader {
        store: STORE,
        segment: SegmentId::new(segment),
        length,
        first_live: SegmentId::new(1),
        previous,
        created_at: NOW,
    }
}

/// A segment file in memory.
#[derive(Debug, Clone)]
pub struct Image {
    pub header: SegmentHeader,
    pub bytes: Vec<u8>,
    pub writer: SegmentWriter,
    /// Where each group ended.
    pub groups: Vec<u32>,
    pub batches: Vec<Batch>,
}

impl Image {
    pub fn new(header: SegmentHeader) -> Self {
        Self::over(header, vec![0; header.length as usize])
    }

    /// Over what an earlier life of the file left.
    pub fn over(header: SegmentHeader, mut bytes: Vec<u8>) -> Self {
        let head = header.encode();
        bytes[..head.len()].copy_from_slice(&head);
        Self { header, bytes, writer: SegmentWriter::begin(&header), groups: Vec::new(), batches: Vec::new() }
    }

    /// Lays `batches` as one group; false when there is no room for all of them.
    pub fn group(&mut self, batches: &[Batch]) -> bool {
        let mut group = self.writer.group();
        if !batches.iter().all(|b| group.push(b, NOW)) {
            return false;
        }
        group.seal();
        self.put(&group, batches);
        self.writer.commit(&group);
        self.groups.push(group.end());
        self.batches.extend_from_slice(batches);
        true
    }

    pub fn put(&mut self, group: &Group, batches: &[Batch]) {
        for (laid, batch) in group.frames().iter().zip(batches) {
            let at = laid.at as usize;
            let body = at + laid.head.len();
            self.bytes[at..body].copy_from_slice(&laid.head);
            self.bytes[body..body + batch.body.len()].copy_from_slice(&batch.body);
            let end = at + laid.header.span as usize;
            self.bytes[body + batch.body.len()..end].fill(0);
        }
    }

    pub fn expected(&self) -> Expected {
        Expected {
            store: self.header.store,
            segment: self.header.segment,
            length: self.bytes.len() as u32,
            from: Start::of_segment(Some(self.header.hash())),
            sealed: None,
            durable: 0,
        }
    }

    pub fn scan(&self) -> Scanned {
        scan(&self.bytes, self.expected())
    }
}

/// All that a scan finds.
#[derive(Debug, Default)]
pub struct Scanned {
    pub frames: Vec<(u32, FrameHeader, Vec<u8>)>,
    pub damage: Vec<(u32, u32)>,
    pub end: Option<Start>,
    pub torn: bool,
}

impl Scanned {
    pub fn records(&self) -> Vec<Records> {
        self.frames.iter().map(|(_, header, bytes)| table::decode_records(header, bytes).unwrap()).collect()
    }

    pub fn end_at(&self) -> u32 {
        self.end.unwrap().at
    }
}

pub fn scan(bytes: &[u8], expected: Expected) -> Scanned {
    let mut scan = SegmentScan::new(expected);
    let mut found = Scanned::default();
    let mut steps = 0;
    while let Some((at, len)) = scan.want() {
        steps += 1;
        assert!(steps < 100_000, "the scan does not end");
        let (at, end) = (at as usize, (at + len) as usize);
        let end = end.min(bytes.len());
        match scan.give(&bytes[at.min(end)..end]) {
            Some(Found::Frame { at, header, table }) => found.frames.push((at, header, table)),
            Some(Found::Damage { from, to, .. }) => found.damage.push((from, to)),
            Some(Found::Over { end, torn }) => (found.end, found.torn) = (Some(end), torn),
            None => {}
        }
    }
    found
}
