//! SIMPLE, ORDERED and HEAD OF QUEUE commands: who waits for whom, and that nobody waits for ever.
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

use common::*;
use gateway_iscsi::{Access, Limits};
use proptest::prelude::*;

const SIMPLE: u8 = 1;
const ORDERED: u8 = 2;
const HEAD: u8 = 3;

/// A session whose operations are held.
fn held() -> Rig {
    let (_, _, target) = disk();
    let mut rig = Rig::ready(&target, 1);
    rig.held = true;
    rig
}

fn start(rig: &mut Rig, attribute: u8, lba: u32) -> u32 {
    rig.start(&cdb10(0x2a, 0, lba, 1), WRITE | attribute, 512, &[lba as u8; 512])
}

/// The blocks that operations under way write.
fn under_way(rig: &Rig) -> Vec<u64> {
    rig.ops.iter().map(|(_, op, _)| op.extent().unwrap().offset() / 512).collect()
}

#[test]
fn an_ordered_command_waits_for_all_before_it_and_all_after_it_wait_for_it() {
    let mut rig = held();
    let all = [(SIMPLE, 1), (0, 2), (ORDERED, 3), (SIMPLE, 4), (ORDERED, 5)];
    let itts = all.map(|(attribute, lba)| start(&mut rig, attribute, lba));
    assert_eq!(under_way(&rig), [1, 2]);
    rig.release(1);
    assert_eq!(under_way(&rig), [1]);
    rig.release(0);
    assert_eq!(under_way(&rig), [3]);
    rig.release(0);
    assert_eq!(under_way(&rig), [4]);
    rig.release_all();
    for itt in [1, 0, 2, 3, 4].map(|n| itts[n]) {
        assert_eq!(rig.done(itt).status, GOOD, "answered in that order");
    }
}

#[test]
fn the_head_of_the_queue_overtakes_what_has_not_begun() {
    let mut rig = held();
    start(&mut rig, SIMPLE, 1);
    start(&mut rig, ORDERED, 2);
    start(&mut rig, HEAD, 3);
    start(&mut rig, SIMPLE, 4);
    assert_eq!(under_way(&rig), [1, 3]);
    rig.release(0);
    assert_eq!(under_way(&rig), [3], "the ordered one waits for the head as well");
    rig.release(0);
    assert_eq!(under_way(&rig), [2]);
    rig.release(0);
    assert_eq!(under_way(&rig), [4]);
}

#[test]
fn a_command_that_waits_is_not_looked_at_yet_and_asks_for_nothing() {
    let (_, _, target) = disk();
    let mut rig = Rig::ready_with(&target, 1, &["InitialR2T=Yes", "ImmediateData=No"]);
    rig.held = true;
    let first = rig.start(&cdb10(0x28, 0, 0, 1), READ, 512, b"");
    let beyond = rig.start(&cdb10(0x28, 0, u32::MAX, 1), READ | ORDERED, 512, b"");
    let write = rig.start(&cdb10(0x2a, 0, 8, 1), WRITE | ORDERED, 512, b"");
    assert!(rig.try_answer().is_none(), "neither an error nor an R2T");
    rig.release(0);
    assert_eq!(rig.done(first).status, GOOD);
    assert_eq!(rig.done(beyond).sense, Some((5, 0x2100)));
    let r2t = rig.answer();
    assert_eq!((r2t.opcode(), r2t.word(16)), (0x31, write));
    rig.data_out(write, r2t.word(20), 0, 0, &[8; 512], true);
    rig.release_all();
    assert_eq!(rig.done(write).status, GOOD);
}

#[test]
fn sessions_do_not_wait_for_one_another() {
    let (_, _, target) = disk();
    let (mut one, mut two) = (Rig::ready(&target, 1), Rig::ready(&target, 2));
    one.held = true;
    start(&mut one, ORDERED, 1);
    let other = start(&mut two, ORDERED, 2);
    assert_eq!(two.done(other).status, GOOD);
    // What one ends in its own task set is none of the other's business.
    two.manage(4, NO_TAG);
    assert_eq!(two.answer().header[2], 0);
    one.release_all();
    assert_eq!(one.answer().header[3], GOOD);
}

#[test]
fn a_reset_ends_those_that_wait_as_well() {
    let (_, _, target) = disk();
    let (mut one, mut two) = (Rig::ready(&target, 1), Rig::ready(&target, 2));
    one.held = true;
    let lost = [(SIMPLE, 1), (ORDERED, 2), (SIMPLE, 3)].map(|(a, lba)| start(&mut one, a, lba));
    two.manage(5, NO_TAG);
    one.release_all();
    two.pump();
    assert_eq!(two.answer().opcode(), 0x22);
    assert!(one.try_answer().is_none(), "{lost:?} are not answered");
    one.held = false;
    assert_eq!(one.command(&[0; 6], 0, 0, b"").sense, Some((6, 0x2903)));
    assert_eq!(one.command(&[0; 6], ORDERED, 0, b"").status, GOOD);
}

/// A command as the model has it.
#[derive(Debug, Clone, Copy)]
struct Known {
    attribute: u8,
    itt: u32,
    ended: bool,
}

/// The commands, by number, that have begun or ended, as SAM-5 has it.
fn may_have_begun(all: &[Known]) -> BTreeSet<usize> {
    let before = |n: usize| all.iter().take(n).filter(|k| !k.ended && k.attribute != HEAD);
    let heads = all.iter().any(|k| !k.ended && k.attribute == HEAD);
    let free = |n: usize, k: &Known| match k.attribute {
        HEAD => true,
        ORDERED => !heads && before(n).next().is_none(),
        _ => !heads && before(n).all(|k| k.attribute != ORDERED),
    };
    all.iter().enumerate().filter(|(n, k)| k.ended || free(*n, k)).map(|(n, _)| n).collect()
}

#[derive(Debug, Clone, Copy)]
enum Act {
    Start(u8),
    Finish(usize),
    Abort(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (0_u8..4).prop_map(Act::Start),
        3 => (0..8_usize).prop_map(Act::Finish),
        1 => (0..40_usize).prop_map(Act::Abort),
    ];
    prop::collection::vec(act, 1..40)
}

/// Takes what was answered off, noting what has ended.
fn note_answers(rig: &mut Rig, all: &mut [Known]) {
    while let Some(answer) = rig.try_answer() {
        if answer.opcode() == 0x21 {
            let known = all.iter_mut().find(|k| k.itt == answer.word(16)).unwrap();
            assert!(!known.ended, "answered twice, or aborted before");
            known.ended = true;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_ends_when_each_begins_as_soon_as_it_may_and_no_sooner(acts in acts(), room in any::<bool>()) {
        let (_, _, target) = disk();
        let in_flight = if room { 1 << 20 } else { 512 };
        let mut rig = Rig::with(&target, Limits { in_flight, ..Limits::default() }, Access::Open);
        rig.log_in(1, &["InitialR2T=No", "ImmediateData=Yes"]);
        rig.command(&[0; 6], 0, 0, b"");
        rig.held = true;
        let (mut all, mut begun) = (Vec::<Known>::new(), BTreeSet::new());
        for act in acts {
            match act {
                Act::Start(attribute) => {
                    let lba = all.len() as u32;
                    let itt = start(&mut rig, attribute, lba);
                    all.push(Known { attribute, itt, ended: false });
                }
                Act::Finish(n) if !rig.ops.is_empty() => rig.release(n % rig.ops.len()),
                Act::Abort(n) if n < all.len() && !all[n].ended => {
                    all[n].ended = true;
                    rig.manage(1, all[n].itt);
                }
                _ => {}
            }
            note_answers(&mut rig, &mut all);
            begun.extend(under_way(&rig).into_iter().map(|lba| lba as usize));
            let ended = all.iter().enumerate().filter(|(_, k)| k.ended).map(|(n, _)| n);
            let now: BTreeSet<usize> = begun.iter().copied().chain(ended).collect();
            // One that had begun stays so when a head comes.
            let expected: BTreeSet<usize> = may_have_begun(&all).union(&begun).copied().collect();
            prop_assert_eq!(&now, &expected);
        }
        rig.release_all();
        note_answers(&mut rig, &mut all);
        prop_assert!(all.iter().all(|known| known.ended), "{:?}", all);
    }
}
