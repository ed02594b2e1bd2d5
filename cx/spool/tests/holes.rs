//! Histories with holes: records lost before the outbox, on its disk, and at its receivers. No receiver is ever given a
//! record that does not follow what it has, every one is healed by the next sync of everything, and what was sent before
//! a hole still has to be durable before it is forgotten.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cx_spool::{Config, ConsumerNo, ItemNo, Next, Outbox, Reached, Summary};
use proptest::collection::vec;
use proptest::prelude::*;
use tap_block::{
    Action, Batch, Entry, Epoch, Extent, Lsn, Marker, Monotonic, Position, RunId, StreamId, SyncCause,
    VolumeId, WallTime,
};

#[derive(Debug, Clone)]
enum Step {
    Push {
        records: u64,
        copy: bool,
    },
    /// The source lost records on their way here.
    Lose,
    /// A sync of everything begins.
    Heal,
    Next(usize),
    Ack(usize, usize),
    Reconnect(usize),
    /// The receiver forgets some of what was durable.
    RollBack(usize, u64),
    Spill,
    Load {
        damaged: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3u64, any::<bool>()).prop_map(|(records, copy)| Step::Push { records, copy }),
        1 => Just(Step::Lose),
        1 => Just(Step::Heal),
        8 => (0..2usize).prop_map(Step::Next),
        4 => (0..2usize, 1..5usize).prop_map(|(c, n)| Step::Ack(c, n)),
        1 => (0..2usize).prop_map(Step::Reconnect),
        1 => (0..2usize, 1..6u64).prop_map(|(c, n)| Step::RollBack(c, n)),
        3 => Just(Step::Spill),
        3 => any::<bool>().prop_map(|damaged| Step::Load { damaged }),
    ]
}

/// A receiver as a gateway is one: it knows the last record it has.
#[derive(Default)]
struct Receiver {
    /// On this connection.
    last: Lsn,
    durable: Lsn,
    in_flight: VecDeque<(ItemNo, Lsn)>,
    /// Items durable there.
    has: BTreeSet<ItemNo>,
    /// Items before this one are no business of its any more: it was healed there.
    base: ItemNo,
    /// What it lost was forgotten already below this item.
    lost_below: ItemNo,
    /// A hole was reported, and no healing item came since.
    broken: bool,
}

struct World {
    outbox: Outbox,
    pushed: BTreeMap<ItemNo, Arc<Batch>>,
    next: u64,
    receivers: Vec<Receiver>,
}

fn lsn(n: u64) -> Lsn {
    Lsn::new(n).unwrap()
}

fn entry(position: Position, action: Action) -> Entry {
    Entry { position, captured_at: WallTime::EPOCH, action }
}

fn batch(first: u64, entries: Vec<Entry>) -> Arc<Batch> {
    Arc::new(Batch {
        stream: StreamId::new(1),
        run: RunId::new(1),
        epoch: Epoch::new(1),
        first_lsn: lsn(first),
        entries,
        lens: Vec::new(),
        body: Bytes::from(vec![0; 900]),
    })
}

impl World {
    fn new() -> Self {
        let config = Config {
            memory_limit: 10_000,
            spill_after: Some(Duration::ZERO),
            spill_above: 5000,
            disk_limit: u64::MAX,
            read_ahead: 3000,
            detect_holes: true,
        };
        let mut world = Self {
            outbox: Outbox::new(config, 2),
            pushed: BTreeMap::new(),
            next: 1,
            receivers: vec![Receiver::default(), Receiver::default()],
        };
        (0..2).for_each(|c| world.reconnect(c));
        world
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Push { records, copy } => self.push(records, copy),
            Step::Lose => self.next += 3,
            Step::Heal => self.heal(),
            Step::Next(c) => self.take(c),
            Step::Ack(c, n) => self.ack(c, n),
            Step::Reconnect(c) => self.reconnect(c),
            Step::RollBack(c, n) => self.roll_back(c, n),
            Step::Spill => self.spill(),
            Step::Load { damaged } => self.load(damaged),
        }
        self.check();
    }

    fn push(&mut self, records: u64, copy: bool) {
        let write = || Action::Zero { volume: VolumeId::new(1), extent: Extent::between(0, 4096) };
        let (first, end) = (self.next, self.next + records);
        let mut entries: Vec<_> = (first..end).map(|n| entry(Position::record(lsn(n)), write())).collect();
        if copy || records == 0 {
            entries.push(entry(Position::copy_as_of(lsn(end - 1)), write()));
        }
        self.offer(batch(first, entries), end);
    }

    fn heal(&mut self) {
        let marker = Action::Mark(Box::new(Marker::SyncStart { cause: SyncCause::HopLost }));
        let entries = vec![entry(Position::record(lsn(self.next)), marker)];
        self.offer(batch(self.next, entries), self.next + 1);
    }

    fn offer(&mut self, batch: Arc<Batch>, next: u64) {
        if let Ok(no) = self.outbox.push(Arc::clone(&batch), Monotonic::default()) {
            self.pushed.insert(no, batch);
            self.next = next;
        }
    }

    fn take(&mut self, c: usize) {
        match self.outbox.next(ConsumerNo::new(c)) {
            Next::Batch(no, batch) => self.receive(c, no, &batch),
            Next::Hole(hole) => {
                assert_eq!(hole.after, self.receivers[c].last);
                self.receivers[c].broken = true;
            }
            Next::Loading | Next::Empty => {}
        }
    }

    fn receive(&mut self, c: usize, no: ItemNo, batch: &Batch) {
        let (receiver, summary) = (&mut self.receivers[c], Summary::of(batch));
        if summary.heals {
            (receiver.base, receiver.broken) = (no, false);
        } else {
            assert!(summary.needs <= receiver.last, "receiver {c} at {} is given {summary:?}", receiver.last);
        }
        receiver.last = receiver.last.max(summary.last.unwrap_or_default());
        receiver.in_flight.push_back((no, receiver.last));
    }

    fn ack(&mut self, c: usize, n: usize) {
        let receiver = &mut self.receivers[c];
        let n = n.min(receiver.in_flight.len());
        for (no, last) in receiver.in_flight.drain(..n) {
            receiver.has.insert(no);
            receiver.durable = receiver.durable.max(last);
        }
        let durable = receiver.durable;
        self.outbox.acked(ConsumerNo::new(c), n as u64, durable, durable, Monotonic::default());
    }

    fn reconnect(&mut self, c: usize) {
        let receiver = &mut self.receivers[c];
        receiver.in_flight.clear();
        receiver.last = receiver.durable;
        let has = Reached { lsn: receiver.durable, run: Some(RunId::new(1)), at: None };
        self.outbox.detach(ConsumerNo::new(c));
        if self.outbox.rewind(ConsumerNo::new(c), has).is_some() {
            self.receivers[c].broken = true;
        }
    }

    fn roll_back(&mut self, c: usize, n: u64) {
        let receiver = &mut self.receivers[c];
        receiver.durable = lsn(receiver.durable.get().saturating_sub(n));
        receiver.lost_below = self.outbox.first();
        receiver.has.retain(|no| self.pushed[no].last_lsn().is_none_or(|last| last <= receiver.durable));
        self.reconnect(c);
    }

    fn spill(&mut self) {
        if self.outbox.poll_spill(Monotonic::default()).is_some() {
            self.outbox.spilled();
        }
    }

    fn load(&mut self, damaged: bool) {
        let Some(load) = self.outbox.poll_load() else { return };
        let last = load.items.len() - 1;
        let read = |(n, no): (usize, &ItemNo)| (!damaged || n < last).then(|| Arc::clone(&self.pushed[no]));
        let found = load.items.iter().enumerate().map(read).collect();
        self.outbox.loaded(&load, found);
    }

    /// Nothing is forgotten that a receiver can use and has not made durable.
    fn check(&self) {
        let first = self.outbox.first();
        for (c, receiver) in self.receivers.iter().enumerate() {
            for no in (receiver.base.get()..first.get()).map(ItemNo::new) {
                // A receiver that lost what it had acknowledged knows what it misses.
                let had = no < receiver.lost_below
                    || receiver.has.contains(&no)
                    || self.pushed[&no].last_lsn().is_some_and(|l| l <= receiver.durable);
                assert!(had || self.healed_over(c, no), "{no} was forgotten before receiver {c} had it");
            }
        }
    }

    /// It lies in a hole that a healing item behind it covers.
    fn healed_over(&self, c: usize, no: ItemNo) -> bool {
        let heals = |(_, batch): (&ItemNo, &Arc<Batch>)| Summary::of(batch).heals;
        let sent = self.receivers[c].in_flight.iter().any(|(sent, _)| *sent == no);
        !sent && self.pushed.range(no.next()..).any(heals)
    }

    /// A sync of everything reaches everybody, and so does what follows.
    fn finish(&mut self) {
        self.outbox.resume_spill();
        self.drain();
        self.heal();
        self.push(2, true);
        self.drain();
        assert!(self.outbox.is_drained(), "{:?}", self.outbox);
        for (c, receiver) in self.receivers.iter().enumerate() {
            assert_eq!((receiver.durable, receiver.broken), (lsn(self.next - 1), false), "receiver {c}");
        }
    }

    fn drain(&mut self) {
        for _ in 0..400 {
            (0..2).for_each(|c| {
                self.take(c);
                self.ack(c, 9);
            });
            self.spill();
            self.load(false);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn holes_are_found_and_healed(steps in vec(step(), 1..150)) {
        let mut world = World::new();
        for step in &steps {
            world.run(step);
        }
        world.finish();
    }
}
