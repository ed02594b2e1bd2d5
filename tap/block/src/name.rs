//! Names people give to volumes, bookmarks and images.

use std::fmt;
use std::str::FromStr;

/// The longest name, in bytes. An NBD export `VOLUME@BOOKMARK` then stays far below the protocol's 4096.
pub const MAX_NAME: usize = 200;

/// A valid name: 1 to [`MAX_NAME`] letters, digits, `.`, `_` or `-`, and nothing that reads as another form
/// of a point in time (`now`, `-10m`) or of a path (`.`, `..`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<str>);

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing, or too much.
    #[error("a name has 1 to {MAX_NAME} characters, this one has {0}: choose another")]
    Length(usize),
    /// A character outside the alphabet.
    #[error("{0:?} cannot stand in a name: use letters, digits, '.', '_' and '-'")]
    Character(char),
    /// It would be read as something else.
    #[error(
        "{0:?} means something else where a name is expected (a point in time or a path): choose another"
    )]
    Reserved(String),
}

impl Name {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() || text.len() > MAX_NAME {
            return Err(NameError::Length(text.len()));
        }
        let alphabet = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if let Some(bad) = text.chars().find(|&c| !alphabet(c)) {
            return Err(NameError::Character(bad));
        }
        if matches!(text, "." | "..") || text.eq_ignore_ascii_case("now") || text.starts_with('-') {
            return Err(NameError::Reserved(text.to_owned()));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reads_as_a_point_or_a_path_is_no_name() {
        for bad in ["", "now", "NOW", "-10m", "lsn:5", "a b", "..", ".", "2026-11-22T00:00:00Z", "a/b", "ä"]
        {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
        for good in ["web01", "a.b_c-d", "2026-11-22", "10m", "lsn"] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        assert!("x".repeat(MAX_NAME + 1).parse::<Name>().is_err());
    }
}
