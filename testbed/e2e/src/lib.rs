//! End to end: the program as people run it, stock clients as people use them.
//!
//! ```text
//!   tests/*.rs ──► Lab (a folder) ──► Up (`chronogate up`, by pid) ◄── verbs (`-o json`)
//!                      │                  ▲          ▲
//!                      │        Writer ───┘          └─── nbdinfo, nbdcopy, qemu-io, fio, nbdfuse …
//!                      └── the protected files: the truth to compare with
//! ```
//!
//! Every wait has a limit, every process is ended by its own id, and a test that lacks a client says SKIPPED
//! (in CI it fails). `CHRONOGATE_E2E=full` runs the scenarios at full size (`cargo xtask show NAME`).

pub mod command;
pub mod iscsi;
pub mod lab;
pub mod mount;
pub mod nbd;
pub mod poll;
pub mod scale;
pub mod shaped;
pub mod vm;
pub mod volume;
pub mod writer;

pub use command::{Finished, run, tool};
pub use lab::{Lab, Up, scenario};
pub use scale::{full, pick, say, seed, skipped};
pub use volume::VolumeState;
pub use writer::Writer;

/// A checksum of a whole disk.
#[must_use]
pub fn digest(content: &[u8]) -> u128 {
    xxhash_rust::xxh3::xxh3_128(content)
}

/// Where two disks differ first, in words; `None` when they are equal.
#[must_use]
pub fn difference(left: &[u8], right: &[u8]) -> Option<String> {
    if left.len() != right.len() {
        return Some(format!("{} bytes against {}", left.len(), right.len()));
    }
    let blocks = left.chunks(4096).zip(right.chunks(4096)).enumerate();
    let bad: Vec<usize> = blocks.filter(|(_, (l, r))| l != r).map(|(no, _)| no).collect();
    let first = bad.first()?;
    Some(format!("{} blocks of 4 KiB differ, the first is block {first}", bad.len()))
}
