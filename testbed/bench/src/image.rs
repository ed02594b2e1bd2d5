//! Disks of known content, and putting them in the same state before each round.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rustix::fs::{Advice, fadvise};
use tap_block::units::count;

use crate::nbd::{Client, Export};
use crate::payload::{Mix, Payload};

const PIECE: usize = 1 << 20;
const BLOCK: usize = 4096;

/// Makes `path`, `size` bytes of half-compressible content that the seed decides, all of it written.
///
/// Written 4 KiB at a time: a file written in big pieces lies in the page cache in big pieces, and there ext4
/// takes some 30 us for any small write to it (it looks at every block of the piece). That would hide what a
/// server adds, ours most of all.
pub(crate) fn make(path: &Path, size: u64, seed: u64) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
    let mut payload = Payload::new(Mix::Half, seed);
    let mut piece = vec![0; PIECE];
    for at in (0..size).step_by(PIECE) {
        payload.fill(at, &mut piece);
        for (n, block) in (0u64..).zip(piece.chunks(BLOCK)) {
            file.write_all_at(block, at + n * count(BLOCK))?;
        }
    }
    Ok(file.set_len(size)?)
}

/// Makes `path`, `size` bytes of the files below `corpus`, one after the other at whole blocks, again from the first when
/// they are too few.
pub(crate) fn make_of(path: &Path, size: u64, corpus: &Path) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
    let mut files = Vec::new();
    list(corpus, &mut files)?;
    ensure!(!files.is_empty(), "there are no files below {}", corpus.display());
    let mut at = 0;
    for source in files.iter().cycle() {
        if at >= size {
            break;
        }
        let bytes = std::fs::read(source).unwrap_or_default();
        for (n, block) in (0u64..).zip(bytes.chunks(BLOCK)) {
            file.write_all_at(block, at + n * count(BLOCK))?;
        }
        at += count(bytes.len()).next_multiple_of(count(BLOCK));
    }
    Ok(file.set_len(size)?)
}

/// Regular files below a folder that hold something, in the order of their names.
fn list(folder: &Path, into: &mut Vec<std::path::PathBuf>) -> Result<()> {
    let mut entries = std::fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::path);
    for entry in entries {
        let about = entry.metadata()?;
        if about.is_dir() {
            list(&entry.path(), into)?;
        } else if about.is_file() && about.len() > 0 {
            into.push(entry.path());
        }
    }
    Ok(())
}

/// Writes back what the page cache holds of all files in `folder`, so that no round pays for the one before.
pub(crate) fn write_back(folder: &Path) -> Result<()> {
    let status = Command::new("sync").arg("-f").arg(folder).status().context("cannot run sync")?;
    ensure!(status.success(), "sync -f ended with {status}");
    Ok(())
}

/// Drops what the page cache holds of every file below `folder`: the next read comes from the disk.
pub(crate) fn go_cold(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            go_cold(&path)?;
        } else if path.is_file() {
            fadvise(File::open(&path)?, 0, None, Advice::DontNeed)?;
        }
    }
    Ok(())
}

/// Reads an export from one end to the other, so that every contestant starts from the same page cache.
/// Returns a sum over its content: those of equal disks are equal.
pub(crate) fn read_all(export: &Export, size: u64) -> Result<u64> {
    let mut client = Client::connect(export)?;
    let mut piece = vec![0; PIECE];
    let mut sum = 0u64;
    for at in (0..size.min(client.size)).step_by(PIECE) {
        client.read(at, &mut piece)?;
        sum = digest(&piece).wrapping_add(sum.rotate_left(7));
    }
    client.close()?;
    Ok(sum)
}

fn digest(piece: &[u8]) -> u64 {
    let (words, _) = piece.as_chunks::<8>();
    words.iter().fold(count(piece.len()), |sum, w| {
        (sum ^ u64::from_le_bytes(*w)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
    })
}
