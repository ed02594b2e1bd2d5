//! The protocol rule by rule: what a client sends and what it must get back.
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
use gateway_nbd::{CloseReason, Limits, Tag, Tls, Wants};
use tap_block::memory::MemoryDevice;
use tap_block::{BlockDevice, DeviceError, Extent, Geometry, Op};

const ACK: u32 = 1;
const SERVER: u32 = 2;
const INFO: u32 = 3;
const ERR_UNSUP: u32 = 0x8000_0001;
const ERR_POLICY: u32 = 0x8000_0002;
const ERR_INVALID: u32 = 0x8000_0003;
const ERR_TLS_REQD: u32 = 0x8000_0005;
const ERR_UNKNOWN: u32 = 0x8000_0006;
const ERR_SHUTDOWN: u32 = 0x8000_0007;
const ERR_TOO_BIG: u32 = 0x8000_0009;

const READ_ONLY: u16 = 1 | 1 << 1 | 1 << 2 | 1 << 8 | 1 << 10;
const WRITABLE: u16 = 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 10 | 1 << 11;

fn haggling() -> Rig {
    let mut rig = Rig::new();
    rig.send(&client_flags(3));
    rig.skip_greeting();
    rig
}

#[test]
fn the_server_greets_first() {
    let mut rig = Rig::new();
    rig.pump();
    assert_eq!(&rig.received[..], b"NBDMAGICIHAVEOPT\0\x03");
    assert_eq!(rig.server.wants(&rig.input), Wants::Input(4));
}

#[test]
fn unknown_client_flags_end_the_connection() {
    let mut rig = Rig::new();
    rig.send(&client_flags(7));
    assert_eq!(rig.closed, Some(CloseReason::UnknownClientFlags(7)));
}

#[test]
fn export_name_enters_transmission_with_or_without_zeroes() {
    for (flags, length) in [(1, 134), (3, 10)] {
        let mut rig = Rig::new();
        rig.send(&client_flags(flags));
        rig.skip_greeting();
        rig.send(&option(1, b"disk"));
        assert_eq!(rig.received.len(), length);
        assert_eq!(rig.received.get_u64(), SIZE);
        assert_eq!(rig.received.get_u16(), WRITABLE);
        assert!(!rig.server.is_handshaking());
    }
}

#[test]
fn export_name_of_an_unknown_export_closes() {
    let mut rig = haggling();
    rig.send(&option(1, b"nope"));
    assert!(matches!(rig.closed, Some(CloseReason::ExportRefused(_))));
}

#[test]
fn list_names_and_describes_every_export() {
    let mut rig = haggling();
    rig.send(&option(3, b""));
    let (_, kind, data) = rig.option_reply();
    assert_eq!((kind, &data[..]), (SERVER, &b"\0\0\0\x04diska disk"[..]));
    let (_, kind, data) = rig.option_reply();
    assert_eq!((kind, &data[..]), (SERVER, &b"\0\0\0\x06secret"[..]));
    assert_eq!(rig.option_reply(), (3, ACK, Bytes::new()));
    rig.send(&option(3, b"x"));
    assert_eq!(rig.option_reply().1, ERR_INVALID);
}

#[test]
fn abort_is_acknowledged_then_closed() {
    let mut rig = haggling();
    rig.send(&option(2, b"ignored"));
    assert_eq!(rig.option_reply(), (2, ACK, Bytes::new()));
    assert_eq!(rig.closed, Some(CloseReason::Disconnected));
}

#[test]
fn go_gives_the_information_asked_for() {
    let mut rig = haggling();
    rig.send(&go("disk", &[1, 2, 3, 999]));
    let mut export = rig.option_reply().2;
    assert_eq!((export.get_u16(), export.get_u64(), export.get_u16()), (0, SIZE, WRITABLE));
    assert_eq!(&rig.option_reply().2[..], b"\0\x01disk");
    assert_eq!(&rig.option_reply().2[..], b"\0\x02a disk");
    let (_, kind, mut sizes) = rig.option_reply();
    assert_eq!((kind, sizes.get_u16()), (INFO, 3));
    assert_eq!((sizes.get_u32(), sizes.get_u32(), sizes.get_u32()), (1, 4096, 32 << 20));
    assert_eq!(rig.option_reply(), (7, ACK, Bytes::new()));
    assert!(!rig.server.is_handshaking());
}

#[test]
fn info_stays_in_the_handshake_and_opens_the_default_export() {
    let mut rig = haggling();
    rig.send(&option(6, &choice("", &[])));
    assert_eq!(rig.option_reply().1, INFO);
    assert_eq!(rig.option_reply().1, ACK);
    assert!(rig.server.is_handshaking());
}

#[test]
fn refusals_reach_the_client_with_their_text() {
    let mut rig = haggling();
    rig.send(&go("nope", &[]));
    let (_, kind, text) = rig.option_reply();
    assert_eq!((kind, &text[..]), (ERR_UNKNOWN, &b"no export is named nope"[..]));
    rig.send(&go("secret", &[]));
    let (_, kind, text) = rig.option_reply();
    assert_eq!((kind, &text[..]), (ERR_POLICY, &b"not for you"[..]));
    rig.send(&go("disk", &[]));
    assert!(!rig.server.is_handshaking());
}

#[test]
fn malformed_choices_are_refused_in_step() {
    let long = choice(&"x".repeat(4097), &[]);
    let mut short_list = choice("disk", &[1, 2]);
    short_list.pop();
    for data in [&b""[..], b"\0\0", b"\0\0\0\x09disk\0\0", b"\xff\xff\xff\xff", &short_list, &long] {
        let mut rig = haggling();
        rig.send(&option(7, data));
        assert_eq!(rig.option_reply().1, ERR_INVALID, "{data:?}");
        rig.send(&go("disk", &[]));
        assert!(!rig.server.is_handshaking());
    }
    for name in [&b"\xff\xfe"[..], b"a\0b"] {
        let mut rig = haggling();
        let mut data = vec![0, 0, 0, name.len() as u8];
        data.extend_from_slice(name);
        data.extend_from_slice(&[0, 0]);
        rig.send(&option(6, &data));
        assert_eq!(rig.option_reply().1, ERR_INVALID);
    }
}

#[test]
fn unknown_options_of_any_length_are_answered_in_step() {
    for (number, length) in [(4, 7), (0, 0), (12, 0), (99, 1 << 20), (u32::MAX, 3)] {
        let mut rig = haggling();
        rig.send(&option(number, &vec![7; length]));
        let (echoed, kind, _) = rig.option_reply();
        assert_eq!((echoed, kind), (number, ERR_UNSUP));
        rig.send(&go("disk", &[]));
        assert!(!rig.server.is_handshaking());
    }
}

#[test]
fn known_options_that_are_too_long_are_refused_in_step() {
    for number in [3, 6, 7, 8, 9, 10, 11] {
        let mut rig = haggling();
        rig.send(&option(number, &vec![0; 20 << 10]));
        assert_eq!(rig.option_reply().1, ERR_TOO_BIG);
        rig.send(&go("disk", &[]));
        assert!(!rig.server.is_handshaking());
    }
}

#[test]
fn absurd_options_and_wrong_magic_close() {
    let mut rig = haggling();
    rig.send(b"IHAVEOPT\0\0\0\x63\xff\xff\xff\xff");
    assert_eq!(rig.closed, Some(CloseReason::AbsurdOption(u32::MAX)));
    let mut rig = haggling();
    rig.send(b"GET / HTTP/1.1\r\n");
    assert!(matches!(rig.closed, Some(CloseReason::BadOptionMagic(_))));
}

#[test]
fn haggling_has_an_end() {
    let mut rig = haggling();
    let many = option(99, b"").repeat(10_001);
    for piece in many.chunks(4096) {
        rig.send(piece);
    }
    assert_eq!(rig.closed, Some(CloseReason::TooManyOptions));
}

/// A client that has sent its flags and nothing else.
fn may_start_tls(tls: Tls) -> Rig {
    let mut rig = Rig::with_tls(tls);
    rig.send(&client_flags(3));
    rig.skip_greeting();
    rig
}

fn start_tls(rig: &mut Rig) {
    rig.send(&option(5, b""));
    assert_eq!(rig.option_reply(), (5, ACK, Bytes::new()));
    assert!(rig.starting_tls);
    rig.server.handle_tls_started();
}

#[test]
fn tls_that_is_not_switched_on_is_refused_in_step() {
    let mut rig = haggling();
    rig.send(&option(5, b""));
    assert_eq!(rig.option_reply().1, ERR_POLICY);
    rig.send(&go("disk", &[]));
    assert!(!rig.server.is_handshaking());
    // A client that knows no errors must not be offered it either.
    let mut rig = Rig::with_tls(Tls::Optional);
    rig.send(&client_flags(0));
    rig.skip_greeting();
    rig.send(&option(5, b""));
    assert_eq!(rig.option_reply().1, ERR_POLICY);
    assert!(!rig.starting_tls);
}

#[test]
fn without_the_tls_it_must_start_a_client_gets_nothing() {
    for data in [
        option(3, b""),
        option(6, &choice("disk", &[])),
        go("disk", &[]),
        option(8, b""),
        option(99, &[7; 99]),
    ] {
        let mut rig = may_start_tls(Tls::Required);
        rig.send(&data);
        assert_eq!(rig.option_reply().1, ERR_TLS_REQD);
        assert!(rig.received.is_empty() && rig.server.is_handshaking());
        start_tls(&mut rig);
        rig.send(&go("disk", &[]));
        assert!(!rig.server.is_handshaking());
    }
    let mut rig = may_start_tls(Tls::Required);
    rig.send(&option(1, b"disk"));
    assert_eq!(rig.closed, Some(CloseReason::TlsRequired));
    assert!(rig.received.is_empty());
    let mut rig = may_start_tls(Tls::Required);
    rig.send(&option(2, b""));
    assert_eq!(rig.option_reply().1, ACK);
    assert_eq!(rig.closed, Some(CloseReason::Disconnected));
}

#[test]
fn optional_tls_is_the_clients_choice() {
    let mut rig = may_start_tls(Tls::Optional);
    rig.send(&go("disk", &[]));
    assert!(!rig.server.is_handshaking());
    let mut rig = may_start_tls(Tls::Optional);
    rig.send(&option(3, b""));
    rig.received.clear();
    start_tls(&mut rig);
    rig.send(&option(1, b"disk"));
    assert_eq!(rig.received.len(), 10, "the client's flags still hold");
}

#[test]
fn tls_is_started_once_and_without_data() {
    let mut rig = may_start_tls(Tls::Required);
    rig.send(&option(5, b"x"));
    assert_eq!(rig.option_reply().1, ERR_INVALID);
    start_tls(&mut rig);
    rig.send(&option(5, b""));
    assert_eq!(rig.option_reply().1, ERR_INVALID);
    rig.send(&option(3, b""));
    assert_eq!(rig.option_reply().1, SERVER);
}

#[test]
fn what_is_sent_behind_the_request_for_tls_is_never_used() {
    for behind in [option(3, b""), go("disk", &[]), vec![0x16], b"IHAVE".to_vec()] {
        let mut rig = may_start_tls(Tls::Optional);
        rig.send(&[option(5, b""), behind].concat());
        assert_eq!(rig.closed, Some(CloseReason::BehindStartTls));
        assert!(rig.received.is_empty() && !rig.starting_tls);
    }
    // Nor is anything looked at before TLS is there, should a driver go on reading.
    let mut rig = may_start_tls(Tls::Required);
    rig.send(&option(5, b""));
    assert_eq!(rig.server.wants(&rig.input), Wants::Nothing);
    rig.received.clear();
    rig.send(&option(3, b""));
    assert!(rig.received.is_empty());
}

#[test]
fn a_server_that_stops_starts_no_tls() {
    let mut rig = may_start_tls(Tls::Required);
    rig.server.begin_shutdown();
    rig.send(&option(5, b""));
    assert_eq!(rig.option_reply().1, ERR_SHUTDOWN);
    assert!(!rig.starting_tls);
}

#[test]
fn a_server_that_stops_says_so_to_options_and_requests() {
    let mut rig = haggling();
    rig.server.begin_shutdown();
    rig.send(&go("disk", &[]));
    assert_eq!(rig.option_reply().1, ERR_SHUTDOWN);
    rig.send(&option(2, b""));
    assert_eq!(rig.option_reply().1, ACK);

    let mut rig = Rig::new().ready();
    let disk = device();
    rig.send(&request(0, READ, 1, 0, 512));
    rig.server.begin_shutdown();
    rig.send(&write(0, 2, 0, &[1; 512]));
    assert_eq!(rig.reply(), (ESHUTDOWN, 2));
    rig.complete(0, &disk);
    assert_eq!(rig.reply(), (OK, 1));
}

#[test]
fn every_command_does_its_work() {
    let mut rig = Rig::new().ready();
    let disk = MemoryDevice::with_content(vec![9; SIZE as usize]);
    rig.send(&write(FUA, 1, 4096, &[5; 4096]));
    rig.send(&request(FUA, FLUSH, 2, 0, 0));
    rig.send(&request(0, TRIM, 3, 8192, 4096));
    rig.send(&request(NO_HOLE, WRITE_ZEROES, 4, 16384, 512));
    rig.send(&request(FAST_ZERO, WRITE_ZEROES, 5, 20480, 512));
    rig.send(&request(0, CACHE, 6, 0, 8192));
    let extent = |offset, length| Extent::new(offset, length).unwrap();
    let ops: Vec<Op> = rig.ops.iter().map(|(_, op)| op.clone()).collect();
    assert_eq!(
        ops,
        [
            Op::Write { offset: 4096, data: vec![5; 4096].into(), fua: true },
            Op::Flush,
            Op::Trim { extent: extent(8192, 4096), fua: false },
            Op::Zero { extent: extent(16384, 512), fua: false, may_trim: false, fast: false },
            Op::Zero { extent: extent(20480, 512), fua: false, may_trim: true, fast: true },
            Op::Cache { extent: extent(0, 8192) },
        ]
    );
    rig.complete_all(&disk);
    for cookie in 1..=6 {
        assert_eq!(rig.reply(), (OK, cookie));
    }
    rig.send(&request(0, READ, 7, 4000, 4288));
    rig.complete_all(&disk);
    assert_eq!(rig.reply(), (OK, 7));
    assert_eq!(&rig.received[..], &disk.content()[4000..8288]);
}

#[test]
fn fua_reaches_each_kind_of_write() {
    let mut rig = Rig::new().ready();
    for (flags, fua) in [(FUA, true), (0, false)] {
        rig.send(&write(flags, 1, 0, &[5; 512]));
        rig.send(&request(flags, TRIM, 2, 0, 512));
        rig.send(&request(flags, WRITE_ZEROES, 3, 0, 512));
        rig.send(&request(flags | NO_HOLE | FAST_ZERO, WRITE_ZEROES, 4, 0, 512));
        for (_, op) in rig.ops.drain(..) {
            let asked = match op {
                Op::Write { fua, .. } | Op::Trim { fua, .. } | Op::Zero { fua, .. } => fua,
                other => panic!("{other:?}"),
            };
            assert_eq!(asked, fua);
        }
    }
}

#[test]
fn replies_come_in_the_order_of_completion() {
    let mut rig = Rig::new().ready();
    let disk = device();
    for cookie in 0..3 {
        rig.send(&request(0, READ, cookie, cookie * 512, 512));
    }
    for n in [2, 0, 0] {
        rig.complete(n, &disk);
    }
    for cookie in [2, 0, 1] {
        assert_eq!(rig.reply(), (OK, cookie));
        rig.received.advance(512);
    }
}

#[test]
fn requests_out_of_range_are_answered_and_the_connection_lives() {
    let mut rig = Rig::new().ready();
    let cases = [
        (READ, SIZE, 512, EINVAL),
        (READ, SIZE - 512, 1024, EINVAL),
        (READ, u64::MAX, u32::MAX, EINVAL),
        (TRIM, SIZE, 512, EINVAL),
        (CACHE, SIZE - 1, 2, EINVAL),
        (WRITE_ZEROES, SIZE - 1, 2, ENOSPC),
        (READ, SIZE + 1, 0, EINVAL),
    ];
    for (cookie, (command, offset, length, error)) in cases.into_iter().enumerate() {
        rig.send(&request(0, command, cookie as u64, offset, length));
        assert_eq!(rig.reply(), (error, cookie as u64));
    }
    rig.send(&write(0, 77, SIZE - 512, &[1; 1024]));
    assert_eq!(rig.reply(), (ENOSPC, 77));
    assert!(rig.ops.is_empty());
    still_alive(&mut rig);
}

fn still_alive(rig: &mut Rig) {
    let disk = device();
    rig.send(&request(0, READ, 4711, 0, 512));
    rig.complete_all(&disk);
    assert_eq!(rig.reply(), (OK, 4711));
    rig.received.advance(512);
    assert_eq!(rig.closed, None);
}

#[test]
fn unknown_commands_and_flags_are_answered() {
    let mut rig = Rig::new().ready();
    let cases = [
        (0, BLOCK_STATUS),
        (0, 8),
        (0, 999),
        (0x8000, READ),
        (DF, READ),
        (NO_HOLE, TRIM),
        (FAST_ZERO, TRIM),
        (REQ_ONE, WRITE_ZEROES),
        (NO_HOLE, CACHE),
        (PAYLOAD_LEN, READ),
        (PAYLOAD_LEN, TRIM),
    ];
    for (flags, command) in cases {
        rig.send(&request(flags, command, 5, 0, 512));
        assert_eq!(rig.reply(), (EINVAL, 5), "{command} with {flags:#x}");
    }
    rig.send(&write(NO_HOLE, 6, 0, &[0; 512]));
    assert_eq!(rig.reply(), (EINVAL, 6));
    rig.send(&request(0, FLUSH, 7, 512, 0));
    assert_eq!(rig.reply(), (EINVAL, 7));
    still_alive(&mut rig);
}

#[test]
fn requests_of_no_length_succeed_at_once() {
    let mut rig = Rig::new().ready();
    for command in [READ, WRITE, TRIM, CACHE, WRITE_ZEROES] {
        for offset in [0, 7, SIZE] {
            rig.send(&request(0, command, 3, offset, 0));
            assert_eq!(rig.reply(), (OK, 3));
        }
    }
    assert!(rig.ops.is_empty() && rig.received.is_empty());
}

#[test]
fn a_read_only_export_says_so_and_refuses_writes() {
    let mut rig = Rig::read_only();
    rig.send(&client_flags(3));
    rig.skip_greeting();
    rig.send(&go("disk", &[]));
    let mut export = rig.option_reply().2;
    assert_eq!((export.get_u16(), export.get_u64(), export.get_u16()), (0, SIZE, READ_ONLY));
    rig.option_reply();
    rig.send(&write(0, 1, 0, &[0; 512]));
    rig.send(&request(FUA, TRIM, 2, 0, 512));
    rig.send(&request(NO_HOLE, WRITE_ZEROES, 3, 0, 512));
    for cookie in 1..=3 {
        assert_eq!(rig.reply(), (EPERM, cookie));
    }
    still_alive(&mut rig);
}

#[test]
fn payloads_of_33_mib_are_served() {
    let size = 64 << 20;
    let mut rig = Rig::with(Limits::default(), Geometry { size, read_only: false }).ready();
    let disk = MemoryDevice::new(size);
    let data = vec![3; 33 << 20];
    rig.send(&write(0, 1, 0, &data));
    rig.complete_all(&disk);
    assert_eq!(rig.reply(), (OK, 1));
    rig.send(&request(0, READ, 2, 0, 33 << 20));
    rig.complete_all(&disk);
    assert_eq!(rig.reply(), (OK, 2));
    assert_eq!(rig.received, data);
}

#[test]
fn payloads_beyond_the_limit_are_dropped_as_they_come() {
    let limits = Limits { max_payload: 1024, in_flight: 1 << 20 };
    let mut rig = Rig::with(limits, Geometry { size: SIZE, read_only: false }).ready();
    rig.send(&request(0, WRITE, 1, 0, 5000));
    for _ in 0..50 {
        assert_eq!(rig.server.wants(&rig.input), Wants::Input(1));
        rig.send(&[0; 100]);
        assert!(rig.input.is_empty());
    }
    assert_eq!(rig.reply(), (EINVAL, 1));
    rig.send(&request(0, READ, 2, 0, 1025));
    assert_eq!(rig.reply(), (EINVAL, 2));
    still_alive(&mut rig);
}

#[test]
fn device_errors_have_their_codes() {
    let extent = Extent::new(0, 512).unwrap();
    let cases = [
        (DeviceError::ReadOnly, EPERM),
        (DeviceError::OutOfRange { extent, size: 1 }, ENOSPC),
        (DeviceError::NoSpace("full".to_owned()), ENOSPC),
        (DeviceError::Damaged { extent, detail: String::new() }, EIO),
        (DeviceError::Io("gone".to_owned()), EIO),
        (DeviceError::Unsupported("slow".to_owned()), ENOTSUP),
        (DeviceError::Stopped, ESHUTDOWN),
    ];
    let mut rig = Rig::new().ready();
    for (error, code) in cases {
        rig.send(&write(0, 8, 0, &[0; 512]));
        let (tag, _) = rig.ops.remove(0);
        rig.server.handle_completion(tag, Err(error));
        rig.pump();
        assert_eq!(rig.reply(), (code, 8));
    }
}

#[test]
fn a_device_that_answers_short_is_an_io_error() {
    let mut rig = Rig::new().ready();
    rig.send(&request(0, READ, 1, 0, 512));
    let (tag, _) = rig.ops.remove(0);
    rig.server.handle_completion(tag, Ok(Bytes::from_static(b"short").into()));
    rig.server.handle_completion(tag, Ok(Bytes::from(vec![0; 512]).into()));
    rig.server.handle_completion(Tag::new(12345), Ok(Bytes::new().into()));
    rig.pump();
    assert_eq!(rig.reply(), (EIO, 1));
    assert!(rig.received.is_empty());
}

#[test]
fn disc_waits_for_what_is_under_way() {
    let mut rig = Rig::new().ready();
    let disk = device();
    rig.send(&write(0, 1, 0, &[1; 512]));
    rig.send(&request(0, DISC, 2, 0, 0));
    assert_eq!(rig.closed, None);
    rig.complete_all(&disk);
    assert_eq!(rig.reply(), (OK, 1));
    assert_eq!(rig.closed, Some(CloseReason::Disconnected));
}

#[test]
fn a_request_that_is_none_closes_after_what_is_under_way() {
    let mut rig = Rig::new().ready();
    let disk = device();
    rig.send(&request(0, READ, 1, 0, 512));
    rig.send(&[0xff; 28]);
    assert_eq!(rig.closed, None);
    rig.complete_all(&disk);
    assert_eq!(rig.closed, Some(CloseReason::BadRequestMagic(u32::MAX)));
}

#[test]
fn no_more_than_the_limit_is_under_way() {
    let limits = Limits { max_payload: 64 << 10, in_flight: 16 << 10 };
    let mut rig = Rig::with(limits, Geometry { size: SIZE, read_only: false }).ready();
    let disk = device();
    let many: Vec<u8> = (0..20).flat_map(|n| request(0, READ, n, 0, 4096)).collect();
    rig.send(&many);
    assert_eq!(rig.ops.len(), 3);
    assert_eq!(rig.server.wants(&rig.input), Wants::Nothing);
    for _ in 0..20 {
        rig.complete(0, &disk);
        assert!(rig.ops.len() <= 3);
    }
    // A single one beyond the limit is served alone.
    rig.send(&write(0, 99, 0, &[1; 60 << 10]));
    assert_eq!(rig.ops.len(), 1);
}

#[test]
fn replies_nobody_reads_stop_the_intake() {
    let limits = Limits { max_payload: 64 << 10, in_flight: 16 << 10 };
    let mut rig = Rig::with(limits, Geometry { size: SIZE, read_only: false }).ready();
    rig.input.extend_from_slice(&request(0, CACHE, 1, 0, 0).repeat(10_000));
    assert!(rig.server.poll_action(&mut rig.input).is_none());
    assert!(rig.server.output().len() <= 16 << 10);
    assert_eq!(rig.server.wants(&rig.input), Wants::Nothing);
    rig.pump();
    assert_eq!(rig.server.wants(&rig.input), Wants::Input(28));
}

#[test]
fn a_request_waits_for_memory_and_says_how_much() {
    let mut rig = Rig::new().ready();
    rig.server.allow(10_000);
    let disk = device();
    rig.send(&[request(0, READ, 1, 0, 4096), request(0, READ, 2, 0, 8192)].concat());
    assert_eq!((rig.ops.len(), rig.server.held()), (1, 4096 + 512));
    assert_eq!((rig.server.lacks(), rig.server.wants(&rig.input)), (Some(4608 + 8704), Wants::Nothing));
    // The first one's reply holds its memory until the last byte of it is written.
    let (tag, op) = rig.ops.remove(0);
    rig.server.handle_completion(tag, tap_block::device::ask(&disk, op));
    let reply = rig.server.output().len();
    rig.server.output_mut().advance(reply - 1);
    assert!(rig.server.poll_action(&mut rig.input).is_none());
    assert_eq!((rig.server.held(), rig.server.lacks()), (reply as u64, Some(reply as u64 + 8704)));
    rig.server.output_mut().advance(1);
    rig.pump();
    assert_eq!((rig.ops.len(), rig.server.lacks(), rig.server.held()), (1, None, 8704));
    rig.complete(0, &disk);
    // Not even a single one goes beyond what is allowed, and its payload is not waited for.
    rig.send(&write(0, 3, 0, &[1; 20_000])[..100]);
    assert_eq!((rig.server.lacks(), rig.server.incoming()), (Some(20_512), 0));
    assert_eq!(rig.server.wants(&rig.input), Wants::Nothing);
    rig.server.allow(20_512);
    rig.pump();
    assert_eq!((rig.server.lacks(), rig.server.incoming(), rig.server.held()), (None, 20_512, 20_512));
    assert_eq!(rig.server.wants(&rig.input), Wants::Input(28 + 20_000));
    rig.send(&[1; 20_000 - 72]);
    assert_eq!((rig.ops.len(), rig.server.incoming(), rig.server.held()), (1, 0, 20_512));
    rig.complete(0, &disk);
    assert_eq!(rig.server.held(), 0);
}

#[test]
fn write_payloads_are_not_copied() {
    let mut rig = Rig::new().ready();
    let bytes = write(0, 1, 0, &[7; 4096]);
    rig.input.reserve(bytes.len());
    rig.input.extend_from_slice(&bytes);
    let place = rig.input.as_ptr().wrapping_add(28);
    rig.pump();
    let Op::Write { data, .. } = &rig.ops[0].1 else { panic!("a write") };
    assert_eq!(data.as_ptr(), place);
    assert_eq!(device().geometry().size, SIZE);
}
