//! A manifest that is longer than a segment, packed as it may be: it lies in pieces, in frames of their own, and the frame where it
//! would stand says where.

use prost::Message;
use tap_block::units::count;
use xxhash_rust::xxh3::xxh3_64;

use super::{MOST_BYTES, Manifest, VERSION_IN_PIECES, WHAT, malformed};
use crate::error::FormatError;
use crate::segment::StoreId;
use crate::units::SegmentId;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pieces {
    /// The store.
    pub store: StoreId,
    /// The settle that wrote it.
    pub settle: u64,
    /// Where each piece's frame begins, in the order of the pieces.
    pub places: Vec<(SegmentId, u32)>,
    /// The bytes of all of them.
    pub bytes: u64,
    /// Their hash.
    pub sum: u64,
}

/// The fields that it shares with a manifest are the same there; those of its own have numbers that no manifest uses.
#[derive(Clone, PartialEq, Message)]
struct PPieces {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(fixed64, tag = "2")]
    store: u64,
    #[prost(uint64, tag = "3")]
    settle: u64,
    #[prost(uint32, repeated, tag = "20")]
    segments: Vec<u32>,
    #[prost(uint32, repeated, tag = "21")]
    ats: Vec<u32>,
    #[prost(uint64, tag = "22")]
    bytes: u64,
    #[prost(fixed64, tag = "23")]
    sum: u64,
}

impl Pieces {
    /// Of a manifest that has these bytes, whose pieces lie there.
    #[must_use]
    pub fn of(manifest: &Manifest, bytes: &[u8], places: Vec<(SegmentId, u32)>) -> Self {
        let Manifest { store, settle, .. } = *manifest;
        Self { store, settle, places, bytes: count(bytes.len()), sum: xxh3_64(bytes) }
    }

    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        PPieces {
            version: VERSION_IN_PIECES,
            store: self.store.get(),
            settle: self.settle,
            segments: self.places.iter().map(|(segment, _)| segment.get()).collect(),
            ats: self.places.iter().map(|(_, at)| *at).collect(),
            bytes: self.bytes,
            sum: self.sum,
        }
        .encode_to_vec()
    }

    /// Back from the bytes of a manifest's frame; `None`: it is a whole one.
    ///
    /// # Errors
    /// [`FormatError`] when they are neither.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, FormatError> {
        let twin = PPieces::decode(bytes).map_err(malformed)?;
        if twin.version != VERSION_IN_PIECES {
            return Ok(None);
        }
        if twin.segments.len() != twin.ats.len() || twin.bytes > MOST_BYTES {
            return Err(FormatError::malformed(WHAT, "its pieces lie nowhere"));
        }
        let places = twin.segments.into_iter().map(SegmentId::new).zip(twin.ats).collect();
        let (store, settle) = (StoreId::new(twin.store), twin.settle);
        Ok(Some(Self { store, settle, places, bytes: twin.bytes, sum: twin.sum }))
    }

    /// The manifest, from its pieces.
    ///
    /// # Errors
    /// What `read` says of a piece, and when they are not those of this one.
    pub fn join<E: From<FormatError>>(
        &self,
        read: impl Fn(SegmentId, u32) -> Result<Vec<u8>, E>,
    ) -> Result<Manifest, E> {
        let mut bytes = Vec::new();
        for &(segment, at) in &self.places {
            bytes.extend(read(segment, at)?);
        }
        if (count(bytes.len()), xxh3_64(&bytes)) != (self.bytes, self.sum) {
            return Err(FormatError::Checksum(WHAT).into());
        }
        let manifest = Manifest::decode(&bytes)?;
        match (manifest.store, manifest.settle) == (self.store, self.settle) {
            true => Ok(manifest),
            false => Err(malformed("it is not the one that its pieces are said to be of").into()),
        }
    }
}

impl Manifest {
    /// Is this what a manifest's frame holds: one, or where its pieces lie?
    ///
    /// # Errors
    /// [`FormatError`] when it is not.
    pub fn check(bytes: &[u8]) -> Result<(), FormatError> {
        match Pieces::decode(bytes)? {
            Some(_) => Ok(()),
            None => Self::decode(bytes).map(drop),
        }
    }
}
