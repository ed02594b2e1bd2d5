//! Points of a tier with a gate stay until they are let go, or until there is no room for them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use std::time::Duration;

use common::lab::{Lab, policy};
use gateway_journal::{Gate, GateMove, GateStep, MetaRecord, RetentionPolicy};
use gateway_store::AtGate;
use tap_block::{Lsn, WallTime};

/// One point a millisecond for 1000 s, which go through a gate; then one each 200 ms.
fn gated() -> RetentionPolicy {
    let mut policy = policy(100, &[(1, 1000), (200, 6000)], 0);
    let gate = Gate { hook: "archive.sh".into(), deadline: Duration::from_secs(600) };
    policy.tiers[0].before_drop = Some(gate);
    policy
}

/// The main volume's gate.
fn gate(lab: &Lab) -> AtGate {
    lab.store().gates().into_iter().find(|g| g.volume == lab.volume()).unwrap()
}

fn moved(lab: &Lab, through: WallTime, step: GateStep) {
    let keep = gate(lab).tier.keep;
    let at = lab.store().age();
    lab.rule(MetaRecord::GateMoved(GateMove { volume: lab.volume(), keep, through, at, step }));
}

/// History of which the tier would let most go.
fn old() -> Lab {
    let mut lab = Lab::new(31, gated());
    lab.write(250, 5);
    lab.settle();
    lab.clock.advance(Duration::from_secs(1500));
    lab.settle();
    lab
}

#[test]
fn points_wait_until_they_are_let_go() {
    let mut lab = old();
    let (kept, waits) = (lab.check(3), gate(&lab).waiting);
    let points: Vec<Lsn> = waits.iter().map(|p| p.lsn).collect();
    assert!(points.len() > 50 && points.iter().all(|p| kept.contains(p)), "{points:?}");
    lab.open();
    assert_eq!(gate(&lab).waiting, waits, "over a restart too");
    let through = waits[points.len() / 2].received_at;
    moved(&lab, through, GateStep::Begun);
    lab.settle();
    assert_eq!(gate(&lab).waiting, waits, "a hook that runs lets nothing go");
    moved(&lab, through, GateStep::Passed);
    lab.settle();
    let left = lab.check(3);
    let gone = waits.iter().filter(|p| !left.contains(&p.lsn));
    assert!(gone.clone().count() > 20 && gone.clone().all(|p| p.received_at <= through));
    assert!(waits.iter().filter(|p| p.received_at > through).all(|p| left.contains(&p.lsn)));
    let mark = gate(&lab).mark;
    lab.open();
    assert_eq!(gate(&lab).mark, mark, "and it is not run again for them");
    assert!(gate(&lab).waiting.iter().all(|p| p.received_at > through));
    assert_eq!(mark.last.map(|(step, _)| step), Some(GateStep::Passed));
}

#[test]
fn without_room_points_go_past_the_gate_and_that_is_on_record() {
    let lab = old();
    let (waits, used) = (gate(&lab).waiting, lab.store().usage()[&lab.volume()].total());
    let policy = RetentionPolicy { limit: Some(used / 2), ..gated() };
    lab.rule(MetaRecord::PolicySet { volume: Some(lab.volume()), policy: Some(policy) });
    lab.settle();
    let left = lab.check(3);
    assert!(waits.iter().any(|p| !left.contains(&p.lsn)));
    // The record is written behind the settle.
    moved(&lab, WallTime::EPOCH, GateStep::Begun);
    assert_eq!(gate(&lab).mark.last.map(|(step, _)| step), Some(GateStep::Overruled));
}

#[test]
fn what_a_pin_kept_past_its_gate_is_handed_on_and_not_let_go_with_others() {
    let lab = old();
    let pin = gate(&lab).waiting[7];
    let pinned =
        |note: &str| MetaRecord::Pinned { volume: lab.volume(), point: pin.lsn, note: note.to_owned() };
    lab.rule(pinned("for good"));
    assert!(gate(&lab).waiting.contains(&pin), "the hook gets it");
    let reader = lab.store().open_point(lab.volume(), pin.lsn).unwrap();
    lab.rule(MetaRecord::Unpinned { volume: lab.volume(), point: pin.lsn });
    assert!(gate(&lab).waiting.contains(&pin), "whoever reads it meanwhile");
    drop(reader);
    lab.rule(pinned("again"));
    // Room is short, and everything but the pin goes.
    let policy = RetentionPolicy { limit: Some(1), ..gated() };
    lab.rule(MetaRecord::PolicySet { volume: Some(lab.volume()), policy: Some(policy) });
    lab.settle();
    lab.rule(MetaRecord::PolicySet { volume: Some(lab.volume()), policy: Some(gated()) });
    let at = gate(&lab);
    assert_eq!(at.mark.last.map(|(step, _)| step), Some(GateStep::Overruled));
    assert!(at.mark.released < pin.received_at, "{at:?}");
    lab.rule(MetaRecord::Unpinned { volume: lab.volume(), point: pin.lsn });
    // The next tier has no more use for it.
    lab.clock.advance(Duration::from_secs(7000));
    lab.settle();
    assert!(gate(&lab).waiting.contains(&pin));
    assert!(lab.check(3).contains(&pin.lsn), "no hook has had it");
}
