//! What test images may take of the file system: not what the journal needs to go on and to settle.
//!
//! How much is free is asked a few times a second at most, however many writes there are; between two looks every write takes
//! off what was seen. An image that finds none is named until there is room again.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tap_block::{Clock, Monotonic};

/// How long a look holds.
const LOOK_EACH: Duration = Duration::from_millis(100);
/// With so much left nobody is short of room any more.
const ENOUGH: u64 = 1 << 20;

/// Room for a copy that takes its time: nobody else gets it, however often is looked, until it is written or this goes.
pub(crate) struct Promise<'a> {
    room: &'a Room,
    left: u64,
}

/// Asks how many bytes images may still take; `None` when nobody knows.
pub(crate) type RoomLeft = Box<dyn Fn() -> Option<u64> + Send + Sync>;

/// The room that all overlays share.
pub(crate) struct Room {
    left: RoomLeft,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    looked: Option<Monotonic>,
    /// As of the last look, less what was taken since.
    left: u64,
    /// Of that, bytes of copies that are not written yet.
    promised: u64,
    /// Images that found none.
    short: BTreeSet<u64>,
}

impl Room {
    pub(crate) fn new(left: RoomLeft, clock: Arc<dyn Clock>) -> Self {
        Self { left, clock, state: Mutex::default() }
    }

    /// Takes `bytes` for an image.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`]: the image is named from now on.
    pub(crate) fn take(&self, image: u64, bytes: u64) -> io::Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let mut state = self.look();
        state.admit(image, bytes)?;
        state.left -= bytes;
        Ok(())
    }

    /// Is there so much? Nobody is named.
    pub(crate) fn has(&self, bytes: u64) -> bool {
        let state = self.look();
        bytes <= state.left.saturating_sub(state.promised)
    }

    /// Sets `bytes` aside for an image that is going to be written.
    ///
    /// # Errors
    /// As [`Room::take`].
    pub(crate) fn promise(&self, image: u64, bytes: u64) -> io::Result<Promise<'_>> {
        let mut state = self.look();
        state.admit(image, bytes)?;
        state.promised += bytes;
        drop(state);
        Ok(Promise { room: self, left: bytes })
    }

    /// Images that found no room, as long as there is none.
    pub(crate) fn short(&self) -> Vec<u64> {
        self.look().short.iter().copied().collect()
    }

    /// The image is gone.
    pub(crate) fn forget(&self, image: u64) {
        self.lock().short.remove(&image);
    }

    /// The state, with a look that is not too old.
    fn look(&self) -> MutexGuard<'_, State> {
        let now = self.clock.monotonic();
        let mut state = self.lock();
        if state.looked.is_none_or(|at| now.since(at) >= LOOK_EACH) {
            state.left = (self.left)().unwrap_or(u64::MAX);
            state.looked = Some(now);
            if state.left.saturating_sub(state.promised) >= ENOUGH && !state.short.is_empty() {
                tracing::info!("test images find room again");
                state.short.clear();
            }
        }
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Is there room for so much more?
    fn admit(&mut self, image: u64, bytes: u64) -> io::Result<()> {
        let left = self.left.saturating_sub(self.promised);
        if bytes <= left {
            return Ok(());
        }
        if self.short.insert(image) {
            tracing::warn!(
                image,
                left,
                "a test image finds no room: what is left of the disk is the journal's"
            );
        }
        let text = format!(
            "{bytes} bytes more are needed, {left} are left beyond what the journal needs of the disk to go on: remove images, \
             or make room on the disk"
        );
        Err(io::Error::new(io::ErrorKind::StorageFull, text))
    }
}

impl Promise<'_> {
    /// So much of it is written: the next look sees it.
    pub(crate) fn written(&mut self, bytes: u64) {
        let bytes = bytes.min(self.left);
        self.left -= bytes;
        let mut state = self.room.lock();
        state.promised = state.promised.saturating_sub(bytes);
        state.left = state.left.saturating_sub(bytes);
    }
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        let mut state = self.room.lock();
        state.promised = state.promised.saturating_sub(self.left);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tap_block::WallTime;

    use super::*;

    #[derive(Default)]
    struct Hand(AtomicU64);

    impl Clock for Hand {
        fn wall(&self) -> WallTime {
            WallTime::EPOCH
        }

        fn monotonic(&self) -> Monotonic {
            Monotonic::from_nanos(self.0.load(Ordering::Relaxed) * 1_000_000)
        }
    }

    #[test]
    fn what_a_copy_is_going_to_write_is_nobody_elses_however_often_is_looked() {
        const GIB: u64 = 1 << 30;
        let (hand, free) = (Arc::new(Hand::default()), Arc::new(AtomicU64::new(100 * GIB)));
        let seen = Arc::clone(&free);
        let room = Room::new(Box::new(move || Some(seen.load(Ordering::Relaxed))), hand.clone());
        let mut copy = room.promise(1, 60 * GIB).unwrap();
        for look in 1..4 {
            // A gibibyte is written between two looks.
            copy.written(GIB);
            free.fetch_sub(GIB, Ordering::Relaxed);
            hand.0.store(look * 200, Ordering::Relaxed);
            assert!(room.promise(2, 60 * GIB).is_err(), "look {look}");
            assert!(room.take(3, 41 * GIB).is_err(), "look {look}");
        }
        drop(room.promise(2, 40 * GIB).unwrap());
        drop(copy);
        assert!(room.take(3, 97 * GIB).is_ok(), "the copy was given up");
    }

    #[test]
    fn looks_are_few_and_what_was_taken_since_counts() {
        let (hand, free, looks) =
            (Arc::new(Hand::default()), Arc::new(AtomicU64::new(10 << 20)), Arc::default());
        let (seen, counted): (_, Arc<AtomicU64>) = (Arc::clone(&free), Arc::clone(&looks));
        let left: RoomLeft = Box::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            Some(seen.load(Ordering::Relaxed))
        });
        let room = Room::new(left, hand.clone());
        for _ in 0..10 {
            room.take(7, 1 << 20).unwrap();
        }
        assert_eq!(room.take(7, 4096).unwrap_err().kind(), io::ErrorKind::StorageFull);
        room.take(8, 0).unwrap();
        assert_eq!((room.short(), looks.load(Ordering::Relaxed)), (vec![7], 1), "one look");
        free.store(4096, Ordering::Relaxed);
        hand.0.store(100, Ordering::Relaxed);
        assert!(room.take(9, 8192).is_err());
        assert_eq!(room.short(), [7, 9]);
        room.forget(9);
        free.store(ENOUGH, Ordering::Relaxed);
        assert_eq!(room.short(), [7], "not looked at again yet");
        hand.0.store(200, Ordering::Relaxed);
        assert!(room.short().is_empty() && room.take(7, 4096).is_ok(), "there is room again");
    }
}
