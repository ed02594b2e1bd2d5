//! The real clock: the one place where a program's time comes from.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use tap_block::{Clock, Monotonic, WallTime};

/// The machine's clocks. Monotonic time starts when the process first asks.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealClock;

impl Clock for RealClock {
    #[allow(clippy::disallowed_methods, reason = "this is the real clock the ban points to")]
    fn wall(&self) -> WallTime {
        // A machine set to before 1970 shows the epoch: wrong, but no more wrong than its clock.
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        WallTime::from_nanos(nanos(since))
    }

    fn monotonic(&self) -> Monotonic {
        static START: OnceLock<Instant> = OnceLock::new();
        Monotonic::from_nanos(nanos(START.get_or_init(Instant::now).elapsed()))
    }
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_and_is_plausible() {
        let clock = RealClock;
        let (first, wall) = (clock.monotonic(), clock.wall());
        assert!(clock.monotonic() >= first);
        assert!(wall > WallTime::parse_rfc3339("2024-01-01T00:00:00Z").unwrap());
    }
}
