//! Disks that images were committed to. Each has a directory: the disk, and a note of the image that it was.
//!
//! The note is durable before the image is given up, so a crash leaves an image or a disk, never neither: what is noted of an
//! image that is still there was not finished, and goes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use cx_api::{Code, Problem};
use gateway_image::Catalogue;
use gateway_journal::ImageId;
use serde::{Deserialize, Serialize};
use tap_block::{Name, StreamId};
use tap_disk::{ensure_dir, small_file};

use crate::http::Answer;
use crate::names::Names;
use crate::problems;

const DISK: &str = "disk";
const NOTE: &str = "note";
const VERSION: u32 = 1;

/// Starts protecting a disk under a name; where it is used from then on, or why that is not possible. Before the tap announces
/// the name it says as which stream it will do so.
pub type ProtectDisk =
    Box<dyn Fn(&Name, &Path, &dyn Fn(StreamId)) -> Result<Vec<String>, String> + Send + Sync>;

/// The disks there are, and who protects them.
pub(crate) struct Committed {
    dir: PathBuf,
    names: Arc<Names>,
    protect: OnceLock<ProtectDisk>,
}

#[derive(Serialize, Deserialize)]
struct Note {
    chronogate_disk: u32,
    /// What it is made of, as long as that may still be there; `null`: the disk is all there is.
    image: Option<u64>,
    /// The disk has all of the image.
    whole: bool,
}

impl Committed {
    /// Clears away what was begun and not finished.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub(crate) fn open(dir: PathBuf, names: Arc<Names>, catalogue: &Catalogue) -> io::Result<Self> {
        let this = Self { dir, names, protect: OnceLock::new() };
        for name in this.names()? {
            if let Err(e) = this.review(&name, catalogue) {
                tracing::warn!("{} is kept as it is: {e}", this.of(&name).display());
            }
        }
        for (name, _) in this.disks()? {
            this.names.hold_disk(&name, catalogue.volume_named(&name).map(|volume| volume.stream()));
        }
        Ok(this)
    }

    /// A disk counts from when its image is gone; what says so is never taken back.
    fn review(&self, name: &Name, catalogue: &Catalogue) -> io::Result<()> {
        let Some(note) = self.note(name)? else {
            if !self.disk_of(name).exists() {
                return self.abandon(name);
            }
            tracing::warn!("{} has no sound note of its origin; it is kept", self.of(name).display());
            return Ok(());
        };
        match note.image {
            None => Ok(()),
            Some(image) if note.whole && catalogue.image(ImageId::new(image)).is_none() => self.settle(name),
            Some(image) => {
                tracing::info!("{} was not finished: image {image} is what it was", self.of(name).display());
                self.abandon(name)
            }
        }
    }

    fn of(&self, name: &Name) -> PathBuf {
        self.dir.join(name.as_str())
    }

    /// Where the disk of this name lies, if there is one.
    pub(crate) fn disk_of(&self, name: &Name) -> PathBuf {
        self.of(name).join(DISK)
    }

    fn names(&self) -> io::Result<Vec<Name>> {
        ensure_dir(&self.dir)?;
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            names.extend(entry?.file_name().to_str().and_then(|n| n.parse::<Name>().ok()));
        }
        names.sort();
        Ok(names)
    }

    fn note(&self, name: &Name) -> io::Result<Option<Note>> {
        let bytes = small_file::read(&self.of(name).join(NOTE))?.unwrap_or_default();
        let note: Option<Note> = serde_json::from_slice(&bytes).ok();
        Ok(note.filter(|note| note.chronogate_disk == VERSION))
    }

    /// Every disk, by name.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub(crate) fn disks(&self) -> io::Result<Vec<(Name, PathBuf)>> {
        let disk = |name: Name| (self.disk_of(&name), name);
        let all = self.names()?.into_iter().map(disk).filter(|(path, _)| path.exists());
        Ok(all.map(|(path, name)| (name, path)).collect())
    }

    /// Who protects disks from here on.
    pub(crate) fn protect_with(&self, protect: ProtectDisk) {
        // There is one site around a gateway, and it says so once.
        let _ = self.protect.set(protect);
    }

    /// May `image` become the disk of this name? What an earlier commit of it left there is no reason against it.
    ///
    /// # Errors
    /// When nobody protects disks here, or there is a disk of this name.
    pub(crate) fn check(&self, name: &Name, image: ImageId) -> Answer<()> {
        if self.protect.get().is_none() {
            return Err(Problem::new(Code::Conflict, "nobody here protects disks")
                .because("the gateway runs without a tap beside it"));
        }
        let own =
            || self.note(name).is_ok_and(|note| note.is_some_and(|note| note.image == Some(image.get())));
        if self.of(name).exists() && !own() {
            return Err(problems::name_taken(name, "a disk that an image was committed to"));
        }
        Ok(())
    }

    /// Notes, durably, that `image` becomes the disk of this name.
    pub(crate) fn begin(&self, name: &Name, image: ImageId) -> io::Result<()> {
        ensure_dir(&self.of(name))?;
        self.write_note(name, Note { chronogate_disk: VERSION, image: Some(image.get()), whole: false })
    }

    /// The disk is there, whole and synced; when this returns its name is durable, too.
    pub(crate) fn finish(&self, name: &Name, image: ImageId) -> io::Result<()> {
        self.write_note(name, Note { chronogate_disk: VERSION, image: Some(image.get()), whole: true })
    }

    /// The image is gone: the disk is all there is, and has the name.
    pub(crate) fn settle(&self, name: &Name) -> io::Result<()> {
        self.names.hold_disk(name, None);
        self.write_note(name, Note { chronogate_disk: VERSION, image: None, whole: true })
    }

    /// Throws away what an earlier commit of an image that is still there left.
    pub(crate) fn forget_unfinished(&self, image: ImageId) -> io::Result<()> {
        for name in self.names()? {
            if self.note(&name)?.is_some_and(|note| note.image == Some(image.get())) {
                self.abandon(&name)?;
            }
        }
        Ok(())
    }

    /// Syncs the directory, as replacing a file does.
    fn write_note(&self, name: &Name, note: Note) -> io::Result<()> {
        small_file::write_atomic(&self.of(name).join(NOTE), &serde_json::to_vec(&note)?)
    }

    /// It does not after all.
    pub(crate) fn abandon(&self, name: &Name) -> io::Result<()> {
        fs::remove_dir_all(self.of(name))
    }

    fn protect_with_tap(&self, protect: &ProtectDisk, name: &Name) -> Result<Vec<String>, String> {
        protect(name, &self.disk_of(name), &|stream| self.names.hold_disk(name, Some(stream)))
    }

    /// Starts protecting every disk. One that cannot be protected keeps no other from it.
    pub(crate) fn protect_all(&self) -> io::Result<()> {
        for (name, _) in self.disks()? {
            if let Err(e) = self.protect(&name) {
                tracing::error!("{}: {}", e.detail, e.cause);
            }
        }
        Ok(())
    }

    /// Starts protecting the disk of this name; where it is used.
    pub(crate) fn protect(&self, name: &Name) -> Answer<Vec<String>> {
        let why = match self.protect.get() {
            Some(protect) => match self.protect_with_tap(protect, name) {
                Ok(uris) => return Ok(uris),
                Err(why) => why,
            },
            None => "nobody here protects disks".to_owned(),
        };
        let what =
            format!("the image is the disk {} now, which is not protected", self.disk_of(name).display());
        Err(Problem::new(Code::Internal, what)
            .because(why)
            .fix("see to that and start the gateway again: it protects the disk then"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn a_whole_disk_stays_and_half_a_one_goes() {
        let tmp = tempfile::tempdir().unwrap();
        let open =
            || Committed::open(tmp.path().join("volumes"), Arc::default(), &Catalogue::default()).unwrap();
        let committed = open();
        for (called, whole) in [("web02", true), ("half", false)] {
            committed.begin(&name(called), ImageId::new(3)).unwrap();
            fs::write(committed.disk_of(&name(called)), [1]).unwrap();
            if whole {
                committed.finish(&name(called), ImageId::new(3)).unwrap();
            }
        }
        ensure_dir(&tmp.path().join("volumes/empty")).unwrap();
        ensure_dir(&tmp.path().join("volumes/stray")).unwrap();
        fs::write(committed.disk_of(&name("stray")), [2]).unwrap();
        let committed = open();
        let names: Vec<_> = committed.disks().unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, [name("stray"), name("web02")]);
        assert_eq!(
            committed.note(&name("web02")).unwrap().unwrap().image,
            None,
            "its image is gone for good"
        );
        assert!(!tmp.path().join("volumes/empty").exists());
        committed.forget_unfinished(ImageId::new(3)).unwrap();
        assert!(committed.disk_of(&name("web02")).exists(), "an image of that number is another one now");
    }

    #[test]
    fn a_name_is_taken_once_and_somebody_must_protect() {
        let tmp = tempfile::tempdir().unwrap();
        let committed =
            Committed::open(tmp.path().join("volumes"), Arc::default(), &Catalogue::default()).unwrap();
        let check = |committed: &Committed| committed.check(&name("a"), ImageId::new(2));
        assert_eq!(check(&committed).unwrap_err().detail, "nobody here protects disks");
        committed.protect_with(Box::new(|name, disk, _| Ok(vec![format!("{name} {}", disk.display())])));
        check(&committed).unwrap();
        committed.begin(&name("a"), ImageId::new(1)).unwrap();
        assert_eq!(check(&committed).unwrap_err().code, Code::Conflict);
        committed.check(&name("a"), ImageId::new(1)).unwrap();
        let disk = committed.disk_of(&name("a"));
        assert_eq!(committed.protect(&name("a")).unwrap(), [format!("a {}", disk.display())]);
        committed.abandon(&name("a")).unwrap();
        check(&committed).unwrap();
    }
}
