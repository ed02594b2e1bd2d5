//! Frames: laid down, and found again in bytes that come in pieces and may be damaged.

use tap_block::units::count;
use xxhash_rust::xxh3::Xxh3;

use super::CgpError;
use super::body::{Record, decode, encode_body};

/// The version of what is written here.
pub const VERSION: u8 = 1;
/// The longest body.
pub const MAX_BODY: usize = 1 << 20;

const MAGIC: [u8; 4] = *b"cgpf";
/// Magic, version, kind, reserve and length.
const FIXED: usize = 12;
const HEADER: usize = FIXED + 8;

/// Appends a record as a frame.
///
/// # Errors
/// [`CgpError::TooLong`] when it does not fit into one; give fewer events or a shorter name.
pub fn encode(record: &Record, out: &mut Vec<u8>) -> Result<(), CgpError> {
    let mut body = Vec::new();
    let kind = encode_body(record, &mut body);
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= MAX_BODY);
    let length = length.ok_or(CgpError::TooLong(body.len()))?;
    let mut fixed = Vec::with_capacity(HEADER);
    fixed.extend_from_slice(&MAGIC);
    fixed.extend_from_slice(&[VERSION, kind, 0, 0]);
    fixed.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&fixed);
    out.extend_from_slice(&checksum(&fixed, &body).to_le_bytes());
    out.extend_from_slice(&body);
    Ok(())
}

fn checksum(fixed: &[u8], body: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(fixed);
    hash.update(body);
    hash.digest()
}

/// What stands next in the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A frame.
    Record(Record),
    /// So many bytes that are no frame.
    Lost(u64),
    /// A frame of a kind that this version does not know; it is left out.
    Unknown(u8),
}

/// Finds frames in bytes that come in pieces.
#[derive(Debug, Default)]
pub struct Reader {
    bytes: Vec<u8>,
    used: usize,
    lost: u64,
}

impl Reader {
    /// More bytes of the file.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.used.min(self.bytes.len()));
        self.used = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next thing found; `None` when more bytes are needed for that. At the end of the file call it with `ended`:
    /// what is left is then lost.
    ///
    /// # Errors
    /// A sound frame that this version cannot read.
    pub fn next(&mut self, ended: bool) -> Result<Option<Found>, CgpError> {
        loop {
            match self.look(ended)? {
                Look::Frame(found, length) if self.lost == 0 => {
                    self.used += length;
                    return Ok(Some(found));
                }
                Look::Noise => {
                    self.used += 1;
                    self.lost += 1;
                }
                Look::Frame(..) => return Ok(Some(Found::Lost(std::mem::take(&mut self.lost)))),
                Look::More if ended && self.lost > 0 => {
                    return Ok(Some(Found::Lost(std::mem::take(&mut self.lost))));
                }
                Look::More => return Ok(None),
            }
        }
    }

    /// Does a frame begin here?
    fn look(&self, ended: bool) -> Result<Look, CgpError> {
        let rest = self.bytes.get(self.used..).unwrap_or(&[]);
        let short = if ended && !rest.is_empty() { Look::Noise } else { Look::More };
        if !rest.starts_with(&MAGIC) {
            let could = MAGIC.starts_with(rest);
            return Ok(if could { short } else { Look::Noise });
        }
        let Some(&[fixed @ .., _, _, _, _, _, _, _, _]) = rest.first_chunk::<HEADER>() else {
            return Ok(short);
        };
        let &[_, _, _, _, version, kind, _, _, l0, l1, l2, l3] =
            fixed.first_chunk::<FIXED>().unwrap_or(&[0; FIXED]);
        let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        if length > MAX_BODY {
            return Ok(Look::Noise);
        }
        let Some(body) = rest.get(HEADER..HEADER + length) else { return Ok(short) };
        let sum = rest.get(FIXED..).and_then(|r| r.first_chunk()).copied().map(u64::from_le_bytes);
        if sum != Some(checksum(&fixed, body)) {
            return Ok(Look::Noise);
        }
        if version > VERSION {
            return Err(CgpError::Newer { found: version });
        }
        let found = decode(kind, body)?.map_or(Found::Unknown(kind), Found::Record);
        Ok(Look::Frame(found, HEADER + length))
    }

    /// Bytes that wait for more.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        count(self.bytes.len().saturating_sub(self.used))
    }
}

enum Look {
    Frame(Found, usize),
    Noise,
    More,
}
