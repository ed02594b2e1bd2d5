//! The system calls the standard library has no name for.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;

use rustix::io::{Errno, ReadWriteFlags};
use tap_block::units::{count, index};

/// What written zeroes are written from.
static ZEROES: [u8; 1 << 20] = [0; 1 << 20];

/// Reads what the page cache holds from `offset` on, without waiting for a disk: maybe less than asked for.
/// [`Errno::AGAIN`] when it holds nothing, [`Errno::OPNOTSUPP`] when the file system cannot tell.
pub(crate) fn read_nowait(file: &File, offset: u64, into: &mut [u8]) -> rustix::io::Result<usize> {
    loop {
        match rustix::io::preadv2(file, &mut [IoSliceMut::new(into)], offset, ReadWriteFlags::NOWAIT) {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

/// Writes `length` zeroes.
pub(crate) fn write_zeroes(file: &File, mut offset: u64, mut length: u64) -> io::Result<()> {
    while length > 0 {
        let chunk = length.min(count(ZEROES.len()));
        file.write_all_at(ZEROES.get(..index(chunk)).unwrap_or_default(), offset)?;
        offset += chunk;
        length -= chunk;
    }
    Ok(())
}
