//! An index whose state is an older one than what lies beside it. fjall forgets the end of its log without a word when a bit in it
//! flips, and takes an older entry for the newest when the bit is one of its number; and the state is in that log.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{ManualClock, append, image};
use gateway_store::{Store, StoreConfig};
use testbed_model::{Oracle, Workload};

fn config(dir: &Path) -> StoreConfig {
    let mut config = StoreConfig::new(dir.to_owned());
    (config.segment_len, config.spare_segments) = (512 << 10, 0);
    // A group ends when the store is stopped, and not before.
    (config.group_versions, config.checkpoint_versions) = (1 << 20, 60);
    (config.settle_each, config.scrub_rate, config.ledger_each) = (None, None, None);
    config
}

/// A store that was stopped some times, and what was written to it.
struct Stopped {
    clock: Arc<ManualClock>,
    oracle: Oracle,
    workload: Workload,
    dir: tempfile::TempDir,
}

impl Stopped {
    fn new(seed: u64, times: usize) -> Self {
        let (clock, dir) = (Arc::new(ManualClock::default()), tempfile::tempdir().unwrap());
        let mut this = Self { clock, oracle: Oracle::new(), workload: Workload::new(seed), dir };
        for n in 0..times {
            let store = this.open(this.dir.path());
            let batches = match n {
                0 => this.workload.history(40),
                _ => (0..8).map(|_| this.workload.batch(3)).collect(),
            };
            for batch in batches {
                append(&store, &batch).unwrap();
                this.oracle.apply(&batch).unwrap();
            }
        }
        this
    }

    fn open(&self, dir: &Path) -> Arc<Store> {
        Store::open(config(dir), Arc::clone(&self.clock) as _).unwrap()
    }

    /// A copy of it.
    fn copy(&self) -> tempfile::TempDir {
        let to = tempfile::tempdir().unwrap();
        copy(self.dir.path(), to.path());
        to
    }

    fn check(&self, store: &Store, what: &str) {
        let volume = self.workload.volume();
        let catalogue = store.catalogue();
        let known = catalogue.volume(volume).unwrap();
        for lsn in self.oracle.lsns().into_iter().step_by(2).filter(|lsn| known.selectable(*lsn).is_ok()) {
            let is_right = image(store, volume, lsn) == self.oracle.image_at(volume, lsn);
            assert!(is_right, "{what}: the image at {lsn} is wrong");
        }
    }

    /// Bits of a byte of fjall's log flip.
    fn spoil(&self, (at, mask): (usize, u8), what: &str) {
        let dir = self.copy();
        let log = logs(dir.path()).remove(0);
        let mut bytes = fs::read(&log).unwrap();
        bytes[at] ^= mask;
        fs::write(log, bytes).unwrap();
        self.live_on(dir.path(), &format!("{what}: {mask:#x} in byte {at}"));
    }

    /// It is opened, and stopped, and opened again.
    fn live_on(&self, dir: &Path, what: &str) {
        for _ in 0..2 {
            self.check(&self.open(dir), what);
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
            continue;
        }
        let mut bytes = fs::read(&path).unwrap();
        if path.extension().is_some_and(|e| e == "jnl") {
            // It is longer than what is in it.
            bytes.truncate(bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1));
        }
        fs::write(to, bytes).unwrap();
    }
}

/// fjall's logs, oldest first.
fn logs(dir: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(dir.join("fjall")).unwrap().map(|entry| entry.unwrap().path());
    let mut logs: Vec<_> = all.filter(|path| path.extension().is_some_and(|e| e == "jnl")).collect();
    logs.sort();
    logs
}

/// Behind each batch.
const MAGIC: usize = 4;

/// Where the numbers of batches lie: behind a tag and how many rows there are.
fn numbers(log: &[u8]) -> Vec<Range<usize>> {
    let int = |at: usize, n: usize| log[at..at + n].iter().rev().fold(0, |sum, b| sum << 8 | *b as usize);
    let (mut at, mut found) = (0, Vec::new());
    while at < log.len() && log[at] != 0 {
        let len = match log[at] {
            1 => {
                found.push(at + 5..at + 13);
                13
            }
            2 => 21 + int(at + 11, 2) + int(at + 17, 4),
            3 => 9 + MAGIC,
            tag => panic!("{tag} at byte {at}"),
        };
        at += len;
    }
    found
}

#[test]
fn a_log_of_the_index_that_lost_its_end_is_noticed() {
    let stopped = Stopped::new(5, 9);
    stopped.live_on(stopped.copy().path(), "sound");
    let found = numbers(&fs::read(&logs(stopped.dir.path())[0]).unwrap());
    assert!(found.len() > 8, "{found:?}");
    for number in found {
        // A tag.
        stopped.spoil((number.start - 5, 4), "a tag");
    }
}

#[test]
fn an_entry_that_is_taken_for_another_ones_successor_is_noticed() {
    let stopped = Stopped::new(6, 9);
    for number in numbers(&fs::read(&logs(stopped.dir.path())[0]).unwrap()) {
        for (byte, mask) in [(0, 1), (0, 2), (0, 8), (0, 64), (5, 1)] {
            stopped.spoil((number.start + byte, mask), "a number");
        }
    }
}
