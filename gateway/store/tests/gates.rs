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

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::lab::{Lab, policy};
use gateway_image::gate::{Act, Batch, Gatekeeper};
use gateway_journal::{Gate, GateMove, GateStep, MetaRecord, RetentionPolicy};
use gateway_store::{AtGate, OpenPoint};
use proptest::prelude::*;
use tap_block::{Lsn, WallTime};
use testbed_model::Random;

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

/// Every point of the one tier goes through its gate, and to no other tier.
fn narrow() -> RetentionPolicy {
    let mut policy = policy(50, &[(1, 300)], 0);
    policy.tiers[0].each = Duration::from_nanos(1);
    policy.tiers[0].before_drop = gated().tiers[0].before_drop.clone();
    policy
}

/// A hook that is followed as the gateway does it, and what it was given.
#[derive(Default)]
struct Hook {
    keeper: Gatekeeper,
    running: Option<(Batch, Vec<Lsn>)>,
    handed: BTreeSet<Lsn>,
}

impl Hook {
    /// One look.
    fn follow(&mut self, lab: &Lab, random: &mut Random) {
        let (at, now) = (gate(lab), lab.store().age());
        let of = at.tier.before_drop.clone().unwrap();
        if self.keeper.batch() != at.mark.batch {
            *self =
                Self { keeper: Gatekeeper::new(at.mark.batch, now), running: None, ..std::mem::take(self) };
        }
        match self.keeper.poll(now, &of, at.tier.keep, &at.waiting) {
            Act::Begin(batch) => {
                moved_at(lab, batch.through, batch.since, GateStep::Begun);
                self.keeper.begun(batch);
            }
            Act::Run(batch) => {
                let points = at.waiting.iter().filter(|p| p.received_at <= batch.through);
                self.running = Some((batch, points.map(|p| p.lsn).collect()));
                self.keeper.started();
            }
            Act::Release(through, step) => {
                // Without it, and said to be: as good for what is asked here.
                let waited =
                    at.waiting.iter().filter(|p| step == GateStep::Overdue && p.received_at <= through);
                self.handed.extend(waited.map(|p| p.lsn));
                moved(lab, through, step);
                self.keeper.released();
                self.running = None;
            }
            Act::Forget => self.keeper.forget(),
            Act::Wait => {}
        }
        let of = at.tier.before_drop.unwrap();
        if random.one_in(3)
            && let Some((_, points)) = self.running.take()
        {
            let success = random.one_in(2);
            self.handed.extend(points.into_iter().filter(|_| success));
            self.keeper.finished(lab.store().age(), &of, success);
        }
    }
}

fn moved_at(lab: &Lab, through: WallTime, at: WallTime, step: GateStep) {
    let keep = gate(lab).tier.keep;
    lab.rule(MetaRecord::GateMoved(GateMove { volume: lab.volume(), keep, through, at, step }));
}

/// Pins, readers and policies come and go.
fn meddle(lab: &Lab, random: &mut Random, readers: &mut Vec<OpenPoint>) {
    let kept = lab.store().kept(lab.volume()).unwrap_or_default().points.clone();
    let any = (!kept.is_empty()).then(|| kept[random.below(kept.len() as u64) as usize].lsn);
    let volume = lab.volume();
    match (random.below(6), any) {
        (0, Some(point)) => lab.rule(MetaRecord::Pinned { volume, point, note: String::new() }),
        (1, _) => {
            for point in lab.store().catalogue().rules().pinned(volume) {
                lab.rule(MetaRecord::Unpinned { volume, point });
            }
        }
        (2, Some(point)) => readers.extend(lab.store().open_point(volume, point)),
        (3, _) => readers.clear(),
        (4, _) => {
            let mut policy = narrow();
            policy.tiers[0].before_drop.as_mut().unwrap().hook = format!("hook-{}", random.below(2));
            lab.rule(MetaRecord::PolicySet { volume: Some(volume), policy: Some(policy) });
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: common::cases(12), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_point_goes_that_its_hook_did_not_have(seed: u64) {
        let mut random = Random::new(seed);
        let mut lab = Lab::new(seed, narrow());
        lab.write(60, 2);
        let (mut hook, mut readers) = (Hook::default(), Vec::new());
        let mut seen: BTreeMap<Lsn, WallTime> = BTreeMap::new();
        for _ in 0..60 {
            lab.more(1 + random.below(3) as usize, random.below(30));
            lab.clock.advance(Duration::from_secs(random.below(60)));
            meddle(&lab, &mut random, &mut readers);
            hook.follow(&lab, &mut random);
            if random.one_in(8) {
                readers.clear();
                lab.open();
                hook.running = None;
                hook.keeper = Gatekeeper::new(gate(&lab).mark.batch, lab.store().age());
            }
            lab.settle();
            let kept = lab.store().kept(lab.volume()).unwrap_or_default().points.clone();
            let is_kept = |lsn: &Lsn| kept.binary_search_by_key(lsn, |p| p.lsn).is_ok();
            // Of records of one moment the tier keeps the last.
            let is_thinned = |lsn: &Lsn, at: &WallTime| kept.iter().any(|p| p.lsn > *lsn && p.captured_at == *at);
            seen.retain(|lsn, at| is_kept(lsn) || !(hook.handed.contains(lsn) || is_thinned(lsn, at)));
            let gone: Vec<&Lsn> = seen.keys().filter(|lsn| !is_kept(lsn)).collect();
            prop_assert!(gone.is_empty(), "{gone:?} went without it");
            seen.extend(kept.iter().map(|p| (p.lsn, p.captured_at)));
        }
        prop_assert!(!hook.handed.is_empty());
        lab.check(5);
    }
}
