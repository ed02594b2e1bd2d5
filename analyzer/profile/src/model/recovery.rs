//! The RTO: how long until an application serves again after its disks are lost.
//!
//! - From an image, which the gateway serves at once: `T + O + S / r`: T until somebody has decided, O to open the image and
//!   attach it, S the bytes that system and application read until they serve, r the network between gateway and server.
//!   T, O and S are assumptions: no trace of writes knows them.
//! - Copied back first: `T + O + D / r` for D bytes of disk.
//! - Run from the image, each second's reads cross that network: the share of the seconds with reads in which they fit
//!   (`R_k <= r`) says whether one can live with that until the disk is copied back.

use crate::bins::Bins;
use crate::numbers::real;

/// What is taken for granted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Restoring {
    /// The network between gateway and server, in bytes per second.
    pub rate: f64,
    /// Seconds until somebody has decided.
    pub decide: f64,
    /// Seconds to open the image and attach it.
    pub open: f64,
    /// Bytes read until the application serves.
    pub start: f64,
}

impl Restoring {
    /// Seconds until it serves from an image; `None` without a network.
    #[must_use]
    pub fn from_image(&self) -> Option<f64> {
        (self.rate > 0.0).then(|| self.decide + self.open + self.start / self.rate)
    }

    /// Seconds until so many bytes are copied back.
    #[must_use]
    pub fn copied_back(&self, disk: f64) -> Option<f64> {
        (self.rate > 0.0).then(|| self.decide + self.open + disk / self.rate)
    }

    /// The share of the seconds with reads whose reads the network carries; `None` when nothing was read.
    #[must_use]
    pub fn reads_carried(&self, bins: &Bins) -> Option<f64> {
        let read = || bins.iter().map(|(_, bin)| real(bin.read_bytes)).filter(|&bytes| bytes > 0.0);
        let all = read().count();
        (all > 0).then(|| read().filter(|&bytes| bytes <= self.rate).count() as f64 / all as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bins::Bin;

    #[test]
    fn an_image_serves_before_the_disk_is_back() {
        let restoring = Restoring { rate: 100e6, decide: 300.0, open: 5.0, start: 1e9 };
        assert_eq!(restoring.from_image(), Some(315.0));
        assert_eq!(restoring.copied_back(1e12), Some(10_305.0));
        assert_eq!(Restoring { rate: 0.0, ..restoring }.from_image(), None);
        let mut bins = Bins::default();
        assert_eq!(restoring.reads_carried(&bins), None);
        for (second, read_bytes) in [(0, 50_000_000), (1, 200_000_000), (5, 100_000_000), (6, 0)] {
            bins.add(second, Bin { read_bytes, writes: 1, ..Bin::default() });
        }
        assert_eq!(restoring.reads_carried(&bins), Some(2.0 / 3.0));
    }
}
