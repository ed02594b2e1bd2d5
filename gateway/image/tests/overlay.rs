//! The overlay against a plain model: reads see the last write, whatever was copied from where, and a crash at any moment leaves
//! exactly what was last flushed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use std::collections::BTreeSet;

use gateway_image::overlay::{
    Begun, Change, Content, ContentSum, Loan, LogPlace, Noted, Overlay, Recent, Said, Written,
    all_unrecorded, encode_group, scan, stood, unrecorded,
};
use proptest::prelude::*;
use tap_block::{BLOCK_SIZE, BlockNo, Extent};

const BLOCKS: u64 = 24;
const QUOTA: u64 = 16 * BLOCK_SIZE;
const IMAGE: u64 = 3;

#[derive(Debug, Clone)]
enum Step {
    Write(u64),
    /// A write whose content lies in a slot of its own when the other thing happens, and which is said only after it.
    Overtaken(u64, Box<Step>),
    Zero(u64, u64),
    /// From, how many, to.
    Copy(u64, u64, u64),
    Flush,
    FailedFlush,
    /// A flush, and a write in the middle of it.
    Busy(u64, bool),
    Crash,
    /// The same, and what was said before the last flush comes back from the disk, with all content that is still there.
    Stale,
    /// Of the gateway alone, with or without a write that was said but not done.
    Kill(Option<u64>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..BLOCKS).prop_map(Step::Write),
        2 => (0..BLOCKS, 1..8u64).prop_map(|(b, n)| Step::Zero(b, n.min(BLOCKS - b))),
        4 => (0..BLOCKS, 0..BLOCKS, 1..10u64)
            .prop_map(|(a, b, n)| Step::Copy(a, n.min(BLOCKS - a).min(BLOCKS - b), b)),
        2 => Just(Step::Flush),
        1 => Just(Step::FailedFlush),
        1 => (0..BLOCKS, any::<bool>()).prop_map(|(b, works)| Step::Busy(b, works)),
        1 => Just(Step::Crash),
        1 => Just(Step::Stale),
        2 => prop::option::of(0..BLOCKS).prop_map(Step::Kill),
    ];
    let overtaken =
        (0..BLOCKS, step.clone()).prop_map(|(block, step)| Step::Overtaken(block, Box::new(step)));
    prop::collection::vec(prop_oneof![5 => step, 1 => overtaken], 1..120)
}

/// The overlay with a data file and a log in memory. A block's content is one number, 0 is zeroes, and the
/// image below holds its negative number, counted from one, in each block.
struct Rig {
    overlay: Overlay,
    data: Vec<i64>,
    log: Vec<u8>,
    groups: u64,
    recent: Recent,
    said: [Vec<u8>; 2],
    said_before: [Vec<u8>; 2],
    noted: Begun,
    flushed: Vec<i64>,
    model: Vec<i64>,
}

impl Rig {
    fn new() -> Self {
        let fresh: Vec<i64> = (0..BLOCKS).map(below).collect();
        let overlay = Overlay::new(QUOTA);
        let recent = Recent::new(IMAGE, LogPlace::default());
        let (data, log, said, said_before) = Default::default();
        let mut rig = Self {
            overlay,
            data,
            log,
            groups: 0,
            recent,
            said,
            said_before,
            noted: Begun::default(),
            flushed: fresh.clone(),
            model: fresh,
        };
        rig.begin();
        rig
    }

    fn step(&mut self, n: i64, step: &Step) {
        match *step {
            Step::Write(block) => self.write(block, n),
            Step::Overtaken(block, ref by) => self.overtaken(block, n, by),
            Step::Zero(first, blocks) => {
                let extent = Extent::between(first * BLOCK_SIZE, (first + blocks) * BLOCK_SIZE);
                self.say(Change::Zero(extent));
                self.overlay.zero(extent);
                self.model[first as usize..(first + blocks) as usize].fill(0);
            }
            Step::Copy(from, blocks, to) => self.copy(from, blocks, to),
            Step::Flush => self.flush(true, |_| {}),
            Step::FailedFlush => self.flush(false, |_| {}),
            Step::Busy(block, works) => self.flush(works, |rig| rig.write(block, n)),
            Step::Crash => self.crash(&[]),
            Step::Stale => {
                let found = self.found(&self.said_before);
                self.model = self.flushed.clone();
                self.crash(&found);
            }
            Step::Kill(under_way) => self.kill(under_way, n),
        }
    }

    fn copy(&mut self, from: u64, blocks: u64, to: u64) {
        let extent = Extent::between(from * BLOCK_SIZE, (from + blocks) * BLOCK_SIZE);
        let changes = self.overlay.copied(extent, BlockNo::new(to));
        let used = self.overlay.used();
        self.say_all(&changes);
        self.overlay.show(&changes);
        assert!(self.overlay.used() <= used, "a copy takes no room");
        self.model.copy_within(from as usize..(from + blocks) as usize, to as usize);
    }

    fn say(&mut self, change: Change) {
        self.say_all(&[change]);
    }

    fn say_all(&mut self, changes: &[Change]) {
        let said = self.recent.say(changes);
        self.put(&said);
        self.recent.said(&said);
        if said.is_noted() {
            self.noted = self.recent.noted();
        }
    }

    fn put(&mut self, said: &Said) {
        let (file, at) = (&mut self.said[usize::from(said.second)], said.offset as usize);
        file.resize(file.len().max(at + said.bytes.len()), 0);
        file[at..at + said.bytes.len()].copy_from_slice(&said.bytes);
    }

    /// A file of what is recent begins.
    fn begin(&mut self) {
        self.put(&self.recent.ended());
        self.noted = self.recent.noted();
    }

    fn lend(&mut self, block: u64) -> Option<Loan> {
        let no = BlockNo::new(block);
        let asked = self.overlay.ask(&[no]).ok()?;
        let loan = self.overlay.lend(asked)[0];
        self.data.resize(self.data.len().max(loan.slot().get() as usize + 1), 0);
        Some(loan)
    }

    fn say_write(&mut self, block: u64, loan: &Loan, content: i64) -> ContentSum {
        let (block, slot) = (BlockNo::new(block), loan.slot());
        let sum = ContentSum::of(block, &content.to_le_bytes());
        self.say(Change::Slot { block, slot, sum });
        sum
    }

    /// What is read from the same place is overwritten once it is said; what lies elsewhere is written first.
    fn write(&mut self, block: u64, content: i64) {
        let Some(loan) = self.lend(block) else { return };
        if loan.is_in_place() {
            self.say_write(block, &loan, content);
            self.data[loan.slot().get() as usize] = content;
        } else {
            self.data[loan.slot().get() as usize] = content;
            self.say_write(block, &loan, content);
        }
        let sum = ContentSum::of(BlockNo::new(block), &content.to_le_bytes());
        self.overlay.map(&[(loan, sum)]);
        self.model[block as usize] = content;
    }

    fn overtaken(&mut self, block: u64, content: i64, by: &Step) {
        let Some(loan) = self.lend(block) else { return };
        // Nobody copies while slots are lent.
        if loan.is_in_place() || matches!(by, Step::Copy(..)) {
            return self.overlay.unused(&[loan]);
        }
        self.data[loan.slot().get() as usize] = content;
        self.step(content + 1_000_000, by);
        if matches!(by, Step::Crash | Step::Stale | Step::Kill(_)) {
            return;
        }
        let sum = self.say_write(block, &loan, content);
        self.overlay.map(&[(loan, sum)]);
        self.model[block as usize] = content;
    }

    fn flush(&mut self, works: bool, meanwhile: impl FnOnce(&mut Self)) {
        let (changes, flushed, said) = (self.overlay.take_changes(), self.model.clone(), self.said.clone());
        if !changes.is_empty() && self.recent.turn(LogPlace { generation: 0, group: self.groups + 1 }) {
            self.begin();
        }
        meanwhile(self);
        if !works {
            return self.overlay.failed(changes);
        }
        if !changes.is_empty() {
            self.recent.recorded();
            self.said_before = said;
            self.log.extend(encode_group(IMAGE, self.groups, changes.list()));
            self.groups += 1;
            // How far the log stands.
            self.say_all(&[]);
        }
        self.overlay.recorded(changes);
        self.flushed = flushed;
    }

    /// The log as recorded, with what was found besides; of the data file everything, recorded or not.
    fn crash(&mut self, found: &[Change]) {
        if !found.is_empty() {
            self.log.extend(encode_group(IMAGE, self.groups, found));
            self.groups += 1;
            self.flushed = self.model.clone();
        }
        let found = scan(IMAGE, &self.log).unwrap();
        assert_eq!(found.next_group, self.groups);
        self.overlay = Overlay::restore(QUOTA, found.changes);
        self.recent = Recent::new(IMAGE, LogPlace { generation: 0, group: self.groups });
        self.said = Default::default();
        self.begin();
        self.say_all(&[]);
        self.model = self.flushed.clone();
    }

    fn kill(&mut self, under_way: Option<u64>, content: i64) {
        if let Some((block, loan)) = under_way.and_then(|block| Some((block, self.lend(block)?))) {
            self.say_write(block, &loan, content);
        }
        let found = self.kept();
        let answered = self.model.clone();
        self.crash(&found);
        self.model = answered;
    }

    /// What a gateway that comes back makes of it when only it was gone.
    fn kept(&self) -> Vec<Change> {
        let place = LogPlace { generation: 0, group: self.groups };
        assert!(stood(IMAGE, [&self.said[0], &self.said[1]]) <= Some(place));
        let claims =
            all_unrecorded(IMAGE, [&self.said[0], &self.said[1]], place, Some(Noted::Begun(self.noted)))
                .unwrap();
        let is_there = |change: &Change| self.is_there(change);
        let sound = claims.into_iter().flat_map(|claim| {
            claim.changes.into_iter().filter(move |change| claim.is_sure || is_there(change))
        });
        sound.collect()
    }

    /// The same when the machine was.
    fn found(&self, said: &[Vec<u8>; 2]) -> Vec<Change> {
        let place = LogPlace { generation: 0, group: self.groups };
        let mut found = unrecorded(IMAGE, [&said[0], &said[1]], place);
        found.retain(|change| self.is_there(change));
        found
    }

    fn is_there(&self, change: &Change) -> bool {
        match change {
            Change::Slot { slot, sum, .. } => {
                let content = self.data.get(slot.get() as usize);
                content.is_some_and(|c| sum.is_of(&c.to_le_bytes()))
            }
            Change::Zero(_) | Change::Image(_) => true,
        }
    }

    fn check(&self) {
        let mut slots = BTreeSet::new();
        for (block, &expected) in (0..).map(BlockNo::new).zip(&self.model) {
            let got = match self.overlay.content(block) {
                Content::Image(at) => below(at.get()),
                Content::Zero => 0,
                Content::Slot(slot, sum) => {
                    slots.insert(slot);
                    let content = self.data[slot.get() as usize];
                    assert!(sum.is_of(&content.to_le_bytes()));
                    content
                }
            };
            assert_eq!(got, expected, "{block:?}");
        }
        self.check_written();
        assert_eq!(self.overlay.used(), slots.len() as u64 * BLOCK_SIZE, "what is shared counts once");
        assert!(self.overlay.used() <= QUOTA);
        assert!(self.data.len() as u64 * BLOCK_SIZE <= QUOTA * 2 + 120 * BLOCK_SIZE);
    }
}

impl Rig {
    /// What is told of stretches is what is told of each block, in order.
    fn check_written(&self) {
        let mut done = 0;
        for (extent, what) in self.overlay.written(Extent::between(0, BLOCKS * BLOCK_SIZE)) {
            assert!(self.overlay.is_untouched(Extent::between(done, extent.offset())));
            for block in extent.blocks() {
                let is_so = match (what, self.overlay.content(block)) {
                    (Written::Data, Content::Slot(..)) | (Written::Zeroes, Content::Zero) => true,
                    (Written::Image(at), Content::Image(from)) => {
                        at + (block.offset() - extent.offset()) == from.offset()
                    }
                    _ => false,
                };
                assert!(is_so, "{block:?} {what:?}");
            }
            done = extent.end();
        }
        assert!(self.overlay.is_untouched(Extent::between(done, BLOCKS * BLOCK_SIZE)));
    }
}

/// What the image has.
fn below(block: u64) -> i64 {
    -block.cast_signed() - 1
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
