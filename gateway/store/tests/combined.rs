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

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::lab::{Lab, cut, policy, tiers};
use common::steps::{Steps, parts};
use common::{Disk, append, cases, try_image};
use gateway_journal::{FrameHeader, Hold, MetaRecord, SegmentHeader, SettledHeader};
use gateway_store::{IndexOpener as _, Parts, Scope, Store};
use tap_block::{
    BLOCK_SIZE, Batch, Bookmark, Consistency, Lsn, Marker, RunId, RunStart, StreamId, SyncCause, VolumeId,
    WallTime,
};
use tap_disk::{FileNo, Medium, PoolOptions, SegmentDir, SegmentFile, SegmentPool};
use testbed_model::{BatchBuilder, Oracle, Random, Workload};

/// A file that is away.
type Away = (FileNo, Vec<u8>);

fn head(disk: &Disk, no: FileNo) -> Vec<u8> {
    let mut head = vec![0; 4096];
    disk.dir.open(no).unwrap().read_at(0, &mut head).unwrap();
    head
}

/// Files that hold segments.
fn used(disk: &Disk) -> Vec<FileNo> {
    let is_used = |no: &FileNo| {
        let head = head(disk, *no);
        SegmentHeader::decode(&head).is_ok() || SettledHeader::decode(&head).is_ok()
    };
    disk.dir.list().unwrap().into_iter().filter(is_used).collect()
}

/// Segments of the log, in order.
fn log(disk: &Disk) -> Vec<(FileNo, SegmentHeader)> {
    let of = |no: FileNo| Some((no, SegmentHeader::decode(&head(disk, no)).ok()?));
    let mut found: Vec<_> = disk.dir.list().unwrap().into_iter().filter_map(of).collect();
    found.sort_by_key(|(_, header)| header.segment);
    found
}

fn take_away(disk: &Disk, no: FileNo) -> Away {
    let file = disk.dir.open(no).unwrap();
    let mut bytes = vec![0; file.len() as usize];
    file.read_at(0, &mut bytes).unwrap();
    disk.dir.remove(no).unwrap();
    (no, bytes)
}

fn put_back(disk: &Disk, (no, bytes): &Away) {
    let highest = disk.dir.list().unwrap().iter().map(|no| no.get()).max().unwrap_or(0);
    let no = if disk.dir.open(*no).is_ok() { FileNo::new(highest + 1) } else { *no };
    let file = disk.dir.create(no, bytes.len() as u64).unwrap();
    file.write_at(0, &[IoSlice::new(bytes)]).unwrap();
    file.sync().unwrap();
}

fn crash(lab: &mut Lab, random: &mut Random) {
    lab.wait_for_index();
    let left = cut(&lab.disk, random);
    lab.store = None;
    lab.disk = left;
}

/// Served and exact, and refused, of points that are kept and selectable; one that is wrong is a failure.
fn exact(
    store: &Store,
    oracle: &Oracle,
    volume: VolumeId,
    (from, step): (usize, usize),
    what: &str,
) -> (usize, Vec<Lsn>) {
    let catalogue = store.catalogue();
    let Some(known) = catalogue.volume(volume) else { return (0, Vec::new()) };
    let (mut served, mut refused) = (0, Vec::new());
    for lsn in oracle.lsns().into_iter().rev().skip(from).step_by(step) {
        if known.selectable(lsn).is_err() || store.check_kept(volume, lsn).is_err() {
            continue;
        }
        match try_image(store, volume, lsn) {
            Ok(image) => {
                let is_right = image == oracle.image_at(volume, lsn);
                let (damage, syncs, runs) = (store.status().damage, known.syncs(), known.runs());
                assert!(is_right, "{what}: {lsn} is wrong and served; {damage:?}, {syncs:?}, {runs:?}");
                served += 1;
            }
            Err(_) => refused.push(lsn),
        }
    }
    (served, refused)
}

fn settle(store: &Store) -> Result<usize, String> {
    for passes in 0..200 {
        match store.settle() {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(passes),
            Err(e) => return Err(e.to_string()),
        }
    }
    panic!("it never ends");
}

/// Steps of what waits for the index when the store is closed.
const INDEXED: [&str; 4] = ["index ingest Runs", "index ingest Maps", "index ingest Times", "index commit"];
/// Steps of a settle.
const SETTLED: [&str; 8] = [
    "settled write",
    "settled sync",
    "manifest store",
    "index ingest Settled",
    "index ingest Maps",
    "index remove Runs",
    "index remove Settled",
    "index commit",
];

/// One life of a store, full of troubles.
struct Life {
    lab: Lab,
    random: Random,
    away: Vec<Away>,
    said: Vec<String>,
    /// Files that were damaged or went away.
    troubles: usize,
    bookmarks: u64,
    steps: Arc<Steps>,
}

impl Life {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let keep = match random.below(3) {
            0 => policy(1_000_000, &[], 0),
            1 => policy(10, &[], 3000),
            _ => tiers(),
        };
        let mut lab = Lab::new(seed, keep);
        lab.disk.config.index_at_stop = random.one_in(2);
        lab.disk.config.cold = None;
        if random.one_in(3) {
            lab.disk.config.group_versions = 400;
        }
        lab.open();
        lab.write(40, 5);
        let (away, said) = (Vec::new(), Vec::new());
        Self { lab, random, away, said, troubles: 0, bookmarks: 0, steps: Arc::default() }
    }

    fn say(&mut self, what: impl Into<String>) {
        self.said.push(what.into());
    }

    fn below(&mut self, n: u64) -> u64 {
        self.random.below(n)
    }

    /// Of the main volume, or of one of the others.
    fn of(lab: &mut Lab, n: usize) -> (&mut Workload, &mut Oracle) {
        match n {
            0 => (&mut lab.workload, &mut lab.oracle),
            n => lab.others.get_mut(n - 1).map(|(w, o)| (w, o)).unwrap(),
        }
    }

    /// A batch is taken, or a copy of the disk is made.
    fn feed(&mut self, n: usize, make: impl FnOnce(&mut Workload) -> Batch) {
        let store = self.lab.store.clone().unwrap();
        let (workload, oracle) = Self::of(&mut self.lab, n);
        let batch = make(workload);
        if batch.entries.is_empty() {
            return;
        }
        match append(&store, &batch) {
            Ok(_) => oracle.apply(&batch).unwrap(),
            Err(_) => self.resync(n),
        }
    }

    fn resync(&mut self, n: usize) {
        self.say(format!("copy of {n}"));
        let store = self.lab.store.clone().unwrap();
        let (workload, oracle) = Self::of(&mut self.lab, n);
        for batch in [workload.restart(10, Some(SyncCause::HopLost)), workload.batch(2), workload.end_sync()]
        {
            append(&store, &batch).unwrap();
            oracle.apply(&batch).unwrap();
        }
    }

    fn write(&mut self) {
        let n = 1 + self.below(40);
        self.say(format!("write {n}"));
        for _ in 0..n {
            let of = [0, 0, 1, 2][self.below(4) as usize];
            self.feed(of, |w| w.batch(5));
            let seconds = self.below(8);
            self.lab.clock.advance(Duration::from_secs(seconds));
        }
        self.lab.wait_for_index();
    }

    fn change(&mut self) {
        let of = self.below(3) as usize;
        match self.below(6) {
            0 => self.feed(of, |w| w.grow(2)),
            1 => {
                let jump = self.below(2) * 1000;
                self.feed(of, Workload::end_sync);
                self.feed(of, |w| w.restart(jump, None));
            }
            2 => {
                self.feed(of, Workload::end_sync);
                self.feed(of, |w| w.restart(1000, Some(SyncCause::UncleanStop)));
                self.feed(of, |w| w.batch(2));
                self.feed(of, Workload::end_sync);
            }
            3 => {
                self.bookmarks += 1;
                let name = format!("b{}", self.bookmarks).parse().unwrap();
                self.feed(of, |w| w.bookmark(&name));
            }
            _ => self.rule(of),
        }
        self.say(format!("change of {of}"));
    }

    fn rule(&mut self, of: usize) {
        let (volume, lsns) = {
            let (workload, oracle) = Self::of(&mut self.lab, of);
            (workload.volume(), oracle.lsns())
        };
        let point = lsns[self.below(lsns.len() as u64) as usize];
        let now = self.lab.store().age();
        let record = match self.below(4) {
            0 => MetaRecord::Pinned { volume, point, note: String::new() },
            1 => MetaRecord::Unpinned { volume, point },
            2 => {
                let back = Duration::from_secs(self.below(3000));
                let from = WallTime::from_nanos(now.nanos() - u64::try_from(back.as_nanos()).unwrap());
                let (to, until) = (from.plus(Duration::from_secs(300)), now.plus(Duration::from_secs(2000)));
                let (credited, note) = (Duration::ZERO, String::new());
                MetaRecord::Held(Hold { volume, from, to, until, credited, note })
            }
            _ => {
                let keep = [tiers(), policy(10, &[], 0), policy(500, &[(100, 5000)], 100)];
                let policy = Some(keep[self.below(3) as usize].clone());
                MetaRecord::PolicySet { volume: None, policy }
            }
        };
        let (sender, done) = channel();
        self.lab.store().record(record, Box::new(move |outcome| drop(sender.send(outcome))));
        let _ = done.recv_timeout(Duration::from_secs(30)).unwrap();
    }

    fn settle(&mut self) {
        let seconds = self.below(3) * 1000;
        self.lab.clock.advance(Duration::from_secs(seconds));
        if self.random.one_in(2) {
            let done = settle(self.lab.store());
            self.say(format!("settle after {seconds}: {done:?}"));
        } else {
            let passes = 1 + self.below(4);
            for _ in 0..passes {
                let _ = self.lab.store().settle();
            }
            self.say(format!("{passes} passes after {seconds}"));
        }
    }

    fn wounds(&mut self) {
        for n in 0..3 {
            let stream = Self::of(&mut self.lab, n).0.stream();
            if self.lab.store().wound(stream).is_some() {
                self.resync(n);
            }
        }
    }

    /// The store is closed, something happens, and it is opened again; `Err`: it does not open.
    fn reopen(&mut self) -> Result<(), String> {
        match self.below(4) {
            0 => {
                self.say("kill");
                crash(&mut self.lab, &mut self.random);
            }
            1 => {
                self.say("stop");
                self.lab.store = None;
            }
            2 => self.killed(&INDEXED, |lab| lab.store = None),
            _ => self.killed(&SETTLED, |lab| {
                lab.clock.advance(Duration::from_secs(1000));
                (0..4).for_each(|_| drop(lab.store().settle()));
                lab.store = None;
            }),
        }
        for _ in 0..1 + self.below(2) {
            self.trouble();
        }
        self.open()
    }

    /// Killed before one of these steps, while it does this.
    fn killed(&mut self, steps: &[&str], during: impl FnOnce(&mut Lab)) {
        let (name, later) = (steps[self.below(steps.len() as u64) as usize], self.below(3));
        let no = self.steps.counts().get(name).copied().unwrap_or(0) + later;
        let (left, disk) = (Arc::new(Mutex::new(None)), self.lab.disk.clone());
        let (lost, mut random) = (Arc::clone(&left), Random::new(self.below(1 << 30)));
        let at_cut = Box::new(move || *lost.lock().unwrap() = Some(cut(&disk, &mut random)));
        self.steps.cut_before(name, no, at_cut);
        during(&mut self.lab);
        match left.lock().unwrap().take() {
            Some(left) => {
                self.say(format!("killed before {name}, {later} later"));
                self.lab.disk = left;
            }
            None => self.say(format!("stop, no {name} {later} later")),
        }
    }

    fn open(&mut self) -> Result<(), String> {
        self.lab.store = None;
        self.steps = Arc::default();
        let (config, clock) = (self.lab.disk.config.clone(), Arc::clone(&self.lab.disk.clock));
        let store = Store::open_on(config, clock, parts(&self.lab.disk, &self.steps));
        self.lab.store = Some(store.map_err(|e| e.to_string())?);
        Ok(())
    }

    fn trouble(&mut self) {
        let files = used(&self.lab.disk);
        let some = (!files.is_empty()).then(|| files[self.random.below(files.len() as u64) as usize]);
        match (self.below(8), some) {
            (0 | 1, Some(no)) if self.troubles < 3 && self.away.len() < 2 => {
                self.troubles += 1;
                let log: BTreeMap<_, _> = log(&self.lab.disk).into_iter().collect();
                self.say(format!("{no} goes away, {:?}", log.get(&no).map(|header| header.segment)));
                let away = take_away(&self.lab.disk, no);
                self.away.push(away);
            }
            (2, Some(no)) if self.troubles < 3 => {
                self.troubles += 1;
                self.spoil(no);
            }
            (3..=5, _) => {
                for away in std::mem::take(&mut self.away) {
                    self.say(format!("{} is back", away.0));
                    put_back(&self.lab.disk, &away);
                }
            }
            (6, _) => {
                self.say("the index is gone");
                self.lab.disk.index.wipe().unwrap();
            }
            _ => {}
        }
    }

    fn spoil(&mut self, no: FileNo) {
        let at = match self.below(3) {
            0 => self.below(64),
            1 => 4096 + self.below(128),
            _ => self.below(60) * 4096 + self.below(4096),
        };
        let len = [1, 1, 4096, 20_000u64][self.below(4) as usize];
        self.say(format!("{len} bytes from {at} of {no}"));
        match len {
            1 => self.lab.disk.dir.corrupt(no, at, |bytes| bytes[0] ^= 0x55),
            _ => {
                let file = self.lab.disk.dir.open(no).unwrap();
                let len = len.min(file.len() - at) as usize;
                file.write_at(at, &[IoSlice::new(&vec![0xee; len])]).unwrap();
            }
        }
    }

    fn look(&mut self, step: usize) -> (usize, usize) {
        let from = self.below(step as u64) as usize;
        let what = format!("{:#?}", self.said);
        let (mut served, mut refused) = (0, 0);
        for n in 0..3 {
            let store = self.lab.store.clone().unwrap();
            let (workload, oracle) = Self::of(&mut self.lab, n);
            let (s, r) = exact(&store, oracle, workload.volume(), (from, step), &what);
            assert!(self.troubles > 0 || r.is_empty(), "{what}: {r:?} are refused");
            (served, refused) = (served + s, refused + r.len());
        }
        (served, refused)
    }

    fn live(&mut self) -> Result<(usize, usize), String> {
        let (mut served, mut refused) = (0, 0);
        for _ in 0..14 {
            match self.below(12) {
                0..3 => self.write(),
                3 => self.change(),
                4..7 => self.settle(),
                7 => self.wounds(),
                8 => {
                    self.say("acknowledge");
                    let volume = self.lab.volume();
                    self.lab.store().acknowledge(volume, |_| true).map_err(|e| e.to_string())?;
                }
                9 if self.random.one_in(2) => {
                    self.say("verify");
                    self.lab.store().verify(Scope::default(), &mut |_| true).map_err(|e| e.to_string())?;
                }
                _ => {
                    self.reopen()?;
                    let (s, r) = self.look(5);
                    (served, refused) = (served + s, refused + r);
                }
            }
            self.look(11);
        }
        let (s, r) = self.look(1);
        Ok((served + s, refused + r))
    }
}

/// Whatever happens, a point is exact or refused.
#[test]
fn a_life_full_of_troubles_shows_nothing_that_was_not() {
    let (mut served, mut refused, mut closed) = (0, 0, 0);
    let first = std::env::var("FIRST_SEED").ok().and_then(|v| v.parse().ok()).unwrap_or(0);
    for seed in first..first + u64::from(cases(8)) {
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
    let log: Vec<FileNo> = log(disk).into_iter().map(|(no, _)| no).collect();
    used(disk).into_iter().filter(|no| !log.contains(no)).collect()
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

/// Files that the disk does not read for a while.
struct Moody {
    dir: tap_disk::MemoryDir,
    files: Vec<FileNo>,
    bad: Arc<AtomicBool>,
}

struct MoodyFile {
    file: SegmentFile,
    bad: Option<Arc<AtomicBool>>,
}

impl Moody {
    fn wrap(&self, no: FileNo, file: SegmentFile) -> SegmentFile {
        let (len, bad) = (file.len(), self.files.contains(&no).then(|| Arc::clone(&self.bad)));
        SegmentFile::over(Box::new(MoodyFile { file, bad }), format!("{no}"), len)
    }
}

impl SegmentDir for Moody {
    fn list(&self) -> io::Result<Vec<FileNo>> {
        self.dir.list()
    }
    fn create(&self, no: FileNo, len: u64) -> io::Result<SegmentFile> {
        self.dir.create(no, len).map(|file| self.wrap(no, file))
    }
    fn open(&self, no: FileNo) -> io::Result<SegmentFile> {
        self.dir.open(no).map(|file| self.wrap(no, file))
    }
    fn remove(&self, no: FileNo) -> io::Result<()> {
        self.dir.remove(no)
    }
}

impl Medium for MoodyFile {
    fn write(&self, offset: u64, data: &[IoSlice<'_>]) -> io::Result<usize> {
        self.file.write_at(offset, data)?;
        Ok(data.iter().map(|d| d.len()).sum())
    }
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        if self.bad.as_ref().is_some_and(|bad| bad.load(Ordering::SeqCst)) {
            return Err(io::Error::other("the disk is in a mood"));
        }
        let n = self.file.len().saturating_sub(offset).min(into.len() as u64) as usize;
        self.file.read_at(offset, &mut into[..n])?;
        Ok(n)
    }
    fn read_cached(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.read(offset, into)
    }
    fn will_need(&self, _: u64, _: u64) {}
    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
    fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }
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
        let bad = Arc::new(AtomicBool::new(true));
        let dir = Moody { dir: lab.disk.dir.clone(), files, bad };
        let options = PoolOptions { ready: 0, ..PoolOptions::default() };
        let len = u64::from(lab.disk.config.segment_len);
        let parts =
            Parts { segments: SegmentPool::over(Box::new(dir), len, options).unwrap(), ..lab.disk.parts() };
        let store = Store::open_on(lab.disk.config.clone(), Arc::clone(&lab.disk.clock), parts).unwrap();
        lab.store = Some(store);
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

/// Frames of a stream: where they lie, and their first record.
fn frames(disk: &Disk, stream: StreamId) -> Vec<(FileNo, u64, Lsn)> {
    let mut found = Vec::new();
    for (no, header) in log(disk) {
        let file = disk.dir.open(no).unwrap();
        let mut bytes = vec![0; file.len() as usize];
        file.read_at(0, &mut bytes).unwrap();
        let mut at = 4096;
        while at + 128 <= bytes.len() {
            match FrameHeader::decode(&bytes[at..]).ok().filter(|frame| frame.segment == header.segment) {
                Some(frame) => {
                    if frame.stream == stream {
                        found.push((no, at as u64, frame.first_lsn));
                    }
                    at += frame.span as usize;
                }
                None => at += 8,
            }
        }
    }
    found
}

/// Flips a bit in the head of every frame of the own stream whose first record is in the range.
fn flip_frames(disk: &Disk, lsns: std::ops::RangeInclusive<Lsn>) -> usize {
    let mut frames = frames(disk, STREAM);
    frames.retain(|(.., first)| lsns.contains(first));
    for (no, at, _) in &frames {
        disk.dir.corrupt(*no, at + 60, |bytes| bytes[0] ^= 1);
    }
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
    let first: u64 = std::env::var("FIRST_SEED").ok().and_then(|v| v.parse().ok()).unwrap_or(0);
    for seed in first..first + u64::from(cases(6)) {
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
    let first: u64 = std::env::var("FIRST_SEED").ok().and_then(|v| v.parse().ok()).unwrap_or(0);
    for seed in first..first + u64::from(cases(8)) {
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
        let frames = frames(&life.lab.disk, life.lab.workload.stream());
        for _ in 0..1 + life.below(2) {
            let from = life.below(frames.len() as u64) as usize;
            let many = 1 + life.below(12) as usize;
            for (no, at, lsn) in frames.iter().skip(from).take(many) {
                life.say(format!("frame at {at} of {no} with {lsn}"));
                life.lab.disk.dir.corrupt(*no, at + 60, |bytes| bytes[0] ^= 1);
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
