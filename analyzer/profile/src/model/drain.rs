//! What a given link would have done: the writes replayed through a queue.
//!
//! Each second's bytes arrive at its beginning, as one lump, and leave in order at the link's rate. The *lag* of a
//! second is how long its last byte waits; the RPO is kept when no lag exceeds it. With a constant rate the lag is the
//! backlog over the rate; with a calendar it is found by serving second after second.
//! The lump makes the answer safe: spread over its second, no byte would wait longer. What is *likely* is told beside it
//! ([`even`]): each second's bytes come evenly over it.

use std::collections::VecDeque;

use crate::bins::Bins;
use crate::model::calendar::{Calendar, WEEK_SECONDS};
use crate::numbers::{real, whole_down, whole_up};

/// What one second's writes met.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lag {
    /// The second, from the trace's start.
    pub second: u64,
    /// Bytes that wait just after they arrived.
    pub backlog: f64,
    /// Seconds until the last of them has left. Infinite when it never does.
    pub seconds: f64,
}

/// The lags under a constant rate (bytes per second), one for each second with writes.
pub fn constant(bins: &Bins, rate: f64) -> impl Iterator<Item = Lag> + '_ {
    let (mut backlog, mut before) = (0.0_f64, 0);
    bins.written().map(move |(second, bytes)| {
        backlog = (backlog - rate * real(second - before)).max(0.0) + real(bytes);
        before = second;
        Lag { second, backlog, seconds: wait(backlog, rate) }
    })
}

/// The same with each second's bytes evenly over it: what waits at its end, and how long the last of that does.
pub fn even(bins: &Bins, rate: f64) -> impl Iterator<Item = Lag> + '_ {
    let (mut backlog, mut end) = (0.0_f64, 0);
    bins.written().map(move |(second, bytes)| {
        let idle = (backlog - rate * real(second - end)).max(0.0);
        backlog = (idle + real(bytes) - rate).max(0.0);
        end = second + 1;
        Lag { second, backlog, seconds: wait(backlog, rate) }
    })
}

fn wait(backlog: f64, rate: f64) -> f64 {
    if backlog <= 0.0 {
        0.0
    } else if rate > 0.0 {
        backlog / rate
    } else {
        f64::INFINITY
    }
}

/// The lags under a rate that changes by hour of the week. After the last write the queue is served for as long as it
/// takes, but for a calendar that carries nothing at all.
#[must_use]
pub fn with_calendar(bins: &Bins, calendar: &Calendar) -> Vec<Lag> {
    if let Some(rate) = calendar.constant() {
        return constant(bins, rate).collect();
    }
    let mut queue = Queue::new(calendar);
    for (second, bytes) in bins.written() {
        queue.serve_until(second);
        queue.arrive(second, real(bytes));
    }
    queue.finish()
}

struct Queue<'a> {
    calendar: &'a Calendar,
    /// The second up to which all was served. Whole, so that it never stands still for a rounding.
    now: u64,
    /// Bytes that left before now.
    served: f64,
    arrived: f64,
    /// Seconds whose last byte waits: their places in `done`, and the running sum at which it leaves.
    waiting: VecDeque<(usize, f64)>,
    done: Vec<Lag>,
}

impl<'a> Queue<'a> {
    fn new(calendar: &'a Calendar) -> Self {
        Self { calendar, now: 0, served: 0.0, arrived: 0.0, waiting: VecDeque::new(), done: Vec::new() }
    }

    fn arrive(&mut self, second: u64, bytes: f64) {
        self.arrived += bytes;
        self.waiting.push_back((self.done.len(), self.arrived));
        self.done.push(Lag { second, backlog: self.arrived - self.served, seconds: f64::INFINITY });
    }

    /// Serves hour by hour until `second`, or until nothing waits.
    fn serve_until(&mut self, second: u64) {
        while self.now < second && !self.waiting.is_empty() {
            let (rate, hour_end) = self.calendar.at(self.now);
            self.serve(rate, hour_end.min(second));
        }
        self.now = self.now.max(second);
    }

    /// Serves at `rate` until `until`, noting who leaves when.
    fn serve(&mut self, rate: f64, until: u64) {
        let can = self.served + rate * real(until - self.now);
        while let Some((place, goal)) = self.waiting.pop_front_if(|&mut (_, goal)| goal <= can) {
            let takes = if rate > 0.0 { (goal - self.served) / rate } else { 0.0 };
            if let Some(lag) = self.done.get_mut(place) {
                lag.seconds = real(self.now - lag.second) + takes;
            }
        }
        self.served = can.min(self.arrived);
        self.now = until;
    }

    /// Nothing comes any more: whole weeks in which the first that waits does not leave are passed over at once.
    fn finish(mut self) -> Vec<Lag> {
        let weekly = self.calendar.of_a_week();
        while let Some(&(_, goal)) = self.waiting.front().filter(|_| weekly > 0.0 && self.now < u64::MAX / 2)
        {
            let weeks = whole_down((goal - self.served) / weekly);
            self.served += real(weeks) * weekly;
            self.now = self.now.saturating_add(weeks.saturating_mul(WEEK_SECONDS));
            let (rate, hour_end) = self.calendar.at(self.now);
            self.serve(rate, hour_end);
        }
        self.done
    }
}

/// A stretch of time in which the RPO was broken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Violation {
    /// Its first second, from the trace's start.
    pub start: u64,
    /// How many seconds.
    pub seconds: u64,
    /// The longest lag in it.
    pub peak_lag_seconds: f64,
    /// The most bytes that waited.
    pub peak_backlog: f64,
}

/// How the RPO fared: broken stretches, how long they were in all, the longest lag.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Kept {
    /// The worst stretches, longest first, at most [`Kept::LISTED`].
    pub violations: Vec<Violation>,
    /// How many stretches there were.
    pub count: u64,
    /// Seconds broken in all.
    pub broken_seconds: u64,
    /// The longest lag: the RPO that this link gives.
    pub worst_lag_seconds: f64,
    /// The most bytes that waited: the spool.
    pub peak_backlog: f64,
}

impl Kept {
    /// How many stretches are listed.
    pub const LISTED: usize = 20;

    /// Judges lags, in order of time, against an RPO in seconds.
    #[must_use]
    pub fn judge(lags: impl Iterator<Item = Lag>, rpo: f64) -> Self {
        let mut kept = Self::default();
        let mut open: Option<Violation> = None;
        for lag in lags {
            kept.worst_lag_seconds = kept.worst_lag_seconds.max(lag.seconds);
            kept.peak_backlog = kept.peak_backlog.max(lag.backlog);
            if lag.seconds > rpo {
                open = Some(kept.extend(open, &lag, rpo));
            }
        }
        kept.close(open);
        kept.violations.sort_by(|a, b| b.seconds.cmp(&a.seconds).then(a.start.cmp(&b.start)));
        kept.violations.truncate(Self::LISTED);
        kept
    }

    /// Prolongs the stretch at hand by a broken second, or begins one. Between writes a lag falls by a second each
    /// second, so a stretch lasts until it has fallen to the RPO.
    fn extend(&mut self, open: Option<Violation>, lag: &Lag, rpo: f64) -> Violation {
        let lasts = whole_up(lag.seconds - rpo);
        let joined = open.filter(|v| lag.second <= v.start.saturating_add(v.seconds));
        let mut violation = joined.unwrap_or_else(|| {
            self.close(open);
            Violation { start: lag.second, seconds: 0, peak_lag_seconds: 0.0, peak_backlog: 0.0 }
        });
        violation.seconds = (lag.second - violation.start).saturating_add(lasts).max(violation.seconds);
        violation.peak_lag_seconds = violation.peak_lag_seconds.max(lag.seconds);
        violation.peak_backlog = violation.peak_backlog.max(lag.backlog);
        violation
    }

    fn close(&mut self, open: Option<Violation>) {
        let Some(violation) = open else { return };
        self.count += 1;
        self.broken_seconds = self.broken_seconds.saturating_add(violation.seconds);
        self.violations.push(violation);
        if self.violations.len() > 2 * Self::LISTED {
            self.violations.sort_by_key(|v| std::cmp::Reverse(v.seconds));
            self.violations.truncate(Self::LISTED);
        }
    }
}
