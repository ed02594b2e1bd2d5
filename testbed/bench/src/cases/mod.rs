//! The cases, one file each, and what they have in common.

mod ingest;
mod iscsi;
mod memory;
mod nbd;
mod open;
mod read;
mod settle;
mod soak;
mod tap;

use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::load::{Done, Load, Served};
use crate::options::{Case, Options};
use crate::process::{Pid, Watch};
use crate::report::Report;
use crate::sample::{Latency, Sample};

/// Runs one.
pub(crate) fn run(case: Case, options: &Options, report: &mut Report) -> Result<()> {
    match case {
        Case::Ingest => ingest::run(options, report),
        Case::Tap => tap::run(options, report),
        Case::Open => open::run(options, report),
        Case::Read => read::run(options, report),
        Case::Nbd => nbd::run(options, report),
        Case::Iscsi => iscsi::run(options, report),
        Case::Settle => settle::run(options, report),
        Case::Memory => memory::run(options, report),
        Case::Soak => soak::run(options, report),
    }
}

/// A folder for one case, gone at its end.
fn folder(options: &Options) -> Result<TempDir> {
    let parent = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let made = tempfile::Builder::new().prefix("chronogate-bench-").tempdir_in(&parent);
    made.with_context(|| format!("cannot make a folder in {}", parent.display()))
}

/// Bytes of the disks in `tap`, `read`, `nbd`, `iscsi` and `memory`.
fn disk_size(options: &Options) -> u64 {
    options.pick(1 << 30, 64 << 20)
}

/// The places in the order of this round: there and back, so that nobody always goes first.
fn order(round: u32, places: usize) -> Vec<usize> {
    if round.is_multiple_of(2) { (0..places).collect() } else { (0..places).rev().collect() }
}

/// Runs a load against a server. The clock stops when `settled` returns.
fn measure(
    load: &Load,
    disk: &dyn Served,
    server: Pid,
    settled: impl FnOnce() -> Result<()>,
) -> Result<Sample> {
    let watch = Watch::begin(server)?;
    let cpu = server.cpu()?;
    let Done { ops, elapsed, waits } = load.run(disk)?;
    let begun = std::time::Instant::now();
    settled()?;
    Ok(Sample {
        ops,
        elapsed: elapsed + begun.elapsed(),
        cpu: server.cpu()?.saturating_sub(cpu),
        latency: Latency::of(waits),
        memory: server.memory()?.resident,
        others: watch.others()?,
    })
}

/// Milliseconds, for a figure.
fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
