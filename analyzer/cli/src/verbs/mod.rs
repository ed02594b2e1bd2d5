//! The verbs: what each takes on the command line, and does.

mod compare;
mod devices;
mod export;
mod import;
mod record;
mod report;
mod sample;
mod synth;
mod throughput;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use analyzer_profile::cgp::{Record, encode};

use crate::failure::Failure;

/// What the analyzer does.
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Lists the disks of this machine, what was written to each since boot, and what lies on what
    Devices(devices::DevicesArgs),
    /// Records what disks of this machine are written
    Record(record::RecordArgs),
    /// Reads traces of other programs into a profile
    Import(import::ImportArgs),
    /// Says what link, spool and journal a profile or a trace takes
    Report(report::ReportArgs),
    /// The same for a link, a calendar, a compression or an outage that there is not yet
    WhatIf(report::WhatIfArgs),
    /// Puts the figures of several profiles beside each other
    Compare(compare::CompareArgs),
    /// Writes a profile as a trace of another format, or several profiles as one
    Export(export::ExportArgs),
    /// Makes up a trace whose answers are known
    Synth(synth::SynthArgs),
    /// Says what compression and deduplication would save of the data at rest
    Sample(sample::SampleArgs),
    /// Measures what a link carries
    Throughput(throughput::ThroughputArgs),
}

impl Verb {
    /// Does it, and tells on standard error when that fails.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let done = match self {
            Self::Devices(args) => args.run(),
            Self::Record(args) => args.run(),
            Self::Import(args) => args.run(),
            Self::Report(args) => args.run(),
            Self::WhatIf(args) => args.run(),
            Self::Compare(args) => args.run(),
            Self::Export(args) => args.run(),
            Self::Synth(args) => args.run(),
            Self::Sample(args) => args.run(),
            Self::Throughput(args) => args.run(),
        };
        done.map_or_else(|failure| failure.report(), |()| ExitCode::SUCCESS)
    }
}

/// Ctrl-C, or SIGTERM: from now on they are not missed, and what comes back waits for one.
fn told_to_stop() -> Result<impl Future<Output = ()>, Failure> {
    let on = |kind| {
        let signal = tokio::signal::unix::signal(kind);
        signal.map_err(|e| Failure::new("cannot wait for signals").because(e))
    };
    let mut interrupt = on(tokio::signal::unix::SignalKind::interrupt())?;
    let mut terminate = on(tokio::signal::unix::SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// A file that is there when it is whole, or standard output for `-`.
struct Output {
    out: BufWriter<Box<dyn Write>>,
    /// Where it is written, and what it is called at the end.
    rename: Option<(PathBuf, PathBuf)>,
    name: String,
    frame: Vec<u8>,
}

impl Output {
    fn create(path: &Path) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let (sink, rename): (Box<dyn Write>, _) = if path == Path::new("-") {
            (Box::new(std::io::stdout().lock()), None)
        } else {
            let mut part = path.as_os_str().to_owned();
            part.push(".part");
            let part = PathBuf::from(part);
            let file = File::create(&part);
            let file =
                file.map_err(|e| Failure::new(format!("cannot make {}", part.display())).because(e))?;
            (Box::new(file), Some((part, path.to_owned())))
        };
        Ok(Self { out: BufWriter::with_capacity(1 << 20, sink), rename, name, frame: Vec::new() })
    }

    fn record(&mut self, record: &Record) -> Result<(), Failure> {
        let mut frame = std::mem::take(&mut self.frame);
        frame.clear();
        encode(record, &mut frame).map_err(|e| Failure::new("a record cannot be written").because(e))?;
        self.bytes(&frame)?;
        self.frame = frame;
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.out.write_all(bytes).map_err(|e| Failure::new(format!("cannot write {}", self.name)).because(e))
    }

    fn finish(mut self) -> Result<(), Failure> {
        let failed = |e: std::io::Error| Failure::new(format!("cannot write {}", self.name)).because(e);
        self.out.flush().map_err(failed)?;
        match &self.rename {
            Some((from, to)) => std::fs::rename(from, to).map_err(failed),
            None => Ok(()),
        }
    }
}
