//! A settled segment that is gone, cut off, or somebody else's file when the store is opened: what lay there is named, whether the
//! newest points need it is known over restarts, a copy of the whole disk makes later points whole, and another store that has
//! it puts all of it back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use std::io::IoSlice;

use common::lab::{Lab, cut, tiers};
use common::{Disk, append, repair_one, try_image};
use gateway_journal::{Manifest, SettledHeader};
use gateway_store::{Finding, FindingKind, IndexOpener as _, MarkStore as _, Offered, Scope, Store};
use tap_block::BlockNo;
use tap_block::SyncCause::HopLost;
use tap_disk::{FileNo, SegmentDir};
use testbed_model::{Oracle, Random, Workload};

fn aged(seed: u64) -> Lab {
    let mut lab = Lab::new(seed, tiers());
    lab.write(60, 5);
    lab.settle();
    lab.more(20, 8);
    lab.settle();
    lab.more(40, 1);
    lab
}

/// Files of the settled segments that count.
fn live(disk: &Disk) -> Vec<FileNo> {
    let manifest = Manifest::unseal(&disk.manifest.load().unwrap()).unwrap();
    let listed: Vec<_> = manifest.generations.iter().flat_map(|g| &g.segments).map(|s| s.segment).collect();
    let mut found = disk.dir.list().unwrap();
    found.retain(|no| {
        let mut head = [0; 128];
        disk.dir.open(*no).unwrap().read_at(0, &mut head).unwrap();
        SettledHeader::decode(&head).is_ok_and(|header| listed.contains(&header.segment))
    });
    found
}

#[derive(Debug, Clone, Copy)]
enum Harm {
    Delete,
    Truncate,
    Replace,
}

fn harm(disk: &Disk, no: FileNo, harm: Harm) {
    let len = disk.dir.open(no).unwrap().len();
    let mut bytes = vec![0; len as usize];
    disk.dir.open(no).unwrap().read_at(0, &mut bytes).unwrap();
    disk.dir.remove(no).unwrap();
    match harm {
        Harm::Delete => {}
        // In the middle of a block.
        Harm::Truncate => {
            bytes.truncate(4096 + 64 + 777);
            disk.dir.create(no, bytes.len() as u64).unwrap().write_at(0, &[IoSlice::new(&bytes)]).unwrap();
        }
        Harm::Replace => {
            bytes.fill(0xa5);
            disk.dir.create(no, len).unwrap().write_at(0, &[IoSlice::new(&bytes)]).unwrap();
        }
    }
}

fn blocks(store: &Store, lab: &Lab) -> Vec<Finding> {
    let found = store.findings(lab.volume()).into_iter();
    found.filter(|f| f.kind == FindingKind::Block && f.over_at.is_none()).collect()
}

/// Every kept point is what it was, or refused; how many of each.
fn points(store: &Store, lab: &Lab) -> (usize, usize) {
    let (mut sound, mut refused) = (0, 0);
    for lsn in lab.oracle.lsns().into_iter().rev().step_by(4) {
        let known = store.catalogue();
        let known = known.volume(lab.volume()).unwrap();
        if known.selectable(lsn).is_err() || store.check_kept(lab.volume(), lsn).is_err() {
            continue;
        }
        match try_image(store, lab.volume(), lsn) {
            Ok(image) => {
                assert!(image == lab.oracle.image_at(lab.volume(), lsn), "{lsn} is wrong");
                sound += 1;
            }
            Err(_) => refused += 1,
        }
    }
    (sound, refused)
}

/// Which of the other volumes need a copy of their disk: those of which the newest point cannot be read. All other newest points
/// are what they were.
fn wounds(lab: &Lab) -> Vec<usize> {
    let hurt = |(workload, oracle): &(Workload, Oracle)| {
        let newest = *oracle.lsns().last().unwrap();
        let image = try_image(lab.store(), workload.volume(), newest);
        let wound = lab.store().head_wound(workload.stream()).unwrap();
        assert_eq!(wound.is_some(), image.is_err());
        assert_eq!(lab.store().is_head_wounded(workload.volume()), wound.is_some());
        assert!(image.is_err() || image == Ok(oracle.image_at(workload.volume(), newest)));
        wound.is_some()
    };
    lab.others.iter().enumerate().filter(|(_, other)| hurt(other)).map(|(n, _)| n).collect()
}

const HARMS: [Harm; 3] = [Harm::Delete, Harm::Truncate, Harm::Replace];

#[test]
fn where_the_newest_point_needs_what_is_gone_a_copy_of_the_disk_is_wanted_until_it_is_complete() {
    let mut found = 0;
    for (n, how) in HARMS.into_iter().enumerate() {
        let mut lab = aged(30 + n as u64);
        lab.store = None;
        for no in live(&lab.disk) {
            harm(&lab.disk, no, how);
        }
        lab.open();
        assert!(!blocks(lab.store(), &lab).is_empty(), "{how:?}: what lay there is named");
        let hurt = wounds(&lab);
        found += hurt.len();
        // Nobody asked for it yet, and the gateway starts again.
        lab.open();
        assert_eq!(wounds(&lab), hurt, "{how:?}");
        lab.settle();
        points(lab.store(), &lab);
        assert_eq!(wounds(&lab), hurt, "{how:?}");
        for (workload, oracle) in &mut lab.others {
            for batch in [workload.restart(10, Some(HopLost)), workload.end_sync(), workload.batch(3)] {
                append(lab.store.as_ref().unwrap(), &batch).unwrap();
                oracle.apply(&batch).unwrap();
            }
        }
        assert!(wounds(&lab).is_empty(), "{how:?}: it is asked for once");
        lab.more(20, 20);
        assert!(lab.settle() > 0, "{how:?}: history is settled as ever");
        lab.open();
        assert!(wounds(&lab).is_empty(), "{how:?}");
    }
    assert!(found > 0, "one of them at least hit a newest point");
}

/// The index is gone as well, so nobody knows what lay there.
#[test]
fn without_the_index_a_copy_of_the_disk_makes_later_points_whole_and_they_stay_so() {
    let mut found = 0;
    for (n, how) in HARMS.into_iter().enumerate() {
        let mut lab = aged(60 + n as u64);
        lab.store = None;
        for no in live(&lab.disk) {
            harm(&lab.disk, no, how);
        }
        lab.disk.index.wipe().unwrap();
        let hurt = |lab: &Lab| -> Vec<usize> {
            let wounded = |(workload, oracle): &(Workload, Oracle)| {
                let newest = *oracle.lsns().last().unwrap();
                let image = try_image(lab.store(), workload.volume(), newest);
                assert!(image.is_err() || image == Ok(oracle.image_at(workload.volume(), newest)));
                let wound = lab.store().wound(workload.stream()).is_some();
                assert!(wound || image.is_ok(), "{how:?}: nobody asks for a copy");
                wound
            };
            lab.others.iter().enumerate().filter(|(_, other)| wounded(other)).map(|(n, _)| n).collect()
        };
        lab.open();
        found += hurt(&lab).len();
        points(lab.store(), &lab);
        lab.open();
        hurt(&lab);
        for (workload, oracle) in &mut lab.others {
            for batch in [workload.restart(10, Some(HopLost)), workload.end_sync(), workload.batch(3)] {
                append(lab.store.as_ref().unwrap(), &batch).unwrap();
                oracle.apply(&batch).unwrap();
            }
        }
        for round in 0..3 {
            assert_eq!(hurt(&lab), [0; 0], "{how:?} in round {round}: it is asked for once");
            // What is settled then lies behind the copy.
            lab.more(30, 20);
            assert!(lab.settle() > 0, "{how:?}: history is settled as ever");
            lab.open();
            points(lab.store(), &lab);
        }
        // Once nothing is kept that shows it, it is over: history is gone through again, and nobody is told any more.
        for batch in [lab.workload.restart(10, Some(HopLost)), lab.workload.end_sync()] {
            lab.append(&batch);
        }
        for _ in 0..2 {
            lab.more(30, 20);
            lab.clock.advance(std::time::Duration::from_secs(10_000));
            lab.settle();
        }
        lab.settle();
        assert_eq!(lab.store().status().damage, [], "{how:?}");
        lab.open();
        assert_eq!(lab.store().status().damage, [], "{how:?}");
        assert_eq!((points(lab.store(), &lab).1, hurt(&lab)), (0, vec![]));
    }
    assert!(found > 0, "one of them at least hit a newest point");
}

#[test]
fn what_lies_behind_the_end_of_a_disk_that_became_smaller_needs_no_copy() {
    let mut lab = Lab::new(50, tiers());
    lab.write(60, 5);
    let batch = lab.workload.shrink(lab.workload.size() / tap_block::BLOCK_SIZE - 2);
    lab.append(&batch);
    lab.more(20, 8);
    lab.settle();
    lab.more(40, 1);
    lab.settle();
    lab.store = None;
    for no in live(&lab.disk) {
        harm(&lab.disk, no, Harm::Delete);
    }
    lab.open();
    let size = lab.workload.size();
    let newest = |f: &Finding| f.points.unwrap().1.is_none();
    let behind = |f: &&Finding| f.extent.unwrap().offset() >= size;
    assert!(!blocks(lab.store(), &lab).iter().filter(behind).any(newest), "no newest point shows it");
    for batch in [lab.workload.restart(10, Some(HopLost)), lab.workload.end_sync()] {
        lab.append(&batch);
    }
    let newest = *lab.oracle.lsns().last().unwrap();
    let image = try_image(lab.store(), lab.volume(), newest).unwrap();
    assert!(image == lab.oracle.image_at(lab.volume(), newest));
    assert_eq!(lab.store().head_wound(lab.workload.stream()).unwrap(), None, "whole is whole");
    assert!(!lab.store().is_head_wounded(lab.volume()));
}

#[test]
fn another_store_that_has_the_segment_puts_all_of_it_back() {
    let mut named = 0;
    for (n, how) in HARMS.into_iter().enumerate() {
        let mut lab = aged(40 + n as u64);
        let sound = cut(&lab.disk, &mut Random::new(1)).open();
        lab.store = None;
        for no in live(&lab.disk) {
            harm(&lab.disk, no, how);
        }
        lab.open();
        let store = lab.store();
        for volume in [lab.volume(), lab.others[0].0.volume(), lab.others[1].0.volume()] {
            let found = store.findings(volume).into_iter();
            for f in found.filter(|f| f.kind == FindingKind::Block && f.over_at.is_none()) {
                let of = (BlockNo::holding(f.extent.unwrap().offset()), f.position.unwrap());
                let unit = sound.stored_unit(volume, of.0, of.1).unwrap().unwrap();
                assert!(repair_one(store, volume, of, &unit, Offered::Version).unwrap() > 0);
                named += 1;
            }
        }
        assert_eq!((blocks(store, &lab), points(store, &lab).1), (vec![], 0), "{how:?}");
        assert_eq!(store.head_wound(lab.workload.stream()).unwrap(), None);
        // Frames and headers are written anew with the next pass.
        lab.open();
        let report = lab.store().verify(Scope::default(), &mut |_| true).unwrap();
        assert!(
            report.findings.iter().all(|f| f.kind != FindingKind::Block),
            "{how:?}: {:?}",
            &report.findings[..2]
        );
        lab.settle();
        let report = lab.store().verify(Scope::default(), &mut |_| true).unwrap();
        assert_eq!(report.findings, [], "{how:?}");
        assert_eq!(points(lab.store(), &lab).1, 0);
    }
    assert!(named > 30, "{named}");
}

#[test]
fn a_segment_that_is_put_back_counts_more_than_what_stands_in_for_it() {
    let mut lab = aged(50);
    lab.store = None;
    let no = live(&lab.disk)[0];
    let mut bytes = vec![0; lab.disk.dir.open(no).unwrap().len() as usize];
    lab.disk.dir.open(no).unwrap().read_at(0, &mut bytes).unwrap();
    harm(&lab.disk, no, Harm::Delete);
    lab.open();
    assert!(!blocks(lab.store(), &lab).is_empty());
    lab.store = None;
    let back = FileNo::new(lab.disk.dir.list().unwrap().iter().map(|no| no.get()).max().unwrap() + 1);
    for no in [back, FileNo::new(no.get())] {
        if lab.disk.dir.open(no).is_err() {
            let file = lab.disk.dir.create(no, bytes.len() as u64).unwrap();
            file.write_at(0, &[IoSlice::new(&bytes)]).unwrap();
            break;
        }
    }
    lab.open();
    let report = lab.store().verify(Scope::default(), &mut |_| true).unwrap();
    assert_eq!((report.findings, points(lab.store(), &lab).1), (vec![], 0));
}
