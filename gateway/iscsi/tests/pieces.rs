//! Large writes: their data goes to the disk while the rest of it still comes, and all rules of a write hold.
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

use common::*;
use gateway_iscsi::Target;
use proptest::prelude::*;
use tap_block::memory::MemoryDevice;
use tap_block::{BLOCK_SIZE, DeviceError, Op};

/// Worth a write of its own.
const PIECE: usize = 256 << 10;
/// Blocks of the writes here, and their bytes.
const BLOCKS: u16 = 2048;
const LENGTH: usize = 1 << 20;

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n / 7 + n) as u8).collect()
}

/// A session whose operations wait, with a large write begun: its first piece has come, the rest is asked for.
struct Begun {
    device: Arc<MemoryDevice>,
    rig: Rig,
    itt: u32,
    ttt: u32,
    data: Vec<u8>,
}

fn begun() -> Begun {
    begun_with(cdb10(0x2a, 0, 0, BLOCKS))
}

fn begun_with(cdb: [u8; 10]) -> Begun {
    let (device, _, target) = disk();
    begun_on(device, &target, cdb)
}

fn begun_on(device: Arc<MemoryDevice>, target: &Arc<Target>, cdb: [u8; 10]) -> Begun {
    let keys = ["InitialR2T=Yes", "ImmediateData=Yes", "FirstBurstLength=262144", "MaxBurstLength=1048576"];
    let mut rig = Rig::ready_with(target, 1, &keys);
    rig.held = true;
    let data = pattern(LENGTH);
    let header = rig.command_header(&cdb, WRITE | FINAL, LENGTH as u32);
    rig.send_unit(header, &data[..PIECE]);
    let itt = rig.itt;
    let r2t = rig.answer();
    assert_eq!((r2t.opcode(), r2t.word(40), r2t.word(44)), (0x31, PIECE as u32, (LENGTH - PIECE) as u32));
    Begun { device, rig, itt, ttt: r2t.word(20), data }
}

impl Begun {
    /// The unit with the `n`-th piece.
    fn send(&mut self, n: usize) {
        let at = n * PIECE;
        let data = self.data[at..at + PIECE].to_vec();
        self.rig.data_out(self.itt, self.ttt, n as u32 - 1, at as u32, &data, at + PIECE == LENGTH);
    }

    fn silent(&mut self) -> bool {
        self.rig.try_answer().is_none()
    }

    fn fail(&mut self, n: usize, error: DeviceError) {
        let (_, _, ticket) = self.rig.ops.remove(n);
        ticket.complete(Err(error));
        self.rig.pump();
    }
}

fn writes(rig: &Rig) -> Vec<(u64, usize, bool)> {
    let all = rig.ops.iter().map(|(_, op, _)| match op {
        Op::Write { offset, data, fua } => (*offset, data.len(), *fua),
        other => panic!("{other:?}"),
    });
    all.collect()
}

#[test]
fn what_has_come_of_a_large_write_is_written_and_the_status_comes_after_all_of_it() {
    let mut write = begun();
    assert_eq!(writes(&write.rig), [(0, PIECE, false)]);
    write.send(1);
    write.send(2);
    assert_eq!(write.rig.ops.len(), 3, "beside one another");
    // In any order.
    write.rig.release(1);
    write.rig.release(0);
    write.rig.release(0);
    assert!(write.silent(), "not all of it has come");
    write.send(3);
    assert_eq!(writes(&write.rig), [(3 * PIECE as u64, PIECE, false)]);
    assert!(write.silent(), "not all of it is written");
    write.rig.release(0);
    assert_eq!(write.rig.done(write.itt), good(b""));
    assert_eq!(write.device.content()[..LENGTH], write.data);
}

#[test]
fn what_is_to_be_durable_is_written_as_one() {
    let mut write = begun_with(cdb10(0x2a, 0x08, 0, BLOCKS));
    (1..4).for_each(|n| write.send(n));
    assert_eq!(writes(&write.rig), [(0, LENGTH, true)]);
}

#[test]
fn a_piece_that_fails_fails_the_command_once_what_was_asked_for_has_come() {
    let mut write = begun();
    write.send(1);
    write.fail(1, DeviceError::NoSpace("full".to_owned()));
    assert!(write.silent(), "one is at the disk still");
    write.send(2);
    assert_eq!(write.rig.ops.len(), 1, "nothing more is written");
    write.rig.release(0);
    assert!(write.silent(), "the rest was asked for");
    write.send(3);
    let done = write.rig.done(write.itt);
    assert_eq!((done.status, done.sense), (CHECK, Some((7, 0x2707))));
    assert!(write.silent() && write.rig.ops.is_empty());
    assert_eq!(write.rig.command(&[0; 6], 0, 0, b"").status, GOOD, "the session lives");
}

#[test]
fn data_that_makes_no_sense_is_answered_when_nothing_of_the_command_is_at_the_disk() {
    let mut write = begun();
    write.send(2);
    let reject = write.rig.answer();
    assert_eq!((reject.opcode(), reject.header[2]), (0x3f, 4));
    assert!(write.silent(), "one is at the disk still");
    write.send(1);
    assert!(write.silent() && write.rig.ops.len() == 1, "what else comes for it is dropped");
    write.rig.release(0);
    let done = write.rig.done(write.itt);
    assert_eq!((done.status, done.sense), (CHECK, Some((0xb, 0x4b00))));
}

#[test]
fn an_abort_waits_for_every_piece_and_no_other_is_written() {
    let mut write = begun();
    write.send(1);
    let abort = write.rig.manage(1, write.itt);
    write.send(2);
    write.rig.release(1);
    assert!(write.silent() && write.rig.ops.len() == 1, "the disk still has one");
    write.rig.release(0);
    let answer = write.rig.answer();
    assert_eq!((answer.opcode(), answer.word(16), answer.header[2]), (0x22, abort, 0));
    write.send(3);
    assert!(write.silent() && write.rig.ops.is_empty());
    assert!(write.device.content()[2 * PIECE..].iter().all(|&b| b == 0));
}

#[test]
fn the_next_session_of_the_port_waits_for_every_piece() {
    let mut write = begun();
    write.send(1);
    let mut next = Rig::new(&write.rig.target.clone());
    assert_eq!(next.log_in(1, &[]).login_status(), [0, 0]);
    let first = next.start(&[0; 6], 0, 0, b"");
    write.rig.release(0);
    next.pump();
    assert!(next.try_answer().is_none(), "a piece from before is still at the disk");
    write.rig.release(0);
    next.pump();
    assert_eq!(next.done(first).status, CHECK, "told of the login");
    write.send(2);
    assert!(write.rig.ops.is_empty());
}

#[test]
fn nobody_waits_for_data_that_an_initiator_does_not_send() {
    let mut write = begun();
    write.rig.release(0);
    let mut other = Rig::ready(&write.rig.target.clone(), 2);
    let there = write.data[..512].to_vec();
    let both = [&there[..], &[7; 512]].concat();
    let mut cdb = cdb16(0x89, 0, 0, 0);
    cdb[13] = 1;
    assert_eq!(other.writing(&cdb, &both), good(b""));
    other.manage(5, NO_TAG);
    assert_eq!(other.answer().opcode(), 0x22, "a reset is over");
    write.send(1);
    assert!(write.rig.ops.is_empty() && write.silent(), "the command is gone");
    assert_eq!(write.device.content()[..512], [7; 512]);
}

#[test]
fn a_piece_waits_for_who_compares_and_writes_there() {
    let (device, _, target) = disk();
    // Before anything is written, for which a session that begins would wait.
    let mut other = Rig::ready(&target, 2);
    let mut write = begun_on(device, &target, cdb10(0x2a, 0, 0, BLOCKS));
    other.held = true;
    let mut cdb = cdb16(0x89, 0, PIECE as u64 / 512, 0);
    cdb[13] = 1;
    let compare = other.start(&cdb, WRITE, 1024, &[0; 1024]);
    write.send(1);
    write.send(2);
    assert_eq!(
        writes(&write.rig),
        [(0, PIECE, false), (2 * PIECE as u64, PIECE, false)],
        "the second one waits"
    );
    other.release(0);
    write.rig.pump();
    assert_eq!(write.rig.ops.len(), 2);
    other.release(0);
    assert_eq!(other.done(compare), good(b""));
    write.rig.pump();
    assert_eq!(writes(&write.rig)[2], (PIECE as u64, PIECE, false));
    write.send(3);
    write.rig.release_all();
    assert_eq!(write.rig.done(write.itt), good(b""));
    assert_eq!(write.device.content()[..LENGTH], write.data);
}

#[test]
fn of_a_write_that_ends_within_a_block_nothing_is_written() {
    let (device, _, target) = disk();
    let mut rig = Rig::ready_with(&target, 1, &["InitialR2T=Yes", "FirstBurstLength=262144"]);
    let data = pattern(LENGTH - 100);
    let header = rig.command_header(&cdb10(0x2a, 0, 0, BLOCKS), WRITE | FINAL, data.len() as u32);
    rig.send_unit(header, &data[..PIECE]);
    let itt = rig.itt;
    while rig.received.first() == Some(&0x31) {
        let r2t = rig.answer();
        let (from, length) = (r2t.word(40) as usize, r2t.word(44) as usize);
        let part = data[from..from + length].to_vec();
        for (n, piece) in part.chunks(PIECE).enumerate() {
            let at = from + n * PIECE;
            rig.data_out(itt, r2t.word(20), n as u32, at as u32, piece, at + piece.len() == from + length);
        }
    }
    assert_eq!(rig.done(itt).sense, Some((5, 0x0e03)));
    assert!(device.content().iter().all(|&b| b == 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// However it comes: all of it is written once, no block of the disk in two parts, and few pieces are small.
    #[test]
    fn pieces_are_the_write(
        lba in 0..40_u32,
        blocks in 1..2500_u16,
        immediate in any::<bool>(),
        unasked in any::<bool>(),
        burst in prop_oneof![Just(16384_u32), Just(100_000), Just(1 << 20)],
        unit in prop_oneof![Just(8192_usize), Just(5000), Just(65536), Just(PIECE)],
        outstanding in 1..5_u32,
    ) {
        let (device, _, target) = disk();
        let keys = [
            format!("InitialR2T={}", if unasked { "No" } else { "Yes" }),
            format!("ImmediateData={}", if immediate { "Yes" } else { "No" }),
            format!("MaxBurstLength={burst}"),
            format!("FirstBurstLength={}", burst.min(PIECE as u32)),
            format!("MaxOutstandingR2T={outstanding}"),
        ];
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let mut rig = Rig::ready_with(&target, 1, &keys);
        rig.held = true;
        let data = pattern(usize::from(blocks) * 512);
        let first = data.len().min(burst.min(PIECE as u32) as usize);
        let head = if immediate { first.min(unit) } else { 0 };
        let more = unasked && head < first;
        let header = rig.command_header(&cdb10(0x2a, 0, lba, blocks), WRITE | if more { 0 } else { FINAL }, data.len() as u32);
        rig.send_unit(header, &data[..head]);
        let itt = rig.itt;
        if more {
            let parts: Vec<&[u8]> = data[head..first].chunks(unit).collect();
            for (n, part) in parts.iter().enumerate() {
                rig.data_out(itt, NO_TAG, n as u32, (head + n * unit) as u32, part, n + 1 == parts.len());
            }
        }
        while rig.received.first() == Some(&0x31) {
            let r2t = rig.answer();
            let (from, length) = (r2t.word(40) as usize, r2t.word(44) as usize);
            for (n, part) in data[from..from + length].chunks(unit).enumerate() {
                let at = from + n * unit;
                rig.data_out(itt, r2t.word(20), n as u32, at as u32, part, at + part.len() == from + length);
            }
        }
        let (start, end) = (u64::from(lba) * 512, u64::from(lba) * 512 + data.len() as u64);
        let mut at = start;
        for (offset, length, _) in writes(&rig) {
            prop_assert_eq!(offset, at);
            at += length as u64;
            prop_assert!(at == end || at.is_multiple_of(BLOCK_SIZE) && length + BLOCK_SIZE as usize > PIECE);
        }
        prop_assert_eq!(at, end);
        prop_assert!(rig.try_answer().is_none());
        rig.release_all();
        prop_assert_eq!(rig.done(itt), good(b""));
        prop_assert!(device.content()[start as usize..end as usize] == data);
        let content = device.content();
        let rest = [&content[..start as usize], &content[end as usize..]].concat();
        prop_assert!(rest == vec![0; rest.len()]);
    }
}
