//! Exports: images as disks of an iSCSI target, with rules of who may log in.

use std::fmt;

use serde::{Deserialize, Serialize};
use tap_block::{Name, WallTime};

use crate::json;

/// The highest LUN: as far as peripheral addressing goes (SAM-5 section 4.7.7.4), which every initiator knows.
pub const MAX_LUN: u16 = 255;
/// The most initiators that one export lets in by name.
pub const MAX_INITIATORS: usize = 64;
/// The longest iSCSI name, in bytes (RFC 7143 section 4.2.7.2).
pub const MAX_ISCSI_NAME: usize = 223;
/// The longest CHAP name and the longest CHAP secret, in bytes.
pub const MAX_CHAP: usize = 255;
/// The shortest CHAP secret, in bytes: 96 bits (RFC 7143 section 9.2.1).
pub const MIN_CHAP_SECRET: usize = 12;

/// An export. CHAP secrets are in none of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportView {
    /// Of which image: its id.
    pub image: u64,
    /// Its name.
    #[serde(with = "json::text")]
    pub name: Name,
    /// Of which volume that is.
    #[serde(with = "json::text")]
    pub volume: Name,
    /// What is spoken.
    pub protocol: ExportProtocol,
    /// The target's iSCSI name.
    pub target: String,
    /// The number of its disk, the same for as long as the export is there.
    pub lun: u16,
    /// May it be written to?
    pub writable: bool,
    /// The initiators that may log in, by their iSCSI names; empty: all.
    pub acl: Vec<String>,
    /// The CHAP name that initiators log in with; null without CHAP.
    pub chap_user: Option<String>,
    /// The CHAP name by which the target proves to initiators who it is; null when it does not.
    pub mutual_chap_user: Option<String>,
    /// Does the disk have the original's identity, not one of its own?
    pub as_original: bool,
    /// Its NAA identifier, in hexadecimal.
    pub naa: String,
    /// Its serial number.
    pub serial: String,
    /// Why nobody can log in, and what to do; null when all is well.
    pub problem: Option<String>,
    /// How many sessions there are.
    pub sessions: u64,
    /// When it was exported.
    #[serde(with = "json::text")]
    pub created: WallTime,
    /// Where to open it: the first of `uris`, empty when there is none.
    pub uri: String,
    /// The same at every portal.
    pub uris: Vec<String>,
}

/// What is spoken to an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExportProtocol {
    /// iSCSI.
    Iscsi,
}

/// Asks to export an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportCreate {
    /// Which image: its id (digits) or name.
    pub image: String,
    /// What is spoken.
    pub protocol: ExportProtocol,
    /// The number of its disk; the gateway chooses when null.
    #[serde(default)]
    pub lun: Option<u16>,
    /// The initiators that may log in, by their iSCSI names; empty: all.
    #[serde(default)]
    pub acl: Vec<String>,
    /// What an initiator has to know.
    #[serde(default)]
    pub chap: Option<ChapLogin>,
    /// What the target answers an initiator that wants to know who it is; only together with `chap`.
    #[serde(default)]
    pub mutual_chap: Option<ChapLogin>,
    /// Give it the original disk's identity, not one of its own.
    #[serde(default)]
    pub as_original: bool,
    /// Make it another disk of the target of this export (its image's id or name), by whose access rules it is then reached; a
    /// target of its own when null.
    #[serde(default)]
    pub beside: Option<String>,
}

/// Asks for other access rules of a target. What is null or false stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExportAccess {
    /// The initiators that may log in, by their iSCSI names; empty: all.
    pub acl: Option<Vec<String>>,
    /// What an initiator has to know.
    pub chap: Option<ChapLogin>,
    /// What the target answers an initiator that wants to know who it is.
    pub mutual_chap: Option<ChapLogin>,
    /// Initiators need to know nothing any more, and the target proves nothing.
    pub no_chap: bool,
    /// The target does not prove any more who it is.
    pub no_mutual_chap: bool,
}

/// A CHAP name with its secret. The secret is never printed, and no answer carries it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChapLogin {
    /// The name.
    pub user: String,
    /// The secret: 12 to 255 visible ASCII characters.
    pub secret: String,
}

impl fmt::Debug for ChapLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChapLogin").field("user", &self.user).finish_non_exhaustive()
    }
}

/// What to type at each kind of client to open an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectView {
    /// The export's name.
    #[serde(with = "json::text")]
    pub export: Name,
    /// The portal that the lines name, `HOST:PORT`.
    pub portal: String,
    /// The clients.
    pub clients: Vec<ClientLinesView>,
}

/// What to type at one kind of client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientLinesView {
    /// The client.
    pub client: String,
    /// Were these lines tried by those who made this program, or only written after the vendor's documentation?
    pub tried: bool,
    /// Ready lines. SECRET and MUTUAL_SECRET stand for the CHAP secrets, which the gateway does not tell.
    pub lines: Vec<String>,
    /// What else to know, a sentence each.
    pub notes: Vec<String>,
}
