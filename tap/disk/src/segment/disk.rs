//! Segments as files in a directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use rustix::io::{Errno, retry_on_intr};
use tap_block::units::{count, index};

use super::{Medium, SegmentDir, SegmentFile, SegmentIdentity};
use crate::segment_pool::FileNo;
use crate::{SameDir, dir, raw, small_file, sync};

/// Copied at once.
const CHUNK: u64 = 1 << 20;

/// A directory of `NNNNNNNN.seg`.
#[derive(Debug)]
pub struct DiskDir {
    path: PathBuf,
    /// No file of another directory is ever taken for one of this.
    which: Mutex<Which>,
}

#[derive(Debug)]
struct Which {
    same: SameDir,
    /// It stays open: one that was removed says so then, and is told from one that lies elsewhere by now.
    open: File,
}

struct DiskFile {
    file: File,
    /// The file system knows non-blocking reads.
    nowait: AtomicBool,
}

impl DiskDir {
    /// Opens `path`, which is made if it is missing, and clears away what a crash left half made.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        dir::ensure_dir(path)?;
        for entry in fs::read_dir(path)? {
            let entry = entry?.path();
            if entry.extension().is_some_and(|e| e == "tmp") {
                fs::remove_file(entry)?;
            }
        }
        Ok(Self { path: path.to_owned(), which: Mutex::new(Which::of(path)?) })
    }

    fn which(&self) -> MutexGuard<'_, Which> {
        self.which.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self) -> io::Result<()> {
        self.which().same.check()
    }

    /// A directory that was removed as a whole is made anew. One that is elsewhere, or has another one over it, is left alone.
    fn check_or_make_anew(&self) -> io::Result<()> {
        let mut which = self.which();
        if which.is_removed() && !self.path.exists() {
            dir::ensure_dir(&self.path)?;
            *which = Which::of(&self.path)?;
        }
        which.same.check()
    }

    fn file(&self, no: FileNo) -> PathBuf {
        self.path.join(format!("{no}.seg"))
    }
}

impl Which {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { same: SameDir::of(path)?, open: File::open(path)? })
    }

    /// It has no name any more, anywhere.
    fn is_removed(&self) -> bool {
        self.open.metadata().is_ok_and(|about| about.nlink() == 0)
    }
}

impl SegmentDir for DiskDir {
    fn list(&self) -> io::Result<Vec<FileNo>> {
        if self.which().is_removed() {
            return Ok(Vec::new());
        }
        self.check()?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            found.extend(entry?.file_name().to_str().and_then(number));
        }
        Ok(found)
    }

    fn create(&self, no: FileNo, len: u64) -> io::Result<SegmentFile> {
        self.check_or_make_anew()?;
        create_zeroed(&self.file(no), len)
    }

    fn open(&self, no: FileNo) -> io::Result<SegmentFile> {
        self.check()?;
        open(&self.file(no))
    }

    fn remove(&self, no: FileNo) -> io::Result<()> {
        self.check()?;
        fs::remove_file(self.file(no))?;
        sync::dir(&self.path)
    }

    fn holds(&self, no: FileNo, file: &SegmentFile) -> io::Result<bool> {
        if self.which().is_removed() {
            return Ok(false);
        }
        self.check()?;
        match fs::metadata(self.file(no)) {
            Ok(about) => Ok(file.identity()?.is_none_or(|open| open == SegmentIdentity::of(&about))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn restore(&self, no: FileNo, from: &SegmentFile) -> io::Result<SegmentFile> {
        self.check_or_make_anew()?;
        create(&self.file(no), from.len(), |file| copy(from, file))
    }
}

impl Medium for DiskFile {
    fn write(&self, offset: u64, data: &[IoSlice<'_>]) -> io::Result<usize> {
        retry_on_intr(|| rustix::io::pwritev(&self.file, data, offset)).map_err(Into::into)
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(into, offset)
    }

    fn read_cached(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        if !self.nowait.load(Ordering::Relaxed) {
            return Ok(0);
        }
        match raw::read_nowait(&self.file, offset, into) {
            Err(Errno::AGAIN) => Ok(0),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                self.nowait.store(false, Ordering::Relaxed);
                Ok(0)
            }
            done => done.map_err(Into::into),
        }
    }

    fn will_need(&self, offset: u64, length: u64) {
        let Some(length) = std::num::NonZeroU64::new(length) else { return };
        // Whatever is the matter, the read itself meets it.
        let _ = fadvise(&self.file, offset, Some(length), Advice::WillNeed);
    }

    fn sync(&self) -> io::Result<()> {
        sync::data(&self.file)
    }

    fn drop_cache(&self) -> io::Result<()> {
        fadvise(&self.file, 0, None, Advice::DontNeed).map_err(Into::into)
    }

    fn identity(&self) -> io::Result<Option<SegmentIdentity>> {
        self.file.metadata().map(|about| Some(SegmentIdentity::of(&about)))
    }
}

pub(super) fn open(path: &Path) -> io::Result<SegmentFile> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("cannot open {}: {e}", path.display()));
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(named)?;
    let len = file.metadata().map_err(named)?.len();
    let medium = DiskFile { file, nowait: AtomicBool::new(true) };
    Ok(SegmentFile::over(Box::new(medium), path.display().to_string(), len))
}

pub(super) fn create_zeroed(path: &Path, len: u64) -> io::Result<SegmentFile> {
    create(path, len, |file| raw::write_zeroes(file, 0, len))
}

/// Makes a file with what `fill` writes.
fn create(path: &Path, len: u64, fill: impl FnOnce(&File) -> io::Result<()>) -> io::Result<SegmentFile> {
    if path.exists() {
        let text = format!("{} is there already", path.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    let tmp = small_file::temporary(path);
    make_whole((&tmp, path), len, fill).map_err(|e| {
        // Half a file helps nobody, and on a full disk it is in the way.
        let _ = fs::remove_file(&tmp);
        io::Error::new(e.kind(), format!("cannot make {} of {len} bytes: {e}", path.display()))
    })?;
    open(path)
}

fn make_whole(
    (tmp, path): (&Path, &Path),
    len: u64,
    fill: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let file = File::create(tmp)?;
    // In one piece if the file system can, and without writing anything if there is no room.
    match retry_on_intr(|| fallocate(&file, FallocateFlags::empty(), 0, len)) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
        Err(e) => return Err(e.into()),
    }
    fill(&file)?;
    sync::data(&file)?;
    fs::rename(tmp, path)?;
    sync::parent(path)
}

/// All that an open file holds.
fn copy(from: &SegmentFile, to: &File) -> io::Result<()> {
    let mut bytes = vec![0; index(CHUNK.min(from.len()))];
    let mut at = 0;
    while at < from.len() {
        bytes.truncate(index(from.len() - at));
        from.read_at(at, &mut bytes)?;
        to.write_all_at(&bytes, at)?;
        at += count(bytes.len());
    }
    Ok(())
}

fn number(name: &str) -> Option<FileNo> {
    let digits = name.strip_suffix(".seg")?;
    let plain = digits.len() >= 8 && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok().map(FileNo::new)).flatten()
}
