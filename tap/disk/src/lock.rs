//! One instance per data directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process;

use thiserror::Error;

/// Holds a directory for this process until it is dropped (or the process dies: the kernel lets go then).
#[derive(Debug)]
pub struct DirLock {
    // Closing the file releases the lock. The file itself stays: removing it would race with the next owner.
    _file: File,
}

/// Why a directory could not be locked.
#[derive(Debug, Error)]
pub enum LockError {
    /// Somebody else has it.
    #[error(
        "the directory {} is in use by {}: stop that instance first, or use another directory",
        dir.display(), owner(*pid)
    )]
    Held {
        /// The directory.
        dir: PathBuf,
        /// Who holds it, as far as it has written that down yet.
        pid: Option<u32>,
    },
    /// The lock file cannot be made or locked.
    #[error("cannot lock the directory {}: {source}; check that it exists and can be written", dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
}

impl DirLock {
    /// Locks `dir` through `dir/LOCK`, which then holds this process's id.
    ///
    /// # Errors
    /// [`LockError::Held`] when another instance has it (in this process or another).
    pub fn acquire(dir: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Io { dir: dir.to_owned(), source };
        let mut file = open(&dir.join("LOCK")).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Held { dir: dir.to_owned(), pid: read_pid(&mut file) });
            }
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
        write_pid(&mut file).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", process::id())
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Who has what somebody else wants.
pub(crate) fn owner(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_by_name_until_the_first_lets_go() {
        let tmp = tempfile::tempdir().unwrap();
        let first = DirLock::acquire(tmp.path()).unwrap();
        let refused = DirLock::acquire(tmp.path()).unwrap_err();
        assert!(matches!(&refused, LockError::Held { pid: Some(pid), .. } if *pid == process::id()));
        let said = refused.to_string();
        assert!(said.contains(&*tmp.path().to_string_lossy()), "{said}");
        assert!(said.contains(&process::id().to_string()), "{said}");
        drop(first);
        DirLock::acquire(tmp.path()).unwrap();
    }

    #[test]
    fn a_stale_file_with_rubbish_does_not_matter() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::write(tmp.path().join("LOCK"), "rubbish longer than any process id\n").unwrap();
        let _held = DirLock::acquire(tmp.path()).unwrap();
        let text = std::fs::read_to_string(tmp.path().join("LOCK")).unwrap();
        assert_eq!(text.trim(), process::id().to_string());
    }

    #[test]
    fn a_missing_directory_is_named() {
        let said = DirLock::acquire(Path::new("/nonexistent/data")).unwrap_err().to_string();
        assert!(said.contains("/nonexistent/data"), "{said}");
    }
}
