//! The connections of a front: how many there may be, what each is doing, and how one is ended.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::budget::{Budget, MemoryUse};
use crate::channel::Secured;
use crate::exports::ClientId;
use crate::front::Limits;
use crate::mailbox::{Mailbox, Stop};

/// What a connection holds is noted when it has changed by so much: small requests never touch what all connections share.
const NOTED: u64 = 64 << 10;

/// Numbers are unique in the process, so that a session is meant whichever front it is at.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// A connection, as those who run the place see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    /// Unique in this process.
    pub id: u64,
    /// Where it comes from: address and port, or process and user.
    pub peer: String,
    /// The export it has opened; `None` during its handshake. Over iSCSI the name of its target.
    pub export: Option<String>,
    /// The name of an iSCSI initiator that has logged in.
    pub initiator: Option<String>,
    /// The version of TLS, such as `1.3`; `None` without.
    pub tls: Option<String>,
    /// Whom the client's certificate names; `None`: it has shown none.
    pub certificate: Option<String>,
    /// How long it has been there.
    pub age: Duration,
    /// Bytes that it has read.
    pub bytes_read: u64,
    /// Bytes that it has sent to be written.
    pub bytes_written: u64,
    /// Requests that it has made.
    pub requests: u64,
    /// Requests that are under way.
    pub in_flight: u64,
}

/// One connection, shared between its thread and the table.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: u64,
    pub(crate) mailbox: Arc<Mailbox>,
    /// Is there no place for it, which it is to be told?
    pub(crate) one_too_many: bool,
    peer: String,
    since: Instant,
    counts: Counts,
    details: Mutex<Details>,
}

/// Written by the connection's thread alone.
#[derive(Debug, Default)]
struct Counts {
    read: AtomicU64,
    written: AtomicU64,
    requests: AtomicU64,
    in_flight: AtomicUsize,
    /// Bytes it holds, as last noted.
    held: AtomicU64,
}

#[derive(Debug, Default)]
struct Details {
    export: Option<String>,
    initiator: Option<String>,
    tls: Option<String>,
    certificate: Option<String>,
}

/// All connections of a front.
#[derive(Debug)]
pub(crate) struct Sessions {
    table: Mutex<Table>,
    /// Bytes that all of them hold.
    held: AtomicU64,
    /// For them, and perhaps for those of other fronts.
    budget: Arc<Budget>,
    /// Signalled when a connection ends.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Table {
    all: HashMap<u64, Arc<Session>>,
    /// The front was full and said so already.
    told_full: bool,
}

impl Session {
    fn new(peer: String, one_too_many: bool) -> Self {
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            mailbox: Arc::default(),
            one_too_many,
            peer,
            since: Instant::now(),
            counts: Counts::default(),
            details: Mutex::default(),
        }
    }

    pub(crate) fn count_request(&self, written: u64) {
        add(&self.counts.requests, 1);
        add(&self.counts.written, written);
    }

    pub(crate) fn count_read(&self, bytes: u64) {
        add(&self.counts.read, bytes);
    }

    pub(crate) fn note_in_flight(&self, requests: usize) {
        self.counts.in_flight.store(requests, Ordering::Relaxed);
    }

    /// TLS is at work; what was opened before is not open any more. Who the client is, if its certificate says so.
    pub(crate) fn note_tls(&self, secured: &Secured) -> Option<ClientId> {
        let mut details = self.lock();
        let name = secured.names.as_ref().and_then(|names| names.first().cloned());
        let (tls, certificate) = (Some(secured.version.clone()), name.clone());
        *details = Details { tls, certificate, ..Details::default() };
        name.map(ClientId::Certificate)
    }

    /// It holds this iSCSI target, which it logs in to.
    pub(crate) fn note_target(&self, target: &str) {
        self.lock().export = Some(target.to_owned());
    }

    /// The initiator of this name has logged in.
    pub(crate) fn note_initiator(&self, initiator: &str) {
        self.lock().initiator = Some(initiator.to_owned());
    }

    pub(crate) fn peer(&self) -> &str {
        &self.peer
    }

    fn info(&self) -> SessionInfo {
        let details = self.lock();
        SessionInfo {
            id: self.id,
            peer: self.peer.clone(),
            export: details.export.clone(),
            initiator: details.initiator.clone(),
            tls: details.tls.clone(),
            certificate: details.certificate.clone(),
            age: self.since.elapsed(),
            bytes_read: self.counts.read.load(Ordering::Relaxed),
            bytes_written: self.counts.written.load(Ordering::Relaxed),
            requests: self.counts.requests.load(Ordering::Relaxed),
            in_flight: tap_block::units::count(self.counts.in_flight.load(Ordering::Relaxed)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Details> {
        self.details.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// With one thread that writes it, no read-modify-write is needed.
fn add(count: &AtomicU64, more: u64) {
    count.store(count.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

impl Sessions {
    pub(crate) fn new(budget: Arc<Budget>) -> Self {
        Self { table: Mutex::default(), held: AtomicU64::new(0), budget, ended: Condvar::new() }
    }

    /// A place for one more connection; `None` when it is to be hung up on. So many beyond the limit are `told` that there is none.
    pub(crate) fn admit(&self, peer: String, limits: &Limits, told: usize) -> Option<Arc<Session>> {
        let mut table = self.lock();
        let there = table.all.len();
        let full = there >= limits.connections;
        if full && !table.told_full {
            tracing::warn!(
                limit = limits.connections,
                "no room for another connection; further ones are hung up on"
            );
        }
        table.told_full = full;
        if there >= limits.connections.saturating_add(told) {
            return None;
        }
        let session = Arc::new(Session::new(peer, full));
        table.all.insert(session.id, Arc::clone(&session));
        Some(session)
    }

    /// The session opens `export`, unless so many others have that there is no place; how many there are then.
    pub(crate) fn open(&self, session: &Session, export: &str, limits: &Limits) -> Result<(), usize> {
        let table = self.lock();
        let other = |s: &&Arc<Session>| s.id != session.id && s.lock().export.as_deref() == Some(export);
        let others = table.all.values().filter(other).count();
        if others >= limits.per_export {
            return Err(others);
        }
        session.lock().export = Some(export.to_owned());
        Ok(())
    }

    /// The session holds so many bytes of requests and replies now.
    pub(crate) fn note_held(&self, session: &Session, bytes: u64) {
        let before = session.counts.held.load(Ordering::Relaxed);
        if bytes.abs_diff(before) >= NOTED {
            session.counts.held.store(bytes, Ordering::Relaxed);
            self.hold(before, bytes);
        }
    }

    fn hold(&self, before: u64, now: u64) {
        self.held.fetch_add(now, Ordering::Relaxed);
        self.held.fetch_sub(before, Ordering::Relaxed);
        self.budget.note_held(before, now);
    }

    /// How they use the memory that there is for them.
    pub(crate) fn memory(&self) -> MemoryUse {
        let ids: HashSet<u64> = self.lock().all.keys().copied().collect();
        self.budget.usage(self.held.load(Ordering::Relaxed), |id| ids.contains(&id))
    }

    pub(crate) fn forget(&self, id: u64) {
        if let Some(session) = self.lock().all.remove(&id) {
            self.hold(session.counts.held.load(Ordering::Relaxed), 0);
        }
        self.ended.notify_all();
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().all.len()
    }

    /// All of them, the oldest first.
    pub(crate) fn infos(&self) -> Vec<SessionInfo> {
        let mut infos: Vec<_> = self.lock().all.values().map(|session| session.info()).collect();
        infos.sort_by_key(|info| info.id);
        infos
    }

    pub(crate) fn stop_all(&self, stop: Stop) {
        for session in self.lock().all.values() {
            session.mailbox.stop(stop);
        }
    }

    /// Ends these at once; those that are not there any more have ended.
    pub(crate) fn abort(&self, ids: &[u64]) {
        let table = self.lock();
        for session in ids.iter().filter_map(|id| table.all.get(id)) {
            session.mailbox.stop(Stop::Abort);
        }
    }

    /// Waits until all, or these, have ended; how many have not by `deadline`.
    pub(crate) fn wait(&self, only: Option<&[u64]>, deadline: Instant) -> usize {
        let left_of = |table: &Table| match only {
            None => table.all.len(),
            Some(ids) => ids.iter().filter(|id| table.all.contains_key(id)).count(),
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.ended.wait_timeout_while(self.lock(), left, |table| left_of(table) > 0);
        left_of(&waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
