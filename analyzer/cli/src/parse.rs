//! Numbers with units as people write them on the command line.

use std::time::Duration;

/// `15s`, `1m`, `3d`, `2w`; a bare number is seconds.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let units = [
        ("ms", 0.001),
        ("s", 1.0),
        ("m", 60.0),
        ("min", 60.0),
        ("h", 3600.0),
        ("d", 86400.0),
        ("w", 604_800.0),
        ("", 1.0),
    ];
    let seconds = scaled(text, &units)
        .ok_or_else(|| format!("{text:?} is no length of time: write 15s, 5m, 12h, 3d or 2w"))?;
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("{text:?} is out of range"))
}

/// `100Mbit` (per second, decimal) or `12.5MB/s`, as bytes per second.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let bare = text.trim_end_matches("/s").trim_end_matches("ps");
    let units = [
        ("bit", 0.125),
        ("kbit", 125.0),
        ("Mbit", 125e3),
        ("Gbit", 125e6),
        ("Tbit", 125e9),
        ("B", 1.0),
        ("kB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("KiB", 1024.0),
        ("MiB", 1_048_576.0),
        ("GiB", 1_073_741_824.0),
    ];
    scaled(bare, &units).ok_or_else(|| format!("{text:?} is no rate: write 100Mbit, 1Gbit or 12.5MB/s"))
}

/// `16GiB`, `4kB`; a bare number is bytes.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let binary = [
        ("KiB", 10),
        ("MiB", 20),
        ("GiB", 30),
        ("TiB", 40),
        ("PiB", 50),
        ("K", 10),
        ("M", 20),
        ("G", 30),
        ("T", 40),
    ];
    let decimal = [("", 1.0), ("B", 1.0), ("kB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12), ("PB", 1e15)];
    let binary = binary.map(|(unit, shift)| (unit, (1_u64 << shift) as f64));
    let all: Vec<_> = binary.into_iter().chain(decimal).collect();
    let bytes = scaled(text, &all).filter(|&b| b < 9e18);
    bytes.map(whole).ok_or_else(|| format!("{text:?} is no size: write 16GiB, 500GB or a number of bytes"))
}

/// `30%` or `0.3`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    scaled(text, &[("%", 0.01), ("", 1.0)]).ok_or_else(|| format!("{text:?} is no share: write 30% or 0.3"))
}

/// A number and one of the units, exactly as they are written.
fn scaled(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    let factor = units.iter().find(|(name, _)| *name == unit.trim())?.1;
    number.parse::<f64>().ok().map(|n| n * factor).filter(|n| n.is_finite())
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range: see the caller")]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_and_others_refused() {
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("2w"), Ok(Duration::from_secs(14 * 86400)));
        assert_eq!(rate("100Mbit"), Ok(12.5e6));
        assert_eq!(rate("12.5MB/s"), Ok(12.5e6));
        assert_eq!(rate("1Gbps").ok(), None);
        assert_eq!(size("16GiB"), Ok(16 << 30));
        assert_eq!(share("30%"), Ok(0.3));
        for bad in ["", "s", "-1s", "1 fortnight", "1e999s", "nan"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(rate("100").is_err(), "bits or bytes?");
        assert!(size("1EB").is_err());
    }
}
