//! Both machines against each other in a world where connections break, receivers crash and durability comes late.
//!
//! Whatever happens: what is acknowledged is durable, records arrive in order and once, and when the world calms
//! down everything has arrived.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use cx_wire::{
    Given, Heartbeat, Hello, Message, PROTOCOL, Receiver, ReceiverEvent, Sender, SenderEvent, TapState,
    TapStatus, Welcome,
};
use proptest::prelude::*;
use tap_block::{Batch, Entry, Epoch, Lsn, Monotonic, WallTime};
use testbed_model::Workload;

const CREDIT: u64 = 100_000;

#[derive(Debug, Clone, Copy)]
enum Step {
    /// The tap has another batch.
    Produce,
    /// Messages arrive below.
    Down(u8),
    /// Messages arrive above.
    Up(u8),
    /// The oldest of what waits below becomes durable.
    Settle(u8),
    /// The connection breaks; what was on its way is gone.
    Break,
    /// The receiver's process dies: what was not durable is gone.
    Crash,
    Connect,
    Wait(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => Just(Step::Produce),
        8 => (1u8..5).prop_map(Step::Down),
        8 => (1u8..5).prop_map(Step::Up),
        4 => (1u8..4).prop_map(Step::Settle),
        1 => Just(Step::Break),
        1 => Just(Step::Crash),
        3 => Just(Step::Connect),
        1 => (0u16..3000).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 1..150)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn nothing_acknowledged_is_lost_and_order_is_kept(seed in 0u64..64, steps in steps()) {
        let mut world = World::new(seed);
        for step in steps {
            world.step(step);
        }
        world.calm_down();
        prop_assert_eq!(world.acked, world.items.len());
        prop_assert_eq!(records(&world.durable), records(&world.items));
        let copies = copies(&world.durable);
        prop_assert!(self::copies(&world.items).iter().all(|c| copies.contains(c)));
    }
}

struct World {
    now: Monotonic,
    hello: Hello,
    items: Vec<Arc<Batch>>,
    produced: usize,
    next: usize,
    acked: usize,
    pending: Option<Arc<Batch>>,
    link: Option<Link>,
    connections: u64,
    /// Given to the program below, with connection and number.
    waiting: VecDeque<(u64, u64, Arc<Batch>)>,
    durable: Vec<Arc<Batch>>,
}

struct Link {
    id: u64,
    above: Sender,
    below: Receiver,
    down: VecDeque<Message>,
    up: VecDeque<Message>,
    ready: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut work = Workload::new(seed);
        let mut items = vec![work.begin()];
        for n in 0..40 {
            items.push(match n % 8 {
                3 => work.copies(),
                6 if n % 3 == 0 => work.restart(100, None),
                _ => work.batch(4),
            });
        }
        Self {
            now: Monotonic::from_nanos(1),
            hello: hello(&work),
            items: items.into_iter().filter(|b| !b.entries.is_empty()).map(Arc::new).collect(),
            produced: 0,
            next: 0,
            acked: 0,
            pending: None,
            link: None,
            connections: 0,
            waiting: VecDeque::new(),
            durable: Vec::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Produce => self.produced = (self.produced + 1).min(self.items.len()),
            Step::Down(n) => (0..n).for_each(|_| self.deliver_down()),
            Step::Up(n) => (0..n).for_each(|_| self.deliver_up()),
            Step::Settle(n) => self.settle(usize::from(n)),
            Step::Break => self.link = None,
            Step::Crash => {
                self.link = None;
                self.waiting.clear();
            }
            Step::Connect => self.connect(),
            Step::Wait(millis) => self.wait(Duration::from_millis(u64::from(millis))),
        }
        self.send();
    }

    fn connect(&mut self) {
        if self.link.is_none() {
            self.connections += 1;
            self.pending = None;
            self.link = Some(Link {
                id: self.connections,
                above: Sender::new(self.hello.clone(), self.now),
                below: Receiver::new(self.now),
                down: VecDeque::new(),
                up: VecDeque::new(),
                ready: false,
            });
        }
    }

    fn wait(&mut self, by: Duration) {
        self.now = self.now.plus(by);
        if let Some(link) = &mut self.link {
            link.above.handle_timeout(self.now);
            link.below.handle_timeout(self.now);
        }
        self.act();
    }

    fn deliver_down(&mut self) {
        let Some(link) = &mut self.link else { return };
        if let Some(message) = link.down.pop_front() {
            link.below.handle_message(message, self.now).unwrap();
        }
        self.act();
    }

    fn deliver_up(&mut self) {
        let Some(link) = &mut self.link else { return };
        if let Some(message) = link.up.pop_front() {
            link.above.handle_message(message, self.now).unwrap();
        }
        self.act();
    }

    /// Handles every event on both sides and puts the messages on their way.
    fn act(&mut self) {
        while let Some(event) = self.link.as_mut().and_then(|l| l.above.poll_event()) {
            self.handle_above(event);
        }
        while let Some(event) = self.link.as_mut().and_then(|l| l.below.poll_event()) {
            self.handle_below(event);
        }
        let Some(link) = &mut self.link else { return };
        link.down.extend(std::iter::from_fn(|| link.above.poll_message()));
        link.up.extend(std::iter::from_fn(|| link.below.poll_message(self.now)));
    }

    fn handle_above(&mut self, event: SenderEvent) {
        match event {
            SenderEvent::Ready(welcome) => {
                let has = |b: &Arc<Batch>| b.last_lsn().is_some_and(|l| l <= welcome.durable);
                self.next = self.items.iter().rposition(has).map_or(0, |at| at + 1);
                assert!(self.next >= self.acked || copies_only(&self.items[self.next..self.acked]));
                self.acked = self.next;
                self.link.as_mut().unwrap().ready = true;
            }
            SenderEvent::Acked { batches, durable, .. } => {
                self.acked += batches as usize;
                assert!(self.acked <= self.next);
                self.check_acknowledged(durable);
            }
            SenderEvent::HeartbeatDue => self.link.as_mut().unwrap().above.heartbeat(heartbeat()),
            SenderEvent::Lost(_) => self.link = None,
            SenderEvent::Asked(_)
            | SenderEvent::Found(_)
            | SenderEvent::Ledger(_)
            | SenderEvent::Witnessed(_)
            | SenderEvent::Refused(_) => panic!("{event:?}"),
        }
    }

    fn check_acknowledged(&self, durable: Lsn) {
        let (mine, theirs) = (records(&self.items[..self.acked]), records(&self.durable));
        assert!(theirs.starts_with(&mine), "an acknowledged record is not durable");
        assert!(theirs.iter().map(|e| e.position.lsn()).max().unwrap_or(Lsn::ZERO) >= durable);
        let kept = copies(&self.durable);
        assert!(copies(&self.items[..self.acked]).iter().all(|c| kept.contains(c)), "a copy is lost");
    }

    fn handle_below(&mut self, event: ReceiverEvent) {
        match event {
            ReceiverEvent::Opened(_) => {
                let (welcome, given) = (self.welcome(), self.given());
                let now = self.now;
                self.link.as_mut().unwrap().below.accept(welcome, given, now);
            }
            ReceiverEvent::Batch { number, batch } => {
                let id = self.link.as_ref().unwrap().id;
                self.waiting.push_back((id, number, batch));
                let taken = self.durable.iter().chain(self.waiting.iter().map(|(.., b)| b));
                let taken = records(&taken.cloned().collect::<Vec<_>>());
                assert!(records(&self.items).starts_with(&taken), "out of order or twice");
            }
            ReceiverEvent::Heartbeat(_) => {}
            ReceiverEvent::Closed(_) => self.link = None,
            ReceiverEvent::Answered(_) | ReceiverEvent::Queried(_) => panic!("{event:?}"),
        }
    }

    fn welcome(&self) -> Welcome {
        let last = self.durable.iter().rev().find_map(|b| b.last_lsn().map(|l| (b.run, l)));
        Welcome {
            durable: last.map_or(Lsn::ZERO, |(_, l)| l),
            durable_run: last.map(|(run, _)| run),
            known: last.is_some(),
            credit: CREDIT,
            store: None,
            past: None,
            last: None,
        }
    }

    fn given(&self) -> Vec<Given> {
        let steps = self.waiting.iter().filter_map(|(.., b)| b.last_lsn().map(|last| (b.run, last)));
        let mut given: Vec<Given> = Vec::new();
        for (run, last) in steps {
            match given.last_mut() {
                Some(newest) if newest.run == run => newest.last = last,
                _ => given.push(Given { run, last }),
            }
        }
        given
    }

    /// The `n` oldest become durable; the program says so in the wrong order.
    fn settle(&mut self, n: usize) {
        let n = n.min(self.waiting.len());
        let settled: Vec<_> = self.waiting.drain(..n).collect();
        self.durable.extend(settled.iter().map(|(.., b)| Arc::clone(b)));
        let durable = self.welcome().durable;
        if let Some(link) = &mut self.link {
            for (id, number, _) in settled.into_iter().rev() {
                if id == link.id {
                    link.below.finished(number);
                }
            }
            link.below.durable(durable, Lsn::ZERO);
        }
        self.act();
    }

    fn send(&mut self) {
        while let Some(link) = self.link.as_mut().filter(|l| l.ready) {
            let next = self.pending.take().or_else(|| {
                let item = self.items[..self.produced].get(self.next).cloned();
                self.next += usize::from(item.is_some());
                item
            });
            let Some(batch) = next else { break };
            if !link.above.can_send(batch.weight()) {
                self.pending = Some(batch);
                break;
            }
            link.above.send(batch).unwrap();
        }
        self.act();
    }

    fn calm_down(&mut self) {
        self.produced = self.items.len();
        for _ in 0..2000 {
            if self.acked == self.items.len() {
                break;
            }
            for step in [Step::Connect, Step::Down(4), Step::Settle(4), Step::Up(4)] {
                self.step(step);
            }
        }
    }
}

fn copies_only(items: &[Arc<Batch>]) -> bool {
    items.iter().all(|b| b.last_lsn().is_none())
}

fn entries(all: &[Arc<Batch>]) -> impl Iterator<Item = Entry> {
    all.iter().flat_map(|b| b.entries.iter().cloned())
}

fn records(all: &[Arc<Batch>]) -> Vec<Entry> {
    entries(all).filter(|e| !e.position.is_copy()).collect()
}

fn copies(all: &[Arc<Batch>]) -> Vec<Entry> {
    entries(all).filter(|e| e.position.is_copy()).collect()
}

fn hello(work: &Workload) -> Hello {
    Hello {
        protocol: PROTOCOL,
        stream: work.stream(),
        volume: work.volume(),
        name: "web01".parse().unwrap(),
        size: work.size(),
        epoch: Epoch::new(0),
        run: work.run(),
        first_lsn: Lsn::ZERO.next(),
        sender: "a test".to_owned(),
    }
}

fn heartbeat() -> Heartbeat {
    let status = TapStatus {
        state: TapState::Protected,
        queued_bytes: 0,
        spooled_bytes: 0,
        marked_bytes: 0,
        sync: None,
        baselines: 1,
        resynced_bytes: 0,
    };
    Heartbeat {
        head: Lsn::ZERO,
        at: WallTime::EPOCH,
        status,
        ledgers: None,
        witnesses: Vec::new(),
        stores: Vec::new(),
        refused: None,
        set_back: None,
    }
}
