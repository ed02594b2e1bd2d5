//! `sample`: what compression and deduplication would save of the data at rest, from blocks read at random.

use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use analyzer_profile::model::at_rest::{AtRest, AtRestFigures, Draw, Interval};
use analyzer_profile::report::{bytes_text, time_text};
use rustix::fs::Advice;
use serde::Serialize;
use tap_block::stored::{UNIT, is_zero, pack};
use tap_block::{BlockNo, Clock as _};
use tap_disk::RealClock;
use xxhash_rust::xxh3::xxh3_64;

use super::told_to_stop;
use crate::failure::{Failure, say};
use crate::{progress, show};

/// Reads are made in bursts of this length, each of random places in ascending order.
const BURST: Duration = Duration::from_millis(100);
/// So many unreadable blocks in a row: the device has gone.
const GONE: u64 = 64;
/// The most that are drawn: they are remembered, 50 bytes each.
const MOST: u64 = 1 << 22;

/// Says what compression and deduplication would save of the data at rest
///
/// Reads blocks of 4 KiB at random and packs them as the journal does. Read only, at most --max-reads a second; Ctrl-C ends it and
/// gives what there is.
#[derive(Debug, clap::Args)]
pub struct SampleArgs {
    /// The device, by name or path, or an image of one
    #[arg(long)]
    device: PathBuf,
    /// How many blocks; doubles are told apart from chance only in many
    #[arg(long, default_value_t = 20_000)]
    samples: u64,
    /// Reads a second
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    max_reads: u64,
    /// Which blocks are drawn: the same seed draws the same ones
    #[arg(long)]
    seed: Option<u64>,
    /// Writes the figures as JSON, `-` for standard output instead of the text
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What is said as JSON.
#[derive(Debug, Serialize)]
struct Answer {
    schema: &'static str,
    device: String,
    block_bytes: usize,
    seed: u64,
    /// Was it ended before all were read?
    ended_early: bool,
    /// Blocks that could not be read.
    unreadable: u64,
    /// What it cost the device.
    reads: u64,
    read_bytes: u64,
    seconds: f64,
    #[serde(flatten)]
    figures: AtRestFigures,
}

impl SampleArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let seed = self.seed.unwrap_or_else(|| RealClock.wall().nanos());
        if self.samples == 0 || self.samples > MOST {
            return Err(Failure::usage(format!("--samples goes from 1 to {MOST}, not {}", self.samples)));
        }
        let disk = Disk::open(&self.device)?;
        let wanted = self.samples.min(disk.blocks);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Failure::new("cannot wait for time and signals").because(e))?;
        let begun = RealClock.monotonic();
        let mut sampling = Sampling::new(disk, seed);
        let ended_early = runtime.block_on(sampling.read(wanted, self.max_reads))?;
        let seconds = RealClock.monotonic().since(begun).as_secs_f64();
        let figures = sampling.drawn.figures().ok_or_else(|| {
            Failure::new(format!("no block of {} was read", self.device.display()))
                .because(sampling.trouble.unwrap_or_else(|| "it was ended before the first".to_owned()))
        })?;
        let answer = Answer {
            schema: "chronogate-sample/1",
            device: self.device.display().to_string(),
            block_bytes: UNIT,
            seed,
            ended_early,
            unreadable: sampling.unreadable,
            reads: sampling.reads,
            read_bytes: sampling.reads * tap_block::units::count(UNIT),
            seconds,
            figures,
        };
        if let Some(path) = &self.json {
            show::write(path, &show::json(&answer)?)?;
            if path == Path::new("-") {
                return Ok(());
            }
        }
        show::print(&text(&answer))
    }
}

/// What is read.
struct Disk {
    file: File,
    blocks: u64,
}

impl Disk {
    fn open(path: &Path) -> Result<Self, Failure> {
        let device = Path::new("/dev").join(path);
        // A bare name is a device's, unless a file has it.
        let path = if path.exists() || path.is_absolute() { path } else { &device };
        let failed = |e: std::io::Error| Failure::new(format!("cannot sample {}", path.display())).because(e);
        let mut file = File::open(path).map_err(failed)?;
        let kind = file.metadata().map_err(failed)?.file_type();
        if !kind.is_file() && !std::os::unix::fs::FileTypeExt::is_block_device(&kind) {
            return Err(Failure::new(format!("cannot sample {}", path.display()))
                .because("it is neither a block device nor a file")
                .fix("`chronogate-analyzer devices` lists the disks"));
        }
        let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
        let blocks = size / tap_block::units::count(UNIT);
        if blocks == 0 {
            return Err(Failure::new(format!("{} is smaller than a block of 4 KiB", path.display())));
        }
        // No read ahead: neighbours of a block drawn at random are not wanted. What the kernel makes of it is its own.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::Random);
        Ok(Self { file, blocks })
    }

    /// One block, out of the page cache again: the server's own pages are worth more than ours.
    fn read(&self, block: u64, into: &mut [u8]) -> std::io::Result<()> {
        let at = block * tap_block::units::count(UNIT);
        self.file.read_exact_at(into, at)?;
        let length = std::num::NonZeroU64::new(tap_block::units::count(UNIT));
        let _ = rustix::fs::fadvise(&self.file, at, length, Advice::DontNeed);
        Ok(())
    }
}

/// The sample as it grows.
struct Sampling {
    disk: Disk,
    draw: Draw,
    drawn: AtRest,
    reads: u64,
    unreadable: u64,
    in_a_row: u64,
    trouble: Option<String>,
    block: Vec<u8>,
    stored: Vec<u8>,
}

impl Sampling {
    fn new(disk: Disk, seed: u64) -> Self {
        let draw = Draw::new(disk.blocks, seed);
        let drawn = AtRest::new(disk.blocks, tap_block::units::count(UNIT));
        let (block, stored) = (vec![0; UNIT], Vec::new());
        Self { disk, draw, drawn, reads: 0, unreadable: 0, in_a_row: 0, trouble: None, block, stored }
    }

    /// Reads so many blocks, so many a second; `true` when it was told to stop, or the device has gone.
    async fn read(&mut self, wanted: u64, each_second: u64) -> Result<bool, Failure> {
        let bar = progress::steps(wanted, "sampling");
        let mut stop = std::pin::pin!(told_to_stop()?);
        say(&format!(
            "reading {wanted} blocks of 4 KiB, {each_second} a second; Ctrl-C ends it and says what there is"
        ));
        let mut tick = tokio::time::interval(BURST);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The share of a read that the bursts so far have left.
        let (mut due, mut left) = (0, wanted);
        while left > 0 {
            tokio::select! {
                biased;
                () = &mut stop => {
                    bar.finish_and_clear();
                    return Ok(true);
                }
                _ = tick.tick() => {}
            }
            due += each_second;
            let now = (due / 10).min(left);
            due -= now * 10;
            self.burst(now);
            left -= now;
            bar.set_position(wanted - left);
            if self.in_a_row >= GONE {
                say("the device answers no longer; what was read before is used");
                bar.finish_and_clear();
                return Ok(true);
            }
        }
        bar.finish_and_clear();
        Ok(false)
    }

    /// Reads the next blocks, in ascending order; the order within a burst says nothing about the sample.
    fn burst(&mut self, count: u64) {
        let mut blocks: Vec<u64> = self.draw.by_ref().take(tap_block::units::index(count)).collect();
        blocks.sort_unstable();
        for block in blocks {
            if self.in_a_row < GONE {
                self.one(block);
            }
        }
    }

    fn one(&mut self, block: u64) {
        self.reads += 1;
        if let Err(e) = self.disk.read(block, &mut self.block) {
            self.unreadable += 1;
            self.in_a_row += 1;
            self.trouble.get_or_insert_with(|| format!("block {block}: {e}"));
            return;
        }
        self.in_a_row = 0;
        if is_zero(&self.block) {
            return self.drawn.zero();
        }
        self.stored.clear();
        let stored = pack(BlockNo::new(block), &self.block, &mut self.stored);
        self.drawn.block(xxh3_64(&self.block), u64::from(stored));
    }
}

fn text(answer: &Answer) -> String {
    let f = &answer.figures;
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let interval = |i: Interval| format!("{} ({} to {})", percent(i.middle), percent(i.low), percent(i.high));
    let saved =
        Interval { low: 1.0 - f.distinct.high, middle: 1.0 - f.distinct.middle, high: 1.0 - f.distinct.low };
    let mut lines = vec![
        format!(
            "{} of {} blocks of 4 KiB ({} of {}) read at random in {}; ranges hold in 95 of 100 cases",
            f.sampled,
            f.blocks,
            bytes_text(answer.read_bytes as f64),
            bytes_text(f.blocks as f64 * 4096.0),
            time_text(answer.seconds)
        ),
        format!("  all-zero blocks                     {}", interval(f.zero)),
        format!("  stored, of the blocks with data     {}", interval(f.compression)),
        format!("  stored, of the whole device         {}", interval(f.stored)),
    ];
    lines.push(if f.distinct.high - f.distinct.low > 0.5 {
        format!(
            "  doubles among blocks with data      between {} and {}: too few samples to say (--samples)",
            percent(saved.low),
            percent(saved.high)
        )
    } else {
        format!("  doubles among blocks with data      {}", interval(saved))
    });
    if answer.unreadable > 0 {
        lines.push(format!("  {} blocks could not be read and are left out", answer.unreadable));
    }
    if answer.ended_early {
        lines.push("  ended early: a smaller sample, as random as the whole".to_owned());
    }
    lines.push(format!("For `report`: --compression {:.0}%", (f.compression.high * 100.0).ceil()));
    lines.join("\n") + "\n"
}
