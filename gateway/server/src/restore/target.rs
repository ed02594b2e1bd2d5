//! The file or block device a restore writes to, once it is sure that nobody needs what is there.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cx_api::{Code, Problem};
use tap_block::stored::is_zero;
use tap_disk::{FileDevice, FileOptions};

use super::note::Note;

/// `O_EXCL` on a block device: refused while it is mounted or otherwise in use.
const EXCLUSIVE: i32 = 0o200;
/// A block device whose beginning is zeroes is taken for empty: partition tables and file systems live there.
const LOOKED_AT: usize = 1 << 20;

/// What must never be written to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Forbidden {
    /// Protected disks.
    pub(crate) files: Vec<PathBuf>,
    /// The gateway's own directory.
    pub(crate) data: PathBuf,
}

/// A target that is ours for the time of the restore.
#[derive(Debug)]
pub(super) struct Target {
    path: PathBuf,
    device: Arc<FileDevice>,
    /// Locked, so that two restores never share it; the device is another opening of the same file.
    _lock: File,
    resumed: Option<Note>,
    is_block_device: bool,
}

impl Target {
    pub(super) fn open(path: &Path, note: Note, forbidden: &Forbidden) -> Result<Self, Problem> {
        forbidden.check(path)?;
        let kind = look(path)?;
        let noted = Note::read(path).map_err(|e| unreadable_note(path, &e))?.filter(|n| kind.fits(n));
        if let Some(other) = noted.filter(|other| !other.is_same(&note)) {
            return Err(unfinished(path, &other));
        }
        if noted.is_none() {
            kind.check_empty(path)?;
        }
        let lock = take(path, &kind)?;
        let target = |e: io::Error| io_problem(path, &e);
        if noted.is_none() {
            note.write(path).map_err(target)?;
        }
        if kind != Kind::Device {
            lock.set_len(note.size).map_err(target)?;
        }
        let device = FileDevice::open(path, FileOptions::default())
            .map_err(|e| Problem::new(Code::Invalid, e.to_string()).fix("choose another path"))?;
        let this = Self {
            path: path.to_owned(),
            device,
            _lock: lock,
            resumed: noted,
            is_block_device: kind == Kind::Device,
        };
        this.check_size(note.size)?;
        Ok(this)
    }

    fn check_size(&self, size: u64) -> Result<(), Problem> {
        let room = tap_block::BlockDevice::geometry(&*self.device).size;
        if room >= size {
            return Ok(());
        }
        // Nothing was written: no reason to leave a note.
        let _ = fs::remove_file(Note::path_of(&self.path));
        let what = format!("{} has {room} bytes, the image {size}", self.path.display());
        Err(Problem::new(Code::NoSpace, what).fix("choose a larger device, or a file"))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn device(&self) -> &FileDevice {
        &self.device
    }

    /// The note found there, when this restore goes on with an earlier one.
    pub(super) const fn resumed(&self) -> Option<Note> {
        self.resumed
    }

    /// Nothing but this restore ever wrote there: what is zero needs no writing.
    pub(super) const fn is_zero_already(&self) -> bool {
        !self.is_block_device
    }

    pub(super) fn write_note(&self, note: Note) -> Result<(), Problem> {
        note.write(&self.path).map_err(|e| io_problem(&self.path, &e))
    }

    /// The target is whole and durable.
    pub(super) fn finish(&self) -> Result<(), Problem> {
        fs::remove_file(Note::path_of(&self.path)).map_err(|e| io_problem(&self.path, &e))
    }
}

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Nothing,
    File { size: u64 },
    Device,
}

fn look(path: &Path) -> Result<Kind, Problem> {
    match fs::metadata(path) {
        Ok(meta) if meta.is_file() => Ok(Kind::File { size: meta.len() }),
        Ok(meta) if meta.file_type().is_block_device() => Ok(Kind::Device),
        Ok(_) => {
            Err(Problem::new(Code::Conflict, format!("{} is no file and no block device", path.display()))
                .fix("name a file that does not exist yet, an empty one, or a block device"))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Kind::Nothing),
        Err(e) => Err(io_problem(path, &e)),
    }
}

impl Kind {
    /// Can it be what this note is about? The file may have been removed and the note left.
    fn fits(self, note: &Note) -> bool {
        match self {
            Self::Nothing => false,
            Self::File { size } => size == note.size,
            Self::Device => true,
        }
    }

    fn check_empty(self, path: &Path) -> Result<(), Problem> {
        let empty = match self {
            Self::Nothing => true,
            Self::File { size } => size == 0,
            Self::Device => begins_with_zeroes(path).map_err(|e| io_problem(path, &e))?,
        };
        if empty {
            return Ok(());
        }
        let what = format!("{} has content, and no restore of this moment was begun there", path.display());
        Err(Problem::new(Code::Conflict, what)
            .because("a restore never overwrites what it did not write itself")
            .fix("choose another path, or remove the file (wipe the start of the device) first"))
    }
}

fn begins_with_zeroes(path: &Path) -> io::Result<bool> {
    let mut start = vec![0; LOOKED_AT];
    let n = File::open(path)?.read_at(&mut start, 0)?;
    Ok(start.get(..n).is_some_and(is_zero))
}

/// Opens and locks it, making it if need be.
fn take(path: &Path, kind: &Kind) -> Result<File, Problem> {
    let failed = |e: io::Error| io_problem(path, &e);
    if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty() && !d.exists()) {
        let what = format!("cannot restore to {}: there is no directory {}", path.display(), dir.display());
        return Err(Problem::new(Code::Invalid, what).fix("make it first, or choose another path"));
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    match kind {
        Kind::Nothing => options.create_new(true),
        Kind::File { .. } => &mut options,
        Kind::Device => options.custom_flags(EXCLUSIVE),
    };
    let file = options.open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(in_use(path)),
        Err(fs::TryLockError::Error(e)) => Err(failed(e)),
    }
}

impl Forbidden {
    /// Compares files, not names: links do not hide a disk.
    fn check(&self, path: &Path) -> Result<(), Problem> {
        let identity = |p: &Path| fs::metadata(p).ok().map(|m| (m.dev(), m.ino(), m.rdev()));
        let same =
            |a: (u64, u64, u64), b: (u64, u64, u64)| (a.0, a.1) == (b.0, b.1) || (a.2 != 0 && a.2 == b.2);
        let wanted = identity(path);
        let taken = |p: &&PathBuf| identity(p).zip(wanted).is_some_and(|(a, b)| same(a, b));
        if let Some(disk) = self.files.iter().find(taken) {
            let what = format!("{} is a protected disk ({})", path.display(), disk.display());
            return Err(Problem::new(Code::Conflict, what)
                .fix("restore to another path; to roll the disk back, stop its tap and copy from there"));
        }
        let inside = |dir: &Path| dir.canonicalize().ok().zip(self.data.canonicalize().ok());
        let within = path.parent().and_then(inside).is_some_and(|(dir, data)| dir.starts_with(data));
        if within && !self.data.as_os_str().is_empty() {
            let what = format!("{} lies in the gateway's own directory", path.display());
            return Err(Problem::new(Code::Conflict, what).fix("choose a path elsewhere"));
        }
        Ok(())
    }
}

fn in_use(path: &Path) -> Problem {
    Problem::new(Code::Conflict, format!("{} is locked by another program", path.display()))
        .because("another restore, or a virtual machine, has it open")
        .fix("end that first, or choose another path")
}

fn unfinished(path: &Path, other: &Note) -> Problem {
    let what = format!("{} holds an unfinished restore of another moment", path.display());
    Problem::new(Code::Conflict, what)
        .because(format!("its note says {} at lsn:{}", other.volume, other.lsn.get()))
        .fix(format!("choose another path, or remove it and {} first", Note::path_of(path).display()))
}

fn unreadable_note(path: &Path, error: &io::Error) -> Problem {
    let note = Note::path_of(path);
    Problem::new(Code::Conflict, format!("{} cannot be read: {error}", note.display()))
        .fix("if it is not yours, remove it; or choose another path")
}

fn io_problem(path: &Path, error: &io::Error) -> Problem {
    let what = format!("cannot restore to {}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Problem::new(Code::NoSpace, what).fix("make room, or choose another path")
        }
        io::ErrorKind::ResourceBusy => {
            Problem::new(Code::Conflict, what).because("it is mounted or in use").fix("unmount it first")
        }
        io::ErrorKind::PermissionDenied
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::ReadOnlyFilesystem => {
            Problem::new(Code::Invalid, what).fix("choose a path the gateway may write to")
        }
        _ => Problem::new(Code::Internal, what).fix("see the gateway's log"),
    }
}
