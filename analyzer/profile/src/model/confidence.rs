//! How sure a figure is: what was not seen cannot be promised.

use serde::Serialize;

/// Seconds in a day.
const DAY: f64 = 86400.0;

/// How long a trace is, as what it can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// Under 30 minutes: figures of what was seen, no recommendation.
    TooShort,
    /// Under 24 hours: no daily cycle was seen.
    NoDailyCycle,
    /// Under 14 days: no weekly cycle seen twice, no forecast.
    NoForecast,
    /// 14 days or more.
    Full,
}

impl Confidence {
    /// By the length of a trace in seconds.
    #[must_use]
    pub fn of(seconds: f64) -> Self {
        if seconds < 1800.0 {
            Self::TooShort
        } else if seconds < DAY {
            Self::NoDailyCycle
        } else if seconds < 14.0 * DAY {
            Self::NoForecast
        } else {
            Self::Full
        }
    }

    /// May a link be recommended?
    #[must_use]
    pub fn recommends(self) -> bool {
        self > Self::TooShort
    }

    /// For people.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::TooShort => {
                "under 30 minutes seen: these are figures of what was seen, not a recommendation; record for a day at least"
            }
            Self::NoDailyCycle => "under 24 hours seen: no daily cycle seen, so a nightly job may be missing",
            Self::NoForecast => "under 14 days seen: no forecast, and a weekly or monthly job may be missing",
            Self::Full => "14 days or more seen: daily and weekly cycles are in the figures",
        }
    }
}
