//! What images and overlays tell of themselves: held against what they read as.

use std::collections::BTreeMap;

use gateway_journal::REGION_BYTES;
use tap_block::device::ask;
use tap_block::{Answer, Map, Name, State, Stretch};

use testbed_model::builder::BatchBuilder;

use super::*;

/// All of a map, asked for in pieces of at most `most` stretches.
fn map_of(device: &dyn BlockDevice, map: &Map, most: usize) -> Vec<(Extent, State)> {
    let size = device.geometry().size;
    let (mut all, mut at) = (Vec::<(Extent, State)>::new(), 0);
    while at < size {
        let maps = std::sync::Arc::from([map.clone()]);
        let answer = ask(device, Op::Status { extent: Extent::between(at, size), maps, most }).unwrap();
        let Answer::Status(told) = answer else { panic!("{answer:?}") };
        assert!(told.len() == 1 && (1..=most).contains(&told[0].len()), "{told:?}");
        for Stretch { length, state } in told.into_iter().flatten() {
            assert!(length > 0);
            match all.last_mut() {
                Some((last, of)) if *of == state => *last = Extent::between(last.offset(), at + length),
                _ => all.push((Extent::between(at, at + length), state)),
            }
            at += length;
        }
    }
    assert_eq!(at, size);
    all
}

fn states(map: &[(Extent, State)]) -> BTreeMap<u64, State> {
    let blocks = map.iter().flat_map(|(extent, state)| extent.blocks().map(move |b| (b.get(), *state)));
    blocks.collect()
}

fn part(content: &[u8], extent: Extent) -> &[u8] {
    &content[index(extent.offset())..index(extent.end())]
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

#[test]
fn what_an_image_calls_zeroes_are_zeroes_and_all_else_is_stored() {
    for seed in 0..4 {
        let rig = Rig::new(seed);
        for point in rig.oracle.lsns().into_iter().step_by(7) {
            let device = ImageDevice::new(rig.image(point), Arc::clone(&rig.pool));
            let expected = rig.oracle.image_at(rig.volume, point);
            let map = map_of(&device, &Map::Allocation, 3);
            assert_eq!(map, map_of(&device, &Map::Allocation, 1000));
            for (extent, state) in &map {
                match state {
                    State::Zeroes => assert!(is_zero(part(&expected, *extent)), "{extent:?}"),
                    State::Data => {
                        let blocks = extent.split_at_multiples(BLOCK_SIZE);
                        assert!(blocks.into_iter().all(|b| !is_zero(part(&expected, b))), "{extent:?}");
                    }
                    other => panic!("{other:?}"),
                }
            }
            let depth = map_of(&device, &Map::Depth, 3);
            let data = |state| u32::from(state == State::Data);
            let expected: Vec<_> = map.iter().map(|(e, s)| (*e, State::Layer(data(*s)))).collect();
            assert_eq!(depth, expected);
        }
    }
}

#[test]
fn zeroes_are_left_out_of_reads() {
    let rig = Rig::of(Workload::blank(5, 4 << 20), 1 << 20);
    let point = rig.oracle.last_lsn();
    let expected = rig.oracle.image_at(rig.volume, point);
    let device = ImageDevice::new(rig.image(point), Arc::clone(&rig.pool));
    rig.overlays().create(7, QUOTA).unwrap();
    let overlay = rig.overlay(point);
    run(&overlay, Op::Write { offset: 5, data: Bytes::from_static(b"x"), fua: false }).unwrap();
    let mut model = expected.clone();
    model[5] = b'x';
    let zeroed = Extent::between(1 << 20, 3 << 20);
    run(&overlay, Op::Write { offset: 1 << 20, data: vec![9; 2 << 20].into(), fua: false }).unwrap_err();
    run(&overlay, Op::Write { offset: 1 << 20, data: vec![9; 512 << 10].into(), fua: false }).unwrap();
    let zero = |may_trim| Op::Zero { extent: zeroed, fua: false, may_trim, fast: true };
    assert!(matches!(run(&overlay, zero(false)), Err(DeviceError::Unsupported(_))));
    run(&overlay, zero(true)).unwrap();
    model[index(zeroed.offset())..index(zeroed.end())].fill(0);
    let whole = Extent::between(zeroed.offset() + 5, zeroed.end() - 7);
    assert_eq!(ask(&overlay, Op::Read { extent: whole }), Ok(Answer::Zeroes(whole.length())));
    let (image, ..) = flat_image(&rig, expected.len() as u64);
    let flat = ImageDevice::new(image, Arc::clone(&rig.pool));
    let devices = [(&device as &dyn BlockDevice, &expected), (&overlay, &model), (&flat, &expected)];
    for (device, expected) in devices {
        let all = Extent::between(0, expected.len() as u64);
        let answer = ask(device, Op::Read { extent: all }).unwrap();
        assert!(matches!(answer, Answer::Parts(_)), "the disk is mostly empty");
        assert!(answer.into_bytes() == *expected);
        let mut seen = 0;
        for piece in all.split_at_multiples(100_000) {
            let answer = ask(device, Op::Read { extent: piece }).unwrap();
            assert_eq!(answer.length(), piece.length());
            seen += u32::from(matches!(answer, Answer::Zeroes(_)));
            assert!(answer.into_bytes() == *part(expected, piece));
        }
        assert!(seen > 3, "{seen} pieces are zeroes as a whole");
    }
}

#[test]
fn what_did_not_change_since_a_bookmark_is_the_same_and_all_that_was_written_counts() {
    let mut told = 0;
    for seed in 0..24 {
        let rig = Rig::new(seed);
        let point = rig.oracle.last_lsn();
        let after = rig.oracle.image_at(rig.volume, point);
        rig.overlays().create(7, QUOTA).unwrap();
        let overlay = rig.overlay(point);
        let device = ImageDevice::new(rig.image(point), Arc::clone(&rig.pool));
        let mut model = after.clone();
        let mut random = Random::new(seed);
        (0..6).for_each(|_| step(&mut random, &overlay, &mut model));
        for (lsn, bookmark) in rig.oracle.bookmarks() {
            if !device.has_bookmark(&bookmark.name) {
                continue;
            }
            let mut before = rig.oracle.image_at(rig.volume, lsn);
            before.resize(after.len(), 0);
            let map = Map::ChangedSince(bookmark.name.clone());
            let changed = map_of(&device, &map, 2);
            let known = rig.store.changed(rig.volume, lsn, point).unwrap();
            for (extent, state) in &changed {
                match state {
                    State::Same => {
                        assert!(part(&before, *extent) == part(&after, *extent) && !known.overlaps(*extent));
                    }
                    State::Changed => assert_eq!(known.within(*extent).collect::<Vec<_>>(), [*extent]),
                    other => panic!("{other:?}"),
                }
            }
            told += 1;
            for (extent, state) in map_of(&overlay, &map, 2) {
                if state == State::Same {
                    assert!(part(&before, extent) == part(&model, extent), "{extent:?}");
                }
            }
            let written = states(&map_of(&overlay, &map, 100));
            let below = states(&changed);
            assert!(below.iter().all(|(b, state)| *state == State::Same || written[b] == State::Changed));
        }
    }
    assert!(told > 7, "{told} bookmarks were asked for");
}

#[test]
fn an_overlay_tells_its_layers() {
    let rig = Rig::new(3);
    let point = rig.oracle.last_lsn();
    rig.overlays().create(7, QUOTA).unwrap();
    let overlay = rig.overlay(point);
    let image =
        states(&map_of(&ImageDevice::new(rig.image(point), Arc::clone(&rig.pool)), &Map::Allocation, 1000));
    let at = |from: u64, to: u64| Extent::between(from * BLOCK_SIZE, to * BLOCK_SIZE);
    run(&overlay, Op::Write { offset: 3 * BLOCK_SIZE, data: vec![7; 3 * 4096].into(), fua: false }).unwrap();
    run(&overlay, Op::Zero { extent: at(8, 12), fua: false, may_trim: true, fast: true }).unwrap();
    run(&overlay, Op::Write { offset: 9 * BLOCK_SIZE, data: vec![7; 4096].into(), fua: false }).unwrap();
    for most in [1, 2, 100] {
        let depth = states(&map_of(&overlay, &Map::Depth, most));
        let allocation = states(&map_of(&overlay, &Map::Allocation, most));
        for (block, below) in &image {
            let (layer, state) = match block {
                3..6 | 9 => (1, State::Data),
                8 | 10 | 11 => (1, State::Zeroes),
                _ if *below == State::Data => (2, State::Data),
                _ => (0, State::Zeroes),
            };
            assert_eq!((depth[block], allocation[block]), (State::Layer(layer), state), "block {block}");
        }
    }
}

#[test]
fn only_bookmarks_up_to_the_image_are_offered_the_newest_first() {
    let selectable = |rig: &Rig| {
        let volume = Arc::clone(rig.store.catalogue().volume(rig.volume).unwrap());
        rig.oracle.bookmarks().iter().filter(|(lsn, _)| volume.selectable(*lsn).is_ok()).count()
    };
    let rig = (0..).map(Rig::new).find(|rig| selectable(rig) > 2).unwrap();
    let bookmarks = rig.oracle.bookmarks();
    for point in rig.oracle.lsns() {
        let device = ImageDevice::new(rig.image(point), Arc::clone(&rig.pool));
        let offered = device.newest_bookmarks(100);
        let volume = Arc::clone(rig.store.catalogue().volume(rig.volume).unwrap());
        let expected: Vec<Name> = bookmarks
            .iter()
            .rev()
            .filter(|(lsn, _)| *lsn <= point && volume.selectable(*lsn).is_ok())
            .map(|(_, bookmark)| bookmark.name.clone())
            .collect();
        assert_eq!(offered, expected);
        assert_eq!(device.newest_bookmarks(2), expected[..expected.len().min(2)]);
        for (_, bookmark) in &bookmarks {
            assert_eq!(device.has_bookmark(&bookmark.name), expected.contains(&bookmark.name));
        }
    }
    let device = ImageDevice::new(rig.image(rig.oracle.last_lsn()), Arc::clone(&rig.pool));
    let maps = Arc::from([Map::ChangedSince("nobody".parse().unwrap())]);
    let extent = Extent::between(0, BLOCK_SIZE);
    let refused = ask(&device, Op::Status { extent, maps, most: 1 });
    assert!(matches!(refused, Err(DeviceError::Io(text)) if text.contains("nobody")));
}

/// The journal may lose what a flat copy still has.
#[test]
fn a_whole_flat_copy_is_told_of_without_a_journal() {
    let rig = Rig::new(13);
    let (image, _, slot) = flat_image(&rig, rig.oracle.size_at(rig.volume, rig.oracle.last_lsn()));
    let device = ImageDevice::new(image, Arc::clone(&rig.pool));
    let map = map_of(&device, &Map::Allocation, 100);
    assert!(map.iter().any(|(_, state)| *state == State::Zeroes));
    slot.set(None);
    assert_eq!(map_of(&device, &Map::Allocation, 100), map, "with the copy or without");
}

#[test]
fn a_cache_request_fetches_and_answers_at_once() {
    let one = Arc::new(Pool::new("test-read", 1, 64));
    let rig = Rig { pool: one, ..Rig::of(Workload::with_size(11, 8 << 20), 16 << 20) };
    let device = ImageDevice::new(rig.image(rig.oracle.last_lsn()), Arc::clone(&rig.pool));
    let before = rig.store.status().blocks_ahead;
    let extent = Extent::between(0, 8 << 20);
    assert_eq!(run(&device, Op::Cache { extent }), Ok(Bytes::new()));
    let (done, ended) = std::sync::mpsc::channel();
    rig.pool.submit(move || done.send(()).unwrap());
    ended.recv().unwrap();
    assert!(rig.store.status().blocks_ahead > before + 800);
}

/// Nobody waits for each of the 65,536 regions of a disk that is mostly empty.
#[test]
fn what_is_empty_is_told_at_once_however_large_it_is() {
    const TIB: u64 = 1 << 40;
    let rig = Rig::of(Workload::blank(17, 4 << 20), 1 << 20);
    let stream = rig.store.catalogue().volume(rig.volume).unwrap().stream();
    let durable = rig.store.durable(stream).unwrap();
    let mut batch = BatchBuilder::new(stream, rig.volume, durable.run, durable.lsn.next(), durable.at);
    batch.resize(TIB).write(TIB / 3 / BLOCK_SIZE, &[7; 8192]).zero(TIB / 2 / BLOCK_SIZE, 2);
    batch.write(TIB / BLOCK_SIZE - 1, &[9; 4096]);
    let point = batch.next_lsn().previous();
    let (done, stored) = std::sync::mpsc::channel();
    rig.store.append(batch.build(), Box::new(move |result| done.send(result).unwrap()));
    stored.recv().unwrap().unwrap();
    let image = Image::open(Arc::clone(&rig.store), rig.volume, point, TIB).unwrap();
    let device = ImageDevice::new(Arc::new(image), Arc::clone(&rig.pool));
    let before = rig.store.status().map_misses;
    let far: Vec<_> = map_of(&device, &Map::Allocation, 1000)
        .into_iter()
        .filter(|(extent, state)| extent.offset() >= REGION_BYTES && *state == State::Data)
        .map(|(extent, _)| extent)
        .collect();
    let first = TIB / 3 / BLOCK_SIZE * BLOCK_SIZE;
    assert_eq!(far, [Extent::between(first, first + 8192), Extent::between(TIB - 4096, TIB)]);
    let looked = rig.store.status().map_misses - before;
    assert!(looked <= 12, "{looked} regions were looked at");
}
