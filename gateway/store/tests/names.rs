//! Bookmarks and barrier marks in the index: what a group of versions brings is written, however many there are, and a start finds them
//! all again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::lab::{Lab, policy};
use gateway_image::Catalogue;
use gateway_journal::{Hold, Manifest, MetaRecord};
use gateway_store::{MarkStore as _, MemoryIndex};
use tap_block::{BarrierMark, Batch, MarkId, WallTime};

/// What follows one another as one batch.
fn joined(mut batches: impl Iterator<Item = Batch>) -> Batch {
    let mut first = batches.next().unwrap();
    batches.for_each(|batch| first.entries.extend(batch.entries));
    first
}

fn bookmarks(lab: &mut Lab, from: usize, to: usize) {
    for begin in (from..to).step_by(500) {
        let names = begin..to.min(begin + 500);
        let batch = joined(names.map(|n| {
            let name = format!("backup-of-the-night-{n}").parse().unwrap();
            lab.workload.bookmark(&name)
        }));
        lab.append(&batch);
    }
}

fn marks(lab: &mut Lab, first: u64, n: u64) {
    let members = vec![lab.volume()];
    let mark = |n: u64| BarrierMark {
        id: MarkId::new(n * 1_000_003),
        group: "db".parse().unwrap(),
        members: members.clone(),
        bookmark: None,
    };
    let batch = joined((first..first + n).map(|n| lab.workload.barrier(mark(n))));
    lab.append(&batch);
}

fn groups(lab: &Lab) -> u64 {
    lab.store().status().groups
}

/// Bytes that each group's batch set in the index while this went on.
fn of_each_group(lab: &mut Lab, act: impl FnOnce(&mut Lab)) -> u64 {
    lab.wait_for_index();
    let (groups_before, before) = (groups(lab), lab.disk.index.committed());
    act(lab);
    lab.wait_for_index();
    let groups = groups(lab) - groups_before;
    assert!(groups > 2, "{groups} groups");
    (lab.disk.index.committed() - before) / groups
}

#[test]
fn a_group_writes_what_it_brings_however_many_bookmarks_there_are() {
    let mut lab = Lab::new(31, policy(1_000_000, &[], 1_000_000));
    lab.write(60, 1);
    let few = of_each_group(&mut lab, |lab| lab.more(60, 1));
    bookmarks(&mut lab, 0, 6000);
    marks(&mut lab, 1, 4000);
    for _ in 0..2 {
        lab.more(20, 1);
        let many = of_each_group(&mut lab, |lab| lab.more(60, 1));
        assert!(many < few + 200, "{many} bytes a group, {few} without any");
        let one_more = of_each_group(&mut lab, |lab| {
            let n = lab.store().catalogue().volume(lab.volume()).unwrap().bookmark_count();
            bookmarks(lab, n, n + 1);
            marks(lab, n as u64, 1);
            lab.more(60, 1);
        });
        assert!(one_more < few + 4000, "{one_more} bytes a group, {few} without any");
        // And behind a start.
        let before = lab.store().catalogue();
        lab.open();
        assert_eq!((&*lab.store().catalogue(), lab.disk.index.wipes()), (&*before, 0));
    }
}

/// Hourly bookmarks of a hundred volumes, kept for a year, are longer than a segment.
#[test]
fn bookmarks_whose_list_is_longer_than_a_segment_are_settled_all_the_same() {
    let mut lab = Lab::new(41, policy(10, &[], 1_000_000_000));
    lab.disk.config.segment_len = 64 << 10;
    lab.open();
    lab.write(30, 1);
    marks(&mut lab, 1, 300);
    let left = lab.store().catalogue().volume(lab.volume()).unwrap().marks().len();
    hold_all(&lab);
    for n in 0..6 {
        bookmarks(&mut lab, n * 400, (n + 1) * 400);
        lab.more(20, 1);
        lab.clock.advance(Duration::from_secs(500));
        lab.settle();
    }
    let sealed = lab.disk.manifest.load().unwrap();
    let manifest = Manifest::unseal(&sealed).unwrap();
    assert!(sealed.len() < 64 << 10, "{} bytes", sealed.len());
    assert!(manifest.encode().len() > 3 * (32 << 10), "{} bytes", manifest.encode().len());
    for with_index in [true, false] {
        if !with_index {
            lab.disk.index = MemoryIndex::new();
        }
        lab.open();
        let catalogue = lab.store().catalogue();
        let known = catalogue.volume(lab.volume()).unwrap();
        assert_eq!((known.bookmark_count(), known.marks().len()), (2400, left), "nothing went for it");
        assert!(known.bookmark_lsns().all(|lsn| lab.store().check_kept(lab.volume(), lsn).is_ok()));
        lab.check(300);
    }
}

fn hold_all(lab: &Lab) {
    let (from, to) = (WallTime::EPOCH, lab.store().age().plus(Duration::from_secs(1)));
    let until = to.plus(Duration::from_secs(1_000_000));
    let (volume, note) = (lab.volume(), "audit".to_owned());
    lab.rule(MetaRecord::Held(Hold { volume, from, to, until, credited: Duration::ZERO, note }));
}

/// What a start finds in an index is what it finds in the journal without one.
fn same_without_index(lab: &mut Lab) {
    lab.open();
    assert_eq!(lab.disk.index.wipes(), 0, "the index is as it should be");
    let before = Catalogue::clone(&lab.store().catalogue());
    lab.store = None;
    let index = std::mem::take(&mut lab.disk.index);
    lab.open();
    assert_eq!(*lab.store().catalogue(), before);
    lab.store = None;
    lab.disk.index = index;
    lab.open();
    assert_eq!(*lab.store().catalogue(), before);
}

#[test]
fn names_that_come_and_go_are_the_same_with_and_without_an_index() {
    let mut lab = Lab::new(37, policy(10, &[], 300));
    lab.write(60, 1);
    let mut next = 0;
    for round in 0..12u64 {
        bookmarks(&mut lab, next, next + 40);
        marks(&mut lab, 1000 * (round + 1), 700);
        if round % 3 == 1 {
            let catalogue = lab.store().catalogue();
            let known = catalogue.volume(lab.volume()).unwrap();
            let (name, at) = known.bookmarks().next().map(|(name, at)| (name.clone(), at.at.lsn)).unwrap();
            lab.rule(MetaRecord::BookmarkRemoved { volume: lab.volume(), point: at, name });
        }
        next += 40;
        lab.more(20, 3);
        lab.clock.advance(Duration::from_secs(100));
        if round % 2 == 1 {
            lab.settle();
            lab.more(20, 1);
        }
        if round % 4 == 3 {
            same_without_index(&mut lab);
        }
    }
    let catalogue = lab.store().catalogue();
    let known = catalogue.volume(lab.volume()).unwrap();
    assert!(known.bookmark_count() < next && known.marks().len() < 12 * 700, "some of them went");
}

/// More bookmarks than fit into a segment however they are packed: names that look like no others.
#[test]
fn a_list_that_fits_into_no_segment_lies_in_several() {
    let mut lab = Lab::new(43, policy(10, &[], 1_000_000_000));
    lab.disk.config.segment_len = 64 << 10;
    lab.open();
    lab.write(30, 1);
    marks(&mut lab, 1, 300);
    let left = lab.store().catalogue().volume(lab.volume()).unwrap().marks().len();
    hold_all(&lab);
    let mut named = 0;
    for _ in 0..6 {
        for _ in 0..8 {
            let all = (named..named + 100).map(|n: u64| {
                let [a, b] = [1, 2]
                    .map(|k| (n + k * 1_000_003).wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(n << 17));
                lab.workload.bookmark(&format!("{a:016x}{:016x}", b ^ (b >> 29)).parse().unwrap())
            });
            let batch = joined(all);
            lab.append(&batch);
            named += 100;
        }
        lab.more(20, 1);
        lab.clock.advance(Duration::from_secs(500));
        lab.settle();
    }
    let sealed = lab.disk.manifest.load().unwrap();
    assert!(sealed.len() > 2 * (64 << 10), "{} bytes", sealed.len());
    let settled = |lab: &Lab| lab.store().kept(lab.volume()).unwrap().points.len();
    let listed = settled(&lab);
    assert!(listed as u64 >= named, "{listed}");
    let told = verify(&lab);
    assert_eq!(told, []);
    // It is found in the segments, without the index, and without the copy.
    for (with_index, with_copy) in [(true, true), (false, true), (true, false), (false, false)] {
        lab.store = None;
        if !with_index {
            lab.disk.index = MemoryIndex::new();
        }
        if !with_copy {
            lab.disk.manifest.store(&[]).unwrap();
        }
        lab.open();
        let catalogue = lab.store().catalogue();
        let known = catalogue.volume(lab.volume()).unwrap();
        assert_eq!(
            (known.bookmark_count() as u64, known.marks().len()),
            (named, left),
            "nothing went for it"
        );
        assert_eq!(settled(&lab), listed);
        assert!(known.bookmark_lsns().all(|lsn| lab.store().check_kept(lab.volume(), lsn).is_ok()));
        assert!(!with_copy || verify(&lab) == told);
        lab.check(300);
    }
    // And it goes on: segments of lists that count no more are none of the store's, nor are those that count taken for rubbish.
    for _ in 0..6 {
        lab.more(20, 1);
        lab.clock.advance(Duration::from_secs(500));
        assert!(lab.settle() > 0);
        lab.check(300);
        let sealed = lab.disk.manifest.load().unwrap();
        let generations = Manifest::unseal(&sealed).unwrap().generations;
        let of_blocks: BTreeSet<_> =
            generations.iter().flat_map(|g| &g.segments).map(|s| s.segment).collect();
        let of_lists = |lab: &Lab| lab.store().status().settled_segments - of_blocks.len() as u64;
        let most = (sealed.len() / (32 << 10)) as u64 + 1;
        assert!((2..=most).contains(&of_lists(&lab)), "{} for {} bytes", of_lists(&lab), sealed.len());
        let before = of_lists(&lab);
        lab.open();
        assert_eq!(of_lists(&lab), before);
    }
}

fn verify(lab: &Lab) -> Vec<gateway_store::Finding> {
    lab.store().verify(gateway_store::Scope::default(), &mut |_| true).unwrap().findings
}
