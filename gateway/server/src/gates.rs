//! Follows the gates of tiers: runs their hooks, and journals what they let go. What is due when is
//! [`gateway_image::gate`]'s business.
//!
//! One hook runs at a time for a volume, and [`MOST_HOOKS`] in all; others wait their turn, while their deadlines go on: until
//! half of one has gone by, for hooks that hang must not keep others from ever being run.

mod hook;
mod leftover;
mod views;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gateway_image::gate::{Act, Batch, Gatekeeper};
use gateway_journal::{Gate, GateMove, GateStep, MetaRecord};
use gateway_store::AtGate;
use tap_block::{VolumeId, WallTime};
use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tracing::{info, warn};

use crate::gateway::Gateway;

pub(crate) use hook::find;
use hook::{Call, run};

/// Hooks that run at once.
const MOST_HOOKS: usize = 4;
/// How often gates are looked at, at least and at most; in between a sixteenth of the shortest deadline.
const LEAST_PAUSE: Duration = Duration::from_millis(50);
const MOST_PAUSE: Duration = Duration::from_secs(5);
const LOOKS: u32 = 16;

/// A gate: its volume, and the age up to which its tier keeps points.
pub(crate) type GateKey = (VolumeId, Duration);

/// The gates of all volumes, and where their hooks lie.
#[derive(Debug)]
pub(crate) struct Gates {
    hooks: PathBuf,
    known: Mutex<BTreeMap<GateKey, Known>>,
    /// Batches that went without their hook, since the start.
    unguarded: AtomicU64,
}

/// What is known of a gate beside its records.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    pub(crate) keeper: Gatekeeper,
    /// Why the last try failed.
    pub(crate) error: Option<String>,
}

impl Gates {
    pub(crate) const fn new(hooks: PathBuf) -> Self {
        Self { hooks, known: Mutex::new(BTreeMap::new()), unguarded: AtomicU64::new(0) }
    }

    /// Where hooks lie.
    pub(crate) const fn hooks(&self) -> &PathBuf {
        &self.hooks
    }

    pub(crate) fn known(&self, key: GateKey) -> Known {
        self.lock().get(&key).cloned().unwrap_or_default()
    }

    /// Batches that went without their hook, since the start.
    pub(crate) fn unguarded(&self) -> u64 {
        self.unguarded.load(Ordering::Relaxed)
    }

    /// Changes what is known of a gate.
    fn change<T>(&self, at: &AtGate, change: impl FnOnce(&mut Known) -> T) -> T {
        change(self.lock().entry(key_of(at)).or_default())
    }

    /// What is known is of gates that there are, and goes on from what is on record: another policy may have ended a batch.
    fn take_on(&self, gates: &[AtGate], now: WallTime) {
        let mut known = self.lock();
        let mut before = std::mem::take(&mut *known);
        let of = |at: &AtGate| {
            let known = before.remove(&key_of(at)).filter(|known| known.keeper.batch() == at.mark.batch);
            let fresh = || Known { keeper: Gatekeeper::new(at.mark.batch, now), error: None };
            (key_of(at), known.unwrap_or_else(fresh))
        };
        *known = gates.iter().map(of).collect();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<GateKey, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key_of(at: &AtGate) -> GateKey {
    (at.volume, at.tier.keep)
}

/// What follows the gates until it is told to stop.
struct Follower {
    gateway: Arc<Gateway>,
    hooks: JoinSet<Result<(), String>>,
    running: HashMap<GateKey, Running>,
}

/// A hook that runs.
struct Running {
    gate: Gate,
    batch: Batch,
    task: AbortHandle,
}

impl Running {
    /// Is it what the gate waits for?
    fn is_of(&self, at: &AtGate) -> bool {
        let hook = at.tier.before_drop.as_ref().map(|gate| &gate.hook);
        at.mark.batch == Some(self.batch) && hook == Some(&self.gate.hook)
    }
}

/// Follows the gates until `stop` says so; hooks that still run are ended then, and run again after the next start.
pub(crate) async fn follow(gateway: Arc<Gateway>, mut stop: watch::Receiver<bool>) {
    tokio::select! {
        () = leftover::end(gateway.store.id()) => {}
        _ = stop.changed() => return,
    }
    let mut follower = Follower { gateway, hooks: JoinSet::new(), running: HashMap::new() };
    loop {
        let pause = follower.look().await;
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            Some(ended) = follower.hooks.join_next_with_id() => follower.ended(ended),
            _ = stop.changed() => return follower.hooks.shutdown().await,
        }
    }
}

impl Follower {
    /// Looks at every gate; how long until it is to be done again.
    async fn look(&mut self) -> Duration {
        let store = Arc::clone(&self.gateway.store);
        // Points of many volumes may be gone through.
        let Ok(gates) = tokio::task::spawn_blocking(move || store.gates()).await else { return MOST_PAUSE };
        let mut pause = MOST_PAUSE;
        self.end_strays(&gates);
        self.gateway.gates.take_on(&gates, self.gateway.store.age());
        for at in gates {
            let Some(gate) = at.tier.before_drop.clone() else { continue };
            pause = pause.min(gate.deadline / LOOKS);
            self.follow_one(&at, &gate).await;
        }
        pause.max(LEAST_PAUSE)
    }

    /// A hook whose gate or batch is gone, or is another hook's, because another policy is in force, has nobody to wait for it.
    fn end_strays(&mut self, gates: &[AtGate]) {
        let is_stray =
            |key: &GateKey, hook: &Running| !gates.iter().any(|at| key_of(at) == *key && hook.is_of(at));
        for (_, stray) in self.running.extract_if(|key, hook| is_stray(key, hook)) {
            stray.task.abort();
        }
    }

    async fn follow_one(&mut self, at: &AtGate, gate: &Gate) {
        let now = self.gateway.store.age();
        let act =
            self.gateway.gates.change(at, |known| known.keeper.poll(now, gate, at.tier.keep, &at.waiting));
        match act {
            Act::Wait => {}
            Act::Begin(batch) => self.begin(at, batch).await,
            Act::Run(batch) => self.run(at, gate, batch),
            Act::Release(through, step) => self.release(at, through, step).await,
            Act::Forget => self.gateway.gates.change(at, |known| known.keeper.forget()),
        }
    }

    async fn begin(&self, at: &AtGate, batch: Batch) {
        if self.note(at, batch.through, batch.since, GateStep::Begun).await {
            self.gateway.gates.change(at, |known| {
                known.error = None;
                known.keeper.begun(batch);
            });
        }
    }

    /// Runs the hook, unless another one of the volume runs, or too many do, and there is time to wait for them.
    fn run(&mut self, at: &AtGate, gate: &Gate, batch: Batch) {
        let busy = self.running.keys().any(|(volume, _)| *volume == at.volume);
        let pressed = self.gateway.gates.known(key_of(at)).keeper.is_pressed(self.gateway.store.age(), gate);
        if !pressed && (busy || self.running.len() >= MOST_HOOKS) {
            return;
        }
        let key = key_of(at);
        let Some(call) = self.call(at, batch) else { return };
        info!(volume = %call.volume, hook = gate.hook, "{} points wait for it", call.points.len());
        self.gateway.gates.change(at, |known| known.keeper.started());
        let (hooks, hook) = (self.gateway.gates.hooks.clone(), gate.hook.clone());
        let work = async move { run(&find(&hooks, &hook)?, &call).await };
        let task = self.hooks.spawn(work);
        self.running.insert(key, Running { gate: gate.clone(), batch, task });
    }

    fn call(&self, at: &AtGate, batch: Batch) -> Option<Call> {
        let catalogue = self.gateway.store.catalogue();
        let volume = catalogue.volume(at.volume)?.name().clone();
        let points: Vec<_> = at.waiting.iter().filter(|p| p.received_at <= batch.through).copied().collect();
        let uris = |export: &str| self.gateway.front().map(|front| front.uris(export)).unwrap_or_default();
        Call::new(self.gateway.store.id(), volume, &at.tier, points, &uris)
    }

    fn ended(&mut self, ended: Result<(Id, Result<(), String>), JoinError>) {
        let (id, outcome) = ended.unwrap_or_else(|e| (e.id(), Err(e.to_string())));
        // Nobody waits any more for one that was told to end.
        let key = self.running.iter().find(|(_, hook)| hook.task.id() == id).map(|(key, _)| *key);
        let Some((key, Running { gate, .. })) = key.and_then(|key| self.running.remove_entry(&key)) else {
            return;
        };
        if let Err(why) = &outcome {
            warn!(volume = %key.0, hook = gate.hook, "points that wait for it stay: {why}");
        }
        let now = self.gateway.store.age();
        let mut known = self.gateway.gates.lock();
        if let Some(known) = known.get_mut(&key) {
            known.keeper.finished(now, &gate, outcome.is_ok());
            known.error = outcome.err();
        }
    }

    async fn release(&mut self, at: &AtGate, through: WallTime, step: GateStep) {
        if let Some(hook) = self.running.remove(&key_of(at)) {
            hook.task.abort();
        }
        if !self.note(at, through, self.gateway.store.age(), step).await {
            return;
        }
        self.gateway.gates.change(at, |known| {
            known.keeper.released();
            known.error = known.error.take().filter(|_| step != GateStep::Passed);
        });
        if step == GateStep::Overdue {
            self.gateway.gates.unguarded.fetch_add(1, Ordering::Relaxed);
            warn!(volume = %at.volume, "the deadline of points that wait for a hook has passed: they go without it");
        }
        self.gateway.store.settle_soon();
    }

    /// Puts it on record; whether that was possible. If not it is tried again at the next look.
    async fn note(&self, at: &AtGate, through: WallTime, now: WallTime, step: GateStep) -> bool {
        let moved = GateMove { volume: at.volume, keep: at.tier.keep, through, at: now, step };
        let written = self.gateway.images.write(MetaRecord::GateMoved(moved)).await;
        written.inspect_err(|e| warn!(volume = %at.volume, "a gate waits: {}", e.detail)).is_ok()
    }
}
