//! EXTENDED COPY between units: what is copied, who may, and what ends it.
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
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use common::*;
use gateway_iscsi::{
    Access, Admission, BlockLength, Credentials, LogicalUnit, Neighbours, Target, TargetConfig,
};
use sha2::Digest;
use tap_block::memory::MemoryDevice;
use tap_block::{Answer, Base, BlockDevice, DeviceError, Extent, Op, Part, Shown, Ticket};
use testbed_model::Random;

const MIB: u64 = 1 << 20;
const UNREACHABLE: (u8, u16) = (0xa, 0x0804);
const DEVICE_FAILURE: (u8, u16) = (0xa, 0x0d01);
const INEXACT: (u8, u16) = (0xa, 0x260a);

/// Disks by LUN.
struct Shelf {
    disks: Vec<Arc<MemoryDevice>>,
    target: Arc<Target>,
}

fn content(no: u64) -> Vec<u8> {
    (0..SIZE / 8).flat_map(|at| (at * 0x9e37_79b9 + no).to_le_bytes()).collect()
}

/// Four disks: two of 512, one of 4,096, one that cannot be written.
fn shelf() -> Shelf {
    let mut disks: Vec<_> = (0..3).map(|no| Arc::new(MemoryDevice::with_content(content(no)))).collect();
    disks.push(Arc::new(MemoryDevice::with_content(content(3)).into_read_only()));
    let blocks = [BlockLength::Short, BlockLength::Short, BlockLength::Long, BlockLength::Short];
    let target = serve(&disks.iter().cloned().zip(blocks).collect::<Vec<_>>());
    Shelf { disks, target }
}

/// A session whose units have told what waited.
fn session(target: &Arc<Target>, isid: u8) -> Rig {
    let mut rig = Rig::ready(target, isid);
    for lun in 2..=4 {
        rig.lun = lun;
        assert_eq!(rig.command(&[0; 6], 0, 0, b"").status, CHECK);
    }
    rig.lun = 1;
    rig
}

fn naa(lun: u8) -> [u8; 32] {
    let mut target = [0; 32];
    target[0] = 0xe4;
    target[4..8].copy_from_slice(&[1, 3, 0, 16]);
    target[8..24].copy_from_slice(&named(lun, BlockLength::Short).naa.to_be_bytes());
    target
}

/// Blocks: from and to by their places in the list, flags, how many, where from, where to.
fn blocks(from: u16, to: u16, flags: u8, count: u16, lbas: (u64, u64)) -> Vec<u8> {
    let mut segment = vec![2, flags, 0, 24];
    segment.extend_from_slice(&[from.to_be_bytes(), to.to_be_bytes()].concat());
    segment.extend_from_slice(&[0, 0]);
    segment.extend_from_slice(&count.to_be_bytes());
    segment.extend_from_slice(&[lbas.0.to_be_bytes(), lbas.1.to_be_bytes()].concat());
    segment
}

/// Bytes, with offsets into the blocks.
fn bytes(from: u16, to: u16, count: u32, lbas: (u64, u64), offsets: (u16, u16)) -> Vec<u8> {
    let mut segment = vec![0x0a, 0, 0, 28];
    segment.extend_from_slice(&[from.to_be_bytes(), to.to_be_bytes()].concat());
    segment.extend_from_slice(&count.to_be_bytes());
    segment.extend_from_slice(&[lbas.0.to_be_bytes(), lbas.1.to_be_bytes()].concat());
    segment.extend_from_slice(&[offsets.0.to_be_bytes(), offsets.1.to_be_bytes()].concat());
    segment
}

fn list(targets: &[[u8; 32]], segments: &[Vec<u8>]) -> Vec<u8> {
    let mut list = vec![77, 0];
    list.extend_from_slice(&(targets.len() as u16 * 32).to_be_bytes());
    list.extend_from_slice(&[0; 4]);
    let segments = segments.concat();
    list.extend_from_slice(&(segments.len() as u32).to_be_bytes());
    list.extend_from_slice(&[0; 4]);
    list.extend_from_slice(&targets.concat());
    list.extend_from_slice(&segments);
    list
}

fn begin(rig: &mut Rig, list: &[u8]) -> u32 {
    rig.start(&cdb16(0x83, 0, 0, list.len() as u32), WRITE, list.len() as u32, list)
}

fn copy(rig: &mut Rig, list: &[u8]) -> Done {
    let itt = begin(rig, list);
    rig.done(itt)
}

fn sense(rig: &mut Rig, list: &[u8]) -> (u8, u16) {
    let done = copy(rig, list);
    assert_eq!(done.status, CHECK, "{done:?}");
    done.sense.unwrap()
}

/// Complete or failed, segments, bytes.
fn result(rig: &mut Rig) -> (u8, u16, u32) {
    let data = rig.reading(&cdb16(0x84, 0, 77 << 56, 12), 12).data;
    (data[4], u16::from_be_bytes([data[5], data[6]]), u32::from_be_bytes(data[8..].try_into().unwrap()))
}

#[test]
fn blocks_go_from_unit_to_unit_whichever_is_asked() {
    let Shelf { disks, target } = shelf();
    let mut rig = session(&target, 1);
    // More than a piece; back again elsewhere; and within one.
    let segments =
        [blocks(0, 1, 0, 5001, (3, 100)), blocks(1, 0, 0, 16, (100, 8000)), blocks(1, 1, 0, 100, (100, 150))];
    let list = list(&[naa(1), naa(2)], &segments);
    let (mut one, mut two) = (content(0), content(1));
    for lun in [1, 2, 4] {
        rig.lun = lun;
        assert_eq!(copy(&mut rig, &list), good(b""), "sent to {lun}");
        two[100 * 512..5101 * 512].copy_from_slice(&one[3 * 512..5004 * 512]);
        one[8000 * 512..8016 * 512].copy_from_slice(&two[100 * 512..116 * 512]);
        two.copy_within(100 * 512..200 * 512, 150 * 512);
        assert!(disks[0].content() == one && disks[1].content() == two, "sent to {lun}");
        assert_eq!(result(&mut rig), (1, 3, 5117 * 512));
    }
}

#[test]
fn blocks_of_differing_lengths_are_counted_in_those_of_either_end() {
    let Shelf { disks, target } = shelf();
    let mut rig = session(&target, 1);
    let (one, mut three) = (content(0), content(2));
    let (to_long, back) = ([naa(1), naa(3)], [naa(3), naa(1)]);
    // 16 of the source's; 3 of the destination's (DC); bytes that are no whole blocks of either.
    assert_eq!(copy(&mut rig, &list(&to_long, &[blocks(0, 1, 0, 16, (8, 5))])), good(b""));
    three[5 * 4096..7 * 4096].copy_from_slice(&one[4096..3 * 4096]);
    assert_eq!(copy(&mut rig, &list(&to_long, &[blocks(0, 1, 2, 3, (1, 9))])), good(b""));
    three[9 * 4096..12 * 4096].copy_from_slice(&one[512..512 + 3 * 4096]);
    assert_eq!(copy(&mut rig, &list(&to_long, &[bytes(0, 1, 5000, (2, 20), (7, 4000))])), good(b""));
    let at = 20 * 4096 + 4000;
    three[at..at + 5000].copy_from_slice(&one[1031..6031]);
    assert!(disks[2].content() == three);
    assert_eq!(copy(&mut rig, &list(&back, &[blocks(0, 1, 0, 1, (5, 1000))])), good(b""));
    assert!(disks[0].content()[1000 * 512..1008 * 512] == three[5 * 4096..6 * 4096]);
    let before = disks[2].content();
    assert_eq!(sense(&mut rig, &list(&to_long, &[blocks(0, 1, 0, 9, (0, 0))])), INEXACT);
    assert_eq!(sense(&mut rig, &list(&back, &[blocks(0, 1, 2, 9, (0, 0))])), INEXACT);
    let beyond = list(&to_long, &[blocks(0, 1, 0, 8, (0, 0)), blocks(0, 1, 0, 8, (0, SIZE / 4096))]);
    assert_eq!(sense(&mut rig, &beyond), (0xa, 0));
    assert!(disks[2].content() == before, "nothing is copied of a list that is wrong");
}

#[test]
fn only_whole_names_of_units_lead_anywhere() {
    let Shelf { disks, target } = shelf();
    let mut rig = session(&target, 1);
    let with = |change: &dyn Fn(&mut [u8; 32])| {
        let mut changed = naa(2);
        change(&mut changed);
        list(&[naa(1), changed], &[blocks(0, 1, 0, 8, (0, 0))])
    };
    let mut t10 = [0; 32];
    t10[0] = 0xe4;
    t10[4..8].copy_from_slice(&[2, 1, 0, 16]);
    t10[8..24].copy_from_slice(b"CHRONOGTserial-2");
    assert_eq!(copy(&mut rig, &list(&[naa(1), t10], &[blocks(0, 1, 0, 8, (0, 0))])), good(b""));
    assert!(disks[1].content()[..4096] == content(0)[..4096]);
    assert_eq!(copy(&mut rig, &with(&|t| t[30] = 2)), good(b""), "its blocks are of 512");
    assert_eq!(copy(&mut rig, &with(&|t| t[1] = 0x80)), good(b""), "the LU ID TYPE is not looked at");
    for (change, what) in [
        (&(|t: &mut [u8; 32]| t[23] ^= 0x40) as &dyn Fn(&mut [u8; 32]), UNREACHABLE),
        (&|t| t[7] = 15, UNREACHABLE),
        (&|t| t[4] = 2, UNREACHABLE),
        // A port's; a relative port; a number of LUNs' own.
        (&|t| t[5] = 0x13, UNREACHABLE),
        (&|t| t[5] = 0x14, UNREACHABLE),
        (&|t| t[0] = 0xe2, (5, 0x2607)),
        (&|t| t[0] = 0xe5, (5, 0x2607)),
        // A null device.
        (&|t| t[1] = 0x20, UNREACHABLE),
        (&|t| t[1] = 0x60, UNREACHABLE),
        // A tape; blocks of 4,096.
        (&|t| t[1] = 1, (0xa, 0x0d03)),
        (&|t| t[30] = 0x10, (0xa, 0x0d03)),
    ] {
        assert_eq!(sense(&mut rig, &with(change)), what);
    }
    assert_eq!(sense(&mut rig, &list(&[naa(1)], &[blocks(0, 1, 0, 8, (0, 0))])), UNREACHABLE);
    assert_eq!(sense(&mut rig, &list(&[naa(1); 9], &[])), (5, 0x2606));
    // One that nobody uses need not be there.
    assert_eq!(copy(&mut rig, &list(&[naa(1), naa(99)], &[blocks(0, 0, 0, 1, (0, 0))])), good(b""));
}

#[test]
fn what_cannot_be_written_is_read_but_not_written() {
    let Shelf { disks, target } = shelf();
    let mut rig = session(&target, 1);
    let there = list(&[naa(1), naa(4)], &[blocks(0, 1, 0, 8, (0, 0))]);
    let back = list(&[naa(1), naa(4)], &[blocks(1, 0, 0, 8, (0, 0))]);
    for lun in [1, 4] {
        rig.lun = lun;
        assert_eq!(sense(&mut rig, &there), (7, 0x2700), "sent to {lun}");
        assert_eq!(copy(&mut rig, &back), good(b""), "sent to {lun}");
    }
    assert!(disks[0].content()[..4096] == content(3)[..4096]);
    // The control page: SWP.
    rig.lun = 2;
    let mut page = [0; 16];
    page[4..8].copy_from_slice(&[0x0a, 0x0a, 0x20, 0]);
    page[8] = 0x08;
    let sensed = rig.reading(&[0x1a, 8, 0x0a, 0, 255, 0], 255).data;
    page[4..16].copy_from_slice(&sensed[4..16]);
    page[8] |= 0x08;
    assert_eq!(rig.writing(&[0x15, 0x10, 0, 0, 16, 0], &page).status, GOOD);
    rig.lun = 1;
    assert_eq!(sense(&mut rig, &list(&[naa(1), naa(2)], &[blocks(0, 1, 0, 8, (0, 0))])), (7, 0x2700));
    assert!(disks[1].content() == content(1));
}

/// A key registered, and what is reserved with it, of the unit that commands go to.
fn reserve(rig: &mut Rig, kind: u8) {
    let mut keys = vec![0; 24];
    keys[15] = 7;
    assert_eq!(rig.writing(&[0x5f, 6, 0, 0, 0, 0, 0, 0, 24, 0], &keys).status, GOOD);
    keys.rotate_left(8);
    assert_eq!(rig.writing(&[0x5f, 1, kind, 0, 0, 0, 0, 0, 24, 0], &keys).status, GOOD);
}

#[test]
fn reservations_of_both_ends_are_kept_to() {
    for (lun, kind, to, from) in
        [(2, 1, false, true), (2, 3, false, false), (1, 1, false, false), (2, 0, false, false)]
    {
        let Shelf { disks, target } = shelf();
        let (mut rig, mut other) = (session(&target, 1), session(&target, 2));
        other.lun = lun;
        match kind {
            0 => assert_eq!(other.command(&[0x16, 0, 0, 0, 0, 0], 0, 0, b"").status, GOOD),
            _ => reserve(&mut other, kind),
        }
        let targets = [naa(1), naa(2)];
        let lists = [(blocks(0, 1, 0, 8, (0, 0)), to), (blocks(1, 0, 0, 8, (8, 8)), from)];
        for (segment, may) in lists {
            let done = copy(&mut rig, &list(&targets, &[segment]));
            match (may, lun) {
                (true, _) => assert_eq!(done, good(b"")),
                (false, 1) => assert_eq!(done.status, CONFLICT, "the command's own unit"),
                (false, _) => assert_eq!(done.sense, Some(DEVICE_FAILURE)),
            }
        }
        assert!(disks[1].content() == content(1), "{lun} {kind}");
        assert!(from || disks[0].content() == content(0), "{lun} {kind}");
        // Who has it may.
        other.lun = 1;
        let done = copy(&mut other, &list(&targets, &[blocks(0, 1, 0, 8, (0, 0))]));
        assert_eq!(done, good(b""));
    }
}

/// A copy of three pieces from the first unit to the second, its first read done.
fn half_way(rig: &mut Rig) -> u32 {
    rig.held = true;
    let itt = begin(rig, &list(&[naa(1), naa(2)], &[blocks(0, 1, 0, 6144, (0, 0))]));
    assert_eq!(rig.ops[0].1, Op::Read { extent: Extent::between(0, MIB) });
    rig.release(0);
    assert!(matches!(rig.ops[0].1, Op::Write { offset: 0, .. }));
    itt
}

#[test]
fn a_copy_that_is_aborted_is_over_when_that_is_said() {
    for (function, lun) in [(1, 1), (2, 1), (5, 1), (6, 1)] {
        let Shelf { disks, target } = shelf();
        let mut rig = session(&target, 1);
        let itt = half_way(&mut rig);
        rig.lun = lun;
        let asked = rig.manage(function, itt);
        assert!(rig.try_answer().is_none(), "{function}: the second unit still has a write");
        rig.release(0);
        let answer = rig.answer();
        assert_eq!((answer.word(16), answer.header[2]), (asked, 0));
        assert!(rig.ops.is_empty() && rig.try_answer().is_none(), "{function}");
        assert!(disks[1].content()[MIB as usize..] == content(1)[MIB as usize..]);
    }
}

#[test]
fn a_reset_of_where_it_goes_to_ends_a_copy_and_waits_for_it() {
    for lun in [1, 2] {
        let Shelf { disks, target } = shelf();
        let (mut rig, mut other) = (session(&target, 1), session(&target, 2));
        let itt = half_way(&mut rig);
        other.lun = lun;
        other.manage(5, NO_TAG);
        assert!(other.try_answer().is_none(), "{lun}: its write is still at the disk");
        rig.release(0);
        other.pump();
        assert_eq!(other.answer().header[2], 0);
        assert!(rig.ops.is_empty());
        if lun == 2 {
            assert_eq!(rig.done(itt).sense, Some(DEVICE_FAILURE));
            assert_eq!(result(&mut rig), (2, 0, MIB as u32));
        } else {
            assert!(rig.try_answer().is_none(), "aborted by another one: nobody is told");
        }
        assert!(disks[1].content()[MIB as usize..] == content(1)[MIB as usize..]);
    }
}

#[test]
fn what_comes_between_ends_a_copy() {
    // Reserved by another one; its own session ends.
    let Shelf { disks, target } = shelf();
    let (mut rig, mut other) = (session(&target, 1), session(&target, 2));
    let itt = half_way(&mut rig);
    other.lun = 2;
    reserve(&mut other, 1);
    rig.release(0);
    rig.release_all();
    assert_eq!(rig.done(itt).sense, Some(DEVICE_FAILURE));
    assert!(disks[1].content()[MIB as usize..] == content(1)[MIB as usize..]);
    let Shelf { target, .. } = shelf();
    let mut rig = session(&target, 1);
    half_way(&mut rig);
    let mut again = Rig::new(&target);
    assert_eq!(again.log_in(1, &[]).login_status(), [0, 0]);
    let first = again.start(&[0; 6], 0, 0, b"");
    assert!(again.try_answer().is_none(), "a write of the session before is still at the second unit");
    rig.pump();
    rig.release_all();
    again.pump();
    assert_eq!(again.done(first).status, CHECK);
}

#[test]
fn errors_of_either_disk_are_told_and_zeroes_take_no_room() {
    let Shelf { target, .. } = shelf();
    let mut rig = session(&target, 1);
    rig.held = true;
    let list = list(&[naa(1), naa(2)], &[blocks(0, 1, 0, 24, (0, 80))]);
    let answer = |rig: &mut Rig, answered| {
        let (_, _, ticket) = rig.ops.remove(0);
        ticket.answer(answered);
        rig.pump();
    };
    let itt = begin(&mut rig, &list);
    answer(&mut rig, Err(DeviceError::Io("no".to_owned())));
    assert_eq!(rig.done(itt).sense, Some((3, 0x1100)));
    let itt = begin(&mut rig, &list);
    let data = Bytes::from(vec![5; 4096]);
    let parts = vec![Part::Zeroes(4096), Part::Data(data.clone()), Part::Zeroes(4096)];
    answer(&mut rig, Ok(Answer::Parts(parts)));
    let zero = |from: u64| Op::Zero {
        extent: Extent::between(from, from + 4096),
        fua: false,
        may_trim: true,
        fast: false,
    };
    for op in [zero(40_960), Op::Write { offset: 45_056, data, fua: false }] {
        assert_eq!(rig.ops[0].1, op);
        answer(&mut rig, Ok(Answer::Data(Bytes::new())));
    }
    assert_eq!(rig.ops[0].1, zero(49_152));
    answer(&mut rig, Err(DeviceError::NoSpace("full".to_owned())));
    assert_eq!(rig.done(itt).sense, Some((7, 0x2707)));
    let itt = begin(&mut rig, &list);
    answer(&mut rig, Ok(Answer::Zeroes(512)));
    assert_eq!(rig.done(itt).sense, Some((4, 0x4400)), "less than was asked for");
    assert_eq!(rig.ops.len(), 0);
}

#[test]
fn compare_and_write_is_one_step_for_copies_from_elsewhere() {
    let Shelf { disks, target } = shelf();
    let (mut rig, mut other) = (session(&target, 1), session(&target, 2));
    (other.lun, other.held) = (2, true);
    let pair = [content(1)[..512].to_vec(), vec![9; 512]].concat();
    let mut cdb = cdb16(0x89, 0, 0, 0);
    cdb[13] = 1;
    let compared = other.start(&cdb, WRITE, 1024, &pair);
    other.release(0);
    let itt = begin(&mut rig, &list(&[naa(1), naa(2)], &[blocks(0, 1, 0, 8, (0, 0))]));
    assert!(rig.try_answer().is_none(), "it waits for its turn");
    other.release_all();
    rig.pump();
    assert_eq!((other.done(compared).status, rig.done(itt).status), (GOOD, GOOD));
    assert!(disks[1].content()[..4096] == content(0)[..4096]);
}

/// Sessions that copy to and fro between all, with exclusive writes in between, whatever comes first: each ends.
#[test]
fn copies_in_all_directions_never_wait_for_each_other_for_ever() {
    for seed in 0..6 {
        let Shelf { target, .. } = shelf();
        let mut random = Random::new(seed);
        let mut rigs: Vec<Rig> = (1..=3).map(|isid| session(&target, isid)).collect();
        let mut answers = 0;
        rigs.iter_mut().for_each(|rig| rig.held = true);
        for _ in 0..60 {
            let rig = &mut rigs[random.below(3) as usize];
            rig.lun = 1 + random.below(2) as u8;
            if random.below(2) == 0 {
                let mut cdb = cdb16(0x89, 0, random.below(8), 0);
                cdb[13] = 1;
                rig.start(&cdb, WRITE, 1024, &[0; 1024]);
            } else {
                let both = [blocks(0, 1, 0, 16, (0, 0)), blocks(1, 0, 0, 16, (0, 0))];
                begin(rig, &list(&[naa(1), naa(2)], &both));
            }
            answers += 1;
            let rig = &mut rigs[random.below(3) as usize];
            if !rig.ops.is_empty() {
                rig.release(random.below(rig.ops.len() as u64) as usize);
            }
        }
        let mut told = 0;
        for _ in 0..60 {
            for rig in &mut rigs {
                rig.pump();
                rig.release_all();
                while rig.try_answer().is_some() {
                    told += 1;
                }
            }
        }
        assert_eq!(told, answers, "seed {seed}");
    }
}

/// Against plain copies, whoever is asked, whatever the lengths of blocks.
#[test]
fn any_copies_are_what_was_copied() {
    for seed in 0..2 {
        let Shelf { disks, target } = shelf();
        let mut random = Random::new(seed);
        let mut rig = session(&target, 1);
        let mut model: Vec<Vec<u8>> = (0..4).map(content).collect();
        for _ in 0..30 {
            rig.lun = 1 + random.below(4) as u8;
            let mut segments = Vec::new();
            for _ in 0..=random.below(3) {
                let (from, to) = (random.below(4) as usize, random.below(3) as usize);
                let length = 1 + random.below(3 * MIB);
                let mut place = |of: usize| {
                    let block = if of == 2 { 4096 } else { 512 };
                    let at = random.below(SIZE - length);
                    (at, at / block, (at % block) as u16)
                };
                let ((a, lba, offset), (b, to_lba, to_offset)) = (place(from), place(to));
                let (lbas, offsets) = ((lba, to_lba), (offset, to_offset));
                segments.push(bytes(from as u16, to as u16, length as u32, lbas, offsets));
                let data = model[from][a as usize..(a + length) as usize].to_vec();
                model[to][b as usize..(b + length) as usize].copy_from_slice(&data);
            }
            let targets = [naa(1), naa(2), naa(3), naa(4)];
            assert_eq!(copy(&mut rig, &list(&targets, &segments)), good(b""), "seed {seed}");
        }
        for (disk, model) in disks.iter().zip(&model) {
            assert!(disk.content() == *model, "seed {seed}");
        }
    }
}

/// Who logs in, from where, and what with.
#[derive(Clone, Copy)]
struct Visit {
    name: &'static str,
    host: Option<&'static str>,
    secret: Option<&'static str>,
    isid: u8,
}

const VISIT: Visit = Visit { name: US, host: Some("10.0.0.7"), secret: None, isid: 1 };

fn chap(secret: &str) -> Access {
    let initiator = Credentials { name: "me".to_owned(), secret: secret.into() };
    Access::Chap { initiator, target: None }
}

/// A session ready for commands.
fn visit(target: &Arc<Target>, visit: Visit) -> Rig {
    let mut rig = Rig::new(target);
    if let Some(host) = visit.host {
        rig.connection.comes_from(host);
    }
    let (name, wanted) = (format!("InitiatorName={}", visit.name), format!("TargetName={NAME}"));
    let method = if visit.secret.is_some() { "CHAP" } else { "None" };
    rig.login_request(visit.isid, 0x81, &[&name, &wanted, &format!("AuthMethod={method}")]);
    rig.answer();
    if let Some(secret) = visit.secret {
        rig.login_request(visit.isid, 0x00, &["CHAP_A=7"]);
        rig.answer();
        let proof = sha2::Sha256::digest([&[7], secret.as_bytes(), &[9; 32]].concat());
        let proof = proof.iter().fold("CHAP_R=0x".to_owned(), |text, byte| format!("{text}{byte:02x}"));
        rig.login_request(visit.isid, 0x81, &["CHAP_N=me", &proof]);
        rig.answer();
    }
    rig.login_request(visit.isid, 0x87, &["InitialR2T=No", "ImmediateData=Yes"]);
    assert_eq!(rig.answer().login_status(), [0, 0]);
    assert_eq!(rig.command(&[0; 6], 0, 0, b"").status, CHECK);
    rig
}

/// Two targets with a disk each, which are neighbours.
struct Street {
    disks: [Arc<MemoryDevice>; 2],
    targets: [Arc<Target>; 2],
}

fn street(admissions: [Admission; 2]) -> Street {
    let neighbours = Arc::new(Neighbours::default());
    let disks = [0, 1].map(|no| Arc::new(MemoryDevice::with_content(content(no))));
    let mut no = 0;
    let targets = admissions.map(|admission| {
        let device: Arc<dyn BlockDevice> = disks[no].clone();
        no += 1;
        let unit = LogicalUnit::new(named(no as u8, BlockLength::Short), device, &[]).unwrap();
        let (name, units) = (NAME.to_owned(), vec![(1, unit)]);
        Target::among(&neighbours, TargetConfig { name, alias: String::new(), admission, units })
    });
    Street { disks, targets }
}

fn there_and_back() -> Vec<u8> {
    list(&[naa(1), naa(2)], &[blocks(0, 1, 0, 8, (0, 0)), blocks(1, 0, 0, 8, (8, 8))])
}

#[test]
fn copies_go_to_other_targets_where_the_initiator_could_log_in_itself() {
    let open = Admission::default;
    let listed = |name: &str| Admission { initiators: Some(vec![name.to_owned()]), ..open() };
    let guarded = |secret: &str| Admission { access: chap(secret), initiators: None };
    let secret = Visit { secret: Some("a secret of ours"), ..VISIT };
    let elsewhere = Visit { host: Some("10.0.0.8"), ..VISIT };
    let nowhere = Visit { host: None, ..VISIT };
    let other = Visit { name: "iqn.2026-01.example:other", isid: 2, ..VISIT };
    let path = Visit { isid: 2, ..VISIT };
    for (what, here, (there, second), may) in [
        ("both are open", open(), (open(), Some(VISIT)), true),
        ("by another path", open(), (listed(US), Some(path)), true),
        ("no session there", open(), (open(), None), false),
        ("somebody else's", open(), (open(), Some(other)), false),
        ("from another machine", open(), (open(), Some(elsewhere)), false),
        ("from nobody knows where", open(), (open(), Some(nowhere)), false),
        ("a name that is merely claimed here", open(), (guarded("a secret of ours"), Some(secret)), false),
    ] {
        let Street { disks, targets } = street([here, there]);
        let mut rig = visit(&targets[0], VISIT);
        let _second = second.map(|second| visit(&targets[1], second));
        let done = copy(&mut rig, &there_and_back());
        assert_eq!(done.sense, (!may).then_some(UNREACHABLE), "{what}");
        assert_eq!(disks[1].content()[..4096] == content(0)[..4096], may, "{what}");
        assert_eq!(disks[0].content()[4096..8192] == content(1)[4096..8192], may, "{what}");
    }
    let nobody = street([open(), open()]);
    let (mut rig, _second) = (visit(&nobody.targets[0], nowhere), visit(&nobody.targets[1], nowhere));
    assert_eq!(sense(&mut rig, &there_and_back()), UNREACHABLE, "no host is not the same host");
    // The same secret in both, or each its own.
    for (theirs, may) in [("a secret of ours", true), ("another secret", false)] {
        let Street { targets, .. } = street([guarded("a secret of ours"), guarded(theirs)]);
        let mut rig = visit(&targets[0], secret);
        let _second = visit(&targets[1], Visit { secret: Some(theirs), ..VISIT });
        assert_eq!(copy(&mut rig, &there_and_back()).sense, (!may).then_some(UNREACHABLE), "{theirs}");
    }
}

#[test]
fn a_copy_to_another_target_ends_with_the_right_to_go_there() {
    for change in 0..3 {
        let Street { disks, targets } = street([Admission::default(), Admission::default()]);
        let mut rig = visit(&targets[0], VISIT);
        let second = visit(&targets[1], VISIT);
        let itt = half_way(&mut rig);
        match change {
            // It logs out; an operator ends its session; it is taken off the list.
            0 => drop(second),
            1 => targets[1].kick(),
            _ => targets[1].admit(Admission { initiators: Some(Vec::new()), ..Admission::default() }),
        }
        rig.release(0);
        assert_eq!(rig.done(itt).sense, Some((0xa, 0x0d02)), "{change}");
        assert!(disks[1].content()[MIB as usize..] == content(1)[MIB as usize..], "{change}");
        assert_eq!(sense(&mut rig, &there_and_back()), UNREACHABLE, "{change}");
    }
}

/// A target that nobody has is made anew for whoever comes next; who would not wait for that write.
#[test]
fn a_target_lasts_as_long_as_a_copy_to_it() {
    let Street { targets: [here, there], .. } = street([Admission::default(), Admission::default()]);
    let mut rig = visit(&here, VISIT);
    let second = visit(&there, VISIT);
    half_way(&mut rig);
    let weak = Arc::downgrade(&there);
    drop((second, there));
    let (_, _, ticket) = rig.ops.remove(0);
    drop(rig);
    assert!(weak.upgrade().is_some(), "its disk still has a write");
    ticket.complete(Ok(Bytes::new()));
    assert!(weak.upgrade().is_none());
}

/// A disk above a base: of each block of 4 KiB, whether it shows that one's or has its own. Counts what it was made to show.
struct Layered {
    own: MemoryDevice,
    base: Base,
    below: Vec<u8>,
    written: Mutex<BTreeSet<u64>>,
    shown: Mutex<Vec<(Extent, u64)>>,
}

impl Layered {
    fn over(point: u64) -> Arc<Self> {
        let (below, base) = (content(point), Base { keeper: 1, of: 2, point });
        let own = MemoryDevice::with_content(below.clone());
        Arc::new(Self { own, base, below, written: Mutex::default(), shown: Mutex::default() })
    }

    fn note(&self, op: &Op) {
        if let Some(extent) = op.extent().filter(|extent| op.is_write() && !extent.is_empty()) {
            self.written.lock().unwrap().extend(extent.offset() / 4096..extent.end().div_ceil(4096));
        }
    }
}

impl BlockDevice for Layered {
    fn geometry(&self) -> tap_block::Geometry {
        self.own.geometry()
    }

    fn submit(&self, op: Op, ticket: Ticket) {
        self.note(&op);
        self.own.submit(op, ticket);
    }

    fn shown(&self, extent: Extent) -> Option<Shown> {
        let written = self.written.lock().unwrap();
        let is_own = |at: u64| written.contains(&(at / 4096));
        let end = (extent.offset() / 4096 + 1..).map(|block| block * 4096);
        let mut end = end.take_while(|&at| at < extent.end());
        let end = end.find(|&at| is_own(at) != is_own(extent.offset())).unwrap_or(extent.end());
        let from = (!is_own(extent.offset())).then_some((self.base, extent.offset()));
        Some(Shown { length: end - extent.offset(), from })
    }

    fn show(&self, base: Base, from: Extent, to: u64, ticket: Ticket) {
        if base != self.base || [from.offset(), from.end(), to].iter().any(|at| at % 4096 != 0) {
            return ticket.answer(Err(DeviceError::Unsupported("no".to_owned())));
        }
        self.shown.lock().unwrap().push((from, to));
        let data = Bytes::copy_from_slice(&self.below[from.offset() as usize..from.end() as usize]);
        self.submit(Op::Write { offset: to, data, fua: false }, ticket);
    }
}

fn layered(disks: &[Arc<Layered>]) -> Rig {
    let units = disks.iter().zip(1_u8..).map(|(disk, lun)| {
        let device: Arc<dyn BlockDevice> = disk.clone();
        (u16::from(lun), LogicalUnit::new(named(lun, BlockLength::Short), device, &[]).unwrap())
    });
    let (name, units) = (NAME.to_owned(), units.collect());
    let admission = Admission::default();
    Rig::ready(&Target::new(TargetConfig { name, alias: String::new(), admission, units }), 1)
}

#[test]
fn what_two_disks_stand_above_is_shown_and_not_moved() {
    let disks = [Layered::over(5), Layered::over(5)];
    let mut rig = layered(&disks);
    // Of the source one block is its own; the copy begins and ends within blocks, which lie alike.
    rig.writing(&cdb10(0x2a, 0, 80, 8), &[9; 4096]);
    let mut one = content(5);
    one[80 * 512..88 * 512].fill(9);
    let all = list(&[naa(1), naa(2)], &[blocks(0, 1, 0, 204, (5, 4005)), blocks(0, 1, 0, 16, (1, 1002))]);
    assert_eq!(copy(&mut rig, &all), good(b""));
    assert_eq!(result(&mut rig), (1, 2, 220 * 512));
    let mut two = content(5);
    two[4005 * 512..4209 * 512].copy_from_slice(&one[5 * 512..209 * 512]);
    two[1002 * 512..1018 * 512].copy_from_slice(&one[512..17 * 512]);
    assert!(disks[1].own.content() == two);
    let extent = |start: u64, end: u64| Extent::between(start * 512, end * 512);
    let shown = [(extent(8, 80), 4008 * 512), (extent(88, 208), 4088 * 512)];
    assert_eq!(*disks[1].shown.lock().unwrap(), shown, "whole blocks that are the base's");
}

#[test]
fn what_stands_above_another_base_is_moved() {
    let disks = [Layered::over(5), Layered::over(6)];
    let mut rig = layered(&disks);
    let all = list(&[naa(1), naa(2)], &[blocks(0, 1, 0, 6000, (0, 8))]);
    assert_eq!(copy(&mut rig, &all), good(b""));
    assert!(disks[1].own.content()[4096..][..6000 * 512] == content(5)[..6000 * 512]);
    assert_eq!(disks[1].shown.lock().unwrap().len(), 0);
}

#[test]
fn any_copies_between_layered_disks_are_what_was_copied() {
    for seed in 0..3 {
        let disks = [Layered::over(5), Layered::over(5), Layered::over(6)];
        let mut rig = layered(&disks);
        let mut random = Random::new(seed);
        let mut models: Vec<Vec<u8>> = [5, 5, 6].map(content).to_vec();
        for _ in 0..60 {
            let (from, to) = (random.below(3) as usize, random.below(3) as usize);
            let length = 512 + random.below(40) * 512;
            let [a, b] = [(), ()].map(|()| random.below((SIZE - length) / 512));
            let b = if random.below(4) > 0 { b / 8 * 8 + a % 8 } else { b };
            let b = b.min((SIZE - length) / 512);
            let segment = blocks(from as u16, to as u16, 0, (length / 512) as u16, (a, b));
            assert_eq!(copy(&mut rig, &list(&[naa(1), naa(2), naa(3)], &[segment])), good(b""));
            let data = models[from][a as usize * 512..][..length as usize].to_vec();
            models[to][b as usize * 512..][..length as usize].copy_from_slice(&data);
        }
        for (disk, model) in disks.iter().zip(&models) {
            assert!(disk.own.content() == *model, "seed {seed}");
        }
    }
}
