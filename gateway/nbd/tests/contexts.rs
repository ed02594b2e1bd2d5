//! Metadata contexts and block status, rule by rule.
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

use bytes::{Buf, Bytes};
use common::*;
use gateway_nbd::Wants;
use tap_block::{Answer, DeviceError, Extent, Map, Op, State, Stretch};

const ACK: u32 = 1;
const META_CONTEXT: u32 = 4;
const ERR_INVALID: u32 = 0x8000_0003;
const ERR_UNKNOWN: u32 = 0x8000_0006;
const ERR_TOO_BIG: u32 = 0x8000_0009;

const ALLOCATION: &str = "base:allocation";
const DEPTH: &str = "qemu:allocation-depth";

/// In the handshake, with structured replies, a device that has bookmarks b-0 to b-(n-1), newest first.
fn haggling(bookmarks: usize) -> Rig {
    let mut rig = with_bookmarks(bookmarks);
    rig.send(&client_flags(3));
    rig.send(&option(STRUCTURED_REPLY, b""));
    rig.received.clear();
    rig
}

fn with_bookmarks(n: usize) -> Rig {
    Rig { bookmarks: (0..n).map(|n| format!("b-{n}").parse().unwrap()).collect(), ..Rig::new() }
}

/// Sends the option; the contexts that come back, with their numbers.
fn ask(rig: &mut Rig, number: u32, queries: &[&str]) -> Vec<(u32, String)> {
    rig.send(&contexts_of(number, "disk", queries));
    let mut found = Vec::new();
    loop {
        let (echoed, kind, mut data) = rig.option_reply();
        assert_eq!(echoed, number);
        match kind {
            META_CONTEXT => {
                let id = data.get_u32();
                found.push((id, String::from_utf8(data.to_vec()).unwrap()));
            }
            ACK => return found,
            other => panic!("{other:#x}"),
        }
    }
}

fn names(found: &[(u32, String)]) -> Vec<&str> {
    found.iter().map(|(_, name)| name.as_str()).collect()
}

#[test]
fn contexts_need_structured_replies() {
    let mut rig = Rig::new();
    rig.send(&client_flags(3));
    rig.skip_greeting();
    for number in [LIST_META_CONTEXT, SET_META_CONTEXT] {
        rig.send(&contexts_of(number, "disk", &[ALLOCATION]));
        assert_eq!(rig.option_reply().1, ERR_INVALID);
    }
}

#[test]
fn a_list_without_queries_names_all_and_at_most_a_hundred_bookmarks() {
    let mut rig = haggling(3);
    let all = [ALLOCATION, DEPTH, "qemu:dirty-bitmap:b-0", "qemu:dirty-bitmap:b-1", "qemu:dirty-bitmap:b-2"];
    let found = ask(&mut rig, LIST_META_CONTEXT, &[]);
    assert_eq!(names(&found), all);
    assert!(found.iter().all(|(id, _)| *id == 0));
    let found = ask(&mut haggling(250), LIST_META_CONTEXT, &[]);
    assert_eq!(found.len(), 102);
    assert_eq!(found.last().unwrap().1, "qemu:dirty-bitmap:b-99");
}

#[test]
fn wildcards_are_for_lists_only() {
    let mut rig = haggling(1);
    assert_eq!(names(&ask(&mut rig, LIST_META_CONTEXT, &["base:"])), [ALLOCATION]);
    assert_eq!(names(&ask(&mut rig, LIST_META_CONTEXT, &["qemu:"])), [DEPTH, "qemu:dirty-bitmap:b-0"]);
    assert_eq!(names(&ask(&mut rig, LIST_META_CONTEXT, &["qemu:dirty-bitmap:"])), ["qemu:dirty-bitmap:b-0"]);
    for query in ["base:", "qemu:", "qemu:dirty-bitmap:"] {
        assert_eq!(ask(&mut rig, SET_META_CONTEXT, &[query]), []);
    }
    assert_eq!(ask(&mut rig, SET_META_CONTEXT, &[]), []);
}

#[test]
fn what_is_not_known_is_left_out() {
    let mut rig = haggling(300);
    let queries = [
        "qemu:dirty-bitmap:b-299",
        "base:unheard-of",
        "x-other:thing",
        "nonsense",
        "qemu:dirty-bitmap:gone",
        "qemu:dirty-bitmap:no name at all\n",
        "qemu:dirty-bitmap:b-299",
        ALLOCATION,
        "",
    ];
    let found = ask(&mut rig, SET_META_CONTEXT, &queries);
    assert_eq!(names(&found), [ALLOCATION, "qemu:dirty-bitmap:b-299"], "any is accepted by its name");
    assert_eq!(found.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn too_many_contexts_or_bookmarks_at_once_are_refused() {
    let mut rig = haggling(200);
    let many: Vec<String> = (0..101).map(|n| format!("qemu:dirty-bitmap:b-{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for (number, queries) in
        [(SET_META_CONTEXT, &many[..17]), (SET_META_CONTEXT, &many[..]), (LIST_META_CONTEXT, &many[..])]
    {
        rig.send(&contexts_of(number, "disk", queries));
        assert_eq!(rig.option_reply().1, ERR_TOO_BIG);
    }
    assert_eq!(ask(&mut rig, SET_META_CONTEXT, &many[..16]).len(), 16);
    assert_eq!(ask(&mut rig, LIST_META_CONTEXT, &many[..100]).len(), 100);
}

#[test]
fn malformed_queries_are_refused_in_step() {
    let whole = contexts_of(SET_META_CONTEXT, "disk", &[ALLOCATION]);
    let data = &whole[16..];
    let mut cases: Vec<Vec<u8>> = (0..data.len()).map(|n| data[..n].to_vec()).collect();
    cases.push([data, b"x"].concat());
    cases.push(b"\0\0\0\x04disk\xff\xff\xff\xff".to_vec());
    cases.push(b"\0\0\0\x04disk\0\0\0\x01\0\0\0\x02\xff\xfe".to_vec());
    cases.push(b"\0\0\0\x02\xff\xfe\0\0\0\0".to_vec());
    for case in cases {
        let mut rig = haggling(0);
        rig.send(&option(SET_META_CONTEXT, &case));
        assert_eq!(rig.option_reply().1, ERR_INVALID, "{case:?}");
        rig.send(&go("disk", &[]));
        assert!(!rig.server.is_handshaking());
    }
    let mut rig = haggling(0);
    rig.send(&contexts_of(LIST_META_CONTEXT, "disk", &[&"q".repeat(4097)]));
    assert_eq!(rig.option_reply().1, ERR_INVALID);
    rig.send(&contexts_of(LIST_META_CONTEXT, "nope", &[]));
    assert_eq!(rig.option_reply().1, ERR_UNKNOWN);
}

/// Enters transmission after `options`; is a block status of it served?
fn has_status(options: &[Vec<u8>]) -> bool {
    let mut rig = haggling(1);
    options.iter().for_each(|option| rig.send(option));
    rig.send(&go("disk", &[]));
    rig.received.clear();
    rig.inline = Some(device());
    rig.send(&request(0, BLOCK_STATUS, 1, 0, 4096));
    rig.chunk().kind == STATUS_CHUNK
}

#[test]
fn contexts_are_those_set_last_for_the_export_that_is_opened() {
    let set = |export, queries: &[&str]| contexts_of(SET_META_CONTEXT, export, queries);
    assert!(has_status(&[set("disk", &[ALLOCATION])]));
    assert!(has_status(&[set("", &[ALLOCATION])]), "the default export is the same");
    assert!(has_status(&[set("disk", &[ALLOCATION]), contexts_of(LIST_META_CONTEXT, "other", &[])]));
    assert!(!has_status(&[]));
    assert!(!has_status(&[set("disk", &[])]));
    assert!(!has_status(&[set("other", &[ALLOCATION])]));
    assert!(!has_status(&[set("disk", &[ALLOCATION]), set("disk", &["x:y"])]));
    assert!(!has_status(&[set("disk", &[ALLOCATION]), set("nope", &[ALLOCATION])]));
    assert!(!has_status(&[set("disk", &[ALLOCATION]), option(SET_META_CONTEXT, b"\0")]));
    assert!(has_status(&[set("disk", &["qemu:dirty-bitmap:b-0"])]));
}

fn stretch(length: u64, state: State) -> Stretch {
    Stretch { length, state }
}

#[test]
fn each_context_has_one_chunk_with_its_flags() {
    let mut rig = with_bookmarks(1).structured(&["qemu:dirty-bitmap:b-0", DEPTH, ALLOCATION]);
    rig.send(&request(0, BLOCK_STATUS, 5, 4096, 12288));
    let (tag, op) = rig.ops.remove(0);
    let maps = Arc::from([Map::Allocation, Map::Depth, Map::ChangedSince("b-0".parse().unwrap())]);
    assert_eq!(op, Op::Status { extent: Extent::between(4096, 16384), maps, most: 4096 });
    let told = vec![
        vec![stretch(4096, State::Data), stretch(8192, State::Zeroes)],
        vec![stretch(4096, State::Layer(1)), stretch(4096, State::Layer(2)), stretch(1, State::Layer(0))],
        vec![stretch(1000, State::Same), stretch(96, State::Changed)],
    ];
    rig.server.handle_completion(tag, Ok(Answer::Status(told)));
    rig.pump();
    let chunks = [rig.chunk(), rig.chunk(), rig.chunk()];
    assert_eq!(
        chunks.iter().map(|c| (c.last, c.cookie)).collect::<Vec<_>>(),
        [(false, 5), (false, 5), (true, 5)]
    );
    let told: Vec<_> = chunks.into_iter().map(Chunk::status).collect();
    assert_eq!(told[0], (0, vec![(4096, 0), (8192, 3)]));
    assert_eq!(told[1], (1, vec![(4096, 1), (4096, 2), (1, 0)]));
    assert_eq!(told[2], (2, vec![(1000, 0), (96, 1)]));
    assert!(rig.received.is_empty());
}

#[test]
fn one_extent_is_asked_for_where_one_is_wanted() {
    let mut rig = Rig::new().structured(&[ALLOCATION]);
    rig.send(&request(REQ_ONE | FUA, BLOCK_STATUS, 5, 0, 12288));
    let Op::Status { most, .. } = rig.ops.remove(0).1 else { panic!("a status") };
    assert_eq!(most, 1);
}

#[test]
fn a_device_tells_what_it_has() {
    let mut rig = Rig::new().structured(&[ALLOCATION]);
    rig.inline = Some(device());
    rig.send(&write(0, 1, 8192, &[1; 4096]));
    assert_eq!(rig.reply(), (OK, 1));
    rig.send(&request(0, BLOCK_STATUS, 2, 100, 65536));
    assert_eq!(rig.chunk().status(), (0, vec![(8092, 3), (4096, 0), (65536 - 12188, 3)]));
}

#[test]
fn a_status_out_of_range_or_of_nothing_is_refused() {
    let mut rig = Rig::new().structured(&[ALLOCATION]);
    for (offset, length) in [(SIZE, 1), (SIZE - 1, 2), (u64::MAX, 5), (0, 0)] {
        rig.send(&request(0, BLOCK_STATUS, 2, offset, length));
        assert_eq!(rig.chunk().error().0, EINVAL);
    }
    for flags in [DF, NO_HOLE, FAST_ZERO, PAYLOAD_LEN] {
        rig.send(&request(flags, BLOCK_STATUS, 2, 0, 512));
        assert_eq!(rig.chunk().error().0, EINVAL);
    }
    assert!(rig.ops.is_empty());
}

#[test]
fn what_no_device_may_answer_goes_nowhere() {
    let mut rig = Rig::new().structured(&[ALLOCATION]);
    let wrong = [
        Answer::Status(vec![]),
        Answer::Status(vec![vec![]]),
        Answer::Status(vec![vec![stretch(0, State::Data)]]),
        Answer::Status(vec![vec![stretch(513, State::Data)]]),
        Answer::Status(vec![vec![stretch(u64::MAX, State::Data), stretch(2, State::Zeroes)]]),
        Answer::Status(vec![vec![stretch(1, State::Data)], vec![stretch(1, State::Data)]]),
        Answer::Data(Bytes::from_static(b"data")),
    ];
    for wrong in wrong {
        rig.send(&request(0, BLOCK_STATUS, 2, 0, 512));
        let (tag, _) = rig.ops.remove(0);
        rig.server.handle_completion(tag, Ok(wrong));
        rig.pump();
        assert_eq!(rig.chunk().error().0, EIO);
    }
    rig.send(&request(0, BLOCK_STATUS, 2, 0, 512));
    let (tag, _) = rig.ops.remove(0);
    rig.server.handle_completion(tag, Err(DeviceError::Io("the map is lost".to_owned())));
    rig.pump();
    assert_eq!(rig.chunk().error().1, "I/O error: the map is lost");
}

/// A map makes the device look about: few are under way at a time, and reads are not kept from going on for ever.
#[test]
fn few_are_under_way_at_a_time() {
    let mut rig = Rig::new().structured(&[ALLOCATION]);
    rig.send(&request(0, BLOCK_STATUS, 2, 0, 512).repeat(1000));
    assert_eq!(rig.ops.len(), 8);
    assert_eq!(rig.server.wants(&rig.input), Wants::Nothing);
    let disk = device();
    for _ in 0..1000 {
        rig.complete(0, &disk);
    }
    assert!(rig.ops.is_empty());
}
