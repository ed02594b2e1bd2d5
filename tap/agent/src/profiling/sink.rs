//! Where the frames of a profile go: a file that grows up to a limit, or one reader at a time over a unix socket.

use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tap_block::WallTime;
use tap_block::units::count;
use tap_disk::{AppendFile, private_socket};

use super::ProfileTo;

/// A file takes this much; then the profile ends. Half a billion I/Os or so.
const FILE_LIMIT: u64 = 4 << 30;
/// How often a file is written to and synced, unless this much waits.
const KEEP_EACH: Duration = Duration::from_secs(5);
const KEEP_ABOVE: usize = 4 << 20;
/// A reader that takes nothing is asked again after this; meanwhile the queue fills and drops.
const READER_PATIENCE: Duration = Duration::from_millis(200);
/// A reader says nothing: this long it is listened to for its end.
const GLANCE: Duration = Duration::from_millis(1);

/// See the module.
pub(super) enum Sink {
    /// `fresh` until its first frame.
    File {
        file: AppendFile,
        path: PathBuf,
        written: u64,
        kept: WallTime,
        fresh: bool,
    },
    Unix {
        listener: UnixListener,
        path: PathBuf,
        reader: Option<UnixStream>,
    },
}

impl Sink {
    pub(super) fn open(to: &ProfileTo) -> io::Result<Self> {
        match to {
            ProfileTo::File(path) => {
                let file = AppendFile::open(path)?;
                let written = std::fs::metadata(path).map_or(0, |m| m.len());
                Ok(Self::File { file, path: path.clone(), written, kept: WallTime::EPOCH, fresh: true })
            }
            ProfileTo::Unix(path) => {
                let named = |e: io::Error| {
                    io::Error::new(e.kind(), format!("cannot listen on {}: {e}", path.display()))
                };
                let listener = listen(path).map_err(named)?;
                Ok(Self::Unix { listener, path: path.clone(), reader: None })
            }
        }
    }

    /// Does a reader begin here? With a file one does, once.
    pub(super) fn newcomer(&mut self) -> bool {
        match self {
            Self::File { fresh, .. } => std::mem::take(fresh),
            Self::Unix { listener, reader, .. } => {
                if reader.as_mut().is_some_and(has_gone) {
                    *reader = None;
                }
                let Ok((stream, _)) = listener.accept() else { return false };
                let ready = stream
                    .set_nonblocking(false)
                    .and_then(|()| stream.set_write_timeout(Some(READER_PATIENCE)))
                    .and_then(|()| stream.set_read_timeout(Some(GLANCE)));
                // A second one hears the end at once: two would each miss what the other got.
                if reader.is_some() || ready.is_err() {
                    return false;
                }
                *reader = Some(stream);
                true
            }
        }
    }

    /// Passes `out` on, or a part of it, taking away what is gone; everything when `last`. False when nobody takes any more.
    pub(super) fn write(
        &mut self,
        out: &mut Vec<u8>,
        now: WallTime,
        last: bool,
        ending: &AtomicBool,
    ) -> bool {
        match self {
            Self::File { file, path, written, kept, .. } => {
                let due = last || now.since(*kept) >= KEEP_EACH || out.len() >= KEEP_ABOVE;
                if !due || out.is_empty() {
                    return true;
                }
                *kept = now;
                *written += count(out.len());
                if *written > FILE_LIMIT {
                    tracing::warn!("{} has reached 4 GiB: the profile ends here", path.display());
                    return false;
                }
                let done = file.append(out);
                out.clear();
                done.inspect_err(|e| tracing::error!("the profile ends here: {e}")).is_ok()
            }
            Self::Unix { reader, .. } => {
                let taken = reader.as_mut().is_some_and(|reader| send(reader, out, ending));
                if !taken {
                    *reader = None;
                }
                taken
            }
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Self::Unix { path, .. } = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A socket that a dead process left is not in the way; only its owner may read the profile.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let stale = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket())
        && UnixStream::connect(path).is_err();
    if stale {
        std::fs::remove_file(path)?;
    }
    let listener = private_socket(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A reader that has closed is seen also when there is nothing to send.
fn has_gone(reader: &mut UnixStream) -> bool {
    matches!(reader.read(&mut [0]), Ok(0))
}

/// Waits for a slow reader, but not for one when the tap ends.
fn send(reader: &mut UnixStream, out: &mut Vec<u8>, ending: &AtomicBool) -> bool {
    let mut sent = 0;
    while let Some(rest) = out.get(sent..).filter(|rest| !rest.is_empty()) {
        match reader.write(rest) {
            Ok(0) => return false,
            Ok(n) => sent += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                if ending.load(Ordering::Acquire) {
                    return false;
                }
            }
            Err(_) => return false,
        }
    }
    out.clear();
    true
}
