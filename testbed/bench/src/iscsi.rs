//! A plain iSCSI initiator: one login request, no digests, immediate data and then what R2T asks for (RFC 7143), READ(10)
//! and WRITE(10). The same for all servers, and cheaper than a general one: what is measured is the server.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result, bail, ensure};
use tap_block::units::{count, index};

use crate::load::{Kind, Request, Served, Taken, Wire};
use crate::payload::Payload;
use crate::socket::{Socket, Stream};

const INITIATOR: &str = "iqn.2026-01.example.chronogate:bench";
const HEADER: usize = 48;
/// What we take in one unit, as open-iscsi does.
const MAX_RECEIVE: usize = 256 << 10;
const NO_TAG: u32 = 0xffff_ffff;
/// The tag of what is not part of the load.
const OWN_TAG: u32 = 0xffff_0000;
/// Attentions at a beginning, at the most.
const ATTENTIONS: usize = 8;
const CHECK_CONDITION: u8 = 2;

/// Sessions of one initiator differ in this.
static NEXT_SESSION: AtomicU16 = AtomicU16::new(1);

/// A unit of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unit {
    /// `HOST:PORT`.
    pub(crate) portal: String,
    pub(crate) target: String,
    pub(crate) lun: u8,
}

/// A session in its full feature phase.
struct Initiator {
    stream: Stream,
    lun: u8,
    block: u64,
    blocks: u64,
    agreed: Agreed,
    cmd_sn: u32,
    exp_stat_sn: u32,
    /// Where the request with this tag begins on the disk.
    offsets: Vec<u64>,
}

/// What the target said at login.
#[derive(Debug, Clone, Copy)]
struct Agreed {
    /// The longest unit that it takes.
    max_send: usize,
    /// The most that comes with a command.
    immediate: usize,
}

#[derive(Debug, Clone, Copy)]
struct Head([u8; HEADER]);

impl Served for Unit {
    fn connect(&self) -> Result<Box<dyn Wire>> {
        let opened = Initiator::log_in(self);
        Ok(Box::new(opened.with_context(|| format!("cannot log in to {} at {}", self.target, self.portal))?))
    }
}

impl Head {
    fn new(opcode: u8, flags: u8) -> Self {
        let mut bytes = [0; HEADER];
        (bytes[0], bytes[1]) = (opcode, flags);
        Self(bytes)
    }

    fn with(mut self, at: usize, value: &[u8]) -> Self {
        if let Some(place) = self.0.get_mut(at..at + value.len()) {
            place.copy_from_slice(value);
        }
        self
    }

    fn word(self, at: usize, value: u32) -> Self {
        self.with(at, &value.to_be_bytes())
    }

    fn length(self, length: usize) -> Result<Self> {
        let [_, rest @ ..] = u32::try_from(length)?.to_be_bytes();
        Ok(self.with(5, &rest))
    }

    fn get(&self, at: usize) -> u32 {
        self.0.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u32::from_be_bytes(*word))
    }

    fn data_length(&self) -> usize {
        usize::try_from(self.get(4) & 0xff_ffff).unwrap_or(usize::MAX)
    }
}

impl Initiator {
    fn log_in(unit: &Unit) -> Result<Self> {
        let stream = Socket::Tcp(unit.portal.clone()).connect()?;
        let agreed = Agreed { max_send: 8192, immediate: 0 };
        let (lun, offsets) = (unit.lun, Vec::new());
        let mut session =
            Self { stream, lun, block: 512, blocks: 0, agreed, cmd_sn: 1, exp_stat_sn: 0, offsets };
        session.negotiate(unit)?;
        session.wait_ready()?;
        let mut cdb = [0; 16];
        (cdb[0], cdb[1], cdb[13]) = (0x9e, 0x10, 32);
        let capacity = session.ask_for(&cdb, 32)?;
        let word = |at: usize| Head([0; HEADER]).with(0, capacity.get(at..at + 4).unwrap_or_default()).get(0);
        session.block = u64::from(word(8));
        session.blocks = (u64::from(word(0)) << 32 | u64::from(word(4))) + 1;
        ensure!(session.block > 0, "a disk without blocks");
        Ok(session)
    }

    /// Operational negotiation, in as many answers as the target wants.
    fn negotiate(&mut self, unit: &Unit) -> Result<()> {
        let mut keys = format!(
            "InitiatorName={INITIATOR}\0TargetName={}\0SessionType=Normal\0HeaderDigest=None\0DataDigest=None\0\
             InitialR2T=Yes\0ImmediateData=Yes\0FirstBurstLength=262144\0MaxBurstLength=1048576\0\
             MaxRecvDataSegmentLength={MAX_RECEIVE}\0MaxOutstandingR2T=1\0MaxConnections=1\0ErrorRecoveryLevel=0\0",
            unit.target
        );
        let session = NEXT_SESSION.fetch_add(1, Ordering::Relaxed);
        let mut told = String::new();
        for _ in 0..8 {
            // From the operational stage to the full feature phase; the ISID is a random one (section 11.12.5).
            let head = Head::new(0x43, 0x87).with(8, &[0x80, 0, 0, 0]).with(12, &session.to_be_bytes());
            let head = head.word(24, self.cmd_sn).word(28, self.exp_stat_sn).length(keys.len())?;
            self.send(head, keys.as_bytes())?;
            let (answer, data) = self.receive()?;
            let [class, detail] = [answer.0[36], answer.0[37]];
            ensure!(answer.0[0] & 0x3f == 0x23 && class == 0, "login failed with status {class}.{detail}");
            self.exp_stat_sn = answer.get(24).wrapping_add(1);
            told.push_str(&String::from_utf8_lossy(&data));
            if answer.0[1] & 0x83 == 0x83 {
                self.agreed = Agreed::read(&told);
                return Ok(());
            }
            keys.clear();
        }
        bail!("the target does not come to the end of the login: {told:?}")
    }

    /// TEST UNIT READY until the attentions of a new session are over.
    fn wait_ready(&mut self) -> Result<()> {
        for _ in 0..ATTENTIONS {
            self.send_command(&[0; 16], 0x81, OWN_TAG, 0)?;
            let (answer, _) = self.receive()?;
            ensure!(answer.0[0] & 0x3f == 0x21, "no answer to TEST UNIT READY");
            if answer.0[3] == 0 {
                return Ok(());
            }
        }
        bail!("the disk does not get ready")
    }

    /// A command by itself; what it gave.
    fn ask_for(&mut self, cdb: &[u8; 16], length: u32) -> Result<Vec<u8>> {
        self.send_command(cdb, 0xc1, OWN_TAG, length)?;
        let mut all = Vec::new();
        loop {
            let (answer, data) = self.receive()?;
            all.extend(data);
            let is_data = answer.0[0] & 0x3f == 0x25;
            if !is_data || answer.0[1] & 1 != 0 {
                ensure!(answer.0[3] != CHECK_CONDITION, "command {:#x} failed", cdb[0]);
                return Ok(all);
            }
        }
    }

    fn send_command(&mut self, cdb: &[u8; 16], flags: u8, tag: u32, length: u32) -> Result<()> {
        let head = self.command(cdb, flags, tag, length);
        self.send(head, &[])
    }

    fn command(&mut self, cdb: &[u8; 16], flags: u8, tag: u32, length: u32) -> Head {
        let head = Head::new(0x01, flags).with(9, &[self.lun]).word(16, tag).word(20, length);
        let head = head.word(24, self.cmd_sn).word(28, self.exp_stat_sn).with(32, cdb);
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        head
    }

    fn send(&mut self, head: Head, data: &[u8]) -> Result<()> {
        let mut unit = head.length(data.len())?.0.to_vec();
        unit.extend_from_slice(data);
        unit.resize(HEADER + data.len().next_multiple_of(4), 0);
        Ok(self.stream.write_all(&unit)?)
    }

    /// One unit.
    fn receive(&mut self) -> Result<(Head, Vec<u8>)> {
        let mut head = Head([0; HEADER]);
        self.stream.read_exact(&mut head.0)?;
        let length = head.data_length();
        ensure!(length <= MAX_RECEIVE, "a unit of {length} bytes");
        let mut data = vec![0; length.next_multiple_of(4)];
        self.stream.read_exact(&mut data)?;
        data.truncate(length);
        self.note(&head);
        Ok((head, data))
    }

    /// A unit with a status has used up its number: all but R2T, and Data-In without one.
    fn note(&mut self, head: &Head) {
        let opcode = head.0[0] & 0x3f;
        if opcode == 0x21 || opcode == 0x25 && head.0[1] & 1 != 0 {
            self.exp_stat_sn = head.get(24).wrapping_add(1);
        }
    }

    /// The data that an R2T asks for, as whole units.
    fn give(&self, r2t: &Head, out: &mut Vec<u8>, content: &mut Payload) -> Result<()> {
        let (from, length) = (r2t.get(40), usize::try_from(r2t.get(44))?);
        let disk = self.offset_of(r2t.get(16))?;
        let mut sent = 0;
        for number in 0.. {
            let piece = (length - sent).min(self.agreed.max_send);
            let is_last = sent + piece == length;
            let head = Head::new(0x05, if is_last { 0x80 } else { 0 }).with(9, &[self.lun]);
            let head = head.word(16, r2t.get(16)).word(20, r2t.get(20)).word(28, self.exp_stat_sn);
            let at = from + u32::try_from(sent)?;
            out.extend(head.word(36, number).word(40, at).length(piece)?.0);
            append(out, disk + u64::from(at), piece, content);
            sent += piece;
            if is_last {
                break;
            }
        }
        Ok(())
    }

    fn offset_of(&self, tag: u32) -> Result<u64> {
        self.offsets.get(usize::try_from(tag)?).copied().context("a tag that is none of ours")
    }
}

/// Content for `length` bytes at `offset` of the disk; blocks are whole words.
fn append(out: &mut Vec<u8>, offset: u64, length: usize, content: &mut Payload) {
    let at = out.len();
    out.resize(at + length, 0);
    content.fill(offset, out.get_mut(at..).unwrap_or_default());
}

impl Wire for Initiator {
    fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    fn size(&self) -> u64 {
        self.block * self.blocks
    }

    fn ask(&mut self, out: &mut Vec<u8>, request: &Request, content: &mut Payload) -> Result<()> {
        let Request { kind, cookie, offset, length } = *request;
        let (tag, bytes) = (u32::try_from(cookie)?, u32::try_from(length)?);
        let at = index(cookie);
        if self.offsets.len() <= at {
            self.offsets.resize(at + 1, 0);
        }
        if let Some(place) = self.offsets.get_mut(at) {
            *place = offset;
        }
        let mut cdb = [0; 16];
        let (opcode, flags) = if kind == Kind::Read { (0x28, 0xc1) } else { (0x2a, 0xa1) };
        (cdb[0], cdb[1]) = (opcode, if kind == Kind::DurableWrite { 0x08 } else { 0 });
        let (block, blocks) =
            (u32::try_from(offset / self.block)?, u16::try_from(count(length) / self.block)?);
        cdb[2..6].copy_from_slice(&block.to_be_bytes());
        cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
        let head = self.command(&cdb, flags, tag, bytes);
        let immediate = if kind == Kind::Read { 0 } else { length.min(self.agreed.immediate) };
        out.extend(head.length(immediate)?.0);
        append(out, offset, immediate, content);
        Ok(())
    }

    fn take(&mut self, input: &[u8], out: &mut Vec<u8>, content: &mut Payload) -> Result<Option<Taken>> {
        let Some(head) = input.first_chunk::<HEADER>().copied().map(Head) else { return Ok(None) };
        let length = HEADER + head.data_length().next_multiple_of(4);
        ensure!(length <= HEADER + MAX_RECEIVE, "a unit of {length} bytes");
        if input.len() < length {
            return Ok(None);
        }
        self.note(&head);
        let opcode = head.0[0] & 0x3f;
        let mut done = None;
        match opcode {
            0x25 if head.0[1] & 1 == 0 => {}
            0x21 | 0x25 => {
                ensure!(head.0[2] == 0 && head.0[3] == 0, "a command failed with status {}", head.0[3]);
                done = Some(u64::from(head.get(16)));
            }
            0x31 => self.give(&head, out, content)?,
            0x20 if head.get(20) == NO_TAG => {}
            0x20 => {
                let answer = Head::new(0x40, 0x80).word(16, NO_TAG).word(20, head.get(20));
                out.extend(answer.word(24, self.cmd_sn).word(28, self.exp_stat_sn).0);
            }
            other => bail!("unit {other:#x} amid a load"),
        }
        Ok(Some(Taken { length, done }))
    }

    fn close(mut self: Box<Self>) -> Result<()> {
        let head = Head::new(0x46, 0x80).word(16, OWN_TAG).word(24, self.cmd_sn).word(28, self.exp_stat_sn);
        self.send(head, &[])?;
        let (answer, _) = self.receive()?;
        ensure!(answer.0[0] & 0x3f == 0x26, "no answer to the logout");
        Ok(())
    }
}

impl Agreed {
    fn read(told: &str) -> Self {
        let value = |key: &str| told.split('\0').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
        let number = |key: &str| value(key).and_then(|n| n.parse::<usize>().ok());
        let max_send = number("MaxRecvDataSegmentLength").unwrap_or(8192).min(256 << 10);
        let first = number("FirstBurstLength").unwrap_or(65536).min(262_144);
        let immediate = if value("ImmediateData") == Some("No") { 0 } else { first.min(max_send) };
        Self { max_send, immediate }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_target_takes_is_kept_to() {
        let told =
            "HeaderDigest=None\0MaxRecvDataSegmentLength=8192\0FirstBurstLength=65536\0ImmediateData=Yes\0";
        let agreed = Agreed::read(told);
        assert_eq!((agreed.max_send, agreed.immediate), (8192, 8192));
        assert_eq!(Agreed::read("ImmediateData=No\0").immediate, 0);
        assert_eq!(Agreed::read("MaxRecvDataSegmentLength=1048576\0").max_send, 262_144);
    }

    #[test]
    fn heads_are_as_the_protocol_says() {
        let head = Head::new(0x01, 0xc1).word(16, 7).length(0x01_0203).unwrap();
        assert_eq!((head.0[0], head.0[1], head.get(16), head.data_length()), (1, 0xc1, 7, 0x01_0203));
        assert_eq!(head.0[4], 0, "the length of additional headers is apart");
    }
}
