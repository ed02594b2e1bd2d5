//! What a front serves: the seam between the protocol and whoever owns the disks.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use tap_block::BlockDevice;
use thiserror::Error;

use crate::access::Access;

/// The disks behind a front. Both methods may block: they run on a thread of their own.
pub trait Exports: Send + Sync {
    /// The exports that a client may see, for `NBD_OPT_LIST`: none that `access` does not allow.
    fn list(&self, access: &Access) -> Vec<ExportEntry>;

    /// Opens the export a client asks for by `name`; the empty name is the default export.
    ///
    /// Called once for each connection; dropping the [`Export`] is the end of it.
    ///
    /// # Errors
    /// [`OpenError`]; its text is shown to the client's user.
    fn open(&self, name: &str, client: &ClientId) -> Result<Export, OpenError>;
}

/// One line of the list of exports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportEntry {
    /// What a client opens it by.
    pub name: String,
    /// For people; may be empty.
    pub description: String,
}

/// An open export.
#[derive(Clone)]
pub struct Export {
    /// Its canonical name.
    pub name: String,
    /// For people; may be empty.
    pub description: String,
    /// The disk.
    pub device: Arc<dyn BlockDevice>,
}

/// Why an export cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OpenError {
    /// No export of that name.
    #[error("{0}")]
    NotFound(String),
    /// It exists, but not for this client or not now: a point that is not selectable, an image at its limit.
    #[error("{0}")]
    Refused(String),
}

/// Who connects, as far as the front can tell: all connections of one copying program are one client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ClientId {
    /// A process on this machine.
    Unix {
        /// Its process, where the system says so.
        pid: Option<i32>,
        /// Its user.
        uid: u32,
    },
    /// A machine.
    Tcp(IpAddr),
    /// Whoever has a certificate with this name, verified.
    Certificate(String),
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { pid: Some(pid), uid } => write!(f, "process {pid} of user {uid}"),
            Self::Unix { pid: None, uid } => write!(f, "a process of user {uid}"),
            Self::Tcp(ip) => write!(f, "{ip}"),
            Self::Certificate(name) => write!(f, "the certificate of {name}"),
        }
    }
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Export").field("name", &self.name).finish_non_exhaustive()
    }
}
