//! An initiator by hand, and a disk for it to log in to.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use gateway_front::FrontHandle;
use gateway_iscsi::{Admission, BlockLength, Identity, LogicalUnit, Target, TargetConfig};
use tap_block::BlockDevice;

pub(crate) const NAME: &str = "iqn.2026-01.example:disk";

pub(crate) fn unit(device: Arc<dyn BlockDevice>) -> Arc<LogicalUnit> {
    let identity = Identity {
        vendor: "CHRONOGT".to_owned(),
        product: "TEST".to_owned(),
        revision: "0001".to_owned(),
        serial: "front-test".to_owned(),
        naa: 0x6 << 124,
        block: BlockLength::Short,
        emulated: false,
    };
    LogicalUnit::new(identity, device, &[]).unwrap()
}

/// One of which it is the only unit, with the LUN 1.
pub(crate) fn target(unit: Arc<LogicalUnit>) -> Arc<Target> {
    Target::new(TargetConfig {
        name: NAME.to_owned(),
        alias: String::new(),
        admission: Admission::default(),
        units: vec![(1, unit)],
    })
}

/// Nothing is waited for longer than `patience`.
pub(crate) fn connect(front: &FrontHandle, patience: Duration) -> TcpStream {
    let socket = TcpStream::connect(front.addresses()[0].to_string()).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(patience)).unwrap();
    socket
}

/// A big-endian number in a header.
pub(crate) fn word(header: &[u8; 48], at: usize) -> u32 {
    u32::from_be_bytes(header[at..at + 4].try_into().unwrap())
}

/// One session.
pub(crate) struct Initiator {
    pub(crate) socket: TcpStream,
    pub(crate) cmd_sn: u32,
}

impl Initiator {
    /// Not logged in yet.
    pub(crate) fn over(socket: TcpStream) -> Self {
        Self { socket, cmd_sn: 1 }
    }

    /// With these keys, each of which ends with a zero.
    pub(crate) fn log_in(socket: TcpStream, name: &str, keys: &str) -> Self {
        let mut initiator = Self::over(socket);
        let text = format!("InitiatorName={name}\0TargetName={NAME}\0{keys}");
        assert_eq!(initiator.log_in_with(0x87, &text), [0, 0]);
        // The first command is told that there was a power on.
        assert_eq!(initiator.command(&[0; 6], 0, 0, b"").0, 2);
        initiator
    }

    /// A step of a login; its status.
    pub(crate) fn log_in_with(&mut self, stages: u8, text: &str) -> [u8; 2] {
        let mut header = [0; 48];
        (header[0], header[1], header[8], header[27]) = (0x43, stages, 0x80, 1);
        self.send(header, text.as_bytes());
        let (answer, _) = self.unit();
        [answer[36], answer[37]]
    }

    pub(crate) fn send(&mut self, mut header: [u8; 48], data: &[u8]) {
        header[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
        let mut bytes = [&header[..], data].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        self.socket.write_all(&bytes).unwrap();
    }

    pub(crate) fn unit(&mut self) -> ([u8; 48], Vec<u8>) {
        let mut header = [0; 48];
        self.socket.read_exact(&mut header).unwrap();
        let length = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
        let mut data = vec![0; length.next_multiple_of(4)];
        self.socket.read_exact(&mut data).unwrap();
        data.truncate(length);
        (header, data)
    }

    /// The header of the next command, which moves so many bytes.
    pub(crate) fn header(&mut self, cdb: &[u8], flags: u8, expected: u32) -> [u8; 48] {
        let mut header = [0; 48];
        (header[0], header[1], header[9]) = (0x01, 0x80 | flags, 1);
        header[16..20].copy_from_slice(&self.cmd_sn.to_be_bytes());
        header[20..24].copy_from_slice(&expected.to_be_bytes());
        header[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
        header[32..32 + cdb.len()].copy_from_slice(cdb);
        self.cmd_sn += 1;
        header
    }

    /// A command, the only one under way; status and data.
    pub(crate) fn command(&mut self, cdb: &[u8], flags: u8, expected: u32, data: &[u8]) -> (u8, Vec<u8>) {
        let header = self.header(cdb, flags, expected);
        self.send(header, data);
        let mut all = Vec::new();
        loop {
            let (header, data) = self.unit();
            if header[0] == 0x25 {
                all.extend(data);
            }
            if header[0] == 0x21 || header[1] & 1 != 0 {
                return (header[3], all);
            }
        }
    }
}
