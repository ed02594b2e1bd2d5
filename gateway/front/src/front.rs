//! The front as a whole: what listens, which connections there are, and how all of it ends.

use std::collections::HashMap;
use std::io;
use std::net::TcpStream as StdTcpStream;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Notify;

use crate::address::ListenAddress;
use crate::connection::{Connection, Ended};
use crate::exports::{ClientId, Exports};
use crate::iscsi::{IscsiConnection, IscsiLimits, Targets};
use crate::listener::{Bound, ListenError, Listener};
use crate::mailbox::{Mailbox, Stop};

/// How long a connection may take to notice that it is to end at once.
const ABORT: Duration = Duration::from_secs(1);
/// How long accepting rests after it failed, for instance because there are too many open files.
const REST: Duration = Duration::from_millis(50);

/// The bounds of what clients may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time. One more is hung up on.
    pub connections: usize,
    /// How long a client may take from connecting to choosing its export, lookups not counted.
    pub handshake: Duration,
    /// What each connection may hold.
    pub protocol: gateway_nbd::Limits,
}

/// Starts fronts.
#[derive(Debug)]
pub struct Front;

/// A running front. Dropping it ends it at once; [`drain_and_stop`](Self::drain_and_stop) ends it well.
pub struct FrontHandle {
    shared: Arc<Shared>,
    bound: Vec<Bound>,
    acceptor: Mutex<Option<JoinHandle<()>>>,
}

/// How a front ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that had not finished in time and were cut off.
    pub cut_off: usize,
}

struct Shared {
    service: Service,
    /// Connections at a time.
    limit: usize,
    connections: Mutex<Connections>,
    /// Signalled when a connection ends.
    ended: Condvar,
    stop_accepting: Notify,
}

#[derive(Default)]
struct Connections {
    mailboxes: HashMap<u64, Arc<Mailbox>>,
    next: u64,
    /// The front was full and said so already.
    told_full: bool,
}

/// What connections are served.
enum Service {
    Nbd { exports: Arc<dyn Exports>, limits: Limits },
    Iscsi { targets: Arc<dyn Targets>, limits: IscsiLimits },
}

/// A socket just accepted, on its way to its own thread.
enum Socket {
    Unix(StdUnixStream),
    Tcp(StdTcpStream),
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            handshake: Duration::from_secs(10),
            protocol: gateway_nbd::Limits::default(),
        }
    }
}

impl Service {
    fn name(&self) -> &'static str {
        match self {
            Self::Nbd { .. } => "nbd",
            Self::Iscsi { .. } => "iscsi",
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
        start(addresses, Service::Nbd { exports, limits }, limits.connections)
    }

    /// The same over iSCSI: serves `targets` to whoever logs in.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_iscsi(
        addresses: &[ListenAddress],
        targets: Arc<dyn Targets>,
        limits: IscsiLimits,
    ) -> Result<FrontHandle, ListenError> {
        start(addresses, Service::Iscsi { targets, limits }, limits.connections)
    }
}

fn start(addresses: &[ListenAddress], service: Service, limit: usize) -> Result<FrontHandle, ListenError> {
    let (mut listeners, mut bound) = (Vec::new(), Vec::new());
    for address in addresses {
        match Listener::bind(address) {
            Ok((listener, at)) => {
                listeners.push(listener);
                bound.push(at);
            }
            Err(error) => {
                bound.iter().for_each(Bound::remove);
                return Err(error);
            }
        }
    }
    let shared = Arc::new(Shared::new(service, limit));
    let acceptor = start_acceptor(listeners, shared.clone()).map_err(|source| {
        bound.iter().for_each(Bound::remove);
        let address = addresses.first().cloned().unwrap_or(ListenAddress::Tcp(String::new()));
        ListenError::Io { address, source }
    })?;
    Ok(FrontHandle { shared, bound, acceptor: Mutex::new(Some(acceptor)) })
}

impl FrontHandle {
    /// The URIs under which clients reach `export`; that of the front itself for an empty name.
    #[must_use]
    pub fn uris(&self, export: &str) -> Vec<String> {
        self.bound.iter().map(|bound| bound.uri(export)).collect()
    }

    /// The URIs under which initiators reach a unit of a target, for a front that speaks iSCSI.
    #[must_use]
    pub fn iscsi_uris(&self, target: &str, lun: u16) -> Vec<String> {
        self.bound.iter().filter_map(|bound| bound.iscsi_uri(target, lun)).collect()
    }

    /// Where it listens: paths absolute, ports as the system chose them.
    #[must_use]
    pub fn addresses(&self) -> Vec<ListenAddress> {
        self.bound.iter().map(Bound::address).collect()
    }

    /// How many clients are connected.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.lock().mailboxes.len()
    }

    /// Accepts nobody any more, answers what clients have sent, hangs up. Blocks the calling thread for at
    /// most `timeout` and a second; connections that are not done by then are cut off.
    pub fn drain_and_stop(&self, timeout: Duration) -> Drained {
        let deadline = Instant::now() + timeout;
        self.stop_accepting();
        self.shared.stop_connections(Stop::Drain);
        let cut_off = self.shared.wait_for_connections(deadline);
        if cut_off > 0 {
            tracing::warn!(cut_off, "connections were not done when the time to stop was up");
            self.shared.stop_connections(Stop::Abort);
            self.shared.wait_for_connections(Instant::now() + ABORT);
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
            self.bound.iter().for_each(Bound::remove);
        }
    }
}

impl Drop for FrontHandle {
    fn drop(&mut self) {
        self.stop_accepting();
        self.shared.stop_connections(Stop::Abort);
    }
}

impl Shared {
    fn new(service: Service, limit: usize) -> Self {
        Self {
            service,
            limit,
            connections: Mutex::default(),
            ended: Condvar::new(),
            stop_accepting: Notify::new(),
        }
    }

    fn stop_connections(&self, stop: Stop) {
        for mailbox in self.lock().mailboxes.values() {
            mailbox.stop(stop);
        }
    }

    /// Waits for all connections to end; how many have not by `deadline`.
    fn wait_for_connections(&self, deadline: Instant) -> usize {
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.ended.wait_timeout_while(self.lock(), left, |c| !c.mailboxes.is_empty());
        waited.unwrap_or_else(PoisonError::into_inner).0.mailboxes.len()
    }

    /// A place for one more connection; `None` when the front is full.
    fn admit(&self) -> Option<(u64, Arc<Mailbox>)> {
        let mut connections = self.lock();
        if connections.mailboxes.len() >= self.limit {
            if !connections.told_full {
                connections.told_full = true;
                tracing::warn!(
                    limit = self.limit,
                    "no room for another NBD connection; further ones are hung up on"
                );
            }
            return None;
        }
        connections.told_full = false;
        let id = connections.next;
        connections.next += 1;
        let mailbox = Arc::new(Mailbox::default());
        connections.mailboxes.insert(id, mailbox.clone());
        Some((id, mailbox))
    }

    fn forget(&self, id: u64) {
        self.lock().mailboxes.remove(&id);
        self.ended.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn start_acceptor(listeners: Vec<Listener>, shared: Arc<Shared>) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listeners = {
        let _inside = runtime.enter();
        listeners.into_iter().map(AsyncListener::new).collect::<io::Result<Vec<_>>>()?
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

enum AsyncListener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl AsyncListener {
    fn new(listener: Listener) -> io::Result<Self> {
        Ok(match listener {
            Listener::Unix(listener) => Self::Unix(UnixListener::from_std(listener)?),
            Listener::Tcp(listener) => Self::Tcp(TcpListener::from_std(listener)?),
        })
    }

    /// Accepts for ever.
    async fn accept_all(&self, shared: &Arc<Shared>) {
        loop {
            match self.accept().await {
                Ok((socket, client)) => welcome(socket, client, shared),
                // One that was gone before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "an NBD connection could not be accepted");
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }

    async fn accept(&self) -> io::Result<(Socket, ClientId)> {
        match self {
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let peer = stream.peer_cred()?;
                let client = ClientId::Unix { pid: peer.pid(), uid: peer.uid() };
                Ok((Socket::Unix(stream.into_std()?), client))
            }
            Self::Tcp(listener) => {
                let (stream, from) = listener.accept().await?;
                if let Err(error) = tune(&stream) {
                    tracing::debug!(%error, "a TCP option could not be set");
                }
                Ok((Socket::Tcp(stream.into_std()?), ClientId::Tcp(from.ip())))
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
fn welcome(socket: Socket, client: ClientId, shared: &Arc<Shared>) {
    let Some((id, mailbox)) = shared.admit() else { return };
    let there = shared.clone();
    let spawned =
        std::thread::Builder::new().name(format!("{}-{id}", shared.service.name())).spawn(move || {
            let place = Place { id, shared: there };
            let name = client.to_string();
            let ended = run(socket, client, &place.shared, mailbox);
            tracing::debug!(connection = id, client = name, %ended, "an NBD connection is over");
        });
    if let Err(error) = spawned {
        tracing::warn!(%error, "no thread for an NBD connection; it is hung up on");
        shared.forget(id);
    }
}

/// A connection's place among the others, given back however its thread ends.
struct Place {
    id: u64,
    shared: Arc<Shared>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.forget(self.id);
    }
}

fn run(socket: Socket, client: ClientId, shared: &Shared, mailbox: Arc<Mailbox>) -> Ended {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Ended::Socket(error),
    };
    let ended = runtime.block_on(async {
        match socket {
            Socket::Unix(stream) => {
                serve(UnixStream::from_std(stream), String::new(), client, shared, mailbox).await
            }
            Socket::Tcp(stream) => {
                let portal = stream.local_addr().map(|address| address.to_string()).unwrap_or_default();
                serve(TcpStream::from_std(stream), portal, client, shared, mailbox).await
            }
        }
    });
    // A lookup may still block on its own thread; nobody waits for it any more.
    runtime.shutdown_background();
    ended
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: io::Result<S>,
    portal: String,
    client: ClientId,
    shared: &Shared,
    mailbox: Arc<Mailbox>,
) -> Ended {
    match stream {
        Ok(stream) => match &shared.service {
            Service::Nbd { exports, limits } => {
                Connection::new(stream, client, exports.clone(), *limits, mailbox).serve().await
            }
            Service::Iscsi { targets, limits } => {
                IscsiConnection::new(stream, portal, targets.clone(), *limits, mailbox).serve().await
            }
        },
        Err(error) => Ended::Socket(error),
    }
}
