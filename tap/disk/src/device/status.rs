//! What the file system knows about a disk without reading it: holes, as a map and as the content of large reads.

use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use rustix::fs::{Advice, SeekFrom, fadvise};
use rustix::io::Errno;
use tap_block::units::{count, index};
use tap_block::{Answer, Answered, Extent, Map, Stretches};

use super::Disk;

/// A read that is not in the page cache looks for holes first if it is at least this long.
const LARGE: u64 = 64 << 10;
/// A hole that is shorter is read like data: a piece of its own would cost more.
const HOLE: u64 = 16 << 10;
/// Fetched at most, when a client says that it will read.
const FETCHED: u64 = 64 << 20;

impl Disk {
    pub(super) fn data_extents(&self, from: u64) -> io::Result<Option<Extent>> {
        self.data_below(from, self.geometry().size)
    }

    /// The same of a disk of this size.
    pub(super) fn data_below(&self, from: u64, size: u64) -> io::Result<Option<Extent>> {
        if from >= size {
            return Ok(None);
        }
        let rest = Extent::between(from, size);
        let start = match rustix::fs::seek(&self.file, SeekFrom::Data(from)) {
            Ok(start) if start >= size => return Ok(None),
            Ok(start) => start,
            Err(Errno::NXIO) => return self.check_size().map(|()| None),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some(rest)),
            Err(e) => return Err(e.into()),
        };
        let end = rustix::fs::seek(&self.file, SeekFrom::Hole(start))?;
        Ok(Some(Extent::between(start, end.min(size))))
    }

    /// Answers [`tap_block::Op::Status`]: two looks at the file system for each stretch.
    pub(super) fn status(&self, extent: Extent, maps: &[Map], most: usize) -> Answered {
        let all = maps.iter().map(|map| {
            let mut stretches = Stretches::new(most);
            self.describe(extent, &mut |length, data| stretches.push(length, map.plain(data)))?;
            Ok(stretches.into_list())
        });
        let all: io::Result<Vec<_>> = all.collect();
        all.map(Answer::Status).map_err(|e| self.failed("tell what is a hole in", &e))
    }

    /// Tells `each` stretch of data or hole, until it has had enough.
    fn describe(&self, extent: Extent, each: &mut dyn FnMut(u64, bool) -> bool) -> io::Result<()> {
        let mut at = extent.offset();
        while at < extent.end() {
            let data = self.data_extents(at)?.and_then(|data| data.intersection(extent));
            let data = data.unwrap_or(Extent::between(extent.end(), extent.end()));
            if !each(data.offset() - at, false) || !each(data.length(), true) {
                return Ok(());
            }
            at = data.end();
        }
        Ok(())
    }

    /// A large read that has holes in it, without reading those. `None`: read it as it is.
    pub(super) fn read_around_holes(&self, extent: Extent) -> Option<Answer> {
        let holes = self.holes(extent).filter(|holes| !holes.is_empty())?;
        if holes.first().is_some_and(|hole| hole.len() == index(extent.length())) {
            return Some(Answer::Zeroes(extent.length()));
        }
        let mut buffer = vec![0; index(extent.length())];
        let (mut from, end) = (0, buffer.len());
        for (to, next) in holes.iter().map(|hole| (hole.start, hole.end)).chain([(end, end)]) {
            // What fails is met again by who reads it as it is, and reported.
            self.file.read_exact_at(buffer.get_mut(from..to)?, extent.offset() + count(from)).ok()?;
            from = next;
        }
        Some(Answer::without_holes(Bytes::from(buffer), holes))
    }

    fn holes(&self, extent: Extent) -> Option<Vec<Range<usize>>> {
        if extent.length() < LARGE {
            return None;
        }
        let (mut holes, mut at) = (Vec::new(), 0);
        let described = self.describe(extent, &mut |length, data| {
            if !data && length >= HOLE {
                holes.push(index(at)..index(at + length));
            }
            at += length;
            true
        });
        described.ok().map(|()| holes)
    }

    /// Brings what will be read soon into the page cache. What fails is met when it is read.
    pub(super) fn fetch(&self, extent: Extent) {
        if let Some(length) = NonZeroU64::new(extent.length().min(FETCHED)) {
            let _ = fadvise(&self.file, extent.offset(), Some(length), Advice::WillNeed);
        }
    }
}
