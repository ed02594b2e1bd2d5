//! Recording a machine's own disks: what fio wrote is there, and stays when the recorder is stopped or killed.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    missing_docs,
    reason = "tests"
)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use analyzer_profile::cgp::{Clock, Mode, Record, Source, encode};
use analyzer_profile::{At, DeviceNo, Event, Kind, Sampler};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_chronogate-analyzer");

const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// The program; where nobody has mounted tracefs, in a mount namespace of its own that has it.
fn program() -> Command {
    if TRACEFS.iter().any(|t| Path::new(t).join("instances").is_dir()) {
        return Command::new(PROGRAM);
    }
    let mut command = Command::new("unshare");
    let mount = "mount -t tracefs nodev /sys/kernel/tracing && exec \"$@\"";
    command.args(["--mount", "sh", "-c", mount, "sh", PROGRAM]);
    command
}

/// Can it trace here at all?
fn traces() -> bool {
    let mut probe = Command::new("unshare");
    probe.args(["--mount", "mount", "-t", "tracefs", "nodev", "/sys/kernel/tracing"]);
    probe.stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

/// A recorder at work.
struct Recorder {
    child: Child,
    stderr: BufReader<ChildStderr>,
}

impl Recorder {
    /// Returns when it records.
    fn start(device: &str, mode: &str, out: &Path) -> Self {
        Self::start_with(device, &["--mode", mode], out)
    }

    fn start_with(device: &str, more: &[&str], out: &Path) -> Self {
        let mut command = program();
        command.args(["record", "--device", device, "--max-overhead", "100%"]).args(more);
        Self::begin(command, out)
    }

    /// The same of a tap.
    fn of_tap(socket: &Path, out: &Path) -> Self {
        let mut command = Command::new(PROGRAM);
        command.args(["record", "--tap"]).arg(format!("unix:{}", socket.display()));
        Self::begin(command, out)
    }

    fn begin(mut command: Command, out: &Path) -> Self {
        command.arg("--out").arg(out);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let (mut line, mut all) = (String::new(), String::new());
        while !line.starts_with("recording into") {
            line.clear();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended: {all}");
            all.push_str(&line);
        }
        Self { child, stderr }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits until it has said that.
    fn wait_for(&mut self, text: &str) {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert!(self.stderr.read_line(&mut line).unwrap() > 0, "it ended");
        }
    }

    /// Ends it as Ctrl-C does; what it said.
    fn stop(mut self) -> String {
        self.signal(Signal::INT);
        let mut said = String::new();
        std::io::Read::read_to_string(&mut self.stderr, &mut said).unwrap();
        assert!(self.child.wait().unwrap().success(), "{said}");
        said
    }

    fn kill(mut self) {
        self.signal(Signal::KILL);
        self.child.wait().unwrap();
    }
}

fn report(file: &Path) -> Value {
    let done = Command::new(PROGRAM).arg("report").arg(file).args(["--json", "-"]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

/// A loop device of our own, gone at the end; `None` where there can be none.
struct Loop {
    device: String,
}

impl Loop {
    fn new(folder: &Path) -> Option<Self> {
        let file = folder.join("disk");
        std::fs::File::create(&file).unwrap().set_len(64 << 20).unwrap();
        Self::of(&file)
    }

    /// With two partitions: from 1 MiB 16 MiB, behind it 32 MiB.
    fn parted(folder: &Path) -> Option<Self> {
        let file = folder.join("parted");
        let mut head = vec![0_u8; 512];
        for (n, (first, sectors)) in [(2048_u32, 32768_u32), (34816, 65536)].into_iter().enumerate() {
            let entry = &mut head[446 + n * 16..462 + n * 16];
            entry[4] = 0x83;
            entry[8..12].copy_from_slice(&first.to_le_bytes());
            entry[12..16].copy_from_slice(&sectors.to_le_bytes());
        }
        head[510..].copy_from_slice(&[0x55, 0xaa]);
        std::fs::write(&file, head).unwrap();
        std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(64 << 20).unwrap();
        let disk = Self::of(&file)?;
        let has_parts = Path::new(&format!("{}p2", disk.device)).exists();
        if !has_parts {
            println!("SKIPPED: loop devices have no partitions here");
        }
        has_parts.then_some(disk)
    }

    fn of(file: &Path) -> Option<Self> {
        let done =
            Command::new("losetup").args(["--find", "--show", "--partscan"]).arg(file).output().ok()?;
        let device = String::from_utf8(done.stdout).unwrap().trim().to_owned();
        done.status.success().then_some(Self { device })
    }

    fn fio(&self, block: &str, size: &str) {
        Self::write(&self.device, block, size);
    }

    fn write(device: &str, block: &str, size: &str) {
        let words = ["--name=t", "--rw=randwrite", "--direct=1", "--minimal", "--filename"];
        let mut command = Command::new("fio");
        command.args(words).arg(device).args([format!("--bs={block}"), format!("--size={size}")]);
        assert!(command.stdout(Stdio::null()).status().unwrap().success());
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.device]).status();
    }
}

/// Tests that record disks run one after another: a number that one gives back is the next one's loop device at once, and what
/// they trace is the same kernel's.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the test needs, or why it does not run.
fn machine(folder: &Path) -> Option<Loop> {
    let fio = Command::new("fio").arg("--version").stdout(Stdio::null()).status().is_ok();
    let found = if traces() && fio { Loop::new(folder) } else { None };
    if found.is_none() {
        println!("SKIPPED: it takes root, tracefs, loop devices and fio");
    }
    found
}

fn instances() -> Vec<PathBuf> {
    let folders = TRACEFS.map(|t| Path::new(t).join("instances"));
    folders.iter().flat_map(std::fs::read_dir).flatten().flatten().map(|e| e.path()).collect()
}

#[test]
fn every_write_is_there_once_and_a_kill_loses_none_that_was_kept() {
    let _alone = alone();
    let tmp = tempfile::tempdir().unwrap();
    let Some(disk) = machine(tmp.path()) else { return };
    let out = tmp.path().join("run.cgp");
    let recorder = Recorder::start(&disk.device, "events", &out);
    let pid = recorder.child.id();
    disk.fio("4k", "8M");
    disk.fio("64k", "1M");
    let said = recorder.stop();
    assert!(said.contains("own share of a processor"), "{said}");
    let first = report(&out);
    assert_eq!(first["writes"]["count"], 2048 + 16, "{said}");
    assert_eq!(first["writes"]["bytes"], 9 << 20);
    assert_eq!(first["write_sizes"], serde_json::json!([[4096, 2048], [65536, 16]]));
    assert_eq!(first["quality"]["lost_events"], 0);
    assert!(
        !instances().iter().any(|i| i.ends_with(format!("chronogate-{pid}"))),
        "its tracing instance is gone"
    );

    // Killed at any moment, it keeps what it had; then it goes on.
    let recorder = Recorder::start(&disk.device, "events", &out);
    disk.fio("4k", "1M");
    recorder.kill();
    let killed = report(&out);
    let count = killed["writes"]["count"].as_u64().unwrap();
    assert!((2064..=2064 + 256).contains(&count), "{count}");
    let recorder = Recorder::start(&disk.device, "events", &out);
    disk.fio("8k", "1M");
    recorder.stop();
    let last = report(&out);
    assert_eq!(last["writes"]["count"].as_u64().unwrap(), count + 128);
    assert!(last["quality"]["lost_seconds"].as_f64().unwrap() > 0.0, "the pauses are told");
}

#[test]
fn a_partition_is_recorded_apart_from_its_neighbour() {
    let _alone = alone();
    let tmp = tempfile::tempdir().unwrap();
    if machine(tmp.path()).is_none() {
        return;
    }
    let Some(disk) = Loop::parted(tmp.path()) else { return };
    let out = tmp.path().join("run.cgp");
    let (one, two) = (format!("{}p1", disk.device), format!("{}p2", disk.device));
    let recorder = Recorder::start(&one, "events", &out);
    Loop::write(&one, "4k", "4M");
    Loop::write(&two, "8k", "8M");
    recorder.stop();
    let found = report(&out);
    assert_eq!(found["writes"]["bytes"], 4 << 20);
    assert_eq!(found["write_sizes"], serde_json::json!([[4096, 1024]]));
    assert_eq!(found["devices"], serde_json::json!([one.strip_prefix("/dev/").unwrap()]));
    let trace =
        Command::new(PROGRAM).args(["export", "--format", "alibaba", "--out", "-"]).arg(&out).output();
    let trace = String::from_utf8(trace.unwrap().stdout).unwrap();
    let offsets = trace.lines().map(|line| line.split(',').nth(2).unwrap().parse::<u64>().unwrap());
    assert!(offsets.max().unwrap() < 16 << 20, "offsets are the partition's own");
}

#[test]
fn an_io_is_recorded_with_how_long_it_took() {
    let _alone = alone();
    let tmp = tempfile::tempdir().unwrap();
    let Some(disk) = machine(tmp.path()) else { return };
    let out = tmp.path().join("run.cgp");
    let recorder = Recorder::start_with(&disk.device, &["--mode", "events", "--latency"], &out);
    disk.fio("4k", "4M");
    recorder.stop();
    let found = report(&out);
    assert_eq!(found["write_sizes"], serde_json::json!([[4096, 1024]]), "each once");
    let timed: u64 = found["latency_nanos"].as_array().unwrap().iter().map(|b| b[1].as_u64().unwrap()).sum();
    assert!(timed >= 1024, "{}", found["latency_nanos"]);
    assert_eq!(found["quality"]["backwards"], 0);
}

#[test]
fn counters_need_no_privilege_and_sum_the_same() {
    let _alone = alone();
    let tmp = tempfile::tempdir().unwrap();
    let Some(disk) = machine(tmp.path()) else { return };
    let out = tmp.path().join("run.cgp");
    let recorder = Recorder::start(&disk.device, "counters", &out);
    disk.fio("16k", "4M");
    recorder.stop();
    let found = report(&out);
    assert_eq!(found["writes"]["bytes"], 4 << 20);
    assert!(found["required_bandwidth"][0]["bytes_per_second_exact"].is_null());
}

/// What a tap tells: a second of writes with their content.
fn told(from: u64) -> Vec<u8> {
    let mut sampler = Sampler::new(DeviceNo::new(0), from);
    let block = vec![7; 4096];
    let event = |n: u64| Event {
        at: At::from_nanos((from + n) * 1_000_000),
        device: DeviceNo::new(0),
        kind: Kind::Write,
        offset: n * 4096,
        length: 4096,
        latency: None,
    };
    let events: Vec<Event> = (0..1000).map(event).collect();
    events.iter().for_each(|e| sampler.write(e.at, e.offset, &block));
    let (host, origin) = ("db01".to_owned(), "a test".to_owned());
    let source = Source { clock: Clock::Wall, mode: Mode::Events, host, origin };
    let device = Record::Device { device: DeviceNo::new(0), name: "web01".to_owned() };
    let mut bytes = Vec::new();
    for record in
        [Record::Source(source), device, Record::Events(events), Record::Content(sampler.take().unwrap())]
    {
        encode(&record, &mut bytes).unwrap();
    }
    bytes
}

#[test]
fn what_a_tap_tells_is_recorded_also_when_it_was_away() {
    let tmp = tempfile::tempdir().unwrap();
    let (socket, out) = (tmp.path().join("profile.sock"), tmp.path().join("run.cgp"));
    let tap = UnixListener::bind(&socket).unwrap();
    let mut recorder = Recorder::of_tap(&socket, &out);
    let (mut link, _) = tap.accept().unwrap();
    link.write_all(&told(1_700_000_000_000)).unwrap();
    drop(link);
    recorder.wait_for("the tap has gone");
    let (mut link, _) = tap.accept().unwrap();
    link.write_all(&told(1_700_000_060_000)).unwrap();
    drop(link);
    recorder.wait_for("the tap has gone");
    let said = recorder.stop();
    assert!(said.contains("2000 I/Os recorded"), "{said}");
    let found = report(&out);
    assert_eq!(found["writes"]["count"], 2000);
    assert_eq!(
        (&found["content"]["blocks"], &found["on_the_link"]["source"]),
        (&2000.into(), &"measured".into())
    );
    assert!(found["content"]["stored_share"].as_f64().unwrap() < 0.05, "{}", found["content"]);
    assert!(found["quality"]["lost_seconds"].as_f64().unwrap() > 50.0, "the pause is told");
    assert_eq!(found["devices"], serde_json::json!(["web01"]));
}

#[test]
fn a_device_that_vanishes_is_told_and_what_was_recorded_stays() {
    let _alone = alone();
    let tmp = tempfile::tempdir().unwrap();
    if machine(tmp.path()).is_none() {
        return;
    }
    let Some(disk) = Loop::parted(tmp.path()) else { return };
    let out = tmp.path().join("run.cgp");
    let part = format!("{}p1", disk.device);
    let mut recorder = Recorder::start(&part, "counters", &out);
    Loop::write(&part, "16k", "4M");
    // A second that has it is told before the device goes.
    while report(&out)["writes"]["bytes"] != 4 << 20 {
        std::thread::yield_now();
    }
    drop(disk);
    recorder.wait_for("has gone; recording goes on");
    recorder.stop();
    assert_eq!(report(&out)["writes"]["bytes"], 4 << 20);
}

#[test]
fn what_cannot_be_recorded_is_said() {
    let tmp = tempfile::tempdir().unwrap();
    let record = |device: &str, out: &Path| {
        let words = ["record", "--for", "1s", "--device", device, "--out"];
        let done = Command::new(PROGRAM).args(words).arg(out).output().unwrap();
        assert!(!done.status.success());
        String::from_utf8(done.stderr).unwrap()
    };
    assert!(record("nosuchdisk", &tmp.path().join("a")).contains("no block device"));
    let words = ["record", "--device", "nosuchdisk", "--latency", "--out"];
    let done = Command::new(PROGRAM).args(words).arg(tmp.path().join("c")).output().unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(!done.status.success() && said.contains("--mode events"), "{said}");
    let words = ["record", "--tap", "unix:/nonexistent/p", "--out"];
    let done = Command::new(PROGRAM).args(words).arg(tmp.path().join("b")).output().unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(!done.status.success() && said.contains("--profile unix:/nonexistent/p"), "{said}");
}
