//! Structured replies, rule by rule.
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
use gateway_nbd::{Limits, Wants};
use tap_block::memory::MemoryDevice;
use tap_block::{Answer, DeviceError, Extent, Geometry, Op, Part};

const ACK: u32 = 1;
const ERR_INVALID: u32 = 0x8000_0003;

fn rig() -> Rig {
    Rig::new().structured(&[])
}

/// Completes the only operation under way with `answer`.
fn answer(rig: &mut Rig, answer: Result<Answer, DeviceError>) {
    let (tag, _) = rig.ops.remove(0);
    rig.server.handle_completion(tag, answer);
    rig.pump();
}

fn at(chunk: &mut Chunk) -> u64 {
    chunk.data.get_u64()
}

#[test]
fn structured_replies_are_acknowledged_once_and_take_no_data() {
    let mut rig = Rig::new();
    rig.send(&client_flags(3));
    rig.skip_greeting();
    rig.send(&option(STRUCTURED_REPLY, b"x"));
    assert_eq!(rig.option_reply().1, ERR_INVALID);
    rig.send(&option(STRUCTURED_REPLY, b""));
    assert_eq!(rig.option_reply(), (STRUCTURED_REPLY, ACK, Bytes::new()));
    rig.send(&option(STRUCTURED_REPLY, b""));
    assert_eq!(rig.option_reply().1, ERR_INVALID);
    rig.send(&go("disk", &[]));
    let mut export = rig.option_reply().2;
    assert_eq!((export.get_u16(), export.get_u64()), (0, SIZE));
    assert!(export.get_u16() & 1 << 7 != 0, "SEND_DF");
}

#[test]
fn export_name_after_structured_replies_keeps_them() {
    let mut rig = Rig::new();
    rig.send(&client_flags(3));
    rig.send(&option(STRUCTURED_REPLY, b""));
    rig.send(&option(1, b"disk"));
    rig.received.clear();
    rig.send(&request(0, READ, 1, 0, 0));
    assert_eq!(rig.chunk(), Chunk { last: true, kind: NONE_CHUNK, cookie: 1, data: Bytes::new() });
}

#[test]
fn data_comes_in_one_chunk_with_its_offset() {
    let mut rig = rig();
    let disk = MemoryDevice::with_content(vec![7; SIZE as usize]);
    rig.send(&request(0, READ, 9, 513, 700));
    rig.complete_all(&disk);
    let mut chunk = rig.chunk();
    assert_eq!((chunk.last, chunk.kind, chunk.cookie, at(&mut chunk)), (true, DATA_CHUNK, 9, 513));
    assert_eq!(chunk.data, vec![7; 700]);
    assert!(rig.received.is_empty());
}

#[test]
fn zeroes_are_a_hole_and_nothing_is_sent_for_them() {
    let mut rig = rig();
    rig.send(&request(0, READ, 1, 4096, 1 << 19));
    answer(&mut rig, Ok(Answer::Zeroes(1 << 19)));
    let mut chunk = rig.chunk();
    assert_eq!(
        (chunk.last, chunk.kind, at(&mut chunk), chunk.data.get_u32()),
        (true, HOLE_CHUNK, 4096, 1 << 19)
    );
    assert!(rig.received.is_empty());
}

fn parts() -> Answer {
    Answer::Parts(vec![
        Part::Data(Bytes::from_static(&[1; 1000])),
        Part::Zeroes(3000),
        Part::Data(Bytes::from_static(&[2; 96])),
    ])
}

#[test]
fn parts_come_in_order_and_the_last_ends_the_reply() {
    let mut rig = rig();
    rig.send(&request(0, READ, 1, 100, 4096));
    answer(&mut rig, Ok(parts()));
    let mut seen = Vec::new();
    for _ in 0..3 {
        let mut chunk = rig.chunk();
        seen.push((chunk.last, chunk.kind, at(&mut chunk), chunk.data.len()));
    }
    assert_eq!(
        seen,
        [(false, DATA_CHUNK, 100, 1000), (false, HOLE_CHUNK, 1100, 4), (true, DATA_CHUNK, 4100, 96)]
    );
    assert!(rig.received.is_empty());
}

#[test]
fn whoever_must_not_get_fragments_gets_the_zeroes_too() {
    let mut rig = rig();
    rig.send(&request(DF, READ, 1, 100, 4096));
    answer(&mut rig, Ok(parts()));
    let mut chunk = rig.chunk();
    assert_eq!((chunk.last, chunk.kind, at(&mut chunk)), (true, DATA_CHUNK, 100));
    assert_eq!(chunk.data, parts().into_bytes());
    rig.send(&request(DF, READ, 2, 0, 512));
    answer(&mut rig, Ok(Answer::Zeroes(512)));
    assert_eq!(rig.chunk().kind, HOLE_CHUNK, "one content chunk too");
}

#[test]
fn a_client_without_structured_replies_gets_the_zeroes_as_they_are() {
    let mut rig = Rig::new().ready();
    rig.send(&request(0, READ, 1, 100, 4096));
    answer(&mut rig, Ok(parts()));
    assert_eq!(rig.reply(), (OK, 1));
    assert_eq!(rig.received, parts().into_bytes());
    rig.received.clear();
    rig.send(&request(0, READ, 2, 0, 1 << 20));
    answer(&mut rig, Ok(Answer::Zeroes(1 << 20)));
    assert_eq!(rig.reply(), (OK, 2));
    assert_eq!(rig.received, vec![0; 1 << 20]);
}

#[test]
fn errors_carry_a_text_and_a_read_never_gets_a_simple_reply() {
    let mut rig = rig();
    rig.send(&request(0x8000, READ, 1, 0, 512));
    rig.send(&request(0, READ, 2, SIZE, 512));
    rig.send(&request(0, 99, 3, 0, 0));
    rig.send(&write(0, 4, SIZE, &[0; 512]));
    for (cookie, code) in [(1, EINVAL), (2, EINVAL), (3, EINVAL), (4, ENOSPC)] {
        let chunk = rig.chunk();
        assert_eq!((chunk.last, chunk.kind, chunk.cookie), (true, ERROR_CHUNK, cookie));
        let (error, text, _) = chunk.error();
        assert_eq!(error, code);
        assert!(text.len() > 10, "{text}");
    }
    rig.send(&write(0, 5, 0, &[1; 512]));
    answer(&mut rig, Err(DeviceError::NoSpace("the overlay is full".to_owned())));
    let (error, text, _) = rig.chunk().error();
    assert_eq!((error, text.as_str()), (ENOSPC, "no space left: the overlay is full"));
}

#[test]
fn damage_is_told_with_its_place() {
    let mut rig = rig();
    for (from, told) in [(8192, 8192), (0, 4096)] {
        rig.send(&request(0, READ, 1, 4096, 8192));
        let extent = Extent::between(from, from + 4096);
        answer(&mut rig, Err(DeviceError::Damaged { extent, detail: "rotten".to_owned() }));
        let (error, text, at) = rig.chunk().error();
        assert_eq!((error, at), (EIO, Some(told)), "within the request");
        assert!(text.contains("rotten"), "{text}");
    }
    rig.send(&request(0, READ, 1, 4096, 8192));
    let extent = Extent::between(1 << 19, 1 << 20);
    answer(&mut rig, Err(DeviceError::Damaged { extent, detail: "x".repeat(9000) }));
    let (_, text, at) = rig.chunk().error();
    assert_eq!((text.len(), at), (4096, None));
}

#[test]
fn success_without_content_is_a_simple_reply() {
    let mut rig = rig();
    rig.inline = Some(device());
    rig.send(&write(FUA, 1, 0, &[1; 512]));
    rig.send(&request(0, TRIM, 2, 0, 512));
    rig.send(&request(0, WRITE_ZEROES, 3, 0, 512));
    rig.send(&request(0, CACHE, 4, 0, 512));
    rig.send(&request(0, FLUSH, 5, 0, 0));
    for cookie in 1..=5 {
        assert_eq!(rig.reply(), (OK, cookie));
    }
}

#[test]
fn content_of_another_length_goes_nowhere() {
    let mut rig = rig();
    let short = Answer::Parts(vec![Part::Zeroes(100), Part::Data(Bytes::from_static(b"x"))]);
    let endless = Answer::Parts(vec![Part::Zeroes(u64::MAX), Part::Zeroes(u64::MAX)]);
    for wrong in [short, endless, Answer::Zeroes(511), Answer::Status(Vec::new())] {
        rig.send(&request(0, READ, 1, 0, 512));
        answer(&mut rig, Ok(wrong));
        assert_eq!(rig.chunk().error().0, EIO);
        assert!(rig.received.is_empty());
    }
}

#[test]
fn replies_in_parts_count_against_the_limit_as_a_whole() {
    let limits = Limits { max_payload: 64 << 10, in_flight: 16 << 10 };
    let mut rig = Rig::with(limits, Geometry { size: SIZE, read_only: false }).structured(&[]);
    rig.send(&request(DF, READ, 1, 0, 60 << 10));
    let (tag, op) = rig.ops.remove(0);
    assert_eq!(op, Op::Read { extent: Extent::between(0, 60 << 10) });
    let parts = vec![Part::Zeroes(50 << 10), Part::Data(vec![1; 10 << 10].into())];
    rig.server.handle_completion(tag, Ok(Answer::Parts(parts)));
    rig.input.extend_from_slice(&request(0, READ, 2, 0, 512));
    assert!(rig.server.poll_action(&mut rig.input).is_none());
    assert_eq!(rig.server.wants(&rig.input), Wants::Nothing);
    // Written, then looked at again.
    rig.pump();
    rig.pump();
    assert_eq!(rig.ops.len(), 1);
}
