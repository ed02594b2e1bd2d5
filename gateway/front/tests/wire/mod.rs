//! A client by hand, over any kind of socket, and disks in memory to connect to.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gateway_front::{Access, ClientId, Export, ExportEntry, Exports, FrontHandle, ListenAddress, OpenError};
use tap_block::BlockDevice;
use tap_block::memory::MemoryDevice;

pub(crate) const SIZE: u64 = 8 << 20;
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const ACK: u32 = 1;
pub(crate) const ERR_POLICY: u32 = 0x8000_0002;
pub(crate) const ERR_TLS_REQD: u32 = 0x8000_0005;

pub(crate) const LIST: u32 = 3;
pub(crate) const STARTTLS: u32 = 5;
pub(crate) const INFO: u32 = 6;
pub(crate) const GO: u32 = 7;

/// Disks by name; the empty name is the first.
#[derive(Default)]
pub(crate) struct Disks {
    devices: BTreeMap<String, Arc<dyn BlockDevice>>,
    pub(crate) opened_by: Mutex<Vec<ClientId>>,
}

impl Disks {
    pub(crate) fn new(names: &[&str]) -> Arc<Self> {
        let device = || Arc::new(MemoryDevice::new(SIZE)) as Arc<dyn BlockDevice>;
        let devices = names.iter().map(|name| ((*name).to_owned(), device())).collect();
        Arc::new(Self { devices, opened_by: Mutex::default() })
    }

    pub(crate) fn of(name: &str, device: Arc<dyn BlockDevice>) -> Arc<Self> {
        let devices = BTreeMap::from([(name.to_owned(), device)]);
        Arc::new(Self { devices, opened_by: Mutex::default() })
    }
}

impl Exports for Disks {
    fn list(&self, access: &Access) -> Vec<ExportEntry> {
        let names = self.devices.keys().filter(|name| access.allows(name)).cloned();
        names.map(|name| ExportEntry { name, description: String::new() }).collect()
    }

    fn open(&self, name: &str, client: &ClientId) -> Result<Export, OpenError> {
        let first = self.devices.keys().next().unwrap();
        let name = if name.is_empty() { first } else { name };
        self.opened_by.lock().unwrap().push(client.clone());
        let device = self.devices.get(name).ok_or_else(|| OpenError::NotFound("no such disk".to_owned()))?;
        Ok(Export { name: name.to_owned(), description: String::new(), device: device.clone() })
    }
}

pub(crate) fn connect_tcp(front: &FrontHandle) -> Client<TcpStream> {
    let address = front.addresses().into_iter().find_map(|address| match address {
        ListenAddress::Tcp(address) => Some(address),
        ListenAddress::Unix(_) => None,
    });
    let stream = TcpStream::connect(address.unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Client(stream)
}

pub(crate) fn connect_unix(front: &FrontHandle) -> Client<UnixStream> {
    let path = front.addresses().into_iter().find_map(|address| match address {
        ListenAddress::Unix(path) => Some(path),
        ListenAddress::Tcp(_) => None,
    });
    let stream = UnixStream::connect(path.unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Client(stream)
}

/// Waits for what other threads bring about.
pub(crate) fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !so() {
        assert!(since.elapsed() < PATIENCE, "{what} never came");
        std::thread::yield_now();
    }
}

pub(crate) struct Client<S>(pub(crate) S);

impl<S: Read + Write> Client<S> {
    pub(crate) fn greet(&mut self) {
        let mut greeting = [0; 18];
        self.0.read_exact(&mut greeting).unwrap();
        self.0.write_all(&[0, 0, 0, 3]).unwrap();
        self.0.flush().unwrap();
    }

    pub(crate) fn send_option(&mut self, option: u32, data: &[u8]) {
        let length = u32::try_from(data.len()).unwrap();
        let bytes = [b"IHAVEOPT", &option.to_be_bytes()[..], &length.to_be_bytes(), data].concat();
        self.0.write_all(&bytes).unwrap();
        self.0.flush().unwrap();
    }

    /// The next reply to an option.
    pub(crate) fn option_reply(&mut self) -> (u32, Vec<u8>) {
        let mut header = [0; 20];
        self.0.read_exact(&mut header).unwrap();
        assert_eq!(header[..8], 0x0003_e889_0455_65a9_u64.to_be_bytes());
        let number = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
        let mut data = vec![0; number(16) as usize];
        self.0.read_exact(&mut data).unwrap();
        (number(12), data)
    }

    /// Asks for an export; the error and its text when it is refused.
    pub(crate) fn choose(&mut self, option: u32, name: &str) -> Result<(), (u32, String)> {
        let length = u32::try_from(name.len()).unwrap().to_be_bytes();
        self.send_option(option, &[&length, name.as_bytes(), &[0, 0]].concat());
        loop {
            match self.option_reply() {
                (ACK, _) => return Ok(()),
                (kind, text) if kind > 1 << 31 => return Err((kind, String::from_utf8(text).unwrap())),
                _ => {}
            }
        }
    }

    pub(crate) fn list(&mut self) -> Vec<String> {
        self.send_option(LIST, &[]);
        let mut names = Vec::new();
        loop {
            match self.option_reply() {
                (ACK, _) => return names,
                (kind, data) => {
                    assert_eq!(kind, 2);
                    let length = u32::from_be_bytes(data[..4].try_into().unwrap()) as usize;
                    names.push(String::from_utf8(data[4..4 + length].to_vec()).unwrap());
                }
            }
        }
    }

    pub(crate) fn request(
        &mut self,
        command: u16,
        cookie: u64,
        offset: u64,
        data: &[u8],
        length: u32,
    ) -> io::Result<()> {
        let header = [
            &[0x25, 0x60, 0x95, 0x13, 0, 0][..],
            &command.to_be_bytes(),
            &cookie.to_be_bytes(),
            &offset.to_be_bytes(),
            &length.to_be_bytes(),
            data,
        ];
        self.0.write_all(&header.concat())?;
        self.0.flush()
    }

    pub(crate) fn reply(&mut self) -> io::Result<(u32, u64)> {
        let mut header = [0; 16];
        self.0.read_exact(&mut header)?;
        assert_eq!(header[..4], [0x67, 0x44, 0x66, 0x98]);
        let error = u32::from_be_bytes(header[4..8].try_into().unwrap());
        Ok((error, u64::from_be_bytes(header[8..].try_into().unwrap())))
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        self.request(1, 1, offset, data, u32::try_from(data.len()).unwrap()).unwrap();
        assert_eq!(self.reply().unwrap(), (0, 1));
    }

    pub(crate) fn read(&mut self, offset: u64, length: u32) -> Vec<u8> {
        self.request(0, 2, offset, &[], length).unwrap();
        assert_eq!(self.reply().unwrap(), (0, 2));
        let mut data = vec![0; length as usize];
        self.0.read_exact(&mut data).unwrap();
        data
    }

    /// The server has hung up: with whatever it still said, and whatever TLS says to that.
    pub(crate) fn assert_closed(&mut self) {
        let mut rest = Vec::new();
        if let Err(error) = self.0.read_to_end(&mut rest) {
            assert!(!matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{error}");
        }
    }
}
