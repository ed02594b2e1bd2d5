//! What was changed on an overlay since the last flush, in two files by turns: written before the content, never synced. The kernel
//! has it when the gateway is killed.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use gateway_image::overlay::{Change, LogPlace, Recent, stood, unrecorded};

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
///
/// # Errors
/// When they cannot be read; and when the log has come further already, and what it held since is not there.
pub(super) fn read(dir: &Path, image: u64, place: LogPlace) -> io::Result<Vec<Change>> {
    let [first, second] = paths(dir).map(|path| match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    });
    let files = [first?, second?];
    let files = files.each_ref().map(Vec::as_slice);
    match stood(image, files).filter(|stood| *stood > place) {
        Some(stood) => Err(lost(dir, place, stood)),
        None => Ok(unrecorded(image, files, place)),
    }
}

impl RecentFiles {
    /// Empty, for changes that a log at `place` does not have.
    pub(super) fn begin(dir: &Path, image: u64, place: LogPlace) -> io::Result<Self> {
        let [first, second] = paths(dir).map(File::create);
        let mut files = Self { state: Recent::new(image, place), first: first?, second: second? };
        files.say_recorded();
        Ok(files)
    }

    /// Writes changes down whose content is written next.
    pub(super) fn say(&mut self, changes: &[Change]) -> io::Result<()> {
        // That would say that the log stands where it may not stand yet.
        if changes.is_empty() { Ok(()) } else { self.put(changes) }
    }

    fn put(&mut self, changes: &[Change]) -> io::Result<()> {
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
        self.say_recorded();
    }

    /// So that a log that shows less one day is not taken for one whose last flush was cut off. Nothing depends on it: where it
    /// cannot be written, it is not known.
    fn say_recorded(&mut self) {
        drop(self.put(&[]));
    }
}

fn lost(dir: &Path, place: LogPlace, stood: LogPlace) -> io::Error {
    let text = format!(
        "the overlay in {}: its mapping log is damaged: {} flushes of map-{} were done, and {} of map-{} can be read, so nobody knows \
         where what was written on the image lies; remove the image and create it again",
        dir.display(),
        stood.group,
        stood.generation,
        place.group,
        place.generation
    );
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn paths(dir: &Path) -> [PathBuf; 2] {
    ["recent-0", "recent-1"].map(|name| dir.join(name))
}
