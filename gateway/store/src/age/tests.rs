//! Restarts with clocks that are right, ahead, behind and jumping.

use std::sync::Mutex;

use super::*;

const DAY: u64 = 24 * 3600;

/// Wall clock and monotonic clock, in seconds.
#[derive(Default)]
struct Hands(Mutex<(u64, u64)>);

impl Clock for Hands {
    fn wall(&self) -> WallTime {
        WallTime::from_nanos(self.0.lock().unwrap().0 * 1_000_000_000)
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic::from_nanos(self.0.lock().unwrap().1 * 1_000_000_000)
    }
}

impl Hands {
    fn set(&self, wall: u64, monotonic: u64) {
        *self.0.lock().unwrap() = (wall, monotonic);
    }

    fn run(&self, seconds: u64) {
        let mut hands = self.0.lock().unwrap();
        hands.0 += seconds;
        hands.1 += seconds;
    }
}

fn seconds(age: &Age) -> u64 {
    age.now().nanos() / 1_000_000_000
}

fn started(wall: u64) -> (Arc<Hands>, Age) {
    let hands = Arc::new(Hands::default());
    hands.set(wall, 5);
    let age = Age::new(hands.clone(), None, None);
    (hands, age)
}

fn again(hands: &Arc<Hands>, age: &Age) -> Age {
    Age::new(hands.clone(), None, Some(age.note()))
}

#[test]
fn a_clock_that_jumps_ages_nothing() {
    let (hands, age) = started(1000 * DAY);
    hands.set(1365 * DAY, 15);
    assert_eq!(seconds(&age), 1000 * DAY + 10, "a year ahead while it runs");
    let last = Some(age.now());
    let old = |hands: &Arc<Hands>| seconds(&Age::new(hands.clone(), last, None));
    assert_eq!(old(&hands), 1007 * DAY + 10, "and over a restart of a store without a note");
    hands.set(999 * DAY, 0);
    assert_eq!(old(&hands), 1000 * DAY + 10, "a day back");
    hands.set(1003 * DAY, 0);
    assert_eq!(old(&hands), 1003 * DAY, "three days off");
}

#[test]
fn many_restarts_with_clocks_ahead_credit_seven_days_together() {
    let (hands, mut age) = started(1000 * DAY);
    for n in 1..100 {
        // Each time it is yet another year ahead, and nothing has run.
        let noted = age.note();
        hands.set((1000 + 365 * n) * DAY, 0);
        age = Age::new(hands.clone(), None, Some(noted));
    }
    assert_eq!(seconds(&age), 1007 * DAY);
    let told = age.uncounted().unwrap();
    assert_eq!(told.went.as_secs(), 99 * 365 * DAY);
    assert_eq!(told.uncounted.as_secs(), 99 * 365 * DAY - 7 * DAY);
    hands.run(7 * DAY);
    assert_eq!(age.uncounted(), None, "it has run for a week");
}

#[test]
fn the_budget_comes_back_with_time_that_ran_and_no_faster() {
    let (hands, age) = started(1000 * DAY);
    let noted = age.note();
    hands.set(1100 * DAY, 0);
    let age = Age::new(hands.clone(), None, Some(noted));
    assert_eq!(seconds(&age), 1007 * DAY);
    hands.run(2 * DAY);
    // What was written after the note proves that it ran on.
    let (noted, last) = (age.note(), Some(age.now().plus(Duration::from_secs(DAY))));
    hands.set(1200 * DAY, 0);
    let age = Age::new(hands.clone(), last, Some(noted));
    assert_eq!(seconds(&age), 1013 * DAY, "three days ran, three are credited");
    hands.run(100 * DAY);
    let noted = age.note();
    hands.set(1400 * DAY, 0);
    assert_eq!(seconds(&Age::new(hands, None, Some(noted))), 1120 * DAY, "seven at most");
}

#[test]
fn a_real_outage_is_credited_whole_and_a_clock_that_stays_wrong_once() {
    let (hands, age) = started(1000 * DAY);
    let noted = age.note();
    hands.set(1003 * DAY, 0);
    let age = Age::new(hands.clone(), None, Some(noted));
    assert_eq!((seconds(&age), age.uncounted()), (1003 * DAY, None), "three days");
    // It is set a year ahead while the store runs, and stays there: no restart credits any of that.
    hands.set(1368 * DAY, 0);
    let mut age = again(&hands, &age);
    for _ in 0..10 {
        age = again(&hands, &age);
    }
    assert_eq!((seconds(&age), age.uncounted()), (1003 * DAY, None));
}

#[test]
fn a_clock_set_back_changes_nothing() {
    let (hands, age) = started(1000 * DAY);
    let noted = age.note();
    hands.set(10 * DAY, 0);
    let age = Age::new(hands.clone(), None, Some(noted));
    assert_eq!((seconds(&age), age.uncounted()), (1000 * DAY, None));
    hands.run(DAY);
    assert_eq!(seconds(&again(&hands, &age)), 1001 * DAY);
    let noted = age.note();
    hands.set(1001 * DAY + 60, 0);
    let age = Age::new(hands, None, Some(noted));
    assert!(seconds(&age) <= 1008 * DAY, "put right, it is a jump like any other");
}

#[test]
fn a_credit_that_cannot_be_noted_is_not_given() {
    let (hands, age) = started(1000 * DAY);
    let noted = age.note();
    hands.set(1003 * DAY, 0);
    let age = Age::new(hands, None, Some(noted)).uncredited();
    assert_eq!(seconds(&age), 1000 * DAY);
    assert_eq!(age.note().budget, MOST_CREDIT);
}
