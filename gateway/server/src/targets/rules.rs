//! The rules of one export: its number, its identity, and who may log in.

use std::fmt;

use cx_api::ExportCreate;
use gateway_front::ClientId;
use gateway_iscsi::{Access, Credentials};
use gateway_journal::{ImageId, ImageRecord};
use tap_block::WallTime;

use super::LUN;
use super::seal::{Key, random};

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) image: ImageId,
    /// The image's number is of one store.
    pub(crate) image_created: WallTime,
    pub(crate) lun: u16,
    /// The initiators that may log in; empty: all.
    pub(crate) acl: Vec<String>,
    pub(crate) chap: Option<Login>,
    pub(crate) mutual: Option<Login>,
    pub(crate) as_original: bool,
    pub(crate) created: WallTime,
}

/// A CHAP name with its secret.
#[derive(Clone)]
pub(crate) struct Login {
    pub(crate) user: String,
    /// `None` when it cannot be opened.
    pub(crate) secret: Option<Vec<u8>>,
    pub(crate) sealed: String,
}

impl Login {
    fn credentials(&self) -> Option<Credentials> {
        let secret = self.secret.clone()?;
        Some(Credentials { name: self.user.clone(), secret })
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Rules {
    /// Which of the two logins a secret is of.
    pub(super) const CHAP: &str = "chap";
    pub(super) const MUTUAL: &str = "mutual";

    /// The rules that are asked for, with their secrets sealed.
    ///
    /// # Errors
    /// When a secret cannot be sealed.
    pub(super) fn new(
        image: &ImageRecord,
        wanted: ExportCreate,
        now: WallTime,
        key: Option<&Key>,
    ) -> std::io::Result<Self> {
        let mut rules = Self {
            image: image.id,
            image_created: image.created_at,
            lun: wanted.lun.unwrap_or(LUN),
            acl: wanted.acl,
            chap: None,
            mutual: None,
            as_original: wanted.as_original,
            created: now,
        };
        let seal = |login: Option<cx_api::ChapLogin>, way: &str| {
            let Some(login) = login else { return Ok(None) };
            let key = key.ok_or_else(|| std::io::Error::other("there is no key to seal a secret with"))?;
            let (user, secret) = (login.user, login.secret.into_bytes());
            let sealed = key.seal(&secret, &rules.place(way, &user), random)?;
            Ok::<_, std::io::Error>(Some(Login { user, secret: Some(secret), sealed }))
        };
        let (chap, mutual) = (seal(wanted.chap, Self::CHAP)?, seal(wanted.mutual_chap, Self::MUTUAL)?);
        (rules.chap, rules.mutual) = (chap, mutual);
        Ok(rules)
    }

    /// Are they those of this image?
    pub(crate) fn is_of(&self, image: &ImageRecord) -> bool {
        self.image == image.id && self.image_created == image.created_at
    }

    /// Where a secret belongs: nowhere else does it open.
    pub(super) fn place(&self, way: &str, user: &str) -> String {
        let (image, made) = (self.image.get(), self.image_created.nanos());
        format!("chronogate iscsi {way} secret of {user} for image {image} of {made}")
    }

    /// Has anybody to be on a list, or to know a secret?
    pub(crate) fn is_guarded(&self) -> bool {
        !self.acl.is_empty() || self.chap.is_some()
    }

    /// Is there a secret that cannot be opened?
    pub(crate) fn is_locked(&self) -> bool {
        [&self.chap, &self.mutual].into_iter().flatten().any(|login| login.secret.is_none())
    }

    /// May this initiator know of the export?
    pub(super) fn shows_to(&self, initiator: &str) -> bool {
        self.acl.is_empty() || self.acl.iter().any(|name| name.eq_ignore_ascii_case(initiator))
    }

    /// Who may log in; `None` when a secret cannot be opened.
    pub(super) fn access(&self) -> Option<Access> {
        if self.chap.is_none() {
            return Some(Access::Open);
        }
        self.login().map(|(initiator, target)| Access::Chap { initiator, target })
    }

    /// What an initiator has to know, and what the target answers it with.
    pub(super) fn login(&self) -> Option<(Credentials, Option<Credentials>)> {
        let target = match &self.mutual {
            Some(mutual) => Some(mutual.credentials()?),
            None => None,
        };
        Some((self.chap.as_ref()?.credentials()?, target))
    }
}

/// Does the client sit on this machine?
pub(super) fn is_local(client: &ClientId) -> bool {
    match client {
        ClientId::Tcp(ip) => ip.to_canonical().is_loopback(),
        ClientId::Unix { .. } => true,
        ClientId::Certificate(_) => false,
    }
}
