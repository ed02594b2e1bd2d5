//! A link whose rate changes by the hour of the week.

/// Hours in a week.
pub const WEEK: usize = 168;
/// Seconds in a week.
pub(crate) const WEEK_SECONDS: u64 = 604_800;
/// Seconds in an hour.
const HOUR: u64 = 3600;

/// Bytes per second for each hour of the week, and at which moment of the week the trace begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Calendar {
    rates: [f64; WEEK],
    /// Seconds from Monday 00:00 to the trace's start.
    begins: u64,
}

impl Calendar {
    /// The same rate all week.
    #[must_use]
    pub const fn always(rate: f64) -> Self {
        Self { rates: [rate; WEEK], begins: 0 }
    }

    /// A rate for each hour, Monday 00:00 first, for a trace that begins so many seconds into a week.
    #[must_use]
    pub fn new(rates: [f64; WEEK], begins: u64) -> Self {
        Self { rates: rates.map(|r| r.max(0.0)), begins: begins % WEEK_SECONDS }
    }

    /// The rate, when it is the same all week.
    #[must_use]
    pub fn constant(&self) -> Option<f64> {
        let first = self.rates.first().copied()?;
        self.rates.iter().all(|r| r.to_bits() == first.to_bits()).then_some(first)
    }

    /// Bytes that a whole week carries.
    #[must_use]
    pub fn of_a_week(&self) -> f64 {
        self.rates.iter().sum::<f64>() * crate::numbers::real(HOUR)
    }

    /// The rate at a second of the trace, and the second at which its hour ends.
    #[must_use]
    pub fn at(&self, second: u64) -> (f64, u64) {
        let hours = second.saturating_add(self.begins) / HOUR;
        let of_week = usize::try_from(hours).ok().map(|h| h % WEEK);
        let rate = of_week.and_then(|h| self.rates.get(h)).copied().unwrap_or(0.0);
        (rate, (hours + 1).saturating_mul(HOUR).saturating_sub(self.begins))
    }
}
