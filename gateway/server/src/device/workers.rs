//! The threads that do what a connection's own thread must not wait for.

use std::sync::Arc;

use tap_disk::Pool;

/// Threads for what may take long, and what may wait for them; whoever asks for more does it on its own thread.
const MAPPERS: usize = 2;
const MAP_QUEUE: usize = 64;

/// Two pools, so that nobody's maps keep anybody's reads waiting.
#[derive(Debug, Clone)]
pub(crate) struct Workers {
    /// For reads and writes.
    pub(super) reads: Arc<Pool>,
    /// For what devices tell of themselves, and for zeroes that take room.
    pub(super) maps: Arc<Pool>,
}

impl From<Arc<Pool>> for Workers {
    fn from(reads: Arc<Pool>) -> Self {
        Self { reads, maps: Arc::new(Pool::new("image-map", MAPPERS, MAP_QUEUE)) }
    }
}
