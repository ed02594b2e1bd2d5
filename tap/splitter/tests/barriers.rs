//! The order of history, and barriers of a consistency group, against the oracle: whatever the interleaving over several volumes,
//! each point of a volume, and the state at a mark over all members, holds, with each write, every write that was answered before
//! that one was submitted.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use tap_block::units::{count, index};
use tap_block::{
    BLOCK_SIZE, BarrierMark, Epoch, Extent, ExtentSet, Lsn, MarkId, Marker, Monotonic, RunId, RunStart,
    StreamId, VolumeId, WallTime,
};
use tap_splitter::seal::Identity;
use tap_splitter::{
    Action, Change, Config, Event, Now, OpId, RegionMarks, RegionSize, Splitter, Start, seal,
};
use testbed_model::{Oracle, Random};

const MEMBERS: u64 = 3;
/// Each write has a sector of its own in one of its volume's blocks.
const WRITES: u64 = 240;
const SIZE: u64 = WRITES * 512 + BLOCK_SIZE;

struct Member {
    id: VolumeId,
    splitter: Splitter,
    oracle: Oracle,
    disk: Vec<u8>,
    /// Started on the local disk and not over yet.
    started: Vec<OpId>,
    fills: Vec<(OpId, Extent)>,
}

/// A write of the guest.
struct Write {
    member: usize,
    sector: u64,
    extent: Extent,
    /// Which were answered when it was submitted.
    after: Vec<OpId>,
}

struct World {
    random: Random,
    now: Now,
    members: Vec<Member>,
    writes: BTreeMap<OpId, Write>,
    answered: Vec<OpId>,
    marks: Vec<Vec<Lsn>>,
    /// Marks that were put while a write of a part of a block waited for the rest of it.
    amid: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let now = Now { wall: WallTime::from_nanos(1_000), monotonic: Monotonic::from_nanos(1_000) };
        Self {
            random: Random::new(seed),
            now,
            members: (1..=MEMBERS).map(|n| Member::new(n, now)).collect(),
            writes: BTreeMap::new(),
            answered: Vec::new(),
            marks: Vec::new(),
            amid: 0,
        }
    }

    fn step(&mut self) {
        let pause = Duration::from_micros(self.random.below(1500));
        self.now.wall = self.now.wall.plus(pause);
        self.now.monotonic = self.now.monotonic.plus(pause);
        // Somebody sets the clock.
        if self.random.one_in(200) {
            self.now.wall = WallTime::from_nanos(1_000 + self.random.below(3_600_000_000_000));
        }
        match self.random.below(12) {
            0..=2 => self.submit(),
            3..=5 => self.complete(),
            6..=9 => self.fill(),
            _ => self.barrier(),
        }
    }

    fn submit(&mut self) {
        let no = count(self.writes.len());
        if no >= WRITES {
            return;
        }
        let (id, member, whole) = (OpId(no + 1), index(self.random.below(MEMBERS)), self.random.one_in(3));
        let sector = Extent::between(no * 512, (no + 1) * 512);
        // Whole blocks have their LSN when they are answered; what is left of the disk is written as it is.
        let extent = if whole { sector.to_blocks() } else { sector };
        let mut data = self.members[member].disk[range(extent)].to_vec();
        let at = index(sector.offset() - extent.offset());
        data[at..at + 512].fill(1);
        if whole && self.members[member].is_busy() {
            return;
        }
        let after = self.answered.clone();
        self.writes.insert(id, Write { member, sector: no, extent, after });
        let change = Change::Write(Bytes::from(data));
        self.apply(member, Event::Submit { op: id, extent, change });
    }

    fn complete(&mut self) {
        let member = index(self.random.below(MEMBERS));
        let some = self.random.below(count(self.members[member].started.len()));
        if self.members[member].started.is_empty() {
            return;
        }
        let op = self.members[member].started.swap_remove(index(some));
        let at = index(self.writes[&op].sector * 512);
        self.members[member].disk[at..at + 512].fill(1);
        self.apply(member, Event::Written { op, whole: true });
    }

    fn fill(&mut self) {
        let member = index(self.random.below(MEMBERS));
        let some = self.random.below(count(self.members[member].fills.len()));
        if self.members[member].fills.is_empty() {
            return;
        }
        let (op, extent) = self.members[member].fills.swap_remove(index(some));
        let content = Some(Bytes::copy_from_slice(&self.members[member].disk[range(extent)]));
        self.apply(member, Event::Filled { op, extent, content });
    }

    fn barrier(&mut self) {
        assert!(self.members.iter().all(|m| m.splitter.takes_marks()));
        (0..self.members.len()).for_each(|member| self.apply(member, Event::Clock));
        let at = self.members.iter().map(|m| m.splitter.earliest_mark(self.now)).max().unwrap();
        let mark = BarrierMark {
            id: MarkId::new(at.nanos()),
            group: "db".parse().unwrap(),
            members: self.members.iter().map(|m| m.id).collect(),
            bookmark: None,
        };
        for member in 0..self.members.len() {
            self.apply(member, Event::Barrier { mark: mark.clone(), at });
        }
        self.marks.push(self.members.iter().map(|m| m.splitter.head()).collect());
        self.amid += u64::from(self.members.iter().any(|m| !m.fills.is_empty()));
    }

    fn apply(&mut self, member: usize, event: Event) {
        let mut actions = Vec::new();
        self.members[member].splitter.apply(event, self.now, &mut actions);
        for action in actions {
            match action {
                Action::Start(op) => self.members[member].started.push(op),
                Action::Fill { op, extent } => self.members[member].fills.push((op, extent)),
                Action::Answer(op) => self.answered.push(op),
                Action::Wake => {}
                other => panic!("{other:?}"),
            }
        }
        self.members[member].deliver(self.now);
    }

    /// Is every point of a member closed under "was answered before" of its own writes?
    fn check_order(&self) {
        for (n, member) in self.members.iter().enumerate() {
            let own = |op: &&OpId| self.writes[*op].member == n;
            for lsn in member.oracle.lsns() {
                let image = member.oracle.image_at(member.id, lsn);
                let holds = |op: &OpId| image[index(self.writes[op].sector * 512)] == 1;
                for op in self.writes.keys().filter(own).filter(|op| holds(op)) {
                    let before = self.writes[op].after.iter().filter(own);
                    let missing: Vec<_> = before.filter(|before| !holds(before)).collect();
                    assert!(missing.is_empty(), "{op:?} is in {lsn}, and {missing:?} not");
                }
            }
        }
    }

    /// Is the cut of every mark closed under "was answered before"?
    fn check(&self) {
        for mark in &self.marks {
            let images: Vec<Vec<u8>> =
                self.members.iter().zip(mark).map(|(m, &lsn)| m.oracle.image_at(m.id, lsn)).collect();
            let holds = |op: &OpId| {
                let write = &self.writes[op];
                images[write.member][index(write.sector * 512)] == 1
            };
            for (op, write) in self.writes.iter().filter(|(op, _)| holds(op)) {
                let missing: Vec<_> = write.after.iter().filter(|before| !holds(before)).collect();
                assert!(
                    missing.is_empty(),
                    "{op:?} ({}) is before {mark:?}, and {missing:?} not",
                    write.extent
                );
            }
        }
        for member in &self.members {
            let marks = member.oracle.markers().into_iter().filter_map(|(lsn, at, marker)| match marker {
                Marker::Barrier(mark) => Some((lsn, at.nanos(), mark.id.get())),
                _ => None,
            });
            assert!(marks.clone().all(|(_, at, id)| at == id), "a mark's record has the mark's time");
            assert_eq!(marks.count(), self.marks.len());
            member.check_times(self.now.wall);
        }
    }
}

impl Member {
    fn new(n: u64, now: Now) -> Self {
        let id = VolumeId::new(n);
        let run = RunStart {
            previous: None,
            durable: Lsn::ZERO,
            volume: id,
            name: format!("vol{n}").parse().unwrap(),
            size: SIZE,
            sync: None,
        };
        let start = Start {
            run,
            first_lsn: Lsn::ZERO.next(),
            bound: Lsn::ZERO.plus(1 << 20),
            marks: RegionMarks::repeat(true, RegionSize::for_volume(SIZE).count(SIZE)),
            dirty: ExtentSet::new(),
            fresh: false,
            compare: false,
            unproven: false,
        };
        let config = Config { size: SIZE, queue_limit: 64 << 20, copy_size: 1 << 20 };
        let splitter = Splitter::start(config, start, now, &mut Vec::new());
        let disk = vec![0; index(SIZE)];
        Self { id, splitter, oracle: Oracle::new(), disk, started: Vec::new(), fills: Vec::new() }
    }

    /// A whole block is written with what others are about to leave there.
    fn is_busy(&self) -> bool {
        !self.started.is_empty() || !self.fills.is_empty()
    }

    /// Time goes back only where a record says that the clock was set, and never stands still for an hour.
    fn check_times(&self, now: WallTime) {
        let oracle = &self.oracle;
        let times: Vec<(Lsn, WallTime)> =
            oracle.lsns().into_iter().map(|lsn| (lsn, oracle.time_of(lsn).unwrap())).collect();
        let set: Vec<Lsn> = oracle.markers().into_iter().filter(|m| is_clock(&m.2)).map(|m| m.0).collect();
        for pair in times.windows(2) {
            assert!(pair[0].1 <= pair[1].1 || set.contains(&pair[1].0), "{pair:?}, set at {set:?}");
        }
        assert!(times.iter().all(|(_, at)| *at <= now) || !set.is_empty());
    }

    fn deliver(&mut self, now: Now) {
        let (mut records, next) = (Vec::new(), self.splitter.head().next());
        self.splitter.take(u64::MAX, usize::MAX, now, &mut records);
        if !records.is_empty() {
            let (stream, run) = (StreamId::new(self.id.get()), RunId::new(1));
            let whose = Identity { stream, volume: self.id, run, epoch: Epoch::new(1) };
            self.oracle.apply(&seal(whose, next, records)).unwrap();
        }
    }
}

fn is_clock(marker: &Marker) -> bool {
    matches!(marker, Marker::ClockSet { .. })
}

fn range(extent: Extent) -> std::ops::Range<usize> {
    index(extent.offset())..index(extent.end())
}

#[test]
fn the_state_at_a_mark_holds_all_that_was_answered_before_any_of_it_was_written() {
    let runs = std::env::var("PROPERTY_RUNS").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    let (mut marks, mut amid) = (0, 0);
    for seed in 0..runs {
        let mut world = World::new(seed);
        for _ in 0..900 {
            world.step();
        }
        world.check();
        marks += world.marks.len();
        amid += world.amid;
    }
    assert!(marks > 500, "{marks} marks");
    assert!(amid > 50, "{amid} marks amid writes of parts of blocks");
}

#[test]
fn a_point_holds_all_that_was_answered_before_any_of_it_was_written() {
    for seed in 0..12 {
        let mut world = World::new(seed);
        for _ in 0..900 {
            world.step();
        }
        world.check_order();
        let answered: BTreeSet<_> = world.answered.iter().collect();
        assert_eq!(answered.len(), world.answered.len(), "each once");
    }
}
