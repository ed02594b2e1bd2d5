//! A tap in memory: plays a workload over the link and answers questions.

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use cx_link::{Address, AskReply, Backoff, Feed, Hub, Uplink, UplinkConfig, UplinkHandle};
use cx_wire::{
    AskCode, AskError, Heartbeat, Hello, KnownStore, LedgerHead, PROTOCOL, Question, Refuse, Reply, SetBack,
    TapState, TapStatus, Welcome, Witness,
};
use tap_block::stored::{UNIT, pack};
use tap_block::units::index;
use tap_block::{Batch, BlockNo, Epoch, Lsn, Name, WallTime};
use testbed_model::{Oracle, Workload};
use tokio::sync::Notify;

pub(crate) struct Tap {
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    workload: Workload,
    oracle: Oracle,
    items: Vec<Arc<Batch>>,
    next: usize,
    refused: Option<Refuse>,
    resync_from: Option<Lsn>,
    first_lsn: Lsn,
    at: WallTime,
    /// What it keeps of ledgers; `None`: it keeps none for anybody.
    kept: Option<Vec<LedgerHead>>,
    /// What it was told is kept there of others' ledgers.
    witnessed: Option<LedgerHead>,
    /// What it says that others keep.
    witnesses: Vec<Witness>,
    /// What it says that the gateway had once, and has.
    set_back: Option<SetBack>,
    beats: usize,
    /// The stores that it was told of.
    stores: Vec<KnownStore>,
}

impl Tap {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Self::of(Workload::new(seed))
    }

    pub(crate) fn of(workload: Workload) -> Arc<Self> {
        let tap = Self {
            state: Mutex::new(State {
                workload,
                oracle: Oracle::new(),
                items: Vec::new(),
                next: 0,
                refused: None,
                resync_from: None,
                first_lsn: Lsn::ZERO.next(),
                at: WallTime::EPOCH,
                kept: None,
                witnessed: None,
                witnesses: Vec::new(),
                set_back: None,
                beats: 0,
                stores: Vec::new(),
            }),
            changed: Notify::new(),
        };
        Arc::new(tap)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Lets the workload do something and sends what comes of it.
    pub(crate) fn play<T>(&self, play: impl FnOnce(&mut Workload) -> T) -> T
    where
        T: IntoIterator<Item = Batch> + Clone,
    {
        let mut state = self.lock();
        let batches = play(&mut state.workload);
        for batch in batches.clone() {
            state.take(batch);
        }
        drop(state);
        self.changed.notify_one();
        batches
    }

    /// The tap's run starts at its next LSN.
    pub(crate) fn restarts(&self) {
        let mut state = self.lock();
        state.first_lsn = state.workload.next_lsn();
    }

    pub(crate) fn oracle(&self) -> Oracle {
        self.lock().oracle.clone()
    }

    pub(crate) fn refused(&self) -> Option<Refuse> {
        self.lock().refused.clone()
    }

    /// From here on it keeps the heads of ledgers.
    pub(crate) fn keep_heads(&self) {
        self.lock().kept.get_or_insert_default();
    }

    /// From here on it keeps the head of another gateway's ledger.
    pub(crate) fn keep(&self, head: LedgerHead) {
        self.lock().kept.get_or_insert_default().push(head);
    }

    /// What it was told is kept there of another gateway's ledger.
    pub(crate) fn witnessed(&self) -> Option<LedgerHead> {
        self.lock().witnessed
    }

    /// From here on it says that another gateway keeps this.
    pub(crate) fn pass_on(&self, witness: Witness) {
        self.lock().witnesses.push(witness);
    }

    /// From here on it says so.
    pub(crate) fn says_set_back(&self, back: Option<SetBack>) {
        self.lock().set_back = back;
    }

    /// How often it gave a sign of life.
    pub(crate) fn beats(&self) -> usize {
        self.lock().beats
    }

    /// The head that it keeps.
    pub(crate) fn kept(&self) -> Option<LedgerHead> {
        self.lock().kept.as_ref()?.first().copied()
    }

    /// From where it was asked to copy everything again.
    pub(crate) fn resync_from(&self) -> Option<Lsn> {
        self.lock().resync_from
    }

    pub(crate) fn volume(&self) -> tap_block::VolumeId {
        self.lock().workload.volume()
    }

    /// Delivers everything from the beginning again when it is told nothing is there.
    pub(crate) fn connect(self: &Arc<Self>, hub: &Hub, name: &str) -> UplinkHandle {
        let config = UplinkConfig {
            address: Address::Memory("gateway".to_owned()),
            hub: hub.clone(),
            backoff: Backoff::default(),
        };
        let (this, name): (_, Name) = (Arc::clone(self), name.parse().unwrap());
        let hello = move || {
            let state = this.lock();
            Hello {
                protocol: PROTOCOL,
                stream: state.workload.stream(),
                volume: state.workload.volume(),
                name: name.clone(),
                size: state.workload.size(),
                epoch: state.items.first().map_or(Epoch::new(1), |b| b.epoch),
                run: state.workload.run(),
                first_lsn: state.first_lsn,
                sender: "test".to_owned(),
            }
        };
        Uplink::spawn(config, hello, Arc::clone(self) as Arc<dyn Feed>)
    }
}

impl State {
    fn take(&mut self, batch: Batch) {
        if batch.entries.is_empty() {
            return;
        }
        self.oracle.apply(&batch).unwrap();
        self.at = batch.entries.last().unwrap().captured_at;
        self.items.push(Arc::new(batch));
    }

    /// Of what the disk holds now.
    fn stored_form(&self, block: BlockNo) -> Bytes {
        let now = self.oracle.image_at(self.workload.volume(), self.workload.next_lsn().previous());
        let from = index(block.offset()).min(now.len());
        let mut unit = Vec::new();
        pack(block, &now[from..(from + UNIT).min(now.len())], &mut unit);
        unit.into()
    }

    fn status(&self) -> TapStatus {
        TapStatus {
            state: if self.workload.syncing() { TapState::Baseline } else { TapState::Protected },
            queued_bytes: 0,
            spooled_bytes: 0,
            marked_bytes: 0,
            sync: None,
            baselines: 1,
            resynced_bytes: 0,
        }
    }
}

impl Feed for Tap {
    fn ready(&self, welcome: &Welcome) -> Result<(), String> {
        let mut state = self.lock();
        let store = welcome.store.expect("a gateway says which store it has");
        if !state.stores.iter().any(|known| known.store == store) {
            state.stores.push(KnownStore { store, told: WallTime::from_nanos(7) });
        }
        let known = |b: &Arc<Batch>| b.last_lsn().is_some_and(|l| l <= welcome.durable);
        state.next = state.items.iter().rposition(known).map_or(0, |n| n + 1);
        Ok(())
    }

    fn next(&self) -> Option<Arc<Batch>> {
        let mut state = self.lock();
        let item = state.items.get(state.next).cloned()?;
        state.next += 1;
        Some(item)
    }

    fn changed(&self) -> &Notify {
        &self.changed
    }

    fn acked(&self, _: u64, _: Lsn, _: Lsn) {}

    fn lost(&self) {}

    fn heartbeat(&self) -> Heartbeat {
        let mut state = self.lock();
        state.beats += 1;
        let head = state.workload.next_lsn().previous();
        Heartbeat {
            head,
            at: state.at,
            status: state.status(),
            ledgers: state.kept.clone(),
            witnesses: state.witnesses.clone(),
            stores: state.stores.clone(),
            refused: None,
            set_back: state.set_back,
        }
    }

    fn ledger(&self, head: LedgerHead) {
        let mut state = self.lock();
        let kept = state.kept.get_or_insert_default();
        kept.retain(|known| known.store != head.store);
        kept.insert(0, head);
    }

    fn witnessed(&self, head: LedgerHead) {
        self.lock().witnessed = Some(head);
    }

    fn ask(&self, question: Question, reply: AskReply) {
        let mut state = self.lock();
        let answer = match question {
            Question::Head => Reply::Head {
                lsn: state.workload.next_lsn().previous(),
                at: state.at,
                status: state.status(),
            },
            Question::Bookmark { name, .. } if state.workload.syncing() => {
                let detail = format!("the baseline did not end in time for {name}");
                return reply.send(Err(AskError::new(AskCode::Timeout, detail)));
            }
            Question::Bookmark { name, .. } => {
                let batch = state.workload.bookmark(&name);
                let lsn = batch.last_lsn().unwrap();
                state.take(batch);
                self.changed.notify_one();
                Reply::Bookmarked { lsn, at: state.at }
            }
            Question::Resync { from, .. } => {
                state.resync_from = Some(from);
                Reply::Done
            }
            Question::AcceptRestored => Reply::Done,
            Question::Block { block } => Reply::Block { unit: state.stored_form(block) },
        };
        reply.send(Ok(answer));
    }

    fn refused(&self, refuse: &Refuse) {
        self.lock().refused = Some(refuse.clone());
    }
}
