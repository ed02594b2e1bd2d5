//! A real file system on an NBD export, without the kernel's NBD: nbdfuse, then a loop device, then mount.
//! Every layer is a value that takes itself down when dropped, last made first.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::command::{self, tool};
use crate::poll;

const APPEAR: Duration = Duration::from_secs(20);

/// What stands between this machine and a mounted file system; `None` when nothing does.
#[must_use]
pub fn obstacle() -> Option<String> {
    if !command::is_root() {
        return Some("mounting needs root".to_owned());
    }
    for device in ["/dev/fuse", "/dev/loop-control"] {
        if !Path::new(device).exists() {
            return Some(format!("there is no {device}"));
        }
    }
    command::missing(&[
        "nbdfuse",
        "fusermount3",
        "losetup",
        "mkfs.ext4",
        "mount",
        "umount",
        "fsfreeze",
        "e2fsck",
    ])
}

/// An NBD export as a file.
pub struct Fuse {
    file: PathBuf,
    child: Child,
}

impl Fuse {
    /// Shows `uri` as `file`; waits until it has its size.
    ///
    /// # Errors
    /// When it does not appear.
    pub fn new(uri: &str, file: &Path, read_only: bool) -> Result<Self> {
        fs::write(file, b"")?;
        let mut command = Command::new(command::find("nbdfuse").context("nbdfuse is not installed")?);
        command.args(read_only.then_some("-r")).arg(file).arg(uri).stdin(Stdio::null());
        let mut fuse = Self { file: file.to_owned(), child: command.spawn()? };
        poll::until(&format!("{uri} as a file"), APPEAR, || {
            ensure!(fuse.child.try_wait()?.is_none(), "nbdfuse ended");
            Ok((fs::metadata(&fuse.file)?.len() > 0).then_some(()))
        })?;
        Ok(fuse)
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        let _ = tool("fusermount3", ["-u".as_ref(), self.file.as_os_str()]);
        // nbdfuse ends by itself, after its last flush, when it is unmounted.
        if poll::until("the end of nbdfuse", APPEAR, || Ok(self.child.try_wait()?)).is_err() {
            command::end(&mut self.child);
        }
    }
}

/// A file as a block device.
pub struct Loop {
    device: String,
}

impl Loop {
    /// The next free loop device, on `file`.
    ///
    /// # Errors
    /// When there is none.
    pub fn new(file: &Path, read_only: bool) -> Result<Self> {
        let mut command = Command::new(command::find("losetup").context("losetup is not installed")?);
        command
            .args(["--find", "--show", "--direct-io=on"])
            .args(read_only.then_some("--read-only"))
            .arg(file);
        let device = command::run(&mut command, APPEAR)?.ok()?.text().trim().to_owned();
        Ok(Self { device })
    }

    /// `/dev/loopN`.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.device
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = tool("losetup", ["-d", &self.device]);
    }
}

/// A mounted file system. Fields drop in order: unmount, then loop, then nbdfuse.
pub struct Mounted {
    at: Unmount,
    device: Loop,
    _fuse: Fuse,
}

struct Unmount(PathBuf);

impl Mounted {
    /// Mounts the file system on `uri` at `folder` with these options.
    ///
    /// # Errors
    /// When any layer fails.
    pub fn new(uri: &str, folder: &Path, options: &str) -> Result<Self> {
        let read_only = options.split(',').any(|o| o == "ro");
        let fuse = Fuse::new(uri, &folder.with_extension("nbd"), read_only)?;
        let device = Loop::new(fuse.file(), read_only)?;
        Self::assemble(fuse, device, folder, options)
    }

    /// Makes an ext4 on `uri` first.
    ///
    /// # Errors
    /// When any layer fails.
    pub fn make(uri: &str, folder: &Path) -> Result<Self> {
        let fuse = Fuse::new(uri, &folder.with_extension("nbd"), false)?;
        let device = Loop::new(fuse.file(), false)?;
        tool("mkfs.ext4", ["-q", "-F", device.device()])?;
        Self::assemble(fuse, device, folder, "rw")
    }

    fn assemble(fuse: Fuse, device: Loop, folder: &Path, options: &str) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let arguments = ["-o", options, device.device()].map(Into::into);
        tool("mount", arguments.into_iter().chain([folder.as_os_str().to_owned()]))?;
        Ok(Self { at: Unmount(folder.to_owned()), device, _fuse: fuse })
    }

    /// A path on it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.at.0.join(name)
    }

    /// Its block device.
    #[must_use]
    pub fn device(&self) -> &str {
        self.device.device()
    }

    /// Everything written so far reaches the disk.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sync(&self) -> Result<()> {
        tool("sync", ["-f".as_ref(), self.at.0.as_os_str()]).map(drop)
    }

    /// Stops every writer, brings the file system to rest, and lets go again after `work`.
    ///
    /// # Errors
    /// Of the freeze or of `work`.
    pub fn frozen<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        tool("fsfreeze", ["-f".as_ref(), self.at.0.as_os_str()])?;
        let result = work();
        tool("fsfreeze", ["-u".as_ref(), self.at.0.as_os_str()])?;
        result
    }
}

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = tool("umount", [self.0.as_os_str()]);
    }
}
