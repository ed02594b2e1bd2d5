//! A small NBD client of our own, for the writers: it keeps many requests in flight and knows, when the
//! server is killed, exactly which of them were answered. Foreign clients judge the protocol, not this one.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

const SILENCE: Duration = Duration::from_secs(60);
const OPTION_MAGIC: u64 = 0x4948_4156_454F_5054;
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const OPT_GO: u32 = 7;

/// What to do, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Read so many bytes.
    Read(u64, u32),
    /// Write these bytes.
    Write(u64, Vec<u8>),
    /// Make so many bytes zero.
    Zero(u64, u32),
    /// Give so many bytes back.
    Trim(u64, u32),
    /// Make everything answered durable.
    Flush,
}

/// A connection to one export.
pub struct Client {
    socket: Box<dyn Socket>,
    size: u64,
    next: u64,
    /// Lengths of the reads in flight, by cookie.
    reads: Vec<(u64, u32)>,
}

trait Socket: Read + Write + Send {}
impl Socket for UnixStream {}
impl Socket for TcpStream {}

/// An answer: which request, and its data or error number.
pub type Answer = (u64, std::result::Result<Vec<u8>, u32>);

impl Client {
    /// Opens `nbd+unix:///EXPORT?socket=PATH` or `nbd://HOST:PORT/EXPORT`.
    ///
    /// # Errors
    /// When nobody listens, or the server refuses the export (its message is part of the error).
    pub fn connect(uri: &str) -> Result<Self> {
        let (socket, export) = dial(uri).with_context(|| format!("cannot reach {uri}"))?;
        let mut client = Self { socket, size: 0, next: 1, reads: Vec::new() };
        client.handshake(&export).with_context(|| format!("cannot open {uri}"))?;
        Ok(client)
    }

    /// Bytes of the export.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Sends a request without waiting for its answer; returns its cookie.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&mut self, request: &Request) -> Result<u64> {
        let cookie = self.next;
        self.next += 1;
        let (kind, offset, length, data): (u16, u64, u32, &[u8]) = match request {
            Request::Read(offset, length) => {
                self.reads.push((cookie, *length));
                (0, *offset, *length, &[])
            }
            Request::Write(offset, data) => (1, *offset, u32::try_from(data.len())?, data),
            Request::Flush => (3, 0, 0, &[]),
            Request::Trim(offset, length) => (4, *offset, *length, &[]),
            Request::Zero(offset, length) => (6, *offset, *length, &[]),
        };
        let mut message = Vec::with_capacity(28 + data.len());
        message.extend(REQUEST_MAGIC.to_be_bytes());
        message.extend(0u16.to_be_bytes());
        message.extend(kind.to_be_bytes());
        message.extend(cookie.to_be_bytes());
        message.extend(offset.to_be_bytes());
        message.extend(length.to_be_bytes());
        message.extend(data);
        self.socket.write_all(&message)?;
        Ok(cookie)
    }

    /// Waits for the next answer, to whichever request.
    ///
    /// # Errors
    /// When the connection is gone, or silent for a minute.
    pub fn receive(&mut self) -> Result<Answer> {
        ensure!(self.u32()? == SIMPLE_REPLY_MAGIC, "the server sent something that is no reply");
        let error = self.u32()?;
        let cookie = self.u64()?;
        let read = self.reads.iter().position(|(c, _)| *c == cookie).map(|at| self.reads.swap_remove(at));
        if error != 0 {
            return Ok((cookie, Err(error)));
        }
        let mut data = vec![0; usize::try_from(read.map_or(0, |(_, length)| length))?];
        self.socket.read_exact(&mut data)?;
        Ok((cookie, Ok(data)))
    }

    /// Sends one request and waits for its answer; nothing else may be in flight.
    ///
    /// # Errors
    /// When the connection is gone or the server answers with an error.
    pub fn call(&mut self, request: &Request) -> Result<Vec<u8>> {
        let cookie = self.send(request)?;
        let (answered, outcome) = self.receive()?;
        ensure!(answered == cookie, "answer to request {answered} while only {cookie} is in flight");
        outcome.map_err(|e| anyhow::anyhow!("the server answered with error {e}"))
    }

    /// Everything on the disk.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn read_all(&mut self) -> Result<Vec<u8>> {
        let mut content = Vec::with_capacity(usize::try_from(self.size)?);
        while let Some(left) = self.size.checked_sub(u64::try_from(content.len())?).filter(|&n| n > 0) {
            let length = u32::try_from(left.min(1 << 20))?;
            content.extend(self.call(&Request::Read(self.size - left, length))?);
        }
        Ok(content)
    }

    fn handshake(&mut self, export: &str) -> Result<()> {
        let mut greeting = [0; 18];
        self.socket.read_exact(&mut greeting)?;
        ensure!(greeting.starts_with(b"NBDMAGICIHAVEOPT"), "no NBD server there");
        let name = u32::try_from(export.len())?;
        let mut hello = 3u32.to_be_bytes().to_vec(); // fixed newstyle, no zeroes
        hello.extend(OPTION_MAGIC.to_be_bytes());
        hello.extend(OPT_GO.to_be_bytes());
        hello.extend((4 + name + 2).to_be_bytes());
        hello.extend(name.to_be_bytes());
        hello.extend(export.as_bytes());
        hello.extend(0u16.to_be_bytes());
        self.socket.write_all(&hello)?;
        while let Some(info) = self.option_reply()? {
            if let Some((&[0, 0], rest)) = info.split_first_chunk::<2>()
                && let Some((size, _)) = rest.split_first_chunk::<8>()
            {
                self.size = u64::from_be_bytes(*size);
            }
        }
        Ok(())
    }

    /// The next piece of information; `None` when the export is open.
    fn option_reply(&mut self) -> Result<Option<Vec<u8>>> {
        ensure!(self.u64()? == REPLY_MAGIC && self.u32()? == OPT_GO, "a reply to an option never sent");
        let kind = self.u32()?;
        let mut data = vec![0; usize::try_from(self.u32()?)?];
        self.socket.read_exact(&mut data)?;
        match kind {
            1 => Ok(None),
            3 => Ok(Some(data)),
            _ => bail!("refused ({kind:#x}): {}", String::from_utf8_lossy(&data)),
        }
    }

    fn u32(&mut self) -> Result<u32> {
        let mut bytes = [0; 4];
        self.socket.read_exact(&mut bytes).map_err(silence)?;
        Ok(u32::from_be_bytes(bytes))
    }

    fn u64(&mut self) -> Result<u64> {
        let mut bytes = [0; 8];
        self.socket.read_exact(&mut bytes)?;
        Ok(u64::from_be_bytes(bytes))
    }
}

fn silence(error: std::io::Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            anyhow::anyhow!("no answer for {} s", SILENCE.as_secs())
        }
        _ => error.into(),
    }
}

fn dial(uri: &str) -> Result<(Box<dyn Socket>, String)> {
    if let Some(rest) = uri.strip_prefix("nbd+unix:///") {
        let (export, path) = rest.split_once("?socket=").context("a unix URI without a socket")?;
        let socket = UnixStream::connect(decode(path))?;
        socket.set_read_timeout(Some(SILENCE))?;
        socket.set_write_timeout(Some(SILENCE))?;
        return Ok((Box::new(socket), decode(export)));
    }
    let rest = uri.strip_prefix("nbd://").context("no NBD URI")?;
    let (address, export) = rest.split_once('/').unwrap_or((rest, ""));
    let socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(SILENCE))?;
    socket.set_write_timeout(Some(SILENCE))?;
    Ok((Box::new(socket), decode(export)))
}

/// Undoes percent-encoding.
fn decode(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = tail.get(..2).filter(|_| first == b'%').and_then(|h| std::str::from_utf8(h).ok());
        if let Some(byte) = hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            out.push(byte);
            rest = tail.get(2..).unwrap_or_default();
        } else {
            out.push(first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A text as part of a URI's path.
#[must_use]
pub fn encode(text: &str) -> String {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-._~@".contains(&c);
    let parts = text.bytes().map(|c| if plain(c) { char::from(c).to_string() } else { format!("%{c:02X}") });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_a_uri() {
        assert_eq!(decode(&encode("web01@lsn:7")), "web01@lsn:7");
        assert_eq!(decode("a%2Fb%zz%"), "a/b%zz%");
    }
}
