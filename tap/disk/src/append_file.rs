//! A file that only grows: what is appended is on the disk when the call returns, and after a crash the file holds that
//! and at most a part of what came after.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tap_block::units::count;

use crate::{small_file, sync};

/// See the module. What reads it whole is told when it has outgrown what is read at once (64 MiB): begin it anew before.
#[derive(Debug)]
pub struct AppendFile {
    path: PathBuf,
    open: Mutex<Opened>,
}

#[derive(Debug)]
struct Opened {
    file: File,
    /// Behind everything that counts.
    end: u64,
}

impl AppendFile {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// What the operating system says, with the path.
    pub fn open(path: &Path) -> io::Result<Self> {
        let open = Opened::at(path).map_err(|e| named("open", path, &e))?;
        Ok(Self { path: path.to_owned(), open: Mutex::new(open) })
    }

    /// Everything in it.
    ///
    /// # Errors
    /// What the operating system says, with the path.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let _still = self.lock();
        Ok(small_file::read(&self.path)?.unwrap_or_default())
    }

    /// Appends `bytes`, durably. After an error an unknown part is written; the next append goes over it.
    ///
    /// # Errors
    /// What the operating system says, with the path.
    pub fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let mut open = self.lock();
        let written = open.file.write_all_at(bytes, open.end).and_then(|()| sync::data(&open.file));
        if let Err(e) = written {
            // What is left of it would look like something that was there once; the next append goes over it, if not all.
            let _ = open.file.set_len(open.end);
            return Err(named("append to", &self.path, &e));
        }
        open.end += count(bytes.len());
        Ok(())
    }

    /// Forgets everything from byte `end` on, durably.
    ///
    /// # Errors
    /// What the operating system says, with the path.
    pub fn cut(&self, end: u64) -> io::Result<()> {
        let mut open = self.lock();
        let cut = open.file.set_len(end).and_then(|()| sync::data(&open.file));
        cut.map_err(|e| named("shorten", &self.path, &e))?;
        open.end = end;
        Ok(())
    }

    /// Begins it anew with `bytes`: after a crash the old content is there, or the new.
    ///
    /// # Errors
    /// What the operating system says, with the path.
    pub fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let mut open = self.lock();
        small_file::write_atomic(&self.path, bytes)?;
        *open = Opened::at(&self.path).map_err(|e| named("open", &self.path, &e))?;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Opened> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Opened {
    fn at(path: &Path) -> io::Result<Self> {
        let there = path.exists();
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        if !there {
            sync::parent(path)?;
        }
        let end = file.metadata()?.len();
        Ok(Self { file, end })
    }
}

fn named(what: &str, path: &Path, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("cannot {what} {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_appended_stays_and_what_is_cut_goes() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("log");
        let file = AppendFile::open(&path).unwrap();
        assert_eq!(file.read().unwrap(), b"");
        file.append(b"one").unwrap();
        file.append(b"two").unwrap();
        assert_eq!(AppendFile::open(&path).unwrap().read().unwrap(), b"onetwo");
        file.cut(4).unwrap();
        file.append(b"!").unwrap();
        assert_eq!(file.read().unwrap(), b"onet!");
        file.replace(b"new").unwrap();
        file.append(b"er").unwrap();
        assert_eq!(AppendFile::open(&path).unwrap().read().unwrap(), b"newer");
    }

    #[test]
    fn a_failure_names_the_file() {
        let said = AppendFile::open(Path::new("/nonexistent/log")).unwrap_err().to_string();
        assert!(said.contains("/nonexistent/log"), "{said}");
    }
}
