//! One life of a store, full of troubles: files that go away and come back, bits that flip, kills, an index that is built again, rules
//! that change.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gateway_journal::{Hold, MetaRecord};
use gateway_store::{IndexOpener as _, Scope, Store};
use tap_block::{Batch, Lsn, SyncCause, VolumeId, WallTime};
use tap_disk::{FileNo, SegmentDir as _};
use testbed_model::{Oracle, Random, Workload};

use crate::common::lab::{Lab, cut, policy, tiers};
use crate::common::segments::{Away, log, put_back, take_away, used};
use crate::common::steps::{Steps, parts};
use crate::common::{append, try_image};

pub(crate) fn crash(lab: &mut Lab, random: &mut Random) {
    lab.wait_for_index();
    let left = cut(&lab.disk, random);
    lab.store = None;
    lab.disk = left;
}

/// Served and exact, and refused, of points that are kept and selectable; one that is wrong is a failure.
pub(crate) fn exact(
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

pub(crate) fn settle(store: &Store) -> Result<usize, String> {
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
pub(crate) struct Life {
    pub(crate) lab: Lab,
    random: Random,
    away: Vec<Away>,
    pub(crate) said: Vec<String>,
    /// Files that were damaged or went away.
    pub(crate) troubles: usize,
    bookmarks: u64,
    steps: Arc<Steps>,
}

impl Life {
    pub(crate) fn new(seed: u64) -> Self {
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

    pub(crate) fn say(&mut self, what: impl Into<String>) {
        self.said.push(what.into());
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
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
    pub(crate) fn feed(&mut self, n: usize, make: impl FnOnce(&mut Workload) -> Batch) {
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

    pub(crate) fn write(&mut self) {
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

    pub(crate) fn change(&mut self) {
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

    pub(crate) fn open(&mut self) -> Result<(), String> {
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

    pub(crate) fn look(&mut self, step: usize) -> (usize, usize) {
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

    pub(crate) fn live(&mut self) -> Result<(usize, usize), String> {
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
