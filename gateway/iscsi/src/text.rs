//! Text of login and text units: `key=value` pairs, each ended by a zero byte (RFC 7143 section 6.1).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

/// The longest name of a key (section 6.1: 63 bytes).
const MAX_KEY: usize = 63;
/// The longest binary value (section 6.1: 1,024 bytes).
pub(crate) const MAX_BINARY: usize = 1024;
/// The longest value: a binary one in hexadecimal.
const MAX_VALUE: usize = 2 + 2 * MAX_BINARY;

/// A key with its value.
pub(crate) type Pair = (String, String);

/// Text that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("login or text data is not a list of key=value pairs")]
pub(crate) struct TextError;

/// Takes text apart.
pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<Pair>, TextError> {
    let pieces = bytes.split(|&b| b == 0).filter(|piece| !piece.is_empty());
    pieces.map(parse_pair).collect()
}

fn parse_pair(piece: &[u8]) -> Result<Pair, TextError> {
    let text = std::str::from_utf8(piece).map_err(|_| TextError)?;
    let (key, value) = text.split_once('=').ok_or(TextError)?;
    if key.is_empty() || key.len() > MAX_KEY || value.len() > MAX_VALUE {
        return Err(TextError);
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// Puts text together.
pub(crate) fn encode(pairs: &[Pair]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in pairs {
        bytes.extend_from_slice(key.as_bytes());
        bytes.push(b'=');
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
    }
    bytes
}

/// A binary value: `0x` and hexadecimal digits, or `0b` and base64 (section 6.1).
pub(crate) fn decode_binary(value: &str) -> Option<Vec<u8>> {
    let bytes = if let Some(digits) = value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        decode_hex(digits)?
    } else {
        let digits = value.strip_prefix("0b").or_else(|| value.strip_prefix("0B"))?;
        STANDARD.decode(digits).ok()?
    };
    (!bytes.is_empty() && bytes.len() <= MAX_BINARY).then_some(bytes)
}

/// An odd digit count has its leading zero left out.
fn decode_hex(digits: &str) -> Option<Vec<u8>> {
    let mut nibbles = Vec::with_capacity(digits.len() + 1);
    if !digits.len().is_multiple_of(2) {
        nibbles.push(0);
    }
    for digit in digits.chars() {
        nibbles.push(u8::try_from(digit.to_digit(16)?).ok()?);
    }
    Some(nibbles.as_chunks::<2>().0.iter().map(|[high, low]| high << 4 | low).collect())
}

/// A binary value in hexadecimal.
pub(crate) fn encode_binary(bytes: &[u8]) -> String {
    let mut text = String::from("0x");
    for byte in bytes {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_go_both_ways() {
        let pairs = vec![("A".to_owned(), "1,2".to_owned()), ("B".to_owned(), String::new())];
        assert_eq!(parse(&encode(&pairs)), Ok(pairs));
        assert_eq!(parse(b""), Ok(vec![]));
        for bad in [&b"novalue\0"[..], b"=x\0", b"\xff=1\0"] {
            assert_eq!(parse(bad), Err(TextError));
        }
        assert!(parse(format!("{}=1", "k".repeat(64)).as_bytes()).is_err());
    }

    #[test]
    fn binary_values_in_both_encodings() {
        assert_eq!(decode_binary("0x0aFF"), Some(vec![10, 255]));
        assert_eq!(decode_binary("0xaff"), Some(vec![10, 255]), "a leading zero may be left out");
        assert_eq!(decode_binary("0bCv8="), Some(vec![10, 255]));
        assert_eq!(decode_binary(&encode_binary(&[7; 1024])), Some(vec![7; 1024]));
        for bad in ["", "0x", "0xzz", "0b*", "12", &encode_binary(&[7; 1025])] {
            assert_eq!(decode_binary(bad), None, "{bad}");
        }
    }
}
