//! A folder with protected disks, and the programs that protect them.

use std::collections::BTreeSet;
use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use testbed_model::Random;

use crate::command::{self, Finished};
use crate::volume::{VolumeState, number, text};
use crate::{nbd, poll};

const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(20);
const VERB: Duration = Duration::from_secs(150);

/// A folder of its own for one test; gone when the test ends well.
pub struct Lab {
    folder: Option<tempfile::TempDir>,
    root: PathBuf,
    api: u16,
    nbd: u16,
}

/// Runs `body` in a lab of its own. When it fails the folder stays, and the end of the program's log is shown.
///
/// # Errors
/// Those of `body`.
pub fn scenario(body: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    let mut lab = Lab::new()?;
    let result = body(&lab);
    if result.is_err() {
        lab.keep();
    }
    result
}

impl Lab {
    /// An empty one.
    ///
    /// # Errors
    /// When no folder or port is to be had.
    pub fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("chronogate-e2e-").tempdir()?;
        let root = folder.path().to_owned();
        Ok(Self { folder: Some(folder), root, api: free_port()?, nbd: free_port()? })
    }

    /// A path in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Makes a disk of `size` bytes whose content the seed decides, about half of it holes.
    ///
    /// # Errors
    /// Of the file system.
    pub fn disk(&self, name: &str, size: usize, seed: u64) -> Result<PathBuf> {
        let mut content = vec![0; size];
        let mut random = Random::new(seed);
        for piece in content.chunks_mut(128 << 10) {
            if random.one_in(2) {
                random.fill(piece);
            }
        }
        let path = self.path(name);
        write_sparse(&path, &content)?;
        Ok(path)
    }

    /// Makes a disk of `size` bytes that is one hole.
    ///
    /// # Errors
    /// Of the file system.
    pub fn empty_disk(&self, name: &str, size: u64) -> Result<PathBuf> {
        let path = self.path(name);
        fs::File::create(&path)?.set_len(size)?;
        Ok(path)
    }

    /// Starts `chronogate up` for these disks and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready, with its log.
    pub fn up(&self, disks: &[(&str, &Path)]) -> Result<Up> {
        self.launch("up", self.command(disks, &self.path("data"))?)
    }

    /// The same with more arguments.
    ///
    /// # Errors
    /// As [`Lab::up`].
    pub fn up_with(&self, disks: &[(&str, &Path)], arguments: &[&str]) -> Result<Up> {
        let mut command = self.command(disks, &self.path("data"))?;
        command.args(arguments);
        self.launch("up", command)
    }

    /// The program with this as its first word, to be run as one likes.
    ///
    /// # Errors
    /// When it was not built.
    pub fn program(&self, word: &str) -> Result<Command> {
        let mut command = Command::new(program()?);
        command.arg(word);
        Ok(command)
    }

    /// The same under `strace`, which kills all of it when a thread of it makes the system call `call` for the `no`-th time.
    /// `None`: it was killed before it was ready.
    ///
    /// # Errors
    /// When it ends in any other way.
    pub fn up_killed_at(&self, disks: &[(&str, &Path)], call: &str, no: u32) -> Result<Option<Up>> {
        let strace = command::find("strace").context("strace is not installed")?;
        let plain = self.command(disks, &self.path("data"))?;
        let mut command = Command::new(strace);
        command.args(["-f", "-qqq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
        command.args(["-e", &format!("inject={call}:signal=KILL:when={no}")]);
        command.arg(plain.get_program()).args(plain.get_args());
        match self.launch("up", command) {
            Ok(up) => Ok(Some(up)),
            Err(error) if format!("{error:#}").contains("signal: 9") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Starts the gateway alone; `link` is the port where CXs reach it.
    ///
    /// # Errors
    /// As [`Lab::up`].
    pub fn gateway_alone(&self, link: u16) -> Result<Up> {
        let mut command = Command::new(program()?);
        command.arg("gateway").arg("--data").arg(self.path("data/gateway-alone"));
        command.arg("--listen").arg(local(link));
        self.launch("gateway", self.image_listeners(command))
    }

    /// Starts the CX alone, between taps at port `listen` and the gateways at these ports.
    ///
    /// # Errors
    /// As [`Lab::up`].
    pub fn cx_alone(&self, listen: u16, gateways: &[u16]) -> Result<Up> {
        let mut command = Command::new(program()?);
        command.arg("cx").arg("--data").arg(self.path("data/cx-alone"));
        command.arg("--listen").arg(local(listen));
        for (no, gateway) in gateways.iter().enumerate() {
            command.arg("--gateway").arg(format!("gateway-{no}={}", local(*gateway)));
        }
        self.launch("cx", command)
    }

    /// Starts the tap alone, for these disks and the CX at port `cx`.
    ///
    /// # Errors
    /// As [`Lab::up`].
    pub fn tap_alone(&self, disks: &[(&str, &Path)], cx: u16) -> Result<Up> {
        self.tap_alone_with(disks, cx, &[])
    }

    /// The same with more arguments.
    ///
    /// # Errors
    /// As [`Lab::up`].
    pub fn tap_alone_with(&self, disks: &[(&str, &Path)], cx: u16, arguments: &[&str]) -> Result<Up> {
        let mut command = Command::new(program()?);
        command.arg("tap").arg("--data").arg(self.path("data/tap-alone")).arg("--cx").arg(local(cx));
        command.args(arguments);
        self.launch("tap", self.protected(command, disks))
    }

    /// Starts `chronogate up` and waits for its end: for starts that must be refused.
    ///
    /// # Errors
    /// When it does not end.
    pub fn up_refused(&self, disks: &[(&str, &Path)], data: &Path) -> Result<Finished> {
        command::run(&mut self.command(disks, data)?, START)
    }

    /// Runs a verb with `-o json` and returns what it printed.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn verb(&self, words: &[&str]) -> Result<Value> {
        let done = self.verb_raw(words)?.ok()?;
        serde_json::from_slice(&done.stdout)
            .with_context(|| format!("{words:?} printed no JSON: {}", done.text()))
    }

    /// Runs a verb with `-o json`, whatever comes of it.
    ///
    /// # Errors
    /// When it cannot be run or does not end.
    pub fn verb_raw(&self, words: &[&str]) -> Result<Finished> {
        let mut command = Command::new(program()?);
        command.args(words).args(["-o", "json"]).env("CHRONOGATE_API", self.api_url());
        command::run(&mut command, VERB)
    }

    /// Where the verbs go.
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.api)
    }

    /// The port of the gateway's NBD server.
    #[must_use]
    pub const fn nbd_port(&self) -> u16 {
        self.nbd
    }

    /// The port of the HTTP API.
    #[must_use]
    pub const fn api_port(&self) -> u16 {
        self.api
    }

    /// An export of the gateway.
    #[must_use]
    pub fn gateway(&self, export: &str) -> String {
        format!("nbd+unix:///{}?socket={}", nbd::encode(export), self.path("gw.sock").display())
    }

    /// The tap's export of a volume.
    #[must_use]
    pub fn tap(&self, volume: &str) -> String {
        format!("nbd+unix:///{volume}?socket={}", self.path("tap.sock").display())
    }

    /// `volume show`.
    ///
    /// # Errors
    /// When the verb fails or a field is missing.
    pub fn volume(&self, name: &str) -> Result<VolumeState> {
        VolumeState::read(&self.verb(&["volume", "show", name])?)
    }

    /// Waits until everything written to the volume is kept and no copy is under way.
    ///
    /// # Errors
    /// When that takes longer than two minutes.
    pub fn settle(&self, name: &str) -> Result<VolumeState> {
        let mut last = None;
        let settled = poll::until(&format!("{name} being settled"), command::LIMIT, || {
            let state = self.volume(name)?;
            last = Some(state.clone());
            Ok(state.settled().then_some(state))
        });
        settled.with_context(|| format!("its last state: {last:?}"))
    }

    /// Makes a bookmark; returns its LSN.
    ///
    /// # Errors
    /// When the verb fails.
    pub fn bookmark(&self, volume: &str, name: &str) -> Result<u64> {
        number(&self.verb(&["bookmark", "create", volume, name])?, "lsn")
    }

    /// Opens `NAME@POINT` by the verb; returns the NBD URI.
    ///
    /// # Errors
    /// When the verb fails.
    pub fn mount(&self, point: &str, writable: bool) -> Result<String> {
        let mut words = vec!["mount", point];
        words.extend(writable.then_some("--rw"));
        text(&self.verb(&words)?, "uri")
    }

    /// All of an export's content.
    ///
    /// # Errors
    /// When it cannot be opened or read.
    pub fn content(&self, uri: &str) -> Result<Vec<u8>> {
        nbd::Client::connect(uri)?.read_all().with_context(|| format!("reading {uri}"))
    }

    /// The disk as history shows it once everything is kept. Opened by its LSN: the bare name would stay at
    /// the moment it meant when this client first opened it.
    ///
    /// # Errors
    /// When it does not settle or cannot be read.
    pub fn head(&self, volume: &str) -> Result<Vec<u8>> {
        let durable = self.settle(volume)?.durable;
        self.content(&self.gateway(&format!("{volume}@lsn:{durable}")))
    }

    /// Checks the gateway's store offline with `jverify`; the program must be stopped.
    ///
    /// # Errors
    /// When there is no `jverify` beside the program, or no store.
    pub fn jverify(&self) -> Result<Finished> {
        let tool = program()?.with_file_name("jverify");
        ensure!(tool.is_file(), "there is no {}: `cargo build --workspace --bins`", tool.display());
        let folders = self.folders("seg")?;
        let stores = folders.iter().filter_map(|f| f.parent()).find(|p| p.join("MARK").exists());
        command::run(Command::new(tool).arg(stores.context("no store in the data directory")?), VERB)
    }

    /// The log of the program.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.path("up.log")
    }

    /// Folders named `name` below the data directory.
    ///
    /// # Errors
    /// Of the file system.
    pub fn folders(&self, name: &str) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let mut todo = vec![self.path("data")];
        while let Some(folder) = todo.pop() {
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                if path.is_dir() {
                    let hit = path.file_name().is_some_and(|f| f == name);
                    if hit { &mut found } else { &mut todo }.push(path);
                }
            }
        }
        Ok(found)
    }

    /// The segment files of the gateway's store that hold something, by name.
    ///
    /// # Errors
    /// Of the file system, and when there are none.
    pub fn segments(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for folder in self.folders("seg")? {
            for entry in fs::read_dir(folder)? {
                let path = entry?.path();
                let mut head = [0; 4096];
                fs::File::open(&path)?.read_at(&mut head, 0)?;
                if path.extension().is_some_and(|e| e == "seg") && head.iter().any(|&b| b != 0) {
                    found.push(path);
                }
            }
        }
        found.sort();
        ensure!(!found.is_empty(), "there are no segment files in {}", self.path("data").display());
        Ok(found)
    }

    /// Leaves the folder for people to look into.
    fn keep(&mut self) {
        if let Some(kept) = self.folder.take().map(tempfile::TempDir::keep) {
            eprintln!("kept {}; the end of its log:\n{}", kept.display(), tail(&self.log()));
        }
    }

    /// Starts a program of ours and waits for its ready file.
    fn launch(&self, name: &str, mut command: Command) -> Result<Up> {
        let ready = self.path(&format!("{name}.json"));
        let _ = fs::remove_file(&ready);
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log())?;
        command.arg("--ready-file").arg(&ready);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut child = command.spawn().context("cannot start chronogate")?;
        let waited = poll::until(&format!("chronogate {name} becoming ready"), START, || {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(Err(format!("chronogate {name} ended with {status}"))));
            }
            match fs::read(&ready) {
                Ok(bytes) => Ok(Some(Ok(serde_json::from_slice(&bytes).context("the ready file")?))),
                Err(_) => Ok(None),
            }
        });
        match waited.and_then(|ready| ready.map_err(anyhow::Error::msg)) {
            Ok(ready) => Ok(Up { child, ready, log: self.log(), running: true }),
            Err(error) => {
                command::end(&mut child);
                bail!("{error:#}; its log:\n{}", tail(&self.log()))
            }
        }
    }

    fn command(&self, disks: &[(&str, &Path)], data: &Path) -> Result<Command> {
        let mut command = Command::new(program()?);
        command.arg("up").arg("--data").arg(data);
        Ok(self.image_listeners(self.protected(command, disks)))
    }

    fn protected(&self, mut command: Command, disks: &[(&str, &Path)]) -> Command {
        for (name, path) in disks {
            command.arg("--protect").arg(format!("{name}={}", path.display()));
        }
        command.arg("--tap-nbd").arg(format!("unix:{}", self.path("tap.sock").display()));
        command
    }

    fn image_listeners(&self, mut command: Command) -> Command {
        command.arg("--nbd").arg(format!("unix:{}", self.path("gw.sock").display()));
        command.arg("--nbd").arg(local(self.nbd)).arg("--api").arg(local(self.api));
        command
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() || std::env::var_os("CHRONOGATE_E2E_KEEP").is_some() {
            let kept = self.folder.take().map(tempfile::TempDir::keep);
            eprintln!(
                "kept {}; the end of its log:\n{}",
                kept.unwrap_or_default().display(),
                tail(&self.log())
            );
        }
    }
}

fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// A running program of ours. Dropping it kills it.
pub struct Up {
    child: Child,
    ready: Value,
    log: PathBuf,
    running: bool,
}

impl Up {
    /// What the ready file said.
    #[must_use]
    pub const fn ready(&self) -> &Value {
        &self.ready
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has it been killed by a signal, as by the `strace` it runs under?
    ///
    /// # Errors
    /// When it has ended by itself.
    pub fn is_killed(&mut self) -> Result<bool> {
        let Some(status) = self.child.try_wait()? else { return Ok(false) };
        self.running = false;
        ensure!(status.signal().is_some(), "it ended with {status}: {}", tail(&self.log));
        Ok(true)
    }

    /// Kills the program that runs under `strace`, which ends with it.
    ///
    /// # Errors
    /// When that is not possible.
    pub fn kill_traced(mut self) -> Result<()> {
        let pid = self.ready.get("pid").and_then(Value::as_i64).and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.and_then(Pid::from_raw).context("the ready file names no pid")?;
        kill_process(pid, Signal::KILL)?;
        self.child.wait()?;
        self.running = false;
        Ok(())
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// When there was nothing to kill any more.
    pub fn kill(mut self) -> Result<()> {
        self.still_running()?;
        self.running = false;
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and the promised end within 20 s.
    ///
    /// # Errors
    /// When it does not end in time or not with success.
    pub fn stop(mut self) -> Result<()> {
        self.still_running()?;
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM)?;
        let status = poll::until("the end after SIGTERM", STOP, || Ok(self.child.try_wait()?))?;
        self.running = false;
        ensure!(status.success(), "after SIGTERM it ended with {status}:\n{}", tail(&self.log));
        Ok(())
    }

    /// An error when it has ended by itself.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn still_running(&mut self) -> Result<()> {
        ensure_running(&mut self.child).with_context(|| tail(&self.log))
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if self.running {
            command::end(&mut self.child);
        }
    }
}

fn ensure_running(child: &mut Child) -> Result<()> {
    match child.try_wait()? {
        None => Ok(()),
        Some(status) => bail!("chronogate up ended by itself with {status}"),
    }
}

/// The program under test: CHRONOGATE_BIN, else the one that lies beside our own build.
///
/// # Errors
/// When there is none.
pub fn program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CHRONOGATE_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?; // …/target/PROFILE/deps/NAME-HASH
    let beside = own.ancestors().nth(2).map(|folder| folder.join("chronogate"));
    match beside.filter(|b| b.is_file()) {
        Some(path) => Ok(path),
        None => bail!("there is no chronogate to test: `cargo build` first, or name it in CHRONOGATE_BIN"),
    }
}

/// The last lines of a log.
#[must_use]
pub fn tail(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(40)..).unwrap_or_default().join("\n")
}

/// A file that is a hole wherever `content` is zero.
fn write_sparse(path: &Path, content: &[u8]) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let file = fs::File::create(path)?;
    file.set_len(u64::try_from(content.len())?)?;
    let mut offset = 0;
    for piece in content.chunks(64 << 10) {
        if piece.iter().any(|&b| b != 0) {
            file.write_all_at(piece, offset)?;
        }
        offset += u64::try_from(piece.len())?;
    }
    Ok(())
}

/// A port that was free a moment ago, and that no other test of this process is given. From below the range that
/// the system hands out by itself, so that it stays free while the program is down.
///
/// # Errors
/// When none is found.
pub fn free_port() -> Result<u16> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut random = Random::new(RandomState::new().build_hasher().finish());
    for _ in 0..200 {
        let port = 20_000 + u16::try_from(random.below(10_000))?;
        if !given.contains(&port) && std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            given.insert(port);
            return Ok(port);
        }
    }
    bail!("no free TCP port found")
}
