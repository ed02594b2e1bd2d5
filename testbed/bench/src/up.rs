//! `chronogate up` as a process under measurement, and what it says of its volume.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::iscsi::Unit;
use crate::nbd::Export;
use crate::process::Pid;
use crate::server::{Server, free_address, pause, words};
use crate::socket::Socket;

const VOLUME: &str = "bench";
/// Between two looks at the volume: short against a round, long enough to cost nothing.
const LOOK: Duration = Duration::from_millis(5);
/// The longest that history may lag behind a round's writes.
const CATCH_UP: Duration = Duration::from_secs(120);

/// Tap, CX and gateway in one process, with one volume.
#[derive(Debug)]
pub(crate) struct Up {
    server: Server,
    folder: PathBuf,
    api: String,
    /// Over TCP.
    nbd: String,
    iscsi: String,
}

/// A tap alone: the CX that it is told of is not there.
#[derive(Debug)]
pub(crate) struct LoneTap {
    server: Server,
    socket: PathBuf,
}

/// A gateway alone, over data that lie there already.
#[derive(Debug)]
pub(crate) struct Gateway {
    server: Server,
    socket: PathBuf,
}

/// What `volume show -o json` says, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) state: String,
    pub(crate) head: Option<u64>,
    pub(crate) durable: u64,
    pub(crate) baselines: u64,
    pub(crate) gaps: usize,
}

impl Up {
    /// Protects `disk` and waits until the baseline is in history.
    pub(crate) fn start(disk: &Path, folder: &Path) -> Result<Self> {
        let (api, nbd, iscsi) = (free_address()?, free_address()?, free_address()?);
        let ready = folder.join("ready.json");
        let mut command = Command::new(program()?);
        command.arg("up").arg("--data").arg(folder.join("data"));
        command.arg("--protect").arg(format!("{VOLUME}={}", disk.display()));
        command.arg("--tap-nbd").arg(format!("unix:{}", folder.join("tap.sock").display()));
        command.arg("--nbd").arg(format!("unix:{}", folder.join("gateway.sock").display()));
        command.args(["--nbd", &nbd, "--iscsi", &iscsi]);
        command.args(["--api", &api]).arg("--ready-file").arg(&ready);
        let mut server = Server::start(&mut command, folder.join("up.log"))?;
        server.wait(|| ready.is_file().then_some(()))?;
        let up = Self { server, folder: folder.to_owned(), api, nbd, iscsi };
        up.settle()?;
        Ok(up)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Pid {
        self.server.pid()
    }

    /// What was typed.
    pub(crate) fn command(&self) -> &str {
        self.server.command()
    }

    /// The tap's export: what the guest writes to.
    pub(crate) fn tap(&self) -> Export {
        Export { socket: self.socket("tap.sock"), name: VOLUME.to_owned() }
    }

    /// The disk as it is now, from history.
    pub(crate) fn head(&self) -> Export {
        Export { socket: self.socket("gateway.sock"), name: VOLUME.to_owned() }
    }

    /// The image at `lsn`.
    pub(crate) fn image(&self, lsn: u64) -> Export {
        Export { socket: self.socket("gateway.sock"), name: format!("{VOLUME}@lsn:{lsn}") }
    }

    /// The same export over TCP.
    pub(crate) fn over_tcp(&self, export: &Export) -> Export {
        Export { socket: Socket::Tcp(self.nbd.clone()), name: export.name.clone() }
    }

    /// The same export over iSCSI.
    pub(crate) fn over_iscsi(&self, export: &Export) -> Unit {
        let target = format!("iqn.2026-01.example.chronogate:{}", export.name);
        Unit { portal: self.iscsi.clone(), target, lun: 1 }
    }

    fn socket(&self, name: &str) -> Socket {
        Socket::Unix(self.folder.join(name))
    }

    /// Adds the log to an error: a client that was cut off knows nothing of the reason.
    pub(crate) fn explain<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.with_context(|| format!("the log of up says:\n{}\nand", self.server.said()))
    }

    /// What the verb `volume show` would print.
    pub(crate) fn volume(&self) -> Result<Volume> {
        let body = get(&self.api, &format!("/api/v1/volumes/{VOLUME}"))?;
        Volume::read(&serde_json::from_slice(&body).context("the answer is no JSON")?)
    }

    /// Waits until everything written is durable in history (`durable_lsn` = `head_lsn`) and nothing was lost.
    pub(crate) fn settle(&self) -> Result<Volume> {
        let volume = self.catch_up()?;
        ensure!(volume.gaps == 0, "history has a gap: {volume:?}; the log says:\n{}", self.server.said());
        Ok(volume)
    }

    /// Waits until history has what is on the disk, gaps or not.
    pub(crate) fn catch_up(&self) -> Result<Volume> {
        let begun = Instant::now();
        loop {
            let volume = self.volume()?;
            if volume.head == Some(volume.durable) && volume.state == "protected" {
                return Ok(volume);
            }
            if begun.elapsed() > CATCH_UP {
                let (waited, said) = (CATCH_UP.as_secs(), self.server.said());
                bail!("history has not caught up in {waited} s: {volume:?}; the log says:\n{said}");
            }
            pause(LOOK);
        }
    }

    /// A new read/write image of the moment at `lsn`.
    pub(crate) fn overlay(&self, lsn: u64, name: &str) -> Result<Export> {
        let image = serde_json::json!({
            "volume": VOLUME, "at": format!("lsn:{lsn}"), "writable": true, "name": name
        });
        post(&self.api, "/api/v1/images", &image)?;
        Ok(Export { socket: self.socket("gateway.sock"), name: name.to_owned() })
    }

    /// Settles all of history; the moment at `lsn` is kept as an image.
    pub(crate) fn settle_history(&self, lsn: u64) -> Result<()> {
        let image = serde_json::json!({ "volume": VOLUME, "at": format!("lsn:{lsn}") });
        post(&self.api, "/api/v1/images", &image)?;
        let retention = serde_json::json!({ "every_write": "0s", "tiers": [], "bookmarks": "1y" });
        post(&self.api, "/api/v1/policies", &serde_json::json!({ "retention": retention }))?;
        let begun = Instant::now();
        loop {
            let body = get(&self.api, &format!("/api/v1/volumes/{VOLUME}/timeline"))?;
            let timeline: Value = serde_json::from_slice(&body).context("the answer is no JSON")?;
            if timeline.get("every_write_after").and_then(Value::as_u64) >= Some(lsn) {
                return Ok(());
            }
            ensure!(begun.elapsed() < CATCH_UP, "history is not settled: {timeline}\n{}", self.server.said());
            pause(LOOK);
        }
    }

    /// Ends it in order.
    pub(crate) fn stop(mut self) {
        self.server.stop();
    }
}

impl LoneTap {
    /// Serves `disk` and keeps what it would send, as far as it has room.
    pub(crate) fn start(disk: &Path, folder: &Path) -> Result<Self> {
        let socket = folder.join("alone.sock");
        let mut command = Command::new(program()?);
        command.arg("tap").arg("--data").arg(folder.join("alone")).args(["--cx", &free_address()?]);
        command.arg("--protect").arg(format!("{VOLUME}={}", disk.display()));
        command.arg("--tap-nbd").arg(format!("unix:{}", socket.display()));
        let mut server = Server::start(&mut command, folder.join("alone.log"))?;
        server.wait_listening(&socket)?;
        Ok(Self { server, socket })
    }

    /// What the guest writes to.
    pub(crate) fn export(&self) -> Export {
        Export { socket: Socket::Unix(self.socket.clone()), name: VOLUME.to_owned() }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Pid {
        self.server.pid()
    }

    /// What was typed.
    pub(crate) fn command(&self) -> &str {
        self.server.command()
    }
}

impl Gateway {
    /// Serves what lies in `data`.
    pub(crate) fn start(data: &Path, folder: &Path) -> Result<Self> {
        let socket = folder.join("gateway.sock");
        let mut command = Command::new(program()?);
        command.arg("gateway").arg("--data").arg(data).args(["--listen", &free_address()?]);
        command.arg("--nbd").arg(format!("unix:{}", socket.display()));
        command.args(["--api", &free_address()?]);
        let mut server = Server::start(&mut command, folder.join("gateway.log"))?;
        server.wait_listening(&socket)?;
        Ok(Self { server, socket })
    }

    /// An image.
    pub(crate) fn image(&self, volume: &str, lsn: u64) -> Export {
        Export { socket: Socket::Unix(self.socket.clone()), name: format!("{volume}@lsn:{lsn}") }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Pid {
        self.server.pid()
    }

    /// What was typed.
    pub(crate) fn command(&self) -> &str {
        self.server.command()
    }
}

impl Volume {
    fn read(value: &Value) -> Result<Self> {
        let number = |name: &str| value.get(name).and_then(Value::as_u64);
        let need = |name: &str| number(name).with_context(|| format!("volume show without {name}: {value}"));
        let state = value.get("state").and_then(Value::as_str).context("volume show without state")?;
        let gaps = value.get("gaps").and_then(Value::as_array).context("volume show without gaps")?;
        Ok(Self {
            state: state.to_owned(),
            head: number("head_lsn"),
            durable: need("durable_lsn")?,
            baselines: need("baseline_count")?,
            gaps: gaps.len(),
        })
    }
}

/// The program under measurement: CHRONOGATE_BIN, else the one beside this one.
fn program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CHRONOGATE_BIN") {
        return Ok(path.into());
    }
    let beside = std::env::current_exe()?.with_file_name("chronogate");
    ensure!(beside.is_file(), "no chronogate beside this program: cargo xtask bench builds it");
    Ok(beside)
}

/// How the program is named in printed commands.
pub(crate) fn show_command(volume: &str) -> String {
    words(Command::new("chronogate").args(["volume", "show", volume, "-o", "json"]))
}

/// One GET on a connection of its own; the answer's body.
fn get(address: &str, path: &str) -> Result<Vec<u8>> {
    ask(address, path, &format!("GET {path} HTTP/1.1\r\n"), "")
}

/// The same, of a POST.
fn post(address: &str, path: &str, body: &Value) -> Result<Vec<u8>> {
    let body = body.to_string();
    let line = format!(
        "POST {path} HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
        body.len()
    );
    ask(address, path, &line, &body)
}

fn ask(address: &str, path: &str, line: &str, body: &str) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("the API at {address}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(stream, "{line}Host: {address}\r\nConnection: close\r\n\r\n{body}")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let head = answer.windows(4).position(|w| w == b"\r\n\r\n").context("an answer without a body")?;
    let body = answer.split_off(head + 4);
    ensure!(answer.starts_with(b"HTTP/1.1 20"), "{path}: {}", String::from_utf8_lossy(&body));
    Ok(body)
}
