//! The file device against real files: holes, full and shrunk disks, cached and cold reads, syncs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::thread;

use rustix::fs::{Advice, fadvise};
use tap_block::device::{ask, run};
use tap_block::{ExtentSet, Map, State, Stretch};

use super::*;
use crate::testing::{Completions, SmallDisk};

const MIB: u64 = 1 << 20;

fn open(path: &Path) -> Arc<FileDevice> {
    FileDevice::open(path, FileOptions::default()).unwrap()
}

/// A file of `size` written bytes, none of them zero.
fn full(dir: &Path, size: u64) -> PathBuf {
    let path = dir.join("disk.img");
    fs::write(&path, vec![0x5a; index(size)]).unwrap();
    path
}

fn sparse(dir: &Path, size: u64) -> PathBuf {
    let path = dir.join("disk.img");
    File::create(&path).unwrap().set_len(size).unwrap();
    path
}

fn write(offset: u64, data: &'static [u8]) -> Op {
    Op::Write { offset, data: Bytes::from_static(data), fua: false }
}

fn read(from: u64, to: u64) -> Op {
    Op::Read { extent: Extent::between(from, to) }
}

fn punch(from: u64, to: u64) -> Op {
    Op::Zero { extent: Extent::between(from, to), fua: false, may_trim: true, fast: false }
}

fn io_text(outcome: tap_block::Outcome) -> String {
    match outcome {
        Err(DeviceError::Io(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_write_is_done_when_submit_returns_and_a_cached_read_too() {
    let tmp = tempfile::tempdir().unwrap();
    let disk = open(&full(tmp.path(), MIB));
    let done = Completions::new();
    done.submit(&*disk, 1, write(5000, b"hello"));
    assert_eq!(done.at_once(), Some((1, Ok(Bytes::new()), thread::current().id())));
    done.submit(&*disk, 2, read(5000, 5005));
    let cached = Some((2, Ok(Bytes::from_static(b"hello")), thread::current().id()));
    assert_eq!(done.at_once(), cached);
}

fn zero(extent: Extent, may_trim: bool, fast: bool) -> Op {
    Op::Zero { extent, fua: false, may_trim, fast }
}

fn status(disk: &FileDevice, map: Map, extent: Extent, most: usize) -> Vec<Stretch> {
    match ask(disk, Op::Status { extent, maps: [map].into(), most }).unwrap() {
        Answer::Status(mut told) => told.remove(0),
        other => panic!("{other:?}"),
    }
}

#[test]
fn holes_are_told_and_read_as_such() {
    let tmp = tempfile::tempdir().unwrap();
    let disk = open(&sparse(tmp.path(), 8 * MIB));
    run(&*disk, write(2 * MIB, &[7; 4096])).unwrap();
    run(&*disk, write(5 * MIB, &[8; 64 << 10])).unwrap();
    let all = Extent::between(0, 8 * MIB);
    let told = status(&disk, Map::Allocation, all, 100);
    let (hole, data) = (State::Zeroes, State::Data);
    assert_eq!(told.iter().map(|s| s.state).collect::<Vec<_>>(), [hole, data, hole, data, hole]);
    assert_eq!(told.iter().map(|s| s.length).sum::<u64>(), all.length());
    assert_eq!(told[0], Stretch { length: 2 * MIB, state: hole });
    assert_eq!(status(&disk, Map::Allocation, all, 2), told[..2]);
    let depth = status(&disk, Map::Depth, Extent::between(2 * MIB, 2 * MIB + 1), 100);
    assert_eq!(depth, [Stretch { length: 1, state: State::Layer(1) }]);
    // What the page cache does not hold is read around its holes.
    disk.disk.nowait.store(false, Ordering::Relaxed);
    let whole = ask(&*disk, read(0, 8 * MIB)).unwrap();
    let Answer::Parts(parts) = &whole else { panic!("{} bytes in one", whole.length()) };
    assert_eq!(parts.len(), 5);
    assert!(whole.into_bytes() == fs::read(tmp.path().join("disk.img")).unwrap());
    assert_eq!(ask(&*disk, read(3 * MIB, 4 * MIB)), Ok(Answer::Zeroes(MIB)));
    assert!(matches!(ask(&*disk, read(3 * MIB, 3 * MIB + 4096)), Ok(Answer::Data(_))), "too short to look");
    let fetched = run(&*disk, Op::Cache { extent: all });
    assert_eq!(fetched, Ok(Bytes::new()));
}

#[test]
fn fast_zeroes_are_fast_or_refused() {
    let tmp = tempfile::tempdir().unwrap();
    let disk = open(&full(tmp.path(), 4 * MIB));
    for may_trim in [true, false] {
        let extent = Extent::between(MIB + 1, 3 * MIB + 5);
        run(&*disk, write(2 * MIB, b"there")).unwrap();
        let done = run(&*disk, zero(extent, may_trim, true));
        let zeroed = run(&*disk, read(2 * MIB, 2 * MIB + 5)).unwrap() == [0; 5][..];
        assert_eq!(done.is_ok(), disk.zeroes_fast(may_trim));
        assert_eq!(done.is_ok(), zeroed, "nothing is changed by what is refused");
        assert!(done.is_ok() || matches!(done, Err(DeviceError::Unsupported(_))), "{done:?}");
        run(&*disk, zero(extent, may_trim, false)).unwrap();
        assert_eq!(run(&*disk, read(2 * MIB, 2 * MIB + 5)).unwrap(), [0; 5][..]);
    }
}

#[test]
fn cold_reads_come_from_the_pool() {
    let tmp = tempfile::tempdir().unwrap();
    let disk = open(&full(tmp.path(), 32 * MIB));
    run(&*disk, Op::Flush).unwrap();
    fadvise(&disk.disk.file, 0, None, Advice::DontNeed).unwrap();
    let done = Completions::new();
    // Not in order, to outrun the readahead. A try that does not wait starts it too, and a quick disk may
    // have the bytes there at once; but not every time.
    let mut elsewhere = 0;
    for n in 0..32 {
        let at = (n * 7 % 32) * MIB;
        done.submit(&*disk, n, read(at + 1, at + 4097));
        let (_, outcome, on) = done.next();
        assert!(outcome.unwrap().iter().all(|b| *b == 0x5a));
        elsewhere += u64::from(on != thread::current().id());
    }
    assert!(elsewhere > 0, "the page cache was empty");
}

#[test]
fn a_half_cached_read_is_completed() {
    let tmp = tempfile::tempdir().unwrap();
    let disk = open(&full(tmp.path(), 8 * MIB));
    run(&*disk, Op::Flush).unwrap();
    fadvise(&disk.disk.file, 0, None, Advice::DontNeed).unwrap();
    run(&*disk, write(4 * MIB, b"warm")).unwrap();
    let got = run(&*disk, read(4 * MIB - 8192, 4 * MIB + 3 * 8192)).unwrap();
    assert_eq!(&got[8192..8196], b"warm");
    assert_eq!(got.iter().filter(|b| **b == 0x5a).count(), got.len() - 4);
}

#[test]
fn without_nonblocking_reads_the_pool_does_them_all() {
    let tmp = tempfile::tempdir().unwrap();
    let disk = open(&full(tmp.path(), MIB));
    disk.disk.nowait.store(false, Ordering::Relaxed);
    assert_eq!(&run(&*disk, read(0, 3)).unwrap()[..], [0x5a; 3]);
}

#[test]
fn many_operations_in_flight_each_complete_once() {
    let tmp = tempfile::tempdir().unwrap();
    let disk = open(&full(tmp.path(), 4 * MIB));
    let done = Completions::new();
    for n in 0..900 {
        let op = match n % 3 {
            0 => write(n * 4096, b"x"),
            1 => read((n - 1) * 4096 + 1, n * 4096),
            _ => Op::Flush,
        };
        done.submit(&*disk, n, op);
    }
    let mut tags: Vec<u64> =
        (0..900).map(|_| done.next()).map(|(tag, out, _)| out.map(|_| tag).unwrap()).collect();
    tags.sort_unstable();
    assert_eq!(tags, (0..900).collect::<Vec<_>>());
}

#[test]
fn bounds_and_read_only_are_kept() {
    let tmp = tempfile::tempdir().unwrap();
    let path = full(tmp.path(), 5000);
    let disk = FileDevice::open(&path, FileOptions { read_only: true, ..FileOptions::default() }).unwrap();
    assert_eq!(disk.geometry(), Geometry { size: 5000, read_only: true });
    assert_eq!(run(&*disk, write(0, b"x")), Err(DeviceError::ReadOnly));
    assert_eq!(run(&*disk, punch(0, 1)), Err(DeviceError::ReadOnly));
    assert!(matches!(run(&*disk, read(4999, 5001)), Err(DeviceError::OutOfRange { size: 5000, .. })));
    assert_eq!(run(&*disk, read(4999, 5000)).unwrap().len(), 1);
    assert!(run(&*disk, read(7, 7)).unwrap().is_empty());
    assert!(run(&*disk, Op::Flush).is_ok());
    assert!(!disk.trims());
    assert_eq!(fs::metadata(&path).unwrap().len(), 5000);
}

#[test]
fn zeroes_with_may_trim_give_the_space_back() {
    let tmp = tempfile::tempdir().unwrap();
    let path = full(tmp.path(), 4 * MIB);
    let disk = open(&path);
    run(&*disk, Op::Flush).unwrap();
    let before = fs::metadata(&path).unwrap().blocks();
    let keep = Op::Zero { extent: Extent::between(0, MIB), fua: true, may_trim: false, fast: false };
    run(&*disk, keep).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().blocks(), before, "the space is kept");
    // Large enough for the pool, and not on block boundaries.
    run(
        &*disk,
        Op::Zero { extent: Extent::between(MIB + 7, 3 * MIB + 9), fua: true, may_trim: true, fast: false },
    )
    .unwrap();
    assert!(fs::metadata(&path).unwrap().blocks() < before, "the space is given back");
    let got = run(&*disk, read(0, 4 * MIB)).unwrap();
    let zero =
        |range: std::ops::Range<u64>| got[index(range.start)..index(range.end)].iter().all(|b| *b == 0);
    assert!(zero(0..MIB) && zero(MIB + 7..3 * MIB + 9));
    assert_eq!(got.iter().filter(|b| **b == 0x5a).count(), index(7 + MIB - 9));
}

#[test]
fn a_trim_means_zeroes_where_it_means_anything() {
    let tmp = tempfile::tempdir().unwrap();
    let disk = open(&full(tmp.path(), MIB));
    assert!(disk.trims(), "the file system of the tests punches holes");
    run(&*disk, Op::Trim { extent: Extent::between(3, 70_000), fua: true }).unwrap();
    let got = run(&*disk, read(0, MIB)).unwrap();
    assert!(got[3..70_000].iter().all(|b| *b == 0));
    assert_eq!(got.iter().filter(|b| **b == 0x5a).count(), index(MIB) - 69_997);
}

#[test]
fn where_trims_do_nothing_they_do_so_always() {
    let tmp = tempfile::tempdir().unwrap();
    let mut disk = Arc::into_inner(open(&full(tmp.path(), MIB))).unwrap();
    Arc::get_mut(&mut disk.disk).unwrap().trims = false;
    run(&disk, Op::Trim { extent: Extent::between(0, MIB), fua: true }).unwrap();
    assert!(run(&disk, read(0, MIB)).unwrap().iter().all(|b| *b == 0x5a));
}

#[test]
fn zeroes_are_written_where_the_file_system_has_none() {
    // tmpfs has no ZERO_RANGE.
    let Some(small) = SmallDisk::new(16 * MIB) else { return };
    let path = full(small.path(), 4 * MIB);
    let disk = open(&path);
    let keep = Op::Zero { extent: Extent::between(100, 3 * MIB), fua: true, may_trim: false, fast: false };
    run(&*disk, keep).unwrap();
    let got = run(&*disk, read(0, 4 * MIB)).unwrap();
    assert!(got[100..index(3 * MIB)].iter().all(|b| *b == 0));
    assert_eq!(got.iter().filter(|b| **b == 0x5a).count(), index(MIB) + 100);
}

#[test]
fn a_full_disk_is_said_to_be_full_and_recovers() {
    let Some(small) = SmallDisk::new(MIB) else { return };
    let disk = open(&sparse(small.path(), 4 * MIB));
    let mut refused = None;
    for block in 0..1024_u64 {
        if let Err(e) = run(&*disk, write(block * 4096, &[7; 4096])) {
            refused = Some((block, e));
            break;
        }
    }
    let (block, error) = refused.unwrap();
    assert!(matches!(&error, DeviceError::NoSpace(text) if text.contains("disk.img")), "{error}");
    assert!(run(&*disk, read(0, 4096)).unwrap().iter().all(|b| *b == 7), "the rest is not disturbed");
    run(&*disk, punch(0, 8 * 4096)).unwrap();
    run(&*disk, write(block * 4096, &[7; 4096])).unwrap();
}

#[test]
fn a_write_cut_short_by_a_full_disk_is_an_error() {
    let Some(small) = SmallDisk::new(MIB) else { return };
    let disk = open(&sparse(small.path(), 4 * MIB));
    let outcome = run(&*disk, Op::Write { offset: 0, data: vec![1; index(2 * MIB)].into(), fua: false });
    assert!(matches!(outcome, Err(DeviceError::NoSpace(_))), "{outcome:?}");
}

#[test]
fn a_shrunk_file_yields_errors_and_never_zeroes() {
    let tmp = tempfile::tempdir().unwrap();
    let path = full(tmp.path(), MIB);
    let disk = open(&path);
    File::options().write(true).open(&path).unwrap().set_len(MIB / 2).unwrap();
    let text = io_text(run(&*disk, read(MIB / 2 - 10, MIB / 2 + 10)));
    assert!(text.contains("shrunk") && text.contains("disk.img"), "{text}");
    assert!(run(&*disk, read(0, MIB / 2)).is_ok(), "what is there is served");
    assert!(io_text(run(&*disk, write(MIB - 4096, b"grow"))).contains("shrunk"));
    assert!(io_text(run(&*disk, punch(0, 4096))).contains("shrunk"));
    assert_eq!(fs::metadata(&path).unwrap().len(), MIB / 2, "nothing made it grow");
}

#[test]
fn a_flush_notices_a_shrunk_file_and_regrowing_does_not_heal_it() {
    let tmp = tempfile::tempdir().unwrap();
    let path = full(tmp.path(), MIB);
    let disk = open(&path);
    let other = File::options().write(true).open(&path).unwrap();
    other.set_len(4096).unwrap();
    assert!(io_text(run(&*disk, Op::Flush)).contains("shrunk"));
    other.set_len(MIB).unwrap();
    assert!(io_text(run(&*disk, Op::Flush)).contains("shrunk"));
    let fua = Op::Write { offset: 0, data: Bytes::from_static(b"x"), fua: true };
    assert!(io_text(run(&*disk, fua)).contains("shrunk"));
}

#[test]
fn a_file_that_grows_keeps_the_size_it_was_opened_with() {
    let tmp = tempfile::tempdir().unwrap();
    let path = full(tmp.path(), MIB);
    let disk = open(&path);
    File::options().write(true).open(&path).unwrap().set_len(2 * MIB).unwrap();
    assert_eq!(disk.geometry().size, MIB);
    assert!(run(&*disk, Op::Flush).is_ok());
    let past = run(&*disk, read(MIB, MIB + 1));
    assert!(matches!(past, Err(DeviceError::OutOfRange { .. })), "{past:?}");
}

#[test]
fn a_file_that_grew_is_larger_once_that_is_wanted_and_what_came_with_data_is_told() {
    let tmp = tempfile::tempdir().unwrap();
    let path = full(tmp.path(), MIB - 100);
    let disk = open(&path);
    assert_eq!(disk.growth().unwrap(), None);
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(4 * MIB).unwrap();
    assert_eq!(disk.growth().unwrap(), Some(Growth { size: 4 * MIB, data: ExtentSet::new() }), "a hole");
    let block = |n: u64| Extent::between(n * 4096, (n + 1) * 4096);
    file.write_all_at(b"x", 2 * MIB + 5).unwrap();
    file.write_all_at(b"y", MIB - 1).unwrap();
    let data: ExtentSet = [block(255), block(512)].into_iter().collect();
    assert_eq!(disk.growth().unwrap(), Some(Growth { size: 4 * MIB, data }));
    disk.grow_to(4 * MIB);
    assert_eq!((disk.geometry().size, disk.growth().unwrap()), (4 * MIB, None));
    disk.grow_to(MIB);
    assert_eq!(disk.geometry().size, 4 * MIB, "never smaller");
    assert_eq!(run(&*disk, read(MIB - 1, MIB + 1)).unwrap()[..], [b'y', 0]);
    assert!(run(&*disk, write(4 * MIB - 1, b"z")).is_ok());
    file.set_len(3 * MIB).unwrap();
    assert!(io_text(run(&*disk, Op::Flush)).contains("shrunk"), "the size it has now counts");
}

#[test]
fn flushes_that_come_while_one_runs_share_the_next() {
    let flusher = Flusher::default();
    let done = Completions::new();
    assert!(flusher.join(done.ticket(0)), "the first has to run it");
    let first = flusher.next().unwrap();
    for tag in 1..=50 {
        assert!(!flusher.join(done.ticket(tag)), "somebody runs already");
    }
    assert_eq!(first.len(), 1);
    assert_eq!(flusher.next().unwrap().len(), 50, "all in one");
    assert!(flusher.next().is_none());
    assert!(flusher.join(done.ticket(51)), "and from the start again");
}

#[test]
fn after_a_failed_sync_no_flush_succeeds() {
    let tmp = tempfile::tempdir().unwrap();
    let disk = open(&full(tmp.path(), MIB));
    disk.disk.sync_failed(&io::Error::from_raw_os_error(5));
    for op in [Op::Flush, Op::Write { offset: 0, data: Bytes::from_static(b"x"), fua: true }] {
        assert!(io_text(run(&*disk, op)).contains("may be lost"));
    }
    assert!(run(&*disk, read(0, 1)).is_ok());
}

#[test]
fn holes_are_found() {
    let tmp = tempfile::tempdir().unwrap();
    let disk = open(&sparse(tmp.path(), 64 * MIB));
    assert_eq!(disk.data_extents(0).unwrap(), None, "a hole from end to end");
    run(&*disk, write(10 * MIB, b"here")).unwrap();
    run(&*disk, write(63 * MIB, b"and here")).unwrap();
    let first = disk.data_extents(0).unwrap().unwrap();
    assert!(first.contains(Extent::between(10 * MIB, 10 * MIB + 4)) && first.length() <= MIB, "{first:?}");
    let second = disk.data_extents(first.end()).unwrap().unwrap();
    assert!(second.contains(Extent::between(63 * MIB, 63 * MIB + 8)), "{second:?}");
    assert_eq!(disk.data_extents(second.end()).unwrap(), None);
    assert_eq!(disk.data_extents(64 * MIB).unwrap(), None);
    assert_eq!(disk.data_extents(u64::MAX).unwrap(), None);
}

#[test]
fn holes_behind_the_end_of_a_shrunk_file_are_an_error() {
    let tmp = tempfile::tempdir().unwrap();
    let path = full(tmp.path(), MIB);
    let disk = open(&path);
    File::options().write(true).open(&path).unwrap().set_len(4096).unwrap();
    assert!(disk.data_extents(8192).is_err(), "not a hole: the content is gone");
}

#[test]
fn identity_changes_with_the_content_and_the_file() {
    let tmp = tempfile::tempdir().unwrap();
    let path = full(tmp.path(), MIB);
    let disk = open(&path);
    let first = disk.identity().unwrap();
    assert_eq!(open(&path).identity().unwrap(), first);
    assert_eq!((first.size, first.is_block_device), (MIB, false));
    File::options().write(true).open(&path).unwrap().set_len(2 * MIB).unwrap();
    assert_ne!(disk.identity().unwrap(), first);
    fs::remove_file(&path).unwrap();
    assert_ne!(open(&full(tmp.path(), MIB)).identity().unwrap(), first);
}

#[test]
fn what_is_no_disk_is_refused_with_its_reason() {
    let tmp = tempfile::tempdir().unwrap();
    let refused = |path: &Path| FileDevice::open(path, FileOptions::default()).map(drop).unwrap_err();
    assert!(matches!(refused(&tmp.path().join("missing")), OpenError::Missing { .. }));
    assert!(matches!(refused(tmp.path()), OpenError::NotADisk { kind: "a directory", .. }));
    assert!(matches!(
        refused(Path::new("/dev/null")),
        OpenError::NotADisk { kind: "a character device", .. }
    ));
    assert!(matches!(refused(&sparse(tmp.path(), 0)), OpenError::Empty { .. }));
    let fifo = tmp.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    assert!(refused(&fifo).to_string().contains("is a fifo"), "and opening it does not wait");
}

#[test]
fn a_disk_has_one_owner_at_a_time() {
    let tmp = tempfile::tempdir().unwrap();
    let path = full(tmp.path(), MIB);
    let (first, second) = (open(&path), open(&path));
    first.claim().unwrap();
    first.claim().unwrap();
    let refused = second.claim().unwrap_err();
    assert!(matches!(&refused, OpenError::Claimed { .. }) && refused.is_in_use(), "{refused}");
    let said = refused.to_string();
    assert!(said.contains(&*path.to_string_lossy()) && said.contains("stop that one first"), "{said}");
    assert!(run(&*second, read(0, 4096)).is_ok(), "it may be read all the same");
    second.release();
    assert!(second.claim().is_err(), "who has nothing releases nothing");
    first.release();
    second.claim().unwrap();
    drop(second);
    first.claim().unwrap();
}

#[test]
fn a_block_device_has_one_owner_too() {
    let tmp = tempfile::tempdir().unwrap();
    let Some(device) = Loop::over(&full(tmp.path(), 4 * MIB)) else { return };
    let (first, second) = (open(Path::new(&device.0)), open(Path::new(&device.0)));
    first.claim().unwrap();
    let refused = second.claim().unwrap_err();
    assert!(matches!(&refused, OpenError::Busy { .. }) && refused.is_in_use(), "{refused}");
    assert!(refused.to_string().contains(&format!("fuser -v {}", device.0)), "{refused}");
    run(&*first, write(0, b"ours")).unwrap();
    first.release();
    second.claim().unwrap();
}

/// A file as a block device, for one test.
struct Loop(String);

impl Loop {
    fn over(path: &Path) -> Option<Self> {
        let made = Command::new("losetup").args(["--find", "--show"]).arg(path).output().ok()?;
        if made.status.success() {
            return Some(Self(String::from_utf8(made.stdout).unwrap().trim().to_owned()));
        }
        eprintln!("not run: a loop device needs root");
        None
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

#[test]
fn a_block_device_is_a_disk_too() {
    let tmp = tempfile::tempdir().unwrap();
    let Some(device) = Loop::over(&full(tmp.path(), 4 * MIB)) else { return };
    let disk = open(Path::new(&device.0));
    let identity = disk.identity().unwrap();
    assert_eq!((identity.size, identity.is_block_device), (4 * MIB, true));
    assert!(disk.data_extents(0).unwrap().unwrap().contains(Extent::between(0, 4096)));
    run(&*disk, write(4 * MIB - 5, b"tail!")).unwrap();
    run(&*disk, punch(1000, MIB + 1000)).unwrap();
    run(
        &*disk,
        Op::Zero { extent: Extent::between(2 * MIB, 3 * MIB), fua: true, may_trim: false, fast: false },
    )
    .unwrap();
    run(&*disk, Op::Flush).unwrap();
    let got = run(&*disk, read(0, 4 * MIB)).unwrap();
    assert!(got[1000..index(MIB) + 1000].iter().all(|b| *b == 0));
    assert!(got[index(2 * MIB)..index(3 * MIB)].iter().all(|b| *b == 0));
    assert_eq!(&got[got.len() - 5..], b"tail!");
    assert_eq!(got.iter().filter(|b| **b == 0x5a).count(), index(2 * MIB) - 5);
}

#[test]
fn what_is_asked_for_alone_is_done_on_the_thread_that_asks() {
    let dir = tempfile::tempdir().unwrap();
    let disk = open(&full(dir.path(), 64 << 10));
    disk.disk.nowait.store(false, Ordering::Relaxed);
    let (done, here) = (Completions::new(), std::thread::current().id());
    let read = || Op::Read { extent: Extent::between(0, 4096) };
    let write = || Op::Write { offset: 0, data: vec![7; 4096].into(), fua: true };
    for (tag, op) in [(0, write()), (1, Op::Flush), (2, read())] {
        disk.submit(op, done.ticket(tag).alone());
        let (answered, outcome, thread) = done.at_once().expect("before submit returns");
        assert!(answered == tag && outcome.is_ok() && thread == here);
    }
    for (tag, op) in [(3, write()), (4, Op::Flush), (5, read())] {
        disk.submit(op, done.ticket(tag));
        let (answered, outcome, thread) = done.next();
        assert!(answered == tag && outcome.is_ok() && thread != here, "{tag} kept its submitter");
    }
}

#[test]
fn who_joins_while_somebody_syncs_alone_is_synced_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let disk = open(&full(dir.path(), 4096));
    let done = Completions::new();
    assert!(disk.disk.flusher.join(done.ticket(0).alone()));
    let alone = disk.disk.flusher.next().unwrap();
    assert!(!disk.disk.flusher.join(done.ticket(1)), "somebody runs already");
    disk.disk.sync_for(alone);
    assert!(!disk.disk.flusher.is_done(), "one has joined");
    disk.disk.run_flushes();
    assert_eq!((done.next().0, done.next().0), (0, 1));
    assert!(disk.disk.flusher.join(done.ticket(2)), "and from the start again");
    assert!(disk.disk.run_one_flush());
    assert!(disk.disk.flusher.join(done.ticket(3)), "nobody was left to run it");
}
