//! What is old and unread lies in packs, and is what it was. (That packs take less room is shown where they are made.)
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use std::time::Duration;

use common::image;
use common::lab::{Lab, policy};
use gateway_journal::Manifest;
use gateway_store::{MarkStore, MemoryIndex};
use tap_block::Lsn;

fn has_packs(lab: &Lab) -> bool {
    let manifest = Manifest::unseal(&lab.disk.manifest.load().unwrap()).unwrap();
    manifest.generations.iter().any(|g| g.packs)
}

/// History that is settled, and nothing of it cold yet.
fn settled(seed: u64) -> Lab {
    let mut lab = Lab::new(seed, policy(100, &[(1, 100_000)], 0));
    lab.disk.config.settle_at_once = 4 << 30;
    lab.open();
    lab.write(100, 1);
    lab.more(60, 1);
    lab.clock.advance(Duration::from_secs(150));
    lab.settle();
    assert!(!has_packs(&lab), "it is too young");
    lab
}

fn later(lab: &Lab, seconds: u64) {
    lab.clock.advance(Duration::from_secs(seconds));
    lab.settle();
}

#[test]
fn what_nobody_has_read_for_long_is_packed_and_every_kept_point_stays() {
    let mut lab = settled(3);
    later(&lab, 600);
    assert!(has_packs(&lab));
    assert_eq!(lab.settle(), 0, "it is packed once");
    later(&lab, 600);
    assert!(has_packs(&lab));
    let kept = lab.check(1);
    lab.disk.index = MemoryIndex::new();
    lab.open();
    assert_eq!(
        (lab.check(1), lab.store().status().damage),
        (kept, vec![]),
        "the index is built from the segments"
    );
}

#[test]
fn what_is_read_now_and_then_is_not_packed() {
    let lab = settled(4);
    for _ in 0..12 {
        lab.clock.advance(Duration::from_secs(60));
        // Whatever is read, its segments are.
        lab.check(1);
        lab.settle();
    }
    assert!(!has_packs(&lab));
    later(&lab, 200);
    assert!(has_packs(&lab), "nobody reads it any more");
}

#[test]
fn what_is_read_again_comes_out_of_its_packs_when_it_is_rewritten() {
    let mut lab = settled(5);
    later(&lab, 600);
    lab.check(1);
    for (workload, oracle) in &lab.others {
        image(lab.store(), workload.volume(), oracle.lsns().pop().unwrap());
    }
    // Points go, so that all of it is gone through.
    lab.rule(gateway_journal::MetaRecord::PolicySet { volume: None, policy: Some(policy(100, &[], 0)) });
    assert!(lab.settle() > 0);
    assert!(!has_packs(&lab));
    let head: Lsn = lab.oracle.lsns().pop().unwrap();
    assert!(image(lab.store(), lab.volume(), head) == lab.oracle.image_at(lab.volume(), head));
    lab.open();
    lab.check(1);
}

#[test]
fn nothing_is_packed_where_that_is_switched_off() {
    let mut lab = settled(6);
    lab.disk.config.cold = None;
    lab.open();
    later(&lab, 100_000);
    assert!(!has_packs(&lab));
}
