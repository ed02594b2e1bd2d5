//! The thread that keeps the high-water mark: each second, and at each seal.

use std::sync::{Condvar, Mutex};
use std::time::Duration;

use gateway_journal::{Mark, Sealed};
use tap_block::WallTime;
use tracing::warn;

use crate::age::Age;
use crate::error::StoreError;
use crate::mark::MarkStore;
use crate::sync::{lock, wait_for};

const EACH: Duration = Duration::from_secs(1);
/// How often the store's own clock is noted when nothing else is.
const AGE_EACH: Duration = Duration::from_secs(60);

pub(crate) struct Keeper {
    store: Box<dyn MarkStore>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    mark: Mark,
    /// What is stored says that the store is in use.
    begun: bool,
    /// It differs from what is stored.
    dirty: bool,
    urgent: bool,
    stopped: bool,
}

impl Keeper {
    pub(crate) fn new(store: Box<dyn MarkStore>, mark: Mark) -> Self {
        let state = State { mark, begun: false, dirty: false, urgent: false, stopped: false };
        Self { store, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Notes, durably and before anything ages by it, how far the store's own clock is.
    pub(crate) fn note_age(&self, age: &Age) -> std::io::Result<()> {
        let mut state = lock(&self.state);
        let mark = Mark { aged: Some(age.note()), ..state.mark };
        self.store.store(&mark.encode())?;
        state.mark = mark;
        Ok(())
    }

    /// Somebody confirmed that so much time went by: noted durably before anything ages by it. Of two who do so at once, one is
    /// refused.
    pub(crate) fn confirm_age(&self, age: &Age, by: Duration) -> Result<(), StoreError> {
        let mut state = lock(&self.state);
        let most = age.creditable();
        if by.is_zero() || by > most {
            let text = format!("{} s cannot be confirmed: {} s can", by.as_secs(), most.as_secs());
            return Err(StoreError::Invalid(text));
        }
        let mark = Mark { aged: Some(age.note_with(by)), ..state.mark };
        self.store.store(&mark.encode())?;
        // A mark that was on its way to the disk meanwhile must not be the last.
        (state.mark, state.dirty, state.urgent) = (mark, true, true);
        age.confirm(by);
        self.changed.notify_one();
        Ok(())
    }

    /// Notes, durably and before anything is written, that the store is in use.
    pub(crate) fn begin(&self) -> std::io::Result<()> {
        let mut state = lock(&self.state);
        if !state.begun {
            let mark = Mark { clean: false, ..state.mark };
            self.store.store(&mark.encode())?;
            (state.mark, state.begun) = (mark, true);
        }
        Ok(())
    }

    /// The journal is durable up to here; `sealed` when a segment was just left.
    pub(crate) fn advance(&self, durable: Sealed, group: u32, sealed: bool) {
        let mut state = lock(&self.state);
        state.mark = Mark { durable: Some(durable), group, clean: false, ..state.mark };
        state.dirty = true;
        if sealed {
            state.urgent = true;
            self.changed.notify_one();
        }
    }

    /// Nothing more comes: the last mark is stored by the time the thread ends.
    pub(crate) fn stop(&self) {
        lock(&self.state).stopped = true;
        self.changed.notify_one();
    }

    pub(crate) fn run(&self, age: &Age) {
        loop {
            let mut state = lock(&self.state);
            if !state.urgent && !state.stopped {
                state = wait_for(&self.changed, state, EACH);
            }
            let last = state.stopped;
            let noted = state.mark.aged.map_or(WallTime::EPOCH, |aged| aged.at);
            let due = state.dirty || last || age.now().since(noted) >= AGE_EACH;
            if due {
                state.mark.aged = Some(age.note());
            }
            let mark = Mark { clean: last || state.mark.clean, ..state.mark };
            (state.dirty, state.urgent) = (false, false);
            // Who begins to write waits for a note that nobody does, and has the last word. All others wait for none.
            let held = (mark.clean && !last).then_some(state);
            if due && let Err(e) = self.store.store(&mark.encode()) {
                warn!("cannot store the journal's high-water mark: {e}");
                held.unwrap_or_else(|| lock(&self.state)).dirty = true;
            }
            if last {
                return;
            }
        }
    }
}
