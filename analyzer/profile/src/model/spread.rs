//! How much a set of measurements differs: its mean and what a tenth, half and nine tenths of them reach.

use serde::Serialize;

/// Mean and quantiles of measurements; all 0 when there are none.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Spread {
    /// How many there are.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// The smallest.
    pub least: f64,
    /// One in ten is at most this.
    pub tenth: f64,
    /// Half of them are at most this.
    pub median: f64,
    /// Nine in ten are at most this.
    pub ninety: f64,
    /// 95 in a hundred are at most this.
    pub ninety_five: f64,
    /// The largest.
    pub most: f64,
}

impl Spread {
    /// Of these; what is no number is left out.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Self {
        values.retain(|v| v.is_finite());
        values.sort_by(f64::total_cmp);
        let (Some(&least), Some(&most)) = (values.first(), values.last()) else { return Self::default() };
        let count = tap_block::units::count(values.len());
        let n = crate::numbers::real(count);
        // The smallest value that at least a share q of them do not exceed (the inverse of their distribution).
        let quantile = |q: f64| {
            let place = crate::numbers::whole_up(q * n).max(1) - 1;
            values.get(tap_block::units::index(place)).copied().unwrap_or(most)
        };
        Self {
            count,
            mean: values.iter().sum::<f64>() / n,
            least,
            tenth: quantile(0.1),
            median: quantile(0.5),
            ninety: quantile(0.9),
            ninety_five: quantile(0.95),
            most,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let spread = Spread::of((1..=20).rev().map(f64::from).chain([f64::NAN]).collect());
        assert_eq!((spread.count, spread.mean, spread.least, spread.most), (20, 10.5, 1.0, 20.0));
        assert_eq!((spread.tenth, spread.median, spread.ninety, spread.ninety_five), (2.0, 10.0, 18.0, 19.0));
        assert_eq!(Spread::of(vec![7.0]).tenth, 7.0);
        assert_eq!(Spread::of(Vec::new()), Spread::default());
    }
}
