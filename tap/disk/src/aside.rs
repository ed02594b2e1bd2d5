//! Putting a file that cannot be used aside: it is never thrown away, for somebody may read it yet.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::sync;

/// So many are kept beside each other; nobody reads more.
const MOST: u32 = 1000;

/// Lies there something that [`set_aside`] took away from `path`?
#[must_use]
pub fn was_set_aside(path: &Path) -> bool {
    (1..=MOST).any(|n| fs::symlink_metadata(name(path, n)).is_ok())
}

fn name(path: &Path, n: u32) -> PathBuf {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{file}.unreadable-{n}"))
}

/// Renames what lies at `path`, whatever it is, to the first of `PATH.unreadable-1`, `-2`, ... that is free, durably; `None`
/// when nothing lies there.
///
/// # Errors
/// What the operating system says, with the path, or that all names are taken.
pub fn set_aside(path: &Path) -> io::Result<Option<PathBuf>> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("cannot put {} aside: {e}", path.display()));
    let there = |path: &Path| match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(named(e)),
    };
    if !there(path)? {
        return Ok(None);
    }
    for n in 1..=MOST {
        let aside = name(path, n);
        if !there(&aside)? {
            fs::rename(path, &aside).and_then(|()| sync::parent(path)).map_err(named)?;
            return Ok(Some(aside));
        }
    }
    let all = format!("{MOST} lie beside it already; take them away");
    Err(named(io::Error::new(io::ErrorKind::AlreadyExists, all)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_kept_under_names_of_its_own() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("LEDGER");
        assert_eq!((set_aside(&path).unwrap(), was_set_aside(&path)), (None, false));
        fs::write(&path, b"one").unwrap();
        let first = set_aside(&path).unwrap().unwrap();
        fs::create_dir(&path).unwrap();
        let second = set_aside(&path).unwrap().unwrap();
        assert_eq!(fs::read(&first).unwrap(), b"one");
        assert!(was_set_aside(&path) && second.is_dir() && first != second && !path.exists());
        assert!(first.ends_with("LEDGER.unreadable-1") && second.ends_with("LEDGER.unreadable-2"));
    }
}
