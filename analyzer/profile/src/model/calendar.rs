//! A link whose rate changes by the hour of the week.

/// Hours in a week.
pub const WEEK: usize = 168;
/// Seconds in an hour.
const HOUR: f64 = 3600.0;

/// Bytes per second for each hour of the week, and at which moment of the week the trace begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Calendar {
    rates: [f64; WEEK],
    /// Seconds from Monday 00:00 to the trace's start.
    begins: f64,
}

impl Calendar {
    /// The same rate all week.
    #[must_use]
    pub const fn always(rate: f64) -> Self {
        Self { rates: [rate; WEEK], begins: 0.0 }
    }

    /// A rate for each hour, Monday 00:00 first, for a trace that begins so many seconds into a week.
    #[must_use]
    pub fn new(rates: [f64; WEEK], begins: u64) -> Self {
        Self { rates: rates.map(|r| r.max(0.0)), begins: crate::numbers::real(begins % (7 * 86400)) }
    }

    /// The rate, when it is the same all week.
    #[must_use]
    pub fn constant(&self) -> Option<f64> {
        let first = self.rates.first().copied()?;
        self.rates.iter().all(|r| r.to_bits() == first.to_bits()).then_some(first)
    }

    /// Is there an hour in which something leaves?
    #[must_use]
    pub fn carries_anything(&self) -> bool {
        self.rates.iter().any(|&r| r > 0.0)
    }

    /// The rate at a second of the trace, and the second at which its hour ends.
    #[must_use]
    pub fn at(&self, second: f64) -> (f64, f64) {
        let hours = ((second + self.begins) / HOUR).floor();
        let of_week = crate::numbers::whole(hours % WEEK as f64);
        let rate = usize::try_from(of_week).ok().and_then(|h| self.rates.get(h)).copied().unwrap_or(0.0);
        (rate, (hours + 1.0) * HOUR - self.begins)
    }
}
