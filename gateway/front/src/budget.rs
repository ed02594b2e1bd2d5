//! What the connections of a front, or of several, may hold in memory, all together: requests on their way in, operations under way, and replies
//! that are not taken yet. Who waits for more must hold nothing that waits for that: a connection asks before it begins with a
//! request, and for all that the request will hold.
//!
//! Half of it is everybody's *minimum*: the same for each connection that there may be, and nobody asks for it. Whatever the
//! others do, a connection that needs no more goes on. The rest is lent, and who finds too little of it there waits in line:
//!
//! - a quarter (`common`) to whoever asks;
//! - a quarter (`earned`) to those that have earned it: a connection may borrow as much as it has taken of its replies and sent
//!   of its requests lately. A crowd that takes next to nothing shares the minima and the common quarter, and is not in the way
//!   of those that take what they asked for.
//!
//! Nothing is lent for good: while somebody waits, a connection that holds more than its minimum has to get on with it (the
//! driver sees to that), and gets more only in its turn. What a connection that has ended still had under way counts until it
//! is over. No clock and no socket in here.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::mailbox::Mailbox;

/// No connection's minimum is less: enough for small requests.
const LEAST: u64 = 64 << 10;
/// What is left over of a loan is given back when it is so much, unless somebody waits for it.
const KEPT: u64 = 512 << 10;
/// After so long half of what was earned counts no more.
const HALF_LIFE: Duration = Duration::from_secs(5);

/// What the connections of a front, or of several, may hold in memory, all together.
#[derive(Debug, Clone)]
pub struct Memory(pub(crate) Arc<Budget>);

/// See the module.
#[derive(Debug)]
pub(crate) struct Budget {
    size: u64,
    minimum: u64,
    /// What all connections hold, about.
    held: AtomicU64,
    loans: Mutex<Loans>,
    /// How many connections wait.
    waiting: AtomicUsize,
}

#[derive(Debug)]
struct Loans {
    common: Pool,
    earned: Pool,
}

/// One of the two quarters.
#[derive(Debug)]
struct Pool {
    size: u64,
    lent: u64,
    borrowers: HashMap<u64, Borrower>,
    line: VecDeque<Wish>,
}

#[derive(Debug)]
struct Borrower {
    bytes: u64,
    mailbox: Arc<Mailbox>,
}

/// Somebody in line.
#[derive(Debug)]
struct Wish {
    id: u64,
    more: u64,
    mailbox: Arc<Mailbox>,
}

/// How a front uses the memory that it has, or shares with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryUse {
    /// What each connection may hold without asking.
    pub minimum: u64,
    /// What all connections of this front hold, about.
    pub held: u64,
    /// What can be lent beyond the minima, at whatever front.
    pub lendable: u64,
    /// What is lent.
    pub lent: u64,
    /// Connections of this front that wait for more.
    pub waiting: usize,
}

/// A connection's part in it, given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    id: u64,
    mailbox: Arc<Mailbox>,
    /// What it has borrowed, as far as it knows: while it waits it may have been given more.
    loan: u64,
    waits: bool,
    credit: Credit,
}

/// What a connection has earned.
#[derive(Debug)]
struct Credit {
    recent: u64,
    as_of: Instant,
    /// Moved since.
    moved: u64,
}

impl Memory {
    /// Of so many bytes in all, for so many connections at most.
    #[must_use]
    pub fn new(bytes: u64, connections: usize) -> Self {
        Self(Arc::new(Budget::new(bytes, connections)))
    }
}

impl Budget {
    /// Of `memory` bytes in all, for so many connections at most.
    fn new(memory: u64, connections: usize) -> Self {
        let connections = u64::try_from(connections).unwrap_or(u64::MAX).max(1);
        let pool = |size| Pool { size, lent: 0, borrowers: HashMap::new(), line: VecDeque::new() };
        let loans = Mutex::new(Loans { common: pool(memory / 4), earned: pool(memory / 4) });
        let minimum = (memory / 2 / connections).max(LEAST);
        Self { size: memory, minimum, held: AtomicU64::new(0), loans, waiting: AtomicUsize::new(0) }
    }

    /// A connection holds so much, instead of what it held before.
    pub(crate) fn note_held(&self, before: u64, now: u64) {
        self.held.fetch_add(now, Ordering::Relaxed);
        self.held.fetch_sub(before, Ordering::Relaxed);
    }

    /// Is more held than there is? What connections are given to receive with is beside it.
    pub(crate) fn is_exceeded(&self) -> bool {
        self.held.load(Ordering::Relaxed) > self.size
    }

    /// Does anybody wait?
    pub(crate) fn is_short(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// By a front whose connections hold `held`, and are those.
    pub(crate) fn usage(&self, held: u64, is_own: impl Fn(u64) -> bool) -> MemoryUse {
        let Loans { common, earned } = &*self.lock();
        let line = common.line.iter().chain(&earned.line);
        MemoryUse {
            minimum: self.minimum,
            held,
            lendable: common.size + earned.size,
            lent: common.lent + earned.lent,
            waiting: line.filter(|wish| is_own(wish.id)).count(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Loans> {
        self.loans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives what there is to those who wait.
    fn settle(&self, loans: &mut Loans) {
        loans.serve();
        self.waiting.store(loans.common.line.len() + loans.earned.line.len(), Ordering::Relaxed);
    }
}

impl Loans {
    fn of(&self, id: u64) -> u64 {
        self.common.of(id) + self.earned.of(id)
    }

    fn try_lend(&mut self, id: u64, more: u64, has_earned_it: bool, mailbox: &Arc<Mailbox>) -> bool {
        has_earned_it && self.earned.try_lend(id, more, mailbox) || self.common.try_lend(id, more, mailbox)
    }

    /// In one line, and not in the other.
    fn queue(&mut self, id: u64, more: u64, has_earned_it: bool, mailbox: &Arc<Mailbox>) {
        let (line, other) = match has_earned_it {
            true => (&mut self.earned, &mut self.common),
            false => (&mut self.common, &mut self.earned),
        };
        other.leave(id);
        line.queue(id, more, mailbox);
    }

    fn leave(&mut self, id: u64) {
        self.common.leave(id);
        self.earned.leave(id);
    }

    /// Leaves it no more than `wanted`; the quarter that is for everybody is the first to have something back.
    fn take_back(&mut self, id: u64, wanted: u64) {
        let over = self.of(id).saturating_sub(wanted);
        let back = self.common.take_back(id, over);
        self.earned.take_back(id, over - back);
    }

    fn serve(&mut self) {
        self.common.serve();
        self.earned.serve();
    }

    /// Those who hold something look what they can do without.
    fn wake(&self) {
        let borrowers = self.common.borrowers.values().chain(self.earned.borrowers.values());
        borrowers.for_each(|borrower| borrower.mailbox.nudge());
    }
}

impl Pool {
    fn of(&self, id: u64) -> u64 {
        self.borrowers.get(&id).map_or(0, |borrower| borrower.bytes)
    }

    /// Is there so much, or can it never be more than now?
    const fn has(&self, more: u64) -> bool {
        self.lent == 0 || self.lent.saturating_add(more) <= self.size
    }

    fn lend(&mut self, id: u64, more: u64, mailbox: &Arc<Mailbox>) {
        let mailbox = Arc::clone(mailbox);
        let borrower = self.borrowers.entry(id).or_insert(Borrower { bytes: 0, mailbox });
        borrower.bytes += more;
        self.lent += more;
    }

    /// Lends, unless somebody was there before or there is too little.
    fn try_lend(&mut self, id: u64, more: u64, mailbox: &Arc<Mailbox>) -> bool {
        let is_next = self.line.front().is_none_or(|first| first.id == id);
        let lends = is_next && self.has(more);
        if lends {
            self.lend(id, more, mailbox);
        }
        lends
    }

    fn queue(&mut self, id: u64, more: u64, mailbox: &Arc<Mailbox>) {
        match self.line.iter_mut().find(|wish| wish.id == id) {
            Some(wish) => wish.more = more,
            None => self.line.push_back(Wish { id, more, mailbox: Arc::clone(mailbox) }),
        }
    }

    fn leave(&mut self, id: u64) {
        self.line.retain(|wish| wish.id != id);
    }

    /// Takes back up to `bytes`; how much that was.
    fn take_back(&mut self, id: u64, bytes: u64) -> u64 {
        let Some(borrower) = self.borrowers.get_mut(&id) else { return 0 };
        let back = bytes.min(borrower.bytes);
        borrower.bytes -= back;
        self.lent -= back;
        if borrower.bytes == 0 {
            self.borrowers.remove(&id);
        }
        back
    }

    fn serve(&mut self) {
        while self.line.front().is_some_and(|first| self.has(first.more)) {
            let Some(Wish { id, more, mailbox }) = self.line.pop_front() else { break };
            self.lend(id, more, &mailbox);
            mailbox.nudge();
        }
    }
}

impl Share {
    pub(crate) fn new(budget: &Arc<Budget>, id: u64, mailbox: &Arc<Mailbox>, now: Instant) -> Self {
        let credit = Credit { recent: 0, as_of: now, moved: 0 };
        let (budget, mailbox) = (Arc::clone(budget), Arc::clone(mailbox));
        Self { budget, id, mailbox, loan: 0, waits: false, credit }
    }

    /// All of it, in other hands.
    pub(crate) fn take(&mut self) -> Self {
        let mut taken = Self::new(&self.budget, self.id, &self.mailbox, self.credit.as_of);
        taken.loan = std::mem::take(&mut self.loan);
        taken.waits = std::mem::take(&mut self.waits);
        taken
    }

    /// What the connection may hold now.
    pub(crate) fn allowance(&self) -> u64 {
        self.budget.minimum.saturating_add(self.loan)
    }

    pub(crate) const fn is_borrowing(&self) -> bool {
        self.loan > 0
    }

    /// The client took or sent so much.
    pub(crate) fn earn(&mut self, bytes: usize) {
        self.credit.moved = self.credit.moved.saturating_add(tap_block::units::count(bytes));
    }

    /// The connection, which holds `held`, would like to hold `total` in all. `false`: it waits in line, and its mailbox is nudged
    /// when it is worth asking again.
    pub(crate) fn ask(&mut self, held: u64, total: u64, now: Instant) -> bool {
        let budget = Arc::clone(&self.budget);
        let has_earned_it = total <= budget.minimum.saturating_add(self.credit.at(now));
        let mut loans = budget.lock();
        // Unless it has just been served, what it holds no more is for those who wait already.
        if loans.of(self.id) <= self.loan && budget.is_short() {
            loans.take_back(self.id, held.saturating_sub(budget.minimum));
            loans.serve();
        }
        let more = total.saturating_sub(budget.minimum.saturating_add(loans.of(self.id)));
        let lent = more == 0 || loans.try_lend(self.id, more, has_earned_it, &self.mailbox);
        if lent {
            loans.leave(self.id);
        } else {
            loans.queue(self.id, more, has_earned_it, &self.mailbox);
        }
        (self.waits, self.loan) = (!lent, loans.of(self.id));
        let is_first = !budget.is_short();
        budget.settle(&mut loans);
        if is_first && budget.is_short() {
            loans.wake();
        }
        lent
    }

    /// The connection holds `held` in all, and waits for no more.
    pub(crate) fn keep(&mut self, held: u64) {
        let wanted = held.saturating_sub(self.budget.minimum);
        let over = self.loan.saturating_sub(wanted);
        let gives = over >= KEPT || over > 0 && (wanted == 0 || self.budget.is_short());
        if self.waits || gives {
            self.settle(wanted);
        }
    }

    /// The connection has ended, and what it had begun holds so much until it is over: that is no other one's minimum.
    pub(crate) fn retire(&mut self, held: u64) {
        let budget = Arc::clone(&self.budget);
        let mut loans = budget.lock();
        let more = held.saturating_sub(loans.of(self.id));
        if more > 0 {
            loans.common.lend(self.id, more, &self.mailbox);
        }
        drop(loans);
        self.settle(held);
    }

    /// Out of the line, and a loan of no more than `wanted`.
    fn settle(&mut self, wanted: u64) {
        let mut loans = self.budget.lock();
        loans.leave(self.id);
        loans.take_back(self.id, wanted);
        self.loan = loans.of(self.id);
        self.waits = false;
        self.budget.settle(&mut loans);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.waits || self.loan > 0 {
            self.settle(0);
        }
    }
}

impl Credit {
    fn at(&mut self, now: Instant) -> u64 {
        let halves = now.saturating_duration_since(self.as_of).as_secs() / HALF_LIFE.as_secs();
        let shift = u32::try_from(halves).unwrap_or(u32::MAX);
        let left = self.recent.saturating_add(std::mem::take(&mut self.moved));
        self.recent = left.checked_shr(shift).unwrap_or(0);
        if halves > 0 {
            self.as_of = now;
        }
        self.recent
    }
}

#[cfg(test)]
mod tests;
