//! The side that measures.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use analyzer_profile::model::spread::Spread;
use analyzer_profile::probe::{Answer, Hello, Noise, Progress, Role, Verdict};
use serde::Serialize;
use tap_block::{Clock as _, Monotonic};
use tap_disk::RealClock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::BUFFER;
use crate::failure::Failure;

/// How long the other side may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How often a round trip is made.
const PING_EACH: Duration = Duration::from_millis(20);
/// The stretches whose rates are compared.
const STRETCH: Duration = Duration::from_millis(200);
/// The part of a phase in which connections get up to speed; it does not count.
const WARMING: u32 = 5;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Direction {
    /// To the listener, as replication does.
    There,
    /// From the listener.
    Back,
}

/// What a number of streams carried in one direction.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Carried {
    pub(super) streams: usize,
    pub(super) direction: Direction,
    /// All that arrived, also while warming up.
    pub(super) bytes: u64,
    /// Bytes per second in stretches of 200 ms.
    pub(super) rate: Spread,
    /// In milliseconds, beside it.
    pub(super) round_trip_ms: Spread,
}

/// Who is measured against.
pub(super) struct Peer {
    pub(super) address: String,
    pub(super) session: u64,
}

impl Peer {
    /// A connection that the other side has agreed to.
    async fn connect(&self, role: Role, time: Duration) -> Result<TcpStream, Failure> {
        let failed = |e: std::io::Error| {
            Failure::new(format!("cannot measure against {}", self.address))
                .because(e)
                .fix("is `chronogate-analyzer throughput --listen ADDRESS:PORT` running there?")
        };
        let late = |_| failed(std::io::ErrorKind::TimedOut.into());
        let mut stream =
            timeout(ANSWER, TcpStream::connect(&self.address)).await.map_err(late)?.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let seconds = u16::try_from(time.as_secs() + 1).unwrap_or(u16::MAX);
        let hello = Hello { role, seconds, session: self.session };
        stream.write_all(&hello.encode()).await.map_err(failed)?;
        let mut answer = [0; Answer::BYTES];
        timeout(ANSWER, stream.read_exact(&mut answer)).await.map_err(late)?.map_err(failed)?;
        let refused = |why: &str, fix: &str| {
            Err(Failure::new(format!("{} does not measure now", self.address)).because(why).fix(fix))
        };
        match Answer::decode(answer) {
            Ok(Answer { verdict: Verdict::Go, seconds: granted }) if granted >= seconds => Ok(stream),
            Ok(Answer { verdict: Verdict::Go, seconds: granted }) => {
                refused(&format!("it goes along for {granted} s at a time"), "use a shorter --for")
            }
            Ok(Answer { verdict: Verdict::Busy, .. }) => {
                refused("somebody else measures against it", "try again when they are done")
            }
            Ok(Answer { verdict: Verdict::Full, .. }) => {
                refused("it does not take so many streams", "use fewer --streams")
            }
            Err(why) => Err(Failure::new(format!("cannot measure against {}", self.address)).because(why)),
        }
    }

    /// Round trips while nothing else is sent, in milliseconds.
    pub(super) async fn idle(&self, time: Duration) -> Result<Spread, Failure> {
        let echo = self.connect(Role::Echo, time).await?;
        Ok(round_trips(echo, time).await)
    }

    /// So many streams in one direction, with round trips beside them.
    pub(super) async fn carry(
        &self,
        streams: usize,
        direction: Direction,
        time: Duration,
    ) -> Result<Carried, Failure> {
        let echo = self.connect(Role::Echo, time).await?;
        let role = if direction == Direction::There { Role::There } else { Role::Back };
        let counters: Vec<Arc<AtomicU64>> = (0..streams).map(|_| Arc::default()).collect();
        let end = RealClock.monotonic().plus(time);
        let mut carriers = JoinSet::new();
        for counter in &counters {
            let stream = self.connect(role, time).await?;
            let counter = Arc::clone(counter);
            carriers.spawn(async move {
                // What a stream carried before it broke is in its counter.
                let _ = match direction {
                    Direction::There => send(stream, end, &counter).await,
                    Direction::Back => receive(stream, end, &counter).await,
                };
            });
        }
        let (rate, round_trip_ms) = tokio::join!(rates(&counters, time), round_trips(echo, time));
        // A sender hears how much arrived when all has; one that hangs is left behind.
        let _ = timeout(ANSWER, async { while carriers.join_next().await.is_some() {} }).await;
        let bytes = total(&counters);
        if bytes == 0 {
            return Err(Failure::new(format!("nothing arrived at or from {}", self.address))
                .because("the connection broke, or something on the way lets no data through"));
        }
        Ok(Carried { streams, direction, bytes, rate, round_trip_ms })
    }
}

fn total(counters: &[Arc<AtomicU64>]) -> u64 {
    counters.iter().fold(0, |sum, c| sum.saturating_add(c.load(Ordering::Relaxed)))
}

/// Sends until the end; the counter has what has arrived at the other side, as it says.
async fn send(mut stream: TcpStream, end: Monotonic, arrived: &AtomicU64) -> std::io::Result<()> {
    let (mut from, mut to) = stream.split();
    // What the other side says has arrived is believed up to here.
    let sent = AtomicU64::new(0);
    let sending = async {
        let (mut noise, mut buffer) = (Noise::new(RealClock.monotonic().nanos()), vec![0; BUFFER]);
        while RealClock.monotonic() < end {
            noise.fill(&mut buffer);
            sent.fetch_add(tap_block::units::count(buffer.len()), Ordering::Relaxed);
            to.write_all(&buffer).await?;
            tokio::task::yield_now().await;
        }
        to.shutdown().await
    };
    let hearing = async {
        let mut bytes = [0; Progress::BYTES];
        while from.read_exact(&mut bytes).await.is_ok() {
            let said = Progress::decode(bytes).bytes.min(sent.load(Ordering::Relaxed));
            arrived.fetch_max(said, Ordering::Relaxed);
        }
        Ok(())
    };
    tokio::try_join!(sending, hearing).map(|_| ())
}

async fn receive(mut stream: TcpStream, end: Monotonic, arrived: &AtomicU64) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    while RealClock.monotonic() < end {
        let n = timeout(ANSWER, stream.read(&mut buffer)).await??;
        if n == 0 {
            break;
        }
        arrived.fetch_add(tap_block::units::count(n), Ordering::Relaxed);
    }
    Ok(())
}

/// Bytes per second of each stretch but the first ones.
async fn rates(counters: &[Arc<AtomicU64>], time: Duration) -> Spread {
    let end = RealClock.monotonic().plus(time);
    let counted = RealClock.monotonic().plus(time / WARMING);
    let mut each = tokio::time::interval(STRETCH.min(time / 20).max(Duration::from_millis(10)));
    each.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut before, mut rates) = (None, Vec::new());
    loop {
        each.tick().await;
        let now = (RealClock.monotonic(), total(counters));
        if now.0 >= end {
            return Spread::of(rates);
        }
        if let Some((at, bytes)) = before.replace(now)
            && at >= counted
        {
            rates.push(now.1.saturating_sub(bytes) as f64 / now.0.since(at).as_secs_f64());
        }
    }
}

/// Round trips in milliseconds, each after the one before has come back.
async fn round_trips(mut stream: TcpStream, time: Duration) -> Spread {
    let end = RealClock.monotonic().plus(time);
    let mut each = tokio::time::interval(PING_EACH);
    each.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut trips, mut number) = (Vec::new(), 0_u64);
    while RealClock.monotonic() < end {
        each.tick().await;
        number += 1;
        let begun = RealClock.monotonic();
        let trip = async {
            stream.write_all(&number.to_le_bytes()).await?;
            let mut back = [0; 8];
            stream.read_exact(&mut back).await?;
            Ok::<_, std::io::Error>(u64::from_le_bytes(back))
        };
        match timeout(ANSWER, trip).await {
            Ok(Ok(back)) if back == number => {
                trips.push(RealClock.monotonic().since(begun).as_secs_f64() * 1e3);
            }
            // A connection that breaks, hangs or sends back something else tells nothing more.
            _ => break,
        }
    }
    Spread::of(trips)
}
