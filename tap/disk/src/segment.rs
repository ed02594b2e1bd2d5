//! A fixed-size file that is overwritten in place and synced by its owner: what the journal and the spool
//! are made of.
//!
//! Zero-written once and recycled ever after: a file that grows pays for an extent conversion at every sync.

mod disk;
mod memory;

use std::fmt;
use std::io::{self, IoSlice};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::OnceLock;

use tap_block::units::count;

pub use disk::DiskDir;
pub use memory::MemoryDir;

use crate::segment_pool::FileNo;

/// Where a segment's bytes lie: a file, or memory in tests. Calls may do less than asked for.
pub trait Medium: Send + Sync {
    /// Writes a part of `data`, at least a byte.
    ///
    /// # Errors
    /// What the operating system says.
    fn write(&self, offset: u64, data: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Reads a part of `into`; 0 at the end.
    ///
    /// # Errors
    /// What the operating system says.
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;

    /// Reads what needs no waiting; 0 when that is nothing.
    ///
    /// # Errors
    /// What the operating system says.
    fn read_cached(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;

    /// These bytes will be read soon. Only a hint.
    fn will_need(&self, offset: u64, length: u64);

    /// Everything written is durable.
    ///
    /// # Errors
    /// What the operating system says; what was written since the last sync may then be lost.
    fn sync(&self) -> io::Result<()>;

    /// Reads come from the disk itself from here on (for what is synced).
    ///
    /// # Errors
    /// What the operating system says.
    fn drop_cache(&self) -> io::Result<()>;

    /// Which file of the system it is; `None`: it is none.
    ///
    /// # Errors
    /// What the operating system says.
    fn identity(&self) -> io::Result<Option<SegmentIdentity>> {
        Ok(None)
    }
}

/// A file of the system, whatever it is called, and whether it is called anything any more or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentIdentity {
    device: u64,
    inode: u64,
}

impl SegmentIdentity {
    fn of(about: &std::fs::Metadata) -> Self {
        Self { device: about.dev(), inode: about.ino() }
    }
}

/// Where a pool's files lie. Names are numbers.
pub trait SegmentDir: Send + Sync {
    /// The files that are there and complete, in any order.
    ///
    /// # Errors
    /// What the operating system says.
    fn list(&self) -> io::Result<Vec<FileNo>>;

    /// Makes a file of `len` written zeroes, durably: it is there whole after a crash, or not at all.
    ///
    /// # Errors
    /// When there is no room, and what else the operating system says. Nothing is left then.
    fn create(&self, no: FileNo, len: u64) -> io::Result<SegmentFile>;

    /// Opens a file, whatever its length is by now.
    ///
    /// # Errors
    /// When it is not there, and what else the operating system says.
    fn open(&self, no: FileNo) -> io::Result<SegmentFile>;

    /// Removes a file.
    ///
    /// # Errors
    /// What the operating system says.
    fn remove(&self, no: FileNo) -> io::Result<()>;

    /// Is this open file still what lies under the number's name?
    ///
    /// # Errors
    /// What the operating system says.
    fn holds(&self, no: FileNo, file: &SegmentFile) -> io::Result<bool> {
        let _ = file;
        Ok(self.list()?.contains(&no))
    }

    /// Makes a file that is not under its name any more once again, with what the open one holds, durably. Nobody may write to that.
    ///
    /// # Errors
    /// When something else has the name, without room, and what else the operating system says.
    fn restore(&self, no: FileNo, open: &SegmentFile) -> io::Result<SegmentFile> {
        let _ = (no, open);
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// One fixed-size file.
pub struct SegmentFile {
    medium: Box<dyn Medium>,
    name: String,
    len: u64,
    /// Why a sync failed, once one has.
    poison: OnceLock<(io::ErrorKind, String)>,
}

impl SegmentFile {
    /// Makes `path`, `len` bytes of written zeroes, durably. After a crash it is there whole or not at all.
    ///
    /// # Errors
    /// When there is no room, when it is there already, and what else the operating system says.
    pub fn create_zeroed(path: &Path, len: u64) -> io::Result<Self> {
        disk::create_zeroed(path, len)
    }

    /// Opens `path`.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        disk::open(path)
    }

    /// A file over any medium that holds `len` bytes; `name` is for error messages.
    #[must_use]
    pub fn over(medium: Box<dyn Medium>, name: String, len: u64) -> Self {
        Self { medium, name, len, poison: OnceLock::new() }
    }

    /// Bytes.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a segment is never empty")]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// What error messages call it: its path.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which file of the system it is; `None`: it is none.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn identity(&self) -> io::Result<Option<SegmentIdentity>> {
        self.medium.identity().map_err(|e| self.named("look at", &e))
    }

    /// A sync has failed: only reads work any more.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.poison.get().is_some()
    }

    /// Writes all of `data` at `offset`, into the page cache.
    ///
    /// # Errors
    /// When it would pass the end, after a failed sync, and what else the operating system says; an unknown
    /// part is then written.
    pub fn write_at(&self, offset: u64, data: &[IoSlice<'_>]) -> io::Result<()> {
        self.refuse_if_poisoned()?;
        let length: u64 = data.iter().map(|slice| count(slice.len())).sum();
        self.check_bounds(offset, length)?;
        if length == 0 {
            return Ok(());
        }
        let written = count(self.medium.write(offset, data).map_err(|e| self.named("write", &e))?);
        if written < length { self.write_rest(offset, data, written, length) } else { Ok(()) }
    }

    /// Everything written is on the disk.
    ///
    /// # Errors
    /// What the operating system says. Nobody knows then what is on the disk, and asking again would hide
    /// it: every later write and sync fails too. What was synced before can still be read.
    pub fn sync(&self) -> io::Result<()> {
        self.refuse_if_poisoned()?;
        self.medium.sync().map_err(|e| {
            let text = format!("cannot sync {}: {e}", self.name);
            let (kind, text) = self.poison.get_or_init(|| (e.kind(), text));
            io::Error::new(*kind, text.clone())
        })
    }

    /// Fills `into` from `offset`.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] past the end, and what else the operating system says.
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while let Some(rest) = into.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.medium.read(offset.saturating_add(count(filled)), rest) {
                Ok(0) => return Err(self.past_end(offset, count(into.len()))),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.named("read", &e)),
            }
        }
        Ok(())
    }

    /// Fills `into` from `offset` if the page cache has it all; `false`, with rubbish in `into`, when not
    /// (also past the end: the blocking read will say so).
    ///
    /// # Errors
    /// What the operating system says.
    pub fn read_cached(&self, offset: u64, into: &mut [u8]) -> io::Result<bool> {
        let mut filled = 0;
        while let Some(rest) = into.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let from = offset.saturating_add(count(filled));
            match self.medium.read_cached(from, rest).map_err(|e| self.named("read", &e))? {
                0 => return Ok(false),
                n => filled += n,
            }
        }
        Ok(true)
    }

    /// These bytes will be read soon: the disk may begin to. Only a hint, which nothing waits for.
    pub fn will_need(&self, offset: u64, length: u64) {
        self.medium.will_need(offset, length);
    }

    /// Forgets what the page cache holds of the file, so that the next read shows what the disk holds.
    /// Bytes not synced yet stay.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn drop_cache(&self) -> io::Result<()> {
        self.medium.drop_cache().map_err(|e| self.named("drop the cache of", &e))
    }

    /// The way that is not taken: a write that was cut short, or had more slices than one call takes.
    fn write_rest(&self, offset: u64, data: &[IoSlice<'_>], mut written: u64, length: u64) -> io::Result<()> {
        let mut copies = data.to_vec();
        let mut rest = copies.as_mut_slice();
        let mut last = written;
        loop {
            IoSlice::advance_slices(&mut rest, tap_block::units::index(last));
            if written == length {
                return Ok(());
            }
            last = match self.medium.write(offset + written, rest) {
                Ok(0) => return Err(self.named("write", &io::ErrorKind::WriteZero.into())),
                Ok(n) => count(n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
                Err(e) => return Err(self.named("write", &e)),
            };
            written += last;
        }
    }

    fn check_bounds(&self, offset: u64, length: u64) -> io::Result<()> {
        match offset.checked_add(length) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(self.past_end(offset, length)),
        }
    }

    fn past_end(&self, offset: u64, length: u64) -> io::Error {
        let text =
            format!("{length} bytes at {offset} are past the end of {} ({} bytes)", self.name, self.len);
        io::Error::new(io::ErrorKind::UnexpectedEof, text)
    }

    fn refuse_if_poisoned(&self) -> io::Result<()> {
        match self.poison.get() {
            None => Ok(()),
            Some((kind, text)) => Err(io::Error::new(*kind, format!("not used any more since: {text}"))),
        }
    }

    fn named(&self, what: &str, e: &io::Error) -> io::Error {
        io::Error::new(e.kind(), format!("cannot {what} {}: {e}", self.name))
    }
}

impl fmt::Debug for SegmentFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SegmentFile({}, {} bytes)", self.name, self.len)
    }
}

#[cfg(test)]
mod tests;
