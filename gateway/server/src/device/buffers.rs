//! Buffers for what is read, used again: making a fresh one clear costs a megabyte's read a sixth of its time.

use std::sync::{Mutex, PoisonError};

/// A buffer; dropped, it is kept for another read.
pub(crate) struct Buffer(Vec<u8>);

/// Kept at most.
const MOST: usize = 64;
/// Larger ones are not kept.
const LARGEST: usize = 2 << 20;

/// Of all threads: what one of the pool reads is dropped by the one that has sent it.
static SPARE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

impl Buffer {
    /// `len` bytes of anything: whoever takes it writes all of them.
    pub(crate) fn take(len: usize) -> Self {
        let mut bytes = {
            let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
            let fits = spare.iter().rposition(|b| b.capacity() >= len);
            fits.map(|n| spare.swap_remove(n)).unwrap_or_default()
        };
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
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < MOST {
            spare.push(bytes);
        }
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
}
