//! An entry's bytes.
//!
//! ```text
//!   0 magic "CGLEDGE" 1   8 store u64   16 number u64   24 at u64   32 bytes of the message u32   36 0 u32
//!  40 BLAKE3 of the entry before   72 message   then BLAKE3 of everything before it: the entry's own      little endian
//! ```

use tap_block::WallTime;
use tap_block::stored::is_zero;
use tap_block::units::index;

use super::{Digest, EntryNo, Event};
use crate::bytes::Reader;
use crate::error::FormatError;
use crate::segment::StoreId;

const MAGIC: [u8; 8] = *b"CGLEDGE\x01";
const WHAT: &str = "ledger entry";
/// Bytes of an entry before its message.
pub const ENTRY_FIXED: usize = 72;
const DIGEST: usize = 32;
/// The longest message: what a million segments fold into.
pub const LARGEST_ENTRY: usize = 64 << 20;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The store whose ledger it is in.
    pub store: StoreId,
    /// Its number.
    pub number: EntryNo,
    /// When it was made, on the store's own clock.
    pub at: WallTime,
    /// The hash of the entry before it.
    pub previous: Digest,
    /// What it says.
    pub event: Event,
}

impl Entry {
    /// Its bytes, and its hash.
    #[must_use]
    pub fn encode(&self) -> (Vec<u8>, Digest) {
        let message = self.event.encode();
        let mut bytes = Vec::with_capacity(ENTRY_FIXED + message.len() + DIGEST);
        bytes.extend(MAGIC);
        bytes.extend(self.store.get().to_le_bytes());
        bytes.extend(self.number.get().to_le_bytes());
        bytes.extend(self.at.nanos().to_le_bytes());
        bytes.extend(u32::try_from(message.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(self.previous.get());
        bytes.extend(message);
        let digest = Digest::of(&bytes);
        bytes.extend(digest.get());
        (bytes, digest)
    }

    /// The entry at the start of `bytes`, its hash, and how many bytes it has.
    ///
    /// # Errors
    /// [`FormatError`] when there is none that is sound.
    pub fn decode(bytes: &[u8]) -> Result<(Self, Digest, usize), FormatError> {
        let mut reader = Reader::new(WHAT, bytes);
        if reader.array::<8>()? != MAGIC {
            return Err(FormatError::Magic(WHAT));
        }
        let store = StoreId::new(reader.u64()?);
        let number = EntryNo::new(reader.u64()?);
        let at = WallTime::from_nanos(reader.u64()?);
        let length = index(u64::from(reader.u32()?));
        let zero = reader.u32()?;
        let previous = Digest::new(reader.array()?);
        if length > LARGEST_ENTRY || zero != 0 {
            return Err(FormatError::malformed(WHAT, "a length that no writer leaves"));
        }
        let message = reader.take(length)?;
        let said = Digest::new(reader.array()?);
        let all = ENTRY_FIXED + length;
        let digest = Digest::of(bytes.get(..all).unwrap_or_default());
        if said != digest {
            return Err(FormatError::Checksum(WHAT));
        }
        let event = Event::decode(message)?;
        Ok((Self { store, number, at, previous, event }, digest, all + DIGEST))
    }

    /// Is this what a crash leaves of an entry that was being written: its start, or zeroes? What has its full length is not.
    #[must_use]
    pub fn is_cut_off(store: StoreId, bytes: &[u8]) -> bool {
        if is_zero(bytes) {
            return true;
        }
        let start = [&MAGIC[..], &store.get().to_le_bytes()].concat();
        let known = start.len().min(bytes.len());
        let length = bytes.get(32..).and_then(|rest| rest.first_chunk::<4>());
        let whole = length.map(|l| ENTRY_FIXED + index(u64::from(u32::from_le_bytes(*l))) + DIGEST);
        bytes.get(..known) == start.get(..known) && whole.is_none_or(|whole| whole > bytes.len())
    }

    /// Is it of this store?
    ///
    /// # Errors
    /// [`FormatError::OtherStore`] when it is not.
    pub const fn of(&self, store: StoreId) -> Result<(), FormatError> {
        if self.store.get() == store.get() {
            return Ok(());
        }
        Err(FormatError::OtherStore { expected: store.get(), found: self.store.get() })
    }
}

/// Where the next sound entry behind `bad` begins; `None` when there is none.
pub(super) fn next_sound(bytes: &[u8], bad: usize) -> Option<usize> {
    let behind = bytes.get(bad.saturating_add(1)..)?;
    let begins = behind.windows(MAGIC.len()).enumerate().filter(|(_, w)| *w == MAGIC);
    let mut places = begins.map(|(n, _)| bad + 1 + n);
    places.find(|&at| bytes.get(at..).is_some_and(|rest| Entry::decode(rest).is_ok()))
}
