//! A front over real sockets: clients by hand, well-behaved, slow and hostile.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use gateway_front::{
    Access, ClientId, Export, ExportEntry, Exports, Front, FrontHandle, Limits, ListenAddress, ListenError,
    OpenError,
};
use tap_block::memory::MemoryDevice;
use tap_block::{Answer, BlockDevice, Geometry, Map, Name, Op, State, Stretch, Ticket};

const SIZE: u64 = 8 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

/// A device that does nothing until the gate opens, then works on a thread of its own.
struct Gated {
    disk: Arc<MemoryDevice>,
    waiting: Mutex<Vec<(Op, Ticket)>>,
    came: Condvar,
}

impl Gated {
    fn new() -> Arc<Self> {
        let disk = Arc::new(MemoryDevice::new(SIZE));
        Arc::new(Self { disk, waiting: Mutex::default(), came: Condvar::new() })
    }

    /// Waits until `n` operations are held.
    fn wait_for(&self, n: usize) {
        let waiting = self.waiting.lock().unwrap();
        let (_guard, late) = self.came.wait_timeout_while(waiting, PATIENCE, |w| w.len() < n).unwrap();
        assert!(!late.timed_out(), "{n} operations never came");
    }

    /// Lets everything held go, last first, from another thread.
    fn open(&self) {
        let held: Vec<_> = self.waiting.lock().unwrap().drain(..).rev().collect();
        let disk = self.disk.clone();
        std::thread::spawn(move || held.into_iter().for_each(|(op, ticket)| disk.submit(op, ticket)));
    }
}

impl BlockDevice for Gated {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }

    fn submit(&self, op: Op, ticket: Ticket) {
        self.waiting.lock().unwrap().push((op, ticket));
        self.came.notify_all();
    }
}

/// A disk with one bookmark, which looks it up and tells what changed on threads of its own.
struct Marked(Arc<MemoryDevice>);

impl BlockDevice for Marked {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }

    fn submit(&self, op: Op, ticket: Ticket) {
        let disk = self.0.clone();
        std::thread::spawn(move || match op {
            Op::Status { extent, maps, .. } if matches!(maps[..], [Map::ChangedSince(_)]) => {
                let stretch = |length, state| Stretch { length, state };
                let rest = extent.length() - 4096;
                let told = vec![stretch(4096, State::Changed), stretch(rest, State::Same)];
                ticket.answer(Ok(Answer::Status(vec![told])));
            }
            op => disk.submit(op, ticket),
        });
    }

    fn has_bookmark(&self, name: &Name) -> bool {
        name.as_str() == "monday"
    }

    fn newest_bookmarks(&self, _: usize) -> Vec<Name> {
        vec!["monday".parse().unwrap()]
    }
}

/// Notes of each operation whether it may be waited for where it is submitted.
struct Noting {
    disk: MemoryDevice,
    alone: Mutex<Vec<bool>>,
}

impl BlockDevice for Noting {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }

    fn submit(&self, op: Op, ticket: Ticket) {
        self.alone.lock().unwrap().push(ticket.is_alone());
        self.disk.submit(op, ticket);
    }
}

struct Disks {
    devices: BTreeMap<String, Arc<dyn BlockDevice>>,
    opened_by: Mutex<Vec<ClientId>>,
    /// Opening the export `slow` waits here.
    slow: Mutex<Option<Receiver<()>>>,
}

impl Exports for Disks {
    fn list(&self, access: &Access) -> Vec<ExportEntry> {
        let names = self.devices.keys().filter(|name| access.allows(name)).cloned();
        names.map(|name| ExportEntry { name, description: String::new() }).collect()
    }

    fn open(&self, name: &str, client: &ClientId) -> Result<Export, OpenError> {
        if name == "slow"
            && let Some(gate) = &*self.slow.lock().unwrap()
        {
            let _ = gate.recv_timeout(PATIENCE);
        }
        self.opened_by.lock().unwrap().push(client.clone());
        let device = self.devices.get(name).ok_or_else(|| OpenError::NotFound("no such disk".to_owned()))?;
        Ok(Export { name: name.to_owned(), description: String::new(), device: device.clone() })
    }
}

struct Rig {
    front: FrontHandle,
    folder: tempfile::TempDir,
    gated: Arc<Gated>,
    noting: Arc<Noting>,
    disks: Arc<Disks>,
    open_slow: Sender<()>,
}

impl Rig {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let gated = Gated::new();
        let noting = Arc::new(Noting { disk: MemoryDevice::new(SIZE), alone: Mutex::default() });
        let mut devices: BTreeMap<String, Arc<dyn BlockDevice>> = BTreeMap::new();
        devices.insert("disk".to_owned(), Arc::new(MemoryDevice::new(SIZE)));
        devices.insert("slow".to_owned(), Arc::new(MemoryDevice::new(SIZE)));
        devices.insert("gated".to_owned(), gated.clone());
        devices.insert("noting".to_owned(), noting.clone());
        devices.insert("marked".to_owned(), Arc::new(Marked(Arc::new(MemoryDevice::new(SIZE)))));
        let (open_slow, slow) = channel();
        let disks = Arc::new(Disks { devices, opened_by: Mutex::default(), slow: Mutex::new(Some(slow)) });
        let addresses = [ListenAddress::Unix(folder.path().join("nbd.sock")), "127.0.0.1:0".parse().unwrap()];
        let front = Front::start(&addresses, disks.clone(), limits).unwrap();
        Self { front, folder, gated, noting, disks, open_slow }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("nbd.sock")
    }

    fn connect(&self) -> Client<UnixStream> {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client(stream)
    }

    fn open(&self, name: &str) -> Client<UnixStream> {
        let mut client = self.connect();
        client.greet();
        client.go(name);
        client
    }

    /// Waits until so many clients are connected.
    fn wait_for_connections(&self, n: usize) {
        let since = Instant::now();
        while self.front.connections() != n {
            assert!(since.elapsed() < PATIENCE, "{} connections, not {n}", self.front.connections());
            std::thread::yield_now();
        }
    }
}

struct Client<S>(S);

impl<S: Read + Write> Client<S> {
    fn greet(&mut self) {
        let mut greeting = [0; 18];
        self.0.read_exact(&mut greeting).unwrap();
        self.0.write_all(&[0, 0, 0, 3]).unwrap();
    }

    fn send_go(&mut self, name: &str) {
        let mut option = b"IHAVEOPT\0\0\0\x07".to_vec();
        option.extend((name.len() as u32 + 6).to_be_bytes());
        option.extend((name.len() as u32).to_be_bytes());
        option.extend(name.as_bytes());
        option.extend([0, 0]);
        self.0.write_all(&option).unwrap();
    }

    fn go(&mut self, name: &str) {
        self.send_go(name);
        // NBD_INFO_EXPORT, then the acknowledgement.
        let mut replies = [0; 20 + 12 + 20];
        self.0.read_exact(&mut replies).unwrap();
        assert_eq!(replies[32 + 15], 1, "acknowledged");
    }

    /// Sends an option; the replies to it up to the last, as type and data.
    fn option(&mut self, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let mut bytes = b"IHAVEOPT".to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
        self.0.write_all(&bytes).unwrap();
        let mut replies = Vec::new();
        loop {
            let mut header = [0; 20];
            self.0.read_exact(&mut header).unwrap();
            let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
            let mut data = vec![0; word(16) as usize];
            self.0.read_exact(&mut data).unwrap();
            replies.push((word(12), data));
            if word(12) == 1 || word(12) >> 31 == 1 {
                return replies;
            }
        }
    }

    /// The next chunk of a structured reply: type and payload.
    fn chunk(&mut self) -> (u16, Vec<u8>) {
        let mut header = [0; 20];
        self.0.read_exact(&mut header).unwrap();
        assert_eq!(header[..4], [0x66, 0x8e, 0x33, 0xef]);
        let mut data = vec![0; u32::from_be_bytes(header[16..].try_into().unwrap()) as usize];
        self.0.read_exact(&mut data).unwrap();
        (u16::from_be_bytes([header[6], header[7]]), data)
    }

    fn request(&mut self, command: u16, cookie: u64, offset: u64, length: u32, payload: &[u8]) {
        let mut bytes = vec![0x25, 0x60, 0x95, 0x13, 0, 0];
        bytes.extend(command.to_be_bytes());
        bytes.extend(cookie.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        bytes.extend(payload);
        self.0.write_all(&bytes).unwrap();
    }

    fn reply(&mut self) -> (u32, u64) {
        let mut header = [0; 16];
        self.0.read_exact(&mut header).unwrap();
        assert_eq!(header[..4], [0x67, 0x44, 0x66, 0x98]);
        (
            u32::from_be_bytes(header[4..8].try_into().unwrap()),
            u64::from_be_bytes(header[8..].try_into().unwrap()),
        )
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.request(1, 1, offset, data.len() as u32, data);
        assert_eq!(self.reply(), (0, 1));
    }

    fn read(&mut self, offset: u64, length: usize) -> Vec<u8> {
        self.request(0, 2, offset, length as u32, &[]);
        assert_eq!(self.reply(), (0, 2));
        let mut data = vec![0; length];
        self.0.read_exact(&mut data).unwrap();
        data
    }

    /// The server has hung up.
    fn assert_closed(&mut self) {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(e) => assert_eq!(e.kind(), ErrorKind::ConnectionReset, "{e}"),
        }
    }
}

#[test]
fn both_kinds_of_socket_serve_the_same_disk() {
    let rig = Rig::new();
    let mut local = rig.open("disk");
    local.write(5000, b"hello");
    let ListenAddress::Tcp(address) = &rig.front.addresses()[1] else { panic!("a TCP address") };
    let mut remote = Client(TcpStream::connect(address).unwrap());
    remote.greet();
    remote.go("disk");
    assert_eq!(remote.read(5000, 5), b"hello");
    let clients = rig.disks.opened_by.lock().unwrap().clone();
    let me = i32::try_from(std::process::id()).unwrap();
    assert!(matches!(clients[0], ClientId::Unix { pid: Some(pid), .. } if pid == me));
    assert_eq!(clients[1], ClientId::Tcp("127.0.0.1".parse().unwrap()));
    let uris = rig.front.uris("disk");
    assert_eq!(uris[0], format!("nbd+unix:///disk?socket={}", rig.socket().display()));
    assert_eq!(uris[1], format!("nbd://{address}/disk"));
}

#[test]
fn many_requests_are_under_way_and_answered_as_they_complete() {
    let rig = Rig::new();
    let mut client = rig.open("gated");
    for cookie in 0..200 {
        client.request(1, cookie, cookie * 4096, 4096, &[cookie as u8; 4096]);
    }
    rig.gated.wait_for(200);
    rig.gated.open();
    for cookie in (0..200).rev() {
        assert_eq!(client.reply(), (0, cookie));
    }
    assert_eq!(rig.gated.disk.content()[7 * 4096], 7);
}

#[test]
fn only_a_client_that_sends_one_request_at_a_time_may_be_waited_for() {
    let rig = Rig::new();
    let mut client = rig.open("noting");
    (0..12).for_each(|_| client.write(0, &[1; 512]));
    let one_by_one = std::mem::take(&mut *rig.noting.alone.lock().unwrap());
    assert!(!one_by_one[0] && one_by_one[11], "{one_by_one:?}");
    let mut burst = Vec::new();
    for _ in 0..12 {
        burst.extend([0x25, 0x60, 0x95, 0x13, 0, 0, 0, 0]);
        burst.extend([0; 16]);
        burst.extend(512_u32.to_be_bytes());
    }
    client.0.write_all(&burst).unwrap();
    client.0.read_exact(&mut [0; 12 * (16 + 512)]).unwrap();
    let together = std::mem::take(&mut *rig.noting.alone.lock().unwrap());
    assert!(!together.contains(&true), "{together:?}");
}

#[test]
fn large_requests_pass_and_leave_the_connection_well() {
    let rig = Rig::new();
    let mut client = rig.open("disk");
    let data: Vec<u8> = (0..SIZE as usize).map(|n| (n / 4096) as u8).collect();
    for _ in 0..3 {
        client.write(0, &data);
        client.write(4096, &data[..4096]);
        assert!(client.read(0, SIZE as usize)[8192..] == data[8192..]);
    }
}

#[test]
fn stopping_answers_what_was_sent_and_hangs_up() {
    let rig = Rig::new();
    let mut busy = rig.open("gated");
    let mut idle = rig.open("disk");
    for cookie in 0..50 {
        busy.request(1, cookie, 0, 512, &[1; 512]);
    }
    rig.gated.wait_for(1);
    let gated = rig.gated.clone();
    let opener = std::thread::spawn(move || {
        gated.wait_for(50);
        gated.open();
    });
    let drained = rig.front.drain_and_stop(PATIENCE);
    opener.join().unwrap();
    assert_eq!(drained.cut_off, 0);
    let mut cookies: Vec<u64> = (0..50).map(|_| busy.reply().1).collect();
    cookies.sort_unstable();
    assert_eq!(cookies, (0..50).collect::<Vec<_>>());
    busy.assert_closed();
    idle.assert_closed();
    assert!(!rig.socket().exists());
    assert!(UnixStream::connect(rig.socket()).is_err());
}

#[test]
fn what_is_asked_after_the_stop_has_begun_is_told_so() {
    const SHUTTING_DOWN: u32 = 108;
    let rig = Rig::new();
    let mut client = rig.open("gated");
    client.request(0, 1, 0, 512, &[]);
    rig.gated.wait_for(1);
    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| rig.front.drain_and_stop(PATIENCE));
        let mut replies = Client(client.0.try_clone().unwrap());
        let told = scope.spawn(move || replies.reply());
        // One at a time, until one is not given to the disk any more.
        let mut sent = 1;
        while !told.is_finished() {
            sent += 1;
            client.request(0, sent, 0, 512, &[]);
            while !told.is_finished() && (rig.gated.waiting.lock().unwrap().len() as u64) < sent {
                std::thread::yield_now();
            }
        }
        assert_eq!(told.join().unwrap(), (SHUTTING_DOWN, sent));
        rig.gated.open();
        assert_eq!(stopping.join().unwrap().cut_off, 0);
    });
}

#[test]
fn a_client_that_never_gets_done_is_cut_off_when_the_time_is_up() {
    let rig = Rig::new();
    let mut client = rig.open("gated");
    client.request(0, 1, 0, 512, &[]);
    rig.gated.wait_for(1);
    assert_eq!(rig.front.drain_and_stop(Duration::from_millis(100)).cut_off, 1);
    assert_eq!(rig.front.connections(), 0);
    client.assert_closed();
}

#[test]
fn a_client_that_never_stops_asking_does_not_keep_the_front_from_stopping() {
    let rig = Rig::new();
    let mut client = rig.open("disk");
    let mut replies = Client(client.0.try_clone().unwrap());
    let asking = std::thread::spawn(move || {
        let flush = [&[0x25, 0x60, 0x95, 0x13, 0, 0, 0, 3][..], &[0; 20]].concat().repeat(100);
        while client.0.write_all(&flush).is_ok() {}
    });
    let (heard, hearing) = channel();
    let listening = std::thread::spawn(move || {
        let mut answered = [0; 1600];
        while replies.0.read_exact(&mut answered).is_ok() {
            let _ = heard.send(());
        }
    });
    hearing.recv_timeout(PATIENCE).unwrap();
    assert_eq!(rig.front.drain_and_stop(PATIENCE).cut_off, 0);
    asking.join().unwrap();
    listening.join().unwrap();
}

#[test]
fn a_client_that_hangs_up_leaves_its_place() {
    let rig = Rig::new();
    for n in 0..4 {
        let mut client = rig.open("disk");
        match n {
            0 => {}
            1 => client.0.write_all(&[0; 7]).unwrap(),
            2 => client.request(2, 0, 0, 0, &[]),
            _ => client.request(1, 0, 0, 4096, b"not all of it"),
        }
    }
    rig.wait_for_connections(0);
}

#[test]
fn a_client_that_dawdles_in_its_handshake_is_hung_up_on() {
    let rig = Rig::with(Limits { handshake: Duration::from_millis(100), ..Limits::default() });
    let mut dawdling = rig.connect();
    dawdling.greet();
    dawdling.assert_closed();
    // The export once chosen, there is no hurry; nor is a slow lookup the client's fault.
    let mut slow = rig.connect();
    slow.greet();
    slow.send_go("slow");
    let mut patient = rig.open("disk");
    dawdling = rig.connect();
    dawdling.greet();
    dawdling.assert_closed();
    assert_eq!(patient.read(0, 512), [0; 512]);
    rig.open_slow.send(()).unwrap();
    let mut replies = [0; 52];
    slow.0.read_exact(&mut replies).unwrap();
    assert_eq!(slow.read(0, 512), [0; 512]);
}

#[test]
fn a_slow_lookup_stalls_nobody_and_not_the_stop() {
    let rig = Rig::new();
    let mut waiting = rig.connect();
    waiting.greet();
    waiting.send_go("slow");
    assert_eq!(rig.open("disk").read(0, 512), [0; 512]);
    assert_eq!(rig.front.drain_and_stop(PATIENCE).cut_off, 0);
    waiting.assert_closed();
}

#[test]
fn a_client_that_reads_no_replies_is_bounded_and_stalls_nobody() {
    let protocol = gateway_nbd_limits(1 << 20);
    let rig = Rig::with(Limits { protocol, ..Limits::default() });
    let mut greedy = rig.open("gated");
    greedy.0.set_write_timeout(Some(PATIENCE)).unwrap();
    for cookie in 0..64 {
        greedy.request(0, cookie, 0, 256 << 10, &[]);
    }
    rig.gated.wait_for(3);
    assert!(rig.gated.waiting.lock().unwrap().len() <= 4);
    rig.gated.open();
    let mut other = rig.open("disk");
    other.write(0, &[1; 4096]);
    assert_eq!(other.read(0, 4096), [1; 4096]);
}

fn gateway_nbd_limits(in_flight: u64) -> gateway_nbd::Limits {
    gateway_nbd::Limits { in_flight, ..gateway_nbd::Limits::default() }
}

#[test]
fn noise_at_every_port_disturbs_nobody() {
    let rig = Rig::new();
    let mut good = rig.open("disk");
    let mut state = 7_u64;
    for _ in 0..8 {
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u8
        })
        .take(1 << 20)
        .collect();
        let mut bad = rig.connect();
        let _ = bad.0.write_all(&noise);
        bad.assert_closed();
        let mut worse = rig.open("disk");
        let _ = worse.0.write_all(&noise);
        worse.assert_closed();
    }
    good.write(0, b"still here");
    assert_eq!(good.read(0, 10), b"still here");
}

#[test]
fn a_full_front_tells_one_more_and_hangs_up_on_a_crowd() {
    let rig = Rig::with(Limits { connections: 2, ..Limits::default() });
    let (first, mut second) = (rig.open("disk"), rig.open("disk"));
    let mut told = rig.connect();
    told.greet();
    told.send_go("disk");
    let mut header = [0; 20];
    told.0.read_exact(&mut header).unwrap();
    let policy = 0x8000_0002_u32.to_be_bytes();
    let (kind, length) = (&header[12..16], u32::from_be_bytes(header[16..].try_into().unwrap()));
    assert_eq!(kind, policy);
    let mut text = vec![0; length as usize];
    told.0.read_exact(&mut text).unwrap();
    assert!(String::from_utf8(text).unwrap().starts_with("there are 2 connections already"));
    let crowd: Vec<_> = (0..15).map(|_| rig.connect()).collect();
    rig.wait_for_connections(18);
    rig.connect().assert_closed();
    drop((first, told, crowd));
    rig.wait_for_connections(1);
    assert_eq!(second.read(0, 512), [0; 512]);
    rig.open("disk").write(0, b"in");
}

fn start(address: ListenAddress) -> Result<FrontHandle, ListenError> {
    let disks = Disks { devices: BTreeMap::new(), opened_by: Mutex::default(), slow: Mutex::default() };
    Front::start(&[address], Arc::new(disks), Limits::default())
}

#[test]
fn stale_sockets_are_replaced_and_living_ones_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nbd.sock");
    // A listener that is dropped leaves its file behind, as a killed process does.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let first = start(ListenAddress::Unix(path.clone())).unwrap();
    let second = start(ListenAddress::Unix(path.clone()));
    let Err(error @ ListenError::InUse(_)) = second else { panic!("refused") };
    assert!(error.to_string().contains("another process is answering there"), "{error}");
    assert!(path.exists());
    drop(first);
    assert!(!path.exists());
}

#[test]
fn files_that_are_no_sockets_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("precious.txt");
    std::fs::write(&path, "data").unwrap();
    assert!(matches!(start(ListenAddress::Unix(path.clone())), Err(ListenError::NotASocket(_))));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
    let nowhere = start(ListenAddress::Unix(Path::new("/nonexistent/nbd.sock").to_owned()));
    assert!(matches!(nowhere, Err(ListenError::Io { .. })));
}

#[test]
fn a_port_can_be_had_again_at_once_and_not_twice() {
    let first = start("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = first.addresses().remove(0);
    assert!(matches!(start(address.clone()), Err(ListenError::InUse(_))));
    let ListenAddress::Tcp(text) = &address else { panic!("a TCP address") };
    let mut client = Client(TcpStream::connect(text).unwrap());
    client.greet();
    first.drain_and_stop(PATIENCE);
    let again = start(address).unwrap();
    assert_eq!(again.connections(), 0);
}

/// `NBD_OPT_SET_META_CONTEXT` or `NBD_OPT_LIST_META_CONTEXT` of one query.
fn context(export: &str, query: &str) -> Vec<u8> {
    let mut data = (export.len() as u32).to_be_bytes().to_vec();
    data.extend(export.as_bytes());
    data.extend(1_u32.to_be_bytes());
    data.extend((query.len() as u32).to_be_bytes());
    data.extend(query.as_bytes());
    data
}

#[test]
fn bookmarks_are_looked_up_and_what_changed_is_told() {
    let rig = Rig::new();
    let mut client = rig.connect();
    client.greet();
    assert_eq!(client.option(8, b""), [(1, vec![])]);
    let listed = client.option(9, &context("marked", "qemu:dirty-bitmap:"));
    assert_eq!(listed, [(4, b"\0\0\0\0qemu:dirty-bitmap:monday".to_vec()), (1, vec![])]);
    assert_eq!(client.option(9, &context("disk", "qemu:dirty-bitmap:")), [(1, vec![])]);
    assert_eq!(client.option(10, &context("marked", "qemu:dirty-bitmap:tuesday")), [(1, vec![])]);
    let set = client.option(10, &context("marked", "qemu:dirty-bitmap:monday"));
    assert_eq!(set, [(4, b"\0\0\0\0qemu:dirty-bitmap:monday".to_vec()), (1, vec![])]);
    client.go("marked");
    for _ in 0..20 {
        client.request(7, 5, 8192, 12288, &[]);
    }
    for _ in 0..20 {
        let (kind, data) = client.chunk();
        assert_eq!(kind, 5);
        assert_eq!(data[4..], [0, 0, 16, 0, 0, 0, 0, 1, 0, 0, 32, 0, 0, 0, 0, 0]);
    }
    client.request(0, 6, 0, 512, &[]);
    assert_eq!(client.chunk(), (1, vec![0; 520]));
}

#[test]
fn a_client_that_asks_for_maps_only_keeps_nobody_waiting() {
    let rig = Rig::new();
    let mut greedy = rig.connect();
    greedy.greet();
    greedy.option(8, b"");
    greedy.option(10, &context("gated", "base:allocation"));
    greedy.go("gated");
    for _ in 0..100 {
        greedy.request(7, 1, 0, 4096, &[]);
    }
    rig.gated.wait_for(8);
    // No more of them are under way before one is answered, and the others are served meanwhile.
    let mut honest = rig.open("disk");
    honest.write(0, b"served");
    assert_eq!(honest.read(0, 6), b"served");
    assert_eq!(rig.gated.waiting.lock().unwrap().len(), 8);
    let mut answered = 0;
    while answered < 100 {
        rig.gated.open();
        assert_eq!(greedy.chunk().0, 5);
        answered += 1;
    }
}
