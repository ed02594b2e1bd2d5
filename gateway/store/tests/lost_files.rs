//! Files of the store that are gone, back again, another store's, or that cannot be read: nothing that is kept goes with them, what is
//! known of it stays, and all else goes on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::lab::{Lab, cut, fill, policy, tiers};
use common::segments::{listed, live, log, put_back, take_away};
use common::{append, image, try_image, unreadable};
use gateway_journal::{MetaRecord, RegionNo, SegmentId};
use gateway_store::{IndexOpener as _, MemoryIndex, Store};
use tap_block::{BLOCK_SIZE, Lsn, Marker, RunId, RunStart, StreamId, SyncCause, VolumeId, WallTime};
use tap_disk::{FileNo, SegmentDir};
use testbed_model::{BatchBuilder, Oracle, Random};

/// Points of the main volume that are exact; one that is wrong is a failure. And those that are refused.
fn points(lab: &Lab) -> (usize, Vec<Lsn>) {
    points_of(lab.store(), &lab.oracle, lab.volume())
}

fn points_of(store: &Store, oracle: &Oracle, volume: VolumeId) -> (usize, Vec<Lsn>) {
    let (mut sound, mut refused) = (0, Vec::new());
    let catalogue = store.catalogue();
    let Some(known) = catalogue.volume(volume) else { return (0, oracle.lsns()) };
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

/// kill -9: what is there goes on in a new segment.
fn crash(lab: &mut Lab) {
    lab.wait_for_index();
    let left = cut(&lab.disk, &mut Random::new(1));
    lab.store = None;
    lab.disk = left;
    lab.open();
}

fn settle_what_can_be(lab: &Lab) -> Vec<String> {
    let mut errors = Vec::new();
    for _ in 0..100 {
        match lab.store().settle() {
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(e) => {
                errors.push(e.to_string());
                break;
            }
        }
    }
    errors
}

/// "Put the segment back", says the error. The first of the log is thrown away when that is done, if a segment was begun meanwhile.
#[test]
fn the_first_segment_of_the_log_counts_when_it_is_put_back() {
    let mut lab = Lab::new(4, policy(1_000_000, &[], 0));
    lab.disk.config.index_at_stop = true;
    lab.open();
    lab.write(300, 1);
    lab.store = None;
    let away = take_away(&lab.disk, log(&lab.disk)[0].0);
    lab.open();
    let before = log(&lab.disk).len();
    while log(&lab.disk).len() < before + 1 {
        lab.more(10, 1);
    }
    lab.store = None;
    put_back(&lab.disk, &away);
    lab.open();
    let (sound, refused) = points(&lab);
    assert!(
        refused.is_empty(),
        "{sound} are there, {} are not: {:?}",
        refused.len(),
        lab.store().status().damage
    );
}

const STREAM: StreamId = StreamId::new(500);
const VOLUME: VolumeId = VolumeId::new(600);
const AT: WallTime = WallTime::from_nanos(1_700_000_000_000_000_000);

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

    fn begin(&mut self, lab: &Lab, blocks: u64, jump: u64, sync: Option<SyncCause>) {
        self.next = self.next.plus(jump);
        let (name, size) = ("copied".parse().unwrap(), blocks * BLOCK_SIZE);
        let previous = (self.next > Lsn::ZERO.next()).then_some(self.run);
        self.run = RunId::new(self.run.get() + 1);
        let start = RunStart { previous, durable: self.next.previous(), volume: VOLUME, name, size, sync };
        self.put(lab, |b| {
            b.mark(Marker::RunStart(start));
        });
    }

    fn write(&mut self, lab: &Lab, blocks: std::ops::Range<u64>) {
        let mut random = Random::new(blocks.start);
        for block in blocks {
            let mut data = vec![0; 4096];
            random.fill(&mut data);
            self.put(lab, |b| {
                b.write(block, &data);
            });
        }
    }

    fn newest(&self) -> Lsn {
        self.next.previous()
    }
}

/// A segment with nothing but zeroes is gone. The index knows it; settled, older content is served for it.
#[test]
fn a_segment_of_zeroes_that_is_gone_is_not_settled_past() {
    let mut lab = Lab::new(5, policy(10, &[], 0));
    lab.disk.config.index_at_stop = true;
    lab.disk.config.group_versions = 100_000;
    lab.disk.config.checkpoint_versions = 1_000_000;
    lab.open();
    let mut own = Own::new();
    own.begin(&lab, 64, 0, None);
    own.write(&lab, 0..64);
    crash(&mut lab);
    own.put(&lab, |b| {
        b.zero(0, 32);
    });
    crash(&mut lab);
    lab.write(100, 1);
    lab.store = None;
    lab.open();
    lab.store = None;
    let all = log(&lab.disk);
    let gone = all.iter().position(|(no, _)| {
        let (file, mut bytes) = (lab.disk.dir.open(*no).unwrap(), vec![0; 12288]);
        file.read_at(0, &mut bytes).unwrap();
        let header = gateway_journal::FrameHeader::decode(&bytes[4096..]);
        header.is_ok_and(|h| h.stream == STREAM && h.body == 0 && h.first_lsn == own.newest())
    });
    lab.disk.dir.remove(all[gone.unwrap()].0).unwrap();
    lab.open();
    let newest = own.newest();
    let expected = own.oracle.image_at(VOLUME, newest);
    assert!(image(lab.store(), VOLUME, newest) == expected, "the index knows all of it");
    lab.clock.advance(Duration::from_secs(2000));
    lab.more(30, 1);
    lab.store = None;
    lab.open();
    let errors = settle_what_can_be(&lab);
    let read = try_image(lab.store(), VOLUME, newest);
    assert!(read.as_ref().is_ok_and(|i| *i == expected), "served wrong: {}; {errors:?}", read.is_ok());
}

/// Of two neighbours that are gone only the second is named. The first one's units are not settled away when that holds none.
#[test]
fn of_two_neighbours_that_are_gone_neither_is_settled_past() {
    let mut lab = Lab::new(5, policy(10, &[], 0));
    lab.disk.config.index_at_stop = true;
    lab.disk.config.group_versions = 100_000;
    lab.disk.config.checkpoint_versions = 1_000_000;
    lab.open();
    let mut own = Own::new();
    own.begin(&lab, 64, 0, None);
    own.write(&lab, 0..64);
    crash(&mut lab);
    let before = log(&lab.disk).len();
    own.write(&lab, 7..40);
    crash(&mut lab);
    own.put(&lab, |b| {
        b.zero(50, 4);
    });
    crash(&mut lab);
    lab.write(100, 1);
    lab.store = None;
    lab.open();
    lab.store = None;
    let all = log(&lab.disk);
    for gone in &all[before..before + 2] {
        lab.disk.dir.remove(gone.0).unwrap();
    }
    lab.open();
    let newest = own.newest();
    let expected = own.oracle.image_at(VOLUME, newest);
    assert!(!try_image(lab.store(), VOLUME, newest).is_ok_and(|i| i != expected));
    lab.clock.advance(Duration::from_secs(2000));
    lab.more(30, 1);
    lab.store = None;
    lab.open();
    let errors = settle_what_can_be(&lab);
    let read = try_image(lab.store(), VOLUME, newest);
    assert!(!read.is_ok_and(|i| i != expected), "served wrong; {errors:?}");
}

/// So is one with nothing but a bookmark.
#[test]
fn a_segment_with_a_bookmark_that_is_gone_is_not_settled_past() {
    let mut lab = Lab::new(5, policy(10, &[], 1_000_000));
    lab.disk.config.index_at_stop = true;
    lab.disk.config.group_versions = 100_000;
    lab.disk.config.checkpoint_versions = 1_000_000;
    lab.open();
    let mut own = Own::new();
    own.begin(&lab, 64, 0, None);
    own.write(&lab, 0..64);
    crash(&mut lab);
    let bookmark = tap_block::Bookmark {
        name: "release".parse().unwrap(),
        consistency: tap_block::Consistency::Crash,
        note: String::new(),
    };
    own.put(&lab, |b| {
        b.mark(Marker::Bookmark(bookmark));
    });
    let named = own.newest();
    crash(&mut lab);
    own.write(&lab, 0..8);
    lab.write(100, 1);
    lab.store = None;
    let all = log(&lab.disk);
    let gone = all.iter().position(|(no, _)| {
        let (file, mut bytes) = (lab.disk.dir.open(*no).unwrap(), vec![0; 12288]);
        file.read_at(0, &mut bytes).unwrap();
        let header = gateway_journal::FrameHeader::decode(&bytes[4096..]);
        header.is_ok_and(|h| h.stream == STREAM && h.body == 0 && h.first_lsn == named)
    });
    lab.disk.dir.remove(all[gone.unwrap()].0).unwrap();
    lab.open();
    let sound = |lab: &Lab, lsn: Lsn| {
        lab.store().check_kept(VOLUME, lsn).is_ok()
            && try_image(lab.store(), VOLUME, lsn).is_ok_and(|i| i == own.oracle.image_at(VOLUME, lsn))
    };
    assert!(sound(&lab, named) && sound(&lab, own.newest()));
    lab.clock.advance(Duration::from_secs(2000));
    lab.more(30, 1);
    let errors = settle_what_can_be(&lab);
    assert!(
        sound(&lab, named) && sound(&lab, own.newest()),
        "{} {} {errors:?}",
        sound(&lab, named),
        sound(&lab, own.newest())
    );
}

/// One flipped bit in the header of a segment that a first copy runs through. Nothing is lost, and the index knows it.
#[test]
fn a_flipped_bit_in_a_header_costs_no_point_once_that_is_settled() {
    let mut lab = Lab::new(5, policy(10, &[], 0));
    lab.disk.config.index_at_stop = true;
    lab.open();
    let mut own = Own::new();
    let cause = SyncCause::Baseline;
    own.begin(&lab, 512, 0, Some(cause));
    let mut random = Random::new(3);
    for from in (0..512).step_by(8) {
        own.put(&lab, |b| {
            for block in from..from + 8 {
                let mut data = vec![0; 4096];
                random.fill(&mut data);
                b.copy(Lsn::ZERO.next(), block, &data);
            }
        });
    }
    own.put(&lab, |b| {
        b.mark(Marker::SyncEnd { cause, copied: 512 * BLOCK_SIZE, from_zero: false });
    });
    lab.write(30, 1);
    assert_flipped_header_costs_nothing(&mut lab, &own, 4);
}

/// The same of a volume that is quiet at the border and whose tap begins anew behind it.
#[test]
fn a_flipped_bit_in_a_header_makes_no_loss_of_the_jump_of_a_run() {
    let mut lab = Lab::new(5, policy(10, &[], 0));
    lab.disk.config.index_at_stop = true;
    lab.open();
    let mut own = Own::new();
    own.begin(&lab, 64, 0, None);
    own.write(&lab, 0..64);
    lab.write(300, 1);
    own.begin(&lab, 64, 1000, None);
    own.write(&lab, 0..4);
    lab.write(30, 1);
    assert_flipped_header_costs_nothing(&mut lab, &own, 3);
}

/// Flips a bit in the header of the third of more than `least` segments of the log: what was written last is there, before that
/// is settled and after it.
fn assert_flipped_header_costs_nothing(lab: &mut Lab, own: &Own, least: usize) {
    lab.store = None;
    let all = log(&lab.disk);
    assert!(all.len() > least);
    lab.disk.dir.corrupt(all[2].0, 30, |bytes| bytes[0] ^= 1);
    lab.open();
    let (newest, expected) = (own.newest(), own.oracle.image_at(VOLUME, own.newest()));
    assert!(image(lab.store(), VOLUME, newest) == expected, "the index knows all of it");
    lab.clock.advance(Duration::from_secs(2000));
    lab.more(30, 1);
    let errors = settle_what_can_be(lab);
    let read = try_image(lab.store(), VOLUME, newest);
    assert!(read == Ok(expected), "{:?}; {errors:?}; wound {:?}", read.err(), lab.store().wound(STREAM));
}

fn resync(lab: &mut Lab) {
    for batch in
        [lab.workload.restart(10, Some(SyncCause::HopLost)), lab.workload.end_sync(), lab.workload.batch(3)]
    {
        lab.append(&batch);
    }
    for (workload, oracle) in &mut lab.others {
        for batch in [workload.restart(10, Some(SyncCause::HopLost)), workload.end_sync(), workload.batch(3)]
        {
            append(lab.store.as_ref().unwrap(), &batch).unwrap();
            oracle.apply(&batch).unwrap();
        }
    }
}

/// One sector of settled history cannot be read any more. All else is settled and let go of as ever.
#[test]
fn a_sector_that_cannot_be_read_does_not_keep_a_full_store_from_getting_smaller() {
    let mut lab = Lab::new(8, policy(20, &[(200, 1_000_000)], 0));
    lab.disk.config.settle_reserve = 8;
    lab.disk.config = lab.disk.config.clone().limited(40 * (512 << 10));
    lab.open();
    lab.write(60, 5);
    lab.settle();
    lab.more(20, 8);
    lab.settle();
    let first = live(&lab.disk)[0].0;
    let bad = unreadable::open(&mut lab, &[(first, 8192..12_288)]);
    let taken = fill(&mut lab, 2000);
    let failing = lab.store().status().settle_failing;
    bad.store(false, Ordering::SeqCst);
    let then = fill(&mut lab, 200);
    assert_eq!((taken, then), (2000, 200), "{failing:?}");
}

/// The directory of segments is empty (not mounted, moved away). MARK, SETTLED and the index say that there was a store.
#[test]
fn a_store_all_of_whose_segments_are_gone_says_so_and_is_whole_when_they_are_back() {
    for writes in [false, true] {
        let mut lab = Lab::new(31, tiers());
        lab.write(60, 5);
        lab.settle();
        lab.more(20, 8);
        assert!(lab.settle() > 0);
        lab.more(40, 1);
        let (sound, _) = points(&lab);
        lab.store = None;
        let away: Vec<_> =
            lab.disk.dir.list().unwrap().into_iter().map(|no| take_away(&lab.disk, no)).collect();
        if let Ok(store) = lab.disk.try_open() {
            let named = store.findings(lab.volume());
            assert!(!named.is_empty() && store.catalogue().volume(lab.volume()).is_some());
            if writes {
                let batch = lab.workload.clone().restart(10, Some(SyncCause::HopLost));
                append(&store, &batch).unwrap();
            }
        }
        for file in &away {
            put_back(&lab.disk, file);
        }
        lab.open();
        let (now, refused) = points(&lab);
        assert!(
            now >= sound && refused.is_empty(),
            "writes {writes}: {now} of {sound}, {} refused; {:?}",
            refused.len(),
            lab.store().status().damage
        );
    }
}

/// Times of the log can be told although a settled segment, whose number lies between two of the log, is gone with the index.
#[test]
fn times_in_the_log_do_not_need_a_settled_segment() {
    let mut tried = 0;
    for seed in 60..70 {
        let mut lab = Lab::new(seed, tiers());
        lab.write(60, 5);
        lab.settle();
        lab.more(20, 8);
        lab.settle();
        lab.more(200, 1);
        lab.store = None;
        let ids: Vec<SegmentId> = log(&lab.disk).iter().map(|(_, h)| h.segment).collect();
        let between = |id: SegmentId| ids.iter().any(|l| *l < id) && ids.iter().any(|l| *l > id);
        let Some((no, id)) = live(&lab.disk).into_iter().find(|(_, id)| between(*id)) else { continue };
        lab.disk.dir.remove(no).unwrap();
        lab.disk.index.wipe().unwrap();
        lab.open();
        tried += 1;
        let stream = lab.workload.stream();
        let settled = lab.store().kept(lab.volume()).unwrap().settled;
        for lsn in lab.oracle.lsns().into_iter().filter(|l| *l > settled) {
            let time = lab.store().time_of(stream, lsn);
            assert_eq!(time, Ok(lab.oracle.time_of(lsn)), "{lsn}, {id} of {ids:?} is gone");
            let at = lab.store().lsn_at(stream, lab.oracle.time_of(lsn).unwrap());
            assert!(at.is_ok(), "{lsn} {at:?}");
        }
    }
    assert!(tried > 0);
}

/// Points behind the copy that made up for a loss stay readable when the index is built once more.
#[test]
fn points_behind_a_copy_stay_when_the_index_is_built_again() {
    let mut lab = Lab::new(61, tiers());
    lab.write(60, 5);
    lab.settle();
    lab.more(20, 8);
    lab.settle();
    lab.more(40, 1);
    lab.store = None;
    for (no, _) in live(&lab.disk) {
        lab.disk.dir.remove(no).unwrap();
    }
    lab.disk.index.wipe().unwrap();
    lab.open();
    resync(&mut lab);
    for _ in 0..3 {
        lab.more(30, 20);
        lab.settle();
    }
    lab.open();
    let before = points(&lab);
    lab.store = None;
    lab.disk.index.wipe().unwrap();
    lab.open();
    let after = points(&lab);
    assert_eq!(
        (after.0, after.1.len()),
        (before.0, before.1.len()),
        "wound {:?}",
        lab.store().wound(lab.workload.stream())
    );
}

/// A pin in a segment that is gone, and that the index knows, is not settled away.
#[test]
fn a_pin_in_a_segment_that_is_gone_is_not_settled_away() {
    let mut lab = Lab::new(5, policy(10, &[], 0));
    lab.disk.config.index_at_stop = true;
    lab.disk.config.group_versions = 100_000;
    lab.disk.config.checkpoint_versions = 1_000_000;
    lab.open();
    lab.write(100, 1);
    crash(&mut lab);
    let point = *lab.oracle.lsns().last().unwrap();
    lab.rule(MetaRecord::Pinned { volume: lab.volume(), point, note: "why".into() });
    crash(&mut lab);
    lab.more(60, 1);
    lab.store = None;
    let all = log(&lab.disk);
    let gone = all.iter().rposition(|(no, _)| {
        let (file, mut bytes) = (lab.disk.dir.open(*no).unwrap(), vec![0; 12288]);
        file.read_at(0, &mut bytes).unwrap();
        let header = gateway_journal::FrameHeader::decode(&bytes[4096..]);
        header.is_ok_and(|h| h.stream == gateway_journal::meta::OWN_STREAM && h.first_lsn.get() == 2)
    });
    let away = take_away(&lab.disk, all[gone.unwrap()].0);
    lab.open();
    let pinned = |lab: &Lab| lab.store().catalogue().rules().pinned(lab.volume()).contains(&point);
    assert!(pinned(&lab), "the index knows it");
    lab.clock.advance(Duration::from_secs(2000));
    lab.more(30, 1);
    let errors = settle_what_can_be(&lab);
    assert!(pinned(&lab));
    lab.store = None;
    put_back(&lab.disk, &away);
    lab.disk.index = MemoryIndex::new();
    lab.open();
    assert!(pinned(&lab), "{errors:?}; own loss {}", lab.store().has_own_loss());
}

/// A settled segment of another store, with a number that one of this store has, lies among the files.
#[test]
fn a_settled_segment_of_another_store_takes_the_place_of_none() {
    let aged = |seed| {
        let mut lab = Lab::new(seed, tiers());
        lab.write(60, 5);
        lab.settle();
        lab.more(20, 8);
        lab.settle();
        lab.more(40, 1);
        lab
    };
    let mut lab = aged(31);
    let before = points(&lab);
    lab.store = None;
    let ours = live(&lab.disk);
    let same = |id: SegmentId| ours.iter().any(|(_, of)| *of == id);
    let other = |seed| {
        let mut other = aged(seed);
        other.store = None;
        let (no, id) = live(&other.disk).into_iter().find(|(_, id)| same(*id))?;
        Some((other, no, id))
    };
    let (other, no, id) = (77..99).find_map(other).unwrap();
    put_back(&lab.disk, &take_away(&other.disk, no));
    lab.open();
    lab.more(10, 1);
    assert_eq!(
        points(&lab).1,
        [],
        "{id}; of {} before; {:?}",
        before.0,
        lab.store().findings(lab.volume()).len()
    );
}

/// History goes on, and most of what was settled is to be rewritten.
fn grow_old(lab: &mut Lab) {
    for _ in 0..6 {
        lab.more(30, 100);
        assert_eq!(settle_what_can_be(lab), Vec::<String>::new());
    }
}

/// Something of settled history is lost for good, for its index is gone as well, and no tap comes back to copy its disk. The regions
/// that it lay in stay as they are and are refused; all others are rewritten.
#[test]
fn regions_that_are_lost_keep_no_others_from_being_rewritten() {
    const REGIONS: u64 = 24;
    let mut lab = Lab::new(5, tiers());
    let (run, mut next, mut random) = (RunId::new(2), Lsn::ZERO.next(), Random::new(5));
    let mut put = |lab: &Lab, fill: &mut dyn FnMut(&mut BatchBuilder)| {
        let mut builder = BatchBuilder::new(STREAM, VOLUME, run, next, AT);
        fill(&mut builder);
        next = builder.next_lsn();
        append(lab.store(), &builder.build()).unwrap();
        next.previous()
    };
    let (name, size, durable) = ("wide".parse().unwrap(), REGIONS << 24, Lsn::ZERO);
    let start = RunStart { previous: None, durable, volume: VOLUME, name, size, sync: None };
    put(&lab, &mut |b| {
        b.mark(Marker::RunStart(start.clone()));
    });
    for block in (0..REGIONS).flat_map(|region| region * 4096..region * 4096 + 24) {
        let mut data = vec![0; 4096];
        random.fill(&mut data);
        put(&lab, &mut |b| {
            b.write(block, &data);
        });
    }
    let newest = put(&lab, &mut |b| {
        b.zero(1, 1);
    });
    lab.write(60, 1);
    lab.clock.advance(Duration::from_secs(200));
    lab.wait_for_index();
    assert!(lab.settle() > 0);
    lab.store = None;
    let before = listed(&lab.disk);
    assert!(before.len() > 3, "{before:?}");
    let gone = before[before.len() / 2];
    let of_gone = |(_, id): &(FileNo, SegmentId)| *id == gone;
    let (no, _) = live(&lab.disk).into_iter().find(of_gone).unwrap();
    lab.disk.dir.remove(no).unwrap();
    lab.disk.index.wipe().unwrap();
    lab.open();
    let refused = |lab: &Lab| {
        let regions = (0..REGIONS as u32).map(RegionNo::new);
        regions.filter(|region| lab.store().region_map(VOLUME, *region, newest).is_err()).count()
    };
    let lost = refused(&lab);
    assert!(0 < lost && lost < REGIONS as usize / 2, "{lost}");
    grow_old(&mut lab);
    let now = listed(&lab.disk);
    assert!(now.contains(&gone), "{now:?}");
    assert!(before.iter().filter(|id| now.contains(id)).count() <= 3, "{before:?}, {now:?}");
    assert_eq!(refused(&lab), lost);
    // However often the index is built.
    lab.store = None;
    lab.disk.index.wipe().unwrap();
    lab.open();
    assert_eq!(refused(&lab), lost);
}

#[test]
fn a_segment_of_the_log_that_is_gone_is_given_up_by_who_has_read_of_it_and_nobody_else() {
    let mut lab = Lab::new(5, policy(10, &[], 0));
    lab.disk.config.index_at_stop = true;
    lab.open();
    lab.write(600, 1);
    lab.store = None;
    lab.disk.dir.remove(log(&lab.disk)[2].0).unwrap();
    lab.open();
    lab.clock.advance(Duration::from_secs(2000));
    lab.more(30, 1);
    for _ in 0..2 {
        let waits = settle_what_can_be(&lab);
        assert!(waits.iter().any(|why| why.contains("--acknowledge")), "{waits:?}");
        lab.store().acknowledge(lab.volume(), |_| false).unwrap();
    }
    lab.store().acknowledge(lab.volume(), |_| true).unwrap();
    assert_eq!(settle_what_can_be(&lab), Vec::<String>::new());
    points(&lab);
}
