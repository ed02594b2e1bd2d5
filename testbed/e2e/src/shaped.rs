//! A link of a given rate: a TCP relay on loopback that lets so many bytes a second through to the server, in order, and all
//! that comes back at once.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// What passes at once.
const PIECE: usize = 8 << 10;

/// So late a thread may wake without the link's rate suffering. A link that was idle carries so much at once.
const MADE_GOOD: Duration = Duration::from_millis(250);

/// A relay that runs until it is dropped.
pub struct Shaped {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    /// Bytes per second.
    rate: f64,
    /// Bytes that have passed to the server.
    passed: AtomicU64,
    /// When the link is free again. All connections share it.
    free: Mutex<Instant>,
    open: Mutex<Option<Vec<TcpStream>>>,
}

impl Shaped {
    /// Listens at `port` of loopback, for the server at `to`.
    ///
    /// # Errors
    /// When the port is not to be had.
    pub fn start(port: u16, to: u16, rate: f64) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).context("the shaped link's port")?;
        let free = Mutex::new(Instant::now());
        let shared =
            Arc::new(Shared { rate, passed: AtomicU64::new(0), free, open: Mutex::new(Some(Vec::new())) });
        let ours = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { continue };
                if !ours.join(client, to) {
                    return;
                }
            }
        });
        Ok(Self { port, shared })
    }

    /// Bytes that have passed to the server.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.shared.passed.load(Ordering::Acquire)
    }
}

impl Drop for Shaped {
    fn drop(&mut self) {
        for stream in self.shared.lock().take().into_iter().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Whoever waits for the next connection gets one, and sees the end.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Vec<TcpStream>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Two threads for a connection; false at the end.
    fn join(self: &Arc<Self>, client: TcpStream, to: u16) -> bool {
        let mut open = self.lock();
        let Some(open) = open.as_mut() else { return false };
        // A server that is away: the client hears the end at once.
        let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { return true };
        let pairs = [(&client, &server, true), (&server, &client, false)];
        for (from, into, shaped) in pairs {
            let (Ok(from), Ok(into)) = (from.try_clone(), into.try_clone()) else { return true };
            let ours = Arc::clone(self);
            std::thread::spawn(move || ours.pass(from, into, shaped));
        }
        open.extend([client, server]);
        true
    }

    fn pass(&self, mut from: TcpStream, mut into: TcpStream, shaped: bool) {
        let mut buffer = vec![0; PIECE];
        loop {
            let n = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            if shaped {
                self.wait(n);
                self.passed.fetch_add(u64::try_from(n).unwrap_or(0), Ordering::AcqRel);
            }
            if buffer.get(..n).is_none_or(|piece| into.write_all(piece).is_err()) {
                break;
            }
        }
        let _ = (from.shutdown(Shutdown::Both), into.shutdown(Shutdown::Both));
    }

    /// Until so many bytes have passed.
    fn wait(&self, bytes: usize) {
        let takes = u32::try_from(bytes).map_or(0.0, f64::from) / self.rate;
        let until = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            // A thread that woke late makes it good: a link does not get slower because the machine is busy.
            let idle = Instant::now().checked_sub(MADE_GOOD).map_or(*free, |since| since.max(*free));
            *free = idle + Duration::from_secs_f64(takes);
            *free
        };
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            std::thread::park_timeout(left);
        }
    }
}
