//! A client by hand: builds messages, drives a server over a device, takes replies apart.
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

use bytes::{Buf, BufMut, Bytes, BytesMut};
use gateway_nbd::{Action, CloseReason, ExportInfo, Limits, ListEntry, Refusal, Server, Tag, Tls, Wants};
use tap_block::memory::MemoryDevice;
use tap_block::{BlockDevice, Geometry, Name, Op};

pub(crate) const SIZE: u64 = 1 << 20;
pub(crate) const FUA: u16 = 1;
pub(crate) const NO_HOLE: u16 = 2;
pub(crate) const DF: u16 = 4;
pub(crate) const REQ_ONE: u16 = 8;
pub(crate) const FAST_ZERO: u16 = 16;
pub(crate) const PAYLOAD_LEN: u16 = 32;

pub(crate) const READ: u16 = 0;
pub(crate) const WRITE: u16 = 1;
pub(crate) const DISC: u16 = 2;
pub(crate) const FLUSH: u16 = 3;
pub(crate) const TRIM: u16 = 4;
pub(crate) const CACHE: u16 = 5;
pub(crate) const WRITE_ZEROES: u16 = 6;
pub(crate) const BLOCK_STATUS: u16 = 7;

pub(crate) const OK: u32 = 0;
pub(crate) const EPERM: u32 = 1;
pub(crate) const EIO: u32 = 5;
pub(crate) const EINVAL: u32 = 22;
pub(crate) const ENOSPC: u32 = 28;
pub(crate) const ENOTSUP: u32 = 95;
pub(crate) const ESHUTDOWN: u32 = 108;

/// A server, what the client has sent and what came back.
pub(crate) struct Rig {
    pub(crate) server: Server,
    pub(crate) input: BytesMut,
    pub(crate) received: BytesMut,
    pub(crate) ops: Vec<(Tag, Op)>,
    pub(crate) closed: Option<CloseReason>,
    pub(crate) geometry: Geometry,
    /// What the device has, the newest first.
    pub(crate) bookmarks: Vec<Name>,
    /// Operations complete here at once instead of gathering.
    pub(crate) inline: Option<MemoryDevice>,
    /// What completed there.
    pub(crate) done: Vec<Op>,
    /// TLS was asked for; a test says when it has started.
    pub(crate) starting_tls: bool,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(Limits::default(), Geometry { size: SIZE, read_only: false })
    }

    pub(crate) fn read_only() -> Self {
        Self::with(Limits::default(), Geometry { size: SIZE, read_only: true })
    }

    pub(crate) fn with(limits: Limits, geometry: Geometry) -> Self {
        Self {
            server: Server::new(limits),
            input: BytesMut::new(),
            received: BytesMut::new(),
            ops: Vec::new(),
            closed: None,
            geometry,
            bookmarks: Vec::new(),
            inline: None,
            done: Vec::new(),
            starting_tls: false,
        }
    }

    /// A server where clients may or must start TLS, which is only pretended.
    pub(crate) fn with_tls(tls: Tls) -> Self {
        Self { server: Server::with_tls(Limits::default(), tls), ..Self::new() }
    }

    /// A rig in the transmission phase, its handshake behind it.
    pub(crate) fn ready(mut self) -> Self {
        self.send(&client_flags(3));
        self.send(&go("disk", &[]));
        assert!(!self.server.is_handshaking());
        self.received.clear();
        self
    }

    /// Sends bytes and does all that follows, but for the operations, which gather in `ops`.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        self.pump();
    }

    pub(crate) fn pump(&mut self) {
        while let Some(action) = self.server.poll_action(&mut self.input) {
            match action {
                Action::Resolve { name } => {
                    let resolved = self.resolve(&name);
                    self.server.handle_resolved(resolved);
                }
                Action::List => self.server.handle_list(&exports()),
                Action::Bookmarks { named, newest } => {
                    let mut found: Vec<Name> = self.bookmarks.iter().take(newest).cloned().collect();
                    found.extend(named.into_iter().filter(|name| self.bookmarks.contains(name)));
                    self.server.handle_bookmarks(&found);
                }
                Action::Submit { tag, op } => match &self.inline {
                    Some(device) => {
                        self.done.push(op.clone());
                        self.server.handle_completion(tag, tap_block::device::ask(device, op));
                    }
                    None => self.ops.push((tag, op)),
                },
                Action::StartTls => self.starting_tls = true,
                Action::Close(reason) => self.closed = Some(reason),
            }
        }
        if self.closed.is_some() {
            assert_eq!(self.server.wants(&self.input), Wants::Nothing);
        }
        let bytes = self.server.output_mut().take();
        self.received.extend_from_slice(&bytes);
    }

    fn resolve(&self, name: &str) -> Result<ExportInfo, Refusal> {
        match name {
            "disk" | "" => Ok(ExportInfo {
                name: "disk".to_owned(),
                description: "a disk".to_owned(),
                geometry: self.geometry,
            }),
            "other" => Ok(ExportInfo {
                name: "other".to_owned(),
                description: String::new(),
                geometry: self.geometry,
            }),
            "secret" => Err(Refusal::Policy("not for you".to_owned())),
            _ => Err(Refusal::Unknown(format!("no export is named {name}"))),
        }
    }

    /// Completes the `n`-th gathered operation on `device`.
    pub(crate) fn complete(&mut self, n: usize, device: &dyn BlockDevice) {
        let (tag, op) = self.ops.remove(n);
        let answered = tap_block::device::ask(device, op);
        self.server.handle_completion(tag, answered);
        self.pump();
    }

    pub(crate) fn complete_all(&mut self, device: &dyn BlockDevice) {
        while !self.ops.is_empty() {
            self.complete(0, device);
        }
    }

    /// The next simple reply's error and cookie.
    pub(crate) fn reply(&mut self) -> (u32, u64) {
        assert_eq!(self.received.get_u32(), 0x6744_6698);
        (self.received.get_u32(), self.received.get_u64())
    }

    /// A rig with the options before the export's choice sent and acknowledged.
    pub(crate) fn after(mut self, options: &[Vec<u8>]) -> Self {
        self.send(&client_flags(3));
        for option in options {
            self.send(option);
        }
        self.send(&go("disk", &[]));
        assert!(!self.server.is_handshaking());
        self.received.clear();
        self
    }

    /// With structured replies and these contexts.
    pub(crate) fn structured(self, contexts: &[&str]) -> Self {
        self.after(&[option(STRUCTURED_REPLY, b""), contexts_of(SET_META_CONTEXT, "disk", contexts)])
    }

    /// With extended headers and these contexts.
    pub(crate) fn extended(self, contexts: &[&str]) -> Self {
        self.after(&[option(EXTENDED_HEADERS, b""), contexts_of(SET_META_CONTEXT, "disk", contexts)])
    }

    /// The next chunk of a structured reply.
    pub(crate) fn chunk(&mut self) -> Chunk {
        assert_eq!(self.received.get_u32(), 0x668e_33ef);
        let (flags, kind, cookie) =
            (self.received.get_u16(), self.received.get_u16(), self.received.get_u64());
        let length = self.received.get_u32() as usize;
        Chunk { last: flags == 1, kind, cookie, data: self.received.split_to(length).freeze() }
    }

    /// The next chunk of an extended reply; `offset` is what it must repeat.
    pub(crate) fn extended_chunk(&mut self, offset: u64) -> Chunk {
        assert_eq!(self.received.get_u32(), 0x6e8a_278c);
        let (flags, kind, cookie) =
            (self.received.get_u16(), self.received.get_u16(), self.received.get_u64());
        assert_eq!(self.received.get_u64(), offset);
        let length = self.received.get_u64() as usize;
        Chunk { last: flags == 1, kind, cookie, data: self.received.split_to(length).freeze() }
    }

    /// The next reply to an option: option, type, data.
    pub(crate) fn option_reply(&mut self) -> (u32, u32, Bytes) {
        assert_eq!(self.received.get_u64(), 0x0003_e889_0455_65a9);
        let (option, kind) = (self.received.get_u32(), self.received.get_u32());
        let length = self.received.get_u32() as usize;
        (option, kind, self.received.split_to(length).freeze())
    }

    pub(crate) fn skip_greeting(&mut self) {
        self.received.advance(18);
    }
}

/// A chunk of a reply.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) last: bool,
    pub(crate) kind: u16,
    pub(crate) cookie: u64,
    pub(crate) data: Bytes,
}

impl Chunk {
    /// Of an error chunk: the error, the text, the offset if it has one.
    pub(crate) fn error(mut self) -> (u32, String, Option<u64>) {
        assert!(self.kind & 0x8000 != 0, "{self:?}");
        let (error, length) = (self.data.get_u32(), self.data.get_u16() as usize);
        let text = String::from_utf8(self.data.split_to(length).to_vec()).unwrap();
        let offset = (self.kind == ERROR_OFFSET_CHUNK).then(|| self.data.get_u64());
        assert!(self.data.is_empty());
        (error, text, offset)
    }

    /// Of a status chunk: the context, then length and flags of each stretch.
    pub(crate) fn status(mut self) -> (u32, Vec<(u64, u64)>) {
        let context = self.data.get_u32();
        let mut all = Vec::new();
        match self.kind {
            STATUS_CHUNK => {
                while self.data.has_remaining() {
                    all.push((u64::from(self.data.get_u32()), u64::from(self.data.get_u32())));
                }
            }
            STATUS_EXT_CHUNK => {
                let count = self.data.get_u32();
                all.extend((0..count).map(|_| (self.data.get_u64(), self.data.get_u64())));
                assert!(self.data.is_empty());
            }
            kind => panic!("chunk of type {kind}"),
        }
        (context, all)
    }
}

pub(crate) const STRUCTURED_REPLY: u32 = 8;
pub(crate) const LIST_META_CONTEXT: u32 = 9;
pub(crate) const SET_META_CONTEXT: u32 = 10;
pub(crate) const EXTENDED_HEADERS: u32 = 11;

pub(crate) const NONE_CHUNK: u16 = 0;
pub(crate) const DATA_CHUNK: u16 = 1;
pub(crate) const HOLE_CHUNK: u16 = 2;
pub(crate) const STATUS_CHUNK: u16 = 5;
pub(crate) const STATUS_EXT_CHUNK: u16 = 6;
pub(crate) const ERROR_CHUNK: u16 = 0x8001;
pub(crate) const ERROR_OFFSET_CHUNK: u16 = 0x8002;

/// `NBD_OPT_LIST_META_CONTEXT` or `NBD_OPT_SET_META_CONTEXT`.
pub(crate) fn contexts_of(number: u32, export: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = Vec::new();
    data.put_u32(export.len() as u32);
    data.put_slice(export.as_bytes());
    data.put_u32(queries.len() as u32);
    for query in queries {
        data.put_u32(query.len() as u32);
        data.put_slice(query.as_bytes());
    }
    option(number, &data)
}

pub(crate) fn extended_request(flags: u16, command: u16, cookie: u64, offset: u64, length: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.put_u32(0x21e4_1c71);
    bytes.put_u16(flags);
    bytes.put_u16(command);
    bytes.put_u64(cookie);
    bytes.put_u64(offset);
    bytes.put_u64(length);
    bytes
}

pub(crate) fn extended_write(flags: u16, cookie: u64, offset: u64, data: &[u8]) -> Vec<u8> {
    let mut bytes = extended_request(flags | PAYLOAD_LEN, WRITE, cookie, offset, data.len() as u64);
    bytes.put_slice(data);
    bytes
}

/// A block status of some contexts only.
pub(crate) fn filtered_status(
    flags: u16,
    cookie: u64,
    offset: u64,
    length: u64,
    contexts: &[u32],
) -> Vec<u8> {
    let payload = 8 + 4 * contexts.len() as u64;
    let mut bytes = extended_request(flags | PAYLOAD_LEN, BLOCK_STATUS, cookie, offset, payload);
    bytes.put_u64(length);
    contexts.iter().for_each(|context| bytes.put_u32(*context));
    bytes
}

pub(crate) fn exports() -> Vec<ListEntry> {
    vec![
        ListEntry { name: "disk".to_owned(), description: "a disk".to_owned() },
        ListEntry { name: "secret".to_owned(), description: String::new() },
    ]
}

pub(crate) fn client_flags(flags: u32) -> Vec<u8> {
    flags.to_be_bytes().to_vec()
}

pub(crate) fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.put_u32(option);
    bytes.put_u32(data.len() as u32);
    bytes.put_slice(data);
    bytes
}

pub(crate) fn go(name: &str, infos: &[u16]) -> Vec<u8> {
    option(7, &choice(name, infos))
}

pub(crate) fn choice(name: &str, infos: &[u16]) -> Vec<u8> {
    let mut data = Vec::new();
    data.put_u32(name.len() as u32);
    data.put_slice(name.as_bytes());
    data.put_u16(infos.len() as u16);
    for info in infos {
        data.put_u16(*info);
    }
    data
}

pub(crate) fn request(flags: u16, command: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.put_u32(0x2560_9513);
    bytes.put_u16(flags);
    bytes.put_u16(command);
    bytes.put_u64(cookie);
    bytes.put_u64(offset);
    bytes.put_u32(length);
    bytes
}

pub(crate) fn write(flags: u16, cookie: u64, offset: u64, data: &[u8]) -> Vec<u8> {
    let mut bytes = request(flags, WRITE, cookie, offset, data.len() as u32);
    bytes.put_slice(data);
    bytes
}

pub(crate) fn device() -> MemoryDevice {
    MemoryDevice::new(SIZE)
}
