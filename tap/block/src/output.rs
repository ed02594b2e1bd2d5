//! What a server of a block protocol sends: small headers gathered in one buffer, read data by reference, all of it
//! handed out as slices for one vectored write. It is here because NBD and iSCSI both want it, and neither knows the other.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

use crate::units::count;

/// Payloads up to this size are copied behind their header; a slice of their own would cost more.
const COPIED: usize = 512;

/// Bytes waiting to be written, in order.
#[derive(Debug, Default)]
pub struct Output {
    pieces: VecDeque<Bytes>,
    /// Comes after all `pieces`.
    tail: BytesMut,
    len: usize,
    /// Bytes taken off since the beginning.
    written: u64,
}

impl Output {
    /// How many bytes wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// How many bytes have been written since the beginning.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Has everything been written?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Points `slices` at the first waiting bytes; how many slices it used.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let tail = (!self.tail.is_empty()).then_some(&self.tail[..]);
        let waiting = self.pieces.iter().map(|piece| &piece[..]).chain(tail);
        let mut used = 0;
        for (slot, piece) in slices.iter_mut().zip(waiting) {
            *slot = IoSlice::new(piece);
            used += 1;
        }
        used
    }

    /// The first `n` waiting bytes have been written.
    pub fn advance(&mut self, n: usize) {
        let mut left = n.min(self.len);
        self.len -= left;
        self.written += count(left);
        while let Some(front) = self.pieces.front_mut() {
            if left < front.len() {
                front.advance(left);
                return;
            }
            left -= front.len();
            self.pieces.pop_front();
        }
        self.tail.advance(left);
    }

    /// Everything that waits as one run of bytes, taken out. For tests and simulators.
    pub fn take(&mut self) -> Bytes {
        let mut all = BytesMut::with_capacity(self.len);
        for piece in self.pieces.drain(..) {
            all.extend_from_slice(&piece);
        }
        all.extend_from_slice(&self.tail.split());
        self.written += count(self.len);
        self.len = 0;
        all.freeze()
    }

    /// Appends a few bytes by copying them.
    pub fn push(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Appends a payload, by reference unless it is tiny.
    pub fn push_payload(&mut self, payload: Bytes) {
        if payload.len() <= COPIED {
            self.push(&payload);
            return;
        }
        if !self.tail.is_empty() {
            self.pieces.push_back(self.tail.split().freeze());
        }
        self.len += payload.len();
        self.pieces.push_back(payload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_whatever_the_write_sizes() {
        for step in 1..40 {
            let mut out = Output::default();
            let mut expected = Vec::new();
            for n in 0..20_u8 {
                out.push(&[n; 16]);
                expected.extend_from_slice(&[n; 16]);
                let payload = vec![n; if n % 3 == 0 { COPIED + 7 } else { 5 }];
                expected.extend_from_slice(&payload);
                out.push_payload(payload.into());
            }
            assert_eq!(out.len(), expected.len());
            let mut written = Vec::new();
            while !out.is_empty() {
                let mut slices = [IoSlice::new(&[]); 4];
                let used = out.slices(&mut slices);
                let seen: Vec<u8> = slices[..used].iter().flat_map(|s| s.iter().copied()).collect();
                let n = seen.len().min(step * 37);
                written.extend_from_slice(&seen[..n]);
                out.advance(n);
            }
            assert_eq!(written, expected);
            assert_eq!(out.written(), count(expected.len()));
        }
    }
}
