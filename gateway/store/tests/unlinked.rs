//! Segment files that are removed while the store is in use: it goes on reading them through what it has open, and must not take
//! them with it when it ends.
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

use common::folder::files;
use common::lab::{Lab, tiers};
use common::try_image;
use gateway_journal::SettledHeader;
use gateway_store::{Finding, FindingKind, Parts, Scope, Store, VerifyReport};
use tap_disk::{DiskDir, PoolOptions, SegmentPool};

/// Opens the lab's store with its segments in a directory, of which so many files are kept open.
fn open(lab: &mut Lab, dir: &Path, max_open: usize) {
    lab.store = None;
    let options = PoolOptions { ready: 1, max_open, ..PoolOptions::default() };
    let len = u64::from(lab.disk.config.segment_len);
    let segments = SegmentPool::over(Box::new(DiskDir::open(dir).unwrap()), len, options).unwrap();
    let parts = Parts { segments, ..lab.disk.parts() };
    lab.store = Some(Store::open_on(lab.disk.config.clone(), Arc::clone(&lab.disk.clock), parts).unwrap());
}

/// Log and settled history in files.
fn aged(dir: &Path, max_open: usize) -> Lab {
    let mut lab = Lab::new(7, tiers());
    lab.store = None;
    lab.disk = common::Disk { config: lab.disk.config.clone(), ..common::Disk::small() };
    lab.disk.clock = Arc::clone(&lab.clock) as _;
    lab.disk.config.index_at_stop = true;
    (lab.oracle, lab.workload) = (testbed_model::Oracle::new(), testbed_model::Workload::new(7));
    lab.others = [8, 9].map(|n| (testbed_model::Workload::new(n), testbed_model::Oracle::new())).into();
    open(&mut lab, dir, max_open);
    lab.write_others(30);
    lab.rule(gateway_journal::MetaRecord::PolicySet { volume: None, policy: Some(tiers()) });
    lab.write(60, 10);
    assert!(lab.settle() > 0);
    lab.more(25, 8);
    lab.settle();
    lab.more(30, 1);
    lab
}

fn verify(lab: &Lab) -> VerifyReport {
    lab.store().verify(Scope::default(), &mut |_| true).unwrap()
}

fn missing(lab: &Lab) -> Vec<Finding> {
    let found = lab.store().findings(lab.volume());
    found.into_iter().filter(|f| f.kind == FindingKind::Missing).collect()
}

#[test]
fn files_that_are_removed_while_they_are_open_are_written_again() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("seg");
    let mut lab = aged(&dir, 256);
    let before = lab.check(9);
    files(&dir).iter().for_each(|file| fs::remove_file(file).unwrap());
    let report = verify(&lab);
    assert_eq!(report.findings, [], "all of it is there again");
    let found = missing(&lab);
    let segments = lab.store().status();
    assert_eq!(found.len() as u64, segments.segments + segments.settled_segments);
    assert!(found.iter().all(|f| f.over_at.is_some() && f.detail.contains(".seg was removed")), "{found:?}");
    assert_eq!(files(&dir).len(), found.len());
    // What is written from here on lies in files with a name as well.
    lab.more(60, 1);
    assert_eq!(verify(&lab).findings, []);
    assert_eq!(missing(&lab).len(), found.len(), "it happened once");
    open(&mut lab, &dir, 256);
    let after = lab.check(9);
    assert!(before.iter().all(|lsn| after.contains(lsn)));
    assert_eq!(verify(&lab).findings, []);
    lab.store().acknowledge(lab.volume(), |_| true).unwrap();
    assert_eq!(missing(&lab), []);
}

#[test]
fn a_directory_that_is_removed_as_a_whole_is_made_anew() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("seg");
    let mut lab = aged(&dir, 256);
    fs::remove_dir_all(&dir).unwrap();
    assert_eq!(verify(&lab).findings, []);
    assert!(!missing(&lab).is_empty());
    lab.more(10, 1);
    open(&mut lab, &dir, 256);
    lab.check(9);
    assert_eq!(verify(&lab).findings, []);
}

/// One that was moved may be put back; what is in its place is another's.
#[test]
fn a_directory_that_is_elsewhere_is_told_and_left_alone() {
    let tmp = tempfile::tempdir().unwrap();
    let (dir, away) = (tmp.path().join("seg"), tmp.path().join("away"));
    let lab = aged(&dir, 256);
    fs::rename(&dir, &away).unwrap();
    fs::create_dir(&dir).unwrap();
    let report = verify(&lab);
    let told =
        |f: &&Finding| f.kind == FindingKind::Missing && f.detail.contains("not the one that was opened");
    assert_eq!(report.findings.iter().filter(told).count(), 1, "{:?}", report.findings);
    assert_eq!(files(&dir), Vec::<PathBuf>::new());
    fs::remove_dir(&dir).unwrap();
    fs::rename(&away, &dir).unwrap();
    assert_eq!(verify(&lab).findings, []);
    assert!(missing(&lab).iter().all(|f| f.over_at.is_some()));
}

/// Files that nobody has open are gone at once. What lay there is named, refused, and sound again when they are back.
#[test]
fn files_that_are_removed_and_not_open_are_named_with_what_lay_there() {
    let tmp = tempfile::tempdir().unwrap();
    let (dir, away) = (tmp.path().join("seg"), tmp.path().join("away"));
    let mut lab = aged(&dir, 1);
    let kept = lab.check(9);
    fs::create_dir(&away).unwrap();
    for file in files(&dir) {
        fs::rename(&file, away.join(file.file_name().unwrap())).unwrap();
    }
    let report = verify(&lab);
    let gone = missing(&lab).into_iter().filter(|f| f.over_at.is_none()).count();
    let all = lab.store().status();
    assert!(gone as u64 >= all.segments + all.settled_segments - 2, "{gone} of {all:?}");
    let blocks: Vec<&Finding> = report.findings.iter().filter(|f| f.kind == FindingKind::Block).collect();
    let mut refused = 0;
    for point in kept.into_iter().step_by(5) {
        match try_image(lab.store(), lab.volume(), point) {
            Ok(image) => assert!(image == lab.oracle.image_at(lab.volume(), point)),
            Err(e) => {
                let shows = |f: &&&Finding| {
                    let (first, last) = f.points.unwrap();
                    f.volume == Some(lab.volume()) && first <= point && last.is_none_or(|last| point <= last)
                };
                assert!(blocks.iter().any(|f| shows(&f)), "{point} cannot be read: {e}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0 && !blocks.is_empty());
    let _ = lab.store().settle();
    for file in files(&away) {
        let there = dir.join(file.file_name().unwrap());
        if !there.exists() {
            fs::rename(&file, there).unwrap();
        }
    }
    assert_eq!(verify(&lab).findings, []);
    open(&mut lab, &dir, 256);
    lab.check(9);
}

/// Whoever puts another file in the place of one that is gone keeps it.
#[test]
fn a_file_in_the_place_of_one_that_was_removed_is_not_written_over() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("seg");
    let lab = aged(&dir, 256);
    let file = files(&dir)[0].clone();
    let bytes = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    fs::write(&file, b"another's").unwrap();
    let report = verify(&lab);
    let told = |f: &&Finding| f.kind == FindingKind::Missing && f.detail.contains("do not stop it");
    assert_eq!(report.findings.iter().filter(told).count(), 1, "{:?}", report.findings);
    assert_eq!(fs::read(&file).unwrap(), b"another's");
    fs::remove_file(&file).unwrap();
    assert_eq!(verify(&lab).findings, []);
    assert_eq!(fs::read(&file).unwrap(), bytes);
}

/// Points that are refused; all others are what they were.
fn refused(lab: &Lab) -> usize {
    let (store, catalogue) = (lab.store(), lab.store().catalogue());
    let known = catalogue.volume(lab.volume()).unwrap();
    let is_there = |lsn: &_| known.selectable(*lsn).is_ok() && store.check_kept(lab.volume(), *lsn).is_ok();
    let is_refused = |lsn: &_| match try_image(store, lab.volume(), *lsn) {
        Ok(image) => {
            assert!(image == lab.oracle.image_at(lab.volume(), *lsn), "{lsn} is wrong and served");
            false
        }
        Err(_) => true,
    };
    lab.oracle.lsns().into_iter().filter(is_there).filter(is_refused).count()
}

/// Settling waited for what a quarter of an hour might have brought back.
#[test]
fn a_settled_segment_that_is_cut_off_while_it_is_in_use_keeps_nothing_from_being_settled() {
    for verified in [false, true] {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("seg");
        let mut lab = aged(&dir, 256);
        let is_settled = |file: &PathBuf| SettledHeader::decode(&fs::read(file).unwrap()[..4096]).is_ok();
        for file in files(&dir).iter().filter(|file| is_settled(file)) {
            fs::OpenOptions::new().write(true).open(file).unwrap().set_len(4096).unwrap();
        }
        if verified {
            assert_ne!(verify(&lab).findings, []);
        }
        let passes: Vec<usize> = (0..4)
            .map(|_| {
                lab.more(40, 8);
                lab.settle()
            })
            .collect();
        assert!(passes.iter().all(|passes| *passes > 0), "verified {verified}: {passes:?}");
        assert!(refused(&lab) > 0, "what was cut off is refused");
    }
}
