//! Buffers for what is read, used again: making a fresh one clear costs a megabyte's read a sixth of its time.

use std::sync::{Mutex, PoisonError};

/// A buffer; dropped, it is kept for another read.
pub(crate) struct Buffer(Vec<u8>);

/// Kept at most, in number and in all.
const MOST: usize = 64;
const MOST_BYTES: usize = 64 << 20;
/// Larger ones are not kept.
const LARGEST: usize = 2 << 20;

/// Of all threads: what one of the pool reads is dropped by the one that has sent it.
static SPARE: Mutex<Spare> = Mutex::new(Spare { buffers: Vec::new(), bytes: 0 });

/// Buffers at hand.
struct Spare {
    buffers: Vec<Vec<u8>>,
    /// What they take in all.
    bytes: usize,
}

impl Spare {
    /// The smallest that fits: a small read leaves the large ones to large reads.
    fn take(&mut self, len: usize) -> Option<Vec<u8>> {
        let fitting = self.buffers.iter().enumerate().filter(|(_, buffer)| buffer.capacity() >= len);
        let (place, _) = fitting.min_by_key(|(_, buffer)| buffer.capacity())?;
        let buffer = self.buffers.swap_remove(place);
        self.bytes = self.bytes.saturating_sub(buffer.capacity());
        Some(buffer)
    }

    /// When there are too many the smallest goes, which is soonest made again: many small reads at once once took all
    /// places for good, and each large one cleared a buffer of its own.
    fn keep(&mut self, buffer: Vec<u8>) {
        self.bytes = self.bytes.saturating_add(buffer.capacity());
        self.buffers.push(buffer);
        while self.buffers.len() > MOST || self.bytes > MOST_BYTES {
            drop(self.take(0));
        }
    }
}

impl Buffer {
    /// `len` bytes of anything: whoever takes it writes all of them.
    pub(crate) fn take(len: usize) -> Self {
        let spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner).take(len);
        let mut bytes = spare.unwrap_or_default();
        bytes.resize(len, 0);
        Self(bytes)
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.0);
        if bytes.capacity() == 0 || bytes.capacity() > LARGEST {
            return;
        }
        if cfg!(debug_assertions) {
            // A test that is shown what another read left here fails.
            bytes.fill(0xa5);
        }
        SPARE.lock().unwrap_or_else(PoisonError::into_inner).keep(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_has_the_length_asked_for_whatever_it_was_before() {
        for len in [8192, 4096, 10_000, 0, 4096] {
            let mut buffer = Buffer::take(len);
            buffer.bytes().fill(1);
            assert_eq!(buffer.as_ref().len(), len);
        }
    }

    #[test]
    fn small_buffers_keep_no_place_from_large_ones_and_all_have_a_bound() {
        let mut spare = Spare { buffers: Vec::new(), bytes: 0 };
        (0..200).for_each(|_| spare.keep(Vec::with_capacity(4096)));
        assert_eq!(spare.buffers.len(), MOST);
        (0..200).for_each(|_| spare.keep(Vec::with_capacity(1 << 20)));
        assert_eq!((spare.buffers.len(), spare.bytes), (MOST, MOST << 20));
        (0..200).for_each(|_| spare.keep(Vec::with_capacity(LARGEST)));
        assert!(spare.bytes <= MOST_BYTES);
        drop(spare.take(LARGEST));
        spare.keep(Vec::with_capacity(4096));
        assert_eq!(spare.take(10).map(|buffer| buffer.capacity()), Some(4096));
        assert!(spare.take(LARGEST + 1).is_none());
    }
}
