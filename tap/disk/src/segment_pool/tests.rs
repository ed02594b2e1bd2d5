//! The pool: recycling, limits, failures, and what a restart makes of it.

use std::io::{ErrorKind, IoSlice};
use std::time::Instant;

use super::*;
use crate::segment::MemoryDir;
use crate::testing::SOON;

const LEN: u64 = 16 * 1024;

fn options(ready: usize) -> PoolOptions {
    PoolOptions { ready, max_files: 8, max_spare: 4, max_open: 2 }
}

fn memory(dir: &MemoryDir, options: PoolOptions) -> SegmentPool {
    SegmentPool::over(Box::new(dir.clone()), LEN, options).unwrap()
}

/// Waits until the background thread has nothing to do.
fn settle(pool: &SegmentPool) {
    let mut state = pool.shared.lock();
    let start = Instant::now();
    while state.preparing {
        state = pool.shared.changed.wait_timeout(state, SOON).unwrap().0;
        assert!(start.elapsed() < SOON, "the background thread never ends");
    }
}

#[test]
fn files_are_recycled_with_their_content() {
    let tmp = tempfile::tempdir().unwrap();
    let pool = SegmentPool::open_with(tmp.path(), LEN, options(0)).unwrap();
    let (no, file) = pool.take().unwrap();
    assert_eq!((no.get(), file.len(), pool.file_len()), (1, LEN, LEN));
    assert!(tmp.path().join("00000001.seg").exists());
    file.write_at(0, &[IoSlice::new(b"old")]).unwrap();
    pool.give_back(no).unwrap();
    let (again, file) = pool.take().unwrap();
    assert_eq!(again, no);
    let mut old = [0; 3];
    file.read_at(0, &mut old).unwrap();
    assert_eq!(&old, b"old");
    assert_eq!(pool.take().unwrap().0.get(), 2, "a new one when none is spare");
}

#[test]
fn spares_are_made_ahead_after_the_first_use_only() {
    let dir = MemoryDir::new();
    let pool = memory(&dir, options(2));
    settle(&pool);
    assert_eq!(dir.list().unwrap().len(), 0, "an idle pool takes no space");
    pool.take().unwrap();
    settle(&pool);
    assert_eq!(pool.spare(), 2);
    assert_eq!(pool.list(), [FileNo::new(1)], "spares are not in use");
}

#[test]
fn after_a_restart_all_files_are_in_use_until_given_back() {
    let dir = MemoryDir::new();
    let pool = memory(&dir, options(1));
    pool.take().unwrap();
    settle(&pool);
    drop(pool);
    let pool = memory(&dir, options(1));
    assert_eq!(pool.list(), [FileNo::new(1), FileNo::new(2)]);
    assert_eq!(pool.get(FileNo::new(2)).unwrap().len(), LEN);
    pool.give_back(FileNo::new(2)).unwrap();
    assert_eq!(pool.take().unwrap().0, FileNo::new(2));
    settle(&pool);
    assert_eq!(dir.list().unwrap().len(), 3);
}

#[test]
fn the_limit_of_files_holds_and_giving_back_helps() {
    let dir = MemoryDir::new();
    let pool = memory(&dir, options(3));
    let taken: Vec<FileNo> = (0..8).map(|_| pool.take().unwrap().0).collect();
    let refused = pool.take().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::QuotaExceeded);
    assert!(refused.to_string().contains('8'), "{refused}");
    assert_eq!(dir.list().unwrap().len(), 8);
    pool.give_back(taken[3]).unwrap();
    assert_eq!(pool.take().unwrap().0, taken[3]);
}

#[test]
fn spares_beyond_their_limit_are_removed() {
    let dir = MemoryDir::new();
    let pool = memory(&dir, options(0));
    let taken: Vec<FileNo> = (0..6).map(|_| pool.take().unwrap().0).collect();
    for no in &taken {
        pool.give_back(*no).unwrap();
    }
    assert_eq!((pool.spare(), dir.list().unwrap().len()), (4, 4));
    assert!(pool.list().is_empty());
}

#[test]
fn a_number_is_given_back_once() {
    let pool = memory(&MemoryDir::new(), options(0));
    let (no, _) = pool.take().unwrap();
    pool.give_back(no).unwrap();
    assert_eq!(pool.give_back(no).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(pool.get(no).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(pool.get(FileNo::new(77)).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_full_disk_is_reported_and_spoils_nothing() {
    let dir = MemoryDir::new();
    dir.set_capacity(2 * LEN);
    let pool = memory(&dir, options(4));
    pool.take().unwrap();
    settle(&pool);
    let (second, _) = pool.take().unwrap();
    settle(&pool);
    assert_eq!(pool.take().unwrap_err().kind(), ErrorKind::StorageFull);
    pool.give_back(second).unwrap();
    assert_eq!(pool.take().unwrap().0, second);
    settle(&pool);
    dir.set_capacity(3 * LEN);
    pool.take().unwrap();
}

#[test]
fn what_is_not_fit_for_use_is_not_recycled() {
    let dir = MemoryDir::new();
    let pool = memory(&dir, options(0));
    let (no, file) = pool.take().unwrap();
    dir.fail_syncs(true);
    assert!(file.sync().is_err());
    pool.give_back(no).unwrap();
    assert_eq!((pool.spare(), dir.list().unwrap().len()), (0, 0), "its syncs failed");

    let tmp = tempfile::tempdir().unwrap();
    std::fs::write(tmp.path().join("00000005.seg"), b"truncated").unwrap();
    let pool = SegmentPool::open(tmp.path(), LEN).unwrap();
    assert_eq!(pool.list(), [FileNo::new(5)]);
    assert_eq!(pool.get(FileNo::new(5)).unwrap().len(), 9, "still served for what it holds");
    pool.give_back(FileNo::new(5)).unwrap();
    assert!(!tmp.path().join("00000005.seg").exists());
}

#[test]
fn a_failed_sync_concerns_every_user_of_the_file() {
    let dir = MemoryDir::new();
    let pool = memory(&dir, options(0));
    let (no, writer) = pool.take().unwrap();
    // Push it out of the files the pool itself keeps open.
    for _ in 0..4 {
        pool.take().unwrap();
    }
    dir.fail_syncs(true);
    assert!(writer.sync().is_err());
    assert!(pool.get(no).unwrap().is_poisoned(), "the same object, not another handle");
}

#[test]
fn few_files_are_kept_open() {
    let tmp = tempfile::tempdir().unwrap();
    let pool = SegmentPool::open_with(tmp.path(), LEN, options(0)).unwrap();
    let taken: Vec<FileNo> = (0..8).map(|_| pool.take().unwrap().0).collect();
    for no in taken.iter().chain(&taken) {
        pool.get(*no).unwrap().read_at(0, &mut [0; 8]).unwrap();
        let state = pool.shared.lock();
        assert!(state.open.len() <= 2, "{}", state.open.len());
    }
}

#[test]
fn takers_at_once_get_different_files() {
    let dir = MemoryDir::new();
    let pool = memory(&dir, PoolOptions { max_files: 100, ..options(2) });
    let taken = Mutex::new(BTreeSet::new());
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                for _ in 0..20 {
                    let (no, _) = pool.take().unwrap();
                    assert!(taken.lock().unwrap().insert(no), "{no} twice");
                    if no.get() % 3 == 0 {
                        taken.lock().unwrap().remove(&no);
                        pool.give_back(no).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(pool.list(), taken.into_inner().unwrap().into_iter().collect::<Vec<_>>());
}

#[test]
fn what_is_held_back_is_there_when_the_disk_is_full() {
    let dir = MemoryDir::new();
    let pool = memory(&dir, options(1));
    pool.take_beyond().unwrap();
    settle(&pool);
    assert_eq!(pool.spare(), 1);
    pool.hold_back(2);
    settle(&pool);
    assert_eq!(pool.spare(), 3, "made ahead, beside what lies ready");
    dir.set_capacity(4 * LEN);
    pool.take_beyond().unwrap();
    assert_eq!(pool.take_beyond().unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(pool.spare(), 2);
    let (no, _) = pool.take().unwrap();
    pool.give_back(no).unwrap();
    assert_eq!(pool.take_beyond().unwrap_err().kind(), ErrorKind::StorageFull, "it is held back again");
    pool.hold_back(1);
    pool.take_beyond().unwrap();
    assert!(pool.take_beyond().is_err());
}

#[test]
fn who_may_not_have_what_is_held_back_gets_a_new_file() {
    let dir = MemoryDir::new();
    let pool = memory(&dir, options(0));
    pool.hold_back(1);
    settle(&pool);
    let (first, _) = pool.take_beyond().unwrap();
    assert_eq!((first.get(), pool.spare()), (2, 1));
}

#[test]
fn what_was_removed_behind_its_back_is_found_and_made_again() {
    let tmp = tempfile::tempdir().unwrap();
    let pool = SegmentPool::open_with(tmp.path(), LEN, options(0)).unwrap();
    let (no, file) = pool.take().unwrap();
    file.write_at(0, &[IoSlice::new(b"held")]).unwrap();
    assert_eq!(pool.astray().unwrap(), []);
    let path = tmp.path().join("00000001.seg");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(pool.astray().unwrap(), [Astray { no, is_open: true }]);
    // Whatever somebody puts there is theirs.
    std::fs::write(&path, b"other").unwrap();
    assert_eq!(pool.astray().unwrap(), [Astray { no, is_open: true }]);
    assert_eq!(pool.restore(no).unwrap_err().kind(), ErrorKind::AlreadyExists);
    std::fs::remove_file(&path).unwrap();
    pool.restore(no).unwrap();
    assert_eq!(pool.astray().unwrap(), []);
    assert!(std::fs::read(&path).unwrap().starts_with(b"held"));
    assert_eq!(std::fs::read(&path).unwrap().len() as u64, LEN);
    assert_ne!(pool.get(no).unwrap().identity().unwrap(), file.identity().unwrap());
}

#[test]
fn a_file_without_a_name_is_never_handed_out() {
    let tmp = tempfile::tempdir().unwrap();
    let pool = SegmentPool::open_with(tmp.path(), LEN, options(0)).unwrap();
    let taken: Vec<FileNo> = (0..4).map(|_| pool.take().unwrap().0).collect();
    // Two of the four are open here.
    taken[..3].iter().for_each(|no| pool.give_back(*no).unwrap());
    for no in &taken {
        std::fs::remove_file(tmp.path().join(format!("{no}.seg"))).unwrap();
    }
    pool.give_back(taken[3]).unwrap();
    let (no, file) = pool.take().unwrap();
    assert_eq!((no.get(), pool.spare()), (5, 0));
    assert!(tmp.path().join(format!("{no}.seg")).exists());
    assert_eq!(file.len(), LEN);
}

#[test]
fn a_directory_that_was_removed_is_made_anew_and_one_that_was_moved_is_not() {
    let tmp = tempfile::tempdir().unwrap();
    let (dir, away) = (tmp.path().join("seg"), tmp.path().join("away"));
    let pool = SegmentPool::open_with(&dir, LEN, options(0)).unwrap();
    let (no, _file) = pool.take().unwrap();
    std::fs::rename(&dir, &away).unwrap();
    assert!(pool.astray().is_err() && pool.restore(no).is_err() && !dir.exists());
    std::fs::rename(&away, &dir).unwrap();
    assert_eq!(pool.astray().unwrap(), []);
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(pool.astray().unwrap(), [Astray { no, is_open: true }]);
    pool.restore(no).unwrap();
    assert_eq!(pool.astray().unwrap(), []);
    assert_eq!(pool.take().unwrap().0.get(), 2);
}
