//! Directories: made durably, and asked for their free space.

use std::fs;
use std::io;
use std::path::Path;

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
    fn a_file_in_the_way_is_named() {
        let tmp = tempfile::tempdir().unwrap();
        let file = tmp.path().join("data");
        fs::write(&file, "x").unwrap();
        let said = ensure_dir(&file).unwrap_err().to_string();
        assert!(said.contains("data"), "{said}");
    }
}
