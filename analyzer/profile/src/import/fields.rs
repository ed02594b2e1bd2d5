//! Numbers in text, as fast as they come: no allocation, no UTF-8.

/// A line cut at a separator, blanks around the parts taken away.
pub(super) fn split(line: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    line.split(move |&b| b == separator).map(<[u8]>::trim_ascii)
}

/// The words of a line.
pub(super) fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|b| b.is_ascii_whitespace()).filter(|w| !w.is_empty())
}

/// Decimal digits, and nothing else.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |sum, &byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 { None } else { sum.checked_mul(10)?.checked_add(u64::from(digit)) }
    })
}

/// Seconds with up to any number of decimals, as nanoseconds.
pub(super) fn seconds(text: &[u8]) -> Option<u64> {
    let dot = text.iter().position(|&b| b == b'.');
    let (whole, decimals) = match dot {
        None => (text, &[][..]),
        Some(at) => (text.get(..at)?, text.get(at + 1..)?),
    };
    if decimals.iter().any(|b| !b.is_ascii_digit()) {
        return None;
    }
    let mut nanos = 0;
    for place in 0..9 {
        nanos = nanos * 10 + decimals.get(place).map_or(0, |b| u64::from(b - b'0'));
    }
    number(whole)?.checked_mul(1_000_000_000)?.checked_add(nanos)
}
