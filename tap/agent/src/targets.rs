//! What iSCSI initiators can log in to at the tap: each protected disk is a target with one unit.
//!
//! A target is made at the first login and stays as long as the tap runs, as a disk does; reservations that are to survive
//! that (APTPL) lie beside the volume's other files.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use gateway_front::{ClientId, Targets};
use gateway_iscsi::{Access, Admission, Identity, LogicalUnit, Neighbours, Refusal, Target, TargetConfig};
use tap_block::Name;
use tap_disk::small_file;

use crate::exports::{Disk, Disks, describe};

/// The number of a target's disk.
pub(crate) const LUN: u16 = 1;
/// Not the gateway's names: what two portals serve under one name is one disk to an initiator, with two ways to it.
const PREFIX: &str = "iqn.2026-01.example.chronogate.tap:";

/// The tap's targets.
pub(crate) struct DiskTargets {
    disks: Arc<Disks>,
    /// Where the volumes' folders lie.
    dir: PathBuf,
    /// Who may log in, to all of them.
    admission: Admission,
    open: Mutex<HashMap<Name, Arc<Target>>>,
    /// All of them, for copies from one to another.
    neighbours: Arc<Neighbours>,
}

/// The iSCSI name of a volume.
pub(crate) fn target_name(volume: &Name) -> String {
    format!("{PREFIX}{volume}")
}

impl DiskTargets {
    pub(crate) fn new(disks: Arc<Disks>, dir: PathBuf, admission: Admission) -> Self {
        Self { disks, dir, admission, open: Mutex::default(), neighbours: Arc::default() }
    }

    fn make(&self, name: &str, disk: &Disk) -> io::Result<Arc<Target>> {
        let path = self.kept(disk.volume.name());
        let kept = small_file::read(&path)?.unwrap_or_default();
        let unit = LogicalUnit::new(Identity::of_volume(disk.id), Arc::clone(&disk.volume) as _, &kept);
        let damaged = || {
            let text = format!(
                "{} is damaged: the disk is not served over iSCSI; remove the file to go on without its reservations",
                path.display()
            );
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        let config = TargetConfig {
            name: name.to_owned(),
            alias: describe(&disk.volume),
            admission: self.admission.clone(),
            units: vec![(LUN, unit.ok_or_else(damaged)?)],
        };
        Ok(Target::among(&self.neighbours, config))
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
    fn list(&self, initiator: &str, _: &ClientId) -> Vec<String> {
        if !self.admission.admits(initiator) {
            return Vec::new();
        }
        self.disks.all().iter().map(|disk| target_name(disk.volume.name())).collect()
    }

    fn open(&self, name: &str, _: &str, _: &ClientId) -> Result<Arc<Target>, Refusal> {
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

    /// As at the gateway: a list tells nobody more than who may know of it, and some initiators offer their CHAP alone.
    fn discovery(&self) -> Access {
        match &self.admission.access {
            Access::Chap { initiator, target } => {
                Access::Optional { known: vec![(initiator.clone(), target.clone())] }
            }
            other => other.clone(),
        }
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
