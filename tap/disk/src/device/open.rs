//! Opening a file or block device: what it is, how large it is, what it can do.

use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use rustix::fs::{FsWord, SeekFrom};
use thiserror::Error;

use super::claim::Exclusive;
use super::flush::Flusher;
use super::{Disk, FileDevice, QUEUE_LIMIT};
use crate::lock::owner;
use crate::pool::Pool;

/// The file systems that punch holes, by magic number: ext2 to 4, XFS, Btrfs, tmpfs, F2FS, bcachefs, ZFS,
/// overlayfs. Should one of them refuse after all, a trim writes zeroes.
const PUNCHING: [FsWord; 8] =
    [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0xf2f5_2010, 0xca45_1a4e, 0x2fc1_2fc1, 0x794c_7630];

/// Those of them that make zeroes of what stays allocated, without writing: ext4, XFS, Btrfs, F2FS.
const ZEROING: [FsWord; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010];

/// How to open a file as a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileOptions {
    /// Refuse every write.
    pub read_only: bool,
    /// Threads for reads the page cache cannot answer, and for syncs; they start when needed.
    pub read_pool: usize,
}

/// Why a file cannot be a disk.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Nothing there.
    #[error("{} does not exist: check the path", path.display())]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// Not for us.
    #[error("no permission to open {}: run as a user who may, or open it read-only", path.display())]
    Denied {
        /// The path.
        path: PathBuf,
    },
    /// A directory, a socket, a terminal.
    #[error("{} is {kind}: give a regular file or a block device", path.display())]
    NotADisk {
        /// The path.
        path: PathBuf,
        /// What it is instead.
        kind: &'static str,
    },
    /// No bytes to serve.
    #[error("{} is empty: give the file its size first, for example with truncate -s 1G", path.display())]
    Empty {
        /// The path.
        path: PathBuf,
    },
    /// Somebody else has it.
    #[error(
        "{} is locked by {}, another tap or a restore: two that write to one disk would each miss the other's writes; \
         stop that one first, or name another disk",
        path.display(), owner(*pid)
    )]
    Claimed {
        /// The path.
        path: PathBuf,
        /// Who, as far as it is known.
        pid: Option<u32>,
    },
    /// A block device that is in use.
    #[error(
        "{path} is in use: it is mounted, part of a volume group or RAID, or another tap has it, and what is written to it \
         that way would be missed; end that first (`lsblk {path}` and `fuser -v {path}` say what it is), or name another disk",
        path = path.display()
    )]
    Busy {
        /// The path.
        path: PathBuf,
    },
    /// Anything else.
    #[error("cannot open {}: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
}

/// What a file is recognised by. If any of it differs after a restart, the disk changed while nobody
/// watched. A block device has no meaningful `ctime_ns`: for it, unchanged is never known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileIdentity {
    /// Bytes.
    pub size: u64,
    /// Inode number.
    pub inode: u64,
    /// The device the file lies on; of a block device, its own number.
    pub device: u64,
    /// Last change of content or inode, nanoseconds since the epoch.
    pub ctime_ns: i64,
    /// A block device rather than a file.
    pub is_block_device: bool,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self { read_only: false, read_pool: 8 }
    }
}

impl OpenError {
    /// Is the disk there, and somebody else's?
    #[must_use]
    pub const fn is_in_use(&self) -> bool {
        matches!(self, Self::Claimed { .. } | Self::Busy { .. })
    }
}

impl FileDevice {
    /// Opens the file or block device at `path`.
    ///
    /// # Errors
    /// When there is none, it may not be opened, or it cannot be a disk.
    pub fn open(path: &Path, options: FileOptions) -> Result<Arc<Self>, OpenError> {
        let file = open_file(path, options.read_only)?;
        let identity = FileIdentity::of(&file).map_err(|e| explain(path, e))?;
        if identity.size == 0 {
            return Err(OpenError::Empty { path: path.to_owned() });
        }
        let disk = Disk {
            trims: !options.read_only && trims(&file, &identity),
            zeroes_in_place: !options.read_only && zeroes_in_place(&file, &identity),
            file,
            path: path.to_owned(),
            read_only: options.read_only,
            size: AtomicU64::new(identity.size),
            is_block_device: identity.is_block_device,
            nowait: AtomicBool::new(true),
            shrunk: AtomicBool::new(false),
            flusher: Flusher::default(),
        };
        let pool = Pool::new("disk", options.read_pool, QUEUE_LIMIT);
        Ok(Arc::new(Self { disk: Arc::new(disk), pool, exclusive: Exclusive::default() }))
    }
}

impl FileIdentity {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        let is_block_device = meta.file_type().is_block_device();
        let size = if is_block_device { rustix::fs::seek(file, SeekFrom::End(0))? } else { meta.len() };
        Ok(Self {
            size,
            inode: meta.ino(),
            device: if is_block_device { meta.rdev() } else { meta.dev() },
            ctime_ns: ctime_ns(&meta),
            is_block_device,
        })
    }
}

fn ctime_ns(meta: &Metadata) -> i64 {
    meta.ctime().saturating_mul(1_000_000_000).saturating_add(meta.ctime_nsec())
}

fn open_file(path: &Path, read_only: bool) -> Result<File, OpenError> {
    let io = |e| explain(path, e);
    // Before opening, because opening a fifo waits for its other end and opening a tape rewinds it.
    refuse_others(path, fs::metadata(path).map_err(io)?.file_type())?;
    let file = OpenOptions::new().read(true).write(!read_only).open(path).map_err(io)?;
    refuse_others(path, file.metadata().map_err(io)?.file_type())?;
    Ok(file)
}

fn refuse_others(path: &Path, kind: FileType) -> Result<(), OpenError> {
    let kind = match kind {
        k if k.is_file() || k.is_block_device() => return Ok(()),
        k if k.is_dir() => "a directory",
        k if k.is_socket() => "a socket",
        k if k.is_fifo() => "a fifo",
        _ => "a character device",
    };
    Err(OpenError::NotADisk { path: path.to_owned(), kind })
}

fn explain(path: &Path, source: io::Error) -> OpenError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound => OpenError::Missing { path },
        io::ErrorKind::PermissionDenied => OpenError::Denied { path },
        io::ErrorKind::IsADirectory => OpenError::NotADisk { path, kind: "a directory" },
        _ => OpenError::Io { path, source },
    }
}

/// Can trimmed space be made zeroes cheaply? Decided once, so that a trim means the same every time, and
/// without trying it out: even a punch behind the end changes the file's ctime, by which the tap tells
/// whether somebody changed the disk.
fn trims(file: &File, identity: &FileIdentity) -> bool {
    if identity.is_block_device {
        return device_zeroes_cheaply(identity.device);
    }
    rustix::fs::fstatfs(file).is_ok_and(|stat| PUNCHING.contains(&stat.f_type))
}

fn zeroes_in_place(file: &File, identity: &FileIdentity) -> bool {
    if identity.is_block_device {
        return device_zeroes_cheaply(identity.device);
    }
    rustix::fs::fstatfs(file).is_ok_and(|stat| ZEROING.contains(&stat.f_type))
}

/// The kernel would write the zeroes itself otherwise, which is no trim.
fn device_zeroes_cheaply(device: u64) -> bool {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let device = format!("/sys/dev/block/{major}:{minor}");
    // A partition has no queue of its own; its disk's is one level up.
    ["queue", "../queue"].iter().any(|queue| {
        fs::read_to_string(format!("{device}/{queue}/write_zeroes_max_bytes"))
            .is_ok_and(|text| text.trim().parse::<u64>().is_ok_and(|max| max > 0))
    })
}
