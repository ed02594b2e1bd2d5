//! The figures of a report, each from its model.

use std::time::Duration;

use super::{
    Answer, CoalescingFigures, ContentFigures, CurvePoint, KeptFigures, LikelyFigures, LinkFigures,
    LinkSource, OnTheLink, Others, OutageFigures, Quality, Question, Recommended, Report, Required,
    RetentionFigures, Stretch, TrendFigures, ViolationFigures, Writes, answers, calendar,
};
use crate::bins::Bins;
use crate::event::At;
use crate::model::batches::Stored;
use crate::model::confidence::Confidence;
use crate::model::drain::{self, Kept, Lag, Violation, with_calendar};
use crate::model::requirement::Requirement;
use crate::model::{coverage, outage, trend};
use crate::numbers::real;
use crate::profile::Profile;

/// Stretches of the timeline.
const STRETCHES: u64 = 300;
/// RPOs of the curve, in seconds.
const CURVE: [f64; 17] =
    [1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0];
/// 1970-01-01 was a Thursday: seconds from that week's Monday to it.
const EPOCH_OF_WEEK: u64 = 3 * 86400;
const WEEK_SECONDS: u64 = 7 * 86400;

pub(super) struct Figures<'a> {
    pub(super) profile: &'a Profile,
    pub(super) bins: &'a Bins,
    pub(super) question: &'a Question,
}

impl Figures<'_> {
    pub(super) fn report(&self) -> Report {
        let confidence = Confidence::of(self.profile.duration_seconds());
        let mut report = Report {
            schema: "chronogate-analyzer/1",
            duration_seconds: self.profile.duration_seconds(),
            begins: self.begins(),
            confidence,
            confidence_note: confidence.sentence(),
            answers: Vec::<Answer>::new(),
            writes: self.writes(),
            others: self.others(),
            required_bandwidth: self.required(),
            recommended: confidence.recommends().then(|| self.recommended()),
            curve: self.curve(),
            link: self.link(),
            outages: self.question.outages.iter().map(|&d| self.outage(d)).collect(),
            outage_survived_seconds: outage::survived(self.bins, self.profile.seconds(), self.question.spool),
            spool_bytes: self.question.spool,
            retention: self.question.retention.iter().map(|&d| self.retention(d)).collect(),
            recovery: self.recovery(),
            initial_sync: self.initial_sync(),
            content: self.content(),
            on_the_link: self.on_the_link(),
            coalescing: self.coalescing(),
            week: self.week(),
            timeline: self.timeline(),
            trend: trend::of(self.bins, self.profile.seconds()).map(growth),
            write_sizes: self.profile.write_sizes.buckets().collect(),
            read_sizes: self.profile.read_sizes.buckets().collect(),
            latency_nanos: self.profile.latency.buckets().collect(),
            devices: self.profile.devices.values().cloned().collect(),
            sources: self.sources(),
            quality: self.quality(),
        };
        report.answers = answers::of(&report, self.question);
        report
    }

    fn begins(&self) -> Option<String> {
        let first = self.profile.first().filter(|_| self.profile.has_wall_clock())?;
        Some(first.to_string())
    }

    /// Seconds from Monday 00:00 UTC to the trace's start; 0 when nobody knows.
    fn begins_of_week(&self) -> u64 {
        let first = self.profile.first().filter(|_| self.profile.has_wall_clock());
        first.map_or(0, |at| (at.nanos() / 1_000_000_000 + EPOCH_OF_WEEK) % WEEK_SECONDS)
    }

    fn writes(&self) -> Writes {
        let p = self.profile;
        let (mean, peak) = (self.mean(), self.bins.peak());
        Writes {
            count: p.writes.count,
            bytes: p.writes.bytes,
            mean_bytes_per_second: mean,
            peak_1s_bytes_per_second: peak,
            burstiness: if mean > 0.0 { real(peak) / mean } else { 0.0 },
            sequential_share: real(p.sequential_writes) / real(p.writes.count.max(1)),
        }
    }

    /// A trace of less than a second counts as one.
    pub(super) fn mean(&self) -> f64 {
        real(self.profile.writes.bytes) / self.profile.duration_seconds().max(1.0)
    }

    fn others(&self) -> Others {
        let p = self.profile;
        Others {
            reads: p.reads.count,
            read_bytes: p.reads.bytes,
            flushes: p.flushes,
            discards: p.discards.count,
        }
    }

    fn required(&self) -> Vec<Required> {
        let mut all = Vec::new();
        for &rpo in &self.question.rpos {
            let seconds = rpo.as_secs_f64();
            let always = binned(self.bins, rpo);
            all.push(Required {
                rpo_seconds: seconds,
                coverage: 1.0,
                bytes_per_second: always,
                bytes_per_second_exact: self.profile.exact(rpo).map(|r| r.bytes_per_second()),
            });
            all.extend(self.question.coverage.iter().filter(|&&q| q < 1.0).map(|&q| Required {
                rpo_seconds: seconds,
                coverage: q,
                bytes_per_second: coverage::rate_for(self.bins, self.profile.seconds(), seconds, q, always),
                bytes_per_second_exact: None,
            }));
        }
        all
    }

    fn recommended(&self) -> Vec<Recommended> {
        let recommend = |&rpo: &Duration| {
            let left = rpo.saturating_sub(self.question.hop);
            let rate = (!left.is_zero()).then(|| binned(self.bins, left) * self.scale());
            Recommended {
                rpo_seconds: rpo.as_secs_f64(),
                queue_seconds: left.as_secs_f64(),
                bytes_per_second: rate,
            }
        };
        self.question.rpos.iter().map(recommend).collect()
    }

    /// What a byte written in the trace becomes on the link later.
    fn scale(&self) -> f64 {
        (1.0 + self.question.growth) * self.on_the_link().share
    }

    pub(super) fn on_the_link(&self) -> OnTheLink {
        let p = self.profile;
        let whole_blocks = if p.writes.bytes > 0 { real(p.whole_bytes) / real(p.writes.bytes) } else { 1.0 };
        let measured = p.contents.stored_share().map(|e| e.value);
        let (share, source) = match (self.question.compression, measured) {
            (Some(given), _) => (given, LinkSource::Assumed),
            (None, Some(measured)) => (measured * whole_blocks, LinkSource::Measured),
            (None, None) => (whole_blocks, LinkSource::Unknown),
        };
        OnTheLink { share, source, whole_blocks }
    }

    fn content(&self) -> Option<ContentFigures> {
        let contents = &self.profile.contents;
        let (stored, repeated) = (contents.stored_share(), contents.repeated_share());
        (contents.blocks() > 0).then(|| ContentFigures {
            blocks: contents.blocks(),
            sampled_blocks: contents.packed(),
            zero_share: real(contents.zeroes()) / real(contents.blocks()),
            stored_share: stored.map(|e| e.value),
            stored_share_interval: stored.map(|e| (e.low, e.high)),
            repeated_share: repeated.map(|e| e.value),
            repeated_share_interval: repeated.map(|e| (e.low, e.high)),
        })
    }

    fn curve(&self) -> Vec<CurvePoint> {
        let point = |&rpo: &f64| CurvePoint {
            rpo_seconds: rpo,
            bytes_per_second: binned(self.bins, Duration::from_secs_f64(rpo)),
        };
        CURVE.iter().map(point).collect()
    }

    /// The queue is linear: growth and compression of the writes are the same as a link that much slower.
    fn link(&self) -> Option<LinkFigures> {
        let rates = self.question.link?;
        let scaled = Question { link: Some(rates.map(|r| r / self.scale())), ..self.question.clone() };
        let calendar = calendar(&scaled, self.begins_of_week())?;
        let lags = with_calendar(self.bins, &calendar);
        let all = Kept::judge(lags.iter().copied(), f64::INFINITY);
        Some(LinkFigures {
            peak_bytes_per_second: rates.iter().copied().fold(0.0, f64::max),
            mean_bytes_per_second: rates.iter().sum::<f64>() / rates.len() as f64,
            achievable_rpo_seconds: finite(all.worst_lag_seconds),
            peak_backlog_bytes: all.peak_backlog * self.scale(),
            kept: self.question.rpos.iter().map(|rpo| kept(&lags, rpo.as_secs_f64())).collect(),
            likely: self.likely(),
            lag_timeline: self.lag_timeline(&lags),
        })
    }

    /// The first record of a batch waits for the last byte of it. Growth has batches fuller.
    fn likely(&self) -> Option<LikelyFigures> {
        let rate = calendar(self.question, 0)?.constant().filter(|&rate| rate > 0.0)?;
        let worst = Kept::judge(drain::even(self.bins, rate / self.scale()), f64::INFINITY);
        let batch = real(self.profile.largest_batch()) * self.stored().mean * (1.0 + self.question.growth);
        let rpo_seconds = worst.worst_lag_seconds + batch / rate + self.question.hop.as_secs_f64();
        let peak_backlog_bytes = worst.peak_backlog * self.scale();
        rpo_seconds.is_finite().then_some(LikelyFigures { rpo_seconds, peak_backlog_bytes })
    }

    fn lag_timeline(&self, lags: &[Lag]) -> Vec<Option<f64>> {
        let (length, count) = self.stretches();
        let mut worst = vec![0.0_f64; tap_block::units::index(count)];
        for lag in lags {
            if let Some(w) = worst.get_mut(tap_block::units::index(lag.second / length)) {
                *w = w.max(lag.seconds);
            }
        }
        worst.into_iter().map(finite).collect()
    }

    fn outage(&self, length: Duration) -> OutageFigures {
        let seconds = length.as_secs();
        let worst = outage::worst(self.bins, seconds);
        // As many seconds of the link as it takes, at the mean of its week.
        let rate = self.mean_link().map(|r| r / self.scale());
        let by_hour = || outage::worst_by_hour(self.bins, seconds, self.begins_of_week());
        let grown = |bytes: u64| crate::numbers::whole(real(bytes) * self.scale());
        OutageFigures {
            seconds,
            spool_bytes: grown(worst.spool),
            worst_begins_seconds: worst.begins,
            catch_up_seconds: rate
                .and_then(|r| outage::catch_up(self.bins, self.profile.seconds(), worst, seconds, r)),
            spool_bytes_by_hour: self
                .profile
                .has_wall_clock()
                .then(|| by_hour().into_iter().map(grown).collect()),
        }
    }

    /// Over the week.
    pub(super) fn mean_link(&self) -> Option<f64> {
        self.question.link.map(|r| r.iter().sum::<f64>() / r.len() as f64)
    }

    fn retention(&self, length: Duration) -> RetentionFigures {
        let seconds = length.as_secs();
        let extrapolated = real(seconds) > self.profile.duration_seconds();
        let flat = if extrapolated {
            self.mean() * real(seconds)
        } else {
            real(outage::worst(self.bins, seconds).spool)
        };
        let (least, most) = self.framing();
        let [least, most] = [least, most].map(|framing| self.scale() + framing);
        let stored = f64::midpoint(least, most);
        RetentionFigures {
            seconds,
            bytes: flat * stored,
            bytes_between: (flat * least, flat * most),
            extrapolated,
            tiered_bytes: self.coalescing().map(|c| self.tiered(seconds, &c) * stored),
        }
    }

    /// What frames take for each byte written, the least and the most. Growth has them fuller, or more of them.
    fn framing(&self) -> (f64, f64) {
        let written = real(self.profile.writes.bytes).max(1.0);
        let (least, most) = self.profile.framing(self.stored());
        let grown = 1.0 + self.question.growth;
        (least / written * grown, most / written * grown)
    }

    /// The stored form of a block.
    fn stored(&self) -> Stored {
        let OnTheLink { share, whole_blocks, source } = self.on_the_link();
        let measured = source == LinkSource::Measured;
        Stored {
            mean: share / whole_blocks * real(tap_block::BLOCK_SIZE),
            deviation: self.profile.contents.deviation().filter(|_| measured),
        }
    }

    /// The mean rate over each tier's span, times what the tier keeps of it.
    fn tiered(&self, seconds: u64, c: &CoalescingFigures) -> f64 {
        let tiers = [(0, 2 * 86400, 1.0), (2 * 86400, 7 * 86400, c.minute), (7 * 86400, u64::MAX, c.hour)];
        let spans =
            tiers.into_iter().map(|(from, to, keeps)| real(seconds.min(to).saturating_sub(from)) * keeps);
        self.mean() * spans.sum::<f64>()
    }

    pub(super) fn coalescing(&self) -> Option<CoalescingFigures> {
        let coalescing = self.profile.coalescing();
        let [second, minute, hour, day] = coalescing.kept()?;
        let working_set_bytes = coalescing.working_set();
        Some(CoalescingFigures { second, minute, hour, day, working_set_bytes })
    }

    fn week(&self) -> Option<Vec<f64>> {
        if !self.profile.has_wall_clock() {
            return None;
        }
        let begins = self.begins_of_week();
        let mut hours = vec![0.0; crate::model::calendar::WEEK];
        for (second, bytes) in self.bins.written() {
            let hour = begins.saturating_add(second) / 3600 % 168;
            if let Some(sum) = hours.get_mut(tap_block::units::index(hour)) {
                *sum += real(bytes);
            }
        }
        let seen = seconds_of_week(begins, self.profile.seconds());
        Some(hours.iter().zip(seen).map(|(sum, seen)| sum * 3600.0 / real(seen.max(1))).collect())
    }

    /// The length of a stretch in seconds, and how many there are.
    fn stretches(&self) -> (u64, u64) {
        let seconds = self.profile.seconds();
        let length = seconds.div_ceil(STRETCHES).max(1);
        (length, seconds.div_ceil(length))
    }

    fn timeline(&self) -> Vec<Stretch> {
        let (length, count) = self.stretches();
        let begin = |n: u64| Stretch {
            start_seconds: n * length,
            mean_bytes_per_second: 0.0,
            peak_bytes_per_second: 0,
        };
        let mut all: Vec<Stretch> = (0..count).map(begin).collect();
        for (second, bytes) in self.bins.written() {
            if let Some(stretch) = all.get_mut(tap_block::units::index(second / length)) {
                stretch.mean_bytes_per_second += real(bytes) / real(length);
                stretch.peak_bytes_per_second = stretch.peak_bytes_per_second.max(bytes);
            }
        }
        all
    }

    fn sources(&self) -> Vec<String> {
        let shown = |s: &crate::cgp::Source| {
            let host = if s.host.is_empty() { String::new() } else { format!(" on {}", s.host) };
            format!("{}{host}", s.origin)
        };
        self.profile.sources.iter().map(shown).collect()
    }

    fn quality(&self) -> Quality {
        let p = self.profile;
        Quality {
            accepted: p.tally.accepted,
            ignored: p.tally.ignored,
            rejected: p.tally.rejected,
            backwards: p.backwards,
            lost_events: p.losses.events,
            lost_seconds: p.losses.nanos as f64 / 1e9,
        }
    }
}

/// How many seconds of each hour of the week a trace covers.
fn seconds_of_week(begins: u64, seconds: u64) -> Vec<u64> {
    let whole_weeks = seconds / WEEK_SECONDS;
    let mut seen = vec![whole_weeks * 3600; crate::model::calendar::WEEK];
    let (mut now, end) = (begins, begins + seconds % WEEK_SECONDS);
    while now < end {
        let until = (now / 3600 * 3600 + 3600).min(end);
        if let Some(sum) = seen.get_mut(tap_block::units::index(now / 3600 % 168)) {
            *sum += until - now;
        }
        now = until;
    }
    seen
}

/// C*(R) over bins of a second, in bytes per second.
pub(super) fn binned(bins: &Bins, rpo: Duration) -> f64 {
    let mut requirement = Requirement::new(rpo);
    for (second, bytes) in bins.written() {
        requirement.arrive(At::from_nanos(second.saturating_mul(crate::bins::BIN)), bytes);
    }
    requirement.rate().bytes_per_second()
}

fn kept(lags: &[Lag], rpo: f64) -> KeptFigures {
    let kept = Kept::judge(lags.iter().copied(), rpo);
    KeptFigures {
        rpo_seconds: rpo,
        violations: kept.count,
        broken_seconds: kept.broken_seconds,
        longest: kept.violations.iter().map(violation).collect(),
    }
}

fn violation(v: &Violation) -> ViolationFigures {
    ViolationFigures {
        start_seconds: v.start,
        seconds: v.seconds,
        peak_lag_seconds: finite(v.peak_lag_seconds),
    }
}

fn growth(t: trend::Trend) -> TrendFigures {
    TrendFigures {
        bytes_per_day: t.per_day,
        growth_per_day: t.slope,
        growth_per_day_interval: (t.low, t.high),
        in_90_days: (t.per_day + 90.0 * t.slope).max(0.0),
    }
}

/// JSON has no infinity.
fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}
