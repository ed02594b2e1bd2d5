//! Forms of the command line: VOLUME@POINT, durations, sizes.

use std::str::FromStr;
use std::time::Duration;

use cx_api::Size;
use cx_api::json::Text as _;
use tap_block::Name;

/// A volume at a moment. Which POINTs exist is the gateway's to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VolumePoint {
    pub(super) volume: Name,
    pub(super) point: String,
}

impl FromStr for VolumePoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (volume, point) = text
            .split_once('@')
            .filter(|(_, point)| !point.is_empty())
            .ok_or("write VOLUME@POINT, for example web01@now, web01@-10m or web01@before-upgrade")?;
        let volume = volume.parse().map_err(|e: tap_block::NameError| e.to_string())?;
        Ok(Self { volume, point: point.to_owned() })
    }
}

/// `90`, `90s`, `5m`, `2h`, `7d`; whole seconds, rounded up.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration: write it as 90s, 5m, 2h or 7d");
    let (number, unit) = split_unit(text).ok_or_else(wrong)?;
    let milliseconds = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(milliseconds).map(Duration::from_millis).ok_or_else(wrong)
}

/// How old history is packed, `7d`, or `never`.
pub(crate) fn pack_after(text: &str) -> Result<PackAfter, String> {
    match text {
        "never" => Ok(PackAfter(None)),
        age => duration(age).map(|age| PackAfter(Some(age))),
    }
}

/// The age at which history is packed; `None`: at none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PackAfter(pub(crate) Option<Duration>);

/// `512`, `512M`, `10GiB` (powers of 1024), `10GB` (powers of 1000).
pub(crate) fn size(text: &str) -> Result<u64, String> {
    Size::from_text(text).map(|size| size.0)
}

fn split_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in [("0", 0), ("90", 90), ("60s", 60), ("5m", 300), ("2h", 7200), ("7d", 604_800)]
        {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1500)));
        for bad in ["", "s", "-1s", "1.5h", "1 fortnight", "99999999999999999999", "18446744073709551615h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn when_history_is_packed() {
        assert_eq!(pack_after("never"), Ok(PackAfter(None)));
        assert_eq!(pack_after("2d"), Ok(PackAfter(Some(Duration::from_secs(172_800)))));
        assert!(pack_after("often").is_err());
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("512B", 512),
            ("4k", 4096),
            ("512M", 512 << 20),
            ("10GiB", 10 << 30),
            ("10GB", 10_000_000_000),
            ("1 TiB", 1 << 40),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "G", "-1G", "1.5G", "1X", "1GiBs", "1iB", "18446744073709551615K"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_volume_at_a_moment() {
        let parsed: VolumePoint = "web01@-10m".parse().unwrap();
        assert_eq!((parsed.volume.as_str(), parsed.point.as_str()), ("web01", "-10m"));
        for bad in ["web01", "web01@", "@now", "we b@now"] {
            assert!(bad.parse::<VolumePoint>().is_err(), "{bad}");
        }
    }
}
