//! Servers as processes on unix sockets: started, awaited, and ended by their number.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Signal, kill_process};

use crate::nbd::Export;
use crate::process::Pid;

const START: Duration = Duration::from_secs(30);
/// Lines of a log shown from either end.
const SHOWN: usize = 25;
const STOP: Duration = Duration::from_secs(20);

/// A running server. Ended when it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    command: String,
    log: PathBuf,
}

/// A peer that serves a raw file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// `nbdkit file`.
    Nbdkit,
    /// `qemu-nbd` with `io_uring`, its fastest.
    QemuNbd,
}

impl Server {
    /// Starts `command`; what it prints goes to `log`.
    pub(crate) fn start(command: &mut Command, log: PathBuf) -> Result<Self> {
        let words = words(command);
        let out = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let child = command.spawn().with_context(|| format!("cannot start {words}"))?;
        Ok(Self { child, command: words, log })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Pid {
        Pid(self.child.id())
    }

    /// What it printed, the middle left out: how trouble began, and where it is now.
    pub(crate) fn said(&self) -> String {
        shorten(&self.log, SHOWN)
    }

    /// What was typed.
    pub(crate) fn command(&self) -> &str {
        &self.command
    }

    /// Asks `ready` until it has an answer.
    pub(crate) fn wait<T>(&mut self, mut ready: impl FnMut() -> Option<T>) -> Result<T> {
        let begun = Instant::now();
        loop {
            if let Some(answer) = ready() {
                return Ok(answer);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}:\n{}", self.command, self.said());
            }
            if begun.elapsed() > START {
                bail!("{} is not ready after {} s:\n{}", self.command, START.as_secs(), self.said());
            }
            pause(Duration::from_millis(5));
        }
    }

    /// Waits until somebody listens on `socket`.
    pub(crate) fn wait_listening(&mut self, socket: &Path) -> Result<()> {
        self.wait(|| UnixStream::connect(socket).ok()).map(drop)
    }

    /// Asks it to end, and ends it when it does not.
    pub(crate) fn stop(&mut self) {
        let _ = kill_process(rustix::process::Pid::from_child(&self.child), Signal::TERM);
        let begun = Instant::now();
        while begun.elapsed() < STOP {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            pause(Duration::from_millis(10));
        }
        eprintln!("{} did not end within {} s and is killed", self.command, STOP.as_secs());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.stop();
        }
    }
}

impl Peer {
    /// In a table.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nbdkit => "nbdkit file",
            Self::QemuNbd => "qemu-nbd",
        }
    }

    /// Serves `file` on a socket in `folder`.
    pub(crate) fn serve(self, file: &Path, folder: &Path) -> Result<(Server, Export)> {
        let (program, socket) = match self {
            Self::Nbdkit => ("nbdkit", folder.join("nbdkit.sock")),
            Self::QemuNbd => ("qemu-nbd", folder.join("qemu.sock")),
        };
        let mut command = Command::new(program);
        match self {
            Self::Nbdkit => command.arg("-f").arg("-U").arg(&socket).arg("file").arg(file),
            Self::QemuNbd => {
                command.args([
                    "-t",
                    "-e",
                    "64",
                    "-f",
                    "raw",
                    "--aio=io_uring",
                    "--cache=writeback",
                    "-x",
                    "",
                ]);
                command.arg("-k").arg(&socket).arg(file)
            }
        };
        let mut server = Server::start(&mut command, folder.join(format!("{program}.log")))
            .context("install it: apt-get install nbdkit qemu-utils")?;
        server.wait_listening(&socket)?;
        Ok((server, Export { socket, name: String::new() }))
    }
}

/// Waits for something in another process: there is no event to wait on.
pub(crate) fn pause(time: Duration) {
    let end = Instant::now() + time;
    while let Some(rest) = end.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero()) {
        std::thread::park_timeout(rest);
    }
}

/// A command as it would be typed.
pub(crate) fn words(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted = words.map(|w| match w.to_string_lossy() {
        plain if plain.is_empty() => "''".to_owned(),
        plain => plain.into_owned(),
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// The first and the last lines of a log.
fn shorten(log: &Path, shown: usize) -> String {
    let text = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() <= 2 * shown {
        return text;
    }
    let left_out = format!("... {} lines ...", lines.len() - 2 * shown);
    let (head, rest) = lines.split_at(shown);
    let (_, tail) = rest.split_at(rest.len() - shown);
    [head, &[left_out.as_str()], tail].concat().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_loses_its_middle() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        std::fs::write(&log, "a\nb\nc\nd\ne").unwrap();
        assert_eq!(shorten(&log, 1), "a\n... 3 lines ...\ne");
        assert_eq!(shorten(&log, 3), "a\nb\nc\nd\ne");
    }
}
