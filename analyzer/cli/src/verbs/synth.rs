//! `synth`: a made-up trace whose answers are known.

use std::path::PathBuf;
use std::time::Duration;

use analyzer_profile::cgp::{Clock, EVENTS_PER_FRAME, Mode, Record, Source};
use analyzer_profile::synth::Plan;
use analyzer_profile::{At, DeviceNo};
use tap_block::WallTime;

use super::Output;
use crate::failure::{Failure, say};
use crate::parse;

/// Makes up a trace whose answers are known
///
/// Steady writes with a burst every so often, offsets at random: b bytes a second in bursts of n seconds. The smallest link for
/// an RPO of R is then n b / (n - 1 + R), unless R is so long that the next burst comes before it.
#[derive(Debug, clap::Args)]
pub struct SynthArgs {
    /// Where it goes, `-` for standard output
    #[arg(long)]
    out: PathBuf,
    /// How many I/Os
    #[arg(long, default_value_t = 1_000_000)]
    count: u64,
    /// Writes in a quiet second
    #[arg(long, default_value_t = 100)]
    base: u64,
    /// Writes in a second of a burst
    #[arg(long, default_value_t = 10_000)]
    burst: u64,
    /// How long a burst is
    #[arg(long, value_parser = parse::duration, default_value = "5s")]
    burst_for: Duration,
    /// From one burst to the next
    #[arg(long, value_parser = parse::duration, default_value = "1m")]
    every: Duration,
    /// The length of an I/O
    #[arg(long, value_parser = parse::size, default_value = "4KiB")]
    block: u64,
    /// The size of the device
    #[arg(long, value_parser = parse::size, default_value = "64GiB")]
    size: u64,
    /// Every so many-th I/O is a read; 0 for none
    #[arg(long, default_value_t = 0)]
    read_every: u64,
    /// When it begins (RFC 3339)
    #[arg(long, default_value = "2026-01-05T00:00:00Z")]
    start: String,
    /// Where the offsets come from
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl SynthArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let plan = self.plan()?;
        let mut out = Output::create(&self.out)?;
        let origin = "synth".to_owned();
        out.record(&Record::Source(Source {
            clock: Clock::Wall,
            mode: Mode::Synth,
            host: String::new(),
            origin,
        }))?;
        out.record(&Record::Device { device: DeviceNo::new(0), name: "synth".to_owned() })?;
        let mut events = plan.events();
        loop {
            let frame: Vec<_> = events.by_ref().take(EVENTS_PER_FRAME).collect();
            if frame.is_empty() {
                break;
            }
            out.record(&Record::Events(frame))?;
        }
        out.finish()?;
        say(&format!("{} I/Os made up", plan.count));
        Ok(())
    }

    fn plan(&self) -> Result<Plan, Failure> {
        let start = WallTime::parse_rfc3339(&self.start).ok_or_else(|| {
            Failure::usage(format!("--start {:?} is no time like 2026-01-31T12:00:00Z", self.start))
        })?;
        if self.block == 0 {
            return Err(Failure::usage("--block 0B is no I/O"));
        }
        Ok(Plan {
            start: At::from_nanos(start.nanos()),
            count: self.count,
            base: self.base,
            burst: self.burst,
            burst_seconds: self.burst_for.as_secs(),
            period: self.every.as_secs(),
            length: self.block,
            size: self.size,
            read_every: self.read_every,
            seed: self.seed,
        })
    }
}
