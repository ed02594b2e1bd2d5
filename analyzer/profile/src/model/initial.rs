//! The first copy of the disks: over the link, or by a gateway that gets it beside the servers and is then carried to its place.
//!
//! With D bytes on the disks, a written byte that becomes s on the way, a link of C (its mean over the week) and writes of W:
//!
//! - over the link the copy has what the new writes leave of it: `D s / (C − W s)`; never when nothing is left;
//! - carried: `D s / (L − W s)` over the local network L, then the time on the road T, then what was written meanwhile,
//!   `W s T / (C − W s)`, out of the spool. When the spool does not hold it, history has a gap, and what changed is found by its
//!   hashes instead (16 bytes for each 4 KiB) and sent once: `(D/256 + min(D, W k T) s) / (C − W s)` with k the share of the
//!   blocks that one point a day keeps, which are the distinct ones of a day.
//!
//! Data at rest is taken to shrink as what is written does; holes and zeroes cost nothing, so this is the longest it takes.

use crate::numbers::real;

/// Bytes of a block for each byte of its hash.
const BLOCK_PER_HASH: f64 = 256.0;

/// What is known of the disks and the way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Copying {
    /// Bytes to copy.
    pub disk: f64,
    /// What a byte becomes on the way.
    pub share: f64,
    /// Bytes written per second.
    pub writes: f64,
    /// The share of written blocks that are distinct within a day.
    pub distinct: f64,
    /// The link in bytes per second.
    pub link: f64,
    /// The network beside the servers.
    pub local: f64,
    /// Seconds on the road.
    pub road: f64,
    /// Bytes that the spool holds.
    pub spool: u64,
}

/// A gateway that is carried.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Carried {
    /// Until it has everything; `None`: never.
    pub seconds: Option<f64>,
    /// What is sent after it has arrived.
    pub catch_up: f64,
    /// The spool does not hold what is written on the road: history has a gap there.
    pub gap: bool,
}

impl Copying {
    fn left_of(&self, rate: f64) -> Option<f64> {
        let left = rate - self.writes * self.share;
        (left > 0.0).then_some(left)
    }

    /// Seconds over the link.
    #[must_use]
    pub fn over_the_link(&self) -> Option<f64> {
        self.left_of(self.link).map(|left| self.disk * self.share / left)
    }

    /// The other way.
    #[must_use]
    pub fn carried(&self) -> Carried {
        let written = self.writes * self.share * self.road;
        let gap = written > real(self.spool);
        let changed = (self.writes * self.distinct * self.road).min(self.disk) * self.share;
        let catch_up = if gap { changed + self.disk / BLOCK_PER_HASH } else { written };
        let seconds = self.left_of(self.local).zip(self.left_of(self.link));
        let seconds =
            seconds.map(|(local, link)| self.disk * self.share / local + self.road + catch_up / link);
        Carried { seconds, catch_up, gap }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COPYING: Copying = Copying {
        disk: 1e12,
        share: 0.5,
        writes: 1e6,
        distinct: 0.1,
        link: 10.5e6,
        local: 100.5e6,
        road: 86_400.0,
        spool: 1 << 40,
    };

    #[test]
    fn the_first_copy_has_what_new_writes_leave() {
        assert_eq!(COPYING.over_the_link(), Some(5e11 / 10e6));
        assert_eq!(Copying { link: 0.5e6, ..COPYING }.over_the_link(), None, "new writes alone fill it");
        let carried = COPYING.carried();
        assert_eq!((carried.catch_up, carried.gap), (0.5e6 * 86_400.0, false));
        assert_eq!(carried.seconds, Some(5e11 / 100e6 + 86_400.0 + 0.5e6 * 86_400.0 / 10e6));
    }

    #[test]
    fn a_spool_that_is_too_small_makes_a_gap_that_hashes_heal() {
        let carried = Copying { spool: 1 << 30, ..COPYING }.carried();
        assert!(carried.gap);
        assert_eq!(carried.catch_up, 1e6 * 0.1 * 86_400.0 * 0.5 + 1e12 / 256.0);
        let all = Copying { spool: 0, distinct: 1.0, road: 1e9, ..COPYING }.carried();
        assert_eq!(all.catch_up, 0.5e12 + 1e12 / 256.0, "no more changes than there is");
    }
}
