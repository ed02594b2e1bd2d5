//! The smallest link that keeps an RPO for a share of the time.
//!
//! `C_q(R)` is the smallest rate at which at least the share q of the trace's seconds has a lag of at most R. The lag
//! at a second is what a byte written in it would wait: the queue of [`super::drain`], which between writes shortens by
//! a second each second. More rate never lengthens a lag, so the rate is found by halving. At q = 1 it is
//! [`super::requirement`].
//!
//! A percentile of the write rate asks how often the disk is busy; this asks how often the RPO is kept, which a queue that
//! is still full after the burst also breaks.

use crate::bins::Bins;
use crate::model::drain;
use crate::numbers::{real, whole_up};

/// Halvings: the answer is within 2^-40 of the whole range.
const STEPS: usize = 40;

/// `C_q(R)` in bytes per second, for a trace of `seconds`, an RPO in seconds, and the rate that always keeps it.
#[must_use]
pub fn rate_for(bins: &Bins, seconds: u64, rpo: f64, q: f64, always: f64) -> f64 {
    let may_break = real(seconds) * (1.0 - q.clamp(0.0, 1.0));
    let (mut low, mut high) = (0.0, always);
    for _ in 0..STEPS {
        let middle = f64::midpoint(low, high);
        if real(broken_seconds(bins, seconds, middle, rpo)) <= may_break {
            high = middle;
        } else {
            low = middle;
        }
    }
    high
}

/// How many seconds of the trace have a lag above the RPO at this rate.
#[must_use]
pub fn broken_seconds(bins: &Bins, seconds: u64, rate: f64, rpo: f64) -> u64 {
    // Each lag counts until the next write, or the trace's end.
    let (mut broken, mut open) = (0_u64, None);
    let count = |open: Option<drain::Lag>, until: u64| {
        open.map_or(0, |lag| whole_up(lag.seconds - rpo).min(until.saturating_sub(lag.second)))
    };
    for lag in drain::constant(bins, rate) {
        broken += count(open, lag.second);
        open = Some(lag);
    }
    broken + count(open, seconds)
}
