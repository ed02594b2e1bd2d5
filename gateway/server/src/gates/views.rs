//! Gates as people see them: on the timeline, in health, and when a policy is set.

use std::sync::Arc;

use cx_api::{AtGateView, Code, GateOutcome, GateState, KeptView, Problem, Span};
use gateway_image::catalogue::{Rules, Volume};
use gateway_journal::{GateStep, KeptPoint, RetentionPolicy};
use gateway_store::AtGate;
use tap_block::units::count;
use tap_block::{Name, VolumeId};

use super::{Known, find, key_of};
use crate::gateway::Gateway;
use crate::http::Answer;

impl Gateway {
    /// Are the hooks of a policy programs that may be run?
    pub(crate) fn check_hooks(&self, policy: Option<&RetentionPolicy>) -> Answer<()> {
        let gates = policy.iter().flat_map(|policy| &policy.tiers).filter_map(|t| t.before_drop.as_ref());
        for gate in gates {
            find(self.gates.hooks(), &gate.hook).map_err(|why| {
                Problem::new(Code::Invalid, "the hook of `before_drop` cannot be run").because(why)
            })?;
        }
        Ok(())
    }

    /// The gates of a volume.
    pub(crate) fn gate_views(&self, volume: VolumeId) -> Vec<AtGateView> {
        let gates = self.store.gates_of(volume);
        gates.iter().map(|at| view(at, &self.gates.known(key_of(at)))).collect()
    }

    /// Hooks that fail, and points that went without theirs.
    pub(crate) fn gate_alerts(&self) -> Vec<String> {
        let catalogue = self.store.catalogue();
        // What waits is looked up only where there is something to say: it may take a while.
        let troubled = catalogue.volumes().filter(|volume| self.is_troubled(catalogue.rules(), volume.id()));
        let of = |volume: &Arc<Volume>| {
            let views = self.gate_views(volume.id());
            views.iter().filter_map(|view| alert(volume.name(), view)).collect::<Vec<_>>()
        };
        troubled.flat_map(of).collect()
    }

    /// Does a hook of the volume fail, or did points go without one?
    fn is_troubled(&self, rules: &Rules, volume: VolumeId) -> bool {
        let gated = rules.policy_of(volume).tiers.into_iter().filter(|tier| tier.before_drop.is_some());
        gated.map(|tier| tier.keep).any(|keep| {
            let last = rules.gate(volume, keep).last.map(|(step, _)| step);
            let without = matches!(last, Some(GateStep::Overdue | GateStep::Overruled));
            without || self.gates.known((volume, keep)).keeper.failures() > 0
        })
    }
}

fn view(at: &AtGate, known: &Known) -> AtGateView {
    let gate = at.tier.before_drop.as_ref();
    let kept = |p: &KeptPoint| KeptView { lsn: p.lsn, time: p.captured_at };
    let keeper = &known.keeper;
    let state = match (keeper.is_running(), keeper.failures(), at.waiting.is_empty()) {
        (true, ..) => GateState::Running,
        (_, 1.., _) => GateState::Failing,
        (.., false) => GateState::Waiting,
        (.., true) => GateState::Idle,
    };
    AtGateView {
        keep: Span(at.tier.keep),
        hook: gate.map(|gate| gate.hook.clone()).unwrap_or_default(),
        state,
        waiting: count(at.waiting.len()),
        first: at.waiting.first().map(kept),
        last: at.waiting.last().map(kept),
        deadline: gate.and_then(|gate| keeper.deadline(gate)),
        failures: keeper.failures(),
        error: known.error.clone(),
        last_outcome: at.mark.last.and_then(|(step, _)| outcome(step)),
        last_at: at.mark.last.map(|(_, at)| at),
    }
}

const fn outcome(step: GateStep) -> Option<GateOutcome> {
    match step {
        GateStep::Begun => None,
        GateStep::Passed => Some(GateOutcome::Passed),
        GateStep::Overdue => Some(GateOutcome::Overdue),
        GateStep::Overruled => Some(GateOutcome::Overruled),
    }
}

/// A hook that succeeds ends the alarm.
fn alert(name: &Name, gate: &AtGateView) -> Option<String> {
    let (hook, why) = (&gate.hook, gate.error.as_deref().unwrap_or("nothing is known of the reason"));
    if gate.failures > 0 {
        let until = gate.deadline.map(|at| at.to_string()).unwrap_or_default();
        return Some(format!(
            "{} points of {name} wait for {hook}, which fails: {why}; they go without it at {until}",
            gate.waiting
        ));
    }
    let went = match gate.last_outcome? {
        GateOutcome::Passed => return None,
        GateOutcome::Overdue => "because it did not succeed before its deadline",
        GateOutcome::Overruled => "because there was no room for them",
    };
    let at = gate.last_at.map(|at| at.to_string()).unwrap_or_default();
    Some(format!(
        "points of {name} went without {hook} at {at}, {went}: see to it; its next success ends this alarm"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_or_went_without_is_said_until_a_hook_succeeds() {
        let golden: cx_api::TimelineView =
            serde_json::from_str(include_str!("../../../../cx/api/tests/golden/timeline.json")).unwrap();
        let (name, failing) = ("web01".parse().unwrap(), golden.gates[0].clone());
        let text = alert(&name, &failing).unwrap();
        assert!(text.contains("wait for archive.sh, which fails") && text.contains("no tape"), "{text}");
        let settled = AtGateView { failures: 0, ..failing };
        assert_eq!(alert(&name, &settled), None);
        for went in [GateOutcome::Overdue, GateOutcome::Overruled] {
            let text = alert(&name, &AtGateView { last_outcome: Some(went), ..settled.clone() }).unwrap();
            assert!(text.contains("went without archive.sh"), "{text}");
        }
    }
}
