//! The full feature phase: order, data in and out, windows, residuals, task management, digests.
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
use std::time::Duration;

use common::*;
use gateway_iscsi::{Access, CloseReason, Limits, Wants};
use proptest::prelude::*;
use tap_block::Monotonic;
use tap_block::memory::MemoryDevice;

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n / 7 + n) as u8).collect()
}

/// Answers every R2T as it comes; how many were outstanding at most.
fn feed(rig: &mut Rig, itt: u32, data: &[u8], piece: usize) -> usize {
    let (mut open, mut most) = (std::collections::VecDeque::new(), 0);
    loop {
        while rig.received.first() == Some(&0x31) {
            let r2t = rig.answer();
            assert_eq!(r2t.word(16), itt);
            open.push_back((r2t.word(20), r2t.word(40) as usize, r2t.word(44) as usize));
        }
        most = most.max(open.len());
        let Some((ttt, offset, length)) = open.pop_front() else { return most };
        let parts: Vec<&[u8]> = data[offset..offset + length].chunks(piece).collect();
        for (sn, part) in parts.iter().enumerate() {
            let at = offset + sn * piece;
            rig.data_out(itt, ttt, sn as u32, at as u32, part, sn + 1 == parts.len());
        }
    }
}

#[test]
fn data_comes_in_every_way_that_can_be_agreed_on() {
    let data = pattern(300 * 512);
    for keys in [
        ["InitialR2T=Yes", "ImmediateData=Yes", "MaxOutstandingR2T=1"],
        ["InitialR2T=Yes", "ImmediateData=No", "MaxOutstandingR2T=4"],
        ["InitialR2T=No", "ImmediateData=Yes", "MaxOutstandingR2T=8"],
        ["InitialR2T=No", "ImmediateData=No", "MaxOutstandingR2T=2"],
    ] {
        for digests in ["None", "CRC32C"] {
            let (device, _, target) = disk();
            let (header, body) = (format!("HeaderDigest={digests}"), format!("DataDigest={digests}"));
            let all =
                [&keys[..], &[&header, &body, "MaxBurstLength=16384", "FirstBurstLength=8192"]].concat();
            let mut rig = Rig::ready_with(&target, 1, &all);
            let (asks, at_once) = (keys[0].ends_with("Yes"), keys[1].ends_with("Yes"));
            let cdb = cdb10(0x2a, 0, 5, 300);
            let head = if at_once { 4096 } else { 0 };
            let flags = WRITE | if asks { FINAL } else { 0 };
            let command = rig.command_header(&cdb, flags, data.len() as u32);
            rig.send_unit(command, &data[..head]);
            let itt = rig.itt;
            if !asks {
                rig.data_out(itt, NO_TAG, 0, head as u32, &data[head..6144], false);
                rig.data_out(itt, NO_TAG, 1, 6144, &data[6144..8192], true);
            }
            let most = feed(&mut rig, itt, &data, 3000);
            let agreed: usize = keys[2].rsplit('=').next().unwrap().parse().unwrap();
            assert_eq!(most, agreed, "{keys:?}");
            assert_eq!(rig.done(itt), good(b""));
            assert_eq!(device.content()[5 * 512..305 * 512], data);
            assert_eq!(rig.reading(&cdb10(0x28, 0, 5, 300), data.len() as u32), good(&data));
        }
    }
}

#[test]
fn data_out_of_order_is_rejected_and_the_command_fails() {
    for wrong in 0..5 {
        let (device, _, target) = disk();
        let mut rig = Rig::ready_with(&target, 1, &["InitialR2T=Yes", "ImmediateData=No"]);
        let itt = rig.start(&cdb10(0x2a, 0, 0, 4), WRITE, 2048, b"");
        let ttt = rig.answer().word(20);
        let data = pattern(1024);
        match wrong {
            0 => rig.data_out(itt, ttt, 1, 0, &data, false),
            1 => rig.data_out(itt, ttt, 0, 512, &data, false),
            2 => rig.data_out(itt, ttt + 1, 0, 0, &data, false),
            3 => rig.data_out(itt, ttt, 0, 0, &pattern(2052), true),
            _ => rig.data_out(itt, ttt, 0, 0, &data, true),
        }
        let reject = rig.answer();
        assert_eq!((reject.opcode(), reject.header[2]), (0x3f, 4), "case {wrong}");
        let done = rig.done(itt);
        assert_eq!((done.status, done.sense), (CHECK, Some((0xb, 0x4b00))));
        assert!(device.content().iter().all(|&b| b == 0));
        // What else comes for it is dropped; the session lives.
        rig.data_out(itt, ttt, 1, 1024, &data, true);
        assert_eq!(rig.command(&[0; 6], 0, 0, b"").status, GOOD);
    }
}

#[test]
fn data_that_was_not_agreed_to_is_rejected() {
    let (_, _, target) = disk();
    let mut rig = Rig::ready_with(&target, 1, &["InitialR2T=Yes", "ImmediateData=No"]);
    for (flags, expected, data) in
        [(WRITE | FINAL, 512, &[1; 512][..]), (WRITE, 512, b""), (READ | FINAL, 512, &[1; 512])]
    {
        let header = rig.command_header(&cdb10(0x2a, 0, 0, 1), flags, expected);
        rig.send_unit(header, data);
        let reject = rig.answer();
        assert_eq!((reject.opcode(), reject.header[2]), (0x3f, 4));
        assert_eq!(reject.data[..], header_with_length(header, data.len()), "it shows what was wrong");
    }
}

fn header_with_length(mut header: [u8; 48], length: usize) -> [u8; 48] {
    header[5..8].copy_from_slice(&(length as u32).to_be_bytes()[1..]);
    header
}

#[test]
fn residuals_say_what_was_not_moved() {
    let (device, _, target) = disk();
    let mut rig = Rig::ready(&target, 1);
    let under = |done: Done| (done.status, done.data.len(), done.residual);
    assert_eq!(under(rig.reading(&cdb10(0x28, 0, 0, 2), 1024)), (GOOD, 1024, (0, 0)));
    assert_eq!(under(rig.reading(&cdb10(0x28, 0, 0, 2), 4096)), (GOOD, 1024, (2, 3072)));
    assert_eq!(under(rig.reading(&cdb10(0x28, 0, 0, 2), 512)), (GOOD, 512, (4, 512)));
    assert_eq!(under(rig.command(&cdb10(0x28, 0, 0, 2), 0, 0, b"")), (GOOD, 0, (4, 1024)));
    assert_eq!(under(rig.command(&cdb10(0x2a, 0, 0, 1), WRITE, 1024, &[7; 1024])), (GOOD, 0, (2, 512)));
    assert_eq!(under(rig.command(&cdb10(0x2a, 0, 8, 2), WRITE, 512, &[8; 512])), (GOOD, 0, (4, 512)));
    let part = rig.command(&cdb10(0x2a, 0, 16, 2), WRITE, 700, &[9; 700]);
    assert_eq!((part.sense, part.residual), (Some((5, 0x0e03)), (4, 324)), "no part of a block");
    let content = device.content();
    assert!(content[16 * 512..18 * 512].iter().all(|&b| b == 0), "nothing is written then");
    assert!(content[..512].iter().all(|&b| b == 7) && content[512..1024].iter().all(|&b| b == 0));
    assert!(content[4096..4608].iter().all(|&b| b == 8) && content[4608..5120].iter().all(|&b| b == 0));
}

#[test]
fn commands_outside_the_window_are_ignored_and_early_ones_wait() {
    let (_, _, target) = disk();
    let mut rig = Rig::ready(&target, 1);
    let next = rig.cmd_sn;
    for wrong in [next.wrapping_sub(1), next + 128, next.wrapping_add(1 << 31)] {
        rig.cmd_sn = wrong;
        rig.start(&[0; 6], 0, 0, b"");
        assert!(rig.try_answer().is_none(), "{wrong}");
    }
    rig.cmd_sn = next + 1;
    let later = rig.start(&[0; 6], 0, 0, b"");
    assert!(rig.try_answer().is_none());
    rig.cmd_sn = next;
    let first = rig.start(&[0; 6], 0, 0, b"");
    assert_eq!((rig.done(first).status, rig.done(later).status), (GOOD, GOOD));
}

#[test]
fn the_window_closes_with_what_is_under_way_and_opens_again() {
    let (_, _, target) = disk();
    let limits = Limits { commands: 4, ..Limits::default() };
    let mut rig = Rig::with(&target, limits, Access::Open);
    rig.log_in(1, &[]);
    rig.command(&[0; 6], 0, 0, b"");
    rig.held = true;
    let itts: Vec<u32> = (0..4).map(|_| rig.start(&cdb10(0x28, 0, 0, 1), READ, 512, b"")).collect();
    rig.start(&cdb10(0x28, 0, 0, 1), READ, 512, b"");
    assert_eq!(rig.ops.len(), 4, "the fifth is beyond the window");
    rig.cmd_sn -= 1;
    rig.release(0);
    let answer = rig.answer();
    assert_eq!((answer.word(28), answer.word(32)), (rig.cmd_sn, rig.cmd_sn), "room for one");
    let fifth = rig.start(&cdb10(0x28, 0, 0, 1), READ, 512, b"");
    rig.release_all();
    for itt in itts.into_iter().skip(1).chain([fifth]) {
        assert_eq!(rig.done(itt).status, GOOD);
    }
}

#[test]
fn memory_for_data_is_bounded_and_every_command_gets_its_turn() {
    let (device, _, target) = disk();
    let limits = Limits { in_flight: 64 << 10, ..Limits::default() };
    let mut rig = Rig::with(&target, limits, Access::Open);
    rig.log_in(1, &["InitialR2T=Yes", "ImmediateData=No"]);
    rig.command(&[0; 6], 0, 0, b"");
    rig.held = true;
    let reads: Vec<u32> = (0..8).map(|_| rig.start(&cdb10(0x28, 0, 0, 64), READ, 32768, b"")).collect();
    assert_eq!(rig.ops.len(), 2, "two of 32 KiB fit");
    let write = rig.start(&cdb10(0x2a, 0, 0, 512), WRITE, 512 * 512, b"");
    assert!(rig.try_answer().is_none(), "no data is asked for while there is no room for it");
    for itt in reads {
        rig.release(0);
        assert_eq!(rig.done(itt).status, GOOD);
    }
    let data = pattern(512 * 512);
    feed(&mut rig, write, &data, 8192);
    rig.release_all();
    assert_eq!(rig.done(write).status, GOOD, "one that is larger than the limit is served alone");
    assert_eq!(device.content()[..data.len()], data);
}

#[test]
fn a_command_waits_for_memory_and_says_how_much() {
    let (_, _, target) = disk();
    let mut rig = Rig::ready(&target, 1);
    rig.held = true;
    rig.connection.allow(64 << 10);
    let reads = [0; 3].map(|_| rig.start(&cdb10(0x28, 0, 0, 64), READ, 32768, b""));
    assert_eq!((rig.ops.len(), rig.connection.lacks()), (2, Some(96 << 10)));
    let write = rig.start(&cdb10(0x2a, 0, 0, 1), WRITE, 512, &[5; 512]);
    assert_eq!(rig.ops.len(), 3, "one whose data is there needs none");
    assert_eq!(rig.connection.held(), 64 << 10);
    assert_eq!(rig.connection.under_way().len(), 3);
    rig.release(2);
    assert_eq!(rig.done(write).status, GOOD);
    // An answer holds memory until its last byte is taken.
    rig.release(0);
    assert_eq!((rig.ops.len(), rig.connection.lacks()), (2, None), "what was answered is taken here");
    assert_eq!(rig.done(reads[0]).status, GOOD);
    rig.connection.allow(u64::MAX);
    rig.release_all();
    assert!(reads[1..].iter().all(|itt| rig.done(*itt).status == GOOD));
    assert_eq!((rig.connection.held(), rig.connection.awaits_data()), (0, false));
    rig.start(&cdb10(0x2a, 0, 0, 2048), WRITE, 1 << 20, b"");
    assert!(rig.connection.awaits_data());
    assert_eq!(rig.connection.held(), 1 << 20);
}

#[test]
fn an_aborted_write_is_over_when_that_is_said() {
    let (device, _, target) = disk();
    let mut rig = Rig::ready(&target, 1);
    rig.held = true;
    let write = rig.start(&cdb10(0x2a, 0, 0, 1), WRITE, 512, &[5; 512]);
    let abort = rig.manage(1, write);
    assert!(rig.try_answer().is_none(), "the disk still has it");
    rig.release(0);
    let answer = rig.answer();
    assert_eq!((answer.opcode(), answer.word(16), answer.header[2]), (0x22, abort, 0));
    assert!(rig.try_answer().is_none(), "the write is not answered any more");
    assert_eq!(device.content()[0], 5);
    let gone = rig.manage(1, write);
    let answer = rig.answer();
    assert_eq!((answer.word(16), answer.header[2]), (gone, 1), "no such task");
}

#[test]
fn task_management_is_answered_in_bounded_time_whatever_the_disk_does() {
    let (_, _, target) = disk();
    let mut rig = Rig::ready(&target, 1);
    rig.held = true;
    rig.start(&cdb10(0x2a, 0, 0, 1), WRITE, 512, &[5; 512]);
    rig.manage(5, NO_TAG);
    assert!(rig.try_answer().is_none());
    let due = rig.connection.next_deadline().unwrap();
    assert_eq!(due, Monotonic::default().plus(Limits::default().management));
    rig.connection.handle_time(due);
    rig.pump();
    assert_eq!((rig.answer().opcode(), rig.ops.len()), (0x22, 1));
}

#[test]
fn a_reset_by_one_ends_the_tasks_of_all_and_they_are_told() {
    let (_, _, target) = disk();
    let mut one = Rig::ready(&target, 1);
    let mut two = Rig::ready(&target, 2);
    two.held = true;
    let lost = two.start(&cdb10(0x2a, 0, 0, 1), WRITE, 512, &[5; 512]);
    one.manage(5, NO_TAG);
    assert!(one.try_answer().is_none(), "the other's write is still at the disk");
    two.release(0);
    one.pump();
    assert_eq!((one.answer().opcode(), two.try_answer().is_none()), (0x22, true));
    two.held = false;
    for rig in [&mut one, &mut two] {
        assert_eq!(rig.command(&[0; 6], 0, 0, b"").sense, Some((6, 0x2903)));
        assert_eq!(rig.command(&[0; 6], 0, 0, b"").status, GOOD);
    }
    assert_ne!(two.itt, lost);
    for (function, response) in [(2, 0), (4, 0), (3, 5), (8, 4), (6, 0)] {
        one.manage(function, NO_TAG);
        assert_eq!(one.answer().header[2], response, "function {function}");
    }
    one.manage(7, NO_TAG);
    assert_eq!(one.answer().header[2], 0);
    one.pump();
    two.pump();
    assert_eq!((one.closed, two.closed), (Some(CloseReason::Kicked), Some(CloseReason::Kicked)));
}

#[test]
fn a_session_that_was_replaced_writes_nothing_any_more() {
    let (device, _, target) = disk();
    let mut old = Rig::ready_with(&target, 1, &["InitialR2T=Yes", "ImmediateData=No"]);
    // One waits for its data, one is at the disk.
    let waiting = old.start(&cdb10(0x2a, 0, 0, 1), WRITE, 512, b"");
    let ttt = old.answer().word(20);
    let mut busy = Rig::ready(&target, 2);
    busy.held = true;
    busy.start(&cdb10(0x2a, 0, 8, 1), WRITE, 512, &[8; 512]);
    let mut new = Rig::new(&target);
    assert_eq!(new.log_in(1, &[]).login_status(), [0, 0]);
    let first = new.start(&[0; 6], 0, 0, b"");
    assert!(new.try_answer().is_none(), "a write from before is still at the disk");
    // The old session's thread has not noticed yet: what it was sent comes to nothing.
    let noticed = std::mem::take(&mut *old.queue.0.lock().unwrap());
    old.data_out(waiting, ttt, 0, 0, &[6; 512], true);
    old.start(&cdb10(0x2a, 0, 16, 1), WRITE, 0, b"");
    old.queue.0.lock().unwrap().extend(noticed);
    old.pump();
    assert_eq!(old.closed, Some(CloseReason::Kicked));
    busy.release_all();
    new.pump();
    assert_eq!(new.done(first).status, CHECK, "told of the login");
    let content = device.content();
    assert_eq!([content[0], content[8 * 512], content[16 * 512]], [0, 8, 0]);
}

/// Drivers forget a target that nobody has, and make it anew for whoever comes next: who would not wait for that write.
#[test]
fn a_target_lasts_as_long_as_a_write_of_a_session_that_is_gone() {
    let (_, unit, target) = disk();
    let mut rig = Rig::ready(&target, 1);
    rig.held = true;
    rig.start(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], WRITE, 512, &[1; 512]);
    let ops = std::mem::take(&mut rig.ops);
    assert_eq!(ops.len(), 1);
    let known = Arc::downgrade(&target);
    drop((rig, target, unit));
    assert!(known.upgrade().is_some(), "a write is under way");
    for (device, op, ticket) in ops {
        device.submit(op, ticket);
    }
    assert!(known.upgrade().is_none());
}

#[test]
fn a_silent_initiator_is_asked_and_then_left() {
    let (_, _, target) = disk();
    let mut rig = Rig::ready(&target, 1);
    let limits = Limits::default();
    let idle = rig.connection.next_deadline().unwrap();
    assert_eq!(idle, Monotonic::default().plus(limits.idle));
    rig.connection.handle_time(idle);
    rig.pump();
    let ping = rig.answer();
    assert_eq!((ping.opcode(), ping.word(16)), (0x20, NO_TAG));
    assert_ne!(ping.word(20), NO_TAG, "it wants an answer");
    let mut header = [0; 48];
    header[0] = 0x40;
    header[1] = FINAL;
    header[16..20].copy_from_slice(&NO_TAG.to_be_bytes());
    header[20..24].copy_from_slice(&ping.header[20..24]);
    rig.send_unit(header, b"");
    assert!(rig.try_answer().is_none());
    let again = rig.connection.next_deadline().unwrap();
    rig.connection.handle_time(again);
    rig.connection.handle_time(again.plus(limits.ping).plus(Duration::from_nanos(1)));
    rig.pump();
    assert_eq!(rig.closed, Some(CloseReason::Silent));
}

#[test]
fn pings_come_back_with_their_data_and_logout_ends_the_session() {
    let (_, _, target) = disk();
    let mut rig = Rig::ready(&target, 1);
    let mut header = [0; 48];
    header[0] = 0x40;
    header[1] = FINAL;
    header[20..24].copy_from_slice(&NO_TAG.to_be_bytes());
    rig.send_unit(header, b"are you there");
    assert_eq!(rig.answer().data[..], b"are you there"[..]);
    header[0] = 0x46;
    header[1] = FINAL | 2;
    rig.send_unit(header, b"");
    assert_eq!(rig.answer().header[2], 2, "no connection is recovered at this level");
    header[1] = FINAL;
    rig.send_unit(header, b"");
    assert_eq!((rig.answer().opcode(), rig.closed.clone()), (0x26, Some(CloseReason::LoggedOut)));
    assert!(target.sessions().is_empty());
    assert_eq!(rig.connection.wants(&[]), Wants::Nothing);
}

#[test]
fn a_damaged_digest_ends_the_connection_and_writes_nothing() {
    for (keys, at) in [("HeaderDigest=CRC32C", 49), ("DataDigest=CRC32C", 100)] {
        let (device, _, target) = disk();
        let mut rig = Rig::ready_with(&target, 1, &[keys, "InitialR2T=No"]);
        let header = rig.command_header(&cdb10(0x2a, 0, 0, 1), WRITE | FINAL, 512);
        let mut bytes = rig.frame(header, &[3; 512]);
        bytes[at] ^= 1;
        rig.send(&bytes);
        assert!(rig.closed.is_some(), "{keys}");
        assert!(device.content().iter().all(|&b| b == 0));
    }
}

#[test]
fn answers_to_units_that_make_no_sense() {
    let (_, _, target) = disk();
    let mut rig = Rig::ready(&target, 1);
    for (opcode, reason) in [(0x10, 3), (0x03, 4), (0x1c, 5), (0x3f, 5), (0x21, 5)] {
        let mut header = [0; 48];
        header[0] = 0x40 | opcode;
        rig.send_unit(header, b"");
        let reject = rig.answer();
        assert_eq!((reject.opcode(), reject.header[2]), (0x3f, reason), "{opcode:#x}");
    }
    rig.held = true;
    let itt = rig.start(&cdb10(0x28, 0, 0, 1), READ, 512, b"");
    rig.itt -= 1;
    rig.start(&cdb10(0x28, 0, 0, 1), READ, 512, b"");
    assert_eq!(rig.answer().header[2], 7, "the tag is in use");
    rig.release_all();
    assert_eq!(rig.done(itt).status, GOOD);
}

#[test]
fn large_reads_are_cut_to_what_the_initiator_takes() {
    let device = Arc::new(MemoryDevice::with_content(pattern(SIZE as usize)));
    let target = target(&unit(device), Access::Open);
    let keys = ["MaxRecvDataSegmentLength=5000", "MaxBurstLength=12000"];
    let mut rig = Rig::ready_with(&target, 1, &keys);
    let itt = rig.start(&cdb10(0x28, 0, 0, 64), READ, 32768, b"");
    let (mut at, mut sizes) = (0, Vec::new());
    while at < 32768 {
        let part = rig.answer();
        assert_eq!((part.word(16), part.word(40)), (itt, at as u32));
        at += part.data.len();
        let ends_burst = at == 32768 || at % 12000 == 0;
        assert_eq!(part.header[1] & FINAL != 0, ends_burst, "at {at}");
        sizes.push(part.data.len());
    }
    assert_eq!(sizes, [5000, 5000, 2000, 5000, 5000, 2000, 5000, 3768]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cutting_the_stream_changes_nothing(cuts in prop::collection::vec(1..700_usize, 1..12)) {
        let run = |cuts: &[usize]| {
            let (device, _, target) = disk();
            let mut rig = Rig::ready(&target, 1);
            let mut stream = Vec::new();
            for n in 0..6_u8 {
                let header = rig.command_header(&cdb10(0x2a, 0, u32::from(n) * 3, 2), WRITE | FINAL, 1024);
                stream.extend(rig.frame(header, &[n + 1; 1024]));
                let header = rig.command_header(&cdb10(0x28, 0, u32::from(n), 4), READ | FINAL, 2048);
                stream.extend(rig.frame(header, b""));
            }
            let (mut rest, mut cut) = (&stream[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (piece, later) = rest.split_at(rest.len().min(*cut.next().unwrap()));
                rig.send(piece);
                rest = later;
            }
            // How far the window has moved depends on what had come by then; the rest does not.
            let answers = std::iter::from_fn(|| rig.try_answer());
            let answers: Vec<_> = answers.map(|a| (a.header[..28].to_vec(), a.data)).collect();
            (answers, device.content())
        };
        prop_assert!(run(&[usize::MAX]) == run(&cuts));
    }

    #[test]
    fn any_bytes_at_all_do_no_harm(
        noise in prop::collection::vec(any::<u8>(), 0..2000),
        logged_in in any::<bool>(),
    ) {
        let (_, _, target) = disk();
        let mut rig = if logged_in { Rig::ready(&target, 1) } else { Rig::new(&target) };
        rig.send(&noise);
        if let Wants::Input(n) = rig.connection.wants(&rig.input) {
            prop_assert!(n <= (256 << 10) + 48 + 1020 + 8, "asks for {} bytes", n);
        }
    }

    #[test]
    fn any_command_at_all_is_answered_once(
        cdb in prop::collection::vec(any::<u8>(), 16),
        opcode in 0..600_usize,
        flags in prop_oneof![Just(0_u8), Just(READ), Just(WRITE), Just(READ | WRITE)],
        data in prop::collection::vec(any::<u8>(), 0..600),
        expected in prop_oneof![Just(0_u32), 0..100_000_u32, any::<u32>()],
    ) {
        let (_, _, target) = disk();
        let mut rig = Rig::ready(&target, 1);
        let mut cdb = cdb;
        // Most often a command that there is.
        let known = [0x00, 0x03, 0x08, 0x0a, 0x12, 0x15, 0x1a, 0x25, 0x28, 0x2a, 0x2e, 0x2f, 0x41, 0x42, 0x55,
            0x5a, 0x5e, 0x5f, 0x83, 0x84, 0x88, 0x89, 0x8a, 0x8b, 0x8f, 0x93, 0x9e, 0xa0, 0xa3];
        cdb[0] = known.get(opcode % 40).copied().unwrap_or(cdb[0]);
        let data = if flags & WRITE == 0 { vec![] } else { data };
        let itt = rig.start(&cdb, flags, expected, &data);
        let mut answers = 0;
        while let Some(answer) = rig.try_answer() {
            prop_assert_eq!(answer.opcode() == 0x3f || answer.word(16) == itt, true);
            let status = answer.opcode() == 0x21 || answer.opcode() == 0x25 && answer.header[1] & 1 != 0;
            answers += usize::from(status || matches!(answer.opcode(), 0x3f | 0x31));
        }
        prop_assert!(answers >= 1);
    }
}
