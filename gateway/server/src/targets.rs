//! What iSCSI initiators can log in to: the same names as over NBD, each a target with one disk, or with those of several
//! exports.
//!
//! ```text
//!   export create ─► table (rules of exported images, open targets) ─► file (exports.json), seal (CHAP secrets)
//!   login ─► GatewayTargets::open ─► table: may it? which rules? ─► exports: the disk ─► Target
//! ```
//!
//! Sessions of one name share one target, and with it reservations and attentions. It ends with its last
//! session; reservations that are to survive that (APTPL) lie in a file. What is not exported has no rules, and is for
//! initiators on this machine alone.

mod file;
mod rules;
mod seal;
mod table;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gateway_front::{ClientId, Exports as _, Targets};
use gateway_iscsi::{Access, Admission, Identity, LogicalUnit, Neighbours, Refusal, Target, TargetConfig};
use gateway_journal::ImageRecord;
use tap_block::Name;
use tap_disk::{ensure_dir, small_file};

use crate::exports::{GatewayExports, Shown};
use crate::http::Answer;

pub(crate) use rules::Rules;
pub(crate) use table::TargetTable;
use table::{Kept, Seen};

/// The number of a target's disk, unless another one is asked for.
pub(crate) const LUN: u16 = 1;
/// Names are ours below a domain that is nobody's (RFC 2606).
const PREFIX: &str = "iqn.2026-01.example.chronogate:";
/// Who keeps seeing the same moment under a moving name: all initiators, for they share the target.
const CLIENT: &str = "iSCSI initiators";

/// The gateway's targets.
pub(crate) struct GatewayTargets {
    exports: Arc<GatewayExports>,
    table: Arc<TargetTable>,
    /// All of them, for copies from one to another.
    neighbours: Arc<Neighbours>,
}

/// The iSCSI name of an export.
pub(crate) fn target_name(export: &str) -> String {
    format!("{PREFIX}{export}")
}

/// The export behind an iSCSI name.
pub(crate) fn export_of(target: &str) -> Option<&str> {
    target.strip_prefix(PREFIX).filter(|export| !export.is_empty())
}

impl GatewayTargets {
    pub(crate) fn new(exports: Arc<GatewayExports>, table: Arc<TargetTable>) -> Self {
        Self { exports, table, neighbours: Arc::default() }
    }

    /// The target of an export by these rules, with the disks of those that share it, and what reservations lie under.
    fn make(&self, export: &str, seen: &Seen) -> Answer<Option<(Arc<Target>, Kept)>> {
        let rules = seen.rules.as_ref();
        let Some(admission) = rules.map_or(Some(Admission::default()), Rules::admission) else {
            tracing::error!(export, "a CHAP secret cannot be opened: the target is not served");
            return Ok(None);
        };
        let Some((unit, alias, serial)) = self.unit(export, rules)? else { return Ok(None) };
        let lun = rules.map_or(LUN, |rules| rules.lun);
        let (mut units, mut kept) = (vec![(lun, unit)], vec![(lun, serial)]);
        for more in &seen.more {
            let image = self.exports.store.catalogue().image(more.image).filter(|i| more.is_of(i)).cloned();
            // One that is gone takes none of the others with it.
            let Some(image) = image else { continue };
            let Some((unit, _, serial)) = self.unit(image.name.as_str(), Some(more))? else {
                return Ok(None);
            };
            units.push((more.lun, unit));
            kept.push((more.lun, serial));
        }
        let config = TargetConfig { name: target_name(export), alias, admission, units };
        Ok(Some((Target::among(&self.neighbours, config), kept)))
    }

    /// The disk of an export, its description, and what its reservations lie under.
    fn unit(
        &self,
        export: &str,
        rules: Option<&Rules>,
    ) -> Answer<Option<(Arc<LogicalUnit>, String, String)>> {
        let (opened, shown) = self.exports.open_named(export.to_owned(), CLIENT)?;
        // Under its own serial number: what was reserved on the original is not reserved on each that stands in for it.
        let kept = own_identity(shown).serial;
        let path = self.kept(&kept);
        let unit = match read(&path) {
            Ok(bytes) => LogicalUnit::new(identity(shown, rules), opened.device, &bytes),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "reservations cannot be read");
                return Ok(None);
            }
        };
        if unit.is_none() {
            tracing::error!(
                path = %path.display(),
                "reservations are damaged: the target is not served; remove the file to go on without them"
            );
        }
        Ok(unit.map(|unit| (unit, opened.description, kept)))
    }

    fn kept(&self, serial: &str) -> PathBuf {
        self.table.dir().join(format!("{serial}.reservations"))
    }

    fn image(&self, export: &str) -> Option<ImageRecord> {
        let name: Name = export.parse().ok()?;
        self.exports.store.catalogue().image_named(&name).cloned()
    }

    fn shows(&self, export: &str, initiator: &str, from: &ClientId) -> bool {
        let image = self.image(export);
        match self.table.look(export, image.as_ref(), from) {
            Ok(seen) => seen.rules.is_none_or(|rules| rules.shows_to(initiator)),
            Err(_) => false,
        }
    }
}

impl Targets for GatewayTargets {
    fn list(&self, initiator: &str, from: &ClientId) -> Vec<String> {
        // A point is no part of a name that every initiator takes; who knows one may log in to it.
        let exports = self
            .exports
            .list(&gateway_front::Access::all())
            .into_iter()
            .filter(|export| !export.name.contains('@') && self.shows(&export.name, initiator, from));
        exports.map(|export| target_name(&export.name)).collect()
    }

    fn open(&self, name: &str, _: &str, from: &ClientId) -> Result<Arc<Target>, Refusal> {
        let export = export_of(name).ok_or(Refusal::Unknown)?;
        let image = self.image(export);
        let seen = self.table.look(export, image.as_ref(), from).inspect_err(|refusal| {
            if *refusal == Refusal::Policy {
                tracing::info!(
                    export,
                    %from,
                    "an initiator on another machine is refused: what has no access rules is for this machine alone; \
                     give an image some: chronogate export create IMAGE --iscsi with --acl or --chap"
                );
            }
        })?;
        if let Some(target) = seen.target {
            return Ok(target);
        }
        let made = self.make(export, &seen).map_err(|problem| {
            tracing::info!(name, problem = problem.detail, "an iSCSI target cannot be opened");
            Refusal::Unknown
        })?;
        let (target, kept) = made.ok_or(Refusal::Unavailable)?;
        self.table.share(export, target, kept, &seen)
    }

    /// Open, for a list tells nobody more than who may know of a target; some initiators offer their CHAP alone all the same.
    fn discovery(&self) -> Access {
        Access::Optional { known: self.table.logins() }
    }

    fn keep(&self, target: &str, lun: u16, reservations: &[u8]) -> Result<(), String> {
        let kept = export_of(target).and_then(|export| self.table.kept(export, lun));
        let path = self.kept(&kept.ok_or("the target is gone")?);
        let kept = match reservations.is_empty() {
            true => remove(&path),
            false => {
                ensure_dir(self.table.dir()).and_then(|()| small_file::write_atomic(&path, reservations))
            }
        };
        kept.map_err(|error| error.to_string())
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    }
}

/// A reservation that comes back after a power cut is one too many, but harms nothing.
fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What initiators know an image by that is exported so.
pub(crate) fn identity_of(image: &ImageRecord, rules: &Rules) -> Identity {
    identity(Shown::Image(image.id, image.volume, image.created_at), Some(rules))
}

fn identity(shown: Shown, rules: Option<&Rules>) -> Identity {
    match shown {
        Shown::Image(_, volume, _) if rules.is_some_and(|rules| rules.as_original) => {
            Identity::of_volume(volume)
        }
        _ => own_identity(shown),
    }
}

/// The same for the same content under whatever name: an initiator that meets a disk again knows it.
fn own_identity(shown: Shown) -> Identity {
    let (product, text) = match shown {
        Shown::Image(id, volume, created) => {
            ("IMAGE", format!("image {} of {volume} {}", id.get(), created.nanos()))
        }
        Shown::Moment(volume, point) => ("MOMENT", format!("moment {volume} {}", point.get())),
    };
    let hash = blake3::hash(text.as_bytes());
    Identity::ours(product, hash.as_bytes().first_chunk::<16>().copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use gateway_journal::ImageId;
    use tap_block::{Lsn, VolumeId, WallTime};

    use super::*;

    #[test]
    fn identities_are_stable_and_apart() {
        let moment = |lsn| own_identity(Shown::Moment(VolumeId::new(7), Lsn::new(lsn).unwrap()));
        let made = WallTime::from_nanos(9);
        let image = own_identity(Shown::Image(ImageId::new(7), VolumeId::new(7), made));
        assert_eq!(format!("{:032x}", image.naa), "602c09c8f271edfd7c0a066b87421e93");
        assert_ne!(moment(1).naa, moment(2).naa);
        assert_ne!(moment(7).serial, image.serial);
        assert_eq!(moment(1), moment(1));
        assert_eq!(image.naa >> 100, 0x602_c09c);
    }
}
