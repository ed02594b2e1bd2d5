//! Protocol data units: the 48-byte header, and taking whole units off the front of a stream (RFC 7143
//! section 11). Digests are checked here, so that nothing behind this file sees a damaged unit.

use bytes::{Buf, Bytes, BytesMut};
use tap_block::Output;
use thiserror::Error;

use crate::field::{be24, be32, be64, byte, len32, put};

/// The basic header segment.
pub(crate) const HEADER: usize = 48;
/// A tag that names nothing.
pub(crate) const NO_TAG: u32 = 0xffff_ffff;
/// The final (or transit) bit of byte 1.
pub(crate) const FINAL: u8 = 0x80;
/// The continue bit of byte 1 of login and text units.
pub(crate) const CONTINUE: u8 = 0x40;

/// Section 11.2.1.2.
pub(crate) mod opcode {
    pub(crate) const NOP_OUT: u8 = 0x00;
    pub(crate) const COMMAND: u8 = 0x01;
    pub(crate) const TASK_MANAGEMENT: u8 = 0x02;
    pub(crate) const LOGIN: u8 = 0x03;
    pub(crate) const TEXT: u8 = 0x04;
    pub(crate) const DATA_OUT: u8 = 0x05;
    pub(crate) const LOGOUT: u8 = 0x06;
    pub(crate) const SNACK: u8 = 0x10;
    pub(crate) const NOP_IN: u8 = 0x20;
    pub(crate) const RESPONSE: u8 = 0x21;
    pub(crate) const TASK_MANAGEMENT_RESPONSE: u8 = 0x22;
    pub(crate) const LOGIN_RESPONSE: u8 = 0x23;
    pub(crate) const TEXT_RESPONSE: u8 = 0x24;
    pub(crate) const DATA_IN: u8 = 0x25;
    pub(crate) const LOGOUT_RESPONSE: u8 = 0x26;
    pub(crate) const R2T: u8 = 0x31;
    pub(crate) const ASYNC: u8 = 0x32;
    pub(crate) const REJECT: u8 = 0x3f;
}

/// A basic header segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header([u8; HEADER]);

/// A whole unit, its digests checked and taken off, its padding dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pdu {
    pub(crate) header: Header,
    pub(crate) data: Bytes,
}

/// Which digests are on (section 13.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Digests {
    pub(crate) header: bool,
    pub(crate) data: bool,
}

/// Why a stream cannot be followed any further.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FramingError {
    /// Section 7.8: with error recovery level 0 the connection ends.
    #[error("a header's digest is wrong")]
    HeaderDigest,
    /// Longer than what was declared in `MaxRecvDataSegmentLength`.
    #[error("a unit of {length} bytes of data where at most {limit} were agreed")]
    TooLong {
        /// Its data segment.
        length: u32,
        /// What was agreed.
        limit: u32,
    },
}

/// What a look at the input gave.
#[derive(Debug)]
pub(crate) enum Framed {
    /// Not all there yet; so many bytes are needed in all.
    Short(usize),
    /// A unit.
    Whole(Pdu),
    /// Its data does not match its digest.
    BadData(Header),
}

impl Header {
    /// Sends a unit: this header, data, padding, and the digests that are on (RFC 7143 section 11.2).
    pub(crate) fn send(self, data: Bytes, digests: Digests, output: &mut Output) {
        let header = self.with_data_length(data.len());
        output.push(header.bytes());
        if digests.header {
            output.push(&crc32c::crc32c(header.bytes()).to_le_bytes());
        }
        if data.is_empty() {
            return;
        }
        let zeroes = [0; 3];
        let pad = zeroes.get(..padding(data.len())).unwrap_or_default();
        let digest = digests.data.then(|| crc32c::crc32c_append(crc32c::crc32c(&data), pad));
        output.push_payload(data);
        output.push(pad);
        if let Some(digest) = digest {
            output.push(&digest.to_le_bytes());
        }
    }

    pub(crate) fn new(opcode: u8) -> Self {
        let mut bytes = [0; HEADER];
        bytes[0] = opcode;
        Self(bytes)
    }

    pub(crate) fn bytes(&self) -> &[u8; HEADER] {
        &self.0
    }

    pub(crate) fn opcode(&self) -> u8 {
        self.0[0] & 0x3f
    }

    pub(crate) fn is_immediate(&self) -> bool {
        self.0[0] & 0x40 != 0
    }

    pub(crate) fn flags(&self) -> u8 {
        self.0[1]
    }

    pub(crate) fn is_final(&self) -> bool {
        self.0[1] & FINAL != 0
    }

    pub(crate) fn byte(&self, at: usize) -> u8 {
        byte(&self.0, at)
    }

    pub(crate) fn word(&self, at: usize) -> u32 {
        be32(&self.0, at)
    }

    /// The initiator task tag.
    pub(crate) fn itt(&self) -> u32 {
        self.word(16)
    }

    /// The target transfer tag.
    pub(crate) fn ttt(&self) -> u32 {
        self.word(20)
    }

    pub(crate) fn lun(&self) -> u64 {
        be64(&self.0, 8)
    }

    pub(crate) fn cdb(&self) -> [u8; 16] {
        self.0.last_chunk::<16>().copied().unwrap_or_default()
    }

    fn ahs_length(&self) -> usize {
        usize::from(self.0[4]) * 4
    }

    pub(crate) fn data_length(&self) -> u32 {
        be24(&self.0, 5)
    }

    #[must_use]
    pub(crate) fn with_flags(mut self, flags: u8) -> Self {
        self.0[1] = flags;
        self
    }

    #[must_use]
    pub(crate) fn with(mut self, at: usize, value: &[u8]) -> Self {
        put(&mut self.0, at, value);
        self
    }

    #[must_use]
    pub(crate) fn with_word(self, at: usize, value: u32) -> Self {
        self.with(at, &value.to_be_bytes())
    }

    #[must_use]
    pub(crate) fn with_itt(self, itt: u32) -> Self {
        self.with_word(16, itt)
    }

    #[must_use]
    pub(crate) fn with_ttt(self, ttt: u32) -> Self {
        self.with_word(20, ttt)
    }

    #[must_use]
    pub(crate) fn with_data_length(self, length: usize) -> Self {
        let [_, a, b, c] = len32(length).to_be_bytes();
        self.with(5, &[a, b, c])
    }
}

/// Bytes that fill up `length` to whole words.
pub(crate) fn padding(length: usize) -> usize {
    length.next_multiple_of(4) - length
}

/// Takes the first unit off `input`.
pub(crate) fn take(input: &mut BytesMut, digests: Digests, limit: u32) -> Result<Framed, FramingError> {
    let Some(first) = input.first_chunk::<HEADER>() else {
        return Ok(Framed::Short(HEADER));
    };
    let header = Header(*first);
    let length = header.data_length();
    if length > limit {
        return Err(FramingError::TooLong { length, limit });
    }
    let ahs = header.ahs_length();
    let head = HEADER + ahs;
    let data_at = head + if digests.header { 4 } else { 0 };
    if input.len() < data_at {
        return Ok(Framed::Short(data_at));
    }
    if digests.header && !matches(input.get(..head), input.get(head..data_at)) {
        return Err(FramingError::HeaderDigest);
    }
    let length = usize::try_from(length).unwrap_or(0);
    let padded = length + padding(length);
    let has_digest = digests.data && length > 0;
    let whole = data_at + padded + if has_digest { 4 } else { 0 };
    if input.len() < whole {
        return Ok(Framed::Short(whole));
    }
    input.advance(data_at);
    if has_digest && !matches(input.get(..padded), input.get(padded..padded + 4)) {
        input.advance(padded + 4);
        return Ok(Framed::BadData(header));
    }
    let data = input.split_to(length).freeze();
    input.advance(whole - data_at - length);
    Ok(Framed::Whole(Pdu { header, data }))
}

fn matches(bytes: Option<&[u8]>, digest: Option<&[u8]>) -> bool {
    match (bytes, digest) {
        (Some(bytes), Some(digest)) => digest == crc32c::crc32c(bytes).to_le_bytes(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7143 appendix A.4; a digest is sent with its least significant byte first.
    #[test]
    fn digests_are_those_of_the_rfc() {
        let vectors: [(Vec<u8>, [u8; 4]); 4] = [
            (vec![0; 32], [0xaa, 0x36, 0x91, 0x8a]),
            (vec![0xff; 32], [0x43, 0xab, 0xa8, 0x62]),
            ((0..32).collect(), [0x4e, 0x79, 0xdd, 0x46]),
            ((0..32).rev().collect(), [0x5c, 0xdb, 0x3f, 0x11]),
        ];
        for (bytes, digest) in vectors {
            assert_eq!(crc32c::crc32c(&bytes).to_le_bytes(), digest);
        }
    }

    fn unit(data: &[u8], digests: Digests) -> BytesMut {
        let mut out = Output::default();
        Header::new(opcode::NOP_OUT).send(Bytes::copy_from_slice(data), digests, &mut out);
        BytesMut::from(&out.take()[..])
    }

    #[test]
    fn units_come_back_and_every_flipped_bit_is_found() {
        for (header, data) in [(false, false), (true, false), (false, true), (true, true)] {
            let digests = Digests { header, data };
            let bytes = unit(b"hello", digests);
            for cut in 0..bytes.len() {
                let short = take(&mut BytesMut::from(&bytes[..cut]), digests, 100).unwrap();
                assert!(matches!(short, Framed::Short(n) if n > cut && n <= bytes.len()));
            }
            let mut whole = bytes.clone();
            let Framed::Whole(pdu) = take(&mut whole, digests, 100).unwrap() else { panic!() };
            assert_eq!((&pdu.data[..], whole.len()), (&b"hello"[..], 0));
            if !(header && data) {
                continue;
            }
            for bit in 0..bytes.len() * 8 {
                let mut bad = bytes.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(!matches!(take(&mut bad, digests, 100), Ok(Framed::Whole(_))), "bit {bit}");
            }
        }
    }

    #[test]
    fn more_than_agreed_is_refused_before_it_is_received() {
        let bytes = unit(&[0; 104], Digests::default());
        let error = take(&mut BytesMut::from(&bytes[..HEADER]), Digests::default(), 100).unwrap_err();
        assert_eq!(error, FramingError::TooLong { length: 104, limit: 100 });
    }
}
