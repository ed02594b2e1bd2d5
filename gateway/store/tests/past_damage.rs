//! Frames of the log that rot once the index knows them: history is settled past them by what the index says. Nothing is served that was
//! not written, nothing is lost that is still there, and what is lost is named and can be put right afterwards.
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
use std::io::IoSlice;
use std::time::Duration;

use common::lab::{Lab, check, cut, policy, tiers};
use common::segments::{Frame, frames};
use common::{Disk, cases, repair_one, try_image};
use gateway_journal::MetaRecord;
use gateway_journal::meta::OWN_STREAM;
use gateway_store::{FindingKind, IndexOpener as _, Offered, Scope, Store};
use tap_block::SyncCause::HopLost;
use tap_block::{BarrierMark, BlockNo, MarkId, VolumeId};
use tap_disk::SegmentDir;
use testbed_model::{Oracle, Random, Workload};

/// A store whose index knows all of the log, and that is closed.
fn indexed(seed: u64, keep: gateway_journal::RetentionPolicy) -> Lab {
    let mut lab = Lab::new(seed, keep);
    lab.disk.config.index_at_stop = true;
    lab.open();
    lab.write(80, 5);
    lab.more(40, 2);
    lab.store = None;
    lab.clock.advance(Duration::from_secs(2000));
    lab
}

/// The same on a disk of its own, with this frame's head damaged.
fn with_rot(lab: &Lab, frame: &Frame, rot: impl Fn(&Disk, &Frame)) -> Disk {
    let disk = cut(&lab.disk, &mut Random::new(1));
    rot(&disk, frame);
    disk
}

fn flip(disk: &Disk, (file, at, _): &Frame) {
    disk.dir.corrupt(*file, at + 60, |bytes| bytes[0] ^= 1);
}

/// The whole frame, units and all.
fn spoil(disk: &Disk, (file, at, frame): &Frame) {
    let len = (frame.span as usize).min(128 + frame.table as usize + frame.body as usize);
    disk.dir.open(*file).unwrap().write_at(*at, &[IoSlice::new(&vec![0xee; len])]).unwrap();
}

fn settle(store: &Store) -> usize {
    let mut passes = 0;
    while store.settle().unwrap().is_some() {
        passes += 1;
        assert!(passes < 100, "it never ends");
    }
    passes
}

/// Points that are kept and served, each of them as it was, and those that are kept and refused.
fn exact(store: &Store, oracle: &Oracle, volume: VolumeId) -> (usize, usize) {
    let catalogue = store.catalogue();
    let Some(known) = catalogue.volume(volume) else { return (0, 1) };
    let (mut served, mut refused) = (0, 0);
    for lsn in oracle.lsns() {
        if known.selectable(lsn).is_err() || store.check_kept(volume, lsn).is_err() {
            continue;
        }
        match try_image(store, volume, lsn) {
            Ok(image) => {
                assert!(image == oracle.image_at(volume, lsn), "{lsn} is wrong and served");
                let captured = store.time_of(known.stream(), lsn).ok().flatten();
                assert!(
                    captured.is_none_or(|at| Some(at) >= oracle.time_of(lsn)),
                    "{lsn} is shown before it was"
                );
                served += 1;
            }
            Err(_) => refused += 1,
        }
    }
    (served, refused)
}

fn all(lab: &Lab) -> impl Iterator<Item = (&Workload, &Oracle)> {
    std::iter::once((&lab.workload, &lab.oracle)).chain(lab.others.iter().map(|(w, o)| (w, o)))
}

/// Of all volumes. Whoever refuses the newest point asks for a copy of the disk.
fn exact_all(store: &Store, lab: &Lab) -> (usize, usize) {
    all(lab).fold((0, 0), |(served, refused), (workload, oracle)| {
        let (s, r) = exact(store, oracle, workload.volume());
        let newest = try_image(store, workload.volume(), *oracle.lsns().last().unwrap());
        let asks = store.wound(workload.stream()).is_some() || !store.findings(workload.volume()).is_empty();
        assert!(newest.is_ok() || asks, "nobody asks for a copy");
        (served + s, refused + r)
    })
}

/// Nothing but a frame's head is damaged: the index leads to every block.
#[test]
fn one_flipped_bit_in_a_frame_that_the_index_knows_costs_nothing() {
    let lab = indexed(3, tiers());
    let frames = frames(&lab.disk);
    let step = (frames.len() / cases(24) as usize).max(1);
    let (mut lost, mut tried) = (0, 0);
    for (n, frame) in frames.iter().enumerate().skip(2).step_by(step) {
        let disk = with_rot(&lab, frame, flip);
        let store = disk.open();
        assert!(settle(&store) > 0);
        assert_eq!(store.status().settle_failing, None, "frame {n}");
        let (served, refused) = exact_all(&store, &lab);
        assert!(served > 0);
        lost += usize::from(refused > 0);
        tried += 1;
        let noted = store.findings(lab.volume());
        assert!(frame.2.stream == OWN_STREAM || !noted.is_empty(), "frame {n}: nobody is told");
        assert_eq!(store.status().damage.iter().filter(|d| d.lost.is_empty()).count(), 0);
        // Settled history holds all of it, and says what is lost when the index is gone as well.
        drop(store);
        disk.index.wipe().unwrap();
        let again = exact_all(&disk.open(), &lab);
        assert!(again.0 >= served && again.1 <= refused, "frame {n}: {again:?}, and {served}, {refused}");
    }
    println!("{lost} of {tried} frames cost something");
    assert!(lost * 4 <= tried, "{lost} of {tried}: only runs and syncs that begin cannot be made up for");
}

/// Every point that was kept without the damage is kept with it.
#[test]
fn what_is_held_in_a_lost_frame_stays() {
    let lab = indexed(4, policy(1, &[(200_000, 3_000_000)], 5000));
    let frames = frames(&lab.disk);
    let writes = |f: &&Frame| f.2.stream == lab.workload.stream() && f.2.entries > 2 && f.2.blocks > 2;
    let frame = frames.iter().filter(writes).nth(20).unwrap();
    let pinned = frame.2.first_lsn.next();
    let (sound, rotten) = (cut(&lab.disk, &mut Random::new(1)), with_rot(&lab, frame, flip));
    let kept = |disk: &Disk| {
        let store = disk.open();
        let (tell, done) = std::sync::mpsc::channel();
        let pin = MetaRecord::Pinned { volume: lab.volume(), point: pinned, note: String::new() };
        store.record(pin, Box::new(move |outcome| drop(tell.send(outcome))));
        done.recv_timeout(Duration::from_secs(30)).unwrap().unwrap();
        settle(&store);
        assert!(exact_all(&store, &lab).0 > 0);
        let kept = check(&store, &lab.oracle, lab.volume(), 1);
        drop(store);
        disk.index.wipe().unwrap();
        assert_eq!(check(&disk.open(), &lab.oracle, lab.volume(), 1), kept);
        kept
    };
    let (without, with) = (kept(&sound), kept(&rotten));
    assert!(with.contains(&pinned) && with.len() + 1 >= without.len(), "{with:?} and {without:?}");
}

/// The units are gone as well: which blocks that concerns is named, all others are served, and another gateway puts them right, before
/// or after history is settled past them.
#[test]
fn blocks_that_are_lost_are_named_refused_and_put_right_behind_the_settle() {
    let lab = indexed(5, tiers());
    let frames = frames(&lab.disk);
    let writes: Vec<&Frame> = frames.iter().filter(|f| f.2.stream != OWN_STREAM && f.2.blocks > 1).collect();
    let sound = cut(&lab.disk, &mut Random::new(1)).open();
    let (mut named, mut refusals) = (0, 0);
    for frame in writes.iter().skip(3).step_by(writes.len() / 8) {
        let disk = with_rot(&lab, frame, spoil);
        let store = disk.open();
        assert!(settle(&store) > 0 && store.status().settle_failing.is_none());
        let (served, refused) = exact_all(&store, &lab);
        assert!(served > 0);
        refusals += refused;
        let mut wounds = BTreeSet::new();
        for (workload, _) in all(&lab) {
            let volume = workload.volume();
            let found = store.findings(volume).into_iter();
            for f in found.filter(|f| f.kind == FindingKind::Block && f.over_at.is_none()) {
                assert_eq!(f.volume, Some(volume));
                let of = (BlockNo::holding(f.extent.unwrap().offset()), f.position.unwrap());
                let unit = sound.stored_unit(volume, of.0, of.1).unwrap().unwrap();
                assert!(repair_one(&store, volume, of, &unit, Offered::Version).unwrap() > 0);
                named += 1;
            }
            wounds.extend(store.wound(workload.stream()));
        }
        let (repaired, left) = exact_all(&store, &lab);
        assert!(left == 0 || !wounds.is_empty(), "{left} are refused");
        assert!(repaired >= served);
        let report = store.verify(Scope::default(), &mut |_| true).unwrap();
        assert!(report.findings.iter().all(|f| f.kind != FindingKind::Block), "{:?}", report.findings);
    }
    assert!(named > 3 && refusals > 3, "{named} blocks, {refusals} points");
}

/// The end of a run's first frame is not known to any catalogue as a record of its own.
#[test]
fn what_nobody_knows_is_refused_until_a_copy_of_the_disk_is_complete() {
    let mut lab = indexed(6, tiers());
    lab.open();
    let batch = lab.workload.restart(7, Some(HopLost));
    lab.append(&batch);
    let began = batch.first_lsn;
    lab.more(3, 1);
    let end = lab.workload.end_sync();
    lab.append(&end);
    lab.more(30, 1);
    lab.store = None;
    let frame = *frames(&lab.disk)
        .iter()
        .find(|f| f.2.stream == lab.workload.stream() && f.2.first_lsn == began)
        .unwrap();
    flip(&lab.disk, &frame);
    lab.clock.advance(Duration::from_secs(2000));
    lab.open();
    let newest = |lab: &Lab| try_image(lab.store(), lab.volume(), *lab.oracle.lsns().last().unwrap());
    assert!(newest(&lab).is_ok());
    settle(lab.store());
    exact_all(lab.store(), &lab);
    for _ in 0..2 {
        if newest(&lab).is_err() {
            assert!(lab.store().wound(lab.workload.stream()).is_some());
            assert!(
                lab.store().findings(lab.volume()).iter().any(|f| f.over_at.is_none() && f.points.is_some())
            );
        }
        lab.store = None;
        lab.disk.index.wipe().unwrap();
        lab.open();
        exact_all(lab.store(), &lab);
    }
    for batch in [lab.workload.restart(10, Some(HopLost)), lab.workload.end_sync(), lab.workload.batch(3)] {
        lab.append(&batch);
    }
    assert_eq!(newest(&lab).unwrap(), lab.oracle.image_at(lab.volume(), *lab.oracle.lsns().last().unwrap()));
    assert_eq!(lab.store().wound(lab.workload.stream()), None);
}

/// Marks of an idle member lie in frames of their own, and nothing in the index tells of them; the catalogue does.
#[test]
fn marks_whose_frames_are_lost_are_still_there_when_the_index_is_gone_as_well() {
    let mut lab = Lab::new(8, tiers());
    lab.disk.config.index_at_stop = true;
    lab.open();
    lab.write(30, 1);
    for n in 0..6 {
        lab.more(1, 1);
        let (group, members) = ("db".parse().unwrap(), vec![lab.volume()]);
        let mark = BarrierMark { id: MarkId::new(100 + n), group, members, bookmark: None };
        let batch = lab.workload.barrier(mark);
        lab.append(&batch);
        let (volume, point) = (lab.volume(), batch.last_lsn().unwrap());
        lab.rule(MetaRecord::Pinned { volume, point, note: String::new() });
    }
    lab.store = None;
    lab.clock.advance(Duration::from_secs(1000));
    let ids = |store: &Store| {
        let catalogue = store.catalogue();
        catalogue.volume(lab.volume()).unwrap().marks().iter().map(|mark| mark.id).collect::<Vec<_>>()
    };
    let of_marks = |f: &&Frame| f.2.stream == lab.workload.stream() && f.2.entries == 1 && f.2.blocks == 0;
    let frames = frames(&lab.disk);
    for frame in frames.iter().rev().filter(of_marks).take(3) {
        let disk = with_rot(&lab, frame, flip);
        let store = disk.open();
        assert!(settle(&store) > 0);
        let (there, (_, refused)) = (ids(&store), exact_all(&store, &lab));
        assert_eq!((there.len(), refused), (6, 0));
        drop(store);
        disk.index.wipe().unwrap();
        let store = disk.open();
        assert_eq!((ids(&store), exact_all(&store, &lab).1), (there, 0));
    }
}

/// A header costs nothing; once its segment is settled there is nothing left to be told.
#[test]
fn what_was_found_of_a_header_is_over_with_its_segment() {
    let lab = indexed(9, tiers());
    let first = frames(&lab.disk)[0];
    let disk = cut(&lab.disk, &mut Random::new(1));
    disk.dir.corrupt(first.0, 20, |bytes| bytes[0] ^= 1);
    let store = disk.open();
    let open = || {
        let found = store.findings(lab.volume()).into_iter();
        found.filter(|f| f.kind == FindingKind::Header && f.over_at.is_none()).count()
    };
    assert_eq!((open(), store.status().damage.len()), (1, 1));
    assert!(settle(&store) > 0);
    assert_eq!((open(), store.status().damage.len()), (0, 0));
    store.acknowledge(lab.volume(), |_| true).unwrap();
    assert_eq!(store.findings(lab.volume()), []);
    assert_eq!(exact_all(&store, &lab).1, 0);
}

/// All of the log, while the index is there. It may be put back; once somebody has read of it, it is settled past, whatever starts and
/// stops meanwhile.
#[test]
fn a_log_that_is_gone_as_a_whole_is_settled_past_once_it_was_read_of() {
    for seed in 0..u64::from(cases(4)) {
        let lab = indexed(seed, tiers());
        let disk = cut(&lab.disk, &mut Random::new(seed));
        for file in disk.dir.list().unwrap() {
            disk.dir.remove(file).unwrap();
        }
        let mut store = disk.open();
        for _ in 0..2 {
            let waits = store.settle();
            assert!(waits.as_ref().is_err_and(|why| why.to_string().contains("--acknowledge")), "{waits:?}");
            store.acknowledge(lab.volume(), |_| false).unwrap();
        }
        all(&lab).for_each(|(workload, _)| store.acknowledge(workload.volume(), |_| true).unwrap());
        let mut passes = 0;
        while store.settle().unwrap().is_some() {
            passes += 1;
            assert!(passes < 100, "it never ends");
            if passes % 2 == seed % 2 {
                drop(store);
                store = disk.open();
            }
        }
        assert!(passes > 1, "{passes}");
        let (_, refused) = exact_all(&store, &lab);
        assert!(refused > 0, "nothing is left that could be served");
    }
}
