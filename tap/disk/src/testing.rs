//! What this crate's tests share: disks that are really full, and completions one can wait for.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::ThreadId;
use std::time::Duration;

use tap_block::{Answer, Answered, BlockDevice, CompletionQueue, Op, Outcome, Ticket};

/// Longer than anything here takes, short enough to notice a hang.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A file system of a few bytes, mounted for one test.
pub(crate) struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    /// `None`, with a word on the terminal, for a user who may not mount.
    pub(crate) fn new(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={bytes}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self { dir });
        }
        eprintln!("not run: mounting a small file system needs root");
        None
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.dir.path()).status();
    }
}

/// Completions as they come, with the thread they came on.
pub(crate) struct Completions {
    queue: Arc<Queue>,
    arrived: mpsc::Receiver<(u64, Outcome, ThreadId)>,
}

struct Queue {
    sender: Mutex<mpsc::Sender<(u64, Outcome, ThreadId)>>,
}

impl CompletionQueue for Queue {
    fn complete(&self, tag: u64, answered: Answered) {
        let outcome = answered.map(Answer::into_bytes);
        let _ = self.sender.lock().unwrap().send((tag, outcome, std::thread::current().id()));
    }
}

impl Completions {
    pub(crate) fn new() -> Self {
        let (sender, arrived) = mpsc::channel();
        Self { queue: Arc::new(Queue { sender: Mutex::new(sender) }), arrived }
    }

    pub(crate) fn ticket(&self, tag: u64) -> Ticket {
        Ticket::new(tag, self.queue.clone())
    }

    pub(crate) fn submit(&self, device: &dyn BlockDevice, tag: u64, op: Op) {
        device.submit(op, self.ticket(tag));
    }

    pub(crate) fn next(&self) -> (u64, Outcome, ThreadId) {
        self.arrived.recv_timeout(SOON).unwrap()
    }

    /// What has arrived by now.
    pub(crate) fn at_once(&self) -> Option<(u64, Outcome, ThreadId)> {
        self.arrived.try_recv().ok()
    }
}
