//! Initiators with large commands under a small bound on memory: what they hold has that bound, and none waits for ever.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod initiator;
mod wire;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gateway_front::{ClientId, Front, FrontHandle, IscsiLimits, Limits, Memory, Security, Targets};
use gateway_iscsi::{Refusal, Target};
use initiator::{Initiator, NAME, word};
use tap_block::memory::MemoryDevice;
use tap_block::units::count;
use tap_block::{BlockDevice, Geometry, Op, Ticket};
use wire::{Client, Disks, GO, PATIENCE, connect_tcp, wait_until};

const MEMORY: u64 = 16 << 20;
const CONNECTIONS: usize = 16;
/// Each has a part of the disk to itself.
const PART: u64 = 8 << 20;
const UNIT: usize = 256 << 10;

/// A disk that holds operations until it is let go on: one at a time, the newest first.
struct Slow {
    disk: MemoryDevice,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    all: Vec<(Op, Ticket)>,
    bytes: u64,
    most: u64,
    /// What each initiator has asked for and has not come here.
    missing: [u64; CONNECTIONS],
}

/// Where and how much.
fn stretch(op: &Op) -> (u64, u64) {
    match op {
        Op::Write { offset, data, .. } => (*offset, count(data.len())),
        Op::Read { extent } => (extent.offset(), extent.length()),
        other => panic!("{other:?}"),
    }
}

impl Slow {
    fn new() -> Arc<Self> {
        Arc::new(Self { disk: MemoryDevice::new(CONNECTIONS as u64 * PART), held: Mutex::default() })
    }

    /// An initiator is going to ask for so much.
    fn expect(&self, no: u8, bytes: usize) {
        self.held.lock().unwrap().missing[usize::from(no)] += count(bytes);
    }

    /// Does one of those that it holds; is there any?
    fn go_on(&self) -> bool {
        let mut held = self.held.lock().unwrap();
        let Some((op, ticket)) = held.all.pop() else { return false };
        held.bytes -= stretch(&op).1;
        drop(held);
        self.disk.submit(op, ticket);
        true
    }

    /// Does nobody go on before it does something? Each waits for memory, or has brought here all that it asked for.
    fn is_waited_for(&self, front: &FrontHandle) -> bool {
        let waiting = front.memory().waiting;
        let missing = self.held.lock().unwrap().missing;
        missing.iter().filter(|&&bytes| bytes > 0).count() == waiting
    }

    fn most(&self) -> u64 {
        self.held.lock().unwrap().most
    }
}

impl BlockDevice for Slow {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }

    fn submit(&self, op: Op, ticket: Ticket) {
        let mut held = self.held.lock().unwrap();
        let (at, bytes) = stretch(&op);
        held.missing[(at / PART) as usize] -= bytes;
        held.bytes += bytes;
        held.most = held.most.max(held.bytes);
        held.all.push((op, ticket));
    }
}

struct One(Arc<Target>);

impl Targets for One {
    fn list(&self, _: &str, _: &ClientId) -> Vec<String> {
        vec![NAME.to_owned()]
    }

    fn open(&self, _: &str, _: &str, _: &ClientId) -> Result<Arc<Target>, Refusal> {
        Ok(self.0.clone())
    }

    fn keep(&self, _: &str, _: u16, _: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

fn front(device: Arc<dyn BlockDevice>) -> FrontHandle {
    front_with(device, &Memory::new(MEMORY, CONNECTIONS))
}

fn front_with(device: Arc<dyn BlockDevice>, memory: &Memory) -> FrontHandle {
    let target = Arc::new(One(initiator::target(initiator::unit(device))));
    let limits = IscsiLimits { connections: CONNECTIONS, ..IscsiLimits::default() };
    Front::start_iscsi_sharing(&["127.0.0.1:0".parse().unwrap()], target, limits, memory).unwrap()
}

/// The same beside a front for NBD that shares its memory.
fn fronts(device: Arc<dyn BlockDevice>) -> (FrontHandle, FrontHandle) {
    let limits = Limits { connections: CONNECTIONS, memory: MEMORY, ..Limits::default() };
    let iscsi_limits = IscsiLimits { connections: CONNECTIONS, ..IscsiLimits::default() };
    let memory = limits.memory_with(Some(&iscsi_limits));
    let (at, disks) = (["127.0.0.1:0".parse().unwrap()], Disks::new(&["a"]));
    let nbd = Front::start_sharing(&at, disks, limits, Security::default(), &memory).unwrap();
    (front_with(device, &memory), nbd)
}

fn client(nbd: &FrontHandle) -> Client<std::net::TcpStream> {
    let mut client = connect_tcp(nbd);
    client.greet();
    client.choose(GO, "a").unwrap();
    client
}

/// An initiator with many commands under way.
struct Busy {
    no: u8,
    device: Arc<Slow>,
    initiator: Initiator,
    /// What each command's data is, by its tag.
    data: HashMap<u32, Vec<u8>>,
}

impl Busy {
    fn log_in(front: &FrontHandle, device: &Arc<Slow>, no: u8) -> Self {
        let socket = initiator::connect(front, PATIENCE);
        let keys = "InitialR2T=No\0ImmediateData=Yes\0MaxOutstandingR2T=8\0MaxRecvDataSegmentLength=262144\0";
        let initiator = Initiator::log_in(socket, &format!("iqn.2026-01.example:{no}"), keys);
        Self { no, device: device.clone(), initiator, data: HashMap::new() }
    }

    fn start(&mut self, cdb: &[u8], flags: u8, expected: u32, immediate: &[u8]) -> u32 {
        let header = self.initiator.header(cdb, flags, expected);
        self.initiator.send(header, immediate);
        word(&header, 16)
    }

    /// For so many bytes from a block of its part of the disk.
    fn cdb(&self, code: u8, block: u32, length: usize) -> [u8; 10] {
        self.device.expect(self.no, length);
        let block = u32::from(self.no) * (PART / 512) as u32 + block;
        let ([a, b, c, d], [e, f]) = (block.to_be_bytes(), ((length / 512) as u16).to_be_bytes());
        [code, 0, a, b, c, d, 0, e, f, 0]
    }

    fn write(&mut self, block: u32, data: Vec<u8>) {
        let cdb = self.cdb(0x2a, block, data.len());
        let itt = self.start(&cdb, 0x20, data.len() as u32, &data[..64 << 10]);
        self.data.insert(itt, data);
    }

    fn read(&mut self, block: u32, length: usize) {
        let cdb = self.cdb(0x28, block, length);
        self.start(&cdb, 0x40, length as u32, &[]);
    }

    /// Sends what is asked for, until so many commands are answered.
    fn finish(&mut self, mut commands: usize) {
        while commands > 0 {
            let (header, _) = self.initiator.unit();
            match header[0] {
                0x31 => self.answer(&header),
                0x21 => commands -= 1,
                0x25 if header[1] & 1 != 0 => commands -= 1,
                0x25 => {}
                // Is it there? It waits.
                0x20 => self.is_there(&header),
                other => panic!("unit {other:#x}"),
            }
        }
    }

    fn is_there(&mut self, asked: &[u8; 48]) {
        let mut header = [0; 48];
        (header[0], header[1]) = (0x40, 0x80);
        header[16..20].fill(0xff);
        header[20..24].copy_from_slice(&asked[20..24]);
        header[24..28].copy_from_slice(&self.initiator.cmd_sn.to_be_bytes());
        self.initiator.send(header, &[]);
    }

    /// The data that an R2T asks for.
    fn answer(&mut self, r2t: &[u8; 48]) {
        let (itt, from, length) = (word(r2t, 16), word(r2t, 40) as usize, word(r2t, 44) as usize);
        let data = self.data.remove(&itt).unwrap();
        for (n, part) in data[from..from + length].chunks(UNIT).enumerate() {
            let mut header = [0; 48];
            (header[0], header[9]) = (0x05, 1);
            header[1] = if (n + 1) * UNIT >= length { 0x80 } else { 0 };
            header[16..20].copy_from_slice(&itt.to_be_bytes());
            header[20..24].copy_from_slice(&r2t[20..24]);
            header[36..40].copy_from_slice(&(n as u32).to_be_bytes());
            header[40..44].copy_from_slice(&((from + n * UNIT) as u32).to_be_bytes());
            self.initiator.send(header, part);
        }
        self.data.insert(itt, data);
    }
}

/// Each has more under way than all may hold together.
fn crowd(front: &FrontHandle, device: &Arc<Slow>, work: impl Fn(&mut Busy, u8) -> usize + Sync) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (work, over) = (&work, &over);
        let all = (0..CONNECTIONS as u8).map(|no| {
            scope.spawn(move || {
                let mut initiator = Busy::log_in(front, device, no);
                for _ in 0..2 {
                    let commands = work(&mut initiator, no);
                    initiator.finish(commands);
                }
            })
        });
        let all: Vec<_> = all.collect();
        scope.spawn(move || {
            let _over = StopAtEnd(over);
            all.into_iter().for_each(|one| one.join().unwrap());
        });
        let since = Instant::now();
        while !over.load(Ordering::SeqCst) {
            if !(device.is_waited_for(front) && device.go_on()) {
                std::thread::yield_now();
            }
            let usage = front.memory();
            assert!(usage.lent <= usage.lendable, "{usage:?}");
            assert!(since.elapsed() < 4 * PATIENCE, "it stands still: {usage:?}");
        }
    });
}

fn assert_all_is_over(front: &FrontHandle, device: &Slow) {
    wait_until("the end of all", || front.connections() == 0);
    assert_eq!((front.memory().lent, front.memory().waiting), (0, 0));
    assert!(device.most() <= MEMORY, "{} MiB at the disk at once", device.most() >> 20);
}

struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn large_writes_and_reads_of_many_have_one_bound_and_none_waits_for_ever() {
    let device = Slow::new();
    let front = front(device.clone());
    crowd(&front, &device, six_large_ones);
    assert_all_is_over(&front, &device);
}

fn six_large_ones(initiator: &mut Busy, no: u8) -> usize {
    for n in 0..6 {
        let length = [3 << 20, 700 << 10, 4 << 20, 1 << 20, 300 << 10, 2 << 20][n];
        match (n + usize::from(no)) % 3 {
            0 => initiator.read(n as u32, length),
            _ => initiator.write(n as u32, vec![no; length]),
        }
    }
    6
}

#[test]
fn nobody_at_either_of_two_fronts_with_one_memory_waits_for_ever() {
    let device = Slow::new();
    let (front, nbd) = fronts(device.clone());
    std::thread::scope(|scope| {
        for no in 0..6 {
            let mut client = client(&nbd);
            scope.spawn(move || {
                for round in 0..12 {
                    client.write(0, &vec![no; [1_900_000, 700_000, 3_900_000][round % 3]]);
                    client.read(0, 1 << 20);
                }
            });
        }
        crowd(&front, &device, six_large_ones);
    });
    wait_until("the end of all clients", || nbd.connections() == 0);
    assert_all_is_over(&front, &device);
    assert_eq!(nbd.memory().waiting, 0);
}

/// Whoever holds what a client of another front waits for has to get on with it as well.
#[test]
fn what_one_front_has_lent_another_ones_clients_wait_for() {
    let device = Slow::new();
    let (front, nbd) = fronts(device.clone());
    let mut silent = Busy::log_in(&front, &device, 0);
    silent.write(0, vec![1; 4 << 20]);
    assert_eq!(silent.initiator.unit().0[0], 0x31);
    let mut client = client(&nbd);
    std::thread::scope(|scope| {
        scope.spawn(move || client.write(0, &vec![2; 4 << 20]));
        wait_until("that the client waits", || nbd.memory().waiting == 1);
        assert_eq!((front.memory().waiting, front.memory().lent), (0, nbd.memory().lent));
    });
    let rest = std::io::copy(&mut silent.initiator.socket, &mut std::io::sink());
    assert!(rest.is_ok_and(|rest| rest < 1024), "it is hung up on");
}

/// Others wait for what it was lent, and it sends nothing.
#[test]
fn who_does_not_send_what_it_has_room_for_is_hung_up_on_when_others_wait() {
    let device = Slow::new();
    let front = front(device.clone());
    let (mut silent, mut other) = (Busy::log_in(&front, &device, 0), Busy::log_in(&front, &device, 1));
    silent.write(0, vec![1; 4 << 20]);
    assert_eq!(silent.initiator.unit().0[0], 0x31);
    let since = Instant::now();
    std::thread::scope(|scope| {
        let other = scope.spawn(move || {
            other.write(0, vec![2; 4 << 20]);
            other.finish(1);
        });
        while !other.is_finished() {
            if !device.go_on() {
                std::thread::yield_now();
            }
        }
        other.join().unwrap();
    });
    let rest = std::io::copy(&mut silent.initiator.socket, &mut std::io::sink());
    assert!(rest.is_ok_and(|rest| rest < 1024), "it is hung up on");
    assert!(since.elapsed() < Duration::from_secs(25), "long before it would be asked whether it is there");
}

#[test]
fn what_a_session_that_was_ended_has_at_the_disk_counts_until_it_is_over() {
    let device = Slow::new();
    let front = front(device.clone());
    let mut initiator = Busy::log_in(&front, &device, 0);
    initiator.read(0, 3 << 20);
    initiator.read(0, 1 << 20);
    wait_until("both reads", || device.most() == 4 << 20);
    assert_eq!(front.end_sessions(&[front.sessions()[0].id]), 0);
    assert_eq!(front.memory().lent, 4 << 20);
    assert!(device.go_on());
    assert_eq!(front.memory().lent, 3 << 20, "the newer one is over");
    while device.go_on() {}
    assert_eq!(front.memory().lent, 0);
}
