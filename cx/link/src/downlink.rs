//! The receiver's side: takes connections, one per stream, and hands records to the program below.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cx_wire::{Given, Hello, Refuse, RefuseCode, Welcome};
use tap_block::StreamId;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connection::{Connection, Listener};
use crate::intake::{Intake, StreamIntake};
use crate::lane::Lane;

mod session;

use session::{Ended, Session};

/// Connections at once; one more is closed with a line in the log.
const MAX_CONNECTIONS: usize = 1024;
/// How long a new connection waits for the batches of a failed one to come back.
const SETTLE_LIMIT: Duration = Duration::from_secs(8);
/// After the system refused to accept, for instance for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The receiving side of a program. Clones are the same one.
#[derive(Clone)]
pub struct Downlink {
    shared: Arc<Shared>,
}

struct Shared {
    intake: Arc<dyn Intake>,
    lanes: Mutex<HashMap<StreamId, Arc<Lane>>>,
    connections: Arc<Semaphore>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Downlink {
    /// Hands what arrives to `intake`.
    #[must_use]
    pub fn new(intake: Arc<dyn Intake>) -> Self {
        let shared = Shared {
            intake,
            lanes: Mutex::default(),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Starts to take connections from `listener` on the current tokio runtime, until [`Downlink::stop`].
    pub fn listen(&self, listener: Listener) {
        self.shared.tasks.spawn(self.clone().accept_all(listener));
    }

    async fn accept_all(self, mut listener: Listener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.shared.stop.cancelled() => return,
            };
            match accepted {
                Ok(connection) => self.take(connection),
                // Only the in-memory switchboard says so, when its process ends.
                Err(error) if error.kind() == std::io::ErrorKind::NotConnected => return,
                Err(error) => {
                    tracing::warn!(at = %listener.address(), %error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn take(&self, connection: Connection) {
        let Ok(permit) = Arc::clone(&self.shared.connections).try_acquire_owned() else {
            tracing::warn!(
                peer = connection.peer(),
                "closed a connection: {MAX_CONNECTIONS} are open already"
            );
            return;
        };
        let this = self.clone();
        self.shared.tasks.spawn(async move {
            this.serve(connection).await;
            drop(permit);
        });
    }

    /// Serves one connection to its end.
    pub async fn serve(&self, connection: Connection) {
        let mut session = Session::new(connection, self.shared.stop.clone());
        let ended = match session.greet().await {
            Ok(hello) => self.serve_stream(&mut session, hello).await,
            Err(ended) => ended,
        };
        session.finish(&ended).await;
    }

    async fn serve_stream(&self, session: &mut Session, hello: Hello) -> Ended {
        let lane = self.lane(hello.stream);
        let connection = lane.begin();
        let turn = lane.turn().lock().await;
        let opened = self.open(&lane, connection, &hello).await;
        let ended = match opened {
            Ok((welcome, given, stream)) => {
                session.run(&hello, welcome, given, &lane, connection, &*stream).await
            }
            Err(refuse) => Ended::Refuse(refuse),
        };
        drop(turn);
        self.forget_unused(lane);
        ended
    }

    async fn open(&self, lane: &Arc<Lane>, connection: u64, hello: &Hello) -> Result<Opened, Refuse> {
        let settled = tokio::time::timeout(SETTLE_LIMIT, lane.settled()).await;
        settled.map_err(|_| busy("records that could not be made durable are still on their way back"))?;
        if !lane.is_current(connection) {
            return Err(busy("another connection of the same stream took its place"));
        }
        let floor = lane.floor();
        let (intake, hello) = (Arc::clone(&self.shared.intake), hello.clone());
        let opening = tokio::task::spawn_blocking(move || intake.open(&hello)).await;
        let (welcome, stream) = opening.map_err(|error| {
            tracing::error!(%error, "opening a stream failed");
            busy("this program failed to open the stream, see its log")
        })??;
        let given = lane.resume(floor, welcome.durable);
        Ok((welcome, given, stream))
    }

    /// Ends every connection with a goodbye, and waits until their streams are closed.
    pub async fn stop(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    fn lane(&self, stream: StreamId) -> Arc<Lane> {
        let mut lanes = self.lanes();
        Arc::clone(lanes.entry(stream).or_insert_with(|| Arc::new(Lane::new(stream))))
    }

    /// A stranger that was refused leaves nothing behind.
    fn forget_unused(&self, lane: Arc<Lane>) {
        /// The map's and this one.
        const NOBODY_ELSE: usize = 2;
        let mut lanes = self.lanes();
        if lane.is_unused() && Arc::strong_count(&lane) == NOBODY_ELSE {
            lanes.remove(&lane.stream());
        }
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<StreamId, Arc<Lane>>> {
        self.shared.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Opened = (Welcome, Vec<Given>, Arc<dyn StreamIntake>);

fn busy(why: &str) -> Refuse {
    Refuse { code: RefuseCode::Other, detail: format!("{why}: the sender tries again by itself") }
}

impl std::fmt::Debug for Downlink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Downlink").field("streams", &self.lanes().len()).finish_non_exhaustive()
    }
}
