//! Opening an image and reading its first block, by length of history and age of the point; cold, as after a
//! night: nothing in the page cache, and a point that was never asked for before.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use gateway_image::{Source, plan_read};
use gateway_store::{ReadMode, Store, StoreConfig, UnitRead};
use tap_block::stored::UNIT;
use tap_block::{BLOCK_SIZE, BlockNo, Extent, Lsn};
use tap_disk::RealClock;
use testbed_model::Random;

use super::{folder, millis};
use crate::image;
use crate::journal::{Feeder, NAME, Packer, VOLUME};
use crate::nbd::Client;
use crate::options::{Case, Options};
use crate::report::{Figure, Report, Target};
use crate::sample::{Spread, to_float};
use crate::up::Gateway;

const REGION: u64 = gateway_journal::REGION_BYTES / BLOCK_SIZE;
/// One in so many records goes to the first region: one that was written far more often than the others.
const HOT: u64 = 5;
/// Where a gateway keeps its store in its data folder.
const STORE: &str = "gateway/store";
const LIMIT_MS: f64 = 50.0;
/// Images open at once, and reads of each.
const IMAGES: u64 = 16;
const READS: u64 = 2000;
/// Bytes in flight while the journal is made.
const WINDOW: u64 = 16 << 20;
const BATCH_RECORDS: u64 = 256;

/// Where in history a point lies.
#[derive(Debug, Clone, Copy)]
enum Age {
    Oldest,
    Middle,
    Newest,
}

/// A made journal and what must be read from it.
struct History {
    records: u64,
    /// Bytes of the volume.
    size: u64,
    last: Lsn,
    /// Writes to the hot region, in order.
    hot: Vec<(Lsn, BlockNo)>,
}

/// A point, a block of the hot region and the LSN that wrote it last.
#[derive(Debug, Clone, Copy)]
struct Probe {
    point: Lsn,
    block: BlockNo,
    writer: Lsn,
}

pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let long = options.records.unwrap_or(options.pick(10_000_000, 100_000));
    let mut made = Vec::new();
    for records in [10_000, long] {
        let folder = folder(options)?;
        let history = make(&folder.path().join(STORE), records, options.volume << 30)?;
        image::write_back(folder.path())?;
        made.push((folder, history));
    }
    for (folder, history) in &made {
        from_store(&folder.path().join(STORE), history, options, report)?;
    }
    for (folder, history) in &made {
        from_gateway(folder.path(), history, options, report)?;
    }
    Ok(())
}

/// Writes the journal through the store, as a gateway would.
fn make(dir: &Path, records: u64, size: u64) -> Result<History> {
    let store = Store::open(StoreConfig::new(dir.to_owned()), Arc::new(RealClock))?;
    let begun = Instant::now();
    let mut feeder = Feeder::begin(&store, size, WINDOW)?;
    let (mut random, mut hot, mut packer) = (Random::new(records), Vec::new(), Packer::default());
    let first = feeder.next();
    for n in 0..records {
        let lsn = first.plus(n);
        let limit = if random.one_in(HOT) { REGION } else { size / BLOCK_SIZE };
        let block = BlockNo::new(random.below(limit));
        if block.get() < REGION {
            hot.push((lsn, block));
        }
        packer.add(block, &content(lsn));
        if packer.blocks() == BATCH_RECORDS || n + 1 == records {
            feeder.write(&packer.take())?;
        }
    }
    feeder.drain()?;
    let last = feeder.next().previous();
    store.stop();
    let rate = to_float(records) / begun.elapsed().as_secs_f64();
    eprintln!("   {records} records made, {rate:.0} per second");
    Ok(History { records, size, last, hot })
}

/// A block that tells who wrote it, and compresses to almost nothing.
fn content(writer: Lsn) -> [u8; UNIT] {
    let mut block = [0; UNIT];
    let (words, _) = block.as_chunks_mut::<8>();
    words.fill(writer.get().to_le_bytes());
    block
}

/// The store alone: region map, plan, unit.
fn from_store(dir: &Path, history: &History, options: &Options, report: &mut Report) -> Result<()> {
    let begun = Instant::now();
    let store = Store::open(StoreConfig::new(dir.to_owned()), Arc::new(RealClock))?;
    eprintln!("   the store of {} records opens in {:.0} ms", history.records, millis(begun.elapsed()));
    for age in [Age::Oldest, Age::Middle, Age::Newest] {
        let mut times = Vec::new();
        for sample in 0..u64::from(options.rounds) * 3 {
            let probe = history.probe(age, sample)?;
            image::go_cold(dir)?;
            let begun = Instant::now();
            let block = read_block(&store, history.size, probe)?;
            times.push(millis(begun.elapsed()));
            probe.check(&block)?;
        }
        report.measured(&figure(
            "store",
            history.records,
            age,
            &times,
            "region_map, plan_read, read_units".to_owned(),
        ));
    }
    store.stop();
    Ok(())
}

/// The whole way: connect, choose the export, read.
fn from_gateway(folder: &Path, history: &History, options: &Options, report: &mut Report) -> Result<()> {
    let gateway = Gateway::start(folder, folder)?;
    for age in [Age::Oldest, Age::Middle, Age::Newest] {
        let mut times = Vec::new();
        for sample in 0..u64::from(options.rounds) * 3 {
            let probe = history.probe(age, sample)?;
            image::go_cold(&folder.join(STORE))?;
            let export = gateway.image(NAME, probe.point.get());
            let mut block = [0; UNIT];
            let begun = Instant::now();
            let mut client = Client::connect(&export)?;
            client.read(probe.block.offset(), &mut block)?;
            times.push(millis(begun.elapsed()));
            client.close()?;
            probe.check(&block)?;
        }
        let memory = gateway.pid().memory()?.resident.mib();
        let note = format!("connect, GO {NAME}@lsn:N, READ; {memory:.0} MiB RSS; {}", gateway.command());
        report.measured(&figure("NBD", history.records, age, &times, note));
    }
    report.measured(&memory(&gateway, history)?);
    Ok(())
}

/// What the gateway takes while images at points of all ages are read all over.
fn memory(gateway: &Gateway, history: &History) -> Result<Figure> {
    let mut clients = Vec::new();
    for n in 1..=IMAGES {
        let export = gateway.image(NAME, history.last.get() * n / IMAGES);
        clients.push(Client::connect(&export)?);
    }
    let (mut random, mut block) = (Random::new(5), [0; UNIT]);
    for _ in 0..READS {
        for client in &mut clients {
            client.read(random.below(history.size / BLOCK_SIZE) * BLOCK_SIZE, &mut block)?;
        }
    }
    let memory = gateway.pid().memory()?;
    clients.into_iter().try_for_each(Client::close)?;
    Ok(Figure {
        case: Case::Open,
        name: format!(
            "memory with {IMAGES} images of {} GiB, {} records",
            history.size >> 30,
            history.records
        ),
        unit: "MiB",
        values: Spread::of([memory.resident.mib()]),
        target: Target::Below(1024.0),
        note: format!("{READS} random reads of each; the most ever {:.0} MiB", memory.peak.mib()),
    })
}

fn figure(what: &str, records: u64, age: Age, times: &[f64], note: String) -> Figure {
    Figure {
        case: Case::Open,
        name: format!("open and first block, {what}, {records} records, {age:?} point, cold"),
        unit: "ms",
        values: Spread::of(times.iter().copied()),
        target: Target::Below(LIMIT_MS),
        note,
    }
}

fn read_block(store: &Store, size: u64, probe: Probe) -> Result<[u8; UNIT]> {
    let extent = Extent::between(probe.block.offset(), probe.block.offset() + BLOCK_SIZE);
    let region = gateway_image::regions(extent).next().context("no region")?;
    let map = store.region_map(VOLUME, region, probe.point)?;
    let pieces = plan_read(extent, size, |_| Some(&*map));
    let Some(Source::Unit(block, at)) = pieces.first().map(|p| p.source) else {
        bail!("{:?} has no unit", probe.block)
    };
    let mut out = [0; UNIT];
    store.read_units(&[UnitRead { block, at, into: 0 }], ReadMode::Blocking, &mut out)?;
    Ok(out)
}

impl History {
    /// The `n`-th point of this age. Every probe is of another point: none finds the map of one before.
    fn probe(&self, age: Age, n: u64) -> Result<Probe> {
        let first = self.hot.first().context("nothing was written")?;
        let point = match age {
            Age::Oldest => first.0.plus(n * 3),
            Age::Middle => Lsn::ZERO.plus(self.last.get() / 2 + n * 3),
            Age::Newest => Lsn::ZERO.plus(self.last.get() - n * 3),
        };
        let behind = self.hot.partition_point(|&(lsn, _)| lsn <= point);
        let at = behind.checked_sub(1).and_then(|place| self.hot.get(place));
        let &(writer, block) = at.context("no write before the point")?;
        Ok(Probe { point, block, writer })
    }
}

impl Probe {
    fn check(&self, found: &[u8; UNIT]) -> Result<()> {
        let mark = found.first_chunk::<8>().map(|b| u64::from_le_bytes(*b));
        ensure!(*found == content(self.writer), "{self:?} reads {mark:?}: not what was written");
        Ok(())
    }
}
