//! Each I/O, from the kernel's own trace: a private tracefs instance, so that nobody else's tracing is disturbed.
//!
//! The event is `block_bio_queue`: an I/O as it is submitted to the device, before it is split or merged, once each. The kernel drops
//! events when its buffer is full and counts them; they are recorded as a loss.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use analyzer_profile::cgp::{EVENTS_PER_FRAME, Record};
use analyzer_profile::live::ring::{Layout, Traced, page};
use analyzer_profile::{At, Event};
use tap_block::Clock as _;
use tap_disk::RealClock;

use super::{Target, number};
use crate::failure::{Failure, say};

const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
/// The kernel's buffer for each processor: 30,000 I/Os or so, a third of a second at 100,000 a second.
const BUFFER_KIB: &str = "2048";
/// `O_NONBLOCK` of Linux on every architecture that matters here.
const NONBLOCK: i32 = 0o4000;

/// See the module.
pub(super) struct Tracing {
    layout: Layout,
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
    pub(super) fn start(targets: Vec<Target>) -> Result<Self, Failure> {
        if let Some(part) = targets.iter().find(|t| t.partition) {
            return Err(Failure::new(format!("{} is a partition; the kernel traces whole disks", part.name))
                .fix("name the disk, or record with --mode counters"));
        }
        let instance = Instance::create()?;
        instance.set("tracing_on", "0")?;
        instance.set("trace_clock", "mono")?;
        instance.set("buffer_size_kb", BUFFER_KIB)?;
        let event = "events/block/block_bio_queue";
        let wanted: Vec<String> = targets.iter().map(|t| format!("dev == {}", t.number)).collect();
        instance.set(&format!("{event}/filter"), &wanted.join(" || "))?;
        let format = std::fs::read_to_string(instance.path.join(event).join("format")).unwrap_or_default();
        let layout = Layout::parse(&format).ok_or_else(|| {
            Failure::new("this kernel's block_bio_queue has other fields").fix("record with --mode counters")
        })?;
        let pipes = pipes(&instance.path)?;
        let size = std::fs::read_to_string(instance.path.join("buffer_subbuf_size_kb")).ok();
        let kib = size.and_then(|s| s.trim().parse::<usize>().ok()).unwrap_or(4).clamp(4, 1024);
        instance.set(&format!("{event}/enable"), "1")?;
        instance.set("tracing_on", "1")?;
        let offset = RealClock.wall().nanos().wrapping_sub(monotonic());
        let last = RealClock.wall();
        let page = vec![0; kib << 10];
        Ok(Self {
            instance,
            layout,
            pipes,
            targets,
            offset,
            pending: Vec::new(),
            page,
            lost_before: 0,
            last,
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
                lost |= page(self.page.get(..n).unwrap_or(&[]), &self.layout, &mut self.pending);
            }
        }
        self.pending.sort_by_key(|t| t.nanos);
        let ready = self.pending.partition_point(|t| t.nanos < sure);
        let ready: Vec<Event> =
            self.pending.drain(..ready).collect::<Vec<_>>().iter().filter_map(|t| self.event(t)).collect();
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

    fn event(&self, traced: &Traced) -> Option<Event> {
        let place = self.targets.iter().position(|t| t.number == traced.device)?;
        Some(Event {
            at: At::from_nanos(traced.nanos.wrapping_add(self.offset)),
            device: number(place),
            kind: traced.kind,
            offset: traced.offset,
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
