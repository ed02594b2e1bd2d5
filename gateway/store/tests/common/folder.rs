//! A store in a folder: its files.

use std::fs;
use std::io::ErrorKind::NotFound;
use std::path::{Path, PathBuf};

/// All files, in order.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut todo) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { todo.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

/// A copy of everything, as `kill -9` at this moment leaves it.
pub fn copy(dir: &Path, to: &Path) {
    for file in files(dir) {
        let target = to.join(file.strip_prefix(dir).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        match fs::copy(&file, target) {
            // The index drops tables while it is being copied.
            Err(e) if e.kind() == NotFound => {}
            copied => drop(copied.unwrap()),
        }
    }
}
