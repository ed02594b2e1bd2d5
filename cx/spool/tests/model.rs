//! The outbox against a trivial model: whatever is pushed, sent, acknowledged, spilled, read back, forgotten and
//! crashed, no receiver ever skips a batch, and nothing counts as durable that is not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cx_spool::{Config, ConsumerNo, ItemNo, Next, Outbox, Reached, Recovered, RecoveredItem, Summary};
use proptest::collection::vec;
use proptest::prelude::*;
use tap_block::{
    Action, Batch, Entry, Epoch, Extent, Lsn, Monotonic, Position, RunId, StreamId, VolumeId, WallTime,
};

const MEMORY: u64 = 20_000;
const DISK: u64 = 60_000;

/// A batch that knows its number: `records` records and a copy if wanted.
fn batch(id: u64, first: u64, records: u64, copy: bool, body: usize) -> Batch {
    let action = Action::Zero { volume: VolumeId::new(1), extent: Extent::between(0, 4096) };
    let entry = |position| Entry { position, captured_at: WallTime::from_nanos(id), action: action.clone() };
    let lsn = |n| Lsn::new(n).unwrap();
    let mut entries: Vec<_> = (first..first + records).map(|n| entry(Position::record(lsn(n)))).collect();
    if copy || records == 0 {
        entries.push(entry(Position::copy_as_of(lsn(first + records - 1))));
    }
    Batch {
        stream: StreamId::new(1),
        run: RunId::new(1),
        epoch: Epoch::new(1),
        first_lsn: lsn(first),
        entries,
        lens: Vec::new(),
        body: Bytes::from(vec![0; body]),
    }
}

fn id(batch: &Batch) -> usize {
    batch.entries[0].captured_at.nanos() as usize
}

#[derive(Debug, Clone)]
enum Step {
    Push { records: u64, copy: bool, body: usize },
    Next(usize),
    Ack(usize, usize),
    Reconnect(usize),
    Spill { works: bool },
    Load { unread: bool },
    Wait,
    Crash { stale_mark: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3u64, any::<bool>(), 0..6000usize)
            .prop_map(|(records, copy, body)| Step::Push { records, copy, body }),
        6 => (0..2usize).prop_map(Step::Next),
        3 => (0..2usize, 1..5usize).prop_map(|(c, n)| Step::Ack(c, n)),
        1 => (0..2usize).prop_map(Step::Reconnect),
        3 => any::<bool>().prop_map(|works| Step::Spill { works }),
        3 => any::<bool>().prop_map(|unread| Step::Load { unread }),
        1 => Just(Step::Wait),
        1 => any::<bool>().prop_map(|stale_mark| Step::Crash { stale_mark }),
    ]
}

/// A receiver that keeps what it is given and says when it is durable.
#[derive(Default)]
struct Receiver {
    /// Batches received, ever, from 0 on.
    received: usize,
    /// Of them durable.
    durable: usize,
    in_flight: VecDeque<usize>,
}

struct World {
    outbox: Outbox,
    config: Config,
    now: Monotonic,
    /// Everything the source ever made.
    made: Vec<Arc<Batch>>,
    /// The source's batch of each item since the last crash.
    items: BTreeMap<ItemNo, usize>,
    disk: BTreeMap<ItemNo, Arc<Batch>>,
    mark: (ItemNo, Reached),
    receivers: Vec<Receiver>,
    next_lsn: u64,
}

impl World {
    fn new(spill_after: Option<Duration>) -> Self {
        let config = Config {
            memory_limit: MEMORY,
            spill_after,
            spill_above: MEMORY * 3 / 4,
            disk_limit: DISK,
            read_ahead: 5000,
            detect_holes: true,
        };
        let mut world = Self {
            outbox: Outbox::new(config, 2),
            config,
            now: Monotonic::from_nanos(0),
            made: Vec::new(),
            items: BTreeMap::new(),
            disk: BTreeMap::new(),
            mark: (ItemNo::FIRST, Reached::default()),
            receivers: vec![Receiver::default(), Receiver::default()],
            next_lsn: 1,
        };
        world.attach();
        world
    }

    fn attach(&mut self) {
        for at in 0..self.receivers.len() {
            self.reconnect(at);
        }
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Push { records, copy, body } => self.make(records, copy, body),
            Step::Next(c) => self.take(c),
            Step::Ack(c, n) => self.ack(c, n),
            Step::Reconnect(c) => self.reconnect(c),
            Step::Spill { works } => self.spill(works),
            Step::Load { unread } => self.load(unread),
            Step::Wait => self.now = self.now.plus(Duration::from_millis(150)),
            Step::Crash { stale_mark } => self.crash(stale_mark),
        }
        self.check();
    }

    fn make(&mut self, records: u64, copy: bool, body: usize) {
        let new = Arc::new(batch(self.made.len() as u64, self.next_lsn, records, copy, body));
        let (room, held) = (self.outbox.room(), self.outbox.status().memory_bytes);
        let result = self.outbox.push(Arc::clone(&new), self.now);
        assert_eq!(result.is_err(), new.weight() > room && held > 0, "full only at the limit");
        if let Ok(no) = result {
            self.items.insert(no, self.made.len());
            self.made.push(new);
            self.next_lsn += records;
        }
    }

    fn take(&mut self, c: usize) {
        match self.outbox.next(ConsumerNo::new(c)) {
            Next::Batch(_, batch) => {
                let receiver = &mut self.receivers[c];
                assert!(id(&batch) <= receiver.received, "receiver {c} skipped a batch");
                receiver.received = receiver.received.max(id(&batch) + 1);
                receiver.in_flight.push_back(id(&batch));
            }
            Next::Hole(hole) => panic!("no hole here: {hole:?}"),
            Next::Loading | Next::Empty => {}
        }
    }

    fn ack(&mut self, c: usize, n: usize) {
        let receiver = &mut self.receivers[c];
        let n = n.min(receiver.in_flight.len());
        for done in receiver.in_flight.drain(..n) {
            receiver.durable = receiver.durable.max(done + 1);
        }
        let lsn = self.durable_lsn(c);
        self.outbox.acked(ConsumerNo::new(c), n as u64, lsn, lsn, self.now);
    }

    fn durable_lsn(&self, c: usize) -> Lsn {
        let durable = &self.made[..self.receivers[c].durable];
        durable.iter().filter_map(|b| b.last_lsn()).max().unwrap_or_default()
    }

    fn reconnect(&mut self, c: usize) {
        let receiver = &mut self.receivers[c];
        receiver.in_flight.clear();
        receiver.received = receiver.durable;
        self.outbox.detach(ConsumerNo::new(c));
        let lsn = self.durable_lsn(c);
        let has = Reached { lsn, run: (lsn > Lsn::ZERO).then_some(RunId::new(1)), at: None };
        assert_eq!(self.outbox.rewind(ConsumerNo::new(c), has), None);
    }

    fn spill(&mut self, works: bool) {
        self.outbox.resume_spill();
        let Some(group) = self.outbox.poll_spill(self.now) else { return };
        assert!(self.outbox.poll_spill(self.now).is_none(), "one group at a time");
        self.mark = (group.forgotten, group.everywhere);
        if works {
            self.disk.extend(group.items);
            self.outbox.spilled();
        } else {
            self.outbox.spill_failed();
        }
    }

    fn load(&mut self, unread: bool) {
        let Some(load) = self.outbox.poll_load() else { return };
        if unread {
            // The connection goes while the disk reads.
            self.reconnect(load.consumer.get());
        }
        let found = load.items.iter().map(|no| Some(Arc::clone(&self.disk[no]))).collect();
        self.outbox.loaded(&load, found);
    }

    /// The process dies and starts anew; the source sends again what was not durable.
    fn crash(&mut self, stale_mark: bool) {
        let durable = self.outbox.durable_below();
        if !stale_mark {
            self.mark = (self.outbox.first(), self.outbox.durable_at_all());
        }
        let first = self.mark.0;
        self.disk.retain(|no, _| *no >= first);
        let first = self.disk.keys().next().copied().unwrap_or(first);
        // A stale mark leaves items that others followed through memory only: the last stretch counts.
        let mut start = self.disk.keys().next_back().map_or(first, |no| no.next());
        while start > first && self.disk.contains_key(&ItemNo::new(start.get() - 1)) {
            start = ItemNo::new(start.get() - 1);
        }
        self.disk.retain(|no, _| *no >= start);
        let items: Vec<_> = self.disk.values().map(|b| RecoveredItem::Sound(Summary::of(b))).collect();
        let recovered = Recovered { first: start, items, everywhere: self.mark.1 };
        self.outbox = Outbox::recovered(self.config, 2, recovered);
        let resend: Vec<usize> = self.items.range(durable.item..).map(|(_, id)| *id).collect();
        self.items = self.disk.iter().map(|(no, b)| (*no, id(b))).collect();
        self.attach();
        for again in resend {
            while let Err(_full) = self.outbox.push(Arc::clone(&self.made[again]), self.now) {
                self.drain();
            }
            let no = ItemNo::new(self.outbox.end().get() - 1);
            self.items.insert(no, again);
        }
    }

    fn check(&self) {
        let (durable, status) = (self.outbox.durable_below(), self.outbox.status());
        assert!(status.memory_bytes <= MEMORY + 6200, "one batch above the limit at most");
        assert!(status.spooled_bytes <= DISK);
        for (no, id) in self.items.range(..durable.item) {
            let everywhere = self.receivers.iter().all(|r| r.durable > *id);
            assert!(everywhere || self.disk.contains_key(no), "{no} is not durable below");
        }
        let everywhere = (0..2).map(|c| self.durable_lsn(c)).min().unwrap();
        assert!(self.outbox.everywhere() <= everywhere);
    }

    /// Everything reaches everyone.
    fn drain(&mut self) {
        self.outbox.resume_spill();
        for _ in 0..10_000 {
            for c in 0..2 {
                self.take(c);
                self.ack(c, 1);
            }
            self.load(false);
            if self.outbox.is_drained() {
                return;
            }
        }
        panic!("not drained: {:?}", self.outbox.status());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_skipped_and_nothing_counts_as_durable_that_is_not(
        steps in vec(step(), 1..200),
        aged in any::<bool>(),
    ) {
        let mut world = World::new(aged.then_some(Duration::from_millis(200)));
        for step in &steps {
            world.run(step);
        }
        world.drain();
        world.check();
        prop_assert!(world.receivers.iter().all(|r| r.durable == world.made.len()));
        let status = world.outbox.status();
        prop_assert_eq!((status.items, status.memory_bytes, status.spooled_bytes, status.queued_bytes), (0, 0, 0, 0));
    }
}
