//! Segment files that are gone are waited for until somebody has read that just those are gone: for how long, and what else goes with them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::lab::{Lab, fill, policy, tiers};
use common::segments::{listed, live, log, put_back, take_away};
use common::{append, try_image};
use gateway_journal::SegmentId;
use gateway_store::{Finding, FindingKind, Scope, Store};
use tap_block::SyncCause;
use tap_disk::{FileNo, SegmentDir as _};

/// A log of several segments, all of which the index has, and that is closed.
fn written() -> Lab {
    let mut lab = Lab::new(5, policy(10, &[], 0));
    lab.disk.config.index_at_stop = true;
    lab.open();
    lab.write(600, 1);
    lab.store = None;
    lab
}

/// The log grew old, and is settled as far as it can be. Does that wait for somebody?
fn waits(lab: &mut Lab) -> bool {
    lab.clock.advance(Duration::from_secs(2000));
    waits_after(lab, 1)
}

/// The same of batches that come each so many seconds.
fn waits_after(lab: &mut Lab, seconds: u64) -> bool {
    lab.more(30, seconds);
    for _ in 0..100 {
        match lab.store().settle() {
            Ok(Some(_)) => {}
            Ok(None) => return false,
            Err(e) => {
                assert!(e.to_string().contains("--acknowledge"), "{e}");
                return true;
            }
        }
    }
    panic!("it never ends");
}

fn acknowledge(lab: &Lab) {
    lab.store().acknowledge(lab.volume(), |_| true).unwrap();
}

fn exact(lab: &Lab) -> usize {
    let (store, volume) = (lab.store(), lab.volume());
    let known = store.catalogue();
    let known = known.volume(volume).unwrap();
    let kept =
        |lsn: &tap_block::Lsn| known.selectable(*lsn).is_ok() && store.check_kept(volume, *lsn).is_ok();
    let points = lab.oracle.lsns().into_iter().filter(kept);
    let right = |lsn: &tap_block::Lsn| match try_image(store, volume, *lsn) {
        Ok(image) => {
            assert!(image == lab.oracle.image_at(volume, *lsn), "{lsn} is wrong and served");
            true
        }
        Err(_) => false,
    };
    points.filter(right).count()
}

#[test]
fn what_is_given_up_is_so_after_a_restart_and_until_it_is_back() {
    let mut lab = written();
    let away = take_away(&lab.disk, log(&lab.disk)[2].0);
    lab.open();
    assert!(waits(&mut lab));
    acknowledge(&lab);
    lab.store = None;
    put_back(&lab.disk, &away);
    lab.open();
    // It is there. Then it goes another time.
    lab.store = None;
    let away = take_away(&lab.disk, log(&lab.disk).iter().find(|(no, _)| *no == away.0).unwrap().0);
    lab.open();
    assert!(waits(&mut lab), "that it is gone again nobody has read");
    lab.store = None;
    put_back(&lab.disk, &away);
    lab.open();
    assert!(exact(&lab) > 0);
    lab.store = None;
    take_away(&lab.disk, away.0);
    lab.open();
    assert!(waits(&mut lab));
    acknowledge(&lab);
    lab.open();
    assert!(!waits(&mut lab), "it was said before the restart");
    exact(&lab);
}

/// Nothing is listed of it: the header that would name it is damaged. Who reads of that header gives up nothing else, and what is waited
/// for is listed from then on.
#[test]
fn what_nothing_names_is_listed_once_it_is_waited_for_and_not_given_up_before() {
    let mut lab = written();
    let all = log(&lab.disk);
    all[1..3].iter().for_each(|(no, _)| lab.disk.dir.remove(*no).unwrap());
    lab.disk.dir.corrupt(all[3].0, 30, |bytes| bytes[0] ^= 1);
    lab.open();
    let missing = |f: &Finding| f.kind == FindingKind::Missing && f.over_at.is_none();
    assert!(!lab.store().findings(lab.volume()).iter().any(missing));
    acknowledge(&lab);
    assert!(waits(&mut lab));
    assert!(lab.store().findings(lab.volume()).iter().any(missing));
    // No walk takes it for found again.
    lab.clock.advance(Duration::from_secs(1));
    lab.store().verify(Scope::default(), &mut |_| true).unwrap();
    assert!(lab.store().findings(lab.volume()).iter().any(missing));
    let mut times = 0;
    while waits(&mut lab) {
        acknowledge(&lab);
        times += 1;
        assert!(times < 100, "it never ends");
    }
    exact(&lab);
}

/// A directory whose files are all there, and none of which is open when it is not in use.
fn open_seldom(lab: &mut Lab) {
    lab.store = None;
    let options = tap_disk::PoolOptions { ready: 0, max_open: 1, ..tap_disk::PoolOptions::default() };
    let len = u64::from(lab.disk.config.segment_len);
    let segments = tap_disk::SegmentPool::over(Box::new(lab.disk.dir.clone()), len, options).unwrap();
    let parts = gateway_store::Parts { segments, ..lab.disk.parts() };
    lab.store = Some(Store::open_on(lab.disk.config.clone(), Arc::clone(&lab.disk.clock), parts).unwrap());
}

/// One block in it is damaged, and somebody has read of that. Then the whole file goes.
#[test]
fn a_segment_is_not_given_up_with_a_block_in_it_that_was_read_of() {
    let mut lab = written();
    let no: FileNo = log(&lab.disk)[2].0;
    lab.disk.dir.corrupt(no, 20_000, |bytes| bytes[0] ^= 1);
    open_seldom(&mut lab);
    lab.store().verify(Scope::default(), &mut |_| true).unwrap();
    assert!(!lab.store().findings(lab.volume()).is_empty());
    acknowledge(&lab);
    let away = take_away(&lab.disk, no);
    assert!(waits(&mut lab), "nobody has read that it is gone");
    lab.store = None;
    put_back(&lab.disk, &away);
    lab.open();
    assert!(!waits(&mut lab));
    assert!(exact(&lab) > 0);
}

/// Log and settled history of several volumes, and one segment of that taken away.
fn aged_without_one(seed: u64) -> (Lab, (FileNo, Vec<u8>), SegmentId) {
    let mut lab = Lab::new(seed, tiers());
    lab.write(60, 5);
    lab.settle();
    lab.more(20, 8);
    lab.settle();
    lab.more(40, 1);
    lab.store = None;
    let (no, gone) = live(&lab.disk)[0];
    let away = take_away(&lab.disk, no);
    (lab, away, gone)
}

/// History goes on, and most of what was settled is to be rewritten.
fn grow_old(lab: &mut Lab) {
    for _ in 0..6 {
        assert!(!waits_after(lab, 100));
    }
}

fn findings(lab: &Lab) -> Vec<Finding> {
    lab.store().verify(Scope::default(), &mut |_| true).unwrap().findings
}

fn refused(lab: &Lab) -> usize {
    let newest = *lab.oracle.lsns().last().unwrap();
    exact(lab);
    usize::from(try_image(lab.store(), lab.volume(), newest).is_err())
}

/// It may be brought back, as one of the log may: until somebody has read that it is gone nothing of it is rewritten, and all else is.
#[test]
fn a_settled_segment_that_is_gone_is_waited_for_and_all_else_is_settled() {
    for seed in [31, 33, 38] {
        let (mut lab, away, gone) = aged_without_one(seed);
        lab.open();
        let before = listed(&lab.disk);
        (0..4).for_each(|_| assert!(!waits_after(&mut lab, 10)));
        let left = listed(&lab.disk);
        assert!(left.len() < before.len() + 4, "{before:?}, {left:?}");
        assert!(listed(&lab.disk).contains(&gone), "{gone} is waited for");
        exact(&lab);
        // Neither does a scrub in between, nor a restart.
        findings(&lab);
        lab.open();
        (0..2).for_each(|_| assert!(!waits_after(&mut lab, 10)));
        lab.store = None;
        assert!(listed(&lab.disk).contains(&gone), "{gone} is waited for");
        put_back(&lab.disk, &away);
        lab.open();
        assert_eq!((findings(&lab), refused(&lab)), (vec![], 0));
        assert!(exact(&lab) > 0);
        grow_old(&mut lab);
        assert!(!listed(&lab.disk).contains(&gone), "and then it is settled as ever");
        assert_eq!(refused(&lab), 0);
    }
}

#[test]
fn a_settled_segment_that_is_gone_is_given_up_by_who_has_read_of_it_and_nobody_else() {
    let (mut lab, _, gone) = aged_without_one(31);
    lab.open();
    lab.store().acknowledge(lab.volume(), |_| false).unwrap();
    grow_old(&mut lab);
    assert!(listed(&lab.disk).contains(&gone), "what they read did not name it");
    acknowledge(&lab);
    lab.open();
    grow_old(&mut lab);
    assert!(!listed(&lab.disk).contains(&gone));
    exact(&lab);
}

/// Once no point shows anything of it that is kept, there is nothing to be waited for.
#[test]
fn a_settled_segment_that_no_point_shows_is_not_waited_for() {
    let (mut lab, _, gone) = aged_without_one(31);
    lab.open();
    for batch in [lab.workload.restart(10, Some(SyncCause::HopLost)), lab.workload.end_sync()] {
        lab.append(&batch);
    }
    for (workload, oracle) in &mut lab.others {
        for batch in [workload.restart(10, Some(SyncCause::HopLost)), workload.end_sync()] {
            append(lab.store.as_ref().unwrap(), &batch).unwrap();
            oracle.apply(&batch).unwrap();
        }
    }
    for _ in 0..3 {
        lab.clock.advance(Duration::from_secs(10_000));
        grow_old(&mut lab);
        findings(&lab);
    }
    assert!(!listed(&lab.disk).contains(&gone));
    assert_eq!(refused(&lab), 0);
}

/// The directory of segments is not mounted, the log and all that is settled. It goes on, and what is there is settled.
#[test]
fn a_store_that_went_on_without_all_its_segments_is_whole_when_they_are_back() {
    let mut lab = Lab::new(31, tiers());
    lab.write(60, 5);
    lab.settle();
    lab.more(20, 8);
    assert!(lab.settle() > 0);
    lab.more(40, 1);
    let sound = exact(&lab);
    lab.store = None;
    let all = lab.disk.dir.list().unwrap();
    let away: Vec<_> = all.into_iter().map(|no| take_away(&lab.disk, no)).collect();
    lab.open();
    for batch in [lab.workload.restart(10, Some(SyncCause::HopLost)), lab.workload.end_sync()] {
        lab.append(&batch);
    }
    for _ in 0..4 {
        waits_after(&mut lab, 10);
    }
    lab.store = None;
    let there = lab.disk.dir.list().unwrap();
    assert!(
        away.iter().all(|(no, _)| !there.contains(no)),
        "what is put back would lie in the place of {there:?}"
    );
    away.iter().for_each(|file| put_back(&lab.disk, file));
    lab.open();
    assert!(exact(&lab) >= sound, "{} of {sound}", exact(&lab));
}

/// Removed from a running store that had it not open, and put back there.
#[test]
fn a_settled_file_that_is_removed_while_nobody_has_it_open_is_waited_for() {
    let (mut lab, away, gone) = aged_without_one(31);
    put_back(&lab.disk, &away);
    open_seldom(&mut lab);
    let away = take_away(&lab.disk, away.0);
    assert!(!findings(&lab).is_empty());
    grow_old(&mut lab);
    assert!(listed(&lab.disk).contains(&gone), "{gone} is waited for");
    put_back(&lab.disk, &away);
    assert_eq!((findings(&lab), refused(&lab)), (vec![], 0));
    grow_old(&mut lab);
    assert!(!listed(&lab.disk).contains(&gone));
    assert_eq!(refused(&lab), 0);
}

/// A store that is full makes room out of what is there, and at last without waiting.
#[test]
fn a_settled_segment_that_is_gone_does_not_keep_a_full_store_from_getting_smaller() {
    for gone in [0, 1, usize::MAX] {
        let mut lab = Lab::new(8, policy(20, &[(200, 1_000_000)], 0));
        lab.disk.config.settle_reserve = 4;
        lab.disk.config = lab.disk.config.clone().limited(14 * (512 << 10));
        lab.open();
        lab.write(60, 5);
        lab.settle();
        lab.more(20, 8);
        lab.settle();
        assert_eq!(fill(&mut lab, 1500), 1500);
        lab.store = None;
        let files = live(&lab.disk);
        files.iter().take(gone).for_each(|(no, _)| drop(take_away(&lab.disk, *no)));
        lab.open();
        assert_eq!(fill(&mut lab, 1000), 1000, "{:?}", lab.store().status().settle_failing);
        exact(&lab);
    }
}
