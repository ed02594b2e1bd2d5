//! A limit of time that begins anew all the while and is almost never reached: beginning costs a look at the clock,
//! and the timer, which runs on, is set right only when it goes off.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// See the module.
#[derive(Debug)]
pub(crate) struct Patience {
    limit: Duration,
    since: Option<Instant>,
    /// Never set later than the limit ends.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    pub(crate) const fn new(limit: Duration) -> Self {
        Self { limit, since: None, timer: None }
    }

    /// The time runs from now on, unless it runs already.
    pub(crate) fn begin(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    /// It does not run any more.
    pub(crate) fn end(&mut self) {
        self.since = None;
    }

    /// Is it up? Otherwise the task of `cx` is woken when it may be.
    pub(crate) fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(since) = self.since else { return false };
        let end = since + self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= end {
                return true;
            }
            timer.as_mut().reset(end);
        }
        false
    }
}
