//! The way up to the CX: what the link asks of a volume, answered from the splitter and the outbox.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cx_link::outbox::{OutboxDriver, OutboxObserver};
use cx_link::{AskReply, Feed};
use cx_spool::{ConsumerNo, Hole, Reached};
use cx_wire::{
    AskCode, AskError, Heartbeat, Question, Refuse, RefuseCode, Reply, SyncProgress, TapState, TapStatus,
    Welcome,
};
use tap_block::device::run;
use tap_block::stored::pack;
use tap_block::{
    BLOCK_SIZE, Batch, BlockDevice as _, BlockNo, Bookmark, Epoch, Extent, ExtentSet, Lsn, Name, Op,
    SyncCause, WallTime,
};
use tap_splitter::{Event, Mode};
use tokio::sync::Notify;

use crate::proof::{Proof, Verdict};
use crate::restored;
use crate::sent::Sent;
use crate::volume::{BookmarkReply, Snapshot, Volume};

/// The only consumer of a tap's outbox.
const CX: ConsumerNo = ConsumerNo::new(0);

/// One volume's records on their way to the CX.
pub(crate) struct Upstream {
    volume: Arc<Volume>,
    outbox: Arc<OutboxDriver>,
    counters: Arc<Counters>,
    proof: Arc<Proof>,
    sent: Sent,
    /// Why nothing more is sent, once that is so.
    ended: Mutex<Option<String>>,
    /// The last record that was below or in the spool when the tap was stopped, when the spool does not reach it any more.
    missing: Mutex<Option<Lsn>>,
    /// Since when the CX says at every connection that it has less than it acknowledged.
    short_since: Mutex<Option<Instant>>,
}

/// A CX that has less than it acknowledged may only not have heard of its gateways yet; it is believed after this.
const LOST_AFTER: Duration = Duration::from_secs(20);

/// Numbers that outlive a run.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) baselines: u32,
    /// Bytes resynced by earlier runs.
    pub(crate) resynced_before: u64,
    /// Every record up to this LSN is durable at every gateway.
    everywhere: AtomicU64,
}

impl Counters {
    pub(crate) fn new(baselines: u32, resynced_before: u64, everywhere: Lsn) -> Self {
        Self { baselines, resynced_before, everywhere: AtomicU64::new(everywhere.get()) }
    }

    pub(crate) fn everywhere(&self) -> Lsn {
        Lsn::ZERO.plus(self.everywhere.load(Ordering::Acquire))
    }
}

impl Upstream {
    pub(crate) fn new(
        volume: Arc<Volume>,
        outbox: Arc<OutboxDriver>,
        counters: Arc<Counters>,
        proof: Arc<Proof>,
        missing: Option<Lsn>,
    ) -> Self {
        let (sent, ended, short_since) = (Sent::default(), Mutex::default(), Mutex::default());
        let missing = Mutex::new(missing);
        Self { volume, outbox, counters, proof, sent, ended, missing, short_since }
    }

    pub(crate) fn status(&self) -> (TapStatus, Snapshot) {
        let snapshot = self.volume.snapshot();
        let queue = self.outbox.status().queue;
        let status = TapStatus {
            state: state(&snapshot, queue.spooled_bytes > 0),
            queued_bytes: snapshot.queued + queue.memory_bytes,
            spooled_bytes: queue.spooled_bytes,
            marked_bytes: snapshot.dirty,
            sync: snapshot.sync.map(|p| SyncProgress { cause: p.cause, done: p.done, total: p.total }),
            baselines: self.counters.baselines,
            resynced_bytes: self.counters.resynced_before + snapshot.resynced,
        };
        (status, snapshot)
    }

    fn bookmark(&self, bookmark: Bookmark, wait: Duration, group: Option<Name>, reply: AskReply) {
        let answer: BookmarkReply = Box::new(move |placed: Result<(Lsn, WallTime), AskError>| {
            reply.send(placed.map(|(lsn, at)| Reply::Bookmarked { lsn, at }));
        });
        match (group, self.volume.group()) {
            (None, _) => self.volume.bookmark(bookmark, wait, answer),
            (Some(name), Some(group)) if *group.name() == name => {
                group.bookmark(&self.volume, bookmark, wait, answer);
            }
            (Some(name), _) => {
                let text = format!(
                    "{} is in no group {name} any more: give the tap --group {name}=..., or bookmark the volume alone",
                    self.volume.name()
                );
                answer(Err(AskError::new(AskCode::NotFound, text)));
            }
        }
    }

    /// Fails while the CX has less than it acknowledged, because nothing that can be sent follows on what it has. When
    /// that stays so, the records are lost, and everything is copied again.
    fn check_short(&self, welcome: &Welcome) -> Result<(), String> {
        let mut since = self.short_since.lock().unwrap_or_else(PoisonError::into_inner);
        let acknowledged = self.outbox.view(CX).map_or(Lsn::ZERO, |view| view.durable);
        if welcome.durable >= acknowledged {
            *since = None;
            return Ok(());
        }
        let first = *since.get_or_insert_with(Instant::now);
        // One whose gateways have not all answered yet may have lost nothing.
        if !welcome.known || first.elapsed() < LOST_AFTER {
            self.outbox.lost(CX);
            return Err(format!("the CX has {} and acknowledged {acknowledged}", welcome.durable));
        }
        *since = None;
        self.outbox.abandon(CX, Reached { lsn: welcome.durable, run: welcome.durable_run, at: None });
        Ok(())
    }

    /// What was in a spool that is gone, and is not below either, is lost: everything is copied again. Fails while those below have
    /// not all said what they have.
    fn check_spool(&self, welcome: &Welcome) -> Result<(), String> {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(last) = missing.filter(|last| welcome.durable < *last) else {
            *missing = None;
            return Ok(());
        };
        let what =
            format!("the tap's spool is gone, with records up to {last}; the CX has {}", welcome.durable);
        if !welcome.known {
            self.outbox.lost(CX);
            return Err(format!("{what}, and not all of its gateways have answered"));
        }
        *missing = None;
        tracing::error!(volume = %self.volume.name(), "{what}: what is between is lost, and the volume is copied again");
        self.outbox.abandon(CX, Reached { lsn: welcome.durable, run: welcome.durable_run, at: None });
        Ok(())
    }

    /// Before anything is sent: does what is there below end where this tap believes that it does?
    fn check_past(&self, welcome: &Welcome) {
        let verdict = self.proof.hear(welcome);
        let verdict = match verdict {
            Some(Verdict::SetBack { .. }) => verdict,
            // An earlier life of this tap was refused, or was set back with its memory, and what it spooled was not let go.
            _ if self.outbox.contradicts(self.proof.run(), welcome) || self.is_another(welcome) => {
                Some(Verdict::SetBack {
                    why: "what waits in this tap's spool was written there by another run".to_owned(),
                })
            }
            _ => verdict,
        };
        let Some(verdict) = verdict else { return };
        let why = match verdict {
            Verdict::Open => return,
            Verdict::Proven { for_good } => {
                self.volume.apply(Event::Proven);
                if for_good {
                    self.proof.end();
                }
                return;
            }
            Verdict::SetBack { why } => why,
        };
        tracing::error!(
            volume = %self.volume.name(),
            "the history below goes on beyond what this tap remembers, so this machine was set back to an older state: {why}. \
             The whole disk is compared with it; what came after that state stays in the history"
        );
        self.volume.set_back(self.whole());
        self.volume.wake_copier();
        // What earlier runs left would be refused, again and again; the comparison finds what it said.
        self.outbox.keep_only(self.proof.run());
        self.proof.end();
    }

    /// Is another record than the last one below in this tap's spool at its place, or was it sent?
    fn is_another(&self, welcome: &Welcome) -> bool {
        welcome.last.is_some_and(|last| self.outbox.contradicts_record(&last))
    }

    /// What is below of this very run and was never sent by this process, in words.
    fn contradiction(&self, welcome: &Welcome) -> Option<String> {
        let own = self.proof.run();
        if let Some((there, sent)) = self.sent.exceeded(own, welcome) {
            return Some(format!("{there} of this run is below, and no more than {sent} was sent"));
        }
        let last = welcome.last.filter(|last| last.run == own && self.is_another(welcome))?;
        Some(format!(
            "{} of this run is below as it was captured at {}, and that is not what was sent",
            last.lsn, last.at
        ))
    }

    /// Fails when what is below of this very run is not all this process's, or was not once: nothing of it may follow on that.
    fn check_sent(&self, welcome: &Welcome) -> Result<(), String> {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = &*ended {
            return Err(why.clone());
        }
        let Some(found) = self.contradiction(welcome) else { return Ok(()) };
        // A stop leaves nothing that the next run could go on from, and that one compares everything.
        self.proof.note_split();
        let why = format!(
            "this machine was set back to a snapshot with its memory: {found}; nothing is protected before the tap is restarted, \
             which compares the whole disk"
        );
        tracing::error!(volume = %self.volume.name(), "{why}");
        self.volume.set_back(self.whole());
        self.volume.wake_copier();
        // Its numbers are taken below up to there: what comes behind them would look like what came next.
        self.outbox.keep_nothing();
        *ended = Some(why.clone());
        Err(why)
    }

    /// This tap's state is an old copy, and somebody said that it is the one to go on with. What it says again before that is under
    /// way changes nothing.
    fn begin_anew(&self, above: Lsn, epoch: Epoch) {
        let name = self.volume.name();
        match restored::life_above(self.volume.life(), above, epoch) {
            Ok(Some(life)) => {
                let anew = restored::anew(&self.volume, life, self.counters.everywhere());
                if !self.volume.begin_anew(life, anew) {
                    return;
                }
                tracing::warn!(
                    volume = %name, %above, %epoch,
                    "this tap's state is an old copy, and an administrator has accepted it: a new run begins above what is known, \
                     and the whole disk is compared; what was captured since this tap was started is not sent"
                );
                self.outbox.keep_only(life.whose.run);
                self.proof.begin_anew(life.whose.run, life.first);
                *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
            Ok(None) => {}
            Err(e) => {
                tracing::error!(volume = %name, "no new run can begin: the system gives no random numbers: {e}")
            }
        }
    }

    fn whole(&self) -> ExtentSet {
        let size = tap_block::BlockDevice::geometry(&*self.volume).size;
        std::iter::once(Extent::between(0, size).to_blocks()).collect()
    }

    /// What is not known block by block: the whole volume is copied again.
    fn resync(&self, from: Lsn) {
        tracing::warn!(volume = %self.volume.name(), %from, "the whole volume is copied again, as a hop below asks: it lost records, or somebody wants it");
        self.volume.resync(self.whole());
        self.volume.wake_copier();
    }
}

/// What the disk holds of a block now. Writes may be under way: whoever asks compares it with what it knows.
fn stored_form(volume: &Volume, block: BlockNo) -> Result<Reply, AskError> {
    let size = volume.geometry().size;
    let extent = Extent::between(block.offset(), block.offset().saturating_add(BLOCK_SIZE).min(size));
    if extent.is_empty() {
        let detail = format!("block {} is past the end of the disk", block.get());
        return Err(AskError::new(AskCode::NotFound, detail));
    }
    let content = run(volume.disk(), Op::Read { extent })
        .map_err(|e| AskError::new(AskCode::Failed, format!("the protected disk: {e}")))?;
    let mut unit = Vec::new();
    pack(block, &content, &mut unit);
    Ok(Reply::Block { unit: unit.into() })
}

fn state(snapshot: &Snapshot, spooled: bool) -> TapState {
    match (snapshot.mode, snapshot.sync.map(|p| p.cause)) {
        (_, Some(SyncCause::Baseline)) => TapState::Baseline,
        (Mode::Bitmap, _) => TapState::Bitmap,
        (Mode::Streaming, Some(_)) => TapState::Resync,
        (Mode::Streaming, None) if spooled => TapState::Spooling,
        (Mode::Streaming, None) => TapState::Protected,
    }
}

impl Feed for Upstream {
    fn ready(&self, welcome: &Welcome) -> Result<(), String> {
        self.check_sent(welcome)?;
        self.check_past(welcome);
        self.outbox.ready(CX, welcome);
        self.check_spool(welcome)?;
        self.check_short(welcome)
    }

    fn next(&self) -> Option<Arc<Batch>> {
        self.outbox.next(CX).inspect(|batch| self.sent.note(self.proof.run(), batch))
    }

    fn changed(&self) -> &Notify {
        self.outbox.changed(CX)
    }

    fn acked(&self, batches: u64, durable: Lsn, everywhere: Lsn) {
        self.outbox.acked(CX, batches, durable, self.proof.own(everywhere));
    }

    fn lost(&self) {
        self.outbox.lost(CX);
    }

    /// The time is the last one up to which history is whole: a lag computed from it is never too small.
    fn heartbeat(&self) -> Heartbeat {
        let (status, snapshot) = self.status();
        Heartbeat {
            head: snapshot.head,
            at: snapshot.covered.unwrap_or(WallTime::EPOCH),
            status,
            ledgers: None,
            witnesses: Vec::new(),
            stores: Vec::new(),
            refused: None,
            set_back: None,
        }
    }

    fn ask(&self, question: Question, reply: AskReply) {
        match question {
            Question::Head => {
                let (status, snapshot) = self.status();
                reply.send(Ok(Reply::Head { lsn: snapshot.head, at: snapshot.at, status }));
            }
            Question::Bookmark { name, consistency, note, wait, group } => {
                self.bookmark(Bookmark { name, consistency, note }, wait, group, reply);
            }
            Question::Resync { from, whole: true } => {
                self.resync(from);
                reply.send(Ok(Reply::Done));
            }
            Question::Resync { from, whole: false } => {
                let detail =
                    format!("a tap cannot tell what changed after {from} alone: ask for the whole volume");
                reply.send(Err(AskError::new(AskCode::Conflict, detail)));
            }
            Question::AcceptRestored => {
                let detail = "a tap that is taken is not refused: there is nothing to accept";
                reply.send(Err(AskError::new(AskCode::Conflict, detail)));
            }
            Question::Block { block } => {
                let volume = Arc::clone(&self.volume);
                // The disk may have to be waited for.
                tokio::task::spawn_blocking(move || reply.send(stored_form(&volume, block)));
            }
        }
    }

    fn refused(&self, refuse: &Refuse) {
        if matches!(refuse.code, RefuseCode::SplitHistory | RefuseCode::BeginAnew { .. }) {
            self.proof.note_split();
        }
        if let RefuseCode::BeginAnew { above, epoch } = refuse.code {
            return self.begin_anew(above, epoch);
        }
        tracing::error!(volume = %self.volume.name(), code = ?refuse.code, "the CX refuses this volume: {}", refuse.detail);
    }
}

/// Hears from the outbox what became durable, and passes it on to the activity log.
pub(crate) struct Progress {
    volume: Arc<Volume>,
    counters: Arc<Counters>,
    /// The sealer waits here for room.
    pub(crate) room: Arc<Room>,
}

/// A wake-up for a thread that found the outbox full.
#[derive(Debug, Default)]
pub(crate) struct Room {
    turn: std::sync::Mutex<u64>,
    changed: std::sync::Condvar,
}

impl Room {
    fn open(&self) {
        *self.turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner) += 1;
        self.changed.notify_all();
    }

    /// Returns when there may be room, or after `patience`.
    pub(crate) fn wait(&self, patience: std::time::Duration) {
        let turn = self.turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        drop(self.changed.wait_timeout(turn, patience).unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}

impl Progress {
    pub(crate) fn new(volume: Arc<Volume>, counters: Arc<Counters>, room: Arc<Room>) -> Self {
        Self { volume, counters, room }
    }
}

impl OutboxObserver for Progress {
    fn progress(&self, _durable: Reached, everywhere: Lsn) {
        self.room.open();
        let before = self.counters.everywhere.fetch_max(everywhere.get(), Ordering::AcqRel);
        if before < everywhere.get() {
            self.volume.apply(Event::Durable { everywhere });
        }
    }

    fn hole(&self, hole: Hole) {
        tracing::error!(volume = %self.volume.name(), ?hole, "the tap's spool or the CX lost records: the volume is copied again");
        let size = tap_block::BlockDevice::geometry(&*self.volume).size;
        self.volume.resync(std::iter::once(Extent::between(0, size).to_blocks()).collect());
    }
}
