//! Benchmarks: every figure is a ratio against a raw baseline or a peer, measured alternately in one run.
//!
//! ```text
//!   case ──► contestants, one after the other, the order turned each round ──► Sample
//!              │ ours: the store in this process, or `chronogate` as a process      │
//!              └ theirs: raw files, nbdkit, qemu-nbd                                ▼
//!                                            Table: median, spread, ratio, CPU, memory ──► history.jsonl
//! ```
//!
//! An absolute time says little on a machine that others share; two medians of one run say more. Each table
//! ends with the commands that give it.

mod cases;
mod image;
mod iscsi;
mod journal;
mod load;
mod machine;
mod nbd;
mod options;
mod payload;
mod process;
mod report;
mod sample;
mod server;
mod socket;
mod tgt;
mod up;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::options::Options;
use crate::report::Report;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("testbed-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the cases asked for; one that fails does not keep the others from running.
fn run(options: &Options) -> Result<()> {
    let mut report = Report::begin(options)?;
    for case in options.cases() {
        eprintln!("== {case}");
        if let Err(error) = cases::run(case, options, &mut report) {
            report.failed(case, &error);
        }
    }
    report.end()
}
