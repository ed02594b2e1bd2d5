//! Where a receiver listens.

use std::fmt;
use std::str::FromStr;

/// The address of a CX or gateway.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// `HOST:PORT`.
    Tcp(String),
    /// `mem:NAME`, within this process.
    Memory(String),
}

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address: write HOST:PORT, for example 127.0.0.1:7072")]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let bad = || AddressError(text.to_owned());
        if let Some(name) = text.strip_prefix("mem:") {
            return if name.is_empty() { Err(bad()) } else { Ok(Self::Memory(name.to_owned())) };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let bracketed = host.starts_with('[') && host.ends_with(']');
        if host.is_empty() || (host.contains(':') && !bracketed) || port.parse::<u16>().is_err() {
            return Err(bad());
        }
        Ok(Self::Tcp(text.to_owned()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(at) => f.write_str(at),
            Self::Memory(name) => write!(f, "mem:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_go_both_ways() {
        for good in ["127.0.0.1:7072", "[::1]:0", "cx.example:65535", "mem:cx"] {
            assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
        }
        for bad in ["", ":1", "host", "host:", "host:65536", "::1:7072", "mem:"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
