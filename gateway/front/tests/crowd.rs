//! A crowd of clients, some of them hostile: what they hold is bounded, they go, and nobody else notices.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod wire;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gateway_front::{Front, FrontHandle, Limits};
use wire::*;

const HONEST: usize = 200;
const HOSTILE: usize = 80;
/// Each honest client writes and reads that often, in a stretch of its own.
const ROUNDS: usize = 30;
/// What a client may hold.
const HELD: u64 = 1 << 20;

fn front(limits: Limits) -> FrontHandle {
    Front::start(&["127.0.0.1:0".parse().unwrap()], Disks::new(&["a", "b"]), limits).unwrap()
}

fn opened(front: &FrontHandle, export: &str) -> Client<TcpStream> {
    let mut client = connect_tcp(front);
    client.greet();
    client.choose(GO, export).unwrap();
    client
}

/// What a client sends that means harm, in one of several ways.
fn harmful(way: usize) -> Vec<u8> {
    let option = |number: u32, data: &[u8]| {
        [b"IHAVEOPT", &number.to_be_bytes()[..], &(data.len() as u32).to_be_bytes(), data].concat()
    };
    let request = |command: u16, length: u32| {
        [&[0x25, 0x60, 0x95, 0x13, 0, 0][..], &command.to_be_bytes(), &[0; 16], &length.to_be_bytes()]
            .concat()
    };
    let opened = [vec![0, 0, 0, 3], option(GO, &[0, 0, 0, 1, b'a', 0, 0])].concat();
    match way % 5 {
        // Asks for much and reads nothing.
        0 => [opened, request(0, SIZE as u32).repeat(1000)].concat(),
        // Half a request, and silence.
        1 => [opened, request(1, 4 << 20), vec![1; 100]].concat(),
        // No protocol at all.
        2 => vec![0x5a; 100_000],
        // Comes, and says nothing.
        3 => Vec::new(),
        // Options without end.
        _ => [vec![0, 0, 0, 3], option(LIST, &[]).repeat(1000)].concat(),
    }
}

/// Does harm again and again until told to stop; how often.
fn harm(front: &FrontHandle, way: usize, stop: &AtomicBool) -> usize {
    let mut times = 0;
    while !stop.load(Ordering::SeqCst) {
        let mut client = connect_tcp(front);
        client.0.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        let _ = client.0.write_all(&harmful(way));
        // Stays for a while, reading nothing.
        std::thread::park_timeout(Duration::from_millis(300));
        times += 1;
    }
    times
}

/// Opens the export; comes again where this machine is so busy that it drops what a new connection begins with,
/// which TCP repeats only after a second, two, four.
fn let_in(front: &FrontHandle, since: Instant) -> Client<TcpStream> {
    loop {
        let come = std::panic::AssertUnwindSafe(|| {
            let mut client = connect_tcp(front);
            client.0.set_read_timeout(Some(PATIENCE / 4)).unwrap();
            client.greet();
            client.choose(GO, "b").unwrap();
            client.0.set_read_timeout(Some(PATIENCE)).unwrap();
            client
        });
        match std::panic::catch_unwind(come) {
            Ok(client) => return client,
            Err(why) if since.elapsed() > 2 * PATIENCE => std::panic::resume_unwind(why),
            Err(_) => {}
        }
    }
}

/// Writes and reads back; how many answers were right, and the slowest.
fn work(mut client: Client<TcpStream>, no: usize) -> (usize, Duration) {
    let (mut right, mut slowest) = (0, Duration::ZERO);
    for round in 0..ROUNDS {
        let since = Instant::now();
        let (at, byte) = ((no * 4096) as u64, (no + round) as u8);
        client.write(at, &[byte; 4096]);
        right += usize::from(client.read(at, 4096) == [byte; 4096]);
        slowest = slowest.max(since.elapsed());
    }
    (right, slowest)
}

/// Tells those who do harm to stop, also when the test fails: it waits for them.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Honest clients among the hostile: what each of them saw, and the most memory that the process had.
fn honest(front: &FrontHandle) -> (Vec<(usize, Duration)>, u64) {
    let since = Instant::now();
    std::thread::scope(|scope| {
        let coming: Vec<_> = (0..HONEST).map(|_| scope.spawn(|| let_in(front, since))).collect();
        // All are there before any begins, and nobody waits for one that failed to come.
        let there: Vec<_> = coming.into_iter().map(|client| client.join().unwrap()).collect();
        let working: Vec<_> =
            there.into_iter().enumerate().map(|(no, client)| scope.spawn(move || work(client, no))).collect();
        let mut most = 0;
        while !working.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            most = most.max(resident());
            std::thread::park_timeout(Duration::from_millis(5));
        }
        (working.into_iter().map(|client| client.join().unwrap()).collect(), most)
    })
}

#[test]
fn honest_clients_are_all_answered_among_hostile_ones() {
    let protocol = gateway_nbd::Limits { in_flight: HELD, ..gateway_nbd::Limits::default() };
    let limits = Limits {
        // Those who have just left keep their places a moment longer.
        connections: HONEST + 3 * HOSTILE,
        protocol,
        // Long enough for honest ones on a machine that has much to do.
        handshake: Duration::from_secs(5),
        stall: Duration::from_secs(3),
        ..Limits::default()
    };
    let front = front(limits);
    let stop = AtomicBool::new(false);
    let before = resident();
    let (done, most, harm) = std::thread::scope(|scope| {
        let stopping = StopAtEnd(&stop);
        let hostile: Vec<_> = (0..HOSTILE)
            .map(|no| {
                scope.spawn({
                    let (f, s) = (&front, &stop);
                    move || harm(f, no, s)
                })
            })
            .collect();
        let (done, most) = honest(&front);
        drop(stopping);
        (done, most, hostile.into_iter().map(|client| client.join().unwrap()).sum::<usize>())
    });
    assert!(harm >= HOSTILE, "{harm}");
    let right: usize = done.iter().map(|(right, _)| right).sum();
    let slowest = done.iter().map(|(_, slowest)| *slowest).max().unwrap();
    eprintln!(
        "{right} answers, the slowest after {slowest:?}; {} MiB more at most",
        most.saturating_sub(before) >> 20
    );
    assert_eq!(right, HONEST * ROUNDS);
    // Each may hold its limit, or one larger request; each of those that read nothing asks for 8 MiB at once.
    let bound = (HONEST + 3 * HOSTILE) as u64 * (2 << 20) + (HOSTILE as u64 / 5 + 1) * SIZE * 2;
    assert!(most.saturating_sub(before) < bound, "{} MiB", most.saturating_sub(before) >> 20);
    wait_until("the end of those who linger", || front.connections() == 0);
}

/// Bytes of memory that this process has.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn a_client_that_takes_no_reply_is_hung_up_on_and_one_that_is_slow_is_not() {
    let stall = Duration::from_millis(1500);
    let front = front(Limits { stall, ..Limits::default() });
    let mut stuck = opened(&front, "a");
    let mut slow = opened(&front, "a");
    for client in [&mut stuck, &mut slow] {
        for cookie in 0..8 {
            client.request(0, cookie, 0, &[], SIZE as u32).unwrap();
        }
    }
    let since = Instant::now();
    let (mut taken, mut piece) = (0, vec![0; 1 << 20]);
    while taken < 8 * (SIZE as usize + 16) {
        // Never out of patience, and longer in all than patience lasts.
        std::thread::park_timeout(Duration::from_millis(30));
        match slow.0.read(&mut piece).unwrap() {
            0 => panic!("the slow one is hung up on after {:?}", since.elapsed()),
            n => taken += n,
        }
    }
    assert!(since.elapsed() > stall, "it was not slow: {:?}", since.elapsed());
    wait_until("the end of the one that is stuck", || front.connections() == 1);
    assert_eq!(slow.read(0, 512), [0; 512]);
}

#[test]
fn when_memory_gets_short_those_go_first_that_take_next_to_nothing() {
    let in_need = Duration::from_millis(300);
    let front = front(Limits { memory: 10 << 20, stall_in_need: in_need, ..Limits::default() });
    let mut good = opened(&front, "a");
    let greedy = |requests: u64| {
        let mut client = opened(&front, "b");
        (0..requests).for_each(|cookie| client.request(0, cookie, 0, &[], SIZE as u32).unwrap());
        client
    };
    // Less than there is: it may take its time.
    let mut slow = greedy(1);
    let since = Instant::now();
    while since.elapsed() < 3 * in_need {
        assert_eq!(good.read(0, 512), [0; 512]);
    }
    assert_eq!(front.connections(), 2);
    // Now it is more, and somebody takes a byte now and then.
    let mut trickling = greedy(4);
    let since = Instant::now();
    while front.connections() > 1 {
        assert!(since.elapsed() < PATIENCE, "they are all still there");
        let _ = trickling.0.read(&mut [0; 1]);
        assert_eq!(good.read(0, 512), [0; 512]);
    }
    slow.assert_closed();
    trickling.assert_closed();
}

#[test]
fn a_client_that_asks_for_nothing_is_hung_up_on_where_that_is_wanted() {
    let idle = Duration::from_secs(1);
    let front = front(Limits { idle: Some(idle), ..Limits::default() });
    let (mut silent, mut busy) = (opened(&front, "a"), opened(&front, "a"));
    let since = Instant::now();
    while since.elapsed() < idle * 2 {
        busy.read(0, 512);
        std::thread::park_timeout(Duration::from_millis(30));
    }
    assert_eq!(front.connections(), 1);
    silent.assert_closed();
    busy.assert_closed();
}

#[test]
fn an_export_has_no_more_clients_than_its_share() {
    let front = front(Limits { per_export: 3, ..Limits::default() });
    let mut there: Vec<_> = (0..3).map(|_| opened(&front, "a")).collect();
    let mut late = connect_tcp(&front);
    late.greet();
    let (kind, text) = late.choose(GO, "a").unwrap_err();
    assert_eq!(kind, ERR_POLICY);
    assert!(text.starts_with("a has 3 connections already"), "{text}");
    // It may look at another, which makes no room here, and open this one when there is.
    late.choose(INFO, "b").unwrap();
    assert_eq!(late.choose(INFO, "a").unwrap_err().0, ERR_POLICY);
    drop(there.pop());
    wait_until("the end of one", || front.connections() == 3);
    late.choose(GO, "a").unwrap();
    assert_eq!(late.read(0, 512), [0; 512]);
}

#[test]
fn sessions_are_listed_and_ended_one_by_one() {
    let front = front(Limits::default());
    let (mut first, mut second) = (opened(&front, "a"), opened(&front, "b"));
    first.write(0, &[1; 512]);
    first.read(0, 4096);
    let sessions = front.sessions();
    let exports: Vec<_> = sessions.iter().map(|s| s.export.clone().unwrap()).collect();
    assert_eq!(exports, ["a", "b"]);
    assert!(sessions[0].peer.starts_with("127.0.0.1:") && sessions[0].id < sessions[1].id);
    assert_eq!((sessions[0].bytes_read, sessions[0].bytes_written, sessions[0].requests), (4096, 512, 2));
    assert_eq!(front.end_sessions(&[sessions[0].id]), 0);
    first.assert_closed();
    assert_eq!(front.end_sessions(&[sessions[0].id, 0]), 0, "those that are not there have ended");
    assert_eq!(second.read(0, 512), [0; 512]);
    let left = front.sessions();
    assert_eq!((left.len(), left[0].id, left[0].bytes_read), (1, sessions[1].id, 512));
}
