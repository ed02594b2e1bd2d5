//! A small iSCSI initiator of our own, to read and write whole disks and to hold a reservation over a kill.
//! Foreign initiators judge the protocol, not this one. One command at a time, all data in one unit.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

const SILENCE: Duration = Duration::from_secs(60);
/// Blocks moved at a time, and their length.
const BLOCKS: u32 = 256;
const BLOCK: usize = 512;
const READING: u8 = 0x40;
const WRITING: u8 = 0x20;

/// A session.
pub struct Initiator {
    socket: TcpStream,
    lun: u8,
    cmd_sn: u32,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// The SCSI status.
    pub status: u8,
    /// What was read.
    pub data: Vec<u8>,
}

impl Initiator {
    /// Logs in to `iscsi://HOST:PORT/TARGET/LUN` under this name.
    ///
    /// # Errors
    /// When the target refuses.
    pub fn log_in(uri: &str, name: &str) -> Result<Self> {
        let rest = uri.strip_prefix("iscsi://").with_context(|| format!("{uri} is no iSCSI URI"))?;
        let (portal, rest) = rest.split_once('/').context("no target")?;
        let (target, lun) = rest.split_once('/').context("no LUN")?;
        let socket = TcpStream::connect(portal)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(SILENCE))?;
        let mut initiator = Self { socket, lun: lun.parse()?, cmd_sn: 1 };
        let keys = format!(
            "InitiatorName={name}\0TargetName={}\0SessionType=Normal\0MaxRecvDataSegmentLength=262144\0\
             FirstBurstLength=262144\0",
            target.replace("%40", "@")
        );
        let mut header = [0; 48];
        header[..2].copy_from_slice(&[0x43, 0x87]);
        header[8] = 0x80;
        header[24..28].copy_from_slice(&1_u32.to_be_bytes());
        initiator.send(header, keys.as_bytes())?;
        let (answer, _) = initiator.receive()?;
        ensure!(answer[36..38] == [0, 0], "the login failed with {:?}", &answer[36..38]);
        // The first command only tells of the login.
        initiator.command(&[0; 6], 0, 0, &[])?;
        Ok(initiator)
    }

    /// Runs one command.
    ///
    /// # Errors
    /// When the session ends, or a unit comes that is none of it.
    pub fn command(&mut self, cdb: &[u8], flags: u8, expected: u32, data: &[u8]) -> Result<Done> {
        let mut header = [0; 48];
        header[..2].copy_from_slice(&[0x01, 0x80 | flags]);
        header[9] = self.lun;
        header[16..20].copy_from_slice(&self.cmd_sn.to_be_bytes());
        header[20..24].copy_from_slice(&expected.to_be_bytes());
        header[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
        header.get_mut(32..32 + cdb.len()).context("a long CDB")?.copy_from_slice(cdb);
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        self.send(header, data)?;
        let mut all = Vec::new();
        loop {
            let (header, data) = self.receive()?;
            match header[0] & 0x3f {
                0x25 => all.extend(data),
                0x21 => return Ok(Done { status: header[3], data: all }),
                other => bail!("a unit of kind {other:#x} as the answer to a command"),
            }
            if header[1] & 1 != 0 {
                return Ok(Done { status: header[3], data: all });
            }
        }
    }

    /// The whole disk.
    ///
    /// # Errors
    /// When a read fails.
    pub fn read_all(&mut self) -> Result<Vec<u8>> {
        let capacity = self.command(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], READING, 8, &[])?;
        let last = capacity.data.first_chunk::<4>().context("no capacity")?;
        let blocks = u32::from_be_bytes(*last) + 1;
        let mut content = Vec::new();
        for start in (0..blocks).step_by(usize::try_from(BLOCKS)?) {
            let count = BLOCKS.min(blocks - start);
            let expected = count * u32::try_from(BLOCK)?;
            let done = self.command(&cdb(0x28, start, count)?, READING, expected, &[])?;
            ensure!(done.status == 0, "reading at block {start}: {done:?}");
            content.extend(done.data);
        }
        Ok(content)
    }

    /// Writes whole blocks.
    ///
    /// # Errors
    /// When the write fails.
    pub fn write(&mut self, start: u32, data: &[u8]) -> Result<()> {
        let cdb = cdb(0x2a, start, u32::try_from(data.len() / BLOCK)?)?;
        let done = self.command(&cdb, WRITING, u32::try_from(data.len())?, data)?;
        ensure!(done.status == 0, "writing at block {start}: {done:?}");
        Ok(())
    }

    /// EXTENDED COPY: stretches of this disk in blocks, (from, to, how many).
    ///
    /// # Errors
    /// When it is refused.
    pub fn copy(&mut self, stretches: &[(u32, u32, u16)]) -> Result<()> {
        let page = self.command(&[0x12, 1, 0x83, 1, 0, 0], READING, 256, &[])?.data;
        // The first designator is the NAA identifier.
        let naa = page.get(8..24).context("no identifier")?;
        // Nobody asks how it went; 32 bytes of target descriptors.
        let mut list = vec![0, 0x18, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        list.extend_from_slice(&[0xe4, 0, 0, 0, 1, 3, 0, 16]);
        list.extend_from_slice(naa);
        list.resize(48, 0);
        for (from, to, blocks) in stretches {
            list.extend_from_slice(&[2, 0, 0, 24, 0, 0, 0, 0, 0, 0]);
            list.extend_from_slice(&blocks.to_be_bytes());
            list.extend_from_slice(&u64::from(*from).to_be_bytes());
            list.extend_from_slice(&u64::from(*to).to_be_bytes());
        }
        let segments = u32::try_from(list.len() - 48)?.to_be_bytes();
        list.splice(8..12, segments);
        let length = u32::try_from(list.len())?;
        let cdb = [&[0x83; 1][..], &[0; 9], &length.to_be_bytes(), &[0; 2]].concat();
        let done = self.command(&cdb, WRITING, length, &list)?;
        ensure!(done.status == 0, "copying {stretches:?}: {done:?}");
        Ok(())
    }

    /// PERSISTENT RESERVE OUT with APTPL; its status.
    ///
    /// # Errors
    /// When the session ends.
    pub fn reserve(&mut self, action: u8, kind: u8, key: u8, new: u8) -> Result<u8> {
        let mut list = [0; 24];
        (list[7], list[15], list[20]) = (key, new, 1);
        Ok(self.command(&[0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0], WRITING, 24, &list)?.status)
    }

    fn send(&mut self, mut header: [u8; 48], data: &[u8]) -> Result<()> {
        let [_, length @ ..] = u32::try_from(data.len())?.to_be_bytes();
        header[5..8].copy_from_slice(&length);
        let mut bytes = [&header[..], data].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        Ok(self.socket.write_all(&bytes)?)
    }

    fn receive(&mut self) -> Result<([u8; 48], Vec<u8>)> {
        let mut header = [0; 48];
        self.socket.read_exact(&mut header)?;
        let length = usize::try_from(u32::from_be_bytes([0, header[5], header[6], header[7]]))?;
        let mut data = vec![0; length.next_multiple_of(4)];
        self.socket.read_exact(&mut data)?;
        data.truncate(length);
        Ok((header, data))
    }
}

fn cdb(opcode: u8, start: u32, count: u32) -> Result<[u8; 10]> {
    let [a, b, c, d] = start.to_be_bytes();
    let [e, f] = u16::try_from(count)?.to_be_bytes();
    Ok([opcode, 0, a, b, c, d, 0, e, f, 0])
}
