//! Keeping history: policies, the timeline of what is there, pins, holds, and what changed between two points.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tap_block::{Lsn, Name, WallTime};

use crate::json::{self, Text};
use crate::shortage::ShortageView;
use crate::volume::{GapView, LimitView};

/// A length of time as people write it: `90s`, `48h`, `7d`, `4w`, `1y` (365 days).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// Units, longest first, with their seconds.
const UNITS: [(&str, u64); 6] =
    [("y", 31_536_000), ("w", 604_800), ("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];

impl Text for Span {
    fn to_text(&self) -> String {
        let (seconds, rest) = (self.0.as_secs(), self.0.subsec_millis());
        if rest > 0 {
            return format!("{}ms", self.0.as_millis());
        }
        // Weeks are read and never written: 48h and 7d are how people say it.
        let fits = UNITS.iter().filter(|(unit, _)| *unit != "w");
        let fits = fits.filter(|(unit, _)| *unit != "d" || seconds > 2 * 86_400);
        let unit = fits.into_iter().find(|(_, unit)| seconds != 0 && seconds.is_multiple_of(*unit));
        unit.map_or_else(|| format!("{seconds}s"), |(letter, unit)| format!("{}{letter}", seconds / unit))
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no length of time (like 90s, 48h, 7d or 1y)");
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at_checked(digits).ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        if unit == "ms" {
            return Ok(Self(Duration::from_millis(number)));
        }
        let seconds = UNITS.iter().find(|(u, _)| *u == unit).ok_or_else(wrong)?.1;
        number.checked_mul(seconds).map(|s| Self(Duration::from_secs(s))).ok_or_else(wrong)
    }
}

/// A number of bytes as people write it: `512M` and `200GiB` (powers of 1024), `200GB` (powers of 1000).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Text for Size {
    fn to_text(&self) -> String {
        let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        let unit = units.into_iter().find(|(_, shift)| self.0 > 0 && self.0.trailing_zeros() >= *shift);
        unit.map_or_else(|| self.0.to_string(), |(unit, shift)| format!("{}{unit}", self.0 >> shift))
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no size: write it as 512M or 10GiB");
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at_checked(digits).ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let factor = factor(&unit.trim_start().to_ascii_uppercase()).ok_or_else(wrong)?;
        number.checked_mul(factor).map(Self).ok_or_else(wrong)
    }
}

/// Of a unit in upper case.
fn factor(unit: &str) -> Option<u64> {
    let mut letters = unit.chars();
    let power = match letters.next() {
        None | Some('B') => 0,
        Some('K') => 1,
        Some('M') => 2,
        Some('G') => 3,
        Some('T') => 4,
        Some(_) => return None,
    };
    match (letters.as_str(), power) {
        ("", _) | ("IB", 1..) => 1024u64.checked_pow(power),
        ("B", 1..) => 1000u64.checked_pow(power),
        _ => None,
    }
}

/// One point each so often, for so long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TierView {
    /// The distance of points.
    #[serde(with = "json::text")]
    pub each: Span,
    /// The age up to which they are kept.
    #[serde(with = "json::text")]
    pub keep: Span,
    /// What has to succeed before the tier lets points go; null: nothing.
    #[serde(default)]
    pub before_drop: Option<GateView>,
}

/// A hook that hands points on before a tier lets them go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateView {
    /// A program in the gateway's directory of hooks.
    pub hook: String,
    /// The points go without it when it has not succeeded for so long.
    #[serde(with = "json::text")]
    pub deadline: Span,
}

/// A gate of a volume's tier at work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AtGateView {
    /// The tier, by the age up to which it keeps points.
    #[serde(with = "json::text")]
    pub keep: Span,
    /// The hook.
    pub hook: String,
    /// What is happening.
    pub state: GateState,
    /// How many points wait.
    pub waiting: u64,
    /// The oldest of them; null when there is none.
    pub first: Option<KeptView>,
    /// The newest of them.
    pub last: Option<KeptView>,
    /// When they go without the hook, on the store's own clock; null while none is run for them.
    #[serde(with = "json::text_or_null")]
    pub deadline: Option<WallTime>,
    /// Tries for them that failed.
    pub failures: u32,
    /// Why the last try failed.
    pub error: Option<String>,
    /// How the last points that went were let go; null when none were yet.
    pub last_outcome: Option<GateOutcome>,
    /// When that was, on the store's own clock.
    #[serde(with = "json::text_or_null")]
    pub last_at: Option<WallTime>,
}

/// What is happening at a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GateState {
    /// Nothing waits.
    Idle,
    /// Points wait until enough have gathered, or for another hook's end.
    Waiting,
    /// The hook runs.
    Running,
    /// It failed, and is run again after a pause.
    Failing,
}

impl GateState {
    /// The word in JSON and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Failing => "failing",
        }
    }
}

/// How points were let go at a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GateOutcome {
    /// The hook succeeded.
    Passed,
    /// It did not before its deadline.
    Overdue,
    /// There was no room for them.
    Overruled,
}

impl GateOutcome {
    /// The word in JSON and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Overdue => "overdue",
            Self::Overruled => "overruled",
        }
    }
}

/// What to do when there is no more room, or a volume's history reaches its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// Thin out sooner than the policy says, then let the oldest points go.
    #[serde(alias = "purge")]
    Thin,
    /// Take no more history.
    Stop,
}

/// How long history is kept, ever more sparsely.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Every write is a point for so long.
    #[serde(with = "json::text")]
    pub every_write: Span,
    /// After that, ever more sparsely.
    #[serde(default)]
    pub tiers: Vec<TierView>,
    /// Bookmarks are points for so long.
    #[serde(with = "json::text", default = "a_year")]
    pub bookmarks: Span,
    /// What to do when there is no more room.
    #[serde(default = "thin")]
    pub when_full: WhenFull,
    /// What each volume's history may take; null: as much as there is room.
    #[serde(with = "json::text_or_null", default)]
    pub limit: Option<Size>,
}

fn a_year() -> Span {
    Span(Duration::from_secs(31_536_000))
}

fn thin() -> WhenFull {
    WhenFull::Thin
}

impl Retention {
    /// What a gateway goes by when nobody said anything.
    #[must_use]
    pub fn built_in() -> Self {
        let span = |hours: u64| Span(Duration::from_secs(hours * 3600));
        let tier = |each: u64, days: u64| TierView {
            each: Span(Duration::from_secs(each)),
            keep: span(days * 24),
            before_drop: None,
        };
        Self {
            every_write: span(48),
            tiers: vec![tier(60, 7), tier(3600, 30)],
            bookmarks: a_year(),
            when_full: thin(),
            limit: None,
        }
    }
}

/// Where a policy comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicySource {
    /// It is what the program does when nobody said anything.
    BuiltIn,
    /// It was set for all volumes that have none of their own.
    General,
    /// It was set for this volume.
    Own,
}

/// A policy in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyView {
    /// For which volume; null: for all that have none of their own.
    #[serde(with = "json::text_or_null")]
    pub volume: Option<Name>,
    /// Where it comes from.
    pub source: PolicySource,
    /// What it says.
    pub retention: Retention,
}

/// Sets a policy, or takes a volume's own back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySet {
    /// For which volume; null: for all that have none of their own.
    #[serde(with = "json::text_or_null", default)]
    pub volume: Option<Name>,
    /// What it says; null: nothing of its own any more.
    pub retention: Option<Retention>,
    /// Only says whether it could be set, and what is in force now: nothing is changed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub check: bool,
}

/// Sets several policies, all of them or none: nothing is let go by some of them before the others count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoliciesApply {
    /// What is to be set; each volume, and the general policy, once at most. Their order does not matter.
    pub policies: Vec<PolicySet>,
    /// Only says whether they could be set, and what is in force now: nothing is changed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub check: bool,
}

/// What a policy would let go of a volume's history, were it set now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyPreview {
    /// Of which volume.
    #[serde(with = "json::text")]
    pub volume: Name,
    /// The policy that it would have.
    pub retention: Retention,
    /// Points of its settled history.
    pub point_count: u64,
    /// Those of them that would go at once, and would not go by the policy that it has.
    pub goes: u64,
    /// The first of those; null when none would go.
    pub first: Option<KeptView>,
    /// The last of them.
    pub last: Option<KeptView>,
    /// Bytes of settled history that only they show: so much comes free as history is gone through.
    pub freed_bytes: u64,
    /// Not all of it was looked at: that is about how much it is.
    pub is_estimate: bool,
    /// Bytes of its log that would be thinned out at once, and are still too young for that by the policy that it has.
    pub log_bytes: u64,
    /// Bytes by which it would be above its limit.
    pub over_limit_bytes: u64,
}

/// A point that can be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptView {
    /// Just after this record.
    #[serde(with = "json::lsn")]
    pub lsn: Lsn,
    /// When it was captured.
    #[serde(with = "json::text")]
    pub time: WallTime,
}

/// Points that follow each other at about one distance, or a single one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StretchView {
    /// The first.
    pub first: KeptView,
    /// The last.
    pub last: KeptView,
    /// How many.
    pub points: u64,
    /// Every record from the first to the last is one of them.
    pub every_write: bool,
}

/// A point that is never thinned out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinView {
    /// Just after this record.
    #[serde(with = "json::lsn")]
    pub lsn: Lsn,
    /// Why, in its maker's words.
    pub note: String,
}

/// Pins a point, or takes a pin back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinCreate {
    /// The POINT.
    pub at: String,
    /// Why.
    #[serde(default)]
    pub note: String,
}

/// A stretch of history that nobody can delete before a date.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldView {
    /// From this time on.
    #[serde(with = "json::text")]
    pub from: WallTime,
    /// Up to this time.
    #[serde(with = "json::text")]
    pub to: WallTime,
    /// Until this date.
    #[serde(with = "json::text")]
    pub until: WallTime,
    /// Why.
    pub note: String,
}

/// Places a hold. Nothing takes it back before its date, so one of everything has to be asked for by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldCreate {
    /// From this time on; null: from the oldest point on.
    #[serde(with = "json::text_or_null", default)]
    pub from: Option<WallTime>,
    /// Up to this time; null: up to `until`.
    #[serde(with = "json::text_or_null", default)]
    pub to: Option<WallTime>,
    /// Until this date.
    #[serde(with = "json::text")]
    pub until: WallTime,
    /// Why.
    #[serde(default)]
    pub note: String,
    /// All history, up to `until`: for a hold with neither `from` nor `to`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

/// The source's clock was set. Back: times from `from` to `to` went by twice; as a POINT they mean the second time, once that has
/// come. Ahead: times from `to` to `from` never went by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockView {
    /// The first record by the clock as it was from then on.
    #[serde(with = "json::lsn")]
    pub lsn: Lsn,
    /// When that was, by the clock as it was set.
    #[serde(with = "json::text")]
    pub from: WallTime,
    /// When it would have been by the clock as it had been; over a restart of the tap: when the record before it was.
    #[serde(with = "json::text")]
    pub to: WallTime,
    /// It was set ahead, not back.
    #[serde(default)]
    pub ahead: bool,
}

/// What is left of a volume's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineView {
    /// The volume.
    #[serde(with = "json::text")]
    pub volume: Name,
    /// The policy in force.
    pub policy: PolicyView,
    /// The oldest point that can be opened; null when none can.
    pub oldest: Option<KeptView>,
    /// The newest one.
    pub newest: Option<KeptView>,
    /// From behind this record on every write is a point; 0 when nothing is settled yet.
    #[serde(with = "json::lsn")]
    pub every_write_after: Lsn,
    /// The points at or before it, the newest thousand, oldest first; with `?before=LSN` those before that one.
    pub points: Vec<KeptView>,
    /// All of them as stretches of the same distance, the newest thousand, oldest first.
    #[serde(default)]
    pub stretches: Vec<StretchView>,
    /// How many there are in all.
    pub point_count: u64,
    /// How many bookmarks there are.
    pub bookmark_count: u64,
    /// Points that are never thinned out.
    pub pins: Vec<PinView>,
    /// Holds in force.
    pub holds: Vec<HoldView>,
    /// Stretches that were lost.
    pub gaps: Vec<GapView>,
    /// Where the source's clock was set, the newest thousand, oldest first.
    #[serde(default)]
    pub clocks: Vec<ClockView>,
    /// How the store fills.
    pub forecast: ForecastView,
    /// What the volume's own history takes, and how it grows.
    #[serde(default)]
    pub history: HistoryView,
    /// The gates of its tiers.
    #[serde(default)]
    pub gates: Vec<AtGateView>,
    /// Holds, of whichever volume, of which not every point is listed on its own, or that keep a full store from making room: in
    /// words, with their ends.
    #[serde(default)]
    pub held_up: Vec<String>,
    /// What of it went for want of room though its policy would have kept it, oldest first; of each kind all that went within an
    /// hour is one, and no more than a dozen are told apart.
    #[serde(default)]
    pub shortages: Vec<ShortageView>,
}

/// What a volume's history takes, and how it grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HistoryView {
    /// Bytes that are not settled.
    pub log_bytes: u64,
    /// Bytes of settled history.
    pub settled_bytes: u64,
    /// The limit that its policy sets; null when there is none.
    pub limit: Option<LimitView>,
    /// Bytes of log written each day, by what was written since the gateway started, copies of what the disk held apart; null
    /// when that is too little to say.
    pub bytes_per_day: Option<u64>,
    /// When it reaches its limit at that rate, now when it is stopped or stuck there; null when policies make room in time, when
    /// there is no limit, or nobody knows.
    #[serde(with = "json::text_or_null")]
    pub full_at: Option<WallTime>,
}

/// How the store fills. It holds every volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForecastView {
    /// Bytes of segment files in use.
    pub used_bytes: u64,
    /// Bytes of settled history among them.
    pub settled_bytes: u64,
    /// Bytes that can still be taken; null when nobody knows.
    pub free_bytes: Option<u64>,
    /// Bytes of log written each day, by what was written since the gateway started, copies of what the disk held apart; null
    /// when that is too little to say.
    pub bytes_per_day: Option<u64>,
    /// When it is full at that rate, now when it is; null when policies make room in time, or nobody knows.
    #[serde(with = "json::text_or_null")]
    pub full_at: Option<WallTime>,
}

/// What changed between two points.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffView {
    /// On which volume.
    #[serde(with = "json::text")]
    pub volume: Name,
    /// The earlier point.
    #[serde(with = "json::lsn")]
    pub from_lsn: Lsn,
    /// The later one.
    #[serde(with = "json::lsn")]
    pub to_lsn: Lsn,
    /// Bytes of all extents, those of later pages included.
    pub bytes: u64,
    /// Stretches that were written between them, ascending. What was written with what it held already may be among them.
    pub extents: Vec<ExtentView>,
    /// Given as ?after= it brings the next page.
    pub next: Option<String>,
}

/// A stretch of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtentView {
    /// Its first byte.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_go_both_ways() {
        for (text, bytes) in
            [("0", 0), ("512", 512), ("4KiB", 4096), ("200GiB", 200 << 30), ("1TiB", 1 << 40)]
        {
            assert_eq!((Size::from_text(text), Size(bytes).to_text()), (Ok(Size(bytes)), text.to_owned()));
        }
        assert_eq!(Size::from_text("10GB"), Ok(Size(10_000_000_000)));
        assert_eq!(Size(1_500_000).to_text(), "1500000");
        for bad in ["", "G", "-1G", "1.5G", "1X", "1iB", "18446744073709551615K"] {
            assert!(Size::from_text(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn spans_go_both_ways() {
        let seconds = |s| Span(Duration::from_secs(s));
        for (text, span) in [
            ("0s", seconds(0)),
            ("90s", seconds(90)),
            ("1m", seconds(60)),
            ("48h", seconds(172_800)),
            ("7d", seconds(604_800)),
            ("1y", seconds(31_536_000)),
            ("200ms", Span(Duration::from_millis(200))),
        ] {
            assert_eq!(Span::from_text(text), Ok(span));
            assert_eq!(span.to_text(), text);
        }
        assert_eq!(Span::from_text("2w"), Ok(seconds(1_209_600)));
        for bad in
            ["", "h", "-1h", "1.5h", "1 h", "1fortnight", "99999999999999999999s", "18446744073709551615y"]
        {
            assert!(Span::from_text(bad).is_err(), "{bad}");
        }
    }
}
