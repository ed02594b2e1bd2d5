//! Copies within a read/write image: against a plain model, over files.

use std::os::unix::fs::{FileExt, MetadataExt};

use tap_block::device::ask;
use tap_block::{Answer, Map, State};
use tap_disk::{FileDevice, FileOptions};

use super::*;

/// A copy, more or less aligned, within `within`, on the device and on the model.
fn copy(random: &mut Random, device: &OverlayDevice, at: u64, model: &mut [u8]) {
    let size = model.len() as u64;
    let grain = [BLOCK_SIZE, BLOCK_SIZE, 512][index(random.below(3))];
    let (mut from, mut to) = (random.below(size) / grain * grain, random.below(size) / grain * grain);
    if grain < BLOCK_SIZE && random.below(4) > 0 {
        // Cut alike at its ends.
        to = to / BLOCK_SIZE * BLOCK_SIZE + from % BLOCK_SIZE;
    }
    if random.below(4) == 0 {
        // Onto itself.
        to = (from + random.below(4) * BLOCK_SIZE).min(size);
        if random.below(2) == 0 {
            (from, to) = (to, from);
        }
    }
    let length = (1 + random.below(60_000)).next_multiple_of(grain).min(size - from.max(to).min(size));
    if length == 0 {
        return;
    }
    let extent = Extent::between(at + from, at + from + length);
    match run(device, Op::Copy { from: extent, to: at + to }) {
        Ok(_) => model.copy_within(index(from)..index(from + length), index(to)),
        Err(DeviceError::Unsupported(_)) => {}
        Err(e) => panic!("{e}"),
    }
}

fn some(random: &mut Random, device: &OverlayDevice, model: &mut [u8], many: u64) {
    for _ in 0..many {
        if random.below(2) == 0 {
            copy(random, device, 0, model);
        } else {
            step(random, device, model);
        }
    }
}

fn overlay_file(rig: &Rig, image: u64, name: &str) -> std::path::PathBuf {
    rig.tmp.path().join("overlays").join(image.to_string()).join(name)
}

#[test]
fn copies_are_what_was_copied_whatever_is_written_then_and_whoever_is_killed() {
    for seed in 0..6 {
        let rig = Rig::new(seed);
        let point = rig.oracle.last_lsn();
        let mut model = rig.oracle.image_at(rig.volume, point);
        rig.overlays().create(7, QUOTA).unwrap();
        let mut random = Random::new(seed);
        for round in 0..8 {
            let device = rig.overlay(point);
            assert!(whole(&device) == model, "seed {seed}, round {round}: after opening");
            for _ in 0..10 {
                some(&mut random, &device, &mut model, 8);
                assert!(whole(&device) == model, "seed {seed}, round {round}");
                if random.below(6) == 0 {
                    run(&device, Op::Flush).unwrap();
                }
            }
        }
        let image = ImageDevice::new(rig.image(point), Arc::clone(&rig.pool));
        assert!(whole(&image) == rig.oracle.image_at(rig.volume, point), "the image below is as it was");
    }
}

#[test]
fn copies_beside_writers_lose_nothing_and_share_no_more_than_they_should() {
    for seed in 0..3 {
        let rig = Rig::of(Workload::with_size(seed, 2 << 20), 4 << 20);
        let point = rig.oracle.last_lsn();
        let mut model = rig.oracle.image_at(rig.volume, point);
        rig.overlays().create(7, 4 << 20).unwrap();
        let open = || rig.overlays().open(7, Some(4 << 20), rig.image(point), Arc::clone(&rig.pool)).unwrap();
        for round in 0..3 {
            let device = &open();
            let stretch = (model.len() / 4).next_multiple_of(index(BLOCK_SIZE));
            std::thread::scope(|scope| {
                for (no, part) in model.chunks_mut(stretch).enumerate() {
                    scope.spawn(move || {
                        let mut random = Random::new(seed * 100 + round * 10 + no as u64);
                        for _ in 0..6 {
                            write_all_over(device, (no * stretch) as u64, part, random.below(1 << 40));
                            (0..6).for_each(|_| copy(&mut random, device, (no * stretch) as u64, part));
                        }
                    });
                }
                scope.spawn(|| (0..6).for_each(|_| drop(run(device, Op::Flush).unwrap())));
            });
            assert!(whole(device) == model, "seed {seed}, round {round}");
        }
        assert!(whole(&open()) == model, "seed {seed}");
    }
}

/// What was copied is there with the content that it shows, or not at all.
#[test]
fn a_copy_of_what_the_power_took_is_not_there_either() {
    let rig = Rig::new(3);
    let point = rig.oracle.last_lsn();
    rig.overlays().create(7, QUOTA).unwrap();
    let mut model = rig.oracle.image_at(rig.volume, point);
    let (mut random, device) = (Random::new(9), rig.overlay(point));
    some(&mut random, &device, &mut model, 40);
    run(&device, Op::Flush).unwrap();
    let durable = std::fs::read(overlay_file(&rig, 7, "data")).unwrap();
    run(&device, Op::Write { offset: 0, data: vec![0xee; 16384].into(), fua: false }).unwrap();
    for to in [32_768, 49_152, 65_536] {
        run(&device, Op::Copy { from: Extent::between(0, 16384), to }).unwrap();
    }
    drop(device);
    std::fs::write(overlay_file(&rig, 7, "data"), durable).unwrap();
    std::fs::remove_file(overlay_file(&rig, 7, "boot")).unwrap();
    assert!(whole(&rig.overlay(point)) == model);
}

#[test]
fn an_image_of_an_image_shares_what_that_shares() {
    for seed in 0..6 {
        let rig = Rig::new(seed);
        let point = rig.oracle.last_lsn();
        let mut model = rig.oracle.image_at(rig.volume, point);
        rig.overlays().create(7, QUOTA).unwrap();
        let (mut random, device) = (Random::new(seed), rig.overlay(point));
        some(&mut random, &device, &mut model, 80);
        rig.overlays().fork(&device, 8, QUOTA).unwrap();
        let mut other = model.clone();
        let open = || rig.overlays().open(8, Some(QUOTA), rig.image(point), Arc::clone(&rig.pool)).unwrap();
        let branch = open();
        assert_eq!(branch.used(), device.used(), "seed {seed}");
        some(&mut random, &device, &mut model, 40);
        some(&mut random, &branch, &mut other, 40);
        drop(branch);
        assert!(whole(&open()) == other && whole(&device) == model, "seed {seed}");
    }
}

/// The disk is the image's own flat copy: what is put onto it first must not be what is read for the next.
#[test]
fn what_was_copied_is_right_on_a_flat_copy_of_the_image_itself() {
    for seed in 0..8 {
        let rig = Rig::new(seed);
        let mut model = rig.oracle.image_at(rig.volume, rig.oracle.last_lsn());
        let (image, flats, _slot) = flat_image(&rig, model.len() as u64);
        rig.overlays().create(7, QUOTA).unwrap();
        let device = rig.overlays().open(7, Some(QUOTA), image, Arc::clone(&rig.pool)).unwrap();
        let mut random = Random::new(seed);
        (0..40).for_each(|_| copy(&mut random, &device, 0, &mut model));
        some(&mut random, &device, &mut model, 20);
        let disk = FileDevice::open(&flats.content_of(7), FileOptions::default()).unwrap();
        let mut told = 0;
        let mut going = |done| {
            told = done;
            true
        };
        assert!(device.fold_onto(&disk, &mut going).unwrap());
        assert_eq!(told, device.laid_out(), "seed {seed}");
        let folded = std::fs::read(flats.content_of(7)).unwrap();
        assert!(folded[..model.len()] == model, "seed {seed}");
        // A commit that fails here leaves the image in use.
        assert!(whole(&device) == model, "seed {seed}");
    }
}

#[test]
fn what_is_shared_takes_room_once_and_more_when_it_is_written_over() {
    let rig = Rig::new(4);
    let point = rig.oracle.last_lsn();
    let (dir, quota) = (rig.overlays(), 3 * BLOCK_SIZE);
    dir.create(7, quota).unwrap();
    let device = dir.open(7, Some(quota), rig.image(point), Arc::clone(&rig.pool)).unwrap();
    let write = |block: u64, fill: u8| {
        run(&device, Op::Write { offset: block * BLOCK_SIZE, data: vec![fill; 4096].into(), fua: true })
    };
    (0..2).for_each(|block| drop(write(block, 1).unwrap()));
    for to in [2, 4, 6] {
        run(&device, Op::Copy { from: Extent::between(0, 2 * BLOCK_SIZE), to: to * BLOCK_SIZE }).unwrap();
    }
    assert_eq!(device.used(), 2 * BLOCK_SIZE);
    write(7, 2).unwrap();
    assert!(matches!(write(0, 2), Err(DeviceError::NoSpace(text)) if text.contains("quota")));
    write(7, 3).unwrap();
    assert_eq!(device.used(), 3 * BLOCK_SIZE);
    run(&device, Op::Trim { extent: Extent::between(7 * BLOCK_SIZE, 8 * BLOCK_SIZE), fua: false }).unwrap();
    write(0, 2).unwrap();
    let expected = [[2; 4096], [1; 4096], [1; 4096], [1; 4096], [1; 4096], [1; 4096], [1; 4096], [0; 4096]];
    assert!(whole(&device)[..8 * 4096] == expected.concat());
}

#[test]
fn a_copy_writes_next_to_nothing() {
    let rig = Rig::of(Workload::with_size(5, 16 << 20), 16 << 20);
    let point = rig.oracle.last_lsn();
    let (dir, quota) = (rig.overlays(), 16 << 20);
    dir.create(7, quota).unwrap();
    let device = dir.open(7, Some(quota), rig.image(point), Arc::clone(&rig.pool)).unwrap();
    let mut data = vec![0; 4 << 20];
    Random::new(5).fill(&mut data);
    run(&device, Op::Write { offset: 4 << 20, data: data.into(), fua: true }).unwrap();
    let taken = || {
        let files = std::fs::read_dir(rig.tmp.path().join("overlays/7")).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().blocks() * 512).sum::<u64>()
    };
    let before = taken();
    // Half of it from the image, half of it written.
    run(&device, Op::Copy { from: Extent::between(0, 8 << 20), to: 8 << 20 }).unwrap();
    run(&device, Op::Flush).unwrap();
    let more = taken().saturating_sub(before);
    assert!(more < 300 << 10, "{more} bytes more for 8 MiB");
    let all = whole(&device);
    assert!(all[..8 << 20] == all[8 << 20..]);
}

#[test]
fn a_map_tells_of_copies_what_they_read_as() {
    for seed in 0..4 {
        let rig = Rig::of(Workload::blank(seed, 4 << 20), 1 << 20);
        let point = rig.oracle.last_lsn();
        let mut model = rig.oracle.image_at(rig.volume, point);
        rig.overlays().create(7, QUOTA).unwrap();
        let (mut random, device) = (Random::new(seed), rig.overlay(point));
        (0..30).for_each(|_| copy(&mut random, &device, 0, &mut model));
        let (mut at, size) = (0, model.len() as u64);
        while at < size {
            let (extent, maps) = (Extent::between(at, size), Arc::from([Map::Allocation]));
            let answer = ask(&device, Op::Status { extent, maps, most: 7 }).unwrap();
            let Answer::Status(told) = answer else { panic!("{answer:?}") };
            for stretch in told.into_iter().flatten() {
                let there = &model[index(at)..index(at + stretch.length)];
                assert_eq!(
                    stretch.state == State::Zeroes,
                    there.iter().all(|b| *b == 0),
                    "seed {seed} at {at}"
                );
                at += stretch.length;
            }
        }
    }
}

/// What stands in the image behind the block that both show is another matter.
#[test]
fn two_neighbours_that_show_the_same_block_of_the_image_are_told_alike() {
    let rig = Rig::of(Workload::blank(1, 4 << 20), 1 << 20);
    let point = rig.oracle.last_lsn();
    let content = rig.oracle.image_at(rig.volume, point);
    let is_zero = |n: u64| content[index(n * BLOCK_SIZE)..][..4096].iter().all(|b| *b == 0);
    let blocks = content.len() as u64 / BLOCK_SIZE;
    let data = (0..blocks - 8).find(|n| !is_zero(*n) && is_zero(n + 1)).unwrap();
    let hole = (0..blocks - 8).find(|n| is_zero(*n) && !is_zero(n + 1)).unwrap();
    rig.overlays().create(7, QUOTA).unwrap();
    let device = rig.overlay(point);
    let to = blocks - 6;
    for (n, from) in [data, data, data, hole, hole, hole].into_iter().enumerate() {
        let from = Extent::between(from * BLOCK_SIZE, (from + 1) * BLOCK_SIZE);
        run(&device, Op::Copy { from, to: (to + n as u64) * BLOCK_SIZE }).unwrap();
    }
    let (extent, maps) =
        (Extent::between(to * BLOCK_SIZE, blocks * BLOCK_SIZE), Arc::from([Map::Allocation]));
    let answer = ask(&device, Op::Status { extent, maps, most: 9 }).unwrap();
    let Answer::Status(told) = answer else { panic!("{answer:?}") };
    let told: Vec<_> = told.into_iter().flatten().map(|told| (told.length, told.state)).collect();
    assert_eq!(told, [(3 * BLOCK_SIZE, State::Data), (3 * BLOCK_SIZE, State::Zeroes)]);
}

#[test]
fn rot_in_what_is_shared_is_seen_wherever_it_is_shown() {
    let rig = Rig::new(6);
    let point = rig.oracle.last_lsn();
    rig.overlays().create(7, QUOTA).unwrap();
    let device = rig.overlay(point);
    run(&device, Op::Write { offset: 0, data: vec![5; 4096].into(), fua: true }).unwrap();
    run(&device, Op::Copy { from: Extent::between(0, BLOCK_SIZE), to: 8 * BLOCK_SIZE }).unwrap();
    let data = std::fs::OpenOptions::new().write(true).open(overlay_file(&rig, 7, "data")).unwrap();
    data.write_all_at(&[6], 17).unwrap();
    for block in [0, 8] {
        let extent = Extent::between(block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE);
        let read = run(&device, Op::Read { extent });
        assert!(matches!(read, Err(DeviceError::Damaged { extent: told, .. }) if told == extent), "{read:?}");
    }
}

/// Whoever writes a part of a block reads the rest of it first: a copy onto the block meanwhile must not be lost.
#[test]
fn a_write_of_a_part_and_a_copy_onto_the_block_come_one_after_the_other() {
    let rig = Rig::of(Workload::with_size(8, 4 << 20), 16 << 20);
    let point = rig.oracle.last_lsn();
    let content = rig.oracle.image_at(rig.volume, point);
    rig.overlays().create(7, 4 << 20).unwrap();
    let device = &rig.overlays().open(7, Some(4 << 20), rig.image(point), Arc::clone(&rig.pool)).unwrap();
    let block = |n: u64| Extent::between(n * BLOCK_SIZE, (n + 1) * BLOCK_SIZE);
    let of = |n| &content[index(block(n).offset())..index(block(n).end())];
    // Each onto a block that shows the history below, from the other half of the disk.
    for n in 0..500 {
        let (from, to) = (block(n + 512), block(n));
        let start = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                let data = vec![0xab; 512].into();
                run(device, Op::Write { offset: to.offset() + 1024, data, fua: false }).unwrap();
            });
            start.wait();
            run(device, Op::Copy { from, to: to.offset() }).unwrap();
        });
        let mut both = of(n + 512).to_vec();
        both[1024..1536].fill(0xab);
        let read = run(device, Op::Read { extent: to }).unwrap();
        assert!(read == of(n + 512) || read == both, "block {n}");
    }
}
