//! Writes of connections that broke, and those of the clients that come back.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "tests")]

mod wire;

use std::io::Write as _;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gateway_front::{Front, FrontHandle, Limits};
use tap_block::memory::MemoryDevice;
use tap_block::{BlockDevice, Geometry, Op, Ticket};
use wire::*;

const BLOCK: u64 = 4096;
/// A client that was not answered within this has to wait.
const SOON: Duration = Duration::from_millis(400);

/// A disk that holds writes back as long as it is told to, and knows all that came.
struct Holding {
    disk: MemoryDevice,
    holds: AtomicBool,
    holds_reads: AtomicBool,
    held: Mutex<Vec<(Op, Ticket)>>,
    /// Where and with what it was written to.
    came: Mutex<Vec<(u64, u8)>>,
}

impl Holding {
    fn new() -> Arc<Self> {
        let (disk, holds, holds_reads) =
            (MemoryDevice::new(SIZE), AtomicBool::new(true), AtomicBool::new(false));
        Arc::new(Self { disk, holds, holds_reads, held: Mutex::default(), came: Mutex::default() })
    }

    fn release(&self) {
        let held: Vec<_> = self.held.lock().unwrap().drain(..).collect();
        held.into_iter().for_each(|(op, ticket)| self.disk.submit(op, ticket));
    }
}

impl BlockDevice for Holding {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }

    fn submit(&self, op: Op, ticket: Ticket) {
        if let Op::Write { offset, data, .. } = &op {
            self.came.lock().unwrap().push((*offset, data[0]));
            if self.holds.load(Ordering::SeqCst) {
                return self.held.lock().unwrap().push((op, ticket));
            }
        }
        if matches!(op, Op::Read { .. }) && self.holds_reads.load(Ordering::SeqCst) {
            return self.held.lock().unwrap().push((op, ticket));
        }
        self.disk.submit(op, ticket);
    }
}

struct Rig {
    disk: Arc<Holding>,
    front: FrontHandle,
}

impl Rig {
    fn new(limits: Limits) -> Self {
        let disk = Holding::new();
        let exports = Disks::of("a", disk.clone());
        let front = Front::start(&["127.0.0.1:0".parse().unwrap()], exports, limits).unwrap();
        Self { disk, front }
    }

    fn open(&self) -> Client<TcpStream> {
        let mut client = connect_tcp(&self.front);
        client.greet();
        client.choose(GO, "a").unwrap();
        client
    }

    /// A client with writes of ones, of which one is held up.
    fn writing(&self, blocks: u64) -> Client<TcpStream> {
        let mut client = self.open();
        for block in 0..blocks {
            client.request(1, block, block * BLOCK, &[1; BLOCK as usize], BLOCK as u32).unwrap();
        }
        wait_until("the write", || self.disk.held.lock().unwrap().len() == 1);
        self.disk.holds.store(false, Ordering::SeqCst);
        client
    }

    /// A client that has sent writes of ones, of which one is held up, until no more went; the block of the last of them.
    fn flooding(&self) -> (Client<TcpStream>, u64) {
        let mut client = self.writing(1);
        client.0.set_write_timeout(Some(SOON)).unwrap();
        let request = |block: u64| {
            let at = block * BLOCK;
            let head = [&[0x25, 0x60, 0x95, 0x13, 0, 0, 0, 1][..], &block.to_be_bytes(), &at.to_be_bytes()];
            [&head.concat()[..], &(BLOCK as u32).to_be_bytes(), &[1; BLOCK as usize]].concat()
        };
        let all: Vec<u8> = (1..SIZE / BLOCK).flat_map(request).collect();
        let mut sent = 0;
        while let Ok(n) = client.0.write(&all[sent..]) {
            sent += n;
            assert!(sent < all.len(), "it all went");
        }
        (client, (sent / request(0).len()) as u64)
    }

    /// The client is here again and writes a two; what is held up goes on when that has to wait, or is done.
    fn write_anew(&self, block: u64) -> Client<TcpStream> {
        let mut client = self.open();
        client.request(1, 9, block * BLOCK, &[2; BLOCK as usize], BLOCK as u32).unwrap();
        client.0.set_read_timeout(Some(SOON)).unwrap();
        let answered = client.reply().is_ok();
        client.0.set_read_timeout(Some(PATIENCE)).unwrap();
        self.disk.release();
        if !answered {
            assert_eq!(client.reply().unwrap(), (0, 9));
        }
        client
    }
}

#[test]
fn a_write_of_a_broken_connection_does_not_land_on_a_newer_one() {
    let rig = Rig::new(Limits::default());
    drop(rig.writing(1));
    let mut again = rig.write_anew(0);
    assert_eq!(again.read(0, 8), [2; 8]);
}

#[test]
fn nor_does_one_of_a_connection_that_was_ended_by_hand() {
    let rig = Rig::new(Limits::default());
    let mut first = rig.writing(1);
    assert_eq!(rig.front.end_sessions(&[rig.front.sessions()[0].id]), 0);
    first.assert_closed();
    let mut again = rig.write_anew(0);
    assert_eq!(again.read(0, 8), [2; 8]);
}

#[test]
fn what_a_client_that_hung_up_had_sent_is_not_begun_once_it_is_here_again() {
    let rig = Rig::new(one_at_a_time());
    drop(rig.writing(2));
    let mut again = rig.write_anew(1);
    wait_until("the end of the first connection", || rig.front.connections() == 1);
    assert_eq!(*rig.disk.came.lock().unwrap(), [(0, 1), (BLOCK, 2)]);
    assert_eq!((again.read(0, 8), again.read(BLOCK, 8)), (vec![1; 8], vec![2; 8]));
}

/// One write at a time, so that the others wait on their way.
fn one_at_a_time() -> Limits {
    let protocol = gateway_nbd::Limits { in_flight: 8192, ..gateway_nbd::Limits::default() };
    Limits { protocol, ..Limits::default() }
}

/// It is told that it has only behind all that it has sent, of which little fits on the way.
#[test]
fn nor_what_it_sends_before_it_is_known_to_have_hung_up() {
    let rig = Rig::new(one_at_a_time());
    let (first, last) = rig.flooding();
    first.0.shutdown(Shutdown::Write).unwrap();
    let mut again = rig.write_anew(last);
    wait_until("the end of the first connection", || rig.front.connections() == 1);
    assert!(!rig.disk.came.lock().unwrap().contains(&(last * BLOCK, 1)));
    assert_eq!(again.read(last * BLOCK, 8), [2; 8]);
}

/// Nor is it told at all, then, but who is gone takes no reply.
#[test]
fn nor_what_it_sent_when_it_takes_no_reply() {
    let rig = Rig::new(one_at_a_time());
    let (first, last) = rig.flooding();
    drop(first);
    let mut again = rig.write_anew(last);
    wait_until("the end of the first connection", || rig.front.connections() == 1);
    assert_eq!(*rig.disk.came.lock().unwrap(), [(0, 1), (last * BLOCK, 2)]);
    assert_eq!(again.read(last * BLOCK, 8), [2; 8]);
}

#[test]
fn one_that_waits_for_the_writes_of_others_and_hangs_up_is_gone_at_once() {
    let rig = Rig::new(Limits::default());
    let _first = rig.writing(1);
    let since = Instant::now();
    for sent in [512, 270 << 10] {
        let mut second = rig.open();
        second.request(1, 9, BLOCK, &vec![2; sent], sent as u32).unwrap();
        drop(second);
        wait_until("its end", || rig.front.connections() == 1);
    }
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    assert_eq!(*rig.disk.came.lock().unwrap(), [(0, 1)], "nothing of it is begun");
}

#[test]
fn one_that_waits_so_and_has_asked_for_nothing_does_not_keep_the_front_from_stopping() {
    let rig = Rig::new(Limits::default());
    let _first = rig.writing(1);
    assert_eq!(rig.front.end_sessions(&[rig.front.sessions()[0].id]), 0);
    let mut second = rig.open();
    assert_eq!(rig.front.drain_and_stop(Duration::from_secs(5)).cut_off, 0);
    second.assert_closed();
}

#[test]
fn and_what_it_has_asked_for_is_answered_all_the_same() {
    let rig = Rig::new(Limits::default());
    let _first = rig.writing(1);
    assert_eq!(rig.front.end_sessions(&[rig.front.sessions()[0].id]), 0);
    let mut second = rig.open();
    second.request(1, 9, BLOCK, &[2; BLOCK as usize], BLOCK as u32).unwrap();
    std::thread::scope(|scope| {
        let stopped = scope.spawn(|| rig.front.drain_and_stop(PATIENCE));
        second.0.set_read_timeout(Some(SOON)).unwrap();
        assert!(second.reply().is_err(), "it waits");
        second.0.set_read_timeout(Some(PATIENCE)).unwrap();
        rig.disk.release();
        assert_eq!(second.reply().unwrap(), (0, 9));
        second.assert_closed();
        assert_eq!(stopped.join().unwrap().cut_off, 0);
    });
}

#[test]
fn what_a_connection_that_was_ended_still_reads_counts_until_it_is_read() {
    let limits = Limits { connections: 4, memory: 8 << 20, ..Limits::default() };
    let rig = Rig::new(limits);
    rig.disk.holds_reads.store(true, Ordering::SeqCst);
    let mut client = rig.open();
    (0..2).for_each(|cookie| client.request(0, cookie, 0, &[], 1 << 20).unwrap());
    wait_until("the reads", || rig.disk.held.lock().unwrap().len() == 2);
    assert_eq!(rig.front.end_sessions(&[rig.front.sessions()[0].id]), 0);
    assert!(rig.front.memory().lent >= 2 << 20, "{:?}", rig.front.memory());
    let one = rig.disk.held.lock().unwrap().pop().unwrap();
    rig.disk.disk.submit(one.0, one.1);
    let lent = rig.front.memory().lent;
    assert!((1 << 20..2 << 20).contains(&lent), "{lent}");
    rig.disk.release();
    assert_eq!(rig.front.memory().lent, 0);
}

#[test]
fn connections_that_live_do_not_keep_a_new_one_waiting_for_what_they_begin_later() {
    let rig = Rig::new(Limits::default());
    let mut first = rig.writing(1);
    let mut second = rig.open();
    second.request(0, 7, 0, &[], 512).unwrap();
    rig.disk.release();
    assert_eq!(first.reply().unwrap(), (0, 0));
    assert_eq!(second.reply().unwrap(), (0, 7));
    // From here on each goes its own way.
    rig.disk.holds.store(true, Ordering::SeqCst);
    first.request(1, 8, 0, &[3; BLOCK as usize], BLOCK as u32).unwrap();
    wait_until("the write", || rig.disk.held.lock().unwrap().len() == 1);
    std::io::copy(&mut std::io::Read::take(&mut second.0, 512), &mut std::io::sink()).unwrap();
    assert_eq!(second.read(BLOCK, 512), [0; 512]);
    rig.disk.release();
    assert_eq!(first.reply().unwrap(), (0, 8));
}
