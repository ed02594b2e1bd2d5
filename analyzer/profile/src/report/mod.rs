//! What a profile says: every figure that the report shows, in the shape of its JSON.
//!
//! The names and units of fields are the contract of `--json` (docs/analyzer.md): fields may be added, none goes.

mod answers;
mod deployment;
mod figures;

use std::time::Duration;

use serde::Serialize;

pub use answers::{bytes_text, hour_text, rate_text, time_text};
pub use deployment::{initial_text, recovery_text};

use crate::model::calendar::Calendar;
use crate::model::confidence::Confidence;
use crate::profile::Profile;

/// What is asked.
#[derive(Debug, Clone)]
pub struct Question {
    /// The RPOs, each at least a second.
    pub rpos: Vec<Duration>,
    /// The shares of the time for which an RPO is to be kept, beside all of it.
    pub coverage: Vec<f64>,
    /// The link that there is, in bytes per second for each hour of the week.
    pub link: Option<[f64; crate::model::calendar::WEEK]>,
    /// How much more is written later: 0.3 for 30 %.
    pub growth: f64,
    /// What a written byte becomes on the link: 0.5 for half. `None`: as measured where the trace has content, else 1, in both
    /// cases of whole blocks.
    pub compression: Option<f64>,
    /// For how long each write is kept.
    pub retention: Vec<Duration>,
    /// Bytes that a spool holds when the link is away.
    pub spool: u64,
    /// Outages to look at.
    pub outages: Vec<Duration>,
    /// What sealing, the round trip and applying take of an RPO.
    pub hop: Duration,
    /// Bytes on the disks. `None`: as far as the trace wrote.
    pub disk: Option<u64>,
    /// The network beside the servers, and between the gateway and servers that are restored, in bytes per second.
    pub local: f64,
    /// How long a gateway is on the road from the servers to its place.
    pub road: Duration,
    /// How long it takes until somebody has decided to recover.
    pub decide: Duration,
    /// How long it takes to open an image and to attach it.
    pub open: Duration,
    /// Bytes that system and application read until they serve.
    pub start: u64,
}

impl Default for Question {
    fn default() -> Self {
        let seconds = |list: &[u64]| list.iter().map(|&s| Duration::from_secs(s)).collect();
        Self {
            rpos: seconds(&[1, 5, 15, 60, 300]),
            coverage: vec![0.999, 0.99, 0.95],
            link: None,
            growth: 0.0,
            compression: None,
            retention: seconds(&[3 * 86400, 14 * 86400]),
            spool: 16 << 30,
            outages: seconds(&[300, 3600, 8 * 3600]),
            hop: Duration::from_millis(250),
            disk: None,
            local: 125e6,
            road: Duration::from_secs(2 * 86400),
            decide: Duration::from_secs(300),
            open: Duration::from_secs(5),
            start: 1 << 30,
        }
    }
}

/// The whole of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// `chronogate-analyzer/1`.
    pub schema: &'static str,
    /// From the first record to the last.
    pub duration_seconds: f64,
    /// When the first record was, in UTC; null when the trace does not say.
    pub begins: Option<String>,
    /// How much can be said.
    pub confidence: Confidence,
    /// The same for people.
    pub confidence_note: &'static str,
    /// The seven questions.
    pub answers: Vec<Answer>,
    /// Writes.
    pub writes: Writes,
    /// Reads, flushes and discards.
    pub others: Others,
    /// The smallest link for each RPO and coverage, as measured: without growth and compression.
    pub required_bandwidth: Vec<Required>,
    /// The link to buy for each RPO; null when the trace is too short for that.
    pub recommended: Option<Vec<Recommended>>,
    /// The smallest link over RPOs from 1 s to an hour, for the curve.
    pub curve: Vec<CurvePoint>,
    /// What the given link would have done; null when none was given.
    pub link: Option<LinkFigures>,
    /// What outages do.
    pub outages: Vec<OutageFigures>,
    /// The longest outage that the spool outlives wherever it falls; null when the whole trace fits into it.
    pub outage_survived_seconds: Option<u64>,
    /// The spool that was asked about.
    pub spool_bytes: u64,
    /// What history takes.
    pub retention: Vec<RetentionFigures>,
    /// How long until an application serves again.
    pub recovery: RecoveryFigures,
    /// How the disks get to the gateway first; null without a link, or when nothing was written and no size given.
    pub initial_sync: Option<InitialFigures>,
    /// What the content of writes was like; null when the trace has none.
    pub content: Option<ContentFigures>,
    /// What a written byte becomes on the link, and from what that is known.
    pub on_the_link: OnTheLink,
    /// Writing again what was written just before.
    pub coalescing: Option<CoalescingFigures>,
    /// Bytes written in each hour of the week, Monday 00:00 UTC first, the mean of the weeks in which it was seen; null when
    /// the trace has no wall clock.
    pub week: Option<Vec<f64>>,
    /// Writes over time: equal stretches, the mean and the busiest second of each.
    pub timeline: Vec<Stretch>,
    /// Growth over days; null under 14.
    pub trend: Option<TrendFigures>,
    /// Sizes of writes as (smallest, count) by powers of two.
    pub write_sizes: Vec<(u64, u64)>,
    /// Sizes of reads.
    pub read_sizes: Vec<(u64, u64)>,
    /// Latencies in nanoseconds as (smallest, count); empty when the trace has none.
    pub latency_nanos: Vec<(u64, u64)>,
    /// The devices' names.
    pub devices: Vec<String>,
    /// Where it was recorded.
    pub sources: Vec<String>,
    /// What was read, rejected, lost.
    pub quality: Quality,
}

/// One of the seven.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// The question.
    pub question: &'static str,
    /// The number; null when there is none, and the sentence says why.
    pub number: Option<f64>,
    /// Its unit.
    pub unit: &'static str,
    /// The answer.
    pub sentence: String,
}

/// Writes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Writes {
    /// How many.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Over the whole trace.
    pub mean_bytes_per_second: f64,
    /// In the busiest second, counted from the first record.
    pub peak_1s_bytes_per_second: u64,
    /// The busiest second over the mean.
    pub burstiness: f64,
    /// The share that went on where the write before ended.
    pub sequential_share: f64,
}

/// What does not travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Others {
    /// Reads.
    pub reads: u64,
    /// Their bytes.
    pub read_bytes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Discards.
    pub discards: u64,
}

/// The smallest link for an RPO.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Required {
    /// The RPO.
    pub rpo_seconds: f64,
    /// The share of the time for which it is kept.
    pub coverage: f64,
    /// From bins of a second.
    pub bytes_per_second: f64,
    /// From the events themselves; null for a share below 1, and for traces of sums.
    pub bytes_per_second_exact: Option<f64>,
}

/// A link to buy.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Recommended {
    /// The RPO.
    pub rpo_seconds: f64,
    /// What sealing, the round trip and applying leave of it.
    pub queue_seconds: f64,
    /// With growth and compression; null when nothing is left.
    pub bytes_per_second: Option<f64>,
}

/// A place on the curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CurvePoint {
    /// The RPO.
    pub rpo_seconds: f64,
    /// The smallest link.
    pub bytes_per_second: f64,
}

/// What a given link would have done.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LinkFigures {
    /// Its rate in the best hour.
    pub peak_bytes_per_second: f64,
    /// Its mean over the week.
    pub mean_bytes_per_second: f64,
    /// The RPO it keeps; null when it never catches up.
    pub achievable_rpo_seconds: Option<f64>,
    /// The most bytes that waited.
    pub peak_backlog_bytes: f64,
    /// The same when each second's bytes come evenly over it, with what the hops and a batch take: what is likely, not what is
    /// safe; null for a link that is shaped, and when it never catches up.
    pub likely: Option<LikelyFigures>,
    /// By RPO, how often it was broken.
    pub kept: Vec<KeptFigures>,
    /// The longest lag in each stretch of the timeline, in seconds; null where it never ends.
    pub lag_timeline: Vec<Option<f64>>,
}

/// What a given link is likely to do.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LikelyFigures {
    /// The longest that a record waits until it is durable.
    pub rpo_seconds: f64,
    /// The most bytes that wait.
    pub peak_backlog_bytes: f64,
}

/// How one RPO fared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KeptFigures {
    /// The RPO.
    pub rpo_seconds: f64,
    /// Broken stretches.
    pub violations: u64,
    /// Seconds in them.
    pub broken_seconds: u64,
    /// The longest of them, at most twenty.
    pub longest: Vec<ViolationFigures>,
}

/// A stretch of time with the RPO broken.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ViolationFigures {
    /// From the trace's start.
    pub start_seconds: u64,
    /// How long.
    pub seconds: u64,
    /// The longest lag; null when it never ends.
    pub peak_lag_seconds: Option<f64>,
}

/// What an outage does.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OutageFigures {
    /// How long the link is away.
    pub seconds: u64,
    /// The most that waits at its end.
    pub spool_bytes: u64,
    /// When the worst begins.
    pub worst_begins_seconds: u64,
    /// How long until nothing waits again, with the given link; null without a link, or when it never does.
    pub catch_up_seconds: Option<f64>,
    /// The most that waits by hour of the week in which it begins; null without a wall clock.
    pub spool_bytes_by_hour: Option<Vec<u64>>,
}

/// What history takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RetentionFigures {
    /// For how long every write is kept.
    pub seconds: u64,
    /// The journal's size: the blocks as they are stored, and the frames around them. The middle of what it lies between.
    pub bytes: f64,
    /// When the gateway's syncs each make many batches durable, and when each makes one.
    pub bytes_between: (f64, f64),
    /// Was the trace shorter than that, so that the mean was prolonged?
    pub extrapolated: bool,
    /// With every write for 48 h, one point a minute for 7 d and one an hour behind.
    pub tiered_bytes: Option<f64>,
}

/// What the content of writes was like. Intervals are those of 95 %.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ContentFigures {
    /// Whole blocks seen.
    pub blocks: u64,
    /// Blocks drawn from them and packed.
    pub sampled_blocks: u64,
    /// The share that was all zeroes, which do not travel.
    pub zero_share: f64,
    /// What a byte of a block becomes on the way; null when too few were drawn.
    pub stored_share: Option<f64>,
    /// Its interval.
    pub stored_share_interval: Option<(f64, f64)>,
    /// The share of the other blocks that had been written with the same content before; null when too few were drawn.
    pub repeated_share: Option<f64>,
    /// Its interval.
    pub repeated_share_interval: Option<(f64, f64)>,
}

/// What a written byte becomes on the link.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OnTheLink {
    /// The factor, without growth.
    pub share: f64,
    /// From what it is known.
    pub source: LinkSource,
    /// What rounding out to whole blocks makes of a written byte; in the factor unless that was given.
    pub whole_blocks: f64,
}

/// From what is known what a written byte becomes on the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkSource {
    /// Measured: the trace has content.
    Measured,
    /// Assumed: it was given.
    Assumed,
    /// Unknown: nothing is taken to shrink.
    Unknown,
}

/// How long until an application serves again. What is assumed is in it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RecoveryFigures {
    /// Assumed: the network between gateway and server.
    pub bytes_per_second: f64,
    /// Assumed: until somebody has decided.
    pub decide_seconds: f64,
    /// Assumed: to open an image and to attach it.
    pub open_seconds: f64,
    /// Assumed: what is read until the application serves.
    pub start_bytes: u64,
    /// Until it serves from an image; null without a network.
    pub image_seconds: Option<f64>,
    /// Until its disks are copied back first; null when their size is not known.
    pub copied_back_seconds: Option<f64>,
    /// The share of the seconds with reads whose reads that network carries; null when the trace has none.
    pub reads_carried_share: Option<f64>,
}

/// How the disks get to the gateway first.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct InitialFigures {
    /// What there is to copy.
    pub disk_bytes: u64,
    /// Was that given? Else it is as far as the trace wrote, and there may be more.
    pub disk_known: bool,
    /// Over the link, while new writes go on; null: never.
    pub link_seconds: Option<f64>,
    /// By a gateway that is carried; null: never.
    pub carried_seconds: Option<f64>,
    /// What is sent after it has arrived.
    pub carried_catch_up_bytes: f64,
    /// The spool does not hold what is written on the road.
    pub carried_gap: bool,
    /// What to do.
    pub advice: Advice,
}

/// How to copy the disks first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Advice {
    /// Over the link.
    Link,
    /// Carry the gateway.
    Carry,
    /// Neither ends: a faster link first.
    FasterLink,
}

/// The share of written blocks that one point per window keeps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CoalescingFigures {
    /// One a second.
    pub second: f64,
    /// One a minute.
    pub minute: f64,
    /// One an hour.
    pub hour: f64,
    /// One a day.
    pub day: f64,
    /// Distinct bytes written, estimated from a sample.
    pub working_set_bytes: f64,
}

/// A stretch of the timeline.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Stretch {
    /// From the trace's start.
    pub start_seconds: u64,
    /// Bytes written per second.
    pub mean_bytes_per_second: f64,
    /// Bytes written in its busiest second.
    pub peak_bytes_per_second: u64,
}

/// Growth.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TrendFigures {
    /// Bytes of the median day.
    pub bytes_per_day: f64,
    /// How much more each day.
    pub growth_per_day: f64,
    /// The middle 80 % of the days' slopes.
    pub growth_per_day_interval: (f64, f64),
    /// Bytes a day in 90 days, if it goes on so.
    pub in_90_days: f64,
}

/// How good the data is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quality {
    /// I/Os that imports took.
    pub accepted: u64,
    /// Lines and records that are none.
    pub ignored: u64,
    /// Those that are neither.
    pub rejected: u64,
    /// Events that came behind one of a later time.
    pub backwards: u64,
    /// Events that a recorder dropped.
    pub lost_events: u64,
    /// Time in which a recorder did not run.
    pub lost_seconds: f64,
}

impl Report {
    /// Computes everything. The exact figures are those of the RPOs that the profile was made for.
    #[must_use]
    pub fn of(profile: &mut Profile, question: &Question) -> Self {
        profile.settle();
        let profile = &*profile;
        figures::Figures { profile, bins: profile.settled(), question }.report()
    }
}

/// The given link as a calendar of this trace.
fn calendar(question: &Question, begins: u64) -> Option<Calendar> {
    question.link.map(|rates| Calendar::new(rates, begins))
}
