//! A plain NBD client: newstyle with GO, simple replies, a blocking socket.

use std::io::{Read, Write};

use anyhow::{Context, Result, bail, ensure};

use crate::load::{Kind, Request, Served, Taken, Wire};
use crate::payload::Payload;
use crate::socket::{Socket, Stream};

const GREETING: &[u8; 16] = b"NBDMAGICIHAVEOPT";
const OPTION_MAGIC: &[u8; 8] = b"IHAVEOPT";
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_ERROR: u32 = 1 << 31;
const INFO_EXPORT: u16 = 0;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
const FLAG_FUA: u16 = 1;
/// Fixed newstyle, no zeroes.
const CLIENT_FLAGS: u32 = 3;

/// Bytes before a simple reply's data.
pub(crate) const REPLY_HEADER: usize = 16;

/// An export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Export {
    /// Where the server listens.
    pub(crate) socket: Socket,
    /// Its name; empty for the default one.
    pub(crate) name: String,
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Read,
    Write,
    /// Answered when it is durable.
    DurableWrite,
    Disconnect,
}

/// A connection in transmission.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) stream: Stream,
    pub(crate) size: u64,
    /// Bytes of each read of a load; there is one kind of request in it.
    reading: usize,
}

/// The head of a simple reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) error: u32,
    pub(crate) cookie: u64,
}

impl Export {
    /// As other clients take it.
    pub(crate) fn uri(&self) -> String {
        match &self.socket {
            Socket::Unix(path) => format!("nbd+unix:///{}?socket={}", self.name, path.display()),
            Socket::Tcp(address) => format!("nbd://{address}/{}", self.name),
        }
    }
}

impl Client {
    /// Connects and chooses the export.
    pub(crate) fn connect(export: &Export) -> Result<Self> {
        Self::open(export).with_context(|| format!("cannot open {}", export.uri()))
    }

    fn open(export: &Export) -> Result<Self> {
        let mut stream = export.socket.connect()?;
        let greeting: [u8; 18] = take(&mut stream)?;
        ensure!(greeting.starts_with(GREETING), "this is no newstyle NBD server");
        stream.write_all(&CLIENT_FLAGS.to_be_bytes())?;
        stream.write_all(&go(&export.name)?)?;
        let size = negotiated(&mut stream)?;
        Ok(Self { stream, size, reading: 0 })
    }

    /// Reads all of `out` from `offset`.
    pub(crate) fn read(&mut self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.stream.write_all(&request(Command::Read, 0, offset, out.len())?)?;
        let reply = Reply::parse(&take(&mut self.stream)?)?;
        ensure!(reply.error == 0, "reading at {offset} failed with NBD error {}", reply.error);
        Ok(self.stream.read_exact(out)?)
    }

    /// Says goodbye.
    pub(crate) fn close(mut self) -> Result<()> {
        Ok(self.stream.write_all(&request(Command::Disconnect, 0, 0, 0)?)?)
    }
}

impl Served for Export {
    fn connect(&self) -> Result<Box<dyn Wire>> {
        Ok(Box::new(Client::connect(self)?))
    }
}

impl Wire for Client {
    fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn ask(&mut self, out: &mut Vec<u8>, asked: &Request, content: &mut Payload) -> Result<()> {
        let command = match asked.kind {
            Kind::Read => Command::Read,
            Kind::Write => Command::Write,
            Kind::DurableWrite => Command::DurableWrite,
        };
        out.extend(request(command, asked.cookie, asked.offset, asked.length)?);
        if asked.kind == Kind::Read {
            self.reading = asked.length;
            return Ok(());
        }
        let at = out.len();
        out.resize(at + asked.length, 0);
        content.fill(asked.offset, out.get_mut(at..).unwrap_or_default());
        Ok(())
    }

    fn take(&mut self, input: &[u8], _: &mut Vec<u8>, _: &mut Payload) -> Result<Option<Taken>> {
        let Some(head) = input.first_chunk::<REPLY_HEADER>() else { return Ok(None) };
        let reply = Reply::parse(head)?;
        ensure!(reply.error == 0, "a request failed with NBD error {}", reply.error);
        let length = REPLY_HEADER + self.reading;
        Ok((input.len() >= length).then_some(Taken { length, done: Some(reply.cookie) }))
    }

    fn close(self: Box<Self>) -> Result<()> {
        Self::close(*self)
    }
}

impl Reply {
    /// From its bytes.
    pub(crate) fn parse(bytes: &[u8; REPLY_HEADER]) -> Result<Self> {
        let mut from = bytes.as_slice();
        ensure!(u32::from_be_bytes(take(&mut from)?) == REPLY_MAGIC, "not a simple reply");
        let error = u32::from_be_bytes(take(&mut from)?);
        Ok(Self { error, cookie: u64::from_be_bytes(take(&mut from)?) })
    }
}

/// A request's head.
pub(crate) fn request(command: Command, cookie: u64, offset: u64, length: usize) -> Result<[u8; 28]> {
    let kind: u16 = match command {
        Command::Read => 0,
        Command::Write | Command::DurableWrite => 1,
        Command::Disconnect => 2,
    };
    let mut out = [0; 28];
    let mut to = out.as_mut_slice();
    to.write_all(&REQUEST_MAGIC.to_be_bytes())?;
    let flags = if command == Command::DurableWrite { FLAG_FUA } else { 0 };
    to.write_all(&flags.to_be_bytes())?;
    to.write_all(&kind.to_be_bytes())?;
    to.write_all(&cookie.to_be_bytes())?;
    to.write_all(&offset.to_be_bytes())?;
    to.write_all(&u32::try_from(length)?.to_be_bytes())?;
    Ok(out)
}

fn go(name: &str) -> Result<Vec<u8>> {
    let length = u32::try_from(name.len())?;
    let mut out = OPTION_MAGIC.to_vec();
    out.extend(OPTION_GO.to_be_bytes());
    out.extend((length + 6).to_be_bytes());
    out.extend(length.to_be_bytes());
    out.extend(name.as_bytes());
    out.extend(0u16.to_be_bytes());
    Ok(out)
}

/// Reads the answers to GO and returns the export's size.
fn negotiated(stream: &mut Stream) -> Result<u64> {
    let mut size = None;
    loop {
        ensure!(u64::from_be_bytes(take(stream)?) == OPTION_REPLY, "not an answer to an option");
        let _option: [u8; 4] = take(stream)?;
        let kind = u32::from_be_bytes(take(stream)?);
        let mut data = vec![0; usize::try_from(u32::from_be_bytes(take(stream)?))?];
        ensure!(data.len() <= 64 << 10, "an answer of {} bytes", data.len());
        stream.read_exact(&mut data)?;
        match kind {
            REPLY_ACK => return size.context("the server told no size"),
            REPLY_INFO => size = size.or(export_size(&data)?),
            error if error & REPLY_ERROR != 0 => {
                bail!("refused with {error:#x}: {}", String::from_utf8_lossy(&data))
            }
            other => bail!("answer {other} to GO"),
        }
    }
}

fn export_size(mut info: &[u8]) -> Result<Option<u64>> {
    if u16::from_be_bytes(take(&mut info)?) != INFO_EXPORT {
        return Ok(None);
    }
    Ok(Some(u64::from_be_bytes(take(&mut info)?)))
}

fn take<const N: usize>(from: &mut impl Read) -> Result<[u8; N]> {
    let mut out = [0; N];
    from.read_exact(&mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_as_the_protocol_says() {
        let head = request(Command::Write, 7, 4096, 512).unwrap();
        assert_eq!(head[..8], [0x25, 0x60, 0x95, 0x13, 0, 0, 0, 1]);
        assert_eq!(head[15], 7);
        assert_eq!(head[22..24], [0x10, 0]);
        assert_eq!(head[26..], [2, 0]);
    }

    #[test]
    fn a_reply_is_told_from_rubbish() {
        let mut bytes = [0; REPLY_HEADER];
        assert!(Reply::parse(&bytes).is_err());
        bytes[..4].copy_from_slice(&REPLY_MAGIC.to_be_bytes());
        bytes[15] = 9;
        assert_eq!(Reply::parse(&bytes).unwrap(), Reply { error: 0, cookie: 9 });
    }
}
