//! Settling: how fast old history is rewritten, what it costs whoever writes meanwhile, and how reads of it compare with
//! reads of the log.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gateway_journal::{MetaRecord, RegionNo, RetentionPolicy};
use gateway_store::{Cold, ReadMode, Store, StoreConfig, UnitRead};
use tap_block::stored::UNIT;
use tap_block::units::{count, index};
use tap_block::{BLOCK_SIZE, BlockNo, Lsn};
use tap_disk::RealClock;
use testbed_model::Random;

use super::{folder, millis};
use crate::image;
use crate::journal::{Feeder, Packed, VOLUME, random_batches};
use crate::options::{Case, Options};
use crate::process::Pid;
use crate::report::{Figure, Report, Target};
use crate::sample::{Latency, Ratio, Spread, to_float};

/// The volume that the records' offsets are drawn from.
const VOLUME_SIZE: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// What one round gave.
#[derive(Debug, Default, Clone, Copy)]
struct Round {
    settle_mib_s: f64,
    settle_mib_cpu_s: f64,
    written_per_byte: f64,
    p99_ratio: f64,
    worst_ms: f64,
    log_index: f64,
    settled_index: f64,
    space_per_byte: f64,
    pack_mib_cpu_s: f64,
    packed_space_per_byte: f64,
    log: Reads,
    settled: Reads,
    packed: Reads,
}

#[derive(Debug, Default, Clone, Copy)]
struct Reads {
    /// Blocks that there was something to read of.
    blocks: u64,
    sequential_mib_s: f64,
    random_s: f64,
}

pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let records = options.pick(768 << 10, 40 << 10);
    let mut rounds = Vec::new();
    for _ in 0..options.rounds {
        let folder = folder(options)?;
        rounds.push(round(folder.path(), records)?);
    }
    let mut figure = |name: &str, unit: &'static str, target: Target, value: &dyn Fn(&Round) -> f64| {
        report.measured(&Figure {
            case: Case::Settle,
            name: name.to_owned(),
            unit,
            values: Spread::of(rounds.iter().map(value)),
            target,
            note: format!(
                "{records} records of 4 KiB, half compressible, at random offsets of 1 GiB; sequential reads cold, random \
                 ones behind them"
            ),
        });
    };
    let at_least = |n| Target::AtLeast(Ratio(n));
    figure("log settled", "MiB/s", Target::None, &|r| r.settle_mib_s);
    figure("log settled per second of processor", "MiB/s", at_least(200.0), &|r| r.settle_mib_cpu_s);
    figure("bytes written per user byte, settling included", "", Target::Below(1.5), &|r| r.written_per_byte);
    figure("commit p99 while settling against without", "", Target::Below(2.0), &|r| r.p99_ratio);
    figure("worst commit while settling", "ms", Target::Below(1000.0), &|r| r.worst_ms);
    figure("index on disk per record of the log", "B", Target::Below(48.0), &|r| r.log_index);
    figure("index on disk after settling, per version left", "B", Target::Below(32.0), &|r| r.settled_index);
    figure("space per byte kept, settled", "", Target::None, &|r| r.space_per_byte);
    figure("1 MiB sequential reads, log", "MiB/s", Target::None, &|r| r.log.sequential_mib_s);
    figure("1 MiB sequential reads, settled", "MiB/s", Target::None, &|r| r.settled.sequential_mib_s);
    figure("4 KiB random reads, log", "1/s", Target::None, &|r| r.log.random_s);
    figure("4 KiB random reads, settled", "1/s", Target::None, &|r| r.settled.random_s);
    figure("packed per second of processor", "MiB/s", Target::None, &|r| r.pack_mib_cpu_s);
    figure("space per byte kept, packed", "", Target::None, &|r| r.packed_space_per_byte);
    figure("1 MiB sequential reads, packed", "MiB/s", Target::None, &|r| r.packed.sequential_mib_s);
    figure("4 KiB random reads, packed", "1/s", Target::None, &|r| r.packed.random_s);
    Ok(())
}

fn round(dir: &Path, records: u64) -> Result<Round> {
    let config = StoreConfig { settle_each: None, ..StoreConfig::new(dir.to_owned()) };
    let store = Store::open(config, Arc::new(RealClock))?;
    let batches = random_batches(VOLUME_SIZE);
    let mut feeder = Feeder::begin(&store, VOLUME_SIZE, 4 << 20)?;
    feed(&mut feeder, &batches, records)?;
    let head = feeder.next().previous();
    image::go_cold(dir)?;
    let log = reads(&store, head)?;
    image::go_cold(dir)?;
    let log_index = on_disk(&dir.join("fjall"))?;
    keep_nothing(&store)?;
    let (before, cpu, begun) = (store.status().bytes_written, Pid::own().cpu()?, Instant::now());
    let mut settled = settle(&store)?;
    let (took, cpu) = (begun.elapsed(), Pid::own().cpu()?.saturating_sub(cpu));
    image::go_cold(dir)?;
    let settled_reads = reads(&store, head)?;
    // The newest version of each block is what is left.
    let space = store.status().settled_bytes;
    // Half as much, which fits into the files that are used again now: making new ones is another thing.
    let alone = feed(&mut feeder, &batches, records / 2)?;
    settled += settle(&store)?;
    // The same load again, while what it writes is settled.
    let over = AtomicBool::new(false);
    let busy = std::thread::scope(|scope| {
        let settler = scope.spawn(|| settle_until(&store, &over));
        let busy = feed(&mut feeder, &batches, records / 2);
        over.store(true, Ordering::Release);
        settled += settler.join().map_err(|_| anyhow::anyhow!("the settler panicked"))??;
        busy
    })?;
    settled += settle(&store)?;
    let written = store.status().bytes_written + settled;
    let settled_index = on_disk(&dir.join("fjall"))?;
    let head = feeder.next().previous();
    drop(feeder);
    drop(store);
    let Packing { mib_cpu_s: pack_mib_cpu_s, space: packed_space, reads: packed } = pack_all(dir, head)?;
    Ok(Round {
        settle_mib_s: to_float(before) / to_float(MIB) / took.as_secs_f64(),
        settle_mib_cpu_s: to_float(before) / to_float(MIB) / cpu.as_secs_f64(),
        written_per_byte: to_float(written) / to_float(2 * records * BLOCK_SIZE),
        p99_ratio: busy.p99.as_secs_f64() / alone.p99.as_secs_f64(),
        worst_ms: millis(busy.max),
        log_index: to_float(log_index) / to_float(records),
        settled_index: to_float(settled_index) / to_float(settled_reads.blocks),
        space_per_byte: to_float(space) / to_float(settled_reads.blocks * BLOCK_SIZE),
        pack_mib_cpu_s,
        packed_space_per_byte: to_float(packed_space) / to_float(packed.blocks * BLOCK_SIZE),
        log,
        settled: settled_reads,
        packed,
    })
}

/// What packing all of it gave.
struct Packing {
    mib_cpu_s: f64,
    space: u64,
    reads: Reads,
}

/// Opens the store anew as one to which everything is old and unread.
fn pack_all(dir: &Path, head: Lsn) -> Result<Packing> {
    let cold = Some(Cold { after: Duration::ZERO, unread: Duration::ZERO, pause: Duration::ZERO });
    let config = StoreConfig { settle_each: None, cold, ..StoreConfig::new(dir.to_owned()) };
    let store = Store::open(config, Arc::new(RealClock))?;
    let (before, cpu) = (store.status().settled_bytes, Pid::own().cpu()?);
    settle(&store)?;
    let cpu = Pid::own().cpu()?.saturating_sub(cpu);
    image::go_cold(dir)?;
    let reads = reads(&store, head)?;
    let mib_cpu_s = to_float(before) / to_float(MIB) / cpu.as_secs_f64();
    Ok(Packing { mib_cpu_s, space: store.status().settled_bytes, reads })
}

fn feed(feeder: &mut Feeder<'_>, batches: &[Packed], records: u64) -> Result<Latency> {
    feeder.waits.clear();
    let mut fed = 0;
    for batch in batches.iter().cycle() {
        feeder.write(batch)?;
        fed += batch.records();
        if fed >= records {
            break;
        }
    }
    feeder.drain()?;
    Ok(Latency::of(std::mem::take(&mut feeder.waits)))
}

/// From here on everything may be settled, and only the last point of each pass is kept.
fn keep_nothing(store: &Store) -> Result<()> {
    let policy =
        RetentionPolicy { every_write: Duration::ZERO, tiers: Vec::new(), ..RetentionPolicy::default() };
    let (sender, done) = channel();
    let record = MetaRecord::PolicySet { volume: None, policy: Some(policy) };
    store.record(record, Box::new(move |outcome| drop(sender.send(outcome))));
    done.recv().context("the store is gone")??;
    Ok(())
}

/// Settles everything there is; the bytes written for it.
fn settle(store: &Store) -> Result<u64> {
    let mut written = 0;
    while let Some(report) = store.settle()? {
        written += report.bytes_written;
    }
    ensure!(store.status().settles > 0, "nothing was settled");
    Ok(written)
}

/// Settles what there is, again and again; more often than a store does by itself.
fn settle_until(store: &Store, over: &AtomicBool) -> Result<u64> {
    let mut written = 0;
    while !over.load(Ordering::Acquire) {
        written += store.settle()?.map_or(0, |report| report.bytes_written);
        std::thread::park_timeout(Duration::from_millis(250));
    }
    Ok(written)
}

/// Bytes that a directory's files take on the disk.
fn on_disk(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).with_context(|| format!("{} cannot be read", dir.display()))? {
        let entry = entry?;
        let about = entry.metadata()?;
        bytes += if about.is_dir() { on_disk(&entry.path())? } else { about.blocks() * 512 };
    }
    Ok(bytes)
}

/// Reads the whole volume at `point` as an image does, one MiB at a time, then single blocks.
fn reads(store: &Store, point: Lsn) -> Result<Reads> {
    let mut out = vec![0; index(MIB)];
    let (begun, mut blocks) = (Instant::now(), 0);
    for piece in 0..VOLUME_SIZE / MIB {
        blocks += read(store, point, piece * MIB, &mut out)?;
    }
    let sequential_mib_s = to_float(VOLUME_SIZE / MIB) / begun.elapsed().as_secs_f64();
    let (mut random, mut block) = (Random::new(9), [0; UNIT]);
    let (begun, reads) = (Instant::now(), 20_000);
    for _ in 0..reads {
        read(store, point, random.below(VOLUME_SIZE / BLOCK_SIZE) * BLOCK_SIZE, &mut block)?;
    }
    Ok(Reads { blocks, sequential_mib_s, random_s: to_float(reads) / begun.elapsed().as_secs_f64() })
}

/// Blocks that were read; the others are zeroes.
fn read(store: &Store, point: Lsn, offset: u64, out: &mut [u8]) -> Result<u64> {
    let mut units = Vec::new();
    for n in 0..out.len() / UNIT {
        let block = BlockNo::new(offset / BLOCK_SIZE + count(n));
        let (region, within) = RegionNo::holding(block).context("beyond the last region")?;
        let at = store.region_map(VOLUME, region, point)?.unit(within);
        units.extend(at.map(|at| UnitRead { block, at, into: n * UNIT }));
    }
    ensure!(store.read_units(&units, ReadMode::Blocking, out)?, "a blocking read did not block");
    Ok(count(units.len()))
}
