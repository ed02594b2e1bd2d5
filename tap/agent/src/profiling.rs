//! What guests do, told to the analyzer: each I/O, and samples of the content of writes, as `.cgp` frames.
//!
//! ```text
//!   guest's thread ── Probe ── try_send ──► queue ──► one thread: sample, encode ──► a file, or whoever connects
//!                                 │ full: dropped and counted
//! ```
//!
//! Architecture invariant: a guest's write waits for none of this. The queue has a limit in operations and in bytes; what does
//! not fit is counted, and told as lost. While nobody reads nothing is queued.

mod sink;

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use analyzer_profile::cgp::{Clock as CgpClock, EVENTS_PER_FRAME, Mode, Record, Source, encode};
use analyzer_profile::{DeviceNo, Event, Kind, Sampler};
use bytes::Bytes;
use tap_block::units::count;
use tap_block::{Clock as _, Name, Op, WallTime};
use tap_disk::RealClock;

use sink::Sink;

/// Operations that may wait.
const QUEUE: usize = 16_384;
/// Bytes of writes that may wait. More than the longest write.
const QUEUE_BYTES: u64 = 64 << 20;
/// How often what was gathered is passed on.
const TICK: Duration = Duration::from_millis(100);
/// Threads tell the time before they queue: what is younger than this may yet be overtaken by something older.
const OVERTAKEN: Duration = Duration::from_millis(5);
/// How often samples of content are passed on.
const SAMPLES_EACH: Duration = Duration::from_secs(1);

/// Where a tap's profile goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProfileTo {
    /// Into a file, behind what it holds.
    File(PathBuf),
    /// To whoever connects to this unix socket; one at a time.
    Unix(PathBuf),
}

impl FromStr for ProfileTo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:").unwrap_or(text) {
            "" => Err("give a file, or unix:PATH for a socket".to_owned()),
            path if path.len() < text.len() => Ok(Self::Unix(path.into())),
            path => Ok(Self::File(path.into())),
        }
    }
}

/// What the guests' threads and ours share.
struct Shared {
    /// Somebody reads.
    wanted: AtomicBool,
    /// Bytes that wait.
    bytes: AtomicU64,
    /// Operations that did not fit since this was last told.
    dropped: AtomicU64,
    ending: AtomicBool,
    devices: Mutex<Vec<Name>>,
}

/// Gathers the profile of all volumes of a tap.
pub(crate) struct Profiler {
    shared: Arc<Shared>,
    queue: SyncSender<Noted>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// An operation as it was submitted.
struct Noted {
    event: Event,
    data: Bytes,
}

/// One volume's way into the profile.
pub(crate) struct Probe {
    shared: Arc<Shared>,
    queue: SyncSender<Noted>,
    device: DeviceNo,
}

impl Profiler {
    /// Opens where it goes, and starts the thread.
    ///
    /// # Errors
    /// What the operating system says, with the path.
    pub(crate) fn start(to: &ProfileTo) -> std::io::Result<Self> {
        let sink = Sink::open(to)?;
        let (queue, noted) = sync_channel(QUEUE);
        let shared = Arc::new(Shared {
            wanted: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            ending: AtomicBool::new(false),
            devices: Mutex::default(),
        });
        let mut gatherer = Gatherer::new(Arc::clone(&shared), noted, sink);
        let thread = thread::Builder::new().name("profile".to_owned()).spawn(move || gatherer.run())?;
        Ok(Self { shared, queue, thread: Mutex::new(Some(thread)) })
    }

    /// For another volume.
    pub(crate) fn probe(&self, name: &Name) -> Probe {
        let mut devices = self.shared.devices.lock().unwrap_or_else(PoisonError::into_inner);
        let device = DeviceNo::new(u32::try_from(devices.len()).unwrap_or(u32::MAX));
        devices.push(name.clone());
        Probe { shared: Arc::clone(&self.shared), queue: self.queue.clone(), device }
    }

    /// Passes on what waits, and ends. Blocks for about a second at most.
    pub(crate) fn stop(&self) {
        self.shared.ending.store(true, Ordering::Release);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that passed on the profile has failed");
        }
    }
}

impl Probe {
    /// Notes an operation that a guest submits. Never waits.
    pub(crate) fn note(&self, op: &Op) {
        if !self.shared.wanted.load(Ordering::Acquire) {
            return;
        }
        let (kind, offset, length, data) = match op {
            Op::Write { offset, data, .. } => (Kind::Write, *offset, count(data.len()), data.clone()),
            Op::Read { extent } => (Kind::Read, extent.offset(), extent.length(), Bytes::new()),
            Op::Zero { extent, .. } | Op::Trim { extent, .. } => {
                (Kind::Discard, extent.offset(), extent.length(), Bytes::new())
            }
            Op::Flush => (Kind::Flush, 0, 0, Bytes::new()),
            // A copy is refused, and comes again as reads and writes.
            Op::Cache { .. } | Op::Status { .. } | Op::Copy { .. } => return,
        };
        let held = count(data.len());
        let at = RealClock.wall();
        let event = Event { at, device: self.device, kind, offset, length, latency: None };
        let fits = self.shared.bytes.fetch_add(held, Ordering::AcqRel).saturating_add(held) <= QUEUE_BYTES;
        if !fits || self.queue.try_send(Noted { event, data }).is_err() {
            self.shared.bytes.fetch_sub(held, Ordering::AcqRel);
            self.shared.dropped.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// The thread's own.
struct Gatherer {
    shared: Arc<Shared>,
    noted: Receiver<Noted>,
    sink: Sink,
    /// Events that may yet be overtaken, or are not passed on.
    events: Vec<Event>,
    samplers: Vec<Sampler>,
    /// Devices that the reader knows.
    told: usize,
    /// Frames that are not passed on.
    out: Vec<u8>,
    sampled: WallTime,
    /// Up to here all is told.
    last: WallTime,
}

/// What is left in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    More,
    Nothing,
    /// And nobody who could bring more.
    Nobody,
}

impl Gatherer {
    fn new(shared: Arc<Shared>, noted: Receiver<Noted>, sink: Sink) -> Self {
        let (sampled, last) = (WallTime::EPOCH, WallTime::EPOCH);
        Self {
            shared,
            noted,
            sink,
            events: Vec::new(),
            samplers: Vec::new(),
            told: 0,
            out: Vec::new(),
            sampled,
            last,
        }
    }

    fn run(&mut self) {
        loop {
            let ending = self.shared.ending.load(Ordering::Acquire);
            if self.sink.newcomer() {
                self.begin();
            }
            let (left, now) = self.gather();
            let last = left == Left::Nobody || (ending && left == Left::Nothing);
            if self.shared.wanted.load(Ordering::Acquire) {
                self.pass_on(now, last);
            }
            if last {
                return;
            }
        }
    }

    /// A reader hears first where all this is from.
    fn begin(&mut self) {
        (self.told, self.last) = (0, RealClock.wall());
        self.sampled = self.last;
        self.events.clear();
        self.samplers.clear();
        self.out.clear();
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        let origin = "chronogate tap".to_owned();
        self.record(&Record::Source(Source { clock: CgpClock::Wall, mode: Mode::Events, host, origin }));
        self.shared.dropped.store(0, Ordering::Release);
        self.shared.wanted.store(true, Ordering::Release);
    }

    /// Takes what comes, for a tick or until there is a frame of it; all that is older than the time with it was taken.
    fn gather(&mut self) -> (Left, WallTime) {
        let begun = RealClock.monotonic();
        for _ in 0..EVENTS_PER_FRAME {
            let now = RealClock.wall();
            match self.noted.recv_timeout(TICK.saturating_sub(RealClock.monotonic().since(begun))) {
                Ok(noted) => self.take(&noted),
                Err(RecvTimeoutError::Timeout) => return (Left::Nothing, now),
                Err(RecvTimeoutError::Disconnected) => return (Left::Nobody, now),
            }
        }
        (Left::More, self.events.last().map_or(WallTime::EPOCH, |newest| newest.at))
    }

    fn take(&mut self, Noted { event, data }: &Noted) {
        if self.shared.wanted.load(Ordering::Acquire) {
            self.events.push(*event);
            let device = tap_block::units::index(u64::from(event.device.get()));
            while self.samplers.len() <= device {
                let no = DeviceNo::new(u32::try_from(self.samplers.len()).unwrap_or(u32::MAX));
                self.samplers.push(Sampler::new(no, RealClock.wall().nanos()));
            }
            if let Some(sampler) = self.samplers.get_mut(device).filter(|_| !data.is_empty()) {
                sampler.write(event.at, event.offset, data);
            }
        }
        self.shared.bytes.fetch_sub(count(data.len()), Ordering::AcqRel);
    }

    /// Frames of what is sure to be in order; at the end of everything.
    fn pass_on(&mut self, now: WallTime, last: bool) {
        self.tell_devices();
        let sure = if last { WallTime::from_nanos(u64::MAX) } else { now.minus(OVERTAKEN) };
        self.events.sort_by_key(|e| e.at);
        let ready = self.events.partition_point(|e| e.at <= sure);
        let ready: Vec<Event> = self.events.drain(..ready).collect();
        for events in ready.chunks(EVENTS_PER_FRAME) {
            self.record(&Record::Events(events.to_vec()));
        }
        let dropped = self.shared.dropped.swap(0, Ordering::AcqRel);
        if dropped > 0 {
            self.record(&Record::Loss { from: self.last, to: now, events: dropped });
            tracing::warn!(
                "{dropped} operations are missing in the profile: its reader or its disk is too slow"
            );
        }
        self.last = now;
        let due = last || now.since(self.sampled) >= SAMPLES_EACH;
        if due {
            self.sampled = now;
        }
        let taken: Vec<_> =
            self.samplers.iter_mut().filter(|s| due || s.is_full()).filter_map(Sampler::take).collect();
        taken.into_iter().for_each(|content| self.record(&Record::Content(content)));
        if !self.sink.write(&mut self.out, now, last, &self.shared.ending) {
            self.shared.wanted.store(false, Ordering::Release);
        }
    }

    fn tell_devices(&mut self) {
        let names = self.shared.devices.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (no, name) in names.iter().enumerate().skip(self.told) {
            let device = DeviceNo::new(u32::try_from(no).unwrap_or(u32::MAX));
            self.record(&Record::Device { device, name: name.to_string() });
        }
        self.told = names.len();
    }

    fn record(&mut self, record: &Record) {
        if let Err(e) = encode(record, &mut self.out) {
            tracing::error!("a part of the profile is left out: {e}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_goes_into_a_file_or_to_a_socket() {
        assert_eq!("run.cgp".parse(), Ok(ProfileTo::File("run.cgp".into())));
        assert_eq!("unix:/run/p".parse(), Ok(ProfileTo::Unix("/run/p".into())));
        assert!("unix:".parse::<ProfileTo>().is_err() && "".parse::<ProfileTo>().is_err());
    }

    /// A thread that takes nothing out: what does not fit is counted, and the guest is not held up.
    #[test]
    fn what_does_not_fit_is_counted_and_nobody_waits() {
        let (queue, noted) = sync_channel(QUEUE);
        let shared = Arc::new(Shared {
            wanted: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            ending: AtomicBool::new(false),
            devices: Mutex::default(),
        });
        let probe = Probe { shared: Arc::clone(&shared), queue, device: DeviceNo::new(0) };
        let write = |bytes: usize| Op::Write { offset: 0, data: Bytes::from(vec![1; bytes]), fua: false };
        probe.note(&write(4096));
        assert!(noted.try_recv().is_err(), "nobody reads");
        shared.wanted.store(true, Ordering::Release);
        (0..QUEUE + 5).for_each(|_| probe.note(&Op::Flush));
        assert_eq!(shared.dropped.swap(0, Ordering::AcqRel), 5, "too many");
        assert_eq!(noted.try_iter().count(), QUEUE);
        (0..5).for_each(|_| probe.note(&write(16 << 20)));
        assert_eq!(shared.dropped.load(Ordering::Acquire), 1, "too much");
        assert_eq!(shared.bytes.load(Ordering::Acquire), QUEUE_BYTES);
    }
}
