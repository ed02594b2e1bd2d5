//! Time that went by while nobody ran the store and that its own clock was not credited with: only somebody who knows better can
//! say that it did.

use std::time::Duration;

use gateway_journal::Uncounted;
use tap_block::WallTime;
use tracing::warn;

use crate::error::StoreError;
use crate::store::Store;

/// What the store's own clock, by which history ages and holds run, was not credited with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed {
    /// What that clock shows.
    pub age: WallTime,
    /// What the machine's clock shows.
    pub machine: WallTime,
    /// What was not counted; `None` when all was, or somebody confirmed it, or that was a week ago.
    pub missed: Option<Uncounted>,
    /// How much of it may be confirmed: no more than leads up to the machine's clock.
    pub creditable: Duration,
}

impl Store {
    /// What was not counted of the time that went by.
    #[must_use]
    pub fn elapsed(&self) -> Elapsed {
        let age = &self.shared().age;
        let (missed, creditable) = (age.uncounted(), age.creditable());
        Elapsed { age: age.now(), machine: age.machine(), missed, creditable }
    }

    /// Somebody confirms that so much of it went by; durable when this returns. The rest did not, and is not asked for again.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when it is more than may be confirmed, or nothing; when it cannot be noted.
    pub fn confirm_elapsed(&self, by: Duration) -> Result<(), StoreError> {
        let shared = self.shared();
        shared.keeper.confirm_age(&shared.age, by)?;
        warn!(
            "{} s that were not counted for retention and holds are, for somebody confirmed them",
            by.as_secs()
        );
        shared.settling.hurry();
        Ok(())
    }
}
