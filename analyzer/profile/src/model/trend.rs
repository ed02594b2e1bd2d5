//! Growth over days: the Theil–Sen slope.
//!
//! The median of the slopes between all pairs of days (Theil 1950, Sen 1968): one wild day does not bend it, as it
//! would a least-squares line. The interval is the middle 80 % of the slopes; it says how the days disagree, and is no promise.

use crate::bins::Bins;

/// Days needed before anything is said.
const MIN_DAYS: usize = 14;
/// The most days looked at, the latest ones.
const MAX_DAYS: usize = 730;

/// Growth of the bytes written per day, in bytes per day and day.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trend {
    /// The median day's bytes.
    pub per_day: f64,
    /// The median slope.
    pub slope: f64,
    /// Slopes between which the middle 80 % lie.
    pub low: f64,
    /// See `low`.
    pub high: f64,
}

/// The trend of a trace of `seconds`; only whole days count. `None` under 14 of them.
#[must_use]
pub fn of(bins: &Bins, seconds: u64) -> Option<Trend> {
    let days = daily(bins, seconds)?;
    let mut slopes = Vec::new();
    for (i, earlier) in days.iter().enumerate() {
        for (distance, later) in days.iter().skip(i + 1).enumerate() {
            slopes.push((later - earlier) / (distance + 1) as f64);
        }
    }
    let (slope, low, high) =
        (quantile(&mut slopes, 0.5), quantile(&mut slopes, 0.1), quantile(&mut slopes, 0.9));
    let mut sorted = days;
    Some(Trend { per_day: quantile(&mut sorted, 0.5), slope, low, high })
}

/// Bytes written on each whole day.
fn daily(bins: &Bins, seconds: u64) -> Option<Vec<f64>> {
    let whole = usize::try_from(seconds / 86400).ok().filter(|&d| d >= MIN_DAYS)?;
    let skipped = whole.saturating_sub(MAX_DAYS);
    let mut days = vec![0.0; whole - skipped];
    for (second, bytes) in bins.written() {
        let day = usize::try_from(second / 86400).ok().and_then(|d| d.checked_sub(skipped));
        if let Some(sum) = day.and_then(|d| days.get_mut(d)) {
            *sum += crate::numbers::real(bytes);
        }
    }
    Some(days)
}

fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    let place = crate::numbers::whole(q * last as f64);
    values.get(tap_block::units::index(place)).copied().unwrap_or(0.0)
}
