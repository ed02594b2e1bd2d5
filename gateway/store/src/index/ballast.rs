//! Room that is held for the index on its own disk. Others may fill that to the last byte; fjall, whose write finds no room then, takes
//! nothing more until it is opened again. So some of what is held is given up before each write when too little is free, as long
//! as any is left, and taken back when there is room again.
//!
//! ```text
//!   |── taken by anybody ──|── free ──|── held ──|      free < low: so much less is held
//!                          └─ low ─┘                    free > what is to be left: so much more, up to its size
//! ```

use std::io;
use std::path::Path;
use std::sync::Mutex;

use tap_disk::{HeldRoom, free_space};
use tracing::{info, warn};

use super::Shortage;
use crate::sync::lock;

/// The most that is held: twice the rows of a group (a quarter of a million versions of 48 bytes), and what the memory of all five
/// tables comes to when it is written out, 8 MiB each. What a large index compacts is more than any file could hold: that fails, and
/// is done again when there is room.
const MOST: u64 = 64 << 20;
/// It is changed by no less than this part of it.
const STEPS: u64 = 16;

/// How much is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holding {
    size: u64,
    leave: u64,
}

impl Holding {
    /// Of a store with segments of so many bytes, which leaves `keep_free` bytes of its disk free: segments are short where there
    /// is little room.
    pub(crate) fn of(segment_len: u32, keep_free: u64) -> Self {
        let size = u64::from(segment_len).saturating_mul(2).min(MOST);
        Self { size, leave: keep_free.max(size / 2) }
    }

    /// What has to be free when anything is written.
    const fn low(self) -> u64 {
        self.size / 2
    }

    /// With less free than this nothing is begun.
    const fn least(self) -> u64 {
        self.size / 4
    }

    /// What is held from here on, when `held` is and so much is `free` beside it.
    fn next(self, held: u64, free: u64) -> u64 {
        let step = (self.size / STEPS).max(1);
        if free < self.low() {
            let given_up = (self.low() - free).div_ceil(step).saturating_mul(step);
            return held.saturating_sub(given_up);
        }
        let more = free.saturating_sub(self.leave) / step * step;
        held.saturating_add(more).min(self.size).max(held)
    }
}

/// See the module.
pub(super) struct Ballast {
    /// `None` where no file holds room.
    held: Mutex<Option<HeldRoom>>,
    holding: Holding,
    free: Box<dyn Fn() -> Option<u64> + Send + Sync>,
}

impl Ballast {
    /// In a file at `path`, made if it is missing.
    pub(super) fn open(path: &Path, holding: Holding) -> Self {
        let held = HeldRoom::open(path).inspect_err(|e| warn!("no room is held for the index: {e}")).ok();
        let beside = path.parent().unwrap_or(path).to_owned();
        Self { held: Mutex::new(held), holding, free: Box::new(move || free_space(&beside).ok()) }
    }

    /// Gives up what may be needed now, takes back what there is room for.
    pub(super) fn balance(&self) {
        let mut held = lock(&self.held);
        if held.as_ref().is_some_and(|room| self.balanced(room).is_err()) {
            *held = None;
        }
    }

    /// `Err`: no file holds room here.
    fn balanced(&self, room: &HeldRoom) -> Result<(), ()> {
        let Some((free, bytes)) = (self.free)().zip(room.bytes().ok()) else { return Ok(()) };
        let next = self.holding.next(bytes, free);
        if next == bytes {
            return Ok(());
        }
        match room.hold(next) {
            Ok(()) if next < bytes => {
                info!(
                    "{free} bytes are free on the disk of the index: of {bytes} held for it {next} still are"
                );
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::Unsupported => {
                warn!("no room is held for the index, for its file system holds none for files: {e}");
                Err(())
            }
            // Somebody was faster.
            _ => Ok(()),
        }
    }

    /// Too little for the index to go on, if it is.
    pub(super) fn shortage(&self) -> Option<Shortage> {
        let needed = self.holding.least();
        (self.free)().filter(|free| *free < needed).map(|free| Shortage { free, needed })
    }

    /// Are so many bytes free, beside what is to be?
    pub(super) fn has_room_for(&self, bytes: u64) -> bool {
        (self.free)().is_none_or(|free| free >= bytes.saturating_add(self.holding.low()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_given_up_bit_by_bit_and_taken_back() {
        let holding = Holding::of(8 << 20, 20 << 20);
        let mib = |held: u64, free: u64| holding.next(held << 20, free << 20) >> 20;
        assert_eq!(mib(0, 100), 16, "a new one");
        assert_eq!(mib(0, 25), 5, "segments' reserve stays");
        assert_eq!(mib(16, 20), 16);
        assert_eq!(mib(16, 8), 16);
        assert_eq!(mib(16, 7), 15);
        assert_eq!(mib(16, 0), 8, "others took all: half of it is free now");
        assert_eq!(mib(8, 0), 0, "and again");
        assert_eq!(mib(0, 0), 0);
        assert_eq!(mib(0, 20), 0, "it takes nothing of what it gave up");
        assert_eq!(mib(8, 23), 11);
        assert_eq!(holding.next(16 << 20, (8 << 20) - 1), 15 << 20, "not byte by byte");
        assert_eq!(holding.next(0, (21 << 20) - 1), 0);
        assert_eq!(mib(20, 100), 20, "an earlier program held more");
    }

    #[test]
    fn a_large_store_holds_no_more_than_is_needed() {
        assert_eq!(Holding::of(64 << 20, 64 << 20), Holding { size: MOST, leave: 64 << 20 });
        assert_eq!(Holding::of(1 << 20, 0), Holding { size: 2 << 20, leave: 1 << 20 });
    }
}
