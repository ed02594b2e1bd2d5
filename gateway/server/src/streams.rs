//! The streams that arrive: from the link into the store, and questions the other way.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cx_link::{BatchDone, DownlinkHandle, Intake, LookupReply, StreamIntake};
use cx_wire::{
    Accepted, AskCode, AskError, Heartbeat, Hello, LedgerHead, Lookup, Question, RecordSeen, Refuse,
    RefuseCode, Reply, RunSeen, SetBack, Standing, TapStatus, Welcome,
};
use gateway_image::Catalogue;
use gateway_journal::meta::OWN_STREAM;
use gateway_journal::{Digest, EntryNo, Head, StoreId};
use gateway_store::{Durable, Store, StoreError};
use tap_block::{Batch, Clock, Lsn, Monotonic, Name, StreamId, WallTime};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

use crate::http::Answer;
use crate::lookup::{Looker, READERS};
use crate::mending::mend_while_linked;
use crate::names::Names;
use crate::nurse::nurse;
use crate::problems;
use crate::pulse::Pulse;
use crate::refusals::{Refusals, send_again_when_there_is_room};
use crate::restored::TurnedAway;
use crate::skew::{Offset, Skew};
use crate::stores::Stores;

/// Where the CX's word on the ledger is entered under.
const CX: &str = "cx";
/// And another gateway's, before its name.
const GATEWAY: &str = "gateway";
/// Bytes of batches that all senders together may have under way: well below what the store queues.
const CREDIT: u64 = 32 << 20;
/// How often a tap's clock is measured.
const MEASURE_EACH: Duration = Duration::from_secs(20);
/// What each sender is given at least, however many there are: a few batches.
const LEAST_CREDIT: u64 = 4 << 20;

/// Every stream that was heard of since the start.
pub(crate) struct Streams {
    store: Arc<Store>,
    stores: Arc<Stores>,
    clock: Arc<dyn Clock>,
    names: Arc<Names>,
    open: Mutex<HashMap<StreamId, Arc<Stream>>>,
    /// Taps that were not taken lately, why, and when they came last.
    turned_away: Mutex<BTreeMap<StreamId, (String, Monotonic)>>,
    copies: TurnedAway,
    stopping: AtomicBool,
    /// Ticks whenever something became durable, a heartbeat or a link came.
    progress: watch::Sender<()>,
    /// Turns to look something up for a tap.
    readers: Arc<Semaphore>,
}

/// One stream.
pub(crate) struct Stream {
    id: StreamId,
    store: Arc<Store>,
    stores: Arc<Stores>,
    clock: Arc<dyn Clock>,
    pulse: Arc<Mutex<Pulse>>,
    link: Mutex<Option<Attached>>,
    /// As the tap says it; the catalogue has it only from the first record on.
    name: Mutex<Name>,
    progress: watch::Sender<()>,
    readers: Arc<Semaphore>,
    refusals: Arc<Refusals>,
    skew: Arc<Mutex<Skew>>,
    /// The store of the last head that the CX was told is kept here for another gateway.
    witnessed: AtomicU64,
    /// When its tap greeted last.
    announced: AtomicU64,
    /// The last record of which it was noted that the store had it once and has not; 0 for none.
    set_back: Arc<AtomicU64>,
}

/// A tap that was turned away comes again; one that has not for so long is not spoken of any more.
const TURNED_AWAY: Duration = Duration::from_secs(120);
/// Of so many taps at most; at the limit some other is spoken of no more.
const MOST_TURNED_AWAY: usize = 64;
/// A link follows the greeting within this time.
const LINKED_WITHIN: Duration = Duration::from_secs(10);

/// A sender that was refused for want of room is back within this time.
const BACK_WITHIN: Duration = Duration::from_secs(6);
/// Why the tap does not answer meanwhile: it waits for a copy to end, say, of which nothing is taken.
const NO_ROOM: &str = "this gateway has no room for the volume's history (`chronogate status` says why), and what was asked needs some: \
                       make room, then try again";

/// The link of a stream while it stands, and who has the stream's wounds healed over it.
struct Attached {
    link: DownlinkHandle,
    care: [AbortHandle; 4],
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.care.iter().for_each(AbortHandle::abort);
    }
}

impl Streams {
    pub(crate) fn new(
        store: Arc<Store>,
        stores: Arc<Stores>,
        clock: Arc<dyn Clock>,
        names: Arc<Names>,
    ) -> Self {
        let (open, turned_away, stopping) = (Mutex::default(), Mutex::default(), AtomicBool::new(false));
        let copies = TurnedAway::default();
        let (progress, readers) = (watch::Sender::new(()), Arc::new(Semaphore::new(READERS)));
        Self { store, stores, clock, names, open, turned_away, copies, stopping, progress, readers }
    }

    /// Changes whenever a point that was not there yet may be now.
    pub(crate) fn progress(&self) -> watch::Receiver<()> {
        self.progress.subscribe()
    }

    /// What is known of a stream from its link; `None` when it was not heard of since the start.
    pub(crate) fn get(&self, stream: StreamId) -> Option<Arc<Stream>> {
        self.lock().get(&stream).cloned()
    }

    /// Refuses every connection from here on.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    fn check(&self, hello: &Hello, durable: Option<&Durable>) -> Result<(), Refuse> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(refuse(RefuseCode::Stopping, "this gateway is stopping; try again later"));
        }
        if hello.stream == OWN_STREAM {
            return Err(refuse(RefuseCode::Other, "stream 0 is the gateway's own: use another"));
        }
        let catalogue = self.store.catalogue();
        self.copies.check(hello, durable.map_or(Lsn::ZERO, |d| d.lsn))?;
        check_epoch(hello, &catalogue)?;
        check_run(hello, durable, &catalogue)?;
        self.check_name(hello, &catalogue)
    }

    fn check_name(&self, hello: &Hello, catalogue: &Catalogue) -> Result<(), Refuse> {
        let taken = |by: StreamId| {
            refuse(
                RefuseCode::NameTaken,
                format!(
                    "{} is the name of another volume here ({by}, not {}): protect the disk under another \
                     name; to go on with that volume's history, start its tap from its own data directory",
                    hello.name, hello.stream
                ),
            )
        };
        if let Some(volume) = catalogue.volume_named(&hello.name)
            && volume.stream() != hello.stream
        {
            return Err(taken(volume.stream()));
        }
        let open = self.lock();
        let other = open.values().find(|s| s.id != hello.stream && *s.lock_name() == hello.name);
        // One that sent nothing and is gone does not keep its name.
        match other.filter(|s| s.lock_link().is_some()) {
            Some(other) => Err(taken(other.id)),
            None => Ok(()),
        }
    }

    fn stream(&self, hello: &Hello) -> Arc<Stream> {
        let mut open = self.lock();
        let stream = open.entry(hello.stream).or_insert_with(|| {
            Arc::new(Stream {
                id: hello.stream,
                store: Arc::clone(&self.store),
                stores: Arc::clone(&self.stores),
                clock: Arc::clone(&self.clock),
                pulse: Arc::default(),
                link: Mutex::default(),
                name: Mutex::new(hello.name.clone()),
                progress: self.progress.clone(),
                readers: Arc::clone(&self.readers),
                refusals: Arc::default(),
                skew: Arc::default(),
                witnessed: AtomicU64::new(0),
                announced: AtomicU64::new(0),
                set_back: Arc::default(),
            })
        });
        stream.lock_name().clone_from(&hello.name);
        stream.announced.store(self.clock.monotonic().nanos(), Ordering::Relaxed);
        Arc::clone(stream)
    }

    /// The stream of a greeting, unless its name is about to become somebody else's.
    fn admit(&self, hello: &Hello) -> Result<Arc<Stream>, Refuse> {
        let admitted = self.names.admit(&hello.name, hello.stream, || self.stream(hello));
        admitted.map_err(|holder| {
            let detail = format!(
                "{} is the name of {holder}: protect the disk under another name, or wait if that was cancelled",
                hello.name
            );
            tracing::warn!(volume = %hello.name, sender = hello.sender, "refused: {detail}");
            refuse(RefuseCode::NameTaken, detail)
        })
    }

    /// Why taps are not taken, as far as they came lately: in words for people.
    pub(crate) fn refusals(&self) -> Vec<String> {
        let now = self.clock.monotonic();
        let mut away = self.turned_away.lock().unwrap_or_else(PoisonError::into_inner);
        away.retain(|_, (_, at)| now.since(*at) < TURNED_AWAY);
        let heard = self
            .lock()
            .values()
            .filter_map(|s| s.lock_pulse().refused(now).map(str::to_owned))
            .collect::<Vec<_>>();
        let told = away.values().map(|(why, _)| why.clone());
        let mut all: Vec<String> =
            told.chain(heard).map(|why| format!("a tap is not taken: {why}")).collect();
        all.sort();
        all.dedup();
        all
    }

    /// Whoever reads the status hears of it for a while; `None`: the tap was taken.
    fn note_turned_away(&self, hello: &Hello, refused: Option<&Refuse>) {
        self.copies.note(hello, refused, self.clock.wall());
        let mut away = self.turned_away.lock().unwrap_or_else(PoisonError::into_inner);
        away.remove(&hello.stream);
        if let Some(refused) = refused.filter(|r| r.code != RefuseCode::Stopping) {
            let now = self.clock.monotonic();
            if away.len() >= MOST_TURNED_AWAY {
                away.retain(|_, (_, at)| now.since(*at) < TURNED_AWAY);
                away.pop_first();
            }
            away.insert(hello.stream, (refused.detail.clone(), now));
        }
    }

    /// The tap of this stream that was turned away here last is to go on after all; `None`: none was turned away.
    pub(crate) fn accept_here(&self, id: StreamId) -> Option<Result<Accepted, AskError>> {
        let stream = Standing {
            known: self.store.durable(id).map_or(Lsn::ZERO, |d| d.lsn),
            epoch: self.store.catalogue().epoch(id),
            is_linked: self.get(id).is_some_and(|stream| stream.lock_link().is_some()),
        };
        self.copies.accept(id, stream, self.clock.wall())
    }

    /// # Errors
    /// When a tap has announced the name, though nothing of it is here yet.
    pub(crate) fn check_unannounced(&self, name: &Name) -> Answer<()> {
        let (open, now) = (self.lock(), self.clock.monotonic());
        match open.values().find(|stream| *stream.lock_name() == *name && stream.is_announced(now)) {
            Some(_) => Err(problems::name_taken(name, "a volume whose tap has just announced it")),
            None => Ok(()),
        }
    }

    fn credit(&self) -> u64 {
        let senders = tap_block::units::count(self.lock().len()).max(1);
        (CREDIT / senders).max(LEAST_CREDIT)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StreamId, Arc<Stream>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refuse(code: RefuseCode, detail: impl Into<String>) -> Refuse {
    Refuse { code, detail: detail.into() }
}

fn check_epoch(hello: &Hello, catalogue: &Catalogue) -> Result<(), Refuse> {
    match catalogue.epoch(hello.stream) {
        Some(epoch) if hello.epoch < epoch => Err(refuse(
            RefuseCode::Fenced,
            format!(
                "{} was taken over ({epoch}, this tap has {}): this copy of the disk is no longer the one in \
                 charge; stop this tap, or protect the disk as a new volume; to go on with it after all: chronogate volume \
                 accept-restored {}",
                hello.name, hello.epoch, hello.name
            ),
        )),
        _ => Ok(()),
    }
}

/// A run that is new here must begin above all that is durable: LSNs are never used twice.
fn check_run(hello: &Hello, durable: Option<&Durable>, catalogue: &Catalogue) -> Result<(), Refuse> {
    let Some(durable) = durable.filter(|d| d.run != hello.run && hello.first_lsn <= d.lsn) else {
        return Ok(());
    };
    let volume = catalogue.volume_of(hello.stream);
    let known = volume.is_some_and(|v| v.runs().iter().any(|run| run.id == hello.run));
    if known || hello.first_lsn == Lsn::ZERO {
        return Ok(());
    }
    Err(refuse(
        RefuseCode::SplitHistory,
        format!(
            "{}: this tap's {} begins at lsn:{}, but lsn:{} of {} is durable here: the tap's state is an old copy, or \
             two taps write this stream; go on with the newest copy of its state; or with this one, if its server was restored: \
             chronogate volume accept-restored {} has the whole disk compared; or stop this tap, remove its state and protect the \
             disk under another name",
            hello.name,
            hello.run,
            hello.first_lsn.get(),
            durable.lsn.get(),
            durable.run,
            hello.name
        ),
    ))
}

impl Intake for Streams {
    fn open(&self, hello: &Hello) -> Result<(Welcome, Arc<dyn StreamIntake>), Refuse> {
        let durable = self.store.durable(hello.stream);
        let checked = self.check(hello, durable.as_ref()).inspect_err(|refused| {
            tracing::warn!(volume = %hello.name, sender = hello.sender, "refused: {}", refused.detail);
        });
        let admitted = checked.and_then(|()| self.admit(hello));
        self.note_turned_away(hello, admitted.as_ref().err());
        let stream = admitted?;
        let welcome = Welcome {
            durable: durable.as_ref().map_or(Lsn::ZERO, |d| d.lsn),
            durable_run: durable.as_ref().map(|d| d.run),
            known: durable.is_some(),
            credit: self.credit(),
            store: Some(self.store.id().get()),
            past: Some(durable.iter().map(|d| RunSeen { run: d.run, at: d.at }).collect()),
            last: durable.as_ref().map(|d| RecordSeen { run: d.run, lsn: d.lsn, at: d.at }),
        };
        Ok((welcome, stream))
    }
}

impl Stream {
    /// The last record durable here.
    pub(crate) fn durable(&self) -> Option<Durable> {
        self.store.durable(self.id)
    }

    /// The latest tap time up to which everything is here.
    pub(crate) fn proven(&self) -> Option<WallTime> {
        self.lock_pulse().proven(self.durable().map(|d| (d.lsn, d.at)))
    }

    /// What the tap last said; `None` when it has been silent for too long.
    pub(crate) fn status(&self) -> Option<TapStatus> {
        self.lock_pulse().status(self.clock.monotonic()).cloned()
    }

    /// Asks the tap.
    ///
    /// # Errors
    /// The tap's error, or that it cannot be reached.
    pub(crate) async fn ask(&self, question: Question, limit: Duration) -> Result<Reply, AskError> {
        self.wait_for_link(limit.min(BACK_WITHIN)).await;
        let link = self.lock_link().as_ref().map(|attached| attached.link.clone());
        let reply = match link {
            Some(link) if question == Question::Head => {
                ask_head(&link, limit, &*self.clock, &self.skew).await
            }
            Some(link) => link.ask(question, limit).await,
            None => Err(AskError::new(AskCode::NotReachable, "no link that carries the volume is open")),
        };
        reply.map_err(|e| match e.code {
            AskCode::NotReachable if self.refusals.is_last() => AskError::new(e.code, NO_ROOM),
            _ => e,
        })
    }

    /// Until the link of a sender that was refused for want of room stands again, for `limit` at most.
    async fn wait_for_link(&self, limit: Duration) {
        let mut ticks = self.progress.subscribe();
        let stands = async {
            while self.lock_link().is_none() && self.refusals.is_last() && ticks.changed().await.is_ok() {}
        };
        // Whoever asks finds out then.
        let _ = tokio::time::timeout(limit, stands).await;
    }

    /// Its link stands, or is about to.
    fn is_announced(&self, now: Monotonic) -> bool {
        let at = Monotonic::from_nanos(self.announced.load(Ordering::Relaxed));
        self.lock_link().is_some() || now.since(at) < LINKED_WITHIN
    }

    /// How far the tap's clock is from ours, once that was measured.
    pub(crate) fn offset(&self) -> Option<Offset> {
        lock_skew(&self.skew).offset()
    }

    /// The CX says which heads of ledgers it keeps; it is told this one's when it has an older one.
    fn exchange_heads(&self, heartbeat: &Heartbeat) {
        let Some(kept) = &heartbeat.ledgers else { return };
        let heads: Vec<(StoreId, Head)> = kept.iter().map(head_in).collect();
        self.store.hear_heads(CX, &heads);
        if let Some((store, head)) = self.store.head_for(CX)
            && let Some(attached) = &*self.lock_link()
        {
            attached.link.tell_ledger(head_out(store, head));
        }
        for witness in &heartbeat.witnesses {
            self.store.hear_witness(&format!("{GATEWAY} {}", witness.gateway), head_in(&witness.head));
        }
        self.tell_witnessed();
    }

    /// The CX remembers more than there was here. It says so again and again: once is enough, as soon as the volume is known.
    fn note_set_back(&self, back: SetBack) {
        let (had, noted) = (back.had.get(), Arc::clone(&self.set_back));
        if noted.swap(had, Ordering::Relaxed) == had {
            return;
        }
        let (store, stream) = (Arc::clone(&self.store), self.id);
        tokio::task::spawn_blocking(move || {
            if !store.note_set_back(CX, stream, (back.had, back.has)) {
                noted.store(0, Ordering::Relaxed);
            }
        });
    }

    /// One by one, what is kept here of other gateways' ledgers.
    fn tell_witnessed(&self) {
        let after = StoreId::new(self.witnessed.load(Ordering::Relaxed));
        if let Some((store, head)) = self.store.witnessed_after(after)
            && let Some(attached) = &*self.lock_link()
        {
            self.witnessed.store(store.get(), Ordering::Relaxed);
            attached.link.tell_witnessed(head_out(store, head));
        }
    }

    fn lock_pulse(&self) -> MutexGuard<'_, Pulse> {
        lock_pulse(&self.pulse)
    }

    fn lock_link(&self) -> MutexGuard<'_, Option<Attached>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_name(&self) -> MutexGuard<'_, Name> {
        self.name.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks where the tap stands; by the way its clock is measured.
async fn ask_head(
    link: &DownlinkHandle,
    limit: Duration,
    clock: &dyn Clock,
    skew: &Mutex<Skew>,
) -> Result<Reply, AskError> {
    let (asked, begun) = (clock.wall(), clock.monotonic());
    let reply = link.ask(Question::Head, limit).await?;
    if let Reply::Head { at, .. } = &reply {
        let now = clock.monotonic();
        lock_skew(skew).measure(asked, now.since(begun), *at, now);
    }
    Ok(reply)
}

/// Runs while the link stands.
async fn measure_while_linked(link: DownlinkHandle, clock: Arc<dyn Clock>, skew: Arc<Mutex<Skew>>) {
    loop {
        // One that does not answer is asked again.
        let _ = ask_head(&link, MEASURE_EACH, &*clock, &skew).await;
        tokio::time::sleep(MEASURE_EACH).await;
    }
}

fn lock_skew(skew: &Mutex<Skew>) -> MutexGuard<'_, Skew> {
    skew.lock().unwrap_or_else(PoisonError::into_inner)
}

fn head_in(kept: &LedgerHead) -> (StoreId, Head) {
    let (number, digest) = (EntryNo::new(kept.entry), Digest::new(kept.hash));
    (StoreId::new(kept.store), Head { number, digest, at: kept.at })
}

const fn head_out(store: StoreId, head: Head) -> LedgerHead {
    LedgerHead { store: store.get(), entry: head.number.get(), hash: head.digest.get(), at: head.at }
}

fn lock_pulse(pulse: &Mutex<Pulse>) -> MutexGuard<'_, Pulse> {
    pulse.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StreamIntake for Stream {
    fn attached(&self, link: DownlinkHandle) {
        let nursing = nurse(Arc::clone(&self.store), self.id, link.clone());
        let mending = mend_while_linked(Arc::clone(&self.store), self.id, link.clone());
        let measuring = measure_while_linked(link.clone(), Arc::clone(&self.clock), Arc::clone(&self.skew));
        let (refusals, store) = (Arc::clone(&self.refusals), Arc::clone(&self.store));
        let sending = send_again_when_there_is_room(refusals, store, self.id);
        let care = [
            tokio::spawn(nursing).abort_handle(),
            tokio::spawn(mending).abort_handle(),
            tokio::spawn(measuring).abort_handle(),
            tokio::spawn(sending).abort_handle(),
        ];
        self.refusals.open();
        *self.lock_link() = Some(Attached { link, care });
        // Somebody may wait for it.
        self.progress.send_replace(());
    }

    fn batch(&self, batch: Arc<Batch>, done: BatchDone) {
        let (stream, pulse, progress) = (self.id, Arc::clone(&self.pulse), self.progress.clone());
        let refusals = Arc::clone(&self.refusals);
        let Err(done) = refusals.follow(done) else { return };
        let stored = move |result: Result<Lsn, StoreError>| match result {
            Ok(durable) => {
                refusals.stored();
                lock_pulse(&pulse).durable(durable);
                done.durable(durable, durable);
                progress.send_replace(());
            }
            // Dropping `done` closes the connection; the sender comes back and resumes from what is durable.
            Err(StoreError::Stopped) => {}
            Err(e) => {
                // Said once: everything that is sent meanwhile meets the same.
                if refusals.is_new() {
                    tracing::warn!(%stream, "records were not stored and will be sent again: {e}");
                }
                if matches!(
                    e,
                    StoreError::NoSpace(_) | StoreError::OverLimit { .. } | StoreError::IndexFull(_)
                ) {
                    refusals.keep(done);
                }
            }
        };
        self.store.append(Arc::unwrap_or_clone(batch), Box::new(stored));
    }

    fn heartbeat(&self, heartbeat: Heartbeat) {
        let durable = self.durable().map_or(Lsn::ZERO, |d| d.lsn);
        self.stores.hear(CX, &heartbeat.stores);
        self.exchange_heads(&heartbeat);
        heartbeat.set_back.into_iter().for_each(|back| self.note_set_back(back));
        self.lock_pulse().heard(heartbeat, durable, self.clock.monotonic());
        self.progress.send_replace(());
    }

    fn query(&self, lookup: Lookup, reply: LookupReply) {
        let looker = Looker {
            store: Arc::clone(&self.store),
            stream: self.id,
            progress: self.progress.subscribe(),
            readers: Arc::clone(&self.readers),
        };
        tokio::spawn(async move { reply.send(looker.look_up(lookup).await) });
    }

    fn closed(&self) {
        self.refusals.close();
        *self.lock_link() = None;
    }
}
