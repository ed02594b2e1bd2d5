//! The in-memory switchboard: programs in one process connect by name and pass messages by value.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::connection::Connection;

/// Connections that wait to be accepted; one more is refused, as a full backlog refuses.
const BACKLOG: usize = 64;

/// The switchboard. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Hub {
    listeners: Arc<Mutex<HashMap<String, mpsc::Sender<Connection>>>>,
}

impl Hub {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes connections to `name`, until what is returned is dropped.
    pub(crate) fn listen(&self, name: &str) -> io::Result<Inbox> {
        let mut listeners = self.lock();
        if listeners.get(name).is_some_and(|l| !l.is_closed()) {
            let why = format!("something in this process listens at mem:{name} already: choose another name");
            return Err(io::Error::new(io::ErrorKind::AddrInUse, why));
        }
        let (sender, waiting) = mpsc::channel(BACKLOG);
        listeners.insert(name.to_owned(), sender);
        Ok(Inbox { waiting })
    }

    pub(crate) fn connect(&self, name: &str) -> io::Result<Connection> {
        let refused = |why: &str| {
            io::Error::new(io::ErrorKind::ConnectionRefused, format!("mem:{name} in this process {why}"))
        };
        let (ours, theirs) = Connection::pair(name);
        let listeners = self.lock();
        let listener = listeners.get(name).ok_or_else(|| refused("does not exist"))?;
        listener.try_send(theirs).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => refused("does not accept fast enough"),
            mpsc::error::TrySendError::Closed(_) => refused("has stopped"),
        })?;
        Ok(ours)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, mpsc::Sender<Connection>>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connections to one name.
#[derive(Debug)]
pub(crate) struct Inbox {
    waiting: mpsc::Receiver<Connection>,
}

impl Inbox {
    pub(crate) async fn accept(&mut self) -> io::Result<Connection> {
        let closed = || io::Error::new(io::ErrorKind::NotConnected, "the switchboard is gone");
        self.waiting.recv().await.ok_or_else(closed)
    }
}
