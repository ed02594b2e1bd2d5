//! Persistent reservations: who may do what, service action by service action, and over a restart.
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
use gateway_iscsi::{Access, BlockLength, LogicalUnit, Target};
use proptest::prelude::*;
use tap_block::memory::MemoryDevice;

const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const RELEASE: u8 = 2;
const CLEAR: u8 = 3;
const PREEMPT: u8 = 4;
const PREEMPT_AND_ABORT: u8 = 5;
const REGISTER_AND_IGNORE: u8 = 6;
const REGISTER_AND_MOVE: u8 = 7;

fn list(key: u64, new: u64, flags: u8) -> Vec<u8> {
    let mut list = [key.to_be_bytes(), new.to_be_bytes()].concat();
    list.extend_from_slice(&[0, 0, 0, 0, flags, 0, 0, 0]);
    list
}

fn out_list(rig: &mut Rig, action: u8, kind: u8, list: &[u8]) -> Done {
    let cdb = [0x5f, action, kind, 0, 0, 0, 0, 0, list.len() as u8, 0];
    rig.writing(&cdb, list)
}

fn out(rig: &mut Rig, action: u8, kind: u8, key: u64, new: u64) -> u8 {
    out_list(rig, action, kind, &list(key, new, 0)).status
}

fn keys(rig: &mut Rig) -> (u32, Vec<u64>) {
    let data = rig.reading(&[0x5e, 0, 0, 0, 0, 0, 0, 1, 0, 0], 256).data;
    let generation = u32::from_be_bytes(data[..4].try_into().unwrap());
    (generation, data[8..].chunks(8).map(|key| u64::from_be_bytes(key.try_into().unwrap())).collect())
}

/// The key and the type of the reservation.
fn held(rig: &mut Rig) -> Option<(u64, u8)> {
    let data = rig.reading(&[0x5e, 1, 0, 0, 0, 0, 0, 1, 0, 0], 256).data;
    data.get(8..16).map(|key| (u64::from_be_bytes(key.try_into().unwrap()), data[21]))
}

fn may(rig: &mut Rig) -> (bool, bool) {
    let read = rig.reading(&cdb10(0x28, 0, 0, 1), 512).status;
    let write = rig.writing(&cdb10(0x2a, 0, 0, 1), &[1; 512]).status;
    assert!([read, write].iter().all(|status| [GOOD, CONFLICT].contains(status)));
    (read == GOOD, write == GOOD)
}

fn attention(rig: &mut Rig) -> Option<u16> {
    rig.command(&[0; 6], 0, 0, b"").sense.map(|(_, code)| code)
}

fn three() -> (Arc<Target>, [Rig; 3]) {
    let (_, _, target) = disk();
    let rigs = [1, 2, 3].map(|isid| Rig::ready(&target, isid));
    (target, rigs)
}

#[test]
fn each_type_lets_through_whom_it_should() {
    for (kind, holder, registrant, other) in [
        (1, (true, true), (true, false), (true, false)),
        (3, (true, true), (false, false), (false, false)),
        (5, (true, true), (true, true), (true, false)),
        (6, (true, true), (true, true), (false, false)),
        (7, (true, true), (true, true), (true, false)),
        (8, (true, true), (true, true), (false, false)),
    ] {
        let (_, [mut one, mut two, mut three]) = three();
        assert_eq!(out(&mut one, RESERVE, kind, 0, 0), CONFLICT, "not registered");
        assert_eq!(out(&mut one, REGISTER, 0, 0, 0x11), GOOD);
        assert_eq!(out(&mut two, REGISTER, 0, 0, 0x22), GOOD);
        assert_eq!(out(&mut one, RESERVE, kind, 0x99, 0), CONFLICT, "not its key");
        assert_eq!(out(&mut one, RESERVE, kind, 0x11, 0), GOOD);
        assert_eq!(out(&mut one, RESERVE, kind, 0x11, 0), GOOD, "again");
        assert_eq!(
            [may(&mut one), may(&mut two), may(&mut three)],
            [holder, registrant, other],
            "type {kind}"
        );
        let is_all = kind >= 7;
        assert_eq!(held(&mut two), Some((if is_all { 0 } else { 0x11 }, kind)));
        assert_eq!(out(&mut two, RESERVE, kind, 0x22, 0) == GOOD, is_all, "every registrant holds those");
        assert_eq!(
            out(&mut one, RESERVE, 9 - kind, 0x11, 0),
            if matches!(kind, 1 | 8 | 3 | 6) { CONFLICT } else { CHECK }
        );
        // RESERVE(6) and these exclude one another.
        assert_eq!(three.command(&[0x16, 0, 0, 0, 0, 0], 0, 0, b"").status, CONFLICT);
        assert_eq!(keys(&mut three), (2, vec![0x11, 0x22]));
    }
}

#[test]
fn registering_and_what_ends_with_it() {
    let (_, [mut one, mut two, _]) = three();
    assert_eq!(out(&mut one, REGISTER, 0, 5, 0x11), CONFLICT, "it has no key yet");
    assert_eq!(out(&mut one, REGISTER, 0, 0, 0x11), GOOD);
    assert_eq!(out(&mut one, REGISTER, 0, 0, 0x12), CONFLICT, "it has one");
    assert_eq!(out(&mut one, REGISTER, 0, 0x11, 0x12), GOOD);
    assert_eq!(out(&mut one, REGISTER_AND_IGNORE, 0, 0x77, 0x13), GOOD);
    assert_eq!(keys(&mut one), (3, vec![0x13]));
    out(&mut two, REGISTER, 0, 0, 0x22);
    out(&mut one, RESERVE, 5, 0x13, 0);
    assert_eq!(out(&mut one, REGISTER, 0, 0x13, 0), GOOD);
    assert_eq!((attention(&mut two), held(&mut two)), (Some(0x2a04), None), "the holder has gone");
    // Of the all-registrants types the last one has to go.
    out(&mut one, REGISTER, 0, 0, 0x11);
    out(&mut one, RESERVE, 8, 0x11, 0);
    out(&mut one, REGISTER, 0, 0x11, 0);
    assert_eq!(held(&mut two), Some((0, 8)));
    out(&mut two, REGISTER, 0, 0x22, 0);
    assert_eq!(held(&mut two), None);
    for (length, sense) in [(0_usize, 0x1a00_u16), (23, 0x1a00)] {
        let short = out_list(&mut one, REGISTER, 0, &vec![0; length]);
        assert_eq!(short.sense.unwrap().1, sense);
    }
    assert_eq!(out_list(&mut one, 12, 0, &list(0, 0, 0)).sense, Some((5, 0x2400)));
}

#[test]
fn releasing_clearing_and_who_is_told() {
    let (_, [mut one, mut two, _]) = three();
    out(&mut one, REGISTER, 0, 0, 0x11);
    out(&mut two, REGISTER, 0, 0, 0x22);
    assert_eq!(out(&mut one, RELEASE, 1, 0x11, 0), GOOD, "there is none");
    out(&mut one, RESERVE, 6, 0x11, 0);
    assert_eq!(out(&mut two, RELEASE, 6, 0x22, 0), GOOD, "it is not its own");
    let wrong = out_list(&mut one, RELEASE, 5, &list(0x11, 0, 0));
    assert_eq!((wrong.sense, held(&mut one)), (Some((5, 0x2604)), Some((0x11, 6))));
    assert_eq!(out(&mut one, RELEASE, 6, 0x11, 0), GOOD);
    assert_eq!((attention(&mut two), attention(&mut one)), (Some(0x2a04), None));
    out(&mut one, RESERVE, 3, 0x11, 0);
    assert_eq!(out(&mut two, CLEAR, 0, 0x22, 0), GOOD);
    assert_eq!((attention(&mut one), attention(&mut two)), (Some(0x2a03), None));
    assert_eq!((held(&mut one), keys(&mut one)), (None, (3, vec![])));
}

#[test]
fn preempting_takes_over_and_aborts() {
    let (_, [mut one, mut two, mut three]) = three();
    out(&mut one, REGISTER, 0, 0, 0x11);
    out(&mut two, REGISTER, 0, 0, 0x22);
    out(&mut three, REGISTER, 0, 0, 0x33);
    assert_eq!(out(&mut one, PREEMPT, 3, 0x11, 0x99), CONFLICT, "nobody has that key");
    assert_eq!(out(&mut one, PREEMPT, 3, 0x11, 0x33), GOOD, "only the registration goes");
    assert_eq!((held(&mut one), attention(&mut three)), (None, Some(0x2a05)));
    out(&mut one, RESERVE, 1, 0x11, 0);
    assert_eq!(out_list(&mut two, PREEMPT, 1, &list(0x22, 0, 0)).sense, Some((5, 0x2600)));
    one.held = true;
    let under_way = one.start(&cdb10(0x28, 0, 0, 1), READ, 512, b"");
    assert_eq!(out(&mut two, PREEMPT_AND_ABORT, 3, 0x22, 0x11), GOOD);
    assert_eq!(held(&mut two), Some((0x22, 3)));
    one.held = false;
    one.release_all();
    assert!(one.try_answer().is_none(), "{under_way} is not answered any more");
    assert_eq!(attention(&mut one), Some(0x2a05));
    assert_eq!((may(&mut one), may(&mut two)), ((false, false), (true, true)));
    assert_eq!(keys(&mut two).1, [0x22]);
    // All registrants hold it: key 0 preempts all the others.
    let (_, [mut one, mut two, mut three]) = self::three();
    for (rig, key) in [(&mut one, 0x11), (&mut two, 0x22), (&mut three, 0x33)] {
        out(rig, REGISTER, 0, 0, key);
    }
    out(&mut one, RESERVE, 7, 0x11, 0);
    assert_eq!(out(&mut two, PREEMPT, 8, 0x22, 0), GOOD);
    assert_eq!((held(&mut two), keys(&mut two).1), (Some((0, 8)), vec![0x22]));
    assert_eq!((attention(&mut one), attention(&mut three)), (Some(0x2a05), Some(0x2a05)));
}

fn transport_id(isid: u8) -> Vec<u8> {
    let mut name = format!("{US},i,0x8000000000{isid:02x}").into_bytes();
    name.push(0);
    name.resize(name.len().next_multiple_of(4), 0);
    [&[0x45, 0, 0, name.len() as u8][..], &name].concat()
}

#[test]
fn registering_for_others_moving_and_full_status() {
    let (_, [mut one, mut two, mut three]) = three();
    let id = transport_id(2);
    let mut specified = list(0, 0x11, 0x08);
    specified.extend_from_slice(&(id.len() as u32).to_be_bytes());
    specified.extend_from_slice(&id);
    assert_eq!(out_list(&mut one, REGISTER, 0, &specified).status, GOOD);
    assert_eq!(keys(&mut one).1.len(), 2);
    assert_eq!(out(&mut two, RESERVE, 3, 0x11, 0), GOOD, "it was registered by the first");
    let mut moved = list(0x11, 0x33, 0);
    moved[17] = 0x02;
    let id = transport_id(3);
    moved[20..24].copy_from_slice(&(id.len() as u32).to_be_bytes());
    moved.extend_from_slice(&id);
    assert_eq!(out_list(&mut one, REGISTER_AND_MOVE, 3, &moved).status, CONFLICT, "it is not the holder");
    assert_eq!(out_list(&mut two, REGISTER_AND_MOVE, 3, &moved).status, GOOD);
    assert_eq!(
        (held(&mut three), may(&mut three), may(&mut two)),
        (Some((0x33, 3)), (true, true), (false, false))
    );
    let status = three.reading(&[0x5e, 3, 0, 0, 0, 0, 0, 1, 0, 0], 512).data;
    let text = String::from_utf8_lossy(&status).into_owned();
    assert_eq!(status.len(), 8 + 2 * (24 + id.len()));
    assert!(
        text.contains(&format!("{US},i,0x800000000001")) && text.contains(&format!("{US},i,0x800000000003"))
    );
    let capabilities = three.reading(&[0x5e, 2, 0, 0, 0, 0, 0, 0, 8, 0], 8).data;
    assert_eq!(capabilities, [0, 8, 0x0d, 0x80, 0xea, 0x01, 0, 0]);
    assert_eq!(out_list(&mut one, REGISTER_AND_MOVE, 3, &[0; 20]).sense, Some((5, 0x1a00)));
}

#[test]
fn reservations_survive_a_restart_when_asked_to() {
    let (_, [mut one, mut two, _]) = three();
    assert_eq!(out_list(&mut one, REGISTER, 0, &list(0, 0x11, 1)).status, GOOD);
    out_list(&mut two, REGISTER, 0, &list(0, 0x22, 1));
    out(&mut one, RESERVE, 5, 0x11, 0);
    let kept = one.kept.last().unwrap().clone();
    assert_eq!(two.kept.len(), 1);
    let device = Arc::new(MemoryDevice::new(SIZE));
    let again = LogicalUnit::new(identity(BlockLength::Short), device.clone(), &kept).unwrap();
    assert_eq!(again.kept(), kept);
    let target = target(&again, Access::Open);
    let mut one = Rig::ready(&target, 1);
    let mut three = Rig::ready(&target, 3);
    assert_eq!((held(&mut three), keys(&mut three)), (Some((0x11, 5)), (0, vec![0x11, 0x22])));
    assert_eq!((may(&mut one), may(&mut three)), ((true, true), (true, false)));
    // Given up: nothing is kept any more, and that is kept, too.
    assert_eq!(out_list(&mut one, REGISTER, 0, &list(0x11, 0x11, 0)).status, GOOD);
    assert!(one.kept.last().unwrap().is_empty());
    for damaged in [&kept[..kept.len() - 1], &[&kept[..], &[0]].concat(), b"CGPR\x02", b"x"] {
        assert!(LogicalUnit::new(identity(BlockLength::Short), device.clone(), damaged).is_none());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens: a reservation has a registered holder, and what is kept comes back the same.
    #[test]
    fn no_sequence_of_actions_leaves_a_reservation_without_a_holder(
        actions in prop::collection::vec((0..3_usize, 0..9_u8, 0..9_u8, 0..4_u64, 0..4_u64, 0..2_u8), 1..30),
    ) {
        let (_, unit, target) = disk();
        let mut rigs = [1, 2, 3].map(|isid| Rig::ready(&target, isid));
        for (who, action, kind, key, new, flags) in actions {
            out_list(&mut rigs[who], action, kind, &list(key, new, flags));
            rigs.iter_mut().for_each(|rig| while attention(rig).is_some() {});
            if let Some((key, kind)) = held(&mut rigs[0]) {
                let registered = keys(&mut rigs[0]).1;
                let sound = if kind >= 7 { !registered.is_empty() } else { registered.contains(&key) };
                prop_assert!(sound);
            }
            let kept = unit.kept();
            let device = Arc::new(MemoryDevice::new(SIZE));
            let again = LogicalUnit::new(identity(BlockLength::Short), device, &kept).unwrap();
            prop_assert_eq!(again.kept(), kept);
        }
    }

    #[test]
    fn any_parameter_list_at_all_is_answered(
        action in 0..9_u8,
        kind in any::<u8>(),
        list in prop::collection::vec(any::<u8>(), 0..120),
    ) {
        let (_, _, target) = disk();
        let mut rig = Rig::ready(&target, 1);
        out_list(&mut rig, action, kind, &list);
    }
}
