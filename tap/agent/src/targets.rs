//! What iSCSI initiators can log in to at the tap: each protected disk is a target with one unit.
//!
//! A target is made at the first login and stays as long as the tap runs, as a disk does; reservations that are to survive
//! that (APTPL) lie beside the volume's other files.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use gateway_front::Targets;
use gateway_iscsi::{Access, BlockLength, Identity, LogicalUnit, Refusal, Target, TargetConfig};
use tap_block::{Name, VolumeId};
use tap_disk::small_file;

use crate::exports::{Disk, Disks, describe};

/// The number of a target's disk.
pub(crate) const LUN: u16 = 1;
/// Not the gateway's names: what two portals serve under one name is one disk to an initiator, with two ways to it.
const PREFIX: &str = "iqn.2026-01.example.chronogate.tap:";
/// NAA 6 (SPC-4 section 7.8.6.6.5) with a locally administered company number: nobody else has it.
const NAA: u128 = 0x602_c09c << 100;

/// The tap's targets.
pub(crate) struct DiskTargets {
    disks: Arc<Disks>,
    /// Where the volumes' folders lie.
    dir: PathBuf,
    open: Mutex<HashMap<Name, Arc<Target>>>,
}

/// The iSCSI name of a volume.
pub(crate) fn target_name(volume: &Name) -> String {
    format!("{PREFIX}{volume}")
}

impl DiskTargets {
    pub(crate) fn new(disks: Arc<Disks>, dir: PathBuf) -> Self {
        Self { disks, dir, open: Mutex::default() }
    }

    fn make(&self, name: &str, disk: &Disk) -> io::Result<Arc<Target>> {
        let path = self.kept(disk.volume.name());
        let kept = small_file::read(&path)?.unwrap_or_default();
        let unit = LogicalUnit::new(identity(disk.id), Arc::clone(&disk.volume) as _, &kept);
        let damaged = || {
            let text = format!(
                "{} is damaged: the disk is not served over iSCSI; remove the file to go on without its reservations",
                path.display()
            );
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        Ok(Target::new(TargetConfig {
            name: name.to_owned(),
            alias: describe(&disk.volume),
            access: Access::Open,
            initiators: None,
            units: vec![(LUN, unit.ok_or_else(damaged)?)],
        }))
    }

    fn kept(&self, volume: &Name) -> PathBuf {
        self.dir.join(volume.as_str()).join("reservations")
    }

    fn find(&self, name: &str) -> Option<Disk> {
        let volume = name.strip_prefix(PREFIX)?;
        self.disks.all().into_iter().find(|disk| disk.volume.name().as_str() == volume)
    }
}

impl Targets for DiskTargets {
    fn list(&self, _: &str) -> Vec<String> {
        self.disks.all().iter().map(|disk| target_name(disk.volume.name())).collect()
    }

    fn open(&self, name: &str, _: &str) -> Result<Arc<Target>, Refusal> {
        let disk = self.find(name).ok_or(Refusal::Unknown)?;
        // Held while it is made: all sessions have to share one.
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(target) = open.get(disk.volume.name()) {
            return Ok(Arc::clone(target));
        }
        let target = self.make(name, &disk).map_err(|error| {
            tracing::error!(name, %error, "a protected disk cannot be served over iSCSI");
            Refusal::Unavailable
        })?;
        open.insert(disk.volume.name().clone(), Arc::clone(&target));
        Ok(target)
    }

    fn keep(&self, target: &str, _: u16, reservations: &[u8]) -> Result<(), String> {
        let disk = self.find(target).ok_or("the target is gone")?;
        let path = self.kept(disk.volume.name());
        let kept = match reservations.is_empty() {
            true => remove(&path),
            false => small_file::write_atomic(&path, reservations),
        };
        kept.map_err(|error| error.to_string())
    }
}

/// A reservation that comes back after a power cut is one too many, but harms nothing.
fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The same as long as the volume is the same, whatever it is called and wherever its disk lies. The number is the volume's
/// own, not a hash, so that it can be told from it what disk this was.
fn identity(volume: VolumeId) -> Identity {
    let naa = NAA | u128::from(volume.get());
    Identity {
        vendor: "CHRONOGT".to_owned(),
        product: "VOLUME".to_owned(),
        revision: "0001".to_owned(),
        serial: format!("{:024x}", volume.get()),
        naa,
        block: BlockLength::Short,
        emulated: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_the_volumes_own() {
        let one = identity(VolumeId::new(0x1234_5678_9abc_def0));
        assert_eq!(format!("{:032x}", one.naa), "602c09c000000000123456789abcdef0");
        assert_eq!(one.serial, "00000000123456789abcdef0");
        assert_ne!(one.naa, identity(VolumeId::new(7)).naa);
    }
}
