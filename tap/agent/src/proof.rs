//! Whether the history below ends where this tap believes that it does.
//!
//! A snapshot of a running machine that is put back later brings the tap's state back together with its disk. Nothing here shows
//! that: the state says that a run of so many reserved LSNs was under way, as after any kill. What shows it is below: records,
//! or a sign of life, of that very run from after the last note that it watched; or a run that began after it.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cx_wire::{RunSeen, Welcome};
use tap_block::{Lsn, RunId, WallTime};

/// A run that was killed may have recorded and said things this long after its last note, made four times a second.
/// Longer, and a future that was given up as soon is missed; shorter, and a busy machine compares for nothing.
const NOTE_SLACK: Duration = Duration::from_secs(1);
/// The oldest and the newest of so many runs are remembered, so that the state stays small.
const MOST: usize = 8;

/// So many runs of the tap's own are known by their numbers, the one under way apart: as many as a CX tells of.
const LINEAGE: usize = 8;

/// A run whose end nobody below has shown yet, and how far this tap remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unproven {
    pub(crate) run: RunId,
    /// Its first record.
    pub(crate) first: Lsn,
    /// Its last note that it watched; the end of time when it stopped cleanly, because all of it is known.
    pub(crate) alive: WallTime,
    /// When it ended, as far as is known: whoever wrote later was this tap's own next run, or another copy of it.
    pub(crate) ended: WallTime,
}

/// Adds a run to the tap's own.
pub(crate) fn descend(lineage: &mut Vec<RunId>, run: RunId) {
    lineage.push(run);
    lineage.drain(..lineage.len().saturating_sub(LINEAGE));
}

/// Adds a run to those that ended so.
pub(crate) fn add(runs: &mut Vec<Unproven>, one: Unproven) {
    runs.push(one);
    if runs.len() > MOST {
        runs.remove(1);
    }
}

/// As a value in the tap's state.
pub(crate) fn encode(runs: &[Unproven]) -> String {
    let mut text = String::new();
    for Unproven { run, first, alive, ended } in runs {
        // Writing to a String cannot fail.
        let _ = write!(text, "{}/{}/{}", run.get(), first.get(), alive.nanos());
        if ended != alive {
            let _ = write!(text, "/{}", ended.nanos());
        }
        text.push(' ');
    }
    text.trim_end().to_owned()
}

/// What [`encode`] made; `None` when it is damaged.
pub(crate) fn decode(text: &str) -> Option<Vec<Unproven>> {
    text.split_whitespace().map(decode_one).collect()
}

fn decode_one(text: &str) -> Option<Unproven> {
    let mut parts = text.split('/').map(|part| part.parse::<u64>().ok());
    let (run, first, alive) = (parts.next()??, parts.next()??, parts.next()??);
    let alive = WallTime::from_nanos(alive);
    let ended = parts.next().map_or(Some(alive), |ended| ended.map(WallTime::from_nanos))?;
    Some(Unproven { run: RunId::new(run), first: Lsn::new(first)?, alive, ended })
}

/// What a welcome shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The history below is this tap's own.
    Proven {
        /// Nothing can be said later that would show otherwise.
        for_good: bool,
    },
    /// Not everybody below could say yet what is there.
    Open,
    /// It goes on beyond what this tap remembers.
    SetBack {
        /// Why that is known.
        why: String,
    },
}

/// Does a welcome say that another run's records reach beyond where the run `own` began? None of what is durable there is of
/// this run then, whatever its number.
pub(crate) fn is_foreign(own: RunId, first: Lsn, welcome: &Welcome) -> bool {
    welcome.durable_run.is_some_and(|run| run != own) && welcome.durable >= first
}

/// Judges a welcome of the run `own`, for a tap that remembers of the runs in `unproven` no more than what is there, and whose own
/// runs were those of the `lineage`.
pub(crate) fn judge(unproven: &[Unproven], lineage: &[RunId], own: RunId, welcome: &Welcome) -> Verdict {
    let Some(oldest) = unproven.first() else { return Verdict::Proven { for_good: true } };
    let of = |run: RunId| unproven.iter().find(|known| known.run == run);
    let is_strange = |run: &RunId| *run != own && of(*run).is_none() && welcome.durable >= oldest.first;
    if let Some(run) = welcome.durable_run.filter(is_strange) {
        let why = format!("{} of {run} is durable below, a run that it knows nothing of", welcome.durable);
        return Verdict::SetBack { why };
    }
    let past = welcome.past.as_deref().unwrap_or_default();
    let later = |seen: &&RunSeen| of(seen.run).is_some_and(|known| seen.at > known.alive.plus(NOTE_SLACK));
    // A newer copy of this tap's state went on from where this one is, and what it wrote need not be the last that is below.
    let of_another = |seen: &&RunSeen| {
        let is_own = seen.run == own || of(seen.run).is_some() || lineage.contains(&seen.run);
        !is_own && seen.at > oldest.ended.plus(NOTE_SLACK)
    };
    if let Some(RunSeen { run, at }) = past.iter().find(of_another) {
        let why =
            format!("{run} was heard of at {at}, after {} had ended, and is none of this tap's", oldest.run);
        return Verdict::SetBack { why };
    }
    match past.iter().find(later) {
        Some(seen) => {
            let known = of(seen.run).map_or(WallTime::EPOCH, |known| known.alive);
            let why =
                format!("{} was heard of at {}, and the tap remembers it until {known}", seen.run, seen.at);
            Verdict::SetBack { why }
        }
        // One who has not answered yet may have more of these runs than those who have, and points may open there.
        None if welcome.past.is_some() && !welcome.known => Verdict::Open,
        // An older program says nothing of runs, however long it is asked.
        None => Verdict::Proven { for_good: welcome.known },
    }
}

/// What is left to be proven, while a tap runs.
#[derive(Debug)]
pub(crate) struct Proof {
    /// The run that it is for, and its first record.
    own: Mutex<(RunId, Lsn)>,
    unproven: Vec<Unproven>,
    lineage: Vec<RunId>,
    over: AtomicBool,
    foreign: AtomicBool,
    split: AtomicBool,
    last: Mutex<Option<Verdict>>,
    /// Runs of other copies that were below when the disk was to be compared.
    strangers: Mutex<Vec<RunId>>,
}

impl Proof {
    /// For the run `own`, whose first record is `first`.
    pub(crate) fn new(own: RunId, first: Lsn, unproven: Vec<Unproven>, lineage: Vec<RunId>) -> Self {
        let over = AtomicBool::new(unproven.is_empty());
        let (foreign, split) = (AtomicBool::new(false), AtomicBool::new(false));
        let own = Mutex::new((own, first));
        Self {
            own,
            unproven,
            lineage,
            over,
            foreign,
            split,
            last: Mutex::default(),
            strangers: Mutex::default(),
        }
    }

    /// The run that it is for.
    pub(crate) fn run(&self) -> RunId {
        self.lock_own().0
    }

    /// Another run begins in its place, with this record, and everything is compared: nothing is left to be proven.
    pub(crate) fn begin_anew(&self, run: RunId, first: Lsn) {
        *self.lock_own() = (run, first);
        self.end();
    }

    fn lock_own(&self) -> MutexGuard<'_, (RunId, Lsn)> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is said to be durable at every gateway since the last welcome, as far as it may be of this run.
    pub(crate) fn own(&self, everywhere: Lsn) -> Lsn {
        if self.foreign.load(Ordering::Acquire) { Lsn::ZERO } else { everywhere }
    }

    /// The run was refused, because its records contradict what is there.
    pub(crate) fn note_split(&self) {
        self.split.store(true, Ordering::Release);
    }

    /// It was refused so when it was answered last: a stop leaves nothing that the next run could go on from.
    pub(crate) fn is_split(&self) -> bool {
        self.split.load(Ordering::Acquire)
    }

    /// What a welcome shows, as far as that was not known before.
    pub(crate) fn hear(&self, welcome: &Welcome) -> Option<Verdict> {
        let (own, first) = *self.lock_own();
        self.foreign.store(is_foreign(own, first, welcome), Ordering::Release);
        self.split.store(false, Ordering::Release);
        if self.is_over() {
            return None;
        }
        let verdict = judge(&self.unproven, &self.lineage, own, welcome);
        if matches!(verdict, Verdict::SetBack { .. }) {
            self.note_strangers(own, welcome);
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = last.as_ref() != Some(&verdict);
        *last = Some(verdict.clone());
        is_new.then_some(verdict)
    }

    fn note_strangers(&self, own: RunId, welcome: &Welcome) {
        let runs = welcome.past.iter().flatten().map(|seen| seen.run).chain(welcome.durable_run);
        let is_own = |run: &RunId| {
            *run == own || self.lineage.contains(run) || self.unproven.iter().any(|known| known.run == *run)
        };
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        for run in runs.filter(|run| !is_own(run)) {
            if strangers.len() < LINEAGE / 2 && !strangers.contains(&run) {
                strangers.push(run);
            }
        }
    }

    /// What another copy wrote is compared once: from then on its runs are part of the past, whatever its clock said.
    pub(crate) fn settle(&self, unproven: &mut Vec<Unproven>, lineage: &mut Vec<RunId>) {
        unproven.clear();
        for run in &*self.strangers.lock().unwrap_or_else(PoisonError::into_inner) {
            if !lineage.contains(run) {
                descend(lineage, *run);
            }
        }
    }

    /// Nothing is left to be proven, or what that asks for is under way.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn unproven(run: u64, first: u64, alive: u64) -> Unproven {
        Unproven {
            run: RunId::new(run),
            first: Lsn::new(first).unwrap(),
            alive: WallTime::from_nanos(alive * SECOND),
            ended: WallTime::from_nanos(alive * SECOND),
        }
    }

    fn welcome(durable: u64, run: u64, past: &[(u64, u64)]) -> Welcome {
        let seen =
            |&(run, at): &(u64, u64)| RunSeen { run: RunId::new(run), at: WallTime::from_nanos(at * SECOND) };
        Welcome {
            durable: Lsn::new(durable).unwrap(),
            durable_run: Some(RunId::new(run)),
            known: true,
            credit: 0,
            store: None,
            past: Some(past.iter().map(seen).collect()),
            last: None,
        }
    }

    fn is_set_back(runs: &[Unproven], welcome: &Welcome) -> bool {
        matches!(judge(runs, &[RunId::new(4)], RunId::new(9), welcome), Verdict::SetBack { .. })
    }

    #[test]
    fn a_run_that_was_killed_said_nothing_long_after_its_last_note() {
        let runs = [unproven(5, 1, 100)];
        assert!(!is_set_back(&runs, &welcome(70, 5, &[(5, 99)])));
        assert!(!is_set_back(&runs, &welcome(70, 5, &[(5, 101)])));
        assert!(is_set_back(&runs, &welcome(70, 5, &[(5, 103)])), "it went on");
        assert!(!is_set_back(&runs, &welcome(70, 5, &[(4, 103)])), "of those before it nothing is known");
        assert!(!is_set_back(&[], &welcome(70, 5, &[(5, 103)])));
    }

    #[test]
    fn a_run_that_the_tap_knows_nothing_of_may_only_lie_before() {
        let runs = [unproven(5, 50, 100), unproven(6, 1000, 200)];
        assert!(is_set_back(&runs, &welcome(70, 7, &[])));
        assert!(!is_set_back(&runs, &welcome(49, 4, &[])), "the later ones brought nothing down");
        assert!(!is_set_back(&runs, &welcome(70, 5, &[])) && !is_set_back(&runs, &welcome(1001, 6, &[])));
        assert!(!is_set_back(&runs, &welcome(2000, 9, &[])), "its own");
    }

    #[test]
    fn one_who_cannot_know_yet_decides_nothing() {
        let runs = [unproven(5, 1, 100)];
        let nobody = Welcome { known: false, ..welcome(0, 5, &[]) };
        let verdict = |w: &Welcome| judge(&runs, &[], RunId::new(9), w);
        assert_eq!(verdict(&nobody), Verdict::Open);
        assert_eq!(verdict(&Welcome { past: None, ..nobody }), Verdict::Proven { for_good: false });
        let some = Welcome { known: false, ..welcome(70, 5, &[(5, 99)]) };
        assert_eq!(verdict(&some), Verdict::Open, "the others may have more");
        assert_eq!(verdict(&Welcome { known: true, ..some.clone() }), Verdict::Proven { for_good: true });
        let proof = Proof::new(RunId::new(9), Lsn::ZERO, runs.to_vec(), Vec::new());
        assert!(proof.hear(&some).is_some() && proof.hear(&some).is_none() && !proof.is_over());
        assert!(matches!(proof.hear(&welcome(70, 5, &[(5, 200)])), Some(Verdict::SetBack { .. })));
        assert!(Proof::new(RunId::new(9), Lsn::ZERO, Vec::new(), Vec::new()).is_over());
    }

    #[test]
    fn runs_of_another_copy_that_were_compared_are_part_of_the_past() {
        let (mut runs, mut lineage) = (vec![unproven(5, 1, 100)], vec![RunId::new(4), RunId::new(5)]);
        let proof = Proof::new(RunId::new(9), Lsn::ZERO, runs.clone(), lineage.clone());
        let there = welcome(70, 5, &[(4, 90), (5, 100), (7, 200)]);
        assert!(matches!(proof.hear(&there), Some(Verdict::SetBack { .. })));
        (0..2).for_each(|_| proof.settle(&mut runs, &mut lineage));
        assert!(runs.is_empty() && lineage == [4, 5, 7].map(RunId::new));
        runs.push(unproven(9, 1000, 150));
        let later = judge(&runs, &lineage, RunId::new(10), &there);
        assert_eq!(later, Verdict::Proven { for_good: true }, "whatever its clock said");
    }

    #[test]
    fn a_run_of_another_copy_that_wrote_after_this_one_is_no_past_of_it() {
        let stopped = Unproven { alive: WallTime::from_nanos(u64::MAX), ..unproven(5, 1, 100) };
        let runs = [stopped, unproven(6, 50, 300)];
        assert!(is_set_back(&runs, &welcome(2000, 9, &[(6, 300), (7, 200)])), "between the two");
        assert!(is_set_back(&runs, &welcome(2000, 9, &[(7, 102)])));
        assert!(
            !is_set_back(&runs, &welcome(2000, 9, &[(7, 101), (5, 150)])),
            "it stopped, and all of it is known"
        );
        assert!(
            !is_set_back(&runs, &welcome(2000, 9, &[(4, 200), (9, 400)])),
            "its own, by a clock that went wrong"
        );
    }

    #[test]
    fn what_is_durable_of_another_run_is_not_this_ones() {
        let (first, at) = (Lsn::new(16).unwrap(), |lsn| Lsn::new(lsn).unwrap());
        let proof = Proof::new(RunId::new(9), first, Vec::new(), Vec::new());
        assert_eq!(proof.own(at(75)), at(75));
        proof.note_split();
        proof.hear(&welcome(75, 5, &[]));
        assert!(proof.own(at(75)) == Lsn::ZERO && !proof.is_split());
        proof.hear(&welcome(15, 5, &[]));
        assert_eq!(proof.own(at(20)), at(20), "those before it");
        proof.hear(&welcome(75, 9, &[]));
        assert_eq!(proof.own(at(75)), at(75), "its own");
        proof.note_split();
        assert!(proof.is_split());
    }

    #[test]
    fn runs_come_back_and_do_not_grow_for_ever() {
        let mut runs = Vec::new();
        assert_eq!(decode(&encode(&runs)), Some(Vec::new()));
        for run in 1..100 {
            add(&mut runs, unproven(run, run, run));
        }
        assert_eq!((runs.len(), runs[0].run, runs[MOST - 1].run), (MOST, RunId::new(1), RunId::new(99)));
        runs[1].ended = WallTime::from_nanos(3);
        assert_eq!(decode(&encode(&runs)), Some(runs));
        assert_eq!((decode("1/2"), decode("1/2/x"), decode("1/2/3/x")), (None, None, None));
        let mut lineage = Vec::new();
        (1..100).for_each(|run| descend(&mut lineage, RunId::new(run)));
        assert_eq!((lineage.len(), lineage.last()), (LINEAGE, Some(&RunId::new(99))));
    }
}
