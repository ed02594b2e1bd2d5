//! Where all who have an image open find what is written on it.
//!
//! It is opened once, by whoever comes first. After a kill that may take minutes: who wants the same image waits for it, or does
//! without, and nobody else notices.

use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::device::OverlayDevice;

/// See the module. One for each image.
#[derive(Default)]
pub(super) struct OverlayPlace {
    /// Held by who opens it.
    opening: Mutex<()>,
    opened: OnceLock<Arc<OverlayDevice>>,
}

impl OverlayPlace {
    /// The overlay, if it is open.
    pub(super) fn get(&self) -> Option<Arc<OverlayDevice>> {
        self.opened.get().cloned()
    }

    /// The overlay, which `open` opens if it is not open. Waits for somebody who is at it already.
    ///
    /// # Errors
    /// What `open` says.
    pub(super) fn or_open(
        &self,
        open: impl FnOnce() -> io::Result<OverlayDevice>,
    ) -> io::Result<Arc<OverlayDevice>> {
        let _one_at_a_time = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = self.get() {
            return Ok(there);
        }
        let opened = Arc::new(open()?);
        Ok(Arc::clone(self.opened.get_or_init(|| opened)))
    }

    /// Is somebody at it just now?
    pub(super) fn is_being_opened(&self) -> bool {
        self.opened.get().is_none() && self.opening.try_lock().is_err()
    }
}
