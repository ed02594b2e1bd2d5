//! Parts of a store that are damaged or gone when it is opened: whatever is sound is served, nothing wrong is, and what is not
//! served is named.
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

use common::lab::{Lab, tiers};
use common::{Disk, append, try_image};
use gateway_journal::{FrameHeader, Manifest, RegionNo, SegmentHeader, SettledHeader};
use gateway_store::{Finding, FindingKind, MarkStore as _, MemoryIndex, Scope, Store, StoreError};
use tap_block::SyncCause::HopLost;
use tap_disk::{FileNo, SegmentDir};
use testbed_model::{Oracle, Workload};

/// Log and settled history, several volumes.
fn aged(seed: u64) -> Lab {
    let mut lab = Lab::new(seed, tiers());
    lab.write(60, 5);
    lab.settle();
    lab.more(20, 8);
    lab.settle();
    lab.more(40, 1);
    lab
}

/// Files that begin with this.
fn files(disk: &Disk, magic: &[u8]) -> Vec<FileNo> {
    let mut found = disk.dir.list().unwrap();
    found.retain(|no| {
        let mut head = [0; 7];
        disk.dir.open(*no).unwrap().read_at(0, &mut head).unwrap();
        head == *magic
    });
    found
}

/// Files of settled segments that count; others are free, whatever is in them.
fn live(disk: &Disk) -> Vec<FileNo> {
    let manifest = Manifest::unseal(&disk.manifest.load().unwrap()).unwrap();
    let listed: Vec<_> = manifest.generations.iter().flat_map(|g| &g.segments).map(|s| s.segment).collect();
    let mut found = files(disk, b"CGSETTL");
    found.retain(|no| {
        let mut head = [0; 128];
        disk.dir.open(*no).unwrap().read_at(0, &mut head).unwrap();
        // One with a damaged header that nobody needs may be free by now.
        SettledHeader::decode(&head).is_ok_and(|header| listed.contains(&header.segment))
    });
    found
}

fn change(disk: &Disk, no: FileNo, at: u64, change: impl Fn(u8) -> u8) {
    disk.dir.corrupt(no, at, |bytes| bytes[0] = change(bytes[0]));
}

fn open_findings(store: &Store, lab: &Lab, kind: FindingKind) -> Vec<Finding> {
    let found = store.findings(lab.volume()).into_iter();
    found.filter(|f| f.kind == kind && f.over_at.is_none()).collect()
}

#[test]
fn a_flipped_bit_in_a_settled_header_makes_nothing_unreadable() {
    let mut lab = aged(1);
    // Its magic, its version, its hash, what it says; each in another file, and with the index and without.
    let bits = [(3, false), (7, false), (9, true), (40, false), (57, true)];
    for (n, (at, without_index)) in bits.into_iter().enumerate() {
        let kept = lab.check(20);
        lab.store = None;
        let settled = live(&lab.disk);
        let no = settled[n % settled.len()];
        change(&lab.disk, no, at, |byte| byte ^ 2);
        if at == 7 {
            change(&lab.disk, no, at, |byte| byte ^ 6);
        }
        if without_index {
            lab.disk.index = MemoryIndex::new();
        }
        lab.open();
        assert_eq!(lab.check(5), kept, "byte {at} of file {no}");
        assert!(!open_findings(lab.store(), &lab, FindingKind::Header).is_empty(), "byte {at} of file {no}");
        let report = lab.store().verify(Scope::default(), &mut |_| true).unwrap();
        let kinds: Vec<_> = report.findings.iter().map(|f| f.kind).collect();
        assert_eq!(kinds, [FindingKind::Header], "{report:?}");
        // It is written anew at once.
        assert!(lab.settle() > 0);
        lab.clock.advance(Duration::from_secs(1));
        assert_eq!(lab.store().verify(Scope::default(), &mut |_| true).unwrap().findings, []);
        assert_eq!(open_findings(lab.store(), &lab, FindingKind::Header), []);
        let left = lab.check(5);
        assert!(left.iter().all(|lsn| kept.contains(lsn)), "byte {at} of file {no}");
        lab.open();
        assert_eq!(lab.check(5), left);
        assert_eq!(lab.store().status().damage, []);
    }
}

/// What is to be written anew is so until it was, and the log is settled meanwhile.
#[test]
fn a_settled_header_is_written_anew_though_the_first_try_fails() {
    let mut lab = aged(4);
    lab.store = None;
    change(&lab.disk, live(&lab.disk)[0], 9, |byte| byte ^ 2);
    lab.open();
    assert!(!open_findings(lab.store(), &lab, FindingKind::Header).is_empty());
    lab.disk.dir.fail_writes(true);
    assert!(lab.store().settle().is_err());
    lab.disk.dir.fail_writes(false);
    lab.clock.advance(Duration::from_secs(61));
    assert!(lab.settle() > 0);
    assert_eq!(lab.store().verify(Scope::default(), &mut |_| true).unwrap().findings, []);
    assert_eq!(open_findings(lab.store(), &lab, FindingKind::Header), []);
}

#[test]
fn a_settled_header_that_cannot_be_read_at_all_makes_nothing_unreadable() {
    let mut lab = aged(2);
    let kept = lab.check(20);
    lab.store = None;
    let no = live(&lab.disk)[0];
    lab.disk.dir.open(no).unwrap().write_at(0, &[std::io::IoSlice::new(&[0; 4096])]).unwrap();
    lab.open();
    assert_eq!(lab.check(5), kept);
    lab.more(30, 1);
    lab.settle();
    let left = lab.check(5);
    assert!(kept.iter().any(|lsn| left.contains(lsn)), "its file was not used again");
}

/// The newest manifest is found in the segment, whose header does not say where.
#[test]
fn a_manifest_behind_a_damaged_header_counts_without_its_copy() {
    let mut lab = aged(3);
    let kept = lab.check(20);
    lab.store = None;
    lab.disk.manifest.store(b"rubbish").unwrap();
    for no in files(&lab.disk, b"CGSETTL") {
        change(&lab.disk, no, 20, |byte| byte ^ 1);
    }
    lab.open();
    assert_eq!(lab.check(5), kept);
    assert!(lab.settle() > 0);
    let left = lab.check(5);
    assert!(!left.is_empty() && left.iter().all(|lsn| kept.contains(lsn)));
    lab.open();
    assert_eq!(lab.check(5), left);
}

/// The header of the next segment says where one ends: without it, what lies in it must not be passed over when it is settled.
#[test]
fn a_damaged_header_in_the_log_makes_nothing_unreadable_and_loses_nothing_when_it_is_settled() {
    for (seed, without_index) in [(4, false), (5, true)] {
        let count = files(&aged(seed).disk, b"CGSEGMT").len();
        assert!(count > 1);
        for n in 0..count {
            let mut lab = aged(seed);
            lab.store = None;
            let no = files(&lab.disk, b"CGSEGMT")[n];
            change(&lab.disk, no, 30, |byte| byte ^ 1);
            if without_index {
                lab.disk.index = MemoryIndex::new();
            }
            lab.open();
            let kept = lab.check(10);
            assert!(!open_findings(lab.store(), &lab, FindingKind::Header).is_empty());
            lab.clock.advance(Duration::from_secs(150));
            lab.more(40, 1);
            if without_index {
                // Nothing says that no hold lay before it.
                lab.store().acknowledge(lab.volume(), |_| true).unwrap();
            }
            assert!(lab.settle() > 0);
            let left = lab.check(4);
            assert!(left.iter().any(|lsn| kept.contains(lsn)), "file {n}");
            lab.open();
            assert_eq!(lab.check(4), left, "file {n}");
        }
    }
}

/// A stopped store of several segments of the log, none of which is in the index.
fn unsettled(workload: &mut Workload, group: usize) -> (Disk, Oracle) {
    let mut disk = Disk::small();
    disk.config.group_versions = group;
    let store = disk.open();
    let mut oracle = Oracle::new();
    let mut history = vec![workload.begin(), workload.end_sync()];
    for n in 0..120 {
        history.push(workload.batch(5));
        if n % 20 == 0 {
            history.push(workload.bookmark(&format!("mark-{n}").parse().unwrap()));
        }
    }
    for batch in &history {
        append(&store, batch).unwrap();
        oracle.apply(batch).unwrap();
    }
    assert!(store.status().segments >= 3, "{:?}", store.status());
    drop(store);
    (disk, oracle)
}

/// Points that can be opened, each of which is what it was; the others are refused.
fn sound_points(store: &Store, workload: &Workload, oracle: &Oracle) -> usize {
    let catalogue = store.catalogue();
    let Some(known) = catalogue.volume(workload.volume()) else { return 0 };
    let durable = store.durable(workload.stream()).unwrap().lsn;
    let points =
        oracle.lsns().into_iter().step_by(3).filter(|lsn| *lsn <= durable && known.selectable(*lsn).is_ok());
    let sound = points.filter(|lsn| match try_image(store, workload.volume(), *lsn) {
        Ok(image) => {
            assert!(image == oracle.image_at(workload.volume(), *lsn), "{lsn} is wrong");
            true
        }
        Err(_) => false,
    });
    sound.count()
}

#[test]
fn without_the_first_segment_of_an_unsettled_store_bookmarks_are_listed_and_the_loss_is_named() {
    let mut workload = Workload::new(21);
    let (disk, mut oracle) = unsettled(&mut workload, 100_000);
    let first = files(&disk, b"CGSEGMT")[0];
    disk.dir.remove(first).unwrap();
    let store = disk.open();
    let (volume, stream) = (workload.volume(), workload.stream());
    let there = |store: &Store| store.catalogue().volume(volume).map_or(0, |v| v.bookmarks().count());
    assert!(there(&store) >= 2, "those in the segments that are left");
    assert_eq!(sound_points(&store, &workload, &oracle), 0);
    let named =
        |store: &Store| store.findings(volume).iter().any(|f| f.volume == Some(volume) && f.points.is_some());
    assert!(named(&store) && store.wound(stream).is_some(), "{:?}", store.findings(volume));
    // The next run names it, and a copy of everything makes it whole.
    for batch in [workload.restart(10, None), workload.batch(3)] {
        append(&store, &batch).unwrap();
        oracle.apply(&batch).unwrap();
    }
    assert_eq!(sound_points(&store, &workload, &oracle), 0);
    assert_eq!(store.catalogue().volume(volume).unwrap().size(), workload.size());
    for batch in [workload.restart(10, Some(HopLost)), workload.end_sync(), workload.batch(3)] {
        append(&store, &batch).unwrap();
        oracle.apply(&batch).unwrap();
    }
    assert_eq!(store.wound(stream), None);
    let sound = sound_points(&store, &workload, &oracle);
    assert!(sound > 0);
    drop(store);
    let store = disk.open();
    assert!(there(&store) >= 2 && named(&store));
    store.verify(Scope { volume: Some(volume), to: None, fresh: true }, &mut |_| true).unwrap();
    let stands = |f: &Finding| {
        f.over_at.is_none() && f.points.is_some_and(|(first, last)| first.get() == 1 && last.is_some())
    };
    assert!(store.findings(volume).iter().any(stands), "{:?}", store.findings(volume));
    assert_eq!(sound_points(&store, &workload, &oracle), sound);
}

/// The place where the index goes on is in the segment that is gone.
#[test]
fn an_index_that_knows_more_than_the_segments_that_are_left_is_kept() {
    let mut workload = Workload::new(22);
    let (disk, oracle) = unsettled(&mut workload, 60);
    let all = oracle.bookmarks().len();
    for no in files(&disk, b"CGSEGMT") {
        let left = common::lab::cut(&disk, &mut testbed_model::Random::new(1));
        left.dir.remove(no).unwrap();
        let store = left.open();
        let known = store.catalogue().volume(workload.volume()).map_or(0, |v| v.bookmarks().count());
        assert!(known * 2 > all, "{known} of {all} without {no}");
        sound_points(&store, &workload, &oracle);
        assert!(!store.findings(workload.volume()).is_empty(), "without {no}");
    }
}

/// A frame that holds copies alone shows which record is due next, too.
#[test]
fn a_loss_before_a_frame_of_copies_is_seen() {
    let mut workload = Workload::new(23);
    let mut disk = Disk::small();
    disk.config.group_versions = 10_000;
    let store = disk.open();
    let history = [
        workload.begin(),
        workload.end_sync(),
        workload.batch(4),
        workload.restart(0, Some(HopLost)),
        workload.batch(4),
        workload.copies(),
        workload.end_sync(),
        workload.batch(2),
    ];
    let mut oracle = Oracle::new();
    for batch in &history {
        append(&store, batch).unwrap();
        oracle.apply(batch).unwrap();
    }
    drop(store);
    let no = files(&disk, b"CGSEGMT")[0];
    let file = disk.dir.open(no).unwrap();
    let mut bytes = vec![0; file.len() as usize];
    file.read_at(0, &mut bytes).unwrap();
    let frames: Vec<u64> =
        bytes.windows(7).enumerate().filter(|(_, w)| w == b"CGFRAME").map(|(at, _)| at as u64).collect();
    change(&disk, no, frames[4] + 60, |byte| byte ^ 1);
    let store = disk.open();
    let lost = &store.status().damage[0].lost;
    let wanted = (history[4].first_lsn, history[4].last_lsn().unwrap());
    assert!(lost.iter().any(|(_, from, to)| (*from, *to) == wanted), "{lost:?}");
    assert!(history[5].entries.iter().all(|e| e.position.is_copy()) && !history[5].entries.is_empty());
    sound_points(&store, &workload, &oracle);
    assert!(store.wound(workload.stream()).is_some());
}

#[test]
fn a_store_of_a_newer_format_is_refused_and_left_as_it_is() {
    let mut lab = aged(6);
    lab.store = None;
    let refused = |lab: &Lab| match lab.disk.try_open() {
        Err(StoreError::Open(why)) => assert!(why.contains("version 2") && why.contains("newer"), "{why}"),
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("it was opened"),
    };
    for magic in [b"CGSEGMT", b"CGSETTL"] {
        let no = *files(&lab.disk, magic).last().unwrap();
        // Its header; and its first frame, behind which a log has sound ones of this version: that is damage, and settled
        // history is read by what the manifest says.
        for at in [7, 4096 + 7].into_iter().take(if magic == b"CGSEGMT" { 1 } else { 2 }) {
            change(&lab.disk, no, at, |_| 2);
            refused(&lab);
            change(&lab.disk, no, at, |_| 1);
        }
    }
    // A frame that is reached on the way; behind that of a segment which another one follows a program of this version went on.
    let segment = |no: &FileNo| {
        let mut head = [0; 4096];
        lab.disk.dir.open(*no).unwrap().read_at(0, &mut head).unwrap();
        SegmentHeader::decode(&head).unwrap().segment
    };
    let no = files(&lab.disk, b"CGSEGMT").into_iter().max_by_key(segment).unwrap();
    let file = lab.disk.dir.open(no).unwrap();
    let mut bytes = vec![0; file.len() as usize];
    file.read_at(0, &mut bytes).unwrap();
    let own = |at: &usize| FrameHeader::decode(&bytes[*at..]).is_ok_and(|f| f.segment == segment(&no));
    let last = (4096..bytes.len()).step_by(8).rfind(own).unwrap() as u64;
    let index = lab.disk.index.clone();
    lab.disk.index = MemoryIndex::new();
    change(&lab.disk, no, last + 7, |_| 2);
    refused(&lab);
    change(&lab.disk, no, last + 7, |_| 1);
    lab.disk.index = index;
    // Two files that say so did not rot.
    let both = [files(&lab.disk, b"CGSETTL")[0], files(&lab.disk, b"CGSEGMT")[0]];
    both.iter().for_each(|no| change(&lab.disk, *no, 7, |_| 3));
    assert!(lab.disk.try_open().is_err());
    both.iter().for_each(|no| change(&lab.disk, *no, 7, |_| 1));
    lab.open();
    assert!(!lab.check(3).is_empty());
}

#[test]
fn a_header_of_a_far_version_before_frames_of_this_one_has_rotted() {
    for magic in [b"CGSEGMT", b"CGSETTL"] {
        let mut lab = aged(6);
        let kept = lab.check(3);
        lab.store = None;
        let no = *files(&lab.disk, magic).last().unwrap();
        change(&lab.disk, no, 7, |_| 84);
        for without_index in [false, true] {
            if without_index {
                lab.disk.index = MemoryIndex::new();
            }
            lab.open();
            let found = lab.store().findings(lab.volume());
            assert!(found.iter().any(|f| f.kind == FindingKind::Header && f.over_at.is_none()), "{found:?}");
            let again = lab.check(3);
            assert!(again.len() * 2 > kept.len(), "{} of {}", again.len(), kept.len());
        }
    }
}

/// Nobody knows then what the newest settle left: on the word of an older one its segments would be taken for free.
#[test]
fn a_store_whose_newest_manifest_is_gone_is_not_opened_on_an_older_one() {
    let mut lab = aged(16);
    lab.store = None;
    let settle = Manifest::unseal(&lab.disk.manifest.load().unwrap()).unwrap().settle;
    let home = |no: &FileNo| {
        let mut head = [0; 128];
        lab.disk.dir.open(*no).unwrap().read_at(0, &mut head).unwrap();
        SettledHeader::decode(&head).is_ok_and(|h| h.settle == settle && h.manifest.is_some())
    };
    let home: Vec<FileNo> = files(&lab.disk, b"CGSETTL").into_iter().filter(home).collect();
    let content = |no: FileNo| {
        let file = lab.disk.dir.open(no).unwrap();
        let mut all = vec![0; file.len() as usize];
        file.read_at(0, &mut all).unwrap();
        all
    };
    let whole: Vec<_> = home.iter().map(|no| content(*no)).collect();
    lab.disk.manifest.store(b"rubbish").unwrap();
    // Of what lies in them then nothing says that it is a manifest.
    home.iter().for_each(|no| lab.disk.dir.corrupt(*no, 0, |bytes| bytes.fill(0)));
    let before = lab.disk.dir.list().unwrap();
    for _ in 0..2 {
        match lab.disk.try_open() {
            Err(StoreError::Open(why)) => assert!(why.contains("nothing was changed"), "{why}"),
            Err(e) => panic!("{e}"),
            Ok(_) => panic!("it was opened"),
        }
    }
    assert_eq!(lab.disk.dir.list().unwrap(), before);
    // Only the header is gone: the manifest is found behind it.
    for (no, all) in home.iter().zip(&whole) {
        lab.disk.dir.corrupt(*no, 0, |bytes| bytes[4096..].copy_from_slice(&all[4096..]));
    }
    lab.open();
    assert!(!lab.check(3).is_empty());
}

/// A newer program writes no older frames behind its own.
#[test]
fn a_version_that_rotted_in_one_frame_is_damage_and_the_store_opens() {
    for first in [true, false] {
        let mut workload = Workload::new(17);
        let (mut disk, oracle) = unsettled(&mut workload, 10_000);
        let no = files(&disk, b"CGSEGMT")[1];
        let file = disk.dir.open(no).unwrap();
        let mut bytes = vec![0; file.len() as usize];
        file.read_at(0, &mut bytes).unwrap();
        let mut frames =
            bytes.windows(7).enumerate().filter(|(_, w)| w == b"CGFRAME").map(|(at, _)| at as u64);
        let at = if first { frames.next() } else { frames.nth(5) };
        // Two bits.
        change(&disk, no, at.unwrap() + 7, |_| 2);
        disk.index = MemoryIndex::new();
        let store = disk.open();
        assert!(store.status().damage.iter().any(|d| !d.lost.is_empty()), "first: {first}");
        assert!(sound_points(&store, &workload, &oracle) > 0, "first: {first}");
    }
}

#[test]
fn rot_in_one_volumes_block_is_no_damage_of_another() {
    let lab = aged(7);
    lab.store().keep_ledger().unwrap();
    let other = lab.others[0].0.volume();
    let mut struck = None;
    // A block of the main volume in a segment that holds blocks of the other too.
    for no in files(&lab.disk, b"CGSETTL") {
        let file = lab.disk.dir.open(no).unwrap();
        for at in (4096 + 200..file.len() / 2).step_by(4096) {
            let mut byte = [0];
            file.read_at(at, &mut byte).unwrap();
            change(&lab.disk, no, at, |byte| byte ^ 1);
            let report = lab.store().verify(Scope::default(), &mut |_| true).unwrap();
            let own = |f: &Finding| f.kind == FindingKind::Block && f.volume == Some(lab.volume());
            if struck.is_none() && report.findings.len() == 1 && own(&report.findings[0]) {
                struck = Some((no, at));
                break;
            }
            change(&lab.disk, no, at, |byte| byte ^ 1);
        }
        if struck.is_some() {
            break;
        }
    }
    assert!(struck.is_some(), "no block was hit");
    let scope = |volume| Scope { volume: Some(volume), to: None, fresh: true };
    let found = lab.store().verify(scope(other), &mut |_| true).unwrap().findings;
    assert_eq!(found, [], "the other volume is sound");
    let found = lab.store().verify(scope(lab.volume()), &mut |_| true).unwrap().findings;
    assert_eq!(found.len(), 1, "{found:?}");
}

/// What is damaged in the log behind what the index knows costs every later point, for nobody knows what was there. After an
/// orderly stop the index knows all, also of what an earlier life left.
#[test]
fn after_an_orderly_stop_damage_in_the_log_costs_no_point() {
    for (orderly, written) in [(true, 20), (true, 0), (false, 20)] {
        let mut workload = Workload::new(77);
        let (mut disk, mut oracle) = unsettled(&mut workload, 1 << 20);
        disk.config.index_at_stop = orderly;
        let store = disk.open();
        for batch in (0..written).map(|_| workload.batch(5)) {
            append(&store, &batch).unwrap();
            oracle.apply(&batch).unwrap();
        }
        let opens = |store: &Store| {
            let map = |lsn| store.region_map(workload.volume(), RegionNo::new(0), lsn);
            oracle.lsns().into_iter().filter(|lsn| map(*lsn).is_ok()).count()
        };
        let all = opens(&store);
        assert!(all > 500, "{all}");
        store.stop();
        drop(store);
        for no in files(&disk, b"CGSEGMT") {
            disk.dir.corrupt(no, 64 << 10, |bytes| bytes[..64 << 10].fill(0));
        }
        let store = disk.open();
        assert_eq!(opens(&store) == all, orderly, "{} of {all} points are left", opens(&store));
        // It is found all the same.
        let report = store.verify(Scope::default(), &mut |_| true).unwrap();
        assert!(!report.findings.is_empty());
    }
}
