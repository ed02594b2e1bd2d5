//! Files of which a sector cannot be read, that are there twice, or that nobody misses: what is left of them counts, what was lost is
//! said, and nothing is said to be lost that is not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use std::sync::Arc;

use common::lab::{Lab, policy, tiers};
use common::segments::{content, log, settled, write_new};
use common::{Disk, append, image, try_image, unreadable};
use gateway_journal::{Manifest, SETTLED_FRAME, SettledFrame, SettledHeader};
use gateway_store::{FindingKind, IndexOpener as _, MarkStore as _, Scope, Store};
use tap_block::{BLOCK_SIZE, Lsn, Marker, RunId, RunStart, StreamId, SyncCause, VolumeId, WallTime};
use tap_disk::{FileNo, SegmentDir};
use testbed_model::{BatchBuilder, Oracle, Random};

/// A file with this content; before all others, or behind them.
fn add(disk: &Disk, bytes: &[u8], first: bool) -> FileNo {
    let all = disk.dir.list().unwrap();
    let (lowest, highest) = (all.iter().min().unwrap().get(), all.iter().max().unwrap().get());
    let no = FileNo::new(if first { lowest - 1 } else { highest + 1 });
    write_new(disk, no, bytes);
    no
}

/// The lowest number is free for another file.
fn move_up(disk: &Disk) {
    let lowest = disk.dir.list().unwrap().into_iter().min().unwrap();
    add(disk, &content(disk, lowest), false);
    disk.dir.remove(lowest).unwrap();
}

fn manifest(disk: &Disk) -> Manifest {
    Manifest::unseal(&disk.manifest.load().unwrap()).unwrap()
}

/// Settled segments that the manifest lists.
fn listed(disk: &Disk) -> Vec<(FileNo, SettledHeader)> {
    let manifest = manifest(disk);
    let listed: Vec<_> = manifest.generations.iter().flat_map(|g| &g.segments).map(|s| s.segment).collect();
    settled(disk).into_iter().filter(|(_, header)| listed.contains(&header.segment)).collect()
}

/// Points of a volume that are exact; one that is wrong is a failure. And those that are refused.
fn points(store: &Store, oracle: &Oracle, volume: VolumeId) -> (usize, Vec<Lsn>) {
    let (mut sound, mut refused) = (0, Vec::new());
    let catalogue = store.catalogue();
    let known = catalogue.volume(volume).unwrap();
    for lsn in oracle.lsns() {
        if known.selectable(lsn).is_err() || store.check_kept(volume, lsn).is_err() {
            continue;
        }
        match try_image(store, volume, lsn) {
            Ok(image) => {
                assert!(image == oracle.image_at(volume, lsn), "{lsn} is wrong and served");
                sound += 1;
            }
            Err(_) => refused.push(lsn),
        }
    }
    (sound, refused)
}

fn all_points(lab: &Lab) -> Vec<(usize, Vec<Lsn>)> {
    let main = points(lab.store(), &lab.oracle, lab.volume());
    let others = lab.others.iter().map(|(workload, oracle)| points(lab.store(), oracle, workload.volume()));
    std::iter::once(main).chain(others).collect()
}

/// A store with some settled history, closed.
fn aged(seed: u64) -> Lab {
    let mut lab = Lab::new(seed, tiers());
    lab.write(60, 5);
    lab.settle();
    lab.more(20, 8);
    assert!(lab.settle() > 0);
    lab.more(40, 1);
    lab
}

/// Where the frames of a settled segment begin.
fn frames(bytes: &[u8], end: u32) -> Vec<u32> {
    let (mut at, mut found) = (4096, Vec::new());
    while at < end {
        found.push(at);
        at += SettledFrame::decode(&bytes[at as usize..at as usize + SETTLED_FRAME]).unwrap().span;
    }
    found
}

/// One sector of a settled segment cannot be read, and the index has to be built again. All of the segment's frames that lie elsewhere
/// are found.
#[test]
fn what_lies_behind_a_sector_that_cannot_be_read_is_found_again() {
    let mut lab = aged(31);
    lab.store = None;
    // A frame whose head lies in one sector, with others behind that.
    let found = listed(&lab.disk).into_iter().find_map(|(no, header)| {
        let at = frames(&content(&lab.disk, no), header.end);
        let n = (0..at.len().checked_sub(2)?).find(|n| at[n + 1] > (at[*n] | 4095) + 1)?;
        Some((no, header, at[n], at[n + 1]))
    });
    let (no, header, bad, next) = found.unwrap();
    lab.disk.index.wipe().unwrap();
    let sector = u64::from(bad & !4095);
    unreadable::open(&mut lab, &[(no, sector..sector + 4096)]);
    let damage = lab.store().status().damage;
    let here: Vec<_> = damage.iter().filter(|d| d.segment == header.segment).collect();
    assert!(here.iter().any(|d| d.to == next), "it goes on at {next} of {}: {here:?}", header.end);
    let findings = lab.store().verify(Scope::default(), &mut |_| true).unwrap().findings;
    let here = findings.iter().filter(|f| f.segment == header.segment && f.kind == FindingKind::Frame);
    assert!(
        here.clone().any(|f| f.to == next) && here.clone().all(|f| f.to <= next),
        "{:?}",
        here.collect::<Vec<_>>()
    );
    let read: usize = all_points(&lab).iter().map(|(sound, _)| sound).sum();
    assert!(read > 0, "what lies elsewhere is read");
}

/// A copy of a settled segment's file that was cut off lies beside the whole one, before it or behind it.
#[test]
fn of_two_files_of_a_settled_segment_the_whole_one_counts() {
    for (first, zeroed, wiped) in
        [(true, false, true), (false, false, true), (false, true, false), (true, true, true)]
    {
        let mut lab = aged(31);
        let before = all_points(&lab);
        lab.store = None;
        move_up(&lab.disk);
        let (no, header) = *listed(&lab.disk).iter().max_by_key(|(_, h)| h.end).unwrap();
        let mut part = content(&lab.disk, no);
        let half = header.end as usize / 2;
        if zeroed {
            part[half..].fill(0);
        } else {
            part.truncate(half);
        }
        let copy = add(&lab.disk, &part, first);
        if wiped {
            lab.disk.index.wipe().unwrap();
        }
        lab.open();
        assert_eq!(all_points(&lab), before, "first {first}, zeroed {zeroed}, wiped {wiped}");
        // The copy holds nothing of its own: its file is used again.
        lab.more(40, 1);
        lab.store = None;
        let whole = settled(&lab.disk).into_iter().filter(|(_, h)| h.segment == header.segment);
        assert!(whole.map(|(no, _)| no).filter(|no| *no != copy).count() == 1, "the whole one is there");
    }
}

/// Of two files that each hold something the other does not, one counts, and neither is thrown away.
#[test]
fn a_file_that_may_hold_what_the_other_does_not_is_left_alone() {
    let mut lab = aged(31);
    lab.store = None;
    let (no, header) = *listed(&lab.disk).iter().max_by_key(|(_, h)| h.end).unwrap();
    let whole = content(&lab.disk, no);
    let mut front = whole.clone();
    front[header.end as usize / 2..].fill(0);
    // Its last bytes are lost here, which the other has none of.
    lab.disk.dir.corrupt(no, 4096, |bytes| bytes[..4096].fill(0));
    let copy = add(&lab.disk, &front, false);
    lab.open();
    lab.more(200, 1);
    lab.store = None;
    assert_eq!(content(&lab.disk, copy), front);
    assert_eq!(content(&lab.disk, no)[8192..header.end as usize], whole[8192..header.end as usize]);
}

/// The same of a segment of the log: an older copy of the file lies beside it, before it or behind it.
#[test]
fn of_two_files_of_a_segment_of_the_log_the_longer_counts() {
    for first in [true, false] {
        for last in [true, false] {
            let mut lab = Lab::new(7, policy(1_000_000, &[], 0));
            lab.write(300, 1);
            let before = all_points(&lab);
            lab.store = None;
            move_up(&lab.disk);
            let all = log(&lab.disk);
            let (no, header) = if last { all[all.len() - 1] } else { all[1] };
            let mut part = content(&lab.disk, no);
            let half = part.iter().rposition(|byte| *byte != 0).unwrap() / 2;
            part[half..].fill(0);
            add(&lab.disk, &part, first);
            lab.disk.index.wipe().unwrap();
            lab.open();
            assert_eq!(all_points(&lab), before, "first {first}, the last {last}: {}", header.segment);
        }
    }
}

const STREAM: StreamId = StreamId::new(500);
const VOLUME: VolumeId = VolumeId::new(600);
const AT: WallTime = WallTime::from_nanos(1_700_000_000_000_000_000);

/// A disk of a few blocks, written by hand.
struct Own {
    run: RunId,
    next: Lsn,
    oracle: Oracle,
}

impl Own {
    fn new() -> Self {
        Self { run: RunId::new(1), next: Lsn::ZERO.next(), oracle: Oracle::new() }
    }

    fn put(&mut self, lab: &Lab, fill: impl FnOnce(&mut BatchBuilder)) {
        let mut builder = BatchBuilder::new(STREAM, VOLUME, self.run, self.next, AT);
        fill(&mut builder);
        self.next = builder.next_lsn();
        let batch = builder.build();
        append(lab.store(), &batch).unwrap();
        self.oracle.apply(&batch).unwrap();
    }

    fn begin(&mut self, lab: &Lab, blocks: u64, previous: Option<RunId>, sync: Option<SyncCause>) {
        let (name, size) = ("copied".parse().unwrap(), blocks * BLOCK_SIZE);
        self.run = RunId::new(self.run.get() + 1);
        let start = RunStart { previous, durable: Lsn::ZERO, volume: VOLUME, name, size, sync };
        self.put(lab, |b| {
            b.mark(Marker::RunStart(start));
        });
    }

    fn copy(&mut self, lab: &Lab, blocks: std::ops::Range<u64>) {
        let (mut random, as_of) = (Random::new(blocks.start + 1), self.next.previous());
        self.put(lab, |b| {
            for block in blocks {
                let mut data = vec![0; 4096];
                random.fill(&mut data);
                b.copy(as_of, block, &data);
            }
        });
    }

    fn end_sync(&mut self, lab: &Lab, blocks: u64) {
        let cause = SyncCause::Baseline;
        self.put(lab, |b| {
            b.mark(Marker::SyncEnd { cause, copied: blocks * BLOCK_SIZE, from_zero: false });
        });
    }

    fn newest(&self) -> Lsn {
        self.next.previous()
    }
}

/// One flipped bit in the header of a segment that a first copy runs through, and behind which a quiet volume's tap begins anew: nothing
/// is lost, and verification says nothing else.
#[test]
fn verification_makes_no_loss_of_a_damaged_header() {
    let mut lab = Lab::new(5, policy(1_000_000, &[], 0));
    lab.disk.config.index_at_stop = true;
    lab.open();
    let mut own = Own::new();
    own.begin(&lab, 512, None, Some(SyncCause::Baseline));
    for from in (0..512).step_by(8) {
        own.copy(&lab, from..from + 8);
    }
    own.end_sync(&lab, 512);
    lab.write(60, 1);
    lab.store = None;
    let all = log(&lab.disk);
    assert!(all.len() > 3);
    lab.disk.dir.corrupt(all[2].0, 30, |bytes| bytes[0] ^= 1);
    lab.open();
    let (newest, expected) = (own.newest(), own.oracle.image_at(VOLUME, own.newest()));
    assert!(image(lab.store(), VOLUME, newest) == expected, "the index knows all of it");
    let findings = lab.store().verify(Scope::default(), &mut |_| true).unwrap().findings;
    assert!(findings.iter().any(|f| f.kind == FindingKind::Header), "{findings:?}");
    let lost: Vec<_> = findings.iter().filter(|f| f.volume.is_some()).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

/// What is really lost is told as before, behind a damaged header as well.
#[test]
fn verification_tells_a_loss_behind_a_damaged_header() {
    let mut lab = Lab::new(5, policy(1_000_000, &[], 0));
    lab.disk.config.index_at_stop = true;
    lab.open();
    lab.write(300, 1);
    lab.more(200, 1);
    lab.store = None;
    let all = log(&lab.disk);
    assert!(all.len() > 3);
    lab.disk.dir.corrupt(all[1].0, 30, |bytes| bytes[0] ^= 1);
    lab.open();
    // A frame in the middle of a segment, behind the back of the index.
    lab.disk.dir.corrupt(all[2].0, 4096, |bytes| bytes[0] ^= 1);
    let findings = lab.store().verify(Scope::default(), &mut |_| true).unwrap().findings;
    assert!(findings.iter().any(|f| f.volume == Some(lab.volume())), "{findings:?}");
}

/// The segment that holds nothing but the manifest is gone: that is said, until the next settle has written it anew.
#[test]
fn a_segment_that_holds_only_the_manifest_is_missed() {
    let alone = |lab: &Lab| {
        let (manifest, listed) = (manifest(&lab.disk), listed(&lab.disk));
        let home =
            settled(&lab.disk).into_iter().find(|(_, h)| h.settle == manifest.settle && h.manifest.is_some());
        home.filter(|(_, home)| !listed.iter().any(|(_, l)| l.segment == home.segment))
    };
    let found = (0..60).find_map(|seed| {
        let mut lab = Lab::new(seed, policy(50, &[(20, 1_000_000)], 0));
        lab.disk.config.segment_len = 192 << 10;
        lab.open();
        lab.write(30, 1);
        for _ in 0..6 {
            lab.more(30, 6);
            lab.settle();
            if let Some((no, _)) = alone(&lab) {
                return Some((lab, no));
            }
        }
        None
    });
    let (mut lab, no) = found.expect("one whose last segment had no room for it");
    let before = all_points(&lab);
    lab.store = None;
    lab.disk.dir.remove(no).unwrap();
    lab.open();
    assert_eq!(all_points(&lab), before, "its copy says all of it");
    let open = |lab: &Lab| {
        let findings = lab.store().findings(lab.volume());
        findings.into_iter().filter(|f| f.kind == FindingKind::Manifest && f.over_at.is_none()).count()
    };
    assert_eq!(open(&lab), 1, "nobody misses it");
    assert_eq!(lab.store().verify(Scope::default(), &mut |_| true).unwrap().findings.len(), 1);
    assert!(lab.settle() > 0, "it is written anew, though nothing else is to be done");
    assert_eq!(open(&lab), 0);
    assert!(lab.store().verify(Scope::default(), &mut |_| true).unwrap().findings.is_empty());
    lab.disk.manifest = Arc::default();
    lab.open();
    assert_eq!(all_points(&lab), before, "a segment says it again");
}

/// A log that ends in damage, of which no stream has shown yet whether it lost something.
fn suspecting(seed: u64) -> Lab {
    let mut lab = Lab::new(seed, policy(1_000_000, &[], 0));
    lab.write(300, 1);
    lab.store = None;
    let all = log(&lab.disk);
    lab.disk.dir.corrupt(all[1].0, 4096, |bytes| bytes[0] ^= 1);
    lab.disk.index.wipe().unwrap();
    lab.open();
    lab
}

/// A stream is new here that is older elsewhere, while nobody knows what damage has cost: its first copy makes it whole.
#[test]
fn a_stream_that_begins_late_while_a_loss_is_suspected_is_whole_behind_its_first_copy() {
    for previous in [None, Some(RunId::new(77))] {
        let lab = suspecting(9);
        let mut own = Own::new();
        own.next = own.next.plus(1000);
        own.begin(&lab, 64, previous, Some(SyncCause::Baseline));
        own.copy(&lab, 0..64);
        own.end_sync(&lab, 64);
        let (newest, expected) = (own.newest(), own.oracle.image_at(VOLUME, own.newest()));
        assert_eq!(lab.store().wound(STREAM), None, "{previous:?}");
        assert!(try_image(lab.store(), VOLUME, newest) == Ok(expected), "{previous:?}");
    }
}
