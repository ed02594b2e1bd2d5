//! What goes to the initiator: headers gathered in one buffer, read data by reference, all of it handed out
//! as slices for one vectored write.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

use crate::pdu::{Digests, Header, padding};

/// Payloads up to this size are copied behind their header; a slice of their own would cost more.
const COPIED: usize = 512;

/// Bytes waiting to be written, in order.
#[derive(Debug, Default)]
pub struct Output {
    pieces: VecDeque<Bytes>,
    /// Comes after all `pieces`.
    tail: BytesMut,
    len: usize,
}

impl Output {
    /// How many bytes wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
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
        self.len = 0;
        all.freeze()
    }

    /// Appends a unit: header, data, padding, and the digests that are on (RFC 7143 section 11.2).
    pub(crate) fn push_pdu(&mut self, header: Header, data: Bytes, digests: Digests) {
        let header = header.with_data_length(data.len());
        self.push(header.bytes());
        if digests.header {
            self.push(&crc32c::crc32c(header.bytes()).to_le_bytes());
        }
        if data.is_empty() {
            return;
        }
        let zeroes = [0; 3];
        let pad = zeroes.get(..padding(data.len())).unwrap_or_default();
        let digest = digests.data.then(|| crc32c::crc32c_append(crc32c::crc32c(&data), pad));
        self.push_payload(data);
        self.push(pad);
        if let Some(digest) = digest {
            self.push(&digest.to_le_bytes());
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        self.len += bytes.len();
    }

    fn push_payload(&mut self, payload: Bytes) {
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
