//! Several troubles at once and one after the other: files that are gone and come back, bits that flip, kills, an index that is built
//! again, rules that change, and history that is settled meanwhile. What is served is what was written, and nothing stands still.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;
mod life;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::lab::{Lab, cut, policy, tiers};
use common::segments::{Away, Frame, frames, log, put_back, settled, take_away};
use common::steps::{Steps, parts};
use common::{Disk, append, seeds, try_image, unreadable};
use gateway_journal::MetaRecord;
use gateway_store::{IndexOpener as _, Store};
use life::{Life, crash, exact, settle};
use tap_block::{
    BLOCK_SIZE, Bookmark, Consistency, Lsn, Marker, RunId, RunStart, StreamId, SyncCause, VolumeId, WallTime,
};
use tap_disk::{FileNo, SegmentDir};
use testbed_model::{BatchBuilder, Oracle, Random, Workload};

/// Whatever happens, a point is exact or refused.
#[test]
fn a_life_full_of_troubles_shows_nothing_that_was_not() {
    let (mut served, mut refused, mut closed) = (0, 0, 0);
    for seed in seeds(8) {
        let mut life = Life::new(seed);
        life.say(format!("seed {seed}"));
        match life.live() {
            Ok((s, r)) => (served, refused) = (served + s, refused + r),
            Err(why) => {
                closed += 1;
                println!("{why}: {:#?}", life.said);
            }
        }
    }
    println!("served {served}, refused {refused}, not opened {closed}");
    assert!(served > refused && closed == 0, "served {served}, refused {refused}, not opened {closed}");
}

fn settled_files(disk: &Disk) -> Vec<FileNo> {
    settled(disk).into_iter().map(|(no, _)| no).collect()
}

fn all_of(lab: &Lab) -> (usize, Vec<Lsn>) {
    exact(lab.store(), &lab.oracle, lab.volume(), (0, 1), "")
}

/// The header of the second names the first, and is gone with it. Who gives them up has history settled on.
#[test]
fn neighbours_of_which_no_header_names_one_are_settled_past_once_they_are_given_up() {
    let mut lab = Lab::new(5, policy(10, &[], 0));
    lab.disk.config.index_at_stop = true;
    lab.open();
    lab.write(600, 1);
    lab.store = None;
    let all = log(&lab.disk);
    assert!(all.len() > 4, "{}", all.len());
    all[1..3].iter().for_each(|(no, _)| lab.disk.dir.remove(*no).unwrap());
    lab.open();
    lab.clock.advance(Duration::from_secs(2000));
    lab.more(30, 1);
    let waits = settle(lab.store());
    assert!(waits.as_ref().is_err_and(|why| why.contains("--acknowledge")), "{waits:?}");
    lab.store().acknowledge(lab.volume(), |_| true).unwrap();
    let done = settle(lab.store());
    assert!(done.as_ref().is_ok_and(|passes| *passes > 0), "{done:?}");
    assert_eq!(lab.store().status().settle_failing, None);
    all_of(&lab);
}

/// Records behind the index are lost with a segment, and the index goes on without them. They count again once it is back.
#[test]
fn a_segment_of_the_log_counts_when_it_is_put_back_after_the_index_has_gone_on() {
    let mut lab = Lab::new(6, policy(1_000_000, &[], 0));
    lab.disk.config.group_versions = 100_000;
    lab.open();
    lab.write(500, 1);
    let (before, refused) = all_of(&lab);
    assert!(refused.is_empty());
    lab.store = None;
    assert!(log(&lab.disk).len() > 2);
    let away = take_away(&lab.disk, log(&lab.disk)[1].0);
    lab.disk.config.index_at_stop = true;
    lab.open();
    lab.more(20, 1);
    assert!(!all_of(&lab).1.is_empty());
    lab.open();
    lab.more(20, 1);
    lab.store = None;
    put_back(&lab.disk, &away);
    for _ in 0..2 {
        lab.open();
        let (sound, refused) = all_of(&lab);
        assert!(sound > before && refused.is_empty(), "{sound} of {before}, {} are refused", refused.len());
        assert_eq!(lab.store().wound(lab.workload.stream()), None);
    }
}

/// The same of settled history: the index is built again while a segment of it is away, or while something stands in for it.
#[test]
fn a_settled_segment_counts_when_it_is_put_back_after_the_index_was_built_without_it() {
    for stands_in in [false, true] {
        let mut lab = Lab::new(31, tiers());
        lab.disk.config.index_at_stop = true;
        lab.open();
        lab.write(60, 5);
        lab.settle();
        lab.more(20, 8);
        assert!(lab.settle() > 0);
        lab.more(40, 1);
        let (before, _) = all_of(&lab);
        lab.store = None;
        let away: Vec<Away> =
            settled_files(&lab.disk).into_iter().map(|no| take_away(&lab.disk, no)).collect();
        if stands_in {
            lab.open();
            lab.store = None;
        }
        lab.disk.index.wipe().unwrap();
        for _ in 0..2 {
            lab.open();
            lab.more(20, 1);
            assert!(!all_of(&lab).1.is_empty());
        }
        lab.store = None;
        away.iter().for_each(|away| put_back(&lab.disk, away));
        lab.open();
        let (sound, refused) = all_of(&lab);
        assert!(sound > before && refused.is_empty(), "{sound} of {before}, {} are refused", refused.len());
        lab.settle();
        lab.open();
        assert_eq!(all_of(&lab).1, []);
    }
}

/// What waits for the index is brought in when the store is opened, and that comes past what is damaged.
#[test]
fn an_index_that_is_found_damaged_while_the_store_is_opened_is_built_again_at_once() {
    let mut lab = Lab::new(9, tiers());
    lab.disk.config.max_groups = 100;
    lab.open();
    lab.write(60, 5);
    lab.disk.index.fail(true);
    for _ in 0..12 {
        let batch = lab.workload.batch(8);
        lab.append(&batch);
    }
    lab.store = None;
    lab.disk.index.fail(false);
    lab.disk.index.rot();
    let opened = lab.disk.try_open();
    assert!(opened.is_ok(), "{:?}", opened.err());
    lab.store = opened.ok();
    let (sound, refused) = all_of(&lab);
    assert!(sound > 100 && refused.is_empty());
}

/// A file of which nothing can be read when the store is opened is no empty one: it is not written over.
#[test]
fn a_file_that_cannot_be_read_at_a_start_is_whole_at_the_next() {
    for settled in [false, true] {
        let mut lab = Lab::new(31, tiers());
        lab.disk.config.index_at_stop = true;
        lab.open();
        lab.write(60, 5);
        lab.settle();
        lab.more(20, 8);
        assert!(lab.settle() > 0);
        lab.more(80, 1);
        let (before, _) = all_of(&lab);
        lab.store = None;
        let files = match settled {
            true => settled_files(&lab.disk),
            false => vec![log(&lab.disk)[1].0],
        };
        let places: Vec<_> = files.into_iter().map(|no| (no, 0..u64::MAX)).collect();
        unreadable::open(&mut lab, &places);
        // Whatever lies ready is used.
        lab.more(200, 1);
        lab.open();
        let (sound, refused) = all_of(&lab);
        assert!(sound > before && refused.is_empty(), "{sound} of {before}, {} are refused", refused.len());
    }
}

const STREAM: StreamId = StreamId::new(500);
const VOLUME: VolumeId = VolumeId::new(600);

/// A tap whose records are told one by one.
struct Own {
    run: RunId,
    next: Lsn,
    oracle: Oracle,
}

impl Own {
    fn new() -> Self {
        Self { run: RunId::new(1), next: Lsn::ZERO.next(), oracle: Oracle::new() }
    }

    fn put(&mut self, lab: &Lab, fill: impl FnOnce(&mut BatchBuilder)) -> Lsn {
        let at = WallTime::from_nanos(1_700_000_000_000_000_000);
        let mut builder = BatchBuilder::new(STREAM, VOLUME, self.run, self.next, at);
        fill(&mut builder);
        self.next = builder.next_lsn();
        let batch = builder.build();
        append(lab.store(), &batch).unwrap();
        self.oracle.apply(&batch).unwrap();
        self.next.previous()
    }

    fn begin(&mut self, lab: &Lab, blocks: u64, jump: u64) {
        self.next = self.next.plus(jump);
        let (name, size) = ("own".parse().unwrap(), blocks * BLOCK_SIZE);
        let previous = (self.next > Lsn::ZERO.next()).then_some(self.run);
        self.run = RunId::new(self.run.get() + 1);
        let durable = self.next.previous();
        let start = RunStart { previous, durable, volume: VOLUME, name, size, sync: None };
        self.put(lab, |b| {
            b.mark(Marker::RunStart(start));
        });
    }

    fn write(&mut self, lab: &Lab, blocks: std::ops::Range<u64>) -> Lsn {
        let mut random = Random::new(self.next.get());
        for block in blocks {
            let mut data = vec![0; 4096];
            random.fill(&mut data);
            self.put(lab, |b| {
                b.write(block, &data);
            });
        }
        self.next.previous()
    }

    fn bookmark(&mut self, lab: &Lab, name: &str) -> Lsn {
        let mark =
            Bookmark { name: name.parse().unwrap(), consistency: Consistency::Crash, note: String::new() };
        self.put(lab, |b| {
            b.mark(Marker::Bookmark(mark));
        })
    }

    fn exact(&self, lab: &Lab) -> (usize, Vec<Lsn>) {
        exact(lab.store(), &self.oracle, VOLUME, (0, 1), "own")
    }
}

/// Frames of a stream.
fn frames_of(disk: &Disk, stream: StreamId) -> Vec<Frame> {
    let mut frames = frames(disk);
    frames.retain(|(.., frame)| frame.stream == stream);
    frames
}

fn flip(disk: &Disk, (no, at, _): &Frame) {
    disk.dir.corrupt(*no, at + 60, |bytes| bytes[0] ^= 1);
}

/// Flips a bit in the head of every frame of the own stream whose first record is in the range.
fn flip_frames(disk: &Disk, lsns: std::ops::RangeInclusive<Lsn>) -> usize {
    let mut frames = frames_of(disk, STREAM);
    frames.retain(|(.., frame)| lsns.contains(&frame.first_lsn));
    frames.iter().for_each(|frame| flip(disk, frame));
    frames.len()
}

fn own_lab() -> Lab {
    let mut lab = Lab::new(5, policy(10, &[], 1_000_000));
    lab.disk.config.index_at_stop = true;
    lab.disk.config.group_versions = 100_000;
    lab.disk.config.checkpoint_versions = 1_000_000;
    lab.open();
    lab.write(10, 1);
    lab
}

/// Every frame of one run of a tap is lost, and the index knows all of it. The next run explains the jump.
#[test]
fn a_run_that_is_lost_as_a_whole_keeps_its_points_and_its_size() {
    let (mut lab, mut own) = (own_lab(), Own::new());
    own.begin(&lab, 64, 0);
    own.write(&lab, 0..8);
    let first = own.next.plus(1000);
    own.begin(&lab, 128, 1000);
    let pinned = own.write(&lab, 4..12);
    let named = own.bookmark(&lab, "release");
    let last = own.write(&lab, 60..70);
    own.begin(&lab, 96, 1000);
    own.write(&lab, 6..9);
    lab.rule(MetaRecord::Pinned { volume: VOLUME, point: pinned, note: String::new() });
    lab.more(10, 1);
    lab.store = None;
    assert!(flip_frames(&lab.disk, first..=last) > 15);
    lab.open();
    lab.clock.advance(Duration::from_secs(2000));
    lab.more(30, 1);
    assert!(settle(lab.store()).unwrap() > 0);
    for _ in 0..2 {
        let (sound, refused) = own.exact(&lab);
        assert!(sound >= 3 && refused.is_empty(), "{sound}, {refused:?}");
        for point in [pinned, named, own.next.previous()] {
            assert!(lab.store().check_kept(VOLUME, point).is_ok(), "{point}");
            let image = try_image(lab.store(), VOLUME, point);
            assert!(image.is_ok_and(|image| image == own.oracle.image_at(VOLUME, point)), "{point}");
        }
        let catalogue = lab.store().catalogue();
        assert!(catalogue.volume(VOLUME).unwrap().bookmark_named(&"release".parse().unwrap()).is_some());
        lab.store = None;
        lab.disk.index.wipe().unwrap();
        lab.open();
    }
}

/// A segment is lost before the index knows it; then the frame before it rots. Once that is settled past, points behind the loss are
/// refused as before, whatever becomes of the index.
#[test]
fn what_was_lost_behind_records_that_are_filled_in_stays_lost() {
    let (mut lab, mut own) = (own_lab(), Own::new());
    lab.disk.config.index_at_stop = false;
    lab.open();
    own.begin(&lab, 64, 0);
    own.write(&lab, 0..8);
    let rots = own.next;
    own.write(&lab, 8..9);
    crash(&mut lab, &mut Random::new(1));
    lab.open();
    let gone = log(&lab.disk).len();
    own.write(&lab, 4..12);
    crash(&mut lab, &mut Random::new(2));
    lab.open();
    own.begin(&lab, 64, 1000);
    own.write(&lab, 20..22);
    lab.store = None;
    lab.disk.dir.remove(log(&lab.disk)[gone].0).unwrap();
    lab.disk.config.index_at_stop = true;
    lab.open();
    let newest = own.next.previous();
    assert!(try_image(lab.store(), VOLUME, newest).is_err());
    lab.more(10, 1);
    lab.store = None;
    assert_eq!(flip_frames(&lab.disk, rots..=rots), 1);
    lab.open();
    lab.clock.advance(Duration::from_secs(2000));
    lab.more(30, 1);
    lab.store().acknowledge(lab.volume(), |_| true).unwrap();
    assert!(settle(lab.store()).unwrap() > 0);
    for _ in 0..2 {
        own.exact(&lab);
        assert!(try_image(lab.store(), VOLUME, newest).is_err());
        lab.store = None;
        lab.disk.index.wipe().unwrap();
        lab.open();
    }
}

/// A store of few segments that is full, whose steps are counted.
fn full(seed: u64, steps: &Arc<Steps>) -> Lab {
    let mut lab = Lab::new(seed, policy(1_000_000, &[(200, 2_000_000)], 1_000_000));
    lab.disk.config.settle_reserve = 8;
    lab.disk.config.group_versions = 400;
    lab.disk.config = lab.disk.config.clone().limited(14 * (512 << 10));
    lab.open();
    lab.write(50, 1);
    lab.store = None;
    let store = Store::open_on(lab.disk.config.clone(), Arc::clone(&lab.disk.clock), parts(&lab.disk, steps));
    lab.store = Some(store.unwrap());
    lab
}

/// So many batches, until the power is cut; what was pinned.
fn fill(lab: &mut Lab, batches: usize, is_cut: &dyn Fn() -> bool) -> Vec<Lsn> {
    let mut pinned = Vec::new();
    for n in 0..batches {
        let batch = lab.workload.batch(8);
        let mut refused = 0;
        while append(lab.store(), &batch).is_err() {
            if is_cut() {
                return pinned;
            }
            refused += 1;
            assert!(refused < 300, "it stands still at {n}: {:?}", lab.store().status());
            lab.wait_for_index();
            let _ = lab.store().settle();
            lab.clock.advance(Duration::from_secs(1));
        }
        if is_cut() {
            return pinned;
        }
        lab.oracle.apply(&batch).unwrap();
        if n == 60 {
            let (volume, point) = (lab.volume(), lab.oracle.last_lsn());
            lab.rule(MetaRecord::Pinned { volume, point, note: String::new() });
            if is_cut() {
                return pinned;
            }
            pinned.push(point);
        }
        lab.clock.advance(Duration::from_secs(1));
    }
    pinned
}

/// The power is cut anywhere while a full store makes room for itself with the last that it has.
#[test]
fn a_power_cut_in_a_full_store_costs_nothing_and_it_goes_on() {
    let steps = Arc::new(Steps::default());
    let mut lab = full(8, &steps);
    fill(&mut lab, 300, &|| false);
    drop(lab);
    let counts: Vec<(String, u64)> = steps.counts().into_iter().collect();
    let (mut random, mut cuts) = (Random::new(1), 0);
    for seed in seeds(6) {
        let (name, count) = &counts[random.below(counts.len() as u64) as usize];
        let no = random.below(*count);
        let steps = Arc::new(Steps::default());
        let mut lab = full(8 + seed % 5, &steps);
        let (left, disk) = (Arc::new(Mutex::new(None)), lab.disk.clone());
        let (lost, mut of_cut) = (Arc::clone(&left), Random::new(seed));
        let at_cut = Box::new(move || *lost.lock().unwrap() = Some(cut(&disk, &mut of_cut)));
        steps.cut_before(name, no, at_cut);
        let pinned = fill(&mut lab, 300, &|| steps.is_cut());
        let Some(left) = left.lock().unwrap().take() else { continue };
        cuts += 1;
        let what = format!("{seed}: {name} {no}");
        lab.store = None;
        lab.disk = left;
        lab.open();
        assert_eq!(lab.store().status().damage, [], "{what}");
        let durable = lab.store().durable(lab.workload.stream()).unwrap().lsn;
        assert!(durable >= lab.oracle.last_lsn(), "{what}: {durable} of {}", lab.oracle.last_lsn());
        let seen = |lab: &Lab| {
            let (sound, refused) = exact(lab.store(), &lab.oracle, lab.volume(), (0, 3), &what);
            assert!(sound > 0 && refused.is_empty(), "{what}: {refused:?}");
            assert!(
                pinned.iter().all(|point| lab.store().check_kept(lab.volume(), *point).is_ok()),
                "{what}"
            );
        };
        seen(&lab);
        // What was sent last may be there or not.
        let copy = [lab.workload.restart(10, Some(SyncCause::HopLost)), lab.workload.end_sync()];
        for batch in copy {
            for n in 0.. {
                if append(lab.store(), &batch).is_ok() {
                    break;
                }
                assert!(n < 300, "{what}: it stands still: {:?}", lab.store().status());
                lab.wait_for_index();
                let _ = lab.store().settle();
            }
            lab.oracle.apply(&batch).unwrap();
        }
        fill(&mut lab, 60, &|| false);
        seen(&lab);
        lab.store = None;
        lab.disk.index.wipe().unwrap();
        lab.open();
        seen(&lab);
    }
    println!("{cuts} cuts");
    assert!(cuts > 0);
}

/// Whatever it is that lies in neighbouring frames that rot (runs that begin and end, copies, sizes, bookmarks), what is settled past
/// them is exact or refused, with the index and without it.
#[test]
fn whatever_lies_in_frames_that_are_settled_past_is_exact_or_refused() {
    let (mut served, mut refused, mut unasked) = (0, 0, 0);
    for seed in seeds(8) {
        let mut life = Life::new(seed);
        life.lab.disk.config.index_at_stop = true;
        life.lab.disk.config.group_versions = [40, 400, 100_000][life.below(3) as usize];
        life.open().unwrap();
        for _ in 0..8 {
            for _ in 0..1 + life.below(6) {
                let records = 1 + life.below(4) as usize;
                life.feed(0, |w| w.batch(records));
            }
            life.change();
        }
        life.feed(0, Workload::end_sync);
        life.write();
        life.lab.store = None;
        let frames = frames_of(&life.lab.disk, life.lab.workload.stream());
        for _ in 0..1 + life.below(2) {
            let from = life.below(frames.len() as u64) as usize;
            let many = 1 + life.below(12) as usize;
            for damaged in frames.iter().skip(from).take(many) {
                let (no, at, frame) = damaged;
                life.say(format!("frame at {at} of {no} with {}", frame.first_lsn));
                flip(&life.lab.disk, damaged);
            }
        }
        life.troubles = 9;
        life.say(format!("seed {seed}"));
        for round in 0..3 {
            life.open().unwrap();
            life.lab.clock.advance(Duration::from_secs(2000));
            life.write();
            let done = settle(life.lab.store());
            life.say(format!("round {round}: {done:?}"));
            for wipes in [false, true] {
                let (s, r) = life.look(1);
                (served, refused) = (served + s, refused + r);
                let newest = life.lab.oracle.last_lsn();
                let store = life.lab.store.clone().unwrap();
                let (volume, stream) = (life.lab.volume(), life.lab.workload.stream());
                let asks = store.wound(stream).is_some() || !store.findings(volume).is_empty();
                let sound = try_image(&store, volume, newest).is_ok();
                unasked += usize::from(!sound && !asks);
                drop(store);
                life.lab.store = None;
                if wipes {
                    break;
                }
                life.say("the index is gone");
                life.lab.disk.index.wipe().unwrap();
                life.open().unwrap();
            }
        }
    }
    println!("served {served}, refused {refused}, nobody asks {unasked}");
    assert!(served > refused && unasked == 0, "served {served}, refused {refused}, nobody asks {unasked}");
}
