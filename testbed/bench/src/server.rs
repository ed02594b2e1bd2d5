//! Servers as processes: started, awaited, and ended by their number.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Signal, kill_process};

use crate::nbd::Export;
use crate::process::Pid;
use crate::socket::Socket;

const START: Duration = Duration::from_secs(30);
/// Lines of a log shown from either end.
const SHOWN: usize = 25;
const STOP: Duration = Duration::from_secs(20);

/// A running server. Ended when it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    process: Process,
    command: String,
    log: PathBuf,
}

#[derive(Debug)]
enum Process {
    Child(Child),
    /// One that went into the background by itself.
    Daemon(Pid),
}

/// A peer that serves a raw file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// `nbdkit file`.
    Nbdkit,
    /// `qemu-nbd` with `io_uring`, its fastest.
    QemuNbd,
    /// `nbd-server`, which has a process for each connection.
    NbdServer,
    /// `nbdkit null`: no disk at all, what the protocol itself costs. Its disk has the file's size.
    Ceiling,
    /// `qemu-nbd` on a qcow2 overlay over the file, made afresh.
    QemuOverlay,
}

impl Server {
    /// Starts `command`; what it prints goes to `log`.
    pub(crate) fn start(command: &mut Command, log: PathBuf) -> Result<Self> {
        let words = words(command);
        let out = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let child = command.spawn().with_context(|| format!("cannot start {words}"))?;
        Ok(Self { process: Process::Child(child), command: words, log })
    }

    /// The same of a command that leaves a process in the background and its number in `pid_file`.
    fn start_daemon(command: &mut Command, log: PathBuf, pid_file: &Path) -> Result<Self> {
        let mut server = Self::start(command, log)?;
        if let Process::Child(child) = &mut server.process {
            let status = child.wait()?;
            ensure!(status.success(), "{} ended with {status}:\n{}", server.command, server.said());
        }
        let number = || std::fs::read_to_string(pid_file).ok()?.trim().parse().ok();
        let begun = Instant::now();
        while begun.elapsed() < START {
            if let Some(number) = number() {
                server.process = Process::Daemon(Pid(number));
                return Ok(server);
            }
            pause(Duration::from_millis(5));
        }
        bail!("{} left no number of its process in {}", server.command, pid_file.display())
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Pid {
        match &self.process {
            Process::Child(child) => Pid(child.id()),
            Process::Daemon(pid) => *pid,
        }
    }

    /// How it ended, if it has.
    fn ended(&mut self) -> Result<Option<String>> {
        match &mut self.process {
            Process::Child(child) => Ok(child.try_wait()?.map(|status| status.to_string())),
            Process::Daemon(pid) => Ok(pid.cpu().err().map(|_| "nobody to see how".to_owned())),
        }
    }

    fn signal(&self, signal: Signal) {
        let number = i32::try_from(self.pid().0).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(number) = number {
            let _ = kill_process(number, signal);
        }
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
            if let Some(status) = self.ended()? {
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
        self.signal(Signal::TERM);
        let begun = Instant::now();
        while begun.elapsed() < STOP {
            if matches!(self.ended(), Ok(Some(_)) | Err(_)) {
                return;
            }
            pause(Duration::from_millis(10));
        }
        eprintln!("{} did not end within {} s and is killed", self.command, STOP.as_secs());
        self.signal(Signal::KILL);
        if let Process::Child(child) = &mut self.process {
            let _ = child.wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.ended(), Ok(None)) {
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
            Self::NbdServer => "nbd-server",
            Self::Ceiling => "nbdkit null",
            Self::QemuOverlay => "qemu-nbd qcow2",
        }
    }

    /// Serves `file` on a socket in `folder`.
    pub(crate) fn serve(self, file: &Path, folder: &Path) -> Result<(Server, Export)> {
        let name = self.name().replace(' ', "-");
        let socket = folder.join(format!("{name}.sock"));
        let mut command = match self {
            Self::Nbdkit => nbdkit(&socket, &[Path::new("file"), file]),
            Self::Ceiling => {
                let size = std::fs::metadata(file)?.len().to_string();
                nbdkit(&socket, &[Path::new("null"), Path::new(&size)])
            }
            Self::QemuNbd => qemu_nbd(&socket, "raw", file),
            Self::QemuOverlay => qemu_nbd(&socket, "qcow2", &qcow2_over(file, folder)?),
            Self::NbdServer => nbd_server(&socket, file, folder)?,
        };
        let log = folder.join(format!("{name}.log"));
        let started = match self {
            Self::NbdServer => Server::start_daemon(&mut command, log, &pid_file(folder)),
            _ => Server::start(&mut command, log),
        };
        let mut server = started.context("install it: apt-get install nbdkit qemu-utils nbd-server")?;
        server.wait_listening(&socket)?;
        let export = if self == Self::NbdServer { "disk" } else { "" };
        Ok((server, Export { socket: Socket::Unix(socket), name: export.to_owned() }))
    }
}

fn nbdkit(socket: &Path, plugin: &[&Path]) -> Command {
    let mut command = Command::new("nbdkit");
    command.arg("-f").arg("-U").arg(socket).args(plugin);
    command
}

fn qemu_nbd(socket: &Path, format: &str, file: &Path) -> Command {
    let mut command = Command::new("qemu-nbd");
    command.args(["-t", "-e", "64", "-f", format, "--aio=io_uring", "--cache=writeback", "-x", ""]);
    command.arg("-k").arg(socket).arg(file);
    command
}

/// It listens on TCP or on a Unix socket; which is decided in a file.
fn nbd_server(socket: &Path, file: &Path, folder: &Path) -> Result<Command> {
    let config = folder.join("nbd-server.conf");
    let text = format!(
        "[generic]\nunixsock={}\nallowlist=true\n[disk]\nexportname={}\nflush=true\nfua=true\n",
        socket.display(),
        file.display()
    );
    std::fs::write(&config, text)?;
    let mut command = Command::new("nbd-server");
    command.arg("-C").arg(config).arg("-p").arg(pid_file(folder));
    Ok(command)
}

fn pid_file(folder: &Path) -> PathBuf {
    folder.join("nbd-server.pid")
}

fn qcow2_over(file: &Path, folder: &Path) -> Result<PathBuf> {
    let overlay = folder.join("overlay.qcow2");
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).arg(file).arg(&overlay);
    let status = command.status().context("cannot run qemu-img")?;
    ensure!(status.success(), "{} ended with {status}", words(&command));
    Ok(overlay)
}

/// Waits for something in another process: there is no event to wait on.
pub(crate) fn pause(time: Duration) {
    let end = Instant::now() + time;
    while let Some(rest) = end.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero()) {
        std::thread::park_timeout(rest);
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
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
