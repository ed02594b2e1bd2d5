//! An initiator by hand: builds units, drives connections over a disk, takes answers apart.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "tests"
)]

pub(crate) mod fuzz;

use std::sync::{Arc, Mutex};

use bytes::{Buf, Bytes, BytesMut};
use gateway_iscsi::{
    Access, Action, Admission, BlockLength, Challenge, CloseReason, Connection, Identity, Limits,
    LogicalUnit, Refusal, Setup, Target, TargetConfig,
};
use tap_block::memory::MemoryDevice;
use tap_block::{Answered, BlockDevice, CompletionQueue, Op, Ticket};

pub(crate) const SIZE: u64 = 8 << 20;
pub(crate) const NAME: &str = "iqn.2026-01.example:disk";
pub(crate) const US: &str = "iqn.2026-01.example:initiator";
pub(crate) const GOOD: u8 = 0;
pub(crate) const CHECK: u8 = 2;
pub(crate) const CONFLICT: u8 = 0x18;

pub(crate) const READ: u8 = 0x40;
pub(crate) const WRITE: u8 = 0x20;
pub(crate) const FINAL: u8 = 0x80;
pub(crate) const NO_TAG: u32 = 0xffff_ffff;

/// Where outcomes wait for the connection they belong to.
#[derive(Default)]
pub(crate) struct Queue(pub(crate) Mutex<Vec<(u64, Answered)>>);

impl CompletionQueue for Queue {
    fn complete(&self, tag: u64, answered: Answered) {
        self.0.lock().unwrap().push((tag, answered));
    }
}

pub(crate) fn identity(block: BlockLength) -> Identity {
    Identity {
        vendor: "CHRONOGT".to_owned(),
        product: "TEST".to_owned(),
        revision: "0001".to_owned(),
        serial: "serial-1".to_owned(),
        naa: 0x6123_4567_89ab_cdef_0123_4567_89ab_cdef,
        block,
        emulated: true,
    }
}

pub(crate) fn unit(device: Arc<dyn BlockDevice>) -> Arc<LogicalUnit> {
    LogicalUnit::new(identity(BlockLength::Short), device, &[]).unwrap()
}

pub(crate) fn target(unit: &Arc<LogicalUnit>, access: Access) -> Arc<Target> {
    Target::new(TargetConfig {
        name: NAME.to_owned(),
        alias: "a disk".to_owned(),
        admission: Admission { access, initiators: None },
        units: vec![(1, unit.clone())],
    })
}

/// A disk with its target.
pub(crate) fn disk() -> (Arc<MemoryDevice>, Arc<LogicalUnit>, Arc<Target>) {
    let device = Arc::new(MemoryDevice::new(SIZE));
    let unit = unit(device.clone());
    let target = target(&unit, Access::Open);
    (device, unit, target)
}

/// A disk among others.
pub(crate) fn named(lun: u8, block: BlockLength) -> Identity {
    let naa = identity(block).naa + u128::from(lun);
    Identity { serial: format!("serial-{lun}"), naa, ..identity(block) }
}

/// Several disks, with the LUNs from 1 on.
pub(crate) fn serve(disks: &[(Arc<MemoryDevice>, BlockLength)]) -> Arc<Target> {
    let units = disks.iter().zip(1_u8..).map(|((disk, block), lun)| {
        let device: Arc<dyn BlockDevice> = disk.clone();
        (u16::from(lun), LogicalUnit::new(named(lun, *block), device, &[]).unwrap())
    });
    let admission = Admission { access: Access::Open, initiators: None };
    let units = units.collect();
    Target::new(TargetConfig { name: NAME.to_owned(), alias: String::new(), admission, units })
}

/// One connection with what it has sent, and what waits.
pub(crate) struct Rig {
    pub(crate) connection: Connection,
    pub(crate) target: Arc<Target>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) input: BytesMut,
    pub(crate) received: BytesMut,
    pub(crate) closed: Option<CloseReason>,
    /// Operations wait here when `held`.
    pub(crate) ops: Vec<(Arc<dyn BlockDevice>, Op, Ticket)>,
    pub(crate) held: bool,
    pub(crate) kept: Vec<Bytes>,
    pub(crate) cmd_sn: u32,
    pub(crate) itt: u32,
    /// Where commands go.
    pub(crate) lun: u8,
    /// Digests of the session: header, data.
    pub(crate) digests: (bool, bool),
}

/// A unit that came.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) header: [u8; 48],
    pub(crate) data: Bytes,
}

impl Answer {
    pub(crate) fn opcode(&self) -> u8 {
        self.header[0] & 0x3f
    }

    pub(crate) fn word(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.header[at..at + 4].try_into().unwrap())
    }

    pub(crate) fn text(&self) -> Vec<String> {
        let all = self.data.split(|&b| b == 0).filter(|piece| !piece.is_empty());
        all.map(|piece| String::from_utf8(piece.to_vec()).unwrap()).collect()
    }

    pub(crate) fn login_status(&self) -> [u8; 2] {
        assert_eq!(self.opcode(), 0x23);
        [self.header[36], self.header[37]]
    }
}

/// What a command came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) status: u8,
    pub(crate) data: Vec<u8>,
    /// Key, then the additional code and its qualifier.
    pub(crate) sense: Option<(u8, u16)>,
    pub(crate) sense_data: Vec<u8>,
    /// Flags (4 overflow, 2 underflow) and count.
    pub(crate) residual: (u8, u32),
}

pub(crate) fn good(data: &[u8]) -> Done {
    Done { status: GOOD, data: data.to_vec(), sense: None, sense_data: Vec::new(), residual: (0, 0) }
}

impl Rig {
    pub(crate) fn new(target: &Arc<Target>) -> Self {
        Self::with(target, Limits::default(), Access::Open)
    }

    pub(crate) fn with(target: &Arc<Target>, limits: Limits, discovery: Access) -> Self {
        let queue = Arc::new(Queue::default());
        let connection = Connection::new(Setup {
            limits,
            discovery,
            portal: "10.0.0.1:3260".to_owned(),
            challenge: Challenge { identifier: 7, bytes: [9; 32] },
            queue: queue.clone(),
        });
        Self {
            connection,
            target: target.clone(),
            queue,
            input: BytesMut::new(),
            received: BytesMut::new(),
            closed: None,
            ops: Vec::new(),
            held: false,
            kept: Vec::new(),
            cmd_sn: 1,
            itt: 100,
            lun: 1,
            digests: (false, false),
        }
    }

    /// Logged in with these operational keys, the first attention taken.
    pub(crate) fn ready_with(target: &Arc<Target>, isid: u8, keys: &[&str]) -> Self {
        let mut rig = Self::new(target);
        let answer = rig.log_in(isid, keys);
        assert_eq!(answer.login_status(), [0, 0], "{answer:?}");
        let first = rig.command(&[0; 6], 0, 0, b"");
        assert_eq!(first.status, CHECK, "the first command after a login is told of it");
        rig
    }

    pub(crate) fn ready(target: &Arc<Target>, isid: u8) -> Self {
        Self::ready_with(target, isid, &["InitialR2T=No", "ImmediateData=Yes"])
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        self.pump();
    }

    /// Does all there is to do.
    pub(crate) fn pump(&mut self) {
        loop {
            while let Some(action) = self.connection.poll_action(&mut self.input) {
                self.perform(action);
            }
            let bytes = self.connection.output_mut().take();
            self.received.extend_from_slice(&bytes);
            let done = std::mem::take(&mut *self.queue.0.lock().unwrap());
            if done.is_empty() && bytes.is_empty() {
                break;
            }
            for (tag, outcome) in done {
                self.connection.handle_completion(tag, outcome);
            }
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Submit { device, op, ticket } if self.held => self.ops.push((device, op, ticket)),
            Action::Submit { device, op, ticket } => device.submit(op, ticket),
            Action::Keep { reservations, ticket, .. } => {
                self.kept.push(reservations);
                ticket.complete(Ok(Bytes::new()));
            }
            Action::Resolve { target, .. } => {
                let found = if target == NAME { Ok(self.target.clone()) } else { Err(Refusal::Unknown) };
                if let Some(action) = self.connection.handle_resolved(found) {
                    self.perform(action);
                }
            }
            Action::List { .. } => {
                let names: Vec<String> = (0..300).map(|n| format!("{NAME}{n}")).collect();
                let names = [&[NAME.to_owned()][..], &names].concat();
                self.connection.handle_list(&names);
            }
            Action::Close(reason) => self.closed = Some(reason),
        }
    }

    /// Lets the `n`-th operation that waits go on.
    pub(crate) fn release(&mut self, n: usize) {
        let (device, op, ticket) = self.ops.remove(n);
        device.submit(op, ticket);
        self.pump();
    }

    pub(crate) fn release_all(&mut self) {
        while !self.ops.is_empty() {
            self.release(0);
        }
    }

    /// A unit with its padding and digests.
    pub(crate) fn frame(&self, mut header: [u8; 48], data: &[u8]) -> Vec<u8> {
        header[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
        let mut bytes = header.to_vec();
        if self.digests.0 {
            bytes.extend_from_slice(&crc32c(&header).to_le_bytes());
        }
        if !data.is_empty() {
            let mut padded = data.to_vec();
            padded.resize(data.len().next_multiple_of(4), 0);
            bytes.extend_from_slice(&padded);
            if self.digests.1 {
                bytes.extend_from_slice(&crc32c(&padded).to_le_bytes());
            }
        }
        bytes
    }

    pub(crate) fn send_unit(&mut self, header: [u8; 48], data: &[u8]) {
        let bytes = self.frame(header, data);
        self.send(&bytes);
    }

    /// The next unit that came.
    pub(crate) fn answer(&mut self) -> Answer {
        self.try_answer().expect("an answer")
    }

    pub(crate) fn try_answer(&mut self) -> Option<Answer> {
        if self.received.is_empty() {
            return None;
        }
        let header: [u8; 48] = self.received[..48].try_into().unwrap();
        self.received.advance(48);
        if self.digests.0 {
            assert_eq!(self.received.get_u32_le(), crc32c(&header));
        }
        let length = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
        let padded = self.received.split_to(length.next_multiple_of(4)).freeze();
        if self.digests.1 && length > 0 {
            assert_eq!(self.received.get_u32_le(), crc32c(&padded));
        }
        Some(Answer { header, data: padded.slice(..length) })
    }

    pub(crate) fn log_in(&mut self, isid: u8, keys: &[&str]) -> Answer {
        let name = format!("InitiatorName={US}");
        let target = format!("TargetName={NAME}");
        let all = [&[name.as_str(), &target, "SessionType=Normal"], keys].concat();
        self.login_request(isid, 0x87, &all);
        let answer = self.answer();
        let has = |key: &str| answer.text().iter().any(|pair| pair == key);
        self.digests = (has("HeaderDigest=CRC32C"), has("DataDigest=CRC32C"));
        answer
    }

    /// A login request with these flags (transit, stages).
    pub(crate) fn login_request(&mut self, isid: u8, flags: u8, keys: &[&str]) {
        let mut header = [0; 48];
        header[0] = 0x43;
        header[1] = flags;
        header[8..14].copy_from_slice(&[0x80, 0, 0, 0, 0, isid]);
        header[16..20].copy_from_slice(&1_u32.to_be_bytes());
        header[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
        let mut text = Vec::new();
        for key in keys {
            text.extend_from_slice(key.as_bytes());
            text.push(0);
        }
        let digests = std::mem::take(&mut self.digests);
        self.send_unit(header, &text);
        self.digests = digests;
    }

    /// A command's header; the number is taken.
    pub(crate) fn command_header(&mut self, cdb: &[u8], flags: u8, expected: u32) -> [u8; 48] {
        let mut header = [0; 48];
        header[0] = 0x01;
        header[1] = flags;
        header[9] = self.lun;
        self.itt += 1;
        header[16..20].copy_from_slice(&self.itt.to_be_bytes());
        header[20..24].copy_from_slice(&expected.to_be_bytes());
        header[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        header[32..32 + cdb.len()].copy_from_slice(cdb);
        header
    }

    /// Starts a command with all its data immediate.
    pub(crate) fn start(&mut self, cdb: &[u8], flags: u8, expected: u32, data: &[u8]) -> u32 {
        let header = self.command_header(cdb, flags | FINAL, expected);
        self.send_unit(header, data);
        self.itt
    }

    pub(crate) fn command(&mut self, cdb: &[u8], flags: u8, expected: u32, data: &[u8]) -> Done {
        let itt = self.start(cdb, flags, expected, data);
        self.done(itt)
    }

    /// A command that reads as much as its CDB says.
    pub(crate) fn reading(&mut self, cdb: &[u8], expected: u32) -> Done {
        self.command(cdb, READ, expected, b"")
    }

    /// A command with data that fits into one unit.
    pub(crate) fn writing(&mut self, cdb: &[u8], data: &[u8]) -> Done {
        self.command(cdb, WRITE, data.len() as u32, data)
    }

    /// The whole answer to a command.
    pub(crate) fn done(&mut self, itt: u32) -> Done {
        let mut data = Vec::new();
        let mut number = 0;
        loop {
            let answer = self.answer();
            assert_eq!(answer.word(16), itt, "{answer:?}");
            match answer.opcode() {
                0x25 => {
                    assert_eq!((answer.word(36), answer.word(40) as usize), (number, data.len()));
                    number += 1;
                    data.extend_from_slice(&answer.data);
                    if answer.header[1] & 1 != 0 {
                        let residual = (answer.header[1] & 6, answer.word(44));
                        let status = answer.header[3];
                        return Done { status, data, sense: None, sense_data: Vec::new(), residual };
                    }
                }
                0x21 => return finished(&answer, data),
                other => panic!("unit {other:#x} instead of an answer"),
            }
        }
    }

    /// A unit of Data-Out.
    pub(crate) fn data_out(&mut self, itt: u32, ttt: u32, sn: u32, offset: u32, data: &[u8], last: bool) {
        let mut header = [0; 48];
        header[0] = 0x05;
        header[1] = if last { FINAL } else { 0 };
        header[9] = self.lun;
        header[16..20].copy_from_slice(&itt.to_be_bytes());
        header[20..24].copy_from_slice(&ttt.to_be_bytes());
        header[36..40].copy_from_slice(&sn.to_be_bytes());
        header[40..44].copy_from_slice(&offset.to_be_bytes());
        self.send_unit(header, data);
    }

    /// A task management request, immediate; its answer is still to come.
    pub(crate) fn manage(&mut self, function: u8, task: u32) -> u32 {
        let mut header = [0; 48];
        header[0] = 0x42;
        header[1] = FINAL | function;
        header[9] = self.lun;
        self.itt += 1;
        header[16..20].copy_from_slice(&self.itt.to_be_bytes());
        header[20..24].copy_from_slice(&task.to_be_bytes());
        header[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
        self.send_unit(header, b"");
        self.itt
    }
}

fn finished(answer: &Answer, data: Vec<u8>) -> Done {
    let sense_data = answer.data.get(2..).unwrap_or_default().to_vec();
    let sense = match sense_data.first() {
        None => None,
        Some(0x72) => Some((sense_data[1], u16::from_be_bytes([sense_data[2], sense_data[3]]))),
        Some(_) => Some((sense_data[2], u16::from_be_bytes([sense_data[12], sense_data[13]]))),
    };
    let residual = (answer.header[1] & 6, answer.word(44));
    Done { status: answer.header[3], data, sense, sense_data, residual }
}

/// Bit by bit, so that it shares nothing with what is tested.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

/// READ(16) and its like.
pub(crate) fn cdb16(opcode: u8, flags: u8, lba: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[1] = flags;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

/// READ(10) and its like.
pub(crate) fn cdb10(opcode: u8, flags: u8, lba: u32, blocks: u16) -> [u8; 10] {
    let [a, b, c, d] = lba.to_be_bytes();
    let [e, f] = blocks.to_be_bytes();
    [opcode, flags, a, b, c, d, 0, e, f, 0]
}
