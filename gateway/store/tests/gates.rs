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
