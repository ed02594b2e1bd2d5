//! Segments on disk and in memory: bounds, short writes, failed syncs, cold reads, power cuts.

use std::fs;
use std::io::ErrorKind;

use super::*;
use crate::testing::SmallDisk;

const LEN: u64 = 64 * 1024;

fn one(bytes: &[u8]) -> [IoSlice<'_>; 1] {
    [IoSlice::new(bytes)]
}

fn content(file: &SegmentFile) -> Vec<u8> {
    let mut all = vec![1; tap_block::units::index(file.len())];
    file.read_at(0, &mut all).unwrap();
    all
}

/// The same rules hold for both media.
fn media() -> (tempfile::TempDir, Vec<SegmentFile>) {
    let tmp = tempfile::tempdir().unwrap();
    let disk = SegmentFile::create_zeroed(&tmp.path().join("a.seg"), LEN).unwrap();
    let memory = MemoryDir::new().create(FileNo::new(1), LEN).unwrap();
    (tmp, vec![disk, memory])
}

#[test]
fn a_new_file_is_zeroes_and_keeps_what_is_written() {
    let (_tmp, files) = media();
    for file in files {
        assert_eq!(content(&file), vec![0; 65536]);
        file.write_at(10, &[IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"cde")]).unwrap();
        file.sync().unwrap();
        assert_eq!(&content(&file)[9..16], b"\0abcde\0");
        file.write_at(5, &[]).unwrap();
    }
}

#[test]
fn nothing_passes_the_end() {
    let (_tmp, files) = media();
    for file in files {
        assert_eq!(file.write_at(LEN - 1, &one(b"xy")).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert_eq!(file.write_at(u64::MAX, &one(b"xy")).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        file.write_at(LEN - 2, &one(b"xy")).unwrap();
        let mut two = [0; 2];
        let refused = file.read_at(LEN - 1, &mut two).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::UnexpectedEof);
        assert!(refused.to_string().contains(".seg"), "{refused}");
        assert!(!file.read_cached(LEN - 1, &mut two).unwrap());
        assert!(file.read_at(u64::MAX, &mut two).is_err());
    }
}

#[test]
fn more_slices_than_one_call_takes() {
    let (_tmp, files) = media();
    let bytes: Vec<u8> = (0..=255).cycle().take(5000).collect();
    let slices: Vec<IoSlice<'_>> = bytes.chunks(1).map(IoSlice::new).collect();
    for file in files {
        file.write_at(100, &slices).unwrap();
        assert_eq!(content(&file)[100..5100], bytes[..]);
    }
}

#[test]
fn writes_cut_short_go_on() {
    let dir = MemoryDir::new();
    let file = dir.create(FileNo::new(1), LEN).unwrap();
    dir.shorten_writes(3);
    file.write_at(1, &[IoSlice::new(b"abcd"), IoSlice::new(b"efghij"), IoSlice::new(b"k")]).unwrap();
    assert_eq!(&content(&file)[..13], b"\0abcdefghijk\0");
}

#[test]
fn after_a_failed_sync_nothing_is_written_any_more() {
    let dir = MemoryDir::new();
    let file = dir.create(FileNo::new(1), LEN).unwrap();
    file.write_at(0, &one(b"sound")).unwrap();
    file.sync().unwrap();
    dir.fail_syncs(true);
    assert!(file.sync().is_err());
    dir.fail_syncs(false);
    let refused = file.sync().unwrap_err().to_string();
    assert!(refused.contains("on purpose"), "the first reason is kept: {refused}");
    assert!(file.write_at(0, &one(b"x")).is_err());
    assert!(file.is_poisoned());
    assert_eq!(&content(&file)[..5], b"sound", "what was durable can still be read");
}

#[test]
fn failing_reads_and_writes_are_reported_with_the_file() {
    let dir = MemoryDir::new();
    let file = dir.create(FileNo::new(7), LEN).unwrap();
    dir.fail_writes(true);
    let said = file.write_at(0, &one(b"x")).unwrap_err().to_string();
    assert!(said.contains("00000007.seg"), "{said}");
    dir.fail_reads(true);
    assert!(file.read_at(0, &mut [0; 4]).is_err());
    assert!(file.read_cached(0, &mut [0; 4]).is_err());
}

#[test]
fn cold_bytes_are_not_read_on_the_spot() {
    let tmp = tempfile::tempdir().unwrap();
    let file = SegmentFile::create_zeroed(&tmp.path().join("a.seg"), 32 << 20).unwrap();
    let mut four = [0; 4];
    for n in 0..32 {
        file.write_at(n << 20, &one(b"warm")).unwrap();
        assert!(file.read_cached(n << 20, &mut four).unwrap());
    }
    file.sync().unwrap();
    file.drop_cache().unwrap();
    // A try starts the read, and a quick disk may have the bytes there at once; but not every time.
    let cold: Vec<u64> =
        (0..32).map(|n| (n * 7 % 32) << 20).filter(|at| !file.read_cached(*at, &mut four).unwrap()).collect();
    assert!(!cold.is_empty(), "the page cache was empty");
    for at in cold {
        file.read_at(at, &mut four).unwrap();
        assert_eq!(&four, b"warm", "from the disk itself");
    }
}

#[test]
fn a_power_cut_keeps_what_was_synced_and_any_part_of_the_rest() {
    let dir = MemoryDir::new();
    let no = FileNo::new(1);
    let file = dir.create(no, LEN).unwrap();
    file.write_at(0, &one(&[1; 4096])).unwrap();
    file.sync().unwrap();
    file.write_at(0, &one(&[2; 3 * 4096])).unwrap();
    let none = content(&dir.after_power_cut(|_, _| false).open(no).unwrap());
    assert_eq!((none[0], none[4096], none[8192]), (1, 0, 0));
    let some = content(&dir.after_power_cut(|_, page| page == 2).open(no).unwrap());
    assert_eq!((some[0], some[4096], some[8192]), (1, 0, 2));
    let all = content(&dir.after_power_cut(|_, _| true).open(no).unwrap());
    assert_eq!((all[0], all[4096], all[8192]), (2, 2, 2));
}

#[test]
fn a_full_disk_leaves_nothing_half_made() {
    let Some(small) = SmallDisk::new(1 << 20) else { return };
    let path = small.path().join("a.seg");
    let refused = SegmentFile::create_zeroed(&path, 4 << 20).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::StorageFull);
    assert!(refused.to_string().contains("a.seg"), "{refused}");
    assert_eq!(fs::read_dir(small.path()).unwrap().count(), 0);
    SegmentFile::create_zeroed(&path, 1 << 19).unwrap();
}

#[test]
fn a_directory_clears_up_what_a_crash_left_and_ignores_strangers() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = DiskDir::open(tmp.path()).unwrap();
    dir.create(FileNo::new(12), LEN).unwrap();
    for name in ["00000013.tmp", "notes.txt", "x.seg", "-0000001.seg", "1.seg"] {
        fs::write(tmp.path().join(name), b"x").unwrap();
    }
    let dir = DiskDir::open(tmp.path()).unwrap();
    assert_eq!(dir.list().unwrap(), [FileNo::new(12)]);
    assert!(!tmp.path().join("00000013.tmp").exists());
    assert!(tmp.path().join("notes.txt").exists());
    assert_eq!(dir.create(FileNo::new(12), LEN).unwrap_err().kind(), ErrorKind::AlreadyExists);
    dir.remove(FileNo::new(12)).unwrap();
    assert!(dir.open(FileNo::new(12)).is_err());
}

#[test]
fn a_truncated_file_opens_and_says_where_it_ends() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("a.seg");
    drop(SegmentFile::create_zeroed(&path, LEN).unwrap());
    fs::File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
    let file = SegmentFile::open(&path).unwrap();
    assert_eq!(file.len(), 100);
    assert!(file.read_at(90, &mut [0; 20]).is_err());
}
