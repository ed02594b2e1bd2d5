//! The runtime's clock in the machines' units.

use std::pin::Pin;

use tap_block::Monotonic;
use tokio::time::{Duration, Instant, Sleep};

/// Monotonic time since it was made; follows a paused test clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timebase(Instant);

impl Timebase {
    pub(crate) fn new() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(self) -> Monotonic {
        let nanos = self.0.elapsed().as_nanos();
        Monotonic::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn instant(self, at: Monotonic) -> Instant {
        self.0 + Duration::from_nanos(at.nanos())
    }
}

/// A timer that is set again only when its time changes.
#[derive(Debug)]
pub(crate) struct Alarm {
    base: Timebase,
    sleep: Pin<Box<Sleep>>,
    at: Option<Monotonic>,
}

impl Alarm {
    pub(crate) fn new(base: Timebase) -> Self {
        Self { base, sleep: Box::pin(tokio::time::sleep_until(base.0)), at: None }
    }

    pub(crate) fn set(&mut self, at: Option<Monotonic>) {
        if self.at != at
            && let Some(at) = at
        {
            self.sleep.as_mut().reset(self.base.instant(at));
        }
        self.at = at;
    }

    /// Until the time set; forever when none is.
    pub(crate) async fn ring(&mut self) {
        match self.at {
            Some(_) => {
                self.sleep.as_mut().await;
                // Fired: the next set counts, even to the same time.
                self.at = None;
            }
            None => std::future::pending().await,
        }
    }
}
