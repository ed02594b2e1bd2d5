//! Where a front listens, and the URIs clients open its exports by.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use thiserror::Error;

/// An address to listen on: `unix:PATH` or `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// A unix socket.
    Unix(PathBuf),
    /// A host name or IP address and a port; port 0 lets the system choose.
    Tcp(String),
}

/// Where iSCSI initiators connect.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Portal {
    /// Where it listens.
    pub listen: ListenAddress,
    /// The `HOST:PORT` that initiators are told to connect to; `None`: the address that they have connected to.
    pub advertised: Option<String>,
}

/// Text that is no portal.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "`{0}` is no iSCSI portal; give HOST:PORT, or HOST:PORT,advertise=HOST:PORT, such as 0.0.0.0:3260,advertise=192.0.2.7:3260"
)]
pub struct PortalError(String);

impl From<ListenAddress> for Portal {
    fn from(listen: ListenAddress) -> Self {
        Self { listen, advertised: None }
    }
}

impl FromStr for Portal {
    type Err = PortalError;

    fn from_str(text: &str) -> Result<Self, PortalError> {
        let wrong = || PortalError(text.to_owned());
        let tcp = |text: &str| match text.parse() {
            Ok(ListenAddress::Tcp(address)) => Ok(address),
            _ => Err(wrong()),
        };
        let Some((listen, more)) = text.split_once(',') else {
            return Ok(ListenAddress::Tcp(tcp(text)?).into());
        };
        let advertised = tcp(more.strip_prefix("advertise=").ok_or_else(wrong)?)?;
        // It stands in lists of initiators, and behind a port that the system chooses nobody finds it.
        let plain = |b: u8| b.is_ascii_alphanumeric() || b".-:[]".contains(&b);
        if !advertised.bytes().all(plain) || advertised.ends_with(":0") {
            return Err(wrong());
        }
        Ok(Self { listen: ListenAddress::Tcp(tcp(listen)?), advertised: Some(advertised) })
    }
}

/// Text that is no listen address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is no address to listen on; give unix:PATH or HOST:PORT, such as 127.0.0.1:10809")]
pub struct AddressError(String);

impl FromStr for ListenAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(wrong()) } else { Ok(Self::Unix(path.into())) };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        port.parse::<u16>().map_err(|_| wrong())?;
        // An IPv6 address needs its brackets, or its last group would pass for the port.
        let bracketed = host.starts_with('[') && host.ends_with(']');
        if host.is_empty() || (host.contains(':') && !bracketed) {
            return Err(wrong());
        }
        Ok(Self::Tcp(text.to_owned()))
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => f.write_str(address),
        }
    }
}

/// `nbd+unix:///EXPORT?socket=PATH` ("NBD URI socket parameter" of the NBD project's `doc/uri.md`), `nbds+unix:` where TLS is
/// required.
pub(crate) fn unix_uri(socket: &Path, export: &str, tls: bool) -> String {
    let path = socket.to_string_lossy();
    let scheme = if tls { "nbds+unix" } else { "nbd+unix" };
    format!("{scheme}:///{}?socket={}", encoded(export, b"@:"), encoded(&path, b"/"))
}

/// `nbd://HOST:PORT/EXPORT`, `nbds:` where TLS is required.
pub(crate) fn tcp_uri(address: SocketAddr, export: &str, tls: bool) -> String {
    let scheme = if tls { "nbds" } else { "nbd" };
    format!("{scheme}://{}/{}", reachable(address), encoded(export, b"@:"))
}

/// `iscsi://HOST:PORT/IQN/LUN`, as libiscsi and QEMU take it.
pub(crate) fn iscsi_uri(portal: &str, target: &str, lun: u16) -> String {
    format!("iscsi://{portal}/{}/{lun}", encoded(target, b":"))
}

/// "Any address" is nothing a client can connect to; on this machine, loopback is.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// RFC 3986: everything but unreserved characters and those in `also` is percent-encoded.
fn encoded(text: &str, also: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || also.contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse_and_print() {
        for text in ["unix:./gw.sock", "127.0.0.1:10809", "[::1]:0", "localhost:10809"] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), text);
        }
        for text in ["", "unix:", "10809", "host:", "host:99999", ":1", "::1:10809"] {
            assert!(text.parse::<ListenAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_portal_may_be_told_of_under_another_address() {
        let portal: Portal = "0.0.0.0:3260,advertise=[2001:db8::1]:860".parse().unwrap();
        assert_eq!(portal.listen, ListenAddress::Tcp("0.0.0.0:3260".to_owned()));
        assert_eq!(portal.advertised.as_deref(), Some("[2001:db8::1]:860"));
        assert_eq!("[::1]:0".parse::<Portal>().unwrap().advertised, None);
        for bad in [
            "unix:/a",
            "a:1,b:2",
            "a:1,advertise=",
            "a:1,advertise=b",
            "a:1,advertise=b:0",
            "a:1,advertise=b;c:1",
        ] {
            assert!(bad.parse::<Portal>().is_err(), "{bad}");
        }
    }

    #[test]
    fn uris_are_percent_encoded() {
        let uri = unix_uri(Path::new("/tmp/a b/gw.sock"), "web01@2026-11-22T10:00:00+02:00", false);
        assert_eq!(uri, "nbd+unix:///web01@2026-11-22T10:00:00%2B02:00?socket=/tmp/a%20b/gw.sock");
        assert_eq!(tcp_uri("0.0.0.0:7".parse().unwrap(), "", false), "nbd://127.0.0.1:7/");
        assert_eq!(tcp_uri("[::]:7".parse().unwrap(), "a/b?", false), "nbd://[::1]:7/a%2Fb%3F");
        assert_eq!(tcp_uri("10.0.0.1:7".parse().unwrap(), "a", true), "nbds://10.0.0.1:7/a");
        assert_eq!(unix_uri(Path::new("/s"), "a", true), "nbds+unix:///a?socket=/s");
    }
}
