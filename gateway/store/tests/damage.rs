//! Several places of the journal are damaged at once, and the index is gone: what is served is what was written, all else is
//! refused, and nothing is lost that is not listed.
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
use std::time::Duration;

use common::append;
use common::lab::{Lab, policy, tiers};
use common::segments::log;
use common::{Disk, cases, try_image};
use gateway_journal::{SegmentHeader, SettledHeader};
use gateway_store::{MemoryIndex, Store, StoreError};
use tap_block::VolumeId;
use tap_disk::{FileNo, SegmentDir};
use testbed_model::{Oracle, Random};

/// Points that are served and those that are refused, each of every `step`th; one that is served wrongly is a failure.
fn exact(store: &Store, oracle: &Oracle, volume: VolumeId, step: usize, what: &str) -> (usize, usize) {
    let catalogue = store.catalogue();
    let Some(known) = catalogue.volume(volume) else { return (0, oracle.lsns().len()) };
    let (mut served, mut refused) = (0, 0);
    for lsn in oracle.lsns().into_iter().rev().step_by(step) {
        let may = known.selectable(lsn).is_ok() && store.check_kept(volume, lsn).is_ok();
        match try_image(store, volume, lsn) {
            Ok(image) if may => {
                assert!(image == oracle.image_at(volume, lsn), "{what}: {lsn} is wrong and served");
                served += 1;
            }
            _ => refused += 1,
        }
    }
    (served, refused)
}

fn flip(disk: &Disk, no: FileNo, at: u64) {
    disk.dir.corrupt(no, at, |bytes| bytes[0] ^= 0x55);
}

fn spoil(disk: &Disk, no: FileNo, at: u64, len: usize) {
    disk.dir.open(no).unwrap().write_at(at, &[IoSlice::new(&vec![0xee; len])]).unwrap();
}

/// Where the last frame of a segment begins.
fn last_frame(disk: &Disk, no: FileNo, end: u32) -> u64 {
    let mut at = u64::from(end - 1) / 4096 * 4096;
    loop {
        let mut head = [0; 7];
        disk.dir.open(no).unwrap().read_at(at, &mut head).unwrap();
        if head == *b"CGFRAME" {
            return at;
        }
        at -= 4096;
    }
}

/// A log of which nothing is settled, damaged and read anew.
fn damaged(seed: u64, damage: impl Fn(&Disk, &[(FileNo, SegmentHeader)])) -> Lab {
    let mut lab = Lab::new(seed, policy(1_000_000, &[], 0));
    lab.write(900, 1);
    lab.store = None;
    damage(&lab.disk, &log(&lab.disk));
    lab.disk.index = MemoryIndex::new();
    lab.open();
    lab
}

/// Some of what is left is served, what is lost is listed; the same after a restart, and behind an index that is read anew.
fn serves_what_is_left(mut lab: Lab) {
    let seen = |lab: &Lab| {
        let lost: Vec<_> = lab.store().status().damage.iter().flat_map(|d| d.lost.clone()).collect();
        (exact(lab.store(), &lab.oracle, lab.volume(), 7, "damaged"), lost)
    };
    let first = seen(&lab);
    let ((served, refused), lost) = &first;
    assert!(*served > 0 && *refused > 0 && !lost.is_empty(), "{first:?}");
    lab.open();
    assert_eq!(seen(&lab), first);
    lab.disk.index = MemoryIndex::new();
    lab.open();
    assert_eq!(seen(&lab), first);
    // What is settled says so as well.
    lab.more(20, 1);
    lab.rule(gateway_journal::MetaRecord::PolicySet { volume: None, policy: Some(tiers()) });
    lab.clock.advance(Duration::from_secs(150));
    // What is lost may have been a hold.
    assert!(matches!(lab.store().settle(), Err(StoreError::OwnLoss { .. })));
    lab.store().acknowledge(lab.volume(), |_| true).unwrap();
    lab.settle();
    for _ in 0..2 {
        exact(lab.store(), &lab.oracle, lab.volume(), 7, "settled");
        lab.disk.index = MemoryIndex::new();
        lab.open();
    }
}

#[test]
fn the_last_frame_of_a_segment_is_lost_with_the_header_that_says_where_it_ended() {
    serves_what_is_left(damaged(1, |disk, log| {
        let end = log[3].1.previous.unwrap().end;
        flip(disk, log[2].0, last_frame(disk, log[2].0, end) + 20);
        flip(disk, log[3].0, 20);
    }));
}

#[test]
fn a_segment_is_lost_with_the_header_that_names_it() {
    serves_what_is_left(damaged(5, |disk, log| {
        spoil(disk, log[2].0, 0, 8192);
        flip(disk, log[3].0, 20);
    }));
}

#[test]
fn the_heads_of_two_neighbours_are_lost() {
    serves_what_is_left(damaged(2, |disk, log| {
        spoil(disk, log[3].0, 0, 8192);
        spoil(disk, log[4].0, 0, 8192);
    }));
}

/// A store that is full all the time, with or without one flipped bit in a frame of the log that the index knows: how many writes it
/// takes, how often it settles, and what is left of the oldest half of the log then.
fn fills(damaged: bool) -> (usize, usize, bool) {
    let mut lab = Lab::new(8, policy(1_000_000, &[(200, 2_000_000)], 0));
    lab.disk.config.settle_reserve = 8;
    lab.disk.config.group_versions = 400;
    lab.disk.config = lab.disk.config.clone().limited(24 * (512 << 10));
    lab.disk.config.index_at_stop = true;
    lab.open();
    lab.write(50, 1);
    fill(&mut lab, 1000);
    lab.store = None;
    if damaged {
        let log = log(&lab.disk);
        let (no, header) = log[log.len() - 1];
        let end = header.previous.map_or(0, |_| 200 << 10);
        flip(&lab.disk, no, last_frame(&lab.disk, no, end) + 20);
    }
    lab.open();
    let (taken, passes) = fill(&mut lab, 600);
    (taken, passes, lab.store().status().settle_failing.is_some())
}

/// So many batches, as far as they are taken; those, and passes.
fn fill(lab: &mut Lab, batches: usize) -> (usize, usize) {
    let (mut passes, mut refused) = (0, 0);
    for taken in 0..batches {
        let batch = lab.workload.batch(8);
        while append(lab.store(), &batch).is_err() {
            refused += 1;
            if refused > 1000 {
                return (taken, passes);
            }
            lab.wait_for_index();
            passes += usize::from(matches!(lab.store().settle(), Ok(Some(_))));
            lab.clock.advance(Duration::from_secs(1));
        }
        lab.clock.advance(Duration::from_secs(1));
    }
    (batches, passes)
}

/// The log is settled past it, and so is all else: history goes on.
#[test]
fn a_damaged_frame_of_the_log_keeps_nothing_from_being_settled() {
    let (all, _, fails) = fills(false);
    assert!(all == 600 && !fails, "{all}");
    let (taken, passes, fails) = fills(true);
    println!("{taken} of {all}, {passes} passes");
    assert!(taken == all && !fails, "{taken} of {all}, {passes} passes");
}

/// Damage that likes headers, ends and borders of frames; where, in words.
fn somewhere(disk: &Disk, random: &mut Random) -> String {
    let used = |no: &FileNo| {
        let mut head = [0; 4096];
        disk.dir.open(*no).unwrap().read_at(0, &mut head).unwrap();
        SegmentHeader::decode(&head).is_ok() || SettledHeader::decode(&head).is_ok()
    };
    let files: Vec<FileNo> = disk.dir.list().unwrap().into_iter().filter(used).collect();
    if files.is_empty() {
        return String::new();
    }
    let no = files[random.below(files.len() as u64) as usize];
    let log = log(disk);
    let next = log.iter().position(|(of, _)| *of == no).and_then(|n| log.get(n + 1));
    let end = next.and_then(|(_, header)| header.previous).map_or(300 << 10, |sealed| sealed.end);
    let at = match random.below(5) {
        0 => random.below(64),
        1 => 4096 + random.below(128),
        2 if next.is_some() => last_frame(disk, no, end) + random.below(100),
        3 => random.below(u64::from(end) / 4096) * 4096 + random.below(100),
        _ => random.below(u64::from(end)),
    };
    let len = [1, 1, 8, 4096, 8192, 60_000][random.below(6) as usize];
    match len {
        1 => flip(disk, no, at),
        _ => spoil(disk, no, at, len.min((512 << 10) - at as usize)),
    }
    format!("{len} bytes from {at} of file {no}")
}

#[test]
fn with_two_damaged_places_anywhere_a_point_is_exact_or_refused() {
    let (mut served, mut refused, mut closed) = (0, 0, 0);
    for seed in 0..u64::from(cases(20)) {
        let mut random = Random::new(seed);
        let keep = if random.one_in(2) { policy(1_000_000, &[], 0) } else { tiers() };
        let mut lab = Lab::new(seed % 7, keep);
        lab.write(100, 5);
        lab.settle();
        lab.more(30, 5);
        lab.store = None;
        let what: Vec<String> = (0..2).map(|_| somewhere(&lab.disk, &mut random)).collect();
        let what = format!("{seed}: {what:?}");
        lab.disk.index = MemoryIndex::new();
        let store = match lab.disk.try_open() {
            Ok(store) => store,
            Err(e) => {
                println!("{what}: {e}");
                closed += 1;
                continue;
            }
        };
        let (s, r) = exact(&store, &lab.oracle, lab.volume(), 9, &what);
        (served, refused) = (served + s, refused + r);
        for (workload, oracle) in &lab.others {
            exact(&store, oracle, workload.volume(), 9, &what);
        }
    }
    println!("served {served}, refused {refused}, not opened {closed}");
    assert!(served > refused / 4 && refused > 0, "served {served}, refused {refused}, not opened {closed}");
}
