//! Bits that flip in the files of the index, and files of it that are gone: what is served is what was written, or it is refused, and
//! nothing stops for good.
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
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::folder::{copy, files};
use common::lab::{policy, rule};
use common::{ManualClock, append, seeds, try_image};
use gateway_journal::MetaRecord;
use gateway_store::{Store, StoreConfig, StoreError};
use tap_block::VolumeId;
use testbed_model::{Oracle, Random, Workload};

fn config(dir: &Path) -> StoreConfig {
    let mut config = StoreConfig::new(dir.to_owned());
    (config.segment_len, config.spare_segments) = (512 << 10, 0);
    (config.group_versions, config.checkpoint_versions) = (100, 60);
    (config.settle_each, config.scrub_rate, config.ledger_each) = (None, None, None);
    config.cold = None;
    config.settle_at_once = 32 << 10;
    config
}

/// A store with settled history, and what was written to it.
struct Written {
    clock: Arc<ManualClock>,
    oracle: Oracle,
    workload: Workload,
    dir: tempfile::TempDir,
}

impl Written {
    fn new(seed: u64) -> Self {
        let (clock, dir) = (Arc::new(ManualClock::default()), tempfile::tempdir().unwrap());
        let (oracle, workload) = (Oracle::new(), Workload::new(seed));
        let mut this = Self { clock, oracle, workload, dir };
        let store = this.open(&this.store()).unwrap();
        let keep = policy(100, &[(20, 1_000_000)], 1_000_000);
        rule(&store, MetaRecord::PolicySet { volume: None, policy: Some(keep) });
        for batch in this.workload.history(60) {
            this.append(&store, &batch);
        }
        for _ in 0..3 {
            for _ in 0..25 {
                let batch = this.workload.batch(6);
                this.append(&store, &batch);
            }
            while store.settle().unwrap().is_some() {}
        }
        assert!(store.status().settles > 0 && store.status().groups > 0, "{:?}", store.status());
        drop(store);
        this
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn open(&self, dir: &Path) -> Result<Arc<Store>, StoreError> {
        Store::open(config(dir), Arc::clone(&self.clock) as _)
    }

    fn append(&mut self, store: &Store, batch: &tap_block::Batch) {
        append(store, batch).unwrap();
        self.oracle.apply(batch).unwrap();
        self.clock.advance(Duration::from_secs(4));
    }

    fn volume(&self) -> VolumeId {
        self.workload.volume()
    }

    /// Points that are exact, and such as are refused; one that is wrong is a failure.
    fn points(&self, store: &Store, what: &str) -> (usize, usize) {
        let (mut served, mut refused) = (0, 0);
        let catalogue = store.catalogue();
        let Some(known) = catalogue.volume(self.volume()) else { return (0, 1) };
        for lsn in self.oracle.lsns().into_iter().rev().step_by(3) {
            if known.selectable(lsn).is_err() || store.check_kept(self.volume(), lsn).is_err() {
                continue;
            }
            match try_image(store, self.volume(), lsn) {
                Ok(image) => {
                    assert!(image == self.oracle.image_at(self.volume(), lsn), "{what}: {lsn} is wrong");
                    served += 1;
                }
                Err(_) => refused += 1,
            }
        }
        (served, refused)
    }
}

/// What happens to a file; what that was.
fn spoil(random: &mut Random, file: &Path) -> String {
    let (mut bytes, name) = (fs::read(file).unwrap(), file.display());
    // fjall's log is longer than what is in it.
    let filled = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    match random.below(10) {
        0 => {
            fs::remove_file(file).unwrap();
            format!("{name} is gone")
        }
        1 => {
            let table = file.parent().unwrap();
            let table = if table.ends_with("tables") { table.parent().unwrap() } else { table };
            fs::remove_dir_all(table).unwrap();
            format!("{} is gone", table.display())
        }
        _ if filled == 0 => format!("nothing is in {name}"),
        _ => {
            let (at, bit) = (random.below(filled as u64) as usize, random.below(8));
            bytes[at] ^= 1 << bit;
            fs::write(file, bytes).unwrap();
            format!("bit {bit} of byte {at} of {filled} in {name}")
        }
    }
}

#[test]
fn an_index_that_rots_shows_nothing_that_was_not() {
    let written = Written::new(3);
    let before = written.open(&written.store()).unwrap();
    let (all, none) = written.points(&before, "sound");
    assert!(all > 30 && none == 0, "{all}, {none}");
    drop(before);
    let (mut told, mut refusing) = (0, 0);
    for seed in seeds(24) {
        let mut random = Random::new(seed);
        let dir = tempfile::tempdir().unwrap();
        copy(&written.store(), dir.path());
        let all_files = files(&dir.path().join("fjall"));
        let chosen = &all_files[random.below(all_files.len() as u64) as usize];
        let what = spoil(&mut random, chosen);
        let what = format!("seed {seed}: {what}");
        for round in 0..2 {
            let store = written.open(dir.path()).unwrap_or_else(|e| panic!("{what}: {e}"));
            let (_, refused) = written.points(&store, &what);
            let settled = store.settle();
            let is_told = store.status().index_damaged.is_some();
            assert!(refused == 0 || is_told, "{what}: {refused} are refused, and nobody says why");
            assert!(settled.is_ok() || is_told, "{what}: {settled:?}");
            refusing += usize::from(refused > 0);
            assert!(round == 0 || (refused == 0 && settled.is_ok()), "{what}: {refused}, {settled:?}");
            told += usize::from(is_told);
            written.points(&store, &what);
        }
    }
    println!("damage was told {told} times, and something refused {refusing} times");
}
