//! The kernel's trace ring buffer, read raw: pages of `trace_pipe_raw`, and where an event's fields lie in it.
//!
//! ```text
//!  page    time 8 │ commit 8: bytes of data, bit 31: events before it were lost │ data …
//!  entry   u32: low 5 bits type_len, high 27 bits nanoseconds since the entry before │ …
//!            1 to 28   that many words of data
//!            0         a word with the length, itself included, then data
//!            29        padding: a word with the length; with no time the rest of the page is empty
//!            30        a word: bits 27 and up of a long time
//!            31        a word: the time itself, but for its top five bits
//! ```
//!
//! After the kernel's include/linux/ring_buffer.h and kernel/trace/ring_buffer.c, little endian.

use crate::event::Kind;
use crate::import::kind_of_rwbs;

/// Bits of the commit word that are the length.
const LENGTH: u64 = (1 << 20) - 1;
const MISSED: u64 = 1 << 31;
const SECTOR: u64 = 512;
const HEADER: usize = 16;

/// Where the fields of a `block_*` event lie, from its `format` file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    id: u16,
    device: usize,
    sector: usize,
    sectors: usize,
    letters: (usize, usize),
    end: bool,
}

impl Layout {
    /// This event is the end of an I/O, not its beginning.
    #[must_use]
    pub const fn of_ends(self) -> Self {
        Self { end: true, ..self }
    }

    /// Reads a `format` file; `None` when a field is missing.
    #[must_use]
    pub fn parse(format: &str) -> Option<Self> {
        let id = format.lines().find_map(|l| l.strip_prefix("ID:"))?.trim().parse().ok()?;
        let field = |name: &str| format.lines().find_map(|l| place(l, name));
        Some(Self {
            id,
            device: field("dev")?.0,
            sector: field("sector")?.0,
            sectors: field("nr_sector")?.0,
            letters: field("rwbs")?,
            end: false,
        })
    }
}

/// Offset and size of a field: `field:char rwbs[10]; offset:28; size:10; …`.
fn place(line: &str, name: &str) -> Option<(usize, usize)> {
    let mut parts = line.trim().strip_prefix("field:")?.split(';').map(str::trim);
    let declared = parts.next()?.rsplit(' ').next()?;
    if declared.split('[').next()? != name {
        return None;
    }
    let number = |part: Option<&str>, key: &str| part?.strip_prefix(key)?.parse().ok();
    Some((number(parts.next(), "offset:")?, number(parts.next(), "size:")?))
}

/// An I/O as the kernel traced it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traced {
    /// Nanoseconds on the trace's clock.
    pub nanos: u64,
    /// The kernel's number of the device: twelve bits of major, twenty of minor.
    pub device: u32,
    /// What it does.
    pub kind: Kind,
    /// Where, in bytes.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
    /// Is it the end of an I/O?
    pub end: bool,
}

/// Appends the I/Os of one page, of events of these layouts. `true`: events before it were lost.
pub fn page(bytes: &[u8], layouts: &[Layout], out: &mut Vec<Traced>) -> bool {
    let (Some(mut time), Some(commit)) = (u64_at(bytes, 0), u64_at(bytes, 8)) else { return false };
    let length = usize::try_from(commit & LENGTH).unwrap_or(usize::MAX);
    let data = bytes.get(HEADER..).unwrap_or(&[]);
    let mut rest = data.get(..length).unwrap_or(data);
    while let Some(entry) = Entry::first(rest) {
        time = match entry.time {
            Time::Since(delta) => time.wrapping_add(delta),
            Time::Is(low) => (time & !((1 << 59) - 1)) | low,
        };
        out.extend(entry.data.and_then(|data| traced(data, layouts, time)));
        rest = rest.get(entry.length..).unwrap_or(&[]);
    }
    commit & MISSED != 0
}

struct Entry<'a> {
    time: Time,
    data: Option<&'a [u8]>,
    length: usize,
}

enum Time {
    Since(u64),
    Is(u64),
}

impl<'a> Entry<'a> {
    /// `None` at the end of the page's data.
    fn first(bytes: &'a [u8]) -> Option<Self> {
        let head = u32_at(bytes, 0)?;
        let delta = u64::from(head >> 5);
        let word = u32_at(bytes, 4);
        let long = |word: u32| (u64::from(word) << 27) + delta;
        match head & 31 {
            29 if delta == 0 => None,
            29 => {
                Some(Self { time: Time::Since(delta), data: None, length: 4 + usize::try_from(word?).ok()? })
            }
            30 => Some(Self { time: Time::Since(long(word?)), data: None, length: 8 }),
            31 => Some(Self { time: Time::Is(long(word?)), data: None, length: 8 }),
            0 => {
                let length = usize::try_from(word?).ok().filter(|&l| l >= 4)?;
                Some(Self { time: Time::Since(delta), data: bytes.get(8..4 + length), length: 4 + length })
            }
            words => {
                let length = 4 * usize::try_from(words).ok()?;
                Some(Self { time: Time::Since(delta), data: bytes.get(4..4 + length), length: 4 + length })
            }
        }
    }
}

fn traced(data: &[u8], layouts: &[Layout], nanos: u64) -> Option<Traced> {
    let id = data.first_chunk().map(|&raw| u16::from_le_bytes(raw))?;
    let layout = layouts.iter().find(|layout| layout.id == id)?;
    let (at, size) = layout.letters;
    let letters = data.get(at..at + size)?.split(|&b| b == 0).next()?;
    let length = u64::from(u32_at(data, layout.sectors)?) * SECTOR;
    let kind = kind_of_rwbs(letters)?;
    // A write of nothing is the flush that its first letter says.
    let kind = if length == 0 && kind == Kind::Write { Kind::Flush } else { kind };
    let offset = if length == 0 { 0 } else { u64_at(data, layout.sector)?.checked_mul(SECTOR)? };
    let (device, end) = (u32_at(data, layout.device)?, layout.end);
    Some(Traced { nanos, device, kind, offset, length, end })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|&raw| u32::from_le_bytes(raw))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|&raw| u64::from_le_bytes(raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: &str = "name: block_bio_queue
ID: 2097
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;

\tfield:dev_t dev;\toffset:8;\tsize:4;\tsigned:0;
\tfield:sector_t sector;\toffset:16;\tsize:8;\tsigned:0;
\tfield:unsigned int nr_sector;\toffset:24;\tsize:4;\tsigned:0;
\tfield:char rwbs[10];\toffset:28;\tsize:10;\tsigned:0;
\tfield:char comm[16];\toffset:38;\tsize:16;\tsigned:0;
";

    fn data(letters: &[u8], sector: u64, sectors: u32) -> Vec<u8> {
        let mut data = vec![0; 56];
        data[..2].copy_from_slice(&2097_u16.to_le_bytes());
        data[8..12].copy_from_slice(&(7_u32 << 20).to_le_bytes());
        data[16..24].copy_from_slice(&sector.to_le_bytes());
        data[24..28].copy_from_slice(&sectors.to_le_bytes());
        data[28..28 + letters.len()].copy_from_slice(letters);
        data
    }

    fn word(value: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(&value.to_le_bytes());
    }

    #[test]
    fn a_page_with_every_kind_of_entry() {
        let layout = Layout::parse(FORMAT).unwrap();
        let mut entries = Vec::new();
        word(14 | 5 << 5, &mut entries); // 14 words, 5 ns on
        entries.extend(data(b"WS", 8, 16));
        word(30 | 1 << 5, &mut entries); // a long time
        word(2, &mut entries);
        word(7 << 5, &mut entries); // length in a word of its own
        word(60, &mut entries);
        entries.extend(data(b"R", 0, 1));
        word(29 | 1 << 5, &mut entries); // padding of two words
        word(4, &mut entries);
        word(31 | 9 << 5, &mut entries); // the time itself
        word(0, &mut entries);
        word(14, &mut entries);
        entries.extend(data(b"FWS", u64::MAX, 0));
        word(29, &mut entries); // the end
        let mut page_bytes = 1000_u64.to_le_bytes().to_vec();
        page_bytes.extend((entries.len() as u64 | MISSED).to_le_bytes());
        page_bytes.extend(entries);
        page_bytes.resize(4096, 0xee);
        let mut found = Vec::new();
        let none = page(&page_bytes, &[], &mut found);
        assert!(none && found.is_empty(), "events of others");
        assert!(page(&page_bytes, &[layout], &mut found));
        let traced =
            |nanos, kind, offset, length| Traced { nanos, device: 7 << 20, kind, offset, length, end: false };
        let second = 1005 + (2 << 27) + 1 + 7;
        assert_eq!(
            found,
            [
                traced(1005, Kind::Write, 4096, 8192),
                traced(second, Kind::Read, 0, 512),
                traced(9, Kind::Flush, 0, 0)
            ]
        );
        for cut in 0..page_bytes.len() {
            page(&page_bytes[..cut], &[layout], &mut found);
        }
        found.clear();
        page(&page_bytes, &[layout.of_ends()], &mut found);
        assert!(found.len() == 3 && found.iter().all(|t| t.end));
    }

    #[test]
    fn a_format_without_the_fields_is_none() {
        assert_eq!(Layout::parse(&FORMAT.replace("nr_sector", "bytes")), None);
    }
}
