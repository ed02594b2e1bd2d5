//! A link that is away for a while: how much waits, and how long until it has caught up.
//!
//! The worst outage of length L beginning in second b leaves `W(b) = A_b + … + A_{b+L-1}` bytes in the spool. Behind it
//! the link drains them at C while new writes come in, as in [`super::drain`].

use crate::bins::Bins;
use crate::numbers::real;

/// The worst that an outage of one length did.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Outage {
    /// When the worst began, in seconds from the trace's start.
    pub begins: u64,
    /// Bytes in the spool at its end.
    pub spool: u64,
}

/// The fullest window of `length` seconds.
#[must_use]
pub fn worst(bins: &Bins, length: u64) -> Outage {
    let mut worst = Outage::default();
    windows(bins, length, |outage| {
        if outage.spool > worst.spool {
            worst = outage;
        }
    });
    worst
}

/// The fullest window of `length` seconds that ends in each hour of the week, Monday 00:00 first, for a trace that
/// begins so many seconds into a week.
#[must_use]
pub fn worst_by_hour(bins: &Bins, length: u64, begins: u64) -> Vec<u64> {
    let mut hours = vec![0; super::calendar::WEEK];
    windows(bins, length, |outage| {
        let hour = (begins.saturating_add(outage.begins) / 3600) % 168;
        if let Some(most) = hours.get_mut(tap_block::units::index(hour)) {
            *most = outage.spool.max(*most);
        }
    });
    hours
}

/// Every window that ends with a second that has writes: no other holds more.
fn windows(bins: &Bins, length: u64, mut each: impl FnMut(Outage)) {
    let mut oldest = bins.written().peekable();
    let mut spool = 0_u64;
    for (second, bytes) in bins.written() {
        spool = spool.saturating_add(bytes);
        let begins = (second + 1).saturating_sub(length.max(1));
        while let Some((_, gone)) = oldest.next_if(|&(at, _)| at < begins) {
            spool = spool.saturating_sub(gone);
        }
        each(Outage { begins, spool });
    }
}

/// Seconds until the spool is empty again behind an outage, at a rate in bytes per second. `None` when it is not by
/// the end of the trace, and the trace's mean would never let it be.
#[must_use]
pub fn catch_up(bins: &Bins, seconds: u64, outage: Outage, length: u64, rate: f64) -> Option<f64> {
    let back = outage.begins.saturating_add(length);
    let (mut backlog, mut now) = (real(outage.spool), real(back));
    for (second, bytes) in bins.written().filter(|&(second, _)| second >= back) {
        let drained = rate * (real(second) - now);
        if drained >= backlog {
            break;
        }
        backlog = backlog - drained + real(bytes);
        now = real(second);
    }
    let mean =
        if now >= real(seconds.saturating_sub(1)) { real(bins.total()) / real(seconds.max(1)) } else { 0.0 };
    let left = rate - mean;
    (left > 0.0).then(|| now + backlog / left - real(back))
}

/// The longest outage, in whole seconds, that a spool of so many bytes outlives wherever it falls. `None` when the
/// whole trace fits.
#[must_use]
pub fn survived(bins: &Bins, seconds: u64, spool: u64) -> Option<u64> {
    if bins.total() <= spool {
        return None;
    }
    let (mut fits, mut not) = (0, seconds.max(1));
    while not - fits > 1 {
        let middle = fits + (not - fits) / 2;
        if worst(bins, middle).spool <= spool { fits = middle } else { not = middle }
    }
    Some(fits)
}
