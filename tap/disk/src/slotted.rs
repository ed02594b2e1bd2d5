//! State that is rewritten often: slots in one file, of which the last sound one counts.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tap_block::units::{count, index};

use crate::{small_file, sync};

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
    file: File,
    path: PathBuf,
    slot: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    generation: u64,
    content: Option<Vec<u8>>,
    latest: Option<u64>,
    durable: Option<u64>,
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
        let slot = slot_size(slot_bytes)?;
        if !path.exists() {
            small_file::write_atomic(path, &vec![0; index(slot * SLOTS)])?;
        }
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(|e| named(path, &e))?;
        let length = file.metadata()?.len();
        if length != slot * SLOTS {
            return Err(damaged(path, &format!("is {length} bytes long instead of {}", slot * SLOTS)));
        }
        // What a killed process left in the page cache becomes the durable content.
        sync::data(&file).map_err(|e| named(path, &e))?;
        let state = Mutex::new(recover(&file, slot).map_err(|e| named(path, &e))?);
        Ok(Self { file, path: path.to_owned(), slot, state })
    }

    /// The content last stored, if any was.
    #[must_use]
    pub fn load(&self) -> Option<Vec<u8>> {
        self.lock().content.clone()
    }

    /// Replaces the content. The first one ever is always synced.
    ///
    /// # Errors
    /// When the content does not fit, or the operating system refuses; it is then undecided until the next
    /// `store` whether the old or the new content is found after a restart.
    pub fn store(&self, content: &[u8], durability: Durability) -> io::Result<()> {
        let mut state = self.lock();
        let generation = state.generation + 1;
        let bytes = encode(generation, content);
        if count(bytes.len()) > self.slot {
            let message =
                format!("{} bytes do not fit into a slot of {}", content.len(), self.path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        // A failed attempt may have reached the disk: its generation is never used again.
        state.generation = generation;
        let target = state.spare();
        self.file.write_all_at(&bytes, target * self.slot).map_err(|e| named(&self.path, &e))?;
        if durability == Durability::Synced || state.durable.is_none() {
            sync::data(&self.file).map_err(|e| named(&self.path, &e))?;
            state.durable = Some(target);
        }
        state.latest = Some(target);
        state.content = Some(content.to_vec());
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A slot that holds neither the durable nor the latest content.
    fn spare(&self) -> u64 {
        (0..SLOTS).find(|slot| Some(*slot) != self.latest && Some(*slot) != self.durable).unwrap_or_default()
    }
}

fn slot_size(slot_bytes: usize) -> io::Result<u64> {
    let size = count(slot_bytes).saturating_add(count(HEADER)).checked_next_multiple_of(GRAIN);
    size.filter(|size| *size <= LARGEST_SLOT).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("a slot of {slot_bytes} bytes is too large"))
    })
}

fn recover(file: &File, slot: u64) -> io::Result<State> {
    let mut written = 0;
    let mut best: Option<Found> = None;
    for n in 0..SLOTS {
        let mut bytes = vec![0; index(slot)];
        file.read_exact_at(&mut bytes, n * slot)?;
        written += u64::from(bytes.iter().any(|b| *b != 0));
        if let Some((generation, content)) = decode(&bytes)
            && best.as_ref().is_none_or(|b| b.generation < generation)
        {
            best = Some(Found { slot: n, generation, content: content.to_vec() });
        }
    }
    match best {
        Some(b) => Ok(State {
            generation: b.generation,
            content: Some(b.content),
            latest: Some(b.slot),
            durable: Some(b.slot),
        }),
        // The very first store was cut short: nobody was ever told that it was done.
        None if written <= 1 => Ok(State::default()),
        None => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "no slot has a sound checksum: restore the file"))
        }
    }
}

fn encode(generation: u64, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + content.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&generation.to_le_bytes());
    bytes.extend_from_slice(&count(content.len()).to_le_bytes());
    let sum = checksum(&bytes, content);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes.extend_from_slice(content);
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

fn named(path: &Path, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}

fn damaged(path: &Path, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{} {what}: restore it, or remove it", path.display()))
}

#[cfg(test)]
mod tests;
