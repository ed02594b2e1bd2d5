//! Retention and holds run on time that went by: a clock that jumps ages nothing, however often the store is opened.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::lab::{Lab, cut, policy};
use gateway_journal::{Hold, Mark, MetaRecord};
use gateway_store::{MarkStore, MemoryMark, Parts, Store};

use tap_block::{Clock, Lsn, Monotonic, WallTime};
use testbed_model::Random;

const DAY: Duration = Duration::from_secs(24 * 3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// A wall clock that can be set, and a monotonic one that cannot.
struct Hands(Mutex<(WallTime, u64)>);

impl Hands {
    fn set(&self, ahead: Duration) {
        let mut hands = self.0.lock().unwrap();
        hands.0 = hands.0.plus(ahead);
    }

    fn set_back(&self, by: Duration) {
        let mut hands = self.0.lock().unwrap();
        hands.0 = hands.0.minus(by);
    }

    fn run(&self, time: Duration) {
        self.set(time);
        self.0.lock().unwrap().1 += u64::try_from(time.as_nanos()).unwrap();
    }
}

impl Clock for Hands {
    fn wall(&self) -> WallTime {
        self.0.lock().unwrap().0
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic::from_nanos(self.0.lock().unwrap().1)
    }
}

/// A store with a history of an hour, of which all but the newest 100 s may go once a hold of eight days is over; and a point
/// that the hold alone keeps.
fn held() -> (Lab, Arc<Hands>, Lsn) {
    let mut lab = Lab::new(5, policy(100, &[], 0));
    let clock = Arc::new(Hands(Mutex::new((lab.clock.wall(), 0))));
    lab.store = None;
    lab.disk.clock = Arc::clone(&clock) as _;
    lab.open();
    let from = lab.store().age();
    for batch in lab.workload.history(60) {
        lab.append(&batch);
        clock.run(Duration::from_secs(60));
    }
    let (volume, to) = (lab.volume(), lab.store().age());
    let hold = Hold {
        volume,
        from,
        to,
        until: to.plus(DAY * 8),
        credited: lab.store().credited(),
        note: String::new(),
    };
    lab.rule(MetaRecord::Held(hold));
    let catalogue = lab.store().catalogue();
    let known = catalogue.volume(volume).unwrap();
    let point = lab.oracle.lsns().into_iter().find(|lsn| known.selectable(*lsn).is_ok()).unwrap();
    (lab, clock, point)
}

fn settle(lab: &mut Lab, clock: &Hands) {
    clock.run(Duration::from_secs(200));
    let batch = lab.workload.batch(1);
    lab.append(&batch);
    clock.run(Duration::from_secs(200));
    lab.wait_for_index();
    lab.settle();
}

#[test]
fn no_number_of_restarts_with_a_clock_ahead_ends_a_hold() {
    let (mut lab, clock, point) = held();
    let began = lab.store().age();
    let mut random = Random::new(9);
    for n in 0..12 {
        lab.store = None;
        clock.set(YEAR);
        if n % 3 == 2 {
            // A crash on the way: what was noted of the credit outlives it.
            lab.open();
            lab.disk = cut(&lab.disk, &mut random);
        }
        lab.open();
        assert!(lab.store().age().since(began) <= DAY * 7, "restart {n}");
        // What is written carries the store's time: the next start goes on from there.
        let batch = lab.workload.batch(2);
        lab.append(&batch);
    }
    assert!(lab.store().status().uncounted.unwrap().uncounted > YEAR * 11);
    settle(&mut lab, &clock);
    lab.store().check_kept(lab.volume(), point).unwrap();
    // Time goes by: the hold ends, after as many days as it was made for.
    clock.run(DAY * 7 + Duration::from_secs(23 * 3600));
    assert!(is_held(&lab));
    clock.run(DAY / 24);
    assert!(!is_held(&lab));
}

#[test]
fn a_hold_shorter_than_the_credit_outlives_a_restart_with_a_clock_ahead() {
    let (mut lab, clock, point) = held();
    clock.run(DAY * 3);
    lab.store = None;
    clock.set(YEAR);
    lab.open();
    assert!(is_held(&lab), "five days are left, and seven were credited");
    settle(&mut lab, &clock);
    lab.store = None;
    // The clock is right again, and another restart counts nothing twice.
    lab.open();
    settle(&mut lab, &clock);
    lab.store().check_kept(lab.volume(), point).unwrap();
    // A hold that is made now ends when it says, whatever was credited before it.
    let (volume, from, to, credited) =
        (lab.volume(), WallTime::EPOCH, lab.store().age(), lab.store().credited());
    assert!(credited >= DAY * 6);
    lab.rule(MetaRecord::Held(Hold {
        volume,
        from,
        to,
        until: to.plus(DAY * 30),
        credited,
        note: String::new(),
    }));
    clock.run(DAY * 29);
    assert!(is_held(&lab));
    clock.run(DAY);
    assert!(!is_held(&lab));
}

fn is_held(lab: &Lab) -> bool {
    lab.store().catalogue().rules().holds_of(lab.volume(), lab.store().age()).next().is_some()
}

#[test]
fn an_outage_of_three_days_counts_and_an_idle_run_needs_no_credit() {
    let (mut lab, clock, _) = held();
    let began = lab.store().age();
    lab.store = None;
    clock.set(DAY * 3);
    lab.open();
    assert_eq!(lab.store().age().since(began), DAY * 3);
    // Nothing is written for a month.
    clock.run(DAY * 30);
    lab.open();
    assert_eq!(lab.store().age().since(began), DAY * 33);
    assert_eq!(lab.store().status().uncounted, None);
}

#[test]
fn what_was_not_counted_counts_once_somebody_confirms_it() {
    let (mut lab, clock, point) = held();
    lab.store = None;
    clock.set(YEAR);
    lab.open();
    let (before, offered) = (lab.store().age(), lab.store().elapsed());
    assert_eq!(offered.missed.unwrap().uncounted, offered.creditable);
    assert!(YEAR - DAY * 8 < offered.creditable && offered.creditable < YEAR);
    assert!(
        lab.store().confirm_elapsed(YEAR).is_err() && lab.store().confirm_elapsed(Duration::ZERO).is_err()
    );
    assert!(is_held(&lab));
    // Of the year that the clock says, sixty days did go by.
    lab.store().confirm_elapsed(DAY * 60).unwrap();
    let counted = || (lab.store().age(), lab.store().elapsed().missed, lab.store().status().uncounted);
    assert_eq!(counted(), (before.plus(DAY * 60), None, None));
    assert!(!is_held(&lab));
    assert!(lab.store().confirm_elapsed(DAY).is_err(), "no second time");
    // A crash does not take it back.
    lab.disk = cut(&lab.disk, &mut Random::new(3));
    lab.open();
    assert!(lab.store().age() >= before.plus(DAY * 60));
    assert_eq!(lab.store().elapsed().missed, None);
    settle(&mut lab, &clock);
    assert!(lab.store().check_kept(lab.volume(), point).is_err(), "the hold is over");
}

/// A mark that takes its time when it is asked to: until somebody else comes, and a while after.
struct Waits {
    mark: Arc<MemoryMark>,
    /// 1: the next note waits; 2: it does; 3: somebody came.
    step: Arc<AtomicU8>,
}

impl MarkStore for Waits {
    fn load(&self) -> Option<Vec<u8>> {
        self.mark.load()
    }

    fn store(&self, bytes: &[u8]) -> std::io::Result<()> {
        if self.step.compare_exchange(1, 2, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            while self.step.load(Ordering::SeqCst) < 3 {
                std::thread::yield_now();
            }
            (0..10_000).for_each(|_| std::thread::yield_now());
        }
        self.mark.store(bytes)
    }
}

/// What is noted last is what counts after a kill.
#[test]
fn of_two_who_confirm_the_same_time_at_once_one_is_refused() {
    let (mut lab, clock, _) = held();
    lab.store = None;
    clock.set(DAY * 30);
    let step = Arc::new(AtomicU8::new(0));
    let parts = Parts {
        mark: Box::new(Waits { mark: Arc::clone(&lab.disk.mark), step: Arc::clone(&step) }),
        ..lab.disk.parts()
    };
    let store = Store::open_on(lab.disk.config.clone(), Arc::clone(&lab.disk.clock), parts).unwrap();
    let missed = store.elapsed().creditable;
    assert!(missed > DAY * 20);
    let second = std::thread::spawn({
        let (store, step) = (Arc::clone(&store), Arc::clone(&step));
        move || {
            while step.load(Ordering::SeqCst) < 2 {
                std::thread::yield_now();
            }
            step.store(3, Ordering::SeqCst);
            store.confirm_elapsed(missed)
        }
    });
    step.store(1, Ordering::SeqCst);
    let first = store.confirm_elapsed(missed);
    let second = second.join().unwrap();
    // Whichever note of the keeper's was the one that waited.
    assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
    let noted = Mark::decode(&lab.disk.mark.load().unwrap()).unwrap().aged.unwrap();
    assert!(noted.at <= store.elapsed().machine, "the store's clock would be ahead of the machine's");
}

#[test]
fn a_clock_that_was_set_right_since_leaves_nothing_to_confirm() {
    let (mut lab, clock, _) = held();
    lab.store = None;
    clock.set(YEAR);
    lab.open();
    clock.set_back(YEAR);
    assert_eq!(lab.store().elapsed().creditable, Duration::ZERO);
    assert!(lab.store().confirm_elapsed(Duration::from_secs(1)).is_err());
    assert!(is_held(&lab));
}

/// Losing the note of what was credited is fine, for holds remember it: the machine is off for days, again and again.
#[test]
fn a_hold_is_no_shorter_for_a_lost_note_of_what_was_credited() {
    let (mut lab, clock, _) = held();
    lab.store = None;
    clock.set(DAY * 5);
    lab.disk.config.index_at_stop = true;
    lab.open();
    let (volume, to, credited) = (lab.volume(), lab.store().age(), lab.store().credited());
    assert!(credited >= DAY * 5 - Duration::from_secs(1));
    let note = "made late".to_owned();
    lab.rule(MetaRecord::Held(Hold { volume, from: to, to, until: to.plus(DAY * 8), credited, note }));
    for _ in 0..3 {
        lab.store = None;
        lab.disk.mark = Arc::default();
        clock.set(DAY * 5);
        lab.open();
        let batch = lab.workload.batch(2);
        lab.append(&batch);
    }
    let (catalogue, now) = (lab.store().catalogue(), lab.store().age());
    let left = catalogue.rules().holds_of(volume, now).map(|hold| hold.until.since(now)).max();
    assert!(left.is_some_and(|left| left > DAY * 8 - Duration::from_secs(60)), "{left:?}");
}
