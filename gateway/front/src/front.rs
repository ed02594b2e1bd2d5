//! The front as a whole: what listens, which connections there are, and how all of it ends.

use std::io;
use std::net::TcpStream as StdTcpStream;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gateway_nbd::Tls;
use rustix::net::sockopt;
use tap_block::units::count;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Notify;

use crate::address::{ListenAddress, Portal};
use crate::budget::{Budget, Memory, MemoryUse};
use crate::connection::{Connection, PROGRESS};
use crate::ended::Ended;
use crate::exports::{ClientId, Exports};
use crate::iscsi::{IscsiConnection, IscsiLimits, Targets};
use crate::landing::Shores;
use crate::listener::{Bound, ListenError, Listener};
use crate::mailbox::Stop;
use crate::sessions::{Session, SessionInfo, Sessions};
use crate::tls::Security;

/// How long a connection may take to notice that it is to end at once.
const ABORT: Duration = Duration::from_secs(1);
/// How long accepting rests after it failed, for instance because there are too many open files.
const REST: Duration = Duration::from_millis(50);

/// What a client on this machine need not have taken yet of its replies before writing more has to wait: a large read goes
/// out in one go instead of a wait for the client at each of five fifths.
const ROOM: usize = 2 << 20;

/// Connections beyond the limit that are served for as long as it takes to tell them so; further ones are hung up on.
const TOLD_FULL: usize = 16;

/// The bounds of what clients may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time. The next ones are told that there is no place, and when they are too many for that, hung up on.
    pub connections: usize,
    /// Connections to one export at a time. One more is refused it.
    pub per_export: usize,
    /// How long a client may take from connecting to choosing its export, TLS included, lookups not counted.
    pub handshake: Duration,
    /// How long a client may take next to nothing of a reply that waits for it; then it is hung up on.
    pub stall: Duration,
    /// Bytes of requests and replies that all connections may hold. Half of it is a minimum for each of them (64 KiB at least); one
    /// that would hold more waits while there is no more, and patience with clients that are slow gets shorter.
    pub memory: u64,
    /// How long it lasts then. A client that holds more than its minimum has to take a good part of it in this time.
    pub stall_in_need: Duration,
    /// How long a client may ask for nothing; then it is hung up on. `None`: for ever.
    pub idle: Option<Duration>,
    /// What each connection may hold.
    pub protocol: gateway_nbd::Limits,
}

/// Starts fronts.
#[derive(Debug)]
pub struct Front;

/// A running front. Dropping it ends it at once; [`drain_and_stop`](Self::drain_and_stop) ends it well.
pub struct FrontHandle {
    shared: Arc<Shared>,
    bound: Vec<Entrance>,
    acceptor: Mutex<Option<JoinHandle<()>>>,
}

/// A place where it listens.
struct Entrance {
    bound: Bound,
    tls: Tls,
    /// What initiators are told of it.
    advertised: Option<String>,
}

/// How a front ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that had not finished in time and were cut off.
    pub cut_off: usize,
}

/// What the connections of a front have in common.
pub(crate) struct Shared {
    service: Service,
    pub(crate) limits: Limits,
    /// Each connection keeps what it began with.
    security: Mutex<Arc<Security>>,
    pub(crate) sessions: Sessions,
    pub(crate) budget: Arc<Budget>,
    pub(crate) shores: Shores,
    stop_accepting: Notify,
}

/// What connections are served.
enum Service {
    Nbd(Arc<dyn Exports>),
    Iscsi(Arc<dyn Targets>, IscsiLimits),
}

/// A socket just accepted, on its way to its own thread.
enum Socket {
    Unix(StdUnixStream),
    Tcp(StdTcpStream),
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            per_export: 512,
            handshake: Duration::from_secs(10),
            stall: Duration::from_secs(120),
            memory: 1 << 30,
            stall_in_need: Duration::from_secs(5),
            idle: None,
            protocol: gateway_nbd::Limits::default(),
        }
    }
}

impl Limits {
    /// Memory for an NBD front with these limits and, if there is one beside it, for an iSCSI front.
    #[must_use]
    pub fn memory_with(&self, beside: Option<&IscsiLimits>) -> Memory {
        let initiators = beside.map_or(0, |limits| limits.connections);
        Memory::new(self.memory, self.connections.saturating_add(TOLD_FULL).saturating_add(initiators))
    }

    /// So much a client that holds `held` has to take within `stall_in_need`, while others wait for memory: what takes all of it
    /// within `stall`, or a quarter of it if that is no more than a MiB; next to nothing is too little in any case.
    pub(crate) fn due_in_need(&self, held: u64) -> u64 {
        let part = u128::from(held) * self.stall_in_need.as_millis() / self.stall.as_millis().max(1);
        let part = u64::try_from(part).unwrap_or(u64::MAX).min(held);
        part.max((held / 4).min(1 << 20)).max(count(PROGRESS))
    }
}

impl Service {
    const fn name(&self) -> &'static str {
        match self {
            Self::Nbd(..) => "nbd",
            Self::Iscsi(..) => "iscsi",
        }
    }

    /// So many for whom there is no place are told so; an initiator has no way to hear it before it has logged in.
    const fn told_full(&self) -> usize {
        match self {
            Self::Nbd(..) => TOLD_FULL,
            Self::Iscsi(..) => 0,
        }
    }
}

impl Front {
    /// Listens on all `addresses` and serves `exports` to whoever connects. Needs no runtime around it.
    ///
    /// # Errors
    /// [`ListenError`] for the first address that cannot be had; none is then listened on.
    pub fn start(
        addresses: &[ListenAddress],
        exports: Arc<dyn Exports>,
        limits: Limits,
    ) -> Result<FrontHandle, ListenError> {
        Self::start_secured(addresses, exports, limits, Security::default())
    }

    /// The same, secured.
    ///
    /// # Errors
    /// As [`Front::start`].
    pub fn start_secured(
        addresses: &[ListenAddress],
        exports: Arc<dyn Exports>,
        limits: Limits,
        security: Security,
    ) -> Result<FrontHandle, ListenError> {
        Self::start_sharing(addresses, exports, limits, security, &limits.memory_with(None))
    }

    /// The same; `memory` may be other fronts' as well, and is there instead of [`Limits::memory`].
    ///
    /// # Errors
    /// As [`Front::start`].
    pub fn start_sharing(
        addresses: &[ListenAddress],
        exports: Arc<dyn Exports>,
        limits: Limits,
        security: Security,
        memory: &Memory,
    ) -> Result<FrontHandle, ListenError> {
        let addresses: Vec<Portal> = addresses.iter().cloned().map(Portal::from).collect();
        start(&addresses, Service::Nbd(exports), limits, security, memory)
    }

    /// The same over iSCSI: serves `targets` to whoever logs in.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_iscsi(
        portals: &[Portal],
        targets: Arc<dyn Targets>,
        limits: IscsiLimits,
    ) -> Result<FrontHandle, ListenError> {
        let memory = Memory::new(limits.memory, limits.connections);
        Self::start_iscsi_sharing(portals, targets, limits, &memory)
    }

    /// The same; `memory` may be other fronts' as well, and is there instead of [`IscsiLimits::memory`].
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_iscsi_sharing(
        portals: &[Portal],
        targets: Arc<dyn Targets>,
        limits: IscsiLimits,
        memory: &Memory,
    ) -> Result<FrontHandle, ListenError> {
        let IscsiLimits { connections, stall, .. } = limits;
        let shared = Limits { connections, stall, ..Limits::default() };
        start(portals, Service::Iscsi(targets, limits), shared, Security::default(), memory)
    }
}

fn start(
    addresses: &[Portal],
    service: Service,
    limits: Limits,
    security: Security,
    memory: &Memory,
) -> Result<FrontHandle, ListenError> {
    let (mut listeners, mut entrances) = (Vec::new(), Vec::<Entrance>::new());
    for Portal { listen, advertised } in addresses {
        match Listener::bind(listen) {
            Ok((listener, bound)) => {
                let (tls, advertised) = (security.mode_at(listen), advertised.clone());
                listeners.push((listener, tls, advertised.clone()));
                entrances.push(Entrance { bound, tls, advertised });
            }
            Err(error) => {
                entrances.iter().for_each(|entrance| entrance.bound.remove());
                return Err(error);
            }
        }
    }
    let shared = Arc::new(Shared::new(service, limits, security, Arc::clone(&memory.0)));
    let acceptor = start_acceptor(listeners, shared.clone()).map_err(|source| {
        entrances.iter().for_each(|entrance| entrance.bound.remove());
        let address = addresses.first().map(|portal| portal.listen.clone());
        let address = address.unwrap_or(ListenAddress::Tcp(String::new()));
        ListenError::Io { address, source }
    })?;
    Ok(FrontHandle { shared, bound: entrances, acceptor: Mutex::new(Some(acceptor)) })
}

impl FrontHandle {
    /// The URIs under which clients reach `export`; that of the front itself for an empty name.
    #[must_use]
    pub fn uris(&self, export: &str) -> Vec<String> {
        self.bound.iter().map(|at| at.bound.uri(export, at.tls == Tls::Required)).collect()
    }

    /// The URIs under which initiators reach a unit of a target, for a front that speaks iSCSI.
    #[must_use]
    pub fn iscsi_uris(&self, target: &str, lun: u16) -> Vec<String> {
        let at = self.bound.iter();
        at.filter_map(|at| at.bound.iscsi_uri(at.advertised.as_deref(), target, lun)).collect()
    }

    /// Where it listens: paths absolute, ports as the system chose them.
    #[must_use]
    pub fn addresses(&self) -> Vec<ListenAddress> {
        self.bound.iter().map(|at| at.bound.address()).collect()
    }

    /// How many clients are connected.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.sessions.count()
    }

    /// How the memory for requests and replies is used.
    #[must_use]
    pub fn memory(&self) -> MemoryUse {
        self.shared.sessions.memory()
    }

    /// The connections, the oldest first.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionInfo> {
        self.shared.sessions.infos()
    }

    /// From here on new connections find these certificates and this list of clients; listeners keep their modes, connections what
    /// they began with.
    pub fn secure_anew(&self, security: Security) {
        let security = Arc::new(security);
        *self.shared.security.lock().unwrap_or_else(PoisonError::into_inner) = security;
    }

    /// Cuts off these sessions; what they have sent and was not answered yet may be done or not. Blocks until they have ended, for
    /// at most a second; how many have not by then. One that is not there has ended.
    pub fn end_sessions(&self, ids: &[u64]) -> usize {
        self.shared.sessions.abort(ids);
        self.shared.sessions.wait(Some(ids), Instant::now() + ABORT)
    }

    /// Accepts nobody any more, answers what clients have sent, hangs up. Blocks the calling thread for at
    /// most `timeout` and a second; connections that are not done by then are cut off.
    pub fn drain_and_stop(&self, timeout: Duration) -> Drained {
        let deadline = Instant::now() + timeout;
        self.stop_accepting();
        self.shared.sessions.stop_all(Stop::Drain);
        let cut_off = self.shared.sessions.wait(None, deadline);
        if cut_off > 0 {
            tracing::warn!(cut_off, "connections were not done when the time to stop was up");
            self.shared.sessions.stop_all(Stop::Abort);
            self.shared.sessions.wait(None, Instant::now() + ABORT);
        }
        Drained { cut_off }
    }

    fn stop_accepting(&self) {
        let acceptor = self.acceptor.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = acceptor {
            self.shared.stop_accepting.notify_one();
            if thread.join().is_err() {
                tracing::error!("the thread that accepts NBD connections had failed");
            }
            self.bound.iter().for_each(|at| at.bound.remove());
        }
    }
}

impl Drop for FrontHandle {
    fn drop(&mut self) {
        self.stop_accepting();
        self.shared.sessions.stop_all(Stop::Abort);
    }
}

impl Shared {
    fn new(service: Service, limits: Limits, security: Security, budget: Arc<Budget>) -> Self {
        let sessions = Sessions::new(Arc::clone(&budget));
        let (shores, stop_accepting) = (Shores::default(), Notify::new());
        let security = Mutex::new(Arc::new(security));
        Self { service, limits, security, sessions, budget, shores, stop_accepting }
    }

    pub(crate) fn security(&self) -> Arc<Security> {
        Arc::clone(&self.security.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn start_acceptor(
    listeners: Vec<(Listener, Tls, Option<String>)>,
    shared: Arc<Shared>,
) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listeners = {
        let _inside = runtime.enter();
        listeners
            .into_iter()
            .map(|(listener, tls, advertised)| AsyncListener::new(listener, tls, advertised))
            .collect::<io::Result<Vec<_>>>()?
    };
    std::thread::Builder::new().name("nbd-accept".to_owned()).spawn(move || {
        runtime.block_on(async {
            let accepting = listeners.iter().map(|listener| Box::pin(listener.accept_all(&shared)));
            let mut accepting: Vec<_> = accepting.collect();
            let all = std::future::poll_fn(|cx| {
                for one in &mut accepting {
                    let _ = one.as_mut().poll(cx);
                }
                std::task::Poll::<()>::Pending
            });
            tokio::select! {
                () = all => {}
                () = shared.stop_accepting.notified() => {}
            }
        });
    })
}

struct AsyncListener {
    socket: AsyncSocket,
    tls: Tls,
    advertised: Option<String>,
}

enum AsyncSocket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// Who has connected.
struct Guest {
    socket: Socket,
    client: ClientId,
    /// Where from, port included.
    peer: String,
    tls: Tls,
    /// Where it is told that it has connected to; `None`: where it has.
    advertised: Option<String>,
}

impl AsyncListener {
    fn new(listener: Listener, tls: Tls, advertised: Option<String>) -> io::Result<Self> {
        let socket = match listener {
            Listener::Unix(listener) => AsyncSocket::Unix(UnixListener::from_std(listener)?),
            Listener::Tcp(listener) => AsyncSocket::Tcp(TcpListener::from_std(listener)?),
        };
        Ok(Self { socket, tls, advertised })
    }

    /// Accepts for ever.
    async fn accept_all(&self, shared: &Arc<Shared>) {
        loop {
            match self.accept().await {
                Ok(guest) => welcome(guest, shared),
                // One that was gone before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "an NBD connection could not be accepted");
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }

    async fn accept(&self) -> io::Result<Guest> {
        let (tls, advertised) = (self.tls, self.advertised.clone());
        match &self.socket {
            AsyncSocket::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                if let Err(error) = sockopt::set_socket_send_buffer_size(&stream, ROOM) {
                    tracing::debug!(%error, "a socket's buffer could not be set");
                }
                let peer = stream.peer_cred()?;
                let client = ClientId::Unix { pid: peer.pid(), uid: peer.uid() };
                let peer = client.to_string();
                Ok(Guest { socket: Socket::Unix(stream.into_std()?), client, peer, tls, advertised })
            }
            AsyncSocket::Tcp(listener) => {
                let (stream, from) = listener.accept().await?;
                if let Err(error) = tune(&stream) {
                    tracing::debug!(%error, "a TCP option could not be set");
                }
                let client = ClientId::Tcp(from.ip());
                let (socket, peer) = (Socket::Tcp(stream.into_std()?), from.to_string());
                Ok(Guest { socket, client, peer, tls, advertised })
            }
        }
    }
}

/// Replies are written whole, so there is nothing to gather; and a client whose machine is gone, with or
/// without replies to it under way, gives up its place after two minutes.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(60))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10))?;
    sockopt::set_tcp_keepcnt(stream, 6)?;
    sockopt::set_tcp_user_timeout(stream, 120_000)?;
    Ok(())
}

/// Gives a connection its thread. Without a place or a thread for it, the socket is closed.
fn welcome(guest: Guest, shared: &Arc<Shared>) {
    let told = shared.service.told_full();
    let Some(session) = shared.sessions.admit(guest.peer.clone(), &shared.limits, told) else { return };
    let (id, there, name) = (session.id, shared.clone(), shared.service.name());
    let spawned = std::thread::Builder::new().name(format!("{name}-{id}")).spawn(move || {
        let place = Place { session, shared: there };
        let ended = run(guest, &place);
        let (client, session) = (place.session.peer(), id);
        match ended {
            Ended::Stalled | Ended::InTheWay => {
                tracing::warn!(session, client, %ended, "a client is hung up on");
            }
            Ended::Tls(_) => tracing::info!(session, client, %ended, "a client is not let in"),
            _ => tracing::debug!(session, client, %ended, "a connection is over"),
        }
    });
    if let Err(error) = spawned {
        tracing::warn!(%error, "no thread for an NBD connection; it is hung up on");
        shared.sessions.forget(id);
    }
}

/// A connection's place among the others, given back however its thread ends.
pub(crate) struct Place {
    pub(crate) session: Arc<Session>,
    pub(crate) shared: Arc<Shared>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.sessions.forget(self.session.id);
    }
}

fn run(guest: Guest, place: &Place) -> Ended {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Ended::Socket(error),
    };
    let Guest { socket, client, tls, advertised, .. } = guest;
    let ended = runtime.block_on(async {
        match socket {
            Socket::Unix(stream) => {
                serve(UnixStream::from_std(stream), String::new(), client, tls, place).await
            }
            Socket::Tcp(stream) => {
                let own = || stream.local_addr().map(|address| address.to_string()).unwrap_or_default();
                let portal = advertised.unwrap_or_else(own);
                serve(TcpStream::from_std(stream), portal, client, tls, place).await
            }
        }
    });
    // A lookup may still block on its own thread; nobody waits for it any more.
    runtime.shutdown_background();
    ended
}

async fn serve<S: AsyncRead + AsyncWrite + AsFd + Unpin>(
    stream: io::Result<S>,
    portal: String,
    client: ClientId,
    tls: Tls,
    place: &Place,
) -> Ended {
    match stream {
        Ok(stream) => match &place.shared.service {
            Service::Nbd(exports) => {
                Connection::new(stream, client, tls, Arc::clone(exports), place).serve().await
            }
            Service::Iscsi(targets, limits) => {
                IscsiConnection::new(stream, (portal, client), Arc::clone(targets), *limits, place)
                    .serve()
                    .await
            }
        },
        Err(error) => Ended::Socket(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_much_while_others_wait_has_to_take_a_good_part_of_it() {
        let due = |held| Limits::default().due_in_need(held);
        assert_eq!((due(0), due(100 << 10)), (64 << 10, 64 << 10));
        assert_eq!((due(1 << 20), due(4 << 20), due(24 << 20)), (256 << 10, 1 << 20, 1 << 20));
        assert_eq!(due(48 << 20), 2 << 20);
        let hasty = Limits { stall: Duration::from_secs(1), ..Limits::default() };
        assert_eq!(hasty.due_in_need(1 << 20), 1 << 20);
    }
}
