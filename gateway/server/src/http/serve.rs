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
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use super::stall::Stall;
use super::{Api, Control, answer, limits};

/// How long accepting rests when the process has no descriptor left.
const REST: Duration = Duration::from_millis(100);

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
    let _ = tokio::time::timeout(grace, graceful.shutdown()).await;
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
