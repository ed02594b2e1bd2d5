//! `/proc/diskstats` (the kernel's Documentation/admin-guide/iostats.rst): sums since boot, a line per device.

use crate::bins::Bin;

const SECTOR: u64 = 512;

/// The sums of one device since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Reads completed.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Writes completed.
    pub writes: u64,
    /// Bytes written.
    pub write_bytes: u64,
}

/// The sums of a device; `None` when it has no line, or one that cannot be read.
#[must_use]
pub fn of_device(text: &str, device: &str) -> Option<Counters> {
    devices(text).find(|(name, _)| *name == device).map(|(_, counters)| counters)
}

/// All devices with their sums.
pub fn devices(text: &str) -> impl Iterator<Item = (&str, Counters)> {
    text.lines().filter_map(line)
}

/// `major minor name reads merged sectors ms writes merged sectors …`
fn line(line: &str) -> Option<(&str, Counters)> {
    let mut fields = line.split_ascii_whitespace().skip(2);
    let name = fields.next()?;
    let mut field = |skip: usize| fields.nth(skip).and_then(|f| f.parse::<u64>().ok());
    let (reads, read_sectors) = (field(0)?, field(1)?);
    let (writes, write_sectors) = (field(1)?, field(1)?);
    let bytes = |sectors: u64| sectors.saturating_mul(SECTOR);
    Some((
        name,
        Counters { reads, read_bytes: bytes(read_sectors), writes, write_bytes: bytes(write_sectors) },
    ))
}

impl Counters {
    /// The traffic since `before`; `None` when a sum went back: the device is another one, or was made anew.
    #[must_use]
    pub fn since(&self, before: &Self) -> Option<Bin> {
        let small = |now: u64, before: u64| Some(u32::try_from(now.checked_sub(before)?).unwrap_or(u32::MAX));
        Some(Bin {
            reads: small(self.reads, before.reads)?,
            read_bytes: self.read_bytes.checked_sub(before.read_bytes)?,
            writes: small(self.writes, before.writes)?,
            write_bytes: self.write_bytes.checked_sub(before.write_bytes)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "   7       0 loop0 38707 225 2352406 149568 174912 43394 9421454 464643 0 125564 675521 92 0 16173154 142 84357 61167
 254       0 vda 10 0 80 1 20 0 160 1 0 2 3
 254       1 short 10 0
";

    #[test]
    fn a_line_is_read_as_the_kernel_writes_it() {
        let vda = Counters { reads: 10, read_bytes: 40_960, writes: 20, write_bytes: 81_920 };
        assert_eq!(of_device(TEXT, "vda"), Some(vda));
        assert_eq!(of_device(TEXT, "vdb"), None);
        assert_eq!(of_device(TEXT, "short"), None);
        assert_eq!(of_device(TEXT, "loop0").unwrap().write_bytes, 9_421_454 * 512);
        let later = Counters { writes: 22, write_bytes: 90_112, ..vda };
        assert_eq!(later.since(&vda), Some(Bin { writes: 2, write_bytes: 8192, ..Bin::default() }));
        assert_eq!(vda.since(&later), None);
    }
}
