//! The spool on a disk in memory that fails, tears and forgets on demand.

use std::path::PathBuf;

use tap_block::{Action, Entry, Epoch, Extent, Lsn, Position, RunId, StreamId, VolumeId, WallTime};
use tap_disk::{MemoryDir, SegmentDir};
use tempfile::TempDir;

use super::*;

const SEGMENT: u64 = 64 << 10;

pub(crate) fn batch(n: u64, body: usize) -> Arc<Batch> {
    let lsn = Lsn::new(n).unwrap();
    let extent = Extent::between(0, 4096);
    let units = (body > 0).then(|| Bytes::from(vec![u8::try_from(n % 251).unwrap(); body]));
    let action = match units {
        Some(_) => Action::Write { volume: VolumeId::new(1), extent },
        None => Action::Zero { volume: VolumeId::new(1), extent },
    };
    Arc::new(Batch {
        stream: StreamId::new(1),
        run: RunId::new(7),
        epoch: Epoch::new(1),
        first_lsn: lsn,
        entries: vec![Entry { position: Position::record(lsn), captured_at: WallTime::EPOCH, action }],
        lens: units.iter().map(|u| u16::try_from(u.len()).unwrap()).collect(),
        body: units.unwrap_or_default(),
    })
}

/// Item `n` carries record `n + 1`.
fn item(n: u64) -> (ItemNo, Arc<Batch>) {
    (ItemNo::new(n), batch(n + 1, usize::try_from(500 + n % 3 * 1500).unwrap()))
}

fn group(forgotten: u64, items: std::ops::Range<u64>) -> SpillGroup {
    SpillGroup {
        forgotten: ItemNo::new(forgotten),
        synced: ItemNo::new(items.start),
        everywhere: reached(forgotten),
        items: items.map(item).collect(),
    }
}

fn reached(n: u64) -> Reached {
    Reached { lsn: Lsn::new(n).unwrap(), run: (n > 0).then_some(RunId::new(7)), at: None }
}

struct World {
    dir: MemoryDir,
    folder: TempDir,
    marks: u32,
}

impl World {
    fn new() -> Self {
        Self { dir: MemoryDir::new(), folder: tempfile::tempdir().unwrap(), marks: 0 }
    }

    fn mark(&self) -> PathBuf {
        self.folder.path().join(format!("mark{}", self.marks))
    }

    fn open(&self) -> (Spool, Recovered) {
        let options = PoolOptions { ready: 0, max_files: 8, max_spare: 2, max_open: 4 };
        let pool = SegmentPool::over(Box::new(self.dir.clone()), SEGMENT, options).unwrap();
        Spool::over(pool, &self.mark()).unwrap()
    }

    fn lose_mark(&mut self) {
        self.marks += 1;
    }
}

fn sound(found: &Recovered) -> Vec<(u64, bool)> {
    let numbers = found.first.get()..;
    numbers.zip(&found.items).map(|(n, i)| (n, matches!(i, RecoveredItem::Sound(_)))).collect()
}

fn whole(range: std::ops::Range<u64>) -> Vec<(u64, bool)> {
    range.map(|n| (n, true)).collect()
}

#[test]
fn what_was_written_is_found_and_read_again() {
    for lost_mark in [false, true] {
        let mut world = World::new();
        let (mut spool, found) = world.open();
        assert_eq!(found, Recovered::default());
        spool.append(&group(0, 0..3)).unwrap();
        spool.append(&group(0, 3..30)).unwrap();
        drop(spool);
        if lost_mark {
            world.lose_mark();
        }
        let (spool, found) = world.open();
        assert_eq!(sound(&found), whole(0..30));
        for n in 0..30 {
            assert_eq!(spool.read(ItemNo::new(n)), Some(item(n).1));
        }
        assert_eq!(spool.read(ItemNo::new(30)), None);
    }
}

#[test]
fn forgotten_items_do_not_come_back_and_their_files_are_used_again() {
    let world = World::new();
    let (mut spool, _) = world.open();
    for n in 0..200 {
        spool.append(&group(n, n..n + 1)).unwrap();
        spool.forget(ItemNo::new(n), reached(n)).unwrap();
    }
    let files = world.dir.list().unwrap().len();
    assert!(files <= 4, "{files}");
    drop(spool);
    let (_, found) = world.open();
    assert_eq!(sound(&found), whole(199..200));
    assert_eq!(found.everywhere, reached(199));
}

#[test]
fn items_that_passed_through_memory_are_not_missed() {
    let world = World::new();
    let (mut spool, _) = world.open();
    spool.append(&group(0, 0..3)).unwrap();
    spool.append(&SpillGroup { synced: ItemNo::new(50), ..group(50, 50..52) }).unwrap();
    drop(spool);
    let (_, found) = world.open();
    assert_eq!(sound(&found), whole(50..52));
}

#[test]
fn a_damaged_record_is_a_lost_item_and_hides_no_other() {
    for lost_mark in [false, true] {
        let mut world = World::new();
        let (mut spool, _) = world.open();
        spool.append(&group(0, 0..3)).unwrap();
        spool.append(&group(0, 3..6)).unwrap();
        let place = *spool.places.get(&ItemNo::new(1)).unwrap();
        drop(spool);
        world.dir.corrupt(place.file, place.offset + 70, |bytes| bytes[0] ^= 1);
        if lost_mark {
            world.lose_mark();
        }
        let (_, found) = world.open();
        assert_eq!(sound(&found), [(0, true), (1, false), (2, true), (3, true), (4, true), (5, true)]);
    }
}

#[test]
fn a_missing_file_is_seen() {
    let world = World::new();
    let (mut spool, _) = world.open();
    spool.append(&group(0, 0..30)).unwrap();
    let first = *spool.files.keys().next().unwrap();
    drop(spool);
    world.dir.remove(first).unwrap();
    let (_, found) = world.open();
    let items = sound(&found);
    assert!(!items[0].1, "the first item is lost");
    assert!(items[1..].iter().all(|i| i.1) && items.last().unwrap().0 == 29);
}

/// Whatever a power cut leaves of the last group: what was synced is there, what comes is a prefix, and numbers
/// given anew never bring back what was cut off.
#[test]
fn a_torn_tail_is_cut_for_good() {
    for seed in 1..60_u64 {
        let mut world = World::new();
        let (mut spool, _) = world.open();
        spool.append(&group(0, 0..2)).unwrap();
        let (torn, mut written) = (group(0, 2..8), Vec::new());
        spool
            .write_all(&torn, Knowledge { synced: ItemNo::new(2), ..Knowledge::default() }, &mut written)
            .unwrap();
        drop(spool);
        let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        world.dir = world.dir.after_power_cut(|_, _| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % 3 > 0
        });
        let (mut spool, found) = world.open();
        let end = found.items.len() as u64;
        assert!(end >= 2 && sound(&found) == whole(0..end), "{found:?}");
        let other = SpillGroup { items: vec![(ItemNo::new(end), batch(9_000, 50))], ..group(0, end..end) };
        spool.append(&other).unwrap();
        drop(spool);
        let (spool, found) = world.open();
        assert_eq!(sound(&found), whole(0..end + 1), "nothing that was cut off follows");
        assert_eq!(spool.read(ItemNo::new(end)).unwrap().first_lsn.get(), 9_000);
    }
}

#[test]
fn after_a_failed_sync_the_next_group_starts_a_new_file() {
    let world = World::new();
    let (mut spool, _) = world.open();
    spool.append(&group(0, 0..2)).unwrap();
    world.dir.fail_syncs(true);
    assert!(spool.append(&group(0, 2..4)).is_err());
    world.dir.fail_syncs(false);
    spool.append(&group(0, 2..4)).unwrap();
    assert_ne!(spool.places[&ItemNo::new(1)].file, spool.places[&ItemNo::new(2)].file);
    assert_eq!(spool.read(ItemNo::new(1)), Some(item(1).1), "the poisoned file can still be read");
    drop(spool);
    assert_eq!(sound(&world.open().1), whole(0..4));
}

#[test]
fn a_full_disk_is_an_error_until_there_is_room() {
    let world = World::new();
    let (mut spool, _) = world.open();
    world.dir.set_capacity(SEGMENT);
    spool.append(&group(0, 0..2)).unwrap();
    assert!(spool.append(&group(0, 2..40)).is_err());
    world.dir.set_capacity(100 * SEGMENT);
    spool.append(&group(0, 2..40)).unwrap();
    drop(spool);
    assert_eq!(sound(&world.open().1), whole(0..40));
}

#[test]
fn a_batch_larger_than_a_file_is_refused_by_name() {
    let world = World::new();
    let (mut spool, _) = world.open();
    let entries: Vec<Arc<Batch>> = (0..20).map(|n| batch(n + 1, 4000)).collect();
    let giant = Batch {
        entries: entries.iter().flat_map(|b| b.entries.clone()).collect(),
        lens: entries.iter().flat_map(|b| b.lens.clone()).collect(),
        body: entries.iter().flat_map(|b| b.body.to_vec()).collect(),
        ..Batch::clone(&entries[0])
    };
    let giant = SpillGroup { items: vec![(ItemNo::new(0), Arc::new(giant))], ..group(0, 0..0) };
    assert_eq!(spool.append(&giant).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    spool.append(&group(0, 0..1)).unwrap();
}

#[test]
fn every_flipped_bit_of_a_record_is_found() {
    let record = Record::new(ItemNo::new(5), Knowledge::default(), &batch(1, 40)).unwrap();
    let bytes: Vec<u8> = record.slices().iter().flat_map(|s| s.to_vec()).collect();
    let read = |bytes: Vec<u8>| {
        let header = Header::decode(&bytes)?;
        header.batch(Bytes::from(bytes))
    };
    assert_eq!(read(bytes.clone()), Some(Batch::clone(&batch(1, 40))));
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(read(bad), None, "bit {bit}");
    }
}

#[test]
fn the_mark_goes_both_ways() {
    let known = Knowledge { forgotten: ItemNo::new(3), synced: ItemNo::new(9), everywhere: reached(4) };
    assert_eq!(Knowledge::decode_mark(&known.encode_mark()), Some(known));
    assert_eq!(Knowledge::decode_mark(&[]), None);
    assert_eq!(Knowledge::decode_mark(&known.encode_mark()[..20]), None);
}
