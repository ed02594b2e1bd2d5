//! Sessions: NBD clients and iSCSI initiators that are connected.

use serde::{Deserialize, Serialize};
use tap_block::WallTime;

use crate::json;

/// A client's connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionView {
    /// Unique since the program was started.
    pub id: u64,
    /// What it is connected to: `gateway` (history and images over NBD), `iscsi` (the same over iSCSI), `tap` or `tap-iscsi`
    /// (protected disks).
    pub at: String,
    /// Where it comes from: address and port, or process and user.
    pub client: String,
    /// Whom its certificate names; null when it has shown none.
    pub certificate: Option<String>,
    /// The version of TLS, such as `1.3`; null without TLS.
    pub tls: Option<String>,
    /// The export it has opened; null during its handshake.
    pub export: Option<String>,
    /// The iSCSI name of the target that it has opened; null over NBD.
    #[serde(default)]
    pub target: Option<String>,
    /// The iSCSI name of the initiator, once it has logged in; null over NBD.
    #[serde(default)]
    pub initiator: Option<String>,
    /// When it connected.
    #[serde(with = "json::text")]
    pub since: WallTime,
    /// Bytes that it has read.
    pub bytes_read: u64,
    /// Bytes that it has written.
    pub bytes_written: u64,
    /// Requests that it has made.
    pub requests: u64,
    /// Requests that are under way.
    pub in_flight: u64,
}
