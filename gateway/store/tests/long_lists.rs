//! A list of kept points and names that is longer than a segment: the power is cut at every step at which it is written, and the list
//! that counts then is a whole one.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::Disk;
use common::lab::{Lab, cut, policy};
use common::steps::{Steps, parts};
use gateway_store::{MarkStore as _, MemoryIndex, Scope, Store};
use tap_block::Batch;
use testbed_model::Random;

const SEGMENT: u32 = 64 << 10;

/// Names that look like no others.
fn bookmarks(lab: &mut Lab, from: u64, n: u64) {
    let hash = |n: u64, k: u64| (n * 2 + k).wrapping_add(7).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let one = |lab: &mut Lab, n: u64| {
        let (a, b) = (hash(n, 0), hash(n, 1));
        lab.workload.bookmark(&format!("{:016x}{:016x}", a ^ (a >> 29), b ^ (b >> 31)).parse().unwrap())
    };
    for first in (from..from + n).step_by(100) {
        let mut all: Batch = one(lab, first);
        (first + 1..(first + 100).min(from + n)).for_each(|n| all.entries.extend(one(lab, n).entries));
        lab.append(&all);
    }
}

/// One whose list lies in several segments, with more to be settled.
fn lab() -> Lab {
    let mut lab = Lab::new(43, policy(10, &[], 1_000_000_000));
    lab.disk.config.segment_len = SEGMENT;
    lab.open();
    lab.write(30, 1);
    for n in 0..2 {
        bookmarks(&mut lab, n * 1500, 1500);
        lab.more(10, 1);
        lab.clock.advance(Duration::from_secs(500));
        lab.settle();
    }
    bookmarks(&mut lab, 3000, 200);
    lab.more(10, 1);
    lab.clock.advance(Duration::from_secs(500));
    lab.store = None;
    let sealed = lab.disk.manifest.load().unwrap();
    assert!(sealed.len() > SEGMENT as usize, "{} bytes", sealed.len());
    lab
}

/// All that was acknowledged is there, and it goes on.
fn check(lab: &mut Lab, at: &str) {
    lab.open();
    assert_eq!(lab.store().status().damage, [], "{at}");
    let named = |lab: &Lab| lab.store().catalogue().volume(lab.volume()).unwrap().bookmark_count();
    assert_eq!(named(lab), 3200, "{at}");
    lab.check(100);
    lab.settle();
    assert_eq!(named(lab), 3200, "{at}");
    let report = lab.store().verify(Scope { fresh: true, ..Scope::default() }, &mut |_| true).unwrap();
    assert_eq!(report.findings, [], "{at}");
    lab.store = None;
    lab.disk.index = MemoryIndex::new();
    lab.open();
    assert_eq!(named(lab), 3200, "{at}, without the index");
    lab.check(100);
    lab.store = None;
}

/// A copy of what is on the disk, of which nothing was lost.
fn whole(disk: &Disk) -> Disk {
    let copy = cut(disk, &mut Random::new(1));
    Disk { dir: disk.dir.after_power_cut(|_, _| true), ..copy }
}

fn settle(disk: &Disk, steps: &Arc<Steps>) {
    let store = Store::open_on(disk.config.clone(), Arc::clone(&disk.clock), parts(disk, steps)).unwrap();
    while store.status().groups_waiting > 0 {
        std::thread::yield_now();
    }
    assert!(store.settle().unwrap().is_some());
}

#[test]
fn a_power_cut_while_it_is_written_leaves_the_list_before_or_the_new_one() {
    let (mut lab, counted) = (lab(), Arc::new(Steps::default()));
    let before = whole(&lab.disk);
    settle(&whole(&before), &counted);
    let (counts, mut cuts) = (counted.counts(), 0);
    for name in ["settled write", "settled sync", "segment create", "manifest store", "index commit"] {
        let count = counts.get(name).copied().unwrap_or(0);
        let each = (count / u64::from(common::cases(4))).max(1);
        for no in (0..count).step_by(each as usize) {
            let (left, steps) = (Arc::new(Mutex::new(None)), Arc::new(Steps::default()));
            let (lost, disk) = (Arc::clone(&left), whole(&before));
            let (seen, mut random) = (disk.clone(), Random::new(no + 1));
            let at_cut = move || *lost.lock().unwrap() = Some(cut(&seen, &mut random));
            steps.cut_before(name, no, Box::new(at_cut));
            settle(&disk, &steps);
            let Some(left) = left.lock().unwrap().take() else { continue };
            lab.disk = left;
            check(&mut lab, &format!("cut before {name} {no}"));
            cuts += 1;
        }
    }
    assert!(cuts >= 15, "{cuts} of {counts:?}");
}
