//! The disk of the index is full: it is no damage, what is there is read, nothing that was taken is lost, and when there is room again
//! everything goes on by itself.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::lab::{Lab, tiers};
use common::{append, append_all, image};
use gateway_store::{Store, StoreConfig, StoreError, StoreStatus};
use tap_block::Batch;
use tap_disk::{RealClock, free_space};
use testbed_model::{Oracle, Random, Workload};

/// What the index thread does each second.
fn soon(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

fn is_said(status: &StoreStatus) {
    let said = status.index_failing.as_ref().unwrap();
    for word in ["disk of the index is full", "waits for room since", "free some space"] {
        assert!(said.contains(word), "{said}");
    }
    assert_eq!(status.index_damaged, None);
}

#[test]
fn it_waits_for_room_and_goes_on_by_itself() {
    let mut lab = Lab::new(51, tiers());
    lab.write(100, 1);
    lab.disk.index.fill(true);
    let refused = loop {
        let batch = lab.workload.batch(8);
        match append(lab.store(), &batch) {
            Ok(_) => lab.oracle.apply(&batch).unwrap(),
            Err(e) => {
                assert!(matches!(e, StoreError::IndexFull(_)), "{e}");
                break batch;
            }
        }
    };
    is_said(&lab.store().status());
    assert!(!lab.store().has_room_for(lab.workload.stream()));
    lab.check(9);
    lab.disk.index.fill(false);
    soon("it never goes on", || append(lab.store(), &refused).is_ok());
    lab.oracle.apply(&refused).unwrap();
    lab.wait_for_index();
    assert_eq!(lab.store().status().index_failing, None);
    assert_eq!(lab.store().status().failing, None);
    lab.check(5);
    assert_eq!(lab.disk.index.wipes(), 0, "it is not damaged");
}

/// Nothing waits to be brought in, for a full log takes nothing in: settling, which makes room there, needs the index.
#[test]
fn history_is_settled_as_soon_as_there_is_room() {
    let mut lab = Lab::new(52, tiers());
    lab.write(300, 3);
    lab.disk.index.fill(true);
    let failed = lab.store().settle().unwrap_err();
    assert!(matches!(failed, StoreError::IndexFull(_)), "{failed}");
    is_said(&lab.store().status());
    assert_eq!(lab.store().status().settles, 0);
    lab.check(9);
    lab.disk.index.fill(false);
    assert!(lab.settle() > 0);
    assert_eq!(lab.store().status().index_failing, None);
    lab.check(5);
    lab.open();
    lab.check(5);
    assert_eq!(lab.disk.index.wipes(), 0);
}

/// And when nobody asks for anything.
#[test]
fn the_index_thread_opens_it_again() {
    let mut lab = Lab::new(53, tiers());
    lab.write(300, 3);
    lab.disk.index.fill(true);
    lab.store().settle().unwrap_err();
    lab.disk.index.fill(false);
    soon("it is not opened", || lab.store().status().index_failing.is_none());
}

#[test]
fn a_start_without_room_throws_nothing_away() {
    let mut lab = Lab::new(54, tiers());
    lab.write(200, 1);
    lab.store = None;
    lab.disk.index.fill(true);
    let said = lab.disk.try_open().err().unwrap().to_string();
    assert!(said.contains("disk of the index is full") && said.contains("start again"), "{said}");
    lab.disk.index.fill(false);
    lab.open();
    assert_eq!(lab.disk.index.wipes(), 0);
    lab.check(5);
}

/// fjall's workers meet the full disk, and whoever writes is told only that something failed.
#[test]
fn what_fails_for_want_of_room_is_told_so_whatever_it_says() {
    let mut lab = Lab::new(55, tiers());
    lab.write(200, 1);
    lab.disk.index.cramp(true);
    lab.disk.index.fail(true);
    let refused = loop {
        let batch = lab.workload.batch(8);
        match append(lab.store(), &batch) {
            Ok(_) => lab.oracle.apply(&batch).unwrap(),
            Err(e) => break e,
        }
    };
    assert!(matches!(refused, StoreError::IndexFull(_)), "{refused}");
    lab.disk.index.cramp(false);
    let said = lab.store().status().index_failing.unwrap();
    assert!(said.contains("disk of the index is full"), "as it was when it failed: {said}");
    lab.store = None;
    lab.disk.index.cramp(true);
    let said = lab.disk.try_open().err().unwrap().to_string();
    assert!(said.contains("disk of the index is full") && said.contains("start again"), "{said}");
    lab.disk.index.cramp(false);
    lab.disk.index.fail(false);
    lab.open();
    assert_eq!(lab.disk.index.wipes(), 0);
    lab.check(5);
}

/// A file system of a few MiB; `None` for a user who may not mount.
struct Small(tempfile::TempDir);

impl Small {
    fn new(mib: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={mib}m");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(dir));
        }
        eprintln!("not run: mounting a small file system needs root");
        None
    }

    fn neighbour(&self) -> std::path::PathBuf {
        self.0.path().join("neighbour")
    }

    fn free(&self) -> u64 {
        free_space(self.0.path()).unwrap()
    }

    /// To the last byte, with what the store gives up meanwhile.
    fn fill(&self) {
        let mut file = File::options().append(true).create(true).open(self.neighbour()).unwrap();
        soon("something is always free", || {
            for piece in [1 << 20, 4096] {
                while file.write(&vec![1; piece]).is_ok() {}
            }
            self.free() < 4096
        });
    }

    fn clear(&self) {
        fs::remove_file(self.neighbour()).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

fn config(dir: &Path) -> StoreConfig {
    let mut config = StoreConfig::new(dir.to_owned());
    (config.segment_len, config.spare_segments, config.keep_free) = (1 << 20, 12, 4 << 20);
    (config.group_versions, config.checkpoint_versions) = (100, 150);
    (config.settle_each, config.settle_reserve) = (None, 0);
    config
}

/// A store on a disk of 64 MiB, with what was written to it.
struct Full {
    workload: Workload,
    oracle: Oracle,
    store: Option<Arc<Store>>,
    dir: std::path::PathBuf,
    /// Its file is another one once the index is built again.
    index: u64,
}

impl Full {
    fn new(small: &Small, seed: u64) -> Self {
        let dir = small.0.path().join("store");
        let mut workload = Workload::new(seed);
        let (batches, mut oracle) = (workload.history(300), Oracle::new());
        let store = Store::open(config(&dir), Arc::new(RealClock)).unwrap();
        append_all(&store, &batches);
        batches.iter().for_each(|b| oracle.apply(b).unwrap());
        // The files that lie ready are made in the background.
        soon("no spare files", || fs::read_dir(dir.join("seg")).unwrap().count() > 12);
        let mut full = Self { workload, oracle, store: Some(store), dir, index: 0 };
        full.index = full.inode();
        full
    }

    fn inode(&self) -> u64 {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata(self.dir.join("fjall/version")).unwrap().ino()
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn ballast(&self) -> std::path::PathBuf {
        self.dir.join("fjall.ballast")
    }

    fn held(&self) -> u64 {
        fs::metadata(self.ballast()).unwrap().len()
    }

    fn write(&mut self, batches: usize) -> Result<(), Box<(Batch, StoreError)>> {
        for _ in 0..batches {
            let batch = self.workload.batch(8);
            append(self.store(), &batch).map_err(|e| Box::new((batch.clone(), e)))?;
            self.oracle.apply(&batch).unwrap();
        }
        Ok(())
    }

    fn wait_for_index(&self) {
        soon("the index takes nothing", || self.store().status().groups_waiting == 0);
    }

    fn check(&self) {
        let volume = self.workload.volume();
        for lsn in self.oracle.lsns().into_iter().rev().step_by(41) {
            assert!(
                image(self.store(), volume, lsn) == self.oracle.image_at(volume, lsn),
                "the image at {lsn}"
            );
        }
        assert_eq!(self.inode(), self.index, "the index was built again");
        assert!(!self.dir.join("fjall.damaged").exists());
    }
}

#[test]
fn with_no_byte_free_versions_go_into_the_index_by_what_is_held_for_it() {
    let Some(small) = Small::new(64) else { return };
    let mut full = Full::new(&small, 61);
    full.wait_for_index();
    assert_eq!(full.held(), 2 << 20);
    small.fill();
    let groups = full.store().status().groups;
    full.write(60).unwrap();
    full.wait_for_index();
    assert!(full.store().status().groups > groups + 3, "{:?}", full.store().status());
    assert_eq!(full.store().status().index_failing, None);
    assert!(full.held() < 2 << 20);
    full.check();
    full.store = None;
    full.store = Some(Store::open(config(&full.dir), Arc::new(RealClock)).unwrap());
    full.check();
    small.clear();
    full.store().settle().unwrap();
    assert_eq!(full.held(), 2 << 20, "it is held again");
}

#[test]
fn an_index_that_others_left_no_byte_waits_and_goes_on_when_they_are_gone() {
    let Some(small) = Small::new(64) else { return };
    let mut full = Full::new(&small, 62);
    let mut random = Random::new(62);
    for round in 0..4 {
        let (refused, why) = *loop {
            // They take what is given up, too.
            small.fill();
            if let Err(refused) = full.write(3 + random.below(20) as usize) {
                break refused;
            }
        };
        assert!(matches!(why, StoreError::IndexFull(_)), "{why}");
        // What came free when it failed may have been enough to open it again.
        let said = full.store().status().index_failing;
        assert!(said.is_none_or(|said| said.contains("disk of the index is full")));
        assert_eq!(full.store().status().index_damaged, None);
        full.check();
        if round == 2 {
            full.store = None;
            // What was held, and what came free when the index was closed, is theirs as well.
            File::options().write(true).open(full.ballast()).unwrap().set_len(0).unwrap();
            small.fill();
            match Store::open(config(&full.dir), Arc::new(RealClock)) {
                Err(e) => assert!(e.to_string().contains("disk of the index is full"), "{e}"),
                // With what came free it may have taken all that waited: then it needs no room for being opened.
                Ok(store) => full.store = Some(store),
            }
            if full.store.is_some() {
                full.check();
                full.store = None;
            }
            assert_eq!(full.inode(), full.index, "it is not thrown away");
            small.clear();
            full.store = Some(Store::open(config(&full.dir), Arc::new(RealClock)).unwrap());
        } else {
            small.clear();
        }
        soon("it never goes on", || append(full.store(), &refused).is_ok());
        full.oracle.apply(&refused).unwrap();
        // It may have been taken while the index has yet to try again what it failed to take.
        full.wait_for_index();
        full.write(30).unwrap();
        full.wait_for_index();
        assert_eq!(full.store().status().index_failing, None);
        full.check();
    }
}
