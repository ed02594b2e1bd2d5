//! The side that is measured against: takes bytes, gives bytes, sends back what it is sent.
//!
//! Whoever reaches the port can use it, so it is bounded in all that a peer could want: connections, time, memory. It keeps
//! nothing, and reads of what it is sent the first sixteen bytes.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use analyzer_profile::probe::{Answer, Hello, Noise, Progress, Role, Verdict};
use analyzer_profile::report::{bytes_text, time_text};
use tap_block::Clock as _;
use tap_disk::RealClock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::super::told_to_stop;
use super::{BUFFER, MAX_STREAMS};
use crate::failure::{Failure, say};

/// The most connections at once, those included that have not said what they want.
const CONNECTIONS: usize = 64;
/// How long a peer may take for its first words.
const FIRST_WORDS: Duration = Duration::from_secs(5);
/// How long a peer may take nothing and send nothing.
const SILENCE: Duration = Duration::from_secs(10);
/// The longest that a connection is served.
const LONGEST: u16 = 600;
/// How often a sender is told how far it is.
const TELL_EACH: Duration = Duration::from_millis(20);

/// Listens until it is told to stop, or `time` is over.
pub(super) async fn listen(address: SocketAddr, time: Duration) -> Result<(), Failure> {
    let told = told_to_stop()?;
    let listener = TcpListener::bind(address).await;
    let failed = |e| Failure::new(format!("cannot listen on {address}")).because(e);
    let listener = listener.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    say(&format!("listening on {bound} for {}; Ctrl-C ends it", time_text(time.as_secs_f64())));
    let sessions = Arc::new(Sessions::default());
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let end = tokio::time::sleep(time);
    let mut stop = std::pin::pin!(async {
        tokio::select! { () = end => {}, () = told => {} }
    });
    loop {
        let accepted = tokio::select! {
            () = &mut stop => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        // A peer that is gone already, or no descriptors: the next one is served, in a moment.
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(TELL_EACH).await;
            continue;
        };
        // Past the limit the connection is closed at once.
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
        let sessions = Arc::clone(&sessions);
        tokio::spawn(async move {
            // A peer's own failure is its own business.
            let _ = serve(stream, peer, &sessions).await;
            drop(permit);
        });
    }
}

async fn serve(mut stream: TcpStream, peer: SocketAddr, sessions: &Arc<Sessions>) -> std::io::Result<()> {
    let mut first = [0; Hello::BYTES];
    timeout(FIRST_WORDS, stream.read_exact(&mut first)).await??;
    let hello = match Hello::decode(first) {
        Ok(hello) => hello,
        Err(why) => {
            say(&format!("{peer} is turned away: {why}"));
            return Ok(());
        }
    };
    stream.set_nodelay(true)?;
    let (verdict, _place) = sessions.enter(hello.session, peer.ip());
    let seconds = hello.seconds.clamp(1, LONGEST);
    stream.write_all(&Answer { verdict, seconds }.encode()).await?;
    if verdict != Verdict::Go {
        return Ok(());
    }
    // A little longer than asked for: the side that measures ends it.
    let longest = Duration::from_secs(u64::from(seconds) + 2);
    let mut moved = 0;
    let served = timeout(longest, async {
        match hello.role {
            Role::Echo => echo(&mut stream).await,
            Role::There => take(&mut stream, &mut moved).await,
            Role::Back => give(&mut stream, Duration::from_secs(u64::from(seconds)), &mut moved).await,
        }
    });
    let _ = served.await;
    match hello.role {
        Role::Echo => {}
        Role::There => say(&format!("{peer} sent {}", bytes_text(moved as f64))),
        Role::Back => say(&format!("{peer} was sent {}", bytes_text(moved as f64))),
    }
    Ok(())
}

async fn echo(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut bytes = [0; 8];
    loop {
        timeout(SILENCE, stream.read_exact(&mut bytes)).await??;
        timeout(SILENCE, stream.write_all(&bytes)).await??;
    }
}

/// Takes bytes until there are no more, and tells how far it is.
async fn take(stream: &mut TcpStream, taken: &mut u64) -> std::io::Result<()> {
    let (mut from, mut to) = stream.split();
    let begun = RealClock.monotonic();
    let mut tell = tokio::time::interval(TELL_EACH);
    let mut buffer = vec![0; BUFFER];
    let progress = |bytes: u64| {
        let nanos = RealClock.monotonic().since(begun).as_nanos();
        Progress { bytes, nanos: u64::try_from(nanos).unwrap_or(u64::MAX) }.encode()
    };
    loop {
        let n = tokio::select! {
            biased;
            _ = tell.tick() => {
                // Whoever does not read what it is told is not served.
                timeout(SILENCE, to.write_all(&progress(*taken))).await??;
                continue;
            }
            read = timeout(SILENCE, from.read(&mut buffer)) => read??,
        };
        if n == 0 {
            to.write_all(&progress(*taken)).await?;
            return to.shutdown().await;
        }
        *taken += tap_block::units::count(n);
    }
}

/// Gives bytes until the time is over, or nobody takes them.
async fn give(stream: &mut TcpStream, time: Duration, given: &mut u64) -> std::io::Result<()> {
    let begun = RealClock.monotonic();
    let mut noise = Noise::new(begun.nanos());
    let mut buffer = vec![0; BUFFER];
    while RealClock.monotonic().since(begun) < time {
        noise.fill(&mut buffer);
        timeout(SILENCE, stream.write_all(&buffer)).await??;
        *given += tap_block::units::count(buffer.len());
        tokio::task::yield_now().await;
    }
    stream.shutdown().await
}

/// Who measures: one at a time.
#[derive(Debug, Default)]
struct Sessions {
    current: Mutex<Option<Current>>,
}

#[derive(Debug)]
struct Current {
    session: u64,
    peer: IpAddr,
    connections: usize,
}

impl Sessions {
    /// May this connection begin? Its place is free again when what comes with it is dropped.
    fn enter(self: &Arc<Self>, session: u64, peer: IpAddr) -> (Verdict, Option<Place>) {
        let Ok(mut current) = self.current.lock() else { return (Verdict::Busy, None) };
        match &mut *current {
            Some(now) if (now.session, now.peer) != (session, peer) => return (Verdict::Busy, None),
            // One beside the streams, for the round trips.
            Some(now) if now.connections > MAX_STREAMS => return (Verdict::Full, None),
            Some(now) => now.connections += 1,
            None => *current = Some(Current { session, peer, connections: 1 }),
        }
        (Verdict::Go, Some(Place { sessions: Arc::clone(self) }))
    }
}

/// A connection of the measurement at hand.
struct Place {
    sessions: Arc<Sessions>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let Ok(mut current) = self.sessions.current.lock() else { return };
        if let Some(now) = &mut *current {
            now.connections -= 1;
            if now.connections == 0 {
                *current = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_measures_at_a_time_and_no_more_than_it_may() {
        let sessions = Arc::new(Sessions::default());
        let (here, there) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([10, 0, 0, 1]));
        let mut places: Vec<_> = (0..=MAX_STREAMS).map(|_| sessions.enter(7, here)).collect();
        assert!(places.iter().all(|(verdict, _)| *verdict == Verdict::Go));
        assert_eq!(sessions.enter(7, here).0, Verdict::Full);
        assert_eq!(sessions.enter(8, here).0, Verdict::Busy);
        assert_eq!(sessions.enter(7, there).0, Verdict::Busy);
        places.truncate(1);
        assert_eq!(sessions.enter(7, here).0, Verdict::Go);
        places.clear();
        assert_eq!(sessions.enter(8, there).0, Verdict::Go);
    }
}
