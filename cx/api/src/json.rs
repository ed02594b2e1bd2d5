//! How the vocabulary looks in JSON, for `#[serde(with = "...")]`: names, times and causes are strings,
//! LSNs are numbers (they stay below 2^53, so every JSON reader keeps them exactly).

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tap_block::{Consistency, Lsn, Name, SyncCause, VolumeId, WallTime};

/// A value with one text form.
pub trait Text: Sized {
    /// The text.
    fn to_text(&self) -> String;

    /// Reads it back.
    ///
    /// # Errors
    /// Why the text is none, for people.
    fn from_text(text: &str) -> Result<Self, String>;
}

impl Text for WallTime {
    fn to_text(&self) -> String {
        self.to_string()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        Self::parse_rfc3339(text)
            .ok_or_else(|| format!("{text:?} is not an RFC 3339 time (like 2026-11-22T12:00:00Z)"))
    }
}

impl Text for Name {
    fn to_text(&self) -> String {
        self.to_string()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|e: tap_block::NameError| e.to_string())
    }
}

impl Text for VolumeId {
    fn to_text(&self) -> String {
        self.to_string()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        text.strip_prefix("vol-")
            .and_then(|hex| u64::from_str_radix(hex, 16).ok())
            .map(Self::new)
            .ok_or_else(|| format!("{text:?} is not a volume id (like vol-1f)"))
    }
}

macro_rules! words {
    ($of:ty, $($value:path => $word:literal),+ $(,)?) => {
        impl Text for $of {
            fn to_text(&self) -> String {
                match self { $($value => $word,)+ }.to_owned()
            }

            fn from_text(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok($value),)+
                    _ => Err(format!("{text:?} is none of {}", [$($word),+].join(", "))),
                }
            }
        }
    };
}

words!(Consistency,
    Consistency::Crash => "crash",
    Consistency::FileSystem => "filesystem",
    Consistency::Application => "application",
);

words!(SyncCause,
    SyncCause::Baseline => "baseline",
    SyncCause::UncleanStop => "unclean_stop",
    SyncCause::Overflow => "overflow",
    SyncCause::HopLost => "hop_lost",
    SyncCause::ChangedUnwatched => "changed_unwatched",
    SyncCause::FailedWrite => "failed_write",
);

/// A [`Text`] as a JSON string.
pub mod text {
    use super::{Deserialize, Deserializer, Serializer, Text};
    use serde::de::Error as _;

    /// Writes it.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<T: Text, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&value.to_text())
    }

    /// Reads it.
    ///
    /// # Errors
    /// Not a string, or not a text of this kind.
    pub fn deserialize<'de, T: Text, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        T::from_text(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// A [`Text`] as a JSON string, or null for `None`.
pub mod text_or_null {
    use super::{Deserialize, Deserializer, Serialize, Serializer, Text};
    use serde::de::Error as _;

    /// Writes it.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<T: Text, S: Serializer>(value: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
        value.as_ref().map(Text::to_text).serialize(to)
    }

    /// Reads it.
    ///
    /// # Errors
    /// Neither null nor a text of this kind.
    pub fn deserialize<'de, T: Text, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|t| T::from_text(&t)).transpose().map_err(D::Error::custom)
    }
}

/// An LSN as a JSON number.
pub mod lsn {
    use super::{Deserialize, Deserializer, Lsn, Serializer, lsn_in_range};

    /// Writes it.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &Lsn, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(value.get())
    }

    /// Reads it.
    ///
    /// # Errors
    /// Not a whole number below 2^53.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Lsn, D::Error> {
        lsn_in_range(u64::deserialize(from)?)
    }
}

/// An LSN as a JSON number, or null for `None`.
pub mod lsn_or_null {
    use super::{Deserialize, Deserializer, Lsn, Serialize, Serializer, lsn_in_range};

    /// Writes it.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &Option<Lsn>, to: S) -> Result<S::Ok, S::Error> {
        value.map(Lsn::get).serialize(to)
    }

    /// Reads it.
    ///
    /// # Errors
    /// Neither null nor a whole number below 2^53.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Lsn>, D::Error> {
        Option::<u64>::deserialize(from)?.map(lsn_in_range).transpose()
    }
}

/// Seconds to the millisecond, rounded up (a lag is never reported better than it is), or null for `None`.
pub mod seconds_or_null {
    use super::{Deserialize, Deserializer, Serialize, Serializer};

    /// Writes them.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &Option<f64>, to: S) -> Result<S::Ok, S::Error> {
        value.map(|seconds| (seconds * 1000.0).ceil() / 1000.0).serialize(to)
    }

    /// Reads them.
    ///
    /// # Errors
    /// Neither null nor a number.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
        Option::deserialize(from)
    }
}

fn lsn_in_range<E: serde::de::Error>(raw: u64) -> Result<Lsn, E> {
    Lsn::new(raw).ok_or_else(|| E::custom(format!("{raw} is no LSN: LSNs stay below 2^53")))
}

/// Rejects a body that is not JSON of the type due, with a message for people.
///
/// # Errors
/// Serde's own message, which names line, column and field.
pub fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, serde_json::Error> {
    if body.is_empty() {
        return Err(serde_json::Error::custom("the body is empty, a JSON object was due"));
    }
    serde_json::from_slice(body)
}
