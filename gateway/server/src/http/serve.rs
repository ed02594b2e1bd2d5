//! The listener: who may connect, for how long, and how it ends.
//!
//! warp answers the requests; the connections are hyper's, driven here, because warp's own loop has neither a
//! limit on connections nor on the time a slow client may take.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::stall::Stall;
use super::{Api, Control, answer, limits};

/// How long accepting rests when the process has no descriptor left.
const REST: Duration = Duration::from_millis(100);
/// How long the last answers may take to leave when the server stops.
const LAST_BYTES: Duration = Duration::from_millis(500);

/// The accepting task.
pub(super) struct Running {
    stop: oneshot::Sender<Duration>,
    task: JoinHandle<()>,
}

impl Running {
    pub(super) async fn stop(self, grace: Duration) {
        // Should the task be gone, there is nothing left to stop.
        let _ = self.stop.send(grace);
        let _ = self.task.await;
    }
}

pub(super) fn spawn<C: Control>(listener: TcpListener, api: Arc<Api<C>>) -> Running {
    let (stop, stopped) = oneshot::channel();
    Running { stop, task: tokio::spawn(run(listener, api, stopped)) }
}

async fn run<C: Control>(listener: TcpListener, api: Arc<Api<C>>, mut stopped: oneshot::Receiver<Duration>) {
    let (graceful, slots) = (GracefulShutdown::new(), Arc::new(Semaphore::new(limits::CONNECTIONS)));
    let mut connections = JoinSet::new();
    let grace = loop {
        tokio::select! {
            grace = &mut stopped => break grace.unwrap_or_default(),
            Some(_) = connections.join_next() => {}
            accepted = accept(&listener, &slots) => if let Some((stream, slot)) = accepted {
                connections.spawn(connection(stream, slot, Arc::clone(&api), graceful.watcher()));
            }
        }
    };
    drop(listener);
    // What outlives the grace is ended when the set falls.
    let _ = tokio::time::timeout(grace, wind_down(graceful, &api.in_hand)).await;
}

/// Ends when every connection has, or soon after the last request in hand was answered: a client that sent half
/// a request, or none, holds nothing up.
async fn wind_down(graceful: GracefulShutdown, in_hand: &InHand) {
    let mut closed = std::pin::pin!(graceful.shutdown());
    tokio::select! {
        () = &mut closed => return,
        () = in_hand.none() => {}
    }
    let _ = tokio::time::timeout(LAST_BYTES, closed).await;
}

/// The requests that are being answered.
#[derive(Debug, Default)]
pub(super) struct InHand(watch::Sender<usize>);

/// One of them.
pub(super) struct Entered<'a>(&'a InHand);

impl InHand {
    pub(super) fn enter(&self) -> Entered<'_> {
        self.0.send_modify(|n| *n += 1);
        Entered(self)
    }

    async fn none(&self) {
        // The sender lives as long as this.
        let _ = self.0.subscribe().wait_for(|n| *n == 0).await;
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.0.send_modify(|n| *n -= 1);
    }
}

/// The next connection, once there is a free slot. `None`: that one failed, ask again.
async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, slot)),
        Err(e) => {
            if !is_peers_fault(&e) {
                tracing::warn!("the API cannot accept a connection: {e}; trying again");
                tokio::time::sleep(REST).await;
            }
            None
        }
    }
}

fn is_peers_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn connection<C: Control>(
    stream: TcpStream,
    slot: OwnedSemaphorePermit,
    api: Arc<Api<C>>,
    watcher: hyper_util::server::graceful::Watcher,
) {
    let io = TokioIo::new(Stall::new(stream, limits::STALL_TIME));
    let service = TowerToHyperService::new(warp::service(answer::filter(api)));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEAD_TIME)
        .max_headers(limits::HEADERS)
        .max_buf_size(limits::HEAD_BYTES)
        .serve_connection(io, service);
    if let Err(e) = watcher.watch(served).await {
        tracing::debug!("an API connection ended: {e}");
    }
    drop(slot);
}
