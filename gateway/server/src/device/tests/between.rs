//! Copies from one read/write image to another: what both stand above is shown, all else is moved. Against plain models, over files.

use tap_block::device::ask;
use tap_block::{FromBase, Shown};

use super::*;

/// As a copy between units does it: what is shown where both have it, else moved. How much was shown.
fn copy(source: &dyn BlockDevice, to: &Arc<dyn BlockDevice>, mut from: Extent, mut at: u64) -> u64 {
    let mut shown = 0;
    while !from.is_empty() {
        let Some(Shown { length, from: base }) = source.shown(from) else { panic!("it can tell") };
        assert!(length > 0 && length <= from.length());
        let part = Extent::between(from.offset(), from.offset() + length);
        let is_shown = base.is_some_and(|(base, place)| {
            let op = Op::Copy { from: Extent::between(place, place + length), to: at };
            match run(&FromBase::new(Arc::clone(to), base), op) {
                Ok(_) => true,
                Err(DeviceError::Unsupported(_)) => false,
                Err(e) => panic!("{e}"),
            }
        });
        if is_shown {
            shown += length;
        } else {
            let data = ask(source, Op::Read { extent: part }).unwrap().into_bytes();
            run(&**to, Op::Write { offset: at, data, fua: false }).unwrap();
        }
        (from, at) = (Extent::between(part.end(), from.end()), at + length);
    }
    shown
}

/// Whole blocks mostly, from anywhere to anywhere.
fn some_copy(random: &mut Random, size: u64) -> (Extent, u64) {
    let grain = [BLOCK_SIZE, BLOCK_SIZE, 512][index(random.below(3))];
    let [from, to] = [(), ()].map(|()| random.below(size) / grain * grain);
    let length = (1 + random.below(60_000)).next_multiple_of(grain).min(size - from.max(to));
    (Extent::between(from, from + length), to)
}

#[test]
fn copies_between_images_are_what_was_copied_whatever_is_written_then_and_whoever_is_killed() {
    let mut shown = 0;
    for seed in 0..6 {
        let rig = Rig::new(seed);
        let point = rig.oracle.last_lsn();
        let below = rig.oracle.image_at(rig.volume, point);
        let mut models = [below.clone(), below.clone()];
        for image in [7, 8] {
            rig.overlays().create(image, QUOTA).unwrap();
        }
        let open =
            |image| rig.overlays().open(image, Some(QUOTA), rig.image(point), Arc::clone(&rig.pool)).unwrap();
        let mut random = Random::new(seed);
        for round in 0..8 {
            // Nobody flushed: as if it was killed.
            let devices: [Arc<OverlayDevice>; 2] = [7, 8].map(|image| Arc::new(open(image)));
            for (device, model) in devices.iter().zip(&models) {
                assert!(whole(&**device) == *model, "seed {seed}, round {round}: after opening");
            }
            for _ in 0..60 {
                let one = index(random.below(2));
                if random.below(2) == 0 {
                    step(&mut random, &devices[one], &mut models[one]);
                    continue;
                }
                let (from, to) = some_copy(&mut random, below.len() as u64);
                let there: Arc<dyn BlockDevice> = devices[1 - one].clone();
                shown += copy(&*devices[one], &there, from, to);
                let data = models[one][index(from.offset())..index(from.end())].to_vec();
                models[1 - one][index(to)..][..data.len()].copy_from_slice(&data);
                if random.below(12) == 0 {
                    run(&*devices[one], Op::Flush).unwrap();
                }
            }
            for (device, model) in devices.iter().zip(&models) {
                assert!(whole(&**device) == *model, "seed {seed}, round {round}");
            }
        }
        let image = ImageDevice::new(rig.image(point), Arc::clone(&rig.pool));
        assert!(whole(&image) == below, "the image below is as it was");
        // What the one has of the other is its own: that can go, with all that was written there.
        rig.overlays().remove(7).unwrap();
        assert!(whole(&open(8)) == models[1], "seed {seed}: alone");
    }
    assert!(shown > 1 << 20, "much of it was shown and not moved: {shown}");
}

#[test]
fn a_copy_of_what_both_stand_above_writes_next_to_nothing_and_takes_no_room() {
    let rig = Rig::new(4);
    let point = rig.oracle.last_lsn();
    let below = rig.oracle.image_at(rig.volume, point);
    let (dir, quota) = (rig.overlays(), BLOCK_SIZE);
    dir.create(8, quota).unwrap();
    let open = || dir.open(8, Some(quota), rig.image(point), Arc::clone(&rig.pool)).unwrap();
    let device: Arc<dyn BlockDevice> = Arc::new(open());
    let image = ImageDevice::new(rig.image(point), Arc::clone(&rig.pool));
    let half = below.len() as u64 / 2 / BLOCK_SIZE * BLOCK_SIZE;
    assert_eq!(copy(&image, &device, Extent::between(0, half), half), half);
    run(&*device, Op::Flush).unwrap();
    drop(device);
    let device = open();
    assert_eq!(device.used(), 0);
    let expected = [&below[..index(half)], &below[..index(half)], &below[index(2 * half)..]].concat();
    assert!(whole(&device) == expected);
}

#[test]
fn what_stands_above_something_else_is_not_shown() {
    let rig = Rig::new(5);
    let last = rig.oracle.last_lsn();
    let earlier = Lsn::new(last.get() - 1).unwrap();
    rig.overlays().create(7, QUOTA).unwrap();
    let device: Arc<dyn BlockDevice> = Arc::new(rig.overlay(last));
    let before = whole(&*device);
    let all = Extent::between(0, BLOCK_SIZE);
    let base = |point| rig.image(point).base();
    assert_eq!(base(last), base(last));
    for (base, from, to) in [
        (base(earlier), all, 4096),
        (base(last), Extent::between(512, 4608), 4096),
        (base(last), Extent::between(0, 512), 4096),
        (base(last), all, 512),
    ] {
        let asked = run(&FromBase::new(Arc::clone(&device), base), Op::Copy { from, to });
        assert!(matches!(asked, Err(DeviceError::Unsupported(_))), "{from} {to}");
    }
    let beyond = Op::Copy { from: all, to: before.len() as u64 };
    let asked = run(&FromBase::new(Arc::clone(&device), base(last)), beyond);
    assert!(matches!(asked, Err(DeviceError::OutOfRange { .. })));
    assert!(whole(&*device) == before);
    drop(device);
    let read_only = rig.overlays().open(7, None, rig.image(last), Arc::clone(&rig.pool)).unwrap();
    let there: Arc<dyn BlockDevice> = Arc::new(read_only);
    let asked = run(&FromBase::new(there, base(last)), Op::Copy { from: all, to: 4096 });
    assert_eq!(asked, Err(DeviceError::ReadOnly));
}
