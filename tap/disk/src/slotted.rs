//! State that is rewritten often: slots in one file, of which the last sound one counts.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tap_block::units::{count, index};

use crate::segment::SegmentFile;

/// Slot header: magic (8), generation (8), length (8), checksum of the three and the content (8).
const HEADER: usize = 32;
const MAGIC: [u8; 8] = *b"CGslot01";
/// Slots start on their own pages, so that a torn write harms one only.
const GRAIN: u64 = 4096;
/// One that is durable, one that is the latest, one to write into: three, because writes that nobody waits
/// for must never touch the last durable content, nor a killed process the last written.
const SLOTS: u64 = 3;
const LARGEST_SLOT: u64 = 16 << 20;

/// How safe a [`SlottedFile::store`] has to be when it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It survives a power cut.
    Synced,
    /// It survives the end of this process. After a power cut this, or what was stored last with
    /// [`Durability::Synced`], or something stored between them, is there.
    Unsynced,
}

/// A small content with cheap replacement: one pwrite in place, and an fdatasync if asked for.
#[derive(Debug)]
pub struct SlottedFile {
    file: SegmentFile,
    slot: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The newest that was tried.
    tried: u64,
    content: Option<Vec<u8>>,
    /// That of the content.
    generation: u64,
    latest: Option<u64>,
    durable: Option<u64>,
    /// Slots that were written and are not sound.
    harmed: Vec<u64>,
}

struct Found {
    slot: u64,
    generation: u64,
    content: Vec<u8>,
}

impl SlottedFile {
    /// Opens `path`, or makes it, for contents of up to `slot_bytes`.
    ///
    /// # Errors
    /// When the file was made for another `slot_bytes`, when none of its slots is sound though some were
    /// written, or when the operating system refuses.
    pub fn open(path: &Path, slot_bytes: usize) -> io::Result<Self> {
        let file = if path.exists() {
            SegmentFile::open(path)?
        } else {
            SegmentFile::create_zeroed(path, Self::file_len(slot_bytes)?)?
        };
        Self::over(file, slot_bytes)
    }

    /// [`SlottedFile::open`] over a file that is there: of [`SlottedFile::file_len`] zeroes at first.
    ///
    /// # Errors
    /// See [`SlottedFile::open`].
    pub fn over(file: SegmentFile, slot_bytes: usize) -> io::Result<Self> {
        let expected = Self::file_len(slot_bytes)?;
        if file.len() != expected {
            let (name, length) = (file.name(), file.len());
            let text = format!("{name} is {length} bytes long instead of {expected}: restore the file");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        // What a killed process left in the page cache becomes the durable content.
        file.sync()?;
        let slot = slot_size(slot_bytes)?;
        let state = Mutex::new(recover(&file, slot)?);
        Ok(Self { file, slot, state })
    }

    /// How long a file for contents of up to `slot_bytes` is.
    ///
    /// # Errors
    /// When that is too large for a state that is rewritten often.
    pub fn file_len(slot_bytes: usize) -> io::Result<u64> {
        slot_size(slot_bytes).map(|slot| slot * SLOTS)
    }

    /// The content last stored, if any was.
    #[must_use]
    pub fn load(&self) -> Option<Vec<u8>> {
        self.lock().content.clone()
    }

    /// Which content it is: a later one has a larger number, over restarts, too. Zero when there is none.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.lock().generation
    }

    /// Is there a slot that was written and is not sound? Then a later content than the one that was found may have been lost by
    /// damage; or the machine stopped while it was stored, and nobody was ever told that it was.
    #[must_use]
    pub fn is_harmed(&self) -> bool {
        !self.lock().harmed.is_empty()
    }

    /// Replaces the content. The first one ever is always synced.
    ///
    /// # Errors
    /// When the content does not fit, or the operating system refuses; in the latter case it is undecided
    /// whether the old or the new content is found after a restart. After a failed sync nothing can be
    /// stored any more until the file is opened again.
    pub fn store(&self, content: &[u8], durability: Durability) -> io::Result<()> {
        let mut state = self.lock();
        self.check_fit(content)?;
        // A failed attempt may have reached the disk: its generation is never used again.
        state.tried += 1;
        let (header, target) = (header(state.tried, content), state.spare());
        self.file.write_at(target * self.slot, &[IoSlice::new(&header), IoSlice::new(content)])?;
        if durability == Durability::Synced || state.durable.is_none() {
            self.file.sync()?;
            state.durable = Some(target);
        }
        state.latest = Some(target);
        state.harmed.retain(|slot| *slot != target);
        state.generation = state.tried;
        state.content = Some(content.to_vec());
        Ok(())
    }

    fn check_fit(&self, content: &[u8]) -> io::Result<()> {
        if count(HEADER + content.len()) <= self.slot {
            return Ok(());
        }
        let text = format!("{} bytes do not fit into a slot of {}", content.len(), self.file.name());
        Err(io::Error::new(io::ErrorKind::InvalidInput, text))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A slot that holds neither the durable nor the latest content; one that holds none at all, if there is such.
    fn spare(&self) -> u64 {
        let is_free = |slot: &u64| Some(*slot) != self.latest && Some(*slot) != self.durable;
        self.harmed.iter().copied().chain(0..SLOTS).find(is_free).unwrap_or_default()
    }
}

fn slot_size(slot_bytes: usize) -> io::Result<u64> {
    let size = count(slot_bytes).saturating_add(count(HEADER)).checked_next_multiple_of(GRAIN);
    size.filter(|size| *size <= LARGEST_SLOT).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("a slot of {slot_bytes} bytes is too large"))
    })
}

fn recover(file: &SegmentFile, slot: u64) -> io::Result<State> {
    let (mut written, mut harmed) = (0, Vec::new());
    let mut best: Option<Found> = None;
    for n in 0..SLOTS {
        let mut bytes = vec![0; index(slot)];
        file.read_at(n * slot, &mut bytes)?;
        let is_written = bytes.iter().any(|b| *b != 0);
        written += u64::from(is_written);
        match decode(&bytes) {
            Some((generation, content)) if best.as_ref().is_none_or(|b| b.generation < generation) => {
                best = Some(Found { slot: n, generation, content: content.to_vec() });
            }
            None if is_written => harmed.push(n),
            _ => {}
        }
    }
    match best {
        Some(b) => Ok(State {
            tried: b.generation,
            generation: b.generation,
            harmed,
            content: Some(b.content),
            latest: Some(b.slot),
            durable: Some(b.slot),
        }),
        // The very first store was cut short: nobody was ever told that it was done.
        None if written <= 1 => Ok(State::default()),
        None => {
            let text = format!("no slot of {} has a sound checksum: restore the file", file.name());
            Err(io::Error::new(io::ErrorKind::InvalidData, text))
        }
    }
}

fn header(generation: u64, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&generation.to_le_bytes());
    bytes.extend_from_slice(&count(content.len()).to_le_bytes());
    let sum = checksum(&bytes, content);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (fields, rest) = bytes.split_at_checked(HEADER - 8)?;
    let (sum, rest) = rest.split_first_chunk::<8>()?;
    let (magic, numbers) = fields.split_first_chunk::<8>()?;
    let (generation, length) = numbers.split_first_chunk::<8>()?;
    let length = u64::from_le_bytes(*length.first_chunk()?);
    if *magic != MAGIC || length > count(rest.len()) {
        return None;
    }
    let content = rest.get(..index(length))?;
    let sound = checksum(fields, content) == u64::from_le_bytes(*sum);
    sound.then(|| (u64::from_le_bytes(*generation), content))
}

fn checksum(fields: &[u8], content: &[u8]) -> u64 {
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    hash.update(fields);
    hash.update(content);
    hash.digest()
}

#[cfg(test)]
mod tests;
