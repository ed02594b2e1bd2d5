//! One item as it lies in a spool file: a header of one fixed size, then the batch in its wire form.
//!
//! ```text
//!   0  magic "CGSP"   4  version u16   6  flags u16 (1: a run is known)   8  item u64
//!  16  forgotten u64  24 synced u64    32 everywhere: lsn u64             40 everywhere: run u64
//!  48  payload length u32              52 zero u32                        56 xxh3 of bytes 0..56 and the payload
//! ```
//!
//! Little endian. Records start on pages, so that one that is damaged does not hide those behind it. Items below
//! `forgotten` need not be found any more when the record was written; those from there up to `synced` were on
//! disk; `everywhere` is the last record that every consumer had.

use std::io::IoSlice;

use bytes::Bytes;
use cx_spool::{ItemNo, Reached};
use cx_wire::{Parts, decode_batch, encode_batch};
use tap_block::units::{count, index};
use tap_block::{Batch, Lsn, RunId};
use xxhash_rust::xxh3::Xxh3;

/// Bytes of a header.
pub(crate) const HEADER: usize = 64;
/// Records start at multiples of this.
pub(crate) const GRAIN: u64 = 4096;

const MAGIC: [u8; 4] = *b"CGSP";
const VERSION: u16 = 1;
const RUN_KNOWN: u16 = 1;
/// The part of the header that is summed.
const SUMMED: usize = 56;

/// What a spool knows of itself, written into every record and into the mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Knowledge {
    pub(crate) forgotten: ItemNo,
    pub(crate) synced: ItemNo,
    pub(crate) everywhere: Reached,
}

/// A record's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) item: ItemNo,
    pub(crate) known: Knowledge,
    payload: u32,
    sum: u64,
}

/// A record about to be written.
pub(crate) struct Record {
    header: [u8; HEADER],
    payload: Parts,
}

impl Knowledge {
    /// What is certain when both are.
    pub(crate) fn join(self, other: Self) -> Self {
        Self {
            forgotten: self.forgotten.max(other.forgotten),
            synced: self.synced.max(other.synced),
            everywhere: self.everywhere.max(other.everywhere),
        }
    }

    /// The 40 bytes that stand in a header and in the mark: flags apart.
    fn put(self, out: &mut Vec<u8>) {
        let numbers = [
            self.forgotten.get(),
            self.synced.get(),
            self.everywhere.lsn.get(),
            self.everywhere.run.map_or(0, RunId::get),
        ];
        numbers.iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
    }

    fn take(bytes: &[u8], run_known: bool) -> Option<Self> {
        let (words, _) = bytes.as_chunks::<8>();
        let &[forgotten, synced, lsn, run] = words.get(..4)? else { return None };
        let number = u64::from_le_bytes;
        let run = run_known.then(|| RunId::new(number(run)));
        Some(Self {
            forgotten: ItemNo::new(number(forgotten)),
            synced: ItemNo::new(number(synced)),
            everywhere: Reached { lsn: Lsn::new(number(lsn))?, run, at: None },
        })
    }

    const fn flags(&self) -> u16 {
        if self.everywhere.run.is_some() { RUN_KNOWN } else { 0 }
    }

    /// The content of a mark file.
    pub(crate) fn encode_mark(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(36);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.flags().to_le_bytes());
        self.put(&mut out);
        out
    }

    /// Reads a mark; `None` when it is none of this version.
    pub(crate) fn decode_mark(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first_chunk::<2>()?;
        let (flags, rest) = rest.split_first_chunk::<2>()?;
        let run_known = u16::from_le_bytes(*flags) & RUN_KNOWN != 0;
        (u16::from_le_bytes(*version) == VERSION).then(|| Self::take(rest, run_known))?
    }
}

impl Record {
    pub(crate) fn new(item: ItemNo, known: Knowledge, batch: &Batch) -> Option<Self> {
        let payload = encode_batch(batch);
        let length = u32::try_from(payload.head.len() + payload.body.len()).ok()?;
        let mut out = Vec::with_capacity(HEADER);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&known.flags().to_le_bytes());
        out.extend_from_slice(&item.get().to_le_bytes());
        known.put(&mut out);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        let sum = checksum(&out, &[&payload.head, &payload.body]);
        out.extend_from_slice(&sum.to_le_bytes());
        let header = out.first_chunk().copied()?;
        Some(Self { header, payload })
    }

    /// Bytes on disk, without the rest of the last page.
    pub(crate) fn len(&self) -> u64 {
        count(HEADER + self.payload.head.len() + self.payload.body.len())
    }

    pub(crate) fn slices(&self) -> [IoSlice<'_>; 3] {
        [IoSlice::new(&self.header), IoSlice::new(&self.payload.head), IoSlice::new(&self.payload.body)]
    }
}

impl Header {
    /// Reads a header; `None` when there is none. Its checksum is checked with the payload.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let header = bytes.first_chunk::<HEADER>()?;
        let (magic, rest) = header.split_first_chunk::<4>()?;
        let (version, rest) = rest.split_first_chunk::<2>()?;
        let (flags, rest) = rest.split_first_chunk::<2>()?;
        if *magic != MAGIC || u16::from_le_bytes(*version) != VERSION {
            return None;
        }
        let (item, rest) = rest.split_first_chunk::<8>()?;
        let (known, rest) = rest.split_at_checked(32)?;
        let (payload, rest) = rest.split_first_chunk::<4>()?;
        let sum = rest.last_chunk::<8>()?;
        Some(Self {
            item: ItemNo::new(u64::from_le_bytes(*item)),
            known: Knowledge::take(known, u16::from_le_bytes(*flags) & RUN_KNOWN != 0)?,
            payload: u32::from_le_bytes(*payload),
            sum: u64::from_le_bytes(*sum),
        })
    }

    /// Bytes of the whole record.
    pub(crate) fn record_len(&self) -> u64 {
        count(HEADER) + u64::from(self.payload)
    }

    /// The batch of `record`, whose header this is; `None` when it is not sound.
    pub(crate) fn batch(&self, record: Bytes) -> Option<Batch> {
        let summed = record.get(..SUMMED)?;
        let payload = record.get(HEADER..index(self.record_len()))?;
        if checksum(summed, &[payload]) != self.sum {
            return None;
        }
        decode_batch(record.slice(HEADER..index(self.record_len()))).ok()
    }
}

fn checksum(header: &[u8], payload: &[&[u8]]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(header);
    payload.iter().for_each(|part| hash.update(part));
    hash.digest()
}
