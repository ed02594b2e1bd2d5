//! Segment files of which the disk does not read something: a sector, or all.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gateway_store::{Parts, Store};
use tap_disk::{FileNo, Medium, MemoryDir, PoolOptions, SegmentDir, SegmentFile, SegmentPool};

use super::lab::Lab;

struct Dir {
    dir: MemoryDir,
    places: Vec<(FileNo, Range<u64>)>,
    bad: Arc<AtomicBool>,
}

struct File {
    file: SegmentFile,
    places: Vec<Range<u64>>,
    bad: Arc<AtomicBool>,
}

/// The lab's store is opened, and these places cannot be read as long as what is returned says so.
pub fn open(lab: &mut Lab, places: &[(FileNo, Range<u64>)]) -> Arc<AtomicBool> {
    lab.store = None;
    let bad = Arc::new(AtomicBool::new(true));
    let dir = Dir { dir: lab.disk.dir.clone(), places: places.to_vec(), bad: Arc::clone(&bad) };
    let options = PoolOptions { ready: 0, ..PoolOptions::default() };
    let segments = SegmentPool::over(Box::new(dir), u64::from(lab.disk.config.segment_len), options).unwrap();
    let parts = Parts { segments, ..lab.disk.parts() };
    lab.store = Some(Store::open_on(lab.disk.config.clone(), Arc::clone(&lab.disk.clock), parts).unwrap());
    bad
}

impl Dir {
    fn wrap(&self, no: FileNo, file: SegmentFile) -> SegmentFile {
        let (len, bad) = (file.len(), Arc::clone(&self.bad));
        let places = self.places.iter().filter(|(of, _)| *of == no).map(|(_, place)| place.clone());
        let places = places.collect();
        SegmentFile::over(Box::new(File { file, places, bad }), format!("{no}"), len)
    }
}

impl SegmentDir for Dir {
    fn list(&self) -> io::Result<Vec<FileNo>> {
        self.dir.list()
    }

    fn create(&self, no: FileNo, len: u64) -> io::Result<SegmentFile> {
        self.dir.create(no, len).map(|file| self.wrap(no, file))
    }

    fn open(&self, no: FileNo) -> io::Result<SegmentFile> {
        self.dir.open(no).map(|file| self.wrap(no, file))
    }

    fn remove(&self, no: FileNo) -> io::Result<()> {
        self.dir.remove(no)
    }
}

impl Medium for File {
    fn write(&self, offset: u64, data: &[IoSlice<'_>]) -> io::Result<usize> {
        self.file.write_at(offset, data)?;
        Ok(data.iter().map(|d| d.len()).sum())
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let end = offset + into.len() as u64;
        let is_bad = self.places.iter().any(|place| offset < place.end && place.start < end);
        if is_bad && self.bad.load(Ordering::SeqCst) {
            return Err(io::Error::other("medium error"));
        }
        let n = self.file.len().saturating_sub(offset).min(into.len() as u64) as usize;
        self.file.read_at(offset, &mut into[..n])?;
        Ok(n)
    }

    fn read_cached(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.read(offset, into)
    }

    fn will_need(&self, _: u64, _: u64) {}

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }
}
