//! The smallest link that keeps an RPO: exact, in one pass, in whole numbers.
//!
//! Writes of `A_k` bytes arrive at times `t_k` and a link of rate C carries them away in order (a fluid FIFO queue).
//! The backlog just after arrival j is `Q_j = max over i <= j of (A_i + … + A_j - C (t_j - t_i))` (Lindley's recursion,
//! unrolled: the i at which the queue was last empty), and the last byte of j has arrived at the other side `Q_j / C` later. So
//! every byte arrives within R exactly when C is at least
//!
//! ```text
//!   C*(R) = max over i <= j of  (A_i + … + A_j) / (t_j - t_i + R)
//! ```
//!
//! (This is the empirical arrival curve of network calculus read as a rate: Le Boudec and Thiran, Network Calculus,
//! section 1.2; Cruz 1991.) Trying all pairs is quadratic. Here it takes a constant number of steps per arrival:
//! with S the running sum, a pair is the slope of the line from the *start* `(t_i, S_{i-1})` to the *goal*
//! `(t_j + R, S_j)`.
//!
//! ```text
//!   S │                         ● goal of j
//!     │                     ╱ ╱
//!     │                ╱  ╱          the steepest line to a goal touches the lower convex
//!     │           ╱  ╱   ○           hull of the starts; the hull bends upward, so it is
//!     │      ╱  ○      ○             kept like a stack at its new end
//!     │ ○──○
//!     └───────────────────────── t
//! ```
//!
//! Only a line steeper than the best so far matters, and such a line cannot touch the hull where the hull's own next
//! edge is no steeper than the best. Those starts are dropped from the old end for good. So each start is added once
//! and dropped once, and what is kept is the few starts of the busy period at hand.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::time::Duration;

use crate::event::At;

/// The most starts that are kept. The hull of a real trace has tens; a trace made to grow it loses its oldest start,
/// and the result is then marked as a lower bound.
const MAX_STARTS: usize = 1 << 16;

/// A rate as the fraction that it is: bytes over nanoseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rate {
    bytes: u64,
    nanos: u64,
}

impl Rate {
    /// So many bytes in so many nanoseconds; nothing at all when that is no time.
    #[must_use]
    pub const fn new(bytes: u64, nanos: u64) -> Self {
        if nanos == 0 { Self { bytes: 0, nanos: 1 } } else { Self { bytes, nanos } }
    }

    /// Bytes per second.
    #[must_use]
    pub fn bytes_per_second(self) -> f64 {
        self.bytes as f64 * 1e9 / self.nanos.max(1) as f64
    }
}

impl Ord for Rate {
    fn cmp(&self, other: &Self) -> Ordering {
        let scaled = |a: &Self, b: &Self| u128::from(a.bytes) * u128::from(b.nanos.max(1));
        scaled(self, other).cmp(&scaled(other, self))
    }
}

impl PartialOrd for Rate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Rate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Rate {}

/// A place in the plane of time and running sum.
#[derive(Debug, Clone, Copy)]
struct Place {
    nanos: u64,
    sum: u64,
}

impl Place {
    /// The slope of the line from here to `later`.
    const fn slope_to(self, later: Self) -> Rate {
        Rate::new(later.sum.saturating_sub(self.sum), later.nanos.saturating_sub(self.nanos))
    }
}

/// C*(R) for one R, over arrivals as they come.
#[derive(Debug, Clone)]
pub struct Requirement {
    rpo: u64,
    sum: u64,
    last: u64,
    best: Rate,
    /// The part of the lower hull of the starts that can still matter, by time; its edges bend upward.
    starts: VecDeque<Place>,
    lower_bound: bool,
}

impl Requirement {
    /// Nothing has arrived yet. An RPO of nothing would ask for an infinite rate: it counts as a nanosecond.
    #[must_use]
    pub fn new(rpo: Duration) -> Self {
        let rpo = u64::try_from(rpo.as_nanos()).unwrap_or(u64::MAX).max(1);
        Self { rpo, sum: 0, last: 0, best: Rate::new(0, 1), starts: VecDeque::new(), lower_bound: false }
    }

    /// The RPO.
    #[must_use]
    pub const fn rpo(&self) -> Duration {
        Duration::from_nanos(self.rpo)
    }

    /// `bytes` arrive at `at`. A time before the last arrival counts as that one's.
    pub fn arrive(&mut self, at: At, bytes: u64) {
        self.last = self.last.max(at.nanos());
        self.begin(Place { nanos: self.last, sum: self.sum });
        self.sum = self.sum.saturating_add(bytes);
        self.reach(Place { nanos: self.last.saturating_add(self.rpo), sum: self.sum });
    }

    /// The smallest rate that keeps the RPO for all that arrived.
    #[must_use]
    pub const fn rate(&self) -> Rate {
        self.best
    }

    /// Was a start dropped that could have mattered, so that the true rate may be higher?
    #[must_use]
    pub const fn is_lower_bound(&self) -> bool {
        self.lower_bound
    }

    /// Adds a start at the new end of the hull.
    fn begin(&mut self, start: Place) {
        if self.starts.back().is_some_and(|last| last.nanos == start.nanos) {
            // The earlier start at the same moment has the smaller sum, so it makes the steeper lines.
            return;
        }
        while let Some(last) = self.starts.pop_back() {
            let bends = self.starts.back().is_none_or(|before| before.slope_to(last) < last.slope_to(start));
            if bends {
                self.starts.push_back(last);
                break;
            }
        }
        self.starts.push_back(start);
        if self.starts.len() > MAX_STARTS {
            self.starts.pop_front();
            self.lower_bound = true;
        }
    }

    /// Raises the best to the steepest line to `goal`, and drops the starts that no steeper line can touch.
    fn reach(&mut self, goal: Place) {
        while let Some(&first) = self.starts.front() {
            self.best = self.best.max(first.slope_to(goal));
            match self.starts.get(1) {
                Some(&next) if first.slope_to(next) <= self.best => self.starts.pop_front(),
                _ => return,
            };
        }
    }
}
