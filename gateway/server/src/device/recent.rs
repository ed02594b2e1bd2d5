//! What was changed on an overlay since the last flush, in two files by turns: written before the content, never synced. The kernel
//! has it when the gateway is killed.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use gateway_image::overlay::{Change, LogPlace, Recent, unrecorded};

/// A file that has come so far asks for a flush: half a million writes, whose content is looked at one by one after a kill.
const FULL: u64 = 32 << 20;
/// As far as it goes when flushes fail.
const MOST: u64 = 128 << 20;

pub(super) struct RecentFiles {
    state: Recent,
    first: File,
    second: File,
}

/// What was changed and a log at `place` does not have, as far as it got.
pub(super) fn read(dir: &Path, image: u64, place: LogPlace) -> io::Result<Vec<Change>> {
    let [first, second] = paths(dir).map(|path| match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    });
    Ok(unrecorded(image, [&first?, &second?], place))
}

impl RecentFiles {
    /// Empty, for changes that a log at `place` does not have.
    pub(super) fn begin(dir: &Path, image: u64, place: LogPlace) -> io::Result<Self> {
        let [first, second] = paths(dir).map(File::create);
        Ok(Self { state: Recent::new(image, place), first: first?, second: second? })
    }

    /// Writes changes down whose content is written next.
    pub(super) fn say(&mut self, changes: &[Change]) -> io::Result<()> {
        if self.state.len() >= MOST {
            return Err(io::Error::other("no flush has succeeded for too long: nothing more is taken"));
        }
        let said = self.state.say(changes);
        let file = if said.second { &self.second } else { &self.first };
        file.write_all_at(&said.bytes, said.offset)?;
        self.state.said(&said);
        Ok(())
    }

    /// Is it time for a flush?
    pub(super) const fn is_full(&self) -> bool {
        self.state.len() >= FULL
    }

    /// A flush has taken what changed until now; when it has succeeded the log is at `place`.
    pub(super) fn turn(&mut self, place: LogPlace) {
        self.state.turn(place);
    }

    /// It has.
    pub(super) fn recorded(&mut self) {
        self.state.recorded();
    }
}

fn paths(dir: &Path) -> [PathBuf; 2] {
    ["recent-0", "recent-1"].map(|name| dir.join(name))
}
