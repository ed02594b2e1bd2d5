//! Foreign programs with a time limit.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::poll;

/// The limit of a program that has no reason to take long.
pub const LIMIT: Duration = Duration::from_secs(120);

/// How a program ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// What was run.
    pub command: String,
    /// The exit code; -1 for a signal.
    pub code: i32,
    /// All of its standard output.
    pub stdout: Vec<u8>,
    /// All of its standard error.
    pub stderr: String,
}

impl Finished {
    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Itself, when the program succeeded.
    ///
    /// # Errors
    /// With everything it printed, when it did not.
    pub fn ok(self) -> Result<Self> {
        ensure!(self.code == 0, "{} ended with {}:\n{}{}", self.command, self.code, self.text(), self.stderr);
        Ok(self)
    }
}

/// Runs a command to its end, at most for `limit`.
///
/// # Errors
/// When it cannot be started or has to be killed; not when it fails.
pub fn run(command: &mut Command, limit: Duration) -> Result<Finished> {
    let words = format!("{command:?}");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {words}"))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let status = poll::until(&words, limit, || Ok(child.try_wait()?));
    if status.is_err() {
        end(&mut child);
    }
    let (stdout, stderr) = (join(stdout), String::from_utf8_lossy(&join(stderr)).into_owned());
    match status {
        Ok(status) => Ok(Finished { command: words, code: status.code().unwrap_or(-1), stdout, stderr }),
        Err(error) => bail!("{error:#}; it had printed:\n{}{stderr}", String::from_utf8_lossy(&stdout)),
    }
}

/// Runs a stock program with these arguments and expects success.
///
/// # Errors
/// When it fails, with everything it printed.
pub fn tool<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> Result<Finished> {
    let path = find(program).with_context(|| format!("{program} is not installed"))?;
    run(Command::new(path).args(arguments), LIMIT)?.ok()
}

/// Where a program is, also among the system's own.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|f| f.join(program)).find(|p| p.is_file())
}

/// The programs among these that are not there.
#[must_use]
pub fn missing(programs: &[&str]) -> Option<String> {
    let missing: Vec<&str> = programs.iter().copied().filter(|p| find(p).is_none()).collect();
    (!missing.is_empty())
        .then(|| format!("{} not installed (cargo xtask test installs it)", missing.join(", ")))
}

/// Can QEMU's programs be iSCSI initiators? Debian keeps that driver in a package of its own, qemu-block-extra, which is
/// not there for every QEMU that is, nor always of the same version. Says so where it is missing.
///
/// # Errors
/// When `qemu-img` cannot be started.
pub fn qemu_has_iscsi() -> Result<bool> {
    // Nobody listens there: a QEMU that speaks iSCSI says that it could not connect, any other that it does not know how to.
    let said = run(Command::new("qemu-img").args(["info", "iscsi://127.0.0.1:1/none/0"]), LIMIT)?;
    let has = said.stderr.contains("iSCSI: Failed to connect");
    if !has {
        eprintln!(
            "SKIPPED: QEMU's iSCSI lines, for want of its driver (qemu-block-extra): {}",
            said.stderr.trim()
        );
    }
    Ok(has)
}

/// The newest PostgreSQL's programs.
#[must_use]
pub fn postgres() -> Option<PathBuf> {
    let versions = std::fs::read_dir(Path::new("/usr/lib/postgresql")).ok()?;
    let found =
        versions.filter_map(|v| Some(v.ok()?.path().join("bin"))).filter(|b| b.join("pg_ctl").is_file());
    found.max()
}

/// May we mount?
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Ends a child for good.
pub fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn collect(from: Option<impl Read + Send + 'static>) -> Option<JoinHandle<Vec<u8>>> {
    let mut from = from?;
    Some(std::thread::spawn(move || {
        let mut all = Vec::new();
        let _ = from.read_to_end(&mut all);
        all
    }))
}

fn join(thread: Option<JoinHandle<Vec<u8>>>) -> Vec<u8> {
    thread.and_then(|t| t.join().ok()).unwrap_or_default()
}
