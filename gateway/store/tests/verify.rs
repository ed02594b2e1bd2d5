//! What a verification says is true: it finds every flipped bit that any kept point shows, names who is affected, cries
//! no wolf while history moves, and what is repaired is as it was.
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

use common::lab::{Lab, cut, policy, tiers};
use common::{Disk, repair_one, try_image};
use gateway_journal::SEGMENT_HEADER;
use gateway_store::{
    Finding, FindingKind, IndexStore as _, MemoryIndex, Offered, Row, Scope, Store, StoreError, Table,
    VerifyReport,
};
use proptest::prelude::*;
use tap_block::BlockNo;
use tap_block::stored::pack;
use tap_disk::SegmentDir;
use testbed_model::Random;

fn verify(store: &Store, scope: Scope) -> VerifyReport {
    store.verify(scope, &mut |_| true).unwrap()
}

/// Log and settled history, several volumes.
fn aged(seed: u64) -> Lab {
    let mut lab = Lab::new(seed, tiers());
    lab.write(120, 5);
    lab.settle();
    lab.more(25, 8);
    lab.settle();
    lab.more(10, 1);
    lab
}

#[test]
fn what_was_written_is_found_sound() {
    let mut lab = aged(1);
    let report = verify(lab.store(), Scope::default());
    assert_eq!(report.findings, []);
    assert!(report.blocks > 100 && report.frames > 20, "{report:?}");
    assert_eq!(report.through.len(), 3);
    let newest = *lab.oracle.lsns().last().unwrap();
    assert_eq!(lab.store().proof(lab.volume()).unwrap().lsn, newest);
    lab.open();
    assert_eq!(lab.store().proof(lab.volume()).unwrap().lsn, newest, "it is known over a restart");
}

#[test]
fn a_walk_can_be_watched_and_ended() {
    let mut lab = aged(2);
    // More than a MiB, so that there is somebody to tell.
    lab.write(600, 0);
    let mut told = Vec::new();
    let ended = lab.store().verify(Scope::default(), &mut |progress| {
        told.push(progress);
        false
    });
    assert_eq!(ended.unwrap_err(), StoreError::Cancelled);
    assert!(told.len() == 1 && 0 < told[0].done && told[0].done <= told[0].total, "{told:?}");
    assert_eq!(lab.store().proof(lab.volume()), None, "nothing is proven by half a walk");
}

/// Flips a bit of a byte that is in use in some file; where.
fn flip(disk: &Disk, random: &mut Random) -> (String, u64) {
    let files = disk.dir.list().unwrap();
    let file = disk.dir.open(files[random.below(files.len() as u64) as usize]).unwrap();
    let at = random.below(file.len() / 2);
    let mut byte = [0];
    file.read_at(at, &mut byte).unwrap();
    let flipped = byte[0] ^ (1 << random.below(8));
    file.write_at(at, &[std::io::IoSlice::new(&[flipped])]).unwrap();
    (file.name().to_owned(), at)
}

fn blocks(store: &Store, lab: &Lab) -> Vec<Finding> {
    let found = store.findings(lab.volume()).into_iter();
    found.filter(|f| f.kind == FindingKind::Block && f.over_at.is_none()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: common::cases(24), failure_persistence: None, ..ProptestConfig::default() })]

    /// A point is affected exactly when a finding says so; with the blocks of a store that is sound everything is as it
    /// was.
    #[test]
    fn a_flipped_bit_is_named_with_all_that_it_affects_and_can_be_put_right(seed: u64) {
        let mut random = Random::new(seed);
        let lab = aged(seed);
        let sound = cut(&lab.disk, &mut random).open();
        let left = cut(&lab.disk, &mut random);
        let store = left.open();
        let bits: Vec<_> = (0..12).map(|_| flip(&left, &mut random)).collect();
        let report = verify(&store, Scope::default());
        let found = blocks(&store, &lab);
        for point in lab.oracle.lsns() {
            let known = store.catalogue();
            let selectable = known.volume(lab.volume()).is_some_and(|v| v.selectable(point).is_ok());
            if !selectable || store.check_kept(lab.volume(), point).is_err() {
                continue;
            }
            let shows = |f: &&Finding| {
                let (first, last) = f.points.unwrap();
                first <= point && last.is_none_or(|last| point <= last)
            };
            let named = found.iter().find(shows);
            let outside = |f: &&Finding| f.extent.unwrap().offset() >= known.volume(lab.volume()).unwrap().size_at(point);
            match try_image(&store, lab.volume(), point) {
                Ok(image) => {
                    prop_assert!(image == lab.oracle.image_at(lab.volume(), point), "{} is wrong", point);
                    let named = found.iter().filter(shows).find(|f| !outside(f));
                    prop_assert!(named.is_none(), "{} can be read, with {:?} of {:?}", point, named, bits);
                }
                Err(e) => prop_assert!(named.is_some(), "{} cannot be read ({}), {:?} of {:?}", point, e, report, bits),
            }
        }
        for finding in &found {
            let (block, position) = (BlockNo::holding(finding.extent.unwrap().offset()), finding.position.unwrap());
            let unit = sound.stored_unit(lab.volume(), block, position).unwrap().unwrap();
            prop_assert!(repair_one(&store, lab.volume(), (block, position), &unit[1..], Offered::Version).is_err());
            let offer = |unit: &[u8], offered| repair_one(&store, lab.volume(), (block, position), unit, offered);
            let mut other = Vec::new();
            pack(block, &[seed as u8 | 1; 3000], &mut other);
            prop_assert!(offer(&other, Offered::Content).is_err(), "the disk may hold anything by now");
            // Where more than the checksum or the body is hit, nobody can tell.
            let by_content = offer(&unit, Offered::Content).unwrap_or(0);
            prop_assert!(by_content > 0 || offer(&unit, Offered::Version).unwrap() > 0);
        }
        prop_assert_eq!(blocks(&store, &lab), []);
        for point in lab.oracle.lsns().into_iter().step_by(5) {
            let known = store.catalogue();
            let selectable = known.volume(lab.volume()).is_some_and(|v| v.selectable(point).is_ok());
            if selectable && store.check_kept(lab.volume(), point).is_ok() {
                prop_assert!(
                    try_image(&store, lab.volume(), point) == Ok(lab.oracle.image_at(lab.volume(), point)),
                    "{} differs after repair", point
                );
            }
        }
        let scope = Scope { volume: Some(lab.volume()), to: None, fresh: true };
        let again = verify(&store, scope);
        prop_assert!(again.findings.iter().all(|f| f.kind != FindingKind::Block), "{:?}", again);
        if !found.is_empty() {
            prop_assert!(!store.findings(lab.volume()).is_empty(), "repaired, and not read of yet");
        }
        store.acknowledge(lab.volume(), |_| true).unwrap();
        prop_assert!(store.findings(lab.volume()).iter().all(|f| f.over_at.is_none()));
    }

    #[test]
    fn nothing_is_found_while_history_is_settled(seed: u64) {
        let mut lab = Lab::new(seed, tiers());
        lab.write(120, 5);
        let store = Arc::clone(lab.store.as_ref().unwrap());
        let walks = std::thread::spawn(move || {
            (0..8).map(|_| verify(&store, Scope::default()).findings).collect::<Vec<_>>()
        });
        for _ in 0..6 {
            lab.more(10, 20);
            lab.settle();
        }
        for findings in walks.join().unwrap() {
            prop_assert_eq!(findings, []);
        }
    }
}

#[test]
fn what_only_later_points_show_is_not_looked_at() {
    let lab = aged(5);
    let all = verify(lab.store(), Scope { volume: Some(lab.volume()), to: None, fresh: true });
    let early = lab.store().kept(lab.volume()).unwrap().settled;
    let some = verify(lab.store(), Scope { volume: Some(lab.volume()), to: Some(early), fresh: true });
    assert!(some.blocks < all.blocks, "{} of {}", some.blocks, all.blocks);
    let of_all = verify(lab.store(), Scope::default());
    assert!(all.blocks < of_all.blocks, "{} of {}", all.blocks, of_all.blocks);
}

#[test]
fn a_header_of_another_segment_is_found() {
    let lab = aged(6);
    let files = lab.disk.dir.list().unwrap();
    let heads = files.iter().map(|no| {
        let mut head = vec![0; SEGMENT_HEADER as usize];
        lab.disk.dir.open(*no).unwrap().read_at(0, &mut head).unwrap();
        head
    });
    let heads: Vec<_> = heads.collect();
    for (no, head) in files.iter().zip(heads.iter().cycle().skip(1)) {
        lab.disk.dir.open(*no).unwrap().write_at(0, &[std::io::IoSlice::new(head)]).unwrap();
    }
    let report = verify(lab.store(), Scope::default());
    let headers = report.findings.iter().filter(|f| f.kind == FindingKind::Header).count();
    assert!(headers > 1, "{report:?}");
}

/// Blocks are read by the index, so what stands around them can be written anew from it.
#[test]
fn frames_and_headers_of_settled_history_are_written_anew() {
    let lab = aged(9);
    let kept = lab.check(3);
    let mut struck = 0;
    for no in lab.disk.dir.list().unwrap() {
        let file = lab.disk.dir.open(no).unwrap();
        let mut bytes = vec![0; file.len() as usize];
        file.read_at(0, &mut bytes).unwrap();
        if !bytes.starts_with(b"CGSETTL") {
            continue;
        }
        let frames = bytes.windows(7).enumerate().filter(|(_, w)| *w == b"CGSFRAM").map(|(at, _)| at + 70);
        for at in frames.step_by(2).chain([20]) {
            file.write_at(at as u64, &[std::io::IoSlice::new(&[!bytes[at]])]).unwrap();
            struck += 1;
        }
    }
    let report = verify(lab.store(), Scope::default());
    let of = |kind| report.findings.iter().filter(|f| f.kind == kind).count();
    assert!(struck > 3 && of(FindingKind::Frame) > 0 && of(FindingKind::Header) > 0, "{report:?}");
    assert_eq!(of(FindingKind::Block), 0, "every block is still read: {report:?}");
    assert!(lab.settle() > 0);
    lab.clock.advance(std::time::Duration::from_secs(1));
    assert_eq!(verify(lab.store(), Scope::default()).findings, []);
    assert!(lab.store().findings(lab.volume()).iter().all(|f| f.over_at.is_some()));
    assert!(lab.check(3).iter().all(|point| kept.contains(point)));
}

/// Every kept point that cannot be read is named, and no other.
fn check_named(lab: &Lab, store: &Store) -> usize {
    let (found, mut unreadable) = (store.findings(lab.volume()), 0);
    let known = store.catalogue();
    for point in lab.oracle.lsns() {
        let volume = known.volume(lab.volume()).unwrap();
        // What never came, or went with the last segment, is not known here: it is refused as such.
        let durable = store.durable(volume.stream()).is_some_and(|durable| point <= durable.lsn);
        let kept = store.check_kept(lab.volume(), point).is_ok();
        if !durable || !kept || volume.selectable(point).is_err() {
            continue;
        }
        let shows = |f: &&Finding| {
            let seen = f.points.is_some_and(|(a, b)| a <= point && b.is_none_or(|b| point <= b));
            let inside = f.extent.is_none_or(|e| e.offset() < volume.size_at(point));
            seen && inside
        };
        let named = found.iter().find(shows);
        match try_image(store, lab.volume(), point) {
            Ok(image) => {
                assert!(image == lab.oracle.image_at(lab.volume(), point), "{point} is wrong");
                let block = named.filter(|f| f.kind == FindingKind::Block);
                assert!(block.is_none(), "{point} can be read, with {block:?}");
            }
            Err(e) => {
                unreadable += 1;
                assert!(named.is_some(), "{point} cannot be read ({e}), and nothing says so: {found:?}");
            }
        }
    }
    unreadable
}

/// The frames are gone with it, the index still says what lay there.
#[test]
fn a_missing_segment_is_named_with_every_block_in_it() {
    for seed in 0..6 {
        let mut lab = aged(seed);
        lab.more(40, 1);
        lab.store = None;
        let files = lab.disk.dir.list().unwrap();
        for no in files {
            let left = cut(&lab.disk, &mut Random::new(seed));
            left.dir.remove(no).unwrap();
            // The file that held the only manifest, or nothing, has its own tests.
            let Ok(store) = left.try_open() else { continue };
            // Something stands in for a settled one.
            let torn = store.findings(lab.volume()).iter().any(|f| f.kind == FindingKind::Missing);
            let missing = torn || !store.status().damage.is_empty();
            verify(&store, Scope::default());
            let unreadable = check_named(&lab, &store);
            assert!(missing || unreadable == 0, "file {no} of seed {seed}");
            // What it held is not passed over as if it had never been.
            while let Ok(Some(_)) = store.settle() {}
            verify(&store, Scope::default());
            check_named(&lab, &store);
        }
    }
}

#[test]
fn an_index_that_does_not_say_what_the_segments_say_is_found() {
    let lab = aged(7);
    lab.disk.index.forget_rows(gateway_store::Table::Runs);
    lab.disk.index.forget_rows(gateway_store::Table::Settled);
    let report = verify(lab.store(), Scope::default());
    assert!(report.findings.iter().any(|f| f.kind == FindingKind::Index), "{report:?}");
    let of = |f: &Finding| f.kind == FindingKind::Index && f.volume == Some(lab.volume());
    assert!(lab.store().findings(lab.volume()).iter().any(of));
    // Without it, the store builds it again.
    let mut lab = lab;
    lab.store = None;
    lab.disk.index = MemoryIndex::new();
    lab.open();
    assert_eq!(verify(lab.store(), Scope::default()).findings, []);
}

#[test]
fn a_copy_of_the_manifest_that_is_damaged_is_found() {
    let lab = aged(8);
    use gateway_store::MarkStore as _;
    lab.disk.manifest.store(b"rubbish").unwrap();
    let report = verify(lab.store(), Scope::default());
    assert!(matches!(&report.findings[..], [f] if f.kind == FindingKind::Manifest), "{report:?}");
}

/// What points are read by is compared with what it was made of, and does without it if it is something else.
#[test]
fn a_checkpoint_that_says_something_else_is_found_and_removed() {
    let mut lab = Lab::new(5, policy(1_000_000, &[], 0));
    lab.write(300, 1);
    lab.more(20, 1);
    assert_eq!(verify(lab.store(), Scope::default()).findings, []);
    // The newest of a region is an older one that says it is as new.
    let mut rows: Vec<Row> = Vec::new();
    let index = lab.disk.index.clone();
    index
        .scan(Table::Maps, &[], &[0xff; 24], &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            true
        })
        .unwrap();
    let same = |(a, b): &(&Row, &Row)| a.0[..12] == b.0[..12];
    let (old, (key, new)) = rows.iter().zip(rows.iter().skip(1)).rfind(same).unwrap();
    let value = [&new[..8], &old.1[8..]].concat();
    index.ingest(Table::Maps, vec![(key.clone(), value)]).unwrap();
    lab.open();
    let points = lab.oracle.lsns();
    let wrong = |lab: &Lab| {
        let is_wrong = |lsn: &&tap_block::Lsn| {
            try_image(lab.store(), lab.volume(), **lsn) != Ok(lab.oracle.image_at(lab.volume(), **lsn))
        };
        points.iter().filter(is_wrong).count()
    };
    assert!(wrong(&lab) > 0, "it is read by");
    let findings = verify(lab.store(), Scope::default()).findings;
    assert!(matches!(findings.as_slice(), [only] if only.kind == FindingKind::Index), "{findings:?}");
    assert_eq!(wrong(&lab), 0);
    assert_eq!(verify(lab.store(), Scope::default()).findings, []);
    lab.open();
    assert_eq!(wrong(&lab), 0);
}

/// Nothing is read by one that cannot be read; it is named and goes, and the walk goes on.
#[test]
fn a_checkpoint_that_cannot_be_read_is_found_and_removed() {
    let mut lab = Lab::new(5, policy(1_000_000, &[], 0));
    lab.write(300, 1);
    lab.more(20, 1);
    let (index, mut rows) = (lab.disk.index.clone(), Vec::<Row>::new());
    let all = |rows: &mut Vec<Row>| {
        rows.clear();
        index
            // Behind the note of what groups there are.
            .scan(Table::Maps, &[0; 20], &[0xff; 24], &mut |key, value| {
                rows.push((key.to_vec(), value.to_vec()));
                true
            })
            .unwrap();
    };
    all(&mut rows);
    let there = rows.len();
    let spoilt: Vec<Row> =
        rows.iter().map(|(key, value)| (key.clone(), value[..value.len() - 3].to_vec())).collect();
    index.ingest(Table::Maps, spoilt).unwrap();
    lab.open();
    assert!(lab.check(7).len() > 100, "all is read without");
    let report = verify(lab.store(), Scope::default());
    let of_index = |f: &&Finding| f.kind == FindingKind::Index && f.detail.contains("checkpoint");
    assert_eq!((report.findings.iter().filter(of_index).count(), report.findings.len()), (there, there));
    all(&mut rows);
    assert_eq!(rows, [], "all of them are gone");
    assert_eq!(verify(lab.store(), Scope::default()).findings, []);
    lab.more(60, 1);
    all(&mut rows);
    assert!(!rows.is_empty(), "and are made anew");
    lab.check(7);
}
