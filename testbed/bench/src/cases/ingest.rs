//! Records into the gateway's store, durable, against raw writes with as many syncs: of the bytes that guests wrote, which is
//! what a journal without compression would write, and of the bytes that the store wrote.
//!
//! All write into recycled segment files: zero-written once, then overwritten. The records arrive as they do from a CX, packed
//! and checksummed. The store goes first and shows what it wrote in how many commits.

use std::fs;
use std::io::IoSlice;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use gateway_journal::SEGMENT_HEADER;
use gateway_store::{Store, StoreConfig};
use tap_block::BlockNo;
use tap_block::stored::UNIT;
use tap_block::units::{count, index};
use tap_disk::{RealClock, SegmentFile};
use testbed_model::Random;

use super::{folder, order};
use crate::image;
use crate::journal::{Feeder, Packed, Packer};
use crate::options::{Case, Options};
use crate::payload::{Mix, Payload};
use crate::process::{Pid, Watch, thread_cpu};
use crate::report::{Comparison, Contestant, Report, Target};
use crate::sample::{Bytes, Latency, Ratio, Sample, to_float};

const SEGMENT: u64 = 64 << 20;
/// The volume that the records' offsets are drawn from.
const VOLUME_SIZE: u64 = 4 << 30;
/// Blocks of a batch, as a tap under load sends them.
const BATCH_BLOCKS: u64 = 64;
/// Different batches, used in turn.
const BATCHES: usize = 256;

/// Whether the store finds files to overwrite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Files {
    Recycled,
    /// It has to make every segment file, writing it twice: the first weeks of a new store.
    New,
}

/// What the guest writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writes {
    /// 4 KiB at random offsets.
    Small,
    /// 64 KiB at random offsets.
    Large,
    /// 64 KiB, each behind the one before.
    Sequential,
}

impl Writes {
    const fn blocks(self) -> u64 {
        match self {
            Self::Small => 1,
            Self::Large | Self::Sequential => 16,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Small => "4 KiB random",
            Self::Large => "64 KiB random",
            Self::Sequential => "64 KiB sequential",
        }
    }
}

const PAGE: u64 = 4096;
/// Different bytes that the raw loop has to write.
const SOURCE: u64 = 16 << 20;

/// One comparison.
#[derive(Debug, Clone, Copy)]
struct Setting {
    mix: Mix,
    writes: Writes,
    /// The most that waits for one sync.
    interval: Bytes,
    files: Files,
    target: Target,
}

/// What the store wrote in a round, for the raw loop to write.
#[derive(Debug, Clone, Copy)]
struct Written {
    bytes: u64,
    commits: u64,
    records: u64,
}

/// The files and records of all rounds.
struct Bench {
    root: PathBuf,
    batches: Vec<Packed>,
    /// Stored bytes of a round.
    volume: Bytes,
    raw: Vec<SegmentFile>,
}

pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let folder = folder(options)?;
    let settings = settings(options.quick);
    let volume = Bytes(options.pick(512 << 20, 40 << 20));
    let files = volume.0 / SEGMENT + 3;
    let raw = (0..files).map(|n| spare(folder.path(), "raw", n)).collect::<Result<_>>()?;
    let mut bench = Bench { root: folder.path().to_owned(), batches: Vec::new(), volume, raw };
    let mut made = None;
    for setting in settings {
        if made.replace((setting.mix, setting.writes)) != Some((setting.mix, setting.writes)) {
            bench.batches = make_batches(setting.mix, setting.writes);
        }
        bench.compare(setting, options.rounds)?.iter().for_each(|compared| report.compared(compared));
    }
    Ok(())
}

fn settings(quick: bool) -> Vec<Setting> {
    const MIB: u64 = 1 << 20;
    let setting = |mix, writes, interval| {
        let (interval, target) = (Bytes(interval), Target::AtLeast(goal(mix)));
        Setting { mix, writes, interval, files: Files::Recycled, target }
    };
    let mut settings = vec![setting(Mix::Half, Writes::Small, MIB), setting(Mix::Noise, Writes::Small, MIB)];
    if !quick {
        settings.push(setting(Mix::Noise, Writes::Small, 4 * MIB));
        settings.push(setting(Mix::Half, Writes::Small, 4 * MIB));
        let first = setting(Mix::Half, Writes::Small, MIB);
        settings.push(Setting { files: Files::New, target: Target::None, ..first });
        settings.push(setting(Mix::Half, Writes::Large, MIB));
        settings.push(setting(Mix::Half, Writes::Sequential, MIB));
    }
    settings
}

/// Compression is to pay for the index where there is something to compress.
const fn goal(mix: Mix) -> Ratio {
    match mix {
        Mix::Half => Ratio(1.0),
        Mix::Noise => Ratio(0.85),
    }
}

impl Bench {
    fn compare(&self, setting: Setting, rounds: u32) -> Result<[Comparison; 2]> {
        let mut store = Contestant::new("store", "gateway_store::Store::append, group commit, fdatasync");
        let raw = |what| Contestant::new(what, "pwritev + fdatasync over zero-written 64 MiB files");
        let (mut plain, mut stored) = (raw("raw, what guests wrote"), raw("raw, what the store wrote"));
        let mut written = None;
        for round in 0..rounds {
            for place in order(round, 3) {
                image::write_back(&self.root)?;
                match (place, written) {
                    (0, _) => {
                        let (sample, shape) = self.feed(setting)?;
                        store.rounds.push(sample);
                        written = Some(shape);
                    }
                    (1, Some(shape)) => {
                        plain
                            .rounds
                            .push(self.write_raw(shape, shape.records * setting.writes.blocks() * PAGE)?);
                    }
                    (_, Some(shape)) => stored.rounds.push(self.write_raw(shape, shape.bytes)?),
                    (_, None) => {}
                }
            }
        }
        let shape = written.context("no rounds")?;
        let mib =
            |sample: &Sample| sample.rate() * to_float(setting.writes.blocks() * PAGE) / to_float(1 << 20);
        let how = format!(
            "{} records, {} MiB into segments in {} commits; an op is a record, a wait is from append to durable for the store \
             and a commit for raw; the store takes {:.0} MiB/s of what guests write",
            shape.records,
            shape.bytes >> 20,
            shape.commits,
            store.over(mib).median
        );
        let against = |what: &str, other, target| Comparison {
            case: Case::Ingest,
            name: format!(
                "{} writes, {}, a sync each {} KiB{}, against raw writes of {what}",
                setting.writes.name(),
                setting.mix.name(),
                (shape.bytes / shape.commits.max(1)) >> 10,
                if setting.files == Files::New { ", files not recycled" } else { "" }
            ),
            how: how.clone(),
            contestants: vec![store.clone(), other],
            target,
        };
        Ok([
            against("what guests wrote", plain, setting.target),
            against("what the store wrote", stored, Target::None),
        ])
    }

    /// A round of the store.
    fn feed(&self, setting: Setting) -> Result<(Sample, Written)> {
        let dir = self.root.join("store");
        self.prepare(&dir, setting.files)?;
        let before = Pid::own().memory()?.resident;
        let config = StoreConfig { group_bytes: setting.interval.0, ..StoreConfig::new(dir) };
        let store = Store::open(config, Arc::new(RealClock))?;
        let mut feeder = Feeder::begin(&store, VOLUME_SIZE, setting.interval.0 * 4)?;
        let status = store.status();
        let (watch, cpu) = (Watch::begin(Pid::own())?, cpu_of_others()?);
        let begun = Instant::now();
        let (mut records, mut stored) = (0, 0);
        for batch in self.batches.iter().cycle() {
            feeder.write(batch)?;
            records += batch.records();
            stored += batch.stored();
            if stored >= self.volume.0 {
                break;
            }
        }
        feeder.drain()?;
        let elapsed = begun.elapsed();
        let after = store.status();
        let sample = Sample {
            ops: records,
            elapsed,
            cpu: cpu_of_others()?.saturating_sub(cpu),
            latency: Latency::of(std::mem::take(&mut feeder.waits)),
            memory: Bytes(Pid::own().memory()?.resident.0.saturating_sub(before.0)),
            others: watch.others()?,
        };
        store.stop();
        let bytes = after.bytes_written - status.bytes_written;
        Ok((sample, Written { bytes, commits: after.commits - status.commits, records }))
    }

    /// An empty store: its files are made, or those of the round before are recycled.
    fn prepare(&self, dir: &Path, files: Files) -> Result<()> {
        for index in ["fjall", "MARK"] {
            let path = dir.join(index);
            if path.is_dir() {
                fs::remove_dir_all(&path)?;
            } else if path.is_file() {
                fs::remove_file(&path)?;
            }
        }
        let segments = dir.join("seg");
        fs::create_dir_all(&segments)?;
        for entry in fs::read_dir(&segments)? {
            let path = entry?.path();
            match files {
                Files::Recycled => forget(&path)?,
                Files::New => fs::remove_file(&path)?,
            }
        }
        let there = count(fs::read_dir(&segments)?.count());
        if files == Files::Recycled {
            for n in there..count(self.raw.len()) {
                spare(dir, "seg", n)?;
            }
        }
        image::write_back(dir)
    }

    /// A round of raw writes: so many bytes in as many commits as the store made.
    fn write_raw(&self, shape: Written, bytes: u64) -> Result<Sample> {
        // Whole pages, as the store's frames are: half a page would be written by two commits.
        let piece = (bytes / shape.commits.max(1)).next_multiple_of(PAGE);
        let mut source = vec![0; index(piece + SOURCE)];
        Random::new(shape.bytes).fill(&mut source);
        let mut waits = Vec::new();
        let (watch, cpu) = (Watch::begin(Pid::own())?, thread_cpu()?);
        let begun = Instant::now();
        let (mut file, mut at) = (0, 0);
        for n in 0..shape.commits {
            let commit = Instant::now();
            if at + piece > SEGMENT {
                (file, at) = ((file + 1) % self.raw.len(), 0);
            }
            let from = index((n * PAGE) % SOURCE);
            let bytes = source.get(from..from + index(piece)).unwrap_or_default();
            let target = self.raw.get(file).context("no raw file")?;
            target.write_at(at, &[IoSlice::new(bytes)])?;
            target.sync()?;
            at += piece;
            waits.push(commit.elapsed());
        }
        Ok(Sample {
            ops: shape.records,
            elapsed: begun.elapsed(),
            cpu: thread_cpu()?.saturating_sub(cpu),
            latency: Latency::of(waits),
            memory: Bytes(0),
            others: watch.others()?,
        })
    }
}

/// Processor time of all threads but this one, which only feeds.
fn cpu_of_others() -> Result<std::time::Duration> {
    Ok(Pid::own().cpu()?.saturating_sub(thread_cpu()?))
}

/// A segment file as an earlier life left it, but for its header.
fn forget(path: &Path) -> Result<()> {
    let file = fs::OpenOptions::new().write(true).open(path)?;
    Ok(file.write_all_at(&vec![0; index(u64::from(SEGMENT_HEADER)) * 2], 0)?)
}

fn spare(root: &Path, dir: &str, n: u64) -> Result<SegmentFile> {
    let dir = root.join(dir);
    fs::create_dir_all(&dir)?;
    let path = dir.join(format!("{:08}.seg", n + 1));
    if path.exists() {
        fs::remove_file(&path)?;
    }
    let file = SegmentFile::create_zeroed(&path, SEGMENT)?;
    ensure!(file.len() == SEGMENT, "a segment file of {} bytes", file.len());
    Ok(file)
}

fn make_batches(mix: Mix, writes: Writes) -> Vec<Packed> {
    let mut payload = Payload::new(mix, 3);
    let mut random = Random::new(4);
    let mut packer = Packer::default();
    let places = VOLUME_SIZE / (PAGE * writes.blocks());
    let mut sequence = (0..places).cycle();
    let mut batch = || {
        while packer.blocks() < BATCH_BLOCKS {
            let place = match writes {
                Writes::Sequential => sequence.next().unwrap_or(0),
                Writes::Small | Writes::Large => random.below(places),
            };
            let first = BlockNo::new(place * writes.blocks());
            let mut contents = vec![[0; UNIT]; index(writes.blocks())];
            payload.fill(first.offset(), contents.as_flattened_mut());
            packer.add_write(first, &contents);
        }
        packer.take()
    };
    (0..BATCHES).map(|_| batch()).collect()
}
