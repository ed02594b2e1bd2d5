//! Gates: a tier may let points go only when a hook has handed them on, or when that took too long.
//!
//! ```text
//!   a point is due ──── a quarter of the deadline ────► the hook is run ──► it succeeds ──► they may go
//!   (older than its      others gather                   │    ▲ pauses       │ never in time
//!    tier keeps)                                         └────┘ that grow    └─ deadline ─► they go, with an alarm
//! ```
//!
//! The points of a batch are fixed when its hook is first run, so that every try sees the same. `now` is the store's own
//! clock. What has to survive a restart (the batch, and what was let go) is journalled by whoever follows [`Gatekeeper::poll`].

use std::time::Duration;

use gateway_journal::{Gate, GateStep, KeptPoint};
use tap_block::WallTime;

/// Points that a hook is run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// Those that wait, received up to then.
    pub through: WallTime,
    /// When the hook was first run for them.
    pub since: WallTime,
}

/// What is to be done at a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Nothing yet.
    Wait,
    /// To journal that a batch has begun, and then [`Gatekeeper::begun`].
    Begin(Batch),
    /// To run the hook for the points of the batch; [`Gatekeeper::finished`] takes the outcome.
    Run(Batch),
    /// To end a hook that still runs, and to journal that the points received up to a time may go, and why; then
    /// [`Gatekeeper::released`].
    Release(WallTime, GateStep),
    /// [`Gatekeeper::forget`], and nothing to journal: nothing of the batch is left to hand on.
    Forget,
}

/// The pause after a first failure; each is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
/// The longest pause, and a share of the deadline that none is longer than.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
const PAUSES: u32 = 8;
/// A share of the deadline for which points gather, and that a hook is given at least after a start.
const GATHERING: u32 = 4;
/// A share of the deadline at whose end a gate waits for no other's hook.
const PATIENCE: u32 = 2;

/// One gate at work.
#[derive(Debug, Clone, Default)]
pub struct Gatekeeper {
    batch: Option<Batch>,
    /// Since when it is followed.
    followed: WallTime,
    /// Nothing of the batch is left.
    over: bool,
    running: bool,
    passed: bool,
    /// Tries that failed, of this batch.
    failures: u32,
    /// No try before.
    next: WallTime,
}

impl Gatekeeper {
    /// At what was journalled, from now on. A hook that was under way is run again.
    #[must_use]
    pub fn new(batch: Option<Batch>, now: WallTime) -> Self {
        Self { batch, followed: now, ..Self::default() }
    }

    /// The batch on record.
    #[must_use]
    pub const fn batch(&self) -> Option<Batch> {
        self.batch
    }

    /// When the points of the batch under way go without their hook. Whatever time went by before the start, it gets a share of
    /// its deadline.
    #[must_use]
    pub fn deadline(&self, gate: &Gate) -> Option<WallTime> {
        let batch = self.batch.filter(|_| !self.over)?;
        let (whole, least) = (gate.deadline, gate.deadline / GATHERING);
        Some(batch.since.plus(whole).max(self.followed.plus(least)))
    }

    /// Has so much of its deadline gone by that it waits for no other's hook to end?
    #[must_use]
    pub fn is_pressed(&self, now: WallTime, gate: &Gate) -> bool {
        self.deadline(gate).is_some_and(|at| at.since(now) <= gate.deadline / PATIENCE)
    }

    /// Is its hook running?
    #[must_use]
    pub const fn is_running(&self) -> bool {
        self.running
    }

    /// Tries of the batch that failed.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// What is to be done now. `waiting`: the points that wait, ascending; `keep`: the age at which they are due.
    #[must_use]
    pub fn poll(&self, now: WallTime, gate: &Gate, keep: Duration, waiting: &[KeptPoint]) -> Act {
        let Some((batch, deadline)) = self.batch.zip(self.deadline(gate)) else {
            return gather(now, gate, keep, waiting);
        };
        if self.passed {
            return Act::Release(batch.through, GateStep::Passed);
        }
        // There was no room for them.
        let left = waiting.first().is_some_and(|p| p.received_at <= batch.through);
        if !left && !self.running {
            return Act::Forget;
        }
        if now >= deadline {
            return Act::Release(batch.through, GateStep::Overdue);
        }
        if self.running || now < self.next { Act::Wait } else { Act::Run(batch) }
    }

    /// A batch is on record.
    pub fn begun(&mut self, batch: Batch) {
        *self = Self::new(Some(batch), batch.since);
    }

    /// Its hook runs.
    pub fn started(&mut self) {
        self.running = true;
    }

    /// The hook has ended.
    pub fn finished(&mut self, now: WallTime, gate: &Gate, success: bool) {
        self.running = false;
        self.passed = success;
        if !success {
            let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16)).min(LONGEST_PAUSE);
            self.next = now.plus(pause.min(gate.deadline / PAUSES));
            self.failures = self.failures.saturating_add(1);
        }
    }

    /// Nothing of the batch is left.
    pub fn forget(&mut self) {
        *self = Self { over: true, ..Self::new(self.batch, self.followed) };
    }

    /// That its points may go is on record.
    pub fn released(&mut self) {
        *self = Self::default();
    }
}

/// Enough has gathered when the first point waits for long enough.
fn gather(now: WallTime, gate: &Gate, keep: Duration, waiting: &[KeptPoint]) -> Act {
    let (Some(first), Some(last)) = (waiting.first(), waiting.last()) else { return Act::Wait };
    let overdue = now.since(first.received_at).saturating_sub(keep);
    if overdue < gate.deadline / GATHERING {
        return Act::Wait;
    }
    Act::Begin(Batch { through: last.received_at, since: now })
}

#[cfg(test)]
mod tests {
    use tap_block::Lsn;

    use super::*;

    const KEEP: Duration = Duration::from_secs(1000);

    fn at(seconds: u64) -> WallTime {
        WallTime::from_nanos(seconds * 1_000_000_000)
    }

    /// Points received at these times.
    fn points(times: &[u64]) -> Vec<KeptPoint> {
        let point = |&t| KeptPoint::new(Lsn::new(t).unwrap(), at(t), at(t));
        times.iter().map(point).collect()
    }

    fn gate(deadline: u64) -> Gate {
        Gate { hook: "archive.sh".into(), deadline: Duration::from_secs(deadline) }
    }

    #[test]
    fn points_gather_and_the_batch_stays_as_it_began() {
        let (mut keeper, gate) = (Gatekeeper::default(), gate(4000));
        assert_eq!(keeper.poll(at(9000), &gate, KEEP, &[]), Act::Wait);
        assert_eq!(keeper.poll(at(1999), &gate, KEEP, &points(&[0, 500])), Act::Wait);
        let batch = Batch { through: at(900), since: at(2000) };
        assert_eq!(keeper.poll(at(2000), &gate, KEEP, &points(&[0, 500, 900])), Act::Begin(batch));
        keeper.begun(batch);
        assert_eq!(keeper.poll(at(2010), &gate, KEEP, &points(&[0, 500, 900, 1005])), Act::Run(batch));
        keeper.started();
        assert_eq!(keeper.poll(at(2020), &gate, KEEP, &points(&[0, 500, 900, 1005])), Act::Wait);
        keeper.finished(at(2030), &gate, true);
        let passed = Act::Release(at(900), GateStep::Passed);
        assert_eq!(keeper.poll(at(2030), &gate, KEEP, &points(&[0, 500, 900, 1005])), passed);
        keeper.released();
        assert_eq!(keeper.poll(at(2031), &gate, KEEP, &points(&[1005])), Act::Wait);
        assert!(matches!(keeper.poll(at(3005), &gate, KEEP, &points(&[1005])), Act::Begin(_)));
    }

    #[test]
    fn failures_are_tried_again_with_growing_pauses_until_the_deadline() {
        let (mut keeper, gate, due) = (Gatekeeper::default(), gate(100_000), points(&[0]));
        let batch = Batch { through: at(0), since: at(50_000) };
        keeper.begun(batch);
        let (mut now, mut tries) = (50_000, Vec::new());
        let end = loop {
            match keeper.poll(at(now), &gate, KEEP, &due) {
                Act::Run(_) => {
                    tries.push(now);
                    keeper.started();
                    keeper.finished(at(now), &gate, false);
                }
                Act::Wait => now += 1,
                end => break end,
            }
        };
        assert_eq!((end, now), (Act::Release(at(0), GateStep::Overdue), 150_000));
        let pauses: Vec<u64> = tries.windows(2).map(|w| w[1] - w[0]).collect();
        assert_eq!(pauses[..8], [60, 120, 240, 480, 960, 1920, 3600, 3600]);
        assert_eq!(keeper.failures(), u32::try_from(tries.len()).unwrap());
    }

    #[test]
    fn a_short_deadline_has_short_pauses_and_ends_a_hook_that_hangs() {
        let (mut keeper, gate, due) = (Gatekeeper::default(), gate(80), points(&[0]));
        keeper.begun(Batch { through: at(0), since: at(5000) });
        keeper.started();
        keeper.finished(at(5000), &gate, false);
        assert_eq!(keeper.poll(at(5009), &gate, KEEP, &due), Act::Wait);
        assert!(matches!(keeper.poll(at(5010), &gate, KEEP, &due), Act::Run(_)));
        keeper.started();
        assert_eq!(keeper.poll(at(5079), &gate, KEEP, &due), Act::Wait);
        assert_eq!(keeper.poll(at(5080), &gate, KEEP, &due), Act::Release(at(0), GateStep::Overdue));
    }

    #[test]
    fn a_restart_runs_a_hook_again_that_was_under_way_and_the_deadline_goes_on() {
        let (gate, due) = (gate(100), points(&[0]));
        let keeper = Gatekeeper::new(Some(Batch { through: at(0), since: at(5000) }), at(5050));
        assert!(matches!(keeper.poll(at(5050), &gate, KEEP, &due), Act::Run(_)));
        assert_eq!(keeper.poll(at(5100), &gate, KEEP, &due), Act::Release(at(0), GateStep::Overdue));
    }

    #[test]
    fn a_gateway_that_was_down_for_long_still_gives_the_hook_a_chance() {
        let (gate, due) = (gate(100), points(&[0]));
        let keeper = Gatekeeper::new(Some(Batch { through: at(0), since: at(5000) }), at(9000));
        assert!(matches!(keeper.poll(at(9000), &gate, KEEP, &due), Act::Run(_)));
        assert!(matches!(keeper.poll(at(9024), &gate, KEEP, &due), Act::Run(_)));
        assert_eq!(keeper.poll(at(9025), &gate, KEEP, &due), Act::Release(at(0), GateStep::Overdue));
    }

    #[test]
    fn half_of_a_deadline_is_waited_for_others_at_most() {
        let gate = gate(100);
        let keeper = Gatekeeper::new(Some(Batch { through: at(0), since: at(5000) }), at(5000));
        assert!(!keeper.is_pressed(at(5049), &gate) && keeper.is_pressed(at(5050), &gate));
        assert!(!Gatekeeper::default().is_pressed(at(5050), &gate));
    }

    #[test]
    fn a_batch_of_which_nothing_is_left_is_over() {
        let batch = Batch { through: at(10), since: at(5000) };
        let mut keeper = Gatekeeper::new(Some(batch), at(5000));
        assert_eq!(keeper.poll(at(5001), &gate(100), KEEP, &points(&[11])), Act::Forget);
        let mut over = keeper.clone();
        over.finished(at(5001), &gate(100), false);
        over.forget();
        assert_eq!((over.failures(), over.batch(), over.deadline(&gate(100))), (0, Some(batch), None));
        assert!(matches!(over.poll(at(5002), &gate(100), KEEP, &points(&[11])), Act::Begin(_)));
        keeper.started();
        assert_eq!(
            keeper.poll(at(5001), &gate(100), KEEP, &points(&[11])),
            Act::Wait,
            "its end is waited for"
        );
    }
}
