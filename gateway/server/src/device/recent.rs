//! What was changed on an overlay since the last flush, in two files by turns: written before the content, never synced. The kernel
//! has it when the gateway is killed. A file beside them says under which start of the machine they were begun, and which of them
//! is written: as long as it is that one, what is missing of them has been damaged.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use gateway_image::overlay::{
    Begun, Change, Claims, LogPlace, Noted, Recent, Said, all_unrecorded, furthest, stood, unrecorded,
};
use tap_block::units::count;
use tap_disk::small_file;

/// A file that has come so far asks for a flush: half a million writes, whose content is looked at one by one after a kill.
const FULL: u64 = 32 << 20;
/// As far as it goes when flushes fail.
const MOST: u64 = 128 << 20;
/// A file is made longer by so much at a time, before it is written: what ends anywhere else has been cut off.
const AHEAD: u64 = 64 << 10;
const BOOT: &str = "boot";

pub(super) struct RecentFiles {
    state: Recent,
    first: Ahead,
    second: Ahead,
    /// Where it is noted which of them is written. `None`: nobody knows which start of the machine this is.
    boot: Option<Boot>,
}

/// A file that is longer than what is written to it.
struct Ahead {
    file: File,
    path: PathBuf,
    len: u64,
}

/// The start of the machine, and what is noted behind it.
struct Boot {
    file: File,
    path: PathBuf,
    behind: u64,
}

/// What is found of what was said before.
pub(super) struct Found {
    /// What a log does not have of it.
    pub(super) claims: Vec<Claims>,
    /// The furthest place of a log that anything of it bears.
    pub(super) furthest: Option<LogPlace>,
}

/// What was changed and a log at `place` does not have, as far as it got.
///
/// # Errors
/// When something is missing of it, though the machine has not lost what it held since; and when the log has come further
/// already, and what it held since is not there.
pub(super) fn read(dir: &Path, image: u64, place: LogPlace) -> io::Result<Found> {
    let kept = kept(dir);
    let is_kept = kept.is_some();
    let [first, second] = paths(dir).map(|path| match fs::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound && !is_kept => Ok(Vec::new()),
        read => read.map_err(|e| damaged(&format_args!("{} cannot be read: {e}", path.display()))),
    });
    let files = [first?, second?];
    let files = files.each_ref().map(Vec::as_slice);
    if let Some(stood) = stood(image, files).filter(|stood| *stood > place) {
        return Err(lost(place, stood));
    }
    let claims = match kept {
        Some(noted) => all_unrecorded(image, files, place, noted).map_err(|e| damaged(&e))?,
        None => vec![Claims { changes: unrecorded(image, files, place), is_sure: false }],
    };
    Ok(Found { claims, furthest: furthest(image, files) })
}

/// Has the machine run since they were begun? Then nothing that was written can be missing, on the disk or not; and something is
/// noted of them, unless an early program began them.
fn kept(dir: &Path) -> Option<Option<Noted>> {
    let noted = small_file::read(&dir.join(BOOT)).ok().flatten()?;
    let behind = noted.strip_prefix(&this_boot()?[..])?;
    Some(Noted::decode(behind))
}

fn this_boot() -> Option<Vec<u8>> {
    fs::read("/proc/sys/kernel/random/boot_id").ok().filter(|id| !id.is_empty())
}

fn damaged(why: &dyn std::fmt::Display) -> io::Error {
    let text = format!(
        "{why}; to open the image with what of that is sound, which may be older than what its clients saw, remove the file {BOOT} \
         there; or remove the image and create it again"
    );
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl RecentFiles {
    /// Empty, for changes that a log at `place` does not have.
    pub(super) fn begin(dir: &Path, image: u64, place: LogPlace) -> io::Result<Self> {
        let boot = dir.join(BOOT);
        // One that is left half way says nothing of them.
        match fs::remove_file(&boot) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &boot, &e)),
            _ => {}
        }
        let [first, second] = paths(dir).map(|path| Ahead::create(&path));
        let state = Recent::new(image, place);
        let mut files = Self { state, first: first?, second: second?, boot: None };
        let ended = files.state.ended();
        files.first.write(&ended)?;
        // The other has its first page, whatever becomes of the disk's room.
        files.second.write(&ended)?;
        // Not synced, as they are not.
        if let Some(id) = this_boot() {
            files.boot = Some(Boot::create(boot, &id, files.state.noted())?);
        }
        files.say_recorded();
        Ok(files)
    }

    /// Writes changes down whose content is written next.
    pub(super) fn say(&mut self, changes: &[Change]) -> io::Result<()> {
        // That would say that the log stands where it may not stand yet.
        if changes.is_empty() {
            return Ok(());
        }
        if self.state.len() >= MOST {
            let text = format!(
                "{MOST} bytes are said in {} since the last flush that succeeded: see to what keeps the image from being flushed; \
                 it is written again once that is done",
                self.first.path.display()
            );
            return Err(io::Error::other(text));
        }
        self.put(&self.state.say(changes))
    }

    /// Their content could not be written.
    pub(super) fn take_back(&mut self) -> io::Result<()> {
        self.put(&self.state.take_back())
    }

    fn put(&mut self, said: &Said) -> io::Result<()> {
        let mut after = self.state.clone();
        after.said(said);
        let noted = said.is_noted().then(|| after.noted());
        // Behind it: what is noted is there.
        if let Err(e) = self.write(said).and_then(|()| noted.map_or(Ok(()), |noted| self.note(noted))) {
            // What is there of it was never said.
            let _ = self.write(&self.state.ended());
            return Err(e);
        }
        self.state = after;
        Ok(())
    }

    fn note(&self, noted: Begun) -> io::Result<()> {
        self.boot.as_ref().map_or(Ok(()), |boot| boot.note(noted))
    }

    fn write(&mut self, said: &Said) -> io::Result<()> {
        if said.second { &mut self.second } else { &mut self.first }.write(said)
    }

    /// Is it time for a flush?
    pub(super) const fn is_full(&self) -> bool {
        self.state.len() >= FULL
    }

    /// A flush has taken what changed until now; when it has succeeded the log is at `place`. After an error it has not.
    pub(super) fn turn(&mut self, place: LogPlace) -> io::Result<()> {
        let mut turned = self.state.clone();
        if turned.turn(place) {
            self.write(&turned.ended())?;
            self.note(turned.noted())?;
        }
        self.state = turned;
        Ok(())
    }

    /// It has.
    pub(super) fn recorded(&mut self) {
        self.state.recorded();
        self.say_recorded();
    }

    /// So that a log that shows less one day is not taken for one whose last flush was cut off. Nothing depends on it: where it
    /// cannot be written, it is not known.
    fn say_recorded(&mut self) {
        drop(self.put(&self.state.say(&[])));
    }
}

impl Ahead {
    fn create(path: &Path) -> io::Result<Self> {
        let file = File::create(path).map_err(|e| failed("make", path, &e))?;
        Ok(Self { file, path: path.to_owned(), len: 0 })
    }

    fn write(&mut self, said: &Said) -> io::Result<()> {
        let end = said.offset + count(said.bytes.len());
        if end > self.len {
            let len = end.next_multiple_of(AHEAD);
            self.file.set_len(len).map_err(|e| failed("make longer", &self.path, &e))?;
            self.len = len;
        }
        self.file.write_all_at(&said.bytes, said.offset).map_err(|e| failed("write", &self.path, &e))
    }
}

impl Boot {
    fn create(path: PathBuf, id: &[u8], noted: Begun) -> io::Result<Self> {
        fs::write(&path, [id, &noted.encode()].concat()).map_err(|e| failed("write", &path, &e))?;
        let file = OpenOptions::new().write(true).open(&path).map_err(|e| failed("open", &path, &e))?;
        Ok(Self { file, path, behind: count(id.len()) })
    }

    fn note(&self, noted: Begun) -> io::Result<()> {
        let done = self.file.write_all_at(&noted.encode(), self.behind);
        done.map_err(|e| failed("write", &self.path, &e))
    }
}

fn failed(what: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {what} {}: {error}", path.display()))
}

fn lost(place: LogPlace, stood: LogPlace) -> io::Error {
    let text = format!(
        "its mapping log is damaged: {} flushes of map-{} were done, and {} of map-{} can be read, so nobody knows where what was \
         written on the image lies; put its own files back as they were, or remove the image and create it again",
        stood.group, stood.generation, place.group, place.generation
    );
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn paths(dir: &Path) -> [PathBuf; 2] {
    ["recent-0", "recent-1"].map(|name| dir.join(name))
}
