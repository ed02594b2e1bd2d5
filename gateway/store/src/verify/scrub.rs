//! The scrub: the whole store is verified again and again, at a rate that leaves the disk to others. Whether its files are there at
//! all is looked at much more often.

use std::sync::{Condvar, Mutex};
use std::time::Duration;

use tap_block::WallTime;
use tracing::{info, warn};

use super::met::Met;
use super::proofs::Whole;
use super::{Progress, Scope};
use crate::error::StoreError;
use crate::store::Shared;
use crate::sync::{lock, wait_for};

/// A store is read at most so often, and at least so often as far as the rate allows.
const OFTEN: Duration = Duration::from_secs(600);
const SELDOM: Duration = Duration::from_secs(24 * 3600);
/// Of this many times as long as a scrub takes, it is at work one.
const REST: u32 = 10;
/// How often it is looked whether it is time.
const GLANCE: Duration = Duration::from_secs(5);
/// The watch is told once a MiB.
const STEP: u64 = 1 << 20;

#[derive(Default)]
pub(crate) struct Scrubbing {
    /// Whoever looks for files that are gone looks alone.
    pub(super) looking: Mutex<()>,
    /// What readers came past.
    pub(super) met: Mutex<Met>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stopped: bool,
    progress: Option<Progress>,
}

impl Scrubbing {
    /// Works until it is stopped.
    pub(crate) fn run(&self, shared: &Shared) {
        let Some(rate) = shared.config.scrub_rate else { return };
        loop {
            let state = lock(&self.state);
            if state.stopped {
                return;
            }
            if wait_for(&self.changed, state, GLANCE).stopped {
                return;
            }
            shared.judge_met();
            let _ = shared.look_for_files();
            if rate > 0 && is_due(shared.proving.whole(), shared.age.now()) && has_history(shared) {
                self.scrub(shared, rate);
            }
        }
    }

    fn scrub(&self, shared: &Shared, rate: u64) {
        let pause = Duration::from_nanos(STEP.saturating_mul(1_000_000_000) / rate);
        let mut watch = |progress| {
            // It may take hours.
            shared.judge_met();
            let mut state = lock(&self.state);
            state.progress = Some(progress);
            !state.stopped && !wait_for(&self.changed, state, pause).stopped
        };
        let outcome = shared.verify(Scope::default(), &mut watch);
        lock(&self.state).progress = None;
        match outcome {
            Ok(report) if report.findings.is_empty() => {
                info!("scrub: {} blocks and {} frames are sound", report.blocks, report.frames);
            }
            Ok(report) => warn!("scrub: {} findings; `chronogate verify` lists them", report.findings.len()),
            Err(StoreError::Cancelled) => {}
            Err(e) => warn!("the scrub could not go on, trying again: {e}"),
        }
    }

    /// There is something to look into.
    pub(super) fn hurry(&self) {
        self.changed.notify_all();
    }

    pub(crate) fn stop(&self) {
        lock(&self.state).stopped = true;
        self.changed.notify_all();
    }

    /// How far the scrub under way is.
    pub(crate) fn progress(&self) -> Option<Progress> {
        lock(&self.state).progress
    }
}

fn has_history(shared: &Shared) -> bool {
    crate::sync::read(&shared.published).catalogue.volumes().next().is_some()
}

fn is_due(last: Option<Whole>, now: WallTime) -> bool {
    let Some(Whole { begun, ended }) = last else { return true };
    let rest = ended.since(begun).saturating_mul(REST).clamp(OFTEN, SELDOM);
    now.since(begun) >= rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_store_is_read_less_often_than_a_small_one() {
        let at = |seconds: u64| WallTime::from_nanos(seconds * 1_000_000_000);
        assert!(is_due(None, at(0)));
        let took = |seconds: u64| Some(Whole { begun: at(1000), ended: at(1000 + seconds) });
        assert!(!is_due(took(1), at(1599)));
        assert!(is_due(took(1), at(1600)));
        assert!(!is_due(took(300), at(3999)));
        assert!(is_due(took(300), at(4000)));
        assert!(is_due(took(100_000), at(1000 + 86_400)), "it goes on and on at its rate");
    }
}
