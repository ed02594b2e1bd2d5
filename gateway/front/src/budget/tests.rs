//! The budget alone, its clock by hand.

use tap_block::units::index;

use super::*;

const MINIMUM: u64 = 1 << 20;
/// A quarter: eight minima for four connections are a half, and so are the two quarters.
const QUARTER: u64 = 2 << 20;

struct Rig {
    budget: Arc<Budget>,
    now: Instant,
    next: u64,
}

impl Rig {
    fn new() -> Self {
        let budget = Arc::new(Budget::new(4 * QUARTER, 4));
        assert_eq!(budget.usage(0, |_| true).minimum, MINIMUM);
        Self { budget, now: Instant::now(), next: 0 }
    }

    fn share(&mut self) -> Share {
        self.next += 1;
        Share::new(&self.budget, self.next, &Arc::default(), self.now)
    }

    fn lent(&self) -> u64 {
        self.budget.usage(0, |_| true).lent
    }
}

#[test]
fn the_minimum_is_there_whatever_is_lent() {
    let mut rig = Rig::new();
    let (mut greedy, mut late, now) = (rig.share(), rig.share(), rig.now);
    assert!(greedy.ask(0, MINIMUM + QUARTER, now));
    assert_eq!((rig.lent(), greedy.allowance()), (QUARTER, MINIMUM + QUARTER));
    assert_eq!(late.allowance(), MINIMUM);
    assert!(late.ask(0, MINIMUM, now), "that is its own");
    assert!(!late.ask(0, MINIMUM + 1, now));
    assert!(rig.budget.is_short());
    late.keep(0);
    assert!(!rig.budget.is_short(), "it needs no more");
    drop(greedy);
    assert_eq!(rig.lent(), 0);
}

#[test]
fn what_comes_back_goes_to_those_who_wait_in_their_order() {
    let mut rig = Rig::new();
    let (mut first, now) = (rig.share(), rig.now);
    let (mut large, mut small) = (rig.share(), rig.share());
    assert!(first.ask(0, MINIMUM + QUARTER, now));
    assert!(!large.ask(0, MINIMUM + QUARTER, now));
    assert!(!small.ask(0, MINIMUM + 10, now));
    // There would be room for the small one, which came later.
    first.keep(MINIMUM + QUARTER - 100);
    assert_eq!(rig.lent(), QUARTER - 100);
    assert!(!small.ask(0, MINIMUM + 10, now));
    first.keep(MINIMUM);
    assert_eq!(rig.lent(), QUARTER, "it is lent to the large one already");
    assert!(large.ask(0, MINIMUM + QUARTER, now) && !small.ask(0, MINIMUM + 10, now));
    drop(large);
    assert!(small.ask(0, MINIMUM + 10, now));
    assert_eq!((rig.lent(), rig.budget.is_short()), (10, false));
}

#[test]
fn who_waits_and_goes_makes_way_also_with_what_it_was_given_meanwhile() {
    let mut rig = Rig::new();
    let (mut first, mut second, mut third) = (rig.share(), rig.share(), rig.share());
    let now = rig.now;
    assert!(first.ask(0, MINIMUM + QUARTER, now));
    assert!(!second.ask(0, MINIMUM + QUARTER, now) && !third.ask(0, MINIMUM + QUARTER, now));
    drop(first);
    drop(second);
    assert!(third.ask(0, MINIMUM + QUARTER, now));
    drop(third);
    assert_eq!((rig.lent(), rig.budget.is_short()), (0, false));
    assert!(rig.budget.lock().common.borrowers.is_empty());
}

#[test]
fn those_that_take_what_they_ask_for_have_a_quarter_of_their_own() {
    let mut rig = Rig::new();
    let (mut slow, mut quick, now) = (rig.share(), rig.share(), rig.now);
    slow.earn(64 << 10);
    assert!(slow.ask(0, MINIMUM + QUARTER, now));
    // It has earned 64 KiB, and holds far more.
    assert!(!slow.ask(MINIMUM + QUARTER, MINIMUM + QUARTER + 1, now));
    assert!(!quick.ask(0, 2 * MINIMUM, now), "it has shown nothing yet");
    quick.earn(1 << 20);
    assert!(quick.ask(0, 2 * MINIMUM, now));
    assert_eq!(rig.lent(), QUARTER + MINIMUM);
    assert!(!quick.ask(2 * MINIMUM, 2 * MINIMUM + 1, now), "no more than it has earned");
    // What it did a while ago counts half, and then no more.
    quick.keep(0);
    let later = now + HALF_LIFE;
    assert!(!quick.ask(0, 2 * MINIMUM, later) && quick.ask(0, MINIMUM + MINIMUM / 2, later));
    quick.keep(0);
    assert!(!quick.ask(0, MINIMUM + 64, later + 100 * HALF_LIFE));
}

#[test]
fn who_waits_in_one_line_waits_in_no_other() {
    let mut rig = Rig::new();
    let (mut slow, mut quick, mut third, now) = (rig.share(), rig.share(), rig.share(), rig.now);
    assert!(slow.ask(0, MINIMUM + QUARTER, now));
    quick.earn(index(QUARTER));
    assert!(quick.ask(0, MINIMUM + QUARTER, now));
    assert!(!third.ask(0, 2 * MINIMUM, now));
    third.earn(index(MINIMUM));
    assert!(!third.ask(0, 2 * MINIMUM, now), "now it waits with those that have earned it");
    assert_eq!(rig.budget.usage(0, |_| true).waiting, 1);
    drop((slow, quick));
    assert!(third.ask(0, 2 * MINIMUM, now));
    assert_eq!((rig.lent(), rig.budget.is_short()), (MINIMUM, false));
}

#[test]
fn while_others_wait_a_loan_is_not_kept_by_asking_on() {
    let mut rig = Rig::new();
    let (mut slow, mut other, now) = (rig.share(), rig.share(), rig.now);
    assert!(slow.ask(0, MINIMUM + QUARTER, now));
    // Nobody waits: what it has borrowed serves its next request as well.
    assert!(slow.ask(MINIMUM, MINIMUM + QUARTER, now));
    assert!(!other.ask(0, MINIMUM + QUARTER / 2, now));
    assert!(!slow.ask(MINIMUM + QUARTER / 4, MINIMUM + QUARTER, now), "now its next request waits");
    assert_eq!(rig.lent(), QUARTER / 4 + QUARTER / 2, "the other one has what it held no more");
    assert!(!slow.ask(MINIMUM + QUARTER / 4, MINIMUM + QUARTER, now));
    assert!(other.ask(0, MINIMUM + QUARTER / 2, now));
    drop(other);
    // Served while it waited, and not asked to give that back when it looks.
    let mut third = rig.share();
    assert!(slow.ask(MINIMUM + QUARTER / 4, MINIMUM + QUARTER, now));
    assert!(!third.ask(0, 2 * MINIMUM, now));
}

#[test]
fn a_request_larger_than_the_quarter_has_it_alone() {
    let mut rig = Rig::new();
    let (mut one, mut other, now) = (rig.share(), rig.share(), rig.now);
    assert!(one.ask(0, 10 * QUARTER, now));
    assert!(!one.ask(10 * QUARTER, 11 * QUARTER, now));
    assert!(!other.ask(0, 10 * QUARTER, now));
    one.keep(0);
    assert!(other.ask(0, 10 * QUARTER, now));
}

#[test]
fn what_a_connection_leaves_under_way_counts_until_it_is_over() {
    let mut rig = Rig::new();
    let (mut gone, mut other, now) = (rig.share(), rig.share(), rig.now);
    assert!(gone.ask(0, MINIMUM + 100, now));
    gone.retire(MINIMUM);
    assert_eq!(rig.lent(), MINIMUM, "all of it, as it has no minimum any more");
    assert!(!other.ask(0, MINIMUM + QUARTER, now));
    drop(gone);
    assert!(other.ask(0, MINIMUM + QUARTER, now));
    other.retire(0);
    assert_eq!(rig.lent(), 0);
}

#[test]
fn when_the_first_one_has_to_wait_those_who_hold_something_are_woken() {
    let mut rig = Rig::new();
    let (mut holder, mut other, now) = (rig.share(), rig.share(), rig.now);
    assert!(holder.ask(0, MINIMUM + QUARTER, now));
    let is_awake = |share: &Share| !share.mailbox.sleep(crate::mailbox::Stop::Run, std::task::Waker::noop());
    assert!(!is_awake(&holder));
    // A rest that nobody needs is kept, until somebody does.
    holder.keep(MINIMUM + QUARTER - 100);
    assert_eq!(rig.lent(), QUARTER);
    assert!(!other.ask(0, MINIMUM + 100, now) && is_awake(&holder));
    holder.keep(MINIMUM + QUARTER - 100);
    assert!(is_awake(&other) && other.ask(0, MINIMUM + 100, now));
}

#[test]
fn there_is_always_something_for_small_requests() {
    let budget = Budget::new(1000, 1000);
    assert_eq!(budget.usage(0, |_| true).minimum, LEAST);
}

/// Whatever connections do, no more is lent than there is, and nothing is lost.
#[test]
fn nothing_is_lent_twice_and_nothing_lost() {
    let mut rig = Rig::new();
    let mut seed = 1_u64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let mut shares: Vec<Share> = (0..20).map(|_| rig.share()).collect();
    let mut held = vec![0; shares.len()];
    for step in 0..20_000 {
        let now = rig.now + Duration::from_millis(step);
        let n = index(random(20));
        match random(8) {
            0 => {
                shares[n] = rig.share();
                held[n] = 0;
            }
            1 | 2 => {
                held[n] = random(held[n] + 1);
                shares[n].keep(held[n]);
            }
            3 => shares[n].earn(index(random(1 << 20))),
            _ => {
                let total = held[n] + random(QUARTER);
                if shares[n].ask(held[n], total, now) {
                    held[n] = total;
                    assert!(shares[n].allowance() >= total);
                }
            }
        }
        assert!(rig.lent() <= 2 * QUARTER, "{} lent at step {step}", rig.lent());
        let over: u64 = held.iter().map(|held| held.saturating_sub(MINIMUM)).sum();
        assert!(over <= rig.lent(), "{over} held of {} at step {step}", rig.lent());
    }
    drop(shares);
    let loans = rig.budget.lock();
    assert_eq!((loans.common.lent, loans.earned.lent), (0, 0));
    assert!(loans.common.line.is_empty() && loans.earned.line.is_empty());
}
