//! Whole numbers and fractions into each other, each conversion with what happens at its edge.

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
