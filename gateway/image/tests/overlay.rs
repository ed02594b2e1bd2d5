//! The overlay against a plain model: reads see the last write, and a crash at any moment leaves exactly
//! what was last flushed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use gateway_image::overlay::{Content, ContentSum, Overlay, encode_group, scan};
use proptest::prelude::*;
use tap_block::{BLOCK_SIZE, BlockNo, Extent};

const BLOCKS: u64 = 24;
const QUOTA: u64 = 16 * BLOCK_SIZE;
const IMAGE: u64 = 3;

#[derive(Debug, Clone)]
enum Step {
    Write(u64),
    Zero(u64, u64),
    Flush,
    FailedFlush,
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..BLOCKS).prop_map(Step::Write),
        2 => (0..BLOCKS, 1..8u64).prop_map(|(b, n)| Step::Zero(b, n.min(BLOCKS - b))),
        2 => Just(Step::Flush),
        1 => Just(Step::FailedFlush),
        1 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 1..120)
}

/// The overlay with a data file and a log in memory. A block's content is one number, 0 is zeroes, and the
/// image below holds -1 everywhere.
struct Rig {
    overlay: Overlay,
    data: Vec<i64>,
    log: Vec<u8>,
    groups: u64,
    flushed: Vec<i64>,
    model: Vec<i64>,
}

impl Rig {
    fn new() -> Self {
        let fresh = vec![-1; BLOCKS as usize];
        let overlay = Overlay::new(QUOTA);
        Self { overlay, data: vec![], log: vec![], groups: 0, flushed: fresh.clone(), model: fresh }
    }

    fn step(&mut self, n: i64, step: &Step) {
        match *step {
            Step::Write(block) => self.write(block, n),
            Step::Zero(first, blocks) => {
                self.overlay.zero(Extent::between(first * BLOCK_SIZE, (first + blocks) * BLOCK_SIZE));
                self.model[first as usize..(first + blocks) as usize].fill(0);
            }
            Step::Flush => self.flush(),
            Step::FailedFlush => {
                let changes = self.overlay.take_changes();
                self.overlay.failed(changes);
            }
            Step::Crash => self.crash(),
        }
    }

    fn write(&mut self, block: u64, content: i64) {
        let no = BlockNo::new(block);
        let extent = Extent::between(no.offset(), no.offset() + BLOCK_SIZE);
        if self.overlay.admit(extent).is_err() {
            return;
        }
        let slot = self.overlay.slot_for(no);
        let at = slot.get() as usize;
        self.data.resize(self.data.len().max(at + 1), 0);
        self.data[at] = content;
        self.overlay.map(no, slot, ContentSum::of(no, &content.to_le_bytes()));
        self.model[block as usize] = content;
    }

    fn flush(&mut self) {
        let changes = self.overlay.take_changes();
        self.log.extend(encode_group(IMAGE, self.groups, changes.list()));
        self.groups += 1;
        self.overlay.recorded(changes);
        self.flushed = self.model.clone();
    }

    /// The log as recorded; of the data file everything, recorded or not.
    fn crash(&mut self) {
        let found = scan(IMAGE, &self.log).unwrap();
        assert_eq!(found.next_group, self.groups);
        self.overlay = Overlay::restore(QUOTA, found.changes);
        self.model = self.flushed.clone();
    }

    fn check(&self) {
        for (block, &expected) in (0..).map(BlockNo::new).zip(&self.model) {
            let got = match self.overlay.content(block) {
                Content::Image => -1,
                Content::Zero => 0,
                Content::Slot(slot, sum) => {
                    let content = self.data[slot.get() as usize];
                    assert_eq!(sum, ContentSum::of(block, &content.to_le_bytes()));
                    content
                }
            };
            assert_eq!(got, expected, "{block:?}");
        }
        assert!(self.overlay.used() <= QUOTA);
        assert!(self.data.len() as u64 * BLOCK_SIZE <= QUOTA * 2 + 120 * BLOCK_SIZE);
    }
}

proptest! {
    #[test]
    fn reads_see_the_last_write_and_a_crash_the_last_flush(steps in steps()) {
        let mut rig = Rig::new();
        for (n, step) in (1..).zip(&steps) {
            rig.step(n, step);
            rig.check();
        }
    }
}
