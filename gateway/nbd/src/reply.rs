//! Replies of the transmission phase, in the one form that the handshake settled.

use bytes::{BufMut, Bytes};
use tap_block::units::{count, index};
use tap_block::{Answer, Output, Part, State, Stretch};

use crate::proto::{
    EXTENDED_REPLY_MAGIC, Errno, MAX_STRING, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, chunk, state,
};

/// Which headers are in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Style {
    /// "Simple reply message", whatever the request.
    #[default]
    Simple,
    /// "Structured reply chunk message" where there is more to say than success.
    Structured,
    /// "Extended reply chunk message", always.
    Extended,
}

/// Whom a reply goes to: what it repeats of the request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct To {
    pub(crate) style: Style,
    /// "If structured replies are negotiated, the server MUST NOT use a simple reply for NBD_CMD_READ".
    pub(crate) is_read: bool,
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
}

/// The longer one of the headers of a chunk.
const EXTENDED_HEADER: usize = 32;

/// Zeroes that are sent as they are, to clients that know no holes.
static ZEROES: [u8; 256 << 10] = [0; 256 << 10];

impl To {
    /// Success of what gives nothing.
    pub(crate) fn done(self, output: &mut Output) {
        match self.style {
            Style::Structured if self.is_read => self.chunk(output, chunk::DONE, chunk::NONE, 0),
            Style::Extended => self.chunk(output, chunk::DONE, chunk::NONE, 0),
            Style::Simple | Style::Structured => self.simple(output, Errno::None),
        }
    }

    /// Failure, with a text for people, and where it happened if that is known: within the request.
    pub(crate) fn error(self, output: &mut Output, error: Errno, text: &str, at: Option<u64>) {
        if self.style == Style::Simple {
            return self.simple(output, error);
        }
        let text = shortened(text).as_bytes();
        let (kind, more) = if at.is_some() { (chunk::ERROR_OFFSET, 8) } else { (chunk::ERROR, 0) };
        self.chunk(output, chunk::DONE, kind, 6 + count(text.len()) + more);
        output.push(&error.wire().to_be_bytes());
        output.push(&u16::try_from(text.len()).unwrap_or(0).to_be_bytes());
        output.push(text);
        if let Some(at) = at {
            output.push(&at.to_be_bytes());
        }
    }

    /// The content of a read. `whole`: "NBD_CMD_FLAG_DF", at most one content chunk.
    pub(crate) fn content(self, output: &mut Output, answer: Answer, whole: bool) {
        match answer {
            _ if self.style == Style::Simple => {
                self.simple(output, Errno::None);
                push_content(output, answer);
            }
            Answer::Zeroes(length) => self.hole(output, chunk::DONE, self.offset, length),
            Answer::Parts(parts) if !whole => self.parts(output, parts),
            // "If the area being read contains both data and a hole", its zeroes are sent.
            answer => {
                self.data_header(output, chunk::DONE, self.offset, answer.length());
                push_content(output, answer);
            }
        }
    }

    /// "NBD_CMD_READ": content chunks in order, the last of them the final one.
    fn parts(self, output: &mut Output, parts: Vec<Part>) {
        let (mut at, last) = (self.offset, parts.len().saturating_sub(1));
        for (n, part) in parts.into_iter().enumerate() {
            let (flags, length) = (if n == last { chunk::DONE } else { 0 }, part.length());
            match part {
                Part::Data(data) => {
                    self.data_header(output, flags, at, length);
                    output.push_payload(data);
                }
                Part::Zeroes(_) => self.hole(output, flags, at, length),
            }
            at = at.saturating_add(length);
        }
    }

    /// "NBD_REPLY_TYPE_OFFSET_DATA", up to its data.
    fn data_header(self, output: &mut Output, flags: u16, at: u64, length: u64) {
        self.chunk(output, flags, chunk::OFFSET_DATA, 8 + length);
        output.push(&at.to_be_bytes());
    }

    /// "NBD_REPLY_TYPE_OFFSET_HOLE"; no read is longer than 32 bits can say.
    fn hole(self, output: &mut Output, flags: u16, at: u64, length: u64) {
        self.chunk(output, flags, chunk::OFFSET_HOLE, 12);
        output.push(&at.to_be_bytes());
        output.push(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    }

    /// "NBD_CMD_BLOCK_STATUS": one chunk for each context.
    pub(crate) fn status(self, output: &mut Output, contexts: &[u32], maps: &[Vec<Stretch>]) {
        let last = contexts.len().saturating_sub(1);
        for (n, (context, stretches)) in contexts.iter().zip(maps).enumerate() {
            let flags = if n == last { chunk::DONE } else { 0 };
            match self.style {
                Style::Extended => self.stretches_extended(output, flags, *context, stretches),
                _ => self.stretches(output, flags, *context, stretches),
            }
        }
    }

    /// "NBD_REPLY_TYPE_BLOCK_STATUS": lengths and flags of 32 bits; no compact request is longer.
    fn stretches(self, output: &mut Output, flags: u16, context: u32, stretches: &[Stretch]) {
        self.chunk(output, flags, chunk::BLOCK_STATUS, 4 + 8 * count(stretches.len()));
        output.push(&context.to_be_bytes());
        for stretch in stretches {
            output.push(&u32::try_from(stretch.length).unwrap_or(u32::MAX).to_be_bytes());
            output.push(&flags_of(stretch.state).to_be_bytes());
        }
    }

    /// "NBD_REPLY_TYPE_BLOCK_STATUS_EXT": lengths and flags of 64 bits, and how many of them.
    fn stretches_extended(self, output: &mut Output, flags: u16, context: u32, stretches: &[Stretch]) {
        self.chunk(output, flags, chunk::BLOCK_STATUS_EXT, 8 + 16 * count(stretches.len()));
        output.push(&context.to_be_bytes());
        output.push(&u32::try_from(stretches.len()).unwrap_or(u32::MAX).to_be_bytes());
        for stretch in stretches {
            output.push(&stretch.length.to_be_bytes());
            output.push(&u64::from(flags_of(stretch.state)).to_be_bytes());
        }
    }

    /// "Simple reply message". The one place where such are encoded.
    fn simple(self, output: &mut Output, error: Errno) {
        let [a, b, c, d] = SIMPLE_REPLY_MAGIC.to_be_bytes();
        let [e, f, g, h] = error.wire().to_be_bytes();
        let [i, j, k, l, m, n, o, p] = self.cookie.to_be_bytes();
        output.push(&[a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]);
    }

    /// "Structured reply chunk message" and "Extended reply chunk message": everything before the payload.
    fn chunk(self, output: &mut Output, flags: u16, kind: u16, length: u64) {
        let mut header = [0; EXTENDED_HEADER];
        let mut rest = &mut header[..];
        let is_extended = self.style == Style::Extended;
        rest.put_u32(if is_extended { EXTENDED_REPLY_MAGIC } else { STRUCTURED_REPLY_MAGIC });
        rest.put_u16(flags);
        rest.put_u16(kind);
        rest.put_u64(self.cookie);
        if is_extended {
            rest.put_u64(self.offset);
            rest.put_u64(length);
        } else {
            rest.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        }
        let unused = rest.len();
        output.push(header.get(..EXTENDED_HEADER - unused).unwrap_or_default());
    }
}

fn push_content(output: &mut Output, answer: Answer) {
    match answer {
        Answer::Data(data) => output.push_payload(data),
        Answer::Zeroes(length) => push_zeroes(output, length),
        Answer::Parts(parts) => parts.into_iter().for_each(|part| match part {
            Part::Data(data) => output.push_payload(data),
            Part::Zeroes(length) => push_zeroes(output, length),
        }),
        Answer::Status(_) => {}
    }
}

fn push_zeroes(output: &mut Output, mut length: u64) {
    while length > 0 {
        let piece = length.min(count(ZEROES.len()));
        output.push_payload(Bytes::from_static(ZEROES.get(..index(piece)).unwrap_or(&ZEROES)));
        length -= piece;
    }
}

/// The flags of "base:allocation" and of QEMU's contexts.
const fn flags_of(state: State) -> u32 {
    match state {
        State::Data | State::Same => 0,
        State::Zeroes => state::HOLE | state::ZERO,
        State::Layer(depth) => depth,
        State::Changed => state::DIRTY,
    }
}

/// As much of `text` as a string of the protocol may hold.
pub(crate) fn shortened(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_STRING)).unwrap_or_default()
}
