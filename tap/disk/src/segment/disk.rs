//! Segments as files in a directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use rustix::io::{Errno, retry_on_intr};

use super::{Medium, SegmentDir, SegmentFile};
use crate::segment_pool::FileNo;
use crate::{SameDir, dir, raw, small_file, sync};

/// A directory of `NNNNNNNN.seg`.
#[derive(Debug)]
pub struct DiskDir {
    path: PathBuf,
    /// No file of another directory is ever taken for one of this.
    same: SameDir,
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
        Ok(Self { path: path.to_owned(), same: SameDir::of(path)? })
    }

    fn file(&self, no: FileNo) -> PathBuf {
        self.path.join(format!("{no}.seg"))
    }
}

impl SegmentDir for DiskDir {
    fn list(&self) -> io::Result<Vec<FileNo>> {
        self.same.check()?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            found.extend(entry?.file_name().to_str().and_then(number));
        }
        Ok(found)
    }

    fn create(&self, no: FileNo, len: u64) -> io::Result<SegmentFile> {
        self.same.check()?;
        create_zeroed(&self.file(no), len)
    }

    fn open(&self, no: FileNo) -> io::Result<SegmentFile> {
        self.same.check()?;
        open(&self.file(no))
    }

    fn remove(&self, no: FileNo) -> io::Result<()> {
        self.same.check()?;
        fs::remove_file(self.file(no))?;
        sync::dir(&self.path)
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
}

pub(super) fn open(path: &Path) -> io::Result<SegmentFile> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("cannot open {}: {e}", path.display()));
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(named)?;
    let len = file.metadata().map_err(named)?.len();
    let medium = DiskFile { file, nowait: AtomicBool::new(true) };
    Ok(SegmentFile::over(Box::new(medium), path.display().to_string(), len))
}

pub(super) fn create_zeroed(path: &Path, len: u64) -> io::Result<SegmentFile> {
    if path.exists() {
        let text = format!("{} is there already", path.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    let tmp = small_file::temporary(path);
    make_whole(&tmp, path, len).map_err(|e| {
        // Half a file helps nobody, and on a full disk it is in the way.
        let _ = fs::remove_file(&tmp);
        io::Error::new(e.kind(), format!("cannot make {} of {len} bytes: {e}", path.display()))
    })?;
    open(path)
}

fn make_whole(tmp: &Path, path: &Path, len: u64) -> io::Result<()> {
    let file = File::create(tmp)?;
    // In one piece if the file system can, and without writing anything if there is no room.
    match retry_on_intr(|| fallocate(&file, FallocateFlags::empty(), 0, len)) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
        Err(e) => return Err(e.into()),
    }
    raw::write_zeroes(&file, 0, len)?;
    sync::data(&file)?;
    fs::rename(tmp, path)?;
    sync::parent(path)
}

fn number(name: &str) -> Option<FileNo> {
    let digits = name.strip_suffix(".seg")?;
    let plain = digits.len() >= 8 && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok().map(FileNo::new)).flatten()
}
