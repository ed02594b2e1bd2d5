//! Protecting one volume: from its files to running threads, and back to a clean stop.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cx_link::outbox::{DriverConfig, OutboxDriver, Spilling};
use cx_link::{Address, Backoff, Hub, Uplink, UplinkConfig, UplinkHandle};
use cx_wire::{Hello, PROTOCOL};
use tap_block::{BlockDevice, Clock, ExtentSet, Lsn, Name, Op, RunId, StreamId, VolumeId};
use tap_disk::{FileDevice, FileOptions, OpenError, RealClock};
use tap_splitter::seal::Identity;
use tap_splitter::{Config, Splitter};
use thiserror::Error;

use crate::begin::{BeginError, Beginning, Drawn, Found, begin};
use crate::compare::Inquiry;
use crate::memory::{Memory, MemoryError};
use crate::proof::Proof;
use crate::state::CleanStop;
use crate::upstream::{Counters, Progress, Room, Upstream};
use crate::volume::{Life, Volume};
use crate::workers::{spawn_copier, spawn_keeper, spawn_sealer};
use crate::{Limits, Protect};

/// A write as a rule is copied to the CX in pieces this long.
const COPY_SIZE: u64 = 1 << 20;

/// Why a volume cannot be protected.
#[derive(Debug, Error)]
pub enum ProtectError {
    /// The disk itself.
    #[error("cannot protect {name}: {source}")]
    Disk {
        /// The volume.
        name: Name,
        /// Why.
        source: OpenError,
    },
    /// Its state, or anything around it.
    #[error("cannot protect {name}: {why}")]
    Other {
        /// The volume.
        name: Name,
        /// Why and what to do.
        why: String,
    },
}

/// A volume under protection.
pub(crate) struct Protected {
    pub(crate) id: VolumeId,
    pub(crate) volume: Arc<Volume>,
    pub(crate) path: PathBuf,
    memory: Arc<Memory>,
    outbox: Arc<OutboxDriver>,
    counters: Arc<Counters>,
    proof: Arc<Proof>,
    uplink: UplinkHandle,
    sealer: JoinHandle<bool>,
    copier: JoinHandle<()>,
    keeper: JoinHandle<()>,
    give_up: Arc<AtomicBool>,
    end_keeper: Arc<AtomicBool>,
}

/// Where its records go.
#[derive(Clone)]
pub(crate) struct Upward {
    pub(crate) cx: Address,
    pub(crate) hub: Hub,
    pub(crate) sender: String,
}

impl Protected {
    /// Starts protecting `what`; must be called inside a tokio runtime. `told` hears which stream it is before it is announced.
    pub(crate) fn start(
        what: &Protect,
        dir: &Path,
        limits: Limits,
        upward: &Upward,
        told: &dyn Fn(StreamId),
    ) -> Result<Self, ProtectError> {
        let name = &what.name;
        let other =
            |e: &dyn std::fmt::Display| ProtectError::Other { name: name.clone(), why: e.to_string() };
        let disk =
            open_alone(&what.path).map_err(|source| ProtectError::Disk { name: name.clone(), source })?;
        let (memory, beginning) = remember(dir, name, &disk).map_err(|e| other(&e))?;
        let (state, run_start) = (beginning.state, beginning.start.run.clone());
        let whose =
            Identity { stream: state.stream, volume: state.volume, run: state.run, epoch: state.epoch };
        let hello = hello(whose, &run_start.name, run_start.size, beginning.start.first_lsn, &upward.sender);
        let splitter_config =
            Config { size: run_start.size, queue_limit: limits.queue_bytes, copy_size: COPY_SIZE };
        let (start, left) = (beginning.start, beginning.left);
        let life = Life { whose, first: start.first_lsn };
        let volume = Volume::new(name.clone(), disk, life, |now, actions| {
            Splitter::start(splitter_config, start, now, actions)
        });
        let counters = Arc::new(Counters::new(state.baselines, state.resynced, state.everywhere));
        let proof = Arc::new(Proof::new(state.run, state.first, state.unproven, state.lineage));
        let room = Arc::new(Room::default());
        let observer = Progress::new(Arc::clone(&volume), Arc::clone(&counters), Arc::clone(&room));
        let outbox =
            OutboxDriver::open(outbox_config(&memory, limits), Arc::new(RealClock), Arc::new(observer))
                .map_err(|e| other(&format!("opening its spool: {e}")))?;
        let (give_up, end_keeper) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let memory = Arc::new(memory);
        let feed = Upstream::new(
            Arc::clone(&volume),
            Arc::clone(&outbox),
            Arc::clone(&counters),
            Arc::clone(&proof),
            left.filter(|left| outbox.head() < *left),
        );
        let feed = Arc::new(feed);
        let config =
            UplinkConfig { address: upward.cx.clone(), hub: upward.hub.clone(), backoff: Backoff::default() };
        told(whose.stream);
        let greeting = greeting(Arc::clone(&volume), hello);
        let uplink = Uplink::spawn(config, greeting, feed);
        // Before the copier: one that cannot ask copies all it reads.
        let seed = getrandom::u64().map_err(|e| other(&e))?;
        volume.compare_with(Inquiry::spawn(Arc::downgrade(&volume), uplink.querier(), whose.volume, seed));
        let keeper = spawn_keeper(
            Arc::clone(&volume),
            Arc::clone(&memory),
            Arc::clone(&counters),
            Arc::clone(&proof),
            Arc::clone(&end_keeper),
        )
        .map_err(|e| other(&e))?;
        let sealer = spawn_sealer(Arc::clone(&volume), Arc::clone(&outbox), room, Arc::clone(&give_up))
            .map_err(|e| other(&e))?;
        let path = what.path.clone();
        let copier = spawn_copier(Arc::clone(&volume)).map_err(|e| other(&e))?;
        Ok(Self {
            id: whose.volume,
            volume,
            path,
            memory,
            outbox,
            counters,
            proof,
            uplink,
            sealer,
            copier,
            keeper,
            give_up,
            end_keeper,
        })
    }

    /// Stops cleanly: everything captured is durable below or in the spool, so that the next run begins without a gap.
    /// Blocks, for about `limit` at most. Returns whether it was clean. Another tap may have the disk then.
    pub(crate) fn stop(self, limit: Duration) -> bool {
        let volume = Arc::clone(&self.volume);
        let clean = self.wind_down(limit);
        volume.let_go();
        clean
    }

    fn wind_down(self, limit: Duration) -> bool {
        let Self {
            volume,
            memory,
            outbox,
            counters,
            proof,
            uplink,
            sealer,
            copier,
            keeper,
            give_up,
            end_keeper,
            ..
        } = self;
        let deadline = Instant::now() + limit;
        volume.stop();
        let in_time = wait_until(deadline, || sealer.is_finished());
        give_up.store(true, Ordering::Release);
        let sealed = sealer.join().unwrap_or(false) && in_time;
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
        // What is refused for good is not kept for the next run, which could only be refused again.
        let split = proof.is_split();
        let spilling = if split { Spilling::Nothing } else { Spilling::Everything { limit: left } };
        let safe = outbox.stop(spilling) && !split;
        drop(uplink);
        end_keeper.store(true, Ordering::Release);
        volume.stop();
        let kept = keeper.join().is_ok() && copier.join().is_ok();
        let flushed = tap_block::device::run(volume.disk(), Op::Flush).is_ok();
        if !(sealed && safe && kept && flushed && volume.is_quiet()) {
            return false;
        }
        note_clean_stop(&volume, &memory, &counters, &proof)
            .inspect_err(|e| tracing::error!(volume = %volume.name(), "cannot note the clean stop: {e}; marked regions will be copied again"))
            .is_ok()
    }
}

fn note_clean_stop(
    volume: &Volume,
    memory: &Memory,
    counters: &Counters,
    proof: &Proof,
) -> std::io::Result<()> {
    let (snapshot, identity) = (volume.snapshot(), volume.disk().identity()?);
    memory.store_marks(&volume.marks())?;
    let (everywhere, resynced) = (counters.everywhere(), counters.resynced_before + snapshot.resynced);
    memory.update(|s| {
        s.disk.size = s.disk.size.max(volume.geometry().size);
        s.sync = snapshot.sync.map(|p| p.cause);
        s.everywhere = s.everywhere.max(everywhere);
        s.resynced = resynced;
        if proof.is_over() {
            proof.settle(&mut s.unproven, &mut s.lineage);
        }
        s.clean = Some(CleanStop { next: snapshot.head.next(), changed_ns: identity.ctime_ns });
    })
}

/// Why the files of a volume do not let a run begin.
#[derive(Debug, Error)]
enum RememberError {
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error(transparent)]
    Begin(#[from] BeginError),
    #[error("its state cannot be kept: {0}")]
    Io(#[from] std::io::Error),
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
}

/// Reads the volume's files, decides how the run begins, and makes that durable before any LSN is used.
fn remember(dir: &Path, name: &Name, disk: &FileDevice) -> Result<(Memory, Beginning), RememberError> {
    let (memory, found) = Memory::open(&dir.join(name.as_str()))?;
    let identity = disk.identity()?;
    let found = Found { state: found.state, marks: found.marks, alive: found.alive, identity };
    let beginning = begin(found, draw().map_err(RememberError::Random)?, name, || data_of(disk))?;
    memory.store_marks(&beginning.start.marks)?;
    // What was noted last is in the state by now, if it is still to be looked at.
    memory.store(beginning.state.clone())?;
    memory.note_alive(RealClock.wall(), Some(identity.ctime_ns))?;
    Ok((memory, beginning))
}

/// Before anything is read from it: another tap's disk is neither copied nor noted.
fn open_alone(path: &Path) -> Result<Arc<FileDevice>, OpenError> {
    let disk = FileDevice::open(path, FileOptions::default())?;
    disk.claim()?;
    Ok(disk)
}

fn draw() -> Result<Drawn, getrandom::Error> {
    Ok(Drawn {
        stream: StreamId::new(getrandom::u64()?.max(1)),
        volume: VolumeId::new(getrandom::u64()?.max(1)),
        run: RunId::new(getrandom::u64()?.max(1)),
    })
}

/// Where the disk has data; holes are zeroes and need no copy.
fn data_of(disk: &FileDevice) -> std::io::Result<ExtentSet> {
    let mut data = ExtentSet::new();
    let mut from = 0;
    while let Some(extent) = disk.data_extents(from)? {
        data.insert(extent.to_blocks());
        from = extent.end();
    }
    Ok(data)
}

fn hello(whose: Identity, name: &Name, size: u64, first_lsn: Lsn, sender: &str) -> Hello {
    Hello {
        protocol: PROTOCOL,
        stream: whose.stream,
        volume: whose.volume,
        name: name.clone(),
        size,
        epoch: whose.epoch,
        run: whose.run,
        first_lsn,
        sender: sender.to_owned(),
    }
}

/// As the volume is when it greets.
fn greeting(volume: Arc<Volume>, first: Hello) -> impl Fn() -> Hello {
    move || {
        let Life { whose: Identity { run, epoch, .. }, first: first_lsn } = volume.life();
        Hello { size: volume.geometry().size, run, epoch, first_lsn, ..first.clone() }
    }
}

fn outbox_config(memory: &Memory, limits: Limits) -> DriverConfig {
    DriverConfig {
        dir: Some(memory.spool_dir()),
        segment_len: DriverConfig::SEGMENT_LEN,
        consumers: 1,
        retry: Duration::from_secs(1),
        outbox: cx_spool::Config {
            memory_limit: limits.outbox_bytes,
            spill_after: None,
            spill_above: limits.outbox_bytes / 4 * 3,
            disk_limit: limits.spool_bytes,
            read_ahead: 4 << 20,
            detect_holes: false,
        },
    }
}

/// Looks every few milliseconds, because a thread's end cannot be waited for with a limit.
fn wait_until(deadline: Instant, done: impl Fn() -> bool) -> bool {
    while !done() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    true
}

impl Protected {
    /// Bytes of the disk.
    pub(crate) fn size(&self) -> u64 {
        self.volume.geometry().size
    }
}
