//! The store on a real disk, with fjall: killed, its index deleted or spoiled, its files cut short.
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
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use common::folder::{copy, files};
use common::{append_all, image, try_image};
use gateway_store::{ReadError, ReadMode, Store, StoreConfig, StoreError, UnitRead};
use tap_block::{Batch, BlockNo, Lsn};
use tap_disk::RealClock;
use testbed_model::{Oracle, Random, Workload};

fn config(dir: &Path) -> StoreConfig {
    let mut config = StoreConfig::new(dir.to_owned());
    (config.segment_len, config.spare_segments) = (1 << 20, 0);
    (config.group_versions, config.checkpoint_versions) = (100, 150);
    config
}

fn open(dir: &Path) -> Arc<Store> {
    Store::open(config(dir), Arc::new(RealClock)).unwrap()
}

struct History {
    workload: Workload,
    batches: Vec<Batch>,
    oracle: Oracle,
}

fn history(seed: u64, records: usize) -> History {
    let mut workload = Workload::new(seed);
    let batches = workload.history(records);
    let mut oracle = Oracle::new();
    batches.iter().for_each(|b| oracle.apply(b).unwrap());
    History { workload, batches, oracle }
}

impl History {
    fn assert_all_there(&self, store: &Store) {
        assert_eq!(store.durable(self.workload.stream()).unwrap().lsn, self.oracle.last_lsn());
        for lsn in self.oracle.lsns().into_iter().step_by(31) {
            let volume = self.workload.volume();
            assert!(image(store, volume, lsn) == self.oracle.image_at(volume, lsn), "the image at {lsn}");
        }
        let catalogue = store.catalogue();
        let volume = catalogue.volume(self.workload.volume()).unwrap();
        assert_eq!(volume.bookmarks().count(), self.oracle.bookmarks().len());
    }
}

#[test]
fn a_killed_store_has_all_that_was_acknowledged() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("store");
    let history = history(1, 600);
    let store = open(&dir);
    append_all(&store, &history.batches);
    let left = tmp.path().join("killed");
    copy(&dir, &left);
    history.assert_all_there(&open(&left));
    history.assert_all_there(&store);
}

#[test]
fn without_fjall_everything_is_there() {
    let tmp = tempfile::tempdir().unwrap();
    let history = history(2, 600);
    let store = open(tmp.path());
    append_all(&store, &history.batches);
    drop(store);
    fs::remove_dir_all(tmp.path().join("fjall")).unwrap();
    let store = open(tmp.path());
    history.assert_all_there(&store);
    assert!(store.status().groups > 1);
    drop(store);
    history.assert_all_there(&open(tmp.path()));
}

#[test]
fn a_spoiled_fjall_directory_is_built_again() {
    let tmp = tempfile::tempdir().unwrap();
    let original = tmp.path().join("store");
    let history = history(3, 600);
    let store = open(&original);
    append_all(&store, &history.batches);
    drop(store);
    let mut random = Random::new(5);
    for n in 0..12 {
        let dir = tmp.path().join(format!("spoiled{n}"));
        copy(&original, &dir);
        let all = files(&dir.join("fjall"));
        let path = &all[random.below(all.len() as u64) as usize];
        let len = fs::metadata(path).unwrap().len();
        match n % 3 {
            0 => fs::remove_file(path).unwrap(),
            1 => fs::write(path, vec![0x5a; len as usize]).unwrap(),
            _ => fs::OpenOptions::new().write(true).open(path).unwrap().set_len(len / 2).unwrap(),
        }
        let store = open(&dir);
        for lsn in history.oracle.lsns().into_iter().step_by(61) {
            let volume = history.workload.volume();
            match try_image(&store, volume, lsn) {
                Ok(shown) => assert!(shown == history.oracle.image_at(volume, lsn), "{}", path.display()),
                // Found only when it is read: an error that says what to do.
                Err(e) => assert!(e.contains("fjall"), "{e}"),
            }
        }
    }
}

#[test]
fn a_segment_cut_short_is_damage_and_the_rest_is_served() {
    let tmp = tempfile::tempdir().unwrap();
    let mut history = history(7, 600);
    let store = open(tmp.path());
    append_all(&store, &history.batches);
    drop(store);
    let first = &files(&tmp.path().join("seg"))[0];
    fs::OpenOptions::new().write(true).open(first).unwrap().set_len(200_000).unwrap();
    for rebuild in [false, true] {
        if rebuild {
            fs::remove_dir_all(tmp.path().join("fjall")).unwrap();
        }
        let store = open(tmp.path());
        let volume = history.workload.volume();
        let mut sound = 0;
        let catalogue = store.catalogue();
        let known = catalogue.volume(volume).unwrap();
        let points = history.oracle.lsns().into_iter().step_by(3);
        for lsn in points.filter(|&lsn| known.selectable(lsn).is_ok()) {
            if let Ok(shown) = try_image(&store, volume, lsn) {
                assert!(shown == history.oracle.image_at(volume, lsn), "the image at {lsn}");
                sound += 1;
            }
        }
        assert!(sound > 0);
        if rebuild {
            assert!(!store.status().damage.is_empty());
        }
        append_all(&store, &[history.workload.batch(3)]);
    }
}

#[test]
fn a_damaged_block_is_refused_and_its_neighbours_are_not() {
    let tmp = tempfile::tempdir().unwrap();
    let mut workload = Workload::new(8);
    let store = open(tmp.path());
    append_all(&store, &[workload.begin(), workload.end_sync()]);
    let point = workload.next_lsn().previous();
    let region = gateway_journal::RegionNo::new(0);
    let map = store.region_map(workload.volume(), region, point).unwrap();
    let blocks: Vec<(u16, _)> = (0..64).filter_map(|n| Some((n, map.unit(n)?))).collect();
    let (bad, at) = blocks[3];
    let file =
        fs::OpenOptions::new().write(true).read(true).open(&files(&tmp.path().join("seg"))[0]).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, u64::from(at.offset) + 14).unwrap();
    file.write_all_at(&[byte[0] ^ 1], u64::from(at.offset) + 14).unwrap();
    let mut out = vec![0; 4096];
    for (n, at) in blocks {
        let unit = UnitRead { block: BlockNo::new(u64::from(n)), at, into: 0 };
        match store.read_units(&[unit], ReadMode::Blocking, &mut out) {
            Ok(there) => assert!(there && n != bad),
            Err(ReadError::Damaged { block, .. }) => assert_eq!(block.get(), u64::from(bad)),
            Err(e) => panic!("{e}"),
        }
    }
    assert_eq!(store.status().blocks_damaged, 1);
}

#[test]
fn a_point_that_is_not_durable_is_said_to_be_so() {
    let tmp = tempfile::tempdir().unwrap();
    let mut workload = Workload::new(9);
    let store = open(tmp.path());
    append_all(&store, &[workload.begin()]);
    let ahead = Lsn::new(99).unwrap();
    let map = store.region_map(workload.volume(), gateway_journal::RegionNo::new(0), ahead);
    assert!(matches!(map, Err(StoreError::NotDurable { .. })));
    let (sender, receiver) = std::sync::mpsc::channel();
    let waiting = store.when_durable(
        workload.stream(),
        Lsn::new(3).unwrap(),
        Box::new(move || sender.send(()).unwrap()),
    );
    assert!(receiver.try_recv().is_err());
    append_all(&store, &[workload.batch(5)]);
    receiver.recv_timeout(std::time::Duration::from_secs(30)).unwrap();
    drop(waiting);
    assert!(store.wait_durable(workload.stream(), Lsn::new(2).unwrap(), std::time::Duration::ZERO));
    assert!(!store.wait_durable(workload.stream(), ahead, std::time::Duration::ZERO));
}
