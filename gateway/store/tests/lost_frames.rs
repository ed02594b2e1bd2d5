//! Frames of the log that are lost, and whose loss no gap in a tap's numbers shows: the gateway's own records (holds, pins, policies), and
//! copies of what a disk held. Nothing may go because they are gone, and nothing is served that was older.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use common::lab::{Lab, cut, policy, tiers};
use common::segments::{self, frames_in};
use common::{Disk, append, image, try_image};
use gateway_journal::meta::OWN_STREAM;
use gateway_journal::{FrameHeader, Hold, MetaRecord, RegionNo};
use gateway_store::{FindingKind, MemoryIndex, Offered, ReadMode, Scope, Store, StoreError, UnitRead};
use tap_block::{
    BLOCK_SIZE, Batch, BlockNo, Extent, ExtentSet, Lsn, Marker, RunId, RunStart, StreamId, SyncCause,
    VolumeId, WallTime,
};
use tap_disk::{FileNo, SegmentDir};
use testbed_model::{BatchBuilder, Oracle, Random, Workload};

/// A segment of the log, and where the frames in it begin.
struct Piece {
    file: FileNo,
    frames: Vec<(u64, FrameHeader)>,
}

fn log(disk: &Disk) -> Vec<Piece> {
    let piece = |segment| {
        let frames = frames_in(disk, segment).into_iter().map(|(_, at, frame)| (at, frame));
        Piece { file: segment.0, frames: frames.collect() }
    };
    segments::log(disk).iter().map(piece).collect()
}

fn flip(disk: &Disk, file: FileNo, at: u64) {
    disk.dir.corrupt(file, at, |bytes| bytes[0] ^= 1);
}

/// A volume whose every point is held, `behind` more records of the gateway's own, and the store closed by a crash.
fn held(behind: usize) -> Lab {
    let mut lab = Lab::new(7, policy(100, &[], 0));
    lab.disk.config.group_versions = 100_000;
    lab.open();
    let from = lab.store().age();
    lab.write(60, 5);
    let (volume, to) = (lab.volume(), lab.store().age());
    let until = to.plus(Duration::from_secs(8 * 24 * 3600));
    let note = "court order".to_owned();
    lab.rule(MetaRecord::Held(Hold { volume, from, to, until, credited: Duration::ZERO, note }));
    for _ in 0..behind {
        let point = *lab.oracle.lsns().last().unwrap();
        lab.rule(MetaRecord::Pinned { volume, point, note: String::new() });
    }
    lab.more(5, 1);
    lab.store = None;
    lab
}

/// One bit of the frame that holds the hold.
fn lose_the_hold(lab: &Lab) {
    let log = log(&lab.disk);
    let own = log.iter().flat_map(|p| p.frames.iter().map(move |(at, frame)| (p.file, *at, frame)));
    let mut own = own.filter(|(.., frame)| frame.stream == OWN_STREAM);
    // The first one set the policy.
    let (file, at, _) = own.nth(1).unwrap();
    flip(&lab.disk, file, at + 60);
}

fn holds(lab: &Lab) -> usize {
    lab.store().catalogue().rules().holds_of(lab.volume(), lab.store().age()).count()
}

fn kept(lab: &Lab) -> usize {
    lab.oracle.lsns().into_iter().filter(|lsn| lab.store().check_kept(lab.volume(), *lsn).is_ok()).count()
}

/// Whether or not another record of the gateway's own follows and shows the gap.
#[test]
fn nothing_goes_while_a_hold_may_be_lost_until_somebody_has_read_of_it() {
    for behind in [0, 1] {
        let mut lab = held(behind);
        lose_the_hold(&lab);
        lab.open();
        assert_eq!(holds(&lab), 0, "it is lost");
        let told =
            |lab: &Lab| lab.store().findings(lab.volume()).iter().any(|f| f.detail.contains("hold ls"));
        assert!(told(&lab), "{:?}", lab.store().findings(lab.volume()));
        lab.clock.advance(Duration::from_secs(500));
        let all = kept(&lab);
        let refused = |lab: &Lab| matches!(lab.store().settle(), Err(StoreError::OwnLoss { from: 2, .. }));
        assert!(refused(&lab));
        // What is recorded since is no answer, and neither is another start.
        lab.rule(MetaRecord::PolicySet { volume: None, policy: Some(policy(90, &[], 0)) });
        lab.open();
        assert!(refused(&lab) && told(&lab), "another start");
        lab.disk.index = MemoryIndex::new();
        lab.disk.config.group_versions = 40;
        lab.open();
        assert!(refused(&lab) && told(&lab), "another index");
        assert_eq!(kept(&lab), all);

        lab.store().acknowledge(lab.volume(), |_| true).unwrap();
        lab.settle();
        assert!(kept(&lab) < all, "{behind}: it is let go of");
        lab.disk.index = MemoryIndex::new();
        lab.open();
        lab.clock.advance(Duration::from_secs(500));
        lab.more(5, 1);
        lab.settle();
        lab.check(3);
    }
}

/// The gateway's own records are numbered without a gap, so one that follows tells that none was lost.
#[test]
fn a_record_of_the_gateways_own_behind_the_damage_says_that_none_of_them_is_lost() {
    let mut lab = held(1);
    let log = log(&lab.disk);
    let frames = log.iter().flat_map(|p| p.frames.iter().map(move |(at, frame)| (p.file, *at, frame)));
    let frames: Vec<_> = frames.collect();
    let hold =
        frames.iter().position(|(.., f)| f.stream == OWN_STREAM && f.first_lsn == Lsn::ZERO.next().next());
    let before = frames[..hold.unwrap()].iter().rfind(|(.., f)| f.stream != OWN_STREAM).unwrap();
    flip(&lab.disk, before.0, before.1 + 60);
    lab.open();
    assert_eq!(holds(&lab), 1);
    assert!(!lab.store().status().damage.is_empty());
    lab.clock.advance(Duration::from_secs(500));
    lab.settle();
}

const STREAM: StreamId = StreamId::new(500);
const VOLUME: VolumeId = VolumeId::new(600);
const BLOCKS: u64 = 512;

/// The first run of a tap, and a copy of its whole disk.
fn baseline() -> Vec<tap_block::Batch> {
    let (run, mut next) = (RunId::new(1), Lsn::ZERO.next());
    let mut all = Vec::new();
    let mut batch = |all: &mut Vec<_>, fill: &mut dyn FnMut(&mut BatchBuilder)| {
        let at = WallTime::from_nanos(1_700_000_000_000_000_000);
        let mut builder = BatchBuilder::new(STREAM, VOLUME, run, next, at);
        fill(&mut builder);
        next = builder.next_lsn();
        all.push(builder.build());
    };
    let (cause, size) = (SyncCause::Baseline, BLOCKS * BLOCK_SIZE);
    batch(&mut all, &mut |b| {
        let name = "copied".parse().unwrap();
        let start =
            RunStart { previous: None, durable: Lsn::ZERO, volume: VOLUME, name, size, sync: Some(cause) };
        b.mark(Marker::RunStart(start));
    });
    let mut random = Random::new(3);
    for from in (0..BLOCKS).step_by(8) {
        batch(&mut all, &mut |b| {
            for block in from..from + 8 {
                let mut data = vec![0; 4096];
                random.fill(&mut data);
                b.copy(Lsn::ZERO.next(), block, &data);
            }
        });
    }
    batch(&mut all, &mut |b| {
        b.mark(Marker::SyncEnd { cause, copied: size, from_zero: false });
    });
    all
}

/// Blocks of the copied disk's newest point that are served: each must be what was copied. How many are refused.
fn refused(store: &Store, oracle: &Oracle) -> usize {
    let newest = store.durable(STREAM).unwrap().lsn;
    let (sound, mut refused) = (oracle.image_at(VOLUME, newest), 0);
    for n in 0..BLOCKS {
        let (region, within) = RegionNo::holding(BlockNo::new(n)).unwrap();
        let mut out = vec![0; 4096];
        let map = store.region_map(VOLUME, region, newest);
        let read = map.is_ok_and(|map| {
            map.unit(within).is_none_or(|at| {
                let unit = UnitRead { block: BlockNo::new(n), at, into: 0 };
                store.read_units(&[unit], ReadMode::Blocking, &mut out).is_ok()
            })
        });
        let expected = &sound[n as usize * 4096..][..4096];
        assert!(!read || out == expected, "block {n} is served, and is not what was copied");
        refused += usize::from(!read);
    }
    refused
}

/// A store with a copied disk in several segments of the log; the index goes on in the middle of the first.
fn copied() -> (Lab, Oracle) {
    let mut lab = Lab::new(5, policy(10, &[], 0));
    let mut oracle = Oracle::new();
    for batch in baseline() {
        append(lab.store(), &batch).unwrap();
        oracle.apply(&batch).unwrap();
    }
    lab.write(30, 1);
    lab.store = None;
    (lab, oracle)
}

/// All passes that there are, or as many as end well.
fn settle_what_can_be(lab: &mut Lab) {
    lab.clock.advance(Duration::from_secs(1000));
    lab.more(10, 1);
    while matches!(lab.store().settle(), Ok(Some(_))) {}
}

/// The files of the segments of the log are always as long as they were made: a shorter one has lost what is not there.
#[test]
fn what_is_cut_off_a_segment_of_copies_is_never_served_as_something_older() {
    for without_index in [true, false] {
        let (mut lab, oracle) = copied();
        let log = log(&lab.disk);
        let piece = &log[1];
        let copies = piece.frames.iter().filter(|(_, frame)| frame.stream == STREAM && frame.entries > 1);
        let copies: Vec<u64> = copies.map(|(at, _)| *at).filter(|at| at % 4096 == 0).collect();
        cut_off(&lab.disk, piece.file, copies[copies.len() / 2] as usize);
        if without_index {
            lab.disk.index = MemoryIndex::new();
        }
        lab.open();
        assert!(refused(lab.store(), &oracle) > 0);
        if without_index {
            assert!(lab.store().wound(STREAM).is_some(), "a copy of the whole disk is to be asked for");
        }
        settle_what_can_be(&mut lab);
        assert!(refused(lab.store(), &oracle) > 0, "without index: {without_index}");
    }
}

fn cut_off(disk: &Disk, file: FileNo, len: usize) {
    let mut bytes = vec![0; len];
    disk.dir.open(file).unwrap().read_at(0, &mut bytes).unwrap();
    disk.dir.remove(file).unwrap();
    let shorter = disk.dir.create(file, len as u64).unwrap();
    shorter.write_at(0, &[IoSlice::new(&bytes)]).unwrap();
}

/// What lies behind the place that the index knows is lost with a segment, as everything in one behind it is.
#[test]
fn copies_in_the_segment_in_which_the_index_goes_on_are_missed_when_it_is_gone() {
    let mut disk = Disk::small();
    disk.config.group_versions = 300;
    let (store, mut oracle) = (disk.open(), Oracle::new());
    for batch in baseline() {
        append(&store, &batch).unwrap();
        oracle.apply(&batch).unwrap();
    }
    while store.status().groups_waiting > 0 {
        std::thread::yield_now();
    }
    drop(store);
    for n in 0..log(&disk).len() - 1 {
        let mut other = cut(&disk, &mut Random::new(1));
        other.config = disk.config.clone();
        other.dir.remove(log(&other)[n].file).unwrap();
        let store = other.open();
        assert!(refused(&store, &oracle) > 0, "segment {n}");
    }
}

/// Copies leave no gap in the numbers, and where the segment ended stood in the header that is damaged as well. The index knows them.
#[test]
fn copies_at_the_end_of_a_segment_are_not_settled_away_when_nothing_says_that_it_ended_there() {
    let mut lab = Lab::new(1, tiers());
    let mut oracle = Oracle::new();
    for batch in baseline() {
        append(lab.store(), &batch).unwrap();
        oracle.apply(&batch).unwrap();
    }
    lab.write(30, 1);
    lab.disk.config.index_at_stop = true;
    lab.open();
    lab.store = None;
    let log = log(&lab.disk);
    let last = |piece: &Piece| *piece.frames.last().unwrap();
    let n = log.iter().position(|piece| last(piece).1.stream == STREAM).unwrap();
    flip(&lab.disk, log[n].file, last(&log[n]).0 + 60);
    flip(&lab.disk, log[n + 1].file, 30);
    lab.open();
    let newest = *oracle.lsns().last().unwrap();
    let is_whole = |lab: &Lab| image(lab.store(), VOLUME, newest) == oracle.image_at(VOLUME, newest);
    assert!(is_whole(&lab), "the index knows where all of it is");
    lab.clock.advance(Duration::from_secs(2000));
    lab.more(10, 1);
    assert!(lab.settle() > 0, "by what the index knows");
    assert!(is_whole(&lab), "settling left out what it did not see");
    lab.disk.index = MemoryIndex::new();
    lab.open();
    assert!(is_whole(&lab), "all of it is in settled history");
}

/// After an orderly stop the index leads to the very end, so nothing is walked: how the log ended is known from the index.
#[test]
fn the_last_segment_of_the_log_takes_no_other_with_it() {
    let mut lab = Lab::new(4, policy(1_000_000, &[], 0));
    lab.disk.config.index_at_stop = true;
    lab.open();
    lab.write(400, 1);
    lab.store = None;
    let last = log(&lab.disk).pop().unwrap();
    lab.disk.dir.remove(last.file).unwrap();
    lab.open();
    let readable = |lab: &Lab| {
        let readable = |lsn: &Lsn| {
            try_image(lab.store(), lab.volume(), *lsn)
                .is_ok_and(|i| i == lab.oracle.image_at(lab.volume(), *lsn))
        };
        lab.oracle.lsns().into_iter().filter(readable).count()
    };
    let before = readable(&lab);
    assert!(before > 0);
    for batch in
        [lab.workload.restart(10, Some(SyncCause::HopLost)), lab.workload.end_sync(), lab.workload.batch(3)]
    {
        lab.append(&batch);
    }
    for without_index in [false, false, true] {
        lab.store = None;
        if without_index {
            lab.disk.index = MemoryIndex::new();
        }
        lab.open();
        assert!(lab.store().status().damage.iter().any(|d| d.detail.contains("missing")));
        let left = readable(&lab);
        assert!(without_index || left > before, "{left}, and {before} at the first start");
        assert!(left * 2 > before, "{left}, and {before} at the first start");
    }
}

/// Whose store it is says the mark, then the settled history; never whichever file comes first.
#[test]
fn a_file_of_another_store_does_not_make_it_that_one() {
    let mut lab = Lab::new(5, tiers());
    lab.write(60, 5);
    lab.settle();
    lab.more(40, 1);
    let kept = lab.check(20).len();
    lab.store = None;
    let other = Lab::new(77, tiers());
    let foreign = other.disk.dir.list().unwrap()[0];
    let mut bytes = vec![0; other.disk.config.segment_len as usize];
    other.disk.dir.open(foreign).unwrap().read_at(0, &mut bytes).unwrap();
    let first = lab.disk.dir.list().unwrap().into_iter().min().unwrap();
    let before = lab.disk.dir.create(FileNo::new(first.get() - 1), bytes.len() as u64).unwrap();
    before.write_at(0, &[IoSlice::new(&bytes)]).unwrap();
    lab.disk.mark = Arc::default();
    lab.open();
    assert!(lab.store().catalogue().volume(lab.volume()).is_some());
    assert_eq!(lab.check(20).len(), kept);
}

/// A disk that somebody writes once, alone in the first segment of the log, where nothing is settled yet. No number shows the gap.
#[test]
fn the_first_segment_of_a_log_of_which_nothing_is_settled_is_missed() {
    let mut lab = Lab::new(3, policy(10, &[], 0));
    lab.disk = Disk { clock: Arc::clone(&lab.disk.clock), ..Disk::small() };
    lab.disk.config.index_at_stop = true;
    lab.open();
    let mut first = Workload::with_size(500, 256 * BLOCK_SIZE);
    let mut oracle = Oracle::new();
    for n in 0..30 {
        let batch = if n == 0 { first.restart(0, None) } else { first.batch(4) };
        append(lab.store(), &batch).unwrap();
        oracle.apply(&batch).unwrap();
    }
    assert_eq!(lab.store().status().segments, 1);
    // Without the mark another segment is begun.
    lab.store = None;
    lab.disk.mark = Arc::default();
    lab.open();
    lab.rule(MetaRecord::PolicySet { volume: None, policy: Some(policy(10, &[], 0)) });
    lab.clock.advance(Duration::from_secs(1000));
    lab.write(400, 1);
    lab.store = None;
    lab.disk.dir.remove(log(&lab.disk)[0].file).unwrap();
    lab.open();
    let newest = *oracle.lsns().last().unwrap();
    let wrong = |lab: &Lab| {
        try_image(lab.store(), first.volume(), newest)
            .is_ok_and(|i| i != oracle.image_at(first.volume(), newest))
    };
    assert!(!wrong(&lab));
    let mut outcomes = Vec::new();
    for _ in 0..5 {
        outcomes.push(lab.store().settle().map(drop).map_err(|e| e.to_string()));
        assert!(!wrong(&lab), "{outcomes:?}");
    }
    assert!(outcomes.iter().all(|o| o.as_ref().is_err_and(|e| e.contains("missing"))), "{outcomes:?}");
    // It may be put back, until somebody says that it is gone. Then each block that lay there is named, refused, and put right by
    // another store that has it, wherever it is by then.
    lab.store().acknowledge(lab.volume(), |_| true).unwrap();
    assert!(lab.settle() > 0 && !wrong(&lab));
    let blocks = |lab: &Lab| {
        let found = lab.store().findings(first.volume()).into_iter();
        found.filter(|f| f.kind == FindingKind::Block && f.over_at.is_none()).collect::<Vec<_>>()
    };
    assert!(!blocks(&lab).is_empty());
    assert!(try_image(lab.store(), first.volume(), newest).is_err());
    lab.open();
    assert!(try_image(lab.store(), first.volume(), newest).is_err());
    // What no point shows any more is over.
    lab.clock.advance(Duration::from_secs(1));
    lab.store().verify(Scope::default(), &mut |_| true).unwrap();
    for finding in blocks(&lab) {
        let block = BlockNo::holding(finding.extent.unwrap().offset());
        let shown = oracle.image_at(first.volume(), finding.points.unwrap().0);
        let content = &shown[block.offset() as usize..][..4096];
        let mut unit = Vec::new();
        tap_block::stored::pack(block, content, &mut unit);
        let of = (block, finding.position.unwrap());
        assert!(common::repair_one(lab.store(), first.volume(), of, &unit, Offered::Version).unwrap() > 0);
    }
    assert!(blocks(&lab).is_empty());
    // The run that named the volume lay there as well: without the index nobody would know its name and size.
    assert!(lab.store().wound(first.stream()).is_some(), "a copy of the disk is asked for");
    for batch in [first.restart(10, Some(SyncCause::HopLost)), first.end_sync(), first.batch(3)] {
        append(lab.store(), &batch).unwrap();
        oracle.apply(&batch).unwrap();
    }
    let newest = *oracle.lsns().last().unwrap();
    for _ in 0..2 {
        assert_eq!(lab.store().wound(first.stream()), None);
        let whole = try_image(lab.store(), first.volume(), newest).unwrap();
        assert!(whole == oracle.image_at(first.volume(), newest));
        lab.disk.index = MemoryIndex::new();
        lab.open();
    }
}

/// Backup tools copy what changed between two points, and nothing else.
#[test]
fn what_changed_in_a_segment_that_is_gone_is_told_by_the_index() {
    let mut disk = Disk::small();
    disk.config.index_at_stop = true;
    let mut workload = Workload::with_size(4, 4096 * BLOCK_SIZE);
    let store = disk.open();
    let (mut oracle, mut points) = (Oracle::new(), Vec::new());
    let mut put = |batch: &Batch| {
        append(&store, batch).unwrap();
        oracle.apply(batch).unwrap();
    };
    put(&workload.restart(0, None));
    while store.status().segments < 4 {
        let batch = workload.batch(8);
        put(&batch);
        points.push(batch.last_lsn().unwrap());
    }
    let (from, to) = (points[0], *points.last().unwrap());
    let whole = store.changed(workload.volume(), from, to).unwrap();
    drop(store);
    disk.dir.remove(log(&disk)[1].file).unwrap();
    let store = disk.open();
    let told = store.changed(workload.volume(), from, to).unwrap();
    let (before, after) = (oracle.image_at(workload.volume(), from), oracle.image_at(workload.volume(), to));
    for (n, (old, new)) in before.chunks(4096).zip(after.chunks(4096)).enumerate() {
        let block = Extent::between(n as u64 * BLOCK_SIZE, (n as u64 + 1) * BLOCK_SIZE);
        let is_told = |set: &ExtentSet| set.overlaps(block);
        assert!(old == new || is_told(&told), "block {n} changed");
        assert!(is_told(&whole) || !is_told(&told), "nobody wrote block {n}");
    }
}
