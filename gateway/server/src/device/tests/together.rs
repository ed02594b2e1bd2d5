//! What a client asked for together.

use super::*;

/// Asks for all at once; how each went.
fn together(device: &dyn BlockDevice, ops: impl IntoIterator<Item = Op>) -> Vec<Answered> {
    let (over, ended) = std::sync::mpsc::channel();
    let over = Arc::new(Over(over));
    let tickets = (0..).map(|tag| Ticket::new(tag, over.clone()));
    let mut batch: Vec<_> = ops.into_iter().zip(tickets).collect();
    let many = batch.len();
    device.submit_all(&mut batch);
    assert!(batch.is_empty());
    let mut answers: Vec<_> = ended.iter().take(many).collect();
    answers.sort_by_key(|(tag, _)| *tag);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

fn write(block: u64, content: &[u8]) -> Op {
    Op::Write { offset: block * BLOCK_SIZE, data: Bytes::copy_from_slice(content), fua: false }
}

/// A few blocks somewhere, sometimes zeroes, and what they make of the model.
fn some_write(random: &mut Random, model: &mut [u8]) -> Op {
    let blocks = model.len() as u64 / BLOCK_SIZE;
    let block = random.below(blocks.min(60));
    let many = 1 + random.below(3).min(blocks - block - 1);
    let mut content = vec![0; index(many * BLOCK_SIZE)];
    if random.below(4) > 0 {
        random.fill(&mut content);
    }
    model[index(block * BLOCK_SIZE)..][..content.len()].copy_from_slice(&content);
    write(block, &content)
}

#[test]
fn writes_that_came_together_are_what_they_are_one_by_one_and_outlast_a_kill() {
    for seed in 0..8 {
        let rig = Rig::new(seed);
        let point = rig.oracle.last_lsn();
        rig.overlays().create(7, QUOTA).unwrap();
        let mut model = rig.oracle.image_at(rig.volume, point);
        let mut random = Random::new(seed);
        for _ in 0..12 {
            let device = rig.overlay(point);
            assert!(whole(&device) == model, "seed {seed}, after a kill");
            for _ in 0..random.below(20) {
                // Some write the same blocks: the later one stays.
                let ops: Vec<Op> =
                    (0..random.below(9)).map(|_| some_write(&mut random, &mut model)).collect();
                assert!(together(&device, ops).iter().all(Result::is_ok), "seed {seed}");
                if random.below(5) == 0 {
                    run(&device, Op::Flush).unwrap();
                }
            }
            assert!(whole(&device) == model, "seed {seed}");
        }
    }
}

#[test]
fn of_writes_that_came_together_and_do_not_all_fit_those_are_done_that_do() {
    let rig = Rig::new(4);
    let (point, dir) = (rig.oracle.last_lsn(), rig.overlays());
    dir.create(7, 3 * BLOCK_SIZE).unwrap();
    let device = dir.open(7, Some(3 * BLOCK_SIZE), rig.image(point), Arc::clone(&rig.pool)).unwrap();
    let content = |block: u8| write(u64::from(block), &[block + 1; 4096]);
    let past = u8::try_from(device.geometry().size / BLOCK_SIZE + 1).unwrap();
    let answers = together(&device, [0, 1, past, 2, 3].map(content));
    assert!(answers[..2].iter().chain(&answers[3..4]).all(Result::is_ok), "{answers:?}");
    assert!(matches!(&answers[2], Err(DeviceError::OutOfRange { .. })), "{answers:?}");
    assert!(matches!(&answers[4], Err(DeviceError::NoSpace(text)) if text.contains("quota")), "{answers:?}");
    assert_eq!(whole(&device)[..12288], [[1; 4096], [2; 4096], [3; 4096]].concat());
    assert_eq!(device.used(), 3 * BLOCK_SIZE);
}

/// Where they lie is said once for all of them, before anything is answered.
#[test]
fn of_writes_that_came_together_is_said_at_once_where_they_lie() {
    let rig = Rig::new(6);
    let (point, dir) = (rig.oracle.last_lsn(), rig.overlays());
    let said = |image: u64, write_all: &dyn Fn(&OverlayDevice)| {
        dir.create(image, QUOTA).unwrap();
        let device = dir.open(image, Some(QUOTA), rig.image(point), Arc::clone(&rig.pool)).unwrap();
        let length = || {
            let files = ["recent-0", "recent-1"].map(|name| dir.of(image).join(name));
            files.iter().map(|file| said_in(file)).sum::<u64>()
        };
        let before = length();
        write_all(&device);
        length() - before
    };
    let ops = || (0..8).map(|block| write(block, &[9; 4096]));
    let one_by_one = said(8, &|device| ops().for_each(|op| drop(run(device, op).unwrap())));
    let all = said(9, &|device| together(device, ops()).into_iter().for_each(|answer| drop(answer.unwrap())));
    assert!(all > 0 && all * 3 < one_by_one * 2, "{all} bytes at once, {one_by_one} one by one");
}

/// Small writes here and there, then long ones over them: those lie in one place, and all is there after a kill.
#[test]
fn a_long_write_over_what_small_ones_scattered_is_gathered_and_outlasts_a_kill() {
    const LONG: u64 = 128;
    let rig = Rig::of(Workload::with_size(9, 2 << 20), 4 << 20);
    let (point, dir, quota) = (rig.oracle.last_lsn(), rig.overlays(), 64 << 20);
    dir.create(7, quota).unwrap();
    let open = || dir.open(7, Some(quota), rig.image(point), Arc::clone(&rig.pool)).unwrap();
    let mut model = rig.oracle.image_at(rig.volume, point);
    let mut random = Random::new(9);
    let is_together = |content: &[u8]| {
        let data = std::fs::read(dir.of(7).join("data")).unwrap();
        let mut slots = data.chunks(4096);
        slots
            .position(|slot| slot == &content[..4096])
            .is_some_and(|first| data[first * 4096..].starts_with(content))
    };
    for round in 0..6 {
        let device = open();
        assert!(whole(&device) == model, "round {round}");
        let mut put = |at: u64, blocks: u64| {
            let mut content = vec![0; index(blocks * BLOCK_SIZE)];
            random.fill(&mut content);
            model[index(at * BLOCK_SIZE)..][..content.len()].copy_from_slice(&content);
            run(&device, write(at, &content)).unwrap();
            content
        };
        for n in 0..LONG * 2 {
            put(n * 37 % (LONG * 2), 1);
        }
        let content = put(round * 20, LONG);
        assert!(is_together(&content), "round {round}");
        // What it gave back is somebody else's by now.
        for n in 0..LONG {
            put(2 * LONG + n * 37 % LONG, 1);
        }
        if round % 2 == 0 {
            run(&device, Op::Flush).unwrap();
        }
        assert!(whole(&device) == model, "round {round}");
        assert!(device.used() <= 3 * LONG * BLOCK_SIZE);
    }
    assert!(whole(&open()) == model);
}

#[test]
fn reads_that_came_together_are_answered_each_with_its_own() {
    let rig = Rig::new(5);
    let (point, mut random) = (rig.oracle.last_lsn(), Random::new(5));
    let device = ImageDevice::new(rig.image(point), Arc::clone(&rig.pool));
    let expected = rig.oracle.image_at(rig.volume, point);
    let size = expected.len() as u64;
    for _ in 0..40 {
        let starts: Vec<u64> = (0..random.below(13)).map(|_| random.below(size)).collect();
        let extents: Vec<Extent> =
            starts.iter().map(|&start| Extent::between(start, start + 1 + random.below(9000))).collect();
        let answers = together(&device, extents.iter().map(|&extent| Op::Read { extent }));
        for (extent, answer) in extents.iter().zip(answers) {
            match answer {
                Ok(answer) => assert_eq!(
                    answer.into_bytes(),
                    expected[index(extent.offset())..index(extent.end())],
                    "{extent}"
                ),
                Err(e) => assert!(matches!(e, DeviceError::OutOfRange { .. }) && extent.end() > size, "{e}"),
            }
        }
    }
}
