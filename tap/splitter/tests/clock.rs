//! A clock that is set while the tap runs: times go on by it, and a record says where.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::time::Duration;

use tap_block::{
    Bookmark, Consistency, ExtentSet, Lsn, Marker, Monotonic, RunId, RunStart, SyncCause, VolumeId, WallTime,
};
use tap_splitter::{BookmarkId, Config, Content, Event, Now, RegionMarks, RegionSize, Splitter, Start};

const SIZE: u64 = 1 << 20;
const HOUR: u64 = 3600;

/// A splitter, and the two clocks of its machine in seconds.
struct World {
    splitter: Splitter,
    wall: u64,
    monotonic: u64,
    made: u64,
}

impl World {
    fn new(sync: Option<SyncCause>) -> Self {
        let run = RunStart {
            previous: Some(RunId::new(1)),
            durable: Lsn::ZERO,
            volume: VolumeId::new(1),
            name: "web01".parse().unwrap(),
            size: SIZE,
            sync,
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
        let (wall, monotonic) = (100 * HOUR, 5);
        let splitter = Splitter::start(config, start, now(wall, monotonic), &mut Vec::new());
        let mut world = Self { splitter, wall, monotonic, made: 0 };
        world.records();
        world
    }

    fn pass(&mut self, seconds: u64) -> &mut Self {
        (self.wall, self.monotonic) = (self.wall + seconds, self.monotonic + seconds);
        self
    }

    fn set(&mut self, wall: u64) -> &mut Self {
        self.wall = wall;
        self
    }

    fn tell(&mut self, event: Event) -> &mut Self {
        self.splitter.apply(event, now(self.wall, self.monotonic), &mut Vec::new());
        self
    }

    fn bookmark(&mut self) -> &mut Self {
        self.made += 1;
        let name = format!("b{}", self.made).parse().unwrap();
        let bookmark = Bookmark { name, consistency: Consistency::Crash, note: String::new() };
        self.tell(Event::Bookmark { id: BookmarkId(self.made), bookmark })
    }

    /// Their times in seconds, and what a clock would have shown where it was set.
    fn records(&mut self) -> Vec<(u64, Option<u64>)> {
        let mut taken = Vec::new();
        self.splitter.take(u64::MAX, usize::MAX, now(self.wall, self.monotonic), &mut taken);
        let seconds = |at: WallTime| at.nanos() / 1_000_000_000;
        let told = |content: &Content| match content {
            Content::Mark(Marker::ClockSet { before }) => Some(seconds(*before)),
            _ => None,
        };
        taken.iter().map(|r| (seconds(r.captured_at), told(&r.content))).collect()
    }
}

fn now(wall: u64, monotonic: u64) -> Now {
    let wall = WallTime::EPOCH.plus(Duration::from_secs(wall));
    Now { wall, monotonic: Monotonic::from_nanos(monotonic * 1_000_000_000) }
}

#[test]
fn time_goes_on_after_a_clock_was_set_back_and_ahead() {
    let mut world = World::new(None);
    world.pass(10).bookmark();
    assert_eq!(world.records(), [(100 * HOUR + 10, None)]);
    // Back a day, noticed without a write.
    world.set(76 * HOUR).pass(5).tell(Event::Tick).tell(Event::Tick);
    assert_eq!(world.records(), [(76 * HOUR + 5, Some(100 * HOUR + 15))]);
    world.pass(5).bookmark();
    assert_eq!(world.records(), [(76 * HOUR + 10, None)]);
    // Ahead by a year, and right again.
    world.set(9000 * HOUR).bookmark();
    assert_eq!(world.records(), [(9000 * HOUR, Some(76 * HOUR + 10)), (9000 * HOUR, None)]);
    world.pass(7).set(100 * HOUR).bookmark();
    assert_eq!(world.records(), [(100 * HOUR, Some(9000 * HOUR + 7)), (100 * HOUR, None)]);
}

#[test]
fn what_is_no_more_than_a_leap_second_is_no_jump_and_time_waits() {
    let mut world = World::new(None);
    world.set(100 * HOUR - 2).bookmark();
    world.pass(1).bookmark().pass(2).bookmark();
    assert_eq!(world.records(), [(100 * HOUR, None), (100 * HOUR, None), (100 * HOUR + 1, None)]);
    world.set(100 * HOUR + 3).bookmark();
    assert_eq!(world.records(), [(100 * HOUR + 3, None)]);
}

#[test]
fn a_clock_that_is_set_all_the_time_fills_no_journal() {
    let mut world = World::new(None);
    for n in 0..600 {
        world.pass(1).set(50 * HOUR + n * 100 * (n % 2)).tell(Event::Tick);
    }
    let told = world.records().len();
    assert!((8..=18).contains(&told), "{told} records in ten minutes");
}

#[test]
fn a_peer_that_knows_no_such_record_ends_no_sync_by_it() {
    let mut world = World::new(Some(SyncCause::FailedWrite));
    world.splitter.apply(
        Event::Resync { dirty: ExtentSet::new() },
        now(world.wall, world.monotonic),
        &mut Vec::new(),
    );
    world.set(50 * HOUR).tell(Event::Tick).tell(Event::Tick);
    let times: Vec<_> = world.records();
    let end = times.iter().position(|(_, told)| told.is_some()).unwrap_or(times.len());
    assert!(times[..end].iter().all(|(at, _)| *at >= 100 * HOUR), "{times:?}");
}
