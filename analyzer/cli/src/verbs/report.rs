//! `report` and `what-if`: a profile or a trace read once, and what it says.

use std::path::PathBuf;
use std::time::Duration;

use analyzer_profile::cgp::Record;
use analyzer_profile::report::{Question, Report};
use analyzer_profile::{At, Event, Profile};
use serde::Deserialize;
use tap_block::WallTime;

use crate::failure::{Failure, say};
use crate::parse;
use crate::show;
use crate::stream::Merged;

/// What is asked of the models.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct QuestionArgs {
    /// RPOs to look at
    #[arg(long, value_delimiter = ',', value_parser = parse::duration, default_value = "1s,5s,15s,1m,5m")]
    rpo: Vec<Duration>,
    /// Shares of the time for which an RPO is to be kept, beside all of it
    #[arg(long, value_delimiter = ',', value_parser = parse::share, default_value = "99.9%,99%,95%")]
    coverage: Vec<f64>,
    /// The link that there is (100Mbit, 12.5MB/s)
    #[arg(long, value_parser = parse::rate)]
    link: Option<f64>,
    /// Hours in which the link is shaped: a TOML file with [[shape]] days, from, to, rate
    #[arg(long)]
    schedule: Option<PathBuf>,
    /// How much more will be written
    #[arg(long, value_parser = parse::share, default_value = "0%")]
    growth: f64,
    /// What a written byte becomes on the link (0.5 for half), instead of what was measured; unknown counts as 1
    #[arg(long, value_parser = parse::share)]
    compression: Option<f64>,
    /// For how long every write is to be kept
    #[arg(long, value_delimiter = ',', value_parser = parse::duration, default_value = "3d,2w")]
    retention: Vec<Duration>,
    /// What the spool holds while the link is away
    #[arg(long, value_parser = parse::size, default_value = "16GiB")]
    spool: u64,
    /// Outages to look at
    #[arg(long, value_delimiter = ',', value_parser = parse::duration, default_value = "5m,1h,8h")]
    outage: Vec<Duration>,
    /// What sealing, the round trip and applying take of an RPO
    #[arg(long, value_parser = parse::duration, default_value = "250ms")]
    hop: Duration,
    #[command(flatten)]
    deployment: DeploymentArgs,
}

/// What no trace of writes knows.
#[derive(Debug, Clone, clap::Args)]
struct DeploymentArgs {
    /// Bytes on the disks that are copied first [default: as far as the trace wrote]
    #[arg(long, value_parser = parse::size)]
    disk_size: Option<u64>,
    /// The network beside the servers, and between the gateway and servers that are restored
    #[arg(long, value_parser = parse::rate, default_value = "1Gbit")]
    local_link: f64,
    /// How long a gateway that copied beside the servers is on the road to its place
    #[arg(long, value_parser = parse::duration, default_value = "2d")]
    road: Duration,
    /// How long it takes until somebody has decided to recover
    #[arg(long, value_parser = parse::duration, default_value = "5m")]
    decide: Duration,
    /// How long it takes to open an image and attach it to a server
    #[arg(long, value_parser = parse::duration, default_value = "5s")]
    open: Duration,
    /// What system and application read until they serve
    #[arg(long, value_parser = parse::size, default_value = "1GiB")]
    start_reads: u64,
}

impl QuestionArgs {
    pub(crate) fn question(&self) -> Result<Question, Failure> {
        if self.rpo.iter().any(Duration::is_zero) {
            return Err(
                Failure::usage("an RPO of nothing would take an infinite link").fix("ask for 1s or more")
            );
        }
        if let Some(q) = self.coverage.iter().find(|q| !(0.0..=1.0).contains(*q)) {
            return Err(Failure::usage(format!("a coverage of {q} is no share of the time")));
        }
        let mut rpos = self.rpo.clone();
        rpos.sort_unstable();
        rpos.dedup();
        Ok(Question {
            rpos,
            coverage: self.coverage.clone(),
            link: self.rates()?,
            growth: self.growth,
            compression: self.compression,
            retention: self.retention.clone(),
            spool: self.spool,
            outages: self.outage.clone(),
            hop: self.hop,
            disk: self.deployment.disk_size,
            local: self.deployment.local_link,
            road: self.deployment.road,
            decide: self.deployment.decide,
            open: self.deployment.open,
            start: self.deployment.start_reads,
        })
    }

    fn rates(&self) -> Result<Option<[f64; 168]>, Failure> {
        let Some(path) = &self.schedule else { return Ok(self.link.map(|rate| [rate; 168])) };
        let failed =
            |why: String| Failure::usage(format!("cannot use the schedule {}", path.display())).because(why);
        let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
        let schedule: Schedule = toml::from_str(&text).map_err(|e| failed(e.to_string()))?;
        let base = self.link.ok_or_else(|| Failure::usage("--schedule shapes a link: give --link too"))?;
        schedule.rates(base).map(Some).map_err(failed)
    }
}

/// A shaping calendar: later entries win.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Schedule {
    #[serde(default)]
    shape: Vec<Shape>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shape {
    /// `mon` to `sun`; all when there are none.
    #[serde(default)]
    days: Vec<String>,
    /// The first hour, UTC.
    from: u8,
    /// The hour at which it ends; at or before `from` it goes on over midnight.
    to: u8,
    /// The rate in these hours.
    rate: String,
}

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl Schedule {
    fn rates(&self, base: f64) -> Result<[f64; 168], String> {
        let mut rates = [base; 168];
        for shape in &self.shape {
            let rate = parse::rate(&shape.rate)?;
            if shape.from > 23 || shape.to > 24 {
                return Err(format!("hours go from 0 to 24, not from {} to {}", shape.from, shape.to));
            }
            if let Some(day) = shape.days.iter().find(|d| !DAYS.contains(&d.as_str())) {
                return Err(format!("{day:?} is no day; there are {}", DAYS.join(", ")));
            }
            for hour in shape.hours() {
                if let Some(slot) = rates.get_mut(hour) {
                    *slot = rate;
                }
            }
        }
        Ok(rates)
    }
}

impl Shape {
    /// The hours of the week that it covers.
    fn hours(&self) -> impl Iterator<Item = usize> + '_ {
        let on = |day: &str| self.days.is_empty() || self.days.iter().any(|d| d == day);
        let (from, to) = (usize::from(self.from), usize::from(self.to));
        let length = if to > from { to - from } else { 24 - from + to };
        let days = DAYS.iter().enumerate().filter(move |(_, day)| on(day));
        days.flat_map(move |(day, _)| (0..length).map(move |h| (day * 24 + from + h) % 168))
    }
}

/// What is looked at.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct TraceArgs {
    /// Profiles or traces; several are joined by time
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Only what is at or behind this time (RFC 3339), or so long behind the start (90m)
    #[arg(long)]
    from: Option<String>,
    /// Only what is before this time, or so long behind the start
    #[arg(long)]
    to: Option<String>,
    /// Only these devices, by name
    #[arg(long, value_delimiter = ',')]
    device: Vec<String>,
}

impl TraceArgs {
    /// All of one file.
    pub(crate) fn whole(file: PathBuf) -> Self {
        Self { files: vec![file], from: None, to: None, device: Vec::new() }
    }

    /// Reads all of it once.
    pub(crate) fn profile(&self, rpos: &[Duration]) -> Result<Profile, Failure> {
        let mut merged = Merged::open(&self.files, None)?;
        let mut profile = Profile::new(rpos);
        let mut window = Window::new(self)?;
        while let Some(mut record) = merged.next()? {
            if window.narrow(&mut record) {
                profile.take(record);
            }
        }
        window.check()?;
        Ok(profile)
    }
}

/// The part of the trace that is looked at.
struct Window {
    from: Option<Edge>,
    to: Option<Edge>,
    first: Option<At>,
    wanted: Vec<String>,
    /// Numbers of wanted devices.
    devices: Vec<analyzer_profile::DeviceNo>,
    seen: Vec<String>,
}

#[derive(Clone, Copy)]
enum Edge {
    Wall(At),
    Behind(Duration),
}

impl Window {
    fn new(args: &TraceArgs) -> Result<Self, Failure> {
        let edge = |text: &Option<String>| text.as_deref().map(edge).transpose();
        let (from, to) = (edge(&args.from)?, edge(&args.to)?);
        let wanted = args.device.clone();
        Ok(Self { from, to, first: None, wanted, devices: Vec::new(), seen: Vec::new() })
    }

    /// Takes away what is outside; `false` when nothing is left.
    fn narrow(&mut self, record: &mut Record) -> bool {
        match record {
            Record::Device { device, name } => {
                let wanted = self.wanted.is_empty() || self.wanted.contains(name);
                if wanted {
                    self.devices.push(*device);
                }
                self.seen.push(name.clone());
                wanted
            }
            Record::Events(events) => {
                if let Some(first) = events.first() {
                    self.first.get_or_insert(first.at);
                }
                if self.narrows() {
                    events.retain(|Event { at, device, .. }| self.holds(*at, *device));
                }
                !events.is_empty()
            }
            Record::Counters { at, device, .. } => {
                self.first.get_or_insert(*at);
                self.holds(*at, *device)
            }
            Record::Content(content) => self.holds(content.from, content.device),
            Record::Source(_) | Record::Loss { .. } | Record::Tally(_) => true,
        }
    }

    fn narrows(&self) -> bool {
        self.from.is_some() || self.to.is_some() || !self.wanted.is_empty()
    }

    fn holds(&self, at: At, device: analyzer_profile::DeviceNo) -> bool {
        let first = self.first.unwrap_or(at);
        let place = |edge: Edge| match edge {
            Edge::Wall(at) => at,
            Edge::Behind(by) => first.plus(by),
        };
        self.from.is_none_or(|from| at >= place(from))
            && self.to.is_none_or(|to| at < place(to))
            && (self.wanted.is_empty() || self.devices.contains(&device))
    }

    fn check(&self) -> Result<(), Failure> {
        match self.wanted.iter().find(|name| !self.seen.contains(name)) {
            None => Ok(()),
            Some(name) => Err(Failure::new(format!("there is no device {name:?} in it"))
                .fix(format!("there are: {}", self.seen.join(" ")))),
        }
    }
}

fn edge(text: &str) -> Result<Edge, Failure> {
    if let Some(at) = WallTime::parse_rfc3339(text) {
        return Ok(Edge::Wall(at));
    }
    parse::duration(text).map(Edge::Behind).map_err(|_| {
        Failure::usage(format!("{text:?} is neither a time (RFC 3339) nor a length of time (90m)"))
    })
}

/// Says what link, spool and journal a profile or a trace takes
#[derive(Debug, clap::Args)]
pub struct ReportArgs {
    #[command(flatten)]
    trace: TraceArgs,
    #[command(flatten)]
    question: QuestionArgs,
    /// Writes the report as one HTML file that needs no network
    #[arg(long)]
    html: Option<PathBuf>,
    /// Writes the figures as JSON, `-` for standard output instead of the text
    #[arg(long)]
    json: Option<PathBuf>,
}

impl ReportArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let question = self.question.question()?;
        let mut profile = self.trace.profile(&question.rpos)?;
        if profile.first().is_none() {
            say("warning: there is no I/O in it");
        }
        let report = Report::of(&mut profile, &question);
        if let Some(path) = &self.html {
            show::write(path, &show::html(&report))?;
        }
        if let Some(path) = &self.json {
            show::write(path, &show::json(&report)?)?;
        }
        let piped = |path: &Option<PathBuf>| path.as_deref() == Some(std::path::Path::new("-"));
        if piped(&self.json) || piped(&self.html) {
            return Ok(());
        }
        show::print(&show::terminal(&report))
    }
}

/// The same for a link, a calendar, a compression or an outage that there is not yet
///
/// Prints the figures now beside those with --link, --schedule, --compression, --growth and --outage.
#[derive(Debug, clap::Args)]
pub struct WhatIfArgs {
    #[command(flatten)]
    trace: TraceArgs,
    #[command(flatten)]
    question: QuestionArgs,
    /// The link now, to compare with
    #[arg(long, value_parser = parse::rate)]
    link_now: Option<f64>,
    /// Writes both as JSON, `-` for standard output instead of the text
    #[arg(long)]
    json: Option<PathBuf>,
}

impl WhatIfArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let question = self.question.question()?;
        let now = self.link_now.map(|rate| [rate; 168]);
        let before = Question { link: now, growth: 0.0, compression: None, ..question.clone() };
        let mut profile = self.trace.profile(&question.rpos)?;
        let reports = [Report::of(&mut profile, &before), Report::of(&mut profile, &question)];
        if let Some(path) = &self.json {
            show::write(path, &show::json(&reports)?)?;
            if path.as_os_str() == "-" {
                return Ok(());
            }
        }
        let names = ["now".to_owned(), "what if".to_owned()];
        show::print(&show::side_by_side(&names, &reports))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_covers_hours_of_the_week() {
        let text = "[[shape]]\nfrom = 22\nto = 6\ndays = [\"sun\"]\nrate = \"10Mbit\"\n[[shape]]\nfrom = 8\nto = 9\nrate = \"1MB\"\n";
        let schedule: Schedule = toml::from_str(text).unwrap();
        let rates = schedule.rates(5.0).unwrap();
        assert_eq!((rates[0], rates[5], rates[6], rates[166]), (1.25e6, 1.25e6, 5.0, 1.25e6));
        assert_eq!(rates.iter().filter(|&&r| r == 1e6).count(), 7);
        let bad = "[[shape]]\nfrom = 25\nto = 6\nrate = \"1MB\"\n";
        assert!(toml::from_str::<Schedule>(bad).unwrap().rates(1.0).is_err());
    }
}
