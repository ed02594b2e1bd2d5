//! Extended headers and the filter of a block status, rule by rule.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use bytes::{Buf, Bytes};
use common::*;
use gateway_nbd::{CloseReason, Limits};
use tap_block::memory::MemoryDevice;
use tap_block::{Answer, DeviceError, Extent, Geometry, Op, State, Stretch};

const ACK: u32 = 1;
const ERR_INVALID: u32 = 0x8000_0003;
const ERR_EXT_HEADER_REQD: u32 = 0x8000_000a;
const ALLOCATION: &str = "base:allocation";
const DEPTH: &str = "qemu:allocation-depth";
/// No memory device is that large: these tests complete operations by hand.
const HUGE: Geometry = Geometry { size: 1 << 50, read_only: false };

#[test]
fn extended_headers_take_precedence_over_structured_replies() {
    for before in [vec![], option(STRUCTURED_REPLY, b"")] {
        let mut rig = Rig::new();
        rig.send(&client_flags(3));
        rig.send(&before);
        rig.received.clear();
        rig.send(&option(EXTENDED_HEADERS, b"x"));
        assert_eq!(rig.option_reply().1, ERR_INVALID);
        rig.send(&option(EXTENDED_HEADERS, b""));
        assert_eq!(rig.option_reply(), (EXTENDED_HEADERS, ACK, Bytes::new()));
        rig.send(&option(STRUCTURED_REPLY, b""));
        assert_eq!(rig.option_reply().1, ERR_EXT_HEADER_REQD);
        rig.send(&option(EXTENDED_HEADERS, b""));
        assert_eq!(rig.option_reply().1, ERR_INVALID);
        rig.send(&go("disk", &[]));
        let mut export = rig.option_reply().2;
        export.advance(10);
        let flags = export.get_u16();
        assert!(
            flags & 1 << 7 != 0 && flags & 1 << 12 == 0,
            "SEND_DF, no filter without contexts: {flags:#x}"
        );
    }
}

#[test]
fn the_filter_is_offered_with_contexts() {
    let mut rig = Rig::new();
    rig.send(&client_flags(3));
    rig.send(&option(EXTENDED_HEADERS, b""));
    rig.send(&contexts_of(SET_META_CONTEXT, "disk", &[ALLOCATION]));
    rig.received.clear();
    rig.send(&go("disk", &[]));
    let mut export = rig.option_reply().2;
    export.advance(10);
    assert!(export.get_u16() & 1 << 12 != 0);
}

#[test]
fn export_name_is_no_way_in() {
    let mut rig = Rig::new();
    rig.send(&client_flags(3));
    rig.send(&option(EXTENDED_HEADERS, b""));
    rig.send(&option(1, b"disk"));
    assert!(matches!(rig.closed, Some(CloseReason::ExportRefused(_))));
}

#[test]
fn every_reply_is_extended_and_repeats_the_offset() {
    let mut rig = Rig::new().extended(&[]);
    rig.inline = Some(MemoryDevice::with_content(vec![3; SIZE as usize]));
    rig.send(&extended_write(FUA, 1, 4096, &[5; 512]));
    rig.send(&extended_request(0, FLUSH, 2, 0, 0));
    rig.send(&extended_request(0, TRIM, 3, 8192, 4096));
    rig.send(&extended_request(NO_HOLE | FAST_ZERO, WRITE_ZEROES, 4, 16384, 4096));
    rig.send(&extended_request(0, CACHE, 5, 16384, 4096));
    rig.send(&extended_request(0, READ, 6, 77, 0));
    for (cookie, offset) in [(1, 4096), (2, 0), (3, 8192), (4, 16384), (5, 16384), (6, 77)] {
        let done = Chunk { last: true, kind: NONE_CHUNK, cookie, data: Bytes::new() };
        assert_eq!(rig.extended_chunk(offset), done);
    }
    rig.send(&extended_request(DF, READ, 7, 4095, 600));
    let mut chunk = rig.extended_chunk(4095);
    assert_eq!((chunk.last, chunk.kind, chunk.cookie, chunk.data.get_u64()), (true, DATA_CHUNK, 7, 4095));
    assert_eq!((chunk.data[0], chunk.data[1], chunk.data[513], chunk.data.len()), (3, 5, 3, 600));
    rig.send(&extended_request(0, READ, 8, SIZE, 1));
    assert_eq!(rig.extended_chunk(SIZE).error().0, EINVAL);
    assert_eq!(rig.received.len(), 0);
}

#[test]
fn the_compact_magic_is_none_any_more() {
    let mut rig = Rig::new().extended(&[]);
    rig.send(&request(0, READ, 1, 0, 512));
    assert_eq!(rig.closed, Some(CloseReason::BadRequestMagic(0x2560_9513)));
}

#[test]
fn effects_are_of_any_length() {
    let mut rig = Rig::with(Limits::default(), HUGE).extended(&[ALLOCATION]);
    let huge = Extent::between(4096, 1 << 49);
    rig.send(&extended_request(0, TRIM, 1, huge.offset(), huge.length()));
    rig.send(&extended_request(FAST_ZERO, WRITE_ZEROES, 2, huge.offset(), huge.length()));
    rig.send(&extended_request(0, CACHE, 3, huge.offset(), huge.length()));
    rig.send(&extended_request(0, BLOCK_STATUS, 4, huge.offset(), huge.length()));
    let extents: Vec<_> = rig.ops.iter().map(|(_, op)| op.extent().unwrap()).collect();
    assert_eq!(extents, [huge; 4]);
    let (tag, _) = rig.ops.remove(3);
    let stretches =
        vec![Stretch { length: 1 << 40, state: State::Zeroes }, Stretch { length: 4096, state: State::Data }];
    rig.server.handle_completion(tag, Ok(Answer::Status(vec![stretches])));
    rig.pump();
    let chunk = rig.extended_chunk(4096);
    assert_eq!((chunk.last, chunk.kind), (true, STATUS_EXT_CHUNK));
    assert_eq!(chunk.status(), (0, vec![(1 << 40, 3), (4096, 0)]));
    let (tag, _) = rig.ops.remove(1);
    rig.server.handle_completion(tag, Err(DeviceError::Unsupported("slow".to_owned())));
    rig.pump();
    assert_eq!(rig.extended_chunk(4096).error().0, ENOTSUP);
    for (command, error) in [(TRIM, EINVAL), (WRITE_ZEROES, ENOSPC), (CACHE, EINVAL), (READ, EINVAL)] {
        for (offset, length) in [(4096, 1 << 50), (u64::MAX, u64::MAX), (0, u64::MAX)] {
            rig.send(&extended_request(0, command, 5, offset, length));
            assert_eq!(rig.extended_chunk(offset).error().0, error);
        }
    }
    rig.send(&extended_request(0, READ, 6, 0, 1 << 40));
    assert_eq!(rig.extended_chunk(0).error().0, EINVAL, "more than a reply may carry");
    assert_eq!(rig.closed, None);
}

#[test]
fn payloads_nobody_expects_are_dropped_in_step() {
    let mut rig = Rig::new().extended(&[]);
    for command in [READ, TRIM, WRITE_ZEROES, CACHE, FLUSH, BLOCK_STATUS, 77] {
        rig.send(&extended_request(PAYLOAD_LEN, command, 1, 0, 5000));
        rig.send(&[9; 4999]);
        assert!(rig.received.is_empty());
        rig.send(&[9]);
        assert_eq!(rig.extended_chunk(0).error().0, EINVAL, "{command}");
    }
    rig.inline = Some(device());
    rig.send(&extended_request(0, READ, 3, 0, 512));
    assert_eq!(rig.extended_chunk(0).kind, DATA_CHUNK);
}

/// As QEMU's client sends it, against the specification.
#[test]
fn a_write_that_does_not_say_so_has_its_payload_all_the_same() {
    let mut rig = Rig::new().extended(&[]);
    rig.inline = Some(device());
    rig.send(&extended_request(FUA, WRITE, 1, 4096, 512));
    rig.send(&[8; 512]);
    assert_eq!(rig.extended_chunk(4096).kind, NONE_CHUNK);
    rig.send(&extended_request(0, READ, 2, 4096, 512));
    assert_eq!(rig.extended_chunk(4096).data[8..], [8; 512]);
}

#[test]
fn payloads_too_long_to_follow_close() {
    for command in [WRITE, READ, BLOCK_STATUS] {
        let mut rig = Rig::new().extended(&[ALLOCATION]);
        rig.send(&extended_request(PAYLOAD_LEN, command, 1, 0, 1 << 33));
        assert_eq!(rig.closed, Some(CloseReason::AbsurdPayload(1 << 33)));
    }
}

#[test]
fn a_filter_chooses_contexts_and_their_order() {
    let mut rig = Rig::new().extended(&[ALLOCATION, DEPTH]);
    rig.inline = Some(device());
    rig.send(&filtered_status(0, 1, 0, 8192, &[1, 0]));
    let (first, second) = (rig.extended_chunk(0), rig.extended_chunk(0));
    assert!(!first.last && second.last);
    assert_eq!(first.status(), (1, vec![(8192, 0)]));
    assert_eq!(second.status(), (0, vec![(8192, 3)]));
    rig.send(&filtered_status(REQ_ONE, 2, 4096, 8192, &[1]));
    let only = rig.extended_chunk(4096);
    assert!(only.last);
    assert_eq!(only.status(), (1, vec![(8192, 0)]));
    assert!(rig.received.is_empty());
}

#[test]
fn a_filter_that_makes_no_sense_is_refused_in_step() {
    let mut rig = Rig::new().extended(&[ALLOCATION, DEPTH]);
    for contexts in [&[2][..], &[0, 0], &[u32::MAX], &[], &[0, 1, 0], &[0; 500]] {
        rig.send(&filtered_status(0, 1, 0, 8192, contexts));
        assert_eq!(rig.extended_chunk(0).error().0, EINVAL, "{contexts:?}");
    }
    for (offset, length) in [(0, 0), (0, SIZE + 1), (u64::MAX, 2)] {
        rig.send(&filtered_status(0, 1, offset, length, &[0]));
        assert_eq!(rig.extended_chunk(offset).error().0, EINVAL);
    }
    for payload in [1, 7, 11, 13] {
        let mut bytes = extended_request(PAYLOAD_LEN, BLOCK_STATUS, 1, 0, payload);
        bytes.extend(vec![0; payload as usize]);
        rig.send(&bytes);
        assert_eq!(rig.extended_chunk(0).error().0, EINVAL);
    }
    assert!(rig.ops.is_empty());
    rig.send(&extended_request(0, BLOCK_STATUS, 1, 0, 8192));
    assert!(matches!(rig.ops[0].1, Op::Status { .. }));
}

#[test]
fn a_read_only_export_refuses_with_the_same_codes() {
    let mut rig = Rig::read_only().extended(&[]);
    rig.send(&extended_write(0, 1, 0, &[0; 512]));
    assert_eq!(rig.extended_chunk(0).error().0, EPERM);
    rig.server.begin_shutdown();
    rig.send(&extended_request(0, READ, 2, 512, 512));
    let (error, text, _) = rig.extended_chunk(512).error();
    assert_eq!((error, text.as_str()), (ESHUTDOWN, "the server is shutting down"));
}
