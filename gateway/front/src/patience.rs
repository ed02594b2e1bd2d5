//! A limit of time that begins anew all the while and is almost never reached: beginning costs a look at the clock,
//! and the timer, which runs on, is set right only when it goes off.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// A century.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// See the module.
#[derive(Debug)]
pub(crate) struct Patience {
    limit: Duration,
    /// The limit in times of need.
    least: Duration,
    since: Option<Instant>,
    /// Never set later than something may be up.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    pub(crate) const fn new(limit: Duration) -> Self {
        Self { limit, least: limit, since: None, timer: None }
    }

    /// One that has no end but in need.
    pub(crate) fn in_need(least: Duration) -> Self {
        Self { least, ..Self::new(NEVER) }
    }

    /// The same, which ends after `least` in times of need.
    pub(crate) fn or_less(self, least: Duration) -> Self {
        Self { least: least.min(self.limit), ..self }
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
    pub(crate) fn is_over(&mut self, cx: &mut Context<'_>, is_need: impl Fn() -> bool) -> bool {
        let Some(since) = self.since else { return false };
        loop {
            let (now, end) = (Instant::now(), since + self.limit);
            let soonest = since + self.least;
            if now >= end || now >= soonest && is_need() {
                return true;
            }
            // Past the soonest end it is asked again and again whether there is need.
            let next = if now < soonest { soonest } else { end.min(now + self.least) };
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next)));
            if timer.deadline() > next {
                timer.as_mut().reset(next);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return false;
            }
            timer.as_mut().reset(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(1500);
    const LEAST: Duration = Duration::from_millis(100);

    /// After how long patience is over, when there is need from some time on.
    fn over_after(mut patience: Patience, need_from: Option<Duration>) -> Duration {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.unwrap().block_on(async move {
            let begun = Instant::now();
            patience.begin();
            let need = || need_from.is_some_and(|from| begun.elapsed() >= from);
            std::future::poll_fn(|cx| match patience.is_over(cx, need) {
                true => std::task::Poll::Ready(()),
                false => std::task::Poll::Pending,
            })
            .await;
            begun.elapsed()
        })
    }

    #[test]
    fn it_ends_at_the_limit_and_sooner_in_need() {
        let patience = || Patience::new(LIMIT).or_less(LEAST);
        assert!(over_after(Patience::new(LEAST), None) >= LEAST);
        assert!(over_after(patience(), None) >= LIMIT);
        let at_once = over_after(patience(), Some(Duration::ZERO));
        assert!(at_once >= LEAST && at_once < LIMIT, "{at_once:?}");
        assert!(over_after(Patience::in_need(LEAST), Some(3 * LEAST)) >= 3 * LEAST);
        // Need that comes later is noticed at the next look.
        let later = over_after(patience(), Some(3 * LEAST));
        assert!(later >= 3 * LEAST && later < LIMIT, "{later:?}");
    }
}
