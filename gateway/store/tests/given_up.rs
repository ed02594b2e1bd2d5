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

use common::lab::{Lab, policy};
use common::segments::{log, put_back, take_away};
use common::try_image;
use gateway_store::{Finding, FindingKind, Scope, Store};
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
    lab.more(30, 1);
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
    let sound = exact(&lab);
    lab.store = None;
    take_away(&lab.disk, away.0);
    lab.open();
    assert!(waits(&mut lab));
    acknowledge(&lab);
    lab.open();
    assert!(!waits(&mut lab), "it was said before the restart");
    println!("{sound} before, {}", exact(&lab));
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
