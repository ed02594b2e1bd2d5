//! Images against the oracle, and overlays against a plain model, over a real store and real files.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use gateway_image::overlay::{Change, group_len};
use gateway_store::{Store, StoreConfig};
use tap_block::device::run;
use tap_block::units::index;
use tap_block::{
    Answered, BLOCK_SIZE, BlockDevice, BlockNo, Clock, CompletionQueue, DeviceError, Extent, Lsn, Monotonic,
    Op, Ticket, VolumeId, WallTime,
};
use tap_disk::{Pool, RealClock};
use tempfile::TempDir;
use testbed_model::{Oracle, Random, Workload};

use super::flat::{FlatDir, FlatRead, FlatSlot};
use super::overlay::OverlayDir;
use super::room::Room;
use super::{Image, ImageDevice, OverlayDevice};

mod between;
mod copies;
mod damage;
mod maps;
mod power;
mod together;

const QUOTA: u64 = 1 << 20;

/// A store with a history in it, and the oracle that knows it too.
struct Rig {
    tmp: TempDir,
    store: Arc<Store>,
    oracle: Oracle,
    volume: VolumeId,
    pool: Arc<Pool>,
}

impl Rig {
    fn new(seed: u64) -> Self {
        Self::of(Workload::new(seed), 1 << 20)
    }

    fn of(mut workload: Workload, segment_len: u32) -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let mut config = StoreConfig::new(tmp.path().join("store"));
        config.segment_len = segment_len;
        let store = Store::open(config, Arc::new(RealClock)).unwrap();
        let mut oracle = Oracle::new();
        let (done, stored) = std::sync::mpsc::channel();
        let history = workload.history(60);
        for batch in &history {
            oracle.apply(batch).unwrap();
            let done = done.clone();
            store.append(batch.clone(), Box::new(move |result| done.send(result).unwrap()));
        }
        history.iter().for_each(|_| assert!(stored.recv().unwrap().is_ok()));
        let pool = Arc::new(Pool::new("test-read", 4, 16));
        Self { tmp, store, oracle, volume: workload.volume(), pool }
    }

    fn image(&self, point: Lsn) -> Arc<Image> {
        let size = self.oracle.size_at(self.volume, point);
        Arc::new(Image::open(Arc::clone(&self.store), self.volume, point, size).unwrap())
    }

    fn overlays(&self) -> OverlayDir {
        self.overlays_with(Room::new(Box::new(|| None), Arc::new(RealClock)))
    }

    fn overlays_with(&self, room: Room) -> OverlayDir {
        OverlayDir::new(self.tmp.path().join("overlays"), Arc::new(room))
    }

    fn overlay(&self, point: Lsn) -> OverlayDevice {
        self.overlays().open(7, Some(QUOTA), self.image(point), Arc::clone(&self.pool)).unwrap()
    }
}

/// Bytes of what was said in a file: up to the mark behind it.
fn said_in(recent: &std::path::Path) -> u64 {
    let bytes = std::fs::read(recent).unwrap();
    bytes.windows(4).position(|bytes| bytes == b"CGRE").unwrap() as u64
}

fn whole(device: &dyn BlockDevice) -> Bytes {
    run(device, Op::Read { extent: Extent::between(0, device.geometry().size) }).unwrap()
}

/// Reads pieces of 64 KiB; how many blocks were fetched before they were asked for.
fn fetched_by(rig: &Rig, device: &dyn BlockDevice, pieces: impl Iterator<Item = u64>) -> u64 {
    let before = rig.store.status().blocks_ahead;
    for n in pieces {
        run(device, Op::Read { extent: Extent::between(n * (64 << 10), (n + 1) * (64 << 10)) }).unwrap();
    }
    // The pool has one thread: what was submitted before this is done when this is.
    let (done, ended) = std::sync::mpsc::channel();
    rig.pool.submit(move || done.send(()).unwrap());
    ended.recv().unwrap();
    rig.store.status().blocks_ahead - before
}

#[test]
fn whoever_reads_from_front_to_back_finds_what_comes_next_fetched() {
    let one = Arc::new(Pool::new("test-read", 1, 64));
    let rig = Rig { pool: one, ..Rig::of(Workload::with_size(11, 8 << 20), 16 << 20) };
    let head = rig.oracle.lsns().pop().unwrap();
    let image = || ImageDevice::new(rig.image(head), Arc::clone(&rig.pool));
    assert_eq!(fetched_by(&rig, &image(), (0..60).map(|n| n * 37 % 128)), 0, "at random");
    assert!(fetched_by(&rig, &image(), 0..8) > 800, "half of the disk's blocks hold something");
    rig.overlays().create(7, QUOTA).unwrap();
    assert!(fetched_by(&rig, &rig.overlay(head), 0..8) > 800, "an image that is written to as well");
}

#[test]
fn an_image_reads_as_the_oracle_replays() {
    let rig = Rig::new(1);
    let mut random = Random::new(1);
    for point in rig.oracle.lsns() {
        let device = ImageDevice::new(rig.image(point), Arc::clone(&rig.pool));
        let expected = rig.oracle.image_at(rig.volume, point);
        assert!(whole(&device) == expected, "{point}");
        let start = random.below(expected.len() as u64);
        let part = Extent::between(start, (start + random.below(9000)).min(expected.len() as u64));
        let got = run(&device, Op::Read { extent: part }).unwrap();
        assert_eq!(got, expected[index(part.offset())..index(part.end())]);
    }
}

#[test]
fn an_image_refuses_writes_and_reads_past_its_end() {
    let rig = Rig::new(2);
    let device = ImageDevice::new(rig.image(rig.oracle.last_lsn()), Arc::clone(&rig.pool));
    let size = device.geometry().size;
    let write = Op::Write { offset: 0, data: Bytes::from_static(b"x"), fua: false };
    assert_eq!(run(&device, write), Err(DeviceError::ReadOnly));
    let past = run(&device, Op::Read { extent: Extent::between(size - 1, size + 1) });
    assert!(matches!(past, Err(DeviceError::OutOfRange { .. })));
    assert!(run(&device, Op::Flush).is_ok());
}

/// One random operation, on the device and on the model.
fn step(random: &mut Random, device: &OverlayDevice, model: &mut [u8]) {
    let size = model.len() as u64;
    let start = random.below(size);
    let aligned = random.below(3) == 0;
    let start = if aligned { start / BLOCK_SIZE * BLOCK_SIZE } else { start };
    let extent = Extent::between(start, (start + 1 + random.below(20_000)).min(size));
    let range = index(extent.offset())..index(extent.end());
    match random.below(6) {
        0 => {
            run(device, Op::Zero { extent, fua: random.below(2) == 0, may_trim: true, fast: false }).unwrap();
            model[range].fill(0);
        }
        1 => {
            run(device, Op::Trim { extent, fua: false }).unwrap();
            model[range].fill(0);
        }
        _ => {
            let mut data = vec![0; range.len()];
            if random.below(5) > 0 {
                random.fill(&mut data);
            }
            model[range].copy_from_slice(&data);
            run(device, Op::Write { offset: start, data: data.into(), fua: random.below(8) == 0 }).unwrap();
        }
    }
}

#[test]
fn an_overlay_reads_what_was_written_and_survives_a_restart() {
    for seed in 0..6 {
        let rig = Rig::new(seed);
        let point = rig.oracle.last_lsn();
        let mut model = rig.oracle.image_at(rig.volume, point);
        rig.overlays().create(7, QUOTA).unwrap();
        let mut random = Random::new(seed);
        for _ in 0..4 {
            let device = rig.overlay(point);
            assert!(whole(&device) == model, "after opening");
            for _ in 0..60 {
                step(&mut random, &device, &mut model);
                if random.below(4) == 0 {
                    assert!(whole(&device) == model);
                }
            }
            run(&device, Op::Flush).unwrap();
        }
        let image = ImageDevice::new(rig.image(point), Arc::clone(&rig.pool));
        assert!(whole(&image) == rig.oracle.image_at(rig.volume, point), "the image below is as it was");
    }
}

#[test]
fn an_image_of_an_image_is_what_that_was_and_both_go_their_own_ways() {
    for seed in 0..6 {
        let rig = Rig::new(seed);
        let point = rig.oracle.last_lsn();
        let mut model = rig.oracle.image_at(rig.volume, point);
        rig.overlays().create(7, QUOTA).unwrap();
        let (mut random, device) = (Random::new(seed), rig.overlay(point));
        (0..60).for_each(|_| step(&mut random, &device, &mut model));
        // Not flushed: what was answered counts.
        rig.overlays().fork(&device, 8, QUOTA).unwrap();
        let frozen = model.clone();
        (0..60).for_each(|_| step(&mut random, &device, &mut model));
        let open = |quota| rig.overlays().open(8, quota, rig.image(point), Arc::clone(&rig.pool)).unwrap();
        let fixed = open(None);
        assert!(whole(&fixed) == frozen && whole(&device) == model, "seed {seed}");
        let write = Op::Write { offset: 0, data: vec![1; 4096].into(), fua: false };
        assert_eq!(run(&fixed, write), Err(DeviceError::ReadOnly));
        drop(fixed);
        let (mut other, branch) = (frozen, open(Some(QUOTA)));
        (0..60).for_each(|_| step(&mut random, &branch, &mut other));
        run(&branch, Op::Flush).unwrap();
        run(&device, Op::Flush).unwrap();
        drop((branch, device));
        assert!(whole(&open(Some(QUOTA))) == other && whole(&rig.overlay(point)) == model, "seed {seed}");
    }
}

#[test]
fn an_image_of_an_image_needs_room_for_what_is_written_on_it() {
    let rig = Rig::new(1);
    let point = rig.oracle.last_lsn();
    rig.overlays().create(7, QUOTA).unwrap();
    let device = rig.overlay(point);
    run(&device, Op::Write { offset: 0, data: vec![9; 8192].into(), fua: false }).unwrap();
    let refused = rig.overlays().fork(&device, 8, 4096).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::QuotaExceeded);
    assert!(!rig.overlays().has(8));
}

#[test]
fn what_was_answered_is_there_after_the_gateway_was_killed() {
    for seed in 0..8 {
        let rig = Rig::new(seed);
        let point = rig.oracle.last_lsn();
        rig.overlays().create(7, QUOTA).unwrap();
        let mut model = rig.oracle.image_at(rig.volume, point);
        let mut random = Random::new(seed);
        for _ in 0..12 {
            let device = rig.overlay(point);
            assert!(whole(&device) == model, "seed {seed}");
            for _ in 0..random.below(30) {
                step(&mut random, &device, &mut model);
                if random.below(9) == 0 {
                    run(&device, Op::Flush).unwrap();
                }
            }
        }
    }
}

/// Writers beside each other, whose stretches meet within a block, and one who flushes.
#[test]
fn writers_beside_each_other_lose_nothing_when_the_gateway_is_killed() {
    for seed in 0..4 {
        let rig = Rig::of(Workload::with_size(seed, 2 << 20), 4 << 20);
        let point = rig.oracle.last_lsn();
        let mut model = rig.oracle.image_at(rig.volume, point);
        let quota = 4 << 20;
        rig.overlays().create(7, quota).unwrap();
        let open = || rig.overlays().open(7, Some(quota), rig.image(point), Arc::clone(&rig.pool)).unwrap();
        for round in 0..3 {
            let device = open();
            let (device, stretch) = (&device, model.len() / 4 + 1000);
            std::thread::scope(|scope| {
                for (no, part) in model.chunks_mut(stretch).enumerate() {
                    scope.spawn(move || {
                        write_all_over(device, (no * stretch) as u64, part, seed * 100 + round)
                    });
                }
                scope.spawn(|| (0..6).for_each(|_| drop(run(device, Op::Flush).unwrap())));
            });
            assert!(whole(device) == model, "seed {seed}");
        }
        assert!(whole(&open()) == model, "seed {seed}, after a kill");
    }
}

/// Long and short writes to the part of the disk that begins at `at`, some of it zeroes.
fn write_all_over(device: &OverlayDevice, at: u64, part: &mut [u8], seed: u64) {
    let mut random = Random::new(seed + at);
    for _ in 0..30 {
        let from = random.below(part.len() as u64);
        let end = (from + 1 + random.below(300_000)).min(part.len() as u64);
        let data = &mut part[index(from)..index(end)];
        if random.below(4) == 0 {
            data.fill(0)
        } else {
            random.fill(data)
        }
        let data = Bytes::copy_from_slice(data);
        run(device, Op::Write { offset: at + from, data, fua: false }).unwrap();
    }
}

#[test]
fn what_was_not_flushed_may_be_lost_with_the_power_but_nothing_else() {
    let rig = Rig::new(3);
    let point = rig.oracle.last_lsn();
    rig.overlays().create(7, QUOTA).unwrap();
    let mut model = rig.oracle.image_at(rig.volume, point);
    let mut random = Random::new(9);
    let device = rig.overlay(point);
    (0..40).for_each(|_| step(&mut random, &device, &mut model));
    run(&device, Op::Flush).unwrap();
    let flushed = model.clone();
    let of = |name: &str| rig.tmp.path().join("overlays/7").join(name);
    let durable = std::fs::read(of("data")).unwrap();
    for offset in (0..model.len() as u64 - BLOCK_SIZE).step_by(8192) {
        run(&device, Op::Write { offset, data: vec![0xee; 4096].into(), fua: false }).unwrap();
    }
    drop(device);
    let said = ["recent-0", "recent-1"].map(|name| std::fs::read(of(name)).unwrap());
    // What the kernel had of the content is gone, what it had of where it lies is not; then that is gone as well.
    std::fs::write(of("data"), durable).unwrap();
    std::fs::remove_file(of("boot")).unwrap();
    assert!(whole(&rig.overlay(point)) == flushed);
    ["recent-0", "recent-1", "boot"].iter().for_each(|name| std::fs::remove_file(of(name)).unwrap());
    assert!(whole(&rig.overlay(point)) == flushed);
    // And what comes back from before the last flush changes nothing.
    let device = rig.overlay(point);
    run(&device, Op::Write { offset: 0, data: vec![0xdd; 8192].into(), fua: true }).unwrap();
    model = flushed;
    model[..8192].fill(0xdd);
    drop(device);
    ["recent-0", "recent-1"]
        .iter()
        .zip(said)
        .for_each(|(name, said)| std::fs::write(of(name), said).unwrap());
    std::fs::remove_file(of("boot")).unwrap();
    assert!(whole(&rig.overlay(point)) == model);
}

#[test]
fn zeroes_that_are_to_keep_their_room_take_it() {
    let rig = Rig::new(4);
    let point = rig.oracle.last_lsn();
    let dir = rig.overlays();
    dir.create(7, 3 * BLOCK_SIZE).unwrap();
    let device = dir.open(7, Some(3 * BLOCK_SIZE), rig.image(point), Arc::clone(&rig.pool)).unwrap();
    let zero = |blocks: u64, may_trim: bool| Op::Zero {
        extent: Extent::between(0, blocks * BLOCK_SIZE),
        fua: false,
        may_trim,
        fast: false,
    };
    assert!(
        matches!(run(&device, zero(4, false)), Err(DeviceError::NoSpace(text)) if text.contains("quota"))
    );
    assert_eq!(device.used(), 0, "all of it or nothing");
    run(&device, zero(4, true)).unwrap();
    assert_eq!(device.used(), 0);
    run(&device, zero(2, false)).unwrap();
    assert_eq!(device.used(), 2 * BLOCK_SIZE);
    let beside = Op::Write { offset: 2 * BLOCK_SIZE, data: vec![1; 8192].into(), fua: false };
    assert!(run(&device, beside).is_err(), "the room is not anybody's");
    let within = Op::Write { offset: 0, data: vec![1; 8192].into(), fua: false };
    run(&device, within).unwrap();
    assert_eq!(whole(&device)[..16384], [[1; 8192], [0; 8192]].concat());
}

#[test]
fn a_full_overlay_says_so_and_goes_on_with_what_it_has() {
    let rig = Rig::new(4);
    let point = rig.oracle.last_lsn();
    let dir = rig.overlays();
    dir.create(7, 2 * BLOCK_SIZE).unwrap();
    let device = dir.open(7, Some(2 * BLOCK_SIZE), rig.image(point), Arc::clone(&rig.pool)).unwrap();
    let write = |block: u64| Op::Write { offset: block * BLOCK_SIZE, data: vec![1; 4096].into(), fua: false };
    run(&device, write(0)).unwrap();
    run(&device, write(1)).unwrap();
    assert!(matches!(run(&device, write(2)), Err(DeviceError::NoSpace(text)) if text.contains("quota")));
    run(&device, write(1)).unwrap();
    run(&device, Op::Trim { extent: Extent::between(0, BLOCK_SIZE), fua: false }).unwrap();
    run(&device, write(2)).unwrap();
    assert_eq!(device.used(), 2 * BLOCK_SIZE);
}

#[test]
fn a_log_that_is_full_begins_anew() {
    let rig = Rig::new(5);
    let point = rig.oracle.last_lsn();
    rig.overlays().create(7, QUOTA).unwrap();
    let device = rig.overlay(point);
    for round in 1u8..=200 {
        for block in (0..60u64).rev() {
            let data = vec![round; 4096].into();
            run(&device, Op::Write { offset: block * BLOCK_SIZE, data, fua: block == 0 }).unwrap();
        }
    }
    let maps = |dir: &std::path::Path| {
        let names = std::fs::read_dir(dir.join("overlays/7")).unwrap();
        let mut names: Vec<_> = names.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let now = maps(rig.tmp.path());
    assert!(now.len() == 5 && !now.contains(&"map-0".to_owned()), "{now:?}");
    drop(device);
    // A replacement that a crash cut short leaves a file without a sound group.
    std::fs::write(rig.tmp.path().join("overlays/7/map-99"), vec![0; 300 << 10]).unwrap();
    let again = rig.overlay(point);
    let block = run(&again, Op::Read { extent: Extent::between(0, 4096) }).unwrap();
    assert!(block.iter().all(|&b| b == 200));
    assert_eq!(maps(rig.tmp.path()), now);
}

/// Says which operation is over, and how.
struct Over(std::sync::mpsc::Sender<(u64, Answered)>);

impl CompletionQueue for Over {
    fn complete(&self, tag: u64, answered: Answered) {
        let _ = self.0.send((tag, answered));
    }
}

/// What was replaced takes room until the next flush; while that takes its time there may be no more.
#[test]
fn a_full_overlay_is_written_again_when_a_flush_has_made_room() {
    const PART: u64 = 16;
    let rig = Rig::new(5);
    let (point, dir) = (rig.oracle.last_lsn(), rig.overlays());
    let quota = 4 * PART * BLOCK_SIZE;
    dir.create(7, quota).unwrap();
    let data = std::fs::OpenOptions::new().write(true).open(dir.of(7).join("data")).unwrap();
    data.set_len(quota + 2 * PART * BLOCK_SIZE).unwrap();
    let device = dir.open(7, Some(quota), rig.image(point), Arc::clone(&rig.pool)).unwrap();
    let write = |part: u64, fill: u8| {
        let data = vec![fill; index(PART * BLOCK_SIZE)].into();
        Op::Write { offset: part * PART * BLOCK_SIZE, data, fua: false }
    };
    (0..4).for_each(|part| drop(run(&device, write(part, 1)).unwrap()));
    run(&device, Op::Flush).unwrap();
    let (said, over) = std::sync::mpsc::channel();
    let queue: Arc<dyn CompletionQueue> = Arc::new(Over(said));
    let held = device.hold();
    for part in 0..4 {
        device.submit(write(part, 2), Ticket::new(part, Arc::clone(&queue)));
    }
    // One is answered at once, one waits for the flush; those that find no room say so now or wait.
    let first = over.recv().unwrap();
    let early = over.recv_timeout(std::time::Duration::from_millis(300));
    drop(held);
    let all = [Some(first), early.ok()].into_iter().flatten().chain(over.iter());
    assert!(all.take(4).all(|(_, answered)| answered.is_ok()));
    assert!(whole(&device)[..index(quota)].iter().all(|&b| b == 2));
}

/// A copy of the image is made, or its disk is slow: whoever waits for a flush of it waits long.
#[test]
fn nobody_waits_for_those_who_wait_for_a_flush_of_another_image() {
    const READ: u64 = 99;
    let rig = Rig::of(Workload::with_size(5, 2 << 20), 4 << 20);
    let point = rig.oracle.last_lsn();
    rig.overlays().create(7, QUOTA).unwrap();
    let device = rig.overlay(point);
    run(&device, Op::Write { offset: 0, data: vec![1; 4096].into(), fua: false }).unwrap();
    let other = ImageDevice::new(rig.image(point), Arc::clone(&rig.pool));
    let (said, over) = std::sync::mpsc::channel();
    let queue: Arc<dyn CompletionQueue> = Arc::new(Over(said));
    let held = device.hold();
    for tag in 0..6 {
        device.submit(Op::Flush, Ticket::new(tag, Arc::clone(&queue)));
    }
    let extent = Extent::between(0, 1 << 20);
    other.submit(Op::Read { extent }, Ticket::new(READ, queue));
    let first = over.recv_timeout(std::time::Duration::from_secs(10));
    drop(held);
    assert_eq!(first.map(|(tag, answered)| (tag, answered.is_ok())), Ok((READ, true)));
    let mut flushed: Vec<u64> = over.iter().take(6).map(|(tag, _)| tag).collect();
    flushed.sort_unstable();
    assert_eq!(flushed, [0, 1, 2, 3, 4, 5]);
}

/// A flush that would have begun the log anew, and could not, is followed by one for which there is room in the old log: what was
/// said between the two is older than what comes after the second.
#[test]
fn a_log_that_could_not_begin_anew_does_not_bring_back_what_was_before_the_last_flush() {
    const BLOCKS: usize = 59;
    let rig = Rig::new(5);
    let point = rig.oracle.last_lsn();
    rig.overlays().create(7, QUOTA).unwrap();
    let device = rig.overlay(point);
    let write = |block: usize, fill: u8| {
        let offset = block as u64 * BLOCK_SIZE;
        run(&device, Op::Write { offset, data: vec![fill; 4096].into(), fua: false }).unwrap();
    };
    // So many flushes leave less room than one more of the kind takes, and more than a small one does.
    let group = |rows: usize| group_len(&vec![Change::Zero(Extent::between(0, BLOCK_SIZE)); rows]);
    let flushes = (256 << 10) / group(BLOCKS);
    assert!((256 << 10) % group(BLOCKS) > 2 * group(1));
    for fill in (1..=200).cycle().take(flushes) {
        (0..BLOCKS).for_each(|block| write(block, fill));
        run(&device, Op::Flush).unwrap();
    }
    let in_the_way = rig.tmp.path().join("overlays/7/map-1");
    std::fs::create_dir(&in_the_way).unwrap();
    (0..BLOCKS).for_each(|block| write(block, 201));
    assert!(run(&device, Op::Flush).is_err(), "the new log cannot be made");
    let all = Extent::between(0, BLOCKS as u64 * BLOCK_SIZE);
    run(&device, Op::Trim { extent: all, fua: false }).unwrap();
    let flushed = run(&device, Op::Flush);
    std::fs::remove_dir(&in_the_way).unwrap();
    flushed.or_else(|_| run(&device, Op::Flush)).unwrap();
    write(0, 202);
    run(&device, Op::Flush).unwrap();
    drop(device);
    let again = whole(&rig.overlay(point));
    assert_eq!(again[..4096], [202; 4096], "flushed, and then the gateway was killed");
    assert!(again[4096..index(all.end())].iter().all(|&b| b == 0));
}

/// A mapping that is not all there says that blocks were never written: older content would be served for them.
/// Nothing of the first flush was cut off when it is known to have been done.
#[test]
fn a_log_of_one_flush_with_a_flipped_bit_is_refused_and_not_taken_for_empty() {
    let rig = Rig::new(5);
    let point = rig.oracle.last_lsn();
    rig.overlays().create(7, QUOTA).unwrap();
    let write = Op::Write { offset: 0, data: vec![0xee; 8192].into(), fua: true };
    run(&rig.overlay(point), write).unwrap();
    let map = rig.tmp.path().join("overlays/7/map-0");
    let sound = std::fs::read(&map).unwrap();
    for (round, at) in [0, 4, 12, 20, 50].into_iter().enumerate() {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        std::fs::write(&map, bytes).unwrap();
        let opened = rig.overlays().open(7, Some(QUOTA), rig.image(point), Arc::clone(&rig.pool));
        let why = opened.err().map(|e| e.to_string());
        assert!(why.is_some_and(|why| why.contains("mapping log is damaged")), "byte {at}");
        std::fs::write(&map, &sound).unwrap();
        // Nothing is written from here on: the files of what is recent hold nothing else.
        let device = rig.overlay(point);
        assert!(whole(&device)[..8192] == [0xee; 8192], "round {round}");
    }
}

#[test]
fn a_rotten_block_is_named_until_it_is_written_again() {
    let rig = Rig::new(6);
    let point = rig.oracle.last_lsn();
    rig.overlays().create(7, QUOTA).unwrap();
    let write = |at: u64| Op::Write { offset: at, data: vec![0xee; 4096].into(), fua: true };
    let read = |at: u64| Op::Read { extent: Extent::between(at, at + BLOCK_SIZE) };
    let device = rig.overlay(point);
    [8192, 16384].into_iter().for_each(|at| drop(run(&device, write(at)).unwrap()));
    assert_eq!(device.rotten(), None);
    let path = rig.tmp.path().join("overlays/7/data");
    let data = OpenOptions::new().write(true).open(path).unwrap();
    (0..2u64).for_each(|slot| data.write_all_at(&[7], slot * BLOCK_SIZE + 9).unwrap());
    for at in [8192, 8192, 16384] {
        assert!(matches!(run(&device, read(at)), Err(DeviceError::Damaged { .. })));
    }
    assert_eq!(device.rotten(), Some((BlockNo::holding(8192), 2)));
    run(&device, write(8192)).unwrap();
    assert_eq!(device.rotten(), Some((BlockNo::holding(16384), 1)));
    let zero = Op::Zero { extent: Extent::between(16384, 20480), fua: false, may_trim: true, fast: false };
    run(&device, zero).unwrap();
    assert_eq!(device.rotten(), None);
}

#[test]
fn an_overlay_whose_log_was_cut_off_is_refused() {
    for rounds in [1, 200] {
        let rig = Rig::new(5);
        let point = rig.oracle.last_lsn();
        rig.overlays().create(7, QUOTA).unwrap();
        let device = rig.overlay(point);
        for round in 1u8..=rounds {
            let data: Bytes = vec![round; 4096].into();
            for block in (0..60u64).rev() {
                let write = Op::Write { offset: block * BLOCK_SIZE, data: data.clone(), fua: block == 0 };
                run(&device, write).unwrap();
            }
        }
        drop(device);
        let dir = rig.tmp.path().join("overlays/7");
        let mut names = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path());
        let log = names.find(|path| path.to_str().unwrap().contains("map-")).unwrap();
        let bytes = std::fs::read(&log).unwrap();
        for len in [0, 20, 4096, bytes.len() / 2, bytes.len() - 1] {
            std::fs::write(&log, &bytes[..len]).unwrap();
            let opened = rig.overlays().open(7, Some(QUOTA), rig.image(point), Arc::clone(&rig.pool));
            let refused = opened.err().map(|e| e.to_string());
            assert!(refused.is_some_and(|why| why.contains("cut off")), "{rounds} rounds, {len} bytes");
        }
        std::fs::write(&log, &bytes).unwrap();
        let block = run(&rig.overlay(point), Op::Read { extent: Extent::between(0, 4096) }).unwrap();
        assert!(block.iter().all(|&b| b == rounds));
    }
}

/// The image of the last point with a flat copy of what lies before `done`.
fn flat_image(rig: &Rig, done: u64) -> (Arc<Image>, FlatDir, Arc<FlatSlot>) {
    let point = rig.oracle.last_lsn();
    let expected = rig.oracle.image_at(rig.volume, point);
    let flats = FlatDir::new(rig.tmp.path().join("flats"), Box::new(|| Some(u64::MAX)), 0);
    let flat = flats.create(7, expected.len() as u64).unwrap();
    for block in Extent::between(0, done).split_at_multiples(3 * BLOCK_SIZE) {
        let mut content = vec![0; index(block.to_blocks().length())];
        let there = &expected[index(block.offset())..expected.len().min(index(block.to_blocks().end()))];
        content[..there.len()].copy_from_slice(there);
        flat.put(block.to_blocks(), &content).unwrap();
    }
    flat.reached(done);
    flat.checkpoint().unwrap();
    let slot = Arc::new(FlatSlot::default());
    slot.set(Some(flat));
    let size = rig.oracle.size_at(rig.volume, point);
    let image = Image::open(Arc::clone(&rig.store), rig.volume, point, size).unwrap();
    (Arc::new(image.with_flat(Arc::clone(&slot))), flats, slot)
}

#[test]
fn an_image_over_half_a_flat_copy_reads_as_the_oracle_replays() {
    let rig = Rig::new(11);
    let expected = rig.oracle.image_at(rig.volume, rig.oracle.last_lsn());
    let half = (expected.len() as u64 / 2).next_multiple_of(BLOCK_SIZE);
    let (image, flats, slot) = flat_image(&rig, half);
    let device = ImageDevice::new(image, Arc::clone(&rig.pool));
    assert!(whole(&device) == expected);
    let mut random = Random::new(11);
    for _ in 0..200 {
        let start = random.below(expected.len() as u64);
        let part = Extent::between(start, (start + 1 + random.below(20_000)).min(expected.len() as u64));
        let got = run(&device, Op::Read { extent: part }).unwrap();
        assert_eq!(got, expected[index(part.offset())..index(part.end())]);
    }
    // What is durable of it is found again.
    slot.set(None);
    let again = flats.open(7, expected.len() as u64).unwrap().unwrap();
    assert_eq!((again.done(), again.is_whole()), (half, false));
    let mut out = vec![1; index(BLOCK_SIZE)];
    let first = Extent::between(0, BLOCK_SIZE);
    assert_eq!(again.read(first, gateway_store::ReadMode::Blocking, &mut out).unwrap(), FlatRead::Done);
    assert_eq!(out, expected[..index(BLOCK_SIZE)]);
    let past = Extent::between(half, half + BLOCK_SIZE);
    assert_eq!(again.read(past, gateway_store::ReadMode::Blocking, &mut out).unwrap(), FlatRead::Elsewhere);
    // A copy of another image, or of another size, is none.
    assert!(flats.open(7, expected.len() as u64 + BLOCK_SIZE).unwrap().is_none());
    assert!(!flats.content_of(7).exists(), "it is thrown away");
}

#[test]
fn what_rots_in_a_flat_copy_is_never_shown_and_put_right() {
    use std::os::unix::fs::FileExt;
    let rig = Rig::new(12);
    let expected = rig.oracle.image_at(rig.volume, rig.oracle.last_lsn());
    let (image, flats, slot) = flat_image(&rig, expected.len() as u64);
    let device = ImageDevice::new(image, Arc::clone(&rig.pool));
    let sums = flats.content_of(7).with_file_name("sums");
    let block = BLOCK_SIZE * 3;
    for (file, at) in [(flats.content_of(7), block + 17), (sums, block / BLOCK_SIZE * 8 + 1)] {
        let file = std::fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
        let (flat, mut out) = (slot.get().unwrap(), vec![0; index(BLOCK_SIZE)]);
        let extent = Extent::between(block, block + BLOCK_SIZE);
        let mut state = || flat.read(extent, gateway_store::ReadMode::Blocking, &mut out).unwrap();
        assert_eq!(state(), FlatRead::Rotten);
        assert!(whole(&device) == expected);
        assert_eq!(state(), FlatRead::Done, "it was written anew");
    }
}

/// The journal may lose what a flat copy still has.
#[test]
fn a_whole_flat_copy_needs_no_journal_for_its_content() {
    let rig = Rig::new(13);
    let expected = rig.oracle.image_at(rig.volume, rig.oracle.last_lsn());
    let (image, ..) = flat_image(&rig, expected.len() as u64);
    for entry in std::fs::read_dir(rig.tmp.path().join("store/seg")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "seg") {
            let len = std::fs::metadata(&path).unwrap().len();
            std::fs::write(&path, vec![0; index(len)]).unwrap();
        }
    }
    let device = ImageDevice::new(image, Arc::clone(&rig.pool));
    assert!(whole(&device) == expected);
    let bare = ImageDevice::new(rig.image(rig.oracle.last_lsn()), Arc::clone(&rig.pool));
    let extent = Extent::between(0, expected.len() as u64);
    assert!(matches!(run(&bare, Op::Read { extent }), Err(DeviceError::Damaged { .. })), "the test is real");
}

/// A crash may leave anything behind the last note, and somebody may have mounted the file.
#[test]
fn what_stands_where_the_image_is_zero_is_cleared() {
    let rig = Rig::new(14);
    let flats = FlatDir::new(rig.tmp.path().join("flats"), Box::new(|| Some(u64::MAX)), 0);
    drop(flats.create(7, 16 * BLOCK_SIZE).unwrap());
    std::fs::write(flats.content_of(7), vec![0xee; index(16 * BLOCK_SIZE)]).unwrap();
    let flat = flats.open(7, 16 * BLOCK_SIZE).unwrap().unwrap();
    let mut data = vec![0; index(2 * BLOCK_SIZE)];
    data[..10].fill(7);
    flat.put(Extent::between(0, 2 * BLOCK_SIZE), &data).unwrap();
    flat.clear(Extent::between(2 * BLOCK_SIZE, 15 * BLOCK_SIZE)).unwrap();
    let content = std::fs::read(flats.content_of(7)).unwrap();
    assert!(content[..data.len()] == data);
    assert!(content[data.len()..index(15 * BLOCK_SIZE)].iter().all(|b| *b == 0));
    assert!(content[index(15 * BLOCK_SIZE)..].iter().all(|b| *b == 0xee), "it was not asked for");
}

#[test]
fn a_write_that_needs_room_the_journal_needs_is_refused_and_others_go_on() {
    let (rig, mut random) = (Rig::new(21), Random::new(21));
    let head = rig.oracle.last_lsn();
    let (left, clock) = (Arc::new(AtomicU64::new(BLOCK_SIZE * 2)), Arc::new(Ticking::default()));
    let seen = Arc::clone(&left);
    let room = Room::new(Box::new(move || Some(seen.load(Ordering::Relaxed))), clock.clone());
    let overlays = rig.overlays_with(room);
    overlays.create(7, QUOTA).unwrap();
    let image = overlays.open(7, Some(QUOTA), rig.image(head), Arc::clone(&rig.pool)).unwrap();
    let mut write = |blocks: u64| {
        let mut data = vec![0; index(blocks * BLOCK_SIZE)];
        random.fill(&mut data);
        run(&image, Op::Write { offset: 0, data: data.into(), fua: false })
    };
    assert!(matches!(write(3), Err(DeviceError::NoSpace(_))), "three blocks, and room for two");
    assert!(write(2).is_ok() && write(2).is_ok(), "what has its room is written again");
    assert_eq!(overlays.room().short(), [7]);
    assert!(write(3).is_err());
    let zeroes = vec![0; index(3 * BLOCK_SIZE)];
    let zeroed = run(&image, Op::Write { offset: 2 * BLOCK_SIZE, data: zeroes.into(), fua: false });
    assert!(zeroed.is_ok(), "zeroes take none");
    let reads = run(&image, Op::Read { extent: Extent::between(0, BLOCK_SIZE) });
    assert!(reads.is_ok() && image.flush().is_ok());
    let too_much = overlays.fork(&image, 8, QUOTA).unwrap_err();
    assert_eq!(too_much.kind(), std::io::ErrorKind::StorageFull);
    left.store(2 << 20, Ordering::Relaxed);
    clock.0.fetch_add(1_000_000_000, Ordering::Relaxed);
    assert!(write(3).is_ok(), "there is room again");
    assert!(overlays.room().short().is_empty());
}

/// Monotonic nanoseconds that move by hand.
#[derive(Default)]
struct Ticking(AtomicU64);

impl Clock for Ticking {
    fn wall(&self) -> WallTime {
        WallTime::EPOCH
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic::from_nanos(self.0.load(Ordering::Relaxed))
    }
}
