//! A disk in memory: for tests of every layer above, and for the demo's scratch volumes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::device::{Answer, Answered, BlockDevice, DeviceError, Geometry, Op, Ticket};
use crate::extent::Extent;
use crate::status;
use crate::units::index;

/// A disk whose content is a vector of bytes. Every operation completes before `submit` returns.
#[derive(Debug, Default)]
pub struct MemoryDevice {
    content: Mutex<Vec<u8>>,
    read_only: bool,
}

impl MemoryDevice {
    /// `size` bytes of zeroes.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self::with_content(vec![0; index(size)])
    }

    /// This content.
    #[must_use]
    pub fn with_content(content: Vec<u8>) -> Self {
        Self { content: Mutex::new(content), read_only: false }
    }

    /// The same content, closed to writes.
    #[must_use]
    pub fn into_read_only(self) -> Self {
        Self { read_only: true, ..self }
    }

    /// A copy of the content.
    #[must_use]
    pub fn content(&self) -> Vec<u8> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, op: &Op) -> Answered {
        self.geometry().admit(op)?;
        let mut content = self.lock();
        match op {
            Op::Read { extent } => Ok(Bytes::copy_from_slice(part(&mut content, *extent)?).into()),
            Op::Write { offset, data, .. } => {
                let extent = Extent::between(*offset, offset + crate::units::count(data.len()));
                part(&mut content, extent)?.copy_from_slice(data);
                Ok(Bytes::new().into())
            }
            Op::Zero { extent, .. } | Op::Trim { extent, .. } => {
                part(&mut content, *extent)?.fill(0);
                Ok(Bytes::new().into())
            }
            Op::Status { extent, maps, most } => {
                let content = part(&mut content, *extent)?;
                Ok(Answer::Status(status::of_content(*extent, content, maps, *most)))
            }
            Op::Copy { .. } => Err(DeviceError::Unsupported("it has no way to share content".to_owned())),
            Op::Cache { .. } | Op::Flush => Ok(Bytes::new().into()),
        }
    }
}

fn part(content: &mut [u8], extent: Extent) -> Result<&mut [u8], DeviceError> {
    let size = crate::units::count(content.len());
    content
        .get_mut(index(extent.offset())..index(extent.end()))
        .ok_or(DeviceError::OutOfRange { extent, size })
}

impl BlockDevice for MemoryDevice {
    fn geometry(&self) -> Geometry {
        Geometry { size: crate::units::count(self.lock().len()), read_only: self.read_only }
    }

    fn submit(&self, op: Op, ticket: Ticket) {
        ticket.answer(self.run(&op));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::run;

    #[test]
    fn reads_see_writes_and_bounds_hold() {
        let disk = MemoryDevice::new(8192);
        run(&disk, Op::Write { offset: 100, data: Bytes::from_static(b"abc"), fua: false }).unwrap();
        let got = run(&disk, Op::Read { extent: Extent::between(99, 104) }).unwrap();
        assert_eq!(&got[..], b"\0abc\0");
        let past = run(&disk, Op::Read { extent: Extent::between(8191, 8193) });
        assert!(matches!(past, Err(DeviceError::OutOfRange { size: 8192, .. })));
    }

    #[test]
    fn read_only_refuses_every_write_class() {
        let disk = MemoryDevice::new(4096).into_read_only();
        let extent = Extent::between(0, 512);
        for op in [
            Op::Write { offset: 0, data: Bytes::from_static(b"x"), fua: false },
            Op::Zero { extent, fua: false, may_trim: true, fast: false },
            Op::Trim { extent, fua: false },
        ] {
            assert_eq!(run(&disk, op), Err(DeviceError::ReadOnly));
        }
        assert!(run(&disk, Op::Flush).is_ok());
    }
}
