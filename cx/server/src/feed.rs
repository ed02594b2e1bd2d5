//! One gateway's way out of a stream's outbox.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cx_link::outbox::OutboxDriver;
use cx_link::{AskReply, Feed};
use cx_spool::ConsumerNo;
use cx_wire::{
    Accepted, AskError, Heartbeat, LedgerHead, Question, Refuse, RefuseCode, Reply, RunSeen, SetBack, Welcome,
};
use tap_block::{Batch, Clock, Epoch, Lsn, StreamId};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::acknowledged::Acknowledged;
use crate::heads::Heads;
use crate::naming::Naming;
use crate::past::Past;
use crate::tap::Tap;

/// What the gateways of a stream said when they were reached first since this process began.
#[derive(Debug)]
pub(crate) struct Reports {
    heard: Mutex<Vec<Report>>,
    changed: Condvar,
}

#[derive(Debug, Clone, Default)]
struct Report {
    /// It said what it has, or will not say it before somebody does something about that.
    answered: bool,
    refused: Option<Refuse>,
    /// It had less than it had acknowledged when it was reached last.
    set_back: Option<SetBack>,
    /// The same, since this process began: somebody may still want to know.
    was_set_back: Option<SetBack>,
}

impl Reports {
    pub(crate) fn new(gateways: usize) -> Self {
        Self { heard: Mutex::new(vec![Report::default(); gateways]), changed: Condvar::new() }
    }

    /// Blocks until every gateway has answered, for `limit` at most.
    pub(crate) fn wait(&self, limit: Duration) {
        let all = |heard: &mut Vec<Report>| heard.iter().any(|r| !r.answered);
        let waited = self.changed.wait_timeout_while(self.lock(), limit, all);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Every gateway has answered.
    pub(crate) fn complete(&self) -> bool {
        self.lock().iter().all(|r| r.answered)
    }

    /// Why the stream cannot be taken from a tap that greets with `epoch`: a gateway knows that its time is over, or has been told
    /// that it is to begin anew, or none takes it. `known`: how far the stream is at those that take it.
    pub(crate) fn refusal(&self, epoch: Epoch, known: Lsn) -> Option<Refuse> {
        let heard = self.lock();
        let refused = |report: &Report| report.refused.clone().filter(|r| !has_begun(r.code, epoch));
        let refusals: Vec<Refuse> = heard.iter().filter_map(refused).collect();
        let all = refusals.len() == heard.len();
        let fenced = refusals.iter().find(|r| r.code == RefuseCode::Fenced).cloned();
        fenced
            .or_else(|| begin_anew(&refusals, known))
            .or_else(|| refusals.into_iter().next().filter(|_| all))
    }

    /// Why `gateway` does not take the stream.
    pub(crate) fn refused(&self, gateway: ConsumerNo) -> Option<Refuse> {
        self.lock().get(gateway.get()).and_then(|r| r.refused.clone())
    }

    /// What `gateway` had acknowledged once, and what it said to have then, if that was less.
    pub(crate) fn was_set_back(&self, gateway: ConsumerNo) -> Option<SetBack> {
        self.lock().get(gateway.get()).and_then(|r| r.was_set_back)
    }

    fn set_back(&self, gateway: ConsumerNo) -> Option<SetBack> {
        self.lock().get(gateway.get()).and_then(|r| r.set_back)
    }

    /// True when it has answered, now or before.
    fn note(&self, gateway: ConsumerNo, change: impl FnOnce(&mut Report)) -> bool {
        let has_answered = self.lock().get_mut(gateway.get()).is_some_and(|report| {
            change(report);
            report.answered
        });
        self.changed.notify_all();
        has_answered
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Report>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Was it said before the tap did as it was told?
fn has_begun(code: RefuseCode, now: Epoch) -> bool {
    matches!(code, RefuseCode::BeginAnew { epoch, .. } if epoch <= now)
}

/// What the tap is told when gateways say that it is to begin anew: above all that any of them has.
fn begin_anew(refusals: &[Refuse], known: Lsn) -> Option<Refuse> {
    let anew = |refuse: &Refuse| match refuse.code {
        RefuseCode::BeginAnew { above, epoch } => Some((epoch, above)),
        _ => None,
    };
    let told = refusals.iter().max_by_key(|refuse| anew(refuse))?;
    let (epoch, there) = anew(told)?;
    let above = refusals.iter().filter_map(anew).map(|(_, above)| above).fold(known, Lsn::max);
    let more = if above > there { format!("; more is elsewhere: above {above}") } else { String::new() };
    let detail = format!("{}{more}", told.detail);
    Some(Refuse { code: RefuseCode::BeginAnew { above, epoch }, detail })
}

/// A gateway's consumer of a stream.
pub(crate) struct GatewayFeed {
    /// Its name in the configuration.
    pub(crate) gateway: String,
    pub(crate) consumer: ConsumerNo,
    pub(crate) driver: Arc<OutboxDriver>,
    pub(crate) tap: Arc<Tap>,
    pub(crate) reports: Arc<Reports>,
    pub(crate) past: Arc<Mutex<Past>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) runtime: Handle,
    pub(crate) naming: Naming,
    pub(crate) heads: Arc<Heads>,
    pub(crate) acknowledged: Arc<Acknowledged>,
    pub(crate) stream: StreamId,
    /// The store that the gateway said to have; 0 when it did not say.
    pub(crate) store: AtomicU64,
}

impl GatewayFeed {
    /// What this gateway says of earlier runs and of itself, together: a tap that is welcomed meanwhile is told of both or of neither.
    /// One that was welcomed before greets again, when it is to hear of it.
    fn report(&self, is_ahead: bool, seen: &[RunSeen], change: impl FnOnce(&mut Report)) {
        let is_due = {
            let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
            let news = seen.iter().filter(|seen| past.note(**seen)).count();
            let has_answered = self.reports.note(self.consumer, change);
            (has_answered && past.heard()) || news > 0 || is_ahead
        };
        if let Some(link) = self.tap.link().filter(|_| is_due) {
            link.close(format!("{} told more than was known: greet again", self.gateway));
        }
    }

    /// Has it less than it acknowledged?
    fn find_set_back(&self, welcome: &Welcome) -> Option<SetBack> {
        let had = self.acknowledged.of((welcome.store?, self.stream))?;
        let found = (welcome.durable < had).then_some(SetBack { had, has: welcome.durable })?;
        tracing::error!(stream = %self.stream, "gateway {}: {}", self.gateway, said_of(found));
        Some(found)
    }

    /// Remembers what it has acknowledged.
    fn note_acknowledged(&self, durable: Lsn) {
        let store = self.store.load(Ordering::Relaxed);
        if store != 0 {
            self.acknowledged.note((store, self.stream), durable, &self.runtime);
        }
    }

    fn accept_restored(&self) -> Result<Accepted, AskError> {
        let accepted = self.tap.accept_restored(self.driver.furthest().lsn, self.clock.wall())?;
        tracing::warn!(
            by = self.gateway,
            tap = accepted.sender,
            run = %accepted.run,
            "an old copy of a tap's state is accepted: it goes on above {} as {}, and every other copy is fenced",
            accepted.known,
            accepted.epoch
        );
        Ok(accepted)
    }
}

/// For people.
pub(crate) fn said_of(SetBack { had, has }: SetBack) -> String {
    format!(
        "it had acknowledged lsn:{} as durable, and has no more than lsn:{}: its store was put back to an older state (a backup, a \
         snapshot), or its disk lost what it had written. What is still here is sent again, and for the rest the disk is copied anew, \
         which is a gap in its history; if the newer store is still to be had, stop that gateway and put it back in its place first \
         (`chronogate status` there says more)",
        had.get(),
        has.get()
    )
}

/// How long the tap may take for an answer, besides what the question itself allows.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

impl Feed for GatewayFeed {
    fn ready(&self, welcome: &Welcome) -> Result<(), String> {
        self.naming.ready(welcome);
        if let Some(store) = welcome.store {
            self.heads.claim(&self.gateway, store, &self.runtime);
        }
        // More of the present run than this CX was given: of a future that it was set back from, maybe with the tap, which knows.
        let is_ahead = welcome.durable_run == Some(self.naming.run()) && welcome.durable > self.driver.head();
        let set_back = self.find_set_back(welcome);
        self.store.store(welcome.store.unwrap_or(0), Ordering::Relaxed);
        self.note_acknowledged(welcome.durable);
        self.driver.ready(self.consumer, welcome);
        self.report(is_ahead, welcome.past.as_deref().unwrap_or_default(), |report| {
            (report.answered, report.refused, report.set_back) = (true, None, set_back);
            report.was_set_back = set_back.or(report.was_set_back);
        });
        Ok(())
    }

    fn next(&self) -> Option<Arc<Batch>> {
        let batch = self.driver.next(self.consumer)?;
        Some(self.naming.name(batch))
    }

    fn changed(&self) -> &Notify {
        self.driver.changed(self.consumer)
    }

    fn acked(&self, batches: u64, durable: Lsn, everywhere: Lsn) {
        self.note_acknowledged(durable);
        // Nothing is below a gateway: what is durable there is all there is to it.
        self.driver.acked(self.consumer, batches, durable, everywhere.max(durable));
    }

    fn lost(&self) {
        self.driver.lost(self.consumer);
    }

    fn heartbeat(&self) -> Heartbeat {
        let queue = self.driver.status().queue;
        let pending = self.driver.view(self.consumer).map_or(0, |view| view.pending_bytes);
        let beat = self.tap.heartbeat(queue.head, pending.min(queue.spooled_bytes), self.clock.monotonic());
        let witnesses = self.heads.witnesses_for(&self.gateway);
        let stores = self.heads.stores_of(&self.gateway);
        let set_back = self.reports.set_back(self.consumer);
        Heartbeat { ledgers: Some(self.heads.all()), witnesses, stores, set_back, ..beat }
    }

    fn ledger(&self, head: LedgerHead) {
        self.heads.note(&self.gateway, head, &self.runtime);
    }

    fn witnessed(&self, head: LedgerHead) {
        self.heads.witness(&self.gateway, head);
    }

    fn ask(&self, question: Question, reply: AskReply) {
        if question == Question::AcceptRestored {
            return reply.send(self.accept_restored().map(Reply::Accepted));
        }
        let limit = match &question {
            Question::Bookmark { wait, .. } => wait.saturating_add(ANSWER_LIMIT),
            Question::Head | Question::Resync { .. } | Question::Block { .. } | Question::AcceptRestored => {
                ANSWER_LIMIT
            }
        };
        let tap = Arc::clone(&self.tap);
        self.runtime.spawn(async move { reply.send(tap.ask(question, limit).await) });
    }

    fn refused(&self, refuse: &Refuse) {
        let lasting = matches!(
            refuse.code,
            RefuseCode::Fenced
                | RefuseCode::SplitHistory
                | RefuseCode::BeginAnew { .. }
                | RefuseCode::NameTaken
        );
        // One that stops or is busy has said nothing of what it has, and will soon.
        let will_say = matches!(refuse.code, RefuseCode::Stopping | RefuseCode::Other);
        self.report(false, &[], |report| {
            report.answered |= !will_say;
            report.refused = lasting.then(|| refuse.clone());
        });
        let refusal = self.reports.refusal(self.naming.epoch(), self.driver.furthest().lsn);
        if let (Some(refusal), Some(link)) = (refusal, self.tap.link()) {
            // The tap learns why when it comes back.
            link.close(refusal.detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuse(code: RefuseCode) -> Refuse {
        Refuse { code, detail: String::new() }
    }

    #[test]
    fn one_of_two_gateways_may_refuse_but_not_for_fencing() {
        let reports = Reports::new(2);
        let refusal = |reports: &Reports| reports.refusal(Epoch::new(1), Lsn::ZERO);
        let (a, b) = (ConsumerNo::new(0), ConsumerNo::new(1));
        reports.note(a, |r| r.refused = Some(refuse(RefuseCode::NameTaken)));
        assert_eq!(refusal(&reports), None);
        reports.note(b, |r| r.refused = Some(refuse(RefuseCode::SplitHistory)));
        assert_eq!(refusal(&reports).map(|r| r.code), Some(RefuseCode::NameTaken));
        reports.note(a, |r| r.refused = None);
        reports.note(b, |r| r.refused = Some(refuse(RefuseCode::Fenced)));
        assert_eq!(refusal(&reports).map(|r| r.code), Some(RefuseCode::Fenced));
    }

    #[test]
    fn what_one_gateway_accepts_counts_for_all_until_the_tap_has_begun_so() {
        let (reports, lsn) = (Reports::new(3), |n| Lsn::ZERO.plus(n));
        let anew = |above, epoch| RefuseCode::BeginAnew { above: lsn(above), epoch: Epoch::new(epoch) };
        for (gateway, code) in [(0, RefuseCode::SplitHistory), (1, anew(50, 3)), (2, anew(70, 2))] {
            reports.note(ConsumerNo::new(gateway), |r| r.refused = Some(refuse(code)));
        }
        let refusal = |epoch, known| reports.refusal(Epoch::new(epoch), lsn(known)).map(|r| r.code);
        assert_eq!((refusal(1, 60), refusal(1, 90)), (Some(anew(70, 3)), Some(anew(90, 3))));
        assert_eq!(refusal(3, 90), None, "the gateways hear of it when they are greeted next");
    }
}
