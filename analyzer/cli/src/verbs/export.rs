//! `export`: a profile as a trace of another format, or several as one profile.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use analyzer_profile::cgp::{Clock, Record};
use analyzer_profile::import::{Format, write};
use analyzer_profile::{At, Event};

use super::Output;
use crate::failure::{Failure, say};
use crate::stream::Merged;

/// Writes a profile as a trace of another format, or several profiles as one
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// Profiles or traces; several are joined by time
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Where it goes, `-` for standard output
    #[arg(long)]
    out: PathBuf,
    /// cgp, blktrace, blkreplay, fio2, fio3, msr, systor, tencent, alibaba, vscsi1, vscsi2, mqsim, or seconds: a CSV of the
    /// traffic by the second
    #[arg(long, value_parser = target)]
    format: Target,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Cgp,
    Seconds,
    Trace(Format),
}

fn target(name: &str) -> Result<Target, String> {
    match name {
        "cgp" => Ok(Target::Cgp),
        "seconds" => Ok(Target::Seconds),
        _ => match Format::named(name) {
            Some(format) if format.is_written() => Ok(Target::Trace(format)),
            _ => Err(format!("there is no export as {name:?}")),
        },
    }
}

impl ExportArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut merged = Merged::open(&self.files, None)?;
        let mut out = Output::create(&self.out)?;
        match self.format {
            Target::Cgp => {
                while let Some(record) = merged.next()? {
                    out.record(&record)?;
                }
            }
            Target::Seconds => seconds(&mut merged, &mut out)?,
            Target::Trace(format) => trace(format, &mut merged, &mut out)?,
        }
        out.finish()
    }
}

fn seconds(merged: &mut Merged, out: &mut Output) -> Result<(), Failure> {
    let mut profile = analyzer_profile::Profile::new(&[]);
    while let Some(record) = merged.next()? {
        profile.take(record);
    }
    out.bytes(b"second,writes,write_bytes,reads,read_bytes\n")?;
    for (second, bin) in profile.bins().iter() {
        let line = format!("{second},{},{},{},{}\n", bin.writes, bin.write_bytes, bin.reads, bin.read_bytes);
        out.bytes(line.as_bytes())?;
    }
    Ok(())
}

fn trace(format: Format, merged: &mut Merged, out: &mut Output) -> Result<(), Failure> {
    out.bytes(match format {
        Format::Fio2 => b"fio version 2 iolog\n",
        Format::Fio3 => b"fio version 3 iolog\n",
        Format::Blkreplay => b"start ; sector; length ; op ;  replay_delay=0 ; replay_duration=0\n",
        Format::Systor => b"Timestamp,Response,IOType,LUN,Offset,Size\n",
        _ => b"",
    })?;
    let mut writer = Writer::new(format);
    let (mut text, mut sums) = (Vec::new(), false);
    while let Some(record) = merged.next()? {
        match record {
            Record::Source(source) => writer.wall |= source.clock == Clock::Wall,
            Record::Device { device, name } => writer.name(device, &name),
            Record::Events(events) => {
                events.iter().for_each(|event| writer.event(event, &mut text));
                out.bytes(&text)?;
                text.clear();
            }
            Record::Counters { .. } => sums = true,
            _ => {}
        }
    }
    if sums {
        return Err(Failure::new("this profile holds sums, not I/Os").fix("export it with --format seconds"));
    }
    if writer.left_out > 0 {
        say(&format!(
            "warning: {} flushes, discards and the like have no form in {}; left out",
            writer.left_out,
            format.name()
        ));
    }
    Ok(())
}

struct Writer {
    format: Format,
    names: HashMap<analyzer_profile::DeviceNo, String>,
    /// Devices that fio has been told of.
    opened: HashSet<analyzer_profile::DeviceNo>,
    /// Do the times count from 1970?
    wall: bool,
    /// The first time, for formats whose clock begins with the trace.
    first: Option<At>,
    before: At,
    sequence: u32,
    left_out: u64,
}

impl Writer {
    fn new(format: Format) -> Self {
        let (names, before) = (HashMap::new(), At::default());
        Self {
            format,
            names,
            opened: HashSet::new(),
            wall: false,
            first: None,
            before,
            sequence: 0,
            left_out: 0,
        }
    }

    /// The event with its time as the format counts it.
    fn timed(&mut self, event: &Event) -> Event {
        let first = *self.first.get_or_insert(event.at);
        let moves = self.wall && self.format.clock() == Clock::Relative;
        Event {
            at: if moves { At::from_nanos(event.at.nanos().saturating_sub(first.nanos())) } else { event.at },
            ..*event
        }
    }

    /// The name in a form that the format can hold: it numbers volumes, or has commas and blanks of its own.
    fn name(&mut self, device: analyzer_profile::DeviceNo, name: &str) {
        let numeric = name.bytes().all(|b| b.is_ascii_digit()) && !name.is_empty();
        let plain: String =
            name.chars().map(|c| if c.is_whitespace() || c == ',' { '_' } else { c }).collect();
        let shown = match self.format {
            Format::Tencent | Format::Mqsim if !numeric => device.get().to_string(),
            Format::Msr => match name.rsplit_once(',') {
                Some((host, disk)) if disk.bytes().all(|b| b.is_ascii_digit()) && !host.contains(',') => {
                    name.to_owned()
                }
                _ => format!("{plain},{}", device.get()),
            },
            Format::Blktrace => name.to_owned(),
            Format::Fio2 | Format::Fio3 => name.replace(char::is_whitespace, "_"),
            _ => plain,
        };
        self.names.insert(device, shown);
    }

    fn event(&mut self, event: &Event, out: &mut Vec<u8>) {
        let event = &self.timed(event);
        let name = self.names.get(&event.device).map_or("0", String::as_str);
        if matches!(self.format, Format::Fio2 | Format::Fio3) && self.opened.insert(event.device) {
            // fio replays nothing of a file that was not opened.
            for action in ["add", "open"] {
                let time = if self.format == Format::Fio3 {
                    format!("{} ", event.at.nanos() / 1000)
                } else {
                    String::new()
                };
                out.extend_from_slice(format!("{time}{name} {action}\n").as_bytes());
            }
        }
        self.sequence = self.sequence.wrapping_add(1);
        if write(self.format, event, name, self.before, self.sequence, out) {
            self.before = self.before.max(event.at);
        } else {
            self.left_out += 1;
        }
    }
}
