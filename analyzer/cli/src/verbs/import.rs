//! `import`: traces of other programs into a profile.

use std::path::PathBuf;

use analyzer_profile::cgp::{Clock, EVENTS_PER_FRAME, Record};
use analyzer_profile::import::Format;
use analyzer_profile::{At, Event};
use tap_block::WallTime;

use super::Output;
use crate::failure::{Failure, say};
use crate::stream::Merged;

/// Reads traces of other programs into a profile
///
/// Several files are one trace: the processors of a blktrace, the hours of a long one. They may be compressed with gzip, zstd,
/// xz or bzip2.
#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// The traces, `-` for standard input
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Where the profile goes, `-` for standard output
    #[arg(long)]
    out: PathBuf,
    /// The format; told by the content unless it is given
    #[arg(long, value_parser = format, default_value = "auto")]
    format: FormatArg,
    /// When the first record was (RFC 3339), for traces whose times count from a start of their own
    #[arg(long)]
    start: Option<String>,
}

#[derive(Debug, Clone, Copy)]
struct FormatArg(Option<Format>);

fn format(name: &str) -> Result<FormatArg, String> {
    let known = || Format::ALL.map(Format::name).join(", ");
    match Format::named(name) {
        None if name != "auto" => Err(format!("there is no format {name:?}; there are auto, {}", known())),
        format => Ok(FormatArg(format)),
    }
}

impl ImportArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let start = self.start.as_deref().map(|text| {
            WallTime::parse_rfc3339(text).ok_or_else(|| {
                Failure::usage(format!("--start {text:?} is no time like 2026-01-31T12:00:00Z"))
            })
        });
        let mut shift = Shift { start: start.transpose()?, by: None };
        let mut merged = Merged::open(&self.files, self.format.0)?;
        let mut out = Output::create(&self.out)?;
        let mut taken = 0_u64;
        while let Some(mut record) = merged.next()? {
            shift.apply(&mut record);
            if let Record::Events(events) = record {
                taken += tap_block::units::count(events.len());
                for frame in events.chunks(EVENTS_PER_FRAME) {
                    out.record(&Record::Events(frame.to_vec()))?;
                }
            } else {
                out.record(&record)?;
            }
        }
        out.finish()?;
        say(&format!("{taken} I/Os imported into {}", self.out.display()));
        Ok(())
    }
}

/// Moves a trace so that its first record is at a given time.
struct Shift {
    start: Option<WallTime>,
    by: Option<u64>,
}

impl Shift {
    fn apply(&mut self, record: &mut Record) {
        let Some(start) = self.start else { return };
        match record {
            Record::Source(source) => source.clock = Clock::Wall,
            Record::Events(events) => {
                for Event { at, .. } in events {
                    let by = *self.by.get_or_insert_with(|| start.nanos().wrapping_sub(at.nanos()));
                    *at = At::from_nanos(at.nanos().wrapping_add(by));
                }
            }
            _ => {}
        }
    }
}
