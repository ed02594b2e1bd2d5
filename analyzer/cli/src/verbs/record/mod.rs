//! `record`: a machine's disks, or what a tap's guests do, into a profile, until told to stop; what was recorded stays, also
//! after `kill -9`.

mod content;
mod counters;
mod events;
mod target;

use std::path::{Path, PathBuf};
use std::time::Duration;

use analyzer_profile::cgp::{Clock, Mode, Reader, Record, Source, encode};
use analyzer_profile::{At, DeviceNo};
use tap_block::{Clock as _, WallTime};
use tap_disk::{AppendFile, RealClock};

use super::told_to_stop;
use crate::failure::{Failure, say};
use crate::parse;
use content::Listening;
use counters::Counting;
use events::Tracing;
pub(crate) use target::{Target, all};

/// How often what was gathered is made durable.
const KEEP_EACH: Duration = Duration::from_secs(5);
/// Until somebody ends it: longer than any machine runs (272 years), and within what timers take.
const FOR_EVER: Duration = Duration::from_secs(1 << 33);
/// How often the traced events are taken from the kernel.
const TAKE_EACH: Duration = Duration::from_millis(100);
/// How often our own share of the processor is looked at.
const LOOK_EACH: Duration = Duration::from_secs(10);

/// Records what disks of this machine are written
///
/// Safe on a production server: it only reads, and says what it cost. Ctrl-C ends it and keeps what was recorded; the same command
/// goes on with the same file.
#[derive(Debug, clap::Args)]
pub struct RecordArgs {
    /// The devices, by name or path; `devices` lists them
    #[arg(long, required_unless_present = "tap", value_delimiter = ',')]
    device: Vec<String>,
    /// Records what the guests of a tap do, with samples of what they write: the unix:PATH of its --profile
    #[arg(long, value_name = "unix:PATH", value_parser = content::socket, conflicts_with = "device")]
    tap: Option<PathBuf>,
    /// How long; until Ctrl-C when it is not given
    #[arg(long = "for", value_parser = parse::duration)]
    time: Option<Duration>,
    /// Where the profile goes
    #[arg(long)]
    out: PathBuf,
    /// counters: sums by the second, no privilege needed; events: each I/O, needs root and tracefs; content: what --tap tells
    /// [default: counters, content with --tap]
    #[arg(long, value_enum)]
    mode: Option<RecordMode>,
    /// Records how long each I/O took as well; with --mode events. It more than doubles the cost
    #[arg(long, conflicts_with = "tap")]
    latency: bool,
    /// Our own share of one processor; above it events are left out for a while, and that is recorded
    #[arg(long, value_parser = parse::share, default_value = "3%")]
    max_overhead: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum RecordMode {
    Counters,
    Events,
    Content,
}

/// What gathers.
enum Gathering {
    Counters(Counting),
    Events(Box<Tracing>),
}

impl Gathering {
    /// What a profile says of where it is from.
    const fn source(&self) -> (Mode, &'static str) {
        match self {
            Self::Counters(_) => (Mode::Counters, "diskstats"),
            Self::Events(_) => (Mode::Events, "block_bio_queue"),
        }
    }

    fn take(&mut self, now: WallTime) -> Result<Vec<Record>, Failure> {
        match self {
            Self::Counters(counting) => counting.take(now),
            Self::Events(tracing) => tracing.take(),
        }
    }

    /// What is left when it ends.
    fn last(&mut self) -> Result<Vec<Record>, Failure> {
        match self {
            Self::Counters(counting) => counting.last(),
            Self::Events(tracing) => tracing.last(),
        }
    }
}

impl RecordArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Failure::new("cannot wait for time and signals").because(e))?;
        let mode = self.mode.unwrap_or(match self.tap {
            Some(_) => RecordMode::Content,
            None => RecordMode::Counters,
        });
        match (mode, &self.tap) {
            (RecordMode::Content, Some(tap)) => runtime.block_on(self.listen(tap)),
            (RecordMode::Content, None) => {
                Err(Failure::usage("the content of writes passes through a tap only")
                    .fix("start the tap with --profile unix:PATH, and give that as --tap"))
            }
            (RecordMode::Counters | RecordMode::Events, Some(_)) => {
                Err(Failure::usage("a tap tells each I/O with its content").fix("leave out --mode"))
            }
            (RecordMode::Counters, None) if self.latency => {
                Err(Failure::usage("sums by the second do not tell how long an I/O took")
                    .fix("add --mode events"))
            }
            (mode, None) => self.watch(mode, &runtime),
        }
    }

    fn watch(&self, mode: RecordMode, runtime: &tokio::runtime::Runtime) -> Result<(), Failure> {
        let targets = target::chosen(&self.device)?;
        let mut recording = Recording::open(&self.out)?;
        let gathering = if mode == RecordMode::Events {
            Gathering::Events(Box::new(Tracing::start(targets.clone(), self.latency)?))
        } else {
            Gathering::Counters(Counting::new(targets.clone(), RealClock.wall()))
        };
        recording.begin(&targets, gathering.source())?;
        runtime.block_on(self.gather(gathering, recording))
    }

    /// Waits until the time is over or somebody ends it; from now on a signal is not missed.
    fn until_told(&self) -> Result<impl Future<Output = ()> + use<>, Failure> {
        let end = tokio::time::sleep(self.time.unwrap_or(FOR_EVER));
        let told = told_to_stop()?;
        Ok(async move {
            tokio::select! { () = end => {}, () = told => {} }
        })
    }

    async fn listen(&self, tap: &Path) -> Result<(), Failure> {
        let mut listening = Listening::start(tap).await?;
        let mut recording = Recording::open(&self.out)?;
        recording.go_on()?;
        let mut keep = tokio::time::interval(KEEP_EACH);
        let cost = Cost::begin();
        let mut stop = std::pin::pin!(self.until_told()?);
        self.say_begun();
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                _ = keep.tick() => recording.keep()?,
                taken = listening.take(&mut recording) => taken?,
            }
        }
        recording.finish(&cost)
    }

    async fn gather(&self, mut gathering: Gathering, mut recording: Recording) -> Result<(), Failure> {
        let counts = matches!(gathering, Gathering::Counters(_));
        let each = if counts { Duration::from_secs(1) } else { TAKE_EACH };
        let mut tick = tokio::time::interval(each);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut keep = tokio::time::interval(KEEP_EACH);
        let mut look = tokio::time::interval(LOOK_EACH);
        let mut cost = Cost::begin();
        let mut stop = std::pin::pin!(self.until_told()?);
        self.say_begun();
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                _ = tick.tick() => recording.add(&gathering.take(RealClock.wall())?)?,
                _ = keep.tick() => recording.keep()?,
                _ = look.tick() => if let Gathering::Events(tracing) = &mut gathering {
                    tracing.spend(cost.recent(), self.max_overhead)?;
                },
            }
        }
        recording.add(&gathering.last()?)?;
        recording.finish(&cost)
    }

    fn say_begun(&self) {
        say(&format!("recording into {}; Ctrl-C ends it and keeps what was recorded", self.out.display()));
    }
}

/// The file, and what is not in it yet.
struct Recording {
    file: AppendFile,
    pending: Vec<u8>,
    taken: u64,
    /// The last time in what was there before.
    resumed: Option<At>,
}

impl Recording {
    /// Opens the file: a new one, or one to go on with, cut behind its last whole frame.
    fn open(path: &Path) -> Result<Self, Failure> {
        let failed =
            |e: std::io::Error| Failure::new(format!("cannot record into {}", path.display())).because(e);
        let resumed = if path.exists() { Some(scan(path)?) } else { None };
        let file = AppendFile::open(path).map_err(failed)?;
        if let Some((end, _)) = resumed {
            file.cut(end).map_err(failed)?;
        }
        Ok(Self { file, pending: Vec::new(), taken: 0, resumed: resumed.and_then(|(_, last)| last) })
    }

    fn begin(&mut self, targets: &[Target], (mode, origin): (Mode, &str)) -> Result<(), Failure> {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        let mut first =
            vec![Record::Source(Source { clock: Clock::Wall, mode, host, origin: origin.to_owned() })];
        first.extend(
            targets
                .iter()
                .enumerate()
                .map(|(n, t)| Record::Device { device: number(n), name: t.name.clone() }),
        );
        self.add(&first)?;
        self.go_on()
    }

    /// Notes the pause since what was there before.
    fn go_on(&mut self) -> Result<(), Failure> {
        if let Some(from) = self.resumed.take() {
            let to = RealClock.wall();
            say(&format!("going on behind a pause of {} s", to.since(from).as_secs()));
            self.add(&[Record::Loss { from, to, events: 0 }])?;
        }
        self.keep()
    }

    /// Keeps the rest, and says what it was and cost.
    fn finish(mut self, cost: &Cost) -> Result<(), Failure> {
        self.keep()?;
        say(&format!(
            "{} I/Os recorded; own share of a processor: {:.3} %",
            self.taken,
            cost.whole() * 100.0
        ));
        Ok(())
    }

    fn add(&mut self, records: &[Record]) -> Result<(), Failure> {
        for record in records {
            self.taken += match record {
                Record::Events(events) => tap_block::units::count(events.len()),
                Record::Counters { bin, .. } => u64::from(bin.reads) + u64::from(bin.writes),
                _ => 0,
            };
            encode(record, &mut self.pending).map_err(|e| Failure::new("cannot record").because(e))?;
        }
        Ok(())
    }

    fn keep(&mut self) -> Result<(), Failure> {
        if !self.pending.is_empty() {
            self.file.append(&self.pending).map_err(|e| {
                Failure::new("cannot record on").because(e).fix("what was recorded before is in the file")
            })?;
            self.pending.clear();
        }
        Ok(())
    }
}

/// Where the whole frames of a profile end, and its last time.
fn scan(path: &Path) -> Result<(u64, Option<At>), Failure> {
    use std::io::Read as _;
    let failed = |e: &dyn std::fmt::Display| {
        Failure::new(format!("cannot go on with {}", path.display()))
            .because(e.to_string())
            .fix("record into another file")
    };
    let mut file = std::fs::File::open(path).map_err(|e| failed(&e))?;
    let (mut reader, mut pushed, mut last) = (Reader::default(), 0_u64, None);
    let mut piece = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut piece).map_err(|e| failed(&e))?;
        if n == 0 {
            break;
        }
        let bytes = piece.get(..n).unwrap_or(&[]);
        if pushed == 0 && !bytes.starts_with(b"cgpf") {
            return Err(failed(&"it is no profile"));
        }
        reader.push(bytes);
        pushed += tap_block::units::count(n);
        while let Some(found) = reader.next(false).map_err(|e| failed(&e))? {
            last = last.max(last_time(&found));
        }
    }
    Ok((pushed - reader.waiting(), last))
}

fn last_time(found: &analyzer_profile::cgp::Found) -> Option<At> {
    match found {
        analyzer_profile::cgp::Found::Record(Record::Events(events)) => events.iter().map(|e| e.at).max(),
        analyzer_profile::cgp::Found::Record(Record::Counters { at, .. }) => {
            Some(at.plus(Duration::from_secs(1)))
        }
        _ => None,
    }
}

fn number(n: usize) -> DeviceNo {
    DeviceNo::new(u32::try_from(n).unwrap_or(u32::MAX))
}

/// What we cost ourselves, from the kernel's account of this process.
struct Cost {
    begun: (u64, f64),
    last: (u64, f64),
}

impl Cost {
    fn begin() -> Self {
        let now = Self::now();
        Self { begun: now, last: now }
    }

    /// Nanoseconds on the clock, seconds of processor.
    fn now() -> (u64, f64) {
        let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        (RealClock.monotonic().nanos(), spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9)
    }

    fn share(from: (u64, f64), to: (u64, f64)) -> f64 {
        (to.1 - from.1) / ((to.0 - from.0) as f64 / 1e9).max(0.001)
    }

    /// Since the last call.
    fn recent(&mut self) -> f64 {
        let now = Self::now();
        let share = Self::share(self.last, now);
        self.last = now;
        share
    }

    /// Since the beginning.
    fn whole(&self) -> f64 {
        Self::share(self.begun, Self::now())
    }
}
