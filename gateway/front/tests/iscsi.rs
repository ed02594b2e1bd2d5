//! An iSCSI front over real sockets: an initiator by hand, hostile and slow ones, and libiscsi's tools.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod initiator;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use gateway_front::{ClientId, Front, FrontHandle, IscsiLimits, Targets};
use gateway_iscsi::{LogicalUnit, Refusal, Target};
use initiator::{Initiator, NAME};
use tap_block::memory::MemoryDevice;
use tap_block::{BlockDevice, Geometry, Op, Ticket};

const SIZE: u64 = 64 << 20;
const PATIENCE: Duration = Duration::from_secs(20);
/// Whoever may overtake somebody does it within this time.
const OVERTAKEN_WITHIN: Duration = Duration::from_millis(500);

struct Disk {
    target: Arc<Target>,
    unit: Arc<LogicalUnit>,
    kept: Mutex<Vec<Vec<u8>>>,
    /// The first that is kept takes until another one is, or a while.
    first_is_slow: AtomicBool,
    another: Condvar,
}

impl Targets for Disk {
    fn list(&self, _: &str, _: &ClientId) -> Vec<String> {
        vec![NAME.to_owned()]
    }

    fn open(&self, name: &str, _: &str, _: &ClientId) -> Result<Arc<Target>, Refusal> {
        if name == NAME { Ok(self.target.clone()) } else { Err(Refusal::Unknown) }
    }

    fn keep(&self, _: &str, _: u16, reservations: &[u8]) -> Result<(), String> {
        let mut kept = self.kept.lock().unwrap();
        if self.first_is_slow.swap(false, Ordering::Relaxed) {
            let alone = |kept: &mut Vec<_>| kept.is_empty();
            (kept, _) = self.another.wait_timeout_while(kept, OVERTAKEN_WITHIN, alone).unwrap();
        }
        kept.push(reservations.to_vec());
        self.another.notify_all();
        Ok(())
    }
}

struct Rig {
    front: FrontHandle,
    device: Arc<MemoryDevice>,
    disk: Arc<Disk>,
}

impl Rig {
    fn new(limits: IscsiLimits) -> Self {
        let device = Arc::new(MemoryDevice::new(SIZE));
        Self::showing(device.clone(), device, limits)
    }

    /// Initiators are shown a disk that keeps its content in `device`.
    fn showing(shown: Arc<dyn BlockDevice>, device: Arc<MemoryDevice>, limits: IscsiLimits) -> Self {
        let unit = initiator::unit(shown);
        let target = initiator::target(unit.clone());
        let (kept, first_is_slow, another) = Default::default();
        let disk = Arc::new(Disk { target, unit, kept, first_is_slow, another });
        let front = Front::start_iscsi(&["127.0.0.1:0".parse().unwrap()], disk.clone(), limits).unwrap();
        Self { front, device, disk }
    }

    fn connect(&self) -> TcpStream {
        initiator::connect(&self.front, PATIENCE)
    }

    fn log_in(&self) -> Initiator {
        self.log_in_as("iqn.2026-01.example:test")
    }

    fn log_in_as(&self, name: &str) -> Initiator {
        Initiator::log_in(self.connect(), name, "FirstBurstLength=262144\0")
    }
}

fn ends(socket: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    match socket.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(e) => e.kind() == ErrorKind::ConnectionReset,
    }
}

/// Notes how many operations it is given at a time.
struct Counted {
    device: Arc<MemoryDevice>,
    batches: Mutex<Vec<usize>>,
}

impl BlockDevice for Counted {
    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    fn submit(&self, op: Op, ticket: Ticket) {
        self.device.submit(op, ticket);
    }

    fn submit_all(&self, batch: &mut Vec<(Op, Ticket)>) {
        self.batches.lock().unwrap().push(batch.len());
        self.device.submit_all(batch);
    }
}

#[test]
fn commands_that_came_together_are_given_to_the_disk_together() {
    let device = Arc::new(MemoryDevice::new(SIZE));
    let counted = Arc::new(Counted { device: device.clone(), batches: Mutex::default() });
    let rig = Rig::showing(counted.clone(), device, IscsiLimits::default());
    let mut initiator = rig.log_in();
    // What is sent in one go may still be read in two.
    for _ in 0..100 {
        let mut all = Vec::new();
        for block in 0..4_u8 {
            let mut header = initiator.header(&[0x2a, 0, 0, 0, 0, block, 0, 0, 1, 0], 0x20, 512);
            header[6..8].copy_from_slice(&512_u16.to_be_bytes());
            all.extend(header);
            all.extend([block + 1; 512]);
        }
        initiator.socket.write_all(&all).unwrap();
        for _ in 0..4 {
            assert_eq!(initiator.unit().0[3], 0);
        }
        assert_eq!(rig.device.content()[3 * 512..4 * 512], [4; 512]);
        if counted.batches.lock().unwrap().contains(&4) {
            return;
        }
    }
    panic!("four commands never came to the disk as one batch: {:?}", counted.batches.lock().unwrap());
}

#[test]
fn what_is_written_is_there_and_reservations_are_kept() {
    let rig = Rig::new(IscsiLimits::default());
    let mut initiator = rig.log_in();
    let data: Vec<u8> = (0..200 * 512_u32).map(|n| (n / 3).to_le_bytes()[0]).collect();
    assert_eq!(initiator.command(&[0x2a, 0, 0, 0, 0, 9, 0, 0, 200, 0], 0x20, 102_400, &data).0, 0);
    assert_eq!(rig.device.content()[9 * 512..209 * 512], data);
    let read = initiator.command(&[0x28, 0, 0, 0, 0, 9, 0, 0, 200, 0], 0x40, 102_400, b"");
    assert_eq!(read, (0, data));
    let mut list = [0; 24];
    (list[15], list[20]) = (7, 1);
    assert_eq!(initiator.command(&[0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0], 0x20, 24, &list).0, 0);
    assert_eq!(rig.disk.kept.lock().unwrap().len(), 1, "before it was answered");
    assert_eq!(rig.front.iscsi_uris(NAME, 1).len(), 1);
}

/// Two initiators register at once, and what the first one's is kept with takes its time.
#[test]
fn what_is_kept_last_of_reservations_is_how_they_are() {
    let rig = Rig::new(IscsiLimits::default());
    let mut both = ["iqn.2026-01.example:a", "iqn.2026-01.example:b"].map(|name| rig.log_in_as(name));
    rig.disk.first_is_slow.store(true, Ordering::Relaxed);
    std::thread::scope(|scope| {
        for (initiator, key) in both.iter_mut().zip(1..) {
            let mut list = [0; 24];
            (list[15], list[20]) = (key, 1);
            scope.spawn(move || {
                assert_eq!(initiator.command(&[0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0], 0x20, 24, &list).0, 0);
            });
        }
    });
    let kept = rig.disk.kept.lock().unwrap();
    assert_eq!(kept.len(), 2);
    assert_eq!(kept[1], rig.disk.unit.kept(), "who was answered is in it");
}

#[test]
fn a_session_says_who_is_logged_in_where_and_what_it_moved() {
    let rig = Rig::new(IscsiLimits::default());
    let silent = rig.connect();
    let mut initiator = rig.log_in();
    assert_eq!(initiator.command(&[0x2a, 0, 0, 0, 0, 9, 0, 0, 2, 0], 0x20, 1024, &[7; 1024]).0, 0);
    assert_eq!(initiator.command(&[0x28, 0, 0, 0, 0, 9, 0, 0, 4, 0], 0x40, 2048, b"").0, 0);
    let sessions = rig.front.sessions();
    let found = sessions.iter().find(|session| session.export.is_some()).unwrap();
    assert_eq!(found.export.as_deref(), Some(NAME));
    assert_eq!(found.initiator.as_deref(), Some("iqn.2026-01.example:test"));
    assert_eq!((found.bytes_written, found.bytes_read, found.requests), (1024, 2048, 2));
    assert!(sessions.iter().any(|session| session.export.is_none() && session.initiator.is_none()));
    assert_eq!(rig.front.end_sessions(&[found.id]), 0);
    assert!(ends(&mut initiator.socket));
    drop(silent);
}

#[test]
fn noise_and_slow_logins_are_hung_up_on_and_disturb_nobody() {
    let limits = IscsiLimits { login: Duration::from_millis(300), ..IscsiLimits::default() };
    let rig = Rig::new(limits);
    let mut initiator = rig.log_in();
    let mut slow = rig.connect();
    let mut noisy = rig.connect();
    noisy.write_all(&[0x5a; 4096]).unwrap();
    assert!(ends(&mut noisy) && ends(&mut slow));
    assert_eq!(initiator.command(&[0; 6], 0, 0, b"").0, 0, "who is logged in may take its time");
}

/// It keeps what waits for it, and would do so for ever.
#[test]
fn an_initiator_that_takes_no_answer_is_hung_up_on() {
    let rig = Rig::new(IscsiLimits { stall: Duration::from_millis(300), ..IscsiLimits::default() });
    let mut greedy = rig.log_in();
    let mut header = [0; 48];
    (header[0], header[1], header[9]) = (0x01, 0xc0, 1);
    header[20..24].copy_from_slice(&(32_u32 << 20).to_be_bytes());
    header[24..28].copy_from_slice(&greedy.cmd_sn.to_be_bytes());
    // READ(12) of 32 MiB.
    header[32] = 0xa8;
    header[38..42].copy_from_slice(&65_536_u32.to_be_bytes());
    greedy.send(header, b"");
    let since = Instant::now();
    while rig.front.connections() > 0 {
        assert!(since.elapsed() < PATIENCE, "it is still there");
        std::thread::yield_now();
    }
}

#[test]
fn a_login_in_several_steps_is_over_with_the_last_of_them() {
    let limits = IscsiLimits { login: Duration::from_millis(300), ..IscsiLimits::default() };
    let rig = Rig::new(limits);
    let mut initiator = Initiator::over(rig.connect());
    let named = format!("InitiatorName=iqn.2026-01.example:test\0TargetName={NAME}\0AuthMethod=None\0");
    for (stages, text) in [(0x81, named.as_str()), (0x87, "FirstBurstLength=262144\0")] {
        assert_eq!(initiator.log_in_with(stages, text), [0, 0]);
    }
    // Whoever came later and does not log in is hung up on.
    let mut slow = rig.connect();
    assert!(ends(&mut slow));
    let sessions = rig.front.sessions();
    assert_eq!(sessions[0].initiator.as_deref(), Some("iqn.2026-01.example:test"));
    assert_eq!(initiator.command(&[0; 6], 0, 0, b"").0, 2, "it may take its time");
}

#[test]
fn a_front_that_stops_asks_for_a_logout_first() {
    let rig = Rig::new(IscsiLimits::default());
    let mut initiator = rig.log_in();
    let Rig { front, .. } = rig;
    std::thread::scope(|scope| {
        let stopped = scope.spawn(|| front.drain_and_stop(PATIENCE));
        let (header, _) = initiator.unit();
        assert_eq!((header[0], header[36]), (0x32, 1), "please log out");
        let mut logout = [0; 48];
        (logout[0], logout[1]) = (0x46, 0x80);
        initiator.send(logout, b"");
        assert_eq!(initiator.unit().0[0], 0x26);
        assert!(ends(&mut initiator.socket));
        drop(initiator);
        assert_eq!(stopped.join().unwrap().cut_off, 0);
    });
}

#[test]
fn a_full_front_hangs_up_on_one_more() {
    let rig = Rig::new(IscsiLimits { connections: 1, ..IscsiLimits::default() });
    let mut initiator = rig.log_in();
    assert!(ends(&mut rig.connect()));
    assert_eq!(initiator.command(&[0; 6], 0, 0, b"").0, 0);
}

/// Suites of `iscsi-test-cu` that take no time; all of them are run by hand (docs/protocol-support.md).
const SUITES: &[&str] = &[
    // First, for it takes it that a block which it did not write is zero.
    "MultipathIO.CompareAndWrite",
    "CompareAndWrite.Simple",
    "ExtendedCopy.Simple",
    "Inquiry.BlockLimits",
    "Inquiry.MandatoryVPDSBC",
    "ModeSense6.Control-SWP",
    "MultipathIO.Simple",
    "OrWrite.Simple",
    "ProutPreempt.RemoveRegistration",
    "ProutReserve.AccessEARO",
    "Read16.DpoFua",
    "ReportSupportedOpcodes.RCTD",
    "Unmap.Simple",
    "Verify16.Mismatch",
    "WriteSame16.Check",
    "WriteVerify12.Simple",
    "iSCSIcmdsn.iSCSICmdSnTooHigh",
    "iSCSIResiduals.Write16Residuals",
    "iSCSITMF.AbortTaskSimpleAsync",
];

fn tool(program: &str, arguments: &[&str]) -> String {
    let out = Command::new(program).args(arguments).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{program} {arguments:?}: {text}");
    text
}

#[test]
fn libiscsi_and_its_conformance_suite_agree() {
    if Command::new("iscsi-test-cu").arg("-l").output().is_err() {
        let why = "SKIPPED libiscsi_and_its_conformance_suite_agree: no iscsi-test-cu; install libiscsi-bin";
        writeln!(std::io::stderr(), "\n{why}\n").unwrap();
        assert!(!std::env::var("CI").is_ok_and(|v| v == "true" || v == "1"), "{why} (and CI skips nothing)");
        return;
    }
    let rig = Rig::new(IscsiLimits::default());
    let uri = rig.front.iscsi_uris(NAME, 1).remove(0);
    let (portal, _) = uri.split_at(uri.find("iqn.").unwrap());
    assert!(tool("iscsi-ls", &["-s", portal]).contains("Lun:1"));
    assert!(tool("iscsi-inq", &[&uri]).contains("CHRONOGT"));
    assert!(tool("iscsi-readcapacity16", &[&uri]).contains("67108864"));
    for suite in SUITES {
        let text = tool("iscsi-test-cu", &["-d", "-S", "-t", &format!("ALL.{suite}"), &uri, &uri]);
        let ran = text.split("Suite:").nth(1).unwrap_or_default();
        assert!(ran.contains("passed") && !ran.contains("SKIPPED"), "{suite}: {text}");
        // The program succeeds whatever its tests do: the line of its table has to say that none failed.
        let tests = ran.lines().find(|line| line.trim_start().starts_with("tests ")).unwrap();
        let counts: Vec<&str> = tests.split_whitespace().collect();
        assert_eq!(counts[1..5], ["1", "1", "1", "0"], "{suite}: {text}");
    }
}
