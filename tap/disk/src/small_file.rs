//! Small files replaced whole: a reader, and a crash, see the old content or the new, nothing between.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::sync;

/// More than this is not a small file; reading it would be somebody's mistake.
const LARGEST: u64 = 64 << 20;

/// Replaces `path` by `bytes`, durably: when this returns the new content survives a power cut, and at
/// every moment before it the old one did.
///
/// # Errors
/// What the operating system says, with the path; the old content is then still there (or, if only the
/// last sync of the directory failed, the new).
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_as(path, bytes, 0o666)
}

/// With these permissions, less what the process takes from all.
fn write_as(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    // The temporary name is fixed, so that a crash leaves one at most; hence one writer at a time.
    static WRITING: Mutex<()> = Mutex::new(());
    let _one = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let tmp = temporary(path);
    replace(path, &tmp, bytes, mode).map_err(|e| {
        // It may be half written and take the space that was missing.
        let _ = fs::remove_file(&tmp);
        io::Error::new(e.kind(), format!("cannot write {}: {e}", path.display()))
    })
}

/// The same for a file that nobody but its owner may read.
///
/// # Errors
/// As [`write_atomic`].
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_as(path, bytes, 0o600)
}

/// The content, or `None` when there is no such file.
///
/// # Errors
/// What the operating system says, with the path.
pub fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("cannot read {}: {e}", path.display()));
    match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(named(e)),
        Ok(file) => read_limited(file).map(Some).map_err(named),
    }
}

fn read_limited(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if tap_block::units::count(bytes.len()) > LARGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than 64 MiB, not one of ours"));
    }
    Ok(bytes)
}

fn replace(path: &Path, tmp: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    // What a crash left has permissions of its own.
    match fs::remove_file(tmp) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(tmp)?;
    file.write_all(bytes)?;
    sync::data(&file)?;
    fs::rename(tmp, path)?;
    sync::parent(path)
}

/// What `path` is called until it is whole.
pub(crate) fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_replaced_whole() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("state");
        assert_eq!(read(&path).unwrap(), None);
        write_atomic(&path, b"a longer first").unwrap();
        write_atomic(&path, b"second").unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), b"second");
        assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 1, "nothing temporary stays");
    }

    #[test]
    fn what_a_crash_left_half_written_is_ignored() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("state");
        write_atomic(&path, b"sound").unwrap();
        fs::write(temporary(&path), b"half of a").unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), b"sound");
        write_atomic(&path, b"next").unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), b"next");
    }

    #[test]
    fn what_is_private_is_so_from_the_first_byte_on() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("secrets");
        fs::write(temporary(&path), b"left by a crash").unwrap();
        fs::set_permissions(temporary(&path), fs::Permissions::from_mode(0o666)).unwrap();
        write_private(&path, b"twelve-chars").unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(read(&path).unwrap().unwrap(), b"twelve-chars");
    }

    #[test]
    fn writers_at_once_never_mix() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("state");
        std::thread::scope(|s| {
            for n in 0..4_u8 {
                let path = &path;
                s.spawn(move || {
                    for _ in 0..8 {
                        write_atomic(path, &vec![n; 10_000 * (usize::from(n) + 1)]).unwrap();
                    }
                });
            }
        });
        let got = read(&path).unwrap().unwrap();
        assert_eq!(got.len(), 10_000 * (usize::from(got[0]) + 1));
        assert!(got.iter().all(|b| *b == got[0]));
    }

    #[test]
    fn a_failure_names_the_file_and_keeps_the_old() {
        let said = write_atomic(Path::new("/nonexistent/state"), b"x").unwrap_err().to_string();
        assert!(said.contains("/nonexistent/state"), "{said}");
        let said = read(Path::new("/")).unwrap_err().to_string();
        assert!(said.contains("cannot read /"), "{said}");
    }
}
