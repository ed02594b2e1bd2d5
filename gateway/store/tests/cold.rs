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

use std::collections::BTreeSet;
use std::time::Duration;

use common::lab::{Lab, cut, policy};
use common::{image, repair_one};
use gateway_journal::{Location, Manifest, RegionNo, SettledHeader};
use gateway_store::{Finding, FindingKind, MarkStore, MemoryIndex, Offered, Repair, Scope, Store};
use tap_block::stored::pack;
use tap_block::{BlockNo, Lsn};
use tap_disk::SegmentDir;
use testbed_model::Random;

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

/// Flips a bit of the body of a pack of the head's; which block it was found by.
fn rot(lab: &Lab, store: &Store) -> BlockNo {
    let (within, at) = packs_of_head(lab, store).next().expect("a pack");
    flip(lab, at);
    RegionNo::new(0).block(within)
}

/// Where blocks of the first region lie in packs.
fn packs_of_head(lab: &Lab, store: &Store) -> impl Iterator<Item = (u16, Location)> {
    let head = lab.oracle.lsns().pop().unwrap();
    let map = store.region_map(lab.volume(), RegionNo::new(0), head).unwrap();
    (0..200).filter_map(move |n| Some((n, map.unit(n)?))).filter(|(_, at)| at.is_pack())
}

fn flip(lab: &Lab, at: Location) {
    for name in lab.disk.dir.list().unwrap() {
        let (file, mut header) = (lab.disk.dir.open(name).unwrap(), [0; 128]);
        file.read_at(0, &mut header).unwrap();
        if SettledHeader::decode(&header).is_ok_and(|h| h.segment == at.segment) {
            let (place, mut byte) = (u64::from(at.end()) - 12, [0]);
            file.read_at(place, &mut byte).unwrap();
            file.write_at(place, &[std::io::IoSlice::new(&[byte[0] ^ 8])]).unwrap();
        }
    }
}

/// A bad stretch of a disk hits many packs: each being put right by a pass of its own would fill the store.
#[test]
fn all_that_rots_of_a_region_is_put_right_by_one_pass() {
    let lab = settled(9);
    later(&lab, 600);
    let sound = cut(&lab.disk, &mut Random::new(1)).open();
    let store = lab.store();
    let packs: BTreeSet<Location> = packs_of_head(&lab, store).map(|(_, at)| at).collect();
    assert!(packs.len() > 2, "{packs:?}");
    packs.iter().for_each(|at| flip(&lab, *at));
    store.verify(Scope::default(), &mut |_| true).unwrap();
    let open = || {
        let found = store.findings(lab.volume()).into_iter();
        found.filter(|f| f.kind == FindingKind::Block && f.over_at.is_none()).collect::<Vec<_>>()
    };
    let found = open();
    assert!(found.len() > packs.len());
    let repair = |finding: &Finding| {
        let (block, position) =
            (BlockNo::holding(finding.extent.unwrap().offset()), finding.position.unwrap());
        let unit = sound.stored_unit(lab.volume(), block, position).unwrap().unwrap();
        Repair { block, position, unit }
    };
    let mut repairs: Vec<Repair> = found.iter().map(repair).collect();
    let mut other = Vec::new();
    pack(repairs[1].block, &[9; 3000], &mut other);
    repairs[1].unit = other;
    let before = store.status().settles;
    let outcomes = store.repair(lab.volume(), &repairs, Offered::Content).unwrap();
    assert_eq!(store.status().settles, before + 1, "one pass for all");
    let failed: Vec<usize> = (0..outcomes.len()).filter(|n| outcomes[*n].is_err()).collect();
    assert_eq!(failed, [1], "{outcomes:?}: what is not what stood there stops no other");
    assert_eq!(open().len(), 1);
    let last = repair(&found[1]);
    assert_eq!(store.repair(lab.volume(), &[last], Offered::Content).unwrap()[0], Ok(1));
    assert_eq!(store.verify(Scope { fresh: true, ..Scope::default() }, &mut |_| true).unwrap().findings, []);
    lab.check(1);
}

#[test]
fn a_pack_that_rots_is_named_by_every_member_and_put_right_block_by_block() {
    let lab = settled(7);
    later(&lab, 600);
    let sound = cut(&lab.disk, &mut Random::new(1)).open();
    let store = lab.store();
    let block = rot(&lab, store);
    let report = store.verify(Scope::default(), &mut |_| true).unwrap();
    let blocks = || {
        let found = store.findings(lab.volume()).into_iter();
        found.filter(|f| f.kind == FindingKind::Block && f.over_at.is_none()).collect::<Vec<_>>()
    };
    let named = blocks();
    let here = |f: &Finding| f.extent.unwrap().offset() == block.offset();
    assert!(named.len() > 1 && named.iter().any(here), "{report:?}");
    for (n, finding) in named.iter().enumerate() {
        let (block, position) =
            (BlockNo::holding(finding.extent.unwrap().offset()), finding.position.unwrap());
        let unit = sound.stored_unit(lab.volume(), block, position).unwrap().unwrap();
        let mut other = Vec::new();
        pack(block, &[9; 3000], &mut other);
        let offer = |unit: &[u8], offered| repair_one(store, lab.volume(), (block, position), unit, offered);
        assert!(offer(&other, Offered::Content).is_err(), "the pack's head says what its members were");
        let offered = if n % 2 == 0 { Offered::Content } else { Offered::Version };
        assert_eq!(offer(&unit, offered).unwrap(), 1);
        assert_eq!(blocks().len(), named.len() - n - 1);
    }
    let again = store.verify(Scope { fresh: true, ..Scope::default() }, &mut |_| true).unwrap();
    assert_eq!(again.findings, []);
    lab.check(1);
}

#[test]
fn packs_that_are_read_do_not_grow_where_there_is_no_room_for_that() {
    let mut lab = settled(8);
    later(&lab, 600);
    assert!(has_packs(&lab));
    let status = lab.store().status();
    let used = status.segments + status.settled_segments;
    lab.disk.config.max_segments = used as usize + 3;
    lab.disk.config.settle_at_once = 4 << 30;
    for cold in [lab.disk.config.cold, None] {
        lab.disk.config.cold = cold;
        lab.open();
        lab.check(1);
        lab.more(10, 1);
        lab.clock.advance(Duration::from_secs(200));
        // It unwraps: there is room for each pass.
        lab.settle();
        assert!(has_packs(&lab), "room is short");
        lab.check(1);
    }
}
