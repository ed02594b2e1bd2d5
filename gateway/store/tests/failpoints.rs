//! The crash matrix: the power is cut at every kind of durable step, early, late and in between, and what is there after it is
//! what was acknowledged, at every kept point.
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
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::lab::{Lab, check, cut, policy, tiers};
use common::steps::{Steps, parts};
use common::{Disk, ManualClock, append};
use gateway_journal::{Hold, MetaRecord};
use gateway_store::{Scope, Store};
use tap_block::{Batch, Lsn};
use testbed_model::{Oracle, Random, Workload};

/// What a client was told.
#[derive(Debug, Clone, Default)]
struct Told {
    batches: usize,
    /// Pinned, marked or held: must be there whatever happens.
    kept: Vec<Lsn>,
}

/// A store at work, and what it acknowledged so far.
struct Play {
    store: Arc<Store>,
    clock: Arc<ManualClock>,
    steps: Arc<Steps>,
    workload: Workload,
    batches: Vec<Batch>,
    told: Arc<Mutex<Told>>,
}

impl Play {
    fn new(disk: &Disk, clock: &Arc<ManualClock>, steps: &Arc<Steps>, seed: u64) -> Self {
        let store = Store::open_on(disk.config.clone(), Arc::clone(&disk.clock), parts(disk, steps)).unwrap();
        let (clock, steps) = (Arc::clone(clock), Arc::clone(steps));
        let (workload, batches, told) = (Workload::new(seed), Vec::new(), Arc::default());
        Self { store, clock, steps, workload, batches, told }
    }

    fn append(&mut self, batch: Batch) {
        self.batches.push(batch);
        append(&self.store, self.batches.last().unwrap()).unwrap();
        self.told.lock().unwrap().batches = self.batches.len();
        self.clock.advance(Duration::from_secs(5));
    }

    fn write(&mut self, batches: usize) {
        for _ in 0..batches {
            let batch = self.workload.batch(6);
            self.append(batch);
        }
        while self.store.status().groups_waiting > 0 {
            std::thread::yield_now();
        }
    }

    /// Every write is held, and another volume that is not writes beside it.
    fn write_held(&mut self, batches: usize) {
        let mut other = Workload::new(99);
        for batch in other.history(10) {
            append(&self.store, &batch).unwrap();
        }
        for _ in 0..batches {
            append(&self.store, &other.batch(1)).unwrap();
            self.write(1);
            let catalogue = self.store.catalogue();
            let known = catalogue.volume(self.workload.volume()).unwrap();
            let held = Some(self.head()).filter(|head| known.selectable(*head).is_ok());
            self.told.lock().unwrap().kept.extend(held);
        }
    }

    fn rule(&self, record: MetaRecord) {
        let (sender, done) = channel();
        self.store.record(record, Box::new(move |outcome| drop(sender.send(outcome))));
        done.recv_timeout(Duration::from_secs(30)).unwrap().unwrap();
    }

    fn head(&self) -> Lsn {
        self.workload.next_lsn().previous()
    }

    fn settle(&self) {
        while !self.steps.is_cut() && self.store.settle().unwrap().is_some() {}
        self.store.keep_ledger().unwrap();
    }

    /// Everything that makes something durable: appends, seals, ingests, checkpoints, rules, settles, recycling, verification.
    /// Ends early once the power was cut.
    fn play(&mut self) {
        for batch in self.workload.history(60) {
            self.append(batch);
        }
        self.rule(MetaRecord::PolicySet { volume: None, policy: Some(tiers()) });
        for round in 0..3 {
            self.write(25);
            let mark = self.workload.bookmark(&format!("kept-{round}").parse().unwrap());
            self.append(mark);
            let marked = self.head();
            self.told.lock().unwrap().kept.push(marked);
            self.write(5);
            let (volume, point) = (self.workload.volume(), self.head());
            self.rule(MetaRecord::Pinned { volume, point, note: String::new() });
            self.told.lock().unwrap().kept.push(point);
            self.write(25);
            if self.steps.is_cut() {
                return;
            }
            self.settle();
        }
        let (volume, from) = (self.workload.volume(), self.store.age());
        let until = from.plus(Duration::from_secs(1_000_000));
        self.rule(MetaRecord::Held(Hold {
            volume,
            from,
            to: until,
            until,
            credited: Duration::ZERO,
            note: String::new(),
        }));
        self.rule(MetaRecord::PolicySet { volume: None, policy: Some(policy(10, &[(50, 5000)], 100_000)) });
        self.write_held(40);
        self.settle();
        if !self.steps.is_cut() {
            self.store.verify(Scope::default(), &mut |_| true).unwrap();
        }
    }
}

fn disk() -> (Disk, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    let mut disk = Disk { clock: Arc::clone(&clock) as _, ..Disk::small() };
    disk.config.segment_len = 256 << 10;
    (disk, clock)
}

/// Plays it through; how often each step was taken.
fn rehearse(seed: u64) -> BTreeMap<String, u64> {
    let ((disk, clock), steps) = (disk(), Arc::new(Steps::default()));
    let mut play = Play::new(&disk, &clock, &steps, seed);
    play.play();
    let workload = play.workload;
    let mut oracle = Oracle::new();
    play.batches.iter().for_each(|batch| oracle.apply(batch).unwrap());
    check(&play.store, &oracle, workload.volume(), 20);
    drop(play.store);
    steps.counts()
}

/// Cuts the power there; what is left, and what had been told. `None`: the step did not come this time.
fn cut_at(name: &str, no: u64, seed: u64) -> Option<(Disk, Told, Play)> {
    let ((disk, clock), steps) = (disk(), Arc::new(Steps::default()));
    let left = Arc::new(Mutex::new(None));
    let (told, seen, lost) = (Arc::<Mutex<Told>>::default(), disk.clone(), Arc::clone(&left));
    let at_cut = Arc::clone(&told);
    let mut random = Random::new(seed ^ no);
    steps.cut_before(
        name,
        no,
        Box::new(move || {
            // What is told later than this is not known to be told.
            let told = at_cut.lock().unwrap().clone();
            *lost.lock().unwrap() = Some((cut(&seen, &mut random), told));
        }),
    );
    // Opening it makes something durable already.
    let mut play = Play { told, ..Play::new(&disk, &clock, &steps, seed) };
    play.play();
    let (left, told) = left.lock().unwrap().take()?;
    Some((left, told, play))
}

/// Of the batches sent, those that are there; fails if one that was told is not.
fn survived(store: &Store, play: &Play, told: &Told) -> Oracle {
    let there = store.durable(play.workload.stream()).map_or(Lsn::ZERO, |durable| durable.lsn);
    let mut oracle = Oracle::new();
    for (n, batch) in play.batches.iter().enumerate() {
        if batch.last_lsn().is_some_and(|last| last > there) {
            assert!(n >= told.batches, "{} batches were acknowledged, {n} are there", told.batches);
            break;
        }
        oracle.apply(batch).unwrap();
    }
    assert_eq!(oracle.last_lsn(), there, "a batch is there in part");
    oracle
}

/// False when the step did not come this time: threads take turns of their own.
fn crash(name: &str, no: u64, seed: u64) -> bool {
    let Some((left, told, play)) = cut_at(name, no, seed) else { return false };
    let (volume, at) = (play.workload.volume(), format!("cut before {name} {no}, seed {seed}"));
    let store = left.open();
    assert_eq!(store.status().damage, [], "{at}");
    let mut oracle = survived(&store, &play, &told);
    if oracle.last_lsn() == Lsn::ZERO {
        return true;
    }
    let kept = check(&store, &oracle, volume, 7);
    let missing = told.kept.iter().find(|lsn| !kept.contains(lsn));
    assert_eq!(missing, None, "{at}: kept by a mark or a pin");
    // It goes on as if nothing had been: what was not acknowledged is sent again, and all of it settles.
    for batch in play
        .batches
        .iter()
        .filter(|batch| batch.last_lsn().is_some_and(|l| l > oracle.last_lsn()))
        .cloned()
        .collect::<Vec<_>>()
    {
        append(&store, &batch).unwrap();
        oracle.apply(&batch).unwrap();
        play.clock.advance(Duration::from_secs(5));
    }
    while store.settle().unwrap().is_some() {}
    let kept = check(&store, &oracle, volume, 11);
    let missing = told.kept.iter().find(|lsn| !kept.contains(lsn));
    assert_eq!(missing, None, "{at}: kept by a mark or a pin, after settling; told {told:?}");
    let report = store.verify(Scope { fresh: true, ..Scope::default() }, &mut |_| true).unwrap();
    assert_eq!(report.findings, [], "{at}");
    true
}

/// Every step that has a name, and those that a store cannot do without.
#[test]
fn a_power_cut_at_any_step_keeps_every_kept_point() {
    let seed = 7;
    let counts = rehearse(seed);
    for due in [
        "segment create",
        "log write",
        "log sync",
        "mark store",
        "index ingest Runs",
        "index ingest Maps",
        "index ingest Times",
        "index ingest Settled",
        "index remove Runs",
        "index remove Settled",
        "index commit",
        "settled write",
        "settled sync",
        "manifest store",
        "proofs store",
        "ledger append",
    ] {
        assert!(counts.contains_key(due), "{due} was never taken: {counts:?}");
    }
    // Of each step the first, the last, and some between; all of them if that many are asked for.
    let each = u64::from(common::cases(3)).max(2);
    let (mut tries, mut cuts) = (0, 0);
    for (name, count) in counts {
        let mut nos: Vec<u64> = (0..each).map(|n| n * (count - 1) / (each - 1)).collect();
        nos.dedup();
        for no in nos {
            let was_cut = crash(&name, no, seed);
            assert!(was_cut || no > 0, "the first {name} never came");
            tries += 1;
            cuts += u32::from(was_cut);
        }
    }
    assert!(cuts * 4 > tries * 3, "{cuts} of {tries} steps came");
}

/// A group is closed early and cut off on its way into the index; the one that takes its number in the next life goes further. What the
/// index was told of the first leads nobody past what is new in the second.
#[test]
fn a_group_that_was_cut_off_leaves_nothing_that_hides_what_is_added_to_it() {
    let steps = ["index ingest Runs", "index ingest Maps", "index ingest Times", "index commit"];
    for name in steps {
        let mut lab = Lab::new(7, policy(1_000_000, &[], 0));
        (lab.disk.config.group_versions, lab.disk.config.index_at_stop) = (100_000, true);
        let counted = Arc::new(Steps::default());
        lab.store = None;
        let parts = parts(&lab.disk, &counted);
        lab.store =
            Some(Store::open_on(lab.disk.config.clone(), Arc::clone(&lab.disk.clock), parts).unwrap());
        lab.write(60, 1);
        let (left, disk) = (Arc::new(Mutex::new(None)), lab.disk.clone());
        let lost = Arc::clone(&left);
        let at_cut = Box::new(move || *lost.lock().unwrap() = Some(cut(&disk, &mut Random::new(1))));
        counted.cut_before(name, counted.counts().get(name).copied().unwrap_or(0), at_cut);
        // It is closed because the store is.
        lab.store = None;
        lab.disk = left.lock().unwrap().take().unwrap_or_else(|| panic!("{name} did not come"));
        lab.open();
        lab.more(8, 1);
        for _ in 0..2 {
            lab.open();
            lab.check(1);
        }
    }
}
