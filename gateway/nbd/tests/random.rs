//! Properties: the stream may be cut anywhere, operations may complete in any order, and bytes of any kind
//! lead to bounded work and no panic.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use std::collections::BTreeMap;

use bytes::Buf;
use common::*;
use gateway_nbd::{Limits, Wants};
use proptest::prelude::*;
use tap_block::{BlockDevice, Geometry, Op};

#[derive(Debug, Clone)]
struct Sent {
    flags: u16,
    command: u16,
    offset: u64,
    length: u32,
}

impl Sent {
    fn bytes(&self, cookie: u64) -> Vec<u8> {
        let mut bytes = request(self.flags, self.command, cookie, self.offset, self.length);
        if self.command == WRITE {
            bytes.extend(std::iter::repeat_n(cookie as u8, self.length as usize));
        }
        bytes
    }
}

fn sent() -> impl Strategy<Value = Sent> {
    let flags = prop_oneof![6 => Just(0_u16), 2 => Just(FUA), 1 => any::<u16>()];
    let command = prop_oneof![8 => 0..2_u16, 3 => 3..7_u16, 1 => 7..12_u16];
    let offset = prop_oneof![8 => 0..SIZE, 1 => Just(SIZE), 1 => any::<u64>()];
    let length = prop_oneof![6 => 0..9000_u32, 1 => Just(0_u32), 1 => 0..200_000_u32];
    (flags, command, offset, length).prop_map(|(flags, command, offset, length)| Sent {
        flags,
        command,
        offset,
        length,
    })
}

fn options() -> impl Strategy<Value = Vec<u8>> {
    let one = prop_oneof![
        (0..20_u32, prop::collection::vec(any::<u8>(), 0..60))
            .prop_filter("must not end the haggling", |(number, _)| !matches!(number, 1 | 2 | 7))
            .prop_map(|(number, data)| option(number, &data)),
        ("[a-z]{0,6}", prop::collection::vec(0..6_u16, 0..5))
            .prop_map(|(name, infos)| option(6, &choice(&name, &infos))),
        Just(option(3, b"")),
    ];
    prop::collection::vec(one, 0..8).prop_map(|all| all.concat())
}

/// Whatever a conversation may have settled before the noise.
fn prefixes() -> impl Strategy<Value = Vec<u8>> {
    let contexts = || contexts_of(SET_META_CONTEXT, "disk", &["base:allocation", "qemu:allocation-depth"]);
    let settled = |style: u32| [client_flags(3), option(style, b""), contexts(), go("disk", &[])].concat();
    prop_oneof![
        Just(Vec::new()),
        Just(client_flags(3)),
        Just([client_flags(3), option(STRUCTURED_REPLY, b"")].concat()),
        Just([client_flags(3), go("disk", &[])].concat()),
        Just(settled(STRUCTURED_REPLY)),
        Just([settled(EXTENDED_HEADERS), extended_request(0, BLOCK_STATUS, 1, 0, SIZE)].concat()),
        Just([settled(EXTENDED_HEADERS), filtered_status(0, 1, 0, SIZE, &[1, 0])].concat()),
        Just([settled(EXTENDED_HEADERS), extended_request(PAYLOAD_LEN, WRITE, 1, 0, 70_000)].concat()),
    ]
}

/// Runs a whole conversation cut into pieces of these sizes; what was asked of the device, and the answers.
fn converse(stream: &[u8], cuts: &[usize]) -> (Vec<Op>, Vec<u8>, bool) {
    let mut rig = Rig { inline: Some(device()), ..Rig::new() };
    let (mut rest, mut cut) = (stream, cuts.iter().cycle());
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(rest.len().min(*cut.next().unwrap_or(&usize::MAX)));
        rest = later;
        rig.send(piece);
    }
    (rig.done, rig.received.to_vec(), rig.closed.is_some())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cutting_the_stream_changes_nothing(
        haggling in options(),
        requests in prop::collection::vec(sent(), 0..12),
        cuts in prop::collection::vec(1..5000_usize, 1..20),
        tiny in prop::collection::vec(1..40_usize, 1..20),
    ) {
        let mut stream = client_flags(3);
        stream.extend(haggling);
        stream.extend(go("disk", &[1, 3]));
        for (cookie, request) in requests.iter().enumerate() {
            stream.extend(request.bytes(cookie as u64));
        }
        let whole = converse(&stream, &[usize::MAX]);
        prop_assert_eq!(&whole, &converse(&stream, &cuts));
        let head = &stream[..stream.len().min(20_000)];
        prop_assert_eq!(converse(head, &[usize::MAX]), converse(head, &tiny));
    }

    #[test]
    fn every_request_is_answered_once_in_any_order_of_completion(
        requests in prop::collection::vec(sent(), 1..24),
        order in prop::collection::vec(any::<prop::sample::Index>(), 24),
    ) {
        let mut rig = Rig::new().ready();
        let disk = device();
        for (cookie, request) in requests.iter().enumerate() {
            rig.send(&request.bytes(cookie as u64));
        }
        for pick in order {
            if !rig.ops.is_empty() {
                rig.complete(pick.index(rig.ops.len()), &disk);
            }
        }
        rig.complete_all(&disk);
        let mut answered = BTreeMap::new();
        while !rig.received.is_empty() {
            let (error, cookie) = rig.reply();
            let request = &requests[cookie as usize];
            if error == OK && request.command == READ {
                rig.received.advance(request.length as usize);
            }
            prop_assert!(answered.insert(cookie, error).is_none());
        }
        prop_assert_eq!(answered.len(), requests.len());
        for (cookie, error) in answered {
            prop_assert_eq!(error, expected(&requests[cookie as usize]));
        }
    }

    #[test]
    fn any_bytes_are_survived_in_bounded_memory(
        prefix in prefixes(),
        noise in prop::collection::vec(any::<u8>(), 0..4000),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        requests in prop::collection::vec(sent(), 0..4),
    ) {
        let mut stream = prefix;
        for (cookie, request) in requests.iter().enumerate() {
            stream.extend(request.bytes(cookie as u64));
        }
        for (place, bits) in flips {
            if !stream.is_empty() {
                let n = place.index(stream.len());
                stream[n] ^= bits;
            }
        }
        stream.extend(noise);
        let limits = Limits { max_payload: 64 << 10, in_flight: 128 << 10 };
        let mut rig = Rig::with(limits, Geometry { size: SIZE, read_only: false });
        let disk = device();
        for piece in stream.chunks(997) {
            rig.send(piece);
            let held: u64 = rig.ops.iter().filter_map(|(_, op)| op.extent()).map(|e| if e.length() > 64 << 10 { 0 } else { e.length() }).sum();
            prop_assert!(held <= 128 << 10);
            match rig.server.wants(&rig.input) {
                Wants::Input(n) => prop_assert!(n <= (64 << 10) + 32),
                Wants::Nothing => {}
            }
            rig.complete_all(&disk);
        }
    }
}

/// The answer by the book, computed apart from the server.
fn expected(request: &Sent) -> u32 {
    let allowed = match request.command {
        WRITE_ZEROES => FUA | NO_HOLE | FAST_ZERO,
        READ | WRITE | FLUSH | TRIM | CACHE => FUA,
        _ => return EINVAL,
    };
    if request.flags & !allowed != 0 {
        return EINVAL;
    }
    if request.command == FLUSH {
        return if request.offset == 0 && request.length == 0 { OK } else { EINVAL };
    }
    let size = u128::from(device().geometry().size);
    if u128::from(request.offset) + u128::from(request.length) <= size {
        OK
    } else if matches!(request.command, WRITE | WRITE_ZEROES) {
        ENOSPC
    } else {
        EINVAL
    }
}
