//! Each I/O, from the kernel's own trace: a private tracefs instance, so that nobody else's tracing is disturbed.
//!
//! The event is `block_bio_queue`: an I/O as it is submitted to the device, before it is split or merged, once each. The kernel drops
//! events when its buffer is full and counts them; they are recorded as a loss.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use analyzer_profile::cgp::{EVENTS_PER_FRAME, Record};
use analyzer_profile::import::{Completion, Latencies};
use analyzer_profile::live::ring::{Layout, Traced, page};
use analyzer_profile::{At, DeviceNo, Event};
use tap_block::Clock as _;
use tap_disk::RealClock;

use super::Target;
use crate::failure::{Failure, say};

const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
/// The kernel's buffer for each processor: 30,000 I/Os or so, a third of a second at 100,000 a second.
const BUFFER_KIB: &str = "2048";
/// `O_NONBLOCK` of Linux on every architecture that matters here.
const NONBLOCK: i32 = 0o4000;

/// An I/O is recorded, with how long it took, when its end was traced, or after this time without.
const PATIENCE: Duration = Duration::from_secs(1);
/// An I/O as it is submitted.
const BEGINS: &str = "block_bio_queue";
/// Its end: of a disk with a queue of requests, and of one without. An I/O has one of them.
const ENDS: [&str; 2] = ["block_rq_complete", "block_bio_complete"];

/// See the module.
pub(super) struct Tracing {
    layouts: Vec<Layout>,
    latencies: Option<Latencies>,
    /// Closed before the instance goes: it does not while somebody reads it.
    pipes: Vec<File>,
    instance: Instance,
    targets: Vec<Target>,
    /// What to add to the trace's clock for wall time.
    offset: u64,
    pending: Vec<Traced>,
    page: Vec<u8>,
    lost_before: u64,
    last: At,
    /// Since when events are left out.
    paused: Option<At>,
    unseen: Option<Record>,
}

/// The instance's folder; it goes with us.
struct Instance {
    path: PathBuf,
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = std::fs::write(self.path.join("tracing_on"), "0");
        let _ = std::fs::remove_dir(&self.path);
    }
}

impl Instance {
    fn create() -> Result<Self, Failure> {
        let root = TRACEFS.iter().map(Path::new).find(|p| p.join("instances").is_dir());
        let root = root.ok_or_else(|| {
            Failure::new("there is no tracefs here")
                .fix("as root: mount -t tracefs nodev /sys/kernel/tracing; or record with --mode counters")
        })?;
        clear_leftovers(&root.join("instances"));
        let path = root.join("instances").join(format!("chronogate-{}", std::process::id()));
        std::fs::create_dir(&path).map_err(|e| {
            Failure::new("cannot trace block I/O")
                .because(e)
                .fix("it takes root; or record with --mode counters")
        })?;
        Ok(Self { path })
    }

    fn set(&self, file: &str, value: &str) -> Result<(), Failure> {
        let path = self.path.join(file);
        std::fs::write(&path, value)
            .map_err(|e| Failure::new(format!("cannot set {} to {value:?}", path.display())).because(e))
    }
}

impl Instance {
    /// Switches an event on for what is wanted; `None` when it lacks a field that it takes.
    fn event(&self, name: &str, wanted: &str) -> Result<Option<Layout>, Failure> {
        let folder = format!("events/block/{name}");
        let format = std::fs::read_to_string(self.path.join(&folder).join("format")).unwrap_or_default();
        let Some(layout) = Layout::parse(&format) else { return Ok(None) };
        self.set(&format!("{folder}/filter"), wanted)?;
        self.set(&format!("{folder}/enable"), "1")?;
        Ok(Some(layout))
    }
}

/// Instances of recorders that were killed: nobody reads them, so nobody frees their buffers.
fn clear_leftovers(instances: &Path) {
    for entry in std::fs::read_dir(instances).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let dead = name.strip_prefix("chronogate-").is_some_and(|pid| !Path::new("/proc").join(pid).exists());
        if dead {
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

impl Tracing {
    /// Traces the beginnings of I/Os, and with `latency` their ends as well.
    pub(super) fn start(targets: Vec<Target>, latency: bool) -> Result<Self, Failure> {
        let instance = Instance::create()?;
        instance.set("tracing_on", "0")?;
        instance.set("trace_clock", "mono")?;
        instance.set("buffer_size_kb", BUFFER_KIB)?;
        let wanted: Vec<String> = targets.iter().map(Target::filter).collect();
        let wanted = wanted.join(" || ");
        let begins = instance.event(BEGINS, &wanted)?;
        let mut layouts = vec![begins.ok_or_else(|| {
            Failure::new(format!("this kernel's {BEGINS} has other fields"))
                .fix("record with --mode counters")
        })?];
        for event in ENDS.into_iter().filter(|_| latency) {
            layouts.extend(instance.event(event, &wanted)?.map(Layout::of_ends));
        }
        let pipes = pipes(&instance.path)?;
        let size = std::fs::read_to_string(instance.path.join("buffer_subbuf_size_kb")).ok();
        let kib = size.and_then(|s| s.trim().parse::<usize>().ok()).unwrap_or(4).clamp(4, 1024);
        instance.set("tracing_on", "1")?;
        Ok(Self {
            instance,
            latencies: (layouts.len() > 1).then(|| Latencies::new(PATIENCE)),
            layouts,
            pipes,
            targets,
            offset: RealClock.wall().nanos().wrapping_sub(monotonic()),
            pending: Vec::new(),
            page: vec![0; kib << 10],
            lost_before: 0,
            last: RealClock.wall(),
            paused: None,
            unseen: None,
        })
    }

    /// What was traced since the last call, in order of time.
    pub(super) fn take(&mut self) -> Result<Vec<Record>, Failure> {
        // All that was traced before this moment is in the buffers now; what comes while they are read waits for the next time.
        let sure = monotonic();
        let mut lost = false;
        for pipe in &mut self.pipes {
            while let Some(n) = read_page(pipe, &mut self.page)? {
                lost |= page(self.page.get(..n).unwrap_or(&[]), &self.layouts, &mut self.pending);
            }
        }
        self.pending.sort_by_key(|t| t.nanos);
        let ready = self.pending.partition_point(|t| t.nanos < sure);
        let ready: Vec<Traced> = self.pending.drain(..ready).collect();
        let ready = self.events(&ready);
        let now = At::from_nanos(sure.wrapping_add(self.offset));
        let mut records: Vec<Record> =
            ready.chunks(EVENTS_PER_FRAME).map(|c| Record::Events(c.to_vec())).collect();
        records.extend(self.unseen.take());
        if lost {
            records.push(self.loss(now));
        }
        self.last = now;
        Ok(records)
    }

    /// What was traced as I/Os of the targets; with latencies those whose end is known, or waited for no longer.
    fn events(&mut self, traced: &[Traced]) -> Vec<Event> {
        let mut events = Vec::with_capacity(traced.len());
        let Some(mut latencies) = self.latencies.take() else {
            events.extend(traced.iter().filter_map(|t| self.event(t)));
            return events;
        };
        for one in traced {
            match self.event(one) {
                Some(Event { at, device, kind, offset, length, .. }) if one.end => {
                    latencies.complete(&Completion { at, device, kind, offset, length });
                }
                Some(event) => latencies.submit(event),
                None => {}
            }
        }
        latencies.release(&mut events);
        self.latencies = Some(latencies);
        events
    }

    /// The last ones, also those whose end is not known.
    pub(super) fn last(&mut self) -> Result<Vec<Record>, Failure> {
        let mut records = self.take()?;
        let mut rest = Vec::new();
        if let Some(latencies) = &mut self.latencies {
            latencies.release_all(&mut rest);
        }
        records.extend(rest.chunks(EVENTS_PER_FRAME).map(|c| Record::Events(c.to_vec())));
        Ok(records)
    }

    fn event(&self, traced: &Traced) -> Option<Event> {
        let (device, offset) = (0..).zip(&self.targets).find_map(|(n, target)| {
            Some((DeviceNo::new(n), target.place(traced.device, traced.offset, traced.length)?))
        })?;
        Some(Event {
            at: At::from_nanos(traced.nanos.wrapping_add(self.offset)),
            device,
            kind: traced.kind,
            offset,
            length: traced.length,
            latency: None,
        })
    }

    /// The kernel says how many it dropped, in all and for each processor.
    fn loss(&mut self, now: At) -> Record {
        let cpus = std::fs::read_dir(self.instance.path.join("per_cpu")).into_iter().flatten().flatten();
        let dropped: u64 = cpus
            .map(|cpu| dropped(&std::fs::read_to_string(cpu.path().join("stats")).unwrap_or_default()))
            .sum();
        let events = dropped.saturating_sub(self.lost_before);
        self.lost_before = dropped;
        say(&format!(
            "the kernel dropped {events} events: the disk was faster than we read; they are recorded as lost"
        ));
        Record::Loss { from: self.last, to: now, events }
    }

    /// Leaves events out for a while when reading them costs more than it may.
    pub(super) fn spend(&mut self, share: f64, may: f64) -> Result<(), Failure> {
        if let Some(from) = self.paused.take() {
            self.unseen = Some(Record::Loss { from, to: RealClock.wall(), events: 0 });
            return self.instance.set("tracing_on", "1");
        }
        if share > may {
            say(&format!(
                "recording costs {:.1} % of a processor, more than --max-overhead: a pause",
                share * 100.0
            ));
            self.paused = Some(RealClock.wall());
            self.instance.set("tracing_on", "0")?;
        }
        Ok(())
    }
}

fn dropped(stats: &str) -> u64 {
    let of = |name: &str| {
        stats.lines().find_map(|l| l.strip_prefix(name)).and_then(|v| v.trim().parse::<u64>().ok())
    };
    of("overrun:").unwrap_or(0) + of("dropped events:").unwrap_or(0)
}

fn pipes(instance: &Path) -> Result<Vec<File>, Failure> {
    let cpus = std::fs::read_dir(instance.join("per_cpu"));
    let failed = |e: std::io::Error| Failure::new("cannot read the kernel's trace").because(e);
    let mut pipes = Vec::new();
    for cpu in cpus.map_err(failed)? {
        let path = cpu.map_err(failed)?.path().join("trace_pipe_raw");
        pipes.push(OpenOptions::new().read(true).custom_flags(NONBLOCK).open(path).map_err(failed)?);
    }
    Ok(pipes)
}

/// `None`: nothing more for now.
fn read_page(pipe: &mut File, page: &mut [u8]) -> Result<Option<usize>, Failure> {
    match pipe.read(page) {
        Ok(0) => Ok(None),
        Ok(n) => Ok(Some(n)),
        Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted) => {
            Ok(None)
        }
        Err(e) => Err(Failure::new("cannot read the kernel's trace").because(e)),
    }
}

/// The trace's clock.
fn monotonic() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
