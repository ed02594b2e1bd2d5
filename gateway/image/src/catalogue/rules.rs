//! What operators said about keeping history: policies, pins, holds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gateway_journal::{GateMove, GateStep, Hold, MetaRecord, RetentionPolicy};
use tap_block::{Lsn, VolumeId, WallTime};

use crate::gate::Batch;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    pub(super) general: Option<RetentionPolicy>,
    pub(super) own: BTreeMap<VolumeId, RetentionPolicy>,
    pub(super) pins: BTreeMap<(VolumeId, Lsn), String>,
    pub(super) holds: Vec<Hold>,
    pub(super) gates: BTreeMap<(VolumeId, Duration), GateMark>,
}

/// What a gate let go, and what it is at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GateMark {
    /// Points received up to then may go.
    pub released: WallTime,
    /// How the last of them were let go, and when.
    pub last: Option<(GateStep, WallTime)>,
    /// Points that a hook is run for.
    pub batch: Option<Batch>,
}

impl Rules {
    /// The policy in force for a volume: its own, else the general one, else the built-in one.
    #[must_use]
    pub fn policy_of(&self, volume: VolumeId) -> RetentionPolicy {
        self.own_policy(volume).or(self.general.as_ref()).cloned().unwrap_or_default()
    }

    /// The policy set for this volume alone.
    #[must_use]
    pub fn own_policy(&self, volume: VolumeId) -> Option<&RetentionPolicy> {
        self.own.get(&volume)
    }

    /// The policy of volumes that have none of their own, if one was set.
    #[must_use]
    pub const fn general_policy(&self) -> Option<&RetentionPolicy> {
        self.general.as_ref()
    }

    /// The pinned points of a volume with their notes, ascending.
    pub fn pins_of(&self, volume: VolumeId) -> impl Iterator<Item = (Lsn, &str)> {
        let range = (volume, Lsn::ZERO)..=(volume, Lsn::ZERO.plus(Lsn::LIMIT));
        self.pins.range(range).map(|((_, lsn), note)| (*lsn, note.as_str()))
    }

    /// Its pinned points.
    #[must_use]
    pub fn pinned(&self, volume: VolumeId) -> BTreeSet<Lsn> {
        self.pins_of(volume).map(|(lsn, _)| lsn).collect()
    }

    /// The holds of a volume that are in force at `now`.
    pub fn holds_of(&self, volume: VolumeId, now: WallTime) -> impl Iterator<Item = &Hold> {
        self.holds.iter().filter(move |h| h.volume == volume && now < h.until)
    }

    /// The gate of a volume's tier, by the age up to which the tier keeps points.
    #[must_use]
    pub fn gate(&self, volume: VolumeId, keep: Duration) -> GateMark {
        self.gates.get(&(volume, keep)).copied().unwrap_or_default()
    }

    /// Does it know of every hold that `newer` has?
    #[must_use]
    pub fn has_holds_of(&self, newer: &Self) -> bool {
        self.holds == newer.holds
    }

    /// The most that the store's clock had been credited with when any hold was made, or at a start since.
    #[must_use]
    pub fn credited(&self) -> Duration {
        self.holds.iter().map(|hold| hold.credited).max().unwrap_or_default()
    }

    /// The store's clock has been credited with so much in all: holds end later by what they did not know of.
    pub fn credit(&mut self, credited: Duration) {
        for hold in &mut self.holds {
            hold.until = hold.until.plus(credited.saturating_sub(hold.credited));
            hold.credited = credited.max(hold.credited);
        }
    }

    /// Takes a record in that concerns them.
    pub(super) fn apply(&mut self, record: &MetaRecord) {
        match record {
            MetaRecord::PolicySet { .. } => self.set_policies(std::slice::from_ref(record)),
            MetaRecord::Pinned { volume, point, note } => {
                self.pins.insert((*volume, *point), note.clone());
            }
            MetaRecord::Unpinned { volume, point } => drop(self.pins.remove(&(*volume, *point))),
            MetaRecord::Held(hold) => self.holds.push(hold.clone()),
            MetaRecord::GateMoved(moved) => {
                self.gates.entry((moved.volume, moved.keep)).or_default().apply(moved);
            }
            MetaRecord::ImageCreated(_)
            | MetaRecord::ImageRemoved { .. }
            | MetaRecord::BookmarkRemoved { .. }
            | MetaRecord::LossRead => {}
        }
    }

    /// Gates follow from the policy before all of them to the one behind.
    pub(super) fn set_policies(&mut self, sets: &[MetaRecord]) {
        let before = self.clone();
        for set in sets {
            let MetaRecord::PolicySet { volume, policy } = set else { continue };
            match (*volume, policy.clone()) {
                (None, policy) => self.general = policy,
                (Some(volume), Some(policy)) => drop(self.own.insert(volume, policy)),
                (Some(volume), None) => drop(self.own.remove(&volume)),
            }
        }
        let mut gates = std::mem::take(&mut self.gates);
        for (&(volume, keep), mark) in &mut gates {
            mark.follow(&before.policy_of(volume), &self.policy_of(volume), keep);
        }
        gates.retain(|_, mark| *mark != GateMark::default());
        self.gates = gates;
    }

    /// Everything in force, as records that give it again.
    pub(super) fn records(&self) -> Vec<MetaRecord> {
        let general =
            self.general.clone().map(|policy| MetaRecord::PolicySet { volume: None, policy: Some(policy) });
        let own = self.own.iter().map(|(volume, policy)| MetaRecord::PolicySet {
            volume: Some(*volume),
            policy: Some(policy.clone()),
        });
        let pins = self.pins.iter().map(|(&(volume, point), note)| MetaRecord::Pinned {
            volume,
            point,
            note: note.clone(),
        });
        let holds = self.holds.iter().cloned().map(MetaRecord::Held);
        let gates = self.gates.iter().flat_map(|(&(volume, keep), mark)| mark.moves(volume, keep));
        let gates = gates.map(MetaRecord::GateMoved);
        general.into_iter().chain(own).chain(pins).chain(holds).chain(gates).collect()
    }
}

impl GateMark {
    /// Another policy is in force. A hook that is another one, or none any more, hands nothing on: should the gate come back,
    /// its deadline begins anew. And what went on to other tiers than there are now was let go to those alone.
    fn follow(&mut self, before: &RetentionPolicy, after: &RetentionPolicy, keep: Duration) {
        let hook = |policy: &RetentionPolicy| {
            let tier = policy.tiers.iter().find(|tier| tier.keep == keep)?;
            tier.before_drop.as_ref().map(|gate| gate.hook.clone())
        };
        let tiers = |policy: &RetentionPolicy| -> Vec<(Duration, Duration)> {
            policy.tiers.iter().map(|tier| (tier.each, tier.keep)).collect()
        };
        let others = tiers(before) != tiers(after);
        if others {
            self.released = WallTime::EPOCH;
        }
        if others || hook(before) != hook(after) {
            self.batch = None;
        }
    }

    fn apply(&mut self, moved: &GateMove) {
        if moved.step == GateStep::Begun {
            self.batch = Some(Batch { through: moved.through, since: moved.at });
            return;
        }
        self.released = self.released.max(moved.through);
        self.last = Some((moved.step, moved.at));
        // A batch of which something is left goes on.
        self.batch = self.batch.filter(|batch| self.released < batch.through);
    }

    /// The moves that give it again.
    fn moves(&self, volume: VolumeId, keep: Duration) -> impl Iterator<Item = GateMove> {
        let released = self.released;
        let last = self.last.map(|(step, at)| GateMove { volume, keep, through: released, at, step });
        let begun = self.batch.map(|batch| GateMove {
            volume,
            keep,
            through: batch.through,
            at: batch.since,
            step: GateStep::Begun,
        });
        last.into_iter().chain(begun)
    }
}
