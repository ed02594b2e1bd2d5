//! A crowd of clients that ask for much and take just enough not to be hung up on: what they hold has a bound, and those that
//! take what they asked for go on beside them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "tests")]

mod wire;

use std::io::Read as _;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gateway_front::{Front, FrontHandle, Limits};
use wire::*;

const MEMORY: u64 = 32 << 20;
const CONNECTIONS: usize = 64;
const TRICKLING: usize = 40;
const HONEST: usize = 4;
/// How often each honest client reads.
const ROUNDS: usize = 40;
/// More than the minimum of a connection, and so that it has to be lent.
const LARGE: u32 = 1 << 20;
const IN_NEED: Duration = Duration::from_millis(500);
/// Just within that they take what must be taken in it.
const PAUSE: Duration = Duration::from_millis(400);
/// Beside what is counted: each connection's receive buffer, stack and runtime, and what clients in here have.
const BESIDE: u64 = (CONNECTIONS as u64) * (512 << 10) + (24 << 20);

fn open(front: &FrontHandle, export: &str) -> Client<TcpStream> {
    let mut client = connect_tcp(front);
    client.greet();
    client.choose(GO, export).unwrap();
    client
}

/// Asks for far more than may be under way, and takes 64 KiB of it now and then; comes again when it is hung up on.
fn trickle(front: &FrontHandle, stop: &AtomicBool, ended: &AtomicU64) {
    while !stop.load(Ordering::SeqCst) {
        let mut client = open(front, "a");
        let asked = (0..100).try_for_each(|cookie| client.request(0, cookie, 0, &[], LARGE));
        let mut piece = vec![0; 64 << 10];
        while asked.is_ok() && !stop.load(Ordering::SeqCst) {
            if client.0.read_exact(&mut piece).is_err() {
                ended.fetch_add(1, Ordering::SeqCst);
                break;
            }
            std::thread::park_timeout(PAUSE);
        }
    }
}

/// Writes all of its stretch and reads it again and again; how long the slowest answer took.
fn work(front: &FrontHandle, no: usize) -> Duration {
    let (at, byte) = (no as u64 * u64::from(LARGE), no as u8 + 1);
    let mut client = open(front, "b");
    let mut slowest = Duration::ZERO;
    for round in 0..ROUNDS {
        let since = Instant::now();
        match round {
            0 => client.write(at, &vec![byte; LARGE as usize]),
            _ => assert!(client.read(at, LARGE).iter().all(|got| *got == byte), "other bytes"),
        }
        slowest = slowest.max(since.elapsed());
    }
    slowest
}

/// Bytes of memory that this process has.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Tells those who trickle to stop, also when the test fails: it waits for them.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_trickling_crowd_has_its_minima_and_the_others_go_on() {
    let protocol = gateway_nbd::Limits { in_flight: 16 << 20, ..gateway_nbd::Limits::default() };
    let limits = Limits {
        connections: CONNECTIONS,
        memory: MEMORY,
        stall_in_need: IN_NEED,
        protocol,
        ..Limits::default()
    };
    let front = Front::start(&["127.0.0.1:0".parse().unwrap()], Disks::new(&["a", "b"]), limits).unwrap();
    let (stop, ended, before) = (AtomicBool::new(false), AtomicU64::new(0), resident());
    let (slowest, most) = std::thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        (0..TRICKLING).for_each(|_| drop(scope.spawn(|| trickle(&front, &stop, &ended))));
        wait_until("the crowd", || front.connections() >= TRICKLING);
        let (mut most, since) = (0, Instant::now());
        let mut look = |until: &dyn Fn() -> bool| {
            while !until() {
                let usage = front.memory();
                assert!(usage.lent <= usage.lendable, "{usage:?}");
                most = most.max(resident());
                std::thread::park_timeout(Duration::from_millis(5));
            }
        };
        look(&|| since.elapsed() > 2 * IN_NEED);
        let front = &front;
        let working: Vec<_> = (0..HONEST).map(|no| scope.spawn(move || work(front, no))).collect();
        look(&|| working.iter().all(std::thread::ScopedJoinHandle::is_finished));
        (working.into_iter().map(|client| client.join().unwrap()).max().unwrap(), most)
    });
    let more = most.saturating_sub(before);
    eprintln!(
        "the slowest answer after {slowest:?}; {} MiB more at most; {} hung up on",
        more >> 20,
        ended.load(Ordering::SeqCst)
    );
    assert!(more < MEMORY + BESIDE, "{} MiB", more >> 20);
    wait_until("the end of all", || front.connections() == 0);
    let usage = front.memory();
    assert_eq!((usage.lent, usage.waiting), (0, 0));
}
