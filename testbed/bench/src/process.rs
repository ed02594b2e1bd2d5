//! What the kernel knows of a process: processor time and memory.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::sample::{Bytes, to_float};

/// The unit of processor time in /proc on every Linux that Rust runs on.
const TICKS_PER_SECOND: u64 = 100;

/// A process by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pid(pub(crate) u32);

/// What a process takes in memory.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    /// Now.
    pub(crate) resident: Bytes,
    /// The most since it began.
    pub(crate) peak: Bytes,
}

impl Pid {
    /// This process.
    pub(crate) fn own() -> Self {
        Self(std::process::id())
    }

    /// Processor time of all its threads and of its children, those that ended too: a server may have a process for
    /// each connection.
    pub(crate) fn cpu(self) -> Result<Duration> {
        cpu_in(&self.file("stat"), 4)
    }

    /// What it takes in memory.
    pub(crate) fn memory(self) -> Result<Memory> {
        let path = self.file("status");
        let text = read(&path)?;
        let field = |name: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(name));
            let kib: Option<u64> = line.and_then(|l| l.split_whitespace().next()?.parse().ok());
            kib.map(|k| Bytes(k << 10)).with_context(|| format!("no {name} in {}", path.display()))
        };
        Ok(Memory { resident: field("VmRSS:")?, peak: field("VmHWM:")? })
    }

    fn file(self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.0.to_string()).join(name)
    }
}

/// Processor time of the calling thread.
pub(crate) fn thread_cpu() -> Result<Duration> {
    cpu_in(Path::new("/proc/thread-self/stat"), 2)
}

/// Watches who keeps the machine busy.
pub(crate) struct Watch {
    begun: Instant,
    busy: Duration,
    /// Processor time of the benchmark and of the server measured.
    ours: Duration,
    server: Pid,
}

impl Watch {
    /// From now on; `server` may be this process itself.
    pub(crate) fn begin(server: Pid) -> Result<Self> {
        Ok(Self { begun: Instant::now(), busy: machine_busy()?, ours: ours(server)?, server })
    }

    /// How many processors others kept busy since.
    pub(crate) fn others(&self) -> Result<f64> {
        let busy = machine_busy()?.saturating_sub(self.busy);
        let ours = ours(self.server)?.saturating_sub(self.ours);
        let others = busy.saturating_sub(ours).as_secs_f64();
        Ok(others / self.begun.elapsed().as_secs_f64().max(1e-9))
    }
}

fn ours(server: Pid) -> Result<Duration> {
    let own = Pid::own();
    Ok(own.cpu()? + if server == own { Duration::ZERO } else { server.cpu()? })
}

/// Processor time of everything that ran, interrupts too.
fn machine_busy() -> Result<Duration> {
    let text = read(Path::new("/proc/stat"))?;
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|w| w.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; the guest columns repeat user.
    let busy = ticks.iter().take(8).enumerate().filter(|(place, _)| !matches!(place, 3 | 4 | 7));
    Ok(from_ticks(busy.map(|(_, t)| t).sum()))
}

/// The sum of so many `fields`: in user and kernel mode, then the same of children that have ended (proc(5)).
fn cpu_in(path: &Path, fields: usize) -> Result<Duration> {
    let text = read(path)?;
    // The name in parentheses may hold anything; the fields count from behind it.
    let behind = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let times: Vec<u64> =
        behind.split_whitespace().skip(11).take(fields).filter_map(|w| w.parse().ok()).collect();
    Ok(from_ticks(times.iter().sum()))
}

fn from_ticks(ticks: u64) -> Duration {
    Duration::from_secs_f64(to_float(ticks) / to_float(TICKS_PER_SECOND))
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_cost() {
        let memory = Pid::own().memory().unwrap();
        assert!(memory.peak >= memory.resident && memory.resident > Bytes(0));
        assert!(Pid::own().cpu().unwrap() >= Duration::ZERO);
        assert!(Watch::begin(Pid::own()).unwrap().others().unwrap() >= 0.0);
    }
}
