//! Whole numbers and fractions into each other, each conversion with what happens at its edge; and a hash of numbers.

/// The nearest whole number; below zero and NaN become 0, above the range the largest.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float-to-integer cast saturates"
)]
pub(crate) const fn whole(value: f64) -> u64 {
    value.round() as u64
}

/// The next whole number above; below zero and NaN become 0, above the range the largest.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float-to-integer cast saturates"
)]
pub(crate) const fn whole_up(value: f64) -> u64 {
    value.ceil() as u64
}

/// The next whole number below; below zero and NaN become 0, above the range the largest.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float-to-integer cast saturates"
)]
pub(crate) const fn whole_down(value: f64) -> u64 {
    value.floor() as u64
}

/// As a fraction: exact up to 2^53, to 16 digits above.
pub(crate) const fn real(value: u64) -> f64 {
    value as f64
}

/// A hash of 64 bits in which every bit of the input moves every bit (the finalizer of `SplitMix64`, Steele and others 2014).
pub(crate) const fn mix(key: u64) -> u64 {
    let mut z = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
