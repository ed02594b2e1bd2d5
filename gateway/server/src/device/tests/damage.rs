//! What was written on an image and is damaged is refused, never served as it was before.

use std::fs;
use std::path::PathBuf;

use super::*;

const BLOCKS: u64 = 64;
/// At the beginning stands how far the log is.
const FIRST: usize = 40;
const SAID: usize = 65;

/// Image 7, written on and flushed some times, then written on without, block after block.
fn written(rig: &Rig, flushes: u8, unflushed: u64) -> Bytes {
    rig.overlays().create(7, QUOTA).unwrap();
    let device = rig.overlay(rig.oracle.last_lsn());
    for round in 0..flushes {
        (0..20).for_each(|block| write(&device, block, 100 + round));
        run(&device, Op::Flush).unwrap();
    }
    (0..unflushed).for_each(|n| write(&device, n % BLOCKS, 1 + u8::try_from(n).unwrap()));
    whole(&device)
}

fn write(device: &OverlayDevice, block: u64, fill: u8) {
    let data = vec![fill; 4096].into();
    run(device, Op::Write { offset: block * BLOCK_SIZE, data, fua: false }).unwrap();
}

fn dir(rig: &Rig, image: u64) -> PathBuf {
    rig.overlays().of(image)
}

fn opened(rig: &Rig, image: u64) -> Result<OverlayDevice, String> {
    let below = rig.image(rig.oracle.last_lsn());
    rig.overlays().open(image, Some(QUOTA), below, Arc::clone(&rig.pool)).map_err(|e| e.to_string())
}

fn refused(rig: &Rig, image: u64, with: &str) {
    let why = opened(rig, image).err();
    assert!(why.as_ref().is_some_and(|why| why.contains(with)), "{why:?}");
    // Which it is, and the way out.
    let there = dir(rig, image).display().to_string();
    assert!(
        why.is_some_and(|why| why.contains(&there) && why.contains("remove the image and create it again"))
    );
}

/// What is in the overlay's directory, to be put back.
fn kept(rig: &Rig, image: u64) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = fs::read_dir(dir(rig, image)).unwrap().map(|entry| entry.unwrap().path());
    paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

fn put_back(files: &[(PathBuf, Vec<u8>)]) {
    files.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
}

fn flip(path: PathBuf, at: usize) {
    let mut bytes = fs::read(&path).unwrap();
    bytes[at] ^= 2;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_flipped_bit_in_what_was_said_is_refused_as_long_as_the_machine_runs() {
    let rig = Rig::new(5);
    let expected = written(&rig, 0, 100);
    let files = kept(&rig, 7);
    let recent = || dir(&rig, 7).join("recent-0");
    let end = FIRST + 100 * SAID;
    assert_eq!(said_in(&recent()), end as u64);
    for at in [0, 3, 5, 40, 64, 500, 4090, end - SAID, end - SAID + 4, end - 1] {
        flip(recent(), at);
        refused(&rig, 7, "recent-0 or recent-1 is damaged");
        put_back(&files);
    }
    fs::remove_file(recent()).unwrap();
    refused(&rig, 7, "remove the file boot");
    put_back(&files);
    assert!(whole(&opened(&rig, 7).unwrap()) == expected);
}

/// Cut between two things that were said, or altogether, they look whole.
#[test]
fn what_was_said_and_is_emptied_or_cut_off_is_refused_as_long_as_the_machine_runs() {
    for (flushes, unflushed) in [(0, 30), (1, 30), (2, 30), (3, 9)] {
        let rig = Rig::new(5);
        let expected = written(&rig, flushes, unflushed);
        // All but the content, which nobody touches.
        let paths = || fs::read_dir(dir(&rig, 7)).unwrap().map(|entry| entry.unwrap().path());
        let others = || paths().filter(|path| !path.ends_with("data"));
        let files: Vec<_> = others().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
        let begin_again = || {
            others().for_each(|path| fs::remove_file(path).unwrap());
            put_back(&files);
        };
        let now = dir(&rig, 7).join(if flushes % 2 == 0 { "recent-0" } else { "recent-1" });
        let end = FIRST + index(unflushed) * SAID;
        for len in [0, FIRST, FIRST + 3 * SAID, end - SAID] {
            fs::write(&now, &fs::read(&now).unwrap()[..len]).unwrap();
            refused(&rig, 7, "emptied or cut off");
            begin_again();
        }
        // The other one holds nothing that is not flushed.
        let other = dir(&rig, 7).join(if flushes % 2 == 0 { "recent-1" } else { "recent-0" });
        fs::write(&other, []).unwrap();
        assert!(whole(&opened(&rig, 7).unwrap()) == expected, "{flushes}");
        // Once it is said that what is left is to do, it is opened.
        begin_again();
        fs::write(&now, []).unwrap();
        fs::remove_file(dir(&rig, 7).join("boot")).unwrap();
        assert!(whole(&opened(&rig, 7).unwrap()) != expected);
    }
}

/// A gateway of an earlier version noted the start of the machine, and later ones how many groups there were and how many of them
/// the log has.
#[test]
fn what_an_earlier_program_said_is_found() {
    let rig = Rig::new(5);
    let expected = written(&rig, 1, 20);
    let files = kept(&rig, 7);
    let id = fs::read("/proc/sys/kernel/random/boot_id").unwrap();
    // What begins with the image, twenty blocks, the flush, and twenty blocks; to there the log has all.
    let count = |said: u64| [said.to_le_bytes(), 22_u64.to_le_bytes()].concat();
    for noted in [vec![], count(42)] {
        put_back(&files);
        for name in ["recent-0", "recent-1"].map(|name| dir(&rig, 7).join(name)) {
            let said = index(said_in(&name));
            fs::write(&name, &fs::read(&name).unwrap()[..said]).unwrap();
        }
        fs::write(dir(&rig, 7).join("boot"), [&id[..], &noted].concat()).unwrap();
        assert!(whole(&opened(&rig, 7).unwrap()) == expected);
    }
    put_back(&files);
    fs::write(dir(&rig, 7).join("boot"), [id, count(43)].concat()).unwrap();
    refused(&rig, 7, "emptied or cut off");
}

/// Groups with references have another beginning, and more rows than changes.
#[test]
fn a_flipped_bit_in_a_copy_that_is_not_flushed_is_refused_and_without_one_all_is_there() {
    let rig = Rig::new(5);
    written(&rig, 1, 0);
    let device = opened(&rig, 7).unwrap();
    let copy = |from: u64, blocks: u64, to: u64| {
        let from = Extent::between(from * BLOCK_SIZE, (from + blocks) * BLOCK_SIZE);
        run(&device, Op::Copy { from, to: to * BLOCK_SIZE }).unwrap();
    };
    // What was written, and what the image below has.
    copy(10, 20, 40);
    run(&device, Op::Flush).unwrap();
    write(&device, 3, 9);
    copy(0, 6, 30);
    copy(25, 8, 50);
    write(&device, 31, 10);
    copy(28, 4, 5);
    let expected = whole(&device);
    drop(device);
    // All but the content, which nobody touches.
    let paths = || fs::read_dir(dir(&rig, 7)).unwrap().map(|entry| entry.unwrap().path());
    let others = || paths().filter(|path| !path.ends_with("data"));
    let files: Vec<_> = others().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    let begin_again = || {
        others().for_each(|path| fs::remove_file(path).unwrap());
        put_back(&files);
    };
    // The first has what is flushed.
    let [first, second] = ["recent-0", "recent-1"].map(|name| dir(&rig, 7).join(name));
    for at in 0..index(said_in(&second)) + 20 {
        flip(second.clone(), at);
        refused(&rig, 7, "is damaged");
        flip(second.clone(), at);
    }
    for at in [0, 3, 50, 100] {
        flip(first.clone(), at);
        assert!(whole(&opened(&rig, 7).unwrap()) == expected, "byte {at} of what is flushed");
        begin_again();
    }
    for _ in 0..2 {
        assert!(whole(&opened(&rig, 7).unwrap()) == expected);
    }
}

#[test]
fn a_file_that_is_missing_is_named_and_so_is_the_way_out() {
    let rig = Rig::new(5);
    let expected = written(&rig, 1, 9);
    let files = kept(&rig, 7);
    for (name, why) in [
        ("data", "data file is cut off"),
        ("map-0", "(map-N) is missing"),
        ("recent-1", "recent-1 cannot be read"),
    ] {
        fs::remove_file(dir(&rig, 7).join(name)).unwrap();
        refused(&rig, 7, why);
        put_back(&files);
    }
    assert!(whole(&opened(&rig, 7).unwrap()) == expected);
    // What is no damage, too.
    fs::remove_file(dir(&rig, 7).join("boot")).unwrap();
    fs::create_dir(dir(&rig, 7).join("boot")).unwrap();
    let why = opened(&rig, 7).err().unwrap();
    assert!(why.contains("cannot remove") && why.contains("/7/boot") && why.contains("see to that"), "{why}");
}

/// What was not flushed may be missing, in any part.
#[test]
fn after_a_power_cut_an_image_opens_with_what_is_left() {
    let rig = Rig::new(5);
    let expected = written(&rig, 2, 60);
    let files = kept(&rig, 7);
    for at in [500, 4096, FIRST + 60 * SAID - 1] {
        put_back(&files);
        let dir = dir(&rig, 7);
        fs::remove_file(dir.join("boot")).unwrap();
        let paths = ["recent-0", "recent-1"].map(|name| dir.join(name));
        for path in paths.into_iter().filter(|path| fs::metadata(path).unwrap().len() > at as u64) {
            flip(path, at);
        }
        let device = opened(&rig, 7).unwrap();
        let got = whole(&device);
        for block in 0..index(BLOCKS) {
            let (is, was) = (got[block * 4096], expected[block * 4096]);
            assert!(is == was || is == 101 || block >= 20, "block {block} is {is}");
        }
        write(&device, 1, 7);
        drop(device);
        assert_eq!(whole(&opened(&rig, 7).unwrap())[4096], 7);
    }
}

#[test]
fn a_flipped_bit_in_unflushed_content_refuses_that_block() {
    let rig = Rig::new(5);
    let expected = written(&rig, 1, 60);
    // The slots behind those of the first flush.
    flip(dir(&rig, 7).join("data"), 25 * 4096 + 77);
    for _ in 0..2 {
        let device = opened(&rig, 7).unwrap();
        let mut refused = 0;
        for block in 0..BLOCKS {
            let extent = Extent::between(block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE);
            match run(&device, Op::Read { extent }) {
                Ok(data) => assert!(data[..] == expected[index(extent.offset())..index(extent.end())]),
                Err(e) => {
                    assert!(matches!(e, DeviceError::Damaged { extent: told, .. } if told == extent), "{e}");
                    refused += 1;
                }
            }
        }
        assert_eq!(refused, 1);
    }
}

#[test]
fn a_data_file_that_is_cut_off_is_refused() {
    for (flushes, unflushed) in [(1, 0), (0, 20), (3, 40)] {
        let rig = Rig::new(5);
        let expected = written(&rig, flushes, unflushed);
        let path = dir(&rig, 7).join("data");
        let bytes = fs::read(&path).unwrap();
        for (len, is_kept) in [(0, true), (4096 + 100, true), (9 * 4096, false)] {
            fs::write(&path, &bytes[..len]).unwrap();
            let boot = fs::read(dir(&rig, 7).join("boot")).unwrap();
            if !is_kept {
                fs::remove_file(dir(&rig, 7).join("boot")).unwrap();
            }
            refused(&rig, 7, "data file is cut off");
            fs::write(dir(&rig, 7).join("boot"), boot).unwrap();
        }
        fs::write(&path, &bytes).unwrap();
        assert!(whole(&opened(&rig, 7).unwrap()) == expected);
    }
}

#[test]
fn an_overlay_with_the_files_of_another_image_is_refused() {
    for (flushes, unflushed) in [(1, 0), (10, 0), (0, 20), (2, 20)] {
        let rig = Rig::new(5);
        let expected = written(&rig, flushes, unflushed);
        let files = kept(&rig, 7);
        // A copy of it under another number, on this machine or from a backup.
        for is_kept in [true, false] {
            let (of, other) = (dir(&rig, 7), dir(&rig, 8));
            let _ = fs::remove_dir_all(&other);
            fs::create_dir(&other).unwrap();
            for (path, bytes) in &files {
                fs::write(other.join(path.strip_prefix(&of).unwrap()), bytes).unwrap();
            }
            if !is_kept {
                fs::remove_file(other.join("boot")).unwrap();
            }
            if flushes > 0 {
                refused(&rig, 8, "mapping log is damaged at byte 0, or is another image's");
            } else if is_kept {
                refused(&rig, 8, "is damaged");
            }
        }
        assert!(whole(&opened(&rig, 7).unwrap()) == expected);
    }
}

/// Flushed is flushed, the last time as well.
#[test]
fn a_flipped_bit_in_what_was_flushed_last_is_refused() {
    for flushes in [1, 3] {
        let rig = Rig::new(5);
        let expected = written(&rig, flushes, 0);
        let files = kept(&rig, 7);
        let group = group_len(&[Change::Zero(Extent::between(0, BLOCK_SIZE)); 20]);
        let end = usize::from(flushes) * group;
        for at in [end - group, end - group + 14, end - 100, end - 1] {
            flip(dir(&rig, 7).join("map-0"), at);
            refused(&rig, 7, "mapping log is damaged");
            put_back(&files);
        }
        assert!(whole(&opened(&rig, 7).unwrap()) == expected);
    }
}

/// What was said is emptied when an image is opened, and that is not synced: the power brings it back, beside what was flushed
/// since.
#[test]
fn what_was_said_of_a_log_that_never_came_to_be_does_not_come_back_over_what_was_flushed_since() {
    let rig = Rig::new(5);
    let at = |name: &str| dir(&rig, 7).join(name);
    rig.overlays().create(7, QUOTA).unwrap();
    let device = opened(&rig, 7).unwrap();
    let durable = fs::read(at("data")).unwrap();
    // The first references begin the log anew, which fails.
    fs::create_dir(at("map-1")).unwrap();
    write(&device, 0, 1);
    run(&device, Op::Copy { from: Extent::between(0, BLOCK_SIZE), to: 8 * BLOCK_SIZE }).unwrap();
    assert!(run(&device, Op::Flush).is_err());
    run(&device, Op::Trim { extent: Extent::between(0, BLOCK_SIZE), fua: false }).unwrap();
    drop(device);
    fs::remove_dir(at("map-1")).unwrap();
    // The power goes, and takes all content with it.
    let said = ["recent-0", "recent-1"].map(|name| (at(name), fs::read(at(name)).unwrap()));
    fs::write(at("data"), durable).unwrap();
    fs::remove_file(at("boot")).unwrap();
    let device = opened(&rig, 7).unwrap();
    write(&device, 0, 2);
    run(&device, Op::Flush).unwrap();
    drop(device);
    // And again.
    put_back(&said);
    fs::remove_file(at("boot")).unwrap();
    assert_eq!(whole(&opened(&rig, 7).unwrap())[..4096], [2; 4096]);
}

/// Image 7 with a flush that failed where it would have begun the log anew; then a block is trimmed and written again. With what
/// was said before the last of these.
fn trimmed_and_written_after_a_flush_that_failed(rig: &Rig) -> (OverlayDevice, Vec<(PathBuf, Vec<u8>)>) {
    let at = |name: &str| dir(rig, 7).join(name);
    rig.overlays().create(7, QUOTA).unwrap();
    let device = opened(rig, 7).unwrap();
    fs::create_dir(at("map-1")).unwrap();
    write(&device, 0, 1);
    run(&device, Op::Copy { from: Extent::between(0, BLOCK_SIZE), to: 8 * BLOCK_SIZE }).unwrap();
    assert!(run(&device, Op::Flush).is_err());
    run(&device, Op::Trim { extent: Extent::between(BLOCK_SIZE, 2 * BLOCK_SIZE), fua: false }).unwrap();
    let said = ["recent-0", "recent-1"].map(|name| (at(name), fs::read(at(name)).unwrap()));
    write(&device, 1, 2);
    fs::remove_dir(at("map-1")).unwrap();
    (device, said.into())
}

/// The power goes, and what was said is as it was on the disk for a while.
fn found_after_a_power_cut(rig: &Rig, said: &[(PathBuf, Vec<u8>)]) -> u8 {
    put_back(said);
    fs::remove_file(dir(rig, 7).join("boot")).unwrap();
    whole(&opened(rig, 7).unwrap())[4096]
}

/// There was no room for the new log, and then there is.
#[test]
fn what_was_said_after_a_flush_that_failed_does_not_come_back_over_the_next_one() {
    let rig = Rig::new(5);
    let (device, said) = trimmed_and_written_after_a_flush_that_failed(&rig);
    run(&device, Op::Flush).unwrap();
    drop(device);
    assert_eq!(found_after_a_power_cut(&rig, &said), 2);
}

/// The gateway that comes back makes durable what it finds, so a flush has nothing left to do.
#[test]
fn what_was_said_before_a_kill_does_not_come_back_over_what_was_found_after_it() {
    let rig = Rig::new(5);
    let (device, said) = trimmed_and_written_after_a_flush_that_failed(&rig);
    drop(device);
    let device = opened(&rig, 7).unwrap();
    assert_eq!(whole(&device)[4096], 2);
    run(&device, Op::Flush).unwrap();
    drop(device);
    assert_eq!(found_after_a_power_cut(&rig, &said), 2);
}

/// A data file that fails to be written from some moment on.
fn failing(path: &std::path::Path) -> std::os::fd::OwnedFd {
    use rustix::fs::MemfdFlags;
    let file = rustix::fs::memfd_create("data", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&file, fs::metadata(path).unwrap().len()).unwrap();
    fs::remove_file(path).unwrap();
    let of = std::os::fd::AsRawFd::as_raw_fd(&file);
    std::os::unix::fs::symlink(format!("/proc/self/fd/{of}"), path).unwrap();
    file
}

/// Part of the write takes the place of what is there, and part is zeroes, which take none.
#[test]
fn zeroes_of_a_write_that_failed_do_not_come_back_after_a_kill() {
    let rig = Rig::new(5);
    rig.overlays().create(7, QUOTA).unwrap();
    let data = failing(&dir(&rig, 7).join("data"));
    let device = opened(&rig, 7).unwrap();
    (0..3).for_each(|block| write(&device, block, 7));
    let expected = whole(&device);
    rustix::fs::fcntl_add_seals(&data, rustix::fs::SealFlags::WRITE).unwrap();
    let both = [[8; 4096], [0; 4096]].concat().into();
    assert!(run(&device, Op::Write { offset: 0, data: both, fua: false }).is_err());
    assert!(whole(&device) == expected, "nothing of it was done");
    drop(device);
    assert!(whole(&opened(&rig, 7).unwrap()) == expected);
}
