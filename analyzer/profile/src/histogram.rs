//! Counts by powers of two: sizes and times, without knowing them before.

/// How many values lie in [2^k, 2^(k+1)), for each k; 0 counts with 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; 64],
    sum: u128,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [0; 64], sum: 0 }
    }
}

impl Histogram {
    /// Counts one value.
    pub fn add(&mut self, value: u64) {
        let bucket = value.checked_ilog2().unwrap_or(0);
        if let Some(count) = self.counts.get_mut(usize::try_from(bucket).unwrap_or(0)) {
            *count += 1;
        }
        self.sum += u128::from(value);
    }

    /// Adds what another counted.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts) {
            *mine += theirs;
        }
        self.sum += other.sum;
    }

    /// How many values there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their mean; `None` when there are none.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        let count = self.count();
        (count > 0).then(|| self.sum as f64 / count as f64)
    }

    /// The buckets that hold something, as (smallest value, count).
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.counts.iter().enumerate().filter(|(_, count)| **count > 0).map(|(k, &count)| (1 << k, count))
    }

    /// The upper end of the bucket in which the share `q` (0 to 1) of the values is reached: never less than the true
    /// quantile, and less than twice it.
    #[must_use]
    pub fn at_most(&self, q: f64) -> Option<u64> {
        let wanted = crate::numbers::whole_up(q * crate::numbers::real(self.count())).max(1);
        let mut seen = 0;
        self.buckets().find_map(|(from, count)| {
            seen += count;
            (seen >= wanted).then_some(from.saturating_mul(2) - 1)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_into_powers_of_two() {
        let mut h = Histogram::default();
        for value in [0, 1, 4096, 4097, 8191, 8192, u64::MAX] {
            h.add(value);
        }
        let found: Vec<_> = h.buckets().collect();
        assert_eq!(found, [(1, 2), (4096, 3), (8192, 1), (1 << 63, 1)]);
        assert_eq!(h.at_most(0.5), Some(8191));
        assert_eq!(Histogram::default().at_most(0.5), None);
    }
}
