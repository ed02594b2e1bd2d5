//! How people name a moment: `now`, a time, so long ago, an LSN, a bookmark.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tap_block::{Lsn, MarkId, Name, NameError, WallTime};
use thiserror::Error;

/// A moment, as it was asked for. It becomes an LSN once, when it is resolved, and is frozen from then on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Point {
    /// The newest durable point.
    Now,
    /// The last record captured at or before this time.
    Time(WallTime),
    /// The same, counted back from now.
    Ago(Duration),
    /// Just after this record.
    Lsn(Lsn),
    /// Where this barrier's mark stands.
    Mark(MarkId),
    /// Where the bookmark of this name stands.
    Bookmark(Name),
}

/// Why a text names no moment.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PointError {
    /// No form fits.
    #[error("{text:?} is no point in time ({why}); {FORMS}")]
    Form {
        /// What was given.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// No `@` between volume and point.
    #[error("{0:?} names no point: write VOLUME@POINT, for example web01@-10m; {FORMS}")]
    NoPoint(String),
    /// The part before the `@` is no name.
    #[error("the volume's name is wrong: {0}")]
    Volume(#[from] NameError),
}

const FORMS: &str = "a point is `now`, an RFC 3339 time such as 2026-11-22T10:00:00Z, \
                     a time ago such as -90s, -10m, -2h or -1d, `lsn:NUMBER`, a group's `mark:NUMBER`, or a bookmark's name";

/// Relative units, longest first, with their seconds.
const UNITS: [(char, u64); 5] = [('w', 604_800), ('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

impl Point {
    /// Does it mean another moment each time it is asked for?
    #[must_use]
    pub const fn is_moving(&self) -> bool {
        matches!(self, Self::Now | Self::Ago(_))
    }
}

impl FromStr for Point {
    type Err = PointError;

    fn from_str(text: &str) -> Result<Self, PointError> {
        let wrong = |why: String| PointError::Form { text: text.to_owned(), why };
        if text.eq_ignore_ascii_case("now") {
            return Ok(Self::Now);
        }
        if let Some(ago) = text.strip_prefix('-') {
            return parse_ago(ago).map(Self::Ago).map_err(wrong);
        }
        if let Some(number) = text.strip_prefix("lsn:") {
            let lsn = number.parse().ok().and_then(Lsn::new);
            return lsn.map(Self::Lsn).ok_or_else(|| wrong("an LSN is a number below 2^53".to_owned()));
        }
        if let Some(number) = text.strip_prefix("mark:") {
            let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
            let id = if digits { number.parse().ok().map(MarkId::new) } else { None };
            return id.map(Self::Mark).ok_or_else(|| wrong("a mark is a number".to_owned()));
        }
        if let Some(time) = WallTime::parse_rfc3339(text) {
            return Ok(Self::Time(time));
        }
        text.parse().map(Self::Bookmark).map_err(|e: NameError| wrong(e.to_string()))
    }
}

fn parse_ago(text: &str) -> Result<Duration, String> {
    let unit = text.chars().last().and_then(|c| UNITS.iter().find(|(u, _)| *u == c));
    let &(letter, seconds) = unit.ok_or("a time ago ends in s, m, h, d or w")?;
    let number = text.strip_suffix(letter).unwrap_or(text);
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    let amount: Option<u64> = if is_number { number.parse().ok() } else { None };
    amount
        .and_then(|n| n.checked_mul(seconds))
        .map(Duration::from_secs)
        .ok_or_else(|| "a time ago is '-', a whole number and a unit".to_owned())
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now => f.write_str("now"),
            Self::Time(t) => t.fmt(f),
            Self::Ago(ago) => fmt_ago(*ago, f),
            Self::Lsn(lsn) => lsn_text(*lsn, f),
            Self::Mark(id) => id.fmt(f),
            Self::Bookmark(name) => name.fmt(f),
        }
    }
}

fn lsn_text(lsn: Lsn, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "lsn:{}", lsn.get())
}

fn fmt_ago(ago: Duration, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let seconds = ago.as_secs();
    let fits = UNITS.iter().find(|(_, unit)| seconds != 0 && seconds.is_multiple_of(*unit));
    match fits {
        Some((letter, unit)) => write!(f, "-{}{letter}", seconds / unit),
        None => write!(f, "-{seconds}s"),
    }
}

/// `NAME@POINT`: a volume at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VolumePoint {
    /// The volume.
    pub volume: Name,
    /// The moment.
    pub point: Point,
}

impl FromStr for VolumePoint {
    type Err = PointError;

    fn from_str(text: &str) -> Result<Self, PointError> {
        let (volume, point) = text.split_once('@').ok_or_else(|| PointError::NoPoint(text.to_owned()))?;
        Ok(Self { volume: volume.parse()?, point: point.parse()? })
    }
}

impl fmt::Display for VolumePoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.volume, self.point)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_reads_and_prints() {
        let seconds = |s| Point::Ago(Duration::from_secs(s));
        for (text, point) in [
            ("now", Point::Now),
            ("-90s", seconds(90)),
            ("-10m", seconds(600)),
            ("-2h", seconds(7200)),
            ("-1d", seconds(86_400)),
            ("-1w", seconds(604_800)),
            ("-0s", seconds(0)),
            ("lsn:17", Point::Lsn(Lsn::new(17).unwrap())),
            ("mark:1795341600250000000", Point::Mark(MarkId::new(1_795_341_600_250_000_000))),
            ("2026-11-22T10:00:00.25Z", Point::Time(WallTime::from_nanos(1_795_341_600_250_000_000))),
            ("before-upgrade", Point::Bookmark("before-upgrade".parse().unwrap())),
        ] {
            assert_eq!(text.parse::<Point>().unwrap(), point);
            assert_eq!(point.to_string(), text);
        }
        assert_eq!("NOW".parse(), Ok(Point::Now));
        assert_eq!("2026-11-22T12:00:00+02:00".parse::<Point>().unwrap().to_string(), "2026-11-22T10:00:00Z");
    }

    #[test]
    fn errors_say_which_forms_exist() {
        for bad in [
            "",
            "-",
            "-10",
            "-m",
            "-1.5h",
            "-+1h",
            "--1h",
            "-99999999999999999d",
            "lsn:",
            "lsn:x",
            "mark:",
            "mark:+1",
            "mark:18446744073709551616",
            "lsn:9007199254740992",
            "2026-13-01T00:00:00Z",
            "a b",
        ] {
            let error = bad.parse::<Point>().unwrap_err().to_string();
            assert!(error.contains("-10m") && error.contains("lsn:NUMBER"), "{bad}: {error}");
        }
        assert!("web01".parse::<VolumePoint>().unwrap_err().to_string().contains("VOLUME@POINT"));
        assert!("a b@now".parse::<VolumePoint>().is_err());
    }

    #[test]
    fn a_volume_point_goes_both_ways() {
        for text in [
            "web01@now",
            "web01@mark:7",
            "web01@-10m",
            "web01@lsn:0",
            "web01@gold",
            "web01@2026-11-22T10:00:00Z",
        ] {
            assert_eq!(text.parse::<VolumePoint>().unwrap().to_string(), text);
        }
    }
}
