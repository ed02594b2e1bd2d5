//! What two analyzers say to each other when they measure the link between them.
//!
//! ```text
//!  hello   "cgtp" │ version 1 │ role 1 │ seconds 2 │ session 8      from who measures, little endian
//!  answer  "cgtp" │ version 1 │ verdict 1 │ seconds 2               seconds granted, at most those asked for
//!
//!  echo    8 bytes there, the same 8 bytes back, over and over
//!  there   bytes without meaning until the sender ends; a progress back every so often: bytes taken 8 │ nanoseconds 8
//!  back    bytes without meaning from the listener, until its seconds are over or nobody takes them
//! ```
//!
//! Nothing that the other side says is a length, a path or a place: a hostile one can waste its own bytes, no more.

/// The version spoken here.
const VERSION: u8 = 1;
const MAGIC: [u8; 4] = *b"cgtp";

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Round trips.
    Echo,
    /// Bytes to the listener.
    There,
    /// Bytes from the listener.
    Back,
}

/// The first that is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// What it is for.
    pub role: Role,
    /// For how long, in seconds.
    pub seconds: u16,
    /// Connections of one measurement have the same.
    pub session: u64,
}

/// What the listener says to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It begins.
    Go,
    /// Somebody else measures: two at once would measure each other.
    Busy,
    /// More connections than the listener has for one measurement.
    Full,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Does it begin?
    pub verdict: Verdict,
    /// For how long the listener goes along, in seconds.
    pub seconds: u16,
}

/// Why bytes are none of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// Something else speaks.
    #[error("the other side is no `throughput` of chronogate-analyzer")]
    Foreign,
    /// A newer one speaks.
    #[error("the other side speaks version {0}, this one version {VERSION}: use the same analyzer on both")]
    Version(u8),
}

impl Hello {
    /// How long it is.
    pub const BYTES: usize = 16;

    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let role = match self.role {
            Role::Echo => 0,
            Role::There => 1,
            Role::Back => 2,
        };
        let [m0, m1, m2, m3] = MAGIC;
        let [s0, s1] = self.seconds.to_le_bytes();
        let [a, b, c, d, e, f, g, h] = self.session.to_le_bytes();
        [m0, m1, m2, m3, VERSION, role, s0, s1, a, b, c, d, e, f, g, h]
    }

    /// From bytes.
    ///
    /// # Errors
    /// They are none.
    pub fn decode(bytes: [u8; Self::BYTES]) -> Result<Self, ProbeError> {
        let [m0, m1, m2, m3, version, role, s0, s1, session @ ..] = bytes;
        spoken([m0, m1, m2, m3], version)?;
        let role = match role {
            0 => Role::Echo,
            1 => Role::There,
            2 => Role::Back,
            _ => return Err(ProbeError::Foreign),
        };
        let (seconds, session) = (u16::from_le_bytes([s0, s1]), u64::from_le_bytes(session));
        Ok(Self { role, seconds, session })
    }
}

impl Answer {
    /// How long it is.
    pub const BYTES: usize = 8;

    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let verdict = match self.verdict {
            Verdict::Go => 0,
            Verdict::Busy => 1,
            Verdict::Full => 2,
        };
        let [m0, m1, m2, m3] = MAGIC;
        let [s0, s1] = self.seconds.to_le_bytes();
        [m0, m1, m2, m3, VERSION, verdict, s0, s1]
    }

    /// From bytes.
    ///
    /// # Errors
    /// They are none.
    pub fn decode(bytes: [u8; Self::BYTES]) -> Result<Self, ProbeError> {
        let [m0, m1, m2, m3, version, verdict, s0, s1] = bytes;
        spoken([m0, m1, m2, m3], version)?;
        let verdict = match verdict {
            0 => Verdict::Go,
            1 => Verdict::Busy,
            2 => Verdict::Full,
            _ => return Err(ProbeError::Foreign),
        };
        Ok(Self { verdict, seconds: u16::from_le_bytes([s0, s1]) })
    }
}

fn spoken(magic: [u8; 4], version: u8) -> Result<(), ProbeError> {
    match version {
        _ if magic != MAGIC => Err(ProbeError::Foreign),
        VERSION => Ok(()),
        other => Err(ProbeError::Version(other)),
    }
}

/// How far the listener is: bytes taken in so many nanoseconds of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes taken.
    pub bytes: u64,
    /// Since the connection began.
    pub nanos: u64,
}

impl Progress {
    /// How long it is.
    pub const BYTES: usize = 16;

    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let [a, b, c, d, e, f, g, h] = self.bytes.to_le_bytes();
        let [i, j, k, l, m, n, o, p] = self.nanos.to_le_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// From bytes: any are one.
    #[must_use]
    pub const fn decode(bytes: [u8; Self::BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        Self {
            bytes: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            nanos: u64::from_le_bytes([i, j, k, l, m, n, o, p]),
        }
    }
}

/// Bytes that nothing between the two sides can compress or has seen before.
#[derive(Debug, Clone)]
pub struct Noise {
    state: u64,
}

impl Noise {
    /// The same seed makes the same noise.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Fills the buffer (`SplitMix64`: Steele and others 2014).
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for word in buffer.chunks_mut(8) {
            self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let bytes = (z ^ (z >> 31)).to_le_bytes();
            word.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard_and_its_bytes_are_these() {
        let hello = Hello { role: Role::Back, seconds: 300, session: 0x0102_0304_0506_0708 };
        assert_eq!(hello.encode(), *b"cgtp\x01\x02\x2c\x01\x08\x07\x06\x05\x04\x03\x02\x01");
        for role in [Role::Echo, Role::There, Role::Back] {
            let hello = Hello { role, ..hello };
            assert_eq!(Hello::decode(hello.encode()), Ok(hello));
        }
        for verdict in [Verdict::Go, Verdict::Busy, Verdict::Full] {
            let answer = Answer { verdict, seconds: 7 };
            assert_eq!(Answer::decode(answer.encode()), Ok(answer));
        }
        let progress = Progress { bytes: 1 << 40, nanos: 12 };
        assert_eq!(Progress::decode(progress.encode()), progress);
    }

    #[test]
    fn others_are_told_apart() {
        assert_eq!(Hello::decode(*b"GET / HTTP/1.1\r\n"), Err(ProbeError::Foreign));
        assert_eq!(Hello::decode(*b"cgtp\x02\0\0\0\0\0\0\0\0\0\0\0"), Err(ProbeError::Version(2)));
        assert_eq!(Hello::decode(*b"cgtp\x01\x03\0\0\0\0\0\0\0\0\0\0"), Err(ProbeError::Foreign));
        assert_eq!(Answer::decode(*b"cgtp\x01\x09\0\0"), Err(ProbeError::Foreign));
    }

    #[test]
    fn noise_never_repeats_a_buffer() {
        let (mut noise, mut one, mut two) = (Noise::new(1), [0; 100], [0; 100]);
        noise.fill(&mut one);
        noise.fill(&mut two);
        assert_ne!(one, two);
    }
}
