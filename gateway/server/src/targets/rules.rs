//! The rules of one export: its number, its identity, and who may log in.

use std::fmt;

use cx_api::{ExportAccess, ExportCreate};
use gateway_front::ClientId;
use gateway_iscsi::{Access, Admission, Credentials};
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
    /// The export whose target its disk belongs to, and whose rules of who may log in are its own; `None`: it has a target.
    pub(crate) beside: Option<ImageKeyOfStore>,
}

/// An image, whatever store it is of: its number is of one store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ImageKeyOfStore {
    pub(crate) image: ImageId,
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
            beside: None,
        };
        rules.chap = rules.sealed(wanted.chap, Self::CHAP, key)?;
        rules.mutual = rules.sealed(wanted.mutual_chap, Self::MUTUAL, key)?;
        Ok(rules)
    }

    /// The same with other rules of who may log in.
    ///
    /// # Errors
    /// When a secret cannot be sealed.
    pub(super) fn changed(&self, wanted: ExportAccess, key: Option<&Key>) -> std::io::Result<Self> {
        let mut rules = self.clone();
        let ExportAccess { acl, chap, mutual_chap, no_chap, no_mutual_chap } = wanted;
        rules.acl = acl.unwrap_or(rules.acl);
        if no_chap {
            rules.chap = None;
        }
        if no_chap || no_mutual_chap {
            rules.mutual = None;
        }
        rules.chap = self.sealed(chap, Self::CHAP, key)?.or(rules.chap);
        rules.mutual = self.sealed(mutual_chap, Self::MUTUAL, key)?.or(rules.mutual);
        Ok(rules)
    }

    fn sealed(
        &self,
        login: Option<cx_api::ChapLogin>,
        way: &str,
        key: Option<&Key>,
    ) -> std::io::Result<Option<Login>> {
        let Some(login) = login else { return Ok(None) };
        let key = key.ok_or_else(|| std::io::Error::other("there is no key to seal a secret with"))?;
        let (user, secret) = (login.user, login.secret.into_bytes());
        let sealed = key.seal(&secret, &self.place(way, &user), random)?;
        Ok(Some(Login { user, secret: Some(secret), sealed }))
    }

    pub(super) const fn key(&self) -> ImageKeyOfStore {
        ImageKeyOfStore { image: self.image, created: self.image_created }
    }

    /// Would either of two parties that know one secret pass for the other?
    pub(super) fn is_one_secret(&self) -> bool {
        let secret = |login: &Option<Login>| login.as_ref().and_then(|login| login.secret.clone());
        secret(&self.chap).is_some_and(|one| secret(&self.mutual) == Some(one))
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
    pub(super) fn admission(&self) -> Option<Admission> {
        let access = match &self.chap {
            None => Access::Open,
            Some(_) => self.login().map(|(initiator, target)| Access::Chap { initiator, target })?,
        };
        Some(Admission { access, initiators: Some(self.acl.clone()).filter(|acl| !acl.is_empty()) })
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
