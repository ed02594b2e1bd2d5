//! Messages as bytes: one protobuf `Envelope` each.
//!
//! A batch is by far the largest message and its body the largest part of it. The body is the last field of the
//! last field, so an encoded message is a small head followed by the body as it lies in memory: a transport writes
//! both without joining them, and decoding slices the body out of the received bytes.

use bytes::{Buf, Bytes, BytesMut};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use tap_block::units::count;
use tap_block::{Batch, BatchError, NameError};

use crate::columns;
use crate::message::Message;
use crate::proto;

/// The longest encoded message. A frame that claims more is not from a peer of ours.
pub const MAX_MESSAGE: usize = 16 << 20;
/// The most records in one batch; bounds what a small message can unfold to.
pub const MAX_ENTRIES: usize = 1 << 16;

/// The longest stretch that may be looked up at once, in bytes of volume.
pub const MAX_LOOKUP: u64 = 16 << 20;

/// Why bytes are no message. Nothing of such a message is used; the connection that brought it is closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Not protobuf, or not ours.
    #[error("the bytes do not decode: {0}")]
    Malformed(String),
    /// A frame above [`MAX_MESSAGE`].
    #[error(
        "a message of {0} bytes is over the limit of {MAX_MESSAGE}: the peer does not speak this protocol"
    )]
    TooLong(u64),
    /// More than [`MAX_ENTRIES`].
    #[error("a batch of {0} records is over the limit of {MAX_ENTRIES}")]
    TooManyEntries(usize),
    /// A part that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A number with no meaning, or out of range.
    #[error("{value} is no valid {what}")]
    OutOfRange {
        /// What it should be.
        what: &'static str,
        /// What it is.
        value: u64,
    },
    /// A name that is none.
    #[error("bad name: {0}")]
    Name(#[from] NameError),
    /// The columns of a batch have different lengths.
    #[error("the columns of a batch do not belong together")]
    Columns,
    /// A copy of a disk state that the stream has not reached.
    #[error("a copy as of record {as_of} came before record {due}")]
    CopyAhead {
        /// What the copy shows.
        as_of: u64,
        /// The record due next.
        due: u64,
    },
    /// A stored unit whose checksum is wrong.
    #[error("block {block} was damaged on its way")]
    Damaged {
        /// Its number.
        block: u64,
    },
    /// The records of a batch do not fit together.
    #[error("bad batch: {0}")]
    Batch(#[from] BatchError),
}

/// An encoded message in two pieces, to be sent one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// Everything but the stored units.
    pub head: Bytes,
    /// The stored units of a batch, shared with it; empty for other messages.
    pub body: Bytes,
}

impl Parts {
    /// Bytes of both.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// Nothing at all?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Both in one piece; copies when there is a body.
    #[must_use]
    pub fn concat(self) -> Bytes {
        if self.body.is_empty() {
            return self.head;
        }
        let mut whole = self.head.chain(self.body);
        whole.copy_to_bytes(whole.remaining())
    }
}

impl Message {
    /// Encodes. The two pieces together are the protobuf `Envelope`.
    #[must_use]
    pub fn encode(&self) -> Parts {
        match self {
            Self::Data(batch) => encode_data(batch),
            other => Parts { head: proto::Envelope::of(other).encode_to_vec().into(), body: Bytes::new() },
        }
    }

    /// Decodes and validates; a batch's body is a slice of `bytes`.
    ///
    /// # Errors
    /// [`WireError`] for anything that a peer of ours would not have sent.
    pub fn decode(bytes: Bytes) -> Result<Self, WireError> {
        check_length(bytes.len())?;
        proto::Envelope::decode(bytes)?.into_message()
    }
}

/// Encodes one batch, for a spool. The pieces together are the protobuf `Batch`.
#[must_use]
pub fn encode_batch(batch: &Batch) -> Parts {
    let mut head = BytesMut::with_capacity(batch_capacity(batch));
    batch_head(batch, &mut head);
    Parts { head: head.freeze(), body: batch.body.clone() }
}

/// Decodes and validates what [`encode_batch`] gave; the body is a slice of `bytes`.
///
/// # Errors
/// [`WireError`] when it is not a sound batch.
pub fn decode_batch(bytes: Bytes) -> Result<Batch, WireError> {
    check_length(bytes.len())?;
    columns::unpack(proto::Batch::decode(bytes)?)
}

fn check_length(len: usize) -> Result<(), WireError> {
    if len > MAX_MESSAGE { Err(WireError::TooLong(count(len))) } else { Ok(()) }
}

fn encode_data(batch: &Batch) -> Parts {
    let mut inner = BytesMut::with_capacity(batch_capacity(batch));
    batch_head(batch, &mut inner);
    let len = count(inner.len() + batch.body.len());
    let mut head = BytesMut::with_capacity(inner.len() + key_len(proto::DATA) + encoded_len_varint(len));
    encode_key(proto::DATA, WireType::LengthDelimited, &mut head);
    encode_varint(len, &mut head);
    head.extend_from_slice(&inner);
    Parts { head: head.freeze(), body: batch.body.clone() }
}

/// Everything of a batch up to the first byte of its body, which is its last field.
fn batch_head(batch: &Batch, out: &mut BytesMut) {
    let columns = columns::pack(batch);
    out.reserve(columns.encoded_len());
    columns.encode_raw(out);
    if !batch.body.is_empty() {
        encode_key(proto::BODY, WireType::LengthDelimited, out);
        encode_varint(count(batch.body.len()), out);
    }
}

fn batch_capacity(batch: &Batch) -> usize {
    128 + batch.entries.len() * 24 + batch.lens.len() * 2
}

impl From<prost::DecodeError> for WireError {
    fn from(error: prost::DecodeError) -> Self {
        Self::Malformed(error.to_string())
    }
}
