//! Making bytes durable: the only callers of fsync and fdatasync.
//!
//! After a failed fdatasync the kernel may have dropped the pages and marked them clean, so that the next
//! one succeeds over lost data. Whoever gets an error here must not trust a later success on that file.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::io::retry_on_intr;

/// The file's data, and what is needed to find it again (its size), are on the disk.
pub(crate) fn data(file: impl AsFd) -> io::Result<()> {
    let file = file.as_fd();
    retry_on_intr(|| rustix::fs::fdatasync(file)).map_err(Into::into)
}

/// The names in `dir` are on the disk: needed after a create, a rename or an unlink in it.
pub(crate) fn dir(dir: &Path) -> io::Result<()> {
    let opened = File::open(dir)?;
    retry_on_intr(|| rustix::fs::fsync(&opened)).map_err(Into::into)
}

/// [`dir`] for the directory that holds `path`.
pub(crate) fn parent(path: &Path) -> io::Result<()> {
    dir(parent_of(path))
}

/// The directory that holds `path`; a bare name is in the current one.
pub(crate) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
