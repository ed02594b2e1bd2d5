//! Binding: sockets that a dead process left behind are replaced, those of a living one are refused.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::address::{ListenAddress, iscsi_uri, reachable, tcp_uri, unix_uri};

/// Clients that may wait to be accepted, as far as the system lets them.
const WAITING: i32 = 1024;

/// A socket that listens.
#[derive(Debug)]
pub(crate) enum Listener {
    Unix(StdUnixListener),
    Tcp(StdTcpListener),
}

/// Where a socket listens, as bound.
#[derive(Debug, Clone)]
pub(crate) enum Bound {
    Unix {
        /// Absolute.
        path: PathBuf,
        /// Device and inode, to know the file again.
        file: (u64, u64),
    },
    Tcp(SocketAddr),
}

/// Why an address cannot be listened on.
#[derive(Debug, Error)]
pub enum ListenError {
    /// A living process has it.
    #[error("{0} is in use: another process is answering there; stop it first, or listen on another address")]
    InUse(ListenAddress),
    /// The path is taken by something that is no socket.
    #[error("{0} exists and is no socket; nothing was touched, move it away or listen on another path")]
    NotASocket(PathBuf),
    /// The system refuses.
    #[error("cannot listen on {address}: {source}; check the path or address and the permissions")]
    Io {
        /// The address asked for.
        address: ListenAddress,
        /// What the system said.
        source: io::Error,
    },
}

impl Listener {
    /// Listens on `address`.
    pub(crate) fn bind(address: &ListenAddress) -> Result<(Self, Bound), ListenError> {
        let failed = |source| ListenError::Io { address: address.clone(), source };
        match address {
            ListenAddress::Unix(path) => {
                let path = std::path::absolute(path).map_err(failed)?;
                let listener = bind_unix(&path, address)?;
                listener.set_nonblocking(true).map_err(failed)?;
                widen(&listener).map_err(failed)?;
                let file = file_id(&path).map_err(failed)?;
                Ok((Self::Unix(listener), Bound::Unix { path, file }))
            }
            // The standard library sets SO_REUSEADDR, so that a restart need not wait for old connections.
            ListenAddress::Tcp(text) => match StdTcpListener::bind(text.as_str()) {
                Ok(listener) => {
                    listener.set_nonblocking(true).map_err(failed)?;
                    widen(&listener).map_err(failed)?;
                    let local = listener.local_addr().map_err(failed)?;
                    Ok((Self::Tcp(listener), Bound::Tcp(local)))
                }
                Err(e) if e.kind() == io::ErrorKind::AddrInUse => Err(ListenError::InUse(address.clone())),
                Err(e) => Err(failed(e)),
            },
        }
    }
}

/// Makes room for more than the 128 that the standard library lets wait: after a restart all clients come back
/// at once, and who finds no room tries again only after a second, two, four. Listening again changes just that.
fn widen(socket: impl AsFd) -> io::Result<()> {
    Ok(rustix::net::listen(socket, WAITING)?)
}

fn bind_unix(path: &Path, address: &ListenAddress) -> Result<StdUnixListener, ListenError> {
    let failed = |source| ListenError::Io { address: address.clone(), source };
    match StdUnixListener::bind(path) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
        bound => return bound.map_err(failed),
    }
    if !fs::symlink_metadata(path).map_err(failed)?.file_type().is_socket() {
        return Err(ListenError::NotASocket(path.to_owned()));
    }
    match StdUnixStream::connect(path) {
        // Nobody listens: a process that died left the file behind.
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)?;
            StdUnixListener::bind(path).map_err(failed)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => StdUnixListener::bind(path).map_err(failed),
        _ => Err(ListenError::InUse(address.clone())),
    }
}

impl Bound {
    /// The URI of an export here; one for TLS, where that is required.
    pub(crate) fn uri(&self, export: &str, tls: bool) -> String {
        match self {
            Self::Unix { path, .. } => unix_uri(path, export, tls),
            Self::Tcp(address) => tcp_uri(*address, export, tls),
        }
    }

    /// The URI of a unit of a target here; iSCSI speaks TCP only.
    pub(crate) fn iscsi_uri(&self, advertised: Option<&str>, target: &str, lun: u16) -> Option<String> {
        match (self, advertised) {
            (Self::Unix { .. }, _) => None,
            (Self::Tcp(_), Some(portal)) => Some(iscsi_uri(portal, target, lun)),
            (Self::Tcp(address), None) => Some(iscsi_uri(&reachable(*address).to_string(), target, lun)),
        }
    }

    /// The address with the port the system chose and the path made absolute.
    pub(crate) fn address(&self) -> ListenAddress {
        match self {
            Self::Unix { path, .. } => ListenAddress::Unix(path.clone()),
            Self::Tcp(address) => ListenAddress::Tcp(address.to_string()),
        }
    }

    /// Removes the socket file, unless somebody else has put another in its place.
    pub(crate) fn remove(&self) {
        if let Self::Unix { path, file } = self
            && file_id(path).is_ok_and(|now| now == *file)
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!(path = %path.display(), %error, "a socket file could not be removed");
        }
    }
}

fn file_id(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::time::Duration;

    use super::*;

    #[test]
    fn more_clients_than_the_standard_librarys_128_can_wait_to_be_accepted() {
        let (_listener, bound) = Listener::bind(&ListenAddress::Tcp("127.0.0.1:0".to_owned())).unwrap();
        let Bound::Tcp(address) = bound else { panic!("{bound:?}") };
        let waiting: Result<Vec<_>, _> =
            (0..400).map(|_| TcpStream::connect_timeout(&address, Duration::from_millis(900))).collect();
        assert_eq!(waiting.unwrap().len(), 400);
    }
}
