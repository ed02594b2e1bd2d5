//! Measuring a link, on the loopback alone: what is said, what a hostile side can do.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    missing_docs,
    reason = "tests"
)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_chronogate-analyzer");
const TRACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/windows-shared-server.load.gz");

/// A listener on a port of the loopback.
struct Listener {
    child: Child,
    address: String,
}

impl Listener {
    fn start() -> Self {
        let words = ["throughput", "--listen", "127.0.0.1:0", "--for", "5m"];
        let mut child = Command::new(PROGRAM).args(words).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        let address = line.split(' ').nth(2).unwrap().to_owned();
        // What it says later is nobody's business here, but it must be able to.
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        Self { child, address }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    /// The most memory it ever had, in KiB.
    fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn hello(role: u8, seconds: u16, session: u64) -> Vec<u8> {
    let mut bytes = b"cgtp\x01".to_vec();
    bytes.push(role);
    bytes.extend(seconds.to_le_bytes());
    bytes.extend(session.to_le_bytes());
    bytes
}

fn measure(address: &str, more: &[&str]) -> Output {
    Command::new(PROGRAM).args(["throughput", "--to", address]).args(more).output().unwrap()
}

fn refused(address: &str) -> String {
    let done = measure(address, &["--for", "1s"]);
    assert!(!done.status.success());
    String::from_utf8(done.stderr).unwrap()
}

#[test]
fn a_link_is_measured_both_ways_and_report_takes_the_figure() {
    let listener = Listener::start();
    let done = measure(&listener.address, &["--for", "3s", "--streams", "3", "--json", "-"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let found: Value = serde_json::from_slice(&done.stdout).unwrap();
    let phases: Vec<_> = found["carried"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["streams"].as_u64().unwrap(), c["direction"].as_str().unwrap()))
        .collect();
    assert_eq!(phases, [(1, "there"), (1, "back"), (3, "there"), (3, "back")]);
    for carried in found["carried"].as_array().unwrap() {
        let rate = |field: &str| carried["rate"][field].as_f64().unwrap();
        assert!(rate("count") >= 4.0, "{carried}");
        assert!(
            rate("least") <= rate("tenth")
                && rate("tenth") <= rate("median")
                && rate("median") <= rate("most")
        );
        assert!(carried["bytes"].as_u64().unwrap() > 1 << 20, "{carried}");
        assert!(carried["round_trip_ms"]["count"].as_u64().unwrap() > 0, "{carried}");
    }
    assert!(found["idle_round_trip_ms"]["median"].as_f64().unwrap() > 0.0);
    // Another one may measure now that it is done, and people read text.
    let text = measure(&listener.address, &["--for", "1s", "--streams", "1"]);
    let text = String::from_utf8(text.stdout).unwrap();
    let link = text.split("--link ").nth(1).unwrap().split(' ').next().unwrap();
    let report = Command::new(PROGRAM).args(["report", TRACE, "--link", link]).output().unwrap();
    assert!(report.status.success(), "{}", String::from_utf8_lossy(&report.stderr));
}

#[test]
fn a_hostile_peer_wastes_its_own_time() {
    let listener = Listener::start();
    let mut foreign = listener.connect();
    foreign.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = foreign.read_to_end(&mut answer);
    assert!(answer.is_empty(), "no word to a stranger");
    // Many that say nothing: those past the limit are closed at once, the others after a few seconds.
    let silent: Vec<TcpStream> = (0..100).map(|_| listener.connect()).collect();
    let closed = silent.iter().filter(|s| (&**s).read(&mut [0]).is_ok_and(|n| n == 0)).count();
    assert_eq!(closed, 100);
    // One that is owed bytes but takes none, and one that sends a flood where eight bytes are meant.
    let mut greedy = listener.connect();
    greedy.write_all(&hello(2, 1, 7)).unwrap();
    let mut flood = listener.connect();
    flood.write_all(&hello(0, 1, 7)).unwrap();
    flood.set_nonblocking(true).unwrap();
    let _ = flood.write(&vec![0x5a; 8 << 20]);
    assert!(refused(&listener.address).contains("somebody else measures"));
    // A measurement that never ends is ended.
    let mut rest = [0; 8];
    greedy.read_exact(&mut rest).unwrap();
    assert_eq!(rest, *b"cgtp\x01\0\x01\0");
    let (mut sent, mut buffer) = (0, vec![0; 1 << 20]);
    while let Ok(n) = greedy.read(&mut buffer) {
        if n == 0 {
            break;
        }
        sent += n;
    }
    assert!(sent > 0);
    drop((greedy, flood));
    let kib = listener.peak_kib();
    assert!(kib < 64 << 10, "{kib} KiB");
    let mut last = measure(&listener.address, &["--for", "1s"]);
    for _ in 0..100 {
        // The connections above end when the listener sees it.
        if last.status.success() {
            break;
        }
        last = measure(&listener.address, &["--for", "1s"]);
    }
    assert!(last.status.success(), "{}", String::from_utf8_lossy(&last.stderr));
}

/// A server that says this to whoever comes, and closes.
fn says(words: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten().take(4) {
            let _ = (&stream).read(&mut [0; 16]);
            let _ = (&stream).write_all(words);
        }
    });
    address
}

#[test]
fn what_is_no_listener_is_told_apart() {
    assert!(refused(&says(b"HTTP/1.1 400 Bad Request\r\n")).contains("is no `throughput`"));
    assert!(refused(&says(b"cgtp\x02\0\x09\0")).contains("version 2"));
    assert!(refused(&says(b"cgtp\x01\0\0\0")).contains("it goes along for 0 s at a time"));
    assert!(refused(&says(b"cgtp\x01\x02\x01\0")).contains("fewer --streams"));
    assert!(refused(&says(b"cg")).contains("cannot measure"));
    // It agrees to all and says that more arrived than was ever sent: that is not believed.
    let mut boasts = b"cgtp\x01\0\xff\0".to_vec();
    boasts.extend([0xff; 16]);
    let boasts = says(Box::leak(boasts.into_boxed_slice()));
    let done = measure(&boasts, &["--for", "1s", "--streams", "1"]);
    assert!(!String::from_utf8_lossy(&done.stderr).contains("panicked"));
    // It agrees to all, then closes: nothing was carried.
    assert!(refused(&says(b"cgtp\x01\0\xff\0")).contains("nothing arrived"));
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    assert!(refused(&nobody).contains("--listen ADDRESS:PORT"));
    let usage = measure("127.0.0.1:1", &["--streams", "17"]);
    assert_eq!(usage.status.code(), Some(2));
}

#[test]
fn a_listener_ends_when_its_time_is_over_or_it_is_told() {
    let words = ["throughput", "--listen", "127.0.0.1:0", "--for", "100ms"];
    assert!(Command::new(PROGRAM).args(words).status().unwrap().success());
    let mut listener = Listener::start();
    kill_process(Pid::from_raw(i32::try_from(listener.child.id()).unwrap()).unwrap(), Signal::INT).unwrap();
    assert!(listener.child.wait().unwrap().success());
}
