//! Checks a store offline, with a reading loop of its own.
//!
//! The store's recovery trusts what a sync is known to have made durable; this reads and checks everything: every
//! header, table and stored block, the chain of frames, the order of each stream, the ledger and what it says of each
//! segment. It decodes with `gateway-journal`, but walks by itself: a mistake in the store's walk does not hide here.

mod files;
mod ledger;
mod report;
mod settled;
mod walk;

use std::path::{Path, PathBuf};
use std::{fs, io};

use thiserror::Error;

pub use report::{AnchorReport, Finding, LedgerReport, Report, StreamReport};

/// Why nothing was checked.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// The directory holds no store.
    #[error("{} is not a journal store: name the directory that holds 'seg' and 'MARK'", .0.display())]
    NotAStore(PathBuf),
    /// A newer program wrote to it: what is not known here is no damage.
    #[error(
        "{file} is of version {version} of its format, and this program knows up to {known}: check it with the jverify of the \
             chronogate that wrote it"
    )]
    Newer {
        /// Where it says so.
        file: String,
        /// The version.
        version: u32,
        /// The last version known.
        known: u32,
    },
    /// The operating system refused.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
}

/// The lock that a gateway holds over the store in `dir`, if one does: in its own directory, which is the one above.
#[must_use]
pub fn in_use(dir: &Path) -> Option<PathBuf> {
    let dir = dir.canonicalize().ok()?;
    let held = |lock: &PathBuf| {
        let file = fs::File::open(lock);
        file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock)))
    };
    dir.parent().map(|above| above.join("LOCK")).filter(held)
}

/// Reads and checks the whole store in `dir`.
///
/// # Errors
/// [`VerifyError`] when there is nothing that could be checked. Damage is no error: it is in the report.
pub fn verify(dir: &Path) -> Result<Report, VerifyError> {
    let files = files::Files::find(dir)?;
    let mut walk = walk::Walk::new(&files);
    walk.run()?;
    let mut report = walk.into_report();
    ledger::check(dir, &files, &mut report);
    report.sound = report.damage.is_empty();
    Ok(report)
}
