//! Directories: made durably, and asked for their free space.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::sync;

/// Makes `path` and every directory above it that is missing; their names are durable when this returns.
///
/// # Errors
/// What the operating system says, with the path.
pub fn ensure_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = sync::parent_of(path);
    if !parent.exists() {
        ensure_dir(parent)?;
    }
    match fs::create_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(e) => Err(io::Error::new(e.kind(), format!("cannot make the directory {}: {e}", path.display()))),
        Ok(()) => sync::parent(path),
    }
}

/// Bytes an unprivileged program may still write in the file system that holds `path`.
///
/// # Errors
/// What the operating system says.
pub fn free_space(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// A directory as it was when it was opened. Where a disk is mounted over it meanwhile, its path leads to another one, and
/// what is written by name there would be written over what somebody else has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SameDir {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SameDir {
    /// The directory that `path` leads to now.
    ///
    /// # Errors
    /// What the operating system says, with the path.
    pub fn of(path: &Path) -> io::Result<Self> {
        let about = fs::metadata(path).map_err(|e| unseen(path, &e))?;
        Ok(Self { path: path.to_owned(), device: about.dev(), inode: about.ino() })
    }

    /// Does its path still lead to it?
    ///
    /// # Errors
    /// When it leads elsewhere, and what the operating system says.
    pub fn check(&self) -> io::Result<()> {
        let about = fs::metadata(&self.path).map_err(|e| unseen(&self.path, &e))?;
        if (about.dev(), about.ino()) == (self.device, self.inode) {
            return Ok(());
        }
        let text = format!(
            "the directory {} is not the one that was opened: a disk was mounted over it, or it was replaced. Nothing there is \
             touched; start the program again to use what is there now",
            self.path.display()
        );
        Err(io::Error::new(io::ErrorKind::StaleNetworkFileHandle, text))
    }
}

fn unseen(path: &Path, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("cannot look at the directory {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_made_with_those_above() {
        let tmp = tempfile::tempdir().unwrap();
        let deep = tmp.path().join("a/b/c");
        ensure_dir(&deep).unwrap();
        ensure_dir(&deep).unwrap();
        assert!(deep.is_dir());
        assert!(free_space(&deep).unwrap() > 0);
    }

    #[test]
    fn a_directory_that_was_replaced_is_another_one() {
        let tmp = tempfile::tempdir().unwrap();
        let (path, away) = (tmp.path().join("data"), tmp.path().join("away"));
        fs::create_dir(&path).unwrap();
        let same = SameDir::of(&path).unwrap();
        same.check().unwrap();
        fs::rename(&path, &away).unwrap();
        assert_eq!(same.check().unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::create_dir(&path).unwrap();
        assert!(same.check().unwrap_err().to_string().contains("start the program again"));
        fs::remove_dir(&path).unwrap();
        fs::rename(&away, &path).unwrap();
        same.check().unwrap();
    }

    #[test]
    fn segments_of_a_directory_that_was_replaced_are_left_alone() {
        use crate::{DiskDir, FileNo, SegmentDir as _};
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("seg");
        let dir = DiskDir::open(&path).unwrap();
        dir.create(FileNo::new(1), 4096).unwrap();
        fs::rename(&path, tmp.path().join("away")).unwrap();
        let other = DiskDir::open(&path).unwrap();
        other.create(FileNo::new(1), 4096).unwrap();
        assert!(dir.list().is_err() && dir.open(FileNo::new(1)).is_err());
        assert!(dir.create(FileNo::new(2), 4096).is_err() && dir.remove(FileNo::new(1)).is_err());
        assert_eq!(other.list().unwrap(), [FileNo::new(1)]);
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let tmp = tempfile::tempdir().unwrap();
        let file = tmp.path().join("data");
        fs::write(&file, "x").unwrap();
        let said = ensure_dir(&file).unwrap_err().to_string();
        assert!(said.contains("data"), "{said}");
    }
}
