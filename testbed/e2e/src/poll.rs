//! Waiting for a condition in another process: there is no event to wait on, so it is asked again and again.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Asks `condition` until it answers, for at most `limit`; its last complaint is part of the error.
///
/// # Errors
/// When the limit is reached.
pub fn until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        let complaint = match condition() {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => String::new(),
            Err(error) => format!(" ({error:#})"),
        };
        if begun.elapsed() > limit {
            bail!("{what} did not happen within {} s{complaint}", limit.as_secs());
        }
        std::thread::park_timeout(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}
