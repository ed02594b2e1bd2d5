//! What iSCSI initiators can log in to: the same names as over NBD, each a target with one disk.
//!
//! Sessions of one name share one target, and with it reservations and attentions. It ends with its last
//! session; reservations that are to survive that (APTPL) lie in a file.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use gateway_front::{Exports as _, Targets};
use gateway_iscsi::{Access, BlockLength, Identity, LogicalUnit, Refusal, Target, TargetConfig};
use tap_disk::{ensure_dir, small_file};

use crate::exports::{GatewayExports, Shown};
use crate::http::Answer;

/// The number of a target's disk.
pub(crate) const LUN: u16 = 1;
/// Names are ours below a domain that is nobody's (RFC 2606).
const PREFIX: &str = "iqn.2026-01.example.chronogate:";
/// Who keeps seeing the same moment under a moving name: all initiators, for they share the target.
const CLIENT: &str = "iSCSI initiators";

/// The gateway's targets.
pub(crate) struct GatewayTargets {
    exports: Arc<GatewayExports>,
    /// Where reservations lie.
    dir: PathBuf,
    open: Mutex<HashMap<String, Open>>,
}

struct Open {
    target: Weak<Target>,
    serial: String,
}

/// The iSCSI name of an export.
pub(crate) fn target_name(export: &str) -> String {
    format!("{PREFIX}{export}")
}

impl GatewayTargets {
    pub(crate) fn new(exports: Arc<GatewayExports>, dir: PathBuf) -> Self {
        Self { exports, dir, open: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, name: &str) -> Option<Arc<Target>> {
        self.lock().get(name).and_then(|open| open.target.upgrade())
    }

    fn make(&self, name: &str, export: &str) -> Answer<Option<(Arc<Target>, String)>> {
        let (opened, shown) = self.exports.open_named(export.to_owned(), CLIENT)?;
        let identity = identity(shown);
        let serial = identity.serial.clone();
        let path = self.kept(&serial);
        let unit = match read(&path) {
            Ok(kept) => LogicalUnit::new(identity, opened.device, &kept),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "reservations cannot be read");
                return Ok(None);
            }
        };
        let Some(unit) = unit else {
            tracing::error!(
                path = %path.display(),
                "reservations are damaged: the target is not served; remove the file to go on without them"
            );
            return Ok(None);
        };
        let config = TargetConfig {
            name: name.to_owned(),
            alias: opened.description,
            access: Access::Open,
            initiators: None,
            units: vec![(LUN, unit)],
        };
        Ok(Some((Target::new(config), serial)))
    }

    fn kept(&self, serial: &str) -> PathBuf {
        self.dir.join(format!("{serial}.reservations"))
    }
}

impl Targets for GatewayTargets {
    fn list(&self, _: &str) -> Vec<String> {
        // A point is no part of a name that every initiator takes; who knows one may log in to it.
        let exports = self
            .exports
            .list(&gateway_front::Access::all())
            .into_iter()
            .filter(|export| !export.name.contains('@'));
        exports.map(|export| target_name(&export.name)).collect()
    }

    fn open(&self, name: &str, _: &str) -> Result<Arc<Target>, Refusal> {
        let export = name.strip_prefix(PREFIX).filter(|export| !export.is_empty()).ok_or(Refusal::Unknown)?;
        if let Some(target) = self.known(name) {
            return Ok(target);
        }
        let made = self.make(name, export).map_err(|problem| {
            tracing::info!(name, problem = problem.detail, "an iSCSI target cannot be opened");
            Refusal::Unknown
        })?;
        let (target, serial) = made.ok_or(Refusal::Unavailable)?;
        let mut open = self.lock();
        open.retain(|_, open| open.target.strong_count() > 0);
        // Somebody else may have been faster; all have to share one.
        if let Some(target) = open.get(name).and_then(|open| open.target.upgrade()) {
            return Ok(target);
        }
        open.insert(name.to_owned(), Open { target: Arc::downgrade(&target), serial });
        Ok(target)
    }

    fn keep(&self, target: &str, _: u16, reservations: &[u8]) -> Result<(), String> {
        let serial = self.lock().get(target).map(|open| open.serial.clone());
        let path = self.kept(&serial.ok_or("the target is gone")?);
        let kept = match reservations.is_empty() {
            true => remove(&path),
            false => ensure_dir(&self.dir).and_then(|()| small_file::write_atomic(&path, reservations)),
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

/// The same for the same content under whatever name: an initiator that meets a disk again knows it.
fn identity(shown: Shown) -> Identity {
    let text = match shown {
        Shown::Image(id, volume, created) => format!("image {} of {volume} {}", id.get(), created.nanos()),
        Shown::Moment(volume, point) => format!("moment {volume} {}", point.get()),
    };
    let mut number = [0; 16];
    number.copy_from_slice(blake3::hash(text.as_bytes()).as_bytes().first_chunk::<16>().unwrap_or(&[0; 16]));
    // NAA 6 (SPC-4 section 7.8.6.6.5) with a locally administered company number: nobody else has it.
    let naa = (u128::from_be_bytes(number) >> 28) | (0x602_c09c << 100);
    Identity {
        vendor: "CHRONOGT".to_owned(),
        product: match shown {
            Shown::Image(..) => "IMAGE".to_owned(),
            Shown::Moment(..) => "MOMENT".to_owned(),
        },
        revision: "0001".to_owned(),
        serial: format!("{:024x}", naa & ((1 << 96) - 1)),
        naa,
        block: BlockLength::Short,
        emulated: true,
    }
}

#[cfg(test)]
mod tests {
    use gateway_journal::ImageId;
    use tap_block::{Lsn, VolumeId, WallTime};

    use super::*;

    #[test]
    fn identities_are_stable_and_apart() {
        let moment = |lsn| identity(Shown::Moment(VolumeId::new(7), Lsn::new(lsn).unwrap()));
        let made = WallTime::from_nanos(9);
        let image = identity(Shown::Image(ImageId::new(7), VolumeId::new(7), made));
        assert_eq!(format!("{:032x}", image.naa), "602c09c8f271edfd7c0a066b87421e93");
        assert_ne!(moment(1).naa, moment(2).naa);
        assert_ne!(moment(7).serial, image.serial);
        assert_eq!(moment(1), moment(1));
        assert_eq!(image.naa >> 100, 0x602_c09c);
    }
}
